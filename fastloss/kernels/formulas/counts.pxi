"""Likelihoods of counts and of positive quantities."""

cimport cython
from libc.math cimport INFINITY, NAN, frexp
from libc.math cimport log as log_once

from fastloss._math cimport *


cdef inline void add_stirling(real_t y, real_t rate, real_t log_rate, real_t* l, real_t* d) noexcept nogil:
    """Adds an approximation of log y! to l = rate - y log_rate, and its derivative to d.

    The approximation is (y + 1/2) log y - y + log(2 pi)/2 for y > 1, else 0.
    """
    cdef real_t one = 1, zero = 0, c = one if y <= one else y, log_c = log_from_one(c), inf = <real_t>INFINITY
    cdef real_t constant = zero if y <= one else fma(c + <real_t>.5, log_c, <real_t>.9189385332046727 - c)
    # far beyond the range both go together: no inf - inf
    cdef real_t both = fma(c, (log_c - one) - (zero if rate == inf else log_rate), rate)
    l[0] = l[0] + constant if constant < inf else both
    d[0] += zero if y <= one else log_c + <real_t>.5 / c


cdef inline void poisson(real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
    """l = e^x - y x, x the logarithm of the rate."""
    # Where e^x is infinite, so is the loss: no inf - inf. Compares x, which is known before the rate.
    cdef real_t rate = exp(x), zero = 0, one = 1, most, log_rate
    if real_t is float:
        most = <float>88.722831726
    else:
        most = 709.782712893384
    log_rate = one if x > most else x
    # no count, no logarithm: 0 * -inf
    l[0] = rate if y == 0 else fma(-log_rate, y, rate)
    # an infinite count has no loss where x is 0: times 0, it is NaN
    g[0] = fma(y, zero, rate - y)
    h[0] = fma(y, zero, rate)
    d[0] = -x


cdef inline void poisson_rate(real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                              real_t* e) noexcept nogil:
    """l = x - y log(x + eps), x the rate; q = eps."""
    cdef real_t rate = x + q, log_rate = log_sum(x, q), zero = 0, one = 1, nan = NAN, most = 1e3, least, large, up, time
    # a factor keeps the reciprocal of a tiny rate in the range
    if real_t is float:
        least, large = <float>1e-30, <float>1.8446744073709552e+19
    else:
        least, large = 1e-290, 1.8446744073709552e+19
    up = large if rate < least else one
    # without a logarithm, no reciprocal
    rate = nan if rate < 0 else rate
    time = one / (rate * up)
    # no count, no logarithm; an infinite rate is larger than its logarithm
    l[0] = x if y == 0 else fma(-y, one if log_rate > most else log_rate, x)
    e[0] = zero if (y == 0) & (x == x) else -y * time * up
    # 1 - y/(x + eps), without cancellation near the best rate. An infinite count has no loss for a rate of 1: times 0,
    # it is NaN.
    g[0] = fma(y, zero, one + e[0] if e[0] > -<real_t>.5 else ((x - y) + q) * time * up)
    h[0] = zero if (y == 0) & (x == x) else fma(y, zero, y * time * up * time * up)
    d[0] = -log_rate


@cython.final
cdef class Poisson(Kernel):
    """l = e^x - y x."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        poisson(x, y, l, g, h, d)


@cython.final
cdef class PoissonFull(Kernel):
    """l = e^x - y x + log y!."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        poisson(x, y, l, g, h, d)
        add_stirling(y, exp(x), x, l, d)


@cython.final
cdef class PoissonRate(Kernel):
    """l = x - y log(x + eps)."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        poisson_rate(x, y, q, l, g, h, d, e)


@cython.final
cdef class PoissonRateFull(Kernel):
    """l = x - y log(x + eps) + log y!."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        poisson_rate(x, y, q, l, g, h, d, e)
        add_stirling(y, x, -d[0], l, d)


@cython.final
cdef class Gamma(Kernel):
    """l = x + t, t = y e^-x."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t one = 1, inf = <real_t>INFINITY
        # e^-x may leave the range where its product with y does not: two factors
        cdef bint wide = absolute(x) > <real_t>80
        cdef real_t e = exp(<real_t>-.5 * x if wide else -x), rest = e if wide else one
        cdef real_t t = zero_like(x) if y == 0 else y * e * rest
        # far below the quantity, no -inf + inf
        l[0] = t if t == inf else x + t
        g[0] = one - t
        h[0] = t
        d[0] = e * rest

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return 1


@cython.final
cdef class InverseGaussian(Kernel):
    """l = e (t/2 - 1), t = y e, e = e^-x."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t e = exp(-x), t = zero_like(x) if y == 0 else y * e, half = .5, one = 1
        l[0] = e * fma(half, t, -one)
        g[0] = e * (one - t)
        h[0] = e * fma(<real_t>2, t, -one)
        d[0] = half * e * e

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return exp(-x)


cdef inline real_t exp_product(double rate, real_t x, real_t share) noexcept nogil:
    """e^(rate x share). The exponential would magnify the rounding of product and rate to |rate x|/2 ULP."""
    cdef real_t k = <real_t>rate, t = k * x, rest = fma(<real_t>(rate - k), x, fma(k, x, -t)), zero = 0
    # an infinite product has no rest: no inf - inf
    return exp_sum(share * t, share * rest if absolute(t) < <real_t>INFINITY else zero)


cdef class Power(Kernel):
    """A power p of the mean, which the variance is."""
    cdef double power, inverse_first, inverse_second, most_a, most_b    # 1/(p - 1) and 1/(2 - p), or 0

    def __cinit__(self, double power):
        self.power = power
        self.inverse_first = 1 / (power - 1) if power != 1 else 0
        self.inverse_second = 1 / (2 - power) if power != 2 else 0
        # infinity for the one of a and b that grows faster; NaN, which equals nothing, for the other
        self.most_a = INFINITY if power > 1 else NAN
        self.most_b = NAN if power > 1 else INFINITY


cdef inline real_t powers(Power of, real_t x, real_t y, real_t* a, real_t* b) noexcept nogil:
    """a = y s and b = e^((2 - p) x); returns s = e^((1 - p) x)."""
    cdef real_t zero = 0, one = 1, half = .5
    # a factor may leave the range where its product with y does not: two factors
    cdef bint wide = absolute(<real_t>(1 - of.power) * x) > <real_t>80
    cdef real_t e = exp_product(1 - of.power, x, half if wide else one), rest = e if wide else one
    a[0] = zero_like(x) if y == 0 else y * e * rest
    b[0] = exp_product(2 - of.power, x, one)
    # If both are infinite, the one that grows faster decides: no inf - inf. A NaN label stays NaN.
    a[0] = y * zero if b[0] == <real_t>of.most_b else a[0]
    b[0] = zero if absolute(a[0]) == <real_t>of.most_a else b[0]
    return e * rest


@cython.final
cdef class Tweedie(Power):
    """l = b/(2 - p) + a/(p - 1), b = e^((2 - p) x), a = y e^((1 - p) x), for a power p but 1 and 2."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t a, b, first = <real_t>self.inverse_first, s = powers(self, x, y, &a, &b)
        l[0] = fma(<real_t>self.inverse_second, b, first * a)
        g[0] = b - a
        h[0] = fma(<real_t>(2 - self.power), b, <real_t>(self.power - 1) * a)
        d[0] = first * s

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return exp_product(2 - self.power, x, <real_t>1)


cdef inline real_t exp_rest(real_t z) noexcept nogil:
    """e^z - 1 - z for |z| up to 1/2: its series, without cancellation."""
    cdef real_t p
    if real_t is float:
        p = fma(z, <float>2.48015873e-05, <float>1.98412698e-04)
    else:
        p = fma(z, 4.779477332387385e-14, 7.647163731819816e-13)
        p = fma(z, p, 1.1470745597729725e-11)
        p = fma(z, p, 1.6059043836821613e-10)
        p = fma(z, p, 2.08767569878681e-09)
        p = fma(z, p, 2.505210838544172e-08)
        p = fma(z, p, 2.7557319223985893e-07)
        p = fma(z, p, 2.7557319223985893e-06)
        p = fma(z, p, 2.48015873015873e-05)
        p = fma(z, p, 1.984126984126984e-04)
    p = fma(z, p, <real_t>1.388888888888889e-03)
    p = fma(z, p, <real_t>8.333333333333333e-03)
    p = fma(z, p, <real_t>.041666666666666664)
    p = fma(z, p, <real_t>.16666666666666666)
    return z * z * fma(z, p, <real_t>.5)


@cython.final
cdef class Deviance(Power):
    """l = b/(2 - p) + a/(p - 1) + y^(2 - p)/((1 - p) (2 - p)), half the deviance, for a power p from 1 up.

    With t = x - log y and f(z) = e^z - 1 - z, l is y^(2 - p) (f((2 - p) t)/(2 - p) - f((1 - p) t)/(1 - p)), of which
    near the label nothing cancels. Elsewhere the term of y alone is y^(2 - p) (offset + slope t), where p = 1 and p = 2
    have -y x and x in it, too. A label of 0 has the limit: no such term, or from p = 2 on infinity.
    """
    cdef double offset, slope, label_offset, label_slope, depth, at_zero

    def __cinit__(self, double power):
        self.offset = self.inverse_second / (1 - power) if power != 1 and power != 2 else -1
        self.slope = -1 if power == 1 else 1 if power == 2 else 0
        # of the derivative in y, over y^(1 - p)
        self.label_offset, self.label_slope = -self.inverse_first, -1 if power == 1 else 0
        # of t, where both f are series
        self.depth = .5 / max(power - 1, abs(2 - power))
        self.at_zero = INFINITY if power >= 2 else 0

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t zero = 0, one = 1, inf = <real_t>INFINITY, most = 1e30, rest, a, b, plain, near, more, none
        cdef real_t first = <real_t>self.inverse_first, second = <real_t>self.inverse_second
        cdef real_t offset = <real_t>self.offset, slope = <real_t>self.slope, at_zero = <real_t>self.at_zero
        cdef real_t label_offset = <real_t>self.label_offset, label_slope = <real_t>self.label_slope
        cdef real_t k = <real_t>(2 - self.power), k_low = <real_t>((2 - self.power) - k), depth = <real_t>self.depth
        # of a power of 0, no 0 * inf
        cdef real_t near_x = most if x > most else (-most if x < -most else x), s = powers(self, near_x, y, &a, &b)
        cdef bint positive = not y <= 0
        cdef real_t log_y = log_parts(y if positive else one, zero, &rest), u = k * log_y
        cdef real_t t = (x - log_y) - rest if positive else inf
        # y^(2 - p)
        cdef real_t c = exp_sum(u, fma(k, log_y, -u) + fma(k, rest, k_low * log_y))
        plain = fma(second, b, first * a)
        near = c * fma(second, exp_rest(k * t), first * exp_rest((k - one) * t))
        # a limit's term alone has t, which may be infinite: 0 * inf
        more = c * ((zero if slope == 0 else slope * t) + offset) if positive else at_zero
        l[0] = near if absolute(t) < depth else (plain if plain == inf else plain + more)
        none = zero_like(l[0])
        g[0] = (b - a) + none
        h[0] = fma(k, b, (one - k) * a) + none
        more = (zero if label_slope == 0 else label_slope * t) + label_offset
        d[0] = first * s + (c / y * more if positive else -inf)


cdef inline real_t stirling(real_t w, real_t* slope) noexcept nogil:
    """log Gamma(w) - (w - 1/2) log w + w - log(2 pi)/2 for w from 6 up, and digamma(w) - log w.

    Stirling's series are w^-1 and w^-2 times polynomials in w^-2, which here interpolate at Chebyshev nodes.
    """
    cdef real_t one = 1, half = .5, r = one / w, s = r * r, p, q
    if real_t is float:
        p = fma(s, <float>-2.756120947691013e-03, <float>.08333325832792247)
        q = fma(s, <float>-8.225802791796251e-03, <float>.08333296129270003)
    else:
        p = fma(s, 4.298394281325464e-03, -1.8449995052567591e-03)
        p = fma(s, p, 8.404447851602169e-04)
        p = fma(s, p, -5.952257418022643e-04)
        p = fma(s, p, 7.936507373369848e-04)
        p = fma(s, p, -2.7777777776807643e-03)
        p = fma(s, p, .0833333333333333)
        q = fma(s, .0527835788020277, -.02005781319935496)
        q = fma(s, q, 7.557240349829397e-03)
        q = fma(s, q, -4.16649213380119e-03)
        q = fma(s, q, 3.968253174196778e-03)
        q = fma(s, q, -8.33333333196673e-03)
        q = fma(s, q, .08333333333333294)
    slope[0] = -r * fma(r, q, half)
    return r * p


cdef inline real_t rising(real_t w, real_t* slope) noexcept nogil:
    """w (w + 1) ... (w + 5), and the derivative of its logarithm; g = w (w + 5) is a part of each pair's product."""
    cdef real_t g = w * (w + <real_t>5), p = g * fma(g, g + <real_t>10, <real_t>24)
    slope[0] = fma(w, <real_t>2, <real_t>5) * (fma(g, fma(g, <real_t>3, <real_t>20), <real_t>24) / p)
    return p


cdef inline real_t bounded(real_t n) noexcept nogil:
    """n, of which the largest keep sums and products in the range: an infinite count is no inf - inf."""
    cdef real_t most
    if real_t is float:
        most = <float>1e30
    else:
        most = 1e300
    return most if n > most else n


cdef inline real_t log_ways(real_t z, real_t n, real_t* by_z, real_t* by_n) noexcept nogil:
    """log(Gamma(z + n)/(Gamma(z) n!)) for z > 0 and n >= 0, which are far from the ends of the range; its derivatives.

    Gamma(z) and n! = Gamma(n + 1) may change places: u = k + 1 is the nearer to 1 of z and n + 1, v is the other. With
    a = v, b = v + k and c = u, each 6 larger where v or u is below 7, the logarithm is k log(a/c) + (b - 1/2) log(b/a)
    and terms that grow as log c alone. So nothing cancels, as logarithms of Gamma would, and all is exactly 0 for n = 0
    and for z = 1.
    """
    cdef real_t one = 1, zero = 0, half = .5, six = 6, seven = 7, bias, k, u, v, a, b, c, s_a, s_b, s_c, of_a, of_b
    cdef real_t of_c, p_u, p_v, p_t, of_u, of_v, of_t, shift, ratio, power, high, low, rest, by_u, by_v, unused
    cdef bint swapped = n > absolute(z - one), few_u, few_v
    if real_t is float:
        bias = 127
    else:
        bias = 1023
    k = z - one if swapped else n
    u = z if swapped else n + one
    v = n + one if swapped else z
    few_u, few_v = u < seven, v < seven
    shift = six if few_v else zero
    a, b, c = v + shift, (z + n) + shift, u + (six if few_u else zero)
    p_u, p_v, p_t = rising(u, &of_u), rising(v, &of_v), rising(z + n, &of_t)
    s_a, s_b, s_c = stirling(a, &of_a), stirling(b, &of_b), stirling(c, &of_c)
    high, ratio = log_normal(a / c, bias, zero, &unused), k / a
    low = log_reduced((ratio - one) * half if ratio > half else ratio, one if ratio > half else zero, zero, &unused)
    # (7/c)^6 p_u/6!, or its limit for a number that is not shifted
    power = c * c * c
    rest = p_u * <real_t>117649 / (power * power * <real_t>720) if few_u else <real_t>.4050315483786396
    rest = log_normal(rest * (p_v / p_t if few_v else one) * sqrt(seven / c), bias, zero, &unused)
    rest += (s_b - s_a) - (s_c - stirling(seven, &unused))
    of_b -= of_t if few_v else zero
    by_v = low + (of_b - (of_a - (of_v if few_v else zero)))
    by_u = (low + high) + (of_b - (of_c - (of_u if few_u else zero)))
    by_z[0] = by_u if swapped else by_v
    by_n[0] = by_v if swapped else by_u
    return fma(k, high, fma(b - half, low, rest))


cdef class Dispersed(Kernel):
    """A count whose variance is above its mean by a parameter theta = m 2^n, m in [1/2, 1)."""
    cdef double theta, log_theta, m, n

    def __cinit__(self, double theta):
        cdef int n
        self.theta, self.log_theta = theta, log_once(theta)
        self.m = frexp(theta, &n)
        self.n = n


cdef inline void negative_binomial(Dispersed of, real_t x, real_t y, real_t* l, real_t* g, real_t* h,
                                   real_t* d) noexcept nogil:
    """l = theta log(1 + e^t) + y log(1 + e^-t), t = x - log theta."""
    cdef real_t high = <real_t>of.log_theta, low = <real_t>(of.log_theta - high), zero = 0, one = 1
    cdef real_t t = (x - high) - low, theta = <real_t>of.theta, m = <real_t>of.m, n = <real_t>of.n
    cdef bint above = signed_as(one, t) > 0
    cdef real_t k = -n if above else n, depth, u, tail
    if real_t is float:
        depth = 104
    else:
        depth = 746
    # e^-|t| is theta e^-x or e^x/theta, free of the rounding of t
    u = exp_from(-x if above else x, fma(k, <real_t>.6931471805599453, -depth), k) * (m if above else one / m)
    tail = logistic_from(u, t, theta if above else -y, y + theta, l, g, h)
    d[0] = tail + (-t if t < 0 else zero)


cdef inline real_t expected_bend(Dispersed of, real_t x) noexcept nogil:
    """theta m/(theta + m) for the mean m = e^x."""
    cdef real_t t = x - <real_t>of.log_theta, u = exp_nonpositive(minus_absolute(t)), one = 1
    return <real_t>of.theta * ((one if t > 0 else u) / (one + u))


@cython.final
cdef class NegativeBinomial(Dispersed):
    """l = theta log(1 + e^t) + y log(1 + e^-t), t = x - log theta."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        negative_binomial(self, x, y, l, g, h, d)

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return expected_bend(self, x)


@cython.final
cdef class NegativeBinomialFull(Dispersed):
    """l = theta log(1 + e^t) + y log(1 + e^-t) - log(Gamma(theta + y)/(Gamma(theta) y!)), t = x - log theta."""
    cdef double within[2]   # theta far from the ends of the range, for float32 and float64

    def __cinit__(self, double theta):
        self.within[0], self.within[1] = min(max(theta, 1e-30), 1e30), min(max(theta, 1e-300), 1e300)

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t by_theta, by_y, within = <real_t>self.within[real_t is double]
        # a count below 0 has no value
        negative_binomial(self, x, nan_unless(y >= 0, y), l, g, h, d)
        l[0] -= log_ways(within, bounded(y), &by_theta, &by_y)
        d[0] -= by_y

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return expected_bend(self, x)


cdef inline void binomial(real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                          real_t* e) noexcept nogil:
    """l = y log(1 + e^-x) + (q - y) log(1 + e^x)."""
    cdef real_t zero = 0, one = 1, tail = logistic(x, q - y if signed_as(one, x) > 0 else -y, q, l, g, h)
    d[0] = -x
    e[0] = tail + (x if x > 0 else zero)


@cython.final
cdef class Binomial(Kernel):
    """l = y log(1 + e^-x) + (q - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        binomial(x, y, q, l, g, h, d, e)

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h) noexcept nogil:
        return q * logistic_bend(x)


@cython.final
cdef class BinomialFull(Kernel):
    """l = y log(1 + e^-x) + (q - y) log(1 + e^x) - log(q!/(y! (q - y)!))."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t one = 1, by_failures, by_y
        # a count below 0 or above that of the trials has no value
        binomial(x, nan_unless((y >= 0) & (q >= y), y), q, l, g, h, d, e)
        l[0] -= log_ways(bounded(q - y) + one, bounded(y), &by_failures, &by_y)
        d[0] -= by_y - by_failures
        e[0] -= by_failures

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h) noexcept nogil:
        return q * logistic_bend(x)


ctypedef fused count_t:
    Poisson
    PoissonFull
    Gamma
    InverseGaussian
    Tweedie
    Deviance
    NegativeBinomial
    NegativeBinomialFull

ctypedef fused count_heavy_t:
    Tweedie

ctypedef fused count_heaviest_t:
    Deviance
    NegativeBinomialFull
    BinomialFull

ctypedef fused rate_t:
    PoissonRate
    PoissonRateFull
    Binomial
    BinomialFull

ctypedef fused count_surrogate_t:
    Gamma
    InverseGaussian
    Tweedie
    NegativeBinomial
    NegativeBinomialFull
    Binomial
    BinomialFull

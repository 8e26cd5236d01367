"""Likelihoods of labels that lie between bounds, y and q: times, and ordered classes."""

cimport cython
from libc.math cimport INFINITY, NAN
from libc.math cimport log as log_once
from libc.stdint cimport uint32_t, uint64_t

from fastloss._math cimport *


cdef class Duration(Kernel):
    """A distribution of z = (log t - x)/c for a time t from y to q, from 0 to infinity; y = q is a known time."""
    cdef double c, inverse, log_c

    def __cinit__(self, double c):
        self.c, self.inverse, self.log_c = c, 1 / c, log_once(c)


cdef inline real_t standardized(Duration of, real_t x, real_t y, real_t q, real_t* low, real_t* high,
                                real_t* gap) noexcept nogil:
    """z of both bounds, and the gap between them; infinity if a bound is missing or both are equal.

    Returns log(c t) for a known t, else 0. The gap of neighbours keeps its digits, because it is no difference of
    logarithms.
    """
    cdef real_t one = 1, zero = 0, inf = <real_t>INFINITY, base = q if y == 0 else y
    # a time of 0 has no likelihood
    cdef real_t log_base = nan_unless(base > 0, log_sum(base, zero))
    cdef real_t c = <real_t>of.c, log_c = <real_t>of.log_c, z = (log_base - x) / c, ratio = (q - base) / base, apart
    cdef bint single = (y == 0) | (y == q)
    # bounds in the wrong order have no value
    apart = log_sum(one, <real_t>NAN if ratio < 0 else ratio) / c
    gap[0] = inf if single else apart
    low[0] = -inf if (y == 0) & (q > 0) else z
    # no -inf + inf
    high[0] = z if single else (inf if apart == inf else z + apart)
    return log_base + log_c if y == q else zero


cdef inline real_t between(real_t low, real_t high, real_t a, real_t b, real_t gap, real_t left, real_t rest,
                           real_t* under, real_t* over, real_t* h, real_t* d) noexcept nogil:
    """-log(F(high) - F(low)) + rest, F = 1/(1 + e^-z), a = e^-|low|, b = e^-|high|, for bounds gap + left apart.

    That is log(1 + e^low) + log(1 + e^-high) - log(1 - e^-gap) in one logarithm, of 1 plus positive numbers. A low
    above 0 and a high below 0 stand beside the logarithm. `under` is F(low), `over` is 1 - F(high). Their difference is
    the derivative in a shift of both bounds, h the second one. The shift of a single bound adds d = 1/(e^gap - 1).
    """
    cdef real_t one = 1, zero = 0, v, c = absolute(expm1_sum(-gap, -left, &v))
    cdef real_t far = log_sum(one, (fma(a, b, a + b) + v) / c)
    under[0] = (one if low > 0 else a) / (one + a)
    over[0] = (one if high < 0 else b) / (one + b)
    h[0] = a / (one + a) / (one + a) + b / (one + b) / (one + b)
    d[0] = v / c
    return ((low if low > 0 else zero) - (high if high < 0 else zero)) + (far + rest)


@cython.final
cdef class LogisticDuration(Duration):
    """l = -log(F(high) - F(low)), or -log(F(low) (1 - F(low))) + log(c t) where t is known."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t low, high, gap, zero = 0, under, over, bend, apart, inverse = <real_t>self.inverse
        cdef real_t exactly = standardized(self, x, y, q, &low, &high, &gap)
        cdef real_t a = exp_nonpositive(minus_absolute(low)), b = exp_nonpositive(minus_absolute(high))
        l[0] = between(low, high, a, b, gap, zero, exactly, &under, &over, &bend, &apart)
        g[0] = (over - under) * inverse
        g[0] += zero_like(gap)
        h[0] = bend * inverse * inverse + zero_like(gap)
        d[0] = zero
        e[0] = zero


cdef inline real_t left_of(real_t y, real_t x, real_t z) noexcept nogil:
    """The rest that the rounding of y - x = z left, which an exponential magnifies; 0 for an infinite z."""
    cdef real_t rest = lost(y, -x, z), zero = 0
    return rest if absolute(rest) < <real_t>1 else zero


cdef inline real_t decay(real_t y, real_t x, real_t z) noexcept nogil:
    """e^-|y - x| for z = y - x rounded."""
    cdef real_t e = exp_nonpositive(minus_absolute(z)), rest = left_of(y, x, z)
    return fma(e, -rest if z > 0 else rest, e)


@cython.final
cdef class LogisticInterval(Kernel):
    """l = -log(F(q - x) - F(y - x)), F = 1/(1 + e^-z): the gap is q - y, not a difference of F."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t zero = 0, inf = <real_t>INFINITY, under, over, apart, none = zero_like(x)
        # missing bounds are missing for every x; bounds in the wrong order have no value
        cdef real_t low = y + none if absolute(y) == inf else y - x, high = q + none if absolute(q) == inf else q - x
        cdef real_t gap = q - y, left = left_of(q, y, gap), a = decay(y, x, low), b = decay(q, x, high)
        gap = <real_t>NAN if gap < 0 else gap
        l[0] = between(low, high, a, b, gap, left, zero, &under, &over, h, &apart)
        g[0] = over - under + zero_like(gap)
        h[0] += zero_like(gap)
        d[0] = under + apart
        e[0] = -over - apart


cdef inline real_t bernoulli(real_t x, real_t c) noexcept nogil:
    """x/(1 - e^-x) - 1, with c = 1 - e^-x; for small x the series, without cancellation."""
    cdef real_t s = x * x, p, one = 1
    if real_t is float:
        p = fma(s, <float>3.306878e-05, <float>-1.3888889e-03)
    else:
        p = fma(s, 1.3382536530684679e-11, -5.284190138687493e-10)
        p = fma(s, p, 2.08767569878681e-08)
        p = fma(s, p, -8.267195767195767e-07)
        p = fma(s, p, 3.3068783068783068e-05)
        p = fma(s, p, -1.388888888888889e-03)
    p = fma(s, p, <real_t>.08333333333333333)
    return fma(s, p, <real_t>.5 * x) if x < <real_t>.5 else x / c - one


@cython.final
cdef class ExtremeDuration(Duration):
    """l = w - log(1 - e^-r), w = e^low, r = e^high - w; for a known t, l = w - low + log(c t).

    r is e^high (1 - e^-gap), without a difference of bounds.
    """
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t low, high, gap, one = 1, zero = 0, half = .5, v, u, share, bend, inf = <real_t>INFINITY
        cdef real_t exactly = standardized(self, x, y, q, &low, &high, &gap), w = exp(low), most = exp(high)
        cdef real_t r = most * absolute(expm1_nonpositive(-gap, &u)), c = absolute(expm1_nonpositive(-r, &v))
        cdef real_t inverse = <real_t>self.inverse, rest = -log_sum(c if v > half else one, zero if v > half else -v)
        cdef bint known = y == q
        # no inf - inf
        l[0] = w if w == inf else w + (exactly - low if known else rest)
        # r e^-r/(1 - e^-r)
        share = zero if v == 0 else (one if r == 0 else r * v / c)
        bend = zero if v == 0 else share * bernoulli(r, c)
        g[0] = ((one if known else share) - w) * inverse
        h[0] = (w if known else w + bend) * inverse * inverse
        d[0] = zero
        e[0] = zero


cdef inline real_t cubic(real_t v, real_t a, real_t b, real_t c, real_t d) noexcept nogil:
    return fma(v, fma(v, fma(v, d, c), b), a)


cdef inline real_t excess_hazard(real_t z) noexcept nogil:
    """f(z)/(1 - F(z)) - z of the normal distribution for z from 0 to 1e18, within 3.5 ULP.

    That is t P(t - 1/2) with t = k/(z + k) and a polynomial through Chebyshev's nodes. The hazard is z plus the excess,
    and its slope the product of both: nothing cancels for a large z.
    """
    cdef real_t k, p, u, half = .5
    if real_t is float:
        k = 3
    else:
        k = 3.5
    u = half * (k - z) / (z + k)
    if real_t is float:
        p = fma(u, fma(u, <float>-.5803997, <float>.04039724), <float>.87177306)
        p = cubic(u, <float>.16903386, <float>-.7570263, <float>-.1274708, p)
        p = cubic(u, <float>-.49513996, <float>-.13589178, <float>.58081245, p)
        p = cubic(u, <float>.5661973, <float>.5610254, <float>.02288883, p)
    else:
        p = fma(u, fma(u, .1753068669816138, .05569557631506802), -.6522967062446003)
        p = cubic(u, .35075681098798933, 1.2892507519047145, -.21730584972941916, p)
        p = cubic(u, 2.0607722367738313, -.31214961774473554, -1.8177202202379619, p)
        p = cubic(u, .040236135859126027, -2.00822775567436, .1373111793966304, p)
        p = cubic(u, -1.4413660488446645, -.1299684358750995, 1.7614082613215052, p)
        p = cubic(u, -.039814220363922515, 1.1316098034269984, .11958815903181445, p)
        p = cubic(u, .6507431547475251, -.0742356777613198, -.8676676941126056, p)
        p = cubic(u, -.35134556215136353, -.46075238503823024, .20278947464387548, p)
        p = cubic(u, .5027825297153995, .5885590792055126, .2407957101082509, p)
    return k / (z + k) * p


cdef inline real_t pick(bint which, real_t a, real_t b) noexcept nogil:
    """a if which else b, by bits: of choices that share their conditions gcc makes jumps, and no vector code."""
    if real_t is float:
        return from_bits_f(bits_f(a) & -<uint32_t>which | bits_f(b) & (<uint32_t>which - 1))
    else:
        return from_bits_d(bits_d(a) & -<uint64_t>which | bits_d(b) & (<uint64_t>which - 1))


cdef inline void add_term(real_t s, real_t p, real_t* l, real_t* first, real_t* second) noexcept nogil:
    """A step of Horner's scheme, for a polynomial in s, its derivative, and half its second derivative."""
    second[0] = fma(s, second[0], first[0])
    first[0] = fma(s, first[0], l[0])
    l[0] = fma(s, l[0], p)


cdef inline void narrow(real_t m, real_t d, real_t* l, real_t* slope, real_t* bend) noexcept nogil:
    """The logarithm of the mean of e^(-m t - t^2/2) for t from -d to d, and its derivatives in m: m slope, bend.

    That is a series in s = (m d)^2 and v = d^2, cut for d and m d up to .35 in float32, .25 in float64. The density at
    m, times the mean and the gap, is F(m + d) - F(m - d).
    """
    cdef real_t v = d * d, s = (m * d) * (m * d), p, two = 2, four = 4
    slope[0] = bend[0] = 0
    if real_t is float:
        l[0] = <float>-2.6455027e-05
        add_term(s, fma(v, <float>-.00021164022, <float>.00035273368), l, slope, bend)
        add_term(s, fma(v, fma(v, <float>-.0003174603, <float>.0021164021), <float>-.0055555557), l, slope, bend)
        p = cubic(v, <float>.16666667, <float>-.022222223, <float>.0010582011, <float>7.054674e-05)
        add_term(s, p, l, slope, bend)
        p = cubic(v, <float>-.16666667, <float>.011111111, <float>-.00035273368, <float>-1.7636685e-05)
        add_term(s, v * p, l, slope, bend)
    else:
        l[0] = -1.3884130493737299e-09
        add_term(s, fma(v, -2.2214608789979678e-08, 1.5661391322766983e-08), l, slope, bend)
        p = fma(v, fma(v, -1.2218034834488822e-07, 2.1925947851873778e-07), -1.803670234005331e-07)
        add_term(s, p, l, slope, bend)
        p = cubic(v, 2.1377799155576935e-06, -2.1644042808063972e-06, 9.8666765333432e-07, -2.6013263901011593e-07)
        add_term(s, p, l, slope, bend)
        p = fma(v, -1.435059428627226e-07, 1.4711266915852455e-06)
        add_term(s, cubic(v, -2.6455026455026456e-05, 2.1377799155576935e-05, -7.57541498282239e-06, p), l, slope, bend)
        p = fma(v, fma(v, 6.341328055198789e-08, 1.7331939730528796e-07), -6.581960726581538e-06)
        add_term(s, cubic(v, .0003527336860670194, -.00021164021164021165, 5.344449788894233e-05, p), l, slope, bend)
        p = cubic(v, 1.4964459408903853e-05, 1.8895468630918367e-06, -2.881696003389125e-07, 1.3409426557401798e-10)
        add_term(s, cubic(v, -.005555555555555556, .0021164021164021165, -.00031746031746031746, p), l, slope, bend)
        p = fma(v, -3.535584681623344e-09, 8.404946676551615e-08)
        p = cubic(v, 7.054673721340387e-05, -1.0688899577788467e-05, -3.602120004236406e-08, p)
        add_term(s, cubic(v, .16666666666666666, -.022222222222222223, .0010582010582010583, p), l, slope, bend)
        p = fma(v, 4.41948085202918e-10, -1.2007066680788022e-08)
        p = cubic(v, -1.763668430335097e-05, 2.1377799155576935e-06, 6.003533340394011e-09, p)
        add_term(s, v * cubic(v, -.16666666666666666, .011111111111111112, -.0003527336860670194, p), l, slope, bend)
    bend[0] = two * v * fma(four * s, bend[0], slope[0])
    slope[0] = two * v * slope[0]


@cython.final
cdef class NormalDuration(Duration):
    """l = -log(F(high) - F(low)) for a normal z, or z^2/2 + log(sqrt(2 pi) c t) where t is known.

    Mirrored, so that their middle m is not below 0, the bounds are a and b. With the hazards f/(1 - F) of both, the
    ratio r = (1 - F(b))/(1 - F(a)) is e^(-gap m) hazard(a)/hazard(b), and l is -log((1 - F(a)) (1 - r)). For a below 0
    that is -log(1 - F(a) - r (1 - F(a))), which keeps its digits where next to nothing lies outside. In derivatives,
    differences of both ends come times k = r/(1 - r). Where 1 - r would cancel, narrow() has them.
    """
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t low, high, gap, zero = 0, one = 1, half = .5, inf = <real_t>INFINITY, far = <real_t>1e18
        cdef real_t inverse = <real_t>self.inverse, exactly = standardized(self, x, y, q, &low, &high, &gap)
        cdef real_t root = <real_t>.3989422804014327, none = zero_like(gap) + zero_like(low) + zero_like(high)
        cdef bint known = y == q, mirrored = low + high < 0
        cdef real_t a = -high if mirrored else low, b = -low if mirrored else high, m = half * (a + b)
        # the exponentials of numbers that far away are 0
        cdef real_t near = far if absolute(a) > far else absolute(a), away = far if b > far else b
        cdef real_t excess = excess_hazard(near), excess_b = excess_hazard(away), hazard_b = away + excess_b
        cdef real_t power = -half * near * near, density, tail, hazard, bent, r, k, apart, slope, bend, p, rest, middle
        cdef real_t mean, mean_slope, mean_bend, limit, span = half * (high - low)
        cdef bint is_low = a < 0, is_narrow
        if real_t is float:
            limit = <float>.35
        else:
            limit = .25
        # not by the gap, whose choices would make one of this
        is_narrow = (span < limit) & (absolute(m) * span < limit)
        density = root * exp_sum(power, fma(-half * near, near, -power))
        tail = density / (near + excess)
        hazard = density / (one - tail) if is_low else near + excess
        bent = hazard * (hazard + near if is_low else excess)
        r = zero if gap == inf else exp_nonpositive(-gap * m) * (hazard / hazard_b)
        k = r / (one - r)
        apart = zero if r == 0 else hazard_b - hazard
        slope = fma(-k, apart, hazard if is_low else a + excess)
        bend = fma(k, (bent - hazard_b * excess_b) + (one + k) * apart * apart, bent)
        narrow(m, half * gap, &mean, &mean_slope, &mean_bend)
        slope = pick(is_narrow, m - m * mean_slope, slope)
        bend = pick(is_narrow, one - mean_bend, bend)
        # known, narrow, low, or none of these
        p = pick(known, root, pick(is_narrow, root * gap, pick(is_low, one, root * (one - r) / (a + excess))))
        rest = pick(known, zero, pick(is_narrow, zero, pick(is_low, -(tail + r * (one - tail)), zero)))
        middle = pick(known, low, pick(is_narrow, m, pick(is_low, zero, a)))
        l[0] = (half * middle * middle - log_sum(p, rest)) + (exactly - pick(known, zero, pick(is_narrow, mean, zero)))
        g[0] = none - pick(known, low, pick(mirrored, -slope, slope)) * inverse
        h[0] = pick(known, one, bend) * inverse * inverse + none
        d[0] = zero
        e[0] = zero


ctypedef fused duration_t:
    LogisticDuration
    ExtremeDuration
    NormalDuration

ctypedef fused interval_t:
    LogisticInterval

ctypedef fused censored_t:
    duration_t
    interval_t

"""Smooth losses in which large errors count less than their squares."""

cimport cython
from libc.math cimport INFINITY, fabs, log, sqrt as sqrt_of_double

from fastloss._math cimport *


cdef inline real_t coshm1(real_t a) noexcept nogil:
    """cosh a - 1 for a up to 1.3169, where cosh a is 2: a^2/2 + a^4 P(a^2), P by interpolation at Chebyshev nodes."""
    cdef real_t s = a * a, p
    if real_t is float:
        p = fma(s, <float>2.8291020726101124e-07, <float>2.4793602278805338e-05)
        p = fma(s, p, <float>1.3888917164877057e-03)
        p = fma(s, p, <float>.0416666679084301)
    else:
        p = fma(s, 4.875212010973691e-14, 1.146845542884488e-11)
        p = fma(s, p, 2.0876784109533374e-09)
        p = fma(s, p, 2.7557319059218583e-07)
        p = fma(s, p, 2.4801587302063788e-05)
        p = fma(s, p, 1.3888888888888373e-03)
        p = fma(s, p, .041666666666666664)
    return fma(s * s, p, <real_t>.5 * s)


@cython.final
cdef class LogCosh(Kernel):
    """l = log cosh z, v = e^-a: log(1 + (cosh z - 1)) for small a, else a - log 2 + log(1 + v^2).

    Both take the logarithm of a sum of 1 and a number known to the last digit.
    """
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), v, e = absolute(expm1_nonpositive(-a, &v)), zero = 0, one = 1
        cdef real_t c = fma(v, v, one)
        cdef bint near = a < <real_t>1.3169
        l[0] = log1p_unit(coshm1(a) if near else v * v) + (zero if near else a - <real_t>.6931471805599453)
        g[0] = signed_as(e * (one + v) / c, z)
        h[0] = (v + v) / c * ((v + v) / c)
        d[0] = -g[0]


@cython.final
cdef class PseudoHuber(Scaled):
    """l = c^2 (s - 1), s = sqrt(1 + (a/c)^2): as a^2/(1 + s), nothing cancels. Far away l is c a."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), c = <real_t>self.scale[real_t is double], one = 1, rest
        cdef real_t r = over(self, a, &rest), s = sqrt(fma(r, r, one))
        cdef bint far = is_far(r)
        l[0] = a * (c if far else a / (one + s))
        g[0] = signed_as(c if far else a / s, z)
        h[0] = one / s / s / s
        d[0] = -g[0]


@cython.final
cdef class Fair(Scaled):
    """l = c^2 (t - log(1 + t)), t = a/c: as c a (1 - log(1 + t)/t), because t^2 may be below the range."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), c = <real_t>self.scale[real_t is double], one = 1, rest
        cdef real_t t = over(self, a, &rest), s = one / (one + t)
        # 2^60: beyond, the logarithm does not show
        cdef bint far = t > <real_t>1152921504606846976.
        cdef real_t ratio = log1pmx_ratio(t) if t <= one else (t - log_sum(one, t)) / t
        l[0] = a * (c * (one if far else ratio))
        g[0] = signed_as(c if far else a / (one + t), z)
        h[0] = s * s
        d[0] = -g[0]


@cython.final
cdef class Cauchy(Scaled):
    """l = c^2/2 log(1 + r^2), r = a/c.

    Far away l is c^2 (log a - log c). Where r^2 is lost beside 1, l is a^2/2, because r^2 may be below the range.
    """
    cdef double log_scale[2]

    def __cinit__(self, double scale):
        for i in range(2):
            self.log_scale[i] = log(self.scale[i])

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef int i = real_t is double
        cdef real_t z = x - y, a = absolute(z), c = <real_t>self.scale[i], one = 1, zero = 0, half = .5, rest
        cdef real_t r = over(self, a, &rest), v = r * r, q, log_w, log_c = <real_t>self.log_scale[i]
        cdef bint far = is_far(r)
        log_w = log_sum(a if far else one, zero if far else v)
        log_w = log_w - log_c if far else half * log_w
        l[0] = half * a * a if one + v == one else c * (c * log_w)
        g[0] = signed_as((c if far else a) / (a if far else one + v) * (c if far else one), z)
        q = one / (r if far else one + v)
        h[0] = -q * q if far else fma(-r, r, one) * q * q
        d[0] = -g[0]


@cython.final
cdef class GemanMcClure(Scaled):
    """l = 2 k^2/w, w = 1 + k^2, k = r/2, r = a/c; g = r/(c w^2), h = (1 - 3 k^2)/(c^2 w^3).

    One division, q = 1/w, in products whose factors stay in the range. g doubles the errors of w and q: it gets the
    rests of r and of the division. Beyond a bound, where g and h are 0 and l is 2, k^2 would overflow.
    """
    cdef double most[2]

    def __cinit__(self, double scale):
        # 2^60 and 2^500
        self.most[0] = min(self.scale[0] * 1152921504606846976., 3.4028234663852886e38)
        self.most[1] = min(self.scale[1] * 3.273390607896142e+150, 1.7976931348623157e308)

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), most = <real_t>self.most[real_t is double], one = 1, half = .5
        cdef real_t rest, left, r, k, v, w, q, low, f, three = 3
        a = most if a > most else a
        r = over_finite(self, a, &rest)
        k = half * r
        v = fma(k, k, k * rest)
        w = fma(k, k, fma(k, rest, one))
        q = one / w
        low = fma(r + r, fma(-w, q, one), rest)
        f = q * fma(q, low, r * q)
        l[0] = (v + v) * q
        g[0] = signed_as(over_finite(self, f, &left), z)
        h[0] = over_finite(self, over_finite(self, fma(-three * k, k, one) * q * q * q, &left), &left)
        d[0] = -g[0]


@cython.final
cdef class Welsch(Scaled):
    """l = 1 - e, e = e^(-v/2), v = r^2, r = a/c: the exponential gets the rests of r and v."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, one = 1, zero = 0, half = .5, rest, left, e
        cdef real_t r = over(self, absolute(z), &rest), v = r * r
        # far away v may be infinite, and the exponential is 0
        cdef real_t low = zero if v > <real_t>4000 else fma(r + r, rest, fma(r, r, -v))
        l[0] = absolute(expm1_sum(-half * v, -half * low, &e))
        g[0] = signed_as(over(self, zero if e == 0 else r * e, &left), z)
        h[0] = over(self, over(self, zero if e == 0 else fma(-r, r, one) * e, &left), &left)
        d[0] = -g[0]


@cython.final
cdef class Tukey(Scaled):
    """l = c^2/6 (1 - k^3), k = 1 - r^2, r = w/c, w = min(a, c): as w^2/6 (1 + k + k^2), nothing cancels."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), c = <real_t>self.scale[real_t is double], zero = 0, one = 1, five = 5
        cdef real_t w = c if a > c else a, rest, r = over_finite(self, w, &rest)
        # near 0, all its digits come from the rest of r
        cdef real_t k = fma(-(r + r), rest, fma(-r, r, one))
        # gcc would make branches of another comparison of a and c
        cdef bint outside = a - c >= 0
        l[0] = w * w * (fma(k, one + k, one) * <real_t>.16666666666666666)
        g[0] = signed_as(zero if outside else a * k * k, z)
        h[0] = zero if outside else k * fma(-five * r, r, one)
        d[0] = -g[0]


@cython.final
cdef class General(Scaled):
    """l = b/alpha (p - 1), p = w^(alpha/2), w = 1 + s^2, s = a/(c sqrt(b)), b = |alpha - 2| (Barron 2019).

    g = sqrt(b)/c s p/w. Far away w is s^2, which may be beyond the range, so nothing divides by w.

    A power magnifies the error of its base: log w has two parts, and gets the rests of s and s^2.
    """
    cdef double alpha
    cdef double factor      # b/|alpha|
    cdef double limit       # of the slope
    cdef double slope[2]    # sqrt(b)/c
    cdef double reciprocal[2]

    def __cinit__(self, double scale, double alpha, double c):
        cdef double root = sqrt_of_double(fabs(alpha - 2))
        cdef double rounded[2]
        rounded[0], rounded[1] = <float>c, c
        self.alpha, self.factor, self.limit = alpha, fabs((alpha - 2) / alpha), 0 if alpha < 1 else INFINITY
        for i in range(2):
            self.slope[i] = root / rounded[i]
            self.reciprocal[i] = 1 / rounded[i]
        # a float32 of the scale would be too far off
        self.low[0] = 1 / (rounded[0] * root) - self.high[0]

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef int i = real_t is double
        cdef real_t z = x - y, one = 1, zero = 0, half = .5, alpha = <real_t>self.alpha, q, rest, left, e, v
        cdef real_t slope = <real_t>self.slope[i], reciprocal = <real_t>self.reciprocal[i], limit = <real_t>self.limit
        cdef real_t factor = <real_t>self.factor, s = over(self, absolute(z), &left), u = s * s, log_w, k, t, low, p
        cdef real_t inf = <real_t>INFINITY
        cdef bint far = is_far(s)
        q = one / (s if far else one + u)
        # far away log(s), because log(s^2) is twice that
        log_w = log_parts(s if far else one, zero if far else u, &rest)
        rest = rest + (left if far else fma(s + s, left, fma(s, s, -u))) * q
        k = -absolute(alpha if far else half * alpha)
        t = k * log_w
        low = fma(k, log_w, -t) + k * rest
        # NaN if nothing is finite
        e = absolute(expm1_sum(t, low if absolute(low) < one else zero, &v))
        p = one / v if alpha > 0 else one
        l[0] = factor * e * p
        p = p if alpha > 0 else v
        g[0] = signed_as(limit if s == inf else slope * (p * (q if far else s * q)), z)
        e = alpha - one if far else fma(alpha - one, u, one)
        h[0] = zero if q == 0 else reciprocal * (p * q) * (e * q) * reciprocal
        d[0] = -g[0]


ctypedef fused robust_t:
    LogCosh
    PseudoHuber
    Fair
    Cauchy
    GemanMcClure
    Welsch
    Tukey
    General

ctypedef fused robust_heavy_t:
    Welsch
    General

"""Likelihoods of labels that lie between bounds, y and q: times, and ordered classes."""

cimport cython
from libc.math cimport INFINITY, NAN
from libc.math cimport log as log_once

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


ctypedef fused duration_t:
    LogisticDuration
    ExtremeDuration

ctypedef fused interval_t:
    LogisticInterval

ctypedef fused censored_t:
    duration_t
    interval_t

"""Losses of binary labels: margins, log-odds, probabilities."""

cimport cython
from libc.math cimport NAN

from fastloss._math cimport *


@cython.final
cdef class Hinge(Kernel):
    """l = max(0, margin - x y)."""
    cdef double margin

    def __cinit__(self, double margin):
        self.margin = margin

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = fma(-x, y, <real_t>self.margin), zero = 0
        l[0] = zero if z <= 0 else z
        # beyond the margin 0, and NaN if z is
        g[0] = -y if z > 0 else l[0]
        h[0] = zero_like(z)
        d[0] = -x if z > 0 else l[0]


@cython.final
cdef class SquaredHinge(Kernel):
    """l = max(0, margin - x y)^2."""
    cdef double margin

    def __cinit__(self, double margin):
        self.margin = margin

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = fma(-x, y, <real_t>self.margin), zero = 0
        cdef real_t c = zero if z <= 0 else z
        l[0] = c * c
        g[0] = <real_t>-2 * c * y
        h[0] = zero if z <= 0 else (<real_t>2 * y * y if z > 0 else z)
        d[0] = <real_t>-2 * c * x


@cython.final
cdef class Logistic(Kernel):
    """l = log(1 + e^(-x y)) for y = -1, +1; any real y is the mixture with (1 + y)/2 of +1."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t half = .5
        logistic(x, fma(-half, y, signed_as(half, x)), <real_t>1, l, g, h)
        d[0] = -half * x


@cython.final
cdef class SigmoidCrossEntropy(Kernel):
    """l = y log(1 + e^-x) + (1 - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t half = .5
        logistic(x, (signed_as(half, x) + half) - y, <real_t>1, l, g, h)
        d[0] = -x


@cython.final
cdef class WeightedSigmoidCrossEntropy(Kernel):
    """l = q y log(1 + e^-x) + (1 - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t p = q * y, m = <real_t>1 - y, zero = 0, one = 1
        cdef real_t tail = logistic(x, m if signed_as(one, x) > 0 else -p, p + m, l, g, h)
        cdef real_t positive = tail + (-x if x < 0 else zero), negative = tail + (x if x > 0 else zero)
        # the total of both parts may be infinite where their difference is none
        g[0] = g[0] if l[0] == l[0] else l[0]
        h[0] = h[0] if l[0] == l[0] else l[0]
        d[0] = fma(q, positive, -negative)
        # a label of 0 has no part in it: 0 * inf
        e[0] = zero if y == 0 else y * positive


@cython.final
cdef class ProbabilityCrossEntropy(Kernel):
    """l = -q y log(x + eps) - (1 - y) log(1 - x + eps), eps = 1e-12, x a probability; 0 where eps takes it below."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t one = 1, zero = 0, eps = 1e-12, nan = NAN
        # each logarithm of a sum of which one part is exact: 1 + (x - 1 + eps) near 1, x + eps elsewhere
        cdef bint high = x >= <real_t>.5
        cdef real_t positive = -log_sum(one if high else x, (x - one) + eps if high else eps)
        cdef real_t negative = -log_sum(one - x if high else one, eps if high else eps - x)
        # the logarithm of a negative number is NaN, as are the two parts of an infinite label together
        cdef real_t left = x + eps if x + eps >= 0 else nan, right = (one - x) + eps if (one - x) + eps >= 0 else nan
        cdef real_t share = fma(y, zero, y), rest = one - share
        cdef real_t p = q * share / left, m = rest / right
        l[0] = fma(q * share, positive, rest * negative)
        l[0] = zero if (l[0] < 0) & (q * share >= 0) & (rest >= 0) else l[0]
        g[0] = m - p
        h[0] = p / left + m / right
        d[0] = fma(q, positive, -negative)
        e[0] = y * positive


ctypedef fused binary_t:
    Hinge
    SquaredHinge
    Logistic
    SigmoidCrossEntropy

ctypedef fused weighted_binary_t:
    WeightedSigmoidCrossEntropy
    ProbabilityCrossEntropy

ctypedef fused light_binary_t:
    Hinge
    SquaredHinge

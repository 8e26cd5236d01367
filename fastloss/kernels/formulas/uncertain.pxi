"""Likelihoods of a label, given a prediction of it and another, q, of the expected error.

The surrogates are the Fisher information, which is above 0.
"""

cimport cython
from libc.math cimport INFINITY, lgamma, pi
from libc.math cimport log as log_once

from fastloss._math cimport *


cdef inline real_t square_over(real_t z, real_t s, real_t* precision, real_t* slope) noexcept nogil:
    """z^2 e^-s / 2, precision = e^-s, and slope = z e^-s."""
    # e^-s may leave the range where its products with z do not: two factors
    cdef bint wide = absolute(s) > <real_t>80
    cdef real_t one = 1, e = exp(<real_t>-.5 * s if wide else -s), rest = e if wide else one, t = z * e
    precision[0] = e * rest
    # an error of 0 stays 0: 0 * inf
    slope[0] = zero_like(s) if z == 0 else t * rest
    return zero_like(s) if z == 0 else t * (<real_t>.5 * (t if wide else z))


@cython.final
cdef class GaussianOfLogarithm(Kernel):
    """l = v + k q/2 + constant, v = z^2 e^(-k q)/2; k q is the logarithm of the variance, k is 1 or 2."""
    cdef double k, constant

    def __cinit__(self, double k, double constant):
        self.k, self.constant = k, constant

    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e,
                        real_t* f) noexcept nogil:
        cdef real_t z = x - y, k = <real_t>self.k, share = <real_t>.5 * k, constant = <real_t>self.constant
        cdef real_t precision, slope, v = square_over(z, k * q, &precision, &slope)
        # where the square is infinite, so is the loss: no inf - inf
        l[0] = v if v == <real_t>INFINITY else v + fma(share, q, constant)
        g[0] = slope + zero_like(l[0])
        h[0] = precision + zero_like(l[0])
        d[0] = -slope
        e[0] = fma(-k, v, share)
        f[0] = k * k * v

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h, real_t* f) noexcept nogil:
        f[0] = <real_t>(.5 * self.k * self.k)
        return h


@cython.final
cdef class GaussianOfVariance(Kernel):
    """l = (log c + z^2/c)/2 + constant, c = max(q, least); the derivatives in q are those in c, as in PyTorch."""
    cdef double least, constant

    def __cinit__(self, double least, double constant):
        self.least, self.constant = least, constant

    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e,
                        real_t* f) noexcept nogil:
        cdef real_t z = x - y, least = <real_t>self.least, half = .5, one = 1, zero = 0
        cdef real_t c = least if q < least else q, slope = z / c, v = z * slope
        l[0] = fma(half, log_sum(c, zero) + v, <real_t>self.constant)
        g[0] = slope + zero_like(v)
        h[0] = one / c + zero_like(v)
        d[0] = -slope
        e[0] = half * (one - v) / c
        f[0] = (v - half) / c / c

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h, real_t* f) noexcept nogil:
        f[0] = <real_t>.5 * h * h
        return h


@cython.final
cdef class LaplaceOfLogarithm(Kernel):
    """l = q + t + constant, t = a e^-q."""
    cdef double constant

    def __cinit__(self, double constant):
        self.constant = constant

    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e,
                        real_t* f) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), one = 1, zero = 0, inf = <real_t>INFINITY
        cdef real_t constant = <real_t>self.constant
        # e^-q may leave the range where its product with a does not: two factors
        cdef bint wide = absolute(q) > <real_t>80
        cdef real_t half = exp(<real_t>-.5 * q if wide else -q), rest = half if wide else one, slope = half * rest
        # an error of 0 stays 0: 0 * inf
        cdef real_t t = zero_like(q) if a == 0 else a * half * rest
        # where the term is infinite, so is the loss: no inf - inf
        l[0] = t if t == inf else t + (q + constant)
        g[0] = (signed_as(slope, z) if a > 0 else zero) + zero_like(l[0])
        h[0] = zero_like(l[0])
        d[0] = -g[0]
        e[0] = one - t
        f[0] = t

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h, real_t* f) noexcept nogil:
        f[0] = 1
        return exp(<real_t>-2 * q)


cdef double student_constant(double n) noexcept:
    """The constant of Student's t with n degrees of freedom; for a large n a series, without cancellation."""
    if n > 1e5:
        return .5 * log_once(2 * pi) + .25 / n
    return lgamma(n / 2) - lgamma((n + 1) / 2) + .5 * log_once(pi * n)


@cython.final
cdef class StudentOfLogarithm(Kernel):
    """l = q + (n + 1)/2 log(1 + v) + constant, v = 2 u/n, u = z^2 e^(-2 q)/2, for n degrees of freedom.

    Far away, where 1 is lost beside v and v may be infinite, l is (n + 1) (log a - log(n)/2) - n q + constant.
    """
    cdef double n, constant, half_log_n

    def __cinit__(self, double n, bint full):
        self.n, self.half_log_n = n, .5 * log_once(n)
        self.constant = student_constant(n) if full else 0

    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e,
                        real_t* f) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), one = 1, zero = 0, two = 2, half = .5
        cdef real_t n = <real_t>self.n, more = n + one, constant = <real_t>self.constant
        cdef real_t half_log_n = <real_t>self.half_log_n
        cdef real_t precision, slope, u = square_over(z, two * q, &precision, &slope), v = u / (half * n)
        cdef real_t w = one + v, ratio
        cdef bint far = is_far(v)
        cdef real_t log_w = log_sum(a if far else one, zero if far else v)
        l[0] = fma(more, log_w - half_log_n, fma(-n, q, constant)) if far else fma(half * more, log_w, q + constant)
        ratio = more / (a if far else n)
        g[0] = signed_as(ratio, z) if far else ratio * (slope / w)
        h[0] = (-ratio / a if far else ratio * (precision / w) * ((one - v) / w)) + zero_like(v)
        d[0] = -g[0]
        e[0] = -n if far else fma(-two, u, one) / w
        f[0] = two * more / (v if far else w) * (one if far else v / w)

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h, real_t* f) noexcept nogil:
        f[0] = <real_t>(2 * self.n / (self.n + 3))
        return <real_t>((self.n + 1) / (self.n + 3)) * exp(<real_t>-2 * q)


ctypedef fused uncertain_t:
    GaussianOfLogarithm
    GaussianOfVariance
    LaplaceOfLogarithm
    StudentOfLogarithm

ctypedef fused uncertain_heavy_t:
    StudentOfLogarithm

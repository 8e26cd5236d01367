"""Errors of real predictions."""

cimport cython
from libc.math cimport fma as exact_fma

from fastloss._math cimport *


@cython.final
cdef class L1(Kernel):
    """l = |z|; the derivative at 0 is 0."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z)
        l[0] = a
        g[0] = signed_as(<real_t>1, z) if a > 0 else z
        h[0] = zero_like(z)
        d[0] = -g[0]


@cython.final
cdef class L2(Kernel):
    """l = z^2 / 2."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, one = 1
        l[0] = <real_t>.5 * z * z
        g[0] = z
        h[0] = one if z == z else z
        d[0] = -z


@cython.final
cdef class Huber(Kernel):
    """l = c/rho (a - c/2), c = min(a, rho): quadratic up to rho, then linear with slope 1 (Huber 1964, as in Gluon)."""
    # rho and 1/rho in two parts, for float32 and float64: to divide each element would cost more than all the rest
    cdef double rho[2]
    cdef double high[2]
    cdef double low[2]

    def __cinit__(self, double rho):
        # a rho that float32 rounds to 0 makes the loss L1
        self.rho[0] = <float>max(rho, 1.1754943508222875e-38)
        self.rho[1] = max(rho, 2.2250738585072014e-308)
        self.high[0] = <float>(1 / self.rho[0])
        self.high[1] = 1 / self.rho[1]
        for i in range(2):
            self.low[i] = self.high[i] * exact_fma(-self.rho[i], self.high[i], 1) if self.high[i] > 0 else 0

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef int i = real_t is double
        cdef real_t z = x - y, a = absolute(z), rho = <real_t>self.rho[i], zero = 0, one = 1
        cdef real_t high = <real_t>self.high[i], low = <real_t>self.low[i]
        cdef real_t c = rho if a > rho else a
        cdef real_t slope = one if a > rho else fma(a, high, a * low)
        l[0] = slope * (a - <real_t>.5 * c)
        g[0] = signed_as(slope, z)
        h[0] = zero if a > rho else (high if a <= rho else a)
        d[0] = -g[0]


ctypedef fused regression_t:
    L1
    L2
    Huber

ctypedef fused light_regression_t:
    L1
    L2
    Huber

"""The base of all kernels, how formulas return no value, and the logistic function of several families."""

from libc.math cimport fma as exact_fma
from libc.stdint cimport uint32_t, uint64_t

from fastloss._math cimport *
from fastloss._plan cimport kernel_t


# at most
cdef Py_ssize_t MOST_BYTES = <Py_ssize_t>(~<size_t>0 >> 1)


cdef class Kernel:
    """A formula with its parameters, and the table of its loops."""
    cdef kernel_t table

    cdef void fill(self) noexcept:
        """Fills the entries of the table that only some losses of a list have."""


cdef class Scaled(Kernel):
    """A formula of residuals over a scale c."""
    # c and 1/c in two parts, for float32 and float64: a division per element would cost more than all the rest
    cdef double scale[2]
    cdef double high[2]
    cdef double low[2]

    def __cinit__(self, double scale, *others):
        # no scale has the reciprocal 0 or infinity
        self.scale[0] = <float>max(scale, 1.1754943508222875e-38)
        self.scale[1] = max(scale, 2.2250738585072014e-308)
        self.high[0] = <float>(1 / self.scale[0])
        self.high[1] = 1 / self.scale[1]
        for i in range(2):
            self.low[i] = self.high[i] * exact_fma(-self.scale[i], self.high[i], 1) if self.high[i] > 0 else 0


cdef inline bint is_far(real_t r) noexcept nogil:
    """Whether 1 + 1/r rounds to 1. At the least such r, r^2 is in the range."""
    if real_t is float:
        return r > <float>33554432.
    else:
        return r > 18014398509481984.


cdef inline real_t over(Scaled formula, real_t a, real_t* rest) noexcept nogil:
    """a/c within half a ULP, and the rest that rounding left; for a from 0 to infinity, or any finite a.

    An infinite a skips the second product, which would make NaN if it is 0 or of another sign. So does a call that does
    not use the rest.
    """
    cdef int i = real_t is double
    cdef real_t high = <real_t>formula.high[i], low = <real_t>formula.low[i], zero = 0
    cdef real_t second = zero if a * high > <real_t>1e30 else a * low, r = fma(a, high, second)
    rest[0] = fma(a, high, -r) + second
    return r


cdef inline real_t over_finite(Scaled formula, real_t a, real_t* rest) noexcept nogil:
    """over() for a finite a, without a choice."""
    cdef int i = real_t is double
    cdef real_t high = <real_t>formula.high[i], second = a * <real_t>formula.low[i], r = fma(a, high, second)
    rest[0] = fma(a, high, -r) + second
    return r


cdef inline real_t zero_like(real_t z) noexcept nogil:
    """0, but NaN where z is."""
    cdef real_t zero = 0
    return zero if z == z else z


cdef inline real_t nan_unless(bint good, real_t x) noexcept nogil:
    """x, or NaN, which has all bits set: two operations on bits, fewer than a choice takes."""
    if real_t is float:
        return from_bits_f(bits_f(x) | -<uint32_t>(not good))
    else:
        return from_bits_d(bits_d(x) | -<uint64_t>(not good))


cdef inline real_t inverse_distance(real_t a) noexcept nogil:
    """1/|a|, the curvature of parabolas that majorise |a|; 1e30 at the kink, where no parabola does."""
    cdef real_t least = <real_t>1e-30, one = 1, c = absolute(a)
    return one / (least if c < least else c)


cdef inline real_t logistic_bend(real_t x) noexcept nogil:
    """tanh(x/2)/(2 x), the curvature of parabolas that majorise log(1 + e^x) (Jaakkola and Jordan 2000); 1/4 at 0."""
    cdef real_t a = absolute(x), u, e = -expm1_nonpositive(-a, &u), one = 1, quarter = .25
    return e / ((one + u) * (a + a)) if a > <real_t>1e-30 else quarter


cdef inline real_t logistic(real_t x, real_t far, real_t total, real_t* l, real_t* g, real_t* h) noexcept nogil:
    """l = p log(1 + e^-x) + m log(1 + e^x) and its derivatives, total = p + m; returns log(1 + e^-|x|)."""
    return logistic_from(exp_nonpositive(minus_absolute(x)), x, far, total, l, g, h)


cdef inline real_t logistic_from(real_t u, real_t x, real_t far, real_t total, real_t* l, real_t* g,
                                 real_t* h) noexcept nogil:
    """logistic() by u = e^-|x|.

    `far` is the slope that the loss tends to on x's side: m, or -p if x has the sign bit. `near` is the other slope.
    Then l = far x + total log(1 + u), g = (far + near u)/(1 + u), h = total u/(1 + u)^2. No term cancels where far is
    0, so tails keep their digits.
    """
    cdef real_t one = 1, zero = 0
    # total may have any sign, like labels and weights
    cdef real_t s = one + u, near = far - signed_as(one, x) * total
    cdef real_t tail = log1p_unit(u)
    # a certain and correct prediction costs nothing: 0 * inf
    l[0] = fma(total, tail, zero if far == 0 else far * x)
    # an infinite label has no loss where x is 0: times 0, it is NaN
    g[0] = fma(near, u, fma(far, zero, far)) / s
    h[0] = fma(far, zero, total * (u / s / s))
    return tail

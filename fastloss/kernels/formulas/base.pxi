"""What all kernels share, how a formula says that there is no value, and the logistic function of several families."""

from libc.stdint cimport uint32_t, uint64_t

from fastloss._math cimport *
from fastloss._plan cimport kernel_t


# that there can be
cdef Py_ssize_t MOST_BYTES = <Py_ssize_t>(~<size_t>0 >> 1)


cdef class Kernel:
    """A formula with its parameters, and the table of its loops."""
    cdef kernel_t table

    cdef void fill(self) noexcept:
        """Fills what a loss has in the table that others of its list have not."""


cdef inline real_t zero_like(real_t z) noexcept nogil:
    """0, but NaN where z is."""
    cdef real_t zero = 0
    return zero if z == z else z


cdef inline real_t nan_unless(bint good, real_t x) noexcept nogil:
    """x, or NaN, whose bits are all 1: two operations on bits, where a choice would take more."""
    if real_t is float:
        return from_bits_f(bits_f(x) | -<uint32_t>(not good))
    else:
        return from_bits_d(bits_d(x) | -<uint64_t>(not good))


cdef inline real_t logistic(real_t x, real_t far, real_t total, real_t* l, real_t* g, real_t* h) noexcept nogil:
    """l = p log(1 + e^-x) + m log(1 + e^x) and its derivatives, total = p + m; returns log(1 + e^-|x|)."""
    return logistic_from(exp_nonpositive(minus_absolute(x)), x, far, total, l, g, h)


cdef inline real_t logistic_from(real_t u, real_t x, real_t far, real_t total, real_t* l, real_t* g,
                                 real_t* h) noexcept nogil:
    """logistic() by u = e^-|x|.

    `far` is the slope that the loss tends to on x's side: m, or -p where x has the sign bit; `near` that on the other.
    Then l = far x + total log(1 + u), g = (far + near u)/(1 + u), h = total u/(1 + u)^2. No term cancels
    where far is 0, so tails keep their digits.
    """
    cdef real_t one = 1, zero = 0
    # total has a sign of its own, for labels and weights of any kind
    cdef real_t s = one + u, near = far - signed_as(one, x) * total
    cdef real_t tail = log1p_unit(u)
    # a certain and correct prediction, 0 * inf, costs nothing
    l[0] = fma(total, tail, zero if far == 0 else far * x)
    # an infinite label has no loss where x is 0: times 0, it is NaN
    g[0] = fma(near, u, fma(far, zero, far)) / s
    h[0] = fma(far, zero, total * (u / s / s))
    return tail

"""What all kernels share, and how a formula says that there is no value."""

from libc.stdint cimport uint32_t, uint64_t

from fastloss._math cimport bits_d, bits_f, from_bits_d, from_bits_f, real_t
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

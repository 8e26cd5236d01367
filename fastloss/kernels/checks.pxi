"""Checks of the numbers of an input."""

from libc.math cimport floor
from libc.stdint cimport int64_t

from fastloss._plan cimport array_t, plan_t


cdef inline bint is_good(double x, double low, double high, double also) noexcept nogil:
    return low <= x <= high and x == floor(x) or x == also


cdef bint is_left_out(const array_t* weight, Py_ssize_t at) noexcept nogil:
    """Whether the weight of an element is 0; not if there are no weights."""
    cdef double w = 1
    if weight != NULL and weight.data != NULL:
        gather(weight, at, 1, &w)
    return w == 0


cdef Py_ssize_t bad_integer(const plan_t* p, const array_t* a, const array_t* weight, Py_ssize_t start, Py_ssize_t n,
                            double low, double high, double also, int64_t* to) noexcept nogil:
    """The first of elements start to start + n that is neither an integer from low to high nor `also`; -1: none.

    Ignores elements of weight 0. Copies all unless `to` is NULL: an array may change later, so that only the copy is
    checked.
    """
    cdef double x[256]
    cdef Py_ssize_t at, m, i, bad, since = 0
    for at in range(0, n, 256):
        m = min(<Py_ssize_t>256, n - at)
        if stopped(p, &since, m):
            return -1
        gather(a, start + at, m, &x[0])
        bad = 0
        for i in range(m):
            bad += not is_good(x[i], low, high, also)
        for i in range(m if bad else 0):
            if not is_good(x[i], low, high, also) and not is_left_out(weight, start + at + i):
                return start + at + i
        for i in range(m if to != NULL else 0):
            to[at + i] = <int64_t>x[i]
    return -1

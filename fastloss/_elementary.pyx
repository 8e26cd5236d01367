"""The elementary functions of _math over arrays, for tests/elementary.py to measure their errors.

Built once per instruction set with the flags of the kernels, in a checkout alone: a wheel does not hold it.
"""

from fastloss._math cimport *


cdef void apply(str name, Py_ssize_t n, const real_t* a, const real_t* b, real_t* out):
    cdef Py_ssize_t i
    cdef real_t v
    if name == "exp":
        for i in range(n):
            out[i] = exp(a[i])
    elif name == "exp_nonpositive":
        for i in range(n):
            out[i] = exp_nonpositive(a[i])
    elif name == "exp_sum":
        for i in range(n):
            out[i] = exp_sum(a[i], b[i])
    elif name == "expm1_nonpositive":
        for i in range(n):
            out[i] = expm1_nonpositive(a[i], &v)
    elif name == "exp_beside_expm1":
        for i in range(n):
            expm1_nonpositive(a[i], &out[i])
    elif name == "log1p_unit":
        for i in range(n):
            out[i] = log1p_unit(a[i])
    elif name == "log1pmx_unit":
        for i in range(n):
            out[i] = log1pmx_unit(a[i])
    elif name == "log_from_one":
        for i in range(n):
            out[i] = log_from_one(a[i])
    elif name == "log_sum":
        for i in range(n):
            out[i] = log_sum(a[i], b[i])
    elif name == "sqrt":
        for i in range(n):
            out[i] = sqrt(a[i])


def elementary(str name, bint is_double, Py_ssize_t n, size_t a, size_t b, size_t out):
    """A function of _math over arrays at these addresses."""
    if is_double:
        apply[double](name, n, <const double*>a, <const double*>b, <double*>out)
    else:
        apply[float](name, n, <const float*>a, <const float*>b, <float*>out)

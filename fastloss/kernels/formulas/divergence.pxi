"""Divergences of distributions, element by element."""

cimport cython
from libc.math cimport INFINITY

from fastloss._math cimport *


@cython.final
cdef class KLDivergence(Kernel):
    """l = y (log(y + eps) - x), x a log-probability, eps = 1e-12; 0 where y is 0."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t eps = 1e-12, zero = 0, inf = <real_t>INFINITY, z = log_sum(y, eps) - x
        # & and not `and`, which is a branch
        l[0] = zero if (y == 0) & (z == inf) else y * z
        g[0] = nan_unless(x < inf, nan_unless(y + eps > 0, -y))
        h[0] = nan_unless(x < inf, nan_unless(y + eps > 0, zero))
        d[0] = z + y / (y + eps)


ctypedef fused divergence_t:
    KLDivergence

"""Errors of real predictions."""

cimport cython
from libc.math cimport INFINITY, NAN

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

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return inverse_distance(x - y)


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
cdef class Huber(Scaled):
    """l = c/rho (a - c/2), c = min(a, rho): quadratic up to rho, then linear with slope 1 (Huber 1964, as in Gluon)."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef int i = real_t is double
        cdef real_t z = x - y, a = absolute(z), rho = <real_t>self.scale[i], zero = 0, one = 1
        cdef real_t high = <real_t>self.high[i], low = <real_t>self.low[i]
        cdef real_t c = rho if a > rho else a
        cdef real_t slope = one if a > rho else fma(a, high, a * low)
        l[0] = slope * (a - <real_t>.5 * c)
        g[0] = signed_as(slope, z)
        h[0] = zero if a > rho else (high if a <= rho else a)
        d[0] = -g[0]


@cython.final
cdef class EpsilonInsensitive(Kernel):
    """l = max(0, a - epsilon)."""
    cdef double epsilon

    def __cinit__(self, double epsilon):
        self.epsilon = epsilon

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), epsilon = <real_t>self.epsilon, zero = 0
        l[0] = zero if a <= epsilon else a - epsilon
        # inside 0, and NaN if z is
        g[0] = signed_as(<real_t>1, z) if a > epsilon else l[0]
        h[0] = zero_like(z)
        d[0] = -g[0]

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        """The majorisers of two hinges, max(0, z - epsilon) and max(0, -z - epsilon), together."""
        cdef real_t a = absolute(x - y), epsilon = <real_t>self.epsilon
        return <real_t>.5 * (inverse_distance(a - epsilon) + inverse_distance(a + epsilon))


@cython.final
cdef class SquaredEpsilonInsensitive(Kernel):
    """l = max(0, a - epsilon)^2."""
    cdef double epsilon

    def __cinit__(self, double epsilon):
        self.epsilon = epsilon

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, a = absolute(z), epsilon = <real_t>self.epsilon, zero = 0
        cdef real_t excess = a - epsilon, c = zero if excess <= 0 else excess
        l[0] = c * c
        g[0] = signed_as(c + c, z)
        h[0] = zero if excess <= 0 else (<real_t>2 if excess > 0 else excess)
        d[0] = -g[0]

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return 2


@cython.final
cdef class Expectile(Kernel):
    """l = w z^2 with w = 1 - expectile above the label, and expectile below it."""
    cdef double above
    cdef double below

    def __cinit__(self, double expectile):
        self.above, self.below = 1 - expectile, expectile

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, w = <real_t>self.above if z > 0 else <real_t>self.below
        l[0] = w * z * z
        g[0] = (w + w) * z
        h[0] = w + w if z == z else z
        d[0] = -g[0]

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        """The larger Hessian of both sides, because a step may cross the label."""
        cdef real_t above = <real_t>self.above, below = <real_t>self.below
        return <real_t>2 * (above if above > below else below)


@cython.final
cdef class SquaredLogarithmic(Kernel):
    """l = L^2 / 2, L = log((1 + x)/(1 + y)): by its absolute value, log(1 + a/(1 + min(x, y))), nothing cancels."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, one = 1, zero = 0, inf = <real_t>INFINITY, up = one + x, down = one + y, root, slope
        cdef real_t high = x if x > y else y, low = y if x > y else x, a = high - low, bottom = one + low, t, rest
        # without a logarithm, no reciprocal
        bottom = <real_t>NAN if bottom < 0 else bottom
        t = a / bottom
        # the square doubles the error of L: t gets the rests of three roundings, which may be NaN
        rest = (fma(-t, bottom, a) + fma(-t, lost(one, low, bottom), lost(high, -low, a))) / bottom
        root = signed_as(log_sum(one, t + (rest if absolute(rest) < t else zero)), z)
        l[0] = <real_t>.5 * root * root
        # infinity exceeds its logarithm, if that exists
        slope = one if up == inf else root
        g[0] = slope / up + zero_like(root)
        h[0] = (one - slope) / up / up + zero_like(root)
        d[0] = -(one if down == inf else root) / down

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        """(1 + |L|)/(1 + x)^2: Newton's step then takes L > 0 to L - log(1 + L), never past the label."""
        cdef real_t one = 1, up = one + x
        return (one / up + absolute(g)) / up


@cython.final
cdef class Pinball(Kernel):
    """l = above z for z > 0, else below z, where below <= 0; the derivative at 0 is 0."""
    cdef double above
    cdef double below

    def __cinit__(self, double quantile):
        self.above, self.below = 1 - quantile, -quantile

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, above = <real_t>self.above, below = <real_t>self.below, zero = 0
        cdef real_t slope = above if z > 0 else below
        # the product would be -0 for 0
        l[0] = fma(slope, z, zero)
        g[0] = slope if absolute(z) > 0 else z
        h[0] = zero_like(z)
        d[0] = -g[0]

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        """The majoriser of |z|/2, which differs from the loss by a linear function of z."""
        return <real_t>.5 * inverse_distance(x - y)


@cython.final
cdef class PinballOfQuantile(Kernel):
    """The same for a quantile q, whose slopes may be 0 or NaN."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t z = x - y, zero = 0, slope = <real_t>1 - q if z > 0 else -q, none = zero_like(fma(slope, zero, z))
        # a slope of 0 costs nothing: 0 * inf
        l[0] = none if slope == 0 else fma(slope, z, zero)
        g[0] = slope if absolute(z) > 0 else none
        h[0] = none
        d[0] = -g[0]
        e[0] = -z

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h) noexcept nogil:
        return <real_t>.5 * inverse_distance(x - y)


@cython.final
cdef class SmoothPinball(Scaled):
    """l = c (q log(1 + e^-t) + (1 - q) log(1 + e^t)), t = z/c."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t z = x - y, one = 1, rest, t = signed_as(over(self, absolute(z), &rest), z)
        logistic(t, one - q if signed_as(one, z) > 0 else -q, one, l, g, h)
        l[0] = <real_t>self.scale[real_t is double] * l[0]
        h[0] = over(self, h[0], &rest)
        d[0] = -g[0]
        e[0] = -z

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h) noexcept nogil:
        cdef real_t rest, t = over(self, absolute(x - y), &rest)
        return over(self, logistic_bend(t), &rest)


ctypedef fused regression_t:
    L1
    L2
    Huber
    EpsilonInsensitive
    SquaredEpsilonInsensitive
    Expectile
    SquaredLogarithmic
    Pinball

ctypedef fused quantile_t:
    PinballOfQuantile
    SmoothPinball

ctypedef fused regression_even_t:
    Huber

ctypedef fused regression_heavy_t:
    SquaredLogarithmic

ctypedef fused regression_surrogate_t:
    L1
    EpsilonInsensitive
    SquaredEpsilonInsensitive
    Expectile
    SquaredLogarithmic
    Pinball

ctypedef fused light_regression_t:
    L1
    L2
    Huber
    EpsilonInsensitive
    SquaredEpsilonInsensitive
    Expectile
    Pinball

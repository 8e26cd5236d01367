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

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        """The majoriser of |z|/2, from which the loss differs by z/2."""
        return <real_t>.5 * y * y * inverse_distance(fma(-x, y, <real_t>self.margin))


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

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return <real_t>2 * y * y


@cython.final
cdef class SmoothedHinge(Kernel):
    """l = height c/gamma (t - c/2), t = max(0, 1 - s x), c = min(t, gamma), and the sign s = slope y + shift.

    This is Huber's formula in the distance t to the margin.
    """
    cdef double height, slope, shift
    cdef double gamma[2]

    def __cinit__(self, double gamma, double height, double slope, double shift):
        self.height, self.slope, self.shift = height, slope, shift
        # neither 0 nor infinite in float32: c/gamma would be NaN
        self.gamma[0] = min(max(gamma, 1.1754943508222875e-38), 3.4028234663852886e38)
        self.gamma[1] = gamma

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t gamma = <real_t>self.gamma[real_t is double], height = <real_t>self.height, zero = 0, one = 1
        cdef real_t slope = <real_t>self.slope, s = fma(slope, y, <real_t>self.shift), z = fma(-x, s, one)
        cdef real_t t = zero if z <= 0 else z, c = gamma if t > gamma else t, r = height * (c / gamma)
        l[0] = r * fma(<real_t>-.5, c, t)
        # beyond the margin an infinite x or s costs nothing: 0 * inf
        g[0] = zero if r == 0 else -r * s
        h[0] = height / gamma * s * s if (z > 0) & (z <= gamma) else zero_like(z)
        d[0] = zero if r == 0 else -r * x * slope

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        """The slope divided by the distance to the margin; 1/gamma, the limit, where the slope is 0."""
        cdef real_t gamma = <real_t>self.gamma[real_t is double], one = 1
        cdef real_t s = fma(<real_t>self.slope, y, <real_t>self.shift), z = fma(-x, s, one)
        return <real_t>self.height * s * s / (z if z > gamma else gamma)


@cython.final
cdef class HingeEmbedding(Kernel):
    """l = x for y = 1, max(0, margin - x) for y = -1; any real y is the mixture with (1 + y)/2 of 1."""
    cdef double margin

    def __cinit__(self, double margin):
        self.margin = margin

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t zero = 0, half = .5, p = fma(half, y, half), m = <real_t>1 - p, z = <real_t>self.margin - x
        cdef real_t t = zero if z <= 0 else z
        # a share of 0 has no part: 0 * inf
        l[0] = (zero if p == 0 else p * x) + (zero if m == 0 else m * t)
        h[0] = nan_unless(l[0] == l[0], zero)
        g[0] = h[0] + (p - m if z > 0 else p)
        d[0] = half * (x - t)


@cython.final
cdef class Exponential(Kernel):
    """l = p e^-x + (1 - p) e^x, with the share p = slope y + shift of the positive class."""
    cdef double slope, shift

    def __cinit__(self, double slope, double shift):
        self.slope, self.shift = slope, shift

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t slope = <real_t>self.slope, p = fma(slope, y, <real_t>self.shift), m = <real_t>1 - p, zero = 0
        cdef real_t up = exp(x), down = exp(-x)
        # a share of 0 has no part: 0 * inf
        cdef real_t positive = p * down if absolute(p) > 0 else p, negative = m * up if absolute(m) > 0 else m
        l[0] = positive + negative
        # an infinite share has no loss: times 0, it is NaN
        g[0] = fma(p, zero, negative - positive)
        h[0] = l[0]
        d[0] = slope * (down - up)


@cython.final
cdef class Logistic(Kernel):
    """l = log(1 + e^(-x y)) for y = -1, +1; any real y is the mixture with (1 + y)/2 of +1."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t half = .5
        logistic(x, fma(-half, y, signed_as(half, x)), <real_t>1, l, g, h)
        d[0] = -half * x

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return logistic_bend(x)


@cython.final
cdef class SigmoidCrossEntropy(Kernel):
    """l = y log(1 + e^-x) + (1 - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t half = .5
        logistic(x, (signed_as(half, x) + half) - y, <real_t>1, l, g, h)
        d[0] = -x

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return logistic_bend(x)


@cython.final
cdef class PolySigmoidCrossEntropy(Kernel):
    """l = y (log(1 + e^-x) + epsilon q) + (1 - y) (log(1 + e^x) + epsilon p), p = 1 - q = 1/(1 + e^-x)."""
    cdef double epsilon

    def __cinit__(self, double epsilon):
        self.epsilon = epsilon

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t half = .5, one = 1, epsilon = <real_t>self.epsilon
        cdef real_t u = exp_nonpositive(minus_absolute(x)), near = one / (one + u), far = u / (one + u)
        cdef real_t p = near if x > 0 else far, q = far if x > 0 else near, slope = epsilon * (one - (y + y))
        logistic_from(u, x, (signed_as(half, x) + half) - y, one, l, g, h)
        l[0] += epsilon * fma(y, q, (one - y) * p)
        g[0] = fma(slope, p * q, g[0])
        # 1 + slope (q - p) by 2 p = 1 - (q - p), or by 2 q: nothing cancels where |slope| is up to 1
        h[0] *= fma(<real_t>2 * absolute(slope), q if slope > 0 else p, one - absolute(slope))
        d[0] = epsilon * (q - p) - x

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        """The second derivative of p is at most 1/(6 sqrt(3))."""
        cdef real_t slope = <real_t>self.epsilon * (<real_t>1 - (y + y))
        return fma(absolute(slope), <real_t>.09622504486493764, logistic_bend(x))


@cython.final
cdef class WeightedSigmoidCrossEntropy(Kernel):
    """l = q y log(1 + e^-x) + (1 - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t p = q * y, m = <real_t>1 - y, zero = 0, one = 1
        cdef real_t tail = logistic(x, m if signed_as(one, x) > 0 else -p, p + m, l, g, h)
        cdef real_t positive = tail + (-x if x < 0 else zero), negative = tail + (x if x > 0 else zero)
        # the sum of both parts may be infinite where their difference is not
        g[0] = g[0] if l[0] == l[0] else l[0]
        h[0] = h[0] if l[0] == l[0] else l[0]
        d[0] = fma(q, positive, -negative)
        # a label of 0 has no part: 0 * inf
        e[0] = zero if y == 0 else y * positive

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t q, real_t g, real_t h) noexcept nogil:
        return absolute(fma(q, y, <real_t>1 - y)) * logistic_bend(x)


@cython.final
cdef class ProbabilityCrossEntropy(Kernel):
    """l = -q y log(x + eps) - (1 - y) log(1 - x + eps), eps = 1e-12, x a probability; 0 where eps takes it below."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                        real_t* e) noexcept nogil:
        cdef real_t one = 1, zero = 0, eps = 1e-12, nan = NAN
        # each logarithm takes a sum with an exact part: 1 + (x - 1 + eps) near 1, x + eps elsewhere
        cdef bint high = x >= <real_t>.5
        cdef real_t positive = -log_sum(one if high else x, (x - one) + eps if high else eps)
        cdef real_t negative = -log_sum(one - x if high else one, eps if high else eps - x)
        # NaN comes from the logarithm of a negative number, and from the parts of an infinite label
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
    SmoothedHinge
    HingeEmbedding
    Exponential
    Logistic
    SigmoidCrossEntropy
    PolySigmoidCrossEntropy

ctypedef fused weighted_binary_t:
    WeightedSigmoidCrossEntropy
    ProbabilityCrossEntropy

ctypedef fused binary_surrogate_t:
    Hinge
    SquaredHinge
    SmoothedHinge
    Logistic
    SigmoidCrossEntropy
    PolySigmoidCrossEntropy
    WeightedSigmoidCrossEntropy

ctypedef fused light_binary_t:
    Hinge
    SquaredHinge
    SmoothedHinge
    HingeEmbedding

"""The mathematics of every loss, and the loops over it. Built once per instruction set.

Notation: x prediction, y target, z = x - y, a = |x| or |z|; l the loss, g and h its first and second derivative
in x, d its derivative in y; q a third input and e the derivative in it.

Where l is NaN, so are all derivatives. For d and e the loop sees to that, which has l at hand; g and h are computed
without l where nobody wants it, so each loss gives them a NaN of their own.
"""

cimport cython
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, NAN, floor, fma as exact_fma, sqrt

from fastloss._machine cimport (
    arithmetic, atomic_load, atomic_store, begin_team, compute_as, doubles_apart, end_streams, fetch_add, floats_apart,
    lanes_t, now, own_crew, prefetch_512, stream, team_runs,
)
from fastloss._math cimport (
    absolute, bits_d, bits_f, count, counter, exp, exp_from, exp_nonpositive, exp_range, exp_reduced, fma, from_bits_d, from_bits_f, log1p_unit,
    log_sum, minus_absolute, pow2, real_t, signed_as,
)
from fastloss._plan cimport (
    BLOCK_BYTES, BUFFERS, CACHE_LINE, GRAD, HEAD, HESS, INPUTS, LABEL, LABEL_GRAD, OUTPUTS, OWN_BUFFERS, PAIR_ROWS, PANEL, PASS_ALL_OF_PRED, PASS_EVERYTHING, PASS_GRADIENT,
    PASS_GRADIENT_HESSIAN, PASS_VALUE, PASS_VALUE_GRADIENT, PRED, SMALL_BYTES, STRIP_BYTES, THIRD, THIRD_GRAD, VALUE, WEIGHT, WEIGHT_GRAD,
    array_t, ctc_t, kernel_t, loop_t, pairs_t, plan_t, rows_t, runner_t, sum_t, watch_t,
)


include "fastloss/_blocks.pxi"


cdef class Kernel:
    """What all losses share: the table of their loops."""
    cdef kernel_t table


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
    """l = c/rho (a - c/2), c = min(a, rho): quadratic up to rho, then linear with slope 1 (Huber 1964, in Gluon's scale)."""
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


cdef inline real_t logistic(real_t x, real_t far, real_t total, real_t* l, real_t* g, real_t* h) noexcept nogil:
    """l = p log(1 + e^-x) + m log(1 + e^x) and its derivatives, total = p + m; returns log(1 + e^-|x|).

    `far` is the slope that the loss tends to on x's side: m, or -p where x has the sign bit; `near` that on the other.
    With u = e^-|x|: l = far x + total log(1 + u), g = (far + near u)/(1 + u), h = total u/(1 + u)^2. No term cancels
    where far is 0, so tails keep their digits.
    """
    cdef real_t one = 1, zero = 0
    # total has a sign of its own, for labels and weights of any kind
    cdef real_t u = exp_nonpositive(minus_absolute(x)), s = one + u, near = far - signed_as(one, x) * total
    cdef real_t tail = log1p_unit(u)
    # a certain and correct prediction, 0 * inf, costs nothing
    l[0] = fma(total, tail, zero if far == 0 else far * x)
    # an infinite label has no loss where x is 0: times 0, it is NaN
    g[0] = fma(near, u, fma(far, zero, far)) / s
    h[0] = fma(far, zero, total * (u / s / s))
    return tail


@cython.final
cdef class Logistic(Kernel):
    """l = log(1 + e^(-x y)) for y = -1, +1; any real y is the mixture with (1 + y)/2 of +1."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t half = .5
        logistic(x, fma(-half, y, signed_as(half, x)), <real_t>1, l, g, h)
        d[0] = -half * x


@cython.final
cdef class SigmoidCrossEntropy(Kernel):
    """l = y log(1 + e^-x) + (1 - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t half = .5
        logistic(x, (signed_as(half, x) + half) - y, <real_t>1, l, g, h)
        d[0] = -x


@cython.final
cdef class WeightedSigmoidCrossEntropy(Kernel):
    """l = q y log(1 + e^-x) + (1 - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
        cdef real_t p = q * y, m = <real_t>1 - y, zero = 0, one = 1
        cdef real_t tail = logistic(x, m if signed_as(one, x) > 0 else -p, p + m, l, g, h)
        cdef real_t positive = tail + (-x if x < 0 else zero), negative = tail + (x if x > 0 else zero)
        # the total of both parts may be infinite where their difference is none
        g[0] = g[0] if l[0] == l[0] else l[0]
        h[0] = h[0] if l[0] == l[0] else l[0]
        d[0] = fma(q, positive, -negative)
        # a label of 0 has no part in it: 0 * inf
        e[0] = zero if y == 0 else y * positive


@cython.final
cdef class ProbabilityCrossEntropy(Kernel):
    """l = -q y log(x + eps) - (1 - y) log(1 - x + eps), eps = 1e-12, for a probability x; 0 where eps takes it below."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
        cdef real_t one = 1, zero = 0, eps = 1e-12, nan = NAN
        # each logarithm of a sum of which one part is exact: 1 + (x - 1 + eps) near 1, x + eps elsewhere
        cdef bint high = x >= <real_t>.5
        cdef real_t positive = -log_sum(one if high else x, (x - one) + eps if high else eps)
        cdef real_t negative = -log_sum(one - x if high else one, eps if high else eps - x)
        # the logarithm of a negative number is NaN, as are the two parts of an infinite label together
        cdef real_t left = x + eps if x + eps >= 0 else nan, right = (one - x) + eps if (one - x) + eps >= 0 else nan
        cdef real_t share = fma(y, zero, y), rest = one - share
        cdef real_t p = q * share / left, m = rest / right
        l[0] = fma(q * share, positive, rest * negative)
        l[0] = zero if (l[0] < 0) & (q * share >= 0) & (rest >= 0) else l[0]
        g[0] = m - p
        h[0] = p / left + m / right
        d[0] = fma(q, positive, -negative)
        e[0] = y * positive


cdef inline void add_stirling(real_t y, real_t rate, real_t log_rate, real_t* l, real_t* d) noexcept nogil:
    """Adds log y!, approximately, to l = rate - y log_rate: (y + 1/2) log y - y + log(2 pi)/2 where y > 1, else 0; its derivative to d."""
    cdef real_t one = 1, zero = 0, c = one if y <= one else y, log_c = log_sum(c, zero), inf = <real_t>INFINITY
    cdef real_t constant = zero if y <= one else fma(c + <real_t>.5, log_c, <real_t>.9189385332046727 - c)
    # what is far beyond the range together: no inf - inf
    cdef real_t both = fma(c, (log_c - one) - (zero if rate == inf else log_rate), rate)
    l[0] = l[0] + constant if constant < inf else both
    d[0] += zero if y <= one else log_c + <real_t>.5 / c


cdef inline void poisson(real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
    """l = e^x - y x, x the logarithm of the rate."""
    # where e^x is infinite, so is the loss: no inf - inf. The largest logarithm of a finite rate is known before the rate
    cdef real_t rate = exp(x), zero = 0, one = 1, most, log_rate
    if real_t is float:
        most = <float>88.722831726
    else:
        most = 709.782712893384
    log_rate = one if x > most else x
    # no count, no logarithm: 0 * -inf
    l[0] = rate if y == 0 else fma(-log_rate, y, rate)
    # an infinite count has no loss where x is 0: times 0, it is NaN
    g[0] = fma(y, zero, rate - y)
    h[0] = fma(y, zero, rate)
    d[0] = -x


cdef inline void poisson_rate(real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
    """l = x - y log(x + eps), x the rate; q = eps."""
    cdef real_t rate = x + q, log_rate = log_sum(x, q), zero = 0, one = 1, nan = NAN, most = 1e3, least, large, up, time
    # a factor keeps the reciprocal of a rate of about 0 in the range
    if real_t is float:
        least, large = <float>1e-30, <float>1.8446744073709552e+19
    else:
        least, large = 1e-290, 1.8446744073709552e+19
    up = large if rate < least else one
    # what has no logarithm has no reciprocal
    rate = nan if rate < 0 else rate
    time = one / (rate * up)
    # no count, no logarithm; an infinite rate is larger than its logarithm
    l[0] = x if y == 0 else fma(-y, one if log_rate > most else log_rate, x)
    e[0] = zero if (y == 0) & (x == x) else -y * time * up
    # 1 - y/(x + eps), near the best rate without cancellation; times 0, an infinite count, which has no loss for a rate of 1, is NaN
    g[0] = fma(y, zero, one + e[0] if e[0] > -<real_t>.5 else ((x - y) + q) * time * up)
    h[0] = zero if (y == 0) & (x == x) else fma(y, zero, y * time * up * time * up)
    d[0] = -log_rate


@cython.final
cdef class Poisson(Kernel):
    """l = e^x - y x."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        poisson(x, y, l, g, h, d)


@cython.final
cdef class PoissonFull(Kernel):
    """l = e^x - y x + log y!."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        poisson(x, y, l, g, h, d)
        add_stirling(y, exp(x), x, l, d)


@cython.final
cdef class PoissonRate(Kernel):
    """l = x - y log(x + eps)."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
        poisson_rate(x, y, q, l, g, h, d, e)


@cython.final
cdef class PoissonRateFull(Kernel):
    """l = x - y log(x + eps) + log y!."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
        poisson_rate(x, y, q, l, g, h, d, e)
        add_stirling(y, x, -d[0], l, d)


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


ctypedef fused binary_t:
    L1
    L2
    Huber
    Hinge
    SquaredHinge
    Logistic
    SigmoidCrossEntropy
    Poisson
    PoissonFull
    KLDivergence

ctypedef fused ternary_t:
    WeightedSigmoidCrossEntropy
    ProbabilityCrossEntropy
    PoissonRate
    PoissonRateFull

ctypedef fused loss_t:
    binary_t
    ternary_t

# A few operations each: they wait for memory, and to store their values and read them again for a sum would be a good
# part of the work.
ctypedef fused light_t:
    L1
    L2
    Huber
    Hinge
    SquaredHinge

# The losses over rows. Their loops are in files of their own, by their shape.

@cython.final
cdef class SoftmaxCrossEntropy(Kernel):
    """l = -sum_j t_j log softmax(x)_j; its parameters are in the plan."""


@cython.final
cdef class SoftmaxDivergence(Kernel):
    """l_j = y_j (log(y_j + eps) - log softmax(x)_j)."""


@cython.final
cdef class Triplet(Kernel):
    """l = max(0, margin + |y - x|^2 - |q - x|^2)."""
    cdef double margin

    def __cinit__(self, double margin):
        self.margin = margin


@cython.final
cdef class CosineEmbedding(Kernel):
    """l = 1 - c where q = 1, max(0, c - margin) where q = -1, c = x.y / max(|x| |y|, 1e-12)."""
    cdef double margin

    def __cinit__(self, double margin):
        self.margin = margin


@cython.final
cdef class TemporalClassification(Kernel):
    """l = -log P(label), summed over the alignments with the frames; its parameters are in the plan."""


@cython.final
cdef class SmoothedMetric(Kernel):
    """l_i = KL(t_i | softmax_j(-|x_i - y_j|^2)); its parameters are in the plan."""


ctypedef fused row_loss_t:
    SoftmaxCrossEntropy
    SoftmaxDivergence
    SmoothedMetric
    TemporalClassification
    Triplet
    CosineEmbedding

ctypedef fused any_loss_t:
    loss_t
    row_loss_t


cdef struct Value:
    int unused
cdef struct Gradient:
    int unused
cdef struct ValueGradient:
    int unused
cdef struct GradientHessian:
    int unused
cdef struct AllOfPred:
    int unused
cdef struct Everything:
    int unused

ctypedef fused pass_t:
    Value
    Gradient
    ValueGradient
    GradientHessian
    AllOfPred
    Everything


# what a sum comes with
ctypedef fused sum_pass_t:
    Value
    ValueGradient

# results, of the type of the inputs: a result that lies over an input is written to a buffer first
ctypedef fused apart_t:
    floats_apart
    doubles_apart

cdef enum:
    GRAIN = 8       # elements of whose multiple a loop takes: it needs no second body for single ones


cdef void evaluate(loss_t kernel, pass_t* what, Py_ssize_t n, double scale, const real_t* x, const real_t* y, const real_t* q,
                   apart_t l, apart_t g, apart_t h, apart_t d, apart_t e) noexcept nogil:
    """The one loop over elements: what the pass stores is known at compile time, the compiler drops the rest."""
    cdef Py_ssize_t i
    cdef real_t c = <real_t>scale, li, gi, hi, di, ei
    for i in range(n & -GRAIN):
        if loss_t in ternary_t:
            kernel.at(x[i], y[i], q[i], &li, &gi, &hi, &di, &ei)
        else:
            kernel.at(x[i], y[i], &li, &gi, &hi, &di)
        if pass_t is Value or pass_t is ValueGradient or pass_t is AllOfPred or pass_t is Everything:
            l[i] = li
        if pass_t is not Value:
            g[i] = c * gi
        if pass_t is GradientHessian or pass_t is AllOfPred or pass_t is Everything:
            h[i] = c * hi
        if pass_t is Everything:
            d[i] = c * di if li == li else li
            if loss_t in ternary_t:
                e[i] = c * ei if li == li else li


cdef void evaluate_all(loop_t loop, void* kernel, Py_ssize_t n, double scale, const real_t* x, const real_t* y, const real_t* q,
                       real_t** out, Py_ssize_t at) noexcept nogil:
    """A loop over any number of elements: the last few in copies, filled up with one of them. Results are written from element `at` on."""
    cdef Py_ssize_t whole = n & -GRAIN, k, i
    cdef int kind
    cdef real_t xs[GRAIN]
    cdef real_t ys[GRAIN]
    cdef real_t qs[GRAIN]
    cdef real_t results[WEIGHT_GRAD][GRAIN]
    if whole:
        loop(kernel, NULL, whole, scale, x, y, q, out[VALUE] + at, out[GRAD] + at, out[HESS] + at, out[LABEL_GRAD] + at, out[THIRD_GRAD] + at)
    if whole == n:
        return
    for k in range(GRAIN):
        i = whole + k if whole + k < n else whole
        xs[k], ys[k], qs[k] = x[i], y[i], q[i]
        for kind in range(WEIGHT_GRAD):
            results[kind][k] = 0
    loop(kernel, NULL, GRAIN, scale, &xs[0], &ys[0], &qs[0], &results[VALUE][0], &results[GRAD][0], &results[HESS][0], &results[LABEL_GRAD][0], &results[THIRD_GRAD][0])
    for kind in range(WEIGHT_GRAD):
        for i in range(whole, n):
            out[kind][at + i] = results[kind][i - whole]


cdef void evaluate_sum(light_t kernel, sum_pass_t* what, Py_ssize_t n, Py_ssize_t at, double scale, const real_t* x,
                       const real_t* y, apart_t g, lanes_t lane) noexcept nogil:
    """Adds the losses of a multiple of LANES elements to the lanes without storing them.

    As sum_by_fours() does where `at` is the first one's position in its block, and as lane_sum() does where it is -1.
    """
    cdef Py_ssize_t i = 0, k
    cdef real_t c = <real_t>scale, l0, l1, l2, l3, g0, g1, g2, g3, h, d
    cdef lanes_t octet
    if real_t is double:
        while at >= 0 and i < n:
            octet = lane + octet_of(at + i)
            for k in range(i, i + OCTET):
                kernel.at(x[k], y[k], &l0, &g0, &h, &d)
                kernel.at(x[k + OCTET], y[k + OCTET], &l1, &g1, &h, &d)
                kernel.at(x[k + 2 * OCTET], y[k + 2 * OCTET], &l2, &g2, &h, &d)
                kernel.at(x[k + 3 * OCTET], y[k + 3 * OCTET], &l3, &g3, &h, &d)
                octet[k - i] += (l0 + l1) + (l2 + l3)
                if sum_pass_t is ValueGradient:
                    g[k] = c * g0
                    g[k + OCTET] = c * g1
                    g[k + 2 * OCTET] = c * g2
                    g[k + 3 * OCTET] = c * g3
            i += LANES
    while i < n:
        for k in range(LANES):
            kernel.at(x[i + k], y[i + k], &l0, &g0, &h, &d)
            lane[k] += l0
            if sum_pass_t is ValueGradient:
                g[i + k] = c * g0
        i += LANES


cdef void fill_sums(light_t kernel, sum_t* sums, real_t* dtype, apart_t result) noexcept:
    sums[0] = <sum_t>evaluate_sum[light_t, Value, real_t, apart_t]
    sums[1] = <sum_t>evaluate_sum[light_t, ValueGradient, real_t, apart_t]


cdef void fill(loss_t kernel, loop_t* loops, real_t* dtype, apart_t result) noexcept:
    loops[PASS_VALUE] = <loop_t>evaluate[loss_t, Value, real_t, apart_t]
    loops[PASS_GRADIENT] = <loop_t>evaluate[loss_t, Gradient, real_t, apart_t]
    loops[PASS_VALUE_GRADIENT] = <loop_t>evaluate[loss_t, ValueGradient, real_t, apart_t]
    loops[PASS_GRADIENT_HESSIAN] = <loop_t>evaluate[loss_t, GradientHessian, real_t, apart_t]
    loops[PASS_ALL_OF_PRED] = <loop_t>evaluate[loss_t, AllOfPred, real_t, apart_t]
    loops[PASS_EVERYTHING] = <loop_t>evaluate[loss_t, Everything, real_t, apart_t]


cdef inline void multiply(real_t* a, const real_t* b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        a[i] *= b[i]


cdef inline real_t unless_zero(real_t w, real_t x) noexcept nogil:
    """x, but 0 where w is 0. By bits: gcc would load what a choice leaves unused under a mask, which takes longer."""
    if real_t is float:
        return from_bits_f(bits_f(x) & -<uint32_t>(w != 0))
    else:
        return from_bits_d(bits_d(x) & -<uint64_t>(w != 0))


cdef inline void weigh_apart(apart_t a, const real_t* m, const real_t* w, Py_ssize_t n) noexcept nogil:
    """a_i *= m_i, and 0 where w_i is 0, whatever a_i is: some vectors at once, or the loop itself would take its time."""
    cdef Py_ssize_t i = 0, k
    while i + LANES <= n:
        for k in range(LANES):
            a[i + k] = unless_zero(w[i + k], a[i + k] * m[i + k])
        i += LANES
    for k in range(i, n):
        a[k] = unless_zero(w[k], a[k] * m[k])


cdef inline void weigh(real_t* a, const real_t* m, const real_t* w, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    """n elements of a from `at` on, times m unless that is NULL; 0 where there are weights w and one is 0."""
    if w == NULL:
        if m != NULL:
            multiply(a + at, m + at, n)
    elif real_t is float:
        weigh_apart(<floats_apart>(a + at), m + at, w + at, n)
    else:
        weigh_apart(<doubles_apart>(a + at), m + at, w + at, n)


cdef inline void multiply_by(real_t* a, double factor, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef real_t c = <real_t>factor
    if c != 1:
        for i in range(n):
            a[i] *= c


cdef inline void set_all(real_t* a, real_t v, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        a[i] = v


cdef inline void put_sum(const plan_t* p, int kind, Py_ssize_t start, Py_ssize_t task, double scale, double sum, real_t* like) noexcept nogil:
    """Brings the sum of a run, or of a piece of one, where it belongs."""
    if p.pieces:
        p.partial[kind][task] = sum
    else:
        put_total(&p.outputs[kind], start // p.span, scale * sum)


cdef void finish(const plan_t* p, int kind, Py_ssize_t start, Py_ssize_t n, Py_ssize_t task, double scale, real_t* a) noexcept nogil:
    """Brings a block of results where it belongs: the caller's array, or the sums."""
    cdef const char* data = p.outputs[kind].data
    cdef double* sums
    cdef Py_ssize_t i
    if not p.outputs[kind].reduced:
        multiply_by(a, scale, n)
        if p.outputs[kind].streamed:
            stream(data + start * <Py_ssize_t>sizeof(real_t), a, n * sizeof(real_t))
        elif not p.outputs[kind].direct:
            scatter(&p.outputs[kind], start, n, a)
    elif p.pieces:
        put_sum(p, kind, start, task, scale, long_sum(a, n), a)
    elif p.span:
        for i in range(n // p.span):
            put_sum(p, kind, start + i * p.span, task, scale, lane_sum(a + i * p.span, p.span), a)
    else:
        sums = p.partial[kind] + task * 2 * p.outputs[kind].size
        accumulate(&p.outputs[kind], start, n, a, sums, sums + p.outputs[kind].size)


cdef inline real_t* place(const plan_t* p, int kind, Py_ssize_t start, real_t* buffer) noexcept nogil:
    """Where a block of results is written first."""
    if p.outputs[kind].data != NULL and p.outputs[kind].direct and not p.outputs[kind].reduced:
        return <real_t*>p.outputs[kind].data + start
    return buffer


cdef enum:
    LOOK_WORK = 1 << 20     # elements' worth of work between two looks at the clock: a few milliseconds
    PATIENCE = 50000000     # nanoseconds between two questions to Python, which may have to wait for the interpreter's lock


cdef inline bint stopped(const plan_t* p, Py_ssize_t* since, Py_ssize_t work) noexcept nogil:
    """Whether the call is to end here. Asked before every piece of work; `since` is what this thread has done since it looked."""
    since[0] += work
    if since[0] < LOOK_WORK or p.watch == NULL:
        return False
    if look(p.watch):
        return True
    since[0] = 0
    return False


cdef bint look(watch_t* w) noexcept nogil:
    """Whether a signal has ended the call. The thread that made it asks now and then; the others never wait for it."""
    cdef int64_t next = atomic_load(&w.next), time
    if next >= 0 and threadid() == 0:
        time = now()
        if next == 0:
            next = time + PATIENCE
        elif time >= next:
            next = -1 if w.interrupted(w.state) else now() + PATIENCE
        atomic_store(&w.next, next)
    return next < 0


cdef inline bint is_good(double x, double low, double high, double also) noexcept nogil:
    return low <= x <= high and x == floor(x) or x == also


cdef bint is_left_out(const array_t* weight, Py_ssize_t at) noexcept nogil:
    """Whether the weight of an element is 0; not if there are no weights."""
    cdef double w = 1
    if weight != NULL and weight.data != NULL:
        gather(weight, at, 1, &w)
    return w == 0


cdef Py_ssize_t bad_integer(const plan_t* p, const array_t* a, const array_t* weight, Py_ssize_t start, Py_ssize_t n, double low, double high,
                            double also, int64_t* to) noexcept nogil:
    """The position of the first of the elements start to start + n that is no integer from low to high, nor `also`; -1 if all are.

    Elements of weight 0 are not looked at. Copies them unless `to` is NULL: of an array that changes meanwhile the copy is what was checked.
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


include "fastloss/_softmax.pxi"
include "fastloss/_vectors.pxi"
include "fastloss/_ctc.pxi"
include "fastloss/_pairs.pxi"


cdef inline void look_ahead(const plan_t* p, Py_ssize_t start, real_t* like) noexcept nogil:
    """Asks for the strip of each input that begins with element `start`."""
    cdef const char* at
    cdef int kind
    for kind in range(INPUTS):
        if p.inputs[kind].data != NULL and p.inputs[kind].direct:
            at = p.inputs[kind].data + start * <Py_ssize_t>sizeof(real_t)
            prefetch_512(at)
            if p.strip == STRIP_BYTES:
                prefetch_512(at + 512)


cdef enum:
    SUMMED = 1      # the values are in the lanes
    WEIGHED = 2     # the values are multiplied by their weights


cdef inline int elementwise(const plan_t* p, Py_ssize_t start, Py_ssize_t n, Py_ssize_t task, const real_t* m, const real_t* w,
                            real_t** out, double* lane, real_t* buffers) noexcept nogil:
    """The values of an elementwise loss, in out[VALUE] or the lanes, as the flags that it returns say; and its derivatives."""
    cdef Py_ssize_t size = p.buffer // <Py_ssize_t>sizeof(real_t), i = 0, j, k, whole, done = 0
    # half a block of each array that is weighed stays in the L1 cache
    cdef Py_ssize_t ahead = p.ahead // <Py_ssize_t>sizeof(real_t), half = BLOCK_BYTES // 2 // <Py_ssize_t>sizeof(real_t)
    cdef bint fours = p.pieces and by_fours(n, buffers)
    cdef Py_ssize_t strip = p.strip // <Py_ssize_t>sizeof(real_t) if ahead else half if w != NULL else n
    cdef int kind
    cdef real_t* x = fetch(&p.inputs[PRED], start, n, buffers + 9 * size)
    cdef real_t* y = fetch(&p.inputs[LABEL], start, n, buffers + 10 * size)
    cdef real_t* q = fetch(&p.inputs[THIRD], start, n, buffers + 11 * size)
    cdef bint summed, weighed
    for kind in range(GRAD, WEIGHT_GRAD):
        out[kind] = place(p, kind, start, buffers + (4 + kind) * size)
    summed = p.sum != NULL and p.outputs[VALUE].data != NULL and n >= LANES and (p.pieces or n == p.span)
    for k in range(LANES if summed else 0):
        lane[k] = 0
    # the gradient in the weights takes the values without them
    weighed = w != NULL and p.outputs[VALUE].data != NULL and p.outputs[WEIGHT_GRAD].data == NULL
    if q == NULL:
        # nobody reads it
        q = x
    while i < n:
        if ahead:
            look_ahead(p, start + i + ahead, x)
        k = min(strip, n - i)
        whole = k & -LANES if summed else 0
        if whole:
            p.sum(p.kernel, NULL, whole, i if fours else -1, p.grad_scale, x + i, y + i, out[GRAD] + i, lane)
        if whole < k:
            evaluate_all(p.loop, p.kernel, k - whole, p.grad_scale, x + i + whole, y + i + whole, q + i + whole, out, i + whole)
            for j in range(k - whole if summed else 0):
                lane[j] += out[VALUE][i + whole + j]
        i += k
        # streamed are whole cache lines: the rest of the last one waits for the next strip
        k = n if i == n else i - p.lead
        if weighed:
            weigh(out[VALUE], w, w, done, k - done)
        for kind in range(GRAD, WEIGHT_GRAD):
            if p.outputs[kind].data != NULL and not p.outputs[kind].reduced:
                weigh(out[kind], m, w, done, k - done)
                finish(p, kind, start + done, k - done, task, 1, out[kind] + done)
        done = k
    for kind in range(GRAD, WEIGHT_GRAD):
        if p.outputs[kind].data != NULL and p.outputs[kind].reduced:
            weigh(out[kind], m, w, 0, n)
            finish(p, kind, start, n, task, 1, out[kind])
    return SUMMED * summed | WEIGHED * weighed


cdef inline void weight_gradients(const real_t* l, const real_t* head, const real_t* w, Py_ssize_t n, real_t* to) noexcept nogil:
    """The losses times their head_grad; 0 for an example of weight 0 that has no finite loss."""
    cdef Py_ssize_t i
    cdef real_t zero = 0
    if head == NULL:
        memcpy(to, l, n * sizeof(real_t))
    else:
        for i in range(n):
            to[i] = l[i] * head[i]
    if w != NULL:
        for i in range(n):
            to[i] = zero if w[i] == 0 and not to[i] - to[i] == 0 else to[i]


cdef void block(const plan_t* p, Py_ssize_t start, Py_ssize_t n, Py_ssize_t task, real_t* buffers) noexcept nogil:
    """The pipeline for elements start to start + n of the unreduced loss: gather, the loss, weights, sums, scatter."""
    cdef Py_ssize_t size = p.buffer // <Py_ssize_t>sizeof(real_t), i
    cdef int state = 0
    cdef double lane[LANES]
    cdef real_t* out[OUTPUTS]
    cdef real_t* w = fetch(&p.inputs[WEIGHT], start, n, buffers)
    cdef real_t* head = fetch(&p.inputs[HEAD], start, n, buffers + size)
    cdef real_t* m = w if w != NULL else head
    if w != NULL and head != NULL:
        m = buffers + 2 * size
        memcpy(m, head, n * sizeof(real_t))
        weigh(m, w, w, 0, n)
    out[VALUE] = place(p, VALUE, start, buffers + 3 * size)
    if p.weights_only and not p.sparse:
        set_all(out[VALUE], <real_t>1, n)
    elif p.rows != NULL:
        p.rows(p.kernel, p, start, n, m, w, out[VALUE], buffers + OWN_BUFFERS * size)
    else:
        state = elementwise(p, start, n, task, m, w, &out[0], &lane[0], buffers)
    if p.outputs[WEIGHT_GRAD].data != NULL:
        out[WEIGHT_GRAD] = place(p, WEIGHT_GRAD, start, buffers + 4 * size)
        weight_gradients(out[VALUE], head, w, n, out[WEIGHT_GRAD])
        finish(p, WEIGHT_GRAD, start, n, task, p.grad_scale, out[WEIGHT_GRAD])
    if state & SUMMED:
        put_sum(p, VALUE, start, task, p.value_scale, add_lanes(&lane[0]), buffers)
    elif p.outputs[VALUE].data != NULL:
        if w != NULL and not state & WEIGHED:
            weigh(out[VALUE], w, w, 0, n)
        finish(p, VALUE, start, n, task, p.value_scale, out[VALUE])


cdef void run_in(const plan_t* p, Py_ssize_t task, char* memory, real_t* like) noexcept nogil:
    cdef real_t* buffers = <real_t*>((<size_t>memory + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
    cdef Py_ssize_t start, end, since = 0
    if p.pieces:
        start = task // p.pieces * p.span
        end = start + p.span
        start += task % p.pieces * p.block
        end = min(end, start + p.block)
    else:
        start = max(<Py_ssize_t>0, task * p.step - p.before)
        end = min(p.size, (task + 1) * p.step - p.before)
    while True:
        block(p, start, min(p.block, end - start), task, buffers)
        start += p.block
        if start >= end or stopped(p, &since, p.block):
            return


cdef void run_small(const plan_t* p, Py_ssize_t task, real_t* like) noexcept nogil:
    cdef char stack[BUFFERS * SMALL_BYTES + CACHE_LINE]
    run_in(p, task, &stack[0], like)


cdef void run_task(const plan_t* p, Py_ssize_t task, Py_ssize_t thread, real_t* like) noexcept nogil:
    # apart: the buffers of a small call would take the stack of a thread that does not need them
    if p.scratch == NULL:
        run_small(p, task, like)
    else:
        run_in(p, task, p.scratch + thread * p.scratch_size, like)


cdef void add_up(const plan_t* p, int kind, double scale, real_t* like) noexcept nogil:
    """Adds the tasks' sums, in their order."""
    cdef Py_ssize_t j, k, size = p.outputs[kind].size
    cdef total_t total
    for j in range(size):
        total.sum = total.rest = 0
        if p.pieces:
            for k in range(p.pieces):
                add_to(&total, p.partial[kind][j * p.pieces + k])
        else:
            for k in range(p.tasks):
                add_to(&total, p.partial[kind][k * 2 * size + j])
                total.rest += p.partial[kind][(k * 2 + 1) * size + j]
        put_total(&p.outputs[kind], j, scale * total_of(&total))


cdef enum:
    BATCHES = 64    # of tasks, for each thread


cdef void work_off(const plan_t* p, int thread, real_t* like) noexcept nogil:
    """What one thread does: the tasks of its own range, then, if they are shared, what others have left of theirs.

    From call to call a thread meets the same part of an array, which is still in its core's cache; and none waits for
    a thread that got its core late.
    """
    # an atomic operation waits for all stores before it: not after each task, where there are many
    cdef Py_ssize_t each = max(<Py_ssize_t>1, p.work // p.tasks), since = 0
    cdef Py_ssize_t task, end, i, batch = max(<Py_ssize_t>1, min(p.tasks // (BATCHES * p.threads), LOOK_WORK // each))
    cdef int k, owner
    if not p.shared:
        for task in range(first_task(p, thread), first_task(p, thread + 1)):
            run_task(p, task, thread, like)
    for k in range(p.threads if p.shared else 0):
        owner = (thread + k) % p.threads
        end = first_task(p, owner + 1)
        task = fetch_add(&p.ranges[owner].next, batch)
        while task < end and not stopped(p, &since, batch * each):
            for i in range(task, min(task + batch, end)):
                run_task(p, i, thread, like)
            task = fetch_add(&p.ranges[owner].next, batch)
    end_streams()


cdef Py_ssize_t first_task(const plan_t* p, int thread) noexcept nogil:
    """Where a thread's range of tasks begins, which is where that of the one before ends."""
    return p.tasks // p.threads * thread + min(<Py_ssize_t>thread, p.tasks % p.threads)


# when to use threads again, after one had no core for MISSED nanoseconds or more
cdef int64_t crowded_until = 0

cdef enum:
    MISSED = 500000
    FORGIVEN = 10           # times as long


cdef void run_threads(const plan_t* p, real_t* like) noexcept nogil:
    """All tasks, by all threads; one that comes late for want of a core is done without for a while.

    At the end each waits for all. Where the cores are taken, that is as long as the system gives them to somebody else,
    milliseconds, and a call takes microseconds.
    """
    cdef int thread
    cdef int64_t start = now(), control = arithmetic(), own, end, first
    cdef void* crew = own_crew()
    for thread in range(p.threads):
        p.ranges[thread].next = first_task(p, thread)
    # as many threads as asked for, or fewer: what one does not take another does
    for thread in prange(p.threads, schedule="static", chunksize=1, num_threads=p.threads):
        team_runs(thread, crew)
        # OpenMP's threads have the arithmetic of who called first
        own = compute_as(control)
        work_off(p, thread, like)
        compute_as(own)
        p.ranges[thread].done = now()
    end = first = now()
    for thread in range(p.threads):
        first = min(first, p.ranges[thread].done)
    # with few or unequal tasks it is nobody's fault that the last one takes its time
    if end - first > max(<int64_t>MISSED, (first - start) // 4) and p.tasks >= 8 * p.threads and p.memory == NULL:
        atomic_store(&crowded_until, end + FORGIVEN * (end - first))


cdef void run_as(const plan_t* p, real_t* like) noexcept nogil:
    cdef Py_ssize_t task, each, since = 0
    cdef int kind
    if p.threads == 1:
        run_task(p, 0, 0, like)
        if p.tasks > 1:
            each = p.work // p.tasks
            for task in range(1, p.tasks):
                if stopped(p, &since, each):
                    break
                run_task(p, task, 0, like)
            end_streams()
    else:
        run_threads(p, like)
    for kind in range(OUTPUTS):
        if p.partial[kind] != NULL:
            add_up(p, kind, p.value_scale if kind == VALUE else (p.grad_scale if kind == WEIGHT_GRAD else 1.), like)


cdef void run(plan_t* p, int is_double) noexcept nogil:
    if p.threads > 1 and atomic_load(&crowded_until) and now() < atomic_load(&crowded_until):
        p.threads = 1
    if p.threads > 1:
        p.threads = begin_team(p.threads)
    if is_double:
        run_as[double](p, NULL)
    else:
        run_as[float](p, NULL)


cdef void fill_rows(row_loss_t kernel, rows_t* rows, real_t* dtype) noexcept:
    kernel.table.row_buffers = 0
    if row_loss_t is SoftmaxCrossEntropy:
        rows[0] = <rows_t>softmax_rows[real_t]
        # the exponentials and the targets
        kernel.table.row_buffers = 2
    elif row_loss_t is SoftmaxDivergence:
        rows[0] = <rows_t>divergence_rows[real_t]
        # these, and the differences of logarithms
        kernel.table.row_buffers = 3
    elif row_loss_t is SmoothedMetric:
        rows[0] = <rows_t>pair_rows[real_t]
    elif row_loss_t is TemporalClassification:
        rows[0] = <rows_t>ctc_rows[real_t]
    else:
        rows[0] = <rows_t>vector_rows[row_loss_t, real_t]


def table(any_loss_t kernel):
    """A capsule with the loops of a kernel; it is good for as long as the kernel lives."""
    kernel.table.kernel = <void*>kernel
    kernel.table.inputs = 3 if any_loss_t in ternary_t else 2
    kernel.table.light = any_loss_t in light_t
    if any_loss_t in row_loss_t:
        fill_rows[any_loss_t, float](kernel, &kernel.table.rows[0], NULL)
        fill_rows[any_loss_t, double](kernel, &kernel.table.rows[1], NULL)
    else:
        fill[any_loss_t, float, floats_apart](kernel, kernel.table.loops[0], NULL, NULL)
        fill[any_loss_t, double, doubles_apart](kernel, kernel.table.loops[1], NULL, NULL)
    if any_loss_t in light_t:
        fill_sums[any_loss_t, float, floats_apart](kernel, kernel.table.sums[0], NULL, NULL)
        fill_sums[any_loss_t, double, doubles_apart](kernel, kernel.table.sums[1], NULL, NULL)
    return PyCapsule_New(&kernel.table, "fastloss.kernel", NULL)


cdef void apply(str name, Py_ssize_t n, const real_t* a, const real_t* b, real_t* out):
    cdef Py_ssize_t i
    if name == "exp":
        for i in range(n):
            out[i] = exp(a[i])
    elif name == "exp_nonpositive":
        for i in range(n):
            out[i] = exp_nonpositive(a[i])
    elif name == "log1p_unit":
        for i in range(n):
            out[i] = log1p_unit(a[i])
    elif name == "log_sum":
        for i in range(n):
            out[i] = log_sum(a[i], b[i])


def elementary(str name, bint is_double, Py_ssize_t n, size_t a, size_t b, size_t out):
    """A function of _math over arrays at these addresses, for measuring its error."""
    if is_double:
        apply[double](name, n, <const double*>a, <const double*>b, <double*>out)
    else:
        apply[float](name, n, <const float*>a, <const float*>b, <float*>out)


cdef runner_t runner
runner.run = run
runner.bad_integer = bad_integer
runner.is_left_out = is_left_out
runner.store = store
runner.load_pairs = load_pairs


def get_runner():
    """A capsule with the functions that run a plan."""
    return PyCapsule_New(&runner, "fastloss.runner", NULL)

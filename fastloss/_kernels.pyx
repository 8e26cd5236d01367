"""The mathematics of every loss, and the loops over it. Built once per instruction set.

Notation: x prediction, y target, z = x - y, a = |x| or |z|; l the loss, g and h its first and second derivative
in x, d its derivative in y; q a third input and e the derivative in it.
"""

cimport cython
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, NAN, floor

from fastloss._math cimport (
    absolute, exp, exp_from, exp_nonpositive, exp_range, fma, log1p_unit, log_sum, real_t,
)
from fastloss._plan cimport (
    BLOCK_BYTES, BUFFERS, CACHE_LINE, GRAD, HEAD, HESS, LABEL, LABEL_GRAD, OUTPUTS, PASS_ALL_OF_PRED, PASS_EVERYTHING, PASS_GRADIENT,
    PASS_GRADIENT_HESSIAN, PASS_VALUE, PASS_VALUE_GRADIENT, PRED, SMALL_BYTES, THIRD, THIRD_GRAD, VALUE, WEIGHT, WEIGHT_GRAD,
    array_t, kernel_t, loop_t, plan_t, runner_t,
)


include "fastloss/_blocks.pxi"


cdef class Kernel:
    """What all losses share: the table of their loops."""
    cdef kernel_t table


@cython.final
cdef class L1(Kernel):
    """l = |z|; the derivative at 0 is 0."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y, one = 1
        l[0] = absolute(z)
        g[0] = one if z > 0 else (-one if z < 0 else z)
        h[0] = z * <real_t>0
        d[0] = -g[0]


@cython.final
cdef class L2(Kernel):
    """l = z^2 / 2."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t z = x - y
        l[0] = <real_t>.5 * z * z
        g[0] = z
        h[0] = 1
        d[0] = -z


@cython.final
cdef class Huber(Kernel):
    """l = c/rho (a - c/2), c = min(a, rho): quadratic up to rho, then linear with slope 1 (Huber 1964, in Gluon's scale)."""
    cdef double rho

    def __cinit__(self, double rho):
        self.rho = rho

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        # a rho that float32 rounds to 0 makes the loss L1
        cdef real_t z = x - y, a = absolute(z), rho = <real_t>max(self.rho, 1.1754943508222875e-38), zero = 0
        cdef real_t c = rho if a > rho else a
        cdef real_t slope = c / rho
        l[0] = slope * (a - <real_t>.5 * c)
        g[0] = -slope if z < 0 else slope
        h[0] = zero if a > rho else <real_t>1 / rho
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
        g[0] = zero if z <= 0 else (-y if z > 0 else z)
        h[0] = 0
        d[0] = zero if z <= 0 else (-x if z > 0 else z)


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
        h[0] = zero if z <= 0 else <real_t>2 * y * y
        d[0] = <real_t>-2 * c * x


cdef inline real_t logistic(real_t x, real_t p, real_t m, real_t total, real_t* l, real_t* g, real_t* h) noexcept nogil:
    """l = p log(1 + e^-x) + m log(1 + e^x) and its derivatives, total = p + m; returns log(1 + e^-|x|).

    With u = e^-|x|, and w the weight (p or m) of the class that x speaks against, r that of the other:
    l = w |x| + total log(1 + u), g = +-(w - r u)/(1 + u), h = total u/(1 + u)^2. No term cancels, so tails keep their digits.
    """
    cdef real_t a = absolute(x), u = exp_nonpositive(-a), s = <real_t>1 + u, zero = 0
    cdef real_t w = m if x > 0 else p, r = p if x > 0 else m
    cdef real_t tail = log1p_unit(u), slope = fma(-r, u, w) / s
    # a certain and correct prediction, 0 * inf, costs nothing
    l[0] = fma(total, tail, zero if w == 0 else w * a)
    g[0] = slope if x > 0 else -slope
    h[0] = total * (u / (s * s))
    return tail


@cython.final
cdef class Logistic(Kernel):
    """l = log(1 + e^(-x y)) for y = -1, +1; any real y is the mixture with (1 + y)/2 of +1."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t half = .5
        logistic(x, half + half * y, half - half * y, <real_t>1, l, g, h)
        d[0] = -half * x


@cython.final
cdef class SigmoidCrossEntropy(Kernel):
    """l = y log(1 + e^-x) + (1 - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t one = 1
        logistic(x, y, one - y, one, l, g, h)
        d[0] = -x


@cython.final
cdef class WeightedSigmoidCrossEntropy(Kernel):
    """l = q y log(1 + e^-x) + (1 - y) log(1 + e^x)."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
        cdef real_t p = q * y, m = <real_t>1 - y, zero = 0
        cdef real_t tail = logistic(x, p, m, p + m, l, g, h)
        cdef real_t positive = tail + (-x if x < 0 else zero), negative = tail + (x if x > 0 else zero)
        d[0] = fma(q, positive, -negative)
        e[0] = y * positive


@cython.final
cdef class ProbabilityCrossEntropy(Kernel):
    """l = -q y log(x + eps) - (1 - y) log(1 - x + eps), eps = 1e-12, for a probability x."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
        cdef real_t one = 1, eps = 1e-12
        # each logarithm of a sum of which one part is exact: 1 + (x - 1 + eps) near 1, x + eps elsewhere
        cdef bint high = x >= <real_t>.5
        cdef real_t positive = -log_sum(one if high else x, (x - one) + eps if high else eps)
        cdef real_t negative = -log_sum(one - x if high else one, eps if high else eps - x)
        cdef real_t p = q * y / (x + eps), m = (one - y) / ((one - x) + eps)
        l[0] = fma(q * y, positive, (one - y) * negative)
        g[0] = m - p
        h[0] = p / (x + eps) + m / ((one - x) + eps)
        d[0] = fma(q, positive, -negative)
        e[0] = y * positive


cdef inline real_t stirling(real_t y, real_t* d) noexcept nogil:
    """log y!, approximately: (y + 1/2) log y - y + log(2 pi)/2 where y > 1, else 0; d its derivative."""
    cdef real_t one = 1, zero = 0, c = one if y <= one else y, log_c = log_sum(c, zero)
    d[0] = zero if y <= one else log_c + <real_t>.5 / c
    return zero if y <= one else fma(c + <real_t>.5, log_c, <real_t>.9189385332046727 - c)


cdef inline void poisson(real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
    """l = e^x - y x, x the logarithm of the rate."""
    cdef real_t rate = exp(x)
    # no count, no logarithm: 0 * -inf
    l[0] = rate if y == 0 else fma(-x, y, rate)
    g[0] = rate - y
    h[0] = rate
    d[0] = -x


cdef inline void poisson_rate(real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
    """l = x - y log(x + eps), x the rate; q = eps."""
    cdef real_t rate = x + q, log_rate = log_sum(x, q), zero = 0
    l[0] = x if y == 0 else fma(-y, log_rate, x)
    e[0] = zero if y == 0 else -y / rate
    g[0] = <real_t>1 + e[0]
    h[0] = zero if y == 0 else y / rate / rate
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
        cdef real_t slope, constant = stirling(y, &slope)
        poisson(x, y, l, g, h, d)
        l[0] += constant
        d[0] += slope


@cython.final
cdef class PoissonRate(Kernel):
    """l = x - y log(x + eps)."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
        poisson_rate(x, y, q, l, g, h, d, e)


@cython.final
cdef class PoissonRateFull(Kernel):
    """l = x - y log(x + eps) + log y!."""
    cdef inline void at(self, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
        cdef real_t slope, constant = stirling(y, &slope)
        poisson_rate(x, y, q, l, g, h, d, e)
        l[0] += constant
        d[0] += slope


@cython.final
cdef class KLDivergence(Kernel):
    """l = y (log(y + eps) - x), x a log-probability, eps = 1e-12; 0 where y is 0."""
    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t eps = 1e-12, zero = 0, z = log_sum(y, eps) - x
        l[0] = zero if y == 0 and z == <real_t>INFINITY else y * z
        g[0] = -y
        h[0] = 0
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


cdef void evaluate(loss_t kernel, pass_t* what, Py_ssize_t n, double scale, const real_t* x, const real_t* y, const real_t* q,
                   real_t* l, real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
    """The one loop over elements: what the pass stores is known at compile time, the compiler drops the rest."""
    cdef Py_ssize_t i
    cdef real_t c = <real_t>scale, li, gi, hi, di, ei
    for i in range(n):
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
            d[i] = c * di
            if loss_t in ternary_t:
                e[i] = c * ei


cdef void fill(loss_t kernel, loop_t* loops, real_t* dtype) noexcept:
    loops[PASS_VALUE] = <loop_t>evaluate[loss_t, Value, real_t]
    loops[PASS_GRADIENT] = <loop_t>evaluate[loss_t, Gradient, real_t]
    loops[PASS_VALUE_GRADIENT] = <loop_t>evaluate[loss_t, ValueGradient, real_t]
    loops[PASS_GRADIENT_HESSIAN] = <loop_t>evaluate[loss_t, GradientHessian, real_t]
    loops[PASS_ALL_OF_PRED] = <loop_t>evaluate[loss_t, AllOfPred, real_t]
    loops[PASS_EVERYTHING] = <loop_t>evaluate[loss_t, Everything, real_t]


def table(loss_t kernel):
    """A capsule with the loops of a kernel; it is good for as long as the kernel lives."""
    kernel.table.kernel = <void*>kernel
    kernel.table.inputs = 3 if loss_t in ternary_t else 2
    fill[loss_t, float](kernel, kernel.table.loops[0], NULL)
    fill[loss_t, double](kernel, kernel.table.loops[1], NULL)
    return PyCapsule_New(&kernel.table, "fastloss.kernel", NULL)


cdef inline void multiply(real_t* a, const real_t* b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        a[i] *= b[i]


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


cdef inline double sum_below(const real_t* e, real_t highest, Py_ssize_t n, real_t* piece, Py_ssize_t* ties) noexcept nogil:
    """The sum of the e_j below the highest; counts those that equal it, whose sum would swallow the others."""
    cdef Py_ssize_t i, count = 0
    cdef real_t zero = 0
    for i in range(n):
        count += e[i] == highest
        piece[i] = zero if e[i] == highest else e[i]
    ties[0] += count
    return lane_sum(piece, n)


cdef double sparse_row(const plan_t* p, const real_t* x, Py_ssize_t y, double factor, real_t* e, real_t* piece,
                              real_t* g, real_t* h) noexcept nogil:
    """-log softmax(x)_y of one row of logits, g = factor (softmax(x) - onehot(y)) and h its derivative unless NULL.

    With m = max x, e_j = e^(x_j - m) times a constant, e_m the highest, s the sum of the e_j but e_y, and S = s + e_y:
    l = (m - x_y) + log(S/e_m), where S/e_m is 1 + (s + (e_y - e_m))/e_m; g_y = -s/S, h_j = e_j (S - e_j)/S^2. Summed
    without the label's own term, and for h without the highest, all keep their digits when the rest is tiny.
    """
    cdef Py_ssize_t i, k = 0, n, classes = p.classes, ties = 0
    cdef real_t top = lane_max(x, classes), base, lowest, shift, scale, rest, sum_
    cdef real_t logit = x[y]        # the results may lie over x
    cdef real_t own, highest
    cdef real_t* part
    cdef double others = 0, total, below = 0
    exp_range(top, &base, &lowest, &shift)
    own = exp_from(logit - base, lowest, shift)
    highest = exp_from(top - base, lowest, shift)
    if h == NULL:
        e = g
    while k < classes:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), classes - k)
        part = e + k if e != NULL else piece
        for i in range(n):
            part[i] = exp_from(x[k + i] - base, lowest, shift)
        if h != NULL:
            below += sum_below(part, highest, n, piece, &ties)
        if k <= y < k + n:
            part[y - k] = 0
        others += lane_sum(part, n)
        k += n
    total = others + own
    scale = <real_t>(factor / total)
    if h != NULL:
        e[y] = own
        rest = <real_t>(below + (ties - 1) * <double>highest)
        sum_ = <real_t>total
        for i in range(classes):
            h[i] = scale * e[i] * ((rest if e[i] == highest else sum_ - e[i]) / sum_)
    if g != NULL:
        for i in range(classes):
            g[i] = scale * e[i]
        g[y] = <real_t>(-factor * (others / total))
    return (<double>top - <double>logit) + log_sum(<double>1, (others + (<double>own - <double>highest)) / highest)


cdef double dense_row(const plan_t* p, const real_t* x, const real_t* t, double factor, real_t* e, real_t* piece,
                             real_t* g, real_t* h, real_t* d) noexcept nogil:
    """sum_j t_j (log sum e^x - x_j) of one row of logits for the targets t, with what of its derivatives is not NULL.

    With m, e_j, e_m and S as above, r = S - e_m and T = sum t: l = T log(1 + r/e_m) + sum t_j (m - x_j),
    g_j = ((T - t_j) e_j - t_j (S - e_j))/S, h_j = T e_j (S - e_j)/S^2. r is summed without the highest term, and is
    S - e_j there: nothing cancels for a confident prediction.
    """
    cdef Py_ssize_t i, k = 0, n, classes = p.classes, ties = 0
    cdef real_t top = lane_max(x, classes), base, lowest, shift, highest, zero = 0, sum_, rest, c, c2, xi, ti
    cdef double others = 0, targets = 0, linear = 0, total, log_total
    exp_range(top, &base, &lowest, &shift)
    highest = exp_from(top - base, lowest, shift)
    while k < classes:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), classes - k)
        for i in range(n):
            e[k + i] = exp_from(x[k + i] - base, lowest, shift)
        others += sum_below(e + k, highest, n, piece, &ties)
        targets += lane_sum(t + k, n)
        # a class without weight may have a logit of -inf
        for i in range(n):
            piece[i] = zero if t[k + i] == 0 else t[k + i] * (top - x[k + i])
        linear += lane_sum(piece, n)
        k += n
    others += (ties - 1) * <double>highest
    total = others + highest
    log_total = log_sum(<double>1, others / highest)
    sum_ = <real_t>total
    c = <real_t>(factor / total)
    c2 = <real_t>(factor * targets / total / total)
    for i in range(classes):
        # any of the results may lie over x or t
        xi, ti = x[i], t[i]
        rest = <real_t>others if e[i] == highest else sum_ - e[i]
        if g != NULL:
            g[i] = c * fma(<real_t>targets - ti, e[i], -ti * rest)
        if h != NULL:
            h[i] = c2 * e[i] * rest
        if d != NULL:
            d[i] = <real_t>(factor * weighted_loss(label_scale(p, i), log_total + (top - xi)))
    return targets * log_total + linear


cdef inline double weighted_loss(double weight, double loss) noexcept nogil:
    """weight times loss, where a class of no weight costs nothing even if its probability is 0."""
    return <double>0 if weight == 0 and loss == <double>INFINITY else weight * loss


cdef inline double label_scale(const plan_t* p, Py_ssize_t j) noexcept nogil:
    """How much of a label's entry for class j its target has."""
    return (1 - p.smoothing) * (p.class_weight[j] if p.class_weight != NULL else 1.)


cdef double linear_row(const plan_t* p, const real_t* x, const real_t* t, double factor, real_t* g, real_t* h, real_t* d,
                              real_t* piece) noexcept nogil:
    """-sum_j t_j x_j of one row of log-probabilities."""
    cdef Py_ssize_t i, k = 0, n, classes = p.classes
    cdef real_t zero = 0, c = <real_t>factor, xi, ti
    cdef double total = 0
    while k < classes:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), classes - k)
        for i in range(n):
            piece[i] = zero if t[k + i] == 0 else -t[k + i] * x[k + i]
        total += lane_sum(piece, n)
        k += n
    for i in range(classes):
        xi, ti = x[i], t[i]
        if g != NULL:
            g[i] = -c * ti
        if h != NULL:
            h[i] = 0
        if d != NULL:
            d[i] = <real_t>(factor * weighted_loss(label_scale(p, i), -xi))
    return total


cdef inline void set_targets(const plan_t* p, const real_t* label, Py_ssize_t y, real_t* t) noexcept nogil:
    """t_j = class_weight_j ((1 - smoothing) label_j + smoothing/classes), the label dense, or the class id y."""
    cdef Py_ssize_t j
    cdef real_t keep = <real_t>(1 - p.smoothing), base = <real_t>(p.smoothing / p.classes)
    if label == NULL:
        set_all(t, base, p.classes)
        t[y] = keep + base
    else:
        for j in range(p.classes):
            t[j] = fma(keep, label[j], base)
    if p.class_weight != NULL:
        for j in range(p.classes):
            t[j] *= <real_t>p.class_weight[j]


cdef void open_rows(Py_ssize_t n, const real_t* top, real_t* base, real_t* lowest, real_t* shift, real_t* highest) noexcept nogil:
    """The constants of n rows' exponentials, and the largest of them."""
    cdef Py_ssize_t i
    cdef real_t b, low, k
    for i in range(n):
        exp_range(top[i], &b, &low, &k)
        highest[i] = exp_from(top[i] - b, low, k)
        base[i] = b
        lowest[i] = low
        shift[i] = k


cdef void close_rows(Py_ssize_t n, double factor, const double* weight, const double* others, const real_t* own,
                     const real_t* highest, const real_t* top, const real_t* logit,
                     real_t* l, real_t* scale, real_t* at_label) noexcept nogil:
    """From n rows' sums their losses, what turns exponentials into gradients, and the gradients at the labels."""
    cdef Py_ssize_t i
    cdef double high, own_, w, c, loss
    for i in range(n):
        high, own_, w = highest[i], own[i], weight[i]
        loss = (<double>top[i] - <double>logit[i]) + log_sum(<double>1, (others[i] + (own_ - high)) / high)
        l[i] = <real_t>weighted_loss(w, loss)
        c = w * factor / (others[i] + own_)
        scale[i] = <real_t>c
        at_label[i] = <real_t>(-others[i] * c)


cdef void short_rows(const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m, real_t* l, real_t* buffers) noexcept nogil:
    """What sparse_row does for one row, for n short ones at once: a vector lane per row, so the tile is held class by class."""
    cdef Py_ssize_t i, j, classes = p.classes
    cdef array_t pred = p.inputs[PRED], grad = p.outputs[GRAD], hess = p.outputs[HESS]
    cdef double* others = <double*>buffers
    cdef double* below = others + n
    cdef double* id = below + n
    cdef double* weight = id + n
    cdef real_t* top = <real_t*>(weight + n)
    cdef real_t* base = top + n
    cdef real_t* lowest = base + n
    cdef real_t* shift = lowest + n
    cdef real_t* highest = shift + n
    cdef real_t* ties = highest + n
    cdef real_t* label = ties + n       # the class, -1 where there is none
    cdef real_t* spoil = label + n      # what such a row gets: 0 if ignored
    cdef real_t* logit = spoil + n
    cdef real_t* own = logit + n
    cdef real_t* scale = own + n
    cdef real_t* at_label = scale + n
    cdef real_t* line = at_label + n
    cdef real_t* tile = line + n
    cdef real_t* e
    cdef real_t v, w, u, total, rest, zero = 0, nothing = -1
    cdef bint counts, is_label

    gather(&p.inputs[LABEL], p.ndim, p.shape, start, n, id)
    for i in range(n):
        # labels were checked before; one that was changed since is no address
        counts = 0 <= id[i] < classes and not (p.has_ignore and id[i] == p.ignore)
        spoil[i] = zero if p.has_ignore and id[i] == p.ignore else <real_t>NAN
        label[i] = <real_t>id[i] if counts else nothing
        weight[i] = p.class_weight[<Py_ssize_t>id[i]] if counts and p.class_weight != NULL else <double>1
    for j in range(classes):
        e = tile + j * n
        gather(&pred, p.ndim, p.shape, start, n, e)
        pred.data += pred.stride[p.ndim]
        if j == 0:
            for i in range(n):
                top[i] = e[i]
        for i in range(n):
            top[i] = e[i] if e[i] > top[i] else top[i]
    open_rows(n, top, base, lowest, shift, highest)
    set_all(others, <double>0, 2 * n)
    set_all(ties, zero, n)
    set_all(logit, zero, 2 * n)
    for j in range(classes):
        e = tile + j * n
        for i in range(n):
            u = e[i]
            v = exp_from(u - base[i], lowest[i], shift[i])
            is_label = label[i] == <real_t>j
            w = logit[i]
            logit[i] = u if is_label else w
            w = own[i]
            own[i] = v if is_label else w
            others[i] += zero if is_label else v
            e[i] = v
        if hess.data != NULL:
            for i in range(n):
                u = e[i]
                ties[i] += u == highest[i]
                below[i] += zero if u == highest[i] else u
    close_rows(n, p.grad_scale, weight, others, own, highest, top, logit, l, scale, at_label)
    for i in range(n):
        u = l[i]
        v = spoil[i]
        l[i] = v if label[i] < 0 else u
    if m != NULL:
        multiply(scale, m, n)
        multiply(at_label, m, n)
    for j in range(classes):
        e = tile + j * n
        if hess.data != NULL:
            for i in range(n):
                u = e[i]
                total = <real_t>(others[i] + own[i])
                w = <real_t>(below[i] + (ties[i] - 1) * <double>highest[i])
                rest = w if u == highest[i] else total - u
                u = scale[i] * u * (rest / total)
                v = spoil[i]
                line[i] = v if label[i] < 0 else u
            scatter(&hess, p.ndim, p.shape, start, n, line)
            hess.data += hess.stride[p.ndim]
        if grad.data != NULL:
            for i in range(n):
                u = scale[i] * e[i]
                w = at_label[i]
                v = spoil[i]
                u = w if label[i] == <real_t>j else u
                line[i] = v if label[i] < 0 else u
            scatter(&grad, p.ndim, p.shape, start, n, line)
            grad.data += grad.stride[p.ndim]


cdef void rows(const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m, real_t* l, real_t* buffers) noexcept nogil:
    """Softmax cross-entropy of rows start to start + n: losses to l, derivatives, times grad_scale and m, to their arrays."""
    cdef Py_ssize_t classes = p.classes, size = n * classes, first = start * classes, i, y = 0
    cdef Py_ssize_t tile = p.block * classes
    cdef int ndim = p.ndim + 1
    cdef double id, factor, weight
    cdef real_t* xs = NULL
    cdef real_t* labels = NULL
    cdef real_t* piece = buffers
    cdef real_t* t = piece + BLOCK_BYTES // sizeof(real_t)
    cdef real_t* e = t + classes
    cdef real_t* tiles = e + classes
    cdef real_t* out[OUTPUTS]
    cdef real_t* row[OUTPUTS]
    cdef int[3] kinds = [GRAD, HESS, LABEL_GRAD]
    cdef int k, kind
    cdef bint plain = p.sparse and p.smoothing == 0
    if p.short and not p.weights_only:
        short_rows(p, start, n, m, l, buffers)
        return
    if not p.weights_only:
        xs = fetch(&p.inputs[PRED], ndim, p.shape, first, size, tiles)
    if not p.weights_only and not p.sparse:
        labels = fetch(&p.inputs[LABEL], ndim, p.shape, first, size, tiles + tile)
    for k in range(3):
        kind = kinds[k]
        out[kind] = NULL
        if p.outputs[kind].data != NULL:
            out[kind] = <real_t*>p.outputs[kind].data + first if p.outputs[kind].direct else tiles + (2 + k) * tile
    for i in range(n):
        factor = p.grad_scale * (m[i] if m != NULL else <real_t>1)
        for k in range(3):
            row[kinds[k]] = out[kinds[k]] + i * classes if out[kinds[k]] != NULL else NULL
        weight = 1
        if p.sparse:
            gather[double](&p.inputs[LABEL], p.ndim, p.shape, start + i, 1, &id)
            # labels were checked before; one that was changed since is no address
            if p.has_ignore and id == p.ignore or not (0 <= id < classes):
                l[i] = <real_t>0 if p.has_ignore and id == p.ignore else <real_t>NAN
                for k in range(3):
                    if row[kinds[k]] != NULL:
                        set_all(row[kinds[k]], l[i], classes)
                continue
            y = <Py_ssize_t>id
            if p.class_weight != NULL:
                weight = p.class_weight[y]
        if p.weights_only:
            l[i] = <real_t>weight
        elif plain and not p.from_logits:
            l[i] = <real_t>weighted_loss(
                weight, sparse_row(p, xs + i * classes, y, factor * weight, e, piece, row[GRAD], row[HESS]))
        elif plain:
            l[i] = <real_t>weighted_loss(weight, -xs[i * classes + y])
            if row[GRAD] != NULL:
                set_all(row[GRAD], <real_t>0, classes)
                row[GRAD][y] = <real_t>(-factor * weight)
            if row[HESS] != NULL:
                set_all(row[HESS], <real_t>0, classes)
        else:
            set_targets(p, labels + i * classes if labels != NULL else NULL, y, t)
            if p.from_logits:
                l[i] = <real_t>linear_row(p, xs + i * classes, t, factor, row[GRAD], row[HESS], row[LABEL_GRAD], piece)
            else:
                l[i] = <real_t>dense_row(p, xs + i * classes, t, factor, e, piece, row[GRAD], row[HESS], row[LABEL_GRAD])
    for k in range(3):
        if out[kinds[k]] != NULL and not p.outputs[kinds[k]].direct:
            scatter(&p.outputs[kinds[k]], ndim, p.shape, first, size, out[kinds[k]])


cdef void finish(const plan_t* p, int kind, Py_ssize_t start, Py_ssize_t n, Py_ssize_t task, double scale, real_t* a) noexcept nogil:
    """Brings a block of results where it belongs: the caller's array, or the sums."""
    cdef const char* data = p.outputs[kind].data
    cdef Py_ssize_t i
    if not p.outputs[kind].reduced:
        multiply_by(a, scale, n)
        if not p.outputs[kind].direct:
            scatter(&p.outputs[kind], p.ndim, p.shape, start, n, a)
    elif p.pieces:
        p.partial[kind][task] = lane_sum(a, n)
    elif p.span:
        for i in range(n // p.span):
            (<real_t*>data)[start // p.span + i] = <real_t>(scale * lane_sum(a + i * p.span, p.span))
    else:
        accumulate(&p.outputs[kind], start, n, a, p.partial[kind] + task * p.outputs[kind].size)


cdef inline real_t* place(const plan_t* p, int kind, Py_ssize_t start, real_t* buffer) noexcept nogil:
    """Where a block of results is written first."""
    if p.outputs[kind].data != NULL and p.outputs[kind].direct and not p.outputs[kind].reduced:
        return <real_t*>p.outputs[kind].data + start
    return buffer


cdef void block(const plan_t* p, Py_ssize_t start, Py_ssize_t n, Py_ssize_t task, real_t* buffers) noexcept nogil:
    """The pipeline for elements start to start + n of the unreduced loss: gather, the loss, weights, sums, scatter."""
    cdef Py_ssize_t size = p.buffer // <Py_ssize_t>sizeof(real_t), i
    cdef int kind
    cdef real_t* x
    cdef real_t* y
    cdef real_t* q
    cdef real_t* out[OUTPUTS]
    cdef real_t* w = fetch(&p.inputs[WEIGHT], p.ndim, p.shape, start, n, buffers)
    cdef real_t* head = fetch(&p.inputs[HEAD], p.ndim, p.shape, start, n, buffers + size)
    cdef real_t* m = w if w != NULL else head
    if w != NULL and head != NULL:
        m = buffers + 2 * size
        for i in range(n):
            m[i] = w[i] * head[i]
    out[VALUE] = place(p, VALUE, start, buffers + 3 * size)
    if p.classes:
        rows(p, start, n, m, out[VALUE], buffers + 5 * size)
    elif p.weights_only:
        set_all(out[VALUE], <real_t>1, n)
    else:
        for kind in range(GRAD, WEIGHT_GRAD):
            out[kind] = place(p, kind, start, buffers + (4 + kind) * size)
        x = fetch(&p.inputs[PRED], p.ndim, p.shape, start, n, buffers + 9 * size)
        y = fetch(&p.inputs[LABEL], p.ndim, p.shape, start, n, buffers + 10 * size)
        q = fetch(&p.inputs[THIRD], p.ndim, p.shape, start, n, buffers + 11 * size)
        p.loop(p.kernel, NULL, n, p.grad_scale, x, y, q, out[VALUE], out[GRAD], out[HESS], out[LABEL_GRAD], out[THIRD_GRAD])
        for kind in range(GRAD, WEIGHT_GRAD):
            if p.outputs[kind].data != NULL:
                if m != NULL:
                    multiply(out[kind], m, n)
                finish(p, kind, start, n, task, 1, out[kind])
    if p.outputs[WEIGHT_GRAD].data != NULL:
        out[WEIGHT_GRAD] = place(p, WEIGHT_GRAD, start, buffers + 4 * size)
        for i in range(n):
            out[WEIGHT_GRAD][i] = out[VALUE][i] * (head[i] if head != NULL else <real_t>1)
        finish(p, WEIGHT_GRAD, start, n, task, p.grad_scale, out[WEIGHT_GRAD])
    if p.outputs[VALUE].data != NULL:
        if w != NULL:
            multiply(out[VALUE], w, n)
        finish(p, VALUE, start, n, task, p.value_scale, out[VALUE])


cdef void run_task(const plan_t* p, Py_ssize_t task, Py_ssize_t thread, real_t* like) noexcept nogil:
    cdef char stack[BUFFERS * SMALL_BYTES + CACHE_LINE]
    cdef char* memory = &stack[0] if p.scratch == NULL else p.scratch + thread * p.scratch_size
    cdef real_t* buffers = <real_t*>((<size_t>memory + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
    cdef Py_ssize_t start, end
    if p.pieces:
        start = task // p.pieces * p.span
        end = start + p.span
        start += task % p.pieces * p.block
        end = min(end, start + p.block)
    else:
        start = task * p.step
        end = min(p.size, start + p.step)
    while start < end:
        block(p, start, min(p.block, end - start), task, buffers)
        start += p.block


cdef void add_up(const plan_t* p, int kind, double scale, real_t* like) noexcept nogil:
    """Adds the tasks' sums, in their order."""
    cdef const char* data = p.outputs[kind].data
    cdef Py_ssize_t j, k, size = p.outputs[kind].size
    cdef double total
    for j in range(size):
        total = 0
        if p.pieces:
            for k in range(p.pieces):
                total += p.partial[kind][j * p.pieces + k]
        else:
            for k in range(p.tasks):
                total += p.partial[kind][k * size + j]
        (<real_t*>data)[j] = <real_t>(scale * total)


cdef void run_as(const plan_t* p, real_t* like) noexcept nogil:
    cdef Py_ssize_t task
    cdef int kind
    if p.threads == 1:
        for task in range(p.tasks):
            run_task(p, task, 0, like)
    else:
        for task in prange(p.tasks, schedule="dynamic", chunksize=1 + p.tasks // (16 * p.threads), num_threads=p.threads):
            run_task(p, task, threadid(), like)
    for kind in range(OUTPUTS):
        if p.partial[kind] != NULL:
            add_up(p, kind, p.value_scale if kind == VALUE else (p.grad_scale if kind == WEIGHT_GRAD else 1.), like)


cdef void run(plan_t* p, int is_double) noexcept nogil:
    if is_double:
        run_as[double](p, NULL)
    else:
        run_as[float](p, NULL)


cdef inline bint is_good(const plan_t* p, double id) noexcept nogil:
    """Whether a label is a class id, or the one to ignore."""
    return 0 <= id < p.classes and id == floor(id) or p.has_ignore and id == p.ignore


cdef Py_ssize_t bad_label(const plan_t* p) noexcept nogil:
    """The position of the first class id that is none, -1 if all are good."""
    cdef double ids[1024]
    cdef Py_ssize_t start, n, i, bad
    for start in range(0, p.size, 1024):
        n = min(<Py_ssize_t>1024, p.size - start)
        gather(&p.inputs[LABEL], p.ndim, p.shape, start, n, &ids[0])
        bad = 0
        for i in range(n):
            bad += not is_good(p, ids[i])
        if bad:
            for i in range(n):
                if not is_good(p, ids[i]):
                    return start + i
    return -1


cdef runner_t runner
runner.run = run
runner.bad_label = bad_label


def get_runner():
    """A capsule with the functions that run a plan."""
    return PyCapsule_New(&runner, "fastloss.runner", NULL)

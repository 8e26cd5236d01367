"""Losses over classes: the softmax cross-entropy of class ids or targets, functions of it, and hinges."""

cimport cython
from libc.math cimport INFINITY
from libc.string cimport memcpy

from fastloss._machine cimport prefetch_512
from fastloss._math cimport (
    absolute, exp_from, exp_range, expm1_nonpositive, expm1_sum, fma, log_from_one, log_sum, lost, minus_absolute,
    normal, real_t, signed_as,
)
from fastloss._plan cimport BLOCK_BYTES, HESS, SHORT_NUMBERS, STRIP_BYTES, plan_t

cdef enum:
    SHORT_ROW_BYTES = 768


cdef inline double row_sum(const real_t* a, Py_ssize_t n, Py_ssize_t classes) noexcept nogil:
    """The sum of a row, or of a piece of one."""
    return lane_sum(a, n) if n == classes else long_sum(a, n)


cdef inline double sum_below(const real_t* e, real_t highest, Py_ssize_t n, Py_ssize_t classes, real_t* piece,
                             Py_ssize_t* ties) noexcept nogil:
    """The sum of the e_j below the highest; counts those that equal it, whose sum would swallow the others."""
    cdef Py_ssize_t i, equal = 0
    cdef real_t zero = 0
    for i in range(n):
        equal += e[i] == highest
        piece[i] = zero if e[i] == highest else e[i]
    ties[0] += equal
    return row_sum(piece, n, classes)


cdef inline void exponentiate(const real_t* x, Py_ssize_t n, real_t base, real_t lowest, real_t shift,
                              Py_ssize_t ahead, real_t* e) noexcept nogil:
    """e_i = e^(x_i) / 2^shift as exp_range says, while what lies `ahead` bytes further on is fetched from memory."""
    cdef Py_ssize_t i, start = 0, strip = STRIP_BYTES // <Py_ssize_t>sizeof(real_t) if ahead else n
    while start < n:
        if ahead:
            prefetch_512(<const char*>(x + start) + ahead)
            prefetch_512(<const char*>(x + start) + ahead + 512)
        for i in range(start, min(start + strip, n)):
            e[i] = exp_from(x[i] - base, lowest, shift)
        start += strip


ctypedef fused sparse_t:
    SoftmaxCrossEntropy
    EntropyFunction


cdef double sparse_row(sparse_t kernel, const plan_t* p, const real_t* x, Py_ssize_t y, double factor, real_t* e,
                       real_t* piece, real_t* g, real_t* h) noexcept nogil:
    """-log softmax(x)_y of one row of logits, g = factor (softmax(x) - onehot(y)) and h its derivative unless NULL.

    With m = max x, e_j = e^(x_j - m) times a constant, e_m the highest, s the sum of the e_j but e_y, and S = s + e_y:
    l = (m - x_y) + log(S/e_m), where S/e_m is 1 + (s + (e_y - e_m))/e_m; g_y = -s/S, h_j = e_j (S - e_j)/S^2. Sums
    leave out the label's own term, for h the highest, so that all results keep their digits when the rest is tiny.
    """
    cdef Py_ssize_t i, k = 0, n, classes = p.row_length, ties = 0
    cdef real_t top = lane_max(x, classes), base, lowest, shift, scale, rest, sum_
    cdef real_t logit = x[y]
    cdef real_t own, highest
    cdef real_t* part
    cdef double others, total, loss = 0, slope, bend
    cdef total_t sums, belows
    sums.sum = sums.rest = belows.sum = belows.rest = 0
    exp_range(top, &base, &lowest, &shift)
    own = exp_from(logit - base, lowest, shift)
    highest = exp_from(top - base, lowest, shift)
    if h == NULL:
        e = g
    while k < classes:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), classes - k)
        part = e + k if e != NULL else piece
        exponentiate(x + k, n, base, lowest, shift, p.ahead, part)
        if h != NULL:
            add_to(&belows, sum_below(part, highest, n, classes, piece, &ties))
        if k <= y < k + n:
            part[y - k] = 0
        add_to(&sums, row_sum(part, n, classes))
        k += n
    others = total_of(&sums)
    total = others + own
    if sparse_t is EntropyFunction:
        loss = kernel.of_row(top, logit, log_sum(<double>1, (others + (<double>own - <double>highest)) / highest),
                             own / total, others / total, &slope, &bend)
        if p.surrogate and bend < 0:
            bend = 0
        factor *= slope
    scale = <real_t>(factor / total)
    if h != NULL:
        e[y] = own
        rest = <real_t>(total_of(&belows) + (ties - 1) * <double>highest)
        sum_ = <real_t>total
        for i in range(classes):
            h[i] = scale * e[i] * ((rest if e[i] == highest else sum_ - e[i]) / sum_)
    if sparse_t is EntropyFunction:
        if h != NULL:
            bend_row(classes, e, <real_t>others, scale, <real_t>bend, h)
            h[y] = <real_t>(factor * (others / total) * (own / total + bend))
    if g != NULL:
        for i in range(classes):
            g[i] = scale * e[i]
        g[y] = <real_t>(-factor * (others / total))
    if sparse_t is EntropyFunction:
        return loss
    else:
        return ((<double>top - <double>logit)
                + log_sum(<double>1, (others + (<double>own - <double>highest)) / highest))


cdef void bend_row(Py_ssize_t classes, const real_t* e, real_t others, real_t scale, real_t bend,
                   real_t* h) noexcept nogil:
    """Adds the part of the function's curvature to the Hessian beside the label, as EntropyFunction derives."""
    cdef Py_ssize_t i
    # where the sum is 0 all of its terms are, and 0/0 is no number
    cdef real_t rest = others if others > 0 else <real_t>1
    for i in range(classes):
        h[i] += scale * e[i] * (bend * (e[i] / rest))


cdef struct softmax_t:
    double top          # m = max x
    double highest      # e_m: the exponentials are e^(x_j - m), but for a common factor
    double others       # the sum of the exponentials but one of the highest
    double total        # of all
    double log_total    # log sum e^(x_j - m)


cdef softmax_t exponentials(const real_t* x, Py_ssize_t classes, Py_ssize_t ahead, real_t* e,
                            real_t* piece) noexcept nogil:
    """e_j for one row of logits, and their sums.

    Summed without the highest term, the rest keeps its digits however small it is.
    """
    cdef softmax_t s
    cdef Py_ssize_t i, k = 0, n, ties = 0
    cdef real_t top = lane_max(x, classes), base, lowest, shift, highest
    cdef total_t others
    others.sum = others.rest = 0
    exp_range(top, &base, &lowest, &shift)
    highest = exp_from(top - base, lowest, shift)
    while k < classes:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), classes - k)
        exponentiate(x + k, n, base, lowest, shift, ahead, e + k)
        add_to(&others, sum_below(e + k, highest, n, classes, piece, &ties))
        k += n
    s.top, s.highest = top, highest
    s.others = total_of(&others) + (ties - 1) * s.highest
    s.total = s.others + s.highest
    s.log_total = log_sum(<double>1, s.others / s.highest)
    return s


cdef void softmax_derivatives(softmax_t s, Py_ssize_t classes, const real_t* e, const real_t* t, double targets,
                              double factor, real_t* g, real_t* h) noexcept nogil:
    """The derivatives of sum_j t_j (log sum e^x - x_j), times factor: with S the total and T = sum t,
    g_j = ((T - t_j) e_j - t_j (S - e_j))/S and h_j = T e_j (S - e_j)/S^2: nothing cancels for a confident prediction.
    """
    cdef Py_ssize_t i
    cdef real_t highest = <real_t>s.highest, others = <real_t>s.others, sum_ = <real_t>s.total
    cdef real_t all_targets = <real_t>targets, rest
    cdef real_t c = <real_t>(factor / s.total), c2 = <real_t>(factor * targets / s.total / s.total)
    if g != NULL:
        for i in range(classes):
            rest = others if e[i] == highest else sum_ - e[i]
            g[i] = c * fma(all_targets - t[i], e[i], -t[i] * rest)
    if h != NULL:
        for i in range(classes):
            rest = others if e[i] == highest else sum_ - e[i]
            h[i] = c2 * e[i] * rest


cdef double add_square(softmax_t s, Py_ssize_t classes, double penalty, double factor, const real_t* e, real_t* g,
                       real_t* h) noexcept nogil:
    """c L^2 of L = log sum e^x and the penalty c; adds 2 c L p_j to g_j, 2 c p_j (p_j + L (1 - p_j)) to h_j."""
    cdef Py_ssize_t i
    cdef double level = s.top + s.log_total, c = 2 * factor * penalty / s.total
    cdef real_t highest = <real_t>s.highest, others = <real_t>s.others, sum_ = <real_t>s.total, rest
    cdef real_t by = <real_t>level, slope = <real_t>(c * level), bend = <real_t>(c / s.total)
    if g != NULL:
        for i in range(classes):
            g[i] = fma(slope, e[i], g[i])
    if h != NULL:
        for i in range(classes):
            rest = others if e[i] == highest else sum_ - e[i]
            h[i] = fma(bend * e[i], fma(by, rest, e[i]), h[i])
    return penalty * level * level


cdef double level_of(softmax_t s, Py_ssize_t classes, const real_t* x) noexcept nogil:
    """log sum e^x of a row: infinite where the highest logit is, whose exponential is no number."""
    cdef Py_ssize_t i
    if s.top - s.top == 0:
        return s.top + s.log_total
    for i in range(classes):
        if x[i] != x[i]:
            return x[i]
    return s.top


cdef double centre(softmax_t s, Py_ssize_t classes, const real_t* e, const real_t* v, real_t* u, real_t* piece,
                   double* base) noexcept nogil:
    """u_j = v_j - r, and the mean of the u_j under the softmax, r that v_j which has the highest e_j.

    The softmax's Hessian times v is p_j (v_j - p.v), and of no r does that depend. For a confident prediction p.v is
    v_j, but for what is computed here: the highest's u is 0.
    """
    cdef Py_ssize_t i, k = 0, n
    cdef real_t highest = <real_t>s.highest, r = <real_t>-INFINITY, least = <real_t>-INFINITY, found
    cdef total_t total
    total.sum = total.rest = 0
    while k < classes:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), classes - k)
        for i in range(n):
            piece[i] = v[k + i] if e[k + i] == highest else least
        found = lane_max(piece, n)
        r = found if found > r else r
        k += n
    k = 0
    while k < classes:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), classes - k)
        for i in range(n):
            u[k + i] = v[k + i] - r
            piece[i] = e[k + i] * u[k + i]
        add_to(&total, row_sum(piece, n, classes))
        k += n
    base[0] = r
    return total_of(&total) / s.total


cdef inline void spread(Py_ssize_t classes, const real_t* e, double factor, double mass, double mean, double more,
                        real_t* u) noexcept nogil:
    """factor e_j (mass (u_j - mean) + more), in the place of u."""
    cdef Py_ssize_t i
    cdef real_t c = <real_t>factor, a = <real_t>mass, m = <real_t>mean, b = <real_t>more
    for i in range(classes):
        u[i] = c * e[i] * fma(a, u[i] - m, b)


cdef double product_row(sparse_t kernel, const plan_t* p, const real_t* x, Py_ssize_t y, double factor,
                        const real_t* v, real_t* e, real_t* piece, real_t* h) noexcept nogil:
    """What sparse_row() returns, and h the Hessian times v.

    With the entropy's gradient p - onehot(y), a = (p - onehot(y)).v = p.v - v_y and b = q phi''/phi', the Hessian of
    phi(s) times v is phi' p_j (v_j - p.v + b a/q) beside the label, and -phi' a (p_y + b) at it. a is of the order of
    q, so that b a/q is in the range.
    """
    cdef softmax_t s = exponentials(x, p.row_length, p.ahead, e, piece)
    cdef double base, mean = centre(s, p.row_length, e, v, h, piece, &base)
    cdef double own = e[y], others, slope, bend, a = mean - h[y], loss, more = 0
    if sparse_t is EntropyFunction:
        others = s.others if own == s.highest else s.total - own
        loss = kernel.of_row(s.top, x[y], s.log_total, own / s.total, others / s.total, &slope, &bend)
        if p.surrogate and bend < 0:
            bend = 0
        factor *= slope
        if others > 0:
            more = bend * (a * s.total / others)
        spread(p.row_length, e, factor / s.total, <double>1, mean, more, h)
        h[y] = <real_t>(-factor * a * (own / s.total + bend))
        return loss
    else:
        spread(p.row_length, e, factor / s.total, <double>1, mean, <double>0, h)
        return (s.top - <double>x[y]) + s.log_total


ctypedef fused dense_t:
    SoftmaxCrossEntropy
    AdjustedCrossEntropy


cdef double dense_row(dense_t kernel, const plan_t* p, const real_t* x, const real_t* t, double factor, real_t* e,
                      real_t* piece, real_t* g, real_t* h, real_t* d, const real_t* v) noexcept nogil:
    """sum_j t_j (log sum e^x - x_j) of one row of logits for the targets t, and those derivatives that are not NULL.

    With a vector v, h is the Hessian times v: T p_j (v_j - p.v), and 2 c p_j (L (v_j - p.v) + p.v) of add_square().
    """
    cdef Py_ssize_t i, k = 0, n
    cdef softmax_t s = exponentials(x, p.row_length, p.ahead, e, piece)
    cdef Py_ssize_t labelled = p.row_length
    cdef real_t top = <real_t>s.top, zero = 0
    cdef double targets, loss, mean, base, level = s.top + s.log_total, penalty = 0
    cdef total_t all_targets, linear
    all_targets.sum = all_targets.rest = linear.sum = linear.rest = 0
    if dense_t is AdjustedCrossEntropy:
        labelled = 0 if kernel.alone else labelled
    while k < labelled:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), labelled - k)
        add_to(&all_targets, row_sum(t + k, n, p.row_length))
        # a class without weight may have a logit of -inf
        for i in range(n):
            piece[i] = zero if t[k + i] == 0 else t[k + i] * (top - x[k + i])
        add_to(&linear, row_sum(piece, n, p.row_length))
        k += n
    targets = total_of(&all_targets)
    if d != NULL:
        label_gradients(kernel, p, factor, s.log_total, top, x, d)
    loss = targets * s.log_total + total_of(&linear)
    if dense_t is AdjustedCrossEntropy:
        penalty = kernel.penalty
        if kernel.alone:
            targets, loss = 1, level_of(s, p.row_length, x)
    if v != NULL:
        mean = centre(s, p.row_length, e, v, h, piece, &base)
        spread(p.row_length, e, factor / s.total, targets + 2 * penalty * level, mean, 2 * penalty * (base + mean), h)
        return loss + penalty * level * level
    softmax_derivatives(s, p.row_length, e, t, targets, factor, g, h)
    if dense_t is AdjustedCrossEntropy:
        if penalty != 0:
            loss += add_square(s, p.row_length, penalty, factor, e, g, h)
    return loss


cdef void label_gradients(TargetKernel kernel, const plan_t* p, double factor, double log_total, real_t top,
                          const real_t* x, real_t* d) noexcept nogil:
    """What a row's targets have of its label's entries, times the losses log_total + top - x_j of the classes."""
    cdef double keep = 1 - kernel.smoothing
    cdef Py_ssize_t j
    # Separate loops: a masked load from address 0 takes 20 times as long.
    if kernel.class_weight == NULL:
        for j in range(p.row_length):
            d[j] = <real_t>(factor * weighted_loss(keep, log_total + (top - x[j])))
    else:
        for j in range(p.row_length):
            d[j] = <real_t>(factor * weighted_loss(keep * kernel.class_weight[j], log_total + (top - x[j])))


cdef double linear_row(TargetKernel kernel, const plan_t* p, const real_t* x, const real_t* t, double factor,
                       real_t* g, real_t* h, real_t* d, real_t* piece) noexcept nogil:
    """-sum_j t_j x_j of one row of log-probabilities."""
    cdef Py_ssize_t i, k = 0, n, classes = p.row_length
    cdef real_t zero = 0, c = <real_t>factor
    cdef total_t total
    total.sum = total.rest = 0
    while k < classes:
        n = min(BLOCK_BYTES // <Py_ssize_t>sizeof(real_t), classes - k)
        for i in range(n):
            # such a class may have a logit of -inf, but not NaN
            piece[i] = zero if (t[k + i] == 0) & (x[k + i] == x[k + i]) else -t[k + i] * x[k + i]
        add_to(&total, row_sum(piece, n, classes))
        k += n
    if d != NULL:
        label_gradients(kernel, p, factor, <double>0, zero, x, d)
    if g != NULL:
        for i in range(classes):
            g[i] = -c * t[i]
    if h != NULL:
        set_all(h, zero, classes)
    return total_of(&total)


cdef inline void set_targets(TargetKernel kernel, const plan_t* p, const real_t* label, Py_ssize_t y,
                             real_t* t) noexcept nogil:
    """t_j = class_weight_j ((1 - smoothing) label_j + smoothing/classes), the label dense, or the class id y.

    A class weight that multiplies the whole row is not in its targets.
    """
    cdef Py_ssize_t j
    cdef real_t keep = <real_t>(1 - kernel.smoothing), base = <real_t>(kernel.smoothing / p.row_length)
    if label == NULL:
        set_all(t, base, p.row_length)
        t[y] = keep + base
    else:
        for j in range(p.row_length):
            t[j] = fma(keep, label[j], base)
    if kernel.class_weight != NULL and not kernel.weighs_rows:
        for j in range(p.row_length):
            t[j] *= <real_t>kernel.class_weight[j]


cdef double picked_row(const real_t* x, Py_ssize_t y, Py_ssize_t classes, double factor, real_t* g,
                       real_t* h) noexcept nogil:
    """-x_y of one row of log-probabilities."""
    if g != NULL:
        set_all(g, <real_t>0, classes)
        g[y] = <real_t>-factor
    if h != NULL:
        set_all(h, <real_t>0, classes)
    return -x[y]


cdef class TargetKernel(ClassKernel):
    """A kernel over classes whose labels are targets, or class ids of which targets are made."""
    cdef double smoothing


@cython.final
cdef class SoftmaxCrossEntropy(TargetKernel):
    """l = -sum_j t_j log softmax(x)_j, t the label, smoothed, or one-hot at a class id; times the classes' weights."""
    cdef bint from_logits       # x holds log softmax(x)

    def __cinit__(self, bint has_ids, bint from_logits, double smoothing, ignored, bytes class_weight):
        self.from_logits, self.smoothing = from_logits, smoothing
        self.set_classes(has_ids, ignored, class_weight)
        self.weighs_rows = has_ids and smoothing == 0

    cdef void fill(self) noexcept:
        self.table.short_row_bytes = 0 if self.from_logits else SHORT_ROW_BYTES

    cdef double row(self, const plan_t* p, const real_t* x, const real_t* y, const real_t* q, double label,
                    double factor, real_t* g, real_t* h, real_t* d, real_t* unused, real_t* piece) noexcept nogil:
        cdef real_t* t = piece + BLOCK_BYTES // sizeof(real_t)
        cdef real_t* e = t + p.row_length
        if p.row_length == 0:
            # no classes, no targets
            return 0
        if self.weighs_rows and self.from_logits:
            return picked_row(x, <Py_ssize_t>label, p.row_length, factor, g, h)
        if self.weighs_rows and q != NULL:
            return product_row(self, p, x, <Py_ssize_t>label, factor, q, e, piece, h)
        if self.weighs_rows:
            return sparse_row(self, p, x, <Py_ssize_t>label, factor, e, piece, g, h)
        set_targets(self, p, y, <Py_ssize_t>label if self.has_ids else 0, t)
        if self.from_logits:
            return linear_row(self, p, x, t, factor, g, h, d, piece)
        return dense_row(self, p, x, t, factor, e, piece, g, h, d, q)

    cdef void tile(self, const plan_t* p, Py_ssize_t n, const real_t* m, const real_t* y, const double* weight,
                   real_t* t, real_t* tile, real_t* hess, real_t* d, real_t* unused, real_t* l,
                   double* memory) noexcept nogil:
        if self.weighs_rows and p.row_length == 2:
            two_classes(n, p.grad_scale, m, y, weight, tile, hess, l)
        elif self.weighs_rows:
            few_classes(self, p, n, m, y, weight, tile, hess, l, memory)
        else:
            tile_targets(self, n, p.row_length, y, t)
            few_targets(p, n, m, t, False, 0, tile, hess, d, l, memory)
            if d != NULL:
                few_label_gradients(self, p, n, m, d)


cdef inline real_t cap(real_t x, real_t c, real_t* slope, real_t* bend) noexcept nogil:
    """c tanh(x/c) and its first two derivatives, by u = e^(-2 |x|/c) and u - 1: nothing cancels, near 0 or far away."""
    cdef real_t u, one = 1, two = 2, four = 4, less = absolute(expm1_nonpositive(minus_absolute(two * (x / c)), &u))
    cdef real_t r = one / (one + u), t = signed_as(less * r, x)
    slope[0] = four * u * r * r
    bend[0] = -two * t * slope[0] / c
    return c * t


cdef void cap_row(Py_ssize_t n, const real_t* x, real_t c, real_t* v) noexcept nogil:
    cdef Py_ssize_t i
    cdef real_t slope, bend
    for i in range(n):
        v[i] = cap(x[i], c, &slope, &bend)


cdef void uncap_row(Py_ssize_t n, const real_t* x, real_t c, real_t* g, real_t* h) noexcept nogil:
    """Turns derivatives in v = c tanh(x/c) into those in x: h v'^2 + g v'', and g v'."""
    cdef Py_ssize_t i
    cdef real_t slope, bend
    if h != NULL:
        for i in range(n):
            cap(x[i], c, &slope, &bend)
            h[i] = fma(slope * slope, h[i], bend * g[i])
    if g != NULL:
        for i in range(n):
            cap(x[i], c, &slope, &bend)
            g[i] *= slope


@cython.final
cdef class AdjustedCrossEntropy(TargetKernel):
    """The softmax cross-entropy of v = c tanh(x/c) + bias, plus penalty (log sum e^v)^2.

    No weight of a class multiplies the penalty. Alone, without a label, l = log sum e^v: with targets of 0, whose sum
    counts as 1, all derivatives are those of the cross-entropy.
    """
    cdef bint alone
    cdef double penalty, limit      # c; 0: v = x + bias
    cdef bytes biases               # owns the memory of the next
    cdef const double* bias         # NULL: none

    def __cinit__(self, bint has_ids, double penalty, double limit, bytes bias, double smoothing=0, ignored=None,
                  bytes class_weight=None, bint alone=False):
        self.set_classes(has_ids, ignored, class_weight)
        self.weighs_rows = has_ids and smoothing == 0 and penalty == 0
        self.alone = alone
        self.penalty, self.limit, self.smoothing = penalty, limit, smoothing
        self.biases = bias
        if bias is not None:
            self.bias = <const double*><const char*>bias

    cdef void fill(self) noexcept:
        # targets, exponentials, v, and of a product the gradient in v and the vector times v'
        self.table.row_buffers = 5
        self.table.short_row_bytes = SHORT_ROW_BYTES

    cdef double row(self, const plan_t* p, const real_t* x, const real_t* y, const real_t* q, double label,
                    double factor, real_t* g, real_t* h, real_t* d, real_t* unused, real_t* piece) noexcept nogil:
        cdef Py_ssize_t n = p.row_length
        cdef real_t* t = piece + BLOCK_BYTES // sizeof(real_t)
        cdef real_t* e = t + n
        cdef const real_t* v
        cdef real_t c = <real_t>self.limit
        cdef double loss
        if n == 0:
            # no classes, no targets; a sum of nothing
            return <double>-INFINITY if self.alone else 0
        if not self.alone:
            set_targets(self, p, y, <Py_ssize_t>label if self.has_ids else 0, t)
        elif g != NULL or h != NULL:
            set_all(t, <real_t>0, n)
        v = adjusted(self, n, x, e + n)
        if q != NULL and c > 0:
            return capped_product(self, p, x, v, t, factor, q, e, piece, h)
        loss = dense_row(self, p, v, t, factor, e, piece, g, h, d, q)
        if c > 0:
            uncap_row(n, x, c, g, h)
        return loss

    cdef void tile(self, const plan_t* p, Py_ssize_t n, const real_t* m, const real_t* y, const double* weight,
                   real_t* t, real_t* tile, real_t* hess, real_t* d, real_t* spare, real_t* l,
                   double* memory) noexcept nogil:
        cdef Py_ssize_t i, j, all = n * p.row_length
        cdef real_t c = <real_t>self.limit
        # behind what few_targets() needs
        cdef double* edge = memory + (SHORT_NUMBERS - 1) * n
        if c > 0:
            memcpy(spare, tile, all * sizeof(real_t))
            cap_row(all, spare, c, tile)
        for j in range(p.row_length if self.bias != NULL else 0):
            for i in range(n):
                tile[j * n + i] += <real_t>self.bias[j]
        if self.alone:
            set_all(t, <real_t>0, all)
            find_edges(n, p.row_length, tile, edge)
        else:
            tile_targets(self, n, p.row_length, y, t)
        few_targets(p, n, m, t, self.alone, self.penalty, tile, hess, d, l, memory)
        for i in range(n if self.alone else 0):
            l[i] = <real_t>edge[i] if edge[i] != 0 else l[i]
        if d != NULL:
            few_label_gradients(self, p, n, m, d)
        if c > 0:
            uncap_row(all, spare, c, tile, hess if p.outputs[HESS].data != NULL else NULL)
        for i in range(n if self.weighs_rows and self.class_weight != NULL else 0):
            weigh_column(i, n, p.row_length, weight[i], tile, hess, l)


cdef void weigh_column(Py_ssize_t i, Py_ssize_t n, Py_ssize_t width, double weight, real_t* tile, real_t* hess,
                       real_t* l) noexcept nogil:
    """Multiplies the loss of row i of a tile of n rows, and its derivatives."""
    cdef Py_ssize_t j
    l[i] = <real_t>weighted_loss(weight, l[i])
    for j in range(width):
        tile[j * n + i] *= <real_t>weight
        hess[j * n + i] *= <real_t>weight


cdef const real_t* adjusted(AdjustedCrossEntropy kernel, Py_ssize_t n, const real_t* x, real_t* v) noexcept nogil:
    """The logits that the softmax takes: v, or x itself where nothing is changed."""
    cdef Py_ssize_t i
    if kernel.limit == 0 and kernel.bias == NULL:
        return x
    if kernel.limit > 0:
        cap_row(n, x, <real_t>kernel.limit, v)
    else:
        memcpy(v, x, n * sizeof(real_t))
    if kernel.bias != NULL:
        for i in range(n):
            v[i] += <real_t>kernel.bias[i]
    return v


cdef double capped_product(AdjustedCrossEntropy kernel, const plan_t* p, const real_t* x, const real_t* v,
                           const real_t* t, double factor, const real_t* q, real_t* e, real_t* piece,
                           real_t* h) noexcept nogil:
    """The loss of a row, and the Hessian in x times q: v' H(v' q) + g v'' q, of H and g in v."""
    cdef Py_ssize_t i, n = p.row_length
    cdef real_t* g = e + 2 * n
    cdef real_t* u = g + n
    cdef real_t slope, bend, c = <real_t>kernel.limit
    cdef real_t* none = NULL
    cdef double loss = dense_row(kernel, p, v, t, factor, e, piece, g, none, none, none)
    for i in range(n):
        cap(x[i], c, &slope, &bend)
        u[i] = slope * q[i]
    dense_row(kernel, p, v, t, factor, e, piece, none, h, none, u)
    for i in range(n):
        cap(x[i], c, &slope, &bend)
        h[i] = fma(slope, h[i], bend * g[i] * q[i])
    return loss


cdef class EntropyFunction(ClassKernel):
    """l = phi(s) of the softmax cross-entropy s = -log p of a class id, phi increasing.

    With q = 1 - p, the sum of the others' p_j, and b = q phi''/phi': g_y = -phi' q, h_y = phi' q (p + b), and beside
    the label g_j = phi' p_j, h_j = g_j (1 - p_j + b p_j/q), whose quotients are from 0 to 1 however small q is.
    The surrogate takes a b below 0 for 0.
    """
    cdef double of_row(self, double top, double logit, double tail, double p, double q, double* slope,
                       double* bend) noexcept nogil:
        """phi(s), phi' and b, of s = top - logit + tail."""
        cdef double lead = top - logit, rest = lost(top, -logit, lead)
        return self.at(lead, tail + (rest if rest == rest else 0), p, q, slope, bend)

    cdef double at(self, double lead, double tail, double p, double q, double* slope, double* bend) noexcept nogil:
        """phi(s), phi' and b, of s = lead + tail: rounded to one number, it would lose digits of its exponential."""
        slope[0] = bend[0] = 0  # no cover: each function has its own
        return 0  # no cover: as above

    cdef double row(self, const plan_t* p, const real_t* x, const real_t* y, const real_t* q, double label,
                    double factor, real_t* g, real_t* h, real_t* d, real_t* unused, real_t* piece) noexcept nogil:
        cdef real_t* e = piece + BLOCK_BYTES // sizeof(real_t)
        if q != NULL:
            return product_row(self, p, x, <Py_ssize_t>label, factor, q, e, piece, h)
        return sparse_row(self, p, x, <Py_ssize_t>label, factor, e, piece, g, h)

    cdef void fill(self) noexcept:
        self.table.short_row_bytes = SHORT_ROW_BYTES

    cdef void tile(self, const plan_t* p, Py_ssize_t n, const real_t* m, const real_t* y, const double* weight,
                   real_t* t, real_t* tile, real_t* hess, real_t* d, real_t* unused, real_t* l,
                   double* memory) noexcept nogil:
        few_classes(self, p, n, m, y, weight, tile, hess, l, memory)


cdef inline double fractional_power(double k, double v) noexcept nogil:
    """v^k for v from 0 to 1 and k > 0; log(v) is in two parts, the first of 2 to the power of v's exponent."""
    cdef double n = -54, mantissa = normal(v * 18014398509481984., &n)
    cdef double e = power(k, <double>0, n * 0.6931471803691238,
                          fma(n, 1.9082149292705877e-10, log_from_one(mantissa)))
    return 0 if v == 0 else e


@cython.final
cdef class SoftmaxFocal(EntropyFunction):
    """phi = q^k s. From q' = p: phi' = q^k (1 + k r) and b = k (p (2 + (k - 1) r) - p s)/(1 + k r), with r = p s/q."""
    cdef double exponent
    cdef bint is_small      # an integer up to 7

    def __cinit__(self, double exponent, ignored, bytes class_weight):
        self.set_classes(True, ignored, class_weight)
        # beyond, q^k is 0 for every q but 1
        self.exponent = min(exponent, 1e15)
        self.is_small = exponent in range(8)

    cdef double at(self, double lead, double tail, double p, double q, double* slope, double* bend) noexcept nogil:
        cdef double k = self.exponent, s = lead + tail
        cdef double factor = small_power(k, q) if self.is_small else fractional_power(k, q)
        # an infinite s has no p: 0 * inf; s/q tends to 1 where q vanishes
        cdef double ps = 0 if p == 0 else p * s, r = ps / q if q > 0 else p, change = 1 + k * r
        slope[0] = factor * change
        bend[0] = k * (p * (2 + (k - 1) * r) - ps) / change
        return factor * s


@cython.final
cdef class PolyCrossEntropy(EntropyFunction):
    """phi = s + epsilon q, phi' = q + (1 + epsilon) p, of which nothing cancels, b = -epsilon p q/phi'."""
    cdef double epsilon

    def __cinit__(self, double epsilon, ignored, bytes class_weight):
        self.set_classes(True, ignored, class_weight)
        self.epsilon = epsilon

    cdef double at(self, double lead, double tail, double p, double q, double* slope, double* bend) noexcept nogil:
        slope[0] = q + (1 + self.epsilon) * p
        bend[0] = -self.epsilon * p * q / slope[0]
        return lead + tail + self.epsilon * q


@cython.final
cdef class GeneralizedCrossEntropy(EntropyFunction):
    """phi = (1 - p^k)/k = (1 - e^(-k s))/k, phi' = p^k, b = -k q."""
    cdef double exponent

    def __cinit__(self, double exponent, ignored, bytes class_weight):
        self.set_classes(True, ignored, class_weight)
        self.exponent = exponent

    cdef double at(self, double lead, double tail, double p, double q, double* slope, double* bend) noexcept nogil:
        cdef double k = self.exponent, a = -k * lead
        # of an infinite product there is no rest: inf - inf
        cdef double rest = fma(-k, lead, -a) if a > <double>-INFINITY else 0
        cdef double less = expm1_sum(a, fma(-k, tail, rest), slope)
        bend[0] = -k * q
        return -less / k


cdef inline real_t excess(real_t margin, real_t x, real_t own) noexcept nogil:
    """max(0, margin + x - own); near the margin the rounding of the difference would be all that is left."""
    cdef real_t zero = 0, difference = x - own, rest = lost(x, -own, difference)
    cdef real_t z = (margin + difference) + (rest if rest == rest else zero)
    return zero if z <= 0 else z


@cython.final
cdef class MultiMargin(ClassKernel):
    """l = 1/C sum of u_j^p over the classes j but y, u_j = max(0, margin + x_j - x_y), p 1 or 2."""
    cdef bint squares       # p is 2
    cdef double margin

    def __cinit__(self, bint squares, double margin, ignored, bytes class_weight):
        self.set_classes(True, ignored, class_weight)
        self.squares, self.margin = squares, margin

    cdef double row(self, const plan_t* p, const real_t* x, const real_t* y, const real_t* q, double label,
                    double factor, real_t* g, real_t* h, real_t* d, real_t* unused, real_t* piece) noexcept nogil:
        cdef Py_ssize_t i, own = <Py_ssize_t>label, n = p.row_length
        cdef real_t* u = piece + BLOCK_BYTES // sizeof(real_t)
        cdef real_t c = <real_t>(factor / n), zero = 0, one = 1, two = 2, bend = two if self.squares else zero
        for i in range(n):
            u[i] = excess(<real_t>self.margin, x[i], x[own])
        # the label has no margin to itself, but may be NaN
        u[own] = zero_like(x[own])
        if g != NULL:
            for i in range(n):
                g[i] = one if u[i] > 0 else zero
            for i in range(n if self.squares else 0):
                g[i] = two * u[i]
            # 0 at the label, which is set last
            g[own] = <real_t>-sum_of(g, n)
            for i in range(n):
                g[i] *= c
        if h != NULL:
            for i in range(n):
                h[i] = bend if u[i] > 0 else zero
            h[own] = <real_t>sum_of(h, n)
            for i in range(n):
                h[i] *= c
        for i in range(n if self.squares else 0):
            u[i] *= u[i]
        return sum_of(u, n) / n


@cython.final
cdef class CrammerSinger(ClassKernel):
    """l = max(0, margin + x_k - x_y), x_k the first of the highest of all x but x_y."""
    cdef double margin

    def __cinit__(self, double margin, ignored, bytes class_weight):
        self.set_classes(True, ignored, class_weight)
        self.margin = margin

    cdef double row(self, const plan_t* p, const real_t* x, const real_t* y, const real_t* q, double label,
                    double factor, real_t* g, real_t* h, real_t* d, real_t* unused, real_t* piece) noexcept nogil:
        cdef Py_ssize_t i, own = <Py_ssize_t>label, n = p.row_length, k = 0
        cdef real_t* u = piece + BLOCK_BYTES // sizeof(real_t)
        cdef real_t top, loss, zero = 0
        # the highest is found past NaN
        for i in range(n):
            u[i] = zero_like(x[i])
        loss = <real_t>sum_of(u, n)
        memcpy(u, x, n * sizeof(real_t))
        u[own] = <real_t>-INFINITY
        top = lane_max(u, n)
        loss += excess(<real_t>self.margin, top, x[own])
        if h != NULL:
            set_all(h, zero, n)
        if g != NULL:
            set_all(g, zero, n)
        if g != NULL and loss > 0:
            while u[k] < top:
                k += 1
            g[k], g[own] = <real_t>factor, <real_t>-factor
        return loss


ctypedef fused class_loss_t:
    SoftmaxCrossEntropy
    AdjustedCrossEntropy
    EntropyFunction
    MultiMargin
    CrammerSinger

# lanes run over rows of these, where they are short
ctypedef fused short_loss_t:
    SoftmaxCrossEntropy
    AdjustedCrossEntropy
    EntropyFunction

"""Smoothed deep metric learning: every row of one array against every row of another.

Distances are sums of squared differences, in double precision, tile by tile: |x|^2 + |y|^2 - 2 x.y would lose the
digits of near pairs. No array has the size of all pairs; the gradient in the second array computes the distances again.
"""

cimport cython
from libc.math cimport log

from fastloss._math cimport exp_nonpositive, fma, log_sum, real_t
from fastloss._plan cimport (
    CACHE_LINE, FIRST, GRAD, GRAD_SECOND, OUTPUTS, SECOND, WEIGHT, complaint_t, plan_t, rows_t,
)

cdef enum:
    PAIR_ROWS = 8   # pairs at once
    PANEL = 16      # columns of a panel: two or four vectors of doubles, for each of two rows

# two arrays of n rows in double precision, and results of the first round for the second
cdef struct pairs_t:
    Py_ssize_t n
    Py_ssize_t width            # of a row, rounded up
    Py_ssize_t panels
    bint swapped                # the current rows are the second array's
    double* x
    double* y
    double* x_panels
    double* y_panels
    double* x_strips
    double* y_strips
    double* least               # the least distance from each row of the first
    double* share               # the factor of e^(least - distance) in the softmax's part of the derivatives
    double* factor              # of each row's derivatives
    double* diagonal            # the derivative in the distance of each pair that belongs together
    double same                 # the target of that pair
    double other
    double log_same
    double log_other


cdef void distances(const double* a, const double* b, const double* panel, Py_ssize_t width, double* to_a,
                    double* to_b) noexcept nogil:
    """The squared distances of two vectors from the PANEL vectors of a panel, which is held feature by feature."""
    cdef double first[PANEL]
    cdef double second[PANEL]
    cdef double u, v, z
    cdef Py_ssize_t k, d
    for k in range(PANEL):
        first[k] = second[k] = 0
    for d in range(width):
        u, v = a[d], b[d]
        for k in range(PANEL):
            z = u - panel[d * PANEL + k]
            first[k] = fma(z, z, first[k])
        for k in range(PANEL):
            z = v - panel[d * PANEL + k]
            second[k] = fma(z, z, second[k])
    for k in range(PANEL):
        to_a[k] = first[k]
        to_b[k] = second[k]


cdef void pull(const double* u, const double* v, const double* to_u, const double* to_v, const double* strip,
               Py_ssize_t n, double* gu, double* gv) noexcept nogil:
    """gu = 2 sum_j to_u_j (u - other row j) for PANEL features, of which a strip holds all rows; gv likewise."""
    cdef double first[PANEL]
    cdef double second[PANEL]
    cdef double p, q, z
    cdef Py_ssize_t j, k
    for k in range(PANEL):
        first[k] = second[k] = 0
    for j in range(n):
        p, q = to_u[j], to_v[j]
        for k in range(PANEL):
            z = u[k] - strip[j * PANEL + k]
            first[k] = fma(p, z, first[k])
        for k in range(PANEL):
            z = v[k] - strip[j * PANEL + k]
            second[k] = fma(q, z, second[k])
    for k in range(PANEL):
        gu[k] = 2 * first[k]
    for k in range(PANEL):
        gv[k] = 2 * second[k]


cdef double pair_softmax(const pairs_t* s, Py_ssize_t i, double factor, double* w) noexcept nogil:
    """The loss of row i from its distances in w, which become factor times the derivatives in them.

    l = sum_j t_j (log(t_j + eps) + D_j + log sum e^-D). Distances count from the least of them, so that what they have
    in common leaves no rounding errors.
    """
    cdef Py_ssize_t j, n = s.n, best = 0
    cdef double least = w[0], own, others, total, log_total, far, c
    for j in range(n):
        least = w[j] if w[j] < least else least
    for j in range(n):
        if w[j] == least:
            best = j
            break
    for j in range(n):
        w[j] -= least
    own, far = w[i], sum_of(w, i) + sum_of(w + i + 1, n - i - 1)
    for j in range(n):
        w[j] = exp_nonpositive(-w[j])
    w[best] = 0
    others = sum_of(w, n)
    w[best] = 1
    total = 1 + others
    log_total = log_sum(<double>1, others)
    c = -factor / total
    s.least[i], s.factor[i], s.share[i] = least, factor, c
    for j in range(n):
        w[j] = fma(c, w[j], factor * s.other)
    # softmax_i - t_i cancels if both are near 1. The derivatives of a row sum to 0, so take it from the others.
    w[i] = 0
    w[i] = -sum_of(w, n)
    # an infinite distance with a share of 0 costs nothing
    far = s.other * (far + (n - 1) * (s.log_other + log_total)) if s.other > 0 else <double>0
    return s.same * (s.log_same + own + log_total) + far if s.same > 0 else far


cdef void leave_out(const pairs_t* s, Py_ssize_t i, double* w) noexcept nogil:
    """Removes row i of the first array from the gradients: its loss has the weight 0."""
    cdef Py_ssize_t j
    s.least[i] = s.factor[i] = s.share[i] = 0
    for j in range(s.n):
        w[j] = 0


cdef void pair_rows(void* parameters, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m,
                    const real_t* weight, real_t* l, real_t* buffers) noexcept nogil:
    """The losses of rows start to start + n of the first array and their gradients; swapped, those in the second."""
    cdef const pairs_t* s = <const pairs_t*>p.state
    cdef Py_ssize_t width = s.width, padded = s.panels * PANEL, i, j, k, r, other, at, since = 0
    cdef double* w = <double*>buffers           # distances, then weights, of each row
    cdef double* g = w + PAIR_ROWS * padded
    cdef real_t* line = <real_t*>(g + PAIR_ROWS * width)
    cdef const double* rows = s.y if s.swapped else s.x
    cdef const double* others
    cdef const double* panels = s.x_panels if s.swapped else s.y_panels
    for k in range(s.panels):
        if stopped(p, &since, n * PANEL * width // 4):
            return  # no cover: signals come by chance
        for r in range(0, n, 2):
            other = r + 1 if r + 1 < n else r
            distances(rows + (start + r) * width, rows + (start + other) * width, panels + k * width * PANEL, width,
                      w + r * padded + k * PANEL, w + other * padded + k * PANEL)
    for r in range(n):
        i = start + r
        if not s.swapped:
            l[r] = <real_t>pair_softmax(s, i, p.grad_scale * (m[r] if m != NULL else <real_t>1), w + r * padded)
            if weight != NULL and weight[r] == 0:
                leave_out(s, i, w + r * padded)
        else:
            for j in range(s.n):
                # as for the row j of the first array
                w[r * padded + j] = fma(s.share[j], exp_nonpositive(s.least[j] - w[r * padded + j]),
                                        s.factor[j] * s.other)
            w[r * padded + i] = s.diagonal[i]
    if not s.swapped:
        for r in range(n):
            s.diagonal[start + r] = w[r * padded + start + r]
    if p.outputs[GRAD].data == NULL:
        return
    rows = s.y_strips if s.swapped else s.x_strips
    others = s.x_strips if s.swapped else s.y_strips
    for k in range(width // PANEL):
        if stopped(p, &since, n * PANEL * s.n // 4):
            return  # no cover: as above
        at = k * s.n * PANEL
        for r in range(0, n, 2):
            other = r + 1 if r + 1 < n else r
            pull(rows + at + (start + r) * PANEL, rows + at + (start + other) * PANEL, w + r * padded,
                 w + other * padded, others + at, s.n,
                 g + r * width + k * PANEL, g + other * width + k * PANEL)
    for r in range(n):
        for k in range(p.row_length):
            # a vector of weight 0 may be infinite
            line[k] = <real_t>(0 if weight != NULL and weight[r] == 0 and not s.swapped else g[r * width + k])
        scatter(&p.outputs[GRAD], (start + r) * p.row_length, p.row_length, line)


cdef void forget_row(Py_ssize_t n, double* row) noexcept nogil:
    """Sets a vector that is not finite to 0: even with weight 0, it would make the second array's gradient NaN."""
    cdef Py_ssize_t d
    cdef bint finite = True
    for d in range(n):
        finite = finite and row[d] - row[d] == 0
    for d in range(0 if finite else n):
        row[d] = 0


cdef void load_pairs(const plan_t* p, int kind, const pairs_t* s, double* rows, double* panels,
                     double* strips) noexcept nogil:
    """Copies an input's rows in double precision, padded with zeros, in panels and in strips of features."""
    cdef Py_ssize_t i, d, since = 0
    for i in range(s.n):
        if stopped(p, &since, s.width):
            return  # no cover: as above
        gather(&p.inputs[kind], i * p.row_length, p.row_length, rows + i * s.width)
        if kind == FIRST and is_left_out(&p.inputs[WEIGHT], i):
            forget_row(p.row_length, rows + i * s.width)
        for d in range(p.row_length, s.width):
            rows[i * s.width + d] = 0
        for d in range(s.width):
            strips[(d // PANEL * s.n + i) * PANEL + d % PANEL] = rows[i * s.width + d]
    for i in range(s.panels * PANEL):
        if stopped(p, &since, s.width):
            return  # no cover: as above
        for d in range(s.width):
            panels[(i // PANEL * s.width + d) * PANEL + i % PANEL] = rows[i * s.width + d] if i < s.n else 0


cdef inline Py_ssize_t filled_up(Py_ssize_t n) noexcept nogil:
    """n rounded up to whole panels."""
    return (n + PANEL - 1) // PANEL * PANEL


cdef Py_ssize_t measure_pairs(plan_t* p) noexcept nogil:
    cdef Py_ssize_t size = filled_up(p.size), width = filled_up(p.row_length)
    if size > MOST_BYTES // 64 // (width + 1):
        return -1
    p.work = <Py_ssize_t>min(<double>MOST_BYTES / 2, <double>p.size * p.size * width / 4)
    return sizeof(pairs_t) + CACHE_LINE + (6 * width + 4) * size * sizeof(double)


cdef bint prepare_pairs(plan_t* p, complaint_t* complaint) noexcept nogil:
    """Copies both arrays in double precision, as rows, panels and strips."""
    cdef pairs_t* s = <pairs_t*>p.state
    cdef double smoothing = smoothing_of(p.parameters)
    cdef Py_ssize_t size = filled_up(p.size)
    s.n, s.width, s.panels, s.swapped = p.size, filled_up(p.row_length), size // PANEL, False
    # a single pair is certain
    s.other = smoothing / (s.n - 1) if s.n > 1 else <double>0
    s.same = 1 - smoothing if s.n > 1 else <double>1
    s.log_same, s.log_other = log(s.same + 1e-12), log(s.other + 1e-12)
    s.x = <double*>((<size_t>(s + 1) + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
    s.y = s.x + size * s.width
    s.x_panels = s.y + size * s.width
    s.y_panels = s.x_panels + size * s.width
    s.x_strips = s.y_panels + size * s.width
    s.y_strips = s.x_strips + size * s.width
    s.least = s.y_strips + size * s.width
    s.share = s.least + size
    s.factor = s.share + size
    s.diagonal = s.factor + size
    load_pairs(p, FIRST, s, s.x, s.x_panels, s.x_strips)
    load_pairs(p, SECOND, s, s.y, s.y_panels, s.y_strips)
    p.block = PAIR_ROWS
    p.extra = PAIR_ROWS * (size + 2 * s.width) * sizeof(double)
    return False


cdef bint begin_pairs(plan_t* p, int round) noexcept nogil:
    """The first round takes the rows of the first array; the second round, for its gradient, those of the second."""
    cdef int kind
    if round == 0:
        p.outputs[GRAD_SECOND].data = NULL
        return True
    if p.outputs[GRAD_SECOND].data == NULL:
        return False
    (<pairs_t*>p.state).swapped = True
    p.outputs[GRAD] = p.outputs[GRAD_SECOND]
    for kind in range(OUTPUTS):
        if kind != GRAD:
            p.outputs[kind].data = NULL
    return True


@cython.final
cdef class SmoothedMetric(Kernel):
    """l_i = KL(t_i | softmax_j(-|x_i - y_j|^2)), t_i the smoothed one-hot of i."""
    cdef double smoothing

    def __cinit__(self, double smoothing):
        self.smoothing = smoothing

    cdef void fill(self) noexcept:
        self.table.rows[0] = <rows_t>pair_rows[float]
        self.table.rows[1] = <rows_t>pair_rows[double]
        self.table.measure, self.table.prepare = measure_pairs, prepare_pairs
        self.table.rounds, self.table.begin_round = 2, begin_pairs


cdef double smoothing_of(void* parameters) noexcept nogil:
    return (<SmoothedMetric>parameters).smoothing

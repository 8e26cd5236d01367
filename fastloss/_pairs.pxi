"""Smoothed deep metric learning: every row of one array against every row of another.

Distances are sums of squared differences, in double precision, tile by tile: |x|^2 + |y|^2 - 2 x.y would lose the digits
of near pairs. Nothing of the size of all pairs is stored; the gradient in the second array takes its distances anew.
"""

cdef void distances(const double* a, const double* b, const double* panel, Py_ssize_t width, double* to_a, double* to_b) noexcept nogil:
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


cdef void pull(const double* u, const double* v, const double* to_u, const double* to_v, const double* strip, Py_ssize_t n,
               double* gu, double* gv) noexcept nogil:
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

    l = sum_j t_j (log(t_j + eps) + D_j + log sum e^-D), in which the distances may count from the least of them: what
    they have in common leaves no rounding errors.
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
    # what is left of the diagonal's derivative, where both terms may be near 1: those of a row sum to 0
    w[i] = 0
    w[i] = -sum_of(w, n)
    # what is infinitely far costs nothing where it has no share
    far = s.other * (far + (n - 1) * (s.log_other + log_total)) if s.other > 0 else <double>0
    return s.same * (s.log_same + own + log_total) + far if s.same > 0 else far


cdef void leave_out(const pairs_t* s, Py_ssize_t i, double* w) noexcept nogil:
    """Takes row i of the first array from the gradients: its loss has no weight."""
    cdef Py_ssize_t j
    s.least[i] = s.factor[i] = s.share[i] = 0
    for j in range(s.n):
        w[j] = 0


cdef void pair_rows(void* kernel, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m, const real_t* weight, real_t* l,
                    real_t* buffers) noexcept nogil:
    """The losses of rows start to start + n of the first array and their gradients; or, swapped, those in rows of the second."""
    cdef const pairs_t* s = <const pairs_t*>p.memory
    cdef Py_ssize_t width = s.width, padded = s.panels * PANEL, i, j, k, r, other, at, since = 0
    cdef double* w = <double*>buffers           # distances, then weights, of each row
    cdef double* g = w + PAIR_ROWS * padded
    cdef real_t* line = <real_t*>(g + PAIR_ROWS * width)
    cdef const double* rows = s.y if s.swapped else s.x
    cdef const double* others
    cdef const double* panels = s.x_panels if s.swapped else s.y_panels
    for k in range(s.panels):
        if stopped(p, &since, n * PANEL * width // 4):
            return  # no cover: where a signal meets a call is chance
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
                # as it was for the row j of the first array
                w[r * padded + j] = fma(s.share[j], exp_nonpositive(s.least[j] - w[r * padded + j]), s.factor[j] * s.other)
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
            pull(rows + at + (start + r) * PANEL, rows + at + (start + other) * PANEL, w + r * padded, w + other * padded, others + at, s.n,
                 g + r * width + k * PANEL, g + other * width + k * PANEL)
    for r in range(n):
        for k in range(p.width):
            # a vector without weight may be infinite
            line[k] = <real_t>(0 if weight != NULL and weight[r] == 0 and not s.swapped else g[r * width + k])
        scatter(&p.outputs[GRAD], (start + r) * p.width, p.width, line)


cdef void forget_row(Py_ssize_t n, double* row) noexcept nogil:
    """Makes a vector that is not finite 0: without weight its infinities would enter the second array's gradient as NaN."""
    cdef Py_ssize_t d
    cdef bint finite = True
    for d in range(n):
        finite = finite and row[d] - row[d] == 0
    for d in range(0 if finite else n):
        row[d] = 0


cdef void load_pairs(const plan_t* p, int kind, const pairs_t* s, double* rows, double* panels, double* strips) noexcept nogil:
    """The rows of an input in double precision, features filled up with 0; in panels, and in strips of features."""
    cdef Py_ssize_t i, d, since = 0
    for i in range(s.n):
        if stopped(p, &since, s.width):
            return
        gather(&p.inputs[kind], i * p.width, p.width, rows + i * s.width)
        if kind == PRED and is_left_out(&p.inputs[WEIGHT], i):
            forget_row(p.width, rows + i * s.width)
        for d in range(p.width, s.width):
            rows[i * s.width + d] = 0
        for d in range(s.width):
            strips[(d // PANEL * s.n + i) * PANEL + d % PANEL] = rows[i * s.width + d]
    for i in range(s.panels * PANEL):
        if stopped(p, &since, s.width):
            return
        for d in range(s.width):
            panels[(i // PANEL * s.width + d) * PANEL + i % PANEL] = rows[i * s.width + d] if i < s.n else 0

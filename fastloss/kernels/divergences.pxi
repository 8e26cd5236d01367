"""The divergence from logits: rows of elements with losses of their own, which share a softmax."""

cimport cython
from libc.math cimport INFINITY

from fastloss._math cimport log_sum, real_t
from fastloss._plan cimport (
    BLOCK_BYTES, FIRST, GRAD, GRAD_SECOND, HESS, OUTPUTS, SECOND, THIRD, plan_t, rows_t,
)

cdef enum:
    # four arrays, and what short rows take for each row
    DIVERGENCE_BUFFERS = 4
    ROWS_AT_ONCE = 64
    FEWEST_AT_ONCE = 32     # short rows of a block; fewer are as fast one by one


cdef inline bint has_weight(const real_t* w, Py_ssize_t n) noexcept nogil:
    """Whether a weight of n is not 0."""
    cdef Py_ssize_t i
    for i in range(n):
        if w[i] != 0:
            return True
    return False


cdef inline void divergence_at(real_t y, real_t log_odds, real_t* l, real_t* t, real_t* z) noexcept nogil:
    """l = y z of z = log(y + eps) + log_odds, and t = y; no number where the loss is none."""
    cdef real_t eps = 1e-12, zero = 0, found, log_ratio = log_sum(y, eps) + log_odds
    found = zero if y == 0 and log_ratio == <real_t>INFINITY else y * log_ratio
    l[0], z[0] = found, log_ratio
    # an element without a loss leaves its row without derivatives, unless its weight is 0
    t[0] = y if found == found else found


cdef void divergence_label_gradients(const plan_t* p, Py_ssize_t n, const real_t* t, const real_t* z,
                                     real_t* d) noexcept nogil:
    cdef Py_ssize_t i
    cdef real_t scale = <real_t>p.grad_scale, eps = 1e-12
    for i in range(n):
        d[i] = scale * (z[i] + t[i] / (t[i] + eps))


cdef void divergence_row(const plan_t* p, const real_t* x, const real_t* y, const real_t* v, const real_t* m,
                         const real_t* w, real_t* l, real_t* g, real_t* h, real_t* d, real_t* piece) noexcept nogil:
    """y_j (log(y_j + eps) - log softmax(x)_j) for a row; the gradient is for targets m_j y_j."""
    cdef Py_ssize_t size = p.buffer // <Py_ssize_t>sizeof(real_t), i, classes = p.coupled
    cdef real_t* e = piece + BLOCK_BYTES // sizeof(real_t)
    cdef real_t* t = e + size
    cdef real_t* z = t + size
    cdef softmax_t s = exponentials(x, classes, p.ahead, e, piece)
    cdef real_t top = <real_t>s.top, log_total = <real_t>s.log_total
    cdef double mean, base
    for i in range(classes):
        divergence_at(y[i], (top - x[i]) + log_total, l + i, t + i, z + i)
    if d != NULL:
        divergence_label_gradients(p, classes, t, z, d)
    if m != NULL:
        weigh(t, m, w, 0, classes)
        weigh(d, m, w, 0, classes if d != NULL else 0)
    if v != NULL:
        mean = centre(s, classes, e, v, h, piece, &base)
        spread(classes, e, p.grad_scale / s.total, sum_of(t, classes), mean, <double>0, h)
    else:
        softmax_derivatives(s, classes, e, t, sum_of(t, classes), p.grad_scale, g, h)


cdef inline void turn_rows(const real_t* source, Py_ssize_t rows, Py_ssize_t columns, real_t* to) noexcept nogil:
    """Copies rows as columns."""
    transpose(<const char*>source, columns * sizeof(real_t), rows, columns, <char*>to, rows * sizeof(real_t), to)


cdef void few_divergences(const plan_t* p, Py_ssize_t n, const real_t* x, const real_t* y, const real_t* m,
                          const real_t* w, real_t* l, real_t* g, real_t* h, real_t* d, double* memory) noexcept nogil:
    """divergence_row() for n rows at once, class by class."""
    cdef Py_ssize_t i, j, classes = p.coupled, all = n * classes
    cdef double* others = memory
    cdef double* mass = others + n
    cdef real_t* top = <real_t*>(mass + n)
    cdef real_t* base = top + n
    cdef real_t* lowest = base + n
    cdef real_t* shift = lowest + n
    cdef real_t* highest = shift + n
    cdef real_t* ties = highest + n
    cdef real_t* scale = ties + n
    cdef real_t* e = scale + n
    cdef real_t* t = e + all
    cdef real_t* z = t + all
    cdef real_t* turned = z + all
    cdef real_t one = 1
    turn_rows(x, n, classes, e)
    turn_rows(y, n, classes, t)
    open_rows(n, classes, e, top, base, lowest, shift, highest)
    exponentiate_tile(n, classes, top, base, lowest, shift, highest, e, z, ties, others)
    for i in range(n):
        base[i] = <real_t>others[i]
        ties[i] = log_sum(one, base[i] / highest[i])
        scale[i] = <real_t>(p.grad_scale / (others[i] + highest[i]))
    for j in range(classes):
        for i in range(n):
            divergence_at(t[j * n + i], z[j * n + i] + ties[i], turned + j * n + i, t + j * n + i, z + j * n + i)
    turn_rows(turned, classes, n, l)
    if d != NULL:
        divergence_label_gradients(p, all, t, z, turned)
        turn_rows(turned, classes, n, d)
    if m != NULL:
        weigh(d, m, w, 0, all if d != NULL else 0)
        turn_rows(m, n, classes, turned)
        if w != NULL:
            turn_rows(w, n, classes, z)
        weigh(t, turned, z if w != NULL else NULL, 0, all)
    set_all(mass, <double>0, n)
    for j in range(classes):
        for i in range(n):
            mass[i] += t[j * n + i]
    for i in range(n):
        lowest[i] = <real_t>mass[i]
    spread_targets(n, classes, t, lowest, base, highest, top, scale, <real_t>0, e, turned if h != NULL else NULL)
    if h != NULL:
        turn_rows(turned, classes, n, h)
    if g != NULL:
        turn_rows(e, classes, n, g)


cdef void divergence_rows(void* parameters, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m,
                          const real_t* w, real_t* l, real_t* buffers) noexcept nogil:
    """Whole rows of n elements: one after another, or short ones at once."""
    cdef Py_ssize_t size = p.buffer // <Py_ssize_t>sizeof(real_t), at = 0, rows, classes = p.coupled
    cdef real_t* tiles = buffers + BLOCK_BYTES // <Py_ssize_t>sizeof(real_t) + DIVERGENCE_BUFFERS * size
    cdef const real_t* x = fetch(&p.inputs[FIRST], start, n, tiles)
    cdef const real_t* y = fetch(&p.inputs[SECOND], start, n, tiles + SECOND * size)
    cdef const real_t* v = fetch(&p.inputs[THIRD], start, n, tiles + THIRD * size)
    cdef real_t* out[OUTPUTS]
    cdef real_t* row[OUTPUTS]
    cdef bint few = v == NULL and classes * FEWEST_AT_ONCE <= size
    cdef int kind
    for kind in range(GRAD, GRAD_SECOND + 1):
        out[kind] = row[kind] = NULL
        if p.outputs[kind].data != NULL:
            out[kind] = place(p, kind, start, tiles + (THIRD + kind) * size)
    while at < n:
        rows = min(<Py_ssize_t>ROWS_AT_ONCE, (n - at) // classes) if few else 1
        for kind in range(GRAD, GRAD_SECOND + 1):
            row[kind] = out[kind] + at if out[kind] != NULL else NULL
        if few:
            few_divergences(p, rows, x + at, y + at, m + at if m != NULL else NULL, w + at if w != NULL else NULL,
                            l + at, row[GRAD], row[HESS], row[GRAD_SECOND], <double*>buffers)
        else:
            divergence_row(p, x + at, y + at, v + at if v != NULL else NULL, m + at if m != NULL else NULL,
                           w + at if w != NULL else NULL, l + at, row[GRAD], row[HESS], row[GRAD_SECOND], buffers)
        for kind in range(rows if w != NULL else 0):
            if not has_weight(w + at + kind * classes, classes):
                set_all(row[GRAD] + kind * classes, <real_t>0, classes if row[GRAD] != NULL else 0)
                set_all(row[HESS] + kind * classes, <real_t>0, classes if row[HESS] != NULL else 0)
        at += rows * classes
    for kind in range(GRAD, GRAD_SECOND + 1):
        if out[kind] != NULL and not p.outputs[kind].in_place:
            scatter(&p.outputs[kind], start, n, out[kind])


@cython.final
cdef class SoftmaxDivergence(Kernel):
    """l_j = y_j (log(y_j + eps) - log softmax(x)_j)."""

    cdef void fill(self) noexcept:
        self.table.rows[0] = <rows_t>divergence_rows[float]
        self.table.rows[1] = <rows_t>divergence_rows[double]
        self.table.row_buffers = DIVERGENCE_BUFFERS

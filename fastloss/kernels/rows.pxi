"""Losses over rows: fetched, given to a kernel one by one or as a tile of short ones, and scattered.

A kernel sees a row's numbers as neighbours, in the loops' dtype. Results are apart from inputs; an unwanted result is
NULL. The kernel returns the loss without the example's weight, which is in the factor of the derivatives.
"""

from fastloss._math cimport real_t
from fastloss._plan cimport (
    BLOCK_BYTES, FIRST, FOURTH, GRAD, GRAD_SECOND, GRAD_THIRD, HESS, OUTPUTS, SECOND, THIRD, plan_t,
)

cdef enum:
    LABELS_AT_ONCE = 32
    CLASS_ROWS = 2      # buffers of a loss over classes: exponentials, targets


cdef inline void set_row(real_t** row, real_t value, Py_ssize_t width) noexcept nogil:
    """Sets all wanted derivatives of a row to the same value."""
    cdef int kind
    for kind in range(GRAD, GRAD_THIRD + 1):
        if row[kind] != NULL:
            set_all(row[kind], value, width)


ctypedef fused row_loss_t:
    class_loss_t
    vector_loss_t


cdef void rows_of(row_loss_t kernel, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m, const real_t* w,
                  real_t* l, real_t* buffers) noexcept nogil:
    """Rows start to start + n, one after another."""
    cdef Py_ssize_t width = p.row_length, first = start * width, tile = p.block * width, i, y = 0
    cdef real_t* scratch = buffers + BLOCK_BYTES // sizeof(real_t)
    cdef real_t* tiles = scratch + p.row_buffers * width
    cdef real_t* numbers[FOURTH + 1]    # of the current row
    cdef real_t* out[OUTPUTS]
    cdef real_t* row[OUTPUTS]
    cdef Py_ssize_t[FOURTH + 1] step = [0, 0, 0, 0]
    cdef Py_ssize_t[OUTPUTS] row_step = [0, 0, 0, 0, 0, 0, 0]
    cdef double labels[LABELS_AT_ONCE]
    cdef double factor, weight = 1, own = 0, loss
    cdef int kind, label = 0
    cdef bint known
    # a fourth one comes without a wanted gradient, whose place it takes among the copies
    for kind in range(FOURTH + 1):
        numbers[kind] = NULL
        if p.inputs[kind].data != NULL and p.inputs[kind].has_rows:
            numbers[kind] = fetch(&p.inputs[kind], first, n * width, tiles + kind * tile)
            step[kind] = width
        elif p.inputs[kind].data != NULL:
            label = kind
    for kind in range(GRAD, GRAD_THIRD + 1):
        out[kind] = row[kind] = NULL
        if p.outputs[kind].data != NULL:
            out[kind] = row[kind] = place(p, kind, first, tiles + (THIRD + kind) * tile)
            row_step[kind] = width
    for i in range(n):
        factor = p.grad_scale * (m[i] if m != NULL else <real_t>1)
        if label and i % LABELS_AT_ONCE == 0:
            gather(&p.inputs[label], start + i, min(<Py_ssize_t>LABELS_AT_ONCE, n - i), &labels[0])
        if label:
            own = labels[i % LABELS_AT_ONCE]
        known = True
        if row_loss_t in class_loss_t:
            if kernel.has_ids:
                known = find_class(kernel, own, width, &y, &weight, &loss)
        if known:
            loss = kernel.row(
                p, numbers[FIRST], numbers[SECOND], numbers[THIRD] if numbers[THIRD] != NULL else numbers[FOURTH],
                own, factor * weight, row[GRAD], row[HESS], row[GRAD_SECOND], row[GRAD_THIRD], buffers)
            loss = weighted_loss(weight, loss) if row_loss_t in class_loss_t else loss
        l[i] = <real_t>loss
        if not known or l[i] != l[i]:
            set_row(row, l[i], width)
        if w != NULL and w[i] == 0:
            set_row(row, <real_t>0, width)
        for kind in range(FOURTH + 1):
            numbers[kind] += step[kind]
        for kind in range(GRAD, GRAD_THIRD + 1):
            row[kind] += row_step[kind]
    for kind in range(GRAD, GRAD_THIRD + 1):
        if out[kind] != NULL and not p.outputs[kind].in_place:
            scatter(&p.outputs[kind], first, n * width, out[kind])


cdef void clear_column(Py_ssize_t i, Py_ssize_t n, Py_ssize_t width, real_t value, real_t* tile,
                       real_t* hess) noexcept nogil:
    """Sets the derivatives of row i of a tile of n rows to the same value."""
    cdef Py_ssize_t j
    for j in range(width):
        tile[j * n + i] = hess[j * n + i] = value


cdef void short_rows_of(short_loss_t kernel, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m,
                        const real_t* w, real_t* l, real_t* buffers) noexcept nogil:
    """Rows start to start + n, all at once: a vector lane per row, so that their tile is stored number by number."""
    cdef Py_ssize_t width = p.row_length, missing, i
    cdef double* weight = <double*>buffers
    cdef double* label = weight + n
    cdef real_t* y = <real_t*>(label + n)
    cdef real_t* tile = y + n
    cdef real_t* hess = tile + n * width
    cdef real_t zero = 0
    gather(&p.inputs[SECOND], start, n, label)
    gather_rows(&p.inputs[FIRST], start, n, p.size, width, tile)
    missing = find_classes(kernel, n, width, label, y, weight)
    # n (1 + 2 width) numbers lie before it, and a double is twice as long as a float
    kernel.tile(p, n, m, y, weight, tile, hess, l, <double*>(hess + n * width + n % 2))
    for i in range(n if missing else 0):
        if y[i] < 0:
            l[i] = <real_t>label[i]
            clear_column(i, n, width, l[i], tile, hess)
    for i in range(n if w != NULL else 0):
        if w[i] == 0:
            clear_column(i, n, width, zero, tile, hess)
    if p.outputs[HESS].data != NULL:
        scatter_rows(&p.outputs[HESS], start, n, p.size, width, hess)
    if p.outputs[GRAD].data != NULL:
        scatter_rows(&p.outputs[GRAD], start, n, p.size, width, tile)

"""Losses over rows: fetched, given to a kernel one by one or as a tile of short ones, and scattered.

A kernel sees a row's numbers as neighbours, in the loops' dtype. Results are apart from inputs; an unwanted result is
NULL. The kernel returns the loss without the example's weight, which is in the factor of the derivatives.
"""

from fastloss._math cimport real_t
from fastloss._plan cimport (
    BLOCK_BYTES, FIRST, FOURTH, GRAD, GRAD_SECOND, GRAD_THIRD, HESS, OUTPUTS, SECOND, SHORT_NUMBERS, THIRD, plan_t,
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


cdef inline void set_column(real_t* tile, Py_ssize_t i, Py_ssize_t n, Py_ssize_t width, real_t value) noexcept nogil:
    """Sets row i of a tile of n rows to the same value; NULL is no tile."""
    cdef Py_ssize_t j
    for j in range(width if tile != NULL else 0):
        tile[j * n + i] = value


cdef inline bint has_exceptions(Py_ssize_t n, const real_t* l, const real_t* y, const real_t* w) noexcept nogil:
    """Whether one of n rows has a loss of NaN, a class below 0, or a weight of 0."""
    cdef Py_ssize_t i
    cdef int found = 0
    for i in range(n):
        found |= l[i] != l[i]
    for i in range(n if y != NULL else 0):
        found |= y[i] < 0
    for i in range(n if w != NULL else 0):
        found |= w[i] == 0
    return found


cdef void short_rows_of(short_loss_t kernel, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m,
                        const real_t* w, real_t* l, real_t* buffers) noexcept nogil:
    """Rows start to start + n, all at once: a vector lane per row, so that their tile is stored number by number."""
    cdef Py_ssize_t width = p.row_length, i
    cdef double* weight = <double*>buffers
    cdef double* label = weight + n
    cdef double* memory = label + n
    cdef real_t* y = <real_t*>(memory + SHORT_NUMBERS * n)
    cdef real_t* tile = y + n
    cdef real_t* hess = tile + n * width
    cdef real_t* t = hess + n * width
    cdef real_t* d = t + n * width
    cdef real_t* spare = d + n * width
    cdef real_t* label_gradients = d if p.outputs[GRAD_SECOND].data != NULL else NULL
    cdef real_t value, zero = 0
    cdef bint missing
    gather_rows(&p.inputs[FIRST], start, n, p.size, width, tile)
    if kernel.has_ids:
        gather(&p.inputs[SECOND], start, n, label)
        find_classes(kernel, n, width, label, y, weight)
    elif p.inputs[SECOND].data != NULL:
        gather_rows(&p.inputs[SECOND], start, n, p.size, width, t)
    kernel.tile(p, n, m, y, weight, t, tile, hess, label_gradients, spare, l, memory)
    for i in range(n if has_exceptions(n, l, y if kernel.has_ids else NULL, w) else 0):
        missing = kernel.has_ids and y[i] < 0
        l[i] = <real_t>label[i] if missing else l[i]
        value = zero if w != NULL and w[i] == 0 else l[i]
        if missing or value != value or w != NULL and w[i] == 0:
            set_column(tile, i, n, width, value)
            set_column(hess, i, n, width, value)
            set_column(label_gradients, i, n, width, value)
    if p.outputs[HESS].data != NULL:
        scatter_rows(&p.outputs[HESS], start, n, p.size, width, hess)
    if label_gradients != NULL:
        scatter_rows(&p.outputs[GRAD_SECOND], start, n, p.size, width, label_gradients)
    if p.outputs[GRAD].data != NULL:
        scatter_rows(&p.outputs[GRAD], start, n, p.size, width, tile)


cdef void class_rows(short_loss_t kernel, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m,
                     const real_t* w, real_t* l, real_t* buffers) noexcept nogil:
    """Rows start to start + n, short ones all at once."""
    if p.lanes_over_rows:
        short_rows_of(kernel, p, start, n, m, w, l, buffers)
    else:
        rows_of(kernel, p, start, n, m, w, l, buffers)

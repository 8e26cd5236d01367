"""A linear predictor: predictions of a block of rows, the loss of these, and its derivatives times the same rows.

A block stays in a core's own cache from the first product to the second: memory is read once. A tile of it stays in the
nearest cache for all outputs. Rows of another dtype are gathered there; float32 in loops of double is widened as it is
read. Sums are of a tile in the loops' dtype, and from there on in double: a sum in float32 alone would lose digits that
its terms have.
"""

from fastloss._machine cimport doubles_apart, floats_apart
from fastloss._math cimport real_t
from fastloss._plan cimport FIRST, GRAD, HESS, THIRD, VALUE, linear_t, plan_t

cdef extern from *:
    """
    /* The lanes of the dot products of n rows: four at a time, for one sum would wait for the one before. As much as is
       read is asked for, the rows' bytes 8 kB ahead: a processor sees fewer than four streams coming. */
    #define FL_ROW(x, n, width, i) ((x) + ((i) < (n) ? (i) : (n) - 1) * (width))
    #if defined(__GNUC__)
    typedef float fl_lanes_float __attribute__((vector_size(32)));
    typedef double fl_lanes_double __attribute__((vector_size(32)));
    typedef float fl_half __attribute__((vector_size(16)));
    #define FL_READ(to, from) memcpy(&to, from, 32)
    #define FL_WIDEN(to, from) (memcpy(&half, from, 16), to = __builtin_convertvector(half, fl_lanes_double))
    #define FL_DOT_LANES(name, number, type, read)                                                                    \
        static void fl_dot_##name(const number* x, ptrdiff_t n, ptrdiff_t width, ptrdiff_t whole, const type* w,      \
                                  type* to) {                                                                         \
            const ptrdiff_t lanes = 32 / sizeof(type);                                                                \
            for (ptrdiff_t i = 0; i < n; i += 4) {                                                                    \
                const number *p = FL_ROW(x, n, width, i), *q = FL_ROW(x, n, width, i + 1);                            \
                const number *r = FL_ROW(x, n, width, i + 2), *s = FL_ROW(x, n, width, i + 3);                        \
                fl_lanes_##type a = {0}, b = {0}, c = {0}, d = {0}, u, v;                                             \
                fl_half half;                                                                                         \
                (void)half;                                                                                           \
                for (ptrdiff_t j = 0; j < whole; j += lanes) {                                                        \
                    FL_PREFETCH((const char*)(p + 4 * j) + 8192), FL_PREFETCH((const char*)(p + 4 * j) + 8256);       \
                    memcpy(&u, w + j, 32);                                                                            \
                    read(v, p + j), a += u * v, read(v, q + j), b += u * v;                                           \
                    read(v, r + j), c += u * v, read(v, s + j), d += u * v;                                           \
                }                                                                                                     \
                memcpy(to + i * lanes, &a, 32), memcpy(to + (i + 1) * lanes, &b, 32);                                 \
                memcpy(to + (i + 2) * lanes, &c, 32), memcpy(to + (i + 3) * lanes, &d, 32);                           \
            }                                                                                                         \
        }
    #else
    #define FL_DOT_LANES(name, number, type, read)                                                                    \
        static void fl_dot_##name(const number* x, ptrdiff_t n, ptrdiff_t width, ptrdiff_t whole, const type* w,      \
                                  type* to) {                                                                         \
            const ptrdiff_t lanes = 32 / sizeof(type);                                                                \
            for (ptrdiff_t i = 0; i < n; i++) {                                                                       \
                memset(to + i * lanes, 0, 32);                                                                        \
                for (ptrdiff_t j = 0; j < whole; j += lanes)                                                          \
                    for (ptrdiff_t k = 0; k < lanes; k++) to[i * lanes + k] += w[j + k] * x[i * width + j + k];       \
            }                                                                                                         \
        }
    #endif
    FL_DOT_LANES(float, float, float, FL_READ)
    FL_DOT_LANES(double, double, double, FL_READ)
    FL_DOT_LANES(widened, float, double, FL_WIDEN)
    """
    void dot_lanes_f "fl_dot_float"(const float* x, Py_ssize_t n, Py_ssize_t width, Py_ssize_t whole,
                                    const float* w, float* to) noexcept nogil
    void dot_lanes_d "fl_dot_double"(const double* x, Py_ssize_t n, Py_ssize_t width, Py_ssize_t whole,
                                     const double* w, double* to) noexcept nogil
    void dot_lanes_fd "fl_dot_widened"(const float* x, Py_ssize_t n, Py_ssize_t width, Py_ssize_t whole,
                                       const double* w, double* to) noexcept nogil

# what the rows are of: of the loops' dtype, or of float32 in loops of double
ctypedef fused row_t:
    float
    double

cdef enum:
    TILE = 32               # rows, a multiple of four
    VECTOR = 32             # bytes of the lanes of a dot product
    LANES_OF_TILE = 8 * TILE    # at most
    LONG = 24               # numbers: lanes along a shorter row take longer to sum than to fill


# Memory of a thread: for a block what the loss reads and writes, for a tile rows that are not read where they lie.
cdef struct room_t:
    void* pred
    void* value
    void* derivative        # that is multiplied by the rows
    void* other             # derivatives that nobody wants; with a direction, what it predicts
    void* zeros             # a row
    void* sums              # of a tile, for each output
    void* rows


cdef room_t room_of(const plan_t* p, real_t* memory) noexcept nogil:
    """How a thread's memory is used; linear_room() in the call says how much there is."""
    cdef room_t room
    cdef const linear_t* a = p.linear
    cdef Py_ssize_t rows = p.block // a.each, i
    cdef real_t* at = memory
    room.zeros = room.sums = room.rows = NULL
    room.pred, room.value = at, at + rows * a.outputs
    room.derivative, room.other = at + 2 * rows * a.outputs, at + 3 * rows * a.outputs
    at += 4 * rows * a.outputs
    if a.x.data != NULL:
        room.zeros, room.sums, room.rows = at, at + a.columns, at + (1 + a.outputs) * a.columns
        for i in range((1 + a.outputs) * a.columns):
            at[i] = 0
    return room


cdef inline void dot_rest(const row_t* x, Py_ssize_t n, Py_ssize_t width, Py_ssize_t whole, const real_t* w,
                          real_t* sums) noexcept nogil:
    """Adds the dot products of n rows from the number `whole` on, four rows at a time."""
    cdef Py_ssize_t i = 0, j, k
    cdef const row_t* p
    cdef const row_t* q
    cdef const row_t* r
    cdef const row_t* s
    cdef real_t a, b, c, d
    while i + 4 <= n:
        p, q, r, s = x + i * width, x + (i + 1) * width, x + (i + 2) * width, x + (i + 3) * width
        a, b, c, d = sums[i], sums[i + 1], sums[i + 2], sums[i + 3]
        for j in range(whole, width):
            a += p[j] * w[j]
            b += q[j] * w[j]
            c += r[j] * w[j]
            d += s[j] * w[j]
        sums[i], sums[i + 1], sums[i + 2], sums[i + 3] = a, b, c, d
        i += 4
    for k in range(i, n):
        for j in range(whole, width):
            sums[k] += x[k * width + j] * w[j]


cdef void dot_tile(const row_t* x, Py_ssize_t n, Py_ssize_t width, const real_t* w, real_t bias, real_t* to,
                   Py_ssize_t step) noexcept nogil:
    """The dot products of the rows of a tile with weights, each added to the bias.

    Lanes run along long rows. Their sums are those of columns: across the lanes of a vector they would take longer.
    """
    cdef Py_ssize_t size = sizeof(real_t), lanes = VECTOR // size, i, k
    cdef Py_ssize_t whole = width // lanes * lanes if width >= LONG else 0
    cdef real_t[TILE] sums
    cdef real_t[LANES_OF_TILE] rows, columns
    for i in range(n):
        sums[i] = bias
    if whole:
        if real_t is float and row_t is float:
            dot_lanes_f(x, n, width, whole, w, &rows[0])
        elif real_t is double and row_t is float:
            dot_lanes_fd(x, n, width, whole, w, &rows[0])
        elif real_t is double:
            dot_lanes_d(x, n, width, whole, w, &rows[0])
        transpose(<char*>&rows[0], VECTOR, n, lanes, <char*>&columns[0], TILE * size, to)
        for k in range(lanes):
            for i in range(n):
                sums[i] += columns[k * TILE + i]
    dot_rest(x, n, width, whole, w, &sums[0])
    for i in range(n):
        to[i * step] = sums[i]


cdef void dot_outputs(const linear_t* a, const row_t* x, Py_ssize_t n, const real_t* w, const real_t* b,
                      real_t* to) noexcept nogil:
    """The predictions of a tile, an output beside the other."""
    cdef Py_ssize_t k
    cdef real_t zero = 0
    for k in range(a.outputs):
        dot_tile(x, n, a.columns, w + k * a.columns, zero if b == NULL else b[k], to + k, a.outputs)


cdef void dot_sparse(const linear_t* a, Py_ssize_t row, const real_t* w, const real_t* b, real_t* to) noexcept nogil:
    """The predictions of a row whose numbers are not all there."""
    cdef const real_t* x = <const real_t*>a.numbers
    cdef Py_ssize_t i, k
    cdef real_t zero = 0, sum
    for k in range(a.outputs):
        sum = zero if b == NULL else b[k]
        for i in range(a.begins[row], a.begins[row + 1]):
            sum += x[i] * w[k * a.columns + a.places[i]]
        to[k] = sum


cdef void predict(const linear_t* a, const void* weight, const void* bias, Py_ssize_t row, Py_ssize_t n,
                  const room_t* room, real_t* to) noexcept nogil:
    """The predictions of n rows."""
    cdef const real_t* w = <const real_t*>weight
    cdef const real_t* b = <const real_t*>bias
    cdef real_t* x
    cdef Py_ssize_t i = 0, first, tile
    while i < n:
        first, tile = (row + i) * a.columns, min(<Py_ssize_t>TILE, n - i)
        if a.x.data == NULL:
            tile = 1
            dot_sparse(a, row + i, w, b, to + i * a.outputs)
        elif a.narrow:
            dot_outputs(a, <const float*>a.x.data + first, tile, w, b, to + i * a.outputs)
        else:
            x = fetch(&a.x, first, tile * a.columns, <real_t*>room.rows)
            dot_outputs(a, <const real_t*>x, tile, w, b, to + i * a.outputs)
        i += tile


cdef inline void add_four(apart_t sums, Py_ssize_t width, const row_t* p, const row_t* q, const row_t* r,
                          const row_t* s, real_t a, real_t b, real_t c, real_t d) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(width):
        sums[j] += (p[j] * a + q[j] * b) + (r[j] * c + s[j] * d)


cdef void add_tile(const row_t* x, Py_ssize_t n, Py_ssize_t width, const real_t* g, Py_ssize_t step,
                   const row_t* zeros, apart_t sums) noexcept nogil:
    """Adds n rows times their derivatives. A row whose derivative is 0 is left out, whatever it holds."""
    cdef Py_ssize_t i = 0
    cdef real_t a, b, c, d
    cdef const row_t* p
    while i < n:
        p = x + i * width
        a = g[i * step]
        b = g[(i + 1) * step] if i + 1 < n else <real_t>0
        c = g[(i + 2) * step] if i + 2 < n else <real_t>0
        d = g[(i + 3) * step] if i + 3 < n else <real_t>0
        add_four(sums, width, p if a != 0 else zeros, p + width if b != 0 else zeros,
                 p + 2 * width if c != 0 else zeros, p + 3 * width if d != 0 else zeros, a, b, c, d)
        i += 4


cdef void add_outputs(const linear_t* a, const row_t* x, Py_ssize_t n, const real_t* g, const row_t* zeros,
                      real_t* sums) noexcept nogil:
    """Adds to the sums of each output the rows of a tile times their derivatives."""
    cdef Py_ssize_t k, width = a.columns
    for k in range(a.outputs):
        if real_t is float:
            add_tile(x, n, width, g + k, a.outputs, zeros, <floats_apart>(sums + k * width))
        else:
            add_tile(x, n, width, g + k, a.outputs, zeros, <doubles_apart>(sums + k * width))


cdef void add_rows(const linear_t* a, Py_ssize_t row, Py_ssize_t n, const real_t* g, const room_t* room,
                   double* sums) noexcept nogil:
    """Adds to the sums of each output n rows times their derivatives."""
    cdef real_t* part = <real_t*>room.sums
    cdef real_t* x
    cdef Py_ssize_t i = 0, j, first, tile
    while i < n:
        first, tile = (row + i) * a.columns, min(<Py_ssize_t>TILE, n - i)
        if a.narrow:
            add_outputs(a, <const float*>a.x.data + first, tile, g + i * a.outputs, <const float*>room.zeros, part)
        else:
            x = fetch(&a.x, first, tile * a.columns, <real_t*>room.rows)
            add_outputs(a, <const real_t*>x, tile, g + i * a.outputs, <const real_t*>room.zeros, part)
        for j in range(a.outputs * a.columns):
            sums[j] += part[j]
            part[j] = 0
        i += TILE


cdef void add_sparse(const linear_t* a, Py_ssize_t first, Py_ssize_t n, const real_t* g, double* sums) noexcept nogil:
    cdef const real_t* x = <const real_t*>a.numbers
    cdef Py_ssize_t row, i, k
    cdef double factor
    for row in range(first, first + n):
        for k in range(a.outputs):
            factor = g[(row - first) * a.outputs + k]
            if factor != 0:
                for i in range(a.begins[row], a.begins[row + 1]):
                    sums[k * a.columns + a.places[i]] += factor * x[i]


cdef void add_biases(const linear_t* a, Py_ssize_t n, const real_t* g, double* sums) noexcept nogil:
    cdef Py_ssize_t i, k
    if a.outputs == 1:
        sums[0] += long_sum(g, n)
        return
    for i in range(n):
        for k in range(a.outputs):
            sums[k] += g[i * a.outputs + k]


cdef void direct(const linear_t* a, Py_ssize_t n, real_t* hess, const real_t* moved) noexcept nogil:
    """The Hessian of n predictions times how far the direction moves them; 0 where it is 0, however far that is."""
    cdef Py_ssize_t i
    cdef real_t zero = 0
    for i in range(n * a.outputs):
        hess[i] = zero if hess[i] == 0 else hess[i] * moved[i]


cdef void linear_block(const plan_t* p, plan_t* own, const room_t* room, Py_ssize_t start, Py_ssize_t n,
                       Py_ssize_t task, real_t* buffers) noexcept nogil:
    """Elements start to start + n, all of some rows: a block of the pipeline's, between two products."""
    cdef const linear_t* a = p.linear
    cdef Py_ssize_t row = start // a.each, rows = n // a.each, size = sizeof(real_t)
    cdef Py_ssize_t before = row * a.outputs * size
    cdef real_t* g = <real_t*>room.derivative
    cdef double* sums = a.sums + task * a.task_sums
    predict(a, a.weight, a.bias, row, rows, room, <real_t*>room.pred)
    # as if all predictions and derivatives were there: of these arrays this block alone is looked at
    own.inputs[FIRST].data = <char*>room.pred - before
    if a.has_product:
        predict(a, a.direction, a.direction_bias, row, rows, room, <real_t*>room.other)
        own.inputs[THIRD].data = <char*>room.other - before
    elif a.derived:
        own.outputs[GRAD].data = <char*>(room.derivative if a.direction == NULL else room.other) - before
    if a.direction != NULL:
        own.outputs[HESS].data = <char*>room.derivative - before
    if a.totals:
        own.outputs[VALUE].data = <char*>room.value - start * size
    block(own, start, n, task, buffers)
    if a.totals:
        sums[a.task_sums - 1] += long_sum(<real_t*>room.value, n)
    if a.direction != NULL and not a.has_product:
        predict(a, a.direction, a.direction_bias, row, rows, room, <real_t*>room.other)
        direct(a, rows, g, <real_t*>room.other)
    if a.derived:
        add_biases(a, rows, g, sums + a.outputs * a.columns)
        if a.x.data != NULL:
            add_rows(a, row, rows, g, room, sums)
        else:
            add_sparse(a, row, rows, g, sums)


cdef void run_linear(const plan_t* p, Py_ssize_t task, real_t* buffers) noexcept nogil:
    """A task of a plan whose first input is made here."""
    cdef plan_t own = p[0]
    cdef room_t room = room_of(p, <real_t*>(<char*>buffers + p.linear.room))
    cdef Py_ssize_t start = task * p.task_elements, end = min(p.size, start + p.task_elements), since = 0
    while start < end and not stopped(p, &since, p.block * p.linear.columns):
        linear_block(p, &own, &room, start, min(p.block, end - start), task, buffers)
        start += p.block

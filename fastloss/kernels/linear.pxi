"""A linear predictor: predictions of a block of rows, the loss of these, and its derivatives times the same rows.

A block stays in a core's own cache from the first product to the second: memory is read once. A tile of it stays in the
nearest cache for all outputs. Rows of another dtype are gathered there; float32 in loops of double is widened as it is
read. Sums are of some rows in the loops' dtype, and from there on in double: a sum in float32 alone would lose digits
that its terms have.

For one output lanes run along a row. For several a block is turned once, so that lanes run over rows: each number that
is read is multiplied by the weights of four outputs, and no vector is summed across its lanes but at the end.
"""

from fastloss._machine cimport doubles_apart, floats_apart
from fastloss._math cimport absolute, real_t
from fastloss._plan cimport CACHE_LINE, FIRST, GRAD, HESS, THIRD, VALUE, linear_t, plan_t

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
    /* Of 32 rows turned to columns, lanes running over rows: the predictions of all outputs, and the sums over rows of
       a column times an output's derivatives, whose lanes stay apart for many blocks. Four outputs at a time, and two
       vectors or columns: eight sums stay in registers. Of outputs that do not fill four the last is computed again. */
    #if defined(__GNUC__) && defined(__AVX512F__)
    #include <immintrin.h>
    #define FL_WIDE 64
    #define FL_SPREAD_float _mm512_set1_ps
    #define FL_SPREAD_double _mm512_set1_pd
    #define FL_FUSED_float _mm512_fmadd_ps
    #define FL_FUSED_double _mm512_fmadd_pd
    #elif defined(__GNUC__) && defined(__FMA__)
    #include <immintrin.h>
    #define FL_WIDE 32
    #define FL_SPREAD_float _mm256_set1_ps
    #define FL_SPREAD_double _mm256_set1_pd
    #define FL_FUSED_float _mm256_fmadd_ps
    #define FL_FUSED_double _mm256_fmadd_pd
    #else
    #define FL_WIDE 16
    #define FL_SPREAD_float
    #define FL_SPREAD_double
    #define FL_FUSED_float(u, v, sum) ((sum) + (u) * (v))
    #define FL_FUSED_double(u, v, sum) ((sum) + (u) * (v))
    #endif
    #define FL_PLUS(type, sum, u, v) (sum = FL_FUSED_##type(u, v, sum))
    #define FL_AT(k) ((k) < outputs ? (k) : outputs - 1)
    #if defined(__GNUC__)
    typedef float fl_wide_float __attribute__((vector_size(FL_WIDE)));
    typedef double fl_wide_double __attribute__((vector_size(FL_WIDE)));
    #define FL_TURNED(type)                                                                                           \
        static void fl_predict_turned_##type(const type* x, ptrdiff_t width, const type* w, const type* bias,         \
                                             ptrdiff_t outputs, type* to) {                                           \
            const ptrdiff_t lanes = FL_WIDE / sizeof(type);                                                           \
            for (ptrdiff_t k = 0; k < outputs; k += 4) {                                                              \
                const ptrdiff_t k1 = FL_AT(k + 1), k2 = FL_AT(k + 2), k3 = FL_AT(k + 3);                              \
                const type *p = w + k * width, *q = w + k1 * width, *r = w + k2 * width, *s = w + k3 * width;         \
                const type c = bias ? bias[k] : 0, c1 = bias ? bias[k1] : 0;                                          \
                const type c2 = bias ? bias[k2] : 0, c3 = bias ? bias[k3] : 0;                                        \
                for (ptrdiff_t i = 0; i < 32; i += 2 * lanes) {                                                       \
                    const fl_wide_##type zero = {0};                                                                  \
                    fl_wide_##type u, v, a = zero + c, b = a, a1 = zero + c1, b1 = a1;                                \
                    fl_wide_##type a2 = zero + c2, b2 = a2, a3 = zero + c3, b3 = a3;                                  \
                    for (ptrdiff_t j = 0; j < width; j++) {                                                           \
                        memcpy(&u, x + j * 32 + i, FL_WIDE), memcpy(&v, x + j * 32 + i + lanes, FL_WIDE);             \
                        FL_PLUS(type, a, u, FL_SPREAD_##type(p[j])), FL_PLUS(type, b, v, FL_SPREAD_##type(p[j]));     \
                        FL_PLUS(type, a1, u, FL_SPREAD_##type(q[j])), FL_PLUS(type, b1, v, FL_SPREAD_##type(q[j]));   \
                        FL_PLUS(type, a2, u, FL_SPREAD_##type(r[j])), FL_PLUS(type, b2, v, FL_SPREAD_##type(r[j]));   \
                        FL_PLUS(type, a3, u, FL_SPREAD_##type(s[j])), FL_PLUS(type, b3, v, FL_SPREAD_##type(s[j]));   \
                    }                                                                                                 \
                    memcpy(to + k * 32 + i, &a, FL_WIDE), memcpy(to + k * 32 + i + lanes, &b, FL_WIDE);               \
                    memcpy(to + k1 * 32 + i, &a1, FL_WIDE), memcpy(to + k1 * 32 + i + lanes, &b1, FL_WIDE);           \
                    memcpy(to + k2 * 32 + i, &a2, FL_WIDE), memcpy(to + k2 * 32 + i + lanes, &b2, FL_WIDE);           \
                    memcpy(to + k3 * 32 + i, &a3, FL_WIDE), memcpy(to + k3 * 32 + i + lanes, &b3, FL_WIDE);           \
                }                                                                                                     \
            }                                                                                                         \
        }                                                                                                             \
        static void fl_add_turned_##type(const type* x, ptrdiff_t n, ptrdiff_t width, const type* g,                  \
                                         ptrdiff_t outputs, type* sums) {                                             \
            const ptrdiff_t lanes = FL_WIDE / sizeof(type);                                                           \
            for (ptrdiff_t k = 0; k < outputs; k += 4) {                                                              \
                const ptrdiff_t k1 = FL_AT(k + 1), k2 = FL_AT(k + 2), k3 = FL_AT(k + 3);                              \
                for (ptrdiff_t j = 0; j < width; j += 2) {                                                            \
                    const ptrdiff_t next = j + 1 < width ? 1 : 0;                                                     \
                    type *to = sums + (k * width + j) * lanes, *to1 = sums + (k1 * width + j) * lanes;                \
                    type *to2 = sums + (k2 * width + j) * lanes, *to3 = sums + (k3 * width + j) * lanes;              \
                    fl_wide_##type a, b, a1, b1, a2, b2, a3, b3, u, v, w;                                             \
                    memcpy(&a, to, FL_WIDE), memcpy(&b, to + next * lanes, FL_WIDE);                                  \
                    memcpy(&a1, to1, FL_WIDE), memcpy(&b1, to1 + next * lanes, FL_WIDE);                              \
                    memcpy(&a2, to2, FL_WIDE), memcpy(&b2, to2 + next * lanes, FL_WIDE);                              \
                    memcpy(&a3, to3, FL_WIDE), memcpy(&b3, to3 + next * lanes, FL_WIDE);                              \
                    for (ptrdiff_t tile = 0; tile < n; tile += 32) {                                                  \
                        const type *p = x + tile * width + j * 32, *q = g + tile * outputs;                           \
                        for (ptrdiff_t i = 0; i < 32; i += lanes) {                                                   \
                            memcpy(&u, p + i, FL_WIDE), memcpy(&v, p + next * 32 + i, FL_WIDE);                       \
                            memcpy(&w, q + k * 32 + i, FL_WIDE), FL_PLUS(type, a, u, w), FL_PLUS(type, b, v, w);      \
                            memcpy(&w, q + k1 * 32 + i, FL_WIDE), FL_PLUS(type, a1, u, w), FL_PLUS(type, b1, v, w);   \
                            memcpy(&w, q + k2 * 32 + i, FL_WIDE), FL_PLUS(type, a2, u, w), FL_PLUS(type, b2, v, w);   \
                            memcpy(&w, q + k3 * 32 + i, FL_WIDE), FL_PLUS(type, a3, u, w), FL_PLUS(type, b3, v, w);   \
                        }                                                                                             \
                    }                                                                                                 \
                    memcpy(to, &a, FL_WIDE), memcpy(to + next * lanes, &b, FL_WIDE);                                  \
                    memcpy(to1, &a1, FL_WIDE), memcpy(to1 + next * lanes, &b1, FL_WIDE);                              \
                    memcpy(to2, &a2, FL_WIDE), memcpy(to2 + next * lanes, &b2, FL_WIDE);                              \
                    memcpy(to3, &a3, FL_WIDE), memcpy(to3 + next * lanes, &b3, FL_WIDE);                              \
                }                                                                                                     \
            }                                                                                                         \
        }
    #else
    #define FL_TURNED(type)                                                                                           \
        static void fl_predict_turned_##type(const type* x, ptrdiff_t width, const type* w, const type* bias,         \
                                             ptrdiff_t outputs, type* to) {                                           \
            for (ptrdiff_t k = 0; k < outputs; k++) {                                                                 \
                for (ptrdiff_t i = 0; i < 32; i++) to[k * 32 + i] = bias ? bias[k] : 0;                               \
                for (ptrdiff_t j = 0; j < width; j++)                                                                 \
                    for (ptrdiff_t i = 0; i < 32; i++) to[k * 32 + i] += x[j * 32 + i] * w[k * width + j];            \
            }                                                                                                         \
        }                                                                                                             \
        static void fl_add_turned_##type(const type* x, ptrdiff_t n, ptrdiff_t width, const type* g,                  \
                                         ptrdiff_t outputs, type* sums) {                                             \
            const ptrdiff_t lanes = FL_WIDE / sizeof(type);                                                           \
            for (ptrdiff_t tile = 0; tile < n; tile += 32)                                                            \
                for (ptrdiff_t k = 0; k < outputs; k++)                                                               \
                    for (ptrdiff_t j = 0; j < width; j++)                                                             \
                        for (ptrdiff_t i = 0; i < 32; i++)                                                            \
                            sums[(k * width + j) * lanes + i % lanes] +=                                              \
                                x[tile * width + j * 32 + i] * g[tile * outputs + k * 32 + i];                        \
        }
    #endif
    /* Adds the lanes of n sums, halves first, and clears them. */
    #define FL_SUM_LANES(type)                                                                                        \
        static void fl_sum_lanes_##type(type* lanes, ptrdiff_t n, double* sums) {                                     \
            enum { LANES_OF = FL_WIDE / sizeof(type) };                                                               \
            for (ptrdiff_t i = 0; i < n; i++, lanes += LANES_OF) {                                                    \
                type t[LANES_OF];                                                                                     \
                memcpy(t, lanes, FL_WIDE), memset(lanes, 0, FL_WIDE);                                                 \
                for (int half = LANES_OF / 2; half; half /= 2)                                                        \
                    for (int k = 0; k < half; k++) t[k] += t[k + half];                                               \
                sums[i] += t[0];                                                                                      \
            }                                                                                                         \
        }
    FL_TURNED(float)
    FL_TURNED(double)
    FL_SUM_LANES(float)
    FL_SUM_LANES(double)
    """
    enum: FL_WIDE
    void predict_turned_f "fl_predict_turned_float"(const float* x, Py_ssize_t width, const float* w,
                                                    const float* bias, Py_ssize_t outputs, float* to) noexcept nogil
    void predict_turned_d "fl_predict_turned_double"(const double* x, Py_ssize_t width, const double* w,
                                                     const double* bias, Py_ssize_t outputs, double* to) noexcept nogil
    void add_turned_f "fl_add_turned_float"(const float* x, Py_ssize_t n, Py_ssize_t width, const float* g,
                                            Py_ssize_t outputs, float* sums) noexcept nogil
    void add_turned_d "fl_add_turned_double"(const double* x, Py_ssize_t n, Py_ssize_t width, const double* g,
                                             Py_ssize_t outputs, double* sums) noexcept nogil
    void sum_lanes_f "fl_sum_lanes_float"(float* lanes, Py_ssize_t n, double* sums) noexcept nogil
    void sum_lanes_d "fl_sum_lanes_double"(double* lanes, Py_ssize_t n, double* sums) noexcept nogil
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
    ROWS_SUMMED = 256       # in float32; many more would lose digits
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
    void* turned            # the rows of a block, a tile after the other, each column by column
    void* outputs           # the predictions of a tile, output by output
    void* slopes            # the derivatives of a block, a tile after the other, each output by output
    void* lanes             # the sums of blocks, for each output and column


cdef inline Py_ssize_t tiles_of(Py_ssize_t rows) noexcept nogil:
    return (rows + TILE - 1) // TILE


cdef room_t room_of(const plan_t* p, real_t* memory) noexcept nogil:
    """How a thread's memory is used; linear_room() in the call says how much there is."""
    cdef room_t room
    cdef const linear_t* a = p.linear
    cdef Py_ssize_t rows = p.block // a.each, size = sizeof(real_t), i
    cdef real_t* at = memory
    room.zeros = room.sums = room.rows = room.turned = room.outputs = room.slopes = room.lanes = NULL
    room.pred, room.value = at, at + rows * a.outputs
    room.derivative, room.other = at + 2 * rows * a.outputs, at + 3 * rows * a.outputs
    at += 4 * rows * a.outputs
    if a.x.data != NULL:
        room.zeros, room.sums, room.rows = at, at + a.columns, at + (1 + a.outputs) * a.columns
        for i in range((1 + a.outputs) * a.columns):
            at[i] = 0
    if a.turned:
        # vectors that cross cache lines would take twice the time
        rows = tiles_of(rows) * TILE
        room.turned = at = on_a_line(at + (1 + a.outputs) * a.columns + TILE * a.columns)
        room.outputs = at = on_a_line(at + rows * a.columns)
        room.slopes = at = at + TILE * a.outputs
        room.lanes = at = at + rows * a.outputs
        for i in range(a.outputs * a.columns * FL_WIDE // size):
            at[i] = 0
    return room


cdef inline real_t* on_a_line(real_t* at) noexcept nogil:
    """The next address at which a cache line begins."""
    return <real_t*>((<size_t>at + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))


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


cdef void turn_block(const linear_t* a, Py_ssize_t row, Py_ssize_t n, const room_t* room, real_t* tag) noexcept nogil:
    """The numbers of n rows, tile by tile, column by column; 0 for rows that the last tile lacks."""
    cdef real_t* rows
    cdef real_t* to = <real_t*>room.turned
    cdef const float* narrow
    cdef Py_ssize_t size = sizeof(real_t), first, tile, number, i, j
    for number in range(tiles_of(n)):
        first = number * TILE
        tile = min(<Py_ssize_t>TILE, n - first)
        rows = <real_t*>room.rows
        if a.narrow:
            narrow = <const float*>a.x.data + (row + first) * a.columns
            for i in range(tile * a.columns):
                rows[i] = narrow[i]
        else:
            rows = fetch(&a.x, (row + first) * a.columns, tile * a.columns, rows)
        transpose(<const char*>rows, a.columns * size, tile, a.columns, <char*>to, TILE * size, to)
        for j in range(a.columns if tile < TILE else 0):
            for i in range(tile, TILE):
                to[j * TILE + i] = 0
        to += TILE * a.columns


cdef void predict_turned(const linear_t* a, const real_t* w, const real_t* b, Py_ssize_t n, const room_t* room,
                         real_t* to) noexcept nogil:
    """The predictions of n rows that were turned, an output beside the other."""
    cdef Py_ssize_t size = sizeof(real_t), first, number
    cdef const real_t* x = <const real_t*>room.turned
    cdef real_t* found = <real_t*>room.outputs
    for number in range(tiles_of(n)):
        first = number * TILE
        if real_t is float:
            predict_turned_f(x + first * a.columns, a.columns, w, b, a.outputs, found)
        else:
            predict_turned_d(x + first * a.columns, a.columns, w, b, a.outputs, found)
        transpose(<const char*>found, TILE * size, a.outputs, min(<Py_ssize_t>TILE, n - first),
                  <char*>(to + first * a.outputs), a.outputs * size, to)


cdef void predict(const linear_t* a, const void* weight, const void* bias, Py_ssize_t row, Py_ssize_t n,
                  const room_t* room, real_t* to) noexcept nogil:
    """The predictions of n rows."""
    cdef const real_t* w = <const real_t*>weight
    cdef const real_t* b = <const real_t*>bias
    cdef real_t* x
    cdef Py_ssize_t i = 0, first, tile
    if a.turned:
        predict_turned(a, w, b, n, room, to)
        return
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


cdef void add_unless_zero(const linear_t* a, const real_t* x, Py_ssize_t n, const real_t* g,
                          real_t* lanes) noexcept nogil:
    """Adds rows that may hold infinities or NaN: those with a derivative of 0 are left out."""
    cdef Py_ssize_t wide = FL_WIDE // sizeof(real_t), i, j, k, tile
    for tile in range(tiles_of(n)):
        for k in range(a.outputs):
            for j in range(a.columns):
                for i in range(TILE):
                    if g[k * TILE + i] != 0:
                        lanes[(k * a.columns + j) * wide + i % wide] += x[j * TILE + i] * g[k * TILE + i]
        x, g = x + TILE * a.columns, g + TILE * a.outputs


cdef inline bint is_tiny(real_t g) noexcept nogil:
    """Whether a number is below the normal ones."""
    cdef real_t least
    if real_t is float:
        least = 1.1754943508222875e-38
    else:
        least = 2.2250738585072014e-308
    return (absolute(g) < least) & (g != 0)


cdef void add_tiny(const linear_t* a, const real_t* x, Py_ssize_t n, real_t* g, double* sums) noexcept nogil:
    """Adds in double what is below the normal numbers, and clears it: vectors with one take a hundred times as long."""
    cdef Py_ssize_t i, j, k, tile
    cdef int found = 0
    for i in range(tiles_of(n) * TILE * a.outputs):
        found |= is_tiny(g[i])
    for tile in range(tiles_of(n) if found else 0):
        for k in range(a.outputs):
            for i in range(TILE):
                if is_tiny(g[k * TILE + i]):
                    for j in range(a.columns):
                        sums[k * a.columns + j] += <double>g[k * TILE + i] * x[j * TILE + i]
                    g[k * TILE + i] = 0
        x, g = x + TILE * a.columns, g + TILE * a.outputs


cdef void add_turned(const linear_t* a, Py_ssize_t n, const real_t* g, const room_t* room,
                     double* sums) noexcept nogil:
    """Adds n rows that were turned, times their derivatives."""
    cdef const real_t* x = <const real_t*>room.turned
    cdef real_t* slopes = <real_t*>room.slopes
    cdef real_t* to
    cdef Py_ssize_t size = sizeof(real_t), first, tile, number, i, k, rows = tiles_of(n) * TILE
    cdef int zeros = 0
    cdef real_t flaw = 0
    for number in range(tiles_of(n)):
        first = number * TILE
        tile, to = min(<Py_ssize_t>TILE, n - first), slopes + first * a.outputs
        transpose(<const char*>(g + first * a.outputs), a.outputs * size, tile, a.outputs, <char*>to, TILE * size, to)
        for k in range(a.outputs if tile < TILE else 0):
            for i in range(tile, TILE):
                to[k * TILE + i] = 0
    add_tiny(a, x, n, slopes, sums)
    for i in range(rows * a.outputs):
        zeros |= slopes[i] == 0
    for i in range(rows * a.columns if zeros else 0):
        flaw += x[i] - x[i]
    if flaw != 0:
        add_unless_zero(a, x, n, slopes, <real_t*>room.lanes)
    elif real_t is float:
        add_turned_f(x, n, a.columns, slopes, a.outputs, <float*>room.lanes)
    else:
        add_turned_d(x, n, a.columns, slopes, a.outputs, <double*>room.lanes)


cdef void sum_lanes(const linear_t* a, real_t* lanes, double* sums) noexcept nogil:
    """Adds the lanes of each output and column to its sum, and clears them."""
    if real_t is float:
        sum_lanes_f(lanes, a.outputs * a.columns, sums)
    else:
        sum_lanes_d(lanes, a.outputs * a.columns, sums)


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
    if a.turned:
        turn_block(a, row, rows, room, g)
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
        if a.turned:
            add_turned(a, rows, g, room, sums)
        elif a.x.data != NULL:
            add_rows(a, row, rows, g, room, sums)
        else:
            add_sparse(a, row, rows, g, sums)


cdef void run_linear(const plan_t* p, Py_ssize_t task, real_t* buffers) noexcept nogil:
    """A task of a plan whose first input is made here."""
    cdef plan_t own = p[0]
    cdef room_t room = room_of(p, <real_t*>(<char*>buffers + p.linear.room))
    cdef Py_ssize_t start = task * p.task_elements, end = min(p.size, start + p.task_elements), since = 0, rows = 0
    cdef double* sums = p.linear.sums + task * p.linear.task_sums
    while start < end and not stopped(p, &since, p.block * p.linear.columns):
        linear_block(p, &own, &room, start, min(p.block, end - start), task, buffers)
        start += p.block
        rows += p.block // p.linear.each if real_t is float else 0
        if p.linear.turned and p.linear.derived and (rows >= ROWS_SUMMED or start >= end):
            sum_lanes(p.linear, <real_t*>room.lanes, sums)
            rows = 0

"""Blocks between arrays and buffers: gather, scatter, sums.

This file knows strides, dtypes and byte order, and no loss.
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cimport cython

from fastloss._machine cimport read_halves, stream, write_halves
from fastloss._math cimport absolute, bits_d, bits_f, from_bits_f, real_t
from fastloss._plan cimport (
    BFLOAT16, CACHE_LINE, FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, LONGDOUBLE, MAX_AXES, UINT8, UINT16,
    UINT32, UINT64, array_t,
)

cdef extern from *:
    """
    #if defined(__GNUC__)
    typedef float fl_f4 __attribute__((vector_size(16)));
    typedef double fl_d2 __attribute__((vector_size(16)));
    #if defined(__clang__)
    #define FL_PICK4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
    #define FL_PICK2(a, b, i, j) __builtin_shufflevector(a, b, i, j)
    #else
    typedef int fl_i4 __attribute__((vector_size(16)));
    typedef long long fl_l2 __attribute__((vector_size(16)));
    #define FL_PICK4(a, b, i, j, k, l) __builtin_shuffle(a, b, (fl_i4){i, j, k, l})
    #define FL_PICK2(a, b, i, j) __builtin_shuffle(a, b, (fl_l2){i, j})
    #endif
    static inline void fl_square_float(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step) {
        fl_f4 a, b, c, d, p, q, r, s;
        memcpy(&a, from, 16), memcpy(&b, from + from_step, 16);
        memcpy(&c, from + 2 * from_step, 16), memcpy(&d, from + 3 * from_step, 16);
        p = FL_PICK4(a, b, 0, 4, 1, 5), q = FL_PICK4(a, b, 2, 6, 3, 7);
        r = FL_PICK4(c, d, 0, 4, 1, 5), s = FL_PICK4(c, d, 2, 6, 3, 7);
        a = FL_PICK4(p, r, 0, 1, 4, 5), b = FL_PICK4(p, r, 2, 3, 6, 7);
        c = FL_PICK4(q, s, 0, 1, 4, 5), d = FL_PICK4(q, s, 2, 3, 6, 7);
        memcpy(to, &a, 16), memcpy(to + to_step, &b, 16);
        memcpy(to + 2 * to_step, &c, 16), memcpy(to + 3 * to_step, &d, 16);
    }
    static inline void fl_square_double(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step) {
        fl_d2 a, b, c;
        memcpy(&a, from, 16), memcpy(&b, from + from_step, 16);
        c = FL_PICK2(a, b, 0, 2), b = FL_PICK2(a, b, 1, 3);
        memcpy(to, &c, 16), memcpy(to + to_step, &b, 16);
    }
    #else
    #define FL_SQUARE(type, side)                                                                                     \
        static void fl_square_##type(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step) {            \
            ptrdiff_t r, c, size = sizeof(type);                                                                      \
            for (r = 0; r < side; r++)                                                                                \
                for (c = 0; c < side; c++) \
                    memcpy(to + c * to_step + r * size, from + r * from_step + c * size, sizeof(type)); \
        }
    FL_SQUARE(float, 4)
    FL_SQUARE(double, 2)
    #endif
    #define FL_LEAST(a, b) ((a) < (b) ? (a) : (b))
    /* An array may lie at any address. */
    #if defined(__GNUC__)
    typedef float fl_any_float __attribute__((aligned(1)));
    typedef double fl_any_double __attribute__((aligned(1)));
    #else
    typedef float fl_any_float;
    typedef double fl_any_double;
    #endif
    /* Rows of two or three neighbours to columns, and back, in patterns that compilers know. */
    #define FL_FEW(type)                                                                                              \
        static void fl_apart2_##type(const fl_any_##type* __restrict from, ptrdiff_t n, fl_any_##type* __restrict a,  \
                                     fl_any_##type* __restrict b) {                                                   \
            for (ptrdiff_t i = 0; i < n; i++)                                                                         \
                a[i] = from[2 * i], b[i] = from[2 * i + 1];                                                           \
        }                                                                                                             \
        static void fl_join2_##type(const fl_any_##type* __restrict a, const fl_any_##type* __restrict b,             \
                                    ptrdiff_t n, fl_any_##type* __restrict to) {                                      \
            for (ptrdiff_t i = 0; i < n; i++)                                                                         \
                to[2 * i] = a[i], to[2 * i + 1] = b[i];                                                               \
        }                                                                                                             \
        static void fl_apart3_##type(const fl_any_##type* __restrict from, ptrdiff_t n, fl_any_##type* __restrict a,  \
                                     fl_any_##type* __restrict b, fl_any_##type* __restrict c) {                      \
            for (ptrdiff_t i = 0; i < n; i++)                                                                         \
                a[i] = from[3 * i], b[i] = from[3 * i + 1], c[i] = from[3 * i + 2];                                   \
        }                                                                                                             \
        static void fl_join3_##type(const fl_any_##type* __restrict a, const fl_any_##type* __restrict b,             \
                                    const fl_any_##type* __restrict c, ptrdiff_t n, fl_any_##type* __restrict to) {   \
            for (ptrdiff_t i = 0; i < n; i++)                                                                         \
                to[3 * i] = a[i], to[3 * i + 1] = b[i], to[3 * i + 2] = c[i];                                         \
        }
    FL_FEW(float)
    FL_FEW(double)
    /* Element (r, c) to (c, r), by squares that fill a vector; those at the end overlap. The steps are in bytes. */
    #define FL_TRANSPOSE(type, side)                                                                                  \
        static inline void fl_squares_##type(const char* from, ptrdiff_t from_step, ptrdiff_t from_next, ptrdiff_t n, \
                                             char* to, ptrdiff_t to_step, ptrdiff_t to_next) {                        \
            for (ptrdiff_t i = 0; i + side <= n; i += side)                                                           \
                fl_square_##type(from + i * from_next, from_step, to + i * to_next, to_step);                         \
            if (n % side)                                                                                             \
                fl_square_##type(from + (n - side) * from_next, from_step, to + (n - side) * to_next, to_step);       \
        }                                                                                                             \
        static void fl_transpose_##type(const char* from, ptrdiff_t from_step, ptrdiff_t rows, ptrdiff_t columns,     \
                                        char* to, ptrdiff_t to_step) {                                                \
            const ptrdiff_t size = sizeof(type);                                                                      \
            ptrdiff_t r, c, i, k;                                                                                     \
            const fl_any_##type* a = (const fl_any_##type*)from;                                                      \
            fl_any_##type* b = (fl_any_##type*)to;                                                                    \
            if (columns == 2 && from_step == 2 * size) {                                                              \
                fl_apart2_##type(a, rows, b, (fl_any_##type*)(to + to_step));                                         \
                return;                                                                                               \
            }                                                                                                         \
            if (rows == 2 && to_step == 2 * size) {                                                                   \
                fl_join2_##type(a, (const fl_any_##type*)(from + from_step), columns, b);                             \
                return;                                                                                               \
            }                                                                                                         \
            if (columns == 3 && from_step == 3 * size) {                                                              \
                fl_apart3_##type(a, rows, b, (fl_any_##type*)(to + to_step), (fl_any_##type*)(to + 2 * to_step));     \
                return;                                                                                               \
            }                                                                                                         \
            if (rows == 3 && to_step == 3 * size) {                                                                   \
                fl_join3_##type(a, (const fl_any_##type*)(from + from_step),                                          \
                                (const fl_any_##type*)(from + 2 * from_step), columns, b);                            \
                return;                                                                                               \
            }                                                                                                         \
            if (rows < side) {                                                                                        \
                for (r = 0; r < rows; r++)                                                                            \
                    for (c = 0; c < columns; c++) \
                        memcpy(to + c * to_step + r * size, from + r * from_step + c * size, sizeof(type)); \
                return;                                                                                               \
            }                                                                                                         \
            if (columns < side) {                                                                                     \
                for (c = 0; c < columns; c++)                                                                         \
                    for (r = 0; r < rows; r++) \
                        memcpy(to + c * to_step + r * size, from + r * from_step + c * size, sizeof(type)); \
                return;                                                                                               \
            }                                                                                                         \
            if (rows < columns)                                                                                       \
                for (r = 0; r < rows; r += side) {                                                                    \
                    i = FL_LEAST(r, rows - side);                                                                     \
                    fl_squares_##type(                                                                                \
                        from + i * from_step, from_step, size, columns, to + i * size, to_step, to_step);             \
                }                                                                                                     \
            else                                                                                                      \
                for (c = 0; c < columns; c += side) {                                                                 \
                    k = FL_LEAST(c, columns - side);                                                                  \
                    fl_squares_##type(from + k * size, from_step, from_step, rows, to + k * to_step, to_step, size);  \
                }                                                                                                     \
        }
    FL_TRANSPOSE(float, 4)
    FL_TRANSPOSE(double, 2)
    /* Before AVX-512, x86 has no instruction for a vector of these. The halves are the last digits of 2^52 and 2^84,
       and exact there, so that the last sum alone rounds. */
    static inline double fl_double_of(int64_t v) {
    #if defined(__x86_64__) && !defined(__AVX512DQ__)
        const uint64_t all = 0x4530000080100000u;
        uint64_t low = ((uint64_t)v & 0xffffffffu) | 0x4330000000000000u;
        uint64_t high = ((uint64_t)v >> 32) ^ 0x4530000080000000u;
        double a, b, c;
        memcpy(&a, &low, 8), memcpy(&b, &high, 8), memcpy(&c, &all, 8);
        return (b - c) + a;
    #else
        return (double)v;
    #endif
    }
    """
    double double_of "fl_double_of"(int64_t v) noexcept nogil
    void transpose_f "fl_transpose_float"(const char* source, Py_ssize_t source_step, Py_ssize_t rows,
                                          Py_ssize_t columns, char* to, Py_ssize_t to_step) noexcept nogil
    void transpose_d "fl_transpose_double"(const char* source, Py_ssize_t source_step, Py_ssize_t rows,
                                           Py_ssize_t columns, char* to, Py_ssize_t to_step) noexcept nogil

# float16, and bfloat16, which is the first half of a float32
cdef struct half_t:
    uint16_t bits

cdef struct brain_t:
    uint16_t bits

ctypedef fused any_t:
    uint8_t
    int8_t
    int16_t
    uint16_t
    int32_t
    uint32_t
    int64_t
    uint64_t
    half_t
    brain_t
    float
    double
    long double

cdef struct cursor_t:
    char* at
    Py_ssize_t index[MAX_AXES + 1]


cdef void seek(cursor_t* c, const array_t* a, Py_ssize_t start) noexcept nogil:
    """Puts the cursor on element `start`, counted in C order."""
    cdef int i
    c.at = a.data
    if a.size == 0:
        # rows of no elements, which nothing may be divided by
        return
    for i in range(a.ndim - 1, -1, -1):
        c.index[i] = start % a.shape[i]
        start = start // a.shape[i]
        c.at += c.index[i] * a.stride[i]


cdef void advance(cursor_t* c, const array_t* a, Py_ssize_t run) noexcept nogil:
    """Moves on by `run` elements, all in the same row."""
    cdef int i = a.ndim - 1
    c.index[i] += run
    c.at += run * a.stride[i]
    while i > 0 and c.index[i] == a.shape[i]:
        c.at += a.stride[i - 1] - a.shape[i] * a.stride[i]
        c.index[i] = 0
        i -= 1
        c.index[i] += 1


cdef inline real_t number(any_t v, real_t* tag) noexcept nogil:
    """v as a real number; a half's exponent is rebased by a multiplication, which is exact for its subnormals too."""
    cdef uint32_t magnitude
    if any_t is half_t:
        magnitude = <uint32_t>(v.bits & 0x7fff) << 13
        if magnitude >= 0x0f800000:
            magnitude |= 0x7f800000
        else:
            magnitude = bits_f(from_bits_f(magnitude) * <float>5.192296858534828e+33)
        return <real_t>from_bits_f(magnitude | (<uint32_t>(v.bits & 0x8000) << 16))
    elif any_t is brain_t:
        return <real_t>from_bits_f(<uint32_t>v.bits << 16)
    elif any_t is int64_t and real_t is double:
        return double_of(v)
    else:
        return <real_t>v


cdef inline any_t load(const char* p, any_t* tag) noexcept nogil:
    """Reads through memcpy: one instruction, for p aligned or not."""
    cdef any_t v
    memcpy(&v, p, sizeof(any_t))
    return v


cdef inline void read_run(const char* src, Py_ssize_t stride, Py_ssize_t n, any_t* tag, real_t* dst) noexcept nogil:
    cdef Py_ssize_t i, done = 0
    cdef real_t v
    if stride == 0:
        v = number(load(src, tag), dst)
        for i in range(n):
            dst[i] = v
    elif stride == sizeof(any_t):
        if any_t is half_t and real_t is float:
            done = read_halves(dst, src, n)
        for i in range(done, n):
            dst[i] = number(load(src + i * <Py_ssize_t>sizeof(any_t), tag), dst)
    else:
        for i in range(n):
            dst[i] = number(load(src + i * stride, tag), dst)


cdef inline void read_swapped(const char* src, Py_ssize_t stride, Py_ssize_t n, any_t* tag,
                              real_t* dst) noexcept nogil:
    cdef char item[16]
    cdef Py_ssize_t i, k
    for i in range(n):
        for k in range(<Py_ssize_t>sizeof(any_t)):
            item[k] = src[i * stride + <Py_ssize_t>sizeof(any_t) - 1 - k]
        dst[i] = number(load(item, tag), dst)


cdef void gather_as(const array_t* a, Py_ssize_t start, Py_ssize_t n, any_t* tag, real_t* dst) noexcept nogil:
    cdef cursor_t c
    cdef Py_ssize_t run, stride = a.stride[a.ndim - 1]
    seek(&c, a, start)
    while n > 0:
        run = min(n, a.shape[a.ndim - 1] - c.index[a.ndim - 1])
        if a.swapped:
            read_swapped(c.at, stride, run, tag, dst)
        else:
            read_run(c.at, stride, run, tag, dst)
        advance(&c, a, run)
        dst += run
        n -= run


cdef void gather(const array_t* a, Py_ssize_t start, Py_ssize_t n, real_t* dst) noexcept nogil:
    """dst = elements start to start + n of `a`, in C order of its axes, as real_t."""
    if a.type == FLOAT32:
        gather_as[float, real_t](a, start, n, NULL, dst)
    elif a.type == FLOAT64:
        gather_as[double, real_t](a, start, n, NULL, dst)
    elif a.type == INT64:
        gather_as[int64_t, real_t](a, start, n, NULL, dst)
    elif a.type == INT32:
        gather_as[int32_t, real_t](a, start, n, NULL, dst)
    elif a.type == UINT8:
        gather_as[uint8_t, real_t](a, start, n, NULL, dst)
    elif a.type == INT8:
        gather_as[int8_t, real_t](a, start, n, NULL, dst)
    elif a.type == INT16:
        gather_as[int16_t, real_t](a, start, n, NULL, dst)
    elif a.type == UINT16:
        gather_as[uint16_t, real_t](a, start, n, NULL, dst)
    elif a.type == UINT32:
        gather_as[uint32_t, real_t](a, start, n, NULL, dst)
    elif a.type == UINT64:
        gather_as[uint64_t, real_t](a, start, n, NULL, dst)
    elif a.type == FLOAT16:
        gather_as[half_t, real_t](a, start, n, NULL, dst)
    elif a.type == BFLOAT16:
        gather_as[brain_t, real_t](a, start, n, NULL, dst)
    elif a.type == LONGDOUBLE:
        gather_as[cython.longdouble, real_t](a, start, n, NULL, dst)


cdef inline real_t* fetch(const array_t* a, Py_ssize_t start, Py_ssize_t n, real_t* buffer) noexcept nogil:
    """The address of elements start to start + n as neighbours: in the array, or gathered into the buffer."""
    if a.data == NULL:
        return NULL
    if a.in_place:
        return <real_t*>a.data + start
    gather(a, start, n, buffer)
    return buffer


# the types that results are stored as
ctypedef fused stored_t:
    half_t
    brain_t
    float
    double
    long double


cdef inline half_t half_of(real_t v) noexcept nogil:
    """v rounded once, to the nearest half, ties to even; infinity above the largest half; NaN with its first digits.

    Subnormals are multiples of 2^-24: the addition of a number whose last bit counts as much rounds to one.
    """
    cdef half_t h
    cdef uint64_t bits, size
    cdef uint32_t short_bits, short_size, small
    cdef real_t magnitude = absolute(v), step
    if real_t is float:
        step = 8388608
        short_bits = bits_f(v)
        short_size = short_bits & 0x7fffffff
        small = bits_f(magnitude * 16777216 + step) - <uint32_t>0x4b000000
        short_size = ((short_size + <uint32_t>0xfff + (short_size >> 13 & 1)) >> 13) - (112 << 10)
        short_size = small if magnitude < <real_t>6.103515625e-05 else short_size
        short_size = 0x7c00 if magnitude >= 65520 else short_size
        short_size = 0x7e00 | (short_bits >> 13 & 0x3ff) if v != v else short_size
        h.bits = <uint16_t>(short_size | (short_bits >> 16 & 0x8000))
    else:
        step = 4503599627370496
        bits = bits_d(v)
        size = bits & <uint64_t>0x7fffffffffffffff
        size = ((size + <uint64_t>0x1ffffffffff + (size >> 42 & 1)) >> 42) - (1008 << 10)
        size = <uint64_t>((magnitude * 16777216 + step) - step) if magnitude < <real_t>6.103515625e-05 else size
        size = 0x7c00 if magnitude >= 65520 else size
        size = 0x7e00 | (bits >> 42 & 0x3ff) if v != v else size
        h.bits = <uint16_t>(size | (bits >> 48 & 0x8000))
    return h


cdef inline brain_t brain_of(real_t v) noexcept nogil:
    """v rounded once, to the nearest bfloat16 and between two to the even one.

    A double becomes the float towards 0 whose last bit is set where anything is lost: that bit decides a tie.
    """
    cdef brain_t b
    cdef float nearest = <float>v
    cdef uint32_t bits = bits_f(nearest)
    if real_t is double:
        bits = bits - 1 if absolute(<real_t>nearest) > absolute(v) else bits
        bits = bits | <uint32_t>(from_bits_f(bits) != v)
    bits = 0x7fc00000 | (bits & <uint32_t>0x80000000) if v != v else bits + <uint32_t>0x7fff + (bits >> 16 & 1)
    b.bits = <uint16_t>(bits >> 16)
    return b


cdef inline stored_t rounded(real_t v, stored_t* tag) noexcept nogil:
    if stored_t is half_t:
        return half_of(v)
    elif stored_t is brain_t:
        return brain_of(v)
    else:
        return <stored_t>v


cdef inline void put(char* to, stored_t v) noexcept nogil:
    """Writes through memcpy: one instruction, for `to` aligned or not."""
    memcpy(to, &v, sizeof(stored_t))


cdef inline void write_run(char* to, const real_t* src, Py_ssize_t n, stored_t* tag) noexcept nogil:
    """Writes neighbours."""
    cdef Py_ssize_t i, done = 0
    if sizeof(stored_t) == sizeof(real_t):
        memcpy(to, src, n * sizeof(real_t))
        return
    if stored_t is half_t and real_t is float:
        done = write_halves(to, src, n)
    for i in range(done, n):
        put(to + i * <Py_ssize_t>sizeof(stored_t), rounded(src[i], tag))


cdef void scatter_as(const array_t* a, Py_ssize_t start, Py_ssize_t n, const real_t* src,
                     stored_t* tag) noexcept nogil:
    cdef cursor_t c
    cdef Py_ssize_t i, run, stride = a.stride[a.ndim - 1]
    seek(&c, a, start)
    while n > 0:
        run = min(n, a.shape[a.ndim - 1] - c.index[a.ndim - 1])
        if stride == sizeof(stored_t):
            write_run(c.at, src, run, tag)
        else:
            for i in range(run):
                put(c.at + i * stride, rounded(src[i], tag))
        advance(&c, a, run)
        src += run
        n -= run


cdef void scatter(const array_t* a, Py_ssize_t start, Py_ssize_t n, const real_t* src) noexcept nogil:
    """Elements start to start + n of `a` = src, rounded to the dtype of `a`."""
    if a.type == FLOAT32:
        scatter_as[real_t, float](a, start, n, src, NULL)
    elif a.type == FLOAT64:
        scatter_as[real_t, double](a, start, n, src, NULL)
    elif a.type == FLOAT16:
        scatter_as[real_t, half_t](a, start, n, src, NULL)
    elif a.type == BFLOAT16:
        scatter_as[real_t, brain_t](a, start, n, src, NULL)
    elif a.type == LONGDOUBLE:
        scatter_as[real_t, cython.longdouble](a, start, n, src, NULL)


cdef void store(const array_t* a, Py_ssize_t n, const void* source, int is_double) noexcept nogil:
    """All n elements of `a` = those of the source, which are doubles or floats."""
    if is_double:
        scatter(a, 0, n, <const double*>source)
    else:
        scatter(a, 0, n, <const float*>source)


cdef inline void put_total(const array_t* a, Py_ssize_t i, double total) noexcept nogil:
    """Element i of a reduced result, which is contiguous, in float32 or float64."""
    if a.type == FLOAT64:
        (<double*>a.data)[i] = total
    else:
        (<float*>a.data)[i] = <float>total


cdef inline bint has_rows(const array_t* a, Py_ssize_t width, real_t* tag) noexcept nogil:
    """Whether a row, along the first axis, is contiguous, and all rows lie along one other axis.

    Compares the length, because the first axis may be another: axes of size 1 are left out, and some orders join a
    row's axis with the next.
    """
    return (a.type == (FLOAT32 if sizeof(real_t) == 4 else FLOAT64) and not a.swapped and a.ndim == 2
            and a.shape[0] == width and a.stride[0] == <Py_ssize_t>sizeof(real_t))


cdef inline void transpose(const char* source, Py_ssize_t source_step, Py_ssize_t rows, Py_ssize_t columns, char* to,
                           Py_ssize_t to_step, real_t* tag) noexcept nogil:
    if real_t is float:
        transpose_f(source, source_step, rows, columns, to, to_step)
    else:
        transpose_d(source, source_step, rows, columns, to, to_step)


cdef void gather_rows(const array_t* a, Py_ssize_t start, Py_ssize_t n, Py_ssize_t all, Py_ssize_t width,
                      real_t* dst) noexcept nogil:
    """dst, column by column = rows start to start + n of `all`; their axis is behind that of their numbers."""
    cdef Py_ssize_t j
    if has_rows(a, width, dst):
        transpose(a.data + start * a.stride[1], a.stride[1], n, width, <char*>dst, n * sizeof(real_t), dst)
    else:
        for j in range(width):
            gather(a, j * all + start, n, dst + j * n)


cdef void scatter_rows(const array_t* a, Py_ssize_t start, Py_ssize_t n, Py_ssize_t all, Py_ssize_t width,
                       real_t* src) noexcept nogil:
    """Rows start to start + n of `all` = src, column by column."""
    cdef Py_ssize_t j
    if has_rows(a, width, src):
        transpose(<char*>src, n * sizeof(real_t), width, n, a.data + start * a.stride[1], a.stride[1], src)
    else:
        for j in range(width):
            scatter(a, j * all + start, n, src + j * n)


cdef enum:
    LINES = 8       # of the cache, written past it at once


cdef void stream_halves(const array_t* a, Py_ssize_t start, Py_ssize_t n, const real_t* src) noexcept nogil:
    """Elements start to start + n of `a`, neighbours of 16 bits, = src, rounded and written past the cache."""
    cdef char lines[LINES * CACHE_LINE]
    cdef Py_ssize_t i = 0, k
    while i < n:
        k = min(<Py_ssize_t>(LINES * CACHE_LINE // 2), n - i)
        if a.type == FLOAT16:
            write_run[real_t, half_t](&lines[0], src + i, k, NULL)
        else:
            write_run[real_t, brain_t](&lines[0], src + i, k, NULL)
        stream(a.data + 2 * (start + i), &lines[0], 2 * k)
        i += k

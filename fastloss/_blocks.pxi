"""Blocks between arrays and buffers: gather, scatter, sums. Strides, dtypes and byte order are dealt with here; no loss is known."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cimport cython

from fastloss._math cimport bits_f, from_bits_f, real_t
from fastloss._plan cimport (
    FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, LONGDOUBLE, MAX_AXES, UINT8, UINT16, UINT32, UINT64, array_t,
)

cdef struct half_t:
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
        # rows of no elements, and nothing to divide by
        return
    for i in range(a.ndim - 1, -1, -1):
        c.index[i] = start % a.shape[i]
        start = start // a.shape[i]
        c.at += c.index[i] * a.stride[i]


cdef void advance(cursor_t* c, const array_t* a, Py_ssize_t run) noexcept nogil:
    """Moves on by `run` elements, which end in the row they start in."""
    cdef int i = a.ndim - 1
    c.index[i] += run
    c.at += run * a.stride[i]
    while i > 0 and c.index[i] == a.shape[i]:
        c.at += a.stride[i - 1] - a.shape[i] * a.stride[i]
        c.index[i] = 0
        i -= 1
        c.index[i] += 1


cdef inline real_t number(any_t v, real_t* like) noexcept nogil:
    """v as a real number; a half's exponent is rebased by a multiplication, which is exact for its subnormals too."""
    cdef uint32_t magnitude
    if any_t is half_t:
        magnitude = <uint32_t>(v.bits & 0x7fff) << 13
        if magnitude >= 0x0f800000:
            magnitude |= 0x7f800000
        else:
            magnitude = bits_f(from_bits_f(magnitude) * <float>5.192296858534828e+33)
        return <real_t>from_bits_f(magnitude | (<uint32_t>(v.bits & 0x8000) << 16))
    else:
        return <real_t>v


cdef inline any_t load(const char* p, any_t* like) noexcept nogil:
    """Reads through memcpy, which the compiler makes one instruction, wherever p is aligned or not."""
    cdef any_t v
    memcpy(&v, p, sizeof(any_t))
    return v


cdef inline void read_run(const char* src, Py_ssize_t stride, Py_ssize_t n, any_t* like, real_t* dst) noexcept nogil:
    cdef Py_ssize_t i
    cdef real_t v
    if stride == 0:
        v = number(load(src, like), dst)
        for i in range(n):
            dst[i] = v
    elif stride == sizeof(any_t):
        for i in range(n):
            dst[i] = number(load(src + i * <Py_ssize_t>sizeof(any_t), like), dst)
    else:
        for i in range(n):
            dst[i] = number(load(src + i * stride, like), dst)


cdef inline void read_swapped(const char* src, Py_ssize_t stride, Py_ssize_t n, any_t* like, real_t* dst) noexcept nogil:
    cdef char item[16]
    cdef Py_ssize_t i, k
    for i in range(n):
        for k in range(<Py_ssize_t>sizeof(any_t)):
            item[k] = src[i * stride + <Py_ssize_t>sizeof(any_t) - 1 - k]
        dst[i] = number(load(item, like), dst)


cdef void gather_as(const array_t* a, Py_ssize_t start, Py_ssize_t n, any_t* like, real_t* dst) noexcept nogil:
    cdef cursor_t c
    cdef Py_ssize_t run, stride = a.stride[a.ndim - 1]
    seek(&c, a, start)
    while n > 0:
        run = min(n, a.shape[a.ndim - 1] - c.index[a.ndim - 1])
        if a.swapped:
            read_swapped(c.at, stride, run, like, dst)
        else:
            read_run(c.at, stride, run, like, dst)
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
    elif a.type == LONGDOUBLE:
        gather_as[cython.longdouble, real_t](a, start, n, NULL, dst)


cdef inline real_t* fetch(const array_t* a, Py_ssize_t start, Py_ssize_t n, real_t* buffer) noexcept nogil:
    """Where elements start to start + n can be read one after the other: in the array itself, or gathered into the buffer."""
    if a.data == NULL:
        return NULL
    if a.direct:
        return <real_t*>a.data + start
    gather(a, start, n, buffer)
    return buffer


cdef void scatter(const array_t* a, Py_ssize_t start, Py_ssize_t n, const real_t* src) noexcept nogil:
    """Elements start to start + n of `a` = src."""
    cdef cursor_t c
    cdef Py_ssize_t i, run, stride = a.stride[a.ndim - 1]
    seek(&c, a, start)
    while n > 0:
        run = min(n, a.shape[a.ndim - 1] - c.index[a.ndim - 1])
        for i in range(run):
            memcpy(c.at + i * stride, src + i, sizeof(real_t))
        advance(&c, a, run)
        src += run
        n -= run


cdef void accumulate(const array_t* a, Py_ssize_t start, Py_ssize_t n, const real_t* src, double* total) noexcept nogil:
    """Adds src to the sums that a reduced result's elements start to start + n belong to."""
    cdef cursor_t c
    cdef int last = a.ndim - 1
    cdef Py_ssize_t i, run, width = a.stride[last] // <Py_ssize_t>sizeof(real_t)
    cdef double* at
    seek(&c, a, start)
    while n > 0:
        run = min(n, a.shape[last] - c.index[last])
        at = total + (c.at - a.data) // <Py_ssize_t>sizeof(real_t)
        if width == 0:
            at[0] += lane_sum(src, run)
        else:
            for i in range(run):
                at[i * width] += src[i]
        advance(&c, a, run)
        src += run
        n -= run


cdef enum:
    LANES = 32


cdef inline double add_lanes(double* lane) noexcept nogil:
    """The sum of the lanes, by a tree."""
    cdef Py_ssize_t k
    for k in range(16):
        lane[k] += lane[k + 16]
    for k in range(8):
        lane[k] += lane[k + 8]
    for k in range(4):
        lane[k] += lane[k + 4]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])


cdef double lane_sum(const real_t* a, Py_ssize_t n) noexcept nogil:
    """The sum in double precision, in an order that depends on n alone: 32 lanes, then a tree."""
    cdef double lane[LANES]
    cdef double total = 0
    cdef Py_ssize_t i = 0, k
    if n < 16:
        for i in range(n):
            total += a[i]
        return total
    for k in range(LANES):
        lane[k] = 0
    while i + LANES <= n:
        for k in range(LANES):
            lane[k] += a[i + k]
        i += LANES
    for k in range(n - i):
        lane[k] += a[i + k]
    return add_lanes(&lane[0])


cdef real_t lane_max(const real_t* a, Py_ssize_t n) noexcept nogil:
    """The largest of n >= 1 numbers, NaN left out (it spoils the exponentials anyway)."""
    cdef real_t lane[32]
    cdef real_t top = a[0]
    cdef Py_ssize_t i = 0, k
    if n >= 32:
        for k in range(32):
            lane[k] = a[k]
        i = 32
        while i + 32 <= n:
            for k in range(32):
                lane[k] = a[i + k] if a[i + k] > lane[k] else lane[k]
            i += 32
        for k in range(32):
            top = lane[k] if lane[k] > top else top
    while i < n:
        top = a[i] if a[i] > top else top
        i += 1
    return top

"""Sums in a fixed order: by lane, by piece, by task. The result depends on the size alone, not on threads."""

from fastloss._math cimport real_t
from fastloss._plan cimport BLOCK_BYTES, array_t


cdef struct total_t:
    double sum
    double rest     # the rest that rounding left


cdef inline void add(double* sum, double* rest, double x) noexcept nogil:
    """Adds x to a sum, and the rounding error to its rest (Knuth 1969)."""
    cdef double total = sum[0] + x, part = total - sum[0]
    rest[0] += (sum[0] - (total - part)) + (x - part)
    sum[0] = total


cdef inline double settled(double sum, double rest) noexcept nogil:
    """The sum with its rest, which is NaN where the sum is infinite."""
    return sum + rest if rest == rest else sum


cdef inline void add_to(total_t* t, double x) noexcept nogil:
    add(&t.sum, &t.rest, x)


cdef inline double total_of(const total_t* t) noexcept nogil:
    return settled(t.sum, t.rest)


cdef void add_each(Py_ssize_t n, const real_t* a, double* sum, double* rest) noexcept nogil:
    """Adds n numbers to n sums."""
    cdef Py_ssize_t i
    for i in range(n):
        add(sum + i, rest + i, a[i])


cdef void accumulate(const array_t* a, Py_ssize_t start, Py_ssize_t n, const real_t* src, double* sum,
                     double* rest) noexcept nogil:
    """Adds src, elements start to start + n, to the sums of a reduced result."""
    cdef cursor_t c
    cdef int last = a.ndim - 1
    cdef Py_ssize_t i, at, run, width = a.stride[last] // <Py_ssize_t>sizeof(real_t)
    seek(&c, a, start)
    while n > 0:
        run = min(n, a.shape[last] - c.index[last])
        at = (c.at - a.data) // <Py_ssize_t>sizeof(real_t)
        if width == 0:
            add(sum + at, rest + at, long_sum(src, run))
        elif width == 1:
            add_each(run, src, sum + at, rest + at)
        else:
            for i in range(run):
                add(sum + at + i * width, rest + at + i * width, src[i])
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


cdef enum:
    OCTET = LANES // 4      # lanes to which 32 numbers are added
    FEW = 256               # numbers that are added to the lanes one by one
    MANY = 1024             # numbers that the lanes take by fours


cdef inline bint by_fours(Py_ssize_t n, real_t* tag) noexcept nogil:
    """Whether to add n numbers of a longer run by fours: for float32 the lanes have digits to spare."""
    return real_t is double and n > FEW


cdef inline Py_ssize_t octet_of(Py_ssize_t i) noexcept nogil:
    """The first of the lanes to which the 32 numbers from i on are added."""
    return (i & 3 * LANES) >> 2


cdef double sum_by_fours(const real_t* a, Py_ssize_t n) noexcept nogil:
    """The sum of at most MANY numbers: four at a time are added to 32 lanes, 8 lanes in turn.

    If all numbers are equal, each addition to a lane rounds like the one before, so a lane takes only 8.
    """
    cdef double lane[LANES]
    cdef Py_ssize_t i = 0, j, k
    for k in range(LANES):
        lane[k] = 0
    while i + LANES <= n:
        j = octet_of(i)
        for k in range(OCTET):
            lane[j + k] += ((<double>a[i + k] + a[i + k + OCTET])
                            + (<double>a[i + k + 2 * OCTET] + a[i + k + 3 * OCTET]))
        i += LANES
    for k in range(n - i):
        lane[k] += a[i + k]
    return add_lanes(&lane[0])


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


cdef double long_sum(const real_t* a, Py_ssize_t n) noexcept nogil:
    """The sum of a piece of a longer run."""
    cdef total_t total
    cdef Py_ssize_t k = 0
    if not by_fours(n, <real_t*>a):
        return lane_sum(a, n)
    total.sum = total.rest = 0
    while k < n:
        add_to(&total, sum_by_fours(a + k, min(<Py_ssize_t>MANY, n - k)))
        k += MANY
    return total_of(&total)


cdef double sum_of(const real_t* a, Py_ssize_t n) noexcept nogil:
    """The sum of any number of numbers."""
    return lane_sum(a, n) if n * <Py_ssize_t>sizeof(real_t) <= BLOCK_BYTES else long_sum(a, n)


cdef real_t lane_max(const real_t* a, Py_ssize_t n) noexcept nogil:
    """The largest of n >= 1 numbers, NaN left out: it spoils the exponentials anyway."""
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

"""Arrays as the kernels see them: kinds of elements, shapes that fit, shared memory."""


# Small enough that the bytes of all buffers cannot overflow Py_ssize_t.
cdef Py_ssize_t MAX_ELEMENTS = PY_SSIZE_T_MAX >> 8


cdef extern from *:
    """
    #define FL_KIND(a) (PyArray_DESCR(a)->kind)
    """
    int kind_character "FL_KIND"(cnp.ndarray a) noexcept


cdef enum:
    BUILT_IN = 24           # type numbers of NumPy's own types


# The dtype that stands for bfloat16 where nobody has imported the library that gives NumPy one.
cdef object own_bfloat16 = _foreign.BFLOAT16
# the number of that library's type, once there is an array of it
cdef int bfloat16_number = -1


cdef inline int kind_of(cnp.ndarray a) noexcept:
    """The type of an array's elements; -1: no real numbers."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(a)
    cdef int kind = kind_character(a)
    cdef PyObject* descr
    # the kind of another library's type says little
    if kind == c"V" or not 0 <= cnp.PyArray_TYPE(a) < BUILT_IN:
        descr = <PyObject*>cnp.PyArray_DESCR(a)
        return BFLOAT16 if descr == <PyObject*>own_bfloat16 or cnp.PyArray_TYPE(a) == bfloat16_number else -1
    if kind == c"f":
        return FLOAT64 if size == 8 else FLOAT32 if size == 4 else FLOAT16 if size == 2 else LONGDOUBLE
    if kind == c"i":
        return INT64 if size == 8 else INT32 if size == 4 else INT16 if size == 2 else INT8
    if kind == c"u" or kind == c"b":
        return UINT64 if size == 8 else UINT32 if size == 4 else UINT16 if size == 2 else UINT8
    return -1


cdef cnp.ndarray as_array(x, str name):
    """x as an array, if NumPy can convert it."""
    return x if cnp.PyArray_CheckExact(x) else _foreign.as_array(name, x)


cdef bint is_new_bfloat16(cnp.ndarray a) except -1:
    """Whether the elements of an array are bfloat16, of a type that is met for the first time."""
    global bfloat16_number
    if _foreign.is_bfloat16((<object>a).dtype):
        bfloat16_number = cnp.PyArray_TYPE(a)
    return kind_of(a) >= 0


cdef cnp.ndarray numbers(cnp.ndarray a, str name):
    """The array, checked: real numbers, and not too many axes."""
    if kind_of(a) < 0 and not is_new_bfloat16(a):
        raise TypeError(f"{name} must be an array of real numbers, {_foreign.about(a, name, a)}")
    if cnp.PyArray_NDIM(a) > MAX_AXES:
        raise ValueError(f"{name} must have at most {MAX_AXES} axes, got {cnp.PyArray_NDIM(a)}")
    return a


cdef str shape_text(cnp.ndarray a):
    return str((<object>a).shape)


cdef bint is_turned(a) noexcept:
    """Whether a lies in Fortran's order."""
    return cnp.PyArray_CheckExact(a) and cnp.PyArray_IS_F_CONTIGUOUS(<cnp.ndarray>a)


cdef bint has_shape(cnp.ndarray a, const Py_ssize_t* shape, int n) noexcept:
    cdef int k
    if cnp.PyArray_NDIM(a) != n:
        return False
    for k in range(n):
        if a.shape[k] != shape[k]:
            return False
    return True


cdef void describe(array_t* d, cnp.ndarray a, const Py_ssize_t* shape, const int* axes, int n, bint rows,
                   int real) noexcept:
    """Describes an array to the loops, over n axes of a shape: its axis axes[k] lies along axis k; -1: none does."""
    cdef int k, last = -1
    cdef Py_ssize_t stride
    d.data = cnp.PyArray_BYTES(a)
    d.type = kind_of(a)
    d.swapped = not cnp.PyArray_ISNOTSWAPPED(a)
    d.aligned = cnp.PyArray_ISALIGNED(a)
    d.summed = False
    d.past_cache = False
    d.has_rows = rows
    d.size = 1
    for k in range(n):
        if shape[k] == 1:
            continue
        stride = 0
        if axes[k] >= 0 and a.shape[axes[k]] != 1:
            d.size *= shape[k]
            stride = a.strides[axes[k]]
        if last >= 0 and d.stride[last] == stride * shape[k]:
            d.shape[last] *= shape[k]
        else:
            last += 1
            d.shape[last] = shape[k]
        d.stride[last] = stride
    if last < 0:
        last = 0
        d.shape[0] = 1
        d.stride[0] = 0
    d.ndim = last + 1
    d.in_place = (d.type == real and not d.swapped and d.aligned and last == 0
                and (d.stride[0] == (8 if real == FLOAT64 else 4) or d.shape[0] == 1))


cdef bint are_halves(const array_t* d) noexcept:
    """Whether the elements are neighbours of 16 bits, which loops in float32 convert."""
    return FLOAT16 <= d.type <= BFLOAT16 and not d.swapped and d.ndim == 1 and d.stride[0] == 2


cdef void describe_number(array_t* d, double* x, Py_ssize_t size) noexcept:
    """Describes a single number as an array of size elements."""
    d.data = <char*>x
    d.type = FLOAT64
    d.swapped = False
    d.aligned = True
    d.summed = False
    d.past_cache = False
    d.has_rows = False
    d.in_place = False
    d.size = 1
    d.ndim = 1
    d.shape[0] = size
    d.stride[0] = 0


cdef bint match_squeezed(cnp.ndarray a, const Py_ssize_t* shape, int n, int* axes) noexcept:
    """Whether a's shape is the given one, or either is the other without some axes of size 1.

    Fills axes with the axis of a that lies along each.
    """
    cdef int i = 0, k = 0, ndim = cnp.PyArray_NDIM(a)
    while i < ndim or k < n:
        if i < ndim and k < n and a.shape[i] == shape[k]:
            axes[k] = i
            i += 1
            k += 1
        elif ndim < n and k < n and shape[k] == 1:
            axes[k] = -1
            k += 1
        elif ndim > n and i < ndim and a.shape[i] == 1:
            i += 1
        else:
            return False
    return True


cdef bint match_broadcast(cnp.ndarray a, const Py_ssize_t* shape, int n, int* axes) noexcept:
    """Whether a broadcasts to shape without enlarging it."""
    cdef int k, shift = n - cnp.PyArray_NDIM(a)
    if shift < 0:
        return False
    for k in range(n):
        axes[k] = k - shift if k >= shift else -1
        if axes[k] >= 0 and a.shape[axes[k]] != shape[k] and a.shape[axes[k]] != 1:
            return False
    return True


cdef Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept:
    return (a + b - 1) // b


cdef inline cnp.ndarray memory_of(out):
    """A plain array over the memory of the caller's: a subclass may override everything else."""
    return out if cnp.PyArray_CheckExact(out) else np.asarray(out)


cdef bint same_layout(const array_t* a, const array_t* b) noexcept:
    cdef int k
    if a.data != b.data or a.type != b.type or a.swapped != b.swapped or a.has_rows != b.has_rows or a.ndim != b.ndim:
        return False
    for k in range(a.ndim):
        if a.shape[k] != b.shape[k] or a.stride[k] != b.stride[k]:
            return False
    return True


cdef (size_t, size_t) extent(cnp.ndarray a) noexcept:
    """The first byte of an array, and the byte behind its last."""
    cdef size_t low = <size_t>cnp.PyArray_BYTES(a), high = low + cnp.PyArray_ITEMSIZE(a)
    cdef int k
    for k in range(cnp.PyArray_NDIM(a)):
        if a.shape[k] == 0:
            return low, low
        if a.strides[k] > 0:
            high += (a.shape[k] - 1) * a.strides[k]
        else:
            low += (a.shape[k] - 1) * a.strides[k]
    return low, high


cdef bint overlap(cnp.ndarray a, cnp.ndarray b):
    """Whether two arrays share memory; a question too hard to settle counts as yes."""
    cdef (size_t, size_t) x = extent(a), y = extent(b)
    if x[1] <= y[0] or y[1] <= x[0]:
        return False
    try:
        return np.shares_memory(a, b, max_work=100_000)
    except np.exceptions.TooHardError:
        return True
    except RuntimeError as error:
        # NumPy raises this if it gets no memory.
        raise MemoryError(str(error)) from None


cdef inline Py_ssize_t magnitude(Py_ssize_t x) noexcept:
    # abs() would make a Python integer of x.
    return x if x >= 0 else -x


cdef bint overlaps_itself(cnp.ndarray a) noexcept:
    """Whether elements of an array may share memory: else each axis steps over all along those of smaller steps."""
    cdef int i, k, n = cnp.PyArray_NDIM(a)
    cdef Py_ssize_t step, inner, other
    if cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_IS_F_CONTIGUOUS(a) or cnp.PyArray_SIZE(a) == 0:
        return False
    for k in range(n):
        step = magnitude(a.strides[k])
        inner = cnp.PyArray_ITEMSIZE(a)
        for i in range(n):
            other = magnitude(a.strides[i])
            if other < step or other == step and i < k:
                inner += (a.shape[i] - 1) * other
        if a.shape[k] != 1 and step < inner:
            return True
    return False


cdef int axis_number(str name, int axis, int ndim, str pred) except -1:
    """An axis counted from the front; a scalar counts as having one."""
    cdef int n = max(ndim, 1)
    if not -n <= axis < n:
        raise ValueError(f"{name} must be between {-n} and {n - 1} for a {pred} with {ndim} axes, got {axis}")
    return axis + n if axis < 0 else axis


cdef tuple shape_tuple(const Py_ssize_t* shape, int n):
    cdef tuple result = ()
    cdef int k
    for k in range(n):
        result += (shape[k],)
    return result

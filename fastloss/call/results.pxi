"""The results of a call: which are wanted, their arrays, and the caller's buffers."""


cdef inline int choose_results(Loss loss, call_t* c, int want) except -1:
    """Marks the wanted results, and the order of the gradients."""
    cdef int k
    for k in range(OUTPUTS):
        c.wanted[k] = False
    c.wanted[VALUE] = want & WANT_VALUE != 0
    c.n_gradients = 0
    if want == WANT_VALUE:
        return 0
    if c.wrt == NULL:
        c.wanted[GRAD] = want & WANT_GRAD != 0
        c.wanted[HESS] = want & WANT_HESS != 0
        c.gradients[0] = GRAD
        c.n_gradients = 1
    else:
        choose_gradients(loss, c, <object>c.wrt, want & WANT_HESS)
    return 0


cdef int choose_gradients(Loss loss, call_t* c, wrt, bint with_hessians) except -1:
    cdef tuple names = items(wrt) if isinstance(wrt, tuple) else (wrt,)
    cdef int k, kind
    for given in names:
        if not isinstance(given, str) or given not in loss.inputs:
            known = ', '.join(map(repr, loss.inputs))
            raise ValueError(f"wrt must name inputs of {type(loss).__name__}, {known}, got {given!r}")
        # a subclass of str may define equality of its own
        k = loss.inputs.index(given)
        name = loss.inputs[k]
        if name in loss.fixed:
            integers = loss.specs[k].integers
            what = f"{integers.plural} are" if integers is not None and integers.plural else f"{name} is"
            raise ValueError(f"wrt={name!r}: {what} not differentiable")
        if c.given[loss.slot[k]] == NULL:
            raise ValueError(f"wrt={name!r}, but the call has no {name}")
        kind = GRADIENT_OF[loss.slot[k]]
        if c.wanted[kind]:
            raise ValueError(f"wrt must name one or more different inputs, got {wrt!r}")
        if with_hessians:
            choose_hessian(loss, c, kind)
        c.wanted[kind] = True
        c.gradients[c.n_gradients] = kind
        c.n_gradients += 1
    if not names:
        raise ValueError(f"wrt must name one or more different inputs, got {wrt!r}")
    return 0


cdef int choose_hessian(Loss loss, call_t* c, int kind) except -1:
    """Marks the Hessian in the same input as a gradient."""
    cdef tuple known = loss.twice_differentiable
    name = loss.slot_names[INPUT_OF[kind]]
    if name not in known:
        raise ValueError(
            f"wrt={name!r}: {type(loss).__name__} has no Hessian in {name}, only in {' and '.join(known)}; "
            "grad and value_and_grad give the gradient alone")
    c.wanted[HESSIAN_OF[kind]] = True
    return 0


cdef inline void find_value_axes(Loss loss, call_t* c) noexcept:
    """The value's axes: how many, their sizes, and which of them lies along each axis of the unreduced loss."""
    cdef int k
    c.value_ndim = 0
    for k in range(c.n):
        c.value_axes[k] = c.order[k] if loss.reduction == NONE else (0 if loss.reduction == EXAMPLE
                                                                     and k == c.batch_item else -1)
        if loss.reduction == NONE:
            c.value_shape[c.order[k]] = c.shape[k]
    if loss.reduction == NONE:
        c.value_ndim = c.n
    elif loss.reduction == EXAMPLE and c.row_n != 0 and not (loss.layout == EXAMPLES and c.n == 0):
        c.value_ndim = 1
        c.value_shape[0] = c.batch_size


cdef int describe_results(Loss loss, call_t* c) except -1:
    """The arrays for the results, new or the caller's. A gradient lies like its input."""
    cdef int k
    find_value_axes(loss, c)
    if loss.reduction == WEIGHTED_MEAN and c.wanted[GRAD_WEIGHT]:
        # The gradient in the weights contains the value.
        c.wanted[VALUE] = True
    for k in range(OUTPUTS):
        if c.wanted[k] and k == VALUE and c.is_total:
            # a total keeps the float64 that it was summed in
            describe_number(&c.plan.outputs[k], &c.total, c.plan.size)
            c.plan.outputs[k].summed = True
            if c.outs[k] != NULL:
                own(&c.results[k], new_result(loss, c, c.value_ndim, c.value_shape, k))
        elif c.wanted[k]:
            describe_result(loss, c, k)
    return 0


cdef inline int describe_result(Loss loss, call_t* c, int k) except -1:
    cdef array_t* d = &c.plan.outputs[k]
    cdef cnp.ndarray like, result
    cdef int slot = INPUT_OF[k]
    cdef bint rows
    if k == VALUE:
        result = new_result(loss, c, c.value_ndim, c.value_shape, k)
        describe(d, result, c.shape, c.value_axes, c.n, False, c.real)
    else:
        like = <cnp.ndarray>c.given[slot]
        rows = c.plan.inputs[slot].has_rows
        result = new_result(loss, c, cnp.PyArray_NDIM(like), <Py_ssize_t*>cnp.PyArray_DIMS(like), k)
        describe(d, result, &c.row_shape[0] if rows else &c.shape[0], c.along[slot], c.row_n if rows else c.n, rows,
                 c.real)
    own(&c.results[k], result)
    d.summed = not d.has_rows and d.size != c.plan.size
    if c.outs[k] != NULL and c.kernel.light and d.size >= STREAMED and not (c.is_half and c.made[k] != NULL):
        # Only memory of the caller's: the system has just zeroed fresh memory, which is in the cache.
        d.halves = c.real == FLOAT32 and are_halves(d)
        d.past_cache = d.in_place or d.halves
        d.in_place = False
    return 0


cdef cnp.ndarray half_result(call_t* c, int ndim, const Py_ssize_t* shape, int kind):
    """A new array of the first input's dtype, to which results are rounded as to one of the caller's."""
    cdef cnp.ndarray pred = <cnp.ndarray>c.given[FIRST]
    dtype = np.float16 if kind_of(pred) == FLOAT16 else (<object>pred).dtype
    a = np.empty(shape_tuple(shape, ndim), dtype)
    own(&c.made[kind], a)
    c.outs[kind] = c.made[kind]
    return a


cdef cnp.ndarray new_array(int ndim, const Py_ssize_t* shape, bint is_double):
    """An array for the loops to fill. A large one begins on a cache line: a store across two lines is two stores."""
    cdef Py_ssize_t itemsize = 8 if is_double else 4, size = 1
    cdef int k, type = cnp.NPY_DOUBLE if is_double else cnp.NPY_FLOAT
    cdef cnp.npy_intp room
    cdef char* data
    for k in range(ndim):
        size *= shape[k]
    if size < ALIGNED_BYTES // itemsize:
        return cnp.PyArray_SimpleNew(ndim, <cnp.npy_intp*>shape, type)
    room = size + CACHE_LINE // itemsize
    memory = cnp.PyArray_SimpleNew(1, &room, type)
    data = <char*>((<size_t>cnp.PyArray_DATA(memory) + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
    a = cnp.PyArray_SimpleNewFromData(ndim, <cnp.npy_intp*>shape, type, data)
    cnp.set_array_base(a, memory)
    return a


cdef cnp.ndarray new_result(Loss loss, call_t* c, int ndim, const Py_ssize_t* shape, int kind):
    """The array for a result: a new one, or the caller's, if it fits."""
    cdef cnp.ndarray a
    if c.outs[kind] == NULL and c.is_half:
        return half_result(c, ndim, shape, kind)
    if c.outs[kind] == NULL:
        return new_array(ndim, shape, c.is_double)
    out = <object>c.outs[kind]
    # By type alone: __class__ may be a property whose code changes arrays that are described already.
    if not cnp.PyArray_CheckExact(out) and (not cnp.PyArray_Check(out) or _foreign.is_kind_of_masked(type(out))):
        raise TypeError(f"out for the {result_name(loss, kind)} must be an array or None, got {type(out).__name__}")
    a = memory_of(out)
    if kind_of(a) < FLOAT16 and (kind_of(a) >= 0 or not is_new_bfloat16(a)) or cnp.PyArray_ISBYTESWAPPED(a):
        raise TypeError(
            f"out for the {result_name(loss, kind)} must have a dtype of floats in this machine's byte order, "
            f"such as float32 or float64, got {a.dtype.str}")
    if not has_shape(a, shape, ndim):
        raise ValueError(
            f"out for the {result_name(loss, kind)} must have shape {shape_tuple(shape, ndim)}, got {shape_text(a)}")
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"out for the {result_name(loss, kind)} is read-only")
    if overlaps_itself(a):
        raise ValueError(f"out for the {result_name(loss, kind)} has elements that share memory with each other")
    return a


cdef int check_overlaps(Loss loss, call_t* c) except -1:
    """Checks that the caller's buffers share no memory with each other, nor with inputs, except element for element."""
    cdef plan_t* p = &c.plan
    cdef int k, i
    for k in range(OUTPUTS):
        if c.outs[k] == NULL:
            continue
        for i in range(k + 1, OUTPUTS):
            if c.outs[i] != NULL and overlap(<cnp.ndarray>c.results[k], <cnp.ndarray>c.results[i]):
                raise ValueError(f"out for the {result_name(loss, k)} and for the {result_name(loss, i)} share memory")
        for i in range(INPUTS):
            if c.given[i] == NULL or not overlap(<cnp.ndarray>c.results[k], <cnp.ndarray>c.given[i]):
                continue
            # A block's inputs, except weights, are read before its results are written.
            if i < WEIGHT and not p.outputs[k].summed and same_layout(&p.outputs[k], &p.inputs[i]):
                # Loops assume that results and inputs are apart: go through a buffer.
                p.outputs[k].in_place = False
                continue
            raise ValueError(
                f"out for the {result_name(loss, k)} shares memory with {loss.slot_names[i]}, "
                "which it would overwrite before it is read")
    return 0


cdef str result_name(Loss loss, int kind):
    if kind == VALUE or kind == GRAD or kind == HESS:
        return "value" if kind == VALUE else "gradient" if kind == GRAD else "Hessian"
    return f"{'Hessian' if kind == HESS_THIRD else 'gradient'} of {loss.slot_names[INPUT_OF[kind]]}"


cdef int use_contiguous_copies(call_t* c, bint has_shares) except -1:
    """Replaces the caller's arrays by contiguous arrays of the loops' dtype where these are needed.

    Sums need them, and so do gradients in the weights of a weighted mean.
    """
    cdef plan_t* p = &c.plan
    cdef cnp.ndarray a
    cdef int k
    for k in range(OUTPUTS):
        if c.outs[k] == NULL or k == VALUE and c.is_total or not (p.outputs[k].summed or k == GRAD_WEIGHT
                                                                  and has_shares):
            continue
        a = <cnp.ndarray>c.results[k]
        if p.outputs[k].type == c.real and cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISALIGNED(a):
            continue
        contiguous = new_array(cnp.PyArray_NDIM(a), <Py_ssize_t*>cnp.PyArray_DIMS(a), c.is_double)
        own(&c.results[k], contiguous)
        describe(&p.outputs[k], contiguous, c.shape, &c.value_axes[0] if k == VALUE else &c.along[WEIGHT][0]
                 if k == GRAD_WEIGHT else &c.along[THIRD][0], c.n, False, c.real)
        p.outputs[k].summed = p.outputs[k].size != p.size
    return 0


cdef int store_outs(call_t* c) except -1:
    """Stores results from elsewhere in the caller's buffers: totals, and use_contiguous_copies()'s arrays."""
    cdef cnp.ndarray a
    cdef int k
    cdef const void* source
    for k in range(OUTPUTS):
        if c.outs[k] == NULL:
            continue
        a = memory_of(<object>c.outs[k])
        source = cnp.PyArray_DATA(<cnp.ndarray>c.results[k])
        if k == VALUE and c.is_total:
            source = &c.total
        elif source == cnp.PyArray_DATA(a):
            continue
        round_to(a, source, c.is_double or source == &c.total)
    return 0


cdef void round_to(cnp.ndarray to, const void* source, bint is_double) noexcept:
    """Stores doubles or floats, in C order, in an array of any floats, rounded once."""
    cdef array_t d
    cdef int k
    cdef int[MAX_AXES] axes
    for k in range(MAX_AXES):
        axes[k] = k
    describe(&d, to, <Py_ssize_t*>cnp.PyArray_DIMS(to), axes, cnp.PyArray_NDIM(to), False, FLOAT64)
    runner.store(&d, cnp.PyArray_SIZE(to), source, is_double)


cdef int assign_out(call_t* c, int want) except -1:
    """Finds the caller's buffers for each result. out has the structure of the method's results."""
    cdef object out = <object>c.out
    cdef int n = (want & WANT_VALUE != 0) + (want & WANT_GRAD != 0) + (want & WANT_HESS != 0)
    cdef tuple parts = (out,) if n == 1 else items(out) if isinstance(out, tuple) else ()
    if len(parts) != n:
        raise TypeError(f"out must be a tuple of {n}, one array or None per result, got {describe_out(out)}")
    if want & WANT_VALUE:
        borrow(&c.outs[VALUE], parts[0])
    if want & WANT_HESS:
        assign_derivatives(c, parts[n - 1], True)
    if want & WANT_GRAD:
        assign_derivatives(c, parts[1 if want & WANT_VALUE else 0], False)
    return 0


cdef inline int derivative(const call_t* c, int k, bint second) noexcept:
    """The result that is the k-th gradient, or the Hessian in the same input."""
    return HESSIAN_OF[c.gradients[k]] if second else c.gradients[k]


cdef int assign_derivatives(call_t* c, part, bint second) except -1:
    """The caller's buffers for gradients, or for Hessians."""
    cdef int k
    cdef tuple parts
    if c.wrt == NULL or not isinstance(<object>c.wrt, tuple):
        borrow(&c.outs[derivative(c, 0, second)], part)
    elif part is not None:
        parts = items(part) if isinstance(part, tuple) else ()
        if len(parts) != c.n_gradients:
            raise TypeError(
                f"out for the {'Hessians' if second else 'gradients'} must be a tuple of {c.n_gradients}, one array or "
                f"None per input in wrt, got {describe_out(part)}")
        for k in range(c.n_gradients):
            borrow(&c.outs[derivative(c, k, second)], parts[k])
    return 0


cdef tuple items(x):
    """The items of a tuple, whatever its class overrides."""
    return PyTuple_GetSlice(x, 0, PY_SSIZE_T_MAX)


cdef inline void borrow(PyObject** slot, x) noexcept:
    if x is not None:
        slot[0] = <PyObject*>x


cdef str describe_out(out):
    return f"a tuple of {len(out)}" if isinstance(out, tuple) else type(out).__name__


cdef result(const call_t* c, int kind):
    """The caller's array, or a new one; a number as a NumPy scalar."""
    cdef cnp.ndarray a
    if c.outs[kind] != NULL and not (c.is_half and c.made[kind] != NULL):
        return <object>c.outs[kind]
    if kind == VALUE and c.is_total:
        return c.total
    a = <cnp.ndarray>(c.results[kind] if c.outs[kind] == NULL else c.made[kind])
    return a[()] if cnp.PyArray_NDIM(a) == 0 else a


cdef pack(const call_t* c, int want):
    """The method's return value: a result, or a tuple of results."""
    if want == WANT_VALUE:
        return result(c, VALUE)
    if want == WANT_HESS:
        return derivatives(c, True)
    gradient = derivatives(c, False)
    if want == WANT_GRAD:
        return gradient
    if want == WANT_VALUE | WANT_GRAD:
        return result(c, VALUE), gradient
    if want == WANT_GRAD | WANT_HESS:
        return gradient, derivatives(c, True)
    return result(c, VALUE), gradient, derivatives(c, True)


cdef derivatives(const call_t* c, bint second):
    """The gradients, or the Hessians: a tuple if wrt is one."""
    cdef int k
    if c.wrt == NULL or not isinstance(<object>c.wrt, tuple):
        return result(c, derivative(c, 0, second))
    found = ()
    for k in range(c.n_gradients):
        found += (result(c, derivative(c, k, second)),)
    return found


cdef void fill_results(call_t* c, double x):
    cdef int k
    for k in range(OUTPUTS):
        if c.results[k] != NULL:
            (<object>c.results[k]).fill(x)
    c.total = x

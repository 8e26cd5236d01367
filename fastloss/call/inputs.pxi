"""The inputs of a call as arrays over the axes of the unreduced loss, and checks of their numbers."""


cdef inline cnp.ndarray array_given(Loss loss, const call_t* c, int slot):
    return numbers(<cnp.ndarray>c.given[slot], loss.slot_names[slot])


cdef int bind(Loss loss, call_t* c, tuple args, dict options, int want) except -1:
    """Stores the inputs by slot, and the other arguments."""
    cdef Py_ssize_t n_args = len(args)
    cdef int k
    if n_args > loss.n_inputs:
        raise TypeError(
            f"{type(loss).__name__} takes at most {loss.n_inputs} inputs ({', '.join(loss.inputs)}), got {n_args}")
    for k in range(n_args):
        bind_input(c, loss.slot[k], args[k])
    if options:
        bind_named(loss, c, n_args, options, want)
    for k in range(loss.required):
        if c.given[loss.slot[k]] == NULL:
            others = ", ".join(loss.inputs[:loss.required - 1])
            last = loss.inputs[loss.required - 1]
            raise TypeError(f"{type(loss).__name__} needs {f'{others} and {last}' if others else last}")
    return 0


cdef int bind_named(Loss loss, call_t* c, Py_ssize_t n_args, dict options, int want) except -1:
    cdef int k
    for name, x in options.items():
        if name == "out":
            if x is not None:
                own(&c.out, x)
        elif name == "head_grad" and want != WANT_VALUE:
            bind_input(c, HEAD, x)
        elif name == "wrt" and want & WANT_GRAD:
            if x is not None:
                own(&c.wrt, x)
        elif name == "hessian" and want & WANT_HESS:
            c.surrogate = is_surrogate(loss, x)
        elif name == "vector" and want == WANT_HESS:
            bind_input(c, loss.vector_slot, x)
        elif name in loss.inputs:
            k = loss.inputs.index(name)
            if k < n_args:
                raise TypeError(f"{type(loss).__name__} got {name} twice, by position and by name")
            bind_input(c, loss.slot[k], x)
        else:
            raise TypeError(_foreign.unknown_keyword(type(loss).__name__, loss.inputs, METHODS[want], name))
    return 0


cdef bint is_surrogate(Loss loss, kind) except -1:
    """Whether the Hessian that the call names is the kernel's surrogate."""
    if loss.no_hessian is not None:
        return False
    if not isinstance(kind, str) or kind not in loss.hessians:
        raise ValueError(
            f"hessian of {type(loss).__name__} must be one of {', '.join(map(repr, loss.hessians))}, got {kind!r}")
    return kind == loss.surrogate


cdef inline int describe_inputs(Loss loss, call_t* c) except -1:
    """Arranges all inputs over the axes of the unreduced loss, which the first input defines."""
    cdef int slot, lies
    describe_first(loss, c)
    if c.given[WEIGHT] != NULL:
        describe_weight(loss, c)
    if loss.has_shape_rule:
        loss.check_shapes(shapes_of(loss, c))
    if loss.row_length >= 0 and loss.row_length != c.plan.row_length:
        loss.check_row((<object>c.given[FIRST]).shape)
    for slot in range(SECOND, WEIGHT):
        lies = loss.lies[slot]
        if c.given[slot] == NULL:
            if slot == THIRD and c.kernel.inputs == 3:
                describe_number(&c.plan.inputs[slot], &loss.default, c.plan.size)
        elif lies == LIKE_FIRST:
            describe_like_first(loss, c, slot)
        elif lies == PER_ROW:
            describe_per_row(loss, c, slot)
        elif lies == OWN:
            describe_own(loss, c, slot)
        else:
            describe_broadcast(loss, c, slot)
    return 0


cdef int describe_first(Loss loss, call_t* c) except -1:
    """Finds the axes of the unreduced loss in the first input."""
    cdef plan_t* p = &c.plan
    cdef cnp.ndarray pred = array_given(loss, c, FIRST)
    cdef int ndim = cnp.PyArray_NDIM(pred), kind = kind_of(pred), axis = -1, batch = -1, k
    if ndim != loss.single_ndim:
        batch = axis_number("batch_axis", loss.batch_axis, ndim, loss.inputs[0])
    if kind == LONGDOUBLE:
        raise TypeError(
            f"{loss.inputs[0]} must be float32 or float64, float16 or bfloat16 (integers are computed in float64), "
            f"got dtype {pred.dtype}")
    c.is_half = kind == FLOAT16 or kind == BFLOAT16
    for k in range(OUTPUTS if c.is_half else 0):
        c.made[k] = NULL
    c.is_double = kind != FLOAT32 and not c.is_half
    c.real = FLOAT64 if c.is_double else FLOAT32
    c.kernel = loss.plain if c.given[THIRD] == NULL else loss.kernel
    if loss.layout == COUPLED or loss.layout == ROWS:
        axis = loss.row_axis(ndim)
    arrange_axes(loss, c, pred, axis, batch)
    if max(p.size, <Py_ssize_t>1) > MAX_ELEMENTS // max(p.row_length, <Py_ssize_t>1):
        raise ValueError(f"{loss.inputs[0]} must have at most {MAX_ELEMENTS} elements, got shape {shape_text(pred)}")
    place_short_rows(c, axis)
    c.is_total = loss.reduction > NONE
    open_plan(c)
    for k in range(c.row_n):
        c.along[FIRST][k] = c.row_order[k]
    describe_input(loss, c, FIRST, pred, loss.layout >= ROWS)
    return 0


cdef void arrange_axes(Loss loss, call_t* c, cnp.ndarray pred, int axis, int batch):
    """Orders the axes: those of the unreduced loss, and the axes of a row behind or before them."""
    cdef plan_t* p = &c.plan
    cdef int ndim = cnp.PyArray_NDIM(pred), i, k
    cdef bint turned = lies_turned(loss, c, pred), in_row
    c.n = 0
    c.batch_item = -1
    p.size = p.row_length = p.coupled = 1
    for i in range(ndim):
        k = ndim - 1 - i if turned else i
        in_row = k == axis or loss.layout == EXAMPLES and k != batch
        if in_row:
            continue
        if k == batch:
            c.batch_item = c.n
        c.shape[c.n] = c.row_shape[c.n] = pred.shape[k]
        c.row_order[c.n] = k
        c.order[c.n] = k if turned else c.n
        p.size *= pred.shape[k]
        c.n += 1
    c.row_n = p.ndim = c.n
    p.row_shape = &c.row_shape[c.n]
    for k in range(ndim if c.n != ndim else 0):
        in_row = k == axis or loss.layout == EXAMPLES and k != batch
        if in_row:
            c.row_shape[c.row_n] = pred.shape[k]
            c.row_order[c.row_n] = k
            p.row_length *= pred.shape[k]
            c.row_n += 1
    if loss.layout == COUPLED:
        p.size *= p.row_length
        p.coupled = p.row_length
        c.shape[c.n] = p.row_length
        c.n = ndim
        for k in range(ndim):
            c.order[k] = c.row_order[k]
            if c.order[k] == batch:
                c.batch_item = k
    if loss.layout < ROWS:
        p.row_length = 0
    c.batch_size = c.shape[c.batch_item] if c.batch_item >= 0 else 1


cdef void place_short_rows(call_t* c, int axis) noexcept:
    """Puts the axis of short rows first, for kernels whose vector lanes run over rows."""
    cdef plan_t* p = &c.plan
    cdef int k
    # a third input is a vector, which only kernels of whole rows take
    p.lanes_over_rows = c.given[THIRD] == NULL and (
        0 < p.row_length * (8 if c.is_double else 4) <= c.kernel.short_row_bytes)
    if p.lanes_over_rows:
        for k in range(c.row_n - 1, 0, -1):
            c.row_shape[k] = c.row_shape[k - 1]
            c.row_order[k] = c.row_order[k - 1]
        c.row_shape[0] = p.row_length
        c.row_order[0] = axis


cdef void open_plan(call_t* c) noexcept:
    """Initialises a plan, before any array is described."""
    cdef plan_t* p = &c.plan
    cdef const kernel_t* kernel = c.kernel
    cdef int k
    p.linear = NULL
    p.parameters = kernel.parameters
    p.rows = kernel.rows[c.is_double]
    p.counts = kernel.counts
    p.row_buffers = kernel.row_buffers
    p.has_third_hessian = kernel.has_third_hessian
    p.watch = NULL
    p.counts_only = False
    p.surrogate = c.surrogate
    p.work = p.size * max(p.row_length, 1) * (1 if kernel.light else HEAVY)
    p.extra = 0
    for k in range(INPUTS):
        p.inputs[k].data = NULL
    for k in range(OUTPUTS):
        p.outputs[k].data = NULL


cdef bint lies_turned(Loss loss, const call_t* c, cnp.ndarray pred):
    """Whether to take elements in Fortran's order, like pred and the caller's buffers. Sums need C order."""
    cdef int kind
    if loss.layout != ELEMENTS or cnp.PyArray_IS_C_CONTIGUOUS(pred) or not cnp.PyArray_IS_F_CONTIGUOUS(pred):
        return False
    if c.wanted[VALUE] and loss.reduction != NONE or c.wanted[GRAD_WEIGHT] or c.wanted[GRAD_THIRD]:
        return False
    # A weighted mean divides by the sum of its weights.
    if loss.reduction == WEIGHTED_MEAN and c.given[WEIGHT] != NULL:
        return False
    for kind in range(GRAD_THIRD):
        if c.wanted[kind] and (c.outs[kind] == NULL or not is_turned(<object>c.outs[kind])):
            return False
    return True


cdef inline void describe_input(Loss loss, call_t* c, int slot, cnp.ndarray a, bint rows) noexcept:
    describe(&c.plan.inputs[slot], a, &c.row_shape[0] if rows else &c.shape[0], c.along[slot],
             c.row_n if rows else c.n, rows, c.real)


cdef int describe_like_first(Loss loss, call_t* c, int slot) except -1:
    """An input of the first one's shape; either may lack axes of size 1 that the other has."""
    cdef int k
    cdef int whole[MAX_AXES + 1]
    cdef cnp.ndarray pred = <cnp.ndarray>c.given[FIRST]
    cdef cnp.ndarray a = array_given(loss, c, slot)
    if not match_squeezed(a, <Py_ssize_t*>cnp.PyArray_DIMS(pred), cnp.PyArray_NDIM(pred), whole):
        raise ValueError(
            f"{loss.slot_names[slot]} must have {loss.inputs[0]}'s shape {shape_text(pred)}, "
            f"though one of the two may lack axes of size 1, got shape {shape_text(a)}{loss.hints[slot]}")
    for k in range(c.row_n):
        c.along[slot][k] = whole[c.row_order[k]]
    describe_input(loss, c, slot, a, loss.layout >= ROWS)
    return 0


cdef int describe_per_row(Loss loss, call_t* c, int slot) except -1:
    """An input of the unreduced loss's shape; either may lack axes of size 1 that the other has."""
    cdef cnp.ndarray pred = <cnp.ndarray>c.given[FIRST]
    cdef cnp.ndarray a = array_given(loss, c, slot)
    if not match_squeezed(a, c.shape, c.n, c.along[slot]):
        hint = loss.hints[slot] if cnp.PyArray_SIZE(a) == cnp.PyArray_SIZE(pred) else ""
        raise ValueError(
            f"{loss.slot_names[slot]} must have {loss.inputs[0]}'s shape {shape_text(pred)} "
            f"without axis {c.row_order[0 if c.plan.lanes_over_rows else c.n]}, {shape_tuple(c.shape, c.n)}, "
            f"got shape {shape_text(a)}{hint or ', though one of the two may lack axes of size 1'}")
    describe_input(loss, c, slot, a, False)
    return 0


cdef int describe_own(Loss loss, call_t* c, int slot) except -1:
    """An input with a shape of its own: its axes as they are."""
    cdef array_t* d = &c.plan.inputs[slot]
    cdef cnp.ndarray a = array_given(loss, c, slot)
    cdef int k, n = cnp.PyArray_NDIM(a)
    describe_number(d, NULL, 1)
    d.data = cnp.PyArray_BYTES(a)
    d.type = kind_of(a)
    d.swapped = not cnp.PyArray_ISNOTSWAPPED(a)
    d.aligned = cnp.PyArray_ISALIGNED(a)
    d.size = cnp.PyArray_SIZE(a)
    d.ndim = max(n, 1)
    for k in range(n):
        d.shape[k], d.stride[k] = a.shape[k], a.strides[k]
    return 0


cdef int describe_broadcast(Loss loss, call_t* c, int slot) except -1:
    """An optional input that broadcasts to the unreduced loss, or is a number. No formula reads a missing one."""
    cdef cnp.ndarray a = array_given(loss, c, slot)
    name = loss.slot_names[slot]
    if loss.lies[slot] == NUMBER:
        if cnp.PyArray_NDIM(a) != 0:
            raise ValueError(f"{name} must be a number, got an array of shape {shape_text(a)}")
        finite(name, a)
    if not match_unreduced(c, slot, a):
        raise ValueError(
            f"{name} must broadcast to {loss.inputs[0]}'s shape {shape_text(<cnp.ndarray>c.given[FIRST])}, "
            f"got shape {shape_text(a)}{_foreign.about_weights(a)}")
    if slot < c.kernel.inputs:
        describe_input(loss, c, slot, a, False)
    return 0


cdef bint match_unreduced(call_t* c, int slot, cnp.ndarray a) noexcept:
    """Whether an input broadcasts to the unreduced loss; fills in which of its axes lies along each."""
    cdef int k
    cdef int[MAX_AXES + 1] whole
    cdef Py_ssize_t[MAX_AXES + 1] dims
    for k in range(c.n):
        dims[c.order[k]] = c.shape[k]
    if not match_broadcast(a, dims, c.n, whole):
        return False
    for k in range(c.n):
        c.along[slot][k] = whole[c.order[k]]
    return True


cdef int describe_weight(Loss loss, call_t* c) except -1:
    """Finds the axes of the unreduced loss that sample_weight lies along."""
    cdef cnp.ndarray weight = array_given(loss, c, WEIGHT), pred = <cnp.ndarray>c.given[FIRST]
    cdef int k, ndim = cnp.PyArray_NDIM(weight)
    cdef int whole[MAX_AXES + 1]
    cdef Py_ssize_t dims[MAX_AXES + 1]
    cdef bint good
    cdef int* axes = c.along[WEIGHT]
    if ndim == 1 and (c.batch_item >= 0 or c.n == 0):
        good = weight.shape[0] == c.batch_size or weight.shape[0] == 1
        for k in range(c.n):
            axes[k] = 0 if k == c.batch_item else -1
    elif loss.layout == ROWS and ndim == cnp.PyArray_NDIM(pred):
        # The axis of the rows may stay, with size 1.
        k = c.row_order[0 if c.plan.lanes_over_rows else c.n]
        good = weight.shape[k] == 1 and match_broadcast(weight, <Py_ssize_t*>cnp.PyArray_DIMS(pred), ndim, whole)
        for k in range(c.n):
            axes[k] = c.row_order[k + 1 if c.plan.lanes_over_rows else k]
    else:
        good = match_unreduced(c, WEIGHT, weight)
    if not good:
        for k in range(c.n):
            dims[c.order[k]] = c.shape[k]
        raise ValueError(
            f"sample_weight must be one weight per example, shape ({c.batch_size},), "
            f"or broadcast to the unreduced loss, shape {shape_tuple(dims, c.n)}, "
            f"got shape {shape_text(weight)}{_foreign.about_weights(weight)}")
    describe_input(loss, c, WEIGHT, weight, False)
    return 0


cdef double describe_head(Loss loss, call_t* c) except? -1:
    """Lays out a head_grad that is an array like the value; returns the factor of one that is a number."""
    cdef cnp.ndarray head = array_given(loss, c, HEAD)
    cdef int[MAX_AXES + 1] whole
    cdef int k
    if cnp.PyArray_NDIM(head) == 0:
        # the dtype that stands for PyTorch's bfloat16 has no conversion of its own
        return float(_foreign.as_doubles(head) if kind_of(head) == BFLOAT16 else head)
    if not match_squeezed(head, c.value_shape, c.value_ndim, whole):
        raise ValueError(
            f"head_grad must be a number or have the value's shape {shape_tuple(c.value_shape, c.value_ndim)}, "
            f"got shape {shape_text(head)}")
    for k in range(c.n):
        c.along[HEAD][k] = whole[c.value_axes[k]] if c.value_axes[k] >= 0 else -1
    describe(&c.plan.inputs[HEAD], head, c.shape, c.along[HEAD], c.n, False, c.real)
    return 1


cdef dict shapes_of(Loss loss, const call_t* c):
    """The shapes of the inputs that are given, by name."""
    cdef dict shapes = {}
    cdef int k
    for k in range(WEIGHT):
        if c.given[k] != NULL:
            shapes[loss.slot_names[k]] = (<object>array_given(loss, c, k)).shape
    return shapes


cdef inline int check_numbers(Loss loss, call_t* c) except -1:
    """Refuses inputs with wrong numbers: integers, and numbers that the kernel checks as it prepares the call."""
    cdef int slot
    cdef Py_ssize_t bad
    for slot in range(SECOND, WEIGHT):
        if loss.checked[slot] and c.plan.size:
            bad = bad_integer(loss, c, slot)
            if bad >= 0:
                refuse(loss, c, slot, bad)
    if c.kernel.measure != NULL:
        prepare(loss, c)
    return 0


cdef Py_ssize_t bad_integer(Loss loss, call_t* c, int slot) except -2:
    """The position of an input's first number that is none of its integers; -1 if all are."""
    cdef plan_t* p = &c.plan
    cdef watch_t watch
    cdef Py_ssize_t bad
    cdef double high = loss.high[slot] if loss.high[slot] == loss.high[slot] else p.row_length - 1
    if p.size < WORK_FOR_A_THREAD:
        return runner.bad_integer(p, &p.inputs[slot], &p.inputs[WEIGHT], 0, p.size, loss.low[slot], high,
                                  loss.also[slot], NULL)
    begin_watch(p, &watch)
    with nogil:
        bad = runner.bad_integer(p, &p.inputs[slot], &p.inputs[WEIGHT], 0, p.size, loss.low[slot], high,
                                 loss.also[slot], NULL)
    end_watch(p)
    return bad


cdef int prepare(Loss loss, call_t* c) except -1:
    """Allocates the kernel's state for the call, and lets the kernel fill it."""
    cdef plan_t* p = &c.plan
    cdef complaint_t complaint
    cdef watch_t watch
    cdef bint refused
    cdef Py_ssize_t size = c.kernel.measure(p)
    if size < 0:
        raise MemoryError(f"no memory for {p.size} rows of {p.row_length} numbers")
    p.state = malloc(size)
    if p.state == NULL:
        raise MemoryError(f"no memory for {size} bytes of rows")
    if p.work < WORK_FOR_A_THREAD:
        refused = c.kernel.prepare(p, &complaint)
    else:
        begin_watch(p, &watch)
        with nogil:
            refused = c.kernel.prepare(p, &complaint)
        end_watch(p)
    if refused:
        refuse(loss, c, complaint.slot, complaint.at)
    return 0


cdef int refuse(Loss loss, const call_t* c, int slot, Py_ssize_t at) except -1:
    """Refuses an input for the number at a position, counted in C order; -1: for the whole."""
    cdef cnp.ndarray a = <cnp.ndarray>c.given[slot]
    cdef list position = [0] * a.ndim
    cdef int k
    name = loss.slot_names[slot]
    if at < 0:
        raise ValueError(f"{name} must hold {loss.whole_rule(name, arrays_of(loss, c))}")
    for k in range(a.ndim - 1, -1, -1):
        position[k] = at % a.shape[k]
        at //= a.shape[k]
    number = (<object>a)[tuple(position)] if kind_of(a) != BFLOAT16 else _foreign.as_doubles(a)[tuple(position)]
    integers = loss.specs[loss.inputs.index(name)].integers
    if integers is None:
        what, hint = loss.number_rule(name, shapes_of(loss, c)), ""
    else:
        what, hint = integers.text.format(high=c.plan.row_length - 1), integers.hint
    raise ValueError(f"{name} must hold {what} got {number} at position {tuple(position)}{hint}")


cdef dict arrays_of(Loss loss, const call_t* c):
    cdef dict arrays = {}
    cdef int k
    for k in range(WEIGHT):
        if c.given[k] != NULL:
            arrays[loss.slot_names[k]] = <object>c.given[k]
    return arrays

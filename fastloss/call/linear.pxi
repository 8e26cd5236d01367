"""The call of a loss whose predictions are made of rows of numbers and weights, block by block, and never stored.

The first input of such a call, and its gradient, are arrays with a shape and no numbers: the kernels put a block of
predictions where a part of them would lie.
"""

cdef enum:
    ROWS_BYTES = 1 << 17        # of rows at once: they stay in a core's own cache
    FEWEST_ROWS = 4
    TILE_ROWS = 32              # of the kernels
    LANES_MOST = 16             # numbers of a vector
    MOST_TURNED = 1 << 13       # sums of lanes: more would leave a core's own cache
    LINEAR_TASKS = 64           # with sums of their own, at most
    SHARE = 8                   # the sums of all tasks have one number for so many of the rows', at most

# what an array without numbers points to
cdef double nothing = 0


cdef class Rows:
    """Rows of numbers: an array, or a sparse matrix with its arrays."""
    cdef readonly object source
    cdef cnp.ndarray begins, places, numbers            # None: it is an array
    cdef bint is_double
    cdef readonly Py_ssize_t n, columns
    cdef Py_ssize_t size                                # numbers that are read

    def __init__(self, source, begins=None, places=None, held=None, *, in_double=False):
        self.source = numbers(source, "X") if held is None else source
        self.begins, self.places, self.numbers = begins, places, held
        self.n, self.columns = source.shape
        self.size = source.size if held is None else held.size
        self.is_double = in_double or source.dtype.kind in "iub" or source.dtype.itemsize > 4

    @property
    def dtype(self):
        return np.dtype(np.float64 if self.is_double else np.float32)


cdef call_linear(Loss loss, Rows rows, cnp.ndarray weight, cnp.ndarray bias, tuple direction, tuple args,
                 dict options, int want):
    """The value, and the derivatives in the weights, of each output or of the only one, and in the biases, in float64.

    With a direction in both, the derivatives are the Hessian times that. What is wanted with a Hessian and no direction
    is that in each prediction, alone. If nothing is wanted, all is checked, and what the reduction divides by is
    returned. None: the call is to be made in float64.
    """
    cdef call_t c
    cdef linear_t a
    cdef Py_ssize_t[2] shape
    cdef int ndim = cnp.PyArray_NDIM(weight)
    begin(&c)
    a.outputs = weight.shape[0] if ndim == 2 else 1
    shape[0], shape[1] = rows.n, a.outputs
    try:
        pred = cnp.PyArray_SimpleNewFromData(
            ndim, <cnp.npy_intp*>&shape[0], cnp.NPY_DOUBLE if rows.is_double else cnp.NPY_FLOAT, &nothing)
        a.has_product = direction is not None and loss.layout != ELEMENTS
        if a.has_product:
            bind(loss, &c, (pred, *args), options | {"vector": pred}, WANT_HESS)
        else:
            bind(loss, &c, (pred, *args), options, want)
        if c.foreign:
            convert(loss, &c)
        choose_results(loss, &c, want & ~WANT_HESS)
        c.wanted[GRAD] &= not a.has_product
        c.wanted[HESS] = want & WANT_HESS
        describe_inputs(loss, &c)
        refuse_layout(loss, &c, shape_tuple(shape, ndim))
        if not want:
            return divisor(loss, &c)
        describe_predictor(&a, &c, rows, weight, bias, direction)
        describe_linear_results(loss, &c, &a)
        return compute_linear(loss, &c, &a, rows, want)
    finally:
        release(&c)


cdef divisor(Loss loss, call_t* c):
    """What the reduction divides by, after all checks of a call; None: it is to be made in float64."""
    cdef double count, head_factor = 1
    find_value_axes(loss, c)
    if c.given[HEAD] != NULL:
        head_factor = describe_head(loss, c)
    check_numbers(loss, c)
    count = scale(loss, c, head_factor)
    return None if c.plan.size and leaves_range(loss, c, count) else count


cdef int refuse_layout(Loss loss, const call_t* c, tuple shape) except -1:
    """Refuses a loss in which examples meet, or do not lie along the first axis."""
    if c.kernel.measure != NULL or c.kernel.begin_round != NULL or loss.couples is not None:
        raise ValueError(
            f"loss must have a loss for each example by itself, got {type(loss).__name__}; multiply the rows by the "
            "weights, and call the loss with the result")
    if len(shape) == 1 and loss.layout != ELEMENTS:
        raise ValueError(f"weight must have two axes, a row for each output of {type(loss).__name__}, got one")
    if len(shape) == 2 and (c.batch_item != 0 or (loss.layout == ROWS or loss.layout == COUPLED)
                            and loss.row_axis(2) != 1):
        raise ValueError(f"loss must have batch_axis=0 and axis=-1 for predictions of shape {shape}, got {loss!r}")
    return 0


cdef void describe_predictor(linear_t* a, const call_t* c, Rows rows, cnp.ndarray weight, cnp.ndarray bias,
                             tuple direction):
    cdef int[2] axes = [0, 1]
    cdef cnp.ndarray dense
    a.columns = rows.columns
    a.each = c.plan.size // rows.n if rows.n else 1
    a.task_sums = a.outputs * (a.columns + 1) + 1
    a.x.data = NULL
    a.narrow = False
    if rows.numbers is None:
        dense = rows.source
        describe(&a.x, dense, <Py_ssize_t*>cnp.PyArray_DIMS(dense), axes, 2, False, FLOAT32)
        a.narrow = c.is_double and a.x.in_place
        a.x.in_place &= not c.is_double
        if c.is_double and not a.narrow:
            describe(&a.x, dense, <Py_ssize_t*>cnp.PyArray_DIMS(dense), axes, 2, False, FLOAT64)
    else:
        a.begins = <int64_t*>cnp.PyArray_DATA(rows.begins)
        a.places = <int32_t*>cnp.PyArray_DATA(rows.places)
        a.numbers = cnp.PyArray_DATA(rows.numbers)
    a.weight = cnp.PyArray_DATA(weight)
    a.bias = NULL if bias is None else cnp.PyArray_DATA(bias)
    a.direction = a.direction_bias = NULL
    # One output has too little to do for each number that is turned.
    a.turned = a.x.data != NULL and a.outputs > 1 and a.outputs * a.columns <= MOST_TURNED
    if direction is not None:
        a.direction = cnp.PyArray_DATA(<cnp.ndarray>direction[0])
        if direction[1] is not None:
            a.direction_bias = cnp.PyArray_DATA(<cnp.ndarray>direction[1])


cdef int describe_linear_results(Loss loss, call_t* c, linear_t* a) except -1:
    """The value is an array or summed by the predictor; derivatives lie like the predictions."""
    cdef plan_t* p = &c.plan
    find_value_axes(loss, c)
    a.derived = c.wanted[GRAD] or a.direction != NULL
    a.totals = c.is_total and c.wanted[VALUE]
    if a.totals:
        describe_number(&p.outputs[VALUE], &nothing, p.size)
        p.outputs[VALUE].type, p.outputs[VALUE].in_place = c.real, True
        p.outputs[VALUE].stride[0] = 8 if c.is_double else 4
    elif c.wanted[VALUE]:
        describe_result(loss, c, VALUE)
    if c.wanted[GRAD]:
        p.outputs[GRAD] = p.inputs[FIRST]
    if a.direction != NULL:
        p.outputs[HESS] = p.inputs[FIRST]
    elif c.wanted[HESS]:
        describe_result(loss, c, HESS)
    return 0


cdef compute_linear(Loss loss, call_t* c, linear_t* a, Rows rows, int want):
    """Runs the plan; returns the results."""
    cdef plan_t* p = &c.plan
    cdef double count, head_factor = 1, value_scale, grad_scale
    cdef cnp.ndarray sums
    if c.given[HEAD] != NULL:
        head_factor = describe_head(loss, c)
    check_numbers(loss, c)
    count = scale(loss, c, head_factor)
    if p.size and leaves_range(loss, c, count):
        return None
    value_scale, grad_scale = p.value_scale, p.grad_scale
    # what is summed in double is multiplied there
    p.grad_scale = 1
    if a.totals:
        p.value_scale = 1
    sums = np.zeros(a.task_sums)
    if p.size:
        choose_loop(c)
        p.linear = a
        execute_linear(c, a, rows.size, <double*>cnp.PyArray_DATA(sums))
    else:
        fill_results(c, 0)
    if want & WANT_HESS and a.direction == NULL:
        return result(c, HESS) * rows.dtype.type(grad_scale)
    c.total = <double>sums[a.task_sums - 1] * value_scale
    found, end = sums[:a.task_sums - 1] * grad_scale, a.outputs * a.columns
    return result(c, VALUE) if want & WANT_VALUE else None, found[:end], found[end:]


cdef void cut_linear(call_t* c, linear_t* a, Py_ssize_t numbers) noexcept:
    """Cuts rows into blocks that stay in a core's own cache, and these into tasks whose sums take little memory."""
    cdef plan_t* p = &c.plan
    cdef Py_ssize_t itemsize = 8 if c.is_double else 4, blocks, tasks
    cdef Py_ssize_t n = p.size // a.each, row = max(<Py_ssize_t>1, ceil_div(numbers, n)) * itemsize
    p.coupled = max(p.coupled, a.each)
    size_up(p, itemsize)
    p.ahead = 0
    p.shared = True
    if not p.extra:
        p.extra = (BUFFERS - OWN_BUFFERS) * p.buffer
    p.block = min(max(p.block // a.each, <Py_ssize_t>1), max(ROWS_BYTES // row, <Py_ssize_t>FEWEST_ROWS)) * a.each
    if a.turned:
        p.block = max(p.block // (TILE_ROWS * a.each), <Py_ssize_t>1) * TILE_ROWS * a.each
    blocks = ceil_div(p.size, p.block)
    tasks = max(<Py_ssize_t>1, min(<Py_ssize_t>LINEAR_TASKS, numbers // (SHARE * a.task_sums)))
    p.task_elements = ceil_div(blocks, tasks) * p.block
    p.tasks = ceil_div(p.size, p.task_elements)
    p.pieces = p.first_task_short_by = p.misaligned = 0
    p.plain = False
    p.run_length = run_length(&p.outputs[VALUE]) if c.wanted[VALUE] and p.outputs[VALUE].summed else 0
    p.work += numbers * a.outputs
    a.room = ceil_div(OWN_BUFFERS * p.buffer + p.extra, CACHE_LINE) * CACHE_LINE
    p.extra = a.room + linear_room(p, a) * itemsize - OWN_BUFFERS * p.buffer


cdef Py_ssize_t linear_room(const plan_t* p, const linear_t* a) noexcept:
    """How many numbers a thread needs: see room_of() in the kernels."""
    cdef Py_ssize_t rows = p.block // a.each, n = 4 * rows * a.outputs
    if a.x.data != NULL:
        n += (1 + a.outputs) * a.columns + (0 if a.x.in_place and not a.turned else TILE_ROWS * a.columns)
    if a.turned:
        rows = ceil_div(rows, TILE_ROWS) * TILE_ROWS
        n += rows * (a.columns + a.outputs) + TILE_ROWS * a.outputs + LANES_MOST * a.outputs * a.columns
        n += 2 * CACHE_LINE
    return n


cdef int execute_linear(call_t* c, linear_t* a, Py_ssize_t numbers, double* sums) except -1:
    """Runs the tasks, and adds their sums in the tasks' order."""
    cdef plan_t* p = &c.plan
    cdef Py_ssize_t i, k
    cdef cnp.ndarray parts
    cut_linear(c, a, numbers)
    p.threads = 1
    if p.tasks > 1 and p.work >= 2 * WORK_FOR_A_THREAD:
        p.threads = <int>min(<Py_ssize_t>threads(), min(p.tasks, p.work // WORK_FOR_A_THREAD))
    for k in range(OUTPUTS):
        p.partial[k] = NULL
    parts = np.zeros(p.tasks * a.task_sums)
    a.sums = <double*>cnp.PyArray_DATA(parts)
    p.scratch = NULL
    try:
        get_buffers(p)
        run_plan(p, c.is_double)
    finally:
        free(p.scratch)
    for k in range(p.tasks):
        for i in range(a.task_sums):
            sums[i] += a.sums[k * a.task_sums + i]
    return 0

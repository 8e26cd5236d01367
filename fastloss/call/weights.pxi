"""The divisor of a weighted mean, and its gradient in the weights; the loops that a call runs."""


cdef int run(call_t* c) except -1:
    """Runs the plan, in as many rounds as the kernel needs."""
    cdef plan_t p
    cdef int k
    choose_loop(c)
    if c.kernel.begin_round == NULL:
        return execute(&c.plan, c.is_double)
    for k in range(c.kernel.rounds):
        p = c.plan
        if c.kernel.begin_round(&p, k):
            execute(&p, c.is_double)
    return 0


cdef inline void choose_loop(call_t* c) noexcept:
    """The loop over elements that stores the wanted results, and little else."""
    cdef plan_t* p = &c.plan
    cdef bint needs_loss = c.wanted[VALUE] or c.wanted[GRAD_WEIGHT]
    # A value with a Hessian is rare: storing other results, in buffers that nobody reads, costs little.
    cdef bint everything = c.wanted[GRAD_SECOND] or c.wanted[GRAD_THIRD] or c.wanted[HESS] and needs_loss
    cdef int stored = PASS_VALUE
    if c.surrogate:
        stored = PASS_SURROGATE
    elif everything:
        stored = PASS_EVERYTHING
    elif c.wanted[HESS]:
        stored = PASS_GRADIENT_HESSIAN
    elif c.wanted[GRAD]:
        stored = PASS_VALUE_GRADIENT if needs_loss else PASS_GRADIENT
    p.loop = c.kernel.loops[c.is_double][stored]
    p.sum = NULL
    if c.wanted[VALUE] and p.outputs[VALUE].summed and p.inputs[WEIGHT].data == NULL and not (
            everything or c.wanted[HESS] or c.wanted[GRAD_WEIGHT]):
        p.sum = c.kernel.sums[c.is_double][c.wanted[GRAD]]


cdef double sum_of_weights(const plan_t* p) except? -1:
    """The divisor of a weighted mean."""
    cdef plan_t q = p[0]
    cdef double total = 0
    cdef int k
    if p.inputs[WEIGHT].data == NULL and p.counts == NULL:
        return <double>p.size
    if p.size == 0:
        return 0
    for k in range(OUTPUTS):
        q.outputs[k].data = NULL
    describe_number(&q.outputs[VALUE], &total, p.size)
    q.outputs[VALUE].summed = True
    if q.inputs[WEIGHT].data != NULL and q.inputs[WEIGHT].type != FLOAT64:
        q.inputs[WEIGHT].in_place = False
    q.inputs[HEAD].data = NULL
    q.value_scale = 1
    count(&q)
    return total


cdef int count(plan_t* p) except -1:
    """Runs a plan whose losses are the counts of elements, in double precision."""
    p.counts_only = True
    # A kernel's own blocks are for losses, not counts.
    p.extra = 0
    return execute(p, True)


cdef int run_with_shares(call_t* c, double factor) except -1:
    """The gradient in the weights of a weighted mean, which divides by them, too."""
    cdef cnp.ndarray gradient = <cnp.ndarray>c.results[GRAD_WEIGHT]
    # Before the run, whose results may overwrite the labels.
    cdef object parts = shares(c)
    run(c)
    factor *= c.total
    if c.is_double:
        take_shares(<double*>cnp.PyArray_DATA(gradient), parts, cnp.PyArray_SIZE(gradient), factor)
    else:
        take_shares(<float*>cnp.PyArray_DATA(gradient), parts, cnp.PyArray_SIZE(gradient), factor)
    return 0


cdef shares(const call_t* c):
    """The derivative of the divisor in sample_weight: a number if it is the same for all."""
    cdef plan_t p = c.plan
    cdef cnp.ndarray gradient = <cnp.ndarray>c.results[GRAD_WEIGHT], counts
    cdef int k
    if p.counts == NULL:
        return <double>p.size / <double>cnp.PyArray_SIZE(gradient)
    counts = np.empty((<object>gradient).shape, np.float64)
    for k in range(OUTPUTS):
        p.outputs[k].data = NULL
    describe(&p.outputs[GRAD_WEIGHT], counts, c.shape, c.along[WEIGHT], c.n, False, FLOAT64)
    p.outputs[GRAD_WEIGHT].summed = p.outputs[GRAD_WEIGHT].size != p.size
    p.inputs[WEIGHT].data = NULL
    p.inputs[HEAD].data = NULL
    p.grad_scale = 1
    count(&p)
    return counts


cdef int take_shares(floating* gradient, shares, Py_ssize_t n, double factor) except -1:
    """Subtracts shares times a factor from a gradient. NumPy would warn of infinities, or need a context."""
    cdef double* share
    cdef double common = 0
    cdef Py_ssize_t i, step = 0
    if isinstance(shares, float):
        common = shares
        share = &common
    else:
        share = <double*>cnp.PyArray_DATA(<cnp.ndarray>shares)
        step = 1
    for i in range(n):
        gradient[i] = <floating>(gradient[i] - share[i * step] * factor)
    return 0

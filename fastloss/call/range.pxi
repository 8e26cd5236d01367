"""Calls with factors outside of float32, or weights outside of float64: made in float64, and rescaled."""

# 2^100; for weights 2^40, because losses are multiplied by them before their sum divides the result
cdef double FAR_IN_SINGLE = 1.2676506002282294e+30
cdef double FAR_WEIGHTS_IN_SINGLE = 1.099511627776e+12
# 2^300 and 2^200
cdef double FAR_SUM = 2.037035976334486e+90
cdef double FAR_WEIGHT = 1.6069380442589903e+60


cdef inline bint is_beyond(double x, double far) noexcept:
    """Whether |x| is above far, or below 1/far but not 0."""
    return not (fabs(x) <= far and fabs(x) * far >= 1) and x != 0


def is_wide(argument):
    """Whether a constructor's argument is or holds a number that float32 holds with few digits or not at all."""
    _, value = argument
    for x in value if isinstance(value, tuple) else (value,):
        if isinstance(x, float) and math.isfinite(x) or isinstance(x, int) and abs(x) < 2**1000:
            if is_beyond(x, FAR_IN_SINGLE):
                return True
    return False


cdef inline int leaves_range(Loss loss, const call_t* c, double count) except -1:
    """Whether to make the call in float64: 1, or more if weights must be rescaled, too."""
    cdef const plan_t* p = &c.plan
    if c.given[WEIGHT] != NULL and is_beyond(count, FAR_SUM) and exponent_of_weights(c):
        return 2
    return not c.is_double and (
        loss.wide or is_beyond(p.value_scale, FAR_IN_SINGLE) or is_beyond(p.grad_scale, FAR_IN_SINGLE)
        or c.given[WEIGHT] != NULL and loss.reduction == WEIGHTED_MEAN and is_beyond(count, FAR_WEIGHTS_IN_SINGLE))


cdef int exponent_of_weights(const call_t* c) except? -1:
    """The n of 2^n which brings the weights near 1, so that their sum has a reciprocal; 0 if it has."""
    largest = float(np.max(np.abs(_foreign.as_doubles(<object>c.given[WEIGHT])), initial=0))
    return -math.frexp(largest)[1] if math.isfinite(largest) and is_beyond(largest, FAR_WEIGHT) else 0


cdef int evaluate_in_double(Loss loss, call_t* c, int want, int exponent) except -1:
    """Fills the results from a call in float64 with weights times 2^exponent: this call would leave the range."""
    cdef dict named = {}
    cdef int k
    cdef tuple parts
    cdef bint single = want == WANT_VALUE or want == WANT_GRAD or want == WANT_HESS
    # The arrays, not the arguments: some arguments can be read only once.
    for k in range(INPUTS):
        if c.given[k] != NULL:
            named[loss.slot_names[k]] = <object>c.given[k]
    if c.wrt != NULL:
        named["wrt"] = <object>c.wrt
    if c.surrogate:
        named["hessian"] = loss.surrogate
    with np.errstate(all="ignore"):
        named[loss.inputs[0]] = _foreign.as_doubles(<object>c.given[FIRST])
        if c.given[WEIGHT] != NULL:
            named["sample_weight"] = np.ldexp(_foreign.as_doubles(<object>c.given[WEIGHT]), exponent)
        found = loss.call((), named, want)
        parts = (found,) if single else found
        if want & WANT_VALUE and c.is_total:
            c.total = parts[0]
        elif want & WANT_VALUE:
            put_doubles(c.results[VALUE], parts[0])
        if want & WANT_HESS:
            put_derivatives(c, parts[len(parts) - 1], True, exponent)
        if want & WANT_GRAD:
            put_derivatives(c, parts[1 if want & WANT_VALUE else 0], False, exponent)
    return 0


cdef int put_derivatives(call_t* c, part, bint second, int exponent) except -1:
    """Fills the gradients, or the Hessians, from those of a call with weights times 2^exponent."""
    cdef tuple parts = part if isinstance(part, tuple) else (part,)
    cdef int k, kind
    for k in range(c.n_gradients):
        kind = derivative(c, k, second)
        put_doubles(c.results[kind], np.ldexp(parts[k], exponent) if kind == GRAD_WEIGHT else parts[k])
    return 0


cdef int put_doubles(PyObject* to, x) except -1:
    """Fills a result from a call in float64."""
    cdef cnp.ndarray a = np.asarray(x, np.float64, "C")
    round_to(<cnp.ndarray>to, cnp.PyArray_DATA(a), True)
    return 0

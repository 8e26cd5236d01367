"""Connectionist temporal classification: the sum over all alignments of a label sequence with the frames.

The recursion multiplies and adds probabilities (Graves et al. 2006). Each is a mantissa and an exponent of its own, both
doubles: no alignment underflows, however unlikely, and no logarithm rounds. States are kept as two rows, the blanks
b_0 .. b_L and the labels a_0 .. a_{L-1}, where b_j comes before a_j.
"""

# the exponent of 0, below all others
cdef double NOTHING = -1.7976931348623157e308


cdef inline double normal(double m, double* e) noexcept nogil:
    """Moves the exponent of m >= 0 to e; returns the mantissa, in [1, 2) or 0."""
    cdef uint64_t bits = bits_d(m)
    # an integer below 2^52, put behind the bits of 2^52, is that double's fraction
    cdef double n = from_bits_d((bits >> 52) | <uint64_t>0x4330000000000000) - (4503599627370496. + 1023)
    cdef double mantissa = from_bits_d((bits & <uint64_t>0x000fffffffffffff) | <uint64_t>0x3ff0000000000000)
    e[0] = e[0] + n if (m > 0) & (e[0] > NOTHING) else NOTHING
    return mantissa if (m > 0) & (e[0] > NOTHING) else <double>0


cdef inline double shifted(double m, double e) noexcept nogil:
    """m 2^e for an e <= 0, so far down that it does not matter 0 or next to it."""
    return m * pow2(counter(<double>-1000 if e < -1000 else e), 0)


cdef inline double probability(double log_p, double* e) noexcept nogil:
    """e^log_p as a mantissa and an exponent."""
    cdef double c, m = exp_reduced(log_p, &c)
    # so far down a mantissa would be made of rounding errors
    cdef bint far = not log_p > -1e15
    e[0] = floor(log_p * 1.4426950408889634) if far else count(c)
    m = <double>1 if far else m
    # -inf is 0, and so is what is left of it
    e[0] = e[0] if e[0] > NOTHING else NOTHING
    return m if e[0] > NOTHING else <double>0


cdef void forward_step(Py_ssize_t n, const double* am, const double* ae, const double* bm, const double* be,
                       const double* skip, const double* ym, const double* ye, double blank_m, double blank_e,
                       double* new_am, double* new_ae, double* new_bm, double* new_be) noexcept nogil:
    """a_j <- (a_j + b_j + skip_j a_{j-1}) y_j and b_j <- (b_j + a_{j-1}) y_blank; a_{-1} is stored and 0."""
    cdef Py_ssize_t j
    cdef double top, s, e, other
    for j in range(n):
        other = ae[j - 1] if skip[j] > 0 else NOTHING
        top = ae[j] if ae[j] > be[j] else be[j]
        top = top if top > other else other
        s = shifted(am[j], ae[j] - top) + shifted(bm[j], be[j] - top) + shifted(skip[j] * am[j - 1], other - top)
        e = top + ye[j]
        new_am[j] = normal(s * ym[j], &e)
        new_ae[j] = e
    for j in range(n + 1):
        top = be[j] if be[j] > ae[j - 1] else ae[j - 1]
        s = shifted(bm[j], be[j] - top) + shifted(am[j - 1], ae[j - 1] - top)
        e = top + blank_e
        new_bm[j] = normal(s * blank_m, &e)
        new_be[j] = e


cdef void backward_step(Py_ssize_t n, double* am, double* ae, double* bm, double* be, const double* skip,
                        const double* ym, const double* ye, double blank_m, double blank_e) noexcept nogil:
    """With a_j <- a_j y_j and b_j <- b_j y_blank first, a_j <- a_j + b_{j+1} + skip_{j+1} a_{j+1} and b_j <- b_j + a_j; a_n is stored and 0."""
    cdef Py_ssize_t j
    cdef double top, s, e, other, a, a_e
    for j in range(n):
        e = ae[j] + ye[j]
        am[j] = normal(am[j] * ym[j], &e)
        ae[j] = e
    for j in range(n + 1):
        e = be[j] + blank_e
        bm[j] = normal(bm[j] * blank_m, &e)
        be[j] = e
    # in place from the front: b_j needs the old a_j, a_j the old b_{j+1} and a_{j+1}
    for j in range(n):
        a, a_e = am[j], ae[j]
        top = be[j] if be[j] > a_e else a_e
        s = shifted(bm[j], be[j] - top) + shifted(a, a_e - top)
        e = top
        bm[j] = normal(s, &e)
        be[j] = e
        other = ae[j + 1] if skip[j + 1] > 0 else NOTHING
        top = a_e if a_e > be[j + 1] else be[j + 1]
        top = top if top > other else other
        s = shifted(a, a_e - top) + shifted(bm[j + 1], be[j + 1] - top) + shifted(skip[j + 1] * am[j + 1], other - top)
        e = top
        am[j] = normal(s, &e)
        ae[j] = e


cdef inline Py_ssize_t find(const double* x, Py_ssize_t n, double value) noexcept nogil:
    """The first position of a value, 0 if there is none."""
    cdef Py_ssize_t k
    for k in range(n):
        if x[k] == value:
            return k
    return 0


cdef double log_total_below(const double* x, Py_ssize_t n, double top, double* piece) noexcept nogil:
    """log sum_k e^(x_k - top), top the largest: apart from it, for their sum would round a small one away."""
    cdef Py_ssize_t k
    for k in range(n):
        piece[k] = exp_nonpositive(x[k] - top)
    piece[find(x, n, top)] = 0
    return log_sum(<double>1, sum_of(piece, n))


cdef void total_of_frame(Py_ssize_t n, Py_ssize_t size, const double* forward, const double* am, const double* ae, const double* bm,
                         const double* be, double* total_m, double* total_e) noexcept nogil:
    """The probability of all states at a frame, which is that of the label, but for how its exponents were rounded."""
    cdef Py_ssize_t j
    cdef double top = NOTHING, e, sum = 0
    for j in range(n):
        e = forward[size + j] + ae[j]
        top = e if e > top and forward[j] * am[j] > 0 else top
    for j in range(n + 1):
        e = forward[3 * size + j] + be[j]
        top = e if e > top and forward[2 * size + j] * bm[j] > 0 else top
    for j in range(n):
        sum += shifted(forward[j] * am[j], forward[size + j] + ae[j] - top)
    for j in range(n + 1):
        sum += shifted(forward[2 * size + j] * bm[j], forward[3 * size + j] + be[j] - top)
    total_m[0], total_e[0] = sum, top


cdef inline bint load_frame(const plan_t* p, Py_ssize_t frame, Py_ssize_t classes, double* x, double* piece, double* top, double* rest) noexcept nogil:
    """Logits of a frame, the largest and what log_total_below says; False if one is NaN or infinite, or none is possible."""
    gather(&p.inputs[PRED], frame * classes, classes, x)
    top[0] = lane_max(x, classes)
    rest[0] = log_total_below(x, classes, top[0], piece)
    return top[0] - top[0] == 0 and rest[0] == rest[0]


cdef void ctc_rows(void* kernel, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m, const real_t* w, real_t* l,
                   real_t* buffers) noexcept nogil:
    """The loss of examples start to start + n."""
    cdef const ctc_t* c = <const ctc_t*>p.memory
    cdef Py_ssize_t i
    for i in range(n):
        l[i] = <real_t>ctc_example(p, c, start + i, p.grad_scale * (m[i] if m != NULL else <real_t>1), <double*>buffers, <real_t*>NULL)
        if w != NULL and w[i] == 0:
            empty_gradient(p, (start + i) * c.all_frames, c.all_frames, <real_t>0, buffers, c.classes)


cdef void empty_gradient(const plan_t* p, Py_ssize_t first, Py_ssize_t n, real_t value, real_t* line, Py_ssize_t width) noexcept nogil:
    """Frames first to first + n of the gradient, all of the same value."""
    cdef Py_ssize_t t
    if p.outputs[GRAD].data == NULL:
        return
    set_all(line, value, width)
    for t in range(n):
        scatter(&p.outputs[GRAD], (first + t) * width, width, line)


cdef double ctc_example(const plan_t* p, const ctc_t* c, Py_ssize_t example, double factor, double* memory, real_t* like) noexcept nogil:
    """-log P of one example, and factor (softmax(x_t)_k - P(state k at t)) for its frames t and classes k."""
    cdef Py_ssize_t classes = c.classes, frames = c.frames[example], n = c.lengths[example], size = c.longest + 2
    cdef const int64_t* label = c.labels + example * c.stride
    cdef Py_ssize_t first = example * c.all_frames, t, j, best, record = 4 * size, needed = n, since = 0
    cdef bint has_gradient = p.outputs[GRAD].data != NULL, far
    cdef double* x = memory
    cdef double* q = x + classes
    cdef real_t* line = <real_t*>(q + classes)
    cdef double* skip = q + 2 * classes + 1         # of a_j; one more stands behind
    cdef double* ym = skip + size
    cdef double* ye = ym + size
    cdef double* top = ye + size                # of each frame: the largest logit, and what the logarithm of the
    cdef double* rest = top + c.most_frames + 1     # sum of the exponentials is above it
    cdef double* am = rest + c.most_frames + 1      # the backward states; a_n is stored
    cdef double* ae = am + size
    cdef double* bm = ae + size
    cdef double* be = bm + size
    cdef double* alpha = be + size              # the forward states, frame by frame
    cdef double* old
    cdef double* new
    cdef double loss, blank_m, blank_e, total_m, total_e, a_m, a_e, b_m, b_e

    # a label repeated needs a blank between
    for j in range(1, n):
        needed += label[j] == label[j - 1]
    if needed > frames:
        loss = 0 if c.zero_infinity else INFINITY
        for t in range(frames):
            if stopped(p, &since, classes):
                return NAN  # no cover: where a signal meets a call is chance
            if not load_frame(p, first + t, classes, x, q, top, rest):
                loss = NAN
        empty_gradient(p, first, c.all_frames, <real_t>0 if loss == loss else <real_t>NAN, line, classes)
        return loss

    skip[0] = skip[n] = 0
    for j in range(1, n):
        skip[j] = label[j] != label[j - 1]

    # before the first frame only b_0 is possible, from which a_0 and b_0 come
    old = alpha
    for j in range(4 * size):
        old[j] = 0
    for j in range(size):
        old[size + j] = NOTHING
        old[3 * size + j] = NOTHING
    old[2 * size + 1] = 1
    old[3 * size + 1] = 0
    for t in range(frames):
        if stopped(p, &since, classes + 4 * n):
            return NAN
        if not load_frame(p, first + t, classes, x, q, top + t, rest + t):
            empty_gradient(p, first, c.all_frames, <real_t>NAN, line, classes)
            return NAN
        for j in range(n):
            ym[j] = (x[label[j]] - top[t]) - rest[t]
        for j in range(n):
            ym[j] = probability(ym[j], &ye[j])
        blank_m = probability((x[c.blank] - top[t]) - rest[t], &blank_e)
        new = alpha + (t + 1 if has_gradient else (t + 1) & 1) * record
        new[0], new[size], new[2 * size], new[3 * size] = 0, NOTHING, 0, NOTHING
        forward_step(n, old + 1, old + size + 1, old + 2 * size + 1, old + 3 * size + 1, skip, ym, ye, blank_m, blank_e,
                     new + 1, new + size + 1, new + 2 * size + 1, new + 3 * size + 1)
        old = new
    a_m, a_e, b_m, b_e = old[n], old[size + n], old[2 * size + n + 1], old[3 * size + n + 1]
    total_e = a_e if a_e > b_e else b_e
    total_m = shifted(a_m, a_e - total_e) + shifted(b_m, b_e - total_e)
    if total_m == 0:
        empty_gradient(p, first, c.all_frames, <real_t>0, line, classes)
        return 0 if c.zero_infinity else INFINITY
    total_m = normal(total_m, &total_e)
    # near 1 the logarithm keeps its digits
    if total_m > 1.4142135623730951:
        total_m *= .5
        total_e += 1
    loss = -(total_e * 0.6931471803691238 + fma(total_e, <double>1.9082149292705877e-10, log_sum(total_m, <double>0)))
    loss = <double>0 if loss <= 0 else loss
    # an exponent so large is rounded, forward in another way than backward
    far = total_e < -1e15
    if not has_gradient:
        return loss

    for j in range(size):
        am[j] = bm[j] = 0
        ae[j] = be[j] = NOTHING
    bm[n], be[n] = 1, 0
    if n > 0:
        am[n - 1], ae[n - 1] = 1, 0
    for t in range(frames - 1, -1, -1):
        if stopped(p, &since, classes + 4 * n):
            return NAN  # no cover: where a signal meets a call is chance
        old = alpha + (t + 1) * record + 1
        gather(&p.inputs[PRED], (first + t) * classes, classes, x)
        best = find(x, classes, top[t])
        for j in range(classes):
            q[j] = exp_nonpositive((x[j] - top[t]) - rest[t])
        if far:
            total_of_frame(n, size, old, am, ae, bm, be, &total_m, &total_e)
        for j in range(n):
            ym[j] = shifted(old[j] * am[j] / total_m, old[size + j] + ae[j] - total_e)
        for j in range(n):
            q[label[j]] -= ym[j]
        for j in range(n + 1):
            ym[j] = shifted(old[2 * size + j] * bm[j] / total_m, old[3 * size + j] + be[j] - total_e)
        q[c.blank] -= sum_of(ym, n + 1)
        # the gradients of a frame sum to 0: that of the likeliest class, where 1 - p cancels, is the others'
        q[best] = 0
        q[best] = -sum_of(q, classes)
        for j in range(classes):
            line[j] = <real_t>(factor * q[j])
        if t > 0:
            for j in range(n):
                ym[j] = (x[label[j]] - top[t]) - rest[t]
            for j in range(n):
                ym[j] = probability(ym[j], &ye[j])
            blank_m = probability((x[c.blank] - top[t]) - rest[t], &blank_e)
            backward_step(n, am, ae, bm, be, skip, ym, ye, blank_m, blank_e)
        scatter(&p.outputs[GRAD], (first + t) * classes, classes, line)
    empty_gradient(p, first + frames, c.all_frames - frames, <real_t>0, line, classes)
    return loss

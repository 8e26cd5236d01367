"""Connectionist temporal classification: the sum over all alignments of a label sequence with the frames.

The recursion multiplies and adds probabilities (Graves et al. 2006). Each probability is a mantissa and an exponent,
both doubles: no alignment underflows, however unlikely, and no logarithm rounds. States are kept as two rows, the
blanks b_0 .. b_L and the labels a_0 .. a_{L-1}, where b_j comes before a_j.
"""

cimport cython
from libc.math cimport INFINITY, NAN, floor
from libc.stdint cimport int64_t

from fastloss._math cimport count, counter, exp_nonpositive, exp_reduced, fma, log_sum, normal, pow2, real_t
from fastloss._plan cimport FIRST, FOURTH, GRAD, SECOND, THIRD, WEIGHT, array_t, complaint_t, plan_t, rows_t, watch_t

# a batch of sequences: labels and lengths, checked
cdef struct sequences_t:
    int64_t* labels             # of all examples, one after another
    int64_t* starts             # of each example's
    int64_t* lengths            # of these
    int64_t* frames             # of the predictions
    Py_ssize_t classes
    Py_ssize_t blank
    Py_ssize_t all_frames       # of every example in pred
    Py_ssize_t most_frames      # of any example
    Py_ssize_t longest          # label that can be aligned
    bint zero_infinity

# one example: its label, and the buffers of the recursion
cdef struct trellis_t:
    const int64_t* label
    Py_ssize_t n                # labels
    Py_ssize_t frames
    Py_ssize_t first            # of the frames in pred
    Py_ssize_t classes
    Py_ssize_t blank
    Py_ssize_t size             # of a row of states
    bint all_states             # those of each frame are kept, not of two
    double* x                   # logits of a frame
    double* q                   # their probabilities
    void* line                  # a frame of the gradient
    double* skip                # whether a_j may follow a_{j-1}; one more stands behind
    double* ym                  # the labels' probabilities at a frame: mantissas, exponents
    double* ye
    double* top                 # of each frame: the largest logit, and what the logarithm of the
    double* rest                # sum of the exponentials is above it
    double* am                  # the backward states; a_n is stored
    double* ae
    double* bm
    double* be
    double* alpha               # the forward states, frame by frame
    double blank_m              # the blank's probability at a frame
    double blank_e
    double total_m              # that of the label
    double total_e


# the exponent of 0, below all other exponents
cdef double NOTHING = -1.7976931348623157e308


cdef inline double shifted(double m, double e) noexcept nogil:
    """m 2^e for an e <= 0; 0, or next to 0, so far down that it does not matter."""
    return m * pow2(counter(<double>-1000 if e < -1000 else e), 0)


cdef inline double probability(double log_p, double* e) noexcept nogil:
    """e^log_p as a mantissa and an exponent."""
    cdef double c, m = exp_reduced(log_p, &c)
    # so far down a mantissa would consist of rounding errors
    cdef bint far = not log_p > -1e15
    e[0] = floor(log_p * 1.4426950408889634) if far else count(c)
    m = <double>1 if far else m
    # -inf gives 0, and so does its remainder
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
    """a_j <- a_j + b_{j+1} + skip_{j+1} a_{j+1} and b_j <- b_j + a_j, after a_j <- a_j y_j and b_j <- b_j y_blank.

    a_n is stored and 0.
    """
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
    # In place, from the front: b_j needs the old a_j, and a_j the old b_{j+1} and a_{j+1}.
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
    """log sum_k e^(x_k - top), top the largest: kept apart from top, because their sum would round it away."""
    cdef Py_ssize_t k
    for k in range(n):
        piece[k] = exp_nonpositive(x[k] - top)
    piece[find(x, n, top)] = 0
    return log_sum(<double>1, sum_of(piece, n))


cdef void total_of_frame(Py_ssize_t n, Py_ssize_t size, const double* forward, const double* am, const double* ae,
                         const double* bm, const double* be, double* total_m, double* total_e) noexcept nogil:
    """The probability of all states at a frame: that of the label, except for the rounding of exponents."""
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


cdef inline bint load_frame(const plan_t* p, Py_ssize_t frame, Py_ssize_t classes, double* x, double* piece,
                            double* top, double* rest) noexcept nogil:
    """Finds a frame's largest logit and log_total_below(); False if the logits give no probabilities."""
    gather(&p.inputs[FIRST], frame * classes, classes, x)
    top[0] = lane_max(x, classes)
    rest[0] = log_total_below(x, classes, top[0], piece)
    return top[0] - top[0] == 0 and rest[0] == rest[0]


cdef void fill_frames(const plan_t* p, Py_ssize_t first, Py_ssize_t n, real_t value, real_t* line,
                      Py_ssize_t width) noexcept nogil:
    """Sets frames first to first + n of the gradient to the same value."""
    cdef Py_ssize_t t
    if p.outputs[GRAD].data == NULL:
        return
    set_all(line, value, width)
    for t in range(n):
        scatter(&p.outputs[GRAD], (first + t) * width, width, line)


cdef double* carve(double** memory, Py_ssize_t n) noexcept nogil:
    """Takes the next n numbers of a piece of memory."""
    cdef double* piece = memory[0]
    memory[0] += n
    return piece


cdef trellis_t trellis_of(const plan_t* p, Py_ssize_t example, double* memory) noexcept nogil:
    cdef const sequences_t* s = <const sequences_t*>p.state
    cdef trellis_t c
    c.label, c.n, c.frames = s.labels + s.starts[example], s.lengths[example], s.frames[example]
    c.first, c.classes, c.blank, c.size = example * s.all_frames, s.classes, s.blank, s.longest + 2
    c.all_states = p.outputs[GRAD].data != NULL
    c.x, c.q = carve(&memory, c.classes), carve(&memory, c.classes)
    c.line = carve(&memory, c.classes)
    c.skip = carve(&memory, 1) + 1
    memory = c.skip + c.size
    c.ym, c.ye = carve(&memory, c.size), carve(&memory, c.size)
    c.top, c.rest = carve(&memory, s.most_frames + 1), carve(&memory, s.most_frames + 1)
    c.am, c.ae, c.bm, c.be = carve(&memory, c.size), carve(&memory, c.size), carve(&memory, c.size), carve(&memory,
            c.size)
    c.alpha = memory
    return c


cdef inline double* states_of(const trellis_t* c, Py_ssize_t frame) noexcept nogil:
    """The forward states before a frame: the labels' mantissas, their exponents, and the same of the blanks."""
    return c.alpha + (frame if c.all_states else frame & 1) * 4 * c.size


cdef Py_ssize_t frames_needed(const trellis_t* c) noexcept nogil:
    """The least number of frames for a label: a repeated class needs a blank between."""
    cdef Py_ssize_t j, needed = c.n
    for j in range(1, c.n):
        needed += c.label[j] == c.label[j - 1]
    return needed


cdef bint has_value(const plan_t* p, const trellis_t* c) noexcept nogil:
    """Whether each frame of an example without an alignment has probabilities."""
    cdef Py_ssize_t t, since = 0
    cdef bint good = True
    for t in range(c.frames):
        if stopped(p, &since, c.classes):
            return False  # no cover: signals come by chance
        good = load_frame(p, c.first + t, c.classes, c.x, c.q, c.top, c.rest) and good
    return good


cdef void label_probabilities(trellis_t* c, Py_ssize_t t) noexcept nogil:
    """The probabilities of each label and of the blank at frame t."""
    cdef Py_ssize_t j
    for j in range(c.n):
        c.ym[j] = (c.x[c.label[j]] - c.top[t]) - c.rest[t]
    for j in range(c.n):
        c.ym[j] = probability(c.ym[j], &c.ye[j])
    c.blank_m = probability((c.x[c.blank] - c.top[t]) - c.rest[t], &c.blank_e)


cdef bint forward(const plan_t* p, trellis_t* c) noexcept nogil:
    """The forward recursion; False if a frame has no probabilities, or the call must end."""
    cdef Py_ssize_t t, j, size = c.size, since = 0
    cdef double* old = c.alpha
    cdef double* new
    cdef double a_m, a_e, b_m, b_e
    c.skip[0] = c.skip[c.n] = 0
    for j in range(1, c.n):
        c.skip[j] = c.label[j] != c.label[j - 1]
    # before the first frame only b_0 is possible, from which a_0 and b_0 come
    for j in range(4 * size):
        old[j] = 0
    for j in range(size):
        old[size + j] = NOTHING
        old[3 * size + j] = NOTHING
    old[2 * size + 1] = 1
    old[3 * size + 1] = 0
    for t in range(c.frames):
        if stopped(p, &since, c.classes + 4 * c.n):
            return False
        if not load_frame(p, c.first + t, c.classes, c.x, c.q, c.top + t, c.rest + t):
            return False
        label_probabilities(c, t)
        new = states_of(c, t + 1)
        new[0], new[size], new[2 * size], new[3 * size] = 0, NOTHING, 0, NOTHING
        forward_step(c.n, old + 1, old + size + 1, old + 2 * size + 1, old + 3 * size + 1, c.skip, c.ym, c.ye,
                     c.blank_m, c.blank_e,
                     new + 1, new + size + 1, new + 2 * size + 1, new + 3 * size + 1)
        old = new
    a_m, a_e, b_m, b_e = old[c.n], old[size + c.n], old[2 * size + c.n + 1], old[3 * size + c.n + 1]
    c.total_e = a_e if a_e > b_e else b_e
    c.total_m = shifted(a_m, a_e - c.total_e) + shifted(b_m, b_e - c.total_e)
    return True


cdef double loss_of(trellis_t* c) noexcept nogil:
    """-log of the label's probability, which is not 0."""
    cdef double loss
    c.total_m = normal(c.total_m, &c.total_e)
    # near 1 the logarithm keeps its digits
    if c.total_m > 1.4142135623730951:
        c.total_m *= .5
        c.total_e += 1
    loss = -(c.total_e * 0.6931471803691238 + fma(c.total_e, <double>1.9082149292705877e-10,
                                                  log_sum(c.total_m, <double>0)))
    return <double>0 if loss <= 0 else loss


cdef void frame_gradient(trellis_t* c, Py_ssize_t t) noexcept nogil:
    """softmax(x_t)_k - P(state k at t) for the classes k, to q."""
    cdef Py_ssize_t j, n = c.n, size = c.size, best = find(c.x, c.classes, c.top[t])
    cdef double* old = states_of(c, t + 1) + 1
    # So large an exponent is rounded, and forward in another way than backward.
    cdef bint far = c.total_e < -1e15
    cdef double total_m = c.total_m, total_e = c.total_e
    for j in range(c.classes):
        c.q[j] = exp_nonpositive((c.x[j] - c.top[t]) - c.rest[t])
    if far:
        total_of_frame(n, size, old, c.am, c.ae, c.bm, c.be, &total_m, &total_e)
    for j in range(n):
        c.ym[j] = shifted(old[j] * c.am[j] / total_m, old[size + j] + c.ae[j] - total_e)
    for j in range(n):
        c.q[c.label[j]] -= c.ym[j]
    for j in range(n + 1):
        c.ym[j] = shifted(old[2 * size + j] * c.bm[j] / total_m, old[3 * size + j] + c.be[j] - total_e)
    c.q[c.blank] -= sum_of(c.ym, n + 1)
    # the gradients of a frame sum to 0: that of the likeliest class, where 1 - p cancels, is the others'
    c.q[best] = 0
    c.q[best] = -sum_of(c.q, c.classes)


cdef bint backward(const plan_t* p, trellis_t* c, double factor, real_t* line) noexcept nogil:
    """The backward recursion, with the gradient of each frame; False if the call must end."""
    cdef Py_ssize_t t, j, n = c.n, since = 0
    for j in range(c.size):
        c.am[j] = c.bm[j] = 0
        c.ae[j] = c.be[j] = NOTHING
    c.bm[n], c.be[n] = 1, 0
    if n > 0:
        c.am[n - 1], c.ae[n - 1] = 1, 0
    for t in range(c.frames - 1, -1, -1):
        if stopped(p, &since, c.classes + 4 * n):
            return False  # no cover: signals come by chance
        gather(&p.inputs[FIRST], (c.first + t) * c.classes, c.classes, c.x)
        frame_gradient(c, t)
        for j in range(c.classes):
            line[j] = <real_t>(factor * c.q[j])
        if t > 0:
            label_probabilities(c, t)
            backward_step(n, c.am, c.ae, c.bm, c.be, c.skip, c.ym, c.ye, c.blank_m, c.blank_e)
        scatter(&p.outputs[GRAD], (c.first + t) * c.classes, c.classes, line)
    return True


cdef double sequence_loss(const plan_t* p, Py_ssize_t example, double factor, double* memory,
                          real_t* tag) noexcept nogil:
    """-log P of one example, and factor (softmax(x_t)_k - P(state k at t)) for its frames t and classes k."""
    cdef const sequences_t* s = <const sequences_t*>p.state
    cdef trellis_t c = trellis_of(p, example, memory)
    cdef real_t* line = <real_t*>c.line
    cdef real_t nan = <real_t>NAN, zero = 0
    cdef double impossible = 0 if s.zero_infinity else INFINITY, loss
    if frames_needed(&c) > c.frames:
        loss = impossible if has_value(p, &c) else NAN
        fill_frames(p, c.first, s.all_frames, zero if loss == loss else nan, line, c.classes)
        return loss
    if not forward(p, &c):
        fill_frames(p, c.first, s.all_frames, nan, line, c.classes)
        return NAN
    if c.total_m == 0:
        fill_frames(p, c.first, s.all_frames, zero, line, c.classes)
        return impossible
    loss = loss_of(&c)
    if not c.all_states:
        return loss
    if not backward(p, &c, factor, line):
        return NAN  # no cover: as above
    fill_frames(p, c.first + c.frames, s.all_frames - c.frames, zero, line, c.classes)
    return loss


cdef void sequence_rows(void* parameters, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m,
                        const real_t* w, real_t* l, real_t* buffers) noexcept nogil:
    """The losses of examples start to start + n."""
    cdef const sequences_t* s = <const sequences_t*>p.state
    cdef Py_ssize_t i
    for i in range(n):
        l[i] = <real_t>sequence_loss(p, start + i, p.grad_scale * (m[i] if m != NULL else <real_t>1), <double*>buffers,
                                     <real_t*>NULL)
        if w != NULL and w[i] == 0:
            fill_frames(p, (start + i) * s.all_frames, s.all_frames, <real_t>0, buffers, s.classes)


cdef Py_ssize_t measure_sequences(plan_t* p) noexcept nogil:
    if p.inputs[SECOND].size > MOST_BYTES // 64:
        return -1
    return sizeof(sequences_t) + (p.inputs[SECOND].size + 3 * p.size) * sizeof(int64_t)


cdef bint prepare_sequences(plan_t* p, complaint_t* complaint) noexcept nogil:
    """Copies the labels and lengths, so that the recursion reads checked numbers."""
    cdef sequences_t* s = <sequences_t*>p.state
    cdef Py_ssize_t k
    cdef double states, frames
    cdef watch_t* watch = p.watch
    cdef bint refused
    s.all_frames, s.classes = p.row_shape[0], p.row_shape[1]
    set_sequences(p.parameters, s)
    s.labels = <int64_t*>(s + 1)
    s.starts = s.labels + p.inputs[SECOND].size
    s.lengths = s.starts + p.size
    s.frames = s.lengths + p.size
    # No signal ends this part: lengths that are not copied yet would be garbage.
    p.watch = NULL
    refused = (load_lengths(p, THIRD, s.all_frames, s.frames, complaint)
               or load_labels(p, s, is_time_first(p.parameters), complaint))
    p.watch = watch
    if refused:
        return True
    s.most_frames = s.longest = 0
    for k in range(p.size):
        s.most_frames = max(s.most_frames, <Py_ssize_t>s.frames[k])
        # other examples need no buffers
        if s.lengths[k] <= s.frames[k]:
            s.longest = max(s.longest, <Py_ssize_t>s.lengths[k])
    # In double precision: the bytes may be too many for an index.
    states, frames = 4 * (s.longest + 2), s.most_frames
    states *= 2 + (frames + 1 if p.outputs[GRAD].data != NULL else <double>2)
    p.block = 1
    p.extra = <Py_ssize_t>min(<double>MOST_BYTES / 8, 8 * (3. * s.classes + 2 * frames + states + 16))
    p.work = p.size * s.most_frames * (s.classes + 4 * s.longest)
    return False


cdef bint load_lengths(const plan_t* p, int slot, Py_ssize_t longest, int64_t* to,
                       complaint_t* complaint) noexcept nogil:
    """A length for each example: the given one, or the longest possible."""
    cdef Py_ssize_t i, bad = -1
    if p.inputs[slot].data != NULL:
        bad = bad_integer(p, &p.inputs[slot], NULL, 0, p.size, 0, longest, NAN, to)
    for i in range(p.size if p.inputs[slot].data == NULL else 0):
        to[i] = longest
    complaint.slot, complaint.at = slot, bad
    return bad >= 0


cdef bint load_labels(plan_t* p, sequences_t* s, bint time_first, complaint_t* complaint) noexcept nogil:
    """Copies the labels of each example; finds their lengths if -1 ends them.

    An example left out may have a wrong label, which counts as empty.
    """
    cdef array_t a = p.inputs[SECOND]
    cdef bint ended = p.inputs[FOURTH].data == NULL
    cdef bint in_a_row = a.ndim == 1 and p.ndim > 0 and not ended
    cdef Py_ssize_t width = a.shape[a.ndim - 1], i, k, bad, at = 0
    if time_first and a.ndim == 2:
        width = a.shape[0]
        a.shape[0], a.shape[1] = a.shape[1], a.shape[0]
        a.stride[0], a.stride[1] = a.stride[1], a.stride[0]
    if load_lengths(p, FOURTH, width, s.lengths, complaint):
        return True
    complaint.slot, complaint.at = SECOND, -1
    if in_a_row and sum_up(p.size, s.lengths, width) != width:
        return True
    for i in range(p.size):
        s.starts[i] = at
        bad = bad_label(p, s, &a, at, s.lengths[i], ended, s.labels + at)
        if bad >= 0 and is_left_out(&p.inputs[WEIGHT], i):
            s.labels[at], k = -1, s.lengths[i]
            s.lengths[i] = 0
            at += k if in_a_row else width
            continue
        if bad >= 0:
            complaint.at = bad % width * p.size + i if time_first and a.ndim == 2 else bad
            return True
        at += s.lengths[i] if in_a_row else width
        k = 0
        while ended and k < width and s.labels[s.starts[i] + k] != -1:
            k += 1
        s.lengths[i] = k if ended else s.lengths[i]
    return False


cdef Py_ssize_t sum_up(Py_ssize_t n, const int64_t* a, Py_ssize_t most) noexcept nogil:
    """The sum of numbers that are each at most `most`, or one that is larger."""
    cdef Py_ssize_t i, total = 0
    for i in range(n):
        total += a[i]
        if total > most:
            break
    return total


cdef Py_ssize_t bad_label(const plan_t* p, const sequences_t* s, const array_t* a, Py_ssize_t start, Py_ssize_t n,
                          bint ended, int64_t* to) noexcept nogil:
    """Copies n ids from `start` on; returns the position of the first that is no id or the blank, -1 if none is."""
    cdef Py_ssize_t low = s.blank == 0, high = s.classes - 1 - (s.blank == s.classes - 1), bad, k
    cdef double also = -1 if ended else NAN
    bad = bad_integer(p, a, NULL, start, n, low, high, also, to)
    if bad >= 0:
        # those before it
        n = bad - start
        bad_integer(p, a, NULL, start, n, low, high, also, to)
    for k in range(n):
        if to[k] == s.blank:
            return start + k
    return bad


@cython.final
cdef class TemporalClassification(Kernel):
    """l = -log P(label), summed over the alignments with the frames."""
    cdef Py_ssize_t blank       # counted from the end where it is negative
    cdef bint time_first        # in the labels
    cdef bint zero_infinity     # a label without an alignment costs nothing

    def __cinit__(self, Py_ssize_t blank, bint time_first, bint zero_infinity):
        self.blank, self.time_first, self.zero_infinity = blank, time_first, zero_infinity

    cdef void fill(self) noexcept:
        self.table.rows[0] = <rows_t>sequence_rows[float]
        self.table.rows[1] = <rows_t>sequence_rows[double]
        self.table.measure, self.table.prepare = measure_sequences, prepare_sequences


cdef void set_sequences(void* parameters, sequences_t* s) noexcept nogil:
    s.blank = (<TemporalClassification>parameters).blank
    s.blank += s.classes if s.blank < 0 else 0
    s.zero_infinity = (<TemporalClassification>parameters).zero_infinity


cdef bint is_time_first(void* parameters) noexcept nogil:
    return (<TemporalClassification>parameters).time_first

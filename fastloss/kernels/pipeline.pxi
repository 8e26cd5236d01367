"""The pipeline: gather, the loss, weights, sums, scatter, for a block; blocks in tasks, tasks in threads."""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastloss._machine cimport (
    arithmetic, atomic_load, atomic_store, begin_team, compute_as, doubles_apart, end_streams, fetch_add, floats_apart,
    now, own_crew, prefetch_512, stream, team_runs,
)
from fastloss._math cimport bits_d, bits_f, from_bits_d, from_bits_f, real_t
from fastloss._plan cimport (
    BLOCK_BYTES, BUFFERS, CACHE_LINE, FIRST, FOURTH, GRAD, GRAD_WEIGHT, HEAD, INPUTS, OUTPUTS, OWN_BUFFERS, SECOND,
    SMALL_BYTES, STRIP_BYTES, THIRD, VALUE, WEIGHT, plan_t, watch_t,
)


cdef inline void multiply(real_t* a, const real_t* b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        a[i] *= b[i]


cdef inline real_t unless_zero(real_t w, real_t x) noexcept nogil:
    """x, but 0 where w is 0. By bits: gcc would turn a choice into a masked load, which is slower."""
    if real_t is float:
        return from_bits_f(bits_f(x) & -<uint32_t>(w != 0))
    else:
        return from_bits_d(bits_d(x) & -<uint64_t>(w != 0))


cdef inline void weigh_apart(apart_t a, const real_t* m, const real_t* w, Py_ssize_t n) noexcept nogil:
    """a_i *= m_i, and 0 where w_i is 0, whatever a_i is. Several vectors per step: the loop itself takes time."""
    cdef Py_ssize_t i = 0, k
    while i + LANES <= n:
        for k in range(LANES):
            a[i + k] = unless_zero(w[i + k], a[i + k] * m[i + k])
        i += LANES
    for k in range(i, n):
        a[k] = unless_zero(w[k], a[k] * m[k])


cdef inline void weigh(real_t* a, const real_t* m, const real_t* w, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    """Multiplies n elements of a from `at` on by m unless m is NULL; 0 where a weight in w is 0."""
    if w == NULL:
        if m != NULL:
            multiply(a + at, m + at, n)
    elif real_t is float:
        weigh_apart(<floats_apart>(a + at), m + at, w + at, n)
    else:
        weigh_apart(<doubles_apart>(a + at), m + at, w + at, n)


cdef inline void multiply_by(real_t* a, double factor, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef real_t c = <real_t>factor
    if c != 1:
        for i in range(n):
            a[i] *= c


cdef inline void set_all(real_t* a, real_t v, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        a[i] = v


cdef inline void put_sum(const plan_t* p, int kind, Py_ssize_t start, Py_ssize_t task, double scale, double sum,
                         real_t* tag) noexcept nogil:
    """Stores the sum of a run, or of a piece of a run."""
    if p.pieces:
        p.partial[kind][task] = sum
    else:
        put_total(&p.outputs[kind], start // p.run_length, scale * sum)


cdef void finish(const plan_t* p, int kind, Py_ssize_t start, Py_ssize_t n, Py_ssize_t task, double scale,
                 real_t* a) noexcept nogil:
    """Stores a block of results, in the result's array or in the sums."""
    cdef const char* data = p.outputs[kind].data
    cdef double* sums
    cdef Py_ssize_t i
    if not p.outputs[kind].summed:
        multiply_by(a, scale, n)
        if p.outputs[kind].past_cache and p.outputs[kind].halves:
            stream_halves(&p.outputs[kind], start, n, a)
        elif p.outputs[kind].past_cache:
            stream(data + start * <Py_ssize_t>sizeof(real_t), a, n * sizeof(real_t))
        elif not p.outputs[kind].in_place:
            scatter(&p.outputs[kind], start, n, a)
    elif p.pieces:
        put_sum(p, kind, start, task, scale, long_sum(a, n), a)
    elif p.run_length:
        for i in range(n // p.run_length):
            put_sum(p, kind, start + i * p.run_length, task, scale, lane_sum(a + i * p.run_length, p.run_length), a)
    else:
        sums = p.partial[kind] + task * 2 * p.outputs[kind].size
        accumulate(&p.outputs[kind], start, n, a, sums, sums + p.outputs[kind].size)


cdef inline real_t* place(const plan_t* p, int kind, Py_ssize_t start, real_t* buffer) noexcept nogil:
    """The address to which a block of results is written first."""
    if p.outputs[kind].data != NULL and p.outputs[kind].in_place and not p.outputs[kind].summed:
        return <real_t*>p.outputs[kind].data + start
    return buffer


cdef enum:
    LOOK_WORK = 1 << 18     # work between two looks at the clock: a millisecond at most
    # nanoseconds between two questions to Python, which may wait for the interpreter's lock
    PATIENCE = 50000000


cdef inline bint stopped(const plan_t* p, Py_ssize_t* since, Py_ssize_t work) noexcept nogil:
    """Whether the call must end here.

    Called before every piece of work; `since` is this thread's work since the last look at the clock.
    """
    since[0] += work
    if since[0] < LOOK_WORK or p.watch == NULL:
        return False
    if look(p.watch):
        return True
    since[0] = 0
    return False


cdef bint look(watch_t* w) noexcept nogil:
    """Whether a signal has ended the call. Only the calling thread asks Python, now and then; others never wait."""
    cdef int64_t next = atomic_load(&w.next), time
    if next >= 0 and threadid() == 0:
        time = now()
        if next == 0:
            next = time + PATIENCE
        elif time >= next:
            next = -1 if w.interrupted(w.state) else now() + PATIENCE
        atomic_store(&w.next, next)
    return next < 0


cdef inline void look_ahead(const plan_t* p, Py_ssize_t start, bint stores, real_t* tag) noexcept nogil:
    """Prefetches a strip of each input: the next of those read in place, one of the next block of halves.

    A store waits for its cache line, too: `stores` fetches the next strip of results written in place.
    """
    cdef const char* at
    cdef int kind
    for kind in range(INPUTS):
        if p.inputs[kind].data != NULL and p.inputs[kind].in_place:
            at = p.inputs[kind].data + start * <Py_ssize_t>sizeof(real_t) + p.ahead
            prefetch_512(at)
            if p.strip == STRIP_BYTES:
                prefetch_512(at + 512)
        elif p.inputs[kind].data != NULL and p.inputs[kind].halves:
            prefetch_512(p.inputs[kind].data + 2 * (start + p.block))
    for kind in range(GRAD_WEIGHT if stores else 0):
        if p.outputs[kind].data != NULL and p.outputs[kind].in_place and not p.outputs[kind].summed:
            at = p.outputs[kind].data + start * <Py_ssize_t>sizeof(real_t) + p.ahead
            prefetch_512(at)
            if p.strip == STRIP_BYTES:
                prefetch_512(at + 512)


cdef inline void compute(const plan_t* p, const real_t* x, const real_t* y, const real_t* q, real_t** out,
                         Py_ssize_t at, Py_ssize_t n, bint summed, bint fours, double* lane) noexcept nogil:
    """Computes elements `at` to at + n of a block. Losses to be summed go to the lanes, most without being stored."""
    cdef Py_ssize_t whole = n & -LANES if summed else 0, j
    if whole:
        p.sum(p.parameters, NULL, whole, at if fours else -1, p.grad_scale, x + at, y + at, out[GRAD] + at, lane)
    if whole == n:
        return
    evaluate_all(p.loop, p.parameters, n - whole, p.grad_scale, x + at + whole, y + at + whole, q + at + whole, out,
                 at + whole, p.has_third_hessian)
    for j in range(n - whole if summed else 0):
        lane[j] += out[VALUE][at + whole + j]


cdef void plain_blocks(const plan_t* p, Py_ssize_t start, Py_ssize_t end, Py_ssize_t task,
                       real_t* buffers) noexcept nogil:
    """block() for each block of `start` to `end`, where the loss's loop is all there is to do, as is_plain() says.

    If losses are summed, these are elements of one run, and each block is a task, of which `task` is the first.
    """
    cdef Py_ssize_t size = p.buffer // <Py_ssize_t>sizeof(real_t), n
    cdef double lane[LANES]
    cdef real_t* out[OUTPUTS]
    cdef Py_ssize_t step[OUTPUTS]
    cdef const real_t* x = <const real_t*>p.inputs[FIRST].data + start
    cdef const real_t* y = <const real_t*>p.inputs[SECOND].data + start
    cdef const real_t* q = <const real_t*>p.inputs[THIRD].data + start if p.inputs[THIRD].data != NULL else x
    cdef bint summed = p.pieces > 0
    cdef int kind
    out[VALUE] = place(p, VALUE, start, buffers + 3 * size)
    for kind in range(GRAD, GRAD_WEIGHT):
        out[kind] = place(p, kind, start, buffers + (4 + kind) * size)
    for kind in range(GRAD_WEIGHT):
        step[kind] = p.block if p.outputs[kind].data != NULL and not p.outputs[kind].summed else 0
    # fewer numbers than lanes are added in another order
    while end - start >= LANES:
        n = min(p.block, end - start)
        if summed:
            set_all(&lane[0], <double>0, LANES)
        compute(p, x, y, q, &out[0], 0, n, summed, by_fours(n, buffers), &lane[0])
        if summed:
            p.partial[VALUE][task] = add_lanes(&lane[0])
        for kind in range(GRAD_WEIGHT):
            out[kind] += step[kind]
        x, y, q = x + n, y + n, q + n
        start += n
        task += 1
    if start < end:
        block(p, start, end - start, task, buffers)


cdef enum:
    SUMMED = 1      # the values are in the lanes
    WEIGHED = 2     # the values are multiplied by their weights


cdef inline int elementwise(const plan_t* p, Py_ssize_t start, Py_ssize_t n, Py_ssize_t task, const real_t* m,
                            const real_t* w, real_t** out, double* lane, real_t* buffers) noexcept nogil:
    """Computes an elementwise loss and its derivatives; returns flags that say where the values are."""
    cdef Py_ssize_t size = p.buffer // <Py_ssize_t>sizeof(real_t), i = 0, k, done = 0, first
    # Half a block of each weighted array stays in the L1 cache.
    cdef Py_ssize_t half = BLOCK_BYTES // 2 // <Py_ssize_t>sizeof(real_t)
    cdef bint fours = p.pieces and by_fours(n, buffers)
    cdef Py_ssize_t strip = p.strip // <Py_ssize_t>sizeof(real_t) if p.ahead else half if w != NULL else n
    cdef int kind
    cdef real_t* x = fetch(&p.inputs[FIRST], start, n, buffers + 10 * size)
    cdef real_t* y = fetch(&p.inputs[SECOND], start, n, buffers + 11 * size)
    cdef real_t* q = fetch(&p.inputs[THIRD], start, n, buffers + 12 * size)
    cdef bint summed, weighed
    for kind in range(GRAD, GRAD_WEIGHT):
        out[kind] = place(p, kind, start, buffers + (4 + kind) * size)
    summed = p.sum != NULL and p.outputs[VALUE].data != NULL and n >= LANES and (p.pieces or n == p.run_length)
    if summed:
        set_all(lane, <double>0, LANES)
    # The gradient in the weights needs the values without weights.
    weighed = w != NULL and p.outputs[VALUE].data != NULL and p.outputs[GRAD_WEIGHT].data == NULL
    if q == NULL:
        # nobody reads it
        q = x
    while i < n:
        if p.ahead:
            look_ahead(p, start + i, p.stores_ahead and m == NULL and w == NULL, x)
        k = min(strip, n - i)
        compute(p, x, y, q, out, i, k, summed, fours, lane)
        i += k
        # Stream whole cache lines: the rest of the last one waits for the next strip.
        k = n if i == n else i - p.misaligned
        if weighed:
            weigh(out[VALUE], w, w, done, k - done)
        for kind in range(GRAD, GRAD_WEIGHT):
            if p.outputs[kind].data == NULL or p.outputs[kind].summed and i < n:
                continue
            # sums take a whole block
            first = 0 if p.outputs[kind].summed else done
            weigh(out[kind], m, w, first, k - first)
            finish(p, kind, start + first, k - first, task, 1, out[kind] + first)
        done = k
    return SUMMED * summed | WEIGHED * weighed


cdef real_t* times_vector(const plan_t* p, Py_ssize_t start, Py_ssize_t n, real_t* m, real_t* product,
                          real_t* buffer) noexcept nogil:
    """The factor of a Hessian times a vector: m and the vector."""
    cdef real_t* v = fetch(&p.inputs[FOURTH], start, n, buffer)
    if m == NULL:
        return v
    if m != product:
        memcpy(product, m, n * sizeof(real_t))
    multiply(product, v, n)
    return product


cdef inline void weight_gradients(const real_t* l, const real_t* head, const real_t* w, Py_ssize_t n,
                                  real_t* to) noexcept nogil:
    """The losses times their head_grad; 0 for an example of weight 0 with an infinite loss or none."""
    cdef Py_ssize_t i
    cdef real_t zero = 0
    if head == NULL:
        memcpy(to, l, n * sizeof(real_t))
    else:
        for i in range(n):
            to[i] = l[i] * head[i]
    if w != NULL:
        for i in range(n):
            to[i] = zero if w[i] == 0 and not to[i] - to[i] == 0 else to[i]


cdef inline void count_elements(const plan_t* p, Py_ssize_t start, Py_ssize_t n, real_t* to) noexcept nogil:
    """How much elements count in a weighted mean, apart from their weights, in double precision."""
    if real_t is double and p.counts != NULL:
        p.counts(p.parameters, p, start, n, to)
    else:
        set_all(to, <real_t>1, n)


cdef void block(const plan_t* p, Py_ssize_t start, Py_ssize_t n, Py_ssize_t task, real_t* buffers) noexcept nogil:
    """The pipeline for elements start to start + n of the unreduced loss: gather, the loss, weights, sums, scatter."""
    cdef Py_ssize_t size = p.buffer // <Py_ssize_t>sizeof(real_t), i
    cdef int state = 0
    cdef double lane[LANES]
    cdef real_t* out[OUTPUTS]
    cdef real_t* w = fetch(&p.inputs[WEIGHT], start, n, buffers)
    cdef real_t* head = fetch(&p.inputs[HEAD], start, n, buffers + size)
    cdef real_t* m = w if w != NULL else head
    if w != NULL and head != NULL:
        m = buffers + 2 * size
        memcpy(m, head, n * sizeof(real_t))
        weigh(m, w, w, 0, n)
    out[VALUE] = place(p, VALUE, start, buffers + 3 * size)
    if p.counts_only:
        count_elements(p, start, n, out[VALUE])
    elif p.rows != NULL:
        p.rows(p.parameters, p, start, n, m, w, out[VALUE], buffers + OWN_BUFFERS * size)
    else:
        if p.inputs[FOURTH].data != NULL:
            # no gradient in weights is wanted, whose buffer this is
            m = times_vector(p, start, n, m, buffers + 2 * size, buffers + 4 * size)
        state = elementwise(p, start, n, task, m, w, &out[0], &lane[0], buffers)
    if p.outputs[GRAD_WEIGHT].data != NULL:
        out[GRAD_WEIGHT] = place(p, GRAD_WEIGHT, start, buffers + 4 * size)
        weight_gradients(out[VALUE], head, w, n, out[GRAD_WEIGHT])
        finish(p, GRAD_WEIGHT, start, n, task, p.grad_scale, out[GRAD_WEIGHT])
    if state & SUMMED:
        put_sum(p, VALUE, start, task, p.value_scale, add_lanes(&lane[0]), buffers)
    elif p.outputs[VALUE].data != NULL:
        if w != NULL and not state & WEIGHED:
            weigh(out[VALUE], w, w, 0, n)
        finish(p, VALUE, start, n, task, p.value_scale, out[VALUE])


cdef void plain_tasks(const plan_t* p, Py_ssize_t task, Py_ssize_t last, real_t* buffers) noexcept nogil:
    """Tasks of a plan whose blocks are plain: those of neighbours at once."""
    cdef Py_ssize_t run, next, start, end
    while task < last:
        if p.pieces:
            run = task // p.pieces
            next = min(last, (run + 1) * p.pieces)
            start = run * p.run_length + (task - run * p.pieces) * p.block
            end = min((run + 1) * p.run_length, start + (next - task) * p.block)
        else:
            # the first task may be a short one
            next = last if task else 1
            start = max(<Py_ssize_t>0, task * p.task_elements - p.first_task_short_by)
            end = min(p.size, next * p.task_elements - p.first_task_short_by)
        plain_blocks(p, start, end, task, buffers)
        task = next


cdef void run_task(const plan_t* p, Py_ssize_t task, real_t* buffers) noexcept nogil:
    cdef Py_ssize_t start, end, since = 0
    if p.pieces:
        start = task // p.pieces * p.run_length
        end = start + p.run_length
        start += task % p.pieces * p.block
        end = min(end, start + p.block)
    else:
        start = max(<Py_ssize_t>0, task * p.task_elements - p.first_task_short_by)
        end = min(p.size, (task + 1) * p.task_elements - p.first_task_short_by)
    while True:
        block(p, start, min(p.block, end - start), task, buffers)
        start += p.block
        if start >= end or stopped(p, &since, p.block):
            return


cdef void run_in(const plan_t* p, Py_ssize_t task, Py_ssize_t last, char* memory, real_t* tag) noexcept nogil:
    cdef real_t* buffers = <real_t*>((<size_t>memory + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
    if p.plain:
        plain_tasks(p, task, last, buffers)
        return
    while task < last:
        if p.linear != NULL:
            run_linear(p, task, buffers)
        else:
            run_task(p, task, buffers)
        task += 1


cdef void run_small(const plan_t* p, Py_ssize_t task, Py_ssize_t last, real_t* tag) noexcept nogil:
    cdef char stack[BUFFERS * SMALL_BYTES + CACHE_LINE]
    run_in(p, task, last, &stack[0], tag)


cdef void run_tasks(const plan_t* p, Py_ssize_t task, Py_ssize_t last, Py_ssize_t thread, real_t* tag) noexcept nogil:
    """Runs tasks from `task` to `last`."""
    # A function of its own: run_small's buffers would take stack from threads that do not need them.
    if p.scratch == NULL:
        run_small(p, task, last, tag)
    else:
        run_in(p, task, last, p.scratch + thread * p.scratch_size, tag)


cdef void add_up(const plan_t* p, int kind, double scale, real_t* tag) noexcept nogil:
    """Adds the tasks' sums, in their order."""
    cdef Py_ssize_t j, k, size = p.outputs[kind].size
    cdef total_t total
    for j in range(size):
        total.sum = total.rest = 0
        if p.pieces:
            for k in range(p.pieces):
                add_to(&total, p.partial[kind][j * p.pieces + k])
        else:
            for k in range(p.tasks):
                add_to(&total, p.partial[kind][k * 2 * size + j])
                total.rest += p.partial[kind][(k * 2 + 1) * size + j]
        put_total(&p.outputs[kind], j, scale * total_of(&total))


cdef enum:
    BATCHES = 64    # of tasks, for each thread


cdef void work_off(const plan_t* p, int thread, real_t* tag) noexcept nogil:
    """The work of one thread: the tasks of its own range, then, if tasks are shared, tasks left in other ranges.

    From call to call a thread gets the same part of an array, which is still in its core's cache. And no thread waits
    for another that got its core late.
    """
    # An atomic operation waits for all stores before it, so many small tasks are taken in batches.
    cdef Py_ssize_t each = max(<Py_ssize_t>1, p.work // p.tasks), since = 0
    cdef Py_ssize_t task, end, batch = max(<Py_ssize_t>1, min(p.tasks // (BATCHES * p.threads), LOOK_WORK // each))
    cdef int k, owner
    if not p.shared:
        run_tasks(p, first_task(p, thread), first_task(p, thread + 1), thread, tag)
    for k in range(p.threads if p.shared else 0):
        owner = (thread + k) % p.threads
        end = first_task(p, owner + 1)
        task = fetch_add(&p.ranges[owner].next, batch)
        while task < end and not stopped(p, &since, batch * each):
            run_tasks(p, task, min(task + batch, end), thread, tag)
            task = fetch_add(&p.ranges[owner].next, batch)
    end_streams()


cdef Py_ssize_t first_task(const plan_t* p, int thread) noexcept nogil:
    """The first task of a thread's range, which is the end of the range before."""
    return p.tasks // p.threads * thread + min(<Py_ssize_t>thread, p.tasks % p.threads)


# Until this time calls use one thread, because a thread waited MISSED nanoseconds or more for a core.
cdef int64_t crowded_until = 0

cdef enum:
    MISSED = 500000
    FORGIVEN = 10           # times as long as the wait


cdef void run_threads(const plan_t* p, real_t* tag) noexcept nogil:
    """Runs all tasks in all threads. If one comes late for want of a core, later calls use one thread for a while.

    At the end all threads wait for each other. On busy cores that takes a time slice of the system, milliseconds, where
    a call takes microseconds.
    """
    cdef int thread
    cdef int64_t start = now(), control = arithmetic(), own, end, first
    cdef void* crew = own_crew()
    for thread in range(p.threads):
        p.ranges[thread].next = first_task(p, thread)
    # OpenMP may give fewer threads than asked for: others take their tasks.
    for thread in prange(p.threads, schedule="static", chunksize=1, num_threads=p.threads):
        team_runs(thread, crew)
        # OpenMP's threads keep the floating-point modes of whoever called first.
        own = compute_as(control)
        work_off(p, thread, tag)
        compute_as(own)
        p.ranges[thread].done = now()
    end = first = now()
    for thread in range(p.threads):
        first = min(first, p.ranges[thread].done)
    # With few or unequal tasks, a late end is no sign of a missing core.
    if end - first > max(<int64_t>MISSED, (first - start) // 4) and p.tasks >= 8 * p.threads and p.state == NULL:
        atomic_store(&crowded_until, end + FORGIVEN * (end - first))


cdef void run_as(const plan_t* p, real_t* tag) noexcept nogil:
    cdef Py_ssize_t task = 1, each, batch, since = 0
    cdef int kind
    if p.threads == 1:
        run_tasks(p, 0, 1, 0, tag)
        if p.tasks > 1:
            each = max(<Py_ssize_t>1, p.work // p.tasks)
            batch = max(<Py_ssize_t>1, LOOK_WORK // each)
            while task < p.tasks and not stopped(p, &since, min(batch, p.tasks - task) * each):
                run_tasks(p, task, min(task + batch, p.tasks), 0, tag)
                task += batch
            end_streams()
    else:
        run_threads(p, tag)
    if p.watch != NULL and atomic_load(&p.watch.next) < 0:
        return  # no cover: signals come by chance
    for kind in range(OUTPUTS):
        if p.partial[kind] != NULL:
            add_up(p, kind, p.value_scale if kind == VALUE else (p.grad_scale if kind == GRAD_WEIGHT else 1.), tag)


cdef void run(plan_t* p, int is_double) noexcept nogil:
    if p.threads > 1 and atomic_load(&crowded_until) and now() < atomic_load(&crowded_until):
        p.threads = 1
    if p.threads > 1:
        p.threads = begin_team(p.threads)
    if is_double:
        run_as[double](p, NULL)
    else:
        run_as[float](p, NULL)

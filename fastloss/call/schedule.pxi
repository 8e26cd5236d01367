"""How the work of a plan is cut into tasks, and run: blocks, threads, buffers, signals."""

cdef Py_ssize_t run_length(const array_t* a) noexcept:
    """How many neighbours each element of a reduced result adds up; 0 if they are no runs of neighbours."""
    cdef int last = a.ndim - 1, k
    # With axes merged, a run is the last axis.
    if a.stride[last] != 0:
        return 0 if a.shape[last] != 1 else 1
    for k in range(last):
        if a.stride[k] == 0:
            return 0
    return a.shape[last]


cdef int interrupted(void* state) noexcept nogil:
    """Lets Python's signal handlers run inside a nogil block; nonzero if one raised. The exception stays set."""
    cdef int failed
    PyEval_RestoreThread(<PyThreadState*>state)
    failed = PyErr_CheckSignals()
    PyEval_SaveThread()
    return failed


cdef int begin_watch(plan_t* p, watch_t* w) except -1:
    """Lets signals end a call that takes milliseconds or more. Only the main thread handles signals."""
    p.watch = NULL
    if p.work >= WATCHED and threading.get_ident() == threading.main_thread().ident:
        w.interrupted, w.state, w.next = interrupted, PyThreadState_Get(), 0
        p.watch = w
    return 0


cdef int end_watch(plan_t* p) except -1:
    """Raises the exception of a signal handler that ran meanwhile or runs now."""
    cdef bint watched = p.watch != NULL, ended = watched and p.watch.next < 0
    p.watch = NULL
    return -1 if ended or watched and PyErr_CheckSignals() else 0


cdef int execute(plan_t* p, bint is_double) except -1:
    """Cuts a plan into tasks, by its shape alone, and runs them."""
    cdef int k
    cdef Py_ssize_t itemsize = 8 if is_double else 4, sums = 0
    cdef bint has_sums = gather_sums(p, &sums, is_double)
    size_up(p, itemsize)
    cut(p, itemsize, has_sums, sums)
    p.threads = 1
    if p.tasks > 1 and p.work >= 2 * WORK_FOR_A_THREAD:
        p.threads = <int>min(<Py_ssize_t>threads(), min(p.tasks, p.work // WORK_FOR_A_THREAD))
    p.scratch = NULL
    for k in range(OUTPUTS):
        p.partial[k] = NULL
    try:
        if p.extra:
            get_buffers(p)
        if has_sums:
            get_sums(p)
        run_plan(p, is_double)
    finally:
        if p.scratch != NULL:
            free(p.scratch)
        for k in range(OUTPUTS if has_sums else 0):
            free(p.partial[k])
    return 0


cdef bint gather_sums(plan_t* p, Py_ssize_t* sums, bint is_double) except -1:
    """Counts the numbers of summed results of one shape; computes those of other shapes in separate runs.

    Otherwise the order of their sums would depend on what else is wanted. They come first, because results may
    overwrite inputs.
    """
    cdef int k, i
    cdef Py_ssize_t length
    cdef bint found = False
    cdef plan_t other
    p.run_length = 0
    for k in range(OUTPUTS):
        if p.outputs[k].data == NULL or not p.outputs[k].summed:
            continue
        length = run_length(&p.outputs[k])
        if not found or length and length == p.run_length:
            p.run_length = length
            sums[0] += p.outputs[k].size
            found = True
        else:
            other = p[0]
            for i in range(OUTPUTS):
                if i != k:
                    other.outputs[i].data = NULL
            p.outputs[k].data = NULL
            execute(&other, is_double)
    return found


cdef void cut(plan_t* p, Py_ssize_t itemsize, bint has_sums, Py_ssize_t sums) noexcept:
    """Chooses the number of tasks, and where each begins."""
    cdef Py_ssize_t chunks
    p.pieces = p.first_task_short_by = p.misaligned = 0
    p.plain = False
    if p.size > p.block:
        p.misaligned = off_a_cache_line(p, itemsize)
        p.plain = is_plain(p)
    p.task_elements = p.block
    if has_sums and p.run_length > p.block:
        p.pieces = ceil_div(p.run_length, p.block)
        p.tasks = p.size // p.run_length * p.pieces
    elif has_sums and p.run_length:
        p.task_elements = p.block // p.run_length * p.run_length
        p.tasks = ceil_div(p.size, p.task_elements)
    elif has_sums:
        # Sums of any shape: a few large tasks, each with sums of its own.
        chunks = CHUNKS if CHUNKS * sums <= max(p.size // 16, 8 * p.block) else 1
        p.task_elements = ceil_div(ceil_div(p.size, chunks), p.block) * p.block
        p.tasks = ceil_div(p.size, p.task_elements)
    else:
        # Blocks and strips then begin on a cache line.
        p.first_task_short_by, p.misaligned = p.misaligned, 0
        p.tasks = ceil_div(p.size + p.first_task_short_by, p.task_elements)


cdef bint is_plain(const plan_t* p) noexcept:
    """Whether a block takes the loss's loop alone: all is read and written in place, or summed without being stored."""
    cdef const array_t* a
    cdef int k
    if p.rows != NULL or p.counts_only or p.linear != NULL or p.ahead:
        return False
    for k in range(INPUTS):
        if p.inputs[k].data != NULL and (k >= FOURTH or not p.inputs[k].in_place):
            return False
    for k in range(OUTPUTS):
        a = &p.outputs[k]
        if a.data == NULL or k == VALUE and a.summed and p.sum != NULL and p.run_length > p.block:
            continue
        if k == GRAD_WEIGHT or a.summed or not a.in_place or k == VALUE and p.value_scale != 1:
            return False
    return True


cdef inline int get_buffers(plan_t* p) except -1:
    """Allocates the buffers for the blocks of all threads.

    malloc, not Python's: free-threaded Python's allocator overcommits, and the process is killed.
    """
    p.scratch_size = ceil_div(OWN_BUFFERS * p.buffer + p.extra + CACHE_LINE, CACHE_LINE) * CACHE_LINE
    if p.scratch_size <= PY_SSIZE_T_MAX // p.threads - <Py_ssize_t>sizeof(range_t):
        p.scratch = <char*>malloc((p.scratch_size + sizeof(range_t)) * p.threads)
    if p.scratch == NULL:
        raise MemoryError(f"no memory for {p.scratch_size} bytes of buffers for each of {p.threads} threads")
    p.ranges = <range_t*>(p.scratch + p.scratch_size * p.threads)
    return 0


cdef int get_sums(plan_t* p) except -1:
    """Allocates the sums of each task."""
    cdef int k
    cdef Py_ssize_t length
    for k in range(OUTPUTS):
        if p.outputs[k].data != NULL and p.outputs[k].summed and (p.pieces or not p.run_length):
            # Sums of any shape have a rest each.
            length = p.tasks if p.pieces else p.tasks * 2 * p.outputs[k].size
            p.partial[k] = <double*>calloc(length, sizeof(double))
            if p.partial[k] == NULL:
                raise MemoryError(f"no memory for {length} partial sums")
    return 0


cdef inline int run_plan(plan_t* p, bint is_double) except -1:
    """Runs the tasks, without Python's lock if they take long enough for others to want it."""
    cdef watch_t watch
    if p.work < WORK_FOR_A_THREAD:
        runner.run(p, is_double)
        return 0
    begin_watch(p, &watch)
    with nogil:
        runner.run(p, is_double)
    return end_watch(p)


cdef Py_ssize_t off_a_cache_line(const plan_t* p, Py_ssize_t itemsize) noexcept:
    """The elements from the start of a cache line to the first result written in place.

    Two streams of stores that each cross cache lines cost 2.5 times as much as two that do not.
    """
    cdef int k
    if p.rows != NULL or p.coupled != 1:
        return 0
    for k in range(OUTPUTS):
        if p.outputs[k].data != NULL and (p.outputs[k].in_place or p.outputs[k].past_cache):
            if p.outputs[k].past_cache and p.outputs[k].halves:
                itemsize = 2
            return <Py_ssize_t>(<size_t>p.outputs[k].data % CACHE_LINE) // itemsize
    return 0


cdef inline void size_up(plan_t* p, Py_ssize_t itemsize) noexcept:
    """Chooses the elements of a block, and the buffers for a block."""
    cdef Py_ssize_t row = p.row_length * itemsize, all = BLOCK_BYTES // itemsize
    cdef int k
    p.buffer = BLOCK_BYTES
    p.ahead = 0
    # A small array is in the caches: moving the last of one core's share to another takes longer than waiting.
    p.shared = p.rows != NULL or p.size * itemsize >= FAR_BYTES
    if p.size * max(p.row_length, <Py_ssize_t>1) * itemsize >= asked_from:
        # Fetch the next row while this one is worked on; the hardware foresees a long row by itself.
        p.ahead = AHEAD_BYTES if not p.row_length else row if row <= LONG_ROW_BYTES else 0
    p.strip = STRIP_BYTES
    if p.ahead:
        look_at_strips(p, itemsize)
    if p.extra:
        # A loss with buffers of its own has set the size of blocks already.
        return
    if p.lanes_over_rows:
        p.block = min(SHORT_ROWS, max(32, BLOCK_BYTES // 4 // p.row_length // 32 * 32))
        # besides the tiles: a label, a weight and a class for each row
        p.extra = p.block * (SHORT_TILES * row + (SHORT_NUMBERS + 3) * <Py_ssize_t>sizeof(double))
        return
    if p.row_length:
        p.block = max(1, all // p.row_length)
    else:
        p.block = max(1, all // p.coupled) * p.coupled
        p.buffer = max(p.buffer, p.block * itemsize)
    if p.rows != NULL:
        # a part of a row, and whole rows
        k = 0 if p.counts_only else p.row_buffers + tiles(p)
        p.extra = BLOCK_BYTES + k * max(row, p.buffer)
    elif p.size * itemsize <= SMALL_BYTES:
        p.buffer = SMALL_BYTES
    else:
        p.extra = (BUFFERS - OWN_BUFFERS) * p.buffer


cdef void look_at_strips(plan_t* p, Py_ssize_t itemsize) noexcept:
    """Says how blocks of large arrays are cut into strips, and how these are fetched ahead."""
    cdef int k
    # A light loss, and a result that no core's cache holds; a loss that waits for arithmetic would wait longer.
    p.stores_ahead = p.work == p.size and p.size * itemsize >= 2 * FAR_BYTES
    for k in range(OUTPUTS):
        if p.outputs[k].data != NULL and p.outputs[k].past_cache:
            p.strip = SHORT_STRIP_BYTES
    for k in range(INPUTS):
        p.inputs[k].halves = p.inputs[k].data != NULL and itemsize == 4 and are_halves(&p.inputs[k])


cdef int tiles(const plan_t* p) noexcept:
    """How many arrays a loss of rows may copy: up to the last one not read or written in place."""
    cdef int k, n = 0
    for k in range(WEIGHT):
        if p.inputs[k].data != NULL and not p.inputs[k].in_place and (p.inputs[k].has_rows or not p.row_length):
            n = k + 1
    for k in range(GRAD, GRAD_WEIGHT):
        if p.outputs[k].data != NULL and not (p.outputs[k].in_place and not p.outputs[k].summed):
            n = THIRD + k + 1
    return n

"""The interface between the call and the kernels.

The call (_core) fills a plan: its arrays over common axes, its work cut into tasks. The kernels (_kernels) run it.
"""

from libc.stdint cimport int32_t, int64_t

cdef enum:
    MAX_AXES = 32
    BLOCK_BYTES = 8192      # of one buffer: a dozen stay in the L2 cache, the few in use in L1
    STRIP_BYTES = 1024      # of one array, between two prefetches
    SHORT_STRIP_BYTES = 512     # shorter, so that writing results overlaps with reading
    BUFFERS = 13
    OWN_BUFFERS = 5         # the pipeline's share of these; the others are the loss's
    SMALL_BYTES = 512       # of one buffer; buffers of a call that needs no more are on the stack
    CACHE_LINE = 64
    SHORT_ROWS = 256        # most rows at once
    SHORT_TILES = 5         # arrays of short rows that a loss may need, turned
    SHORT_NUMBERS = 16      # doubles that it may need for each short row

# The arrays that a call reads: those of the loss in the order of its arguments, sample_weight, and head_grad. A vector
# that the Hessian is multiplied by is the third of a loss over rows with two others, else the fourth.
cdef enum:
    FIRST
    SECOND
    THIRD
    FOURTH
    WEIGHT
    HEAD
    INPUTS

# what a call writes: the value, the derivatives in the first input, and those in the others
cdef enum:
    VALUE
    GRAD
    HESS
    GRAD_SECOND
    GRAD_THIRD
    HESS_THIRD
    GRAD_WEIGHT
    OUTPUTS

# what a loop stores; each has a compiled loop
cdef enum:
    PASS_VALUE
    PASS_GRADIENT
    PASS_VALUE_GRADIENT
    PASS_GRADIENT_HESSIAN
    PASS_EVERYTHING
    PASS_SURROGATE      # all in the predictions, with the kernel's surrogate in place of the Hessian
    PASSES

# the type of elements, by kind and size: NumPy has several type numbers for the same
cdef enum:
    UINT8
    INT8
    UINT16
    INT16
    UINT32
    INT32
    UINT64
    INT64
    FLOAT16
    BFLOAT16
    FLOAT32
    FLOAT64
    LONGDOUBLE

# An array over the axes of the unreduced loss, and behind them the axes of a row, if it has rows. Neighbouring axes are
# joined where strides allow, axes of size 1 are left out. Elements are counted in C order of these axes.
cdef struct array_t:
    char* data              # NULL: the call does not have this array
    int type
    bint swapped            # of foreign byte order
    bint aligned
    bint in_place           # contiguous and of the loops' dtype: no buffers for its blocks
    bint halves             # fetched ahead or written past the cache: neighbours of 16 bits, where the loops have 32
    bint past_cache         # a result written past the cache, because it would not fit
    bint has_rows           # has a row for each element of the unreduced loss
    bint summed             # a result that is summed over the axes where its stride is 0
    Py_ssize_t size         # elements of the array itself
    int ndim                # at least 1
    Py_ssize_t shape[MAX_AXES + 1]
    Py_ssize_t stride[MAX_AXES + 1]     # bytes; 0 where broadcast

ctypedef void (*loop_t)(void* kernel, void* what, Py_ssize_t n, double scale, const void* x, const void* y,
                        const void* q, void* l, void* g, void* h, void* d, void* e, void* f) noexcept nogil

# Adds n losses to lanes, as evaluate_sum() says; their gradients, which overlay neither x nor y, to g.
ctypedef void (*sum_t)(void* kernel, void* what, Py_ssize_t n, Py_ssize_t at, double scale, const void* x,
                       const void* y, void* g, double* lane) noexcept nogil

# the tasks of a thread that none has taken yet; alone in its cache line, because each thread counts its own
cdef struct range_t:
    Py_ssize_t next
    int64_t done                # when the thread ran out of tasks, in nanoseconds
    Py_ssize_t padding[6]

# a watch for signals, which end a long call early
cdef struct watch_t:
    int (*interrupted)(void* state) noexcept nogil  # whether a signal raised an exception
    void* state                                     # of the calling thread; no other may ask
    # when to ask next, in nanoseconds; 0: not known yet; -1: a signal raised
    int64_t next

cdef struct plan_t

# Stores the losses of elements start to start + n in l, and their derivatives, times grad_scale and m, in their arrays.
# m is the weight times the head_grad; NULL: all are 1. w is the weight alone; NULL: no weights. Where w is 0, so are
# the derivatives.
ctypedef void (*rows_t)(void* parameters, const plan_t* plan, Py_ssize_t start, Py_ssize_t n, const void* m,
                        const void* w, void* l, void* buffers) noexcept nogil

# Stores how much elements start to start + n count in a weighted mean, apart from their weights.
ctypedef void (*counts_t)(void* parameters, const plan_t* plan, Py_ssize_t start, Py_ssize_t n,
                          double* counts) noexcept nogil

# why an input is refused
cdef struct complaint_t:
    int slot
    Py_ssize_t at                       # position of the number in C order; -1: the whole input

# A linear predictor in the place of the first input: rows of numbers times weights, a block of rows at a time. Nobody
# stores what it predicts, or the derivatives in that: they are multiplied by the same block of rows, and summed.
cdef struct linear_t:
    array_t x                   # rows of `columns` numbers; data is NULL where they are sparse
    bint narrow                 # these are float32 and contiguous, and the loops are of double
    const int64_t* begins       # sparse: where each row begins among the numbers, and where the last one ends
    const int32_t* places       # sparse: the column of each number
    const void* numbers         # sparse, in the loops' dtype
    Py_ssize_t columns
    Py_ssize_t outputs          # predictions of a row
    bint turned                 # rows are read column by column, 32 at a time
    Py_ssize_t each             # elements of the unreduced loss of a row
    # rows of weights for each output, and a number that is added; in the loops' dtype
    const void* weight
    const void* bias            # NULL: none
    bint derived                # derivatives are wanted
    const void* direction       # that the Hessian is multiplied by; NULL: the gradient is wanted
    const void* direction_bias
    bint has_product            # the loss takes the direction itself, as a vector that its Hessian is multiplied by
    double* sums                # of each task: the derivatives in the weights, in the biases, and the losses
    Py_ssize_t task_sums        # how many that are
    Py_ssize_t room             # where a thread's own memory begins behind its buffers, in bytes
    bint totals                 # the losses are summed

# A kernel as the call sees it. NULL stands for a function that the kernel does not need.
cdef struct kernel_t:
    void* parameters                    # the kernel object
    int inputs                          # that the formula reads
    bint has_third_hessian              # the third input is a prediction, too
    bint has_product                    # with a vector, the Hessian times it replaces the Hessian
    bint light                          # waits for memory, not for arithmetic
    loop_t loops[2][PASSES]             # float, double: of an elementwise loss; NULL: no surrogate
    # float, double: the sum alone, the sum with the gradient; NULL: storing the losses is as fast
    sum_t sums[2][2]
    rows_t rows[2]                      # float, double: of any other loss
    int row_buffers                     # the loss's own, each of a block or of a row, whichever is larger
    Py_ssize_t short_row_bytes          # rows up to this length lie with their axis first
    counts_t counts                     # NULL: each element counts as one
    # measures the work, and the bytes of the call's state; -1: more than an index can count
    Py_ssize_t (*measure)(plan_t* plan) noexcept nogil
    # fills the plan's state and chooses the size of blocks; returns whether it refuses an input
    bint (*prepare)(plan_t* plan, complaint_t* complaint) noexcept nogil
    int rounds                          # how often the tasks run
    # turns a copy of the plan into the plan of a round; returns whether anything is to do
    bint (*begin_round)(plan_t* plan, int round) noexcept nogil

cdef struct plan_t:
    Py_ssize_t size                     # elements of the unreduced loss
    int ndim                            # axes of the unreduced loss
    const Py_ssize_t* row_shape         # the sizes of a row's axes
    array_t inputs[INPUTS]
    array_t outputs[OUTPUTS]
    double value_scale
    double grad_scale
    bint plain                          # elementwise, nothing to gather, weigh or convert, and several blocks
    bint counts_only                    # each loss is its element's count: the sum is that of the weights
    bint surrogate                      # the Hessian is the kernel's surrogate

    const linear_t* linear              # what makes the first input; NULL: it is an array

    void* parameters                    # the kernel object
    void* state                         # the kernel's state for this call
    loop_t loop                         # elementwise losses: computes elements
    # elementwise losses with values only to be summed: sums without storing them; NULL: no such loop
    sum_t sum
    rows_t rows                         # all other losses: computes a block
    counts_t counts
    int row_buffers
    bint has_third_hessian
    watch_t* watch                      # NULL: the call is short, or not the main thread's

    Py_ssize_t row_length               # elements of a row; 0: elementwise
    Py_ssize_t coupled                  # neighbours in the unreduced loss that depend on each other
    bint lanes_over_rows                # rows lie with their axis first

    Py_ssize_t work                     # in elements of a light loss
    Py_ssize_t block                    # elements per block
    # distance in bytes from reading to prefetching; 0: all is in the cache
    Py_ssize_t ahead
    bint stores_ahead                   # whether prefetching, if there is any, is for results, too
    Py_ssize_t strip                    # bytes of one array between two prefetches
    # neighbours that each element of a summed result adds up; 0: no such runs
    Py_ssize_t run_length
    Py_ssize_t pieces                   # blocks per run, if a run needs several; else 0
    Py_ssize_t task_elements            # if pieces is 0
    # elements from the start of a cache line to the first result written in place
    Py_ssize_t misaligned
    # elements that the first task lacks, so that the results of others begin on a cache line
    Py_ssize_t first_task_short_by
    Py_ssize_t tasks
    int threads
    bint shared                         # a thread without tasks takes over tasks of others
    range_t* ranges                     # of each thread
    double* partial[OUTPUTS]            # sums per task, added in the order of tasks at the end
    Py_ssize_t buffer                   # bytes of one buffer
    Py_ssize_t extra                    # bytes that a loss needs behind the pipeline's buffers
    char* scratch                       # buffers for the threads; NULL: on the stack
    Py_ssize_t scratch_size             # bytes per thread

cdef struct runner_t:
    void (*run)(plan_t* plan, int is_double) noexcept nogil
    Py_ssize_t (*bad_integer)(const plan_t* plan, const array_t* a, const array_t* weight, Py_ssize_t start,
                              Py_ssize_t n, double low, double high, double also, int64_t* to) noexcept nogil
    void (*store)(const array_t* a, Py_ssize_t n, const void* source, int is_double) noexcept nogil

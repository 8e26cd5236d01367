"""What a call is to the loops: its arrays, over common axes, and how its work is cut into tasks. _core fills it, _kernels runs it."""

cdef enum:
    MAX_AXES = 32
    BLOCK_BYTES = 8192      # of one buffer: a dozen stay in the L2 cache, the few in use in L1
    BUFFERS = 12
    SMALL_BYTES = 512       # of one buffer of a call that needs no more: these are on the stack
    CACHE_LINE = 64
    SHORT_ROW = 32          # classes
    SHORT_ROWS = 256        # at once, at most

# the arrays that a call reads
cdef enum:
    PRED
    LABEL
    THIRD                   # pos_weight, or epsilon
    WEIGHT                  # sample_weight
    HEAD                    # head_grad
    INPUTS

# what a call writes
cdef enum:
    VALUE
    GRAD
    HESS
    LABEL_GRAD
    THIRD_GRAD
    WEIGHT_GRAD
    OUTPUTS

# what a loop stores; one compiled loop each
cdef enum:
    PASS_VALUE
    PASS_GRADIENT
    PASS_VALUE_GRADIENT
    PASS_GRADIENT_HESSIAN
    PASS_ALL_OF_PRED
    PASS_EVERYTHING
    PASSES

# what an element is, by kind and size: NumPy has several type numbers for one
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
    FLOAT32
    FLOAT64
    LONGDOUBLE

cdef struct array_t:
    char* data              # NULL: the call does not have this array
    int type
    bint swapped            # of foreign byte order
    bint aligned
    bint direct             # contiguous and of the loops' dtype: blocks are read and written in place
    bint rows               # has the class axis
    bint reduced            # a result that is summed over the axes where its stride is 0
    Py_ssize_t size         # elements
    int ndim                # a reduced result's own axes: were they the plan's, other arrays would decide on its sums' order
    Py_ssize_t shape[MAX_AXES + 1]
    Py_ssize_t stride[MAX_AXES + 1]     # bytes; 0 where broadcast; behind the plan's axes the class axis of what has one

ctypedef void (*loop_t)(void* kernel, void* what, Py_ssize_t n, double scale, const void* x, const void* y, const void* q,
                        void* l, void* g, void* h, void* d, void* e) noexcept nogil

cdef struct plan_t:
    int ndim                            # axes of the unreduced loss, merged where every array allows; at least 1
    Py_ssize_t shape[MAX_AXES + 1]      # behind them the class axis
    Py_ssize_t size                     # elements of the unreduced loss
    array_t inputs[INPUTS]
    array_t outputs[OUTPUTS]
    double value_scale
    double grad_scale
    bint weights_only                   # the loss is 1 (times its class weight): the sum is that of the weights

    loop_t loop                         # of an elementwise loss
    void* kernel

    Py_ssize_t classes                  # 0: elementwise. Else pred has rows of so many logits, and a loss is one row's
    bint sparse                         # the label is a class id
    bint short                          # rows are so short that vector lanes run over rows
    bint from_logits                    # pred holds log-probabilities
    bint has_ignore
    double ignore
    double smoothing
    const double* class_weight

    Py_ssize_t block                    # elements per block
    Py_ssize_t span                     # every reduced result is the sum over runs of so many elements; 0: of some other shape
    Py_ssize_t pieces                   # blocks per run, where a run does not fit one; else 0
    Py_ssize_t step                     # elements per task, where pieces is 0
    Py_ssize_t tasks
    int threads
    double* partial[OUTPUTS]            # sums per task, added in their order at the end
    Py_ssize_t buffer                   # bytes of one buffer
    char* scratch                       # buffers for the threads; NULL: on the stack
    Py_ssize_t scratch_size             # bytes per thread

cdef struct kernel_t:
    void* kernel
    int inputs
    loop_t loops[2][PASSES]             # float, double

cdef struct runner_t:
    void (*run)(plan_t* plan, int is_double) noexcept nogil
    Py_ssize_t (*bad_label)(const plan_t* plan) noexcept nogil

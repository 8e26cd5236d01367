"""The call of a loss: arguments, shapes, weights, reductions, results. Written once, for every loss."""

import inspect
import math
import operator

import numpy as np

cimport numpy as cnp
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from cpython.pycapsule cimport PyCapsule_GetPointer

from fastloss import _isa
from fastloss._plan cimport (
    BLOCK_BYTES, CACHE_LINE, FLOAT16, FLOAT32, FLOAT64, GRAD, HEAD, HESS, INPUTS, INT8, INT16, INT32, INT64, LABEL,
    LABEL_GRAD, LONGDOUBLE, MAX_AXES, OUTPUTS, PASS_ALL_OF_PRED, PASS_EVERYTHING, PASS_GRADIENT, PASS_GRADIENT_HESSIAN,
    PASS_VALUE, PASS_VALUE_GRADIENT, PRED, SHORT_ROW, SHORT_ROWS, SMALL_BYTES, THIRD, THIRD_GRAD, UINT8, UINT16, UINT32, UINT64, VALUE, WEIGHT, WEIGHT_GRAD,
    array_t, kernel_t, plan_t, runner_t,
)
from fastloss._threads cimport threads

cnp.import_array()

cdef runner_t* runner = <runner_t*>PyCapsule_GetPointer(_isa.kernels.get_runner(), "fastloss.runner")

REDUCTIONS = ("example", "none", "sum", "mean", "weighted_mean")
cdef enum:
    EXAMPLE
    NONE
    SUM
    MEAN
    WEIGHTED_MEAN

# what a method returns
cdef enum:
    WANT_VALUE = 1
    WANT_GRAD = 2
    WANT_HESS = 4

cdef enum:
    WORK_FOR_A_THREAD = 32768   # elements
    CHUNKS = 16


# a negative code: no real number
cdef int kind_of(cnp.ndarray a) noexcept:
    cdef int type = cnp.PyArray_TYPE(a)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(a)
    if cnp.PyTypeNum_ISFLOAT(type):
        return FLOAT32 if size == 4 else (FLOAT64 if size == 8 else (FLOAT16 if size == 2 else LONGDOUBLE))
    if cnp.PyTypeNum_ISSIGNED(type):
        return INT64 if size == 8 else (INT32 if size == 4 else (INT16 if size == 2 else INT8))
    if cnp.PyTypeNum_ISUNSIGNED(type):
        return UINT64 if size == 8 else (UINT32 if size == 4 else (UINT16 if size == 2 else UINT8))
    return UINT8 if cnp.PyTypeNum_ISBOOL(type) else -1


cdef cnp.ndarray as_array(x, str name):
    """x as an array of real numbers with few enough axes; whatever NumPy makes an array of is good."""
    cdef cnp.ndarray a
    if cnp.PyArray_CheckExact(x):
        a = x
    elif isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array, whose mask would be dropped; fill it, and give masked examples a sample_weight of 0")
    else:
        try:
            a = np.asarray(x)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be an array of real numbers, got {type(x).__name__}: {error}") from None
    if kind_of(a) < 0:
        raise TypeError(f"{name} must be an array of real numbers, got dtype {a.dtype}")
    if cnp.PyArray_NDIM(a) > MAX_AXES:
        raise ValueError(f"{name} must have at most {MAX_AXES} axes, got {cnp.PyArray_NDIM(a)}")
    return a


cdef str shape_text(cnp.ndarray a):
    return str(tuple([a.shape[i] for i in range(a.ndim)]))


cdef bint has_shape(cnp.ndarray a, const Py_ssize_t* shape, int n) noexcept:
    cdef int k
    if cnp.PyArray_NDIM(a) != n:
        return False
    for k in range(n):
        if a.shape[k] != shape[k]:
            return False
    return True


cdef void describe(array_t* d, cnp.ndarray a, const int* axes, int n, bint rows) noexcept:
    """What the loops need to know of an array whose axis axes[k] lies along the plan's axis k; -1: along none."""
    cdef int k
    d.data = cnp.PyArray_BYTES(a)
    d.type = kind_of(a)
    d.swapped = not cnp.PyArray_ISNOTSWAPPED(a)
    d.aligned = cnp.PyArray_ISALIGNED(a)
    d.reduced = False
    d.rows = rows
    d.size = cnp.PyArray_SIZE(a)
    for k in range(n):
        d.stride[k] = a.strides[axes[k]] if axes[k] >= 0 and a.shape[axes[k]] > 1 else 0


cdef bint match_squeezed(cnp.ndarray a, const Py_ssize_t* shape, int n, int* axes) noexcept:
    """Whether a has the n axes of shape but for axes of size 1; fills in which lies along which."""
    cdef int i = 0, k
    cdef int ndim = cnp.PyArray_NDIM(a)
    for k in range(n):
        axes[k] = -1
        if shape[k] == 1:
            continue
        while i < ndim and a.shape[i] == 1:
            i += 1
        if i == ndim or a.shape[i] != shape[k]:
            return False
        axes[k] = i
        i += 1
    while i < ndim and a.shape[i] == 1:
        i += 1
    return i == ndim


cdef bint match_broadcast(cnp.ndarray a, const Py_ssize_t* shape, int n, int* axes) noexcept:
    """Whether a broadcasts to shape without enlarging it."""
    cdef int k, shift = n - cnp.PyArray_NDIM(a)
    if shift < 0:
        return False
    for k in range(n):
        axes[k] = k - shift if k >= shift else -1
        if axes[k] >= 0 and a.shape[axes[k]] != shape[k] and a.shape[axes[k]] != 1:
            return False
    return True


cdef int merge(int ndim, Py_ssize_t* shape, array_t** arrays, int n) noexcept:
    """Drops axes of size 1 and joins neighbours that every array crosses in one stride; returns how many are left, at least 1."""
    cdef int k, m = 0, i
    cdef bint joined
    for k in range(ndim):
        if shape[k] == 1:
            continue
        joined = m > 0
        for i in range(n):
            if joined and arrays[i].stride[m - 1] != arrays[i].stride[k] * shape[k]:
                joined = False
        if joined:
            m -= 1
            shape[m] *= shape[k]
        else:
            shape[m] = shape[k]
        for i in range(n):
            arrays[i].stride[m] = arrays[i].stride[k]
        m += 1
    if m == 0:
        shape[0] = 1
        for i in range(n):
            arrays[i].stride[0] = 0
        m = 1
    return m


cdef void merge_axes(plan_t* p) noexcept:
    """Makes the axes few and long, those of all arrays but the reduced results in common."""
    cdef array_t* arrays[INPUTS + OUTPUTS]
    cdef Py_ssize_t class_stride[INPUTS + OUTPUTS]
    cdef array_t* a
    cdef int n = 0, k, i, ndim
    for k in range(INPUTS + OUTPUTS):
        a = &p.inputs[k] if k < INPUTS else &p.outputs[k - INPUTS]
        if a.data == NULL:
            continue
        if a.reduced:
            for i in range(p.ndim):
                a.shape[i] = p.shape[i]
            a.ndim = merge(p.ndim, a.shape, &a, 1)
        else:
            class_stride[n] = a.stride[p.ndim] if a.rows else 0
            arrays[n] = a
            n += 1
    ndim = merge(p.ndim, p.shape, arrays, n)
    p.shape[ndim] = p.classes
    for i in range(n):
        if arrays[i].rows:
            arrays[i].stride[ndim] = class_stride[i]
    p.ndim = ndim


cdef bint is_direct(const plan_t* p, const array_t* a, int real) noexcept:
    cdef Py_ssize_t expected = 8 if real == FLOAT64 else 4
    cdef int k
    if a.type != real or a.swapped or not a.aligned:
        return False
    for k in range(p.ndim if a.rows else p.ndim - 1, -1, -1):
        if p.shape[k] != 1 and a.stride[k] != expected:
            return False
        expected *= p.shape[k]
    return True


cdef Py_ssize_t run_length(const array_t* a) noexcept:
    """How many neighbours a reduced result adds up to one element; 0 where its elements are not so many runs."""
    cdef int last = a.ndim - 1, k
    # merged, a run is the last axis
    if a.stride[last] != 0:
        return 0 if a.shape[last] != 1 else 1
    for k in range(last):
        if a.stride[k] == 0:
            return 0
    return a.shape[last]


cdef Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept:
    return (a + b - 1) // b


cdef int execute(plan_t* p, bint is_double) except -1:
    """Cuts a plan into tasks, which depend on its shape alone, and runs them."""
    cdef int real = FLOAT64 if is_double else FLOAT32, k, i
    cdef Py_ssize_t itemsize = 8 if is_double else 4, sums = 0, chunks, length, row
    cdef bint has_reduced = False
    cdef plan_t other
    p.span = 0
    for k in range(OUTPUTS):
        if p.outputs[k].data == NULL or not p.outputs[k].reduced:
            continue
        length = run_length(&p.outputs[k])
        if not has_reduced or length and length == p.span:
            p.span = length
            sums += p.outputs[k].size
            has_reduced = True
        else:
            # sums of another shape are taken in another order: in a run of their own, or they would depend on what
            # else was asked for. It comes first, for the results may lie over the inputs.
            other = p[0]
            for i in range(OUTPUTS):
                if i != k:
                    other.outputs[i].data = NULL
            p.outputs[k].data = NULL
            execute(&other, is_double)
    for k in range(INPUTS):
        if p.inputs[k].data != NULL:
            p.inputs[k].direct = is_direct(p, &p.inputs[k], real)
    for k in range(OUTPUTS):
        p.partial[k] = NULL
        if p.outputs[k].data != NULL:
            p.outputs[k].direct = is_direct(p, &p.outputs[k], real)
    p.block = BLOCK_BYTES // itemsize
    p.short = 0 < p.classes <= SHORT_ROW and p.sparse and p.smoothing == 0 and not p.from_logits
    if p.short:
        p.block = min(SHORT_ROWS, max(32, BLOCK_BYTES // 4 // p.classes // 32 * 32))
    elif p.classes:
        p.block = max(1, p.block // p.classes)
    p.pieces = 0
    p.step = p.block
    if has_reduced and p.span > p.block:
        p.pieces = ceil_div(p.span, p.block)
        p.tasks = p.size // p.span * p.pieces
    elif has_reduced and p.span:
        p.step = p.block // p.span * p.span
        p.tasks = ceil_div(p.size, p.step)
    elif has_reduced:
        # sums of any shape: a few large tasks, each with its own
        chunks = CHUNKS if CHUNKS * sums <= max(p.size // 16, 8 * p.block) else 1
        p.step = ceil_div(ceil_div(p.size, chunks), p.block) * p.block
        p.tasks = ceil_div(p.size, p.step)
    else:
        p.tasks = ceil_div(p.size, p.step)
    p.threads = 1
    chunks = p.size * max(p.classes, 1) // WORK_FOR_A_THREAD
    if chunks > 1 and p.tasks > 1:
        p.threads = <int>min(<Py_ssize_t>threads(), min(p.tasks, chunks))
    p.scratch = NULL
    row = p.classes * itemsize
    if not p.classes and p.size * itemsize <= SMALL_BYTES:
        p.buffer = SMALL_BYTES
    else:
        # five buffers for a block, one for a part of a row, five tiles of rows, and two rows; that is room for BUFFERS too
        p.buffer = BLOCK_BYTES
        p.scratch_size = 6 * BLOCK_BYTES + 7 * max(row, <Py_ssize_t>BLOCK_BYTES) + CACHE_LINE
        p.scratch_size = ceil_div(p.scratch_size, CACHE_LINE) * CACHE_LINE
        p.scratch = <char*>PyMem_RawMalloc(p.scratch_size * p.threads)
        if p.scratch == NULL:
            raise MemoryError(f"{p.scratch_size * p.threads} bytes of buffers")
    try:
        for k in range(OUTPUTS):
            if p.outputs[k].data != NULL and p.outputs[k].reduced and (p.pieces or not p.span):
                length = p.tasks if p.pieces else p.tasks * p.outputs[k].size
                p.partial[k] = <double*>PyMem_RawCalloc(length, sizeof(double))
                if p.partial[k] == NULL:
                    raise MemoryError(f"{length} partial sums")
        if p.size * max(p.classes, 1) < WORK_FOR_A_THREAD:
            runner.run(p, is_double)
        else:
            with nogil:
                runner.run(p, is_double)
    finally:
        PyMem_RawFree(p.scratch)
        for k in range(OUTPUTS):
            PyMem_RawFree(p.partial[k])
    return 0


cdef cnp.ndarray new_result(out, int ndim, const Py_ssize_t* shape, int real, str name):
    """The array for a result: a new one, or the caller's, if it fits."""
    cdef cnp.ndarray a
    if out is None:
        return cnp.PyArray_SimpleNew(ndim, <cnp.npy_intp*>shape, cnp.NPY_DOUBLE if real == FLOAT64 else cnp.NPY_FLOAT)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out for the {name} must be an array or None, got {type(out).__name__}")
    a = out
    dtype = np.dtype(np.float64 if real == FLOAT64 else np.float32)
    if a.dtype != dtype:
        raise TypeError(f"out for the {name} must have dtype {dtype}, got {a.dtype.str if a.dtype.newbyteorder() == dtype else a.dtype}")
    if not has_shape(a, shape, ndim):
        raise ValueError(f"out for the {name} must have shape {shape_tuple(shape, ndim)}, got {shape_text(a)}")
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"out for the {name} is read-only")
    return a


cdef bint same_layout(const plan_t* p, const array_t* a, const array_t* b) noexcept:
    cdef int k
    if a.data != b.data or a.type != b.type or a.swapped != b.swapped or a.rows != b.rows:
        return False
    for k in range(p.ndim + (1 if a.rows else 0)):
        if p.shape[k] != 1 and a.stride[k] != b.stride[k]:
            return False
    return True


cdef bint overlap(a, b):
    """Whether two arrays share memory; a question too hard to settle counts as yes."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=100_000)
    except np.exceptions.TooHardError:
        return True


RESULT_NAMES = ("value", "gradient", "Hessian", "gradient of the label", "gradient of the third input", "gradient of sample_weight")
cdef tuple GRADIENT_OF = (GRAD, LABEL_GRAD, WEIGHT_GRAD, THIRD_GRAD)   # by the input's position in the call


cdef int check_overlaps(const plan_t* p, list results, tuple inputs, out_given) except -1:
    """The caller's buffers may not share memory with each other, nor with an input, unless element lies exactly over element."""
    cdef int k, i
    for k in range(OUTPUTS):
        if results[k] is None or not out_given[k]:
            continue
        for i in range(k + 1, OUTPUTS):
            if results[i] is not None and overlap(results[k], results[i]):
                raise ValueError(f"out for the {RESULT_NAMES[k]} and for the {RESULT_NAMES[i]} share memory")
        for i, (name, a) in enumerate(inputs):
            if a is None or not overlap(results[k], a):
                continue
            # a block's inputs are read before its results are written, but for the weights
            if i < WEIGHT and not p.outputs[k].reduced and same_layout(p, &p.outputs[k], &p.inputs[i]):
                continue
            raise ValueError(f"out for the {RESULT_NAMES[k]} shares memory with {name}, which it would overwrite before it is read")
    return 0


cdef dict signatures = {}


cdef tuple arguments_of(type cls, tuple args, dict kwargs):
    """The constructor's arguments, by name and with defaults: what repr, ==, hash and pickle are made of."""
    signature = signatures.get(cls)
    if signature is None:
        signature = signatures[cls] = inspect.signature(cls)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return tuple([(name, frozen(value)) for name, value in bound.arguments.items()])


def frozen(value):
    """A sequence of numbers as a tuple, which nobody changes and which compares; anything else as it is."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or np.ndim(value) != 1:
        return value
    return tuple(np.asarray(value).tolist())


def rebuild(cls, arguments):
    """Unpickles a loss."""
    return cls(**dict(arguments))


cdef double finite(str name, x) except? -1:
    """x as a float; NaN and infinities are refused, as is what is no number."""
    try:
        if isinstance(x, (str, bytes)):
            raise TypeError
        value = float(x)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {x!r}") from None
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {x!r}")
    return value


def number(name, x, above=None, below=None):
    """A constructor's argument as a float, strictly between `above` and `below`."""
    value = finite(name, x)
    if above is not None and not value > above or below is not None and not value < below:
        bounds = [f"greater than {above}"] * (above is not None) + [f"less than {below}"] * (below is not None)
        raise ValueError(f"{name} must be {' and '.join(bounds)}, got {x!r}")
    return value


def flag(name, x):
    """A constructor's argument as a bool."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    raise TypeError(f"{name} must be True or False, got {x!r}")


def integer(name, x, largest=2**31 - 1):
    """A constructor's argument as an int of at most that absolute value."""
    if isinstance(x, (bool, np.bool_)) or not hasattr(x, "__index__"):
        raise TypeError(f"{name} must be an integer, got {x!r}")
    value = operator.index(x)
    if abs(value) > largest:
        raise ValueError(f"{name} must be at most {largest} in absolute value, got {value}")
    return value


cdef int axis_number(str name, int axis, int ndim) except -1:
    """An axis counted from the front; a scalar counts as having one."""
    cdef int n = max(ndim, 1)
    if not -n <= axis < n:
        raise ValueError(f"{name} must be between {-n} and {n - 1} for a pred with {ndim} axes, got {axis}")
    return axis + n if axis < 0 else axis


cdef class Loss:
    """The base of all losses: everything of a call that is not the formula.

    A loss object holds its parameters and nothing else: it is immutable, hashable, comparable, picklable, and may be
    called from many threads at once. Subclasses name the formula.

    Every loss takes, keyword-only, ``reduction``: "example" is the mean over every axis but ``batch_axis``, a value for
    each example; "none" leaves the value of each element, of each row for the losses over classes; "sum" and "mean" are
    those of all; "weighted_mean" is the sum divided by the sum of the weights. The mean of nothing, or of weights that
    sum to 0, is 0.

    Every method takes the inputs by position or name:

    - pred, float32 or float64 (float16 is computed in float32, integers and lists in float64); results have its dtype.
    - label, of any real dtype, which has pred's shape, or that without axes of size 1.
    - sample_weight: an array with one axis is one weight per example, any other must broadcast to the unreduced loss.

    and, keyword-only:

    - out: the arrays for the results, in the structure of what is returned, None for those to allocate. One may be the
      pred or label that it replaces; any other overlap is an error. After an error they are untouched.
    - head_grad, where a gradient is returned: what flows back into the value, of its shape or a number; 1 by default.
    - wrt, of ``grad`` and ``value_and_grad``: the name of the input to differentiate with respect to, or a tuple of
      them, for which a tuple of gradients is returned; "pred", the first input, by default. A gradient has its input's
      shape. All come from one pass, but for one in weights that are broadcast in another way than the value is
      reduced, which takes one of its own.

    Raises TypeError for what holds no real numbers and for unknown arguments, ValueError for shapes and labels that do
    not fit. A NaN spoils its own example and the totals that contain it.
    """

    inputs = ("pred", "label", "sample_weight")
    fixed = ()      # inputs that nothing is differentiated with respect to

    cdef readonly tuple arguments
    cdef tuple names
    cdef object kernel_object, other_kernel_object, class_weight
    cdef kernel_t* kernel           # for calls without the third input
    cdef kernel_t* other_kernel     # for calls with it
    cdef double third_default
    cdef double weight
    cdef int batch_axis, reduction, axis
    cdef bint has_classes           # along that axis; else the loss is elementwise
    cdef bint sparse, from_logits, has_ignore
    cdef double ignore, smoothing

    def __cinit__(self, *args, **kwargs):
        if type(self) in (Loss, RowLoss):
            raise TypeError(f"{type(self).__name__} is abstract: build one of its subclasses")
        self.arguments = arguments_of(type(self), args, kwargs)

    def __init__(self, kernel, weight, batch_axis, reduction, *, other_kernel=None, third_default=1.0):
        if self.kernel != NULL or self.has_classes:
            raise TypeError("a loss is immutable: build a new one")
        self.names = type(self).inputs
        if isinstance(weight, (np.ndarray, list, tuple)):
            raise TypeError(f"weight must be a number, got {type(weight).__name__}; weights per example are given in the call, as sample_weight")
        self.weight = 1 if weight is None else finite("weight", weight)
        self.batch_axis = integer("batch_axis", batch_axis)
        if not isinstance(reduction, str) or reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
        self.reduction = REDUCTIONS.index(reduction)
        self.third_default = third_default
        self.kernel_object, self.other_kernel_object = kernel, other_kernel
        if kernel is not None:
            self.kernel = <kernel_t*>PyCapsule_GetPointer(_isa.kernels.table(kernel), "fastloss.kernel")
            self.other_kernel = self.kernel
        if other_kernel is not None:
            self.other_kernel = <kernel_t*>PyCapsule_GetPointer(_isa.kernels.table(other_kernel), "fastloss.kernel")

    def __getattr__(self, name):
        for argument, value in self.arguments:
            if argument == name:
                return value
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join([f'{name}={value!r}' for name, value in self.arguments])})"

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self.arguments == (<Loss>other).arguments

    def __hash__(self):
        return hash((type(self), self.arguments))

    def __reduce__(self):
        return rebuild, (type(self), self.arguments)

    def __call__(self, *inputs, **options):
        """Return the loss."""
        return self.evaluate(inputs, options, WANT_VALUE)

    def grad(self, *inputs, **options):
        """Return the gradient of the sum of the value, or of head_grad times the value, with respect to `wrt`."""
        return self.evaluate(inputs, options, WANT_GRAD)

    def value_and_grad(self, *inputs, **options):
        """Return the value and the gradient, computed in one pass over memory."""
        return self.evaluate(inputs, options, WANT_VALUE | WANT_GRAD)

    def grad_and_hess(self, *inputs, **options):
        """Return the gradient and the diagonal of the Hessian in the first input, computed in one pass over memory."""
        return self.evaluate(inputs, options, WANT_GRAD | WANT_HESS)

    def value_grad_and_hess(self, *inputs, **options):
        """Return the value, the gradient and the diagonal of the Hessian in the first input, computed in one pass."""
        return self.evaluate(inputs, options, WANT_VALUE | WANT_GRAD | WANT_HESS)

    cdef evaluate(self, tuple args, dict options, int want):
        """One call: arrays and their axes, results, the plan, the run."""
        cdef plan_t p, whole
        cdef int items[MAX_AXES + 1]            # the axes of pred that the plan's axes are; the class axis last
        cdef int label_axes[MAX_AXES + 1]
        cdef int weight_axes[MAX_AXES + 1]
        cdef int third_axes[MAX_AXES + 1]
        cdef int value_axes[MAX_AXES + 1]
        cdef Py_ssize_t dims[MAX_AXES + 1]
        cdef Py_ssize_t n_args = len(args), batch_size
        cdef int ndim, k, n, real, batch, class_axis = -1, batch_item = -1, value_ndim
        cdef bint is_double, needs_loss, everything, good, rows, dense, takes_shares
        cdef double count, head_factor = 1
        cdef cnp.ndarray pred, label, weight = None, third = None, head = None, result
        cdef kernel_t* kernel
        cdef object x_pred = None, x_label = None, x_weight = None, x_third = None
        cdef object out = None, wrt = None, x_head = None, outs = None
        cdef tuple wanted = (GRAD,)
        cdef list results = [None] * OUTPUTS

        if n_args > len(self.names):
            raise TypeError(f"{type(self).__name__} takes at most {len(self.names)} inputs ({', '.join(self.names)}), got {n_args}")
        if n_args > 0:
            x_pred = args[0]
        if n_args > 1:
            x_label = args[1]
        if n_args > 2:
            x_weight = args[2]
        if n_args > 3:
            x_third = args[3]
        if options:
            for name, x in options.items():
                if name == "out":
                    out = x
                elif name == "head_grad" and want & WANT_GRAD:
                    x_head = x
                elif name == "wrt" and want & WANT_GRAD and not want & WANT_HESS:
                    wrt = x
                elif name in self.names:
                    k = self.names.index(name)
                    if k < n_args:
                        raise TypeError(f"{type(self).__name__} got {name} twice, by position and by name")
                    if k == 0:
                        x_pred = x
                    elif k == 1:
                        x_label = x
                    elif k == 2:
                        x_weight = x
                    else:
                        x_third = x
                else:
                    raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {name!r}")
        if x_pred is None or x_label is None:
            raise TypeError(f"{type(self).__name__} needs {self.names[0]} and {self.names[1]}")

        pred = as_array(x_pred, "pred")
        label = as_array(x_label, "label")
        k = kind_of(pred)
        if k == LONGDOUBLE:
            raise TypeError(f"pred must be float32 or float64 (float16 is computed in float32, integers in float64), got dtype {pred.dtype}")
        is_double = k != FLOAT32 and k != FLOAT16
        real = FLOAT64 if is_double else FLOAT32
        ndim = cnp.PyArray_NDIM(pred)
        batch = axis_number("batch_axis", self.batch_axis, ndim)

        # the axes of the unreduced loss: pred's, but for the class axis
        n = 0
        p.classes = 0
        if self.has_classes:
            if ndim == 0:
                raise ValueError("pred must have a class axis, got a scalar")
            class_axis = axis_number("axis", self.axis, ndim)
            p.classes = pred.shape[class_axis]
        p.size = 1
        for k in range(ndim):
            if k != class_axis:
                if k == batch:
                    batch_item = n
                items[n] = k
                p.shape[n] = pred.shape[k]
                p.size *= p.shape[n]
                n += 1
        p.ndim = n
        batch_size = p.shape[batch_item] if batch_item >= 0 else 1
        rows = class_axis >= 0
        dense = rows and not self.sparse
        if rows:
            items[n] = class_axis
            p.shape[n] = p.classes

        for k in range(INPUTS):
            p.inputs[k].data = NULL
        for k in range(OUTPUTS):
            p.outputs[k].data = NULL
        describe(&p.inputs[PRED], pred, items, n + rows, rows)

        if dense:
            good = match_squeezed(label, <Py_ssize_t*>cnp.PyArray_DIMS(pred), ndim, value_axes)
            for k in range(ndim):
                label_axes[k] = value_axes[items[k]]
        else:
            good = match_squeezed(label, p.shape, n, label_axes)
        if not good:
            raise ValueError(self.label_shape_error(&p, pred, label))
        describe(&p.inputs[LABEL], label, label_axes, n + dense, dense)

        if x_weight is not None:
            weight = as_array(x_weight, "sample_weight")
            self.match_weight(weight, pred, &p, class_axis, batch_item, weight_axes)
            describe(&p.inputs[WEIGHT], weight, weight_axes, n, False)
        kernel = self.kernel
        if x_third is not None:
            third = as_array(x_third, self.names[3])
            kernel = self.other_kernel
            if self.names[3] in self.fixed:
                if cnp.PyArray_NDIM(third) != 0:
                    raise ValueError(f"{self.names[3]} must be a number, got an array of shape {shape_text(third)}")
                finite(self.names[3], third)
            if not match_broadcast(third, p.shape, n, third_axes):
                raise ValueError(f"{self.names[3]} must broadcast to pred's shape {shape_text(pred)}, got shape {shape_text(third)}")
            if kernel.inputs == 3:
                describe(&p.inputs[THIRD], third, third_axes, n, False)
        elif kernel != NULL and kernel.inputs == 3:
            describe_number(&p.inputs[THIRD], &self.third_default, n)

        # results and their shapes
        if wrt is not None:
            wanted = self.gradients(wrt, weight is not None, third is not None)
        if out is not None:
            outs = spread_out(out, want, wanted, wrt)
        value_ndim = self.value_shape(&p, batch_item, batch_size, dims, value_axes)
        if want & WANT_VALUE:
            results[VALUE] = new_result(None if outs is None else outs[VALUE], value_ndim, dims, real, "value")
        for k in wanted if want & WANT_GRAD else ():
            if k == GRAD:
                result = new_result(None if outs is None else outs[k], ndim, <Py_ssize_t*>cnp.PyArray_DIMS(pred), real, "gradient")
                describe(&p.outputs[k], result, items, n + rows, rows)
            elif k == LABEL_GRAD:
                result = new_result(None if outs is None else outs[k], cnp.PyArray_NDIM(label), <Py_ssize_t*>cnp.PyArray_DIMS(label), real, RESULT_NAMES[k])
                describe(&p.outputs[k], result, label_axes, n + dense, dense)
            elif k == WEIGHT_GRAD:
                result = new_result(None if outs is None else outs[k], cnp.PyArray_NDIM(weight), <Py_ssize_t*>cnp.PyArray_DIMS(weight), real, RESULT_NAMES[k])
                describe(&p.outputs[k], result, weight_axes, n, False)
            else:
                result = new_result(None if outs is None else outs[k], cnp.PyArray_NDIM(third), <Py_ssize_t*>cnp.PyArray_DIMS(third), real, RESULT_NAMES[k])
                describe(&p.outputs[k], result, third_axes, n, False)
            results[k] = result
        if want & WANT_HESS:
            result = new_result(None if outs is None else outs[HESS], ndim, <Py_ssize_t*>cnp.PyArray_DIMS(pred), real, "Hessian")
            describe(&p.outputs[HESS], result, items, n + rows, rows)
            results[HESS] = result
        if self.reduction == WEIGHTED_MEAN and results[WEIGHT_GRAD] is not None and results[VALUE] is None:
            # the gradient in the weights holds the value
            results[VALUE] = new_result(None, 0, dims, real, "value")
        if results[VALUE] is not None:
            describe(&p.outputs[VALUE], results[VALUE], value_axes, n, False)
        for k in range(OUTPUTS):
            if p.outputs[k].data != NULL:
                p.outputs[k].reduced = not p.outputs[k].rows and p.outputs[k].size != p.size

        if x_head is not None:
            head = as_array(x_head, "head_grad")
            if cnp.PyArray_NDIM(head) == 0:
                head_factor = float(head)
            elif has_shape(head, dims, value_ndim):
                describe(&p.inputs[HEAD], head, value_axes, n, False)
            else:
                raise ValueError(f"head_grad must be a number or have the value's shape {shape_tuple(dims, value_ndim)}, got shape {shape_text(head)}")

        # parameters
        p.kernel = NULL
        p.weights_only = False
        p.sparse = self.sparse
        p.from_logits = self.from_logits
        p.has_ignore = self.has_ignore
        p.ignore = self.ignore
        p.smoothing = self.smoothing
        p.class_weight = NULL
        if self.class_weight is not None:
            if self.class_weight.shape[0] != p.classes:
                raise ValueError(f"pred must have as many classes as class_weight, {self.class_weight.shape[0]}, got shape {shape_text(pred)} with {p.classes} along axis {class_axis}")
            p.class_weight = <const double*>cnp.PyArray_DATA(self.class_weight)
        if outs is not None:
            check_overlaps(&p, results, (("pred", pred), ("label", label), (self.names[len(self.names) - 1], third),
                                         ("sample_weight", weight), ("head_grad", head)), [x is not None for x in outs])
        staged = stage(&p, results, value_axes, weight_axes, third_axes)
        takes_shares = self.reduction == WEIGHTED_MEAN and results[WEIGHT_GRAD] is not None
        if takes_shares:
            whole = p
        merge_axes(&p)
        if rows and self.sparse and p.size:
            self.check_labels(&p, label)

        if kernel != NULL:
            needs_loss = results[VALUE] is not None or results[WEIGHT_GRAD] is not None
            everything = results[LABEL_GRAD] is not None or results[THIRD_GRAD] is not None
            p.kernel = kernel.kernel
            p.loop = kernel.loops[is_double][
                PASS_EVERYTHING if everything else
                (PASS_ALL_OF_PRED if needs_loss else PASS_GRADIENT_HESSIAN) if results[HESS] is not None else
                PASS_GRADIENT if not needs_loss else
                PASS_VALUE_GRADIENT if results[GRAD] is not None else PASS_VALUE]

        count = 1
        if self.reduction == EXAMPLE:
            count = <double>p.size / <double>batch_size if batch_size else 0
        elif self.reduction == MEAN:
            count = <double>p.size
        elif self.reduction == WEIGHTED_MEAN:
            count = self.sum_of_weights(&p)
        # the mean of nothing is 0
        p.value_scale = self.weight / count if count else 0
        p.grad_scale = p.value_scale * head_factor

        if p.size == 0 or rows and p.classes == 0:
            for k in range(OUTPUTS):
                if results[k] is not None:
                    results[k].fill(0)
        else:
            shares = None
            if takes_shares and count:
                # now: the results may lie over the labels
                shares = self.shares(&whole, results[WEIGHT_GRAD], weight_axes)
            execute(&p, is_double)
            if shares is not None:
                # the weights are divided by, too
                shares *= float(results[VALUE]) * head_factor / count
                np.subtract(results[WEIGHT_GRAD], shares, out=results[WEIGHT_GRAD], casting="same_kind")
        if staged:
            for k, a in staged:
                a[...] = results[k]
                results[k] = a
        return package(results, want, wanted, wrt, outs)

    cdef str label_shape_error(self, const plan_t* p, cnp.ndarray pred, cnp.ndarray label):
        if not self.has_classes:
            return f"label must have pred's shape {shape_text(pred)}, or that without axes of size 1, got shape {shape_text(label)}"
        if self.sparse:
            hint = "; for one-hot or soft labels build the loss with sparse_label=False" if cnp.PyArray_SIZE(label) == cnp.PyArray_SIZE(pred) else ""
            return f"label must have pred's shape {shape_text(pred)} without the class axis, {shape_tuple(p.shape, p.ndim)}, got shape {shape_text(label)}{hint}"
        return f"label must have pred's shape {shape_text(pred)}, got shape {shape_text(label)}; class ids need sparse_label=True"

    cdef int match_weight(self, cnp.ndarray weight, cnp.ndarray pred, const plan_t* p, int class_axis, int batch_item, int* axes) except -1:
        """Which axes of the unreduced loss the axes of sample_weight lie along."""
        cdef int k, ndim = cnp.PyArray_NDIM(weight)
        cdef Py_ssize_t examples = p.shape[batch_item] if batch_item >= 0 else 1
        cdef int whole_axes[MAX_AXES + 1]
        cdef bint good
        if ndim == 1 and batch_item >= 0:
            good = weight.shape[0] == examples or weight.shape[0] == 1
            for k in range(p.ndim):
                axes[k] = 0 if k == batch_item else -1
        elif class_axis >= 0 and ndim == cnp.PyArray_NDIM(pred):
            good = weight.shape[class_axis] == 1 and match_broadcast(weight, <Py_ssize_t*>cnp.PyArray_DIMS(pred), ndim, whole_axes)
            for k in range(p.ndim):
                axes[k] = k if k < class_axis else k + 1
        else:
            good = match_broadcast(weight, p.shape, p.ndim, axes)
        if not good:
            raise ValueError(
                f"sample_weight must be one weight per example, shape ({examples},), or broadcast to the unreduced loss, "
                f"shape {shape_tuple(p.shape, p.ndim)}, got shape {shape_text(weight)}")
        return 0

    cdef tuple gradients(self, wrt, bint has_weight, bint has_third):
        """What wrt asks for."""
        cdef tuple names = wrt if isinstance(wrt, tuple) else (wrt,)
        for name in names:
            if name not in self.names:
                raise ValueError(f"wrt must name inputs of {type(self).__name__}, {', '.join(map(repr, self.names))}, got {name!r}")
            if name in self.fixed or name == "label" and self.sparse:
                what = "class ids are" if name == "label" else f"{name} is"
                raise ValueError(f"wrt={name!r}: {what} not something to differentiate with respect to")
            if name == "sample_weight" and not has_weight or name == self.names[len(self.names) - 1] and len(self.names) > 3 and not has_third:
                raise ValueError(f"wrt={name!r}, but the call has no {name}")
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"wrt must name one or more different inputs, got {wrt!r}")
        return tuple([GRADIENT_OF[self.names.index(name)] for name in names])

    cdef int value_shape(self, const plan_t* p, int batch_item, Py_ssize_t batch_size, Py_ssize_t* dims, int* axes) noexcept:
        """The value's axes: how many, their sizes, and which axes of the unreduced loss they are."""
        cdef int k
        for k in range(p.ndim):
            axes[k] = k if self.reduction == NONE else (0 if self.reduction == EXAMPLE and k == batch_item else -1)
            dims[k] = p.shape[k]
        if self.reduction == NONE:
            return p.ndim
        if self.reduction != EXAMPLE or p.ndim == 0 and not self.has_classes:
            return 0
        dims[0] = batch_size
        return 1

    cdef int check_labels(self, const plan_t* p, cnp.ndarray label) except -1:
        cdef Py_ssize_t at
        if p.size < WORK_FOR_A_THREAD:
            at = runner.bad_label(p)
        else:
            with nogil:
                at = runner.bad_label(p)
        if at < 0:
            return 0
        position = tuple([int(i) for i in np.unravel_index(at, (<object>label).shape)])
        raise ValueError(
            f"label must hold class ids from 0 to {p.classes - 1}, got {label[position]} at position {position}; "
            "to leave examples out, build the loss with ignore_index=")

    cdef bint is_weighted_by_label(self):
        """Whether examples count by their label: not if ignored, and by their class's weight."""
        return self.has_classes and self.sparse and (self.has_ignore or self.class_weight is not None)

    cdef shares(self, plan_t* p, cnp.ndarray gradient, const int* axes):
        """The derivative of the sum of the weights in sample_weight: a number where that is the same for all."""
        cdef cnp.ndarray counts
        cdef int k
        if not self.is_weighted_by_label():
            return <double>p.size / <double>cnp.PyArray_SIZE(gradient)
        counts = np.empty((<object>gradient).shape)
        for k in range(OUTPUTS):
            p.outputs[k].data = NULL
        describe(&p.outputs[WEIGHT_GRAD], counts, axes, p.ndim, False)
        p.outputs[WEIGHT_GRAD].reduced = p.outputs[WEIGHT_GRAD].size != p.size
        p.inputs[WEIGHT].data = NULL
        p.inputs[HEAD].data = NULL
        p.weights_only = True
        p.grad_scale = 1
        merge_axes(p)
        execute(p, True)
        return counts

    cdef double sum_of_weights(self, const plan_t* p) except? -1:
        """What a weighted mean divides by."""
        cdef plan_t q = p[0]
        cdef double total = 0
        cdef int k
        if p.inputs[WEIGHT].data == NULL and not self.is_weighted_by_label():
            return <double>p.size
        if p.size == 0:
            return 0
        for k in range(OUTPUTS):
            q.outputs[k].data = NULL
        describe_number(&q.outputs[VALUE], &total, p.ndim)
        q.outputs[VALUE].reduced = True
        q.outputs[VALUE].ndim = 1
        q.outputs[VALUE].shape[0] = p.size
        q.inputs[HEAD].data = NULL
        q.weights_only = True
        q.value_scale = 1
        execute(&q, True)
        return total


cdef void describe_number(array_t* d, double* x, int n) noexcept:
    """A single number that counts as an array of any shape."""
    cdef int k
    d.data = <char*>x
    d.type = FLOAT64
    d.swapped = False
    d.aligned = True
    d.reduced = False
    d.rows = False
    d.size = 1
    for k in range(n):
        d.stride[k] = 0


cdef tuple shape_tuple(const Py_ssize_t* shape, int n):
    return tuple([shape[k] for k in range(n)])


cdef list stage(plan_t* p, list results, const int* value_axes, const int* weight_axes, const int* third_axes):
    """Sums are written to contiguous arrays only: new ones stand in for the caller's others. Returns those, to be filled later."""
    cdef list staged = None
    cdef cnp.ndarray a
    cdef int k
    for k in range(OUTPUTS):
        if p.outputs[k].data == NULL or not p.outputs[k].reduced:
            continue
        a = results[k]
        if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISALIGNED(a):
            continue
        staged = (staged or []) + [(k, a)]
        results[k] = np.empty((<object>a).shape, a.dtype)
        describe(&p.outputs[k], results[k], value_axes if k == VALUE else weight_axes if k == WEIGHT_GRAD else third_axes, p.ndim, False)
        p.outputs[k].reduced = True
    return staged


cdef list spread_out(out, int want, tuple wanted, wrt):
    """The caller's buffers, by what they are for. out has the structure of what the method returns."""
    cdef list outs = [None] * OUTPUTS
    cdef list kinds = []
    if want & WANT_VALUE:
        kinds.append(VALUE)
    if want & WANT_GRAD:
        kinds.append(wanted if isinstance(wrt, tuple) else wanted[0])
    if want & WANT_HESS:
        kinds.append(HESS)
    parts = (out,) if len(kinds) == 1 else out
    if not isinstance(parts, tuple) or len(parts) != len(kinds):
        raise TypeError(f"out must be a tuple of {len(kinds)}, one array or None per result, got {describe_out(out)}")
    for kind, part in zip(kinds, parts):
        if isinstance(kind, tuple):
            if part is None:
                continue
            if not isinstance(part, tuple) or len(part) != len(kind):
                raise TypeError(f"out for the gradients must be a tuple of {len(kind)}, one array or None per input in wrt, got {describe_out(part)}")
            for k, a in zip(kind, part):
                outs[k] = a
        else:
            outs[kind] = part
    return outs


cdef str describe_out(out):
    return f"a tuple of {len(out)}" if isinstance(out, tuple) else type(out).__name__


cdef package(list results, int want, tuple wanted, wrt, list outs):
    """What the method returns: a result, or a tuple of them; numbers as NumPy scalars unless the caller brought an array."""
    cdef int k
    for k in range(OUTPUTS):
        if results[k] is not None and (outs is None or outs[k] is None) and cnp.PyArray_NDIM(results[k]) == 0:
            results[k] = results[k][()]
    if want == WANT_VALUE:
        return results[VALUE]
    gradient = tuple([results[k] for k in wanted]) if isinstance(wrt, tuple) else results[wanted[0]]
    if want == WANT_GRAD:
        return gradient
    if want == WANT_VALUE | WANT_GRAD:
        return results[VALUE], gradient
    if want == WANT_GRAD | WANT_HESS:
        return gradient, results[HESS]
    return results[VALUE], gradient, results[HESS]


cdef class RowLoss(Loss):
    """The base of the losses over classes, whose unreduced loss has pred's shape without the class axis."""

    def __init__(self, weight, batch_axis, reduction, *, axis, sparse_label, from_logits, ignore_index, label_smoothing, class_weight):
        super().__init__(None, weight, batch_axis, reduction)
        self.axis = integer("axis", axis)
        self.has_classes = True
        self.sparse = flag("sparse_label", sparse_label)
        self.from_logits = flag("from_logits", from_logits)
        self.has_ignore = ignore_index is not None
        if self.has_ignore:
            # ids are compared as doubles, which hold every integer up to 2^53
            self.ignore = integer("ignore_index", ignore_index, 2**53)
            if not self.sparse:
                raise ValueError("ignore_index needs sparse_label=True; give examples with dense labels a sample_weight of 0")
        self.smoothing = finite("label_smoothing", label_smoothing)
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing!r}")
        if class_weight is not None:
            weights = as_array(class_weight, "class_weight")
            if weights.ndim != 1 or not np.all(np.isfinite(weights)) or np.any(np.less(weights, 0)):
                raise ValueError(f"class_weight must be one finite weight >= 0 per class, got {class_weight!r}")
            self.class_weight = np.array(weights, np.float64)

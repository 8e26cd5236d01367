"""The call of a loss: arguments, shapes, weights, reductions, results. Written once, for every loss."""

import inspect
import math
import operator
import threading
import types
import weakref
from itertools import repeat, starmap

import numpy as np

cimport numpy as cnp
from cython cimport floating
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GetSlice
from libc.math cimport INFINITY, NAN, fabs
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc

from fastloss import _domains, _foreign, _isa
from fastloss.backends import backend_of
from fastloss._plan cimport (
    BLOCK_BYTES, BUFFERS, CACHE_LINE, FLOAT16, FLOAT32, FLOAT64, FOURTH, GRAD, HEAD, HESS, INPUTS, INT8, INT16, INT32, INT64, LABEL,
    LABEL_GRAD, LONGDOUBLE, MAX_AXES, OUTPUTS, OWN_BUFFERS, PAIR_ROWS, PANEL, PASS_ALL_OF_PRED, PASS_EVERYTHING, PASS_GRADIENT, PASS_GRADIENT_HESSIAN,
    PASS_VALUE, PASS_VALUE_GRADIENT, PRED, SHORT_ROWS, SHORT_ROW_BYTES, SHORT_STRIP_BYTES, SMALL_BYTES, STRIP_BYTES, THIRD, THIRD_GRAD, UINT8, UINT16, UINT32, UINT64,
    VALUE, WEIGHT, WEIGHT_GRAD,
    array_t, ctc_t, kernel_t, pairs_t, plan_t, range_t, runner_t, watch_t,
)
from fastloss._threads cimport threads

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    ctypedef struct PyThreadState
    PyThreadState* PyThreadState_Get() nogil
    void PyEval_RestoreThread(PyThreadState* state) nogil
    PyThreadState* PyEval_SaveThread() nogil
    int PyErr_CheckSignals() nogil

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

cdef dict METHODS = {
    WANT_VALUE: "__call__",
    WANT_GRAD: "grad",
    WANT_VALUE | WANT_GRAD: "value_and_grad",
    WANT_GRAD | WANT_HESS: "grad_and_hess",
    WANT_VALUE | WANT_GRAD | WANT_HESS: "value_grad_and_hess",
}

cdef enum:
    WORK_FOR_A_THREAD = 32768   # elements of a light loss: from there on a second thread is worth what it costs to wake it
    WATCHED = 1 << 20           # the same: from there on a signal may end the call
    HEAVY = 3                   # times as long takes an element of any other loss, at least
    STREAMED = 1 << 22          # elements of a result
    FAR_BYTES = 1 << 20         # of an array: the L2 cache does not hold it
    AHEAD_BYTES = 4096
    LONG_ROW_BYTES = 1 << 15
    CHUNKS = 16


# what is counted in elements is counted in bytes of all buffers, too, without an overflow
cdef Py_ssize_t MAX_ELEMENTS = PY_SSIZE_T_MAX >> 8


cdef enum:
    TYPE_NUMBERS = 24       # NumPy's for what is built in

cdef int[TYPE_NUMBERS] KINDS     # by NumPy's type number, of which some sizes have two; -1: no real number


cdef int fill_kinds() except -1:
    cdef dict kinds = {
        "f2": FLOAT16, "f4": FLOAT32, "f8": FLOAT64, "b1": UINT8, "u1": UINT8, "u2": UINT16, "u4": UINT32, "u8": UINT64,
        "i1": INT8, "i2": INT16, "i4": INT32, "i8": INT64,
    }
    for k in range(TYPE_NUMBERS):
        KINDS[k] = -1
    for code in np.typecodes["All"]:
        dtype = np.dtype(code)
        if dtype.kind in "fiub":
            KINDS[dtype.num] = kinds.get(f"{dtype.kind}{dtype.itemsize}", LONGDOUBLE)
    return 0


fill_kinds()


cdef inline int kind_of(cnp.ndarray a) noexcept:
    cdef int type = cnp.PyArray_TYPE(a)
    return KINDS[type] if 0 <= type < TYPE_NUMBERS else -1


cdef cnp.ndarray as_array(x, str name):
    """x as an array: whatever NumPy makes one of is good."""
    return x if cnp.PyArray_CheckExact(x) else _foreign.as_array(name, x)


cdef cnp.ndarray numbers(cnp.ndarray a, str name):
    """The array, which must be of real numbers and have few enough axes."""
    if kind_of(a) < 0:
        raise TypeError(f"{name} must be an array of real numbers, {_foreign.about(a, name, a)}")
    if cnp.PyArray_NDIM(a) > MAX_AXES:
        raise ValueError(f"{name} must have at most {MAX_AXES} axes, got {cnp.PyArray_NDIM(a)}")
    return a


cdef backend_for(tuple values):
    """What takes the arrays of another library, where one is among the values."""
    for x in values:
        if x is not None and not cnp.PyArray_CheckExact(x):
            backend = backend_of(type(x))
            if backend is not None:
                return backend
    return None


cdef str shape_text(cnp.ndarray a):
    return str((<object>a).shape)


cdef bint is_turned(a) noexcept:
    """Whether a lies in Fortran's order."""
    return cnp.PyArray_CheckExact(a) and cnp.PyArray_IS_F_CONTIGUOUS(<cnp.ndarray>a)


cdef bint has_shape(cnp.ndarray a, const Py_ssize_t* shape, int n) noexcept:
    cdef int k
    if cnp.PyArray_NDIM(a) != n:
        return False
    for k in range(n):
        if a.shape[k] != shape[k]:
            return False
    return True


cdef void describe(array_t* d, cnp.ndarray a, const Py_ssize_t* shape, const int* axes, int n, bint rows, int real) noexcept:
    """What the loops need to know of an array over n axes of the given shape, whose axis axes[k] lies along axis k; -1: along none."""
    cdef int k, last = -1
    cdef Py_ssize_t stride
    d.data = cnp.PyArray_BYTES(a)
    d.type = kind_of(a)
    d.swapped = not cnp.PyArray_ISNOTSWAPPED(a)
    d.aligned = cnp.PyArray_ISALIGNED(a)
    d.reduced = False
    d.streamed = False
    d.rows = rows
    d.size = 1
    for k in range(n):
        if shape[k] == 1:
            continue
        stride = 0
        if axes[k] >= 0 and a.shape[axes[k]] != 1:
            d.size *= shape[k]
            stride = a.strides[axes[k]]
        if last >= 0 and d.stride[last] == stride * shape[k]:
            d.shape[last] *= shape[k]
        else:
            last += 1
            d.shape[last] = shape[k]
        d.stride[last] = stride
    if last < 0:
        last = 0
        d.shape[0] = 1
        d.stride[0] = 0
    d.ndim = last + 1
    d.direct = (d.type == real and not d.swapped and d.aligned and last == 0
                and (d.stride[0] == (8 if real == FLOAT64 else 4) or d.shape[0] == 1))


cdef void describe_number(array_t* d, double* x, Py_ssize_t size) noexcept:
    """A single number that counts as an array of so many elements."""
    d.data = <char*>x
    d.type = FLOAT64
    d.swapped = False
    d.aligned = True
    d.reduced = False
    d.streamed = False
    d.rows = False
    d.direct = False
    d.size = 1
    d.ndim = 1
    d.shape[0] = size
    d.stride[0] = 0


cdef bint match_squeezed(cnp.ndarray a, const Py_ssize_t* shape, int n, int* axes) noexcept:
    """Whether a's shape is the given one, or either is the other without some axes of size 1.

    Fills in which axis of a lies along each.
    """
    cdef int i = 0, k = 0, ndim = cnp.PyArray_NDIM(a)
    while i < ndim or k < n:
        if i < ndim and k < n and a.shape[i] == shape[k]:
            axes[k] = i
            i += 1
            k += 1
        elif ndim < n and k < n and shape[k] == 1:
            axes[k] = -1
            k += 1
        elif ndim > n and i < ndim and a.shape[i] == 1:
            i += 1
        else:
            return False
    return True


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


cdef int interrupted(void* state) noexcept nogil:
    """Lets Python's handlers of signals run, inside a nogil block; nonzero if one has raised an exception, which is left set."""
    cdef int failed
    PyEval_RestoreThread(<PyThreadState*>state)
    failed = PyErr_CheckSignals()
    PyEval_SaveThread()
    return failed


cdef int begin_watch(plan_t* p, watch_t* w) except -1:
    """Lets signals end a call that takes milliseconds or more. Python gives them to the main thread alone."""
    p.watch = NULL
    if p.work >= WATCHED and threading.get_ident() == threading.main_thread().ident:
        w.interrupted, w.state, w.next = interrupted, PyThreadState_Get(), 0
        p.watch = w
    return 0


cdef int end_watch(plan_t* p) except -1:
    """Raises what a handler of signals has raised meanwhile, or raises now: a call has several parts, of each of which little may be left."""
    cdef bint watched = p.watch != NULL, ended = watched and p.watch.next < 0
    p.watch = NULL
    return -1 if ended or watched and PyErr_CheckSignals() else 0


cdef int execute(plan_t* p, bint is_double) except -1:
    """Cuts a plan into tasks, which depend on its shape alone, and runs them."""
    cdef int k, i
    cdef Py_ssize_t itemsize = 8 if is_double else 4, sums = 0, chunks, length
    cdef bint has_reduced = False
    cdef plan_t other
    cdef watch_t watch
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
    size_up(p, itemsize)
    p.pieces = p.before = 0
    p.lead = off_a_cache_line(p, itemsize) if p.size > p.block else 0
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
        # blocks begin on a cache line then, and so do strips
        p.before, p.lead = p.lead, 0
        p.tasks = ceil_div(p.size + p.before, p.step)
    p.threads = 1
    if p.tasks > 1 and p.work >= 2 * WORK_FOR_A_THREAD:
        p.threads = <int>min(<Py_ssize_t>threads(), min(p.tasks, p.work // WORK_FOR_A_THREAD))
    p.scratch = NULL
    for k in range(OUTPUTS):
        p.partial[k] = NULL
    if p.extra:
        # from the system: the allocator of free-threaded Python gives out more than there is, and the process is killed
        p.scratch_size = ceil_div(OWN_BUFFERS * p.buffer + p.extra + CACHE_LINE, CACHE_LINE) * CACHE_LINE
        if p.scratch_size <= PY_SSIZE_T_MAX // p.threads - <Py_ssize_t>sizeof(range_t):
            p.scratch = <char*>malloc((p.scratch_size + sizeof(range_t)) * p.threads)
        if p.scratch == NULL:
            raise MemoryError(f"{p.scratch_size} bytes of buffers for each of {p.threads} threads")
        p.ranges = <range_t*>(p.scratch + p.scratch_size * p.threads)
    try:
        for k in range(OUTPUTS if has_reduced else 0):
            if p.outputs[k].data != NULL and p.outputs[k].reduced and (p.pieces or not p.span):
                # sums of any shape have a rest each
                length = p.tasks if p.pieces else p.tasks * 2 * p.outputs[k].size
                p.partial[k] = <double*>calloc(length, sizeof(double))
                if p.partial[k] == NULL:
                    raise MemoryError(f"{length} partial sums")
        if p.work < WORK_FOR_A_THREAD:
            runner.run(p, is_double)
        else:
            begin_watch(p, &watch)
            with nogil:
                runner.run(p, is_double)
            end_watch(p)
    finally:
        if p.scratch != NULL:
            free(p.scratch)
        for k in range(OUTPUTS if has_reduced else 0):
            free(p.partial[k])
    return 0


cdef Py_ssize_t off_a_cache_line(const plan_t* p, Py_ssize_t itemsize) noexcept:
    """How many elements of the first result to be written in place lie between a cache line's begin and its own.

    Two streams of stores that each cross cache lines cost 2.5 times as much as two that do not.
    """
    cdef int k
    if p.rows != NULL or p.unit != 1:
        return 0
    for k in range(OUTPUTS):
        if p.outputs[k].data != NULL and (p.outputs[k].direct or p.outputs[k].streamed):
            return <Py_ssize_t>(<size_t>p.outputs[k].data % CACHE_LINE) // itemsize
    return 0


cdef void size_up(plan_t* p, Py_ssize_t itemsize) noexcept:
    """How many elements of the unreduced loss make a block, and the buffers for one."""
    cdef Py_ssize_t row = p.width * itemsize, all = BLOCK_BYTES // itemsize
    cdef int k
    p.buffer = BLOCK_BYTES
    p.ahead = 0
    # a small array is in the caches, and to bring the last of one core's share to another takes longer than to wait
    p.shared = p.rows != NULL or p.size * itemsize >= FAR_BYTES
    if p.size * max(p.width, <Py_ssize_t>1) * itemsize >= FAR_BYTES:
        # the next row is fetched while this one is worked on; a long one the hardware sees coming
        p.ahead = AHEAD_BYTES if not p.width else row if row <= LONG_ROW_BYTES else 0
    p.strip = STRIP_BYTES
    for k in range(OUTPUTS if p.ahead else 0):
        if p.outputs[k].data != NULL and p.outputs[k].streamed:
            p.strip = SHORT_STRIP_BYTES
    if p.extra:
        # a loss whose buffers are its own affair has said how many elements it takes at once
        return
    if p.short:
        p.block = min(SHORT_ROWS, max(32, BLOCK_BYTES // 4 // p.width // 32 * 32))
    elif p.width:
        p.block = max(1, all // p.width)
    else:
        p.block = max(1, all // p.unit) * p.unit
        p.buffer = max(p.buffer, p.block * itemsize)
    if p.rows != NULL:
        # a part of a row, and whole ones
        k = BUFFERS if p.short else 0 if p.weights_only else p.row_buffers + tiles(p)
        p.extra = BLOCK_BYTES + k * max(row, p.buffer)
    elif p.size * itemsize <= SMALL_BYTES:
        p.buffer = SMALL_BYTES
    else:
        p.extra = (BUFFERS - OWN_BUFFERS) * p.buffer


cdef int tiles(const plan_t* p) noexcept:
    """How many of its arrays a loss of rows may copy: up to the last that is not read or written in place."""
    cdef int k, n = 0
    for k in range(FOURTH):
        if p.inputs[k].data != NULL and not p.inputs[k].direct and (p.inputs[k].rows or not p.width):
            n = k + 1
    for k in range(GRAD, WEIGHT_GRAD):
        if p.outputs[k].data != NULL and not (p.outputs[k].direct and not p.outputs[k].reduced):
            n = THIRD + k + 1
    return n


cdef bint same_layout(const array_t* a, const array_t* b) noexcept:
    cdef int k
    if a.data != b.data or a.type != b.type or a.swapped != b.swapped or a.rows != b.rows or a.ndim != b.ndim:
        return False
    for k in range(a.ndim):
        if a.shape[k] != b.shape[k] or a.stride[k] != b.stride[k]:
            return False
    return True


cdef (size_t, size_t) extent(cnp.ndarray a) noexcept:
    """The first byte of an array, and the one behind its last."""
    cdef size_t low = <size_t>cnp.PyArray_BYTES(a), high = low + cnp.PyArray_ITEMSIZE(a)
    cdef int k
    for k in range(cnp.PyArray_NDIM(a)):
        if a.shape[k] == 0:
            return low, low
        if a.strides[k] > 0:
            high += (a.shape[k] - 1) * a.strides[k]
        else:
            low += (a.shape[k] - 1) * a.strides[k]
    return low, high


cdef bint overlap(cnp.ndarray a, cnp.ndarray b):
    """Whether two arrays share memory; a question too hard to settle counts as yes."""
    cdef (size_t, size_t) x = extent(a), y = extent(b)
    if x[1] <= y[0] or y[1] <= x[0]:
        return False
    try:
        return np.shares_memory(a, b, max_work=100_000)
    except np.exceptions.TooHardError:
        return True
    except RuntimeError as error:
        # so NumPy says that it gets no memory
        raise MemoryError(str(error)) from None


cdef inline Py_ssize_t magnitude(Py_ssize_t x) noexcept:
    # abs() makes a Python integer of it
    return x if x >= 0 else -x


cdef bint overlaps_itself(cnp.ndarray a) noexcept:
    """Whether elements of an array may share memory: else each axis steps over all that lies along those of smaller steps."""
    cdef int i, k, n = cnp.PyArray_NDIM(a)
    cdef Py_ssize_t step, inner, other
    if cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_IS_F_CONTIGUOUS(a) or cnp.PyArray_SIZE(a) == 0:
        return False
    for k in range(n):
        step = magnitude(a.strides[k])
        inner = cnp.PyArray_ITEMSIZE(a)
        for i in range(n):
            other = magnitude(a.strides[i])
            if other < step or other == step and i < k:
                inner += (a.shape[i] - 1) * other
        if a.shape[k] != 1 and step < inner:
            return True
    return False


# of each class, for as long as it lives
signatures = weakref.WeakKeyDictionary()
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


cdef signature_of(type cls):
    """The signature of a class's constructor. A class seen for the first time gets an attribute for each argument."""
    signature = signatures.get(cls)
    if signature is None:
        signature = inspect.signature(cls)
        for name, parameter in signature.parameters.items():
            # what the class itself has of that name stays; a __getattr__ would make the lookup of every method slow
            if parameter.kind not in VARIABLE and not hasattr(cls, name):
                setattr(cls, name, Argument(name))
        # last: who finds it, in another thread, finds the attributes, too
        signatures[cls] = signature
    return signature


class Argument:
    """An attribute of a loss, which a subclass with attributes of its own may give another value."""

    def __init__(self, name):
        self.name = name

    def __get__(self, loss, cls=None):
        if loss is None:
            return self
        for known, value in loss.arguments:
            if known == self.name:
                return value
        # a class derived from the one that has this may take no such argument
        raise AttributeError(f"{type(loss).__name__} has no argument {self.name!r}")


cdef tuple arguments_of(type cls, tuple args, dict kwargs):
    """The constructor's arguments, by name and with defaults, and how many of them only their position names."""
    cdef list found = []
    cdef int n_positional = 0
    signature = signature_of(cls)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(_foreign.wrong_arguments(cls, signature, error)) from None
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            found += zip(value, map(frozen, value.values()))
            continue
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found += zip(repeat(name), map(frozen, value))
        else:
            found.append((name, frozen(value)))
        if kind is inspect.Parameter.POSITIONAL_ONLY or kind is inspect.Parameter.VAR_POSITIONAL and value:
            n_positional = len(found)
    return tuple(found), n_positional


cdef tuple EXACT = ((int, int.__int__), (float, float.__float__), (str, str.__str__), (bytes, bytes.__bytes__))


def frozen(value):
    """A number as Python's; a sequence as a tuple, which nobody changes and which compares; all else as it is."""
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    # a member of an Enum, say, is no literal
    for kind, exact in EXACT:
        if isinstance(value, kind):
            return exact(value)
    try:
        value = _foreign.imported(value)
        if np.ndim(value) == 1:
            # by way of a list: Python leaks a tuple that gets no memory to grow
            return tuple(list(map(frozen, value if isinstance(value, (list, tuple)) else np.asarray(value).tolist())))
    except (TypeError, ValueError, RuntimeError, BufferError):
        # no array: the constructor says so, and for which argument
        return value
    for convert in (operator.index, float):
        if hasattr(value, f"__{convert.__name__}__"):
            try:
                return convert(value)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                pass
    return value


def rebuild(cls, positional, named):
    """Unpickles a loss."""
    return cls(*positional, **dict(named))


cdef tuple NO_NUMBERS = (str, bytes, np.complexfloating, np.timedelta64, np.datetime64)


cdef double finite(str name, x) except? -1:
    """x as a float; NaN and infinities are refused, as is what is no number."""
    try:
        # float() parses text, and drops what makes a number complex, masked or a time
        if isinstance(x, NO_NUMBERS) or _foreign.is_masked(x) or not (hasattr(x, "__float__") or hasattr(x, "__index__")):
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


cdef double share(str name, x) except -1:
    cdef double value = finite(name, x)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {x!r}")
    return value


def flag(name, x):
    """A constructor's argument as a bool."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    raise TypeError(f"{name} must be True or False, got {x!r}")


def integer(name, x, largest=2**31 - 1):
    """A constructor's argument as an int of at most that absolute value."""
    try:
        if isinstance(x, (bool, np.bool_)):
            raise TypeError
        value = operator.index(x)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {x!r}") from None
    if abs(value) > largest:
        raise ValueError(f"{name} must be at most {largest} in absolute value, got {value}")
    return value


cdef int axis_number(str name, int axis, int ndim, str pred) except -1:
    """An axis counted from the front; a scalar counts as having one."""
    cdef int n = max(ndim, 1)
    if not -n <= axis < n:
        raise ValueError(f"{name} must be between {-n} and {n - 1} for a {pred} with {ndim} axes, got {axis}")
    return axis + n if axis < 0 else axis


# how the unreduced loss lies in the first input
LAYOUTS = ("elements", "coupled", "rows", "examples")
cdef enum:
    ELEMENTS    # one for each element
    COUPLED     # the same, but those along an axis depend on each other
    ROWS        # one for each row along an axis
    EXAMPLES    # one for each example: a row is everything but the batch axis

cdef int[INPUTS] GRADIENT_OF = [GRAD, LABEL_GRAD, THIRD_GRAD, -1, WEIGHT_GRAD, -1]
cdef int[OUTPUTS] INPUT_OF = [-1, PRED, PRED, LABEL, THIRD, WEIGHT]      # that a result is a derivative in

cdef struct call_t:
    plan_t plan
    PyObject* given[INPUTS]                 # NULL: not given
    PyObject* checked[INPUTS]               # copies, checked, that are read in place of an input; NULL: the input is
    bint foreign                            # whether one of these is no array of NumPy's
    PyObject* results[OUTPUTS]              # NULL: not wanted
    PyObject* outs[OUTPUTS]                 # the caller's buffers, which the argument out holds; NULL: none
    bint wanted[OUTPUTS]
    bint is_total                           # whether the reduction gives one number
    double total                            # which is the value then
    int gradients[OUTPUTS]                  # those to return, in the order of wrt
    int n_gradients
    int real
    bint is_double
    int n                                   # axes of the unreduced loss, in the order in which its elements are counted
    Py_ssize_t shape[MAX_AXES + 1]
    int order[MAX_AXES + 1]                 # which axis of the unreduced loss as an array each is
    int row_n                               # the same of arrays with rows
    Py_ssize_t row_shape[MAX_AXES + 1]
    int row_order[MAX_AXES + 1]             # which axis of the first input each is
    int batch_item                          # which is the batch axis, -1: none
    Py_ssize_t batch_size
    int along[INPUTS][MAX_AXES + 1]         # by input: which of its axes lies along each


cdef inline void keep(PyObject** slot, x) noexcept:
    """Puts an object where it is owned, in place of what was there."""
    Py_INCREF(x)
    Py_XDECREF(slot[0])
    slot[0] = <PyObject*>x


cdef inline void give(call_t* c, int slot, x) noexcept:
    if x is not None:
        keep(&c.given[slot], x)
        c.foreign |= not cnp.PyArray_CheckExact(x)


cdef class Loss:
    """The base of all losses: everything of a call that is not the formula.

    A loss object holds its parameters and nothing else: it is immutable, hashable, comparable, picklable, and may be
    called from many threads at once. Subclasses name the formula.

    Every loss takes, keyword-only, ``reduction``: "example" is the mean over every axis but ``batch_axis``, a value for
    each example; "none" leaves the value of each element, of each row for the losses over classes; "sum" and "mean" are
    those of all; "weighted_mean" is the sum divided by the sum of the weights. The mean of nothing, or of weights that
    sum to 0, is 0.

    Every method takes the inputs by position or name:

    - pred, float32 or float64 (float16 is computed in float32, integers and lists in float64); results have its dtype,
      but a total, the value of "sum", "mean" or "weighted_mean", is Python's float: it is summed in float64.
    - label, of any real dtype, which has pred's shape; either may lack axes of size 1 that the other has.
    - sample_weight: an array with one axis is one weight per example, any other must broadcast to the unreduced loss. It
      is read in pred's precision. A weight of 0 leaves an example out, whatever its pred and label are: its value,
      gradients and Hessian are 0. SDML keeps such a pair's x2 among those that the other pairs are told from.

    and, keyword-only:

    - out: the arrays for the results, in the structure of what is returned, None for those to allocate. They may have
      any dtype of floats, to which results are rounded as they are stored. One may be the pred or label that it
      replaces; any other overlap is an error. After an error they are untouched; after a MemoryError, or an exception of
      a handler of signals such as KeyboardInterrupt, undefined.
    - head_grad, where a gradient is returned: what flows back into the value, of its shape or a number; 1 by default.
      An array is read in pred's precision.
    - wrt, of ``grad`` and ``value_and_grad``: the name of the input to differentiate with respect to, or a tuple of
      them, for which a tuple of gradients is returned; "pred", the first input, by default. A gradient has its input's
      shape. All come from one pass, but for one in weights that are broadcast in another way than the value is
      reduced, which takes one of its own.

    Raises TypeError for what holds no real numbers and for unknown arguments, ValueError for shapes and labels that do
    not fit. A NaN spoils the value and the gradient of its own example, and the totals that contain it.
    """

    cdef object __weakref__
    cdef readonly tuple arguments   # of the constructor, with their names: what repr, ==, hash and pickle are made of
    cdef int n_positional           # of these, that only their position names
    cdef readonly str expression     # that builds it; torch.compile, which cannot call __repr__, reads it while it traces
    cdef readonly tuple inputs      # their names
    cdef readonly int required      # of these
    cdef readonly tuple fixed       # those that nothing is differentiated with respect to
    cdef readonly str no_hessian    # why there is none
    cdef readonly object domains    # by input: what its numbers mean
    cdef tuple slot_names
    cdef int slot[INPUTS]           # by the input's position in the call
    cdef int layout
    cdef object kernel_object, other_kernel_object, class_weight
    cdef kernel_t* kernel           # for calls without the optional third input
    cdef kernel_t* other_kernel     # for calls with it
    cdef double third_default
    cdef double weight
    cdef int batch_axis, reduction
    cdef int axis                   # of the rows
    cdef bint sparse, from_logits, has_ignore
    cdef bint wide                  # an argument is out of float32's range
    cdef double ignore, smoothing

    def __cinit__(self, *args, **kwargs):
        if type(self) in (Loss, SoftmaxLoss, CosineLoss, SequenceLoss, PairLoss):
            raise TypeError(f"{type(self).__name__} is abstract: build one of its subclasses")
        self.arguments, self.n_positional = arguments_of(type(self), args, kwargs)
        positional, named = self.split()
        self.expression = f"{type(self).__name__}({', '.join([*map(repr, positional), *starmap('{}={!r}'.format, named)])})"

    def __init__(
        self, kernel, weight, batch_axis, reduction, *, base=Loss, layout="elements", axis=-1, other_kernel=None, third_default=1.0,
        inputs=("pred", "label", "sample_weight"), required=2, fixed=(), no_hessian=None, domains={},
    ):
        cdef int k, next_slot = THIRD
        if self.kernel != NULL:
            raise TypeError("a loss is immutable: build a new one")
        # the first of a class's bases says how its calls are run, which only that one's kernels can do
        for kind in (SoftmaxLoss, CosineLoss, SequenceLoss, PairLoss):
            if isinstance(self, kind) != (base is kind):
                raise TypeError(f"{type(self).__name__} derives from two kinds of losses, and is built as the other one")
        slot_names = [None] * HEAD + ["head_grad"]
        for k, name in enumerate(inputs):
            if name == "sample_weight":
                self.slot[k] = WEIGHT
            elif k < 2:
                self.slot[k] = k
            else:
                self.slot[k] = next_slot
                next_slot += 1
            slot_names[self.slot[k]] = name
        self.slot_names = tuple(slot_names)
        if isinstance(weight, (np.ndarray, list, tuple)):
            raise TypeError(f"weight must be a number, got {type(weight).__name__}; weights per example are given in the call, as sample_weight")
        self.weight = 1 if weight is None else finite("weight", weight)
        self.batch_axis = integer("batch_axis", batch_axis)
        self.axis = integer("axis", axis)
        self.layout = LAYOUTS.index(layout)
        if not isinstance(reduction, str) or reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
        self.reduction = REDUCTIONS.index(reduction)
        self.third_default = third_default
        self.inputs, self.required, self.fixed, self.no_hessian = inputs, required, fixed, no_hessian
        self.domains = types.MappingProxyType(dict.fromkeys(inputs, _domains.REAL) | domains)
        self.kernel_object, self.other_kernel_object = kernel, other_kernel
        self.other_kernel = <kernel_t*>PyCapsule_GetPointer(_isa.kernels.table(other_kernel or kernel), "fastloss.kernel")
        self.wide = any(list(map(is_wide, self.arguments)))
        # last: a loss without one cannot be called
        self.kernel = <kernel_t*>PyCapsule_GetPointer(_isa.kernels.table(kernel), "fastloss.kernel")

    cdef tuple split(self):
        """The arguments that only their position names, and the others with their names."""
        given = PyTuple_GetSlice(self.arguments, 0, self.n_positional)
        named = PyTuple_GetSlice(self.arguments, self.n_positional, len(self.arguments))
        return tuple(list(map(operator.itemgetter(1), given))), named

    def __repr__(self):
        return self.expression

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self.arguments == (<Loss>other).arguments

    def __hash__(self):
        return hash((type(self), self.arguments))

    def __reduce__(self):
        return rebuild, (type(self), *self.split())

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

    def validate(self, label=None, pred=None, **inputs):
        """Raise ValueError for the first number, and say where it is, that is not what the loss means.

        Calls do not look: this is for once, before they begin. What each input holds is said by ``domains``. ``label``
        is the input of that name, or the second of a loss without one; ``pred`` is the first. Others have their names.
        Class ids are held against the number of classes where pred or class_weight tells it.
        """
        self.check_built()
        _domains.validate(self, self.inputs, self.domains, label, pred, inputs)

    cdef int check_built(self) except -1:
        if self.kernel == NULL:
            raise TypeError(f"this {type(self).__name__} has not been built: its __init__ has not come to its end")
        return 0

    def value_axes(self, ndim):
        """Return the axes of the first input, which has ndim, that the value has; None if it has one of size 1 instead."""
        cdef int batch, axis = -1
        if self.reduction > NONE or ndim == 0 or self.is_single(ndim):
            return ()
        batch = axis_number("batch_axis", self.batch_axis, ndim, self.inputs[0])
        if self.layout == ROWS:
            axis = axis_number("axis", self.axis, ndim, self.inputs[0])
        if self.reduction == EXAMPLE or self.layout == EXAMPLES:
            return (batch,) if batch != axis else None
        return tuple([k for k in range(ndim) if k != axis])

    def is_separable(self, ndim):
        """Return whether the gradient in the first input is that for ones, times the head_grad along the value's axes."""
        cdef tuple axes = self.value_axes(ndim)
        return axes is not None and (self.layout != COUPLED or axis_number("axis", self.axis, ndim, self.inputs[0]) not in axes)

    @property
    def differentiable(self):
        """The inputs that there are gradients with respect to."""
        return tuple([name for name in self.inputs if name not in self.fixed and not (name == "label" and self.sparse)])

    @property
    def is_elementwise(self):
        """Whether each element of the first input has a loss of its own: the Hessian has its diagonal alone."""
        return self.layout == ELEMENTS

    cdef bint is_single(self, int ndim) noexcept:
        """Whether a first input of so many axes is one example, without the axis of the examples."""
        return False

    cdef evaluate(self, tuple args, dict options, int want):
        cdef call_t c
        cdef int k
        c.foreign = False
        for k in range(INPUTS):
            c.given[k] = c.checked[k] = NULL
        for k in range(OUTPUTS):
            c.results[k] = c.outs[k] = NULL
        try:
            return self.evaluate_call(&c, args, options, want)
        finally:
            for k in range(INPUTS):
                Py_XDECREF(c.given[k])
                Py_XDECREF(c.checked[k])
            for k in range(OUTPUTS):
                Py_XDECREF(c.results[k])

    cdef evaluate_call(self, call_t* c, tuple args, dict options, int want):
        """One call: arrays and their axes, results, the plan, the run."""
        cdef plan_t* p = &c.plan
        cdef int value_axes[MAX_AXES + 1]
        cdef Py_ssize_t dims[MAX_AXES + 1]
        cdef Py_ssize_t n_args = len(args)
        cdef int k, value_ndim
        cdef double count, head_factor = 1
        cdef object out = None, wrt = None

        self.check_built()
        if n_args > len(self.inputs):
            raise TypeError(f"{type(self).__name__} takes at most {len(self.inputs)} inputs ({', '.join(self.inputs)}), got {n_args}")
        for k in range(n_args):
            give(c, self.slot[k], args[k])
        if options:
            out, wrt = self.bind(c, n_args, options, want)
        for k in range(self.required):
            if c.given[self.slot[k]] == NULL:
                raise TypeError(f"{type(self).__name__} needs {', '.join(self.inputs[:self.required - 1])} and {self.inputs[self.required - 1]}")
        if c.foreign:
            backend = backend_for(args) or backend_for(tuple(options.values()))
            if backend is not None:
                return backend.evaluate(self, METHODS[want], args, options)
            # what makes an array of one may change the others: none is looked at before
            for k in range(INPUTS):
                if c.given[k] != NULL:
                    keep(&c.given[k], as_array(<object>c.given[k], self.slot_names[k]))
        if want & WANT_HESS and self.no_hessian is not None:
            raise NotImplementedError(f"{type(self).__name__} has no diagonal Hessian: {self.no_hessian}")

        self.choose_results(c, want, wrt)
        if out is not None:
            spread_out(c, out, want, wrt)
        self.describe_first(c)
        if c.given[WEIGHT] != NULL:
            self.describe_weight(c)
        self.describe_others(c)
        value_ndim = self.value_shape(c, dims, value_axes)
        self.describe_results(c, value_ndim, dims, value_axes)
        if c.given[HEAD] != NULL:
            head_factor = self.describe_head(c, value_ndim, dims, value_axes)
        if out is not None:
            self.check_overlaps(c)
        self.check(c)
        if out is not None:
            stage(c, value_axes, self.reduction == WEIGHTED_MEAN)

        count = 1
        if self.reduction == EXAMPLE:
            count = <double>p.size / <double>c.batch_size if c.batch_size else 0
        elif self.reduction == MEAN:
            count = <double>p.size
        elif self.reduction == WEIGHTED_MEAN:
            count = self.sum_of_weights(p)
        # the mean of nothing is 0
        p.value_scale = self.weight / count if count else 0
        p.grad_scale = p.value_scale * head_factor

        if p.size == 0:
            fill_results(c, 0)
        elif c.given[WEIGHT] != NULL and is_beyond(count, FAR_SUM) and (exponent := exponent_of_weights(c)):
            self.evaluate_otherwise(c, want, wrt, exponent)
        elif not c.is_double and (
                self.wide or is_beyond(p.value_scale, FAR_IN_SINGLE) or is_beyond(p.grad_scale, FAR_IN_SINGLE)
                or c.given[WEIGHT] != NULL and self.reduction == WEIGHTED_MEAN and is_beyond(count, FAR_WEIGHTS_IN_SINGLE)):
            self.evaluate_otherwise(c, want, wrt, 0)
        else:
            if self.reduction == WEIGHTED_MEAN and c.wanted[WEIGHT_GRAD] and count:
                self.run_with_shares(c, head_factor / count)
            else:
                self.run(c)
        if out is not None:
            store_outs(c)
        return package(c, want, wrt)

    cdef int evaluate_otherwise(self, call_t* c, int want, wrt, int exponent) except -1:
        """Fills the results from a call in float64, of weights times 2^exponent: this one would leave the range."""
        cdef dict named = {}
        cdef int k
        cdef tuple parts, gradients
        cdef bint single = want == WANT_VALUE or want == WANT_GRAD
        # as arrays: an argument may be one that can be read but once
        for k in range(INPUTS):
            if c.given[k] != NULL:
                named[self.slot_names[k]] = <object>c.given[k]
        if wrt is not None:
            named["wrt"] = wrt
        with np.errstate(all="ignore"):
            named[self.inputs[0]] = np.asarray(<object>c.given[PRED], np.float64)
            if c.given[WEIGHT] != NULL:
                named["sample_weight"] = np.ldexp(np.asarray(<object>c.given[WEIGHT], np.float64), exponent)
            found = self.evaluate((), named, want)
            parts = (found,) if single else found
            if want & WANT_VALUE and c.is_total:
                c.total = parts[0]
            elif want & WANT_VALUE:
                (<object>c.results[VALUE])[...] = parts[0]
            if want & WANT_HESS:
                (<object>c.results[HESS])[...] = parts[len(parts) - 1]
            if want & WANT_GRAD:
                gradient = parts[1 if want & WANT_VALUE else 0]
                gradients = gradient if isinstance(wrt, tuple) else (gradient,)
                for k in range(c.n_gradients):
                    scaled = np.ldexp(gradients[k], exponent) if c.gradients[k] == WEIGHT_GRAD else gradients[k]
                    (<object>c.results[c.gradients[k]])[...] = scaled
        return 0

    cdef tuple bind(self, call_t* c, Py_ssize_t n_args, dict options, int want):
        """Puts the inputs that were given by name where they belong; returns out and wrt."""
        cdef object out = None, wrt = None
        cdef int k
        for name, x in options.items():
            if name == "out":
                out = x
            elif name == "head_grad" and want & WANT_GRAD:
                give(c, HEAD, x)
            elif name == "wrt" and want & WANT_GRAD and not want & WANT_HESS:
                wrt = x
            elif name in self.inputs:
                k = self.inputs.index(name)
                if k < n_args:
                    raise TypeError(f"{type(self).__name__} got {name} twice, by position and by name")
                give(c, self.slot[k], x)
            else:
                raise TypeError(_foreign.unknown_keyword(type(self).__name__, self.inputs, METHODS[want], name))
        return out, wrt

    cdef str result_name(self, int kind):
        return "value" if kind == VALUE else "gradient" if kind == GRAD else "Hessian" if kind == HESS else f"gradient of {self.slot_names[INPUT_OF[kind]]}"

    cdef int describe_first(self, call_t* c) except -1:
        """Finds the axes of the unreduced loss in the first input."""
        cdef plan_t* p = &c.plan
        cdef cnp.ndarray pred = self.array_given(c, PRED)
        cdef int ndim = cnp.PyArray_NDIM(pred), i, k, kind = kind_of(pred), axis = -1, batch = -1
        cdef bint turned
        if self.layout != EXAMPLES or not self.is_single(ndim):
            batch = axis_number("batch_axis", self.batch_axis, ndim, self.inputs[0])
        if kind == LONGDOUBLE:
            raise TypeError(f"{self.inputs[0]} must be float32 or float64 (float16 is computed in float32, integers in float64), got dtype {pred.dtype}")
        c.is_double = kind != FLOAT32 and kind != FLOAT16
        c.real = FLOAT64 if c.is_double else FLOAT32
        if self.layout == COUPLED or self.layout == ROWS:
            if ndim == 0:
                raise ValueError(f"{self.inputs[0]} must have a {'class' if 'label' in self.inputs[:2] else 'feature'} axis, got a scalar")
            axis = axis_number("axis", self.axis, ndim, self.inputs[0])

        # the rows' axes come last
        c.n = 0
        c.batch_item = -1
        p.size = 1
        turned = self.lies_turned(c, pred)
        for i in range(ndim):
            k = ndim - 1 - i if turned else i
            if k == axis or self.layout == EXAMPLES and k != batch:
                continue
            if k == batch:
                c.batch_item = c.n
            c.shape[c.n] = c.row_shape[c.n] = pred.shape[k]
            c.row_order[c.n] = k
            c.order[c.n] = k if turned else c.n
            p.size *= pred.shape[k]
            c.n += 1
        c.row_n = c.n
        p.width = p.unit = 1
        if c.n != ndim:
            for k in range(ndim):
                if k == axis or self.layout == EXAMPLES and k != batch:
                    c.row_shape[c.row_n] = pred.shape[k]
                    c.row_order[c.row_n] = k
                    p.width *= pred.shape[k]
                    c.row_n += 1
        if self.layout == COUPLED:
            p.size *= p.width
            p.unit = p.width
            c.shape[c.n] = p.width
            c.n = ndim
            for k in range(ndim):
                c.order[k] = c.row_order[k]
                if c.order[k] == batch:
                    c.batch_item = k
        if self.layout < ROWS:
            p.width = 0
        c.batch_size = c.shape[c.batch_item] if c.batch_item >= 0 else 1
        c.is_total = self.reduction > NONE

        if max(p.size, <Py_ssize_t>1) > MAX_ELEMENTS // max(p.width, <Py_ssize_t>1):
            raise ValueError(f"{self.inputs[0]} must have at most {MAX_ELEMENTS} elements, got shape {shape_text(pred)}")

        p.kernel = self.kernel.kernel
        p.rows = self.kernel.rows[c.is_double]
        p.row_buffers = self.kernel.row_buffers
        p.memory = NULL
        p.watch = NULL
        p.weights_only = False
        p.sparse = self.sparse
        p.short = 0 < p.width * (8 if c.is_double else 4) <= SHORT_ROW_BYTES and self.sparse and self.smoothing == 0 and not self.from_logits
        if p.short:
            for k in range(ndim - 1, 0, -1):
                c.row_shape[k] = c.row_shape[k - 1]
                c.row_order[k] = c.row_order[k - 1]
            c.row_shape[0] = p.width
            c.row_order[0] = axis
        p.from_logits = self.from_logits
        p.has_ignore = self.has_ignore
        p.ignore = self.ignore
        p.smoothing = self.smoothing
        p.class_weight = NULL
        p.work = p.size * max(p.width, 1) * (1 if self.kernel.light else HEAVY)
        p.extra = 0
        for k in range(INPUTS):
            p.inputs[k].data = NULL
        for k in range(OUTPUTS):
            p.outputs[k].data = NULL
        for k in range(c.row_n):
            c.along[PRED][k] = c.row_order[k]
        self.describe_input(c, PRED, pred, self.layout >= ROWS)
        return 0

    cdef bint lies_turned(self, const call_t* c, cnp.ndarray pred):
        """Whether elements are taken in Fortran's order, as pred and the caller's buffers lie. Sums are taken in C order."""
        cdef int kind
        if self.layout != ELEMENTS or cnp.PyArray_IS_C_CONTIGUOUS(pred) or not cnp.PyArray_IS_F_CONTIGUOUS(pred):
            return False
        if c.wanted[VALUE] and self.reduction != NONE or c.wanted[WEIGHT_GRAD] or c.wanted[THIRD_GRAD]:
            return False
        # a weighted mean divides by the sum of its weights
        if self.reduction == WEIGHTED_MEAN and c.given[WEIGHT] != NULL:
            return False
        for kind in range(THIRD_GRAD):
            if c.wanted[kind] and (c.outs[kind] == NULL or not is_turned(<object>c.outs[kind])):
                return False
        return True

    cdef void describe_input(self, call_t* c, int slot, cnp.ndarray a, bint rows) noexcept:
        describe(&c.plan.inputs[slot], a, &c.row_shape[0] if rows else &c.shape[0], c.along[slot], c.row_n if rows else c.n, rows, c.real)

    cdef cnp.ndarray array_given(self, const call_t* c, int slot):
        return numbers(<cnp.ndarray>c.given[slot], self.slot_names[slot])

    cdef int describe_like_first(self, call_t* c, int slot) except -1:
        """An input of the first one's shape; either may lack axes of size 1 that the other has."""
        cdef int k
        cdef int whole[MAX_AXES + 1]
        cdef cnp.ndarray pred = <cnp.ndarray>c.given[PRED]
        cdef cnp.ndarray a = self.array_given(c, slot)
        if not match_squeezed(a, <Py_ssize_t*>cnp.PyArray_DIMS(pred), cnp.PyArray_NDIM(pred), whole):
            raise ValueError(
                f"{self.slot_names[slot]} must have {self.inputs[0]}'s shape {shape_text(pred)}, though one of the two may lack axes of size 1, "
                f"got shape {shape_text(a)}{self.shape_hint(c, pred, a)}")
        for k in range(c.row_n):
            c.along[slot][k] = whole[c.row_order[k]]
        self.describe_input(c, slot, a, self.layout >= ROWS)
        return 0

    cdef int describe_per_row(self, call_t* c, int slot) except -1:
        """An input of the unreduced loss's shape; either may lack axes of size 1 that the other has."""
        cdef cnp.ndarray pred = <cnp.ndarray>c.given[PRED]
        cdef cnp.ndarray a = self.array_given(c, slot)
        if not match_squeezed(a, c.shape, c.n, c.along[slot]):
            raise ValueError(
                f"{self.slot_names[slot]} must have {self.inputs[0]}'s shape {shape_text(pred)} without axis {c.row_order[0 if c.plan.short else c.n]}, "
                f"{shape_tuple(c.shape, c.n)}, got shape {shape_text(a)}"
                f"{self.shape_hint(c, pred, a) or ', though one of the two may lack axes of size 1'}")
        self.describe_input(c, slot, a, False)
        return 0

    cdef str shape_hint(self, const call_t* c, cnp.ndarray pred, cnp.ndarray a):
        return ""

    cdef int describe_others(self, call_t* c) except -1:
        """The inputs between the first and the weights: their axes, and the kernel that takes them."""
        cdef cnp.ndarray third
        cdef kernel_t* kernel = self.kernel
        self.describe_like_first(c, LABEL)
        if self.required > 2:
            self.describe_like_first(c, THIRD)
        elif c.given[THIRD] != NULL:
            name = self.slot_names[THIRD]
            third = self.array_given(c, THIRD)
            kernel = self.other_kernel
            if name in self.fixed:
                if cnp.PyArray_NDIM(third) != 0:
                    raise ValueError(f"{name} must be a number, got an array of shape {shape_text(third)}")
                finite(name, third)
            if not self.match_unreduced(c, THIRD, third):
                raise ValueError(f"{name} must broadcast to {self.inputs[0]}'s shape {shape_text(<cnp.ndarray>c.given[PRED])}, got shape {shape_text(third)}{_foreign.about_weights(third)}")
            if kernel.inputs == 3:
                self.describe_input(c, THIRD, third, False)
        elif kernel.inputs == 3:
            describe_number(&c.plan.inputs[THIRD], &self.third_default, c.plan.size)
        c.plan.kernel = kernel.kernel
        return 0

    cdef bint match_unreduced(self, call_t* c, int slot, cnp.ndarray a) noexcept:
        """Whether an input broadcasts to the unreduced loss; which of its axes lies along each."""
        cdef int k
        cdef int[MAX_AXES + 1] whole
        cdef Py_ssize_t[MAX_AXES + 1] dims
        for k in range(c.n):
            dims[c.order[k]] = c.shape[k]
        if not match_broadcast(a, dims, c.n, whole):
            return False
        for k in range(c.n):
            c.along[slot][k] = whole[c.order[k]]
        return True

    cdef int describe_weight(self, call_t* c) except -1:
        """Along which axes of the unreduced loss sample_weight lies."""
        cdef cnp.ndarray weight, pred = <cnp.ndarray>c.given[PRED]
        cdef int k, ndim
        cdef int whole[MAX_AXES + 1]
        cdef Py_ssize_t dims[MAX_AXES + 1]
        cdef bint good
        cdef int* axes = c.along[WEIGHT]
        weight = self.array_given(c, WEIGHT)
        ndim = cnp.PyArray_NDIM(weight)
        if ndim == 1 and (c.batch_item >= 0 or c.n == 0):
            good = weight.shape[0] == c.batch_size or weight.shape[0] == 1
            for k in range(c.n):
                axes[k] = 0 if k == c.batch_item else -1
        elif self.layout == ROWS and ndim == cnp.PyArray_NDIM(pred):
            # that of the rows may be there with size 1
            k = c.row_order[0 if c.plan.short else c.n]
            good = weight.shape[k] == 1 and match_broadcast(weight, <Py_ssize_t*>cnp.PyArray_DIMS(pred), ndim, whole)
            for k in range(c.n):
                axes[k] = c.row_order[k + 1 if c.plan.short else k]
        else:
            good = self.match_unreduced(c, WEIGHT, weight)
        if not good:
            for k in range(c.n):
                dims[c.order[k]] = c.shape[k]
            raise ValueError(
                f"sample_weight must be one weight per example, shape ({c.batch_size},), or broadcast to the unreduced loss, "
                f"shape {shape_tuple(dims, c.n)}, got shape {shape_text(weight)}{_foreign.about_weights(weight)}")
        self.describe_input(c, WEIGHT, weight, False)
        return 0

    cdef int choose_results(self, call_t* c, int want, wrt) except -1:
        """What is wanted, and in which order the gradients are returned."""
        cdef int k
        for k in range(OUTPUTS):
            c.wanted[k] = False
        c.wanted[VALUE] = want & WANT_VALUE
        c.wanted[HESS] = want & WANT_HESS
        c.n_gradients = 0
        if not want & WANT_GRAD:
            return 0
        if wrt is None:
            c.wanted[GRAD] = True
            c.gradients[0] = GRAD
            c.n_gradients = 1
        else:
            self.choose_gradients(c, wrt)
        return 0

    cdef int choose_gradients(self, call_t* c, wrt) except -1:
        cdef tuple names = items(wrt) if isinstance(wrt, tuple) else (wrt,)
        cdef int k, kind
        for given in names:
            if not isinstance(given, str) or given not in self.inputs:
                raise ValueError(f"wrt must name inputs of {type(self).__name__}, {', '.join(map(repr, self.inputs))}, got {given!r}")
            # a text's class may have its own idea of what is equal
            k = self.inputs.index(given)
            name = self.inputs[k]
            if name in self.fixed or name == "label" and self.sparse:
                what = "class ids are" if name == "label" and self.sparse else f"{name} is"
                raise ValueError(f"wrt={name!r}: {what} not something to differentiate with respect to")
            if c.given[self.slot[k]] == NULL:
                raise ValueError(f"wrt={name!r}, but the call has no {name}")
            kind = GRADIENT_OF[self.slot[k]]
            if c.wanted[kind]:
                raise ValueError(f"wrt must name one or more different inputs, got {wrt!r}")
            c.wanted[kind] = True
            c.gradients[c.n_gradients] = kind
            c.n_gradients += 1
        if not names:
            raise ValueError(f"wrt must name one or more different inputs, got {wrt!r}")
        return 0

    cdef int value_shape(self, const call_t* c, Py_ssize_t* dims, int* axes) noexcept:
        """The value's axes: how many, their sizes, and which of them lies along each axis of the unreduced loss."""
        cdef int k
        for k in range(c.n):
            axes[k] = c.order[k] if self.reduction == NONE else (0 if self.reduction == EXAMPLE and k == c.batch_item else -1)
            if self.reduction == NONE:
                dims[c.order[k]] = c.shape[k]
        if self.reduction == NONE:
            return c.n
        if self.reduction != EXAMPLE or c.row_n == 0 or self.layout == EXAMPLES and c.n == 0:
            return 0
        dims[0] = c.batch_size
        return 1

    cdef int describe_results(self, call_t* c, int value_ndim, const Py_ssize_t* dims, const int* value_axes) except -1:
        """The arrays for the results, new or the caller's. A gradient lies like its input."""
        cdef plan_t* p = &c.plan
        cdef cnp.ndarray like, result
        cdef int k, slot
        cdef bint rows
        if self.reduction == WEIGHTED_MEAN and c.wanted[WEIGHT_GRAD]:
            # the gradient in the weights holds the value
            c.wanted[VALUE] = True
        for k in range(OUTPUTS):
            if not c.wanted[k]:
                continue
            if k == VALUE and c.is_total:
                # rounded to nothing less than what it was summed in
                describe_number(&p.outputs[k], &c.total, p.size)
                p.outputs[k].reduced = True
                if c.outs[k] != NULL:
                    keep(&c.results[k], self.new_result(c, value_ndim, dims, k))
                continue
            if k == VALUE:
                result = self.new_result(c, value_ndim, dims, k)
                describe(&p.outputs[k], result, c.shape, value_axes, c.n, False, c.real)
            else:
                slot = INPUT_OF[k]
                like = <cnp.ndarray>c.given[slot]
                rows = p.inputs[slot].rows
                result = self.new_result(c, cnp.PyArray_NDIM(like), <Py_ssize_t*>cnp.PyArray_DIMS(like), k)
                describe(&p.outputs[k], result, &c.row_shape[0] if rows else &c.shape[0], c.along[slot], c.row_n if rows else c.n, rows, c.real)
            keep(&c.results[k], result)
            p.outputs[k].reduced = not p.outputs[k].rows and p.outputs[k].size != p.size
            if c.outs[k] != NULL and p.outputs[k].direct and self.kernel.light and p.outputs[k].size >= STREAMED:
                # not into fresh memory: the system has just brought it into the cache, by zeroing it
                p.outputs[k].direct = False
                p.outputs[k].streamed = True
        return 0

    cdef cnp.ndarray new_result(self, const call_t* c, int ndim, const Py_ssize_t* shape, int kind):
        """The array for a result: a new one, or the caller's, if it fits."""
        cdef cnp.ndarray a
        if c.outs[kind] == NULL:
            return cnp.PyArray_SimpleNew(ndim, <cnp.npy_intp*>shape, cnp.NPY_DOUBLE if c.is_double else cnp.NPY_FLOAT)
        out = <object>c.outs[kind]
        # by its type alone: what it says of its class would be code that may change what has been looked at
        if not cnp.PyArray_CheckExact(out) and (not cnp.PyArray_Check(out) or _foreign.is_kind_of_masked(type(out))):
            raise TypeError(f"out for the {self.result_name(kind)} must be an array or None, got {type(out).__name__}")
        a = memory_of(out)
        if kind_of(a) < FLOAT16 or cnp.PyArray_ISBYTESWAPPED(a):
            raise TypeError(
                f"out for the {self.result_name(kind)} must have a dtype of floats in this machine's byte order, such as float32 or float64, got {a.dtype.str}")
        if not has_shape(a, shape, ndim):
            raise ValueError(f"out for the {self.result_name(kind)} must have shape {shape_tuple(shape, ndim)}, got {shape_text(a)}")
        if not cnp.PyArray_ISWRITEABLE(a):
            raise ValueError(f"out for the {self.result_name(kind)} is read-only")
        if overlaps_itself(a):
            raise ValueError(f"out for the {self.result_name(kind)} has elements that share memory with each other")
        return a

    cdef int check_overlaps(self, call_t* c) except -1:
        """The caller's buffers may not share memory with each other, nor with an input, unless element lies exactly over element."""
        cdef plan_t* p = &c.plan
        cdef int k, i
        for k in range(OUTPUTS):
            if c.outs[k] == NULL:
                continue
            for i in range(k + 1, OUTPUTS):
                if c.outs[i] != NULL and overlap(<cnp.ndarray>c.results[k], <cnp.ndarray>c.results[i]):
                    raise ValueError(f"out for the {self.result_name(k)} and for the {self.result_name(i)} share memory")
            for i in range(INPUTS):
                if c.given[i] == NULL or not overlap(<cnp.ndarray>c.results[k], <cnp.ndarray>c.given[i]):
                    continue
                # a block's inputs are read before its results are written, but for the weights
                if i < WEIGHT and not p.outputs[k].reduced and same_layout(&p.outputs[k], &p.inputs[i]):
                    if p.rows == NULL:
                        # the loops over elements take it that their results lie apart from their inputs
                        p.outputs[k].direct = False
                    continue
                raise ValueError(f"out for the {self.result_name(k)} shares memory with {self.slot_names[i]}, which it would overwrite before it is read")
        return 0

    cdef double describe_head(self, call_t* c, int value_ndim, const Py_ssize_t* dims, const int* value_axes) except? -1:
        """head_grad, where it is an array, lies like the value; returns the factor that it is otherwise."""
        cdef cnp.ndarray head = self.array_given(c, HEAD)
        cdef int[MAX_AXES + 1] whole
        cdef int k
        if cnp.PyArray_NDIM(head) == 0:
            return float(head)
        if not match_squeezed(head, dims, value_ndim, whole):
            raise ValueError(f"head_grad must be a number or have the value's shape {shape_tuple(dims, value_ndim)}, got shape {shape_text(head)}")
        for k in range(c.n):
            c.along[HEAD][k] = whole[value_axes[k]] if value_axes[k] >= 0 else -1
        describe(&c.plan.inputs[HEAD], head, c.shape, c.along[HEAD], c.n, False, c.real)
        return 1

    cdef int check(self, call_t* c) except -1:
        """Refuses inputs for their values."""
        return 0

    cdef Py_ssize_t bad_integer(self, call_t* c, int slot, double low, double high, double also) except -2:
        """The position of the first number of an input that is no integer from low to high, nor `also`; -1 if all are.

        The input lies like the unreduced loss.
        """
        cdef plan_t* p = &c.plan
        cdef watch_t watch
        cdef Py_ssize_t bad
        if p.size < WORK_FOR_A_THREAD:
            return runner.bad_integer(p, &p.inputs[slot], &p.inputs[WEIGHT], 0, p.size, low, high, also, NULL)
        begin_watch(p, &watch)
        with nogil:
            bad = runner.bad_integer(p, &p.inputs[slot], &p.inputs[WEIGHT], 0, p.size, low, high, also, NULL)
        end_watch(p)
        return bad

    cdef int run(self, call_t* c) except -1:
        cdef plan_t* p = &c.plan
        cdef bint needs_loss = c.wanted[VALUE] or c.wanted[WEIGHT_GRAD]
        cdef bint everything = c.wanted[LABEL_GRAD] or c.wanted[THIRD_GRAD]
        cdef kernel_t* kernel = self.kernel if c.given[THIRD] == NULL else self.other_kernel
        p.loop = kernel.loops[c.is_double][
            PASS_EVERYTHING if everything else
            (PASS_ALL_OF_PRED if needs_loss else PASS_GRADIENT_HESSIAN) if c.wanted[HESS] else
            PASS_GRADIENT if not needs_loss else
            PASS_VALUE_GRADIENT if c.wanted[GRAD] else PASS_VALUE]
        p.sum = NULL
        if c.wanted[VALUE] and p.outputs[VALUE].reduced and p.inputs[WEIGHT].data == NULL and not (
                everything or c.wanted[HESS] or c.wanted[WEIGHT_GRAD]):
            p.sum = kernel.sums[c.is_double][c.wanted[GRAD]]
        execute(p, c.is_double)
        return 0

    cdef int run_with_shares(self, call_t* c, double factor) except -1:
        """The gradient in the weights of a weighted mean, which divides by them, too."""
        cdef cnp.ndarray gradient = <cnp.ndarray>c.results[WEIGHT_GRAD]
        # first: the results may lie over the labels
        cdef object shares = self.shares(c)
        self.run(c)
        factor *= c.total
        if c.is_double:
            take_shares(<double*>cnp.PyArray_DATA(gradient), shares, cnp.PyArray_SIZE(gradient), factor)
        else:
            take_shares(<float*>cnp.PyArray_DATA(gradient), shares, cnp.PyArray_SIZE(gradient), factor)
        return 0

    cdef bint is_weighted_by_label(self):
        """Whether examples count by their label: not if ignored, and by their class's weight."""
        return self.sparse and (self.has_ignore or self.class_weight is not None)

    cdef shares(self, const call_t* c):
        """The derivative of the sum of the weights in sample_weight: a number where that is the same for all."""
        cdef plan_t p = c.plan
        cdef cnp.ndarray gradient = <cnp.ndarray>c.results[WEIGHT_GRAD], counts
        cdef int k
        if not self.is_weighted_by_label():
            return <double>p.size / <double>cnp.PyArray_SIZE(gradient)
        counts = np.empty((<object>gradient).shape, np.float64)
        for k in range(OUTPUTS):
            p.outputs[k].data = NULL
        describe(&p.outputs[WEIGHT_GRAD], counts, c.shape, c.along[WEIGHT], c.n, False, FLOAT64)
        p.outputs[WEIGHT_GRAD].reduced = p.outputs[WEIGHT_GRAD].size != p.size
        p.inputs[WEIGHT].data = NULL
        p.inputs[HEAD].data = NULL
        p.weights_only = True
        p.rows = self.kernel.rows[True]
        p.grad_scale = 1
        execute(&p, True)
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
        describe_number(&q.outputs[VALUE], &total, p.size)
        q.outputs[VALUE].reduced = True
        if q.inputs[WEIGHT].data != NULL and q.inputs[WEIGHT].type != FLOAT64:
            q.inputs[WEIGHT].direct = False
        q.inputs[HEAD].data = NULL
        q.weights_only = True
        q.rows = self.kernel.rows[True]
        q.value_scale = 1
        execute(&q, True)
        return total


# 2^100, 2^500 and 2^900
# 2^100, and of weights, which the losses are multiplied by before the sum of them divides it, 2^40
cdef double FAR_IN_SINGLE = 1.2676506002282294e+30
cdef double FAR_WEIGHTS_IN_SINGLE = 1.099511627776e+12
# 2^300 and 2^200
cdef double FAR_SUM = 2.037035976334486e+90
cdef double FAR_WEIGHT = 1.6069380442589903e+60


cdef inline bint is_beyond(double x, double far) noexcept:
    """Whether a number is larger than another, or nearer to 0 than its reciprocal, but not 0."""
    return not (fabs(x) <= far and fabs(x) * far >= 1) and x != 0


def is_wide(argument):
    """Whether an argument of a constructor is, or holds, a number that float32 does not, or with few digits."""
    _, value = argument
    for x in value if isinstance(value, tuple) else (value,):
        if isinstance(x, float) and math.isfinite(x) or isinstance(x, int) and abs(x) < 2**1000:
            if is_beyond(x, FAR_IN_SINGLE):
                return True
    return False


cdef int exponent_of_weights(const call_t* c) except? -1:
    """That of the power of two which brings the weights near 1, for their sum to have a reciprocal; else 0."""
    largest = float(np.max(np.abs(<object>c.given[WEIGHT]), initial=0))
    return -math.frexp(largest)[1] if math.isfinite(largest) and is_beyond(largest, FAR_WEIGHT) else 0


cdef int take_shares(floating* gradient, shares, Py_ssize_t n, double factor) except -1:
    """Takes shares times a factor from a gradient. NumPy would warn of what is infinite, or enter a context to be quiet."""
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


cdef tuple shape_tuple(const Py_ssize_t* shape, int n):
    cdef tuple result = ()
    cdef int k
    for k in range(n):
        result += (shape[k],)
    return result


cdef int stage(call_t* c, const int* value_axes, bint has_shares) except -1:
    """Puts new arrays in the place of the caller's that are not contiguous and of the loops' dtype, where these are needed.

    Sums need them, and so do the gradients in weights that a weighted mean takes shares from.
    """
    cdef plan_t* p = &c.plan
    cdef cnp.ndarray a
    cdef int k
    for k in range(OUTPUTS):
        if c.outs[k] == NULL or k == VALUE and c.is_total or not (p.outputs[k].reduced or k == WEIGHT_GRAD and has_shares):
            continue
        a = <cnp.ndarray>c.results[k]
        if p.outputs[k].type == c.real and cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISALIGNED(a):
            continue
        contiguous = cnp.PyArray_SimpleNew(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.NPY_DOUBLE if c.is_double else cnp.NPY_FLOAT)
        keep(&c.results[k], contiguous)
        describe(&p.outputs[k], contiguous, c.shape, value_axes if k == VALUE else &c.along[WEIGHT][0] if k == WEIGHT_GRAD else &c.along[THIRD][0], c.n, False, c.real)
        p.outputs[k].reduced = p.outputs[k].size != p.size
    return 0


cdef int store_outs(call_t* c) except -1:
    """Stores in the caller's buffers what was computed elsewhere: totals, and what stage() has put in their place."""
    cdef cnp.ndarray a
    cdef array_t d
    cdef int k
    cdef int[MAX_AXES] axes
    cdef const void* source
    for k in range(MAX_AXES):
        axes[k] = k
    for k in range(OUTPUTS):
        if c.outs[k] == NULL:
            continue
        a = memory_of(<object>c.outs[k])
        source = cnp.PyArray_DATA(<cnp.ndarray>c.results[k])
        if k == VALUE and c.is_total:
            source = &c.total
        elif source == cnp.PyArray_DATA(a):
            continue
        describe(&d, a, <Py_ssize_t*>cnp.PyArray_DIMS(a), axes, cnp.PyArray_NDIM(a), False, c.real)
        runner.store(&d, cnp.PyArray_SIZE(a), source, c.is_double or source == &c.total)
    return 0


cdef inline cnp.ndarray memory_of(out):
    """An array over the memory of the caller's: a subclass may do as it likes with all else."""
    return out if cnp.PyArray_CheckExact(out) else np.asarray(out)


cdef int spread_out(call_t* c, out, int want, wrt) except -1:
    """The caller's buffers, by what they are for. out has the structure of what the method returns."""
    cdef int k, n = (want & WANT_VALUE != 0) + (want & WANT_GRAD != 0) + (want & WANT_HESS != 0)
    cdef tuple parts = (out,) if n == 1 else items(out) if isinstance(out, tuple) else ()
    cdef tuple gradients
    if len(parts) != n:
        raise TypeError(f"out must be a tuple of {n}, one array or None per result, got {describe_out(out)}")
    if want & WANT_VALUE:
        lend(&c.outs[VALUE], parts[0])
    if want & WANT_HESS:
        lend(&c.outs[HESS], parts[n - 1])
    if want & WANT_GRAD:
        part = parts[1 if want & WANT_VALUE else 0]
        if not isinstance(wrt, tuple):
            lend(&c.outs[c.gradients[0]], part)
        elif part is not None:
            gradients = items(part) if isinstance(part, tuple) else ()
            if len(gradients) != c.n_gradients:
                raise TypeError(f"out for the gradients must be a tuple of {c.n_gradients}, one array or None per input in wrt, got {describe_out(part)}")
            for k in range(c.n_gradients):
                lend(&c.outs[c.gradients[k]], gradients[k])
    return 0


cdef tuple items(x):
    """What a tuple holds, whatever its class makes of that."""
    return PyTuple_GetSlice(x, 0, PY_SSIZE_T_MAX)


cdef inline void lend(PyObject** slot, x) noexcept:
    if x is not None:
        slot[0] = <PyObject*>x


cdef str describe_out(out):
    return f"a tuple of {len(out)}" if isinstance(out, tuple) else type(out).__name__


cdef result(const call_t* c, int kind):
    """The caller's array, or a new one; a number as a NumPy scalar."""
    if c.outs[kind] != NULL:
        return <object>c.outs[kind]
    if kind == VALUE and c.is_total:
        return c.total
    a = <object>c.results[kind]
    return a[()] if cnp.PyArray_NDIM(a) == 0 else a


cdef package(const call_t* c, int want, wrt):
    """What the method returns: a result, or a tuple of them."""
    cdef int k
    if want == WANT_VALUE:
        return result(c, VALUE)
    if isinstance(wrt, tuple):
        gradient = ()
        for k in range(c.n_gradients):
            gradient += (result(c, c.gradients[k]),)
    else:
        gradient = result(c, c.gradients[0])
    if want == WANT_GRAD:
        return gradient
    if want == WANT_VALUE | WANT_GRAD:
        return result(c, VALUE), gradient
    if want == WANT_GRAD | WANT_HESS:
        return gradient, result(c, HESS)
    return result(c, VALUE), gradient, result(c, HESS)


cdef void fill_results(call_t* c, double x):
    cdef int k
    for k in range(OUTPUTS):
        if c.results[k] != NULL:
            (<object>c.results[k]).fill(x)
    c.total = x


cdef bint are_weights(cnp.ndarray a) noexcept:
    """Whether an array of doubles is a list of finite numbers."""
    cdef const double* x = <const double*>cnp.PyArray_DATA(a)
    cdef Py_ssize_t k
    if cnp.PyArray_NDIM(a) != 1:
        return False
    for k in range(a.shape[0]):
        if not -INFINITY < x[k] < INFINITY:
            return False
    return True


cdef class SoftmaxLoss(Loss):
    """The base of the cross-entropies over classes, whose unreduced loss has pred's shape without the class axis."""

    def __init__(self, weight, batch_axis, reduction, *, axis, sparse_label, from_logits, ignore_index, label_smoothing, class_weight, domains):
        cdef bint sparse = flag("sparse_label", sparse_label), is_log = flag("from_logits", from_logits)
        cdef double ignore = 0, smoothing = share("label_smoothing", label_smoothing)
        weights = None
        if ignore_index is not None:
            # ids are compared as doubles, to which no other integer than itself is rounded below 2^53
            ignore = integer("ignore_index", ignore_index, 2**53 - 1)
            if not sparse:
                raise ValueError("ignore_index needs sparse_label=True; give examples with dense labels a sample_weight of 0")
        if class_weight is not None:
            given = numbers(as_array(class_weight, "class_weight"), "class_weight")
            if kind_of(given) == LONGDOUBLE:
                # number by number: NumPy's cast of an array warns of what float64 does not hold
                given = np.reshape(list(map(float, given.ravel())), given.shape)
            weights = np.array(given, np.float64)
            if not are_weights(weights):
                raise ValueError(f"class_weight must be one finite weight per class, got {class_weight!r}")
        # from here on it can be called
        super().__init__(_isa.kernels.SoftmaxCrossEntropy(), weight, batch_axis, reduction, base=SoftmaxLoss, layout="rows", axis=axis, domains=domains)
        if sparse and weights is not None and self.reduction == WEIGHTED_MEAN:
            # which divides by them: a power of two that they have in common changes nothing
            largest = float(np.max(np.abs(weights), initial=0))
            if is_beyond(largest, FAR_WEIGHTS_IN_SINGLE):
                weights = np.ldexp(weights, -math.frexp(largest)[1])
        self.sparse, self.from_logits, self.smoothing, self.class_weight = sparse, is_log, smoothing, weights
        self.has_ignore, self.ignore = ignore_index is not None, ignore

    cdef int describe_others(self, call_t* c) except -1:
        if self.sparse:
            self.describe_per_row(c, LABEL)
        else:
            self.describe_like_first(c, LABEL)
        if self.class_weight is not None:
            if self.class_weight.shape[0] != c.plan.width:
                raise ValueError(f"pred must have as many classes as class_weight, {self.class_weight.shape[0]}, got shape {shape_text(<cnp.ndarray>c.given[PRED])} with {c.plan.width}")
            c.plan.class_weight = <const double*>cnp.PyArray_DATA(self.class_weight)
        return 0

    cdef int run(self, call_t* c) except -1:
        if c.plan.width:
            execute(&c.plan, c.is_double)
        else:
            # no classes, no targets
            fill_results(c, 0)
        return 0

    cdef str shape_hint(self, const call_t* c, cnp.ndarray pred, cnp.ndarray a):
        if not self.sparse:
            return "; class ids need sparse_label=True"
        return "; for one-hot or soft labels build the loss with sparse_label=False" if cnp.PyArray_SIZE(a) == cnp.PyArray_SIZE(pred) else ""

    cdef int check(self, call_t* c) except -1:
        cdef Py_ssize_t bad, classes = c.plan.width
        if not self.sparse or c.plan.size == 0:
            return 0
        bad = self.bad_integer(c, LABEL, 0, classes - 1, self.ignore if self.has_ignore else NAN)
        if bad >= 0:
            refuse(<cnp.ndarray>c.given[LABEL], bad, "label", f"class ids from 0 to {classes - 1},", "; to leave examples out, build the loss with ignore_index=")
        return 0


cdef class CosineLoss(Loss):
    """The base of the losses of pairs of vectors with a label of 1 or -1."""

    def __init__(self, kernel, weight, batch_axis, reduction, *, axis, domains):
        super().__init__(
            kernel, weight, batch_axis, reduction, base=CosineLoss, layout="rows", axis=axis, domains=domains,
            inputs=("input1", "input2", "label", "sample_weight"), required=3, fixed=("label",))

    cdef int describe_others(self, call_t* c) except -1:
        self.describe_like_first(c, LABEL)
        self.describe_per_row(c, THIRD)
        return 0

    cdef int check(self, call_t* c) except -1:
        cdef Py_ssize_t bad = self.bad_integer(c, THIRD, 1, 1, -1)
        if bad >= 0:
            refuse(<cnp.ndarray>c.given[THIRD], bad, "label", "1 and -1,")
        return 0


cdef class PairLoss(Loss):
    """The base of SDML: every row of one array against every row of another."""

    def __init__(self, weight, batch_axis, reduction, *, smoothing_parameter):
        cdef double smoothing = share("smoothing_parameter", smoothing_parameter)
        super().__init__(
            _isa.kernels.SmoothedMetric(), weight, batch_axis, reduction, base=PairLoss, layout="examples",
            inputs=("x1", "x2", "sample_weight"),
            no_hessian="each distance enters the softmax of its row, and its diagonal takes a sum over all pairs per feature")
        self.smoothing = smoothing

    cdef int describe_others(self, call_t* c) except -1:
        if cnp.PyArray_NDIM(<cnp.ndarray>c.given[PRED]) < 2:
            raise ValueError(f"x1 must have an axis of examples and one of features, got shape {shape_text(<cnp.ndarray>c.given[PRED])}")
        self.describe_like_first(c, LABEL)
        return 0

    cdef int run(self, call_t* c) except -1:
        cdef plan_t* p = &c.plan
        cdef plan_t second
        cdef pairs_t s
        cdef watch_t watch
        cdef Py_ssize_t size
        cdef int k
        cdef double* at
        cdef double* memory
        s.n, s.swapped = p.size, False
        s.width = ceil_div(p.width, PANEL) * PANEL
        s.panels = ceil_div(s.n, PANEL)
        # one pair alone is certain
        s.other = self.smoothing / (s.n - 1) if s.n > 1 else 0
        s.same = 1 - self.smoothing if s.n > 1 else 1
        s.log_same, s.log_other = math.log(s.same + 1e-12), math.log(s.other + 1e-12)
        size = s.panels * PANEL
        if size > PY_SSIZE_T_MAX // 64 // (s.width + 1):
            raise MemoryError(f"{size} rows of {s.width} numbers")
        memory = <double*>malloc((6 * s.width + 4) * size * sizeof(double) + CACHE_LINE)
        if memory == NULL:
            raise MemoryError(f"{(6 * s.width + 4) * size * sizeof(double)} bytes of rows")
        try:
            at = <double*>((<size_t>memory + CACHE_LINE - 1) & ~<size_t>(CACHE_LINE - 1))
            s.x = at
            s.y = s.x + size * s.width
            s.x_panels = s.y + size * s.width
            s.y_panels = s.x_panels + size * s.width
            s.x_strips = s.y_panels + size * s.width
            s.y_strips = s.x_strips + size * s.width
            s.least = s.y_strips + size * s.width
            s.share = s.least + size
            s.factor = s.share + size
            s.diagonal = s.factor + size
            p.work = p.size * s.n * s.width // 4
            begin_watch(p, &watch)
            with nogil:
                runner.load_pairs(p, PRED, &s, s.x, s.x_panels, s.x_strips)
                runner.load_pairs(p, LABEL, &s, s.y, s.y_panels, s.y_strips)
            end_watch(p)
            p.memory = &s
            p.block = PAIR_ROWS
            p.extra = PAIR_ROWS * (size + 2 * s.width) * sizeof(double)
            second = p[0]
            p.outputs[LABEL_GRAD].data = NULL
            execute(p, c.is_double)
            if second.outputs[LABEL_GRAD].data != NULL:
                s.swapped = True
                second.outputs[GRAD] = second.outputs[LABEL_GRAD]
                for k in range(OUTPUTS):
                    if k != GRAD:
                        second.outputs[k].data = NULL
                execute(&second, c.is_double)
        finally:
            free(memory)
        return 0


cdef class SequenceLoss(Loss):
    """The base of CTC: pred of examples, frames and classes, labels of sequences of ids."""
    cdef int label_axis         # of the examples
    cdef int blank              # counted from the end where it is negative
    cdef bint zero_infinity

    def __init__(self, weight, reduction, *, layout, label_layout, blank, zero_infinity, domains):
        cdef bint zero = flag("zero_infinity", zero_infinity)
        for name, value, choices in (("layout", layout, ("NTC", "TNC")), ("label_layout", label_layout, ("NT", "TN"))):
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"{name} must be {choices[0]!r} or {choices[1]!r}, got {value!r}")
        super().__init__(
            _isa.kernels.TemporalClassification(), weight, layout.index("N"), reduction, base=SequenceLoss, layout="examples",
            inputs=("pred", "label", "pred_lengths", "label_lengths", "sample_weight"), fixed=("label", "pred_lengths", "label_lengths"),
            no_hessian="its diagonal takes a recursion of its own for each class", domains=domains)
        self.label_axis = label_layout.index("N")
        self.blank = blank
        self.zero_infinity = zero

    cdef bint is_single(self, int ndim) noexcept:
        return ndim == 2

    cdef int describe_others(self, call_t* c) except -1:
        """Copies the labels and lengths: what was checked is what is read."""
        cdef cnp.ndarray pred = <cnp.ndarray>c.given[PRED], label
        cdef bint ended = c.given[FOURTH] == NULL
        cdef int ndim = pred.ndim
        if ndim != 2 and ndim != 3:
            layout = "TNC" if self.batch_axis else "NTC"
            raise ValueError(f"pred must have 3 axes, {layout}, got shape {shape_text(pred)}; for one example 2, TC, are good")
        if pred.shape[ndim - 1] == 0:
            raise ValueError(f"pred must have at least one class, the blank, got shape {shape_text(pred)}")
        self.blank_among(pred.shape[ndim - 1])
        label = self.array_given(c, LABEL)
        self.load_lengths(c, THIRD, pred, c.row_shape[c.row_n - 2])
        if label.ndim == 1 and ndim == 3 and not ended:
            self.load_lengths(c, FOURTH, pred, label.shape[0])
            self.load_row(c, label)
            return 0
        if not (label.ndim == 1 and ndim == 2 or label.ndim == 2 and label.shape[self.label_axis] == c.batch_size):
            count = "1 example" if c.batch_size == 1 else f"{c.batch_size} examples"
            one = "is good, too" if ndim == 2 else "with the ids of all, one after another, needs label_lengths"
            raise ValueError(
                f"label must have 2 axes, {'TN' if self.label_axis else 'NT'}, for {count}, got shape {shape_text(label)}; "
                f"one axis {one}")
        self.load_lengths(c, FOURTH, pred, label.shape[label.ndim - 1 if label.ndim == 1 else 1 - self.label_axis])
        self.load_labels(c, label, ended)
        return 0

    cdef Py_ssize_t blank_among(self, Py_ssize_t classes) except -1:
        if not -classes <= self.blank < classes:
            raise ValueError(
                f"blank must be between {-classes} and {classes - 1} for a pred with {classes} classes, got {self.blank}")
        return self.blank + classes if self.blank < 0 else self.blank

    cdef int load_lengths(self, call_t* c, int slot, cnp.ndarray pred, Py_ssize_t longest) except -1:
        """A length for each example: those given, or the longest."""
        cdef cnp.ndarray lengths = cnp.PyArray_SimpleNew(1, <cnp.npy_intp*>&c.batch_size, cnp.NPY_INT64), given
        cdef int64_t* to = <int64_t*>cnp.PyArray_DATA(lengths)
        cdef array_t a
        cdef int axis = 0
        cdef Py_ssize_t i, bad
        if c.given[slot] == NULL:
            for i in range(c.batch_size):
                to[i] = longest
        else:
            given = self.array_given(c, slot)
            if not (given.ndim == 1 and given.shape[0] == c.batch_size or given.ndim == 0 and pred.ndim == 2):
                number = "a number, or " if pred.ndim == 2 else ""
                raise ValueError(f"{self.slot_names[slot]} must be {number}one length per example, shape ({c.batch_size},), got shape {shape_text(given)}")
            describe(&a, given, &c.batch_size, &axis, given.ndim, False, FLOAT64)
            bad = runner.bad_integer(&c.plan, &a, NULL, 0, c.batch_size, 0, longest, NAN, to)
            if bad >= 0:
                refuse(given, bad, self.slot_names[slot], f"lengths from 0 to {longest},")
        keep(&c.checked[slot], lengths)
        return 0

    cdef int load_labels(self, call_t* c, cnp.ndarray given, bint ended) except -1:
        """The labels of each example, and 0 behind them; where they are ended by -1, the lengths as well.

        An example that is left out has no label, if what it has is none.
        """
        cdef cnp.ndarray lengths = <cnp.ndarray>c.checked[FOURTH], labels
        cdef int64_t* length = <int64_t*>cnp.PyArray_DATA(lengths)
        cdef int64_t* to
        cdef array_t a
        cdef int[2] axes = [self.label_axis, 1 - self.label_axis]
        cdef Py_ssize_t[2] shape = [c.batch_size, given.shape[given.ndim - 1]]
        cdef Py_ssize_t width, i, k, bad
        if given.ndim == 1:
            axes[0], axes[1] = -1, 0
        else:
            shape[1] = given.shape[axes[1]]
        width = shape[1]
        labels = cnp.PyArray_ZEROS(2, <cnp.npy_intp*>shape, cnp.NPY_INT64, 0)
        describe(&a, given, shape, axes, 2, False, FLOAT64)
        for i in range(c.batch_size):
            to = <int64_t*>cnp.PyArray_DATA(labels) + i * width
            bad = self.bad_label(c, &a, i * width, length[i], ended, to)
            if bad >= 0 and runner.is_left_out(&c.plan.inputs[WEIGHT], i):
                to[0], length[i] = -1, 0
            elif bad >= 0:
                # counted example by example
                self.refuse_label(c, given, bad if axes[0] <= 0 else bad % width * c.batch_size + i)
            if ended:
                k = 0
                while k < width and to[k] != -1:
                    k += 1
                length[i] = k
                for k in range(k, width):
                    to[k] = 0
        keep(&c.checked[LABEL], labels)
        return 0

    cdef int load_row(self, call_t* c, cnp.ndarray given) except -1:
        """The same of labels that follow each other in one row."""
        cdef cnp.ndarray lengths = <cnp.ndarray>c.checked[FOURTH], labels
        cdef int64_t* length = <int64_t*>cnp.PyArray_DATA(lengths)
        cdef array_t a
        cdef int axis = 0
        cdef Py_ssize_t[2] shape = [c.batch_size, 0]
        cdef Py_ssize_t size = given.shape[0], at = 0, n, i, bad
        # each is at most the size: the sum, that of few enough, does not overflow
        for i in range(c.batch_size):
            at += length[i]
            shape[1] = max(shape[1], <Py_ssize_t>length[i])
            if at > size:
                break
        if at != size:
            sum_text = f"more than {size}" if at > size else str(at)
            raise ValueError(f"label must hold as many ids as label_lengths sum up to, {sum_text}, got shape {shape_text(given)}")
        labels = cnp.PyArray_ZEROS(2, <cnp.npy_intp*>shape, cnp.NPY_INT64, 0)
        describe(&a, given, &size, &axis, 1, False, FLOAT64)
        at = 0
        for i in range(c.batch_size):
            n = length[i]
            bad = self.bad_label(c, &a, at, n, False, <int64_t*>cnp.PyArray_DATA(labels) + i * shape[1])
            if bad >= 0 and runner.is_left_out(&c.plan.inputs[WEIGHT], i):
                length[i] = 0
            elif bad >= 0:
                self.refuse_label(c, given, bad)
            at += n
        keep(&c.checked[LABEL], labels)
        return 0

    cdef Py_ssize_t bad_label(
        self, call_t* c, const array_t* a, Py_ssize_t start, Py_ssize_t n, bint ended, int64_t* to,
    ) except -2:
        """Copies n ids from `start` on; returns where the first is that is none, or the blank, -1 if all are good."""
        cdef Py_ssize_t classes = c.row_shape[c.row_n - 1], blank = self.blank_among(classes), bad, k
        cdef Py_ssize_t low = blank == 0, high = classes - 1 - (blank == classes - 1)
        cdef double also = -1 if ended else NAN
        bad = runner.bad_integer(&c.plan, a, NULL, start, n, low, high, also, to)
        if 0 < blank < classes - 1:
            if bad >= 0:
                # those before it
                n = bad - start
                runner.bad_integer(&c.plan, a, NULL, start, n, low, high, also, to)
            for k in range(n):
                if to[k] == blank:
                    return start + k
        return bad

    cdef int refuse_label(self, call_t* c, cnp.ndarray given, Py_ssize_t at) except -1:
        cdef Py_ssize_t classes = c.row_shape[c.row_n - 1], blank = self.blank_among(classes)
        but = f" but the blank, {blank}" if 0 < blank < classes - 1 else ""
        low, high = int(blank == 0), classes - 1 - int(blank == classes - 1)
        what = f"ids from {low} to {high}{but}, with -1 behind the last unless label_lengths is given,"
        refuse(given, at, "label", what)

    cdef int run(self, call_t* c) except -1:
        cdef ctc_t s
        cdef cnp.ndarray labels = <cnp.ndarray>c.checked[LABEL], frames = <cnp.ndarray>c.checked[THIRD]
        cdef cnp.ndarray lengths = <cnp.ndarray>c.checked[FOURTH]
        cdef Py_ssize_t states, k
        s.labels = <const int64_t*>cnp.PyArray_DATA(labels)
        s.lengths = <const int64_t*>cnp.PyArray_DATA(lengths)
        s.frames = <const int64_t*>cnp.PyArray_DATA(frames)
        s.stride = labels.shape[1]
        s.all_frames, s.classes = c.row_shape[c.row_n - 2], c.row_shape[c.row_n - 1]
        s.blank = self.blank_among(s.classes)
        s.most_frames = s.longest = 0
        for k in range(c.batch_size):
            s.most_frames = max(s.most_frames, s.frames[k])
            # the others need no buffers
            if s.lengths[k] <= s.frames[k]:
                s.longest = max(s.longest, s.lengths[k])
        s.zero_infinity = self.zero_infinity
        c.plan.memory = &s
        c.plan.block = 1
        states = 4 * (s.longest + 2)
        records = s.most_frames + 1 if c.wanted[GRAD] else 2
        size = 8 * (3 * s.classes + 2 * s.most_frames + 2 * states + 16 + states * records)
        if size > PY_SSIZE_T_MAX // 4:
            raise MemoryError(f"{size} bytes of buffers")  # no cover: the labels alone would have gigabytes
        c.plan.extra = size
        c.plan.work = c.plan.size * s.most_frames * (s.classes + 4 * s.longest)
        execute(&c.plan, c.is_double)
        return 0


cdef int refuse(cnp.ndarray a, Py_ssize_t at, str name, str what, str hint="") except -1:
    """Refuses an array for an element, counted in C order."""
    cdef list position = [0] * a.ndim
    cdef int k
    for k in range(a.ndim - 1, -1, -1):
        position[k] = at % a.shape[k]
        at //= a.shape[k]
    raise ValueError(f"{name} must hold {what} got {(<object>a)[tuple(position)]} at position {tuple(position)}{hint}")

"""The call of a loss, written once for all losses: arguments, shapes, weights, reductions, results.

call/ holds the steps: inputs.pxi arranges the inputs, results.pxi the results; weights.pxi and range.pxi compute the
factors of losses; schedule.pxi cuts the work; linear.pxi has predictions made on the way. Kernels compute the losses
themselves (_plan.pxd).
"""

import math
import operator
import threading
import types
from itertools import starmap

import numpy as np

cimport numpy as cnp
from cython cimport floating
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GetSlice
from libc.math cimport NAN, fabs
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc

from fastloss import _domains, _foreign, _isa, _links, _processors
from fastloss._arguments import arguments_of, as_float, integer, not_finite, rebuild
from fastloss._inputs import pair
from fastloss.backends import backend_of
from fastloss._plan cimport (
    BFLOAT16, BLOCK_BYTES, BUFFERS, CACHE_LINE, FIRST, FLOAT16, FLOAT32, FLOAT64, FOURTH, GRAD, GRAD_SECOND, GRAD_THIRD,
    GRAD_WEIGHT, HEAD, HESS, HESS_THIRD, INPUTS, INT8, INT16, INT32, INT64, LONGDOUBLE, MAX_AXES, OUTPUTS, OWN_BUFFERS,
    PASS_EVERYTHING, PASS_GRADIENT, PASS_GRADIENT_HESSIAN, PASS_SURROGATE, PASS_VALUE, PASS_VALUE_GRADIENT,
    SECOND, SHORT_NUMBERS, SHORT_ROWS, SHORT_STRIP_BYTES, SHORT_TILES, SMALL_BYTES, STRIP_BYTES, THIRD, UINT8, UINT16,
    UINT32, UINT64, VALUE, WEIGHT, array_t, complaint_t, kernel_t, linear_t, plan_t, range_t, runner_t, watch_t,
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
    WANT_HESS = 4   # alone: the Hessian times a vector

cdef dict METHODS = {
    WANT_VALUE: "__call__",
    WANT_GRAD: "grad",
    WANT_VALUE | WANT_GRAD: "value_and_grad",
    WANT_HESS: "hvp",
    WANT_GRAD | WANT_HESS: "grad_and_hess",
    WANT_VALUE | WANT_GRAD | WANT_HESS: "value_grad_and_hess",
}

cdef enum:
    # elements of a light loss: from there on a second thread gains more time than waking it takes
    WORK_FOR_A_THREAD = 32768
    WATCHED = 1 << 20           # the same: from there on a signal may end the call
    HEAVY = 3                   # an element of any other loss takes at least so many times as long
    STREAMED = 1 << 22          # elements of a result
    FAR_BYTES = 1 << 20         # of an array: no core's own cache holds it
    AHEAD_BYTES = 4096
    LONG_ROW_BYTES = 1 << 15
    CHUNKS = 16
    ALIGNED_BYTES = 1 << 15     # of a result: from there on it begins on a cache line

# Bytes of an array from which on the next elements are prefetched. AMD's last cache feeds a core without prefetching if
# it holds the three arrays of a light loss; prefetching would cost a fifth of that loss's time. Intel's is farther
# away.
cdef Py_ssize_t asked_from = min(16 * FAR_BYTES, max(FAR_BYTES, _processors.last_cache() // 3 if _isa.is_amd else 0))


# how the unreduced loss lies in the first input
LAYOUTS = ("elements", "coupled", "rows", "examples")
cdef enum:
    ELEMENTS    # one for each element
    COUPLED     # the same, but those along an axis depend on each other
    ROWS        # one for each row along an axis
    EXAMPLES    # one for each example: a row is everything but the batch axis

# how another input lies
cdef dict LIES = {"like first": LIKE_FIRST, "per row": PER_ROW, "broadcast": BROADCAST, "number": NUMBER, "own": OWN,
                  "weight": 0}
cdef enum:
    LIKE_FIRST
    PER_ROW
    BROADCAST
    NUMBER
    OWN

cdef int[INPUTS] GRADIENT_OF = [GRAD, GRAD_SECOND, GRAD_THIRD, -1, GRAD_WEIGHT, -1]
# by the gradient, the second derivative in the same input; -1: there is none
cdef int[OUTPUTS] HESSIAN_OF = [-1, HESS, -1, -1, HESS_THIRD, -1, -1]
cdef int[OUTPUTS] INPUT_OF = [-1, FIRST, FIRST, SECOND, THIRD, THIRD, WEIGHT]   # that a result is a derivative in

cdef struct call_t:
    plan_t plan
    const kernel_t* kernel
    PyObject* given[INPUTS]                 # NULL: not given
    bint foreign                            # whether one of these is no array of NumPy's
    bint surrogate                          # whether the Hessian is the kernel's surrogate
    PyObject* out                           # NULL: not given
    PyObject* wrt
    PyObject* results[OUTPUTS]              # NULL: not wanted
    PyObject* outs[OUTPUTS]                 # the caller's buffers, which the argument out holds; NULL: none
    PyObject* made[OUTPUTS]                 # stand-ins for these, of a half's dtype; NULL: none
    bint wanted[OUTPUTS]
    bint is_total                           # whether the reduction gives one number
    double total                            # the value, if so
    int gradients[OUTPUTS]                  # those to return, in the order of wrt
    int n_gradients
    int real
    bint is_double
    bint is_half                            # results are float16 or bfloat16, as the first input is
    int n                                   # axes of the unreduced loss, in the order in which its elements are counted
    Py_ssize_t shape[MAX_AXES + 1]
    int order[MAX_AXES + 1]                 # which axis of the unreduced loss as an array each is
    int row_n                               # the same of arrays with rows
    Py_ssize_t row_shape[MAX_AXES + 1]
    int row_order[MAX_AXES + 1]             # which axis of the first input each is
    int batch_item                          # which is the batch axis, -1: none
    Py_ssize_t batch_size
    int along[INPUTS][MAX_AXES + 1]         # by input: which of its axes lies along each
    int value_ndim
    Py_ssize_t value_shape[MAX_AXES + 1]
    int value_axes[MAX_AXES + 1]            # which axis of the value lies along each of the unreduced loss; -1: none


cdef inline void own(PyObject** slot, x) noexcept:
    """Puts an object where it is owned, in place of what was there."""
    Py_INCREF(x)
    Py_XDECREF(slot[0])
    slot[0] = <PyObject*>x


cdef inline void bind_input(call_t* c, int slot, x) noexcept:
    if x is not None:
        own(&c.given[slot], x)
        c.foreign |= not cnp.PyArray_CheckExact(x)


cdef double finite(str name, x) except? -1:
    """A finite number.

    The exception is raised here: Python loses an exception if it gets no memory for a caller's frame.
    """
    value = as_float(x)
    if value is None or not math.isfinite(value):
        raise not_finite(name, x)
    return value


cdef kernel_t* table_of(kernel, bint has_surrogate) except NULL:
    cdef kernel_t* table = <kernel_t*>PyCapsule_GetPointer(_isa.kernels.table(kernel), "fastloss.kernel")
    if has_surrogate and table.loops[0][PASS_SURROGATE] == NULL:
        raise ValueError(f"{type(kernel).__name__} is in no list of kernels with a surrogate")
    return table


cdef void begin(call_t* c) noexcept:
    """Nothing is given, wanted or owned yet."""
    cdef int k
    c.foreign = c.surrogate = c.is_half = False
    c.out = c.wrt = NULL
    c.plan.state = NULL
    for k in range(INPUTS):
        c.given[k] = NULL
    for k in range(OUTPUTS):
        c.results[k] = c.outs[k] = NULL


cdef void release(call_t* c) noexcept:
    """Gives back all that the call owns."""
    cdef int k
    free(c.plan.state)
    Py_XDECREF(c.out)
    Py_XDECREF(c.wrt)
    for k in range(INPUTS):
        Py_XDECREF(c.given[k])
    for k in range(OUTPUTS):
        Py_XDECREF(c.results[k])
    for k in range(OUTPUTS if c.is_half else 0):
        Py_XDECREF(c.made[k])


cdef class Loss:
    """The base of all losses: everything of a call that is not the formula.

    A loss object holds its parameters and nothing else: it is immutable, hashable, comparable, picklable, and may be
    called from many threads at once. Subclasses name the formula.

    Nearly every loss takes ``weight``, a number that multiplies it (None is 1), and ``batch_axis``, the axis of the
    examples. Every loss takes ``reduction``, keyword-only:

    - "example": the mean over every axis but ``batch_axis``, a value for each example;
    - "none": the value of each element, or of each row for the losses over classes;
    - "sum", "mean": the sum and the mean of all values;
    - "weighted_mean": the sum divided by the sum of the weights.

    The mean of nothing, or of weights that sum to 0, is 0.

    Every method takes the inputs by position or name:

    - pred, float32 or float64, float16 or bfloat16, which are computed in float32 (integers and lists in float64).
      Results have pred's dtype. Totals, the values of "sum", "mean" and "weighted_mean", are Python's floats, summed in
      float64.
    - label, of any real dtype and of pred's shape; either may lack axes of size 1 that the other has.
    - sample_weight: an array with one axis is one weight per example, any other must broadcast to the unreduced loss.
      Weights are read in pred's precision. A weight of 0 leaves an example out, whatever its pred and label are: its
      value, gradients and Hessian are 0. In a loss of all pairs, its second vector still counts for the others.

    and, keyword-only:

    - out: arrays for the results, in the structure of what is returned; None for a result to allocate. Any dtype of
      floats will do: results are rounded to it as they are stored. A result may replace pred or label in place; any
      other overlap is an error. An error leaves the arrays untouched. A MemoryError, or an exception of a signal
      handler such as KeyboardInterrupt, leaves them undefined.
    - head_grad, where a gradient is returned: what flows back into the value, of its shape or a number; 1 by default.
      An array is read in pred's precision.
    - wrt, where a gradient is returned: the input to differentiate with respect to, by name; "pred", the first input,
      by default. A tuple of names gives a tuple of gradients, each of its input's shape. One pass computes them all;
      a gradient in weights that broadcast in another way than the value is reduced takes a pass of its own. Hessians
      are of the same inputs, in the same structure: all must be among ``twice_differentiable``.
    - hessian, of ``grad_and_hess`` and ``value_grad_and_hess``: "exact", the default; "majorizer", the curvature of a
      parabola that touches the loss at pred and lies above it; "expected", the mean over the labels of a likelihood.
      The last two are never below 0. ``hessians`` says which of them a loss has.

    Raises TypeError for inputs without real numbers and for unknown arguments, ValueError for shapes and labels that do
    not fit. A NaN spoils the value and the gradient of its own example, and totals over that example.
    """

    cdef object __weakref__
    cdef readonly tuple arguments   # of the constructor, with their names: what repr, ==, hash and pickle are made of
    cdef int n_positional           # of these, that only their position names
    # that builds it; torch.compile, which cannot call __repr__, reads it while it traces
    cdef readonly str expression
    cdef readonly tuple specs       # of its inputs, in the order of the call
    cdef readonly tuple inputs      # their names
    cdef readonly int required      # how many of these a call must have
    cdef readonly tuple fixed       # those that nothing is differentiated with respect to
    cdef readonly object domains    # by input: what its numbers mean
    cdef readonly str no_hessian    # why there is none
    cdef readonly str no_product    # why there is no Hessian times a vector
    cdef readonly tuple hessians    # the kinds of Hessian that a call may name
    cdef readonly str newton        # of these, with which Newton's step goes neither uphill nor far beyond the minimum
    cdef readonly str link_name     # in _links.LINKS; None: its first input predicts no label
    cdef readonly Loss normalizer   # of the first input alone: the logarithm of what its exponentials are divided by
    cdef str surrogate              # of these, what the kernel's surrogate is; None: it has none
    cdef readonly tuple twice_differentiable    # the predictions, that there are Hessians with respect to
    cdef readonly str couples       # the input of all examples that each one's loss depends on; None: it has its own
    cdef readonly str row_parameter         # the argument that may have a number for each of a row; None: there is none
    cdef str sized_by               # the argument that says how many a row has
    cdef Py_ssize_t row_length              # how many it has; -1: none
    cdef str row_name               # what the axis of a row is called, and what its numbers are
    cdef str row_numbers
    cdef int n_inputs
    cdef tuple slot_names
    cdef int vector_slot            # of the vector that the Hessian is multiplied by
    cdef list hints                 # by slot
    cdef int slot[INPUTS]           # by the input's position in the call
    cdef int lies[INPUTS]           # by slot
    cdef bint checked[INPUTS]       # whether it must hold certain integers: from low to high, or also
    cdef double low[INPUTS]
    cdef double high[INPUTS]        # NaN: one less than a row has numbers
    cdef double also[INPUTS]        # NaN: none
    cdef double default             # of the third input
    cdef object kernel_object, plain_object
    cdef kernel_t* kernel
    cdef kernel_t* plain            # for calls without the optional third input
    cdef int layout
    cdef double weight
    cdef int batch_axis, reduction
    cdef int axis                   # of the rows
    # axes of a first input that is one example, without the axis of these; -1: there is none
    cdef int single_ndim
    cdef bint has_shape_rule
    cdef bint wide                  # an argument is out of float32's range

    def __cinit__(self, *args, **kwargs):
        if type(self) is Loss:
            raise TypeError("Loss is abstract: build one of its subclasses")
        self.arguments, self.n_positional = arguments_of(type(self), args, kwargs)
        positional, named = self.split()
        shown = [*map(repr, positional), *starmap('{}={!r}'.format, named)]
        self.expression = f"{type(self).__name__}({', '.join(shown)})"

    def __init__(
        self, kernel, weight, batch_axis, reduction, *, inputs=pair(), layout="elements", axis=-1, plain=None,
        no_hessian=None, surrogate=None, exact_is=(), newton=None, link="identity", couples=None,
        factor=1, single_ndim=-1, row=("class", "classes"), row_parameter=None, sized_by=None, normalizer=None,
    ):
        if self.kernel != NULL:
            raise TypeError("a loss is immutable: build a new one")
        if isinstance(weight, (np.ndarray, list, tuple)):
            raise TypeError(
                f"weight must be a number, got {type(weight).__name__}; "
                "weights per example are given in the call, as sample_weight")
        self.weight = factor * (1 if weight is None else finite("weight", weight))
        self.batch_axis = integer("batch_axis", batch_axis)
        self.axis = integer("axis", axis)
        self.layout = LAYOUTS.index(layout)
        self.take_inputs(inputs)
        if not isinstance(reduction, str) or reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
        self.reduction = REDUCTIONS.index(reduction)
        self.no_hessian, self.couples, self.single_ndim = no_hessian, couples, single_ndim
        self.surrogate, self.link_name, self.normalizer = surrogate, link, normalizer
        self.newton = newton or surrogate or "exact"
        self.hessians = () if no_hessian else ("exact", *exact_is, *(() if surrogate is None else (surrogate,)))
        self.row_name, self.row_numbers = row
        self.row_parameter, self.row_length = row_parameter or (None, -1)
        self.sized_by = sized_by or self.row_parameter
        self.has_shape_rule = type(self).check_shapes is not Loss.check_shapes
        self.wide = any(list(map(is_wide, self.arguments)))
        self.kernel_object, self.plain_object = kernel, plain or kernel
        self.plain = table_of(self.plain_object, surrogate is not None and self.layout == ELEMENTS)
        # Set last: a loss without a kernel cannot be called.
        self.kernel = table_of(kernel, surrogate is not None and self.layout == ELEMENTS)
        if not self.kernel.has_product:
            self.no_product = no_hessian or "elements depend on each other, and only the Hessian's diagonal is known"
        self.twice_differentiable = self.predictions()

    cdef tuple predictions(self):
        """The names of the inputs that there are Hessians with respect to."""
        if self.no_hessian is not None:
            return ()
        names = self.slot_names
        return (names[FIRST], names[THIRD]) if self.kernel.has_third_hessian else (names[FIRST],)

    cdef int take_inputs(self, tuple specs) except -1:
        """Lays out the inputs by slot: those of the loss in their order, the weights, the head_grad."""
        cdef int k, slot, next_slot = FIRST
        slot_names, names, fixed, domains = [None] * HEAD + ["head_grad"], [], [], {}
        self.hints = [""] * INPUTS
        self.specs, self.n_inputs, self.required = specs, len(specs), 0
        for slot in range(INPUTS):
            self.checked[slot] = False
        for k, spec in enumerate(specs):
            # A number per row needs rows, and integers are checked in the order of the unreduced loss.
            if spec.lies == "per row" and self.layout != ROWS or (
                    spec.integers is not None and spec.lies == "like first" and self.layout == EXAMPLES):
                raise ValueError(f"{spec.name} cannot lie {spec.lies!r} in a loss with layout={LAYOUTS[self.layout]!r}")
            if spec.lies == "weight":
                slot = WEIGHT
            else:
                slot = next_slot
                next_slot += 1
            names.append(spec.name)
            domains[spec.name] = spec.domain
            self.required += spec.required
            if not spec.differentiable:
                fixed.append(spec.name)
            self.slot[k] = slot
            self.lies[slot] = LIES[spec.lies]
            slot_names[slot], self.hints[slot] = spec.name, spec.hint
            if slot == THIRD:
                self.default = spec.default
            if spec.integers is not None:
                self.checked[slot], self.low[slot] = True, spec.integers.low
                self.high[slot] = NAN if spec.integers.high is None else spec.integers.high
                self.also[slot] = NAN if spec.integers.also is None else spec.integers.also
        self.vector_slot = THIRD if self.layout != ELEMENTS and slot_names[THIRD] is None else FOURTH
        if slot_names[self.vector_slot] is None:
            slot_names[self.vector_slot], self.lies[self.vector_slot] = "vector", LIKE_FIRST
        self.inputs, self.fixed, self.slot_names = tuple(names), tuple(fixed), tuple(slot_names)
        self.domains = types.MappingProxyType(domains)
        return 0

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
        return self.call(inputs, options, WANT_VALUE)

    def grad(self, *inputs, **options):
        """Return the gradient of the sum of the value, or of head_grad times the value, with respect to `wrt`."""
        return self.call(inputs, options, WANT_GRAD)

    def value_and_grad(self, *inputs, **options):
        """Return the value and the gradient, computed in one pass over memory."""
        return self.call(inputs, options, WANT_VALUE | WANT_GRAD)

    def grad_and_hess(self, *inputs, **options):
        """Return the gradient and the diagonal of the Hessian with respect to `wrt`, computed in one pass."""
        return self.call(inputs, options, WANT_GRAD | WANT_HESS)

    def value_grad_and_hess(self, *inputs, **options):
        """Return the value, the gradient and the diagonal of the Hessian with respect to `wrt`, in one pass."""
        return self.call(inputs, options, WANT_VALUE | WANT_GRAD | WANT_HESS)

    def hvp(self, *inputs, **options):
        """Return the Hessian with respect to pred times a vector of pred's shape, computed in one pass.

        It is the whole Hessian of the sum of the value, or of head_grad times the value: the product for a loss over
        classes has the terms between them, too. The vector comes behind the inputs that a call must have, or by name.
        Losses that only have the Hessian's diagonal, or none, raise NotImplementedError.
        """
        self.check_built()
        self.check_product()
        cdef int k = self.required
        if len(inputs) > k and "vector" not in options:
            options["vector"] = inputs[k]
            inputs = inputs[:k] + inputs[k + 1:]
        if options.get("vector") is None:
            raise TypeError(
                f"hvp of {type(self).__name__} needs a vector of {self.inputs[0]}'s shape, behind "
                f"{self.inputs[k - 1]} or by name")
        return self.call(inputs, options, WANT_HESS)

    def validate(self, label=None, pred=None, **inputs):
        """Raise ValueError for the first number that the loss does not mean, and say where it is.

        Calls do not look at numbers: validate the data once, before training. ``domains`` says what each input must
        hold. ``label`` is the input of that name, or the second input of a loss without one; ``pred`` is the first.
        Other inputs have their own names. Class ids are checked against the number of classes if pred or the class
        weights tell it.
        """
        self.check_built()
        _domains.validate(self, self.inputs, self.domains, label, pred, inputs)

    def inverse_link(self, raw, **inputs):
        """Return the mean of the label for which a raw prediction is best, of raw's shape.

        Losses of two classes give the probability of the label 1, losses of several classes give probabilities along
        the class axis. Losses that predict a logarithm give e^raw, losses of errors raw itself. For losses that are no
        likelihood, such as focal ones, the probability is not the sigmoid. The smoothing of labels stays in the result.
        """
        self.check_built()
        return _links.inverse_link(self, raw, inputs)

    def link(self, mean):
        """Return the raw prediction that is best where the label has this mean: the inverse of inverse_link()."""
        self.check_built()
        return _links.link(self, mean)

    def best_constant(self, label, sample_weight=None, **inputs):
        """Return the raw prediction with the least sum of losses over all examples, a number for each column of label.

        Examples are counted along the first axis. sample_weight has one number for each, or label's shape. A loss over
        classes takes ``classes``, how many there are, where the labels' ids do not tell. The result is infinite where
        no finite prediction is best: if all labels are of one class, or all counts are 0. Of several minima of a loss
        that is not convex, the result is the first one downhill from the median.
        """
        self.check_built()
        return _links.best_constant(self, label, sample_weight, inputs)

    def lse(self, pred, out=None):
        """Return the logarithm of the sum of each row's exponentials, which the softmax divides by.

        The logits are those that the softmax takes. The result has the shape of the unreduced loss and pred's dtype, or
        is written to `out`: float32 there keeps the digits that halves lose. Every row has one, whatever its label and
        weights. A row that holds infinity has infinity, one of -infinity alone has that, both with a gradient of NaN.
        In any other row, frameworks find the softmax as the gradient. Losses without a softmax of logits raise
        NotImplementedError.
        """
        raise NotImplementedError(f"{type(self).__name__} has no lse: it takes no softmax of logits")

    def check_product(self):
        """Raise NotImplementedError if the loss has no Hessian times a vector."""
        if self.no_product is not None:
            raise NotImplementedError(f"{type(self).__name__} has no Hessian-vector product: {self.no_product}")

    cdef int check_built(self) except -1:
        if self.kernel == NULL:
            raise TypeError(f"this {type(self).__name__} is not built: its __init__ did not finish")
        return 0

    def value_axes(self, ndim):
        """Return which of the ndim axes of the first input the value has; None if it has one of size 1 instead."""
        cdef int batch, axis = -1
        if self.reduction > NONE or ndim == 0 or ndim == self.single_ndim:
            return ()
        batch = axis_number("batch_axis", self.batch_axis, ndim, self.inputs[0])
        if self.layout == ROWS:
            axis = axis_number("axis", self.axis, ndim, self.inputs[0])
        if self.reduction == EXAMPLE or self.layout == EXAMPLES:
            return (batch,) if batch != axis else None
        return tuple([k for k in range(ndim) if k != axis])

    def is_separable(self, ndim):
        """Return whether head_grad merely multiplies the gradient in the first input, along the value's axes."""
        cdef tuple axes = self.value_axes(ndim)
        if axes is None or axes and self.couples == self.inputs[0]:
            return False
        return self.layout != COUPLED or axis_number("axis", self.axis, ndim, self.inputs[0]) not in axes

    def row_axis(self, ndim):
        """Return the axis of the rows in a first input of ndim axes; None if it has no such axis."""
        if self.layout != ROWS and self.layout != COUPLED:
            return None
        if ndim == 0:
            raise ValueError(f"{self.inputs[0]} must have a {self.row_name} axis, got a scalar")
        return axis_number("axis", self.axis, ndim, self.inputs[0])

    @property
    def has_rows(self):
        """Whether the unreduced loss lacks an axis of the first input: the axis of the rows."""
        return self.layout == ROWS

    def check_row(self, shape):
        """Raise ValueError if rows of a first input of that shape do not match an argument of the constructor."""
        if self.row_length < 0:
            return
        width = shape[self.row_axis(len(shape))]
        # a tracer's sizes may not be known yet
        if isinstance(width, int) and width != self.row_length:
            raise ValueError(
                f"{self.inputs[0]} must have as many {self.row_numbers} as {self.sized_by}, {self.row_length}, "
                f"got shape {shape} with {width}")

    def check_shapes(self, shapes):
        """Raise ValueError if shapes, by name, do not fit together: for losses with inputs of shapes of their own."""

    def number_rule(self, name, shapes):
        """Return what an input must hold, where the kernel has refused one of its numbers."""

    def whole_rule(self, name, arrays):
        """Return what an input must hold, where the kernel has refused it as a whole."""

    @property
    def differentiable(self):
        """The inputs that there are gradients with respect to."""
        return tuple([spec.name for spec in self.specs if spec.differentiable])

    @property
    def is_elementwise(self):
        """Whether each element of the first input has a loss of its own, so that the Hessian is diagonal."""
        return self.layout == ELEMENTS

    def of_linear(self, rows, weight, bias, direction, args, options, want):
        """Return what LinearLoss asks for: the loss of predictions that nobody stores. See call/linear.pxi."""
        self.check_built()
        return call_linear(self, rows, weight, bias, direction, args, options, want)

    cdef call(self, tuple args, dict options, int want):
        cdef call_t c
        begin(&c)
        try:
            self.check_built()
            bind(self, &c, args, options, want)
            if c.foreign:
                backend = backend_for(args) or backend_for(tuple(options.values()))
                if backend is not None:
                    return backend.evaluate(self, METHODS[want], args, options)
                convert(self, &c)
            if want & WANT_HESS and self.no_hessian is not None:
                raise NotImplementedError(f"{type(self).__name__} has no diagonal Hessian: {self.no_hessian}")
            choose_results(self, &c, want)
            if c.out != NULL:
                assign_out(&c, want)
            describe_inputs(self, &c)
            describe_results(self, &c)
            compute(self, &c, want)
            return pack(&c, want)
        finally:
            release(&c)


cdef int convert(Loss loss, call_t* c) except -1:
    """Makes arrays of the inputs, of all before any is inspected: conversion may run code that changes others."""
    cdef int k
    for k in range(INPUTS):
        if c.given[k] != NULL:
            own(&c.given[k], as_array(<object>c.given[k], loss.slot_names[k]))
    return 0


cdef int compute(Loss loss, call_t* c, int want) except -1:
    """Fills the results, after the last checks: from here on the caller's buffers may be written."""
    cdef plan_t* p = &c.plan
    cdef double count, head_factor = 1
    cdef int beyond
    if c.given[HEAD] != NULL:
        head_factor = describe_head(loss, c)
    if c.out != NULL:
        check_overlaps(loss, c)
    check_numbers(loss, c)
    if c.out != NULL or c.is_half:
        use_contiguous_copies(c, loss.reduction == WEIGHTED_MEAN)
    count = scale(loss, c, head_factor)
    beyond = leaves_range(loss, c, count) if p.size else 0
    if p.size == 0:
        fill_results(c, 0)
    elif beyond:
        evaluate_in_double(loss, c, want, exponent_of_weights(c) if beyond > 1 else 0)
    elif loss.reduction == WEIGHTED_MEAN and c.wanted[GRAD_WEIGHT] and count:
        run_with_shares(c, head_factor / count)
    else:
        run(c)
    if c.out != NULL or c.is_half:
        store_outs(c)
    return 0


cdef inline double scale(Loss loss, call_t* c, double head_factor) except? -1:
    """Says what losses and gradients are multiplied by; returns what the reduction divides by."""
    cdef plan_t* p = &c.plan
    cdef double count = 1
    if loss.reduction == EXAMPLE:
        count = <double>p.size / <double>c.batch_size if c.batch_size else 0
    elif loss.reduction == MEAN:
        count = <double>p.size
    elif loss.reduction == WEIGHTED_MEAN:
        count = sum_of_weights(p)
    # the mean of nothing is 0
    p.value_scale = loss.weight / count if count else 0
    p.grad_scale = p.value_scale * head_factor
    return count


cdef backend_for(tuple values):
    """The backend of the library that one of the values belongs to; None if all are NumPy's."""
    for x in values:
        if x is not None and not cnp.PyArray_CheckExact(x):
            backend = backend_of(type(x))
            if backend is not None:
                return backend
    return None


include "fastloss/call/arrays.pxi"
include "fastloss/call/inputs.pxi"
include "fastloss/call/results.pxi"
include "fastloss/call/weights.pxi"
include "fastloss/call/range.pxi"
include "fastloss/call/schedule.pxi"
include "fastloss/call/linear.pxi"

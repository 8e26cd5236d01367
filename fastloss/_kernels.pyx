"""The kernels: the mathematics of every loss, and the loops over it. Built once per instruction set from these files.

Notation: x prediction, y target, z = x - y, a = |x| or |z|. l is the loss, g and h are its first and second derivative
in x, d is its derivative in y. q is a third input, e the derivative in q, f the second derivative if q is a prediction,
too.

Where l is NaN, so are all derivatives. The loop does that for d, e and f, because it always computes l for them. g and
h may be wanted without l, so each formula makes them NaN by itself.

An argument named tag only carries a type, by which Cython chooses the copy of a function.
"""

cimport cython
from cpython.pycapsule cimport PyCapsule_New

from fastloss._plan cimport rows_t, runner_t

include "fastloss/kernels/blocks.pxi"
include "fastloss/kernels/sums.pxi"
include "fastloss/kernels/formulas/base.pxi"
include "fastloss/kernels/formulas/regression.pxi"
include "fastloss/kernels/formulas/robust.pxi"
include "fastloss/kernels/formulas/binary.pxi"
include "fastloss/kernels/formulas/focal.pxi"
include "fastloss/kernels/formulas/counts.pxi"
include "fastloss/kernels/formulas/divergence.pxi"
include "fastloss/kernels/formulas/uncertain.pxi"
include "fastloss/kernels/formulas/censored.pxi"
include "fastloss/kernels/elements.pxi"
include "fastloss/kernels/linear.pxi"
include "fastloss/kernels/pipeline.pxi"
include "fastloss/kernels/checks.pxi"
include "fastloss/kernels/labels.pxi"
include "fastloss/kernels/classes.pxi"
include "fastloss/kernels/few_classes.pxi"
include "fastloss/kernels/divergences.pxi"
include "fastloss/kernels/vectors.pxi"
include "fastloss/kernels/rows.pxi"
include "fastloss/kernels/pairs.pxi"
include "fastloss/kernels/sequences.pxi"

ctypedef fused any_loss_t:
    loss_t
    row_loss_t
    SoftmaxDivergence
    SmoothedMetric
    TemporalClassification


def table(any_loss_t kernel):
    """A capsule with a kernel's table, valid as long as the kernel lives."""
    kernel.table.parameters = <void*>kernel
    kernel.table.rounds = 1
    kernel.table.inputs = 3 if any_loss_t in three_inputs_t else 2
    kernel.table.has_third_hessian = any_loss_t in two_predictions_t
    kernel.table.has_product = any_loss_t in loss_t or any_loss_t in product_t
    kernel.table.light = any_loss_t in light_t
    if any_loss_t in loss_t:
        fill[any_loss_t, floats_apart](kernel, kernel.table.loops[0], NULL)
        fill[any_loss_t, doubles_apart](kernel, kernel.table.loops[1], NULL)
    if any_loss_t in short_loss_t:
        kernel.table.rows[0] = <rows_t>class_rows[any_loss_t, float]
        kernel.table.rows[1] = <rows_t>class_rows[any_loss_t, double]
    elif any_loss_t in row_loss_t:
        kernel.table.rows[0] = <rows_t>rows_of[any_loss_t, float]
        kernel.table.rows[1] = <rows_t>rows_of[any_loss_t, double]
    if any_loss_t in class_loss_t:
        kernel.table.row_buffers = CLASS_ROWS
    if any_loss_t not in loss_t:
        kernel.fill()
    if any_loss_t in light_t:
        fill_sums[any_loss_t, float, floats_apart](kernel, kernel.table.sums[0], NULL, NULL)
        fill_sums[any_loss_t, double, doubles_apart](kernel, kernel.table.sums[1], NULL, NULL)
    return PyCapsule_New(&kernel.table, "fastloss.kernel", NULL)


cdef runner_t runner
runner.run = run
runner.bad_integer = bad_integer
runner.store = store


def get_runner():
    """A capsule with the functions that run a plan."""
    return PyCapsule_New(&runner, "fastloss.runner", NULL)

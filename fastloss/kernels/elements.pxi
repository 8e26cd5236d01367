"""The loop over elements: its passes, its sums, its tail."""

from fastloss._machine cimport doubles_apart, floats_apart, lanes_t
from fastloss._math cimport real_t
from fastloss._plan cimport (
    GRAD, GRAD_SECOND, GRAD_THIRD, GRAD_WEIGHT, HESS, HESS_THIRD, PASS_EVERYTHING, PASS_GRADIENT,
    PASS_GRADIENT_HESSIAN, PASS_SURROGATE, PASS_VALUE, PASS_VALUE_GRADIENT, VALUE, loop_t, sum_t,
)

ctypedef fused two_inputs_t:
    regression_t
    robust_t
    binary_t
    focal_t
    count_t
    divergence_t

# losses whose third input is a prediction, too
ctypedef fused two_predictions_t:
    uncertain_t

ctypedef fused three_inputs_t:
    quantile_t
    weighted_binary_t
    rate_t
    censored_t
    two_predictions_t

ctypedef fused loss_t:
    two_inputs_t
    three_inputs_t

# Losses whose slope grows less than in proportion to the error. The parabola of curvature g/z that touches such a loss
# at z != 0 lies above it everywhere (de Leeuw and Lange 2009).
ctypedef fused even_t:
    regression_even_t
    robust_t

# Losses with a method for their surrogate, a curvature that is never below 0, from the point, g and h
ctypedef fused own_surrogate_t:
    regression_surrogate_t
    quantile_t
    binary_surrogate_t
    focal_t
    count_surrogate_t
    uncertain_t

ctypedef fused surrogate_t:
    even_t
    own_surrogate_t

# Exponentials and logarithms are most of the work of every pass, and five loops would be too much code. These losses
# have two loops, one for the gradient and one for everything.
ctypedef fused heavy_t:
    regression_heavy_t
    robust_heavy_t
    interval_t
    focal_t
    count_heavy_t
    uncertain_heavy_t

# These losses have a single loop for all passes.
ctypedef fused heaviest_t:
    duration_t
    count_heaviest_t

# A few operations each: these losses wait for memory. Storing their values only to read them again for a sum would be
# much of the work.
ctypedef fused light_t:
    light_regression_t
    light_binary_t


# the results that a loop stores, as a type: each set has a loop of its own
cdef struct Value:
    int unused
cdef struct Gradient:
    int unused
cdef struct ValueGradient:
    int unused
cdef struct GradientHessian:
    int unused
cdef struct Everything:
    int unused
cdef struct Surrogate:
    int unused

ctypedef fused pass_t:
    Value
    Gradient
    ValueGradient
    GradientHessian
    Everything
    Surrogate


# what a sum comes with
ctypedef fused sum_pass_t:
    Value
    ValueGradient

# restrict pointers: a result that overlaps an input goes through a buffer
ctypedef fused apart_t:
    floats_apart
    doubles_apart

cdef enum:
    GRAIN = 8       # a loop takes multiples of these, and needs no second body for single elements


cdef inline void evaluate_one(loss_t kernel, bint value, bint grad, bint hess, bint others, bint surrogate,
                              double scale, real_t x, real_t y, real_t q, real_t* l, real_t* g, real_t* h, real_t* d,
                              real_t* e, real_t* f) noexcept nogil:
    """One element. The compiler removes what is not stored, which is known at compile time."""
    cdef real_t c = <real_t>scale, li, gi, hi, di, ei, fi
    if loss_t in two_predictions_t:
        kernel.at(x, y, q, &li, &gi, &hi, &di, &ei, &fi)
    elif loss_t in three_inputs_t:
        kernel.at(x, y, q, &li, &gi, &hi, &di, &ei)
    else:
        kernel.at(x, y, &li, &gi, &hi, &di)
    if loss_t in surrogate_t:
        if surrogate:
            if loss_t in even_t:
                hi = hi if x == y else gi / (x - y)
            elif loss_t in two_predictions_t:
                hi = kernel.surrogate(x, y, q, gi, hi, &fi)
            elif loss_t in three_inputs_t:
                hi = kernel.surrogate(x, y, q, gi, hi)
            else:
                hi = kernel.surrogate(x, y, gi, hi)
            hi = hi if li == li else li
    if value:
        l[0] = li
    if grad:
        g[0] = c * gi
    if hess:
        h[0] = c * hi
    if others:
        d[0] = c * di if li == li else li
        if loss_t in three_inputs_t:
            e[0] = c * ei if li == li else li
        if loss_t in two_predictions_t:
            f[0] = c * fi if li == li else li


cdef void evaluate(loss_t kernel, pass_t* tag, Py_ssize_t n, double scale, apart_t x, apart_t y, apart_t q, apart_t l,
                   apart_t g, apart_t h, apart_t d, apart_t e, apart_t f) noexcept nogil:
    """The one loop over elements.

    The element is a separate function, so that Cython writes it once for each loss and dtype, not for each pass as
    well.
    """
    cdef Py_ssize_t i
    for i in range(n & -GRAIN):
        # a Hessian is wanted beside derivatives in predictions alone
        evaluate_one(
            kernel, pass_t is not Gradient and pass_t is not GradientHessian, pass_t is not Value,
            pass_t is GradientHessian or pass_t is Everything or pass_t is Surrogate,
            pass_t is Everything or pass_t is Surrogate and loss_t in two_predictions_t, pass_t is Surrogate, scale,
            x[i], y[i], q[i], l + i, g + i, h + i, d + i, e + i, f + i)


cdef inline void evaluate_all(loop_t loop, void* kernel, Py_ssize_t n, double scale, const real_t* x, const real_t* y,
                              const real_t* q, real_t** out, Py_ssize_t at, bint has_third_hessian) noexcept nogil:
    """A loop over any number of elements: the last few are copied, and filled up with one of them.

    Results are written from element `at` on.
    """
    cdef Py_ssize_t whole = n & -GRAIN, k, i
    cdef int kind
    cdef real_t xs[GRAIN]
    cdef real_t ys[GRAIN]
    cdef real_t qs[GRAIN]
    cdef real_t results[GRAD_WEIGHT][GRAIN]
    if whole:
        loop(kernel, NULL, whole, scale, x, y, q, out[VALUE] + at, out[GRAD] + at, out[HESS] + at,
             out[GRAD_SECOND] + at, out[GRAD_THIRD] + at, out[HESS_THIRD] + at)
    if whole == n:
        return
    for k in range(GRAIN):
        i = whole + k if whole + k < n else whole
        xs[k], ys[k], qs[k] = x[i], y[i], q[i]
        for kind in range(GRAD_WEIGHT):
            results[kind][k] = 0
    loop(kernel, NULL, GRAIN, scale, &xs[0], &ys[0], &qs[0], &results[VALUE][0], &results[GRAD][0], &results[HESS][0],
         &results[GRAD_SECOND][0], &results[GRAD_THIRD][0], &results[HESS_THIRD][0])
    for kind in range(HESS_THIRD):
        for i in range(whole, n):
            out[kind][at + i] = results[kind][i - whole]
    for i in range(whole, n if has_third_hessian else whole):
        out[HESS_THIRD][at + i] = results[HESS_THIRD][i - whole]


cdef void evaluate_sum(light_t kernel, sum_pass_t* tag, Py_ssize_t n, Py_ssize_t at, double scale, const real_t* x,
                       const real_t* y, apart_t g, lanes_t lane) noexcept nogil:
    """Adds the losses of a multiple of LANES elements to the lanes without storing them.

    `at` is the first one's position in its block, for the order of sum_by_fours(); -1: the order of lane_sum().
    """
    cdef Py_ssize_t i = 0, k
    cdef real_t c = <real_t>scale, l0, l1, l2, l3, g0, g1, g2, g3, h, d
    cdef lanes_t octet
    if real_t is double:
        while at >= 0 and i < n:
            octet = lane + octet_of(at + i)
            for k in range(i, i + OCTET):
                kernel.at(x[k], y[k], &l0, &g0, &h, &d)
                kernel.at(x[k + OCTET], y[k + OCTET], &l1, &g1, &h, &d)
                kernel.at(x[k + 2 * OCTET], y[k + 2 * OCTET], &l2, &g2, &h, &d)
                kernel.at(x[k + 3 * OCTET], y[k + 3 * OCTET], &l3, &g3, &h, &d)
                octet[k - i] += (l0 + l1) + (l2 + l3)
                if sum_pass_t is ValueGradient:
                    g[k] = c * g0
                    g[k + OCTET] = c * g1
                    g[k + 2 * OCTET] = c * g2
                    g[k + 3 * OCTET] = c * g3
            i += LANES
    while i < n:
        for k in range(LANES):
            kernel.at(x[i + k], y[i + k], &l0, &g0, &h, &d)
            lane[k] += l0
            if sum_pass_t is ValueGradient:
                g[i + k] = c * g0
        i += LANES


cdef void fill_sums(light_t kernel, sum_t* sums, real_t* tag, apart_t result) noexcept:
    sums[0] = <sum_t>evaluate_sum[light_t, Value, real_t, apart_t]
    sums[1] = <sum_t>evaluate_sum[light_t, ValueGradient, real_t, apart_t]


cdef void fill(loss_t kernel, loop_t* loops, apart_t tag) noexcept:
    loops[PASS_EVERYTHING] = <loop_t>evaluate[loss_t, Everything, apart_t]
    if loss_t in heaviest_t:
        loops[PASS_VALUE_GRADIENT] = loops[PASS_EVERYTHING]
    else:
        loops[PASS_VALUE_GRADIENT] = <loop_t>evaluate[loss_t, ValueGradient, apart_t]
    if loss_t in heavy_t or loss_t in heaviest_t:
        loops[PASS_VALUE] = loops[PASS_GRADIENT] = loops[PASS_VALUE_GRADIENT]
        loops[PASS_GRADIENT_HESSIAN] = loops[PASS_EVERYTHING]
    else:
        loops[PASS_VALUE] = <loop_t>evaluate[loss_t, Value, apart_t]
        loops[PASS_GRADIENT] = <loop_t>evaluate[loss_t, Gradient, apart_t]
        loops[PASS_GRADIENT_HESSIAN] = <loop_t>evaluate[loss_t, GradientHessian, apart_t]
    if loss_t in surrogate_t:
        loops[PASS_SURROGATE] = <loop_t>evaluate[loss_t, Surrogate, apart_t]

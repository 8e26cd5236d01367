"""Losses over few classes: many rows at once, whose numbers lie class by class, so that vector lanes run over rows.

The exponentials of a row are those that classes.pxi derives, and so are all names.
"""

from libc.math cimport INFINITY
from libc.string cimport memcpy

from fastloss._math cimport (
    exp_from, exp_nonpositive, exp_range, fma, log_sum, lost, minus_absolute, real_t, signed_as,
)
from fastloss._plan cimport GRAD, HESS, plan_t


cdef void open_rows(Py_ssize_t n, Py_ssize_t classes, const real_t* tile, real_t* top, real_t* base, real_t* lowest,
                    real_t* shift, real_t* highest) noexcept nogil:
    """The highest logits of n rows, the constants of their exponentials, and the largest of these."""
    cdef Py_ssize_t i, j
    cdef const real_t* x
    cdef real_t b, low, k
    memcpy(top, tile, n * sizeof(real_t))
    for j in range(1, classes):
        x = tile + j * n
        for i in range(n):
            top[i] = x[i] if x[i] > top[i] else top[i]
    for i in range(n):
        exp_range(top[i], &b, &low, &k)
        highest[i] = exp_from(top[i] - b, low, k)
        base[i] = b
        lowest[i] = low
        shift[i] = k


cdef void close_rows(Py_ssize_t n, double factor, const double* weight, const double* others, const real_t* own,
                     const real_t* highest, const real_t* top, const real_t* logit,
                     real_t* l, real_t* scale, real_t* at_label) noexcept nogil:
    """From n rows' sums their losses, what turns exponentials into gradients, and the gradients at the labels."""
    cdef Py_ssize_t i
    cdef double w, c, loss
    cdef real_t rest, one = 1
    for i in range(n):
        # No digit cancels in what follows the sums, so these alone are in double, and factors, which may be any number.
        rest = <real_t>(others[i] + (<double>own[i] - highest[i]))
        w = weight[i]
        loss = (<double>top[i] - <double>logit[i]) + log_sum(one, rest / highest[i])
        l[i] = <real_t>(w * loss)
        c = w * factor * (one / <real_t>(others[i] + own[i]))
        scale[i] = <real_t>c
        at_label[i] = <real_t>(-others[i] * c)


cdef void sum_columns_below(Py_ssize_t n, Py_ssize_t classes, const real_t* y, const real_t* tile, const real_t* own,
                            const real_t* highest, double* below, real_t* ties) noexcept nogil:
    """For each of n rows the sum of the exponentials below the highest, and how many equal it."""
    cdef Py_ssize_t i, j
    cdef const real_t* e
    cdef real_t u, zero = 0
    set_all(below, <double>0, n)
    set_all(ties, zero, n)
    for j in range(classes):
        e = tile + j * n
        for i in range(n):
            u = own[i] if y[i] == j else e[i]
            ties[i] += u == highest[i]
            below[i] += zero if u == highest[i] else u


cdef void short_hessians(Py_ssize_t n, Py_ssize_t classes, const real_t* y, const real_t* tile,
                         const real_t* highest, const double* others, const real_t* own, const double* below,
                         const real_t* scale, real_t* hess) noexcept nogil:
    """e_j (S - e_j)/S^2 times the scales of n rows, where the S - e of the highest is the sum of all below it."""
    cdef Py_ssize_t i, j
    cdef const real_t* e
    cdef real_t u, total, rest
    for j in range(classes):
        e = tile + j * n
        for i in range(n):
            u = own[i] if y[i] == j else e[i]
            total = <real_t>(others[i] + own[i])
            rest = <real_t>below[i] if u == highest[i] else total - u
            hess[j * n + i] = scale[i] * u * (rest / total)


cdef void exponentiate_rows(Py_ssize_t n, Py_ssize_t classes, const real_t* y, const real_t* base,
                            const real_t* lowest, const real_t* shift, real_t* tile, real_t* logit, real_t* own,
                            double* others) noexcept nogil:
    """The exponentials of n rows and their sums without the labels', which are kept apart and are 0 in the tile."""
    cdef Py_ssize_t i, j
    cdef real_t* e
    cdef real_t u, zero = 0
    set_all(logit, zero, n)
    set_all(own, zero, n)
    set_all(others, <double>0, n)
    for j in range(classes):
        e = tile + j * n
        for i in range(n):
            u = exp_from(e[i] - base[i], lowest[i], shift[i])
            logit[i] = e[i] if y[i] == j else logit[i]
            own[i] = u if y[i] == j else own[i]
            u = zero if y[i] == j else u
            others[i] += u
            e[i] = u


cdef void close_functions(EntropyFunction kernel, const plan_t* p, Py_ssize_t n, const double* weight,
                          const double* others, const real_t* own, const real_t* highest, const real_t* top,
                          const real_t* logit, real_t* l, real_t* scale, real_t* at_label, real_t* bend,
                          real_t* bend_at_label, double* tail) noexcept nogil:
    """close_rows() for a function of the entropy, with its bends and the Hessians at the labels."""
    cdef Py_ssize_t i
    cdef double c, loss, slope, b, total
    for i in range(n):
        tail[i] = log_sum(<double>1, (others[i] + (<double>own[i] - highest[i])) / highest[i])
    for i in range(n):
        total = others[i] + own[i]
        loss = kernel.of_row(top[i], logit[i], tail[i], own[i] / total, others[i] / total, &slope, &b)
        l[i] = <real_t>(weight[i] * loss)
        c = weight[i] * p.grad_scale * slope
        b = 0 if p.surrogate and b < 0 else b
        bend[i] = <real_t>b
        bend_at_label[i] = <real_t>(c * (others[i] / total) * (own[i] / total + b))
        scale[i] = <real_t>(c / total)
        at_label[i] = <real_t>(-c * (others[i] / total))


cdef void bend_rows(Py_ssize_t n, Py_ssize_t classes, const real_t* y, const real_t* tile, const double* others,
                    const real_t* scale, const real_t* bend, const real_t* bend_at_label, real_t* hess) noexcept nogil:
    """Gives n rows' Hessians the part of the functions' curvature, as bend_row() does, and sets those at the labels."""
    cdef Py_ssize_t i, j
    cdef const real_t* e
    cdef real_t rest, h
    for j in range(classes):
        e = tile + j * n
        for i in range(n):
            rest = <real_t>(others[i] if others[i] > 0 else <double>1)
            h = hess[j * n + i] + scale[i] * e[i] * (bend[i] * (e[i] / rest))
            hess[j * n + i] = bend_at_label[i] if y[i] == j else h


cdef void few_classes(sparse_t kernel, const plan_t* p, Py_ssize_t n, const real_t* m, const real_t* y,
                      const double* weight, real_t* tile, real_t* hess, real_t* l, double* memory) noexcept nogil:
    """What sparse_row() does for a row, for n, whose logits are in the tile, class by class."""
    cdef Py_ssize_t i, j, classes = p.row_length
    cdef double* others = memory
    cdef double* below = others + n
    cdef real_t* top = <real_t*>(below + n)
    cdef real_t* base = top + n
    cdef real_t* lowest = base + n
    cdef real_t* shift = lowest + n
    cdef real_t* highest = shift + n
    cdef real_t* ties = highest + n
    cdef real_t* logit = ties + n
    cdef real_t* own = logit + n
    cdef real_t* scale = own + n
    cdef real_t* at_label = scale + n
    cdef real_t* bend = at_label + n
    cdef real_t* bend_at_label = bend + n
    cdef real_t* e
    cdef bint has_hessian = p.outputs[HESS].data != NULL
    open_rows(n, classes, tile, top, base, lowest, shift, highest)
    exponentiate_rows(n, classes, y, base, lowest, shift, tile, logit, own, others)
    if has_hessian:
        sum_columns_below(n, classes, y, tile, own, highest, below, ties)
    if sparse_t is EntropyFunction:
        # a double for each row, behind twelve real numbers
        close_functions(kernel, p, n, weight, others, own, highest, top, logit, l, scale, at_label, bend,
                        bend_at_label, <double*>(top + 12 * n))
    else:
        close_rows(n, p.grad_scale, weight, others, own, highest, top, logit, l, scale, at_label)
    if m != NULL:
        multiply(scale, m, n)
        multiply(at_label, m, n)
        if sparse_t is EntropyFunction:
            multiply(bend_at_label, m, n)
    if has_hessian:
        for i in range(n):
            below[i] += (ties[i] - 1) * <double>highest[i]
        short_hessians(n, classes, y, tile, highest, others, own, below, scale, hess)
        if sparse_t is EntropyFunction:
            bend_rows(n, classes, y, tile, others, scale, bend, bend_at_label, hess)
    for j in range(classes if p.outputs[GRAD].data != NULL else 0):
        e = tile + j * n
        for i in range(n):
            e[i] = at_label[i] if y[i] == j else e[i] * scale[i]


cdef void two_classes(Py_ssize_t n, double factor, const real_t* m, const real_t* y, const double* weight,
                      real_t* tile, real_t* hess, real_t* l) noexcept nogil:
    """few_classes() for two: a logistic loss of z, the other's logit less the label's, and of a label of 0.

    e^z would magnify the rounding error of z, so z comes in two parts. The Hessian is the same for both logits.
    """
    cdef Py_ssize_t i
    cdef real_t own, other, z, rest, u, loss, g, h, scale, one = 1, zero = 0
    for i in range(n):
        own = tile[i] if y[i] == 0 else tile[n + i]
        other = tile[n + i] if y[i] == 0 else tile[i]
        # no number where the higher logit is infinite
        z = fma(zero, own if own > other else other, other - own)
        rest = lost(other, -own, z)
        rest = rest if rest == rest else zero
        u = exp_nonpositive(minus_absolute(z))
        u = fma(u, rest if z < 0 else -rest, u)
        logistic_from(u, z, one if signed_as(one, z) > 0 else zero, one, &loss, &g, &h)
        l[i] = <real_t>weight[i] * (loss + (rest if z > 0 else zero))
        scale = <real_t>(factor * weight[i])
        g = scale * g
        hess[i] = hess[n + i] = scale * h
        tile[i] = -g if y[i] == 0 else g
        tile[n + i] = g if y[i] == 0 else -g
    for i in range(2 if m != NULL else 0):
        multiply(tile + i * n, m, n)
        multiply(hess + i * n, m, n)


cdef void tile_targets(TargetKernel kernel, Py_ssize_t n, Py_ssize_t classes, const real_t* y,
                       real_t* t) noexcept nogil:
    """set_targets() for n rows, whose dense labels are in t already."""
    cdef Py_ssize_t i, j
    cdef real_t keep = <real_t>(1 - kernel.smoothing), base = <real_t>(kernel.smoothing / classes), by = 1
    for j in range(classes):
        if kernel.class_weight != NULL and not kernel.weighs_rows:
            by = <real_t>kernel.class_weight[j]
        for i in range(n):
            t[j * n + i] = by * (keep + base if y[i] == j else base) if kernel.has_ids else (
                by * fma(keep, t[j * n + i], base))


cdef void sum_targets(Py_ssize_t n, Py_ssize_t classes, const real_t* t, const real_t* tile, const real_t* top,
                      double* targets, double* linear) noexcept nogil:
    """The sums of n rows' targets, and of these times m - x_j."""
    cdef Py_ssize_t i, j
    cdef const real_t* x
    cdef real_t u, zero = 0
    set_all(targets, <double>0, n)
    set_all(linear, <double>0, n)
    for j in range(classes):
        x = tile + j * n
        for i in range(n):
            # a class without weight may have a logit of -inf
            u = t[j * n + i] * (top[i] - x[i])
            linear[i] += zero if t[j * n + i] == 0 else u
            targets[i] += t[j * n + i]


cdef void exponentiate_tile(Py_ssize_t n, Py_ssize_t classes, const real_t* top, const real_t* base,
                            const real_t* lowest, const real_t* shift, const real_t* highest, real_t* tile,
                            real_t* behind, real_t* ties, double* others) noexcept nogil:
    """The exponentials of n rows, and their sums without one of the highest; keeps m - x_j unless `behind` is NULL."""
    cdef Py_ssize_t i, j
    cdef real_t* x
    cdef real_t u, zero = 0
    set_all(ties, <real_t>-1, n)
    set_all(others, <double>0, n)
    for j in range(classes):
        x = tile + j * n
        for i in range(n if behind != NULL else 0):
            behind[j * n + i] = top[i] - x[i]
        for i in range(n):
            u = exp_from(x[i] - base[i], lowest[i], shift[i])
            ties[i] += u == highest[i]
            others[i] += zero if u == highest[i] else u
            x[i] = u
    for i in range(n):
        others[i] += ties[i] * <double>highest[i]


cdef void few_targets(const plan_t* p, Py_ssize_t n, const real_t* m, const real_t* t, bint alone, double penalty,
                      real_t* tile, real_t* hess, real_t* behind, real_t* l, double* memory) noexcept nogil:
    """What dense_row() does for a row, for n, whose logits and targets are in tiles, class by class.

    `behind` becomes the losses of the classes, log sum e^x - x_j, unless it is NULL. Alone, targets of 0 count as 1.
    """
    cdef Py_ssize_t i, j, classes = p.row_length
    cdef double* others = memory
    cdef double* linear = others + n
    cdef double* targets = linear + n
    cdef real_t* top = <real_t*>(targets + n)
    cdef real_t* base = top + n
    cdef real_t* lowest = base + n
    cdef real_t* shift = lowest + n
    cdef real_t* highest = shift + n
    cdef real_t* ties = highest + n
    cdef real_t* scale = ties + n
    open_rows(n, classes, tile, top, base, lowest, shift, highest)
    if alone:
        set_all(targets, <double>1, n)
        for i in range(n):
            linear[i] = top[i]
    else:
        sum_targets(n, classes, t, tile, top, targets, linear)
    exponentiate_tile(n, classes, top, base, lowest, shift, highest, tile, behind, ties, others)
    # the constants of the exponentials are not needed any more
    close_targets(n, p.grad_scale, penalty, targets, linear, others, highest, top, base, lowest, shift, scale, l)
    for j in range(classes if behind != NULL else 0):
        for i in range(n):
            behind[j * n + i] += shift[i]
    if m != NULL:
        multiply(scale, m, n)
    spread_targets(n, classes, t, lowest, base, highest, top, scale, <real_t>(2 * penalty), tile,
                   hess if p.outputs[HESS].data != NULL else NULL)


cdef void find_edges(Py_ssize_t n, Py_ssize_t classes, const real_t* tile, double* edge) noexcept nogil:
    """What level_of() says of those of n rows whose highest logit is infinite or none, for others 0."""
    cdef Py_ssize_t i, j
    cdef const real_t* x
    cdef double top
    set_all(edge, <double>0, n)
    for j in range(classes):
        x = tile + j * n
        for i in range(n):
            edge[i] += x[i] - x[i]
    for i in range(n):
        if edge[i] == 0:
            continue
        top = tile[i]
        for j in range(1, classes):
            # none stays none
            top = top if top != top or tile[j * n + i] <= top else tile[j * n + i]
        edge[i] = top if top - top != 0 else <double>0


cdef void close_targets(Py_ssize_t n, double factor, double penalty, const double* targets, const double* linear,
                        const double* others, const real_t* highest, real_t* level, real_t* rest, real_t* mass,
                        real_t* log_total, real_t* scale, real_t* l) noexcept nogil:
    """From n rows' sums their losses, and what turns exponentials into derivatives; the level is top m, then L."""
    cdef Py_ssize_t i
    cdef real_t one = 1
    for i in range(n):
        rest[i] = <real_t>others[i]
        mass[i] = <real_t>targets[i]
        log_total[i] = log_sum(one, rest[i] / highest[i])
        level[i] += log_total[i]
        l[i] = <real_t>(targets[i] * log_total[i] + linear[i]
                        + (penalty * level[i] * level[i] if penalty != 0 else <double>0))
        scale[i] = <real_t>(factor / (others[i] + highest[i]))


cdef void spread_targets(Py_ssize_t n, Py_ssize_t classes, const real_t* t, const real_t* mass, const real_t* others,
                         const real_t* highest, const real_t* level, const real_t* scale, real_t twice, real_t* tile,
                         real_t* hess) noexcept nogil:
    """softmax_derivatives() and add_square() for n rows; `twice` is twice the penalty, or 0."""
    cdef Py_ssize_t i, j
    cdef real_t* e
    cdef real_t rest, total, u
    for j in range(classes):
        e = tile + j * n
        for i in range(n if hess != NULL else 0):
            total = others[i] + highest[i]
            rest = others[i] if e[i] == highest[i] else total - e[i]
            u = fma(twice, fma(level[i], rest, e[i]), mass[i] * rest)
            hess[j * n + i] = scale[i] * e[i] * (u / total)
        for i in range(n):
            rest = others[i] if e[i] == highest[i] else others[i] + highest[i] - e[i]
            u = fma(mass[i] - t[j * n + i], e[i], -t[j * n + i] * rest)
            e[i] = scale[i] * fma(twice * level[i], e[i], u)


cdef void few_label_gradients(TargetKernel kernel, const plan_t* p, Py_ssize_t n, const real_t* m,
                              real_t* d) noexcept nogil:
    """label_gradients() for n rows, of which d has the losses of the classes."""
    cdef Py_ssize_t i, j
    cdef real_t keep, c = <real_t>p.grad_scale, zero = 0, u
    for j in range(p.row_length):
        keep = <real_t>(1 - kernel.smoothing)
        if kernel.class_weight != NULL:
            keep *= <real_t>kernel.class_weight[j]
        for i in range(n):
            u = d[j * n + i]
            d[j * n + i] = c * (zero if (keep == 0) & (u == <real_t>INFINITY) else keep * u)
        if m != NULL:
            multiply(d + j * n, m, n)

"""Losses of rows that are vectors: distances and angles. Sums are in double precision, whatever the dtype."""

cimport cython
from libc.math cimport INFINITY, NAN, sqrt

from fastloss._math cimport absolute, counter, normal, pow2, real_t
from fastloss._plan cimport plan_t

cdef enum:
    PIECE = 256     # numbers of a row with terms on the stack, because a thread's stack may have 16 kB


cdef double dot_piece(const real_t* x, const real_t* y, double x_scale, double y_scale, Py_ssize_t n) noexcept nogil:
    """lane_sum() of the products, without an array of them."""
    cdef double lane[LANES]
    cdef double total = 0
    cdef Py_ssize_t i = 0, k
    if n < 16:
        for i in range(n):
            total += (x_scale * x[i]) * (y_scale * y[i])
        return total
    for k in range(LANES):
        lane[k] = 0
    while i + LANES <= n:
        for k in range(LANES):
            lane[k] += (x_scale * x[i + k]) * (y_scale * y[i + k])
        i += LANES
    for k in range(n - i):
        lane[k] += (x_scale * x[i + k]) * (y_scale * y[i + k])
    return add_lanes(&lane[0])


cdef double dot(const real_t* x, const real_t* y, double x_scale, double y_scale, Py_ssize_t n) noexcept nogil:
    """The dot product of two vectors, each times a power of two."""
    cdef total_t total
    cdef Py_ssize_t k = 0, m
    total.sum = total.rest = 0
    while k < n:
        m = min(<Py_ssize_t>PIECE, n - k)
        add_to(&total, dot_piece(x + k, y + k, x_scale, y_scale, m))
        k += m
    return total_of(&total)


cdef double norm(const real_t* x, Py_ssize_t n, double* scale) noexcept nogil:
    """|x| times a power of two, which is 1 unless the squares leave the range of a double."""
    cdef double square, largest = 0, a, exponent = 0
    cdef Py_ssize_t i
    scale[0] = 1
    square = dot(x, x, <double>1, <double>1, n)
    if not 1e-280 < square < 1e280 and square == square:
        for i in range(n):
            a = absolute(<double>x[i])
            largest = a if a > largest else largest
        if 0 < largest < <double>INFINITY:
            normal(largest, &exponent)
            # a subnormal number's exponent is below those with a reciprocal
            scale[0] = pow2(counter(<double>1000 if exponent < -1000
                                    else (<double>-1000 if exponent > 1000 else -exponent)), 0)
            square = dot(x, x, scale[0], scale[0], n)
    return sqrt(square)


cdef inline void scaled_difference(Py_ssize_t n, real_t c, const real_t* a, const real_t* b, real_t* to) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = c * (a[i] - b[i])


cdef void clear_row(Py_ssize_t n, real_t* g, real_t* d, real_t* e) noexcept nogil:
    if g != NULL:
        set_all(g, <real_t>0, n)
    if d != NULL:
        set_all(d, <real_t>0, n)
    if e != NULL:
        set_all(e, <real_t>0, n)


@cython.final
cdef class Triplet(Kernel):
    """l = max(0, margin + |y - x|^2 - |q - x|^2).

    The difference of the squares as (y - q).((y - x) + (q - x)): neighbours of y keep their digits.
    """
    cdef double margin

    def __cinit__(self, double margin):
        self.margin = margin

    cdef double row(self, const plan_t* p, const real_t* x, const real_t* y, const real_t* q, double label,
                    double factor, real_t* g, real_t* h, real_t* d, real_t* e, real_t* memory) noexcept nogil:
        cdef double piece[PIECE]
        cdef double loss, xi, yi, qi
        cdef total_t total
        cdef real_t c
        cdef Py_ssize_t i, k = 0, m, n = p.row_length
        total.sum = total.rest = 0
        while k < n:
            m = min(<Py_ssize_t>PIECE, n - k)
            for i in range(m):
                xi, yi, qi = x[k + i], y[k + i], q[k + i]
                piece[i] = (yi - qi) * ((yi - xi) + (qi - xi))
            add_to(&total, lane_sum(&piece[0], m))
            k += m
        loss = self.margin + total_of(&total)
        loss = <double>0 if loss <= 0 else loss
        c = <real_t>2 * <real_t>factor
        if h != NULL:
            set_all(h, <real_t>0, n)
        if loss == 0 or c == 0:
            clear_row(n, g, d, e)
            return loss
        if g != NULL:
            scaled_difference(n, c, q, y, g)
        if d != NULL:
            scaled_difference(n, c, y, x, d)
        if e != NULL:
            scaled_difference(n, c, x, q, e)
        return loss


cdef struct angle_t:
    bint regular            # both vectors are long enough to have a direction
    double scale_x          # powers of two that bring the squares into the range
    double scale_y
    double over_a           # 1/|x| and 1/|y|, of the scaled vectors
    double over_b
    double c                # the cosine
    double s                # its sign
    double r                # 1 - |c|


cdef angle_t angle(const real_t* x, const real_t* y, Py_ssize_t n) noexcept nogil:
    """The cosine c = x.y / max(|x| |y|, 1e-12) of two vectors.

    With the unit vectors u and v, s the sign of c, w = u - s v and r = |w|^2/2, c = s (1 - r), which keeps the digits
    of small angles; x.y keeps those of small cosines, and the 0 of orthogonal vectors.
    """
    cdef angle_t t
    cdef double piece[PIECE]
    cdef double a, b, w
    cdef total_t half_square
    cdef Py_ssize_t i, k = 0, m
    half_square.sum = half_square.rest = 0
    t.over_a = t.over_b = 0
    a, b = norm(x, n, &t.scale_x), norm(y, n, &t.scale_y)
    t.c = dot(x, y, t.scale_x, t.scale_y, n)
    # for NaN as well
    t.regular = not (a * b / (t.scale_x * t.scale_y) < 1e-12)
    if not t.regular:
        t.s = 1
        t.c = t.c / (t.scale_x * t.scale_y) * 1e12
        t.r = 1 - t.c
        return t
    # Separate from the scale: the reciprocal of a subnormal number is infinite.
    t.over_a, t.over_b = 1 / a, 1 / b
    t.c = t.c / a / b
    t.s = <double>-1 if t.c < 0 else <double>1
    while k < n:
        m = min(<Py_ssize_t>PIECE, n - k)
        for i in range(m):
            w = t.over_a * (t.scale_x * x[k + i]) - t.s * (t.over_b * (t.scale_y * y[k + i]))
            piece[i] = w * w
        add_to(&half_square, lane_sum(&piece[0], m))
        k += m
    t.r = total_of(&half_square) * .5
    if -.5 < t.c < .5:
        t.r = 1 - t.s * t.c
    else:
        t.c = t.s * (1 - t.r)
    return t


cdef void turn(const angle_t* t, const real_t* x, const real_t* y, Py_ssize_t n, double factor, real_t* g, real_t* h,
               real_t* d) noexcept nogil:
    """factor times the derivatives of the cosine, for vectors with a direction.

    dc/dx = (v - c u)/|x| is s (r u - w)/|x|, dc/dy is (r s v + w)/|y|, and d^2c/dx_i^2 is
    -(2 u_i v_i + c - 3 c u_i^2)/|x|^2.
    """
    cdef double cx = factor * t.over_a, cy = factor * t.over_b, ch = factor * t.over_a * t.over_a, u, v, w
    cdef Py_ssize_t i
    if factor == 0:
        # 0 times the reciprocal of a tiny vector would be NaN
        cx = cy = ch = 0
    if g != NULL:
        for i in range(n):
            u, v = t.over_a * (t.scale_x * x[i]), t.over_b * (t.scale_y * y[i])
            w = u - t.s * v
            g[i] = <real_t>(cx * (t.s * (t.r * u - w)) * t.scale_x)
    if d != NULL:
        for i in range(n):
            u, v = t.over_a * (t.scale_x * x[i]), t.over_b * (t.scale_y * y[i])
            w = u - t.s * v
            d[i] = <real_t>(cy * (t.r * (t.s * v) + w) * t.scale_y)
    if h != NULL:
        for i in range(n):
            u, v = t.over_a * (t.scale_x * x[i]), t.over_b * (t.scale_y * y[i])
            h[i] = <real_t>(-ch * (2 * u * v + t.c - 3 * t.c * u * u) * t.scale_x * t.scale_x)


cdef void bend(const angle_t* t, const real_t* x, const real_t* y, const real_t* q, Py_ssize_t n, double factor,
               real_t* h) noexcept nogil:
    """factor times the second derivatives of the cosine in x, times a vector q, for vectors with a direction.

    d^2c/dx^2 is -(u v' + v u' + c - 3 c u u')/|x|^2.
    """
    cdef double along = t.over_a * dot(x, q, t.scale_x, <double>1, n)
    cdef double other = t.over_b * dot(y, q, t.scale_y, <double>1, n)
    cdef double ch = factor * t.over_a * t.over_a, u, v
    cdef Py_ssize_t i
    if factor == 0:
        set_all(h, <real_t>0, n)
        return
    for i in range(n):
        u, v = t.over_a * (t.scale_x * x[i]), t.over_b * (t.scale_y * y[i])
        h[i] = <real_t>(-ch * (u * other + v * along + t.c * (q[i] - 3 * u * along)) * t.scale_x * t.scale_x)


@cython.final
cdef class CosineEmbedding(Kernel):
    """l = 1 - c where the label is 1, max(0, c - margin) where it is -1, c = x.y / max(|x| |y|, 1e-12)."""
    cdef double margin

    def __cinit__(self, double margin):
        self.margin = margin

    cdef double row(self, const plan_t* p, const real_t* x, const real_t* y, const real_t* q, double label,
                    double factor, real_t* g, real_t* h, real_t* d, real_t* e, real_t* memory) noexcept nogil:
        cdef Py_ssize_t i, n = p.row_length
        cdef angle_t t = angle(x, y, n)
        cdef double loss
        if label > 0:
            loss = t.r if t.s > 0 else 2 - t.r
            factor = -factor
        else:
            # An example of weight 0 may have any label.
            loss = t.c - self.margin if label < 0 else <double>NAN
            factor = <double>0 if loss <= 0 else factor
            loss = <double>0 if loss <= 0 else loss
        if t.regular:
            if q != NULL:
                bend(&t, x, y, q, n, factor, h)
            else:
                turn(&t, x, y, n, factor, g, h, d)
            return loss
        if g != NULL:
            for i in range(n):
                g[i] = <real_t>(factor * 1e12 * y[i])
        if d != NULL:
            for i in range(n):
                d[i] = <real_t>(factor * 1e12 * x[i])
        if h != NULL:
            set_all(h, <real_t>0, n)
        return loss


ctypedef fused vector_loss_t:
    Triplet
    CosineEmbedding


# that give the Hessian times a vector where a row comes with one
ctypedef fused product_t:
    SoftmaxCrossEntropy
    AdjustedCrossEntropy
    EntropyFunction
    SoftmaxDivergence
    Triplet
    CosineEmbedding

"""Losses of rows that are vectors: distances and angles. Sums are in double precision, whatever the dtype."""

cdef enum:
    PIECE = 256     # numbers of a row whose terms are on the stack: that of a thread may have 16 kB


cdef double dot_piece(const real_t* x, const real_t* y, double x_scale, double y_scale, Py_ssize_t n) noexcept nogil:
    """What lane_sum gives of the products, without an array of them."""
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
            # a subnormal number's is below all that has a reciprocal
            scale[0] = pow2(counter(<double>1000 if exponent < -1000 else (<double>-1000 if exponent > 1000 else -exponent)), 0)
            square = dot(x, x, scale[0], scale[0], n)
    return sqrt(square)


cdef double triplet_row(double margin, const real_t* x, const real_t* y, const real_t* q, Py_ssize_t n, double factor,
                        real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
    """max(0, margin + |y - x|^2 - |q - x|^2) and its derivatives.

    The difference of the squares as (y - q).((y - x) + (q - x)): neighbours of y keep their digits.
    """
    cdef double piece[PIECE]
    cdef double loss, xi, yi, qi
    cdef total_t total
    cdef real_t c, two = 2, x_, y_, q_
    cdef Py_ssize_t i, k = 0, m
    total.sum = total.rest = 0
    while k < n:
        m = min(<Py_ssize_t>PIECE, n - k)
        for i in range(m):
            xi, yi, qi = x[k + i], y[k + i], q[k + i]
            piece[i] = (yi - qi) * ((yi - xi) + (qi - xi))
        add_to(&total, lane_sum(&piece[0], m))
        k += m
    loss = margin + total_of(&total)
    # a NaN spoils the gradient, too
    c = <real_t>0 if loss <= 0 else <real_t>(factor if loss > 0 else loss)
    if c == 0:
        for i in range(n):
            if g != NULL:
                g[i] = 0
            if d != NULL:
                d[i] = 0
            if e != NULL:
                e[i] = 0
    elif d == NULL and e == NULL and g != NULL:
        for i in range(n):
            g[i] = two * c * (q[i] - y[i])
    else:
        # any result may lie over any input
        for i in range(n):
            x_, y_, q_ = x[i], y[i], q[i]
            if g != NULL:
                g[i] = two * c * (q_ - y_)
            if d != NULL:
                d[i] = two * c * (y_ - x_)
            if e != NULL:
                e[i] = two * c * (x_ - q_)
    if h != NULL:
        set_all(h, <real_t>0 if loss == loss else <real_t>NAN, n)
    return <double>0 if loss <= 0 else loss


cdef double cosine_row(double margin, const real_t* x, const real_t* y, const real_t* q, Py_ssize_t n, double factor,
                       real_t* g, real_t* h, real_t* d, real_t* e) noexcept nogil:
    """1 - c where q = 1, max(0, c - margin) where q = -1, c = x.y / max(|x| |y|, 1e-12), and its derivatives.

    With the unit vectors u and v, s the sign of c, w = u - s v and r = |w|^2/2, c = s (1 - r), which keeps the digits of
    small angles; x.y keeps those of small cosines, and the 0 of orthogonal vectors. dc/dx = (v - c u)/|x| is
    s (r u - w)/|x|, dc/dy is (r s v + w)/|y|, and d^2c/dx_i^2 = -(2 u_i v_i + c - 3 c u_i^2)/|x|^2.
    """
    cdef double piece[PIECE]
    cdef double scale_x, scale_y, over_a, over_b, a, b, c, r, s, w, loss, u, v, cx, cy, ch
    cdef total_t half_square
    cdef Py_ssize_t i, k = 0, m
    half_square.sum = half_square.rest = 0
    a, b = norm(x, n, &scale_x), norm(y, n, &scale_y)
    c = dot(x, y, scale_x, scale_y, n)
    # NaN goes here as well
    cdef bint regular = not (a * b / (scale_x * scale_y) < 1e-12)
    if regular:
        # apart from the scale: the reciprocal of a subnormal number is infinite
        over_a, over_b = 1 / a, 1 / b
        c = c / a / b
        s = <double>-1 if c < 0 else <double>1
        while k < n:
            m = min(<Py_ssize_t>PIECE, n - k)
            for i in range(m):
                w = over_a * (scale_x * x[k + i]) - s * (over_b * (scale_y * y[k + i]))
                piece[i] = w * w
            add_to(&half_square, lane_sum(&piece[0], m))
            k += m
        r = total_of(&half_square) * .5
        if -.5 < c < .5:
            r = 1 - s * c
        else:
            c = s * (1 - r)
    else:
        s = 1
        c = c / (scale_x * scale_y) * 1e12
        r = 1 - c
    if q[0] > 0:
        loss = r if s > 0 else 2 - r
        factor = -factor
    else:
        # of an example without weight the label may be anything
        loss = c - margin if q[0] < 0 else <double>NAN
        factor = <double>0 if loss <= 0 else factor
        loss = <double>0 if loss <= 0 else loss
    if regular:
        cx, cy, ch = factor * over_a, factor * over_b, factor * over_a * over_a
        if factor == 0 and loss == loss:
            cx = cy = ch = 0
        for i in range(n):
            u, v = over_a * (scale_x * x[i]), over_b * (scale_y * y[i])
            w = u - s * v
            if g != NULL:
                g[i] = <real_t>(cx * (s * (r * u - w)) * scale_x)
            if d != NULL:
                d[i] = <real_t>(cy * (r * (s * v) + w) * scale_y)
            if h != NULL:
                h[i] = <real_t>(-ch * (2 * u * v + c - 3 * c * u * u) * scale_x * scale_x)
    else:
        for i in range(n):
            u, v = x[i], y[i]
            if g != NULL:
                g[i] = <real_t>(factor * 1e12 * v)
            if d != NULL:
                d[i] = <real_t>(factor * 1e12 * u)
            if h != NULL:
                h[i] = 0
    return loss


cdef void vector_rows(row_loss_t kernel, const plan_t* p, Py_ssize_t start, Py_ssize_t n, const real_t* m, const real_t* w, real_t* l,
                      real_t* buffers) noexcept nogil:
    """The loss of each pair or triple of vectors start to start + n."""
    cdef Py_ssize_t width = p.width, size = n * width, first = start * width, i, k
    cdef Py_ssize_t tile = p.block * width
    cdef Py_ssize_t step = width if p.inputs[THIRD].rows else 1
    cdef real_t* tiles = buffers + BLOCK_BYTES // sizeof(real_t)
    cdef real_t* x = fetch(&p.inputs[PRED], first, size, tiles)
    cdef real_t* y = fetch(&p.inputs[LABEL], first, size, tiles + LABEL * tile)
    cdef real_t* q = fetch(&p.inputs[THIRD], start * step, n * step, tiles + THIRD * tile if p.inputs[THIRD].rows else buffers)
    cdef double factor
    cdef int[4] kinds = [GRAD, HESS, LABEL_GRAD, THIRD_GRAD]
    cdef real_t* out[4]
    cdef real_t* row[4]
    for k in range(4):
        out[k] = NULL
        if p.outputs[kinds[k]].data != NULL:
            out[k] = place(p, kinds[k], first, tiles + (THIRD + kinds[k]) * tile)
    for i in range(n):
        factor = p.grad_scale * (m[i] if m != NULL else <real_t>1)
        for k in range(4):
            row[k] = out[k] + i * width if out[k] != NULL else NULL
        if row_loss_t is Triplet:
            l[i] = <real_t>triplet_row(kernel.margin, x + i * width, y + i * width, q + i * step, width, factor, row[0], row[1], row[2], row[3])
        elif row_loss_t is CosineEmbedding:
            l[i] = <real_t>cosine_row(kernel.margin, x + i * width, y + i * width, q + i * step, width, factor, row[0], row[1], row[2], row[3])
        for k in range(4 if w != NULL and w[i] == 0 else 0):
            if row[k] != NULL:
                set_all(row[k], <real_t>0, width)
    for k in range(4):
        if out[k] != NULL and not p.outputs[kinds[k]].direct:
            scatter(&p.outputs[kinds[k]], first, size, out[k])

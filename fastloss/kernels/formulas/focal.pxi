"""Cross-entropies of two classes that count easy examples less."""

cimport cython

from fastloss._math cimport *


cdef inline real_t limited(real_t z) noexcept nogil:
    """max(0, z), at most 10,000: e^-z is 0 there, and infinity times an exponent of 0 would be NaN."""
    cdef real_t zero = 0, most = 1e4
    return zero if z <= 0 else (most if z > most else z)


cdef inline real_t power(real_t k, real_t low, real_t top, real_t tail) noexcept nogil:
    """e^((k + low) (top + tail)), with an exponent below 0 in two parts.

    The exponential magnifies rounding in its argument, so the roundings of product and sum are carried along.
    """
    cdef real_t a = k * top, b = fma(k, tail, fma(low, top, fma(k, top, -a))), x = a + b
    cdef real_t e = exp_nonpositive(x)
    return fma(e, lost(a, b, x), e)


cdef inline real_t bias_of(real_t one) noexcept nogil:
    """The stored form of the exponent 1."""
    if real_t is float:
        return 127
    else:
        return 1023


cdef inline real_t above(real_t x, real_t y, real_t g, real_t h) noexcept nogil:
    """The larger of h and p |g|, which is h without the curvature of the loss as a function of s."""
    cdef real_t one = 1, m = x if y > <real_t>.5 else -x, u = exp_nonpositive(minus_absolute(m))
    cdef real_t part = absolute(g) * ((one if m > 0 else u) / (one + u))
    return part if part > h else h


@cython.final
cdef class SigmoidFocal(Kernel):
    """l = w q^k s, s = log(1 + e^-m), q = 1/(1 + e^m). m is x for the label 1, -x for 0; each label has a w and a k.

    log q = -max(0, m) - log(1 + u), u = e^-|m|. With p = 1 - q, s' = -q and q' = -p q follow g = -w q^k (k p s + q),
    where nothing cancels, and h = w q^k (k p s (k p - q) + (1 + 2 k) p q).
    """
    cdef double weight[2]
    cdef double exponent[2]

    def __cinit__(self, double negative, double positive, double of_negative, double of_positive):
        self.weight = [negative, positive]
        # more would have no square in float32
        self.exponent = [min(of_negative, 1e15), min(of_positive, 1e15)]

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t zero = 0, one = 1, k0 = <real_t>self.exponent[0], k1 = <real_t>self.exponent[1]
        cdef real_t low0 = <real_t>(self.exponent[0] - k0), low1 = <real_t>(self.exponent[1] - k1)
        cdef real_t w0 = <real_t>self.weight[0], w1 = <real_t>self.weight[1]
        cdef bint positive = y > <real_t>.5
        cdef real_t w = w1 if positive else w0
        cdef real_t k = k1 if positive else k0, low = low1 if positive else low0
        # a label that is not finite has no sign
        cdef real_t m = fma(y, zero, x if positive else -x)
        cdef real_t u = exp_nonpositive(minus_absolute(m)), near = one / (one + u), far = u * near
        cdef real_t p = near if m > 0 else far, q = far if m > 0 else near
        cdef real_t tail = log1p_unit(u), s = tail + (zero if m > 0 else -m)
        # an infinite s has no p: 0 * inf
        cdef real_t ps = k * (zero if p == 0 else p * s), slope = ps + q
        cdef real_t factor = w * power(-k, -low, limited(m), tail)
        l[0] = zero_like(m) if w == 0 else factor * s
        g[0] = factor * (-slope if positive else slope)
        h[0] = factor * fma(ps, fma(k, p, -q), fma(<real_t>2, k, one) * p * q)
        d[0] = zero

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return above(x, y, g, h)


cdef inline real_t small_power(real_t k, real_t v) noexcept nogil:
    """v^k for an integer k from 0 to 7."""
    cdef real_t one = 1, two = 2, four = 4, square = v * v
    cdef real_t rest = k - four if k >= four else k, last = rest - two if rest >= two else rest
    return (square * square if k >= four else one) * (square if rest >= two else one) * (v if last >= one else one)


@cython.final
cdef class AsymmetricFocal(Kernel):
    """l = v^k r, r = -log(1 - v): v = q for the label 1, as in SigmoidFocal, max(0, p - clip) for 0, with another k.

    With i = 1/(1 - v), c = p q/v and e = p q i: g = -+v^k (k r c + e), and h = v^k (k r c ((k - 1) c +- (p - q)) + e (2
    k c + e +- (p - q))). For the label 1, c = p, e = q, and the last sum is e + p - q = p.
    """
    cdef double clip
    cdef double exponent[2]

    def __cinit__(self, double clip, double of_negative, double of_positive):
        self.clip, self.exponent = clip, [of_negative, of_positive]

    cdef inline void at(self, real_t x, real_t y, real_t* l, real_t* g, real_t* h, real_t* d) noexcept nogil:
        cdef real_t zero = 0, one = 1, half = .5, k0 = <real_t>self.exponent[0], k1 = <real_t>self.exponent[1]
        cdef real_t clip = <real_t>self.clip, bias = bias_of(one), rest
        cdef bint positive = y > half
        # a label that is not finite has no sign
        cdef real_t k = k1 if positive else k0, z = fma(y, zero, x)
        cdef real_t u = exp_nonpositive(minus_absolute(z)), near = one / (one + u), far = u * near
        cdef real_t p = near if z > 0 else far, q = far if z > 0 else near, pq = p * q, excess = p - clip
        # any positive number where the loss is 0
        cdef real_t v = half if excess <= 0 else excess
        # one logarithm of three: log(1 + u), log(1 - v), log(q + clip)
        cdef real_t base = one if v <= half else clip, part = -v if v <= half else q
        base = one if positive else base
        part = u if positive else part
        cdef real_t w = base + part, i = near if positive else one / (q + clip)
        cdef real_t tail = -log_normal(w, bias, (part - (w - base)) * i, &rest)
        cdef real_t r = tail if not positive else (zero if z > 0 else -z) - tail
        cdef real_t factor = small_power(k, q if positive else v)
        factor = factor if positive else (zero if excess <= 0 else factor)
        cdef real_t c = p if positive else pq / v, e = q if positive else pq * i, lead = p - q if positive else q - p
        # an infinite r has no c: 0 * inf
        cdef real_t krc = k * (zero if c == 0 else r * c), slope = factor * (krc + e)
        l[0] = factor * r
        g[0] = -slope if positive else slope
        h[0] = factor * fma(krc, fma(k - one, c, lead), e * fma(k + k, c, p if positive else e + lead))
        d[0] = zero

    cdef inline real_t surrogate(self, real_t x, real_t y, real_t g, real_t h) noexcept nogil:
        return above(x, y, g, h)


ctypedef fused focal_t:
    SigmoidFocal
    AsymmetricFocal

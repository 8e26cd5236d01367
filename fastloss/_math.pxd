"""Branch-free elementary functions, inlined into the loops that call them; float32 and float64.

Every function is straight-line code on one number, so a loop over it becomes vector code. Stated errors are the largest
seen against mpmath; tests/test_accuracy.py asserts them, through the losses. Polynomial coefficients were computed with
200 bits and rounded: minimax for exp (Remez 1934), interpolation at Chebyshev nodes for log_reduced and log1pmx_ratio.
Those of log1p_unit in float32 are minimax in ULP (Lawson 1961), each rounded before the next was fitted.
"""

from libc.math cimport INFINITY, NAN, sqrt as sqrt_of_double, sqrtf as sqrt_of_float
from libc.stdint cimport uint32_t, uint64_t

ctypedef fused real_t:
    float
    double

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    #define FL_FMAF(a, b, c) __builtin_fmaf(a, b, c)
    #define FL_FMA(a, b, c) __builtin_fma(a, b, c)
    #elif defined(_MSC_VER) && defined(__AVX2__)
    #include <math.h>
    #define FL_FMAF(a, b, c) fmaf(a, b, c)
    #define FL_FMA(a, b, c) fma(a, b, c)
    #else
    #define FL_FMAF(a, b, c) ((a) * (b) + (c))
    #define FL_FMA(a, b, c) ((a) * (b) + (c))
    #endif
    static inline uint32_t fl_bits_f(float x) { uint32_t i; memcpy(&i, &x, sizeof i); return i; }
    static inline uint64_t fl_bits_d(double x) { uint64_t i; memcpy(&i, &x, sizeof i); return i; }
    static inline float fl_from_bits_f(uint32_t i) { float x; memcpy(&x, &i, sizeof x); return x; }
    static inline double fl_from_bits_d(uint64_t i) { double x; memcpy(&x, &i, sizeof x); return x; }
    """
    float fmaf "FL_FMAF"(float a, float b, float c) noexcept nogil
    double fmad "FL_FMA"(double a, double b, double c) noexcept nogil
    uint32_t bits_f "fl_bits_f"(float x) noexcept nogil
    uint64_t bits_d "fl_bits_d"(double x) noexcept nogil
    float from_bits_f "fl_from_bits_f"(uint32_t i) noexcept nogil
    double from_bits_d "fl_from_bits_d"(uint64_t i) noexcept nogil


cdef inline real_t fma(real_t a, real_t b, real_t c) noexcept nogil:
    """a b + c: rounded once with FMA, twice on a processor without FMA, where libm's fma takes 20 times as long."""
    if real_t is float:
        return fmaf(a, b, c)
    else:
        return fmad(a, b, c)


cdef inline real_t absolute(real_t x) noexcept nogil:
    if real_t is float:
        return from_bits_f(bits_f(x) & <uint32_t>0x7fffffff)
    else:
        return from_bits_d(bits_d(x) & <uint64_t>0x7fffffffffffffff)


cdef inline real_t minus_absolute(real_t x) noexcept nogil:
    if real_t is float:
        return from_bits_f(bits_f(x) | <uint32_t>0x80000000)
    else:
        return from_bits_d(bits_d(x) | <uint64_t>0x8000000000000000)


cdef inline real_t signed_as(real_t a, real_t x) noexcept nogil:
    """a >= 0 with the sign of x: two operations on bits, where a condition would take a comparison and a choice."""
    if real_t is float:
        return from_bits_f(bits_f(a) | (bits_f(x) & <uint32_t>0x80000000))
    else:
        return from_bits_d(bits_d(a) | (bits_d(x) & <uint64_t>0x8000000000000000))


cdef inline real_t sqrt(real_t x) noexcept nogil:
    """The processor's square root, rounded once: without errno it is one instruction, on vectors too."""
    if real_t is float:
        return sqrt_of_float(x)
    else:
        return sqrt_of_double(x)


cdef inline real_t lost(real_t a, real_t b, real_t total) noexcept nogil:
    """The exact rounding error of a + b = total (Moeller 1965); NaN for an infinite total."""
    cdef real_t t = total - a
    return (a - (total - t)) + (b - t)


cdef inline real_t counter(real_t x) noexcept nogil:
    """1.5 * 2^(mantissa bits) plus the integer nearest to x, |x| < 2^22: the low bits hold the integer.

    rint would be a libm call below SSE4.1.
    """
    if real_t is float:
        return x + <float>12582912.
    else:
        return x + 6755399441055744.


cdef inline real_t count(real_t c) noexcept nogil:
    """The integer of a counter."""
    if real_t is float:
        return c - <float>12582912.
    else:
        return c - 6755399441055744.


cdef inline real_t nearest(real_t x) noexcept nogil:
    """The integer nearest to x, |x| < 2^22."""
    return count(counter(x))


cdef inline real_t pow2(real_t c, int k) noexcept nogil:
    """2^(n + k), a normal number, for the counter c of an integer n: vectors convert to int64 only from AVX-512 on."""
    if real_t is float:
        return from_bits_f((bits_f(c) << 23) + (<uint32_t>(127 + k) << 23))
    else:
        return from_bits_d((bits_d(c) << 52) + (<uint64_t>(1023 + k) << 52))


cdef inline double normal(double m, double* e) noexcept nogil:
    """Splits m >= 0: returns the mantissa, in [1, 2) or 0; e gets the exponent, the least double for 0."""
    cdef uint64_t bits = bits_d(m)
    cdef double least = -1.7976931348623157e308
    # an integer below 2^52, put behind the bits of 2^52, is that double's fraction
    cdef double n = from_bits_d((bits >> 52) | <uint64_t>0x4330000000000000) - (4503599627370496. + 1023)
    cdef double mantissa = from_bits_d((bits & <uint64_t>0x000fffffffffffff) | <uint64_t>0x3ff0000000000000)
    e[0] = e[0] + n if (m > 0) & (e[0] > least) else least
    return mantissa if (m > 0) & (e[0] > least) else <double>0


cdef inline real_t remainder(real_t x, real_t* c) noexcept nogil:
    """r of x = n ln 2 + r with e^r between 3/4 and 3/2, and the counter of n.

    ln 2 in two parts keeps r exact.

    The interval is asymmetric: results below 1 have half the unit in the last place, so r is smaller there.
    """
    cdef real_t n
    if real_t is float:
        c[0] = counter(fma(x, <float>1.44269504088896341, <float>-.0849625007211562))
        n = count(c[0])
        return fma(-n, <float>1.428606765330187e-06, fma(-n, <float>0.693145751953125, x))
    else:
        c[0] = counter(fma(x, 1.44269504088896341, -.0849625007211562))
        n = count(c[0])
        return fma(-n, 1.9082149292705877e-10, fma(-n, 0.6931471803691238, x))


cdef inline real_t expm1_reduced(real_t r) noexcept nogil:
    """e^r - 1 = r + r^2 P(r) for a remainder r."""
    cdef real_t p
    if real_t is float:
        p = fma(r, <float>1.4500095276162028e-03, <float>8.359628729522228e-03)
        p = fma(r, p, <float>4.166190326213837e-02)
        p = fma(r, p, <float>.16666574776172638)
        p = fma(r, p, <float>.5)
    else:
        p = fma(r, 2.6456700128443302e-08, 2.7590175993769655e-07)
        p = fma(r, p, 2.7554164665100914e-06)
        p = fma(r, p, 2.4801575567832945e-05)
        p = fma(r, p, 1.9841272414084917e-04)
        p = fma(r, p, 1.3888888886543853e-03)
        p = fma(r, p, 8.333333332456224e-03)
        p = fma(r, p, 4.166666666667834e-02)
        p = fma(r, p, .16666666666667676)
        p = fma(r, p, .5)
    return fma(r * r, p, r)


cdef inline real_t exp_reduced(real_t x, real_t* c) noexcept nogil:
    """e^r for the remainder r of x, whose counter is c."""
    return <real_t>1 + expm1_reduced(remainder(x, c))


cdef inline real_t exp_scaled(real_t x, real_t p, real_t c) noexcept nogil:
    """e^x = 2^n p for the counter c of n.

    Two factors: for n < 0 the second reaches the subnormals, for n > 0 infinity.
    """
    cdef real_t lowest, highest, up, down, zero = 0, two = 2
    if real_t is float:
        lowest, highest, up, down = -104, 89, pow2(c, 64), <float>5.421010862427522e-20
    else:
        lowest, highest, up, down = -746, 710, pow2(c, 128), 2.938735877055719e-39
    p = p * (up if x < 0 else pow2(c, -1)) * (down if x < 0 else two)
    # beyond these bounds the reduction has no meaning
    p = zero if x < lowest else p
    return <real_t>INFINITY if x > highest else p


cdef inline real_t exp(real_t x) noexcept nogil:
    """e^x within 1 ULP over the whole range."""
    cdef real_t c, p = exp_reduced(x, &c)
    return exp_scaled(x, p, c)


cdef inline real_t exp_sum(real_t a, real_t b) noexcept nogil:
    """e^(a + b) within 1.1 ULP of the exact sum's exponential, over the whole range.

    The sum's rounding error is carried along: the exponential would magnify it to |a + b| / 2 ULP.

    e^(a b) is exp_sum(t, fma(a, b, -t)) with t = a b. If the sum overflows, its error is NaN and is not used.
    """
    cdef real_t x = a + b, c, r = remainder(x, &c) + lost(a, b, x)
    return exp_scaled(x, <real_t>1 + expm1_reduced(r), c)


cdef inline real_t exp_nonpositive(real_t x) noexcept nogil:
    """e^x for x <= 0 within 1 ULP."""
    cdef real_t lowest
    if real_t is float:
        lowest = -104
    else:
        lowest = -746
    return exp_from(x, lowest, <real_t>0)


cdef inline real_t expm1_scaled(real_t x, real_t m, real_t c, real_t* v) noexcept nogil:
    """e^x - 1 = 2^n m + (2^n - 1) and v = e^x = 2^n (m + 1) for x <= 0 and the counter c of n.

    2^n - 1 is exact, so nothing cancels. Far below 0, the result is 2^n - 1.
    """
    cdef real_t p = <real_t>1 + m, power = pow2(c, 0), one = 1, zero = 0, lowest
    if real_t is float:
        lowest = -104
        p = p * pow2(c, 64) * <float>5.421010862427522e-20
    else:
        lowest = -746
        p = p * pow2(c, 128) * 2.938735877055719e-39
    v[0] = zero if x < lowest else p
    return -one if x < <real_t>-40 else fma(power, m, power - one)


cdef inline real_t expm1_nonpositive(real_t x, real_t* v) noexcept nogil:
    """e^x - 1 for x <= 0 within 1.3 ULP, and v = e^x within 1 ULP."""
    cdef real_t c, m = expm1_reduced(remainder(x, &c))
    return expm1_scaled(x, m, c, v)


cdef inline real_t expm1_sum(real_t a, real_t b, real_t* v) noexcept nogil:
    """e^(a + b) - 1 and v = e^(a + b) for a + b <= 0, both within 1.5 ULP, as exp_sum takes the sum."""
    cdef real_t x = a + b, c, r = remainder(x, &c) + lost(a, b, x)
    return expm1_scaled(x, expm1_reduced(r), c, v)


cdef inline real_t exp_from(real_t x, real_t lowest, real_t k) noexcept nogil:
    """e^x / 2^k within 1 ULP for x up to about k ln 2; 0 for x below `lowest`, where it is no more than that."""
    cdef real_t c, p = exp_reduced(x, &c), zero = 0
    # nothing overflows, so a fixed second factor reaches the subnormals
    if real_t is float:
        p = p * pow2(c - k, 64) * <float>5.421010862427522e-20
    else:
        p = p * pow2(c - k, 128) * 2.938735877055719e-39
    return zero if x < lowest else p


cdef inline void exp_range(real_t top, real_t* base, real_t* lowest, real_t* k) noexcept nogil:
    """Constants for which exp_from(x - base, lowest, k) is e^(x - top) times a factor common to all x <= top.

    The exponential would magnify a rounding error of x - top. Small x stay as they are. For a large top, the difference
    to any x that matters is exact (Sterbenz 1974).
    """
    cdef real_t zero = 0, depth, far
    if real_t is float:
        depth, far = 105, 300
    else:
        depth, far = 747, 1500
    base[0] = top if absolute(top) > far else zero
    lowest[0] = (top - base[0]) - depth
    k[0] = nearest((top - base[0]) * <real_t>1.44269504088896341)


cdef inline real_t log_reduced(real_t f, real_t k, real_t low, real_t* rest) noexcept nogil:
    """k ln 2 + log(1 + f) + low for f in [-0.3, 0.5], and the rest that the last two roundings left.

    log(1 + f) = 2 atanh(s) with s = f/(2 + f), arranged as f - (f^2/2 - s (f^2/2 + R(s^2))): the rounding of s touches
    only the small correction.
    """
    cdef real_t s = f / (<real_t>2 + f), z = s * s, half = <real_t>.5 * f * f, p, high, small, near_one
    if real_t is float:
        p = fma(z, <float>.23751342296600342, <float>.28532543778419495)
        p = fma(z, p, <float>.4000031352043152)
        p = z * fma(z, p, <float>.6666666865348816)
        low = fma(k, <float>1.428606765330187e-06, low)
        high = k * <float>0.693145751953125
    else:
        p = fma(z, .13609030262858499, .13209708242059462)
        p = fma(z, p, .15388867805613718)
        p = fma(z, p, .18181737626302938)
        p = fma(z, p, .2222222304835159)
        p = fma(z, p, .28571428567275936)
        p = fma(z, p, .4000000000000794)
        p = z * fma(z, p, .6666666666666666)
        low = fma(k, 1.9082149292705877e-10, low)
        high = k * 0.6931471803691238
    small = half - fma(s, half + p, low)
    near_one = f - small
    rest[0] = lost(f, -small, near_one) + lost(high, near_one, high + near_one)
    return high + near_one


cdef inline real_t log1p_unit(real_t u) noexcept nogil:
    """log(1 + u) for u in [0, 1] within 1 ULP."""
    cdef real_t half = .5, one = 1, zero = 0, w, q, rest
    if real_t is float:
        # u + u^2 Q(u - 1/2): centred, the series falls so fast that only the rounding of its first term matters
        w = u - half
        q = fma(w, <float>-3.3513628877699375e-03, <float>7.0649562403559685e-03)
        q = fma(w, q, <float>-1.0221457108855247e-02)
        q = fma(w, q, <float>1.6623398289084435e-02)
        q = fma(w, q, <float>-2.8892669826745987e-02)
        q = fma(w, q, <float>5.109076946973801e-02)
        q = fma(w, q, <float>-9.323253482580185e-02)
        q = fma(w, q, <float>.179224893450737)
        q = fma(w, q, <float>-.37813955545425415)
        return fma(u * u, q, u)
    else:
        # above 1/2, log 2 + log(1 + (u - 1)/2) keeps the series short, and both u - 1 and its half are exact
        return log_reduced((u - one) * half if u > half else u, one if u > half else zero, zero, &rest)


cdef inline real_t log1pmx_ratio(real_t t) noexcept nogil:
    """1 - log(1 + t)/t for t in [0, 1] within 2.5 ULP: the square of a tiny t would be below the range.

    That is t^2/2 - s (t^2/2 + R(s^2)) of log_reduced, divided by t, with a polynomial for a longer interval.
    """
    cdef real_t k = <real_t>1 / (<real_t>2 + t), s = t * k, z = s * s, half = <real_t>.5 * t, p
    if real_t is float:
        p = fma(z, <float>.23224329948425293, <float>.2170657515525818)
        p = fma(z, p, <float>.285923570394516)
        p = fma(z, p, <float>.3999970555305481)
        p = fma(z, p, <float>.6666666865348816)
    else:
        p = fma(z, .1563057780092285, .07492143795550767)
        p = fma(z, p, .10845178394880015)
        p = fma(z, p, .11734279061303197)
        p = fma(z, p, .13335178631449257)
        p = fma(z, p, .1538454396486055)
        p = fma(z, p, .18181819897962714)
        p = fma(z, p, .2222222219823677)
        p = fma(z, p, .285714285716001)
        p = fma(z, p, .39999999999999525)
        p = fma(z, p, .6666666666666666)
    return fma(-k, fma(z, p, half * t), half)


cdef inline real_t log_normal(real_t x, real_t bias, real_t low, real_t* rest) noexcept nogil:
    """log(x) + low for normal x, with `bias` subtracted from the exponent, and the rest that rounding left."""
    cdef real_t m, k
    cdef uint32_t i
    cdef uint64_t j
    # x = 2^k m with m in [sqrt(1/2), sqrt(2))
    if real_t is float:
        i = bits_f(x) + <uint32_t>(0x3f800000 - 0x3f3504f3)
        k = <float><int>(i >> 23) - bias
        m = from_bits_f((i & <uint32_t>0x007fffff) + <uint32_t>0x3f3504f3)
    else:
        j = bits_d(x) + <uint64_t>(0x3ff0000000000000 - 0x3fe6a09e667f3bcd)
        # an integer below 2^52, put behind the bits of 2^52, is that double's fraction
        k = (from_bits_d((j >> 52) | <uint64_t>0x4330000000000000) - 4503599627370496.) - bias
        m = from_bits_d((j & <uint64_t>0x000fffffffffffff) + <uint64_t>0x3fe6a09e667f3bcd)
    return log_reduced(m - <real_t>1, k, low, rest)


cdef inline real_t log_from_one(real_t x) noexcept nogil:
    """log(x) for x >= 1, or NaN: the bits of log_sum(x, 0), without the steps for other numbers."""
    cdef real_t bias, r, rest
    if real_t is float:
        bias = 127
    else:
        bias = 1023
    r = log_normal(x, bias, <real_t>0, &rest)
    return r if x < <real_t>INFINITY else x


cdef inline real_t log_parts(real_t a, real_t b, real_t* rest) noexcept nogil:
    """log_sum(a, b), and the rest that rounding left: a power needs more digits than a number has."""
    cdef real_t w = a + b, c = lost(a, b, w), scaled, bias, r, zero = 0
    # subnormals are brought into the normal range first
    if real_t is float:
        scaled = w * <float>33554432. if w < <float>1.1754943508222875e-38 else w
        bias = <float>152. if w < <float>1.1754943508222875e-38 else <float>127.
    else:
        scaled = w * 18014398509481984. if w < 2.2250738585072014e-308 else w
        bias = 1077. if w < 2.2250738585072014e-308 else 1023.
    r = log_normal(scaled, bias, c / w, rest)
    r = w if w == <real_t>INFINITY else r
    return r if w > zero else (<real_t>-INFINITY if w == zero else <real_t>NAN)


cdef inline real_t log_sum(real_t a, real_t b) noexcept nogil:
    """log(a + b) for |b| <= a, or any order, within 1 ULP of the exact sum's logarithm.

    The sum's rounding error is carried along.

    log(x) is log_sum(x, 0), log1p(u) is log_sum(1, u). 0 gives -inf, a negative sum NaN.
    """
    cdef real_t rest
    return log_parts(a, b, &rest)

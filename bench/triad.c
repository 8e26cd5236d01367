/* z = x + y: two reads and one write, with plain stores and with stores past the cache. */
#include <stddef.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

void plain(ptrdiff_t n, const float *x, const float *y, float *z, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t i = 0; i < n; i++) z[i] = x[i] + y[i];
}

/* z begins on a multiple of 16 bytes, n is a multiple of 16 */
void streaming(ptrdiff_t n, const float *x, const float *y, float *z, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t i = 0; i < n; i += 16)
        for (ptrdiff_t k = i; k < i + 16; k += 4)
#if defined(__SSE2__)
            _mm_stream_ps(z + k, _mm_add_ps(_mm_loadu_ps(x + k), _mm_loadu_ps(y + k)));
#else
            for (ptrdiff_t j = k; j < k + 4; j++) z[j] = x[j] + y[j];
#endif
}

void copy(ptrdiff_t n, const float *x, const float *unused, float *z, int threads) {
    (void)unused;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t i = 0; i < n; i++) z[i] = x[i];
}

void streaming_copy(ptrdiff_t n, const float *x, const float *unused, float *z, int threads) {
    (void)unused;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t i = 0; i < n; i += 16)
        for (ptrdiff_t k = i; k < i + 16; k += 4)
#if defined(__SSE2__)
            _mm_stream_ps(z + k, _mm_loadu_ps(x + k));
#else
            for (ptrdiff_t j = k; j < k + 4; j++) z[j] = x[j];
#endif
}

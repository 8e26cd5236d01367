"""What C says of the machine and Cython does not: stores past the cache, prefetches, atomic numbers, the clock, threads, arithmetic, pointers apart."""

from libc.stdint cimport int64_t

cdef extern from *:
    """
    #if defined(_MSC_VER) && !defined(__clang__)
    #include <intrin.h>
    #define FL_FETCH_ADD(p, n) _InterlockedExchangeAdd64((volatile __int64*)(p), n)
    #define FL_LOAD(p) (*(volatile __int64*)(p))
    #define FL_STORE(p, n) (*(volatile __int64*)(p) = (n))
    #if defined(_M_X64)
    #define FL_PREFETCH(p) _mm_prefetch(p, _MM_HINT_T0)
    #else
    #define FL_PREFETCH(p) ((void)(p))
    #endif
    #define FL_EFFECT
    #else
    #define FL_FETCH_ADD(p, n) __atomic_fetch_add(p, n, __ATOMIC_RELAXED)
    #define FL_LOAD(p) __atomic_load_n(p, __ATOMIC_RELAXED)
    #define FL_STORE(p, n) __atomic_store_n(p, n, __ATOMIC_RELAXED)
    #define FL_PREFETCH(p) __builtin_prefetch(p)
    /* gcc takes a function that does no more than prefetch for one without effect, and leaves out its calls */
    #define FL_EFFECT __asm__ volatile("")
    #endif
    #if defined(_WIN32)
    #define WIN32_LEAN_AND_MEAN
    #define NOMINMAX
    #include <windows.h>
    #else
    #include <time.h>
    #endif
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #if defined(__AVX512F__)
    #include <immintrin.h>
    #define FL_STREAM(to, from) _mm512_stream_si512((__m512i*)(to), _mm512_loadu_si512(from))
    #define FL_STREAMED 64
    #elif defined(__AVX__)
    #include <immintrin.h>
    #define FL_STREAM(to, from) _mm256_stream_si256((__m256i*)(to), _mm256_loadu_si256((const __m256i*)(from)))
    #define FL_STREAMED 32
    #elif defined(__SSE2__)
    #include <emmintrin.h>
    #define FL_STREAM(to, from) _mm_stream_si128((__m128i*)(to), _mm_loadu_si128((const __m128i*)(from)))
    #define FL_STREAMED 16
    #endif
    #if defined(__x86_64__) || defined(_M_X64)
    #include <xmmintrin.h>
    #define FL_CONTROL() ((int64_t)_mm_getcsr())
    #define FL_SET_CONTROL(n) _mm_setcsr((unsigned)(n))
    /* without the flags of what has happened */
    #define FL_CONTROLS 0xffc0
    #elif defined(__aarch64__) && !defined(_MSC_VER)
    static int64_t fl_control(void) { int64_t n; __asm__ volatile("mrs %0, fpcr" : "=r"(n)); return n; }
    #define FL_CONTROL() fl_control()
    #define FL_SET_CONTROL(n) __asm__ volatile("msr fpcr, %0" : : "r"(n))
    #define FL_CONTROLS -1
    #else
    #define FL_CONTROL() ((int64_t)0)
    #define FL_SET_CONTROL(n) ((void)(n))
    #define FL_CONTROLS 0
    #endif
    /* How this thread rounds, and whether its subnormal numbers are 0, becomes as in another; returns what it was. */
    static int64_t fl_compute_as(int64_t control) {
        int64_t own = FL_CONTROL();
        if ((own ^ control) & FL_CONTROLS) FL_SET_CONTROL(control);
        return own;
    }
    static int64_t fl_arithmetic(void) { return FL_CONTROL(); }
    typedef float *__restrict fl_floats;
    typedef double *__restrict fl_doubles;
    /* Copies past the cache: what is overwritten is not read first. */
    static void fl_stream(const char* to, const void* from, size_t n) {
        char* d = (char*)to;
        const char* s = (const char*)from;
    #ifdef FL_STREAM
        size_t lead = -(size_t)d % FL_STREAMED, i;
        if (lead > n) lead = n;
        memcpy(d, s, lead);
        for (i = lead; i + FL_STREAMED <= n; i += FL_STREAMED) FL_STREAM(d + i, s + i);
        d += i, s += i, n -= i;
    #endif
        memcpy(d, s, n);
    }
    /* Asks for bytes that will be read soon: the hardware does so by itself, but not beyond the end of a page. How many is
       known at compile time, for the processor would mispredict the end of each loop over them. */
    static inline void fl_prefetch_512(const char* p) {
        FL_PREFETCH(p), FL_PREFETCH(p + 64), FL_PREFETCH(p + 128), FL_PREFETCH(p + 192);
        FL_PREFETCH(p + 256), FL_PREFETCH(p + 320), FL_PREFETCH(p + 384), FL_PREFETCH(p + 448);
        FL_EFFECT;
    }
    /* Nanoseconds since some moment. */
    static int64_t fl_now(void) {
    #if defined(_WIN32)
        LARGE_INTEGER count, per_second;
        QueryPerformanceCounter(&count), QueryPerformanceFrequency(&per_second);
        return (int64_t)((double)count.QuadPart / (double)per_second.QuadPart * 1e9);
    #else
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    #endif
    }
    /* Before anybody else is told of what this thread has streamed. */
    static void fl_end_streams(void) {
    #ifdef FL_STREAM
        _mm_sfence();
    #endif
    }
    #if defined(_OPENMP) && defined(__linux__)
    #include <limits.h>
    #include <pthread.h>
    #include <sched.h>
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static pthread_mutex_t fl_growing = PTHREAD_MUTEX_INITIALIZER, fl_gate = PTHREAD_MUTEX_INITIALIZER;
    static _Thread_local int fl_largest = 1, fl_most = INT_MAX, fl_grows = 0;
    typedef struct { pthread_t thread; long id; } fl_probe;
    static void* fl_wait(void* probe) {
        ((fl_probe*)probe)->id = syscall(SYS_gettid);
        pthread_mutex_lock(&fl_gate), pthread_mutex_unlock(&fl_gate);
        return NULL;
    }
    /* How many of n threads the system starts, all at once. It counts none of them any more on return. */
    static int fl_startable(int n) {
        int started = 0, k;
        fl_probe* probes = (fl_probe*)malloc(n * sizeof(fl_probe));
        if (!probes) return 0;
        pthread_mutex_lock(&fl_gate);
        while (started < n && !pthread_create(&probes[started].thread, NULL, fl_wait, &probes[started])) started++;
        pthread_mutex_unlock(&fl_gate);
        for (k = 0; k < started; k++) {
            pthread_join(probes[k].thread, NULL);
            while (!syscall(SYS_tgkill, (long)getpid(), probes[k].id, 0)) sched_yield();
        }
        free(probes);
        return started;
    }
    /* OpenMP ends the process where the system refuses a thread, for a limit on their number or on memory. So before the
       calling thread's first team of a size its threads are tried, and if some are refused, it makes do with the others
       from then on. Only one team grows at a time: two cannot both have what is left. */
    static int fl_begin_team(int n) {
        int most;
        if (n > fl_most) n = fl_most;
        if (n <= fl_largest) return n;
        /* a call inside a call, by a signal's handler */
        if (fl_grows) return 1;
        pthread_mutex_lock(&fl_growing);
        most = 1 + fl_startable(n - 1);
        if (most < n) n = fl_most = most > fl_largest ? most : fl_largest;
        fl_grows = n > fl_largest;
        if (!fl_grows) pthread_mutex_unlock(&fl_growing);
        return n;
    }
    static void fl_end_team(int n) {
        if (n <= fl_largest) return;
        fl_largest = n;
        fl_grows = 0;
        pthread_mutex_unlock(&fl_growing);
    }
    #else
    #define fl_begin_team(n) (n)
    #define fl_end_team(n) ((void)(n))
    #endif
    """
    # pointers to what no other pointer of a function leads to
    ctypedef float* floats_apart "fl_floats"
    ctypedef double* doubles_apart "fl_doubles"
    ctypedef double* lanes_t "fl_doubles"
    void end_streams "fl_end_streams"() noexcept nogil
    void prefetch_512 "fl_prefetch_512"(const char* at) noexcept nogil
    void stream "fl_stream"(const char* to, const void* source, size_t n) noexcept nogil
    Py_ssize_t fetch_add "FL_FETCH_ADD"(Py_ssize_t* p, Py_ssize_t n) noexcept nogil
    int64_t atomic_load "FL_LOAD"(int64_t* p) noexcept nogil
    void atomic_store "FL_STORE"(int64_t* p, int64_t n) noexcept nogil
    int64_t now "fl_now"() noexcept nogil
    int64_t arithmetic "fl_arithmetic"() noexcept nogil
    int64_t compute_as "fl_compute_as"(int64_t control) noexcept nogil
    int begin_team "fl_begin_team"(int n) noexcept nogil
    void end_team "fl_end_team"(int n) noexcept nogil

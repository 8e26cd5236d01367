"""What C says of the machine and Cython does not.

Stores past the cache, prefetches, atomic numbers, the clock, threads, arithmetic, pointers apart, float16.
"""

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
    /* gcc believes that a function which only prefetches has no effect, and removes its calls */
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
    /* without the flags of past exceptions */
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
    /* Takes over another thread's rounding and treatment of subnormal numbers; returns the former modes. */
    static int64_t fl_compute_as(int64_t control) {
        int64_t own = FL_CONTROL();
        if ((own ^ control) & FL_CONTROLS) FL_SET_CONTROL(control);
        return own;
    }
    static int64_t fl_arithmetic(void) { return FL_CONTROL(); }
    typedef float *__restrict fl_floats;
    typedef double *__restrict fl_doubles;
    /* Copies past the cache, which would first read the lines to overwrite. */
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
    /* Prefetches bytes to be read soon, because the hardware's prefetch stops at the end of a page. The number of
       bytes is known at compile time, because the processor would mispredict the end of each loop over them. */
    static inline void fl_prefetch_512(const char* p) {
        FL_PREFETCH(p), FL_PREFETCH(p + 64), FL_PREFETCH(p + 128), FL_PREFETCH(p + 192);
        FL_PREFETCH(p + 256), FL_PREFETCH(p + 320), FL_PREFETCH(p + 384), FL_PREFETCH(p + 448);
        FL_EFFECT;
    }
    /* Instructions between float16 and float32, for FL_HALVES numbers: to the nearest, and of two to the even. */
    #if defined(__F16C__) || defined(_MSC_VER) && defined(__AVX2__)
    #include <immintrin.h>
    #define FL_HALVES 8
    #define FL_READ_HALVES(to, from) _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from))))
    #define FL_WRITE_HALVES(to, from) _mm_storeu_si128((__m128i*)(to), _mm256_cvtps_ph(_mm256_loadu_ps(from), 0))
    #elif defined(__aarch64__) && !defined(_MSC_VER)
    #include <arm_neon.h>
    #define FL_HALVES 4
    #define FL_READ_HALVES(to, from) vst1q_f32(to, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t*)(from)))))
    #define FL_WRITE_HALVES(to, from) vst1_u8((uint8_t*)(to), vreinterpret_u8_f16(vcvt_f16_f32(vld1q_f32(from))))
    #endif
    /* Converts whole vectors of n numbers, and returns how many numbers these hold. */
    static size_t fl_read_halves(float* to, const char* from, size_t n) {
        size_t i = 0;
    #ifdef FL_HALVES
        for (; i + FL_HALVES <= n; i += FL_HALVES) FL_READ_HALVES(to + i, from + 2 * i);
    #endif
        return i;
    }
    static size_t fl_write_halves(char* to, const float* from, size_t n) {
        size_t i = 0;
    #ifdef FL_HALVES
        for (; i + FL_HALVES <= n; i += FL_HALVES) FL_WRITE_HALVES(to + 2 * i, from + i);
    #endif
        return i;
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
    /* Must precede any news to other threads that this thread has streamed data. */
    static void fl_end_streams(void) {
    #ifdef FL_STREAM
        _mm_sfence();
    #endif
    }
    #if defined(_OPENMP) && defined(__linux__)
    #include <limits.h>
    #include <omp.h>
    #include <pthread.h>
    #include <sched.h>
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static pthread_mutex_t fl_growing = PTHREAD_MUTEX_INITIALIZER, fl_gate = PTHREAD_MUTEX_INITIALIZER;
    /* The calling thread's last team's size, the most threads that it asks for, and whether a team is being made. */
    static _Thread_local int fl_team = 1, fl_most = INT_MAX, fl_grows = 0;
    /* The number of living threads of the calling thread's teams, itself included: each leaves the count at its end. */
    static _Thread_local int* fl_crew = NULL;
    static pthread_once_t fl_once = PTHREAD_ONCE_INIT;
    static pthread_key_t fl_member;
    static int fl_has_key = 0;
    static void fl_leave(void* crew) {
        if (!__atomic_sub_fetch((int*)crew, 1, __ATOMIC_ACQ_REL)) free(crew);
    }
    static void fl_make_key(void) { fl_has_key = !pthread_key_create(&fl_member, fl_leave); }
    static void fl_join(int* crew) {
        if (pthread_getspecific(fl_member) != crew && !pthread_setspecific(fl_member, crew))
            __atomic_add_fetch(crew, 1, __ATOMIC_RELAXED);
    }
    /* NULL if threads cannot be counted, and inside another team, because its threads end with it. */
    static void* fl_own_crew(void) {
        if (omp_get_level()) return NULL;
        pthread_once(&fl_once, fl_make_key);
        if (fl_has_key && !fl_crew && (fl_crew = (int*)malloc(sizeof(int)))) {
            *fl_crew = 0;
            fl_join(fl_crew);
        }
        return fl_crew;
    }
    typedef struct { pthread_t thread; long id; } fl_probe;
    static void* fl_wait(void* probe) {
        ((fl_probe*)probe)->id = syscall(SYS_gettid);
        pthread_mutex_lock(&fl_gate), pthread_mutex_unlock(&fl_gate);
        return NULL;
    }
    /* The stack of OpenMP's threads, in bytes; 0: that of any other thread. */
    static size_t fl_stack_size(void) {
        const char* text = getenv("OMP_STACKSIZE");
        char* unit;
        size_t size;
        if (!text) text = getenv("GOMP_STACKSIZE");
        if (!text) return 0;
        size = strtoul(text, &unit, 10);
        while (*unit == ' ') unit++;
        switch (*unit | 32) {
        case 'b': return size;
        case 'm': return size << 20;
        case 'g': return size << 30;
        default: return size << 10;
        }
    }
    /* The number of threads, of n at once, that the system starts. On return it counts none of them any more. */
    static int fl_startable(int n) {
        int started = 0, k;
        size_t stack = fl_stack_size();
        pthread_attr_t attributes;
        fl_probe* probes = (fl_probe*)malloc(n * sizeof(fl_probe));
        if (!probes) return 0;
        pthread_attr_init(&attributes);
        if (stack) pthread_attr_setstacksize(&attributes, stack);
        pthread_mutex_lock(&fl_gate);
        while (started < n && !pthread_create(&probes[started].thread, &attributes, fl_wait, &probes[started]))
            started++;
        pthread_mutex_unlock(&fl_gate);
        for (k = 0; k < started; k++) {
            pthread_join(probes[k].thread, NULL);
            while (!syscall(SYS_tgkill, (long)getpid(), probes[k].id, 0)) sched_yield();
        }
        pthread_attr_destroy(&attributes);
        free(probes);
        return started;
    }
    /* OpenMP ends the process if the system refuses a thread, for a limit on threads or on memory. So a team's missing
       threads are tried before; if the system refuses some, the calling thread makes do with fewer from then on. A team
       that shrinks loses threads, also if another library has shrunk it. A team bound to places may start anew when its
       size changes. Only one team is made at a time: two teams cannot both have the remaining threads. */
    static int fl_begin_team(int n) {
        const int* crew = (const int*)fl_own_crew();
        int has = crew ? __atomic_load_n(crew, __ATOMIC_RELAXED) : 1, started;
        if (n > fl_most) n = fl_most;
        if (omp_get_level() && omp_get_active_level() >= omp_get_max_active_levels()) return 1;
        if (has > fl_team) has = fl_team;
        if (n == has) return n;
        if (omp_get_proc_bind() != omp_proc_bind_false) has = 1;
        if (n <= has) return n;
        pthread_mutex_lock(&fl_growing);
        started = fl_startable(n - has);
        if (started < n - has) n = fl_most = has + started;
        fl_grows = n > 1;
        if (!fl_grows) pthread_mutex_unlock(&fl_growing);
        return n;
    }
    /* Called by each thread of a running team. Thread 0 has made the team. */
    static void fl_team_runs(int thread, void* crew) {
        if (crew) fl_join((int*)crew);
        if (thread) return;
        if (crew && omp_get_num_threads() > 1) fl_team = omp_get_num_threads();
        if (!fl_grows) return;
        fl_grows = 0;
        pthread_mutex_unlock(&fl_growing);
    }
    #else
    #define fl_begin_team(n) (n)
    #define fl_own_crew() NULL
    #define fl_team_runs(thread, crew) ((void)(crew))
    #endif
    """
    # pointers to what no other pointer of a function leads to
    ctypedef float* floats_apart "fl_floats"
    ctypedef double* doubles_apart "fl_doubles"
    ctypedef double* lanes_t "fl_doubles"
    void end_streams "fl_end_streams"() noexcept nogil
    void prefetch_512 "fl_prefetch_512"(const char* at) noexcept nogil
    void stream "fl_stream"(const char* to, const void* source, size_t n) noexcept nogil
    Py_ssize_t read_halves "fl_read_halves"(float* to, const char* source, Py_ssize_t n) noexcept nogil
    Py_ssize_t write_halves "fl_write_halves"(char* to, const float* source, Py_ssize_t n) noexcept nogil
    Py_ssize_t fetch_add "FL_FETCH_ADD"(Py_ssize_t* p, Py_ssize_t n) noexcept nogil
    int64_t atomic_load "FL_LOAD"(int64_t* p) noexcept nogil
    void atomic_store "FL_STORE"(int64_t* p, int64_t n) noexcept nogil
    int64_t now "fl_now"() noexcept nogil
    int64_t arithmetic "fl_arithmetic"() noexcept nogil
    int64_t compute_as "fl_compute_as"(int64_t control) noexcept nogil
    int begin_team "fl_begin_team"(int n) noexcept nogil
    void* own_crew "fl_own_crew"() noexcept nogil
    void team_runs "fl_team_runs"(int thread, void* crew) noexcept nogil

/* Preloaded, it makes so many allocations from the n-th on fail, and counts the blocks that are in use. For glibc. */
#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static long countdown = -1; /* allocations before the first that fails; -1: none does */
static long left, failures;
static long blocks;

void faults_arm(long n, long how_many) {
    failures = 0;
    left = how_many;
    countdown = n;
}

void faults_disarm(void) { countdown = -1; }

long faults_injected(void) { return failures; }

long faults_blocks(void) { return __atomic_load_n(&blocks, __ATOMIC_RELAXED); }

static int fails(void) {
    if (countdown < 0 || (countdown > 0 && countdown--)) return 0;
    if (!--left) countdown = -1;
    failures++;
    errno = ENOMEM;
    return 1;
}

static void *counted(void *p) {
    if (p) __atomic_fetch_add(&blocks, 1, __ATOMIC_RELAXED);
    return p;
}

void *malloc(size_t size) { return fails() ? NULL : counted(__libc_malloc(size)); }

void *calloc(size_t n, size_t size) { return fails() ? NULL : counted(__libc_calloc(n, size)); }

void *memalign(size_t alignment, size_t size) { return fails() ? NULL : counted(__libc_memalign(alignment, size)); }

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **p, size_t alignment, size_t size) {
    *p = memalign(alignment, size);
    return *p ? 0 : ENOMEM;
}

void free(void *p) {
    if (p) __atomic_fetch_sub(&blocks, 1, __ATOMIC_RELAXED);
    __libc_free(p);
}

void *realloc(void *p, size_t size) {
    if (!p) return malloc(size);
    if (!size) {
        free(p);
        return NULL;
    }
    return fails() ? NULL : __libc_realloc(p, size);
}

"""How many threads a call may use."""

import operator
import os
import threading

from libc.stdint cimport int64_t

from fastloss._machine cimport atomic_load, atomic_store
from fastloss._processors import available_processors

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #else
    static int omp_get_max_threads(void) { return 1; }
    #endif
    /* The number of processors before OpenMP bound this thread to some; 0 if OpenMP binds none. */
    static int fl_bound_processors(void) {
    #if defined(_OPENMP) && _OPENMP >= 201511
        return omp_get_num_places() > 0 ? omp_get_num_procs() : 0;
    #else
        return 0;
    #endif
    }
    #ifdef _WIN32
    #define FL_THREAD_LOCAL __declspec(thread)
    static void fl_watch_forks(void) {}
    static int fl_forked = 0;
    #else
    #include <pthread.h>
    #define FL_THREAD_LOCAL _Thread_local
    static int fl_forked = 0;
    static void fl_in_child(void) { fl_forked = 1; }
    static void fl_watch_forks(void) { pthread_atfork(0, 0, fl_in_child); }
    #endif
    static FL_THREAD_LOCAL int fl_local = 0;
    #ifdef _OPENMP
    #define FL_OPENMP 1
    #else
    #define FL_OPENMP 0
    #endif
    """
    int omp_get_max_threads() nogil
    int fl_bound_processors() nogil
    void fl_watch_forks() nogil
    int fl_forked
    int fl_local
    int FL_OPENMP

cdef int64_t chosen = 0      # by set_num_threads; 0: nobody chose
cdef int64_t processors = 0  # found at the first use; two threads that find them find the same
has_openmp = bool(FL_OPENMP)
entered = threading.local()  # num_threads blocks and their numbers, innermost last
fl_watch_forks()


cdef int threads() except -1:
    cdef int64_t n
    # OpenMP's pool does not survive a fork: the child would wait for threads that do not exist.
    if not FL_OPENMP or fl_forked:
        return 1  # no cover: a child that ends by _exit tells gcov nothing
    if fl_local:
        return fl_local
    n = atomic_load(&chosen)
    if n:
        return <int>n
    n = atomic_load(&processors)
    if not n:
        n = processors_here()
        atomic_store(&processors, n)
    # Ask each time: threadpoolctl and omp_set_num_threads change the number.
    return <int>max(1, min(omp_get_max_threads(), n))


def processors_here():
    """The processors that this process may use, even if OpenMP has bound its first thread to one of them."""
    return available_processors(bound=fl_bound_processors())


cdef int checked(n, str name) except -1:
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {n!r}") from None
    if not 1 <= count <= 4096:
        raise ValueError(f"{name} must be between 1 and 4096, got {n!r}")
    return count


def get_num_threads():
    """Return the number of threads that a large enough call uses now, in this thread.

    The first of these that applies is the number:

    - 1 in a forked child, and without OpenMP;
    - what :func:`num_threads` set;
    - what :func:`set_num_threads` or the environment variable FASTLOSS_NUM_THREADS set;
    - the smallest of OpenMP's maximum, the process's CPU affinity and its control group's quota, as they were when
      first needed. If OpenMP binds threads (OMP_PROC_BIND, OMP_PLACES), the affinity is the one that OpenMP found.
    """
    return threads()


def set_num_threads(n):
    """Set the number of threads for the whole process; None goes back to the default. Results do not depend on it.

    No call uses more threads. Small calls use fewer, and without OpenMP each call uses one. If a thread had to wait for
    a core that another process holds, later calls use one thread, for ten times as long as the wait.

    Raises TypeError unless n is an integer, ValueError unless it is between 1 and 4096.
    """
    atomic_store(&chosen, 0 if n is None else checked(n, "n"))


class num_threads:
    """Use n threads inside a ``with`` block, in the thread that runs the block; that thread must leave it, too.

    Coroutines and generators have the setting of their thread: while one waits inside a block, others run with it.

    >>> import fastloss as fl
    >>> with fl.num_threads(1):
    ...     fl.get_num_threads()
    1
    """

    def __init__(self, n):
        self.n = checked(n, "n")

    def __enter__(self):
        global fl_local
        cdef int n = checked(self.n, "n")
        entered.__dict__.setdefault("blocks", []).append((self, n))
        fl_local = n

    def __exit__(self, *exception):
        global fl_local
        cdef list blocks = entered.__dict__.get("blocks", [])
        cdef Py_ssize_t k = len(blocks) - 1
        # Coroutines leave their blocks in any order.
        while k >= 0 and blocks[k][0] is not self:
            k -= 1
        if k < 0:
            raise RuntimeError("a num_threads block must be left in the thread that entered it")
        del blocks[k]
        fl_local = <int>blocks[len(blocks) - 1][1] if blocks else 0


if os.environ.get("FASTLOSS_NUM_THREADS"):
    try:
        chosen = checked(int(os.environ["FASTLOSS_NUM_THREADS"]), "FASTLOSS_NUM_THREADS")
    except ValueError:
        raise ImportError(
            f"FASTLOSS_NUM_THREADS must be an integer between 1 and 4096, got {os.environ['FASTLOSS_NUM_THREADS']!r}"
        ) from None

"""Which build of the kernels this CPU gets."""

import importlib
import os

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(__i386__)
    static int fl_levels(void) {
        __builtin_cpu_init();
        /* single features: clang knows no level names */
        if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"))) return 0;
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
              && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))) return 1;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
              && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))) return 2;
        return 3;
    }
    #else
    static int fl_levels(void) { return 1; }
    #endif
    """
    int fl_levels()

NAMES = ("baseline", "x86_64_v3", "x86_64_v4")
supported = NAMES[:fl_levels()]
if not supported:
    raise ImportError("fastloss needs a CPU with SSE4.2 and POPCNT (x86-64-v2), which this one lacks")

best = supported[len(supported) - 1]
name = os.environ.get("FASTLOSS_ISA") or best
if name not in NAMES:
    raise ImportError(f"FASTLOSS_ISA must be one of {', '.join(NAMES)}, got {name!r}")
if name not in supported:
    raise ImportError(f"FASTLOSS_ISA={name} asks for more than this CPU has; its best is {best}")

kernels = importlib.import_module(f"fastloss._kernels_{name}")

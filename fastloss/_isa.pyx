"""Which build of the kernels this CPU gets."""

import importlib
import os

cdef extern from *:
    """
    #if FL_BUILDS == 1
    /* not x86-64, or two architectures in one file */
    static int fl_levels(void) { return 1; }
    static int fl_is_amd(void) { return 0; }
    #else
    #if defined(_MSC_VER) && !defined(__clang__)
    #include <immintrin.h>
    #include <intrin.h>
    /* features of the processor, and registers that the system saves, by leaf, register and bit of CPUID */
    static int fl_has(int leaf, int part, unsigned bits) {
        int parts[4];
        __cpuid(parts, 0);
        if (parts[0] < leaf) return 0;
        __cpuidex(parts, leaf, 0);
        return ((unsigned)parts[part] & bits) == bits;
    }
    static int fl_saves(unsigned bits) {
        return fl_has(1, 2, 1u << 27) && ((unsigned)_xgetbv(0) & bits) == bits;
    }
    static int fl_is_amd(void) {
        int parts[4];
        __cpuid(parts, 0);
        return parts[1] == 0x68747541;
    }
    #define FL_LOOK
    #define FL_HAS_V2 fl_has(1, 2, 1u << 20 | 1u << 23)
    #define FL_HAS_V3 (fl_has(1, 2, 1u << 12 | 1u << 29) && fl_has(7, 1, 1u << 3 | 1u << 5 | 1u << 8) && fl_saves(0x6))
    #define FL_HAS_V4 (fl_has(7, 1, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31) && fl_saves(0xe6))
    #else
    #include <cpuid.h>
    /* to some compilers f16c is no feature that can be asked for */
    static int fl_has_f16c(void) {
        unsigned a, b, c = 0, d;
        return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
    }
    /* single features: clang knows no level names */
    static int fl_is_amd(void) { __builtin_cpu_init(); return __builtin_cpu_is("amd") != 0; }
    #define FL_LOOK __builtin_cpu_init()
    #define FL_HAS(feature) __builtin_cpu_supports(feature)
    #define FL_HAS_V2 (FL_HAS("sse4.2") && FL_HAS("popcnt"))
    #define FL_HAS_V3 (FL_HAS("avx2") && FL_HAS("fma") && FL_HAS("bmi") && FL_HAS("bmi2") && fl_has_f16c())
    #define FL_HAS_WIDE (FL_HAS("avx512f") && FL_HAS("avx512bw") && FL_HAS("avx512cd"))
    #define FL_HAS_V4 (FL_HAS_WIDE && FL_HAS("avx512dq") && FL_HAS("avx512vl"))
    #endif
    static int fl_levels(void) {
        FL_LOOK;
        return !FL_HAS_V2 ? 0 : !FL_HAS_V3 ? 1 : !FL_HAS_V4 ? 2 : 3;
    }
    #endif
    """
    int fl_levels()
    int fl_is_amd()

NAMES = ("baseline", "x86_64_v3", "x86_64_v4")
supported = NAMES[:fl_levels()]
if not supported:
    raise ImportError(  # no cover: under an emulator
        "fastloss needs a CPU with SSE4.2 and POPCNT (x86-64-v2), which this one lacks")
is_amd = bool(fl_is_amd())


def choose(asked, supported):
    """The build that FASTLOSS_ISA asks for, by default the best of those that the CPU supports."""
    best = supported[len(supported) - 1]
    name = asked or best
    if name not in NAMES:
        raise ImportError(f"FASTLOSS_ISA must be one of {', '.join(NAMES)}, got {name!r}")
    if name not in supported:
        raise ImportError(f"FASTLOSS_ISA={name} needs instructions that this CPU lacks; its best build is {best}")
    return name


name = choose(os.environ.get("FASTLOSS_ISA"), supported)
kernels = importlib.import_module(f"fastloss._kernels_{name}")

"""Builds the extensions: the kernels once per instruction set, from one source. All else is in pyproject.toml."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

GENERATED = Path("build/kernels")
PLATFORM = sysconfig.get_platform()
LINUX = PLATFORM.startswith("linux")
X86 = PLATFORM.endswith(("x86_64", "amd64"))

# clamps and rint vectorise only without traps and errno. Never -ffast-math: NaN, infinities and signed zero must work.
# No contraction: gcc fuses each specialisation differently, and passes would differ in the last bit; fma is written
# where it is meant.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
# What is declared inline is inlined, whatever that costs in size, and nothing else: a function that has swallowed
# others takes no more, and its loops stay scalar around a call. A loss may have eight arrays that might overlap.
KERNEL_FLAGS = [
    "--param=max-inline-insns-single=2000",
    "--param=inline-unit-growth=400",
    "-fno-inline-functions",
    "-fno-inline-functions-called-once",
    "--param=vect-max-version-for-alias-checks=64",
]
# the features that fastloss/_isa.pyx tests for, and no others
V2 = ["-march=x86-64-v2"] if X86 else []
V3 = [*V2, "-mavx2", "-mfma", "-mbmi", "-mbmi2"]
V4 = [*V3, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
BUILDS = {"baseline": V2} | ({"x86_64_v3": V3, "x86_64_v4": V4} if X86 else {})

# Apple's compiler has no OpenMP; without it prange is a serial loop, and show_config() says so
OPENMP = ["-fopenmp"] if LINUX else []

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
}


def extension(module: str, source: str, flags: list[str]) -> Extension:
    return Extension(
        f"fastloss.{module}",
        [source],
        include_dirs=[np.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=FLAGS + flags + OPENMP,
        extra_link_args=OPENMP,
    )


def kernels(build: str, flags: list[str]) -> Extension:
    GENERATED.mkdir(parents=True, exist_ok=True)
    source = GENERATED / f"_kernels_{build}.pyx"
    shutil.copy2("fastloss/_kernels.pyx", source)
    return extension(f"_kernels_{build}", str(source), KERNEL_FLAGS + flags)


def compiled(extensions: list[Extension], directives: Any) -> Any:
    return cythonize(
        extensions,
        build_dir="build/c",
        include_path=["."],
        compiler_directives=directives,
        nthreads=0 if sys.platform == "win32" else os.cpu_count() or 1,
    )


setup(
    ext_modules=compiled(
        [extension(name, f"fastloss/{name}.pyx", []) for name in ("_core", "_isa", "_threads")]
        + [kernels(build, flags) for build, flags in BUILDS.items()],
        DIRECTIVES,
    )
    # Python, with its checks: compiled, a call of a small tensor takes a microsecond less
    + compiled(
        [extension("backends.torch", "fastloss/backends/torch.py", [])],
        {"language_level": 3, "annotation_typing": False, "freethreading_compatible": True},
    ),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)

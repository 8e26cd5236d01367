"""Builds the extensions: the kernels once per instruction set, from one source. All else is in pyproject.toml."""

import gc
import hashlib
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

REPAIRS = "fastloss/_repairs.h"
GENERATED = Path("build/c/builds")
STAMP = Path("build/made.txt")
PLATFORM = sysconfig.get_platform()
X86 = PLATFORM.endswith(("x86_64", "amd64"))
MSVC = PLATFORM.startswith("win")
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
# one binary for every Python from 3.11 on, but for free-threaded ones
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")

MACROS: list[tuple[str, str | None]] = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
if LIMITED:
    MACROS.append(("Py_LIMITED_API", "0x030B0000"))


def compiler(*arguments: str) -> tuple[bool, str]:
    """Run the C compiler. Returns whether it succeeded, and what it printed, or why it did not run."""
    try:
        done = subprocess.run([*COMPILER, *arguments], capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        return False, "it is not installed"
    except OSError as error:
        return False, str(error.strerror)
    return not done.returncode, done.stdout + done.stderr


def is_clang() -> bool:
    return "__clang__" in compiler("-dM", "-E", "-x", "c", os.devnull)[1]


CORE_FLAGS: list[str] = []
if MSVC:
    # its precise mode neither contracts nor reassociates
    FLAGS = [f"/FI{REPAIRS}", "/O2", "/fp:precise"]
    SMALL = KERNEL_FLAGS = []
    V2, V3, V4 = [], ["/arch:AVX2"], ["/arch:AVX512"]
    OPENMP = ["/openmp"]
else:
    # clamps and rint vectorise only without traps and errno. Never -ffast-math: NaN, infinities and signed zero must
    # work. No contraction: gcc fuses each specialisation differently, and passes would differ in the last bit; fma is
    # written where it is meant. Of -O3 only what makes loops faster: the rest makes them a third larger.
    FLAGS = [
        f"-include{REPAIRS}",
        "-O2",
        "-g0",
        "-ftree-vectorize",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=off",
        "-fvisibility=hidden",
        # nothing is thrown: the tables for that would be a twentieth of the wheel
        "-fno-asynchronous-unwind-tables",
        # of what is shared by inclusion
        "-Wno-unused-function",
        "-U_FORTIFY_SOURCE",
        "-D_FORTIFY_SOURCE=3",
    ]
    SMALL = ["-Os"]
    # What is declared inline is inlined, whatever that costs in size, and nothing else: a function that has swallowed
    # others takes no more, and its loops stay scalar around a call. Rows may lie in many arrays that might overlap.
    # A kernel's arrays on the stack are guarded; in the rest of a small call that would be 60 of 5,600 instructions.
    KERNEL_FLAGS = ["-fstack-protector-strong"]
    if is_clang():
        # To clang, -fno-inline-functions means what is declared inline, too. A division in one branch of a choice is to
        # be made in any case, or loops for arm64 stay scalar.
        KERNEL_FLAGS += [
            "-finline-hint-functions",
            *("-mllvm", "-inlinehint-threshold=2000"),
            *("-mllvm", "-two-entry-phi-node-folding-threshold=16"),
        ]
    else:
        FLAGS += ["-fvect-cost-model=dynamic", "-fpeel-loops"]
        # the steps of a call that is made in more than one way
        CORE_FLAGS += ["--param=max-inline-insns-single=300"]
        KERNEL_FLAGS += [
            "-fno-inline-functions",
            "--param=max-inline-insns-single=2000",
            "--param=inline-unit-growth=400",
            "--param=max-completely-peeled-insns=100",
            "-fno-inline-functions-called-once",
            "--param=vect-max-version-for-alias-checks=64",
        ]
    # the features that fastloss/_isa.pyx tests for, and no others
    V2 = ["-march=x86-64-v2"] if X86 else []
    V3 = [*V2, "-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"]
    V4 = [*V3, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
    # Apple's compiler has no OpenMP; without it prange is a serial loop, and show_config() says so
    OPENMP = ["-fopenmp"] if PLATFORM.startswith("linux") else []

LINK = [] if MSVC else OPENMP
if PLATFORM.startswith("linux"):
    # what the linker fills in is read-only before the first call
    LINK = [*LINK, "-Wl,-z,relro,-z,now"]

BUILDS = {"baseline": V2}
if X86:
    BUILDS |= {"x86_64_v3": V3, "x86_64_v4": V4}
# how many there may be to choose from, also where only one of them is made
MACROS.append(("FL_BUILDS", str(len(BUILDS))))


def native() -> str:
    """Return the name of the best build that this processor runs."""
    defined = set(compiler("-march=native", "-dM", "-E", "-x", "c", os.devnull)[1].split())
    switches = {
        name: [flag[2:] for flag in flags if flag[:2] == "-m" and "=" not in flag] for name, flags in BUILDS.items()
    }
    return [name for name, of in switches.items() if defined.issuperset(f"__{switch.upper()}__" for switch in of)][-1]


def asked_builds() -> dict[str, list[str]]:
    """Return the builds to make: all, or where FASTLOSS_BUILDS is native the one that is chosen on this processor."""
    asked = os.environ.get("FASTLOSS_BUILDS", "all")
    if asked == "all":
        return BUILDS
    if asked != "native" or MSVC:
        sys.exit(f"FASTLOSS_BUILDS must be all{'' if MSVC else ' or native'}, got {asked!r}.")
    best = native()
    for path in Path("fastloss").glob("_kernels_*"):
        # made earlier, for a call that may have been another
        if path.suffix == ".so" and not path.name.startswith(f"_kernels_{best}."):
            path.unlink()
    return {best: BUILDS[best]}


def complaint(program: str, *flags: str) -> str:
    """Return the first error of the compiler where it cannot make a library of a program, otherwise nothing."""
    variables = (word for name in ("CPPFLAGS", "CFLAGS", "LDFLAGS") for word in shlex.split(os.environ.get(name, "")))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "program.c"), Path(folder, "program.so")
        source.write_text(f"{program}\n", encoding="utf-8")
        # elsewhere libraries are linked in other ways
        kind = ["-shared", "-fPIC"] if PLATFORM.startswith("linux") else ["-c"]
        succeeded, text = compiler(*variables, *flags, *kind, str(source), "-o", str(target))
        text = text.replace(f"{folder}{os.sep}", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it prints nothing"]
    telling = (line for line in lines if "error" in line or "cannot find" in line)
    return "" if succeeded else next(telling, lines[-1]).rstrip(".")


def require_compiler() -> None:
    """Exit with one line that says what to install, unless the C compiler can make extensions."""
    name = shlex.join(COMPILER)
    headers = sysconfig.get_path("include")
    include = [
        f"-I{folder}" for folder in (headers, sysconfig.get_path("platinclude"), sysconfig.get_config_var("INCLUDEPY"))
    ]
    with_python = "#include <Python.h>"
    error = complaint(with_python, *include, *FLAGS, *KERNEL_FLAGS, *list(BUILDS.values())[-1], *OPENMP, *LINK)
    if not error:
        return
    another = "or name another in the environment variable CC."
    if first := complaint("#include <stdio.h>"):
        sys.exit(
            f"fastloss needs a C compiler, and {name} fails: {first}. "
            f"Install one (on Debian: apt-get install gcc libc6-dev python3-dev), {another}"
        )
    if first := complaint(with_python, *include):
        sys.exit(
            f"fastloss needs Python's header files, and {name} fails at Python.h in {headers}: {first}. "
            "Install them (on Debian: apt-get install python3-dev)."
        )
    sys.exit(
        f"fastloss needs a C compiler with its options and OpenMP, and {name} fails: {error}. "
        f"Install GCC 12 or later (on Debian: apt-get install gcc), {another}"
    )


DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
    # a loss has its own way to be pickled, a kernel is not pickled at all
    "auto_pickle": False,
}


def extension(module: str, source: str, flags: list[str], *macros: tuple[str, str]) -> Extension:
    return Extension(
        module,
        [source],
        depends=[REPAIRS],
        include_dirs=[np.get_include()],
        define_macros=[*MACROS, *macros],
        extra_compile_args=FLAGS + flags + OPENMP,
        extra_link_args=LINK,
        py_limited_api=LIMITED,
    )


def compiled(extensions: list[Extension], directives: Any) -> Any:
    return cythonize(
        extensions,
        build_dir="build/c",
        include_path=["."],
        compiler_directives=directives,
        # other processes than forks would run this file again
        nthreads=os.cpu_count() or 1 if multiprocessing.get_start_method() == "fork" else 0,
    )


def fingerprint() -> str:
    """Return one number of the extensions of a checkout and of all that they are made of."""
    variables = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")
    words = [sys.version, version("numpy"), version("cython"), PLATFORM, *COMPILER, compiler("--version")[1]]
    words += [os.environ.get(name, "") for name in variables] + list(asked_builds())
    suffixes = {".h", ".pxd", ".pxi", ".pyx", ".so"}
    files = [path for path in Path("fastloss").rglob("*") if path.suffix in suffixes]
    contents = [path.read_bytes() for path in (Path("setup.py"), Path("fastloss/backends/torch.py"), *sorted(files))]
    return hashlib.sha256(b"\0".join([word.encode() for word in words] + contents)).hexdigest()


def per_build(once: Extension) -> list[Extension]:
    """The extensions that are made of one translation to C, once per instruction set."""
    found = []
    for build, flags in asked_builds().items():
        module, source = f"{once.name}_{build}", GENERATED / f"{once.name}_{build}.c"
        source.parent.mkdir(parents=True, exist_ok=True)
        # as old as what it is a copy of: what is newer is compiled again
        shutil.copy2(once.sources[0], source)
        first, own = (f"PyInit_{name.rpartition('.')[2]}" for name in (once.name, module))
        found.append(extension(module, str(source), KERNEL_FLAGS + flags, (first, own)))
    return found


class BuildExtensions(build_ext):
    """Builds on all cores. In a checkout: what is for measuring alone, too, and nothing where nothing has changed."""

    def initialize_options(self) -> None:
        super().initialize_options()
        # among the options of setup() an editable install would lose it
        self.parallel = os.cpu_count() or 1

    def finalize_options(self) -> None:
        if self.inplace or self.editable_mode:
            self.distribution.ext_modules = EXTENSIONS + per_build(ELEMENTARY)
        super().finalize_options()

    def run(self) -> None:
        if not (self.inplace or self.editable_mode):
            super().run()
            return
        # pip builds each editable install in a folder of its own, where nothing tells it what the checkout has
        if FRESH and not self.force:
            return
        STAMP.unlink(missing_ok=True)
        super().run()
        STAMP.write_text(fingerprint(), encoding="ascii")


if not MSVC:
    # before Cython works for minutes
    require_compiler()

# Cython makes millions of objects that live to its end: to look for cycles among them took a quarter of its time.
gc.disable()

FRESH = STAMP.exists() and STAMP.read_text(encoding="ascii") == fingerprint()
if FRESH:
    # Cython compares times, and each install by pip has a NumPy of its own that is newer than all
    for path in Path("build/c").rglob("*.c"):
        path.touch()

# what takes longest first
KERNELS, ELEMENTARY, *OTHERS = compiled(
    [
        extension("fastloss._kernels", "fastloss/_kernels.pyx", []),
        extension("fastloss._elementary", "fastloss/_elementary.pyx", []),
        extension("fastloss._core", "fastloss/_core.pyx", CORE_FLAGS),
        *(extension(f"fastloss.{name}", f"fastloss/{name}.pyx", SMALL) for name in ("_isa", "_threads")),
    ],
    DIRECTIVES,
)
EXTENSIONS = [
    *per_build(KERNELS),
    *OTHERS,
    *compiled(
        # Python, with its checks: compiled, a call of a small tensor takes a microsecond less
        [extension("fastloss.backends.torch", "fastloss/backends/torch.py", SMALL)],
        {"language_level": 3, "annotation_typing": False, "freethreading_compatible": True},
    ),
]

setup(
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildExtensions},
    options={"bdist_wheel": {"py_limited_api": "cp311"} if LIMITED else {}},
)

"""Whether the tests see a mistake: each of MUTANTS is made in a copy of the checkout, and the tests are to fail.

    python tools/mutants.py [--only WORD] [--first N] [--jobs N] [--list]

A mutant is a text that stands once in the package, and what to put in its place. The copy is built for this processor
alone, with little optimisation, again only where a source of an extension has changed. The quick tests run until the
first that fails. Prints that test for each mutant, and fails if one survives. Needs gcc, and the active environment's
pytest, Cython and setuptools.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPILED = {".pyx", ".pxi", ".pxd"}
# those first that are quick and see much; tests of processes, times, memory and builds see nothing of this
QUICK = [
    *(f"tests/test_{name}.py" for name in ("gluon", "no_value", "structured", "values", "left_out", "inputs", "sums")),
    *(f"tests/test_{name}.py" for name in ("range", "out", "accuracy", "errors", "validate", "api", "messages")),
    *(f"tests/test_{name}.py" for name in ("threads", "halves", "linear")),
]
BACKENDS = [f"tests/test_{name}.py" for name in ("dask", "autograd", "jax", "torch")]

MUTANTS = [
    # formulas, at their kinks, in their tails and where there is no number
    ("L1 has a slope at 0", "signed_as(<real_t>1, z) if a > 0 else z", "signed_as(<real_t>1, z) if a >= 0 else z"),
    ("L2 has a curvature where there is no number", "h[0] = one if z == z else z", "h[0] = one"),
    ("Huber has no curvature at rho", "h[0] = zero if a > rho else (high", "h[0] = zero if a >= rho else (high"),
    ("hinge has a slope at its margin", "g[0] = -y if z > 0 else l[0]", "g[0] = -y if z >= 0 else l[0]"),
    ("squared hinge forgets a square", "(<real_t>2 * y * y if z > 0", "(<real_t>2 * y if z > 0"),
    ("a logistic curvature is a square short", "total * (u / s / s))", "total * (u / s))"),
    ("0 times an infinite logit", "fma(total, tail, zero if far == 0 else far * x)", "fma(total, tail, far * x)"),
    ("0 times an infinite logarithm", "e[0] = zero if y == 0 else y * positive", "e[0] = y * positive"),
    ("a probability's derivative without eps", "left = x + eps if x + eps >= 0", "left = x if x + eps >= 0"),
    ("Stirling's derivative lacks a term", "log_c + <real_t>.5 / c", "log_c"),
    ("no count times an infinite logarithm", "l[0] = rate if y == 0 else fma(", "l[0] = fma("),
    ("a divergence's derivative lacks a term", "d[0] = z + y / (y + eps)", "d[0] = z"),
    # rows
    ("a confident class id loses its digits", "(-factor * (others / total))", "(factor * (own / total - 1))"),
    ("ties of the highest logit count twice", "(ties - 1) * <double>highest", "ties * <double>highest"),
    ("a target of 0 times infinity", "zero if t[k + i] == 0 else t[k + i] * (top", "t[k + i] * (top"),
    ("smoothing leaves the label out", "t[y] = keep + base", "t[y] = keep"),
    ("a class of no weight costs something", "if weight == 0 and loss == <double>INFINITY else", "if False else"),
    (
        "near positives lose their digits",
        "(yi - qi) * ((yi - xi) + (qi - xi))",
        "(yi - xi) * (yi - xi) - (qi - xi) * (qi - xi)",
    ),
    ("small angles lose their digits", "loss = t.r if t.s > 0 else 2 - t.r", "loss = 1 - t.c"),
    ("small cosines lose their digits", "if -.5 < t.c < .5:", "if False:"),
    ("one pair too many", "s.other * (far + (n - 1) *", "s.other * (far + n *"),
    ("pairs are summed with the other sign", "gu[k] = 2 * first[k]", "gu[k] = -2 * first[k]"),
    ("a repeated label is skipped to", "c.skip[j] = c.label[j] != c.label[j - 1]", "c.skip[j] = 1"),
    ("a label that does not fit costs nothing", "impossible = 0 if s.zero_infinity else INFINITY", "impossible = 0"),
    ("few targets: ties count twice", "set_all(ties, <real_t>-1, n)", "set_all(ties, <real_t>0, n)"),
    ("few targets: 0 times infinity", "linear[i] += zero if t[j * n + i] == 0 else u", "linear[i] += u"),
    ("few classes: ignored rows have gradients", "missing = kernel.has_ids and y[i] < 0", "missing = False"),
    (
        "few classes: a function has no curvature",
        "hess[j * n + i] + scale[i] * e[i] * (bend",
        "hess[j * n + i] + 0 * (bend",
    ),
    ("few divergences without weights", "weigh(t, turned, z if w != NULL else NULL, 0, all)", "pass"),
    # labels and weights
    ("a class id one too large", "return low <= x <= high and", "return low <= x <= high + 1 and"),
    ("ids of no weight are looked at", "return w == 0", "return False"),
    ("NaN times a weight of 0", "unless_zero(w[i + k], a[i + k] * m[i + k])", "a[i + k] * m[i + k]"),
    ("an infinite loss of weight 0", "zero if w[i] == 0 and not to[i] - to[i] == 0 else to[i]", "to[i]"),
    ("validate takes what is no integer", "good &= np.floor(x) == x", "pass"),
    ("validate takes what lies below", "(x >= self.low - self.slack * ulp)", "(x >= self.low - 1)"),
    # sums, threads, memory
    ("sums in another order", "(l0 + l1) + (l2 + l3)", "((l0 + l1) + l2) + l3"),
    ("what sums have rounded away", "total.rest += p.partial[kind][(k * 2 + 1) * size + j]", "pass"),
    ("a thread's range lacks a task", "min(<Py_ssize_t>thread, p.tasks % p.threads)", "0"),
    ("rows in memory that lie apart", "c.at += a.stride[i - 1] - a.shape[i] * a.stride[i]", "c.at += a.stride[i - 1]"),
    ("a stride is taken for none", "elif stride == sizeof(any_t):", "elif stride >= <Py_ssize_t>sizeof(any_t):"),
    ("a half's exponent", "short_size = 0x7c00 if magnitude >= 65520", "short_size = 0x7c00 if magnitude > 65520"),
    ("the last bit of a bfloat16", "bits + <uint32_t>0x7fff + (bits >> 16 & 1)", "bits + <uint32_t>0x8000"),
    ("what is wanted", "c.wanted[GRAD] = want & WANT_GRAD != 0", "c.wanted[GRAD] = want & WANT_GRAD"),
    ("a row that a linear predictor leaves out", "p if a != 0 else zeros", "p"),
    ("rows of several outputs that are left out", "if g[k * TILE + i] != 0:", "if True:"),
    ("a half between two", "(size >> 42 & 1)", "1"),
    ("byte order", "item[k] = src[i * stride + <Py_ssize_t>sizeof(any_t) - 1 - k]", "item[k] = src[i * stride + k]"),
    # the call
    ("results over each other", "if c.outs[i] != NULL and overlap(", "if False and overlap("),
    ("results over an input", "if c.given[i] == NULL or not overlap(", "if True or not overlap("),
    ("a result over weights", "if i < WEIGHT and not p.outputs[k].summed and", "if not p.outputs[k].summed and"),
    ("an input's dtype", "!= FLOAT32 and not c.is_half", "!= FLOAT32"),
    ("read-only results", "if not cnp.PyArray_ISWRITEABLE(a):", "if False:"),
    ("a head_grad of one number", "p.grad_scale = p.value_scale * head_factor", "p.grad_scale = p.value_scale"),
    # backends
    ("Dask's weights of one example", "good = given[0] in (1, self.shape[self.batch])", "good = True"),
    ("Dask's means", 'return 1 if self.reduction == "weighted_mean" else', "return"),
    (
        "autograd's curvature",
        "return Loss.hvp(loss, *inputs, vector=vector, head_grad=head)",
        "return Loss.hvp(loss, *inputs, vector=vector)",
    ),
    ("JAX's and autograd's mask", "np.where(mask, 0.0, flow)", "flow"),
]


def sources(folder: Path) -> list[Path]:
    return [path for path in (folder / "fastloss").rglob("*") if path.suffix in {".py", *COMPILED}]


def place(folder: Path, old: str) -> Path:
    """The file that has a text; it must be there once."""
    found = {path: path.read_text(encoding="utf-8").count(old) for path in sources(folder)}
    if sum(found.values()) != 1:
        sys.exit(f"{old!r} stands {sum(found.values())} times in the package, and must stand there once")
    return next(path for path, count in found.items() if count)


def compiler(folder: Path) -> Path:
    """A compiler that takes half the time, for tests that take as long: the last of several -O counts."""
    path = folder / "cc"
    path.write_text('#!/bin/sh\nexec gcc "$@" -O1\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def build(folder: Path) -> bool:
    cc = str(compiler(folder))
    environment = os.environ | {"FASTLOSS_BUILDS": "native", "CC": cc, "LDSHARED": f"{cc} -shared"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    return not subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


def first_failure(folder: Path, tests: list[str]) -> str | None:
    """The first test that fails."""
    # a mutant may never end, or write where it should not
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=900)
    except subprocess.TimeoutExpired:
        return "the tests did not end"
    if done.returncode < 0:
        return f"the tests ended by signal {-done.returncode}"
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    return failed[1] if failed else None if done.returncode == 0 else done.stdout[-300:]


def judged(folder: Path, old: str, new: str) -> str | None:
    """What sees a mutant, which is in the copy meanwhile."""
    path = place(folder, old)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        # also after a mutant that was compiled: setup.py sees by itself what has changed
        if not build(folder):
            return "the compiler"
        return first_failure(folder, BACKENDS if "backends" in path.parts else QUICK)
    finally:
        path.write_text(text, encoding="utf-8")


def all_judged(folders: list[Path], mutants: list[tuple[str, str, str]]) -> list[bool]:
    """Whether each mutant is seen: as many at once as there are copies."""
    idle: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for folder in folders:
        idle.put(folder)

    def is_seen(mutant: tuple[str, str, str]) -> bool:
        what, old, new = mutant
        folder, start = idle.get(), time.monotonic()
        try:
            seen = judged(folder, old, new)
        finally:
            idle.put(folder)
        print(f"{what}: {seen or 'SURVIVES'} ({time.monotonic() - start:.0f} s)", flush=True)
        return seen is not None

    with ThreadPoolExecutor(len(folders)) as pool:
        return list(pool.map(is_seen, mutants))


def copy(folder: Path) -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the mutants whose name has this word")
    parser.add_argument("--first", type=int, default=0, help="the first mutant to make, by its number")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="make N mutants at once, each in its own copy")
    parser.add_argument("--unchecked", action="store_true", help="take it that the tests pass without a mutant")
    parser.add_argument("--list", action="store_true", help="say where each would be, and make none")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS[options.first :] if options.only in mutant[0]]
    for what, old, _ in chosen:
        where = place(ROOT, old)
        if options.list:
            print(f"{what}: {where.relative_to(ROOT)}")
    if options.list:
        return 0
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(k)) for k in range(options.jobs)]
        copy(folders[0])
        if not build(folders[0]):
            sys.exit("the copy cannot be built")
        if not options.unchecked and (failure := first_failure(folders[0], QUICK + BACKENDS)):
            sys.exit(f"without a mutant: {failure}")
        for folder in folders[1:]:
            shutil.copytree(folders[0], folder)
        seen = all_judged(folders, chosen)
    print(f"{sum(seen)} of {len(seen)} mutants were seen")
    return 0 if all(seen) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The builds for the instruction sets: each is right, those with FMA give the same bits, all are vector code."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss import _isa
from tests.conftest import BUILT

ROOT = Path(__file__).parent.parent

RESULTS = """
import hashlib, sys
sys.path.insert(0, {root!r})
import numpy as np
from tests.reference import call_args, draw
from tests.reference import LOSSES, expected
for name, reference in LOSSES.items():
    for dtype in (np.float32, np.float64):
        rng = np.random.default_rng(1)
        inputs = draw(reference, rng, (37, 129), dtype)
        weight = rng.random(37)
        loss = reference.build(reduction="mean")
        got = loss.value_grad_and_hess(*call_args(reference, inputs, weight))
        want = expected(reference, inputs, weight[:, None], reduction="mean")
        tolerance = 2e-6 if dtype == np.float32 else 1e-12
        for a, b in zip(got, (want.value, want.gradient, want.hessian)):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
        # without weights and Hessian the sum may come from a loop of its own
        got = (*got, *loss.value_and_grad(*call_args(reference, inputs)))
        print(name, np.dtype(dtype), hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in got)).hexdigest())
"""


def run(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FASTLOSS_ISA": isa}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)


def test_every_build_is_right_and_those_with_fma_agree() -> None:
    outputs = {}
    for isa in BUILT:
        result = run(RESULTS.format(root=str(ROOT)), isa)
        assert result.returncode == 0, result.stderr
        outputs[isa] = result.stdout
    with_fma = [outputs[isa] for isa in outputs if isa != "baseline"]
    assert len(set(with_fma)) <= 1


def test_choice() -> None:
    code = "import fastloss as fl; print(fl.show_config(mode='dicts')['instruction set'])"
    for isa in BUILT:
        assert run(code, isa).stdout == isa + "\n"
    assert run(code, "").stdout == _isa.supported[-1] + "\n"
    assert "FASTLOSS_ISA must be one of baseline, x86_64_v3, x86_64_v4, got 'avx'" in run(code, "avx").stderr
    assert fl.show_config(mode="dicts")["instruction set"] in _isa.supported  # type: ignore[index]


def test_more_than_the_cpu_has_is_refused() -> None:
    for levels in range(1, len(_isa.NAMES) + 1):
        supported = _isa.NAMES[:levels]
        for isa in _isa.NAMES:
            if isa in supported:
                assert _isa.choose(isa, supported) == isa
            else:
                with pytest.raises(ImportError, match=f"FASTLOSS_ISA={isa} .* its best build is {supported[-1]}$"):
                    _isa.choose(isa, supported)
        assert _isa.choose(None, supported) == _isa.choose("", supported) == supported[-1]


def test_floating_point_state_is_left_alone() -> None:
    # a library linked with -ffast-math flushes subnormals to 0 for the whole process
    assert np.float32(1e-40) * np.float32(1) != 0
    assert np.finfo(np.float32).smallest_subnormal > 0


ARM = platform.machine() in ("aarch64", "arm64")
# arithmetic on full vectors of each build; macOS writes the kind of vector behind the instruction
PACKED = {
    "baseline": r"\bf(abd|add|sub|mul|div|ml[as])(\s+v\d+)?\.(4s|2d)" if ARM else r"\b(add|sub|mul|div)p[sd]\s.*%xmm",
    "x86_64_v3": r"\bv(add|sub|mul|div|fn?m(add|sub)\d+)p[sd]\s.*%ymm",
    "x86_64_v4": r"\bv(add|sub|mul|div|fn?m(add|sub)\d+)p[sd]\s.*%zmm",
}


# that lie here, whichever the processor runs
WRITTEN = [isa for isa in PACKED if any(Path(fl.__file__).parent.glob(f"_kernels_{isa}.*"))]
# bytes of the loops of one loss over elements
LARGEST = 16 * 1024


def formulas(fused: str) -> list[str]:
    """The kernels of a fused type, in the order in which the names of their loops number them."""
    lists: dict[str, list[str]] = {}
    for path in (ROOT / "fastloss" / "kernels").rglob("*.pxi"):
        found = re.findall(r"^ctypedef fused (\w+):\n((?:    \w+\n)+)", path.read_text("utf-8"), re.MULTILINE)
        lists |= {name: kernels.split() for name, kernels in found}
    return [kernel for name in lists[fused] for kernel in (formulas(name) if name in lists else [name])]


def objdump(option: str, isa: str) -> str:
    """What objdump prints of the kernels of a build, where that has the names of its loops."""
    if shutil.which("objdump") is None:
        pytest.skip("reads the machine code with objdump, of binutils")
    module = next(Path(fl.__file__).parent.glob(f"_kernels_{isa}.*"))
    text = subprocess.run(
        ["objdump", option, "--no-show-raw-insn", str(module)], capture_output=True, text=True, check=True
    ).stdout
    if "_evaluate" not in text:
        pytest.skip("the machine code has lost its names, as a wheel's has")
    return text


@pytest.mark.parametrize("isa", WRITTEN)
def test_every_loop_is_vectorised(isa: str) -> None:
    if not ARM and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the patterns are those of x86-64 and arm64")
    loops: dict[str, str] = {}
    for function in re.split(r"\n(?=[0-9a-f]+ <)", objdump("-d", isa)):
        name = re.match(r"[0-9a-f]+ <(\w+_evaluate(?:_sum)?)(?:\.[.\w]*)?>:", function)
        if name:
            loops[name[1]] = loops.get(name[1], "") + function
    # of each 2 dtypes, and 5 passes or 2 or 1 that are all of them; one with a surrogate; two sums that wait for memory
    passes = 5 * len(formulas("loss_t")) - 3 * len(formulas("heavy_t")) - 4 * len(formulas("heaviest_t"))
    passes += len(formulas("surrogate_t"))
    assert len(loops) == 2 * (passes + 2 * len(formulas("light_t")))
    arithmetic = {name: len(re.findall(PACKED[isa], text)) for name, text in loops.items()}
    assert [name for name, count in arithmetic.items() if count == 0] == []
    calls = {match for text in loops.values() for match in re.findall(r"\t(?:callq?|blr?)\s.*", text)}
    assert not calls


@pytest.mark.parametrize("isa", WRITTEN)
def test_no_loss_takes_much_code(isa: str) -> None:
    """The loops of each: a new loss makes the wheel larger by no more than this for each build."""
    symbol = re.compile(r"\s([0-9a-f]{8,})\s+_+pyx_fuse_(\d+)_\w+_evaluate(_sum)?(?:\.\S*)?$", re.MULTILINE)
    symbols = symbol.findall(objdump("-t", isa))
    if not symbols:
        pytest.skip("the symbols have no sizes, as those of macOS")
    kernels = {"": formulas("loss_t"), "_sum": formulas("light_t")}
    sizes = dict.fromkeys(kernels[""], 0)
    for size, number, kind in symbols:
        sizes[kernels[kind][int(number)]] += int(size, 16)
    assert min(sizes.values()) > 0
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}

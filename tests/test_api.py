"""Loss objects, the command line, and the demo."""

from __future__ import annotations

import array
import copy
import dataclasses
import enum
import gc
import pickle
import re
import subprocess
import sys
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest

import fastloss as fl
from fastloss.__main__ import run_demo
from fastloss._inputs import WEIGHT, Input, Integers
from fastloss._isa import kernels
from tests.reference import LOSSES, Reference, draw
from tests.structured import STRUCTURED


def test_names() -> None:
    assert fl.SigmoidBCELoss is fl.SigmoidBinaryCrossEntropyLoss
    assert fl.SoftmaxCELoss is fl.SoftmaxCrossEntropyLoss
    for name in fl.__all__:
        assert hasattr(fl, name)
    gluon = """Loss L2Loss L1Loss SigmoidBinaryCrossEntropyLoss SigmoidBCELoss SoftmaxCrossEntropyLoss SoftmaxCELoss
        KLDivLoss CTCLoss HuberLoss HingeLoss SquaredHingeLoss LogisticLoss TripletLoss PoissonNLLLoss
        CosineEmbeddingLoss SDMLLoss"""
    assert set(gluon.split()) <= set(fl.__all__)


def test_type_checkers_know_the_losses() -> None:
    """mypy reads this: a class that it does not find in the package would be Any, and so would what it returns."""
    assert_type(fl.HuberLoss(rho=2), fl.HuberLoss)
    assert_type(fl.HuberLoss(rho=2).arguments, tuple[tuple[str, Any], ...])
    assert_type(fl.losses.SigmoidBCELoss().inputs, tuple[str, ...])


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (fl.L2Loss(), "L2Loss(weight=1.0, batch_axis=0, reduction='example')"),
        (fl.HuberLoss(2, None, 1), "HuberLoss(rho=2, weight=None, batch_axis=1, reduction='example')"),
        (fl.HuberLoss(2.0, reduction="sum"), "HuberLoss(rho=2.0, weight=None, batch_axis=0, reduction='sum')"),
        (
            fl.SoftmaxCELoss(class_weight=np.array([1, 2.5])),
            "SoftmaxCrossEntropyLoss(axis=-1, sparse_label=True, from_logits=False, weight=None, batch_axis=0, "
            "reduction='example', ignore_index=None, label_smoothing=0.0, class_weight=(1.0, 2.5), "
            "z_loss=0.0, softcap=None, logit_bias=None)",
        ),
    ],
    ids=str,
)
def test_repr_is_the_constructor(loss: fl.Loss, text: str) -> None:
    assert repr(loss) == text
    assert eval(text, vars(fl)) == loss


def test_order_of_gluon_constructors() -> None:
    assert fl.LogisticLoss(None, 0, "binary").label_format == "binary"
    assert fl.PoissonNLLLoss(None, False, 0, True).compute_full is True
    assert fl.SigmoidBCELoss(True, 0.5, 1).batch_axis == 1
    assert fl.KLDivLoss(True, -1, 2.0, 0).weight == 2
    assert fl.SoftmaxCELoss(1, False, False, 0.5, 0).axis == 1
    assert fl.HingeLoss(2, 0.5, 0).margin == 2


def test_equal_hashable_picklable_copyable(reference: Reference) -> None:
    loss = reference.build()
    twin = reference.build()
    other = reference.build(weight=0.5)
    assert loss == twin
    assert hash(loss) == hash(twin)
    assert loss != other
    assert loss != "loss"
    for copied in (pickle.loads(pickle.dumps(loss)), copy.copy(loss), copy.deepcopy(loss)):
        assert copied == loss
        assert type(copied) is type(loss)
    assert len({loss, twin, other}) == 2


def test_immutable(reference: Reference) -> None:
    loss = reference.build()
    for name in ("weight", "reduction", "anything"):
        with pytest.raises(AttributeError):
            setattr(loss, name, 2)
    with pytest.raises(AttributeError, match="has no attribute 'anything'"):
        loss.anything  # noqa: B018
    for name, value in loss.arguments:
        assert getattr(loss, name) == value


@pytest.mark.parametrize("name", ["rho", "batch_axis"])
def test_an_array_without_axes_is_a_number(name: str) -> None:
    given = np.array(1)
    loss = fl.HuberLoss(**{name: given})
    given[...] = 2
    assert hash(loss) == hash(fl.HuberLoss(**{name: 1}))
    assert loss == pickle.loads(pickle.dumps(loss)) == fl.HuberLoss(**{name: 1})


@pytest.mark.parametrize("number", [Fraction(1, 2), Decimal("0.5"), np.float32(0.5), np.longdouble(0.5)])
def test_numbers_are_kept_as_pythons(number: Any) -> None:
    loss = fl.L2Loss(weight=number)
    assert type(loss.weight) is float
    assert loss == fl.L2Loss(weight=0.5)
    assert "weight=0.5" in repr(loss)


def test_truth_is_kept_as_pythons() -> None:
    loss = fl.KLDivLoss(from_logits=np.True_)
    assert loss.from_logits is True
    assert pickle.loads(pickle.dumps(loss)) == loss == fl.KLDivLoss(from_logits=True)


def test_a_number_that_is_none() -> None:
    """Of Python's floats there is none as large."""
    with pytest.raises(ValueError, match=r"weight must be finite, got Fraction"):
        fl.L2Loss(weight=Fraction(10**400))


def test_immutable_by_its_constructor() -> None:
    loss = fl.SDMLLoss(smoothing_parameter=0.3)
    x = np.arange(6.0).reshape(3, 2)
    before = loss(x, x)
    with pytest.raises(TypeError, match="immutable"):
        loss.__init__(0.9)  # type: ignore[misc]
    np.testing.assert_array_equal(loss(x, x), before)


def test_a_changed_list_does_not_change_the_loss() -> None:
    weights = [1.0, 2.0]
    loss = fl.SoftmaxCELoss(class_weight=weights)
    before = loss([[0.0, 1]], [1])
    weights[1] = 100
    assert fl.SoftmaxCELoss(class_weight=array.array("d", [1, 2])) == loss
    assert loss.class_weight == (1.0, 2.0)
    np.testing.assert_array_equal(loss([[0.0, 1]], [1]), before)


def test_keywords_and_positions_agree() -> None:
    pred, label, weight, positive = np.ones((2, 3)), np.zeros((2, 3)), [1, 2], [1, 2, 3]
    loss = fl.SigmoidBCELoss()
    want = loss.grad(pred, label, weight, positive)
    np.testing.assert_array_equal(loss.grad(pred=pred, label=label, sample_weight=weight, pos_weight=positive), want)
    np.testing.assert_array_equal(loss.grad(pred, pos_weight=positive, sample_weight=weight, label=label), want)
    np.testing.assert_array_equal(
        loss.grad(pred, label, head_grad=None, out=None, wrt="pred", pos_weight=positive, sample_weight=weight), want
    )


def test_subclasses_keep_everything() -> None:
    class Scaled(fl.HuberLoss):
        def __init__(self, rho: float = 3) -> None:
            super().__init__(rho, reduction="sum")

    loss = Scaled()
    assert repr(loss).endswith("Scaled(rho=3)")
    assert loss([4.0], [0.0]) == 2.5


class Noted(fl.L2Loss):
    def __init__(self, note: Any, /, *rest: Any, **named: Any) -> None:
        super().__init__(*rest, **named)


class Halved(fl.HuberLoss):
    """With a name of its own for what its base calls otherwise, and without what its base has."""

    def __init__(self, rho: float = 2, scale: float = 3) -> None:
        super().__init__(rho / 2, reduction="sum")

    @property
    def scale(self) -> str:
        return "mine"


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (Noted("a"), "Noted('a')"),
        (Noted("a", 2, np.int64(0)), "Noted('a', 2, 0)"),
        (Noted("a", 2, reduction="sum", batch_axis=0), "Noted('a', 2, reduction='sum', batch_axis=0)"),
        (Noted(["a", 1]), "Noted(('a', 1))"),
        (Halved(), "Halved(rho=2, scale=3)"),
    ],
)
def test_subclasses_take_arguments_in_every_way(loss: fl.Loss, text: str) -> None:
    assert repr(loss) == text
    for other in (pickle.loads(pickle.dumps(loss)), copy.copy(loss), copy.deepcopy(loss)):
        assert type(other) is type(loss)
        assert (repr(other), hash(other)) == (text, hash(loss))
        assert other == loss
        assert other([4.0], [1.0]) == loss([4.0], [1.0])


def test_pickles_of_the_first_version_are_read() -> None:
    """They name the modules in which classes and functions were then."""
    old = pickle.dumps(fl.HuberLoss(rho=2), protocol=0)
    for now, then in ((b"fastloss._arguments", b"fastloss._core"), (b"fastloss.losses.regression", b"fastloss.losses")):
        assert now in old
        old = old.replace(now, then)
    assert pickle.loads(old) == fl.HuberLoss(rho=2)


def test_a_subclass_may_keep_its_arguments_as_attributes() -> None:
    class Focal(fl.L2Loss):
        def __init__(self, alpha: float = 1, **named: Any) -> None:
            self.alpha = 2 * alpha
            super().__init__(**named)

    assert Focal(3).alpha == 6
    assert dict(Focal(3).arguments) == {"alpha": 3}
    assert pickle.loads(pickle.dumps(fl.HuberLoss(3))).rho == 3
    assert fl.HuberLoss.rho.__get__(None) is fl.HuberLoss.rho  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="read-only"):
        fl.HuberLoss(3).rho = 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("other", [fl.CosineEmbeddingLoss, fl.SoftmaxCELoss, fl.TripletLoss, fl.HuberLoss])
def test_a_class_of_two_losses_is_the_one_that_built_it(other: type[fl.Loss]) -> None:
    both = type("Both", (other, fl.L2Loss), {"__init__": lambda self: fl.L2Loss.__init__(self)})
    np.testing.assert_array_equal(both()([1.0, 2.0], [0.0, 0.0]), [0.5, 2])
    assert both().inputs == fl.L2Loss().inputs


def test_members_of_enums_are_kept_as_what_they_are() -> None:
    class Axis(enum.IntEnum):
        CLASSES = 1

    class Reduction(enum.StrEnum):
        NONE = "none"

    class Number(float):
        pass

    class Raw(bytes):
        pass

    loss = fl.SoftmaxCELoss(axis=Axis.CLASSES, reduction=Reduction.NONE, label_smoothing=Number(0.5))
    same = fl.SoftmaxCELoss(axis=1, reduction="none", label_smoothing=0.5)
    assert repr(loss) == repr(same)
    assert [type(x) for _, x in loss.arguments] == [type(x) for _, x in same.arguments]

    class Noted(fl.L2Loss):
        def __init__(self, note: bytes) -> None:
            super().__init__()

    assert type(dict(Noted(Raw(b"x")).arguments)["note"]) is bytes


@pytest.mark.parametrize(
    ("layout", "label"),
    [
        ("examples", Input("label", "per row")),
        ("elements", Input("label", "per row")),
        ("examples", Input("label", integers=Integers(0, 1, None, "events"))),
    ],
)
def test_inputs_that_do_not_fit_a_layout_are_refused(layout: str, label: Input) -> None:
    class Own(fl.Loss):
        def __init__(self) -> None:
            super().__init__(kernels.L2(), None, 0, "example", layout=layout, inputs=(Input("pred"), label, WEIGHT))

    with pytest.raises(ValueError, match=f"label cannot lie .* layout='{layout}'"):
        Own()


def test_a_gradient_is_not_separable_where_examples_meet_in_the_first_input() -> None:
    class Own(fl.Loss):
        def __init__(self) -> None:
            inputs = Input("pred"), Input("label"), WEIGHT
            super().__init__(kernels.L2(), None, 0, "example", layout="examples", couples="pred", inputs=inputs)

    assert not Own().is_separable(2)
    # its first vectors have an example each, which meets the second vectors of all
    assert fl.SDMLLoss().is_separable(2)


def test_a_subclass_has_its_own_arguments() -> None:
    assert Halved().scale == "mine"
    assert Noted("a", weight=2).weight == 2
    assert fl.HuberLoss(reduction="none").reduction == "none"
    with pytest.raises(AttributeError, match="Halved has no argument 'reduction'"):
        Halved().reduction  # noqa: B018


@pytest.mark.thread_unsafe
def test_no_memory_is_kept(reference: Reference) -> None:
    inputs = draw(reference, np.random.default_rng(0), (3,))
    args = (*inputs[:2], np.ones(3), *inputs[2:])
    loss = reference.build()
    counts = [sys.getrefcount(a) for a in args]
    for _ in range(50):
        loss.value_grad_and_hess(*args)
        with pytest.raises(ValueError, match="head_grad"):
            loss.grad(*args, head_grad=np.ones(17))
    gc.collect()
    assert [sys.getrefcount(a) for a in args] == counts


def test_every_loss_has_a_reference_and_a_documented_source() -> None:
    classes = {getattr(fl, name) for name in fl.losses.__all__} - {fl.Loss}
    tested = {reference.loss for reference in LOSSES.values()} | {structured.loss for structured in STRUCTURED.values()}
    assert tested == classes
    for cls in classes:
        for part in ("math::", "Args:", "Call:", "Source:", "Gluon", "PyTorch", ">>>"):
            assert part in cls.__doc__, (cls, part)


def test_readme_names_every_family() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(fastloss/losses/(\w+)\.py\)", readme))
    assert linked == {getattr(fl, name).__module__.rpartition(".")[2] for name in fl.losses.__all__ if name != "Loss"}


def run(*args: str, cwd: Any = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastloss", *args], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_info() -> None:
    result = run("info")
    assert result.returncode == 0
    assert fl.__version__ in result.stdout
    assert "instruction set" in result.stdout


def test_the_demo_fails_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    demo = pytest.importorskip("fastloss.demo", reason='its libraries are not installed: pip install -e ".[demo]"')

    def run(output: Path) -> None:
        raise PermissionError(f"{output} is not to be written")

    monkeypatch.setattr(demo, "run", run)
    with pytest.raises(SystemExit, match=r"the demo failed: .* is not to be written"):
        run_demo("losses", tmp_path / "losses.png")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.delitem(sys.modules, "fastloss.demo")
    with pytest.raises(
        SystemExit, match=r'needs tqdm, which is not installed: pip install -e "\.\[demo\]" in a checkout'
    ):
        run_demo("losses", tmp_path / "losses.png")


def test_the_demo_sees_another_minimum() -> None:
    demo = pytest.importorskip("fastloss.demo", reason='its libraries are not installed: pip install -e ".[demo]"')
    task = demo.TASKS[1]

    def doubled(*args: Any) -> Any:
        return tuple(2 * x for x in task.formula(*args))

    with pytest.raises(RuntimeError, match=r"the minimum is .* with fastloss, .* with NumPy"):
        demo.measure(dataclasses.replace(task, formula=doubled), lambda: None)


@pytest.mark.thread_unsafe
def test_demo(tmp_path: Path) -> None:
    for name in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[demo]"')
    result = run("demo", "--output", str(tmp_path / "losses.png"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    rows = [line for line in result.stdout.splitlines() if " ms " in line]
    assert len(rows) == 3
    for row in rows:
        ours, theirs = (float(part.split()[-1]) for part in row.split("%")[:2])
        assert abs(ours - theirs) <= 1
    assert "it/s" in result.stderr or "%" in result.stderr


@pytest.mark.thread_unsafe
def test_the_demo_of_linear_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("scipy", "sklearn", "tqdm"):
        pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[demo]"')
    from fastloss import demo_linear as demo

    monkeypatch.setattr(demo, "ROWS", 2000)
    run_demo("linear", Path())
    printed = capsys.readouterr()
    fits = [line.split()[-2:] for line in printed.out.splitlines()[1:4]]
    assert len({round(float(value), 2) for _, value in fits}) == 1
    assert "step" in printed.err


@pytest.mark.thread_unsafe
@pytest.mark.parametrize(("name", "title"), [("xgboost", "XGBoost"), ("lightgbm", "LightGBM")])
def test_the_demo_of_boosting(
    name: str, title: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for needed in ("sklearn", "tqdm"):
        pytest.importorskip(needed, reason=f'{needed} is not installed: pip install -e ".[demo]"')
    pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[boosting]"')
    from fastloss import demo_boosting as demo

    monkeypatch.setattr(demo, "ROUNDS", 10)
    for other in set(demo.TRAIN) - {name}:
        monkeypatch.setitem(sys.modules, other, None)
    with warnings.catch_warnings(action="ignore"):
        run_demo("boosting", Path())
    printed = capsys.readouterr()
    head, *rows = printed.out.splitlines()[: len(demo.TASKS) + 1]
    assert title in head
    for row in rows:
        ours, theirs = (float(x) for x in re.findall(r"\d+\.\d{4}", row))
        assert ours < 1.05 * theirs
    assert "8/8" in printed.err
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=r"needs XGBoost or LightGBM, .*: pip install -e \"\.\[boosting,demo\]\""):
        run_demo("boosting", Path())


def test_the_help_of_the_demo_names_its_tasks() -> None:
    result = run("demo", "--help")
    assert result.returncode == 0
    assert "boost trees in XGBoost or LightGBM" in " ".join(result.stdout.split())
    wrong = run("demo", "nothing")
    assert wrong.returncode == 2
    assert "invalid choice: 'nothing'" in wrong.stderr

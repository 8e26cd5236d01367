"""Boosting: the trees of each library's own objectives, and what an objective is asked for."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from fastloss.boosting import Objective

REASON = 'not installed: pip install -e ".[boosting]"'
ROUNDS = 10


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is {REASON}")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Warnings of these libraries are theirs."""
    with warnings.catch_warnings(action="ignore"):
        yield


def data(task: str, n: int = 3000, d: int = 10) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, d)).astype(np.float32)
    raw = x[:, 0] + np.sin(2 * x[:, 1])
    noise = rng.normal(size=n)
    label = {
        "logistic": lambda: raw + noise > 0,
        "softmax": lambda: np.digitize(raw + noise, [-1, 0, 1]),
        "Poisson": lambda: rng.poisson(np.exp(raw / 2)),
        "squared": lambda: raw + noise,
        "Gamma": lambda: rng.gamma(2, np.exp(raw / 2) / 2) + 1e-3,
        "Tweedie": lambda: rng.poisson(np.exp(raw / 2)) * rng.gamma(2, size=n),
    }[task]()
    return x, label.astype(np.float32), rng.uniform(0.5, 2, n).astype(np.float32)


OBJECTIVES: dict[str, tuple[fl.Loss, dict[str, Any], dict[str, Any]]] = {
    "logistic": (fl.SigmoidBCELoss(), {"objective": "binary:logistic"}, {"objective": "binary"}),
    "softmax": (
        fl.SoftmaxCELoss(),
        {"objective": "multi:softprob", "num_class": 4},
        {"objective": "multiclass", "num_class": 4},
    ),
    "Poisson": (fl.PoissonNLLLoss(), {"objective": "count:poisson"}, {"objective": "poisson"}),
    "squared": (fl.L2Loss(), {"objective": "reg:squarederror"}, {"objective": "regression"}),
    "Gamma": (fl.GammaLoss(), {"objective": "reg:gamma"}, {"objective": "gamma"}),
    "Tweedie": (
        fl.TweedieLoss(1.5),
        {"objective": "reg:tweedie", "tweedie_variance_power": 1.5},
        {"objective": "tweedie", "tweedie_variance_power": 1.5},
    ),
}


def xgboost_splits(booster: Any) -> list[Any]:
    """The features and thresholds of all trees."""
    trees = [json.loads(text) for text in booster.get_dump(dump_format="json")]

    def nodes(node: Any) -> Any:
        return [node["split"], node["split_condition"], *map(nodes, node["children"])] if "split" in node else []

    return list(map(nodes, trees))


def lightgbm_splits(booster: Any) -> list[Any]:
    def nodes(node: Any) -> Any:
        if "split_feature" not in node:
            return []
        return [node["split_feature"], node["threshold"], nodes(node["left_child"]), nodes(node["right_child"])]

    return [nodes(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]


def start_of_xgboost(task: str, objective: Objective, label: Any, weight: Any) -> Any:
    """What its own objective takes as base_score, for the same start: a mean, or margins of classes."""
    if task == "softmax":
        return objective.base_score(label, weight)
    return float(objective.predict(objective.base_score(label, weight)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", OBJECTIVES)
def test_xgboost_grows_the_trees_of_its_own_objective(task: str, weighted: bool) -> None:
    xgboost = library("xgboost")
    x, label, weight = data(task)
    weight = weight if weighted else None
    loss, own, _ = OBJECTIVES[task]
    objective = Objective(loss)
    common = {"max_depth": 4, "nthread": 1}
    start = {"base_score": start_of_xgboost(task, objective, label, weight)}
    matrix = xgboost.DMatrix(x, label, weight=weight)
    want = xgboost.train(common | own | start, matrix, ROUNDS)
    got = xgboost.train(common | objective.params(label, weight), matrix, ROUNDS, obj=objective)
    assert xgboost_splits(got) == xgboost_splits(want)
    np.testing.assert_allclose(
        objective.predict(got.predict(matrix, output_margin=True)), want.predict(matrix), rtol=2e-4, atol=1e-5
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", OBJECTIVES)
def test_lightgbm_grows_the_trees_of_its_own_objective(task: str, weighted: bool) -> None:
    lightgbm = library("lightgbm")
    x, label, weight = data(task)
    weight = weight if weighted else None
    loss, _, own = OBJECTIVES[task]
    objective = Objective(loss)
    common = {"num_leaves": 15, "num_threads": 1, "verbose": -1, "seed": 1}
    start = objective.init_score(label, weight)
    want = lightgbm.train(common | own, lightgbm.Dataset(x, label, weight=weight), ROUNDS)
    got = lightgbm.train(
        common | objective.params(label, weight, library="lightgbm"),
        lightgbm.Dataset(x, label, weight=weight, init_score=start),
        ROUNDS,
    )
    assert lightgbm_splits(got) == lightgbm_splits(want)
    np.testing.assert_allclose(objective.predict(got.predict(x) + start), want.predict(x), rtol=1e-4, atol=1e-5)


def of_estimator(own: dict[str, Any]) -> dict[str, Any]:
    """Estimators count the classes themselves."""
    return {name: value for name, value in own.items() if name != "num_class"}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", OBJECTIVES)
def test_estimators_of_xgboost_grow_the_trees_of_its_own_objective(task: str, weighted: bool) -> None:
    xgboost = library("xgboost")
    library("sklearn")
    x, label, weight = data(task, 1500)
    weight = weight if weighted else None
    loss, own, _ = OBJECTIVES[task]
    objective = Objective(loss)
    estimator = xgboost.XGBClassifier if task in ("logistic", "softmax") else xgboost.XGBRegressor
    common = {"n_estimators": ROUNDS, "max_depth": 4, "n_jobs": 1}
    # the start that an estimator finds itself is the same but for rounding
    want = estimator(**common, **of_estimator(own)).fit(x, label, sample_weight=weight)
    params = objective.params(label, weight, api="classifier" if task == "logistic" else "native")
    got = estimator(**common, objective=objective, **params).fit(x, label, sample_weight=weight)
    assert xgboost_splits(got.get_booster()) == xgboost_splits(want.get_booster())
    raw, expected = objective.predict(got.predict(x, output_margin=True)), want.predict
    if hasattr(want, "predict_proba"):
        raw, expected = got.predict_proba(x), want.predict_proba
    np.testing.assert_allclose(raw, expected(x), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", OBJECTIVES)
def test_estimators_of_lightgbm_grow_the_trees_of_its_own_objective(task: str, weighted: bool) -> None:
    lightgbm = library("lightgbm")
    library("sklearn")
    x, label, weight = data(task, 1500)
    weight = weight if weighted else None
    loss, _, own = OBJECTIVES[task]
    objective = Objective(loss)
    estimator = lightgbm.LGBMClassifier if task in ("logistic", "softmax") else lightgbm.LGBMRegressor
    common = {"n_estimators": ROUNDS, "num_leaves": 15, "n_jobs": 1, "verbose": -1}
    want = estimator(**common, **of_estimator(own)).fit(x, label, sample_weight=weight)
    start = objective.init_score(label, weight)
    params = objective.params(label, weight, library="lightgbm")
    got = estimator(**common, **params).fit(x, label, sample_weight=weight, init_score=start)
    assert lightgbm_splits(got.booster_) == lightgbm_splits(want.booster_)
    np.testing.assert_allclose(
        objective.predict(got.predict(x, raw_score=True) + start),
        objective.predict(want.predict(x, raw_score=True)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("task", ["logistic", "squared"])
def test_catboost_predicts_what_its_own_objective_does(task: str) -> None:
    catboost = library("catboost")
    x, label, weight = data(task, 4000)
    objective = Objective(OBJECTIVES[task][0])
    common = {"iterations": ROUNDS, "thread_count": 1, "verbose": 0, "allow_writing_files": False}
    params = objective.params(label, weight, library="catboost")
    own = {"loss_function": {"logistic": "Logloss", "squared": "RMSE"}[task], "eval_metric": None}
    pool = catboost.Pool(x, label, weight=weight)
    got = catboost.CatBoost(common | params).fit(pool, eval_set=pool)
    want = catboost.CatBoost(common | {k: x for k, x in (params | own).items() if x is not None}).fit(pool)
    np.testing.assert_allclose(got.predict(x), want.predict(x), rtol=1e-12, atol=1e-12)
    [scores] = got.get_evals_result()["validation"].values()
    mean = type(objective.loss)(reduction="weighted_mean")(got.predict(x), label, weight)
    assert np.isclose(scores[-1], mean)
    with pytest.raises(NotImplementedError, match="one example at a time"):
        objective.calc_ders_multi([0.0, 1.0], 0, 1.0)


@pytest.mark.parametrize("loss", [fl.SoftmaxCELoss(), fl.GaussianNLLLoss()])
def test_catboost_takes_one_output(loss: fl.Loss) -> None:
    with pytest.raises(NotImplementedError, match='its own loss_function, such as "MultiClass" or "RMSEWithUncert'):
        Objective(loss).params([0, 1, 2], library="catboost")


@pytest.mark.parametrize("weighted", [False, True])
def test_estimators_of_xgboost(weighted: bool) -> None:
    xgboost = library("xgboost")
    base, selection = library("sklearn.base"), library("sklearn.model_selection")
    x, label, weight = data("logistic", 4000)
    weight = weight if weighted else None
    objective = Objective(fl.SigmoidBCELoss())
    common = {"n_estimators": 20, "max_depth": 3, "n_jobs": 1}
    start = objective.base_score(label, weight, api="classifier")
    want = xgboost.XGBClassifier(base_score=start, **common).fit(x, label, sample_weight=weight)
    model = xgboost.XGBClassifier(
        objective=objective, base_score=start, eval_metric=objective.metric, early_stopping_rounds=50, **common
    )
    assert base.clone(model).get_params()["objective"] == objective
    model.fit(x, label, sample_weight=weight, eval_set=[(x, label)], verbose=False)
    assert xgboost_splits(model.get_booster()) == xgboost_splits(want.get_booster())
    np.testing.assert_allclose(model.predict_proba(x), want.predict_proba(x), rtol=1e-5)
    scores = model.evals_result()["validation_0"]["SigmoidBinaryCrossEntropyLoss"]
    raw = model.predict(x, output_margin=True)
    assert np.isclose(scores[-1], fl.SigmoidBCELoss(reduction="mean")(raw, label), rtol=1e-5)
    model.set_params(early_stopping_rounds=None, eval_metric=None)
    assert selection.cross_val_score(model, x[:1000], label[:1000], cv=2).min() > 0.5
    grid = selection.GridSearchCV(model, {"max_depth": [2, 3]}, cv=2).fit(x[:1000], label[:1000])
    assert grid.best_params_["max_depth"] in (2, 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_estimators_of_lightgbm(weighted: bool) -> None:
    lightgbm = library("lightgbm")
    x, label, weight = data("softmax", 4000)
    weight = weight if weighted else None
    objective = Objective(fl.SoftmaxCELoss())
    common = {"n_estimators": 10, "num_leaves": 7, "n_jobs": 1, "verbose": -1}
    want = lightgbm.LGBMClassifier(**common).fit(x, label, sample_weight=weight)
    model = lightgbm.LGBMClassifier(objective=objective, **common)
    start = objective.init_score(label, weight)
    model.fit(x, label, sample_weight=weight, init_score=start, eval_set=[(x, label)], eval_metric=objective.metric)
    assert lightgbm_splits(model.booster_) == lightgbm_splits(want.booster_)
    got = objective.predict(model.predict_proba(x, raw_score=True) + start)
    np.testing.assert_allclose(got, want.predict_proba(x), rtol=1e-4, atol=1e-6)
    assert "SoftmaxCrossEntropyLoss" in model.evals_result_["training"]


def test_metrics_of_data_sets() -> None:
    xgboost, lightgbm = library("xgboost"), library("lightgbm")
    x, label, weight = data("squared", 500)
    metric = Objective(fl.L2Loss()).metric
    want = fl.L2Loss(reduction="weighted_mean")(np.zeros(500), label.astype(float), weight)
    name, value = metric(np.zeros(500, np.float32), xgboost.DMatrix(x, label, weight=weight))
    assert (name, np.isclose(value, want, rtol=1e-6)) == ("L2Loss", True)
    name, value, higher = metric(np.zeros(500), lightgbm.Dataset(x, label, weight=weight).construct())
    assert (name, np.isclose(value, want), higher) == ("L2Loss", True, False)
    assert pickle.loads(pickle.dumps(metric)).__name__ == "L2Loss"


QUANTILES = [0.1, 0.5, 0.9]
PAIRS = [fl.GaussianNLLLoss(), fl.LaplaceNLLLoss(), fl.StudentTNLLLoss()]


@pytest.mark.parametrize("repeated", [False, True])
def test_several_quantiles_in_one_model_of_xgboost(repeated: bool) -> None:
    xgboost = library("xgboost")
    x, label, _ = data("squared", 4000)
    objective = Objective(fl.QuantileLoss(), quantile=QUANTILES)
    matrix = xgboost.DMatrix(x, np.tile(label[:, None], 3) if repeated else label)
    params = {"max_depth": 3, "nthread": 1, **objective.params(label)}
    raw = xgboost.train(params, matrix, 60, obj=objective).predict(matrix)
    assert raw.shape == (4000, 3)
    assert np.abs((label[:, None] <= raw).mean(0) - QUANTILES).max() < 0.02
    assert np.allclose(objective.base_score(label), np.quantile(label, QUANTILES), atol=0.01)


def test_several_quantiles_in_one_model_of_lightgbm_are_those_of_one_each() -> None:
    lightgbm = library("lightgbm")
    x, label, weight = data("squared", 1003)
    common = {"num_leaves": 8, "num_threads": 1, "verbose": -1}

    def predictions(objective: Objective) -> Any:
        params, start = objective.params(label, weight, library="lightgbm"), objective.init_score(label, weight)
        train = lightgbm.Dataset(x, label, weight=weight, init_score=start)
        return lightgbm.train(common | params, train, ROUNDS).predict(x) + start

    together = predictions(Objective(fl.QuantileLoss(), quantile=QUANTILES))
    for column, quantile in zip(together.T, QUANTILES, strict=True):
        np.testing.assert_allclose(column, predictions(Objective(fl.QuantileLoss(quantile))), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", PAIRS, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_a_number_and_its_scale_in_one_model(name: str, weighted: bool, loss: fl.Loss) -> None:
    module = library(name)
    library("sklearn")
    rng = np.random.default_rng(0)
    x, _, weight = data("squared", 4000)
    label = np.sin(2 * x[:, 0]) + np.exp(x[:, 1] / 2) * rng.normal(size=4000)
    weight = weight[:2000] if weighted else None
    objective = Objective(loss)
    params = objective.params(label[:2000], weight, library=name)
    common = {"n_estimators": 50, "learning_rate": 0.1, "max_depth": 3, "n_jobs": 1, **params}
    if name == "xgboost":
        model = module.XGBRegressor(objective=objective, **common).fit(x[:2000], label[:2000], sample_weight=weight)
        raw = model.predict(x[2000:])
    else:
        start = objective.init_score(label[:2000], weight)
        model = module.LGBMRegressor(verbose=-1, **common)
        raw = model.fit(x[:2000], label[:2000], sample_weight=weight, init_score=start).predict(x[2000:]) + start
    number, scale = objective.predict(raw).T
    assert (np.corrcoef(number, np.sin(2 * x[2000:, 0]))[0, 1], np.corrcoef(raw[:, 1], x[2000:, 1])[0, 1]) > (0.8, 0.8)
    np.testing.assert_allclose(scale, np.exp(raw[:, 1]), rtol=1e-6)
    best = np.tile(objective.base_score(label[:2000], weight), (2000, 1))
    metric = objective.metric
    assert metric(label[2000:], raw.astype(np.float32)) < metric(label[2000:], best.astype(np.float32)) - 0.1


@pytest.mark.parametrize("loss", PAIRS, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("hessian", ["auto", "exact", "ones"])
def test_two_outputs_are_weighted_once(loss: fl.Loss, hessian: Any) -> None:
    label, raw, weight = np.array([1.0, -1.0, 4.0]), np.array([[0.0, 0.5], [1.0, -1.0], [2.0, 0.0]]), [1.0, 2.0, 0.5]
    objective = Objective(loss, hessian=hessian)
    gradient, found = objective(label, np.asfortranarray(raw), weight)
    wrt = loss.twice_differentiable
    kind = "expected" if hessian == "auto" else "exact"
    want = type(loss)(reduction="sum").grad_and_hess(raw[:, 0], label, raw[:, 1], weight, wrt=wrt, hessian=kind)
    np.testing.assert_allclose(gradient, np.stack(want[0], 1), rtol=1e-6)
    expected = np.stack([weight, weight], 1) if hessian == "ones" else np.stack(want[1], 1)
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-6, atol=1e-15)


def test_starts_of_two_outputs() -> None:
    label, weight = np.array([1.0, 2.0, 2.0, 11.0]), np.array([2.0, 1.0, 0.0, 1.0])
    mean, variance = np.average(label, weights=weight), np.cov(label, aweights=weight, ddof=0)
    np.testing.assert_allclose(Objective(fl.GaussianNLLLoss()).base_score(label, weight), [mean, np.log(variance)])
    scaled = Objective(fl.GaussianNLLLoss("log_scale")).base_score(1e9 * label)
    np.testing.assert_allclose(scaled, [1e9 * label.mean(), np.log(1e9 * label.std())])
    np.testing.assert_allclose(Objective(fl.LaplaceNLLLoss()).base_score(label), [2, np.log(2.5)])
    student = fl.StudentTNLLLoss(reduction="sum")
    [pred, log] = np.asarray(Objective(fl.StudentTNLLLoss()).base_score(label, weight))
    slopes = student.grad(np.full(4, pred), label, np.full(4, log), weight, wrt=("pred", "log_scale"))
    assert max(abs(slope.sum()) for slope in slopes) < 1e-6
    assert Objective(fl.GaussianNLLLoss()).base_score([3.0, 3.0]) == [3, -36]


def test_results_are_float32_in_the_order_of_raw_predictions(rng: np.random.Generator) -> None:
    objective = Objective(fl.SoftmaxCELoss())
    label = rng.integers(0, 3, 50)
    for raw in (rng.normal(size=(50, 3)), np.asfortranarray(rng.normal(size=(50, 3)))):
        gradient, hessian = objective(label, raw)
        assert gradient.dtype == hessian.dtype == np.float32
        assert gradient.flags.f_contiguous == raw.flags.f_contiguous
        want = fl.SoftmaxCELoss(reduction="sum").grad_and_hess(raw, label)
        np.testing.assert_allclose(gradient, want[0], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(hessian, want[1] * 1.5, rtol=1e-6, atol=1e-7)
        assert objective(label, raw)[0] is gradient


@pytest.mark.parametrize("weight", [None, np.array([]), np.array([1.0, 2.0, 0.0, 0.5])])
@pytest.mark.parametrize("loss", [fl.L1Loss(), fl.HuberLoss(), fl.HingeLoss(), fl.SigmoidFocalLoss(), fl.TukeyLoss()])
@pytest.mark.parametrize("hessian", ["auto", "exact", "ones"])
def test_hessians_are_weighted_once_and_at_least_the_least(loss: fl.Loss, hessian: Any, weight: Any) -> None:
    label, raw = np.array([1.0, 1, 1, 1]), np.array([-1.0, 0.5, 3.0, 1.0])
    gradient, found = (a.copy() for a in Objective(loss, hessian=hessian, min_hessian=1e-3)(label, raw, weight))
    one, whole = (a.copy() for a in Objective(loss, hessian=hessian, min_hessian=1e-3)(label, raw))
    factor = np.ones(4) if weight is None or not len(weight) else weight
    np.testing.assert_allclose(gradient, one * factor, rtol=1e-6)
    assert (found >= np.float32(1e-3) * factor.astype(np.float32)).all()
    if hessian != "auto":
        np.testing.assert_allclose(found, whole * factor, rtol=1e-6)


def test_weights_of_0_alone_leave_hessians_of_0() -> None:
    found = Objective(fl.L1Loss())([1.0, 2.0], [0.0, 0.0], [0.0, 0.0])
    np.testing.assert_array_equal(found, 0)


def test_the_metric_of_several_quantiles() -> None:
    objective = Objective(fl.QuantileLoss(), quantile=[0.25, 0.75])
    raw, label = np.zeros((3, 2), np.float32), np.array([1.0, 2.0, 3.0])
    assert np.isclose(objective.metric(label, raw), (0.25 + 0.75) / 2 * 2)


def test_the_metric_as_catboost_asks() -> None:
    metric = Objective(fl.L2Loss()).metric
    total = metric.evaluate([[0.0, 1.0]], [1.0, 1.0], [3.0, 1.0])
    assert total == (1.5, 4.0)
    assert metric.get_final_error(*total) == 0.375
    assert metric.get_final_error(0.0, 0.0) == 0
    assert not metric.is_max_optimal()


def test_the_scale_of_hessians() -> None:
    raw, label = np.zeros(3, np.float32), np.ones(3)
    exact = Objective(fl.PoissonNLLLoss(), hessian_scale=1)(label, raw)[1].copy()
    np.testing.assert_allclose(Objective(fl.PoissonNLLLoss())(label, raw)[1], exact * np.exp(0.7), rtol=1e-6)
    np.testing.assert_allclose(Objective(fl.HuberLoss(), hessian_scale=3.0)(label, raw)[1], 3)


def test_starts() -> None:
    label = np.array([0.0, 1.0, 1.0, 1.0])
    objective = Objective(fl.SigmoidBCELoss())
    assert np.isclose(objective.base_score(label), np.log(3))
    assert np.isclose(objective.base_score(label, api="classifier"), 0.75)
    np.testing.assert_allclose(objective.init_score(label), np.full(4, np.log(3)))
    np.testing.assert_allclose(objective.init_score(label, n=2), np.full(2, np.log(3)))
    assert objective.base_score(np.ones(4)) == 36
    weighted = Objective(fl.SigmoidBCELoss(), pos_weight=1 / 3)
    assert np.isclose(weighted.base_score(label), 0, atol=1e-12)
    assert np.isclose(weighted.predict(0.0), 0.75)
    classes = Objective(fl.SoftmaxCELoss())
    np.testing.assert_allclose(classes.base_score(label), np.log([1 / 4, 3 / 4]) - np.log([1 / 4, 3 / 4]).mean())
    assert classes.init_score(label).shape == (4, 2)
    assert classes.params(label)["num_class"] == classes.params(label, library="lightgbm")["num_class"] == 2
    assert Objective(fl.L1Loss()).base_score([1e3, 2e3, 5e3]) == 2e3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Objective(fl.HuberLoss), TypeError, r"loss must be a loss of fastloss, such as HuberLoss\(\), got"),
        (lambda: Objective(fl.HuberLoss().grad_and_hess), TypeError, "loss must be a loss of fastloss"),
        (lambda: Objective(fl.HuberLoss(reduction="mean")), ValueError, "got reduction='mean': trees would have no"),
        (
            lambda: Objective(fl.ExponentialLoss(), hessian="majorizer"),
            ValueError,
            "must be one of 'auto', 'exact', 'ones'",
        ),
        (lambda: Objective(fl.TripletLoss()), ValueError, "a label and a Hessian for each example, got TripletLoss"),
        (lambda: Objective(fl.CTCLoss()), ValueError, "a label and a Hessian for each example, got CTCLoss"),
        (lambda: Objective(fl.AFTLoss()), ValueError, "a label and a Hessian for each example, got AFTLoss"),
        (lambda: Objective(fl.GaussianNLLLoss("variance")), ValueError, "take scale='log_variance'"),
        (
            lambda: Objective(fl.GaussianNLLLoss())([1.0], [0.0]),
            ValueError,
            r"two numbers for each example, .* \(1,\): give the library what objective.params\(label\) returns",
        ),
        (lambda: Objective(fl.HuberLoss(), min_hessian=-1), ValueError, "min_hessian must be at least 0"),
        (lambda: Objective(fl.HuberLoss(), hessian_scale=0), ValueError, "hessian_scale must be greater than 0"),
        (lambda: Objective(fl.SigmoidBCELoss())([-1.0, 1.0], [0.0, 0.0]), ValueError, "label must hold"),
        (lambda: Objective(fl.SigmoidBCELoss())([5.0, -3.0], [0.0, 1.0]), ValueError, "label must hold"),
        (lambda: Objective(fl.L2Loss()).base_score([1.0], api="sklearn"), ValueError, "api must be 'native' or"),
        (lambda: Objective(fl.L2Loss()).params([1.0], library="other"), ValueError, "library must be 'xgboost'"),
        (lambda: Objective(fl.L2Loss())([0.0], Foreign()), TypeError, "a DMatrix of XGBoost or a Dataset of LightGBM"),
    ],
)
def test_what_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


class Foreign:
    def get_label(self) -> Any:
        return np.zeros(1)


def test_an_objective_is_a_value() -> None:
    objective = Objective(fl.QuantileLoss(0.9), hessian="ones", min_hessian=0.5, num_threads=2, quantile=[0.1, 0.9])
    assert eval(repr(objective), vars(fl) | {"Objective": Objective}) == objective
    for again in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert again == objective
        assert hash(again) == hash(objective)
    assert objective != Objective(fl.QuantileLoss(0.9))
    assert objective != "Objective"


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_workers_of_dask(name: str) -> None:
    module, distributed, da = library(name), library("distributed"), library("dask.array")
    x, label, _ = data("logistic", 2000)
    objective = Objective(fl.SigmoidBCELoss())
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        parts = da.from_array(x, chunks=(1000, 10)), da.from_array(label, chunks=1000)
        if name == "xgboost":
            remote = library("xgboost.dask")
            matrix = remote.DaskDMatrix(client, *parts)
            params = {"tree_method": "hist", "max_depth": 3, "base_score": 0.0}
            model = remote.train(client, params, matrix, num_boost_round=10, obj=objective)["booster"]
            raw = model.predict(module.DMatrix(x))
        else:
            estimator = module.DaskLGBMRegressor(client=client, objective=objective, n_estimators=10, verbose=-1)
            raw = estimator.fit(*parts).to_local().predict(x)
    assert ((raw > 0) == label).mean() > 0.7

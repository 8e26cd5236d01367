"""Names of losses in other libraries, and the fastloss call that gives the same.

``fastloss.NAME`` with such a name raises an AttributeError that says the call. The documentation's page "Which loss is
that?" shows the same table. A call is an expression in the names of this package. An argument of the other library in
it, such as delta, stands for a number.
"""

from __future__ import annotations

from collections.abc import Iterator

MEAN = 'reduction="mean"'
NONE = 'reduction="none"'
LOGS = "of the logarithms of predictions"
BCE = f"SigmoidBCELoss({MEAN})"
# PyTorch's axis of classes, its ignored id, and the divisor of its mean
IDS = 'axis=1, ignore_index=-100, reduction="weighted_mean"'

# PyTorch's class and function of a loss -> the call, and a remark
OF_TORCH = {
    ("L1Loss", "l1_loss"): (f"L1Loss({MEAN})", ""),
    ("MSELoss", "mse_loss"): (f"L2Loss(weight=2, {MEAN})", ""),
    ("SmoothL1Loss", "smooth_l1_loss"): (f"HuberLoss(rho=beta, {MEAN})", ""),
    ("HuberLoss", "huber_loss"): (f"HuberLoss(rho=delta, weight=delta, {MEAN})", ""),
    ("BCELoss", "binary_cross_entropy"): (f"SigmoidBCELoss(from_sigmoid=True, {MEAN})", ""),
    ("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"): (BCE, "pos_weight in the call"),
    ("MultiLabelSoftMarginLoss", "multilabel_soft_margin_loss"): (BCE, ""),
    ("SoftMarginLoss", "soft_margin_loss"): (f"LogisticLoss({MEAN})", ""),
    ("MarginRankingLoss", "margin_ranking_loss"): (f"HingeLoss(margin=margin, {MEAN})", "of x1 - x2"),
    ("HingeEmbeddingLoss", "hinge_embedding_loss"): (f"HingeEmbeddingLoss({MEAN})", ""),
    ("PoissonNLLLoss", "poisson_nll_loss"): (f"PoissonNLLLoss({MEAN})", ""),
    ("GaussianNLLLoss", "gaussian_nll_loss"): (
        f'GaussianNLLLoss(scale="variance", compute_full=full, eps=eps, {MEAN})',
        "",
    ),
    ("KLDivLoss", "kl_div"): (f"KLDivLoss({MEAN})", ""),
    ("CrossEntropyLoss", "cross_entropy"): (f"SoftmaxCELoss({IDS})", "weight is class_weight"),
    ("NLLLoss", "nll_loss"): (f"SoftmaxCELoss(from_logits=True, {IDS})", ""),
    ("MultiMarginLoss", "multi_margin_loss"): (f"MultiMarginLoss(p=p, margin=margin, {MEAN})", ""),
    ("CosineEmbeddingLoss", "cosine_embedding_loss"): (f"CosineEmbeddingLoss({MEAN})", ""),
    ("CTCLoss", "ctc_loss"): ('CTCLoss(layout="TNC", blank="first", reduction="sum")', 'of reduction="sum"'),
}

# library -> its name for a loss -> the call, and a remark
CALLS: dict[str, dict[str, tuple[str, str]]] = {
    "PyTorch": {
        f"torch.nn.{name}": entry
        for (of_class, function), entry in OF_TORCH.items()
        for name in (of_class, f"functional.{function}")
    },
    "scikit-learn": {
        "sklearn.metrics.mean_squared_error": (f"L2Loss(weight=2, {MEAN})", ""),
        "sklearn.metrics.mean_absolute_error": (f"L1Loss({MEAN})", ""),
        "sklearn.metrics.mean_pinball_loss": (f"QuantileLoss(quantile=alpha, {MEAN})", ""),
        "sklearn.metrics.mean_squared_log_error": (f"MSLELoss(weight=2, {MEAN})", ""),
        "sklearn.metrics.log_loss": (f"SigmoidBCELoss(from_sigmoid=True, {MEAN})", "of two classes"),
        "sklearn.metrics.hinge_loss": (f"HingeLoss({MEAN})", "of labels -1 and +1"),
        "sklearn.metrics.mean_poisson_deviance": (f"TweedieLoss(power=1, deviance=True, weight=2, {MEAN})", LOGS),
        "sklearn.metrics.mean_gamma_deviance": (f"TweedieLoss(power=2, deviance=True, weight=2, {MEAN})", LOGS),
        "sklearn.metrics.mean_tweedie_deviance": (f"TweedieLoss(power=power, deviance=True, weight=2, {MEAN})", LOGS),
        'SGDRegressor(loss="squared_error")': (f"L2Loss({MEAN})", ""),
        'SGDRegressor(loss="huber")': (f"HuberLoss(rho=epsilon, weight=epsilon, {MEAN})", ""),
        'SGDRegressor(loss="epsilon_insensitive")': (f"EpsilonInsensitiveLoss(epsilon=epsilon, {MEAN})", ""),
        'SGDRegressor(loss="squared_epsilon_insensitive")': (
            f"SquaredEpsilonInsensitiveLoss(epsilon=epsilon, {MEAN})",
            "",
        ),
        'SGDClassifier(loss="hinge")': (f"HingeLoss({MEAN})", ""),
        'SGDClassifier(loss="squared_hinge")': (f"SquaredHingeLoss({MEAN})", ""),
        'SGDClassifier(loss="log_loss")': (f"LogisticLoss({MEAN})", ""),
        'SGDClassifier(loss="modified_huber")': (f"ModifiedHuberLoss({MEAN})", ""),
        'SGDClassifier(loss="perceptron")': (f"HingeLoss(margin=0, {MEAN})", ""),
        "sklearn._loss.HalfSquaredError": (f"L2Loss({NONE})", ""),
        "sklearn._loss.AbsoluteError": (f"L1Loss({NONE})", ""),
        "sklearn._loss.PinballLoss": (f"QuantileLoss(quantile=quantile, {NONE})", ""),
        "sklearn._loss.HalfPoissonLoss": (f"PoissonNLLLoss({NONE})", "except for terms in labels alone"),
        "sklearn._loss.HalfGammaLoss": (f"GammaLoss({NONE})", "except for terms in labels alone"),
        "sklearn._loss.HalfTweedieLoss": (f"TweedieLoss(power=power, {NONE})", "except for terms in labels alone"),
        "sklearn._loss.HalfBinomialLoss": (f"SigmoidBCELoss({NONE})", ""),
        "sklearn._loss.HalfMultinomialLoss": ("SoftmaxCELoss()", ""),
        "sklearn._loss.ExponentialLoss": (f'ExponentialLoss(label_format="binary", {NONE})', ""),
    },
    "optax": {
        "optax.l2_loss": (f"L2Loss({NONE})", ""),
        "optax.squared_error": (f"L2Loss(weight=2, {NONE})", ""),
        "optax.huber_loss": (f"HuberLoss(rho=delta, weight=delta, {NONE})", ""),
        "optax.log_cosh": (f"LogCoshLoss({NONE})", ""),
        "optax.hinge_loss": (f"HingeLoss({NONE})", ""),
        "optax.perceptron_loss": (f"HingeLoss(margin=0, {NONE})", ""),
        "optax.sigmoid_binary_cross_entropy": (f"SigmoidBCELoss({NONE})", ""),
        "optax.sigmoid_focal_loss": (f"SigmoidFocalLoss(alpha=alpha, gamma=gamma, {NONE})", "of labels 0 and 1"),
        "optax.losses.multiclass_hinge_loss": ("CrammerSingerLoss()", ""),
        "optax.poly_loss_cross_entropy": ("PolyCELoss(epsilon=epsilon)", "class ids for one-hot labels"),
        "optax.softmax_cross_entropy": ("SoftmaxCELoss(sparse_label=False)", ""),
        "optax.softmax_cross_entropy_with_integer_labels": ("SoftmaxCELoss()", ""),
    },
    "Keras": {
        "keras.losses.MeanSquaredError": (f"L2Loss(weight=2, {MEAN})", ""),
        "keras.losses.MeanAbsoluteError": (f"L1Loss({MEAN})", ""),
        "keras.losses.MeanSquaredLogarithmicError": (f"MSLELoss(weight=2, {MEAN})", ""),
        "keras.losses.Huber": (f"HuberLoss(rho=delta, weight=delta, {MEAN})", ""),
        "keras.losses.LogCosh": (f"LogCoshLoss({MEAN})", ""),
        "keras.losses.Hinge": (f"HingeLoss({MEAN})", "of labels -1 and +1"),
        "keras.losses.SquaredHinge": (f"SquaredHingeLoss({MEAN})", "of labels -1 and +1"),
        "keras.losses.BinaryCrossentropy": (f"SigmoidBCELoss(from_sigmoid=True, {MEAN})", "of from_logits=False"),
        "keras.losses.BinaryFocalCrossentropy": (
            f"SigmoidFocalLoss(alpha=None, gamma=gamma, {MEAN})",
            "of from_logits=True and labels 0 and 1",
        ),
        "keras.losses.CategoricalCrossentropy": (
            f"SoftmaxCELoss(sparse_label=False, {MEAN})",
            "of from_logits=True",
        ),
        "keras.losses.SparseCategoricalCrossentropy": (f"SoftmaxCELoss({MEAN})", "of from_logits=True"),
        "keras.losses.CategoricalFocalCrossentropy": (
            f"SoftmaxFocalLoss(gamma=gamma, weight=alpha, {MEAN})",
            "of from_logits=True, class ids for one-hot labels",
        ),
        "keras.losses.CategoricalGeneralizedCrossEntropy": (
            f"GeneralizedCELoss(q=q, {MEAN})",
            "logits for probabilities, class ids for one-hot labels",
        ),
        "keras.losses.Poisson": (f"PoissonNLLLoss(from_logits=False, {MEAN})", ""),
        "keras.losses.CTC": ('CTCLoss(blank="first")', ""),
    },
    "torchvision, timm": {
        "torchvision.ops.sigmoid_focal_loss": (f"SigmoidFocalLoss({NONE})", "of labels 0 and 1"),
        "timm.loss.AsymmetricLossMultiLabel": ('AsymmetricLoss(reduction="sum")', 'of reduction="sum"'),
    },
    "kornia, MONAI": {
        "kornia.losses.focal_loss": (
            'SoftmaxFocalLoss(gamma=gamma, axis=1, reduction="sum")',
            'of alpha=None and reduction="sum"',
        ),
        "monai.losses.FocalLoss": (
            'SoftmaxFocalLoss(gamma=gamma, axis=1, reduction="sum")',
            'of use_softmax=True, to_onehot_y=True and reduction="sum", without axes of space',
        ),
    },
    "XGBoost": {
        "reg:squarederror": ("L2Loss()", ""),
        "reg:absoluteerror": ("L1Loss()", ""),
        "reg:pseudohubererror": ("PseudoHuberLoss(delta=huber_slope)", ""),
        "reg:quantileerror": ("QuantileLoss(quantile=quantile_alpha)", ""),
        "reg:squaredlogerror": ("MSLELoss()", ""),
        "reg:logistic": ("SigmoidBCELoss()", ""),
        "binary:logistic": ("SigmoidBCELoss()", ""),
        "binary:hinge": ("HingeLoss()", "of labels -1 and +1"),
        "survival:aft": ("AFTLoss(distribution=distribution, scale=scale)", "XGBoost's default is normal"),
        "multi:softprob": ("SoftmaxCELoss()", "XGBoost doubles the Hessian"),
        "count:poisson": ("PoissonNLLLoss()", "XGBoost multiplies the Hessian by exp(max_delta_step)"),
        "reg:gamma": ("GammaLoss()", ""),
        "reg:tweedie": ("TweedieLoss(power=tweedie_variance_power)", ""),
    },
    "NGBoost": {
        "ngboost.distns.Normal": ('GaussianNLLLoss(scale="log_scale", compute_full=True)', ""),
        "ngboost.distns.Laplace": ("LaplaceNLLLoss(compute_full=True)", ""),
        "ngboost.distns.T": ("StudentTNLLLoss(df=3, compute_full=True)", ""),
    },
    "LightGBM": {
        "regression": ("L2Loss()", ""),
        "regression_l1": ("L1Loss()", ""),
        "huber": ("HuberLoss(rho=alpha, weight=alpha)", ""),
        "fair": ("FairLoss(c=fair_c)", ""),
        "quantile": ("QuantileLoss(quantile=alpha)", ""),
        "poisson": ("PoissonNLLLoss()", "LightGBM multiplies the Hessian by exp(poisson_max_delta_step)"),
        "gamma": ("GammaLoss()", ""),
        "tweedie": ("TweedieLoss(power=tweedie_variance_power)", ""),
        "binary": ("SigmoidBCELoss()", ""),
        "cross_entropy": ("SigmoidBCELoss()", ""),
        "multiclass": ("SoftmaxCELoss()", "LightGBM multiplies the Hessian by K/(K - 1)"),
    },
    "CatBoost": {
        "RMSE": ("L2Loss()", "CatBoost takes the root of the mean"),
        "MAE": ("L1Loss()", ""),
        "Quantile": ("QuantileLoss(quantile=alpha)", ""),
        "Expectile": ("ExpectileLoss(expectile=alpha)", ""),
        "LogCosh": ("LogCoshLoss()", ""),
        "Huber": ("HuberLoss(rho=delta, weight=delta)", ""),
        "MSLE": ("MSLELoss(weight=2)", ""),
        "Poisson": ("PoissonNLLLoss()", ""),
        "Tweedie": ("TweedieLoss(power=variance_power)", ""),
        "RMSEWithUncertainty": (
            'GaussianNLLLoss(scale="log_scale", compute_full=True)',
            "of raw predictions",
        ),
        "SurvivalAft": ("AFTLoss(distribution=dist, scale=scale)", "CatBoost's default is normal"),
        "Logloss": ("SigmoidBCELoss()", ""),
        "CrossEntropy": ("SigmoidBCELoss()", ""),
        "MultiClass": ("SoftmaxCELoss()", ""),
    },
}


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Library, its name, the call, and the remark of each entry."""
    for library, names in CALLS.items():
        for name, (call, remark) in names.items():
            yield library, name, call, remark


def call_for(name: str) -> str | None:
    """The call for another library's ``name``, with or without its module; None for an unknown name."""
    for _, known, call, remark in rows():
        if name.casefold() in (known.casefold(), known.rpartition(".")[2].casefold()):
            return f"{call}, {remark}" if remark else call
    return None


def no_such_name(module: str, name: str) -> AttributeError:
    """The exception for a name that a module lacks; if another library has the name, it says the call."""
    call = None if name.startswith("_") else call_for(name)
    hint = f"; use {module}.{call}" if call else ""
    return AttributeError(f"module {module!r} has no attribute {name!r}{hint}", name=name)

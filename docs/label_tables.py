"""Tables of what labels and predictions mean, made of the losses' domains."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import fastloss as fl

# arguments that change what an input means, with the other values that they take
SWITCHES = {"label_format": "binary", "from_sigmoid": True, "sparse_label": False, "from_logits": None}


def losses() -> list[type[fl.Loss]]:
    """The classes, family by family, in the order in which each defines them."""
    return list(dict.fromkeys(getattr(fl, name) for name in fl.losses.__all__ if name != "Loss"))


def forms(cls: type[fl.Loss]) -> Iterator[tuple[str, fl.Loss]]:
    """A loss with its defaults, and with each argument that changes a meaning."""
    yield "", cls()
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in SWITCHES:
            value = not parameter.default if SWITCHES[name] is None else SWITCHES[name]
            text = f'"{value}"' if isinstance(value, str) else value
            yield f"{name}={text}", cls(**{name: value})


def labels_of(loss: fl.Loss) -> str:
    """What the label holds, or what stands in its place."""
    if "label" in loss.inputs:
        return loss.domains["label"].text
    named: dict[str, list[str]] = {}
    for name in loss.inputs[1 : loss.required]:
        named.setdefault(loss.domains[name].text, []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in named.items())


def rows(cls: type[fl.Loss]) -> list[tuple[str, str, str]]:
    """How a loss is built, and what its label and its prediction hold then, where that is not as before."""
    found: dict[tuple[str, str], str] = {}
    for how, loss in forms(cls):
        found.setdefault((labels_of(loss), loss.domains[loss.inputs[0]].text), how)
    return [(how, label, pred) for (label, pred), how in found.items()]


def guide_table() -> str:
    """A row for each loss, and one for each argument that changes what its inputs mean, in Markdown."""
    lines = ["| loss | built with | label | prediction |", "|---|---|---|---|"]
    for cls in losses():
        for how, label, pred in rows(cls):
            name, argument = (f"`{cls.__name__}`", "") if not how else ("", f"`{how}`")
            lines.append(f"| {name} | {argument} | {label} | {pred} |")
    return "\n".join(lines)

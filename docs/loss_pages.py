"""A page for each loss, of its docstring and its curves, a page that lists them, and tables that the guide includes.

They are written before Sphinx reads.
"""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path
from typing import Any

import label_tables
import matplotlib as mpl
import name_tables
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from sphinx.application import Sphinx

import fastloss as fl
from fastloss import plot

# what guide/labels.md and guide/which.md include
LABELS = "losses/labels.inc"
NAMES = "losses/names.inc"
STYLES = {"light": "default", "dark": "dark_background"}

# a likelihood shows its minimum with such a label only
CURVES: dict[type[fl.Loss], dict[str, Any]] = {
    fl.L1Loss: {"label": 0},
    fl.L2Loss: {"label": 0},
    fl.HuberLoss: {"label": 0},
    fl.PoissonNLLLoss: {"label": 2},
    fl.KLDivLoss: {"label": 0.5, "pred": np.linspace(-5, 0, 501)},
}


def losses() -> dict[type[fl.Loss], list[str]]:
    """The classes, each with its other names."""
    found: dict[type[fl.Loss], list[str]] = {cls: [] for cls in label_tables.losses()}
    for name in fl.losses.__all__:
        if name not in ("Loss", getattr(fl, name).__name__):
            found[getattr(fl, name)].append(name)
    return found


def write(path: Path, text: str) -> None:
    """Leaves a file that would not change alone, for Sphinx reads again what is new."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def loss_page(cls: type[fl.Loss], aliases: list[str]) -> str:
    also = "".join(f"``{name}`` is another name of this class.\n\n" for name in aliases)
    return f"{heading(cls.__name__)}\n{also}.. autoclass:: fastloss.{cls.__name__}\n\n{meanings(cls)}"


def meanings(cls: type[fl.Loss]) -> str:
    """A table of what labels and predictions hold."""
    lines = [".. list-table:: What ``validate`` holds the inputs against", "   :header-rows: 1", ""]
    for row in [("built with", "label", "prediction"), *label_tables.rows(cls)]:
        how, *cells = row
        code = how if how == "built with" or not how else f"``{how}``"
        lines += [f"   * - {code}", *(f"     - {cell}" for cell in cells)]
    return "\n".join(lines) + "\n"


def index_page(classes: dict[type[fl.Loss], list[str]]) -> str:
    rows, entries = [], []
    for cls, aliases in classes.items():
        summary = inspect.cleandoc(cls.__doc__ or "").splitlines()[0]
        names = ", ".join([f":doc:`{cls.__name__}`", *(f"``{name}``" for name in aliases)])
        rows.append(f"{names}\n    {summary}\n")
        # the sidebar breaks long names
        entries.append(f"   {min([cls.__name__, *aliases], key=len)} <{cls.__name__}>\n")
    tree = f".. toctree::\n   :hidden:\n\n{''.join(entries)}"
    return "\n".join([heading("Losses"), tree, *rows])


def draw(cls: type[fl.Loss], folder: Path) -> None:
    for name, of in STYLES.items():
        with style.context(of), mpl.rc_context({"svg.hashsalt": "fastloss", "font.size": 11}):
            figure = Figure(figsize=(5.4, 3.4), layout="constrained")
            plot.curves(cls(), ax=figure.subplots(), **CURVES.get(cls, {"label": 1}))
            svg = io.StringIO()
            figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        write(folder / f"{cls.__name__}-{name}.svg", svg.getvalue())


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "losses"
    folder.mkdir(exist_ok=True)
    classes = losses()
    write(folder / "index.rst", index_page(classes))
    write(Path(app.srcdir) / LABELS, f"{label_tables.guide_table()}\n")
    write(Path(app.srcdir) / NAMES, name_tables.names_table())
    for cls, aliases in classes.items():
        write(folder / f"{cls.__name__}.rst", loss_page(cls, aliases))
        if cls().is_elementwise:
            draw(cls, folder)


def picture(cls: type[fl.Loss]) -> list[str]:
    """The curves twice, for the theme to show the one that fits its background."""
    lines = []
    for name in STYLES:
        lines += [
            f".. image:: {cls.__name__}-{name}.svg",
            f"   :class: only-{name}",
            f"   :alt: {cls.__name__}: value, gradient and Hessian against the prediction",
            "",
        ]
    return lines


def process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Puts the curves under the formula and sets off the paragraphs that start with what they are about."""
    if obj in losses():
        end = lines.index("Args:")
        if obj().is_elementwise:
            lines[end:end] = picture(obj)
    lines[:] = [re.sub(r"^(Call|Source):", r"**\1:**", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    # before napoleon's, which does away with the heading "Args:"
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

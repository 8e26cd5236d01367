"""A page for each loss, of its docstring and its picture, the gallery of all, the guide's tables and its pictures.

They are written before Sphinx reads.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import boosting_pictures
import drawings
import label_tables
import name_tables
import notebook
import pictures
from sphinx.application import Sphinx

import fastloss as fl

# what guide/labels.md, guide/which.md and howto/moving.md include
LABELS = "losses/labels.inc"
NAMES = "losses/names.inc"
SCALES = "losses/scales.inc"


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


def heading(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}\n"


def loss_page(cls: type[fl.Loss], aliases: list[str]) -> str:
    also = "".join(f"``{name}`` is another name of this class.\n\n" for name in aliases)
    return f"{heading(cls.__name__)}\n{also}.. autoclass:: fastloss.{cls.__name__}\n\n{meanings(cls)}"


def meanings(cls: type[fl.Loss]) -> str:
    """A table of what labels and predictions hold."""
    lines = [".. list-table:: What ``validate`` accepts", "   :header-rows: 1", ""]
    for row in [("built with", "label", "prediction"), *label_tables.rows(cls)]:
        how, *cells = row
        code = how if how == "built with" or not how else f"``{how}``"
        lines += [f"   * - {code}", *(f"     - {cell}" for cell in cells)]
    return "\n".join(lines) + "\n"


def card(cls: type[fl.Loss], aliases: list[str]) -> str:
    """A loss in the gallery: its picture, what it is, and the way to its page."""
    summary = inspect.cleandoc(cls.__doc__ or "").splitlines()[0]
    also = [f"      Also ``{name}``." for name in aliases]
    head = [f"   .. grid-item-card:: {cls.__name__}", f"      :link: {cls.__name__}", "      :link-type: doc", ""]
    return "\n".join([*head, *pictures.directives(cls, "      "), f"      {summary}", "", *also, ""])


def gallery(classes: dict[type[fl.Loss], list[str]]) -> str:
    """All losses as cards, a family a section."""
    # the sidebar breaks long names
    entries = [f"   {min([cls.__name__, *also], key=len)} <{cls.__name__}>" for cls, also in classes.items()]
    parts = [
        heading("Losses"),
        "What each family predicts, with a card for each loss.\n",
        ".. toctree::\n   :hidden:\n",
        *entries,
        "",
    ]
    family = ""
    for cls, aliases in classes.items():
        if cls.__module__ != family:
            family = cls.__module__
            title = inspect.cleandoc(sys.modules[family].__doc__ or "").splitlines()[0].rstrip(".")
            parts += [heading(title, "-"), ".. grid:: 1 2 3 3\n   :gutter: 3\n"]
        parts.append(card(cls, aliases))
    return "\n".join(parts)


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "losses"
    folder.mkdir(exist_ok=True)
    classes = losses()
    write(folder / "index.rst", gallery(classes))
    write(Path(app.srcdir) / LABELS, f"{label_tables.guide_table()}\n")
    write(Path(app.srcdir) / NAMES, name_tables.names_table())
    write(Path(app.srcdir) / SCALES, name_tables.scales_table())
    drawings.write_to(Path(app.srcdir), write)
    # as with the pictures of losses below
    if app.builder.format == "html" or not boosting_pictures.are_drawn(Path(app.srcdir)):
        boosting_pictures.write_to(Path(app.srcdir), write)
    notebook.write_to(Path(app.srcdir), write)
    for cls, aliases in classes.items():
        write(folder / f"{cls.__name__}.rst", loss_page(cls, aliases))
        # a builder that shows no pictures takes those that are there: to draw all is half of its time
        is_drawn = app.builder.format != "html" and all(
            path.exists() for path in pictures.files(folder, cls.__name__).values()
        )
        if pictures.what_shows(cls) and not is_drawn:
            pictures.write_to(folder, cls, write)


def process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Puts the picture under the formula and sets off the paragraphs that start with what they are about."""
    if obj in losses():
        end = lines.index("Args:")
        lines[end:end] = pictures.directives(obj)
    lines[:] = [re.sub(r"^(Call|Source):", r"**\1:**", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    # before napoleon's, which does away with the heading "Args:"
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

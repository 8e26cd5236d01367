"""The tutorial as a notebook, which opens without Sphinx: made of its page before Sphinx reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import v4

PAGE = "tutorial/losses.md"
NOTEBOOK = "made/losses.ipynb"
NEEDS = "This notebook needs fastloss with its extras `torch`, `jax` and `plot`."
CELL = re.compile(r"^```\{code-cell\}\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Text without what only the pages have: its download, and links to the others."""
    text = re.sub(r"^.*\{download\}.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", text).strip()


def notebook(page: str) -> nbformat.NotebookNode:
    """Cells of code, and of the text between them."""
    body = page.split("---\n", 2)[2]
    cells = []
    for i, part in enumerate(CELL.split(body)):
        if i % 2:
            cells.append(v4.new_code_cell(part, id=f"cell-{i}"))
        elif prose(part):
            cells.append(v4.new_markdown_cell(prose(part), id=f"cell-{i}"))
    cells.insert(1, v4.new_markdown_cell(NEEDS, id="needs"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.validate(made)
    return made


def write_to(source: Path, write: Callable[[Path, str], None]) -> None:
    page = (source / PAGE).read_text(encoding="utf-8")
    write(source / NOTEBOOK, nbformat.writes(notebook(page)) + "\n")

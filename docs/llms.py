"""llms.txt, beside the pages: what fastloss is, and each page with its first sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

FILE = "llms.txt"
# what a page begins with that is no sentence about it
ASIDE = (nodes.table, nodes.container, nodes.list_item, nodes.caption)


def words(node: nodes.Node) -> str:
    return " ".join(node.astext().split())


def is_aside(paragraph: nodes.paragraph) -> bool:
    node = paragraph.parent
    while node is not None and not isinstance(node, ASIDE):
        node = node.parent
    return node is not None


def summary(doctree: nodes.document) -> str:
    """The first paragraph of what a page describes, or else of the page."""
    described = next(doctree.findall(addnodes.desc_content), None)
    of_page = [p for p in doctree.findall(nodes.paragraph) if not is_aside(p) and words(p)]
    # a page of one class has no words before it but its other names
    of_class = [] if described is None else [p for p in of_page if p.parent is described]
    found = of_class if len(list(doctree.findall(nodes.section))) == 1 and of_class else of_page
    return words(found[0]) if found else ""


def sentence(text: str) -> str:
    """The first sentence of a text."""
    first = re.match(r".+?[.?!](?=\s|$)", text)
    return first[0] if first else re.sub(r":$", ".", text)


def line(env: BuildEnvironment, page: str) -> str:
    about = sentence(summary(env.get_doctree(page)))
    return f"- [{words(env.titles[page])}]({page}.html){about and f': {about}'}"


def entries(env: BuildEnvironment, page: str) -> Iterator[tuple[str, list[str]]]:
    """The captions of a page's tables of contents, and the pages of each."""
    for tree in env.get_doctree(page).findall(addnodes.toctree):
        yield tree["caption"] or "", tree["includefiles"]


def text(env: BuildEnvironment) -> str:
    root = env.config.root_doc
    parts = [f"# {words(env.titles[root])}", f"> {summary(env.get_doctree(root))}"]
    for caption, pages in entries(env, root):
        parts += [f"## {caption or 'Start'}", "\n".join(line(env, page) for page in pages)]
        for page in pages:
            for _, below in entries(env, page):
                parts += [f"## {words(env.titles[page])}", "\n".join(line(env, each) for each in below)]
    return "\n\n".join(parts) + "\n"


def write(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.format == "html":
        (Path(app.outdir) / FILE).write_text(text(app.env), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

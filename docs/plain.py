"""What the text builder needs: pictures by their words, and cards without the links that cover them."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx_design.shared import PassthroughTextElement


def instead(image: nodes.image) -> list[nodes.Node]:
    """The words of a picture; nothing for its copy on a dark ground."""
    text = image.get("alt")
    if not text or "only-dark" in image["classes"]:
        return []
    words = nodes.Text(f"[picture: {text}]")
    return [words if isinstance(image.parent, nodes.TextElement) else nodes.paragraph("", "", words)]


def in_words(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if app.builder.format != "text":
        return
    for image in list(doctree.findall(nodes.image)):
        image.parent.replace(image, instead(image))
    for part in list(doctree.findall(PassthroughTextElement)):
        is_title = part.parent.get("design_component") == "card-title"
        part.parent.replace(part, nodes.paragraph("", "", *part.children) if is_title else [])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", in_words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""What Sphinx needs to know: sphinx-build -W docs docs/_build/html; with -b text, pages of plain text."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

import fastloss

sys.path.insert(0, str(Path(__file__).parent))

project = "fastloss"
version = release = fastloss.__version__

extensions = [
    *("myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_design"),
    *("loss_pages", "llms", "mathml", "plain"),
]
# speed.md has no heading: times.md includes it; the notebook is made of a page
exclude_patterns = ["_build", "made", "speed.md"]

nb_execution_mode = "force"
nb_execution_raise_on_error = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 2

default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"

html_theme = "furo"
html_math_renderer = "mathml"
pygments_dark_style = "monokai"
html_title = f"fastloss {version}"
html_static_path = ["_static"]
html_css_files = ["fastloss.css"]
html_show_copyright = False
html_copy_source = False


def trim(app: Sphinx, doctree: nodes.document) -> None:
    """Doctest ends a block's output at an empty line, which readers do not need."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext()
        if block.rawsource == text:
            block.rawsource = text.rstrip()
            block[:] = [nodes.Text(block.rawsource)]


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", trim)

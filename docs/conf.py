"""The site: `make docs` builds it from the Markdown pages as they lie in the repository."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx

from l0rnn.version import __version__

ROOT = Path(__file__).parents[1]

project = "l0rnn"
release = version = __version__
copyright = "the l0rnn maintainers, Apache 2.0"  # noqa: A001 - Sphinx wants this name
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
root_doc = "docs/index"
include_patterns = ["docs/**", "recipes/*/README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = ["**/.*", "**/__pycache__", "docs/conf.py", "docs/_static"]
nitpicky = True
# types of other packages, whose pages are not here; a name of l0rnn that is in no page is an error
nitpick_ignore_regex = [(r"py:.*", r"(?!l0rnn\.).*"), (r"py:.*", r"l0rnn\.[a-z_]+\.[a-z_.]+\w*")]
suppress_warnings = ["myst.header"]  # a page may begin with the table that a script has written

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto", "code"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "l0rnn"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"

LINK = re.compile(r"(\]\()([^()\s:#]+)(#[^()\s]*)?(\))")
FENCE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", flags=re.DOTALL | re.MULTILINE)


def link_to_code(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to files that are no pages lead to pages made of them, as they do on a code host."""
    folder = (ROOT / page).parent
    if page == root_doc:
        readme = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Read on")[0]
        readme = LINK.sub(lambda found: f"{found[1]}../{found[2]}{found[3] or ''}{found[4]}", readme)
        source[0] = readme + "\n" + source[0]

    def leads(found: re.Match[str]) -> str:
        goal = (folder / found[2]).resolve()
        if not goal.is_relative_to(ROOT) or not goal.exists() or goal.suffix in (".png", ".svg"):
            return found[0]
        path = goal.relative_to(ROOT).as_posix()
        if path == "README.md":
            return f"{found[1]}{os.path.relpath(ROOT / 'docs' / 'index.md', folder)}{found[4]}"
        if path.removesuffix(".md") in app.env.found_docs:
            return found[0]
        return f"{found[1]}code:{path}{found[4]}"

    parts = FENCE.split(source[0])
    # a link may have code for its text, so only fenced blocks are left alone
    source[0] = "".join(part if part.startswith("```") else LINK.sub(leads, part) for part in parts)


def resolve_code(app: Sphinx, tree: nodes.document, page: str) -> None:
    """The pages of code, as seen from a page."""
    for reference in tree.findall(nodes.reference):
        path = reference.get("refuri", "")
        if path.startswith("code:"):
            wanted: set[str] = getattr(app.env, "code_pages", set())
            app.env.code_pages = wanted | {path[5:]}  # type: ignore[attr-defined]
            reference["refuri"] = app.builder.get_relative_uri(page, f"code/{path[5:]}")


def code_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page of each file or folder that some page links to, and one at the top that leads to the first page."""
    formatter = HtmlFormatter(linenos="inline", cssclass="highlight")
    for path in sorted(getattr(app.env, "code_pages", set())):
        goal = ROOT / path
        if goal.is_dir():
            names = sorted(found.name for found in goal.iterdir() if not found.name.startswith(("_", ".")))
            body = "<ul>" + "".join(f"<li><code>{html.escape(name)}</code></li>" for name in names) + "</ul>"
        else:
            try:
                lexer = get_lexer_for_filename(goal.name)
            except ClassNotFound:
                lexer = TextLexer()
            body = highlight(goal.read_text(encoding="utf-8"), lexer, formatter)
        yield f"code/{path}", {"title": path, "body": f"<h1>{html.escape(path)}</h1>{body}"}, "page.html"


def redirect(app: Sphinx, error: Exception | None) -> None:
    """The top of the site leads to its first page."""
    if error is None and app.builder.format == "html":
        text = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>l0rnn</title>\n'
        Path(app.outdir, "index.html").write_text(text + '<a href="docs/index.html">l0rnn</a>\n', encoding="utf-8")


def inline_math(writer: Any, node: nodes.math) -> None:
    """A formula in a line, as MathML, which browsers draw without a script."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(writer: Any, node: nodes.math_block) -> None:
    """A formula on a line of its own."""
    writer.body.append(f"<div class='formula'>{convert(node.astext(), display='block')}</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """What this file adds to Sphinx."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("source-read", link_to_code)
    app.connect("doctree-resolved", resolve_code)
    app.connect("html-collect-pages", code_pages)
    app.connect("build-finished", redirect)

"""One HTML page about a training or a comparison, with its figures inside, to be looked at and handed on."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l0rnn.extras import require
from l0rnn.foreign_text import printable

if TYPE_CHECKING:
    from l0rnn.bench.report import BenchReport
    from l0rnn.surgery.shrink import Surgery

MOST_POINTS = 200  # of a line; a training looks at its figures so often
_INK = "#010203"  # drawn in this, shown in the colour of the page's text
_STYLE = """
:root { --page: #fbfaf8; --text: #1d1d1f; --dim: #5c5c63; --line: #d9d7d2 }
@media (prefers-color-scheme: dark) { :root { --page: #16171a; --text: #ececee; --dim: #a9abb3; --line: #3b3e45 } }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif }
h1, h2 { line-height: 1.2 }
p, li { max-width: 75ch }
figure { margin: 0; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem }
svg, img { width: 100%; height: auto }
img { background: white }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { color: var(--dim); font-weight: 600 }
"""


@dataclass
class History:
    """Figures of a training, step by step.

    Attributes:
        rows: step → name → figure.

    Example:
        >>> history = History()
        >>> history.record(10, {"density": 0.9, "kept/encoder.l0": 30.0})
        >>> history.series("kept/")
        {'encoder.l0': ([10], [30.0])}
    """

    rows: dict[int, dict[str, float]] = field(default_factory=dict)

    def record(self, step: int, figures: Mapping[str, Any]) -> None:
        """Add figures of a step to those that are known of it."""
        self.rows.setdefault(step, {}).update({name: float(figure) for name, figure in figures.items()})

    def series(self, prefix: str) -> dict[str, tuple[list[int], list[float]]]:
        """Name without the prefix → steps and figures."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for step, figures in sorted(self.rows.items()):
            for name, figure in figures.items():
                if name.startswith(prefix):
                    steps, values = found.setdefault(name.removeprefix(prefix), ([], []))
                    steps.append(step)
                    values.append(figure)
        return found


def write_training_report(
    path: str | Path,
    history: History,
    *,
    title: str,
    surgery: Surgery | str,
    bench: BenchReport | str = "not measured",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page of a training.

    Args:
        path: of the file.
        history: figures of `Method.figures` by step, and such as ``valid/loss``, ``train/loss``.
        title: heading of the page.
        surgery: what `operate` did, or why the network was not shrunk.
        bench: latencies, or why there are none.
        facts: further lines of the table at the top.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> history = History({1: {"density": 1.0}, 2: {"density": 0.5}})
        >>> path = write_training_report(tempfile.mkdtemp() + "/a.html", history, title="A", surgery="still training")
        >>> "still training" in path.read_text(encoding="utf-8")
        True
    """
    last = history.rows[max(history.rows)] if history.rows else {}
    told = {"steps": max(history.rows, default=0), **dict(facts or {})}
    told |= {name: figure for name, figure in last.items() if "/" not in name}
    parts = [_section("In short", _table(["", ""], [[name, _number(value)] for name, value in told.items()]))]
    parts.append(_section("How it went", _figures(_panels(history))))
    if isinstance(surgery, str):
        parts.append(_section("The small network", f"<p>There is none: {escape(printable(surgery, 2000))}.</p>"))
    else:
        rows = [[axis, kept, full, f"{kept / full:.0%}"] for axis, (kept, full) in surgery.widths.items()]
        parts.append(_section("Units kept", _table(["axis", "kept", "of", "share"], rows)))
        whole = _table(["what", "why"], surgery.untouched.items()) if surgery.untouched else "<p>Nothing.</p>"
        parts.append(_section("What was not pruned, and why", whole))
        proof = (
            "<p>The small network was run beside the large one on the example inputs, with gates fixed. The outputs "
            f"differ by at most <b>{surgery.max_abs_difference:.1e}</b>.</p>"
        )
        parts.append(_section("The proof", proof))
    if isinstance(bench, str):
        parts.append(_section("Latency", f"<p>There is no table: {escape(printable(bench, 2000))}.</p>"))
    else:
        about = ", ".join(f"{key}: {value}" for key, value in bench.environment.items())
        best = bench.rows_table(row for row in bench.rows if row.is_best)
        parts.append(_section("Latency", f"{_tables(best)}<p>{escape(about)}</p>"))
    return _write(path, title, parts)


def write_page(path: str | Path, title: str, sections: Mapping[str, str | Path]) -> Path:
    r"""Write a page of any sections.

    Args:
        path: of the file.
        title: heading of the page.
        sections: heading → Markdown of which tables and paragraphs are shown, or the path of a PNG, which goes inside.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> table = "| run | loss |\n|---|---|\n| a | 1 |"
        >>> page = write_page(tempfile.mkdtemp() + "/a.html", "Two runs", {"All": table})
        >>> "<td>a</td>" in page.read_text(encoding="utf-8")
        True
    """
    parts = [
        _section(heading, _picture(content) if isinstance(content, Path) else _tables(content))
        for heading, content in sections.items()
    ]
    return _write(path, title, parts)


def _write(path: str | Path, title: str, parts: Iterable[str]) -> Path:
    """The page, moved to its place as a whole."""
    place = Path(path)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title>"
    body = f"<h1>{escape(title)}</h1>{''.join(parts)}"
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f"{place.name}.new")
    page = f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>\n'
    aside.write_text(page, encoding="utf-8")
    aside.replace(place)
    return place


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    def line(tag: str, cells: Iterable[Any]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(printable(str(cell), 1000))}</{tag}>' for cell in cells)}</tr>"

    titles = list(head)
    top = f"<thead>{line('th', titles)}</thead>" if any(titles) else ""
    return f'<div class="wide"><table>{top}<tbody>{"".join(line("td", row) for row in rows)}</tbody></table></div>'


def _tables(markdown: str) -> str:
    """Tables and paragraphs of Markdown as HTML."""
    found = []
    for block in re.split(r"\n\s*\n", markdown.strip()):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
            cells = [[cell.strip().replace("\\|", "|") for cell in row] for row in split]
            found.append(_table(cells[0], cells[2:]))
        else:
            found.append(f"<p>{escape(' '.join(lines)).replace('**', '')}</p>")
    return "".join(found)


def _picture(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{content}">'


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _panels(history: History) -> list[tuple[str, str, dict[str, tuple[list[Any], list[float]]]]]:
    """Title, name of the x axis, and lines of each figure that there is something for."""
    plain = {name: line for name, line in history.series("").items() if "/" not in name}
    kinds = ("train", "valid")
    named = {f"{kind} {name}": line for kind in kinds for name, line in history.series(f"{kind}/").items()}
    losses, perplexities = (
        {name: line for name, line in named.items() if name.endswith(end)} for end in ("loss", "perplexity")
    )
    density = dict(zip(*plain["density"], strict=True)) if "density" in plain else {}
    quality = {}
    for name, (steps, values) in history.series("valid/").items():
        known = [(step, max((s for s in density if s <= step), default=None)) for step in steps]
        points = [(density[s], value) for (_, s), value in zip(known, values, strict=True) if s is not None]
        if points:
            quality[f"valid {name}"] = tuple(map(list, zip(*points, strict=True)))
    if perplexities:  # beside them a loss, of which they are exp, would be a line at the bottom
        quality = {name: line for name, line in quality.items() if name in perplexities}
    return [
        ("units kept on each axis", "step", history.series("kept/")),
        ("density of the multiply-adds", "step", {"density": plain["density"]} if "density" in plain else {}),
        ("price", "step", {name: line for name, line in history.series("").items() if name.startswith("price")}),
        ("loss", "step", losses),
        ("perplexity", "step", perplexities),
        # a loss beside its perplexity, which is exp of it, would be a line at the bottom
        (
            "quality against cost",
            "density",
            {n: q for n, q in quality.items() if not perplexities or n in perplexities},
        ),
    ]


def _figures(panels: Iterable[tuple[str, str, dict[str, tuple[list[Any], list[float]]]]]) -> str:
    """The panels that have lines, as SVG in the colours of the page."""
    drawn = [panel for panel in panels if panel[2]]
    if not drawn:
        return "<p>No figure was recorded.</p>"
    try:
        require("matplotlib", "plot")
    except ModuleNotFoundError as error:
        return f"<p>Without figures, since {escape(str(error))}.</p>"
    import matplotlib
    from matplotlib.figure import Figure

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "legend.labelcolor")
    with matplotlib.rc_context({**dict.fromkeys(inks, _INK), "svg.fonttype": "none"}):
        return f"<figure>{''.join(_drawing(Figure, number, *panel) for number, panel in enumerate(drawn))}</figure>"


def _drawing(figure_class: Any, number: int, title: str, across: str, lines: Mapping[str, Any]) -> str:
    import matplotlib

    figure = figure_class(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, (x, y) in lines.items():
        axis.plot(x, y, label=name, marker="o" if len(x) < 20 else None, markersize=3)
    axis.set(title=title, xlabel=across)
    axis.patch.set_alpha(0)
    axis.grid(alpha=0.25)
    if title.startswith(("units", "density")):
        axis.set_ylim(bottom=0)
    if len(lines) > 1 or across == "density":
        axis.legend(fontsize=8, frameon=False)
    text = io.StringIO()
    # drawings on one page must not share the names of their parts
    with matplotlib.rc_context({"svg.hashsalt": f"{number}"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")

"""The model card: what a model is, what was measured of it, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l0rnn.export.config import Config
from l0rnn.export.directory import CARD

_FRONT_MATTER = """\
---
library_name: l0rnn
tags:
- pruning
- recurrent-neural-network
---
"""


def write_card(config: Config, directory: Path) -> None:
    """Write the ``README.md`` of a native export."""
    how = f"load_dense({directory_hint()})"
    if config.network != "LanguageModel":
        how = (
            f"load_dense({directory_hint()}, {config.network}(…))  # an instance of any size, whose layers are replaced"
        )
    text = f"""\
{_FRONT_MATTER}
# A shrunken {config.network}

Trained with a gate on every unit and cut by l0rnn {config.version} to the units that were left open. `config.json` has
the width of every layer, `model.safetensors` the weights. Nothing in this directory is unpickled or run.

```python
from l0rnn.export import load_dense

network = {how}
```

## Units

{table(("layer", "units"), config.widths)}
"""
    (directory / CARD).write_text(text + figures_section(config.figures), encoding="utf-8")


def directory_hint() -> str:
    """How a card names the directory that it lies in."""
    return '"path/to/this/directory"'


def figures_section(figures: Mapping[str, Any]) -> str:
    """The measured figures as a section, or nothing without any."""
    return f"\n## Measured\n\n{table(('figure', 'value'), figures)}\n" if figures else ""


def table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    """A Markdown table of two columns.

    Example:
        >>> print(table(("layer", "units"), {"encoder.l0": 1131}))
        | layer | units |
        |---|---|
        | encoder.l0 | 1,131 |
    """
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items())])


def _cell(value: Any) -> str:
    if type(value) is int:
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return " ".join(str(value).replace("|", "/").split())

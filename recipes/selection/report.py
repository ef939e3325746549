"""The table and the picture of all results, for README.md and docs/choose_a_method.md.

python -m recipes.selection.report [--results recipes/selection/results] [--figures valid|test]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l0rnn.compare.results import kept_name
from recipes.pages import replaced
from recipes.selection.run import HERE, TASKS, UNTUNED, plan_of

PAGES = (Path("docs/choose_a_method.md"), HERE / "README.md")
PICTURE = Path("docs/selection.png")
WAYS = {
    "l0_gates": "gates",
    "structured_magnitude": "structured magnitude",
    "brain_surgeon": "brain surgeon",
    "group_lasso": "group lasso",
    "random order": "random order",
    "random_units": "random units",
    "from scratch, widths of l0_gates": "widths of gates, from scratch",
    "from scratch, widths of structured_magnitude": "widths of magnitude, from scratch",
}
AGAINST = ("structured_magnitude", "from scratch, widths of l0_gates")
DENSITIES = (0.4, 0.2, 0.08)
Key = tuple[str, str, float, int]  # task, way, density, seed


def read(folder: Path, figure: str) -> dict[Key, float]:
    """The losses of all results in a folder."""
    found: dict[Key, float] = {}
    for task in TASKS:
        plan = plan_of(task)
        for run in plan.runs:
            way, _, density = run.name.rpartition(", ")
            path = folder / kept_name(plan, run)
            if path.is_file():
                result = json.loads(path.read_text(encoding="utf-8"))
                share = float(density.removesuffix(" %")) / 100 if way else 1.0
                found[task, way or run.name, share, run.seed] = result["quality" if figure == "valid" else "final"]
    return found


def ratios(losses: Mapping[Key, float], way: str, other: str) -> dict[tuple[str, float], list[float]]:
    """(task, density) → logarithm of the loss of a way over that of another, seed by seed, where both are there."""
    found: dict[tuple[str, float], list[float]] = {}
    for (task, name, density, seed), loss in losses.items():
        there = losses.get((task, other, 1.0 if other == "dense" else density, seed))
        if name == way and there is not None:
            found.setdefault((task, density), []).append(math.log(loss / there))
    return found


def summary(cells: Mapping[Any, list[float]], draws: int = 10_000) -> str:
    """Mean ratio over all cells, with an interval of 95 % from drawing cells and, within them, seeds again."""
    if not cells:
        return "–"
    groups = [np.asarray(values) for values in cells.values()]
    generator = np.random.default_rng(0)
    means = [
        np.mean([generator.choice(groups[place], len(groups[place])).mean() for place in drawn])
        for drawn in generator.integers(len(groups), size=(draws // 10, len(groups)))
    ]
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    return f"{math.exp(np.mean([group.mean() for group in groups])):.3f} [{low:.3f}, {high:.3f}]"


def table(losses: Mapping[Key, float]) -> str:
    """One row for each task and density: mean loss of each way, and its number of seeds where others have more."""
    ways = {name: title for name, title in WAYS.items() if any(key[1] == name for key in losses)}
    lines = ["| task | density | dense | " + " | ".join(ways.values()) + " | seeds |", "|---" * (4 + len(ways)) + "|"]
    for task in TASKS:
        for density in DENSITIES:
            cells = {way: _seeds(losses, task, way, density) for way in ways}
            if not any(cells.values()):
                continue
            dense = _seeds(losses, task, "dense", 1.0)
            most = max(map(len, cells.values()))
            best = min((_mean(seeds) for seeds in cells.values() if seeds), default=math.inf)
            row = [_cell(seeds, most, best) for seeds in cells.values()]
            name = f"*{task}*" if task in UNTUNED else task
            lines.append(f"| {name} | {density:.0%} | {_cell(dense, most, -1)} | {' | '.join(row)} | {most} |")
    return "\n".join(lines)


def _seeds(losses: Mapping[Key, float], task: str, way: str, density: float) -> list[float]:
    return [loss for key, loss in losses.items() if key[:3] == (task, way, density)]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _cell(values: list[float], most: int, best: float) -> str:
    if not values:
        return "–"
    text = f"{_mean(values):.4g}"
    text = f"**{text}**" if _mean(values) == best else text
    return text if len(values) >= most else f"{text} ({len(values)})"


def pooled(losses: Mapping[Key, float]) -> str:
    """How each way does against others, over all cells that both have."""
    titles = [f"over {WAYS[other]}" for other in AGAINST]
    lines = ["| way | " + " | ".join(titles) + " | over the dense network | cells |", "|---" * (3 + len(AGAINST)) + "|"]
    for way, title in WAYS.items():
        if not any(key[1] == way for key in losses):
            continue
        row = ["1" if way == other else summary(ratios(losses, way, other)) for other in AGAINST]
        whole = ratios(losses, way, "dense")
        lines.append(f"| {title} | {' | '.join(row)} | {summary(whole)} | {len(whole)} |")
    return "\n".join(lines)


def screening(path: Path) -> str:
    """The trainings by which settings were chosen: validation losses of one seed."""
    tried = json.loads(path.read_text(encoding="utf-8"))
    tasks = sorted({task for way in tried for task in way["valid"]})
    lines = ["| | " + " | ".join(tasks) + " |", "|---" * (1 + len(tasks)) + "|"]
    for way in tried:
        figures = [f"{way['valid'][task]:.4g}" if task in way["valid"] else "–" for task in tasks]
        lines.append(f"| {way['way']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def plot(losses: Mapping[Key, float], path: Path) -> None:
    """Loss of each way as a multiple of the dense network's, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(15, 7), sharex=True)
    for task, panel in zip(TASKS, axes.flat, strict=True):
        for way, title in WAYS.items():
            cells = {d: values for (t, d), values in ratios(losses, way, "dense").items() if t == task}
            if cells:
                shares = sorted(cells)
                panel.plot(shares, [math.exp(_mean(cells[share])) for share in shares], "o-", label=title, alpha=0.8)
        panel.set_title(f"{task}, never tuned on" if task in UNTUNED else task)
        panel.set_xscale("log")
        panel.set_xticks(sorted(DENSITIES), [f"{density:.0%}" for density in sorted(DENSITIES)])
        panel.minorticks_off()
        panel.axhline(1, color="grey", linewidth=0.8)
        panel.grid(alpha=0.3)
    axes[0, 0].set_ylabel("loss over the dense network's")
    axes[1, 0].set_ylabel("loss over the dense network's")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--figures", choices=("valid", "test"), default="test")
    parser.add_argument("--write", action="store_true", help="into the pages, and the picture")
    options = parser.parse_args()
    losses = read(options.results, options.figures)
    text = f"{pooled(losses)}\n\n{table(losses)}"
    print(text)
    if options.write:
        for page in PAGES:
            page.write_text(replaced(page.read_text(encoding="utf-8"), "selection", text), encoding="utf-8")
        readme, text = HERE / "README.md", screening(HERE / "screening.json")
        readme.write_text(replaced(readme.read_text(encoding="utf-8"), "screening", text), encoding="utf-8")
        plot(losses, PICTURE)


if __name__ == "__main__":
    main()

"""The tables of the study in Markdown, with the published figures beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recipes.reber import published

NO_RESULTS = "Nothing was trained for this table."
PARTS = {
    "bases": "part 1, bases",
    "pruned": "part 1, prunings",
    "structures": "part 2",
    "gated": "part 3, gates",
    "controls": "part 3, controls",
}


def tables(summary: Mapping[str, Any]) -> dict[str, str]:
    """Name of a mark → its table in Markdown."""
    return {
        "data": _data(summary),
        "kinds": _kinds(summary),
        "safe": _safe(summary),
        "accuracies": _accuracies(summary),
        "recovery": _recovery(summary),
        "structures": _structures(summary),
        "correlations": _correlations(summary),
        "regressions": _regressions(summary),
        "selection": _selection(summary),
        "gated": _gated(summary),
        "controls": _controls(summary),
        "comparison": _comparison(summary),
        "latency": _latency(summary),
        "conditions": _conditions(summary),
        "times": _times(summary),
    }


def _data(summary: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for row in summary["data"].values() for name in row))
    rows = [[name.replace("_", " "), *(row.get(name, 0) for row in summary["data"].values())] for name in names]
    return _table(["", *summary["data"]], rows)


def _kinds(summary: Mapping[str, Any]) -> str:
    """Accuracy of the networks that part 1 starts from, by the kind of string."""
    kinds = list(dict.fromkeys(kind for row in summary["bases"] for kind in row["by_kind"]))
    rows = []
    for name in dict.fromkeys(row["data"] for row in summary["bases"]):
        for kind in kinds:
            found = {row["cell"]: row["by_kind"].get(kind) for row in summary["bases"] if row["data"] == name}
            if any(value is not None for value in found.values()):
                told = {cell: f"{value:.3f}" for cell, value in found.items() if value is not None}
                rows.append([f"{name} strings", kind, *(told.get(cell, "failed") for cell in summary["cells"])])
    return _table(["", "kind", *summary["cells"]], rows)


def _safe(summary: Mapping[str, Any]) -> str:
    sets, kinds = (list(dict.fromkeys(row[key] for row in summary["safe"])) for key in ("data", "kind"))
    rows = []
    for kind in kinds:
        for name in sets:
            found = {
                row["cell"]: row["percentage"] for row in summary["safe"] if (row["data"], row["kind"]) == (name, kind)
            }
            rows.append([kind, f"{name} strings", *(found.get(cell, "") for cell in summary["cells"])])
        rows.append([kind, "published", *(published.SAFE_PERCENTAGES[kind][cell] for cell in summary["cells"])])
    return _table(["weights", "", *summary["cells"]], rows)


def _accuracies(summary: Mapping[str, Any]) -> str:
    if not summary["cells"]:
        return NO_RESULTS
    rows = []
    for name in dict.fromkeys(row["data"] for row in summary["bases"]):
        bases = {row["cell"]: f"{row['accuracy']:.3f}" for row in summary["bases"] if row["data"] == name}
        rows.append(["base", f"{name} strings", *(bases.get(cell, "failed") for cell in summary["cells"])])
    rows.append(["base", "published", *(f"{published.BASE_ACCURACY[cell]:.3f}" for cell in summary["cells"])])
    by_cut: dict[tuple[str, float], dict[str, dict[str, str]]] = {}
    for row in summary["pruned"]:
        cells = by_cut.setdefault((row["kind"], row["percentage"]), {}).setdefault(row["data"], {})
        cells[row["cell"]] = f"{row['right_after']:.3f} / {row['history'][0]:.3f}"
    for (kind, percentage), sets in by_cut.items():
        for name, cells in sets.items():
            title = f"{kind}, {percentage} %"
            rows.append([title, f"{name} strings", *(cells.get(cell, "") for cell in summary["cells"])])
        theirs = published.ACCURACIES.get((kind, int(percentage)))
        if theirs is not None:
            pairs = ("{:.3f} / {:.3f}".format(*theirs[cell]) for cell in summary["cells"])
            rows.append([f"{kind}, {percentage} %", "published", *pairs])
    return _table(["cut", "", *summary["cells"]], rows)


def _recovery(summary: Mapping[str, Any]) -> str:
    """Epochs until the accuracy of the base was back."""
    by_cut: dict[tuple[str, float, str], dict[str, str]] = {}
    for row in summary["pruned"]:
        epochs = row["recovered"]
        text = f"never in {len(row['history'])}" if epochs is None else str(epochs)
        by_cut.setdefault((row["kind"], row["percentage"], row["data"]), {})[row["cell"]] = text
    rows = [
        [kind, percentage, name, *(cells.get(cell, "") for cell in summary["cells"])]
        for (kind, percentage, name), cells in by_cut.items()
    ]
    return _table(["weights", "% cut", "strings", *summary["cells"]], rows)


def _structures(summary: Mapping[str, Any]) -> str:
    rows = []
    for kind, theirs in published.STRUCTURE_ACCURACY.items():
        for cell in summary["cells"]:
            own = [row["accuracy"] for row in summary["structures"] if (row["graph"], row["cell"]) == (kind, cell)]
            if own:
                figures = [f"{value:.3f}" for value in (statistics.mean(own), min(own), max(own))]
                rows.append([kind.replace("_", " "), cell, len(own), *figures, f"{theirs[cell]:.3f}"])
    return _table(["graph", "cell", "graphs", "mean", "worst", "best", "mean, published"], rows)


def _correlations(summary: Mapping[str, Any]) -> str:
    cells = [cell for cell in summary["cells"] if cell in summary["correlations"]]
    names = list(dict.fromkeys(name for cell in cells for name in summary["correlations"][cell]))
    rows = []
    for name in names:
        theirs = published.CORRELATIONS.get(name)
        pairs = []
        for cell in cells:
            value = summary["correlations"][cell][name]
            pairs += ["" if value is None else f"{value:.2f}", "" if theirs is None else f"{theirs[cell]:.2f}"]
        rows.append([name, *pairs])
    return _table(["property", *(title for cell in cells for title in (cell, "published"))], rows)


def _regressions(summary: Mapping[str, Any]) -> str:
    rows = []
    for cell, found in summary["regressions"].items():
        for name, scores in found.items():
            best = scores.get("most_important")
            told = "" if best is None else f"{best['property']} ({best['share']:.2f})"
            mean = f"{scores['mean']:.2f} ± {scores['std']:.2f}"
            split = "" if scores["one_split"] is None else f"{scores['one_split']:.2f}"
            rows.append([cell, name, mean, split, f"{published.R2[name][cell]:.2f}", told])
    head = ["cell", "regressor", "R², cross-validated", "R², one split", "R², published, one split", "most important"]
    return _table(head, rows)


def _selection(summary: Mapping[str, Any]) -> str:
    rows = []
    for cell, best in summary["chosen"].items():
        hidden = best["hidden"]
        rows.append(
            [
                cell,
                best["embedding"],
                ", ".join(map(str, hidden)),
                f"{sum(hidden) / len(hidden):.1f}",
                f"{best['multiply_adds']:,}",
                f"{best['parameters_without_embedding']:,}",
                f"{best['valid_accuracy']:.4f}",
                f"{best['test_accuracy']:.4f}",
                "yes" if best["valid_accuracy"] >= summary["enough"] else "no",
            ]
        )
    head = ["cell", "embedding", "hidden units by layer", "mean", "multiply-adds", "parameters without embedding"]
    return _table([*head, "validation accuracy", "test accuracy", f"≥ {summary['enough']}"], rows)


def _gated(summary: Mapping[str, Any]) -> str:
    """All trainings with gates: hidden units that are left, and the accuracy by which one was chosen."""
    budgets = list(dict.fromkeys(row["density"] for row in summary["gated"]))
    found: dict[tuple[str, int], dict[float, list[str]]] = {}
    for row in summary["gated"]:
        told = f"{', '.join(map(str, row['hidden']))}: {row['valid_accuracy']:.4f}"
        found.setdefault((row["cell"], row["layers"]), {}).setdefault(row["density"], []).append(told)
    rows = [[*key, *("<br>".join(told.get(budget, [])) for budget in budgets)] for key, told in found.items()]
    return _table(["cell", "layers", *(f"budget {budget}" for budget in budgets)], rows)


def _controls(summary: Mapping[str, Any]) -> str:
    by_size: dict[tuple[str, int, tuple[int, ...]], list[Mapping[str, Any]]] = {}
    for row in summary["controls"]:
        by_size.setdefault((row["cell"], row["embedding"], tuple(row["hidden"])), []).append(row)
    rows = []
    for (cell, embedding, hidden), runs in by_size.items():
        accuracies = [run["test_accuracy"] for run in runs]
        widths = ", ".join(map(str, hidden))
        enough = sum(run["valid_accuracy"] >= summary["enough"] for run in runs)
        figures = [f"{value:.4f}" for value in (statistics.mean(accuracies), max(accuracies))]
        rows.append([cell, embedding, widths, f"{runs[0]['multiply_adds']:,}", *figures, f"{enough} of {len(runs)}"])
    head = ["cell", "embedding", "hidden units by layer", "multiply-adds", "mean test accuracy", "best"]
    return _table([*head, f"≥ {summary['enough']} on validation"], rows)


def _comparison(summary: Mapping[str, Any]) -> str:
    """Recurrent weights that are left by the three ways of removing them, with the accuracy."""
    rows = []
    for cell in summary["cells"]:
        safe = {
            row["data"]: row["percentage"] for row in summary["safe"] if (row["cell"], row["kind"]) == (cell, "both")
        }
        for name, percentage in safe.items():
            for row in summary["pruned"]:
                if (row["data"], row["cell"], row["kind"]) == (name, cell, "both") and row["percentage"] == percentage:
                    told = [f"{row['kept']:,}", f"{row['right_after']:.4f}"]
                    rows.append([cell, f"pruned by the safe percentage, {percentage}", name, *told])
        structures = [row for row in summary["structures"] if row["cell"] == cell]
        if structures:
            good = [row for row in structures if row["accuracy"] >= summary["enough"]]
            best = (
                min(good, key=lambda row: row["recurrent_weights"])
                if good
                else max(structures, key=lambda row: row["accuracy"])
            )
            title = f"random structure, {best['properties']['nodes']} nodes"
            rows.append([cell, title, best["data"], f"{best['recurrent_weights']:,}", f"{best['accuracy']:.4f}"])
        if cell in summary["chosen"]:
            best = summary["chosen"][cell]
            widths = ", ".join(map(str, best["hidden"]))
            weights = best["multiply_adds"] - 2 * best["hidden"][-1]  # less the decoder, one weight for each class
            told = [f"{weights:,}", f"{best['test_accuracy']:.4f}"]
            rows.append([cell, f"selected units, {widths}", best["data"], *told])
    return _table(["cell", "what is left", "strings", "recurrent weights", "test accuracy"], rows)


def _latency(summary: Mapping[str, Any]) -> str:
    by_size: dict[tuple[str, int, int], dict[str, Mapping[str, Any]]] = {}
    for row in summary["latency"]:
        by_size.setdefault((row["cell"], row["batch"], row["steps"]), {})[row["network"]] = row
    rows = [
        [
            cell,
            f"{batch} × {steps}",
            *(f"{pair[name]['milliseconds']:.3f} ({pair[name]['runtime']})" for name in ("dense", "small")),
            f"{pair['small']['speedup']:.2f}",
        ]
        for (cell, batch, steps), pair in by_size.items()
    ]
    return _table(["cell", "strings × symbols", "dense, ms", "small, ms", "dense / small"], rows)


def _conditions(summary: Mapping[str, Any]) -> str:
    told = summary["conditions"]
    rows = [row for part in PARTS for row in summary[part]]
    hours = sum(row["seconds"] for row in rows) / told["processes"] / 3600
    missing = "" if told["jobs"] == told["of"] else f" of {told['of']}"
    text = (
        f"{told['jobs']}{missing} trainings, one thread each: "
        f"{told['cpu_seconds'] / 3600:.2f} hours of processor time, "
        f"{hours:.2f} hours with {told['processes']} at a time; torch {told['torch']}, {told['processor']}."
    )
    if summary["failed"]:
        text += f" Trainings that failed: {', '.join(summary['failed'])}."
    return text


def _times(summary: Mapping[str, Any]) -> str:
    """Minutes of processor time, by part and cell."""
    rows, cells = [], list(dict.fromkeys([*summary["cells"], *summary["chosen"]]))
    for part, title in PARTS.items():
        minutes = [sum(row["cpu_seconds"] for row in summary[part] if row["cell"] == cell) / 60 for cell in cells]
        rows.append([title, len(summary[part]), *(f"{value:.1f}" for value in (*minutes, sum(minutes)))])
    return _table(["", "trainings", *cells, "all"], rows)


def _table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    if not lines:
        return NO_RESULTS
    return "\n".join([f"| {' | '.join(map(str, head))} |", "|" + "---|" * len(head), *lines])

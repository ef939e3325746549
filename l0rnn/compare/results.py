"""Results of runs: in the folders of the runs, and as single files that outlive them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l0rnn.compare.engines.engine import RESULT
from l0rnn.compare.outcome import write_json
from l0rnn.compare.plan import Plan, Run, folder_name, slug


def kept_name(plan: Plan, run: Run) -> str:
    """Name of the file of a run's result; with the seed in it if the plan has several.

    Example:
        >>> kept_name(Plan({}, [Run("L0, 30 %", 1, {})], name="large"), Run("L0, 30 %", 1, {}))
        'large_l0-30.json'
    """
    several = len({run.seed for run in plan.runs}) > 1
    return f"{plan.name}_{slug(run.name)}{f'-seed{run.seed}' if several else ''}.json"


def keep_result(plan: Plan, run: Run, result: Mapping[str, Any], kept: Path) -> None:
    """Write the result of a run to the folder of results, without the way to the folder of the runs."""
    result = {**result, "model": str(Path(*Path(result["model"]).parts[-3:]))}
    write_json(result, kept / kept_name(plan, run))


def run_folder(plan: Plan, run: Run, earlier: Mapping[str, Mapping[str, Any]], out: Path) -> Path:
    """Folder of a run, which is another one for another configuration."""
    return out / "runs" / folder_name(run, {}, plan.key(run, earlier))


def results_so_far(plan: Plan, out: Path, kept: Path | None = None) -> dict[tuple[str, int], dict[str, Any]]:
    """(name, seed) → result of the runs that are finished, in the order of the plan.

    Args:
        plan: the comparison.
        out: folder of the runs.
        kept: folder of results without their runs; one counts if it is of the same configuration.
    """
    results: dict[tuple[str, int], dict[str, Any]] = {}
    for run in plan.runs:
        earlier = {name: result for (name, seed), result in results.items() if seed == run.seed}
        if run.needs() <= {name for name, result in earlier.items() if "error" not in result}:
            result = _result(plan, run, earlier, out, kept)
            if result is not None:
                results[run.name, run.seed] = result
    return results


def _result(
    plan: Plan, run: Run, earlier: Mapping[str, Mapping[str, Any]], out: Path, kept: Path | None
) -> dict[str, Any] | None:
    folder = run_folder(plan, run, earlier, out)
    if (folder / RESULT).is_file():
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    elif kept is not None and (kept / kept_name(plan, run)).is_file():
        result = json.loads((kept / kept_name(plan, run)).read_text(encoding="utf-8"))
        if result.get("configuration") != plan.key(run, earlier):
            return None
    else:
        return None
    model = folder / Path(result.get("model", "none")).name
    if model.exists():  # the folder may have been moved since
        result["model"] = str(model)
    return result


def missing_models(run: Run, earlier: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The runs to whose model a run refers and whose model is not on this machine."""
    return [name for name in sorted(run.needs("model")) if not Path(earlier[name]["model"]).exists()]


def results_table(plan: Plan, results: Mapping[tuple[str, int], Mapping[str, Any]], *, whole: int | None = None) -> str:
    """All results so far in Markdown, with the share of the multiply-adds that is kept.

    Args:
        plan: the runs.
        results: run and seed → what is known of it.
        whole: multiply-adds that the share is of; those of the first run if None.

    Example:
        >>> print(results_table(Plan({}, [Run("dense", 1, {})]), {}).splitlines()[-1])
        | dense |  |  |  |  |  |  |  |  |  |
    """
    titles = ["run", plan.quality, plan.final, "units kept", "parameters", "without embedding", "multiply-adds"]
    lines = [table_row([*titles, "kept", "training, min", "device"]), "|---" * 10 + "|"]
    whole = whole or results.get((plan.runs[0].name, plan.runs[0].seed), {}).get("multiply_adds")
    several = len({run.seed for run in plan.runs}) > 1
    for run in plan.runs:
        title, result = run.title if several else run.name, results.get((run.name, run.seed))
        if result is None:
            lines.append(table_row([title, *[""] * 9]))
        elif "error" in result:
            lines.append(table_row([title, f"failed: {str(result['error']).replace('|', '/')}", *[""] * 8]))
        else:
            figures = [figure(result["quality"]), figure(result["final"]), units_kept(result)]
            sizes = [f"{result[key]:,}" for key in ("parameters", "parameters_without_embedding", "multiply_adds")]
            minutes = f"{result['training_seconds']['wall'] / 60:.1f}"
            kept = "" if whole is None else f"{result['multiply_adds'] / whole:.1%}"
            lines.append(table_row([title, *figures, *sizes, kept, minutes, str(result.get("device", ""))]))
    return "\n".join(lines)


def figure(value: float | None) -> str:
    """A figure as tables show it.

    Example:
        >>> figure(114.256), figure(0.05234), figure(None)
        ('114.26', '0.0523', '')
    """
    if value is None or value != value:
        return ""
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def units_kept(result: Mapping[str, Any]) -> str:
    """Widths that are left, in the order of the layers, such as ``130, 301, 332``."""
    return ", ".join(str(width) for width in result["widths"].values())


def table_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"

"""Write the table of the networks that were trained to the end into the page of results and the README of the recipe.

python -m recipes.penn_treebank.summary_page
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l0rnn.bench.report import BenchReport
from l0rnn.compare.results import table_row, units_kept
from recipes.pages import replaced
from recipes.penn_treebank.performance_page import RESULTS

FRONT_PAGE = Path(__file__).parents[2] / "docs" / "results.md"
RECIPE = Path(__file__).with_name("README.md")
SIZES = ((1, 1), (1, 35), (10, 30))  # batch, steps; on one thread


@dataclass(frozen=True)
class Entry:
    """A trained network.

    Attributes:
        name: what the table calls it.
        result: its file in the folder of results.
        latency: file of a benchmark of its widths, and their name in it.
        before: file of the training that it went on from, if it did.
        on_front: whether the front page shows it too.
    """

    name: str
    result: str
    latency: tuple[str, str]
    before: str | None = None
    on_front: bool = True


SELECTED, SCRATCH = "large_plan_l0-6-m-weights", "large_plan_small-dense-of-l0-s-widths-dropout-0-4"
LOCKED, AVERAGED = "large_plan_l0-tied-locked", "locked_search_averaged-less-dropout"
BRIEF = "large_plan_small-dense-of-the-locked-run-s-widths-20-epochs"
TAUGHT = "fine_tune_search_"
SELECTED_WIDTHS, LOCKED_WIDTHS = ("bench_trained", "130-301-332"), ("bench_locked", "277-253-277")
TIED_WIDTHS = ("bench_cpu_tied_avx2", "195-212-195")
MIDDLE_WIDTHS, SMALL_WIDTHS = ("bench_cpu_avx2", "387-232-176"), ("bench_cpu_avx2", "252-141-82")
STUDIES = (  # each against its first network
    (
        Entry("**2 × 1500, dense**", "large_plan_dense", ("bench_locked", "1500-1500-1500")),
        Entry("selection, tied and locked", LOCKED, LOCKED_WIDTHS),
        Entry("selection, tied and locked, averaged", AVERAGED, LOCKED_WIDTHS, before=LOCKED),
        Entry("its widths from scratch, in 20 epochs", BRIEF, LOCKED_WIDTHS, on_front=False),
        Entry("selection", SELECTED, SELECTED_WIDTHS),
        Entry("its widths from scratch", SCRATCH, SELECTED_WIDTHS),
        Entry("selection, taught", f"{TAUGHT}taught-by-two-noise-less-dropout", SELECTED_WIDTHS, before=SELECTED),
        Entry(
            "its widths from scratch, taught",
            f"{TAUGHT}small-dense-taught-by-two-noise-less-dropout",
            SELECTED_WIDTHS,
            before=SCRATCH,
        ),
    ),
    (
        Entry("**2 × 400, dense**", "cpu_plan_dense", ("bench_cpu_avx2", "400-400-400")),
        Entry("selection, tied, taught", "cpu_tied_plan_l0-distilled", TIED_WIDTHS, before="cpu_tied_plan_l0"),
        Entry(
            "its widths from scratch, tied, taught",
            "cpu_tied_plan_small-dense-distilled",
            TIED_WIDTHS,
            before="cpu_tied_plan_small-dense",
        ),
        Entry("selection, tied", "cpu_tied_plan_l0", TIED_WIDTHS, on_front=False),
        Entry("its widths from scratch, tied", "cpu_tied_plan_small-dense", TIED_WIDTHS, on_front=False),
        Entry("selection, 40 %", "cpu_plan_l0-40", MIDDLE_WIDTHS),
        Entry("its widths from scratch", "cpu_plan_small-dense-of-l0-s-widths-40", MIDDLE_WIDTHS),
        Entry("selection, 17 %", "cpu_plan_l0-17", SMALL_WIDTHS),
        Entry("its widths from scratch", "cpu_plan_small-dense-of-l0-s-widths-17", SMALL_WIDTHS),
        Entry("structured magnitude, 17 %", "cpu_plan_structured-magnitude-17", ("bench_cpu_avx2", "222-207-68")),
        Entry("group lasso (ISS), 17 %", "cpu_plan_group-lasso-iss-17", ("bench_cpu_iss_avx2", "400-111-82")),
    ),
)


def main() -> None:
    """Fill both pages."""
    for page, table in ((FRONT_PAGE, front_table()), (RECIPE, whole_table())):
        page.write_text(replaced(page.read_text(encoding="utf-8"), "summary", table), encoding="utf-8")
        print(f"written: {page}")


def front_table() -> str:
    """What a user asks for: quality, size and speed."""
    lines = _head(["language model", "test perplexity", "weights", "multiply-adds a word", *_speedup_titles()])
    for entry, result, share in _results():
        if entry.on_front:
            weights = f"{result['parameters'] / 1e6:.1f} M"
            lines.append(table_row([entry.name, f"{result['final']:.1f}", weights, f"{share:.1%}", *_speedups(entry)]))
    return "\n".join(lines)


def whole_table() -> str:
    """The same and more, of all networks."""
    titles = ["network", "valid", "test", "units kept", "weights", "without embedding", "multiply-adds", "kept"]
    lines = _head([*titles, *_speedup_titles(), "epochs", "training, wall clock"])
    for entry, result, share in _results():
        sizes = [f"{result[key]:,}" for key in ("parameters", "parameters_without_embedding", "multiply_adds")]
        quality = [f"{result[key]:.2f}" for key in ("quality", "final")]
        trained = [*([] if entry.before is None else [_read(entry.before)]), result]
        training = [" + ".join(cells) for cells in zip(*map(_training, trained), strict=True)]
        kept = [units_kept(result), *sizes, f"{share:.1%}"]
        lines.append(table_row([entry.name, *quality, *kept, *_speedups(entry), *training]))
    return "\n".join(lines)


def _results() -> list[tuple[Entry, dict[str, Any], float]]:
    """Each network, its result, and its share of the multiply-adds of the study's first."""
    found = []
    for study in STUDIES:
        results = [_read(entry.result) for entry in study]
        whole = results[0]["multiply_adds"]
        found += [
            (entry, result, result["multiply_adds"] / whole) for entry, result in zip(study, results, strict=True)
        ]
    return found


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _training(result: Mapping[str, Any]) -> tuple[str, str]:
    """Epochs, and how long on what; an NVIDIA H100 is called an H100."""
    device = result["device"].split()[1] if "NVIDIA" in result["device"] else "CPU"
    return str(result["epochs"]), f"{result['training_seconds']['wall'] / 60:.0f} min {device}"


def _speedups(entry: Entry) -> list[str]:
    file, network = entry.latency
    report = BenchReport.from_json((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
    return [f"{report.speedup(network, *size):.1f}×" for size in SIZES]


def _speedup_titles() -> list[str]:
    return [f"faster, {batch} × {steps}" for batch, steps in SIZES]


def _head(titles: Sequence[str]) -> list[str]:
    return [table_row(titles), "|---" * len(titles) + "|"]


if __name__ == "__main__":
    main()

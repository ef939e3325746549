"""Time every finished run in each form that it can be deployed in, all in one benchmark."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from l0rnn.bench import benchmark
from l0rnn.bench.report import BenchReport
from l0rnn.compare.configured_run import build
from l0rnn.compare.plan import Plan
from l0rnn.export import load_dense
from l0rnn.sparse import NothingSparseError, sparse_form, stored_bytes


def deployed_forms(result: Mapping[str, Any], template: nn.Module, inputs: Any) -> dict[str, nn.Module]:
    """Form → network for inference: dense, and where there are zeros in the weights CSR and BSR.

    Args:
        result: what a run wrote.
        template: a network of the run's class, of any size.
        inputs: example inputs, on which each form is compared with the dense one.
    """
    network = load_dense(result["model"], template)
    forms = {"dense": network}
    layouts: dict[str, dict[str, Any]] = {"CSR": {"layout": "csr"}} if result["has_zeros"] else {}
    if result["has_zeros"] and result["block"]:
        layouts[f"BSR {result['block']}"] = {"layout": "bsr", "block": result["block"]}
    for form, options in layouts.items():
        with suppress(NothingSparseError):
            forms[form] = sparse_form(network, example_inputs=inputs, **options)
    return forms


def measure(
    plan: Plan, results: Mapping[tuple[str, int], Mapping[str, Any]], *, seconds: float = 0.5
) -> tuple[BenchReport, dict[str, dict[str, int]]]:
    """Latency of all forms of all finished runs, of the first seed, and their bytes.

    Args:
        plan: the comparison.
        results: (name, seed) → result of a run.
        seconds: time spent on each form × size × runtime.

    Returns:
        The benchmark, whose networks are named ``run · form``, and run → form → bytes of its weights as stored.

    Raises:
        ValueError: if no run is finished.
    """
    # in the order of the plan: the first is what all others are compared with, whichever ended first
    runs = [run for run in plan.runs if run.seed == plan.runs[0].seed]
    found = {run.name: results[run.name, run.seed] for run in runs if (run.name, run.seed) in results}
    finished = {name: result for name, result in found.items() if "error" not in result}
    if not finished:
        raise ValueError("`results` must hold at least one run that did not fail")
    with tempfile.TemporaryDirectory() as folder:
        model, _, _ = build(plan.base, Path(folder))
    networks: dict[str, nn.Module] = {}
    sizes: dict[str, dict[str, int]] = {}
    for name, result in finished.items():
        forms = deployed_forms(result, model.network, model.example_input_array)
        sizes[name] = {form: stored_bytes(network) for form, network in forms.items()}
        networks |= {f"{name} · {form}": network for form, network in forms.items()}
    report = benchmark(networks, model.inputs_of_size, grid=plan.grid, threads=[plan.threads], seconds=seconds)
    return report, sizes

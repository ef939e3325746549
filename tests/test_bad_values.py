"""Every public callable is called with one bad value at a time: it has to name the argument, the rule and the value.

The table gives for each callable one call that is right. The arguments to spoil, and what they take, are read from its
signature. A value that is accepted has to stand in `MEANT`, where it makes sense, or be of a type that the annotation
takes with any value.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

import l0rnn
from l0rnn import Budget, L0Gates, PrunableModule, Prune, Pruner, RaggedRNN, explain, shrink
from l0rnn.bench import benchmark, measure_roofline, parameter_bytes, sample_seconds, work_of
from l0rnn.compare import (
    Comparison,
    Plan,
    load_task,
    paired_difference,
    read_plan,
    run_all,
    write_comparison,
)
from l0rnn.cost import Penalty
from l0rnn.export import (
    OnnxNetwork,
    TorchStreamer,
    export_executorch,
    export_int8,
    export_onnx,
    export_program,
    export_torch,
    export_web,
    load_dense,
    open_streamer,
    perplexity,
    read_config,
    read_json,
    read_vocabulary,
    save_dense,
    text_columns,
    words_demo,
    write_web,
)
from l0rnn.gates import GatedGRU, GatedLSTM, GatedRNN, Gates, HardConcrete, gate_layer
from l0rnn.language import LanguageModel
from l0rnn.methods import (
    BlockGroupLasso,
    BlockPruning,
    BrainSurgeon,
    GradualMagnitude,
    GroupLasso,
    RandomOrder,
    RandomStructure,
    RandomUnits,
    StructuredMagnitude,
)
from l0rnn.models import L0GatedGRU, L0GatedLSTM, generate, load_model
from l0rnn.sparse import BSRMatrix, CSRMatrix, density_of, sparse_form, stored_bytes
from l0rnn.surgery import operate
from l0rnn.tracing import rule, trace
from l0rnn.training import AverageLate, PruneCallback, RemoveClosedUnits, ScaleDropout, WriteReport, shrink_series

NAN, INF = math.nan, math.inf
BAD: tuple[Any, ...] = (
    None, "23", "", b"23", NAN, INF, -INF, -1, 0, -0.5, 2.5, True, [], {}, (), ["x"], {"x": "y"}, object(), Budget, len,
)  # fmt: skip


VOCABULARY = [*map(str, range(19)), "<eos>"]


def words(*size: int) -> torch.Tensor:
    return torch.randint(20, size)


def model() -> LanguageModel:
    return LanguageModel(20, 4, 4, num_layers=1).eval()


def features() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def streamer() -> TorchStreamer:
    return TorchStreamer(model())


X = torch.randn(3, 4)
STACK = {"input_size": 4, "hidden_size": 5, "num_layers": 2, "bias": True, "batch_first": False, "dropout": 0.1}
STACK |= {"bidirectional": False, "device": "cpu", "dtype": torch.float32, "gates": "both", "open_probability": 0.9}
MODEL = {"vocabulary_size": 20, "hidden_size": 4, "num_layers": 1, "embedding_size": 4, "dropout": 0.1}
GOOD: dict[Callable[..., Any], Callable[[Path], dict[str, Any]]] = {
    Pruner: lambda _: {"network": features(), "method": L0Gates(Budget(density=0.5)), "example_inputs": X, "steps": 9},
    PrunableModule: lambda _: {
        "network": features(),
        "loss": lambda network, batch: network(batch).sum(),
        "method": L0Gates(Budget(density=0.5)),
        "example_inputs": X,
    },
    Prune: lambda _: {"method": L0Gates(Budget(density=0.5)), "example_inputs": X},
    shrink_series: lambda _: {
        "network": features(),
        "densities": [0.5],
        "example_inputs": X,
        "tune": lambda network, density: None,
    },
    RaggedRNN: lambda _: {"mode": "LSTM", "input_size": 4, "hidden_sizes": [[5], [3]], "proj_sizes": [[2], [2]]},
    Budget: lambda _: {"density": 0.5},
    Penalty: lambda _: {"weight": 0.5},
    HardConcrete: lambda _: {},
    Gates: lambda _: {"units": 3},
    GatedLSTM: lambda _: {**STACK, "proj_size": 0},
    GatedGRU: lambda _: dict(STACK),
    GatedRNN: lambda _: {**STACK, "nonlinearity": "tanh"},
    gate_layer: lambda _: {"dense": nn.LSTM(4, 5)},
    GatedLSTM.from_dense: lambda _: {"dense": nn.LSTM(4, 5)},
    L0Gates: lambda _: {"objective": Budget(density=0.5)},
    GroupLasso: lambda _: {"weight": 0.1},
    StructuredMagnitude: lambda _: {"density": 0.5},
    RandomUnits: lambda _: {"density": 0.5},
    RandomOrder: lambda _: {"density": 0.5},
    BrainSurgeon: lambda _: {"density": 0.5},
    RandomStructure: lambda _: {"density": 0.5},
    GradualMagnitude: lambda _: {"density": 0.5},
    BlockPruning: lambda _: {"density": 0.5},
    BlockGroupLasso: lambda _: {"weight": 0.1, "density": 0.5},
    LanguageModel: lambda _: dict(MODEL),
    L0GatedLSTM: lambda _: {**MODEL, "objective": Budget(density=0.5)},
    L0GatedGRU: lambda _: {**MODEL, "objective": Budget(density=0.5)},
    generate: lambda _: {"streamer": streamer(), "words": 2},
    load_model: lambda folder: {"checkpoint": folder / "none.ckpt"},
    explain: lambda _: {"network": features(), "example_inputs": X},
    trace: lambda _: {"network": features(), "example_inputs": X},
    rule: lambda _: {},
    shrink: lambda _: {"model": features(), "gates": {"0": torch.ones(8)}, "example_inputs": X},
    operate: lambda _: {"model": features(), "gates": {"0": torch.ones(8)}, "example_inputs": X},
    PruneCallback: lambda _: {"method": L0Gates(Budget(density=0.5)), "example_inputs": X},
    AverageLate: lambda _: {},
    RemoveClosedUnits: lambda _: {},
    ScaleDropout: lambda _: {"final": 0.1},
    WriteReport: lambda _: {},
    benchmark: lambda _: {
        "networks": {"a": features()},
        "make_inputs": lambda batch, steps: (torch.randn(batch, 4),),
        "grid": [(1, 1)],
        "seconds": 0.001,
        "rounds": 1,
    },
    measure_roofline: lambda _: {"threads": 1, "arrays": (2**18,), "seconds": 0.001},
    parameter_bytes: lambda _: {"network": features()},
    sample_seconds: lambda _: {"call": lambda: None, "threads": 1, "seconds": 0.001},
    work_of: lambda _: {"network": features(), "arguments": (X,)},
    read_plan: lambda folder: {"path": folder / "none.yaml"},
    run_all: lambda folder: {"plan": Plan({}, []), "out": folder / "out"},
    load_task: lambda folder: {"path": folder / "none.py"},
    paired_difference: lambda _: {"ours": [1.0, 2.0], "theirs": [2.0, 1.0]},
    write_comparison: lambda folder: {"comparison": Comparison([], "", "", "", {}), "out": folder / "out"},
    TorchStreamer: lambda _: {"network": model()},
    OnnxNetwork: lambda folder: {"directory": folder},
    open_streamer: lambda folder: {"directory": folder},
    read_config: lambda folder: {"directory": folder},
    read_json: lambda folder: {"path": folder / "none.json"},
    read_vocabulary: lambda folder: {"directory": folder},
    load_dense: lambda folder: {"directory": folder},
    save_dense: lambda folder: {"network": model(), "directory": folder / "out"},
    export_torch: lambda folder: {"network": model(), "directory": folder / "out"},
    export_onnx: lambda folder: {"network": model(), "directory": folder / "out"},
    export_int8: lambda folder: {"network": model(), "directory": folder / "out"},
    export_program: lambda folder: {"network": model(), "directory": folder / "out"},
    export_executorch: lambda folder: {"network": model(), "directory": folder / "out"},
    export_web: lambda folder: {"network": model(), "directory": folder / "out"},
    words_demo: lambda _: {"networks": {"a": model()}, "vocabulary": VOCABULARY},
    write_web: lambda folder: {"demos": [], "directory": folder / "out"},
    perplexity: lambda _: {"streamer": streamer(), "tokens": words(5, 2)},
    text_columns: lambda _: {"vocabulary": VOCABULARY, "text": "1 2\n" * 30},
    CSRMatrix: lambda _: {"weight": torch.eye(4)},
    BSRMatrix: lambda _: {"weight": torch.eye(4), "block": 2},
    density_of: lambda _: {"network": features(), "example_inputs": X},
    sparse_form: lambda _: {"network": features(), "layout": "csr", "example_inputs": X},
    stored_bytes: lambda _: {"network": features()},
}


WITHOUT = {  # public names that take nothing, or that the library makes and a user reads
    "Dense", "Method", "models", "load", "GatedRecurrence", "Objective", "Streamer", "ShippedModel",
    "NothingSparseError",
    "Axis", "Units", "Weight", "Size", "Work", "Roofline", "Comparison", "Difference", "Plan", "Run", "Task",
    "Int8Report", "SparseReport", "WebDemo", "WebModel", "SparseLinear", "SparseRNN",
    "checked_vocabulary", "task_plan",
}  # fmt: skip

# argument → values of `BAD` that mean something there; "name.argument" for one callable alone
MEANT: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("fixed", "tied", "prompt", "other_inputs", "extra"), ([], ())),
    **dict.fromkeys(("start", "ramp", "dropout", "weight_dropout", "word_dropout", "flat_epochs", "least"), (0,)),
    **dict.fromkeys(("final", "seed"), (0,)),
    **dict.fromkeys(("stiffness", "spread", "group_lasso", "weight_decay", "init_range", "temperature"), (0, 2.5)),
    **dict.fromkeys(("gate_learning_rate", "rate", "weight", "beta", "zeta", "ramp_slope", "learning_rate"), (2.5,)),
    **dict.fromkeys(("decay", "seconds"), (2.5,)),
    **dict.fromkeys(("loss", "optimizer", "scheduler", "make_inputs", "call"), (Budget, len)),  # they can be called
    **dict.fromkeys(("directory", "path", "task"), ("23", "")),  # paths: said by errors of files
    "tolerance": (0, 2.5),
    "gamma": (-1, -0.5),
    **{f"{call}.open_probability": (0,) for call in ("Gates", "GatedLSTM", "GatedGRU", "GatedRNN")},
    **{f"{call}.open_probability": (0,) for call in ("gate_layer", "from_dense")},
    "proj_size": (0,),
    "gates": ({},),  # of a method without gates
    "GroupLasso.threshold": (0, 2.5),
    "BrainSurgeon.decay": (0,),
    "damping": (2.5,),
    "checkpoint": ("23", ""),
    "whole": ({}, {"x": "y"}),
    "operation": ("23", "", Budget, len),
    # held against the network later
    **{f"{call}.{name}": ([], (), ["x"]) for call in ("Prune", "PruneCallback") for name in ("fixed", "tied")},
    "Prune.network": ("23", ""),
    "shrink_series.batches": ([], (), ["x"]),
    **dict.fromkeys(("monitor", "trainer", "name", "title", "about", "words_demo.text"), ("23", "")),
    "text_columns.text": ("23",),
    "work_of.arguments": ((),),  # the network says what it misses
    "only": ([],),
    "run_all.extra": ([], (), ["x"]),
    "runs": ({},),
    "TorchStreamer.vocabulary": ((),),
    **{f"{call}.threads": (0,) for call in ("OnnxNetwork", "open_streamer")},
    "size": (-1, 0),
    "WriteReport.seconds": (0, 2.5),
    "text_columns.vocabulary": ([], (), ["x"]),
    "figures": ({}, {"x": "y"}),
}


def is_meant(call: Callable[..., Any], argument: str, hint: Any, value: Any) -> bool:
    if value is None or value is True:
        wanted = NoneType if value is None else bool
        return hint is Any or wanted in (hint, *getattr(hint, "__args__", ()))
    meant = MEANT.get(f"{call.__name__}.{argument}", MEANT.get(argument, ()))
    return any(type(value) is type(known) and value == known for known in meant)


@pytest.mark.parametrize("call", GOOD, ids=lambda call: call.__qualname__)
def test_a_bad_value_is_named_with_its_argument(call: Callable[..., Any], tmp_path: Path) -> None:
    hints = get_type_hints(call.__init__ if inspect.isclass(call) else call)
    named = [
        p.name for p in inspect.signature(call).parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if call is export_executorch:
        pytest.importorskip("executorch")
    wrong = []
    for argument in named:
        for number, value in enumerate(BAD):
            if hints[argument] is Any or is_meant(call, argument, hints[argument], value):
                continue
            folder = tmp_path / f"{argument}{number}"
            folder.mkdir()
            try:
                call(**{**GOOD[call](folder), argument: value})
                wrong.append(f"{argument}={value!r} is accepted")
            except (TypeError, ValueError) as error:
                if argument not in str(error):
                    wrong.append(f"{argument}={value!r}: {type(error).__name__}: {error}")
            except Exception as error:
                wrong.append(f"{argument}={value!r}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_public_callable_is_in_the_table() -> None:
    packages = ["l0rnn", *(found.name for found in pkgutil.iter_modules(l0rnn.__path__, "l0rnn.") if found.ispkg)]
    names = {
        name
        for package in map(importlib.import_module, packages)
        for name in package.__all__
        if callable(getattr(package, name)) and not inspect.ismodule(getattr(package, name))
    }
    assert names - {call.__name__ for call in GOOD} == WITHOUT

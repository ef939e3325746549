"""What a command or an import costs before it does anything: nothing heavy is loaded until it is used."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "lightning", "einops", "onnx", "onnxruntime", "jsonargparse", "matplotlib")


def loaded_by(code: str) -> set[str]:
    """The heavy packages that are loaded after a program has run in an interpreter of its own."""
    ending = "\nimport sys; print('loaded:', *[name for name in sys.modules if name in sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", code + ending, *HEAVY, "torch.onnx", "torch.distributed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import l0rnn; l0rnn.__version__, l0rnn.__all__, dir(l0rnn)") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["export", "--help"], ["compare", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
from l0rnn.cli import main
try:
    main({arguments})
except SystemExit as end:
    assert end.code == 0
"""
    assert loaded_by(code) == set()


def test_pruning_in_a_loop_of_ones_own_loads_no_lightning_and_no_exporter() -> None:
    loaded = loaded_by("from l0rnn import Budget, L0Gates, Pruner, explain, shrink")
    assert "torch" in loaded
    assert loaded.isdisjoint({"lightning", "torch.onnx", "onnx", "jsonargparse", "matplotlib"})


@pytest.mark.parametrize("package", ["l0rnn", "l0rnn.training", "l0rnn.models"])
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert len(module.__all__) >= 5
    for name in module.__all__:
        if name == "PruneCallback" and importlib.util.find_spec("accelerate") is None:
            continue  # it needs transformers' Trainer
        assert hasattr(module, name), name
    assert set(module.__all__) <= set(dir(module))


def test_a_name_that_is_not_there_is_an_error() -> None:
    import l0rnn

    with pytest.raises(AttributeError, match="Prunner"):
        _ = l0rnn.Prunner  # type: ignore[attr-defined]

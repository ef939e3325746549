"""Exports run in processes of their own, in environments where l0rnn cannot be imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from l0rnn.export import export_int8, export_onnx, export_torch
from l0rnn.export.interface import flat
from tests.export.environment import ON_LINUX, make_environment, run_script
from tests.export.models import language_model

pytestmark = pytest.mark.skipif(not ON_LINUX, reason="links packages as a virtual environment on Linux has them")

ABSENT = """
import importlib.util, sys
for name in {absent!r}:
    assert importlib.util.find_spec(name) is None, f"{{name}} can be imported from {{sys.path}}"
"""
# both scripts: inputs, states and what is expected of them are arrays in expected.npz, or tensors in expected.pt
IN_ONNX_RUNTIME = """
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime
directory = Path(sys.argv[1])
interface = json.loads((directory / "config.json").read_text())["interface"]
session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
names = [state["input"] for state in interface["states"]]
expected = np.load(sys.argv[2])
worst = 0.0
for size in expected["sizes"]:
    case = "x".join(map(str, size))
    tokens, output = expected[f"{case}.tokens"], expected[f"{case}.output"]
    start = [expected[f"{case}.start.{index}"] for index in range(len(names))]
    final = [expected[f"{case}.final.{index}"] for index in range(len(names))]
    whole = session.run(None, {"tokens": tokens, **dict(zip(names, start))})
    steps, states = [], start
    for token in tokens:
        logits, *states = session.run(None, {"tokens": token[None], **dict(zip(names, states))})
        steps.append(logits[0])
    pairs = [*zip(whole, [output, *final]), *zip([np.stack(steps), *states], [output, *final])]
    worst = max([worst, *(abs(a - b).max() for a, b in pairs)])
print(worst)
"""
IN_TORCH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from model import load
network = load()
worst = 0.0
with torch.no_grad():
    for case in torch.load(sys.argv[2], weights_only=True):
        output, final = network(case["tokens"], tuple(case["start"]))
        steps, state = [], tuple(case["start"])
        for token in case["tokens"]:
            logits, state = network.step(token, state)
            steps.append(logits)
        wanted = [case["output"], *case["final"]]
        pairs = [*zip([output, *final], wanted), *zip([torch.stack(steps), *state], wanted)]
        worst = max([worst, *((a - b).abs().max().item() for a, b in pairs)])
print(worst)
"""
SIZES = [(1, 1), (3, 11), (5, 2)]  # (batch, time)


def cases(network: torch.nn.Module) -> list[dict[str, torch.Tensor | list[torch.Tensor]]]:
    """Tokens, a random state, and what the network makes of them."""
    found = []
    for batch, time in SIZES:
        tokens = torch.randint(11, (time, batch))
        with torch.no_grad():
            _, state = network(torch.randint(11, (4, batch)))
            output, final = network(tokens, state)
        found.append({"tokens": tokens, "start": flat(state), "output": output, "final": flat(final)})
    return found


def save_arrays(found: list[dict[str, torch.Tensor | list[torch.Tensor]]], path: Path) -> None:
    arrays: dict[str, np.ndarray] = {"sizes": np.array(SIZES)}
    for size, case in zip(SIZES, found, strict=True):
        for name, value in case.items():
            if isinstance(value, torch.Tensor):
                arrays[f"{size[0]}x{size[1]}.{name}"] = value.numpy()
            else:
                arrays |= {f"{size[0]}x{size[1]}.{name}.{index}": part.numpy() for index, part in enumerate(value)}
    np.savez(path, **arrays)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def with_onnx_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    return make_environment(tmp_path_factory.mktemp("environment"), "onnxruntime")


@pytest.fixture(scope="module")
def with_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment"), "torch")


@pytest.mark.parametrize(("mode", "sizes"), [("LSTM", [5, 3]), ("GRU", [6, 6])])
def test_onnx_runtime_alone(mode: str, sizes: list[int], with_onnx_runtime: Path, tmp_path: Path) -> None:
    network = language_model(mode, sizes)
    export_onnx(network, tmp_path / "model")
    save_arrays(cases(network), tmp_path / "expected.npz")
    script = ABSENT.format(absent=("l0rnn", "torch", "lightning", "safetensors", "onnx")) + IN_ONNX_RUNTIME
    worst = run_script(with_onnx_runtime, script, str(tmp_path / "model"), str(tmp_path / "expected.npz"))
    assert float(worst) <= 1e-4


def test_int8_in_onnx_runtime_alone(with_onnx_runtime: Path, tmp_path: Path) -> None:
    network = language_model("LSTM", [40, 24])
    export_int8(network, tmp_path / "model")
    save_arrays(cases(network), tmp_path / "expected.npz")
    script = ABSENT.format(absent=("l0rnn", "torch")) + IN_ONNX_RUNTIME
    worst = run_script(with_onnx_runtime, script, str(tmp_path / "model"), str(tmp_path / "expected.npz"))
    with torch.no_grad():
        largest = network(torch.randint(11, (9, 9)))[0].abs().max().item()
    assert float(worst) < 0.1 * largest


@pytest.mark.parametrize(("mode", "sizes"), [("LSTM", [5, 3]), ("LSTM", [6, 6]), ("GRU", [4, 7])])
def test_torch_alone(mode: str, sizes: list[int], with_torch: Path, tmp_path: Path) -> None:
    network = language_model(mode, sizes)
    export_torch(network, tmp_path / "model")
    torch.save(cases(network), tmp_path / "expected.pt")
    absent = ("l0rnn", "lightning", "safetensors", "onnxruntime", "einops")
    script = ABSENT.format(absent=absent) + IN_TORCH
    worst = run_script(with_torch, script, str(tmp_path / "model"), str(tmp_path / "expected.pt"))
    assert float(worst) <= 1e-4

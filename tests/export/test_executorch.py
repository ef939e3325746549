"""One step in ExecuTorch's runtime; the extra is large, so this runs only where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("executorch", reason="pip install 'l0rnn[executorch]'")

from l0rnn.export import export_executorch
from l0rnn.export.executorch_file import ExecutorchStreamer
from l0rnn.export.streaming import TorchStreamer
from tests.export.models import language_model

# executorch 1.5 and the torchao that it brings warn of themselves when they are imported
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("mode", "sizes"), [("LSTM", [5, 3]), ("GRU", [6, 6])])
def test_a_stream_of_single_steps(mode: str, sizes: list[int], tmp_path: Path) -> None:
    network = language_model(mode, sizes)
    directory = export_executorch(network, tmp_path / "model")
    streamer = ExecutorchStreamer(directory / "model.pte", TorchStreamer(network).interface)
    tokens = torch.randint(11, (9, 1))
    with torch.no_grad():
        whole, _ = network(tokens)
    state = None
    for time, token in enumerate(tokens):
        logits, state = streamer.step(token, state)
        torch.testing.assert_close(logits, whole[time], atol=1e-5, rtol=0)


def test_a_network_that_reads_backwards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must take and return a state and read forwards"):
        export_executorch(nn.GRU(3, 4, bidirectional=True), tmp_path / "model")

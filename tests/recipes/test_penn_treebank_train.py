"""The recipe from configuration to result, on a small text; every committed configuration can be built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn.export import load_dense
from recipes.penn_treebank import demo, train
from recipes.penn_treebank.data import PennTreebank

CONFIGS = sorted(
    path
    for path in Path(train.__file__).parent.joinpath("configs").rglob("*.yaml")
    if "\nruns:" not in path.read_text()  # a comparison, which is of other configurations
)
TINY = [
    "--model.init_args.hidden_size=12",
    "--model.init_args.vocabulary_size=VOCABULARY",
    "--model.init_args.method.init_args.objective.init_args.density=0.5",
    "--data.init_args.batch_size=2",
    "--data.init_args.steps=4",
    "--data.init_args.evaluation_batch_size=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
]

pytestmark = [
    # Lightning 2.6 calls jsonargparse in a way that the latter has deprecated
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture
def arguments(small_treebank: Path) -> list[str]:
    words = PennTreebank(small_treebank, 2, steps=4).vocabulary_size
    return [argument.replace("VOCABULARY", str(words)) for argument in TINY]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_builds(config: Path, tmp_path: Path, small_treebank: Path) -> None:
    model, data, trainer = train.build(config, tmp_path, data_dir=small_treebank)
    assert model.hparams["vocabulary_size"] == 10_000
    assert trainer.max_epochs
    assert trainer.gradient_clip_val
    assert isinstance(data, PennTreebank)


def test_the_four_sizes_are_there() -> None:
    assert {"demo", "small", "medium", "large"} <= {path.stem for path in CONFIGS}


def test_train_writes_what_it_promises_and_goes_on_where_it_was(
    tmp_path: Path, small_treebank: Path, arguments: list[str]
) -> None:
    config = Path(train.__file__).parent / "configs" / "demo.yaml"
    short = [argument for argument in arguments if not argument.startswith("--data.init_args.train_tokens")]
    short += ["--data.init_args.train_tokens=null"]
    result = train.run(config, tmp_path / "out", data_dir=small_treebank, extra=short)
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == json.loads(json.dumps(result))
    assert result["max_abs_difference"] < 1e-5
    assert result["shrunk"]["multiply_adds"] <= 0.5 * result["trained"]["multiply_adds"]
    assert result["shrunk"]["valid_perplexity"] == pytest.approx(result["trained"]["valid_perplexity"], rel=1e-4)
    small = load_dense(tmp_path / "out" / "shrunk")
    assert sum(p.numel() for p in small.parameters()) == result["shrunk"]["parameters"]
    logs = {path.name.split(".")[0] for path in (tmp_path / "out" / "logs").rglob("*") if path.is_file()}
    assert "metrics" in logs, "CSV log"
    assert "events" in logs, "TensorBoard log"
    again = train.run(config, tmp_path / "out", data_dir=small_treebank, extra=short)
    assert again["shrunk"] == result["shrunk"], "a finished run is not trained again"


def test_demo_result_has_the_promised_form(
    tmp_path: Path, small_treebank: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    extra = [*arguments, "--data.init_args.train_tokens=null"]
    monkeypatch.setattr("sys.argv", ["demo", "--data-dir", str(small_treebank), "--out", str(out), *extra])
    monkeypatch.setattr(demo, "SECONDS", 0.05)
    demo.main()
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    figures = {"valid_perplexity", "test_perplexity", "parameters", "multiply_adds", "latency_ms"}
    for column in ("dense", "gated", "shrunk"):
        assert figures <= result[column].keys()
        assert all(result[column][name] > 0 for name in figures)
    assert result["max_abs_difference"] < 1e-5
    assert result["shrunk"]["multiply_adds"] < result["gated"]["multiply_adds"] == result["dense"]["multiply_adds"]
    assert "| validation perplexity |" in (out / "report.md").read_text()
    assert (out / "report.png").stat().st_size > 10_000
    assert load_dense(out / "gated" / "shrunk") is not None


def test_perplexity_carries_the_state_over_segments(small_treebank: Path) -> None:
    from l0rnn.language.language_model import LanguageModel

    torch.manual_seed(0)
    data = PennTreebank(small_treebank, 2, steps=4, evaluation_batch_size=1)
    data.setup("validate")
    network = LanguageModel(data.vocabulary_size, 5, 6).eval()
    tokens = torch.cat([inputs for inputs, _ in data.val_dataloader()])
    targets = torch.cat([targets for _, targets in data.val_dataloader()])
    with torch.no_grad():
        whole = torch.nn.functional.cross_entropy(network(tokens)[0].flatten(0, 1), targets.flatten()).exp()
    assert train.perplexity(network, data.val_dataloader()) == pytest.approx(whole.item(), rel=1e-4)

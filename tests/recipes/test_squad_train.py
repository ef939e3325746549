"""BiDAF from training to an answer, on small hand-made articles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from recipes.squad import ask, latency
from recipes.squad.averaging import AverageWeights, TimeLimit
from recipes.squad.sizes import LSTMS
from recipes.squad.train import run
from recipes.squad.training import BidafModule, Epochs, SquadData

pytestmark = [
    # Lightning 2.6 calls jsonargparse in a way that the latter has deprecated
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

CONFIGS = Path("recipes/squad/configs")


def article(names):
    paragraphs = []
    for number, name in enumerate(names):
        context = f"In the year {1900 + number} a baker named {name} opened a small shop near the river."
        paragraphs.append(
            {
                "context": context,
                "qas": [
                    {
                        "id": f"{name}{number}",
                        "question": "Who opened a shop?",
                        "answers": [{"text": name, "answer_start": context.index(name)}],
                    }
                ],
            }
        )
    return {"version": "1.1", "data": [{"title": "Bakers", "paragraphs": paragraphs}]}


@pytest.fixture
def corpus(tmp_path):
    for split, names in (("train", ["Anna", "Bruno", "Clara", "David"] * 4), ("dev", ["Emil", "Anna", "Flora"])):
        (tmp_path / f"{split}-v1.1.json").write_text(json.dumps(article(names)))
    words = ["in", "the", "year", "a", "baker", "named", "opened", "small", "shop", "near", "river", "who", "?", "."]
    np.savez(tmp_path / "vectors.npz", words=np.array(words), vectors=np.random.default_rng(0).normal(size=(14, 6)))
    return tmp_path


@pytest.fixture
def config(corpus):
    settings = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    settings["model"]["init_args"] |= {"hidden": 4, "vectors": 6, "filters": 3, "learning_rate": 0.02}
    settings["model"]["init_args"]["method"]["init_args"]["objective"]["init_args"]["density"] = 0.5
    settings["data"]["init_args"] = {"batch_size": 4, "cache_dir": str(corpus / "cache")}
    settings["trainer"] |= {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
    path = corpus / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def trained(config, corpus, out, **options):
    return run(config, out, data_dir=corpus, vectors=corpus / "vectors.npz", **options)


def test_train_shrink_save_and_ask(config, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recipes.squad.latency.SECONDS", 0.02)
    result = trained(config, corpus, tmp_path / "out")
    assert result is not None
    assert result["identical_answers"] == result["questions"] == 3
    assert result["shrunk"]["multiply_adds"] <= 0.6 * result["dense"]["multiply_adds"]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["steps"] == 16
    text = tmp_path / "text.txt"
    text.write_text(article(["Anna"])["data"][0]["paragraphs"][0]["context"])
    model = tmp_path / "out" / "model"
    ask.main(["--model", str(model), "--context", str(text), "Who opened a shop?"])
    printed = capsys.readouterr().out
    assert "probability" in printed
    assert "[" in printed
    answers = json.loads((tmp_path / "out" / "answers.json").read_text())
    context = article(["Emil"])["data"][0]["paragraphs"][0]["context"]
    assert ask.Reader(model).answer(context, "Who opened a shop?").text == answers["Emil0"]
    for question, content, message in (("", "text", "question must not"), ("Who?", " ", "context must not")):
        text.write_text(content)
        with pytest.raises(SystemExit, match=message):
            ask.main(["--model", str(model), "--context", str(text), question])


def test_a_stopped_run_goes_on_as_if_it_had_not_been(config, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.squad.latency.SECONDS", 0.02)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trained(config, corpus, whole)
    stops = 0
    while trained(config, corpus, parts, minutes=1e-9 if stops < 6 else None) is None:
        stops += 1
    assert stops == 6
    one, other = (torch.load(out / "model" / "weights.pt", weights_only=True) for out in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_held_out_part_stands_in_for_the_dev_set(config, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.squad.latency.SECONDS", 0.02)
    result = trained(config, corpus, tmp_path / "out", extra=["--data.init_args.held_out=0.25"])
    assert result is not None
    assert result["questions"] == 4
    assert result["steps"] == 12  # 12 of the 16 questions, four at a time, four epochs
    assert json.loads((tmp_path / "out" / "answers.json").read_text()).keys() == {
        f"{name}{number}" for number, name in enumerate(["Anna", "Bruno", "Clara", "David"], start=12)
    }
    with pytest.raises(ValueError, match=r"`held_out` must be in \[0, 1\), got 1"):
        SquadData(held_out=1.0)


def test_a_result_is_timed_anew_by_its_widths(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "SECONDS", 0.02)
    kept = dict.fromkeys(LSTMS, 3)
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"config": "smoke.yaml", "hidden": 16, "shrunk": {"widths": kept}, "f1": 1.0}))
    monkeypatch.setattr("sys.argv", ["latency", str(path)])
    latency.main()
    times = json.loads(path.read_text())["latency"]
    assert times["context_words"] == 131
    assert set(times["runtimes"]) == {"dense", "shrunk", "single"}
    assert min(times[name] for name in ("dense_milliseconds", "milliseconds", "single_milliseconds")) > 0
    assert "result: " in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_configuration_can_be_built(path, tmp_path):
    from l0rnn.training.configuration import build_run

    model, data, trainer = build_run(path, tmp_path, extra=["--trainer.accelerator=cpu"])
    assert isinstance(model, BidafModule)
    assert data.batch_size > 0
    assert any(isinstance(callback, AverageWeights) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def test_there_are_seven_configurations():
    assert len(list(CONFIGS.glob("*.yaml"))) == 7


def test_ask_without_a_model_or_text(tmp_path):
    text = tmp_path / "text.txt"
    with pytest.raises(SystemExit, match="`--context` must be a text file"):
        ask.main(["--model", str(tmp_path), "--context", str(text), "Who?"])
    text.write_text("Anna did.")
    with pytest.raises(SystemExit, match="`--model` must be a folder written by"):
        ask.main(["--model", str(tmp_path), "--context", str(text), "Who?"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "`hidden` must be at least 1, got 0"),
        ({"optimizer": "sgd"}, "`optimizer` must be 'adam' or 'adadelta', got 'sgd'"),
        ({"learning_rate": 0.0}, "`learning_rate` must be > 0"),
    ],
)
def test_module_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        BidafModule(**options)


def test_callbacks_refuse():
    with pytest.raises(ValueError, match=r"`decay` must be in \[0, 1\)"):
        AverageWeights(1.0)
    with pytest.raises(ValueError, match="`--time-limit-minutes` must be > 0"):
        TimeLimit(0, None)  # type: ignore[arg-type]


def test_epochs_refuse_the_state_of_other_data():
    with pytest.raises(ValueError, match="`state_dict` must come from 2 batches, got 3"):
        Epochs([1, 2]).load_state_dict({"epoch": 0, "next": 0, "batches": 3})

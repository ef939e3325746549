"""The Hugging Face mixin, on local directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("huggingface_hub")

from l0rnn import Budget, L0GatedLSTM
from l0rnn.export import load_dense
from l0rnn.models.hub import HubLanguageModel
from tests.export.models import WORDS, language_model


def test_there_and_back(tmp_path: Path) -> None:
    network = language_model("LSTM", [5, 3])
    model = HubLanguageModel(network, vocabulary=WORDS, figures={"valid perplexity": 120.5})
    model.save_pretrained(tmp_path / "model")
    again = HubLanguageModel.from_pretrained(tmp_path / "model")
    tokens = torch.randint(11, (5, 2))
    assert torch.equal(again(tokens)[0], network(tokens)[0])
    assert again.vocabulary == WORDS
    assert again.figures == {"valid perplexity": 120.5}
    assert not again.training
    assert torch.equal(load_dense(tmp_path / "model")(tokens)[0], network(tokens)[0])
    assert "library_name: l0rnn" in (tmp_path / "model" / "README.md").read_text()


def test_the_config_is_that_of_the_network_now(tmp_path: Path) -> None:
    model = HubLanguageModel(language_model("LSTM", [6, 6]))
    model.network = language_model("LSTM", [4, 2])  # as after more surgery
    model.save_pretrained(tmp_path / "model")
    assert HubLanguageModel.from_pretrained(tmp_path / "model").network.encoder.hidden_sizes == [[4], [2]]


def test_nothing_is_replaced_unless_asked_and_nothing_lost_in_a_failure(tmp_path: Path) -> None:
    model = HubLanguageModel(language_model())
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(FileExistsError, match="is not empty"):
        model.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model", overwrite=True)
    model.vocabulary = ["too", "few"]
    with pytest.raises(ValueError, match="the 11 words that the model knows"):
        model.save_pretrained(tmp_path / "model", overwrite=True)
    assert HubLanguageModel.from_pretrained(tmp_path / "model").vocabulary is None


def test_uploading_saves_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(HubLanguageModel, "push_to_hub", lambda self, *names, **options: sent.append((names, options)))
    HubLanguageModel(language_model()).save_pretrained(tmp_path / "model", push_to_hub=True, private=True)
    assert sent == [(("model",), {"private": True})]


def test_what_is_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hub_mixin

    uploaded: list[str] = []

    class NoNetwork:
        def __init__(self, **options: Any) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path: Path, **options: Any) -> str:
            uploaded.extend(sorted(path.name for path in folder_path.iterdir()))
            return "address"

    monkeypatch.setattr(hub_mixin, "HfApi", NoNetwork)
    model = HubLanguageModel(language_model(), vocabulary=WORDS)
    assert model.push_to_hub("someone/model") == "address"
    assert uploaded == ["README.md", "config.json", "model.safetensors", "vocabulary.json"]


def test_evaluation_results_are_in_the_metadata_of_what_is_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import ModelCard, hub_mixin

    cards: list[ModelCard] = []

    class NoNetwork:
        def __init__(self, **options: Any) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path: Path, **options: Any) -> str:
            cards.append(ModelCard.load(folder_path / "README.md"))
            return "address"

    monkeypatch.setattr(hub_mixin, "HfApi", NoNetwork)
    figures = {"valid perplexity": 120.5, "test_perplexity": 115.25, "parameters": 300, "test text": "of 1989"}
    model = HubLanguageModel(language_model(), vocabulary=WORDS, figures=figures, dataset="Penn Treebank")
    model.push_to_hub("someone/small-model")
    results = cards[0].data.eval_results
    assert results is not None
    assert cards[0].data.model_name == "small-model"
    assert [(r.dataset_split, r.metric_type, r.metric_value) for r in results] == [
        ("valid", "perplexity", 120.5),
        ("test", "perplexity", 115.25),
    ]
    assert {(r.task_type, r.dataset_name, r.dataset_type) for r in results} == {
        ("text-generation", "Penn Treebank", "penn-treebank")
    }
    assert cards[0].data.library_name == "l0rnn"
    assert "| test_perplexity | 115.2 |" in cards[0].text


def test_without_evaluation_there_are_no_results(tmp_path: Path) -> None:
    HubLanguageModel(language_model(), figures={"parameters": 300}).save_pretrained(tmp_path / "model")
    assert "model-index" not in (tmp_path / "model" / "README.md").read_text()


def test_downloading_takes_no_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    HubLanguageModel(language_model()).save_pretrained(tmp_path / "model")
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(tmp_path / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    HubLanguageModel.from_pretrained("someone/model", revision="main")
    files = ["config.json", "model.safetensors", "vocabulary.json"]
    assert asked == [("someone/model", {"allow_patterns": files, "revision": "main"})]


def test_a_hostile_config_does_not_get_past(tmp_path: Path) -> None:
    HubLanguageModel(language_model()).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"network": "os.system", "vocabulary": ["x"]}')
    with pytest.raises(ValueError, match="must be that of a model that l0rnn exported"):
        HubLanguageModel.from_pretrained(tmp_path / "model")


def test_gates_are_refused() -> None:
    with pytest.raises(ValueError, match="still has gates"):
        HubLanguageModel(L0GatedLSTM(11, 6, objective=Budget(density=0.5)))

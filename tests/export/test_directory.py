"""An export is whole or not there, and replaces nothing unless asked, and never what no export wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from l0rnn.export import load_dense, save_dense
from l0rnn.export.directory import written_aside
from tests.export.models import language_model


def fail_half_way(place: Path) -> None:
    with written_aside(place, overwrite=True) as aside:
        (aside / "config.json").write_text("{")
        raise OSError("disk full")


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"):
        fail_half_way(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_former_export(tmp_path: Path) -> None:
    save_dense(language_model(), tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(OSError, match="disk full"):
        fail_half_way(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_is_replaced_only_if_asked_and_as_a_whole(tmp_path: Path) -> None:
    place = save_dense(language_model(), tmp_path / "model", vocabulary=[f"w{index}" for index in range(11)])
    with pytest.raises(FileExistsError, match="not empty; name a new one, or ask for its replacement"):
        save_dense(language_model("GRU"), place)
    save_dense(language_model("GRU"), place, overwrite=True)
    assert type(load_dense(place).encoder).__name__ == "GRU"
    assert not (place / "vocabulary.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_of_others_are_never_replaced(tmp_path: Path) -> None:
    place = save_dense(language_model(), tmp_path / "model")
    (place / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds files that no export wrote \(thesis.tex\)"):
        save_dense(language_model(), place, overwrite=True)
    assert (place / "thesis.tex").read_text() == "years of work"


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(FileExistsError, match="is a file; name a directory"):
        save_dense(language_model(), tmp_path / "model", overwrite=True)


def test_an_empty_directory_is_filled_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_dense(language_model(), tmp_path / "model")
    save_dense(language_model(), tmp_path / "deep" / "er" / "model")
    assert (tmp_path / "deep" / "er" / "model" / "config.json").is_file()


def test_if_moving_fails_the_former_export_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = save_dense(language_model(), tmp_path / "model")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"):
        save_dense(language_model("GRU"), place, overwrite=True)
    monkeypatch.undo()
    assert type(load_dense(place).encoder).__name__ == "LSTM"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_that_only_have_the_names_of_an_export_are_never_replaced(tmp_path: Path) -> None:
    for name, content in {"README.md": "my project", "model.py": "mine = 1", "config.json": '{"mine": 1}'}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(FileExistsError, match=r"but no config\.json of an export, so it is not replaced"):
            save_dense(language_model(), tmp_path, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "my project"


def test_an_interrupt_while_moving_leaves_the_former_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = save_dense(language_model(), tmp_path / "model")
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if target.name.endswith(".former"):
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_dense(language_model("GRU"), place, overwrite=True)
    monkeypatch.undo()
    assert type(load_dense(place).encoder).__name__ == "LSTM"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

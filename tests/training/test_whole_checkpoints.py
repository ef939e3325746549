"""Checkpoints and exports are whole or as they were before, and what a kill leaves behind is cleared away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from l0rnn.export import directory as module
from l0rnn.export import load_dense, save_dense
from l0rnn.export.directory import written_aside
from l0rnn.language.language_model import LanguageModel
from l0rnn.training.whole_checkpoints import WholeCheckpoints
from tests.cases.situations import make, segments, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*no `val_dataloader`")


class TestCheckpoints:
    def test_every_trainer_writes_them_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        moved: list[tuple[Path, Path]] = []
        replace = os.replace

        def watched(source: Any, target: Any) -> None:
            moved.append((Path(source), Path(target)))
            replace(source, target)

        monkeypatch.setattr(os, "replace", watched)
        keep = ModelCheckpoint(tmp_path / "kept", save_last=True)
        trainer(max_epochs=2, callbacks=[keep], enable_checkpointing=True).fit(make(), segments())
        assert moved
        assert all(source.parent == target.parent for source, target in moved)  # on one file system
        assert all(path.suffix == ".ckpt" for path in (tmp_path / "kept").iterdir())

    def test_a_way_that_a_trainer_was_given_is_left_to_it(self) -> None:
        class Own(TorchCheckpointIO):
            pass

        training = trainer(max_steps=1, plugins=[Own()])
        training.fit(make(), segments())
        assert type(training.strategy.checkpoint_io) is Own

    def test_one_that_cannot_be_written_leaves_the_one_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "last.ckpt"
        WholeCheckpoints().save_checkpoint({"step": 1}, path)

        def full(content: Any, file: Any) -> None:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"last.ckpt could not be written, and is as it was before: .*No space left"):
            WholeCheckpoints().save_checkpoint({"step": 2}, path)
        assert torch.load(path) == {"step": 1}
        assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]

    def test_what_a_kill_left_aside_is_cleared_away(self, tmp_path: Path) -> None:
        left, other = tmp_path / ".a[1].ckpt.00000000.partial", tmp_path / ".b.ckpt.00000000.partial"
        left.write_bytes(b"half")
        other.write_bytes(b"of another one")
        WholeCheckpoints().save_checkpoint({"step": 1}, tmp_path / "a[1].ckpt")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".b.ckpt.00000000.partial", "a[1].ckpt"]

    def test_killed_while_it_is_written(self, tmp_path: Path) -> None:
        program = (
            "import torch, sys\n"
            "from l0rnn.training.whole_checkpoints import WholeCheckpoints\n"
            "number = 0\n"
            "while True:\n"
            "    WholeCheckpoints().save_checkpoint({'a': torch.full((2**20,), float(number))}, sys.argv[1])\n"
            "    number += 1\n"
            "    print(number, flush=True)\n"
        )
        path = tmp_path / "last.ckpt"
        for wait in (0.0, 0.003, 0.007, 0.013):
            with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(wait)
                process.send_signal(signal.SIGKILL)
            found = torch.load(path)["a"]
            assert (found == found[0]).all()
        WholeCheckpoints().save_checkpoint({"step": 1}, path)
        assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]


class TestExports:
    def test_a_killed_one_leaves_nothing_once_the_next_is_there(self, tmp_path: Path) -> None:
        program = (
            "import sys, time\n"
            "from l0rnn.export.directory import written_aside\n"
            "with written_aside(sys.argv[1], overwrite=True) as aside:\n"
            "    (aside / 'config.json').write_text('{}')\n"
            "    print('written', flush=True)\n"
            "    time.sleep(60)\n"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "model")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            (left,) = tmp_path.iterdir()
            save_dense(LanguageModel(5, 3, 3), tmp_path / "model")
            assert left.exists()  # its process still writes to it
            process.send_signal(signal.SIGKILL)
        save_dense(LanguageModel(5, 3, 3), tmp_path / "model", overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    def test_one_killed_between_two_renamings_is_put_back(self, tmp_path: Path) -> None:
        save_dense(LanguageModel(5, 3, 3), tmp_path / "model")
        former = tmp_path / f".model.{module._machine()}-{ended()}-0123abcd.former"
        (tmp_path / "model").rename(former)
        with pytest.raises(FileExistsError, match="not empty"):
            save_dense(LanguageModel(5, 3, 3), tmp_path / "model")
        load_dense(tmp_path / "model")
        assert not former.exists()

    @pytest.mark.parametrize(
        "name",
        [
            ".model.partial",
            ".model.mine.partial",
            ".other.{machine}-{ended}-0123abcd.partial",
            ".model.{machine}-{own}-0123abcd.partial",
            ".model.00000000-{ended}-0123abcd.partial",  # another machine's, which may still write
        ],
    )
    def test_what_is_not_left_over_stays(self, name: str, tmp_path: Path) -> None:
        kept = tmp_path / name.format(machine=module._machine(), ended=ended(), own=os.getpid())
        kept.mkdir()
        with written_aside(tmp_path / "model", overwrite=False) as aside:
            (aside / "config.json").write_text("{}")
        assert kept.exists()

    def test_another_machines_goes_after_a_day(self, tmp_path: Path) -> None:
        left = tmp_path / f".model.00000000-{ended()}-0123abcd.partial"
        left.mkdir()
        os.utime(left, (time.time() - 2 * 24 * 3600,) * 2)
        with written_aside(tmp_path / "model", overwrite=False) as aside:
            (aside / "config.json").write_text("{}")
        assert not left.exists()


def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid

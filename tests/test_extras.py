"""Optional packages: named with their extra where they are missing, and needed only by what uses them."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from l0rnn.extras import quiet_exporters, require, version_numbers

WITHOUT_EXTRAS = """
import sys
for name in ("safetensors", "onnx", "onnxscript", "onnxruntime", "huggingface_hub", "executorch"):
    sys.modules[name] = None
import tempfile
from l0rnn.export import export_program, export_torch, save_dense
from l0rnn.language.language_model import LanguageModel
export_torch(LanguageModel(5, 3, 4), tempfile.mkdtemp())
try:
    save_dense(LanguageModel(5, 3, 4), tempfile.mkdtemp())
except ModuleNotFoundError as error:
    print(error)
try:
    import l0rnn.models.hub
except ModuleNotFoundError as error:
    print(error)
"""


def test_without_any_extra_there_is_plain_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'l0rnn[export]'" in done.stdout.splitlines()[0]
    assert "pip install 'l0rnn[hub]'" in done.stdout.splitlines()[1]


def test_what_a_package_itself_misses_is_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("import something_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="No module named 'something_that_is_not_there'"):
        require("broken_package", "onnx")


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("1.18", (1, 18)), ("3", (3,)), ("dev", ())]
)
def test_version_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(version) == numbers


def test_quiet_is_over_afterwards_and_other_warnings_pass() -> None:
    with quiet_exporters():
        assert not logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
        warnings.warn("# The axis name: batch will not be used", UserWarning, stacklevel=1)
        with pytest.warns(UserWarning, match="something else"):
            warnings.warn("something else", UserWarning, stacklevel=1)
    assert logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)

"""Small models that come along: what there is, and each of them in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l0rnn.arguments import checked
from l0rnn.export.open_streamer import open_streamer
from l0rnn.models.g2p import G2P
from l0rnn.models.vad import VoiceActivity

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class ShippedModel:
    """A model that comes with the package or the repository.

    Attributes:
        name: what `load` knows it by.
        does: what it does, and what comes out of `load`.
        licence: of the weights.
        made_by: the command that made it.
        folder: its weights, its card and the notices of its licences.
        files: file in the folder → its SHA-256.
        in_package: whether an installed package has it, or the repository alone.
    """

    name: str
    does: str
    licence: str
    made_by: str
    folder: Path
    files: dict[str, str]
    open: Callable[[Path], Any]
    in_package: bool = True

    @property
    def card(self) -> str:
        """What it is good for and what not, its figures and where its data came from, in Markdown."""
        return (self._there() / "README.md").read_text(encoding="utf-8")

    @property
    def bytes(self) -> int:
        """Of its files together."""
        return sum((self._there() / file).stat().st_size for file in self.files)

    def check(self) -> None:
        """Compare each file with its checksum.

        Raises:
            FileNotFoundError: if a file is missing; it says where to get it.
            ValueError: if a file is damaged.
        """
        for file, expected in self.files.items():
            path = self._there() / file
            if not path.is_file():
                raise FileNotFoundError(f"{path} of the model {self.name!r} is missing; {self._remedy()}")
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != expected:
                raise ValueError(
                    f"{path} of the model {self.name!r} is damaged: its SHA-256 must be {expected}, got {found}; "
                    f"{self._remedy()}"
                )

    def _there(self) -> Path:
        if not self.folder.is_dir():
            raise FileNotFoundError(f"the model {self.name!r} is not in {self.folder}; {self._remedy()}")
        return self.folder

    def _remedy(self) -> str:
        if self.in_package:
            return "install l0rnn anew: pip install --force-reinstall --no-deps l0rnn"
        return f"it comes with the repository of l0rnn, not with the package; or make it there with: {self.made_by}"


_G2P = "python -m recipes.g2p.shrink --density 0.125"
_SHIPPED = (
    ShippedModel(
        name="g2p",
        does="phonemes of an English word: load('g2p')('hello'); NumPy alone",
        licence="Apache-2.0 AND BSD-2-Clause",
        made_by=_G2P,
        folder=_WEIGHTS / "g2p",
        files={"checkpoint20.npz": "2d170167cae490193d037896d259ee474e07f185b850b9f60935c013ab718041"},
        open=lambda folder: G2P(str(folder / "checkpoint20.npz")),
    ),
    ShippedModel(
        name="g2p_int8",
        does="the same from whole numbers, a quarter of the bytes",
        licence="Apache-2.0 AND BSD-2-Clause",
        made_by=_G2P,
        folder=_WEIGHTS / "g2p",
        files={"int8.npz": "ea0e24db6bd32ec75de3f8315486c14f24b61bb20c024d38c3f0afdc0b3c8450"},
        open=lambda folder: G2P(str(folder / "int8.npz")),
    ),
    ShippedModel(
        name="vad",
        does="how likely each 32 ms of sound at 16 kHz are speech: load('vad')(samples); ONNX Runtime",
        licence="MIT",
        made_by="python -m recipes.vad.shrink --density 0.25",
        folder=_WEIGHTS / "vad",
        files={"silero_vad_small_16k.onnx": "a99d0851a7bf4a45485b23fe284f3f7e64dc92a1443bba073cbda277ae3e8670"},
        open=lambda folder: VoiceActivity(folder / "silero_vad_small_16k.onnx"),
    ),
    ShippedModel(
        name="ptb",
        does="goes on with English text: l0rnn.models.generate(load('ptb'), 30); ONNX Runtime",
        licence="Apache-2.0",
        made_by="python -m recipes.penn_treebank.demo",
        folder=_WEIGHTS / "ptb",
        files={
            "config.json": "4d5a0439cf846cfea8c15a3f9e73a60a65894f61a2046cb05d7c373745e72245",
            "model.onnx": "8c6eea631b47eb2b15c50959bbc7b0ac81b49339ec45ecf382e46ce7660c4ea5",
            "vocabulary.json": "c312480136abb0b10cbe27edbe5049db37499b335b8dce2c878dd2e357a147a2",
        },
        open=open_streamer,
        in_package=False,
    ),
)


class _Models(dict[str, ShippedModel]):
    def __repr__(self) -> str:
        return "\n".join(f"{model.name:<9} {model.does} ({model.licence})" for model in self.values())


def models() -> dict[str, ShippedModel]:
    """The models that `load` knows, by name.

    Returns:
        For each its card, licence, checksums, size and the command that made it; printed, one line for each.

    Example:
        >>> import l0rnn
        >>> l0rnn.models()["g2p"].licence, l0rnn.models()["g2p"].bytes
        ('Apache-2.0 AND BSD-2-Clause', 417150)
    """
    return _Models((model.name, model) for model in _SHIPPED)


@checked
def load(name: str) -> Any:
    """A small model that comes along, its files checked; no network is asked.

    Args:
        name: one of `models()`.

    Returns:
        What its line in `models()` says.

    Raises:
        ValueError: if there is no model of that name, or its file is damaged.
        FileNotFoundError: if its files are not there; it says where to get them.
        ModuleNotFoundError: if a package that it needs is not installed.

    Example:
        >>> import l0rnn
        >>> l0rnn.load("g2p")("cat")
        ['K', 'AE1', 'T']
    """
    if name not in models():
        raise ValueError(f"`name` must be one of {', '.join(models())}, got {name!r}")
    model = models()[name]
    model.check()
    return model.open(model.folder)

"""Export to a folder for any static web server: a page that runs networks in the browser, side by side.

ONNX Runtime Web runs them in WebAssembly, on one thread, so that the server needs to send no headers of its own. The
folder holds all that the page needs; nothing is fetched from elsewhere, and the page forbids itself to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from l0rnn.arguments import checked
from l0rnn.export.config import Figures, checked_figures, read_header, write_header
from l0rnn.export.directory import CARD, CHECKSUMS, CONFIG, MODELS, ONNX, PAGE, RUNTIME, written_aside
from l0rnn.export.int8 import export_int8
from l0rnn.export.interface import Interface
from l0rnn.export.onnx_file import export_onnx
from l0rnn.export.vocabulary import END_OF_SENTENCE, checked_vocabulary
from l0rnn.extras import require
from l0rnn.foreign_text import printable

VERSION = "1.30.0"  # of onnxruntime-web
# file of the folder → file of the package, and its SHA-256; named .js, which every server knows how to send
_RUNTIME = {
    "ort.js": ("ort.wasm.min.mjs", "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
    "ort-wasm.js": ("ort-wasm-simd-threaded.mjs", "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"),
    "ort.wasm": ("ort-wasm-simd-threaded.wasm", "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"),
}
_DOMAINS = ("", "ai.onnx", "com.microsoft")  # of the operators that the runtime knows
_MOST = {False: 1e-4, True: 0.02}  # difference of the two runtimes, relative to the outputs; the second: in int8


@dataclass(frozen=True)
class WebModel:
    """A network on the page.

    Attributes:
        name: on the page, such as ``"small, int8"``.
        onnx: its file as bytes.
        example: input → an array, to run it once here and once in ONNX Runtime Web.
        settings: what the page has to know about it.
        is_int8: whether it rounds while it computes, so that two runtimes differ a little.
    """

    name: str
    onnx: bytes
    example: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]
    is_int8: bool = False


@dataclass(frozen=True)
class WebDemo:
    """A task on the page, done by several networks side by side; the first is what the others are compared with.

    Attributes:
        kind: ``"words"`` for language models, ``"spelling"`` for letters in and symbols out.
        title: its heading.
        about: a sentence or two below it.
        text: what stands in the input at the beginning.
        length: words to write, or how often a word is repeated for the clock.
        models: the networks.
        settings: what the page has to know, such as the words.
    """

    kind: Literal["words", "spelling"]
    title: str
    about: str
    text: str
    length: int
    models: Sequence[WebModel]
    settings: Mapping[str, Any] = field(default_factory=dict)


@checked
def export_web(
    network: nn.Module,
    directory: str | Path,
    *,
    dense: nn.Module | None = None,
    vocabulary: Sequence[str] | None = None,
    figures: Figures | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a language model as a folder with a page on which it goes on writing in the browser, also in int8.

    Args:
        network: a language model, as for `export_onnx`.
        directory: where to write.
        dense: one that stands beside it and that it is compared with, with the same words.
        vocabulary: the words in the order of their ids.
        figures: what was measured, for ``config.json``.
        overwrite: whether an export that is there may be replaced.

    Returns:
        The directory; ``python -m http.server`` in it serves the page.

    Raises:
        ValueError: as `export_onnx`, or if there is no vocabulary, or ONNX Runtime Web does not have an operation of
            the network; it is named.
        RuntimeError: as `export_int8`, or if npm cannot get ONNX Runtime Web, or its outputs differ.
        FileExistsError: if the directory is not empty and ``overwrite`` is False, or holds other files.
        FileNotFoundError: if Node or npm is not installed.
    """
    networks = {"small": network} if dense is None else {"dense": dense, "small": network}
    return write_web([words_demo(networks, vocabulary)], directory, figures=figures, overwrite=overwrite)


@checked
def words_demo(
    networks: Mapping[str, nn.Module],
    vocabulary: Sequence[str] | None,
    *,
    text: str = "",
    title: str = "A language model writes on",
    about: str = "Type a beginning. Each network draws the next word from what it has read, and then the next.",
) -> WebDemo:
    """Language models that go on writing, each in int8 too; name → network, the rest as `export_web` and `WebDemo`."""
    if vocabulary is None:
        raise ValueError("`vocabulary` must be given: the page shows words (--vocabulary)")
    if not networks:
        raise ValueError("`networks` must hold a network at least, got none")
    words = checked_vocabulary(vocabulary)
    models = []
    for name, network in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(network, Path(folder) / "float", vocabulary=words)
            models.append(_language_model(name, Path(folder) / "float"))
            export_int8(network, Path(folder) / "int8", vocabulary=words)
            models.append(_language_model(f"{name}, int8", Path(folder) / "int8"))
    never = [words.index("<unk>")] if "<unk>" in words else []
    settings = {"words": words, "never": never}
    text = text or next(word for word in words if word not in ("<unk>", END_OF_SENTENCE))
    return WebDemo("words", title, about, text, 40, models, settings)


def _language_model(name: str, folder: Path) -> WebModel:
    header = read_header(folder)
    interface = Interface.from_json(header["interface"])
    if interface.words is None or not interface.is_streamable or interface.state_dtype != "float32":
        raise ValueError(f"the network {name!r} must read words, and go on from a state of float32")
    draw = np.random.default_rng(0)
    example: dict[str, np.ndarray] = {interface.input: draw.integers(interface.words, size=(1, 1))}
    for state in interface.states:
        example[state.name] = draw.uniform(-0.5, 0.5, [size or 1 for size in state.shape]).astype(np.float32)
    states = [
        {"input": state.name, "output": f"next_{state.name}", "shape": [size or "batch" for size in state.shape]}
        for state in interface.states
    ]
    settings = {"input": interface.input, "output": interface.output, "states": states}
    return WebModel(name, (folder / ONNX).read_bytes(), example, settings, is_int8=header["export"] == "int8")


@checked
def write_web(
    demos: Sequence[WebDemo], directory: str | Path, *, figures: Figures | None = None, overwrite: bool = False
) -> Path:
    """Write a page with some tasks, after each network has been run in ONNX Runtime Web against ONNX Runtime.

    Raises:
        ValueError, RuntimeError, FileExistsError, FileNotFoundError: as `export_web`.
    """
    names = [f"{demo.kind}-{model.name}" for demo in demos for model in demo.models]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"`demos` must have models, each of its own name, got {', '.join(names) or 'none'}")
    for demo in demos:
        for model in demo.models:
            _check_operators(model)
    known = checked_figures(figures)
    node = _program("node")
    package = _runtime_package()
    with written_aside(directory, overwrite=overwrite) as aside:
        for file in PAGE:
            (aside / file).write_bytes((files("l0rnn.export") / "web_page" / file).read_bytes())
        _unpack(package, aside / RUNTIME)
        (aside / MODELS).mkdir()
        listed = []
        for demo in demos:
            entries = []
            for number, model in enumerate(demo.models):
                file = f"{MODELS}/{demo.kind}_{number}.onnx"
                (aside / file).write_bytes(model.onnx)
                _check_runtime(node, aside, file, model)
                entries.append({"name": model.name, "file": file, "bytes": len(model.onnx), **model.settings})
            shown = {
                "kind": demo.kind,
                "title": demo.title,
                "about": demo.about,
                "text": demo.text,
                "length": demo.length,
            }
            listed.append({**shown, **demo.settings, "models": entries})
        write_header(aside, "web", {"runtime": f"onnxruntime-web {VERSION}", "figures": known, "demos": listed})
        (aside / CARD).write_text(_card(demos), encoding="utf-8")
        _write_checksums(aside)
    return Path(directory)


def _check_operators(model: WebModel) -> None:
    onnx = require("onnx", "onnx")
    for node in _nodes(onnx.load_from_string(model.onnx).graph):
        if node.domain not in _DOMAINS:
            raise ValueError(
                f"the network {model.name!r} has the operation {node.op_type} of {node.domain!r}, which ONNX Runtime "
                "Web does not have; write it with operators of ONNX"
            )


def _nodes(graph: Any) -> Iterable[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(
            f"the program {name!r} is not installed; it gets and runs onnxruntime-web {VERSION}, which the page needs. "
            "Install Node, which brings it (https://nodejs.org; Debian: apt-get install nodejs npm)"
        )
    return found


def _runtime_package() -> Path:
    """The package of ONNX Runtime Web, from the user's cache, or from npm into it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l0rnn"
    place = cache / f"onnxruntime-web-{VERSION}.tgz"
    if place.is_file():
        return place
    npm = _program("npm")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as aside:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--loglevel=error", "--pack-destination", aside]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packed = Path(aside) / place.name
        if done.returncode or not packed.is_file():
            reason = " ".join(done.stderr.replace("npm error", "").split())[:300] or "it gave no reason"
            raise RuntimeError(f"npm cannot get onnxruntime-web {VERSION}, which the page needs: {reason}")
        packed.replace(place)
    return place


def _unpack(package: Path, folder: Path) -> None:
    folder.mkdir()
    try:
        with tarfile.open(package) as archive:
            for name, (member, checksum) in _RUNTIME.items():
                file = archive.extractfile(f"package/dist/{member}")
                content = b"" if file is None else file.read()
                if hashlib.sha256(content).hexdigest() != checksum:
                    raise ValueError(f"{member} in it has another checksum than that of version {VERSION}")
                (folder / name).write_bytes(content)
    except (tarfile.TarError, KeyError, EOFError, OSError, ValueError) as error:
        raise RuntimeError(
            f"{package} is not the package onnxruntime-web {VERSION}: {printable(error)}; delete it"
        ) from error


def _check_runtime(node: str, folder: Path, file: str, model: WebModel) -> None:
    """Run a file in ONNX Runtime Web under Node, and in ONNX Runtime here."""
    feeds = {
        name: {"type": str(array.dtype), "dims": array.shape, "data": array.ravel().tolist()}
        for name, array in model.example.items()
    }
    asked = json.dumps({"folder": folder.as_uri(), "file": file, "feeds": feeds})
    script = (files("l0rnn.export") / "web_page" / "check.mjs").read_text(encoding="utf-8")
    command = [node, "--input-type=module", "--no-warnings", "--eval", script]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split())[:500]
        raise ValueError(f"ONNX Runtime Web {VERSION} cannot run the network {model.name!r}: {reason}")
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = runtime.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
    for name, values in json.loads(done.stdout).items():
        got = np.array(values, np.float64)
        wanted = np.asarray(session.run([name], dict(model.example))[0], np.float64).ravel()
        same = got.shape == wanted.shape
        worst = np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30) if same else np.inf
        if not worst <= _MOST[model.is_int8]:
            raise RuntimeError(
                f"the network {model.name!r} in ONNX Runtime Web differs from ONNX Runtime by {worst:.2g} in {name}; "
                "nothing was written"
            )


def _write_checksums(folder: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    lines = [f"{one}  {path.relative_to(folder).as_posix()}\n" for one, path in zip(sums, paths, strict=True)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def _card(demos: Sequence[WebDemo]) -> str:
    names = "".join(f"- {demo.title}: {'; '.join(model.name for model in demo.models)}\n" for demo in demos)
    return f"""\
# Networks in the browser

```sh
python -m http.server        # in this folder; then open http://localhost:8000
sha256sum -c {CHECKSUMS}     # whether all files are whole
```

{names}
`{RUNTIME}/` has three files of the package onnxruntime-web {VERSION} by Microsoft (MIT licence). `{CONFIG}` says what
the page shows. No file is asked from another server.
"""

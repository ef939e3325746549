"""The web export: opened in a browser, typed into, compared with torch, and met with what may be wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from l0rnn.cli import main
from l0rnn.export import TorchStreamer, export_web, load_dense, save_dense, write_web
from l0rnn.export.web import WebDemo, WebModel
from l0rnn.language.language_model import LanguageModel
from tests.browser import Browser, browsing, needs_browser, served
from tests.export.models import WORDS, language_model

pytest.importorskip("onnxscript", reason="the packages of the extra onnx are not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("node") and shutil.which("npm")),
        reason="the programs node and npm are not installed: apt-get install nodejs npm",
    ),
]
NAMES = ["dense", "dense, int8", "small", "small, int8"]
TAB, ENTER, HOME = "\ue004", "\ue007", "\ue011"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("models")
    made = {"dense": language_model("LSTM", [12, 12]), "small": language_model("LSTM", [7, 4])}
    return {name: save_dense(network, place / name, vocabulary=WORDS) for name, network in made.items()}


@pytest.fixture(scope="module")
def folder(networks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    out = tmp_path_factory.mktemp("web") / "page"
    dense, small = str(networks["dense"]), str(networks["small"])
    assert main(["export", small, "--format", "web", "--dense", dense, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


def greedy(place: Path, prompt: list[str], count: int) -> str:
    """What torch writes when it always takes the likeliest word, as the page shows it."""
    streamer = TorchStreamer(load_dense(place))
    words, state = [WORDS.index(word) for word in prompt], None
    for word in words[:-1]:
        _, state = streamer.step(torch.tensor([word]), state)
    for _ in range(count):
        logits, state = streamer.step(torch.tensor([words[-1]]), state)
        logits[0, WORDS.index("<unk>")] = -torch.inf
        words.append(int(logits[0].argmax()))
    return " ".join(WORDS[word] for word in words).replace(" <eos> ", "\n").replace(" <eos>", "\n")


@needs_browser
class TestPage:
    def test_it_writes_on_as_torch_does_by_the_keyboard_alone(
        self, folder: Path, networks: dict[str, Path], browser: Browser
    ) -> None:
        with served(folder) as address:
            browser.open(address)
            browser.wait("document.body.dataset.ready")
            browser.keys(TAB)
            assert browser.run("return document.activeElement.name") == "text"
            browser.run("document.activeElement.select()")
            browser.keys("The cat" + TAB + HOME + TAB + ENTER)  # a capital the model does not know, the likeliest words
            browser.wait("document.querySelector('article output').textContent.startsWith('the cat')")
            browser.wait("!document.querySelector('section').dataset.running")
            lanes = {name: browser.run(LANE, name) for name in NAMES}
            for name in ("dense", "small"):
                assert lanes[name]["text"].strip() == greedy(networks[name], ["the", "cat"], 40).strip()
            for name, lane in lanes.items():
                written = lane["text"].replace("\n", " <eos> ").split()
                assert set(written) <= set(WORDS) - {"<unk>"}
                assert lane["bar"] == 1
                assert 0 < lane["milliseconds"] < 1000
                assert f"{name}: " in browser.run("return document.querySelector('.spoken').textContent")
            asked = browser.run(
                "return performance.getEntriesByType('resource').map(entry => new URL(entry.name).origin)"
            )
            assert set(asked) == {address}

    def test_another_time_it_writes_something_else(self, folder: Path, browser: Browser) -> None:
        with served(folder) as address:
            browser.open(address)
            browser.wait("document.body.dataset.ready")
            before = browser.run(LANE, "small")["text"]
            browser.run("document.querySelector('button').click()")
            browser.wait("!document.querySelector('section').dataset.running")
            assert browser.run(LANE, "small")["text"] != before

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_fits_a_phone_and_can_be_read(self, scheme: str, folder: Path, browser: Browser) -> None:
        with served(folder) as address:
            browser.look(width=360, height=740, scheme=scheme)
            browser.open(address)
            browser.wait("document.body.dataset.ready")
            assert browser.run("return document.documentElement.scrollWidth") <= 360
            for selector in ("p", "h2", "label", "button", "input", ".facts", ".facts b", "output", "footer"):
                assert browser.run(CONTRAST, selector) > 4.5, selector
            assert (browser.run(LIGHT) < 0.2) == (scheme == "dark")

    def test_a_damaged_model_is_told_and_the_others_run(self, folder: Path, tmp_path: Path, browser: Browser) -> None:
        copy = shutil.copytree(folder, tmp_path / "page")
        file = copy / "models" / "words_0.onnx"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with served(copy) as address:
            browser.open(address)
            browser.wait("document.body.dataset.ready")
            assert "words_0.onnx is damaged: its SHA-256 must be" in browser.run(LANE, "dense")["text"]
            assert browser.run(LANE, "small")["milliseconds"] > 0
        checked = subprocess.run(
            ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=copy, capture_output=True, check=False
        )
        assert checked.returncode == 1
        assert b"models/words_0.onnx: FAILED" in checked.stdout

    def test_a_missing_file_is_told(self, folder: Path, tmp_path: Path, browser: Browser) -> None:
        copy = shutil.copytree(folder, tmp_path / "page")
        (copy / "runtime" / "ort.wasm").unlink()
        with served(copy) as address:
            browser.open(address)
            error = browser.wait("document.querySelector('#status.error')?.textContent")
        assert "The file runtime/ort.wasm is missing (404)" in error

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--js-flags=--no-enable-sse4-1 --no-enable-ssse3", "WebAssembly lacks SIMD"),
            ("--js-flags=--jitless", "has no WebAssembly"),
        ],
    )
    def test_a_browser_that_cannot_says_so(self, flag: str, message: str, folder: Path) -> None:
        with served(folder) as address, browsing(flag) as poor:
            poor.open(address)
            assert message in poor.wait("document.querySelector('#status.error')?.textContent")


LANE = """
    const card = [...document.querySelectorAll("article")].find((each) => each.dataset.model === arguments[0]);
    const text = card.querySelector("output").textContent;
    return { text, bar: card.querySelector("progress").value, milliseconds: Number(card.dataset.milliseconds) };
"""
# contrast as WCAG 2.1 defines it
_COLOURS = """
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (node) => {
        const colour = parse(getComputedStyle(node).backgroundColor);
        return colour[3] === 0 && node.parentElement ? ground(node.parentElement) : colour;
    };
"""
CONTRAST = (
    _COLOURS
    + """
    const node = document.querySelector(arguments[0]);
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""
)
LIGHT = f"{_COLOURS} return light(ground(document.body));"


class TestFolder:
    def test_what_is_in_it(self, folder: Path) -> None:
        listed = {line[66:] for line in (folder / "SHA256SUMS").read_text().splitlines()}
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert there - listed == {"SHA256SUMS"}
        subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
        header = json.loads((folder / "config.json").read_text())
        assert header["export"] == "web"
        models = header["demos"][0]["models"]
        assert [model["name"] for model in models] == NAMES
        assert all((folder / model["file"]).stat().st_size == model["bytes"] for model in models)

    def test_it_is_replaced_when_asked(self, folder: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(folder, tmp_path / "page")
        with pytest.raises(FileExistsError, match="is not empty"):
            write_web([odd("Identity", "")], copy)
        write_web([odd("Identity", "")], copy, overwrite=True)
        assert [path.name for path in (copy / "models").iterdir()] == ["spelling_0.onnx"]

    def test_words_are_needed(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`vocabulary` must be given: the page shows words"):
            export_web(language_model(), tmp_path / "page")

    def test_an_operation_that_the_format_cannot_hold_is_named(self, tmp_path: Path) -> None:
        for operation, domain in (("Gather", "my.own"), ("NonZeroButOdd", "")):
            with pytest.raises(ValueError, match=f"the network 'odd'.* {operation}"):
                write_web([odd(operation, domain)], tmp_path / "page")
        projected = LanguageModel(len(WORDS), 6, 6, num_layers=1)
        projected.encoder = torch.nn.LSTM(6, 8, proj_size=6)
        with pytest.raises(ValueError, match="proj_size"):
            export_web(projected, tmp_path / "page", vocabulary=WORDS)
        assert not (tmp_path / "page").exists()

    def test_two_models_of_one_name_are_refused(self, tmp_path: Path) -> None:
        demo = odd("Identity", "")
        with pytest.raises(ValueError, match="each of its own name"):
            write_web([demo, demo], tmp_path / "page")

    def test_a_missing_npm_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        programs = tmp_path / "bin"
        programs.mkdir()
        monkeypatch.setenv("PATH", str(programs))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with pytest.raises(FileNotFoundError, match=r"the program 'node' is not installed.*apt-get install nodejs npm"):
            write_web([odd("Identity", "")], tmp_path / "page")
        (programs / "node").symlink_to(shutil.which("node", path=os.defpath) or "/usr/bin/node")
        with pytest.raises(FileNotFoundError, match="the program 'npm' is not installed"):
            write_web([odd("Identity", "")], tmp_path / "page")

    def test_what_npm_says_is_handed_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
        monkeypatch.setenv("npm_config_fetch_retries", "0")
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
        with pytest.raises(RuntimeError, match=r"npm cannot get onnxruntime-web [\d.]+, which .*ECONNREFUSED"):
            write_web([odd("Identity", "")], tmp_path / "page")

    def test_a_damaged_package_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        (tmp_path / "l0rnn").mkdir()
        (tmp_path / "l0rnn" / "onnxruntime-web-1.30.0.tgz").write_bytes(b"half a package")
        with pytest.raises(RuntimeError, match=r"is not the package onnxruntime-web .*; delete it"):
            write_web([odd("Identity", "")], tmp_path / "page")


def odd(operation: str, domain: str) -> WebDemo:
    """A page with a network of one operation."""
    onnx = pytest.importorskip("onnx")
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    node = onnx.helper.make_node(operation, ["x"], ["y"], domain=domain)
    graph = onnx.helper.make_graph([node], "odd", ports[:1], ports[1:])
    versions = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("my.own", 1)]
    content = onnx.helper.make_model(graph, opset_imports=versions, ir_version=8).SerializeToString()
    model = WebModel("odd", content, {"x": np.zeros(2, np.float32)}, {"input": "x", "output": "y"})
    return WebDemo("spelling", "Odd", "", "a", 1, [model], {"letters": ["a"], "symbols": ["A"], "end": 0})

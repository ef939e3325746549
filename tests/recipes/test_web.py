"""The page of the recipes: it pronounces what is typed as torch does, dense and small, and says what it cannot read."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator

import pytest

import l0rnn
from recipes.g2p.files import rounded, unrounded
from recipes.g2p.network import G2P, pronounce
from recipes.g2p.package import published_arrays, read_arrays
from recipes.web import main
from tests.browser import Browser, browsing, needs_browser, served
from tests.export.test_web import LANE

pytest.importorskip("onnxruntime", reason="the packages of the extra onnx are not installed")
pytestmark = [
    pytest.mark.slow,
    needs_browser,
    pytest.mark.skipif(
        not (shutil.which("node") and shutil.which("npm")),
        reason="the programs node and npm are not installed: apt-get install nodejs npm",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("g2p_en") is None,
        reason="the package g2p_en is not installed: pip install 'l0rnn[g2p]'",
    ),
]
WORDS = ("chromium", "knight", "activationist")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page as `make web` builds it, open in a browser."""
    out = tmp_path_factory.mktemp("web") / "page"
    main(["--out", str(out)])
    with served(out) as address, browsing() as browser:
        browser.open(address)
        browser.wait("document.body.dataset.ready")
        yield browser


@pytest.fixture(scope="module")
def networks() -> dict[str, G2P]:
    dense, small = published_arrays(), read_arrays(l0rnn.models()["g2p"].folder / "checkpoint20.npz")
    arrays = {"dense": dense, "small": small}
    arrays |= {f"{name}, int8": unrounded(rounded(both)) for name, both in arrays.items()}
    return {name: G2P.from_arrays(both).eval() for name, both in arrays.items()}


def type_word(page: Browser, word: str) -> None:
    page.run("const input = document.querySelector('#spelling input'); input.focus(); input.select()")
    page.keys(word)
    page.wait("!document.querySelector('#spelling').dataset.running")


@pytest.mark.parametrize("word", WORDS)
def test_it_pronounces_as_torch_does(word: str, page: Browser, networks: dict[str, G2P]) -> None:
    type_word(page, word)
    for name, network in networks.items():
        lane = page.run(LANE.replace('"article"', '"#spelling article"'), name)
        assert lane["text"].split() == list(pronounce(network, [word])[0]), name
        assert lane["milliseconds"] > 0
        assert lane["bar"] == 1


def test_a_letter_that_is_none_is_told(page: Browser) -> None:
    type_word(page, "r2d2")
    error = "document.querySelector('#spelling .error')?.textContent"
    assert page.wait(error).startswith("“2” is none of the letters abc")
    type_word(page, " ")
    assert page.wait(error) == "Type a word."
    type_word(page, "cat")
    assert page.run(f"return {error}") is None

"""The page that a training ends in: all in one file, with what happened in it, and readable in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from l0rnn import Budget, L0GatedLSTM, L0Gates, Pruner
from l0rnn.bench import benchmark
from l0rnn.methods.magnitude import GradualMagnitude
from l0rnn.report import History, write_page, write_training_report
from l0rnn.training import WriteReport
from tests.browser import browsing, needs_browser, served
from tests.tiny_text import WORDS, TinyText


def text_of(page: Path) -> str:
    """What the page says, without tags, styles and figures."""
    plain = re.sub(r"<(style|svg).*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", plain).split())


def is_self_contained(page: Path) -> bool:
    """Whether nothing in it is asked from elsewhere; names of vocabularies in SVG are no requests."""
    text = re.sub(
        r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>', "", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    return not re.search(r"(src|href)\s*=\s*\"(?!#|data:)|url\((?!#)|<script|@import", text)


@pytest.fixture
def pruner() -> Pruner:
    """A short training by hand, whose network has units that stay."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    pruner = Pruner(network, L0Gates(Budget(density=0.5)), torch.randn(8, 4), steps=300)
    optimizer = torch.optim.Adam(pruner.weights(), lr=0.01)
    for step in range(300):
        x = torch.randn(8, 4)
        loss = (network(x) - x[:, :2]).square().mean()
        optimizer.zero_grad()
        (loss + pruner.penalty()).backward()
        optimizer.step()
        pruner.step()
        if step % 100 == 50:
            pruner.note(valid_loss=loss.item())
    return pruner


def test_a_training_by_hand(pruner: Pruner, tmp_path: Path) -> None:
    networks = {"dense": nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), "shrunk": pruner.shrink()}
    bench = benchmark(networks, lambda batch, steps: (torch.randn(batch, 4),), grid=[(1, 1)], seconds=0.02)
    page = pruner.report(tmp_path / "pages" / "report.html", bench=bench)
    said = text_of(page)
    assert "Sequential under L0Gates" in said
    kept = pruner.trained_gates()["0"].gt(0).sum().item()
    assert f"0 {kept} 16 {kept / 16:.0%}" in said
    assert "it is an output of the network" in said  # why the last layer is whole
    assert re.search(r"outputs differ by at most \d\.\de-\d\d", said)
    assert "shrunk" in said.split("Latency")[1]
    drawn = page.read_text(encoding="utf-8")
    for title in ("units kept on each axis", "density of the multiply-adds", "price", "quality against cost"):
        assert title in drawn
    assert is_self_contained(page)
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_the_history_is_the_training(pruner: Pruner) -> None:
    steps, density = pruner.history.series("density")[""]
    assert density[0] == 1.0
    assert density[-1] == pytest.approx(pruner.figures()["density"])
    assert len(steps) == 300
    assert pruner.history.series("valid/")["loss"][0] == [51, 151, 251]
    other = Pruner(
        nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), L0Gates(Budget(density=0.5)), torch.randn(8, 4)
    )
    other.load_state_dict(pruner.state_dict())
    assert other.history == pruner.history


def test_no_step_no_page(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    pruner = Pruner(network, L0Gates(Budget(density=0.5)), torch.randn(8, 4), steps=10)
    with pytest.raises(RuntimeError, match="no step has been made"):
        pruner.report(tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


class TestLightning:
    @staticmethod
    def fit(folder: Path, **options: object) -> Path:
        from lightning import Trainer

        torch.manual_seed(0)
        model = L0GatedLSTM(WORDS, 8, num_layers=1, **options)
        callback = WriteReport(folder / "report.html", seconds=0.01)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        before = torch.get_rng_state()
        Trainer(max_epochs=3, callbacks=[callback], enable_model_summary=False, **quiet).fit(model, TinyText())
        assert not torch.equal(torch.get_rng_state(), before)
        return folder / "report.html"

    def test_a_training_of_gates(self, tmp_path: Path) -> None:
        page = self.fit(tmp_path, objective=Budget(density=0.5, start=0.0, ramp=0.2))
        said = text_of(page)
        assert "L0GatedLSTM under L0Gates" in said
        assert "Units kept" in said
        assert "before the cut" in said.split("Latency")[1]
        drawn = page.read_text(encoding="utf-8")
        assert "valid perplexity" in drawn
        assert is_self_contained(page)

    def test_what_was_not_shrunk_has_its_reason(self, tmp_path: Path) -> None:
        said = text_of(self.fit(tmp_path, method=GradualMagnitude(density=0.5)))
        assert "There is none: GradualMagnitude closes no units." in said
        assert "There is no table: nothing was shrunk." in said


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    history = History({1: {f"kept/{name}": 3.0, "density": 1.0}})
    page = write_training_report(tmp_path / "a.html", history, title=name, surgery=f"{name}\x1b[2J")
    write_page(tmp_path / "b.html", name, {name: f"| run |\n|---|\n| {name} |\n\n{name}"})
    for text in (page.read_text(encoding="utf-8"), (tmp_path / "b.html").read_text(encoding="utf-8")):
        assert "<script" not in text
        assert "\x1b" not in text


def test_without_matplotlib_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    page = write_training_report(tmp_path / "a.html", History({1: {"density": 1.0}}), title="A", surgery="no")
    assert "pip install 'l0rnn[plot]'" in page.read_text(encoding="utf-8").replace("&#x27;", "'")


@needs_browser
def test_in_a_browser(pruner: Pruner, tmp_path: Path) -> None:
    pruner.report(tmp_path / "index.html")
    with served(tmp_path) as address, browsing() as browser:
        for scheme, is_dark in (("light", False), ("dark", True)):
            browser.look(width=390, height=800, scheme=scheme)
            browser.open(address)
            colour = browser.run("return getComputedStyle(document.body).backgroundColor")
            assert (int(re.findall(r"\d+", colour)[0]) < 100) == is_dark
            assert browser.run("return document.documentElement.scrollWidth") <= 390
            heights = browser.run("return [...document.querySelectorAll('svg')].map((svg) => svg.clientHeight)")
            assert len(heights) == 5
            assert min(heights) > 100

"""What README and docs say is so: their examples run, their links lead somewhere, their lists are complete."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from l0rnn.version import __version__

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").rglob("README.md")),
]
LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
SECONDS = 120  # far more than any example takes, so that a slow machine does not fail


def read(page: Path) -> str:
    """A page without its comments: what stands in them is not there yet."""
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), flags=re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[tuple[str, str]]:
    """Text and target of every link to a file of the repository."""
    return [(text, target) for text, target in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", target)]


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def is_defined(dotted: str, tree: ast.Module) -> bool:
    """Whether a module defines a name such as ``Budget.term``; an annotated field of a class counts."""
    body: list[ast.stmt] = tree.body
    for name in dotted.split("."):
        found = next((node for node in body if name in names_of(node)), None)
        if found is None:
            return False
        body = found.body if isinstance(found, ast.ClassDef) else []
    return True


def names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {ast.unparse(target) for target in targets}


def run(code: str) -> str:
    """Run a script in the root of the repository, as a reader would; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class TestExamples:
    def test_the_six_lines(self) -> None:
        before = """
import torch
from torch import nn
network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
example_inputs, task = torch.randn(8, 4), nn.functional.mse_loss
data = [(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(50)]
optimizer = torch.optim.Adam(network.parameters())
"""
        printed = run(before + blocks(README, "python")[0] + "\nprint(small)")
        widths = re.search(r"Linear\(in_features=4, out_features=(\d+)", printed)
        assert widths is not None, printed
        assert 0 < int(widths[1]) < 16

    def test_the_code_comes_early(self) -> None:
        before = prose(README)[: README.read_text(encoding="utf-8").index("```python")]
        assert len(re.sub(r"\|.*\||!?\[.*?\]\(.*?\)", "", before.split("```")[0]).split()) < 150

    @pytest.mark.slow
    def test_the_script_shrinks_and_says_how_equal(self) -> None:
        printed = run((ROOT / "docs" / "example.py").read_text(encoding="utf-8"))
        widths = re.search(r"RaggedRNN\(\s*LSTM, (\d+), \[\[(\d+)\], \[(\d+)\]\]", printed)
        assert widths is not None, printed
        assert all(0 < int(width) < 128 for width in widths.groups())
        difference = re.search(r"largest difference between the outputs: (\S+)", printed)
        assert difference is not None, printed
        assert float(difference[1]) < 1e-4

    @pytest.mark.slow
    def test_a_network_of_ones_own(self) -> None:
        printed = run(blocks(README, "python")[1])
        widths = re.search(r"GRU\(6, (\d+), batch_first=True\)", printed)
        assert widths is not None, printed
        assert 0 < int(widths[1]) < 32
        assert f"in_features={widths[1]}," in printed

    def test_a_method_of_ones_own(self) -> None:
        printed = run(blocks(ROOT / "docs" / "architecture.md", "python")[0])
        widths = re.search(r"Embedding\(50, (\d+)\)", printed)
        assert widths is not None, printed
        assert 0 < int(widths[1]) < 16

    def test_a_rule_of_ones_own(self) -> None:
        after = """
from l0rnn.tracing import trace
network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 2))
network[1].forward = torch.logit
print(list(trace(network, torch.rand(5, 3)).axes))
"""
        assert run(blocks(ROOT / "docs" / "architecture.md", "python")[1] + after).strip() == "['0']"

    def test_the_small_network_for_phonemes(self) -> None:
        assert run(blocks(ROOT / "recipes" / "g2p" / "README.md", "python")[0]).startswith("['AE")

    def test_every_example_is_one_of_those(self) -> None:
        counts = {page.relative_to(ROOT).as_posix(): len(blocks(page, "python")) for page in PAGES}
        elsewhere = (
            "recipes/",
            "docs/export.md",
            "docs/compare.md",
            "docs/several_processes.md",
        )  # fragments, or a copy
        own = {name: count for name, count in counts.items() if count and not name.startswith(elsewhere)}
        assert own == {"README.md": 2, "docs/architecture.md": 2}


class TestLinks:
    def test_there_are_pages(self) -> None:
        names = [page.relative_to(ROOT).as_posix() for page in PAGES]
        assert {"docs/how_it_works.md", "docs/architecture.md", "recipes/penn_treebank/README.md"} < set(names)

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
    def test_links_lead_somewhere(self, page: Path) -> None:
        for _, target in links(page):
            path, _, anchor = target.partition("#")
            goal = (page.parent / path).resolve() if path else page
            assert goal.is_relative_to(ROOT), target
            assert goal.exists(), target
            assert not anchor or anchor in headings(goal), target

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
    def test_a_link_named_after_a_function_leads_to_its_file(self, page: Path) -> None:
        for text, target in links(page):
            name = re.fullmatch(r"`([A-Za-z_][\w.]*)`", text)
            if name is not None and target.endswith(".py"):
                tree = ast.parse((page.parent / target).read_text(encoding="utf-8"))
                assert is_defined(name[1], tree), f"{target} does not define {name[1]}"

    def test_a_wrong_name_would_be_found(self) -> None:
        tree = ast.parse("class Budget:\n    rate: int\n    def term(self): ...\nLIMIT = 3")
        assert [is_defined(name, tree) for name in ("Budget", "Budget.term", "Budget.rate", "LIMIT")] == 4 * [True]
        assert [is_defined(name, tree) for name in ("budget", "Budget.price", "term", "LIMIT.x")] == 4 * [False]


class TestLists:
    def test_make_targets_exist(self) -> None:
        named = set(re.findall(r"`make ([a-z]+)`", prose(README)))
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert {"demo", "test", "lint"} <= named
        assert named <= targets

    def test_the_places_of_the_demo_are_there(self) -> None:
        text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
        assert text.index("<!-- demo table -->") < text.index("<!-- /demo table -->") < text.index("demo.png")

    def test_the_version_is_the_same_wherever_it_stands(self) -> None:
        assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
        assert f"version {__version__}" in (ROOT / "docs" / "badges.svg").read_text(encoding="utf-8")
        assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    def test_the_versions_of_python_are_the_same_wherever_they_stand(self) -> None:
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        named = re.findall(r"Python :: (3\.\d+)", text)
        assert f'requires-python = ">={named[0]}"' in text
        assert f"Python {named[0]} to {named[-1]}" in (ROOT / "docs" / "badges.svg").read_text(encoding="utf-8")
        workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
        assert f"python: {json.dumps(named)}" in workflow

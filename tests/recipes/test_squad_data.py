"""SQuAD from its files to batches, on a small text written here."""

from __future__ import annotations

import copy
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.squad.articles import find_squad, read_squad
from recipes.squad.batches import Batches, answer_text
from recipes.squad.preparation import prepare
from recipes.squad.tokenizer import tokenize
from recipes.squad.vectors import read_vectors

CONTEXTS = ["Rome's king, Numa, ruled 43 years.", "The Anglo-Saxon fleet (of 3,000 ships) left in the 1990s again."]
ANSWERS = [["Numa", "ruled", "43 years"], ["Saxon", "3,000", "199", "again"]]


def document() -> dict[str, Any]:
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    "id": f"{number}-{index}",
                    "question": f"What is number {index}?",
                    "answers": [{"text": answer, "answer_start": context.index(answer)}],
                }
                for index, answer in enumerate(answers)
            ],
        }
        for number, (context, answers) in enumerate(zip(CONTEXTS, ANSWERS, strict=True))
    ]
    return {"version": "1.1", "data": [{"title": "Ships", "paragraphs": paragraphs}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "dev"):
        (tmp_path / f"{split}-v1.1.json").write_text(json.dumps(document()))
    (tmp_path / "v.txt").write_text("king 1 2\nruled 3 4\nthe 5 6\n")
    return tmp_path


def prepared(folder: Path, **options: Any):
    return (
        prepare(
            folder, folder / "cache", vectors_path=folder / "v.txt", frequent=2, frequent_character=1, progress=False
        )
        if not options
        else prepare(folder, folder / "cache", vectors_path=folder / "v.txt", progress=False, **options)
    )


def test_tokens():
    text = "Rome's don't (Anglo-Saxon) U.S. 1,500km in 1990s: O'Brien"
    tokens = tokenize(text)
    expected = "Rome 's do n't ( Anglo - Saxon ) U.S. 1,500 km in 1990s : O'Brien"
    assert " ".join(token.text for token in tokens) == expected
    assert all(text[token.start : token.end] == token.text for token in tokens)


@pytest.mark.parametrize("packing", ["", ".xz", ".gz"])
def test_reads_packed_files(tmp_path: Path, packing: str):
    content = json.dumps(document()).encode()
    content = {"": content, ".xz": lzma.compress(content), ".gz": gzip.compress(content)}[packing]
    (tmp_path / f"dev-v1.1.json{packing}").write_bytes(content)
    paragraphs = read_squad(find_squad("dev", tmp_path))
    assert [paragraph.context for paragraph in paragraphs] == CONTEXTS
    assert paragraphs[1].questions[0].answers == (("Saxon", 10),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("data"), "`data` must be a list"),
        (lambda d: d["data"][0]["paragraphs"][1].update(qas=3), "`qas` must be a list.*article 0.*paragraph 1"),
        (lambda d: d["data"][0]["paragraphs"][0].update(context=" "), "`context` must not be empty"),
        (lambda d: d["data"][0]["paragraphs"][0]["qas"][2].update(question=""), "`question` must not.*question 2"),
        (lambda d: d["data"][0]["paragraphs"][0]["qas"][1].update(id="0-0"), "question ids must be unique"),
        (lambda d: d["data"][0]["paragraphs"][0]["qas"][1].update(answers=[]), "`answers` must hold at least one"),
        (lambda d: d["data"][0]["paragraphs"][0]["qas"][0]["answers"][0].update(answer_start=1), "`answer_start` must"),
        (lambda d: d.update(data=[]), "at least one question"),
    ],
)
def test_wrong_layout(tmp_path: Path, change: Any, message: str):
    content = copy.deepcopy(document())
    change(content)
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_squad(tmp_path / "x.json")


def test_missing_and_damaged_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="`data_dir` must be an existing folder"):
        find_squad("dev", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="`data_dir` must hold dev-v1.1.json"):
        find_squad("dev", tmp_path)
    with pytest.raises(FileNotFoundError, match="`path` must be an existing file"):
        read_squad(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="`path` must be a JSON file"):
        read_squad(tmp_path / "x.json")
    (tmp_path / "x.json.xz").write_text("{")
    with pytest.raises(ValueError, match="`path` must be a whole .xz file"):
        read_squad(tmp_path / "x.json.xz")


def test_vectors(tmp_path: Path):
    path = tmp_path / "v.txt"
    path.write_text("a 1 2\nb 3 4\n")
    assert read_vectors(path, size=2, only={"b"}).vectors.tolist() == [[3, 4]]
    np.savez(tmp_path / "v.npz", words=np.array(["a"]), vectors=np.ones((1, 2), np.float16))
    assert read_vectors(tmp_path / "v.npz").vectors.dtype == np.float32
    with pytest.raises(ValueError, match="`size` must be the number of features"):
        read_vectors(path, size=3)
    for line in ("b 3", "b 3 x"):
        path.write_text(f"a 1 2\n{line}\n")
        with pytest.raises(ValueError, match="in line 2"):
            read_vectors(path)
    with pytest.raises(FileNotFoundError, match="existing file of vectors"):
        read_vectors(tmp_path / "none.txt")


def test_spans_words_and_report(folder: Path):
    train, _, report = prepared(folder)
    texts = [answer_text(train, n, int(train.starts[n]), int(train.ends[n])) for n in range(7)]
    assert texts == ["Numa", "ruled", "43 years", "Saxon", "3,000", "1990s", "again"]
    assert (report.train.exact, report.train.covered, report.train.dropped) == (6, 1, 0)
    assert report.train.file == "another"
    assert "| questions | 7 | 7 |" in report.table()
    assert "questions" in report.plain()
    vocabulary = train.vocabulary
    assert vocabulary.vectors[vocabulary.words.index("the")].tolist() == [5, 6]  # for "The" too
    assert vocabulary.trained[vocabulary.words.index("number")]
    assert vocabulary.trained[:2].tolist() == [False, True]


def test_long_contexts_are_evaluated_and_not_trained(folder: Path):
    train, dev, report = prepared(folder, max_context=10)
    assert report.dev.questions_on_long == 4
    assert report.dev.beyond == 2
    assert sorted(torch.cat([b.numbers for b in Batches(dev, 2, train=False)]).tolist()) == list(range(7))
    assert sorted(torch.cat([b.numbers for b in Batches(train, 2, train=True)]).tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="`start` and `end` must be a span"):
        answer_text(dev, 6, -1, -1)
    with pytest.raises(ValueError, match="`number` must be"):
        answer_text(dev, 7, 0, 0)


def test_batches_are_reproducible(folder: Path):
    train, _, _ = prepared(folder)
    batches = Batches(train, 2, train=True, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        orders.append([batch.numbers.tolist() for batch in batches])
    assert orders[0] == orders[2] != orders[1]
    for batch in batches:
        assert (batch.context_words > 0).sum(1).tolist() == batch.context_lengths.tolist()
        assert (batch.question_characters[..., 0] > 0).sum(1).tolist() == batch.question_lengths.tolist()
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        Batches(train, 0, train=True)
    train.starts[:] = -1
    with pytest.raises(ValueError, match="`examples` must hold questions"):
        Batches(train, 2, train=True)


def test_cache_is_used_and_made_anew_where_damaged(folder: Path):
    first, _, report = prepared(folder)
    (path,) = (folder / "cache").iterdir()
    again, _, same = prepared(folder)
    assert same == report
    assert again.ids == first.ids
    assert np.array_equal(again.context_forms, first.context_forms)
    path.write_bytes(path.read_bytes()[:500])
    assert prepared(folder)[2] == report
    assert path.stat().st_size > 500


def test_bad_arguments(folder: Path):
    with pytest.raises(ValueError, match="`max_context` must be at least 1, got 0"):
        prepared(folder, max_context=0)
    (folder / "v.txt").unlink()
    with pytest.raises(FileNotFoundError, match="`vectors_path` must be an existing file"):
        prepared(folder)

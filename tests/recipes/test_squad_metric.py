"""Exact match and F1 are those of SQuAD v1.1."""

from __future__ import annotations

import random

import pytest
from torchmetrics.functional.text import squad

from recipes.squad.articles import Paragraph, Question
from recipes.squad.metric import evaluate, exact_match, f1, normalise


def one_question(*answers: str) -> list[Paragraph]:
    return [Paragraph("text", (Question("q", "Why?", tuple((answer, 0) for answer in answers)),), "title")]


def test_scores_computed_by_hand():
    assert normalise(" The  U.S. an-Apple, a day") == "us anapple day"
    assert exact_match("the Cat!", ["dog", "cat"]) == 1.0
    assert exact_match("cats", ["cat"]) == 0.0
    assert f1("the old black cat", ["dog", "black cat here"]) == pytest.approx(2 / 3)  # 2 of 3 words, and 2 of 3
    assert f1("cat cat", ["cat"]) == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert f1("dog", ["cat"]) == 0.0


def test_unanswered_questions_are_wrong():
    paragraphs = one_question("cat") + [Paragraph("text", (Question("r", "Who?", (("dog", 0),)),), "title")]
    assert evaluate({"q": "a cat"}, paragraphs) == {"exact_match": 50.0, "f1": 50.0, "questions": 2, "unanswered": 1}


def test_agrees_with_torchmetrics():
    draw = random.Random(0)
    words = ["the", "a", "cat", "Dog,", "U.S.", "1-2", "mat", "mat."]
    for _ in range(200):
        texts = [" ".join(draw.choices(words[2:] + words, k=draw.randint(1, 6))) + " end" for _ in range(4)]
        theirs = squad(
            [{"prediction_text": texts[0], "id": "q"}],
            [{"answers": {"answer_start": [0, 0, 0], "text": texts[1:]}, "id": "q"}],
        )
        ours = evaluate({"q": texts[0]}, one_question(*texts[1:]))
        assert ours["exact_match"] == pytest.approx(theirs["exact_match"].item())
        assert ours["f1"] == pytest.approx(theirs["f1"].item())


def test_bad_input():
    with pytest.raises(ValueError, match="`answers` must be a sequence of at least one text"):
        f1("cat", [])
    with pytest.raises(ValueError, match="`paragraphs` must hold at least one question"):
        evaluate({}, [])
    with pytest.raises(ValueError, match="`predictions` must be for the questions.*'z'"):
        evaluate({"z": "cat"}, one_question("cat"))

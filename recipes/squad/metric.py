"""Exact match and F1 as SQuAD v1.1 defines them.

Both compare texts in lower case, without punctuation and without "a", "an" and "the"; a question counts with the best
of its answers.

Reference:
    Rajpurkar, Zhang, Lopyrev, Liang: "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016,
    arXiv:1606.05250, section 6.1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from recipes.squad.articles import Paragraph

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower-case words of a text, without punctuation and articles, joined by single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers after `normalise`, else 0."""
    _check_answers(answers)
    return float(any(normalise(prediction) == normalise(answer) for answer in answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the words, from 0 to 1, against the answer where it is largest."""
    _check_answers(answers)
    return max(_f1(normalise(prediction).split(), normalise(answer).split()) for answer in answers)


def _f1(predicted: list[str], expected: list[str]) -> float:
    common = sum((Counter(predicted) & Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def _check_answers(answers: Sequence[str]) -> None:
    if isinstance(answers, str) or not answers:
        raise ValueError(f"`answers` must be a sequence of at least one text, got {answers!r}; write [answer] for one")


def evaluate(predictions: Mapping[str, str], paragraphs: Iterable[Paragraph]) -> dict[str, float]:
    """Score the answers to all questions of a split.

    Args:
        predictions: the answer to each question, by the question's id. A question without one counts as wrong.
        paragraphs: the whole split, as `read_squad` returns it.

    Returns:
        ``exact_match`` and ``f1`` in percent of all questions, the number of ``questions``, and how many of them are
        ``unanswered``.

    Raises:
        ValueError: there is no question, or a prediction belongs to none.
    """
    questions = [question for paragraph in paragraphs for question in paragraph.questions]
    if not questions:
        raise ValueError("`paragraphs` must hold at least one question, got none")
    unknown = predictions.keys() - {question.id for question in questions}
    if unknown:
        raise ValueError(
            f"`predictions` must be for the questions of `paragraphs`, got {len(unknown)} for others, such as "
            f"{min(unknown)!r}; evaluate on the file that the questions came from"
        )
    matches = overlaps = 0.0
    for question in questions:
        if question.id in predictions:
            answers = [text for text, _ in question.answers]
            matches += exact_match(predictions[question.id], answers)
            overlaps += f1(predictions[question.id], answers)
    return {
        "exact_match": 100 * matches / len(questions),
        "f1": 100 * overlaps / len(questions),
        "questions": float(len(questions)),
        "unanswered": float(len(questions) - len(predictions)),
    }

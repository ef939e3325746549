"""Tokens, words and characters of the texts become numbers, answers become spans of tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.squad.articles import Paragraph
from recipes.squad.counts import SplitReport
from recipes.squad.download import Split, which_file
from recipes.squad.examples import PADDING, UNKNOWN, Examples, Vocabulary
from recipes.squad.tokenizer import Token, tokenize
from recipes.squad.vectors import read_vectors


class Texts:
    """Collects the tokens of one split, paragraph by paragraph."""

    def __init__(
        self,
        split: Split,
        md5: str,
        paragraphs: list[Paragraph],
        forms: dict[str, int],
        max_context: int,
        max_question: int,
    ) -> None:
        self._forms, self._max_context, self._max_question = forms, max_context, max_question
        self.counts: Counter[int] = Counter()  # of forms, also those that are cut off
        self._text: list[bytes] = []
        self._contexts: list[np.ndarray] = []  # of (form, start, end)
        self._questions: list[np.ndarray] = []
        self._answers: list[tuple[int, int, int]] = []  # paragraph, start, end
        self._ids: list[str] = []
        self._too_long: list[bool] = []
        self._tally: Counter[str] = Counter()
        articles = len({paragraph.title for paragraph in paragraphs})
        self._facts: dict[str, Any] = {"file": which_file(split, md5), "md5": md5, "articles": articles}

    def _numbered(self, tokens: Sequence[Token]) -> list[int]:
        numbers = [self._forms.setdefault(token.text, len(self._forms)) for token in tokens]
        self.counts.update(numbers)
        return numbers

    def add(self, paragraph: Paragraph) -> None:
        tokens = tokenize(paragraph.context)
        starts, ends = [token.start for token in tokens], [token.end for token in tokens]
        table = np.array([self._numbered(tokens), starts, ends], dtype=np.int32)
        self._contexts.append(table[:, : self._max_context])
        self._text.append(paragraph.context.encode())
        too_long = len(tokens) > self._max_context
        self._too_long.append(too_long)
        self._tally["long_contexts"] += too_long
        for question in paragraph.questions:
            numbers = self._numbered(tokenize(question.text))
            self._tally["long_questions"] += len(numbers) > self._max_question
            self._questions.append(np.array(numbers[: self._max_question], dtype=np.int32))
            start, end, kind = answer_span(table[1], table[2], *question.answers[0])
            self._tally[kind] += 1
            self._tally["questions_on_long"] += too_long
            if end >= self._max_context:
                self._tally["beyond"] += 1
                start = end = -1
            self._answers.append((len(self._contexts) - 1, start, end))
            self._ids.append(question.id)

    def examples(self, vocabulary: Vocabulary, words: np.ndarray, characters: np.ndarray) -> Examples:
        answers = np.array(self._answers, dtype=np.int32).reshape(-1, 3)
        forms, starts, ends = np.concatenate(self._contexts, axis=1)
        return Examples(
            vocabulary=vocabulary,
            form_words=words,
            form_characters=characters,
            text=np.frombuffer(b"".join(self._text), dtype=np.uint8),
            text_borders=_borders([len(text) for text in self._text]),
            context_forms=forms,
            context_borders=_borders([table.shape[1] for table in self._contexts]),
            token_starts=starts,
            token_ends=ends,
            too_long=np.array(self._too_long),
            question_forms=np.concatenate(self._questions),
            question_borders=_borders([len(question) for question in self._questions]),
            paragraphs=answers[:, 0].copy(),
            starts=answers[:, 1].copy(),
            ends=answers[:, 2].copy(),
            ids=self._ids,
        )

    def report(self, vocabulary: Vocabulary, words: np.ndarray) -> SplitReport:
        forms = np.fromiter(self.counts.keys(), dtype=np.int64)
        counts = np.fromiter(self.counts.values(), dtype=np.int64)
        ids = words[forms]
        return SplitReport(
            **self._facts,
            paragraphs=len(self._contexts),
            questions=len(self._ids),
            context_tokens=sum(table.shape[1] for table in self._contexts),
            question_tokens=sum(map(len, self._questions)),
            vector_coverage=float(counts[~vocabulary.trained[ids]].sum() / counts.sum()),
            known=float(counts[ids != UNKNOWN].sum() / counts.sum()),
            exact=self._tally["exact"],
            covered=self._tally["covered"],
            dropped=self._tally["dropped"],
            long_contexts=self._tally["long_contexts"],
            questions_on_long=self._tally["questions_on_long"],
            beyond=self._tally["beyond"],
            long_questions=self._tally["long_questions"],
        )


def answer_span(starts: np.ndarray, ends: np.ndarray, text: str, begin: int) -> tuple[int, int, str]:
    """The smallest span of tokens around an answer.

    Args:
        starts: `(token,)`, where the tokens begin, in characters.
        ends: `(token,)`, where they end.
        text: the answer; white space around it does not count.
        begin: where it begins.

    Returns:
        First and last token, and ``"exact"`` if the answer begins and ends with them, ``"covered"`` if it is within
        them; -1, -1 and ``"dropped"`` if it has no token.
    """
    stop = begin + len(text.rstrip())
    begin += len(text) - len(text.lstrip())
    first = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(starts, stop, side="left")) - 1
    if last < first:
        return -1, -1, "dropped"
    is_exact = starts[first] == begin and ends[last] == stop
    return first, last, "exact" if is_exact else "covered"


def _borders(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def spellings(form: str) -> tuple[str, ...]:
    plain = form.replace("\u2019", "'")
    return form, form.lower(), plain, plain.lower()


def number_words(
    forms: list[str],
    texts: dict[Split, Texts],
    settings: dict[str, int],
    vectors_path: Path | None,
    vector_size: int | None,
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """The vocabulary; the word of each form; the characters of each form."""
    only = {spelling for form in forms for spelling in spellings(form)}
    given = read_vectors(vectors_path, size=vector_size, only=only)
    rows = {word: row for row, word in enumerate(given.words)}
    chosen = [next((word for word in spellings(form) if word in rows), form.lower()) for form in forms]
    train: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for number, count in texts["train"].counts.items():
        train[chosen[number]] += count
        letters.update({letter: count * times for letter, times in Counter(forms[number]).items()})
    kept = {word for word in chosen if word in rows or train[word] >= settings["frequent"]}
    words = ["<padding>", "<unknown>", *sorted(kept, key=lambda word: (-train[word], word))]
    vectors, trained = _vectors_of(words, rows, given.vectors)
    frequent = [letter for letter, count in letters.items() if count >= settings["frequent_character"]]
    characters = ["<padding>", "<unknown>", *sorted(frequent, key=lambda letter: (-letters[letter], letter))]
    ids = {word: number for number, word in enumerate(words) if number > UNKNOWN}
    form_words = np.array([ids.get(word, UNKNOWN) for word in chosen], dtype=np.int32)
    form_characters = _spelled(forms, characters, settings["word_length"])
    return Vocabulary(words, characters, vectors, trained), form_words, form_characters


def _vectors_of(words: list[str], rows: dict[str, int], given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vector of each word, drawn at random where none is given, and which those are."""
    places = np.array([rows.get(word, -1) for word in words])
    places[:2] = -1  # no vector is taken from words of that name
    trained = places < 0
    trained[PADDING] = False
    scale = float(given.std()) if given.size else 1.0
    vectors = np.random.default_rng(0).normal(0.0, scale, (len(words), given.shape[1])).astype(np.float32)
    vectors[places >= 0] = given[places[places >= 0]]
    vectors[PADDING] = 0.0
    return vectors, trained


def _spelled(forms: list[str], characters: list[str], length: int) -> np.ndarray:
    """The characters of each form, `(form, character)`, 0 after its end."""
    ids = {letter: number for number, letter in enumerate(characters) if number > UNKNOWN}
    spelled = np.zeros((len(forms), length), dtype=np.uint16)
    for row, form in zip(spelled, forms, strict=True):
        found = [ids.get(letter, UNKNOWN) for letter in form[:length]]
        row[: len(found)] = found
    return spelled

"""SQuAD as arrays of numbers, prepared once and kept in one file.

Texts are ragged: the tokens of all contexts lie in one array, one context after the other, and `context_borders` says
where each begins. A token is the number of its form, the text as it is written; words and characters belong to the
form, so that each is stored once. Several questions share the context of their paragraph.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l0rnn.extras import require
from recipes.squad.articles import Paragraph, find_squad, parse_squad, unpacked
from recipes.squad.download import Split, md5_of, which_file
from recipes.squad.tokenizer import Token, tokenize
from recipes.squad.vectors import packaged_files, read_vectors

PADDING, UNKNOWN = 0, 1  # ids, of words and of characters
_LAYOUT = 1  # of the cache; another number makes all caches anew


@dataclass
class Vocabulary:
    """Words and characters by their ids: 0 is padding, 1 is everything unknown.

    Attributes:
        words: a word is written as in the file of vectors, else in lower case.
        characters: of the train texts.
        vectors: `(word, feature)` float32; zero for padding, drawn at random where there is no pre-trained one.
        trained: `(word,)` bool, the words without a pre-trained vector, whose vectors are to be learned.
    """

    words: list[str]
    characters: list[str]
    vectors: np.ndarray
    trained: np.ndarray


@dataclass
class Examples:
    """The questions of one split, each with the number of its paragraph and the tokens of its answer.

    Attributes:
        vocabulary: the same for both splits.
        form_words: `(form,)` word ids.
        form_characters: `(form, character)` character ids, 0 after the end.
        text: `(byte,)`, the contexts in UTF-8, one after the other.
        text_borders: `(paragraph + 1,)`, where they begin and end.
        context_forms: `(token,)`, the contexts, each cut to the longest allowed.
        context_borders: `(paragraph + 1,)`, where they begin and end.
        token_starts: `(token,)`, where in its context a token begins, in characters.
        token_ends: `(token,)`, and where it ends.
        too_long: `(paragraph,)` bool, the contexts that are cut.
        question_forms: `(question token,)`.
        question_borders: `(question + 1,)`.
        paragraphs: `(question,)`, number of the paragraph.
        starts: `(question,)`, first token of the first answer; -1 where there is none in the context as cut.
        ends: `(question,)`, its last token; -1 too.
        ids: the questions' ids.
    """

    vocabulary: Vocabulary
    form_words: np.ndarray
    form_characters: np.ndarray
    text: np.ndarray
    text_borders: np.ndarray
    context_forms: np.ndarray
    context_borders: np.ndarray
    token_starts: np.ndarray
    token_ends: np.ndarray
    too_long: np.ndarray
    question_forms: np.ndarray
    question_borders: np.ndarray
    paragraphs: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    ids: list[str]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.ids)


_ARRAYS = tuple(name for name in Examples.__annotations__ if name not in ("vocabulary", "ids"))
_SHARED = ("form_words", "form_characters")


@dataclass
class SplitReport:
    """Counts of one split. An answer is the first one of its question; `exact + covered + dropped == questions`.

    Attributes:
        file: ``"official"``, ``"rebuilt"`` or ``"another"``.
        exact: answers that begin and end with a token.
        covered: answers that do not; the span is the smallest number of tokens around them.
        dropped: answers without any token.
        long_contexts: contexts longer than the longest allowed; they are cut.
        questions_on_long: questions on these. They are left out in training and answered in evaluation.
        beyond: questions on these whose answer is cut off, in whole or in part.
        long_questions: questions longer than the longest allowed; they are cut.
        vector_coverage: share of the tokens of contexts and questions that have a pre-trained vector.
        known: share that has a vector of its own, pre-trained or not.
    """

    file: str
    md5: str
    articles: int
    paragraphs: int
    questions: int
    exact: int
    covered: int
    dropped: int
    long_contexts: int
    questions_on_long: int
    beyond: int
    long_questions: int
    context_tokens: int
    question_tokens: int
    vector_coverage: float
    known: float


@dataclass
class Report:
    """What was prepared from which files."""

    train: SplitReport
    dev: SplitReport
    words: int
    words_without_vector: int
    characters: int
    features: int
    max_context: int
    max_question: int

    def _rows(self) -> list[tuple[str, str, str]]:
        context, question = f"more than {self.max_context} tokens", f"more than {self.max_question} tokens"
        labels = {
            "file": "file",
            "articles": "articles",
            "paragraphs": "paragraphs",
            "questions": "questions",
            "exact": "answers that begin and end with a token",
            "covered": "answers covered by whole tokens",
            "dropped": "answers without a token",
            "long_contexts": f"contexts of {context}, cut",
            "questions_on_long": "questions on these: not trained, but evaluated",
            "beyond": "of these, with the answer cut off",
            "long_questions": f"questions of {question}, cut",
            "context_tokens": "tokens of the contexts, cut",
            "question_tokens": "tokens of the questions, cut",
            "vector_coverage": "tokens with a pre-trained vector",
            "known": "tokens with a vector of their own",
        }
        train, dev = asdict(self.train), asdict(self.dev)
        return [(label, _written(train[name]), _written(dev[name])) for name, label in labels.items()]

    def _last_line(self) -> str:
        return (
            f"{self.words:,} words, {self.words_without_vector:,} of them without a pre-trained vector; "
            f"{self.characters:,} characters; {self.features} features per word"
        )

    def table(self) -> str:
        """The report as a Markdown table."""
        rows = "\n".join(f"| {label} | {train} | {dev} |" for label, train, dev in self._rows())
        return f"| | train | dev |\n|---|---|---|\n{rows}\n\n{self._last_line()}"

    def plain(self) -> str:
        """The report for a terminal."""
        rows = [("", "train", "dev"), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        return "\n".join([*lines, self._last_line()])


def _written(value: object) -> str:
    if isinstance(value, float):
        return f"{100 * value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else str(value)


def prepare(
    data_dir: Path | None,
    cache_dir: Path,
    *,
    vectors_path: Path | None,
    vector_size: int | None = None,
    max_context: int = 400,
    max_question: int = 30,
    word_length: int = 16,
    frequent: int = 10,
    frequent_character: int = 20,
    limit: int | None = None,
    progress: bool = True,
) -> tuple[Examples, Examples, Report]:
    """Read both splits and number their words, or take that from the cache.

    Args:
        data_dir: folder with the files, see `find_squad`.
        cache_dir: folder where the arrays are kept, one file per choice of arguments and files.
        vectors_path: file of word vectors, or None for those of a package; see `read_vectors`.
        vector_size: features that the vectors must have.
        max_context: longest context, in tokens; longer ones are cut and reported.
        max_question: longest question, in tokens; longer ones are cut and reported.
        word_length: characters per word; the rest of longer words is not read.
        frequent: a word without a pre-trained vector gets one of its own if it stands so often in the train texts.
        frequent_character: a character gets an id of its own if it stands so often in the train texts.
        limit: read only so many paragraphs from the beginning of each split.
        progress: show a progress bar.

    Returns:
        The train split, the dev split, and the counts of both.

    Raises:
        ValueError: an argument is not positive, or a file is not as it should be.
        FileNotFoundError: a folder or a file does not exist.
    """
    settings = {
        "max_context": max_context,
        "max_question": max_question,
        "word_length": word_length,
        "frequent": frequent,
        "frequent_character": frequent_character,
    }
    for name, value in (settings if limit is None else settings | {"limit": limit}).items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    sources = {split: unpacked(find_squad(split, data_dir)) for split in ("train", "dev")}
    md5s = {split: md5_of(content) for split, content in sources.items()}
    files = [[len(content), md5s[split]] for split, content in sources.items()] + _identity(vectors_path)
    key = json.dumps([_LAYOUT, settings, limit, vector_size, files], sort_keys=True)
    path = Path(cache_dir).expanduser() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if path.is_file():
        try:
            return _load(path)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
            path.unlink()  # damaged: made anew
    bar = require("tqdm", "squad").tqdm(total=2, desc="reading", unit=" paragraphs", disable=not progress)
    with bar:
        forms: dict[str, int] = {}
        texts = {}
        read = {split: parse_squad(sources[split], source=split)[:limit] for split in ("train", "dev")}
        bar.reset(total=sum(map(len, read.values())))
        for split in ("train", "dev"):
            texts[split] = _Texts(split, md5s[split], read[split], forms, max_context, max_question)
            for paragraph in read[split]:
                texts[split].add(paragraph)
                bar.update()
    vocabulary, words, characters = _vocabulary(list(forms), texts, settings, vectors_path, vector_size)
    train, dev = (texts[split].examples(vocabulary, words, characters) for split in ("train", "dev"))
    report = Report(
        train=texts["train"].report(vocabulary, words),
        dev=texts["dev"].report(vocabulary, words),
        words=len(vocabulary.words),
        words_without_vector=int(vocabulary.trained.sum()),
        characters=len(vocabulary.characters),
        features=vocabulary.vectors.shape[1],
        max_context=max_context,
        max_question=max_question,
    )
    _save(path, train, dev, report)
    return train, dev, report


def _identity(vectors_path: Path | None) -> list[list[object]]:
    """Size and md5 of the files the vectors come from."""
    paths = packaged_files() if vectors_path is None else (Path(vectors_path).expanduser(),)
    found = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"`vectors_path` must be an existing file of word vectors, got {str(path)!r}")
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
        found.append([path.suffix, path.stat().st_size, digest.hexdigest()])
    return found


class _Texts:
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


def _spellings(form: str) -> tuple[str, ...]:
    plain = form.replace("\u2019", "'")
    return form, form.lower(), plain, plain.lower()


def _vocabulary(
    forms: list[str],
    texts: dict[Split, _Texts],
    settings: dict[str, int],
    vectors_path: Path | None,
    vector_size: int | None,
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """The vocabulary; the word of each form; the characters of each form."""
    only = {spelling for form in forms for spelling in _spellings(form)}
    given = read_vectors(vectors_path, size=vector_size, only=only)
    rows = {word: row for row, word in enumerate(given.words)}
    chosen = [next((word for word in _spellings(form) if word in rows), form.lower()) for form in forms]
    train: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for number, count in texts["train"].counts.items():
        train[chosen[number]] += count
        letters.update({letter: count * times for letter, times in Counter(forms[number]).items()})
    kept = {word for word in chosen if word in rows or train[word] >= settings["frequent"]}
    words = ["<padding>", "<unknown>", *sorted(kept, key=lambda word: (-train[word], word))]
    places = np.array([rows.get(word, -1) for word in words])
    places[:2] = -1  # no vector is taken from words of that name
    trained = places < 0
    trained[PADDING] = False
    scale = float(given.vectors.std()) if given.vectors.size else 1.0
    drawn = np.random.default_rng(0).normal(0.0, scale, (len(words), given.vectors.shape[1]))
    vectors = drawn.astype(np.float32)
    vectors[places >= 0] = given.vectors[places[places >= 0]]
    vectors[PADDING] = 0.0
    frequent = [letter for letter, count in letters.items() if count >= settings["frequent_character"]]
    characters = ["<padding>", "<unknown>", *sorted(frequent, key=lambda letter: (-letters[letter], letter))]
    ids = {word: number for number, word in enumerate(words) if number > UNKNOWN}
    form_words = np.array([ids.get(word, UNKNOWN) for word in chosen], dtype=np.int32)
    letter_ids = {letter: number for number, letter in enumerate(characters) if number > UNKNOWN}
    form_characters = np.zeros((len(forms), settings["word_length"]), dtype=np.uint16)
    for row, form in zip(form_characters, forms, strict=True):
        spelled = [letter_ids.get(letter, UNKNOWN) for letter in form[: len(row)]]
        row[: len(spelled)] = spelled
    return Vocabulary(words, characters, vectors, trained), form_words, form_characters


def _save(path: Path, train: Examples, dev: Examples, report: Report) -> None:
    vocabulary = train.vocabulary
    arrays = {name: getattr(train, name) for name in _SHARED}
    arrays |= {"vectors": vocabulary.vectors, "trained": vocabulary.trained}
    for split, examples in (("train", train), ("dev", dev)):
        arrays |= {f"{split}_{name}": getattr(examples, name) for name in _ARRAYS if name not in _SHARED}
    texts = {
        "words": vocabulary.words,
        "characters": vocabulary.characters,
        "train_ids": train.ids,
        "dev_ids": dev.ids,
        "report": asdict(report),
    }
    arrays["texts"] = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a file under its final name is always whole.
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with aside.open("wb") as file:
        np.savez(file, **arrays)
    aside.replace(path)


def _load(path: Path) -> tuple[Examples, Examples, Report]:
    with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    texts = json.loads(arrays["texts"].tobytes())
    vocabulary = Vocabulary(texts["words"], texts["characters"], arrays["vectors"], arrays["trained"])
    shared = {name: arrays[name] for name in _SHARED}
    train, dev = (
        Examples(
            vocabulary=vocabulary,
            ids=texts[f"{split}_ids"],
            **shared,
            **{name: arrays[f"{split}_{name}"] for name in _ARRAYS if name not in _SHARED},
        )
        for split in ("train", "dev")
    )
    report = texts["report"]
    report |= {split: SplitReport(**report[split]) for split in ("train", "dev")}
    return train, dev, Report(**report)

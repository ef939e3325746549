"""SQuAD v1.1 as paragraphs with questions, read from the official JSON layout and checked on the way."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.squad.download import WAYS_TO_GET_IT, Split, download


@dataclass(frozen=True)
class Question:
    """A question; `answers` are texts, each with the place in the paragraph's context where it begins."""

    id: str
    text: str
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of an article and the questions on it."""

    context: str
    questions: tuple[Question, ...]
    title: str


def find_squad(split: Split, data_dir: Path | None = None) -> Path:
    """The file of a split.

    Args:
        split: ``"train"`` or ``"dev"``.
        data_dir: folder with ``train-v1.1.json`` and ``dev-v1.1.json``, or ``train-v1.1.rebuilt.json``; also packed,
            as .xz or .gz. Without it the official file is downloaded to ``~/.cache/l0rnn/squad``.

    Raises:
        ValueError: `split` is neither of the two, or the downloaded file is not the official one.
        FileNotFoundError: `data_dir` or the split's file in it does not exist.
        ConnectionError: the download failed.
    """
    if split not in ("train", "dev"):
        raise ValueError(f"`split` must be train or dev, got {split!r}")
    if data_dir is None:
        return download(split)
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"`data_dir` must be an existing folder, got {str(data_dir)!r}. {WAYS_TO_GET_IT}")
    for name in (f"{split}-v1.1", f"{split}-v1.1.rebuilt"):
        for packing in ("", ".xz", ".gz"):
            path = folder / f"{name}.json{packing}"
            if path.is_file():
                return path
    raise FileNotFoundError(f"`data_dir` must hold {split}-v1.1.json, but {str(data_dir)!r} does not. {WAYS_TO_GET_IT}")


def unpacked(path: Path) -> bytes:
    """The bytes of a file, unpacked where its name ends in .xz or .gz."""
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be an existing file, got {str(path)!r}. {WAYS_TO_GET_IT}")
    content = path.read_bytes()
    try:
        if path.suffix == ".xz":
            return lzma.decompress(content)
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"`path` must be a whole {path.suffix} file, got {str(path)!r}: {error}; fetch it again"
        ) from error


def read_squad(path: Path) -> list[Paragraph]:
    """Read a file of SQuAD v1.1.

    Args:
        path: .json, or .json.xz or .json.gz.

    Returns:
        The paragraphs in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or has another layout, a question or context is empty, an answer does not stand
            where it is said to, or two questions have the same id.
    """
    return parse_squad(unpacked(Path(path)), source=str(path))


def parse_squad(content: bytes, *, source: str) -> list[Paragraph]:
    """The paragraphs of an unpacked file; `source` names it in errors."""
    try:
        document = json.loads(content)
    except ValueError as error:  # also a text that is not UTF-8
        raise ValueError(f"`path` must be a JSON file, got {source!r}: {error}; fetch it again") from error
    paragraphs = []
    seen: dict[str, str] = {}
    for number, article in enumerate(_field(document, "data", list, source)):
        place = f"{source}, article {number}"
        title = _field(article, "title", str, place)
        for index, paragraph in enumerate(_field(article, "paragraphs", list, place)):
            paragraphs.append(_paragraph(paragraph, title, seen, f"{place} ({title}), paragraph {index}"))
    if not seen:
        raise ValueError(f"`path` must hold at least one question, got none in {source}")
    return paragraphs


def _paragraph(record: Any, title: str, seen: dict[str, str], place: str) -> Paragraph:
    context = _text(record, "context", place)
    questions = []
    for index, item in enumerate(_field(record, "qas", list, place)):
        here = f"{place}, question {index}"
        question = _question(item, context, here)
        if question.id in seen:
            raise ValueError(
                f"question ids must be unique, got {question.id!r} in {here} and in {seen[question.id]}; "
                "give one of them another id"
            )
        seen[question.id] = here
        questions.append(question)
    return Paragraph(context, tuple(questions), title)


def _question(record: Any, context: str, place: str) -> Question:
    answers = []
    for index, answer in enumerate(_field(record, "answers", list, place)):
        here = f"{place}, answer {index}"
        text, start = _text(answer, "text", here), _field(answer, "answer_start", int, here)
        found = context[start : start + len(text)] if start >= 0 else ""
        if found != text:
            raise ValueError(
                f"`answer_start` must be where the answer begins in the context, got {start} in {here}: there stands "
                f"{found!r} and not {text!r}; correct the file"
            )
        answers.append((text, start))
    if not answers:
        raise ValueError(f"`answers` must hold at least one answer, got none in {place}; SQuAD v2 is not supported")
    return Question(_text(record, "id", place), _text(record, "question", place), tuple(answers))


def _text(record: Any, name: str, place: str) -> str:
    text = _field(record, name, str, place)
    if not text.strip():
        raise ValueError(f"`{name}` must not be empty, got {text!r} in {place}; take it out of the file")
    return text


def _field(record: Any, name: str, kind: type, place: str) -> Any:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = {list: "a list", str: "a text", int: "a whole number"}
        raise ValueError(
            f"`{name}` must be {kinds[kind]}, got {value!r:.60} in {place}; the file must have the layout of SQuAD v1.1"
        )
    return value

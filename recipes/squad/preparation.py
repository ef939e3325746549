"""SQuAD prepared once, and kept in one file of arrays."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from l0rnn.extras import require
from recipes.squad.articles import find_squad, parse_squad, unpacked
from recipes.squad.counts import Report, SplitReport
from recipes.squad.download import md5_of
from recipes.squad.examples import Examples, Vocabulary
from recipes.squad.numbering import Texts, number_words
from recipes.squad.vectors import packaged_files

_LAYOUT = 1  # of the cache; another number makes all caches anew
_ARRAYS = tuple(name for name in Examples.__annotations__ if name not in ("vocabulary", "ids"))
_SHARED = ("form_words", "form_characters")


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
            texts[split] = Texts(split, md5s[split], read[split], forms, max_context, max_question)
            for paragraph in read[split]:
                texts[split].add(paragraph)
                bar.update()
    vocabulary, words, characters = number_words(list(forms), texts, settings, vectors_path, vector_size)
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

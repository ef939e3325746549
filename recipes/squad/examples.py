"""Questions as arrays of numbers.

Texts are ragged: the tokens of all contexts lie in one array, one context after the other, and `context_borders` says
where each begins. A token is the number of its form, the text as it is written; words and characters belong to the
form, so that each is stored once. Several questions share the context of their paragraph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

PADDING, UNKNOWN = 0, 1  # ids, of words and of characters


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

    def part(self, first: int, stop: int) -> Examples:
        """The questions from `first` to before `stop`, with all the contexts."""
        questions = slice(first, stop)
        return replace(
            self,
            question_borders=self.question_borders[first : stop + 1],
            paragraphs=self.paragraphs[questions],
            starts=self.starts[questions],
            ends=self.ends[questions],
            ids=self.ids[questions],
        )

"""Ask a trained model a question about a text.

    python -m recipes.squad.ask --model out/squad_l0/model --context article.txt "Who wrote it?"

Prints the answer with its probability, and the text with the answer marked.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.squad.evaluate import best_spans
from recipes.squad.examples import UNKNOWN
from recipes.squad.numbering import spellings
from recipes.squad.sizes import load_model
from recipes.squad.tokenizer import Token, tokenize


@dataclass(frozen=True)
class Answer:
    """A span of a text.

    Attributes:
        text: the span.
        start: its first character.
        end: the character after its last.
        probability: of its first word times that of its last.
    """

    text: str
    start: int
    end: int
    probability: float


class Reader:
    """A trained model with its vocabulary.

    Args:
        folder: as `recipes.squad.train` writes it.

    Raises:
        ValueError: if the folder holds no model.
    """

    def __init__(self, folder: Path) -> None:
        self.network, self.config, listed = load_model(folder)
        self._words = {word: number for number, word in enumerate(listed["words"]) if number > UNKNOWN}
        self._characters = {letter: number for number, letter in enumerate(listed["characters"]) if number > UNKNOWN}

    @torch.no_grad()
    def answer(self, context: str, question: str) -> Answer:
        """The most probable span of the text.

        Raises:
            ValueError: if there is no word in the text or in the question.
        """
        tokens, asked = tokenize(context), tokenize(question)
        if not tokens:
            raise ValueError("the context must not be empty")
        if not asked:
            raise ValueError("the question must not be empty")
        lengths = torch.tensor([len(tokens)]), torch.tensor([len(asked)])
        start, end, probability = best_spans(*self.network(*self._ids(tokens), *self._ids(asked), *lengths))
        first, last = tokens[int(start)], tokens[int(end)]
        return Answer(context[first.start : last.end], first.start, last.end, float(probability))

    def _ids(self, tokens: list[Token]) -> tuple[Tensor, Tensor]:
        length = int(self.config["word_length"])
        words = [
            next((self._words[word] for word in spellings(token.text) if word in self._words), UNKNOWN)
            for token in tokens
        ]
        characters = torch.zeros(1, len(tokens), length, dtype=torch.long)
        for row, token in zip(characters[0], tokens, strict=True):
            spelled = [self._characters.get(letter, UNKNOWN) for letter in token.text[:length]]
            row[: len(spelled)] = torch.tensor(spelled)
        return torch.tensor([words]), characters


def marked(context: str, answer: Answer, *, colours: bool) -> str:
    """The text with the answer in colours, or in brackets.

    Example:
        >>> marked("It rained.", Answer("rained", 3, 9, 0.5), colours=False)
        'It [rained].'
    """
    left, right = ("\033[1;32m", "\033[0m") if colours else ("[", "]")
    return f"{context[: answer.start]}{left}{answer.text}{right}{context[answer.end :]}"


def main(arguments: list[str] | None = None) -> None:
    """Read the options, ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder that recipes.squad.train wrote")
    parser.add_argument("--context", type=Path, required=True, help="text file, UTF-8")
    parser.add_argument("question")
    options: Any = parser.parse_args(arguments)
    try:
        if not options.context.is_file():
            raise ValueError(f"`--context` must be a text file, got {str(options.context)!r}")
        context = options.context.read_text(encoding="utf-8").strip()
        answer = Reader(options.model).answer(context, options.question)
    except ValueError as error:  # a text that is not UTF-8 among them
        sys.exit(str(error))
    print(f"{answer.text}  (probability {answer.probability:.2f})\n")
    print(marked(context, answer, colours=sys.stdout.isatty()))


if __name__ == "__main__":
    main()

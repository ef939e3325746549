"""Let a language model write: sample word after word, each from the state that the one before it left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from l0rnn.arguments import checked
from l0rnn.export.streaming import Streamer
from l0rnn.export.vocabulary import END_OF_SENTENCE


@checked
def generate(
    streamer: Streamer,
    words: int,
    *,
    prompt: Sequence[int] = (),
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Sample word ids from a language model, one step at a time.

    Args:
        streamer: of a language model, in any format.
        words: how many words.
        prompt: word ids to go on from; without them the model goes on from ``<eos>``, as at the start of a sentence.
        temperature: logits are divided by it: below 1 likely words become likelier still; 0 always takes the likeliest.
        generator: source of randomness.

    Returns:
        An iterator over the word ids, without those of the prompt.

    Raises:
        ValueError: if an argument is out of range, or the model is not one of words.

    Example:
        >>> from l0rnn.export.streaming import TorchStreamer
        >>> from l0rnn.language.language_model import LanguageModel
        >>> model = TorchStreamer(LanguageModel(50, 4, 6))
        >>> len(list(generate(model, 5, prompt=[7, 8], generator=torch.Generator().manual_seed(0))))
        5
    """
    if words < 1:
        raise ValueError(f"`words` must be > 0, got {words}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"`temperature` must be ≥ 0, got {temperature}")
    known = streamer.interface.words
    if known is None or not streamer.interface.is_streamable:
        raise ValueError("the model must read words and be run step by step, but this one does not")
    wrong = next((token for token in prompt if not 0 <= token < known), None)
    if wrong is not None:
        raise ValueError(f"`prompt` must hold word ids in [0, {known}), got {wrong}")
    return _words(streamer, words, list(prompt) or [_start(streamer)], temperature, generator)


def _words(
    streamer: Streamer, words: int, prompt: list[int], temperature: float, generator: torch.Generator | None
) -> Iterator[int]:
    state = None
    for token in prompt[:-1]:
        _, state = streamer.step(torch.tensor([token]), state)
    token = prompt[-1]
    for _ in range(words):
        logits, state = streamer.step(torch.tensor([token]), state)
        # a word may be ruled out by -inf, but not all of them, and none may be NaN
        if not bool((logits[0] < torch.inf).all() and logits[0].isfinite().any()):
            raise ValueError(
                "the model gives NaN or infinite logits: its training had diverged, or its file is damaged"
            )
        if temperature == 0:
            token = int(logits[0].argmax())
        else:
            probabilities = (logits[0].double() / temperature).softmax(-1)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
        yield token


def _start(streamer: Streamer) -> int:
    vocabulary = streamer.vocabulary or ()
    return vocabulary.index(END_OF_SENTENCE) if END_OF_SENTENCE in vocabulary else 0

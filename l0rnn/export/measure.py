"""Bytes, latency and quality of an export, whatever its format."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from l0rnn.arguments import checked
from l0rnn.export.streaming import Streamer
from l0rnn.export.vocabulary import encode


@checked
def perplexity(streamer: Streamer, tokens: Tensor, *, steps: int = 35) -> float:
    """Perplexity, exp of the mean loss in nats per token, with the state carried over segments.

    Args:
        streamer: of a language model.
        tokens: columns of text, `(time, batch)`.
        steps: time steps of a segment, as far as memory goes; the result does not depend on it.

    Raises:
        ValueError: if there are fewer than 2 steps.

    Example:
        >>> from l0rnn.export.streaming import TorchStreamer
        >>> from l0rnn.language.language_model import LanguageModel
        >>> untrained = TorchStreamer(LanguageModel(50, 4, 6, init_range=0.0))
        >>> round(perplexity(untrained, torch.randint(50, (20, 2))), 3)
        50.0
    """
    if len(tokens) < 2:
        raise ValueError(f"`tokens` must have at least 2 time steps, got {len(tokens)}")
    if steps < 1:
        raise ValueError(f"`steps` must be > 0, got {steps}")
    total, state = 0.0, None
    for start in range(0, len(tokens) - 1, steps):
        stop = min(start + steps, len(tokens) - 1)
        logits, state = streamer.run(tokens[start:stop], state)
        targets = tokens[start + 1 : stop + 1]
        total += nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return float(torch.tensor(total / tokens[1:].numel()).exp())


@checked
def text_columns(vocabulary: Sequence[str] | None, text: str, *, batch: int = 20) -> Tensor:
    r"""Word ids of a text, cut into columns that lie side by side, `(time, batch)`; the remainder is dropped.

    Args:
        vocabulary: the words that the model knows.
        text: words separated by spaces, one sentence per line.
        batch: number of columns, fewer for a short text.

    Raises:
        ValueError: if there is no vocabulary, a word is not in it, or the text has fewer than 2 words.

    Example:
        >>> text_columns(("<eos>", "the", "cat"), "the cat\nthe cat\n", batch=2)
        tensor([[1, 1],
                [2, 2],
                [0, 0]])
    """
    if vocabulary is None:
        raise ValueError("`vocabulary` must be given with a text: the model needs word ids")
    if batch < 1:
        raise ValueError(f"`batch` must be > 0, got {batch}")
    ids = torch.tensor(encode(vocabulary, text), dtype=torch.int64)
    if len(ids) < 2:
        raise ValueError(f"`text` must have at least 2 words, got {len(ids)}")
    columns = min(batch, len(ids) // 2)
    return ids[: len(ids) // columns * columns].view(columns, -1).T.contiguous()


def sampled_text(streamer: Streamer, *, time: int = 60, batch: int = 20, seed: int = 0) -> Tensor:
    """Word ids `(time, batch)` that a language model makes up: a text to measure it on where there is no other."""
    generator = torch.Generator().manual_seed(seed)
    token = torch.randint(streamer.interface.words or 1, (batch,), generator=generator)
    tokens, state = [token], None
    for _ in range(time - 1):
        logits, state = streamer.step(token, state)
        token = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
        tokens.append(token)
    return torch.stack(tokens)


def step_milliseconds(
    streamers: Mapping[str, Streamer], inputs: Tensor, *, threads: int = 1, seconds: float = 0.5, rounds: int = 5
) -> dict[str, float]:
    """Median milliseconds of one call, going on from a state, where the streamers take turns.

    Args:
        streamers: name → streamer.
        inputs: of `Streamer.run`, such as one step of one sequence.
        threads: CPU threads of torch; ONNX Runtime has those of its streamer.
        seconds: time for each streamer.
        rounds: how often they take turns.
    """
    samples: dict[str, list[float]] = {name: [] for name in streamers}
    states = {name: streamer.run(inputs)[1] for name, streamer in streamers.items()}
    for _ in range(rounds):
        for name, streamer in streamers.items():
            call = {"run": streamer.run, "inputs": inputs, "state": states[name]}
            timer = Timer("run(inputs, state)", globals=call, num_threads=threads)
            samples[name].extend(timer.blocked_autorange(min_run_time=seconds / rounds).times)
    return {name: statistics.median(times) * 1e3 for name, times in samples.items()}


def relative_error(expected: Tensor, got: Tensor) -> float:
    """Root mean square of the difference, relative to that of the expected values.

    Example:
        >>> round(relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])), 3)
        0.1
    """
    return ((got - expected).double().norm() / expected.double().norm().clamp_min(1e-30)).item()

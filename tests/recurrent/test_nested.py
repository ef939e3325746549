"""Nested inputs and states keep their form."""

from typing import Any, NamedTuple

import torch
from torch import nn

from l0rnn.recurrent.nested import map_tensors, moved_to
from l0rnn.surgery.states import RecurrentState, cut_state
from l0rnn.training.batches import detached


class Pair(NamedTuple):
    first: torch.Tensor
    rest: Any


def test_everything_moves_and_keeps_its_form() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(2, 1)])
    moved = moved_to(Pair(torch.ones(1), [{"a": torch.ones(2), "b": "text"}, None, packed]), torch.device("meta"))
    assert type(moved) is Pair
    assert moved.first.is_meta
    assert moved.rest[0]["a"].is_meta
    assert moved.rest[2].data.is_meta
    assert type(moved.rest) is list
    assert (moved.rest[0]["b"], moved.rest[1]) == ("text", None)


def test_the_original_is_left_alone() -> None:
    nested = {"a": [torch.ones(1)]}
    assert map_tensors(torch.neg, nested)["a"][0].item() == -1
    assert nested["a"][0].item() == 1


def test_states_are_detached_in_their_form() -> None:
    leaf = torch.ones(1, requires_grad=True) * 2
    state = detached({"a": Pair(leaf, (leaf, [leaf])), "b": None})
    assert type(state["a"]) is Pair
    assert not state["a"].first.requires_grad
    assert not state["a"].rest[1][0].requires_grad
    assert state["b"] is None


def test_states_are_cut_in_their_form() -> None:
    layer = RecurrentState("encoder", (torch.arange(3),))
    state = Pair(torch.arange(3.0).reshape(1, 1, 3), [torch.zeros(5)])
    cut = cut_state(state, [layer], torch.tensor([True, False, True]))
    assert type(cut) is Pair
    assert cut.first.tolist() == [[[0.0, 2.0]]]
    assert cut.rest[0].shape == (5,)

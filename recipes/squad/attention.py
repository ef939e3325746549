"""Attention flow: which question words matter to each context word, and which context words to the question."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from l0rnn.tracing import rule
from l0rnn.tracing.rules.run import Call, Reading


def weighted_product(h: Tensor, u: Tensor, weight: Tensor) -> Tensor:
    """``Σᵢ hᵢ wᵢ uᵢ`` for each word of the one and each of the other, which a trace sees as one operation.

    Args:
        h: `(batch, context, unit)`.
        u: `(batch, question, unit)`.
        weight: `(unit,)`.

    Returns:
        `(batch, context, question)`.
    """
    if has_torch_function((h, u, weight)):
        return handle_torch_function(weighted_product, (h, u, weight), h, u, weight)  # type: ignore[no-any-return]
    return (h * weight) @ u.mT


@rule("weighted_product")
def one_weight_reads_both(call: Call) -> None:
    """The weight reads the same units in both, so their gates fold into it and they can be removed."""
    h, u, weight = call.args
    (units,) = call.shadow(weight).sides
    for read in (h, u):
        call.atoms.unite(units, call.labels(read)[0, 0], "what it reads comes from outside the network")
    call.atoms.read(units)
    outside = call.labels(call.out).new_zeros(1)
    call.tracer.run.readings.append(Reading(call.tracer.module, call.name, outside, units, call.out.numel()))


class UnitWeights(nn.Module):
    """One weight per unit, in a module of its own, whose class gates can change.

    Args:
        units: their number.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(units).uniform_(-(units**-0.5), units**-0.5))


class AttentionFlow(nn.Module):
    """Context-to-question and question-to-context attention over the similarity ``w · [h; u; h ∘ u]``.

    ``w`` is three parts, each of which reads the units once. The tensor `(context, question, 3 · unit)` is never built:
    ``w₃ · (h ∘ u) = (h ∘ w₃) · u``. To a trace that would be a sum over products of two activations, whose units have
    to stay; `weighted_product` is given a rule that says which weight reads them.

    Args:
        units: width of a contextual state.

    Reference:
        Seo, Kembhavi, Farhadi, Hajishirzi: Bidirectional Attention Flow for Machine Comprehension (2017), arXiv
        1611.01603, equations 1 to 3.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.context = nn.Linear(units, 1)
        self.question = nn.Linear(units, 1, bias=False)
        self.product = UnitWeights(units)

    def similarity(self, h: Tensor, u: Tensor) -> Tensor:
        """`(batch, context, unit)`, `(batch, question, unit)` → `(batch, context, question)`."""
        return self.context(h) + self.question(u).mT + weighted_product(h, u, self.product.weight)

    def forward(self, h: Tensor, u: Tensor, in_context: Tensor, in_question: Tensor) -> tuple[Tensor, Tensor]:
        """Attended question for each context word, and attended context.

        Args:
            h: contextual states of the context, `(batch, context, unit)`.
            u: those of the question, `(batch, question, unit)`.
            in_context: which positions are words and not padding, bool `(batch, context)`.
            in_question: likewise, `(batch, question)`.

        Returns:
            `(batch, context, unit)` and `(batch, 1, unit)`.
        """
        similarity = self.similarity(h, u).masked_fill(~in_question[:, None, :], -torch.inf)
        attended_question = similarity.softmax(-1).to(u.dtype) @ u
        best = similarity.amax(-1).masked_fill(~in_context, -torch.inf)  # (batch, context)
        attended_context = best.softmax(-1).to(h.dtype)[:, None, :] @ h
        return attended_question, attended_context

"""Attention flow: which question words matter to each context word, and which context words to the question."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentionFlow(nn.Module):
    """Context-to-question and question-to-context attention over the similarity ``w · [h; u; h ∘ u]``.

    ``w`` is three Linear layers, each of which reads the units once, so that gates and surgery find them. The tensor
    `(context, question, 3 · unit)` is never built: ``w₃ · (h ∘ u) = (h ∘ w₃) · u``. A Linear applied to the unit
    vectors gives its weights as it reads with them, gates included.

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
        self.product = nn.Linear(units, 1, bias=False)

    def similarity(self, h: Tensor, u: Tensor) -> Tensor:
        """`(batch, context, unit)`, `(batch, question, unit)` → `(batch, context, question)`."""
        units = torch.eye(h.size(-1), dtype=h.dtype, device=h.device)
        weights = self.product(units).squeeze(-1)  # (unit,)
        return self.context(h) + self.question(u).mT + (h * weights) @ u.mT

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

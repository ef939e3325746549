"""What an equally large share of weights costs as zeros: in a dense network, in CSR and in BSR."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.sparse import sparse_form
from l0rnn.tracing.trace import trace


def forms_with_zeros(
    network: nn.Module, density: float, *, block: int = 16, example_inputs: Any, seed: int = 0
) -> dict[str, nn.Module]:
    """Copies of a network with zeros at random places, in the forms in which such networks are run.

    Latency does not depend on where the zeros are, nearly; so what a pruning of single weights or blocks could buy at
    most is known before anything is trained.

    Args:
        network: plain torch layers and `RaggedRNN`, on the CPU; every matrix gets zeros, embeddings do not.
        density: fraction of the weights, or of the blocks, that is not 0.
        block: rows and columns of a block of BSR.
        example_inputs: arguments of the network's forward, as `l0rnn.explain` takes them.
        seed: of the places.

    Returns:
        Name → network: ``dense with zeros``, ``CSR`` with the same zeros, and ``BSR`` with zeros in blocks.

    Raises:
        ValueError: if ``density`` is not in (0, 1), or as `l0rnn.sparse.sparse_form` raises it.

    Example:
        >>> network = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 64))
        >>> forms = forms_with_zeros(network, 0.25, block=8, example_inputs=torch.arange(50))
        >>> list(forms), forms["dense with zeros"][1].weight.count_nonzero().item()
        (['dense with zeros', 'CSR', 'BSR 8'], 256)
    """
    if not 0 < density < 1:
        raise ValueError(f"`density` must be in (0, 1), the fraction of weights that is not 0, got {density}")
    generator = torch.Generator().manual_seed(seed)
    single = _with_zeros(network, density, 1, generator, example_inputs)
    csr = sparse_form(single, layout="csr", example_inputs=example_inputs)
    blocks = _with_zeros(network, density, block, generator, example_inputs)
    bsr = sparse_form(blocks, layout="bsr", block=block, example_inputs=example_inputs)
    return {"dense with zeros": single, "CSR": csr, f"BSR {block}": bsr}


@torch.no_grad()
def _with_zeros(
    network: nn.Module, density: float, block: int, generator: torch.Generator, example_inputs: Any
) -> nn.Module:
    copied = copy.deepcopy(network).eval()
    for weight in trace(copied, example_inputs).weights.values():
        if weight.is_matrix:
            parameter = copied.get_parameter(weight.name)
            parameter.mul_(random_blocks((parameter.shape[0], parameter.shape[1]), block, density, generator))
    return copied


def random_blocks(size: tuple[int, int], block: int, density: float, generator: torch.Generator) -> Tensor:
    """Blocks kept at random, as many as the density says, tiled from the top left corner: `(row, column)`, bool.

    Example:
        >>> random_blocks((4, 6), 2, 0.5, torch.Generator().manual_seed(0)).sum().item()
        12
    """
    down, across = (-(-part // block) for part in size)
    mask = torch.zeros(down * across, dtype=torch.bool)
    mask[torch.randperm(down * across, generator=generator)[: max(1, round(density * down * across))]] = True
    whole = mask.view(down, across).repeat_interleave(block, 0).repeat_interleave(block, 1)
    return whole[: size[0], : size[1]]

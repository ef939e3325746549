"""A network that draws random numbers in evaluation too: a sequence VAE, dropout never off, noise of a width."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from l0rnn import shrink
from l0rnn.sparse import sparse_form

GATES = {"encoder.l0": (torch.arange(16) % 2).float()}


class SequenceVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.latent, self.decoder = nn.GRU(4, 16), nn.Linear(16, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.latent(self.encoder(x)[0]).chunk(2, -1)
        return self.decoder(mean + spread.exp() * torch.randn_like(mean))


class DroppedAlways(SequenceVAE):
    def forward(self, x: Tensor) -> Tensor:
        mean, _ = self.latent(self.encoder(x)[0]).chunk(2, -1)
        return self.decoder(nn.functional.dropout(mean, 0.3, training=True))


class NoiseOnUnits(SequenceVAE):
    def forward(self, x: Tensor) -> Tensor:
        units = self.encoder(x)[0]
        return self.decoder(self.latent(units + torch.randn_like(units)).chunk(2, -1)[0])


class DroppedUnits(SequenceVAE):
    def forward(self, x: Tensor) -> Tensor:
        units = nn.functional.dropout(self.encoder(x)[0], 0.3, training=True)
        return self.decoder(self.latent(units).chunk(2, -1)[0])


class OwnGenerator(SequenceVAE):
    numbers = itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        mean, _ = self.latent(self.encoder(x)[0]).chunk(2, -1)
        return self.decoder(mean + next(self.numbers))


@pytest.mark.parametrize("kind", [SequenceVAE, DroppedAlways])
def test_both_networks_start_from_the_same_random_numbers(kind: type[SequenceVAE]) -> None:
    small = shrink(kind(), GATES, example_inputs=torch.randn(5, 2, 4))
    assert small.encoder.hidden_size == 8


def test_the_callers_random_numbers_go_on_as_if_nothing_had_been_compared() -> None:
    network, inputs = SequenceVAE(), torch.randn(5, 2, 4)
    torch.manual_seed(3)
    shrink(network, GATES, example_inputs=inputs)
    after = torch.rand(1)
    torch.manual_seed(3)
    shrink(network.eval(), GATES, example_inputs=torch.zeros(1, 1, 4))
    assert torch.equal(torch.rand(1), after)


def test_noise_whose_number_follows_the_width_is_named() -> None:
    with pytest.raises(ValueError, match="'encoder.l0', which cannot be pruned: `randn_like` draws random numbers"):
        shrink(NoiseOnUnits(), GATES, example_inputs=torch.randn(5, 2, 4))


def test_noise_that_only_the_proof_sees_too() -> None:
    said = r"draws random numbers in evaluation mode.*where their number follows the widths.*at fault: encoder.l0"
    with pytest.raises(ValueError, match=said):
        shrink(DroppedUnits(), GATES, example_inputs=torch.randn(5, 2, 4))


def test_a_network_that_differs_from_itself_is_named() -> None:
    with pytest.raises(ValueError, match="differs from itself by .* twice from the same random numbers"):
        shrink(OwnGenerator(), GATES, example_inputs=torch.randn(5, 2, 4))


def test_the_sparse_form_too() -> None:
    network = SequenceVAE().eval()
    with torch.no_grad():
        network.encoder.weight_hh_l0[:, 2:] = 0
    sparse = sparse_form(network, layout="csr", example_inputs=torch.randn(5, 2, 4))
    assert sparse.sparse_report.max_abs_difference < 1e-5

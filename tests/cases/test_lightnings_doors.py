"""What Lightning offers beside `fit`: the learning rate finder, `predict`, several loaders, schedulers, mode."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
import torch
from lightning.pytorch.tuner import Tuner
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from l0rnn import Budget, L0GatedLSTM, L0Gates
from l0rnn.export import load_dense, save_dense
from l0rnn.gates.network import network_gates
from l0rnn.language.language_model import LanguageModel
from l0rnn.training.shrunken import ShrunkenLanguageModel
from tests.cases.situations import Net, make, segments, trainer


class TestLearningRateFinder:
    @pytest.mark.parametrize(
        "model",
        [
            lambda: L0GatedLSTM(20, 8, 1, objective=Budget(density=0.5), dropout=0.0, learning_rate=1.0),
            lambda: L0GatedLSTM(20, 8, 1, learning_rate=1.0, optimizer="adam"),
            lambda: ShrunkenLanguageModel(LanguageModel(20, 4, 4), learning_rate=1.0),
        ],
    )
    def test_the_optimiser_reads_what_it_set(self, model: Any, tmp_path: Any) -> None:
        torch.manual_seed(0)
        tokens = torch.randint(20, (40, 6, 4))
        model = model()
        data = DataLoader(TensorDataset(tokens, tokens), batch_size=None)
        training = trainer(max_epochs=1, default_root_dir=tmp_path)
        Tuner(training).lr_find(model, data, num_training=60, min_lr=1e-4, max_lr=3.0)
        used = model.configure_optimizers()["optimizer"].param_groups[0]["lr"]
        assert used == model.hparams["learning_rate"], "the optimiser reads hparams"
        assert used != 1.0

    def test_all_that_the_optimiser_is_made_by(self) -> None:
        model = L0GatedLSTM(20, 8, 1, objective=Budget(density=0.5))
        model.hparams.update(optimizer="adam", learning_rate=0.25, weight_decay=0.5, decay=0.5, flat_epochs=1)
        made = model.configure_optimizers()
        assert isinstance(made["optimizer"].weights, torch.optim.Adam)
        assert made["optimizer"].param_groups[0]["weight_decay"] == 0.5
        assert made["lr_scheduler"].lr_lambdas[0](2) == 0.25


class TestPredict:
    def test_logits_of_each_segment_go_on_from_the_last(self) -> None:
        tokens = torch.randint(20, (4, 6, 2))
        model = L0GatedLSTM(20, 8, 1, dropout=0.0)
        logits = trainer().predict(model, DataLoader(TensorDataset(tokens, tokens), batch_size=None))
        whole = model.eval()(tokens.flatten(0, 1))[0]
        assert torch.allclose(
            torch.cat([part[0] if isinstance(part, tuple) else part for part in logits]), whole, atol=1e-5
        )

    @pytest.mark.parametrize("form", [lambda x: (x, None), lambda x: [x], lambda x: x])
    def test_a_network_without_state(self, form: Any) -> None:
        module, inputs = make(), torch.randn(2, 5, 3, 4)
        outputs = trainer().predict(module, DataLoader([form(x) for x in inputs], batch_size=None, collate_fn=None))
        assert torch.allclose(torch.stack(outputs), torch.stack([module.network(x) for x in inputs]), atol=1e-6)

    def test_each_loader_starts_from_zeros(self) -> None:
        tokens = torch.randint(20, (2, 6, 2))
        loader = DataLoader(TensorDataset(tokens, tokens), batch_size=None)
        first, second = trainer().predict(L0GatedLSTM(20, 8, 1, dropout=0.0), [loader, loader])
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    def test_more_than_one_argument(self) -> None:
        class Two(Net):
            def forward(self, x: Any, scale: Any) -> Any:
                return super().forward(x) * scale

        module = make(network=Two(), example_inputs=(torch.randn(5, 3, 4), torch.ones(())))
        batch = (torch.randn(5, 3, 4), torch.tensor(2.0), torch.zeros(1))
        (output,) = trainer().predict(module, DataLoader([batch], batch_size=None))
        assert torch.equal(output, module.network(*batch[:2]))

    def test_a_dict_says_what_to_do(self) -> None:
        with pytest.raises(ValueError, match="`predict_step` takes batches that are a tensor.*got a dict; override it"):
            trainer().predict(make(), DataLoader([{"x": torch.randn(5, 3, 4)}], batch_size=None))


class TestSeveralLoaders:
    def test_the_loss_of_each_and_of_all(self) -> None:
        data, other = segments(), segments()
        module = make(L0Gates(Budget(density=0.3)))
        training = trainer(max_epochs=1)
        training.fit(module, data, [data, other])
        figures = training.callback_metrics
        each = [float(figures[f"valid/loss/{loader}"]) for loader in range(2)]
        assert float(figures["valid/loss"]) == pytest.approx(sum(each) / 2)
        for loader, expected in zip((data, other), each, strict=True):
            found = trainer().validate(module, loader, verbose=False)[0]
            assert list(found) == ["valid/loss"]
            assert found["valid/loss"] == pytest.approx(expected, rel=1e-5)

    def test_in_a_test_with_state(self) -> None:
        tokens = torch.randint(20, (4, 6, 2))
        loaders = [DataLoader(TensorDataset(part, part), batch_size=None) for part in (tokens, tokens[:2], tokens)]
        found = trainer().test(L0GatedLSTM(20, 8, 1), loaders, verbose=False)[0]
        assert {"test/perplexity", "test/perplexity/2", "test/loss/1"} <= found.keys()
        assert found["test/loss/0"] == pytest.approx(found["test/loss/2"])  # each from a zero state


class TestSchedulers:
    @pytest.mark.parametrize(
        "scheduler",
        [
            ReduceLROnPlateau,
            lambda optimizer: {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "valid/loss"},
            lambda optimizer: {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "step"},
        ],
    )
    def test_plateau_and_dicts(self, scheduler: Any) -> None:
        data = segments()
        trainer(max_epochs=1).fit(make(L0Gates(Budget(density=0.3)), scheduler=scheduler), data, data)

    def test_a_plateau_lowers_the_rate_of_the_weights_alone(self) -> None:
        data = segments()
        module = make(
            L0Gates(Budget(density=0.3)),
            scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=1e9),
        )
        training = trainer(max_epochs=4)
        training.fit(module, data, data)
        weights, gates = training.optimizers[0].weights, training.optimizers[0].gates
        assert weights.param_groups[0]["lr"] < 0.01
        assert gates.param_groups[0]["lr"] == 0.03 or module.method.is_frozen


class TestMode:
    """What comes from `load_dense` and `load_model` is in evaluation mode."""

    def test_gates_on_a_loaded_network_are_drawn(self) -> None:
        drawn: list = []

        def loss(net: Any, batch: Any) -> Any:
            output = net(batch[0])
            drawn.append(network_gates(net).value.detach().clone())
            return (output - batch[1]).square().mean()

        small = load_dense(save_dense(Net(), tempfile.mkdtemp()), Net())
        module = make(
            L0Gates(Budget(density=0.3), noise=True),
            small,
            loss=loss,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
            gate_learning_rate=1e-12,
        )
        trainer(max_steps=3).fit(module, segments())
        assert not torch.equal(drawn[0], drawn[1]), "PrunableModule puts the network into training mode, or refuses it"

    def test_a_loaded_model_drops_and_draws(self) -> None:
        model = L0GatedLSTM(20, 8, 1, objective=Budget(density=0.5), dropout=0.5).eval()
        tokens = torch.randint(20, (4, 6, 2))
        trainer(max_steps=1).fit(model, DataLoader(TensorDataset(tokens, tokens), batch_size=None))
        assert all(module.training for module in model.network.modules())

    @pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode")
    def test_a_part_that_its_user_holds_in_evaluation_stays_there(self) -> None:
        network = Net()
        network.norm = torch.nn.BatchNorm1d(3).eval()
        module = make(network=network)
        trainer(max_steps=1).fit(module, segments())
        assert not network.norm.training
        assert network.rnn.training

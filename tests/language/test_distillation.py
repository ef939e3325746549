"""Learning from a teacher: the loss is what it says, the teacher stays as it is, and evaluation knows nothing of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from l0rnn.export import save_dense
from l0rnn.language import cross_entropy as losses
from l0rnn.language.distillation import DistilledLoss
from l0rnn.language.language_model import LanguageModel, next_word_loss
from l0rnn.training.batches import detached
from l0rnn.training.shrunken import ShrunkenLanguageModel, load_shrunken
from tests.tiny_text import WORDS, TinyText

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


def networks() -> tuple[LanguageModel, LanguageModel]:
    torch.manual_seed(0)
    return LanguageModel(WORDS, 8, 8, init_range=1.0), LanguageModel(WORDS, 3, [4, 5], init_range=1.0)


def segments(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    tokens = torch.randint(WORDS, (5 * count + 1, 2), generator=torch.Generator().manual_seed(1))
    return [(tokens[i : i + 5], tokens[i + 1 : i + 6]) for i in range(0, 5 * count, 5)]


def test_the_loss_is_the_mixture_with_both_states_carried_on() -> None:
    teacher, student = networks()
    loss = DistilledLoss(teacher, weight=0.3)
    state, theirs, own = None, None, None
    for tokens, targets in segments(3):
        found, state = loss(student, (tokens, targets), state)
        with torch.no_grad():
            wanted, theirs = teacher(tokens, theirs)
            logits, own = student(tokens, own)
            p, log_q = wanted.softmax(-1), log_softmax(logits, -1)
            divergence = (p * (p.log() - log_q)).sum(-1).mean()
            plain = cross_entropy(logits.flatten(0, 1), targets.flatten())
        assert found.item() == pytest.approx((0.7 * plain + 0.3 * divergence).item(), rel=1e-5)
        assert divergence > 0.01  # else the test could not tell


def test_of_several_teachers_the_mean_probability_is_learned() -> None:
    one, student = networks()
    other = LanguageModel(WORDS, 4, 6, init_range=1.0)
    loss = DistilledLoss([one, other], weight=1.0)
    state, theirs, own = None, [None, None], None
    for tokens, targets in segments(3):
        found, state = loss(student, (tokens, targets), state)
        with torch.no_grad():
            told = [teacher(tokens, before) for teacher, before in zip((one, other), theirs, strict=True)]
            theirs = [after for _, after in told]
            logits, own = student(tokens, own)
            p = (told[0][0].softmax(-1) + told[1][0].softmax(-1)) / 2
            divergence = (p * (p.log() - log_softmax(logits, -1))).sum(-1).mean()
        assert found.item() == pytest.approx(divergence.item(), rel=1e-5)


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("held", [1, 3 * WORDS, 2**17])  # one token at a time, three, all at once
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_that_of_automatic_differentiation(
    teachers: int, held: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CACHED", held)
    torch.manual_seed(0)
    wanted, targets = torch.randn(teachers, 5, 2, WORDS), torch.randint(WORDS, (5, 2))
    logits = torch.randn(5, 2, WORDS).to(dtype)

    class Fixed(torch.nn.Module):  # a network whose logits are given
        def __init__(self, logits: torch.Tensor) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(logits.clone())

        def forward(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
            return self.logits * 1, state

    student, plain = Fixed(logits), Fixed(logits.float())
    loss, _ = DistilledLoss([Fixed(logits) for logits in wanted], weight=0.3)(student, (targets, targets), None)
    (3 * loss).backward()
    given, teacher = log_softmax(plain.logits, -1), wanted.softmax(-1).mean(0).log()
    mixed = 0.7 * cross_entropy(plain.logits.flatten(0, 1), targets.flatten())
    mixed = mixed + 0.3 * kl_div(given.flatten(0, 1), teacher.flatten(0, 1), log_target=True, reduction="batchmean")
    (3 * mixed).backward()
    assert loss.item() == pytest.approx(mixed.item(), rel=1e-5)
    assert student.logits.grad.dtype == dtype
    tolerance = {"atol": 1e-7, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-5, "rtol": 2**-7}
    torch.testing.assert_close(student.logits.grad.float(), plain.logits.grad, **tolerance)


def test_the_teacher_is_neither_trained_nor_in_training_mode() -> None:
    teacher, student = networks()
    before = copy.deepcopy(teacher.state_dict())
    loss = DistilledLoss(teacher.train(), weight=1.0)
    assert not teacher.training
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    found, state = [], None
    for _ in range(60):
        for batch in segments(2):
            value, state = loss(student, batch, detached(state))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            found.append(value.item())
    assert found[-1] < 0.3 * found[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for name, weight in teacher.state_dict().items():
        assert torch.equal(weight, before[name])


def test_evaluation_is_that_of_the_plain_loss() -> None:
    teacher, student = networks()
    batch = segments(1)[0]
    found, state = DistilledLoss(teacher)(student.eval(), batch, None)
    plain, plain_state = next_word_loss(student, batch, None)
    assert torch.equal(found, plain)
    assert torch.equal(state[0][1], plain_state[0][1])


class Listener(torch.nn.Module):
    """Remembers what it reads, and predicts what follows as if it knew nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[torch.Tensor] = []

    def forward(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        self.read.append(tokens)
        return torch.zeros(*tokens.shape, WORDS, requires_grad=True), state


def test_noise_changes_that_share_of_the_words_for_all_that_read() -> None:
    torch.manual_seed(0)
    tokens = torch.arange(4000).reshape(40, 100)
    targets = tokens % WORDS
    student, teacher = Listener(), Listener()
    DistilledLoss(teacher, weight=1.0, noise=0.3)(student, (tokens, targets))
    assert torch.equal(student.read[0], teacher.read[0])
    changed = (student.read[0] != tokens).float()
    assert changed.mean().item() == pytest.approx(0.3, abs=0.03)  # four standard deviations
    assert len(student.read[0].unique()) > 3000  # they become different words
    assert student.read[0].max() < 4000
    DistilledLoss(teacher, noise=0.3)(student.eval(), (tokens, targets))
    assert torch.equal(student.read[1], tokens)  # evaluation is without


@pytest.mark.parametrize("noise", [-0.1, 1.0, float("nan")])
def test_noise_out_of_range_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match=r"`noise` must be in \[0, 1\)"):
        DistilledLoss(LanguageModel(5, 2, 2), noise=noise)


def test_noise_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="`noise` needs a `teacher`"):
        ShrunkenLanguageModel(networks()[1], noise=0.1)


@pytest.mark.parametrize("weight", [0.0, 1.1, float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"`weight` must be in \(0, 1\]"):
        DistilledLoss(LanguageModel(5, 2, 2), weight)


def test_no_teacher_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="`teacher` must be a network or several, got none"):
        DistilledLoss([])


def test_a_teacher_of_another_vocabulary_is_refused() -> None:
    student = networks()[1]
    with pytest.raises(ValueError, match=rf"`teacher` must have the vocabulary of the student, {WORDS} words, got 99"):
        DistilledLoss(LanguageModel(99, 2, 2))(student, segments(1)[0])


@pytest.mark.parametrize("times", [1, 2])
def test_a_shrunken_model_learns_from_a_saved_one_and_loads_without_it(tmp_path: Path, times: int) -> None:
    teacher, student = networks()
    save_dense(teacher.eval(), tmp_path / "teacher")
    paths = [str(tmp_path / "teacher")] * times
    path = paths if times > 1 else paths[0]
    model = ShrunkenLanguageModel(student, learning_rate=0.5, teacher=path, teacher_weight=0.9, noise=0.1)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, TinyText())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    names = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"network", "method"}  # and no teacher
    for path in sorted((tmp_path / "teacher").iterdir()):
        path.unlink()
    loaded = load_shrunken(tmp_path / "last.ckpt")
    assert loaded is not None
    for name, weight in model.network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_a_teacher_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ShrunkenLanguageModel(networks()[1], teacher=str(tmp_path / "nowhere"))

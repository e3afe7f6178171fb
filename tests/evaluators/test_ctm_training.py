"""Training may be stopped anywhere, ends where it would have ended, and learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluators.ctm.kinds import Task
from evaluators.ctm.measures import examine
from evaluators.ctm.parity import Parity
from evaluators.ctm.questions import Questions
from evaluators.ctm.sorting import Sorting
from evaluators.ctm.task import Batch
from evaluators.ctm.thoughts import Thoughts, certainty_of
from evaluators.ctm.training import DivergedError, Training
from evaluators.ctm.training_settings import TrainingSettings
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings


def machine(task: Task, **changed: Any) -> Machine:
    plain: dict[str, Any] = {
        "neurons": 24,
        "ticks": 3,
        "memory": 2,
        "hidden": 3,
        "attention_width": 8,
        "num_output": 6,
        "num_action": 5,
        "inputs": task.inputs,
        "outputs": task.outputs,
    }
    torch.manual_seed(7)
    return Machine(CtmSettings(**{**plain, **changed}))


def training(task: Task, settings: TrainingSettings, **changed: Any) -> Training:
    model = machine(task, **changed)
    return Training(model, task.open(), task.judgement, settings, task.answer_phases)


SETTINGS = TrainingSettings(steps=9, warm_up=3, batch_size=8, rate=0.01)
TASKS = {
    "parity": (Parity(length=4), {}),
    "with dropout": (Parity(length=4), {"dropout": 0.2}),
    "sorting": (Sorting(length=3), {}),
    "questions": (Questions(), {}),
}


def weights(model: nn.Module) -> list[Tensor]:
    return [one.detach().clone() for one in model.parameters()]


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, weights(one), weights(other)))


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_training_that_was_stopped_ends_at_the_same_weights(
    kind: str, stop: int, tmp_path: Path
) -> None:
    task, changed = TASKS[kind]
    whole = training(task, SETTINGS, **changed)
    whole.until(9)
    stopped = training(task, SETTINGS, **changed)
    stopped.until(stop)
    torch.save(stopped.state(), tmp_path / "state.pt")
    torch.manual_seed(1000 + stop)
    resumed = training(task, SETTINGS, **changed)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.step == stop
    torch.rand(5)
    resumed.until(9)
    assert equal(resumed.model, whole.model)
    assert (resumed.step, resumed.loss) == (9, whole.loss)
    assert not equal(stopped.model, whole.model)


def test_a_state_stays_what_it_was_while_training_goes_on() -> None:
    task = Parity(length=4)
    whole = training(task, SETTINGS)
    whole.until(4)
    state = whole.state()
    whole.until(9)
    for _ in range(2):  # and while another one goes on from it
        resumed = training(task, SETTINGS)
        resumed.restore(state)
        resumed.until(9)
        assert equal(resumed.model, whole.model)


def test_steps_that_are_done_are_not_done_again() -> None:
    one = training(Parity(length=4), SETTINGS)
    one.until(5)
    before = weights(one.model)
    one.until(5)
    one.until(2)
    assert one.step == 5
    assert all(map(torch.equal, before, weights(one.model)))
    one.until(100)
    assert one.step == 9


def test_another_seed_draws_other_batches() -> None:
    one = training(Parity(length=4), SETTINGS)
    other = training(Parity(length=4), TrainingSettings(**{**_plain(SETTINGS), "seed": 1}))
    assert equal(one.model, other.model)
    one.until(1)
    other.until(1)
    assert not equal(one.model, other.model)


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__slots__}


def test_the_rate_warms_up_and_then_falls_as_a_cosine() -> None:
    settings = TrainingSettings(steps=110, warm_up=10, rate=0.4)
    assert [settings.rate_at(step) for step in (0, 4, 9)] == pytest.approx([0.04, 0.2, 0.4])
    assert settings.rate_at(10) == pytest.approx(0.4)
    # Half-way between the highest rate and a twentieth of it.
    assert settings.rate_at(60) == pytest.approx(0.4 * 0.525)
    assert settings.rate_at(35) == pytest.approx(0.4 * (0.05 + 0.95 * (1 + math.sqrt(0.5)) / 2))
    assert settings.rate_at(110) == pytest.approx(0.4 * 0.05)
    rates = [settings.rate_at(step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_each_step_is_taken_at_its_own_rate() -> None:
    settings = TrainingSettings(steps=4, warm_up=2, batch_size=8, rate=0.01, weight_decay=0.0)
    one = training(Parity(length=4), settings)
    before = weights(one.model)
    one.until(1)
    moved = [(a - b).abs().max().item() for a, b in zip(before, weights(one.model), strict=True)]
    # The first step of Adam moves each weight by the rate, or hardly at all.
    assert max(moved) == pytest.approx(0.005, rel=1e-3)


class Scripted(nn.Module):
    """A network whose loss is as written: certain of the wrong answer by so much."""

    def __init__(self, margins: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.margins = margins
        self.restrained = 0

    def forward(self, inputs: Tensor) -> Thoughts:
        margin = self.margins[self.restrained]
        logits = torch.stack([torch.zeros(len(inputs)), torch.full((len(inputs),), margin)], dim=1)
        logits = self.weight * logits[:, None, :, None]
        return Thoughts(logits, certainty_of(logits))

    def restrain(self) -> None:
        self.restrained += 1


class Zeros:
    """Samples whose answer is always the first class."""

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        return Batch(torch.zeros(size, 1), torch.zeros(size, 1, dtype=torch.long))

    def rows(self, rows: str) -> Batch:
        return self.batch(torch.Generator(), 3)


@pytest.mark.parametrize(
    ("margins", "step", "words"),
    [
        ([1.0, 1.0, math.nan], 2, "loss nan"),
        ([1.0, math.inf], 1, "loss "),
        ([1.0, 1.0, 1.0, 2e5], 3, "loss .* at first"),
    ],
)
def test_training_is_given_up_at_the_step_at_which_it_diverges(
    margins: list[float], step: int, words: str
) -> None:
    model = Scripted(margins)
    one = Training(model, Zeros(), "positions", TrainingSettings(steps=9, rate=1e-3))
    with pytest.raises(DivergedError, match=f"diverged at step {step}: {words}"):
        one.until(9)
    assert one.step == step
    assert model.restrained == step
    assert torch.isfinite(model.weight).all()
    assert one.loss is not None
    assert math.isfinite(one.loss)


def test_a_loss_that_is_large_from_the_beginning_is_no_explosion() -> None:
    one = Training(Scripted([2e5] * 3), Zeros(), "positions", TrainingSettings(steps=3, rate=1e-9))
    one.until(3)
    assert one.loss == pytest.approx(2e5, rel=1e-3)


def test_the_loss_of_learning_curves_is_smoothed() -> None:
    settings = TrainingSettings(steps=3, rate=1e-12, smoothing=0.25, explosion=1e9)
    one = Training(Scripted([1.0, 2.0, 4.0]), Zeros(), "positions", settings)
    losses = [math.log1p(math.exp(margin)) for margin in (1.0, 2.0, 4.0)]
    smooth = losses[0]
    one.until(1)
    assert one.loss == pytest.approx(smooth)
    for step in (1, 2):
        smooth = 0.75 * smooth + 0.25 * losses[step]
        one.until(step + 1)
        assert one.loss == pytest.approx(smooth)


def test_parity_of_four_bits_is_learned() -> None:
    task = Parity(length=4, search_rows=200)
    settings = TrainingSettings(steps=200, warm_up=20, batch_size=32, rate=0.01)
    one = training(task, settings, neurons=32, ticks=2, heads=4, attention_width=16, num_output=8)
    rows = task.rows("search")
    before = examine(one.model, rows, task.judgement).summary()
    one.until(200)
    after = examine(one.model, rows, task.judgement).summary()
    assert before["solved"] < 0.4
    assert after["solved"] > 0.95
    assert not one.model.training

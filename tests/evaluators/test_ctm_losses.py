"""Losses are those of their definitions, written out by hand."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from evaluators.ctm.losses import judged, loss_of, losses, two_ticks
from evaluators.ctm.task import Batch
from evaluators.ctm.thoughts import Thoughts, certainty_of


def thoughts(batch: int = 6, positions: int = 3, classes: int = 4, ticks: int = 5) -> Thoughts:
    torch.manual_seed(3)
    logits = (
        2 * torch.randn(batch, positions, classes, ticks, dtype=torch.float64)
    ).requires_grad_()
    return Thoughts(logits, certainty_of(logits))


def targets(batch: int = 6, positions: int = 3, classes: int = 4) -> Tensor:
    return torch.randint(classes, (batch, positions), generator=torch.Generator().manual_seed(4))


def chances(some: Thoughts, sample: int, position: int, tick: int) -> list[float]:
    powers = [math.exp(one) for one in some.logits[sample, position, :, tick].tolist()]
    return [one / sum(powers) for one in powers]


def entropy_loss(some: Thoughts, answers: Tensor, sample: int, position: int, tick: int) -> float:
    return -math.log(chances(some, sample, position, tick)[int(answers[sample, position])])


def test_the_loss_of_two_ticks_is_of_the_best_and_of_the_most_certain() -> None:
    some, answers = thoughts(), targets()
    total, differ = 0.0, 0
    for sample in range(6):
        by_tick, certainty = [], []
        for tick in range(5):
            each = [entropy_loss(some, answers, sample, place, tick) for place in range(3)]
            rows = [chances(some, sample, place, tick) for place in range(3)]
            entropies = [-sum(one * math.log(one) for one in row) for row in rows]
            by_tick.append(sum(each) / 3)
            certainty.append(1 - sum(entropies) / 3 / math.log(4))
        surest = certainty.index(max(certainty))
        differ += by_tick[surest] > min(by_tick)
        total += (min(by_tick) + by_tick[surest]) / 2
    assert differ >= 2
    found = loss_of(some, answers, "positions", "two_tick", 0)
    assert found.item() == pytest.approx(total / 6, rel=1e-12)


def test_only_the_two_ticks_are_learned_from() -> None:
    by_tick = torch.tensor([[3.0, 1.0, 2.0, 4.0]], requires_grad=True)
    certainty = torch.tensor([[0.1, 0.2, 0.9, 0.3]], requires_grad=True)
    two_ticks(by_tick, certainty).backward()
    assert by_tick.grad.tolist() == [[0.0, 0.5, 0.5, 0.0]]
    assert certainty.grad is None


def test_the_loss_of_the_last_tick_is_of_no_other() -> None:
    some, answers = thoughts(), targets()
    each = [entropy_loss(some, answers, at, place, 4) for at in range(6) for place in range(3)]
    found = loss_of(some, answers, "positions", "last_tick", 0)
    assert found.item() == pytest.approx(sum(each) / 18, rel=1e-12)
    found.backward()
    assert not some.logits.grad[..., :4].any()


def test_each_answer_has_its_cross_entropy_at_each_tick() -> None:
    some, answers = thoughts(), targets()
    found = losses(some.logits, answers)
    assert found.shape == (6, 3, 5)
    for sample, place, tick in itertools.product(range(6), range(3), range(5)):
        expected = entropy_loss(some, answers, sample, place, tick)
        assert found[sample, place, tick].item() == pytest.approx(expected, rel=1e-12)


def routes(right: list[list[bool]]) -> tuple[Thoughts, Tensor]:
    """Thoughts about one route of zeros, right where it is said: a row of steps for each tick."""
    logits = torch.zeros(1, len(right[0]), 3, len(right), dtype=torch.float64)
    for tick, steps in enumerate(right):
        for step, good in enumerate(steps):
            logits[0, step, 0 if good else 1, tick] = 1.0 + 0.1 * step + 0.01 * tick
    logits.requires_grad_()
    return Thoughts(logits, certainty_of(logits)), torch.zeros(1, len(right[0]), dtype=torch.long)


@pytest.mark.parametrize(
    ("right", "lookahead", "counted"),
    [
        # The longest right beginning of any tick, not the most right steps.
        ([[1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]], 2, 4),
        ([[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1]], 1, 4),
        ([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], 5, 6),
        # The first one always counts.
        ([[0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], 0, 1),
        ([[0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], 3, 3),
        ([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], 0, 2),
    ],
)
def test_routes_are_learned_as_far_as_they_are_right_and_a_little_further(
    right: list[list[bool]], lookahead: int, counted: int
) -> None:
    some, answers = routes(right)
    each = [entropy_loss(some, answers, 0, step, 1) for step in range(counted)]
    found = loss_of(some, answers, "route", "last_tick", lookahead)
    assert found.item() == pytest.approx(sum(each) / counted, rel=1e-12)
    found.backward()
    learned = some.logits.grad[0, :, :, 1].abs().sum(dim=1) > 0
    assert learned.tolist() == [step < counted for step in range(6)]


def test_two_ticks_of_a_route_are_chosen_by_the_steps_that_count() -> None:
    some, answers = routes([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]])
    by_tick = [
        sum(entropy_loss(some, answers, 0, step, tick) for step in range(3)) / 3
        for tick in range(3)
    ]
    surest = int(some.certainty[0].argmax())
    found = loss_of(some, answers, "route", "two_tick", 1)
    assert found.item() == pytest.approx((min(by_tick) + by_tick[surest]) / 2, rel=1e-12)


def test_each_route_of_a_batch_has_a_curriculum_of_its_own() -> None:
    one, answers = routes([[1, 1, 0, 0]])
    other, _ = routes([[0, 0, 0, 0]])
    both = Thoughts(torch.cat([one.logits, other.logits]), torch.zeros(2, 1))
    apart = [loss_of(some, answers, "route", "last_tick", 1).item() for some in (one, other)]
    found = loss_of(both, answers.expand(2, -1), "route", "last_tick", 1)
    assert found.item() == pytest.approx(sum(apart) / 2, rel=1e-12)


def said(path: tuple[int, ...], silence: int) -> tuple[int, ...]:
    """Returns what a path says: repetitions once, silences not at all."""
    return tuple(one for one, _ in itertools.groupby(path) if one != silence)


@pytest.mark.parametrize(("length", "ticks"), [(2, 2), (2, 4), (3, 5)])
def test_the_loss_of_an_order_is_over_all_paths_that_say_it(length: int, ticks: int) -> None:
    some = thoughts(batch=4, positions=1, classes=length + 1, ticks=ticks)
    answers = torch.tensor([*itertools.permutations(range(length))])[:4]
    answers = answers.repeat(2, 1)[:4]
    total = 0.0
    for sample, answer in enumerate(answers.tolist()):
        chance = 0.0
        for path in itertools.product(range(length + 1), repeat=ticks):
            if said(path, length) == tuple(answer):
                rows = [chances(some, sample, 0, tick) for tick in range(ticks)]
                chance += math.prod(row[one] for row, one in zip(rows, path, strict=True))
        total += -math.log(chance) / length
    found = loss_of(some, answers, "order", "two_tick", 0)
    assert found.item() == pytest.approx(total / 4, rel=1e-9)


def test_an_order_that_cannot_be_said_in_so_few_ticks_teaches_nothing() -> None:
    some = thoughts(batch=2, positions=1, classes=4, ticks=2)
    found = loss_of(some, torch.tensor([[0, 1, 2], [2, 1, 0]]), "order", "two_tick", 0)
    found.backward()
    assert found.item() == 0.0
    assert not some.logits.grad.any()


@pytest.mark.parametrize(
    ("phases", "answer_phases", "ticks", "first"),
    [(4, 1, 12, 9), (4, 2, 12, 6), (4, None, 12, 0), (3, 1, 3, 2), (4, 1, 1, 0)],
)
def test_answers_are_judged_in_the_last_phases_alone(
    phases: int, answer_phases: int | None, ticks: int, first: int
) -> None:
    some = thoughts(ticks=ticks)
    batch = Batch([torch.zeros(6, 1)] * phases, targets())
    found = judged(some, batch, answer_phases)
    assert torch.equal(found.logits, some.logits[..., first:])
    assert torch.equal(found.certainty, some.certainty[:, first:])

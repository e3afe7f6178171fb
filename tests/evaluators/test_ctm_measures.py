"""What thinking was worth is counted as plain Python counts it."""

import itertools
import math
import random

import pytest
import torch
from torch import Tensor, nn

from evaluators.ctm.measures import Findings, examine, read_orders
from evaluators.ctm.task import Batch
from evaluators.ctm.thoughts import Thoughts, certainty_of

BATCH, POSITIONS, TICKS = 41, 2, 6


@pytest.fixture(scope="module")
def findings() -> Findings:
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(BATCH, POSITIONS, TICKS, generator=generator) < 0.7
    certainty = 0.9 * torch.rand(BATCH, TICKS, generator=generator, dtype=torch.float64)
    return Findings(right, certainty, torch.zeros(BATCH, TICKS), certainty.argmax(dim=1))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_shares_and_ticks_are_counted(findings: Findings) -> None:
    right, certainty = findings.right.tolist(), findings.certainty.tolist()
    surest = [row.index(max(row)) for row in certainty]
    whole = [[all(row[tick] for row in one) for tick in range(TICKS)] for one in right]
    at = list(zip(range(BATCH), surest, strict=True))
    found = findings.summary()
    assert found["solved"] == pytest.approx(mean([whole[one][tick] for one, tick in at]))
    assert found["positions"] == pytest.approx(
        mean([mean([row[tick] for row in right[one]]) for one, tick in at])
    )
    assert found["solved_by_tick"] == pytest.approx(
        [mean([row[tick] for row in whole]) for tick in range(TICKS)]
    )
    assert found["positions_by_tick"] == pytest.approx(
        [mean([row[tick] for one in right for row in one]) for tick in range(TICKS)]
    )
    assert found["certainty_by_tick"] == pytest.approx(
        [mean([row[tick] for row in certainty]) for tick in range(TICKS)]
    )
    assert found["surest_tick"] == pytest.approx(1 + mean(surest))
    assert found["surest_ticks"] == [surest.count(tick) for tick in range(TICKS)]


def test_overthought_is_what_was_right_at_some_tick_but_not_when_surest(findings: Findings) -> None:
    lost = 0
    for one in range(BATCH):
        whole = [bool(findings.right[one, :, tick].all()) for tick in range(TICKS)]
        lost += any(whole) and not whole[int(findings.surest[one])]
    assert lost > 5
    assert findings.summary()["overthought"] == pytest.approx(lost / BATCH)


def test_the_surer_half_is_compared_with_the_rest(findings: Findings) -> None:
    rows = sorted(
        (-max(row), bool(findings.right[one, :, row.index(max(row))].all()))
        for one, row in enumerate(findings.certainty.tolist())
    )
    solved = [right for _, right in rows]
    expected = mean(solved[: BATCH // 2]) - mean(solved[BATCH // 2 :])
    assert findings.summary()["certain_gain"] == pytest.approx(expected)


def test_calibration_error_is_the_mean_distance_of_certainty_and_accuracy_in_tenths(
    findings: Findings,
) -> None:
    bins: dict[int, list[tuple[float, float]]] = {}
    for one, row in enumerate(findings.certainty.tolist()):
        accuracy = float(findings.right[one, :, row.index(max(row))].double().mean())
        bins.setdefault(int(10 * max(row)), []).append((max(row), accuracy))
    assert len(bins) > 2
    expected = sum(
        len(some) / BATCH * abs(mean([sure for sure, _ in some]) - mean([got for _, got in some]))
        for some in bins.values()
    )
    assert findings.summary()["calibration_error"] == pytest.approx(expected)


def test_stopping_early_takes_the_first_tick_that_is_sure_enough(findings: Findings) -> None:
    stops = []
    for row in findings.certainty.tolist():
        sure = [tick for tick, one in enumerate(row) if one >= 0.8]
        stops.append(sure[0] if sure else row.index(max(row)))
    assert stops != findings.surest.tolist()
    found = findings.summary()
    assert found["early_tick"] == pytest.approx(1 + mean(stops))
    assert found["early_solved"] == pytest.approx(
        mean([bool(findings.right[one, :, tick].all()) for one, tick in enumerate(stops)])
    )


def test_a_perfect_network_has_nothing_to_be_reproached_with() -> None:
    right, sure = torch.ones(8, 3, 2, dtype=torch.bool), torch.ones(8, 2)
    found = Findings(right, sure, sure, sure.argmax(dim=1)).summary()
    assert (found["solved"], found["positions"], found["early_tick"]) == (1.0, 1.0, 1.0)
    assert (found["overthought"], found["calibration_error"], found["certain_gain"]) == (0, 0, 0)


def test_the_figures_of_a_single_sample_are_finite() -> None:
    right, sure = torch.ones(1, 1, 2, dtype=torch.bool), torch.full((1, 2), 0.5)
    found = Findings(right, sure, sure, sure.argmax(dim=1)).summary()
    assert all(math.isfinite(one) for one in found.values() if isinstance(one, float))
    assert found["certain_gain"] == 0.0


def order_said(path: list[int], places: int) -> list[int]:
    """Returns the order that a path says, filled up with -1; nothing where it says too much."""
    said = [one for one, _ in itertools.groupby(path) if one != places]
    return said + [-1] * (places - len(said)) if len(said) <= places else [-1] * places


@pytest.mark.parametrize("places", [2, 4])
def test_orders_are_read_as_their_paths_say_them(places: int) -> None:
    rng = random.Random(places)
    paths = [[rng.randint(0, places) for _ in range(7)] for _ in range(200)]
    logits = nn.functional.one_hot(torch.tensor(paths), places + 1)  # (batch, ticks, classes)
    found = read_orders(logits.transpose(1, 2)[:, None].float())
    assert found.shape == (200, places, 7)
    for number, path in enumerate(paths):
        for tick in range(7):
            expected = order_said(path[: tick + 1], places)
            assert found[number, :, tick].tolist() == expected, path


class Reciter(nn.Module):
    """Thinks what its inputs say: logits (batch, positions, classes, ticks), all phases alike."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor | list[Tensor]) -> Thoughts:
        logits = inputs if isinstance(inputs, Tensor) else torch.cat(inputs, dim=3)
        return Thoughts(logits, certainty_of(logits))


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_findings_do_not_depend_on_how_samples_are_passed(batch_size: int) -> None:
    torch.manual_seed(0)
    batch = Batch(torch.randn(20, 3, 4, 5), torch.randint(4, (20, 3)))
    found = examine(Reciter(), batch, "positions", batch_size=batch_size)
    assert torch.equal(found.right, batch.inputs.argmax(dim=2) == batch.targets[:, :, None])
    assert torch.equal(found.surest, certainty_of(batch.inputs).argmax(dim=1))
    logs = batch.inputs.log_softmax(dim=2)
    for sample, tick in itertools.product(range(20), range(5)):
        rights = [logs[sample, place, batch.targets[sample, place], tick] for place in range(3)]
        assert float(found.log_likelihood[sample, tick]) == pytest.approx(float(sum(rights)) / 3)


def test_orders_are_judged_at_the_last_tick() -> None:
    paths = torch.tensor([[0, 2, 1, 1, 2], [1, 0, 2, 2, 1], [1, 1, 1, 1, 0]])
    logits = nn.functional.one_hot(paths, 3).transpose(1, 2)[:, None].float()
    batch = Batch(logits, torch.tensor([[0, 1], [1, 0], [1, 0]]))
    found = examine(Reciter(), batch, "order").summary()
    # The second says one thing more, in the end.
    assert found["solved_by_tick"] == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert found["solved"] == pytest.approx(2 / 3)


def test_what_is_said_before_the_answer_is_asked_for_does_not_count() -> None:
    torch.manual_seed(0)
    phases = [torch.randn(9, 1, 4, 2) for _ in range(3)]
    batch = Batch(phases, torch.randint(4, (9, 1)))
    found = examine(Reciter(), batch, "positions", answer_phases=1)
    alone = examine(Reciter(), Batch(phases[2], batch.targets), "positions")
    assert torch.equal(found.right, alone.right)
    assert torch.equal(found.surest, alone.surest)

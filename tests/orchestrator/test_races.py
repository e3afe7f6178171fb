"""Races by example: what is compared with whom, and by which numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators.base import Score, TaskScore
from orchestrator import config
from orchestrator.measurement.halving import Halving
from orchestrator.measurement.measured import Standing
from orchestrator.measurement.paired_races import (
    Bernstein,
    Hoeffding,
    Lead,
    PairedT,
    last_survivors,
    leads_of,
)
from orchestrator.measurement.race import RACES, Field, Run


def score(weight=1.0, **tasks) -> Score:
    parts = {
        name: TaskScore(
            value=math.fsum(values) / len(values),
            stderr=None,
            documents=len(values),
            weight=weight,
            per_document=tuple(map(float, values)),
        )
        for name, values in tasks.items()
    }
    return Score(fitness=math.fsum(weight * one.value for one in parts.values()), tasks=parts)


def standing(*blocks, weight=1.0, **more) -> Standing:
    """Blocks of one task `a`."""
    return Standing({("search", at): score(weight, a=one) for at, one in enumerate(blocks)})


def answers(right, num) -> list[float]:
    return [1.0] * right + [0.0] * (num - right)


RIVAL = standing(answers(16, 16), answers(24, 32), answers(32, 64))


@pytest.mark.parametrize("name", RACES.addresses)
def test_everybody_goes_on_while_there_are_too_few_incumbents(name):
    race = RACES.load(name)(survivors=2)
    assert race.goes_on(standing(answers(0, 16)), Field((RIVAL,)))
    assert race.goes_on(standing(answers(0, 16)), Field())


@pytest.mark.parametrize("name", RACES.addresses)
def test_campaign_files_can_name_every_race(name, root):
    override = f"racing={{kind: {name}, first_block: 8, growth: 2, survivors: 3}}"
    race = config.read(root / "examples" / "quickstart.yaml", [override]).racing
    assert type(race) is RACES.load(name)
    assert (race.first_block, race.growth, race.survivors) == (8, 2.0, 3)


def test_the_last_survivor_is_found_by_fitness_with_its_equals():
    best, second, equal, worst = (standing(answers(num, 10)) for num in (9, 7, 7, 2))
    field = Field((worst, second, best, equal))
    assert last_survivors(field, 1) == [best]
    assert last_survivors(field, 2) == [second, equal]
    assert last_survivors(field, 3) == [second, equal]
    assert last_survivors(field, 4) == [worst]
    assert last_survivors(field, 5) == []


def test_fresh_rows_have_no_part_in_a_comparison():
    fresh = {("fresh", 0): score(a=answers(0, 50))}
    rival = Standing({**RIVAL.parts, **fresh})
    mine = Standing({**standing(answers(8, 16)).parts, ("fresh", 0): score(a=answers(50, 50))})
    assert last_survivors(Field((standing(answers(1, 2)), rival)), 1) == [rival]
    (lead,) = leads_of(mine, rival)
    assert (lead.num, lead.num_rows) == (16, 16 + 32 + 64)
    assert lead.mean == -0.5


def test_a_lead_is_weighted_and_on_common_blocks_alone():
    mine = Standing({("search", 1): score(-0.5, a=[3, 1]), ("search", 7): score(-0.5, a=[9, 9])})
    rival = standing([0, 0], [1, 2], weight=-0.5)
    (lead,) = leads_of(mine, rival)
    assert lead.values.tolist() == [-1.0, 0.5]
    assert (lead.num_rows, lead.spread) == (4, 3.0)


def test_documents_are_compared_by_block_in_whatever_order_blocks_came():
    mine, rival = standing([1, 0], [0, 0, 1]), standing([1, 1], [1, 0, 0])
    turned = Standing(dict(reversed(rival.parts.items())))
    for other in (rival, turned):
        (lead,) = leads_of(Standing(dict(reversed(mine.parts.items()))), other)
        assert lead.values.tolist() == [0, -1, -1, 0, 1]


def test_a_task_whose_rows_are_at_an_end_is_known_exactly():
    """What is behind by half of a task's documents may make up for it in another, or not."""
    rival = Standing(
        {
            ("search", 0): score(a=answers(10, 10), b=answers(5, 10)),
            ("search", 1): score(b=answers(45, 90)),
        }
    )
    mine = Standing({("search", 0): score(a=answers(5, 10), b=answers(5, 10))})
    race = PairedT(survivors=1, margin=0, confidence=0.95)
    assert not race.goes_on(mine, Field((rival,)))
    ahead = Standing({("search", 0): score(a=answers(5, 10), b=answers(10, 10))})
    assert race.goes_on(ahead, Field((rival,)))


def test_a_few_losses_without_a_win_weigh_about_as_much_as_in_a_sign_test():
    """k losses of k disagreements have probability 2^-k if both are equally good."""
    num, rows = 40, 10_000
    for losses in range(2, 9):
        values = np.repeat([-1.0, 0.0], [losses, num - losses])
        leads = [Lead(1.0, values, rows, 1.0)]
        risks = np.geomspace(1e-6, 0.5, 400)
        least = min(risk for risk in risks if PairedT()._falls_short(leads, 0.0, risk))
        assert 2.0**-losses / 2 < least < 2 * 2.0**-losses, losses


def test_what_was_measured_in_full_is_known_to_fall_short_or_not():
    values = np.repeat([-1.0, 1.0, 0.0], [3, 2, 5])
    leads = [Lead(1.0, values, 10, 1.0)]
    for race in (PairedT(), Hoeffding(), Bernstein()):
        assert race._falls_short(leads, 0.0, 1e-9)
        assert not race._falls_short(leads, -0.2, 1e-9)


def test_hoeffding_s_bound_is_as_published():
    """sqrt(rho ln(1/delta) / 2n) times the width of 2, with Serfling's rho."""
    lead = Lead(1.0, np.zeros(50), 200, 1.0)
    published = 2 * math.sqrt((1 - 49 / 200) * math.log(1 / 0.05) / (2 * 50))
    assert Hoeffding()._error([lead], 0.05) == pytest.approx(published)
    late = Lead(1.0, np.zeros(150), 200, 1.0)
    published = 2 * math.sqrt((1 - 150 / 200) * (1 + 1 / 150) * math.log(1 / 0.05) / (2 * 150))
    assert Hoeffding()._error([late], 0.05) == pytest.approx(published)


def test_bernstein_s_bound_is_as_published():
    """sqrt(2 V ln(2/delta) / n) + 7 w ln(2/delta) / 3(n - 1), but for n - 1 where n will do."""
    values = np.repeat([-1.0, 0.0, 1.0], [20, 60, 20])
    lead, log = Lead(1.0, values, 10**9, 1.0), math.log(2 / 0.05)
    published = math.sqrt(2 * float(np.var(values, ddof=1)) * log / 100) + 14 * log / (3 * 99)
    found = Bernstein()._error([lead], 0.05)
    assert 0.98 * published < found <= published


def test_bounds_of_several_tasks_hold_for_their_sum():
    """Two tasks of as many documents, half the weight each, are no worse than one of them all."""
    values = np.repeat([-1.0, 0.0, 1.0], [10, 80, 10])
    half = Lead(0.5, 0.5 * values, 10**6, 1.0)
    whole = Lead(1.0, np.tile(values, 2), 10**6, 1.0)
    ours, one = Hoeffding()._error([half, half], 0.05), Hoeffding()._error([whole], 0.05)
    assert ours == pytest.approx(one, rel=1e-3)
    ours, one = Bernstein()._error([half, half], 0.05), Bernstein()._error([whole], 0.05)
    assert one < ours < 1.5 * one


def test_values_beyond_the_stated_range_widen_the_bound():
    narrow, wide = (Lead(1.0, np.zeros(50), 200, spread) for spread in (0.5, 5.0))
    assert Hoeffding(span=0.5)._error([wide], 0.1) == pytest.approx(
        10 * Hoeffding(span=0.5)._error([narrow], 0.1)
    )


def test_the_risk_is_shared_by_the_looks():
    """As many losses stop at the only look, but not at one of six."""
    lost = answers(10, 16)
    two = standing(answers(16, 16), answers(80, 112))
    seven = standing(answers(16, 16), answers(80, 112), *[answers(1, 1)] * 5)
    race = PairedT(survivors=1, margin=0, confidence=0.97)
    assert not race.goes_on(standing(lost), Field((two,)))
    assert race.goes_on(standing(lost), Field((seven,)))


def test_a_margin_stops_what_can_hardly_gain_anything():
    """One loss, nothing won in 128 of 256 documents: behind, but not shown to be."""
    rival = standing(answers(64, 128), answers(64, 128))
    mine = standing([0.0, *answers(63, 127)])
    clone = standing(answers(64, 128))

    def goes_on(one, margin):
        race = PairedT(survivors=1, confidence=0.9, margin=margin)
        return race.goes_on(one, Field((rival,)))

    assert goes_on(mine, 0)
    assert not goes_on(mine, 1)
    assert goes_on(clone, 1)


def test_halving_asks_for_enough_that_have_come_as_far():
    mine, rung = standing(answers(4, 8)), (0.9, 0.8, 0.7, 0.4, 0.3, 0.2, 0.1)
    seven = tuple(Run(at, (one,)) for at, one in enumerate(rung))
    eight = (*seven, Run(8, (0.0,)))
    race = Halving(eta=2, survivors=1)
    assert race.goes_on(mine, Field((), seven))
    assert race.goes_on(mine, Field((), eight))
    assert not race.goes_on(standing(answers(3, 8)), Field((), eight))
    assert race.goes_on(standing(answers(0, 8), answers(0, 8)), Field((), eight))

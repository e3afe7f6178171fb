"""What operators have achieved, from the records of candidates."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.operators import naming
from orchestrator.reporting.operator_stats import operator_stats, proportion
from orchestrator.storage.births import Birth

START = [
    Birth(id="s1", operator="sample", fitness=1.0),
    Birth(id="s2", operator="sample", fitness=3.0),
    Birth(id="s3", operator="sample", fitness=None),
]


def child(number: int, fitness, *parents: str, operator="sbx+polynomial", **more) -> Birth:
    return Birth(id=f"s{number}", operator=operator, parents=parents, fitness=fitness, **more)


def one_of(births, operator: str):
    (found,) = [one for one in operator_stats(births) if one.operator == operator]
    return found


def test_a_child_succeeds_if_it_is_better_than_its_better_parent():
    births = [*START, child(4, 2.0, "s1", "s2"), child(5, 3.5, "s1", "s2"), child(6, 3.0, "s2")]
    found = one_of(births, "sbx+polynomial")
    assert (found.children, found.compared) == (3, 3)
    assert found.success_rate == pytest.approx(1 / 3)
    assert found.mean_gain == pytest.approx((-1.0 + 0.5 + 0.0) / 3)
    low, high = found.gain_interval
    assert low < found.mean_gain < high


def test_failed_and_stopped_children_are_no_successes_and_say_nothing_of_gains():
    births = [*START, child(4, None, "s1"), child(5, 9.0, "s1", stopped=True), child(6, 2.0, "s1")]
    found = one_of(births, "sbx+polynomial")
    assert found.success_rate == pytest.approx(1 / 3)
    assert found.mean_gain == pytest.approx(1.0)
    assert found.gain_interval is None, "one gain has no spread"


def test_a_child_of_a_stopped_parent_is_better_once_it_is_measured_in_full():
    births = [*START, child(4, 9.0, "s1", stopped=True), child(5, 0.5, "s4")]
    found = one_of(births, "sbx+polynomial")
    assert found.success_rate == pytest.approx(0.5)
    assert found.mean_gain is None


def test_who_has_no_parent_that_was_measured_is_better_than_nobody():
    births = [*START, child(4, 2.0, "s3"), child(5, 2.0, "s99")]
    found = one_of(births, "sbx+polynomial")
    assert (found.children, found.compared) == (2, 0)
    assert found.success_rate is found.success_interval is found.mean_gain is None
    assert one_of(births, "sample").children == 3


def test_what_is_written_beside_the_names_does_not_divide_the_children():
    births = [
        *START,
        child(4, 2.0, "s1", operator="sbx+self_adaptive(0.1)@1"),
        child(5, 2.0, "s1", operator="sbx+self_adaptive(2.5e-05)@2"),
        child(6, 2.0, "s1", operator="self_adaptive(0.1)"),
    ]
    counts = {one.operator: one.children for one in operator_stats(births)}
    assert counts == {"sample": 3, "sbx+self_adaptive": 2, "self_adaptive": 1}
    assert list(counts) == ["sample", "sbx+self_adaptive", "self_adaptive"]
    assert naming.inherited(births[4].operator, "self_adaptive") == 2.5e-05
    assert naming.island(births[4].operator) == 2
    assert naming.inherited(births[0].operator, "self_adaptive") is None


def test_intervals_hold_what_is_true_about_as_often_as_they_say():
    rng, rate = np.random.default_rng(0), 0.15
    rates = gains = 0
    for _ in range(300):
        values = np.where(
            rng.random(80) < rate, rng.exponential(1.0, 80), -rng.exponential(1.0, 80)
        )
        mean = rate - (1 - rate)
        births = [Birth(id="s0", operator="sample", fitness=0.0)]
        births += [child(n, float(value), "s0") for n, value in enumerate(values, 1)]
        found = one_of(births, "sbx+polynomial")
        rates += found.success_interval[0] <= rate <= found.success_interval[1]
        gains += found.gain_interval[0] <= mean <= found.gain_interval[1]
    assert rates > 0.91 * 300
    assert gains > 0.91 * 300


def test_the_interval_of_a_rate_has_room_where_all_or_none_succeeded():
    assert proportion(0, 0) is None
    low, high = proportion(0, 10)
    assert low == 0.0
    assert 0.2 < high < 0.4
    assert proportion(10, 10) == (pytest.approx(1 - high), pytest.approx(1.0))
    wide, narrow = proportion(5, 10), proportion(500, 1000)
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 5

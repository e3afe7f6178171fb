"""The Pareto order: fronts, crowding, directions, hypervolume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.operators import pareto
from orchestrator.operators.pareto import crowding, directions, fronts, hypervolume, non_dominated


@st.composite
def measured(draw):
    """Objectives with ties among them, and violations."""
    num_objectives = draw(st.integers(1, 4))
    row = st.tuples(*[st.integers(0, 4)] * num_objectives)
    values = draw(st.lists(row, min_size=1, max_size=30))
    broken = st.sampled_from([0.0, 0.0, 0.5, 2.0])
    violations = draw(st.lists(broken, min_size=len(values), max_size=len(values)))
    return values, violations


def dominates(one, other, values, violations) -> bool:
    if violations[one] != violations[other]:
        return violations[one] < violations[other]
    pairs = list(zip(values[one], values[other], strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def assert_sorted(found, values, violations):
    assert sorted(index for front in found for index in front) == list(range(len(values)))
    for place, front in enumerate(found):
        assert front == sorted(front)
        later = [index for other in found[place:] for index in other]
        assert not any(
            dominates(one, other, values, violations) for one in later for other in front
        )
        if place:
            before = found[place - 1]
            assert all(
                any(dominates(one, other, values, violations) for one in before) for other in front
            )


@given(measured())
def test_no_front_is_dominated_from_within_and_each_is_by_the_one_before(drawn):
    values, violations = drawn
    assert_sorted(fronts(values, violations), values, violations)
    assert_sorted(fronts(values), values, [0.0] * len(values))


@given(measured())
def test_the_first_front_is_who_is_not_dominated(drawn):
    values, violations = drawn
    assert non_dominated(values, violations) == fronts(values, violations)[0]
    assert non_dominated(values) == fronts(values)[0]


def test_many_candidates_are_sorted_as_few_are(monkeypatch):
    values = np.random.default_rng(0).integers(0, 9, (200, 3))
    found = fronts(values)
    monkeypatch.setattr(pareto, "_MAX_PAIRED", 10)
    assert fronts(values) == found


def test_nobody_makes_no_fronts():
    assert fronts([]) == []
    assert non_dominated([]) == []


@given(measured())
def test_the_ends_of_each_objective_are_the_loneliest(drawn):
    values = np.array([drawn[0][index] for index in non_dominated(drawn[0])], dtype=float)
    distances = crowding(values)
    assert np.all(distances >= 0)
    for column in values.T:
        if np.ptp(column) > 0:
            assert np.isinf(distances[column == column.max()]).any()
            assert np.isinf(distances[column == column.min()]).any()


def test_crowding_is_half_the_girth_of_the_box_to_the_neighbours():
    values = [(0.0, 4.0), (1.0, 3.0), (1.0, 3.0), (3.0, 1.0), (4.0, 0.0)]
    assert crowding(values).tolist() == [np.inf, 1.5, 0.0, 1.5, np.inf]


def test_an_objective_in_which_all_are_equal_makes_nobody_lonely():
    values = [(0.0, 4.0, 1.0), (1.0, 3.0, 1.0), (4.0, 0.0, 1.0)]
    assert crowding(values).tolist() == [np.inf, 2.0, np.inf]
    assert crowding([(1.0, 2.0)] * 3).tolist() == [0.0, 0.0, 0.0]


def test_crowding_of_several_fronts_is_that_of_each():
    values = np.random.default_rng(1).integers(0, 20, (60, 3)).astype(float)
    found = fronts(values)
    level = np.empty(len(values), dtype=int)
    for place, front in enumerate(found):
        level[front] = place
    together = crowding(values, level)
    for front in found:
        np.testing.assert_allclose(together[front], crowding(values[front]))


@pytest.mark.parametrize(("num_objectives", "divisions", "num"), [(2, 99, 100), (3, 12, 91)])
def test_directions_lie_evenly_on_the_simplex(num_objectives, divisions, num):
    found = directions(num_objectives, divisions)
    assert found.shape == (num, num_objectives)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert len(np.unique(found.round(9), axis=0)) == num
    np.testing.assert_allclose(found * divisions, np.rint(found * divisions), atol=1e-9)


def test_too_many_directions_are_refused():
    with pytest.raises(ValueError, match="fewer divisions"):
        directions(10, 30)


def test_the_hypervolume_is_what_is_counted_on_a_grid():
    rng = np.random.default_rng(2)
    for num_objectives in (1, 2, 3, 4):
        values = rng.integers(-1, 6, (8, num_objectives))
        cells = np.stack(np.meshgrid(*[np.arange(6) + 0.5] * num_objectives), axis=-1)
        cells = cells.reshape(-1, num_objectives)
        below = (cells[:, None, :] < values[None]).all(axis=2).any(axis=1)
        assert hypervolume(values, [0.0] * num_objectives) == pytest.approx(below.sum())
    assert hypervolume([(1.0, 1.0)], (1.0, 0.0)) == 0.0

"""What few values mean for many layers, and which models of a pool take part."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spaces.depth import Blocks, Knots
from orchestrator.spaces.pool import chosen


@given(
    presence=st.lists(st.floats(0, 1), min_size=1, max_size=7),
    data=st.data(),
)
def test_as_many_are_chosen_as_genes_above_a_half_or_as_near_to_that_as_is_allowed(presence, data):
    least = data.draw(st.integers(1, len(presence)))
    most = data.draw(st.integers(least, len(presence)))
    places = chosen(presence, least, most)
    wanted = sum(gene > 0.5 for gene in presence)
    assert abs(len(places) - wanted) == min(abs(n - wanted) for n in range(least, most + 1))
    assert list(places) == sorted(set(places))
    left = [gene for place, gene in enumerate(presence) if place not in places]
    assert not left or max(left) <= min(presence[place] for place in places)


def test_among_equal_genes_the_first_in_the_pool_are_chosen():
    assert chosen([0.3, 0.3, 0.3], 2, 3) == (0, 1)
    assert chosen([0.9, 0.9, 0.9], 1, 1) == (0,)
    assert chosen([0.5, 0.5], 1, 2) == (0,)


values = st.floats(-2, 2)


@given(
    knots=st.lists(values, min_size=1, max_size=6),
    extra=st.integers(0, 7),
    course=st.sampled_from(["linear", "cosine"]),
)
def test_layers_lie_between_their_knots_and_the_ends_are_the_first_and_the_last(
    knots, extra, course
):
    layers = len(knots) + extra
    runs = Knots(layers, len(knots), course).spread(np.array(knots))
    assert [start for start, _, _ in runs] == [0, *(stop for _, stop, _ in runs[:-1])]
    assert runs[-1][1] == layers
    by_layer = [float(held) for start, stop, held in runs for _ in range(start, stop)]
    assert by_layer[0] == knots[0]
    assert by_layer[-1] == knots[-1] if layers > 1 or len(knots) == 1 else True
    for layer, value in enumerate(by_layer):
        place = layer * (len(knots) - 1) / max(1, layers - 1)
        near = knots[math.floor(place + 1e-9) :][:2] or knots[-1:]
        assert min(near) <= value <= max(near)


@pytest.mark.parametrize("course", ["linear", "cosine"])
def test_between_two_knots_values_go_one_way(course):
    runs = Knots(9, 2, course).spread(np.array([0.25, 1.5]))
    rising = [float(held) for _, _, held in runs]
    assert rising == sorted(rising)
    assert len(set(rising)) == 9
    steps = np.diff(rising)
    if course == "linear":
        np.testing.assert_allclose(steps, steps[0])
    else:  # slow at the knots, fast between them
        assert steps[0] < steps[3]
        assert rising[4] == pytest.approx(0.875)


def test_a_block_for_each_layer_and_a_knot_for_each_layer_are_the_same():
    table = np.arange(12.0).reshape(4, 3)
    blocks, knots = Blocks(4, 4).spread(table), Knots(4, 4, "linear").spread(table)
    for (*ours, held), (*theirs, same) in zip(blocks, knots, strict=True):
        assert ours == theirs
        np.testing.assert_array_equal(held, same)

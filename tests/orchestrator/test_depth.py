"""What few values mean for many layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spaces.depth import Blocks, Knots

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

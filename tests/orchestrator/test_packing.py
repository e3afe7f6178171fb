"""Results, genomes and recipes in few bytes."""

from __future__ import annotations

import json
import math
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.documents import (
    pack_log_likelihoods,
    pack_values,
    quantise,
    unpack_log_likelihoods,
    unpack_values,
)
from orchestrator.storage.packing import (
    pack_genome,
    pack_json,
    unpack_genome,
    unpack_json,
)


def same(values, others) -> bool:
    """Whether numbers are equal to the last bit, the sign of zeros included."""
    return struct.pack(f"{len(values)}d", *values) == struct.pack(f"{len(others)}d", *others)


# Metrics of documents.


@given(st.lists(st.sampled_from([0.0, 1.0])))
def test_zeros_and_ones_come_back_exactly_in_a_bit_each(values):
    packed = pack_values(values)
    assert same(unpack_values(packed), values)
    assert len(packed) == 5 + (len(values) + 7) // 8


@given(st.lists(st.floats(allow_nan=False)))
def test_any_numbers_come_back_to_the_last_bit(values):
    assert same(unpack_values(pack_values(values)), values)
    assert len(pack_values(values)) <= max(6, 1 + 8 * len(values))


@pytest.mark.parametrize("width", [16, 32, 64])
def test_numbers_take_no_more_than_the_widest_of_them_needs(width):
    @given(st.lists(st.floats(width=width, allow_nan=False), min_size=1))
    def law(values):
        packed = pack_values(values)
        assert same(unpack_values(packed), values)
        assert len(packed) <= max(6, 1 + width // 8 * len(values))

    law()


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([0.5] * 10, 2), ([0.1] * 10, 8), ([2.0**-30] * 10, 4), ([2049.0] + [0.0] * 9, 4),
        ([-0.0] * 10, 2), ([math.inf] * 10, 2), ([1.0, 1 / 3] * 5, 8), ([1e300] * 10, 8),
    ],
)  # fmt: skip
def test_the_shortest_floats_that_hold_every_number_are_taken(values, size):
    assert len(pack_values(values)) == 1 + size * len(values)
    assert same(unpack_values(pack_values(values)), values)


def test_what_is_no_number_comes_back_as_none():
    found = unpack_values(pack_values([math.nan, 0.5]))
    assert math.isnan(found[0])
    assert found[1] == 0.5


def test_results_of_earlier_versions_are_still_read():
    assert unpack_values(b"b\x03\x00\x00\x00\x05") == (1.0, 0.0, 1.0)
    assert unpack_values(b"f\x00\x00\x80\x3e\x00\x00\xc0\x3f") == (0.25, 1.5)
    assert unpack_values(b"h\x00\x34\x00\x3e") == (0.25, 1.5)


@pytest.mark.parametrize("data", [b"x123", b"", b"f123", b"h1", b"d1234567"])
def test_what_is_not_packed_is_refused(data):
    with pytest.raises(ValueError, match=r"packing|buffer"):
        unpack_values(data)


# Log-likelihoods.

#: Between these magnitudes the error is relative.
LEAST, GREATEST = 2.0**-10, 42_000.0
nats = st.floats(-GREATEST, 0.0)


@given(st.lists(nats))
def test_log_likelihoods_are_rounded_by_four_percent_at_most(values):
    for value, rounded in zip(values, quantise(values), strict=True):
        assert abs(rounded - value) <= max(0.036 * -value, 0.0005)


@given(st.lists(st.floats(allow_nan=False)))
def test_rounding_again_changes_nothing_and_neither_does_packing(values):
    rounded = quantise(values)
    assert same(quantise(rounded), rounded)
    assert same(unpack_log_likelihoods(pack_log_likelihoods(rounded)), rounded)
    assert same(unpack_log_likelihoods(pack_log_likelihoods(values)), rounded)


@given(nats, nats)
def test_rounding_keeps_the_order(one, other):
    low, high = quantise(sorted([one, other]))
    assert low <= high


def test_a_byte_tells_256_log_likelihoods_apart():
    levels = sorted({quantise([-(1.001**step) / 5000])[0] for step in range(20_000)})
    assert len(levels) == 256
    assert (levels[0], levels[-2:]) == (-43232.0, [-(2.0**-10), 0.0])
    assert quantise(levels) == tuple(levels)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (0.0, 0.0), (-0.0, 0.0), (1e-7, 0.0), (5.0, 0.0), (math.inf, 0.0),
        (-(2.0**-11) * 0.99, 0.0), (-(2.0**-11), -(2.0**-10)), (-1.0, -1.0),
        (-1e6, -43232.0), (-math.inf, -43232.0),
    ],
)  # fmt: skip
def test_what_lies_outside_is_taken_for_the_nearest(value, rounded):
    assert same(quantise([value]), [rounded])


def test_what_is_no_number_is_no_log_likelihood():
    with pytest.raises(ValueError, match="got nan"):
        quantise([-1.0, math.nan])


@given(st.lists(nats, min_size=1))
def test_log_likelihoods_take_a_byte_each_at_most(values):
    assert len(pack_log_likelihoods(values)) <= len(values) + 20


def test_log_likelihoods_of_one_task_take_less():
    rng = random.Random(1)
    values = [-rng.gammavariate(2.0, 8.0) for _ in range(1000)]
    assert len(pack_log_likelihoods(values)) < 800


def test_where_there_are_none_nothing_is_kept():
    assert pack_log_likelihoods(()) is None
    assert unpack_log_likelihoods(None) == ()


@pytest.mark.parametrize("data", [b"", b"torn", pack_log_likelihoods([-1.0, -2.0] * 9)[:-2]])
def test_torn_log_likelihoods_are_refused(data):
    with pytest.raises(ValueError, match="packing"):
        unpack_log_likelihoods(data)


# Genomes, recipes and other plain data.


@given(st.lists(st.floats(allow_nan=False)))
def test_genomes_come_back_to_the_last_bit(genome):
    assert list(map(repr, unpack_genome(pack_genome(genome)))) == list(map(repr, genome))
    assert len(pack_genome(genome)) == 8 * len(genome)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), plain))
def test_plain_data_comes_back_as_json_has_it(data):
    assert unpack_json(pack_json(data)) == json.loads(json.dumps(data))


def test_a_recipe_of_many_layers_takes_a_fraction_of_its_text():
    recipe = {"slices": [{"start": n, "stop": n + 1, "weights": [0.5, 0.25]} for n in range(200)]}
    assert len(pack_json(recipe)) < len(json.dumps(recipe)) / 5


@pytest.mark.parametrize("data", [b"", b"torn", pack_json({"a": 1})[:-3]])
def test_data_that_is_torn_is_refused(data):
    with pytest.raises((zlib.error, ValueError)):
        unpack_json(data)

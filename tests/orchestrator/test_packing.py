"""Results, genomes and recipes in few bytes."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.packing import (
    pack,
    pack_genome,
    pack_json,
    unpack,
    unpack_genome,
    unpack_json,
)

#: Within these a number is kept in 16 bits, with 11 binary digits.
LEAST, GREATEST = 2.0**-14, 65504.0


@given(st.lists(st.sampled_from([0.0, 1.0])))
def test_zeros_and_ones_come_back_exactly_in_a_bit_each(values):
    packed = pack(values)
    assert unpack(packed) == tuple(values)
    assert len(packed) <= 5 + (len(values) + 7) // 8


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False)))
def test_numbers_of_16_bits_come_back_exactly(values):
    assert unpack(pack(values)) == tuple(values)


usual = st.floats(LEAST, GREATEST) | st.floats(-GREATEST, -LEAST) | st.just(0.0)


@given(st.lists(usual, min_size=1))
def test_usual_numbers_come_back_rounded_to_three_digits_in_two_bytes_each(values):
    packed = pack(values)
    assert unpack(packed) == pytest.approx(tuple(values), rel=2.0**-11, abs=0.0)
    assert len(packed) <= max(1 + 2 * len(values), 6)


unusual = st.floats(-1e30, -GREATEST, exclude_max=True) | st.floats(0.0, LEAST, exclude_max=True)


@given(st.lists(usual | unusual, min_size=1))
def test_other_numbers_come_back_rounded_to_six_digits(values):
    if all(value == 0.0 or LEAST <= abs(value) <= GREATEST for value in values):
        return
    assert unpack(pack(values)) == pytest.approx(tuple(values), rel=1e-6, abs=1e-37)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 65505.0, 2.0**-15])
def test_one_number_out_of_the_range_of_16_bits_is_not_lost(value):
    assert unpack(pack([value, 0.25])) == (value, 0.25)


def test_the_first_versions_results_are_still_read():
    assert unpack(b"b\x03\x00\x00\x00\x05") == (1.0, 0.0, 1.0)
    assert unpack(b"f\x00\x00\x80\x3e\x00\x00\xc0\x3f") == (0.25, 1.5)


@pytest.mark.parametrize("data", [b"x123", b"", b"f123", b"h1"])
def test_what_is_not_packed_is_refused(data):
    with pytest.raises(ValueError, match=r"packing|buffer"):
        unpack(data)


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

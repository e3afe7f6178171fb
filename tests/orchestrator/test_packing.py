"""Per-document results in few bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.packing import pack, unpack


@given(st.lists(st.sampled_from([0.0, 1.0])))
def test_zeros_and_ones_come_back_exactly_in_a_bit_each(values):
    packed = pack(values)
    assert unpack(packed) == tuple(values)
    assert len(packed) <= 5 + (len(values) + 7) // 8


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_numbers_of_32_bits_come_back_exactly(values):
    assert unpack(pack(values)) == tuple(values)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1))
def test_other_numbers_come_back_rounded(values):
    assert unpack(pack(values)) == pytest.approx(tuple(values), rel=1e-6, abs=1e-37)


def test_what_is_not_packed_is_refused():
    with pytest.raises(ValueError, match="unknown packing"):
        unpack(b"x123")

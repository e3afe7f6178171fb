"""The k-th largest of a tensor that is seen in blocks only: exact, ties and all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.merging.cache import Cache
from workers.merging.inputs import TensorInputs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def inputs_of(source, base, block_entries=None, cache=None):
    return TensorInputs(
        name="w",
        sources=[source],
        base=base,
        identities=["a"],
        base_identity="base",
        values={},
        options={},
        block_entries=block_entries,
        cache=cache,
    )


def kept_by_sorting(values, keep):
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[torch.argsort(values.flatten(), descending=True, stable=True)[:keep]] = True
    return mask.view(values.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", [0, 1, 2, 77, 500, 999, 1000])
@pytest.mark.parametrize("block_entries", [None, 64])
def test_the_cut_keeps_what_a_stable_sort_would(dtype, keep, block_entries):
    generator = torch.Generator().manual_seed(keep)
    base = torch.randn(40, 25, generator=generator).to(DTYPES[dtype])
    # Coarse steps make ties; a block of zeros makes many at the bottom.
    steps = torch.randint(-4, 5, (40, 25), generator=generator) * 0.125
    steps[:10] = 0
    source = (base + steps.to(DTYPES[dtype])).to(DTYPES[dtype])
    magnitudes = (source.float() - base.float()).abs()
    inputs = inputs_of(source, base, block_entries)
    for found in (
        inputs.largest(0, keep),
        inputs.cut("magnitudes", lambda block: block.delta(0).abs_(), keep),
    ):
        parts = [found.keeps(block.delta(0).abs_(), block.start) for block in inputs.blocks()]
        kept = torch.cat(parts)
        # What is kept at 0 makes no difference to any sum, so that a cut need not tell it.
        expected = kept_by_sorting(magnitudes, keep)
        assert torch.equal(kept & (magnitudes > 0), expected & (magnitudes > 0))
        if keep <= int((magnitudes > 0).sum()):
            assert int(kept.sum()) == keep


@given(
    st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=60),
    st.data(),
)
def test_the_nth_value_is_that_of_a_sort(numbers, data):
    place = data.draw(st.integers(1, len(numbers)))
    source = torch.tensor([numbers])
    inputs = inputs_of(source, torch.zeros_like(source), block_entries=7)
    found = inputs.nth("size", lambda block: block.source(0).abs_(), place)
    assert found == sorted(source.flatten().tolist(), reverse=True)[place - 1]


def test_counts_are_made_once_for_all_densities(monkeypatch):
    from workers.merging import selection

    counted = []
    whole = selection.Magnitudes.count_kinds
    monkeypatch.setattr(
        selection.Magnitudes,
        "count_kinds",
        lambda self: counted.append(1) or whole(self),
    )
    cache = Cache()
    source, base = torch.randn(30, 30), torch.randn(30, 30)
    for keep in (100, 200, 300):
        inputs_of(source, base, cache=cache).largest(0, keep)
    assert len(counted) == 1


@pytest.mark.parametrize("kinds", [100, 32_768, 32_769, 60_000])
def test_any_number_of_different_values_gives_the_same_cut(kinds):
    generator = torch.Generator().manual_seed(kinds)
    steps = torch.randint(0, kinds, (400, 300), generator=generator) + 1
    source = torch.cat([torch.arange(kinds) + 1, steps.flatten()]).float().view(-1, 1)
    base = torch.zeros_like(source)
    for keep in (1, kinds // 2, 100_000):
        kept = inputs_of(source, base).largest(0, keep).keeps(source, 0)
        assert torch.equal(kept, kept_by_sorting(source, keep))


def test_the_cache_forgets_what_was_asked_for_longest_ago():
    cache = Cache(limit_bytes=10_000)
    made = []

    def make(name):
        made.append(name)
        return torch.zeros(1000)

    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"]

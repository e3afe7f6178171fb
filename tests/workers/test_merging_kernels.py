"""Compiled kernels against torch: the same numbers, whatever the type, size and cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.merging import combine, kernels, noise
from workers.merging.inputs import TensorInputs
from workers.merging.memory import entries
from workers.merging.task_sum import task_sum_rule
from workers.methods.base import BASE, Combination, Cut, TaskSum, Thinned

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Of one entry, within one chunk, and over several chunks with a rest.
SIZES = [(1, 1), (7, 11), (53, 389)]


def tensors(shape, dtype, count=3):
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randn(shape, generator=generator) for _ in range(count + 1)]
    base = drawn[0]
    return [(base + 0.1 * one).to(dtype) for one in drawn[1:]], base.to(dtype)


def inputs_of(shape, dtype, count=3, **fields):
    sources, base = tensors(shape, dtype, count)
    return TensorInputs(
        name="some.weight",
        sources=sources,
        base=base,
        identities=[f"model {index}" for index in range(count)],
        base_identity="base",
        values={},
        options={},
        **fields,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_a_combination_is_the_sum_in_float32_rounded_once(dtype, shape, count):
    inputs = inputs_of(shape, DTYPES[dtype], count)
    factors = [0.3 + 0.2 * index for index in range(count)]
    out = torch.empty(shape, dtype=DTYPES[dtype])
    plan = Combination(sources=factors, base=-0.25)
    assert combine.carry_out(plan, inputs, out)
    total = torch.zeros(shape, dtype=torch.float64)
    for index, factor in [*enumerate(factors), (BASE, -0.25)]:
        total += inputs.model(index).double() * factor
    tolerance = 1e-5 if dtype == "float32" else 2**-8
    torch.testing.assert_close(out.double(), total, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_source_alone_comes_out_bit_by_bit(dtype):
    inputs = inputs_of((9, 40), DTYPES[dtype])
    out = torch.empty((9, 40), dtype=DTYPES[dtype])
    combine.carry_out(Combination(sources=[0.0, 1.0, 0.0]), inputs, out)
    assert torch.equal(out, inputs.model(1))


@given(st.floats(width=32))
def test_bfloat16_rounds_as_torch_does(number):
    held = torch.tensor([number], dtype=torch.float32)
    out = torch.empty(1, dtype=torch.bfloat16)
    source = torch.ones(1, dtype=torch.bfloat16)
    addresses = np.array([[source.data_ptr()] * 4], dtype=np.int64)
    factors = np.array([[number, 0, 0, 0]], dtype=np.float32)
    bad = np.zeros(1, np.int64)
    outs, counts = np.array([out.data_ptr()]), np.array([1])
    kernels.combine(addresses, factors, outs, counts, entries(out)[:0], bad)
    is_finite = not bad[0]
    expected = held.bfloat16()
    assert is_finite == bool(torch.isfinite(expected).all())
    if is_finite:
        assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_told(dtype, bad):
    inputs = inputs_of((30, 700), DTYPES[dtype])
    inputs.model(2)[29, 699] = bad
    out = torch.empty((30, 700), dtype=DTYPES[dtype])
    assert not combine.carry_out(Combination(sources=[0.1, 0.2, 0.3]), inputs, out)
    assert not combine.carry_out(
        TaskSum(weights=[1.0, 1.0, 1.0], thinned=[Thinned()] * 3), inputs, out
    )
    assert not combine.all_finite(inputs.model(2))
    assert combine.all_finite(inputs.model(1))


def thinnings():
    cut = Cut(threshold=0.05, last=400)
    outer = Cut(threshold=0.2, last=-1)
    return {
        "whole": Thinned(),
        "trimmed": Thinned(kept=cut),
        "between": Thinned(kept=cut, outliers=outer),
        "dropped": Thinned(density=0.4, factor=2.5),
        "scaled": Thinned(factor=0.5),
        "all": Thinned(kept=cut, outliers=outer, density=0.7, factor=1.5),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", thinnings())
@pytest.mark.parametrize(("elect", "normalize"), [(False, False), (True, False), (True, True)])
def test_a_task_sum_is_the_same_by_the_kernel_and_by_blocks(dtype, shape, name, elect, normalize):
    inputs = inputs_of(shape, DTYPES[dtype], block_entries=1000)
    plan = TaskSum(
        weights=[0.7, -0.4, 0.9],
        thinned=[thinnings()[name], Thinned(), thinnings()[name]],
        scale=1.3,
        elect=elect,
        normalize=normalize,
    )
    by_kernel, by_blocks = (torch.empty(shape, dtype=DTYPES[dtype]) for _ in range(2))
    assert combine.carry_out(plan, inputs, by_kernel)
    assert combine.carry_out(task_sum_rule(plan), inputs, by_blocks)
    # Torch fuses the last multiplication and addition, so that a rounding may fall otherwise.
    tolerance = 1e-6 if dtype == "float32" else 2**-7
    torch.testing.assert_close(by_kernel, by_blocks, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tied_entries_are_kept_in_their_order(dtype):
    base = torch.zeros(4, 5, dtype=DTYPES[dtype])
    source = torch.ones(4, 5, dtype=DTYPES[dtype])
    source[::2] *= -1
    inputs = TensorInputs(
        name="w", sources=[source], base=base, identities=["a"], values={}, options={}
    )
    cut = inputs.largest(0, 7)
    out = torch.empty_like(source)
    combine.carry_out(TaskSum(weights=[1.0], thinned=[Thinned(kept=cut)]), inputs, out)
    expected = source.flatten().clone()
    expected[7:] = 0
    assert torch.equal(out.flatten(), expected)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**33))
def test_random_numbers_are_the_same_by_the_kernel_and_by_torch(first, second, start):
    key = (first, second)
    whole = noise.uniform(key, start, (70,), "cpu")
    assert torch.equal(whole, noise.uniform_anywhere(key, start, 70, "cpu"))
    assert torch.equal(whole[30:], noise.uniform(key, start + 30, (40,), "cpu"))


def test_random_numbers_look_uniform_and_independent():
    drawn = noise.uniform(noise.key_of(0, "w", "a"), 0, (1 << 18,), "cpu").double()
    other = noise.uniform(noise.key_of(0, "w", "b"), 0, (1 << 18,), "cpu").double()
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    spread = (1 / 12 / drawn.numel()) ** 0.5
    assert abs(float(drawn.mean()) - 0.5) < 5 * spread
    counts = torch.histc(drawn.float(), bins=64, min=0, max=1)
    chi_squared = float(((counts - 4096) ** 2 / 4096).sum())
    assert 20 < chi_squared < 130  # 63 degrees of freedom
    for shifted in (drawn.roll(1), drawn.roll(1024), other):
        both = torch.stack([drawn, shifted])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / 512


@pytest.mark.parametrize("other", ["seed", "tensor", "source"])
def test_masks_differ_between_seeds_tensors_and_sources(other):
    given = {"seed": 1, "tensor": "w", "source": "a"}
    changed = {**given, other: 2 if other == "seed" else "x"}
    assert noise.key_of(*given.values()) != noise.key_of(*changed.values())


@pytest.mark.parametrize("count", [1, 2])
def test_the_number_of_threads_changes_no_bit(count):
    inputs = inputs_of((400, 300), torch.bfloat16)
    plan = TaskSum(weights=[0.5, 0.2, 0.3], thinned=[Thinned(density=0.5)] * 3, elect=True)
    out, again = (torch.empty((400, 300), dtype=torch.bfloat16) for _ in range(2))
    combine.carry_out(plan, inputs, out)
    kernels.use_threads(count)
    try:
        combine.carry_out(plan, inputs, again)
    finally:
        kernels.use_threads(64)
    assert torch.equal(out, again)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
@pytest.mark.parametrize("shape", SIZES)
def test_inner_products_are_summed_in_float64(dtype, shape):
    inputs = inputs_of(shape, getattr(torch, dtype))
    first, second, base = (inputs.model(index).double() for index in (0, 1, BASE))
    expected = float((first * second).sum())
    assert inputs.dot(0, 1) == pytest.approx(expected, rel=1e-12)
    assert inputs.dot(1, 0) == inputs.dot(0, 1)
    ours, theirs = (first - base).float().double(), (second - base).float().double()
    assert inputs.delta_dot(0, 1) == pytest.approx(float((ours * theirs).sum()), rel=1e-12)

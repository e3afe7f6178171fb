"""Algebra of the merge methods, each law against a formula written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workers.methods.base import Inputs
from workers.methods.dare import drop
from workers.methods.registry import METHODS
from workers.methods.ties import elect_and_sum, trim

#: Multiples of 1/64 of moderate size: sums and differences of a few of them are exact in float32.
numbers = st.integers(-6400, 6400).map(lambda n: n / 64)
weights = st.integers(-96, 96).map(lambda n: n / 64)
densities = st.integers(1, 64).map(lambda n: n / 64)


def vectors(length: int) -> st.SearchStrategy[torch.Tensor]:
    return st.lists(numbers, min_size=length, max_size=length).map(torch.tensor)


@st.composite
def models(draw, min_sources=1, max_sources=4, max_length=12):
    """A base and some sources, one tensor each."""
    length = draw(st.integers(1, max_length))
    count = draw(st.integers(min_sources, max_sources))
    return draw(vectors(length)), [draw(vectors(length)) for _ in range(count)]


def merged(method, base, sources, values, *, seed=0, **options):
    def uniforms(index):
        generator = torch.Generator().manual_seed(seed * 1000 + index)
        return torch.rand(base.shape, generator=generator)

    inputs = Inputs(
        sources=sources,
        base=base,
        values=values,
        options={**METHODS.facts(method).options, **options},
        uniforms=uniforms,
    )
    return METHODS.load(method)().merge(inputs)


@given(models(max_sources=1), st.lists(st.floats(0.01, 2), min_size=1, max_size=5))
def test_the_weighted_mean_of_equal_models_is_that_model(drawn, mix):
    base, (model,) = drawn
    mean = merged("linear", base, [model] * len(mix), {"weight": tuple(mix)})
    torch.testing.assert_close(mean, model)


@given(models(), st.data())
def test_linear_without_normalisation_is_the_plain_weighted_sum(drawn, data):
    base, sources = drawn
    mix = tuple(data.draw(weights) for _ in sources)
    result = merged("linear", base, sources, {"weight": mix}, normalize=False)
    exact = sum(w * source.double() for w, source in zip(mix, sources, strict=True))
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-4)


@given(models())
def test_a_mean_by_weights_that_cancel_is_refused(drawn):
    base, (model, *_) = drawn
    with pytest.raises(ValueError, match="cannot normalise"):
        merged("linear", base, [model, model], {"weight": (0.5, -0.5)})


@given(models())
def test_task_arithmetic_with_weights_of_zero_is_the_base(drawn):
    base, sources = drawn
    result = merged("task_arithmetic", base, sources, {"weight": (0.0,) * len(sources)})
    assert torch.equal(result, base)


@given(models(), st.data())
def test_task_arithmetic_adds_each_weighted_difference_to_the_base(drawn, data):
    base, sources = drawn
    mix = tuple(data.draw(weights) for _ in sources)
    scale = data.draw(weights)
    result = merged("task_arithmetic", base, sources, {"weight": mix}, **{"lambda": scale})
    exact = base.double()
    for weight, source in zip(mix, sources, strict=True):
        exact = exact + scale * weight * (source.double() - base.double())
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-3)


@given(models(max_sources=1), weights)
def test_ties_of_one_whole_source_is_task_arithmetic(drawn, weight):
    base, sources = drawn
    ties = merged("ties", base, sources, {"weight": (weight,), "density": (1.0,)})
    plain = merged("task_arithmetic", base, sources, {"weight": (weight,)})
    torch.testing.assert_close(ties, plain)


@given(models(), st.data())
def test_dare_ties_that_drops_nothing_is_ties_that_trims_nothing(drawn, data):
    base, sources = drawn
    values = {
        "weight": tuple(data.draw(weights) for _ in sources),
        "density": (1.0,) * len(sources),
    }
    assert torch.equal(
        merged("dare_ties", base, sources, values), merged("ties", base, sources, values)
    )


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=40, unique=True),
    st.data(),
    densities,
)
def test_trimming_keeps_exactly_the_largest_share(magnitudes, data, density):
    signs = data.draw(
        st.lists(st.sampled_from([-1, 1]), min_size=len(magnitudes), max_size=len(magnitudes))
    )
    delta = torch.tensor([float(m * s) for m, s in zip(magnitudes, signs, strict=True)])
    keep = max(1, int(density * len(magnitudes)))
    largest = set(sorted(magnitudes)[-keep:])
    expected = torch.tensor(
        [float(m * s) if m in largest else 0.0 for m, s in zip(magnitudes, signs, strict=True)]
    )
    assert torch.equal(trim(delta, density), expected)


@given(models(max_sources=1), densities)
def test_trimming_changes_nothing_but_by_zeroing_and_keeps_the_largest(drawn, density):
    _, (delta,) = drawn
    kept = trim(delta, density)
    assert bool(((kept == delta) | (kept == 0)).all())
    assert kept.abs().max() == delta.abs().max()


@given(models(max_sources=1))
def test_a_share_of_all_entries_trims_nothing(drawn):
    _, (delta,) = drawn
    assert torch.equal(trim(delta, 1.0), delta)


def elected(deltas, mix, *, normalize):
    """The formula of TIES, one entry at a time."""
    result = []
    for entry in range(len(deltas[0])):
        parts = [w * float(delta[entry]) for w, delta in zip(mix, deltas, strict=True)]
        sign = 1 if sum(parts) >= 0 else -1
        agreeing = [place for place, part in enumerate(parts) if part * sign > 0]
        total = sum(parts[place] for place in agreeing)
        share = sum(mix[place] for place in agreeing)
        if normalize and abs(share) >= 1e-8:
            total /= share
        result.append(total)
    return torch.tensor(result, dtype=torch.float64)


@given(models(), st.data(), st.booleans())
def test_elected_sums_equal_the_formula_entry_by_entry(drawn, data, normalize):
    _, deltas = drawn
    mix = tuple(data.draw(weights) for _ in deltas)
    # Agreeing weights of opposite signs may nearly cancel: no number is right there.
    assume(not normalize or all(w > 0 for w in mix))
    result = elect_and_sum(deltas, mix, normalize=normalize)
    expected = elected(deltas, mix, normalize=normalize)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-4)


@given(models(min_sources=2), st.data())
def test_ties_is_its_formula_from_trim_to_base(drawn, data):
    base, sources = drawn
    mix = tuple(data.draw(weights) for _ in sources)
    shares = tuple(data.draw(densities) for _ in sources)
    result = merged("ties", base, sources, {"weight": mix, "density": shares})
    deltas = [trim(s - base, d) for s, d in zip(sources, shares, strict=True)]
    expected = base.double() + elected(deltas, mix, normalize=False)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 10_000), densities)
def test_a_mask_keeps_about_its_share_of_entries(seed, density):
    count = 20_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    kept = int((drop(torch.ones(count), density, uniforms, "none") != 0).sum())
    assert abs(kept - density * count) <= 6 * math.sqrt(count * density * (1 - density)) + 1e-9


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(16, 64).map(lambda n: n / 64))
def test_rescaling_by_density_keeps_the_expected_value(seed, density):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.rand(20_000, generator=generator) + 0.5
    uniforms = torch.rand(20_000, generator=generator)
    mean = float(drop(delta, density, uniforms, "density").mean())
    deviation = math.sqrt(float((delta**2).mean()) * (1 - density) / density / delta.numel())
    assert abs(mean - float(delta.mean())) <= 6 * deviation + 1e-5


@given(st.integers(0, 10_000), densities)
def test_rescaling_by_l1_keeps_the_norm(seed, density):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(500, generator=generator)
    uniforms = torch.rand(500, generator=generator)
    assume(bool((uniforms < density).any()))
    kept = drop(delta, density, uniforms, "l1")
    torch.testing.assert_close(kept.abs().sum(), delta.abs().sum(), rtol=1e-4, atol=1e-4)


@given(st.integers(0, 10_000), st.sampled_from(["density", "l1", "none"]))
def test_what_a_mask_drops_at_one_density_it_drops_at_every_lower_one(seed, rescale):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(200, generator=generator)
    uniforms = torch.rand(200, generator=generator)
    more = drop(delta, 0.75, uniforms, rescale) != 0
    fewer = drop(delta, 0.25, uniforms, rescale) != 0
    assert not bool((fewer & ~more).any())


def test_an_unknown_rescaling_is_refused_at_every_density():
    for density in (0.5, 1.0):
        with pytest.raises(ValueError, match="density, l1 or none, got 'l2'"):
            drop(torch.ones(3), density, torch.zeros(3), "l2")


@given(models(min_sources=2, max_sources=2))
def test_slerp_starts_at_the_first_source_and_ends_at_the_second(drawn):
    base, (a, b) = drawn
    for t, expected in ((0.0, a), (1.0, b)):
        result = merged("slerp", base, [a, b], {"t": (t,)})
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-4)


@given(models(min_sources=2, max_sources=2), st.floats(0, 1))
def test_slerp_is_the_same_walk_from_both_ends(drawn, t):
    base, (a, b) = drawn
    there = merged("slerp", base, [a, b], {"t": (t,)})
    back = merged("slerp", base, [b, a], {"t": (1 - t,)})
    torch.testing.assert_close(there, back, rtol=1e-4, atol=2e-3)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_slerp_of_unit_vectors_stays_on_the_sphere_at_its_share_of_the_angle(seed, t):
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0) for _ in "ab"
    )
    point = merged("slerp", a, [a, b], {"t": (t,)}).double()
    whole = torch.arccos(torch.dot(a.double(), b.double()))
    part = torch.arccos(torch.dot(a.double(), point).clamp(-1, 1))
    assert abs(float(point.norm()) - 1) < 1e-5
    assert abs(float(part) - t * float(whole)) < 2e-3  # arccos near 1 has few digits


@given(models(max_sources=1), st.floats(0, 1))
def test_slerp_between_equal_models_stays_there(drawn, t):
    base, (model,) = drawn
    torch.testing.assert_close(merged("slerp", base, [model, model], {"t": (t,)}), model)

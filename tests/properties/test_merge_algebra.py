"""Algebra of the merge methods, each law against a formula written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workers.merging.combine import carry_out
from workers.merging.inputs import TensorInputs
from workers.methods.registry import METHODS

#: Multiples of 1/64 of moderate size: sums and differences of a few of them are exact in float32.
numbers = st.integers(-6400, 6400).map(lambda n: n / 64)
weights = st.integers(-96, 96).map(lambda n: n / 64)
shares = st.integers(1, 96).map(lambda n: n / 64)
densities = st.integers(1, 64).map(lambda n: n / 64)
seeds = st.integers(0, 10_000)


def law(*strategies):
    """Half of the usual number of examples: every one of them goes through the whole engine."""
    return lambda test: settings(max_examples=50)(given(*strategies)(test))


def vectors(length: int) -> st.SearchStrategy[torch.Tensor]:
    return st.lists(numbers, min_size=length, max_size=length).map(torch.tensor)


@st.composite
def models(draw, min_sources=1, max_sources=4, max_length=12):
    """A base and some sources, one tensor each."""
    length = draw(st.integers(1, max_length))
    count = draw(st.integers(min_sources, max_sources))
    return draw(vectors(length)), [draw(vectors(length)) for _ in range(count)]


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def merged(method, base, sources, values, *, seed=0, **options):
    """The method's merge, with defaults for the values that are not given."""
    facts = METHODS.facts(method)
    filled = {
        one.name: (one.default,) * (len(sources) if one.per == "source" else 1)
        for one in facts.parameters
    }
    inputs = TensorInputs(
        name="weight",
        sources=sources,
        base=base,
        identities=[f"source {place}" for place in range(len(sources))],
        values={**filled, **values},
        options={**facts.options, **options},
        seed=seed,
    )
    out = torch.empty(base.shape)
    assert carry_out(METHODS.load(method)().plan(inputs), inputs, out)
    return out


def alone(method, delta, *, seed=0, options=None, **values):
    """What a method of task vectors makes of one of weight 1 over a base of zeros."""
    given = {"weight": (1.0,), **{name: (value,) for name, value in values.items()}}
    return merged(method, torch.zeros_like(delta), [delta], given, seed=seed, **(options or {}))


# --- means -----------------------------------------------------------------------------------


@law(models(max_sources=1), st.lists(st.floats(0.01, 2), min_size=1, max_size=5))
def test_the_weighted_mean_of_equal_models_is_that_model(drawn, mix):
    base, (model,) = drawn
    mean = merged("linear", base, [model] * len(mix), {"weight": tuple(mix)})
    torch.testing.assert_close(mean, model, rtol=1e-5, atol=1e-5)


@law(models(), st.data())
def test_linear_without_normalisation_is_the_plain_weighted_sum(drawn, data):
    base, sources = drawn
    mix = tuple(data.draw(weights) for _ in sources)
    result = merged("linear", base, sources, {"weight": mix}, normalize=False)
    exact = sum(w * source.double() for w, source in zip(mix, sources, strict=True))
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-4)


@law(models())
def test_a_mean_by_weights_that_cancel_is_refused(drawn):
    base, (model, *_) = drawn
    with pytest.raises(ValueError, match="cannot normalise"):
        merged("linear", base, [model, model], {"weight": (0.5, -0.5)})


@law(models(max_sources=1), weights)
def test_passthrough_is_the_source_times_its_scale(drawn, scale):
    base, sources = drawn
    assert torch.equal(
        merged("passthrough", base, sources, {"scale": (scale,)}), sources[0] * scale
    )


# --- task vectors, summed --------------------------------------------------------------------


@law(models())
def test_task_arithmetic_with_weights_of_zero_is_the_base(drawn):
    base, sources = drawn
    result = merged("task_arithmetic", base, sources, {"weight": (0.0,) * len(sources)})
    assert torch.equal(result, base)


@law(models(), st.data())
def test_task_arithmetic_adds_each_weighted_difference_to_the_base(drawn, data):
    base, sources = drawn
    mix = tuple(data.draw(weights) for _ in sources)
    scale = data.draw(weights)
    result = merged("task_arithmetic", base, sources, {"weight": mix, "lambda": (scale,)})
    exact = base.double()
    for weight, source in zip(mix, sources, strict=True):
        exact = exact + scale * weight * (source.double() - base.double())
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-3)


ELECTING = ["ties", "dare_ties", "della", "breadcrumbs_ties"]


@law(models(max_sources=1), weights, st.sampled_from(ELECTING))
def test_electing_among_one_whole_source_is_task_arithmetic(drawn, weight, method):
    base, sources = drawn
    result = merged(method, base, sources, {"weight": (weight,)})
    plain = merged("task_arithmetic", base, sources, {"weight": (weight,)})
    torch.testing.assert_close(result, plain, rtol=1e-5, atol=1e-4)


@law(models(), st.data(), st.booleans())
def test_what_leaves_nothing_out_is_ties_or_task_arithmetic(drawn, data, normalize):
    base, sources = drawn
    values = {"weight": tuple(data.draw(shares) for _ in sources)}

    def result(method):
        return merged(method, base, sources, values, normalize=normalize)

    for method in ELECTING[1:]:
        torch.testing.assert_close(result(method), result("ties"))
    for method in ("dare_linear", "della_linear", "breadcrumbs"):
        torch.testing.assert_close(result(method), result("task_arithmetic"), rtol=1e-5, atol=1e-4)


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


def trimmed(delta, density):
    """The largest share of a vector; the first among equals."""
    kept = (
        delta.abs().sort(descending=True, stable=True).indices[: max(1, int(density * len(delta)))]
    )
    return torch.zeros_like(delta).index_copy_(0, kept, delta[kept])


@law(models(min_sources=2), st.data(), st.booleans())
def test_ties_is_its_formula_from_trim_to_base(drawn, data, normalize):
    base, sources = drawn
    # Agreeing weights of opposite signs may nearly cancel: no number is right to divide by then.
    mix = tuple(data.draw(shares if normalize else weights) for _ in sources)
    kept = tuple(data.draw(densities) for _ in sources)
    values = {"weight": mix, "density": kept}
    result = merged("ties", base, sources, values, normalize=normalize)
    deltas = [trimmed(s - base, d) for s, d in zip(sources, kept, strict=True)]
    expected = base.double() + elected(deltas, mix, normalize=normalize)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-4)


# --- task vectors, thinned out ---------------------------------------------------------------


@law(st.lists(st.integers(-50, 50), min_size=1, max_size=40), densities)
def test_ties_keeps_the_largest_share_and_the_first_among_equals(entries, density):
    delta = torch.tensor([float(entry) for entry in entries])
    assert torch.equal(alone("ties", delta, density=density), trimmed(delta, density))


@law(
    st.lists(st.integers(-50, 50), min_size=1, max_size=40),
    densities,
    st.integers(0, 64).map(lambda n: n / 64),
)
def test_breadcrumbs_keeps_a_share_below_the_largest(entries, density, gamma):
    delta = torch.tensor([float(entry) for entry in entries])
    order = delta.abs().sort(descending=True, stable=True).indices
    num_kept = int(density * len(delta))
    start = min(int(gamma * len(delta)), len(delta) - num_kept)
    kept = order[start : start + num_kept]
    expected = torch.zeros_like(delta).index_copy_(0, kept, delta[kept])
    assert torch.equal(alone("breadcrumbs", delta, density=density, gamma=gamma), expected)


@law(seeds, densities)
def test_a_mask_keeps_about_its_share_of_entries(seed, density):
    count = 20_000
    options = {"rescale": "none"}
    kept = alone("dare_linear", torch.ones(count), density=density, seed=seed, options=options)
    error = math.sqrt(count * density * (1 - density))
    assert abs(int((kept != 0).sum()) - density * count) <= 6 * error + 1e-9


@law(seeds, st.sampled_from(["dare_linear", "della_linear"]), st.integers(16, 48))
def test_rescaling_by_probability_keeps_the_expected_value(seed, method, density):
    delta = normal(seed, 20_000).abs() + 0.5
    density = density / 64
    result = alone(method, delta, density=density, seed=seed)
    least = density - (0.15 if method == "della_linear" else 0)
    error = math.sqrt(float((delta**2).mean()) * (1 - least) / least / delta.numel())
    assert abs(float(result.mean() - delta.mean())) <= 6 * error + 1e-5


@law(
    seeds,
    st.sampled_from(["ties", "dare_linear", "della_linear", "breadcrumbs", "breadcrumbs_ties"]),
    st.integers(16, 48).map(lambda n: n / 64),
)
def test_rescaling_by_l1_keeps_the_norm(seed, method, density):
    delta = normal(seed, 20, 25)
    kept = alone(method, delta, density=density, seed=seed, options={"rescale": "l1"})
    assert bool((kept == 0).any())
    torch.testing.assert_close(kept.abs().sum(), delta.abs().sum(), rtol=1e-4, atol=1e-4)


@law(
    seeds,
    st.sampled_from(["density", "l1", "none"]),
    st.sampled_from(["dare_linear", "della_linear"]),
)
def test_what_is_dropped_at_one_density_is_dropped_at_every_lower_one(seed, rescale, method):
    """Candidates of a search have random numbers in common."""
    delta, options = normal(seed, 10, 20), {"rescale": rescale}
    more = alone(method, delta, density=0.75, seed=seed, options=options) != 0
    fewer = alone(method, delta, density=0.25, seed=seed, options=options) != 0
    assert not bool((fewer & ~more).any())


@law(seeds)
def test_masks_differ_by_seed_and_by_source(seed):
    ones, options = torch.ones(400), {"rescale": "none"}
    mask = alone("dare_linear", ones, density=0.5, seed=seed, options=options)
    other = alone("dare_linear", ones, density=0.5, seed=seed + 1, options=options)
    values = {"weight": (1.0, 2.0), "density": (0.5, 0.5)}
    both = merged("dare_linear", ones * 0, [ones, ones], values, seed=seed, **options)
    assert not torch.equal(mask, other)
    assert set(both.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert torch.equal(both % 2, mask)


def test_della_keeps_entries_the_more_often_the_higher_they_rank_in_their_row():
    delta = torch.tensor([[0.1, -4.0, 2.0], [7.0, 5.0, -6.0]])
    ranks = torch.tensor([[0, 2, 1], [2, 0, 1]])
    runs = torch.stack(
        [
            alone(
                "della_linear",
                delta,
                density=0.5,
                epsilon=0.3,
                seed=seed,
                options={"rescale": "none"},
            )
            != 0
            for seed in range(600)
        ]
    )
    expected = 0.2 + 0.3 * ranks
    assert float((runs.double().mean(0) - expected).abs().max()) <= 5 * math.sqrt(0.25 / 600)


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.15), (0.1, 0.1), (0.5, 0.5)])
def test_della_refuses_probabilities_outside_0_and_1(density, epsilon):
    with pytest.raises(ValueError, match=r"expected inside \(0, 1\)"):
        alone("della", torch.ones(8), density=density, epsilon=epsilon)


# --- entries chosen by what sources agree on -------------------------------------------------


def sce_by_hand(base, sources, share):
    """The formula of SCE on whole tensors."""
    deltas = torch.stack(sources).double() - base.double()
    variances = torch.stack(sources).double().var(0, unbiased=False)
    variances[(torch.stack(sources) == sources[0]).all(0)] = 0
    if share < 1:
        num_kept = int(int((variances > 0).sum()) * share)
        kept = variances.sort(descending=True, stable=True).indices[:num_kept]
        deltas = deltas * torch.zeros(len(base)).index_fill_(0, kept, 1.0)
    squares = deltas.square().sum(1)
    mix = (
        squares / squares.sum() if squares.sum() > 0 else torch.full_like(squares, 1 / len(deltas))
    )
    agrees = (deltas * torch.where(deltas.sum(0) >= 0, 1.0, -1.0)) > 0
    below = (mix[:, None] * agrees).sum(0)
    return base.double() + (mix[:, None] * agrees * deltas).sum(0) / below.clamp_min(1e-300)


@law(models(), st.integers(0, 64).map(lambda n: n / 64))
def test_sce_is_its_formula(drawn, share):
    base, sources = drawn
    result = merged("sce", base, sources, {"select_topk": (share,)})
    expected = sce_by_hand(base, sources, share)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


@law(models(min_sources=2), st.sampled_from([0.0, 0.5, 20.0]), shares, shares)
def test_ram_is_its_formula_entry_by_entry(drawn, epsilon, r, alpha):
    base, sources = drawn
    deltas = torch.stack(sources).double() - base.double()
    changed = deltas.abs() > epsilon
    counts = changed.sum(0)
    own, shared = changed & (counts == 1), changed & (counts > 1)
    mean = (deltas * shared).sum(0) / counts.clamp_min(1)
    plain = merged("ram", base, sources, {"epsilon": (epsilon,)})
    expected = base.double() + mean + (deltas * own).sum(0)
    torch.testing.assert_close(plain.double(), expected, rtol=1e-5, atol=1e-4)
    overlap = (shared.sum(1) / own.sum(1).clamp_min(1e-9)).clamp(0, alpha)
    strong = merged(
        "ramplus_tl", base, sources, {"epsilon": (epsilon,), "r": (r,), "alpha": (alpha,)}
    )
    expected = base.double() + mean + (deltas * own * (1 + r * overlap)[:, None]).sum(0)
    torch.testing.assert_close(strong.double(), expected, rtol=1e-5, atol=1e-4)


@law(models(max_sources=1), shares)
def test_nearswap_takes_what_is_near_and_moves_the_rest_by_its_distance(drawn, t):
    base, (source,) = drawn
    result = merged("nearswap", base, [source], {"t": (t,)})
    is_near = (source - base).abs() <= t
    torch.testing.assert_close(result[is_near], source[is_near])
    moved = (result - base)[~is_near]
    torch.testing.assert_close(
        moved, torch.sign((source - base)[~is_near]) * t, rtol=1e-4, atol=1e-5
    )


@law(seeds, st.sampled_from([0.0, 0.5, 1.5, 3.0]))
def test_arcee_fusion_takes_the_entries_above_the_fence(seed, fence):
    base = normal(seed, 7, 9)
    source = base + 0.1 * normal(seed + 1, 7, 9)
    gains = source.double().log_softmax(1)
    divergences = (gains.exp() * (gains - base.double().log_softmax(1))).sum(1, keepdim=True)
    importance = (source - base).double().abs() * divergences
    ordered = importance.flatten().sort().values
    lower, median, upper = (ordered[int(share * 62)] for share in (0.25, 0.5, 0.75))
    threshold = median + fence * (upper - lower)
    assume(bool(((importance - threshold).abs() > 1e-6 * threshold).all() or fence == 0))
    result = merged("arcee_fusion", base, [source], {"fence": (fence,)})
    expected = torch.where(importance >= threshold * (1 - 1e-7), source, base)
    torch.testing.assert_close(result, expected)


# --- directions ------------------------------------------------------------------------------


@law(models(min_sources=2, max_sources=2))
def test_slerp_starts_at_the_first_source_and_ends_at_the_second(drawn):
    base, (a, b) = drawn
    for t, expected in ((0.0, a), (1.0, b)):
        result = merged("slerp", base, [a, b], {"t": (t,)})
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-4)


@law(models(min_sources=2, max_sources=2), st.floats(0, 1))
def test_slerp_is_the_same_walk_from_both_ends(drawn, t):
    base, (a, b) = drawn
    there = merged("slerp", base, [a, b], {"t": (t,)})
    back = merged("slerp", base, [b, a], {"t": (1 - t,)})
    torch.testing.assert_close(there, back, rtol=1e-4, atol=2e-3)


def units(seed, count, length=16):
    return [torch.nn.functional.normalize(normal(seed + k, length), dim=0) for k in range(count)]


@law(seeds, st.floats(0, 1))
def test_slerp_of_unit_vectors_stays_on_the_sphere_at_its_share_of_the_angle(seed, t):
    a, b = units(seed, 2)
    point = merged("slerp", a, [a, b], {"t": (t,)}).double()
    whole = torch.arccos(torch.dot(a.double(), b.double()))
    part = torch.arccos(torch.dot(a.double(), point).clamp(-1, 1))
    assert abs(float(point.norm()) - 1) < 1e-5
    assert abs(float(part) - t * float(whole)) < 2e-3  # arccos near 1 has few digits


@law(models(max_sources=1), st.floats(0, 1))
def test_slerp_between_equal_models_stays_there(drawn, t):
    base, (model,) = drawn
    result = merged("slerp", base, [model, model], {"t": (t,)})
    torch.testing.assert_close(result, model, rtol=1e-5, atol=1e-5)


@law(seeds, shares, shares)
def test_nuslerp_is_slerp_by_the_share_of_the_second_weight(seed, first, second):
    a, b = normal(seed, 4, 6), normal(seed + 1, 4, 6)
    base = normal(seed + 2, 4, 6)
    t = second / (first + second)
    result = merged("nuslerp", base, [a, b], {"weight": (first, second)})
    torch.testing.assert_close(
        result, merged("slerp", base, [a, b], {"t": (t,)}), rtol=1e-4, atol=1e-5
    )
    with_base = merged("nuslerp", base, [a, b], {"weight": (first, second)}, use_base=True)
    deltas = merged("slerp", base, [a - base, b - base], {"t": (t,)})
    torch.testing.assert_close(with_base, base + deltas, rtol=1e-4, atol=1e-5)


@law(seeds, st.booleans())
def test_nuslerp_by_rows_merges_each_row_alone_and_by_columns_each_column(seed, use_base):
    a, b, base = (normal(seed + k, 3, 5) for k in range(3))
    values, options = {"weight": (0.3, 0.6)}, {"nuslerp_flatten": False, "use_base": use_base}
    by_rows = merged("nuslerp", base, [a, b], values, **options)
    for row in range(3):
        alone = merged("nuslerp", base[row], [a[row], b[row]], values, use_base=use_base)
        torch.testing.assert_close(by_rows[row], alone, rtol=1e-4, atol=1e-5)
    turned = [one.T.contiguous() for one in (base, a, b)]
    by_columns = merged("nuslerp", turned[0], turned[1:], values, nuslerp_row_wise=True, **options)
    torch.testing.assert_close(by_columns.T, by_rows, rtol=1e-4, atol=1e-5)


@law(seeds, st.lists(shares, min_size=2, max_size=5))
def test_multislerp_has_the_mean_length_and_the_mean_direction(seed, mix):
    sources = [normal(seed + k, 30) * (k + 1) for k in range(len(mix))]
    result = merged("multislerp", sources[0], sources, {"weight": tuple(mix)}).double()
    exact = [source.double() for source in sources]
    length = sum(w * one.norm() for w, one in zip(mix, exact, strict=True)) / sum(mix)
    mean = sum(w * one / one.norm() for w, one in zip(mix, exact, strict=True))
    torch.testing.assert_close(result, length * mean / mean.norm(), rtol=1e-4, atol=1e-5)


@law(seeds)
def test_multislerp_of_two_alike_in_length_and_weight_is_the_middle_of_their_arc(seed):
    a, b = units(seed, 2)
    middle = merged("slerp", a, [a, b], {"t": (0.5,)})
    torch.testing.assert_close(merged("multislerp", a, [a, b], {"weight": (0.4, 0.4)}), middle)


@law(seeds)
def test_multislerp_with_a_base_forgets_no_digits_of_short_task_vectors(seed):
    base = normal(seed, 40)
    deltas = [normal(seed + 1, 40) * 1e-5, normal(seed + 2, 40) * 0.1, torch.zeros(40)]
    sources = [base + delta for delta in deltas]
    exact = [(source - base).double() for source in sources]
    result = merged("multislerp", base, sources, {"weight": (0.5, 0.3, 0.2)}, use_base=True)
    length = 0.5 * exact[0].norm() + 0.3 * exact[1].norm()
    mean = 0.5 * exact[0] / exact[0].norm() + 0.3 * exact[1] / exact[1].norm()
    expected = base.double() + length * mean / mean.norm()
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


@law(seeds, st.lists(shares, min_size=1, max_size=5))
def test_at_the_karcher_mean_the_weighted_ways_to_all_sources_cancel(seed, mix):
    sources = [normal(seed + k, 30) * (k + 1) for k in range(len(mix))]
    values = {"weight": tuple(mix), "max_iter": (100.0,), "tol": (0.0,)}
    result = merged("karcher", sources[0], sources, values).double()
    mean = result / result.norm()
    ways = torch.zeros_like(mean)
    for weight, source in zip(mix, sources, strict=True):
        unit = source.double() / source.double().norm()
        across = unit - torch.dot(unit, mean) * mean
        if float(across.norm()) > 1e-6:
            angle = torch.arccos(torch.dot(unit, mean).clamp(-1, 1))
            ways += weight * angle * across / across.norm()
    assert float(ways.norm()) < 1e-5 * sum(mix)
    length = sum(w * one.double().norm() for w, one in zip(mix, sources, strict=True)) / sum(mix)
    assert float(result.norm()) == pytest.approx(float(length), rel=1e-5)


@law(seeds, shares, shares)
def test_the_karcher_mean_of_two_lies_on_their_arc_by_their_weights(seed, first, second):
    a, b = units(seed, 2)
    result = merged("karcher", a, [a, b], {"weight": (first, second), "max_iter": (100.0,)})
    expected = merged("slerp", a, [a, b], {"t": (second / (first + second),)})
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=2e-5)


@law(models(min_sources=3, max_sources=3))
def test_a_tensor_of_zeros_takes_no_part_in_a_mean_direction_but_in_the_length(drawn):
    base, (a, b, _) = drawn
    assume(float(a.norm()) > 1 and float(b.norm()) > 1)
    zeros = torch.zeros_like(a)
    for method in ("karcher", "multislerp"):
        both = merged(method, base, [a, b], {"weight": (0.5, 0.25)})
        all_three = merged(method, base, [a, b, zeros], {"weight": (0.5, 0.25, 0.25)})
        torch.testing.assert_close(all_three, both * 0.75, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["karcher", "multislerp"])
def test_directions_that_cancel_are_mixed_linearly(method):
    """As slerp does; there is no way on the sphere between them that is shorter than others."""
    a = normal(1, 12)
    result = merged(method, a, [a, -2 * a], {"weight": (0.5, 0.5)})
    torch.testing.assert_close(result, -0.5 * a)


@law(seeds, st.integers(2, 5), st.booleans())
def test_model_stock_is_its_formula(seed, count, filter_wise):
    base = normal(seed, 3, 8)
    common = normal(seed + 1, 3, 8)
    sources = [base + common + normal(seed + 2 + k, 3, 8) for k in range(count)]
    shape = (3, 8) if filter_wise else (1, 24)
    deltas = [(source - base).double().view(shape) for source in sources]
    pairs = [(a, b) for a in range(count) for b in range(a)]
    cosine = sum(
        torch.nn.functional.cosine_similarity(deltas[a], deltas[b], dim=1) for a, b in pairs
    ) / len(pairs)
    t = (count * cosine / (1 + (count - 1) * cosine))[:, None]
    assume(bool((1 + (count - 1) * cosine > 0.05).all()))
    result = merged("model_stock", base, sources, {}, filter_wise=filter_wise)
    mean = torch.stack(sources).double().mean(0)
    expected = t * mean + (1 - t) * base.double()
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


def test_model_stock_keeps_the_angles_of_the_smallest_changes():
    change = normal(2, 50) * 1e-6
    result = merged("model_stock", torch.zeros(50), [change, change], {})
    torch.testing.assert_close(result, change)


def test_model_stock_of_changes_that_cancel_is_the_base():
    base = normal(1, 50)
    result = merged("model_stock", base, [base + 1, base - 1], {})
    torch.testing.assert_close(result, base, rtol=1e-3, atol=1e-3)

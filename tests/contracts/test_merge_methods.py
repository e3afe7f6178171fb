"""Laws that every listed merge method keeps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from workers.merging.combine import carry_out
from workers.merging.inputs import TensorInputs
from workers.methods.registry import METHODS

SHAPE = (6, 5)
#: They take a part of what one source changed, however alike all sources are.
TAKE_A_PART = {"nearswap", "arcee_fusion"}
#: Options that do something only with another one.
TOGETHER = {"nuslerp_row_wise": {"nuslerp_flatten": False}}
#: (option that is neither true nor false, its default) -> its other values.
CHOICES = {("rescale", "none"): ["l1"], ("rescale", "density"): ["l1", "none"]}


def tensor(seed: int, shape=SHAPE, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale


def change(seed: int, shape=SHAPE) -> torch.Tensor:
    """Numbers of many sizes, a third of them 0: no threshold keeps all of them or none."""
    generator = torch.Generator().manual_seed(100 + seed)
    sizes = 10 ** (-4 * torch.rand(shape, generator=generator))
    sizes *= torch.rand(shape, generator=generator) < 0.67
    return torch.randn(shape, generator=generator) * sizes


def num_sources(method: str) -> int:
    return METHODS.facts(method).num_sources or 3


def middle_values(method: str) -> dict[str, tuple[float, ...]]:
    """A different value of each searched parameter for each source, inside the default bounds."""
    values = {}
    for parameter in METHODS.facts(method).parameters:
        low, high = parameter.default_bounds
        places = num_sources(method) if parameter.per == "source" else 1
        values[parameter.name] = tuple(
            low + (high - low) * (place + 1) / (places + 1) for place in range(places)
        )
        if not parameter.searched and parameter.default is not None:
            values[parameter.name] = (parameter.default,) * places
    return values


def neutral_values(method: str, count: int) -> dict[str, tuple[float, ...]]:
    return {
        one.name: (one.plain(count),) * (count if one.per == "source" else 1)
        for one in METHODS.facts(method).parameters
    }


def example(method: str, **changes: Any) -> dict[str, Any]:
    """What `TensorInputs` takes, with all that the method takes."""
    facts = METHODS.facts(method)
    count = num_sources(method)
    shape = changes.pop("shape", SHAPE)
    base = tensor(0, shape)
    found = {
        "name": "model.layers.0.mlp.up_proj.weight",
        "sources": [base + change(place, shape) for place in range(count)],
        "base": base,
        "identities": [f"source {place}" for place in range(count)],
        "base_identity": "base",
        "values": middle_values(method),
        "options": dict(facts.options),
        "seed": 3,
    }
    return {**found, **changes}


def merge(method: str, given: Mapping[str, Any], dtype=torch.float32) -> torch.Tensor:
    inputs = TensorInputs(**given)
    out = torch.empty(given["sources"][0].shape, dtype=dtype)
    assert carry_out(METHODS.load(method)().plan(inputs), inputs, out)
    return out


def others(method: str, name: str) -> list[Any]:
    """The values of an option that are not its default."""
    default = METHODS.facts(method).options[name]
    return [not default] if isinstance(default, bool) else CHOICES[name, default]


def variants(method: str) -> Iterator[dict[str, Any]]:
    """Options of which each differs from its default once."""
    options = METHODS.facts(method).options
    yield dict(options)
    for name in options:
        for other in others(method, name):
            yield {**options, **TOGETHER.get(name, {}), name: other}


class Noting(Mapping[str, Any]):
    """A mapping that remembers which of its keys were read."""

    def __init__(self, inner: Mapping[str, Any]) -> None:
        self.inner = inner
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.inner[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


def parametrised(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", sorted(names))


every_method = parametrised(list(METHODS.addresses))
methods_with_options = parametrised(
    [name for name in METHODS.addresses if METHODS.facts(name).options]
)
methods_of_any_number = parametrised(
    [name for name in METHODS.addresses if METHODS.facts(name).num_sources is None]
)
methods_with_values_of_sources = parametrised(
    [
        name
        for name in METHODS.addresses
        if any(parameter.per == "source" for parameter in METHODS.facts(name).parameters)
    ]
)
methods_with_choices = parametrised(
    [name for name in METHODS.addresses if "rescale" in METHODS.facts(name).options]
)
methods_with_a_base = parametrised(
    [name for name in METHODS.addresses if METHODS.facts(name).needs_base]
)


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (method, count)
        for method in sorted(METHODS.addresses)
        for count in (1, 2, 4)
        if method not in TAKE_A_PART
        and METHODS.facts(method).num_sources in (None, count)
        and METHODS.facts(method).least_sources <= count
    ],
)
def test_copies_of_one_model_at_neutral_values_are_that_model(method, count):
    for options in variants(method):
        given = example(
            method,
            sources=[tensor(1)] * count,
            identities=["one"] * count,
            values=neutral_values(method, count),
            options=options,
        )
        torch.testing.assert_close(merge(method, given), tensor(1), rtol=1e-5, atol=2e-5)


@methods_with_a_base
def test_sources_that_are_the_base_merge_to_the_base(method):
    for options in variants(method):
        base = tensor(0)
        given = example(method, options=options, sources=[base] * num_sources(method))
        torch.testing.assert_close(merge(method, given), base, rtol=1e-6, atol=1e-6)


@methods_of_any_number
def test_the_order_of_sources_with_their_values_does_not_matter(method):
    order = [2, 0, 1]
    for options in variants(method):
        given = example(method, options=options)
        moved = {
            **given,
            "sources": [given["sources"][place] for place in order],
            "identities": [given["identities"][place] for place in order],
            "values": {
                name: tuple(held[place] for place in order) if len(held) > 1 else held
                for name, held in given["values"].items()
            },
        }
        torch.testing.assert_close(merge(method, moved), merge(method, given), rtol=1e-5, atol=1e-6)


@methods_with_values_of_sources
def test_values_belong_to_their_sources(method):
    given = example(method)
    swapped = {
        **given,
        "sources": given["sources"][::-1],
        "identities": given["identities"][::-1],
    }
    assert not torch.allclose(merge(method, swapped), merge(method, given))


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_shape_and_type_is_merged_as_in_float32_and_rounded_once(method, dtype):
    for shape in [(), (1,), (7,), (1, 6), (6, 1), (6, 5), (3, 4, 5)]:
        check_shape(method, shape, dtype)


def check_shape(method, shape, dtype):
    given = example(method, shape=shape)
    given["sources"] = [source.to(dtype) for source in given["sources"]]
    given["base"] = given["base"].to(dtype)
    wide = {
        **given,
        "sources": [source.float() for source in given["sources"]],
        "base": given["base"].float(),
    }
    merged, exact = merge(method, given, dtype), merge(method, wide)
    assert merged.shape == shape
    # One rounding; sums in another order may round to the neighbour.
    torch.testing.assert_close(
        merged.float(), exact, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps
    )


@every_method
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6, 1.0, 1e6])
def test_finite_tensors_merge_to_a_finite_tensor(method, scale):
    for options in variants(method):
        given = example(method, options=options)
        given["sources"] = [source * scale for source in given["sources"]]
        given["base"] = given["base"] * scale
        assert bool(torch.isfinite(merge(method, given)).all())


@every_method
def test_opposite_sources_merge_to_a_finite_tensor(method):
    for options in variants(method):
        given = example(method, options=options)
        signs = [1.0, -1.0, 0.0]
        given["sources"] = [
            given["base"] * sign for sign, _ in zip(signs, given["sources"], strict=False)
        ]
        assert bool(torch.isfinite(merge(method, given)).all())


@every_method
def test_merging_twice_gives_the_same_bits(method):
    assert torch.equal(merge(method, example(method)), merge(method, example(method)))


@every_method
@pytest.mark.parametrize("shape", [(13, 5), (3, 2, 5), (64,)])
def test_how_rows_are_cut_into_blocks_does_not_matter(method, shape):
    for options in variants(method):
        for dtype in (torch.float32, torch.float16):  # with kernels and without
            given = example(method, shape=shape, options=options)
            given["sources"] = [source.to(dtype) for source in given["sources"]]
            given["base"] = given["base"].to(dtype)
            whole = merge(method, {**given, "block_entries": 1 << 20}, dtype)
            for entries in (1, 20):
                cut = merge(method, {**given, "block_entries": entries}, dtype)
                # Sums in another order move coefficients by a rounding.
                torch.testing.assert_close(cut, whole, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@every_method
def test_merging_neither_changes_its_inputs_nor_gives_them_away(method, tmp_path):
    """The inputs lie in memory that cannot be written to: to try ends the process."""
    for options in variants(method):
        given = example(method, options=options)
        copies = {}
        for place, source in enumerate([*given["sources"], given["base"]]):
            np.save(tmp_path / f"{place}.npy", source.numpy())
            copies[place] = np.load(tmp_path / f"{place}.npy", mmap_mode="r")
        with warnings.catch_warnings(action="ignore"):  # of just that
            mapped = [torch.from_numpy(copy) for copy in copies.values()]
        merged = merge(method, {**given, "sources": mapped[:-1], "base": mapped[-1]})
        torch.testing.assert_close(merged, merge(method, given), rtol=0, atol=0)


@every_method
def test_the_facts_name_exactly_what_plan_reads(method):
    facts = METHODS.facts(method)
    given = example(method)
    values, options = Noting(given["values"]), Noting(given["options"])
    merge(method, {**given, "values": values, "options": options})
    assert values.read == {parameter.name for parameter in facts.parameters}
    assert options.read == set(facts.options)


@every_method
def test_every_parameter_changes_the_result(method):
    near = example(method)
    far = {**near, "sources": [tensor(10 + place) for place in range(num_sources(method))]}
    for parameter in METHODS.facts(method).parameters:
        changes = []
        for given in (near, far):
            held = given["values"]
            low, high = (
                merge(
                    method,
                    {
                        **given,
                        "values": {**held, parameter.name: (bound, *held[parameter.name][1:])},
                    },
                )
                for bound in parameter.default_bounds
            )
            changes.append(float((high - low).abs().max()))
        assert max(changes) > 1e-4, parameter.name


@methods_with_options
def test_every_option_changes_the_result(method):
    options = METHODS.facts(method).options
    for name in options:
        plain = {**options, **TOGETHER.get(name, {})}
        results = [
            merge(method, example(method, options={**plain, name: held}))
            for held in [plain[name], *others(method, name)]
        ]
        for place, one in enumerate(results):
            for other in results[:place]:
                assert not torch.allclose(one, other, rtol=1e-5), name


@pytest.mark.parametrize(
    ("method", "option"),
    [
        *[(name, "normalize") for name in ("linear", "task_arithmetic", "dare_linear")],
        *[(name, "normalize") for name in ("della_linear", "breadcrumbs")],
        ("multislerp", "normalize_weights"),
        ("nuslerp", "nuslerp_flatten"),
        ("karcher", None),
    ],
)
def test_weights_that_cancel_are_refused_where_they_are_divided_by(method, option):
    given = example(method)
    if option is not None:
        given["options"][option] = True
    weights = (0.5, -0.5, 0.0) if num_sources(method) == 3 else (0.5, -0.5)
    with pytest.raises(ValueError, match=r"weights \(0.5, -0.5.*\) sum to 0"):
        merge(method, {**given, "values": {**given["values"], "weight": weights}})


@methods_with_choices
def test_an_unknown_choice_is_refused_whatever_the_values_are(method):
    for values in (middle_values(method), neutral_values(method, num_sources(method))):
        given = example(method, values=values)
        given["options"]["rescale"] = "l2"
        with pytest.raises(ValueError, match=r"rescale must be one of .*, got 'l2'"):
            merge(method, given)


@every_method
def test_bounds_neutral_values_and_defaults_are_accepted(method):
    facts = METHODS.facts(method)
    assert len({parameter.name for parameter in facts.parameters}) == len(facts.parameters)
    for parameter in facts.parameters:
        low, high = parameter.default_bounds
        assert low < high
        named = [high, parameter.plain(num_sources(method)), parameter.default]
        for value in [*named, *([] if parameter.open_low and low == parameter.low else [low])]:
            assert value is None or parameter.accepts(value), (parameter.name, value)


@every_method
def test_the_corners_of_the_default_bounds_can_be_merged(method):
    """What a search may try is defined."""
    for side in (0, 1):
        for other in (0, 1):
            values = {}
            for place, parameter in enumerate(METHODS.facts(method).parameters):
                bound = parameter.default_bounds[side if place % 2 else other]
                count = num_sources(method) if parameter.per == "source" else 1
                values[parameter.name] = (max(bound, 1e-3),) * count
            assert bool(torch.isfinite(merge(method, example(method, values=values))).all())


@every_method
def test_values_outside_the_accepted_range_are_not_accepted(method):
    for parameter in METHODS.facts(method).parameters:
        assert not parameter.accepts(math.nan), parameter.name
        if parameter.open_low:
            assert not parameter.accepts(parameter.low)
        elif parameter.low > -math.inf:
            assert not parameter.accepts(parameter.low - 1e-6)
        if parameter.high < math.inf:
            assert not parameter.accepts(parameter.high + 1e-6)


@every_method
def test_a_method_says_what_it_does_and_where_it_comes_from(method):
    facts = METHODS.facts(method)
    assert facts.about
    assert "https://" in facts.paper
    assert all(parameter.about for parameter in facts.parameters)
    link = facts.paper.split("https://")[1].rstrip(".")
    module = METHODS.load(method).__module__
    assert link.split("/")[-1] in str(__import__(module, fromlist=["x"]).__doc__)


@every_method
def test_a_method_is_found_by_its_name_and_its_name_by_the_class(method):
    assert METHODS.name_of(METHODS.load(method)) == method

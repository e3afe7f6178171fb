"""Laws that every listed merge method keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from workers.methods.base import Inputs
from workers.methods.registry import METHODS

SHAPE = (6, 5)


def tensor(seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator) * scale


def uniforms(index: int) -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1000 + index))


def num_sources(method: str) -> int:
    return METHODS.facts(method).num_sources or 3


def example(method: str, **options: Any) -> Inputs:
    """Inputs with a different value of each parameter for each source."""
    facts = METHODS.facts(method)
    count = num_sources(method)
    values = {}
    for parameter in facts.parameters:
        low, high = parameter.default_bounds
        places = count if parameter.per == "source" else 1
        values[parameter.name] = tuple(
            low + (high - low) * (place + 1) / (places + 1) for place in range(places)
        )
    return Inputs(
        sources=[tensor(place + 1) for place in range(count)],
        base=tensor(0),
        values=values,
        options={**facts.options, **options},
        uniforms=uniforms,
    )


def merge(method: str, inputs: Inputs) -> torch.Tensor:
    return METHODS.load(method)().merge(inputs)


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


every_method = pytest.mark.parametrize("method", sorted(METHODS.addresses))
methods_of_any_number = pytest.mark.parametrize(
    "method", sorted(name for name in METHODS.addresses if METHODS.facts(name).num_sources is None)
)


@methods_of_any_number
def test_one_source_with_all_its_weight_and_entries_is_that_source(method):
    facts = METHODS.facts(method)
    inputs = Inputs(
        sources=[tensor(1)],
        base=tensor(0),
        values={parameter.name: (1.0,) for parameter in facts.parameters},
        options=facts.options,
        uniforms=uniforms,
    )
    torch.testing.assert_close(merge(method, inputs), tensor(1))


@methods_of_any_number
def test_the_order_of_sources_with_their_values_does_not_matter(method):
    inputs = example(method)
    order = [2, 0, 1]
    moved = Inputs(
        sources=[inputs.sources[place] for place in order],
        base=inputs.base,
        values={
            name: tuple(values[place] for place in order) for name, values in inputs.values.items()
        },
        options=inputs.options,
        uniforms=lambda index: uniforms(order[index]),
    )
    torch.testing.assert_close(merge(method, moved), merge(method, inputs))


@methods_of_any_number
def test_values_belong_to_their_sources(method):
    inputs = example(method)
    swapped = Inputs(
        sources=inputs.sources[::-1],
        base=inputs.base,
        values=inputs.values,
        options=inputs.options,
        uniforms=inputs.uniforms,
    )
    assert not torch.allclose(merge(method, swapped), merge(method, inputs))


@every_method
def test_shape_and_type_are_those_of_the_inputs(method):
    merged = merge(method, example(method))
    assert merged.shape == SHAPE
    assert merged.dtype == torch.float32


@every_method
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
def test_finite_tensors_merge_to_a_finite_tensor(method, scale):
    inputs = example(method)
    scaled = Inputs(
        sources=[source * scale for source in inputs.sources],
        base=inputs.base * scale,
        values=inputs.values,
        options=inputs.options,
        uniforms=inputs.uniforms,
    )
    assert bool(torch.isfinite(merge(method, scaled)).all())


@every_method
def test_merging_twice_gives_the_same_bits(method):
    assert torch.equal(merge(method, example(method)), merge(method, example(method)))


@every_method
def test_merging_changes_none_of_its_inputs(method):
    inputs = example(method)
    merge(method, inputs)
    assert torch.equal(inputs.base, tensor(0))
    for place, source in enumerate(inputs.sources):
        assert torch.equal(source, tensor(place + 1))


@every_method
def test_the_merged_tensor_shares_no_memory_with_a_source(method):
    inputs = example(method)
    merge(method, inputs).fill_(7.0)
    for place, source in enumerate(inputs.sources):
        assert torch.equal(source, tensor(place + 1))
    assert torch.equal(inputs.base, tensor(0))


@every_method
def test_the_facts_name_exactly_what_merge_reads(method):
    inputs = example(method)
    values, options = Noting(inputs.values), Noting(inputs.options)
    merge(
        method,
        Inputs(
            sources=inputs.sources,
            base=inputs.base,
            values=values,
            options=options,
            uniforms=inputs.uniforms,
        ),
    )
    facts = METHODS.facts(method)
    assert values.read == {parameter.name for parameter in facts.parameters}
    assert options.read == set(facts.options)


@every_method
def test_every_parameter_changes_the_result(method):
    inputs = example(method)
    for name, given in inputs.values.items():
        other = {**inputs.values, name: tuple(value * 0.7 for value in given)}
        changed = Inputs(
            sources=inputs.sources,
            base=inputs.base,
            values=other,
            # A common factor of all weights is divided out again by a normalised merge.
            options={
                **inputs.options,
                **({"normalize": False} if "normalize" in inputs.options else {}),
            },
            uniforms=inputs.uniforms,
        )
        assert not torch.allclose(merge(method, changed), merge(method, inputs)), name


@every_method
def test_default_bounds_are_accepted(method):
    for parameter in METHODS.facts(method).parameters:
        low, high = parameter.default_bounds
        assert low < high
        assert parameter.accepts(low)
        assert parameter.accepts(high)


@every_method
def test_values_outside_the_accepted_range_are_not_accepted(method):
    for parameter in METHODS.facts(method).parameters:
        assert not parameter.accepts(float("nan")), parameter.name
        if parameter.open_low:
            assert not parameter.accepts(parameter.low)
        if parameter.high != float("inf"):
            assert not parameter.accepts(parameter.high + 1e-6)


@every_method
def test_a_method_is_found_by_its_name_and_its_name_by_the_class(method):
    assert METHODS.name_of(METHODS.load(method)) == method

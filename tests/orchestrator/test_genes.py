"""Genes: which of them count, how many bits are on, and what a store remembers of them."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spaces.gene_records import changes
from orchestrator.spaces.genes import (
    Bit,
    Categorical,
    Genes,
    Integer,
    Permutation,
    Real,
    Subset,
    joined,
    reals,
)
from tests.conftest import mixed_genes

POOL = ("a", "b", "c", "d")
METHODS = ("ties", "slerp", "linear")


def pool(least: int = 1, most: int = 3) -> Genes:
    """A method, a pool of four, a weight of each and a density of each under some methods."""
    return Genes(
        (
            Categorical(name="method", choices=METHODS),
            *(Bit(name=name) for name in POOL),
            *(Real(name=f"weight {one}", low=-1, high=2, when={one: (True,)}) for one in POOL),
            *(
                Real(name=f"density {one}", low=0, high=1, when={one: (True,), "method": ("ties",)})
                for one in POOL
            ),
        ),
        subsets=(
            Subset(bits=POOL, least=least, most=most, when={"method": ("ties", "linear")}),
            Subset(bits=POOL, least=2, most=2, when={"method": ("slerp",)}),
        ),
    )


numbers = st.lists(st.floats(-3, 3), min_size=13, max_size=13).map(np.array)


def test_a_gene_counts_where_all_of_its_conditions_hold():
    genes = pool()
    genome = genes.repair(np.array([0, 1, 0, 1, 0, *[0.5] * 8]))
    assert list(genes.values(genome)) == [
        "method", *POOL, "weight a", "weight c", "density a", "density c",
    ]  # fmt: skip
    assert "density a" not in genes.values((2.0, *genome[1:]))


def test_what_depends_on_a_dormant_gene_is_dormant_whatever_this_holds():
    genes = Genes(
        (
            Bit(name="on"),
            Integer(name="count", low=1, high=3, when={"on": (True,)}),
            Real(name="rate", low=0, high=1, when={"count": (2, 3)}),
            Permutation(name="order", size=3, when={"count": (1,)}),
        )
    )
    active = {bits: genes.active((*bits, 0.5, 0, 1, 2)).tolist() for bits in ((0, 2), (1, 2))}
    assert active[0, 2] == [True, False, False, False, False, False]
    assert active[1, 2] == [True, True, True, False, False, False]
    assert genes.active((1.0, 1.0, 0.5, 0, 1, 2)).tolist() == [True, True, False, True, True, True]


@given(numbers)
def test_as_many_bits_are_on_as_wanted_or_as_near_to_that_as_is_allowed(values):
    genome = pool().repair(values)
    on = sum(genome[1:5])
    wanted = sum(value > 0.5 for value in values[1:5])
    allowed = [2] if METHODS[int(genome[0])] == "slerp" else [1, 2, 3]
    assert abs(on - wanted) == min(abs(number - wanted) for number in allowed)
    left = [value for value, bit in zip(values[1:5], genome[1:5], strict=True) if not bit]
    kept = [value for value, bit in zip(values[1:5], genome[1:5], strict=True) if bit]
    assert not left or max(left) <= min(kept)


@given(numbers)
def test_what_is_repaired_stays_as_it_is(values):
    genes = pool()
    genome = genes.repair(values)
    assert genes.repair(np.array(genome)) == genome == genes.repair(values)


def test_among_equal_bits_none_is_preferred_for_its_place():
    genes, rng = pool(2, 2), np.random.default_rng(0)
    for bits in ((1, 1, 1, 1), (0, 0, 0, 0)):
        counts = Counter[str]()
        for _ in range(400):
            genome = genes.repair(np.array([0, *bits, *rng.random(8)]))
            counts["".join(one for one, on in zip(POOL, genome[1:5], strict=True) if on)] += 1
        assert set(map(len, counts)) == {2}
        assert len(counts) == 6, "every pair can be had"
        assert min(counts.values()) > 35


def test_samples_take_as_many_as_are_allowed_and_all_alike():
    genomes = np.array(pool(2, 3).sample(np.random.default_rng(1), 2000))
    assert set(genomes[:, 1:5].sum(axis=1)) == {2, 3}
    shares = genomes[:, 1:5].mean(axis=0)
    assert np.ptp(shares) < 0.06


@given(numbers, numbers)
def test_genomes_of_one_meaning_have_one_canonical_form_and_no_distance(values, others):
    genes = pool()
    genome, other = genes.repair(values), genes.repair(others)
    mixed = tuple(np.where(genes.active(genome), genome, other).tolist())
    assert genes.values(mixed) == genes.values(genome)
    assert genes.canonical(mixed) == genes.canonical(genome)
    assert genes.canonical(genes.canonical(genome)) == genes.canonical(genome)
    assert genes.distance(mixed, genome) == 0.0
    same = genes.canonical(genome) == genes.canonical(other)
    assert same == (genes.values(genome) == genes.values(other))


@pytest.mark.parametrize("genes", [pool(), mixed_genes(), pool(2, 2)])
def test_a_vector_decodes_to_the_genome_that_it_encodes(genes):
    for genome in genes.sample(np.random.default_rng(2), 100):
        vector = genes.encode(genome)
        assert len(vector) == genes.num_coordinates
        assert ((vector >= 0) & (vector <= 1)).all()
        assert genes.decode(vector) == pytest.approx(genome, rel=1e-12)


def test_choices_and_bits_are_encoded_in_the_middle_of_what_decodes_to_them():
    genes, rng = pool(0, 4), np.random.default_rng(3)
    cells: dict[int, list[np.ndarray]] = {}
    for vector in rng.random((6000, genes.num_coordinates)):
        cells.setdefault(int(genes.decode(vector)[0]), []).append(vector[:3])
    for choice, found in cells.items():
        expected = genes.encode((float(choice), *[0.0] * 12))[:3]
        np.testing.assert_allclose(np.mean(found, axis=0), expected, atol=0.03)
    assert genes.encode((0.0, 1.0, 0.0, *[0.0] * 10))[3:5].tolist() == [0.75, 0.25]


def test_genes_that_are_joined_keep_their_conditions_and_subsets():
    one, other = reals(["x"], [0.0], [1.0]), pool(1, 1)
    both = joined(one, other, "path")
    assert both.names[1:3] == ("path method", "path a")
    for genome in both.sample(np.random.default_rng(4), 50):
        rest = genome[1:]
        assert both.active(genome).tolist() == [True, *other.active(rest)]
        assert sum(rest[1:5]) == (2 if rest[0] == 1 else 1)
    assert joined(other, one, "path").subsets == other.subsets


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (Subset(bits=("a", "x"), least=1, most=2), "name of a bit, got 'x'"),
        (Subset(bits=("a", "rate"), least=1, most=2), "name of a bit, got 'rate'"),
        (Subset(bits=("a", "b"), least=2, most=1), r"least <= most <= 2, got \[2, 1\]"),
        (Subset(bits=("a", "b"), least=1, most=3), r"least <= most <= 2, got \[1, 3\]"),
        (Subset(bits=("a", "b"), least=1, most=2, when={"x": (True,)}), "'when' needs a gene"),
        (Subset(bits=("a", "b"), least=1, most=2, when={"a": ("x",)}), "'a' never is 'x'"),
    ],
)
def test_subsets_that_cannot_be_are_refused(subset, message):
    genes = (Bit(name="a"), Bit(name="b"), Real(name="rate", low=0, high=1))
    with pytest.raises(ValueError, match=message):
        Genes(genes, subsets=(subset,))


def test_a_start_has_as_many_bits_on_as_are_allowed():
    bits = (Bit(name="a"), Bit(name="b"))
    with pytest.raises(ValueError, match="the start must be a genome"):
        Genes(bits, (1.0, 1.0), subsets=(Subset(bits=("a", "b"), least=1, most=1),))


def recorded(genes: Genes) -> dict:
    return json.loads(json.dumps(genes.as_dict()))


def test_the_record_of_genes_says_what_they_depend_on():
    found = recorded(pool())
    assert found["when"]["density b"] == {"b": [True], "method": ["ties"]}
    assert "method" not in found["when"]
    assert set(recorded(reals(["x"], [0.0], [1.0]))) == {"names", "lower", "upper"}


def test_genes_that_are_what_they_were_are_no_change():
    for genes in (pool(), mixed_genes(), reals(["x", "y"], [0.0, -1.0], [1.0, 2.0])):
        assert changes(recorded(genes), genes.as_dict()) == []
        before = {key: held for key, held in recorded(genes).items() if key != "when"}
        assert changes(before, genes.as_dict()) == [], "of what was not recorded nothing is known"


def test_a_gene_that_has_become_another_is_named():
    now = pool().as_dict()
    once = reals(now["names"], [0.0] * 13, [3.0, *[1.0] * 12]).as_dict()
    (line,) = changes(once, now)
    assert line == "genes.method: real [0, 3] -> categorical of ties, slerp, linear"
    (line,) = changes({**now, "names": ["methods", *now["names"][1:]]}, now)
    assert line == "genes: 13 -> 13, such as 'methods'"
    (line,) = changes({**now, "names": now["names"][::-1]}, now)
    assert line == "genes: 13 -> 13, in another order"
    (line,) = changes({**now, "choices": {"method": ["ties", "linear", "slerp"]}}, now)
    assert line.startswith("genes.method: categorical of ties, linear, slerp -> ")

"""Spaces written in the campaign file: genes, points, and what is refused."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from orchestrator import config
from orchestrator.config import ConfigError
from orchestrator.spaces.vector import Vector
from workers.recipe import RECIPES, read_recipe
from workers.values import ValuesRecipe

GENES = [
    {"kind": "real", "name": "rate", "low": 1e-4, "high": 1.0, "log": True},
    {"kind": "integer", "name": "layers", "low": 1, "high": 9},
    {"kind": "categorical", "name": "method", "choices": ["ties", "linear"]},
    {"kind": "real", "name": "density", "low": 0.0, "high": 1.0, "when": {"method": ["ties"]}},
    {"kind": "bits", "name": "take", "count": 4, "when": {"layers": [2, 3]}},
    {"kind": "bit", "name": "normal"},
    {"kind": "permutation", "name": "tour", "size": 3},
    {"kind": "reals", "name": "x", "count": 2, "low": -1.0, "high": 1.0},
]
POINT = {
    "rate": 0.01,
    "layers": 3,
    "method": "linear",
    "take": (True, False, False, True),
    "normal": False,
    "tour": (2, 0, 1),
    "x": (0.5, -1.0),
}


def campaign(**space):
    return {
        "name": "plain",
        "seed": 1,
        "space": {"kind": "vector", "genes": GENES, **space},
        "search": {"kind": "genetic", "population_size": 4},
        "evaluate": {"kind": "function", "objective": "math:fsum"},
        "budget": {"generations": 2},
    }


def opened(**space):
    return config.from_dict(campaign(**space)).space.open(1)


def test_a_campaign_file_lists_genes_of_every_kind():
    settings = config.from_dict(campaign()).space
    assert isinstance(settings, Vector)
    genes = settings.open(1).genes
    assert len(genes.names) == 1 + 1 + 1 + 1 + 4 + 1 + 3 + 2
    assert genes.names[4:8] == ("take[0]", "take[1]", "take[2]", "take[3]")
    assert set(genes.kinds) == {"real", "integer", "categorical", "bit", "permutation"}


def test_settings_come_back_from_plain_data_as_they_were():
    settings = config.from_dict(campaign(start=POINT, references={"one": POINT}))
    plain = json.loads(json.dumps(config.as_dict(settings)))
    assert config.as_dict(config.from_dict(plain)) == plain
    assert plain["space"]["genes"][0] == {**GENES[0], "when": {}}


def test_the_schema_knows_the_genes():
    schema = config.schema()
    jsonschema.validate(campaign(), schema)
    wrong = campaign()
    wrong["space"] = {**wrong["space"], "genes": [{"kind": "real", "name": "x", "low": 0.0}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_a_genome_means_values_without_those_that_are_dormant():
    space = opened(start=POINT)
    values = space.decode(space.genes.start).values
    assert values == POINT
    assert "density" not in values, "it counts only with ties"
    other = space.recipe({**POINT, "layers": 5, "method": "ties", "density": 0.25}).values
    assert other["density"] == 0.25
    assert "take" not in other, "it counts only with 2 or 3 layers"


def test_values_and_genomes_turn_into_one_another():
    space = opened()
    for genome in space.genes.sample(np.random.default_rng(1), 50):
        values = space.decode(genome).values
        assert space.recipe(values).values == values


def test_recipes_of_values_travel_as_json_and_read_no_model():
    assert "values" in RECIPES.addresses
    space = opened(start=POINT)
    recipe = space.decode(space.genes.start)
    again = read_recipe(json.loads(recipe.text()))
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert recipe.models == ()
    other = space.recipe({**POINT, "rate": 0.02})
    assert other.digest() != recipe.digest()


def test_references_are_points_or_functions_that_give_them(tmp_path):
    file = tmp_path / "known.py"
    file.write_text(f"def best(layers): return {{**{POINT!r}, 'layers': layers}}\n")
    call = {"function": f"{file}:best", "arguments": {"layers": 2}}
    space = opened(references={"given": POINT, "found": call})
    assert [one.name for one in space.references] == ["given", "found"]
    given, found = (one.recipe for one in space.references)
    assert isinstance(given, ValuesRecipe)
    assert given.values == POINT
    assert found.values == {**POINT, "layers": 2}


def test_bits_can_be_written_as_digits():
    space = opened(start={**POINT, "take": "1001"})
    assert space.decode(space.genes.start).values["take"] == POINT["take"]


@pytest.mark.parametrize(
    ("genes", "said"),
    [
        ([{"kind": "raal", "name": "x"}], "space.genes.0.kind: unknown kind of gene 'raal'"),
        ([{"name": "x"}], "space.genes.0: needs a kind"),
        ([{"kind": "real", "name": "x", "low": 0.0}], "space.genes.0: high is missing"),
        ([{**GENES[0], "hihg": 2}], "space.genes.0.hihg: unknown key; did you mean 'high'?"),
        ([{**GENES[0], "low": "a"}], "space.genes.0.low: expected a number, got 'a'"),
        ([{**GENES[0], "low": 2.0}], "space.genes: gene 'rate': expected low < high"),
        ([{**GENES[0], "low": 0.0}], "gene 'rate': a log scale needs low > 0"),
        ([GENES[0], GENES[0]], "gene 'rate': there are two of this name"),
        ([GENES[3], GENES[2]], "'when' needs a gene that stands before: 'method'"),
        ([GENES[2], {**GENES[3], "when": {"method": ["dare"]}}], "'method' never is 'dare'"),
        ([{**GENES[5], "name": "learning rate"}], "a function gets its value by this name"),
        ([{**GENES[5], "name": "lambda"}], "no word of Python's own"),
        ([{**GENES[4], "count": 0}], "space.genes.0.count"),
        ([], "space.genes: a space needs at least one gene"),
        ({"x": GENES[0]}, "space.genes: expected a list"),
    ],
)
def test_genes_that_cannot_be_are_refused_where_they_stand(genes, said):
    with pytest.raises(ConfigError) as caught:
        config.from_dict(campaign(genes=genes))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": 2.0}, "start: 'rate': expected a number from 0.0001 to 1, got 2.0"),
        ({"layers": 2.5}, "'layers': expected a whole number from 1 to 9, got 2.5"),
        ({"method": "dare"}, "'method': expected one of ties, linear, got 'dare'"),
        ({"method": "ties"}, "a value of 'density' is missing"),
        ({"take": [True]}, "'take': expected a list of 4 values, got 1"),
        ({"take": [1, 0, 2, 0]}, "'take[2]': expected true or false, got 2"),
        ({"tour": [0, 1, 1]}, "'tour': expected an order of the items 0 to 2"),
        ({"x": 0.5}, "'x': expected a list of 2 values, got 0.5"),
        ({"raet": 0.5}, "'raet' is no gene; did you mean 'rate'?"),
        ({"rate": float("nan")}, "'rate': expected a number"),
    ],
)
def test_a_start_that_is_no_point_of_the_space_is_refused(change, said):
    with pytest.raises(ConfigError) as caught:
        config.from_dict(campaign(start={**POINT, **change}))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (
            {"function": "no.such:thing"},
            "references.best: ValueError: 'no.such' cannot be imported",
        ),
        ({"function": "math:sqrt", "with": 1}, "expected the keys function and arguments"),
        ({"function": "math:sqrt"}, "references.best: TypeError"),
        ({"function": "time:time"}, "expected a mapping: gene -> value"),
        ({"rate": 0.5}, "references.best: a value of 'layers' is missing"),
    ],
)
def test_references_that_give_no_point_are_refused(reference, said):
    with pytest.raises(ValueError) as caught:
        opened(references={"best": reference})
    assert said in str(caught.value)

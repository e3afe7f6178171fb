"""The space of machines: what its genes say, what is repaired, and what is refused."""

import numpy as np
import pytest

from evaluators.ctm.mazes import Mazes
from evaluators.ctm.parity import Parity
from evaluators.ctm.sorting import Sorting
from orchestrator import config
from orchestrator.spaces.base import as_descending
from orchestrator.spaces.ctm import CtmSpace
from workers.ctm.compute import flops_per_sample
from workers.ctm.recipe import CtmRecipe
from workers.recipe import read_recipe

TASKS = {"parity": Parity(length=4), "sorting": Sorting(), "maze": Mazes(edge=7)}


def space(task="parity", **changes):
    return CtmSpace(task=TASKS[task], steps=40, **changes).open(seed=5)


def recipes(opened, num=200):
    rng = np.random.default_rng(0)
    return [opened.decode(genome) for genome in opened.genes.sample(rng, num)]


@pytest.mark.parametrize("task", TASKS)
def test_every_genome_is_a_machine_that_fits_its_task(task):
    """The settings refuse what makes no machine: heads, dense pairs, self pairs."""
    for recipe in recipes(space(task)):
        network = recipe.network
        assert (network.inputs, network.outputs) == (TASKS[task].inputs, TASKS[task].outputs)
        assert network.memory <= network.ticks
        assert 32 <= network.neurons <= 512


def test_recipes_come_back_from_plain_data():
    for recipe in recipes(space(), 20):
        again = read_recipe(recipe.as_dict())
        assert isinstance(again, CtmRecipe)
        assert again == recipe
        assert again.digest() == recipe.digest()


def test_a_child_goes_on_from_its_first_parent():
    opened = space(inherit=True)
    assert as_descending(opened) is opened
    one, two, three = opened.genes.sample(np.random.default_rng(0), 3)
    first = opened.decode(one)
    child = opened.descend(two, [first, opened.decode(three)])
    grandchild = opened.descend(three, [child])
    assert (first.parent, child.parent, grandchild.parent) == (None, first, child)
    assert child.network == opened.decode(two).network
    assert child.training.rate == opened.decode(two).training.rate
    seeds = {recipe.training.seed for recipe in (first, child, grandchild)}
    assert len(seeds) == 3, "nobody meets the samples of its ancestors again"
    assert opened.descend(two, [first]) == child


def test_lineages_come_back_from_plain_data_and_those_without_say_nothing_of_them():
    opened = space(inherit=True)
    recipe = opened.decode(opened.genes.start)
    assert "ancestors" not in recipe.as_dict()
    assert recipe == space().decode(opened.genes.start), "as it is in any space"
    digests = []
    for _ in range(3):
        assert read_recipe(recipe.as_dict()) == recipe
        digests.append(recipe.digest())
        recipe = opened.descend(opened.genes.start, [recipe])
    assert len({*digests, recipe.digest()}) == 4
    assert [recipe.parent.digest(), recipe.parent.parent.digest()] == digests[:0:-1]


def test_machines_of_other_spaces_do_not_descend():
    assert as_descending(space()) is None


def test_all_that_the_one_tick_counterpart_goes_on_from_had_one_tick():
    opened = space(inherit=True)
    start = opened.genes.start
    (once,) = opened.counterparts(opened.descend(start, [opened.decode(start)]))
    networks = [one.network for one in once.recipe.lineage]
    assert [(one.ticks, one.memory) for one in networks] == [(1, 1)] * 2


def test_all_choices_are_met():
    found = recipes(space())
    assert {one.network.pairing for one in found} == {"dense", "semi_dense", "random"}
    assert {one.network.neuron_model for one in found} == {"deep", "shallow"}
    assert {one.network.synapse_depth for one in found} == {1, 2, 4}
    assert {one.training.loss for one in found} == {"two_tick", "last_tick"}


def test_what_a_machine_does_not_have_is_dormant():
    opened = space()
    names = opened.genes.names
    for genome in opened.genes.sample(np.random.default_rng(1), 100):
        active = dict(zip(names, opened.genes.active(genome), strict=True))
        values = opened.genes.values(genome)
        assert active["hidden"] == (values["neuron_model"] == "deep")
        assert active["pairs"] == active["self_pairs"] == (values["pairing"] == "random")
        assert active["paired"] != active["pairs"]


def test_a_value_is_fixed_and_bounds_are_narrowed():
    ranges = {"neurons": 64, "ticks": [2, 5], "heads": [4, "8"], "neuron_model": "shallow"}
    opened = space(ranges=ranges)
    assert "neurons" not in opened.genes.names
    assert "hidden" not in opened.genes.names  # there are none in shallow neuron models
    found = recipes(opened)
    assert {one.network.neurons for one in found} == {64}
    assert {one.network.ticks for one in found} == {2, 3, 4, 5}
    assert {one.network.heads for one in found} == {4, 8}


def test_sorting_attends_to_nothing():
    assert not {"heads", "attention_width"} & set(space("sorting").genes.names)


def test_a_plain_machine_and_one_of_one_tick_are_compared_with():
    opened = space(ranges={"neurons": 100})
    usual, once = (one.recipe for one in opened.references)
    assert usual == opened.decode(opened.genes.start)
    assert (usual.network.neurons, usual.network.ticks) == (100, 8)
    assert (once.network.ticks, once.network.memory) == (1, 1)
    assert once.training == usual.training


def test_a_machine_s_compute_is_known_before_it_is_built():
    opened = space()
    usual, once = (opened.measures(one.recipe) for one in opened.references)
    assert usual["flops"] == flops_per_sample(opened.references[0].recipe.network)
    assert once["flops"] < usual["flops"]
    assert (usual["ticks"], once["ticks"]) == (8, 1)


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"neuron": 64}, "did you mean 'neurons'"),
        ({"heads": 3}, "expected some of 1, 2, 4, 8, 16, got '3'"),
        ({"ticks": [5, 2]}, r"ranges.ticks: expected low < high, got \[5, 2\]"),
        ({"ticks": 2.5}, "expected a whole number, got 2.5"),
        ({"rate": [0.1]}, r"expected \[low, high\]"),
        ({"memory": 0}, "expected at least 1, got 0"),
    ],
)
def test_ranges_that_say_nothing_are_refused(ranges, said):
    with pytest.raises(ValueError, match=said):
        space(ranges=ranges)


def test_a_campaign_file_names_the_task_once():
    data = {
        "name": "n",
        "seed": 1,
        "space": {"kind": "ctm", "task": "parity", "steps": 10},
        "search": {"kind": "random"},
        "evaluate": {"kind": "ctm"},
        "budget": {"evaluations": 3},
        "output": "somewhere",
    }
    settings = config.from_dict(data)
    assert settings.space.task == settings.evaluate.task == Parity()
    assert settings.evaluate.checkpoints == "somewhere/checkpoints"
    assert config.from_dict(config.as_dict(settings)) == settings

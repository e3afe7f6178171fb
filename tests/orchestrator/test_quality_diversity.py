"""Archives worked by hand, and what they owe whatever comes: nothing good is ever lost."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import config
from orchestrator.algorithms.archive import Cvt, Grid, keep_best
from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.cycle_qd import CycleQd, Linear
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.map_elites import Axis, MapElites
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.reporting.archive_summary import over_time
from orchestrator.spaces.genes import Bit, Genes, Permutation, reals

GENES = reals(["x", "y", "z"], [0.0] * 3, [1.0] * 3, start=(0.5, 0.5, 0.5))
BY_GENES = (
    Axis(of="gene", place=0, limits=(0.0, 1.0)),
    Axis(of="gene", place=2, limits=(0.0, 1.0)),
)


def one(number: int, *values: float, genome=(0.5, 0.5, 0.5), **facts) -> Evaluated:
    fitness = sum(values) / len(values) if values else None
    facts = {"fitness": fitness, "values": values, **facts}
    return Evaluated(candidate=f"s{number}", number=number, genome=genome, **facts)


def names(members) -> list[str]:
    return [member.candidate for member in members]


def restored(memory: Memory) -> Memory:
    """What a snapshot gives back: the same members, and the rest as JSON holds it."""
    return replace(memory, state=json.loads(json.dumps(memory.state)))


def test_bins_of_a_grid_hold_their_upper_end_and_the_last_ones_what_is_beyond():
    numbers = [-9.0, 0.0, 0.1, 0.25, 0.26, 0.5, 0.75, 0.76, 1.0, 7.0]
    cells = Grid(bins=4).cells_of(np.array([numbers]).T, ((0.0, 1.0),))
    assert cells.tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3, 3]


def test_cells_of_a_grid_are_the_pairs_of_their_bins():
    behaviours = np.array([[0.1, 10.0], [0.1, 29.0], [0.9, 10.0], [0.9, 29.0]])
    cells = Grid(bins=3).cells_of(behaviours, ((0.0, 1.0), (0.0, 30.0)))
    assert cells.tolist() == [0, 2, 6, 8]
    assert Grid(bins=3).count(2) == 9


def test_a_tessellation_puts_what_is_near_a_centroid_into_its_cell():
    archive = Cvt(cells=12)
    assert archive.count(5) == 12
    centroids = archive.centroids(2)
    stretched = centroids * [4.0, 2.0] - [2.0, 0.0]
    cells = archive.cells_of(stretched, ((-2.0, 2.0), (0.0, 2.0)))
    assert cells.tolist() == list(range(12))


def test_centroids_are_spread_more_evenly_than_points_at_random():
    points = np.random.default_rng(0).random((5000, 2))

    def shares(archive: Cvt) -> np.ndarray:
        cells = archive.cells_of(points, ((0.0, 1.0), (0.0, 1.0)))
        return np.bincount(cells, minlength=archive.cells) / len(points)

    assert np.std(shares(Cvt(cells=25))) < np.std(shares(Cvt(cells=25, rounds=0))) / 3


def test_a_cell_keeps_the_best_and_of_equals_the_elder():
    members = [one(1, 0.3), one(2, 0.7), one(3, 0.7), one(4, 0.1), one(5, 0.2)]
    kept = keep_best(members[::-1], np.array([4, 4, 0, 0, 0]), lambda member: member.rank)
    assert names(kept) == ["s2", "s5"]


def test_map_elites_keeps_the_fittest_of_each_niche():
    algorithm = MapElites(population_size=5, archive=Grid(bins=2), axes=BY_GENES)
    born = [
        one(1, 0.9, genome=(0.1, 0.5, 0.1)),
        one(2, 0.8, genome=(0.4, 0.1, 0.5)),
        one(3, 0.2, genome=(0.4, 0.1, 0.6)),
        one(4, 0.1, genome=(1.0, 0.1, 0.9)),
        one(5, genome=(0.9, 0.5, 0.1)),
    ]
    memory = algorithm.tell(Memory(), born)
    assert names(memory.members) == ["s1", "s3", "s4"]
    later = [one(6, 0.3, genome=(0.0, 0.0, 0.7)), one(7, 0.9, genome=(0.3, 0.0, 0.3))]
    assert names(algorithm.tell(memory, later).members) == ["s1", "s6", "s4"]


def test_who_was_stopped_or_breaks_a_constraint_holds_a_cell_only_while_no_one_else_does():
    algorithm = MapElites(population_size=5, archive=Grid(bins=1), axes=BY_GENES)
    worse = [one(1, 0.9, stopped=True), one(2, 0.8, violation=0.1)]
    memory = algorithm.tell(Memory(), worse)
    assert names(memory.members) == ["s2"]
    assert names(algorithm.tell(memory, [one(3, 0.1)]).members) == ["s3"]


def test_niches_are_told_by_objectives_where_there_are_several_and_by_genes_otherwise():
    algorithm = MapElites(population_size=4, archive=Grid(bins=2))
    same_genes = [one(1, 0.0, 1.0), one(2, 1.0, 0.0), one(3, 0.9, 0.0)]
    assert names(algorithm.tell(Memory(), same_genes).members) == ["s1", "s2"]
    same_value = [one(1, 0.5, genome=(0.0, 0.0, 0.0)), one(2, 0.5, genome=(1.0, 0.0, 0.0))]
    assert names(algorithm.tell(Memory(), same_value).members) == ["s1", "s2"]


def test_limits_are_learned_from_the_first_generation_and_stay():
    algorithm = MapElites(population_size=2, axes=(Axis(of="objective", place=0),))
    memory = algorithm.tell(Memory(), [one(1, 1.0), one(2, 3.0)])
    assert memory.state["limits"] == [[pytest.approx(0.7), pytest.approx(3.3)]]
    assert algorithm.tell(memory, [one(3, 99.0)]).state == memory.state


def test_axes_that_there_are_not_are_refused_before_anything_is_measured():
    algorithm = MapElites(
        population_size=2, axes=(Axis(of="gene", place=2), Axis(of="objective", place=2))
    )
    algorithm.check(GENES)
    algorithm.check_objectives(["skill_a", "skill_b", "-size"])
    with pytest.raises(ValueError, match=r"axes\.0\.place: .*genes \(0 x, 1 y\), got 2"):
        algorithm.check(reals(["x", "y"], [0.0] * 2, [1.0] * 2))
    with pytest.raises(ValueError, match=r"axes\.1\.place: .*objectives \(0 skill\), got 2"):
        algorithm.check_objectives(["skill"])


def test_limits_must_be_one_pair_or_a_pair_for_each_objective():
    algorithm = CycleQd(population_size=2, limits=((0.0, 1.0), (0.0, 0.5)))
    algorithm.check_objectives(["a", "b"])
    with pytest.raises(ValueError, match=r"limits: expected one pair .* \(a, b, c\), got 2"):
        algorithm.check_objectives(["a", "b", "c"])


def test_iso_and_line_move_real_genes_and_operators_the_others():
    genes = Genes((*GENES.genes, Bit(name="on"), Permutation(name="order", size=4)))
    start = (0.5, 0.5, 0.5, 0.0, 0.0, 1.0, 2.0, 3.0)
    memory = Memory((one(1, 1.0, genome=start),))
    algorithm = MapElites(population_size=200, line_sigma=0.0, iso_sigma=0.01)
    children = algorithm.ask(genes, memory, np.random.default_rng(0))
    moved = np.array([child.genome for child in children]) - start
    assert np.std(moved[:, :3]) == pytest.approx(0.01, rel=0.1)
    assert 0 < np.count_nonzero(moved[:, 3]) < 200
    assert all(sorted(child.genome[4:]) == [0.0, 1.0, 2.0, 3.0] for child in children)


def test_a_step_along_the_line_stays_on_it():
    memory = Memory((one(1, 1.0, genome=(0.4, 0.5, 0.2)), one(2, 1.0, genome=(0.6, 0.5, 0.3))))
    algorithm = MapElites(population_size=50, iso_sigma=0.0)
    for child in algorithm.ask(GENES, memory, np.random.default_rng(0)):
        x, y, z = child.genome
        assert y == 0.5
        assert (z - 0.2) * 2 == pytest.approx(x - 0.4)
        assert set(child.parents) == {"s1", "s2"}


THREE = (
    one(1, 0.9, 0.1, 0.1),
    one(2, 0.1, 0.9, 0.1),
    one(3, 0.1, 0.1, 0.9),
    one(4, 0.2, 0.1, 0.1),
    one(5, 0.6, 0.6, 0.6),
)


def test_each_task_has_an_archive_whose_niches_are_the_other_tasks():
    algorithm = CycleQd(population_size=2, archive=Grid(bins=2), limits=((0.0, 1.0),))
    first, second, third = algorithm.archives(THREE, ((0.0, 1.0),) * 3)
    assert names(first) == ["s1", "s3", "s2", "s5"]
    assert names(second) == ["s2", "s3", "s1", "s5"]
    assert names(third) == ["s3", "s2", "s1", "s5"]
    memory = algorithm.tell(Memory(), THREE)
    assert names(memory.members) == ["s5", "s1", "s2", "s3"], "s4 is the best of no cell"


def test_tasks_take_turns_as_the_archive_that_parents_come_from():
    algorithm = CycleQd(population_size=6, archive=Grid(bins=1), limits=((0.0, 1.0),))
    memory = algorithm.tell(Memory(), THREE[:3])
    assert memory.state["told"] == 3
    bred = [child.parents for child in algorithm.ask(GENES, memory, np.random.default_rng(0))]
    assert bred == [("s1",), ("s2",), ("s3",)] * 2, "one cell, one member, the best of the task"
    memory = algorithm.tell(memory, [one(9)])
    assert algorithm.ask(GENES, memory, np.random.default_rng(0))[0].parents == ("s2",)


def test_elite_sampling_multiplies_what_each_metric_says():
    members = [one(1, 1.0, 0.0), one(2, 0.5, 0.0), one(3, 0.0, 1.0)]
    chances = CycleQd(population_size=2).chances(members)
    expected = np.array([0.8 * 0.5, 0.65 * 0.5, 0.5 * 0.8])
    np.testing.assert_allclose(chances, expected / expected.sum())
    equal = CycleQd(population_size=2, alpha_low=0.8).chances(members)
    np.testing.assert_allclose(equal, [1 / 3] * 3)


def test_the_limits_are_from_a_bit_below_the_weakest_to_a_bit_above_the_strongest():
    algorithm = CycleQd(population_size=2)
    memory = algorithm.tell(Memory(), [one(1, 0.2, -2.0), one(2, 0.8, -1.0)])
    np.testing.assert_allclose(memory.state["limits"], [[0.17, 0.92], [-2.3, -0.85]])


def test_beyond_three_tasks_the_mean_of_the_others_tells_the_niche():
    algorithm = CycleQd(population_size=2, archive=Grid(bins=2), limits=((0.0, 1.0),))
    members = [one(1, 0.5, 0.9, 0.1, 0.1), one(2, 0.6, 0.1, 0.1, 0.9), one(3, 0.1, 0.9, 0.9, 0.9)]
    assert names(algorithm.archives(members, ((0.0, 1.0),) * 4)[0]) == ["s2", "s3"]
    each = replace(algorithm, behaviour="each")
    assert len(each.archives(members, ((0.0, 1.0),) * 4)[0]) == 3


def test_parents_are_mixed_along_the_line_through_both():
    a, b = np.array([0.0, 1.0]), np.array([1.0, 3.0])
    genes = reals(["x", "y"], [-9.0] * 2, [9.0] * 2)
    children = np.array(
        [Linear(sigma=0.3)(a, b, genes, np.random.default_rng(s)) for s in range(400)]
    )
    np.testing.assert_allclose(children[:, 1], 1 + 2 * children[:, 0])
    assert np.median(children[:, 0]) == pytest.approx(0.5, abs=0.02)
    assert children[:, 0].min() < 0.3
    far = np.array([Linear(sigma=50.0)(a, b, genes, np.random.default_rng(s)) for s in range(400)])
    assert np.abs(far).max() < 1e4, "weights that cancel out are drawn again"


def test_without_mutation_children_are_mixtures_and_nothing_else():
    memory = CycleQd(population_size=4).tell(
        Memory(),
        [one(1, 0.1, 0.9, genome=(0.0, 1.0, 0.2)), one(2, 0.9, 0.1, genome=(1.0, 0.0, 0.2))],
    )
    algorithm = CycleQd(population_size=20, mutation=None)
    for child in algorithm.ask(GENES, memory, np.random.default_rng(0)):
        assert child.operator == "linear"
        assert child.genome[0] + child.genome[1] == pytest.approx(1.0)
        assert child.genome[2] == pytest.approx(0.2)


ALGORITHMS = [
    MapElites(population_size=8),
    MapElites(population_size=8, archive=Cvt(cells=30, points=500)),
    MapElites(population_size=8, axes=BY_GENES, variation="operators"),
    CycleQd(population_size=8),
    CycleQd(population_size=8, archive=Cvt(cells=30, points=500)),
    CycleQd(population_size=8, mutation=None),
]
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)

#: A few levels only, so that ties are common.
LEVELS = st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0])
OUTCOMES = st.lists(
    st.tuples(LEVELS, LEVELS, st.booleans(), st.sampled_from([0.0, 0.0, 0.5]), st.booleans()),
    min_size=1,
    max_size=24,
)


def measured(outcomes, first: int = 1) -> list[Evaluated]:
    return [
        one(number, a, b, genome=(a, b, 0.5), stopped=stopped, violation=violation)
        if worked
        else one(number)
        for number, (a, b, stopped, violation, worked) in enumerate(outcomes, start=first)
    ]


@algorithms
@settings(max_examples=25)
@given(OUTCOMES, OUTCOMES, st.randoms(use_true_random=False))
def test_an_archive_is_the_same_whatever_the_order_of_insertion(algorithm, first, later, luck):
    start = algorithm.tell(Memory(), measured(first))
    later = measured(later, first=len(first) + 1)
    if not start.members:
        return  # limits are still to be learned, of whatever generation is measured first
    together = algorithm.tell(start, later)
    one_by_one = start
    for each in luck.sample(later, len(later)):
        one_by_one = algorithm.tell(one_by_one, [each])
    assert one_by_one == together == algorithm.tell(start, later[::-1])


@given(OUTCOMES, OUTCOMES)
def test_the_quality_of_a_cell_never_falls_and_no_cell_is_ever_lost(first, later):
    algorithm = MapElites(population_size=8, archive=Grid(bins=3))
    before = algorithm.tell(Memory(), measured(first))
    after = algorithm.tell(before, measured(later, first=len(first) + 1))
    held, holds = (cells_of(algorithm, memory) for memory in (before, after))
    assert set(held) <= set(holds)
    assert all(holds[cell].rank >= member.rank for cell, member in held.items())


def cells_of(algorithm: MapElites, memory: Memory) -> dict[int, Evaluated]:
    behaviours = np.array([member.values for member in memory.members]).reshape(-1, 2)
    limits = tuple(map(tuple, memory.state.get("limits", ((0.0, 1.0),) * 2)))
    cells = algorithm.archive.cells_of(behaviours, limits).tolist()
    assert len(set(cells)) == len(cells)
    return dict(zip(cells, memory.members, strict=True))


@given(OUTCOMES, OUTCOMES)
def test_no_archive_of_any_task_ever_loses_a_cell_or_quality(first, later):
    algorithm = CycleQd(population_size=8, archive=Grid(bins=3))
    before = algorithm.tell(Memory(), measured(first))
    after = algorithm.tell(before, measured(later, first=len(first) + 1))
    if not before.members:
        return
    limits = tuple(map(tuple, before.state["limits"]))
    pairs = zip(*(algorithm.archives(one.members, limits) for one in (before, after)), strict=True)
    for task, (held, holds) in enumerate(pairs):
        assert len(held) <= len(holds)
        fine = [one.values[task] for one in held if not one.stopped and not one.violation]
        finer = [one.values[task] for one in holds if not one.stopped and not one.violation]
        assert max(finer, default=0.0) >= max(fine, default=0.0)


@algorithms
@settings(max_examples=25)
@given(OUTCOMES)
def test_a_memory_that_was_written_down_is_asked_the_same(algorithm, outcomes):
    memory = algorithm.tell(Memory(), measured(outcomes))
    back = restored(memory)
    assert back == memory
    asked = [algorithm.ask(GENES, one, np.random.default_rng(7)) for one in (memory, back)]
    assert asked[0] == asked[1]
    later = measured(outcomes[::-1], first=len(outcomes) + 1)
    assert algorithm.tell(memory, later) == algorithm.tell(back, later)


@algorithms
def test_a_fork_goes_on_from_what_another_algorithm_remembers(algorithm):
    born = [one(number, number / 9, 1 - number / 9) for number in range(1, 9)]
    memory = Genetic(population_size=8).tell(Memory(), born)
    children = algorithm.ask(GENES, memory, np.random.default_rng(0))
    assert {name for child in children for name in child.parents} <= set(names(born))
    assert set(names(algorithm.tell(memory, []).members)) <= set(names(born))


@algorithms
def test_settings_can_be_written_in_a_campaign_file(algorithm, root):
    base = config.as_dict(config.read(root / "examples" / "quickstart.yaml"))
    written = {**base, "search": config.as_dict(algorithm)}
    assert config.from_dict(json.loads(json.dumps(written))).search == algorithm


def test_a_summary_adds_up_what_cells_hold_above_the_floor():
    algorithm = MapElites(population_size=2, archive=Grid(bins=2), axes=BY_GENES)
    generations = [
        [one(1, 3.0, genome=(0.1, 0.0, 0.1)), one(2, 1.0, genome=(0.2, 0.0, 0.2))],
        [one(3, 4.0, genome=(0.1, 0.0, 0.1)), one(4, 2.5, genome=(0.9, 0.0, 0.2)), one(5)],
    ]
    first, second = over_time(algorithm, generations, floor=2.0)
    assert (first.candidates, first.cells, first.coverage, first.qd_score) == (2, 1, 0.25, 1.0)
    assert (second.candidates, second.cells, second.coverage, second.qd_score) == (5, 2, 0.5, 2.5)
    assert (first.best, second.best) == (3.0, 4.0)


def arms(genomes) -> list[Evaluated]:
    """Planar arms: the evener their angles the better; niches are the places they reach."""
    joints = np.array(genomes)
    turned = np.cumsum(2 * np.pi * (joints - 0.5), axis=1)
    x, y = np.cos(turned).mean(axis=1), np.sin(turned).mean(axis=1)
    values = np.column_stack([-joints.var(axis=1), x, y]).tolist()
    return [
        one(number, *row, genome=genome, fitness=row[0])
        for number, (genome, row) in enumerate(zip(genomes, values, strict=True), start=1)
    ]


def test_map_elites_fills_far_more_niches_than_random_search_and_fills_them_better():
    axes = tuple(Axis(of="objective", place=place, limits=(-1.0, 1.0)) for place in (1, 2))
    elites = MapElites(population_size=50, archive=Grid(bins=15), axes=axes)
    genes = reals([f"joint{place}" for place in range(8)], [0.0] * 8, [1.0] * 8)

    def end(algorithm, seed: int):
        memory, generations = Memory(), []
        for generation in range(40):
            rng = np.random.default_rng([seed, generation])
            born = arms([child.genome for child in algorithm.ask(genes, memory, rng)])
            generations.append([replace(one, number=one.number + 50 * generation) for one in born])
            memory = algorithm.tell(memory, generations[-1])
        return over_time(elites, generations, floor=-1.0)[-1]

    for seed in range(3):
        searched, drawn = end(elites, seed), end(RandomSearch(population_size=50), seed)
        assert searched.cells > drawn.cells * 1.3
        assert searched.qd_score > drawn.qd_score * 1.3

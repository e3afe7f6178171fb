"""Searches for several objectives: what NSGA-II and NSGA-III keep, and that they search."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import yaml

from orchestrator import assemble, config
from orchestrator.algorithms.base import Evaluated, Memory, remarks_on_objectives
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.nsga2 import Nsga2, fronts_of
from orchestrator.algorithms.nsga3 import Nsga3, reference_directions
from orchestrator.algorithms.portfolio import Portfolio
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.operators.pareto import directions, hypervolume
from orchestrator.spaces.genes import reals

BOTH = pytest.mark.parametrize("part", [Nsga2, Nsga3])


def test_directions_fit_the_population_with_a_layer_within_where_objectives_are_many():
    assert len(reference_directions(3, 92, None, None)) == 91
    many = reference_directions(8, 156, None, None)
    assert len(many) == 156  # as in the paper: three divisions without, two within
    assert (many > 0).all(axis=1).sum() == 36
    assert len(reference_directions(3, 92, 4, 0)) == 15


GENES = reals([f"x{index}" for index in range(6)], [0.0] * 6, [1.0] * 6)


def objectives(genome) -> tuple[float, float]:
    """Two that conflict in the first gene; the others are best at 0.3."""
    g = 1 + 9 * sum(abs(gene - 0.3) for gene in genome[1:]) / (len(genome) - 1)
    return -genome[0], -g * (1 - (genome[0] / g) ** 0.5)


def evaluate(proposals, first=1, goals=objectives, violation=lambda genome: 0.0):
    return [
        Evaluated(
            candidate=f"s{number}",
            number=number,
            genome=one.genome,
            fitness=sum(goals(one.genome)),
            values=goals(one.genome),
            violation=violation(one.genome),
        )
        for number, one in enumerate(proposals, start=first)
    ]


def searched(algorithm, generations, seed=0, **how):
    memory, number = Memory(), 1
    for generation in range(generations):
        proposals = algorithm.ask(GENES, memory, np.random.default_rng([seed, generation]))
        memory = algorithm.tell(memory, evaluate(proposals, number, **how))
        number += len(proposals)
    return memory


def again(memory: Memory) -> Memory:
    """The memory written as JSON and read again, as a snapshot's is: members by what varies."""
    genomes = {one.candidate: (one.number, one.genome) for one in memory.members}
    written = json.dumps(
        {
            "members": [
                [one.candidate, one.fitness, one.stopped, one.tie, one.values, one.violation]
                for one in memory.members
            ],
            "state": dict(memory.state),
        }
    )
    read = json.loads(written)
    members = [
        Evaluated(
            candidate=id_, number=genomes[id_][0], genome=genomes[id_][1], fitness=fitness,
            stopped=stopped, tie=tie, values=tuple(values), violation=violation,
        )
        for id_, fitness, stopped, tie, values, violation in read["members"]
    ]  # fmt: skip
    return Memory(members=tuple(members), state=read["state"])


@BOTH
def test_a_search_goes_on_the_same_after_its_memory_was_written_down(part):
    algorithm = part(population_size=12)
    memory = searched(algorithm, 4)
    restored = again(memory)
    proposals = algorithm.ask(GENES, memory, np.random.default_rng(9))
    assert algorithm.ask(GENES, restored, np.random.default_rng(9)) == proposals
    told = algorithm.tell(memory, evaluate(proposals, 100))
    assert algorithm.tell(restored, evaluate(proposals, 100)) == told


@BOTH
def test_in_whatever_order_a_generation_came_the_same_is_kept(part):
    algorithm = part(population_size=12)
    memory = searched(algorithm, 2)
    proposals = algorithm.ask(GENES, memory, np.random.default_rng(9))
    evaluated = evaluate(
        proposals, 100, goals=lambda x: tuple(round(one, 1) for one in objectives(x))
    )
    kept = algorithm.tell(memory, evaluated)
    for seed in range(5):
        shuffled = random.Random(seed).sample(evaluated, len(evaluated))
        assert algorithm.tell(memory, shuffled) == kept


@BOTH
def test_objectives_may_be_of_any_size(part):
    def sized(genome) -> tuple[float, float]:
        one, other = objectives(genome)
        return one * 2.0**33, other * 2.0**-10  # bytes beside a share

    plain, scaled = (
        searched(part(population_size=12), 8, goals=how) for how in (objectives, sized)
    )
    assert [one.genome for one in scaled.members] == [one.genome for one in plain.members]


@BOTH
def test_who_breaks_the_constraints_less_is_kept(part):
    genomes = GENES.sample(np.random.default_rng(0), 30)
    broken = {genome: max(0.0, genome[0] - 0.4) for genome in genomes}
    proposals = [
        replace(one, genome=genome)
        for one, genome in zip(
            RandomSearch(population_size=30).ask(GENES, Memory(), np.random.default_rng(0)),
            genomes,
            strict=True,
        )
    ]
    kept = part(population_size=20).tell(Memory(), evaluate(proposals, violation=broken.get))
    worst = sorted(broken.values())[20:]
    assert len(kept.members) == 20
    assert max(one.violation for one in kept.members) <= min(worst)


@BOTH
def test_a_search_ends_within_its_constraints(part):
    memory = searched(
        part(population_size=20), 25, violation=lambda genome: max(0.0, genome[0] - 0.01)
    )
    assert all(one.violation == 0 for one in memory.members)


@BOTH
def test_who_was_stopped_is_kept_only_where_nobody_else_is(part):
    proposals = RandomSearch(population_size=12).ask(GENES, Memory(), np.random.default_rng(0))
    evaluated = evaluate(proposals)
    stopped = {one.candidate for one in evaluated[::2]}
    evaluated = [
        replace(one, stopped=True, values=(9.0, 9.0)) if one.candidate in stopped else one
        for one in evaluated
    ]
    kept = part(population_size=8).tell(Memory(), evaluated).members
    assert [one.stopped for one in kept] == [False] * 6 + [True] * 2
    assert len(part(population_size=4).tell(Memory(), evaluated).members) == 4


@BOTH
def test_of_equals_the_likelier_is_kept_then_the_elder(part):
    proposals = RandomSearch(population_size=4).ask(GENES, Memory(), np.random.default_rng(0))
    same = evaluate(proposals, goals=lambda genome: (1.0, 1.0))
    likely = [*same[:3], replace(same[3], tie=-0.5)]
    assert part(population_size=2).tell(Memory(), likely).members == (likely[3], same[0])


@BOTH
def test_candidates_without_objectives_are_sorted_by_fitness(part):
    proposals = RandomSearch(population_size=12).ask(GENES, Memory(), np.random.default_rng(0))
    plain = [replace(one, values=()) for one in evaluate(proposals)]
    kept = part(population_size=5).tell(Memory(), plain).members
    assert kept == tuple(sorted(plain, key=lambda one: one.rank, reverse=True)[:5])


@BOTH
def test_no_child_is_a_known_genome(part):
    algorithm = part(population_size=16)
    memory = searched(algorithm, 5)
    asked = [one.genome for one in algorithm.ask(GENES, memory, np.random.default_rng(3))]
    assert len({*asked, *(one.genome for one in memory.members)}) == 32


def test_nsga2_keeps_the_ends_of_a_front():
    proposals = RandomSearch(population_size=40).ask(GENES, Memory(), np.random.default_rng(4))
    evaluated = evaluate(proposals, goals=lambda genome: (genome[0], -(genome[0] ** 2)))
    kept = [one.values for one in Nsga2(population_size=5).tell(Memory(), evaluated).members]
    everyone = [one.values for one in evaluated]
    assert {max(everyone), min(everyone)} <= set(kept)
    assert len(fronts_of(evaluated)) == 1


def test_nsga3_keeps_a_member_near_each_direction():
    rng = np.random.default_rng(5)
    sphere = np.abs(rng.normal(size=(400, 3)))
    sphere = -sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
    # Objectives of very different sizes, most of the candidates in one corner.
    crowded = np.concatenate([sphere[sphere[:, 0] < -0.9], sphere]) * [1.0, 100.0, 0.01]
    evaluated = [
        Evaluated(candidate=f"s{n}", number=n, genome=(0.0,), fitness=0.0, values=tuple(row))
        for n, row in enumerate(crowded.tolist(), start=1)
    ]
    kept = Nsga3(population_size=28).tell(Memory(), evaluated).members
    found = -np.array([one.values for one in kept]) / [1.0, 100.0, 0.01]
    lines = directions(3, 6)
    lines /= np.linalg.norm(lines, axis=1, keepdims=True)
    nearest = (found @ lines.T).argmax(axis=1)
    assert len(kept) == len(lines) == 28
    assert len(set(nearest)) >= 26, "hardly any direction has two members"


def at_costs(*costs) -> list[Evaluated]:
    """Candidates whose objectives are these costs below 0, numbered from 1."""
    return [
        Evaluated(
            candidate=f"s{n}",
            number=n,
            genome=(float(n),),
            fitness=0.0,
            values=tuple(-one for one in row),
        )
        for n, row in enumerate(costs, start=1)
    ]


def test_nsga3_fills_the_directions_that_nobody_of_the_better_fronts_is_near():
    first = [(0.0, 1.0), (0.3, 0.3), (1.0, 0.0)]
    # Those on lines that have a member are nearer to them than the others to theirs.
    second = [(0.0, 1.1), (0.4, 0.8), (0.8, 0.4), (1.1, 0.0)]
    kept = Nsga3(population_size=5).tell(Memory(), at_costs(*first, *second)).members
    assert [one.number for one in kept] == [1, 2, 3, 5, 6]


def test_nsga3_finds_extremes_among_objectives_of_any_size():
    front = at_costs((0.0, 9e9), (0.1, 5e9), (0.2, 4e9), (0.9, 0.0))
    state = Nsga3(population_size=4).tell(Memory(), front).state
    assert state["extremes"] == [[-0.9, 0.0], [0.0, -9e9]]


def test_nsga3_remembers_the_ideal_when_its_members_are_gone():
    algorithm = Nsga3(population_size=2)
    memory = algorithm.tell(Memory(), at_costs((1.0, 5.0), (5.0, 1.0)))
    gone = replace(memory, members=())
    assert algorithm.tell(gone, at_costs((3.0, 3.0))).state["ideal"] == [-1.0, -1.0]


@BOTH
def test_parents_break_the_constraints_less_than_the_rest(part):
    within, beyond = at_costs((1.0, 1.0), (0.0, 0.0))
    within, beyond = (replace(one, genome=(0.5,) * 6) for one in (within, beyond))
    beyond = replace(beyond, violation=1.0)
    memory = part(population_size=2).tell(Memory(), [within, beyond])
    asked = part(population_size=300).ask(GENES, memory, np.random.default_rng(0))
    alone = [one.parents for one in asked if len(one.parents) == 1]
    assert sum(one == (within.candidate,) for one in alone) > 0.8 * len(alone)


def test_nsga3_forgets_the_scale_of_those_that_broke_the_constraints():
    part = Nsga3(population_size=4)
    far = evaluate(
        RandomSearch(population_size=4).ask(GENES, Memory(), np.random.default_rng(0)),
        goals=lambda genome: (100.0, 100.0),
        violation=lambda genome: 1.0,
    )
    memory = part.tell(Memory(), far)
    assert memory.state["ideal"] == [100.0, 100.0]
    near = [
        replace(one, number=9, candidate="s9", values=(1.0, 2.0), violation=0.0) for one in far[:1]
    ]
    assert part.tell(memory, near).state["ideal"] == [1.0, 2.0]


@pytest.mark.parametrize("mode", ["generational", "async"])
@BOTH
def test_a_search_for_two_objectives_clearly_beats_random_search(part, mode):
    def volume(members) -> float:
        return hypervolume([one.values for one in members], (-1.1, -1.1))

    def run(seed: int) -> float:
        algorithm, num = part(population_size=20, mode=mode), 400
        if mode == "generational":
            return volume(searched(algorithm, num // 20, seed).members)
        first = algorithm.ask(GENES, Memory(), np.random.default_rng(seed))
        memory = algorithm.tell(Memory(), evaluate(first))
        for number in range(21, num + 1):
            proposal = algorithm.ask_one(GENES, memory, np.random.default_rng([seed, number]))
            memory = algorithm.tell(memory, evaluate([proposal], number))
        return volume(memory.members)

    def drawn(seed: int) -> float:
        control = RandomSearch(population_size=400)
        return volume(evaluate(control.ask(GENES, Memory(), np.random.default_rng(seed))))

    ours, theirs = (median(how(seed) for seed in range(3)) for how in (run, drawn))
    assert ours > theirs + 0.25


@BOTH
@pytest.mark.parametrize(
    ("kind", "names", "said"),
    [
        ("pareto", ["a", "-size"], None),
        ("weighted", ["a"], "one objective, 'a'"),
        ("weighted", ["a", "b"], "front of a, b, but the aim is their weighted sum"),
        ("lexicographic", ["a", "b"], "the aim is the first of them before the next"),
    ],
)
def test_a_search_for_a_front_says_so_where_there_is_none_or_it_is_not_the_aim(
    part, kind, names, said
):
    remarks = remarks_on_objectives(part(population_size=8), kind, names)
    assert len(remarks) == (said is not None)
    assert all(said in one for one in remarks)


def test_a_search_by_one_number_says_that_it_looks_for_no_front():
    arms = (Genetic(population_size=4), Nsga2(population_size=4))
    mixed = Portfolio(population_size=8, algorithms=arms)
    for algorithm in (arms[0], RandomSearch(population_size=4)):
        assert "the fitness alone" in remarks_on_objectives(algorithm, "pareto", ["a", "b"])[0]
        assert not remarks_on_objectives(algorithm, "weighted", ["a", "b"])
    (one,) = remarks_on_objectives(mixed, "pareto", ["a", "b"])
    assert one.startswith("algorithms.0: this algorithm looks at the fitness alone")


def test_objectives_without_effect_are_among_the_warnings_of_a_campaign(tmp_path):
    for kind, num in (("genetic", 0), ("nsga2", 1)):
        plain = yaml.safe_load(Path("examples/knapsack.yaml").read_text(encoding="utf-8"))
        search = {"kind": kind, "population_size": 40}
        settings = config.from_dict({**plain, "search": search, "output": str(tmp_path)})
        parts = assemble.assemble(settings)
        assert len(parts.facts.warnings) == num
        assert parts.search_settings["warnings"] == list(parts.facts.warnings)

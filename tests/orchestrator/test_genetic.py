"""What the genetic algorithm can be told to do: share, breed on islands, let in, learn."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest

from orchestrator import config
from orchestrator.algorithms.base import Evaluated, Memory, comparable, ranked
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.islands import Islands
from orchestrator.campaign import snapshot
from orchestrator.campaign.fold import handle, start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.operators import choice, naming
from orchestrator.operators.crossover import BlxAlpha, OnePoint, Sbx, TwoPoint, Uniform
from orchestrator.operators.diversity import Immigrants, Sharing, distances, mean_distance
from orchestrator.operators.mutation import Flip, Gaussian, Polynomial, Reset, SelfAdaptive, Swap
from orchestrator.operators.orders import order_crossover
from orchestrator.spaces.genes import Bit, Categorical, Genes, Integer, Permutation, Real, reals
from orchestrator.yaml_file import load

ROOT = Path(__file__).resolve().parents[2]

BOX = reals(("x", "y"), (0.0, 0.0), (1.0, 1.0))
MIXED = Genes(
    (
        Real(name="rate", low=1e-4, high=1.0, log=True),
        Integer(name="layers", low=1, high=9),
        Categorical(name="method", choices=("linear", "ties", "dare")),
        Bit(name="normalize", when={"method": ("ties", "dare")}),
        Permutation(name="order", size=4),
    )
)
MODES = pytest.mark.parametrize("mode", ["generational", "async"])


def evaluated(number: int, genome, fitness, **more) -> Evaluated:
    return Evaluated(
        candidate=f"s{number}", number=number, genome=tuple(genome), fitness=fitness, **more
    )


def as_stored(memory: Memory) -> Memory:
    """What comes back of a memory that was written down: members as they are, the rest as JSON."""
    parts = tuple(as_stored(part) for part in memory.parts)
    return Memory(memory.members, json.loads(json.dumps(dict(memory.state))), parts)


def run(algorithm, genes, fitness, num: int, seed=0, memory=None, least_open=8):
    """Searches as a campaign does; returns the memory and all that was measured."""
    memory, everyone, waiting = memory or Memory(), [], []
    while len(everyone) < num:
        rng = np.random.default_rng([seed, len(everyone), len(waiting)])
        if algorithm.asynchronous and (everyone or waiting):
            while len(waiting) < least_open:
                waiting.append(algorithm.ask_one(genes, memory, rng))
            batch, waiting = waiting[:1], waiting[1:]
        else:
            batch = algorithm.ask(genes, memory, rng)
        told = [
            evaluated(
                len(everyone) + place, one.genome, fitness(one.genome), operator=one.operator,
                parents=one.parents,
            )
            for place, one in enumerate(batch, start=1)
        ]  # fmt: skip
        everyone += told
        memory = as_stored(algorithm.tell(memory, told))
    return memory, everyone


def two_peaks(genome) -> float:
    """One at either side, as high as each other."""
    x, y = genome
    return -min((x - 0.15) ** 2, (x - 0.85) ** 2) - (y - 0.5) ** 2


def sphere(genome) -> float:
    return -sum((gene - 0.3) ** 2 for gene in genome)


def held(memory: Memory) -> list[bool]:
    """Which of two peaks have a good share of the population."""
    left = mean(one.genome[0] < 0.5 for one in memory.members)
    return [left >= 0.2, left <= 0.8]


@MODES
def test_sharing_holds_peaks_that_a_population_loses_without(mode):
    plain = Genetic(population_size=24, mode=mode)
    sharing = replace(plain, sharing=Sharing(radius=0.2))
    lost, kept = (
        sum(all(held(run(one, BOX, two_peaks, 500, seed)[0])) for seed in range(3))
        for one in (plain, sharing)
    )
    assert lost == 0
    assert kept >= 2


def test_who_is_alone_is_preferred_to_a_better_one_of_a_crowd():
    genomes = [(0.10, 0.1), (0.11, 0.1), (0.12, 0.1), (0.9, 0.9)]
    shared = Sharing(radius=0.3).shared(distances(genomes, BOX))
    assert shared[3] < shared[0], "the worst stays behind one that is three times as good"
    shared = Sharing(radius=0.3).shared(distances([*genomes[:2], genomes[3], genomes[2]], BOX))
    assert shared[2] > max(shared[0], shared[1], shared[3])


@pytest.mark.parametrize("genes", [BOX, MIXED], ids=["real", "mixed"])
def test_distances_are_those_of_the_genes(genes):
    genomes = genes.sample(np.random.default_rng(0), 12)
    one_by_one = [[genes.distance(a, b) for b in genomes] for a in genomes]
    np.testing.assert_allclose(distances(genomes, genes), one_by_one, atol=1e-7)


@MODES
def test_islands_breed_apart_until_their_best_move_to_the_next(mode):
    algorithm = Genetic(
        population_size=18, islands=Islands(count=3, every=4, migrants=2), elites=1, mode=mode
    )
    memory, everyone = run(algorithm, BOX, sphere, 18 + 2 * 15)
    homes = [{one.candidate for one in part.members} for part in memory.parts]
    assert [len(home) for home in homes] == [6, 6, 6]
    assert not homes[0] & homes[1]
    assert not homes[1] & homes[2]
    born = {one.candidate: naming.island(one.operator) for one in everyone}
    assert all({born[id_] for id_ in home} == {place} for place, home in enumerate(homes, 1))

    memory, everyone = run(algorithm, BOX, sphere, 18 * 5)
    born = {one.candidate: naming.island(one.operator) for one in everyone}
    families = {(born[one.candidate], born[id_]) for one in everyone for id_ in one.parents}
    assert families & {(2, 1), (3, 2), (1, 3)}, "immigrants have children"
    assert not families & {(1, 2), (2, 3), (3, 1)}, "nobody moves against the ring"


def test_islands_measure_the_first_generation_once_and_keep_their_elites():
    genes = reals(("x", "y"), (0.0, 0.0), (1.0, 1.0), (0.5, 0.5))
    algorithm = Genetic(population_size=11, islands=Islands(count=3, every=2), elites=1)
    first = algorithm.ask(genes, Memory(), np.random.default_rng(0))
    assert len({one.genome for one in first}) == len(first) == algorithm.size(1) == 11
    memory, _ = run(algorithm, genes, sphere, 11)
    assert [len(part.members) for part in memory.parts] == [4, 4, 3]
    following = algorithm.ask(genes, memory, np.random.default_rng(1))
    assert len(following) == algorithm.size(2) == 8


def test_a_fork_takes_a_population_to_islands_and_back():
    alone = Genetic(population_size=12)
    apart = replace(alone, islands=Islands(count=2, every=3))
    memory, _ = run(alone, BOX, sphere, 40)
    best = memory.members[0]
    memory = apart.tell(memory, [evaluated(99, (0.0, 0.0), -9.0)])
    assert best in [one for part in memory.parts for one in part.members]
    together = alone.tell(memory, [evaluated(100, (0.0, 0.0), -9.0)])
    assert together.members[0] == best
    assert alone.ask(BOX, memory, np.random.default_rng(0))[0].parents


@MODES
def test_immigrants_come_when_the_population_is_narrow_and_only_then(mode):
    coming_in = Immigrants(below=0.1, share=0.25)
    algorithm = Genetic(population_size=20, immigrants=coming_in, elites=1, mode=mode)
    rng = np.random.default_rng(0)

    def coming(genomes) -> int:
        memory = algorithm.tell(
            Memory(), [evaluated(n, genome, -float(n)) for n, genome in enumerate(genomes, 1)]
        )
        proposals = (
            [algorithm.ask_one(BOX, memory, rng) for _ in range(200)]
            if mode == "async"
            else algorithm.ask(BOX, memory, rng)
        )
        return Counter(one.operator for one in proposals)["immigrant"]

    wide = BOX.sample(rng, 20)
    assert mean_distance(distances(wide, BOX)) > 0.3
    assert coming(wide) == 0
    narrow = [(0.5 + 0.001 * number, 0.5) for number in range(20)]
    assert coming(narrow) == (5 if mode == "generational" else pytest.approx(50, abs=20))


def test_an_immigrant_takes_the_place_of_the_worst_whatever_it_is_worth():
    algorithm = Genetic(population_size=3, immigrants=Immigrants(below=0.1), mode="async")
    members = [evaluated(n, (0.5, 0.1 * n), -float(n)) for n in (1, 2, 3)]
    memory = algorithm.tell(Memory(), members)
    newcomer = evaluated(4, (0.9, 0.9), -50.0, operator="immigrant")
    assert algorithm.tell(memory, [newcomer]).members == (*members[:2], newcomer)
    child = replace(newcomer, operator="sbx+polynomial")
    assert algorithm.tell(memory, [child]).members == tuple(members)


def test_immigrants_keep_a_population_from_standing_still():
    def trap(genome) -> float:  # a broad hill, and a narrow one that is higher, far away
        x, y = genome
        return max(0.5 - abs(x - 0.1) - abs(y - 0.1), 1.0 - 8 * abs(x - 0.8) - 8 * abs(y - 0.8))

    plain = Genetic(population_size=20, mutation=Gaussian(sigma=0.02))
    open_ = replace(plain, immigrants=Immigrants(below=0.2, share=0.3))
    alone, joined = (
        sum(run(one, BOX, trap, 700, seed)[0].members[0].fitness > 0.55 for seed in range(5))
        for one in (plain, open_)
    )
    assert joined > alone + 1


@MODES
def test_the_better_of_two_operators_comes_to_make_most_of_the_children(mode):
    genes = reals([f"x{n}" for n in range(8)], [0.0] * 8, [1.0] * 8)
    algorithm = Genetic(
        population_size=20,
        mutation=(Reset(probability=1.0), Gaussian(sigma=0.05)),
        operators="adaptive",
        mode=mode,
    )
    _, everyone = run(algorithm, genes, sphere, 600)
    of_late = Counter(naming.names(one.operator)[-1] for one in everyone[-200:])
    assert of_late["gaussian"] > 0.8 * 200
    assert of_late["reset"] > 0, "what is bad now may be good later"
    uniform = replace(algorithm, operators="uniform")
    _, everyone = run(uniform, genes, sphere, 600)
    assert 60 < Counter(naming.names(one.operator)[-1] for one in everyone[-200:])["reset"] < 140


def test_what_is_learned_of_operators_does_not_depend_on_the_order_of_a_batch():
    labels = ["sbx", "uniform", "one_point"]
    batch = [("sbx", True), ("uniform", False), ("sbx", False), ("one_point", True)] * 9
    one = choice.learned({}, labels, batch)
    assert one == choice.learned({}, labels, batch[::-1])
    assert sum(choice.probabilities(one, labels)) == pytest.approx(1.0)
    assert one["one_point"][2] == max(probability for _, _, probability in one.values())


def test_half_of_the_members_live_on_unless_they_are_to_be_far_apart():
    plain = Genetic(population_size=9)
    assert [plain.size(1), plain.size(2)] == [9, 5]
    assert replace(plain, elites=1).size(2) == 8
    assert replace(plain, sharing=Sharing(radius=0.1)).size(2) == 8
    apart = replace(plain, islands=Islands(count=2))
    memory, _ = run(apart, BOX, sphere, 9)
    proposals = apart.ask(BOX, memory, np.random.default_rng(0))
    assert len(proposals) == apart.size(2) == 3 + 2, "of five and of four"


def test_the_defaults_come_to_rest_on_an_optimum():
    genes = reals([f"x{n}" for n in range(5)], [0.0] * 5, [1.0] * 5)
    found = [run(Genetic(population_size=30), genes, sphere, 1500, seed)[0] for seed in range(3)]
    assert min(memory.members[0].fitness for memory in found) > -1e-5


def test_two_operators_of_one_kind_are_told_apart():
    algorithm = Genetic(
        population_size=40,
        crossover=(Sbx(eta=2.0), Sbx(eta=20.0)),
        mutation=Polynomial(),
        operators="adaptive",
    )
    memory, everyone = run(algorithm, BOX, sphere, 200)
    made = {naming.plain(one.operator) for one in everyone}
    assert {"sbx+polynomial", "sbx#2+polynomial"} <= made
    assert set(memory.state["operators"]["crossover"]) == {"sbx", "sbx#2"}
    assert "mutation" not in memory.state["operators"], "there is nothing to choose"


@MODES
def test_a_step_that_evolves_shrinks_towards_an_optimum(mode):
    genes = reals([f"x{n}" for n in range(6)], [0.0] * 6, [1.0] * 6)
    algorithm = Genetic(
        population_size=20, crossover=Uniform(), mutation=SelfAdaptive(sigma=0.3), mode=mode
    )
    _, everyone = run(algorithm, genes, sphere, 1500)
    steps = [naming.inherited(one.operator, "self_adaptive") for one in everyone]
    early, late = (median(filter(None, part)) for part in (steps[20:120], steps[-100:]))
    assert late < early / 5
    assert max(one.fitness for one in everyone) > -1e-5


def test_a_step_is_inherited_from_the_parents_and_written_behind_the_operator():
    algorithm = Genetic(population_size=4, mutation=SelfAdaptive(sigma=0.3, rate=1e-9))
    members = [
        evaluated(n, (0.1 * n, 0.5), 1.0, operator="sbx+self_adaptive(0.004)@2") for n in (1, 2, 3)
    ]
    children = algorithm.ask(BOX, Memory(tuple(members)), np.random.default_rng(0))
    steps = {naming.inherited(one.operator, "self_adaptive") for one in children}
    assert steps == {0.004}
    assert {naming.plain(one.operator) for one in children} <= {
        "sbx+self_adaptive", "self_adaptive",
    }  # fmt: skip


def test_who_breaks_constraints_is_worth_less_than_anybody_who_keeps_them():
    keeps = [evaluated(1, (0.1, 0.1), 3.0), evaluated(2, (0.2, 0.2), -5.0)]
    breaks = [
        evaluated(3, (0.3, 0.3), 99.0, violation=0.5), evaluated(4, (0.4, 0.4), 99.0, violation=2.0)
    ]  # fmt: skip
    stopped = evaluated(5, (0.5, 0.5), 50.0, stopped=True)
    members = ranked([stopped, *breaks, *keeps])
    assert [one.number for one in members] == [1, 2, 3, 4, 5]
    assert comparable(members)[:4] == [3.0, -5.0, -5.5, -7.0]
    assert comparable(members)[4] < -7.0
    memory, _ = run_constrained()
    assert memory.members[0].violation == 0
    assert memory.members[0].genome[0] == pytest.approx(0.6, abs=0.02)


def run_constrained():
    """The sphere's optimum is forbidden: the best that is allowed lies on the border."""
    algorithm = Genetic(population_size=20, mutation=Gaussian(sigma=0.05))
    memory, number = Memory(), 0
    for generation in range(40):
        told = []
        for one in algorithm.ask(BOX, memory, np.random.default_rng([1, generation])):
            number += 1
            broken = max(0.0, 0.6 - one.genome[0])
            told.append(evaluated(number, one.genome, sphere(one.genome), violation=broken))
        memory = algorithm.tell(memory, told)
    return memory, number


EVERYTHING = Genetic(
    population_size=16,
    crossover=(Sbx(), OnePoint(), TwoPoint()),
    mutation=(Swap(), Flip(), SelfAdaptive()),
    operators="adaptive",
    sharing=Sharing(radius=0.1),
    islands=Islands(count=2, every=2),
    immigrants=Immigrants(below=0.3),
)


@MODES
def test_everything_at_once_searches_genes_of_every_kind(mode):
    algorithm = replace(EVERYTHING, mode=mode)
    memory, everyone = run(algorithm, MIXED, lambda genome: float(sum(genome)), 200)
    assert all(MIXED.repair(np.asarray(one.genome)) == one.genome for one in everyone)
    assert max(one.fitness for one in everyone) > max(one.fitness for one in everyone[:16])
    assert {one.candidate for one in memory.everyone} <= {one.candidate for one in everyone}


@MODES
def test_everything_at_once_goes_on_from_a_snapshot_as_if_nothing_had_happened(
    mode, fake_space, score
):
    campaign = Campaign(
        space=fake_space(),
        algorithm=replace(EVERYTHING, mode=mode),
        seed=5,
        limits=Limits(evaluations=120),
    )
    step = start(campaign)
    state, jobs, known = step.state, list(step.jobs), {one.id: one for one in step.candidates}
    while jobs:
        job = jobs.pop(0 if len(jobs) % 3 else -1)
        step = handle(campaign, state, score(job))
        state, jobs = step.state, jobs + list(step.jobs)
        known |= {one.id: one for one in step.candidates}
        if state.phase == "search":
            plain = json.loads(json.dumps(snapshot.dump(campaign, state)))
            assert snapshot.restore(campaign, plain, known, {}).memory == state.memory
    assert state.proposed == 120
    assert all(part.members and part.state["operators"] for part in state.memory.parts)


def test_in_whatever_order_a_generation_comes_back_the_memory_is_the_same():
    memory, _ = run(EVERYTHING, MIXED, lambda genome: float(sum(genome)), 60)
    proposals = EVERYTHING.ask(MIXED, memory, np.random.default_rng(1))
    told = [
        evaluated(
            900 + place, one.genome, None if place % 5 == 0 else float(place % 4),
            operator=one.operator, parents=one.parents,
        )
        for place, one in enumerate(proposals)
    ]  # fmt: skip
    assert EVERYTHING.tell(memory, told) == EVERYTHING.tell(memory, told[::-1])


def test_a_cut_keeps_neighbours_together_and_a_genome_of_one_gene_can_be_cut():
    genes = reals([f"x{n}" for n in range(9)], [0.0] * 9, [1.0] * 9)
    a, b = np.zeros(9), np.ones(9)
    for part, changes in ((OnePoint(probability=1.0), {1}), (TwoPoint(probability=1.0), {1, 2})):
        found = set()
        for seed in range(100):
            child = part(a, b, genes, np.random.default_rng(seed))
            found.add(int(np.count_nonzero(np.diff(child))))
        assert found == changes
        alone = reals(("x",), (0.0,), (1.0,))
        child = part(np.array([0.2]), np.array([0.7]), alone, np.random.default_rng(0))
        assert child[0] in (0.2, 0.7)


def test_order_crossover_keeps_a_stretch_of_one_and_the_sequence_of_the_other():
    a, b = np.arange(8.0), np.array([3.0, 7, 0, 4, 1, 6, 2, 5])
    for seed in range(50):
        child = order_crossover(a, b, np.random.default_rng(seed))
        assert sorted(child) == list(range(8))
        kept = child == a
        assert kept.any()
        # From the end of the stretch on, what is not of it comes in the order of the other.
        ends = [n for n in range(8) if kept[n] and not kept[(n + 1) % 8]]
        assert any(
            [one for one in np.roll(child, -end - 1) if not kept[int(one)]]
            == [one for one in np.roll(b, -end - 1) if not kept[int(one)]]
            for end in ends or [7]
        )


SEARCH = {
    "kind": "genetic",
    "population_size": 24,
    "crossover": [{"kind": "sbx", "eta": 5}, {"kind": "blx_alpha"}],
    "mutation": {"kind": "polynomial"},
    "operators": "adaptive",
    "sharing": {"radius": 0.1},
    "islands": {"count": 3, "every": 5, "migrants": 1},
    "immigrants": {"below": 0.05, "share": 0.2},
}


def read_search(section):
    data = load(ROOT / "examples/quickstart.yaml").data
    return config.from_dict({**data, "search": section}).search


def test_a_campaign_file_can_say_all_of_it():
    found = read_search(SEARCH)
    assert found == Genetic(
        population_size=24,
        crossover=(Sbx(eta=5.0), BlxAlpha()),
        mutation=Polynomial(),
        operators="adaptive",
        sharing=Sharing(radius=0.1),
        islands=Islands(count=3, every=5, migrants=1),
        immigrants=Immigrants(below=0.05, share=0.2),
    )
    assert read_search(config.as_dict(found)) == found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crossover": []}, "crossover: expected one, or a list of some"),
        ({"crossover": {"kind": "sbx"}}, "operators: adaptive needs a list"),
        ({"crossover": [{"kind": "sbx"}, {"kind": "blx"}]}, "or 'blx_alpha'?"),
        ({"islands": {"count": 20}}, "population_size of at least 40, got 24"),
        ({"islands": {"count": 3, "migrants": 9}}, "population_size of at least 30"),
        ({"elites": 8}, "elites: expected fewer than members of the smallest island (8), got 8"),
        ({"sharing": {"radius": 2}}, "radius: expected less than or equal to 1, got 2"),
        ({"sharing": {"radius": 0.1, "alfa": 2}}, "did you mean 'alpha'?"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(change, said):
    with pytest.raises(config.ConfigError) as refused:
        read_search({**SEARCH, **change})
    assert said.lower() in str(refused.value).lower()

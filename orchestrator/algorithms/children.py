"""How new genomes come about, whichever algorithm chose their parents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from orchestrator.algorithms.base import Evaluated, Proposal
from orchestrator.operators import naming
from orchestrator.operators.crossover import CROSSOVERS, Crossover
from orchestrator.operators.mutation import MUTATIONS, Heritable, Mutation
from orchestrator.spaces.genes import Genes, Genome, genome_of

#: Mutations of a child that keeps equalling a known genome before it is let through.
_MAX_MUTATIONS = 10


def first_generation(
    genes: Genes, num: int, warm_start: float, rng: np.random.Generator
) -> list[Proposal]:
    """Samples a generation, the `warm_start` share of it on the way from the start to anywhere.

    Where there are founders, it is they and random merges of them.
    """
    founders = [Proposal(genome=one, operator="founder") for one in genes.founders]
    num = max(0, num - len(founders))
    samples = genes.sample(rng, num)
    num_warm = round(warm_start * num) if genes.start is not None else 0
    ways = rng.random(num_warm)
    ways[:1] = 0.0
    warm = zip(samples[:num_warm], ways, strict=True)
    proposals = [*founders, *(_from_start(genes, sample, way) for sample, way in warm)]
    return proposals + [Proposal(genome=one, operator="sample") for one in samples[num_warm:]]


def newcomer(genes: Genes, warm_start: float, rng: np.random.Generator) -> Proposal:
    """Samples one genome, as those of a first generation are: for while nobody has been measured.

    Where there are founders, it is one of them: there is nobody yet whom it could merge.
    """
    if genes.founders:
        founder = genes.founders[int(rng.integers(len(genes.founders)))]
        return Proposal(genome=founder, operator="founder")
    sample = genes.sample(rng, 1)[0]
    if genes.start is None or rng.random() >= warm_start:
        return Proposal(genome=sample, operator="sample")
    return _from_start(genes, sample, rng.random())


def _from_start(genes: Genes, sample: Genome, way: float) -> Proposal:
    """Returns a genome on the way from the start to a sample."""
    start = np.asarray(genes.start)
    between = genes.repair(start + way * (np.asarray(sample) - start))
    return Proposal(genome=between, operator="start")


def children_of(
    members: Sequence[Evaluated],
    num: int,
    choose: Callable[[np.random.Generator], Sequence[Evaluated]],
    crossover: Crossover,
    mutation: Mutation,
    genes: Genes,
    rng: np.random.Generator,
) -> list[Proposal]:
    """Makes children of pairs that `choose` draws, none of them equal to another or a member."""
    spared = textbook_share(genes)

    def born(known: Collection[Genome]) -> Proposal:
        return child_of(choose(rng), crossover, mutation, known, genes, rng, spared=spared)

    return siblings(members, num, born)


def siblings(
    members: Sequence[Evaluated], num: int, born: Callable[[Collection[Genome]], Proposal]
) -> list[Proposal]:
    """Lets children be `born`, each with what it should not equal: members and other children."""
    genomes = [member.genome for member in members]
    if num == 1:  # hashing all would take longer than comparing one child with each
        return [born(genomes)]
    known, children = set(genomes), list[Proposal]()
    for _ in range(num):
        child = born(known)
        known.add(child.genome)
        children.append(child)
    return children


def textbook_share(genes: Genes) -> float:
    """Returns how often no gene mutates where each does by itself, one of them on average.

    Our mutations change one gene at least. To change every crossed child costs a search dear: after
    10,000 evaluations of ZDT4, NSGA-II had a volume of 0.001 instead of 0.45; a genetic algorithm
    needed twice the evaluations on a sphere of ten dimensions.
    """
    num = len(genes.spans)
    return float((1.0 - 1.0 / num) ** num)


def child_of(
    parents: Sequence[Evaluated],
    crossover: Crossover,
    mutation: Mutation,
    known: Collection[Genome],
    genes: Genes,
    rng: np.random.Generator,
    names: tuple[str, str] | None = None,
    spared: float = 0.0,
) -> Proposal:
    """Crosses two parents and mutates the child, again while it is one of the `known`.

    `names` are those of the operators where several are told apart; `spared` is how often a crossed
    child that is new is not mutated.
    """
    first, second = parents
    if genes.founders:
        return merge_of(parents, genes, rng)
    values = np.asarray(first.genome)
    crossed = crossover(values, np.asarray(second.genome), genes, rng)
    made_of = [first] if crossed is None else [first, second]
    values = values if crossed is None else crossed
    crossing, changing = names or (
        naming.label(CROSSOVERS, crossover),
        naming.label(MUTATIONS, mutation),
    )
    heritable = mutation if isinstance(mutation, Heritable) else None
    # What is inherited must be passed on.
    if crossed is not None and spared and heritable is None and rng.random() < spared:
        child = genes.repair(crossed)
        if child not in known:
            return Proposal(genome=child, parents=_names(made_of), operator=crossing)
    if heritable is not None:
        numbers = tuple(naming.inherited(one.operator, changing) for one in made_of)
        mutation = heir = heritable.heir(numbers, genes, rng)
        changing = f"{changing}({heir.heritage:.4g})"
    for _ in range(_MAX_MUTATIONS):
        child = genes.repair(mutation(values, genes, rng))
        if child not in known:
            break
        values = np.asarray(child)
    return Proposal(
        genome=genome_of(np.asarray(child)),
        parents=_names(made_of),
        operator=changing if crossed is None else f"{crossing}+{changing}",
    )


def merge_of(parents: Sequence[Evaluated], genes: Genes, rng: np.random.Generator) -> Proposal:
    """Draws how two parents are crossed, where that is what a genome says."""
    return Proposal(genome=genes.sample(rng, 1)[0], parents=_names(parents), operator="merge")


def _names(parents: Sequence[Evaluated]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.candidate for one in parents))

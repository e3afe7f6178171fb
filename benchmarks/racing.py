"""What races would have spent on a recorded campaign, and whom they would have ended at.

    python benchmarks/racing.py STORE NAME [--orders 3] [--test] [--kinds optuna halving]

Run where the campaign ran, so that its tasks (and with `--test` its models) are found. The campaign
must have measured every candidate on all search rows. Its candidates are replayed as they were
born, generation by generation, the search's and the control's each against their own role: those
of earlier generations that ran to the end are the incumbents. A replay cannot tell how the search
would have gone on from other survivors. Every race runs in several orders of the documents, as if
the campaign had had other seeds.

Prints Markdown: documents spent as a share of all (mean over the orders), in how many orders the
search ended at the same candidate, the fitness given up at worst, and with `--test` the smallest
p of a one-sided paired permutation test on the test rows: that the final candidate is only by
chance worse than the one that full measurement ends at.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from evaluators.base import Documents, Score, TaskFacts, TaskScore
from evaluators.pooling import pool
from orchestrator import config
from orchestrator.assemble import Parts, assemble
from orchestrator.measurement.halving import Halving
from orchestrator.measurement.layout import Layout, layout
from orchestrator.measurement.measured import Standing
from orchestrator.measurement.optuna_pruner import OptunaPruner
from orchestrator.measurement.paired_races import Bernstein, Hoeffding, PairedT
from orchestrator.measurement.race import RACES as KINDS
from orchestrator.measurement.race import Field, Race, Run, of_late
from orchestrator.settings import CampaignSettings
from orchestrator.storage.reader import CandidateRecord, Reader
from workers.job import Job, Scored
from workers.recipe import MergeRecipe

RACES: list[Any] = [
    PairedT(),
    PairedT(margin=0),
    PairedT(margin=0, confidence=0.95),
    PairedT(margin=1),
    PairedT(confidence=0.5),
    PairedT(confidence=0.9),
    PairedT(growth=2),
    PairedT(first_block=32),
    PairedT(survivors=1),
    PairedT(survivors=4),
    Hoeffding(),
    Bernstein(),
    Halving(),
    Halving(growth=2),
    Halving(eta=3),
    Halving(eta=4),
    Halving(eta=8),
    *(
        OptunaPruner(pruner=name, options=options)
        for name, options in (
            ("median", {}),
            ("percentile", {"percentile": 75.0}),
            ("successive_halving", {}),
            ("hyperband", {"min_resource": 32}),
            ("wilcoxon", {}),
        )
    ),
]
DRAWS = 10_000


@dataclass
class Replay:
    """What a race would have done to one role's candidates."""

    spent: int = 0
    full: int = 0
    complete: list[tuple[CandidateRecord, Standing]] = field(default_factory=list)

    @property
    def best(self) -> CandidateRecord:
        """The fittest of those that ran to the end, the eldest among equals."""
        return max((one for one, _ in self.complete), key=rank)


def rank(one: CandidateRecord) -> tuple[float, int]:
    """Sorts candidates: the fitter, then the elder."""
    assert one.fitness is not None
    return one.fitness, -one.number


def main() -> None:
    """Replays and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("store")
    parser.add_argument("name")
    parser.add_argument("--orders", type=int, default=3, help="orders of the documents to replay")
    parser.add_argument(
        "--kinds", nargs="+", default=list(KINDS.addresses), choices=KINDS.addresses
    )
    parser.add_argument("--test", action="store_true", help="score final candidates on test rows")
    arguments = parser.parse_args()
    reader = Reader(arguments.store)
    parts = assemble(settings_of(reader, arguments.name))
    born = candidates(reader, arguments.name)
    p_value = against(parts, max(born["search"], key=rank)) if arguments.test else None
    print_header(arguments.name, born, p_value is not None)
    for race in [one for one in RACES if KINDS.name_of(type(one)) in arguments.kinds]:
        replays = [
            {
                role: replay(race, ones, parts.facts.tasks["search"], seed)
                for role, ones in born.items()
            }
            for seed in range(arguments.orders)
        ]
        print_line(race, replays, max(born["search"], key=rank), p_value)


def settings_of(reader: Reader, name: str) -> CampaignSettings:
    """Returns a campaign's settings."""
    known = {one.name for one in dataclasses.fields(CampaignSettings)}
    stored = reader.settings(name)
    return config.from_dict({key: value for key, value in stored.items() if key in known})


def candidates(reader: Reader, name: str) -> dict[str, list[CandidateRecord]]:
    """Returns the measured candidates of each role, by age."""
    found: dict[str, list[CandidateRecord]] = defaultdict(list)
    for role, candidate, *_ in reader.history(name):
        if role != "reference":
            found[role].append(reader.candidate(name, candidate))
    every = [one for ones in found.values() for one in ones]
    if len({tuple(len(task.per_document) for task in one.scores.values()) for one in every}) != 1:
        raise SystemExit(f"{name}: not every candidate was measured on all search rows")
    return {role: sorted(found[role], key=lambda one: one.number) for role in sorted(found)[::-1]}


def replay(
    race: Race, born: Sequence[CandidateRecord], tasks: Mapping[str, TaskFacts], seed: int
) -> Replay:
    """Lets one role's candidates race."""
    plan = layout(tasks, seed=seed, race=race, reserve=0.0, round_documents=1)
    done = Replay()
    runs: tuple[Run, ...] = ()
    for _, generation in groupby(born, key=lambda one: one.generation):
        best = sorted(done.complete, key=lambda pair: rank(pair[0]), reverse=True)
        incumbents = tuple(standing for _, standing in best[: race.survivors])
        reached = [
            (one, *run(race, one, plan, Field(incumbents, runs, one.number))) for one in generation
        ]
        for one, standing, fitness in reached:
            done.spent += standing.num_documents
            done.full += plan.num_documents
            if len(fitness) == len(plan.search):
                done.complete.append((one, standing))
        runs = of_late([*runs, *(Run(one.number, tuple(fitness)) for one, _, fitness in reached)])
    return done


def run(
    race: Race, one: CandidateRecord, plan: Layout, rivals: Field
) -> tuple[Standing, list[float]]:
    """Returns how far a candidate comes, and its fitness after each block."""
    standing, fitness = Standing(), []
    for block, documents in enumerate(plan.search):
        standing = standing.with_part(("search", block), part(one, documents))
        fitness.append(standing.pooled().fitness)
        if block + 1 < len(plan.search) and not race.goes_on(standing, rivals):
            break
    return standing, fitness


def part(one: CandidateRecord, documents: Documents) -> Score:
    """Returns what a candidate scored on some documents."""
    tasks = {}
    for name, places in documents.items():
        values = tuple(one.scores[name].per_document[place] for place in places)
        tasks[name] = TaskScore(
            value=math.fsum(values) / len(values),
            stderr=None,
            documents=len(values),
            weight=one.scores[name].weight,
            per_document=values,
        )
    return pool([Score(fitness=sum(t.weight * t.value for t in tasks.values()), tasks=tasks)])


def against(parts: Parts, best: CandidateRecord) -> Callable[[CandidateRecord], float]:
    """Returns a function that compares candidates with the best on the test rows."""
    worker = parts.worker_settings().open("benchmark")
    scores: dict[str, Score] = {}

    def score(one: CandidateRecord) -> Score:
        if one.id not in scores:
            recipe = MergeRecipe.from_dict(one.recipe)
            outcome = worker.run(Job(candidate=one.id, attempt=1, rows="test", recipe=recipe))
            assert isinstance(outcome, Scored), outcome
            scores[one.id] = outcome.score
        return scores[one.id]

    return lambda one: permutation_p(score(one), score(best))


def permutation_p(ours: Score, theirs: Score) -> float:
    """Returns how often swapping both models' answers at random gives no larger a lead."""
    rng = np.random.default_rng(0)
    lead, draws = 0.0, np.zeros(DRAWS)
    for name, task in ours.tasks.items():
        differences = np.subtract(task.per_document, theirs.tasks[name].per_document)
        each = task.weight * differences / len(differences)
        lead += float(each.sum())
        draws += rng.choice([-1.0, 1.0], size=(DRAWS, len(each))) @ each
    return float((np.sum(draws <= lead + 1e-12) + 1) / (DRAWS + 1))


def print_header(name: str, born: Mapping[str, Sequence[CandidateRecord]], tested: bool) -> None:
    """Prints what is replayed, and the head of the table."""
    best = max(born["search"], key=rank)
    counts = ", ".join(f"{len(ones)} of the {role}" for role, ones in born.items())
    print(f"{name}: {counts}; full measurement ends at {best.id}, {best.fitness:.4f}\n")
    columns = [
        *born,
        "together",
        "same final",
        "fitness given up",
        *(["least p"] if tested else []),
    ]
    print("| race | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))


def print_line(
    race: Any,
    replays: Sequence[Mapping[str, Replay]],
    best: CandidateRecord,
    p_value: Callable[[CandidateRecord], float] | None,
) -> None:
    """Prints a race's line of the table."""
    shares = [
        statistics.mean(one[role].spent / one[role].full for one in replays) for role in replays[0]
    ]
    together = statistics.mean(
        sum(one.spent for one in roles.values()) / sum(one.full for one in roles.values())
        for roles in replays
    )
    ends = [one["search"].best for one in replays]
    assert best.fitness is not None
    cells = [f"{share:.3f}" for share in [*shares, together]]
    cells.append(f"{sum(one.id == best.id for one in ends)}/{len(ends)}")
    cells.append(f"{max(best.fitness - (one.fitness or 0.0) for one in ends):.4f}")
    if p_value is not None:
        cells.append(f"{min(p_value(one) for one in ends):.2f}")
    print(f"| {described(race)} | " + " | ".join(cells) + " |", flush=True)


def described(race: Any) -> str:
    """Returns a race's kind, and the settings that are not the defaults."""
    return type(race).__name__ + "".join(f" {name}={value}" for name, value in _changed(race))


def _changed(race: Any) -> Iterator[tuple[str, Any]]:
    for one in dataclasses.fields(race):
        value = getattr(race, one.name)
        usual = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
        if value != usual:
            yield one.name, value


if __name__ == "__main__":
    main()

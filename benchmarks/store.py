"""What the population database costs, beside Optuna's storages in the same run.

    pip install optuna
    python benchmarks/store.py [--folder DIR] [--candidates 1000000] [--json FILE]

A lifecycle is what a candidate goes through: proposed (50 genes, recipe, parents), handed out,
measured, scored on one task of 1,000 documents with the log-likelihoods of their right answers;
each outcome is on the disk before the next step is taken. The candidates' genomes are drawn outside
the timed parts; for Optuna, which draws them itself, its plain random sampler does. Rates depend on
the machine and its neighbours: compare within a run.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.base import Score, TaskScore
from evaluators.documents import quantise
from orchestrator.algorithms.genetic import Genetic
from orchestrator.campaign.state import Campaign, Candidate, Limits
from orchestrator.loop import Driver
from orchestrator.spaces.genes import Genome, reals
from orchestrator.storage.base import Begun, NewCampaign, Taken, Turn
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from workers.job import Job, Outcome, Scored
from workers.recipe import MergeRecipe, Setting, Slice

GENES = 50
DOCUMENTS = 1000
FILTERS = ("self_attn", "mlp", "norm", "embed_tokens", None)
NEW = NewCampaign(
    settings={},
    search_settings={"search": {}},
    seed=1,
    versions={"lm_eval": "0.4.13"},
)
RNG = np.random.default_rng(0)


def recipe_of(genome: Sequence[float]) -> MergeRecipe:
    """A merge of two models: a weight for each, in 5 groups of layers and 5 kinds of modules."""
    genes = iter(genome)
    slices = tuple(
        Slice(
            start=6 * group,
            stop=6 * group + 6,
            settings=tuple(
                Setting(filter=module, values={"weight": (next(genes), next(genes))})
                for module in FILTERS
            ),
        )
        for group in range(GENES // 2 // len(FILTERS))
    )
    return MergeRecipe(
        method="task_arithmetic",
        sources=("models/arithmetic", "models/japanese"),
        base="models/base",
        slices=slices,
        dtype="bfloat16",
        seed=1,
    )


@dataclass(frozen=True)
class Space:
    """50 genes and their recipes; nothing is ever built from them."""

    builder: Any = None
    references: tuple[()] = ()
    revisions: dict[str, str] = field(default_factory=dict)

    genes = reals(
        tuple(f"weight {index}" for index in range(GENES)), (-0.5,) * GENES, (1.5,) * GENES
    )

    def decode(self, genome: Genome) -> MergeRecipe:
        return recipe_of(genome)

    def describe(self) -> dict[str, Any]:
        return {}


#: Per-document results of 64 models.
RESULTS = [tuple(RNG.integers(0, 2, DOCUMENTS).astype(float).tolist()) for _ in range(64)]
#: Log-likelihoods of their right answers: of a few tokens, spread over four powers of ten.
LOG_LIKELIHOODS = [quantise((-RNG.exponential(8.0, DOCUMENTS)).tolist()) for _ in range(64)]


def scored(job: Job) -> Scored:
    """An outcome with 1,000 results of documents, and log-likelihoods of their right answers."""
    model = hash(job.candidate) % len(RESULTS)
    results = RESULTS[model]
    value = sum(results) / DOCUMENTS + float(RNG.integers(0, 100)) / DOCUMENTS
    task = TaskScore(
        value=value,
        stderr=0.0158,
        documents=DOCUMENTS,
        per_document=results,
        log_likelihoods=LOG_LIKELIHOODS[model],
    )
    return Scored(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        score=Score(fitness=value, tasks={"gsm8k": task}),
        seconds=41.5,
        worker="ray-3",
        node="node-17/3f2a9c01",
        device="NVIDIA H100 80GB HBM3",
    )


class Filler:
    """Writes lifecycles straight into a store, turn by turn.

    With `fresh` every recipe is a new one, whose JSON must be made; else they come from a pool.
    """

    def __init__(self, store: SqlStore, *, fresh: bool = True) -> None:
        self.store = store
        self.number = 0
        self._fresh = fresh
        self._running: list[Job] = []
        genomes = RNG.uniform(-0.5, 1.5, (2000, GENES)).tolist()
        self._pool = [(tuple(genome), recipe_of(genome)) for genome in genomes]

    def turns(self, num: int, size: int) -> Iterator[Turn]:
        """Yields turns that end the jobs of the last one and begin `size` new ones."""
        for _ in range(num):
            born = [self.candidate() for _ in range(size)]
            jobs = [
                Job(candidate=one.id, attempt=1, rows="search", recipe=one.recipe) for one in born
            ]
            taken = [Taken(outcome=scored(job), final=True) for job in self._running]
            begun = [Begun(job=job, lease_until=0.0, evaluation=os.urandom(16)) for job in jobs]
            self._running = jobs
            generation = self.number // 64
            yield Turn(
                elapsed_s=1.0, generation=generation, candidates=born, taken=taken, begun=begun
            )

    def fill(self, total: int, size: int = 512) -> None:
        """Writes until the store has so many candidates."""
        while self.number < total:
            for turn in self.turns(1, min(size, total - self.number)):
                self.store.write(turn)

    def cost_s(self, num: int, size: int) -> list[float]:
        """Returns the seconds a lifecycle of each turn; making the turn is not counted."""
        costs = []
        for turn in self.turns(num, size):
            started = time.perf_counter()
            self.store.write(turn)
            costs.append((time.perf_counter() - started) / size)
        return costs

    def candidate(self) -> Candidate:
        """Draws the next candidate."""
        genome, recipe = self._pool[int(RNG.integers(len(self._pool)))]
        recipe = recipe_of(genome) if self._fresh else recipe
        self.number += 1
        number = self.number
        parents = (f"s{number - 64}", f"s{number - 100}") if number > 100 else ()
        return Candidate(
            id=f"s{number}", role="search", number=number, generation=1 + number // 64,
            genome=genome, recipe=recipe, parents=parents, operator="sbx+polynomial",
        )  # fmt: skip


def open_store(path: Path) -> SqlStore:
    """A store with a new campaign, or the campaign that is in it."""
    store = SqlStore(str(path), "bench")
    if store.load() is None:
        store.create(NEW)
    else:
        store.reopen({})
    return store


# One evaluator, every outcome durable.


def durable(folder: Path, num: int) -> float:
    """Returns lifecycles per second with one evaluator: a transaction each, synced to the disk."""
    with closing(open_store(folder / "durable.db")) as store:
        filler = Filler(store)
        filler.cost_s(50, 1)
        return 1 / statistics.fmean(filler.cost_s(num, 1))


# Many evaluators: the driver itself.


@dataclass
class Crowd:
    """Simulated evaluators whose jobs take exponentially distributed times (an `Executor`)."""

    slots: int
    mean_s: float
    end_after: int
    #: Whether the end is an exception, which stands for a crash.
    raises: bool = True
    #: Seconds from the moment an evaluator was free to its next job, one a claim.
    claims_s: list[float] = field(default_factory=list)
    _ready: list[tuple[float, str, Job]] = field(default_factory=list)
    _free: list[float] = field(default_factory=list)
    ended: int = 0

    def submit(self, job: Job) -> None:
        now = time.perf_counter()
        if self._free:
            self.claims_s.append(now - self._free.pop(0))
        due = now + (float(RNG.exponential(self.mean_s)) if self.mean_s else 0.0)
        heapq.heappush(self._ready, (due, job.candidate, job))

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        if self.raises and self.ended >= self.end_after:
            raise Ended
        wait = self._ready[0][0] - time.perf_counter() if self._ready else timeout_s
        if wait > 0:
            time.sleep(min(wait, timeout_s))
        found: list[Outcome] = []
        now = time.perf_counter()
        while self._ready and self._ready[0][0] <= now:
            due, _, job = heapq.heappop(self._ready)
            self._free.append(due)
            found.append(scored(job))
        self.ended += len(found)
        return found

    def close(self) -> None:
        pass


class Ended(Exception):  # noqa: N818  (no error: enough was seen)
    """The measured stretch is over; stands for a crash."""


class Silent:
    """Shows nothing (a `Listener`)."""

    def on_start(self, state: Any, resumed: int) -> None: ...
    def on_workers(self, slots: int) -> None: ...
    def on_outcome(self, state: Any, outcome: Any, *, final: bool) -> None: ...
    def on_interrupt(self, in_flight: int) -> None: ...


def drive(store: SqlStore, executor: Any, *, snapshots: bool = True) -> None:
    """Runs a campaign of 50 genes until the executor ends it."""
    campaign = Campaign(
        space=Space(),
        algorithm=Genetic(population_size=128, mode="async"),
        seed=1,
        limits=Limits(evaluations=2**30),
    )
    driver = Driver(
        campaign,
        store,
        lambda: executor,
        Silent(),
        identify=lambda job: bytes.fromhex(job.recipe.digest()),
        snapshot_every=256 if snapshots else 2**30,
    )
    try:
        driver.run()
    except Ended:
        return


def served(folder: Path, num: int, mean_s: float) -> dict[str, float]:
    """Returns rate and claim times of the store alone under 64 evaluators, without a search.

    What it records was drawn before: proposals, claims and outcomes are what it is given.
    """
    with closing(open_store(folder / f"served-{mean_s}.db")) as store:
        filler = Filler(store)
        waiting = [filler.candidate() for _ in range(num + 256)][::-1]  # the first comes first
        executor = Crowd(64, mean_s, num, raises=False)
        outcomes: list[Outcome] = []
        started = time.perf_counter()
        while executor.ended < num:
            born = [waiting.pop() for _ in range(len(outcomes) or 64)]
            jobs = [
                Job(candidate=one.id, attempt=1, rows="search", recipe=one.recipe) for one in born
            ]
            taken = [Taken(outcome=one, final=True) for one in outcomes]
            begun = [Begun(job=job, lease_until=0.0, evaluation=os.urandom(16)) for job in jobs]
            store.write(Turn(generation=1, candidates=born, taken=taken, begun=begun))
            for job in jobs:
                executor.submit(job)
            outcomes = executor.outcomes(1.0)
        rate = executor.ended / (time.perf_counter() - started)
    return {"rate": rate, **percentiles(executor)}


def percentiles(executor: Crowd) -> dict[str, float]:
    """Returns how long evaluators waited for their next job."""
    claims = np.array(executor.claims_s[64:]) * 1000
    return {
        "p50_ms": float(np.percentile(claims, 50)),
        "p99_ms": float(np.percentile(claims, 99)),
        "max_ms": float(claims.max()),
    }


def crowd(folder: Path, num: int, mean_s: float) -> dict[str, float]:
    """Returns rate and claim times of a driver with 64 evaluators, its own search included."""
    with closing(open_store(folder / f"crowd-{mean_s}.db")) as store:
        executor = Crowd(64, mean_s, num)
        started = time.perf_counter()
        drive(store, executor)
        rate = executor.ended / (time.perf_counter() - started)
    return {"rate": rate, **percentiles(executor)}


def grouped(folder: Path, num: int) -> tuple[float, float]:
    """Returns the store's own lifecycles per second in turns of 64, and the p99 of a turn, in s."""
    with closing(open_store(folder / "grouped.db")) as store:
        filler = Filler(store)
        filler.cost_s(10, 64)
        costs = filler.cost_s(num // 64, 64)
        return 1 / statistics.fmean(costs), float(np.percentile(costs, 99)) * 64


# Size.


def resume_s(folder: Path, num: int, *, snapshots: bool) -> float:
    """Returns the seconds from opening the store to the first job of a resumed campaign."""
    path = folder / f"resume-{num}.db"
    if not path.exists():
        with closing(open_store(path)) as store:
            drive(store, Crowd(64, 0.0, num))
    if not snapshots:
        import sqlite3

        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DELETE FROM snapshot")
            connection.commit()

    class First(Crowd):
        def submit(self, job: Job) -> None:
            raise Ended

    started = time.perf_counter()
    with closing(open_store(path)) as store:
        drive(store, First(64, 0.0, 1), snapshots=snapshots)
        return time.perf_counter() - started


def grow(folder: Path, total: int) -> dict[str, float]:
    """Fills a store and returns what a lifecycle, `status` and `best` cost there, and the bytes.

    Turns on the large store and on one of 1,000 candidates are timed in turn.
    """
    path = folder / "grow.db"
    with closing(open_store(path)) as large, closing(open_store(folder / "small.db")) as small:
        fillers = {"large": Filler(large, fresh=False), "small": Filler(small, fresh=False)}
        started = time.perf_counter()
        fillers["large"].fill(total)
        found = {"filled_s": time.perf_counter() - started}
        fillers["small"].fill(1000)
        costs: dict[str, list[float]] = {"large": [], "small": []}
        for _ in range(40):
            for name, filler in fillers.items():
                costs[name] += filler.cost_s(2, 64)
        for name, seen in costs.items():
            found[f"{name}_us"] = statistics.fmean(seen) * 1e6
            found[f"{name}_median_us"] = statistics.median(seen) * 1e6
        found["status_s"] = timed(lambda: Reader(str(path)).status("bench"))
        found["best_s"] = timed(lambda: Reader(str(path)).best("bench", 10))
        found["candidates"] = fillers["large"].number
    size = path.stat().st_size
    return {**found, "bytes": size / found["candidates"]}


def timed(work: Callable[[], Any]) -> float:
    """Returns the seconds that something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Prints one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (a temporary one)")
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--skip-optuna", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        found = measure(Path(name), arguments.candidates, optuna=not arguments.skip_optuna)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


Note = Callable[[str, float, str], None]


def measure(folder: Path, total: int, *, optuna: bool) -> dict[str, float]:
    """Takes every measurement, in an order that keeps comparisons close in time."""
    found: dict[str, float] = {}

    def note(key: str, value: float, text: str) -> None:
        found[key] = value
        print(f"{text:<72} {value:,.4g}", flush=True)

    rates(folder, note, optuna=optuna)
    for label, mean_s in (("always ready", 0.0), ("mean 10 ms", 0.01)):
        for key, value in served(folder, 20_000, mean_s).items():
            note(f"served_{mean_s}_{key}", value, f"store alone, 64 evaluators {label}: {key}")
    for label, mean_s in (("always ready", 0.0), ("mean 25 ms", 0.025)):
        for key, value in crowd(folder, 20_000, mean_s).items():
            note(f"crowd_{mean_s}_{key}", value, f"whole driver, 64 evaluators {label}: {key}")
    for num in (10_000, 100_000):
        note(f"resume_{num}", resume_s(folder, num, snapshots=True), f"open and resume {num:,}, s")
    note("replay_10000", resume_s(folder, 10_000, snapshots=False), "  10,000 with no snapshot, s")
    for key, value in grow(folder, total).items():
        note(f"grow_{key}", value, f"{total:,} candidates: {key}")
    note("growth", found["grow_large_us"] / found["grow_small_us"], "  cost over that at 1,000")
    return found


def rates(folder: Path, note: Note, *, optuna: bool) -> None:
    """Measures lifecycles per second, ours before and after Optuna's."""
    before, peers = durable(folder, 500), {}
    if optuna:
        import optuna_peer

        peers = optuna_peer.rates(folder, GENES, 100)
        for name, rate in peers.items():
            note(f"optuna_{name}", rate, f"Optuna {name} storage, 1 worker, trials/s")
    (folder / "durable.db").unlink()
    rate = (before + durable(folder, 500)) / 2
    note("durable", rate, "1 evaluator, durable at each outcome, lifecycles/s")
    for name, peer in peers.items():
        note(f"durable_over_{name}", rate / peer, f"  times Optuna's {name} storage")
    rate, p99_s = grouped(folder, 12_800)
    note("grouped", rate, "turns of 64, the store alone, lifecycles/s")
    note("grouped_p99", p99_s * 1000, "  p99 of a turn, ms")
    if optuna:
        rate, errors = optuna_peer.crowd(folder, GENES, 64, 20.0)
        note("optuna_crowd", rate, "Optuna RDB storage, 64 threads, trials/s")
        note("optuna_crowd_errors", errors, "  trials lost to errors")


if __name__ == "__main__":
    main()

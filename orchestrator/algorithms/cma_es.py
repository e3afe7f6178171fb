"""CMA-ES (Hansen & Ostermeier 2001; Hansen 2016, https://arxiv.org/abs/1604.00772), by pycma.

With active and, above 200 coordinates, diagonal covariance (Ros & Hansen 2008); restarts with twice
the population (IPOP: Auger & Hansen 2005) or two regimes (BIPOP: Hansen 2009,
https://doi.org/10.1145/1570256.1570333).

Its distribution follows from what it was told, in order, and is computed again from that where this
process does not have it; see `orchestrator.algorithms.cma_es_run` for how genomes become vectors.

Deviations: only ranks count, which `Evaluated.rank` gives, so that races, constraints and ties are
treated as everywhere; the failed are ranked last; where a restart begins and how its size is drawn
follows from what was told before. In `async` mode the distribution is updated whenever as many
outcomes have come as a generation has, whichever distribution they were sampled from: pycma limits
the length of steps that it would hardly have sampled itself. Populations do not grow there.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Interval

from orchestrator.algorithms.base import Evaluated, Memory, Proposal, ranked
from orchestrator.algorithms.cma_es_run import Runs, RunSettings, Told, default_size, pycma
from orchestrator.spaces.genes import Genes, Genome

#: Told candidates of a part of the memory, so that telling costs the same however many there are.
_PART = 512
#: Searches whose distributions a process keeps at hand.
_MAX_CACHED = 16
#: Genes of a usual space, for estimates where the population's size follows from them.
_USUAL = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CmaEs:
    """Learns a normal distribution over the space; ranks alone decide."""

    #: Candidates of a generation; null takes 4 + 3 ln n of n coordinates.
    population_size: Annotated[int, Ge(3)] | None = None
    #: First standard deviation as a share of each gene's range.
    sigma: Annotated[float, Interval(gt=0, le=1)] = 1 / 6
    #: Where it begins: at the space's known start (else the center), the center, or the best of a
    #: random generation.
    start: Literal["space", "center", "random"] = "space"
    #: Whether genes' dependences are learned, too: `auto` does up to 200 coordinates.
    covariance: Literal["auto", "full", "diagonal"] = "auto"
    #: How it goes on where it stagnates: not at all, with twice the population, or that and small
    #: populations in turn.
    restarts: Literal["none", "ipop", "bipop"] = "ipop"
    #: `async` waits for no generation; needs a population_size.
    mode: Literal["generational", "async"] = "generational"

    def __post_init__(self) -> None:
        if self.asynchronous and self.population_size is None:
            raise ValueError(
                "population_size: expected a number in mode 'async', which keeps as many "
                "candidates open, got null"
            )

    def check(self, genes: Genes) -> None:
        """Refuses genes that have no optimum of their own.

        Raises:
            ValueError: saying so, or that pycma is not installed.
        """
        pycma()
        if genes.founders:
            raise ValueError(
                "kind: 'cma_es' needs genes that say what a model is, but in this space they say "
                "how two parents are crossed; use genetic or natural_niches"
            )

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Samples a generation of the present run."""
        runs = _CACHE.runs(self._settings, genes, memory)
        return self._proposals(runs.ask(rng, runs.size))

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Adds what was told to the history; keeps the newest generation at hand, best first."""
        log = _Log(memory)
        log.gather(sorted(evaluated, key=lambda one: one.number))
        size = self.population_size if self.asynchronous else None
        while log.waiting and (size is None or len(log.waiting) >= size):
            log.close(log.waiting[:size])
        return log.memory()

    @property
    def asynchronous(self) -> bool:
        """Whether it needs no generations."""
        return self.mode == "async"

    def ask_one(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Samples one more of the present distribution."""
        return self._proposals(_CACHE.runs(self._settings, genes, memory).ask(rng, 1))[0]

    def size(self, generation: int) -> int:
        """That of the first run; restarts have larger ones."""
        del generation
        return self.population_size or default_size(_USUAL)

    @property
    def _settings(self) -> RunSettings:
        return RunSettings(
            population_size=self.population_size,
            sigma=self.sigma,
            start=self.start,
            covariance=self.covariance,
            restarts=self.restarts,
            grows=not self.asynchronous,
        )

    def _proposals(self, genomes: Sequence[Genome]) -> list[Proposal]:
        return [Proposal(genome=genome, operator="cma_es") for genome in genomes]


@dataclass(slots=True)
class _Log:
    """All that was told, in the order of telling, as parts of a memory."""

    sealed: tuple[Memory, ...]
    known: tuple[Evaluated, ...]
    #: For each update of the distribution: numbers (best first), best, median, digest.
    told: list[Any]
    #: Numbers of those of the last part that no update has used.
    waiting: list[int]
    digest: str
    newest: tuple[Evaluated, ...]

    def __init__(self, memory: Memory) -> None:
        last = memory.parts[-1] if memory.parts else Memory(state={"told": []})
        self.sealed, self.known = memory.parts[:-1], last.members
        self.told, self.newest = list(last.state["told"]), memory.members
        self.waiting = list(memory.state.get("waiting", ()))
        self.digest = memory.state.get("digest", "0")

    def gather(self, evaluated: Sequence[Evaluated]) -> None:
        """Notes what was told; no update has used it yet."""
        self.known += tuple(evaluated)
        self.waiting += [one.number for one in evaluated]

    def close(self, numbers: Sequence[int]) -> None:
        """Notes that the distribution is updated by some of those that wait."""
        by_number = {one.number: one for one in self.known}
        used = sorted((by_number[number] for number in numbers), key=_worth, reverse=True)
        measured = ranked(used)
        self.newest = tuple(measured)
        record: list[Any] = [[one.number for one in used], None, None, True]
        if measured:
            record[3] = measured[0].violation == 0
            worth = [one.fitness if record[3] else -one.violation for one in measured]
            record[1:3] = worth[0], statistics.median_low([one for one in worth if one is not None])
        seen = hashlib.blake2b(f"{self.digest} {record}".encode(), digest_size=8)
        for one in used:
            seen.update(np.asarray(one.genome).tobytes())
        self.digest = seen.hexdigest()
        self.told.append([*record, self.digest])
        self.waiting = self.waiting[len(numbers) :]

    def memory(self) -> Memory:
        """Returns the log as a memory."""
        state = {"digest": self.digest, "waiting": self.waiting}
        parts = (*self.sealed, Memory(self.known, {"told": self.told}))
        if len(self.known) >= _PART and not self.waiting:
            parts = (*parts, Memory(state={"told": []}))
        return Memory(self.newest, state, parts)


def _worth(one: Evaluated) -> tuple[bool, tuple[bool, float, float, float, int]]:
    """Sorts all that was told: who could not be measured is below all that could be."""
    return (one.fitness is not None, one.rank)


def _newest_first(memory: Memory) -> Iterator[Told]:
    """Yields the updates of a memory, the last one first."""
    for part in reversed(memory.parts):
        genomes = {one.number: one.genome for one in part.members}
        for numbers, best, median, feasible, digest in reversed(part.state["told"]):
            yield Told(
                numbers=tuple(numbers),
                genomes=tuple(genomes[number] for number in numbers),
                best=best,
                median=median,
                feasible=feasible,
                digest=digest,
            )


class _Cache:
    """Runs that this process has computed; they are what their memories say, or are not used."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[RunSettings, str], Runs] = OrderedDict()

    def runs(self, settings: RunSettings, genes: Genes, memory: Memory) -> Runs:
        """Returns the runs that have been told what the memory holds, and no more."""
        wanted = memory.state.get("digest", "0")
        runs, missing = self._take(settings, genes, wanted), list[Told]()
        for told in () if runs is not None else _newest_first(memory):
            if (runs := self._take(settings, genes, told.digest)) is not None:
                break
            missing.append(told)
        if runs is None:
            runs = Runs(genes, settings)
        for told in reversed(missing):
            runs.tell(told)
        self._runs[settings, wanted] = runs
        while len(self._runs) > _MAX_CACHED:
            self._runs.popitem(last=False)
        return runs

    def _take(self, settings: RunSettings, genes: Genes, digest: str) -> Runs | None:
        """Takes runs out: telling them more makes them those of another memory."""
        runs = self._runs.get((settings, digest))
        if runs is None or not (runs.genes is genes or runs.genes == genes):
            return None
        return self._runs.pop((settings, digest))


_CACHE = _Cache()

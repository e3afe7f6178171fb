"""Several algorithms share one budget, by what each has earned (adaptive probability matching).

After Fialho et al. 2010 (https://doi.org/10.1007/s10472-010-9213-y), with algorithms in place of
operators: what a candidate is better by than the best known before it is a gain, and an algorithm
earns by the ranks of its gains among all of late (sum of ranks), so that many tiny ones are worth
less than a few large ones, on whatever scale. Its share of the next candidates is a power of what
it earned per candidate: most of the budget is to be spent by whoever is best at present. All keep a
share, so that one that is good at the end is there then, and hardly less than the others while it
is on `trial`: who learns slowly may come to be the fastest.

Those that can do without generations run so, since their shares change; the others are told once as
many outcomes have come as their generation has. Each is told of its own candidates and, if it has
no generations, of whatever another found that was the best so far. Telling nobody of the others
was worse on ill-conditioned functions, telling everyone everything was no better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Interval

from orchestrator.algorithms.base import (
    Algorithm,
    Evaluated,
    Memory,
    Proposal,
    as_asynchronous,
    check_genes,
    check_objectives,
    ranked,
    remarks_on_objectives,
)
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.genetic import Genetic
from orchestrator.operators.crossover import Uniform
from orchestrator.operators.mutation import Flip
from orchestrator.spaces.genes import Genes

#: What a gain is worth of the next greater one.
_DECAY = 0.8
#: Share of the candidates that is dealt out evenly while any algorithm is on trial.
_EVEN_ON_TRIAL = 0.8
#: How much more than in proportion those get who earn more.
_POWER = 2.0
#: Earned by everyone before anything is known, and the candidates that it was earned with.
_PRIOR = (0.5, 2.0)
#: Which algorithm proposed a candidate, at the end of its operator.
_MARK = re.compile(r"@of(\d+)$")


def _usual() -> tuple[Algorithm, ...]:
    by_genes = Genetic(population_size=16, crossover=Uniform(), mutation=Flip())
    return (CmaEs(population_size=12), by_genes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Portfolio:
    """Gives each of several algorithms the share of candidates that it has earned."""

    #: Candidates of a generation; in mode `async`, candidates that are open at any time. Also the
    #: population of those algorithms that name none.
    population_size: Annotated[int, Ge(2)] = 16
    #: Among whom candidates are shared out.
    algorithms: tuple[Algorithm, ...] = field(default_factory=_usual)
    #: Candidates over which what was earned is forgotten.
    window: Annotated[int, Ge(1)] = 100
    #: Candidates of its own after which an algorithm can fall far behind.
    trial: Annotated[int, Ge(0)] = 300
    #: Share of the candidates that is dealt out evenly, whatever was earned.
    even: Annotated[float, Interval(ge=0, le=1)] = 0.2
    #: `async` waits for no generation.
    mode: Literal["generational", "async"] = "generational"

    def __post_init__(self) -> None:
        if len(self.algorithms) < 2:
            raise ValueError(
                f"algorithms: expected two or more to choose among, got {len(self.algorithms)}"
            )
        self._arms  # noqa: B018  (makes them once, to see what they say)

    def check(self, genes: Genes) -> None:
        """Lets each algorithm refuse genes that it cannot search."""
        for at, arm in enumerate(self._arms):
            try:
                check_genes(arm, genes)
            except ValueError as error:
                raise ValueError(f"algorithms.{at}.{error}") from error

    def check_objectives(self, names: Sequence[str]) -> None:
        """Lets each algorithm refuse objectives that it cannot use."""
        for at, arm in enumerate(self._arms):
            try:
                check_objectives(arm, names)
            except ValueError as error:
                raise ValueError(f"algorithms.{at}.{error}") from error

    def remarks_on_objectives(self, kind: str, names: Sequence[str]) -> list[str]:
        """Says of each algorithm which objectives are without effect on it."""
        return [
            f"algorithms.{at}: {remark.removeprefix('search: ')}"
            for at, arm in enumerate(self._arms)
            for remark in remarks_on_objectives(arm, kind, names)
        ]

    @property
    def needs_answers(self) -> bool:
        """Whether any algorithm wants to know what each document scored."""
        return any(getattr(arm, "needs_answers", False) for arm in self.algorithms)

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Returns as many proposals of each algorithm as it has earned."""
        parts, shares = self._parts(memory), self._shares(memory)
        found, left = list[Proposal](), list(range(len(parts)))
        given = [len(part.members) for part in parts]
        while len(found) < self.population_size and left:
            dealt = _dealt(shares, left, self.population_size - len(found), rng)
            left = []
            for at, num in dealt:
                ours = _some(self._arms[at], genes, parts[at], given[at], num, rng)
                found += [_marked(one, at) for one in ours]
                given[at] += len(ours)
                if len(ours) == num:
                    left.append(at)
        return found

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Tells each algorithm of its own and of the best, and books what it earned."""
        told = sorted(evaluated, key=lambda one: one.number)
        known = memory.members[0] if memory.members else None
        best = max(ranked([*memory.members, *told])[:1], key=lambda one: one.rank, default=None)
        news = best if best is not known else None
        parts = list(self._parts(memory))
        for at, arm in enumerate(self._arms):
            ours = [
                replace(one, operator=_MARK.sub("", one.operator))
                for one in told
                if _maker(one) in (None, at) or (one is news and as_asynchronous(arm) is not None)
            ]
            parts[at] = _tell(arm, parts[at], ours)
        state = self._booked(memory, told, known)
        return Memory(() if best is None else (best,), state, tuple(parts))

    @property
    def asynchronous(self) -> bool:
        """Whether each outcome brings the next proposal."""
        return self.mode == "async"

    def ask_one(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Returns one proposal of an algorithm drawn by the shares."""
        parts, shares = self._parts(memory), self._shares(memory)
        for at in rng.choice(len(parts), len(parts), replace=False, p=shares):
            ours = _some(self._arms[at], genes, parts[at], len(parts[at].members), 1, rng)
            if ours:
                return _marked(ours[0], int(at))
        return Proposal(genome=genes.sample(rng, 1)[0], operator="sample")

    def size(self, generation: int) -> int:
        """Always the same."""
        del generation
        return self.population_size

    @property
    def _arms(self) -> tuple[Algorithm, ...]:
        return tuple(_steady(one, self.population_size) for one in self.algorithms)

    def _parts(self, memory: Memory) -> tuple[Memory, ...]:
        """Returns of each algorithm what waits to be told to it and, within that, its memory."""
        return memory.parts or tuple(Memory(parts=(Memory(),)) for _ in self.algorithms)

    def _shares(self, memory: Memory) -> list[float]:
        num = len(self.algorithms)
        told, spent = (memory.state.get(name, [0.0] * num) for name in ("told", "spent"))
        credit = [0.0] * num
        gains = sorted(memory.state.get("gains", ()), key=lambda gain: -gain[-1])
        for rank, (_, at, _) in enumerate(gains):
            credit[at] += _DECAY**rank
        worth = [
            ((one + _PRIOR[0]) / (cost + _PRIOR[1])) ** _POWER
            for one, cost in zip(credit, spent, strict=True)
        ]
        even = self.even if min(told) >= self.trial else max(self.even, _EVEN_ON_TRIAL)
        return [even / num + (1 - even) * one / sum(worth) for one in worth]

    def _booked(
        self, memory: Memory, evaluated: Sequence[Evaluated], known: Evaluated | None
    ) -> dict[str, Any]:
        """Returns the gains of late, with their makers, and what each spent, of late and ever."""
        none, makers = [0.0] * len(self.algorithms), [_maker(one) for one in evaluated]
        fading = (1 - 1 / self.window) ** len(evaluated)
        spent, told = (memory.state.get(name, none) for name in ("spent", "told"))
        now = memory.state.get("now", 0) + len(evaluated)
        gains = [
            *(gain for gain in memory.state.get("gains", ()) if gain[0] > now - self.window),
            *(
                [now, maker, _gain(one, known)]
                for one, maker in zip(evaluated, makers, strict=True)
                if known is not None and maker is not None and _is_better(one, known)
            ),
        ]
        return {
            "now": now,
            "gains": gains,
            "spent": [fading * old + makers.count(at) for at, old in enumerate(spent)],
            "told": [old + makers.count(at) for at, old in enumerate(told)],
        }


def _is_better(one: Evaluated, known: Evaluated) -> bool:
    return one.fitness is not None and one.worth > known.worth


def _gain(one: Evaluated, known: Evaluated) -> float:
    """Returns by how much one is better, in whatever it is that decides."""
    pairs = zip(one.worth, known.worth, strict=True)
    return next(float(ours) - float(theirs) for ours, theirs in pairs if ours != theirs)


def _steady(arm: Algorithm, population_size: int) -> Algorithm:
    """Returns the algorithm, set to run without generations if it can."""
    if not hasattr(arm, "ask_one") or as_asynchronous(arm) is not None:
        return arm
    settings: Any = arm
    size = settings.population_size or population_size
    steady: Algorithm = replace(settings, mode="async", population_size=size)
    return steady


def _own(part: Memory) -> Memory:
    return part.parts[0]


def _tell(arm: Algorithm, part: Memory, ours: Sequence[Evaluated]) -> Memory:
    """Tells an algorithm, or lets outcomes wait until its generation is whole."""
    if not ours:
        return part
    waiting, generation = (*part.members, *ours), part.state.get("generation", 1)
    if as_asynchronous(arm) is None and len(waiting) < arm.size(generation):
        return replace(part, members=waiting)
    own = arm.tell(_own(part), sorted(waiting, key=lambda one: one.number))
    return Memory((), {"generation": generation + 1}, (own,))


def _some(
    arm: Algorithm,
    genes: Genes,
    part: Memory,
    given: int,
    num: int,
    rng: np.random.Generator,
) -> list[Proposal]:
    """Returns so many proposals of an algorithm, at most what its generation still lacks."""
    steady = as_asynchronous(arm)
    if steady is not None:
        return [steady.ask_one(genes, _own(part), rng) for _ in range(num)]
    return arm.ask(genes, _own(part), rng)[given : given + num]


def _dealt(
    shares: Sequence[float], whose: Sequence[int], num: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Deals candidates out by shares; what is left over goes by chance."""
    exact = np.array([shares[at] for at in whose])
    exact *= num / exact.sum()
    counts = np.floor(exact).astype(int)
    left, rest = num - int(counts.sum()), exact - counts
    if left > 0:
        chance = rest + 1e-9
        lucky = rng.choice(len(whose), left, replace=False, p=chance / chance.sum())
        counts[lucky] += 1
    return [(at, int(count)) for at, count in zip(whose, counts, strict=True) if count]


def _marked(proposal: Proposal, at: int) -> Proposal:
    return replace(proposal, operator=f"{proposal.operator}@of{at}")


def _maker(one: Evaluated) -> int | None:
    """Returns which algorithm proposed a candidate; None if nothing says so."""
    found = _MARK.search(one.operator)
    return None if found is None else int(found.group(1))

"""What operators have achieved: how often a child is better than its better parent, by how much."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.measurement.measured import Z95
from orchestrator.operators import naming
from orchestrator.reporting.statistics import Interval, around
from orchestrator.storage.births import Birth


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorStats:
    """What the children of an operator, or of several that made them together, were worth."""

    operator: str
    children: int
    #: Of these, those with a parent whose fitness is known: the others are better than nobody.
    compared: int
    #: Share of the compared that were better than their better parent; None where there are none.
    success_rate: float | None
    #: 95 % interval (Wilson 1927).
    success_interval: Interval | None
    #: Mean of the fitness of children less that of their better parents, of those measured in full.
    mean_gain: float | None
    #: 95 % interval, from the standard error; None of fewer than two.
    gain_interval: Interval | None


#: Measured in full, breaks constraints less, fitter: the better the greater.
_Worth: TypeAlias = tuple[bool, float, float]


@dataclass(slots=True)
class _Tally:
    children: int = 0
    compared: int = 0
    successes: int = 0
    gains: list[float] = field(default_factory=list)


def operator_stats(births: Iterable[Birth]) -> list[OperatorStats]:
    """Returns what each operator achieved, whoever made most children first.

    Children that failed or were stopped by a race are no successes; how far a stopped one is from
    its parent is not known, so that it adds nothing to the gain.

    Args:
        births: Parents before their children.
    """
    tallies: dict[str, _Tally] = {}
    known: dict[str, _Worth] = {}
    for one in births:
        tally = tallies.setdefault(naming.plain(one.operator), _Tally())
        tally.children += 1
        worth = None
        if one.fitness is not None:
            worth = (not one.stopped, -one.violation, one.fitness)
        best = max((known[id_] for id_ in one.parents if id_ in known), default=None)
        if best is not None:
            _compare(tally, worth, best)
        if worth is not None:
            known[one.id] = worth
    found = [_stats(operator, tally) for operator, tally in tallies.items()]
    return sorted(found, key=lambda one: (-one.children, one.operator))


def _compare(tally: _Tally, worth: _Worth | None, best: _Worth) -> None:
    tally.compared += 1
    tally.successes += worth is not None and worth > best
    if worth is not None and worth[0] and best[0]:
        tally.gains.append(worth[2] - best[2])


def _stats(operator: str, tally: _Tally) -> OperatorStats:
    gains, num = tally.gains, len(tally.gains)
    mean = math.fsum(gains) / num if num else None
    stderr = None
    if mean is not None and num > 1:
        squares = math.fsum((gain - mean) ** 2 for gain in gains)
        stderr = math.sqrt(squares / (num - 1) / num)
    return OperatorStats(
        operator=operator,
        children=tally.children,
        compared=tally.compared,
        success_rate=tally.successes / tally.compared if tally.compared else None,
        success_interval=proportion(tally.successes, tally.compared),
        mean_gain=mean,
        gain_interval=None if mean is None else around(mean, stderr),
    )


def proportion(successes: int, trials: int) -> Interval | None:
    """Returns the 95 % interval of a proportion by the score of Wilson (1927)."""
    if not trials:
        return None
    share, squared = successes / trials, Z95 * Z95
    middle = (share + squared / (2 * trials)) / (1 + squared / trials)
    spread = share * (1 - share) / trials + squared / (4 * trials * trials)
    half = Z95 * math.sqrt(spread) / (1 + squared / trials)
    return max(0.0, middle - half), min(1.0, middle + half)

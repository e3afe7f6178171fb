"""Who leaves a population that takes one candidate at a time, and what is remembered of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from orchestrator.algorithms.base import Evaluated, ranked
from orchestrator.operators import naming

#: Candidate -> its worth, and who took its place; the latest last, as JSON can hold it.
Left: TypeAlias = Mapping[str, Sequence[Any]]


def replaced(
    members: Sequence[Evaluated],
    left: Left,
    evaluated: Iterable[Evaluated],
    size: int,
    *,
    niches: bool,
) -> tuple[list[Evaluated], dict[str, Any]]:
    """Returns the members, the best first, and those that left of late.

    The worst leaves, if it is worse than the newcomer, or if this is an immigrant, which is to
    stay for a while. With `niches` a newcomer takes no place but its parent's, or that of who took
    it (Mahfoud 1995): parents are chosen by distance, which is of use only while there are some.
    """
    kept, gone = list(members), dict(left)
    for one in sorted(evaluated, key=lambda one: one.number):
        if one.fitness is None:
            continue
        if len(kept) >= size:
            loser = kept[-1]
            if naming.plain(one.operator) != "immigrant":
                rival = _rival(one, kept, gone) if niches else loser
                loser = min(one, rival, key=lambda either: either.rank)
            if loser is one:
                continue
            kept.remove(loser)
            gone[loser.candidate] = [*loser.worth, one.candidate]
        kept = ranked([*kept, one])
    return kept, {id_: gone[id_] for id_ in list(gone)[-2 * size :]}


def _rival(one: Evaluated, members: Sequence[Evaluated], left: Left) -> Evaluated:
    known = {member.candidate: member for member in members}
    id_ = one.parents[0] if one.parents else ""
    while id_ in left and id_ not in known:
        id_ = left[id_][-1]
    return known.get(id_, members[-1])

"""How candidates came to be, and what became of them: the search's family tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, select

from orchestrator.storage.candidates import SAYS_WORTH
from orchestrator.storage.schema import attempt, candidate, parentage

#: Rows that are held in memory at a time.
_BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """A candidate that has ended, what made it, and of whom."""

    id: str
    operator: str
    parents: tuple[str, ...] = ()
    #: None if it could not be measured.
    fitness: float | None
    #: Whether a race ended it.
    stopped: bool = False
    #: By how much it breaks the constraints.
    violation: float = 0.0


def births(connection: Connection, campaign: int) -> Iterator[Birth]:
    """Yields the search's candidates that have ended, in the order of proposals."""
    query = (
        select(
            candidate.c.id,
            candidate.c.operator,
            parentage.c.parent,
            attempt.c.fitness,
            attempt.c.stopped,
            attempt.c.violation,
        )
        .select_from(
            candidate.join(attempt, SAYS_WORTH).outerjoin(
                parentage,
                and_(
                    parentage.c.campaign == candidate.c.campaign,
                    parentage.c.child == candidate.c.id,
                ),
            )
        )
        .where(candidate.c.campaign == campaign, candidate.c.role == "search")
        .order_by(candidate.c.number, parentage.c.place)
    )
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as rows:
        for _, family in groupby(rows, key=lambda row: row.id):
            yield _birth(list(family))


def _birth(rows: list[Any]) -> Birth:
    first = rows[0]
    return Birth(
        id=first.id,
        operator=first.operator,
        parents=tuple(row.parent for row in rows if row.parent is not None),
        fitness=first.fitness,
        stopped=bool(first.stopped),
        violation=first.violation or 0.0,
    )

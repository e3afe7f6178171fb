"""What a search's algorithm was told, generation by generation, as far as it is known by now."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, select

from orchestrator.algorithms.base import Evaluated
from orchestrator.storage.candidates import SAYS_WORTH
from orchestrator.storage.packing import unpack_genome
from orchestrator.storage.schema import attempt, candidate

#: Rows that are held in memory at a time.
_BATCH = 5_000


def told(connection: Connection, campaign: int) -> Iterator[tuple[int, Evaluated]]:
    """Yields the search's measured candidates with their generations, in the order of proposals.

    What fresh rows said later of a candidate counts from the start.
    """
    query = (
        select(
            candidate.c.id,
            candidate.c.number,
            candidate.c.generation,
            candidate.c.genome,
            attempt.c.fitness,
            attempt.c.stopped,
            attempt.c.tie,
            attempt.c.violation,
            attempt.c.objectives,
        )
        .select_from(candidate.join(attempt, SAYS_WORTH))
        .where(
            candidate.c.campaign == campaign,
            candidate.c.role == "search",
            attempt.c.fitness.is_not(None),
        )
        .order_by(candidate.c.number)
    )
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as rows:
        for row in rows:
            values = () if row.objectives is None else tuple(unpack_genome(row.objectives))
            yield (
                row.generation,
                Evaluated(
                    candidate=row.id,
                    number=row.number,
                    genome=tuple(unpack_genome(row.genome)),
                    fitness=row.fitness,
                    stopped=bool(row.stopped),
                    tie=row.tie,
                    values=values,
                    violation=row.violation or 0.0,
                ),
            )

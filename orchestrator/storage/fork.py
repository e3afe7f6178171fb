"""Gives a new campaign the history of another: its candidates and their outcomes, as they were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, insert, literal, select, update

from orchestrator.storage.base import StoreError
from orchestrator.storage.schema import (
    ACCEPTED,
    GIVEN_UP,
    attempt,
    campaign,
    candidate,
    log,
    parentage,
    score,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """Where a fork leaves its ancestor."""

    ancestor: int
    #: Generation of the last candidates that it has in common.
    generation: int
    #: Number of the last search candidate that it has in common.
    until: int


def find_point(connection: Connection, name: str, generation: int | None) -> ForkPoint:
    """Returns where to fork a campaign: after a generation, or after the last complete one.

    Raises:
        StoreError: if that generation is not complete.
    """
    row = connection.execute(select(campaign).where(campaign.c.name == name)).first()
    assert row is not None, "the ancestor was looked up before"
    asynchronous = json.loads(row.search_settings)["search"].get("mode") == "async"
    complete = row.generation
    if not asynchronous and _num_waiting(connection, row.id, row.generation):
        complete -= 1
    if generation is not None and asynchronous:
        raise StoreError(
            f"campaign {name!r} is asynchronous: its generations overlap, so that there is none "
            "to go back to; fork it without --from-generation"
        )
    if generation is not None and not 0 <= generation <= complete:
        raise StoreError(
            f"campaign {name!r} has no complete generation {generation}; the last one is {complete}"
        )
    chosen = complete if generation is None else generation
    last = select(func.coalesce(func.max(candidate.c.number), 0)).where(
        candidate.c.campaign == row.id,
        candidate.c.role == "search",
        candidate.c.generation <= chosen,
    )
    until = connection.execute(last).scalar_one()
    return ForkPoint(ancestor=row.id, generation=chosen, until=until)


def copy_history(connection: Connection, point: ForkPoint, new: int) -> None:
    """Copies candidates, parents, outcomes on the search rows and their scores."""
    old = point.ancestor
    shared = and_(candidate.c.campaign == old, candidate.c.generation <= point.generation)
    _copy(connection, candidate, new, shared)
    ids = select(candidate.c.id).where(shared)
    family = and_(parentage.c.campaign == old, parentage.c.child.in_(ids))
    _copy(connection, parentage, new, family)
    measured = and_(score.c.campaign == old, score.c.rows == "search", score.c.candidate.in_(ids))
    _copy(connection, score, new, measured)
    ended = and_(
        attempt.c.campaign == old,
        attempt.c.rows == "search",
        attempt.c.sequence.is_not(None),
        attempt.c.candidate.in_(ids),
    )
    sequence = _copy_outcomes(connection, old, new, ended, set(connection.execute(ids).scalars()))
    _count(connection, new, sequence, point.generation)


def _copy(connection: Connection, table: Any, new: int, condition: Any) -> None:
    names = [column.name for column in table.columns if column.name not in ("campaign", "id")]
    names += ["id"] if table is candidate else []
    rows = select(literal(new), *(table.c[name] for name in names)).where(condition)
    connection.execute(insert(table).from_select(["campaign", *names], rows))


def _copy_outcomes(connection: Connection, old: int, new: int, ended: Any, ids: set[str]) -> int:
    """Copies what was recorded, in its order but without gaps; returns the last place."""
    outcomes = connection.execute(select(attempt).where(ended)).mappings().all()
    wishes = connection.execute(
        select(log).where(log.c.campaign == old, log.c.kind == "retry")
    ).mappings()
    entries: list[tuple[int, Any, list[Any] | None]] = [
        (row["sequence"], row, None) for row in outcomes
    ]
    for row in wishes:
        wanted = json.loads(row["data"])["wanted"]
        kept = [one for one in wanted if one[0] in ids and one[1] == "search"]
        if kept:
            entries.append((row["sequence"], row, kept))
    entries.sort(key=lambda entry: entry[0])
    copies: list[dict[str, Any]] = []
    for place, (_, row, wanted) in enumerate(entries, start=1):
        values = {**row, "campaign": new, "sequence": place}
        del values["id"]
        if wanted is None:
            copies.append({**values, "cached": int(row["state"] == "scored")})
        else:
            data = json.dumps({"wanted": wanted})
            connection.execute(insert(log).values({**values, "data": data}))
    if copies:
        connection.execute(insert(attempt), copies)
    return len(entries)


def _count(connection: Connection, new: int, sequence: int, generation: int) -> None:
    def num(*conditions: Any) -> int:
        query = select(func.count()).select_from(attempt).where(attempt.c.campaign == new)
        return int(connection.execute(query.where(*conditions)).scalar_one())

    scored = num(attempt.c.state == "scored")
    failed = num(GIVEN_UP)
    connection.execute(
        update(campaign)
        .where(campaign.c.id == new)
        .values(
            sequence=sequence,
            generation=generation,
            num_scored=scored,
            num_failed=failed,
            num_cached=scored,
        )
    )


def _num_waiting(connection: Connection, campaign_id: int, generation: int) -> int:
    """Returns how many search candidates of a generation have no accepted outcome."""
    searched = and_(
        candidate.c.campaign == campaign_id,
        candidate.c.generation == generation,
        candidate.c.role == "search",
    )
    ended: Sequence[Any] = (
        connection.execute(
            select(attempt.c.candidate).where(
                attempt.c.campaign == campaign_id,
                attempt.c.rows == "search",
                attempt.c.candidate.in_(select(candidate.c.id).where(searched)),
                ACCEPTED,
            )
        )
        .scalars()
        .all()
    )
    born = connection.execute(select(func.count()).select_from(candidate).where(searched))
    return int(born.scalar_one()) - len(set(ended))

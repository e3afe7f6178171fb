"""Gives a new campaign the history of another: its candidates and their outcomes, as they were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, exists, func, insert, literal, select, update

from orchestrator.storage.base import SEARCHED, StoreError
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import wanted_of
from orchestrator.storage.rows import Place
from orchestrator.storage.schema import (
    attempt,
    campaign,
    candidate,
    log,
    parentage,
    score,
)
from orchestrator.storage.turns import add_spent
from workers.job import JobKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """Where a fork leaves its ancestor."""

    ancestor: int
    #: Generation of the last candidates that it has in common.
    generation: int
    #: Number of the last search candidate that it has in common.
    until: int
    #: Whether its generations overlap, so that everything is in common.
    asynchronous: bool = False


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
    return ForkPoint(ancestor=row.id, generation=chosen, until=until, asynchronous=asynchronous)


def copy_history(connection: Connection, point: ForkPoint, new: int) -> None:
    """Copies candidates, parents, outcomes on the rows that are searched on, and their scores."""
    old = point.ancestor
    shared = and_(candidate.c.campaign == old, candidate.c.generation <= point.generation)
    _copy(connection, candidate, new, shared)
    ids = select(candidate.c.id).where(shared)
    family = and_(parentage.c.campaign == old, parentage.c.child.in_(ids))
    _copy(connection, parentage, new, family)
    entries = [
        *_outcomes(connection, point, ids),
        *_wishes(connection, old, set(connection.execute(ids).scalars())),
    ]
    history = _History(new)
    for entry in sorted(entries, key=lambda entry: entry.row["sequence"]):
        history.add(entry)
    history.write(connection, point.generation)
    # Only now: what was scored belongs to an attempt that was copied.
    measured = and_(
        score.c.campaign == old,
        exists().where(
            attempt.c.campaign == new,
            attempt.c.candidate == score.c.candidate,
            attempt.c.rows == score.c.rows,
            attempt.c.block == score.c.block,
            attempt.c.state == "scored",
        ),
    )
    _copy(connection, score, new, measured)


def _copy(connection: Connection, table: Any, new: int, condition: Any) -> None:
    names = [column.name for column in table.columns if column.name != "campaign"]
    rows = select(literal(new), *(table.c[name] for name in names)).where(condition)
    connection.execute(insert(table).from_select(["campaign", *names], rows))


@dataclass(frozen=True, slots=True)
class _Entry:
    """An attempt's row, or an event's and what that asks for."""

    row: Mapping[str, Any]
    wanted: Sequence[JobKey] | None = None


@dataclass(slots=True)
class _History:
    """What was recorded, in its order but without gaps."""

    campaign: int
    ledger: Ledger = field(default_factory=Ledger)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    #: What failed for good and was not retried, by its place.
    failed: dict[Place, dict[str, Any]] = field(default_factory=dict)

    @property
    def sequence(self) -> int:
        return len(self.attempts) + len(self.events)

    def add(self, entry: _Entry) -> None:
        """Adds the next entry, as far as it is about what came before."""
        row = {**entry.row, "campaign": self.campaign, "sequence": self.sequence + 1}
        del row["id"]
        if entry.wanted is not None:
            self._add_wish(row, entry.wanted)
            return
        row |= {"cached": int(row["state"] == "scored"), "retried": 0, "superseded": 0}
        self.attempts.append(row)
        for gone in self.ledger.book(row, row):
            gone["superseded"] = 1
        if row["state"] == "failed" and row["final"]:
            self.failed[row["candidate"], row["rows"], row["block"]] = row

    def _add_wish(self, row: dict[str, Any], wanted: Sequence[JobKey]) -> None:
        known = [key for key in wanted if key[:3] in self.failed]
        for key in known:
            self.failed.pop(key[:3])["retried"] = 1
            self.ledger.retry(key[0], key[1])
        if known:
            self.events.append({**row, "data": json.dumps({"wanted": known})})

    def write(self, connection: Connection, generation: int) -> None:
        """Writes all of it."""
        if self.events:
            connection.execute(insert(log), self.events)
        if self.attempts:
            connection.execute(insert(attempt), self.attempts)
        if more := self.ledger.spent(self.campaign):
            add_spent(connection, more)
        connection.execute(
            update(campaign)
            .where(campaign.c.id == self.campaign)
            .values(
                sequence=self.sequence,
                generation=generation,
                num_scored=self.ledger.num_scored,
                num_failed=self.ledger.num_failed,
                num_cached=self.ledger.num_cached,
            )
        )


def _outcomes(connection: Connection, point: ForkPoint, ids: Any) -> list[_Entry]:
    """Returns the attempts that the fork has in common with its ancestor.

    That is all that had come when the last common generation ended. Of what came later, which
    belongs to what the fork may not do, only what says all by itself: references that took longer,
    and controls that were measured on all rows at once. The rest is measured again, or found in
    the cache.
    """
    query = select(attempt).where(
        attempt.c.campaign == point.ancestor,
        attempt.c.rows.in_(SEARCHED),
        attempt.c.sequence.is_not(None),
        attempt.c.candidate.in_(ids),
    )
    rows = [dict(row) for row in connection.execute(query).mappings()]
    last = None if point.asynchronous else _end_of(rows)
    return [
        _Entry(row) for row in rows if last is None or row["sequence"] <= last or _says_all(row)
    ]


def _end_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """Returns the place of the outcome that completed the last common generation."""
    ends: dict[str, int] = {}
    for row in rows:
        if row["candidate"][0] == "s" and row["rows"] == "search" and row["final"]:
            place = row["sequence"]
            ends[row["candidate"]] = min(place, ends.get(row["candidate"], place))
    return max(ends.values(), default=0)


def _says_all(row: Mapping[str, Any]) -> bool:
    """Whether an outcome depends on nothing but its candidate."""
    if row["rows"] == "search" and row["candidate"][0] == "r":
        return True  # no race stops it, and violations that were recorded refer to it
    if row["rows"] != "search" or row["block"]:
        return False
    return row["state"] == "failed" or bool(
        row["final"] and not row["stopped"] and row["fidelity"] >= 1
    )


def _wishes(connection: Connection, old: int, ids: set[str]) -> list[_Entry]:
    """Returns what retries asked for of the common candidates."""
    query = select(log).where(log.c.campaign == old, log.c.kind == "retry")
    return [
        _Entry(dict(row), [one for one in wanted_of(row["data"]) if one[0] in ids])
        for row in connection.execute(query).mappings()
    ]


def _num_waiting(connection: Connection, campaign_id: int, generation: int) -> int:
    """Returns how many search candidates of a generation have not ended on the search rows."""
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
                attempt.c.final == 1,
                attempt.c.retried == 0,
            )
        )
        .scalars()
        .all()
    )
    born = connection.execute(select(func.count()).select_from(candidate).where(searched))
    return int(born.scalar_one()) - len(set(ended))

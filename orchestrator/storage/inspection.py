"""What can be wrong with a store though its database has refused nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, exists, func, select

from evaluators.documents import unpack_log_likelihoods, unpack_values
from orchestrator.storage import document_sets
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.packing import unpack_genome, unpack_json
from orchestrator.storage.records import SCORED, wanted_of
from orchestrator.storage.rows import Place
from orchestrator.storage.schema import (
    OPEN,
    attempt,
    candidate,
    document_set,
    log,
    score,
    snapshot,
    spent,
)
from workers.job import JobKey
from workers.recipe import read_recipe

#: Rows that are held in memory at a time.
_BATCH = 1000


def problems(connection: Connection, row: Any) -> Iterator[str]:
    """Yields what is wrong with a campaign, given its row."""
    for look in _LOOKS:
        yield from look(connection, row)


def set_problems(connection: Connection) -> Iterator[str]:
    """Yields what is wrong with the documents that jobs have named."""
    for row in _stream(connection, select(document_set)):
        try:
            text = document_sets.text_of(document_sets.unpack(row.documents))
        except Exception as error:  # noqa: BLE001  (whatever is wrong with it is what we look for)
            yield f"documents {row.id} cannot be read: {type(error).__name__}: {error}"
            continue
        if document_sets.digest_of(text) != row.digest:
            yield f"documents {row.id} are not those that were named"


def _stream(connection: Connection, query: Any) -> Iterator[Any]:
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as found:
        yield from found


@dataclass(slots=True)
class _Book:
    """What the attempts of a campaign come to, in the order of recording."""

    ledger: Ledger = field(default_factory=Ledger)
    num: int = 0
    #: Mark -> the attempts that have it, and those that should.
    found: dict[str, set[int]] = field(
        default_factory=lambda: {"superseded": set(), "retried": set()}
    )
    expected: dict[str, set[int]] = field(
        default_factory=lambda: {"superseded": set(), "retried": set()}
    )
    #: What failed for good and was not retried.
    failed: dict[Place, int] = field(default_factory=dict)

    def add(self, entry: Any) -> None:
        """Books an attempt, or what a retry asks for."""
        self.num += 1
        if isinstance(entry, list):
            self._retry(entry)
        else:
            self._add(entry)

    def _add(self, row: Any) -> None:
        for mark, ids in self.found.items():
            if getattr(row, mark):
                ids.add(row.id)
        self.expected["superseded"] |= set(self.ledger.book(row._mapping, row.id))
        if row.state == "failed" and row.final:
            self.failed[row.candidate, row.rows, row.block] = row.id

    def _retry(self, wanted: list[JobKey]) -> None:
        for id_, rows, block, _ in wanted:
            self.ledger.retry(id_, rows)
            if (place := (id_, rows, block)) in self.failed:
                self.expected["retried"].add(self.failed.pop(place))


def _books(connection: Connection, row: Any) -> Iterator[str]:
    """Counters, and marks of attempts, are what booking them in their order comes to."""
    book, last = _Book(), 0
    for place, entry in _in_order(connection, row.id):
        book.add(entry)
        last = place
    for name in ("num_scored", "num_failed", "num_cached"):
        counted = getattr(book.ledger, name)
        if getattr(row, name) != counted:
            yield f"{name} is {getattr(row, name)}, its attempts add up to {counted}"
    if book.num != row.sequence or last > row.sequence:
        yield f"{book.num} outcomes and retries recorded, {row.sequence} places given"
    for mark, ids in book.found.items():
        for id_ in sorted(ids ^ book.expected[mark]):
            should = "should be" if id_ in book.expected[mark] else "should not be"
            yield f"{_label(connection, id_)} {should} {mark}"
    yield from _spending(connection, row, book.ledger)


def _spending(connection: Connection, row: Any, ledger: Ledger) -> Iterator[str]:
    query = select(spent).where(spent.c.campaign == row.id)
    recorded = {tuple(one) for one in connection.execute(query)}
    counted = {tuple(one.values()) for one in ledger.spent(row.id)}
    for _, role, rows, documents, stopped in sorted(recorded ^ counted):
        source = "recorded" if (row.id, role, rows, documents, stopped) in recorded else "counted"
        yield f"{role} on {rows} rows: {documents} documents, {stopped} stopped are {source}"


def _in_order(connection: Connection, campaign: int) -> Iterator[tuple[int, Any]]:
    """Yields attempts and what retries asked for, with their places."""
    events = select(log.c.sequence, log.c.data).where(
        log.c.campaign == campaign, log.c.kind == "retry"
    )
    wishes = [
        (one.sequence, wanted_of(one.data))
        for one in connection.execute(events.order_by(log.c.sequence.desc()))
    ]
    attempts = (
        select(attempt)
        .where(attempt.c.campaign == campaign, attempt.c.sequence.is_not(None))
        .order_by(attempt.c.sequence)
    )
    for row in _stream(connection, attempts):
        while wishes and wishes[-1][0] < row.sequence:
            yield wishes.pop()
        yield row.sequence, row
    yield from reversed(wishes)


def _label(connection: Connection, id_: int) -> str:
    row = connection.execute(select(attempt).where(attempt.c.id == id_)).one()
    return f"attempt {row.number} at {row.candidate} on its {_part(row.rows, row.block)}"


def _zombies(connection: Connection, row: Any) -> Iterator[str]:
    """Open attempts belong to a driver that runs, or to one that will find them lost."""
    query = select(func.count()).select_from(attempt).where(attempt.c.campaign == row.id, OPEN)
    if connection.execute(query).scalar_one() and row.state in ("finished", "stopped"):
        yield f"has attempts that are open although it is {row.state}"


def _unscored(connection: Connection, row: Any) -> Iterator[str]:
    """What was scored has the scores of its tasks, on as many documents, and nothing else has."""
    query = (
        select(
            attempt.c.candidate,
            attempt.c.rows,
            attempt.c.block,
            attempt.c.documents,
            func.sum(score.c.documents),
        )
        .select_from(attempt.outerjoin(score, SCORED))
        .where(attempt.c.campaign == row.id, attempt.c.state == "scored")
        .group_by(attempt.c.id)
        .having(
            func.sum(score.c.documents).is_(None)
            | (func.sum(score.c.documents) != attempt.c.documents)
        )
    )
    for id_, rows, block, documents, counted in connection.execute(query):
        what = f"{id_} is scored on its {_part(rows, block)}"
        if counted is None:
            yield f"{what} without the score of any task"
        else:
            yield f"{what} with {documents} documents, its tasks have {counted}"
    orphans = select(score.c.candidate, score.c.rows, score.c.block, score.c.task).where(
        score.c.campaign == row.id, ~exists().where(SCORED)
    )
    for one in connection.execute(orphans):
        part = _part(one.rows, one.block)
        yield f"the score of {one.candidate} on {one.task} ({part}) belongs to no attempt"


def _part(rows: str, block: int) -> str:
    """Names a part of the rows."""
    return f"{rows} rows" + (f" of block {block}" if block else "")


def _contents(connection: Connection, row: Any) -> Iterator[str]:
    """Genomes and recipes can be read, and recipes are what they were."""
    columns = (candidate.c.id, candidate.c.genome, candidate.c.recipe, candidate.c.digest)
    query = select(*columns).where(candidate.c.campaign == row.id)
    for one in _stream(connection, query):
        try:
            recipe = read_recipe(unpack_json(one.recipe))
            unpack_genome(one.genome or b"")
        except Exception as error:  # noqa: BLE001  (as above)
            yield f"{one.id} cannot be read: {type(error).__name__}: {error}"
            continue
        if recipe.digest() != one.digest.hex():
            yield f"the recipe of {one.id} is not the one that was recorded"


def _results(connection: Connection, row: Any) -> Iterator[str]:
    """Results of documents can be read: none, or one for each document that was scored."""
    sets: dict[int, dict[str, int]] = {}
    query = (
        select(score, attempt.c.document_set)
        .select_from(score.outerjoin(attempt, SCORED))
        .where(score.c.campaign == row.id)
    )
    for one in _stream(connection, query):
        where = f"results of {one.candidate} on {one.task}"
        if one.rows != "search" or one.block:
            where += f" ({_part(one.rows, one.block)})"
        try:
            counts = {
                len(unpack_values(one.per_document)),
                len(unpack_log_likelihoods(one.log_likelihoods)),
            }
        except Exception as error:  # noqa: BLE001  (as above)
            yield f"{where} cannot be read: {error}"
            continue
        if not counts <= {0, one.documents}:
            yield f"{where} are {max(counts)}, {one.documents} documents were scored"
        named = _num_named(connection, sets, one.document_set).get(one.task, one.documents)
        if named != one.documents:
            yield f"{where} are of {one.documents} documents, its job named {named}"


def _num_named(
    connection: Connection, sets: dict[int, dict[str, int]], id_: int | None
) -> dict[str, int]:
    """Returns how many documents of each task a job named; nothing if it named none."""
    if id_ is None:
        return {}
    if id_ not in sets:
        query = select(document_set.c.documents).where(document_set.c.id == id_)
        try:
            found = document_sets.unpack(connection.execute(query).scalar_one())
        except Exception:  # noqa: BLE001  (which is told of the documents themselves)
            found = {}
        sets[id_] = {task: len(places) for task, places in found.items()}
    return sets[id_]


def _snapshots(connection: Connection, row: Any) -> Iterator[str]:
    query = select(snapshot.c.sequence).where(
        snapshot.c.campaign == row.id, snapshot.c.sequence > row.sequence
    )
    for one in connection.execute(query):
        yield f"has a snapshot of outcome {one.sequence}, which is not recorded"


_LOOKS: tuple[Callable[[Connection, Any], Iterator[str]], ...] = (
    _books,
    _zombies,
    _unscored,
    _contents,
    _results,
    _snapshots,
)

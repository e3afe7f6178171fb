"""What every document gave, as one long table: a row for each document that was scored."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import zip_longest
from typing import Any

from sqlalchemy import Connection, select

from evaluators.documents import unpack_log_likelihoods, unpack_values
from orchestrator.storage import document_sets
from orchestrator.storage.candidates import AS_PROPOSED
from orchestrator.storage.gene_columns import Kind
from orchestrator.storage.reader import Reader
from orchestrator.storage.records import SCORED
from orchestrator.storage.schema import attempt, candidate, score

#: What the table's columns hold; a value or a log-likelihood may be missing.
COLUMNS: Mapping[str, Kind] = {
    "candidate": "text",
    "rows": "text",
    "block": "integer",
    "task": "text",
    # Its place among the task's documents of that kind of rows.
    "document": "integer",
    "value": "real",
    "log_likelihood": "real",
}
#: Candidates that are held in memory at a time.
_BATCH = 100
_ORDER = {rows: place for place, rows in enumerate(("search", "fresh", "selection", "test"))}


def documents(reader: Reader, name: str) -> Iterator[dict[str, Any]]:
    """Yields a row for each document, candidates in the order of proposals, as of one moment.

    Within a task documents come in the order in which they were scored. A value or log-likelihood
    that there is not is left out.

    Raises:
        StoreError: if there is no such campaign.
    """
    with open_documents(reader, name) as batches:
        for batch in batches:
            yield from batch


@contextmanager
def open_documents(reader: Reader, name: str) -> Iterator[Iterator[list[dict[str, Any]]]]:
    """Opens the table of a campaign; its batches can be read once, until this ends.

    Raises:
        StoreError: if there is no such campaign.
    """
    with reader.moment(name) as (connection, row), closing(_batches(connection, row.id)) as found:
        yield found


def _batches(connection: Connection, campaign: int) -> Generator[list[dict[str, Any]], None, None]:
    query = select(candidate.c.id).where(candidate.c.campaign == campaign).order_by(*AS_PROPOSED)
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as result:
        for ids in result.scalars().partitions():
            yield from _scored(connection, campaign, ids)


def _scored(
    connection: Connection, campaign: int, ids: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """Yields the documents of each task of these candidates."""
    query = (
        select(score, attempt.c.document_set)
        .join_from(score, attempt, SCORED)
        .where(score.c.campaign == campaign, score.c.candidate.in_(ids))
    )
    order = {id_: place for place, id_ in enumerate(ids)}
    rows = sorted(
        connection.execute(query),
        key=lambda row: (
            order[row.candidate], _ORDER.get(row.rows, len(_ORDER)), row.block, row.task
        ),
    )  # fmt: skip
    numbers = {row.document_set for row in rows if row.document_set is not None}
    named = document_sets.named(connection, numbers)
    for row in rows:
        whole = row.document_set is None
        yield _documents(row, None if whole else named[row.document_set].get(row.task, ()))


def _documents(row: Any, places: Sequence[int] | None) -> list[dict[str, Any]]:
    values = unpack_values(row.per_document)
    log_likelihoods = unpack_log_likelihoods(row.log_likelihoods)
    num = max(len(values), len(log_likelihoods))
    common = {"candidate": row.candidate, "rows": row.rows, "block": row.block, "task": row.task}
    found = []
    for place, value, log_likelihood in zip_longest(
        places if places is not None else range(num), values, log_likelihoods
    ):
        there_may_be = {"document": place, "value": value, "log_likelihood": log_likelihood}
        found.append(common | {name: one for name, one in there_may_be.items() if one is not None})
    return found

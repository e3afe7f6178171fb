"""Which documents a job is about: a choice of them is kept once, however many jobs name it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select

from evaluators.base import Documents
from orchestrator.storage.engine import insert_into
from orchestrator.storage.packing import pack_text, unpack_json
from orchestrator.storage.schema import document_set


def intern(connection: Connection, wanted: Iterable[Documents]) -> dict[int, int]:
    """Returns `id` of each choice of documents -> number of its row, which is made if need be."""
    texts = {key: text_of(one) for key, one in {id(one): one for one in wanted}.items()}
    if not texts:
        return {}
    by_digest = {digest_of(text): text for text in texts.values()}
    known = _known(connection, by_digest)
    if missing := by_digest.keys() - known.keys():
        add = insert_into(connection.dialect.name, document_set).on_conflict_do_nothing()
        rows = [{"digest": one, "documents": pack_text(by_digest[one])} for one in sorted(missing)]
        connection.execute(add, rows)
        known |= _known(connection, missing)
    return {key: known[digest_of(text)] for key, text in texts.items()}


def named(connection: Connection, ids: Iterable[int]) -> dict[int, Documents]:
    """Returns the documents of these rows."""
    query = select(document_set.c.id, document_set.c.documents).where(
        document_set.c.id.in_(list(ids))
    )
    return {row.id: unpack(row.documents) for row in connection.execute(query)}


def unpack(data: bytes) -> dict[str, tuple[int, ...]]:
    """Returns the documents that a row names, as they were named.

    Raises:
        ValueError: if the data cannot be read.
    """
    found: Mapping[str, list[int]] = unpack_json(data)
    return {task: tuple(places) for task, places in found.items()}


def digest_of(text: str) -> bytes:
    """Returns a hash of what `text_of` gives."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def text_of(documents: Documents) -> str:
    """Returns documents as JSON: tasks by name, places in the order in which they are scored."""
    return json.dumps(
        {task: list(documents[task]) for task in sorted(documents)}, separators=(",", ":")
    )


def _known(connection: Connection, digests: Iterable[bytes]) -> dict[bytes, int]:
    query = select(document_set.c.digest, document_set.c.id).where(
        document_set.c.digest.in_(list(digests))
    )
    return {bytes(row.digest): row.id for row in connection.execute(query)}

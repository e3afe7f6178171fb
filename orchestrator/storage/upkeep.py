"""What is done to a store from outside a campaign: check, upgrade, vacuum, stop, retry."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.exc import DBAPIError

from orchestrator.storage import engine as engines
from orchestrator.storage import inspection, lease
from orchestrator.storage.base import StoreError
from orchestrator.storage.reader import find_campaign
from orchestrator.storage.schema import GIVEN_UP, attempt, campaign, candidate
from orchestrator.storage.store import SqlStore
from workers.job import JobKey

#: Seconds between two looks at a campaign that was asked to stop.
_POLL_S = 0.2


def stop(url: str, name: str, wait_s: float) -> str:
    """Asks a campaign's driver to stop, and waits for it; returns what became of it.

    Raises:
        StoreError: if there is no such campaign, or it has not stopped in time.
    """
    engines.open_for_reading(url).dispose()
    engine = engines.open_for_writing(url)
    try:
        with engine.begin() as connection:
            row = find_campaign(connection, name, url)
            if not lease.is_alive(row, time.time()):
                return f"campaign {name!r} is not running"
            connection.execute(
                update(campaign).where(campaign.c.id == row.id).values(stop_requested=1)
            )
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            with engine.connect() as connection:
                now = find_campaign(connection, name, url)
            if now.lease_token != row.lease_token or not lease.is_alive(now, time.time()):
                if now.state in ("finished", "stopped"):
                    return f"campaign {name!r} has come to its end meanwhile"
                return f"campaign {name!r} has stopped; `shoal resume {name} --store {url}` goes on"
            time.sleep(_POLL_S)
    finally:
        engine.dispose()
    raise StoreError(
        f"campaign {name!r} has been asked to stop and has not done so within {wait_s:g} s"
    )


def retry(url: str, name: str, wanted: Sequence[str], *, for_good: bool) -> str:
    """Records that failed candidates are to be measured again; returns what was done.

    Takes those that are named, or all that were set aside after failures that may pass, and with
    `for_good` all that failed.

    Raises:
        StoreError: if there is no such campaign, it is running, or a named one has not failed.
    """
    engine = engines.open_for_reading(url)
    with engine.connect() as connection:
        row = find_campaign(connection, name, url)
        failed = _failed(connection, row.id)
    engine.dispose()
    unknown = [one for one in wanted if one not in {key[0] for key, _ in failed}]
    if unknown:
        raise StoreError(f"campaign {name!r} has no failed candidate {unknown[0]!r}")
    chosen = [
        key for key, may_pass in failed if (key[0] in wanted if wanted else may_pass or for_good)
    ]
    left = len(failed) - len(chosen)
    if not chosen:
        more = f"; {left} failed for good, --failed takes them, too" if left and not wanted else ""
        return f"campaign {name!r}: nothing to retry{more}"
    with SqlStore(url, name) as store:
        record = store.load()
        assert record is not None
        record = store.reopen(record.settings)
        store.retry(chosen)
        store.end("interrupted", f"{len(chosen)} to be retried", record.elapsed_s)
    return (
        f"campaign {name!r}: {len(chosen)} to be measured again; go on with: "
        f"shoal resume {name} --store {url}"
    )


def upgrade(url: str) -> str:
    """Brings a store up to date; returns what was done.

    Raises:
        StoreError: if there is none, or it is newer than this version.
    """
    from orchestrator.storage.migrate import upgrade as migrate

    if not engines.is_server(url) and not engines.store_file(url).is_file():
        raise StoreError(f"there is no store {url!r}")
    if not engines.is_server(url) and engines.store_file(url).stat().st_size == 0:
        raise StoreError(f"{url!r} is not a shoal store: it is empty")
    engine = engines.writing_engine(url)
    with engine.connect() as connection:
        if engines.found_version(connection, url) is None:
            raise StoreError(f"{engines.without_password(url)!r} is not a shoal store: it is empty")
    copy = migrate(engine, url)
    engine.dispose()
    shown = engines.without_password(url)
    return f"{shown}: up to date" + (f"; the store as it was: {copy}" if copy else " already")


def vacuum(url: str) -> str:
    """Gives space back; returns how much.

    Raises:
        StoreError: if a campaign is running, which would be held up.
    """
    engine = engines.open_for_reading(url)
    with engine.connect() as connection:
        for row in connection.execute(select(campaign)):
            if lease.is_alive(row, time.time()):
                raise StoreError(f"campaign {row.name!r} is running; vacuum when it has ended")
    engine.dispose()
    engine = engines.open_for_writing(url)
    shown = engines.without_password(url)
    if engines.is_server(url):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM"))
        engine.dispose()
        return f"{shown}: vacuumed"
    raw = engine.raw_connection()  # no transaction is begun on it
    try:
        for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            raw.cursor().execute(statement)
    finally:
        raw.close()
        engine.dispose()
    return f"{shown}: vacuumed, {engines.store_file(url).stat().st_size:,} bytes"


def check(url: str) -> dict[str, Any]:
    """Returns what is wrong with a store: in its file, between its tables, within its rows.

    Raises:
        StoreError: if there is no such store.
    """
    found: dict[str, Any] = {"campaigns": 0, "candidates": 0, "problems": []}
    try:
        engine = engines.open_for_reading(url)
    except StoreError as error:
        if "malformed" not in str(error):
            raise
        found["problems"].append(str(error))
    else:
        with engine.connect() as connection:
            try:
                _look_at_all(connection, found, is_file=not engines.is_server(url))
            except (DBAPIError, LookupError, TypeError, ValueError) as error:
                cause = error.orig if isinstance(error, DBAPIError) else error
                found["problems"].append(f"file: cannot be read to its end: {cause}")
        engine.dispose()
    held = f"{found['campaigns']} campaigns, {found['candidates']} candidates"
    return {**found, "verdict": f"{held}: {len(found['problems']) or 'no'} problems"}


def _look_at_all(connection: Connection, found: dict[str, Any], *, is_file: bool) -> None:
    """Adds what is there and what is wrong with it, as far as it can be read."""
    if is_file:
        found["problems"] += _file_problems(connection)
    rows = connection.execute(select(campaign).order_by(campaign.c.id)).all()
    found["campaigns"] = len(rows)
    count = select(func.count()).select_from(candidate)
    found["candidates"] = connection.execute(count).scalar_one()
    for row in rows:
        for one in inspection.problems(connection, row):
            found["problems"].append(f"campaign {row.name!r}: {one}")
    found["problems"] += inspection.set_problems(connection)


def _failed(connection: Connection, campaign_id: int) -> list[tuple[JobKey, bool]]:
    """Returns the next attempt at all that failed, and whether that may fare better."""
    query = select(attempt).where(attempt.c.campaign == campaign_id, GIVEN_UP)
    return [
        ((row.candidate, row.rows, row.block, row.number + 1), bool(row.retryable))
        for row in connection.execute(query.order_by(attempt.c.sequence))
    ]


def _file_problems(connection: Connection) -> Iterator[str]:
    for (message,) in connection.execute(text("PRAGMA integrity_check")):
        if message != "ok":
            yield f"file: {message}"
    for table, row, parent, _ in connection.execute(text("PRAGMA foreign_key_check")):
        yield f"file: row {row} of {table} refers to nothing in {parent}"

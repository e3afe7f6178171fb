"""What is done to a store from outside a campaign: check, upgrade, vacuum, stop, retry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, and_, case, func, select, text, update
from sqlalchemy.exc import DBAPIError

from orchestrator.storage import engine as engines
from orchestrator.storage import lease
from orchestrator.storage.base import StoreError
from orchestrator.storage.packing import unpack, unpack_genome, unpack_json
from orchestrator.storage.reader import find_campaign
from orchestrator.storage.schema import GIVEN_UP, attempt, campaign, candidate, score, snapshot
from orchestrator.storage.store import SqlStore
from workers.recipe import MergeRecipe

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
    unknown = [one for one in wanted if one not in {id_ for id_, *_ in failed}]
    if unknown:
        raise StoreError(f"campaign {name!r} has no failed candidate {unknown[0]!r}")
    chosen = [
        (id_, rows, number + 1)
        for id_, rows, number, may_pass in failed
        if (id_ in wanted if wanted else may_pass or for_good)
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
            except (DBAPIError, ValueError, TypeError) as error:
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
        for look in _LOOKS:
            for one in look(connection, row):
                found["problems"].append(f"campaign {row.name!r}: {one}")


def _failed(connection: Connection, campaign_id: int) -> list[tuple[str, str, int, bool]]:
    """Returns (candidate, rows, last attempt, may another fare better) of all that failed."""
    query = select(attempt).where(
        attempt.c.campaign == campaign_id,
        GIVEN_UP,
    )
    rows = connection.execute(query.order_by(attempt.c.sequence))
    return [(row.candidate, row.rows, row.number, bool(row.retryable)) for row in rows]


def _file_problems(connection: Connection) -> Iterator[str]:
    for (message,) in connection.execute(text("PRAGMA integrity_check")):
        if message != "ok":
            yield f"file: {message}"
    for table, row, parent, _ in connection.execute(text("PRAGMA foreign_key_check")):
        yield f"file: row {row} of {table} refers to nothing in {parent}"


def _counters(connection: Connection, row: Any) -> Iterator[str]:
    """The counters of a campaign are what its attempts add up to."""
    searched = attempt.c.rows == "search"

    def num(condition: Any) -> Any:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    query = select(
        num(and_(searched, attempt.c.state == "scored")),
        num(and_(searched, GIVEN_UP)),
        num(and_(searched, attempt.c.cached == 1)),
        num(attempt.c.sequence.is_not(None)),
        func.coalesce(func.max(attempt.c.sequence), 0),
    ).where(attempt.c.campaign == row.id)
    scored, lost, cached, recorded, last = connection.execute(query).one()
    for name, counted in (("num_scored", scored), ("num_failed", lost), ("num_cached", cached)):
        if getattr(row, name) != counted:
            yield f"{name} is {getattr(row, name)}, its attempts add up to {counted}"
    retries = connection.execute(
        text("SELECT count(*) FROM event WHERE campaign = :id AND kind = 'retry'"), {"id": row.id}
    ).scalar_one()
    if recorded + retries != row.sequence or last > row.sequence:
        yield f"{recorded} outcomes and {retries} retries recorded, {row.sequence} places given"


def _zombies(connection: Connection, row: Any) -> Iterator[str]:
    """Open attempts belong to a driver that runs, or to one that will find them lost."""
    query = (
        select(func.count())
        .select_from(attempt)
        .where(attempt.c.campaign == row.id, attempt.c.state == "open")
    )
    if connection.execute(query).scalar_one() and row.state in ("finished", "stopped"):
        yield f"has attempts that are open although it is {row.state}"


def _unscored(connection: Connection, row: Any) -> Iterator[str]:
    """What was scored has the scores of its tasks."""
    has = select(score.c.task).where(
        score.c.campaign == attempt.c.campaign,
        score.c.candidate == attempt.c.candidate,
        score.c.rows == attempt.c.rows,
    )
    query = select(attempt.c.candidate, attempt.c.rows).where(
        attempt.c.campaign == row.id, attempt.c.state == "scored", ~has.exists()
    )
    for one in connection.execute(query):
        yield f"{one.candidate} is scored on its {one.rows} rows without the score of any task"


def _contents(connection: Connection, row: Any) -> Iterator[str]:
    """Genomes, recipes and per-document results can be read, and recipes are what they were."""
    columns = (candidate.c.id, candidate.c.genome, candidate.c.recipe, candidate.c.digest)
    query = select(*columns).where(candidate.c.campaign == row.id)
    for one in connection.execution_options(yield_per=1000).execute(query):
        try:
            recipe = MergeRecipe.from_dict(unpack_json(one.recipe))
            unpack_genome(one.genome or b"")
        except Exception as error:  # noqa: BLE001  (whatever is wrong with it is what we look for)
            yield f"{one.id} cannot be read: {type(error).__name__}: {error}"
            continue
        if recipe.digest() != one.digest.hex():
            yield f"the recipe of {one.id} is not the one that was recorded"
    results = select(score.c.candidate, score.c.task, score.c.per_document).where(
        score.c.campaign == row.id
    )
    for id_, task, packed in connection.execution_options(yield_per=1000).execute(results):
        try:
            unpack(packed)
        except Exception as error:  # noqa: BLE001  (as above)
            yield f"results of {id_} on {task} cannot be read: {error}"


def _snapshots(connection: Connection, row: Any) -> Iterator[str]:
    query = select(snapshot.c.sequence).where(
        snapshot.c.campaign == row.id, snapshot.c.sequence > row.sequence
    )
    for one in connection.execute(query):
        yield f"has a snapshot of outcome {one.sequence}, which is not recorded"


_LOOKS: tuple[Callable[[Connection, Any], Iterator[str]], ...] = (
    _counters,
    _zombies,
    _unscored,
    _contents,
    _snapshots,
)

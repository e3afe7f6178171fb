"""Bringing a store up to date, and copying one while it is in use."""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import sqlite3
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack, closing, suppress
from itertools import chain, count
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Table, func, inspect, select, text
from sqlalchemy.exc import DatabaseError

from evaluators.whole_file import whole_file
from orchestrator.storage import lease, schema
from orchestrator.storage.base import StoreError
from orchestrator.storage.engine import (
    _TABLES_KEY,
    found_version,
    is_server,
    open_for_reading,
    open_for_writing,
    store_file,
    without_password,
)

_MIGRATIONS = Path(__file__).parent / "migrations"
#: Rows that are held in memory at a time.
_BATCH = 500
#: Alembic keeps the migration that runs in variables of its modules.
_ALEMBIC = threading.Lock()

# A migration is told to the user in one line of ours; set before Alembic is imported.
logging.getLogger("alembic").setLevel(logging.WARNING)


def head() -> str:
    """Returns the newest migration's number, as Alembic writes it."""
    from alembic.script import ScriptDirectory

    found = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    assert found is not None, f"no migrations in {_MIGRATIONS}"
    return found


def upgrade(engine: Engine, url: str) -> str | None:
    """Brings an older store up to date, whole or not at all, after a copy.

    Returns:
        Where the copy is (a file, or a schema of the server), or None if nothing was to do.

    Raises:
        StoreError: if it cannot be done, or a driver still writes the store; it is as it was.
    """
    try:
        with ExitStack() as held, engine.connect() as connection:
            if is_server(url):
                return _upgrade_server(connection, url)
            return _upgrade_file(connection, url, held)
    except (DatabaseError, sqlite3.Error, OSError) as error:
        raise StoreError(
            f"store {without_password(url)!r} could not be brought up to date, and is as it was: "
            f"{_cause(error)}"
        ) from error


def backup(url: str, to: Path) -> Path:
    """Copies a store into a new file, as it is at one moment, while it may be written.

    Returns:
        The file: a store of its own that no driver holds.

    Raises:
        StoreError: if the file is there already, or the store cannot be copied; nothing is left.
    """
    to = to.expanduser().resolve()
    if to.exists():
        raise StoreError(f"{str(to)!r} is there already; give the backup a new name")
    if not to.parent.is_dir():
        raise StoreError(f"there is no folder {str(to.parent)!r} for the backup")
    source = open_for_reading(url)
    try:
        with whole_file(to) as part:
            if is_server(url):
                _copy_tables(source, part)
            else:
                _copy_pages(store_file(url), part)
            _set_free(part)
    except (DatabaseError, sqlite3.Error, OSError) as error:
        raise StoreError(
            f"store {without_password(url)!r} could not be copied to {str(to)!r}: {_cause(error)}"
        ) from error
    finally:
        source.dispose()
    return to


def _upgrade_file(connection: Connection, url: str, held: ExitStack) -> str | None:
    with connection.begin():  # nobody else writes from here on
        version = _outdated(connection, url)
        if version is None:
            return None
        if version == 1:
            for name, key in _first_locks(connection):
                _hold_file(store_file(url), name, key, held)
        else:
            _refuse_driven(connection)
        path = store_file(url)
        taken = {one.name for one in path.parent.iterdir()}
        copy = path.with_name(_free_name(f"{path.name}.v{version}.bak", "-", taken))
        with whole_file(copy) as part:
            _copy_pages(path, part)
        _migrate(connection, version)
    return str(copy)


def _upgrade_server(connection: Connection, url: str) -> str | None:
    with connection.begin():  # a lock of the session: it is kept over both transactions below
        connection.execute(select(func.pg_advisory_lock(_TABLES_KEY)))
    with connection.begin():
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        version = _outdated(connection, url)
        if version is None:
            return None
        _hold_server(connection, version)
        copy = _copy_to_schema(connection, version)
    with connection.begin():
        _hold_server(connection, version)  # campaigns that came meanwhile
        _migrate(connection, version)
    return copy


def _outdated(connection: Connection, url: str) -> int | None:
    """Returns a store's version if it is an older one."""
    version = found_version(connection, url)
    return version if version is not None and version < schema.SCHEMA_VERSION else None


def _migrate(connection: Connection, version: int) -> None:
    """Runs the migrations within the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config(stdout=io.StringIO(), attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with _ALEMBIC:
        if not inspect(connection).has_table("alembic_version"):
            command.stamp(config, f"{version:04}")
        command.upgrade(config, "head")


# Drivers that still run; those of the first version held their campaigns by locks of the system.


def _first_locks(connection: Connection) -> list[tuple[str, int]]:
    """Returns each campaign's name and the number of its lock."""
    names = connection.execute(text("SELECT name FROM campaign")).scalars()
    return [
        (name, int(hashlib.blake2b(name.encode(), digest_size=7).hexdigest(), 16)) for name in names
    ]


def _hold_file(path: Path, name: str, key: int, held: ExitStack) -> None:
    """Keeps a driver of the first version from a campaign until `held` ends."""
    lock = path.with_name(f"{path.name}.{key:x}.lock")
    if not lock.is_file():  # the store was moved here: nobody has run the campaign since
        return
    file = held.enter_context(lock.open("r+"))
    for patience in (0.1, 0.2, 0.4):  # a reader may be looking just now
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(patience)
    raise _running(name)


def _hold_server(connection: Connection, version: int) -> None:
    """Keeps drivers from all campaigns until the session, or at least the transaction, ends."""
    if version > 1:
        connection.execute(text("LOCK TABLE campaign IN SHARE ROW EXCLUSIVE MODE"))
        _refuse_driven(connection)
        return
    for name, key in _first_locks(connection):
        if not connection.execute(select(func.pg_try_advisory_lock(key))).scalar():
            raise _running(name)


def _refuse_driven(connection: Connection) -> None:
    """Refuses campaigns that a driver of a later version than the first runs."""
    query = text("SELECT name, lease_token, lease_holder, heartbeat_at FROM campaign")
    for row in connection.execute(query):
        if lease.is_alive(row, time.time()):
            raise _running(row.name)


def _running(name: str) -> StoreError:
    return StoreError(
        f"campaign {name!r} is being run by an older shoal; wait for it, or stop it first: only "
        "then can its store be brought up to date"
    )


# Copies.


def _free_name(name: str, separator: str, taken: Collection[str]) -> str:
    """Returns the name, with a number if there is such a thing already."""
    names = chain([name], (f"{name}{separator}{number}" for number in count(1)))
    return next(one for one in names if one not in taken)


def _copy_to_schema(connection: Connection, version: int) -> str:
    """Copies all tables of a server's store into a new schema; returns its name."""
    inspector = inspect(connection)
    copy = _free_name(f"shoal_v{version}_backup", "_", inspector.get_schema_names())
    quoted = connection.dialect.identifier_preparer.quote
    connection.execute(text(f"CREATE SCHEMA {copy}"))
    for table in map(quoted, inspector.get_table_names()):
        connection.execute(text(f"CREATE TABLE {copy}.{table} AS TABLE {table}"))
    return copy


def _copy_pages(path: Path, part: Path) -> None:
    """Copies a file as of one moment; its writer is not held up."""
    with (
        closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(part)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # one file, readable in any folder


def _copy_tables(source: Engine, part: Path) -> None:
    """Copies a server's store as of one moment into a new file."""
    target = open_for_writing(str(part))
    moment = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with source.connect().execution_options(**moment) as reading:
        for table in schema.metadata.sorted_tables:
            if table is not schema.alembic_version:
                _copy_table(reading, target, table)
    target.dispose()


def _copy_table(reading: Connection, target: Engine, table: Table) -> None:
    # In order of their keys, so that a fork comes after the campaign it was forked from.
    query = select(table).order_by(*table.primary_key)
    with (
        reading.execute(query, execution_options={"yield_per": _BATCH}) as rows,
        target.begin() as writing,
    ):
        for batch in rows.mappings().partitions():
            writing.execute(table.insert(), [dict(row) for row in batch])


def _set_free(part: Path) -> None:
    """Leaves a copied store to whoever takes it: no driver runs on the copy."""
    with closing(sqlite3.connect(part)) as connection:
        connection.execute(
            "UPDATE campaign SET lease_token = NULL, lease_holder = NULL,"
            " leased_at = NULL, heartbeat_at = NULL"
        )
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", error)).splitlines()[0]

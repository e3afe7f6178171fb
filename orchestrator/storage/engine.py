"""Opening the database: SQLite in a file by default, PostgreSQL by URL."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from orchestrator.storage import schema

#: Milliseconds a reader or writer waits for another.
_BUSY_TIMEOUT_MS = 30_000


#: Lock that is held while tables are made, on a server.
_TABLES_KEY = 0x5304A1


class StoreError(ValueError):
    """A store that cannot be used; the message says which and what to do."""


def is_server(url: str) -> bool:
    """Whether a store is a database server rather than a file."""
    return url.startswith(("postgresql:", "postgres:", "postgresql+"))


def open_for_writing(url: str) -> Engine:
    """Opens a store, making its file, folder and tables if there are none.

    Raises:
        StoreError: if it cannot be opened or was written by another version; it is not touched.
    """
    if is_server(url):
        engine = _server_engine(url)
    else:
        path = _file(url)
        if path.is_file() and path.stat().st_size > 0:
            _look(_file_reader(path), url)  # refuses before anything is set up in the file
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    with engine.begin() as connection:  # one transaction: two first runs make the tables once
        if is_server(url):
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TABLES_KEY})
        if "about" not in inspect(connection).get_table_names():
            _refuse_foreign(connection, url)
            schema.metadata.create_all(connection)
            version = schema.about.insert().values(schema_version=schema.SCHEMA_VERSION)
            connection.execute(version)
        _check_version(connection, url)
    return engine


def open_for_reading(url: str) -> Engine:
    """Opens an existing store so that nothing can be changed and the writer is never held up.

    Raises:
        StoreError: if there is none, or it is not one that this version can read.
    """
    if is_server(url):
        engine = _server_engine(url, "-c default_transaction_read_only=on")
    else:
        path = _file(url)
        if not path.is_file():
            raise StoreError(f"there is no store {str(path)!r} (from {Path.cwd()})")
        engine = _file_reader(path)
    if not _look(engine, url):
        raise StoreError(f"{_without_password(url)!r} is not a shoal store: it is empty")
    return engine


def _file_reader(path: Path) -> Engine:
    """Returns an engine that cannot change the file."""
    database = f"file:{quote(str(path))}"
    query = {"mode": "ro", "uri": "true"}
    return create_engine(URL.create("sqlite", database=database, query=query), poolclass=NullPool)


def _look(engine: Engine, url: str) -> bool:
    """Returns whether our tables are there.

    Raises:
        StoreError: if the database is somebody else's, or of another version.
    """
    try:
        with engine.connect() as connection:
            if "about" not in inspect(connection).get_table_names():
                _refuse_foreign(connection, url)
                return False
            _check_version(connection, url)
            return True
    except DatabaseError as error:
        cause = str(error.orig)
        raise StoreError(f"{_without_password(url)!r} is not a shoal store: {cause}") from error


def lock(engine: Engine, url: str, campaign: str) -> Callable[[], None]:
    """Takes a campaign for this process; the lock ends with the process, however it dies.

    Returns:
        What gives the lock back.

    Raises:
        StoreError: if another process has it.
    """
    refusal = (
        f"campaign {campaign!r} is being run by another process; wait for it, or stop it first"
    )
    if is_server(url):
        connection = engine.connect()
        query = text("SELECT pg_try_advisory_lock(:key)")
        if not connection.execute(query, {"key": _lock_key(campaign)}).scalar():
            connection.close()
            raise StoreError(refusal)
        return connection.close
    file = _lock_file(url, campaign).open("w")
    for patience in (0.1, 0.2, 0.4, 0.0):  # a reader may be looking just now
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if not patience:
                file.close()
                raise StoreError(refusal) from error
            time.sleep(patience)

    # The file stays: to unlink it would let a process that waits on it and one that makes it anew
    # both believe that they hold the lock.
    return file.close


def is_locked(engine: Engine, url: str, campaign: str) -> bool:
    """Whether a process is running this campaign."""
    if is_server(url):
        key = {"key": _lock_key(campaign)}
        with engine.connect() as connection:
            free = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar()
            if free:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
            return not free
    path = _lock_file(url, campaign)
    if not path.is_file():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _lock_key(campaign: str) -> int:
    return int(hashlib.blake2b(campaign.encode(), digest_size=7).hexdigest(), 16)


def _lock_file(url: str, campaign: str) -> Path:
    path = _file(url)
    return path.with_name(f"{path.name}.{_lock_key(campaign):x}.lock")


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///")).expanduser().resolve()


def _server_engine(url: str, options: str = "") -> Engine:
    _, _, rest = url.partition("://")
    arguments = {"options": options} if options else {}
    try:
        engine = create_engine(
            f"postgresql+psycopg://{rest}", poolclass=NullPool, connect_args=arguments
        )
        with engine.connect():
            return engine
    except ImportError as error:
        raise StoreError(
            "a PostgreSQL store needs psycopg: pip install 'shoal[postgres]'"
        ) from error
    except Exception as error:
        cause = str(error).splitlines()[0]
        raise StoreError(f"cannot open store {_without_password(url)!r}: {cause}") from error


def _without_password(url: str) -> str:
    head, _, host = url.rpartition("@")
    return f"{head.partition(':')[0]}://...@{host}" if head else url


def _set_up_sqlite(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None  # transactions are begun by us, below
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",  # readers never wait for the writer, nor it for them
        "synchronous = FULL",  # an outcome that was recorded survives a power cut
        "foreign_keys = ON",
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    """Takes the write lock at once: a reader that turns writer half-way could only fail."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _refuse_foreign(connection: Connection, url: str) -> None:
    if inspect(connection).get_table_names():
        raise StoreError(f"{_without_password(url)!r} is a database, but not a shoal store")


def _check_version(connection: Connection, url: str) -> None:
    found = cast("int", connection.execute(select(schema.about.c.schema_version)).scalar_one())
    if found != schema.SCHEMA_VERSION:
        raise StoreError(
            f"store {_without_password(url)!r} has schema {found}, this shoal knows "
            f"{schema.SCHEMA_VERSION}; use the shoal that wrote it"
        )

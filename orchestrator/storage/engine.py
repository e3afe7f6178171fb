"""Opening the database: SQLite in a file by default, PostgreSQL by URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from orchestrator.storage import schema
from orchestrator.storage.base import StoreError

#: Milliseconds a reader or writer waits for another.
_BUSY_TIMEOUT_MS = 30_000
#: Kibibytes of the file kept in memory: the indexes of a million candidates.
_CACHE_KIB = 65_536
#: Pages of the write-ahead log before it is folded into the file.
_CHECKPOINT_PAGES = 4_000
#: Lock that is held while tables are made, on a server.
_TABLES_KEY = 0x5304A1


def is_server(url: str) -> bool:
    """Whether a store is a database server rather than a file."""
    return url.startswith(("postgresql:", "postgres:", "postgresql+"))


def open_for_writing(url: str) -> Engine:
    """Opens a store, making its file, folder and tables if there are none.

    A store of an earlier version is brought up to date, after a copy.

    Raises:
        StoreError: if it cannot be opened or was written by a newer version; it is not touched.
    """
    engine = writing_engine(url)
    try:
        return _up_to_date(engine, url)
    except OperationalError as error:
        raise StoreError(f"cannot open store {without_password(url)!r}: {error.orig}") from error


def _up_to_date(engine: Engine, url: str) -> Engine:
    with engine.begin() as connection:  # one transaction: two first runs make the tables once
        if is_server(url):
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TABLES_KEY})
        version = found_version(connection, url)
        if version is None:
            schema.metadata.create_all(connection)
            number = f"{schema.SCHEMA_VERSION:04}"
            connection.execute(schema.alembic_version.insert().values(version_num=number))
    if version is not None and version < schema.SCHEMA_VERSION:
        from orchestrator.storage.migrate import upgrade

        upgrade(engine, url)
    return engine


def writing_engine(url: str) -> Engine:
    """Returns an engine that can write a store that is ours or empty; makes nothing but its file.

    Raises:
        StoreError: if it is neither, or of a newer version.
    """
    if is_server(url):
        engine = _server_engine(url)
    else:
        path = store_file(url)
        if path.is_file() and path.stat().st_size > 0:
            _look(_file_reader(path), url)  # refuses before anything is set up in the file
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    return engine


def open_for_reading(url: str) -> Engine:
    """Opens an existing store so that nothing can be changed and the writer is never held up.

    Raises:
        StoreError: if there is none, or it is not one that this version can read.
    """
    if is_server(url):
        engine = _server_engine(url, "-c default_transaction_read_only=on")
    else:
        path = store_file(url)
        if not path.is_file():
            raise StoreError(f"there is no store {str(path)!r} (from {Path.cwd()})")
        engine = _file_reader(path)
    version = _look(engine, url)
    if version is None:
        raise StoreError(f"{without_password(url)!r} is not a shoal store: it is empty")
    if version < schema.SCHEMA_VERSION:
        raise StoreError(
            f"store {without_password(url)!r} has schema {version}, this shoal reads "
            f"{schema.SCHEMA_VERSION}; bring it up to date with: shoal db upgrade --store {url}"
        )
    return engine


def _file_reader(path: Path) -> Engine:
    """Returns an engine that cannot change the file."""
    database = f"file:{quote(str(path))}"
    query = {"mode": "ro", "uri": "true"}
    return create_engine(URL.create("sqlite", database=database, query=query), poolclass=NullPool)


def found_version(connection: Connection, url: str) -> int | None:
    """Returns the number of the last migration of a store, or None if it is empty.

    Raises:
        StoreError: if the database is somebody else's, or of a newer version.
    """
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if "about" in tables:  # the first version, which knew no migrations
        return 1
    if not {"alembic_version", "campaign"} <= tables:
        raise StoreError(f"{without_password(url)!r} is a database, but not a shoal store")
    found = int(connection.execute(select(schema.alembic_version.c.version_num)).scalar_one())
    if found > schema.SCHEMA_VERSION:
        raise StoreError(
            f"store {without_password(url)!r} has schema {found}, this shoal knows "
            f"{schema.SCHEMA_VERSION} and older; use a newer shoal"
        )
    return found


def _look(engine: Engine, url: str) -> int | None:
    """Returns a store's version, with the database's own complaints made ours."""
    try:
        with engine.connect() as connection:
            return found_version(connection, url)
    except (DatabaseError, UnicodeError) as error:
        cause = str(error.orig) if isinstance(error, DatabaseError) else f"malformed: {error}"
        raise StoreError(f"{without_password(url)!r} is not a shoal store: {cause}") from error


def insert_into(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Returns an insertion that can say what happens to rows that are there already."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def store_file(url: str) -> Path:
    """Returns the file of a store that is no server."""
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
        raise StoreError(f"cannot open store {without_password(url)!r}: {cause}") from error


def without_password(url: str) -> str:
    """Returns a store's address as it may be shown."""
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
        f"cache_size = -{_CACHE_KIB}",
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    """Takes the write lock at once: a reader that turns writer half-way could only fail."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")

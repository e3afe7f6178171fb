"""A disk that fails and a process that is killed at any statement; SQLite itself is real."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from orchestrator.storage import engine as engines
from tests.simulation.world import Crash, Process, World

T = TypeVar("T")

#: What may befall a statement...
AT_STATEMENT = ("crash before", "crash after", "I/O error", "disk full", "no page")
#: ...and what may befall a commit beside: a file that cannot grow, an error although all is in the
#: store, a power cut.
AT_COMMIT = ("no space", "unsure commit", "power cut")
#: ...and the beginning of a transaction: the process stops there for long without knowing it.
AT_BEGIN = ("takeover",)
_MESSAGES = {"I/O error": "disk I/O error", "disk full": "database or disk is full"}


class Connection(sqlite3.Connection):
    """A connection of a simulated process; one without a process is never disturbed."""

    world: World | None = None
    process: Process | None = None
    dead = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursors: weakref.WeakSet[Cursor] = weakref.WeakSet()

    def cursor(self, factory: Any = None) -> sqlite3.Cursor:
        del factory
        cursor = super().cursor(Cursor)
        if self.process is not None:
            self.cursors.add(cursor)
        return cursor

    def commit(self) -> None:
        if self.process is None:
            super().commit()
            return
        alone = self.world is not None and len(self.world.running) == 1
        kinds = AT_COMMIT if alone else AT_COMMIT[:2]  # others would lose power, too
        kind = self.step("COMMIT", *AT_STATEMENT, *kinds)
        if kind == "unsure commit":
            super().commit()
            raise sqlite3.OperationalError("disk I/O error")
        if kind == "power cut":
            self._lose_power()
        self.suffer(kind, super().commit)

    def rollback(self) -> None:
        if not self.dead:
            super().rollback()

    def close(self) -> None:
        if not self.dead:
            for cursor in list(self.cursors):  # one that is half read would keep its locks
                cursor.close()
            super().close()
            self.dead = True

    def step(self, sql: str, *kinds: str) -> str | None:
        """Counts a step of the process; returns what befalls it."""
        assert self.process is not None
        assert self.world is not None
        if self.dead or self.process.dead:
            raise Crash
        if self.world.verbose:
            self.world.note(f"{self.process.steps + 1}: {' '.join(sql.split())[:90]}")
        kind = self.process.due(*kinds)
        if kind is not None:
            self.process.hurt = self.process.hurt or kind != "takeover"
            self.world.happen(kind, f"at step {self.process.steps}: {' '.join(sql.split())[:60]}")
        return kind

    def suffer(self, kind: str | None, deed: Callable[[], T]) -> T:
        """Does what was asked for, as far as what befalls it allows."""
        assert self.process is not None
        if kind == "crash before":
            self.process.die()
            raise Crash
        if kind in _MESSAGES:
            super().rollback()  # as SQLite does by itself after such errors
            raise sqlite3.OperationalError(_MESSAGES[kind])
        if kind == "no page":
            (pages,) = sqlite3.Connection.execute(self, "PRAGMA page_count").fetchone()
            sqlite3.Connection.execute(self, f"PRAGMA max_page_count = {pages}").fetchone()
        with _little_space(self.path) if kind == "no space" else _space():
            result = deed()
        if kind == "crash after":
            self.process.die()
            raise Crash
        return result

    @property
    def can_pause(self) -> bool:
        """Whether the process drives, and no other process waits for it."""
        assert self.process is not None
        assert self.world is not None
        return self.process.driver is not None and self.world.running == [self.process]

    @property
    def path(self) -> Path:
        assert self.world is not None
        return self.world.path

    def _lose_power(self) -> None:
        """Commits, and then all that was not on the disk for certain is gone, in part or whole."""
        assert self.process is not None
        assert self.world is not None
        world, log = self.world, Path(f"{self.path}-wal")
        (synchronous,) = sqlite3.Connection.execute(self, "PRAGMA synchronous").fetchone()
        safe = log.stat().st_size if synchronous >= 2 and log.exists() else 0
        super().commit()
        left = world.path.with_name(f"{world.path.stem}+.db")
        shutil.copyfile(world.path, left)
        if log.exists():
            data = log.read_bytes()
            edge = world.random.randint(min(safe, len(data)), len(data))
            Path(f"{left}-wal").write_bytes(data[:edge])
        world.path = left
        self.process.die()
        raise Crash


class Cursor(sqlite3.Cursor):
    """Counts the statements of its connection's process."""

    connection: Connection

    def execute(self, sql: str, *parameters: Any) -> Any:
        return self._do(sql, partial(super().execute, sql, *parameters))

    def executemany(self, sql: str, *parameters: Any) -> Any:
        return self._do(sql, partial(super().executemany, sql, *parameters))

    def _do(self, sql: str, deed: Callable[[], T]) -> T:
        connection = self.connection
        if connection.process is None:
            return deed()
        kinds = AT_STATEMENT
        if sql.startswith("BEGIN") and connection.can_pause:
            kinds += AT_BEGIN
        kind = connection.step(sql, *kinds)
        if kind == "takeover":
            connection.process.pause()
        return connection.suffer(kind, deed)


@contextmanager
def _space() -> Iterator[None]:
    yield


@contextmanager
def _little_space(path: Path) -> Iterator[None]:
    """Lets no file grow: the system itself refuses what SQLite writes, in the middle of it."""
    log = Path(f"{path}-wal")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(log.stat().st_size if log.exists() else 0, 32_768)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@cache
def _template() -> Engine:
    """An engine whose dialect and compiled statements all others share, which saves most time."""
    engine = create_engine("sqlite://")
    engine.connect().close()
    return engine


@cache
def empty_store() -> bytes:
    """A store whose tables are made: making them takes as long as some turns."""
    with tempfile.TemporaryDirectory(prefix="shoal-simulation-") as folder:
        path = Path(folder) / "empty.db"
        engines.open_for_writing(str(path)).dispose()
        return path.read_bytes()


def engines_of(world: World) -> Callable[..., Engine]:
    """Returns what stands for `create_engine`: the connections belong to the running process."""

    def connect(url: Any) -> Connection:
        arguments, options = _template().dialect.create_connect_args(url)
        connection = sqlite3.connect(*arguments, factory=Connection, **options)
        assert isinstance(connection, Connection)
        connection.world, connection.process = world, world.current
        if world.current is not None:
            world.current.connections.append(connection)
        return connection

    def create(url: Any, **settings: Any) -> Engine:
        del settings
        dialect = _template().dialect
        engine = Engine(NullPool(partial(connect, url), dialect=dialect), dialect, url)
        engine._compiled_cache = _template()._compiled_cache
        return engine

    return create

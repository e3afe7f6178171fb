"""An older store is brought up to date whole or not at all, and a store is copied while in use."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import DatabaseError, IntegrityError

from orchestrator.campaign.state import Again, Recorded, Retry
from orchestrator.storage import engine as engines
from orchestrator.storage import lease, migrate, schema, upkeep
from orchestrator.storage.base import Begun, StoreError, Taken, Turn
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from workers.job import Job
from workers.recipe import average

POSTGRES = os.environ.get("SHOAL_TEST_POSTGRES")
BACKENDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
MIGRATIONS = Path(migrate.__file__).parent / "migrations"


@pytest.fixture(params=BACKENDS)
def urls(request, tmp_path):
    """Gives empty stores: files that are not there yet, or new databases of a server."""
    if request.param == "sqlite":
        yield lambda: str(tmp_path / uuid.uuid4().hex[:8] / "shoal.db")
        return
    if not POSTGRES:
        pytest.skip("SHOAL_TEST_POSTGRES names no PostgreSQL server")
    admin = create_engine(
        POSTGRES.replace("postgresql://", "postgresql+psycopg://", 1), isolation_level="AUTOCOMMIT"
    )
    made = []

    def make() -> str:
        made.append(f"shoal_test_{uuid.uuid4().hex[:12]}")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {made[-1]}"))
        server, _, query = POSTGRES.partition("?")
        return server.rpartition("/")[0] + f"/{made[-1]}" + (f"?{query}" if query else "")

    yield make
    with admin.connect() as connection:
        for name in made:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def url(urls) -> str:
    return urls()


# A store of the first version, as its own code wrote it.

RECIPES = {
    name: {"kind": "merge", "method": "ties", "sources": ["ä", name], "options": {"k": 0.5}}
    for name in ("r1", "s1", "s2", "s3", "s4", "c1")
}
GENOMES = {"s1": [0.1, -1e-300, 3.0], "s2": [1 / 3, 0, 2], "s3": [], "s4": [1.0], "c1": [-0.0]}
ROLES = {"r": "reference", "s": "search", "c": "control"}
BITS = b"b" + struct.pack("<I", 3) + b"\x05"
FLOATS = b"f" + struct.pack("<2f", 0.25, 1.5)

CAMPAIGNS = [
    # id, name, search settings, versions, state, reason, generation
    (1, "one", {"space": {"a": [1]}, "seed": 7}, {"lm_eval": "0.4.13"}, "running", None, 2),
    (2, "two", {}, {"lm-eval": "0.4.9"}, "finished", "generations", 1),
    (5, "empty", {"seed": 3}, {}, "stopped", "failures", 0),
]
CANDIDATES = [
    # campaign, id, generation, state, fitness
    (1, "r1", 0, "scored", 0.5),
    (1, "s1", 1, "scored", 0.1 + 0.2),
    (1, "s2", 1, "failed", None),
    (1, "c1", 1, "scored", -1.0),
    (1, "s3", 2, "proposed", None),
    (1, "s4", 2, "proposed", None),
    (2, "s1", 1, "scored", 9.0),
]
PARENTS = [(1, "s3", 0, "s1"), (1, "s3", 1, "r1"), (1, "s4", 0, "s2"), (1, "s4", 1, "s1")]
ATTEMPTS = [
    # id, campaign, candidate, rows, number, state, sequence, fitness, seconds, stage, cause, final
    (1, 1, "r1", "search", 1, "scored", 1, 0.5, 1.5, None, None, 1),
    (2, 1, "s1", "search", 1, "failed", 2, None, 2.0, "worker", "the worker died", 0),
    (3, 1, "s1", "search", 2, "scored", 3, 0.1 + 0.2, 2.5, None, None, 1),
    (4, 1, "s2", "search", 1, "failed", 4, None, 0.5, "build", "ValueError: no", 1),
    (5, 1, "s3", "search", 1, "lost", None, None, None, None, None, None),
    (6, 1, "s3", "search", 1, "open", None, None, None, None, None, None),
    (7, 1, "s1", "test", 1, "scored", 5, 4.0, 3.0, None, None, 1),
    (8, 1, "c1", "search", 1, "scored", 6, -1.0, 1.0, None, None, 1),
    (11, 2, "s1", "search", 1, "scored", 1, 9.0, 1.0, None, None, 1),
]
SCORES = [
    (1, "r1", "search", "t", 0.5, 0.1, 3, 1.0, BITS),
    (1, "s1", "search", "t", 1 / 3, None, 3, -2.5, BITS),
    (1, "s1", "test", "u", 4.0, 0.0, 2, 1.0, FLOATS),
    (2, "s1", "search", "t", 9.0, None, 0, 1.0, b"b" + struct.pack("<I", 0)),
]


def rows_of_the_first_version():
    for one, name, search, versions, state, reason, generation in CAMPAIGNS:
        yield "campaign", {
            "id": one, "name": name, "settings": json.dumps({"name": name}),
            "search_settings": json.dumps(search), "versions": json.dumps(versions),
            "state": state, "reason": reason, "generation": generation,
            "started_at": 100.25, "elapsed_s": 12.5,
        }  # fmt: skip
    for campaign, one, generation, state, fitness in CANDIDATES:
        yield "candidate", {
            "campaign": campaign, "id": one, "role": ROLES[one[0]], "number": int(one[1:]),
            "generation": generation, "name": "base" if one == "r1" else "",
            "genome": json.dumps(GENOMES[one]) if one in GENOMES else None,
            "recipe": json.dumps(RECIPES[one]), "digest": digest(one).hex(),
            "operator": "sbx", "state": state, "fitness": fitness,
        }  # fmt: skip
    for row in PARENTS:
        yield "parentage", dict(zip(("campaign", "child", "place", "parent"), row, strict=True))
    for row in ATTEMPTS:
        yield (
            "attempt",
            {
                **dict(zip(ATTEMPT_NAMES, row, strict=True)),
                "started_at": 1000.0 + row[0],
                "worker": None if row[5] in ("open", "lost") else "w",
                "retryable": int(row[9] == "worker") if row[5] == "failed" else None,
            },
        )
    for row in SCORES:
        yield "score", dict(zip(SCORE_NAMES, row, strict=True))


ATTEMPT_NAMES = (
    "id", "campaign", "candidate", "rows", "number", "state", "sequence", "fitness", "seconds",
    "stage", "cause", "final",
)  # fmt: skip
SCORE_NAMES = (
    "campaign", "candidate", "rows", "task", "value", "stderr", "documents", "weight",
    "per_document",
)  # fmt: skip


def digest(candidate: str) -> bytes:
    canonical = json.dumps(RECIPES[candidate], sort_keys=True).encode()
    return hashlib.blake2b(canonical, digest_size=16).digest()


def migrate_to(connection, revision: str) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    command.upgrade(config, revision)


def make_first_version(url: str) -> None:
    engine = engines.writing_engine(url)
    with engine.begin() as connection:
        migrate_to(connection, "0001")
        connection.execute(text("DROP TABLE alembic_version"))  # which it did not know
        for table, row in rows_of_the_first_version():
            places = ", ".join(f":{name}" for name in row)
            connection.execute(
                text(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})"), row
            )
    engine.dispose()


@pytest.fixture
def old(url) -> str:
    make_first_version(url)
    return url


# What a database holds.


@contextmanager
def looking(url: str):
    """A connection that changes nothing, to a store of any version."""
    if engines.is_server(url):
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    else:
        engine = create_engine(f"sqlite:///file:{url}?mode=ro&uri=true")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def content(url: str, namespace: str | None = None) -> dict[str, list]:
    """Returns all rows of all tables."""
    with looking(url) as connection:
        found = {}
        for table in inspect(connection).get_table_names(schema=namespace):
            full = f"{namespace}.{table}" if namespace else table
            rows = connection.execute(text(f"SELECT * FROM {full}")).mappings()
            found[table] = sorted((dict(row) for row in rows), key=repr)
    return found


SERVER_STRUCTURE = """
SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public';
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public';
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace;
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal;
SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace;
SELECT sequence_name, data_type FROM information_schema.sequences;
SELECT nspname FROM pg_namespace
WHERE nspname NOT LIKE 'pg_%' AND nspname NOT LIKE 'shoal_v%_backup%'
"""


def structure(url: str) -> list[set]:
    """Returns all that a database was told to be, white space aside."""
    queries = SERVER_STRUCTURE.split(";")
    if not engines.is_server(url):
        queries = ["SELECT type, name, tbl_name, sql FROM sqlite_master"]

    def plain(value):
        return " ".join(value.split()) if isinstance(value, str) else value

    with looking(url) as connection:
        return [
            {tuple(map(plain, row)) for row in connection.execute(text(query))} for query in queries
        ]


def copies(url: str) -> list[str]:
    if engines.is_server(url):
        with looking(url) as connection:
            return [one for one in inspect(connection).get_schema_names() if "_backup" in one]
    return sorted(str(one) for one in Path(url).parent.glob("*.bak*"))


def content_of_copy(url: str, copy: str) -> dict[str, list]:
    return content(url, copy) if engines.is_server(url) else content(copy)


def files(url: str) -> set[str]:
    """Returns what lies beside a store's file, but for the files of its open connections."""
    return {
        one.name for one in Path(url).parent.iterdir() if not one.name.endswith(("-wal", "-shm"))
    }


def run(url: str, *statements: str) -> None:
    engine = engines.writing_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


# The schema.


def test_the_newest_migration_is_the_version_of_the_tables():
    assert migrate.head() == f"{schema.SCHEMA_VERSION:04}"


def test_the_migrations_lead_to_the_tables_of_a_new_store(urls):
    fresh, migrated = urls(), urls()
    engines.open_for_writing(fresh).dispose()
    engine = engines.writing_engine(migrated)
    with engine.begin() as connection:
        migrate_to(connection, "head")
    with engine.begin() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()
    assert structure(migrated) == structure(fresh)
    assert content(migrated) == content(fresh)


def test_an_old_store_becomes_like_a_new_one(urls, old):
    fresh = urls()
    engines.open_for_writing(fresh).dispose()
    engines.open_for_writing(old).dispose()
    assert structure(old) == structure(fresh)
    assert content(old)["alembic_version"] == [{"version_num": migrate.head()}]


# The data.


@pytest.fixture
def upgraded(old) -> dict[str, list]:
    engines.open_for_writing(old).dispose()
    return content(old)


def test_campaigns_are_carried_over(upgraded):
    found = {row["id"]: row for row in upgraded["campaign"]}
    assert set(found) == {1, 2, 5}
    for one, name, search, versions, state, reason, generation in CAMPAIGNS:
        canonical = json.dumps(search, sort_keys=True).encode()
        expected = {
            "name": name,
            "settings": json.dumps({"name": name}),
            "search_settings": json.dumps(search),
            "settings_hash": hashlib.blake2b(canonical, digest_size=16).hexdigest(),
            "seed": search.get("seed", 0),
            "versions": json.dumps(versions),
            "state": "interrupted" if state == "running" else state,
            "reason": reason,
            "generation": generation,
            "started_at": 100.25,
            "elapsed_s": 12.5,
            "num_cached": 0,
            "parent": None,
            "history": "[]",
            "lease_token": None,
            "stop_requested": 0,
        }
        assert {key: found[one][key] for key in expected} == expected
    counts = {
        one: (row["sequence"], row["num_scored"], row["num_failed"]) for one, row in found.items()
    }
    assert counts == {1: (6, 3, 1), 2: (1, 1, 0), 5: (0, 0, 0)}


def test_candidates_are_carried_over(upgraded):
    found = {(row["campaign"], row["id"]): row for row in upgraded["candidate"]}
    assert set(found) == {(campaign, one) for campaign, one, *_ in CANDIDATES}
    for campaign, one, generation, *_ in CANDIDATES:
        genome = GENOMES.get(one)
        assert found[campaign, one] == {
            "campaign": campaign,
            "id": one,
            "role": ROLES[one[0]],
            "number": int(one[1:]),
            "generation": generation,
            "name": "base" if one == "r1" else "",
            "genome": None if genome is None else struct.pack(f"<{len(genome)}d", *genome),
            "recipe": zlib.compress(
                json.dumps(RECIPES[one], separators=(",", ":")).encode(), 6
            ),
            "digest": digest(one),
            "operator": "sbx",
        }  # fmt: skip


def test_parents_are_carried_over(upgraded):
    names = ("campaign", "child", "place", "parent", "role")
    assert {tuple(row[name] for name in names) for row in upgraded["parentage"]} == {
        (*row, "mate" if row[2] else "parent") for row in PARENTS
    }


def test_attempts_are_carried_over_and_what_was_open_is_lost(upgraded):
    found = {row["id"]: row for row in upgraded["attempt"]}
    assert set(found) == {row[0] for row in ATTEMPTS}
    empty = ("evaluation", "log", "node", "device", "lease_until", "accelerator_seconds")
    for row in ATTEMPTS:
        given = dict(zip(ATTEMPT_NAMES, row, strict=True))
        kind = "lost" if given["stage"] == "worker" else "error"
        expected = {
            **given,
            "state": "lost" if given["state"] == "open" else given["state"],
            "started_at": 1000.0 + given["id"],
            "ended_at": 1000.0 + given["id"] + (given["seconds"] or 0.0),
            "kind": kind if given["state"] == "failed" else None,
            **dict.fromkeys(("cached", "halvings", "retried"), 0),
            **dict.fromkeys(empty),
        }
        assert {key: found[given["id"]][key] for key in expected} == expected
    assert (found[2]["retryable"], found[4]["retryable"], found[1]["worker"]) == (1, 0, "w")


def test_scores_are_carried_over_with_the_harness_that_made_them(upgraded):
    names = (*SCORE_NAMES, "harness")
    harness = {1: "0.4.13", 2: "0.4.9"}
    assert {tuple(row[name] for name in names) for row in upgraded["score"]} == {
        (*row, harness[row[0]]) for row in SCORES
    }


def test_new_rows_are_numbered_after_the_old_ones(old):
    engines.open_for_writing(old).dispose()
    run(
        old,
        "INSERT INTO campaign (name, settings, search_settings, settings_hash, seed, versions,"
        " state, started_at) VALUES ('new', '{}', '{}', '', 0, '{}', 'running', 0)",
        "INSERT INTO attempt (campaign, candidate, rows, number, started_at)"
        " VALUES (1, 's4', 'search', 1, 0)",
    )
    found = content(old)
    assert max(row["id"] for row in found["campaign"] if row["name"] == "new") == 6
    assert max(row["id"] for row in found["attempt"]) == 12


def test_an_old_store_without_campaigns_is_brought_up_to_date(url):
    make_first_version(url)
    tables = ("score", "attempt", "parentage", "candidate", "campaign")
    run(url, *(f"DELETE FROM {table}" for table in tables))
    engines.open_for_writing(url).dispose()
    assert content(url)["campaign"] == []


def test_many_candidates_are_carried_over(old):
    """More than are held in memory at a time."""
    engine = engines.writing_engine(old)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO candidate (campaign, id, role, number, generation, name, genome,"
                " recipe, digest, operator) VALUES (2, :id, 'search', :number, 1, '', '[1.0]',"
                " '{}', 'ff', '')"
            ),
            [{"id": f"s{number}", "number": number} for number in range(2, 2002)],
        )
    engine.dispose()
    engines.open_for_writing(old).dispose()
    assert len(content(old)["candidate"]) == len(CANDIDATES) + 2000


# The copy.


def test_a_copy_of_the_old_store_lies_beside_the_new_one(old):
    before, shape = content(old), structure(old)
    engines.open_for_writing(old).dispose()
    (copy,) = copies(old)
    assert content_of_copy(old, copy) == before
    if engines.is_server(old):
        assert copy == "shoal_v1_backup"
    else:
        assert copy == f"{old}.v1.bak"
        assert structure(copy) == shape
        assert files(old) == {"shoal.db", "shoal.db.v1.bak"}


def test_an_earlier_copy_is_kept(old):
    engine = engines.writing_engine(old)
    if engines.is_server(old):
        run(old, "CREATE SCHEMA shoal_v1_backup", "CREATE SCHEMA shoal_v1_backup_1")
        assert migrate.upgrade(engine, old) == "shoal_v1_backup_2"
    else:
        for ending in ("", "-1"):
            Path(f"{old}.v1.bak{ending}").write_text("precious")
        assert migrate.upgrade(engine, old) == f"{old}.v1.bak-2"
        assert Path(f"{old}.v1.bak").read_text() == "precious"
    engine.dispose()


def test_a_store_that_is_up_to_date_is_left_alone(url):
    engine = engines.open_for_writing(url)
    assert migrate.upgrade(engine, url) is None
    assert copies(url) == []
    engine.dispose()


def test_nothing_is_printed(old, caplog, capfd):
    caplog.set_level(logging.INFO)
    engines.open_for_writing(old).dispose()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


# What goes wrong.


def test_an_upgrade_that_fails_leaves_the_old_store_as_it_was(old, monkeypatch):
    before, shape = content(old), structure(old)
    calls: Iterator[int] = iter(range(99))

    def compress(*_):
        if next(calls) == 3:
            raise RuntimeError("half-way")
        return b""

    with monkeypatch.context() as patch:
        patch.setattr(zlib, "compress", compress)
        with pytest.raises(RuntimeError, match="half-way"):
            engines.open_for_writing(old)
    assert (content(old), structure(old)) == (before, shape)
    engines.open_for_writing(old).dispose()
    assert [content_of_copy(old, copy) for copy in copies(old)] == [before, before]


KILLED = """
import os, sys, zlib
from orchestrator.storage.engine import open_for_writing
zlib.compress = lambda *_: os.kill(os.getpid(), 9)
open_for_writing(sys.argv[1])
"""


def test_a_process_killed_in_an_upgrade_leaves_the_old_store_as_it_was(old):
    before, shape = content(old), structure(old)
    assert subprocess.run([sys.executable, "-c", KILLED, old]).returncode == -9
    assert (content(old), structure(old)) == (before, shape)
    engines.open_for_writing(old).dispose()
    assert len(content(old)["candidate"]) == len(CANDIDATES)


def test_rows_that_the_new_tables_refuse_are_said_and_left(old):
    run(old, "UPDATE attempt SET number = 0 WHERE id = 1")
    before = content(old)
    with pytest.raises(StoreError, match=r"could not be brought up to date.*attempt_numbers"):
        engines.open_for_writing(old)
    assert content(old) == before


OPENER = """
import sys
from orchestrator.storage import migrate
from orchestrator.storage.engine import open_for_writing
migrate.head()  # so that nothing is left to import
print("ready", flush=True)
sys.stdin.readline()
open_for_writing(sys.argv[1]).dispose()
"""


def test_processes_that_open_an_old_store_at_once_upgrade_it_once(old):
    before = content(old)
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, old],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for opener in openers:
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        opener.stdin.write("go\n")
        opener.stdin.flush()
    for opener in openers:
        opener.communicate(timeout=60)
    assert [opener.returncode for opener in openers] == [0, 0, 0]
    (copy,) = copies(old)
    assert content_of_copy(old, copy) == before
    assert len(content(old)["candidate"]) == len(CANDIDATES)


def test_threads_may_upgrade_different_stores_at_once(urls):
    stores = [urls() for _ in range(3)]
    for url in stores:
        make_first_version(url)
    threads = [threading.Thread(target=engines.open_for_writing, args=(url,)) for url in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for url in stores:
        assert len(content(url)["candidate"]) == len(CANDIDATES)


def test_a_newer_store_is_refused_and_left_alone(url, tmp_path):
    engine = engines.open_for_writing(url)
    run(url, f"UPDATE alembic_version SET version_num = '{schema.SCHEMA_VERSION + 1:04}'")
    before, shape = content(url), structure(url)
    with pytest.raises(StoreError, match=f"schema {schema.SCHEMA_VERSION + 1}"):
        engines.open_for_writing(url)
    with pytest.raises(StoreError, match=f"schema {schema.SCHEMA_VERSION + 1}"):
        migrate.upgrade(engine, url)
    with pytest.raises(StoreError, match=f"schema {schema.SCHEMA_VERSION + 1}"):
        migrate.backup(url, tmp_path / "copy.db")
    assert (content(url), structure(url), copies(url)) == (before, shape, [])
    assert not (tmp_path / "copy.db").exists()
    engine.dispose()


@contextmanager
def driver_of_the_first_version(url: str, campaign: str):
    """Holds a campaign as a running driver of the first version did."""
    key = int(hashlib.blake2b(campaign.encode(), digest_size=7).hexdigest(), 16)
    if engines.is_server(url):
        with looking(url) as connection:
            connection.execute(text(f"SELECT pg_advisory_lock({key})"))
            yield
        return
    with Path(f"{url}.{key:x}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_store_that_an_older_driver_writes_is_refused_until_it_ends(old):
    before = content(old)
    with driver_of_the_first_version(old, "two"):
        with pytest.raises(StoreError, match="'two' is being run by an older shoal"):
            engines.open_for_writing(old)
        assert (content(old), copies(old)) == (before, [])
    engines.open_for_writing(old).dispose()
    assert len(copies(old)) == 1


# A store of the second version, as its own code wrote it.

RECIPE = average(["models/a", "models/b"], base="models/base", num_layers=2, dtype="float32")
HALVES = b"h" + struct.pack("<2e", 0.25, 1.5)

SECOND_CANDIDATES = ("r1", "s1", "s2", "s3", "c1")
SECOND_ATTEMPTS = [
    # id, candidate, rows, number, state, sequence, fitness, cached, final, retried
    (1, "r1", "search", 1, "scored", 1, 0.5, 0, 1, 0),
    (2, "s1", "search", 1, "failed", 2, None, 0, 0, 0),
    (3, "s1", "search", 2, "scored", 3, 0.25, 0, 1, 0),
    (4, "s2", "search", 1, "failed", 4, None, 0, 1, 1),
    (5, "c1", "search", 1, "scored", 5, 0.25, 1, 1, 0),
    (6, "s2", "search", 2, "scored", 7, 1.75, 0, 1, 0),
    (7, "s3", "search", 1, "lost", None, None, 0, None, 0),
    (9, "s3", "search", 1, "failed", 8, None, 0, 1, 0),
    (10, "s1", "test", 1, "scored", 9, 0.125, 0, 1, 0),
    (12, "s2", "test", 1, "open", None, None, 0, None, 0),
]
SECOND_SCORES = [
    ("r1", "search", "t", 0.5, None, 3, BITS),
    ("s1", "search", "t", 0.125, 0.5, 2, HALVES),
    ("s1", "search", "u", 0.125, None, 2, FLOATS),
    ("c1", "search", "t", 0.25, None, 4, b"b" + struct.pack("<I", 0)),
    ("s2", "search", "t", 1.75, None, 2, HALVES),
    ("s1", "test", "t", 0.125, None, 3, BITS),
]


def rows_of_the_second_version():
    yield "campaign", {
        "id": 3, "name": "one", "settings": "{}", "search_settings": "{}", "settings_hash": "",
        "seed": 1, "versions": "{}", "state": "interrupted", "started_at": 0.5, "generation": 1,
        "sequence": 9, "num_scored": 4, "num_failed": 1, "num_cached": 1,
    }  # fmt: skip
    for one in SECOND_CANDIDATES:
        yield "candidate", {
            "campaign": 3, "id": one, "role": ROLES[one[0]], "number": int(one[1:]),
            "generation": 0 if one == "r1" else 1, "name": "base" if one == "r1" else "",
            "genome": None if one == "r1" else struct.pack("<d", 0.5),
            "recipe": zlib.compress(RECIPE.text().encode()),
            "digest": bytes.fromhex(RECIPE.digest()), "operator": "sample",
        }  # fmt: skip
    names = (
        "id", "candidate", "rows", "number", "state", "sequence", "fitness", "cached", "final",
        "retried",
    )  # fmt: skip
    for row in SECOND_ATTEMPTS:
        given = dict(zip(names, row, strict=True))
        ended = given["state"] != "open"
        failed = given["state"] == "failed"
        yield "attempt", {
            **given, "campaign": 3, "started_at": 10.0 + row[0], "evaluation": b"e%d" % row[0],
            "ended_at": 20.0 if ended else None, "seconds": 1.5 if given["sequence"] else None,
            "worker": "w", "cause": "no" if failed else None, "retryable": 1 if failed else None,
            "stage": "build" if failed else None, "kind": "error" if failed else None,
        }  # fmt: skip
    columns = ("candidate", "rows", "task", "value", "stderr", "documents", "per_document")
    for row in SECOND_SCORES:
        common = {"campaign": 3, "weight": 1.0, "harness": "0.4.13"}
        yield "score", common | dict(zip(columns, row, strict=True))
    wanted = json.dumps({"wanted": [["s2", "search", 2]]})
    yield "event", {"campaign": 3, "at": 1.0, "sequence": 6, "kind": "retry", "data": wanted}


@pytest.fixture
def second(url) -> str:
    engine = engines.writing_engine(url)
    with engine.begin() as connection:
        migrate_to(connection, "0002")
        for table, row in rows_of_the_second_version():
            places = ", ".join(f":{name}" for name in row)
            connection.execute(
                text(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})"), row
            )
    engine.dispose()
    return url


def test_a_store_of_the_second_version_becomes_like_a_new_one(urls, second):
    fresh, before = urls(), content(second)
    engines.open_for_writing(fresh).dispose()
    engines.open_for_writing(second).dispose()
    assert structure(second) == structure(fresh)
    (copy,) = copies(second)
    assert content_of_copy(second, copy) == before
    assert copy.endswith("v2.bak" if not engines.is_server(second) else "shoal_v2_backup")
    after = content(second)
    for table in ("campaign", "candidate", "parentage", "snapshot", "event", "artifact"):
        assert after[table] == before[table]


def test_what_was_scored_in_the_second_version_was_scored_on_all_rows(second):
    before = {row["id"]: row for row in content(second)["attempt"]}
    engines.open_for_writing(second).dispose()
    found = content(second)
    assert {row["id"] for row in found["attempt"]} == set(before)
    documents = {1: 3, 3: 4, 5: 4, 6: 2, 10: 3}
    for row in found["attempt"]:
        scored_on_search = row["id"] in (1, 3, 5, 6)
        assert row == {
            **before[row["id"]],
            "block": 0,
            "document_set": None,
            "documents": documents.get(row["id"]),
            "fidelity": 1.0 if scored_on_search else None,
            **dict.fromkeys(("own_fitness", "stderr", "tie")),
            **dict.fromkeys(("stopped", "superseded"), 0),
            "violation": 0.0,
            "objectives": None,
        }
    names = ("candidate", "rows", "task", "value", "stderr", "documents", "per_document")
    assert {tuple(row[name] for name in names) for row in found["score"]} == set(SECOND_SCORES)
    others = {(row["block"], row["log_likelihoods"], row["harness"]) for row in found["score"]}
    assert others == {(0, None, "0.4.13")}
    assert {tuple(row.values()) for row in found["spent"]} == {
        (3, "reference", "search", 3, 0), (3, "search", "search", 6, 0),
        (3, "search", "test", 3, 0), (3, "control", "search", 0, 0),
    }  # fmt: skip


def test_a_store_of_the_second_version_is_sound_and_goes_on(second, score):
    engines.open_for_writing(second).dispose()
    assert upkeep.check(second)["problems"] == []
    reader = Reader(second)
    assert [one.id for one in reader.best("one", 9)] == ["s2", "r1", "s1"]
    found = reader.candidate("one", "s1")
    assert (found.fidelity, found.documents) == (1.0, {"search": 4, "test": 3})
    assert found.scores["t"].per_document == found.scores["u"].per_document == (0.25, 1.5)
    with SqlStore(second, "one") as store:
        record = store.load()
        assert record is not None
        store.reopen({})
        entries = list(store.entries(0))
        s2 = store.candidates(["s2"])["s2"]
        assert entries[5] == Retry((Again(candidate=s2, rows="search", attempt=2),))
        keys = [one.outcome.key for one in entries if isinstance(one, Recorded)]
        recorded = sorted(
            (row[5], (row[1], row[2], 0, row[3])) for row in SECOND_ATTEMPTS if row[5]
        )
        assert keys == [key for _, key in recorded]
        assert list(store.standings(["s1", "s3"])) == ["s1"]
        assert store.cached([b"e3"])[b"e3"].fitness == 0.25
        store.retry([("s3", "search", 0, 2)])
        job = Job(candidate="s3", attempt=2, rows="search", recipe=RECIPE)
        store.write(Turn(begun=[Begun(job=job, lease_until=1.0)], generation=1))
        store.write(Turn(taken=[Taken(outcome=score(job, 9.0), final=True)], generation=1))
        assert reader.best("one", 1)[0].id == "s3"
    assert upkeep.check(second)["problems"] == []


def test_a_store_of_the_second_version_that_is_driven_is_refused_until_its_driver_ends(second):
    holder = lease.myself()
    values = f"lease_token = 'x', lease_holder = '{holder.as_json()}', leased_at = 1"
    engine = engines.writing_engine(second)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE campaign SET {values}, heartbeat_at = {time.time()}")
    before, shape = content(second), structure(second)
    with pytest.raises(StoreError, match="'one' is being run by an older shoal"):
        engines.open_for_writing(second)
    assert (content(second), structure(second), copies(second)) == (before, shape, [])
    gone = replace(holder, born="long ago").as_json()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE campaign SET lease_holder = '{gone}'")
    engine.dispose()
    engines.open_for_writing(second).dispose()
    assert len(copies(second)) == 1


KILLED_LATER = """
import os, sys
from alembic import op
from orchestrator.storage.engine import open_for_writing
op.drop_table = lambda *_, **__: os.kill(os.getpid(), 9)
open_for_writing(sys.argv[1])
"""


def test_a_process_killed_once_all_was_copied_leaves_the_second_version_as_it_was(second):
    before, shape = content(second), structure(second)
    assert subprocess.run([sys.executable, "-c", KILLED_LATER, second]).returncode == -9
    assert (content(second), structure(second)) == (before, shape)
    engines.open_for_writing(second).dispose()
    assert upkeep.check(second)["problems"] == []


# A store of the third version: what its own migration makes of one of the second, and a block.


@pytest.fixture
def third(second) -> str:
    engine = engines.writing_engine(second)
    with engine.begin() as connection:
        migrate_to(connection, "0003")
        connection.exec_driver_sql("UPDATE attempt SET superseded = 1 WHERE id = 9")
        connection.exec_driver_sql(
            "INSERT INTO attempt (id, campaign, candidate, rows, block, number, started_at, "
            "ended_at, state, sequence, fitness, stderr, fidelity, tie, stopped, documents, final, "
            "seconds, worker) VALUES (13, 3, 's3', 'search', 1, 2, 1.0, 2.0, 'scored', 10, "
            "9.5, 0.25, 0.5, -1.5, 1, 2, 1, 0.5, 'w')"
        )
    engine.dispose()
    return second


def test_a_store_of_the_third_version_becomes_like_a_new_one_and_keeps_all_its_rows(urls, third):
    fresh, before = urls(), content(third)
    engines.open_for_writing(fresh).dispose()
    engines.open_for_writing(third).dispose()
    assert structure(third) == structure(fresh)
    (copy,) = copies(third)
    assert content_of_copy(third, copy) == before
    assert copy.endswith("v3.bak" if not engines.is_server(third) else "shoal_v3_backup")
    after = content(third)
    new = {"violation": 0.0, "objectives": None}
    for table, rows in before.items():
        if table != "alembic_version":
            expected = [row | new for row in rows] if table == "attempt" else rows
            assert sorted(after[table], key=repr) == sorted(expected, key=repr)


def test_a_store_of_the_third_version_goes_on_with_constraints(third, score):
    engines.open_for_writing(third).dispose()
    reader = Reader(third)
    assert [one.id for one in reader.best("one", 9)] == ["s2", "r1", "s1", "s3"]
    assert [one.violation for one in reader.best("one", 9)] == [0.0] * 4
    run(third, "UPDATE attempt SET violation = 0.5 WHERE candidate = 's2' AND rows = 'search' "
        "AND state = 'scored'")  # fmt: skip
    assert [one.id for one in reader.best("one", 9)] == ["r1", "s1", "s2", "s3"]
    for change in ("violation = 0.25", "violation = 0", "objectives = fitness"):
        with pytest.raises((DatabaseError, IntegrityError)):
            run(third, f"UPDATE attempt SET {change} WHERE candidate = 's2' AND state = 'scored'")


# Backups.

LEASE = "lease_token = 'x', lease_holder = '{}', leased_at = 1, heartbeat_at = 2"


@pytest.fixture
def full(old) -> str:
    """A store with rows in every table, one campaign being driven, and a fork."""
    engines.open_for_writing(old).dispose()
    run(
        old,
        "INSERT INTO campaign (name, settings, search_settings, settings_hash, seed, versions,"
        " state, started_at, parent) VALUES ('fork', '{}', '{}', '', 0, '{}', 'running', 0, 1)",
        f"UPDATE campaign SET state = 'running', {LEASE} WHERE name = 'fork'",
        "INSERT INTO event (campaign, at, kind, data) VALUES (1, 0.5, 'stop', '{}')",
        "INSERT INTO snapshot SELECT 1, 6, 'f', recipe FROM candidate WHERE id = 'r1'",
        "INSERT INTO artifact (campaign, candidate, at, path, sha256, bytes)"
        f" VALUES (1, 's1', 0.5, 'a', '{'0' * 64}', 3000000000)",
    )
    return old


def test_a_backup_is_a_store_of_its_own_that_nobody_drives(full, tmp_path):
    to = tmp_path / "folder" / "copy.db"
    to.parent.mkdir()
    assert migrate.backup(full, to) == to
    expected = content(full)
    for row in expected["campaign"]:
        row |= dict.fromkeys(("lease_token", "lease_holder", "leased_at", "heartbeat_at"))
    expected["campaign"].sort(key=repr)
    assert content(str(to)) == expected
    assert [one.name for one in to.parent.iterdir()] == ["copy.db"]
    fresh = str(tmp_path / "fresh.db")
    engines.open_for_writing(fresh).dispose()
    assert structure(str(to)) == structure(fresh)
    with closing(sqlite3.connect(to)) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    engines.open_for_writing(str(to)).dispose()


def test_a_backup_holds_one_moment_and_does_not_wait_for_the_writer(full, tmp_path):
    engine = engines.open_for_writing(full)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with engine.begin() as connection:
                connection.execute(text("UPDATE campaign SET sequence = sequence + 1 WHERE id = 5"))
                connection.execute(
                    text("INSERT INTO event (campaign, at, kind, data) VALUES (5, 0, 'x', '')")
                )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            found = content(str(migrate.backup(full, tmp_path / f"copy{number}.db")))
            (sequence,) = (row["sequence"] for row in found["campaign"] if row["id"] == 5)
            assert len([row for row in found["event"] if row["campaign"] == 5]) == sequence
    finally:
        stop.set()
        writer.join()
    with engine.begin() as connection:  # a writer that has not committed
        connection.execute(text("UPDATE campaign SET generation = 77"))
        found = content(str(migrate.backup(full, tmp_path / "unfinished.db")))
    assert 77 not in {row["generation"] for row in found["campaign"]}
    engine.dispose()


def test_a_backup_overwrites_nothing(full, tmp_path):
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(StoreError, match="there already"):
        migrate.backup(full, tmp_path / "copy.db")
    with pytest.raises(StoreError, match="no folder"):
        migrate.backup(full, tmp_path / "nowhere" / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_a_backup_that_fails_leaves_nothing(full, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()

    def fail(part: Path) -> None:
        assert part.stat().st_size > 0
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(migrate, "_set_free", fail)
    with pytest.raises(StoreError, match=r"could not be copied .*No space left"):
        migrate.backup(full, folder / "copy.db")
    assert list(folder.iterdir()) == []


def test_an_old_store_is_brought_up_to_date_before_it_is_backed_up(old, tmp_path):
    with pytest.raises(StoreError, match="shoal db upgrade"):
        migrate.backup(old, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()

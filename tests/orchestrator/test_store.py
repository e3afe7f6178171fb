"""The population database: read while it is written, held by one driver, found again anywhere."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.exc import IntegrityError

from evaluators.base import Score, TaskScore
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign.fold import start
from orchestrator.campaign.state import Campaign, Candidate, Limits
from orchestrator.measurement.measured import Measured
from orchestrator.storage import engine as engines
from orchestrator.storage import lease, schema, upkeep
from orchestrator.storage.base import (
    Begun,
    LeaseLostError,
    NewCampaign,
    StoreError,
    StoreFaultError,
    StoreHeldError,
    Taken,
    Turn,
)
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from workers.job import Job, Scored

NEW = NewCampaign(
    settings={"seed": 1}, search_settings={"seed": 1}, seed=1, versions={"shoal": "0"}
)


@pytest.fixture
def born(fake_space) -> list[Candidate]:
    """Two references, three candidates of the search, three controls."""
    campaign = Campaign(
        space=fake_space(),
        algorithm=RandomSearch(population_size=3),
        seed=1,
        limits=Limits(generations=1),
        control=True,
    )
    return list(start(campaign).candidates)


@pytest.fixture
def store(url, born):
    """A running campaign that has measured nothing yet."""
    with SqlStore(url, "one") as opened:
        opened.create(NEW)
        opened.write(Turn(candidates=born, generation=1))
        yield opened


def job(candidate: Candidate, attempt=1, rows="search") -> Job:
    return Job(candidate=candidate.id, attempt=attempt, rows=rows, recipe=candidate.recipe)


def begin(store: SqlStore, *jobs: Job) -> None:
    store.write(Turn(begun=[Begun(job=one, lease_until=9e9) for one in jobs], generation=1))


def take(store: SqlStore, *outcomes, final=True) -> None:
    taken = [Taken(outcome=one, final=final) for one in outcomes]
    store.write(Turn(taken=taken, generation=1, elapsed_s=1.0))


def measure(store: SqlStore, of: Job, outcome) -> None:
    begin(store, of)
    take(store, outcome)


@pytest.fixture
def sql(url):
    """Runs a statement as any program could that has the database; returns what it finds."""
    engine = None

    def run(statement) -> list:
        nonlocal engine
        engine = engine or engines.open_for_writing(url)
        with engine.begin() as connection:
            result = connection.execute(statement)
            return list(result) if result.returns_rows else []

    yield run
    if engine is not None:
        engine.dispose()


# What readers see.


def test_candidates_come_back_as_they_were(store, url, born):
    reader = Reader(url)
    for one in born:
        record = reader.candidate("one", one.id)
        assert record.role == one.role
        assert record.generation == one.generation
        assert record.name == one.name
        assert record.state == "proposed"
        assert record.recipe == one.recipe.as_dict()
        assert (None if record.genome is None else tuple(record.genome)) == one.genome


def test_parents_come_back_in_their_order(store, url, born):
    child = Candidate(
        id="s9", role="search", number=9, generation=2, genome=(0.0,), recipe=born[0].recipe,
        parents=("s3", "s1"), operator="sbx",
    )  # fmt: skip
    store.write(Turn(candidates=[child], generation=2))
    assert Reader(url).candidate("one", "s9").parents == ["s3", "s1"]
    assert Reader(url).status("one")["generation"] == 2


def test_a_reference_is_found_by_its_name(store, url):
    assert Reader(url).candidate("one", "low").id == "r1"


def test_scores_come_back_to_the_last_digit(store, url, born):
    tasks = {
        "a": TaskScore(value=1 / 3, stderr=0.1, documents=3, per_document=(0.0, 0.0, 1.0)),
        "b": TaskScore(value=0.1 + 0.2, stderr=None, documents=0, weight=-2.5),
    }
    of = job(born[2])
    scored = Scored(
        candidate=of.candidate, attempt=1, rows="search", seconds=0.25, worker="w",
        score=Score(fitness=0.1 + 0.7, tasks=tasks),
    )  # fmt: skip
    measure(store, of, scored)
    record = Reader(url).candidate("one", of.candidate)
    assert record.scores == tasks
    assert record.fitness == 0.1 + 0.7
    assert record.test == {}


def test_test_rows_do_not_change_the_fitness(store, url, born, score):
    measure(store, job(born[2]), score(job(born[2]), 1.0))
    measure(store, job(born[2], rows="test"), score(job(born[2], rows="test"), 9.0))
    record = Reader(url).candidate("one", born[2].id)
    assert (record.fitness, record.test_fitness) == (1.0, 9.0)
    assert set(record.test) == {"sphere"}
    assert Reader(url).history("one") == [("search", "s1", 1.0, False)]


def test_the_best_ranks_the_search_before_references_and_leaves_controls_out(
    store, url, born, score
):
    fitness = {"r1": 2.0, "r2": 1.0, "s1": 1.0, "s2": 2.0, "s3": 2.0, "c1": 99.0}
    for one in born:
        if one.id in fitness:
            measure(store, job(one), score(job(one), fitness[one.id]))
    reader = Reader(url)
    assert [one.id for one in reader.best("one", 9)] == ["s2", "s3", "r1", "s1", "r2"]
    assert reader.best_control("one").id == "c1"
    assert reader.status("one")["best"]["id"] == "s2"


def test_a_candidate_is_in_the_state_of_the_attempt_that_decided_about_it(
    store, url, born, score, failure
):
    passing = failure(job(born[2]), retryable=True)
    begin(store, job(born[2]), job(born[3]), job(born[4]))
    take(store, passing, final=False)
    take(store, score(job(born[3])), failure(job(born[4])))
    states = {one: Reader(url).candidate("one", one).state for one in ("s1", "s2", "s3", "c1")}
    assert states == {"s1": "proposed", "s2": "scored", "s3": "failed", "c1": "proposed"}


def test_attempts_tell_the_whole_story(store, url, born, score, failure):
    begin(store, job(born[2]))
    take(store, failure(job(born[2]), retryable=True), final=False)
    measure(store, job(born[2], attempt=2), score(job(born[2], attempt=2)))
    attempts = Reader(url).attempts("one", "s1")
    assert [(one["number"], one["state"], one["cause"]) for one in attempts] == [
        (1, "failed", "ValueError: no"), (2, "scored", None)
    ]  # fmt: skip
    assert Reader(url).failures("one", 3) == [("ValueError: no", 1)]


def test_the_status_counts_what_was_measured_copied_failed_and_is_under_way(
    store, url, born, score, failure
):
    begin(store, *[job(one) for one in born[:4]])
    take(store, score(job(born[0])), failure(job(born[1])))
    copied = Taken(outcome=score(job(born[5])), final=True, cached=True, evaluation=b"e")
    store.write(Turn(taken=[copied], generation=3, elapsed_s=7200.0))
    status = Reader(url).status("one")
    names = ("state", "generation", "evaluated", "failed", "cached", "in_flight")
    assert [status[name] for name in names] == ["running", 3, 2, 1, 1, 2]
    assert (status["elapsed_s"], status["evaluations_per_hour"]) == (7200.0, 0.5)


def test_the_end_is_seen(store, url):
    store.end("stopped", "failures", 12.0)
    status = Reader(url).status("one")
    assert (status["state"], status["reason"], status["elapsed_s"]) == ("stopped", "failures", 12.0)


def test_an_unknown_campaign_is_answered_with_the_nearest(store, url):
    with pytest.raises(StoreError, match="did you mean 'one'"):
        Reader(url).status("onee")


# One writer, any readers.


def test_a_second_driver_is_refused_with_who_holds_the_campaign_and_since_when(store, url):
    with SqlStore(url, "one") as second:
        with pytest.raises(StoreHeldError) as refused:
            second.reopen({})
        message = str(refused.value)
        holder = f"process {os.getpid()} of {getpass.getuser()} on {socket.gethostname()}"
        assert message.startswith(f"campaign 'one' is being run by {holder} since 20")
        since = re.search(r"since (\S+ \S+) UTC", message).group(1)
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        assert since[:15] == now[:15] or since < now
        assert "shoal stop one" in message
        with pytest.raises(StoreError, match="started by another process just now"):
            second.create(NEW)
    assert Reader(url).status("one")["state"] == "running"


def test_another_campaign_of_the_store_is_free(store, url):
    with SqlStore(url, "two") as other:
        other.create(NEW)


WRITER = """
import sys, time
from orchestrator.storage.base import NewCampaign
from orchestrator.storage.store import SqlStore
store = SqlStore(sys.argv[1], "killed")
store.create(NewCampaign(settings={}, search_settings={}, seed=1, versions={}))
print("writing", flush=True)
time.sleep(600)
"""


def test_a_killed_driver_leaves_its_campaign_interrupted_and_free(url):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True
    )
    with writer, SqlStore(url, "killed") as store:
        assert writer.stdout.readline() == "writing\n"
        assert Reader(url).status("killed")["state"] == "running"
        with pytest.raises(StoreHeldError, match=f"process {writer.pid} of"):
            store.reopen({})
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert Reader(url).status("killed")["state"] == "interrupted"
        store.reopen({})
        assert Reader(url).status("killed")["state"] == "running"


@pytest.fixture
def far(url, store, sql):
    """The campaign's driver as it would be on another machine, and a clock for one here."""
    holder = replace(lease.myself(), machine="elsewhere", host="far", process=1)
    sql(update(schema.campaign).values(lease_holder=holder.as_json()))
    seen = sql(select(schema.campaign.c.heartbeat_at))[0][0]
    return lambda later: SqlStore(url, "one", clock=lambda: seen + later)


def test_a_driver_on_another_machine_is_dead_when_its_heart_has_stopped_long_enough(far, sql):
    with far(lease.LEASE_S - 1) as second, pytest.raises(StoreHeldError, match=r"on far since"):
        second.reopen({})
    with far(lease.LEASE_S) as second:
        second.reopen({})
        (holder,) = sql(select(schema.campaign.c.lease_holder))[0]
        assert json.loads(holder)["process"] == os.getpid()


def test_whoever_was_taken_for_dead_and_is_not_can_write_nothing_more(far, store, born, sql, url):
    with far(lease.LEASE_S) as second:
        second.reopen({})
        for write in (
            lambda: begin(store, job(born[2])),
            store.beat,
            lambda: store.end("finished", None, 1.0),
        ):
            with pytest.raises(LeaseLostError, match="taken over by another driver"):
                write()
        store.close()
        assert sql(select(schema.attempt)) == []
        begin(second, job(born[2]))
        assert Reader(url).status("one")["state"] == "running", "closing gave nothing back"


def test_every_turn_is_a_sign_of_life(url, born):
    now = [100.0]
    with SqlStore(url, "one", clock=lambda: now[0]) as store:
        store.create(NEW)
        engine = engines.open_for_reading(url)
        for write in (lambda: store.write(Turn(candidates=born)), store.beat):
            now[0] += 10.0
            write()
            with engine.connect() as connection:
                row = connection.execute(select(schema.campaign)).one()
            assert (row.leased_at, row.heartbeat_at) == (100.0, now[0])
        engine.dispose()


def test_an_open_reader_holds_up_no_writer(store, url, born, score):
    engine = engines.open_for_reading(url)
    with engine.connect() as reading, reading.begin():
        reading.execute(select(schema.candidate)).all()
        started = time.monotonic()
        measure(store, job(born[2]), score(job(born[2])))
        store.end("finished", None, 1.0)
        assert time.monotonic() - started < 5
        reading.execute(select(schema.attempt)).all()
    engine.dispose()
    assert Reader(url).status("one")["evaluated"] == 1


def test_an_open_writer_holds_up_no_reader(store, url):
    engine = engines.open_for_writing(url)
    with engine.connect() as writing, writing.begin():
        writing.execute(update(schema.campaign).values(generation=5))
        started = time.monotonic()
        assert Reader(url).status("one")["generation"] == 1
        assert time.monotonic() - started < 5
    assert Reader(url).status("one")["generation"] == 5
    engine.dispose()


def test_a_reader_cannot_write(store, url):
    engine = engines.open_for_reading(url)
    with pytest.raises(Exception, match=r"(?i)read.?only"), engine.begin() as connection:
        connection.execute(update(schema.campaign).values(generation=5))
    engine.dispose()


def test_many_may_open_a_new_store_at_once(url):
    """All make the tables at the same time; afterwards the store must be whole."""
    errors: list[Exception] = []
    barrier = threading.Barrier(8)

    def open_one(number: int) -> None:
        barrier.wait()
        try:
            with SqlStore(url, f"c{number}") as store:
                store.create(NEW)
        except Exception as error:  # noqa: BLE001  (shown below)
            errors.append(error)

    threads = [threading.Thread(target=open_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    engine = engines.open_for_reading(url)
    with engine.connect() as connection:
        assert len(connection.execute(select(schema.alembic_version)).all()) == 1
    engine.dispose()
    assert len(Reader(url).names()) == 8


# Faults.


def test_a_turn_that_cannot_be_true_leaves_nothing(store, url, born, sql):
    orphan = replace(born[2], id="s8", number=8, parents=("s77",))
    with pytest.raises(IntegrityError):
        store.write(Turn(candidates=[orphan], begun=[Begun(job=job(born[2]), lease_until=1.0)]))
    assert "s8" not in store.digests(0)
    assert sql(select(schema.attempt)) == []
    assert Reader(url).status("one")["generation"] == 1
    begin(store, job(born[2]))


def test_a_file_that_is_held_too_long_is_a_fault_and_the_turn_can_be_written_again(
    tmp_path, monkeypatch, born
):
    monkeypatch.setattr(engines, "_BUSY_TIMEOUT_MS", 50)
    url = str(tmp_path / "shoal.db")
    with SqlStore(url, "one") as store:
        store.create(NEW)
        with closing(sqlite3.connect(url, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreFaultError, match="locked"):
                store.write(Turn(candidates=born))
            other.execute("ROLLBACK")
        assert store.digests(0) == {}
        store.write(Turn(candidates=born))
        assert len(store.digests(0)) == len(born)


@pytest.mark.postgres
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_server_that_is_gone_is_a_fault_and_the_store_is_closed_in_peace(url, born):
    admin = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    others = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with SqlStore(url, "one") as store:
        store.create(NEW)
        with admin.connect() as connection:
            connection.execute(others)
        with pytest.raises(StoreFaultError):
            store.write(Turn(candidates=born))
    admin.dispose()
    with SqlStore(url, "one") as store:
        assert store.load() is not None
        assert store.digests(0) == {}


# What a database cannot refuse is found by looking.

NAMED = {"a": (2, 0), "b": (1,)}


def scored_part(of: Job, right=(1.0, 0.0)) -> Scored:
    tasks = {
        "a": TaskScore(
            value=0.5, stderr=0.5, documents=2, per_document=right, log_likelihoods=(-1.0, -2.0)
        ),
        "b": TaskScore(value=0.25, stderr=None, documents=1, per_document=(0.25,)),
    }
    return Scored(
        candidate=of.candidate, attempt=of.attempt, rows=of.rows, block=of.block,
        score=Score(fitness=0.75, tasks=tasks), seconds=1.0, worker="w",
    )  # fmt: skip


@pytest.fixture
def parts(store, born, failure) -> SqlStore:
    """s1 has two blocks and fresh rows; s2 failed after a block, and is retried."""
    for number, (one, rows, block) in enumerate(
        [(2, "search", 0), (2, "search", 1), (2, "fresh", 0), (3, "search", 0)]
    ):
        of = replace(job(born[one], rows=rows), block=block, documents=NAMED)
        worth = Measured(fitness=0.5 + number, fidelity=0.5)
        begin(store, of)
        taken = Taken(outcome=scored_part(of), final=number in (1, 2), measured=worth)
        store.write(Turn(taken=[taken], generation=1))
    broken = replace(job(born[3]), block=1, documents=NAMED)
    measure(store, broken, failure(broken))
    store.retry([("s2", "search", 1, 2)])
    return store


def without_rules(statement: str) -> list[str]:
    """Statements for a program that takes the triggers away before it changes what it likes."""
    return ["DROP TRIGGER attempt_settled", statement]


TAMPERED = {
    "a part that another one took the place of": (
        without_rules("UPDATE attempt SET superseded = 0 WHERE candidate = 's2' AND block = 0"),
        "attempt 1 at s2 on its search rows should be superseded",
    ),
    "a part that says what a candidate is worth": (
        ["UPDATE attempt SET superseded = 1 WHERE candidate = 's1' AND rows = 'fresh'"],
        "attempt 1 at s1 on its fresh rows should not be superseded",
    ),
    "a wish": (
        without_rules("UPDATE attempt SET retried = 0 WHERE candidate = 's2' AND block = 1"),
        "attempt 1 at s2 on its search rows of block 1 should be retried",
    ),
    "a counter": (
        ["UPDATE campaign SET num_scored = 7"],
        "num_scored is 7, its attempts add up to 1",
    ),
    "places": (
        ["UPDATE campaign SET sequence = 99"],
        "6 outcomes and retries recorded, 99 places given",
    ),
    "what was spent": (
        ["UPDATE spent SET documents = 5 WHERE rows = 'search'"],
        "search on search rows: 9 documents, 0 stopped are counted",
    ),
    "how many documents an attempt scored": (
        without_rules("UPDATE attempt SET documents = 4 WHERE rows = 'fresh'"),
        "s1 is scored on its fresh rows with 4 documents, its tasks have 3",
    ),
    "the scores of a block": (
        ["DELETE FROM score WHERE block = 1"],
        "s1 is scored on its search rows of block 1 without the score of any task",
    ),
    "a score of a block that was not scored": (
        ["UPDATE score SET block = 5 WHERE block = 1 AND task = 'a'"],
        "the score of s1 on a (search rows of block 5) belongs to no attempt",
    ),
    "the number of results": (
        ["UPDATE score SET documents = 3 WHERE rows = 'fresh' AND task = 'a'"],
        "results of s1 on a (fresh rows) are 2, 3 documents were scored",
    ),
    "results": (
        ["UPDATE score SET per_document = x'7A' WHERE rows = 'fresh' AND task = 'b'"],
        "results of s1 on b (fresh rows) cannot be read: unknown packing b'z'",
    ),
    "log-likelihoods": (
        ["UPDATE score SET log_likelihoods = x'7A' WHERE rows = 'fresh' AND task = 'a'"],
        "results of s1 on a (fresh rows) cannot be read: unknown packing",
    ),
    "documents that were named": (
        ["DROP TRIGGER document_set_kept", "UPDATE document_set SET documents = x'7A'"],
        "documents 1 cannot be read: error",
    ),
    "the hash of documents": (
        ["DROP TRIGGER document_set_kept", "UPDATE document_set SET digest = x'7A'"],
        "documents 1 are not those that were named",
    ),
}


def test_a_store_with_blocks_is_sound(parts, url):
    assert upkeep.check(url)["problems"] == []


@pytest.mark.parametrize("what", TAMPERED)
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_was_tampered_with_is_found(parts, url, what):
    statements, problem = TAMPERED[what]
    with closing(sqlite3.connect(url)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    found = upkeep.check(url)["problems"]
    assert any(problem in one for one in found), found


# Stores that are none.


def test_reading_makes_no_store(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        Reader(str(tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_is_not_read(url):
    if not engines.is_server(url):
        Path(url).parent.mkdir()
        Path(url).touch()
    with pytest.raises(StoreError, match="is not a shoal store: it is empty"):
        Reader(url)


def test_a_store_of_a_newer_version_is_refused_and_left_alone(url, sql):
    SqlStore(url, "one").close()
    newer = f"{schema.SCHEMA_VERSION + 1:04}"
    sql(update(schema.alembic_version).values(version_num=newer))
    for opener in (engines.open_for_writing, engines.open_for_reading):
        with pytest.raises(StoreError, match=f"schema {schema.SCHEMA_VERSION + 1}"):
            opener(url)
    if not engines.is_server(url):
        before = Path(url).read_bytes()
        with pytest.raises(StoreError):
            SqlStore(url, "one")
        assert Path(url).read_bytes() == before


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
        connection.commit()
    before = path.read_bytes()
    for opener in (engines.open_for_reading, engines.open_for_writing):
        with pytest.raises(StoreError, match="not a shoal store"):
            opener(str(path))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["other.db"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "text.db"
    path.write_text("dear diary " * 500)
    for opener in (engines.open_for_reading, engines.open_for_writing):
        with pytest.raises(StoreError, match="not a shoal store"):
            opener(str(path))
    assert path.read_text() == "dear diary " * 500


@pytest.mark.parametrize("folder", ["with space", "100%", "a#b", "what?", "ümlaut"])
def test_a_store_may_lie_in_any_folder(tmp_path, folder):
    url = str(tmp_path / folder / "shoal.db")
    with SqlStore(url, "one") as store:
        store.create(NEW)
        assert Reader(url).status("one")["state"] == "running"
    assert Path(url).is_file()


def test_a_server_that_cannot_be_reached_is_named_without_its_password():
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="cannot open store") as error:
        engines.open_for_reading("postgresql://me:secret@127.0.0.1:1/shoal")
    assert "secret" not in str(error.value)

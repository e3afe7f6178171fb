"""The population database: what is recorded comes back, and what cannot be true is refused."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from evaluators.base import Score, TaskScore
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign import Campaign, Candidate, Limits, start
from orchestrator.storage import engine as engines
from orchestrator.storage import schema
from orchestrator.storage.engine import StoreError
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import Store
from workers.job import Failed, Job, Scored

POSTGRES = os.environ.get("SHOAL_TEST_POSTGRES")
BACKENDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=BACKENDS)
def url(request, tmp_path):
    """An empty store: a file that is not there yet, or a new database of a server."""
    if request.param == "sqlite":
        yield str(tmp_path / "folder" / "shoal.db")
        return
    if not POSTGRES:
        pytest.skip("SHOAL_TEST_POSTGRES names no PostgreSQL server")
    name = f"shoal_test_{uuid.uuid4().hex[:12]}"
    admin = create_engine(
        POSTGRES.replace("postgresql://", "postgresql+psycopg://", 1), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    server, _, query = POSTGRES.partition("?")
    yield server.rpartition("/")[0] + f"/{name}" + (f"?{query}" if query else "")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def born(fake_space) -> list[Candidate]:
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
    """A running campaign: two references, three candidates of the search, three controls."""
    with Store(url, "one") as opened:
        opened.create({"seed": 1}, {"seed": 1, "space": {"a": [1]}}, {"shoal": "0"})
        opened.add(born, 1)
        yield opened


def job(candidate: Candidate, attempt=1, rows="search") -> Job:
    return Job(candidate=candidate.id, attempt=attempt, rows=rows, recipe=candidate.recipe)


def failure(of: Job, *, retryable=False) -> Failed:
    return Failed(
        candidate=of.candidate, attempt=of.attempt, rows=of.rows, stage="build",
        cause="ValueError: no", retryable=retryable, seconds=1.5, worker="w",
    )  # fmt: skip


def measure(store: Store, of: Job, outcome) -> None:
    store.begin(of)
    store.record(outcome, final=True, elapsed_s=1.0)


def test_a_new_store_has_no_campaign_and_a_created_one_is_loaded_back(url):
    with Store(url, "one") as store:
        assert store.load() is None
        store.create({"seed": 1}, {"seed": 1, "rows": {"t": "x"}}, {"shoal": "0"})
    with Store(url, "one") as store:
        record = store.load()
    assert (record.name, record.state, record.elapsed_s) == ("one", "running", 0.0)
    assert record.settings == {"seed": 1}
    assert record.search_settings == {"seed": 1, "rows": {"t": "x"}}
    assert Reader(url).versions("one") == {"shoal": "0"}


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
    assert store.candidates() == {one.id: one.recipe.digest() for one in born}


def test_parents_come_back_in_their_order(store, url, born):
    child = Candidate(
        id="s9", role="search", number=9, generation=2, genome=(0.0,), recipe=born[0].recipe,
        parents=("s3", "s1"), operator="sbx",
    )  # fmt: skip
    store.add([child], 2)
    assert Reader(url).candidate("one", "s9").parents == ["s3", "s1"]
    assert Reader(url).status("one")["generation"] == 2


def test_a_reference_is_found_by_its_name(store, url):
    assert Reader(url).candidate("one", "low").id == "r1"


def test_outcomes_come_back_in_the_order_of_recording(store, url, born, score):
    jobs = [job(one) for one in born[2:5]]
    for one in jobs:
        store.begin(one)
    store.record(score(jobs[2]), final=True, elapsed_s=1.0)
    store.record(failure(jobs[0], retryable=True), final=False, elapsed_s=2.0)
    again = job(born[2], attempt=2)
    store.begin(again)
    store.record(failure(again, retryable=True), final=True, elapsed_s=3.0)
    store.record(score(jobs[1]), final=True, elapsed_s=4.0)

    outcomes = [outcome for outcome, _ in store.outcomes()]
    assert [(one.candidate, one.attempt) for one in outcomes] == [
        ("s3", 1), ("s1", 1), ("s1", 2), ("s2", 1)
    ]  # fmt: skip
    assert outcomes[1] == failure(jobs[0], retryable=True)
    assert outcomes[0].score.fitness == score(jobs[2]).score.fitness
    states = {one: Reader(url).candidate("one", one).state for one in ("s1", "s2", "s3")}
    assert states == {"s1": "failed", "s2": "scored", "s3": "scored"}
    assert store.load().elapsed_s == 4.0


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
    assert Reader(url).history("one") == [("search", "s1", 1.0)]


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


def test_attempts_tell_the_whole_story(store, url, born, score):
    measure_first = job(born[2])
    store.begin(measure_first)
    store.record(failure(measure_first, retryable=True), final=False, elapsed_s=1.0)
    measure(store, job(born[2], attempt=2), score(job(born[2], attempt=2)))
    attempts = Reader(url).attempts("one", "s1")
    assert [(one["number"], one["state"], one["cause"]) for one in attempts] == [
        (1, "failed", "ValueError: no"), (2, "scored", None)
    ]  # fmt: skip
    assert Reader(url).failures("one", 3) == [("ValueError: no", 1)]


def test_what_a_dead_driver_left_open_is_lost_and_begun_again(store, url, born, score):
    store.begin(job(born[2]))
    store.reopen({"seed": 1, "cluster": "other"})
    measure(store, job(born[2]), score(job(born[2])))
    assert [one["state"] for one in Reader(url).attempts("one", "s1")] == ["lost", "scored"]
    assert len(list(store.outcomes())) == 1
    assert store.load().settings == {"seed": 1, "cluster": "other"}


def test_several_campaigns_share_a_store(store, url, born, score):
    with Store(url, "two") as other:
        other.create({}, {}, {})
        other.add(born, 1)
        measure(other, job(born[2]), score(job(born[2]), 5.0))
        assert list(store.outcomes()) == []
    assert set(Reader(url).names()) == {"one", "two"}
    assert Reader(url).status("one")["evaluated"] == 0
    assert Reader(url).status("two")["evaluated"] == 1


# What cannot be true.


@pytest.fixture
def sql(store, url):
    """Runs a statement as any program could that has the database."""
    engine = engines.open_for_writing(url)

    def run(statement) -> None:
        with engine.begin() as connection:
            connection.execute(statement)

    yield run
    engine.dispose()


def attempt(**values):
    common = {"campaign": 1, "candidate": "s1", "rows": "search", "number": 1, "started_at": 0.0}
    return insert(schema.attempt).values(**{**common, **values})


def test_two_open_attempts_at_a_candidate_are_refused(sql):
    sql(attempt())
    sql(attempt(rows="test"))
    with pytest.raises(IntegrityError):
        sql(attempt(number=2))


def test_a_second_scored_attempt_is_refused(sql):
    sql(attempt(state="scored", fitness=1.0, sequence=1))
    with pytest.raises(IntegrityError):
        sql(attempt(state="scored", fitness=1.0, sequence=2, number=2))


IMPOSSIBLE = {
    "scored without fitness": attempt(state="scored", sequence=1),
    "fitness without being scored": attempt(fitness=1.0),
    "failed without cause": attempt(state="failed", sequence=1),
    "scored without place in the order": attempt(state="scored", fitness=1.0),
    "open with a place in the order": attempt(sequence=1),
    "unknown state of an attempt": attempt(state="maybe"),
    "unknown rows": attempt(rows="train"),
    "attempt at a candidate that is not there": attempt(candidate="s77"),
    "candidate scored without fitness": update(schema.candidate).values(state="scored"),
    "candidate with fitness but not scored": update(schema.candidate).values(fitness=1.0),
    "unknown state of a candidate": update(schema.candidate).values(state="odd"),
    "unknown role": update(schema.candidate).values(role="guest"),
    "search candidate without genome": update(schema.candidate)
    .where(schema.candidate.c.role == "search")
    .values(genome=None),
    "unknown state of a campaign": update(schema.campaign).values(state="odd"),
    "negative time": update(schema.campaign).values(elapsed_s=-1.0),
    "parent that is not there": insert(schema.parentage).values(
        campaign=1, child="s1", place=0, parent="s77"
    ),
    "own parent": insert(schema.parentage).values(campaign=1, child="s1", place=0, parent="s1"),
    "score of a candidate that is not there": insert(schema.score).values(
        campaign=1, candidate="s77", rows="search", task="t", value=1.0, documents=1, weight=1.0,
        per_document=b"",
    ),
    "second campaign of a name": insert(schema.campaign).values(
        name="one", settings="", search_settings="", versions="", state="running", started_at=0.0
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_the_database_refuses(sql, what):
    with pytest.raises(IntegrityError):
        sql(IMPOSSIBLE[what])


def test_two_outcomes_at_one_place_in_the_order_are_refused(sql):
    sql(attempt(state="scored", fitness=1.0, sequence=1))
    with pytest.raises(IntegrityError):
        sql(attempt(candidate="s2", state="scored", fitness=1.0, sequence=1))


def test_a_batch_with_one_impossible_candidate_leaves_nothing(store, url, born):
    orphan = Candidate(
        id="s8", role="search", number=8, generation=2, genome=(0.0,), recipe=born[0].recipe,
        parents=("s77",), operator="sbx",
    )  # fmt: skip
    with pytest.raises(IntegrityError):
        store.add([orphan], 2)
    assert "s8" not in store.candidates()
    assert Reader(url).status("one")["generation"] == 1


# One writer, any readers.


def test_a_second_writer_of_a_campaign_is_refused(store, url):
    with pytest.raises(StoreError, match="run by another process"):
        Store(url, "one")
    with Store(url, "two"):
        pass


def test_a_campaign_that_was_given_back_can_be_taken(url):
    Store(url, "one").close()
    Store(url, "one").close()


def test_a_reader_sees_a_running_campaign(store, url, born):
    store.begin(job(born[0]))
    status = Reader(url).status("one")
    assert (status["state"], status["in_flight"]) == ("running", 1)


def test_the_end_is_seen(store, url):
    store.end("stopped", "failures", 12.0)
    status = Reader(url).status("one")
    assert (status["state"], status["reason"], status["elapsed_s"]) == ("stopped", "failures", 12.0)


def test_a_reader_never_waits_for_a_writer(store, url):
    engine = engines.open_for_writing(url)
    with engine.connect() as writing, writing.begin():
        writing.execute(update(schema.campaign).values(generation=5))
        assert Reader(url).status("one")["generation"] == 1
    assert Reader(url).status("one")["generation"] == 5
    engine.dispose()


def test_a_reader_cannot_write(store, url):
    engine = engines.open_for_reading(url)
    with pytest.raises(Exception, match=r"(?i)read.?only"), engine.begin() as connection:
        connection.execute(update(schema.campaign).values(generation=5))
    engine.dispose()


WRITER = """
import sys, time
from orchestrator.storage.store import Store
store = Store(sys.argv[1], "killed")
store.create({}, {}, {})
print("writing", flush=True)
time.sleep(600)
"""


def test_a_killed_writer_leaves_its_campaign_interrupted_and_free(url):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout.readline() == "writing\n"
        assert Reader(url).status("killed")["state"] == "running"
        with pytest.raises(StoreError, match="another process"):
            Store(url, "killed")
        writer.send_signal(signal.SIGKILL)
    assert Reader(url).status("killed")["state"] == "interrupted"
    with Store(url, "killed") as store:
        assert store.load() is not None


def test_many_may_open_a_new_store_at_once(url):
    """All make the tables at the same time; afterwards the store must be whole."""
    errors: list[Exception] = []
    barrier = threading.Barrier(8)

    def open_one(number: int) -> None:
        barrier.wait()
        try:
            Store(url, f"c{number}").close()
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
        assert len(connection.execute(select(schema.about)).all()) == 1
    engine.dispose()


# Stores that are none.


def test_reading_makes_no_store(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        Reader(str(tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_campaign_is_answered_with_the_nearest(store, url):
    with pytest.raises(StoreError, match="did you mean 'one'"):
        Reader(url).status("onee")


def test_a_store_of_a_newer_version_is_refused_and_left_alone(url):
    Store(url, "one").close()
    engine = engines.open_for_writing(url)
    with engine.begin() as connection:
        connection.execute(update(schema.about).values(schema_version=schema.SCHEMA_VERSION + 1))
    engine.dispose()
    for opener in (engines.open_for_writing, engines.open_for_reading):
        with pytest.raises(StoreError, match=f"schema {schema.SCHEMA_VERSION + 1}"):
            opener(url)
    if not engines.is_server(url):
        before = Path(url).read_bytes()
        with pytest.raises(StoreError):
            Store(url, "one")
        assert Path(url).read_bytes() == before


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE people (name TEXT)")
    connection.commit()
    connection.close()
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
    with Store(url, "one") as store:
        store.create({}, {}, {})
        assert Reader(url).status("one")["state"] == "running"
    assert Path(url).is_file()


def test_a_server_that_cannot_be_reached_is_named_without_its_password():
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="cannot open store") as error:
        engines.open_for_reading("postgresql://me:secret@127.0.0.1:1/shoal")
    assert "secret" not in str(error.value)

"""A campaign as a file for other tools: what they read is what the store has."""

from __future__ import annotations

import json
import math
import signal
import sqlite3
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pandas as pd
import pytest
from pyarrow import parquet
from sqlalchemy import create_engine, text

from evaluators.base import Score, TaskScore
from evaluators.documents import quantise
from evaluators.pooling import mean_and_error
from orchestrator.algorithms.genetic import Genetic
from orchestrator.campaign.fold import start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.exporting import tables
from orchestrator.exporting.model_folder import ExportError
from orchestrator.loop import Driver, Interrupted
from orchestrator.measurement.measured import Measured
from orchestrator.storage import document_rows
from orchestrator.storage import table as table_module
from orchestrator.storage.base import Begun, NewCampaign, StoreError, Taken, Turn
from orchestrator.storage.packing import pack_genome
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from workers.job import Job, Outcome, Scored

GENES = {"names": ["x", "id", "z"], "lower": [-1.0] * 3, "upper": [2.0] * 3}
#: A gene's name that is a column's already is told apart.
COLUMNS = ["x", "gene/id", "z"]
TASK = "search/sphere"


@dataclass
class FakeExecutor:
    """Answers the oldest job first, and is interrupted after some."""

    answer: Callable[[Job], Outcome]
    interrupt: Callable[[], None]
    left: int
    slots: int = 2
    queue: list[Job] = field(default_factory=list)

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        self.left -= 1
        if self.left == 0:
            self.interrupt()
        return [self.answer(self.queue.pop(0))]

    def close(self) -> None:
        pass


class Silence:
    """A `Listener` that does not listen."""

    def on_start(self, state, resumed) -> None: ...
    def on_workers(self, slots) -> None: ...
    def on_outcome(self, state, outcome, *, final) -> None: ...
    def on_interrupt(self, in_flight) -> None: ...


@pytest.fixture
def record(fake_space, score, failure):
    """Runs a campaign to its end, or until some outcomes have come."""

    def answer(job: Job) -> Outcome:
        if job.candidate == "s2":
            return failure(job, cause='ValueError: "no",\nnot even, in two lines')
        if job.candidate == "s3" and job.attempt == 1:
            return failure(job, retryable=True)
        return score(job)

    def run(url: str, name: str = "one", *, outcomes: int = 10_000, search_settings=None) -> None:
        campaign = Campaign(
            space=fake_space(),
            algorithm=Genetic(population_size=5, elites=1),
            seed=3,
            limits=Limits(generations=3),
            control=True,
            kinds=frozenset({"search", "test"}),
        )
        with SqlStore(url, name) as store:
            found = {"genes": GENES} if search_settings is None else search_settings
            store.create(NewCampaign(settings={}, search_settings=found, seed=3, versions={}))
            executor = FakeExecutor(
                answer,
                lambda: setattr(driver.signals, "received", signal.SIGINT),
                outcomes,
            )
            driver = Driver(campaign, store, lambda: executor, Silence())
            try:
                driver.run()
            except Interrupted:
                store.end("interrupted", "SIGINT", 1.0)

    return run


@pytest.fixture
def reader(url, record) -> Reader:
    """Two references, of three generations two that were measured and some of the third."""
    record(url, outcomes=26)
    return Reader(url)


@pytest.fixture
def finished(url, record) -> Reader:
    record(url)
    return Reader(url)


def table(reader: Reader, path: Path) -> pd.DataFrame:
    kind = {".parquet": "parquet", ".csv": "csv"}[path.suffix]
    num = tables.write(reader, "one", path, kind, force=False)
    if kind == "parquet":
        frame = pd.read_parquet(path)
    else:
        times = ["started_at", "ended_at"]
        frame = pd.read_csv(path, parse_dates=times)
    assert len(frame) == num
    return frame.set_index("id", drop=False)


def journal(reader: Reader, path: Path) -> optuna.Study:
    tables.write(reader, "one", path, "optuna-journal", force=False)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(study_name="one", storage=optuna.storages.JournalStorage(backend))


def plain(value):
    """A value without the ways in which libraries say that there is none."""
    return None if pd.isna(value) else value


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_every_row_says_what_the_store_says_of_its_candidate(reader, tmp_path, ending):
    frame = table(reader, tmp_path / f"t.{ending}")
    assert list(frame.id) == [
        "r1", "r2", *(f"{role}{n}" for first, last in ((1, 5), (6, 9), (10, 13))
                      for role in "sc" for n in range(first, last + 1)),
    ]  # fmt: skip
    for row in frame.to_dict("records"):
        one = reader.candidate("one", row["id"])
        for key in ("role", "number", "generation", "operator", "state", "fitness"):
            assert plain(row[key]) == getattr(one, key)
        assert plain(row["name"]) == (one.name or None)
        assert (plain(row["parents"]) or "").split() == list(one.parents)
        genome = tuple(row[column] for column in COLUMNS)
        assert genome == one.genome if one.genome else all(map(math.isnan, genome))
        measured = one.scores.get("sphere")
        assert plain(row[TASK]) == (measured.value if measured else None)
        assert plain(row[f"{TASK}/stderr"]) == (measured.stderr if measured else None)

        attempts = reader.attempts("one", row["id"])
        assert row["attempts"] == len(attempts)
        accepted = attempts[-1] if attempts and one.state != "proposed" else None
        for key in ("seconds", "accelerator_seconds", "worker", "cause"):
            assert plain(row[key]) == (accepted[key] if accepted else None)
        if accepted:
            started = row["started_at"].strftime("%Y-%m-%dT%H:%M:%SZ")
            assert started == accepted["started_at"]
            assert row["ended_at"] >= row["started_at"]
            assert str(row["started_at"].tz) == "UTC"


def test_births_are_told_of_all_that_ended_in_the_order_of_proposals(reader):
    births = list(reader.births("one"))
    records = [reader.candidate("one", f"s{number}") for number in range(1, 14)]
    ended = [one for one in records if one.state != "proposed"]
    assert [one.id for one in births] == [one.id for one in ended]
    for birth, one in zip(births, ended, strict=True):
        assert (birth.operator, birth.fitness) == (one.operator, one.fitness)
        assert list(birth.parents) == list(one.parents)
    assert any(len(one.parents) == 2 for one in births)
    assert [one.id for one in births if one.fitness is None] == ["s2"]


def test_failed_retried_and_waiting_candidates_are_told_apart(reader, tmp_path):
    frame = table(reader, tmp_path / "t.parquet")
    assert (frame.state["s2"], frame.attempts["s2"]) == ("failed", 1)
    assert frame.cause["s2"] == 'ValueError: "no",\nnot even, in two lines'
    assert (frame.state["s3"], frame.attempts["s3"]) == ("scored", 2)
    assert pd.isna(frame.cause["s3"])
    waiting = frame[frame.state == "proposed"]
    assert len(waiting) > 0
    assert waiting.fitness.isna().all()
    assert waiting.started_at.isna().all()
    assert (waiting.attempts == 0).all()
    assert waiting.x.notna().all()


def test_test_rows_have_columns_of_their_own(finished, tmp_path):
    frame = table(finished, tmp_path / "t.csv")
    best = finished.best("one", 1)[0]
    assert frame["test/sphere"][best.id] == best.test["sphere"].value
    assert frame.test_fitness[best.id] == best.test_fitness
    tested = frame[frame.test_fitness.notna()]
    assert set(tested.role) == {"search", "reference", "control"}
    assert len(tested) < len(frame)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_columns_do_not_depend_on_what_was_measured(url, record, tmp_path, ending):
    """A campaign that has just begun has no scores yet, and the same columns but for them."""
    record(url, outcomes=1)
    frame = table(Reader(url), tmp_path / f"t.{ending}")
    assert list(frame)[:2] == ["id", "role"]
    reported = ["selection_fitness", "test_fitness", "control_fitness"]
    assert list(frame)[-8:] == [*COLUMNS, TASK, f"{TASK}/stderr", *reported]


def test_parquet_keeps_types_even_where_a_column_is_empty(url, record, tmp_path):
    record(url, outcomes=1)
    path = tmp_path / "t.parquet"
    tables.write(Reader(url), "one", path, "parquet", force=False)
    types = {one.name: str(one.type) for one in parquet.read_schema(path)}
    assert (types["test_fitness"], types["cause"], types["cached"]) == ("double", "string", "bool")
    assert types["ended_at"] == "timestamp[us, tz=UTC]"


def test_a_store_that_did_not_record_names_of_genes_numbers_them(url, record, tmp_path):
    record(url, outcomes=20, search_settings={})
    reader = Reader(url)
    frame = table(reader, tmp_path / "t.parquet")
    names = ["gene_0", "gene_1", "gene_2"]
    assert frame.loc["s4", names].to_list() == list(reader.candidate("one", "s4").genome)
    for trial in journal(reader, tmp_path / "journal").trials:
        for name, distribution in trial.distributions.items():
            assert (distribution.low, distribution.high) == (frame[name].min(), frame[name].max())


@pytest.mark.parametrize("kind", ["parquet", "csv", "optuna-journal"])
def test_batches_make_no_difference(finished, tmp_path, monkeypatch, kind):
    tables.write(finished, "one", tmp_path / "whole", kind, force=False)
    monkeypatch.setattr(table_module, "_BATCH", 3)
    tables.write(finished, "one", tmp_path / "parts", kind, force=False)
    if kind == "parquet":
        whole, parts = (pd.read_parquet(tmp_path / name) for name in ("whole", "parts"))
        pd.testing.assert_frame_equal(whole, parts)
        return
    whole, parts = (
        [
            {k: v for k, v in json.loads(line).items() if k != "worker_id"} if "{" in line else line
            for line in (tmp_path / name).read_text().splitlines()
        ]
        for name in ("whole", "parts")
    )
    assert whole == parts


STATES = {"scored": "COMPLETE", "failed": "FAIL", "proposed": "WAITING"}


def test_optuna_opens_the_journal_as_the_same_search(reader, tmp_path):
    study = journal(reader, tmp_path / "journal")
    frame = table(reader, tmp_path / "t.parquet")
    with_genes = frame[frame.role != "reference"]
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.number for trial in study.trials] == list(range(len(with_genes)))
    for trial, row in zip(study.trials, with_genes.to_dict("records"), strict=True):
        assert trial.user_attrs["id"] == row["id"]
        assert trial.state.name == STATES[row["state"]]
        assert trial.value == plain(row["fitness"])
        assert list(trial.params.values()) == [row[column] for column in COLUMNS]
        assert {(d.low, d.high) for d in trial.distributions.values()} == {(-1.0, 2.0)}
        for key in ("role", "generation", "operator", "parents", "cause", TASK):
            assert trial.user_attrs.get(key) == plain(row[key])
        for ours, theirs in (("started_at", "start"), ("ended_at", "complete")):
            moment = getattr(trial, f"datetime_{theirs}")  # Optuna's are local and say no zone
            assert (moment.astimezone() if moment else None) == plain(row[ours])
    best = with_genes.loc[with_genes.fitness.idxmax()]
    assert study.best_value == best.fitness
    assert study.best_trial.user_attrs["id"] == best.id
    references = frame[frame.role == "reference"]
    assert study.user_attrs["references"] == dict(
        zip(references.name, references.fitness, strict=True)
    )


def test_optuna_can_work_with_the_study(finished, tmp_path):
    study = journal(finished, tmp_path / "journal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importances = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    assert set(importances) == set(COLUMNS)
    study.optimize(lambda trial: sum(trial.suggest_float(name, -1, 2) for name in COLUMNS), 1)
    assert study.trials[-1].number == 26
    assert study.trials[-1].state.name == "COMPLETE"


def test_optuna_says_nothing_while_a_journal_is_written(finished, tmp_path, capfd):
    before = optuna.logging.get_verbosity()
    tables.write(finished, "one", tmp_path / "journal", "optuna-journal", force=False)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["parquet", "csv", "optuna-journal"])
class TestFile:
    def test_one_that_is_there_is_kept_unless_forced(self, finished, tmp_path, kind):
        path = tmp_path / "t"
        path.write_text("precious")
        with pytest.raises(ExportError, match="--force"):
            tables.write(finished, "one", path, kind, force=False)
        assert path.read_text() == "precious"
        assert tables.write(finished, "one", path, kind, force=True) > 0
        assert b"precious" not in path.read_bytes()
        assert list(tmp_path.glob("*t*")) == [path]

    def test_a_folder_is_no_file(self, finished, tmp_path, kind):
        with pytest.raises(ExportError, match="folder"):
            tables.write(finished, "one", tmp_path, kind, force=True)

    def test_the_folder_is_made_where_there_is_none(self, finished, tmp_path, kind):
        tables.write(finished, "one", tmp_path / "a/b/t", kind, force=False)
        assert (tmp_path / "a/b/t").is_file()

    def test_an_unknown_campaign_is_named_and_leaves_nothing(self, finished, tmp_path, kind):
        with pytest.raises(StoreError, match="did you mean 'one'"):
            tables.write(finished, "on", tmp_path / "a/t", kind, force=False)
        assert not (tmp_path / "a").exists()

    def test_nothing_is_left_of_one_that_fails(self, url, finished, tmp_path, kind, monkeypatch):
        """The last candidate cannot be read: most of the file has been written by then."""
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1)
                               if "://" in url else f"sqlite:///{url}")  # fmt: skip
        with engine.begin() as connection:
            values = {"genome": pack_genome([0.0])}
            connection.execute(
                text("UPDATE candidate SET genome = :genome WHERE id = 'c13'"), values
            )
        engine.dispose()
        monkeypatch.setattr(table_module, "_BATCH", 3)
        (tmp_path / "out").mkdir()
        with pytest.raises(ValueError, match="zip"):
            tables.write(finished, "one", tmp_path / "out" / "t", kind, force=False)
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_folder_that_cannot_be_written_is_one_message(self, finished, tmp_path, kind):
        (tmp_path / "file").write_text("")
        with pytest.raises(ExportError, match="cannot write"):
            tables.write(finished, "one", tmp_path / "file" / "t", kind, force=False)

    def test_an_empty_campaign_is_an_empty_table(self, url, tmp_path, kind):
        with SqlStore(url, "one") as store:
            found = {"genes": GENES}
            store.create(NewCampaign(settings={}, search_settings=found, seed=3, versions={}))
        assert tables.write(Reader(url), "one", tmp_path / "t", kind, force=False) == 0
        assert (tmp_path / "t").stat().st_size > 0


# Candidates that were measured block by block, and what each document gave.

BLOCKS = {
    ("search", 0): {"one": (4, 0, 2), "two": (1,)},
    ("search", 1): {"one": (1, 3), "two": (0,)},
    ("fresh", 0): {"one": (5,)},
    ("test", 0): None,
}


def values_of(rows: str, places: Sequence[int]) -> tuple[float, ...]:
    return tuple(place / 3 + (rows == "fresh") for place in places)


def outcome_of(job: Job) -> Scored:
    """Task `one` has log-likelihoods, `two` has not."""
    tasks = {}
    for task, places in (job.documents or {"one": (0, 1)}).items():
        values = values_of(job.rows, places)
        mean, error = mean_and_error(values)
        tasks[task] = TaskScore(
            value=mean, stderr=error, documents=len(values), per_document=values,
            log_likelihoods=quantise([-1.0 - one for one in values]) if task == "one" else (),
        )  # fmt: skip
    fitness = sum(one.value for one in tasks.values())
    return Scored(
        candidate=job.candidate, attempt=job.attempt, rows=job.rows, block=job.block,
        score=Score(fitness=fitness, tasks=tasks), seconds=2.0, worker=f"w{job.block}",
        accelerator_seconds=0.5,
    )  # fmt: skip


@pytest.fixture
def raced(url, fake_space) -> Reader:
    """s1 was measured on two blocks, fresh and test rows; s2 was stopped; s3 is under way."""
    space = fake_space()
    campaign = Campaign(
        space=space, algorithm=Genetic(population_size=3, elites=1), seed=3,
        limits=Limits(generations=1),
    )  # fmt: skip
    born = {one.id: one for one in start(campaign).candidates}
    with SqlStore(url, "one") as store:
        found = {"genes": GENES}
        store.create(NewCampaign(settings={}, search_settings=found, seed=3, versions={}))
        store.write(Turn(candidates=list(born.values()), generation=1))
        for id_, part, worth, final in (
            ("s1", ("search", 0), Measured(fitness=0.5, fidelity=0.5), False),
            ("s1", ("search", 1), Measured(fitness=0.25, stderr=0.125), True),
            ("s2", ("search", 0), Measured(fitness=0.75, fidelity=0.5, stopped=True), True),
            ("s3", ("search", 0), Measured(fitness=0.25, fidelity=0.5), False),
            ("s1", ("fresh", 0), Measured(fitness=0.375, stderr=0.25), True),
            ("s1", ("test", 0), None, True),
        ):
            rows, block = part
            job = Job(
                candidate=id_, attempt=1, rows=rows, block=block, documents=BLOCKS[part],
                recipe=born[id_].recipe,
            )  # fmt: skip
            store.write(Turn(begun=[Begun(job=job, lease_until=9e9)], generation=1))
            taken = Taken(outcome=outcome_of(job), final=final, measured=worth)
            store.write(Turn(taken=[taken], generation=1))
    return Reader(url)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_row_puts_the_blocks_of_a_candidate_together(raced, tmp_path, ending):
    frame = table(raced, tmp_path / f"t.{ending}")
    columns = ["fitness", "stderr", "fidelity", "stopped", "documents", "attempts", "seconds"]
    rows = {one: [plain(frame[name][one]) for name in columns] for one in ("s1", "s2", "s3", "r1")}
    assert rows == {
        "s1": [0.375, 0.25, 1.0, False, 8, 3, 6.0],
        "s2": [0.75, None, 0.5, True, 4, 1, 2.0],
        "s3": [None, None, None, False, 4, 1, None],
        "r1": [None, None, None, False, 0, 0, None],
    }
    assert (frame.accelerator_seconds["s1"], frame.worker["s1"]) == (1.5, "w0")
    assert frame.ended_at["s1"] > frame.started_at["s1"]
    assert pd.isna(frame.started_at["s3"])
    record = raced.candidate("one", "s1")
    for task in ("one", "two"):
        assert frame[f"search/{task}"]["s1"] == record.scores[task].value
        assert frame[f"search/{task}/stderr"]["s1"] == record.scores[task].stderr
    assert (frame["test/one"]["s1"], frame.test_fitness["s1"]) == (1 / 6, 1 / 6)
    assert not any(name.startswith("fresh") for name in frame)
    assert frame["search/one"]["s2"] == outcome_of(
        Job(candidate="s2", attempt=1, rows="search", documents=BLOCKS["search", 0], recipe=None)
    ).score.tasks["one"].value  # fmt: skip


def test_who_was_stopped_is_a_pruned_trial(raced, tmp_path):
    states = {one.user_attrs["id"]: one.state.name for one in journal(raced, tmp_path / "j").trials}
    assert states == {"s1": "COMPLETE", "s2": "PRUNED", "s3": "WAITING"}


DOCUMENTS = [
    {
        "candidate": id_, "rows": rows, "block": block, "task": task, "document": place,
        "value": value,
        "log_likelihood": quantise([-1.0 - value])[0] if task == "one" else None,
    }
    for id_, parts in (
        ("s1", [("search", 0), ("search", 1), ("fresh", 0), ("test", 0)]),
        ("s2", [("search", 0)]),
        ("s3", [("search", 0)]),
    )
    for rows, block in parts
    for task, places in (BLOCKS[rows, block] or {"one": (0, 1)}).items()
    for place, value in zip(places, values_of(rows, places), strict=True)
]  # fmt: skip


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_what_every_document_gave_is_a_table_of_its_own(raced, tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    num = tables.write_documents(raced, "one", path, ending, force=False)
    frame = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path)
    assert num == len(frame) == len(DOCUMENTS)
    assert list(frame) == list(DOCUMENTS[0])
    rows = [{key: plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
    assert rows == DOCUMENTS
    found = [dict.fromkeys(DOCUMENTS[0]) | row for row in document_rows.documents(raced, "one")]
    assert found == DOCUMENTS


def test_batches_make_no_difference_to_documents(raced, monkeypatch):
    whole = list(document_rows.documents(raced, "one"))
    monkeypatch.setattr(document_rows, "_BATCH", 1)
    assert list(document_rows.documents(raced, "one")) == whole


def test_a_study_has_no_place_for_documents(raced, tmp_path):
    with pytest.raises(ExportError, match="no place for documents; use one of parquet, csv"):
        tables.write_documents(raced, "one", tmp_path / "t", "optuna-journal", force=False)
    assert list(tmp_path.glob("t*")) == []


def test_documents_of_an_unknown_campaign_leave_nothing(raced, tmp_path):
    with pytest.raises(StoreError, match="did you mean 'one'"):
        tables.write_documents(raced, "on", tmp_path / "a/t", "csv", force=False)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("kind", "library", "hint"),
    [
        ("parquet", "pyarrow", "pip install pyarrow"),
        ("optuna-journal", "optuna", r"pip install 'shoal\[optuna\]'"),
    ],
)
def test_a_library_that_is_missing_is_named(finished, tmp_path, monkeypatch, kind, library, hint):
    monkeypatch.delitem(sys.modules, "orchestrator.exporting.optuna_journal", raising=False)
    monkeypatch.delattr("orchestrator.exporting.optuna_journal", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExportError, match=hint):
        tables.write(finished, "one", tmp_path / "out" / "t", kind, force=False)
    assert not (tmp_path / "out" / "t").exists()


def test_a_writer_at_work_is_not_held_up_and_not_seen(url, finished, record, tmp_path):
    """The table is of the moment at which it was opened."""
    with table_module.open_table(finished, "one") as opened:
        first = next(opened.batches)
        record(url, "two")
        if "://" not in url:
            with closing(sqlite3.connect(url)) as connection:
                connection.execute("UPDATE candidate SET operator = 'changed' WHERE id = 's1'")
                connection.commit()
        assert len(first) + sum(map(len, opened.batches)) == 28
    with table_module.open_table(finished, "one") as opened:
        assert "://" in url or next(opened.batches)[2]["operator"] == "changed"

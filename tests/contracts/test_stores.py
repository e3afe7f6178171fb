"""What every store owes, in memory or in a database: a turn whole, in its order, by one driver."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from evaluators.base import Score, TaskScore
from evaluators.documents import quantise
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign.fold import start
from orchestrator.campaign.state import Again, Campaign, Candidate, Limits, Recorded, Retry
from orchestrator.measurement.measured import Measured, Standing
from orchestrator.storage import lease, upkeep
from orchestrator.storage.base import (
    MAX_SNAPSHOTS,
    Begun,
    LeaseLostError,
    NewCampaign,
    Snapshot,
    Store,
    StoreError,
    StoreHeldError,
    Taken,
    Turn,
)
from orchestrator.storage.memory import Memory, MemoryStore
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from workers.job import Failed, Job, Scored

NEW = NewCampaign(
    settings={"seed": 1, "name": "one"},
    search_settings={"seed": 1, "search": {"kind": "random"}},
    seed=1,
    versions={"shoal": "0", "lm_eval": "0.4.9"},
)
#: What an impossible turn raises: a database by its constraints, the memory by its assertions.
IMPOSSIBLE = (IntegrityError, AssertionError)


@dataclass
class InMemory:
    """Campaigns of this process."""

    memory: Memory = field(default_factory=Memory)

    def open(self, name: str = "one") -> MemoryStore:
        return MemoryStore(self.memory, name)

    def bury(self, name: str = "one") -> None:
        """The driver that holds the campaign is dead."""
        self.memory.campaigns[name].token = None

    def ask_to_stop(self, name: str = "one") -> None:
        self.memory.campaigns[name].stop_requested = True

    def close(self) -> None:
        pass


@dataclass
class InDatabase:
    """Campaigns of a database."""

    url: str
    opened: list[SqlStore] = field(default_factory=list)

    def open(self, name: str = "one") -> SqlStore:
        self.opened.append(SqlStore(self.url, name))
        return self.opened[-1]

    def bury(self, name: str = "one") -> None:
        gone = replace(lease.myself(), born="long ago").as_json()
        self.run(
            "UPDATE campaign SET lease_holder = :gone WHERE name = :name", gone=gone, name=name
        )

    def ask_to_stop(self, name: str = "one") -> None:
        self.run("UPDATE campaign SET stop_requested = 1 WHERE name = :name", name=name)

    def run(self, statement: str, **values: Any) -> None:
        address = self.url.replace("postgresql://", "postgresql+psycopg://", 1)
        engine = create_engine(address if "://" in address else f"sqlite:///{address}")
        with engine.begin() as connection:
            connection.execute(text(statement), values)
        engine.dispose()

    def close(self) -> None:
        for store in self.opened:
            store.close()
        assert upkeep.check(self.url)["problems"] == []


DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=["memory", *DATABASES])
def place(request, databases, tmp_path):
    """Where stores are; whatever a test does there, a database has no problems afterwards."""
    if request.param == "memory":
        yield InMemory()
        return
    with databases(request.param, tmp_path) as url:
        found = InDatabase(url)
        yield found
        found.close()


in_databases = pytest.mark.parametrize("place", DATABASES, indirect=True)


@pytest.fixture
def born(fake_space) -> dict[str, Candidate]:
    """Two references, three candidates of the search, three controls."""
    campaign = Campaign(
        space=fake_space(),
        algorithm=RandomSearch(population_size=3),
        seed=1,
        limits=Limits(generations=1),
        control=True,
    )
    return {one.id: one for one in start(campaign).candidates}


@pytest.fixture
def job(born) -> Callable[..., Job]:
    def of(id_: str, attempt: int = 1, rows="search", **facts) -> Job:
        recipe = born[id_].recipe
        return Job(candidate=id_, attempt=attempt, rows=rows, recipe=recipe, **facts)

    return of


@pytest.fixture
def store(place, born) -> Store:
    """A running campaign that has measured nothing yet."""
    opened = place.open()
    opened.create(NEW)
    opened.write(Turn(candidates=list(born.values()), generation=1))
    return opened


def begin(store: Store, *jobs: Job, generation=1, **facts) -> None:
    begun = [Begun(job=one, lease_until=9e9, **facts) for one in jobs]
    store.write(Turn(begun=begun, generation=generation))


def take(store: Store, *outcomes, final=True, generation=1, **facts) -> None:
    taken = [Taken(outcome=one, final=final, **facts) for one in outcomes]
    store.write(Turn(taken=taken, generation=generation))


def entries(store: Store, after: int = 0) -> list:
    return list(store.entries(after))


def recorded(outcome, final=True):
    return Recorded(outcome, final)


# A campaign.


def test_there_is_no_campaign_before_it_is_created_and_one_afterwards(place):
    store = place.open()
    assert store.load() is None
    store.create(NEW)
    record = store.load()
    assert (record.name, record.state, record.elapsed_s) == ("one", "running", 0.0)
    assert (record.settings, record.search_settings) == (NEW.settings, NEW.search_settings)
    assert list(record.history) == []
    assert store.sequence() == 0
    assert list(store.entries(0)) == store.snapshots() == []
    assert store.digests(0) == {}


def test_a_campaign_is_created_once(store, place):
    with pytest.raises(StoreError, match="started by another process"):
        place.open().create(NEW)
    store.close()
    with pytest.raises(StoreError, match="started by another process"):
        place.open().create(NEW)
    assert store is not None


def test_settings_come_back_as_json_has_them(place):
    store = place.open()
    store.create(replace(NEW, settings={"tasks": ("a", "b"), "ü": 0.1}))
    assert place.open().load().settings == {"tasks": ["a", "b"], "ü": 0.1}


def test_going_on_brings_new_settings_and_keeps_the_search_settings(store, place):
    store.end("finished", None, 7.0)
    store.close()
    record = place.open().reopen({"seed": 1, "cluster": "other"})
    assert (record.name, record.elapsed_s) == ("one", 7.0)
    assert place.open().load().settings == {"seed": 1, "cluster": "other"}
    assert place.open().load().search_settings == NEW.search_settings
    assert place.open().load().state == "running"


def test_the_end_is_recorded(store, place):
    for state in ("interrupted", "stopped", "finished"):
        store.end(state, "because", 12.5)
        record = place.open().load()
        assert (record.state, record.elapsed_s) == (state, 12.5)


def test_campaigns_of_a_store_keep_to_themselves(store, place, born, job, score):
    other = place.open("two")
    other.create(NEW)
    other.write(Turn(candidates=[born["r1"]]))
    begin(other, job("r1"))
    take(other, score(job("r1")))
    other.keep(Snapshot(sequence=1, fingerprint="f", state={}))
    assert entries(store) == store.snapshots() == []
    assert (store.sequence(), other.sequence()) == (0, 1)
    assert set(other.digests(0)) == {"r1"}
    assert set(store.digests(0)) == set(born)


# Candidates.


def test_candidates_come_back_as_they_were(store, born):
    assert store.candidates(born) == born
    assert store.candidates(["s2", "s99"]) == {"s2": born["s2"]}
    assert store.candidates([]) == {}


def test_a_childs_parents_come_back_in_their_order(store, born):
    child = replace(born["s1"], id="s9", number=9, generation=2, parents=("s3", "s1", "r1"))
    store.write(Turn(candidates=[child], generation=2))
    assert store.candidates(["s9"])["s9"].parents == ("s3", "s1", "r1")


def test_parents_may_come_in_the_same_turn(store, born):
    first = replace(born["s1"], id="s8", number=8, generation=2)
    second = replace(born["s1"], id="s9", number=9, generation=3, parents=("s8",))
    store.write(Turn(candidates=[first, second], generation=3))
    assert store.candidates(["s8", "s9"]) == {"s8": first, "s9": second}


def test_genomes_come_back_to_the_last_digit(store, born):
    odd = replace(born["s1"], id="s9", number=9, genome=(0.1 + 0.2, -0.0, 5e-324, 1.7e308, 1 / 3))
    store.write(Turn(candidates=[odd]))
    genome = store.candidates(["s9"])["s9"].genome
    assert list(map(repr, genome)) == list(map(repr, odd.genome))


def test_digests_are_those_of_the_recipes_from_a_generation_on(store, born):
    assert store.digests(0) == {one.id: one.recipe.digest() for one in born.values()}
    assert set(store.digests(1)) == {"s1", "s2", "s3", "c1", "c2", "c3"}
    assert store.digests(2) == {}


# Turns.


def test_a_turn_is_written_whole(store, born, job, score, failure):
    begin(store, job("s1"), job("s2"))
    child = replace(born["s1"], id="s9", number=9, generation=2, parents=("s1",))
    again = job("s2", attempt=2)
    failed = failure(job("s2"), retryable=True)
    turn = Turn(
        elapsed_s=3.5,
        generation=2,
        candidates=[child],
        taken=[Taken(outcome=score(job("s1")), final=True), Taken(outcome=failed, final=False)],
        begun=[Begun(job=again, lease_until=1.0), Begun(job=job("s3"), lease_until=1.0)],
    )
    store.write(turn)
    assert store.load().elapsed_s == 3.5
    assert entries(store) == [recorded(score(job("s1"))), recorded(failed, False)]
    assert store.candidates(["s9"]) == {"s9": child}
    take(store, score(again), score(job("s3")))
    assert store.sequence() == 4


def orphan(born, job, score) -> Turn:
    return Turn(candidates=[replace(born["s1"], id="s9", number=9, parents=("s77",))])


def known(born, job, score) -> Turn:
    return Turn(candidates=[born["s1"]])


def second_outcome(born, job, score) -> Turn:
    return Turn(taken=[Taken(outcome=score(job("s3")), final=True)])


def never_begun(born, job, score) -> Turn:
    return Turn(taken=[Taken(outcome=score(job("s1", attempt=5)), final=True)])


def begun_twice(born, job, score) -> Turn:
    return Turn(begun=[Begun(job=job("s1", attempt=2), lease_until=1.0)])


def stranger(born, job, score) -> Turn:
    one = replace(job("s1"), candidate="s77")
    return Turn(begun=[Begun(job=one, lease_until=1.0)])


@pytest.mark.parametrize(
    "wrong", [orphan, known, second_outcome, never_begun, begun_twice, stranger]
)
@in_databases
def test_of_a_turn_that_cannot_be_true_nothing_is_written(store, born, job, score, failure, wrong):
    begin(store, job("s1"), job("s2"), job("s3"))
    take(store, score(job("s3")))
    part = wrong(born, job, score)
    child = replace(born["s1"], id="s10", number=10, generation=2, parents=("s1",))
    turn = Turn(
        elapsed_s=99.0,
        generation=2,
        candidates=[child, *part.candidates],
        taken=[Taken(outcome=failure(job("s2")), final=True), *part.taken],
        begun=[Begun(job=job("c1"), lease_until=1.0), *part.begun],
    )
    with pytest.raises(IMPOSSIBLE):
        store.write(turn)
    assert entries(store) == [recorded(score(job("s3")))]
    assert (store.load().elapsed_s, store.sequence()) == (0.0, 1)
    assert set(store.digests(0)) == set(born)
    turn.candidates, turn.taken, turn.begun = turn.candidates[:1], turn.taken[:1], turn.begun[:1]
    store.write(turn)
    assert store.sequence() == 2


@pytest.mark.parametrize(
    "wrong", [orphan, known, second_outcome, never_begun, begun_twice, stranger]
)
def test_what_cannot_be_true_is_refused(store, born, job, score, wrong):
    begin(store, job("s1"), job("s3"))
    take(store, score(job("s3")))
    with pytest.raises((*IMPOSSIBLE, KeyError)):
        store.write(wrong(born, job, score))


def test_each_kind_of_rows_has_its_own_attempt_and_outcome(store, job, score):
    begin(store, job("s1"), job("s1", rows="test"))
    take(store, score(job("s1", rows="test"), 2.0), score(job("s1"), 1.0))
    assert [(one.outcome.rows, one.outcome.score.fitness) for one in entries(store)] == [
        ("test", 2.0), ("search", 1.0)
    ]  # fmt: skip


# The order.


def test_outcomes_come_back_in_the_order_of_recording(store, job, score, failure):
    begin(store, job("s1"), job("s2"), job("s3"))
    lost = failure(job("s1"), retryable=True, kind="lost", stage="worker", log="gone")
    take(store, score(job("s3"), 1.0))
    take(store, lost, final=False)
    begin(store, job("s1", attempt=2))
    memory = failure(job("s1", attempt=2), retryable=True, kind="memory")
    take(store, score(job("s2"), 2.0))
    take(store, memory)
    expected = [
        recorded(score(job("s3"), 1.0)),
        recorded(lost, False),
        recorded(score(job("s2"), 2.0)),
        recorded(memory),
    ]
    assert entries(store) == expected
    for place in range(5):
        assert entries(store, place) == expected[place:]
    assert store.sequence() == 4


def test_outcomes_come_back_as_they_were(store, job):
    where = {"seconds": 0.1 + 0.2, "worker": "ray-3", "node": "n/1", "device": "cpu"}
    spent = {**where, "accelerator_seconds": 1 / 3}
    tasks = {
        "t": TaskScore(
            value=1 / 3, stderr=None, documents=3, per_document=(0.1, -0.0, 1e300),
            log_likelihoods=quantise((-0.5, -1e-9, -123.0)),
        ),
        "u": TaskScore(value=-2.0, stderr=0.5, documents=7, weight=-0.25),
    }  # fmt: skip
    scored = Scored(
        candidate="s1", attempt=1, rows="search", score=Score(fitness=-0.1, tasks=tasks), **spent
    )
    failed = Failed(
        candidate="s2", attempt=1, rows="test", stage="evaluate", cause="MemoryError: ü\n2",
        retryable=True, kind="memory", log="Traceback\n...", **spent,
    )  # fmt: skip
    begin(store, job("s1"), job("s2", rows="test"))
    take(store, scored, failed)
    assert entries(store) == [Recorded(scored, True), Recorded(failed, True)]
    (first, _) = entries(store)
    assert list(map(repr, first.outcome.score.tasks["t"].per_document)) == ["0.1", "-0.0", "1e+300"]


@pytest.mark.parametrize("text", ["a\0b", "caf\udce9", "\ud83d", "日本", "x" * 100_000, ""])
def test_whatever_an_error_says_it_can_be_recorded(store, job, failure, text):
    """An error's text may hold bytes of a file's name, or of a model's answer."""
    begin(store, job("s1"))
    take(store, failure(job("s1"), cause=f"OSError: {text}", log=f"Traceback: {text}"))
    ((outcome, final),) = [(one.outcome, one.final) for one in entries(store)]
    assert outcome.cause.startswith("OSError: ")
    assert final
    if text.isprintable():
        assert outcome.cause == f"OSError: {text}"


def test_an_attempt_that_was_lost_may_have_the_number_of_the_next(store, place, job, score):
    begin(store, job("s1"))
    place.bury()
    store = place.open()
    store.reopen({})
    begin(store, job("s1"))
    take(store, score(job("s1")))
    assert entries(store) == [recorded(score(job("s1")))]


# Scores.


def test_an_equal_evaluation_of_any_campaign_gives_its_score(store, place, born, job, score):
    begin(store, job("s1"), evaluation=b"one")
    begin(store, job("s2"), evaluation=b"two")
    begin(store, job("s3"))
    take(store, score(job("s1"), 0.1 + 0.2), score(job("s2")), score(job("s3")))
    other = place.open("other")
    other.create(NEW)
    for reader in (store, other):
        found = reader.cached([b"none", b"one", b"two"])
        assert found == {
            b"one": score(job("s1"), 0.1 + 0.2).score,
            b"two": score(job("s2")).score,
        }
        assert reader.cached([]) == {}


def test_what_failed_or_is_under_way_is_no_score_to_reuse(store, job, failure):
    begin(store, job("s1"), evaluation=b"one")
    begin(store, job("s2"), evaluation=b"two")
    take(store, failure(job("s1")))
    assert store.cached([b"one", b"two"]) == {}


def test_a_copied_score_needs_no_attempt_and_ends_its_candidate(store, place, born, job, score):
    begin(store, job("s1"), evaluation=b"one")
    take(store, score(job("s1"), 7.0))
    other = place.open("other")
    other.create(NEW)
    copy = replace(score(job("s2")), score=store.cached([b"one"])[b"one"], worker="cache")
    other.write(Turn(candidates=list(born.values()), generation=1))
    take(other, copy, cached=True, evaluation=b"one")
    assert entries(other) == [recorded(copy)]
    with pytest.raises(IMPOSSIBLE):
        take(other, copy, cached=True, evaluation=b"one")
    assert other.cached([b"one"])[b"one"].fitness == 7.0


RESULTS = [(), (1.0,), (0.0, 1.0, 1.0), (0.5, -0.25), tuple([1.0, 0.0] * 500)]


@pytest.mark.parametrize("results", RESULTS, ids=len)
def test_results_of_documents_come_back(store, job, results):
    tasks = {
        "a": TaskScore(value=1 / 3, stderr=0.1, documents=len(results), per_document=results),
        "b": TaskScore(value=0.1 + 0.2, stderr=None, documents=0, weight=-2.5),
    }
    of = Scored(
        candidate="s1", attempt=1, rows="search", score=Score(fitness=0.25, tasks=tasks),
        seconds=0.0, worker="w",
    )  # fmt: skip
    begin(store, job("s1"), evaluation=b"e")
    take(store, of)
    assert store.cached([b"e"]) == {b"e": of.score}


# Blocks of the rows.

#: The documents of two blocks, of fresh rows, and of what is left over.
FIRST = {"a": (4, 0, 2), "b": (1,)}
SECOND = {"b": (0, 3), "a": (1,)}
FRESH = {"a": (9, 7)}


def part(job: Job) -> Scored:
    """An outcome on the documents that the job names, each right or wrong by turns."""
    tasks = {}
    for number, (task, places) in enumerate(job.documents.items()):
        values = tuple(float((place + number) % 2) for place in places)
        tasks[task] = TaskScore(
            value=sum(values) / len(values),
            stderr=0.25,
            documents=len(values),
            per_document=values,
            log_likelihoods=quantise([-0.1 * place for place in places]),
        )
    fitness = sum(one.value for one in tasks.values())
    return Scored(
        candidate=job.candidate, attempt=job.attempt, rows=job.rows, block=job.block,
        score=Score(fitness=fitness, tasks=tasks), seconds=2.0, worker="w", accelerator_seconds=1.0,
    )  # fmt: skip


def measured(fitness: float, fidelity: float = 1.0, **facts) -> Measured:
    return Measured(fitness=fitness, fidelity=fidelity, **facts)


def measure(store: Store, job: Job, worth: Measured, *, final=True) -> Scored:
    """Begins a job and takes its outcome, after which the candidate is worth so much."""
    begin(store, job)
    take(store, part(job), measured=worth, final=final)
    return part(job)


@pytest.fixture
def blocks(job):
    """Jobs of the first two blocks and of fresh rows."""

    def of(id_: str) -> tuple[Job, Job, Job]:
        return (
            job(id_, documents=FIRST),
            job(id_, block=1, documents=SECOND),
            job(id_, rows="fresh", documents=FRESH),
        )

    return of


def test_blocks_come_back_one_by_one_as_they_were(store, blocks):
    first, second, _ = blocks("s1")
    measure(store, first, measured(0.5, 0.25, stderr=0.1, tie=-1.5), final=False)
    assert entries(store) == [recorded(part(first), False)]
    measure(store, second, measured(0.4))
    assert entries(store) == [recorded(part(first), False), recorded(part(second))]
    assert entries(store, 1) == [recorded(part(second))]


@pytest.mark.parametrize("block", [0, 1])
def test_each_block_is_accepted_once(store, blocks, block):
    jobs = blocks("s1")
    measure(store, jobs[0], measured(0.5, 0.25), final=False)
    measure(store, jobs[1], measured(0.5))
    again = replace(jobs[block], attempt=2)
    begin(store, again)
    with pytest.raises(IMPOSSIBLE):
        take(store, part(again), measured=measured(0.5))


def test_an_outcome_answers_a_job_of_its_own_block(store, blocks):
    first, second, _ = blocks("s1")
    begin(store, first)
    with pytest.raises(IMPOSSIBLE):
        take(store, part(second), measured=measured(0.5))


def test_one_block_is_under_way_at_a_time(store, blocks):
    first, second, fresh = blocks("s1")
    begin(store, first)
    begin(store, fresh)
    with pytest.raises(IMPOSSIBLE):
        begin(store, second)


def test_attempts_count_for_each_block(store, blocks, failure):
    first, second, _ = blocks("s1")
    measure(store, first, measured(0.5, 0.25), final=False)
    begin(store, second)
    take(store, failure(second, retryable=True), final=False)
    again = replace(second, attempt=2)
    measure(store, again, measured(0.5))
    assert [one.outcome.key for one in entries(store)] == [
        ("s1", "search", 0, 1), ("s1", "search", 1, 1), ("s1", "search", 1, 2)
    ]  # fmt: skip


def test_standings_are_what_was_scored_on_the_rows_of_the_search_in_its_order(
    store, blocks, job, score, failure
):
    first, second, fresh = blocks("s1")
    measure(store, first, measured(0.5, 0.25))
    measure(store, fresh, measured(0.5, 0.25))
    begin(store, second)
    take(store, failure(second, retryable=True), final=False)
    measure(store, replace(second, attempt=2), measured(0.5))
    begin(store, job("s1", rows="selection"), job("s2", rows="test"), job("s3"))
    take(store, score(job("s1", rows="selection")), score(job("s2", rows="test")))
    take(store, failure(job("s3")))
    found = store.standings(["s1", "s2", "s3", "s77"])
    assert found == {
        "s1": Standing(
            {
                ("search", 0): part(first).score,
                ("fresh", 0): part(fresh).score,
                ("search", 1): part(second).score,
            }
        )
    }
    assert list(found["s1"].parts) == [("search", 0), ("fresh", 0), ("search", 1)]
    assert found["s1"].pooled().tasks["a"].documents == 6
    assert store.standings([]) == {}


def test_a_retry_of_a_block_names_its_documents(store, born, blocks, failure):
    first, second, _ = blocks("s1")
    measure(store, first, measured(0.5, 0.25), final=False)
    begin(store, second)
    take(store, failure(second))
    store.retry([("s1", "search", 1, 2)])
    wish = entries(store)[-1]
    again = Again(candidate=born["s1"], rows="search", block=1, documents=SECOND, attempt=2)
    assert wish == Retry((again,))
    measure(store, replace(second, attempt=2), measured(0.4))


def test_an_equal_evaluation_of_a_block_gives_the_score_of_the_block(store, blocks):
    first, second, _ = blocks("s1")
    begin(store, first, evaluation=b"one")
    take(store, part(first), measured=measured(0.125, 0.25), final=False)
    begin(store, second, evaluation=b"two")
    take(store, part(second), measured=measured(0.25))
    assert store.cached([b"one", b"two"]) == {b"one": part(first).score, b"two": part(second).score}
    assert entries(store)[1].outcome.score.fitness == part(second).score.fitness != 0.25


def test_blocks_that_are_copied_may_come_in_one_turn(store, place, born, blocks):
    first, second, _ = blocks("s1")
    begin(store, first, evaluation=b"one")
    take(store, part(first), measured=measured(0.5, 0.25), final=False)
    begin(store, second, evaluation=b"two")
    take(store, part(second), measured=measured(0.25))
    other = place.open("other")
    other.create(NEW)
    other.write(Turn(candidates=list(born.values()), generation=1))
    copies = [
        Taken(
            outcome=replace(part(job), worker="cache"), measured=worth, final=final, cached=True,
            evaluation=evaluation,
        )
        for job, worth, final, evaluation in (
            (first, measured(0.5, 0.25), False, b"one"), (second, measured(0.25), True, b"two")
        )
    ]  # fmt: skip
    other.write(Turn(taken=copies, generation=1))
    assert entries(other) == [recorded(one.outcome, one.final) for one in copies]
    assert other.standings(["s1"]) == store.standings(["s1"])


# What only a database tells of them.


def worth_of(place, id_: str) -> tuple:
    one = Reader(place.url).candidate("one", id_)
    return one.state, one.fitness, one.fidelity, one.stopped


def totals(place) -> tuple:
    status = Reader(place.url).status("one")
    return tuple(status[name] for name in ("evaluated", "failed", "cached", "stopped"))


@in_databases
def test_a_candidate_is_worth_what_its_last_part_says_once_it_has_ended(store, place, blocks):
    first, second, fresh = blocks("s1")
    measure(store, first, measured(0.5, 0.25), final=False)
    assert worth_of(place, "s1") == ("proposed", None, 0.0, False)
    assert (totals(place), Reader(place.url).best("one", 9)) == ((0, 0, 0, 0), [])
    measure(store, second, measured(0.25, stderr=0.125, tie=-2.0))
    record = Reader(place.url).candidate("one", "s1")
    assert worth_of(place, "s1") == ("scored", 0.25, 1.0, False)
    assert record.stderr == 0.125
    assert record.scores == store.standings(["s1"])["s1"].pooled().tasks
    assert record.documents == {"search": 7}
    measure(store, fresh, measured(0.375))
    assert worth_of(place, "s1") == ("scored", 0.375, 1.0, False)
    assert [one.fitness for one in Reader(place.url).best("one", 9)] == [0.375]
    record = Reader(place.url).candidate("one", "s1")
    assert record.scores["a"].documents == 6
    assert record.documents == {"search": 7, "fresh": 2}
    assert totals(place) == (1, 0, 0, 0)
    assert Reader(place.url).history("one") == [("search", "s1", 0.375, False)]


@in_databases
def test_a_candidate_that_a_race_stopped_ranks_last_and_may_still_be_measured_in_full(
    store, place, blocks, job, score
):
    first, second, _ = blocks("s1")
    measure(store, first, measured(9.0, 0.25, stopped=True))
    begin(store, job("s2"))
    take(store, score(job("s2"), -1.0))
    assert worth_of(place, "s1") == ("scored", 9.0, 0.25, True)
    assert [one.id for one in Reader(place.url).best("one", 9)] == ["s2", "s1"]
    assert totals(place) == (2, 0, 0, 1)
    measure(store, second, measured(8.0))
    assert [one.id for one in Reader(place.url).best("one", 9)] == ["s1", "s2"]
    assert totals(place) == (2, 0, 0, 1), "how it ended first is what counts"


@in_databases
def test_what_a_candidate_was_estimated_at_stands_until_it_is_measured_in_full(
    store, place, blocks, failure
):
    first, second, _ = blocks("s1")
    third = replace(second, block=2, documents={"a": (5,)})
    measure(store, first, measured(0.5, 0.25))
    measure(store, second, measured(0.4, 0.75), final=False)
    assert worth_of(place, "s1") == ("scored", 0.5, 0.25, False)
    begin(store, third)
    take(store, failure(third))
    assert worth_of(place, "s1") == ("scored", 0.5, 0.25, False)
    assert totals(place) == (1, 0, 0, 0)
    store.retry([("s1", "search", 2, 2)])
    assert totals(place) == (1, 0, 0, 0)
    measure(store, replace(third, attempt=2), measured(0.3))
    assert worth_of(place, "s1") == ("scored", 0.3, 1.0, False)
    assert totals(place) == (1, 0, 0, 0)


@in_databases
def test_a_candidate_that_fails_between_blocks_has_failed_until_it_is_retried(
    store, place, blocks, failure
):
    first, second, _ = blocks("s1")
    measure(store, first, measured(0.5, 0.25), final=False)
    begin(store, second)
    take(store, failure(second))
    assert worth_of(place, "s1") == ("failed", None, 0.0, False)
    assert totals(place) == (0, 1, 0, 0)
    store.retry([("s1", "search", 1, 2)])
    assert worth_of(place, "s1") == ("proposed", None, 0.0, False)
    assert totals(place) == (0, 0, 0, 0)
    measure(store, replace(second, attempt=2), measured(0.25))
    assert worth_of(place, "s1") == ("scored", 0.25, 1.0, False)
    assert totals(place) == (1, 0, 0, 0)


@in_databases
def test_fresh_rows_that_fail_change_nothing(store, place, blocks, failure):
    first, _, fresh = blocks("s1")
    measure(store, first, measured(0.5))
    begin(store, fresh)
    take(store, failure(fresh))
    assert worth_of(place, "s1") == ("scored", 0.5, 1.0, False)
    assert totals(place) == (1, 0, 0, 0)
    store.retry([("s1", "fresh", 0, 2)])
    measure(store, replace(fresh, attempt=2), measured(0.75))
    assert worth_of(place, "s1") == ("scored", 0.75, 1.0, False)


@in_databases
def test_documents_that_were_scored_are_added_up_for_each_role_and_kind_of_rows(
    store, place, blocks, job, score, failure
):
    first, second, fresh = blocks("s1")
    measure(store, first, measured(0.5, 0.5), final=False)
    measure(store, second, measured(0.5))
    measure(store, fresh, measured(0.5))
    measure(store, blocks("c1")[0], measured(0.5, 0.5, stopped=True))
    begin(store, job("s1", rows="test"), job("r1"), job("s3"))
    take(store, score(job("s1", rows="test")), score(job("r1")), failure(job("s3")))
    take(store, score(job("s2")), cached=True, evaluation=b"e")
    status = Reader(place.url).status("one")
    assert status["documents"] == {
        "control": {"search": 4},
        "reference": {"search": 2},
        "search": {"fresh": 2, "search": 7, "test": 2},
    }
    assert status["stopped"] == 1


@in_databases
def test_equals_are_told_apart_by_the_tie_then_by_age(store, place, born, job, score):
    more = [replace(born["s1"], id=f"s{n}", number=n, generation=2) for n in range(4, 8)]
    store.write(Turn(candidates=more, generation=2))
    worths = {
        "s2": measured(0.5, tie=-2.0),
        "s1": measured(0.5),
        "s4": measured(0.5, tie=-1.0),
        "s3": measured(0.5, tie=-2.0),
        "r1": measured(0.5, tie=-2.0),
        "s5": measured(0.75, 0.5, stopped=True),
        "s6": measured(0.5, tie=-2.0),
        "c1": measured(5.0),
    }
    everyone = born | {one.id: one for one in more}
    for id_, worth in worths.items():
        of = replace(job("s1"), candidate=id_, recipe=everyone[id_].recipe)
        begin(store, of)
        take(store, replace(score(of), candidate=id_), measured=worth)
    reader = Reader(place.url)
    ranked = ["s4", "s2", "s3", "s6", "r1", "s1", "s5"]
    assert [one.id for one in reader.best("one", 9)] == ranked
    for num in range(1, 8):
        assert [one.id for one in reader.best("one", num)] == ranked[:num]
    assert reader.best_control("one").id == reader.control_winner("one").id == "c1"
    assert reader.status("one")["best"]["id"] == reader.winner("one").id == "s4"


@in_databases
def test_who_breaks_constraints_less_is_before_whoever_is_fitter_unless_a_race_stopped_it(
    store, place, born, job, score
):
    more = [replace(born["s1"], id=f"s{n}", number=n, generation=2) for n in range(4, 9)]
    store.write(Turn(candidates=more, generation=2))
    worths = {
        "s1": measured(9.0, violation=0.5),
        "s2": measured(0.25, values=(0.25, -3.0)),
        "s3": measured(0.5, tie=-1.0, violation=0.0),
        "s4": measured(8.0, violation=0.25, tie=-2.0),
        "s5": measured(8.0, violation=0.25, tie=-1.0, values=(1.0,)),
        "s6": measured(10.0, 0.5, stopped=True),
        "s7": measured(11.0, 0.5, stopped=True, violation=1e-300),
        "s8": measured(7.0, violation=0.25),
        "r1": measured(0.375, violation=1e300),
        "r2": measured(0.375),
        "c1": measured(5.0, violation=2.0),
        "c2": measured(-5.0),
    }
    everyone = born | {one.id: one for one in more}
    for id_, worth in worths.items():
        of = replace(job("s1"), candidate=id_, recipe=everyone[id_].recipe)
        begin(store, of)
        take(store, replace(score(of), candidate=id_), measured=worth)
    reader = Reader(place.url)
    ranked = ["s3", "r2", "s2", "s5", "s4", "s8", "s1", "r1", "s6", "s7"]
    assert [one.id for one in reader.best("one", 99)] == ranked
    for num in range(1, 11):
        assert [one.id for one in reader.best("one", num)] == ranked[:num]
    assert reader.best_control("one").id == "c2"
    found = {one.id: (one.violation, tuple(one.values)) for one in reader.best("one", 99)}
    assert found == {id_: (worths[id_].violation, worths[id_].values) for id_ in ranked}
    assert reader.status("one")["best"]["violation"] == 0.0
    kept = {one.id: one.values for one in reader.objectives("one")}
    assert kept == {"s2": (0.25, -3.0)}


@in_databases
def test_by_how_much_constraints_are_broken_may_become_known_later_and_then_stands(
    store, place, blocks, job, score
):
    first, second, _ = blocks("s1")
    begin(store, job("s2"), job("r1"))
    take(store, score(job("s2"), 1.0), measured=measured(1.0, values=(1.0,)))
    measure(store, first, measured(2.0, 0.5), final=False)
    measure(store, second, measured(3.0))
    assert [one.id for one in Reader(place.url).best("one", 9)] == ["s1", "s2"]
    last = Taken(outcome=score(job("r1"), 0.5), final=True, measured=measured(0.5))
    judged = {"s1": 0.5, "r1": 0.25}
    store.write(Turn(taken=[last], judged=judged, generation=1))
    found = Reader(place.url).best("one", 9)
    assert [(one.id, one.violation) for one in found] == [("s2", 0.0), ("r1", 0.25), ("s1", 0.5)]
    store.write(Turn(judged=judged, generation=1))  # as after a fork, which judges again
    with pytest.raises(IntegrityError):
        store.write(Turn(judged={"s1": 0.25}, generation=1))
    with pytest.raises(IntegrityError):
        store.write(Turn(judged={"s2": -0.5}, generation=1))


@in_databases
def test_no_selection_rows_make_a_winner_of_who_breaks_constraints(store, place, job, score):
    for id_, violation in (("s1", 0.5), ("s2", 0.0), ("s3", 0.25)):
        begin(store, job(id_))
        take(store, score(job(id_)), measured=measured(1.0, violation=violation))
        begin(store, job(id_, rows="selection"))
        take(store, score(job(id_, rows="selection"), violation))
    assert Reader(place.url).winner("one").id == "s2"


@in_databases
def test_the_winner_is_the_best_on_the_selection_rows_if_there_are_any(store, place, job, score):
    for id_, fitness in (("r1", 0.25), ("s1", 1.0), ("s2", 0.75), ("s3", 0.5), ("c1", 9.0)):
        begin(store, job(id_))
        take(store, score(job(id_), fitness))
    reader = Reader(place.url)
    assert reader.winner("one").id == "s1"
    for id_, fitness in (("s1", 0.1), ("s3", 0.3), ("r1", 0.3), ("s2", 0.3), ("c1", 7.0)):
        begin(store, job(id_, rows="selection"))
        take(store, score(job(id_, rows="selection"), fitness))
    winner = reader.winner("one")
    assert (winner.id, winner.fitness, winner.selection_fitness) == ("s2", 0.75, 0.3)
    assert winner.selection["sphere"].value == 0.3
    assert reader.control_winner("one").selection_fitness == 7.0
    begin(store, job("s2", rows="test"), job("s2", rows="control"))
    take(store, score(job("s2", rows="test"), 0.2), score(job("s2", rows="control"), 0.6))
    winner = reader.winner("one")
    assert (winner.test_fitness, winner.control_fitness) == (0.2, 0.6)
    assert (winner.test["sphere"].value, winner.control["sphere"].value) == (0.2, 0.6)
    assert winner.documents == dict.fromkeys(("search", "selection", "test", "control"), 2)


@in_databases
def test_at_the_end_who_was_measured_in_full_is_before_who_was_estimated(store, place, blocks):
    measure(store, blocks("s1")[0], measured(0.75, 0.25))
    measure(store, blocks("s2")[0], measured(0.5))
    measure(store, blocks("c1")[0], measured(0.5, 0.25))
    reader = Reader(place.url)
    assert reader.winner("one").id == "s1"
    store.end("finished", "generations", 1.0)
    assert (reader.winner("one").id, reader.control_winner("one").id) == ("s2", "c1")


@in_databases
def test_a_choice_of_documents_is_kept_once(store, place, blocks):
    for id_ in ("s1", "s2", "s3"):
        begin(store, *blocks(id_)[::2])
    begin(store, replace(blocks("c1")[0], documents={"b": (1,), "a": (0, 2, 4)}))
    with store._engine.connect() as connection:
        sets = connection.execute(text("SELECT count(*) FROM document_set")).scalar_one()
        query = "SELECT candidate, rows, document_set FROM attempt ORDER BY id"
        rows = connection.execute(text(query)).all()
    assert sets == 3, "another order of the documents is another choice"
    assert len({(kind, number) for id_, kind, number in rows if id_ != "c1"}) == 2


@in_databases
def test_a_copied_block_is_about_the_documents_of_what_it_was_copied_from(store, place, blocks):
    first, *_ = blocks("s1")
    begin(store, first, evaluation=b"one")
    take(store, part(first), measured=measured(0.5))
    copy = part(replace(first, candidate="s2"))
    take(store, copy, cached=True, evaluation=b"one", measured=measured(0.5))
    with store._engine.connect() as connection:
        query = "SELECT document_set, documents FROM attempt ORDER BY id"
        (one, other) = connection.execute(text(query)).all()
    assert one == other
    assert one.document_set is not None


# Snapshots.


def test_snapshots_are_few_and_the_newest_comes_first(store, born, job, score):
    jobs = [job(id_) for id_ in born]
    begin(store, *jobs)
    take(store, *[score(one) for one in jobs])
    assert store.snapshots() == []
    shots = [
        Snapshot(sequence=number, fingerprint=f"f{number}", state={"open": [[1.5, None, "ü"]]})
        for number in (1, 3, 4, 6, 8)
    ]
    for count, shot in enumerate(shots, start=1):
        store.keep(shot)
        assert store.snapshots() == shots[:count][::-1][:MAX_SNAPSHOTS]
    store.keep(replace(shots[-1], fingerprint="other"))
    assert [one.fingerprint for one in store.snapshots()] == ["other", "f6"]


# The lease.


def test_who_holds_the_campaign_refuses_others_until_it_is_given_back(store, place, born):
    second = place.open()
    with pytest.raises(StoreHeldError, match="campaign 'one' is being run by"):
        second.reopen({})
    with pytest.raises(StoreHeldError):
        store.reopen({})
    store.write(Turn(elapsed_s=2.0, candidates=[replace(born["s1"], id="s9", number=9)]))
    store.close()
    second.reopen({})
    second.beat()
    second.close()
    second.close()


def test_reading_takes_nothing(store, place, job, score):
    begin(store, job("s1"))
    second = place.open()
    second.load()
    assert set(second.digests(0)) == set(store.digests(0))
    assert second.sequence() == 0
    second.close()
    take(store, score(job("s1")))


def test_a_dead_drivers_campaign_is_taken_over_and_what_it_left_open_is_lost(
    store, place, job, score
):
    begin(store, job("s1"), job("s2"))
    take(store, score(job("s2")))
    place.bury()
    second = place.open()
    second.reopen({})
    assert entries(second) == [recorded(score(job("s2")))]
    with pytest.raises((*IMPOSSIBLE, KeyError)):
        take(second, score(job("s1")))
    begin(second, job("s1"))
    take(second, score(job("s1")))
    assert second.sequence() == 2


def test_a_driver_that_lost_its_lease_can_write_nothing(store, place, born, job, score):
    begin(store, job("s1"), evaluation=b"e")
    place.bury()
    second = place.open()
    second.reopen({})
    for write in (
        lambda: take(store, score(job("s1"))),
        lambda: begin(store, job("s2")),
        lambda: store.write(Turn(candidates=[replace(born["s1"], id="s9", number=9)])),
        lambda: store.write(Turn(elapsed_s=99.0)),
        lambda: store.keep(Snapshot(sequence=0, fingerprint="f", state={})),
        lambda: store.end("finished", None, 99.0),
        lambda: store.retry([("s1", "search", 0, 2)]),
        store.beat,
    ):
        with pytest.raises(LeaseLostError, match="taken over by another driver"):
            write()
    store.close()
    assert entries(second) == second.snapshots() == []
    assert second.load().state == "running"
    assert (second.load().elapsed_s, set(second.digests(0))) == (0.0, set(born))
    assert second.cached([b"e"]) == {}
    assert second.beat() is False
    begin(second, job("s1"))


def test_somebody_may_ask_the_campaign_to_stop(store, place):
    assert store.beat() is False
    place.ask_to_stop()
    assert store.beat() is True
    assert store.beat() is True
    store.end("interrupted", "stop", 1.0)
    store.close()
    second = place.open()
    second.reopen({})
    assert second.beat() is False


def test_a_wish_to_stop_a_driver_that_died_is_not_for_the_next(store, place):
    place.ask_to_stop()
    place.bury()
    second = place.open()
    second.reopen({})
    assert second.beat() is False


# Retries.


@pytest.fixture
def retried(store, born, job, score, failure):
    """s1 was set aside, s2 measured, s3 broke; then s1 and s3 are wanted again."""
    begin(store, job("s1"), job("s2"), job("s3"))
    lost = failure(job("s1"), retryable=True)
    broken = failure(job("s3"))
    take(store, lost, score(job("s2")), broken)
    store.retry([("s1", "search", 0, 2), ("s3", "search", 0, 2)])
    wish = Retry(
        tuple(Again(candidate=born[one], rows="search", attempt=2) for one in ("s1", "s3"))
    )
    return [recorded(lost), recorded(score(job("s2"))), recorded(broken), wish]


def test_a_retry_has_its_place_among_the_outcomes(store, retried, job, score, failure):
    assert entries(store) == retried
    assert store.sequence() == 4
    begin(store, job("s1", attempt=2), job("s3", attempt=2))
    again = failure(job("s3", attempt=2))
    take(store, score(job("s1", attempt=2)), again)
    expected = [*retried, recorded(score(job("s1", attempt=2))), recorded(again)]
    store.retry([("s3", "search", 0, 3)])
    expected.append(Retry((replace(retried[3].wanted[1], attempt=3),)))
    assert entries(store) == expected
    for after in range(len(expected) + 1):
        assert entries(store, after) == expected[after:]


def test_a_retry_ends_with_another_outcome_and_is_over(store, retried, job, score):
    begin(store, job("s1", attempt=2))
    take(store, score(job("s1", attempt=2)))
    begin(store, job("s1", attempt=3))
    with pytest.raises(IMPOSSIBLE):
        take(store, score(job("s1", attempt=3)))


def test_a_retry_on_the_test_rows_leaves_the_search_rows_alone(store, born, job, score, failure):
    begin(store, job("s1"), job("s1", rows="test"))
    lost = failure(job("s1", rows="test"), retryable=True)
    take(store, score(job("s1")), lost)
    store.retry([("s1", "test", 0, 2)])
    wish = Retry((Again(candidate=born["s1"], rows="test", attempt=2),))
    assert entries(store) == [recorded(score(job("s1"))), recorded(lost), wish]
    begin(store, job("s1", attempt=2, rows="test"))
    take(store, score(job("s1", attempt=2, rows="test")))


# What only a database keeps for people.


def counts(place) -> tuple:
    status = Reader(place.url).status("one")
    return status["evaluated"], status["failed"], status["cached"], status["in_flight"]


@in_databases
def test_counters_follow_what_was_accepted(store, place, job, score, failure):
    begin(store, *[job(one) for one in ("r1", "s1", "s2", "s3")], job("s2", rows="test"))
    assert counts(place) == (0, 0, 0, 5)
    take(store, failure(job("s1"), retryable=True), final=False)
    assert counts(place) == (0, 0, 0, 4)
    take(store, score(job("r1")), score(job("s2")), failure(job("s3")))
    assert counts(place) == (2, 1, 0, 1)
    take(store, failure(job("s2", rows="test")))
    assert counts(place) == (2, 1, 0, 0), "the test rows are not counted"
    take(store, score(job("c1")), score(job("c2")), cached=True, evaluation=b"e")
    assert counts(place) == (4, 1, 2, 0)
    store.retry([("s3", "search", 0, 2), ("s2", "test", 0, 2)])
    assert counts(place) == (4, 0, 2, 0)
    begin(store, job("s3", attempt=2))
    take(store, failure(job("s3", attempt=2)))
    assert counts(place) == (4, 1, 2, 0)


@in_databases
def test_attempts_are_recorded_with_where_and_how_they_ended(store, place, job, score, failure):
    begin(store, job("s1", halvings=2))
    where = {"node": "n1", "device": "NVIDIA H100", "accelerator_seconds": 0.75}
    trace = {"kind": "memory", "log": "Traceback ...", "stage": "evaluate"}
    take(store, failure(job("s1"), retryable=True, **where, **trace), final=False)
    take(store, replace(score(job("c1")), worker="cache"), cached=True, evaluation=b"e")
    begin(store, job("s1", attempt=2))
    take(store, replace(score(job("s1", attempt=2)), **where))
    begin(store, job("s2"))
    place.bury()
    place.open().reopen({})
    first, second = Reader(place.url).attempts("one", "s1")
    assert first == {
        **first, "rows": "search", "number": 1, "state": "failed", "worker": "fake",
        "seconds": 1.5, "cached": False, "cause": "ValueError: no", **where, **trace,
    }  # fmt: skip
    nothing = dict.fromkeys(("stage", "kind", "cause", "log"))
    assert second == {**second, "number": 2, "state": "scored", **where, **nothing}
    (copied,) = Reader(place.url).attempts("one", "c1")
    assert (copied["cached"], copied["worker"]) == (True, "cache")
    (lost,) = Reader(place.url).attempts("one", "s2")
    assert (lost["state"], lost["worker"], lost["seconds"]) == ("lost", None, None)


@in_databases
def test_leases_halvings_and_hashes_of_attempts_are_recorded(place, store, job, score):
    store.write(
        Turn(begun=[Begun(job=job("s1", halvings=3), lease_until=1234.5, evaluation=b"\0e")])
    )
    take(store, score(job("s1")))
    with store._engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM attempt")).mappings().one()
    names = ("lease_until", "halvings", "evaluation", "final", "retried", "sequence")
    assert [row[name] for name in names] == [1234.5, 3, b"\0e", 1, 0, 1]
    assert row["ended_at"] >= row["started_at"]


@in_databases
def test_events_tell_the_campaigns_story(store, place, job, failure):
    begin(store, job("s1"))
    take(store, failure(job("s1")))
    store.retry([("s1", "search", 0, 2)])
    place.bury()
    second = place.open()
    second.reopen({"seed": 2})
    second.end("finished", "generations", 1.0)
    with second._engine.connect() as connection:
        rows = connection.execute(text("SELECT kind, data, sequence FROM event ORDER BY id")).all()
    events = [(kind, json.loads(data), place) for kind, data, place in rows]
    assert [(kind, place) for kind, _, place in events] == [
        ("created", None), ("retry", 2), ("reopened", None), ("ended", None)
    ]  # fmt: skip
    assert events[1][1] == {"wanted": [["s1", "search", 0, 2]]}
    assert events[2][1] == {"before": NEW.settings, "taken_over": True}
    assert events[3][1] == {"state": "finished", "reason": "generations"}


@in_databases
def test_a_file_that_was_written_is_recorded(store, tmp_path):
    store.add_artifact("s1", str(tmp_path / "x"), "0" * 64, 3_000_000_000)
    store.add_artifact(None, "report.md", "f" * 64, 0)
    with store._engine.connect() as connection:
        rows = connection.execute(text("SELECT candidate, path, bytes FROM artifact ORDER BY id"))
        assert rows.all() == [
            ("s1", str(tmp_path / "x"), 3_000_000_000), (None, "report.md", 0)
        ]  # fmt: skip


# Forks.


@pytest.fixture
def ancestor(place, born, job, score, failure) -> SqlStore:
    """Two generations; of the second s5 is still under way, and r2 has failed once."""
    store = place.open("old")
    store.create(NEW)
    second = [
        replace(born["s1"], id=f"s{number}", number=number, generation=2, parents=("s1", "s3"))
        for number in (4, 5)
    ]
    store.write(Turn(candidates=list(born.values()), generation=1))
    jobs = [job(one) for one in ("r1", "r2", "s1", "s2", "s3", "c1", "c2")]
    begin(store, *jobs, evaluation=b"e")
    take(store, failure(job("r2"), retryable=True), final=False)
    take(store, failure(job("s2"), retryable=True), score(job("s3"), 3.0), score(job("s1"), 1.0))
    store.write(Turn(candidates=second, generation=2))
    later = [replace(job("s1"), candidate=one.id, recipe=one.recipe) for one in second]
    begin(store, *later, generation=2)
    store.retry([("s2", "search", 0, 2)])
    take(store, score(job("r1"), 0.5), score(later[0], 4.0), generation=2)
    begin(store, job("s2", attempt=2), job("s1", rows="test"), generation=2)
    tested = score(job("s1", rows="test"), 9.0)
    take(store, score(job("s2", attempt=2), 2.0), tested, generation=2)
    store.keep(Snapshot(sequence=3, fingerprint="f", state={}))
    return store


@in_databases
def test_a_campaign_is_forked_after_a_generation_that_is_complete(ancestor, place):
    fork = place.open("new")
    point = fork.fork_point("old", None)
    assert (point.generation, point.until) == (1, 3)
    assert fork.fork_point("old", 1) == point
    first = fork.fork_point("old", 0)
    assert (first.generation, first.until) == (0, 0)
    for wrong in (2, 7, -1):
        with pytest.raises(StoreError, match=rf"no complete generation {wrong}; the last one is 1"):
            fork.fork_point("old", wrong)


@in_databases
def test_a_campaign_is_forked_after_its_last_generation_once_that_is_complete(
    ancestor, place, born, score, job
):
    last = replace(job("s1"), candidate="s5")
    take(ancestor, score(last), generation=2)
    point = place.open("new").fork_point("old", None)
    assert (point.generation, point.until) == (2, 5)


def test_the_fork_of_an_asynchronous_campaign_is_where_it_is(tmp_path, born):
    url = str(tmp_path / "shoal.db")
    settings = {"search": {"kind": "genetic", "mode": "async"}}
    with SqlStore(url, "old") as old, SqlStore(url, "new") as fork:
        old.create(replace(NEW, search_settings=settings))
        old.write(Turn(candidates=list(born.values()), generation=1))
        point = fork.fork_point("old", None)
        assert (point.generation, point.until) == (1, 3)
        with pytest.raises(StoreError, match="asynchronous"):
            fork.fork_point("old", 0)


@in_databases
def test_a_fork_has_its_ancestors_history_and_then_its_own(
    ancestor, place, born, job, score, failure
):
    fork = place.open("new")
    history = [{"until": 3, "seed": 1}]
    fork.fork(NEW, ancestor.load(), fork.fork_point("old", None), history)
    record = fork.load()
    assert (record.name, record.state, record.history) == ("new", "interrupted", history)
    wish = Retry((Again(candidate=born["s2"], rows="search", attempt=2),))
    assert entries(fork) == [
        recorded(failure(job("r2"), retryable=True), False),
        recorded(failure(job("s2"), retryable=True)),
        recorded(score(job("s3"), 3.0)),
        recorded(score(job("s1"), 1.0)),
        wish,
        recorded(score(job("r1"), 0.5)),
        recorded(score(job("s2", attempt=2), 2.0)),
    ]
    assert fork.sequence() == 7
    assert fork.snapshots() == []
    assert fork.candidates(ancestor.digests(0)) == born
    status = Reader(place.url).status("new")
    assert [status[one] for one in ("generation", "evaluated", "failed", "cached")] == [1, 4, 0, 4]
    assert Reader(place.url).candidate("new", "s3").scores["sphere"].per_document == (0.0, 1.0)

    before = entries(ancestor)
    fork.reopen({})
    begin(fork, job("r2", attempt=2))
    take(fork, score(job("r2", attempt=2)))
    assert (fork.sequence(), entries(ancestor)) == (8, before)


@in_databases
def test_a_fork_of_a_fork_is_a_fork(ancestor, place):
    fork = place.open("new")
    fork.fork(NEW, ancestor.load(), fork.fork_point("old", None), [{"until": 3}])
    other = place.open("newer")
    assert other.fork_point("new", None) == replace(fork.fork_point("old", None), ancestor=2)
    other.fork(NEW, fork.load(), other.fork_point("new", None), [{"until": 3}, {"until": 3}])
    assert entries(other) == entries(fork)
    with pytest.raises((StoreError, IntegrityError)):
        other.fork(NEW, fork.load(), other.fork_point("new", None), [])


@pytest.fixture
def raced(place, born, blocks, failure) -> SqlStore:
    """Two generations of a race with fresh rows; of the first all had ended with outcome 8."""
    store = place.open("old")
    store.create(NEW)
    store.write(Turn(candidates=list(born.values()), generation=1))
    parts = {one: blocks(one) for one in ("r1", "r2", "s1", "s2", "s3", "c1", "c2")}
    measure(store, parts["r1"][0], measured(0.5, 0.5), final=False)
    measure(store, parts["s1"][0], measured(0.75, 0.5), final=False)
    measure(store, parts["s2"][0], measured(0.25, 0.5, stopped=True))
    measure(store, parts["r1"][1], measured(0.5))
    measure(store, parts["s1"][1], measured(0.625))
    measure(store, parts["s1"][2], measured(0.5))  # fresh
    measure(store, parts["c1"][0], measured(0.5, 0.5), final=False)
    begin(store, parts["s3"][0])
    take(store, failure(parts["s3"][0]))  # here
    children = [
        replace(born["s1"], id=f"s{number}", number=number, generation=2, parents=("s1",))
        for number in (4, 5)
    ]
    store.write(Turn(candidates=children, generation=2))
    measure(store, parts["c1"][1], measured(0.5))
    measure(store, parts["c2"][0], measured(0.5, 0.5, stopped=True))
    measure(store, parts["r2"][0], measured(0.5))  # says all by itself
    begin(store, replace(parts["s1"][2], block=1))
    take(store, failure(replace(parts["s1"][2], block=1)))
    store.retry([("s3", "search", 0, 2), ("s1", "fresh", 1, 2)])
    measure(store, replace(parts["s2"][1]), measured(0.25))  # a finalist of an earlier end
    measure(store, replace(parts["s3"][0], attempt=2), measured(0.125))
    late = replace(parts["s1"][0], candidate="s4")
    measure(store, late, measured(1.0))
    return store


@in_databases
def test_a_fork_of_a_race_has_what_had_come_when_its_last_generation_ended(
    raced, place, born, blocks, failure
):
    fork = place.open("new")
    fork.fork(NEW, raced.load(), fork.fork_point("old", 1), [])
    before, after = entries(raced)[:8], entries(raced)[8:]
    later = {("r2", "search", 0, 1), ("s3", "search", 0, 2)}
    r2, _, s3 = [one for one in after if isinstance(one, Retry) or one.outcome.key in later]
    wish = Retry((Again(candidate=born["s3"], rows="search", documents=FIRST, attempt=2),))
    assert entries(fork) == [*before, r2, wish, s3]
    assert fork.standings(born) == {
        **raced.standings(["r1", "s1", "r2", "s3"]),
        "s2": Standing({("search", 0): part(blocks("s2")[0]).score}),
        "c1": Standing({("search", 0): part(blocks("c1")[0]).score}),
    }  # fmt: skip
    reader = Reader(place.url)
    worths = {one: reader.candidate("new", one) for one in born}
    assert {one: found.fitness for one, found in worths.items()} == {
        "r1": 0.5, "r2": 0.5, "s1": 0.5, "s2": 0.25, "s3": 0.125, "c1": None, "c2": None, "c3": None
    }  # fmt: skip
    assert (worths["s2"].stopped, worths["c1"].state) == (True, "proposed")
    assert reader.status("new")["documents"] == {
        "reference": {"search": 0}, "search": {"fresh": 0, "search": 0}, "control": {"search": 0}
    }  # fmt: skip
    fork.reopen({})
    for one in (blocks("c1")[1], blocks("c2")[0], replace(blocks("s1")[2], block=1)):
        measure(fork, one, measured(0.5))


def test_a_fork_of_an_asynchronous_campaign_has_all_of_its_blocks(tmp_path, born, blocks):
    url = str(tmp_path / "shoal.db")
    settings = {"search": {"kind": "genetic", "mode": "async"}}
    with SqlStore(url, "old") as old, SqlStore(url, "new") as fork:
        old.create(replace(NEW, search_settings=settings))
        old.write(Turn(candidates=list(born.values()), generation=1))
        measure(old, blocks("s1")[0], measured(0.5, 0.5))
        measure(old, blocks("s1")[2], measured(0.5, 0.5))
        measure(old, blocks("s2")[0], measured(0.5, 0.5), final=False)
        measure(old, blocks("s1")[1], measured(0.5))
        fork.fork(NEW, old.load(), fork.fork_point("old", None), [])
        assert entries(fork) == entries(old)
        assert fork.standings(born) == old.standings(born)
    assert upkeep.check(url)["problems"] == []

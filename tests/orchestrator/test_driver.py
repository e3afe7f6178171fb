"""The loop around a campaign: record, then act; stop at any time, and go on the same."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator.algorithms.genetic import Genetic
from orchestrator.campaign import fold as campaigns
from orchestrator.campaign import snapshot
from orchestrator.campaign.state import (
    Branch,
    Campaign,
    Candidate,
    Limits,
    Recorded,
    Retry,
    Rules,
    State,
)
from orchestrator.loop import Driver, Interrupted, MismatchError, StopRequested
from orchestrator.measurement.measured import Standing
from orchestrator.storage import engine as engines
from orchestrator.storage import lease, schema, upkeep
from orchestrator.storage.base import (
    LeaseLostError,
    NewCampaign,
    Snapshot,
    StoreFaultError,
    Taken,
    Turn,
)
from orchestrator.storage.memory import Memory, MemoryStore
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from tests.conftest import fake_regime
from workers.job import Failed, Job, JobKey, Outcome, Scored

NEW = NewCampaign(settings={}, search_settings={"search": {}}, seed=3, versions={})
#: Candidate, rows, block: what is measured once.
Place = tuple[str, str, int]


@dataclass
class FakeExecutor:
    """Answers the newest job first, in this process."""

    answer: Callable[[Job], Outcome]
    slots: int = 3
    #: How many answers come at a time.
    at_once: int = 1
    #: Delivers everything twice, once more after other news.
    doubled: bool = False
    before: Callable[[Job], None] = lambda job: None
    after: Callable[[int], None] = lambda count: None
    queue: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    late: list[Outcome] = field(default_factory=list)
    closed: bool = False
    idle: int = 0

    def submit(self, job: Job) -> None:
        assert len(self.queue) < self.slots
        self.before(job)
        self.queue.append(job)

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        if not self.queue:
            self.idle += 1
            assert self.idle < 5, "the driver waits for an outcome that will never come"
            return []
        found: list[Outcome] = []
        for _ in range(min(self.at_once, len(self.queue))):
            job = self.queue.pop()
            self.done.append(job)
            found.append(self.answer(job))
        if self.doubled:
            found, self.late = [*found, *found, *self.late], found
        self.after(len(self.done))
        return found

    def close(self) -> None:
        self.closed = True

    @property
    def measured(self) -> set[Place]:
        return {job.key[:3] for job in self.done}


@dataclass
class Audience:
    """Remembers what it was told."""

    resumed: int = 0
    final: list[bool] = field(default_factory=list)
    interrupted: int | None = None

    def on_start(self, state, resumed) -> None:
        self.resumed = resumed

    def on_workers(self, slots) -> None:
        pass

    def on_outcome(self, state, outcome, *, final) -> None:
        self.final.append(final)

    def on_interrupt(self, in_flight) -> None:
        self.interrupted = in_flight


@dataclass
class InMemory:
    """Campaigns of this process."""

    memory: Memory = field(default_factory=Memory)

    def open(self, name="one") -> MemoryStore:
        return MemoryStore(self.memory, name)

    def bury(self, name="one") -> None:
        """The driver that holds the campaign is dead."""
        self.memory.campaigns[name].token = None

    def ask_to_stop(self, name="one") -> None:
        self.memory.campaigns[name].stop_requested = True

    def under_way(self, name="one") -> set[Place]:
        return {begun.job.key[:3] for begun in self.memory.campaigns[name].open.values()}

    def check(self) -> None:
        pass


@dataclass
class InFile:
    """Campaigns of a database."""

    url: str

    def open(self, name="one") -> SqlStore:
        store = SqlStore(self.url, name)
        store.load()
        return store

    def bury(self, name="one") -> None:
        gone = replace(lease.myself(), born="long ago").as_json()
        self.run(update(schema.campaign).values(lease_holder=gone), name)

    def ask_to_stop(self, name="one") -> None:
        self.run(update(schema.campaign).values(stop_requested=1), name)

    def under_way(self, name="one") -> set[Place]:
        here = schema.campaign.c.id == schema.attempt.c.campaign
        columns = (schema.attempt.c.candidate, schema.attempt.c.rows, schema.attempt.c.block)
        query = select(*columns).join_from(schema.attempt, schema.campaign, here)
        return set(map(tuple, self.run(query.where(schema.attempt.c.state == "open"), name)))

    def run(self, statement, name) -> list:
        engine = engines.open_for_writing(self.url)
        with engine.begin() as connection:
            result = connection.execute(statement.where(schema.campaign.c.name == name))
            found = list(result) if result.returns_rows else []
        engine.dispose()
        return found

    def check(self) -> None:
        assert upkeep.check(self.url)["problems"] == []


@pytest.fixture
def file(tmp_path) -> InFile:
    return InFile(str(tmp_path / "shoal.db"))


@pytest.fixture(params=["memory", "file"])
def place(request) -> InMemory | InFile:
    """Where campaigns are kept."""
    return InMemory() if request.param == "memory" else request.getfixturevalue("file")


in_file = pytest.mark.parametrize("place", ["file"], indirect=True)


@pytest.fixture(params=["all rows", "race, fresh"])
def campaign(request, fake_space) -> Campaign:
    """Each candidate is measured on all rows at once, or block by block as long as it may win."""
    return Campaign(
        space=fake_space(),
        algorithm=Genetic(population_size=5, elites=1),
        seed=3,
        limits=Limits(generations=3, max_attempts=2),
        control=True,
        kinds=frozenset({"search", "test"}),
        regime=fake_regime(request.param),
    )


#: For what has nothing to do with blocks.
all_rows = pytest.mark.parametrize("campaign", ["all rows"], indirect=True)
in_blocks = pytest.mark.parametrize("campaign", ["race, fresh"], indirect=True)


def both(names: str, on_all_rows: Iterable[tuple], in_blocks: Iterable[tuple]):
    """Parametrises a test, with fewer of the cases where candidates are measured in blocks."""
    cases = [("all rows", *case) for case in on_all_rows]
    cases += [("race, fresh", *case) for case in in_blocks]
    return pytest.mark.parametrize(f"campaign, {names}", cases, indirect=["campaign"])


@pytest.fixture
def drive(place, campaign, score):
    """Runs a campaign or goes on with it, as the command line does; checks the store afterwards."""

    def run(name="one", *, executor=None, before=None, plan=campaign, store=None, **settings):
        executor = executor if executor is not None else FakeExecutor(score)
        audience = Audience()
        store = store or taken(place.open(name))
        driver = Driver(plan, store, lambda: executor, audience, **settings)
        if before is not None:
            before(driver)
        try:
            state = driver.run()
            stopped = state.stop == "failures"
            store.end("stopped" if stopped else "finished", state.stop, driver.elapsed_s())
        except (Interrupted, StopRequested) as stop:
            store.end("interrupted", str(stop), driver.elapsed_s())
            raise
        finally:
            assert executor.closed or not executor.done
            store.close()
            place.check()
        return state, executor, audience

    return run


def taken(store):
    if store.load() is None:
        store.create(NEW)
    else:
        store.reopen({})
    return store


def remembered_by(store: MemoryStore | SqlStore) -> dict[str, tuple[Candidate, dict, dict]]:
    """Candidate -> what it is, what each part of its search rows and its test rows came to."""
    known = store.candidates(store.digests(0))
    found = {id_: (one, {}, {}) for id_, one in sorted(known.items())}
    for entry in store.entries(0):
        if isinstance(entry, Retry):
            fates = {(one.candidate.id, one.rows, one.block): "retried" for one in entry.wanted}
        elif isinstance(entry.outcome, Scored):
            fates = {entry.outcome.key[:3]: entry.outcome.score.fitness}
        else:
            fates = {entry.outcome.key[:3]: "failed"} if entry.final else {}
        for (id_, rows, block), fate in fates.items():
            found[id_][1 + (rows == "test")][rows, block] = fate
    store.close()
    return found


def searches(found: dict) -> dict:
    """The same without the test rows: which are not the same ones when more was searched."""
    return {id_: facts[:2] for id_, facts in found.items()}


@pytest.fixture
def remembered(place):
    """What a store remembers of a campaign."""
    return lambda name="one": remembered_by(place.open(name))


@pytest.fixture
def search_of(remembered):
    return lambda name="one": searches(remembered(name))


@pytest.fixture
def straight(score):
    """What is remembered of a campaign to which nothing happens."""

    def run(plan: Campaign) -> dict:
        store = taken(InMemory().open())
        Driver(plan, store, lambda: FakeExecutor(score), Audience()).run()
        return remembered_by(store)

    return run


@pytest.fixture
def uninterrupted(straight, campaign) -> dict:
    return straight(campaign)


def num_blocks(campaign: Campaign) -> int:
    """How many parts the search rows are measured in."""
    return len(campaign.regime.blocks)


def test_a_campaign_runs_to_its_end_and_all_of_it_is_in_the_store(drive, remembered):
    state, executor, audience = drive()
    assert state.phase == "done"
    assert executor.closed
    found = remembered()
    assert len(found) == 2 + 13 + 13
    assert all(("search", 0) in searched for _, searched, _ in found.values())
    fates = [fate for _, *parts in found.values() for each in parts for fate in each.values()]
    assert all(isinstance(fate, float) for fate in fates)
    assert {(id_, "test") for id_, (*_, tested) in found.items() if tested} == state.tested
    assert len(executor.measured) == len(executor.done) == len(fates)
    assert {job.candidate for job in executor.done if job.rows == "search"} == found.keys()
    num_others = sum(job.rows != "search" for job in executor.done)
    assert audience.final.count(True) == 2 + 13 + 13 + num_others


def test_a_finished_campaign_opens_no_executor(drive):
    first, before, _ = drive()
    second, executor, audience = drive()
    assert second == first
    assert not executor.done
    assert audience.resumed == len(before.done)


@pytest.mark.parametrize("slots", [1, 7])
@pytest.mark.parametrize("at_once", [1, 4])
def test_how_many_run_at_once_changes_nothing(
    drive, remembered, uninterrupted, score, slots, at_once
):
    drive("other", executor=FakeExecutor(score, slots=slots, at_once=at_once))
    assert remembered("other") == uninterrupted


def test_outcomes_that_come_twice_are_recorded_once(drive, remembered, uninterrupted, score):
    drive("other", executor=FakeExecutor(score, doubled=True))
    assert remembered("other") == uninterrupted


# First remember, then act.


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_job_is_handed_out_once_all_that_led_to_it_is_in_the_store(drive, place, score, at_once):
    checked = []

    def look(job: Job) -> None:
        store = place.open()
        known = store.candidates([job.candidate])
        assert known[job.candidate].recipe == job.recipe
        assert set(known[job.candidate].parents) <= store.digests(0).keys()
        assert store.sequence() == len(list(store.entries(0))) == len(executor.done)
        waiting = {other.key[:3] for other in executor.queue}
        assert place.under_way() >= waiting | {job.key[:3]}
        assert not place.under_way() & executor.measured
        store.close()
        checked.append(job)

    executor = FakeExecutor(score, at_once=at_once, before=look)
    drive(executor=executor)
    assert len(checked) == len(executor.done) > 30


class CrashError(Exception):
    """Stands for kill -9: nothing after it is recorded."""


@both(
    "after, at_once",
    product([0, 1, 12, 25], [1, 3]),
    [(1, 1), (12, 3), (25, 1), (44, 3), (59, 1)],
)
def test_a_crash_after_any_outcome_and_another_run_is_the_same_search(
    drive, remembered, uninterrupted, score, after, at_once
):

    def crash(count: int) -> None:
        if count > after:
            raise CrashError

    executor = FakeExecutor(score, after=crash, at_once=at_once)
    with pytest.raises(CrashError):
        drive("other", executor=executor)
    _, second, audience = drive("other")
    assert audience.resumed >= after - 2
    assert remembered("other") == uninterrupted
    repeated = executor.measured & second.measured
    assert len(repeated) <= at_once, "only what there was no time to keep"


@both(
    "number, written",
    product([1, 2, 3, 9, 20], [False, True]),
    [(2, True), (9, False), (20, True), (40, False)],
)
def test_nothing_of_a_turn_that_could_not_be_written_is_acted_upon(
    drive, remembered, uninterrupted, score, number, written
):
    """A server may be gone before it has written a turn, or before it could say so."""
    turns: list[Turn] = []
    submitted: list[Job] = []
    told = []

    def break_down(driver: Driver) -> None:
        write = driver.store.write

        def fail(turn: Turn) -> None:
            turns.append(turn)
            if len(turns) < number:
                write(turn)
                return
            if written:
                write(turn)
            told.extend(driver.listener.final)
            raise StoreFaultError("disk full")

        driver.store.write = fail

    executor = FakeExecutor(score, before=submitted.append)
    with pytest.raises(StoreFaultError, match="disk full"):
        drive("other", executor=executor, before=break_down)
    assert len(turns) == number
    before = [one.job for turn in turns[:-1] for one in turn.begun]
    assert submitted == before
    assert len(told) == sum(len(turn.taken) for turn in turns[:-1])
    drive("other")
    assert remembered("other") == uninterrupted


# Failures.


def fails_at_first(score):
    def answer(job: Job) -> Outcome:
        if job.attempt == 1 and job.candidate[1:] in ("2", "5", "11"):
            return Failed(
                candidate=job.candidate, attempt=1, rows=job.rows, block=job.block,
                stage="worker", cause="lost", retryable=True, seconds=0.0, worker="fake",
            )  # fmt: skip
        return score(job)

    return answer


def test_a_candidate_whose_worker_was_lost_is_tried_again_and_the_search_is_the_same(
    drive, remembered, uninterrupted, score
):
    _, executor, audience = drive("other", executor=FakeExecutor(fails_at_first(score)))
    assert remembered("other") == uninterrupted
    assert sum(job.attempt == 2 for job in executor.done) >= 7
    followed = [job for job in executor.done if job.attempt == 2 or is_later_block(job)]
    assert audience.final.count(False) == len(followed)


def is_later_block(job: Job) -> bool:
    return job.rows == "search" and job.block > 0


def test_the_news_of_a_lost_worker_may_come_twice(drive, remembered, uninterrupted, score):
    drive("other", executor=FakeExecutor(fails_at_first(score), doubled=True, slots=1))
    assert remembered("other") == uninterrupted


@dataclass
class Echo(FakeExecutor):
    """Says again that the first attempt failed while the second one runs."""

    echoed: set[Place] = field(default_factory=set)

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        for job in self.queue:
            if job.attempt == 2 and job.key[:3] not in self.echoed:
                self.echoed.add(job.key[:3])
                return [self.answer(replace(job, attempt=1))]
        return FakeExecutor.outcomes(self, timeout_s)


def test_the_news_of_a_lost_worker_may_come_again_during_the_next_attempt(
    drive, remembered, uninterrupted, score
):
    _, executor, _ = drive("other", executor=Echo(fails_at_first(score)))
    assert executor.echoed
    assert remembered("other") == uninterrupted


def test_a_candidate_that_kills_every_worker_is_set_aside_and_the_others_go_on(
    drive, remembered, score, failure
):
    def poisoned(job: Job) -> Outcome:
        return failure(job, retryable=True, kind="lost") if job.candidate == "s4" else score(job)

    state, executor, _ = drive(executor=FakeExecutor(poisoned))
    assert state.phase == "done"
    assert [job.attempt for job in executor.done if job.candidate == "s4"] == [1, 2]
    assert remembered()["s4"][1] == {("search", 0): "failed"}
    assert state.num_failed == 1
    assert not any("s4" in one.parents for one, *_ in remembered().values())


@all_rows
def test_more_attempts_than_before_do_not_lock_the_campaign_out(drive, score, campaign):
    """`cluster.max_attempts` may be changed between runs: it is no part of the search."""

    def limits(attempts: int, generations: int) -> Campaign:
        changed = replace(campaign.limits, max_attempts=attempts, generations=generations)
        return replace(campaign, limits=changed)

    drive(plan=limits(1, 2), executor=FakeExecutor(fails_at_first(score)))
    state, *_ = drive(plan=limits(3, 3), executor=FakeExecutor(fails_at_first(score)))
    assert state.phase == "done"
    assert state.generation == 3


# Stopping.


@pytest.mark.parametrize(
    ("signum", "after"), [(signal.SIGINT, 1), (signal.SIGTERM, 9), (signal.SIGTERM, 22)]
)
def test_an_interrupted_campaign_keeps_what_was_in_flight_and_goes_on_the_same(
    drive, remembered, uninterrupted, score, signum, after
):
    drivers: list[Driver] = []

    def interrupt(count: int) -> None:
        if count == after:
            drivers[0].signals.received = signum

    executor = FakeExecutor(score, after=interrupt)
    with pytest.raises(Interrupted) as stop:
        drive("other", executor=executor, before=drivers.append)
    assert stop.value.signum == signum
    assert executor.closed
    assert not executor.queue, "what was in flight was given its moment"
    assert len(executor.done) < after + executor.slots, "nothing new was started"

    _, second, audience = drive("other")
    assert audience.resumed == len(executor.done)
    assert remembered("other") == uninterrupted
    assert not executor.measured & second.measured


@all_rows
def test_a_campaign_that_is_asked_to_stop_stops_and_goes_on_the_same(
    drive, place, remembered, uninterrupted, score
):
    now = [0.0]

    def ask(count: int) -> None:
        now[0] += lease.HEARTBEAT_S / 3
        if count == 9:
            place.ask_to_stop("other")

    executor = FakeExecutor(score, after=ask)
    with pytest.raises(StopRequested):
        drive("other", executor=executor, clock=lambda: now[0])
    assert executor.closed
    assert not executor.queue, "what was in flight was given its moment"
    assert len(executor.done) < 9 + 4 + executor.slots
    _, second, _ = drive("other", clock=lambda: now[0])
    assert remembered("other") == uninterrupted
    assert not executor.measured & second.measured


@all_rows
def test_a_driver_whose_campaign_was_taken_over_ends_and_the_other_has_the_same_search(
    drive, place, remembered, uninterrupted, score
):
    winners = []

    def take_over(count: int) -> None:
        if count == 9:
            place.bury("other")
            winners.append(taken(place.open("other")))

    executor = FakeExecutor(score, after=take_over)
    with pytest.raises(LeaseLostError):
        drive("other", executor=executor)
    assert executor.closed
    assert len(executor.done) == 9, "no job was handed out by who does not hold the campaign"
    _, second, audience = drive("other", store=winners[0])
    assert audience.resumed == 8
    assert len(executor.measured & second.measured) == 1
    assert remembered("other") == uninterrupted


def test_time_that_is_up_ends_the_search_and_more_time_goes_on_with_it(
    drive, search_of, uninterrupted, score
):
    now = [0.0]

    def pass_an_hour(count: int) -> None:
        now[0] += 3600.0

    def clock() -> float:
        return now[0]

    executor = FakeExecutor(score, after=pass_an_hour)
    state, *_ = drive("other", executor=executor, clock=clock, hours=9.5)
    assert state.stop == "time"
    assert state.phase == "done"
    searched = [job for job in executor.done if job.rows == "search"]
    # References are always measured in full: candidates are compared with them.
    begun = [job for job in searched if not (job.candidate[0] == "r" and job.block)]
    assert 10 <= len(begun) <= 10 + executor.slots
    assert {job.candidate for job in executor.done if job.rows == "test"} >= {"r1", "r2"}

    state, *_ = drive("other", clock=clock, hours=9.5, elapsed_before_s=9.6 * 3600)
    assert state.stop == "time", "the hours of earlier runs count"
    state, *_ = drive("other", clock=clock, hours=99.0, elapsed_before_s=9.6 * 3600)
    assert state.stop is None
    assert search_of("other") == searches(uninterrupted)


@all_rows
def test_a_campaign_whose_time_is_up_starts_no_evaluators_again(drive, score):
    now = [0.0]

    def pass_an_hour(count: int) -> None:
        now[0] += 3600.0

    settings = {"clock": lambda: now[0], "hours": 5.0}
    drive(executor=FakeExecutor(score, after=pass_an_hour), **settings)
    _, again, _ = drive(elapsed_before_s=6 * 3600, **settings)
    assert not again.closed, "an executor was opened although nothing was left to run"


# Other searches.


@all_rows
def test_another_search_in_the_store_is_refused_before_anything_runs(
    drive, remembered, fake_space, campaign
):
    drive()
    before = remembered()
    with pytest.raises(MismatchError, match="s1"):
        drive(plan=replace(campaign, space=fake_space(scale=0.5)))
    assert remembered() == before


def test_more_generations_go_on_where_the_first_ended(drive, search_of, uninterrupted, campaign):
    fewer = replace(campaign, limits=replace(campaign.limits, generations=2))
    drive("other", plan=fewer)
    drive("other")
    assert search_of("other") == searches(uninterrupted)


def searched(facts: tuple) -> dict:
    """What the blocks of a candidate's search rows came to, without fresh rows."""
    return {part: fate for part, fate in facts[1].items() if part[0] == "search"}


def file_entries(file: InFile, name: str) -> list:
    store = file.open(name)
    found = list(store.entries(0))
    store.close()
    return found


@in_file
@pytest.mark.parametrize("generation", [1, 2])
def test_a_fork_has_the_first_generations_and_its_own_way_from_there(
    drive, file, campaign, remembered, generation
):
    drive("old")
    old = file.open("old")
    fork = file.open("fork")
    point = fork.fork_point("old", generation)
    plain = [{"until": point.until, "seed": campaign.seed}]
    fork.fork(NEW, old.load(), point, plain)
    old.close()
    fork.close()
    rules = Rules(algorithm=campaign.algorithm, seed=campaign.seed, control=campaign.control)
    plan = replace(
        campaign,
        algorithm=Genetic(population_size=6, elites=2),
        seed=99,
        control=False,
        history=(Branch(until=point.until, rules=rules),),
    )
    state, executor, audience = drive("fork", plan=plan)
    before, found = remembered("old"), remembered("fork")
    shared = {id_ for id_, (one, *_) in before.items() if one.generation <= generation}
    assert {id_: found[id_][0] for id_ in shared} == {id_: before[id_][0] for id_ in shared}
    for id_ in shared:
        assert searched(found[id_]) == searched(before[id_])
    assert audience.resumed == len(file_entries(file, "fork")) - len(executor.done)
    assert audience.resumed >= len(shared)
    again = {job.candidate for job in executor.done if job.rows == "search"} & shared
    # Of a reference or control that took longer than the generation, part may be missing.
    assert not {id_ for id_ in again if id_[0] == "s" or num_blocks(campaign) == 1}
    own = [one for id_, (one, *_) in found.items() if id_ not in shared]
    assert {one.role for one in own} == {"search"}
    assert Counter(one.generation for one in own) == dict.fromkeys(range(generation + 1, 4), 4)
    assert state.phase == "done"
    again, executor, _ = drive("fork", plan=plan)
    assert (again, executor.done) == (state, [])


# Snapshots.


@pytest.fixture
def starts(drive):
    """Drives, and tells after which outcome the replay began."""

    def run(name, **settings):
        found = []

        def listen(driver: Driver) -> None:
            entries = driver.store.entries

            def noted(after: int):
                found.append(after)
                return entries(after)

            driver.store.entries = noted
            if alter is not None:
                alter(driver)

        alter = settings.pop("before", None)
        result = drive(name, before=listen, **settings)
        return found[0], *result

    return run


def crash_after(num: int):
    def crash(count: int) -> None:
        if count > num:
            raise CrashError

    return crash


@both(
    "after, every",
    product([2, 3, 7, 16, 21, 29], [1, 3]),
    [(2, 3), (7, 1), (21, 1), (35, 3), (53, 1)],
)
def test_going_on_from_a_snapshot_is_going_on_from_the_start(
    drive, starts, remembered, uninterrupted, score, after, every
):
    answer = fails_at_first(score)
    executor = FakeExecutor(answer, after=crash_after(after))
    with pytest.raises(CrashError):
        drive("other", executor=executor, snapshot_every=every)
    begun, _, _, audience = starts("other", executor=FakeExecutor(answer), snapshot_every=every)
    assert audience.resumed == after
    assert begun <= after
    assert (begun > 0) == (after >= every)
    assert remembered("other") == uninterrupted


def states(place, plan, name="one"):
    """The state by the newest snapshot, and by the whole record up to the same place."""
    store = place.open(name)
    shot = store.snapshots()[0]
    known = store.candidates(snapshot.named(shot.state))
    standings = store.standings(snapshot.with_standings(shot.state))
    entries = list(store.entries(0))[: shot.sequence]
    store.close()
    state = campaigns.start(plan).state
    for entry in entries:
        state = campaigns.replay(plan, state, entry).state
    return snapshot.restore(plan, shot.state, known, standings), state


def test_a_snapshot_holds_the_state_that_the_record_gives(drive, place, score, campaign):
    executor = FakeExecutor(fails_at_first(score), after=crash_after(17))
    with pytest.raises(CrashError):
        drive(executor=executor, snapshot_every=1)
    by_snapshot, by_record = states(place, campaign)
    assert by_snapshot == by_record


def strange(**changes):
    """Other snapshots than the store's."""

    def alter(driver: Driver) -> None:
        shots = [replace(one, **changes) for one in driver.store.snapshots()]
        assert shots
        driver.store.snapshots = lambda: shots

    return alter


GARBAGE = {
    "of other code": {"fingerprint": "other"},
    "of nothing": {"state": {}},
    "without most of it": {"state": {"generation": 1, "proposed": 1}},
    "of unknown candidates": {
        "state": {
            "generation": 1,
            "proposed": 1,
            "candidates": ["s99"],
            "memory": {"members": [], "parts": []},
            "best": {},
        }
    },
    "of wrong types": {"state": {"generation": "one", "proposed": None}},
    "of another shape": {"state": {"open": 7, "generation": 1, "proposed": 1, "candidates": 7}},
}


@all_rows
@pytest.mark.parametrize("what", GARBAGE)
def test_a_snapshot_of_no_use_is_ignored(drive, starts, remembered, uninterrupted, score, what):
    with pytest.raises(CrashError):
        drive("other", executor=FakeExecutor(score, after=crash_after(12)), snapshot_every=2)
    begun, *_ = starts("other", before=strange(**GARBAGE[what]))
    assert begun == 0
    assert remembered("other") == uninterrupted


@in_file
@all_rows
def test_a_snapshot_that_cannot_be_read_is_ignored(
    drive, starts, remembered, uninterrupted, score, file
):
    with pytest.raises(CrashError):
        drive("other", executor=FakeExecutor(score, after=crash_after(12)), snapshot_every=2)
    engine = engines.open_for_writing(file.url)
    with engine.begin() as connection:
        connection.execute(update(schema.snapshot).values(state=b"torn"))
    engine.dispose()
    begun, *_ = starts("other")
    assert begun == 0
    assert remembered("other") == uninterrupted


@all_rows
def test_an_elder_snapshot_serves_where_the_newest_does_not(
    drive, starts, remembered, uninterrupted, score
):
    with pytest.raises(CrashError):
        drive("other", executor=FakeExecutor(score, after=crash_after(12)), snapshot_every=2)

    def spoil(driver: Driver) -> None:
        newest, elder = driver.store.snapshots()
        spoilt = replace(newest, fingerprint="other")
        driver.store.snapshots = lambda: [spoilt, elder]
        sequences.append(elder.sequence)

    sequences: list[int] = []
    begun, *_ = starts("other", before=spoil)
    assert begun == sequences[0] > 0
    assert remembered("other") == uninterrupted


def test_a_snapshot_beyond_a_smaller_budget_is_ignored(drive, starts, score, campaign):
    during_the_second = 22 if campaign.regime.race is None else 42
    with pytest.raises(CrashError):
        drive(executor=FakeExecutor(score, after=crash_after(during_the_second)), snapshot_every=1)
    fewer = replace(campaign, limits=replace(campaign.limits, generations=1))
    begun, state, *_ = starts("one", plan=fewer)
    assert (begun, state.generation, state.phase) == (0, 1, "done")


@all_rows
def test_other_rules_about_failures_are_other_snapshots(drive, starts, score, campaign):
    with pytest.raises(CrashError):
        drive(executor=FakeExecutor(score, after=crash_after(12)), snapshot_every=1)
    looser = replace(campaign, limits=replace(campaign.limits, max_failure_fraction=0.9))
    begun, *_ = starts("one", plan=looser)
    assert begun == 0


# Blocks and finalists.


@in_blocks
def test_the_next_block_of_a_candidate_comes_before_other_jobs(drive, score):
    """Its model is still in place."""
    _, executor, _ = drive(executor=FakeExecutor(score, slots=1))
    later = [place for place, job in enumerate(executor.done) if is_later_block(job)]
    assert {executor.done[place].block for place in later} == {1, 2}
    for place in later:
        before, job = executor.done[place - 1], executor.done[place]
        assert before.key[:3] == (job.candidate, "search", job.block - 1)


def taken_of(drive, **settings) -> tuple[State, list[Taken]]:
    """Runs a campaign; returns its state and all that it gave to the store."""
    found: list[Taken] = []

    def listen(driver: Driver) -> None:
        write = driver.store.write

        def noted(turn: Turn) -> None:
            found.extend(turn.taken)
            write(turn)

        driver.store.write = noted

    state, *_ = drive(before=listen, **settings)
    return state, found


@in_blocks
def test_what_a_candidate_is_worth_is_recorded_after_each_of_its_blocks(drive, campaign):
    state, found = taken_of(drive)
    parts: dict[str, Standing] = {}
    final: dict[str, bool] = {}
    num_documents = campaign.regime.layout.num_documents
    for one in found:
        outcome = one.outcome
        if outcome.rows not in ("search", "fresh"):
            assert one.measured is None
            continue
        id_ = outcome.candidate
        parts[id_] = parts.get(id_, Standing()).with_part(
            (outcome.rows, outcome.block), outcome.score
        )
        searched = sum(
            score.num_documents for (rows, _), score in parts[id_].parts.items() if rows == "search"
        )
        assert one.measured.fitness == parts[id_].pooled().fitness
        assert one.measured.fidelity == searched / num_documents
        assert one.final == (one.measured.stopped or searched == num_documents)
        assert not (one.measured.stopped and searched == num_documents)
        assert not final.get(id_) or outcome.rows == "fresh", "it had ended"
        final[id_] = one.final
    assert len(final) == 2 + 13 + 13
    assert all(final.values())
    stopped = {one.outcome.candidate for one in found if one.measured and one.measured.stopped}
    assert 0 < len(stopped) == state.num_stopped
    assert {one.outcome.block for one in found if one.outcome.rows == "fresh"} == {0, 1}


@in_blocks
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"snapshot_every": 1}])
def test_after_a_crash_between_two_blocks_the_next_one_comes_and_none_again(
    drive, remembered, uninterrupted, score, block, settings
):
    first: FakeExecutor = FakeExecutor(score, slots=1)

    def crash(count: int) -> None:
        job = first.done[-1]
        later = (
            job.candidate[0] == "s" and int(job.candidate[1:]) > 5
        )  # not of those that come first
        if later and (job.rows, job.block) == ("search", block):
            raise CrashError

    first.after = crash
    with pytest.raises(CrashError):
        drive("other", executor=first, **settings)
    lost = first.done[-1].key[:3]
    _, second, _ = drive("other", **settings)
    assert first.measured & second.measured == {lost}
    assert remembered("other") == uninterrupted


@pytest.fixture
def estimated(campaign) -> Campaign:
    """Candidates are estimated; the best are measured in full, and picked among on other rows."""
    return replace(
        campaign,
        regime=fake_regime("bank"),
        kinds=frozenset({"search", "selection", "test"}),
        finalists=3,
    )


@all_rows
def test_finalists_are_measured_in_full_and_on_the_selection_rows_once(drive, estimated):
    state, executor, _ = drive(plan=estimated)
    assert len(executor.measured) == len(executor.done)
    selected = [job.candidate for job in executor.done if job.rows == "selection"]
    assert len(selected) == 2 * 3
    assert set(selected) == state.selected.keys()
    whole = {task: set(places) for task, places in estimated.regime.blocks[0].items()}
    seen: dict[str, dict[str, set[int]]] = {}
    for job in executor.done:
        if job.rows == "search":
            for task, places in job.documents.items():
                before = seen.setdefault(job.candidate, {}).setdefault(task, set())
                assert not before & set(places), "a document is scored once"
                before |= set(places)
    assert {id_ for id_, documents in seen.items() if documents == whole} == {
        *selected, "r1", "r2",
    }  # fmt: skip
    assert {id_ for id_ in selected if id_[0] != "r"} == state.completed.keys()
    picked = [id_ for id_ in selected if id_[0] != "c"]
    assert state.winner.candidate.id == max(picked, key=state.selected.get)
    assert state.winner.measured.fidelity == 1.0


@all_rows
@pytest.mark.parametrize(
    ("fewer", "settings"), [(2, {}), (1, {"snapshot_every": 1}), (2, {"snapshot_every": 7})]
)
def test_a_raised_budget_measures_nothing_of_the_finals_again(drive, estimated, fewer, settings):
    def plan(generations: int) -> Campaign:
        limits = replace(estimated.limits, generations=generations)
        return replace(estimated, limits=limits)

    _, first, _ = drive("other", plan=plan(fewer), **settings)
    state, second, _ = drive("other", plan=plan(3), **settings)
    assert not first.measured & second.measured
    whole, straight, _ = drive("one", plan=plan(3))
    assert straight.measured <= first.measured | second.measured
    assert state.winner == whole.winner
    assert state.selected == whole.selected
    assert state.completed == whole.completed
    again, third, _ = drive("other", plan=plan(3))
    assert (again, third.done) == (state, [])


@in_blocks
def test_who_was_stopped_as_time_was_up_goes_on_with_its_next_block(drive, remembered, score):
    drive("one")
    now = [0.0]

    def pass_an_hour(count: int) -> None:
        now[0] += 3600.0

    settings = {"clock": lambda: now[0]}
    first = FakeExecutor(score, slots=5, after=pass_an_hour)
    _, found = taken_of(partial(drive, "other"), executor=first, hours=4.5, **settings)
    stopped = [one.outcome for one in found if one.measured and one.measured.stopped]
    assert stopped, "some were out when time was up"
    _, second, _ = drive("other", hours=999.0, **settings)
    assert {(one.candidate, "search", one.block + 1) for one in stopped} <= second.measured
    assert not first.measured & second.measured
    searched = [{one: facts[1] for one, facts in remembered(it).items()} for it in ("one", "other")]
    assert searched[0] == searched[1]


# Equal evaluations.


def by_recipe(job: Job) -> bytes:
    return f"{job.recipe.digest()}/{job.rows}/{job.documents}".encode()


def test_an_equal_campaign_of_the_same_store_measures_nothing(drive, remembered):
    drive("one", identify=by_recipe)
    state, executor, _ = drive("other", identify=by_recipe)
    assert executor.done == []
    assert state.phase == "done"
    assert remembered("one") == remembered("other")


def where(attempt: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(attempt[name] for name in ("rows", "block", "documents"))


@in_file
def test_scores_that_were_copied_are_marked(drive, file):
    drive("one", identify=by_recipe)
    drive("other", identify=by_recipe)
    reader = Reader(file.url)
    assert (reader.status("one")["cached"], reader.status("other")["cached"]) == (0, 28)
    attempts = [*reader.attempts("other", "s1"), *reader.attempts("other", "r1")]
    measured = [*reader.attempts("one", "s1"), *reader.attempts("one", "r1")]
    assert {one["rows"] for one in attempts} >= {"search", "test"}
    assert [where(one) for one in attempts] == [where(one) for one in measured]
    for one in attempts:
        assert (one["cached"], one["worker"], one["state"]) == (True, "cache", "scored")
    assert reader.candidate("other", "s1").scores == reader.candidate("one", "s1").scores


def test_without_an_identity_everything_is_measured(drive):
    _, first, _ = drive("one", identify=by_recipe)
    _, second, _ = drive("other")
    assert first.measured == second.measured


def test_what_only_failed_is_measured_again(drive, score, failure):
    def broken(job: Job) -> Outcome:
        return failure(job) if job.candidate == "s2" else score(job)

    drive("one", identify=by_recipe, executor=FakeExecutor(broken))
    _, executor, _ = drive("other", identify=by_recipe)
    assert ("s2", "search", 0) in executor.measured
    assert "s1" not in {job.candidate for job in executor.done}


@pytest.fixture
def coarse(campaign, fake_space) -> Campaign:
    """A campaign that proposes few recipes again and again."""

    class Coarse(fake_space):
        def decode(self, genome):
            return super().decode([1.0 if gene > 0.5 else 0.5 for gene in genome])

    return replace(campaign, space=Coarse())


@both("slots, at_once", product([1, 3, 8], [1, 3]), [(1, 1), (3, 3), (8, 1)])
def test_what_is_equal_is_measured_once_and_the_search_is_the_same(
    drive, remembered, straight, coarse, score, slots, at_once
):
    everything = straight(coarse)
    executor = FakeExecutor(score, slots=slots, at_once=at_once)
    drive("other", plan=coarse, executor=executor, identify=by_recipe)
    assert set(Counter(map(by_recipe, executor.done)).values()) == {1}
    assert len(executor.done) < 2 / 3 * sum(
        len(each) for _, *parts in everything.values() for each in parts
    )
    assert remembered("other") == everything


def test_one_that_waits_for_its_equal_is_measured_when_that_fails(drive, coarse, score, failure):
    """Also when it fails for good: the next one may be luckier."""
    broken: set[str] = set()

    def first_breaks(job: Job) -> Outcome:
        first = job.recipe.digest() not in broken and job.candidate.startswith("s")
        if first and job.rows == "search" and job.block == 0:
            broken.add(job.recipe.digest())
            return failure(job)
        return score(job)

    loose = replace(coarse, limits=replace(coarse.limits, max_failure_fraction=1.0))
    state, *_ = drive(plan=loose, executor=FakeExecutor(first_breaks), identify=by_recipe)
    assert state.phase == "done"
    assert 1 < state.num_failed == len(broken)


@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_crash_among_copied_scores_and_another_run_is_the_same_search(
    drive, remembered, straight, coarse, score, after
):
    settings = {"plan": coarse, "identify": by_recipe, "snapshot_every": 2}
    executor = FakeExecutor(score, after=crash_after(after))
    with pytest.raises(CrashError):
        drive("other", executor=executor, **settings)
    _, second, _ = drive("other", **settings)
    assert remembered("other") == straight(coarse)
    repeated = set(map(by_recipe, executor.done)) & set(map(by_recipe, second.done))
    assert len(repeated) <= 1, "only the one whose outcome was lost"


# Asynchronous.


@pytest.fixture
def steady(campaign) -> Campaign:
    algorithm = Genetic(population_size=4, mode="async")
    limits = Limits(evaluations=17, max_attempts=2)
    return replace(campaign, algorithm=algorithm, limits=limits)


def folded(place, plan, name):
    """What the campaign proposes when it is told the stored entries in their order."""
    store = place.open(name)
    entries = list(store.entries(0))
    known = store.candidates(store.digests(0))
    store.close()
    step = campaigns.start(plan)
    found, state = list(step.candidates), step.state
    for entry in entries:
        step = campaigns.replay(plan, state, entry)
        found += step.candidates
        state = step.state
    return {one.id: one for one in found}, known


@both(
    "after, settings, at_once",
    product([1, 11, 30], [{}, {"snapshot_every": 1}], [1, 3]),
    [(1, {}, 1), (30, {}, 3), (30, {"snapshot_every": 1}, 1), (59, {"snapshot_every": 1}, 3)],
)
def test_a_steady_state_search_goes_on_with_what_its_record_says(
    drive, place, steady, score, after, settings, at_once
):
    first = FakeExecutor(fails_at_first(score), after=crash_after(after), at_once=at_once)
    with pytest.raises(CrashError):
        drive("one", plan=steady, executor=first, **settings)
    proposed, known = folded(place, steady, "one")
    assert known == proposed
    second = FakeExecutor(fails_at_first(score), at_once=at_once)
    state, *_ = drive("one", plan=steady, executor=second, **settings)
    assert (state.phase, state.proposed) == ("done", 17)
    proposed, known = folded(place, steady, "one")
    assert known == proposed
    assert len(known) == 2 + 17 + 17
    again, executor, _ = drive("one", plan=steady)
    assert (again, executor.done) == (state, [])


@pytest.mark.parametrize("settings", [{}, {"snapshot_every": 1}])
@pytest.mark.parametrize(("fewer", "more"), [(2, 4), (1, 3)])
def test_more_generations_of_a_steady_state_search_go_on_from_the_record(
    drive, place, steady, score, settings, fewer, more
):
    def plan(generations: int) -> Campaign:
        return replace(steady, limits=Limits(generations=generations))

    drive("one", plan=plan(fewer), **settings)
    state, *_ = drive("one", plan=plan(more), **settings)
    assert state.proposed == 4 * more
    proposed, known = folded(place, plan(more), "one")
    assert known == proposed
    again, executor, _ = drive("one", plan=plan(more))
    assert (again, executor.done) == (state, [])


# Retries.


@pytest.fixture
def retry(place):
    """Wishes that failed candidates be measured again, as `shoal retry` does."""

    def run(name="one", only=None) -> list[JobKey]:
        store = place.open(name)
        failed = {}
        for entry in store.entries(0):
            if isinstance(entry, Recorded) and entry.final:
                outcome = entry.outcome
                key = outcome.key[:3]
                if isinstance(outcome, Failed):
                    failed[key] = outcome.attempt
                else:
                    failed.pop(key, None)
        wanted = [(*key, attempt + 1) for key, attempt in failed.items()]
        wanted = [one for one in wanted if only is None or one[0] in only]
        store.reopen({})
        store.retry(wanted)
        store.end("interrupted", "retry", 0.0)
        store.close()
        place.check()
        return wanted

    return run


def broken_at(failure, score, *ids, **facts):
    def answer(job: Job) -> Outcome:
        bad = job.candidate in ids and job.rows == "search"
        return failure(job, **facts) if bad else score(job)

    return answer


@pytest.mark.parametrize("settings", [{}, {"snapshot_every": 2}])
def test_a_retried_candidate_of_the_current_generation_still_takes_part_in_it(
    drive, retry, search_of, uninterrupted, campaign, score, failure, settings
):
    answer = broken_at(failure, score, "s2", "s4")
    # All of the first generation but for one, which is still out when the process dies.
    num_first = 2 + 4 * num_blocks(campaign)
    executor = FakeExecutor(answer, slots=1, after=crash_after(num_first))
    with pytest.raises(CrashError):
        drive("other", executor=executor, **settings)
    wanted = retry("other")
    assert wanted
    drive("other", **settings)
    assert search_of("other") == searches(uninterrupted)


@pytest.mark.parametrize("settings", [{}, {"snapshot_every": 1}])
def test_a_retried_candidate_of_an_elder_generation_may_become_the_best_and_no_more(
    drive, retry, remembered, campaign, score, failure, settings
):
    drive(executor=FakeExecutor(broken_at(failure, score, "s2", "c3")), **settings)
    before = remembered()
    assert sorted(retry()) == [("c3", "search", 0, 2), ("s2", "search", 0, 2)]

    def great(job: Job) -> Outcome:
        return score(job, 1000.0) if job.candidate == "s2" else score(job)

    state, executor, _ = drive(executor=FakeExecutor(great), **settings)
    again = {(job.candidate, job.rows) for job in executor.done}
    assert again == {("s2", "search"), ("c3", "search"), ("s2", "test")}
    assert len(executor.measured) == len(executor.done)
    assert state.phase == "done"
    assert state.winner.candidate.id == "s2"
    assert state.num_failed == 0
    after = remembered()
    assert {id_: one for id_, (one, *_) in after.items()} == {
        id_: one for id_, (one, *_) in before.items()
    }
    assert {fate for parts in after["s2"][1:] for fate in parts.values()} == {1000.0}
    assert set(after["s2"][1]) == {("search", block) for block in range(num_blocks(campaign))}


def test_a_retried_candidate_that_fails_again_is_set_aside_again(drive, retry, score, failure):
    answer = broken_at(failure, score, "s2", retryable=True)
    first, *_ = drive(executor=FakeExecutor(answer))
    assert retry() == [("s2", "search", 0, 3)]
    second, executor, _ = drive(executor=FakeExecutor(answer))
    assert [job.key for job in executor.done] == [("s2", "search", 0, 3)]
    assert (second.num_failed, second.phase) == (1, "done")
    assert retry() == [("s2", "search", 0, 4)]
    third, *_ = drive()
    assert (third.num_failed, third.num_scored) == (0, first.num_scored + 1)


def test_a_candidate_whose_test_failed_is_tested_again(drive, retry, score, failure):
    def untestable(job: Job) -> Outcome:
        return failure(job) if (job.candidate, job.rows) == ("r1", "test") else score(job)

    drive(executor=FakeExecutor(untestable))
    assert retry() == [("r1", "test", 0, 2)]
    state, executor, _ = drive()
    assert [job.key for job in executor.done] == [("r1", "test", 0, 2)]
    assert state.phase == "done"
    again, executor, _ = drive()
    assert (again, executor.done) == (state, [])


@both(
    "slots, at_once, settings",
    product([1, 8], [1, 3], [{}, {"snapshot_every": 1}, {"identify": by_recipe}]),
    [(1, 1, {}), (8, 3, {"snapshot_every": 1}), (8, 1, {"identify": by_recipe})],
)
def test_a_campaign_that_stopped_for_its_failures_goes_on_after_a_retry(
    drive, retry, remembered, straight, campaign, score, failure, slots, at_once, settings
):
    """It stops within the first generation, so that all that failed still takes part in it."""
    wide = replace(campaign, algorithm=Genetic(population_size=12, elites=1))

    def mostly_broken(job: Job) -> Outcome:
        lucky = job.candidate in ("s1", "s2", "s9", "s11", "c1")
        return score(job) if lucky else failure(job)

    executor = FakeExecutor(mostly_broken, slots=slots, at_once=at_once)
    settings = {"plan": wide, **settings}
    stopped, *_ = drive("other", executor=executor, **settings)
    assert (stopped.stop, stopped.phase) == ("failures", "done")
    num_ended = stopped.num_scored + stopped.num_failed
    assert num_ended <= wide.limits.min_ended + at_once
    assert num_blocks(wide) > 1 or len(executor.done) == num_ended
    again, idle, _ = drive("other", **settings)
    assert (again.stop, idle.done) == ("failures", []), "without a retry it stays stopped"
    assert retry("other")
    state, *_ = drive("other", **settings)
    assert (state.stop, state.phase, state.num_failed) == (None, "done", 0)
    assert remembered("other") == straight(wide)


def test_what_comes_in_with_the_outcome_that_stopped_a_campaign_is_kept(
    drive, retry, remembered, straight, campaign, score, failure
):
    """The references' scores come after the eighth failure, in the same look at the executor."""
    wide = replace(campaign, algorithm=Genetic(population_size=12, elites=1))

    def only_references(job: Job) -> Outcome:
        return score(job) if job.candidate.startswith("r") else failure(job)

    first = FakeExecutor(only_references, slots=10, at_once=10)
    stopped, *_ = drive("other", executor=first, plan=wide)
    assert stopped.stop == "failures"
    assert len(first.done) == 10
    assert len(retry("other")) == 8
    state, second, _ = drive("other", plan=wide)
    assert (state.stop, state.phase, state.num_failed) == (None, "done", 0)
    assert not first.measured & second.measured & {("r1", "search", 0), ("r2", "search", 0)}
    assert remembered("other") == straight(wide)


def test_a_snapshot_names_its_candidates_and_is_of_the_outcomes_it_says(drive, place, score):
    with pytest.raises(CrashError):
        drive(executor=FakeExecutor(score, after=crash_after(20)), snapshot_every=3)
    store = place.open()
    for shot in store.snapshots():
        assert isinstance(shot, Snapshot)
        assert shot.sequence <= store.sequence()
        assert snapshot.named(shot.state) <= store.digests(0).keys()
    store.close()

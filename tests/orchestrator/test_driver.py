"""The loop around a campaign: record, then act; stop at any time, and go on the same."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from orchestrator.algorithms.genetic import Genetic
from orchestrator.campaign import Campaign, Limits
from orchestrator.loop import Driver, Interrupted, MismatchError
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import Store
from workers.job import Failed, Job, Outcome


@dataclass
class FakeExecutor:
    """Answers the newest job first, in this process."""

    answer: Callable[[Job], Outcome]
    slots: int = 3
    #: Delivers everything twice, once more after other news.
    doubled: bool = False
    after: Callable[[int], None] = lambda count: None
    queue: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    late: list[Outcome] = field(default_factory=list)
    closed: bool = False
    idle: int = 0

    def submit(self, job: Job) -> None:
        assert len(self.queue) < self.slots
        self.queue.append(job)

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        if not self.queue:
            self.idle += 1
            assert self.idle < 5, "the driver waits for an outcome that will never come"
            return []
        job = self.queue.pop()
        self.done.append(job)
        found = [self.answer(job)]
        if self.doubled:
            found, self.late = [*found, *found, *self.late], found
        self.after(len(self.done))
        return found

    def close(self) -> None:
        self.closed = True


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


@pytest.fixture
def campaign(fake_space) -> Campaign:
    return Campaign(
        space=fake_space(),
        algorithm=Genetic(population_size=5, elites=1),
        seed=3,
        limits=Limits(generations=3, max_attempts=2),
        control=True,
        tests=True,
    )


@pytest.fixture
def drive(tmp_path, campaign, score):
    """Runs a campaign in a store of its own, or goes on with it."""

    def run(name="one", *, executor=None, before=None, plan=campaign, **settings):
        executor = executor if executor is not None else FakeExecutor(score)
        audience = Audience()
        with Store(str(tmp_path / f"{name}.db"), name) as store:
            known = store.load()
            if known is None:
                store.create({}, {}, {})
            else:
                store.reopen({})
            driver = Driver(plan, store, lambda: executor, audience, **settings)
            if before is not None:
                before(driver)
            try:
                state = driver.run()
            finally:
                assert executor.closed or not executor.done
        return state, executor, audience

    return run


@pytest.fixture
def remembered(tmp_path):
    """Candidate -> recipe and fitness, as the store has them."""

    def read(name="one") -> dict:
        reader = Reader(str(tmp_path / f"{name}.db"))
        found = {}
        for role, count in (("r", 2), ("s", 13), ("c", 13)):
            for number in range(1, count + 1):
                record = reader.candidate(name, f"{role}{number}")
                found[record.id] = (record.recipe, record.fitness, record.parents, record.state)
        return found

    return read


def test_a_campaign_runs_to_its_end_and_all_of_it_is_in_the_store(drive, remembered):
    state, executor, audience = drive()
    assert state.phase == "done"
    assert executor.closed
    assert all(state == "scored" for *_, state in remembered().values())
    assert sum(job.rows == "search" for job in executor.done) == 2 + 13 + 13
    assert all(audience.final)


def test_a_finished_campaign_opens_no_executor(drive, remembered):
    first, *_ = drive()
    before = remembered()
    second, executor, audience = drive()
    assert second == first
    assert not executor.done
    assert audience.resumed == len(before) + len(first.tested)


@pytest.mark.parametrize("slots", [1, 7])
def test_how_many_run_at_once_changes_nothing(drive, remembered, score, slots):
    drive("one")
    drive("other", executor=FakeExecutor(score, slots=slots))
    assert remembered("one") == remembered("other")


def test_outcomes_that_come_twice_are_recorded_once(drive, remembered, score):
    drive("one")
    drive("other", executor=FakeExecutor(score, doubled=True))
    assert remembered("one") == remembered("other")


def fails_at_first(score):
    def answer(job: Job) -> Outcome:
        if job.attempt == 1 and job.candidate[1:] in ("2", "5", "11"):
            return Failed(
                candidate=job.candidate, attempt=1, rows=job.rows, stage="worker", cause="lost",
                retryable=True, seconds=0.0, worker="fake",
            )  # fmt: skip
        return score(job)

    return answer


def test_a_candidate_whose_worker_was_lost_is_tried_again_and_the_search_is_the_same(
    drive, remembered, score
):
    drive("one")
    _, executor, audience = drive("other", executor=FakeExecutor(fails_at_first(score)))
    assert remembered("one") == remembered("other")
    assert sum(job.attempt == 2 for job in executor.done) >= 7
    assert audience.final.count(False) == sum(job.attempt == 2 for job in executor.done)


def test_the_news_of_a_lost_worker_may_come_twice(drive, remembered, score):
    drive("one")
    drive("other", executor=FakeExecutor(fails_at_first(score), doubled=True, slots=1))
    assert remembered("one") == remembered("other")


@dataclass
class Echo(FakeExecutor):
    """Says again that the first attempt failed while the second one runs."""

    echoed: set[str] = field(default_factory=set)

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        for job in self.queue:
            if job.attempt == 2 and job.candidate not in self.echoed:
                self.echoed.add(job.candidate)
                return [self.answer(replace(job, attempt=1))]
        return FakeExecutor.outcomes(self, timeout_s)


def test_the_news_of_a_lost_worker_may_come_again_during_the_next_attempt(drive, remembered, score):
    drive("one")
    _, executor, _ = drive("other", executor=Echo(fails_at_first(score)))
    assert executor.echoed
    assert remembered("one") == remembered("other")


@pytest.mark.parametrize(
    ("signum", "after"), [(signal.SIGINT, 1), (signal.SIGTERM, 9), (signal.SIGTERM, 22)]
)
def test_an_interrupted_campaign_keeps_what_was_in_flight_and_goes_on_the_same(
    drive, remembered, score, signum, after
):
    drive("one")
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
    assert remembered("one") == remembered("other")
    repeated = {(job.candidate, job.rows) for job in executor.done} & {
        (job.candidate, job.rows) for job in second.done
    }
    assert not repeated


class CrashError(Exception):
    """Stands for kill -9: nothing after it is recorded."""


@pytest.mark.parametrize("after", [0, 1, 12, 25])
def test_a_crash_after_any_outcome_and_another_run_is_the_same_search(
    drive, remembered, score, after
):
    drive("one")

    def crash(count: int) -> None:
        if count > after:
            raise CrashError

    executor = FakeExecutor(score, after=crash)
    with pytest.raises(CrashError):
        drive("other", executor=executor)
    _, _, audience = drive("other")
    assert audience.resumed == after
    assert remembered("one") == remembered("other")


def test_a_crash_between_recording_an_outcome_and_its_candidates_is_mended(
    drive, remembered, score, monkeypatch
):
    drive("one")
    add, calls = Store.add, []

    def add_then_crash(store, candidates, generation) -> None:
        calls.append(generation)
        if generation == 3:
            raise CrashError
        add(store, candidates, generation)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", add_then_crash)
        with pytest.raises(CrashError):
            drive("other")
    assert calls
    drive("other")
    assert remembered("one") == remembered("other")


def test_time_that_is_up_ends_the_search_and_more_time_goes_on_with_it(
    drive, remembered, score, tmp_path
):
    drive("one")
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
    assert 10 <= len(searched) <= 10 + executor.slots
    assert {job.candidate for job in executor.done if job.rows == "test"} >= {"r1", "r2"}

    state, *_ = drive("other", clock=clock, hours=9.5, elapsed_before_s=9.6 * 3600)
    assert state.stop == "time", "the hours of earlier runs count"
    state, *_ = drive("other", clock=clock, hours=99.0, elapsed_before_s=9.6 * 3600)
    assert state.stop is None
    assert remembered("one") == remembered("other")


def test_a_campaign_whose_time_is_up_starts_no_evaluators_again(drive, score):
    now = [0.0]

    def pass_an_hour(count: int) -> None:
        now[0] += 3600.0

    settings = {"clock": lambda: now[0], "hours": 5.0}
    drive(executor=FakeExecutor(score, after=pass_an_hour), **settings)
    _, again, _ = drive(elapsed_before_s=6 * 3600, **settings)
    assert not again.closed, "an executor was opened although nothing was left to run"


def test_another_search_in_the_store_is_refused_before_anything_runs(
    drive, remembered, fake_space, campaign
):
    drive()
    before = remembered()
    with pytest.raises(MismatchError, match="s1"):
        drive(plan=replace(campaign, space=fake_space(scale=0.5)))
    assert remembered() == before


def test_more_attempts_than_before_do_not_lock_the_campaign_out(drive, score, campaign, fake_space):
    """`cluster.max_attempts` may be changed between runs: it is no part of the search."""

    def often_lost(job: Job) -> Outcome:
        return fails_at_first(score)(job)

    def limits(attempts: int, generations: int) -> Campaign:
        changed = replace(campaign.limits, max_attempts=attempts, generations=generations)
        return replace(campaign, limits=changed)

    drive(plan=limits(1, 2), executor=FakeExecutor(often_lost))
    state, *_ = drive(plan=limits(3, 3), executor=FakeExecutor(often_lost))
    assert state.phase == "done"
    assert state.generation == 3


def test_more_generations_go_on_where_the_first_ended(drive, remembered, campaign):
    drive("one")
    fewer = replace(campaign, limits=replace(campaign.limits, generations=2))
    drive("other", plan=fewer)
    drive("other")
    assert remembered("one") == remembered("other")

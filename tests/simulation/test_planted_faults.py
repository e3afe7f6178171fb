"""A simulation that finds nothing may be blind: faults are planted in the product, and found.

Which law catches which fault:

- a commit that is dropped, a disk that is not waited for: no recorded outcome is lost
- a second outcome that is accepted, a score that is another's, a block that is told twice and
  counts as the next one, a block with the documents of another: one outcome counts
- who is stopped and goes on, a race that stops the best: no item is spent on the hopeless
- a standing that is lost, or newer than its snapshot, fresh rows that are forgotten on resuming: it
  is the same search, or the state is not the fold
- finalists that are measured again once the budget is raised: nothing is measured twice
- a job that is forgotten on resuming, a candidate that is tried for ever: the campaign ends
- a lease that nobody heeds, who has lost a campaign and goes on: one driver at a time
- a generator that is used again, outcomes that are replayed in another order: it is the same search
- a job that is handed out before it is recorded: first remember, then act
- a snapshot that is off by one: nothing is measured twice, or the state is not the fold
- a snapshot that depends on the budget: the state is the fold of the record
- news of an earlier job that frees a worker: one job at a time
- an equal evaluation that is not waited for: nothing is measured twice
- attempts that are left open at the end: no zombie
- violations that are not written down, or that a fork forgets: the state is not the fold
- an error of the database that is passed on as it is: a failure of the disk is told as one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, update

from cluster.dispatch import DispatchingExecutor, Done
from orchestrator.campaign import breeding, finals, measuring, snapshot
from orchestrator.campaign import fold as campaigns
from orchestrator.loop import Driver
from orchestrator.storage import engine as engines
from orchestrator.storage import fork, lease
from orchestrator.storage.schema import attempt, campaign, score
from orchestrator.storage.store import SqlStore
from orchestrator.storage.turns import Writer
from tests.conftest import FakeRace
from tests.simulation import plans
from tests.simulation.story import simulate
from tests.simulation.world import Broken
from workers.job import Scored

#: What an outcome is about.
_PLACE = ("campaign", "candidate", "rows", "block")
Plant = Callable[[pytest.MonkeyPatch], None]

#: Name of a fault -> how it is planted, the laws that may catch it, and what the stories are like.
PLANTS: dict[str, tuple[Plant, set[str], dict[str, Any]]] = {}


def planted(*laws: str, **story: Any) -> Callable[[Plant], Plant]:
    """Registers a fault and the laws that may catch it, in stories that give it occasion."""

    def register(plant: Plant) -> Plant:
        PLANTS[plant.__name__] = (plant, set(laws), story)
        return plant

    return register


def of_shape(name: str) -> dict[str, Any]:
    return {"plan": {**plans.SHAPES, **plans.AIMING}[name]}


def struck_by(*blows: str) -> dict[str, Any]:
    return {"blows": blows, "num_blows": 6}


@planted(
    "no recorded outcome is lost",
    "first remember, then act",
    "no zombie",
    "nothing untrue is tried",
    "it is the same search",
)
def a_commit_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    write, count = SqlStore.write, iter(range(10**9))

    def drops(self: SqlStore, turn: Any) -> None:
        if next(count) % 9 != 8:
            write(self, turn)

    monkeypatch.setattr(SqlStore, "write", drops)


@planted("no recorded outcome is lost", **struck_by("power cut"))
def the_disk_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up = engines._set_up_sqlite

    def hastily(connection: Any, record: Any) -> None:
        set_up(connection, record)
        connection.execute("PRAGMA synchronous = NORMAL").close()

    monkeypatch.setattr(engines, "_set_up_sqlite", hastily)


@planted(
    "one outcome counts",
    "the driver is at one with itself",
    "no item is spent on the hopeless",
    doubles=True,
)
def a_second_outcome_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    take, close, init = Driver._take, Writer._close, SqlStore.__init__

    def anything(self: Driver, state: Any, outcome: Any, **copied: Any) -> Any:
        self._in_flight.setdefault(outcome.key, None)
        return take(self, state, outcome, **copied)

    def twice(self: Writer, taken: Any, closed: Any, now: float) -> None:
        for one, row in zip(taken, closed, strict=True):
            where = [attempt.c[name] == row[name] for name in _PLACE]
            known = update(attempt).where(*where, attempt.c.state == "open")
            is_open = self.connection.execute(known.values(halvings=attempt.c.halvings)).rowcount
            if not is_open:
                again = [score.c[name] == row[name] for name in _PLACE]
                self.connection.execute(delete(score).where(*again))
                one = replace(one, cached=isinstance(one.outcome, Scored))  # a row of its own
                row |= {"cached": int(one.cached), "superseded": 1}
            if is_open or one.cached:
                close(self, [one], [row], now)

    def without_index(self: SqlStore, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        with self._connection.begin():
            self._connection.exec_driver_sql("DROP INDEX IF EXISTS attempt_one_accepted")

    monkeypatch.setattr(Driver, "_take", anything)
    monkeypatch.setattr(Writer, "_close", twice)
    monkeypatch.setattr(SqlStore, "__init__", without_index)


@planted("one outcome counts", doubles=True, troubles=(), **of_shape("race"))
def a_block_that_is_told_twice_counts_as_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Driver._take

    def whatever_its_block(self: Driver, state: Any, outcome: Any, **copied: Any) -> Any:
        for id_, rows, block, number in self._in_flight:
            if (id_, rows) == (outcome.candidate, outcome.rows) and not copied:
                outcome = replace(outcome, block=block, attempt=number)
        return take(self, state, outcome, **copied)

    monkeypatch.setattr(Driver, "_take", whatever_its_block)


@planted("one outcome counts", **of_shape("coarse"))
def a_score_is_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = SqlStore.cached

    def mixed(self: SqlStore, evaluations: Any) -> Any:
        found = cached(self, evaluations)
        return dict(zip(found, reversed(found.values()), strict=True))

    monkeypatch.setattr(SqlStore, "cached", mixed)


@planted("the campaign ends", **struck_by("crash after"))
def a_job_is_forgotten_on_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Driver._replay

    def forgets(self: Driver) -> Any:
        state = replay(self)
        if self._sequence and self._queue:
            self._queue.popleft()
        return state

    monkeypatch.setattr(Driver, "_replay", forgets)


@planted("the campaign ends")
def a_candidate_is_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = campaigns.handle

    def patiently(campaign: Any, state: Any, outcome: Any, *, final: Any = None) -> Any:
        limits = replace(campaign.limits, max_attempts=10**6)
        return handle(replace(campaign, limits=limits), state, outcome, final=final)

    # Not for the search without faults, which would not end, either.
    only_for_the_driver(monkeypatch, campaigns, "handle", patiently)


@planted("one driver at a time", "nothing untrue is tried", **struck_by("takeover"))
def a_lease_is_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def anyone(self: SqlStore, values: Any) -> None:
        self._connection.execute(update(campaign).where(campaign.c.id == self._id).values(values))

    monkeypatch.setattr(lease, "is_alive", lambda row, now: False)
    monkeypatch.setattr(SqlStore, "_update", anyone)


@planted("one driver at a time", "nothing untrue is tried", **struck_by("takeover"))
def who_has_lost_a_campaign_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def anyone(self: SqlStore, values: Any) -> None:
        self._connection.execute(update(campaign).where(campaign.c.id == self._id).values(values))

    monkeypatch.setattr(SqlStore, "_update", anyone)


@planted(
    "it is the same search",
    "the state is the fold of the record",
    **{**struck_by("crash after"), "snapshot_every": 3},
)
def a_generator_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, run = campaigns.start, Driver.run
    generators: dict[tuple[int, str], np.random.Generator] = {}

    def reused(rules: Any, role: str, *place: int) -> np.random.Generator:
        key = (rules.seed, role)
        return generators.setdefault(key, np.random.default_rng([rules.seed, len(role)]))

    def from_the_start(campaign: Any) -> Any:
        generators.clear()
        return start(campaign)

    def anew(self: Driver) -> Any:
        generators.clear()
        return run(self)

    monkeypatch.setattr(breeding, "_rng", reused)
    monkeypatch.setattr(campaigns, "start", from_the_start)
    monkeypatch.setattr(Driver, "run", anew)


@planted(
    "it is the same search",
    "the state is the fold of the record",
    "nothing is measured twice",
    "nothing untrue is tried",
    **{**of_shape("async"), **struck_by("crash after")},
)
def outcomes_are_replayed_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = SqlStore.entries

    def reordered(self: SqlStore, after: int) -> Iterator[Any]:
        return iter(list(entries(self, after))[::-1])

    monkeypatch.setattr(SqlStore, "entries", reordered)


@planted("first remember, then act", "nothing untrue is tried")
def a_job_is_handed_out_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    write, waiting = SqlStore.write, []

    def later(self: SqlStore, turn: Any) -> None:
        waiting.append(turn)
        if len(waiting) > 1:
            write(self, waiting.pop(0))

    monkeypatch.setattr(SqlStore, "write", later)


@planted(
    "nothing is measured twice",
    "the state is the fold of the record",
    "it is the same search",
    "nothing untrue is tried",
    "the store is sound",
    **{**struck_by("crash after"), "snapshot_every": 3},
)
def a_snapshot_is_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = SqlStore.keep

    def beside(self: SqlStore, shot: Any) -> None:
        keep(self, replace(shot, sequence=shot.sequence + 1))

    monkeypatch.setattr(SqlStore, "keep", beside)


@planted(
    "the state is the fold of the record",
    "it is the same search",
    **{**of_shape("async generations"), "snapshot_every": 3},
)
def a_snapshot_depends_on_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "can_be_taken", lambda campaign, state: state.phase == "search")


@planted("one job at a time", "the campaign ends", doubles=True)
def news_of_an_earlier_job_frees_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = DispatchingExecutor._handle

    def frees(self: DispatchingExecutor, event: Any) -> Any:
        slot = self._slots.get(event.handle)
        if slot is None or not isinstance(event, Done):
            return handle(self, event)
        slot.state, slot.job = "idle", None
        return [event.outcome]

    monkeypatch.setattr(DispatchingExecutor, "_handle", frees)


@planted("nothing is measured twice", **of_shape("coarse"))
def an_equal_evaluation_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "_reusable", lambda self, jobs: [])


@planted("no zombie", **of_shape("sick"))
def attempts_are_left_open_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_says_so(self: SqlStore, state: Any, reason: Any, elapsed_s: float) -> None:
        values = {"state": state, "reason": reason, "elapsed_s": elapsed_s, "stop_requested": 0}
        self._write(lambda: self._update(values))

    monkeypatch.setattr(SqlStore, "end", only_says_so)


@planted("a failure of the disk is told as one", **struck_by("I/O error"))
def an_error_of_the_database_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(self: SqlStore, work: Callable[[], Any]) -> Any:
        with self._connection.begin():
            return work()

    monkeypatch.setattr(SqlStore, "_transact", bare)


@planted("no item is spent on the hopeless", "the driver is at one with itself", **of_shape("race"))
def whoever_is_stopped_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = campaigns.handle

    def spendthrift(campaign: Any, state: Any, outcome: Any, **decided: Any) -> Any:
        step = handle(campaign, state, outcome, **decided)
        if step.measured is None or not step.measured.stopped or state.stop == "time":
            return step
        job = measuring.following(campaign, state.open[outcome.candidate, outcome.rows])
        return replace(step, jobs=[*step.jobs, job])

    only_for_the_driver(monkeypatch, campaigns, "handle", spendthrift)


@planted(
    "no item is spent on the hopeless",
    "it is the same search",
    "the state is the fold of the record",
    "nothing untrue is tried",
    **of_shape("race, fresh"),
)
def a_race_stops_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = FakeRace.goes_on

    def upside_down(self: FakeRace, standing: Any, rivals: Any) -> bool:
        return len(rivals.incumbents) < self.survivors or not goes_on(self, standing, rivals)

    monkeypatch.setattr(FakeRace, "goes_on", upside_down)


@planted(
    "one outcome counts",
    "it is the same search",
    "the state is the fold of the record",
    "the driver is at one with itself",
    **{**of_shape("race"), **struck_by("crash after"), "snapshot_every": 3},
)
def a_standing_is_lost_on_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = snapshot.restore

    def without_the_first(campaign: Any, data: Any, known: Any, standings: Any) -> Any:
        state = restore(campaign, data, known, standings)
        half_way = {id_ for (id_, _), job in state.open.items() if job.block}
        kept = {id_: one for id_, one in state.standings.items() if id_ not in half_way}
        return replace(state, standings=kept)

    monkeypatch.setattr(snapshot, "restore", without_the_first)


@planted(
    "the state is the fold of the record",
    "it is the same search",
    **{**of_shape("bank"), **struck_by("crash after"), "snapshot_every": 3},
)
def a_standing_is_newer_than_its_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_with_only", lambda standing, parts: standing)


@planted(
    "the state is the fold of the record",
    "it is the same search",
    "nothing untrue is tried",
    **{**of_shape("fresh"), **struck_by("crash after"), "snapshot_every": 3},
)
def fresh_rows_are_forgotten_on_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = snapshot.dump

    def forgetful(campaign: Any, state: Any) -> Any:
        return {**dump(campaign, state), "refreshed": {}}

    monkeypatch.setattr(snapshot, "dump", forgetful)


@planted("nothing is measured twice", "nothing untrue is tried", **of_shape("bank"))
def finalists_are_measured_again_for_a_larger_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    note_early = finals.note_early

    def deaf(state: Any, outcome: Any, *, final: Any) -> Any:
        return replace(note_early(state, outcome, final=final), ahead={})

    monkeypatch.setattr(finals, "note_early", deaf)


@planted("one outcome counts", "first remember, then act", **of_shape("race"))
def a_block_has_the_documents_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    following = measuring.following

    def shifted(campaign: Any, job: Any) -> Any:
        found = following(campaign, job)
        return found and replace(found, documents=campaign.regime.blocks[0])

    monkeypatch.setattr(measuring, "following", shifted)


@planted("the state is the fold of the record", **of_shape("async front"))
def what_is_judged_later_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "_judge", lambda self, judged: None)


@planted("the state is the fold of the record", **of_shape("front, parents"))
def a_fork_forgets_what_breaks_constraints(monkeypatch: pytest.MonkeyPatch) -> None:
    add = fork._History.add

    def forgets(self: Any, entry: Any) -> None:
        add(self, entry)
        for row in self.attempts[-1:]:
            row["violation"] = 0.0

    monkeypatch.setattr(fork._History, "add", forgets)


def only_for_the_driver(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, fault: Callable[..., Any]
) -> None:
    """Plants a fault in what drives, and not in the laws' own folds."""
    drive = Driver._drive

    def faulty(self: Driver, *arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(module, name, fault)
            return drive(self, *arguments)

    monkeypatch.setattr(Driver, "_drive", faulty)


@pytest.fixture
def fresh() -> Iterator[None]:
    """What the search is without faults must not be known from before or without the fault."""
    plans.without_faults.cache_clear()
    yield
    plans.without_faults.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plant, laws, story = PLANTS[name]
    plant(monkeypatch)
    broken = next(filter(None, map(partial(law_broken, **story), range(100))), None)
    assert broken is not None, f"nobody noticed that {name.replace('_', ' ')}"
    assert broken.law in laws, broken


def law_broken(seed: int, **story: Any) -> Broken | None:
    try:
        simulate(seed, **story)
    except Broken as broken:
        return broken
    return None

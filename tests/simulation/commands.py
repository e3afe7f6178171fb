"""Commands that are given to shoal: each runs in a process of its own, and is looked after."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.dispatch import DispatchingExecutor
from cluster.executor import ExecutorError
from orchestrator.campaign.state import State
from orchestrator.loop import Driver, Interrupted, StopRequested
from orchestrator.storage import lease
from orchestrator.storage.base import CampaignRecord, NewCampaign, StoreHeldError
from orchestrator.storage.store import SqlStore
from tests.simulation import fleet, laws, plans
from tests.simulation.endings import ending_of
from tests.simulation.fleet import Fleet, Habits
from tests.simulation.plans import Plan
from tests.simulation.records import Line, Monitor
from tests.simulation.world import Blow, Broken, Process, World
from workers.job import Job, Outcome, Scored

#: Processes after which a campaign does not end.
_MAX_PROCESSES = 80


@dataclass(slots=True)
class Ear:
    """Notes what the driver says is recorded."""

    world: World
    heard: list[Line] = field(default_factory=list)

    def on_start(self, state: State, resumed: int) -> None:
        self.world.note(f"goes on after {resumed} outcomes")

    def on_workers(self, slots: int) -> None: ...

    def on_outcome(self, state: State, outcome: Outcome, *, final: bool) -> None:
        later = "later blocks of " if outcome.block and outcome.rows == "search" else ""
        copied = " copied" if outcome.worker == "cache" else ""
        self.world.befell[f"{later}{outcome.rows} rows{copied}"] += 1
        if outcome.candidate in state.completing or outcome.candidate in state.completed:
            self.world.befell["finalist measured in full"] += 1
        fitness = outcome.score.fitness if isinstance(outcome, Scored) else None
        line = Line(
            sequence=0,
            candidate=outcome.candidate,
            rows=outcome.rows,
            block=outcome.block,
            attempt=outcome.attempt,
            fitness=fitness,
            final=int(final),
            cached=int(outcome.worker == "cache"),
        )
        self.heard.append(line)
        self.world.note(f"recorded {line[1:]}")

    def on_interrupt(self, in_flight: int) -> None:
        self.world.note(f"winds down, {in_flight} in flight")


@dataclass(slots=True)
class Commands:
    """Runs `shoal run` and `shoal retry`, and checks what they leave behind."""

    world: World
    monitor: Monitor
    habits: Habits
    #: What follows when a process that is beginning a transaction is stopped for long.
    on_pause: Callable[[Process], None] = lambda process: None
    #: Campaign -> its recorded outcomes, as they were seen last.
    lines: dict[str, list[Line]] = field(default_factory=dict)
    #: Campaigns some run of which may have ended before its time...
    hurried: set[str] = field(default_factory=set)
    #: ... as its hours were over.
    timed: set[str] = field(default_factory=set)
    #: What the campaign was when the last process ended, if it was done.
    state: State | None = None

    def run(self, name: str, plan: Plan, machine: str, *, hours: float | None = None) -> str:
        """Runs a campaign in a new process; returns how that ended."""
        ear = Ear(self.world)
        if hours is not None:
            self.hurried.add(name)
            self.timed.add(name)
        return self._live(name, plan, machine, lambda process: self._run(process, hours, ear), ear)

    def retry(self, name: str, plan: Plan, machine: str) -> str:
        """Wants all failed candidates of a campaign measured again; returns how that ended."""
        return self._live(name, plan, machine, self._retry, Ear(self.world))

    def token(self, name: str) -> str | None:
        """Returns the lease of a campaign."""
        row = self.monitor.campaign(name)
        return None if row is None else row["lease_token"]

    def _live(
        self, name: str, plan: Plan, machine: str, deed: Callable[[Process], str], ear: Ear
    ) -> str:
        world = self.world
        if len(world.processes) > _MAX_PROCESSES:
            raise Broken("the campaign ends", f"it has not after {_MAX_PROCESSES} processes")
        process = Process(
            number=len(world.processes),
            pid=100 + len(world.running),  # numbers of processes are used again
            machine=machine,
            campaign=name,
            plan=plan,
            blows=self._draw_blows(),
        )
        process.pause = lambda: self.on_pause(process)
        world.processes.append(process)
        world.running.append(process)
        world.note(f"starts on {machine} for {name}")
        try:
            ending = ending_of(process, deed)
        finally:
            world.running.pop()
            process.exit()
        if process.hurt and ending == "done" and self.token(name) is not None:
            ending = "failing disk"  # the very last thing, giving the lease back, did not succeed
        world.befell[f"ended: {ending}"] += 1
        world.note(f"p{process.number} ended: {ending}")
        self._look_after(process, ear.heard)
        self.state = process.state
        return ending

    def _draw_blows(self) -> list[Blow]:
        """Decides what befalls the next process, and when."""
        random, habits = self.world.random, self.habits
        if not (habits.num_blows and habits.blows and random.random() < 0.8):
            return []
        habits.num_blows -= 1
        early = random.random() < 0.35
        step = random.randint(1, 50) if early else random.randint(40, 400)
        return [Blow(random.choice(habits.blows), step)]

    def _run(self, process: Process, hours: float | None, ear: Ear) -> str:
        """What the command does, as far as the campaign is concerned."""
        store = SqlStore(str(self.world.path), process.campaign, clock=self.world.wall)
        try:
            known = self._open(process, store)
            return self._drive(process, store, hours, ear, known)
        finally:
            if not process.dead:
                if len(self.world.running) == 1:
                    self.monitor.close()
                store.close()

    def _open(self, process: Process, store: SqlStore) -> CampaignRecord | None:
        """Makes the campaign or takes it up again."""
        plan, known = process.plan, store.load()
        new = NewCampaign(
            settings={}, search_settings=plan.search_settings(), seed=plan.seed, versions={}
        )
        if known is None and process.campaign == "fork":
            with SqlStore(str(self.world.path), "one", clock=self.world.wall) as old:
                ancestor = old.load()
            assert ancestor is not None
            point = store.fork_point("one", None)
            seed = ancestor.search_settings["seed"]
            store.fork(new, ancestor, point, [{"until": point.until, "seed": seed}])
            known = store.load()
        if known is None:
            store.create(new)
        else:
            self._reopen(process, store)
            process.plan = plan.forked(known.history)
        return known

    def _reopen(self, process: Process, store: SqlStore) -> None:
        """Takes a campaign up; whoever holds it must not be disturbed, and must be alive."""
        held_by = self._holder(process)
        try:
            store.reopen({})
        except StoreHeldError as error:
            if held_by is None:
                raise Broken("one driver at a time", f"nobody holds it, but: {error}") from error
            raise
        if held_by is not None:
            raise Broken("one driver at a time", f"{held_by} is taken from its driver")

    def _holder(self, process: Process) -> str | None:
        """Returns who holds the campaign as far as the process can know, or None."""
        row = self.monitor.campaign(process.campaign)
        if row is None or row["lease_token"] is None:
            return None
        held = lease.Holder(**json.loads(row["lease_holder"]))
        if held.machine == process.machine:
            return held.label if self.world.birth(held.process) == held.born else None
        recent = self.world.wall() - row["heartbeat_at"] < lease.LEASE_S
        return held.label if recent else None

    def _drive(
        self,
        process: Process,
        store: SqlStore,
        hours: float | None,
        ear: Ear,
        known: CampaignRecord | None,
    ) -> str:
        """Drives the campaign and books how it ended."""
        plan: Plan = process.plan
        driver = process.driver = Driver(
            campaign=plan.campaign(),
            store=store,
            open_executor=lambda: self._open_executor(process),
            listener=ear,
            hours=hours,
            elapsed_before_s=known.elapsed_s if known else 0.0,
            identify=plans.evaluation_of if plan.reuse else None,
            search_settings=plan.search_settings(),
            timeout_s=fleet.TIMEOUT_S,
            snapshot_every=self.habits.snapshot_every,
            clock=self.world.clock,
            wall_clock=self.world.wall,
        )
        try:
            state = driver.run()
        except (Interrupted, StopRequested) as stop:
            store.end("interrupted", str(stop) or "stop", driver.elapsed_s())
            return "interrupted"
        except ExecutorError as error:
            store.end("interrupted", str(error), driver.elapsed_s())
            return "no workers"
        finally:
            process.driver = None
        failed = state.stop == "failures"
        store.end("stopped" if failed else "finished", state.stop, driver.elapsed_s())
        process.state = state
        self.world.befell["stopped by a race"] += state.num_stopped
        return "out of time" if state.stop == "time" else "done"

    def _open_executor(self, process: Process) -> DispatchingExecutor:
        """Starts the evaluators of a process."""
        late: list[Job] = []
        num_candidates = len(laws.searched(plans.without_faults(process.plan).candidates))

        def watch(job: Job) -> None:
            if process.zombie:
                return
            name = process.campaign
            laws.may_be_sent(
                self.monitor,
                name,
                process.plan,
                job,
                num_candidates=None if self.world.mended or name in self.timed else num_candidates,
            )
            driver = process.driver
            if driver.hours is not None and driver.elapsed_s() > 3600 * driver.hours:
                late.append(job)
                laws.time_is_up(process.plan, late, self.habits.slots)

        process.fleet = Fleet(self.world, process, self.habits, watch)
        return DispatchingExecutor(
            process.fleet,
            slots=self.habits.slots,
            timeout_s=fleet.TIMEOUT_S,
            ready_timeout_s=fleet.READY_TIMEOUT_S,
            clock=self.world.clock,
        )

    def _retry(self, process: Process) -> str:
        """What `shoal retry --failed` does."""
        with SqlStore(str(self.world.path), process.campaign, clock=self.world.wall) as store:
            known = store.load()
            assert known is not None
            self._reopen(process, store)
            failed = self.monitor.attempts(
                process.campaign,
                "attempt.state = 'failed' AND final = 1 AND retried = 0 ORDER BY attempt.sequence",
            )
            if failed:
                store.retry(
                    [
                        (row["candidate"], row["rows"], row["block"], row["number"] + 1)
                        for row in failed
                    ]
                )
                self.world.mended = True
            store.end("interrupted", "retry", known.elapsed_s)
        return "retried"

    def _look_after(self, process: Process, heard: list[Line]) -> None:
        """Checks what must hold between any two processes."""
        name = process.campaign
        before, now = self.lines.get(name, []), self.monitor.lines(name)
        laws.nothing_is_lost(before, now, heard)
        self.lines[name] = now
        if process.fleet is not None and not process.dead:
            laws.no_worker_is_left(process.fleet)
        if process.last_words is not None:
            count, dump = process.last_words
            if count == len(self.world.processes):  # nobody else was there since
                laws.changed_nothing(dump, self.monitor.dump())

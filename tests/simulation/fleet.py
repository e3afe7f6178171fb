"""Evaluators that live on nodes, die with them, hang, and say things late, twice or never."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.dispatch import Done, Event, Lost, Ready
from tests.conftest import scored
from tests.simulation.world import Broken, Crash, Node, Process, World
from workers.job import Failed, Job, Kind, Outcome

#: Attempts that one campaign allows: more than a candidate can lose by no fault of its own.
MAX_ATTEMPTS = 4
#: Attempts that a candidate may lose so.
_MAX_SPOILT = MAX_ATTEMPTS - 2
TIMEOUT_S = 4.0
READY_TIMEOUT_S = 5.0
#: What may go wrong with a single attempt.
TROUBLES = ("lost worker", "hang", "late outcome", "lost outcome", "no memory", "slow node")
#: Looks without any news after which a campaign does not go on.
_MAX_IDLE = 400
#: Seconds that even a look takes that does not wait: a deadline to the second would never pass.
_SHORTEST_S = 0.001


@dataclass(frozen=True, slots=True)
class Fates:
    """What becomes of a job: it depends on nothing but the recipe and the part of the rows."""

    luck: int = 0
    #: Hundredths of the jobs that fail for good, and that kill each worker they meet.
    broken: int = 8
    poison: int = 6

    def of(self, job: Job) -> str:
        """Returns `score`, `broken` or `poison`."""
        place = "" if job.rows == "search" and not job.block else f" {job.rows} {job.block}"
        dice = zlib.crc32(f"{self.luck} {job.recipe.digest()}{place}".encode()) % 100
        if dice < self.broken:
            return "broken"
        return "poison" if dice < self.broken + self.poison else "score"


def failure(job: Job, kind: Kind, worker: str = "fake", node: str = "") -> Failed:
    """The outcome of a job that has none."""
    return Failed(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        block=job.block,
        stage="worker" if kind == "lost" else "evaluate",
        cause=f"simulated: {kind}",
        retryable=kind != "error",
        kind=kind,
        seconds=0.5,
        worker=worker,
        node=node,
    )


def _named(job: Job) -> str:
    return "/".join(map(str, job.key))


class Worker:
    """One evaluator."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.node = ""
        self.job: Job | None = None
        self.killed = False

    def send(self, job: Job) -> None:
        fleet, world = self.fleet, self.fleet.world
        fleet.step(f"send {_named(job)} to {self.name} on {self.node}")
        if self.killed or self.job is not None:
            raise Broken("one job at a time", f"{self.name} is given {job.key}, has {self.job}")
        fleet.watch(job)
        self.job = job
        fate = fleet.process.plan.fates.of(job)
        if fate == "broken" and world.mended:
            fate = "score"
        trouble = None if fate == "poison" else fleet.trouble(self, job)
        duration_s = world.random.uniform(0.05, 0.8)
        if fate == "poison" or trouble == "lost worker":
            world.after(duration_s, lambda: self.lose("killed by signal 9"))
            return
        if trouble == "no memory":
            outcome: Outcome = failure(job, "memory", self.name, self.node)
        elif fate == "broken":
            outcome = failure(job, "error", self.name, self.node)
        else:
            outcome = scored(job)
        if trouble in ("hang", "lost outcome"):
            return
        if trouble in ("late outcome", "slow node"):
            duration_s += TIMEOUT_S * world.random.uniform(1.0, 2.0)
        world.after(duration_s, lambda: self.finish(outcome))

    def kill(self) -> None:
        if not self.fleet.process.dead:
            self.killed = True

    def finish(self, outcome: Outcome) -> None:
        """Says what came out, maybe twice; a worker that was killed may have said so before."""
        fleet, world = self.fleet, self.fleet.world
        if self.killed and not world.chance(0.5):
            return
        self.job = None
        fleet.tell(Done(self, outcome))
        if fleet.habits.doubles and world.chance(0.3):
            world.happen("doubled outcome", self.name)
            if world.chance(0.5):
                fleet.tell(Done(self, outcome))
            else:
                delay_s = world.random.uniform(0.0, 1.5)
                world.after(delay_s, lambda: fleet.tell(Done(self, outcome)))

    def lose(self, cause: str) -> None:
        """Dies by itself."""
        if not self.killed:
            self.fleet.tell(Lost(self, cause))

    def start(self) -> None:
        """Is ready, as soon as there is a node to be ready on."""
        world = self.fleet.world
        if self.killed:
            return
        alive = [node for node in world.nodes if node.alive]
        if not alive:
            world.after(1.0, self.start)
            return
        self.node = world.random.choice(alive).name
        self.fleet.tell(Ready(self))


@dataclass(slots=True, kw_only=True)
class Habits:
    """What the drivers of a world are like, and what may befall them."""

    #: Evaluators of a driver.
    slots: int
    snapshot_every: int
    #: Rows that the store reads at once.
    chunk: int
    #: What may go wrong with an attempt, and how often something does.
    troubles: tuple[str, ...]
    trouble_share: float
    #: Whether news comes twice, and in any order.
    doubles: bool
    reorders: bool
    #: Whether snapshots are damaged between two processes: they are no more than a shortcut.
    damages: bool
    #: What may befall a process at some step, and how many processes it befalls.
    blows: tuple[str, ...]
    num_blows: int


class Fleet:
    """The evaluators of one process."""

    def __init__(
        self, world: World, process: Process, habits: Habits, watch: Callable[[Job], None]
    ) -> None:
        self.world = world
        self.process = process
        self.habits = habits
        #: Looks at each job that is handed out, to see whether it may be.
        self.watch = watch
        self.workers: list[Worker] = []
        self.closed = False
        self._inbox: list[Event] = []
        self._idle = 0

    def start(self) -> Worker:
        self.step("start a worker")
        worker = Worker(self, f"p{self.process.number}w{len(self.workers) + 1}")
        self.workers.append(worker)
        self.world.after(self.world.random.uniform(0.05, 0.5), worker.start)
        return worker

    def events(self, handles: Sequence[Any], timeout_s: float) -> list[Event]:
        if any(handle.killed for handle in handles):
            raise Broken("no zombie", "a worker that was killed is still listened to")
        deadline = self.world.now + max(timeout_s, _SHORTEST_S)
        while not self._inbox and self.world.tick(deadline):
            if self.process.dead:
                raise Crash
        found, self._inbox = self._inbox, []
        self._idle = 0 if found else self._idle + 1
        if self._idle > _MAX_IDLE:
            raise Broken("the campaign ends", "it waits for what never comes")
        if self.habits.reorders:
            self.world.random.shuffle(found)
        return found

    def close(self) -> None:
        self.closed = True

    def tell(self, event: Event) -> None:
        """Puts news where the process finds them, if it still looks."""
        if not self.process.dead:
            self._inbox.append(event)

    def step(self, what: str) -> None:
        """A moment at which the process may be killed, beside its statements."""
        if self.process.dead or self.process.due("crash before") is not None:
            self.world.happen("crash before", what)
            self.process.die()
            raise Crash
        self.world.note(what)

    def trouble(self, worker: Worker, job: Job) -> str | None:
        """Returns what goes wrong with this attempt; never so often that it ends its candidate."""
        slow = any(node.slow for node in self.world.nodes if node.name == worker.node)
        if slow:
            kind = "slow node"
        elif self.habits.troubles and self.world.chance(self.habits.trouble_share):
            kind = self.world.random.choice(self.habits.troubles)
        else:
            return None
        if kind == "no memory" and job.halvings:
            return None  # smaller batches fit
        if not self.spoil([worker]):
            return None
        self.world.happen(kind, f"{_named(job)} on {worker.name}")
        return kind

    def spoil(self, workers: Sequence[Worker]) -> bool:
        """Whether the attempts of these workers may be lost; notes it if so."""
        jobs = [worker.job for worker in workers if worker.job is not None and not worker.killed]
        keys = [(self.process.campaign, *job.key[:3]) for job in jobs]
        if any(self.world.spoilt[key] >= _MAX_SPOILT for key in keys):
            return False
        self.world.spoilt.update(keys)
        return True

    @property
    def busy(self) -> list[Worker]:
        """The workers that have a job and are not given up."""
        return [one for one in self.workers if one.job is not None and not one.killed]

    @property
    def alive(self) -> list[Worker]:
        """The workers that nobody has ended."""
        return [one for one in self.workers if not one.killed]

    def lose_node(self, node: Node) -> None:
        """Loses all workers of a node."""
        for worker in [one for one in self.workers if one.node == node.name and not one.killed]:
            worker.lose(f"node {node.name} died")

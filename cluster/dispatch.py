"""Keeps a fleet of workers at strength and gives each one job at a time.

The logic that processes and Ray actors share: a queue, deadlines of our own (neither notices a
hang), replacement of what died, and a verdict when no worker can be started at all. Workers are
never restarted in place: what is lost is killed and replaced.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from cluster.executor import ExecutorError
from workers.job import Failed, Job, Kind, Outcome, Stage

#: Workers that may die while starting before the executor gives up, if none ever became ready.
MAX_FAILED_STARTS = 3

_STAGES: dict[Kind, Stage] = {"lost": "worker", "timeout": "evaluate"}


class Handle(Protocol):
    """One worker process, seen from here."""

    name: str
    #: Where it runs; empty until it is ready.
    node: str

    def send(self, job: Job) -> None:
        """Hands a job to an idle worker."""
        ...

    def kill(self) -> None:
        """Ends the worker at once, even if it hangs."""
        ...


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its models and tasks."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Done:
    """A worker has finished its job."""

    handle: Handle
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone. `refused` means that it could not open, for a reason that will repeat."""

    handle: Handle
    cause: str
    refused: bool = False


Event: TypeAlias = Ready | Done | Lost


class Fleet(Protocol):
    """Starts workers and listens to them."""

    def start(self) -> Handle:
        """Starts a worker; it is not ready yet."""
        ...

    def events(self, handles: Sequence[Handle], timeout_s: float) -> list[Event]:
        """Waits up to `timeout_s` for news of these workers."""
        ...

    def close(self) -> None:
        """Releases what is not any single worker's."""
        ...


@dataclass(slots=True)
class _Slot:
    state: Literal["starting", "idle", "busy"]
    since: float
    job: Job | None = None
    #: The candidate whose model it holds.
    holds: str = ""


class DispatchingExecutor:
    """An executor over a fleet."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        slots: int,
        timeout_s: float,
        ready_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._size = slots
        self._timeout_s = timeout_s
        self._ready_timeout_s = ready_timeout_s
        self._clock = clock
        self._queue: deque[Job] = deque()
        self._slots: dict[Handle, _Slot] = {}
        self._any_ready = False
        self._failed_starts = 0

    @property
    def slots(self) -> int:
        """How many workers the fleet should have."""
        return self._size

    def submit(self, job: Job) -> None:
        """Queues a job for the next idle worker."""
        self._queue.append(job)

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        """Keeps the fleet busy and collects what it has finished."""
        self._fill()
        self._assign()
        found: list[Outcome] = []
        for event in self._fleet.events(list(self._slots), self._patience(timeout_s)):
            found += self._handle(event)
        found += self._sweep()
        self._assign()
        return found

    def close(self) -> None:
        """Kills every worker."""
        self._queue.clear()
        for handle in list(self._slots):
            handle.kill()
        self._slots.clear()
        self._fleet.close()

    def _fill(self) -> None:
        while len(self._slots) < self._size:
            self._slots[self._fleet.start()] = _Slot("starting", self._clock())

    def _assign(self) -> None:
        for handle, slot in self._slots.items():
            if slot.state == "idle" and (job := self._next_job(handle, slot)) is not None:
                slot.job, slot.holds = job, job.candidate
                slot.state, slot.since = "busy", self._clock()
                handle.send(job)

    def _next_job(self, handle: Handle, slot: _Slot) -> Job | None:
        """Returns the oldest job for an idle worker: elsewhere than where it failed, if it can.

        One of the candidate whose model it holds goes first, as nothing need be built for that.
        """
        elsewhere = {one.node for one in self._slots}
        for job in sorted(self._queue, key=lambda one: one.candidate != slot.holds):
            if handle.node not in job.avoid or elsewhere <= {*job.avoid, ""}:
                self._queue.remove(job)
                return job
        return None

    def _handle(self, event: Event) -> list[Outcome]:
        slot = self._slots.get(event.handle)
        if slot is None:
            return []  # news of a worker that was given up: its job was answered already
        if isinstance(event, Ready):
            slot.state, self._any_ready, self._failed_starts = "idle", True, 0
            return []
        if isinstance(event, Done):
            if slot.job is not None and slot.job.key == event.outcome.key:
                slot.state, slot.job = "idle", None
            return [event.outcome]
        return self._give_up(event.handle, slot, event.cause, "lost", refused=event.refused)

    def _sweep(self) -> list[Outcome]:
        """Ends what is past its time."""
        found: list[Outcome] = []
        now = self._clock()
        for handle, slot in list(self._slots.items()):
            waited = now - slot.since
            if slot.state == "busy" and waited > self._timeout_s:
                cause = f"timed out after {self._timeout_s:g} s"
                found += self._give_up(handle, slot, cause, "timeout")
            elif slot.state == "starting" and waited > self._ready_timeout_s:
                cause = f"not ready after {self._ready_timeout_s:g} s"
                found += self._give_up(handle, slot, cause, "timeout")
        return found

    def _give_up(
        self, handle: Handle, slot: _Slot, cause: str, kind: Kind, *, refused: bool = False
    ) -> list[Outcome]:
        del self._slots[handle]
        handle.kill()
        if slot.job is not None:
            job = slot.job
            failed = Failed(
                candidate=job.candidate,
                attempt=job.attempt,
                rows=job.rows,
                block=job.block,
                stage=_STAGES[kind],
                cause=cause,
                retryable=True,
                kind=kind,
                seconds=self._clock() - slot.since,
                worker=handle.name,
                node=handle.node,
            )
            return [failed]
        self._failed_starts += 1
        hopeless = refused or self._failed_starts >= MAX_FAILED_STARTS
        if hopeless and not self._any_ready:
            raise ExecutorError(f"no evaluator can be started: {cause}")
        none_works = all(one.state == "starting" for one in self._slots.values())
        if self._failed_starts >= MAX_FAILED_STARTS * self._size and none_works:
            raise ExecutorError(f"all evaluators were lost and none can be started: {cause}")
        return []

    def _patience(self, timeout_s: float) -> float:
        """Returns how long to wait for events: never past the next deadline."""
        limits = {"busy": self._timeout_s, "starting": self._ready_timeout_s}
        now = self._clock()
        deadlines = [
            slot.since + limits[slot.state] - now
            for slot in self._slots.values()
            if slot.state in limits
        ]
        return max(0.0, min([timeout_s, *deadlines]))

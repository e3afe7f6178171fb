"""Drives a campaign: hands jobs out, records what comes back, and asks the campaign what next.

The campaign decides, the store remembers, the executor carries. An outcome is recorded before it
is acted on, and a job before it is handed out; resuming feeds the recorded outcomes to the same
campaign and hands out what is still open.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

from cluster.executor import Executor
from orchestrator import campaign as campaigns
from orchestrator.campaign import Campaign, Key, State, Step
from orchestrator.storage.store import Store
from workers.job import Job, Outcome, Scored

#: Seconds that jobs in flight are given when the campaign is interrupted.
GRACE_S = 5.0
#: Seconds to wait for outcomes before looking at signals and the clock again.
_TICK_S = 0.5


class Interrupted(Exception):  # noqa: N818  (no error: the user asked for it)
    """The campaign was stopped by a signal; running it again goes on."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class MismatchError(RuntimeError):
    """The store holds other candidates than this code proposes: it is not the same search."""


class Listener(Protocol):
    """Told what happens, to show it."""

    def on_start(self, state: State, resumed: int) -> None:
        """The campaign starts, or goes on after `resumed` recorded outcomes."""
        ...

    def on_workers(self, slots: int) -> None:
        """Evaluators are starting."""
        ...

    def on_outcome(self, state: State, outcome: Outcome, *, final: bool) -> None:
        """An outcome has been recorded."""
        ...

    def on_interrupt(self, in_flight: int) -> None:
        """A signal came; what is in flight is given a moment."""
        ...


@dataclass(slots=True)
class Signals:
    """Remembers the first signal; the second one ends the process at once."""

    received: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM meanwhile."""
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
        for signum in before:
            signal.signal(signum, self._handle)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:
            raise Interrupted(self.received)
        self.received = signum


@dataclass(slots=True)
class Driver:
    """One run of a campaign."""

    campaign: Campaign
    store: Store
    open_executor: Callable[[], Executor]
    listener: Listener
    #: Hours of running after which nothing new is started; None for no limit.
    hours: float | None = None
    #: Seconds that earlier runs took.
    elapsed_before_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    signals: Signals = field(default_factory=Signals)
    _known: dict[str, str] = field(default_factory=dict)
    _queue: deque[Job] = field(default_factory=deque)
    _in_flight: set[tuple[str, str, int]] = field(default_factory=set)
    _started: float = 0.0

    def run(self) -> State:
        """Runs the campaign to its end.

        Raises:
            Interrupted: if a signal came first.
            ExecutorError: if no evaluator can be started.
            MismatchError: if the store's candidates are not those of this campaign.
        """
        self._started = self.clock()
        self._known = self.store.candidates()
        state, resumed = self._replay()
        self.listener.on_start(state, resumed)
        state = self._watch_time(state)
        if state.phase == "done":
            return state
        with self.signals.installed():
            executor = self.open_executor()
            try:
                self.listener.on_workers(executor.slots)
                with self.signals.installed():  # again: Ray has put handlers of its own
                    return self._drive(state, executor)
            finally:
                executor.close()

    def _replay(self) -> tuple[State, int]:
        """Feeds the recorded outcomes to the campaign; the rest is queued."""
        step = campaigns.start(self.campaign)
        self._remember(step)
        state, waiting = step.state, {_key(job): job for job in step.jobs}
        resumed = 0
        for outcome, final in self.store.outcomes():
            waiting.pop((outcome.candidate, outcome.rows), None)
            step = campaigns.handle(self.campaign, state, outcome, final=final)
            self._remember(step)
            state = step.state
            waiting |= {_key(job): job for job in step.jobs}
            resumed += 1
        self._queue.extend(job for key, job in waiting.items() if key in state.open)
        return state, resumed

    def _drive(self, state: State, executor: Executor) -> State:
        while state.phase != "done":
            if self.signals.received is not None:
                self._wind_down(state, executor)
                raise Interrupted(self.signals.received)
            self._hand_out(executor)
            for outcome in executor.outcomes(_TICK_S):
                state = self._take(state, outcome)
            state = self._watch_time(state)
        return state

    def _hand_out(self, executor: Executor) -> None:
        while self._queue and len(self._in_flight) < executor.slots:
            job = self._queue.popleft()
            self.store.begin(job)
            self._in_flight.add(job.key)
            executor.submit(job)

    def _take(self, state: State, outcome: Outcome) -> State:
        attempt = (outcome.candidate, outcome.rows, outcome.attempt)
        if attempt not in self._in_flight:
            return state  # the same news twice
        self._in_flight.discard(attempt)
        step = campaigns.handle(self.campaign, state, outcome)
        waits = (outcome.candidate, outcome.rows) in step.state.open
        final = isinstance(outcome, Scored) or not waits
        self.store.record(outcome, final=final, elapsed_s=self.elapsed_s())
        self._remember(step)
        self._queue.extend(step.jobs)
        self.listener.on_outcome(step.state, outcome, final=final)
        return step.state

    def _watch_time(self, state: State) -> State:
        if self.hours is None or state.phase != "search" or state.stop is not None:
            return state
        if self.elapsed_s() < 3600 * self.hours:
            return state
        dropped = [_key(job) for job in self._queue]
        self._queue.clear()
        step = campaigns.abandon(self.campaign, state, dropped)
        self._queue.extend(step.jobs)
        return step.state

    def _wind_down(self, state: State, executor: Executor) -> None:
        """Starts nothing new, and keeps what ends within the grace."""
        self.listener.on_interrupt(len(self._in_flight))
        deadline = self.clock() + GRACE_S
        while self._in_flight and (left := deadline - self.clock()) > 0:
            for outcome in executor.outcomes(min(left, _TICK_S)):
                state = self._take(state, outcome)

    def _remember(self, step: Step) -> None:
        """Records new candidates; those already recorded must be the same."""
        new = []
        for candidate in step.candidates:
            digest = self._known.get(candidate.id)
            if digest is None:
                new.append(candidate)
            elif digest != candidate.recipe.digest():
                raise MismatchError(
                    f"candidate {candidate.id} is not the one in the store: this version of shoal "
                    "or numpy proposes differently; go on with the one that started the campaign"
                )
        if new:
            self.store.add(new, step.state.generation)
            self._known.update({one.id: one.recipe.digest() for one in new})

    def elapsed_s(self) -> float:
        """Returns the seconds that the campaign has run, earlier runs included."""
        return self.elapsed_before_s + self.clock() - self._started


def _key(job: Job) -> Key:
    return (job.candidate, job.rows)

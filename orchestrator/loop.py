"""Drives a campaign: hands jobs out, records what comes back, and asks the campaign what next.

The campaign decides, the store remembers, the executor carries. All that comes of a look at the
executor is one turn: the outcomes, the candidates that follow from them and the jobs to hand out
are recorded together, in one transaction, and only then is a job handed out. Resuming feeds the
recorded outcomes to the same campaign and hands out what is still open.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from cluster.executor import Executor
from evaluators.base import Score
from orchestrator.campaign import fold as campaigns
from orchestrator.campaign import snapshot
from orchestrator.campaign.state import Campaign, Candidate, Key, State, Step
from orchestrator.storage.base import Begun, Snapshot, Store, Taken, Turn
from orchestrator.storage.lease import HEARTBEAT_S
from workers.job import Job, JobKey, Outcome, Scored

#: Seconds that jobs in flight are given when the campaign is interrupted.
GRACE_S = 5.0
#: Seconds to wait for outcomes before looking at signals and the clock again.
_TICK_S = 0.5
#: Recorded outcomes between two snapshots: as many are replayed after a crash, at most.
_SNAPSHOT_EVERY = 256


class Interrupted(Exception):  # noqa: N818  (no error: the user asked for it)
    """The campaign was stopped by a signal; running it again goes on."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequested(Exception):  # noqa: N818  (no error: the user asked for it)
    """`shoal stop` was called; running the campaign again goes on."""


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
        signal.alarm(0)  # Ray's native handler arms one, to abort a driver that takes its time
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
    #: Hash of all that a job's score depends on; None if nothing is to be reused.
    identify: Callable[[Job], bytes] | None = None
    #: What the search depends on, for telling which snapshots are of use.
    search_settings: Mapping[str, Any] = field(default_factory=dict)
    #: Seconds after which an attempt is given up, for records.
    timeout_s: float = 0.0
    #: Recorded outcomes between two snapshots.
    snapshot_every: int = _SNAPSHOT_EVERY
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    signals: Signals = field(default_factory=Signals)
    _known: dict[str, str] = field(default_factory=dict)
    _queue: deque[Job] = field(default_factory=deque)
    #: Jobs handed out -> what their score depends on.
    _in_flight: dict[JobKey, bytes | None] = field(default_factory=dict)
    _turn: Turn = field(default_factory=Turn)
    #: What the turn's outcomes have measured, which the store cannot know yet.
    _fresh: dict[bytes, Score] = field(default_factory=dict)
    #: What the listener hears of once it is recorded.
    _news: list[tuple[State, Outcome, bool]] = field(default_factory=list)
    _fingerprint: str = ""
    _sequence: int = 0
    _last_snapshot: int = 0
    _last_beat: float = 0.0
    _started: float = 0.0

    def run(self) -> State:
        """Runs the campaign to its end.

        Raises:
            Interrupted: if a signal came first.
            StopRequested: if `shoal stop` came first.
            ExecutorError: if no evaluator can be started.
            MismatchError: if the store's candidates are not those of this campaign.
            StoreFaultError: if the store cannot be written; all that was acted on is in it.
            LeaseLostError: if another driver has taken over.
        """
        self._started = self._last_beat = self.clock()
        state = self._replay()
        self.listener.on_start(state, self._sequence)
        state = self._watch_time(state)
        self._commit(state)
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

    def _replay(self) -> State:
        """Feeds the recorded outcomes to the campaign; what is still open is queued."""
        self._fingerprint = snapshot.fingerprint(self.campaign, self.search_settings)
        step = self._start()
        self._remember(step)
        state = step.state
        for entry in self.store.entries(self._sequence):
            step = campaigns.replay(self.campaign, state, entry)
            self._remember(step)
            state = step.state
            self._sequence += 1
        self._queue.extend(state.open.values())
        return state

    def _start(self) -> Step:
        """Returns the newest state that can be trusted: a snapshot's, or the very first."""
        for shot in self.store.snapshots():
            if shot.fingerprint != self._fingerprint:
                continue
            try:
                if not snapshot.fits(self.campaign, shot.state):
                    continue
                known = self.store.candidates(snapshot.named(shot.state))
                standings = self.store.standings(snapshot.with_standings(shot.state))
                state = snapshot.restore(self.campaign, shot.state, known, standings)
            except (KeyError, TypeError, ValueError):
                continue  # one that cannot be read is as good as none
            self._sequence = self._last_snapshot = shot.sequence
            self._known = self.store.digests(state.generation)
            return Step(state)
        self._known = self.store.digests(0)
        return campaigns.start(self.campaign)

    def _drive(self, state: State, executor: Executor) -> State:
        while state.phase != "done":
            if self.signals.received is not None:
                self._wind_down(state, executor)
                raise Interrupted(self.signals.received)
            if self._asked_to_stop():
                self._wind_down(state, executor)
                raise StopRequested
            state = self._hand_out(state, executor)
            for outcome in executor.outcomes(_TICK_S):
                state = self._take(state, outcome)
            state = self._watch_time(state)
        self._commit(state)
        return state

    def _hand_out(self, state: State, executor: Executor) -> State:
        """Records the turn and gives jobs to whoever is free."""
        jobs: dict[JobKey, tuple[Job, bytes | None]] = {}
        self._choose(jobs, executor.slots - len(self._in_flight))
        while hits := self._reusable(jobs):
            for job, outcome in hits:
                state = self._take(state, outcome, copied=jobs.pop(job.key)[1])
            self._choose(jobs, executor.slots - len(self._in_flight))
        lease_until = self.wall_clock() + self.timeout_s
        self._turn.begun += [
            Begun(job=job, lease_until=lease_until, evaluation=evaluation)
            for job, evaluation in jobs.values()
        ]
        self._commit(state)
        for job, evaluation in jobs.values():
            self._in_flight[job.key] = evaluation
            executor.submit(job)
        return state

    def _choose(self, chosen: dict[JobKey, tuple[Job, bytes | None]], num: int) -> None:
        """Adds jobs from the queue up to `num`; one whose equal is being measured waits for it."""
        waiting: list[Job] = []
        pending = {*self._in_flight.values(), *(evaluation for _, evaluation in chosen.values())}
        while self._queue and len(chosen) < num:
            job = self._queue.popleft()
            evaluation = self.identify(job) if self.identify is not None else None
            if evaluation is not None and evaluation in pending:
                waiting.append(job)
                continue
            pending.add(evaluation)
            chosen[job.key] = (job, evaluation)
        self._queue.extendleft(reversed(waiting))

    def _reusable(
        self, jobs: Mapping[JobKey, tuple[Job, bytes | None]]
    ) -> list[tuple[Job, Outcome]]:
        """Returns the jobs whose equal was measured before, with its score."""
        evaluations = [evaluation for _, evaluation in jobs.values() if evaluation is not None]
        scores = self.store.cached(evaluations) if evaluations else {}
        scores |= self._fresh
        return [
            (
                job,
                Scored(
                    candidate=job.candidate,
                    attempt=job.attempt,
                    rows=job.rows,
                    block=job.block,
                    score=scores[evaluation],
                    seconds=0.0,
                    worker="cache",
                ),
            )
            for job, evaluation in jobs.values()
            if evaluation in scores
        ]

    def _take(self, state: State, outcome: Outcome, *, copied: bytes | None = None) -> State:
        if copied is None:
            if outcome.key not in self._in_flight:
                return state  # the same news twice
            evaluation = self._in_flight.pop(outcome.key)
            if evaluation is not None and isinstance(outcome, Scored):
                self._fresh[evaluation] = outcome.score
        step = campaigns.handle(self.campaign, state, outcome)
        self._turn.taken.append(
            Taken(
                outcome=outcome,
                final=step.final,
                cached=copied is not None,
                evaluation=copied,
                measured=step.measured,
            )
        )
        self._turn.judged.update(step.judged)
        self._sequence += 1
        self._remember(step)
        self._enqueue(step.jobs)
        self._news.append((step.state, outcome, step.final))
        return step.state

    def _enqueue(self, jobs: Sequence[Job]) -> None:
        """Queues jobs: a candidate's next block before others, as its model is still in place."""
        self._queue.extendleft(job for job in jobs if job.block and job.rows == "search")
        self._queue.extend(job for job in jobs if not (job.block and job.rows == "search"))

    def _commit(self, state: State) -> None:
        """Records the turn. Until this returns, nothing of it has been acted on."""
        if self._turn:
            self._turn.elapsed_s = self.elapsed_s()
            self._turn.generation = state.generation
            self.store.write(self._turn)
            self._turn = Turn()
            self._fresh.clear()
            for told, outcome, final in self._news:
                self.listener.on_outcome(told, outcome, final=final)
            self._news.clear()
        if self._sequence - self._last_snapshot >= self.snapshot_every:
            self._last_snapshot = self._sequence
            if snapshot.can_be_taken(self.campaign, state):
                data = snapshot.dump(self.campaign, state)
                shot = Snapshot(sequence=self._sequence, fingerprint=self._fingerprint, state=data)
                self.store.keep(shot)

    def _asked_to_stop(self) -> bool:
        if self.clock() - self._last_beat < HEARTBEAT_S:
            return False
        self._last_beat = self.clock()
        return self.store.beat()

    def _watch_time(self, state: State) -> State:
        if self.hours is None or state.phase != "search" or state.stop is not None:
            return state
        if self.elapsed_s() < 3600 * self.hours:
            return state
        dropped = [_key(job) for job in self._queue]
        self._queue.clear()
        step = campaigns.abandon(self.campaign, state, dropped)
        self._remember(step)  # an end may name references
        self._queue.extend(step.jobs)
        return step.state

    def _wind_down(self, state: State, executor: Executor) -> None:
        """Starts nothing new, and keeps what ends within the grace."""
        self.listener.on_interrupt(len(self._in_flight))
        deadline = self.clock() + GRACE_S
        while self._in_flight and (left := deadline - self.clock()) > 0:
            for outcome in executor.outcomes(min(left, _TICK_S)):
                state = self._take(state, outcome)
            self._commit(state)
        self._commit(state)

    def _remember(self, step: Step) -> None:
        """Notes new candidates for the turn; those already recorded must be the same."""
        for candidate in step.candidates:
            digest = self._known.get(candidate.id) or self._of_an_earlier_end(candidate)
            if digest is None:
                self._turn.candidates.append(candidate)
            elif digest != candidate.recipe.digest():
                raise MismatchError(
                    f"candidate {candidate.id} is not the one in the store: this version of shoal "
                    "or numpy proposes differently; go on with the one that started the campaign"
                )

    def _of_an_earlier_end(self, candidate: Candidate) -> str | None:
        """Returns the digest of a reference that only an end can name, if one has named it before.

        It may be of an earlier generation than a snapshot, after which the known ones begin.
        """
        if candidate.role != "reference":
            return None
        found = self.store.candidates([candidate.id]).get(candidate.id)
        return None if found is None else found.recipe.digest()

    def elapsed_s(self) -> float:
        """Returns the seconds that the campaign has run, earlier runs included."""
        return self.elapsed_before_s + self.clock() - self._started


def _key(job: Job) -> Key:
    return (job.candidate, job.rows)

"""Shows a running campaign: a bar on a terminal, plain lines elsewhere. Everything on stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from evaluators.base import DOCUMENTS
from orchestrator.campaign.state import Phase, State
from workers.job import Failed, Outcome

#: Seconds between plain lines.
_LINE_EVERY_S = 5.0
#: What the measurements after the search are for.
_ENDINGS: Mapping[Phase, str] = {
    "complete": "to measure finalists in full",
    "selection": "on selection rows",
    "test": "for the report",
}


@dataclass(slots=True)
class ProgressView:
    """A `Listener` that prints."""

    name: str
    #: Candidates to be measured in all, where the budget says so.
    expected: int | None
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    #: What the search rows consist of.
    counted_in: str = DOCUMENTS
    _bar: Progress | None = None
    _task: TaskID | None = None
    #: When the first outcome of this run came: starting up is not counted as slowness.
    _first_at: float | None = None
    _done_before: int = 0
    _done_at_first: int = 0
    _last_line: float = 0.0

    def on_start(self, state: State, resumed: int) -> None:
        """Says whether the campaign is new or goes on."""
        if resumed and state.phase != "done":
            self._say(
                f"{self.name}: going on after {state.num_scored + state.num_failed} candidates "
                f"of generation {state.generation}; nothing recorded is done again"
            )
        self._done_before = state.num_scored + state.num_failed

    def on_workers(self, slots: int) -> None:
        """Opens the bar."""
        self._say(f"{self.name}: starting, {slots} candidate{'s' if slots > 1 else ''} at a time")
        if self.console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("generation {task.fields[generation]}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "",
                total=self.expected,
                completed=self._done_before,
                generation=0,
                text="loading models",
            )
            self._bar.start()

    def on_outcome(self, state: State, outcome: Outcome, *, final: bool) -> None:
        """Moves the bar, or prints a line now and then."""
        if isinstance(outcome, Failed):
            again = "" if final else "; will be tried again"
            cause = outcome.cause.splitlines()[0][:200]
            self._say(f"{self.name}: {outcome.candidate} failed in {outcome.stage}: {cause}{again}")
        text = self._text(state)
        if self._bar is not None and self._task is not None:
            done = state.num_scored + state.num_failed
            self._bar.update(self._task, completed=done, generation=state.generation, text=text)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._say(f"{self.name}: generation {state.generation}, {text}")

    def on_interrupt(self, in_flight: int) -> None:
        """Says what happens now."""
        self._say(
            f"{self.name}: stopping; nothing new is started, {in_flight} in flight may end "
            "(press again to leave at once, nothing recorded is lost)"
        )

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _text(self, state: State) -> str:
        done = state.num_scored + state.num_failed
        of = f"/{self.expected}" if self.expected else ""
        parts = [f"{done}{of} measured"]
        winner = state.winner
        if winner is not None:
            label = winner.candidate.name or winner.candidate.id
            parts.append(f"best {winner.fitness:.4f} ({label})")
        if state.num_failed:
            parts.append(f"{state.num_failed} failed")
        parts += _saved(state, self.counted_in)
        if self._first_at is None:
            self._first_at, self._done_at_first = time.monotonic(), done
        seconds, fresh = time.monotonic() - self._first_at, done - self._done_at_first
        if fresh > 0 and seconds > 0:
            rate = fresh / seconds
            parts.append(f"{3600 * rate:.0f}/h")
            if self.expected and done < self.expected:
                parts.append(f"{_duration((self.expected - done) / rate)} left")
        if state.phase in _ENDINGS:
            parts.append(f"{len(state.open)} {_ENDINGS[state.phase]}")
        return ", ".join(parts)


def _saved(state: State, counted_in: str) -> list[str]:
    """Says what was not spent on candidates, where they are not all measured in full."""
    parts = [f"{state.num_stopped} stopped early"] if state.num_stopped else []
    if 0 < state.documents_spent < state.documents_full:
        share = state.documents_spent / state.documents_full
        parts.append(f"{share:.0%} of {counted_in} spent")
    return parts


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""A world in one integer: its time, its machines, its processes and what befalls them.

Nothing here takes real time, and nothing happens that the seed does not decide, so that a run can
be repeated to the last statement.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What the clock on the wall shows when a world begins (seconds since 1970).
_BEGINNING = 1_800_000_000.0
#: Seconds that one world may take; campaigns take some hundred.
_PATIENCE_S = 500_000.0


class Broken(AssertionError):  # noqa: N818  (it is no error of the program's)
    """A law that was broken, and how."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(f"{law}: {detail}")
        self.law = law


class Crash(BaseException):
    """The process is killed. Nothing may catch this but the world."""


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that will go wrong in a process."""

    kind: str
    #: At the first fitting step from here on: statements, commits and jobs sent are steps.
    step: int


@dataclass(eq=False, slots=True)
class Process:
    """A driver's process: who it is, how far it got, and what will befall it."""

    number: int
    #: What the machine knows it by.
    pid: int
    machine: str
    campaign: str
    plan: Any
    blows: list[Blow] = field(default_factory=list)
    steps: int = 0
    dead: bool = False
    #: Whether another driver has taken its campaign over.
    zombie: bool = False
    #: Whether it was told of a failing disk, so that it may end for it.
    hurt: bool = False
    #: While it drives.
    driver: Any = None
    fleet: Any = None
    #: What its campaign was when it was done.
    state: Any = None
    #: What was in the file when it had lost its campaign, and how many processes there had been.
    last_words: tuple[int, Any] | None = None
    #: Stops it for long, somewhere between its transactions.
    pause: Callable[[], None] = lambda: None
    connections: list[Any] = field(default_factory=list)

    @property
    def born(self) -> str:
        """When the kernel says that it started: no two processes of a world share it."""
        return f"birth of {self.number}"

    def due(self, *kinds: str) -> str | None:
        """Counts a step; returns what befalls the process at it, if that is of these kinds."""
        self.steps += 1
        for blow in self.blows:
            if self.steps >= blow.step and blow.kind in kinds:
                self.blows.remove(blow)
                return blow.kind
        return None

    def die(self) -> None:
        """Is killed; what it had not committed is gone with it."""
        self.dead = True
        self.exit()

    def exit(self) -> None:
        """Whatever it has open is closed by the system."""
        for connection in self.connections:
            connection.close()


@dataclass(slots=True)
class Node:
    """A machine with evaluators."""

    name: str
    alive: bool = True
    slow: bool = False


class World:
    """Owns time, and everything that is decided by chance."""

    def __init__(self, seed: int, folder: Path, *, verbose: bool = False) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.folder = folder
        self.path = folder / f"store-{seed}.db"
        self.now = 0.0
        #: What jumps of the clock on the wall add up to.
        self.jumped_s = 0.0
        self.nodes: list[Node] = []
        self.processes: list[Process] = []
        #: The processes that run inside one another: the last one has the processor.
        self.running: list[Process] = []
        self.log: list[str] = []
        self.verbose = verbose
        #: What befell, by kind: faults that never happen prove nothing.
        self.befell: Counter[str] = Counter()
        #: (campaign, candidate, rows, block) -> attempts that were spoilt by no fault of its own.
        self.spoilt: Counter[tuple[str, str, str, int]] = Counter()
        #: Whether candidates that failed for good have been mended, by the user who retries them.
        self.mended = False
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0

    # Time.

    def clock(self) -> float:
        """Seconds on the clock that never jumps."""
        return self.now

    def wall(self) -> float:
        """Seconds since 1970, as far as the clock on the wall can be trusted."""
        return _BEGINNING + self.now + self.jumped_s

    def at(self, time_s: float, deed: Callable[[], None]) -> None:
        """Puts a deed on the agenda."""
        self._entries += 1
        heapq.heappush(self._agenda, (time_s, self._entries, deed))

    def after(self, delay_s: float, deed: Callable[[], None]) -> None:
        """Puts a deed on the agenda, some seconds from now."""
        self.at(self.now + delay_s, deed)

    def tick(self, until_s: float) -> bool:
        """Does the next deed that is due by then; if there is none, it is then, and False."""
        if self._agenda and self._agenda[0][0] <= until_s:
            time_s, _, deed = heapq.heappop(self._agenda)
            self.now = max(self.now, time_s)
            deed()
            return True
        self.now = max(self.now, until_s)
        if self.now > _PATIENCE_S:
            raise Broken("the campaign ends", f"it goes on after {self.now:g} s")
        return False

    def sleep(self, delay_s: float) -> None:
        """Lets time pass while no process looks."""
        until = self.now + delay_s
        while self.tick(until):
            pass

    # Chance.

    def chance(self, share: float) -> bool:
        """Whether something of this likelihood happens."""
        return self.random.random() < share

    def note(self, text: str) -> None:
        """Writes down what happens, for whoever looks at a seed."""
        who = f"p{self.running[-1].number}" if self.running else "--"
        self.log.append(f"{self.now:10.3f} {who:>4} {text}")
        if self.verbose:
            sys.stdout.write(self.log[-1] + "\n")

    def happen(self, kind: str, detail: str = "") -> None:
        """Notes that something went wrong."""
        self.befell[kind] += 1
        self.note(f"** {kind} {detail}".rstrip())

    # Processes.

    @property
    def current(self) -> Process | None:
        """The process that has the processor, if one has."""
        return self.running[-1] if self.running else None

    @property
    def here(self) -> Process:
        """The process that has the processor."""
        return self.running[-1]

    def birth(self, pid: int) -> str:
        """When a process of the machine that runs now started; empty if there is none."""
        for process in self.running:
            if (process.machine, process.pid) == (self.here.machine, pid) and not process.dead:
                return process.born
        return ""

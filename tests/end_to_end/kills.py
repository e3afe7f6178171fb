"""Kills campaigns on Ray again and again until they end, and compares them with one left in peace.

    python tests/end_to_end/kills.py --kills 100

The moments are drawn from a seed: while Ray and the evaluators start, while candidates are being
measured, and while the end is written down. Each campaign is killed a dozen times and then left to
end; in each one the evaluators are killed once, too, under a driver that lives.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import stories

#: Kills of one campaign, at most and at least.
DOZEN, LEAST = 12, 5
#: What is asked of the campaign beside the small settings of the other stories.
LONGER = ("budget.generations=6",)
#: Seconds that a campaign may take to get to the next moment.
_PATIENCE_S = 240.0


@dataclass(frozen=True)
class Moment:
    """When a driver is killed: so many seconds after some place has been reached."""

    #: `start`, `measuring` or `end`.
    place: str
    seconds: float
    #: Outcomes that must have come since the start, for `measuring`.
    outcomes: int = 0
    #: Whether the evaluators are killed first, and the driver after one more outcome.
    evaluators: bool = False


@dataclass
class Torment:
    """One campaign and what was done to it."""

    folder: Path
    seed: int
    log: Callable[[str], None] = lambda line: None
    killed: list[Moment] = field(default_factory=list)
    #: What every process of ours has in its environment, however it came to be.
    mark: str = field(default_factory=lambda: f"shoal-kills-{uuid.uuid4().hex}")

    @property
    def store(self) -> Path:
        return self.folder / "shoal.db"

    def run(self, num: int) -> None:
        """Kills the campaign `num` times, and leaves it to end."""
        self.log(f"a campaign to be killed {num} times, seed {self.seed}")
        random_ = random.Random(self.seed)  # the campaign's own randomness is not touched by it
        for moment in moments(random_, num):
            process = self._start(evaluators=random_.choice([1, 2]))
            self._wait_and_kill(process, moment)
        process = self._start(evaluators=2)
        assert process.wait(_PATIENCE_S) == 0, self._said()

    def _start(self, evaluators: int) -> subprocess.Popen[bytes]:
        more = (*LONGER, f"cluster.evaluators={evaluators}")
        arguments = stories.settings(self.folder, *more, address="local")
        with (self.folder / "stderr").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli", "run", *arguments],
                cwd=stories.ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "SHOAL_KILLS_MARK": self.mark},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def _wait_and_kill(self, process: subprocess.Popen[bytes], moment: Moment) -> None:
        before = stories.measured(self.store)
        if moment.place == "measuring":
            self._until(process, lambda: stories.measured(self.store) >= before + moment.outcomes)
        elif moment.place == "end":
            self._until(process, lambda: self._num_tested() > 0)
        time.sleep(moment.seconds)
        if moment.evaluators:
            self._kill_evaluators(process)
        assert process.poll() is None, f"it ended before it could be killed: {self._said()}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.killed.append(moment)
        self.log(
            f"kill {len(self.killed)}, {moment}: {before} outcomes before, "
            f"{stories.measured(self.store)} after"
        )

    def _kill_evaluators(self, process: subprocess.Popen[bytes]) -> None:
        """Kills all that the raylet started, and waits until their successors have done some."""
        workers = [pid for pid in stories.children(process.pid) if "ray::" in stories.title(pid)]
        assert stories.actors(process.pid)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        self.log(f"killed {len(workers)} workers of Ray")
        before = stories.measured(self.store)
        self._until(process, lambda: stories.measured(self.store) > before)

    def _until(self, process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not reached():
            assert process.poll() is None, self._said()
            assert time.monotonic() < deadline, "the campaign makes no progress"
            time.sleep(0.01)

    def _num_tested(self) -> int:
        return stories.count(self.store, "SELECT count(*) FROM attempt WHERE rows = 'test'")

    def _said(self) -> str:
        return (self.folder / "stderr").read_text()[-2000:]

    def verify(self, expected: dict) -> None:
        """What must be true of a campaign however often it was killed."""
        assert stories.search(self.folder) == expected
        tries: dict[tuple[str, str], list[tuple]] = {}
        query = "SELECT candidate, rows, state, sequence, kind, final, cached FROM attempt"
        for candidate, rows, *facts in stories.rows(self.store, f"{query} ORDER BY id"):
            tries.setdefault((candidate, rows), []).append(tuple(facts))
        for key, attempts in tries.items():
            *others, (state, sequence, *_) = attempts
            assert (state, sequence is not None) == ("scored", True), (key, attempts)
            for state, sequence, kind, final, _ in others:
                lost_with_driver = (state, sequence, kind, final) == ("lost", None, None, None)
                lost_alone = (state, kind, final) == ("failed", "lost", 0)
                assert lost_with_driver or lost_alone, (key, attempts)
        assert len(tries) == sum(len(facts[3]) for facts in expected.values())
        checked = stories.call("db", "check", "--store", self.store, "--json")
        assert (checked.code, checked.data["problems"]) == (0, [])
        status = stories.call("status", "--store", self.store, "--json").data
        assert (status["state"], status["failed"], status["in_flight"]) == ("finished", 0, 0)
        found = {path.name for path in (self.folder / "out").iterdir()}
        assert found == {"best", "recipe.yaml", "report.md", "fitness.png"}
        left = stories.left_of(marked(self.mark))
        assert not left, {pid: stories.title(pid) for pid in left}


def moments(random_: random.Random, num: int) -> list[Moment]:
    """Draws moments: some at the start, most while measuring, and the last ones at the end."""
    num_end, num_start = max(1, num // 6), 2 * num // 5
    start = [Moment("start", random_.uniform(0.5, 14.0)) for _ in range(num_start)]
    measuring = [
        Moment("measuring", random_.uniform(0.0, 0.1), random_.randint(1, 2), evaluators=n == 1)
        for n in range(num - num_start - num_end)
    ]
    early = [*start, *measuring]
    random_.shuffle(early)
    # The first one at the end comes while test rows are measured, others may find it all done.
    end = [Moment("end", random_.uniform(0.0, 0.1) if n == 0 else random_.uniform(0.0, 3.0))
           for n in range(num_end)]  # fmt: skip
    return [*early, *end]


def marked(mark: str) -> list[int]:
    """Processes that have a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def undisturbed(folder: Path) -> dict:
    """The same campaign in this process, run once to its end."""
    ended = stories.call("run", *stories.settings(folder, *LONGER))
    assert ended.code == 0, ended.stderr
    return stories.search(folder)


def torment_all(folder: Path, num: int, seed: int, log: Callable[[str], None]) -> int:
    """Kills campaign after campaign, and says how often that was."""
    whole = folder / "undisturbed"
    whole.mkdir()
    expected = undisturbed(whole)
    done = 0
    while done < num:
        own = folder / f"killed-{done}"
        own.mkdir()
        torment = Torment(own, seed + done, log)
        torment.run(max(LEAST, min(DOZEN, num - done)))
        torment.verify(expected)
        done += len(torment.killed)
        log(f"{done} kills, and the search is the same")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    os.chdir(stories.ROOT)
    os.environ["HF_HUB_OFFLINE"] = "1"

    def log(line: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        torment_all(Path(folder), asked.kills, asked.seed, log)


if __name__ == "__main__":
    main()

"""What the stories are told with: a small campaign, its commands, its processes, its records."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = "examples/quickstart.yaml"
#: The example's own numbers may be tuned; these stories keep theirs.
SMALL = (
    "seed=7",
    "space.layer_groups=2",
    "space.filters=[self_attn, mlp]",
    "space.bounds={weight: [-0.5, 1.5], density: [0.1, 1.0]}",
    "space.method=ties",
    "search.population_size=4",
    "search.elites=2",
    "budget={generations: 2}",
    "evaluate.limit=24",
)


def settings(folder: Path, *more: str, address: str = "inline") -> list[str]:
    """The arguments of a small campaign whose store and output lie in a folder."""
    place = (f"cluster.address={address}", f"store={folder}/shoal.db", f"output={folder}/out")
    values = [*SMALL, *place, *more]
    return [QUICKSTART, *(word for value in values for word in ("--set", value))]


def patient(
    folder: Path, *more: str, address: str = "inline", seconds: float = 0.0, obstacle: str = ""
) -> list[str]:
    """The same with an evaluator that needs no tasks and takes a time of our choice."""
    place = (f"cluster.address={address}", f"store={folder}/shoal.db", f"output={folder}/out")
    evaluator = (
        f"evaluate={{kind: story_evaluators:Patient, seconds: {seconds}, obstacle: '{obstacle}'}}"
    )
    values = [*SMALL[:-1], evaluator, *place, *more]
    return [QUICKSTART, *(word for value in values for word in ("--set", value))]


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        return json.loads(self.stdout)


def call(*arguments: object) -> Ended:
    """Runs a command in this process."""
    from orchestrator import cli

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            return Ended(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a command ends by its exit code")


def spawn(*arguments: object) -> subprocess.Popen[str]:
    """Starts a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(store: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a store answers."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()


def count(store: Path, query: str) -> int:
    """The number that a store answers; 0 while it is not there yet."""
    try:
        return int(rows(store, query)[0][0]) if store.is_file() else 0
    except sqlite3.OperationalError:
        return 0


def measured(store: Path) -> int:
    """How many outcomes a store has."""
    return count(store, "SELECT count(*) FROM attempt WHERE sequence IS NOT NULL")


def until_measured(process: subprocess.Popen[str], store: Path, num: int) -> None:
    """Waits until a running campaign has recorded `num` outcomes."""
    deadline = time.monotonic() + 200
    while measured(store) < num:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the campaign makes no progress"
        time.sleep(0.02)


#: What decided about a candidate, on either kind of rows.
_ACCEPTED = "state = 'scored' OR (final = 1 AND retried = 0)"


def search(
    folder: Path, name: str = "quickstart", *, until: int = 2**31, kinds: str = "search test"
) -> dict[str, tuple[Any, ...]]:
    """Candidate -> its place, and all that must not depend on where or when it was measured.

    Of generations up to `until`; measured on these kinds of rows.
    """

    def of_campaign(columns: str, table: str, condition: str, order: str) -> list[tuple[Any, ...]]:
        mine = "campaign = (SELECT id FROM campaign WHERE name = ?)"
        query = f"SELECT {columns} FROM {table} WHERE {mine} AND ({condition}) ORDER BY {order}"
        return rows(folder / "shoal.db", query, name)

    columns = "id, role, number, generation, name, genome, recipe, digest, operator"
    candidates = of_campaign(columns, "candidate", f"generation <= {until}", "rowid")
    on_rows = "rows IN ('{}')".format("', '".join(kinds.split()))
    beside = (
        of_campaign("child, place, parent, role", "parentage", "1", "place"),
        of_campaign(
            "candidate, rows, block, state, final, fitness, fidelity, stopped, evaluation, cause",
            "attempt",
            f"({_ACCEPTED}) AND {on_rows}",
            "rows, block",
        ),
        of_campaign(
            "candidate, rows, block, task, value, stderr, documents, weight, harness, "
            "per_document, log_likelihoods",
            "score",
            on_rows,
            "rows, block, task",
        ),
    )
    return {
        id_: (place, facts, *(tuple(one[1:] for one in table if one[0] == id_) for table in beside))
        for place, (id_, *facts) in enumerate(candidates)
    }


def children(pid: int) -> dict[int, int]:
    """Process -> parent, of everything below a process."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    below, found = {pid}, {}
    while True:
        more = {one: parent for one, parent in parents.items() if parent in below}
        if set(more) == set(found):
            return found
        found, below = more, below | set(more)


def title(pid: int) -> str:
    """What a process is called: Ray titles those that run an actor by its class."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def actors(pid: int) -> list[int]:
    """Processes below one that run an evaluator for Ray."""
    return [child for child in children(pid) if title(child).startswith("ray::Actor")]


def left_of(pids: Iterable[int], *, within_s: float = 60.0) -> set[int]:
    """Which of these processes are still there, if they do not all end in time."""
    deadline = time.monotonic() + within_s
    left = set(pids)
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if not _has_ended(pid)}
        time.sleep(0.1)
    return left


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

"""A small campaign of the example models, run through the command line."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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
    values = [
        *SMALL,
        f"cluster.address={address}",
        f"store={folder}/shoal.db",
        f"output={folder}/out",
        *more,
    ]
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


def call(*arguments: str) -> Ended:
    """Runs a command in this process."""
    from orchestrator import cli

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return Ended(int(end.value.code or 0), out.getvalue(), err.getvalue())


def spawn(*arguments: str) -> subprocess.Popen[str]:
    """Starts a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def measured(store: Path) -> int:
    """How many outcomes a store has; 0 while it is not there yet."""
    if not store.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            query = "SELECT count(*) FROM attempt WHERE sequence IS NOT NULL"
            return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def until_measured(process: subprocess.Popen[str], store: Path, num: int) -> None:
    """Waits until a running campaign has recorded `num` outcomes."""
    deadline = time.monotonic() + 200
    while measured(store) < num:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the campaign makes no progress"
        time.sleep(0.02)


def search(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Candidate -> everything that must not depend on where or when it was measured."""
    with closing(sqlite3.connect(folder / "shoal.db")) as connection:
        rows = connection.execute(
            "SELECT id, role, generation, genome, digest, operator, state, fitness FROM candidate"
        ).fetchall()
        tasks = connection.execute(
            "SELECT candidate, rows, task, value, stderr, per_document FROM score"
            " ORDER BY candidate, rows, task"
        ).fetchall()
        family = connection.execute("SELECT child, place, parent FROM parentage").fetchall()
    return {
        row[0]: (
            row[1:],
            tuple(task[1:] for task in tasks if task[0] == row[0]),
            tuple(sorted(one[1:] for one in family if one[0] == row[0])),
        )
        for row in rows
    }


@pytest.fixture(scope="session")
def shoal() -> SimpleNamespace:
    """What the stories are told with."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    tools = (settings, call, spawn, until_measured, measured, search)
    return SimpleNamespace(**{tool.__name__: tool for tool in tools})


@dataclass(frozen=True)
class Finished:
    folder: Path
    ended: Ended

    @property
    def store(self) -> list[str]:
        return ["--store", f"{self.folder}/shoal.db"]


@pytest.fixture(scope="session")
def finished(shoal, tmp_path_factory) -> Finished:
    """The small campaign, run once to its end without a break."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return Finished(folder, shoal.call("run", *shoal.settings(folder), "--json"))

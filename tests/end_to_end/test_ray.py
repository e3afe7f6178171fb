"""The small campaign on a real Ray cluster of this machine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("in_root")]

LONG = ("budget.generations=4",)


@pytest.fixture(scope="module")
def inline(shoal, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("inline")
    ended = shoal.call("run", *shoal.settings(folder, *LONG))
    assert ended.code == 0, ended.stderr
    return shoal.search(folder)


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


def actors(pid: int) -> list[int]:
    """Processes of our own cluster that run an evaluator; Ray titles them by their class."""
    found = []
    for child in children(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if title.startswith("ray::Actor"):
            found.append(child)
    return found


@pytest.mark.parametrize("evaluators", [1, 2])
def test_ray_gives_the_same_search_as_this_process(shoal, inline, tmp_path, evaluators):
    more = (*LONG, f"cluster.evaluators={evaluators}")
    process = shoal.spawn("run", *shoal.settings(tmp_path, *more, address="local"))
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert shoal.search(tmp_path) == inline


def test_an_evaluator_that_is_killed_is_replaced_and_the_search_is_the_same(
    shoal, inline, tmp_path
):
    process = shoal.spawn("run", *shoal.settings(tmp_path, *LONG, address="local"))
    shoal.until_measured(process, tmp_path / "shoal.db", 4)
    running = actors(process.pid)
    assert running
    os.kill(running[0], signal.SIGKILL)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert shoal.search(tmp_path) == inline


def test_a_killed_driver_is_run_again_to_the_same_search_and_leaves_no_process(
    shoal, inline, tmp_path
):
    arguments = ("run", *shoal.settings(tmp_path, *LONG, address="local"))
    first = shoal.spawn(*arguments)
    shoal.until_measured(first, tmp_path / "shoal.db", 5)
    cluster = set(children(first.pid))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)

    second = shoal.spawn(*arguments)
    _, err = second.communicate(timeout=280)
    assert second.returncode == 0, err
    assert "going on after" in err
    assert shoal.search(tmp_path) == inline

    deadline = time.monotonic() + 60
    left = cluster
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if Path(f"/proc/{pid}").exists() and not zombie(pid)}
        time.sleep(0.2)
    assert not left, "the dead driver's cluster is still there"


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

"""The small campaign on a real Ray cluster of this machine."""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("in_root")]

LONG = ("budget.generations=4",)


@pytest.fixture(scope="module")
def inline(shoal, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("inline")
    ended = shoal.call("run", *shoal.settings(folder, *LONG))
    assert ended.code == 0, ended.stderr
    return shoal.search(folder)


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
    running = shoal.actors(process.pid)
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
    cluster = set(shoal.children(first.pid))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)

    second = shoal.spawn(*arguments)
    _, err = second.communicate(timeout=280)
    assert second.returncode == 0, err
    assert "going on after" in err
    assert shoal.search(tmp_path) == inline

    assert not shoal.left_of(cluster), "the dead driver's cluster is still there"


@pytest.mark.parametrize("place", ["gcs_server", "raylet", "ray::"])
@pytest.mark.parametrize("delay", [0.0, 0.7])
def test_sigterm_while_ray_starts_ends_in_seconds_with_its_own_exit_code(
    shoal, tmp_path, place, delay
):
    """Ray puts handlers of its own in place of ours: one exits, the other aborts after 3 s."""
    process = shoal.spawn("run", *shoal.patient(tmp_path, address="local", seconds=60))
    deadline = time.monotonic() + 100
    while not any(place in shoal.title(pid) for pid in shoal.children(process.pid)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    below = shoal.children(process.pid)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert time.monotonic() - started < 10
    assert "stopped by SIGTERM; go on with: shoal resume quickstart" in err
    assert not shoal.left_of(below, within_s=15)

"""Whatever runs the jobs, the outcomes are the same: each job's exactly once."""

from __future__ import annotations

import importlib
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.dispatch import DispatchingExecutor
from cluster.executor import ExecutorError
from cluster.inline import InlineExecutor
from cluster.open import open_executor
from cluster.resources import Cluster
from evaluators.lm_harness import LmHarness, Objective
from workers.builders.settings import MergeSettings
from workers.job import Failed, Job, Scored
from workers.recipe import MergeRecipe, Setting, Slice
from workers.run import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]

addresses = pytest.mark.parametrize(
    "address", ["inline", "pool", pytest.param("local", marks=pytest.mark.ray, id="ray")]
)
with_processes = pytest.mark.parametrize(
    "address", ["pool", pytest.param("local", marks=pytest.mark.ray, id="ray")]
)


@pytest.fixture
def fakes(monkeypatch):
    """The module of fake workers, importable here and in every process started from here."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    return importlib.import_module("fake_workers")


def job(candidate, *, attempt=1, rows="search", recipe=None):
    empty = MergeRecipe(method="linear", sources=("a",), base="b", slices=(), dtype="float32")
    return Job(candidate=candidate, attempt=attempt, rows=rows, recipe=recipe or empty)


def run(address, settings, jobs, **changes):
    """Submits all jobs and collects until each has its outcome."""
    options = {"evaluators": 1, "gpus_per_evaluator": 0, "timeout_s": 120, **changes}
    executor = open_executor(Cluster(address=address, **options), settings)
    try:
        for each in jobs:
            executor.submit(each)
        found = []
        for _ in range(400):
            found += executor.outcomes(1.0)
            if len(found) >= len(jobs):
                break
        found += executor.outcomes(0.0)
    finally:
        executor.close()
    return found


def by_key(outcomes):
    found = {one.key: one for one in outcomes}
    assert len(found) == len(outcomes), "an outcome came twice"
    return found


@addresses
def test_every_job_gets_its_own_outcome(fakes, address):
    jobs = [
        job("value-0.5"),
        job("value-0.25", rows="test"),
        job("value-0.5", rows="test"),
        job("value-0.5", attempt=2),
        job("fail-bad"),
        job("value--3"),
    ]
    found = by_key(run(address, fakes.FakeSettings(), jobs, evaluators=2))
    assert set(found) == {each.key for each in jobs}
    failed = found.pop(("fail-bad", "search", 0, 1))
    assert (failed.stage, failed.cause, failed.retryable) == ("build", "ValueError: bad", False)
    for (candidate, *_), outcome in found.items():
        assert isinstance(outcome, Scored)
        assert outcome.score.fitness == float(candidate.removeprefix("value-"))


@with_processes
def test_a_job_that_kills_its_process_fails_and_the_others_do_not(fakes, address):
    jobs = [job("die-3"), job("value-1"), job("value-2")]
    found = by_key(run(address, fakes.FakeSettings(), jobs))
    dead = found[("die-3", "search", 0, 1)]
    assert isinstance(dead, Failed)
    assert (dead.stage, dead.kind, dead.retryable) == ("worker", "lost", True)
    assert dead.cause
    assert dead.node.startswith(socket.gethostname()), "so that the next attempt avoids it"
    if address == "pool":
        assert dead.cause == "worker process ended with exit code 3"
    others = [found[("value-1", "search", 0, 1)], found[("value-2", "search", 0, 1)]]
    assert all(isinstance(outcome, Scored) for outcome in others)
    assert dead.worker not in {outcome.worker for outcome in others}


@with_processes
def test_a_job_that_hangs_is_ended_and_the_next_one_runs(fakes, address):
    jobs = [job("hang-"), job("value-1")]
    found = by_key(run(address, fakes.FakeSettings(), jobs, timeout_s=2))
    hung = found[("hang-", "search", 0, 1)]
    assert (hung.stage, hung.kind, hung.retryable) == ("evaluate", "timeout", True)
    assert hung.node.startswith(socket.gethostname())
    assert "timed out after 2 s" in hung.cause
    assert isinstance(found[("value-1", "search", 0, 1)], Scored)


@with_processes
def test_workers_that_cannot_open_end_the_run_with_the_reason(fakes, address):
    settings = fakes.FakeSettings(refuse="model folder 'm' does not exist")
    with pytest.raises(ExecutorError, match="model folder 'm' does not exist"):
        run(address, settings, [job("value-1")])


def test_inline_passes_on_why_its_worker_cannot_open(fakes):
    executor = InlineExecutor(fakes.FakeSettings(refuse="no such folder"))
    executor.submit(job("value-1"))
    with pytest.raises(ValueError, match="no such folder"):
        executor.outcomes(1.0)


@addresses
def test_the_number_of_slots_is_what_was_asked_for(fakes, address):
    cluster = Cluster(address=address, evaluators=1, gpus_per_evaluator=0)
    executor = open_executor(cluster, fakes.FakeSettings())
    try:
        assert executor.slots == 1
        if address == "pool":
            assert isinstance(executor, DispatchingExecutor)
    finally:
        executor.close()


@addresses
def test_closing_forgets_what_was_queued(fakes, address):
    cluster = Cluster(address=address, evaluators=1, gpus_per_evaluator=0)
    executor = open_executor(cluster, fakes.FakeSettings())
    executor.submit(job("hang-"))
    executor.close()


@pytest.fixture
def real(monkeypatch):
    """Settings of a worker on the example models and tasks."""
    monkeypatch.chdir(ROOT)
    threads = torch.get_num_threads()
    yield WorkerSettings(
        builder=MergeSettings(base="examples/models/base", dtype="float32"),
        evaluator=LmHarness(
            tasks=(Objective(name="skill_a_search", metric="acc"),),
            test=("skill_a_test",),
            include_path="examples/tasks",
            limit=24,
        ),
        threads=1,
        folder=str(ROOT),
        device="cpu",
    )
    torch.set_num_threads(threads)


def merge_jobs():
    def recipe(*weights):
        settings = (Setting(filter=None, values={"weight": weights}),)
        return MergeRecipe(
            method="task_arithmetic",
            sources=("examples/models/a", "examples/models/b"),
            base="examples/models/base",
            slices=(Slice(start=0, stop=4, settings=settings),),
            dtype="float32",
        )

    mixes = [(1.0, 0.0), (0.5, 0.5), (0.0, 0.0), (0.3, 0.4)]
    jobs = [job(f"c{place}", recipe=recipe(*mix)) for place, mix in enumerate(mixes)]
    broken = job("broken", recipe=recipe(1.0, 2.0, 3.0))
    return [*jobs, broken, job("c1", rows="test", recipe=recipe(0.5, 0.5))]


@pytest.mark.slow
@with_processes
def test_real_jobs_have_the_outcomes_they_have_inline(real, address):
    inline = by_key(run("inline", real, merge_jobs()))
    other = by_key(run(address, real, merge_jobs(), evaluators=2))

    def alike(outcomes):
        where = {"seconds": 0.0, "worker": "", "node": ""}
        return {key: replace(o, **where) for key, o in outcomes.items()}

    assert alike(other) == alike(inline)
    kinds = {key[0]: type(outcome) for key, outcome in inline.items()}
    assert kinds.pop("broken") is Failed
    assert set(kinds.values()) == {Scored}
    assert len({o.score.fitness for o in inline.values() if isinstance(o, Scored)}) > 2
    assert "ValueError" in inline["broken", "search", 0, 1].log
    for outcome in other.values():
        assert outcome.node.startswith(socket.gethostname())
        assert (outcome.device, outcome.accelerator_seconds) == ("cpu", 0.0)


@pytest.mark.ray
def test_a_process_can_start_one_ray_cluster_after_another(fakes):
    for _ in range(2):
        (outcome,) = run("local", fakes.FakeSettings(), [job("value-1")])
        assert isinstance(outcome, Scored)

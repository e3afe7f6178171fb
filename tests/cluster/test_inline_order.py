"""The inline executor answers newest first, so that nothing can rely on the order."""

from __future__ import annotations

import time

from cluster.inline import InlineExecutor
from workers.job import Job
from workers.recipe import MergeRecipe

RECIPE = MergeRecipe(method="linear", sources=("a",), base="base", slices=(), dtype="float32")


class Settings:
    """Opens workers whose outcome is the job itself."""

    def __init__(self):
        self.opened = 0

    def open(self, name, node=""):
        self.opened += 1
        return self

    def run(self, job):
        return job.candidate


def submit(executor, *names):
    for name in names:
        executor.submit(Job(candidate=name, attempt=1, rows="search", recipe=RECIPE))


def test_the_newest_job_is_answered_first():
    executor = InlineExecutor(Settings())
    submit(executor, "c1", "c2", "c3")
    assert executor.outcomes(0.0) == ["c3"]
    submit(executor, "c4")
    assert [executor.outcomes(0.0) for _ in range(4)] == [["c4"], ["c2"], ["c1"], []]


def test_a_worker_is_opened_once_and_only_when_there_is_a_job():
    settings = Settings()
    executor = InlineExecutor(settings)
    assert executor.outcomes(0.0) == []
    assert settings.opened == 0
    submit(executor, "c1", "c2")
    executor.outcomes(0.0)
    executor.outcomes(0.0)
    assert settings.opened == 1


def test_closing_forgets_the_queue():
    executor = InlineExecutor(Settings())
    submit(executor, "c1")
    executor.close()
    assert executor.outcomes(0.0) == []
    assert executor.slots == 1


def test_jobs_that_take_no_time_are_answered_together_and_newest_first():
    executor = InlineExecutor(Settings(), at_once=3)
    assert executor.slots == 3
    submit(executor, "c1", "c2", "c3", "c4")
    assert executor.outcomes(0.0) == ["c4", "c3", "c2"]
    assert executor.outcomes(0.0) == ["c1"]
    assert executor.outcomes(0.0) == []


def test_a_job_that_takes_its_time_is_answered_by_itself():
    class Slow(Settings):
        def run(self, job):
            time.sleep(0.15)
            return job.candidate

    executor = InlineExecutor(Slow(), at_once=3)
    submit(executor, "c1", "c2")
    assert executor.outcomes(0.0) == ["c2"]
    assert executor.outcomes(0.0) == ["c1"]

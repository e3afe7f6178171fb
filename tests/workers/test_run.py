"""A worker: whatever a candidate does, an outcome comes back."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, replace

import pytest
import torch

from evaluators.base import Score, TaskScore
from workers.job import Failed, Job, Scored
from workers.recipe import MergeRecipe
from workers.run import WorkerSettings

SCORE = Score(fitness=0.5, tasks={"t": TaskScore(value=0.5, stderr=None, documents=2)})
RECIPE = MergeRecipe(method="linear", sources=("a",), base="base", slices=(), dtype="float32")


@dataclass
class Scripted:
    """A builder and an evaluator in one, each raising what it was told to."""

    build_error: BaseException | None = None
    evaluate_error: BaseException | None = None
    resident: str = "model"
    calls: list = field(default_factory=list)

    def open(self, given):
        self.calls.append(("open", given))
        return self

    def build(self, recipe):
        self.calls.append(("build", recipe))
        if self.build_error is not None:
            raise self.build_error

    def evaluate(self, rows, *, documents=None, halvings=0):
        self.calls.append(("evaluate", rows, halvings))
        self.documents = documents
        if self.evaluate_error is not None:
            raise self.evaluate_error
        return SCORE


@pytest.fixture
def open_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a worker changes the working folder; this changes it back

    def open_it(script, node="", **changes):
        fields = {"threads": 1, "folder": str(tmp_path), "device": "cpu", **changes}
        return WorkerSettings(builder=script, evaluator=script, **fields).open("w-1", node)

    return open_it


def job(rows="search"):
    return Job(candidate="c1", attempt=2, rows=rows, recipe=RECIPE)


@pytest.mark.parametrize("rows", ["search", "test"])
def test_a_candidate_is_built_then_scored_on_the_rows_asked_for(open_worker, rows):
    script = Scripted()
    outcome = open_worker(script).run(job(rows))
    assert script.calls[2:] == [("build", RECIPE), ("evaluate", rows, 0)]
    assert isinstance(outcome, Scored)
    assert (outcome.candidate, outcome.attempt, outcome.rows) == ("c1", 2, rows)
    assert (outcome.score, outcome.worker) == (SCORE, "w-1")
    assert outcome.seconds >= 0


def test_the_evaluator_is_opened_on_the_builders_model_and_the_builder_on_the_device(open_worker):
    script = Scripted()
    open_worker(script)
    assert script.calls == [("open", "cpu"), ("open", "model")]


def test_a_job_is_evaluated_in_batches_as_small_as_it_says(open_worker):
    script = Scripted()
    open_worker(script).run(replace(job(), halvings=3))
    assert script.calls[-1] == ("evaluate", "search", 3)


@pytest.mark.parametrize("error", [None, ValueError("bad")])
def test_an_outcome_tells_where_it_came_from_and_what_it_cost(open_worker, error):
    worker = open_worker(Scripted(evaluate_error=error), node="n7", accelerators=0.5)
    outcome = worker.run(job())
    assert (outcome.worker, outcome.node, outcome.device) == ("w-1", "n7", "cpu")
    assert outcome.accelerator_seconds == 0.5 * outcome.seconds


def test_a_worker_that_is_told_no_node_names_this_machine(open_worker):
    outcome = open_worker(Scripted()).run(job())
    assert (outcome.node, outcome.accelerator_seconds) == (socket.gethostname(), 0.0)


@pytest.mark.parametrize("stage", ["build", "evaluate"])
def test_an_error_becomes_a_failure_with_its_stage_and_cause(open_worker, stage):
    error = ValueError("tensor 'x' is not finite")
    outcome = open_worker(Scripted(**{f"{stage}_error": error})).run(job())
    assert isinstance(outcome, Failed)
    assert (outcome.candidate, outcome.attempt, outcome.rows) == ("c1", 2, "search")
    assert outcome.stage == stage
    assert outcome.cause.startswith("ValueError: tensor 'x' is not finite (")
    assert "test_run.py:" in outcome.cause
    assert not outcome.retryable
    assert outcome.kind == "error"
    assert outcome.log.startswith("Traceback (most recent call last):")
    assert outcome.log.rstrip().endswith("ValueError: tensor 'x' is not finite")


@pytest.mark.parametrize("stage", ["build", "evaluate"])
@pytest.mark.parametrize(
    "error", [MemoryError("no room"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_running_out_of_memory_is_a_failure_of_its_own_kind(open_worker, stage, error):
    outcome = open_worker(Scripted(**{f"{stage}_error": error})).run(job())
    assert (outcome.kind, outcome.retryable) == ("memory", True)


@pytest.mark.parametrize("stage", ["build", "evaluate"])
@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (MemoryError("no room"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (FileNotFoundError("gone"), True),
        (TimeoutError("slow disk"), True),
        (RuntimeError("shapes do not match"), False),
        (KeyError("metric"), False),
        (ZeroDivisionError(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_only_what_may_pass_is_worth_another_attempt(open_worker, stage, error, retryable):
    outcome = open_worker(Scripted(**{f"{stage}_error": error})).run(job())
    assert outcome.retryable is retryable


def test_a_very_long_message_is_cut_and_keeps_its_place(open_worker):
    outcome = open_worker(Scripted(build_error=ValueError("x" * 100_000))).run(job())
    assert len(outcome.cause) < 2500
    assert "test_run.py:" in outcome.cause
    assert len(outcome.log) == 4000


def test_a_worker_goes_on_after_a_failure(open_worker):
    script = Scripted(build_error=ValueError("bad"))
    worker = open_worker(script)
    assert isinstance(worker.run(job()), Failed)
    script.build_error = None
    assert isinstance(worker.run(job()), Scored)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_a_request_to_stop_is_not_taken_for_a_failure(open_worker, error):
    with pytest.raises(type(error)):
        open_worker(Scripted(evaluate_error=error)).run(job())


def test_opening_that_fails_raises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @dataclass
    class Broken:
        def open(self, device):
            raise ValueError("model folder 'm' does not exist")

    settings = WorkerSettings(
        builder=Broken(), evaluator=Scripted(), threads=1, folder=str(tmp_path), device="cpu"
    )
    with pytest.raises(ValueError, match="does not exist"):
        settings.open("w-1")


def test_a_worker_works_from_the_folder_it_was_told(tmp_path, open_worker, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir("/")
    open_worker(Scripted(), folder=str(tmp_path))
    assert Path.cwd() == tmp_path


def test_a_block_is_scored_on_its_documents_and_said_to_be_that_block(open_worker):
    script = Scripted()
    worker = open_worker(script)
    part = replace(job(), block=2, documents={"task": (3, 5)})
    assert worker.run(part).key == part.key
    assert script.documents == {"task": (3, 5)}
    script.evaluate_error = ValueError("no")
    assert worker.run(part).key == part.key
    worker.run(job())
    assert script.documents is None

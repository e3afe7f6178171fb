"""A worker: opened once, then one job after another. Failure becomes a value here, nowhere else."""

from __future__ import annotations

import os
import time
import traceback
from dataclasses import dataclass
from typing import Protocol

from evaluators.base import Evaluator, EvaluatorSettings, Language
from workers.job import Failed, Job, Outcome, Scored, Stage
from workers.recipe import MergeRecipe

#: Errors that another attempt may not meet: memory is shared, files come and go.
_TRANSIENT = (MemoryError, OSError)


class Builder(Protocol):
    """Builds models into memory."""

    @property
    def language(self) -> Language:
        """The resident model."""
        ...

    def build(self, recipe: MergeRecipe) -> Language:
        """Returns the model of a recipe."""
        ...


class BuilderSettings(Protocol):
    """Plain data from which a worker opens its builder."""

    def open(self, device: str) -> Builder:
        """Loads what the builder keeps resident."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All a worker needs to know to open: plain data that travels once."""

    builder: BuilderSettings
    evaluator: EvaluatorSettings
    #: CPU threads of one worker. All workers have the same, because it can change the last bits.
    threads: int
    #: Folder that relative paths of models and tasks start from.
    folder: str
    #: "auto" takes the GPU that the cluster gave, or else the CPU.
    device: str = "auto"

    def open(self, name: str) -> Worker:
        """Loads models and tasks."""
        return Worker(self, name)


class Worker:
    """Runs jobs on one device."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        import torch

        os.chdir(settings.folder)
        torch.set_num_threads(settings.threads)
        device = settings.device
        if device == "auto":
            device = best_device()
        self.name = name
        self._builder = settings.builder.open(device)
        self._evaluator: Evaluator = settings.evaluator.open(self._builder.language)

    def run(self, job: Job) -> Outcome:
        """Builds and scores one candidate. Never raises on account of the candidate."""
        import torch

        started = time.monotonic()
        stage: Stage = "build"
        try:
            self._builder.build(job.recipe)
            stage = "evaluate"
            score = self._evaluator.evaluate(job.rows)
        except torch.AcceleratorError:
            raise  # the device is of no more use to this process: let it be replaced
        except Exception as error:  # noqa: BLE001  (the one boundary where failure becomes a value)
            return Failed(
                candidate=job.candidate,
                attempt=job.attempt,
                rows=job.rows,
                stage=stage,
                cause=_describe(error),
                retryable=_is_transient(error),
                seconds=time.monotonic() - started,
                worker=self.name,
            )
        return Scored(
            candidate=job.candidate,
            attempt=job.attempt,
            rows=job.rows,
            score=score,
            seconds=time.monotonic() - started,
            worker=self.name,
        )


def best_device() -> str:
    """Returns the GPU that this process sees, or else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _is_transient(error: Exception) -> bool:
    import torch

    return isinstance(error, (*_TRANSIENT, torch.OutOfMemoryError))


def _describe(error: Exception) -> str:
    """Returns the error and the place that raised it, short enough for a table."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}"[:2000] + where

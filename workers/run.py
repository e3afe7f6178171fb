"""A worker: opened once, then one job after another. Failure becomes a value here, nowhere else."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, Protocol

from evaluators.base import Evaluator, EvaluatorSettings, Subject
from workers.job import Failed, Job, Kind, Outcome, Scored, Stage

#: Errors that another attempt may not meet: memory is shared, files come and go.
_TRANSIENT = (MemoryError, OSError)
#: Characters of a traceback that are kept.
_LOG_CHARACTERS = 4000


class Builder(Protocol):
    """Builds models into memory."""

    @property
    def resident(self) -> Any:
        """The resident model, as evaluators take it: a `Language`, or `Values`."""
        ...

    def build(self, recipe: Any) -> Any:
        """Makes the resident model that of a recipe of the builder's space, and returns it."""
        ...


class BuilderSettings(Protocol):
    """Plain data from which a worker opens its builder.

    It builds language models, unless an attribute `builds` says `values`: then a worker needs
    neither torch nor a device of its own.
    """

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
    #: Accelerators that one worker holds, for records.
    accelerators: float = 0.0

    def open(self, name: str, node: str = "") -> Worker:
        """Loads models and tasks; `node` says where, this machine's name if it is empty."""
        return Worker(self, name, node or socket.gethostname())


class Worker:
    """Runs jobs on one device."""

    def __init__(self, settings: WorkerSettings, name: str, node: str) -> None:
        os.chdir(settings.folder)
        device = "cpu" if subject_of(settings.builder) == "values" else _device(settings)
        self.name = name
        self.node = node
        self._device = describe_device(device)
        self._accelerators = settings.accelerators
        self._builder = settings.builder.open(device)
        self._evaluator: Evaluator = settings.evaluator.open(self._builder.resident)

    def run(self, job: Job) -> Outcome:
        """Builds and scores one candidate. Never raises on account of the candidate."""
        started = time.monotonic()
        stage: Stage = "build"
        try:
            self._builder.build(job.recipe)
            stage = "evaluate"
            score = self._evaluator.evaluate(
                job.rows, documents=job.documents, halvings=job.halvings
            )
        except _of_torch("AcceleratorError"):
            raise  # the device is of no more use to this process: let it be replaced
        except Exception as error:  # noqa: BLE001  (the one boundary where failure becomes a value)
            stage = getattr(error, "stage", stage)
            return Failed(
                candidate=job.candidate,
                attempt=job.attempt,
                rows=job.rows,
                block=job.block,
                stage=stage,
                cause=_describe(error),
                retryable=_is_transient(error),
                kind=_kind(error),
                log="".join(traceback.format_exception(error))[-_LOG_CHARACTERS:],
                **self._where(started),
            )
        return Scored(
            candidate=job.candidate,
            attempt=job.attempt,
            rows=job.rows,
            block=job.block,
            score=score,
            **self._where(started),
        )

    def _where(self, started: float) -> dict[str, Any]:
        seconds = time.monotonic() - started
        return {
            "seconds": seconds,
            "worker": self.name,
            "node": self.node,
            "device": self._device,
            "accelerator_seconds": seconds * self._accelerators,
        }


def subject_of(settings: BuilderSettings) -> Subject:
    """Returns what a builder gives to evaluators."""
    found: Subject = getattr(settings, "builds", "language")
    return found


def _device(settings: WorkerSettings) -> str:
    """Prepares torch and returns the device that it is to use."""
    import torch

    torch.set_num_threads(settings.threads)
    return best_device() if settings.device == "auto" else settings.device


def best_device() -> str:
    """Returns the GPU that this process sees, or else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def describe_device(device: str) -> str:
    """Returns what a device is called in records ("cpu", "NVIDIA H100 80GB HBM3")."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)


def _of_torch(name: str) -> tuple[type[Exception], ...]:
    """Returns an error class of torch; none where torch has not been imported to raise it."""
    torch = sys.modules.get("torch")
    return () if torch is None else (getattr(torch, name),)


def _kind(error: Exception) -> Kind:
    memory: tuple[type[Exception], ...] = (MemoryError, *_of_torch("OutOfMemoryError"))
    found: Kind = getattr(error, "failure", "error")
    return "memory" if isinstance(error, memory) else found


def _is_transient(error: Exception) -> bool:
    passing: tuple[type[Exception], ...] = (*_TRANSIENT, *_of_torch("OutOfMemoryError"))
    return isinstance(error, passing)


def _describe(error: Exception) -> str:
    """Returns the error and the place that raised it, short enough for a table."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}"[:2000] + where

"""Workers as plain processes of this machine, without Ray."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import cast

from cluster.dispatch import Done, Event, Handle, Lost, Ready
from workers.job import Job, Outcome
from workers.run import WorkerSettings

#: Seconds that a worker has to leave by itself, and clean up after itself, before it is killed.
_LEAVE_S = 1.0


class ProcessHandle:
    """A worker process and our end of its pipe."""

    def __init__(
        self, name: str, process: SpawnProcess, pipe: Connection, devices: str | None
    ) -> None:
        self.name = name
        self.node = socket.gethostname()
        self.process = process
        self.pipe = pipe
        #: Its CUDA_VISIBLE_DEVICES, if it has GPUs.
        self.devices = devices

    def send(self, job: Job) -> None:
        """Writes the job to the pipe; a broken one shows as `Lost` at the next look."""
        try:
            self.pipe.send(job)
        except OSError:
            self.process.kill()

    def kill(self) -> None:
        """Ends and reaps the process: an idle one goes by itself when its pipe closes."""
        self.pipe.close()
        self.process.join(timeout=_LEAVE_S)
        self.process.kill()
        self.process.join()


class ProcessFleet:
    """Starts worker processes; each sees the GPUs that it is given and no others."""

    def __init__(self, settings: WorkerSettings, *, device_groups: Sequence[str] = ()) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._device_groups = device_groups
        self._handles: list[ProcessHandle] = []
        self._started = 0

    def start(self) -> ProcessHandle:
        """Starts a process that opens a worker."""
        self._handles = [handle for handle in self._handles if handle.process.is_alive()]
        used = [handle.devices for handle in self._handles]
        devices = min(self._device_groups, key=used.count, default=None)
        self._started += 1
        name = f"pool-{self._started}"
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(self._settings, name, theirs, devices), name=name, daemon=True
        )
        process.start()
        theirs.close()
        handle = ProcessHandle(name, process, ours, devices)
        self._handles.append(handle)
        return handle

    def events(self, handles: Sequence[Handle], timeout_s: float) -> list[Event]:
        """Waits on all pipes; a closed one is a lost worker."""
        by_pipe = {cast("ProcessHandle", handle).pipe: handle for handle in handles}
        return [_read(by_pipe[pipe], pipe) for pipe in wait(list(by_pipe), timeout_s)]  # type: ignore[index,arg-type]

    def close(self) -> None:
        """Nothing is shared."""


def device_groups(num_gpus: int, gpus_each: float) -> list[str]:
    """Returns what CUDA_VISIBLE_DEVICES may be for a worker: one GPU, or several together.

    Numbers count through the driver's own CUDA_VISIBLE_DEVICES where that is set. Workers that
    take less than a GPU share one.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in visible.split(",") if name] or [str(n) for n in range(num_gpus)]
    size = max(1, math.ceil(gpus_each))
    starts = range(0, len(names) - size + 1, size)
    return [",".join(names[start : start + size]) for start in starts]


def _read(handle: Handle, pipe: Connection) -> Event:
    try:
        message = pipe.recv()
    except (EOFError, OSError):
        process = cast("ProcessHandle", handle).process
        process.join(timeout=5)
        return Lost(handle, f"worker process ended with exit code {process.exitcode}")
    if message == "ready":
        return Ready(handle)
    if isinstance(message, str):
        return Lost(handle, message, refused=True)
    return Done(handle, cast("Outcome", message))


def _serve(settings: WorkerSettings, name: str, pipe: Connection, devices: str | None) -> None:
    """The worker process: opens once, then answers jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    try:
        worker = settings.open(name)
    except Exception as error:  # noqa: BLE001  (sent to the driver, which raises it)
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("ready")
    while True:
        try:
            pipe.send(worker.run(pipe.recv()))
        except (EOFError, OSError):
            return  # the driver is gone

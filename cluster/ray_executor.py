"""Workers as Ray actors, on this machine or on a cluster. Ray carries, it does not decide.

Ray's own retries and restarts are off: a retried call would run a poisonous candidate again and
again, and a restarted actor hides why it died. Weights never travel: each actor memory-maps them.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from cluster.dispatch import Done, Event, Handle, Lost, Ready
from cluster.executor import ExecutorError
from cluster.resources import Share, local_cpus
from workers.job import Job
from workers.run import WorkerSettings

#: Enough for Ray's own bookkeeping; no weights go through the object store.
_OBJECT_STORE_BYTES = 100_000_000
#: Seconds to wait for a head's port.
_CONNECT_S = 10.0


def connect(address: str) -> RayCluster:
    """Starts a Ray cluster on this machine (`local`) or joins a running one.

    Raises:
        ExecutorError: if the cluster cannot be started or reached.
    """
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        # Whoever reaches Ray's ports can run code: a token of our own, readable by us alone.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token())
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "num_cpus": local_cpus(),
        }
    try:
        with _own_handlers():
            ray.init(address=address, **options)
    except Exception as error:
        raise ExecutorError(
            f"cannot use the Ray cluster {address!r}: {type(error).__name__}: {error}"
        ) from error
    return RayCluster()


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keeps Ray from taking SIGTERM: its handler ends the driver without a word."""
    install = signal.signal

    def install_others(signum: Any, handler: Any) -> Any:
        return signal.getsignal(signum) if signum == signal.SIGTERM else install(signum, handler)

    signal.signal = install_others  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = install


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes for a head that is not there."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ExecutorError(f"no Ray head answers at {address}: {error}") from error


@functools.cache
def _token() -> Path:
    """Returns a token file for this process's clusters: Ray reads the first one only."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return token


class RayCluster:
    """A connection to Ray; closing it ends a cluster that we started."""

    def resources(self) -> tuple[float, float]:
        """Returns the cluster's CPUs and GPUs."""
        import ray

        found = ray.cluster_resources()
        return float(found.get("CPU", 0)), float(found.get("GPU", 0))

    def close(self) -> None:
        """Disconnects, and ends the cluster if it is our own."""
        import ray

        ray.shutdown()


class Actor:
    """What runs in the actor's process."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self._node = _node()
        self._worker = settings.open(name, self._node)

    def ready(self) -> str:
        """Answers once models and tasks are loaded, with the name of the node."""
        return self._node

    def run(self, job: Job) -> Any:
        """Runs a job; a candidate's failure is a value already."""
        return self._worker.run(job)


class ActorHandle:
    """An actor and the call we wait for."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self.node = ""
        self.actor = actor
        self.pending: Any = actor.ready.remote()

    def send(self, job: Job) -> None:
        """Calls the actor."""
        self.pending = self.actor.run.remote(job)

    def kill(self) -> None:
        """Kills the actor's process; works on one that hangs, too."""
        import ray

        self.pending = None
        ray.kill(self.actor)


class RayFleet:
    """Starts evaluator actors over the cluster."""

    def __init__(self, cluster: RayCluster, settings: WorkerSettings, share: Share) -> None:
        import ray

        self._cluster = cluster
        self._settings = settings
        self._started = 0
        self._actor_class = ray.remote(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=1,
            scheduling_strategy="SPREAD",
        )(Actor)

    def start(self) -> ActorHandle:
        """Starts an actor where the cluster has room."""
        self._started += 1
        name = f"ray-{self._started}"
        return ActorHandle(name, self._actor_class.remote(self._settings, name))

    def events(self, handles: Sequence[Handle], timeout_s: float) -> list[Event]:
        """Waits for the next answer, then takes all that are there."""
        import ray

        pending = {
            handle.pending: handle
            for handle in cast("Sequence[ActorHandle]", handles)
            if handle.pending is not None
        }
        if not pending:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        return [_read(pending[ref], ref) for ref in ready]

    def close(self) -> None:
        """Leaves the cluster."""
        self._cluster.close()


def _read(handle: ActorHandle, ref: Any) -> Event:
    import ray
    from ray.exceptions import RayActorError, RayError

    handle.pending = None
    try:
        answer = ray.get(ref)
    except RayActorError as error:
        refused = bool(getattr(error, "actor_init_failed", False))
        return Lost(handle, _last_line(error), refused=refused)
    except RayError as error:
        return Lost(handle, _last_line(error))
    if isinstance(answer, str):
        handle.node = answer
        return Ready(handle)
    return Done(handle, answer)


def _node() -> str:
    """Returns the node's name for people, and enough of Ray's own to tell two of one host apart."""
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    return f"{socket.gethostname()}/{node_id[:8]}"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"

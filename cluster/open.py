"""From the campaign's `cluster` settings to a running executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cluster.dispatch import DispatchingExecutor, Fleet
from cluster.executor import Executor
from cluster.inline import InlineExecutor
from cluster.resources import Cluster, Share, local_cpus, local_gpus, share
from workers.run import WorkerSettings, subject_of

#: Candidates that are handed to this process together where each is only a function's call.
_PLAIN_AT_ONCE = 64


def open_executor(cluster: Cluster, settings: WorkerSettings) -> Executor:
    """Starts what runs the jobs.

    Raises:
        ValueError: if the resources do not suffice for the evaluators asked for.
        ExecutorError: if the Ray cluster cannot be started or reached.
    """
    opener = _OPENERS.get(cluster.address, _open_ray)
    return opener(cluster, settings)


def available(cluster: Cluster) -> tuple[float, float]:
    """Returns the CPUs and GPUs that evaluators can have.

    Raises:
        ExecutorError: if a running cluster cannot be reached.
    """
    if cluster.address in (*_OPENERS, "local"):
        return float(local_cpus()), float(_num_gpus(cluster))
    from cluster.ray_executor import connect

    connection = connect(cluster.address)
    try:
        return connection.resources()
    finally:
        connection.close()


def _open_inline(cluster: Cluster, settings: WorkerSettings) -> Executor:
    del cluster
    builds_nothing = subject_of(settings.builder) == "values"
    return InlineExecutor(settings, at_once=_PLAIN_AT_ONCE if builds_nothing else 1)


def _open_pool(cluster: Cluster, settings: WorkerSettings) -> Executor:
    from cluster.pool import ProcessFleet, device_groups

    num_gpus = _num_gpus(cluster)
    part = share(cluster, num_cpus=local_cpus(), num_gpus=num_gpus)
    groups = device_groups(num_gpus, part.gpus) if part.gpus else []
    fleet = ProcessFleet(_placed(settings, part), device_groups=groups)
    return _dispatching(cluster, fleet, part.evaluators)


def _num_gpus(cluster: Cluster) -> int:
    """Returns this machine's GPUs; looking for them takes seconds that who wants none can keep."""
    return 0 if cluster.gpus_per_evaluator == 0 else local_gpus()


def _open_ray(cluster: Cluster, settings: WorkerSettings) -> Executor:
    from cluster.ray_executor import RayFleet, connect

    connection = connect(cluster.address)
    try:
        num_cpus, num_gpus = connection.resources()
        part = share(cluster, num_cpus=num_cpus, num_gpus=num_gpus)
        fleet = RayFleet(connection, _placed(settings, part), part)
        return _dispatching(cluster, fleet, part.evaluators)
    except BaseException:
        connection.close()
        raise


def _placed(settings: WorkerSettings, part: Share) -> WorkerSettings:
    """An evaluator that was given no GPU must not take one that it happens to see."""
    if part.gpus:
        return replace(settings, accelerators=part.gpus)
    return replace(settings, device="cpu")


def _dispatching(cluster: Cluster, fleet: Fleet, evaluators: int) -> Executor:
    return DispatchingExecutor(
        fleet,
        slots=evaluators,
        timeout_s=cluster.timeout_s,
        ready_timeout_s=cluster.ready_timeout_s,
    )


_OPENERS: dict[str, Callable[[Cluster, WorkerSettings], Executor]] = {
    "inline": _open_inline,
    "pool": _open_pool,
}

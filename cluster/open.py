"""From the campaign's `cluster` settings to a running executor."""

from __future__ import annotations

from collections.abc import Callable

from cluster.dispatch import DispatchingExecutor
from cluster.executor import Executor
from cluster.inline import InlineExecutor
from cluster.resources import Cluster, local_cpus, local_gpus, share
from workers.run import WorkerSettings


def open_executor(cluster: Cluster, settings: WorkerSettings) -> Executor:
    """Starts what runs the jobs.

    Raises:
        ValueError: if the resources do not suffice for the evaluators asked for.
        ExecutorError: if the Ray cluster cannot be started or reached.
    """
    opener = _OPENERS.get(cluster.address, _open_ray)
    return opener(cluster, settings)


def available(address: str) -> tuple[float, float]:
    """Returns the CPUs and GPUs that evaluators can have.

    Raises:
        ExecutorError: if a running cluster cannot be reached.
    """
    if address in (*_OPENERS, "local"):
        return float(local_cpus()), float(local_gpus())
    from cluster.ray_executor import connect

    connection = connect(address)
    try:
        return connection.resources()
    finally:
        connection.close()


def _open_inline(cluster: Cluster, settings: WorkerSettings) -> Executor:
    del cluster
    return InlineExecutor(settings)


def _open_pool(cluster: Cluster, settings: WorkerSettings) -> Executor:
    from cluster.pool import ProcessFleet

    num_gpus = local_gpus()
    part = share(cluster, num_cpus=local_cpus(), num_gpus=num_gpus)
    fleet = ProcessFleet(settings, num_gpus=num_gpus if part.gpus else 0)
    return _dispatching(cluster, fleet, part.evaluators)


def _open_ray(cluster: Cluster, settings: WorkerSettings) -> Executor:
    from cluster.ray_executor import RayFleet, connect

    connection = connect(cluster.address)
    try:
        num_cpus, num_gpus = connection.resources()
        part = share(cluster, num_cpus=num_cpus, num_gpus=num_gpus)
        return _dispatching(cluster, RayFleet(connection, settings, part), part.evaluators)
    except BaseException:
        connection.close()
        raise


def _dispatching(cluster: Cluster, fleet: object, evaluators: int) -> Executor:
    return DispatchingExecutor(
        fleet,  # type: ignore[arg-type]
        slots=evaluators,
        timeout_s=cluster.timeout_s,
        ready_timeout_s=cluster.ready_timeout_s,
    )


_OPENERS: dict[str, Callable[[Cluster, WorkerSettings], Executor]] = {
    "inline": _open_inline,
    "pool": _open_pool,
}

"""Where jobs run: the campaign's `cluster` settings and what they come to on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where and how evaluators run. None of this changes which candidates a search proposes."""

    #: `local` starts a Ray cluster on this machine; `auto` or host:port joins a running one; `pool`
    #: uses plain processes and `inline` this process, both without Ray.
    address: str = "local"
    #: Number of evaluators; `auto` takes as many as the resources allow.
    evaluators: Annotated[int, Ge(1)] | Literal["auto"] = "auto"
    #: GPUs of one evaluator; `auto` takes one where there is one.
    gpus_per_evaluator: Annotated[float, Ge(0)] | Literal["auto"] = "auto"
    #: CPU threads of one evaluator.
    cpus_per_evaluator: Annotated[int, Ge(1)] = 1
    #: Seconds one attempt may take before its evaluator is killed.
    timeout_s: Annotated[float, Gt(0)] = 600.0
    #: Seconds an evaluator may take to load models and tasks.
    ready_timeout_s: Annotated[float, Gt(0)] = 600.0
    #: Attempts at a candidate whose failures may pass (lost worker, timeout, memory).
    max_attempts: Annotated[int, Ge(1)] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one evaluator gets, and how many there are."""

    evaluators: int
    gpus: float
    cpus: int


def share(cluster: Cluster, *, num_cpus: float, num_gpus: float) -> Share:
    """Divides resources among evaluators.

    Raises:
        ValueError: if the cluster has not enough for one evaluator, or for as many as asked for.
    """
    wanted = cluster.gpus_per_evaluator
    gpus = (1.0 if num_gpus >= 1 else 0.0) if wanted == "auto" else float(wanted)
    fits = int(num_cpus // cluster.cpus_per_evaluator)
    if gpus > 0:
        fits = min(fits, int(num_gpus / gpus + 1e-9))
    have = f"{num_cpus:g} CPUs and {num_gpus:g} GPUs"
    need = f"{cluster.cpus_per_evaluator} CPUs and {gpus:g} GPUs"
    if fits < 1:
        raise ValueError(f"one evaluator needs {need}, the cluster has {have}")
    if cluster.evaluators != "auto" and cluster.evaluators > fits:
        raise ValueError(
            f"evaluators: {cluster.evaluators} evaluators of {need} each do not fit into "
            f"{have}; {fits} do"
        )
    evaluators = fits if cluster.evaluators == "auto" else cluster.evaluators
    return Share(evaluators=evaluators, gpus=gpus, cpus=cluster.cpus_per_evaluator)


def local_cpus() -> int:
    """Returns the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_gpus() -> int:
    """Returns the GPUs of this machine."""
    import torch

    return torch.cuda.device_count()

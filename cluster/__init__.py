"""The cluster places jobs on workers and brings every outcome back: `Executor`."""

from cluster.executor import Executor, ExecutorError
from cluster.resources import Cluster

__all__ = ["Cluster", "Executor", "ExecutorError"]

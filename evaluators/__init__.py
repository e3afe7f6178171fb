"""Evaluators measure a built model and say how good it is: `Score`."""

from evaluators.base import Evaluator, Score, TaskScore
from evaluators.registry import Registry

__all__ = ["Evaluator", "Registry", "Score", "TaskScore"]

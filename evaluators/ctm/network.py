"""A network that a builder hands on untrained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from evaluators.ctm.training_settings import TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Untrained:
    """A network before its training."""

    #: Returns it, a `Thinker`, on the CPU: given its parent at the end of its training, or None to
    #: begin anew. What is made has the same shapes either way.
    make: Callable[[nn.Module | None], nn.Module]
    #: How it is trained.
    training: TrainingSettings
    #: Hash of all that its weights depend on, but for the task.
    identity: str
    #: Names the network that it goes on from, where there is one.
    parent: Callable[[], Untrained] | None = None


class Network:
    """The network of the candidate at hand."""

    def __init__(self, device: str) -> None:
        #: Where it is trained.
        self.device = device
        #: What it is before its training.
        self.untrained: Untrained
        #: A network that needs no training, if one was given.
        self.trained: nn.Module | None = None

    def assign(self, untrained: Untrained) -> None:
        """Makes this the network of a candidate."""
        self.untrained = untrained

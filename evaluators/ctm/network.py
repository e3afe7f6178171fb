"""A network that a builder hands on untrained."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from evaluators.ctm.training_settings import TrainingSettings


class Network:
    """The network of the candidate at hand."""

    def __init__(self, device: str) -> None:
        #: Where it is trained.
        self.device = device
        #: How it is trained.
        self.training: TrainingSettings
        #: Hash of all that its weights depend on, but for the task.
        self.identity = ""
        #: A network that needs no training, if one was given.
        self.trained: nn.Module | None = None
        self._make: Callable[[], nn.Module]

    def assign(
        self, make: Callable[[], nn.Module], training: TrainingSettings, identity: str
    ) -> None:
        """Makes this the network of a candidate."""
        self._make, self.training, self.identity = make, training, identity

    def fresh(self) -> nn.Module:
        """Returns the network as it is before training, a `Thinker`."""
        return self._make().to(self.device)

"""The recipe of a network that is trained: what it is made of, how it is trained, and from what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from evaluators.ctm.training_settings import TrainingSettings
from workers.ctm.plain import as_dict, from_dict
from workers.ctm.settings import CtmSettings
from workers.recipe import Written


@dataclass(frozen=True, slots=True, kw_only=True)
class CtmRecipe(Written):
    """A Continuous Thought Machine before its training, and its training."""

    network: CtmSettings
    training: TrainingSettings
    #: Of the first weights; the training has one of its own.
    seed: int = 0
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data that JSON can hold."""
        return {
            "kind": "ctm",
            "network": as_dict(self.network),
            "training": asdict(self.training),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CtmRecipe:
        """Makes a recipe from what `as_dict` returned."""
        return cls(
            network=from_dict(data["network"]),
            training=TrainingSettings(**data["training"]),
            seed=data["seed"],
        )

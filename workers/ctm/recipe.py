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
class Ancestor:
    """A Continuous Thought Machine that was trained before, and how."""

    network: CtmSettings
    training: TrainingSettings
    #: Of the first weights; the training has one of its own.
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CtmRecipe(Written):
    """A Continuous Thought Machine before its training, and its training.

    With ancestors it does not begin anew, but goes on from the last of them at the end of its
    training, which went on from the one before.
    """

    network: CtmSettings
    training: TrainingSettings
    #: Of the first weights, or of what growing draws; the training has one of its own.
    seed: int = 0
    #: Machines that were trained before, each from the one before it; the oldest first.
    ancestors: tuple[Ancestor, ...] = ()
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def parent(self) -> CtmRecipe | None:
        """The recipe of the machine that this one goes on from."""
        if not self.ancestors:
            return None
        *older, last = self.ancestors
        return CtmRecipe(
            network=last.network, training=last.training, seed=last.seed, ancestors=tuple(older)
        )

    @property
    def lineage(self) -> tuple[Ancestor, ...]:
        """The ancestors of a machine that goes on from this one."""
        own = Ancestor(network=self.network, training=self.training, seed=self.seed)
        return (*self.ancestors, own)

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data that JSON can hold."""
        *older, own = map(_as_dict, self.lineage)
        return {"kind": "ctm", **own, **({"ancestors": older} if older else {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CtmRecipe:
        """Makes a recipe from what `as_dict` returned."""
        ancestors = tuple(Ancestor(**_fields(one)) for one in data.get("ancestors", ()))
        return cls(**_fields(data), ancestors=ancestors)


def _as_dict(one: Ancestor) -> dict[str, Any]:
    return {
        "network": as_dict(one.network),
        "training": asdict(one.training),
        "seed": one.seed,
    }


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "network": from_dict(data["network"]),
        "training": TrainingSettings(**data["training"]),
        "seed": data["seed"],
    }

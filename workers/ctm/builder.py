"""Hands networks on untrained: the evaluator trains them, or goes on where one was left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from evaluators.base import Subject

if TYPE_CHECKING:
    from evaluators.ctm.network import Network, Untrained
    from workers.ctm.recipe import CtmRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class CtmBuilderSettings:
    """Opens a builder of networks. Importing this needs no torch."""

    builds: ClassVar[Subject] = "network"

    def open(self, device: str) -> CtmBuilder:
        """Needs nothing in memory."""
        return CtmBuilder(device)


class CtmBuilder:
    """Makes machines of recipes, when the evaluator asks for one."""

    def __init__(self, device: str) -> None:
        from evaluators.ctm.network import Network

        self.resident: Network = Network(device)

    def build(self, recipe: CtmRecipe) -> Network:
        """Makes the resident network that of a recipe."""
        self.resident.assign(_untrained(recipe))
        return self.resident


def _untrained(recipe: CtmRecipe) -> Untrained:
    import torch

    from evaluators.ctm.network import Untrained
    from workers.ctm.growth import grow
    from workers.ctm.machine import Machine

    def make(parent: torch.nn.Module | None) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            if parent is None:
                return Machine(recipe.network)
            assert isinstance(parent, Machine)
            return grow(parent, recipe.network).machine

    before = recipe.parent
    return Untrained(
        make=make,
        training=recipe.training,
        identity=recipe.digest(),
        parent=None if before is None else lambda: _untrained(before),
    )

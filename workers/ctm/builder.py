"""Hands networks on untrained: the evaluator trains them, or goes on where one was left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from evaluators.base import Subject

if TYPE_CHECKING:
    from evaluators.ctm.network import Network
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
        import torch

        from workers.ctm.machine import Machine

        def make() -> torch.nn.Module:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                return Machine(recipe.network)

        self.resident.assign(make, recipe.training, recipe.digest())
        return self.resident

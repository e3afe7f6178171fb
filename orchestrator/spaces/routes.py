"""Genes of a path through the layers of several models.

Evolutionary Model Merge (Akiba et al. 2024, https://arxiv.org/abs/2403.13187), section 3.2. The
layers of all models lie in a row, the row is repeated r times, and one gene for each of these slots
says whether the path takes it. What goes backwards does so by the next repetition. Scaling genes
say what the input of each layer is multiplied by.

Differences from the paper: whether a slot is taken is a bit by default, as a genetic algorithm on
bits finds routes that CMA-ES on thresholded numbers does not (`indicators: real` gives these); the
genes have bounds; a path that is too long keeps the slots with the largest indicators, the first of
equals; scales can also be one for each slot, which exists where the slot's bit is on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from annotated_types import Ge

from orchestrator.spaces.genes import Bit, Gene, Genes, Genome, Real
from workers.paths import Hop

#: A gene and where a search starts.
Started: TypeAlias = "tuple[Gene, float]"
#: What the input of a slot is multiplied by: (slot before it or None, slot) -> factor.
Scaling: TypeAlias = "Callable[[int | None, int], float]"

#: Two standard deviations of a search that starts with a sixth of the range, as in the paper.
_START = 2 / 3
#: The network's weights lie in +- this.
_WEIGHT_LIMIT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """Which paths can be taken, and how their inputs are scaled."""

    #: How often the row of all layers is repeated; a path goes through it from start to end.
    repeats: Annotated[int, Ge(1)] = 2
    #: What says whether a slot is taken: a bit, or a number that must be above 0.
    indicators: Literal["bits", "real"] = "bits"
    #: What a layer's input is multiplied by: 1 (none), a gene for each slot, a gene for each pair
    #: of layers that may follow one another, or a small network's answer to layers and slot.
    scaling: Literal["none", "slot", "pair", "network"] = "none"
    #: The network's hidden units.
    hidden: Annotated[int, Ge(1)] = 4
    #: [low, high] of scales, with low <= 1 <= high: a search starts at 1.
    scale_bounds: tuple[float, float] = (0.5, 1.5)
    #: `auto` puts scales into weights where the architecture lets them; otherwise, and with
    #: `never`, the model multiplies its layers' inputs itself, and an exported folder brings code.
    fold: Literal["auto", "never"] = "auto"
    #: Layers that a path has at most; longer ones keep the slots with the largest indicators.
    #: Twice the first model's if it is not given.
    max_layers: Annotated[int, Ge(1)] | None = None
    #: Every path begins with the first model's first layer and ends with its last.
    keep_ends: bool = True
    #: Also measure the first model with each of its layers left out, one at a time.
    delete_one: bool = False

    def check(self) -> None:
        """Refuses values that do not fit together.

        Raises:
            ValueError: naming the key.
        """
        low, high = self.scale_bounds
        if not (math.isfinite(low) and math.isfinite(high) and low <= 1 <= high and low < high):
            raise ValueError(
                f"scale_bounds: expected [low, high] with low <= 1 <= high, got [{low}, {high}]"
            )
        if self.keep_ends and self.max_layers == 1:
            raise ValueError(
                "max_layers: a path that keeps both ends has at least 2 layers, got 1; "
                "or use keep_ends: false"
            )


class Routes:
    """The slots of some models, and what genes make of them.

    Args:
        settings: Which paths can be taken.
        models: What each model is called in the names of genes.
        layers: How many layers each model has.
    """

    def __init__(
        self, settings: RouteSettings, models: Sequence[str], layers: Sequence[int]
    ) -> None:
        self._settings = settings
        self._models = models
        self._layers = layers
        self._blocks = [
            (source, layer) for source, count in enumerate(layers) for layer in range(count)
        ]
        self._last = layers[0] - 1
        self.num_slots = len(self._blocks) * settings.repeats
        self.max_layers = settings.max_layers or 2 * layers[0]
        genes, start = zip(*self._indicators(), *self._scales(), strict=True)
        self.genes = Genes(genes, start)

    @property
    def identity(self) -> list[Hop]:
        """The first model as it is."""
        return [Hop(source=0, layer=layer) for layer in range(self._last + 1)]

    @property
    def _end(self) -> int:
        """The slot that a path ends with where its own ends elsewhere."""
        return self.num_slots - len(self._blocks) + self._last

    def describe(self) -> str:
        """Returns how many slots there are, for people."""
        pairs = zip(self._layers, self._models, strict=True)
        row = " and ".join(f"{count} layers of {model}" for count, model in pairs)
        return (
            f"{self.num_slots} slots, {self._settings.repeats} times {row}; "
            f"takes at most {self.max_layers}"
        )

    def hops(self, genes: Genome) -> list[Hop]:
        """Returns the path of some genes, in the order of `genes`; never empty."""
        indicators, scales = genes[: self.num_slots], genes[self.num_slots :]
        slots = self._taken(indicators)
        scaling = self._scaling(scales)
        hops = []
        for before, slot in zip([None, *slots], slots, strict=False):
            source, layer = self._blocks[slot % len(self._blocks)]
            hops.append(Hop(source=source, layer=layer, scale=scaling(before, slot)))
        return hops

    def _taken(self, indicators: Genome) -> list[int]:
        """Returns the slots of a path; what is said of too many or none holds for any genes."""
        ranked = sorted(range(self.num_slots), key=lambda slot: -indicators[slot])
        used = [slot for slot in ranked if indicators[slot] > 0]
        if not self._settings.keep_ends:
            return sorted((used or ranked[:1])[: self.max_layers])
        for spare in range(3):  # ends that have to be added take the places of the least wanted
            path = self._with_ends(sorted(used[: self.max_layers - spare]))
            if len(path) <= self.max_layers:
                break
        return path

    def _with_ends(self, path: list[int]) -> list[int]:
        """Adds the first model's first and last layer where a path lacks them."""
        first, last = 0, self._end
        blocks = [self._blocks[slot % len(self._blocks)] for slot in path]
        if not path or blocks[0] != (0, 0):
            path = [first, *path]
            blocks = [(0, 0), *blocks]
        return path if blocks[-1] == (0, self._last) else [*path, last]

    def _name(self, slot: int) -> str:
        source, layer = self._blocks[slot % len(self._blocks)]
        return f"{self._models[source]} layer {layer}"

    def _indicators(self) -> Iterator[Started]:
        for slot in range(self.num_slots):
            name, taken = self._indicator(slot), slot <= self._last
            if self._settings.indicators == "bits":
                yield Bit(name=name), float(taken)
            else:
                yield Real(name=name, low=-1.0, high=1.0), _START if taken else -_START

    def _indicator(self, slot: int) -> str:
        return f"use slot {slot} {self._name(slot)}"

    def _scales(self) -> Iterator[Started]:
        low, high = self._settings.scale_bounds
        if self._settings.scaling == "slot":
            for slot in range(self.num_slots):
                name = f"scale slot {slot} {self._name(slot)}"
                yield Real(name=name, low=low, high=high, when=self._when(slot)), 1.0
        elif self._settings.scaling == "pair":
            blocks = [self._name(slot) for slot in range(len(self._blocks))]
            for name in (f"scale {before} to {after}" for before in blocks for after in blocks):
                yield Real(name=name, low=low, high=high), 1.0
        elif self._settings.scaling == "network":
            yield from _network_genes(self._settings.hidden)

    def _when(self, slot: int) -> dict[str, tuple[bool, ...]]:
        """Returns where a slot may have a scale: where its bit is on, or it can be taken anyway."""
        is_end = slot == 0 or (self._settings.keep_ends and slot == self._end)
        if is_end or self._settings.indicators != "bits":
            return {}
        return {self._indicator(slot): (True,)}

    def _scaling(self, genes: Genome) -> Scaling:
        num_blocks = len(self._blocks)
        if self._settings.scaling == "slot":
            return lambda _, slot: genes[slot]
        if self._settings.scaling == "pair":
            return lambda before, slot: (
                1.0
                if before is None
                else genes[before % num_blocks * num_blocks + slot % num_blocks]
            )
        if self._settings.scaling == "network":
            return self._network(genes)
        return lambda _before, _slot: 1.0

    def _network(self, genes: Genome) -> Scaling:
        """A layer of tanh units that sees both layers and the slot, each from -1 to 1."""
        *units, bias = genes
        weights = np.reshape(units, (self._settings.hidden, 5))
        low, high = self._settings.scale_bounds

        def scale(before: int | None, slot: int) -> float:
            if before is None:
                return 1.0
            num_blocks = len(self._blocks)
            seen = (
                _centred(before % num_blocks, num_blocks),
                _centred(slot % num_blocks, num_blocks),
                _centred(slot, self.num_slots),
            )
            inner = np.tanh(weights[:, :3] @ seen + weights[:, 3])
            answer = math.tanh(float(weights[:, 4] @ inner) + bias)
            return 1.0 + answer * (high - 1.0 if answer > 0 else 1.0 - low)

        return scale


def _network_genes(hidden: int) -> Iterator[Started]:
    names = [
        f"network unit {unit} {what}"
        for unit in range(hidden)
        for what in ("from", "to", "slot", "bias", "out")
    ]
    for name in (*names, "network bias"):
        yield Real(name=name, low=-_WEIGHT_LIMIT, high=_WEIGHT_LIMIT), 0.0


def _centred(place: int, count: int) -> float:
    return 2.0 * place / (count - 1) - 1.0 if count > 1 else 0.0

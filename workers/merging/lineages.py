"""Gives the models of lineages: what has been made before is mapped, what is missing is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from workers.lineage import LineageRecipe
from workers.merging.crossing import Parent, make_child
from workers.merging.tensors import FLOATS
from workers.merging.workshop import Workshop
from workers.models.safetensors_file import TensorFacts
from workers.models.weights import Reader

#: Writes a model's tensors.
Make: TypeAlias = Callable[[Mapping[str, torch.Tensor]], None]


class Store(Protocol):
    """Keeps models that were made (`workers.builders.model_cache`)."""

    def get(self, digest: str) -> Reader | None:
        """Returns a model, or None if it has to be made."""
        ...

    def put(self, digest: str, tensors: Mapping[str, TensorFacts], make: Make) -> Reader:
        """Returns a model after it was made."""
        ...


class Lineages:
    """Makes the models of lineages, each node of which costs one merge if its parents are kept.

    Args:
        workshop: Opens the models that lineages begin with.
        store: Keeps the models that are made.
        revisions: Model -> hash of its content.
    """

    def __init__(self, workshop: Workshop, store: Store, revisions: Mapping[str, str]) -> None:
        self._workshop = workshop
        self._store = store
        self._revisions = revisions
        #: Steps carried out so far.
        self.num_made = 0

    def open(self, recipe: LineageRecipe) -> Reader:
        """Returns a recipe's model.

        Nodes are walked from the last one towards the sources only as far as models are missing;
        what is missing is made in the order of the steps, and let go of after its last use.

        Raises:
            ValueError: if the lineage does not fit its models or gives numbers that are not finite.
        """
        digests = recipe.node_digests(self._revisions)
        opened, missing = self._plan(recipe, digests)
        uses = Counter(parent for node in missing for parent in _parents(recipe, node))
        for node in missing:
            opened[node] = self._make(recipe, node, digests[node], opened)
            for parent in _parents(recipe, node):
                uses[parent] -= 1
                if not uses[parent]:
                    del opened[parent]
        return opened[recipe.result]

    def _plan(
        self, recipe: LineageRecipe, digests: list[str]
    ) -> tuple[dict[int, Reader], list[int]]:
        """Returns the nodes to begin with, and those that have to be made, in order."""
        opened: dict[int, Reader] = {}
        missing: set[int] = set()
        waiting = [recipe.result]
        while waiting:
            node = waiting.pop()
            if node in opened or node in missing:
                continue
            found = self._find(recipe, node, digests[node])
            if found is not None:
                opened[node] = found
                continue
            missing.add(node)
            waiting += _parents(recipe, node)
        return opened, sorted(missing)

    def _find(self, recipe: LineageRecipe, node: int, digest: str) -> Reader | None:
        if node < len(recipe.sources):
            return self._workshop.reader(recipe.sources[node])
        return self._store.get(digest)

    def _make(
        self, recipe: LineageRecipe, node: int, digest: str, opened: Mapping[int, Reader]
    ) -> Reader:
        step = recipe.steps[node - len(recipe.sources)]
        parents = [self._placed(recipe, parent, opened[parent]) for parent in step.parents]
        base = _Source(self._workshop, self._workshop.reader(recipe.base))
        tensors = dict(_facts(opened[step.parents[0]], recipe.dtype))

        def make(targets: Mapping[str, torch.Tensor]) -> None:
            with torch.inference_mode():
                make_child(step, parents, base, targets)

        self.num_made += 1
        return self._store.put(digest, tensors, make)

    def _placed(self, recipe: LineageRecipe, node: int, reader: Reader) -> Parent:
        if node < len(recipe.sources):
            return _Source(self._workshop, reader)
        return _Made(self._workshop.residence.device, reader)


@dataclass(frozen=True, slots=True)
class _Source:
    """A model that a lineage begins with, on the device; looked at for NaN, once."""

    workshop: Workshop
    reader: Reader

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor on the device."""
        return self.workshop.read(self.reader, name)


@dataclass(frozen=True, slots=True)
class _Made:
    """A model that was made, on the device; it was looked at then."""

    device: torch.device
    reader: Reader

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor on the device."""
        return self.reader.tensor(name).to(self.device)


def _parents(recipe: LineageRecipe, node: int) -> tuple[int, ...]:
    """Returns a node's parents, each once; sources have none."""
    if node < len(recipe.sources):
        return ()
    return tuple(dict.fromkeys(recipe.steps[node - len(recipe.sources)].parents))


def _facts(reader: Reader, dtype: str) -> Iterator[tuple[str, TensorFacts]]:
    """Gives the tensors of a child: numbers in the type of the lineage, all others as they are."""
    for name in reader:
        kind, shape = reader.facts(name)
        yield name, (dtype if kind in FLOATS else kind, shape)

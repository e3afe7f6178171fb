"""The recipe of a model that descends from others: every merge on the way to it, each said once.

A lineage is a graph without cycles. Its nodes are counted: first the models that it begins with,
then its steps, each of which makes a model of two nodes before it; the last node is the recipe's
model. A child's recipe has its parents' steps and one more, so that a recipe grows with the number
of its ancestors and not with the number of paths to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from evaluators.digest import hash_json
from workers.recipe import MergeRecipe, Written

#: How tensors follow one another in a model that is seen as one vector: `workers.models.order`.
Order = Literal["forward"]
#: What the angle of a spherical merge is measured between: the vectors on one side of the split,
#: or the whole ones.
Angle = Literal["part", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How some tensors of two parents are joined, as one vector in the recipe's order.

    Before the split the child is a share `weight` of the way from the first parent to the second,
    from there on a share 1 - `weight`.
    """

    #: Parts of tensor names: those with any of them belong here, unless an earlier cut has them;
    #: empty for all that are left.
    filters: tuple[str, ...] = ()
    #: How much of the vector lies before the split, in [0, 1].
    split: float
    #: In [0, 1].
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cross:
    """A spherical merge of two parents with a split (Abrantes, Lange & Tang 2025, section 3).

    https://arxiv.org/abs/2508.16204.
    """

    #: Nodes before this one.
    parents: tuple[int, int]
    cuts: tuple[Cut, ...]
    angle: Angle = "part"
    #: Standard deviation of the noise that is added to every weight.
    sigma: float = 0.0
    #: Seed of the noise.
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A mean of task vectors, (w1 t1 + w2 t2 + ...) / (w1 + w2 + ...), bent along its directions.

    (Kuroki et al. 2025, https://arxiv.org/abs/2410.14735.) Task vectors begin at the recipe's base.

    Raises:
        ValueError: if there is not one weight for each parent.
    """

    #: Nodes before this one; one or more.
    parents: tuple[int, ...]
    weights: tuple[float, ...]
    #: Least and most of the factors that the singular values of each matrix are multiplied by,
    #: drawn uniformly; None leaves them.
    factors: tuple[float, float] | None = None
    #: Standard deviation of the noise that is added to every weight.
    sigma: float = 0.0
    #: Seed of factors and noise.
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parents or len(self.weights) != len(self.parents):
            raise ValueError(
                f"a mix needs a weight for each parent, got {len(self.weights)} for "
                f"{len(self.parents)}"
            )


Step: TypeAlias = "Cross | Mix"
#: A recipe of one model, which can be written into a folder.
ModelRecipe: TypeAlias = "MergeRecipe | LineageRecipe"
_KINDS: Mapping[str, type] = {"cross": Cross, "mix": Mix}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageRecipe(Written):
    """A model made of two models, which were made of two models, and so on.

    Raises:
        ValueError: if a step names a node that does not come before it.
    """

    #: Models that the lineage begins with: nodes 0, 1, ...
    sources: tuple[str, ...]
    #: Nodes after the sources, parents before their children.
    steps: tuple[Step, ...] = ()
    #: The model that gives configuration and tokenizer, and the origin of task vectors.
    base: str
    #: Type of every model on the way ("bfloat16", "float16", "float32").
    dtype: str
    #: Order of the tensors in the vector that is split.
    order: Order = "forward"
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.steps and len(self.sources) != 1:
            raise ValueError(f"a lineage without steps is one model, got {list(self.sources)}")
        for node, step in enumerate(self.steps, start=len(self.sources)):
            if not all(0 <= parent < node for parent in step.parents):
                raise ValueError(
                    f"node {node} of a lineage needs parents before it, got {list(step.parents)}"
                )

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the recipe reads, its base last."""
        return tuple(dict.fromkeys([*self.sources, self.base]))

    @property
    def result(self) -> int:
        """The node that is the recipe's model."""
        return len(self.sources) + len(self.steps) - 1

    def node_digests(self, revisions: Mapping[str, str]) -> list[str]:
        """Returns a hash of all that each node's weights depend on.

        Nodes of different recipes that are the same model have the same hash. `revisions` are the
        models' content hashes; a model without one is known by its name.
        """
        common = [self.dtype, self.order]
        found = [hash_json(["model", one, revisions.get(one)]) for one in self.sources]
        for step in self.steps:
            own = _step_as_dict(step)
            own["parents"] = [found[parent] for parent in step.parents]
            base = [self.base, revisions.get(self.base)] if isinstance(step, Mix) else []
            found.append(hash_json([own, *common, *base]))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain data that JSON can hold."""
        return {
            "kind": "lineage",
            "sources": list(self.sources),
            "steps": [_step_as_dict(step) for step in self.steps],
            "base": self.base,
            "dtype": self.dtype,
            "order": self.order,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LineageRecipe:
        """Makes a recipe from what `as_dict` returned."""
        return cls(
            sources=tuple(data["sources"]),
            steps=tuple(_step_from_dict(step) for step in data["steps"]),
            base=data["base"],
            dtype=data["dtype"],
            order=data["order"],
        )


def child_of(
    parents: Sequence[LineageRecipe], step: Callable[[tuple[int, ...]], Step]
) -> LineageRecipe:
    """Returns the recipe of some models' child: the steps of all, and one more.

    What several descend from is said once.

    Args:
        parents: Recipes of one base, type and order.
        step: Makes the last step, given the places of its parents.

    Raises:
        ValueError: if the parents differ in base, type or order.
    """
    if len({(one.base, one.dtype, one.order) for one in parents}) != 1:
        raise ValueError("parents of a lineage must have one base, type and order")
    sources = tuple(dict.fromkeys(source for one in parents for source in one.sources))
    steps: dict[Step, int] = {}
    places = tuple(_add(one, sources, steps) for one in parents)
    steps.setdefault(step(places), len(sources) + len(steps))
    return replace(parents[0], sources=sources, steps=tuple(steps))


def _add(recipe: LineageRecipe, sources: tuple[str, ...], steps: dict[Step, int]) -> int:
    """Adds a recipe's steps to those that are there; returns the place of its model."""
    places = [sources.index(one) for one in recipe.sources]
    for one in recipe.steps:
        moved = _with_parents(one, tuple(places[parent] for parent in one.parents))
        places.append(steps.setdefault(moved, len(sources) + len(steps)))
    return places[-1]


def _with_parents(step: Step, parents: tuple[int, ...]) -> Step:
    if isinstance(step, Mix):
        return replace(step, parents=parents)
    first, second = parents
    return replace(step, parents=(first, second))


def _step_as_dict(step: Step) -> dict[str, Any]:
    """Returns a step as plain data; what is as usual is left out."""
    parents = list(step.parents)
    drawn = {
        **({"sigma": step.sigma} if step.sigma else {}),
        **({"seed": step.seed} if step.seed else {}),
    }
    if isinstance(step, Mix):
        factors = {} if step.factors is None else {"factors": list(step.factors)}
        weights = list(step.weights)
        return {"kind": "mix", "parents": parents, "weights": weights, **factors, **drawn}
    cuts = [
        {
            **({"filters": list(cut.filters)} if cut.filters else {}),
            "split": cut.split,
            "weight": cut.weight,
        }
        for cut in step.cuts
    ]
    return {
        "kind": "cross",
        "parents": parents,
        "cuts": cuts,
        **({} if step.angle == "part" else {"angle": step.angle}),
        **drawn,
    }


def _step_from_dict(data: Mapping[str, Any]) -> Step:
    kind = _KINDS[data["kind"]]
    known = {key: value for key, value in data.items() if key not in ("kind", "cuts")}
    if "cuts" in data:
        known["cuts"] = tuple(
            Cut(**{**cut, "filters": tuple(cut.get("filters", ()))}) for cut in data["cuts"]
        )
    for key in ("parents", "weights", "factors"):
        if key in known:
            known[key] = tuple(known[key])
    made: Step = kind(**known)
    return made

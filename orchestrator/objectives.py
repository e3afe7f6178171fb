"""What a search aims at: a weighted sum, a Pareto front, an order of objectives; and constraints.

Constraints follow Deb (2000, https://doi.org/10.1016/S0045-7825(99)00389-8): who breaks them less
is before who breaks them more, whatever else they are worth. By how much is relative to each bound
and summed over all that are broken, so that no constraint counts more for its unit.

Deviation: a lexicographic order within a tolerance would be no order (a equals b, b equals c, and
a beats c); values are rounded to multiples of the tolerance instead.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge

from evaluators.registry import nearest
from orchestrator.measurement.measured import Measured
from orchestrator.spaces.base import Reference

Kind = Literal["weighted", "pareto", "lexicographic"]
#: Models that a constraint may be about.
Model = Literal["parent", "base"]
#: Task or measure -> value, as it is measured.
Values: TypeAlias = Mapping[str, float]

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_CONSTRAINT = re.compile(
    rf"\s*(?P<name>\S+?)\s*(?P<relation><=|>=)\s*(?:(?P<number>[+-]?{_NUMBER})"
    rf"|(?P<model>parent|base)(?:\s*(?P<sign>[+-])\s*(?P<margin>{_NUMBER}))?)\s*"
)
_FORMS = "expected such as 'size <= 8e9', 'task >= 0.6' or 'task >= parent - 0.01'"
#: Objectives of a lexicographic order: more could not be told apart in one number.
_MOST_IN_ORDER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What a search aims at."""

    #: `weighted`: the evaluator's weighted sum. `pareto`: all that are named, none before another.
    #: `lexicographic`: the first that is named; the next one decides between equals.
    kind: Kind
    #: Search tasks, whose weight says the direction, and measures of the model (`size`, `layers`),
    #: with a minus where lower is better (`-size`). Of a weighted sum: what algorithms that look
    #: at more than the sum are given; all tasks with a weight if left out.
    of: tuple[str, ...] = ()
    #: What the result must keep: `size <= 8e9`, `task >= 0.6`, `task >= parent - 0.01`, where
    #: `parent` is the best of the source models there, and `base` the base model.
    constraints: tuple[str, ...] = ()
    #: Of a lexicographic order: values are rounded to multiples of it, of each objective alike or
    #: of each its own; 0 does not round.
    tolerance: Annotated[float, Ge(0)] | tuple[Annotated[float, Ge(0)], ...] = 0.0

    def __post_init__(self) -> None:
        if len({one.removeprefix("-") for one in self.of}) != len(self.of):
            raise ValueError(f"of: an objective is named twice in {list(self.of)}")
        if self.kind == "pareto" and len(self.of) < 2:
            raise ValueError(
                f"of: a Pareto front needs two objectives or more, got {list(self.of)}"
            )
        if self.kind == "lexicographic" and not 2 <= len(self.of) <= _MOST_IN_ORDER:
            raise ValueError(
                f"of: a lexicographic order takes 2 to {_MOST_IN_ORDER} objectives, the first "
                f"before the next, got {list(self.of)}"
            )
        self._check_tolerance()
        for text in self.constraints:
            read_constraint(text)

    def _check_tolerance(self) -> None:
        if self.kind != "lexicographic" and self.tolerance not in (0.0, ()):
            raise ValueError(
                f"tolerance: has no effect on kind {self.kind!r}; leave it out, or use "
                "lexicographic"
            )
        if isinstance(self.tolerance, tuple) and len(self.tolerance) not in (0, len(self.of)):
            raise ValueError(
                f"tolerance: expected one number, or one for each of {list(self.of)}, got "
                f"{list(self.tolerance)}"
            )

    def judge(
        self, weights: Values, measures: Collection[str], references: Sequence[Reference] = ()
    ) -> Judge:
        """Returns how candidates are judged, once it is known what there is to measure.

        Args:
            weights: of the evaluator's objectives on search rows, in its order.
            measures: what the space can say of a recipe.
            references: the space's, in order.

        Raises:
            ValueError: if a name is unknown, or a constraint needs a model that there is not.
        """
        goals = [_goal("of", name, weights, measures) for name in self.of]
        constraints = tuple(read_constraint(text) for text in self.constraints)
        for one in constraints:
            _goal("constraints", one.name, weights, measures)
        names = {*(one.name for one in goals), *(one.name for one in constraints)}
        steps = self.tolerance or (0.0,) * len(goals)
        return Judge(
            kind=self.kind,
            tasks=tuple(weights),
            goals=tuple(goals) or _weighted(weights),
            steps=steps if isinstance(steps, tuple) else (steps,) * len(goals),
            constraints=constraints,
            models=_models(constraints, references),
            takes_measures=not names <= weights.keys(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A bound that a value must keep: a number, or a model's value and something more or less."""

    name: str
    at_most: bool
    #: Whose value the bound is; None for a number.
    model: Model | None
    #: The bound, or what is added to the model's value.
    offset: float

    def bound(self, known: Sequence[float]) -> float | None:
        """Returns the bound, given the values of the models that it is about; None without any.

        Of several models the strictest counts: a parent is the best of the source models.
        """
        if self.model is None:
            return self.offset
        if not known:
            return None
        return (min(known) if self.at_most else max(known)) + self.offset

    def violation(self, value: float, bound: float) -> float:
        """Returns by how much a value is beyond the bound, as a share of it; 0 if it is not."""
        beyond = value - bound if self.at_most else bound - value
        return max(0.0, beyond) / (abs(bound) or 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """An objective: what is measured, and which way is better."""

    name: str
    #: 1 where higher is better, else -1.
    sign: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Says what a candidate is worth by all objectives and constraints. Pure."""

    kind: Kind = "weighted"
    #: The evaluator's objectives on search rows, in its order.
    tasks: tuple[str, ...]
    goals: tuple[Goal, ...]
    #: Of a lexicographic order: what each goal's value is rounded to multiples of.
    steps: tuple[float, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    #: Which references `parent` and `base` are, by their ids.
    models: Mapping[Model, tuple[str, ...]]
    #: Whether recipes must be measured, too.
    takes_measures: bool = False

    @property
    def needed(self) -> frozenset[str]:
        """The references that constraints refer to."""
        models = {one.model for one in self.constraints}
        return frozenset(id_ for model in models if model for id_ in self.models[model])

    @property
    def constrained(self) -> frozenset[str]:
        """What constraints are about."""
        return frozenset(one.name for one in self.constraints)

    def judged(
        self,
        measured: Measured,
        values: Values,
        anchors: Mapping[str, Values],
        errors: Mapping[str, float | None],
    ) -> Measured:
        """Returns what a candidate is worth by its objectives and constraints.

        Args:
            measured: what its score on the evaluator's objectives says.
            values: of its tasks and measures.
            anchors: the values of references that constraints refer to, as far as they are known.
            errors: standard errors of its tasks, where they are known.
        """
        found = tuple(one.sign * values[one.name] for one in self.goals)
        measured = replace(measured, values=found, violation=self.violation(values, anchors))
        if self.kind != "lexicographic":
            return measured
        first, *others = map(_rounded, found, self.steps)
        error = errors.get(self.goals[0].name)
        return replace(measured, fitness=first, stderr=error, tie=_packed(others))

    def violation(self, values: Values, anchors: Mapping[str, Values]) -> float:
        """Returns by how much constraints are broken; one whose models are not known is not."""
        found = []
        for one in self.constraints:
            ids = self.models[one.model] if one.model else ()
            bound = one.bound([anchors[id_][one.name] for id_ in ids if id_ in anchors])
            if bound is not None:
                found.append(one.violation(values[one.name], bound))
        return math.fsum(found)


def read_constraint(text: str) -> Constraint:
    """Returns what a constraint says.

    Raises:
        ValueError: if it says nothing that is understood.
    """
    found = _CONSTRAINT.fullmatch(text)
    if found is None:
        raise ValueError(f"constraints: {_FORMS}, got {text!r}")
    model, number = found["model"], found["number"]
    offset = (
        float(number) if model is None else float((found["sign"] or "") + (found["margin"] or "0"))
    )
    if not math.isfinite(offset):
        raise ValueError(f"constraints: expected a finite number, got {text!r}")
    return Constraint(
        name=found["name"],
        at_most=found["relation"] == "<=",
        model="parent" if model == "parent" else "base" if model == "base" else None,
        offset=offset,
    )


def weighted_judge(weights: Values) -> Judge:
    """Returns the judge of a campaign that says nothing of objectives: the weighted sum."""
    return Objectives(kind="weighted").judge(weights, ())


def _weighted(weights: Values) -> tuple[Goal, ...]:
    """Returns the tasks that have a weight, all of them if none has one."""
    heavy = {name: weight for name, weight in weights.items() if weight} or weights
    return tuple(Goal(name=name, sign=math.copysign(1.0, weight)) for name, weight in heavy.items())


def _goal(key: str, named: str, weights: Values, measures: Collection[str]) -> Goal:
    name = named.removeprefix("-")
    if named in weights:
        return Goal(name=named, sign=math.copysign(1.0, weights[named]))
    if name in measures and (key == "of" or name == named):
        return Goal(name=name, sign=-1.0 if named.startswith("-") else 1.0)
    if name in weights:
        raise ValueError(
            f"{key}: {named!r} is a task: the sign of its weight says which way is better; leave "
            "out the minus"
        )
    known = nearest(name, [*weights, *measures])
    raise ValueError(f"{key}: {named!r} is neither a search task nor a measure; {known}")


def _models(
    constraints: Sequence[Constraint], references: Sequence[Reference]
) -> dict[Model, tuple[str, ...]]:
    """Returns the ids of the references that each model of a constraint is.

    Raises:
        ValueError: if a constraint refers to one that there is not.
    """
    numbered = [(f"r{number}", one) for number, one in enumerate(references, start=1)]
    found: dict[Model, tuple[str, ...]] = {
        "parent": tuple(id_ for id_, one in numbered if one.is_source),
        "base": tuple(id_ for id_, one in numbered if one.is_base),
    }
    for one in constraints:
        if one.model is not None and not found[one.model]:
            raise ValueError(
                f"constraints: {one.name!r} is bounded by {one.model!r}, but this space measures "
                f"no such model as it is; give a number instead"
            )
    return found


def _rounded(value: float, step: float) -> float:
    return value if step == 0 else step * math.floor(value / step + 0.5)


def _packed(values: Sequence[float]) -> float:
    """Returns a number that sorts as the values do, the first before the next.

    One value is left as it is. Of several each keeps its sign, exponent and first digits: the bits
    of a float sort as the float does, and those of two make the bits of one.
    """
    if len(values) == 1:
        return values[0]
    width, key = 61 // len(values), 1
    for value in values:
        (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))  # no negative zero
        ordered = bits ^ (2**64 - 1) if bits >> 63 else bits | 1 << 63
        key = key << width | ordered >> (64 - width)
    packed: float = struct.unpack(">d", struct.pack(">Q", key))[0]
    return packed

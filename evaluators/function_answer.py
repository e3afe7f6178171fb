"""What a function may answer as the worth of a candidate, read as a score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from evaluators.base import Score, TaskScore
from evaluators.pooling import mean_and_error

#: The objective of a function that returns a single number.
NAMELESS = "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One of the values that a function returns, and how much it counts."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    #: What the function calls it.
    name: str
    #: Factor in the weighted sum; below 0 where lower is better.
    weight: float = 1.0


def check_targets(targets: Sequence[Target], key: str = "tasks") -> None:
    """Refuses what names an objective twice, or gives it no finite weight.

    Raises:
        ValueError: naming the objective.
    """
    names = [one.name for one in targets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{key}: {twice[0]!r} is named twice")
    for one in targets:
        if not math.isfinite(one.weight):
            raise ValueError(f"{key}: {one.name!r} has a weight of {one.weight}, expected a number")


def read_answer(
    answer: Any,
    targets: Sequence[Target],
    num: int | None = None,
    wanted: Mapping[str, Sequence[int]] | None = None,
) -> Score:
    """Returns the score that a function's answer means.

    Args:
        answer: A number or a row of numbers; or a mapping of these, with each target's name.
        targets: What counts. An answer that is no mapping is the value of the only one.
        num: How many numbers each row must have; None for any number of them, or a single one.
        wanted: Target -> the places in its row that its score is made of; None for whole rows.

    Raises:
        ValueError: if a number is not finite, or a row has not as many as it must.
        TypeError: if the answer is anything else.
    """
    names = [one.name for one in targets]
    if isinstance(answer, Mapping):
        if missing := [name for name in names if name not in answer]:
            returned = ", ".join(map(repr, answer))
            raise TypeError(
                f"the function returned {returned}, expected a value of {missing[0]!r}; the key "
                "'tasks' of the campaign file names what counts"
            )
        values = {name: answer[name] for name in names}
    elif len(names) == 1:
        values = {names[0]: answer}
    else:
        raise TypeError(
            f"the function returned {_shown(answer)}, expected a mapping with {', '.join(names)}"
        )
    places = dict(wanted or {})
    tasks = {one.name: _task(one, values[one.name], num, places.get(one.name)) for one in targets}
    return Score(fitness=math.fsum(one.weight * one.value for one in tasks.values()), tasks=tasks)


def _task(target: Target, value: Any, num: int | None, places: Sequence[int] | None) -> TaskScore:
    row = _row(target.name, value)
    if row is None and num is None:
        number = _number(target.name, value)
        return TaskScore(value=number, stderr=None, documents=1, weight=target.weight)
    if row is None:
        raise TypeError(
            f"the function returned {_shown(value)} for {target.name!r}, expected a number for "
            f"each of {num} documents"
        )
    if not row or (num is not None and len(row) != num):
        raise ValueError(
            f"the function returned {len(row)} numbers for {target.name!r}, expected "
            f"{'at least one' if num is None else f'one for each of {num} documents'}"
        )
    row = row if places is None else [row[place] for place in places]
    mean, error = mean_and_error(row)
    return TaskScore(
        value=mean,
        stderr=error,
        documents=len(row),
        weight=target.weight,
        per_document=tuple(row),
    )


def _row(name: str, value: Any) -> list[float] | None:
    """Returns a row of numbers; None if the value is none."""
    if hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return None
    return [_number(name, one) for one in value]


def _number(name: str, value: Any) -> float:
    if hasattr(value, "item"):  # a number of numpy's or torch's
        value = value.item()
    if not isinstance(value, Real):
        raise TypeError(
            f"the function returned {_shown(value)} for {name!r}, expected a number, or a row of "
            "numbers, one for each document"
        )
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the function returned {number} for {name!r}, expected a finite number")
    return number


def _shown(value: Any) -> str:
    return f"{repr(value)[:100]} ({type(value).__name__})"

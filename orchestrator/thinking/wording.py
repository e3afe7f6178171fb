"""What classes and tokens of each task are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.ctm.mazes import Mazes
from evaluators.ctm.parity import Parity
from evaluators.ctm.pointers import Pointers
from evaluators.ctm.questions import ADD, BEGIN, Questions
from evaluators.ctm.sorting import Sorting


def _plain(ids: Sequence[int]) -> str:
    return " ".join(str(one) for one in ids)


def _pointer(ids: Sequence[int]) -> str:
    own, to, is_start = ids
    return f"{'▸' if is_start else ''}{own}→{to}"


def _asked(ids: Sequence[int]) -> str:
    if len(ids) == 1:
        return "answer"
    place, sign = ids
    return f"{'' if sign == BEGIN else '+ ' if sign == ADD else '- '}digit {place + 1}"


@dataclass(frozen=True, slots=True)
class Words:
    """Names for people."""

    classes: tuple[str, ...]
    #: From a token's ids to its label.
    token: Callable[[Sequence[int]], str] = _plain
    #: Whether classes are moves through a maze, in which the sample is one.
    moves: bool = False


def words_of(task: Any, num_classes: int) -> Words:
    """Returns the words of a task; numbers where it has no words of its own, or there is none."""
    if isinstance(task, Mazes):
        return Words(("↑", "↓", "←", "→", "•"), moves=True)
    numbers = tuple(str(one) for one in range(num_classes))
    if isinstance(task, Parity):
        return Words(("even", "odd"))
    if isinstance(task, Pointers):
        return Words(numbers, token=_pointer)
    if isinstance(task, Questions):
        return Words(numbers, token=_asked)
    if isinstance(task, Sorting):
        return Words((*numbers[:-1], "–"))  # noqa: RUF001  (nothing is said)
    return Words(numbers)

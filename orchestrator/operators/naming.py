"""What a candidate's record says of how it was made, and what can be read from it.

The names of the operators, with a plus between them; behind a name, in brackets, what a child
inherits; behind all, after an at sign, the island that it was born on:
`sbx+self_adaptive(0.05)@2`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from evaluators.registry import Registry

_BESIDE = re.compile(r"\([^()]*\)|@.*")


def plain(operator: str) -> str:
    """Returns the names alone, as they are counted: `sbx+self_adaptive`."""
    return _BESIDE.sub("", operator)


def names(operator: str) -> list[str]:
    """Returns the name of each operator that had a part in it."""
    return plain(operator).split("+")


def inherited(operator: str, name: str) -> float | None:
    """Returns the number that an operator of this name left to those who come after."""
    found = re.search(rf"(?:^|\+){re.escape(name)}\(([^()]*)\)", operator)
    return None if found is None else float(found.group(1))


def island(operator: str) -> int | None:
    """Returns which island a candidate was born on, if there were any."""
    found = re.search(r"@(\d+)", operator)
    return None if found is None else int(found.group(1))


def labels(registry: Registry, parts: Sequence[Any]) -> list[str]:
    """Returns a name for each part, of several with one name with their places: `sbx`, `sbx#2`."""
    found: list[str] = []
    for part in parts:
        name = label(registry, part)
        count = sum(1 for other in found if other.partition("#")[0] == name)
        found.append(f"{name}#{count + 1}" if count else name)
    return found


def label(registry: Registry, part: Any) -> str:
    """Returns the registered name of a part, or that of its class."""
    name = registry.name_of(type(part))
    return type(part).__name__.lower() if ":" in name else name

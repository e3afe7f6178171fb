"""Islands: populations that breed apart and now and then exchange their best (Tanese 1989).

They lie in a ring: copies of the best of each take the places of the worst of the next one. Where a
candidate was born is written behind its operator, so that it finds home whenever it comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge

from orchestrator.algorithms.base import Evaluated, Memory, Proposal, ranked
from orchestrator.operators import naming


@dataclass(frozen=True, slots=True, kw_only=True)
class Islands:
    """A ring of populations."""

    #: How many there are; they share `population_size` between them.
    count: Annotated[int, Ge(2)]
    #: Generations between two exchanges.
    every: Annotated[int, Ge(1)] = 10
    #: Members of each island that are copied to the next one.
    migrants: Annotated[int, Ge(1)] = 1

    def check(self, population_size: int) -> None:
        """Refuses islands that are too small.

        Raises:
            ValueError: naming what would be enough.
        """
        least = max(2, self.migrants + 1)
        if population_size < least * self.count:
            raise ValueError(
                f"islands: {self.count} of them with {self.migrants} migrants need a "
                f"population_size of at least {least * self.count}, got {population_size}"
            )

    def sizes(self, population_size: int) -> list[int]:
        """Returns the members of each island."""
        whole, rest = divmod(population_size, self.count)
        return [whole + (place < rest) for place in range(self.count)]

    def deal(self, members: Sequence[Evaluated]) -> tuple[Memory, ...]:
        """Returns the islands' memories at first, with what members there are in turn."""
        return tuple(Memory(tuple(members[place :: self.count])) for place in range(self.count))

    def home(self, one: Evaluated) -> int:
        """Returns where a candidate was born; who was born on none gets one by number."""
        born = naming.island(one.operator)
        return (one.number if born is None else born - 1) % self.count

    def migrated(self, parts: Sequence[Memory], sizes: Sequence[int]) -> tuple[Memory, ...]:
        """Returns the islands after an exchange."""
        found = []
        for place, (part, size) in enumerate(zip(parts, sizes, strict=True)):
            ours = {one.candidate for one in part.members}
            best = parts[place - 1].members[: self.migrants]
            coming = [one for one in best if one.candidate not in ours]
            staying = part.members[: max(0, size - len(coming))]
            found.append(replace(part, members=tuple(ranked([*staying, *coming]))))
        return tuple(found)


def born_on(place: int, proposals: Sequence[Proposal]) -> list[Proposal]:
    """Returns proposals with the island they come from in their record; islands count from 1."""
    return [replace(one, operator=f"{one.operator}@{place + 1}") for one in proposals]

"""What the winner is compared with that is made of it: itself without what it may owe its worth to.

Only the end of a search can name these. They are measured for the report alone, beside the winner,
and take no part in anything else. Another end, with another winner, has others; those of an earlier
winner stay in the store and are shown no more. What a counterpart is called follows from its winner
alone: ends that have the same winner have the same counterparts, which are measured once.
"""

from __future__ import annotations

from orchestrator.campaign.state import Campaign, Candidate, State
from orchestrator.spaces.base import as_contrasting

#: How such a candidate is made, for its record.
COUNTERPART = "counterpart"
#: Their numbers begin beyond those of all other references, with so many for each winner: one half
#: for the search's candidates, one for references that won.
_FIRST, _EACH = 10**9, 10


def of_winner(campaign: Campaign, state: State) -> list[Candidate]:
    """Returns the counterparts of the winner that the report will compare it with.

    What is compared with it anyway has none beside it: the winner, or a reference, of equal recipe.
    """
    space, best = as_contrasting(campaign.space), state.winner
    if space is None or best is None:
        return []
    winner = best.candidate
    first = _FIRST + _EACH * winner.number + (winner.role == "reference") * _EACH // 2
    known = {one.recipe.digest() for one in state.candidates.values() if _is_compared(one)}
    known.add(winner.recipe.digest())
    found = space.counterparts(winner.recipe)
    assert len(found) <= _EACH // 2, "a winner has no more counterparts than there are numbers"
    return [
        Candidate(
            id=f"r{first + place}",
            role="reference",
            number=first + place,
            generation=winner.generation,
            name=one.name,
            genome=None,
            recipe=one.recipe,
            parents=(winner.id,),
            operator=COUNTERPART,
        )
        for place, one in enumerate(found)
        if one.recipe.digest() not in known
    ]


def is_of(one: Candidate, winner: Candidate) -> bool:
    """Whether a reference is compared with this winner: counterparts are only with their own."""
    return one.operator != COUNTERPART or one.parents == (winner.id,)


def _is_compared(one: Candidate) -> bool:
    return one.role == "reference" and one.operator != COUNTERPART

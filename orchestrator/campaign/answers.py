"""What each document of a candidate scored, for algorithms that say they need it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from orchestrator.algorithms.base import Evaluated
from orchestrator.campaign.state import Campaign, State
from orchestrator.measurement.measured import Standing


def are_needed(campaign: Campaign, id_: str) -> bool:
    """Whether the algorithm is told what each document of this candidate scored."""
    return campaign.needs_answers and id_.startswith("s")


def answered(state: State, one: Evaluated) -> Evaluated:
    """Returns a candidate with what its documents scored, where that is known."""
    standing = state.standings.get(one.candidate)
    return one if standing is None else replace(one, answers=answers_of(standing))


def answers_of(standing: Standing) -> tuple[float, ...]:
    """Returns what each document of the search rows scored, higher is better, task after task.

    Tasks come by their names, and those that are no part of the fitness not at all. There is
    nothing to tell where the value of a task is not made of one number a document.
    """
    own = {part: score for part, score in standing.parts.items() if part[0] == "search"}
    if not own:
        return ()
    found: list[float] = []
    for _, task in sorted(Standing(own).pooled().tasks.items()):
        if len(task.per_document) != task.documents:
            return ()
        if task.weight:
            found += task.per_document if task.weight > 0 else (-one for one in task.per_document)
    return tuple(found)


def forgotten(state: State, told: Collection[str]) -> State:
    """Returns the state without what those that have been told scored."""
    if not state.standings:
        return state
    kept = {id_: one for id_, one in state.standings.items() if id_ not in told}
    return replace(state, standings=kept)

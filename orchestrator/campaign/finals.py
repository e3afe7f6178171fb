"""The end of a campaign: finalists, the winner, and what the report compares it with.

Four uses of rows stay apart: the search selects on search rows, the best of its candidates by
lower confidence bound are picked among on selection rows, once, and only the winner and what it is
compared with are measured on test rows and control tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluators.base import Rows, Score
from orchestrator.campaign import aggregation, counterparts, judging, measuring
from orchestrator.campaign.state import Best, Campaign, Candidate, Key, Phase, Role, State, Step
from workers.job import Failed, Job, Outcome, Scored

_FOLLOWING: Mapping[Phase, Phase] = {
    "search": "complete",
    "complete": "selection",
    "selection": "test",
    "test": "done",
    "done": "done",
}


def go_on(campaign: Campaign, step: Step) -> Step:
    """Moves to the next phase, and the next, until there is something to measure."""
    state = step.state
    if state.phase == "search":
        last = aggregation.begin(campaign, measuring.apply_fresh(state))
        state = last.state
        step = replace(
            step,
            candidates=[*step.candidates, *last.candidates],
            jobs=[*step.jobs, *last.jobs],
        )
    while not state.open and state.phase != "done":
        state, born = _with_counterparts(campaign, replace(state, phase=_FOLLOWING[state.phase]))
        state, jobs = _enter(campaign, state)
        opened: dict[Key, Job] = {(job.candidate, job.rows): job for job in jobs}
        state = replace(state, open=opened)
        step = replace(step, candidates=[*step.candidates, *born], jobs=[*step.jobs, *jobs])
    return replace(step, state=state)


def _with_counterparts(campaign: Campaign, state: State) -> tuple[State, list[Candidate]]:
    """Returns the state with what the report compares the winner with, and what of it is new."""
    if state.phase != "test" or campaign.kinds.isdisjoint(_REPORTED):
        return state, []
    found = counterparts.of_winner(campaign, state)
    born = [one for one in found if one.id not in state.candidates]
    known = {**state.candidates, **{one.id: one for one in born}}
    return replace(state, candidates=known), born


def note(state: State, outcome: Outcome) -> State:
    """Books an outcome on selection, test or control rows."""
    if outcome.rows != "selection":
        return replace(state, tested=state.tested | {(outcome.candidate, outcome.rows)})
    fitness = outcome.score.fitness if isinstance(outcome, Scored) else None
    return replace(state, selected={**state.selected, outcome.candidate: fitness})


def note_early(state: State, outcome: Outcome, *, final: bool | None) -> State:
    """Books what was recorded at the end of a campaign whose budget was raised afterwards.

    Other news of what is not waited for is no news.
    """
    if isinstance(outcome, Failed) and outcome.retryable and not final:
        return state
    if outcome.rows in ("selection", "test", "control"):
        return note(state, outcome)
    if outcome.rows != "search" or not outcome.block or _is_known(state, outcome):
        return state
    if isinstance(outcome, Failed):
        return replace(state, incomplete=state.incomplete | {outcome.candidate})
    key = (outcome.candidate, outcome.block)
    return replace(state, ahead={**state.ahead, key: outcome.score})


def _is_known(state: State, outcome: Outcome) -> bool:
    """Whether a block has been booked before, or its candidate is on its way through the blocks."""
    if (outcome.candidate, "search") in state.open:
        return True
    standing = state.standings.get(outcome.candidate)  # kept of the best, which finalists were
    parts = {} if standing is None else standing.parts
    broken = outcome.candidate in state.broken
    return not parts or broken or ("search", outcome.block) in parts


def book_completion(campaign: Campaign, state: State, outcome: Outcome) -> Step:
    """Books a block of a finalist that is measured in full after the search."""
    id_ = outcome.candidate
    if isinstance(outcome, Failed):
        state = replace(
            state, completing=state.completing - {id_}, incomplete=state.incomplete | {id_}
        )
        return Step(state)
    state = _with_block(campaign, state, id_, outcome.block, outcome.score)
    candidate = _top(state, id_).candidate
    measured = judging.worth(campaign, state, candidate, state.standings[id_])
    state, job = _completion(campaign, state, candidate)
    if job is None:
        return Step(replace(state, completing=state.completing - {id_}), measured=measured)
    opened = {**state.open, (job.candidate, job.rows): job}
    return Step(replace(state, open=opened), jobs=[job], measured=measured, final=False)


def _completion(campaign: Campaign, state: State, candidate: Candidate) -> tuple[State, Job | None]:
    """Returns the next job on the way to all search rows, after what had been measured ahead."""
    job = measuring.rest(campaign, state, candidate)
    while job is not None and (job.candidate, job.block) in state.ahead:
        score = state.ahead[job.candidate, job.block]
        state = _with_block(campaign, state, job.candidate, job.block, score)
        job = measuring.rest(campaign, state, candidate)
    return state, job


def _with_block(campaign: Campaign, state: State, id_: str, block: int, score: Score) -> State:
    standing = state.standings[id_].with_part(("search", block), score)
    ahead = {key: one for key, one in state.ahead.items() if key != (id_, block)}
    state = replace(
        state,
        standings={**state.standings, id_: standing},
        ahead=ahead,
        documents_spent=state.documents_spent + score.num_documents,
    )
    measured = judging.worth(campaign, state, _top(state, id_).candidate, standing)
    if measured.fidelity < 1:
        return state
    return replace(state, completed={**state.completed, id_: measured})


def _top(state: State, id_: str) -> Best:
    return next(one for tops in state.tops.values() for one in tops if one.candidate.id == id_)


def _enter(campaign: Campaign, state: State) -> tuple[State, Sequence[Job]]:
    """Returns the jobs that a phase begins with."""
    if state.winner is None:
        return state, []
    if state.phase == "complete":
        return _complete(campaign, state)
    if state.phase == "selection":
        finalists = [one.candidate for one in _finalists(campaign, state)]
        known = {one.id: state.selected[one.id] for one in finalists if one.id in state.selected}
        state = replace(state, selected=known)
        if "selection" not in campaign.kinds:
            return state, []
        return state, [_job(one, "selection") for one in finalists if one.id not in known]
    jobs = [
        _job(one, rows)
        for rows in _REPORTED
        if state.phase == "test" and rows in campaign.kinds
        for one in _compared(state)
        if (one.id, rows) not in state.tested
    ]
    return state, jobs


def _complete(campaign: Campaign, state: State) -> tuple[State, Sequence[Job]]:
    """Returns the jobs that measure finalists in full which were stopped or estimated."""
    jobs = []
    for one in _finalists(campaign, state):
        id_ = one.candidate.id
        is_done = one.measured.fidelity >= 1 or id_ in state.completed
        if is_done or id_ not in state.standings or id_ in state.incomplete:
            continue
        state, job = _completion(campaign, state, one.candidate)
        if job is not None:
            state = replace(state, completing=state.completing | {id_})
            jobs.append(job)
    return state, jobs


_REPORTED: tuple[Rows, ...] = ("test", "control")


def _finalists(campaign: Campaign, state: State) -> list[Best]:
    """Returns the best by lower confidence bound: of search and references, and of the control.

    Where nothing is to be picked among them afterwards, the best of each by rank alone.
    """
    picked_later = "selection" in campaign.kinds or campaign.regime.estimator is not None
    num = campaign.finalists if picked_later else 1
    groups: tuple[tuple[Role, ...], ...] = (("search", "reference"), ("control",))
    found: list[Best] = []
    for roles in groups:
        known = [one for role in roles for one in state.tops.get(role, ())]
        known.sort(key=_by_lower_bound)
        found += known[::-1][:num] if picked_later else _best(known)
    return found


def _by_lower_bound(one: Best) -> tuple[Any, ...]:
    """Sorts candidates as their ranks do, but by the lower end of the fitness."""
    measured = one.measured
    return (not measured.stopped, -measured.violation, measured.lower, one.rank)


def _best(known: Sequence[Best]) -> list[Best]:
    return [max(known, key=lambda one: one.rank)] if known else []


def _compared(state: State) -> list[Candidate]:
    """Returns the winner and what the report compares it with, each once."""
    roles: tuple[Role, ...] = ("search", "control")
    found = [state.winner, *(state.best_of(role) for role in roles)]
    candidates = [one.candidate for one in found if one is not None]
    candidates[1:1] = [
        one
        for one in state.candidates.values()
        if one.role == "reference" and counterparts.is_of(one, candidates[0])
    ]
    return list({one.id: one for one in candidates}.values())


def _job(candidate: Candidate, rows: Rows) -> Job:
    return Job(candidate=candidate.id, attempt=1, rows=rows, recipe=candidate.recipe)

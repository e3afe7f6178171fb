"""A candidate's way through the search rows: block by block, as long as it may still win.

Whom it races against is fixed when its generation is proposed, so that the order in which the
outcomes of a generation come changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evaluators.pooling import pool
from orchestrator.algorithms.base import Evaluated
from orchestrator.campaign import answers, judging
from orchestrator.campaign.state import Campaign, Candidate, Key, Role, State
from orchestrator.measurement.measured import Measured, Standing
from orchestrator.measurement.race import Field, Run, of_late
from workers.job import Job, Scored

#: Roles whose candidates race, each against the best of its own: budgets are spent alike.
RACING: tuple[Role, ...] = ("search", "control")


def first_job(campaign: Campaign, state: State, candidate: Candidate) -> Job:
    """Returns the job that a new candidate begins with."""
    regime = campaign.regime
    documents = regime.blocks[0]
    if regime.estimator is not None and candidate.role != "reference":
        documents = regime.estimator.choose(state.bank, candidate.number)
    return Job(
        candidate=candidate.id,
        attempt=1,
        rows="search",
        documents=documents,
        recipe=candidate.recipe,
    )


def take_part(
    campaign: Campaign, state: State, job: Job, outcome: Scored
) -> tuple[State, Measured, Job | None]:
    """Books a block of search rows; returns what it says, and the next block's job if there is one.

    A candidate without a next block has ended.
    """
    regime, id_ = campaign.regime, outcome.candidate
    standing = state.standings.get(id_, Standing()).with_part(("search", job.block), outcome.score)
    estimated = regime.estimator is not None and job.block == 0 and not is_reference(id_)
    if estimated:
        assert regime.estimator is not None
        assert job.documents is not None, "what is estimated is measured on some documents"
        measured = regime.estimator.estimate(state.bank, outcome.score, job.documents, ())
        state = replace(state, sampled={**state.sampled, id_: job.documents})
    else:
        measured = regime.measured(standing)
    left = None if estimated else following(campaign, job)
    if left is not None and not _goes_on(campaign, state, job, standing):
        left, measured = None, replace(measured, stopped=True)
    measured, values = judging.judged(campaign, state, state.candidates[id_], standing, measured)
    if left is None:
        state = judging.note_values(campaign.judge, state, id_, values)
    if regime.keeps_standings or answers.are_needed(campaign, id_):
        state = replace(state, standings={**state.standings, id_: standing})
    spent = state.documents_spent + outcome.score.num_documents
    return replace(state, documents_spent=spent), measured, left


def following(campaign: Campaign, job: Job) -> Job | None:
    """Returns the job of the block after this one; None after the last."""
    block, blocks = job.block + 1, campaign.regime.blocks
    if block >= len(blocks):
        return None
    return replace(job, block=block, documents=blocks[block], attempt=1, avoid=())


def rest(campaign: Campaign, state: State, candidate: Candidate) -> Job | None:
    """Returns the next job on the way to all search rows; None if all have been scored."""
    blocks = [block for rows, block in state.standings[candidate.id].parts if rows == "search"]
    job = Job(
        candidate=candidate.id,
        attempt=1,
        rows="search",
        block=max(blocks),
        recipe=candidate.recipe,
    )
    seen, whole = state.sampled.get(candidate.id), campaign.regime.blocks[0]
    if seen is None or whole is None:
        return following(campaign, job)
    left = {
        task: tuple(sorted(set(places) - set(seen.get(task, ())))) for task, places in whole.items()
    }
    if job.block > 0 or not any(left.values()):
        return None
    return replace(job, block=1, documents=left)


def is_reference(id_: str) -> bool:
    """Whether an id is a reference's: these are always measured in full."""
    return id_.startswith("r")


def _goes_on(campaign: Campaign, state: State, job: Job, standing: Standing) -> bool:
    race = campaign.regime.race
    if is_reference(job.candidate):
        return True
    if state.stop in ("time", "failures"):
        return False  # what has been measured must do
    if race is None:
        return True
    one = state.candidates[job.candidate]
    incumbents = tuple(state.standings[id_] for id_ in state.incumbents.get(one.role, ()))
    return race.goes_on(standing, Field(incumbents, state.runs.get(one.role, ()), one.number))


def note_fresh(campaign: Campaign, state: State, outcome: Scored) -> tuple[State, Measured]:
    """Books fresh rows of one of the elite: it is then worth its score on all its rows."""
    id_ = outcome.candidate
    standing = state.standings[id_].with_part(("fresh", outcome.block), outcome.score)
    measured = judging.worth(campaign, state, state.candidates[id_], standing)
    state = replace(
        state,
        standings={**state.standings, id_: standing},
        refreshed={**state.refreshed, id_: measured},
        documents_spent=state.documents_spent + outcome.score.num_documents,
    )
    return state, measured


def begin_round(campaign: Campaign, state: State) -> tuple[State, list[Job]]:
    """Returns the jobs that score the elite on the next fresh rows, if it is time for that."""
    regime = campaign.regime
    if regime.refresh is None or regime.layout is None or state.rounds >= len(regime.layout.fresh):
        return state, []
    if state.generation < regime.refresh.every * (state.rounds + 1):
        return state, []
    if any(rows == "fresh" for _, rows in state.open):
        return state, []  # an asynchronous search may be slower to measure than to propose
    documents = regime.layout.fresh[state.rounds]
    elite = [
        one.candidate
        for role in RACING
        for one in [top for top in state.tops.get(role, ()) if not top.measured.stopped][
            : regime.refresh.elites
        ]
    ]
    jobs = [
        Job(
            candidate=one.id,
            attempt=1,
            rows="fresh",
            block=state.rounds,
            documents=documents,
            recipe=one.recipe,
        )
        for one in elite
    ]
    fresh: dict[Key, Job] = {(job.candidate, job.rows): job for job in jobs}
    born = {one.id: one for one in elite}
    state = replace(
        state,
        rounds=state.rounds + 1,
        open={**state.open, **fresh},
        candidates={**state.candidates, **born},
    )
    return state, jobs


def apply_fresh(state: State) -> State:
    """Lets those that were scored on fresh rows change places, in the memory and among the best."""
    if not state.refreshed:
        return state
    new = state.refreshed

    def renewed(one: Evaluated) -> Evaluated:
        measured = new.get(one.candidate)
        return one if measured is None else evaluated(one, measured)

    known = [top for tops in state.tops.values() for top in tops if top.candidate.id in new]
    for top in known:
        state = judging.note_top(state, top.candidate, new[top.candidate.id])
    return replace(state, memory=state.memory.changed(renewed), refreshed={})


def evaluated(one: Evaluated, measured: Measured | None) -> Evaluated:
    """Returns a candidate as an algorithm is told of it once it has been measured."""
    if measured is None:
        return replace(one, fitness=None)
    return replace(
        one,
        fitness=measured.fitness,
        stopped=measured.stopped,
        tie=measured.tie,
        values=measured.values,
        violation=measured.violation,
    )


def renew(campaign: Campaign, state: State, told: Sequence[str]) -> State:
    """Takes what was measured into account for those to come; `told` are the newcomers, by age.

    The best of the search and of the control become the incumbents of theirs, an estimator learns,
    and what nobody needs any more of what candidates scored is forgotten.
    """
    regime = campaign.regime
    if not regime.keeps_standings:
        return answers.forgotten(state, state.ended)
    if regime.race is not None:
        state = replace(
            state,
            incumbents={role: _incumbents(state, role, regime.race.survivors) for role in RACING},
            runs={role: _runs(state, role, told) for role in RACING},
        )
    if regime.estimator is not None:
        state = replace(state, bank=_learned(campaign, state, told))
    needed = {
        *(id_ for id_, _ in state.open),
        *(id_ for ids in state.incumbents.values() for id_ in ids),
        *state.broken,
        *(one.candidate.id for tops in state.tops.values() for one in tops),
    }
    return replace(
        state,
        standings={id_: one for id_, one in state.standings.items() if id_ in needed},
        sampled={id_: one for id_, one in state.sampled.items() if id_ in needed},
    )


def _incumbents(state: State, role: Role, num: int) -> tuple[str, ...]:
    complete = [
        one.candidate.id
        for one in state.tops.get(role, ())
        if not one.measured.stopped and one.measured.fidelity >= 1 and not one.measured.violation
    ]  # who breaks constraints is no rival: a race is about fitness alone
    return tuple(complete[:num])


def _runs(state: State, role: Role, told: Sequence[str]) -> tuple[Run, ...]:
    runs = [*state.runs.get(role, ())]
    for id_ in told:
        measured, candidate = state.ended.get(id_), state.candidates[id_]
        if candidate.role != role or (measured is not None and measured.violation):
            continue
        standing = state.standings[id_]
        scores = [score for (rows, _), score in standing.parts.items() if rows == "search"]
        fitness = (pool(scores[: block + 1]).fitness for block in range(len(scores)))
        runs.append(Run(candidate.number, tuple(fitness)))
    return of_late(runs)


def _learned(campaign: Campaign, state: State, told: Sequence[str]) -> Any:
    """Returns what the estimator knows after the newcomers and the references.

    The control teaches it nothing: a search must be the same with and without one.
    """
    estimator = campaign.regime.estimator
    assert estimator is not None
    references = [  # only those it does not know: news of one is reason enough to fit again
        (id_, state.standings[id_].parts["search", 0])
        for id_, measured in sorted(state.ended.items())
        if is_reference(id_) and measured is not None
    ]
    answers = [
        (id_, state.sampled[id_], state.standings[id_].parts["search", 0])
        for id_ in told
        if id_ in state.sampled and state.candidates[id_].role == "search"
    ]
    return estimator.learn(state.bank, answers, references)

"""The campaign: a pure function from outcomes to the next jobs.

No clock, no files, no cluster. Feeding the same outcomes in the same order always gives the same
candidates, so that resuming is nothing but feeding the recorded outcomes again. Outcomes may come
late, doubled or in any order within a generation; all of that changes nothing. An asynchronous
algorithm has no generations to wait for: each outcome brings the next proposal, so that the order
of outcomes decides, and the stored order gives the stored proposals.

References (the base, the sources, the uniform merge) are generation 0. The search proposes from
generation 1 on (`orchestrator.campaign.breeding`); if a control is asked for, each generation is
accompanied by as many random candidates, which nothing selects on. A candidate may be measured
block by block (`orchestrator.campaign.measuring`). When the search has ended, finalists are picked
among on selection rows, and the winner, the references and the best control are measured on test
rows and control tasks (`orchestrator.campaign.finals`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.campaign import breeding, finals, judging, measuring
from orchestrator.campaign.state import (
    Campaign,
    Candidate,
    Entry,
    Key,
    Recorded,
    Retry,
    State,
    Step,
)
from orchestrator.measurement.measured import Measured
from workers.job import Failed, Job, Outcome


def start(campaign: Campaign) -> Step:
    """Returns the first candidates: the references and the first generation."""
    references = [
        Candidate(
            id=f"r{number}",
            role="reference",
            number=number,
            generation=0,
            name=reference.name,
            genome=None,
            recipe=reference.recipe,
            operator="reference",
        )
        for number, reference in enumerate(campaign.space.references, start=1)
    ]
    state = State(bank=campaign.regime.bank)
    return _advance(campaign, breeding.propose(campaign, state, references))


def replay(campaign: Campaign, state: State, entry: Entry) -> Step:
    """Returns what follows from an entry of the record."""
    if isinstance(entry, Recorded):
        return handle(campaign, state, entry.outcome, final=entry.final)
    return retry(campaign, state, entry)


def handle(
    campaign: Campaign, state: State, outcome: Outcome, *, final: bool | None = None
) -> Step:
    """Returns what follows from an outcome. An outcome that is not waited for changes nothing.

    Whether a failure ends its candidate is decided by `limits.max_attempts`, unless `final` says
    how it was decided when the outcome was recorded: limits may change between runs.
    """
    key: Key = (outcome.candidate, outcome.rows)
    job = state.open.get(key)
    if job is None or job.block != outcome.block:
        return Step(finals.note_early(state, outcome, final=final))
    if isinstance(outcome, Failed) and outcome.retryable:
        if outcome.attempt < job.attempt:
            return Step(state)  # the same news twice
        ends = job.attempt >= campaign.limits.max_attempts if final is None else final
        if not ends:
            again = _again(job, outcome)
            opened = {**state.open, key: again}
            return Step(replace(state, open=opened), jobs=[again], final=False)
    remaining = {other: open_ for other, open_ in state.open.items() if other != key}
    step = _book(campaign, replace(state, open=remaining), job, outcome)
    return replace(
        _advance(campaign, step), measured=step.measured, judged=step.judged, final=step.final
    )


def retry(campaign: Campaign, state: State, wish: Retry) -> Step:
    """Opens failed candidates again, and a search that stopped for its failures with them.

    One of the current generation still takes part in it. An elder one can become the best, but
    the generations that were bred without it stay as they are. Fresh rows of one that is no longer
    among the best are of no use to anybody.
    """
    wanted = [
        one for one in wish.wanted if one.rows != "fresh" or one.candidate.id in state.standings
    ]
    jobs = [
        Job(
            candidate=one.candidate.id,
            attempt=one.attempt,
            rows=one.rows,
            block=one.block,
            documents=one.documents,
            recipe=one.candidate.recipe,
        )
        for one in wanted
    ]
    again = {job.candidate for job in jobs if job.rows == "search"}
    completed = again & state.incomplete
    searched = again - completed
    reported = {(job.candidate, job.rows) for job in jobs}
    state = replace(
        state,
        open={**state.open, **{(job.candidate, job.rows): job for job in jobs}},
        candidates={**state.candidates, **{one.candidate.id: one.candidate for one in wanted}},
        ended={key: value for key, value in state.ended.items() if key not in searched},
        broken=state.broken - searched,
        completing=state.completing | completed,
        incomplete=state.incomplete - completed,
        num_failed=state.num_failed - len(searched),
        selected={
            id_: one for id_, one in state.selected.items() if (id_, "selection") not in reported
        },
        tested=state.tested - reported,
        stop=None if state.stop == "failures" else state.stop,
        phase="search",
    )
    return _advance(campaign, Step(state, (), jobs))


def abandon(campaign: Campaign, state: State, keys: Sequence[Key]) -> Step:
    """Ends the search because time is up; the jobs named were not started and will not be."""
    remaining = {key: job for key, job in state.open.items() if key not in set(keys)}
    return _advance(campaign, Step(replace(state, open=remaining, stop="time")))


def _again(job: Job, failed: Failed) -> Job:
    """Returns the next attempt: on another node if it can be, in smaller batches if it must be."""
    avoid = tuple(dict.fromkeys([*job.avoid, failed.node])) if failed.node else job.avoid
    return replace(
        job,
        attempt=job.attempt + 1,
        avoid=avoid,
        halvings=job.halvings + (failed.kind == "memory"),
    )


def _book(campaign: Campaign, state: State, job: Job, outcome: Outcome) -> Step:
    """Books an outcome that was waited for; returns what it brings for its own candidate."""
    if outcome.rows == "fresh":
        if isinstance(outcome, Failed):
            return Step(state)  # what it was worth before stands
        state, measured = measuring.note_fresh(campaign, state, outcome)
        return Step(state, measured=measured)
    if outcome.rows != "search":
        return Step(finals.note(state, outcome))
    if outcome.candidate in state.completing:
        return finals.book_completion(campaign, state, outcome)
    if isinstance(outcome, Failed):
        broken = state.broken | {outcome.candidate} if job.block else state.broken
        return Step(_end(campaign, replace(state, broken=broken), outcome.candidate, None))
    state, measured, following = measuring.take_part(campaign, state, job, outcome)
    if following is None:
        state = _end(campaign, state, outcome.candidate, measured)
        state, judged = judging.judge_waiting(campaign, state)
        return Step(state, measured=state.ended[outcome.candidate], judged=judged)
    opened = {**state.open, (following.candidate, following.rows): following}
    return Step(replace(state, open=opened), jobs=[following], measured=measured, final=False)


def _end(campaign: Campaign, state: State, id_: str, measured: Measured | None) -> State:
    """Books a candidate's end on the search rows."""
    layout = campaign.regime.layout
    full = 0 if layout is None or measured is None else layout.num_documents
    state = replace(
        state,
        ended={**state.ended, id_: measured},
        num_scored=state.num_scored + (measured is not None),
        num_failed=state.num_failed + (measured is None),
        num_stopped=state.num_stopped + (measured is not None and measured.stopped),
        documents_full=state.documents_full + full,
    )
    if measured is not None:
        state = judging.note_top(state, state.candidates[id_], measured)
    num_ended = state.num_scored + state.num_failed
    too_many = state.num_failed > campaign.limits.max_failure_fraction * num_ended
    if num_ended >= campaign.limits.min_ended and too_many:
        state = replace(state, stop="failures")
    return state


def _advance(campaign: Campaign, step: Step) -> Step:
    """Moves on as far as possible: next proposals, finalists, test rows, end."""
    if step.state.stop == "failures":
        return replace(step, state=replace(step.state, phase="done"))
    if step.state.phase == "search" and step.state.stop is None:
        step = breeding.go_on(campaign, step)
    if step.state.stop == "failures":  # of what nothing can go on without
        return replace(step, state=replace(step.state, phase="done"))
    return step if step.state.open else finals.go_on(campaign, step)

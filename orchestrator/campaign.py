"""The campaign: a pure function from outcomes to the next jobs.

No clock, no files, no cluster. Feeding the same outcomes in the same order always gives the same
candidates, so that resuming is nothing but feeding the recorded outcomes again. Outcomes may come
late, doubled or in any order within a generation; all of that changes nothing. An asynchronous
algorithm has no generations to wait for: each outcome brings the next proposal, so that the order
of outcomes decides, and the stored order gives the stored proposals.

References (the base, the sources, the uniform merge) are generation 0. The search proposes from
generation 1 on; if a control is asked for, each generation is accompanied by as many random
candidates, which nothing selects on. When the search has ended, the winner, the references and
the best control are measured on the test rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.algorithms.base import Evaluated, Proposal, as_asynchronous
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.state import (
    Best,
    Branch,
    Campaign,
    Candidate,
    Entry,
    Key,
    Recorded,
    Retry,
    Role,
    Rules,
    State,
    Step,
)
from workers.job import Failed, Job, Outcome, Scored

#: Places of the campaign's random streams; each draw of a generation has one of its own.
_STREAMS: Mapping[Role, int] = {"search": 1, "control": 2}
_LETTERS: Mapping[Role, str] = {"reference": "r", "search": "s", "control": "c"}


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
    return _advance(campaign, _propose(State(), references))


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
    if job is None:
        return Step(_note_early_test(state, outcome, final=final))
    if isinstance(outcome, Failed) and outcome.retryable:
        if outcome.attempt < job.attempt:
            return Step(state)  # the same news twice
        ends = job.attempt >= campaign.limits.max_attempts if final is None else final
        if not ends:
            again = _again(job, outcome)
            return Step(replace(state, open={**state.open, key: again}), jobs=[again])
    remaining = {other: open_ for other, open_ in state.open.items() if other != key}
    state = replace(state, open=remaining)
    if outcome.rows == "test":
        return _advance(campaign, Step(_note_test(state, outcome)))
    return _advance(campaign, Step(_end(campaign, state, outcome)))


def retry(campaign: Campaign, state: State, wish: Retry) -> Step:
    """Opens failed candidates again, and a search that stopped for its failures with them.

    One of the current generation still takes part in it. An elder one can become the best, but
    the generations that were bred without it stay as they are.
    """
    jobs = [
        Job(
            candidate=one.candidate.id,
            attempt=one.attempt,
            rows=one.rows,
            recipe=one.candidate.recipe,
        )
        for one in wish.wanted
    ]
    searched = {job.candidate for job in jobs if job.rows == "search"}
    tested = {job.candidate for job in jobs if job.rows == "test"}
    born = {one.candidate.id: one.candidate for one in wish.wanted}
    state = replace(
        state,
        open={**state.open, **{(job.candidate, job.rows): job for job in jobs}},
        candidates={**state.candidates, **born},
        ended={key: value for key, value in state.ended.items() if key not in searched},
        num_failed=state.num_failed - len(searched),
        tested=state.tested - tested,
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


def _end(campaign: Campaign, state: State, outcome: Outcome) -> State:
    """Books a candidate's end on the search rows."""
    fitness = outcome.score.fitness if isinstance(outcome, Scored) else None
    state = replace(
        state,
        ended={**state.ended, outcome.candidate: fitness},
        num_scored=state.num_scored + (fitness is not None),
        num_failed=state.num_failed + (fitness is None),
    )
    if fitness is not None:
        state = _note_best(state, state.candidates[outcome.candidate], fitness)
    num_ended = state.num_scored + state.num_failed
    too_many = state.num_failed > campaign.limits.max_failure_fraction * num_ended
    if num_ended >= campaign.limits.min_ended and too_many:
        state = replace(state, stop="failures")
    return state


def _note_best(state: State, candidate: Candidate, fitness: float) -> State:
    known = state.best.get(candidate.role)
    if known is not None:
        rank = (known.fitness, -known.candidate.number)
        if (fitness, -candidate.number) <= rank:
            return state
    best = Best(candidate=candidate, fitness=fitness)
    return replace(state, best={**state.best, candidate.role: best})


def _note_test(state: State, outcome: Outcome) -> State:
    return replace(state, tested=state.tested | {outcome.candidate})


def _note_early_test(state: State, outcome: Outcome, *, final: bool | None) -> State:
    """Books a test that was recorded before the budget was raised; other news is no news."""
    if outcome.rows != "test":
        return state
    may_pass = isinstance(outcome, Failed) and outcome.retryable
    return state if may_pass and not final else _note_test(state, outcome)


def _advance(campaign: Campaign, step: Step) -> Step:
    """Moves on as far as possible: next proposals, test rows, end."""
    if step.state.stop == "failures":
        return replace(step, state=replace(step.state, phase="done"))
    if step.state.phase == "search" and step.state.stop is None:
        step = _go_on(campaign, step)
    if step.state.phase == "search" and not step.state.open:
        step = _start_tests(campaign, step)
    if step.state.phase == "test" and not step.state.open:
        step = replace(step, state=replace(step.state, phase="done"))
    return step


def _go_on(campaign: Campaign, step: Step) -> Step:
    """Proposes what the algorithm wants next, if it is time for that."""
    state = step.state
    algorithm = campaign.branch(state.proposed + 1).rules.algorithm
    if as_asynchronous(algorithm) is not None and state.generation > 0:
        before = campaign.branch(state.proposed).rules.algorithm
        waits = as_asynchronous(before) is None and not _generation_ended(state)
        return step if waits else _keep_busy(campaign, step)
    return _next_generation(campaign, step) if _generation_ended(state) else step


def _generation_ended(state: State) -> bool:
    """Whether every search candidate of the generation has an outcome (none yet: generation 0)."""
    return all(
        candidate.id in state.ended
        for candidate in state.candidates.values()
        if candidate.role == "search" and candidate.generation == state.generation
    )


def _tell(campaign: Campaign, state: State) -> State:
    """Tells the algorithm what has ended of what it may still learn from."""
    told = [
        Evaluated(
            candidate=candidate.id,
            number=candidate.number,
            genome=candidate.genome,
            fitness=state.ended[candidate.id],
        )
        for candidate in state.candidates.values()
        if candidate.id in state.ended
        and candidate.role == "search"
        and candidate.genome is not None
        and (candidate.generation == state.generation or _may_be_late(campaign, candidate))
    ]
    if not told:
        return state
    algorithm = campaign.branch(state.proposed).rules.algorithm
    return replace(state, memory=algorithm.tell(state.memory, told))


def _may_be_late(campaign: Campaign, candidate: Candidate) -> bool:
    return as_asynchronous(campaign.branch(candidate.number).rules.algorithm) is not None


def _next_generation(campaign: Campaign, step: Step) -> Step:
    state = _tell(campaign, step.state)
    branch = campaign.branch(state.proposed + 1)
    num = min(allowance(campaign, state), branch.until - state.proposed)
    generation = state.generation + 1
    if num == 0:
        return replace(step, state=_forget_ended(state))
    rng = _rng(branch.rules, "search", generation)
    proposals = branch.rules.algorithm.ask(campaign.space.box, state.memory, rng)[:num]
    return _add(campaign, step, _forget_ended(state), branch, generation, proposals, (generation,))


def _keep_busy(campaign: Campaign, step: Step) -> Step:
    """Keeps as many candidates open as the population has members: no one waits for anyone."""
    step = replace(step, state=_forget_ended(_tell(campaign, step.state)))
    ours = _LETTERS["search"]
    num_open = sum(1 for id_, rows in step.state.open if id_[0] == ours and rows == "search")
    while True:
        state = step.state
        branch = campaign.branch(state.proposed + 1)
        algorithm = as_asynchronous(branch.rules.algorithm)
        if algorithm is None:
            return step  # a fork whose own rules wait for generations goes on when all have ended
        if num_open >= algorithm.size(1) or allowance(campaign, state) == 0:
            return step
        number = state.proposed + 1
        rng = _rng(branch.rules, "search", 0, number)
        proposal = algorithm.ask_one(campaign.space.box, state.memory, rng)
        generation = 1 + (number - 1) // algorithm.size(1)
        step = _add(campaign, step, state, branch, generation, [proposal], (0, number))
        num_open += 1


def _add(
    campaign: Campaign,
    step: Step,
    state: State,
    branch: Branch,
    generation: int,
    proposals: Sequence[Proposal],
    place: tuple[int, ...],
) -> Step:
    """Turns proposals into candidates, with as many controls beside them."""
    state = replace(state, generation=max(generation, state.generation))
    born = _candidates(campaign, state, "search", proposals)
    if branch.rules.control:
        control = RandomSearch(population_size=len(proposals))
        drawn = control.ask(campaign.space.box, (), _rng(branch.rules, "control", *place))
        born += _candidates(campaign, state, "control", drawn)
    following = _propose(replace(state, proposed=state.proposed + len(proposals)), born)
    return Step(
        following.state,
        [*step.candidates, *following.candidates],
        [*step.jobs, *following.jobs],
    )


def allowance(campaign: Campaign, state: State) -> int:
    """Returns how many more candidates the search may propose now."""
    limits, allowed = campaign.limits, 2**31
    if limits.generations is not None:
        algorithm = campaign.branch(state.proposed + 1).rules.algorithm
        if as_asynchronous(algorithm) is not None:
            allowed = max(0, limits.generations * algorithm.size(1) - state.proposed)
        elif state.generation >= limits.generations:
            return 0
    if limits.evaluations is not None:
        allowed = min(allowed, max(0, limits.evaluations - state.proposed))
    return allowed


def _forget_ended(state: State) -> State:
    """Drops what has ended; references and what is still open must be remembered."""
    waiting = {candidate for candidate, _ in state.open}
    kept = {
        id_: candidate
        for id_, candidate in state.candidates.items()
        if candidate.role == "reference" or id_ in waiting
    }
    return replace(state, candidates=kept, ended={})


def _candidates(
    campaign: Campaign, state: State, role: Role, proposals: Sequence[Proposal]
) -> list[Candidate]:
    return [
        Candidate(
            id=f"{_LETTERS[role]}{number}",
            role=role,
            number=number,
            generation=state.generation,
            genome=proposal.genome,
            recipe=campaign.space.decode(proposal.genome),
            parents=proposal.parents,
            operator=proposal.operator,
        )
        for number, proposal in enumerate(proposals, start=state.proposed + 1)
    ]


def _propose(state: State, born: Sequence[Candidate]) -> Step:
    """Adds candidates and their first jobs."""
    jobs = [
        Job(candidate=candidate.id, attempt=1, rows="search", recipe=candidate.recipe)
        for candidate in born
    ]
    state = replace(
        state,
        candidates={**state.candidates, **{candidate.id: candidate for candidate in born}},
        open={**state.open, **{(job.candidate, job.rows): job for job in jobs}},
    )
    return Step(state, born, jobs)


def _start_tests(campaign: Campaign, step: Step) -> Step:
    state = replace(step.state, phase="test")
    if not campaign.tests or state.winner is None:
        return replace(step, state=state)
    finalists = [state.winner.candidate]
    finalists += [one for one in state.candidates.values() if one.role == "reference"]
    finalists += [
        state.best[role].candidate for role in ("search", "control") if role in state.best
    ]
    jobs = [
        Job(candidate=one.id, attempt=1, rows="test", recipe=one.recipe)
        for one in {one.id: one for one in finalists}.values()
        if one.id not in state.tested
    ]
    state = replace(state, open={(job.candidate, job.rows): job for job in jobs})
    return Step(state, step.candidates, [*step.jobs, *jobs])


def _rng(rules: Rules, role: Role, *place: int) -> np.random.Generator:
    """Randomness is derived from its place, never stored: resuming needs nothing."""
    return np.random.default_rng([rules.seed, _STREAMS[role], *place])

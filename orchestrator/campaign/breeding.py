"""How a campaign comes to its candidates: generations, or one after another, and their control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.algorithms.base import Evaluated, Memory, Proposal, as_asynchronous
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign import answers, descent, judging, measuring, stopping
from orchestrator.campaign.state import Branch, Campaign, Candidate, Role, Rules, State, Step
from orchestrator.measurement.measured import Measured
from orchestrator.spaces.genes import Genome
from workers.job import Job

#: Places of the campaign's random streams; each draw of a generation has one of its own.
_STREAMS: Mapping[Role, int] = {"search": 1, "control": 2}
_LETTERS: Mapping[Role, str] = {"reference": "r", "search": "s", "control": "c"}


def go_on(campaign: Campaign, step: Step) -> Step:
    """Proposes what the algorithm wants next, if it is time for that."""
    state = step.state
    if _lacks_references(campaign, state):
        return step if state.open else replace(step, state=replace(state, stop="failures"))
    waited, waits = (
        as_asynchronous(campaign.branch(number).rules.algorithm) is None
        for number in (state.proposed, state.proposed + 1)
    )
    if state.generation == 0 or (waited and waits):
        return _next_generation(campaign, step) if _generation_ended(campaign, state) else step
    if not judging.references_known(campaign.judge, state):
        return step
    # Where a fork has changed from one to the other, what its ancestor had begun ends as it would
    # have there: estimates rest on what was learned before.
    if waited == waits or _generation_ended(campaign, state):
        return _next_generation(campaign, step) if waits else _keep_busy(campaign, step)
    return step if waited else _keep_busy(campaign, step)


def _generation_ended(campaign: Campaign, state: State) -> bool:
    """Whether all that the next generation depends on is known (at first that is nothing)."""
    # One that is open on fresh rows alone was told long ago.
    searching = any(
        (candidate.id, "search") in state.open
        for candidate in state.candidates.values()
        if candidate.role == "search" and candidate.generation == state.generation
    )
    return not searching and not any(_is_awaited(campaign, state, id_) for id_, _ in state.open)


def _is_awaited(campaign: Campaign, state: State, id_: str) -> bool:
    """Whether a generation waits for this, as what the next one is measured by depends on it.

    Where candidates race, are scored on fresh rows or estimated, all is told together, the control
    with the search; estimates need the references, too, and so do constraints that refer to them.
    """
    regime = campaign.regime
    if measuring.is_reference(id_):
        is_needed = regime.estimator is not None or _is_needed(campaign, id_)
        return is_needed and state.generation > 0
    return regime.keeps_standings


def _is_needed(campaign: Campaign, id_: str) -> bool:
    return campaign.judge is not None and id_ in campaign.judge.needed


def _lacks_references(campaign: Campaign, state: State) -> bool:
    """Whether a reference that constraints refer to failed for good, so that nobody is judged."""
    if judging.references_known(campaign.judge, state) or state.generation == 0:
        return False
    return not any(_is_needed(campaign, id_) for id_, _ in state.open)


def _look_at_progress(campaign: Campaign, state: State) -> State:
    """Ends the search if it has found enough, or nothing more for long.

    What a fork has from its ancestors was proposed, and is told, whatever had been found.
    """
    limits, ours = campaign.limits, _LETTERS["search"]
    if (limits.target is None and limits.stagnation is None) or state.generation == 0:
        return state
    num_open = sum(1 for id_, rows in state.open if id_[0] == ours and rows == "search")
    so_far = {"evaluations": state.proposed - num_open, "generation": state.generation}
    known = [one.measured for one in state.tops.get("search", ()) if not one.measured.stopped]
    best = known[0] if known else None
    by = limits.stagnation.by if limits.stagnation is not None else 0.0
    last = stopping.advanced(state.progress, best, by=by, **so_far)
    state = replace(state, progress=last)
    if campaign.history and _is_ancestral(state, campaign.history[-1].until):
        return state
    if stopping.has_reached(best, limits.target):
        return replace(state, stop="target")
    if stopping.has_stagnated(last, limits.stagnation, **so_far):
        return replace(state, stop="stagnation")
    return state


def _is_ancestral(state: State, until: int) -> bool:
    """Whether not all candidates up to this have been proposed and have ended."""
    return state.proposed < until or any(
        rows == "search" and id_[0] == _LETTERS["search"] and state.candidates[id_].number <= until
        for id_, rows in state.open
    )


def _tell(campaign: Campaign, state: State) -> State:
    """Tells the algorithm what has ended of what it may still learn from.

    How others are measured depends on all that has ended, of the control, too.
    """
    state = measuring.apply_fresh(state)
    newcomers = [
        candidate
        for candidate in state.candidates.values()
        if candidate.role != "reference" and state.ended.get(candidate.id) is not None
    ]
    told = [
        _evaluated(candidate, candidate.genome, state.ended[candidate.id])
        for candidate in state.candidates.values()
        if candidate.id in state.ended
        and candidate.role == "search"
        and candidate.genome is not None
        and (candidate.generation == state.generation or _may_be_late(campaign, candidate))
    ]
    if told:
        algorithm = campaign.branch(state.proposed).rules.algorithm
        if campaign.needs_answers:
            told = [answers.answered(state, one) for one in told]
        state = replace(state, memory=algorithm.tell(state.memory, told))
        state = descent.with_ancestors(campaign.space, state)
    newcomers.sort(key=lambda one: (one.role, one.number))
    return measuring.renew(campaign, state, [one.id for one in newcomers])


def _evaluated(candidate: Candidate, genome: Genome, measured: Measured | None) -> Evaluated:
    one = Evaluated(
        candidate=candidate.id,
        number=candidate.number,
        genome=genome,
        fitness=None,
        parents=candidate.parents,
        operator=candidate.operator,
    )
    return measuring.evaluated(one, measured)


def _may_be_late(campaign: Campaign, candidate: Candidate) -> bool:
    return as_asynchronous(campaign.branch(candidate.number).rules.algorithm) is not None


def _next_generation(campaign: Campaign, step: Step) -> Step:
    state = _look_at_progress(campaign, _tell(campaign, step.state))
    if state.stop is not None:
        return replace(step, state=_forget_ended(state))
    branch = campaign.branch(state.proposed + 1)
    num = min(allowance(campaign, state), branch.until - state.proposed)
    generation = state.generation + 1
    if num == 0:
        return replace(step, state=_forget_ended(state))
    rng = _rng(branch.rules, "search", generation)
    proposals = branch.rules.algorithm.ask(campaign.space.genes, state.memory, rng)[:num]
    if not proposals:
        return replace(step, state=replace(_forget_ended(state), stop="exhausted"))
    state, fresh = measuring.begin_round(campaign, _forget_ended(state))
    step = replace(step, jobs=[*step.jobs, *fresh])
    return _add(campaign, step, state, branch, generation, proposals, (generation,))


def _keep_busy(campaign: Campaign, step: Step) -> Step:
    """Keeps as many candidates open as the population has members: no one waits for anyone."""
    state, fresh = _look_at_progress(campaign, _tell(campaign, step.state)), list[Job]()
    state = _forget_ended(state)
    if state.stop is not None:
        return replace(step, state=state)
    if allowance(campaign, state) > 0:
        state, fresh = measuring.begin_round(campaign, state)
    step = replace(step, state=state, jobs=[*step.jobs, *fresh])
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
        proposal = algorithm.ask_one(campaign.space.genes, state.memory, rng)
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
        drawn = control.ask(campaign.space.genes, Memory(), _rng(branch.rules, "control", *place))
        born += _candidates(campaign, state, "control", drawn)
    following = propose(campaign, replace(state, proposed=state.proposed + len(proposals)), born)
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
            recipe=descent.recipe_of(campaign.space, state, proposal),
            parents=proposal.parents,
            operator=proposal.operator,
        )
        for number, proposal in enumerate(proposals, start=state.proposed + 1)
    ]


def propose(campaign: Campaign, state: State, born: Sequence[Candidate]) -> Step:
    """Adds candidates and their first jobs."""
    jobs = [measuring.first_job(campaign, state, candidate) for candidate in born]
    state = replace(
        state,
        candidates={**state.candidates, **{candidate.id: candidate for candidate in born}},
        open={**state.open, **{(job.candidate, job.rows): job for job in jobs}},
    )
    return Step(state, born, jobs)


def _rng(rules: Rules, role: Role, *place: int) -> np.random.Generator:
    """Randomness is derived from its place, never stored: resuming needs nothing."""
    return np.random.default_rng([rules.seed, _STREAMS[role], *place])

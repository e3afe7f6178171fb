"""The campaign: a pure function from outcomes to the next jobs.

No clock, no files, no cluster. Feeding the same outcomes in the same order always gives the same
candidates, so that resuming is nothing but feeding the recorded outcomes again. Outcomes may come
late, doubled or in any order within a generation; all of that changes nothing.

References (the base, the sources, the uniform merge) are generation 0. The search proposes from
generation 1 on; if a control is asked for, each generation is accompanied by as many random
candidates, which nothing selects on. When the search has ended, the winner, the references and
the best control are measured on the test rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from evaluators.base import Rows
from orchestrator.algorithms.base import Algorithm, Evaluated, Memory, Proposal
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.spaces.base import Genome, Space
from workers.job import Failed, Job, Outcome, Scored
from workers.recipe import MergeRecipe

Role = Literal["reference", "search", "control"]
#: A candidate on one kind of rows.
Key: TypeAlias = tuple[str, Rows]
Stop = Literal["time", "failures"]

#: Places of the campaign's random streams; each draw of a generation has one of its own.
_STREAMS: Mapping[Role, int] = {"search": 1, "control": 2}
_LETTERS: Mapping[Role, str] = {"reference": "r", "search": "s", "control": "c"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A numbered genome and its recipe."""

    #: A letter for the role and the number: s17 is the search's seventeenth proposal.
    id: str
    role: Role
    #: Counts from 1 within a role, in the order of proposals.
    number: int
    generation: int
    #: What a reference is called; empty for others.
    name: str = ""
    #: None for references.
    genome: Genome | None
    recipe: MergeRecipe
    parents: tuple[str, ...] = ()
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a campaign ends."""

    generations: int | None = None
    evaluations: int | None = None
    max_attempts: int = 3
    #: Share of failed candidates at which the campaign gives up...
    max_failure_fraction: float = 0.5
    #: ...once so many have ended.
    min_ended: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Everything that decides which candidates come, and nothing else."""

    space: Space
    algorithm: Algorithm
    seed: int
    limits: Limits
    #: Whether random search runs beside the search, at the same number of evaluations.
    control: bool = False
    #: Whether there are test rows.
    tests: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best measured candidate of a role."""

    candidate: Candidate
    fitness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a campaign remembers."""

    #: Jobs that have no outcome yet.
    open: Mapping[Key, Job] = field(default_factory=dict)
    #: Every reference, and the candidates of the current generation.
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    #: Candidate of the current generation -> fitness, or None where it failed.
    ended: Mapping[str, float | None] = field(default_factory=dict)
    memory: Memory = ()
    generation: int = 0
    #: Search candidates proposed so far; the control has as many.
    proposed: int = 0
    num_scored: int = 0
    num_failed: int = 0
    best: Mapping[Role, Best] = field(default_factory=dict)
    tested: frozenset[str] = frozenset()
    stop: Stop | None = None
    phase: Literal["search", "test", "done"] = "search"

    @property
    def winner(self) -> Best | None:
        """The best of the search and the references; the control takes no part."""
        contenders = [self.best[role] for role in ("search", "reference") if role in self.best]
        return max(contenders, key=lambda best: best.fitness, default=None)


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from an event."""

    state: State
    #: Candidates that did not exist before.
    candidates: Sequence[Candidate] = ()
    jobs: Sequence[Job] = ()


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
        return Step(_note_test(state, outcome))
    if isinstance(outcome, Failed) and outcome.retryable:
        if outcome.attempt < job.attempt:
            return Step(state)  # the same news twice
        ends = job.attempt >= campaign.limits.max_attempts if final is None else final
        if not ends:
            again = replace(job, attempt=job.attempt + 1)
            return Step(replace(state, open={**state.open, key: again}), jobs=[again])
    remaining = {other: open_ for other, open_ in state.open.items() if other != key}
    state = replace(state, open=remaining)
    if outcome.rows == "test":
        return _advance(campaign, Step(_note_test(state, outcome)))
    return _advance(campaign, Step(_end(campaign, state, outcome)))


def abandon(campaign: Campaign, state: State, keys: Sequence[Key]) -> Step:
    """Ends the search because time is up; the jobs named were not started and will not be."""
    remaining = {key: job for key, job in state.open.items() if key not in set(keys)}
    return _advance(campaign, Step(replace(state, open=remaining, stop="time")))


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
        state = replace(state, stop="failures", open={})
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
    if outcome.rows != "test":
        return state
    if isinstance(outcome, Failed) and outcome.retryable and state.phase != "test":
        return state  # from an earlier run, whose next attempt is still to come
    return replace(state, tested=state.tested | {outcome.candidate})


def _advance(campaign: Campaign, step: Step) -> Step:
    """Moves on as far as possible: next generation, test rows, end."""
    state = step.state
    if state.phase == "search" and _generation_ended(state):
        step = _next_generation(campaign, step)
        state = step.state
    if state.phase == "search" and not state.open:
        step = _start_tests(campaign, step)
        state = step.state
    if state.phase == "test" and not state.open:
        step = replace(step, state=replace(state, phase="done"))
    return step


def _generation_ended(state: State) -> bool:
    """Whether every search candidate of the generation has an outcome (none yet: generation 0)."""
    return state.stop is None and all(
        candidate.id in state.ended
        for candidate in state.candidates.values()
        if candidate.role == "search"
    )


def _next_generation(campaign: Campaign, step: Step) -> Step:
    state = step.state
    current = [
        Evaluated(
            candidate=candidate.id,
            number=candidate.number,
            genome=candidate.genome,
            fitness=state.ended[candidate.id],
        )
        for candidate in state.candidates.values()
        if candidate.role == "search" and candidate.genome is not None
    ]
    memory = campaign.algorithm.tell(state.memory, current) if current else state.memory
    state = replace(state, memory=memory)
    num = _allowance(campaign, state)
    generation = state.generation + 1
    if num == 0:
        return replace(step, state=_forget_generation(state))
    rng = _rng(campaign, "search", generation)
    proposals = campaign.algorithm.ask(campaign.space.box, memory, rng)[:num]
    born = _candidates(campaign, state, "search", proposals)
    if campaign.control:
        control = RandomSearch(population_size=len(proposals))
        rng = _rng(campaign, "control", generation)
        drawn = control.ask(campaign.space.box, (), rng)
        born += _candidates(campaign, state, "control", drawn)
    state = replace(
        _forget_generation(state),
        generation=generation,
        proposed=state.proposed + len(proposals),
    )
    following = _propose(state, born)
    return Step(
        following.state,
        [*step.candidates, *following.candidates],
        [*step.jobs, *following.jobs],
    )


def _allowance(campaign: Campaign, state: State) -> int:
    """Returns how many candidates the next generation may have."""
    limits = campaign.limits
    if limits.generations is not None and state.generation >= limits.generations:
        return 0
    if limits.evaluations is not None:
        return max(0, limits.evaluations - state.proposed)
    return 2**31


def _forget_generation(state: State) -> State:
    """Drops what has ended; what is still open (references, controls) must be remembered."""
    waiting = {candidate for candidate, _ in state.open}
    kept = {
        id_: candidate
        for id_, candidate in state.candidates.items()
        if candidate.role == "reference" or (id_ in waiting and candidate.role != "search")
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
            generation=state.generation + 1,
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
    if not campaign.tests or state.stop == "failures" or state.winner is None:
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


def _rng(campaign: Campaign, role: Role, generation: int) -> np.random.Generator:
    """Randomness is derived from its place, never stored: resuming needs nothing."""
    return np.random.default_rng([campaign.seed, _STREAMS[role], generation])

"""Laws of the campaign: it is a pure function of its outcomes, in whatever order they come."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign import Campaign, Candidate, Limits, State, abandon, handle, start
from workers.job import Failed, Job, Outcome, Scored

Answer = Callable[[Job], Outcome]


@dataclass
class Record:
    """All that a campaign did."""

    state: State
    candidates: list[Candidate] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)

    def take(self, step) -> None:
        self.state = step.state
        self.candidates += step.candidates
        self.jobs += step.jobs
        self.waiting += step.jobs

    @property
    def by_role(self) -> dict[str, list[Candidate]]:
        roles = ("reference", "search", "control")
        return {role: [one for one in self.candidates if one.role == role] for role in roles}

    @property
    def essence(self) -> object:
        """What must not depend on the order of outcomes within a generation."""
        state = self.state
        told = (state.memory, state.best, state.winner, state.num_scored, state.num_failed)
        ended = (state.phase, state.stop, state.generation, state.proposed, state.tested)
        return {one.id: one for one in self.candidates}, told, ended


def begun(campaign: Campaign) -> Record:
    record = Record(State())
    record.take(start(campaign))
    return record


def feed(campaign: Campaign, record: Record, outcome: Outcome) -> None:
    record.outcomes.append(outcome)
    record.take(handle(campaign, record.state, outcome))


def go_on(
    campaign: Campaign, record: Record, answer: Answer, order: random.Random, num: int = 10**6
) -> Record:
    """Answers waiting jobs in any order until the end, or `num` of them."""
    while record.waiting and num > 0 and record.state.phase != "done":
        job = record.waiting.pop(order.randrange(len(record.waiting)))
        feed(campaign, record, answer(job))
        num -= 1
    return record


def replay(campaign: Campaign, outcomes: Sequence[Outcome]) -> Record:
    """What a driver does after a crash: the recorded outcomes again, then what is still open."""
    record = begun(campaign)
    for outcome in outcomes:
        feed(campaign, record, outcome)
    waiting = {(job.candidate, job.rows): job for job in record.jobs}
    answered = {(one.candidate, one.rows, one.attempt) for one in outcomes}
    record.waiting = [
        job for key, job in waiting.items() if key in record.state.open and job.key not in answered
    ]
    return record


def failed(job: Job, *, retryable: bool) -> Failed:
    return Failed(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        stage="evaluate",
        cause="chance",
        retryable=retryable,
        seconds=1.0,
        worker="fake",
    )


def dice(*parts: object) -> int:
    """A number that depends on nothing but the parts."""
    return zlib.crc32(repr(parts).encode())


@pytest.fixture(scope="session")
def answers(score: Callable[..., Scored]) -> Callable[[int], Answer]:
    """Fates by seed: 0 measures everything; others break some attempts, now and then for good."""

    def with_luck(luck: int) -> Answer:
        def answer(job: Job) -> Outcome:
            fate = dice(luck, job.key) % 10 if luck else 9
            if fate < 2:
                return failed(job, retryable=True)
            if fate < 4 and dice(luck, job.candidate) % 2:
                return failed(job, retryable=False)
            return score(job)

        return answer

    return with_luck


@st.composite
def algorithms(draw: st.DrawFn) -> Genetic | RandomSearch:
    size = draw(st.integers(2, 6))
    if draw(st.booleans()):
        return RandomSearch(population_size=size)
    return Genetic(population_size=size, elites=draw(st.integers(0, size - 1)))


@st.composite
def plans(draw: st.DrawFn) -> dict:
    """A campaign without its space; failures never stop it."""
    generations = draw(st.none() | st.integers(1, 4))
    evaluations = draw((st.none() if generations else st.nothing()) | st.integers(1, 16))
    return {
        "algorithm": draw(algorithms()),
        "seed": draw(st.integers(0, 2**32)),
        "control": draw(st.booleans()),
        "tests": draw(st.booleans()),
        "limits": Limits(
            generations=generations,
            evaluations=evaluations,
            max_attempts=draw(st.integers(1, 3)),
            max_failure_fraction=1.0,
        ),
    }


LUCK = st.integers(0, 5)
ORDERS = st.integers(0, 2**32).map(random.Random)


@given(plan=plans(), luck=LUCK, one=ORDERS, other=ORDERS)
def test_the_order_of_outcomes_changes_nothing(fake_space, answers, plan, luck, one, other):
    campaign = Campaign(space=fake_space(), **plan)
    first = go_on(campaign, begun(campaign), answers(luck), one)
    second = go_on(campaign, begun(campaign), answers(luck), other)
    assert first.essence == second.essence
    assert first.state.phase == "done"


@given(plan=plans(), luck=LUCK, order=ORDERS)
def test_doubled_outcomes_change_nothing(fake_space, answers, plan, luck, order):
    campaign = Campaign(space=fake_space(), **plan)
    record, answer = begun(campaign), answers(luck)
    while record.waiting:
        go_on(campaign, record, answer, order, 1)
        for outcome in (record.outcomes[-1], order.choice(record.outcomes)):
            again = handle(campaign, record.state, outcome)
            assert again.state == record.state
            assert not again.jobs
            assert not again.candidates


@given(plan=plans(), luck=LUCK, order=ORDERS, share=st.floats(0, 1))
def test_a_crash_anywhere_then_a_replay_is_the_same_search(
    fake_space, answers, plan, luck, order, share
):
    campaign = Campaign(space=fake_space(), **plan)
    whole = go_on(campaign, begun(campaign), answers(luck), order)
    crashed_after = round(share * len(whole.outcomes))
    again = replay(campaign, whole.outcomes[:crashed_after])
    go_on(campaign, again, answers(luck), order)
    assert again.essence == whole.essence
    assert len(again.outcomes) == len(whole.outcomes)
    assert replay(campaign, whole.outcomes).state == whole.state


@given(plan=plans(), order=ORDERS)
def test_what_may_pass_is_tried_max_attempts_times_and_no_more(fake_space, plan, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), lambda job: failed(job, retryable=True), order)
    attempts = Counter(job.candidate for job in record.jobs)
    assert set(attempts.values()) == {campaign.limits.max_attempts}
    assert record.state.num_failed == len(record.candidates)
    assert record.state.winner is None


@given(plan=plans(), order=ORDERS)
def test_what_will_repeat_is_tried_once(fake_space, plan, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), lambda job: failed(job, retryable=False), order)
    assert len(record.jobs) == len(record.candidates)


@given(plan=plans(), luck=st.integers(1, 9), order=ORDERS)
def test_the_failed_are_never_parents_and_have_no_fitness(fake_space, answers, plan, luck, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    measured = {
        one.candidate for one in record.outcomes if isinstance(one, Scored) and one.rows == "search"
    }
    assert {parent for one in record.candidates for parent in one.parents} <= measured
    assert {best.candidate.id for best in record.state.best.values()} <= measured
    assert {member.candidate for member in record.state.memory} <= measured
    assert record.state.num_scored == len(measured)
    assert record.state.num_failed == len(record.candidates) - len(measured)


@given(plan=plans(), luck=LUCK, order=ORDERS)
def test_parents_are_older_candidates_of_the_search(fake_space, answers, plan, luck, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    generation = {one.id: one.generation for one in record.by_role["search"]}
    for one in record.candidates:
        assert all(generation[parent] < one.generation for parent in one.parents)
    assert len({one.id for one in record.candidates}) == len(record.candidates)


@given(plan=plans(), luck=LUCK, order=ORDERS)
def test_the_budget_is_met_exactly(fake_space, answers, plan, luck, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    limits, search = campaign.limits, record.by_role["search"]
    generations = max(one.generation for one in search)
    ends = []
    if limits.generations is not None:
        assert generations <= limits.generations
        ends.append(generations == limits.generations)
    if limits.evaluations is not None:
        assert len(search) <= limits.evaluations
        ends.append(len(search) == limits.evaluations)
    assert any(ends)


@given(plan=plans(), order=ORDERS)
def test_without_failures_generations_have_the_announced_sizes(fake_space, answers, plan, order):
    limits = replace(plan["limits"], generations=3, evaluations=None)
    campaign = Campaign(space=fake_space(), **{**plan, "limits": limits})
    record = go_on(campaign, begun(campaign), answers(0), order)
    sizes = Counter(one.generation for one in record.by_role["search"])
    assert sizes == {number: campaign.algorithm.size(number) for number in (1, 2, 3)}


@given(plan=plans(), luck=LUCK, order=ORDERS)
def test_controls_are_as_many_as_the_search_and_never_win(
    fake_space, answers, score, plan, luck, order
):
    campaign = Campaign(space=fake_space(), **{**plan, "control": True})

    def answer(job: Job) -> Outcome:
        return score(job, 1000.0) if job.candidate.startswith("c") else answers(luck)(job)

    record = go_on(campaign, begun(campaign), answer, order)
    counts = {
        role: Counter(one.generation for one in some) for role, some in record.by_role.items()
    }
    assert counts["control"] == counts["search"]
    assert record.state.best["control"].fitness == 1000.0
    assert record.state.winner is None or record.state.winner.candidate.role != "control"
    assert not any(member.candidate.startswith("c") for member in record.state.memory)


@given(plan=plans(), luck=LUCK, one=ORDERS)
def test_the_control_does_not_change_the_search(fake_space, answers, plan, luck, one):
    def search(control: bool) -> list[Candidate]:
        campaign = Campaign(space=fake_space(), **{**plan, "control": control})
        return go_on(campaign, begun(campaign), answers(luck), one).by_role["search"]

    assert search(True) == search(False)


@given(plan=plans(), luck=LUCK, order=ORDERS)
def test_the_winner_is_the_best_and_ties_go_to_the_search_then_the_elder(
    fake_space, score, plan, luck, order
):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(
        campaign, begun(campaign), lambda job: score(job, dice(luck, job.candidate) % 3), order
    )
    contenders = [one for one in record.candidates if one.role != "control"]
    best = min(
        contenders, key=lambda one: (-(dice(luck, one.id) % 3), one.role != "search", one.number)
    )
    assert record.state.winner is not None
    assert record.state.winner.candidate == best


@given(plan=plans(), luck=LUCK, order=ORDERS)
def test_the_winner_the_references_and_the_best_control_are_tested(
    fake_space, answers, plan, luck, order
):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    tested = {job.candidate for job in record.jobs if job.rows == "test"}
    if record.state.winner is None or not campaign.tests:
        assert not tested
        return
    best = {one.candidate.id for role, one in record.state.best.items() if role != "reference"}
    references = {one.id for one in record.by_role["reference"]}
    assert tested == {record.state.winner.candidate.id} | best | references
    assert record.state.tested == tested


@given(plan=plans(), order=ORDERS, broken=st.integers(0, 10), fraction=st.floats(0.1, 0.9))
def test_too_many_failures_stop_the_campaign_and_fewer_do_not(
    fake_space, score, plan, order, broken, fraction
):
    limits = replace(
        plan["limits"], max_failure_fraction=fraction, evaluations=16, generations=None
    )
    campaign = Campaign(space=fake_space(), **{**plan, "limits": limits})

    def answer(job: Job) -> Outcome:
        if dice(broken, job.candidate) % 10 < broken:
            return failed(job, retryable=False)
        return score(job)

    record = go_on(campaign, begun(campaign), answer, order)
    ends = [isinstance(one, Failed) for one in record.outcomes if one.rows == "search"]
    too_many = [sum(ends[:num]) > fraction * num for num in range(limits.min_ended, len(ends) + 1)]
    assert record.state.phase == "done"
    assert (record.state.stop == "failures") == any(too_many)
    if any(too_many):
        assert too_many.index(True) == len(too_many) - 1, "nothing is waited for afterwards"
        assert not record.state.open
        assert not any(job.rows == "test" for job in record.jobs)


@given(plan=plans(), luck=LUCK, order=ORDERS, share=st.floats(0, 1), started=st.floats(0, 1))
def test_time_that_is_up_ends_the_search_and_more_time_continues_it(
    fake_space, answers, plan, luck, order, share, started
):
    campaign = Campaign(space=fake_space(), **plan)
    whole = go_on(campaign, begun(campaign), answers(luck), order)
    num_search = sum(one.rows == "search" for one in whole.outcomes)
    cut = replay(campaign, whole.outcomes[: int(share * (num_search - 1))])
    known = list(cut.candidates)

    in_flight = round(started * len(cut.waiting))
    dropped = [(job.candidate, job.rows) for job in cut.waiting[in_flight:]]
    del cut.waiting[in_flight:]
    cut.take(abandon(campaign, cut.state, dropped))
    go_on(campaign, cut, answers(luck), order)
    assert cut.state.phase == "done"
    assert cut.state.stop == "time"
    assert cut.candidates == known, "nothing new is proposed when time is up"

    resumed = go_on(campaign, replay(campaign, cut.outcomes), answers(luck), order)
    assert resumed.state.stop is None
    assert {one.id: one for one in resumed.candidates} == {one.id: one for one in whole.candidates}
    assert resumed.state.winner == whole.state.winner
    scored = [one for one in resumed.outcomes if isinstance(one, Scored)]
    assert len({(one.candidate, one.rows) for one in scored}) == len(scored), "measured twice"


@given(plan=plans(), luck=LUCK, order=ORDERS)
def test_genomes_stay_within_the_bounds(fake_space, answers, plan, luck, order):
    space = fake_space()
    campaign = Campaign(space=space, **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    for one in record.candidates:
        for gene, low, high in zip(
            one.genome or (), space.box.lower, space.box.upper, strict=False
        ):
            assert low <= gene <= high


@given(plan=plans(), order=ORDERS)
def test_another_seed_is_another_search(fake_space, answers, plan, order):
    def genomes(seed: int) -> list:
        campaign = Campaign(space=fake_space(), **{**plan, "seed": seed})
        record = go_on(campaign, begun(campaign), answers(0), order)
        return [one.genome for one in record.by_role["search"]]

    assert genomes(plan["seed"]) == genomes(plan["seed"])
    assert genomes(plan["seed"]) != genomes(plan["seed"] + 1)

"""Laws of the campaign: it is a pure function of its outcomes, in whatever order they come."""

from __future__ import annotations

import json
import random
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.algorithms.base import ALGORITHMS, Algorithm, Memory
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.nsga2 import Nsga2
from orchestrator.algorithms.nsga3 import Nsga3
from orchestrator.campaign import fold as campaigns
from orchestrator.campaign import snapshot
from orchestrator.campaign.counterparts import COUNTERPART
from orchestrator.campaign.fold import abandon, handle, start
from orchestrator.campaign.state import (
    Again,
    Branch,
    Campaign,
    Candidate,
    Entry,
    Limits,
    Recorded,
    Retry,
    Rules,
    State,
)
from orchestrator.campaign.stopping import Stagnation
from orchestrator.measurement.measured import Standing
from orchestrator.objectives import Objectives
from tests.conftest import FAKE_TASKS, REGIMES, ContrastingSpace, FakeSpace, fake_regime
from workers.job import Failed, Job, Outcome, Scored

Answer = Callable[[Job], Outcome]


@dataclass
class Record:
    """All that a campaign did."""

    state: State
    candidates: list[Candidate] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)

    def take(self, step) -> None:
        self.state = step.state
        self.candidates += step.candidates
        self.jobs += step.jobs
        self.waiting += step.jobs

    @property
    def outcomes(self) -> list[Outcome]:
        return [one.outcome for one in self.entries if isinstance(one, Recorded)]

    @property
    def by_role(self) -> dict[str, list[Candidate]]:
        roles = ("reference", "search", "control")
        return {role: [one for one in self.candidates if one.role == role] for role in roles}

    @property
    def known(self) -> dict[str, Candidate]:
        return {one.id: one for one in self.candidates}

    def standing(self, id_: str) -> Standing:
        """What a candidate scored on search and fresh rows, as a store has it."""
        found = Standing()
        for one in self.outcomes:
            if one.candidate == id_ and one.rows in ("search", "fresh") and isinstance(one, Scored):
                found = found.with_part((one.rows, one.block), one.score)
        return found

    @property
    def essence(self) -> object:
        """What must not depend on the order of outcomes within a generation."""
        state = self.state
        best = {one.candidate.id for tops in state.tops.values() for one in tops}
        kept = [
            {id_: one for id_, one in getattr(state, name).items() if id_ in best}
            for name in ("standings", "sampled")
        ]
        rest = {
            one.name: getattr(state, one.name)
            for one in fields(State)
            if one.name not in {"open", "candidates", "ended", "standings", "sampled"}
        }
        return self.known, kept, rest, state.winner


def begun(campaign: Campaign) -> Record:
    record = Record(State())
    record.take(start(campaign))
    return record


def feed(campaign: Campaign, record: Record, outcome: Outcome) -> None:
    """Takes an outcome as the driver does, and notes what the driver would record."""
    step = handle(campaign, record.state, outcome)
    record.entries.append(Recorded(outcome, step.final))
    record.take(step)


def block_of(outcome: Outcome) -> tuple[str, str, int]:
    """What can be measured once."""
    return (outcome.candidate, outcome.rows, outcome.block)


def go_on(
    campaign: Campaign, record: Record, answer: Answer, order: random.Random, num: int = 10**6
) -> Record:
    """Answers waiting jobs in any order until the end, or `num` of them."""
    while record.waiting and num > 0 and record.state.phase != "done":
        job = record.waiting.pop(order.randrange(len(record.waiting)))
        feed(campaign, record, answer(job))
        num -= 1
    return record


def replay(campaign: Campaign, entries: Sequence[Entry]) -> Record:
    """What a driver does after a crash: the record again, then what is still open."""
    record = begun(campaign)
    for entry in entries:
        record.entries.append(entry)
        record.take(campaigns.replay(campaign, record.state, entry))
    record.waiting = list(record.state.open.values())
    return record


def set_aside(record: Record) -> list[Again]:
    """What failed for good and may be retried, with the number that comes next."""
    failed: dict[tuple[str, str], Again] = {}
    for entry in record.entries:
        if isinstance(entry, Retry):
            for one in entry.wanted:
                failed.pop((one.candidate.id, one.rows))
        elif isinstance(entry.outcome, Failed) and entry.final:
            one = entry.outcome
            job = next(job for job in record.jobs if job.key == one.key)
            failed[one.candidate, one.rows] = Again(
                candidate=record.known[one.candidate],
                rows=one.rows,
                block=one.block,
                documents=job.documents,
                attempt=one.attempt + 1,
            )
    return list(failed.values())


def want(campaign: Campaign, record: Record, wanted: Sequence[Again]) -> None:
    """Retries, as a driver does that is started again afterwards."""
    wish = Retry(tuple(wanted))
    record.entries.append(wish)
    record.take(campaigns.retry(campaign, record.state, wish))
    record.waiting = list(record.state.open.values())


def failed(job: Job, *, retryable: bool, **facts) -> Failed:
    return Failed(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        block=job.block,
        stage="evaluate",
        cause="chance",
        retryable=retryable,
        seconds=1.0,
        worker="fake",
        **facts,
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
def algorithms(draw: st.DrawFn) -> Algorithm:
    size = draw(st.integers(2, 6))
    kind = draw(st.sampled_from(["random", "genetic", "genetic", *OTHERS]))
    if kind == "genetic":
        return Genetic(population_size=size, elites=draw(st.integers(0, size - 1)))
    return ALGORITHMS.load(kind)(population_size=size)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    """Failures never stop the campaign."""
    generations = draw(st.none() | st.integers(1, 4))
    evaluations = draw((st.none() if generations else st.nothing()) | st.integers(1, 16))
    return Limits(
        generations=generations,
        evaluations=evaluations,
        max_attempts=draw(st.integers(1, 3)),
        max_failure_fraction=1.0,
    )


#: Algorithms whose children depend on all that they were told, each in another way.
OTHERS = ("nsga2", "nsga3", "map_elites", "cycle_qd", "natural_niches")
regime = cache(fake_regime)


def kinds() -> st.SearchStrategy:
    """Kinds of rows that there are; the search rows are always there."""
    others = st.sets(st.sampled_from(["selection", "test", "control"]))
    return others.map(lambda some: frozenset({"search", *some}))


def plans_of(algorithms: st.SearchStrategy) -> st.SearchStrategy:
    """Campaigns without their space."""
    return st.fixed_dictionaries(
        {
            "algorithm": algorithms,
            "seed": st.integers(0, 2**32),
            "control": st.booleans(),
            "kinds": kinds(),
            "regime": st.sampled_from(REGIMES).map(regime),
            "finalists": st.integers(1, 4),
            "limits": limits(),
        }
    ).map(allowed)


def allowed(plan: dict) -> dict:
    """A search by documents is refused together with estimates from few of them."""
    by_documents = getattr(plan["algorithm"], "needs_answers", False)
    estimates = plan["regime"].estimator is not None
    return {**plan, "regime": regime("all rows")} if by_documents and estimates else plan


steady = st.sampled_from([Genetic, Nsga2, Nsga3]).flatmap(
    lambda kind: st.builds(kind, population_size=st.integers(2, 6), mode=st.just("async"))
)


@st.composite
def aiming_plans(draw: st.DrawFn, algorithms: st.SearchStrategy) -> dict:
    """Campaigns with objectives, constraints, targets and an end to standstill."""
    plan = draw(plans_of(algorithms))
    tasks = ("sphere",) if plan["regime"].layout is None else tuple(FAKE_TASKS)
    first, last = tasks[0], tasks[-1]
    aims = st.sampled_from(
        [
            {"kind": "weighted"},
            {"kind": "pareto", "of": (first, "-size" if first == last else last)},
            {"kind": "lexicographic", "of": (first, "-size"), "tolerance": (0.25, 0.0)},
        ]
    )
    bounds = ("size <= 2", f"{first} >= 0.5", f"{last} >= parent - 0.1", f"{first} >= base + 0.5")
    constraints = draw(st.lists(st.sampled_from(bounds), max_size=2, unique=True))
    objectives = Objectives(**draw(aims), constraints=tuple(constraints))
    judge = objectives.judge(dict.fromkeys(tasks, 1.0), ("size",), FakeSpace().references)
    spans = st.none() | st.integers(1, 3)
    stagnation = st.builds(
        Stagnation,
        evaluations=spans.map(lambda one: None if one is None else 4 * one),
        generations=st.integers(1, 3),
        by=st.sampled_from([0.0, 0.1]),
    )
    ends = {
        "target": draw(st.none() | st.sampled_from([-2.0, -0.5, 0.5, 1.0])),
        "stagnation": draw(st.none() | stagnation),
    }
    return {**plan, "judge": judge, "limits": replace(plan["limits"], **ends)}


def plans() -> st.SearchStrategy:
    """Campaigns that wait for their generations."""
    return plans_of(algorithms())


def steady_plans() -> st.SearchStrategy:
    """Campaigns that wait for nobody."""
    return plans_of(steady)


def all_plans() -> st.SearchStrategy:
    return plans_of(algorithms() | steady)


LUCK = st.integers(0, 5)
ORDERS = st.integers(0, 2**32).map(random.Random)


@given(plan=plans(), luck=LUCK, one=ORDERS, other=ORDERS)
def test_the_order_of_outcomes_changes_nothing(fake_space, answers, plan, luck, one, other):
    campaign = Campaign(space=fake_space(), **plan)
    first = go_on(campaign, begun(campaign), answers(luck), one)
    second = go_on(campaign, begun(campaign), answers(luck), other)
    assert first.essence == second.essence
    assert first.state.phase == "done"


@given(plan=all_plans(), luck=LUCK, order=ORDERS)
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
    crashed_after = round(share * len(whole.entries))
    again = replay(campaign, whole.entries[:crashed_after])
    go_on(campaign, again, answers(luck), order)
    assert again.essence == whole.essence
    assert len(again.outcomes) == len(whole.outcomes)
    assert replay(campaign, whole.entries).state == whole.state


@given(plan=all_plans(), order=ORDERS)
def test_what_may_pass_is_tried_max_attempts_times_and_no_more(fake_space, plan, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), lambda job: failed(job, retryable=True), order)
    attempts = Counter(job.candidate for job in record.jobs)
    assert set(attempts.values()) == {campaign.limits.max_attempts}
    assert record.state.num_failed == len(record.candidates)
    assert record.state.winner is None


@given(plan=all_plans(), order=ORDERS)
def test_what_will_repeat_is_tried_once(fake_space, plan, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), lambda job: failed(job, retryable=False), order)
    assert len(record.jobs) == len(record.candidates)


@given(plan=all_plans(), luck=st.integers(1, 9), order=ORDERS)
def test_the_failed_are_never_parents_and_have_no_fitness(fake_space, answers, plan, luck, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    measured = {
        one.outcome.candidate
        for one in record.entries
        if isinstance(one.outcome, Scored) and one.outcome.rows == "search" and one.final
    }
    assert {parent for one in record.candidates for parent in one.parents} <= measured
    assert {best.candidate.id for best in record.state.best.values()} <= measured
    assert {member.candidate for member in record.state.memory.members} <= measured
    assert record.state.num_scored == len(measured)
    assert record.state.num_failed == len(record.candidates) - len(measured)


@given(plan=all_plans(), luck=LUCK, order=ORDERS)
def test_parents_are_older_candidates_of_the_search(fake_space, answers, plan, luck, order):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    elder = {one.id: one for one in record.by_role["search"]}
    waits = not getattr(campaign.algorithm, "asynchronous", False)
    for one in record.candidates:
        assert all(elder[parent].number < one.number for parent in one.parents)
        if waits:
            assert all(elder[parent].generation < one.generation for parent in one.parents)
    assert len({one.id for one in record.candidates}) == len(record.candidates)


@given(plan=all_plans(), luck=LUCK, order=ORDERS)
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
    assert not record.waiting


@given(plan=plans(), order=ORDERS)
def test_without_failures_generations_have_the_announced_sizes(fake_space, answers, plan, order):
    limits = replace(plan["limits"], generations=3, evaluations=None)
    campaign = Campaign(space=fake_space(), **{**plan, "limits": limits})
    record = go_on(campaign, begun(campaign), answers(0), order)
    sizes = Counter(one.generation for one in record.by_role["search"])
    assert sizes == {number: campaign.algorithm.size(number) for number in (1, 2, 3)}


@given(plan=all_plans(), luck=LUCK, order=ORDERS)
def test_controls_are_as_many_as_the_search_and_never_win(
    fake_space, answers, score, plan, luck, order
):
    exact = with_regime(plan, "all rows", "race", "fresh", "race, fresh")
    campaign = Campaign(space=fake_space(), **{**exact, "control": True})

    def answer(job: Job) -> Outcome:
        return score(job, 1000.0) if job.candidate.startswith("c") else answers(luck)(job)

    record = go_on(campaign, begun(campaign), answer, order)
    counts = {
        role: Counter(one.generation for one in some) for role, some in record.by_role.items()
    }
    assert counts["control"] == counts["search"]
    assert record.state.best["control"].fitness == 1000.0
    assert record.state.winner is None or record.state.winner.candidate.role != "control"
    assert not any(member.candidate.startswith("c") for member in record.state.memory.members)


@given(plan=plans(), luck=LUCK, one=ORDERS)
def test_the_control_does_not_change_the_search(fake_space, answers, plan, luck, one):
    def search(control: bool) -> list[Candidate]:
        campaign = Campaign(space=fake_space(), **{**plan, "control": control})
        return go_on(campaign, begun(campaign), answers(luck), one).by_role["search"]

    assert search(True) == search(False)


def with_regime(plan: dict, *kinds: str) -> dict:
    """The plan with a regime of one of these kinds."""
    known = [regime(one) for one in kinds]
    return plan if plan["regime"] in known else {**plan, "regime": known[0]}


@given(plan=all_plans(), luck=LUCK, order=ORDERS)
def test_the_winner_is_the_best_and_ties_go_to_the_search_then_the_elder(
    fake_space, score, plan, luck, order
):
    plan = with_regime(plan, "all rows", "race", "fresh", "race, fresh")
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


@given(plan=all_plans(), luck=LUCK, order=ORDERS)
def test_the_winner_the_references_and_the_best_control_are_tested(
    fake_space, answers, plan, luck, order
):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    tested = {job.candidate for job in record.jobs if job.rows == "test"}
    if record.state.winner is None or "test" not in campaign.kinds:
        assert not tested
        return
    of_role = (record.state.best_of(role) for role in ("search", "control"))
    best = {one.candidate.id for one in of_role if one is not None}
    references = {one.id for one in record.by_role["reference"]}
    assert tested == {record.state.winner.candidate.id} | best | references
    kinds = {"test", "control"} & campaign.kinds
    assert record.state.tested == {(id_, rows) for id_ in tested for rows in kinds}


def stopping(plan: dict, fraction: float) -> dict:
    """The plan with a limit of failures that may be met."""
    changes = {"max_failure_fraction": fraction, "evaluations": 16, "generations": None}
    return {**plan, "limits": replace(plan["limits"], **changes)}


@given(plan=all_plans(), order=ORDERS, broken=st.integers(0, 10), fraction=st.floats(0.1, 0.9))
def test_too_many_failures_stop_the_campaign_and_fewer_do_not(
    fake_space, score, plan, order, broken, fraction
):
    campaign = Campaign(space=fake_space(), **stopping(plan, fraction))

    def answer(job: Job) -> Outcome:
        if dice(broken, job.candidate) % 10 < broken:
            return failed(job, retryable=False)
        return score(job)

    record = go_on(campaign, begun(campaign), answer, order)
    ends = [
        isinstance(one.outcome, Failed)
        for one in record.entries
        if one.outcome.rows == "search" and one.final
    ]
    num_needed = campaign.limits.min_ended
    too_many = [sum(ends[:num]) > fraction * num for num in range(num_needed, len(ends) + 1)]
    assert record.state.phase == "done"
    assert (record.state.stop == "failures") == any(too_many)
    if any(too_many):
        assert too_many.index(True) == len(too_many) - 1, "nothing is waited for afterwards"
        assert not any(job.rows == "test" for job in record.jobs)
        waiting = {(job.candidate, job.rows): job for job in record.waiting}
        assert record.state.open == waiting, "what was not measured is kept for a retry"


@given(plan=all_plans(), order=ORDERS, late=st.randoms(use_true_random=False))
def test_what_was_out_when_failures_stopped_the_campaign_counts_and_does_not_start_it_again(
    fake_space, score, plan, order, late
):
    campaign = Campaign(space=fake_space(), **stopping(plan, 0.5))
    record = go_on(campaign, begun(campaign), lambda job: failed(job, retryable=False), order)
    assert record.state.stop == "failures"
    candidates = list(record.candidates)
    for job in late.sample(record.waiting, len(record.waiting)):
        feed(campaign, record, score(job) if late.random() < 0.5 else failed(job, retryable=True))
        assert record.candidates == candidates
        assert (record.state.phase, record.state.stop) == ("done", "failures")
    assert replay(campaign, record.entries).state == record.state
    ended = [one.outcome for one in record.entries if one.final]
    assert record.state.num_scored == sum(isinstance(one, Scored) for one in ended)


@given(plan=plans(), luck=LUCK, order=ORDERS, share=st.floats(0, 1), started=st.floats(0, 1))
def test_time_that_is_up_ends_the_search_and_more_time_continues_it(
    fake_space, answers, plan, luck, order, share, started
):
    campaign = Campaign(space=fake_space(), **plan)
    whole = go_on(campaign, begun(campaign), answers(luck), order)
    num_search = sum(one.rows == "search" for one in whole.outcomes)
    cut = replay(campaign, whole.entries[: int(share * (num_search - 1))])
    known = list(cut.candidates)

    in_flight = round(started * len(cut.waiting))
    dropped = [(job.candidate, job.rows) for job in cut.waiting[in_flight:]]
    del cut.waiting[in_flight:]
    cut.take(abandon(campaign, cut.state, dropped))
    go_on(campaign, cut, answers(luck), order)
    assert cut.state.phase == "done"
    assert cut.state.stop == "time"
    assert cut.candidates == known, "nothing new is proposed when time is up"

    resumed = go_on(campaign, replay(campaign, cut.entries), answers(luck), order)
    assert resumed.state.stop is None
    assert {one.id: one for one in resumed.candidates} == {one.id: one for one in whole.candidates}
    assert resumed.state.winner == whole.state.winner
    scored = [one for one in resumed.outcomes if isinstance(one, Scored)]
    assert len({block_of(one) for one in scored}) == len(scored), "measured twice"


@given(plan=all_plans(), luck=LUCK, order=ORDERS)
def test_genomes_stay_within_the_bounds(fake_space, answers, plan, luck, order):
    space = fake_space()
    campaign = Campaign(space=space, **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    for one in record.candidates:
        for gene, low, high in zip(
            one.genome or (), space.genes.lower, space.genes.upper, strict=False
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


# Failures that may pass.


@given(plan=all_plans(), order=ORDERS, luck=LUCK)
def test_the_next_attempt_avoids_where_the_last_ones_failed_and_needs_less_memory(
    fake_space, plan, order, luck
):
    campaign = Campaign(space=fake_space(), **plan)
    kinds = ("lost", "timeout", "memory", "error")

    def answer(job: Job) -> Outcome:
        kind = kinds[dice(luck, job.key) % 4]
        node = f"n{dice(luck, job.key, 'node') % 3}" if dice(luck, job.key, "known") % 4 else ""
        return failed(job, retryable=True, kind=kind, node=node)

    record = go_on(campaign, begun(campaign), answer, order)
    for before, after in pairs(record):
        failure = answer(before)
        assert after == replace(
            before,
            attempt=before.attempt + 1,
            halvings=before.halvings + (failure.kind == "memory"),
            avoid=after.avoid,
        )
        assert set(after.avoid) == {*before.avoid, failure.node} - {""}
        assert len(set(after.avoid)) == len(after.avoid)


def pairs(record: Record) -> list[tuple[Job, Job]]:
    """Each attempt with the one that followed it."""
    last: dict[tuple[str, str, int], Job] = {}
    found = []
    for job in record.jobs:
        key = (job.candidate, job.rows, job.block)
        if key in last:
            found.append((last[key], job))
        last[key] = job
    return found


@given(plan=all_plans(), order=ORDERS, luck=LUCK)
def test_the_first_attempt_may_run_anywhere_at_full_size(fake_space, answers, plan, order, luck):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    firsts = [job for job in record.jobs if job.attempt == 1]
    assert all(job.avoid == () and job.halvings == 0 for job in firsts)


# Snapshots.


def restored(campaign: Campaign, record: Record) -> State:
    """The state as it comes out of a store."""
    data = json.loads(json.dumps(snapshot.dump(campaign, record.state)))
    assert snapshot.named(data) <= record.known.keys()
    named = {id_: record.known[id_] for id_ in snapshot.named(data)}
    standings = {id_: record.standing(id_) for id_ in snapshot.with_standings(data)}
    return snapshot.restore(campaign, data, named, standings)


@given(plan=all_plans(), luck=LUCK, order=ORDERS, num=st.integers(0, 60), up=st.booleans())
def test_a_state_comes_back_from_its_dump_at_any_moment(
    fake_space, answers, plan, luck, order, num, up
):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order, num)
    if up:
        record.take(
            abandon(
                campaign, record.state, [(job.candidate, job.rows) for job in record.waiting[::2]]
            )
        )
    if wanted := set_aside(record)[::2]:
        want(campaign, record, wanted)
    again = restored(campaign, record)
    assert again == record.state
    for name in ("open", "candidates", "ended"):
        assert list(getattr(again, name)) == list(getattr(record.state, name)), "in their order"


@st.composite
def budgets(draw: st.DrawFn) -> tuple[Limits, Limits]:
    """A budget, and one that is larger or as large in every way."""
    small = draw(limits())
    more = draw(st.integers(0, 3)), draw(st.integers(0, 9))
    return small, replace(
        small,
        generations=None if small.generations is None else small.generations + more[0],
        evaluations=None if small.evaluations is None else small.evaluations + more[1],
    )


@given(
    plan=all_plans(), both=budgets(), luck=LUCK, order=ORDERS, num=st.integers(0, 60),
    retry_at=st.integers(0, 60),
)  # fmt: skip
def test_a_snapshot_that_can_be_taken_is_the_state_of_any_larger_budget(
    fake_space, answers, plan, both, luck, order, num, retry_at
):
    small, large = (Campaign(space=fake_space(), **{**plan, "limits": one}) for one in both)
    record = go_on(small, begun(small), answers(luck), order, retry_at)
    if wanted := set_aside(record):
        want(small, record, wanted)
    go_on(small, record, answers(0), order, num)
    if snapshot.can_be_taken(small, record.state):
        assert replay(large, record.entries).state == record.state


@given(
    plan=all_plans(), both=budgets(), luck=LUCK, order=ORDERS, num=st.integers(0, 60)
)  # fmt: skip
def test_a_snapshot_that_fits_is_the_state_of_that_smaller_budget(
    fake_space, answers, plan, both, luck, order, num
):
    small, large = (Campaign(space=fake_space(), **{**plan, "limits": one}) for one in both)
    record = go_on(large, begun(large), answers(luck), order, num)
    fits = snapshot.fits(small, snapshot.dump(large, record.state))
    if snapshot.can_be_taken(large, record.state) and fits:
        assert replay(small, record.entries).state == record.state


# Asynchronous.


@given(plan=steady_plans(), luck=LUCK, order=ORDERS)
def test_no_more_candidates_are_open_than_the_population_has_members(
    fake_space, answers, plan, luck, order
):
    campaign = Campaign(space=fake_space(), **plan)
    size = campaign.algorithm.population_size
    record = begun(campaign)
    while record.waiting:
        searched = {id_ for id_, rows in record.state.open if id_[0] == "s" and rows == "search"}
        assert len(searched) <= size or record.state.phase != "search"
        left = num_allowed(campaign) - record.state.proposed
        if record.state.phase == "search" and left:
            assert len(searched) == size, "nobody waits for anybody"
        go_on(campaign, record, answers(luck), order, 1)
    assert record.state.proposed == num_allowed(campaign) == len(record.by_role["search"])


def num_allowed(campaign: Campaign) -> int:
    limits, size = campaign.limits, campaign.algorithm.size(1)
    of_generations = 2**31 if limits.generations is None else size * limits.generations
    return min(of_generations, limits.evaluations or 2**31)


@given(plan=steady_plans(), luck=LUCK, order=ORDERS, share=st.floats(0, 1))
def test_the_order_of_the_record_gives_its_proposals_again(
    fake_space, answers, plan, luck, order, share
):
    campaign = Campaign(space=fake_space(), **plan)
    whole = go_on(campaign, begun(campaign), answers(luck), order)
    part = replay(campaign, whole.entries[: round(share * len(whole.entries))])
    assert part.candidates == whole.candidates[: len(part.candidates)]
    assert replay(campaign, whole.entries).state == whole.state
    go_on(campaign, part, answers(luck), order)
    assert part.state.phase == "done"
    assert part.state.proposed == whole.state.proposed


@given(plan=steady_plans(), luck=LUCK, order=ORDERS)
def test_late_outcomes_are_as_good_as_any(fake_space, answers, plan, luck, order):
    """Whatever has been measured competes for a place in the population, however late it came."""
    campaign = Campaign(space=fake_space(), **with_regime(plan, "all rows"))
    record, num_generations = begun(campaign), 0
    while record.waiting and record.state.phase == "search":
        go_on(campaign, record, answers(luck), order, 1)
        if record.state.phase != "search":
            break
        measured = [
            (one.score.fitness, -record.known[one.candidate].number, one.candidate)
            for one in record.outcomes
            if isinstance(one, Scored) and one.rows == "search" and one.candidate[0] == "s"
        ]
        best = sorted(measured, reverse=True)[: campaign.algorithm.population_size]
        assert [one.candidate for one in record.state.memory.members] == [id_ for *_, id_ in best]
        num_generations = max(num_generations, record.state.generation)
    assert num_generations <= 1 + campaign.limits.generations if campaign.limits.generations else 1


@given(plan=steady_plans(), luck=LUCK, order=ORDERS, share=st.floats(0, 1))
def test_time_that_is_up_proposes_nothing_more_and_more_time_meets_the_budget(
    fake_space, answers, plan, luck, order, share
):
    campaign = Campaign(space=fake_space(), **plan)
    cut = go_on(campaign, begun(campaign), answers(luck), order, round(20 * share))
    if cut.state.phase != "search":
        return
    known = list(cut.candidates)
    dropped = [(job.candidate, job.rows) for job in cut.waiting[::2]]
    del cut.waiting[::2]
    cut.take(abandon(campaign, cut.state, dropped))
    go_on(campaign, cut, answers(luck), order)
    assert (cut.state.phase, cut.state.stop) == ("done", "time")
    assert cut.candidates == known
    resumed = replay(campaign, cut.entries)
    assert resumed.candidates[: len(known)] == known
    go_on(campaign, resumed, answers(luck), order)
    assert (resumed.state.phase, resumed.state.stop) == ("done", None)
    assert resumed.state.proposed == num_allowed(campaign)


# Retries.


@given(plan=all_plans(), luck=st.integers(1, 9), order=ORDERS, moments=st.sets(st.integers(0, 60)))
def test_retries_at_any_moment_end_with_everything_measured(
    fake_space, answers, plan, luck, order, moments
):
    campaign = Campaign(space=fake_space(), **plan)
    record = begun(campaign)
    for moment in range(60):
        go_on(campaign, record, answers(luck), order, 1)
        if moment in moments and (wanted := set_aside(record)):
            want(campaign, record, wanted)
            assert record.state.phase != "done"
            assert record.state.num_failed == 0
    go_on(campaign, record, answers(luck), order)
    if wanted := set_aside(record):
        want(campaign, record, wanted)
    go_on(campaign, record, answers(0), order)
    state = record.state
    assert (state.phase, state.num_failed, set_aside(record)) == ("done", 0, [])
    assert state.num_scored == len(record.candidates)
    assert replay(campaign, record.entries).state == state
    scored = [block_of(one) for one in record.outcomes if isinstance(one, Scored)]
    assert len(set(scored)) == len(scored), "measured twice"
    numbers = [one.key for one in record.outcomes]
    assert len(set(numbers)) == len(numbers), "each attempt has a number of its own"


@given(plan=all_plans(), luck=st.integers(1, 9), order=ORDERS, num=st.integers(0, 60))
def test_a_retry_that_fails_again_leaves_the_campaign_as_it_was(
    fake_space, answers, plan, luck, order, num
):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order)
    before, candidates = record.state, list(record.candidates)
    if not (wanted := [one for one in set_aside(record) if one.rows == "search"]):
        return
    want(campaign, record, wanted)
    go_on(campaign, record, lambda job: failed(job, retryable=False), order)
    assert record.candidates == candidates
    # What has ended since the algorithm was told last is nobody's business.
    unsaid = {"memory": Memory(), "candidates": {}, "ended": {}}
    assert replace(record.state, **unsaid) == replace(before, **unsaid)


@given(plan=plans(), order=ORDERS, chosen=st.integers(0, 10**6))
def test_one_retried_within_its_generation_takes_part_as_if_it_had_never_failed(
    fake_space, answers, score, plan, order, chosen
):
    # What is estimated without a reference stays as it was estimated.
    plan = with_regime(plan, "all rows", "race", "fresh", "race, fresh")
    campaign = Campaign(space=fake_space(), **plan)
    whole = go_on(campaign, begun(campaign), answers(0), order)
    unlucky = whole.candidates[chosen % len(whole.candidates)]

    def once(job: Job) -> Outcome:
        first = (job.candidate, job.rows) == (unlucky.id, "search") and not broken
        broken.append(job) if first else None
        return failed(job, retryable=False) if first else score(job)

    broken: list[Job] = []
    record = begun(campaign)
    while not broken:
        go_on(campaign, record, once, order, 1)
    waits = unlucky.role != "search" or record.state.generation == unlucky.generation
    want(campaign, record, set_aside(record))
    go_on(campaign, record, once, order)
    assert record.state.num_failed == 0
    if waits:
        assert record.known == whole.known
        assert record.state.best == whole.state.best
        assert record.state.tested >= whole.state.tested


@given(plan=plans(), order=ORDERS, luck=st.integers(1, 9))
def test_one_retried_after_its_generation_changes_no_candidate_and_may_be_the_best(
    fake_space, answers, score, plan, order, luck
):
    campaign = Campaign(space=fake_space(), **with_regime(plan, "all rows", "fresh"))
    record = go_on(campaign, begun(campaign), answers(luck), order)
    candidates = list(record.candidates)
    wanted = [one for one in set_aside(record) if one.rows == "search"]
    if not wanted:
        return
    want(campaign, record, wanted)
    go_on(campaign, record, lambda job: score(job, 1000.0), order)
    assert record.candidates == candidates
    for role, best in record.state.best.items():
        retried = [one.candidate for one in wanted if one.candidate.role == role]
        if retried:
            assert best.candidate == min(retried, key=lambda one: one.number)
            assert best.fitness == 1000.0
    assert record.state.phase == "done"
    if "test" in campaign.kinds:
        assert (record.state.winner.candidate.id, "test") in record.state.tested


@given(plan=all_plans(), order=ORDERS, broken=st.integers(5, 10))
def test_a_campaign_that_stopped_for_its_failures_goes_on_after_a_retry(
    fake_space, answers, score, plan, order, broken
):
    campaign = Campaign(space=fake_space(), **stopping(plan, 0.4))

    def answer(job: Job) -> Outcome:
        if dice(broken, job.candidate) % 10 < broken:
            return failed(job, retryable=False)
        return score(job)

    record = go_on(campaign, begun(campaign), answer, order)
    wanted = set_aside(record)
    if record.state.stop != "failures" or not wanted:
        return
    open_before = dict(record.state.open)
    want(campaign, record, wanted)
    assert record.state.stop is None
    assert open_before.items() <= record.state.open.items()
    go_on(campaign, record, answers(0), order)
    assert (record.state.phase, record.state.stop, record.state.num_failed) == ("done", None, 0)
    assert record.state.proposed == 16
    assert replay(campaign, record.entries).state == record.state


# Objectives, constraints, and ends other than the budget's.

FEW = settings(max_examples=60)


@FEW
@given(plan=aiming_plans(algorithms()), luck=LUCK, one=ORDERS, other=ORDERS)
def test_with_aims_the_order_of_outcomes_changes_nothing(
    fake_space, answers, plan, luck, one, other
):
    campaign = Campaign(space=fake_space(), **plan)
    first = go_on(campaign, begun(campaign), answers(luck), one)
    second = go_on(campaign, begun(campaign), answers(luck), other)
    assert first.essence == second.essence
    assert first.state.phase == "done"


@FEW
@given(
    plan=aiming_plans(algorithms() | steady), luck=LUCK, order=ORDERS, num=st.integers(0, 60)
)  # fmt: skip
def test_with_aims_a_state_comes_back_from_its_record_and_from_its_dump(
    fake_space, answers, plan, luck, order, num
):
    campaign = Campaign(space=fake_space(), **plan)
    record = go_on(campaign, begun(campaign), answers(luck), order, num)
    again = replay(campaign, record.entries)
    assert (again.state, again.candidates) == (record.state, record.candidates)
    assert restored(campaign, record) == record.state
    go_on(campaign, record, answers(luck), order)
    assert replay(campaign, record.entries).state == record.state


@FEW
@given(plan=aiming_plans(algorithms()), luck=LUCK, order=ORDERS)
def test_with_aims_the_control_does_not_change_the_search(fake_space, answers, plan, luck, order):
    def search(control: bool) -> tuple:
        campaign = Campaign(space=fake_space(), **{**plan, "control": control})
        record = go_on(campaign, begun(campaign), answers(luck), order)
        return record.by_role["search"], record.state.stop

    assert search(True) == search(False)


@FEW
@given(plan=aiming_plans(algorithms() | steady), luck=LUCK, order=ORDERS)
def test_what_was_recorded_of_violations_is_what_the_campaign_ranks_by(
    fake_space, answers, plan, luck, order
):
    campaign = Campaign(space=fake_space(), **plan)
    record, known = begun(campaign), dict[str, float]()
    while record.waiting and record.state.phase != "done":
        job = record.waiting.pop(order.randrange(len(record.waiting)))
        outcome = answers(luck)(job)
        step = handle(campaign, record.state, outcome)
        record.entries.append(Recorded(outcome, step.final))
        record.take(step)
        if step.measured is not None and step.final:
            known[outcome.candidate] = step.measured.violation
        known |= step.judged
    state = record.state
    for tops in state.tops.values():
        for one in tops:
            id_ = one.candidate.id
            assert state.completed.get(id_, one.measured).violation == known[id_]
    assert not state.unjudged or state.stop == "failures"


@FEW
@given(plan=aiming_plans(algorithms() | steady), order=ORDERS)
def test_a_constraint_that_refers_to_models_is_judged_by_what_they_scored(
    fake_space, answers, score, plan, order
):
    plan = with_regime(plan, "all rows")
    constraints = ("sphere >= parent - 0.1", "sphere >= base + 0.5")
    objectives = Objectives(kind="weighted", constraints=constraints)
    judge = objectives.judge({"sphere": 1.0}, (), fake_space().references)
    campaign = Campaign(space=fake_space(), **{**plan, "judge": judge})
    record = go_on(campaign, begun(campaign), answers(0), order)
    low, high = (score(job).score.fitness for job in record.jobs[:2])
    bounds = (max(low, high) - 0.1, low + 0.5)
    for tops in record.state.tops.values():
        for one in tops:
            expected = sum(max(0.0, bound - one.fitness) / abs(bound) for bound in bounds)
            assert one.measured.violation == pytest.approx(expected)
        assert list(tops) == sorted(tops, key=lambda one: one.rank, reverse=True)


@FEW
@given(plan=aiming_plans(algorithms() | steady), order=ORDERS, broken=st.sampled_from(["r1", "r2"]))
def test_where_a_model_that_constraints_refer_to_is_lost_the_search_waits_for_a_retry(
    fake_space, answers, score, plan, order, broken
):
    objectives = Objectives(kind="weighted", constraints=("sphere >= parent",))
    judge = objectives.judge({"sphere": 1.0}, (), fake_space().references)
    plan = {**with_regime(plan, "all rows"), "judge": judge}
    campaign = Campaign(space=fake_space(), **plan)

    def answer(job: Job) -> Outcome:
        return failed(job, retryable=False) if job.candidate == broken else score(job)

    record = go_on(campaign, begun(campaign), answer, order)
    assert (record.state.phase, record.state.stop) == ("done", "failures")
    assert {one.generation for one in record.candidates} == {0, 1}
    want(campaign, record, set_aside(record))
    go_on(campaign, record, answers(0), order)
    whole = go_on(campaign, begun(campaign), answers(0), order)
    assert (record.state.phase, record.state.num_failed) == ("done", 0)
    assert record.state.anchors == whole.state.anchors
    if not getattr(campaign.algorithm, "asynchronous", False):
        assert record.state.winner == whole.state.winner
    assert replay(campaign, record.entries).state == record.state


@FEW
@given(plan=plans(), order=ORDERS, target=st.floats(-6, 0))
def test_the_search_ends_with_the_generation_that_reaches_the_target(
    fake_space, answers, score, plan, order, target
):
    plan = with_regime(plan, "all rows")
    free = replace(plan["limits"], generations=5, evaluations=None)
    whole = go_on(
        base := Campaign(space=fake_space(), **{**plan, "limits": free}),
        begun(base), answers(0), order,
    )  # fmt: skip
    limits = replace(free, target=target)
    campaign = Campaign(space=fake_space(), **{**plan, "limits": limits})
    record = go_on(campaign, begun(campaign), answers(0), order)
    found = {one.candidate: one.score.fitness for one in whole.outcomes if one.rows == "search"}
    reached = [one.generation for one in whole.by_role["search"] if found[one.id] >= target]
    last = min(reached, default=5)
    assert record.state.generation == last
    assert record.state.stop == ("target" if reached else None)
    counts = [Counter(one.generation for one in record.by_role[role])
              for role in ("search", "control")]  # fmt: skip
    assert counts[1] == (counts[0] if campaign.control else {})


@FEW
@given(plan=plans(), order=ORDERS, patience=st.integers(1, 3), by=st.sampled_from([0.0, 0.5]))
def test_the_search_ends_once_nothing_has_become_better_for_so_many_generations(
    fake_space, answers, plan, order, patience, by
):
    plan = with_regime(plan, "all rows")
    stagnation = Stagnation(generations=patience, by=by)
    limits = replace(plan["limits"], generations=8, evaluations=None, stagnation=stagnation)
    campaign = Campaign(space=fake_space(), **{**plan, "limits": limits})
    record = go_on(campaign, begun(campaign), answers(0), order)
    found = {one.candidate: one.score.fitness for one in record.outcomes if one.rows == "search"}
    best, since, expected = -float("inf"), 0, None
    for generation in range(1, record.state.generation + 1):
        assert expected is None, "it went on after it had to end"
        top = max(found[one.id] for one in record.by_role["search"] if one.generation <= generation)
        if top > best + by:
            best, since = top, generation
        if generation - since >= patience:
            expected = "stagnation"
    assert record.state.stop == expected


# Forks.


def own_history(record: Record, generation: int) -> tuple[list[Entry], int]:
    """What a fork copies: the outcomes of all up to a generation, and its last number."""
    shared = {one.id for one in record.candidates if one.generation <= generation}
    entries = [
        one
        for one in record.entries
        if isinstance(one, Recorded)
        and one.outcome.rows in ("search", "fresh")
        and one.outcome.candidate in shared
    ]
    if generation < record.state.generation:  # what came later belongs to what was done later
        while entries and entries[-1].outcome.rows == "fresh":
            entries.pop()
    numbers = [one.number for one in record.by_role["search"] if one.id in shared]
    return entries, max(numbers, default=0)


@given(old=plans(), new=plans(), luck=LUCK, order=ORDERS, chosen=st.integers(0, 3))
def test_a_fork_proposes_its_ancestors_candidates_and_goes_on_by_its_own_rules(
    fake_space, answers, old, new, luck, order, chosen
):
    assume(may_follow(old, new))
    ancestor = Campaign(space=fake_space(), **old)
    record = go_on(ancestor, begun(ancestor), answers(luck), order)
    generation = min(chosen, record.state.generation)
    entries, until = own_history(record, generation)
    rules = Rules(algorithm=ancestor.algorithm, seed=ancestor.seed, control=ancestor.control)
    limits = replace(new["limits"], generations=generation + 2, evaluations=None)
    fork = Campaign(
        space=fake_space(),
        **{**new, "limits": limits, "regime": ancestor.regime, "kinds": ancestor.kinds},
        history=(Branch(until=until, rules=rules),),
    )
    shared = {id_: one for id_, one in record.known.items() if one.generation <= generation}
    found = replay(fork, entries)
    assert {id_: found.known[id_] for id_ in shared} == shared
    assert all(one.number > until for one in found.by_role["search"] if one.id not in shared)
    assert not {id_ for id_, rows in found.state.open if rows == "search"} & {
        one.outcome.candidate for one in entries if one.outcome.rows == "search" and one.final
    }

    go_on(fork, found, answers(luck), order)
    sizes = Counter(one.generation for one in found.by_role["search"] if one.number > until)
    assert set(sizes) == {generation + 1, generation + 2}
    assert all(size <= fork.algorithm.population_size for size in sizes.values())
    controls = [one for one in found.by_role["control"] if one.number > until]
    assert len(controls) == (sum(sizes.values()) if fork.control else 0)

    twice = replace(
        fork,
        seed=fork.seed + 1,
        history=(
            *fork.history,
            Branch(
                until=until + sizes[generation + 1],
                rules=Rules(algorithm=fork.algorithm, seed=fork.seed, control=fork.control),
            ),
        ),
    )
    entries, last = own_history(found, generation + 1)
    again = replay(twice, entries)
    shared = {id_: one for id_, one in found.known.items() if one.generation <= generation + 1}
    assert {id_: again.known[id_] for id_ in shared} == shared
    assert last == until + sizes[generation + 1]


@given(old=all_plans(), new=all_plans(), luck=LUCK, order=ORDERS, num=st.integers(0, 40))
def test_any_fork_of_any_moment_has_the_candidates_so_far_and_meets_its_budget(
    fake_space, answers, old, new, luck, order, num
):
    """Forked where it is, with candidates still open: as an asynchronous campaign is."""
    assume(may_follow(old, new))
    ancestor = Campaign(space=fake_space(), **{**old, "limits": Limits(evaluations=12)})
    record = go_on(ancestor, begun(ancestor), answers(luck), order, num)
    entries, until = own_history(record, record.state.generation)
    rules = Rules(algorithm=ancestor.algorithm, seed=ancestor.seed, control=ancestor.control)
    limits = replace(new["limits"], generations=None, evaluations=until + 9)
    fork = Campaign(
        space=fake_space(),
        **{**new, "limits": limits, "regime": ancestor.regime, "kinds": ancestor.kinds},
        history=(Branch(until=until, rules=rules),),
    )
    found = replay(fork, entries)
    assert {id_: found.known.get(id_) for id_ in record.known} == record.known
    go_on(fork, found, answers(luck), order)
    assert (found.state.phase, found.state.proposed) == ("done", until + 9)
    assert replay(fork, found.entries).state == found.state


def may_follow(old: dict, new: dict) -> bool:
    """Whether a search may go on with what another one measured, as it measured it."""
    return allowed({**new, "regime": old["regime"]})["regime"] == old["regime"]


def fork_of(ancestor: Campaign, until: int, new: dict) -> Campaign:
    """A fork by rules of its own, which aims at what its ancestor does."""
    rules = Rules(algorithm=ancestor.algorithm, seed=ancestor.seed, control=ancestor.control)
    same = {name: getattr(ancestor, name) for name in ("regime", "kinds", "judge")}
    history = (*ancestor.history, Branch(until=until, rules=rules))
    return Campaign(space=ancestor.space, **{**new, **same}, history=history)


def violations(campaign: Campaign, entries: Sequence[Entry]) -> dict[object, float]:
    """By how much constraints are broken, as is recorded of outcomes, and of candidates later."""
    found, state = {}, start(campaign).state
    for entry in entries:
        step = campaigns.replay(campaign, state, entry)
        if isinstance(entry, Recorded) and step.measured is not None:
            found[block_of(entry.outcome)] = step.measured.violation
        found, state = {**found, **step.judged}, step.state
    return found


@FEW
@given(
    old=aiming_plans(algorithms() | steady), new=aiming_plans(algorithms() | steady),
    luck=LUCK, order=ORDERS, num=st.integers(0, 40),
)  # fmt: skip
def test_with_aims_a_fork_of_any_moment_judges_as_its_ancestor_did_and_goes_on_to_its_end(
    fake_space, answers, old, new, luck, order, num
):
    assume(may_follow(old, new))
    ancestor = Campaign(space=fake_space(), **{**old, "limits": Limits(evaluations=12)})
    record = go_on(ancestor, begun(ancestor), answers(luck), order, num)
    entries, until = own_history(record, record.state.generation)
    limits = replace(new["limits"], generations=None, evaluations=until + 9)
    fork = fork_of(ancestor, until, {**new, "limits": limits})
    found = replay(fork, entries)
    assert {id_: found.known.get(id_) for id_ in record.known} == record.known
    known = violations(ancestor, record.entries)
    assert violations(fork, entries).items() <= known.items()
    assert restored(fork, found) == found.state

    go_on(fork, found, answers(luck), order)
    assert found.state.phase == "done"
    if found.state.stop is None:
        assert found.state.proposed == until + 9
    assert replay(fork, found.entries).state == found.state


@FEW
@given(plan=aiming_plans(algorithms()), luck=LUCK, order=ORDERS, chosen=st.integers(0, 3))
def test_with_aims_a_fork_that_changes_nothing_is_its_ancestors_search(
    fake_space, answers, plan, luck, order, chosen
):
    limits = replace(plan["limits"], generations=3, evaluations=None)
    ancestor = Campaign(space=fake_space(), **{**plan, "limits": limits})
    whole = go_on(ancestor, begun(ancestor), answers(luck), order)
    entries, until = own_history(whole, min(chosen, whole.state.generation))
    fork = fork_of(ancestor, until, {**plan, "limits": limits})
    found = go_on(fork, replay(fork, entries), answers(luck), order)
    assert found.known == whole.known
    assert (found.state.stop, found.state.winner) == (whole.state.stop, whole.state.winner)


@given(plan=plans(), new=steady_plans(), order=ORDERS)
def test_a_fork_that_waits_for_nobody_begins_with_its_ancestors_whole_population(
    fake_space, answers, plan, new, order
):
    genetic = Genetic(population_size=6, elites=0)
    old = {**plan, "algorithm": genetic, "limits": Limits(generations=1)}
    ancestor = Campaign(space=fake_space(), **old)
    record = go_on(ancestor, begun(ancestor), answers(0), order)
    entries, until = own_history(record, 1)
    rules = Rules(algorithm=genetic, seed=ancestor.seed, control=ancestor.control)
    steady = Genetic(population_size=6, mode="async")
    fork = Campaign(
        space=fake_space(),
        **{**new, "algorithm": steady, "limits": Limits(evaluations=12), "regime": plan["regime"]},
        history=(Branch(until=until, rules=rules),),
    )
    found = replay(fork, entries)
    assert {one.candidate for one in found.state.memory.members} == {f"s{n}" for n in range(1, 7)}


@FEW
@given(plan=plans(), luck=LUCK, one=ORDERS, other=ORDERS, share=st.floats(0, 1))
def test_what_is_made_of_the_winner_is_measured_for_the_report_and_changes_nothing_else(
    fake_space, answers, plan, luck, one, other, share
):
    alone = Campaign(space=fake_space(), **plan)
    beside = Campaign(space=ContrastingSpace(), **plan)
    plain = go_on(alone, begun(alone), answers(luck), one)
    record = go_on(beside, begun(beside), answers(luck), other)
    made = {one.id for one in record.candidates if one.operator == COUNTERPART}
    assert {id_: one for id_, one in record.known.items() if id_ not in made} == plain.known
    assert {key for key in record.state.tested if key[0] not in made} == plain.state.tested
    assert (record.state.winner, record.state.tops) == (plain.state.winner, plain.state.tops)
    reports = bool({"test", "control"} & beside.kinds) and record.state.winner is not None
    assert len(made) == (reports and record.state.stop != "failures")
    cut = replay(beside, record.entries[: int(share * len(record.entries))])
    again = go_on(beside, cut, answers(luck), one)
    assert again.known == record.known
    assert again.state.tested == record.state.tested

"""What a winner is compared with that is made of it: in campaigns, and in their stores."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.algorithms.genetic import Genetic
from orchestrator.campaign.counterparts import COUNTERPART
from orchestrator.campaign.fold import abandon, handle, replay, retry, start
from orchestrator.campaign.state import Again, Campaign, Candidate, Limits, Recorded, Retry, State
from orchestrator.loop import Driver
from orchestrator.spaces.base import Reference
from orchestrator.storage import upkeep
from orchestrator.storage.memory import Memory, MemoryStore
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from tests.conftest import ContrastingSpace, FakeSpace, failed
from tests.orchestrator.test_driver import Audience, FakeExecutor, taken


def numbers(recipe) -> list[float]:
    return recipe.slices[0].settings[0].values["weight"]


def campaign(evaluations=12, **facts) -> Campaign:
    settings: Mapping[str, Any] = {
        "space": ContrastingSpace(dim=2),
        "algorithm": Genetic(population_size=4, elites=1),
        "kinds": frozenset({"search", "selection", "test", "control"}),
        "finalists": 3,
    }
    limits = Limits(evaluations=evaluations, max_attempts=2)
    return Campaign(seed=3, limits=limits, **{**settings, **facts})


def go_on(made: Campaign, state: State, answer, order=None) -> tuple[State, list, list]:
    """Answers what is open in any order until the end: the state, the born, and the record."""
    order, born, entries = order or random.Random(1), list[Candidate](), []
    while state.open:
        outcome = answer(order.choice(list(state.open.values())))
        step = handle(made, state, outcome)
        entries.append(Recorded(outcome, step.final))
        state, born = step.state, born + list(step.candidates)
    assert state.phase == "done"
    return state, born, entries


def run(made: Campaign, answer, order=None):
    step = start(made)
    state, born, entries = go_on(made, step.state, answer, order)
    return state, [*step.candidates, *born], entries


def again(made: Campaign, entries) -> tuple[State, list[Candidate]]:
    """What a record gives."""
    step = start(made)
    state, born = step.state, list(step.candidates)
    for entry in entries:
        step = replay(made, state, entry)
        state, born = step.state, born + list(step.candidates)
    return state, born


def counterparts(born) -> list[Candidate]:
    return [one for one in born if one.operator == COUNTERPART]


def with_tests(state: State) -> set[str]:
    return {id_ for id_, rows in state.tested if rows == "test"}


def test_the_winner_s_counterpart_is_measured_beside_it_and_takes_no_other_part(score):
    state, born, entries = run(campaign(), score)
    (one,) = counterparts(born)
    winner = state.winner.candidate
    assert (one.name, one.role, one.parents) == ("without", "reference", (winner.id,))
    assert list(numbers(one.recipe)) == [0.0, *numbers(winner.recipe)[1:]]
    of_it = [entry.outcome.rows for entry in entries if entry.outcome.candidate == one.id]
    assert sorted(of_it) == ["control", "test"]
    assert one.id in with_tests(state)
    assert one.id not in {top.candidate.id for tops in state.tops.values() for top in tops}
    plain, _, _ = run(campaign(space=FakeSpace(dim=2)), score)
    assert (state.winner, state.num_scored) == (plain.winner, plain.num_scored)


@pytest.mark.parametrize("kinds", [{"search"}, {"search", "selection"}])
def test_where_nothing_is_measured_for_the_report_there_is_none(score, kinds):
    _, born, _ = run(campaign(kinds=frozenset(kinds)), score)
    assert not counterparts(born)


def test_what_is_its_own_counterpart_or_has_it_among_the_references_gets_no_other(score):
    @dataclass(frozen=True)
    class Equal(ContrastingSpace):
        def counterparts(self, recipe):
            return [Reference(name="itself", recipe=recipe), *self.references]

    _, born, _ = run(campaign(space=Equal()), score)
    assert not counterparts(born)


def test_of_a_front_only_the_winner_has_one(score):
    from orchestrator.algorithms.nsga2 import Nsga2
    from orchestrator.objectives import Objectives

    aims = Objectives(kind="pareto", of=("sphere", "size"))
    judge = aims.judge({"sphere": 1.0}, ("size",), ContrastingSpace().references)
    made = campaign(algorithm=Nsga2(population_size=4), judge=judge)
    state, born, _ = run(made, score)
    assert [one.parents for one in counterparts(born)] == [(state.winner.candidate.id,)]


def test_a_campaign_that_was_broken_off_anywhere_ends_with_the_same_one(score):
    made = campaign()
    whole, born, entries = run(made, score)
    for cut in range(len(entries) + 1):
        state, before = again(made, entries[:cut])
        state, after, _ = go_on(made, state, score)
        known = {one.id: one for one in [*before, *after]}
        assert known == {one.id: one for one in born}
        assert with_tests(state) == with_tests(whole)


def test_the_order_of_outcomes_changes_nothing(score):
    found = [run(campaign(), score, random.Random(seed)) for seed in range(4)]
    one, *others = [{one.id: one for one in born} for _, born, _ in found]
    assert all(other == one for other in others)


def test_a_larger_budget_compares_its_own_winner_and_measures_nothing_again(score):
    for fewer, more in ((8, 12), (12, 13), (4, 20)):
        first, old, entries = run(campaign(fewer), score)
        larger = campaign(more)
        state, before = again(larger, entries)
        state, after, late = go_on(larger, state, score)
        winner = state.winner.candidate.id
        (one,) = counterparts([*before, *after])
        assert one.parents == (winner,)
        measured = [entry.outcome.rows for entry in late if entry.outcome.candidate == one.id]
        had_it = first.winner.candidate.id == winner
        assert sorted(measured) == ([] if had_it else ["control", "test"])
        assert had_it == (counterparts(old) == [one])


def test_another_winner_after_a_retry_has_another_one(score):
    made = campaign()
    whole, _, _ = run(made, score)
    best = whole.winner.candidate

    def broken(job):
        stays = job.candidate == best.id and job.rows == "selection"
        return failed(job, retryable=False) if stays else score(job)

    state, born, entries = run(made, broken)
    (former,) = counterparts(born)
    assert former.parents != (best.id,)
    wish = Retry((Again(candidate=best, rows="selection", attempt=2),))
    step = retry(made, state, wish)
    state, after, _ = go_on(made, step.state, score)
    (one,) = counterparts(after)
    assert state.winner.candidate.id == best.id
    assert one.parents == (best.id,)
    assert one.id != former.id
    assert {one.id, former.id} <= with_tests(state), "what was measured stays measured"
    assert again(made, [*entries, wish])[0].open == step.state.open


def test_time_that_is_up_names_it_and_more_time_goes_on(score):
    made = campaign()
    step = start(made)
    state = step.state
    for job in list(state.open.values()):
        state = handle(made, state, score(job)).state
    step = abandon(made, state, list(state.open))
    assert not counterparts(step.candidates), "finalists are to be picked among first"
    _, born, _ = go_on(made, step.state, score)
    assert len(counterparts(born)) == 1


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    """Opens one campaign's store, as often as it likes."""
    memory = Memory()

    def opened():
        if request.param == "memory":
            return MemoryStore(memory, "one")
        return SqlStore(f"{tmp_path}/shoal.db", "one")

    return opened


class GoneError(Exception):
    pass


@pytest.mark.parametrize("snapshot_every", [1, 5, 1000])
def test_a_driver_that_dies_at_any_outcome_goes_on_to_the_same_end(
    store, tmp_path, score, snapshot_every
):
    made = campaign(evaluations=8)
    state, born, entries = run(made, score)

    def dying(after: int):
        def look(count: int) -> None:
            if count > after:
                raise GoneError

        return FakeExecutor(score, after=look)

    for _ in range(len(entries)):
        executor, mine = dying(2), taken(store())
        driver = Driver(made, mine, lambda executor=executor: executor, Audience(),
                        snapshot_every=snapshot_every)  # fmt: skip
        try:
            ended = driver.run()
        except GoneError:
            mine.close()
            continue
        mine.end("finished", None, 1.0)
        mine.close()
        break
    assert ended.tested == state.tested
    found = store()
    found.load()
    known = found.candidates(found.digests(0))
    found.close()
    assert known == {one.id: one for one in born}
    if (tmp_path / "shoal.db").exists():
        assert upkeep.check(str(tmp_path / "shoal.db"))["problems"] == []


def test_time_that_is_up_when_nothing_is_in_flight_still_records_it(store, score):
    now = [0.0]
    made = campaign(kinds=frozenset({"search", "test"}))

    def ages(count: int) -> None:
        now[0] = 7200.0 * (count >= 6)

    executor, mine = FakeExecutor(score, slots=1, after=ages), taken(store())
    state = Driver(made, mine, lambda: executor, Audience(), hours=1.0, clock=lambda: now[0]).run()
    assert (state.stop, state.phase) == ("time", "done")
    (one,) = counterparts(mine.candidates(mine.digests(0)).values())
    mine.close()
    assert one.id in with_tests(state)


def in_file(tmp_path, made: Campaign, score) -> State:
    """Runs a campaign in a file, or goes on with it."""
    store = taken(SqlStore(f"{tmp_path}/shoal.db", "one"))
    state = Driver(made, store, lambda: FakeExecutor(score), Audience(), snapshot_every=1).run()
    store.end("finished", None, 1.0)
    store.close()
    assert upkeep.check(f"{tmp_path}/shoal.db")["problems"] == []
    return state


def test_the_store_shows_the_counterpart_of_the_winner_as_it_is_now(tmp_path, score):
    shown = []
    for evaluations in (4, 8, 12, 16, 20):
        state = in_file(tmp_path, campaign(evaluations), score)
        reader = Reader(f"{tmp_path}/shoal.db")
        low, high, one = reader.references("one")
        assert (low.name, high.name, one.name) == ("low", "high", "without")
        assert list(one.parents) == [state.winner.candidate.id] == [reader.winner("one").id]
        assert one.fitness is None
        assert one.test_fitness is not None
        assert reader.candidate("one", "without").id == one.id
        shown.append(one.id)
    assert len(set(shown)) > 1, "another winner, another counterpart"


def test_a_winner_of_long_ago_has_its_counterpart_from_the_first_end_on(tmp_path, score):
    def answer(job):
        found = score(job)
        best = replace(found.score, fitness=100.0) if job.candidate == "s2" else found.score
        return replace(found, score=best)

    measured = []
    for evaluations in (8, 16, 24):
        state = in_file(tmp_path, campaign(evaluations), answer)
        assert state.winner.candidate.id == "s2"
        reader = Reader(f"{tmp_path}/shoal.db")
        one = reader.references("one")[-1]
        assert (one.name, one.generation, list(one.parents)) == ("without", 1, ["s2"])
        measured.append(len(reader.attempts("one", one.id)))
    assert measured == [2, 2, 2], "later ends find what the first one measured"

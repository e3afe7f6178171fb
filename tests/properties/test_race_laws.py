"""Laws of races: whom they may never stop, whom they must, and how often they may err."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evaluators.base import Score, TaskFacts, TaskScore
from orchestrator.measurement.halving import Halving
from orchestrator.measurement.layout import layout
from orchestrator.measurement.measured import Standing
from orchestrator.measurement.optuna_pruner import OptunaPruner
from orchestrator.measurement.paired_races import Bernstein, Hoeffding, PairedT
from orchestrator.measurement.race import NUM_RECENT, RACES, Field, Run, of_late


def pruner(name: str, **options):
    """A race by one of Optuna's pruners."""
    return pytest.param(partial(OptunaPruner, pruner=name, options=options), id=f"optuna-{name}")


#: Those that compare a candidate with others, and so must stop who loses to all of them.
RIVALS = [
    *(pytest.param(RACES.load(name), id=name) for name in RACES.addresses),
    pruner("successive_halving"),
    pruner("hyperband", max_resource=9),
    pruner("wilcoxon", n_startup_steps=14),  # below that its test counts permutations
]
KINDS = [*RIVALS, pruner("patient", wrapped_pruner="median", patience=0)]
PAIRED = [PairedT, Hoeffding, Bernstein]


def score(tasks, weights) -> Score:
    """`tasks`: name -> values of its documents."""
    parts = {
        name: TaskScore(
            value=math.fsum(values) / len(values),
            stderr=None,
            documents=len(values),
            weight=weights[name],
            per_document=tuple(map(float, values)),
        )
        for name, values in tasks.items()
    }
    fitness = math.fsum(one.weight * one.value for one in parts.values())
    return Score(fitness=fitness, tasks=parts)


def standing(blocks, weights) -> Standing:
    return Standing({("search", at): score(tasks, weights) for at, tasks in enumerate(blocks)})


def cut(values, sizes):
    """Cuts documents into blocks."""
    stops = np.cumsum([0, *sizes])
    return [values[start:stop] for start, stop in pairwise(stops)]


VALUES = st.sampled_from([0.0, 1.0]) | st.floats(-2, 2, width=16)
WEIGHTS = st.sampled_from([1.0, 0.5, 3.0, -1.0, -0.25])


@st.composite
def models(draw, num, values=VALUES):
    """Some models' blocks on the same documents of one or two tasks, and the tasks' weights."""
    names = draw(st.sampled_from([["one"], ["one", "two"]]))
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    weights = {name: draw(WEIGHTS) for name in names}
    drawn = [
        {name: draw(st.lists(values, min_size=sum(sizes), max_size=sum(sizes))) for name in names}
        for _ in range(num)
    ]
    blocks = [
        [{name: cut(one[name], sizes)[block] for name in names} for block in range(len(sizes))]
        for one in drawn
    ]
    return blocks, weights


def runs(fitness: Sequence[float], num_blocks: int) -> tuple[Run, ...]:
    """Candidates of late, each of the same fitness after every block."""
    return tuple(Run(at, (one,) * num_blocks) for at, one in enumerate(fitness, 1))


def first(whole: Standing, num: int) -> Standing:
    return Standing(dict(list(whole.parts.items())[:num]))


@pytest.mark.parametrize("kind", [*KINDS, pruner("threshold", lower=1e9)])
@given(models(3), st.data())
def test_who_loses_no_document_to_the_last_survivor_goes_on(kind, models, data):
    (*rivals, _), weights = models
    incumbents = sorted(
        (standing(one, weights) for one in rivals), key=lambda one: one.pooled().fitness
    )[::-1]
    last = incumbents[-1]
    gifts = st.floats(0, 1, width=16)
    better = Standing(
        {
            part: score(
                {
                    name: [
                        value + math.copysign(data.draw(gifts), weights[name])
                        for value in task.per_document
                    ]
                    for name, task in one.tasks.items()
                },
                weights,
            )
            for part, one in last.parts.items()
        }
    )
    hopes = runs([1e6] * 20, len(last.parts))  # all of late were better
    race = kind(survivors=2)
    for num in range(1, len(last.parts)):
        assert race.goes_on(first(better, num), Field(tuple(incumbents), hopes))


@pytest.mark.parametrize("kind", RIVALS)
@given(st.integers(100, 300), st.floats(1, 2.5), WEIGHTS, st.booleans())
def test_who_loses_everywhere_is_stopped_before_the_end(kind, num, growth, weight, two):
    names = ["one", "two"] if two else ["one"]
    weights = dict.fromkeys(names, weight)
    race = kind(growth=growth, survivors=1)
    tasks = {name: TaskFacts(documents=num, rows="", is_mean=True) for name in names}
    plan = layout(tasks, seed=0, race=race, reserve=0, round_documents=1)
    good, bad = (1.0, 0.0) if weight > 0 else (0.0, 1.0)

    def of(value):
        blocks = [{name: [value] * len(b[name]) for name in names} for b in plan.search]
        return standing(blocks, weights)

    others = runs([weight * good * len(names)] * 20, len(plan.search))
    lost, rivals = of(bad), Field((of(good),), others)
    verdicts = [race.goes_on(first(lost, at), rivals) for at in range(1, len(plan.search))]
    assert not all(verdicts)


@pytest.mark.parametrize("kind", KINDS)
@given(models(4), st.permutations(range(3)), st.randoms(use_true_random=False))
def test_a_verdict_does_not_depend_on_the_order_of_anything(kind, models, order, random):
    (candidate, *rivals), weights = models
    incumbents = [standing(one, weights) for one in rivals]
    race, mine = _strict(kind, survivors=2), standing(candidate, weights)
    late = runs([0.0, 1.0, 2.0, 3.0], len(candidate))

    def shuffled(one: Standing) -> Standing:
        parts = list(one.parts.items())
        random.shuffle(parts)
        return Standing(
            {
                part: Score(
                    fitness=s.fitness, tasks=dict(random.sample([*s.tasks.items()], len(s.tasks)))
                )
                for part, s in parts
            }
        )

    others = tuple(shuffled(incumbents[at]) for at in order)
    for num in range(1, len(candidate)):
        seen = first(mine, num)
        assert race.goes_on(seen, Field(tuple(incumbents), late, 7)) == race.goes_on(
            shuffled(seen), Field(others, late[::-1], 7)
        )


@pytest.mark.parametrize("kind", KINDS)
@given(models(3), st.sampled_from([0.25, 2.0, 16.0]))
def test_a_verdict_does_not_depend_on_the_scale_of_the_fitness(kind, models, scale):
    (candidate, *rivals), weights = models
    race = _strict(kind, survivors=2)

    def verdicts(factor):
        scaled = {name: factor * weight for name, weight in weights.items()}
        incumbents = tuple(standing(one, scaled) for one in rivals)
        late = runs([factor * one for one in (0.0, 1.0, 2.0)], len(candidate))
        mine = standing(candidate, scaled)
        seen = [first(mine, num) for num in range(1, len(candidate))]
        return [race.goes_on(one, Field(incumbents, late)) for one in seen]

    assert verdicts(scale) == verdicts(1.0)


@pytest.mark.parametrize("kind", PAIRED)
@given(models(2), st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 2), st.floats(0, 2))
def test_more_confidence_or_less_of_a_margin_stops_nobody_else(kind, models, a, b, near, far):
    (candidate, rival), weights = models
    low, high = sorted([a, b])
    small, large = sorted([near, far])
    rivals = Field((standing(rival, weights),))
    mine = standing(candidate, weights)
    for num in range(1, len(candidate)):
        seen = first(mine, num)
        if kind(survivors=1, confidence=low, margin=large).goes_on(seen, rivals):
            assert kind(survivors=1, confidence=high, margin=large).goes_on(seen, rivals)
            assert kind(survivors=1, confidence=low, margin=small).goes_on(seen, rivals)


@pytest.mark.parametrize("kind", [PairedT, Hoeffding])
@given(models(2, st.sampled_from([0.0, 1.0])), st.data())
def test_without_a_margin_one_more_right_answer_never_stops_a_candidate(kind, models, data):
    (candidate, rival), weights = models
    weights = {name: abs(weight) for name, weight in weights.items()}
    race, rivals = kind(survivors=1, margin=0), Field((standing(rival, weights),))
    seen = candidate[: data.draw(st.integers(1, len(candidate) - 1))]
    wrong = [
        (block, name, at)
        for block, tasks in enumerate(seen)
        for name, values in tasks.items()
        for at, value in enumerate(values)
        if value == 0
    ]
    assume(wrong)
    block, name, at = data.draw(st.sampled_from(wrong))
    better = [{task: list(values) for task, values in one.items()} for one in seen]
    better[block][name][at] = 1.0
    if race.goes_on(standing(seen, weights), rivals):
        assert race.goes_on(standing(better, weights), rivals)


def _strict(kind, **settings):
    """A race that stops as readily as it can."""
    eager = {"confidence": 0.05, "margin": 0.0, "least": 1, "eta": 2.0}
    known = {one.name for one in fields(kind.func if isinstance(kind, partial) else kind)}
    return kind(**settings, **{name: eager[name] for name in eager if name in known})


def stopped(race, candidate, rival, rng) -> bool:
    """Races a candidate of (task -> values) against a rival over rows in an order drawn anew."""
    tasks = {n: TaskFacts(documents=len(v), rows="", is_mean=True) for n, v in rival.items()}
    plan = layout(tasks, seed=int(rng.integers(2**31)), race=race, reserve=0, round_documents=1)
    weights = dict.fromkeys(rival, 1.0)

    def of(model):
        return standing(
            [{n: model[n][list(at)] for n, at in b.items()} for b in plan.search], weights
        )

    mine, rivals = of(candidate), Field((of(rival),))
    return not all(race.goes_on(first(mine, at), rivals) for at in range(1, len(plan.search)))


def equally_good(num, right, disagreeing):
    """Answers of two models, each right on as many documents, that differ on some of them."""
    rival = np.zeros(num)
    rival[: round(right * num)] = 1.0
    half = round(disagreeing * num / 2)
    candidate = rival.copy()
    candidate[:half] = 0.0
    candidate[num - half :] = 1.0
    assert candidate.sum() == rival.sum()
    return candidate, rival


@pytest.mark.parametrize("kind", PAIRED)
@pytest.mark.parametrize("disagreeing", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("confidence", [0.7, 0.9])
def test_a_candidate_as_good_as_the_last_survivor_is_seldom_stopped(kind, disagreeing, confidence):
    rng, num = np.random.default_rng(1), 100
    race = kind(confidence=confidence, margin=0, survivors=1)
    pairs = {
        name: equally_good(200, right, disagreeing) for name, right in (("a", 0.5), ("b", 0.7))
    }
    candidate = {name: pair[0] for name, pair in pairs.items()}
    rival = {name: pair[1] for name, pair in pairs.items()}
    rate = np.mean([stopped(race, candidate, rival, rng) for _ in range(num)])
    assert rate <= 1 - confidence + 3 * math.sqrt(confidence * (1 - confidence) / num)


@pytest.mark.parametrize("kind", [PairedT])
def test_a_candidate_that_is_a_margin_better_is_seldom_stopped(kind):
    rng, num = np.random.default_rng(2), 200
    race = kind(survivors=1)
    candidate, rival = equally_good(200, 0.5, 0.1)
    error = math.sqrt(float(np.var(rival)) / len(rival))
    extra = math.ceil(race.margin * error * len(rival))
    candidate[80 : 80 + extra] = 1.0
    rival[80 : 80 + extra] = 0.0
    rate = np.mean([stopped(race, {"a": candidate}, {"a": rival}, rng) for _ in range(num)])
    spare = 3 * math.sqrt(race.confidence * (1 - race.confidence) / num)
    assert rate <= 1 - race.confidence + spare


def test_the_t_race_stops_a_worse_candidate_sooner_than_bounds_do():
    rng, num = np.random.default_rng(3), 20
    rival = {"a": np.repeat([1.0, 0.0], [150, 50])}
    worse = {"a": np.repeat([1.0, 0.0], [90, 110])}
    rates = {
        kind: sum(stopped(kind(survivors=1), worse, rival, rng) for _ in range(num))
        for kind in PAIRED
    }
    assert rates[PairedT] == num
    assert rates[PairedT] >= rates[Hoeffding] >= rates[Bernstein]


@given(st.lists(st.floats(-5, 5), min_size=8, max_size=40), st.floats(-5, 5), st.floats(1.1, 6))
def test_halving_lets_the_best_share_and_their_equals_go_on(rung, fitness, eta):
    race = Halving(eta=eta, survivors=1)
    seen = standing([{"a": [fitness]}], {"a": 1.0})
    better = sum(one > fitness for one in rung)
    kept = max(1, int(len(rung) / eta))
    field = Field((), runs(rung, 1))
    assert race.goes_on(seen, field) == (better < kept)
    assert replace(race, least=len(rung) + 1).goes_on(seen, field)


@given(st.lists(st.integers(1, 5), max_size=400))
def test_each_rung_remembers_the_youngest_that_came_as_far(lengths):
    """However they are told of, one by one or all at once; and nobody else is remembered."""
    everyone = [Run(at, (float(at),) * length) for at, length in enumerate(lengths)]
    kept: tuple[Run, ...] = ()
    for run in everyone:
        kept = of_late((*kept, run))
    assert kept == of_late(everyone)
    for block in range(5):
        came = [float(run.number) for run in everyone if len(run.fitness) > block]
        assert Field((), kept).rung(block) == came[-NUM_RECENT:]
    seen = {value for block in range(5) for value in Field((), kept).rung(block)}
    assert seen == {float(run.number) for run in kept}

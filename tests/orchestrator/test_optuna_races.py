"""Optuna's pruners as races: they say what they would have said to a study of Optuna's own."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import optuna
import pytest

from evaluators.base import Score, TaskScore
from evaluators.pooling import pool
from orchestrator import config, optuna_library
from orchestrator.measurement.measured import Standing
from orchestrator.measurement.optuna_pruner import OptunaPruner
from orchestrator.measurement.race import Field, Run

#: Documents of each block, and when each has been measured.
SIZES = (16, 24, 36, 54)
STEPS = tuple(np.cumsum(SIZES).tolist())
#: Pruner -> its options, and the same made by Optuna.
PRUNERS = {
    "median": ({}, optuna.pruners.MedianPruner()),
    "percentile": ({"percentile": 30.0}, optuna.pruners.PercentilePruner(30.0)),
    "successive_halving": (
        {"min_resource": 16, "reduction_factor": 2},
        optuna.pruners.SuccessiveHalvingPruner(min_resource=16, reduction_factor=2),
    ),
    "hyperband": (
        {"min_resource": 16, "max_resource": 130, "reduction_factor": 2},
        optuna.pruners.HyperbandPruner(16, 130, 2),
    ),
    "threshold": ({"lower": 0.4}, optuna.pruners.ThresholdPruner(lower=0.4)),
    "nop": ({}, optuna.pruners.NopPruner()),
}


def score(values, weight=1.0, name="a") -> Score:
    values = tuple(map(float, values))
    mean = sum(values) / len(values)
    task = TaskScore(
        value=mean, stderr=None, documents=len(values), weight=weight, per_document=values
    )
    return Score(fitness=weight * mean, tasks={name: task})


def standing(*blocks) -> Standing:
    return Standing({("search", at): score(one) for at, one in enumerate(blocks)})


def first(whole: Standing, num: int) -> Standing:
    return Standing(dict(list(whole.parts.items())[:num]))


def fitness_of(whole: Standing) -> tuple[float, ...]:
    parts = list(whole.parts.values())
    return tuple(pool(parts[: num + 1]).fitness for num in range(len(parts)))


def drawn(rng, right: float) -> Standing:
    """A model that is right on this share of the documents, but never on the first one."""
    blocks = [rng.random(num) < right for num in SIZES]
    blocks[0][0] = False
    return standing(*blocks)


@pytest.mark.parametrize("name", PRUNERS)
def test_verdicts_are_those_of_a_study_that_has_run_all_along(name):
    options, oracle = PRUNERS[name]
    study = optuna.create_study(study_name="race", direction="maximize", pruner=oracle)
    rng, race = np.random.default_rng(5), OptunaPruner(survivors=1, pruner=name, options=options)
    champion = standing(*[np.ones(num) for num in SIZES])  # nobody is as good on the first one
    runs, stopped = [], 0
    for number in range(60):
        one, trial = drawn(rng, rng.uniform(0.3, 0.9)), study.ask()
        for at, (step, value) in enumerate(zip(STEPS, fitness_of(one), strict=True), 1):
            trial.report(value, step)
            pruned = trial.should_prune()
            if at < len(STEPS):
                field = Field((champion,), tuple(runs), number)
                assert race.goes_on(first(one, at), field) == (not pruned), (number, at)
                if pruned:
                    break
        whole = at == len(STEPS)
        study.tell(trial, value if whole else None, state=None if whole else PRUNED)
        runs.append(Run(number, fitness_of(one)[:at]))
        stopped += not whole
    assert (stopped > 0) == (name != "nop")


PRUNED = optuna.trial.TrialState.PRUNED


def test_a_resumed_campaign_has_the_verdicts_of_one_that_was_never_broken_off():
    """Nothing is kept between verdicts: another race, told the same in a new process, agrees."""
    rng = np.random.default_rng(6)
    runs = tuple(Run(at, fitness_of(drawn(rng, 0.6))) for at in range(30))
    incumbents = tuple(drawn(rng, 0.9) for _ in range(2))
    candidates = [drawn(rng, 0.6) for _ in range(20)]

    def verdicts(order):
        options = {"min_resource": 16, "max_resource": 130}
        found = {}
        for at in order:
            race = OptunaPruner(pruner="hyperband", options=options)
            field = Field(incumbents, runs, 100 + at)
            found[at] = [race.goes_on(first(candidates[at], num), field) for num in (1, 2, 3)]
        return found

    said = verdicts(range(20))
    assert said == verdicts(reversed(range(20)))
    assert len({tuple(one) for one in said.values()}) > 1


def test_hyperband_draws_a_candidate_s_bracket_by_its_number():
    rng = np.random.default_rng(7)
    runs = tuple(Run(at, fitness_of(drawn(rng, 0.7))) for at in range(40))
    options = {"min_resource": 16, "max_resource": 130, "reduction_factor": 2}
    race, poor = OptunaPruner(pruner="hyperband", options=options), drawn(rng, 0.2)
    incumbents = (drawn(rng, 0.9), drawn(rng, 0.9))
    said = {race.goes_on(first(poor, 1), Field(incumbents, runs, at)) for at in range(100, 140)}
    assert said == {True, False}


def test_the_median_is_that_of_those_measured_in_full():
    """Whoever was stopped does not make it easier for those who come after."""
    rng = np.random.default_rng(8)
    incumbents = (standing(*[np.ones(num) for num in SIZES]),) * 2
    good = [Run(at, (0.8, 0.8, 0.8, 0.8)) for at in range(5)]
    bad = [Run(at, (0.1,)) for at in range(5, 50)]
    race, middling = OptunaPruner(), first(drawn(rng, 0.5), 1)
    assert not race.goes_on(middling, Field(incumbents, (*good, *bad)))
    assert race.goes_on(middling, Field(incumbents, (*good[1:], *bad))), "too few to begin with"


def test_wilcoxon_compares_with_the_best_document_by_document():
    """Where documents are hard for both, it is not stopped for a low mean, but for losses."""
    half = [np.tile([1.0, 0.0], num // 2) for num in SIZES]
    best = standing(np.zeros(16), *half[1:])
    other = standing(*[np.zeros(num) for num in SIZES])
    race = OptunaPruner(pruner="wilcoxon", survivors=1)
    field = Field((best, other))
    low = standing(np.eye(16)[0], np.r_[0.0, half[1][1:]])  # one won, one lost
    assert race.goes_on(low, field)
    assert not race.goes_on(standing(np.zeros(16), np.zeros(24)), field)


def test_wilcoxon_weighs_documents_by_what_they_add_to_the_fitness():
    """What is lost on the task that is lower-is-better is won in fitness."""

    def of(value):
        parts = [score([value] * num, -1.0) for num in SIZES]
        return Standing({("search", at): one for at, one in enumerate(parts)})

    race = OptunaPruner(pruner="wilcoxon", survivors=1)
    assert race.goes_on(first(of(0.2), 1), Field((of(0.5),)))
    assert not race.goes_on(first(of(0.8), 1), Field((of(0.5),)))


def test_patience_waits_for_blocks_without_a_better_fitness():
    champion = standing(*[np.ones(num) for num in SIZES])
    falling = [np.r_[np.ones(round(num * share)), np.zeros(num - round(num * share))]
               for num, share in zip(SIZES, (0.9, 0.5, 0.2, 0.1), strict=True)]  # fmt: skip
    alone = {
        patience: OptunaPruner(
            pruner="patient", survivors=1, options={"wrapped_pruner": None, "patience": patience}
        )
        for patience in (0, 1)
    }
    field = Field((champion,))
    said = {
        patience: [race.goes_on(standing(*falling[:num]), field) for num in (1, 2, 3)]
        for patience, race in alone.items()
    }
    assert said == {0: [True, False, False], 1: [True, True, False]}


def test_a_patient_pruner_wraps_one_with_settings_of_its_own():
    inner = {"pruner": "threshold", "options": {"lower": 0.4}}
    race = OptunaPruner(
        pruner="patient", survivors=1, options={"wrapped_pruner": inner, "patience": 0}
    )
    field = Field((standing(*[np.ones(16)] * 4),))
    fell = [np.r_[np.ones(right), np.zeros(16 - right)] for right in (8, 6, 0)]
    assert race.goes_on(standing(*fell[:2]), field), "lower than it was, but not below 0.4"
    assert not race.goes_on(standing(*fell), field)


@pytest.mark.parametrize("name", ["median", "successive_halving", "hyperband", "wilcoxon"])
def test_a_race_lets_the_best_through_for_fewer_documents_than_all(name):
    """It comes last, when its rivals are good. Of as many documents, spent on measuring some in
    full, whoever they are, it would have been one by the chance of their share."""
    race, num = OptunaPruner(pruner=name, options=PRUNERS.get(name, ({},))[0]), 6
    found, chances = 0, 0.0
    for seed in range(num):
        rng = np.random.default_rng([9, seed])
        born = [drawn(rng, rng.beta(2, 2)) for _ in range(60)]
        born.sort(key=lambda one: fitness_of(one)[-1])
        born = [*(born[at] for at in rng.permutation(59)), born[-1]]
        complete, spent = run_a_race(race, born)
        found += born[-1] in complete
        chances += spent / (len(born) * sum(SIZES))
    assert found >= num - 1
    assert chances < 0.85 * num


def run_a_race(race, born):
    """Ten candidates a generation; returns those that came to the end, and the documents spent."""
    complete, runs, spent = [], [], 0
    for start in range(0, len(born), 10):
        best = sorted(complete, key=lambda one: fitness_of(one)[-1], reverse=True)
        field, reached = Field(tuple(best[: race.survivors]), tuple(runs)), []
        for number, one in enumerate(born[start : start + 10], start):
            seen = Field(field.incumbents, field.runs, number)
            went_on = (race.goes_on(first(one, num), seen) for num in range(1, len(SIZES)))
            num = next((at for at, goes_on in enumerate(went_on, 1) if not goes_on), len(SIZES))
            spent += STEPS[num - 1]
            reached.append(Run(number, fitness_of(one)[:num]))
            complete += [one] if num == len(SIZES) else []
        runs += reached
    return complete, spent


@pytest.mark.parametrize(
    ("pruner", "options", "said"),
    [
        ("medain", {}, r"pruner: Optuna has no pruner 'medain'; did you mean 'median'\?"),
        ("base", {}, r"pruner: Optuna has no pruner 'base'; .*successive_halving"),
        ("percentile", {"percentle": 25}, r"options.percentle: .* did you mean 'percentile'\?"),
        ("percentile", {}, r"options: Optuna's PercentilePruner says: .*'percentile'"),
        ("percentile", {"percentile": 300.0}, r"options: .*between 0 and 100"),
        ("nop", {"n_warmup_steps": 3}, r"options.n_warmup_steps: .*none is known"),
        ("threshold", {}, r"options: Optuna's ThresholdPruner says: Either lower or upper"),
        (
            "patient",
            {"patience": 1, "wrapped_pruner": "wilcoxon"},
            r"options.wrapped_pruner: 'wilcoxon' is told documents",
        ),
        (
            "patient",
            {"patience": 1, "wrapped_pruner": {"pruner": "medain"}},
            r"options.wrapped_pruner: pruner: .*did you mean 'median'\?",
        ),
        ("patient", {"patience": 1, "wrapped_pruner": 7}, "expected the name of a pruner"),
    ],
)
def test_unknown_pruners_and_options_are_refused_in_so_many_words(root, pruner, options, said):
    with pytest.raises(ValueError, match=said):
        OptunaPruner(pruner=pruner, options=options)
    file = root / "examples" / "quickstart.yaml"
    section = f"racing={{kind: optuna, pruner: {pruner}, options: {options}}}".replace("None", "")
    with pytest.raises(config.ConfigError, match=r"--set racing.*: racing\.(pruner|options)"):
        config.read(file, [section])


def test_names_are_read_as_optuna_writes_them_too():
    one, two = (OptunaPruner(pruner=name) for name in ("SuccessiveHalvingPruner", "hyperband"))
    assert one.pruner != two.pruner
    with pytest.raises(ValueError, match="reduction_factor"):
        OptunaPruner(pruner="SuccessiveHalvingPruner", options={"reduction_factor": 1})


def test_nothing_is_warned_of_that_a_user_could_not_help():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        race = OptunaPruner(pruner="wilcoxon", survivors=1)
        ones = standing(*[np.ones(num) for num in SIZES])
        assert not race.goes_on(standing(np.zeros(16)), Field((ones,)))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    optuna_library.load.cache_clear()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"install shoal\[optuna\]"):
        OptunaPruner()

"""Laws of item response models and of their estimates."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.measurement import irt

SMALL = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
dimensions = st.integers(1, 3)


def answers_of(rng, models, items):
    """Answers with a share unseen, but one at least seen."""
    y = rng.integers(0, 2, size=(models, items)).astype(float)
    y[rng.random(y.shape) < 0.5] = np.nan
    y[0, 0] = 1.0
    return y


def a_bank(rng, items, num_dimensions) -> irt.Bank:
    a = rng.normal(1.0, 1.0, size=(items, num_dimensions))
    return irt.Bank(a, rng.normal(size=items), rng.normal(size=(4, num_dimensions)))


@SMALL
@given(seed=seeds, num=dimensions, models=st.integers(1, 12), items=st.integers(1, 12))
def test_probabilities_lie_strictly_between_0_and_1(seed, num, models, items):
    rng = np.random.default_rng(seed)
    bank = irt.fit(answers_of(rng, models, items), dimensions=num, ridge=1.0)
    p = bank.probabilities(bank.theta)
    assert p.shape == (models, items)
    assert ((p > 0.0) & (p < 1.0)).all()


@given(logit=st.floats(-1e300, 1e300))
def test_no_logit_gives_certainty(logit):
    assert 0.0 < irt.sigmoid(np.array([logit]))[0] < 1.0


@SMALL
@given(seed=seeds, num=dimensions, share=st.floats(0, 1), right=st.sampled_from([0.0, 1.0, None]))
def test_estimates_are_shares_with_errors_even_if_all_answers_are_equal(seed, num, share, right):
    rng = np.random.default_rng(seed)
    bank = a_bank(rng, 30, num)
    places = rng.choice(30, rng.integers(1, 30), replace=False)
    answers = rng.integers(0, 2, size=len(places)).astype(float)
    if right is not None:
        answers[:] = right
    for found in (
        irt.ability(bank, places, answers),
        irt.mixture_ability(bank, bank.theta, places, answers),
    ):
        assert np.isfinite(found.theta).all()
        estimate = irt.estimate(bank, found, places, answers, share=share)
        assert 0.0 <= estimate.value <= 1.0
        assert 0.0 < estimate.stderr < 10.0


@SMALL
@given(seed=seeds, num=dimensions)
def test_the_order_of_answers_changes_nothing(seed, num):
    rng = np.random.default_rng(seed)
    bank = a_bank(rng, 40, num)
    places = rng.choice(40, 12, replace=False)
    answers = rng.integers(0, 2, size=12).astype(float)
    turned = rng.permutation(12)
    one, other = (
        irt.mixture_ability(bank, bank.theta, places[order], answers[order])
        for order in (np.arange(12), turned)
    )
    assert np.allclose(one.theta, other.theta, atol=1e-6)


@SMALL
@given(seed=seeds)
def test_the_order_of_models_and_items_changes_no_probability(seed):
    rng = np.random.default_rng(seed)
    truth = a_bank(rng, 30, 1)
    theta = rng.normal(size=(40, 1))
    y = (rng.random((40, 30)) < truth.probabilities(theta)).astype(float)
    rows, columns = rng.permutation(40), rng.permutation(30)
    one = irt.fit(y, dimensions=1, ridge=1.0)
    other = irt.fit(y[rows][:, columns], dimensions=1, ridge=1.0)
    p = one.probabilities(one.theta)[rows][:, columns]
    assert np.allclose(p, other.probabilities(other.theta), atol=1e-3)


@SMALL
@given(seed=seeds, num=dimensions)
def test_the_same_answers_give_the_same_bank(seed, num):
    y = answers_of(np.random.default_rng(seed), 10, 12)
    one, other = (irt.fit(y, dimensions=num, ridge=1.0) for _ in range(2))
    for mine, theirs in ((one.a, other.a), (one.b, other.b), (one.theta, other.theta)):
        assert mine.tobytes() == theirs.tobytes()


@SMALL
@given(seed=seeds, num=dimensions, ridge=st.floats(0.05, 3.0))
def test_no_step_makes_a_row_worse(seed, num, ridge):
    rng = np.random.default_rng(seed)
    problem = irt.Problem(
        features=rng.normal(scale=3.0, size=(15, num)),
        offset=rng.normal(scale=3.0, size=15),
        seen=(rng.random((6, 15)) < 0.8).astype(float),
        y=rng.integers(0, 2, size=(6, 15)).astype(float),
        centre=np.zeros(num),
        precision=ridge,
    )
    rows = rng.normal(scale=5.0, size=(6, num))
    before = problem.value(rows)
    assert (problem.value(problem.improve(rows)) >= before - 1e-9 * np.abs(before)).all()


@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_more_documents_make_a_smaller_error(seed):
    rng = np.random.default_rng(seed)
    bank = a_bank(rng, 300, 2)
    errors = {10: [], 150: []}
    for _ in range(60):
        true = rng.dirichlet([1.0, 1.0]) @ bank.theta[:2]
        answers = (rng.random(300) < bank.probabilities(true)).astype(float)
        for num, found in errors.items():
            places = rng.choice(300, num, replace=False)
            theta = irt.mixture_ability(bank, bank.theta[:2], places, answers[places])
            value = irt.estimate(bank, theta, places, answers[places], share=irt.SHARE).value
            found.append(abs(value - answers.mean()))
    assert np.mean(errors[150]) < np.mean(errors[10])

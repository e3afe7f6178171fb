"""Item response theory: what a model would score on documents that it never saw.

The probability that model m answers item i correctly is `sigmoid(a_i . theta_m - b_i)`: the
multidimensional two-parameter model (Reckase 2009), with abilities theta, discriminations a and
difficulties b. The estimators are p-IRT and gp-IRT (Maia Polo et al. 2024,
https://arxiv.org/abs/2402.14992) and mp-IRT and gmp-IRT (Mencattini et al. 2025,
https://arxiv.org/abs/2502.10436).

Deviations: maxima of the posterior instead of the likelihood, so that all-right and all-wrong
answers have finite abilities; the prior of b is centred on the mean of all items and that of a on
a unit of the first dimension, so that an item with few answers is taken for an average one; every
estimate has a standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Places: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.intp]]
Mask: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

#: Share of the seen answers' mean in the "g" estimators (Mencattini et al. 2025).
SHARE = 0.5
#: Digits that parameters are rounded to, far below what they are known to.
_DIGITS = 6
_MAX_SWEEPS = 60
_MAX_STEPS = 30
#: A fit ends when a sweep improves its objective by less than this, a response.
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Bank:
    """Items with their parameters, and the abilities of the models that they were fitted to."""

    a: Array  # (items, dimensions)
    b: Array  # (items,)
    theta: Array  # (models, dimensions)

    def probabilities(self, theta: Array) -> Array:
        """Returns how probably abilities (..., dimensions) answer each item: (..., items)."""
        return sigmoid(theta @ self.a.T - self.b)

    def information(self, theta: Array) -> Array:
        """Returns the trace of each item's Fisher information about an ability: (items,)."""
        p = self.probabilities(theta)
        found: Array = (self.a**2).sum(axis=1) * p * (1.0 - p)
        return found


@dataclass(frozen=True, slots=True)
class Ability:
    """Where a model stands, and how surely."""

    theta: Array  # (dimensions,)
    covariance: Array  # (dimensions, dimensions)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of right answers over all items, between 0 and 1, and its standard error."""

    value: float
    stderr: float


def sigmoid(logits: Array) -> Array:
    """Returns 1 / (1 + exp(-x)), strictly between 0 and 1 for any finite x."""
    found: Array = 0.5 + 0.5 * np.tanh(0.5 * np.clip(logits, -30.0, 30.0))
    return found


def fit(responses: Array, *, dimensions: int, ridge: float) -> Bank:
    """Fits the bank to 0/1 responses (models, items), NaN where unseen.

    Alternates Newton steps on all abilities and on all items, each of which improves the
    posterior, from the principal components of the responses. The same responses give the same
    bank; parameters have six digits.

    Args:
        responses: 0 or 1 each, NaN where a model did not see an item.
        dimensions: of the abilities, at least 1.
        ridge: precision of the priors of a and b; that of the abilities' is 1, about 0.

    Raises:
        ValueError: if a response is neither 0, 1 nor NaN, or nothing was seen.
    """
    seen, y = _seen(responses)
    theta = _start(seen, y, dimensions)
    items: Array = np.zeros((y.shape[1], dimensions + 1))  # (a, b) of each item
    items[:, 0] = 1.0
    centre = _centre(items)
    before = -np.inf
    for _ in range(_MAX_SWEEPS):
        features = np.concatenate([theta, -np.ones((len(theta), 1))], axis=1)
        offset = np.zeros(len(theta))
        items = Problem(features, offset, seen.T, y.T, centre, ridge).improve(items)
        centre = _centre(items)
        a, b = items[:, :-1], items[:, -1]
        theta = Problem(a, -b, seen, y, np.zeros(dimensions), 1.0).improve(theta)
        after = posterior(theta, items, seen, y, ridge)
        if after - before < _TOLERANCE * seen.sum():
            break
        before = after
    parts = (items[:, :-1], items[:, -1], theta)
    return Bank(*(np.round(part, _DIGITS) + 0.0 for part in parts))


def posterior(theta: Array, items: Array, seen: Array, y: Array, ridge: float) -> float:
    """Returns the logarithm of the posterior density, less a constant, which `fit` maximises."""
    logits = theta @ items[:, :-1].T - items[:, -1]
    apart = items - _centre(items)
    prior = (theta**2).sum() + ridge * (apart**2).sum()
    return float((seen * (y * logits - np.logaddexp(0.0, logits))).sum() - 0.5 * prior)


def ability(bank: Bank, places: Places, answers: Array, *, ridge: float = 1.0) -> Ability:
    """Returns the most probable ability of a model that answered the items at some places.

    Its prior has mean 0 and precision `ridge`.
    """
    centre = np.zeros(bank.a.shape[1])
    theta, covariance = _solve(bank.a[places], -bank.b[places], answers, centre, ridge)
    return Ability(theta, covariance)


def mixture_ability(
    bank: Bank,
    parents: Array,
    places: Places,
    answers: Array,
    *,
    ridge: float = 1.0,
    beside: float = 1.0,
) -> Ability:
    """Returns a merged model's ability near its parents' span, sum_k rho_k theta_k (mp-IRT).

    Deviations: the shares rho have a prior of mean 1/K, and the ability may leave the span, as
    merges can know less than each of their parents does.

    Args:
        bank: the items.
        parents: abilities of the K parents, (K, dimensions).
        places: which items were answered.
        answers: 0 or 1 each.
        ridge: precision of the prior of the shares.
        beside: how far the ability may leave the span, in the units of the abilities' prior; with
            0 and a `ridge` of next to nothing it is the published estimator.
    """
    num, dimensions = len(parents), bank.a.shape[1]
    directions = np.concatenate([parents, beside * np.sqrt(ridge) * np.eye(dimensions)])
    centre = np.concatenate([np.full(num, 1.0 / num), np.zeros(dimensions)])
    features = bank.a[places] @ directions.T
    shares, covariance = _solve(features, -bank.b[places], answers, centre, ridge)
    return Ability(shares @ directions, directions.T @ covariance @ directions)


def estimate(
    bank: Bank,
    found: Ability,
    places: Places,
    answers: Array,
    *,
    share: float = 0.0,
) -> Estimate:
    """Returns the share of right answers over all items of the bank: (m)p-IRT, g(m)p-IRT.

    With lambda the share of the items that was seen:
    `share * mean + (1 - share) * (lambda * mean + (1 - lambda) * mean of p over the unseen)`.

    Args:
        bank: the items that the accuracy is over.
        found: the model's ability; that about its parents' span makes it an "mp" estimator.
        places: which items were answered.
        answers: 0 or 1 each.
        share: weight of the plain mean; 0 for (m)p-IRT, `SHARE` for g(m)p-IRT.
    """
    num_items, num_seen = len(bank.b), len(places)
    if num_seen == num_items:
        return Estimate(float(answers.mean()), 0.0)
    part = num_seen / num_items
    unseen = np.ones(num_items, dtype=bool)
    unseen[places] = False
    predicted = bank.probabilities(found.theta)[unseen].mean()
    rest = share * answers.mean() + (1.0 - share) * predicted
    value = part * answers.mean() + (1.0 - part) * rest
    return Estimate(float(value), (1.0 - part) * _error(bank, found, places, unseen, share))


def _error(bank: Bank, found: Ability, places: Places, unseen: Mask, share: float) -> float:
    """Returns the standard error of what `estimate` says about the unseen, by the delta method.

    The seen answers enter twice, through their mean and through the ability, and these two errors
    go together. What the mean is known to be off, as the seen items are easier or harder than the
    rest, counts as error, too.
    """
    p = bank.probabilities(found.theta)
    spread = p * (1.0 - p)
    slope = (spread[unseen] @ bank.a[unseen]) / unseen.sum()
    pull = found.covariance @ slope
    from_ability = slope @ pull
    from_mean = spread[places].sum() / len(places) ** 2
    together = spread[places] @ (bank.a[places] @ pull) / len(places)
    off = p[places].mean() - p[unseen].mean()
    of_unseen = spread[unseen].sum() / unseen.sum() ** 2
    variance = (
        (1.0 - share) ** 2 * from_ability
        + 2.0 * share * (1.0 - share) * together
        + share**2 * (from_mean + off**2)
        + of_unseen
    )
    return float(np.sqrt(variance))


def _seen(responses: Array) -> tuple[Array, Array]:
    seen = ~np.isnan(responses)
    y = np.where(seen, responses, 0.0)
    if not seen.any():
        raise ValueError("responses: expected at least one answer, got none")
    if not np.isin(y, (0.0, 1.0)).all():
        strange = y[~np.isin(y, (0.0, 1.0))][0]
        raise ValueError(f"responses: expected 0 (wrong) or 1 (right), got {strange}")
    return seen.astype(np.float64), y


def _start(seen: Array, y: Array, dimensions: int) -> Array:
    """Returns abilities from the principal components of how models differ from the average."""
    means = (y.sum(axis=0) + 0.5) / (seen.sum(axis=0) + 1.0)
    apart = seen * (y - means)
    apart /= np.sqrt(np.maximum(seen.sum(axis=1, keepdims=True), 1.0))
    _, vectors = np.linalg.eigh(apart @ apart.T)
    theta = np.zeros((len(y), dimensions))
    found = vectors[:, ::-1][:, :dimensions]
    theta[:, : found.shape[1]] = found * np.sqrt(len(y))
    signs = np.sign(theta.T @ apart.sum(axis=1))  # more ability, more right answers
    return theta * np.where(signs == 0.0, 1.0, signs)


def _centre(items: Array) -> Array:
    """Returns the prior mean of (a, b): a unit of the first dimension, and the mean difficulty.

    A free mean of a would grow without bound while the abilities shrink.
    """
    centre = np.zeros(items.shape[1])
    centre[0] = 1.0
    centre[-1] = items[:, -1].mean()
    return centre


@dataclass(frozen=True, slots=True)
class Problem:
    """Logistic regressions with a common normal prior, one a row: half a step of a fit."""

    features: Array  # (columns, parameters)
    #: Added to the logits of each column.
    offset: Array
    #: 1 where there is an answer, else 0: (rows, columns).
    seen: Array
    #: The answers, 1 or 0: (rows, columns).
    y: Array
    #: Prior mean of the parameters.
    centre: Array
    #: Prior precision of each parameter.
    precision: float

    def value(self, rows: Array) -> Array:
        """Returns what is to be maximised for each row of parameters: (rows,)."""
        logits = rows @ self.features.T + self.offset
        fits = (self.seen * (self.y * logits - np.logaddexp(0.0, logits))).sum(axis=1)
        found: Array = fits - 0.5 * self.precision * ((rows - self.centre) ** 2).sum(axis=1)
        return found

    def gradient(self, rows: Array) -> Array:
        """Returns the derivative of each row's value by its parameters: (rows, parameters)."""
        p = sigmoid(rows @ self.features.T + self.offset)
        found: Array = (self.seen * (self.y - p)) @ self.features
        return found - self.precision * (rows - self.centre)

    def improve(self, rows: Array) -> Array:
        """Takes a step that makes no row worse.

        A Newton step where it makes a row better, else one with the curvature's upper bound 1/4,
        which always does (Boehning & Lindsay 1988).
        """
        p = sigmoid(rows @ self.features.T + self.offset)
        newton = rows + self._step(rows, self.seen * p * (1.0 - p))
        worse = self.value(newton) < self.value(rows)
        if worse.any():
            newton[worse] = (rows + self._step(rows, 0.25 * self.seen))[worse]
        return newton

    def covariance(self, row: Array) -> Array:
        """Returns the inverse of the curvature at one row: (parameters, parameters)."""
        p = sigmoid(row @ self.features.T + self.offset)
        inverse = np.linalg.inv(self._curvature((p * (1.0 - p))[None, :])[0])
        return inverse.astype(np.float64)

    def _step(self, rows: Array, weights: Array) -> Array:
        found = np.linalg.solve(self._curvature(weights), self.gradient(rows)[:, :, None])
        return found[:, :, 0].astype(np.float64)

    def _curvature(self, weights: Array) -> Array:
        num = self.features.shape[1]
        squares = (self.features[:, :, None] * self.features[:, None, :]).reshape(-1, num * num)
        found: Array = (weights @ squares).reshape(-1, num, num) + self.precision * np.eye(num)
        return found


def _solve(
    features: Array, offset: Array, answers: Array, centre: Array, precision: float
) -> tuple[Array, Array]:
    """Returns the most probable parameters of one logistic regression, and their covariance."""
    y = answers[None, :]
    problem = Problem(features, offset, np.ones(y.shape), y, centre, precision)
    rows = centre[None, :]
    for _ in range(_MAX_STEPS):
        before = rows
        rows = problem.improve(rows)
        if np.abs(rows - before).max() < 0.1**_DIGITS:
            break
    return rows[0], problem.covariance(rows[0])

"""Which of several operators to use: adaptive pursuit (Thierens 2005, https://doi.org/10.1145/1068009.1068251).

An operator's quality is how often its children were better than their better parents of late. The
best one's probability is pursued, those of the others fall to a least one, at which they are still
tried. Deviation: quality is a share of recent trials, without the size of gains, so that neither
the scale of fitness nor one lucky child decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

#: Operator -> trials and successes, both fading with time, and probability; as JSON can hold it.
Record: TypeAlias = Mapping[str, Sequence[float]]

#: What a trial still counts after one more.
_FADING = 0.99
#: How fast probabilities follow, per trial.
_PURSUIT = 0.03
#: Probability that an operator never falls below, where they are few.
_LEAST = 0.1


def probabilities(record: Record, labels: Sequence[str]) -> list[float]:
    """Returns the probability of each operator; all alike at first."""
    found = [record[label][2] if label in record else 1.0 / len(labels) for label in labels]
    whole = sum(found)
    return [one / whole for one in found]


def learned(
    record: Record, labels: Sequence[str], results: Iterable[tuple[str, bool]]
) -> dict[str, Any]:
    """Returns the record after (operator, whether it succeeded) of a batch, in whatever order."""
    batch = [result for result in results if result[0] in labels]
    fading, follows = _FADING ** len(batch), 1.0 - (1.0 - _PURSUIT) ** len(batch)
    before = probabilities(record, labels)
    found: dict[str, list[float]] = {}
    for label, probability in zip(labels, before, strict=True):
        trials, successes, _ = record.get(label, (0.0, 0.0, 0.0))
        mine = [succeeded for name, succeeded in batch if name == label]
        found[label] = [fading * trials + len(mine), fading * successes + sum(mine), probability]
    # As if each had succeeded once in two trials: what has hardly been tried is thought well of.
    best = max(labels, key=lambda label: (1.0 + found[label][1]) / (2.0 + found[label][0]))
    least = min(_LEAST, 0.5 / len(labels))
    for label, one in found.items():
        aim = 1.0 - (len(labels) - 1) * least if label == best else least
        one[2] += follows * (aim - one[2])
    return found


def draw(weights: Sequence[float], rng: np.random.Generator) -> int:
    """Draws one of several by their probabilities."""
    return int(rng.choice(len(weights), p=weights))

"""How a network is trained: plain data. Importing this needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Interval

#: Which ticks count: the one that is best and the one that is most certain, or the last one.
Ticks: TypeAlias = Literal["two_tick", "last_tick"]
#: The rate at the end, as a share of the highest.
_LAST_RATE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How a network is trained."""

    #: Steps of the whole schedule; training may be stopped at fewer.
    steps: Annotated[int, Ge(1)]
    #: The highest learning rate.
    rate: Annotated[float, Gt(0.0)] = 1e-3
    batch_size: Annotated[int, Ge(1)] = 64
    #: Steps until the highest rate is reached.
    warm_up: Annotated[int, Ge(0)] = 100
    weight_decay: Annotated[float, Ge(0.0)] = 0.01
    #: Norm that gradients are cut to.
    clip: Annotated[float, Gt(0.0)] = 1.0
    #: Which ticks the loss is of.
    loss: Ticks = "two_tick"
    #: Steps after the longest right beginning of a route that are trained on.
    lookahead: Annotated[int, Ge(0)] = 5
    #: Factor by which the loss may exceed the first one before training is given up.
    explosion: Annotated[float, Gt(1.0)] = 1e3
    #: Share of the loss of each step in the mean that learning curves show.
    smoothing: Annotated[float, Interval(gt=0.0, le=1.0)] = 0.05
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a step, from 0."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)

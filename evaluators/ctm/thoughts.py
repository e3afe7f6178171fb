"""What a network thought: its answer and its certainty at every tick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evaluators.ctm.inputs import Outputs


@dataclass(frozen=True, slots=True)
class Trace:
    """What can be watched while a network thinks, for each tick."""

    #: Weights of the attention (batch, heads, places); empty where there is none.
    attention: list[Tensor] = field(default_factory=list)
    #: Pre-activations and post-activations (batch, neurons).
    pre: list[Tensor] = field(default_factory=list)
    post: list[Tensor] = field(default_factory=list)
    #: Synchronisation that the answer is read from (batch, pairs).
    synchronisation: list[Tensor] = field(default_factory=list)

    def note(self, pre: Tensor, post: Tensor, synchronisation: Tensor) -> None:
        """Keeps what there was at a tick."""
        self.pre.append(pre.detach())
        self.post.append(post.detach())
        self.synchronisation.append(synchronisation.detach())


@dataclass(frozen=True, slots=True)
class Thoughts:
    """Answers and certainties of a batch."""

    #: Unnormalised log-probabilities (batch, positions, classes, ticks).
    logits: Tensor
    #: How certain the answers are, in [0, 1] (batch, ticks).
    certainty: Tensor
    trace: Trace | None = None

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return self.logits.shape[-1]


def by_tick(answers: Tensor, outputs: Outputs) -> Tensor:
    """Returns answers (batch, ticks, outputs) as (batch, positions, classes, ticks)."""
    batch, ticks, _ = answers.shape
    return answers.view(batch, ticks, outputs.positions, outputs.classes).permute(0, 2, 3, 1)


def certainty_of(logits: Tensor) -> Tensor:
    """Returns 1 minus the normalised entropy of answers, the mean over positions.

    (Darlow et al. 2025, section 3.5: kappa = 1 - H(softmax(y)) / ln C.)

    Args:
        logits: (batch, positions, classes, ticks).

    Returns:
        (batch, ticks), in [0, 1].
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    logs = logits.to(wide).log_softmax(dim=2)
    entropy = -(logs.exp() * logs).sum(dim=2)
    return 1.0 - entropy.mean(dim=1) / math.log(logits.shape[2])

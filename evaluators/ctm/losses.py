"""Where along the ticks a network is judged, and by what.

(Darlow et al. 2025, section 3.5 and appendix.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, ctc_loss

from evaluators.ctm.kinds import Judgement
from evaluators.ctm.task import Batch
from evaluators.ctm.thoughts import Thoughts
from evaluators.ctm.training_settings import Ticks


def loss_of(
    thoughts: Thoughts, targets: Tensor, judgement: Judgement, ticks: Ticks, lookahead: int
) -> Tensor:
    """Returns the loss of a batch, a number.

    Args:
        thoughts: Answers at every tick.
        targets: Classes (batch, positions).
        judgement: How the task's answers are judged; an order is judged over all ticks.
        ticks: Which ticks count.
        lookahead: Steps after the longest right beginning of a route that are trained on.
    """
    if judgement == "order":
        return _order(thoughts, targets)
    each = losses(thoughts.logits, targets)  # (batch, positions, ticks)
    if judgement == "route":
        counted = _curriculum(thoughts.logits, targets, lookahead)[:, :, None]
        by_tick = (each * counted).sum(dim=1) / counted.sum(dim=1)
    else:
        by_tick = each.mean(dim=1)
    return two_ticks(by_tick, thoughts.certainty) if ticks == "two_tick" else by_tick[:, -1].mean()


def judged(thoughts: Thoughts, batch: Batch, answer_phases: int | None) -> Thoughts:
    """Returns what was thought at the ticks that answers are judged at.

    Args:
        thoughts: Answers at every tick, of one phase after another.
        batch: What was thought about.
        answer_phases: In how many of the last phases answers are judged; in all if None.
    """
    if answer_phases is None:
        return thoughts
    assert isinstance(batch.inputs, list), "there are phases"
    # What thinks once, not at each phase, is judged by that.
    num = max(1, thoughts.ticks * answer_phases // len(batch.inputs))
    return Thoughts(thoughts.logits[..., -num:], thoughts.certainty[:, -num:], thoughts.trace)


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross-entropy of each answer (batch, positions, ticks), in nats."""
    wide = targets[:, :, None].expand(-1, -1, logits.shape[-1])
    return cross_entropy(logits.transpose(1, 2), wide, reduction="none")


def two_ticks(by_tick: Tensor, certainty: Tensor) -> Tensor:
    """Returns the mean of each sample's least loss and that at its most certain tick.

    Args:
        by_tick: Loss of each sample at each tick (batch, ticks).
        certainty: (batch, ticks).
    """
    best = by_tick.detach().argmin(dim=1, keepdim=True)
    surest = certainty.detach().argmax(dim=1, keepdim=True)
    return (by_tick.gather(1, best) + by_tick.gather(1, surest)).mean() / 2


def _curriculum(logits: Tensor, targets: Tensor, lookahead: int) -> Tensor:
    """Returns which steps of each route count (batch, positions), as 0 and 1.

    Those of its longest right beginning at any tick, and some after them; the first always.
    """
    right = (logits.detach().argmax(dim=2) == targets[:, :, None]).long()
    reached = right.cumprod(dim=1).sum(dim=1).amax(dim=1)  # (batch)
    last = (reached + lookahead).clamp(min=1)
    steps = torch.arange(targets.shape[1], device=targets.device)
    return (steps[None] < last[:, None]).to(logits.dtype)


def _order(thoughts: Thoughts, targets: Tensor) -> Tensor:
    """Returns the mean loss of orders that are read over the ticks; the last class says nothing.

    It is 0, without a gradient, where there are fewer ticks than places: no order can be said.
    """
    logs = thoughts.logits[:, 0].permute(2, 0, 1).log_softmax(dim=2)  # (ticks, batch, classes)
    num, (batch, length) = logs.shape[0], targets.shape
    return ctc_loss(
        logs,
        targets,
        torch.full((batch,), num, dtype=torch.long),
        torch.full((batch,), length, dtype=torch.long),
        blank=logs.shape[2] - 1,
        zero_infinity=True,
    )

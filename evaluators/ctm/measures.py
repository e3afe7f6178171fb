"""What thinking was worth: how right a network is at each tick, how sure, and how soon."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluators.ctm.kinds import Judgement
from evaluators.ctm.losses import judged, losses
from evaluators.ctm.task import Batch
from evaluators.ctm.thoughts import Thoughts

#: Certainty at which thinking could stop (Darlow et al. 2025, section 5).
STOP_AT = 0.8
_BINS = 10


@dataclass(frozen=True, slots=True)
class Findings:
    """Of each sample at each tick that answers are judged at."""

    #: Whether each position is right (batch, positions, ticks).
    right: Tensor
    #: Certainty (batch, ticks).
    certainty: Tensor
    #: Log-likelihood of the right answers, the mean over positions (batch, ticks), in nats.
    log_likelihood: Tensor
    #: The most certain tick, from 0; the last one where certainty says nothing (batch).
    surest: Tensor

    @property
    def whole(self) -> Tensor:
        """Whether all positions are right (batch, ticks)."""
        return self.right.all(dim=1)

    @property
    def early(self) -> Tensor:
        """The first tick certain enough to stop at, or the most certain one (batch), from 0."""
        return _first_sure(self.certainty)

    def at_surest(self, values: Tensor) -> Tensor:
        """Returns values (batch, ticks) at each sample's most certain tick (batch)."""
        return values.gather(1, self.surest[:, None])[:, 0]

    def summary(self) -> dict[str, float | list[float]]:
        """Returns the figures of a report.

        `solved` is the share of samples of which everything is right at the most certain tick,
        `positions` the share of positions; `*_by_tick` the same at each tick. `surest_tick` is the
        mean most certain tick, from 1, and `surest_ticks` how many samples are surest at each.
        `overthought` is the share that is right at some tick but not at the surest. `certain_gain`
        is by how much more often the surer half of the samples is right, `calibration_error` the
        expected difference of certainty and accuracy, and `early_*` what stopping early gives.
        """
        solved = self.at_surest(self.whole).double()
        positions = self.right.double().mean(dim=1)
        sure = self.at_surest(self.certainty).double()
        early = self.early
        ticks = self.certainty.shape[1]
        return {
            "solved": float(solved.mean()),
            "positions": float(self.at_surest(positions).mean()),
            "solved_by_tick": self.whole.double().mean(dim=0).tolist(),
            "positions_by_tick": positions.mean(dim=0).tolist(),
            "certainty_by_tick": self.certainty.double().mean(dim=0).tolist(),
            "surest_tick": float(self.surest.double().mean()) + 1,
            "surest_ticks": torch.bincount(self.surest, minlength=ticks).double().tolist(),
            "overthought": float((self.whole.any(dim=1).double() - solved).mean()),
            "certain_gain": _certain_gain(sure, solved),
            "calibration_error": _calibration_error(sure, self.at_surest(positions)),
            "early_solved": float(self.whole.gather(1, early[:, None]).double().mean()),
            "early_tick": float(early.double().mean()) + 1,
        }


@torch.no_grad()
def examine(
    model: nn.Module,
    batch: Batch,
    judgement: Judgement,
    *,
    answer_phases: int | None = None,
    batch_size: int = 256,
) -> Findings:
    """Returns how a network fares on samples, in evaluation mode.

    Args:
        model: Answers with `Thoughts`.
        batch: Samples.
        judgement: How the task's answers are judged.
        answer_phases: In how many of the last phases they are; in all if None.
        batch_size: Samples of one pass.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for first in range(0, len(batch), batch_size):
        some = batch.take(slice(first, first + batch_size)).to(device)
        thoughts = judged(model(some.inputs), some, answer_phases)
        parts.append(_find(thoughts, some.targets, judgement))
    columns = zip(*parts, strict=True)
    return Findings(*(torch.cat(column).cpu() for column in columns))


def read_orders(logits: Tensor) -> Tensor:
    """Returns the orders that are said up to each tick (batch, classes - 1, ticks).

    The likeliest class of each tick; one said twice running counts once, and the last class says
    nothing. What was not said is -1, and all of it where more is said than there are places.
    """
    said = logits[:, 0].argmax(dim=1)  # (batch, ticks)
    batch, ticks = said.shape
    places, silence = logits.shape[2] - 1, logits.shape[2] - 1
    before = torch.cat([torch.full_like(said[:, :1], silence), said[:, :-1]], dim=1)
    new = (said != silence) & (said != before)
    count = new.long().cumsum(dim=1)
    orders = torch.full((batch, places + 1, ticks), -1, device=said.device)
    for tick in range(ticks):
        if tick:
            orders[:, :, tick] = orders[:, :, tick - 1]
        where = (count[:, tick] - 1).clamp(min=0, max=places)
        old = orders[torch.arange(batch), where, tick]
        orders[torch.arange(batch), where, tick] = torch.where(new[:, tick], said[:, tick], old)
    too_many = (count > places)[:, None]
    return orders[:, :places].masked_fill(too_many, -1)


def _find(thoughts: Thoughts, targets: Tensor, judgement: Judgement) -> tuple[Tensor, ...]:
    """Returns the parts of findings."""
    if judgement == "order":
        right = read_orders(thoughts.logits) == targets[:, :, None]
        last = torch.full((len(targets),), thoughts.ticks - 1, device=targets.device)
        return right, thoughts.certainty, torch.zeros_like(thoughts.certainty), last
    right = thoughts.logits.argmax(dim=2) == targets[:, :, None]
    likelihood = -losses(thoughts.logits, targets).mean(dim=1)
    return right, thoughts.certainty, likelihood, thoughts.certainty.argmax(dim=1)


def _first_sure(certainty: Tensor) -> Tensor:
    """Returns the first tick that is certain enough to stop, or the most certain one (batch)."""
    enough = certainty >= STOP_AT
    return torch.where(enough.any(dim=1), enough.long().argmax(dim=1), certainty.argmax(dim=1))


def _certain_gain(sure: Tensor, solved: Tensor) -> float:
    """Returns by how much more often the surer half is right; 0 where there are no two halves."""
    order = sure.argsort(descending=True, stable=True)
    middle = len(order) // 2
    if not middle:
        return 0.0
    return float(solved[order[:middle]].mean() - solved[order[middle:]].mean())


def _calibration_error(sure: Tensor, right: Tensor) -> float:
    """Returns the mean distance of certainty and accuracy, over ten bins of certainty.

    (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3.)
    """
    bins = (sure * _BINS).long().clamp(0, _BINS - 1)
    total = 0.0
    for place in range(_BINS):
        inside = bins == place
        if inside.any():
            total += abs(float(sure[inside].mean() - right[inside].mean())) * int(inside.sum())
    return total / len(sure)

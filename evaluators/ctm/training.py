"""Training a network for a number of steps: stopped and gone on, it ends at the same weights.

AdamW, linear warm-up and then a cosine (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)
to a twentieth of the rate. The batch of a step depends on the seed and the step alone.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evaluators.ctm.kinds import Judgement
from evaluators.ctm.losses import judged, loss_of
from evaluators.ctm.task import Batch, Data, training_seed
from evaluators.ctm.thoughts import Thoughts
from evaluators.ctm.training_settings import TrainingSettings


class DivergedError(ValueError):
    """Training came to numbers that are not finite; the message says at which step."""

    #: What a worker makes of it.
    stage, failure = "train", "diverged"


class Thinker(Protocol):
    """A network that is trained: a `torch.nn.Module` that answers with thoughts."""

    def __call__(self, inputs: Tensor | list[Tensor]) -> Thoughts:
        """Thinks about a batch."""
        ...

    def restrain(self) -> None:
        """Moves parameters that have a range back into it."""
        ...


class Training:
    """A network in training.

    Args:
        model: A `Thinker`.
        data: What it is trained on.
        judgement: How the task's answers are judged.
        settings: How it is trained.
        answer_phases: In how many of the last phases answers are judged; in all if None.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        judgement: Judgement,
        settings: TrainingSettings,
        answer_phases: int | None = None,
    ) -> None:
        self.model = model
        self.step = 0
        #: Smoothed loss of the steps so far, in nats; None before the first.
        self.loss: float | None = None
        self._first: float | None = None
        self._data, self._judgement, self._settings = data, judgement, settings
        self._answer_phases = answer_phases
        self._optimiser = torch.optim.AdamW(
            model.parameters(), lr=settings.rate, weight_decay=settings.weight_decay
        )

    def until(self, step: int) -> None:
        """Trains up to a step; those that were done are not done again.

        Raises:
            DivergedError: at the step whose loss or gradient is not finite, or whose loss explodes.
        """
        device = next(self.model.parameters()).device
        self.model.train()
        while self.step < min(step, self._settings.steps):
            self._one_step(self._batch().to(device))
            self.step += 1
        self.model.eval()

    def state(self) -> dict[str, Any]:
        """Returns all that is needed to go on: tensors and plain data, which stay as they are."""
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "step": self.step,
                "loss": self.loss,
                "first": self._first,
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self.model.load_state_dict(state["model"])
        # Torch would go on in the very tensors that it is given.
        self._optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.step, self.loss, self._first = state["step"], state["loss"], state["first"]

    def _batch(self) -> Batch:
        seed = training_seed(self._settings.seed, self.step)
        # What is left out by chance in a step depends on the step as its batch does.
        torch.manual_seed(seed)
        return self._data.batch(torch.Generator().manual_seed(seed), self._settings.batch_size)

    def _one_step(self, batch: Batch) -> None:
        settings = self._settings
        for group in self._optimiser.param_groups:
            group["lr"] = settings.rate_at(self.step)
        thoughts = judged(self.model(batch.inputs), batch, self._answer_phases)
        loss = loss_of(thoughts, batch.targets, self._judgement, settings.loss, settings.lookahead)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self._check(float(loss.detach()), float(norm))
        self._optimiser.step()
        restrain = getattr(self.model, "restrain", None)
        if restrain is not None:
            restrain()

    def _check(self, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"diverged at step {self.step}: loss {loss:g}, norm of the gradient {norm:g}"
            )
        if self._first is None:
            self._first = loss
        if loss > self._settings.explosion * max(self._first, 1.0):
            raise DivergedError(
                f"diverged at step {self.step}: loss {loss:g}, {self._first:g} at first"
            )
        share = self._settings.smoothing
        self.loss = loss if self.loss is None else (1 - share) * self.loss + share * loss

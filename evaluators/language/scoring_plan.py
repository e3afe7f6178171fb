"""Log-likelihood requests made ready once and scored again for each candidate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluators.language.shared_batches import Preamble, SharedBatch
from evaluators.language.stock_batches import StockBatch

#: Log-likelihood, and whether the continuation is the greedy one.
Answer = tuple[float, bool]


class NonFiniteError(ValueError):
    """The model's logits gave numbers that are not finite."""


@dataclass(slots=True)
class ScoringPlan(ABC):
    """All batches of a list of log-likelihood requests."""

    #: Scored token ids of each request.
    answers: tuple[tuple[int, ...], ...]
    #: What each request is called in an error.
    labels: tuple[str, ...]
    #: The forward passes, in order.
    batches: Sequence[StockBatch | SharedBatch]

    @property
    def num_requests(self) -> int:
        """How many log-likelihoods come out."""
        return len(self.answers)

    @property
    def num_tokens(self) -> int:
        """Tokens that one candidate's forward passes see, padding included."""
        return sum(batch.tokens.numel() for batch in self.batches)

    def score(self, model: Any) -> list[Answer]:
        """Returns the answer to each planned request.

        Raises:
            NonFiniteError: if a log-likelihood is NaN or infinite, naming the first such request.
            torch.OutOfMemoryError: if memory does not suffice.
        """
        answers: list[Answer] = [(0.0, False)] * self.num_requests
        with torch.inference_mode():
            for request, value, is_greedy in self._run(model):
                answers[request] = (value, is_greedy)
        bad = [index for index, (value, _) in enumerate(answers) if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"the model's log-likelihoods are not finite: {len(bad)} of {len(answers)}, first "
                f"that of {self.labels[bad[0]]}"
            )
        return answers

    @abstractmethod
    def _run(self, model: Any) -> Iterable[tuple[int, float, bool]]: ...


@dataclass(slots=True)
class StockPlan(ScoringPlan):
    """Batches as `HFLM` makes them."""

    batches: tuple[StockBatch, ...]

    def _run(self, model: Any) -> Iterable[tuple[int, float, bool]]:
        for batch in self.batches:
            yield from batch.score(model)


@dataclass(slots=True)
class SharedPlan(ScoringPlan):
    """Batches of rows that share beginnings.

    They change in one case only: one for which memory did not suffice is halved for good.
    """

    batches: list[SharedBatch]
    #: What groups of rows begin with, each (1, length).
    preambles: tuple[torch.Tensor, ...]
    #: Tokens of the smallest batch for which memory did not suffice.
    too_many_tokens: int | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that one candidate's forward passes see, padding included."""
        tokens = [*self.preambles, *(batch.tokens for batch in self.batches)]
        return sum(one.numel() for one in tokens)

    def _run(self, model: Any) -> Iterable[tuple[int, float, bool]]:
        found: list[torch.Tensor] = []
        past: tuple[int, Preamble] | None = None
        while len(found) < len(self.batches):
            batch = self.batches[len(found)]
            if batch.preamble is None or (past is not None and past[0] != batch.preamble):
                past = None  # frees its memory
            if batch.preamble is not None and past is None:
                past = batch.preamble, Preamble(model, self.preambles[batch.preamble])
            scored = self._try(model, batch, None if past is None else past[1])
            if scored is None:
                self._halve(len(found))
            else:
                found.append(scored)
        # One transfer: until here nothing has waited for the device.
        values = torch.cat(found, dim=1).cpu().double().numpy() if found else np.zeros((2, 0))
        start = 0
        for batch in self.batches:
            part = values[:, start : start + len(batch.targets)]
            sums = np.add.reduceat(part[0], batch.starts).tolist()
            greedy = np.minimum.reduceat(part[1], batch.starts).tolist()
            yield from zip(batch.requests, sums, map(bool, greedy), strict=True)
            start += len(batch.targets)

    def _try(self, model: Any, batch: SharedBatch, past: Preamble | None) -> torch.Tensor | None:
        """Returns None where memory did not suffice and a smaller batch can be tried."""
        try:
            return batch.score(model, past)
        except torch.OutOfMemoryError:
            if len(batch.rows) == 1:
                raise
            return None

    def _halve(self, place: int) -> None:
        batch = self.batches[place]
        self.batches[place : place + 1] = batch.halves(self.answers)
        self.too_many_tokens = min(
            self.too_many_tokens or batch.tokens.numel(), batch.tokens.numel()
        )

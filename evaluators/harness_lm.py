"""lm-eval's Hugging Face model class over a resident model, with scoring planned once.

`HFLM` tokenises, sorts, groups and pads all requests again at each call, and picks its results
apart request by request. The requests of a campaign never change, so that work is done once here;
for each candidate only forward passes, one gather a batch and one copy to the host remain. The
batches are those `HFLM` makes from the same requests at the same batch size, so that even in bf16,
where results depend on what shares a batch, the scores equal those of the stock command.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


class NonFiniteError(ValueError):
    """The model's logits gave log-likelihoods that are not finite."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass and where its results are found.

    Requests with the same input share a row.
    """

    tokens: torch.Tensor  # (rows, length), right-padded with 0
    rows: torch.Tensor  # (targets,)
    positions: torch.Tensor  # (targets,)
    targets: torch.Tensor  # (targets,) token ids
    #: For each length of continuation: requests, and their places among the targets.
    answers: tuple[tuple[tuple[int, ...], torch.Tensor], ...]  # (requests,), (requests, length)


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """All batches of a list of log-likelihood requests."""

    batches: tuple[Batch, ...]
    num_requests: int

    @property
    def num_tokens(self) -> int:
        """Tokens that one candidate's forward passes see, padding included."""
        return sum(batch.tokens.numel() for batch in self.batches)


class ResidentLM(HFLM):  # type: ignore[misc]
    """`HFLM` on a model whose weights change between evaluations."""

    def __init__(
        self, model: Any, tokenizer: Any, *, batch_size: int, max_length: int | None
    ) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=max_length,
        )

    def plan(self, requests: Sequence[Instance]) -> ScoringPlan:
        """Tokenises log-likelihood requests and lays out their batches, as `HFLM` would.

        Requests that differ in their last token only share one row.
        """
        encoded = [self._encode(*request.args) for request in requests]
        for request, (_, continuation) in zip(requests, encoded, strict=True):
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f"task {request.task_name!r}, document {request.doc_id}: its answer has "
                    f"{len(continuation)} tokens, expected 1 to max_length ({self.max_length})"
                )
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (context, continuation) in enumerate(encoded):
            groups.setdefault(tuple(context + continuation[:-1]), []).append(index)
        # One request stands for its group: the longest continuation, the first of these.
        leaders = {
            max(members, key=lambda i: len(encoded[i][1])): members for members in groups.values()
        }
        order = sorted(
            leaders,
            key=lambda i: (-len(encoded[i][0] + encoded[i][1]), encoded[i][0] + encoded[i][1]),
        )
        size = int(self.batch_size)
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        batches = tuple(self._batch(chunk, leaders, encoded) for chunk in chunks)
        return ScoringPlan(batches, len(requests))

    def score(self, plan: ScoringPlan) -> list[tuple[float, bool]]:
        """Returns (log-likelihood, is it the greedy continuation) of each planned request.

        Raises:
            NonFiniteError: if a log-likelihood is NaN or infinite.
        """
        results: list[tuple[float, bool]] = [(0.0, False)] * plan.num_requests
        for batch in plan.batches:
            for request, value, is_greedy in self._score_batch(batch):
                results[request] = (value, is_greedy)
        return results

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context:
            return self._encode_pair(context, continuation)  # type: ignore[no-any-return]
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        if tokens[0] == self.prefix_token_id:
            return tokens[:1], tokens[1:]
        return [self.prefix_token_id], tokens

    def _batch(
        self,
        chunk: Sequence[int],
        leaders: dict[int, list[int]],
        encoded: Sequence[tuple[list[int], list[int]]],
    ) -> Batch:
        inputs = [(encoded[i][0] + encoded[i][1])[-(self.max_length + 1) :][:-1] for i in chunk]
        tokens = torch.zeros((len(chunk), max(map(len, inputs))), dtype=torch.long)
        rows: list[int] = []
        positions: list[int] = []
        targets: list[int] = []
        answers: dict[int, list[tuple[int, int]]] = {}
        for row, (leader, inp) in enumerate(zip(chunk, inputs, strict=True)):
            tokens[row, : len(inp)] = torch.tensor(inp)
            for request in leaders[leader]:
                continuation = encoded[request][1]
                answers.setdefault(len(continuation), []).append((request, len(targets)))
                rows += [row] * len(continuation)
                positions += range(len(inp) - len(continuation), len(inp))
                targets += continuation
        return Batch(
            tokens=tokens.to(self.device),
            rows=torch.tensor(rows, device=self.device),
            positions=torch.tensor(positions, device=self.device),
            targets=torch.tensor(targets, device=self.device),
            answers=tuple(
                (
                    tuple(request for request, _ in places),
                    torch.tensor(
                        [[*range(at, at + length)] for _, at in places], device=self.device
                    ),
                )
                for length, places in answers.items()
            ),
        )

    def _score_batch(self, batch: Batch) -> list[tuple[int, float, bool]]:
        """Returns (request, log-likelihood, is it greedy) of all requests of a batch."""
        logits = self._model_call(batch.tokens)  # (rows, length, vocabulary)
        scored = torch.log_softmax(logits[batch.rows, batch.positions], dim=-1)
        chosen = scored.gather(1, batch.targets[:, None])[:, 0]  # (targets,)
        matches = scored.argmax(dim=-1) == batch.targets
        found: list[tuple[int, float, bool]] = []
        for requests, places in batch.answers:
            # Summed in the logits' own type and row by row, as HFLM does: ties then fall alike.
            values = chosen[places].sum(dim=1).tolist()
            greedy = matches[places].all(dim=1).tolist()
            found += zip(requests, values, greedy, strict=True)
        if not all(math.isfinite(value) for _, value, _ in found):
            raise NonFiniteError("the model's log-likelihoods are not finite")
        return found

"""Batches of log-likelihood requests exactly as lm-eval's `HFLM` makes them.

In bf16 results depend on what shares a batch: with these batches, logits at every place and sums
in the logits' own type, scores equal those of the stock command to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

#: Token ids of a context and of what is to follow it.
Encoded = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class StockBatch:
    """One forward pass and where its results are found.

    Requests with the same input share a row.
    """

    tokens: torch.Tensor  # (rows, length), right-padded with 0
    rows: torch.Tensor  # (targets,)
    positions: torch.Tensor  # (targets,)
    targets: torch.Tensor  # (targets,) token ids
    #: For each length of continuation: requests, and their places among the targets.
    answers: tuple[tuple[tuple[int, ...], torch.Tensor], ...]  # (requests,), (requests, length)

    def score(self, model: Any) -> list[tuple[int, float, bool]]:
        """Returns (request, log-likelihood, is it greedy) of all requests of the batch."""
        logits = model(self.tokens).logits  # (rows, length, vocabulary)
        scored = torch.log_softmax(logits[self.rows, self.positions], dim=-1)
        chosen = scored.gather(1, self.targets[:, None])[:, 0]  # (targets,)
        matches = scored.argmax(dim=-1) == self.targets
        found: list[tuple[int, float, bool]] = []
        for requests, places in self.answers:
            # Summed in the logits' own type and row by row, as HFLM does: ties then fall alike.
            values = chosen[places].sum(dim=1).tolist()
            greedy = matches[places].all(dim=1).tolist()
            found += zip(requests, values, greedy, strict=True)
        return found


def stock_batches(
    encoded: Sequence[Encoded],
    indices: Sequence[int],
    *,
    batch_size: int,
    max_length: int,
    device: torch.device,
) -> tuple[StockBatch, ...]:
    """Groups, sorts and cuts the requests of these places into batches.

    Requests that differ in their last token only share one row.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in indices:
        context, continuation = encoded[index]
        groups.setdefault(tuple(context + continuation[:-1]), []).append(index)
    # One request stands for its group: the longest continuation, the first of these.
    leaders = {
        max(members, key=lambda i: len(encoded[i][1])): members for members in groups.values()
    }
    order = sorted(
        leaders,
        key=lambda i: (-len(encoded[i][0] + encoded[i][1]), encoded[i][0] + encoded[i][1]),
    )
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return tuple(_batch(chunk, leaders, encoded, max_length, device) for chunk in chunks)


def _batch(
    chunk: Sequence[int],
    leaders: dict[int, list[int]],
    encoded: Sequence[Encoded],
    max_length: int,
    device: torch.device,
) -> StockBatch:
    inputs = [(encoded[i][0] + encoded[i][1])[-(max_length + 1) :][:-1] for i in chunk]
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
    return StockBatch(
        tokens=tokens.to(device),
        rows=torch.tensor(rows, device=device),
        positions=torch.tensor(positions, device=device),
        targets=torch.tensor(targets, device=device),
        answers=tuple(
            (
                tuple(request for request, _ in places),
                torch.tensor([[*range(at, at + length)] for _, at in places], device=device),
            )
            for length, places in answers.items()
        ),
    )

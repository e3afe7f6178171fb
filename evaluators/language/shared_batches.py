"""Forward passes over rows that share beginnings, and log-likelihoods at the scored places only.

Rows come from `evaluators.language.prefix_rows`. They are sorted by length and cut into batches by
a budget of tokens, so that little is padded. A preamble runs once; the rows that follow it read its
keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from evaluators.language.prefix_rows import Costs, Group, Row, cut

#: Logits that are made into probabilities at a time: what fits the caches of a CPU is several
#: times faster there.
_LOGITS_AT_A_TIME = {"cpu": 1 << 20, "cuda": 1 << 26}


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """One forward pass and where its results are found."""

    #: Which of the plan's preambles the rows follow; None: none.
    preamble: int | None
    rows: tuple[Row, ...]
    tokens: torch.Tensor  # (rows, length), right-padded with 0
    #: Place of each token in its text, and up to where it is seen; None if all rows are plain.
    depths: torch.Tensor | None  # (rows, length)
    ends: torch.Tensor | None  # (rows, length)
    #: Places in the flattened tokens whose predictions are scored.
    scored: torch.Tensor  # (scored,)
    #: For each target: its place in `scored`, and its token id.
    places: torch.Tensor  # (targets,)
    targets: torch.Tensor  # (targets,)
    #: Requests in the order of their targets, and the first target of each.
    requests: tuple[int, ...]
    starts: tuple[int, ...]

    def score(self, model: Any, past: Preamble | None) -> torch.Tensor:
        """Returns log-probability and whether it is the greedy choice, of each target: (2, n)."""
        logits = forward(
            model, self.tokens, depths=self.depths, ends=self.ends, past=past, places=self.scored
        )
        best, total = _best_and_total(logits)
        chosen = logits[self.places, self.targets].float() - total[self.places]
        return torch.stack([chosen, (best[self.places] == self.targets).float()])

    def halves(self, answers: Sequence[Sequence[int]]) -> tuple[SharedBatch, SharedBatch]:
        """Splits the rows in two."""
        middle = len(self.rows) // 2
        device = self.tokens.device
        first, second = self.rows[:middle], self.rows[middle:]
        return (
            make_batch(first, answers, self.preamble, device),
            make_batch(second, answers, self.preamble, device),
        )


def _best_and_total(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the greedy token and the logarithm of the summed exponentials at each place."""
    most = _LOGITS_AT_A_TIME.get(logits.device.type, 1 << 22)
    size = max(1, most // logits.shape[1])
    best, total = [], []
    for start in range(0, len(logits), size):
        part = logits[start : start + size]
        values, tokens = part.max(dim=-1)
        # The one fused kernel there is; the sum is what it took from the largest.
        shares = torch.log_softmax(part, dim=-1, dtype=torch.float32)
        total.append(values.float() - shares.gather(1, tokens[:, None])[:, 0])
        best.append(tokens)
    return torch.cat(best), torch.cat(total)


def make_batches(
    groups: Sequence[Group],
    answers: Sequence[Sequence[int]],
    costs: Costs,
    batch_tokens: int,
    device: torch.device,
) -> tuple[list[SharedBatch], tuple[torch.Tensor, ...]]:
    """Returns the batches of all groups, and the preambles as tensors of (1, length)."""
    batches: list[SharedBatch] = []
    preambles: list[torch.Tensor] = []
    for group in groups:
        preamble = None
        if group.preamble:
            preamble = len(preambles)
            preambles.append(torch.tensor([group.preamble], device=device))
        batches += [
            make_batch(rows, answers, preamble, device) for rows in cut(group, costs, batch_tokens)
        ]
    return batches, tuple(preambles)


def make_batch(
    rows: Sequence[Row],
    answers: Sequence[Sequence[int]],
    preamble: int | None,
    device: torch.device,
) -> SharedBatch:
    """Lays rows out as tensors; `answers` holds the scored token ids of each text."""
    length = max(len(row.tokens) for row in rows)
    shape = (len(rows), length)
    tokens, depths = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    # Padding sees itself only: with nothing to attend to it would become NaN.
    ends = np.tile(np.arange(1, length + 1), (len(rows), 1))
    where: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    requests: list[int] = []
    for number, row in enumerate(rows):
        size = len(row.tokens)
        tokens[number, :size] = row.tokens
        depths[number, :size] = row.depths
        ends[number, :size] = row.ends
        for text, places in row.texts:
            requests.append(text)
            where.append(number * length + places)
    scored, places = np.unique(np.concatenate(where), return_inverse=True)
    counts = [len(answers[text]) for text in requests]
    is_plain = preamble is None and all(row.is_plain for row in rows)
    return SharedBatch(
        preamble=preamble,
        rows=tuple(rows),
        tokens=torch.from_numpy(tokens).to(device),
        depths=None if is_plain else torch.from_numpy(depths).to(device),
        ends=None if is_plain else torch.from_numpy(ends).to(device),
        scored=torch.from_numpy(scored).to(device),
        places=torch.from_numpy(places).to(device),
        targets=torch.tensor(
            [token for text in requests for token in answers[text]], device=device
        ),
        requests=tuple(requests),
        starts=tuple(int(start) for start in np.cumsum([0, *counts[:-1]])),
    )


class Preamble:
    """Keys and values of a preamble, for any number of rows that follow it."""

    def __init__(self, model: Any, tokens: torch.Tensor) -> None:
        cache = DynamicCache()
        last = torch.tensor([tokens.shape[1] - 1], device=tokens.device)
        with only(model, last):
            model(input_ids=tokens, past_key_values=cache, use_cache=True)
        self.length = int(tokens.shape[1])
        self.layers = [(layer.keys, layer.values) for layer in cache.layers]

    def cache(self) -> Any:
        """Returns the keys and values as a model takes them."""
        return Cache(layers=[_PreambleLayer(*layer) for layer in self.layers])


class _PreambleLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values before each row; what the rows add is used and not kept."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (len(key_states), -1, -1, -1)
        return (
            torch.cat([self.keys.expand(shape), key_states], dim=-2),
            torch.cat([self.values.expand(shape), value_states], dim=-2),
        )


def forward(
    model: Any,
    tokens: torch.Tensor,
    *,
    depths: torch.Tensor | None,
    ends: torch.Tensor | None,
    past: Preamble | None,
    places: torch.Tensor,
) -> torch.Tensor:
    """Returns the logits at `places` of the flattened tokens: (places, vocabulary)."""
    shared: dict[str, Any] = {}
    if ends is not None and depths is not None:
        shared["position_ids"] = depths
        shared["attention_mask"] = _mask(ends, 0 if past is None else past.length, model.dtype)
    if past is not None:
        shared["past_key_values"] = past.cache()
    with only(model, places) as chosen:
        logits = model(input_ids=tokens, use_cache=past is not None, **shared).logits
    if chosen:
        return logits[0]  # type: ignore[no-any-return]
    return logits.flatten(0, 1)[places]  # type: ignore[no-any-return]


def _mask(ends: torch.Tensor, past: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns what is added to attention scores: (rows, 1, length, past + length)."""
    rows, length = ends.shape
    own = torch.arange(length, device=ends.device)
    seen = (own[None, :] <= own[:, None]) & (own[:, None] < ends[:, None, :])
    mask = torch.zeros((rows, 1, length, past + length), dtype=dtype, device=ends.device)
    mask[:, 0, :, past:].masked_fill_(~seen, torch.finfo(dtype).min)
    return mask


@contextmanager
def only(model: Any, places: torch.Tensor) -> Iterator[list[bool]]:
    """Lets a model's output head see these places only, as one row: (1, places, width).

    What the model's class does with logits thereafter (scaling, capping) it does as ever. Yields a
    list that is empty as long as no head was found.
    """
    chosen: list[bool] = []
    head = model.get_output_embeddings()

    def select(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        chosen.append(True)
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[places][None], *inputs[1:])

    hook = None if head is None else head.register_forward_pre_hook(select)
    try:
        yield chosen
    finally:
        if hook is not None:
            hook.remove()

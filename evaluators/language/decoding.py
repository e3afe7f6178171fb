"""The decoding loop: one batch of prompts to texts, rows leaving it as their texts end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from evaluators.language.generation_settings import GenerationSettings, penalised
from evaluators.language.scoring_plan import NonFiniteError
from evaluators.language.shared_batches import Preamble, only

#: Rows leave once this share of them has ended: what remains has to be copied.
_LEAVING_SHARE = 0.25
#: For how many steps keys and values have room before they are copied to a larger place.
_ROOM = 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's prompt without its preamble."""

    #: Its place among the requests.
    request: int
    tokens: npt.NDArray[np.int64]
    #: What it is called in an error.
    label: str
    #: Of its own draws, so that a text does not depend on its neighbours.
    seed: int


class Feed:
    """Keys, values and masks of a batch of rows; gives the logits after each new token.

    Prompts are padded on the left, between the preamble and the prompt.
    """

    def __init__(
        self, model: Any, prompts: Sequence[npt.NDArray[np.int64]], past: Preamble | None
    ) -> None:
        self._model = model
        self._takes_places = "position_ids" in inspect.signature(model.forward).parameters
        start = 0 if past is None else past.length
        length = max(map(len, prompts))
        tokens = np.zeros((len(prompts), length), dtype=np.int64)
        mask = np.zeros((len(prompts), start + length), dtype=np.int64)
        mask[:, :start] = 1
        for row, prompt in enumerate(prompts):
            tokens[row, length - len(prompt) :] = prompt
            mask[row, start + length - len(prompt) :] = 1
        device = model.device
        self._tokens = torch.from_numpy(tokens).to(device)
        self._mask = torch.from_numpy(mask).to(device)
        self._places = (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, start:]
        self._cache = _cache(model, past, len(prompts))

    def logits(self) -> torch.Tensor:
        """Runs the tokens that were fed last and returns what follows: (rows, vocabulary)."""
        rows, length = self._tokens.shape
        places = {"position_ids": self._places} if self._takes_places else {}
        last = torch.arange(1, rows + 1, device=self._tokens.device) * length - 1
        with only(self._model, last) as chosen:
            output = self._model(
                input_ids=self._tokens,
                attention_mask=self._mask,
                past_key_values=self._cache,
                use_cache=True,
                **places,
            )
        logits = output.logits[0] if chosen else output.logits[:, -1]
        return logits.float()  # type: ignore[no-any-return]

    def feed(self, tokens: torch.Tensor) -> None:
        """Takes the next token of each row."""
        self._tokens = tokens[:, None]
        self._places = self._places[:, -1:] + 1
        self._mask = torch.cat([self._mask, torch.ones_like(self._tokens)], dim=1)

    def keep(self, rows: torch.Tensor) -> None:
        """Forgets all rows but these."""
        self._tokens, self._places = self._tokens[rows], self._places[rows]
        self._mask = self._mask[rows]
        self._cache.batch_select_indices(rows)


def _cache(model: Any, past: Preamble | None, rows: int) -> Any:
    """Layers that forget, or that keep more than keys and values, are made by their config."""
    made = DynamicCache(config=model.config)
    if any(type(layer) is not DynamicLayer for layer in made.layers):
        return made
    if past is None:
        return Cache(layers=[_RoomyLayer() for _ in made.layers])
    return Cache(layers=[_RoomyLayer((*layer, rows)) for layer in past.layers])


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values with room to grow: appending a token copies that token only."""

    def __init__(self, past: tuple[torch.Tensor, torch.Tensor, int] | None = None) -> None:
        super().__init__()
        self._held: list[torch.Tensor] = []
        self._length = 0
        if past is not None:
            self.update(*(one.expand(past[2], -1, -1, -1) for one in past[:2]))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, stop = self._length, self._length + key_states.shape[-2]
        if not self._held:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        if not self._held or stop > self._held[0].shape[-2]:
            self._held = [
                _larger(one, new, start, stop + _ROOM)
                for one, new in zip(
                    self._held or (None, None), (key_states, value_states), strict=True
                )
            ]
        for held, new in zip(self._held, (key_states, value_states), strict=True):
            held[:, :, start:stop] = new
        self._length = stop
        return self._show()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._held = [held[indices] for held in self._held]
        self._show()

    def _show(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (held[:, :, : self._length] for held in self._held)
        return self.keys, self.values


def _larger(held: torch.Tensor | None, new: torch.Tensor, length: int, room: int) -> torch.Tensor:
    made = new.new_empty((*new.shape[:2], room, new.shape[-1]))
    if held is not None:
        made[:, :, :length] = held[:, :, :length]
    return made


def decode(
    feed: Feed,
    prompts: Sequence[Prompt],
    whole: Sequence[Sequence[int]],
    settings: GenerationSettings,
    holds_stop: Callable[[Sequence[Sequence[int]]], Sequence[bool]],
) -> list[list[int]]:
    """Returns the new tokens of each prompt, up to the one that ends it.

    `whole` are the prompts with their preamble; `holds_stop` tells of new tokens whether a stop
    string is at their end.

    Raises:
        NonFiniteError: if the logits that a token is chosen by are not finite.
    """
    choose = _Choice(prompts, whole, settings)
    made: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt is in each row
    live = rows
    for step in range(settings.max_new_tokens):
        tokens = choose(feed.logits(), rows, step)
        picked = dict(zip(rows, tokens.tolist(), strict=True))
        for prompt in live:
            if picked[prompt] < 0:
                raise NonFiniteError(
                    f"the model's logits are not finite: {prompts[prompt].label}, new token "
                    f"{step + 1}"
                )
            made[prompt].append(picked[prompt])
        stopped = holds_stop([made[prompt] for prompt in live])
        going = zip(live, stopped, strict=True)
        live = [one for one, stop in going if not stop and picked[one] not in settings.ends]
        if not live:
            break
        feed.feed(tokens.clamp(min=0))
        if len(live) <= (1 - _LEAVING_SHARE) * len(rows):
            kept = torch.tensor([rows.index(one) for one in live], device=tokens.device)
            rows = live
            feed.keep(kept)
            choose.keep(kept)
    return made


class _Choice:
    """Chooses the next token of each row, greedily or by the row's own draws."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        whole: Sequence[Sequence[int]],
        settings: GenerationSettings,
    ) -> None:
        self._settings = settings
        self._warpers: Any = settings.warpers() if settings.do_sample else None
        self._whole = whole
        self._seen: torch.Tensor | None = None  # (rows, vocabulary)
        self._draws = np.array(
            [np.random.default_rng(one.seed).random(settings.max_new_tokens) for one in prompts]
            if settings.do_sample
            else ()
        )

    def __call__(self, logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor:
        """Returns token ids, -1 where the logits are not finite."""
        finite = logits.amax(dim=-1).isfinite()
        penalty = self._settings.repetition_penalty
        if penalty != 1.0:
            logits = penalised(logits, self._seen_tokens(logits), penalty)
        if self._warpers is None:
            tokens = logits.argmax(dim=-1)
        else:
            tokens = self._draw(logits, [self._draws[row, step] for row in rows])
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
        return torch.where(finite, tokens, -1)

    def keep(self, rows: torch.Tensor) -> None:
        if self._seen is not None:
            self._seen = self._seen[rows]

    def _seen_tokens(self, logits: torch.Tensor) -> torch.Tensor:
        if self._seen is None:
            self._seen = torch.zeros_like(logits, dtype=torch.bool)
            for row, tokens in enumerate(self._whole):
                self._seen[row, torch.tensor(tokens, device=logits.device)] = True
        return self._seen

    def _draw(self, logits: torch.Tensor, draws: Sequence[float]) -> torch.Tensor:
        """Inverts the cumulative probabilities; on the CPU, where sums are the same each time."""
        shares = self._warpers(None, logits).softmax(dim=-1).cpu().double().cumsum(dim=-1)
        at = torch.tensor(draws, dtype=torch.float64)[:, None] * shares[:, -1:]
        tokens = torch.searchsorted(shares, at, right=True)[:, 0]
        return tokens.clamp(max=shares.shape[1] - 1).to(logits.device)

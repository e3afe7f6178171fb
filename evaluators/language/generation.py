"""`generate_until` requests made ready once and answered again for each candidate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lm_eval.models.utils import postprocess_generated_text

from evaluators.language.decoding import Feed, Prompt, decode
from evaluators.language.generation_settings import GenerationSettings
from evaluators.language.prefix_rows import Costs, Sharing, Text, lay_out
from evaluators.language.shared_batches import Preamble

#: Keys and values of a generated token take a fraction of the memory of a scored one's logits.
_HELD_FOR_ONE = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, tokenised."""

    #: Its place among the requests.
    request: int
    context: str
    tokens: tuple[int, ...]
    settings: GenerationSettings
    #: What it is called in an error.
    label: str


@dataclass(frozen=True, slots=True)
class GenerationBatch:
    """Prompts whose texts are made together."""

    settings: GenerationSettings
    #: Which of the plan's preambles the prompts follow; None: none.
    preamble: int | None
    prompts: tuple[Prompt, ...]


@dataclass(slots=True)
class GenerationPlan:
    """All batches of a list of generation requests.

    They change in one case only: one for which memory did not suffice is halved for good.
    """

    num_requests: int
    batches: list[GenerationBatch] = field(default_factory=list)
    preambles: list[torch.Tensor] = field(default_factory=list)  # each (1, length)
    #: Requests that are left to `HFLM`, by their places.
    rest: tuple[int, ...] = ()
    #: All requests as lm-eval gave them.
    requests: Sequence[Any] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts, preambles counted once."""
        own = sum(len(prompt.tokens) for batch in self.batches for prompt in batch.prompts)
        return own + sum(one.numel() for one in self.preambles)


def plan_batches(
    plan: GenerationPlan,
    asked: Sequence[Asked],
    *,
    sharing: Sharing,
    costs: Costs,
    batch_tokens: int,
    device: torch.device,
) -> None:
    """Groups prompts by settings and preamble, sorts them by length and cuts them into batches."""
    seeds = _seeds(asked)
    by_settings: dict[GenerationSettings, list[Asked]] = {}
    for one in asked:
        by_settings.setdefault(one.settings, []).append(one)
    # Branches are of no use: each text grows on its own.
    whole = Sharing(False, sharing.preambles and sharing.max_length is None, None)
    for settings, members in by_settings.items():
        texts = [Text(one.tokens, 1) for one in members]
        for group in lay_out(texts, whole, costs, max(len(one.tokens) for one in members)):
            preamble = None
            if group.preamble:
                preamble = len(plan.preambles)
                plan.preambles.append(torch.tensor([group.preamble], device=device))
            start = len(group.preamble)
            inside = [members[text] for row in group.rows for text, _ in row.texts]
            prompts = [
                Prompt(
                    request=one.request,
                    tokens=np.array(one.tokens[start:], dtype=np.int64),
                    label=one.label,
                    seed=seeds[one.request],
                )
                for one in sorted(inside, key=lambda one: (-len(one.tokens), one.request))
            ]
            plan.batches += _cut(settings, preamble, start, prompts, batch_tokens)


def _cut(
    settings: GenerationSettings,
    preamble: int | None,
    start: int,
    prompts: Sequence[Prompt],
    batch_tokens: int,
) -> list[GenerationBatch]:
    batches: list[GenerationBatch] = []
    place = 0
    while place < len(prompts):
        longest = start + len(prompts[place].tokens) + settings.max_new_tokens
        size = max(1, _HELD_FOR_ONE * batch_tokens // longest)
        batches.append(GenerationBatch(settings, preamble, tuple(prompts[place : place + size])))
        place += size
    return batches


def _seeds(asked: Sequence[Asked]) -> dict[int, int]:
    """Returns a seed of each request: of its prompt, and of how often that came before."""
    times: dict[str, int] = {}
    seeds: dict[int, int] = {}
    for one in asked:
        number = times[one.context] = times.get(one.context, -1) + 1
        digest = hashlib.blake2b(f"{number}:{one.context}".encode(), digest_size=8).digest()
        seeds[one.request] = int.from_bytes(digest)
    return seeds


class Generator:
    """Runs a plan on a model."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._windows: dict[tuple[str, ...], int] = {}

    def run(self, plan: GenerationPlan, model: Any) -> dict[int, str]:
        """Returns the text of each request that the plan has batches for.

        Raises:
            NonFiniteError: if a logit that a token is chosen by is NaN or infinite.
            torch.OutOfMemoryError: if memory does not suffice for a single row.
        """
        texts: dict[int, str] = {}
        past: tuple[int, Preamble] | None = None
        place = 0
        with torch.inference_mode():
            while place < len(plan.batches):
                batch = plan.batches[place]
                if batch.preamble is None or (past is not None and past[0] != batch.preamble):
                    past = None  # frees its memory
                if batch.preamble is not None and past is None:
                    past = batch.preamble, Preamble(model, plan.preambles[batch.preamble])
                made = self._try(plan, batch, model, None if past is None else past[1])
                if made is None:
                    plan.batches[place : place + 1] = _halves(batch)
                else:
                    texts |= made
                    place += 1
        return texts

    def _try(
        self, plan: GenerationPlan, batch: GenerationBatch, model: Any, past: Preamble | None
    ) -> dict[int, str] | None:
        """Returns None where memory did not suffice and a smaller batch can be tried."""
        try:
            return self._texts(plan, batch, model, past)
        except torch.OutOfMemoryError:
            if len(batch.prompts) == 1:
                raise
            return None

    def _texts(
        self, plan: GenerationPlan, batch: GenerationBatch, model: Any, past: Preamble | None
    ) -> dict[int, str]:
        stops = batch.settings.stops
        window = self._window(stops)

        def holds_stop(made: Sequence[Sequence[int]]) -> list[bool]:
            ends = self._tokenizer.batch_decode([tokens[-window:] for tokens in made])
            return [any(stop in end for stop in stops) for end in ends]

        start = [] if batch.preamble is None else plan.preambles[batch.preamble][0].tolist()
        made = decode(
            Feed(model, [prompt.tokens for prompt in batch.prompts], past),
            batch.prompts,
            [[*start, *prompt.tokens] for prompt in batch.prompts],
            batch.settings,
            holds_stop,
        )
        return {
            prompt.request: postprocess_generated_text(
                self._tokenizer.decode(tokens, skip_special_tokens=True), list(stops), None
            )
            for prompt, tokens in zip(batch.prompts, made, strict=True)
        }

    def _window(self, stops: tuple[str, ...]) -> int:
        """Returns how many tokens may hold a stop string: two more than it takes to write it.

        As in `HFLM`: a text may write it otherwise than the tokenizer would.
        """
        if stops not in self._windows:
            sizes = [len(self._tokenizer.encode(stop, add_special_tokens=False)) for stop in stops]
            self._windows[stops] = max(sizes, default=0) + 2
        return self._windows[stops]


def _halves(batch: GenerationBatch) -> list[GenerationBatch]:
    middle = len(batch.prompts) // 2
    parts = batch.prompts[:middle], batch.prompts[middle:]
    return [GenerationBatch(batch.settings, batch.preamble, part) for part in parts]

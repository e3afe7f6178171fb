"""lm-eval's model class over a resident model, with requests planned once.

Requests of a campaign never change, but the weights do. So requests are tokenised, sorted and laid
out once; for each candidate only forward passes remain. Without a batch size the batches are our
own: rows that share what they can, cut by a budget of tokens. With a batch size they are those of
lm-eval's `HFLM`, whose scores are then met to the last digit even in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evaluators.language.generation import Asked, GenerationPlan, Generator, plan_batches
from evaluators.language.generation_settings import GenerationSettings, read_settings
from evaluators.language.model_limits import (
    default_batch_tokens,
    find_costs,
    find_decoding,
    find_sharing,
)
from evaluators.language.prefix_rows import Text, lay_out
from evaluators.language.scoring_plan import NonFiniteError, ScoringPlan, SharedPlan, StockPlan
from evaluators.language.shared_batches import make_batches
from evaluators.language.stock_batches import Encoded, stock_batches

__all__ = ["NonFiniteError", "ResidentLM", "RollingPlan", "ScoringPlan"]

#: Of texts that `HFLM` samples: the same draws for each candidate.
_SEED = 1234


@dataclass(frozen=True, slots=True)
class RollingPlan:
    """Windows over whole texts, and how many belong to each."""

    scoring: ScoringPlan
    num_windows: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that one candidate's forward passes see, padding included."""
        return self.scoring.num_tokens


class ResidentLM(HFLM):  # type: ignore[misc]
    """`HFLM` on a model whose weights change between evaluations.

    Args:
        model: A `transformers.PreTrainedModel` on its device, in evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Rows of a batch, laid out as `HFLM` would; None: batches of our own.
        batch_tokens: Tokens of a batch of our own; None: what suits model and device.
        max_length: Longest context in tokens; None takes the model's own.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int | None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size or 1,
            max_length=max_length,
        )
        self._is_stock = batch_size is not None
        self._generator = Generator(tokenizer)
        if not self._is_stock:
            self.batch_tokens = batch_tokens or default_batch_tokens(model)
            self.costs = find_costs(model)
            self.sharing = find_sharing(model)
            self._decodes = find_decoding(model)

    def plan(self, requests: Sequence[Instance]) -> ScoringPlan:
        """Tokenises log-likelihood requests and lays out their batches.

        Raises:
            ValueError: if an answer has no tokens or more than fit the model.
        """
        encoded = [self._encode(*request.args) for request in requests]
        for request, (_, continuation) in zip(requests, encoded, strict=True):
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f"{_label(request)}: its answer has {len(continuation)} tokens, expected 1 to "
                    f"max_length ({self.max_length})"
                )
        return self._plan(encoded, [_label(request) for request in requests])

    def score(self, plan: ScoringPlan) -> list[tuple[float, bool]]:
        """Returns (log-likelihood, is it the greedy continuation) of each planned request.

        Raises:
            NonFiniteError: if a log-likelihood is NaN or infinite.
        """
        answers = plan.score(self.model)
        if isinstance(plan, SharedPlan) and plan.too_many_tokens is not None:
            # What is planned from now on need not fail first.
            self.batch_tokens = min(self.batch_tokens, max(1, plan.too_many_tokens // 2))
        return answers

    def plan_rolling(self, requests: Sequence[Instance]) -> RollingPlan:
        """Cuts whole texts into windows of the model's length and lays out their batches."""
        windows: list[Encoded] = []
        labels: list[str] = []
        counts: list[int] = []
        for request in requests:
            found = [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            windows += found
            labels += [_label(request)] * len(found)
            counts.append(len(found))
        return RollingPlan(self._plan(windows, labels, in_order=True), tuple(counts))

    def score_rolling(self, plan: RollingPlan) -> list[float]:
        """Returns the log-likelihood of each planned text.

        Raises:
            NonFiniteError: if a log-likelihood is NaN or infinite.
        """
        values = iter(self.score(plan.scoring))
        return [sum(next(values)[0] for _ in range(count)) for count in plan.num_windows]

    def plan_generation(self, requests: Sequence[Instance]) -> GenerationPlan:
        """Tokenises generation requests and lays out their batches.

        Raises:
            ValueError: if a request leaves no room for a prompt.
        """
        plan = GenerationPlan(len(requests), requests=tuple(requests))
        asked = []
        if not self._is_stock and self._decodes:
            settings = self._settings(requests)
            asked = [
                self._ask(index, request, wanted)
                for index, (request, wanted) in enumerate(zip(requests, settings, strict=True))
                if wanted is not None
            ]
            plan_batches(
                plan,
                asked,
                sharing=self.sharing,
                costs=self.costs,
                batch_tokens=self.batch_tokens,
                device=self.device,
            )
        planned = {one.request for one in asked}
        plan.rest = tuple(index for index in range(len(requests)) if index not in planned)
        return plan

    def generate(self, plan: GenerationPlan) -> list[str]:
        """Returns the text of each planned request; the same weights give the same texts.

        Raises:
            NonFiniteError: if logits are NaN or infinite.
        """
        texts = self._generator.run(plan, self.model)
        if plan.rest:
            rest = [plan.requests[index] for index in plan.rest]
            torch.manual_seed(_SEED)
            with torch.inference_mode(), _finite_logits(self.model):
                made = super().generate_until(rest, disable_tqdm=True)
            texts |= dict(zip(plan.rest, made, strict=True))
        return [texts[index] for index in range(plan.num_requests)]

    def loglikelihood(
        self,
        requests: Sequence[Instance],
        disable_tqdm: bool = False,
    ) -> list[tuple[float, bool]]:
        """Plans and scores in one go."""
        del disable_tqdm
        return self._remember("loglikelihood", requests, self.score(self.plan(requests)))

    def loglikelihood_rolling(
        self,
        requests: Sequence[Instance],
        disable_tqdm: bool = False,
    ) -> list[float]:
        """Plans and scores in one go."""
        del disable_tqdm
        values = self.score_rolling(self.plan_rolling(requests))
        return self._remember("loglikelihood_rolling", requests, values)

    def generate_until(
        self,
        requests: Sequence[Instance],
        disable_tqdm: bool = False,
    ) -> list[str]:
        """Plans and generates in one go."""
        del disable_tqdm
        texts = self.generate(self.plan_generation(requests))
        return self._remember("generate_until", requests, texts)

    def _remember(self, kind: str, requests: Sequence[Instance], found: list[Any]) -> list[Any]:
        """Fills lm-eval's own cache of answers, if one is attached."""
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
        return found

    def _encode(self, context: str, continuation: str) -> Encoded:
        if context:
            return self._encode_pair(context, continuation)  # type: ignore[no-any-return]
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        if tokens[:1] == [self.prefix_token_id]:
            return tokens[:1], tokens[1:]
        return [self.prefix_token_id], tokens

    def _plan(
        self, encoded: Sequence[Encoded], labels: Sequence[str], *, in_order: bool = False
    ) -> ScoringPlan:
        answers = tuple(tuple(continuation) for _, continuation in encoded)
        if self._is_stock:
            size = int(self.batch_size)
            # HFLM sorts windows within a batch, but takes them into batches as they come.
            chunks = range(0, len(encoded), size if in_order else max(len(encoded), 1))
            parts = [
                stock_batches(
                    encoded,
                    range(start, min(start + chunks.step, len(encoded))),
                    batch_size=size,
                    max_length=self.max_length,
                    device=self.device,
                )
                for start in chunks
            ]
            return StockPlan(answers, tuple(labels), tuple(one for part in parts for one in part))
        texts = [
            Text(tuple((context + answer)[-(self.max_length + 1) : -1]), len(answer))
            for context, answer in encoded
        ]
        groups = lay_out(texts, self.sharing, self.costs, self.batch_tokens)
        batches, preambles = make_batches(
            groups, answers, self.costs, self.batch_tokens, self.device
        )
        return SharedPlan(answers, tuple(labels), batches, preambles)

    def _settings(self, requests: Sequence[Instance]) -> list[GenerationSettings | None]:
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        own = self.model.generation_config
        return [
            read_settings(request.args[1], own, eos=eos, max_new_tokens=self.max_gen_toks)
            for request in requests
        ]

    def _ask(self, index: int, request: Instance, settings: GenerationSettings) -> Asked:
        room = self.max_length - settings.max_new_tokens
        if room <= 0:
            raise ValueError(
                f"{_label(request)}: asks for {settings.max_new_tokens} new tokens, expected fewer "
                f"than max_length ({self.max_length}); set max_gen_toks in its generation_kwargs"
            )
        context = request.args[0]
        starts = has_bos_prefix(context, getattr(self.tokenizer, "bos_token", None))
        tokens = self.tokenizer(context, **({"add_special_tokens": False} if starts else {}))
        ids = tuple(tokens["input_ids"][-room:]) or (self.prefix_token_id,)
        return Asked(index, context, ids, settings, _label(request))


def _label(request: Instance) -> str:
    return f"task {request.task_name!r}, document {request.doc_id}"


@contextmanager
def _finite_logits(model: Any) -> Iterator[None]:
    """Raises where a model that others run gives logits that are not finite."""

    def look(_: Any, __: Any, output: Any) -> None:
        if not bool(output.logits[:, -1].amax(dim=-1).isfinite().all()):
            raise NonFiniteError("the model's logits are not finite while it generates")

    hook = model.register_forward_hook(look)
    try:
        yield
    finally:
        hook.remove()

"""lm-eval's model class over a resident model that vLLM runs.

Requests become the same tokens as with `ResidentLM`. vLLM gives log-likelihoods for the tokens of
prompts, and does not keep them with its prefix cache: each text is computed whole. The cache
serves generation alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from lm_eval.api.instance import Instance
from lm_eval.models.utils import postprocess_generated_text

from evaluators.language.generation import Asked, GenerationPlan
from evaluators.language.resident_lm import ResidentLM
from evaluators.language.scoring_plan import NonFiniteError, ScoringPlan
from evaluators.language.stock_batches import Encoded
from evaluators.language.vllm_engine import ROOM, Limits, VllmEngine, generating, scoring

#: Prompts and tokens at a time unless told otherwise.
_PROMPTS, _TOKENS = 256, 8192
#: What scores a text's last token is one longer than what `HFLM` feeds to the model.
_LONGER = 1 + ROOM


@dataclass(slots=True)
class VllmScoring(ScoringPlan):
    """Log-likelihood requests as whole texts; vLLM makes the batches."""

    texts: tuple[tuple[int, ...], ...]
    engine: VllmEngine

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts, equal ones counted once."""
        return sum(map(len, set(self.texts)))

    def _run(self, model: Any) -> Iterable[tuple[int, float, bool]]:
        del model  # the engine has it
        distinct = list(dict.fromkeys(self.texts))
        found = dict(zip(distinct, self.engine.run(distinct, scoring()), strict=True))
        for request, (text, answer) in enumerate(zip(self.texts, self.answers, strict=True)):
            places = found[text].prompt_logprobs[len(text) - len(answer) :]
            scored = [place[token] for place, token in zip(places, answer, strict=True)]
            value = math.fsum(one.logprob for one in scored)
            yield request, value, all(one.rank == 1 for one in scored)


@dataclass(slots=True)
class VllmGeneration(GenerationPlan):
    """Generation requests and what vLLM is asked for; vLLM makes the batches."""

    asked: tuple[Asked, ...] = ()
    params: tuple[Any, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(one.tokens) for one in self.asked)


class VllmLM(ResidentLM):
    """`ResidentLM` with vLLM's forward passes.

    Args:
        model: A `transformers.PreTrainedModel` on a GPU, loaded from a folder.
        tokenizer: Its tokenizer.
        batch_size: Requests at a time; None: 256.
        batch_tokens: Tokens at a time; None: 8192. Halved where memory does not suffice.
        max_length: Longest context in tokens, at most two less than the model's own.
        memory_share: Of all the GPU's memory; None: half of what is free.

    Raises:
        ValueError: if the model is on no GPU, or not one that vLLM runs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        memory_share: float | None = None,
    ) -> None:
        if model.device.type != "cuda":
            raise ValueError(
                f"the vllm back end needs an NVIDIA GPU, and the model is on {model.device}: set "
                "evaluate.backend to hf"
            )
        super().__init__(model, tokenizer, batch_size=1)
        own = self.max_length - _LONGER
        self._max_length = own if max_length is None else min(max_length, own)
        limits = Limits(
            prompts=batch_size or _PROMPTS,
            tokens=batch_tokens or _TOKENS,
            length=self._max_length + _LONGER,
            memory=memory_share,
        )
        self._engine = VllmEngine(model, tokenizer, limits)

    def plan_generation(self, requests: Sequence[Instance]) -> VllmGeneration:
        """Tokenises generation requests.

        Raises:
            ValueError: if a request leaves no room for a prompt, or its settings are not known.
        """
        asked: list[Asked] = []
        for index, (request, wanted) in enumerate(
            zip(requests, self._settings(requests), strict=True)
        ):
            if wanted is None:
                raise ValueError(
                    f"task {request.task_name!r}: the vllm back end does not know all of its "
                    f"generation_kwargs ({request.args[1]}) or of the model's generation_config: "
                    "set evaluate.backend to hf"
                )
            asked.append(self._ask(index, request, wanted))
        params = [
            generating(one.settings, seed) for one, seed in zip(asked, _seeds(asked), strict=True)
        ]
        return VllmGeneration(len(asked), asked=tuple(asked), params=tuple(params))

    def generate(self, plan: GenerationPlan) -> list[str]:
        """Returns the text of each planned request.

        Raises:
            NonFiniteError: if logits are NaN or infinite.
        """
        assert isinstance(plan, VllmGeneration)
        outputs = self._engine.run([one.tokens for one in plan.asked], list(plan.params))
        return [
            self._text(one, output.outputs[0])
            for one, output in zip(plan.asked, outputs, strict=True)
        ]

    def _text(self, asked: Asked, made: Any) -> str:
        if not math.isfinite(made.cumulative_logprob):
            raise NonFiniteError(f"{asked.label}: the model's logits are not finite")
        text = self.tokenizer.decode(list(made.token_ids), skip_special_tokens=True)
        return str(postprocess_generated_text(text, list(asked.settings.stops), None))

    def _plan(
        self, encoded: Sequence[Encoded], labels: Sequence[str], *, in_order: bool = False
    ) -> ScoringPlan:
        del in_order
        answers = tuple(tuple(continuation) for _, continuation in encoded)
        longest = self.max_length + 1
        texts = tuple(tuple((context + answer)[-longest:]) for context, answer in encoded)
        return VllmScoring(answers, tuple(labels), (), texts, self._engine)


def _seeds(asked: Iterable[Asked]) -> Iterable[int]:
    """Yields a seed of each prompt and of how often it came before, so that no other matters."""
    times: Counter[str] = Counter()
    for one in asked:
        yield crc32(f"{times[one.context]} {one.context}".encode())
        times[one.context] += 1

"""How a `generate_until` request wants its text made, as `HFLM` and the model's own file say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

#: What `transformers` samples from unless told otherwise.
_DEFAULT_TOP_K = 50
#: Settings that mean nothing to the loop here, or are given by it.
_IGNORED = {
    "_from_model_config", "bos_token_id", "cache_implementation", "early_stopping", "eos_token_id",
    "length_penalty", "max_length", "max_new_tokens", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "pad_token_id", "return_dict_in_generate",
    "transformers_version", "use_cache",
}  # fmt: skip
_UNDERSTOOD = {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Settings of one group of requests."""

    stops: tuple[str, ...]
    max_new_tokens: int
    #: Token ids that end a text.
    ends: frozenset[int]
    do_sample: bool
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float

    def warpers(self) -> Any:
        """Returns what turns logits into those that are sampled from, in transformers' order."""
        made = LogitsProcessorList()
        if self.temperature not in (None, 1.0):
            made.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            made.append(TopKLogitsWarper(self.top_k))
        if self.top_p is not None and self.top_p < 1.0:
            made.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            made.append(MinPLogitsWarper(self.min_p))
        return made


def read_settings(
    requested: Mapping[str, Any], own: Any, *, eos: str, max_new_tokens: int
) -> GenerationSettings | None:
    """Returns the settings, or None if they ask for more than the loop here does.

    `own` is the model's generation config, which `generate` follows where the request is silent.
    """
    asked = dict(normalize_gen_kwargs(dict(requested), max_new_tokens))
    stops = handle_stop_sequences(asked.pop("until", None), eos=eos)
    most = int(asked.pop("max_gen_toks"))
    do_sample = bool(asked.get("do_sample"))
    if not do_sample:
        asked.pop("temperature", None)
    settings = {key: value for key, value in own.to_dict().items() if value is not None}
    if "max_length" in asked or not _are_understood({**settings, **asked}):
        return None
    settings |= asked
    ends = settings.get("eos_token_id")
    return GenerationSettings(
        stops=tuple(stop for stop in stops if stop),
        max_new_tokens=most,
        ends=frozenset([ends] if isinstance(ends, int) else ends or ()),
        do_sample=do_sample,
        temperature=settings.get("temperature"),
        top_k=settings.get("top_k", _DEFAULT_TOP_K),
        top_p=settings.get("top_p"),
        min_p=settings.get("min_p"),
        repetition_penalty=float(settings.get("repetition_penalty", 1.0)),
    )


def _are_understood(settings: Mapping[str, Any]) -> bool:
    """Tells whether everything that is asked for is understood, or asks for nothing."""
    nothing: dict[str, Sequence[Any]] = {
        "num_beams": (1,), "num_return_sequences": (1,), "num_beam_groups": (1,),
        "typical_p": (1.0,), "guidance_scale": (1.0,), "encoder_repetition_penalty": (1.0,),
        "diversity_penalty": (0.0,),
    }  # fmt: skip
    return all(
        key in _IGNORED or key in _UNDERSTOOD or not value or value in nothing.get(key, ())
        for key, value in settings.items()
    )


def penalised(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Makes seen tokens less likely (Keskar et al. 2019, arXiv:1909.05858, section 4.1)."""
    weaker = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, weaker, logits)

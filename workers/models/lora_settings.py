"""What a LoRA adapter's configuration says of its arithmetic; what cannot be applied is refused.

The settings are those of PEFT (https://huggingface.co/docs/peft). Its versions keep adding ones
that change the arithmetic, so that a setting unknown here is refused unless it is switched off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from workers.models.files import ADAPTER_CONFIG, read_json
from workers.models.safetensors_file import ModelError

_Value = TypeVar("_Value")

#: Settings that are heeded.
_HEEDED = {
    *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora"),
    *("rank_pattern", "alpha_pattern", "fan_in_fan_out", "init_lora_weights"),
}
#: Settings of training, or that only say which tensors the file has; the file itself shows them.
_HARMLESS = {
    *("task_type", "inference_mode", "lora_dropout", "peft_version", "auto_mapping", "bias"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"),
    *("layers_pattern", "ensure_weight_tying", "runtime_config", "megatron_config"),
    *("megatron_core", "qalora_group_size", "eva_config", "loftq_config", "corda_config"),
    *("lora_ga_config",),
}
#: Initialisations that leave the base's weights alone; others (PiSSA, OLoRA, ...) move a part of
#: them into the adapter, which then does not fit the base as it is stored.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """What an adapter's configuration says of its arithmetic."""

    rank: int
    alpha: float
    is_stabilised: bool = False
    #: Regular expression that a module's name ends with -> its own rank or alpha.
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    is_transposed: bool = False

    def rank_of(self, module: str) -> int:
        """Returns a module's rank."""
        return _matching(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Returns what a module's product is multiplied with."""
        rank = self.rank_of(module)
        alpha = _matching(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.is_stabilised else alpha / rank


def read_settings(folder: Path) -> LoraSettings:
    """Reads an adapter's configuration.

    Raises:
        ModelError: naming the setting that is invalid, or that cannot be applied.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    about = f"adapter {str(folder)!r}"
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{about} is of type {config.get('peft_type')!r}, expected 'LORA'")
    for key, value in config.items():
        is_off = value in (None, False, "", 0) or value == [] or value == {}
        if not is_off and key not in _HEEDED | _HARMLESS:
            raise _unsupported(about, key, value)
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise _unsupported(about, "init_lora_weights", config["init_lora_weights"])
    try:
        return LoraSettings(
            rank=_positive(config["r"]),
            alpha=float(config["lora_alpha"]),
            is_stabilised=bool(config.get("use_rslora")),
            ranks={_regex(k): _positive(v) for k, v in (config.get("rank_pattern") or {}).items()},
            alphas={_regex(k): float(v) for k, v in (config.get("alpha_pattern") or {}).items()},
            is_transposed=bool(config.get("fan_in_fan_out")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise ModelError(
            f"{folder / ADAPTER_CONFIG}: expected a rank 'r' and 'lora_alpha' as numbers, and "
            f"patterns as name -> number: {type(error).__name__}: {error}"
        ) from error


def _matching(patterns: Mapping[str, _Value], module: str, default: _Value) -> _Value:
    """Returns the value of the first pattern that a module's name ends with, as PEFT does."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _regex(text: str) -> str:
    re.compile(text)
    return text


def _positive(value: Any) -> int:
    if type(value) is not int or value <= 0:
        raise ValueError(f"expected a rank from 1, got {value!r}")
    return value


def _unsupported(about: str, key: str, value: Any) -> ModelError:
    return ModelError(
        f"{about} sets {key}: {value!r}, which is not supported here; merge it into its base with "
        "PEFT (merge_and_unload, save_pretrained) and name that folder instead"
    )

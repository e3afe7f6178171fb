"""Folds the scales of hidden states into weights, so that a scaled path is an ordinary model.

Evolutionary Model Merge (Akiba et al. 2024, https://arxiv.org/abs/2403.13187, section 3.2)
multiplies the input of hop t of a path by a number a_t. In a model with norms at the start of its
branches, h_{t+1} = a_t h_t + F_t(a_t h_t), norms take positive factors away: F_t(c h) = F_t(h).
With A_0 = 1, A_{t+1} = a_t A_t and h_t = A_t g_t this is g_{t+1} = g_t + F_t(g_t) / A_{t+1}: the
same model, with what each branch of hop t adds divided by A_{t+1}. The final norm sees only the
sign of the last factor. Where a factor is negative, the weights of the norms (not their biases)
change their sign.

So a scaled path needs no code of its own: the model that is evaluated, the exported folder and
mergekit's recipe hold the same numbers. What is not exact:

- Norms add an epsilon to the mean square, and they see g where multiplied inputs would show them
  A g. Their outputs differ by about epsilon / 2 * |1 / mean(g^2) - 1 / mean((A g)^2)|. Measured in
  float32: random models of five layers, scales from 0.6 to 1.4, largest difference of logits over
  their spread: 1e-6 to 1.6e-4 where embeddings are of size 1, 3e-4 to 0.17 where they are of size
  0.02 (epsilons of 1e-6 and 1e-5), below 1e-5 in any without an epsilon. SmolLM2-135M, 30 scales:
  log-probabilities move by 1e-4 in the mean where scaling by up to 10 % moves them by 0.55, and
  by 1e-3 to 6e-3 where scaling by up to 50 % moves them by 2 to 8.
- Scaled weights are rounded to their type, as any merged weight is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.registry import nearest
from workers.recipe import Setting

#: How far products of scales may go, and one over them. Hidden states grow by as much: squared in
#: a norm they must stay within float32, and as they are within float16 (65,504).
LIMITS: Mapping[str, float] = {"float32": 2.0**30, "bfloat16": 2.0**30, "float16": 2.0**4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """Where the branches of an architecture's layers begin and end, as parts of tensor names."""

    #: The last projection of each branch; weights and biases are divided.
    outputs: tuple[str, ...]
    #: Weights of the norms that the branches begin with; empty where a sign cannot go there.
    norms: tuple[str, ...] = ()
    #: Weights of the norm before the output head.
    last_norm: str = ""

    @property
    def takes_signs(self) -> bool:
        """Whether scales may be negative."""
        return bool(self.norms)


_LLAMA = Branches(
    outputs=("self_attn.o_proj.", "mlp.down_proj."),
    norms=("input_layernorm.weight", "post_attention_layernorm.weight"),
    last_norm="norm.weight",
)

#: Architecture, as configurations name it -> its branches.
BRANCHES: Mapping[str, Branches] = {
    **dict.fromkeys(
        (
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
            "SmolLM3ForCausalLM",
            "Phi3ForCausalLM",
            "GraniteForCausalLM",
            "StableLmForCausalLM",
        ),
        _LLAMA,
    ),
    # Its norms multiply by 1 + weight, which no factor of the weight turns round.
    "GemmaForCausalLM": Branches(outputs=_LLAMA.outputs),
    # Its norms have no weights.
    "OlmoForCausalLM": Branches(outputs=_LLAMA.outputs),
    "Starcoder2ForCausalLM": Branches(
        outputs=("self_attn.o_proj.", "mlp.c_proj."), norms=_LLAMA.norms, last_norm="norm.weight"
    ),
    "GPT2LMHeadModel": Branches(
        outputs=("attn.c_proj.", "mlp.c_proj."),
        norms=("ln_1.weight", "ln_2.weight"),
        last_norm="ln_f.weight",
    ),
    "GPTNeoXForCausalLM": Branches(
        outputs=("attention.dense.", "mlp.dense_4h_to_h."),
        norms=("input_layernorm.weight", "post_attention_layernorm.weight"),
        last_norm="final_layer_norm.weight",
    ),
    "PhiForCausalLM": Branches(
        outputs=("self_attn.dense.", "mlp.fc2."),
        norms=("input_layernorm.weight",),
        last_norm="final_layernorm.weight",
    ),
    "OPTForCausalLM": Branches(
        outputs=("self_attn.out_proj.", ".fc2."),
        norms=("self_attn_layer_norm.weight", "final_layer_norm.weight"),
        last_norm="final_layer_norm.weight",
    ),
}

#: Configuration key -> the only value with which an architecture's branches begin with norms.
_NEEDED: Mapping[str, Mapping[str, Any]] = {
    "OPTForCausalLM": {"do_layer_norm_before": True, "_remove_final_layer_norm": False}
}


def branches_of(architecture: str, config: Mapping[str, Any]) -> Branches:
    """Returns where an architecture's branches are.

    Raises:
        ValueError: if scales cannot be folded into its weights.
    """
    if architecture not in BRANCHES:
        raise ValueError(
            f"scales cannot be folded into the weights of {architecture}; use `scaling: none` "
            f"({nearest(architecture, BRANCHES)})"
        )
    for key, needed in _NEEDED.get(architecture, {}).items():
        if config.get(key, needed) != needed:
            raise ValueError(
                f"scales cannot be folded into the weights of a {architecture} with {key} "
                f"{config[key]!r}, expected {needed!r}; use `scaling: none`"
            )
    return BRANCHES[architecture]


def products(scales: Sequence[float], dtype: str) -> tuple[float, ...]:
    """Returns A_{t+1}, the product of all scales up to each hop's, held within the type's limits.

    Beyond a factor of 2^30 (2^4 for float16) a path is scaled as far as the limit; zero counts as
    the smallest positive factor.

    Args:
        scales: What the input of each hop is multiplied by.
        dtype: Type of the weights ("float32", "bfloat16", "float16").
    """
    limit = LIMITS[dtype]
    found: list[float] = []
    product = 1.0
    for scale in scales:
        product *= scale
        size = min(max(abs(product), 1.0 / limit), limit)
        product = math.copysign(size, product) if product else size
        found.append(product)
    return tuple(found)


def hop_settings(branches: Branches | None, product: float, dtype: str) -> tuple[Setting, ...]:
    """Returns the settings of a hop's layer (method `passthrough`).

    Args:
        branches: Where the layer's branches are; None where nothing is scaled.
        product: A_{t+1}, the product of all scales up to this hop's.
        dtype: Type of the weights.

    Raises:
        ValueError: if the type cannot hold what the product makes of hidden states, or the sign
            cannot be folded.
    """
    rest = _scaled(None, 1.0)
    if product == 1.0 or branches is None:
        return (rest,)
    limit = LIMITS[dtype]
    if not 1.0 / limit <= abs(product) <= limit:
        raise ValueError(
            f"the scales of a path multiply to {product:g}; {dtype} weights take them between "
            f"{1 / limit:g} and {limit:g}"
        )
    settings = [_scaled(part, 1.0 / product) for part in branches.outputs]
    return (*settings, *_turned(branches.norms, branches, product), rest)


def last_settings(branches: Branches | None, product: float) -> tuple[Setting, ...]:
    """Returns the settings of what follows the last layer, whose product of scales this is.

    Raises:
        ValueError: if the sign cannot be folded.
    """
    rest = _scaled(None, 1.0)
    return (
        (rest,) if branches is None else (*_turned((branches.last_norm,), branches, product), rest)
    )


def _turned(names: Sequence[str], branches: Branches, product: float) -> list[Setting]:
    """Returns settings that turn norms round where the product is negative."""
    if product > 0:
        return []
    if not branches.takes_signs:
        raise ValueError("negative scales cannot be folded into this architecture's norms")
    return [_scaled(name, -1.0) for name in names]


def _scaled(part: str | None, scale: float) -> Setting:
    return Setting(filter=part, values={"scale": (scale,)})

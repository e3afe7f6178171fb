"""Folding scales into weights, against models whose layers' inputs are multiplied by hooks."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from workers.builders.settings import MergeSettings
from workers.models.folding import (
    BRANCHES,
    LIMITS,
    branches_of,
    hop_settings,
    last_settings,
    products,
)
from workers.paths import Hop, path_recipe

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Epsilons of norms, under every name they have: so small that folding is exact.
NO_EPSILON = dict.fromkeys(
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"), 1e-12
)
#: What configurations need beside the sizes.
ARCHITECTURES = {
    "GPT2LMHeadModel": {},
    "GPTNeoXForCausalLM": {"use_parallel_residual": True},
    "GemmaForCausalLM": {"head_dim": 8},
    "GraniteForCausalLM": {"residual_multiplier": 0.3, "embedding_multiplier": 3.0},
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "OPTForCausalLM": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "OlmoForCausalLM": {},
    "Phi3ForCausalLM": {},
    "PhiForCausalLM": {"num_key_value_heads": 4},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 8},
    "SmolLM3ForCausalLM": {},
    "StableLmForCausalLM": {},
    "Starcoder2ForCausalLM": {},
}
#: Their norms' epsilon is written into the code: 1e-5.
FIXED_EPSILON = ("OPTForCausalLM", "OlmoForCausalLM")
PATH = [(0, 0), (1, 1), (1, 1), (0, 2), (0, 1)]
SCALES = (0.7, 1.4, 1.3, 0.6, 1.2)


def make(architecture, folder, seed, *, has_epsilon):
    """A random model whose hidden states are of size 1, as a folder."""
    torch.manual_seed(seed)
    cls = getattr(transformers, architecture)
    epsilons = {} if has_epsilon else NO_EPSILON
    config = cls.config_class(**{**SIZES, **ARCHITECTURES[architecture], **epsilons})
    model = cls(config).eval()
    is_offset = architecture == "GemmaForCausalLM"  # its norms multiply by 1 + weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0 if name.endswith("weight") and not is_offset else 0.0, 0.3)
            elif any(part in name for part in ("embed", "wte", "wpe")):
                parameter.normal_(0.0, 1.0)
            else:
                parameter.normal_(0.0, 0.16)
    model.save_pretrained(folder)
    words = models.WordLevel({str(word): word for word in range(64)}, unk_token="0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)).save_pretrained(folder)
    return model


def layers_of(model):
    count = model.config.num_hidden_layers
    lists = (one for one in model.modules() if isinstance(one, torch.nn.ModuleList))
    return next(one for one in lists if len(one) == count)


def multiplied(scale):
    def before(_module, inputs, named):
        if inputs:
            return (inputs[0] * scale, *inputs[1:]), named
        return inputs, {**named, "hidden_states": named["hidden_states"] * scale}

    return before


def composed(sources, hops):
    """The first model with copies of the path's layers, whose inputs hooks multiply."""
    layers = []
    for hop in hops:
        layer = deepcopy(layers_of(sources[hop.source])[hop.layer])
        layer.register_forward_pre_hook(multiplied(hop.scale), with_kwargs=True)
        layers.append(layer)
    model = deepcopy(sources[0])
    held = layers_of(model)
    config = model.config
    for place in range(len(held)):
        held[place] = layers[place]
    held.extend(layers[len(held) :])
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * len(layers)
    return model


def logits(model):
    tokens = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def difference(architecture, scales, folder, *, has_epsilon=False):
    """The largest difference between a folded path and hooks, in units of the logits' spread."""
    sources = [
        make(architecture, folder / name, seed, has_epsilon=has_epsilon)
        for seed, name in enumerate("ab")
    ]
    hops = [
        Hop(source=source, layer=layer, scale=scale)
        for (source, layer), scale in zip(PATH, scales, strict=True)
    ]
    recipe = path_recipe(
        hops,
        sources=[str(folder / "a"), str(folder / "b")],
        base=str(folder / "a"),
        dtype="float32",
        branches=branches_of(architecture, sources[0].config.to_dict()),
    )
    built = MergeSettings(base=str(folder / "a"), dtype="float32").open("cpu").build(recipe).model
    expected = logits(composed(sources, hops))
    plain = [Hop(source=hop.source, layer=hop.layer) for hop in hops]
    assert (logits(composed(sources, plain)) - expected).abs().max() > 0.1 * expected.std()
    return float((logits(built) - expected).abs().max() / expected.std())


def test_every_architecture_of_the_table_is_tried():
    assert set(ARCHITECTURES) == set(BRANCHES)


@pytest.mark.parametrize("architecture", [one for one in BRANCHES if one not in FIXED_EPSILON])
def test_folded_scales_do_what_multiplied_inputs_do(architecture, tmp_path):
    assert difference(architecture, SCALES, tmp_path) < 1e-5


@pytest.mark.parametrize("architecture", BRANCHES)
def test_the_epsilon_of_norms_costs_little_where_hidden_states_are_of_size_one(
    architecture, tmp_path
):
    assert difference(architecture, SCALES, tmp_path, has_epsilon=True) < 5e-4


@pytest.mark.parametrize(
    "architecture",
    [name for name, one in BRANCHES.items() if one.takes_signs and name not in FIXED_EPSILON],
)
def test_negative_scales_turn_norms_round(architecture, tmp_path):
    scales = (0.7, -1.4, 1.3, 0.6, 1.2)  # an odd number: the final norm is turned, too
    assert difference(architecture, scales, tmp_path) < 1e-5


def test_an_architecture_without_norms_of_its_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="weights of Gemma2ForCausalLM; use `scaling: none`"):
        branches_of("Gemma2ForCausalLM", {})


def test_an_architecture_that_puts_norms_behind_its_branches_is_refused():
    assert branches_of("OPTForCausalLM", {"do_layer_norm_before": True})
    with pytest.raises(ValueError, match="do_layer_norm_before False, expected True"):
        branches_of("OPTForCausalLM", {"do_layer_norm_before": False})


def test_signs_are_refused_where_norms_have_no_weights_for_them():
    branches = branches_of("GemmaForCausalLM", {})
    for settings in (
        lambda: hop_settings(branches, -0.5, "float32"),
        lambda: last_settings(branches, -0.5),
    ):
        with pytest.raises(ValueError, match="negative scales cannot be folded"):
            settings()


@pytest.mark.parametrize(("dtype", "limit"), LIMITS.items())
def test_a_product_that_the_type_cannot_hold_is_refused(dtype, limit):
    branches = branches_of("LlamaForCausalLM", {})
    for product in (limit, 1 / limit, -limit):
        assert len(hop_settings(branches, product, dtype)) > 1
    for product in (limit * 1.01, 0.99 / limit, 0.0):
        with pytest.raises(ValueError, match=f"{dtype} weights take them between"):
            hop_settings(branches, product, dtype)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=100), st.sampled_from(sorted(LIMITS)))
def test_products_stay_within_the_limits_and_are_exact_until_then(scales, dtype):
    found = products(scales, dtype)
    limit, product, was_held = LIMITS[dtype], 1.0, False
    assert len(found) == len(scales)
    for scale, held in zip(scales, found, strict=True):
        product *= scale
        was_held = was_held or not 1 / limit <= abs(product) <= limit
        assert 1 / limit <= abs(held) <= limit
        if not was_held:
            assert held == product

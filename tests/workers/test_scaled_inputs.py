"""Paths whose scales are in no weight: the model multiplies, and an exported folder can, too."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from workers.builders.settings import MergeSettings
from workers.export import write_model
from workers.models.library import ModelError, ModelPolicy, inspect
from workers.paths import Hop, path_recipe
from workers.recipe import MergeRecipe, plain_copy

TOKENS = torch.arange(3, 23).view(2, 10)
PATH = ((0, 0), (0, 2), (0, 1), (0, 1), (0, 3))
SCALES = (0.5, -1.25, 0.0, 1.5, 2.0)


@pytest.fixture(params=["llama", "gemma2"])
def folder(request, models, tmp_path):
    """A model whose scales are to be left alone, and one whose scales cannot be folded."""
    if request.param == "llama":
        return str(models / "base")
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=99, hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=48, sliding_window=8,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma2")
    for path in (models / "base").glob("tokenizer*"):
        (tmp_path / "gemma2" / path.name).write_bytes(path.read_bytes())
    return str(tmp_path / "gemma2")


def recipe_of(folder, scales=SCALES):
    hops = [
        Hop(source=0, layer=layer, scale=scale)
        for (_, layer), scale in zip(PATH, scales, strict=True)
    ]
    return path_recipe(hops, sources=[folder], base=folder, dtype="float32")


def logits(model):
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


def by_hooks(folder, scales=SCALES):
    """The path without scales, and what multiplies its inputs put on by hand."""
    plain = MergeSettings(base=folder, dtype="float32").open("cpu")
    model = plain.build(recipe_of(folder, (1.0,) * len(scales))).model
    for layer, scale in zip(model.model.layers, scales, strict=True):
        layer.register_forward_pre_hook(lambda _, args, scale=scale: (args[0] * scale, *args[1:]))
    return logits(model)


def test_the_model_multiplies_its_layers_inputs(folder):
    built = MergeSettings(base=folder, dtype="float32").open("cpu").build(recipe_of(folder))
    assert torch.equal(logits(built.model), by_hooks(folder))


def test_the_exported_folder_multiplies_them_with_the_code_it_brings(folder, tmp_path):
    write_model(recipe_of(folder), ModelPolicy(), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert torch.equal(logits(loaded), by_hooks(folder))
    made = loaded.generate(TOKENS, max_new_tokens=4, do_sample=False, use_cache=True)
    without = loaded.generate(TOKENS, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(made, without)


def test_its_code_is_not_run_unasked(folder, tmp_path):
    write_model(recipe_of(folder), ModelPolicy(), tmp_path / "out")
    with pytest.raises(ModelError, match="brings code of its own"):
        inspect(str(tmp_path / "out"), ModelPolicy())
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)


def test_nothing_of_the_scales_is_left_for_the_next_model(folder):
    builder = MergeSettings(base=folder, dtype="float32").open("cpu")
    copy = plain_copy(folder, base=folder, num_layers=4, dtype="float32")
    expected = logits(builder.build(copy).model)
    builder.build(recipe_of(folder))
    assert torch.equal(logits(builder.build(copy).model), expected)


def test_the_recipe_holds_the_scales(folder):
    recipe = recipe_of(folder)
    assert MergeRecipe.from_dict(recipe.as_dict()) == recipe
    assert recipe.input_scales == SCALES
    assert recipe.digest() != recipe_of(folder, SCALES[::-1]).digest()
    with pytest.raises(ValueError, match="a scale for each of 5 layers, got 2"):
        MergeRecipe.from_dict({**recipe.as_dict(), "input_scales": [1.0, 0.5]})

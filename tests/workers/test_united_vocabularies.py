"""Models whose vocabularies differ, merged: built, exported, and the same both ways."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.builders.settings import MergeSettings
from workers.export import write_model
from workers.models.library import ModelPolicy
from workers.recipe import average

TOKEN = "<|im_start|>"
TEXT = "R:abcde=edcba"


@pytest.fixture
def grown(copy_model):
    """Example model `a` with one more token, at the end of its embeddings."""
    folder = copy_model("a")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"].shape[0]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"].append({"id": rows, "content": TOKEN, "special": True, **flags})
    path.write_text(json.dumps(tokenizer))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            extra = torch.full((1, weights[name].shape[1]), 0.25, dtype=weights[name].dtype)
            weights[name] = torch.cat([weights[name], extra])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows + 1}))
    return str(folder)


def recipe_of(models, grown, tokenizer):
    base, other = str(models / "base"), str(models / "b")
    recipe = average([grown, other], base=base, num_layers=4, dtype="float32")
    return replace(recipe, tokenizer=tokenizer)


def settings_of(recipe):
    return MergeSettings(
        base=recipe.base,
        dtype=recipe.dtype,
        models=recipe.sources,
        tokenizer=recipe.tokenizer,
    )


def logits(model, tokenizer):
    tokens = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model(tokens).logits


@pytest.mark.parametrize("tokenizer", ["base", "union"])
def test_old_tokens_are_merged_as_if_there_were_no_new_one(models, grown, tokenizer):
    recipe = recipe_of(models, grown, tokenizer)
    plain = average([str(models / "a"), str(models / "b")], base=recipe.base, num_layers=4,
                    dtype="float32")  # fmt: skip
    built = settings_of(recipe).open("cpu").build(recipe)
    found = logits(built.model, built.tokenizer)
    expected = settings_of(plain).open("cpu").build(plain)
    wanted = logits(expected.model, expected.tokenizer)
    assert torch.equal(found[..., : wanted.shape[-1]], wanted)
    assert found.shape[-1] == wanted.shape[-1] + (tokenizer == "union")


def test_a_new_token_has_the_embedding_of_the_model_that_knows_it(models, grown):
    recipe = recipe_of(models, grown, "union")
    built = settings_of(recipe).open("cpu").build(recipe)
    token = built.tokenizer.convert_tokens_to_ids(TOKEN)
    assert built.tokenizer(TOKEN).input_ids[-1] == token
    embedding = built.model.get_input_embeddings().weight[token]
    assert torch.equal(embedding, torch.full_like(embedding, 0.25))


@pytest.mark.parametrize("tokenizer", ["base", "union"])
def test_the_exported_model_is_the_one_that_was_built(models, grown, tmp_path, tokenizer):
    recipe = recipe_of(models, grown, tokenizer)
    built = settings_of(recipe).open("cpu").build(recipe)
    write_model(recipe, ModelPolicy(), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(model, loaded), logits(built.model, built.tokenizer))
    assert loaded.get_vocab() == built.tokenizer.get_vocab()

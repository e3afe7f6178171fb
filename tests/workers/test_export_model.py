"""A recipe written out is an ordinary model folder."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from workers.builders.settings import MergeSettings
from workers.export import write_model
from workers.models.library import ModelPolicy, inspect
from workers.recipe import MergeRecipe, Setting, Slice, average, plain_copy

POLICY = ModelPolicy()


def ties(models, dtype):
    values = {"weight": (0.6, 0.5), "density": (0.5, 0.8)}
    return MergeRecipe(
        method="ties",
        sources=(str(models / "a"), str(models / "b")),
        base=str(models / "base"),
        slices=(Slice(start=0, stop=4, settings=(Setting(filter=None, values=values),)),),
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exported_model_loads_anywhere_and_answers_as_the_built_one(models, tmp_path, dtype):
    recipe = ties(models, dtype)
    write_model(recipe, POLICY, tmp_path)
    settings = MergeSettings(base=recipe.base, dtype=dtype)
    built = settings.open("cpu").build(recipe)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == getattr(torch, dtype)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer("R:abcde=edcba", return_tensors="pt").input_ids
    assert torch.equal(tokens, built.tokenizer("R:abcde=edcba", return_tensors="pt").input_ids)
    with torch.inference_mode():
        assert torch.equal(loaded(tokens).logits, built.model(tokens).logits)


def test_an_exported_model_brings_the_recipe_it_was_built_from(models, tmp_path):
    recipe = ties(models, "float32")
    write_model(recipe, POLICY, tmp_path)
    written = json.loads((tmp_path / "recipe.json").read_text())
    assert MergeRecipe.from_dict(written) == recipe


def test_an_exported_copy_has_the_weights_of_its_source(models, tmp_path):
    copy = plain_copy(str(models / "b"), base=str(models / "base"), num_layers=4, dtype="bfloat16")
    write_model(copy, POLICY, tmp_path)
    original = load_file(models / "b" / "model.safetensors")
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)


def test_an_exported_model_can_be_a_source_again(models, tmp_path):
    write_model(ties(models, "float32"), POLICY, tmp_path)
    facts = inspect(str(tmp_path), POLICY)
    assert (facts.num_layers, facts.dtype, facts.num_parameters) == (4, "float32", 462_240)
    assert facts.vocabulary == inspect(str(models / "base"), POLICY).vocabulary


def test_a_recipe_that_cannot_be_built_writes_nothing(models, tmp_path):
    values = {"weight": (1.0, 1.0), "density": (2.0, 1.0)}
    whole = (Slice(start=0, stop=4, settings=(Setting(filter=None, values=values),)),)
    recipe = MergeRecipe(
        method="ties",
        sources=(str(models / "a"), str(models / "b")),
        base=str(models / "base"),
        slices=whole,
        dtype="float32",
    )
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match="density 2"):
        write_model(recipe, POLICY, folder)
    assert not folder.exists()


def test_encoders_are_merged_like_any_model(models, tmp_path):
    config = BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(tmp_path / name)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    recipe = average([one, two], base=one, num_layers=3, dtype="float32")
    write_model(recipe, POLICY, tmp_path / "out")
    merged = AutoModel.from_pretrained(tmp_path / "out").state_dict()
    parents = [AutoModel.from_pretrained(folder).state_dict() for folder in (one, two)]
    for name, tensor in merged.items():
        if tensor.is_floating_point():
            expected = (parents[0][name] + parents[1][name]) / 2
            torch.testing.assert_close(tensor, expected)

"""Models of paths, against the layers of the stored models run one after another by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from workers.builders.settings import MergeSettings
from workers.export import write_model
from workers.models.folding import BRANCHES
from workers.models.library import ModelPolicy
from workers.paths import Hop, path_recipe
from workers.recipe import MergeRecipe, Setting, Slice, average

NAMES = ("base", "a", "b")
TOKENS = torch.arange(3, 43).view(2, 20)
#: Another model in between, a layer twice in a row and once more later, layers backwards.
PATH = ((0, 0), (1, 1), (1, 1), (2, 3), (0, 2), (1, 1), (0, 3))
#: No more layers than the first model has, but not its own.
SHORT = ((0, 0), (2, 1), (1, 2), (0, 3))
SCALES = (0.8, 1.3, 0.6, 1.4, 1.1, 0.7, 1.2)


@pytest.fixture
def sources(models):
    return [str(models / name) for name in NAMES]


@pytest.fixture
def builder(sources):
    return MergeSettings(base=sources[0], dtype="float32").open("cpu")


def hops_of(path, scales=None):
    scales = (1.0,) * len(path) if scales is None else scales
    return [
        Hop(source=source, layer=layer, scale=scale)
        for (source, layer), scale in zip(path, scales, strict=True)
    ]


def recipe_of(sources, path, scales=None, dtype="float32", base=None):
    return path_recipe(
        hops_of(path, scales),
        sources=sources,
        base=base or sources[0],
        dtype=dtype,
        branches=BRANCHES["LlamaForCausalLM"],
    )


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def by_hand(sources, hops, tokens=TOKENS):
    """The logits of a path through freshly loaded models, layer after layer."""
    loaded = [load(source) for source in sources]
    first = loaded[0].model
    places = torch.arange(tokens.shape[1])[None]
    mask = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf")).triu(1)[None, None]
    with torch.no_grad():
        hidden = first.embed_tokens(tokens)
        rotary = first.rotary_emb(hidden, places)
        for hop in hops:
            layer = loaded[hop.source].model.layers[hop.layer]
            hidden = layer(
                hidden * hop.scale,
                attention_mask=mask,
                position_ids=places,
                position_embeddings=rotary,
            )
        return loaded[0].lm_head(first.norm(hidden))


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def assert_near(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def layers_in_bfloat16(recipe):
    """The layers that are built in the type in which the models are stored."""
    return (
        MergeSettings(base=recipe.base, dtype="bfloat16")
        .open("cpu")
        .build(recipe)
        .model.model.layers
    )


@pytest.mark.parametrize("path", [PATH, SHORT, ((0, 0),)])
def test_a_path_runs_the_layers_it_names(builder, sources, path):
    built = builder.build(recipe_of(sources, path)).model
    assert built.config.num_hidden_layers == len(path)
    assert_near(logits(built), by_hand(sources, hops_of(path)))


def test_a_scaled_path_multiplies_the_inputs_of_its_layers(builder, sources):
    # The models' epsilon of 1e-6 and small embeddings are what is left of the difference.
    built = logits(builder.build(recipe_of(sources, PATH, SCALES)).model)
    expected = by_hand(sources, hops_of(PATH, SCALES))
    assert (built - expected).abs().max() < 5e-4 * expected.abs().max()
    assert (by_hand(sources, hops_of(PATH)) - expected).abs().max() > 0.1 * expected.abs().max()


def test_the_path_through_all_layers_of_the_first_model_is_that_model(builder, sources):
    identity = [(0, layer) for layer in range(4)]
    for paths in ([identity], [PATH, identity]):  # in the resident weights, and in new modules
        for path in paths:
            built = builder.build(recipe_of(sources, path)).model
        assert torch.equal(logits(built), logits(load(sources[0])))


def test_layers_taken_as_they_are_share_memory(sources):
    layers = layers_in_bfloat16(recipe_of(sources, PATH, dtype="bfloat16"))
    for one in ("self_attn.o_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"):
        twice = [layers[place].get_parameter(one).data_ptr() for place in (1, 2, 5)]
        assert len(set(twice)) == 1
    assert layers[0].mlp.up_proj.weight.data_ptr() != layers[1].mlp.up_proj.weight.data_ptr()


def test_scaled_layers_share_all_but_what_is_scaled(sources):
    path, scales = ((0, 0), (1, 1), (1, 1)), (1.0, 0.5, 0.5)
    layers = layers_in_bfloat16(recipe_of(sources, path, scales, dtype="bfloat16"))
    first, second = layers[1].state_dict(), layers[2].state_dict()
    shared = {name for name in first if first[name].data_ptr() == second[name].data_ptr()}
    assert set(first) - shared == {"self_attn.o_proj.weight", "mlp.down_proj.weight"}
    assert torch.equal(first["mlp.down_proj.weight"] * 2, second["mlp.down_proj.weight"])


@pytest.mark.parametrize("path", [PATH, SHORT])
def test_generating_with_a_cache_is_generating_without(builder, sources, path):
    built = builder.build(recipe_of(sources, path, SCALES[: len(path)])).model
    prompt, written = TOKENS[:1, :6], 12
    options = {"max_new_tokens": written, "min_new_tokens": written, "no_repeat_ngram_size": 1}
    cached = built.generate(prompt, use_cache=True, **options)
    plain = built.generate(prompt, use_cache=False, **options)
    slow = prompt
    for _ in range(written):
        scores = logits(built, slow)[:, -1]
        scores[:, [built.generation_config.eos_token_id, *slow[0].tolist()]] = float("-inf")
        slow = torch.cat([slow, scores.argmax(-1, keepdim=True)], dim=1)
    assert cached.tolist() == plain.tolist() == slow.tolist()


@pytest.mark.parametrize("path", [PATH, SHORT])
def test_a_cache_holds_keys_for_every_place_of_a_layer(builder, sources, path):
    built = builder.build(recipe_of(sources, path, SCALES[: len(path)])).model
    whole, cache, found = logits(built), None, []
    with torch.no_grad():
        for place in range(TOKENS.shape[1]):
            step = built(TOKENS[:, place : place + 1], past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            found.append(step.logits)
    assert len(cache.layers) == len(path)
    assert_near(torch.cat(found, dim=1), whole)


def test_nothing_is_left_of_paths_before(builder, sources):
    for path, scales in ((PATH, SCALES), (SHORT, None), (PATH[:3], (0.5, 2.0, 1.0)), (PATH, None)):
        recipe = recipe_of(sources, path, scales)
        fresh = MergeSettings(base=sources[0], dtype="float32").open("cpu").build(recipe).model
        built = builder.build(recipe).model
        assert torch.equal(logits(built), logits(fresh))
        assert built.config.to_dict() == fresh.config.to_dict()
        assert list(built.state_dict()) == list(fresh.state_dict())


def test_a_merge_after_a_path_is_the_merge(builder, sources):
    merge = average(sources[1:], base=sources[0], num_layers=4, dtype="float32")
    builder.build(recipe_of(sources, PATH, SCALES))
    built = builder.build(merge).model
    fresh = MergeSettings(base=sources[0], dtype="float32").open("cpu").build(merge).model
    assert torch.equal(logits(built), logits(fresh))
    assert built.config.to_dict() == fresh.config.to_dict()


def test_a_path_that_cannot_be_built_leaves_the_model_before_whole(builder, sources):
    before = logits(builder.build(recipe_of(sources, SHORT)).model)
    for path in (((0, 0), (1, 9)), ((0, 0), (5, 0))):
        with pytest.raises(ValueError, match=r"no layer 9|3 sources"):
            builder.build(recipe_of(sources, path))
    assert torch.equal(logits(builder.resident.model), before)
    built = builder.build(recipe_of(sources, [(0, layer) for layer in range(4)])).model
    assert torch.equal(logits(built), logits(load(sources[0])))


def test_a_merge_of_weights_can_be_a_model_of_a_path(builder, sources):
    mean = average(sources[1:], base=sources[0], num_layers=4, dtype="float32")
    merged = load_file(f"{sources[1]}/model.safetensors")
    others = load_file(f"{sources[2]}/model.safetensors")
    first = load(sources[0])
    first.load_state_dict(
        {name: (merged[name].float() + others[name].float()) / 2 for name in merged}
    )
    path = ((0, 0), (1, 2), (0, 1), (0, 3))
    built = builder.build(recipe_of([mean, sources[2]], path, base=sources[0])).model
    layers, second = first.model.layers, load(sources[2]).model.layers
    picked = [(layers, second)[source][layer] for source, layer in path]
    for place, layer in enumerate(picked):
        layer.self_attn.layer_idx = place
    first.model.layers = torch.nn.ModuleList(picked)
    assert_near(logits(built), logits(first))


def test_models_with_more_layers_than_the_first_one_lend_all_of_them(builder, sources, tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(sources[0], num_hidden_layers=6)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "long")
    everyone = [*sources, str(tmp_path / "long")]
    path = ((0, 0), (3, 5), (3, 4), (0, 3))
    built = builder.build(recipe_of(everyone, path)).model
    assert_near(logits(built), by_hand(everyone, hops_of(path)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exported_path_is_a_plain_model_with_the_same_logits(sources, tmp_path, dtype):
    recipe = recipe_of(sources, PATH, SCALES, dtype)
    built = MergeSettings(base=sources[0], dtype=dtype).open("cpu").build(recipe).model
    write_model(recipe, ModelPolicy(), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert loaded.dtype == getattr(torch, dtype)
    assert loaded.config.num_hidden_layers == len(PATH)
    assert torch.equal(logits(loaded), logits(built))


def test_building_a_path_changes_no_file(builder, sources):
    def digests():
        files = [Path(source, "model.safetensors") for source in sources]
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    before = digests()
    tensors = {name: one.clone() for name, one in load(sources[1]).state_dict().items()}
    built = builder.build(recipe_of(sources, PATH, SCALES)).model
    logits(built)
    builder.build(recipe_of(sources, SHORT))
    assert digests() == before
    layers = builder.build(recipe_of(sources, PATH)).model.model.layers
    for name, one in layers[1].state_dict().items():
        assert torch.equal(one, tensors[f"model.layers.1.{name}"])


def test_hops_in_a_row_that_are_alike_share_a_slice(sources):
    recipe = recipe_of(sources, [(0, 0), (0, 1), (1, 1), (1, 2), (1, 2), (0, 3)])
    places = [(part.start, part.stop, part.sources, part.origins) for part in recipe.slices]
    assert places == [
        (0, 2, (0,), (0,)),
        (2, 4, (1,), (1,)),
        (4, 5, (1,), (2,)),
        (5, 6, (0,), (3,)),
    ]
    assert MergeRecipe.from_dict(recipe.as_dict()) == recipe


def test_scales_split_slices_and_are_divided_out_of_the_branches_alone(sources):
    recipe = recipe_of(sources, [(0, 0), (0, 1), (0, 2)], (1.0, 0.5, 4.0))
    plain = Setting(filter=None, values={"scale": (1.0,)})

    def scaled(scale):
        parts = ("self_attn.o_proj.", "mlp.down_proj.")
        held = [Setting(filter=part, values={"scale": (scale,)}) for part in parts]
        return (*held, plain)

    settings = [(plain,), scaled(2.0), scaled(0.5)]
    assert recipe.slices == tuple(
        Slice(start=place, stop=place + 1, settings=held, sources=(0,), origins=(place,))
        for place, held in enumerate(settings)
    )


def test_a_path_without_layers_is_refused(sources):
    with pytest.raises(ValueError, match="at least one layer"):
        recipe_of(sources, [])

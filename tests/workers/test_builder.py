"""The merge builder, tensor by tensor against formulas written out here."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from workers.builders.merge import NonFiniteWeightsError
from workers.builders.settings import MergeSettings
from workers.models.library import ModelError
from workers.recipe import MergeRecipe, Setting, Slice, average, plain_copy

LAYERS = 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture
def paths(models):
    return {name: str(models / name) for name in ("base", "a", "b")}


@pytest.fixture
def stored(models):
    return {
        name: {
            key: tensor.float()
            for key, tensor in load_file(models / name / "model.safetensors").items()
        }
        for name in ("base", "a", "b")
    }


def open_builder(paths, dtype="float32"):
    return MergeSettings(base=paths["base"], dtype=dtype).open("cpu")


def recipe(paths, method, settings, *, dtype="float32", **fields):
    slices = (Slice(start=0, stop=LAYERS, settings=settings),)
    return MergeRecipe(
        method=method,
        sources=(paths["a"], paths["b"]),
        base=paths["base"],
        slices=slices,
        dtype=dtype,
        **fields,
    )


def everywhere(**values):
    return (Setting(filter=None, values=values),)


def tensors(language):
    return {name: tensor.clone() for name, tensor in language.model.state_dict().items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_linear_merge_is_the_weighted_sum_of_every_tensor(paths, stored, dtype):
    settings = everywhere(weight=(0.7, 0.2))
    built = open_builder(paths, dtype).build(
        recipe(paths, "linear", settings, dtype=dtype, options={"normalize": False})
    )
    found = tensors(built)
    assert set(found) == set(stored["base"])
    for name, tensor in found.items():
        assert tensor.dtype == DTYPES[dtype]
        expected = 0.7 * stored["a"][name].double() + 0.2 * stored["b"][name].double()
        rtol = 1e-5 if dtype == "float32" else 2**-8
        torch.testing.assert_close(tensor.double(), expected, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_task_arithmetic_follows_slices_and_filters(paths, stored, dtype):
    mlp, rest, late = (0.5, -0.25), (1.0, 0.5), (0.0, 1.0)
    merge = MergeRecipe(
        method="task_arithmetic",
        sources=(paths["a"], paths["b"]),
        base=paths["base"],
        slices=(
            Slice(
                start=0,
                stop=2,
                settings=(
                    Setting(filter="mlp", values={"weight": mlp}),
                    Setting(filter=None, values={"weight": rest}),
                ),
            ),
            Slice(start=2, stop=4, settings=everywhere(weight=late)),
        ),
        options={"lambda": 0.5},
        dtype=dtype,
    )

    def weights(name):
        if name.startswith(("model.layers.2", "model.layers.3", "model.norm", "lm_head")):
            return late
        return mlp if "mlp" in name else rest

    found = tensors(open_builder(paths, dtype).build(merge))
    for name, tensor in found.items():
        base = stored["base"][name]
        w_a, w_b = weights(name)
        # In the order of the method, so that rounding is the same.
        total = (stored["a"][name] - base) * w_a
        total.add_(stored["b"][name] - base, alpha=w_b)
        assert torch.equal(tensor, base.add(total, alpha=0.5).to(DTYPES[dtype])), name


@pytest.mark.parametrize("name", ["base", "a", "b"])
def test_a_plain_copy_gives_the_source_bit_by_bit(paths, stored, name):
    copy = plain_copy(paths[name], base=paths["base"], num_layers=LAYERS, dtype="bfloat16")
    found = tensors(open_builder(paths, "bfloat16").build(copy))
    for key, tensor in found.items():
        assert torch.equal(tensor.float(), stored[name][key])


def test_the_uniform_merge_is_the_mean(paths, stored):
    mean = average([paths["a"], paths["b"]], base=paths["base"], num_layers=LAYERS, dtype="float32")
    for name, tensor in tensors(open_builder(paths).build(mean)).items():
        torch.testing.assert_close(tensor, (stored["a"][name] + stored["b"][name]) / 2)


def test_building_leaves_nothing_of_the_model_before(paths):
    first = recipe(paths, "linear", everywhere(weight=(1.0, 0.0)))
    second = recipe(paths, "ties", everywhere(weight=(0.4, 0.9), density=(0.3, 0.6)))
    reused = open_builder(paths)
    reused.build(first)
    after = tensors(reused.build(second))
    fresh = tensors(open_builder(paths).build(second))
    for name, tensor in fresh.items():
        assert torch.equal(after[name], tensor), name


def test_a_failed_build_leaves_nothing_either(paths):
    builder = open_builder(paths)
    good = recipe(paths, "linear", everywhere(weight=(0.5, 0.5)))
    before = tensors(builder.build(good))
    huge = recipe(paths, "linear", everywhere(weight=(3e38, 3e38)), options={"normalize": False})
    with pytest.raises(NonFiniteWeightsError):
        builder.build(huge)
    for name, tensor in builder.build(good).model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_huge_weights_are_refused_with_the_tensor_that_overflows(paths):
    settings = (
        Setting(filter="layers.1.input_layernorm", values={"weight": (3e38, 3e38)}),
        Setting(filter=None, values={"weight": (0.5, 0.5)}),
    )
    with pytest.raises(NonFiniteWeightsError, match=r"'model\.layers\.1\.input_layernorm\.weight'"):
        open_builder(paths).build(recipe(paths, "linear", settings, options={"normalize": False}))


def test_weights_past_float16_are_refused_though_float32_could_hold_them(paths):
    merge = recipe(paths, "task_arithmetic", everywhere(weight=(1e7, 1e7)), dtype="float16")
    with pytest.raises(NonFiniteWeightsError):
        open_builder(paths, "float16").build(merge)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties", "dare_ties"])
def test_building_changes_no_source_on_disk_or_in_memory(paths, models, method, dtype):
    files = sorted(models.glob("*/model.safetensors"))
    before = [file.read_bytes() for file in files]
    builder = open_builder(paths, dtype)
    copy = plain_copy(paths["a"], base=paths["base"], num_layers=LAYERS, dtype=dtype)
    original = tensors(builder.build(copy))
    values = {"slerp": {"t": (0.3,)}}.get(method, {"weight": (1.5, -0.5)})
    if "ties" in method:
        values |= {"density": (0.5, 0.5)}
    builder.build(recipe(paths, method, everywhere(**values), dtype=dtype))
    with torch.no_grad():
        for parameter in builder.resident.model.parameters():
            parameter.fill_(9.0)
    again = tensors(builder.build(copy))
    assert all(torch.equal(again[name], original[name]) for name in original)
    assert [file.read_bytes() for file in files] == before


def test_random_masks_come_from_the_recipe_and_nothing_else(paths):
    settings = everywhere(weight=(0.5, 0.5), density=(0.5, 0.5))
    one = recipe(paths, "dare_ties", settings, seed=3)
    torch.manual_seed(1)
    first = tensors(open_builder(paths).build(one))
    torch.manual_seed(2)
    second = tensors(open_builder(paths).build(one))
    other = tensors(open_builder(paths).build(recipe(paths, "dare_ties", settings, seed=4)))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_masks_differ_between_tensors_of_one_shape_and_between_sources(paths, stored):
    settings = everywhere(weight=(1.0, 0.0), density=(0.5, 0.5))
    built = tensors(
        open_builder(paths).build(recipe(paths, "dare_ties", settings, options={"rescale": "none"}))
    )
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)]
    kept = [built[name] != stored["base"][name] for name in names]
    assert not torch.equal(*kept)
    swapped = everywhere(weight=(0.0, 1.0), density=(0.5, 0.5))
    other = tensors(
        open_builder(paths).build(recipe(paths, "dare_ties", swapped, options={"rescale": "none"}))
    )
    moved = (stored["a"][names[0]] != stored["base"][names[0]]) & (
        stored["b"][names[0]] != stored["base"][names[0]]
    )
    second = other[names[0]] != stored["base"][names[0]]
    assert not torch.equal(kept[0] & moved, second & moved)


# --- recipes that do not fit ---------------------------------------------------------------------


def test_a_recipe_of_another_type_is_refused(paths):
    with pytest.raises(ValueError, match="recipe is bfloat16, the resident model float32"):
        open_builder(paths).build(
            recipe(paths, "linear", everywhere(weight=(1.0, 1.0)), dtype="bfloat16")
        )


@pytest.mark.parametrize(
    ("method", "values", "options", "expected"),
    [
        ("linear", {"weight": (1.0,)}, {}, "linear needs 2 values of 'weight' .* has 1"),
        ("slerp", {"t": (0.5, 0.5)}, {}, "slerp needs 1 values of 't' .* has 2"),
        ("slerp", {"t": (1.5,)}, {}, r"t 1\.5 is outside \[0, 1\]"),
        ("ties", {"weight": (1, 1), "density": (0.0, 1)}, {}, r"density 0\.0 is outside \(0, 1\]"),
        ("linear", {"weight": (1.0, 1.0)}, {"lambda": 1.0}, "linear has no option 'lambda'"),
        ("tiess", {"weight": (1.0, 1.0)}, {}, "did you mean 'ties'"),
        ("linear", {"weight": (0.5, -0.5)}, {}, "cannot normalise"),
    ],
)
def test_values_that_do_not_fit_the_method_are_refused(paths, method, values, options, expected):
    merge = recipe(paths, method, everywhere(**values), options=options)
    with pytest.raises(ValueError, match=expected):
        open_builder(paths).build(merge)


def test_slerp_of_one_source_is_refused(paths):
    merge = MergeRecipe(
        method="slerp",
        sources=(paths["a"],),
        base=paths["base"],
        slices=(Slice(start=0, stop=LAYERS, settings=everywhere(t=(0.5,))),),
        dtype="float32",
    )
    with pytest.raises(ValueError, match="exactly 2 sources, got 1"):
        open_builder(paths).build(merge)


def test_a_source_of_another_shape_is_refused_though_it_would_broadcast(paths, copy_model):
    folder = copy_model("b")
    changed = load_file(folder / "model.safetensors")
    changed["model.norm.weight"] = changed["model.norm.weight"][:1]
    save_file(changed, folder / "model.safetensors")
    merge = recipe({**paths, "b": str(folder)}, "linear", everywhere(weight=(0.5, 0.5)))
    with pytest.raises(ModelError, match=r"'model\.norm\.weight'.*\[1\].*\[96\]"):
        open_builder(paths).build(merge)


def test_weights_that_the_architecture_has_no_place_for_are_refused(copy_model):
    folder = copy_model("base")
    changed = load_file(folder / "model.safetensors")
    changed["model.stray.weight"] = torch.zeros(1)
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 without a place \(such as model\.stray\.weight\)"):
        MergeSettings(base=str(folder), dtype="float32").open("cpu")


# --- tied embeddings -----------------------------------------------------------------------------


@pytest.fixture
def tied(tmp_path, models):
    """Three tiny models whose output head is their embedding."""
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    found = {}
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        folder = tmp_path / f"tied_{name}"
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(models / "base").save_pretrained(folder)
        found[name] = str(folder)
    return found


def test_a_tied_head_is_merged_once_and_stays_tied(tied):
    merge = MergeRecipe(
        method="linear",
        sources=(tied["a"], tied["b"]),
        base=tied["base"],
        slices=(
            Slice(start=0, stop=1, settings=everywhere(weight=(0.25, 0.75))),
            Slice(start=1, stop=2, settings=everywhere(weight=(1.0, 0.0))),
        ),
        dtype="float32",
    )
    stored = {name: load_file(f"{folder}/model.safetensors") for name, folder in tied.items()}
    assert "lm_head.weight" not in stored["a"]
    model = MergeSettings(base=tied["base"], dtype="float32").open("cpu").build(merge).model
    name = "model.embed_tokens.weight"
    expected = 0.25 * stored["a"][name] + 0.75 * stored["b"][name]
    torch.testing.assert_close(model.model.embed_tokens.weight.detach(), expected)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def two_groups(paths, first, second):
    slices = (
        Slice(start=0, stop=2, settings=everywhere(weight=first, density=(0.5, 0.5))),
        Slice(start=2, stop=LAYERS, settings=everywhere(weight=second, density=(0.5, 0.5))),
    )
    return MergeRecipe(
        method="ties",
        sources=(paths["a"], paths["b"]),
        base=paths["base"],
        slices=slices,
        dtype="float32",
    )


def test_a_change_in_one_layer_group_rewrites_that_group_only(paths):
    builder = open_builder(paths)
    language = builder.build(two_groups(paths, (0.5, 0.5), (0.5, 0.5)))
    with torch.no_grad():
        for tensor in language.model.state_dict().values():
            tensor.fill_(7.0)  # what is written over is seen
    found = tensors(builder.build(two_groups(paths, (0.5, 0.5), (0.9, 0.1))))
    fresh = tensors(open_builder(paths).build(two_groups(paths, (0.5, 0.5), (0.9, 0.1))))
    late = ("model.layers.2", "model.layers.3", "model.norm", "lm_head")
    for name, tensor in found.items():
        if name.startswith(late):
            assert torch.equal(tensor, fresh[name]), name
        else:
            assert bool((tensor == 7.0).all()), name


def test_a_merge_that_fails_midway_leaves_nothing_that_is_taken_for_written(paths, copy_model):
    broken = copy_model("b")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    builder = open_builder(paths)
    good = two_groups(paths, (0.5, 0.5), (0.5, 0.5))
    builder.build(good)
    bad = two_groups({**paths, "b": str(broken)}, (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(NonFiniteWeightsError, match=r"'model.norm.weight' of .* holds NaN or inf"):
        builder.build(bad)
    again = tensors(builder.build(good))
    fresh = tensors(open_builder(paths).build(good))
    assert all(torch.equal(again[name], fresh[name]) for name in fresh)


def test_an_option_that_fixes_a_parameter_is_part_of_what_was_written(paths):
    settings = everywhere(weight=(0.5, 0.5), density=(0.5, 0.5))
    builder = open_builder(paths)
    builder.build(recipe(paths, "ties", settings, options={"lambda": 1.0}))
    weaker = recipe(paths, "ties", settings, options={"lambda": 0.25})
    found, fresh = tensors(builder.build(weaker)), tensors(open_builder(paths).build(weaker))
    assert all(torch.equal(found[name], fresh[name]) for name in fresh)

"""Configurations of mergekit mean here what mergekit makes of them, or are refused by name."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from orchestrator import mergekit, yaml_file
from orchestrator.mergekit import RecipeError
from orchestrator.mergekit.dialect import DIALECTS
from workers.methods.registry import METHODS
from workers.recipe import MergeRecipe

LAYERS = 6
TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(LAYERS)),
    *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(LAYERS)),
    *(f"model.layers.{layer}.input_layernorm.weight" for layer in range(LAYERS)),
    "model.norm.weight",
    "lm_head.weight",
]


def facts(model: str) -> tuple[int, str]:
    """`five` has five layers, `single` is float32, `half` float16."""
    dtypes = {"single": "float32", "half": "float16"}
    return (5 if model == "five" else LAYERS), dtypes.get(model, "bfloat16")


def read(text: str) -> MergeRecipe:
    return mergekit.read(yaml_file.parse(text), facts)


def of_layers(recipe: MergeRecipe, name: str, kind: str = "mlp.up_proj") -> list[Any]:
    """A parameter's values, layer by layer."""
    return [
        recipe.values(f"model.layers.{layer}.{kind}.weight")[name]
        for layer in range(recipe.num_layers)
    ]


def origins(recipe: MergeRecipe) -> list[list[Any]]:
    """For each layer the models and layers that it is made of."""
    found = []
    for part in recipe.slices:
        places = part.sources or range(len(recipe.sources))
        starts = part.origins or (part.start,) * len(places)
        for offset in range(part.stop - part.start):
            pairs = zip(places, starts, strict=False)
            found.append([(recipe.sources[place], start + offset) for place, start in pairs])
    return found


# -- whole models ---------------------------------------------------------------------------------


def test_the_short_form_with_models_is_read():
    recipe = read("""
merge_method: ties
base_model: base
models:
  - model: base
  - {model: a, parameters: {weight: 0.5, density: 0.3}}
  - {model: b, parameters: {weight: 0.25}}
parameters: {density: 0.9, normalize: false, lambda: 0.5}
dtype: float16
""")
    assert recipe.sources == ("a", "b")
    assert recipe.base == "base"
    assert recipe.dtype == "float16"
    assert recipe.num_layers == LAYERS
    assert recipe.options == {"normalize": False, "rescale": "none", "lambda": 0.5}
    for tensor in TENSORS:
        assert recipe.values(tensor) == {"weight": (0.5, 0.25), "density": (0.3, 0.9)}


#: What mergekit 0.1.5 computes with where a configuration says nothing.
DEFAULTS = {
    "linear": {"normalize": True},
    "slerp": {},
    "nuslerp": {"use_base": True, "nuslerp_flatten": True, "nuslerp_row_wise": False},
    "multislerp": {"use_base": True, "normalize_weights": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "model_stock": {"filter_wise": False},
    "nearswap": {},
    "arcee_fusion": {"fence": 1.5},
    "passthrough": {"scale": 1.0},
    "task_arithmetic": {"normalize": False, "lambda": 1.0},
    "ties": {"normalize": True, "rescale": "none", "lambda": 1.0},
    "dare_linear": {"normalize": False, "rescale": "l1", "lambda": 1.0},
    "dare_ties": {"normalize": False, "rescale": "l1", "lambda": 1.0},
    "della_linear": {"normalize": False, "rescale": "l1", "lambda": 1.0},
    "della": {"normalize": True, "rescale": "l1", "lambda": 1.0},
    "breadcrumbs": {"normalize": False, "rescale": "none", "lambda": 1.0},
    "breadcrumbs_ties": {"normalize": False, "rescale": "none", "lambda": 1.0},
    "sce": {"select_topk": 1.0},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5},
}
#: Parameters of sources that need not be given.
OWN_DEFAULTS = {"density": 1.0, "epsilon": 0.15, "gamma": 0.01}


def test_every_method_of_both_is_known():
    assert set(DIALECTS) == set(METHODS.known) == set(DEFAULTS)


@pytest.mark.parametrize("method", DEFAULTS)
def test_mergekits_own_defaults_are_respected(method):
    known = METHODS.facts(method)
    role = DIALECTS[method].base
    wanted = {one.name for one in known.parameters if one.default is None}
    count = known.num_sources or 3
    models = ["base", "a"] if role == "first" else list("abc")[:count]
    config = {
        "merge_method": method,
        "models": [
            {"model": one, "parameters": {"weight": 1.0} if "weight" in wanted else {}}
            for one in models
        ],
        "parameters": {"t": 0.5} if "t" in wanted else {},
    }
    if role != "source":
        config["base_model"] = "base"
    recipe = mergekit.read(config, facts)
    assert recipe.options == DEFAULTS[method]
    assert recipe.dtype == "bfloat16", "the models', where none is given"
    for name, values in recipe.values(TENSORS[0]).items():
        assert name in wanted or set(values) == {OWN_DEFAULTS[name]}


def test_the_model_that_gives_configuration_and_tokens_is_the_base_or_the_first():
    models = "models: [{model: a}, {model: b}]\nparameters: {weight: 1}"
    assert read(f"merge_method: linear\n{models}").base == "a"
    assert read(f"merge_method: multislerp\n{models}").base == "a"
    assert read(f"merge_method: linear\nbase_model: b\n{models}").base == "b"


def test_out_dtype_counts_more_than_dtype():
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\ndtype: float32\n"
    assert read(text).dtype == "float32"
    assert read(text + "out_dtype: torch.bfloat16").dtype == "bfloat16"


def test_without_a_dtype_the_models_types_are_joined():
    def dtype(*models: str) -> str:
        listed = ", ".join(f"{{model: {model}}}" for model in models)
        return read(f"merge_method: linear\nmodels: [{listed}]\nparameters: {{weight: 1}}").dtype

    assert dtype("a", "b") == "bfloat16"
    assert dtype("half") == "float16"
    assert dtype("a", "single") == "float32"
    assert dtype("a", "half") == "float32", "the smallest type that holds both"


# -- the base -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "karcher"])
def test_averages_take_a_base_that_is_not_listed_as_one_more_model(method):
    recipe = read(
        f"merge_method: {method}\nbase_model: base\nmodels: [{{model: a}}, {{model: b}}]\n"
        + ("parameters: {weight: 0.5}" if method == "linear" else "")
    )
    assert recipe.sources == ("a", "b", "base")


def test_what_a_base_of_task_vectors_is_given_means_nothing():
    recipe = read("""
merge_method: task_arithmetic
base_model: base
models:
  - {model: base, parameters: {weight: 5}}
  - {model: a, parameters: {weight: 0.5}}
""")
    assert recipe.sources == ("a",)
    assert recipe.values("lm_head.weight")["weight"] == (0.5,)


@pytest.mark.parametrize("order", ["{model: a}, {model: b}", "{model: b}, {model: a}"])
def test_slerp_starts_at_the_base_wherever_it_stands(order):
    recipe = read(f"merge_method: slerp\nbase_model: a\nmodels: [{order}]\nparameters: {{t: 0.2}}")
    assert recipe.sources == ("a", "b")


def test_spherical_means_go_from_the_base_only_where_one_is_given():
    models = "models: [{model: a}, {model: b}]\nparameters: {weight: 1}"
    for method in ("nuslerp", "multislerp"):
        assert read(f"merge_method: {method}\n{models}").options["use_base"] is False
        with_base = read(f"merge_method: {method}\nbase_model: base\n{models}")
        assert with_base.options["use_base"] is True
        assert (with_base.sources, with_base.base) == (("a", "b"), "base")


# -- filters --------------------------------------------------------------------------------------


def mergekits_value(given: Any, tensor: str) -> float:
    """mergekit's rule: the first entry whose filter is in the tensor's name, or that has none."""
    if not isinstance(given, list):
        return given
    for entry in given:
        if entry.get("filter") in (None, "*") or entry["filter"] in tensor:
            return entry["value"]
    raise AssertionError(tensor)


FILTERED = {
    "the same filters": (
        [{"filter": "self_attn", "value": 0.1}, {"filter": "mlp", "value": 0.2}, {"value": 0.3}],
        [{"filter": "mlp", "value": 0.4}, {"filter": "self_attn", "value": 0.5}, {"value": 0.6}],
    ),
    "one parameter's": ([{"filter": "*", "value": 0.1}], 0.5),
    "a star": ([{"filter": "mlp", "value": 0.1}, {"filter": "*", "value": 0.2}], 0.5),
    "one in the other": (
        [{"filter": "self_attn", "value": 0.1}, {"value": 0.2}],
        [{"filter": "attn", "value": 0.3}, {"value": 0.4}],
    ),
    "one in the other, the narrow one last": (
        [{"filter": "attn", "value": 0.1}, {"filter": "self_attn", "value": 0.9}, {"value": 0.2}],
        [{"filter": "self_attn", "value": 0.3}, {"value": 0.4}],
    ),
    "filters that never meet": (
        [
            {"filter": "self_attn", "value": 0.1},
            {"filter": "embed_tokens", "value": 0.7},
            {"value": 0.2},
        ],
        [{"filter": "up_proj", "value": 0.3}, {"filter": "lm_head", "value": 0.35}, {"value": 0.4}],
    ),
    "a layer's own": (
        [{"filter": ".1.mlp", "value": 0.9}, {"filter": "attn", "value": 0.1}, {"value": 0.2}],
        [{"filter": "attn", "value": 0.3}, {"filter": "mlp", "value": 0.4}, {"value": 0.5}],
    ),
    "layers against modules": (
        [{"filter": "layers.2.", "value": 0.9}, {"value": 0.2}],
        [{"filter": "input_layernorm", "value": 0.3}, {"value": 0.5}],
    ),
    "the same value whatever comes": (
        [{"filter": "norm", "value": 0.5}, {"value": 0.5}],
        [{"filter": "model.", "value": 0.3}, {"value": 0.6}],
    ),
    "meeting in a tensor": (
        [{"filter": "self_attn", "value": 0.1}, {"value": 0.2}],
        [{"filter": "q_proj", "value": 0.3}, {"value": 0.4}],
    ),
}


@pytest.mark.parametrize("what", FILTERED)
def test_filters_mean_what_they_mean_in_mergekit_or_are_refused(what):
    weight, density = FILTERED[what]
    data = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": weight, "density": density}}],
    }
    if what == "meeting in a tensor":
        with pytest.raises(RecipeError, match="'self_attn' and 'q_proj'"):
            mergekit.read(data, facts)
        return
    recipe = mergekit.read(data, facts)
    for tensor in TENSORS:
        expected = {"weight": (mergekits_value(weight, tensor),)}
        expected["density"] = (mergekits_value(density, tensor),)
        assert recipe.values(tensor) == expected, tensor


def test_filters_that_match_nothing_leave_it_to_the_next_place_and_then_to_the_default():
    recipe = read("""
merge_method: ties
base_model: base
parameters: {weight: 0.25, density: [{filter: layernorm, value: 0.5}]}
slices:
  - sources:
      - {model: a, layer_range: [0, 6], parameters: {weight: [{filter: embed_tokens, value: 0.75}]}}
      - {model: base, layer_range: [0, 6]}
    parameters: {weight: [{filter: norm, value: 0.5}]}
""")
    for tensor in TENSORS:
        weight = 0.75 if "embed_tokens" in tensor else 0.5 if "norm" in tensor else 0.25
        density = 0.5 if "layernorm" in tensor else 1.0
        assert recipe.values(tensor) == {"weight": (weight,), "density": (density,)}


def test_one_filter_needs_no_list():
    recipe = read(
        "merge_method: passthrough\nmodels: [{model: a}]\n"
        "parameters: {scale: {filter: down_proj, value: 0}}"
    )
    assert recipe.values("model.layers.0.mlp.down_proj.weight") == {"scale": (0.0,)}
    assert recipe.values("lm_head.weight") == {"scale": (1.0,)}


def test_numbers_that_yaml_takes_for_text_are_numbers():
    recipe = read(
        "merge_method: ram\nbase_model: b\nmodels: [{model: a}]\nparameters: {epsilon: 1e-4}"
    )
    assert recipe.options == {"epsilon": 1e-4}


# -- gradients ------------------------------------------------------------------------------------

SLERP = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters:\n  "


def test_gradients_go_from_the_first_to_the_last_layer():
    recipe = read(SLERP + "t: [0, 0.5, 0]")
    assert [t for (t,) in of_layers(recipe, "t")] == pytest.approx([0, 0.2, 0.4, 0.4, 0.2, 0])
    recipe = read(SLERP + "t: [0.1, 0.7, 0.3, 0.9, 0.2, 0.4]")
    assert [t for (t,) in of_layers(recipe, "t")] == [0.1, 0.7, 0.3, 0.9, 0.2, 0.4]


def test_tensors_outside_of_layers_take_a_gradients_first_value():
    recipe = read(SLERP + "t: [0.125, 1]")
    for tensor in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert recipe.values(tensor) == {"t": (0.125,)}, tensor


def test_gradients_stand_behind_filters_too():
    recipe = read(
        SLERP + "t: [{filter: mlp, value: [1, 0]}, {filter: attn, value: 0.25}, {value: [0, 1]}]"
    )
    rising = [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert [t for (t,) in of_layers(recipe, "t")] == pytest.approx(rising[::-1])
    assert [t for (t,) in of_layers(recipe, "t", "self_attn.q_proj")] == [0.25] * 6
    assert [t for (t,) in of_layers(recipe, "t", "input_layernorm")] == pytest.approx(rising)
    assert recipe.values("model.norm.weight") == {"t": (0,)}


def test_a_gradient_goes_over_each_slice_by_itself():
    recipe = read("""
merge_method: linear
parameters: {weight: [1, 2]}
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: a, layer_range: [3, 4]}]
  - sources: [{model: a, layer_range: [4, 6]}]
""")
    weights = [weight for (weight,) in of_layers(recipe, "weight")]
    assert weights == [1, 1.5, 2, 2, 1, 2], "a slice of one layer takes the last value"
    assert recipe.values("model.embed_tokens.weight")["weight"] == (1,)
    assert recipe.values("model.norm.weight")["weight"] == (1,)


def test_layers_with_the_same_values_are_one_slice():
    recipe = read(SLERP + "t: [0.5, 0.5, 0.5, 0.5, 0.5, 1]")
    assert [(part.start, part.stop) for part in recipe.slices] == [(0, 5), (5, 6)]
    assert len(read(SLERP + "t: [0.5, 0.5]").slices) == 1


def test_a_gradient_of_the_whole_merges_parameter_is_kept_by_layer():
    recipe = read(
        "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a}]\n"
        "parameters: {weight: 1, lambda: [1, 0.5]}"
    )
    assert "lambda" not in recipe.options
    assert [one for (one,) in of_layers(recipe, "lambda")] == pytest.approx(
        [1, 0.9, 0.8, 0.7, 0.6, 0.5]
    )


# -- slices ---------------------------------------------------------------------------------------


def test_layers_of_several_models_are_put_in_a_row():
    recipe = read("""
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 4]}]
  - sources: [{model: a, layer_range: [2, 3], parameters: {scale: [{filter: o_proj, value: 0.5}]}}]
""")
    assert origins(recipe) == [
        [("a", 0)], [("a", 1)], [("a", 2)], [("b", 1)], [("b", 2)], [("b", 3)], [("a", 2)],
    ]  # fmt: skip
    assert recipe.num_layers == 7
    assert recipe.values("model.layers.6.self_attn.o_proj.weight") == {"scale": (0.5,)}
    assert recipe.values("model.layers.5.self_attn.o_proj.weight").get("scale", (1.0,)) == (1.0,)


def test_a_models_middle_may_be_left_out():
    source = "{{model: a, layer_range: [{0}, {1}], parameters: {{weight: 1}}}}"
    parts = ", ".join(f"{{sources: [{source.format(*ends)}]}}" for ends in ((0, 2), (4, 6)))
    recipe = read(f"merge_method: linear\nslices: [{parts}]")
    assert origins(recipe) == [[("a", 0)], [("a", 1)], [("a", 4)], [("a", 5)]]


def test_a_slice_may_merge_other_layers_and_other_models_than_its_own():
    recipe = read("""
merge_method: ties
base_model: base
parameters: {weight: 1}
slices:
  - sources:
      - {model: a, layer_range: [0, 2]}
      - {model: b, layer_range: [2, 4], parameters: {weight: 0.5}}
      - {model: base, layer_range: [1, 3]}
  - sources:
      - {model: base, layer_range: [2, 4]}
      - {model: c, layer_range: [2, 4]}
      - {model: a, layer_range: [2, 4]}
""")
    assert recipe.sources == ("a", "b", "c")
    first, second = recipe.slices
    assert (first.sources, first.origins) == ((0, 1), (0, 2, 1))
    assert (second.sources, second.origins) == ((2, 0), None)
    assert first.values("lm_head")["weight"] == (1, 0.5)


def test_a_models_filters_are_compared_with_the_layers_that_are_read():
    recipe = read("""
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - model: a
        layer_range: [2, 5]
        parameters:
          weight:
            - {filter: layers.3.mlp, value: 0.5}
            - {filter: layers.4., value: 0}
            - {value: 1}
      - {model: base, layer_range: [2, 5]}
    parameters: {lambda: [{filter: layers.2., value: 3}, {value: 2}]}
""")
    assert of_layers(recipe, "weight") == [(1,), (0.5,), (0,)]
    assert of_layers(recipe, "weight", "self_attn.q_proj") == [(1,), (1,), (0,)]
    assert of_layers(recipe, "lambda") == [(2,), (2,), (3,)], "these with those that are built"
    assert recipe.values("lm_head.weight") == {"weight": (1,), "lambda": (2,)}


def test_slices_without_layers_say_what_lies_outside_of_layers():
    recipe = read("""
merge_method: linear
slices:
  - sources: [{model: a, layer_range: [0, 0], parameters: {weight: 2}}]
  - sources: [{model: b, layer_range: [0, 6], parameters: {weight: 3}}]
  - sources: [{model: c, layer_range: [0, 0], parameters: {weight: [4, 5]}}]
""")

    def made_of(tensor: str) -> Any:
        part = recipe.part(tensor)
        assert part.sources is not None
        return [recipe.sources[one] for one in part.sources], part.values(tensor)["weight"]

    assert made_of("model.embed_tokens.weight") == (["a"], (2,))
    assert made_of("model.layers.0.mlp.up_proj.weight") == (["b"], (3,))
    assert made_of("lm_head.weight") == (["c"], (4,))


def test_of_a_last_slice_with_more_models_the_head_takes_as_many_as_the_first_has():
    recipe = read("""
merge_method: linear
parameters: {weight: 1}
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [3, 6]}, {model: c, layer_range: [3, 6]}]
""")
    assert recipe.sources == ("a", "b", "c")
    assert recipe.slices[-1].sources == (1, 2)
    assert recipe.after is not None
    assert recipe.after.sources == (1,)


STACK = """
merge_method: ties
base_model: base
parameters: {weight: 0.5}
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: base, layer_range: [0, 2]}]
    parameters: {normalize: false}
  - sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [2, 4]}]
    base_model: b
  - sources: [{model: c, layer_range: [4, 6]}, {model: base, layer_range: [4, 6]}]
    parameters: {normalize: false}
"""


def test_slices_with_options_or_a_base_of_their_own_become_recipes_in_a_row():
    recipe = read(STACK)
    assert (recipe.method, recipe.base, recipe.num_layers) == ("passthrough", "base", LAYERS)
    assert [part.sources for part in recipe.slices] == [(0,), (1,), (0,)]
    first, second = recipe.sources
    assert isinstance(first, MergeRecipe)
    assert isinstance(second, MergeRecipe)
    assert (first.base, first.options["normalize"]) == ("base", False)
    assert (second.base, second.options["normalize"]) == ("b", True)
    assert [part.sources for part in first.slices if part.start in (0, 4)] == [(0,), (1,)]
    assert [part.start for part in second.slices if part.start in (2, 3)] == [2]
    assert first.num_layers == second.num_layers == LAYERS


def test_modules_of_a_text_model_are_one():
    recipe = read("""
merge_method: linear
parameters: {weight: 1, normalize: true}
modules:
  default:
    models: [{model: a}, {model: b, parameters: {weight: 3}}]
    parameters: {weight: 2, normalize: false}
""")
    assert recipe.options == {"normalize": False}
    assert recipe.values("lm_head.weight")["weight"] == (2, 3)


# -- everything else ------------------------------------------------------------------------------


def test_adapters_and_revisions_are_part_of_a_models_name():
    recipe = read("""
merge_method: linear
parameters: {weight: 1}
models:
  - model: a+adapter
  - model: {model: {path: b, revision: v1}, lora: {path: adapter, revision: v2}}
  - model: {model: c, lora: adapter}
""")
    assert recipe.sources == ("a+adapter", "b@v1+adapter@v2", "c+adapter")


ONE = "models: [{model: a, parameters: {weight: 1}}]"
LINEAR = f"merge_method: linear\n{ONE}\n"


@pytest.mark.parametrize(
    ("key", "tokenizer", "base"),
    [
        ("tokenizer_source: base", "base", "a"),
        ("tokenizer_source: union", "union", "a"),
        ("tokenizer_source: a", "base", "a"),
        ("tokenizer_source: other", "base", "other"),
        ("tokenizer: {source: union}", "union", "a"),
        ("tokenizer: {}", "union", "a"),
        (
            "tokenizer: {source: {model: {path: a}}, tokens: {}, pad_to_multiple_of: null}",
            "base",
            "a",
        ),
    ],
)
def test_tokens_are_the_bases_or_everyones(key, tokenizer, base):
    recipe = read(LINEAR + key)
    assert (recipe.tokenizer, recipe.base) == (tokenizer, base)


def test_slerp_may_have_the_tokens_of_a_third_model():
    assert read(SLERP + "t: 0.5\ntokenizer_source: other").base == "other"


def test_keys_that_say_nothing_are_taken():
    assert read(LINEAR + "name: mine\nchat_template:\ntokenizer_source:\nparameters:") == read(
        LINEAR
    )


@pytest.mark.parametrize("mask", ["true", "false"])
def test_how_masks_are_stored_changes_nothing(mask):
    text = f"merge_method: ties\nbase_model: base\n{ONE}\nparameters: {{int8_mask: {mask}}}"
    assert read(text) == read(f"merge_method: ties\nbase_model: base\n{ONE}")


def test_parameters_without_effect_are_taken_with_a_warning(caplog):
    text = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a}]\n"
    with caplog.at_level(logging.WARNING):
        recipe = read(text + "parameters: {weight: 1, density: 0.5}")
    assert recipe == read(text + "parameters: {weight: 1}")
    assert "'density' has no effect with task_arithmetic" in caplog.text


@pytest.mark.parametrize("method", ["ties", "dare_ties", "breadcrumbs_ties", "dare_linear"])
def test_a_density_of_zero_leaves_a_source_out(method):
    recipe = read(f"""
merge_method: {method}
base_model: base
models:
  - {{model: a, parameters: {{weight: 1, density: 0}}}}
  - {{model: b, parameters: {{weight: 2, density: 0.5}}}}
""")
    values = recipe.values("lm_head.weight")
    assert (values["weight"], values["density"]) == ((0, 2), (1, 0.5))


def test_rescaling_is_given_as_in_mergekit_or_in_our_own_words():
    text = f"merge_method: dare_ties\nbase_model: base\n{ONE}\n"
    for given, expected in {"true": "l1", "false": "none", "density": "density"}.items():
        assert read(text + f"parameters: {{rescale: {given}}}").options["rescale"] == expected


TIES = f"merge_method: ties\nbase_model: base\n{ONE}\n"
TWO_SLICES = """
slices:
  - sources: [{model: a, layer_range: [0, 3]}, {model: base, layer_range: [0, 3]}]
  - sources: [{model: a, layer_range: [3, 6]}, {model: base, layer_range: [3, 6]}]
"""
REFUSED = {
    "a template": (LINEAR + "chat_template: auto", "chat_template: 'auto' is not supported"),
    "misspelt key": (f"merge_metod: linear\n{ONE}", "did you mean 'merge_method'"),
    "unknown key": (LINEAR + "out_shard_size: 5B", "'out_shard_size' is not supported"),
    "unknown method": (f"merge_method: tie\n{ONE}", "did you mean 'ties'"),
    "unsupported parameter": (LINEAR + "parameters: {int8_mask: true}", "int8_mask"),
    "misspelt parameter": (TIES + "parameters: {densty: 1}", "did you mean 'density'"),
    "unsupported parameter of a model": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1, epsilon: 1}}]",
        "'epsilon'",
    ),
    "a model's value of the whole merge's parameter": (
        "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b, parameters: {t: 1}}]",
        "'t' belongs to the whole merge",
    ),
    "a model's option": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1, normalize: true}}]",
        "'normalize' belongs to the whole merge",
    ),
    "a parameter that only our recipes have": (
        "merge_method: arcee_fusion\nbase_model: a\nmodels: [{model: b}]\nparameters: {fence: 2}",
        "'fence' is not supported",
    ),
    "a residual weight": (
        "merge_method: linear\nslices: [{sources: [], residual_weight: 1}]",
        "'residual_weight'",
    ),
    "models and slices": (LINEAR + "slices: []", "either models or slices"),
    "neither": ("merge_method: linear", "either models or slices"),
    "models and modules": (LINEAR + "modules: {default: {models: []}}", "either models or slices"),
    "modules of other parts": (
        "merge_method: linear\nmodules: {text_decoder: {models: []}}",
        "'text_decoder' is not supported",
    ),
    "no base": (f"merge_method: ties\n{ONE}", "base_model is missing"),
    "a base that a slice does not list": (
        (
            "merge_method: ties\nbase_model: base\nslices: [{sources: "
            "[{model: a, layer_range: [0, 6], parameters: {weight: 1}}]}]"
        ),
        "'base' is not among the sources",
    ),
    "a base of a slice that means nothing": (
        (
            "merge_method: linear\nslices: [{base_model: a, sources: "
            "[{model: a, layer_range: [0, 6], parameters: {weight: 1}}]}]"
        ),
        "base_model of its own means nothing",
    ),
    "no weight": ("merge_method: linear\nmodels: [{model: a}]", "'weight' is missing for 'a'"),
    "no weight for an added base": (LINEAR + "base_model: base", "'weight' is missing for 'base'"),
    "a weight of text": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: much}}]",
        "'much'",
    ),
    "an endless weight": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: .inf}}]",
        "expected a number",
    ),
    "a gradient of nothing": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: []}}]",
        "an empty list",
    ),
    "a filter without a value": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: [{filter: mlp}]}}]",
        "'mlp' has no value",
    ),
    "a filter by a number": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: [{filter: 1, value: 1}]}}]",
        "a filter is text",
    ),
    "an option of text": (LINEAR + "parameters: {normalize: maybe}", "expected true or false"),
    "an option by layers": (
        LINEAR + "parameters: {normalize: [true, false]}",
        "expected true or false",
    ),
    "an option by filters": (
        LINEAR + "parameters: {normalize: [{filter: mlp, value: true}, {value: false}]}",
        "one value for all tensors",
    ),
    "no model": ("merge_method: linear\nmodels: []", "nothing to merge"),
    "nothing but the base": (
        "merge_method: ties\nbase_model: a\nmodels: [{model: a}]",
        "nothing to merge",
    ),
    "no slice": ("merge_method: linear\nslices: []", "slices"),
    "a slice of nothing": ("merge_method: linear\nslices: [{sources: []}]", "no sources"),
    "a model without a name": ("merge_method: linear\nmodels: [{parameters: {}}]", "'model'"),
    "a model twice": (
        "merge_method: linear\nmodels: [{model: a}, {model: a}]\nparameters: {weight: 1}",
        "'a' is listed twice",
    ),
    "models of other depths": (
        "merge_method: linear\nmodels: [{model: a}, {model: five}]\nparameters: {weight: 1}",
        "'five' has 5",
    ),
    "layers that a model does not have": (
        "merge_method: passthrough\nslices: [{sources: [{model: five, layer_range: [2, 6]}]}]",
        "takes layers 2 to 5 of 'five', which has 5 layers",
    ),
    "ranges of other lengths": (
        (
            "merge_method: linear\nparameters: {weight: 1}\nslices: [{sources: "
            "[{model: a, layer_range: [0, 6]}, {model: b, layer_range: [1, 6]}]}]"
        ),
        "as many layers each",
    ),
    "a range that is none": (
        "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: 6}]}]",
        "layer_range is",
    ),
    "a slice without a range": (
        "merge_method: passthrough\nslices: [{sources: [{model: a}]}]",
        "layer_range is",
    ),
    "no layers between layers": (
        (
            "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}, "
            "{sources: [{model: a, layer_range: [2, 2]}]}, "
            "{sources: [{model: a, layer_range: [2, 6]}]}]"
        ),
        "may have no layers",
    ),
    "a filter without the rest": (
        (
            "merge_method: linear\nmodels: [{model: a}]\n"
            "parameters: {weight: [{filter: mlp, value: 1}]}"
        ),
        "no value for tensors",
    ),
    "a filter that may name a layer, on other layers": (
        (
            "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [2, 4], "
            "parameters: {scale: [{filter: .3.mlp, value: 2}]}}]}]"
        ),
        "'.3.mlp' holds a number",
    ),
    "slerp of three": (
        (
            "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n"
            "models: [{model: a}, {model: b}, {model: c}]"
        ),
        "two models",
    ),
    "slerp without a base": (
        "merge_method: slerp\nparameters: {t: 0.5}\nmodels: [{model: a}, {model: b}]",
        "one of them the base_model",
    ),
    "a row of two at once": (
        "merge_method: passthrough\nmodels: [{model: a}, {model: b}]",
        "takes exactly 1",
    ),
    "too few": (
        "merge_method: model_stock\nbase_model: base\nmodels: [{model: a}]",
        "at least 2 models besides the base_model",
    ),
    "a base among two": (
        (
            "merge_method: nuslerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
            "parameters: {weight: 1}"
        ),
        "exactly 2 models besides the base_model",
    ),
    "a base that is cut off": (
        (
            "merge_method: ties\nbase_model: base\nparameters: {weight: 1}\nslices:\n"
            "- sources: [{model: a, layer_range: [0, 3]}, {model: base, layer_range: [0, 3]}]\n"
            "- sources: [{model: a, layer_range: [3, 6]}, {model: b, layer_range: [3, 6]}, "
            "{model: base, layer_range: [3, 6]}]"
        ),
        "takes the first 2 for tensors after the layers",
    ),
    "a source of no density that counts": (
        (
            "merge_method: dare_linear\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
            "parameters: {weight: 1, density: 0, normalize: true}"
        ),
        "0 leaves a source out",
    ),
    "another type": (LINEAR + "dtype: int8", "dtype: expected one of float32"),
    "a type of sums only": (LINEAR + "dtype: float64", "float64 is no type of merged weights"),
    "another's tokens": (
        TIES + "tokenizer_source: b",
        "'b' is not the base_model; expected base, union or 'base'",
    ),
    "tokens twice": (LINEAR + "tokenizer_source: base\ntokenizer: {}", "either tokenizer_source"),
    "tokens one by one": (
        LINEAR + "tokenizer: {tokens: {x: {source: a}}}",
        "'tokens' is not supported",
    ),
    "padding": (LINEAR + "tokenizer: {pad_to_multiple_of: 64}", "'pad_to_multiple_of'"),
    "a union over bases": (STACK + "tokenizer_source: union", "where slices differ"),
    "another base in every slice": (
        "merge_method: ties\nbase_model: other\nparameters: {weight: 1}"
        + TWO_SLICES.replace("- sources", "- base_model: base\n    sources"),
        "make it the recipe's",
    ),
    "another architecture": (
        "merge_method: linear\nmodels: [{model: {model: a, override_architecture: X}}]",
        "'override_architecture'",
    ),
    "a list": ("[1, 2]", "expected a mapping"),
    "text for models": ("merge_method: linear\nmodels: a", "models: nothing to merge, got 'a'"),
    "text for parameters": (LINEAR + "parameters: 5", "expected keys and values, got 5"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused_by_name(what):
    text, hint = REFUSED[what]
    with pytest.raises(RecipeError) as error:
        read(text)
    assert hint in str(error.value)


WHOLE = {
    "merge_method": "ties",
    "base_model": {"model": {"path": "base"}},
    "parameters": {"density": [{"filter": "mlp", "value": [0.5, 1]}, {"value": 1}], "lambda": 0.5},
    "slices": [
        {
            "sources": [
                {"model": "a", "layer_range": [0, 6], "parameters": {"weight": [0, 1]}},
                {"model": "base", "layer_range": [0, 6]},
            ],
            "parameters": {"normalize": True},
        }
    ],
    "tokenizer": {"source": "base"},
    "dtype": "bfloat16",
}


def damaged(value: Any, junk: Any) -> list[Any]:
    """Copies of a value in each of which something else is replaced by junk."""
    found = [junk]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += [{**value, key: one} for one in damaged(inner, junk)]
            found.append({other: held for other, held in value.items() if other != key})
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            found += [[*value[:at], one, *value[at + 1 :]] for one in damaged(inner, junk)]
    return found


@pytest.mark.parametrize("junk", [None, 7, -1.5, True, "", "x", [], [None], {}, {"x": 1}, [[1]]])
def test_a_damaged_configuration_is_read_or_refused_in_words(junk):
    assert mergekit.read(WHOLE, facts).sources == ("a",)
    refused = 0
    for data in damaged(WHOLE, junk):
        try:
            mergekit.read(data, facts)
        except RecipeError:
            refused += 1
    assert refused > 10

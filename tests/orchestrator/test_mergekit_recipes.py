"""Recipes in mergekit's format mean the same model, tensor by tensor."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import mergekit, yaml_file
from orchestrator.mergekit import RecipeError
from workers.methods.registry import METHODS
from workers.recipe import MergeRecipe, Setting, Slice

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
    return LAYERS, "bfloat16"


def meaning(recipe: MergeRecipe) -> dict[str, Any]:
    """What decides the weights: values at each tensor, and everything around them."""
    options = {**METHODS.facts(recipe.method).options, **recipe.options}
    values = {tensor: dict(recipe.values(tensor)) for tensor in TENSORS}
    rest = (recipe.method, recipe.sources, options, recipe.dtype, recipe.seed)
    base = None if recipe.method in ("linear", "slerp") else recipe.base
    return {"values": values, "rest": rest, "base": base}


@st.composite
def recipes(draw: st.DrawFn, method: str) -> MergeRecipe:
    known = METHODS.facts(method)
    num = known.num_sources or draw(st.integers(1, 3))
    sources = tuple("abc"[:num])
    base = draw(st.sampled_from([*sources, "base"]))
    filters = draw(st.permutations(["self_attn", "mlp", "norm"]))[: draw(st.integers(0, 3))]
    cuts = sorted(draw(st.sets(st.integers(1, LAYERS - 1), max_size=2)))
    edges = zip([0, *cuts], [*cuts, LAYERS], strict=True)

    def values() -> dict[str, tuple[float, ...]]:
        return {
            parameter.name: tuple(
                draw(st.floats(0.01, 1.0)) for _ in range(num if parameter.per == "source" else 1)
            )
            for parameter in known.parameters
        }

    slices = tuple(
        Slice(
            start=start,
            stop=stop,
            settings=tuple(Setting(filter=one, values=values()) for one in [*filters, None]),
        )
        for start, stop in edges
    )
    options: dict[str, Any] = {}
    for name, default in known.options.items():
        if name == "rescale":
            options[name] = draw(st.sampled_from(["l1", "none"]))
        elif isinstance(default, bool):
            options[name] = draw(st.booleans())
        else:
            options[name] = draw(st.floats(0.1, 2.0))
    return MergeRecipe(
        method=method,
        sources=sources,
        base=base,
        slices=slices,
        options=options,
        dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        seed=draw(st.integers(0, 9)),
    )


@pytest.mark.parametrize("method", METHODS.addresses)
@given(data=st.data())
def test_what_is_written_is_read_back_with_the_same_meaning(method, data):
    recipe = data.draw(recipes(method))
    written = yaml_file.parse(yaml_file.dump(mergekit.write(recipe)))
    assert meaning(mergekit.read(written, facts, seed=recipe.seed)) == meaning(recipe)


def test_dares_division_by_the_density_is_written_into_the_weights():
    setting = Setting(filter=None, values={"weight": (0.5, 0.3), "density": (0.5, 0.1)})
    recipe = MergeRecipe(
        method="dare_ties", sources=("a", "b"), base="base", dtype="float32",
        slices=(Slice(start=0, stop=LAYERS, settings=(setting,)),),
    )  # fmt: skip
    read_back = mergekit.read(mergekit.write(recipe), facts)
    assert read_back.options["rescale"] == "none"
    assert read_back.values("model.norm.weight")["weight"] == pytest.approx((1.0, 3.0))


@pytest.mark.parametrize("method", [name for name in METHODS.addresses if name != "dare_ties"])
def test_every_method_keeps_its_default_options(method):
    known = METHODS.facts(method)
    values = {one.name: (0.5, 0.5) if one.per == "source" else (0.5,) for one in known.parameters}
    recipe = MergeRecipe(
        method=method, sources=("a", "b"), base="base", dtype="float32",
        slices=(Slice(start=0, stop=LAYERS, settings=(Setting(filter=None, values=values),)),),
    )  # fmt: skip
    assert meaning(mergekit.read(mergekit.write(recipe), facts)) == meaning(recipe)


def read(text: str) -> MergeRecipe:
    return mergekit.read(yaml_file.parse(text), facts)


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
    assert recipe.options == {"normalize": False, "lambda": 0.5}
    for tensor in TENSORS:
        assert recipe.values(tensor) == {"weight": (0.5, 0.25), "density": (0.3, 0.9)}


def test_mergekits_own_defaults_are_respected():
    models = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]"
    for method, expected in {
        "linear": {"normalize": True},
        "task_arithmetic": {"normalize": False, "lambda": 1.0},
        "ties": {"normalize": True, "lambda": 1.0},
        "dare_ties": {"normalize": False, "lambda": 1.0, "rescale": "l1"},
    }.items():
        recipe = read(f"merge_method: {method}\nbase_model: base\n{models}")
        assert recipe.options == expected, method
        assert recipe.dtype == "bfloat16", "the base's, where none is given"
        assert dict(recipe.values(TENSORS[0])).get("density", (1.0, 1.0)) == (1.0, 1.0)


def test_out_dtype_counts_more_than_dtype():
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\ndtype: float32\n"
    assert read(text).dtype == "float32"
    assert read(text + "out_dtype: bfloat16").dtype == "bfloat16"


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
    "filters of one parameter only": ([{"filter": "*", "value": 0.1}], 0.5),
    "a star": ([{"filter": "mlp", "value": 0.1}, {"filter": "*", "value": 0.2}], 0.5),
    "filters of which one holds the other": (
        [{"filter": "self_attn", "value": 0.1}, {"value": 0.2}],
        [{"filter": "attn", "value": 0.3}, {"value": 0.4}],
    ),
    "filters that meet in a tensor": (
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
    try:
        recipe = mergekit.read(data, facts)
    except RecipeError:
        assert "filters" in what, "only what cannot be expressed may be refused"
        return
    for tensor in TENSORS:
        expected = {"weight": (mergekits_value(weight, tensor),)}
        expected["density"] = (mergekits_value(density, tensor),)
        assert recipe.values(tensor) == expected, tensor


SLICE = "{{sources: [{{model: a, layer_range: [{0}, {1}], parameters: {{weight: 1}}}}]}}"


def slices(*ranges: tuple[int, int]) -> str:
    parts = ", ".join(SLICE.format(*ends) for ends in ranges)
    return f"merge_method: linear\nslices: [{parts}]"


ONE = "models: [{model: a, parameters: {weight: 1}}]"
REFUSED = {
    "unsupported key": (f"merge_method: linear\n{ONE}\nchat_template: auto", "chat_template"),
    "misspelt key": (f"merge_metod: linear\n{ONE}", "did you mean 'merge_method'"),
    "unknown method": (f"merge_method: tie\n{ONE}", "did you mean 'ties'"),
    "unsupported parameter": (
        f"merge_method: linear\n{ONE}\nparameters: {{int8_mask: true}}", "int8_mask"
    ),
    "unsupported parameter of a model": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1, epsilon: 1}}]", "epsilon"
    ),
    "models and slices": (f"merge_method: linear\n{ONE}\nslices: []", "either models or slices"),
    "neither": ("merge_method: linear", "either models or slices"),
    "no base": (f"merge_method: ties\n{ONE}", "base_model is missing"),
    "no weight": ("merge_method: linear\nmodels: [{model: a}]", "'weight' is missing for 'a'"),
    "a weight of text": (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: much}}]", "'much'"
    ),
    "no model": ("merge_method: linear\nmodels: []", "nothing to merge"),
    "no slice": ("merge_method: linear\nslices: []", "slices"),
    "too few layers": (slices((0, 4)), "has 6 layers"),
    "not from the first layer": (slices((1, 6)), "slices"),
    "a gap": (slices((0, 2), (4, 6)), "slices"),
    "a route through layers": (
        ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 6]},"
        " {model: b, layer_range: [1, 7]}]}]"),
        "ranges differ",
    ),
    "other models in the second slice": (
        ("merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]\n"
        "- sources: [{model: a, layer_range: [3, 6]}, {model: c, layer_range: [3, 6]}]"),
        "'c'",
    ),
    "a filter without the rest": (
        (
            "merge_method: linear\nmodels: [{model: a}]\n"
            "parameters: {weight: [{filter: mlp, value: 1}]}"
        ),
        "no value for tensors",
    ),
    "a gradient over layers": (
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: a}]\n"
        "parameters: {t: [0, 1]}"),
        "parameters.t: gradients over layers",
    ),
    "slerp of three": (
        ("merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n"
        "models: [{model: a}, {model: b}, {model: c}]"),
        "two models",
    ),
    "a list": ("[1, 2]", "expected a mapping"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused_by_name(what):
    text, hint = REFUSED[what]
    with pytest.raises(RecipeError) as error:
        read(text)
    assert hint in str(error.value)

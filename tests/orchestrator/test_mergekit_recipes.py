"""Recipes in mergekit's format mean the same model, tensor by tensor."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import mergekit, yaml_file
from orchestrator.mergekit import RecipeError
from workers.methods.registry import METHODS
from workers.models.layers import layer_of
from workers.recipe import MergeRecipe, Part, Setting, Slice

LAYERS = 6
OUTSIDE = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
INSIDE = ["self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"]
#: Ours alone: mergekit computes with their defaults.
UNSAID = {"arcee_fusion": {"fence"}, "karcher": {"weight"}}
#: Methods whose `base_model` is no part of the recipe but one of the merged models.
BASELESS = ("linear", "karcher", "passthrough", "slerp")


def facts(model: str) -> tuple[int, str]:
    return LAYERS, "bfloat16"


def in_layers(*layers: int) -> list[str]:
    return [f"model.layers.{layer}.{name}" for layer in layers for name in INSIDE]


TENSORS = [*OUTSIDE, *in_layers(*range(LAYERS))]


def meaning(recipe: MergeRecipe, *, base: bool = True) -> dict[str, Any]:
    """What decides the weights: of each tensor who is read where, with which values."""
    known = METHODS.facts(recipe.method)
    options = {**known.options, **recipe.options}
    tensors = {}
    for tensor in [*OUTSIDE, *in_layers(*range(recipe.num_layers))]:
        part = recipe.part(tensor)
        places = part.sources or tuple(range(len(recipe.sources)))
        given = part.values(tensor)
        values = {
            one.name: given.get(
                one.name,
                (options.get(one.name, one.default),) * (len(places) if one.per == "source" else 1),
            )
            for one in known.parameters
        }
        layer = layer_of(tensor)
        origins = [layer] * (len(places) + 1)
        if layer is not None and part.origins is not None:
            origins = [layer - part.start + origin for origin in part.origins]
        read = [(recipe.sources[place], origins[at]) for at, place in enumerate(places)]
        base_layer = origins[-1] if known.needs_base or options.get("use_base") else None
        tensors[tensor] = (read, values, base_layer)
    own = {name: options[name] for name in known.options}
    rest = (recipe.method, own, recipe.dtype, recipe.seed, recipe.num_layers)
    return {"tensors": tensors, "rest": rest, "base": recipe.base if base else None}


def has_base(recipe: MergeRecipe) -> bool:
    """Whether mergekit's format holds which model the base is."""
    return recipe.method != "slerp" and recipe.options.get("use_base", True)


@st.composite
def recipes(draw: st.DrawFn, method: str) -> MergeRecipe:
    known = METHODS.facts(method)
    count = known.num_sources or draw(st.integers(known.least_sources, 3))
    sources = tuple("abcd"[: draw(st.integers(count, 4))])
    filters = draw(st.permutations(["self_attn", "mlp", "norm"]))[: draw(st.integers(0, 3))]
    cuts = sorted(draw(st.sets(st.integers(1, LAYERS - 1), max_size=5)))
    edges = list(zip([0, *cuts], [*cuts, LAYERS], strict=True))
    moves = draw(st.booleans())
    said = [one for one in known.parameters if one.name not in UNSAID.get(method, ())]
    given = [one for one in said if one.default is None or draw(st.booleans())]

    def values() -> dict[str, tuple[float, ...]]:
        return {
            one.name: tuple(
                float(draw(st.integers(1, 9)))
                if one.name == "max_iter"
                else draw(st.floats(0.01, 1.0))
                for _ in range(count if one.per == "source" else 1)
            )
            for one in given
        }

    def part() -> dict[str, Any]:
        places = tuple(draw(st.permutations(range(len(sources))))[:count])
        return {
            "settings": tuple(Setting(filter=one, values=values()) for one in [*filters, None]),
            "sources": None if places == tuple(range(len(sources))) else places,
        }

    def slice_of(start: int, stop: int) -> Slice:
        last = LAYERS - (stop - start)
        origins = tuple(draw(st.integers(0, last)) for _ in range(count + 1)) if moves else None
        return Slice(start=start, stop=stop, origins=origins, **part())

    options: dict[str, Any] = {}
    for name, default in known.options.items():
        if name == "rescale":
            options[name] = draw(st.sampled_from(["l1", "none"]))
        else:
            assert isinstance(default, bool)
            options[name] = draw(st.booleans())
    return MergeRecipe(
        method=method,
        sources=sources,
        base="base",
        slices=tuple(slice_of(*edge) for edge in edges),
        before=Part(**part()) if draw(st.booleans()) else None,
        after=Part(**part()) if draw(st.booleans()) else None,
        options=options,
        dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        seed=draw(st.integers(0, 9)),
    )


@pytest.mark.parametrize("method", METHODS.addresses)
@given(data=st.data())
def test_what_is_written_is_read_back_with_the_same_meaning(method, data):
    recipe = data.draw(recipes(method))
    written = yaml_file.parse(yaml_file.dump(mergekit.write(recipe)))
    read_back = mergekit.read(written, facts, seed=recipe.seed)
    base = has_base(recipe)
    assert meaning(read_back, base=base) == meaning(recipe, base=base)


def whole(method: str, sources: str = "ab", **fields: Any) -> MergeRecipe:
    """A recipe with the same values everywhere, those of `values` and else neutral ones."""
    known = METHODS.facts(method)
    values = {
        one.name: (one.plain(len(sources)),) * (len(sources) if one.per == "source" else 1)
        for one in known.parameters
        if one.default is None
    }
    values |= fields.pop("values", {})
    setting = Setting(filter=None, values=values)
    slices = (Slice(start=0, stop=LAYERS, settings=(setting,)),)
    return MergeRecipe(
        method=method,
        **{
            "sources": tuple(sources),
            "base": "base",
            "dtype": "float32",
            "slices": slices,
            **fields,
        },
    )


def sources_for(method: str) -> str:
    return "abc"[: METHODS.facts(method).num_sources or 3]


RESCALING = [one for one in METHODS.addresses if one.startswith(("dare", "della"))]


@pytest.mark.parametrize("method", [one for one in METHODS.addresses if one not in RESCALING])
def test_every_method_keeps_its_default_options(method):
    recipe = whole(method, sources_for(method))
    read_back = mergekit.read(mergekit.write(recipe), facts)
    base = METHODS.facts(method).needs_base
    assert meaning(read_back, base=base) == meaning(recipe, base=base)


HALVES = {"weight": (0.5, 0.3), "density": (0.5, 0.1)}


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dares_division_by_the_density_is_written_into_the_weights(method):
    recipe = whole(method, values=HALVES)
    read_back = mergekit.read(mergekit.write(recipe), facts)
    assert read_back.options["rescale"] == "none"
    assert read_back.values("model.norm.weight")["weight"] == pytest.approx((1.0, 3.0))
    assert read_back.values("model.norm.weight")["density"] == (0.5, 0.1)


def test_normalising_without_votes_is_written_into_the_weights_too():
    options = {"normalize": True, "rescale": "density"}
    read_back = mergekit.read(
        mergekit.write(whole("dare_linear", values=HALVES, options=options)), facts
    )
    assert read_back.options == {"normalize": False, "rescale": "none", "lambda": 1.0}
    assert read_back.values("lm_head.weight")["weight"] == pytest.approx((1.25, 3.75))


@pytest.mark.parametrize(
    ("method", "options"),
    [("dare_ties", {"normalize": True}), ("della", {}), ("della_linear", {"normalize": True})],
)
def test_mergekits_rescaling_stands_for_a_division_that_weights_cannot_do(method, options):
    recipe = whole(method, values=HALVES, options=options)
    read_back = mergekit.read(mergekit.write(recipe), facts)
    assert read_back.options["rescale"] == "l1"
    assert read_back.values("lm_head.weight")["weight"] == (0.5, 0.3)


def test_densities_of_the_whole_recipe_divide_weights_as_well():
    recipe = whole("dare_ties", values={"weight": (1, 2)}, options={"density": 0.5})
    read_back = mergekit.read(mergekit.write(recipe), facts)
    values = read_back.values("lm_head.weight")
    assert (values["weight"], values["density"]) == ((2.0, 4.0), (0.5, 0.5))


def test_single_layers_are_written_as_one_slice_with_gradients():
    def setting(weight: float) -> tuple[Setting, ...]:
        return (
            Setting(filter="mlp", values={"weight": (weight, 1.0)}),
            Setting(filter=None, values={"weight": (0.5, weight)}),
        )

    slices = tuple(
        Slice(start=layer, stop=layer + 1, settings=setting(layer / 8)) for layer in range(LAYERS)
    )
    recipe = whole("linear", slices=slices)
    written = mergekit.write(recipe)
    assert [source["layer_range"] for part in written["slices"] for source in part["sources"]] == [
        [0, 5], [0, 5], [5, 6], [5, 6],
    ], "the last layer is by itself: norm and head follow it"  # fmt: skip
    assert written["slices"][0]["sources"][0]["parameters"] == {
        "weight": [{"filter": "mlp", "value": [0.0, 0.125, 0.25, 0.375, 0.5]}, {"value": 0.5}]
    }
    same_outside = replace(recipe, after=Part(settings=setting(0.0)))
    assert len(mergekit.write(same_outside)["slices"]) == 1
    for one in (recipe, same_outside):
        assert meaning(mergekit.read(mergekit.write(one), facts)) == meaning(one)


@pytest.mark.parametrize("num_layers", [23, 24, 27, 36, 80])
def test_gradients_are_only_written_where_mergekits_division_is_exact(num_layers):
    slices = tuple(
        Slice(
            start=layer,
            stop=layer + 1,
            settings=(Setting(filter=None, values={"weight": (layer / 7, 1.0)}),),
        )
        for layer in range(num_layers)
    )
    written = mergekit.write(whole("linear", slices=slices))
    lengths = [
        part["sources"][0]["layer_range"][1] - part["sources"][0]["layer_range"][0]
        for part in written["slices"]
    ]
    assert sum(lengths) == num_layers
    assert len(lengths) <= 5
    for length in lengths:
        assert all(at / (length - 1) * (length - 1) == at for at in range(length) if length > 1)


def test_parts_outside_of_layers_are_written_as_slices_without_layers():
    def part(weight: float) -> Part:
        return Part(settings=(Setting(filter=None, values={"weight": (weight, 1.0)}),))

    recipe = whole("ties", before=part(0.25), after=part(0.75))
    written = mergekit.write(recipe)
    ranges = [[one["layer_range"] for one in part["sources"]] for part in written["slices"]]
    assert ranges == [[[0, 0]] * 3, [[0, LAYERS]] * 3, [[0, 0]] * 3]
    assert meaning(mergekit.read(written, facts)) == meaning(recipe)


def test_a_base_that_is_a_source_is_left_out_where_its_task_vector_changes_nothing():
    recipe = whole("ties", values={"weight": (0.5, 2.0)}, base="b", options={"normalize": True})
    read_back = mergekit.read(mergekit.write(recipe), facts)
    assert (read_back.sources, read_back.base) == (("a",), "b")
    assert read_back.values("lm_head.weight")["weight"] == (0.5,)


def test_whole_options_tokens_and_adapters_are_written():
    recipe = whole(
        "task_arithmetic",
        sources=("a+adapter", "b@v1"),
        options={"lambda": 0.7},
        tokenizer="union",
        dtype="bfloat16",
    )
    written = mergekit.write(recipe)
    assert written["parameters"] == {"normalize": False, "lambda": 0.7}
    assert (written["dtype"], written["out_dtype"]) == ("float32", "bfloat16")
    assert written["tokenizer_source"] == "union"
    assert [one["model"] for one in written["slices"][0]["sources"]] == [
        *recipe.sources,
        "base",
    ]
    assert meaning(mergekit.read(written, facts)) == meaning(recipe)
    assert mergekit.read(written, facts).tokenizer == "union"


def test_a_folder_with_a_plus_in_its_name_is_written_so_that_it_stays_whole(tmp_path):
    folder = tmp_path / "a+b"
    folder.mkdir()
    written = mergekit.write(whole("linear", sources=(str(folder), "b")))
    assert written["slices"][0]["sources"][0]["model"] == {"model": {"path": str(folder)}}
    assert mergekit.read(written, facts).sources == (str(folder), "b")


def test_slerps_between_other_models_in_a_slice_name_their_own_base():
    settings = (Setting(filter=None, values={"t": (0.25,)}),)
    slices = (
        Slice(start=0, stop=3, settings=settings, sources=(0, 1)),
        Slice(start=3, stop=6, settings=settings, sources=(2, 0)),
    )
    recipe = whole("slerp", "abc", slices=slices)
    written = mergekit.write(recipe)
    assert written["base_model"] == "a"
    assert [part.get("base_model") for part in written["slices"]] == [None, "c"]
    read_back = mergekit.read(written, facts)
    assert meaning(read_back, base=False) == meaning(recipe, base=False)


def nested() -> MergeRecipe:
    return whole("linear", sources=(whole("linear"), "b"))


def sliced(method: str, *places: tuple[int, ...], **fields: Any) -> MergeRecipe:
    values = {"karcher": {}, "passthrough": {}}.get(method, {"weight": (1.0,)})
    parts = tuple(
        Slice(
            start=start,
            stop=start + 1,
            settings=(
                Setting(
                    filter=fields.get("filter"),
                    values={name: held * len(taken) for name, held in values.items()},
                ),
            ),
            sources=taken,
            origins=fields.get("origins"),
        )
        for start, taken in enumerate(places)
    )
    return whole(method, "abc", slices=parts)


UNWRITABLE = {
    "a merge of a merge": (nested, "a source is itself a merge (linear)"),
    "another model's chat template": (
        lambda: whole("linear", chat_template="b"),
        "chat_template: 'b'",
    ),
    "no chat template": (lambda: whole("linear", chat_template="none"), "chat_template: 'none'"),
    "two adapters": (lambda: whole("linear", sources=("a+x+y", "b")), "several adapters"),
    "a union with a model that mergekit does not read": (
        lambda: whole("slerp", tokenizer="union"),
        "a union with 'base'",
    ),
    "a base that counts as a source": (
        lambda: whole("task_arithmetic", base="b", options={"normalize": True}),
        "'b' is base and source",
    ),
    "a base that shifts a mean": (lambda: whole("sce", base="b"), "'b' is base and source"),
    "nothing but the base": (lambda: whole("ties", "b", base="b"), "'b' is base and source"),
    "a model twice in a slice": (lambda: whole("linear", "aa"), "'a' takes part twice"),
    "more models after the layers than before": (
        lambda: sliced("karcher", (0,), (1, 2)),
        "tensors after the layers are made of 2 models",
    ),
    "another fence": (
        lambda: whole("arcee_fusion", "a", options={"fence": 2.0}),
        "has no 'fence': it computes with 1.5",
    ),
    "unequal shares": (
        lambda: whole("karcher", values={"weight": (0.5, 1.0)}),
        "has no 'weight'",
    ),
    "a filter by layers on other layers": (
        lambda: sliced("linear", (0,), origins=(4,), filter="layers.0."),
        "may name a layer",
    ),
    "an unknown option": (lambda: whole("linear", options={"rescale": True}), "'rescale'"),
    "a missing value": (
        lambda: whole("linear", values={"weight": (1.0,)}),
        "needs 2 values of 'weight'",
    ),
    "weights that cannot be normalised": (
        lambda: whole("dare_linear", values={"weight": (1.0, -1.0)}, options={"normalize": True}),
        "sum to 0",
    ),
}


@pytest.mark.parametrize("what", UNWRITABLE)
def test_what_mergekits_format_cannot_say_is_refused(what):
    make, hint = UNWRITABLE[what]
    with pytest.raises(RecipeError) as error:
        mergekit.write(make())
    assert hint in str(error.value)


def test_equal_shares_of_any_size_are_what_mergekit_computes_with():
    written = mergekit.write(whole("karcher", values={"weight": (0.4, 0.4)}))
    assert "weight" not in json.dumps(written)


def test_a_method_that_mergekit_does_not_have_is_refused_by_name():
    recipe = replace(whole("linear"), method="somewhere.else:Method")
    with pytest.raises(RecipeError, match=r"somewhere\.else:Method"):
        mergekit.write(recipe)

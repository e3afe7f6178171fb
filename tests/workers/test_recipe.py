"""Recipes: plain data that says which values apply to which tensor."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.models.layers import layer_of
from workers.recipe import MergeRecipe, Setting, Slice, average, plain_copy


def setting(weight, part=None):
    return Setting(filter=part, values={"weight": (weight,)})


def recipe(*slices, **changes):
    fields = {
        "method": "linear",
        "sources": ("m/a",),
        "base": "m/base",
        "slices": slices,
        "dtype": "float32",
        **changes,
    }
    return MergeRecipe(**fields)


def weight(of, tensor):
    return of.values(tensor)["weight"][0]


TWO = recipe(
    Slice(start=0, stop=2, settings=(setting(1.0, "mlp"), setting(2.0))),
    Slice(start=2, stop=4, settings=(setting(3.0, "mlp"), setting(4.0))),
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def recipes(draw):
    count = draw(st.integers(1, 3))
    edges = sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=4)))
    values = st.tuples(*[finite] * count)
    listed = st.lists(
        st.builds(
            Setting,
            filter=st.none() | st.text(max_size=4),
            values=st.dictionaries(st.sampled_from(["weight", "density"]), values),
        ),
        max_size=3,
    ).map(tuple)
    return MergeRecipe(
        method=draw(st.sampled_from(["linear", "ties"])),
        sources=tuple(draw(st.lists(st.text(), min_size=count, max_size=count))),
        base=draw(st.text()),
        slices=tuple(
            Slice(start=start, stop=stop, settings=draw(listed))
            for start, stop in zip([0, *edges], edges, strict=False)
        ),
        options=draw(st.dictionaries(st.text(max_size=4), st.booleans() | finite | st.text())),
        dtype="bfloat16",
        seed=draw(st.integers(0, 2**31)),
    )


@settings(max_examples=30)
@given(recipes())
def test_a_recipe_survives_json(drawn):
    again = MergeRecipe.from_dict(json.loads(json.dumps(drawn.as_dict())))
    assert again == drawn
    assert again.digest() == drawn.digest()


@settings(max_examples=30)
@given(recipes(), recipes())
def test_equal_digests_are_equal_recipes(one, other):
    assert (one.digest() == other.digest()) == (one.as_dict() == other.as_dict())


def test_the_digest_does_not_depend_on_the_order_of_options():
    one = recipe(options={"normalize": True, "lambda": 1.0})
    other = recipe(options={"lambda": 1.0, "normalize": True})
    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"method": "ties"},
        {"sources": ("m/b",)},
        {"base": "m/a"},
        {"slices": (Slice(start=0, stop=4, settings=(setting(1.0),)),)},
        {"options": {"normalize": True}},
        {"dtype": "bfloat16"},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_is_part_of_the_digest(change):
    fields = {"slices": TWO.slices, **change}
    assert recipe(*fields.pop("slices"), **fields).digest() != TWO.digest()


def test_a_recipe_says_what_kind_it_is():
    assert TWO.as_dict()["kind"] == "merge"


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([(1, 2)], "starts at 0, got layers 1 to 2"),
        ([(0, 2), (3, 4)], "starts at 2, got layers 3 to 4"),
        ([(0, 2), (1, 4)], "starts at 2, got layers 1 to 4"),
        ([(0, 0)], "starts at 0, got layers 0 to 0"),
        ([(0, 2), (2, 1)], "starts at 2, got layers 2 to 1"),
    ],
)
def test_slices_that_do_not_follow_one_another_are_refused(edges, expected):
    slices = [Slice(start=start, stop=stop, settings=(setting(1.0),)) for start, stop in edges]
    with pytest.raises(ValueError, match=expected):
        recipe(*slices)


def test_the_slices_say_how_many_layers_there_are():
    assert TWO.num_layers == 4
    assert recipe().num_layers == 0


@pytest.mark.parametrize("tensor", ["model.embed_tokens.weight", "transformer.wte.weight"])
def test_tensors_before_the_layers_follow_the_first_slice(tensor):
    assert weight(TWO, tensor) == 2.0


@pytest.mark.parametrize("tensor", ["model.norm.weight", "lm_head.weight"])
def test_tensors_after_the_layers_follow_the_last_slice(tensor):
    assert weight(TWO, tensor) == 4.0


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", 1.0),
        ("model.layers.1.self_attn.q_proj.weight", 2.0),
        ("model.layers.2.mlp.up_proj.weight", 3.0),
        ("model.layers.3.input_layernorm.weight", 4.0),
    ],
)
def test_a_layer_follows_its_slice_and_the_first_filter_that_matches(tensor, expected):
    assert weight(TWO, tensor) == expected


def test_a_tensor_without_a_setting_is_named():
    only_mlp = recipe(Slice(start=0, stop=4, settings=(setting(1.0, "mlp"),)))
    with pytest.raises(ValueError, match=r"no setting for tensor 'model\.norm\.weight'"):
        only_mlp.values("model.norm.weight")


def test_a_layer_past_the_last_slice_is_named():
    with pytest.raises(ValueError, match="layer 4, past the recipe's last slice"):
        TWO.values("model.layers.4.mlp.up_proj.weight")


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("model.layers.17.mlp.up_proj.weight", 17),
        ("transformer.h.3.attn.c_attn.weight", 3),
        ("gpt_neox.layers.0.attention.dense.bias", 0),
        ("model.decoder.layers.2.fc1.weight", 2),
        ("transformer.blocks.5.ffn.weight", 5),
        ("model.norm.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_layers_are_told_by_the_usual_names(tensor, layer):
    assert layer_of(tensor) == layer


def test_the_uniform_merge_gives_every_model_the_same_share():
    mean = average(["m/a", "m/b", "m/c", "m/d"], base="m/base", num_layers=3, dtype="float32")
    assert mean.values("model.layers.2.x")["weight"] == (0.25,) * 4
    assert mean.num_layers == 3


def test_a_plain_copy_has_one_source_with_weight_one():
    copy = plain_copy("m/a", base="m/base", num_layers=3, dtype="float32")
    assert (copy.sources, weight(copy, "lm_head.weight")) == (("m/a",), 1.0)

"""The merge space: what its genes are, and that every genome in the box is a merge."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from orchestrator.spaces.genes import Categorical
from orchestrator.spaces.merge import Merge
from orchestrator.spaces.merge_genes import is_searched
from orchestrator.spaces.pool import Pool
from workers.methods.registry import METHODS
from workers.models.library import ModelError

LAYERS, TOKENS = 5, 6
NAMES = ("a", "b", "c", "d")


def write_model(folder: Path, tokens: list[str], seed: int, *, width: int = 4) -> str:
    """A model folder that is small but whole: configuration, weights and vocabulary."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (len(tokens), width)}
    for layer in range(LAYERS):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (width, width)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (width, width)
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (len(tokens), width)}
    tensors = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    settings = {
        "architectures": ["LlamaForCausalLM"], "num_hidden_layers": LAYERS, "hidden_size": width,
        "vocab_size": len(tokens),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = {"model": {"vocab": vocabulary}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    tokens = [f"t{index}" for index in range(TOKENS)]
    found = {
        name: write_model(folder / name, tokens, seed) for seed, name in enumerate(("base", *NAMES))
    }
    found["other"] = write_model(folder / "other", [*tokens[:-1], "mine", "more"], 9)
    return found


@pytest.fixture(scope="module")
def space(models):
    """Opens a merge space of these models, named by their letters."""

    def opened(sources="ab", method="ties", **changes):
        return settings_of(models.get, sources=sources, method=method, **changes).open(7)

    return opened


def settings_of(name_of, *, sources, choose=None, **changes) -> Merge:
    """Settings of models that are given by their letters."""
    named = tuple(name_of(letter) for letter in sources)
    taken = named if choose is None else Pool(pool=named, choose=choose)
    return Merge(base=name_of("base"), sources=taken, **changes)


@st.composite
def merges(draw):
    """Settings of a merge space by their letters, such as are accepted."""
    known = sorted(METHODS.known)
    methods = tuple(draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True)))
    num_models = draw(st.integers(1, len(NAMES)))
    least = draw(st.integers(1, num_models))
    most = draw(st.integers(least, num_models))
    parameters = [one for method in methods for one in METHODS.facts(method).parameters]
    settings = {
        "sources": NAMES[:num_models],
        "method": draw(st.sampled_from([methods, methods[0]])),
        "choose": draw(st.sampled_from([None, least, (least, most)])),
        "layer_groups": draw(st.integers(1, LAYERS)),
        "layer_genes": draw(st.sampled_from(["block", "linear", "cosine"])),
        "filters": draw(st.sampled_from([(), ("mlp",), ("self_attn", "mlp")])),
        "bounds": {
            one.name: one.default_bounds
            for one in parameters
            if not one.searched and draw(st.booleans())
        },
    }
    try:
        settings_of(lambda name: name, **settings)
    except ValueError:
        assume(False)
    return settings


@st.composite
def genomes(draw, box):
    drawn = [
        draw(st.one_of(st.sampled_from([low, high]), st.floats(low, high, allow_nan=False)))
        for low, high in zip(box.lower, box.upper, strict=True)
    ]
    return box.repair(np.array(drawn))


def allowed_numbers(settings) -> tuple[int, int]:
    choose = settings["choose"]
    if choose is None:
        return len(settings["sources"]), len(settings["sources"])
    return (choose, choose) if isinstance(choose, int) else choose


def searched(method: str, bounds) -> dict[str, object]:
    return {
        one.name: one
        for one in METHODS.facts(method).parameters
        if one.searched or one.name in bounds
    }


@given(data=st.data())
def test_every_genome_in_the_box_is_a_recipe_that_its_method_accepts(space, data):
    settings = data.draw(merges())
    opened = space(**settings)
    genome = data.draw(genomes(opened.genes))
    recipe = opened.decode(genome)
    facts = METHODS.facts(recipe.method)
    least, most = allowed_numbers(settings)
    assert recipe.method in settings["method"]
    assert least <= len(recipe.sources) <= most
    assert facts.num_sources in (None, len(recipe.sources))
    assert len(recipe.sources) >= facts.least_sources
    letters = [Path(model).name for model in recipe.sources]
    assert letters == sorted(set(letters))
    assert recipe.num_layers == LAYERS
    expected = searched(recipe.method, settings["bounds"])
    for part in recipe.slices:
        assert [one.filter for one in part.settings] == [*settings["filters"], None]
        for setting in part.settings:
            assert set(setting.values) == set(expected)
            for name, values in setting.values.items():
                parameter = expected[name]
                count = len(recipe.sources) if parameter.per == "source" else 1
                assert len(values) == count
                low, high = settings["bounds"].get(name, parameter.default_bounds)
                assert all(low <= value <= high for value in values)
                assert all(parameter.accepts(value) for value in values)


@given(data=st.data())
def test_decoding_is_decided_by_the_genome(space, data):
    settings = data.draw(merges())
    one, other = space(**settings), space(**settings)
    genome = data.draw(genomes(one.genes))
    assert one.decode(genome).text() == other.decode(genome).text() == one.decode(genome).text()


def is_dormant(name: str, recipe, bounds) -> bool:
    """Whether a gene is about a model or a method that the recipe does not have."""
    if name == "method" or name.startswith("presence "):
        return False
    parameter, _, rest = name.partition(" ")
    if rest.startswith("("):  # a name that means different things to different methods
        methods, _, rest = rest[1:].partition(") ")
        if recipe.method not in methods.split(", "):
            return True
    known = METHODS.facts(recipe.method).parameter(parameter)
    if known is None or not is_searched(known, bounds, []):
        return True
    if known.per == "merge":
        return False
    return not rest.startswith(tuple(f"{model} " for model in recipe.sources))


@given(data=st.data())
def test_genes_of_what_was_not_chosen_are_dormant_and_make_no_difference(space, data):
    settings = data.draw(merges())
    opened = space(**settings)
    box = opened.genes
    genome, other = data.draw(genomes(box)), data.draw(genomes(box))
    recipe = opened.decode(genome)
    dormant = [is_dormant(name, recipe, settings["bounds"]) for name in box.names]
    assert [not one for one in box.active(genome)] == dormant
    mixed = tuple(
        theirs if sleeps else ours
        for sleeps, ours, theirs in zip(dormant, genome, other, strict=True)
    )
    assert box.repair(np.array(mixed)) == mixed
    assert opened.decode(mixed).digest() == recipe.digest()
    assert box.canonical(mixed) == box.canonical(genome)
    assert box.distance(mixed, genome) == 0.0


@given(data=st.data())
def test_repair_stays_in_the_box_and_what_is_repaired_is_a_recipe(space, data):
    opened = space(**data.draw(merges()))
    box = opened.genes
    wild = [data.draw(st.floats(-1e6, 1e6)) for _ in box.names]
    genome = box.repair(np.asarray(wild))
    assert all(
        low <= gene <= high for low, gene, high in zip(box.lower, genome, box.upper, strict=True)
    )
    assert opened.decode(genome).num_layers == LAYERS


@given(data=st.data())
def test_the_start_is_a_plain_merge_of_as_many_models_as_are_allowed(space, data):
    settings = data.draw(merges())
    opened = space(**settings)
    assert opened.genes.repair(np.asarray(opened.genes.start)) == opened.genes.start
    recipe = opened.decode(opened.genes.start)
    methods = settings["method"]
    assert recipe.method == (methods if isinstance(methods, str) else methods[0])
    facts = METHODS.facts(recipe.method)
    assert len(recipe.sources) == min(allowed_numbers(settings)[1], facts.num_sources or 9)
    for part in recipe.slices:
        for setting in part.settings:
            for name, values in setting.values.items():
                parameter = facts.parameter(name)
                low, high = settings["bounds"].get(name, parameter.default_bounds)
                plain = min(max(parameter.plain(len(recipe.sources)), low), high)
                assert values == pytest.approx([plain] * len(values))


def test_a_single_method_of_fixed_sources_has_the_genes_it_always_had(space, models):
    a, b = models["a"], models["b"]
    box = space(layer_groups=2, filters=("mlp",)).genes
    assert box.names[:6] == (
        f"weight {a} layers 0-1 mlp", f"weight {b} layers 0-1 mlp",
        f"density {a} layers 0-1 mlp", f"density {b} layers 0-1 mlp",
        f"weight {a} layers 0-1 rest", f"weight {b} layers 0-1 rest",
    )  # fmt: skip
    assert box.names[8] == f"weight {a} layers 2-4 mlp"
    assert len(box.names) == 16
    assert box.start == (0.5, 0.5, 1.0, 1.0) * 4


def test_recipes_are_the_ones_that_earlier_versions_stored(in_root):
    folder = "examples/models/"
    settings = Merge(
        base=folder + "base",
        sources=(folder + "a", folder + "b"),
        method="ties",
        layer_groups=4,
        filters=("self_attn", "mlp"),
        bounds={"weight": (-1.0, 2.0), "density": (0.1, 1.0)},
        dtype="float32",
    )
    opened = settings.open(7)
    genome = tuple(0.1 + 0.8 * gene / 47 for gene in range(48))
    assert opened.decode(genome).digest() == GOLDEN


#: By version 0.1, before a merge could have several methods.
GOLDEN = "aaa966460f0fe8f6cf8b3563e934aca1"


def test_a_parameter_that_is_given_bounds_gets_genes_and_one_that_is_fixed_has_none(space):
    plain = space(layer_groups=2).genes
    more = space(layer_groups=2, bounds={"lambda": (0.5, 1.5)})
    assert set(more.genes.names) - set(plain.names) == {
        "lambda layers 0-1 rest", "lambda layers 2-4 rest",
    }  # fmt: skip
    genome = tuple(0.75 if name.startswith("lambda") else 0.5 for name in more.genes.names)
    assert more.decode(genome).slices[1].settings[0].values["lambda"] == (0.75,)
    fewer = space(layer_groups=2, options={"density": 0.5, "lambda": 0.7})
    assert all(name.startswith("weight") for name in fewer.genes.names)
    recipe = fewer.decode(fewer.genes.start)
    assert recipe.options == {"density": 0.5, "lambda": 0.7}
    assert set(recipe.slices[0].settings[0].values) == {"weight"}


def test_the_method_gene_says_which_method_and_methods_share_what_they_share(space):
    opened = space(method=("ties", "linear", "slerp"), options={"normalize": False})
    box = opened.genes
    assert box.genes[0] == Categorical(name="method", choices=("ties", "linear", "slerp"))
    kinds = opened.describe()["genes_by_kind"]
    assert kinds == {"method": 1, "weight": 2, "density": 2, "t": 1}
    rest = box.start[1:]
    ties, linear, slerp = (opened.decode((float(place), *rest)) for place in range(3))
    assert [ties.method, linear.method, slerp.method] == ["ties", "linear", "slerp"]
    assert (linear.options, slerp.options) == ({"normalize": False}, {})
    assert ties.values("x")["weight"] == linear.values("x")["weight"]


def test_a_parameter_exists_where_its_method_has_it_and_a_models_where_the_model_takes_part(
    space, models
):
    opened = space("ab", ("ties", "linear", "slerp"), choose=(1, 2))
    a, b = models["a"], models["b"]
    when = {one.name.replace(" layers 0-4 rest", ""): one.when for one in opened.genes.genes}
    having = ("ties", "linear")
    assert when[f"weight {a}"] == {"method": having, f"presence {a}": (True,)}
    assert when[f"density {b}"] == {"method": ("ties",), f"presence {b}": (True,)}
    assert when["t"] == {"method": ("slerp",)}
    assert when["method"] == when[f"presence {a}"] == {}
    alone = space("ab", "ties").genes
    assert alone.is_real, "nothing is chosen, and nothing is dormant"


def test_a_method_of_two_models_always_has_two(space, models):
    opened = space("abcd", ("ties", "slerp"), choose=(1, 4))
    box = opened.genes
    assert [name.partition(" ")[0] for name in box.names[:5]] == ["method"] + ["presence"] * 4
    rest = box.start[5:]

    def taken(*head):
        genome = box.repair(np.array((*head, *rest)))
        return "".join(Path(one).name for one in opened.decode(genome).sources)

    assert taken(0, 1, 1, 1, 0) == "abc"
    assert {len(taken(1, *bits)) for bits in ((1, 1, 1, 0), (0, 0, 0, 0), (0, 1, 0, 0))} == {2}
    assert taken(1, 0, 1, 0, 1) == "bd"
    assert taken(1, 0.6, 0.9, 0.7, 0.1) == "bc", "before they are rounded the largest count"
    assert taken(1, 0.2, 0.1, 0.3, 0.0) == "ac"
    assert taken(0, 0.2, 0.1, 0.3, 0.0) == "c"


def test_where_every_method_takes_the_whole_pool_nothing_is_chosen(space):
    opened = space("ab", "slerp", choose=(1, 2))
    assert [name.partition(" ")[0] for name in opened.genes.names] == ["t"]
    with pytest.raises(ValueError, match="method: slerp has nothing to search here"):
        space("ab", "slerp", choose=(1, 2), options={"t": 0.5})


def test_a_pool_that_is_taken_whole_is_a_list_of_sources(space):
    listed, pooled = space("abc"), space("abc", choose=3)
    assert pooled.genes == listed.genes
    assert pooled.decode(pooled.genes.start).digest() == listed.decode(listed.genes.start).digest()


def test_the_references_are_the_base_every_model_and_the_mean_of_all(space, models):
    opened = space("abc", choose=(1, 2))
    names = [one.name for one in opened.references]
    assert names == [models["base"], *(models[name] for name in "abc"), "uniform merge"]
    assert opened.references[-1].recipe.sources == tuple(models[name] for name in "abc")
    assert set(opened.revisions) == {models[name] for name in ("base", *"abc")}


def test_one_knot_is_one_block(space):
    block, *others = (space(layer_genes=kind) for kind in ("block", "linear", "cosine"))
    genome = tuple(0.1 * (place + 1) for place in range(4))
    for other in others:
        assert other.genes == block.genes
        assert other.decode(genome).digest() == block.decode(genome).digest()


def test_neighbouring_layers_of_equal_values_share_a_slice(space):
    opened = space(layer_genes="linear", layer_groups=2, options={"density": 1.0})
    alike, rising = opened.decode((0.3, 0.4, 0.3, 0.4)), opened.decode((0.0, 0.4, 1.0, 0.4))
    assert [(part.start, part.stop) for part in alike.slices] == [(0, LAYERS)]
    weights = [part.settings[0].values["weight"] for part in rising.slices]
    assert weights == [(step / 4, 0.4) for step in range(5)]
    assert rising.values("model.embed_tokens.weight")["weight"][0] == 0.0
    assert rising.values("lm_head.weight")["weight"][0] == 1.0


def test_absent_models_do_not_split_layers_that_are_alike(space, models):
    opened = space("ab", "linear", choose=1, layer_genes="linear", layer_groups=2)
    names = opened.genes.names
    assert [name.split()[0] for name in names] == ["presence"] * 2 + ["weight"] * 4
    one, other = (
        opened.decode((1.0, 0.0, 0.5, 0.1, 0.5, 0.9)),
        opened.decode((1, 0, 0.5, 0, 0.5, 0)),
    )
    assert one.digest() == other.digest()
    assert [(part.start, part.stop) for part in one.slices] == [(0, LAYERS)]


def test_more_groups_than_layers_are_refused(space):
    with pytest.raises(ValueError, match="layer_groups: 6 groups of layers"):
        space(layer_groups=LAYERS + 1)


def test_vocabularies_that_differ_are_refused_unless_a_tokenizer_is_named(space, models):
    with pytest.raises(ModelError, match=r"sources: .*differ"):
        space(("a", "other"))
    base = space(("a", "other"), tokenizer="base")
    assert base.describe()["vocabulary"] == TOKENS
    assert base.decode(base.genes.start).tokenizer == "base"
    union = space(("a", "other"), tokenizer="union")
    assert union.describe()["vocabulary"] == TOKENS + 2


def test_the_size_of_a_merge_counts_the_tokens_of_all_models(space, models):
    base, union = (space(("a", "other"), tokenizer=kind) for kind in ("base", "union"))
    folder = Path(models["base"])
    with safe_open(folder / "model.safetensors", "np") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    rows = {name: shape for name, shape in shapes.items() if shape[0] == TOKENS}
    plain = sum(math.prod(shape) for shape in shapes.values())
    more = sum(2 * math.prod(shape[1:]) for shape in rows.values())
    assert more > 0
    for opened, size in ((base, plain), (union, plain + more)):
        recipe = opened.decode(opened.genes.start)
        assert opened.measures(recipe) == {"size": size, "layers": LAYERS}
    assert [one.name for one in base.references if one.is_base] == [models["base"]]
    assert [one.name for one in base.references if one.is_source] == [models["a"], models["other"]]


def test_every_recipe_has_the_tokens_of_all_models_whichever_it_takes(space, models):
    union = space(("a", "b", "other"), choose=(1, 2), tokenizer="union")
    everyone = tuple(models[name] for name in ("a", "b", "other", "base"))
    genome = tuple(
        float(name == f"presence {models['b']}") if name.startswith("presence") else 0.5
        for name in union.genes.names
    )
    assert union.genes.repair(np.array(genome)) == genome
    recipes = [union.decode(genome), *(one.recipe for one in union.references)]
    for recipe in recipes:
        assert (recipe.sources, recipe.tokenizer) == (everyone, "union")
    taken = [{part.sources for part in recipe.slices} for recipe in recipes]
    assert taken == [{(1,)}, {(3,)}, {(0,)}, {(1,)}, {(2,)}, {(0, 1, 2)}]


def test_a_tokenizer_that_is_not_needed_changes_nothing(space):
    plain, union, base = (space("ab", tokenizer=kind) for kind in (None, "union", "base"))
    genome = plain.genes.start
    assert plain.decode(genome).digest() == union.decode(genome).digest()
    assert plain.decode(genome).digest() == base.decode(genome).digest()


def test_other_widths_are_refused_even_where_vocabularies_may_differ(space, models, tmp_path):
    wide = write_model(tmp_path / "wide", [f"t{index}" for index in range(TOKENS)], 3, width=6)
    with pytest.raises(ModelError, match="differ in hidden_size"):
        Merge(base=models["base"], sources=(wide,), method="linear", tokenizer="union").open(1)


def test_the_chat_template_goes_into_every_recipe(space, models):
    opened = space("ab", chat_template=models["b"])
    recipes = [opened.decode(opened.genes.start), *(one.recipe for one in opened.references)]
    assert {one.chat_template for one in recipes} == {models["b"]}
    with pytest.raises(ValueError, match="chat_template: expected base, none or one of the models"):
        space("ab", chat_template=models["c"])


def test_the_description_says_what_is_searched(space, models):
    opened = space("abc", ("ties", "linear"), choose=(1, 2), layer_genes="cosine", layer_groups=3,
                   filters=("mlp", "experts"), bounds={"lambda": (0.0, 1.0)})  # fmt: skip
    found = opened.describe()
    assert found["genes"] == len(opened.genes.names)
    assert found["genes_by_kind"] == {
        "method": 1, "presence": 3, "weight": 27, "density": 27, "lambda": 9,
    }  # fmt: skip
    said = found["summary"]
    assert said["method"] == "ties or linear"
    assert said["sources"].startswith("1 to 2 of 3: ")
    assert said["layers"] == "3 knots at layers 0, 2, 4, cosine between them"
    assert "2 in a layer (1 mlp, 1 rest); 1 before, with the first (1 rest)" in said["tensors"]
    assert "none has 'experts' in its name" in said["tensors"]
    json.dumps(found)


def test_parameters_of_one_name_are_shared_where_their_ranges_are_the_same(space, models):
    apart = space("a", ("ties", "della"))
    a = models["a"]
    assert f"density (ties) {a} layers 0-4 rest" in apart.genes.names
    assert f"density (della) {a} layers 0-4 rest" in apart.genes.names
    shared = space("a", ("ties", "della"), bounds={"density": (0.3, 0.7)})
    assert shared.describe()["genes_by_kind"] == {
        "method": 1, "weight": 1, "density": 1, "epsilon": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_every_method_builds_what_a_random_genome_says(in_root):
    """The whole way: all methods in one space, over a pool, each built into a real model."""
    import torch

    methods = tuple(sorted(METHODS.known))
    pool = Pool(pool=tuple(f"examples/models/{name}" for name in ("base", "a", "b")), choose=(1, 3))
    settings = Merge(
        base=pool.pool[0], sources=pool, method=methods,
        layer_genes="cosine", layer_groups=2, bounds={"lambda": (0.5, 1.0)}, dtype="float32",
    )  # fmt: skip
    space = settings.open(3)
    builder = space.builder.open("cpu")
    built = {}
    for number, genome in enumerate(space.genes.sample(np.random.default_rng(1), len(methods))):
        recipe = space.decode(space.genes.repair(np.array([number, *genome[1:]])))
        model = builder.build(recipe).model
        built[recipe.method] = model.state_dict()["model.layers.1.mlp.up_proj.weight"].clone()
    assert tuple(built) == methods
    assert all(bool(torch.isfinite(one).all()) for one in built.values())
    assert len({one.double().sum().item() for one in built.values()}) > len(methods) // 2

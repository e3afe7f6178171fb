"""Lineages: the graph against merges done one by one in memory, and models kept on disk."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from workers.builders.lineage_settings import LineageSettings
from workers.builders.model_cache import ModelCache
from workers.builders.settings import MergeSettings
from workers.export import write_model
from workers.lineage import Cross, Cut, LineageRecipe, Mix, child_of
from workers.merging.workshop import NonFiniteWeightsError
from workers.models.library import ModelPolicy
from workers.models.order import forward_order
from workers.recipe import average, mean_of, plain_copy, read_recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture
def stored(models):
    return {
        name: {
            key: tensor.float()
            for key, tensor in load_file(models / name / "model.safetensors").items()
        }
        for name in ("base", "a", "b")
    }


@pytest.fixture
def founders(models):
    def make(dtype="float32"):
        base = str(models / "base")
        return {
            name: LineageRecipe(sources=(str(models / name),), base=base, dtype=dtype)
            for name in ("base", "a", "b")
        }

    return make


@pytest.fixture
def opened(models, tmp_path):
    """Opens builders whose models lie in one folder; each is closed at the end."""
    builders = []

    def make(dtype="float32", limit=1 << 30, folder="cache"):
        settings = LineageSettings(
            merge=MergeSettings(base=str(models / "base"), dtype=dtype),
            revisions={},
            cache_bytes=limit,
            cache_folder=str(tmp_path / folder),
        )
        builders.append(settings.open("cpu"))
        return builders[-1]

    yield make
    for builder in builders:
        builder.close()


def tensors(builder):
    state = builder.resident.model.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def cross(parents, weight, split, *, filters=((),), angle="part", sigma=0.0, seed=0):
    cuts = tuple(
        Cut(filters=one, weight=weight, split=split + 0.1 * place)
        for place, one in enumerate(filters)
    )
    return child_of(
        parents,
        lambda places: Cross(parents=places, cuts=cuts, angle=angle, sigma=sigma, seed=seed),
    )


def crossed(a, b, step, dtype):
    """The same in memory: whole vectors in float64, by the formula."""
    child = {name: tensor.to(dtype) for name, tensor in a.items()}
    left = forward_order(a)
    for cut in step.cuts:
        names = [n for n in left if not cut.filters or any(one in n for one in cut.filters)]
        left = [name for name in left if name not in names]
        x, y = (torch.cat([one[name].double().flatten() for name in names]) for one in (a, b))
        at = min(math.floor(cut.split * len(x)), len(x) - 1)
        made = torch.empty_like(x)
        for side, t in ((slice(0, at), cut.weight), (slice(at, None), 1 - cut.weight)):
            u, v = (x, y) if step.angle == "whole" else (x[side], y[side])
            norms = torch.linalg.norm(u) * torch.linalg.norm(v)
            angle = torch.acos((u @ v / norms).clamp(-1, 1)) if norms else torch.tensor(0.0)
            if not norms or abs(math.cos(angle)) > 0.9995:
                made[side] = (1 - t) * x[side] + t * y[side]
            else:
                first, second = torch.sin((1 - t) * angle), torch.sin(t * angle)
                made[side] = (first * x[side] + second * y[side]) / torch.sin(angle)
        for name, part in zip(names, made.split([a[name].numel() for name in names]), strict=True):
            child[name] = part.view(a[name].shape).to(dtype)
    return child


def built_in_memory(recipe, stored):
    dtype = DTYPES[recipe.dtype]
    nodes = [stored[Path(name).name] for name in recipe.sources]
    for step in recipe.steps:
        nodes.append(crossed(nodes[step.parents[0]], nodes[step.parents[1]], step, dtype))
    return {name: tensor.to(dtype) for name, tensor in nodes[-1].items()}


def family(founders, num, **how):
    """A lineage in which each child has an elder parent and the youngest one."""
    rng = np.random.default_rng(5)
    models = [founders["a"], founders["b"]]
    for _ in range(num):
        elder = models[int(rng.integers(len(models) - 1))]
        models.append(cross([models[-1], elder], *rng.random(2).tolist(), **how))
    return models


HOWS = {
    "whole": {},
    "whole angle": {"angle": "whole"},
    "attention": {"filters": (("self_attn",), ())},
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lineage_is_its_merges_done_one_by_one(opened, founders, stored, how, dtype):
    builder = opened(dtype)
    for recipe in family(founders(dtype), 4, **HOWS[how]):
        builder.build(recipe)
        expected = built_in_memory(recipe, stored)
        for name, tensor in tensors(builder).items():
            rtol = 1e-5 if dtype == "float32" else 2**-6
            torch.testing.assert_close(tensor, expected[name], rtol=rtol, atol=1e-6, msg=name)


def test_before_the_split_lies_the_weight_and_after_it_the_rest(opened, founders, stored):
    order = forward_order(stored["a"])
    sizes = np.cumsum([stored["a"][name].numel() for name in order])
    half = int(np.searchsorted(sizes, sizes[-1] / 2))
    builder = opened()
    split = float((sizes[half] + 0.5) / sizes[-1])
    builder.build(cross([founders()["a"], founders()["b"]], 0.0, split))
    found = tensors(builder)
    for place, name in enumerate(order):
        assert torch.equal(found[name], stored["a" if place <= half else "b"][name]), name


def test_tensors_follow_one_another_as_numbers_flow():
    layer = ("mlp.down_proj", "self_attn.o_proj", "mlp.gate_proj", "input_layernorm")
    layer += ("self_attn.q_proj", "post_attention_layernorm", "mlp.up_proj", "self_attn.v_proj")
    names = [f"model.layers.{n}.{one}.weight" for n in (10, 2) for one in layer]
    names += ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"]
    found = forward_order([*names, "model.layers.2.self_attn.q_proj.bias"])
    assert found[0] == "model.embed_tokens.weight"
    assert found[-2:] == ["model.norm.weight", "lm_head.weight"]
    assert [name.split(".")[2] for name in found[1:-2]] == ["2"] * 9 + ["10"] * 8
    assert [name.split(".")[-2:] for name in found[1:10]] == [
        ["input_layernorm", "weight"],
        ["q_proj", "weight"],
        ["q_proj", "bias"],
        ["v_proj", "weight"],
        ["o_proj", "weight"],
        ["post_attention_layernorm", "weight"],
        ["gate_proj", "weight"],
        ["up_proj", "weight"],
        ["down_proj", "weight"],
    ]


def test_a_model_as_it_is_and_merge_recipes_are_built_as_well(opened, founders, stored, models):
    builder = opened()
    uniform = average(
        [str(models / name) for name in "ab"], base=str(models / "base"), num_layers=4,
        dtype="float32",
    )  # fmt: skip
    for recipe, expected in (
        (founders()["b"], stored["b"]),
        (uniform, {n: (t + stored["b"][n]) / 2 for n, t in stored["a"].items()}),
        (founders()["a"], stored["a"]),
        (plain_copy(str(models / "b"), base=str(models / "base"), num_layers=4, dtype="float32"),
         stored["b"]),
    ):  # fmt: skip
        builder.build(recipe)
        for name, tensor in tensors(builder).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)


def test_the_mean_of_merges_is_the_mean_of_what_they_build(opened, stored, models):
    how = {"base": str(models / "base"), "num_layers": 4, "dtype": "float32"}
    uniform = average([str(models / name) for name in "ab"], **how)
    mean = mean_of([uniform, plain_copy(str(models / "b"), **how)], (0.25, 0.75))
    assert read_recipe(json.loads(mean.text())) == mean
    builder = opened()
    builder.build(mean)
    for name, tensor in tensors(builder).items():
        expected = 0.125 * stored["a"][name] + 0.875 * stored["b"][name]
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


def test_a_child_costs_one_merge_however_long_its_lineage(opened, founders):
    builder, costs = opened(), []
    for recipe in family(founders(), 12):
        before = builder.lineages.num_made
        builder.build(recipe)
        costs.append(builder.lineages.num_made - before)
    assert costs == [0, 0, *[1] * 12]


def test_an_emptied_cache_gives_the_same_weights_again(opened, founders):
    last = family(founders("bfloat16"), 9)[-1]
    one = opened("bfloat16")
    one.build(last)
    assert one.lineages.num_made == len(last.steps)
    other = opened("bfloat16", folder="elsewhere")
    other.build(last)
    assert other.lineages.num_made == len(last.steps)
    for name, tensor in tensors(one).items():
        assert torch.equal(tensor, tensors(other)[name])


def test_another_evaluator_of_the_node_uses_what_is_there(opened, founders):
    models = family(founders(), 6)
    opened().build(models[-1])
    other = opened()
    other.build(models[-1])
    assert other.lineages.num_made == 0
    other.build(cross([models[-1], models[3]], 0.3, 0.6))
    assert other.lineages.num_made == 1


def test_who_was_used_longest_ago_leaves_and_is_made_again(opened, founders, stored):
    size = sum(tensor.numel() * 4 for tensor in stored["a"].values())
    builder = opened(limit=int(3.5 * size))
    models = family(founders(), 8)
    for recipe in models:
        builder.build(recipe)
        found = list(builder._cache.folder.glob("*.safetensors"))
        assert sum(path.stat().st_size for path in found) <= 3.6 * size
    there = {path.stem for path in builder._cache.folder.glob("*.safetensors")}
    gone = next(one for one in models[2:] if one.node_digests({})[-1] not in there)
    before = builder.lineages.num_made
    builder.build(gone)
    assert builder.lineages.num_made > before
    expected = built_in_memory(gone, stored)
    for name, tensor in tensors(builder).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_a_cache_that_holds_nothing_still_builds(opened, founders, stored):
    builder, last = opened(limit=0), family(founders(), 5)[-1]
    builder.build(last)
    for name, tensor in tensors(builder).items():
        expected = built_in_memory(last, stored)[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


def test_a_damaged_file_is_made_again(opened, founders):
    builder = opened()
    recipe = family(founders(), 1)[-1]
    builder.build(recipe)
    (file,) = builder._cache.folder.glob("*.safetensors")
    expected = tensors(builder)
    file.write_bytes(file.read_bytes()[:1000])
    other = opened()
    other.build(recipe)
    assert other.lineages.num_made == 1
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(other).items())


def test_the_last_one_to_leave_removes_the_folder(opened):
    one, other = opened(), opened()
    folder = one._cache.folder
    one.close()
    assert folder.is_dir()
    other.close()
    assert not folder.exists()


def die(cache):
    """What the system does for a process that is killed, and no more."""
    _, _, (_, lock), _ = cache._leave.detach()
    os.close(lock)


def test_what_the_killed_left_behind_is_removed_by_who_comes_next(tmp_path):
    killed = ModelCache(tmp_path, "first", 1)
    (killed.folder / "making" / "half.safetensors").write_bytes(b"x")
    left = killed.folder / "left.safetensors"
    left.write_bytes(b"x")
    die(killed)
    same = ModelCache(tmp_path, "first", 1)
    assert left.exists(), "whoever goes on with the same has use for it"
    assert not list((same.folder / "making").iterdir())
    other = ModelCache(tmp_path, "second", 1)
    assert left.exists(), "someone uses it"
    die(same)
    other.close()
    another = ModelCache(tmp_path, "second", 1)
    assert list(tmp_path.iterdir()) == [another.folder]
    another.close()
    assert list(tmp_path.iterdir()) == []


def test_evaluators_may_come_and_go_at_any_moment(tmp_path):
    def come_and_go(_):
        for turn in range(60):
            cache = ModelCache(tmp_path, f"key {turn % 2}", 1)
            assert (cache.folder / "making").is_dir(), "nobody removes what someone uses"
            cache.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(4)))
    assert list(tmp_path.iterdir()) == []


def _build_in_process(settings, recipes, answers):
    torch.set_num_threads(1)
    builder = settings.open("cpu")
    found = []
    for recipe in recipes:
        builder.build(recipe)
        found.append({name: float(one.double().sum()) for name, one in tensors(builder).items()})
    answers.put((found, builder.lineages.num_made))
    builder.close()


@pytest.mark.slow
def test_several_processes_share_a_folder_and_agree(founders, models, tmp_path):
    size = 462_240 * 4
    settings = LineageSettings(
        merge=MergeSettings(base=str(models / "base"), dtype="float32"),
        revisions={},
        cache_bytes=4 * size,
        cache_folder=str(tmp_path / "cache"),
    )
    recipes, context = family(founders(), 12), multiprocessing.get_context("spawn")
    answers = context.Queue()
    orders = [recipes, recipes[::-1], recipes[3:] + recipes[:3]]
    processes = [
        context.Process(target=_build_in_process, args=(settings, one, answers)) for one in orders
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    sums = sorted(sorted(map(json.dumps, each)) for each, _ in found)
    assert sums[0] == sums[1] == sums[2]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_recipe_says_each_ancestor_once(founders):
    """Fibonacci's rabbits: paths to the founders grow exponentially, the recipe does not."""
    models = [founders()["a"], founders()["b"]]
    for number in range(60):
        models.append(cross(models[-2:], number / 60, 0.5))
    assert [len(one.steps) for one in models[2:]] == list(range(1, 61))
    assert len(models[-1].text()) < 60 * 120 + 1000
    assert models[-1].result == 61
    assert read_recipe(json.loads(models[-1].text())) == models[-1]
    assert models[-1].digest() == read_recipe(models[-1].as_dict()).digest()


def test_a_digest_is_the_same_whoever_computes_it():
    ours, theirs = (LineageRecipe(sources=(one,), base="m", dtype="float32") for one in "mn")
    child = cross([ours, theirs], 0.25, 0.5)
    assert child.digest() == "1dd24d2fa299bf8edfd817a16f6816e8"
    assert len({*child.node_digests({}), *child.node_digests({"m": "1"})}) == 5


def test_one_model_in_two_lineages_has_one_name(founders):
    models = family(founders(), 5)
    known = [one.node_digests({})[-1] for one in models]
    assert len(set(known)) == len(models)
    assert set(known) >= set(models[-1].node_digests({}))


def test_models_of_other_content_or_type_have_other_names(founders):
    recipe = family(founders(), 1)[-1]
    plain = recipe.node_digests({})[-1]
    assert recipe.node_digests({recipe.sources[0]: "1"})[-1] != plain
    assert replace(recipe, dtype="bfloat16").node_digests({})[-1] != plain


def test_lineages_that_cannot_be_are_refused(founders):
    a, b = founders()["a"], founders()["b"]
    with pytest.raises(ValueError, match="one model, got"):
        LineageRecipe(sources=("a", "b"), base="a", dtype="float32")
    with pytest.raises(ValueError, match=r"node 2 .* parents before it"):
        LineageRecipe(
            sources=("a", "b"),
            steps=(Cross(parents=(0, 2), cuts=(Cut(split=0.5, weight=0.5),)),),
            base="a",
            dtype="float32",
        )
    with pytest.raises(ValueError, match="one base, type and order"):
        cross([a, replace(b, dtype="bfloat16")], 0.5, 0.5)


def test_a_tensor_that_no_cut_has_is_named(opened, founders):
    child = cross([founders()["a"], founders()["b"]], 0.5, 0.5, filters=(("self_attn",),))
    with pytest.raises(ValueError, match=r"no cut for tensor 'model\.embed_tokens\.weight'"):
        opened().build(child)


def test_numbers_that_are_not_finite_are_found_out(opened, founders, copy_model, models):
    folder = copy_model("b")
    held = load_file(folder / "model.safetensors")
    held["model.norm.weight"][3] = math.inf
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    broken = replace(founders()["b"], sources=(str(folder),))
    builder = opened()
    with pytest.raises(NonFiniteWeightsError, match=r"model\.norm\.weight"):
        builder.build(cross([founders()["a"], broken], 0.5, 0.5))
    assert not list(builder._cache.folder.rglob("*.safetensors"))
    with pytest.raises(ValueError, match="the resident model float32"):
        builder.build(replace(founders()["a"], dtype="bfloat16"))


def test_noise_follows_from_the_recipe_and_is_as_large_as_it_says(opened, founders):
    a, b = founders()["a"], founders()["b"]
    one, other = opened(), opened(folder="elsewhere")
    one.build(cross([a, b], 0.4, 0.3))
    plain = tensors(one)
    for builder in (one, other):
        builder.build(cross([a, b], 0.4, 0.3, sigma=0.01, seed=5))
    noise = torch.cat([(tensors(one)[name] - plain[name]).flatten() for name in plain])
    assert float(noise.std()) == pytest.approx(0.01, rel=0.02)
    assert abs(float(noise.mean())) < 1e-4
    assert all(torch.equal(tensors(one)[name], tensors(other)[name]) for name in plain)
    one.build(cross([a, b], 0.4, 0.3, sigma=0.01, seed=6))
    assert not torch.allclose(
        tensors(one)["model.norm.weight"], tensors(other)["model.norm.weight"]
    )


def test_a_mix_is_the_mean_of_task_vectors_bent_along_their_directions(opened, founders, stored):
    a, b = founders()["a"], founders()["b"]
    plain = child_of([a, b], lambda places: Mix(parents=places, weights=(1.2, 0.8)))
    bent = child_of(
        [a, b], lambda places: Mix(parents=places, weights=(1.2, 0.8), factors=(0.7, 1.3), seed=9)
    )
    builder = opened()
    builder.build(plain)
    mean = {name: 0.6 * one + 0.4 * stored["b"][name] for name, one in stored["a"].items()}
    for name, tensor in tensors(builder).items():
        torch.testing.assert_close(tensor, mean[name], rtol=1e-4, atol=1e-6)
    builder.build(bent)
    found = tensors(builder)
    name = "model.layers.1.mlp.up_proj.weight"
    before, after = mean[name] - stored["base"][name], found[name] - stored["base"][name]
    u, s, vt = torch.linalg.svd(before.double(), full_matrices=False)
    scaled = u.T @ after.double() @ vt.T
    factors = torch.diagonal(scaled) / s
    assert float((scaled - torch.diag(torch.diagonal(scaled))).abs().max()) < 1e-4 * float(s[0])
    assert 0.69 < float(factors.min()) < 0.85
    assert 1.15 < float(factors.max()) < 1.31
    torch.testing.assert_close(found["model.norm.weight"], mean["model.norm.weight"])
    assert read_recipe(json.loads(bent.text())) == bent


def test_a_mix_may_be_of_one_model_or_of_many(opened, founders, stored):
    known = founders()
    builder = opened()
    shares = {"a": 0.5, "b": 0.3, "base": 0.2}
    builder.build(
        child_of(
            [known[name] for name in shares],
            lambda places: Mix(parents=places, weights=tuple(shares.values())),
        )
    )
    for name, tensor in tensors(builder).items():
        mean = sum(share * stored[one][name] for one, share in shares.items())
        torch.testing.assert_close(tensor, mean, rtol=1e-4, atol=1e-6)
    noisy = child_of([known["a"]], lambda places: Mix(parents=places, weights=(7.0,), sigma=0.01))
    builder.build(noisy)
    found = tensors(builder)
    noise = torch.cat([(found[name] - stored["a"][name]).flatten() for name in found])
    assert float(noise.std()) == pytest.approx(0.01, rel=0.02)
    with pytest.raises(ValueError, match="a weight for each parent, got 1 for 2"):
        Mix(parents=(0, 1), weights=(1.0,))


def test_what_is_drawn_is_the_same_wherever_the_models_lie(opened, founders, tmp_path):
    """A worker knows the content of its models by hashes, an export does not: both draw alike."""
    settings = LineageSettings(
        merge=MergeSettings(base=founders()["base"].base, dtype="float32"),
        revisions={one.base: "1" for one in founders().values()}
        | {founders()["a"].sources[0]: "2"},
        cache_bytes=1 << 30,
        cache_folder=str(tmp_path / "known"),
    )
    mutated = child_of(
        [founders()["a"], founders()["b"]],
        lambda places: Mix(
            parents=places, weights=(1.0, 1.0), factors=(0.0, 2.0), sigma=0.001, seed=3
        ),
    )
    builder = settings.open("cpu")
    builder.build(mutated)
    held = tensors(builder)
    builder.close()
    write_model(mutated, ModelPolicy(), tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(held[name], tensor) for name, tensor in written.items())


def test_an_exported_folder_holds_the_very_weights(opened, founders, tmp_path):
    recipe = family(founders("bfloat16"), 5)[-1]
    builder = opened("bfloat16")
    builder.build(recipe)
    write_model(recipe, ModelPolicy(), tmp_path / "out", shard_bytes=300_000)
    held = {}
    for file in (tmp_path / "out").glob("*.safetensors"):
        held |= load_file(file)
    built = tensors(builder)
    assert set(held) == set(built)
    assert all(torch.equal(held[name], built[name]) for name in built)
    assert json.loads((tmp_path / "out" / "recipe.json").read_text()) == recipe.as_dict()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "cache"}


def test_a_folder_of_another_user_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"shoal-{os.getuid() + 1}").mkdir()
    uid = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: uid + 1)
    with pytest.raises(ValueError, match="belongs to another user"):
        ModelCache(None, "key", 1)

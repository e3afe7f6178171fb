import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluators.base import Score, TaskScore
from workers import task_vectors
from workers.builders.settings import MergeSettings
from workers.prechecks import (
    WEIGHTS,
    LineFacts,
    as_dict,
    compare,
    describe,
    lines_between,
    walk,
    warnings,
)

NUM_LAYERS = 3


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, change):
    save_file(change(weights_of(folder)), folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def vector(folder):
    tensors = weights_of(folder)
    return torch.cat([tensors[name].double().reshape(-1) for name in sorted(tensors)])


@pytest.fixture
def trio(models):
    return [str(models / name) for name in ("base", "a", "b")]


def test_norms_angles_and_signs_are_those_of_the_whole_vectors(models, trio, monkeypatch):
    monkeypatch.setattr(task_vectors, "_BLOCK", 1000)  # so that tensors have several blocks
    base, *sources = trio
    found = compare(base, sources)
    origin, a, b = (vector(models / name) for name in ("base", "a", "b"))
    delta_a, delta_b = a - origin, b - origin
    assert found.entries == origin.numel()
    assert found.base_norm == pytest.approx(float(origin.norm()))
    for facts, delta, weights in zip(found.sources, (delta_a, delta_b), (a, b), strict=True):
        assert facts.norm == pytest.approx(float(delta.norm()))
        assert facts.relative_norm == pytest.approx(float(delta.norm() / origin.norm()))
        cosine = torch.cosine_similarity(weights, origin, dim=0)
        assert facts.similarity == pytest.approx(float(cosine))
        assert facts.moved == pytest.approx(float((delta != 0).double().mean()))
    (pair,) = found.pairs
    assert pair.sources == tuple(sources)
    assert pair.cosine == pytest.approx(float(torch.cosine_similarity(delta_a, delta_b, dim=0)))
    assert pair.norm_ratio == pytest.approx(float(delta_a.norm() / delta_b.norm()))
    assert pair.both_moved == pytest.approx(
        float(((delta_a != 0) & (delta_b != 0)).double().mean())
    )
    assert pair.conflicts == pytest.approx(float((delta_a * delta_b < 0).double().mean()))


def test_fine_tuned_models_of_one_base_give_no_warning(trio):
    base, *sources = trio
    found = compare(base, sources)
    assert warnings(found) == []
    assert found.duplicates == ()
    assert found.left_out == ()


def test_models_that_are_the_same_are_named(trio, copy_model):
    base, a, _ = trio
    again, idle = str(copy_model("a")), str(copy_model("base"))
    found = compare(base, [a, again, idle])
    assert set(found.duplicates) == {(base, idle), (a, again)}
    assert [pair.cosine for pair in found.pairs] == [pytest.approx(1.0), None, None]
    assert found.sources[2].moved == 0.0
    assert f"{a!r} and {again!r} are the same model" in warnings(found)
    json.dumps(as_dict(found), allow_nan=False)


def test_one_bit_tells_two_models_apart(trio, copy_model):
    def change(tensors):
        tensors["model.norm.weight"][0] += 1.0
        return tensors

    base, a, _ = trio
    found = compare(base, [a, rewrite(copy_model("a"), change)])
    assert found.duplicates == ()
    assert found.pairs[0].cosine > 0.9


def test_a_model_that_was_trained_apart_is_flagged(trio, copy_model):
    def start_anew(tensors):
        random = torch.Generator().manual_seed(1)
        return {
            name: torch.randn(one.shape, generator=random) * one.std() if one.dim() > 1 else one
            for name, one in tensors.items()
        }

    base, a, _ = trio
    stranger = rewrite(copy_model("a"), start_anew)
    (warning,) = (one for one in warnings(compare(base, [a, stranger])) if "come from" in one)
    assert warning.startswith(f"{stranger!r} does not seem to come from {base!r}")


def test_task_vectors_of_very_different_length_are_flagged(trio, models, copy_model):
    origin = weights_of(models / "base")

    def shorten(tensors):
        return {name: origin[name] + 0.05 * (one - origin[name]) for name, one in tensors.items()}

    base, a, _ = trio
    (warning,) = warnings(compare(base, [a, rewrite(copy_model("b"), shorten)]))
    assert "differ in length by a factor of 19" in warning


def test_tensors_of_another_shape_are_left_out_and_counted(trio, copy_model):
    def widen(tensors):
        rows = tensors["model.embed_tokens.weight"]
        return {**tensors, "model.embed_tokens.weight": torch.cat([rows, rows[:1]])}

    base, a, _ = trio
    wider = rewrite(copy_model("base"), widen)
    found = compare(base, [a, wider, str(copy_model("a"))])
    assert found.left_out == ("model.embed_tokens.weight",)
    assert [set(pair) & {base, wider} for pair in found.duplicates] == [set()]  # the two of a
    assert "not compared 1 tensors" in describe(found)


def test_models_that_have_nothing_in_common_are_refused(trio, copy_model):
    other = rewrite(copy_model("a"), lambda _: {"other": torch.zeros(2)})
    with pytest.raises(ValueError, match="share no tensor with"):
        compare(trio[0], [other])


def test_a_number_that_is_not_finite_is_named(trio, copy_model):
    def spoil(tensors):
        tensors["model.norm.weight"][3] = math.nan
        return tensors

    broken = rewrite(copy_model("b"), spoil)
    with pytest.raises(ValueError, match=r"'model\.norm\.weight' of '.*copy_of_b' holds numbers"):
        compare(trio[0], [trio[1], broken])


@pytest.fixture
def evaluate(models, root):
    """Scores recipes' models by the log-likelihood of right answers, and keeps what was asked."""
    builder = MergeSettings(base=str(models / "base"), dtype="float32").open("cpu")
    rows = (root / "examples/tasks/skill_a_search.jsonl").read_text().splitlines()[:8]
    documents = [json.loads(row) for row in rows]
    asked = []

    def score(recipe):
        asked.append(recipe)
        language = builder.build(recipe)
        found = []
        for document in documents:
            prompt, answer = (
                language.tokenizer(document[key], add_special_tokens=False)["input_ids"]
                for key in ("prompt", "answer")
            )
            with torch.inference_mode():
                logits = language.model(torch.tensor([prompt + answer])).logits[0]
            chances = logits[len(prompt) - 1 : -1].log_softmax(-1)
            found.append(float(chances[torch.arange(len(answer)), torch.tensor(answer)].sum()))
        mean = sum(found) / len(found)
        task = TaskScore(value=mean, stderr=None, documents=8, log_likelihoods=tuple(found))
        return Score(fitness=mean, tasks={"reverse": task})

    score.asked = asked
    return score


def test_five_points_are_measured_and_shared_ends_only_once(trio, evaluate):
    base, a, b = trio
    lines = walk(
        [(a, b), (base, a), (base, b)],
        evaluate,
        base=base,
        num_layers=NUM_LAYERS,
        dtype="float32",
    )
    assert len(evaluate.asked) == 3 + 3 * 3
    assert [line.models for line in lines] == [(a, b), (base, a), (base, b)]
    assert all(line.weights == WEIGHTS for line in lines)
    assert lines[0].losses[0] == lines[1].losses[-1]
    assert lines[0].losses[0] != lines[0].losses[-1]
    # the first skill is a's own: nobody else on these lines answers it better
    assert min(lines[1].losses) < lines[1].losses[0]
    assert lines[0].fitness == tuple(-loss for loss in lines[0].losses)


def test_a_model_with_its_neurons_in_another_order_is_behind_a_barrier(trio, copy_model, evaluate):
    def reorder(tensors):
        order = torch.randperm(
            tensors["model.layers.0.mlp.up_proj.weight"].shape[0],
            generator=torch.Generator().manual_seed(3),
        )
        for name in list(tensors):
            if ".mlp.gate_proj." in name or ".mlp.up_proj." in name:
                tensors[name] = tensors[name][order].contiguous()
            elif ".mlp.down_proj." in name:
                tensors[name] = tensors[name][:, order].contiguous()
        return tensors

    base, a, _ = trio
    twin = rewrite(copy_model("a"), reorder)
    (line,) = walk([(a, twin)], evaluate, base=base, num_layers=NUM_LAYERS, dtype="float32")
    assert line.losses[0] == pytest.approx(line.losses[-1], rel=1e-3)  # the same function
    assert line.barrier > 1.0
    assert line.is_worse_within
    found = compare(base, [a, twin])
    assert any("every point is worse" in one for one in warnings(found, [line]))
    assert any("barrier" in text for text in describe(found, [line]))


def test_a_barrier_is_the_rise_above_the_straight_line_between_the_ends():
    line = LineFacts(
        models=("a", "b"),
        weights=WEIGHTS,
        fitness=(0.0,) * 5,
        losses=(1.0, 2.5, 2.0, 4.0, 3.0),
    )
    assert line.barrier == pytest.approx(4.0 - (1.0 + 2.0 * 0.75))
    assert not line.is_worse_within
    assert replace(line, losses=(2.0, 1.5, 1.0, 1.5, 2.0)).barrier == 0.0
    assert replace(line, losses=()).barrier is None


def test_without_log_likelihoods_the_fitness_is_told(trio):
    def evaluate(recipe):
        weight = recipe.slices[0].settings[0].values["weight"][1]
        return Score(fitness=1.0 - 4 * weight * (1 - weight), tasks={})

    base, a, b = trio
    (line,) = walk([(a, b)], evaluate, base=base, num_layers=NUM_LAYERS, dtype="float32")
    assert line.losses == ()
    assert line.fitness == (1.0, 0.25, 0.0, 0.25, 1.0)
    assert line.is_worse_within
    text = "\n".join(describe(compare(base, [a, b]), [line]))
    assert "fitness 1.000 0.250 0.000 0.250 1.000" in text


def test_a_point_that_cannot_be_scored_is_named():
    def evaluate(_):
        raise ValueError("numbers that are not finite")

    with pytest.raises(ValueError, match="at 0 of the way 'a' to 'b': numbers that are not finite"):
        walk([("a", "b")], evaluate, base="a", num_layers=NUM_LAYERS, dtype="float32")


def test_few_sources_are_walked_in_pairs_and_many_from_the_base():
    assert lines_between("o", ["a"]) == [("o", "a")]
    assert lines_between("o", ["a", "b", "c"]) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert lines_between("o", list("abcd")) == [("o", one) for one in "abcd"]


def test_what_is_said_of_models_is_imported_without_torch():
    code = "import sys, workers.prechecks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

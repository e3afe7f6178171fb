"""Readers of weights: stored folders, in whichever files, and which reader a reference opens."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workers.models.library import ModelError, ModelPolicy, inspect
from workers.models.weights import StoredWeights, open_weights

STRICT = ModelPolicy()
PICKLES = ModelPolicy(allow_pickle=True)


def pickle_weights(folder, name="pytorch_model.bin", **options):
    torch.save(load_file(folder / "model.safetensors"), folder / name, **options)
    (folder / "model.safetensors").unlink()


def assert_same(reader, tensors):
    assert sorted(reader) == sorted(tensors)
    for name, tensor in tensors.items():
        assert name in reader
        found = reader.tensor(name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
        assert reader.facts(name) == (str(tensor.dtype)[6:], tuple(tensor.shape))


def test_a_folder_of_one_file_is_read_as_it_is(models):
    reader = open_weights(str(models / "a"))
    assert reader.reference == str(models / "a")
    assert_same(reader, load_file(models / "a" / "model.safetensors"))


def test_shards_are_read_as_one_model(copy_model, shard):
    folder = copy_model("a")
    tensors = load_file(folder / "model.safetensors")
    shard(folder, 3)
    assert_same(open_weights(str(folder)), tensors)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is mapped")
def test_tensors_are_views_of_the_file_that_take_no_memory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    big = torch.ones(8_000_000)
    save_file({"big": big, "small": torch.ones(2)}, tmp_path / "model.safetensors")
    reader = open_weights(str(tmp_path))
    place = reader.tensor("big").data_ptr()
    maps = Path("/proc/self/maps").read_text().splitlines()
    lines = [line.split() for line in maps if str(tmp_path) in line]
    spans = [[int(edge, 16) for edge in line[0].split("-")] for line in lines]
    assert any(start <= place < stop for start, stop in spans)
    assert reader.tensor("big") is reader.tensor("big")


def test_writing_to_a_view_by_mistake_leaves_the_file_alone(copy_model):
    folder = copy_model("a")
    before = (folder / "model.safetensors").read_bytes()
    open_weights(str(folder)).tensor("lm_head.weight").zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_facts_come_from_headers_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    tensors = {
        "half": torch.zeros(2, 3, dtype=torch.bfloat16),
        "eighth": torch.zeros(4, dtype=torch.float8_e4m3fn),
        "mask": torch.zeros(5, dtype=torch.bool),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    reader = open_weights(str(tmp_path))
    assert reader.facts("half") == ("bfloat16", (2, 3))
    assert reader.facts("eighth") == ("float8_e4m3fn", (4,))
    assert reader.facts("mask") == ("bool", (5,))


@pytest.mark.parametrize("ask", ["tensor", "facts"])
def test_an_absent_tensor_is_named_with_its_model(models, ask):
    reader = open_weights(str(models / "a"))
    assert "nothing.weight" not in reader
    with pytest.raises(ModelError, match=r"models/a' has no tensor 'nothing\.weight'"):
        getattr(reader, ask)("nothing.weight")


def test_a_folder_without_an_output_head_is_fine_where_it_is_tied(copy_model):
    folder = copy_model("a")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert "lm_head.weight" not in inspect(str(folder), STRICT).tensors
    assert_same(open_weights(str(folder)), tensors)


def test_damaged_files_are_refused_before_a_tensor_is_read(copy_model):
    folder = copy_model("a")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated"):
        open_weights(str(folder))


# --- pickles -------------------------------------------------------------------------------------


def test_pickles_are_refused_unless_they_are_allowed(copy_model):
    folder = copy_model("a")
    pickle_weights(folder)
    with pytest.raises(ModelError, match=r"space\.allow_pickle: true"):
        open_weights(str(folder), STRICT)


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "before torch 1.6"])
def test_pickled_weights_are_read_where_they_are_allowed(copy_model, is_archive):
    folder = copy_model("a")
    tensors = load_file(folder / "model.safetensors")
    pickle_weights(folder, _use_new_zipfile_serialization=is_archive)
    assert_same(open_weights(str(folder), PICKLES), tensors)


def test_a_tensor_in_two_pickles_is_refused(copy_model):
    folder = copy_model("a")
    pickle_weights(folder, "pytorch_model-00001-of-00002.bin")
    torch.save({"lm_head.weight": torch.ones(1)}, folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(ModelError, match=r"'lm_head\.weight' is in 'pytorch_model-00002.*another"):
        open_weights(str(folder), PICKLES)


class Bomb:
    """What a malicious pickle does: call something when it is read."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return (open, (str(self.touched), "w"))


def test_a_pickle_that_would_run_code_runs_none_even_where_pickles_are_allowed(
    copy_model, tmp_path
):
    folder = copy_model("a")
    (folder / "model.safetensors").unlink()
    touched = tmp_path / "touched"
    torch.save({"weight": Bomb(touched)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin cannot be read as tensors alone"):
        open_weights(str(folder), PICKLES)
    assert not touched.exists()


def test_a_bare_pickle_that_would_run_code_runs_none(copy_model, tmp_path):
    folder = copy_model("a")
    (folder / "model.safetensors").unlink()
    touched = tmp_path / "touched"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Bomb(touched)}, 2))
    with pytest.raises(ModelError, match="cannot be read as tensors alone"):
        open_weights(str(folder), PICKLES)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([torch.zeros(1)], "expected tensors by name, got list"),
        ({"state_dict": {"w": torch.zeros(1)}}, "got dict for 'state_dict'"),
        ({3: torch.zeros(1)}, "got Tensor for 3"),
    ],
)
def test_a_pickle_of_something_else_is_refused_with_what_it_holds(copy_model, held, message):
    folder = copy_model("a")
    (folder / "model.safetensors").unlink()
    torch.save(held, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=message):
        open_weights(str(folder), PICKLES)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"nonsense"])
def test_a_damaged_pickle_is_refused_by_name(copy_model, content):
    folder = copy_model("a")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin cannot be read"):
        open_weights(str(folder), PICKLES)


def test_a_pickled_folder_may_hold_what_a_trainer_leaves_beside_the_weights(copy_model):
    folder = copy_model("a")
    pickle_weights(folder)
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
    torch.save(Bomb(folder / "touched"), folder / "training_args.bin")
    assert "state" not in open_weights(str(folder), PICKLES)


def test_files_can_be_read_without_a_folder_s_rules(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "anything.safetensors")
    assert list(StoredWeights("mine", [tmp_path / "anything.safetensors"])) == ["w"]

"""Files laid out first and filled in place: what safetensors reads back is what was written."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from safetensors.torch import load_file

from workers.models.safetensors_file import read_header
from workers.models.safetensors_writer import index_of, num_bytes, open_shard, plan_shards

FACTS = {
    "b": ("bfloat16", (3, 5)),
    "a": ("float32", (7,)),
    "odd": ("uint8", (3,)),
    "wide": ("int64", (2, 2)),
    "nothing": ("float32", (0, 4)),
    "number": ("float32", ()),
}


def filled(name):
    kind, shape = FACTS[name]
    count = torch.Size(shape).numel()
    return (torch.arange(count) + len(name)).to(getattr(torch, kind)).view(shape)


def write(folder, shards):
    for shard in shards:
        with open_shard(folder, shard) as tensors:
            for name, tensor in tensors.items():
                tensor.copy_(filled(name))
            del tensor


def test_the_library_reads_back_what_was_written(tmp_path):
    write(tmp_path, plan_shards(FACTS))
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == FACTS.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, filled(name))
        assert tensor.dtype == getattr(torch, FACTS[name][0])


def test_the_header_says_what_ours_reads(tmp_path):
    write(tmp_path, plan_shards(FACTS))
    found = read_header(tmp_path / "model.safetensors")
    assert {name: shape for name, (_, shape) in found.items()} == {
        name: shape for name, (_, shape) in FACTS.items()
    }


def test_files_are_cut_at_the_limit_and_listed_in_an_index(tmp_path):
    shards = plan_shards(FACTS, shard_bytes=40)
    assert [list(shard.tensors) for shard in shards] == [
        ["b"], ["a", "odd"], ["wide", "nothing", "number"],
    ]  # fmt: skip
    assert shards[0].name == "model-00001-of-00003.safetensors"
    write(tmp_path, shards)
    index = index_of(shards)
    assert index["metadata"] == {"total_size": sum(num_bytes(facts) for facts in FACTS.values())}
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], filled(name))
    json.dumps(index)


def test_a_tensor_larger_than_a_file_may_be_has_a_file_of_its_own():
    facts = {"small": ("uint8", (4,)), "large": ("uint8", (100,)), "last": ("uint8", (4,))}
    names = [list(shard.tensors) for shard in plan_shards(facts, shard_bytes=50)]
    assert names == [["small"], ["large"], ["last"]]


def test_a_full_disk_is_an_error_before_anything_is_made(tmp_path, monkeypatch):
    def full(descriptor, start, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(OSError, match="No space left"),
        open_shard(tmp_path, plan_shards(FACTS)[0]),
    ):
        pytest.fail("tensors were given although the disk is full")

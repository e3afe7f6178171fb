"""Writes safetensors files whose tensors are made in place, in the file's own pages.

The format (https://github.com/huggingface/safetensors) is a JSON header and the tensors' bytes, so
a file can be laid out before any tensor is made. Each is then computed straight into the mapped
file: no copy of the model, not even of one tensor, is in the process's memory.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from workers.models.safetensors_file import DTYPES, TensorFacts

#: Bytes of one file, as the hub asks for.
SHARD_BYTES = 5_000_000_000
_SAFETENSORS = {torch_name: name for name, (_, torch_name) in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: its name and its tensors in the order of their bytes."""

    name: str
    tensors: Mapping[str, TensorFacts]


def plan_shards(tensors: Mapping[str, TensorFacts], shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Cuts tensors into files of at most `shard_bytes`; a larger tensor has a file of its own."""
    groups: list[dict[str, TensorFacts]] = [{}]
    held = 0
    for name, facts in tensors.items():
        size = num_bytes(facts)
        if groups[-1] and held + size > shard_bytes:
            groups.append({})
            held = 0
        groups[-1][name] = facts
        held += size
    if len(groups) == 1:
        return [Shard("model.safetensors", groups[0])]
    return [
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", group)
        for number, group in enumerate(groups, start=1)
    ]


def index_of(shards: Sequence[Shard]) -> dict[str, object]:
    """Returns what model.safetensors.index.json says of several files."""
    total = sum(num_bytes(facts) for shard in shards for facts in shard.tensors.values())
    places = {name: shard.name for shard in shards for name in shard.tensors}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}


@contextmanager
def open_shard(folder: Path, shard: Shard) -> Iterator[dict[str, torch.Tensor]]:
    """Makes a file and gives its tensors, to be written to until the block ends.

    Raises:
        OSError: if the disk has no room for the whole file; asked for before anything is made.
    """
    # Wide types first, so that every tensor starts at a multiple of its entries' size.
    ordered = sorted(shard.tensors.items(), key=lambda item: -_entry_bytes(item[1]))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places: dict[str, int] = {}
    end = 0
    for name, facts in ordered:
        places[name] = end
        end += num_bytes(facts)
        header[name] = {
            "dtype": _SAFETENSORS[facts[0]],
            "shape": list(facts[1]),
            "data_offsets": [places[name], end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    with (folder / shard.name).open("w+b") as file:
        # Blocks are taken now: a full disk is an error here, not a crash on writing a page.
        os.posix_fallocate(file.fileno(), 0, start + end)
        file.write(struct.pack("<Q", len(text)) + text)
        file.flush()
        with mmap.mmap(file.fileno(), start + end) as pages:
            tensors = {name: _tensor(pages, start + places[name], facts) for name, facts in ordered}
            yield tensors
            tensors.clear()  # a map cannot be closed while tensors look into it


def num_bytes(facts: TensorFacts) -> int:
    """Returns what a tensor takes in a file."""
    return prod(facts[1]) * _entry_bytes(facts)


def _entry_bytes(facts: TensorFacts) -> int:
    dtype: torch.dtype = getattr(torch, facts[0])
    return dtype.itemsize


def _tensor(pages: mmap.mmap, offset: int, facts: TensorFacts) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, facts[0])
    count = prod(facts[1])
    if count == 0:
        return torch.empty(facts[1], dtype=dtype)
    return torch.frombuffer(pages, dtype=dtype, count=count, offset=offset).view(facts[1])

"""What is stored in few bytes: genomes, recipes and other plain data."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

#: Fast, and within a few percent of the best: a recipe is mostly the digits of its numbers.
_COMPRESSION = 3


def pack_genome(genome: Sequence[float]) -> bytes:
    """Returns a genome's numbers as little-endian doubles: exactly what they were."""
    return struct.pack(f"<{len(genome)}d", *genome)


def unpack_genome(data: bytes) -> tuple[float, ...]:
    """Returns what `pack_genome` was given."""
    return struct.unpack(f"<{len(data) // 8}d", data)


def pack_json(data: Mapping[str, Any]) -> bytes:
    """Returns plain data as compressed JSON."""
    return pack_text(json.dumps(data, separators=(",", ":")))


def pack_text(text: str) -> bytes:
    """Returns JSON that is text already, compressed."""
    return zlib.compress(text.encode(), _COMPRESSION)


def unpack_json(data: bytes) -> Any:
    """Returns what `pack_json` was given."""
    return json.loads(zlib.decompress(data))

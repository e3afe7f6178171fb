"""What is stored in few bytes: per-document results, genomes and recipes."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_BITS, _HALVES, _FLOATS = b"b", b"h", b"f"
#: Below this a 16-bit float has fewer than its 11 digits; above the other it has none.
_HALF_RANGE = (2.0**-14, 65504.0)
#: Fast, and within a few percent of the best: a recipe is mostly the digits of its numbers.
_COMPRESSION = 3


def pack(values: Sequence[float]) -> bytes:
    """Returns per-document results as bytes: bits where all are 0 or 1, else 16-bit floats.

    Rounded to 11 binary digits (three decimal ones) if they are not bits, and to 32-bit floats
    where one of them lies outside the range of 16 bits.
    """
    array = np.asarray(values, dtype=np.float64)
    if bool(np.all((array == 0.0) | (array == 1.0))):
        bits = np.packbits(array.astype(np.uint8), bitorder="little")
        return _BITS + struct.pack("<I", len(array)) + bits.tobytes()
    size = np.abs(array[array != 0.0])
    if size.min() >= _HALF_RANGE[0] and size.max() <= _HALF_RANGE[1]:
        return _HALVES + array.astype("<f2").tobytes()
    return _FLOATS + array.astype("<f4").tobytes()


def unpack(data: bytes) -> tuple[float, ...]:
    """Returns what `pack` was given, rounded as it says.

    Raises:
        ValueError: if the data is not from `pack`.
    """
    kind, rest = data[:1], data[1:]
    if kind == _BITS:
        (count,) = struct.unpack("<I", rest[:4])
        bits = np.frombuffer(rest[4:], dtype=np.uint8)
        return tuple(np.unpackbits(bits, count=count, bitorder="little").astype(float).tolist())
    if kind in (_HALVES, _FLOATS):
        dtype = "<f2" if kind == _HALVES else "<f4"
        return tuple(np.frombuffer(rest, dtype=dtype).astype(float).tolist())
    raise ValueError(f"unknown packing {kind!r} of per-document results")


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

"""Per-document results in few bytes: bits where all are 0 or 1, else 32-bit floats."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

_BITS, _FLOATS = b"b", b"f"


def pack(values: Sequence[float]) -> bytes:
    """Returns the values as bytes; exact for 0 and 1, else rounded to float32."""
    if all(value in (0.0, 1.0) for value in values):
        bits = np.packbits(np.asarray(values, dtype=bool)).tobytes()
        return _BITS + struct.pack("<I", len(values)) + bits
    return _FLOATS + np.asarray(values, dtype="<f4").tobytes()


def unpack(data: bytes) -> tuple[float, ...]:
    """Returns what `pack` was given.

    Raises:
        ValueError: if the data is not from `pack`.
    """
    kind, rest = data[:1], data[1:]
    if kind == _BITS:
        (count,) = struct.unpack("<I", rest[:4])
        bits = np.unpackbits(np.frombuffer(rest[4:], dtype=np.uint8), count=count)
        return tuple(float(bit) for bit in bits)
    if kind == _FLOATS:
        return tuple(float(value) for value in np.frombuffer(rest, dtype="<f4"))
    raise ValueError(f"unknown packing {kind!r} of per-document results")

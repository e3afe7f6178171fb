"""Per-document results in few bytes: bits where all are 0 or 1, else 32-bit floats."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_BITS, _FLOATS = b"b", b"f"


def pack(values: Sequence[float]) -> bytes:
    """Returns the values as bytes; exact for 0 and 1, else rounded to float32."""
    count = len(values)
    if all(value in (0.0, 1.0) for value in values):
        bits = sum(1 << index for index, value in enumerate(values) if value)
        return _BITS + struct.pack("<I", count) + bits.to_bytes((count + 7) // 8, "little")
    return _FLOATS + struct.pack(f"<{count}f", *values)


def unpack(data: bytes) -> tuple[float, ...]:
    """Returns what `pack` was given.

    Raises:
        ValueError: if the data is not from `pack`.
    """
    kind, rest = data[:1], data[1:]
    if kind == _BITS:
        (count,) = struct.unpack("<I", rest[:4])
        bits = int.from_bytes(rest[4:], "little")
        return tuple(float(bits >> index & 1) for index in range(count))
    if kind == _FLOATS:
        return struct.unpack(f"<{len(rest) // 4}f", rest)
    raise ValueError(f"unknown packing {kind!r} of per-document results")

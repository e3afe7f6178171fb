"""Results of single documents in few bytes.

A campaign that is resumed sees what its store has, so that what a live run sees must be exactly
that: metrics are kept to the last bit, and log-likelihoods are rounded (`quantise`) where they
are measured, before anything is decided by them.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_BITS = b"b"
#: Code of a packing -> its numbers, the smallest first.
_KINDS = {b"h": "<f2", b"f": "<f4", b"d": "<f8"}
_ZERO_AND_ONE = (0.0, 1.0)

#: Magnitudes of log-likelihoods are told apart in so many steps from each power of two to the next.
_STEPS = 10
#: Power of two of the least magnitude but 0, in nats.
_LEAST = -10


def _magnitudes() -> tuple[float, ...]:
    """Returns what a byte may mean but for the sign: binary fractions, the same on any machine."""
    steps = [round(2.0 ** (step / _STEPS) * 1024) / 1024 for step in range(_STEPS)]
    return (0.0, *(steps[code % _STEPS] * 2.0 ** (_LEAST + code // _STEPS) for code in range(255)))


_MAGNITUDES = _magnitudes()
#: Byte -> log-likelihood in nats.
_LEVELS = (0.0, *(-one for one in _MAGNITUDES[1:]))
#: Bits of a double below the first ten of its fraction, which are all that rounding looks at.
_SHIFT = 42


def _table() -> tuple[int, NDArray[np.uint8]]:
    """Returns the first bits of the least magnitude that is told from zero, and bytes from there.

    A byte's magnitudes end halfway to the next one's, in the logarithm.
    """
    halfway = [math.sqrt(one * following) for one, following in pairwise(_MAGNITUDES[1:])]
    ends = np.array([2.0 ** (_LEAST - 1), *halfway])
    first, last = (int(one) for one in ends[[0, -1]].view(np.int64) >> _SHIFT)
    magnitudes = (np.arange(first, last + 2) << _SHIFT).view(np.float64)
    return first, np.searchsorted(ends, magnitudes, side="right").astype(np.uint8)


_FIRST, _TABLE = _table()


def quantise(log_likelihoods: Sequence[float]) -> tuple[float, ...]:
    """Returns log-likelihoods (nats) as a store can keep them, in one byte each.

    An evaluator calls this when it makes a `TaskScore`. Rounding again changes nothing. Between
    -42,000 and -0.001 nats the error is at most 3.6 %, nearer to zero at most 0.0005 nats; what
    lies below counts as -42,000, what lies above zero (by rounding) as 0.

    Raises:
        ValueError: if one is not a number.
    """
    return tuple(map(_LEVELS.__getitem__, _codes(log_likelihoods)))


def pack_log_likelihoods(log_likelihoods: Sequence[float]) -> bytes | None:
    """Returns log-likelihoods in at most a byte each; None if there are none.

    What `quantise` returned comes back exactly, anything else as `quantise` would have it.
    """
    if not log_likelihoods:
        return None
    # Huffman codes alone: there is nothing in the order of the documents to find.
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return deflate.compress(_codes(log_likelihoods)) + deflate.flush()


def unpack_log_likelihoods(data: bytes | None) -> tuple[float, ...]:
    """Returns what `pack_log_likelihoods` was given.

    Raises:
        ValueError: if the data is not from there.
    """
    if data is None:
        return ()
    try:
        codes = zlib.decompress(data, -15)
    except zlib.error as error:
        raise ValueError(f"unknown packing of log-likelihoods: {error}") from error
    return tuple(map(_LEVELS.__getitem__, codes))


def pack_values(values: Sequence[float]) -> bytes:
    """Returns metrics of documents as bytes, from which they come back to the last bit.

    A bit each where all are 0 or 1, else the shortest floats that hold every one of them.
    """
    array = _array(values)
    plain = ((array == 0.0) & ~np.signbit(array)) | (array == 1.0)
    if bool(plain.all()):
        bits = np.packbits(array.astype(np.uint8), bitorder="little")
        return _BITS + struct.pack("<I", len(array)) + bits.tobytes()
    for code, kind in _KINDS.items():
        with np.errstate(over="ignore"):
            packed = array.astype(kind)
        if np.array_equal(packed.astype(np.float64), array, equal_nan=True):
            return code + packed.tobytes()
    raise AssertionError("doubles hold all doubles")


def unpack_values(data: bytes) -> tuple[float, ...]:
    """Returns what `pack_values` was given.

    Raises:
        ValueError: if the data is not from there.
    """
    code, rest = data[:1], data[1:]
    if code == _BITS:
        (count,) = struct.unpack("<I", rest[:4])
        bits = np.frombuffer(rest[4:], dtype=np.uint8)
        unpacked = np.unpackbits(bits, count=count, bitorder="little")
        return tuple(map(_ZERO_AND_ONE.__getitem__, unpacked.tolist()))
    if code in _KINDS:
        return tuple(np.frombuffer(rest, dtype=_KINDS[code]).astype(float).tolist())
    raise ValueError(f"unknown packing {code!r} of documents' results")


def _codes(log_likelihoods: Sequence[float]) -> bytes:
    size = -_array(log_likelihoods)
    if bool(np.isnan(size).any()):
        raise ValueError("a log-likelihood must be a number, got nan")
    places = (size.view(np.int64) >> _SHIFT) - _FIRST
    return np.where(places < 0, 0, _TABLE.take(places, mode="clip")).astype(np.uint8).tobytes()


def _array(values: Sequence[float]) -> NDArray[np.float64]:
    return np.frombuffer(struct.pack(f"<{len(values)}d", *values), dtype="<f8")

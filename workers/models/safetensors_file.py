"""What a safetensors file declares, read without torch; damaged files are refused.

The format (https://huggingface.co/docs/safetensors, "Format"): eight bytes that hold the header's
length, a JSON header of name -> type, shape and place, then the numbers without holes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

#: A tensor's type and shape; the type as safetensors names it, or as torch does where it is said.
TensorFacts: TypeAlias = "tuple[str, tuple[int, ...]]"

#: Type as safetensors names it -> (bytes of a number, the type as torch names it).
DTYPES: Mapping[str, tuple[int, str]] = {
    "F64": (8, "float64"),
    "F32": (4, "float32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E4M3FNUZ": (1, "float8_e4m3fnuz"),
    "F8_E5M2": (1, "float8_e5m2"),
    "F8_E5M2FNUZ": (1, "float8_e5m2fnuz"),
    "F8_E8M0": (1, "float8_e8m0fnu"),
    "C64": (8, "complex64"),
    "I64": (8, "int64"),
    "I32": (4, "int32"),
    "I16": (2, "int16"),
    "I8": (1, "int8"),
    "U64": (8, "uint64"),
    "U32": (4, "uint32"),
    "U16": (2, "uint16"),
    "U8": (1, "uint8"),
    "BOOL": (1, "bool"),
}
#: The longest header that the safetensors library itself accepts.
_LONGEST_HEADER_BYTES = 100_000_000


class ModelError(ValueError):
    """A model folder that cannot be used; the message says which and what to do."""


def read_header(path: Path) -> dict[str, TensorFacts]:
    """Returns the tensors that a safetensors file declares: name -> (safetensors dtype, shape).

    Raises:
        ModelError: if the file is truncated, not safetensors, or contradicts itself.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            _check_length(path, length, size)
            header = json.loads(file.read(length), object_pairs_hook=_without_doubles)
        header.pop("__metadata__", None)
        places = {name: _place(entry) for name, entry in header.items()}
        tensors = {
            name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in header.items()
        }
    except ModelError:
        raise
    except (
        *(ValueError, KeyError, IndexError, TypeError, AttributeError),
        *(struct.error, RecursionError),
    ) as error:
        raise ModelError(f"{path} is no valid safetensors file: {error}") from error
    end = max((stop for _, stop in places.values()), default=0)
    if 8 + length + end != size:
        raise ModelError(
            f"{path} is truncated or damaged: its header promises {8 + length + end} bytes, "
            f"the file has {size}"
        )
    _check_places(path, places)
    for name, (kind, shape) in tensors.items():
        _check_size(path, name, kind, shape, places[name])
    return tensors


def _check_length(path: Path, length: int, size: int) -> None:
    if length > _LONGEST_HEADER_BYTES:
        raise ModelError(
            f"{path} is damaged or no safetensors file: its header would have {length} bytes, "
            f"at most {_LONGEST_HEADER_BYTES} are allowed"
        )
    if 8 + length > size:
        raise ModelError(
            f"{path} is truncated or damaged: its header alone has {8 + length} bytes, the file "
            f"has {size}"
        )


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON readers keep the last of equal keys; here a tensor may be declared once."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its header declares {twice!r} twice")
    return found


def _place(entry: Mapping[str, Any]) -> tuple[int, int]:
    start, stop = entry["data_offsets"]
    numbers = [start, stop, *entry["shape"]]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"shapes and offsets must be whole numbers from 0, got {numbers}")
    return start, stop


def _check_places(path: Path, places: Mapping[str, tuple[int, int]]) -> None:
    """Checks that tensors follow one another without overlap or hole."""
    edge, before = 0, "the header"
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        if start != edge or stop < start:
            raise ModelError(
                f"{path} is damaged: tensor {name!r} is said to take bytes {start} to {stop}, but "
                f"{before!r} ends at {edge}"
            )
        edge, before = stop, name


def _check_size(
    path: Path, name: str, kind: str, shape: tuple[int, ...], place: tuple[int, int]
) -> None:
    if kind not in DTYPES:
        raise ModelError(
            f"{path}: tensor {name!r} is of type {kind!r}, expected one of {', '.join(DTYPES)}"
        )
    needed = math.prod(shape) * DTYPES[kind][0]
    if place[1] - place[0] != needed:
        raise ModelError(
            f"{path} is damaged: tensor {name!r} ({kind}, shape {list(shape)}) needs {needed} "
            f"bytes, its header gives it {place[1] - place[0]}"
        )

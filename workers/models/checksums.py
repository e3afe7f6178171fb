"""Reads files for hashing, and compares them with the checksums that come with them.

Two kinds of folders say what their files should be: the hub's cache names large files by their
SHA-256 (`blobs/<64 hex digits>`, to which a snapshot's files are links), and some authors add a
`SHA256SUMS` file as the tool `sha256sum` writes it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Protocol

from workers.models.safetensors_file import ModelError

_SUMS = "SHA256SUMS"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...


def read_into(hasher: _Hasher, path: Path) -> None:
    """Feeds a file's bytes to a hasher, and checks them on the way where a checksum is known.

    Raises:
        ModelError: naming the file, the checksum expected and the one it has.
    """
    promised = _promised(path)
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            hasher.update(chunk)
            if promised:
                sha256.update(chunk)
    for where, expected in promised.items():
        if sha256.hexdigest() != expected:
            raise ModelError(
                f"{path} is damaged: {where} says that its SHA-256 is {expected}, it is "
                f"{sha256.hexdigest()}; fetch it again"
            )


def _promised(path: Path) -> dict[str, str]:
    """Returns what is said of a file: who says it -> SHA-256."""
    promised = {}
    real = path.resolve()
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        promised["its name in the hub's cache"] = real.name
    sums = path.parent / _SUMS
    if sums.is_file():
        listed = _read_sums(sums)
        if path.name in listed:
            promised[str(sums)] = listed[path.name]
    return promised


def _read_sums(path: Path) -> dict[str, str]:
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ModelError(
                f"{path}, line {number}: expected 64 hexadecimal digits, two blanks and a file's "
                f"name, got {line!r}"
            )
        sums[found[2]] = found[1].lower()
    return sums

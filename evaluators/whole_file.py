"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(to: Path) -> Iterator[Path]:
    """Gives a file to write that gets its name only once it is whole and on the disk."""
    part = to.with_name(f".{to.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(to)
        folder = os.open(to.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):  # what SQLite leaves beside a database
            part.with_name(part.name + ending).unlink(missing_ok=True)


@contextmanager
def whole_folder(to: Path) -> Iterator[Path]:
    """Gives a folder to fill that takes the place of `to` only once it is whole."""
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if to.exists():
            shutil.rmtree(to)
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

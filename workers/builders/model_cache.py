"""Models of a lineage on a node's disk: made once, mapped by all evaluators of the node.

A file's name is the hash of all that its weights depend on, so that whatever is there can be
trusted, whoever made it. Files appear whole or not at all. One that is taken away while it is read
stays readable to whoever has it mapped; it is made again when it is needed again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from workers.models.safetensors_file import ModelError, TensorFacts
from workers.models.safetensors_writer import Shard, num_bytes, open_shard
from workers.models.weights import Reader, StoredWeights

#: The file that everyone who uses a folder holds a lock on; the system frees it if they die.
_USERS = "users.lock"
#: Where files are until they are whole.
_MAKING = "making"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class ModelCache:
    """A folder of models that is shared by the processes of a node, and removed by the last one.

    Args:
        folder: Where it may lie; this user's own place among temporary files if None.
        key: What its models have in common; another key has another folder.
        limit_bytes: How much it may hold; who was used longest ago leaves first.
    """

    def __init__(self, folder: Path | None, key: str, limit_bytes: int) -> None:
        root = _own_root() if folder is None else folder
        root.mkdir(parents=True, exist_ok=True)
        self.folder = root / f"lineage-{key[:16]}-{_boot()}"
        self._limit_bytes = limit_bytes
        lock = _enter(self.folder)
        self._leave = weakref.finalize(self, _leave, self.folder, lock)
        for other in root.glob("lineage-*"):
            if other != self.folder:
                _remove_deserted(other)

    def get(self, digest: str) -> Reader | None:
        """Returns a model, or None if it has to be made."""
        path = self._path(digest)
        try:
            os.utime(path)  # used now: the last to leave
            return StoredWeights(digest, [path])
        except (FileNotFoundError, ModelError):
            return None

    def put(
        self,
        digest: str,
        tensors: Mapping[str, TensorFacts],
        make: Callable[[Mapping[str, torch.Tensor]], None],
    ) -> Reader:
        """Returns a model after it was made, straight into its file.

        Raises:
            OSError: if the disk has no room for it.
        """
        self._make_room(sum(map(num_bytes, tensors.values())))
        partial = self.folder / _MAKING / f"{digest}-{os.getpid()}.safetensors"
        try:
            with open_shard(partial.parent, Shard(partial.name, tensors)) as targets:
                make(targets)
            reader = StoredWeights(digest, [partial])  # mapped, wherever it is moved
            partial.replace(self._path(digest))
        finally:
            partial.unlink(missing_ok=True)
        return reader

    def close(self) -> None:
        """Leaves the folder; the last one removes it."""
        self._leave()

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"

    def _make_room(self, need_bytes: int) -> None:
        found = []
        for path in self.folder.glob("*.safetensors"):
            try:
                about = path.stat()
            except FileNotFoundError:
                continue  # another process was faster
            found.append((about.st_mtime_ns, about.st_size, path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held + need_bytes <= self._limit_bytes:
                return
            path.unlink(missing_ok=True)
            held -= size


def _own_root() -> Path:
    """Returns this user's folder among temporary files.

    Raises:
        ValueError: if it is another user's.
    """
    root = Path(tempfile.gettempdir()) / f"shoal-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise ValueError(f"{root} belongs to another user; set cache_folder to one of your own")
    return root


def _boot() -> str:
    """Returns what tells this start of the machine from others: a crash may leave torn files."""
    return _BOOT.read_text().strip()[:8] if _BOOT.exists() else "0"


def _enter(folder: Path) -> int:
    """Makes a folder and holds its lock together with others; returns the lock's descriptor."""
    while True:
        try:
            (folder / _MAKING).mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(folder / _USERS, os.O_RDWR | os.O_CREAT, 0o600)
        except (FileNotFoundError, FileExistsError):
            continue  # its last user is just removing it
        if _try_alone(lock) and _is_still(lock, folder / _USERS):
            for path in (folder / _MAKING).iterdir():
                path.unlink(missing_ok=True)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_still(lock, folder / _USERS):
            return lock
        os.close(lock)


def _try_alone(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(lock: int, path: Path) -> bool:
    try:
        return os.fstat(lock).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _leave(folder: Path, lock: int) -> None:
    try:
        if _try_alone(lock) and _is_still(lock, folder / _USERS):
            gone = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}-gone")
            folder.rename(gone)  # first: who comes now begins anew
            shutil.rmtree(gone, ignore_errors=True)
    finally:
        os.close(lock)


def _remove_deserted(folder: Path) -> None:
    """Removes a folder whose users have all gone without doing so."""
    try:
        lock = os.open(folder / _USERS, os.O_RDWR)
    except OSError:
        return
    _leave(folder, lock)

"""What a process does to itself before it runs code that nobody has read.

Namespaces that an ordinary user may make, so that no help of root's is needed: no network, no other
process to be seen or signalled, and a file system made of nothing but what is named here,
read-only but for an empty folder in memory that ends with the last process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluators.sandbox import calls

#: Who the code runs as: nobody, to whom no file belongs.
NOBODY = 65534
#: Programs and libraries, wherever Python itself lies.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
#: What libraries look up, and what tells nothing about the machine's owner.
_LOOKUPS = ("ld.so.cache", "localtime", "nsswitch.conf", "passwd", "group", "alternatives")
_DEVICES = ("null", "zero", "full", "random", "urandom")
#: Made by the walls themselves, so that nothing can be shown in their place.
_OURS = ("/", "/tmp", "/dev", "/proc", "/etc")  # noqa: S108
SCRATCH = "/tmp"  # noqa: S108  (in the sandbox's own file system)
_MOST_FILES = 10_000


def separate() -> None:
    """Leaves the machine's namespaces; the caller's next child is the first process of its own.

    Raises:
        OSError: if the kernel refuses.
    """
    calls.unshare(
        calls.CLONE_NEWUSER
        | calls.CLONE_NEWNS
        | calls.CLONE_NEWNET
        | calls.CLONE_NEWIPC
        | calls.CLONE_NEWPID
    )


def write_maps(process: int) -> None:
    """Says who a separated process is, for it may not do so itself; from outside its namespace.

    Root's process gets a second identity, nobody's, for limits do not hold for root.

    Raises:
        OSError: if the kernel refuses.
    """
    folder = Path(f"/proc/{process}")
    if os.geteuid() == 0:
        users = groups = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
    else:
        (folder / "setgroups").write_text("deny")
        users, groups = f"{NOBODY} {os.geteuid()} 1\n", f"{NOBODY} {os.getegid()} 1\n"
    (folder / "uid_map").write_text(users)
    (folder / "gid_map").write_text(groups)


def confine(limits: Any, readable: Iterable[str], writable: Iterable[str], *, keep: int) -> None:
    """Confines this process, the first of its namespace, and all that it will start.

    Args:
        limits: A `SandboxLimits`.
        readable: Folders and files to be seen, beside Python and the system's libraries.
        writable: Folders that may be written, in memory, and are empty but for folders.
        keep: The only file descriptor that stays open.

    Raises:
        OSError: if the kernel refuses any of it: nothing may be run then.
    """
    os.setsid()  # signals to the group must not reach those outside
    memory = _address_space() + limits.memory_bytes
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # before anybody else
    _build_root(limits.disk_bytes, [*shown(), *readable], writable)
    os.chdir(SCRATCH)
    os.umask(0o077)
    _close_all_but(keep)
    _limit(limits, memory)
    calls.bar_capabilities()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    calls.drop_capabilities()
    calls.die_with_parent(signal.SIGKILL)
    calls.filter_calls()
    os.environ.update(HOME=SCRATCH, TMPDIR=SCRATCH)
    tempfile.tempdir = None


def shown() -> list[str]:
    """Returns what is always shown: Python, its path, the system's programs and libraries."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    return [*_SYSTEM, *prefixes, *libraries, *sys.path]


def _build_root(disk_bytes: int, paths: Iterable[str], writable: Iterable[str]) -> None:
    """Replaces the file system by an empty one in memory in which only the paths are shown."""
    calls.mount("none", "/", flags=calls.MS_REC | calls.MS_PRIVATE)
    limit = f"mode=755,size={disk_bytes},nr_inodes={_MOST_FILES}"
    calls.mount("tmpfs", SCRATCH, "tmpfs", data=limit)
    old = Path(SCRATCH, "old")
    old.mkdir()
    calls.change_root(SCRATCH, str(old))
    os.chdir("/")
    for name in ("tmp", "dev", "proc", "etc"):
        Path("/", name).mkdir(mode=0o755)
    _mount_empty(SCRATCH, disk_bytes)
    for path in _outermost(paths):
        _show(path)
    for name in _LOOKUPS:
        _show(f"/etc/{name}")
    for name in _DEVICES:
        _show(f"/dev/{name}")
    scratch = [path for path in writable if Path("/old" + path).is_dir()]
    for path in scratch:
        Path(path).mkdir(parents=True, exist_ok=True)
        _mount_empty(path, disk_bytes)
        _copy_folders(path)
    Path("/dev/shm").symlink_to(SCRATCH)  # noqa: S108
    with contextlib.suppress(OSError):  # not within containers that hide parts of it
        calls.mount("proc", "/proc", "proc", calls.MS_NOSUID | calls.MS_NODEV, "subset=pid")
    calls.detach("/old")
    Path("/old").rmdir()
    attributes = calls.READ_ONLY | calls.NO_SUID | calls.NO_DEVICES
    calls.set_attributes("/", attributes, recursive=True)
    for name in _DEVICES:
        calls.set_attributes(f"/dev/{name}", 0, calls.NO_DEVICES)
    for path in (SCRATCH, *scratch):
        calls.set_attributes(path, 0, calls.READ_ONLY)


def _mount_empty(path: str, disk_bytes: int) -> None:
    limit = f"mode=777,size={disk_bytes},nr_inodes={_MOST_FILES}"
    calls.mount("tmpfs", path, "tmpfs", calls.MS_NOSUID | calls.MS_NODEV, limit)


def _copy_folders(path: str) -> None:
    """Makes the folders of the old root's folder again, for everybody to write."""
    for parent, folders, _ in os.walk("/old" + path):
        for name in folders:
            new = Path(parent.removeprefix("/old"), name)
            new.mkdir()
            new.chmod(0o777)


def _outermost(paths: Iterable[str]) -> list[str]:
    """Returns the paths that lie in none of the others, without those that are the walls' own."""
    real = {os.path.normpath(path) for path in paths if path.startswith("/")} - set(_OURS)
    return sorted(path for path in real if not any(str(up) in real for up in Path(path).parents))


def _show(path: str) -> None:
    """Binds a path of the old root into the new one; a symbolic link stays one."""
    old, new = Path("/old" + path), Path(path)
    if not (old.is_symlink() or os.path.lexists(old)):
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    if old.is_symlink():
        new.symlink_to(old.readlink())
        return
    if old.is_dir():
        new.mkdir()
    else:
        new.touch()
    calls.mount(str(old), path, flags=calls.MS_BIND | calls.MS_REC)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _close_all_but(keep: int) -> None:
    """Closes what was inherited; what is read is empty and what is printed is lost."""
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if keep > 3:
        os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 20)


def _limit(limits: Any, memory_bytes: int) -> None:
    seconds = int(limits.seconds) + 1
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))

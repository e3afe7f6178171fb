"""The kernel's doors that the sandbox uses and Python does not open: namespaces, mounts, filters.

Numbers and structures are those of Linux's headers (`linux/mount.h`, `linux/seccomp.h`,
`linux/filter.h`, `linux/capability.h`). Every call raises `OSError` with the call's name where the
kernel refuses.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
from typing import Any

#: Namespaces of a process's own: users, mounts, processes, network, System V memory.
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_ALL_NAMESPACES = 0x7E020000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
#: Attributes of a mount, for `set_attributes`.
READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_SETATTR = 442  # the same on every architecture
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 24, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any, label: str = "") -> int:
    result: int = getattr(_libc(), name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{label or name}: {os.strerror(number)}")
    return result


def unshare(namespaces: int) -> None:
    """Gives this process new namespaces; of processes, only its children will be in the new one."""
    _call("unshare", namespaces)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mounts a file system, or with `MS_BIND` a folder or file in a second place."""
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
        label=f"mount of {kind or source} at {target}",
    )


def detach(target: str) -> None:
    """Unmounts a tree now, though files in it may be open."""
    _call("umount2", target.encode(), MNT_DETACH)


def change_root(new: str, old: str) -> None:
    """Makes a mounted folder the root; the old root is then seen at `old`, within the new one."""
    _call("pivot_root", new.encode(), old.encode())


def set_attributes(target: str, on: int, off: int = 0, *, recursive: bool = False) -> None:
    """Sets and clears attributes of the mount at `target`, or of all mounts below it as well."""
    attributes = struct.pack("=4Q", on, off, 0, 0)
    _call(
        "syscall",
        _MOUNT_SETATTR,
        _AT_FDCWD,
        target.encode(),
        _AT_RECURSIVE if recursive else 0,
        attributes,
        ctypes.c_size_t(len(attributes)),
        label=f"mount_setattr of {target}",
    )


def die_with_parent(signal: int) -> None:
    """Asks for a signal when the process ends that this one was forked by."""
    _call("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal))


def bar_capabilities() -> None:
    """Bars this process, and what it executes, from gaining any power that it does not hold."""
    for capability in range(64):
        try:
            _call("prctl", _PR_CAPBSET_DROP, ctypes.c_ulong(capability))
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: past the last one that this kernel knows
                raise
            break


def drop_capabilities() -> None:
    """Gives up every power over its namespaces that this process holds."""
    _call("capset", struct.pack("=Ii", _CAPABILITY_VERSION, 0), struct.pack("=6I", *[0] * 6))


# --- A filter of system calls ------------------------------------------------------------------

#: machine -> (audit number, whether calls of a second kind must be refused, call -> number).
_MACHINES: dict[str, tuple[int, bool, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        True,
        {
            "socket": 41, "socketpair": 53, "clone": 56, "clone3": 435, "unshare": 272,
            "setns": 308, "mount": 165, "add_key": 248, "request_key": 249, "keyctl": 250,
            "io_uring_setup": 425, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
        },
    ),
    "aarch64": (
        0xC00000B7,
        False,
        {
            "socket": 198, "socketpair": 199, "clone": 220, "clone3": 435, "unshare": 97,
            "setns": 268, "mount": 40, "add_key": 217, "request_key": 218, "keyctl": 219,
            "io_uring_setup": 425, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
        },
    ),
}  # fmt: skip
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
#: Where the call's number, the machine and the lower half of the first argument are found.
_NUMBER, _MACHINE, _FIRST = 0, 4, 16
_SECOND_KIND = 0x40000000
_AF_UNIX = 1


def filter_calls() -> None:
    """Refuses system calls for good: sockets other than local ones, and new namespaces above all.

    Programs that are executed gain no power of their file's owner, either. An empty network
    namespace does not hold what is no part of it, such as sockets to a virtual machine's host.

    Raises:
        OSError: if the kernel takes no filters, or this machine's calls are not known here.
    """
    program = _program()
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(held))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3)
    _call("prctl", _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, label="seccomp")


def _program() -> list[tuple[int, int, int, int]]:
    """Returns the filter as (operation, steps if true, steps if false, operand)."""
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {platform.machine()!r}")
    audit, has_second_kind, calls = _MACHINES[platform.machine()]
    program = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, _NUMBER))
    if has_second_kind:
        program += [(_AT_LEAST, 0, 1, _SECOND_KIND), _refuse(errno.ENOSYS)]
    for name, number in calls.items():
        if name in ("socket", "socketpair"):
            test, refusal = (_EQUAL, 0, 1, _AF_UNIX), _refuse(errno.EAFNOSUPPORT)
            program += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST), test, _allow(), refusal]
        elif name == "clone":
            test, refusal = (_HAS_BITS, 0, 1, _ALL_NAMESPACES), _refuse(errno.EPERM)
            program += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST), test, refusal, _allow()]
        else:  # without clone3, whose arguments cannot be seen, programs use clone
            refusal = _refuse(errno.ENOSYS if name == "clone3" else errno.EPERM)
            program += [(_EQUAL, 0, 1, number), refusal]
    return [*program, _allow()]


def _refuse(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | number)


def _allow() -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ALLOW)

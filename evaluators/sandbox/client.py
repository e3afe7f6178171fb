"""Runs code that nobody has read, such as programs that a model wrote, where it can do no harm.

A `Sandbox` is a resident process that loads a handler once and forks a child for each call. The
child has no network, sees a read-only file system of Python and little else, and has limits on
time, memory, files and processes; what remains of it is killed with it. Where the kernel refuses
any of this nothing is run. `docs/security.md` says what is prevented and what is not.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

#: What a sandbox's process inherits; anything else may be a secret.
_INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "XDG_CACHE_HOME",
    "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE",
    "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip
#: One thread, which is all that survives a fork, and no accelerator.
_FIXED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
_START = (
    "import json, sys; path, requests, replies = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from evaluators.sandbox.server import serve; serve(requests, replies)"
)
#: What a call may take beyond its own limit before its process is given up.
_GRACE_S = 15.0
_TAIL_BYTES = 2000


class SandboxError(RuntimeError):
    """A call that gave no result: the message says why."""


class SandboxRefusedError(SandboxError):
    """The machine cannot confine code, so none is run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What one call may use."""

    #: Wall time and each process's CPU time, in seconds.
    seconds: float = 30.0
    #: Memory beyond what the loaded handler takes: of each process, and of all of them together.
    memory_bytes: int = 1 << 30
    #: Largest file.
    file_bytes: int = 16 << 20
    #: All files together, in each folder that can be written; they lie in memory.
    disk_bytes: int = 64 << 20
    #: Processes and threads at once.
    processes: int = 64
    #: Open files of one process.
    open_files: int = 256
    #: Longest result, as JSON.
    result_bytes: int = 16 << 20
    #: Time to load the handler, before any call.
    loading_seconds: float = 300.0


@dataclass(slots=True)
class _Server:
    """The resident process and the ends of its pipes."""

    process: subprocess.Popen[bytes]
    requests: int
    replies: int
    log: IO[bytes]

    def close(self) -> None:
        """Ends it, and what it runs: its watchers see it go."""
        for end in (self.requests, self.replies):
            os.close(end)
        self.process.kill()
        self.process.wait()
        self.log.close()


@dataclass(eq=False)
class Sandbox:
    """Calls a handler with code in it that is not trusted.

    `address` names a function ("package.module:function") that is called once, outside the walls,
    with `arguments` and returns the handler; `handler(payload)` then runs within them, in a child
    of its own for each call. Arguments, payloads and results are what JSON can hold.

    Raises:
        SandboxRefusedError: if this machine cannot confine code; nothing was loaded then.
        SandboxError: if the handler cannot be loaded.
    """

    address: str
    arguments: Any
    limits: SandboxLimits = field(default_factory=SandboxLimits, kw_only=True)
    #: Folders and files that calls may read, beside Python's own and those on its path.
    readable: Iterable[str] = field(default=(), kw_only=True)
    #: Folders that calls may write: each is empty but for the folders in it, and as it was again
    #: for the next call. Some metrics keep files in a cache, such as `evaluate`'s.
    writable: Iterable[str] = field(default=(), kw_only=True)
    #: Environment of the handler, beside what names the language, caches and programs.
    environment: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        self._turn = threading.Lock()
        self._server: _Server | None = None
        self._finalizer: weakref.finalize[..., Sandbox] | None = None
        with self._turn:
            self._start()

    def call(self, payload: Any, *, about: str) -> Any:
        """Returns what the handler returned for a payload.

        `about` begins the message of an error, such as "task 'x', document 3". A process that was
        lost is started anew by the next call.

        Raises:
            SandboxError: if the handler raised, was killed, or returned no plain data.
        """
        with self._turn:
            if self._server is None:
                self._start()
            wait = self.limits.seconds + _GRACE_S
            return self._ask(payload, about=about, seconds=wait)["result"]

    def close(self) -> None:
        """Ends the resident process; a later call would start another."""
        with self._turn:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        if sys.platform != "linux":
            raise SandboxRefusedError(
                f"generated code runs in a sandbox on Linux only, not on {sys.platform}: "
                "nothing was run"
            )
        their_requests, requests = os.pipe()
        replies, their_replies = os.pipe()
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        path = [str(Path(one).absolute()) for one in sys.path]
        start = json.dumps([path, their_requests, their_replies])
        log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        process = subprocess.Popen(  # noqa: S603  (our own module)
            [sys.executable, "-c", _START, start],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=kept | _FIXED | dict(self.environment),
            pass_fds=(their_requests, their_replies),
            start_new_session=True,
        )
        os.close(their_requests)
        os.close(their_replies)
        self._server = _Server(process, requests, replies, log)
        self._finalizer = weakref.finalize(self, self._server.close)
        opening = {
            "address": self.address,
            "arguments": self.arguments,
            "limits": asdict(self.limits),
            "readable": [str(Path(one).absolute()) for one in self.readable],
            "writable": [str(Path(one).absolute()) for one in self.writable],
        }
        self._ask(opening, about=self.address, seconds=self.limits.loading_seconds)

    def _ask(self, message: Any, *, about: str, seconds: float) -> dict[str, Any]:
        server = self._server
        assert server is not None
        sent = json.dumps(message).encode()
        try:
            send(server.requests, sent)
            reply = json.loads(receive(server.replies, seconds))
        except (EOFError, BrokenPipeError):
            cause = f"the sandbox's process was lost{_tail(server)}"
        except TimeoutError:
            cause = f"the sandbox gave no answer within {seconds:g} s and was ended"
        except (ValueError, RecursionError) as error:
            cause = f"what came back is no plain data: {error}"
        except BaseException:  # interrupted: the answer to come must not be taken for the next
            self._end()
            raise
        else:
            if "result" in reply:
                return dict(reply)
            if "refused" not in reply:
                raise SandboxError(f"{about}: {reply['error']}")
            self._end()
            raise SandboxRefusedError(_refusal(reply["refused"]))
        self._end()
        raise SandboxError(f"{about}: {cause}")

    def _end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._server = self._finalizer = None


def send(end: int, message: bytes) -> None:
    """Writes one message to a pipe: its length, then itself."""
    data = memoryview(struct.pack("=Q", len(message)) + message)
    while data:
        data = data[os.write(end, data) :]


def receive(end: int, seconds: float | None = None) -> bytes:
    """Reads one message from a pipe.

    Raises:
        EOFError: if the other side is gone.
        TimeoutError: if the message has not come in so many seconds.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    (length,) = struct.unpack("=Q", _read(end, 8, deadline))
    return _read(end, length, deadline)


def _read(end: int, count: int, deadline: float | None) -> bytes:
    data = bytearray()
    poll = select.poll()
    poll.register(end, select.POLLIN)
    while len(data) < count:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left):
            raise TimeoutError
        chunk = os.read(end, min(count - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def _tail(server: _Server) -> str:
    """Returns the end of what a lost process said, and how it ended."""
    try:
        code = server.process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return ""
    server.log.seek(0, os.SEEK_END)
    server.log.seek(max(0, server.log.tell() - _TAIL_BYTES))
    said = server.log.read().decode(errors="replace").strip()
    return f" (exit code {code})" + (f": {said}" if said else "")


def _refusal(reason: str) -> str:
    return (
        "generated code is refused, because this machine cannot confine it: "
        f"{reason}. It needs Linux 5.14 or newer and leave to make user namespaces "
        "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns; in a "
        "container, a seccomp profile that allows unshare and mount). Nothing was run"
    )

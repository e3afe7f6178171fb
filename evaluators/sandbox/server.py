"""The sandbox's resident process: loads a handler, and forks two processes for each call.

The *watcher* makes the namespaces and outlives what runs in them; its child is the first process
of the new namespace, confines itself and calls the handler. When that one ends, the kernel kills
all others in the namespace. When this process ends, or closes its end of a pipe, the watcher kills
the first process: nothing of a call survives it, whatever the call does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import secrets
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.sandbox import walls
from evaluators.sandbox.client import SandboxLimits, receive, send

#: How often memory is looked at.
_TICK_S = 0.02
#: How long a watcher may take to end before it is killed.
_PATIENCE_S = 5.0
_ERROR_CHARACTERS = 2000
#: Exit code of a watcher whose child ended with a code of its own.
_ENDED = 100


def serve(requests: int, replies: int) -> None:
    """Answers calls until the other side is gone."""
    for end in (requests, replies):
        os.set_inheritable(end, False)
    opening = json.loads(receive(requests))
    sandbox = _Walled(
        handler=lambda payload: payload,
        limits=SandboxLimits(**opening["limits"]),
        readable=tuple(opening["readable"]),
        writable=tuple(opening["writable"]),
        requests=requests,
    )
    reply = sandbox.run(None)  # what cannot be confined need not be loaded
    if "refused" not in reply:
        try:
            module, _, name = opening["address"].partition(":")
            sandbox.handler = getattr(importlib.import_module(module), name)(opening["arguments"])
            reply = {"result": None}
        except Exception:  # noqa: BLE001  (task code: it may raise what it likes)
            reply = {"error": "cannot be loaded: " + traceback.format_exc()[-_ERROR_CHARACTERS:]}
    send(replies, json.dumps(reply).encode())
    with contextlib.suppress(EOFError):
        while "result" in reply:
            payload = json.loads(receive(requests))
            send(replies, json.dumps(sandbox.run(payload)).encode())


@dataclass(slots=True)
class _Walled:
    """Calls a handler within the walls."""

    handler: Callable[[Any], Any]
    limits: SandboxLimits
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    #: Where calls come from: nobody waits for the answer any more when its other end is closed.
    requests: int

    def run(self, payload: Any) -> dict[str, Any]:
        """Returns `result`, or why there is none: `error`, or `refused` by the kernel."""
        token = secrets.token_hex(16).encode()
        result, result_end = os.pipe()
        ready, ready_end = os.pipe()
        life_end, life = os.pipe()
        watcher = os.fork()
        if watcher == 0:
            try:
                for end in (result, ready, life):
                    os.close(end)
                self._watch(payload, token, result_end, ready_end, life_end)
            finally:  # whatever happens, there is but one process that answers calls
                os._exit(_ENDED)
        for end in (result_end, ready_end, life_end):
            os.close(end)
        try:
            refusal = os.read(ready, 1000).decode().removeprefix("ready") or _admit(watcher, life)
            data, verdict = (b"", "") if refusal else self._supervise(watcher, result)
        finally:
            for end in (result, ready, life):
                os.close(end)
            status = _reap(watcher)
        return {"refused": refusal} if refusal else _judge(data, token, verdict, status)

    def _watch(self, payload: Any, token: bytes, result: int, ready: int, life: int) -> None:
        """Is the watcher: makes namespaces, forks the first process, kills it if asked to."""
        try:
            walls.separate()
        except OSError as error:
            os.write(ready, str(error.strerror).encode())
            return
        os.write(ready, b"ready")
        os.close(ready)
        if not os.read(life, 1):  # until it is said who this process is
            return
        first = os.fork()
        if first == 0:
            try:
                self._answer(payload, token, result)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(result)
        ended = os.pidfd_open(first)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(life, select.POLLIN)
        poll.poll()
        os.kill(first, signal.SIGKILL)
        _, status = os.waitpid(first, 0)
        code = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        os._exit(code if os.WIFSIGNALED(status) or code == 0 else _ENDED)

    def _answer(self, payload: Any, token: bytes, result: int) -> None:
        """Is the first process: goes behind the walls, calls the handler, writes the result."""
        try:
            walls.confine(self.limits, self.readable, self.writable, keep=result)
        except OSError as error:
            reply = json.dumps({"refused": str(error.strerror)})
        else:
            reply = _call(self.handler, payload)
        data = memoryview(token + reply.encode() + token)
        while data and os.getpid() == 1:  # else a copy of this process that the code made of it
            data = data[os.write(result, data) :]

    def _supervise(self, watcher: int, result: int) -> tuple[bytes, str]:
        """Returns what was written, and why the call must be ended, if it must."""
        deadline = time.monotonic() + self.limits.seconds
        most = _resident(os.getpid()) + self.limits.memory_bytes
        ended = os.pidfd_open(watcher)
        poll = select.poll()
        for end, events in ((result, select.POLLIN), (ended, select.POLLIN), (self.requests, 0)):
            poll.register(end, events)
        data, awaited = bytearray(), {result, ended}
        try:
            while awaited and (left := deadline - time.monotonic()) > 0:
                for end, _ in poll.poll(min(left, _TICK_S) * 1000):
                    if end == self.requests:
                        raise SystemExit
                    chunk = os.read(result, 1 << 16) if end == result else b""
                    data += chunk
                    if not chunk:
                        poll.unregister(end)
                        awaited.remove(end)
                if verdict := self._over(watcher, most, len(data)):
                    return b"", verdict
        finally:
            os.close(ended)
        late = f"took longer than {self.limits.seconds:g} s"
        return (b"", late) if awaited else (bytes(data), "")

    def _over(self, watcher: int, most: int, returned: int) -> str:
        """Returns which limit is passed, if one is."""
        if returned > self.limits.result_bytes:
            return f"returned more than {self.limits.result_bytes:,} bytes"
        if _takes_more(watcher, most):
            return f"took more than {self.limits.memory_bytes:,} bytes of memory"
        return ""


def _call(handler: Callable[[Any], Any], payload: Any) -> str:
    """Returns the reply as JSON."""
    try:
        return json.dumps({"result": handler(payload)}, default=_plain)
    except BaseException as error:  # noqa: BLE001  (exit() included)
        try:
            said = str(error)
        except Exception:  # noqa: BLE001  (an exception of the code's own making)
            said = "(its message raises, too)"
        return json.dumps({"error": f"{type(error).__name__}: {said}"[:_ERROR_CHARACTERS]})


def _plain(value: Any) -> Any:
    """Returns numpy's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected plain data as a result, got {type(value).__name__}")


def _admit(watcher: int, life: int) -> str:
    """Says who the watcher is and lets it go on; returns why that was refused."""
    try:
        walls.write_maps(watcher)
    except OSError as error:
        return f"user and group map: {error.strerror}"
    os.write(life, b"g")
    return ""


def _judge(data: bytes, token: bytes, verdict: str, status: int) -> dict[str, Any]:
    """Returns the call's reply; one that is not whole and in its wrapping is no reply."""
    if verdict:
        return {"error": f"the code {verdict} and was ended"}
    inner = data[len(token) : -len(token)]
    if data == token + inner + token:
        return dict(json.loads(inner))
    if data:
        return {"error": "the code wrote to where its result goes: there is none"}
    if 0 < status < _ENDED:
        return {"error": f"the code was ended by {signal.Signals(status).name}"}
    return {"error": "the code ended its process, there is no result"}


def _reap(watcher: int) -> int:
    """Waits for a watcher, which ends what it watches over first; returns its exit code."""
    poll = select.poll()
    ended = os.pidfd_open(watcher)
    poll.register(ended, select.POLLIN)
    if not poll.poll(_PATIENCE_S * 1000):
        os.kill(watcher, signal.SIGKILL)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(watcher, 0)[1])


def _takes_more(watcher: int, most: int) -> bool:
    """Whether the processes of a call take more memory than they may, all together."""
    below = list(_below(watcher))
    if sum(map(_resident, below)) <= most:
        return False
    return sum(map(_proportional, below)) > most


def _below(process: int) -> Iterator[int]:
    """Yields the processes that descend from one; those without a parent are adopted within."""
    with contextlib.suppress(OSError):
        for listed in Path(f"/proc/{process}/task").glob("*/children"):
            for child in listed.read_text().split():
                yield int(child)
                yield from _below(int(child))


def _resident(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:  # it has ended
        return 0
    return pages * resource.getpagesize()


def _proportional(process: int) -> int:
    """Returns a process's memory with its share of what it has in common with others."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        return 0
    return 0

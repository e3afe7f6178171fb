"""Wall time, CPU time and memory of a call or of a command, for `merge.py` and its peer.

Needs nothing but Python on Linux, so that both tools' environments can import it. Memory is said
twice: all of it, where the pages of memory-mapped model files count although the system may drop
them at any time, and anonymous memory alone, which is what a process really takes from others.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

Measured = dict[str, float]

_SAMPLE_S = 0.01


def call(work: Callable[[], Any]) -> Measured:
    """Runs something in this process.

    Returns:
        `wall_s`, `cpu_s`, and in MiB the peaks `rss` and `anonymous` while it ran, and the two
        before it began (`rss_before`, `anonymous_before`).
    """
    before = _memory("self")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    with _Watch("self") as watch:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        **watch.peaks,
        **{f"{name}_before": value for name, value in before.items()},
    }


def command(arguments: Sequence[str], **environment: str) -> Measured:
    """Runs a command, its output kept away.

    Returns:
        `wall_s`, `cpu_s`, and the peaks of memory in MiB, `rss` and `anonymous`.

    Raises:
        RuntimeError: It failed; the end of its output is in the message.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
        with _Watch(str(process.pid)) as watch:
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            end = output.read()[-2000:].decode(errors="replace")
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{end}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, **watch.peaks}


class _Watch:
    """Samples a process's memory while the block runs.

    Anonymous memory has no high-water mark of its own, so a peak shorter than a sample is missed.
    """

    def __init__(self, process: str) -> None:
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peaks = {"rss": 0.0, "anonymous": 0.0}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            ended = self._ended.is_set()  # asked first: one more look after the end
            for name, value in _memory(self._process, peak=True).items():
                self.peaks[name] = max(self.peaks[name], value)
            if ended:
                return
            self._ended.wait(_SAMPLE_S)


def _memory(process: str, *, peak: bool = False) -> dict[str, float]:
    """Returns a process's memory in MiB, nothing if it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = dict(re.findall(r"^(VmHWM|VmRSS|RssAnon):\s+(\d+) kB", text, re.MULTILINE))
    if "RssAnon" not in found:  # a zombie has no memory
        return {}
    rss = "VmHWM" if peak else "VmRSS"
    return {"rss": int(found[rss]) / 1024, "anonymous": int(found["RssAnon"]) / 1024}

"""Tells the stories of many seeds, in several processes, until one of them goes wrong."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections import Counter

from tests.simulation.story import simulate

#: Seeds between two lines that say how far it is.
_PROGRESS = 500


def tell(seed: int) -> tuple[int, str | None, Counter[str]]:
    """Returns the seed, what went wrong, and what befell on the way."""
    try:
        return seed, None, simulate(seed).befell
    except Exception as error:  # noqa: BLE001  (whatever it is, the seed must be named)
        what = "".join(traceback.format_exception_only(error)).strip()
        return seed, what, Counter()


def tell_many(first: int, number: int, jobs: int) -> int:
    """Tells stories until one goes wrong; returns the exit code."""
    started, befell = time.monotonic(), Counter[str]()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the others end with this process
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        signal.signal(signal.SIGINT, before)
        stories = pool.imap(tell, range(first, first + number), chunksize=10)
        for count, (seed, what, happened) in enumerate(stories, start=1):
            if what is not None:
                say(f"seed {seed}: {what}")
                return 1
            befell += happened
            if count % _PROGRESS == 0 or count == number:
                each_s = (time.monotonic() - started) / count
                say(f"{count} of {number} seeds, every law holds, {each_s:.3f} s each")
    for kind, times in befell.most_common():
        say(f"{times:9} {kind}")
    return 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

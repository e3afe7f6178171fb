"""Tells the stories of many seeds: `python -m tests.simulation --seeds 20000 --jobs 8`."""

from __future__ import annotations

import argparse
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
    # Interrupts are for this process alone; the others end with it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        signal.signal(signal.SIGINT, before)
        stories = pool.imap(tell, range(first, first + number), chunksize=10)
        for count, (seed, what, happened) in enumerate(stories, start=1):
            if what is not None:
                say(f"seed {seed}: {what}")
                return 1
            befell += happened
            if count % _PROGRESS == 0 or count == number:
                each = (time.monotonic() - started) / count
                say(f"{count} of {number} seeds, every law holds, {each:.3f} s each")
    for kind, times in befell.most_common():
        say(f"{times:9} {kind}")
    return 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many (300)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share them (1)")
    parser.add_argument("--only", type=int, help="a single seed, to look at it")
    parser.add_argument("--verbose", action="store_true", help="with --only: all that happens")
    arguments = parser.parse_args()
    if arguments.only is None:
        return tell_many(arguments.first, arguments.seeds, arguments.jobs)
    world = simulate(arguments.only, verbose=arguments.verbose)
    say(f"seed {arguments.only}: every law holds; {dict(world.befell)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

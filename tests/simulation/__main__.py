"""Tells the stories of many seeds: `python -m tests.simulation --seeds 20000 --jobs 8`."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.many import say, tell_many
from tests.simulation.story import simulate


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

"""How soon the quickstart's search finds what random search finds with ten times its budget.

    python benchmarks/quickstart.py [--seeds 1 2 3] [--folder runs/quickstart-budget]
        [--set KEY=VALUE ...] [--random-in-full]

Two campaigns a seed, one after the other, one evaluator each, both `examples/quickstart.yaml`
without its control: with the search that is shipped (`--set` changes that), and with
`search: {kind: random}` and ten times as many candidates. Run again, finished ones are only read.

Candidates of random search are raced, to save time: who has less than a chance in a thousand of
ending above the best so far, by a paired test, is measured no further, and only who was measured in
full counts (`--random-in-full` measures everybody so). Prints Markdown. Evaluations and fitness are
of the search rows; test rows were seen by the two winners alone. Medians come with an interval of
order statistics, means with Student's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from orchestrator.storage.reader import Reader

_CAMPAIGN = "examples/quickstart.yaml"
#: How many times the search's candidates random search gets.
_TIMES = 10
_RACE = "racing={kind: paired_t, survivors: 1, margin: 0, confidence: 0.999}"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a campaign found."""

    #: Best fitness on the search rows after each of its candidates.
    best: np.ndarray[Any, np.dtype[np.float64]]
    #: Fitness of the best candidate on the test rows.
    test: float

    def after(self, fitness: float) -> float:
        """Returns how many candidates were evaluated when one was so good; inf if none was."""
        return float(np.argmax(self.best >= fitness)) + 1 if self.best[-1] >= fitness else math.inf


def main() -> None:
    """Runs the campaigns and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--folder", type=Path, default=Path("runs/quickstart-budget"))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--random-in-full", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for seed in given.seeds:
        ours = _run(given.folder, "search", seed, given.overrides)
        budget = [
            "search={kind: random, population_size: 16}",
            f"budget={{evaluations: {_TIMES * len(ours.best)}}}",
            *([] if given.random_in_full else [_RACE]),
        ]
        pairs.append((ours, _run(given.folder, "random", seed, budget)))
    _print_each(given.seeds, pairs)
    _print_all(pairs)


def _run(folder: Path, kind: str, seed: int, overrides: Sequence[str]) -> Trace:
    name = f"{kind}-{seed}"
    store = f"{folder}/{name}.db"
    if not Path(store).exists() or Reader(store).status(name)["state"] != "finished":
        place = [f"name={name}", f"store={store}", f"output={folder}/{name}"]
        settings = [f"seed={seed}", "control=none", "cluster.address=inline", *overrides, *place]
        command = [sys.executable, "-m", "orchestrator.cli", "run", _CAMPAIGN]
        command += [word for one in settings for word in ("--set", one)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    reader = Reader(store)
    fitness = [
        -math.inf if is_out else found
        for role, _, found, is_out in reader.history(name)
        if role == "search"
    ]
    test = next(one.test_fitness for one in reader.best(name, 5) if one.role == "search")
    assert test is not None, "the best is measured on test rows when a campaign ends"
    return Trace(best=np.maximum.accumulate(fitness), test=test)


def _print_each(seeds: Sequence[int], pairs: Sequence[tuple[Trace, Trace]]) -> None:
    print(
        "| seed | random search's best, a tenth of its budget | its best, all of it | evaluations "
        "until the search has that | ratio | the search's best | test rows: random search | "
        "the search |\n| ---: |" + " ---: |" * 7
    )
    for seed, (ours, random) in zip(seeds, pairs, strict=True):
        tenth, goal, taken = random.best[len(ours.best) - 1], random.best[-1], _taken(ours, random)
        print(
            f"| {seed} | {tenth:.3f} | {goal:.3f} | {_number(taken, len(ours.best))} | "
            f"{_ratio(taken, random)} | {ours.best[-1]:.3f} | {random.test:.3f} | {ours.test:.3f} |"
        )


def _print_all(pairs: Sequence[tuple[Trace, Trace]]) -> None:
    ratios = [_taken(ours, random) / len(random.best) for ours, random in pairs]
    low, high, coverage = _middle(ratios)
    print(
        f"\nmedian ratio {statistics.median(ratios):.4f} [{low:.4f}, {high:.4f}] "
        f"({coverage:.1%} interval), target {1 / _TIMES:.4f}; reached in "
        f"{sum(math.isfinite(one) for one in ratios)} of {len(ratios)} seeds"
    )
    luckiest = max(float(random.best[-1]) for _, random in pairs)
    counts = [ours.after(luckiest) for ours, _ in pairs]
    total = sum(len(random.best) for _, random in pairs)
    reached = [one for one in counts if math.isfinite(one)]
    print(
        f"the best of all {total:,} random candidates, {luckiest:.3f}: reached in {len(reached)} "
        f"of {len(counts)} seeds, in the median after {statistics.median(counts):.0f} evaluations"
    )
    for name, values in (
        ("the search", [ours.test for ours, _ in pairs]),
        ("random search", [random.test for _, random in pairs]),
        ("the search over random search", [ours.test - random.test for ours, random in pairs]),
    ):
        print(f"fitness on test rows, {name}: {_mean(values)}")


def _taken(ours: Trace, random: Trace) -> float:
    return ours.after(float(random.best[-1]))


def _number(taken: float, budget: int) -> str:
    return f"{taken:.0f}" if math.isfinite(taken) else f"not in {budget}"


def _ratio(taken: float, random: Trace) -> str:
    return f"{taken / len(random.best):.3f}" if math.isfinite(taken) else "-"


def _middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the narrowest interval of order statistics that holds a median in 95%, or the range.

    The last number is how often it does, of any distribution.
    """
    num, out = len(values), 0
    while stats.binom.cdf(out + 1, num, 0.5) <= 0.025:
        out += 1
    ordered = sorted(values)
    return ordered[out], ordered[num - 1 - out], 1 - 2 * float(stats.binom.cdf(out, num, 0.5))


def _mean(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


if __name__ == "__main__":
    main()

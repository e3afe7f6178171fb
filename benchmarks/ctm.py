"""Continuous Thought Machines: whether they are what their paper defines, fast, and learn.

    python benchmarks/ctm.py conformance
    python benchmarks/ctm.py speed [--ticks 75] [--batch 32] [--repeats 5]
    python benchmarks/ctm.py gates --folder FOLDER [--seeds 1 2 3 4 5] [--cases pointers parity]
    python benchmarks/ctm.py baselines --folder FOLDER ...
    python benchmarks/ctm.py ablations --folder FOLDER ...
    python benchmarks/ctm.py mazes --folder FOLDER [--seeds 1 2 3] [--rounds 20]

Prints Markdown. Trainings are kept in the folder: a benchmark that was broken off goes on, several
may work in one folder, and finished trainings are only read.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ctm_checks
import torch
from ctm_runs import CASES, MODELS, Run, Runs
from scipy.stats import t as student

from evaluators.ctm.route_walking import reapplied

#: What is trained for each table.
TABLES: Mapping[str, Sequence[str]] = {
    "gates": ("machine", "one tick"),
    "baselines": ("machine", "LSTM", "feed-forward"),
    "ablations": ("machine", "no neuron models", "no synchronisation", "one tick"),
}
_GATED = ("automaton", "pointers", "parity", "sorting", "maze", "digits")
#: Tasks of each table unless others are named.
_USUAL: Mapping[str, Sequence[str]] = {
    "gates": _GATED,
    "baselines": _GATED,
    "ablations": ("pointers", "automaton", "maze"),
}


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("part", choices=["conformance", "speed", *TABLES, "mazes"])
    parser.add_argument("--folder", type=Path, default=Path("runs/ctm"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--cases", nargs="+", choices=CASES)
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--settings", nargs="+", choices=ctm_checks.SPEEDS, help="of speed")
    parser.add_argument("--ticks", type=int, default=75)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts: Mapping[str, Callable[[argparse.Namespace], None]] = {
        "conformance": print_conformance,
        "speed": print_speed,
        "mazes": print_mazes,
    }
    parts.get(given.part, print_trained)(given)


def print_conformance(_: argparse.Namespace) -> None:
    """Prints the greatest difference from the definition, part by part."""
    print("| part | float64 | float32 |\n| --- | ---: | ---: |")
    for name, double, single in ctm_checks.conformance():
        print(f"| {name} | {double:.1e} | {'-' if single is None else f'{single:.1e}'} |")


def print_speed(given: argparse.Namespace) -> None:
    """Prints CPU seconds of a step, ours and straightforward."""
    print(
        "| settings | batch, ticks | ours, s | straightforward, s | ratio | answers apart | "
        "gradients apart |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for name in given.settings or ctm_checks.SPEEDS:
        ours, plain, apart, steep = ctm_checks.speed(name, given.ticks, given.batch, given.repeats)
        first, second = statistics.median(ours), statistics.median(plain)
        print(
            f"| {name} | {given.batch}, {given.ticks} | {first:.2f} [{min(ours):.2f}, "
            f"{max(ours):.2f}] | {second:.2f} [{min(plain):.2f}, {max(plain):.2f}] | "
            f"{second / first:.2f} | {apart:.1e} | {steep:.1e} |",
            flush=True,
        )


def print_trained(given: argparse.Namespace) -> None:
    """Trains what is not there yet, and prints a line for each model of each task."""
    cases, runs = given.cases or _USUAL[given.part], Runs(given.folder)
    models = given.models or TABLES[given.part]
    for seed in given.seeds:
        for case in cases:
            for model in models:
                runs.need(case, model, seed)
    print(
        "| task | model | seeds | parameters | steps | CPU s | solved, median | each seed | "
        "positions | surer half ahead by | surest tick |\n| --- | --- | ---: |" + " ---: |" * 8
    )
    for case in cases:
        found = {model: _of(runs, case, model, given.seeds) for model in models}
        for model, ones in found.items():
            print(_line(case, model, ones))
    for case in cases:
        found = {model: _of(runs, case, model, given.seeds) for model in models}
        print("\n".join(_gates(case, found) if given.part == "gates" else _leads(case, found)))


def _of(runs: Runs, case: str, model: str, seeds: Sequence[int]) -> list[Run]:
    return [one for one in runs.all(case, model) if one.seed in seeds]


def _line(case: str, model: str, ones: Sequence[Run]) -> str:
    def middle(name: str) -> float:
        return float(statistics.median(one.found[name] for one in ones))

    each = ", ".join(f"{one.found['solved']:.3f}" for one in ones)
    steps = statistics.median(one.steps for one in ones)
    spent = statistics.median(one.cpu_s for one in ones)
    certain = "-" if case == "sorting" else f"{middle('certain_gain'):+.3f}"
    return (
        f"| {case} | {model} | {len(ones)} | {ones[0].parameters:,} | {steps:,.0f} | {spent:.0f} | "
        f"**{middle('solved'):.3f}** | {each} | {middle('positions'):.3f} | {certain} | "
        f"{middle('surest_tick'):.1f} |"
    )


def _gates(case: str, found: Mapping[str, Sequence[Run]]) -> list[str]:
    """Returns a line for each gate of a task, met or not."""
    solved = [one.found["solved"] for one in found["machine"]]
    middle = statistics.median(solved)
    gates = []
    if case in ("pointers", "automaton"):
        gates = [(f"median {middle:.3f} >= 0.80", middle >= 0.80)]
        control = [one.found["solved"] for one in found.get("one tick", [])]
        if control:
            lead = middle - statistics.median(control)
            gates += [
                (f"ahead of one tick by {lead:.3f} >= 0.20", lead >= 0.20),
                (f"best of one tick {max(control):.3f} <= 0.70", max(control) <= 0.70),
            ]
    elif case == "parity":
        good = sum(one >= 0.95 for one in solved)
        gates = [(f"{good} of {len(solved)} seeds >= 0.95", good >= 0.8 * len(solved))]
    elif case in ("sorting", "maze"):
        least = 0.60 if case == "sorting" else 0.30
        gates = [(f"median {middle:.3f} >= {least:.2f}", middle >= least)]
    if case != "sorting" and middle < 0.95:  # else there is nothing left to be certain of
        gain = statistics.median(one.found["certain_gain"] for one in found["machine"])
        gates.append((f"surer half ahead by {gain:+.3f} >= 0.05", gain >= 0.05))
    return [f"- {case}: {text}: {'met' if met else 'MISSED'}" for text, met in gates]


def _leads(case: str, found: Mapping[str, Sequence[Run]]) -> list[str]:
    """Returns how far the machine is ahead of each other model, seed by seed, with an interval."""
    own = {one.seed: one.found["solved"] for one in found["machine"]}
    lines = []
    for model, ones in found.items():
        ahead = [own[one.seed] - one.found["solved"] for one in ones if one.seed in own]
        if model == "machine" or len(ahead) < 2:
            continue
        mean, spread = statistics.mean(ahead), statistics.stdev(ahead) / math.sqrt(len(ahead))
        wide = float(student.ppf(0.975, len(ahead) - 1)) * spread
        lines.append(
            f"- {case}: the machine is ahead of {model} by {mean:+.3f} "
            f"[{mean - wide:+.3f}, {mean + wide:+.3f}]"
        )
    return lines


def print_mazes(given: argparse.Namespace) -> None:
    """Prints in how many mazes machines that were trained on small ones get to the goal."""
    runs, edges = Runs(given.folder), (7, 11, 15)
    print(
        "| machine | seed | "
        + " | ".join(f"{edge} x {edge}, once | {given.rounds} times" for edge in edges)
        + " |\n| --- | ---: |"
        + " ---: |" * 2 * len(edges)
    )
    for case in given.cases or ("maze", "maze, no code"):
        for seed in given.seeds:
            runs.need(case, "machine", seed)
            machine = runs.machine(case, "machine", seed)
            cells = [
                f"{reapplied(machine, edge=edge, num=500, rounds=rounds):.3f}"
                for edge in edges
                for rounds in (1, given.rounds)
            ]
            print(f"| {case} | {seed} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

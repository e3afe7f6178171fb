"""Search for machines beside random search, at equal steps of training.

    python benchmarks/ctm_search.py [--tasks automaton pointers parity maze] [--seeds 1 2 3]
        [--trials 24] [--folder runs/ctm_search] [--arms search generations]

Random search trains each of its machines to the end. The searches are genetic and race: successive
halving, asked after a third of the training and at its end. `search` breeds after each outcome,
`generations` after whole generations, the first of which has nobody to race against. All aim at the
share solved and half the log-likelihood of the right answers.

Each is a campaign by the command line, in a store of its own: what was broken off goes on, and
finished ones are only read. Afterwards the best of each is trained again with three fresh seeds:
what it then solves of test rows, which no search has seen, is what counts. Prints Markdown: what
each reached, at what share of random search's training the search first had random search's best,
and intervals of the differences over the seeds (Student's t).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy.stats import t as student

from evaluators.ctm.measures import examine
from evaluators.ctm.training import Training
from orchestrator import config
from orchestrator.spaces.base import SPACES
from orchestrator.storage.reader import Reader
from workers.ctm.machine import Machine
from workers.ctm.recipe import CtmRecipe

#: Stretches that each training is cut into.
_STRETCHES = 9
#: How often the best is trained once more, and by how much seeds then differ.
_AGAIN, _FRESH = 3, 1_000
_ROWS: Mapping[str, int] = {"search_rows": 512, "selection_rows": 512, "test_rows": 2048}
_RANGES: Mapping[str, Any] = {
    "neurons": [48, 96],
    "ticks": [1, 6],
    "memory": [1, 6],
    "hidden": [2, 16],
    "synapse_depth": 1,
    "paired": [8, 24],
    "pairs": [16, 256],
}
_ATTENDING: Mapping[str, Any] = {**_RANGES, "attention_width": [16, 32, 64]}
#: Spaces by name.
TASKS: Mapping[str, Mapping[str, Any]] = {
    "automaton": {
        "task": {"kind": "automaton", **_ROWS},
        "steps": 900,
        "ranges": _RANGES,
    },
    "pointers": {
        "task": {"kind": "pointers", "size": 6, **_ROWS},
        "steps": 540,
        "ranges": _ATTENDING,
    },
    "parity": {
        "task": {"kind": "parity", "length": 8, **_ROWS},
        "steps": 720,
        "ranges": _ATTENDING,
    },
    "maze": {
        "task": {"kind": "maze", "edge": 7, "moves": 10, "train_rows": 4000, **_ROWS},
        "steps": 540,
        "lookahead": 3,
        "ranges": _ATTENDING,
    },
}
#: Whole answers, and how likely the right ones are: that tells machines apart early, when none
#: has solved anything.
_METRICS = [{"name": "solved"}, {"name": "log_likelihood", "weight": 0.5}]
_HALVING = {"kind": "halving", "first_block": 3, "growth": 2, "eta": 3, "least": 4}
#: What is compared; random search comes first.
ARMS: Mapping[str, Mapping[str, Any]] = {
    "random": {"search": {"kind": "random"}},
    "search": {
        "search": {"kind": "genetic", "population_size": 5, "mode": "async"},
        "racing": _HALVING,
    },
    "generations": {
        "search": {"kind": "genetic", "population_size": 5},
        "racing": _HALVING,
    },
}


@dataclass(frozen=True, slots=True)
class Way:
    """How a campaign went, candidate by candidate as they ended."""

    #: Stretches spent until then, and what the candidate was worth; None if it was stopped.
    ends: Sequence[tuple[int, float | None]]
    #: Candidate ids in the same order.
    ids: Sequence[str]
    recipes: Mapping[str, CtmRecipe]

    def best(self, stretches: float) -> tuple[float, str]:
        """Returns the best of those that had ended by then, and its id."""
        known = [
            (worth, id_)
            for (spent, worth), id_ in zip(self.ends, self.ids, strict=True)
            if worth is not None and spent <= stretches
        ]
        return max(known, key=lambda one: one[0])

    def spent_at(self, worth: float) -> int | None:
        """Returns the stretches spent when somebody was first worth so much."""
        return next((s for s, found in self.ends if found is not None and found >= worth), None)


def main() -> None:
    """Runs what is not there yet, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS)[1:], default=["search"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--folder", type=Path, default=Path("runs/ctm_search"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    budget = given.trials * _STRETCHES
    for seed in given.seeds:
        for task in given.tasks:
            for arm in ("random", *given.arms):
                again(given.folder, task, arm, seed, budget)
    for arm in given.arms:
        print_arm(given, arm, budget)


def print_arm(given: argparse.Namespace, arm: str, budget: int) -> None:
    """Prints a search beside random search: a line each seed, then a line each task."""
    print(
        f"\n| task | seed | random's machines, median | random's best | {arm}'s best | trained "
        f"again: random's | {arm}'s | {arm} had random's best after |\n| --- |" + " ---: |" * 7
    )
    leads: dict[str, list[float]] = {task: [] for task in given.tasks}
    gains: dict[str, list[float]] = {task: [] for task in given.tasks}
    shares: dict[str, list[float]] = {task: [] for task in given.tasks}
    for task in given.tasks:
        for seed in given.seeds:
            ways = {name: read(given.folder, task, name, seed) for name in ("random", arm)}
            best = {name: way.best(budget)[0] for name, way in ways.items()}
            new = {name: again(given.folder, task, name, seed, budget) for name in ways}
            middle = statistics.median(
                worth for spent, worth in ways["random"].ends if worth is not None
            )
            spent = ways[arm].spent_at(best["random"])
            share = math.inf if spent is None or spent > budget else spent / budget
            leads[task].append(new[arm] - new["random"])
            gains[task].append(best[arm] - best["random"])
            shares[task].append(share)
            print(
                f"| {task} | {seed} | {middle:.3f} | {best['random']:.3f} | {best[arm]:.3f} | "
                f"{new['random']:.3f} | {new[arm]:.3f} | {share:.2f} |"
            )
    for task in given.tasks:
        print(
            f"- {task}: {arm} ahead on search rows {interval(gains[task])}, trained again on test "
            f"rows {interval(leads[task])}; share of training, median "
            f"{statistics.median(shares[task]):.2f}"
        )


def interval(values: Sequence[float]) -> str:
    """Returns a mean and its interval of 95%."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.3f}"
    wide = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values)
    wide /= math.sqrt(len(values))
    return f"{mean:+.3f} [{mean - wide:+.3f}, {mean + wide:+.3f}]"


def again(folder: Path, task: str, arm: str, seed: int, budget: int) -> float:
    """Returns what the best of a campaign solves of test rows, the mean over fresh seeds."""
    known = folder / "again.jsonl"
    name = f"{task}-{arm}-{seed}-{budget}"
    if known.exists():
        for line in known.read_text().splitlines():
            one = json.loads(line)
            if one["name"] == name:
                return float(one["solved"])
    run(folder, task, arm, seed, budget)
    way = read(folder, task, arm, seed)
    recipe = way.recipes[way.best(budget)[1]]
    seeds = [seed + _FRESH * number for number in range(1, _AGAIN + 1)]
    solved = statistics.mean(retrained(recipe, task, one) for one in seeds)
    with known.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"name": name, "solved": solved}) + "\n")
    return solved


def retrained(recipe: CtmRecipe, task: str, seed: int) -> float:
    """Trains a machine from other first weights on other batches; returns what it solves."""
    found = config.component(SPACES, {"kind": "ctm", **TASKS[task]})
    data = found.task.open()
    torch.manual_seed(seed)
    training = Training(
        Machine(recipe.network),
        data,
        found.task.judgement,
        replace(recipe.training, seed=seed),
        found.task.answer_phases,
    )
    training.until(recipe.training.steps)
    findings = examine(training.model, data.rows("test"), found.task.judgement)
    return float(findings.at_surest(findings.whole).double().mean())


def run(folder: Path, task: str, arm: str, seed: int, budget: int) -> None:
    """Runs a campaign until it has spent its budget, or reads that it has."""
    name = f"{task}-{arm}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    evaluations = budget // _STRETCHES * (1 if arm == "random" else 2)
    while not _has_spent(folder, task, arm, seed, budget):
        settings = {
            "name": name,
            "seed": seed,
            "space": {"kind": "ctm", **TASKS[task]},
            "evaluate": {"kind": "ctm", "stretches": _STRETCHES, "metrics": _METRICS},
            **ARMS[arm],
            "budget": {"evaluations": evaluations},
            "cluster": {"address": "inline"},
            "reuse": False,
            "store": str(folder / f"{name}.db"),
            "output": str(folder / name),
        }
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "orchestrator.cli", "run", str(file), "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        evaluations += 12


def _has_spent(folder: Path, task: str, arm: str, seed: int, budget: int) -> bool:
    if not (folder / f"{task}-{arm}-{seed}.db").exists():
        return False
    ends = read(folder, task, arm, seed).ends
    return bool(ends) and ends[-1][0] >= budget


def read(folder: Path, task: str, arm: str, seed: int) -> Way:
    """Reads how a campaign went: the search's candidates, not the references."""
    name = f"{task}-{arm}-{seed}"
    store = Reader(str(folder / f"{name}.db"))
    order = [id_ for role, id_, _, _ in store.history(name) if role == "search"]
    found = [store.candidate(name, id_) for id_ in order]
    ends: list[tuple[int, float | None]] = []
    spent = 0
    for one in found:
        spent += one.documents["search"] // len(_METRICS)  # each metric counts its stretches
        ends.append((spent, None if one.stopped else one.fitness))
    recipes = {one.id: CtmRecipe.from_dict(one.recipe) for one in found}
    return Way(ends, order, recipes)


if __name__ == "__main__":
    main()

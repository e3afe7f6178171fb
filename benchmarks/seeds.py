"""A campaign over several seeds: its best beside the references and random search, on test rows.

    python benchmarks/seeds.py examples/quickstart.yaml --seeds 7 8 9 [--set KEY=VALUE ...]

Each seed is a campaign NAME-SEED in its own store under runs/seeds/; run again, finished ones are
only read. Prints Markdown: one line a model, one column a seed, fitness on the test rows as a share
of the number of tasks (the mean accuracy, for accuracies of weight 1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from orchestrator import config


def main() -> None:
    """Runs the campaigns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    name = config.read(arguments.campaign, arguments.overrides).name
    results = {
        seed: _run(arguments.campaign, f"{name}-{seed}", [*arguments.overrides, f"seed={seed}"])
        for seed in arguments.seeds
    }
    _print(results)


def _run(campaign: Path, name: str, overrides: list[str]) -> dict[str, Any]:
    place = [f"name={name}", f"store=runs/seeds/{name}.db", f"output=runs/seeds/{name}"]
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(campaign), "--json"]
    for override in [*overrides, *place]:
        command += ["--set", override]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _print(results: dict[int, dict[str, Any]]) -> None:
    seeds = list(results)
    print("| model | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |")
    print("| --- |" + " ---: |" * (len(seeds) + 1))
    lines: dict[str, list[float]] = {}
    for result in results.values():
        for line in result["table"]:
            label = line["model"].partition(":")[0]
            value = line["test_fitness"]
            if value is not None:
                lines.setdefault(label, []).append(value / len(line["test"]))
    for label, values in lines.items():
        cells = " | ".join(f"{value:.3f}" for value in values)
        print(f"| {label} | {cells} | {statistics.mean(values):.3f} |")
    for result in results.values():
        counts = f"{result['evaluated']} candidates, {result['failed']} failed"
        best = result["table"][0]
        others = [line for line in result["table"][1:] if line["lead"] is not None]
        leads = ", ".join(
            f"{line['model'].partition(':')[0]} {line['lead']['difference']:+.3f} "
            f"[{line['lead']['interval'][0]:+.3f}, {line['lead']['interval'][1]:+.3f}]"
            for line in others
        )
        print(
            f"\n{result['campaign']}: {counts}, {result['elapsed_s']:.0f} s; {best['model']} leads "
            f"(sum of the tasks, 95% paired bootstrap): {leads}"
        )


if __name__ == "__main__":
    main()

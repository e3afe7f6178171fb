"""A search for machines that is killed in mid-training, and again, beside one that is left alone.

    python benchmarks/ctm_kills.py [--seeds 1 2 3] [--every 20] [--folder runs/ctm_kills]

Each seed's campaign runs twice in a process of its own: once through, and once with SIGKILL each so
many seconds, until it ends. Prints Markdown: kills, whether the tables of the
reports and all candidates' scores are the same, and whether the winners' weights are, byte by byte.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from orchestrator.storage.reader import Reader

_SETTINGS: dict[str, Any] = {
    "space": {
        "kind": "ctm",
        "task": {"kind": "parity", "length": 6},
        "steps": 450,
        "ranges": {"neurons": [32, 64], "ticks": [1, 8], "synapse_depth": 1, "pairs": [16, 64]},
    },
    "search": {"kind": "genetic", "population_size": 6},
    "evaluate": {"kind": "ctm"},
    "racing": {"kind": "halving", "first_block": 1, "growth": 2, "eta": 3, "least": 4},
    "budget": {"generations": 3},
    "cluster": {"address": "inline"},
    "reuse": False,
}


def main() -> None:
    """Runs the campaigns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/ctm_kills"))
    given = parser.parse_args()
    print(
        "| seed | candidates | kills | same table | same candidates and scores | same weights |\n"
        "| ---: | ---: | ---: | --- | --- | --- |"
    )
    for seed in given.seeds:
        shutil.rmtree(given.folder / str(seed), ignore_errors=True)
        whole, _ = run(given.folder / str(seed) / "whole", seed, None)
        broken, kills = run(given.folder / str(seed) / "broken", seed, given.every)
        same = [one == other for one, other in zip(whole, broken, strict=True)]
        words = " | ".join("yes" if one else "NO" for one in same)
        print(f"| {seed} | {len(whole[1])} | {kills} | {words} |", flush=True)


def run(folder: Path, seed: int, every: float | None) -> tuple[tuple[Any, Any, bytes], int]:
    """Runs a campaign to its end; returns its table, its candidates and its weights, and kills."""
    folder.mkdir(parents=True)
    place: dict[str, Any] = {
        "name": "killed",
        "seed": seed,
        "store": f"{folder}/shoal.db",
        "output": f"{folder}/of",
    }
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump({**_SETTINGS, **place}))
    kills, said = 0, run_for(file, every)
    while said is None:
        kills += 1
        said = run_for(file, every)
    table = [
        {name: one[name] for name in ("model", "search_fitness", "test_fitness")}
        for one in json.loads(said)["table"]
    ]
    store = Reader(place["store"])
    found = [store.candidate("killed", id_) for _, id_, _, _ in store.history("killed")]
    scores = {one.id: (one.genome, one.fitness, one.stopped, one.fidelity) for one in found}
    return (table, scores, (folder / "of/best/model.safetensors").read_bytes()), kills


def run_for(file: Path, seconds: float | None) -> str | None:
    """Runs a campaign, or goes on; None if it was killed after some seconds, else what it said."""
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(file), "--json"]
    try:
        # Who is out of time is sent SIGKILL.
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    return ended.stdout


if __name__ == "__main__":
    main()

"""Shoal's merges beside mergekit's: the same numbers, how fast, and in how much memory.

    python benchmarks/merge.py --peer-python PEER/bin/python --models FOLDER [--only equality ...]

PEER is an environment with mergekit (see `merge_peer.py`); FOLDER, on the disk to measure, receives
the models of `merge_models.py`, about 1.1 GB. Sections:

- `equality`: every recipe of `merge_recipes.py` on three small architectures. Ours computes in
  float32 and rounds once; mergekit runs twice, so told (`dtype: float32`), and with the sources'
  bfloat16, in which most of its methods then compute.
- `memory`: a 135M-parameter model merged again with other weights, sources open and the model
  resident, beside a copy of as many bytes taken right before and after; then again with other
  weights for one of ten groups of layers only. `of a copy` is the bandwidth reached, every source
  read and the model written once, as a share of the copy's, which reads and writes one model.
  mergekit's nearest equivalent reads the sources anew each time and keeps the tensors in memory.
- `command`: the two command lines from and to the disk, start included: wall time, CPU time, peaks
  of all memory and of anonymous memory.

Times depend on the machine and its neighbours: compare within a run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import merge_equality
import merge_measure
import merge_models
import merge_ours
import merge_recipes
import torch
import yaml
from safetensors.torch import load_file

SECTIONS = ("equality", "memory", "command")
SMALL = ("llama", "qwen2", "gpt2")
LARGE = "llama-135m"
TIMED = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties")
#: Every method once; a stack stands for passthrough.
COMMANDS = (
    *("linear", "slerp", "nuslerp", "multislerp", "karcher", "model_stock", "nearswap"),
    *("arcee_fusion", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della_linear"),
    *("della", "breadcrumbs", "breadcrumbs_ties", "sce", "ram", "ramplus_tl", "passthrough"),
)
#: The layers whose coefficients change where one of ten groups does.
GROUP = (12, 15)
UPCAST = {"dtype": "float32", "out_dtype": "bfloat16"}
Found = dict[str, Any]

_LEGEND = """
Beside mergekit in float32: numbers equal, within one step of bfloat16, the largest difference in
2^-8 of the number (or of its tensor's root mean square), all without those that mergekit's ties
leave to chance, whose number is in brackets; then numbers equal to its own bfloat16 arithmetic.
With random masks: share changed and L1 distance from the base, of both.
"""


def main() -> None:
    """Prints the sections asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", type=Path, help="without it, ours alone is timed")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--recipes", nargs="+", choices=merge_recipes.RECIPES, metavar="RECIPE")
    parser.add_argument("--repeats", type=int, default=5, help="of our timings")
    parser.add_argument("--peer-repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    if "equality" in arguments.only and not arguments.peer_python:
        parser.error("equality needs --peer-python: it compares with what mergekit computes")
    sections = {"equality": equality, "memory": memory, "command": command}
    found = {name: sections[name](arguments) for name in arguments.only}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


# Equality.


def equality(arguments: argparse.Namespace) -> Found:
    """Compares every recipe's tensors, and returns the figures by architecture and recipe."""
    names = arguments.recipes or list(merge_recipes.RECIPES)
    print(_LEGEND)
    found: Found = {}
    for family in SMALL:
        models = _models(arguments, family)
        with tempfile.TemporaryDirectory(dir=arguments.models) as folder:
            work = Path(folder)
            errors = {
                kind: _merged_by_peer(arguments.peer_python, work / kind, models, names, settings)
                for kind, settings in {"upcast": UPCAST, "native": {}}.items()
            }
            found[family] = {}
            for name in names:
                error = errors["upcast"][name] or errors["native"][name]
                row = {"peer_error": error} if error else _compared(work, models, name)
                found[family][name] = row
                print(f"{family:<6} {name:<34} {_text(row)}", flush=True)
    return found


def _merged_by_peer(
    python: Path, out: Path, models: dict[str, str], names: list[str], settings: dict[str, str]
) -> dict[str, str | None]:
    """Merges recipes with mergekit under `out`, and returns their errors."""
    jobs = [
        {
            "name": name,
            "config": merge_recipes.fill(merge_recipes.RECIPES[name], models, **settings),
            "out": str(out / name),
        }
        for name in names
    ]
    answer = _peer(python, {"jobs": jobs, "seed": 1, "unsettled": True})
    return {one["name"]: one["error"] for one in answer["results"]}


def _compared(work: Path, models: dict[str, str], name: str) -> Found:
    """Merges a recipe with ours, and returns how far it is from both of mergekit's."""
    out = work / "ours" / name
    out.parent.mkdir(exist_ok=True)
    config = merge_recipes.fill(merge_recipes.RECIPES[name], models, **UPCAST)
    try:
        merge_ours.merge(config, out)
    except Exception as error:  # noqa: BLE001  (of whatever kind: it is a finding)
        return {"error": f"{type(error).__name__}: {error}"}
    ours, peer = merge_equality.load(out), merge_equality.load(work / "upcast" / name)
    native = merge_equality.load(work / "native" / name)
    shutil.rmtree(out)
    if set(ours) != set(peer):
        return {"error": f"tensors of one side only: {sorted(set(ours) ^ set(peer))[:4]}"}
    if name in merge_recipes.RANDOM:
        return merge_equality.drawn(ours, peer, merge_equality.load(Path(models["base"])))
    unsettled = load_file(work / "upcast" / name / "unsettled.safetensors")
    return merge_equality.distances(ours, peer, native, unsettled)


def _text(row: Found) -> str:
    if "peer_error" in row:
        return f"mergekit fails: {row['peer_error'].splitlines()[0][:90]}"
    if "error" in row:
        return f"OURS FAILS: {row['error'].splitlines()[0][:90]}"
    if "ours_l1" in row:
        changed = f"changed {row['ours_changed']:.4f} / {row['peer_changed']:.4f}"
        return f"{changed}   L1 {row['ours_l1']:.2f} / {row['peer_l1']:.2f}"
    share = f"{row['equal']:9.4%} {row['within_1']:9.4%} {row['farthest']:>7.2f}"
    return f"{share} ({row['unsettled']:>5})   {row['equal_to_native']:9.4%}"


# Time in memory.


def memory(arguments: argparse.Namespace) -> Found:
    """Times merges into a resident model, beside copies of its bytes and mergekit's merges."""
    models = _models(arguments, LARGE)
    size = merge_models.bytes_of(Path(models["base"]))
    print(f"\nIn memory, {size / 1e6:,.0f} MB of bfloat16, {torch.get_num_threads()} threads")
    print(
        f"{'method':<18} {'ours':>9} {'a copy':>9} {'of a copy':>9} {'one group':>9} "
        f"{'mergekit':>9} {'over':>6} {'one group':>9}"
    )
    found: Found = {}
    for name in arguments.recipes or TIMED:
        config = merge_recipes.fill(merge_recipes.RECIPES[name], models, dtype="bfloat16")
        row = _beside_copies(merge_ours.resident(config), size, arguments.repeats)
        row["read"] = merge_ours.models_read(config)
        group = merge_ours.resident(config, changed_layers=GROUP)
        group()
        row["group_s"] = statistics.median(_seconds(group) for _ in range(arguments.repeats))
        if arguments.peer_python:
            row["peer_s"] = _peer_in_memory(arguments, name, config)
        found[name] = row
        print(f"{name:<18} {_memory_text(row)}", flush=True)
    return found


def _beside_copies(work: Callable[[], None], size: int, repeats: int) -> Found:
    """Returns medians of a merge and of copies of as many bytes, taken in turn."""
    source = torch.randn(size // 2, dtype=torch.float32).bfloat16()
    target = torch.zeros_like(source)
    work()  # what is computed once and kept
    merges, copies = [], []
    for _ in range(repeats):
        copies.append(_seconds(lambda: target.copy_(source)))
        merges.append(_seconds(work))
        copies.append(_seconds(lambda: target.copy_(source)))
    return {"ours_s": statistics.median(merges), "copy_s": statistics.median(copies)}


def _peer_in_memory(arguments: argparse.Namespace, name: str, config: Found) -> float:
    job = {
        "jobs": [{"name": name, "config": config, "out": ""}],
        "repeats": arguments.peer_repeats,
        "seed": 1,
        "threads": torch.get_num_threads(),
        "write": False,
    }
    result = _peer(arguments.peer_python, job)["results"][0]
    if result["error"]:
        raise RuntimeError(f"mergekit could not merge {name}: {result['error']}")
    return float(statistics.median(run["wall_s"] for run in result["runs"]))


def _memory_text(row: Found) -> str:
    share = (row["read"] + 1) / 2 * row["copy_s"] / row["ours_s"]
    text = [
        f"{row['ours_s']:>7.3f} s",
        f"{row['copy_s']:>7.3f} s",
        f"{share:>9.0%}",
        f"{row['group_s']:>7.3f} s",
    ]
    if "peer_s" in row:
        peer = row["peer_s"]
        text += [
            f"{peer:>7.2f} s",
            f"{peer / row['ours_s']:>6.0f}",
            f"{peer / row['group_s']:>9.0f}",
        ]
    return " ".join(text)


# The command lines.


def command(arguments: argparse.Namespace) -> Found:
    """Measures both commands on a 135M-parameter model, each as a process of its own."""
    models = _models(arguments, LARGE)
    print(f"\nCommand lines, {LARGE}; memory in MiB at the peak")
    print(f"{'':<30} {'wall':>8} {'cpu':>8} {'rss':>8} {'anonymous':>10}")
    found: Found = {}
    for name in arguments.recipes or COMMANDS:
        config = merge_recipes.fill(merge_recipes.RECIPES[name], models, dtype="bfloat16")
        with _recipe_file(arguments.models, config) as (path, out):
            sides = {"ours": merge_ours.command(path, out)}
            if arguments.peer_python:
                tool = arguments.peer_python.parent / "mergekit-yaml"
                sides["mergekit"] = [str(tool), str(path), str(out)]
            for side, line in sides.items():
                row = _command_row(line, out)
                found[f"{name} {side}"] = row
                print(f"{name + ', ' + side:<30} {_command_text(row)}", flush=True)
    return found


@contextmanager
def _recipe_file(folder: Path, config: Found) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "recipe.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        yield path, Path(name) / "out"


def _command_row(line: list[str], out: Path) -> Found:
    shutil.rmtree(out, ignore_errors=True)
    try:
        return dict(merge_measure.command(line, HF_HUB_OFFLINE="1"))
    except (RuntimeError, FileNotFoundError) as error:
        return {"error": str(error)}


def _command_text(row: Found) -> str:
    if "error" in row:
        return f"fails: {row['error'].splitlines()[-1][:80]}"
    times = f"{row['wall_s']:>6.1f} s {row['cpu_s']:>6.1f} s"
    return f"{times} {row['rss']:>8,.0f} {row['anonymous']:>10,.0f}"


# What the sections share.


def _models(arguments: argparse.Namespace, family: str) -> dict[str, str]:
    arguments.models.mkdir(parents=True, exist_ok=True)
    found = merge_models.make(arguments.models, family)
    return {name: str(path.resolve()) for name, path in found.items()}


def _peer(python: Path, job: Found) -> Found:
    """Runs `merge_peer.py` in mergekit's environment and returns its answer."""
    ran = subprocess.run(
        [python, Path(__file__).with_name("merge_peer.py")],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"merge_peer.py failed with {python}:\n{ran.stderr[-3000:]}")
    answer: Found = json.loads(ran.stdout.strip().splitlines()[-1])
    return answer


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

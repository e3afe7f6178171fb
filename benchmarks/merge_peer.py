"""mergekit under the same work, for `merge.py`: run with the Python of its own environment.

    python -m venv PEER && PEER/bin/pip install mergekit==0.1.5
    PEER/bin/python benchmarks/merge_peer.py < JOB.json

The job: `{"jobs": [{"name", "config", "out"}], "repeats": 3, "seed": null, "threads": null,
"write": true, "unsettled": false}`, where `config` is a recipe in mergekit's form with real
folders and `out` the folder to write. Options are those of its command line on a machine without
a GPU. With `write` false the merge stays in memory: its plan is executed and every merged tensor
is kept, nothing is written (`mergekit-evolve --in-memory`, the released way to do so, fails in
0.1.5 before it merges). With `unsettled`, `out/unsettled.safetensors` marks the positions where
ties make the result chance. Prints JSON: versions, and for each job what each repeat took (see
`merge_measure`), or the error. The first repeat opens the models' files; later ones find them open.
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import merge_measure
import torch
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.merge_methods import generalized_task_arithmetic, sce
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from safetensors.torch import save_file

_SLACK = 1e-5


def merge(config: dict[str, Any], out: str, seed: int | None = None, **options: Any) -> None:
    """Merges onto the disk, as `mergekit-yaml` does; `options` are fields of its MergeOptions."""
    run_merge(MergeConfiguration.model_validate(config), out, _options(seed, **options))


def tensors_of(config: dict[str, Any], seed: int | None = None) -> dict[str, torch.Tensor]:
    """Merges in memory and returns the tensors as computed, before any `out_dtype`."""
    parsed, options = MergeConfiguration.model_validate(config), _options(seed)
    options.apply_global_options()
    architecture = get_architecture_info(parsed, options)
    LoaderCache().setup(options=options)
    first = parsed.base_model or parsed.referenced_models()[0]
    planner = MergePlanner(parsed, architecture, options, first.config())
    planner._plan()
    names = {task: weight.name for weight, task in planner._tensors}
    executor = Executor(list(names), math_device="cpu", storage_device="cpu")
    return {names[task]: tensor for task, tensor in executor.run(quiet=True)}


class Unsettled:
    """Finds the positions that a selection of the largest numbers keeps or drops by chance.

    Stands in for mergekit's selections while the block runs, and passes every call on.
    """

    def __init__(self) -> None:
        #: For each output tensor that has such positions, where they are.
        self.positions: dict[str, torch.Tensor] = {}
        self._current = ""
        self._execute = ExecuteMergeMethodTask.execute
        self._sparsify = generalized_task_arithmetic.sparsify
        self._mask = sce.sce_mask

    def __enter__(self) -> Self:
        def execute(task: Any, tensors: Any, **more: Any) -> Any:
            self._current = task.output_weight.name
            return self._execute(task, tensors, **more)

        ExecuteMergeMethodTask.execute = execute
        generalized_task_arithmetic.sparsify = self._sparsified
        sce.sce_mask = self._masked
        return self

    def __exit__(self, *_: object) -> None:
        ExecuteMergeMethodTask.execute = self._execute
        generalized_task_arithmetic.sparsify = self._sparsify
        sce.sce_mask = self._mask

    def _note(self, positions: torch.Tensor) -> None:
        if positions.any():
            before = self.positions.get(self._current, torch.zeros_like(positions))
            self.positions[self._current] = before | positions

    def _sparsified(self, delta: torch.Tensor, density: float, method: Any, **more: Any) -> Any:
        num, kept = delta.numel(), int(density * delta.numel())
        if 0 < density < 1 and method.value == "magnitude":
            self._note(_tied(delta, num - max(1, kept)))
        if density < 1 and method.value == "magnitude_outliers":
            bottom = max(0, num - kept - int(more["gamma"] * num))
            self._note(_tied(delta, bottom) | _tied(delta, bottom + kept))
        return self._sparsify(delta, density=density, method=method, **more)

    def _masked(self, changes: torch.Tensor, density: float, *more: Any) -> torch.Tensor:
        variance = torch.var(changes, dim=0, unbiased=False)
        cut = variance.numel() - int(torch.count_nonzero(variance) * density)
        if density < 1 and _tied(variance, cut).any():
            # What is kept sets the models' weights, so every number depends on it.
            self._note(torch.ones_like(variance, dtype=torch.bool))
        return self._mask(changes, density, *more)


def _tied(tensor: torch.Tensor, cut: int) -> torch.Tensor:
    """Returns where numbers equal both sides of a cut of the ascending order of magnitudes.

    Equal up to rounding, for a variance is rounded otherwise in another order. Zeros do not
    count: it is the same whether they are kept.
    """
    sizes = tensor.abs().double()
    ordered = sizes.flatten().sort().values
    if not 0 < cut < len(ordered) or ordered[cut - 1] < ordered[cut] * (1 - _SLACK):
        return torch.zeros_like(sizes, dtype=torch.bool)
    return (sizes - ordered[cut]).abs() < ordered[cut] * _SLACK


def main() -> None:
    """Reads the job, prints the findings."""
    job = json.load(sys.stdin)
    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    results = [_result(one, job) for one in job["jobs"]]
    versions = {"mergekit": version("mergekit"), "torch": torch.__version__}
    print(json.dumps({**versions, "threads": torch.get_num_threads(), "results": results}))


def _options(seed: int | None, **options: Any) -> MergeOptions:
    return MergeOptions(random_seed=seed, quiet=True, **options)


def _result(one: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    config, out, seed = one["config"], one["out"], job.get("seed")

    def work() -> None:
        if not job.get("write", True):
            tensors_of(config, seed)
        elif not job.get("unsettled"):
            merge(config, out, seed)
        else:
            with Unsettled() as seen:
                merge(config, out, seed)
            save_file(seen.positions, Path(out) / "unsettled.safetensors")

    try:
        runs = [merge_measure.call(work) for _ in range(job.get("repeats", 1))]
    except Exception as error:  # noqa: BLE001  (of whatever kind: it is a finding)
        text = "".join(traceback.format_exception_only(error)).strip()
        return {"name": one["name"], "runs": [], "error": text}
    return {"name": one["name"], "runs": runs, "error": None}


if __name__ == "__main__":
    main()

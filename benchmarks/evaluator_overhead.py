"""Time of one whole evaluation beside the bare forward passes over the same tokens.

    python benchmarks/evaluator_overhead.py [CAMPAIGN] [--rounds 15] [--stock]

An evaluation is what a worker does for a candidate: merge, forward passes, lm-eval's filters and
metrics. The bare passes run the same resident model over the same padded batches and throw the
logits away. Both are timed in turn, on one thread, in CPU seconds (which neighbours on a shared
machine disturb least) and in wall time; medians are printed, and the ratio of each round's pair.
`--stock` adds `lm_eval.simple_evaluate` on the same model in memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from evaluators.harness_suite import HarnessSuite
from orchestrator import assemble, config
from workers.builders.merge import MergeBuilder
from workers.job import Job


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("campaign", nargs="?", type=Path, default=Path("examples/quickstart.yaml"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--stock", action="store_true")
    arguments = parser.parse_args()
    parts = assemble.assemble(config.read(arguments.campaign))
    worker = replace(parts.worker_settings(), threads=1).open("benchmark")
    builder, suite = worker._builder, worker._evaluator
    assert isinstance(builder, MergeBuilder)
    assert isinstance(suite, HarnessSuite)
    genome = parts.space.box.sample(np.random.default_rng(0), 1)[0]
    recipe = parts.space.decode(genome)
    part = suite.part("search")
    assert part.plan is not None, "these tasks have no log-likelihood requests"
    batches = [batch.tokens for batch in part.plan.batches]
    model = builder.language.model

    def bare() -> None:
        with torch.inference_mode():
            for tokens in batches:
                model(tokens)

    def whole() -> None:
        outcome = worker.run(Job(candidate="s1", attempt=1, rows="search", recipe=recipe))
        assert hasattr(outcome, "score"), outcome

    def answer() -> None:
        with torch.inference_mode():
            part.answer()

    steps: dict[str, Callable[[], Any]] = {
        "bare forward passes": bare,
        "whole evaluation": whole,
        "  merge": lambda: builder.build(recipe),
        "  forward passes and log-likelihoods": answer,
        "  filters and metrics": part.score,
    }
    if arguments.stock:
        steps["lm_eval.simple_evaluate"] = _stock(parts, builder)
    print(f"{part.plan.num_tokens} tokens in {len(batches)} batches, {arguments.rounds} rounds")
    _report(steps, arguments.rounds)


def _stock(parts: assemble.Parts, builder: MergeBuilder) -> Callable[[], Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    settings = parts.settings.evaluate
    lm = HFLM(
        pretrained=builder.language.model,
        tokenizer=builder.language.tokenizer,
        batch_size=settings.batch_size,
    )
    manager = TaskManager(include_path=settings.include_path, include_defaults=False)
    names = [objective.name for objective in settings.tasks]
    return lambda: lm_eval.simple_evaluate(model=lm, tasks=names, task_manager=manager)


def _report(steps: dict[str, Callable[[], Any]], rounds: int) -> None:
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            at_cpu, at_wall = time.process_time(), time.perf_counter()
            step()
            if number >= 2:  # the first rounds warm caches up
                cpu[name].append(time.process_time() - at_cpu)
                wall[name].append(time.perf_counter() - at_wall)
    print(f"{'':<38}{'CPU ms':>10}{'wall ms':>10}{'CPU x bare':>12}")
    floor = cpu["bare forward passes"]
    for name in steps:
        ratio = statistics.median(mine / base for mine, base in zip(cpu[name], floor, strict=True))
        print(
            f"{name:<38}{1e3 * statistics.median(cpu[name]):>10.1f}"
            f"{1e3 * statistics.median(wall[name]):>10.1f}{ratio:>12.2f}"
        )


if __name__ == "__main__":
    main()

"""Our evaluation beside stock lm-eval's on the same loaded model, in the same run.

    python benchmarks/evaluation.py choice --model DIR --data DIR [--tasks mmlu] [--shots 0 5]
    python benchmarks/evaluation.py generate --model DIR --data DIR
    python benchmarks/evaluation.py candidates

`choice` scores multiple-choice documents of real rows: `HFLM.loglikelihood` at several batch
sizes, `ResidentLM.score` at several budgets of tokens, and the bare forward passes over our own
rows (no masks of our own, no probabilities). `generate` writes answers to word problems.
`candidates` scores the second and later candidates of one evaluator on the quickstart's tasks
beside a fresh `simple_evaluate` for each. DIR of `--data` holds JSON lines in the columns of the
official tasks (openbookqa_test, commonsenseqa_validation, piqa_validation, mmlu_test,
gsm8k_train, gsm8k_test).

One thread; CPU seconds, which neighbours on a shared machine disturb least, and wall seconds; of
several rounds the fastest counts, for both sides.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.base import Language
from evaluators.language.resident_lm import ResidentLM
from evaluators.language.scoring_plan import SharedPlan
from evaluators.language.shared_batches import Preamble, only
from evaluators.lm_harness import LmHarness, Objective

ROOT = Path(__file__).resolve().parents[1]
#: Task -> its rows, and how a row is asked.
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "openbookqa": (
        "openbookqa_test",
        {
            "doc_to_text": "question_stem",
            "doc_to_choice": "{{choices.text}}",
            "doc_to_target": "{{choices.label.index(answerKey)}}",
        },
    ),
    "commonsenseqa": (
        "commonsenseqa_validation",
        {
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{choices.text}}",
            "doc_to_target": "{{choices.label.index(answerKey)}}",
        },
    ),
    "piqa": (
        "piqa_validation",
        {
            "doc_to_text": "Question: {{goal}}\nAnswer:",
            "doc_to_choice": "{{[sol1, sol2]}}",
            "doc_to_target": "label",
        },
    ),
    "mmlu": (
        "mmlu_test",
        {
            "doc_to_text": "Question: {{question.strip()}}\nAnswer:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
        },
    ),
    "mmlu_letters": (
        "mmlu_test",
        {
            "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\n"
            "C. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:",
            "doc_to_choice": ["A", "B", "C", "D"],
            "doc_to_target": "answer",
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Took:
    """Time of one piece of work."""

    cpu_s: float
    wall_s: float
    value: Any


def fastest(work: Callable[[], Any], rounds: int) -> Took:
    """Runs it so often and returns the fastest run."""
    runs: list[Took] = []
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        value = work()
        runs.append(Took(time.process_time() - cpu, time.perf_counter() - wall, value))
    return min(runs, key=lambda run: run.cpu_s)


def load(folder: Path, dtype: str) -> Language:
    """Loads a model and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    return Language(model=model, tokenizer=AutoTokenizer.from_pretrained(folder))


def stock(language: Language, batch_size: int) -> HFLM:
    """lm-eval's own class on the loaded model."""
    return HFLM(
        pretrained=language.model,
        tokenizer=language.tokenizer,
        backend="causal",
        batch_size=batch_size,
    )


def requests_of(
    name: str, data: Path, shots: int, sampler: str, docs: int
) -> tuple[list[Instance], list[int]]:
    """Builds a task's requests by lm-eval's own rules; also the right answer of each document."""
    rows, asked = TASKS[name]
    with tempfile.TemporaryDirectory() as folder:
        lines = (data / f"{rows}.jsonl").read_text().splitlines()
        held = {"test": lines[:docs], "examples": lines[-50:]}
        for split, part in held.items():
            Path(folder, f"{split}.jsonl").write_text("\n".join(part) + "\n")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {split: f"{folder}/{split}.jsonl" for split in held},
                "cache_dir": f"{folder}/cache",
            },
            "test_split": "test",
            "fewshot_split": "examples",
            "fewshot_config": {"sampler": sampler},
            "num_fewshot": shots,
            "output_type": "multiple_choice",
            "metric_list": [{"metric": "acc"}],
            **asked,
        }
        Path(folder, f"{name}.yaml").write_text(yaml.safe_dump(task))
        manager = TaskManager(include_path=folder, include_defaults=False)
        loaded = manager.load([name])["tasks"][name]
        loaded.set_fewshot_seed(1234)
        loaded.build_all_requests()
        requests = loaded.instances
    golds = {request.doc_id: int(loaded.doc_to_target(request.doc)) for request in requests}
    return requests, [golds[document] for document in sorted(golds)]


def correct(
    requests: Sequence[Instance], answers: Sequence[Any], golds: Sequence[int]
) -> list[bool]:
    """Tells of each document whether its right answer is the likeliest."""
    values: dict[int, list[float]] = {}
    for request, (value, _) in zip(requests, answers, strict=True):
        values.setdefault(request.doc_id, []).append(value)
    return [
        max(range(len(found)), key=found.__getitem__) == gold
        for (_, found), gold in zip(sorted(values.items()), golds, strict=True)
    ]


def bare_passes(model: Any, plan: SharedPlan) -> None:
    """Runs the rows of a plan, after their preamble, and the output head, and nothing else."""
    with torch.inference_mode():
        pasts = [Preamble(model, tokens) for tokens in plan.preambles]
        for batch in plan.batches:
            past = None if batch.preamble is None else pasts[batch.preamble].cache()
            with only(model, batch.scored):
                model(input_ids=batch.tokens, past_key_values=past, use_cache=past is not None)


def choice(arguments: argparse.Namespace) -> None:
    """Prints documents a second of both sides on multiple-choice tasks."""
    language = load(arguments.model, arguments.dtype)
    opened = {
        budget: ResidentLM(
            language.model, language.tokenizer, batch_size=None, batch_tokens=budget or None
        )
        for budget in arguments.budgets
    }
    print(
        f"{'task':<14}{'shots':>6}{'sampler':>9}  {'who':<22}{'tokens':>8}{'docs/s':>8}{'CPU s':>8}"
        f"{'wall s':>8}{'x stock':>9}{'x bare':>8}  same verdict"
    )
    for name in arguments.tasks:
        for shots, sampler in arguments.prompts:
            requests, golds = requests_of(name, arguments.data, shots, sampler, arguments.docs)
            _compare(
                language, opened, requests, golds, arguments, f"{name:<14}{shots:>6}{sampler:>9}"
            )


def _compare(
    language: Language,
    opened: dict[int, ResidentLM],
    requests: list[Instance],
    golds: list[int],
    arguments: argparse.Namespace,
    head: str,
) -> None:
    theirs: dict[int, Took] = {}
    for size in arguments.batch_sizes:
        lm = stock(language, size)
        theirs[size] = fastest(
            partial(lm.loglikelihood, requests, disable_tqdm=True), arguments.rounds
        )
        tokens = (
            ResidentLM(language.model, language.tokenizer, batch_size=size)
            .plan(requests)
            .num_tokens
        )
        _line(head, f"stock, batch {size}", tokens, theirs[size], len(golds))
    best = min(theirs.values(), key=lambda took: took.cpu_s)
    right = correct(requests, best.value, golds)
    for lm in opened.values():
        planned = fastest(partial(lm.plan, requests), 1)
        plan = planned.value
        ours = fastest(partial(lm.score, plan), arguments.rounds)
        bare = fastest(partial(bare_passes, language.model, plan), arguments.rounds)
        mine = correct(requests, ours.value, golds)
        same = sum(one == other for one, other in zip(mine, right, strict=True))
        _line(
            head,
            f"ours, {lm.batch_tokens} tokens",
            plan.num_tokens,
            ours,
            len(golds),
            f"{best.cpu_s / ours.cpu_s:>9.2f}{ours.cpu_s / bare.cpu_s:>8.2f}  {same}/{len(golds)}"
            f"  (planned once in {planned.cpu_s:.2f} s)",
        )


def _line(head: str, who: str, tokens: int, took: Took, docs: int, rest: str = "") -> None:
    print(
        f"{head}  {who:<22}{tokens:>8}{docs / took.cpu_s:>8.2f}{took.cpu_s:>8.2f}"
        f"{took.wall_s:>8.2f}{rest}",
        flush=True,
    )


def generate(arguments: argparse.Namespace) -> None:
    """Prints the time of both sides for answers to word problems."""
    language = load(arguments.model, arguments.dtype)
    for shots in arguments.shots:
        requests = _word_problems(arguments, shots)
        times: list[Took] = []
        for size in arguments.batch_sizes:
            lm = stock(language, size)
            work = partial(lm.generate_until, requests, disable_tqdm=True)
            times.append(fastest(work, 1))
            print(
                f"{shots} shots, stock, batch {size}: {times[-1].cpu_s:.1f} CPU s, "
                f"{times[-1].wall_s:.1f} s"
            )
        best = min(times, key=lambda took: took.cpu_s)
        own = ResidentLM(language.model, language.tokenizer, batch_size=None)
        took = fastest(partial(own.generate, own.plan_generation(requests)), 1)
        same = sum(one == other for one, other in zip(took.value, best.value, strict=True))
        print(
            f"{shots} shots, ours: {took.cpu_s:.1f} CPU s, {took.wall_s:.1f} s, "
            f"{best.cpu_s / took.cpu_s:.2f} x stock's best, {same}/{len(requests)} texts the same",
            flush=True,
        )


def _word_problems(arguments: argparse.Namespace, shots: int) -> list[Instance]:
    rows, shown = (
        [json.loads(line) for line in (arguments.data / f"gsm8k_{split}.jsonl").open()]
        for split in ("test", "train")
    )
    preamble = "".join(
        f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in shown[:shots]
    )
    settings = {"until": ["\n\n", "Question:"], "max_gen_toks": arguments.max_new_tokens}
    return [
        Instance(
            "generate_until",
            row,
            (f"{preamble}Question: {row['question']}\nAnswer:", dict(settings)),
            0,
            metadata=("gsm8k", place, 1),
        )
        for place, row in enumerate(rows[: arguments.docs])
    ]


def candidates(arguments: argparse.Namespace) -> None:
    """Prints the time of later candidates in one evaluator, and of a fresh evaluation each."""
    folder = str(ROOT / "examples" / "tasks")
    names = ["skill_a_search", "skill_b_search"]
    models = [load(ROOT / "examples" / "models" / name, arguments.dtype) for name in ("base", "b")]
    resident = models[0]
    weights = [one.model.state_dict() for one in models]
    settings = LmHarness(
        tasks=tuple(Objective(name=name, metric="acc") for name in names), include_path=folder
    )
    suite = settings.open(resident)
    suite.evaluate("search")
    numbers = iter(range(10**9))

    def swap() -> None:
        """Puts another candidate's weights in place, as a builder does."""
        with torch.no_grad():
            share = (next(numbers) % 10) / 10
            for name, weight in resident.model.state_dict().items():
                weight.copy_(torch.lerp(weights[0][name].clone(), weights[1][name], share))

    lms = {size: stock(resident, size) for size in arguments.batch_sizes}
    works: dict[str, Callable[[], Any]] = {
        "ours, later candidates": lambda: suite.evaluate("search"),
        "our bare forward passes": lambda: _bare_suite(suite, resident.model),
    } | {
        f"fresh simple_evaluate, batch {size}": partial(
            _fresh,
            model=lm,
            tasks=names,
            folder=folder,
        )
        for size, lm in lms.items()
    }
    times: dict[str, list[Took]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        swap()
        for name, work in works.items():
            times[name].append(fastest(work, 1))
    cpu = {name: statistics.median(took.cpu_s for took in took_) for name, took_ in times.items()}
    wall = {name: statistics.median(took.wall_s for took in took_) for name, took_ in times.items()}
    ours = cpu["ours, later candidates"]
    for name in works:
        print(
            f"{name:<34}{1e3 * cpu[name]:>9.1f} CPU ms{1e3 * wall[name]:>9.1f} wall ms"
            f"{cpu[name] / ours:>8.2f} x ours"
        )


def _fresh(model: HFLM, tasks: list[str], folder: str) -> Any:
    return lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        bootstrap_iters=0,
        log_samples=False,
    )


def _bare_suite(suite: Any, model: Any) -> None:
    bare_passes(model, suite.part("search").plan)


def main() -> None:
    """Reads the arguments and prints the table asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["choice", "generate", "candidates"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["openbookqa", "mmlu"])
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 5])
    parser.add_argument("--samplers", nargs="+", default=["default", "first_n"])
    parser.add_argument("--docs", type=int, default=40)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--budgets", nargs="+", type=int, default=[0], help="0: the default")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what != "candidates" and (arguments.model is None or arguments.data is None):
        parser.error(f"{arguments.what} needs --model DIR and --data DIR")
    arguments.prompts = [
        (shots, sampler)
        for shots in arguments.shots
        for sampler in (arguments.samplers if shots else ["default"])
    ]
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    {"choice": choice, "generate": generate, "candidates": candidates}[arguments.what](arguments)


if __name__ == "__main__":
    main()

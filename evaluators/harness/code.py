"""Scores tasks that run the programs a model writes: filters and metrics, within the sandbox.

The programs run wherever a task's filter or metric runs them, so all of both goes into the sandbox:
its resident process loads the tasks, and each document is scored in a child of its own. Nothing of
it runs in the evaluator's process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evaluators.base import Rows
from evaluators.harness.tasks import CODE_LEAVE, TaskError, documents_of, load
from evaluators.lm_harness import LmHarness, Objective, Split
from evaluators.sandbox.client import Sandbox, SandboxError, SandboxRefusedError


class CodeJudge:
    """Scores documents of one kind of rows in a sandbox that has loaded their tasks."""

    def __init__(self, settings: LmHarness, rows: Rows) -> None:
        """Loads the tasks there.

        Raises:
            SandboxRefusedError: if this machine cannot confine code; nothing is run then.
        """
        is_cut = rows in settings.cut and settings.split is not None
        self._sandbox = Sandbox(
            "evaluators.harness.code:open_handler",
            {
                "tasks": [asdict(one) for one in settings.objectives(rows)],
                "rows": rows if is_cut else "search",
                "split": asdict(settings.split) if is_cut and settings.split else None,
                "include_path": settings.include_path,
                "limit": settings.limit,
            },
            environment={CODE_LEAVE: "1"},
            writable=(
                str(evaluate.config.HF_METRICS_CACHE),
            ),  # where metrics keep what they add up
        )

    def metrics(
        self, task: str, index: int, responses: Sequence[Sequence[Any]]
    ) -> Mapping[str, Any]:
        """Returns "metric,filter" -> value of one document, given the model's responses.

        Raises:
            TaskError: if the task fails on it, or the program takes more than it may.
        """
        payload = {"task": task, "index": index, "responses": responses}
        about = f"task {task!r}, document {index}"
        try:
            found = self._sandbox.call(payload, about=about)
        except SandboxRefusedError:
            raise
        except SandboxError as error:
            raise TaskError(str(error)) from error
        return dict(found)


def open_handler(arguments: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Loads the tasks (outside the walls) and returns what scores a document (within them)."""
    settings = LmHarness(
        tasks=tuple(Objective(**one) for one in arguments["tasks"]),
        split=Split(**arguments["split"]) if arguments["split"] else None,
        include_path=arguments["include_path"],
        limit=arguments["limit"],
        allow_code_execution=True,
    )
    tasks = load(settings, settings.tasks).tasks
    documents = {
        name: {one.index: one.content for one in documents_of(task, settings, arguments["rows"])}
        for name, task in tasks.items()
    }

    def handle(payload: Mapping[str, Any]) -> dict[str, Any]:
        task = tasks[payload["task"]]
        document = documents[payload["task"]][payload["index"]]
        return _metrics(task, document, payload["responses"])

    return handle


def _metrics(task: Task, document: Any, responses: Sequence[Sequence[Any]]) -> dict[str, Any]:
    instances = [
        Instance(
            request_type=task.OUTPUT_TYPE,
            doc=document,
            arguments=(),
            idx=place,
            metadata=(task.task_name, 0, len(answers)),
            resps=list(answers),
        )
        for place, answers in enumerate(responses)
    ]
    task._instances = instances
    task.apply_filters()
    found: dict[str, Any] = {}
    for filter_key in instances[0].filtered_resps:
        answers = [instance.filtered_resps[filter_key] for instance in instances]
        for metric, value in task.process_results(document, answers).items():
            found[f"{metric},{filter_key}"] = value
    return found

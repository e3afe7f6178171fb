"""What the commands about Continuous Thought Machines do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from evaluators.base import Rows
from evaluators.ctm.inputs import Image
from evaluators.ctm.kinds import TASKS, Task
from evaluators.ctm.mazes import Mazes
from evaluators.ctm.measures import examine
from evaluators.ctm.task import Batch
from orchestrator import assemble, config
from orchestrator.exporting.machine_folder import TASK
from orchestrator.exporting.model_folder import ExportError, refuse_whole
from orchestrator.thinking import film, reading, writing
from orchestrator.thinking.following import examine_attention
from orchestrator.thinking.larger import examine_larger
from orchestrator.thinking.record import Thinking
from orchestrator.thinking.rounds import watch_rounds
from orchestrator.thinking.walking import check_maze
from orchestrator.thinking.watching import watch
from orchestrator.thinking.wording import words_of
from workers.ctm.machine import Machine
from workers.run import best_device

#: How often a machine is asked about a maze, and about a larger one as often as it has pixels.
_ROUNDS = 12
#: Mazes whose attention is looked at, and that are walked, at most.
_MOST_WATCHED, _MOST_WALKED = 512, 512
_LEAST_EDGE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a machine is to think about."""

    #: Registered name of a task, or an address; None: files alone.
    task: str | None = None
    #: Settings of the task, `key=value` each.
    settings: Sequence[str] = ()
    #: Which of the task's samples, unless there are files.
    rows: Rows = "test"
    sample: int = 0
    #: A file for each input.
    files: Sequence[Path] = field(default=())
    #: Mazes: how often it is asked, each time from where its moves end; None: as often as it takes
    #: where a maze is larger than those trained on, else once.
    rounds: int | None = None
    #: Edges of mazes to be solved in rounds, in the summary.
    larger: Sequence[int] = field(default=())


def think(model: Path, subject: Subject, folder: Path, *, force: bool) -> str:
    """Shows how a machine thinks about a sample; returns what was written, for people.

    Raises:
        CheckError: if the machine, the task or the sample cannot be used.
        ExportError: if the folder cannot be written to.
    """
    refuse_whole(folder, replace=force)
    with assemble.about(""):
        _keep_model(model, folder)
        machine = Machine.from_pretrained(model)
        task = _task(machine, model, subject)
        rows = None if task is None else task.open().rows(subject.rows)
        thinking = _watch(machine, model.resolve().name, subject, task, rows)
        findings = None
        if task is not None and rows is not None:
            facts = {"kind": subject.rows, "rows": len(rows), "unjudged": thinking.unjudged}
            findings = {**_examine(machine.to(best_device()), subject, task, rows), **facts}
    names = writing.write(thinking, findings, folder, replace=force)
    notes = [f"wrote {folder}: {', '.join(names)}"]
    if not film.has_ffmpeg():
        notes.append("no MP4: ffmpeg is not installed")
    if findings is None:
        notes.append("no summary: it needs --task")
    return "; ".join(notes)


def _examine(machine: Machine, subject: Subject, task: Task, rows: Batch) -> dict[str, Any]:
    """Returns how a machine fares on all rows; of mazes also how it looks and goes at them."""
    found: dict[str, Any] = dict(
        examine(machine, rows, task.judgement, answer_phases=task.answer_phases).summary()
    )
    if isinstance(task, Mazes):
        assert isinstance(rows.inputs, Tensor)
        found["attention"] = examine_attention(machine, rows.inputs[:_MOST_WATCHED])
        if subject.larger:
            found["larger"] = examine_larger(
                machine,
                subject.larger,
                num=min(_MOST_WALKED, task.test_rows),
                rounds=subject.rounds or max(_ROUNDS, *subject.larger),
                seed=task.seed,
            )
    return found


def _keep_model(model: Path, folder: Path) -> None:
    """Refuses to replace the machine by what it thinks."""
    if folder.resolve() in (model.resolve(), *model.resolve().parents):
        raise ExportError(f"folder {str(folder)!r} holds the machine; name another one")


def _task(machine: Machine, folder: Path, subject: Subject) -> Task | None:
    stored = folder / TASK
    if subject.task is not None:
        named = {"kind": subject.task}
    elif stored.is_file():
        named = json.loads(stored.read_text(encoding="utf-8"))
    elif not subject.files:
        raise ValueError(
            "nothing to think about: give --task NAME for one of its samples, or --input FILE"
        )
    elif subject.settings:
        raise ValueError("--set is without effect: it is about a task, name it with --task")
    else:
        _check_rounds(None, subject)
        return None
    task: Task = config.component(TASKS, named, subject.settings)
    reading.check_fits(machine, task)
    _check_rounds(task, subject)
    if subject.rows not in task.num_rows:
        raise ValueError(f"{subject.rows} rows: this task has {', '.join(task.num_rows)} rows")
    return task


def _check_rounds(task: Task | None, subject: Subject) -> None:
    """Refuses what is about mazes only, and mazes that there are none of."""
    if not isinstance(task, Mazes) and (subject.rounds is not None or subject.larger):
        raise ValueError("--rounds and --larger are about mazes: expected --task maze")
    for edge in subject.larger:
        try:
            replace(cast("Mazes", task), edge=edge)
        except ValueError as error:
            raise ValueError(f"--larger: {error}") from error
        if edge < _LEAST_EDGE:
            raise ValueError(f"--larger: expected an edge of at least {_LEAST_EDGE}, got {edge}")


def _watch(
    machine: Machine, name: str, subject: Subject, task: Task | None, rows: Batch | None
) -> Thinking:
    named = "thinking" if task is None else TASKS.name_of(type(task))
    common: dict[str, Any] = {
        "subject": name if named == name else f"{name}: {named}",
        "words": words_of(task, machine.settings.outputs.classes),
    }
    judged: dict[str, Any] = {
        "judgement": "positions" if task is None else task.judgement,
        "answer_phases": None if task is None else task.answer_phases,
    }
    if subject.files or rows is None:
        inputs = reading.read_inputs(subject.files, machine.settings.inputs)
        common["sample"], target = ", ".join(f.name for f in subject.files), None
    else:
        one = reading.sample_of(rows, subject.rows, subject.sample)
        inputs, target = one.inputs, one.targets[0].to(torch.long).tolist()
        common["sample"] = f"{subject.rows} row {subject.sample}"
    if common["words"].moves and isinstance(inputs, Tensor):
        check_maze(inputs[0].numpy())
        rounds = subject.rounds or _rounds(machine, inputs)
        if rounds > 1:
            return watch_rounds(machine, inputs, rounds=rounds, **common)
    return watch(machine, inputs, target=target, **judged, **common)


def _rounds(machine: Machine, maze: Tensor) -> int:
    """Returns how often a machine is asked about a maze: more than once if it is a large one."""
    kind = machine.settings.inputs
    assert isinstance(kind, Image)
    edge = max(maze.shape[2:])
    return 1 if edge <= max(kind.height, kind.width) else max(_ROUNDS, edge)

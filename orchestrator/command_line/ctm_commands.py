"""What the commands about Continuous Thought Machines do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from evaluators.base import Rows
from evaluators.ctm.kinds import TASKS, Task
from evaluators.ctm.measures import examine
from evaluators.ctm.task import Batch
from orchestrator import assemble, config
from orchestrator.exporting.machine_folder import TASK
from orchestrator.exporting.model_folder import ExportError, refuse_used
from orchestrator.thinking import film, reading, writing
from orchestrator.thinking.record import Thinking
from orchestrator.thinking.walking import check_maze
from orchestrator.thinking.watching import watch
from orchestrator.thinking.wording import words_of
from workers.ctm.machine import Machine


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


def think(model: Path, subject: Subject, folder: Path, *, force: bool) -> str:
    """Shows how a machine thinks about a sample; returns what was written, for people.

    Raises:
        CheckError: if the machine, the task or the sample cannot be used.
        ExportError: if the folder cannot be written to.
    """
    refuse_used(folder, replace=force)
    with assemble.about(""):
        _keep_model(model, folder)
        machine = Machine.from_pretrained(model)
        task = _task(machine, model, subject)
        rows = None if task is None else task.open().rows(subject.rows)
        thinking = _watch(machine, model.resolve().name, subject, task, rows)
    findings = None
    if task is not None and rows is not None:
        found = examine(machine, rows, task.judgement, answer_phases=task.answer_phases).summary()
        facts = {"kind": subject.rows, "rows": len(rows), "unjudged": thinking.unjudged}
        findings = {**found, **facts}
    names = writing.write(thinking, findings, folder, replace=force)
    notes = [f"wrote {folder}: {', '.join(names)}"]
    if not film.has_ffmpeg():
        notes.append("no MP4: ffmpeg is not installed")
    if findings is None:
        notes.append("no summary.png: it needs --task")
    return "; ".join(notes)


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
        return None
    task: Task = config.component(TASKS, named, subject.settings)
    reading.check_fits(machine, task)
    if subject.rows not in task.num_rows:
        raise ValueError(f"{subject.rows} rows: this task has {', '.join(task.num_rows)} rows")
    return task


def _watch(
    machine: Machine, name: str, subject: Subject, task: Task | None, rows: Batch | None
) -> Thinking:
    common: dict[str, Any] = {
        "subject": f"{name}: {subject.task or 'thinking'}",
        "words": words_of(task, machine.settings.outputs.classes),
        "judgement": "positions" if task is None else task.judgement,
        "answer_phases": None if task is None else task.answer_phases,
    }
    if subject.files or rows is None:
        inputs = reading.read_inputs(subject.files, machine.settings.inputs)
        if common["words"].moves and isinstance(inputs, torch.Tensor):
            check_maze(inputs[0].numpy())
        return watch(machine, inputs, sample=", ".join(f.name for f in subject.files), **common)
    one = reading.sample_of(rows, subject.rows, subject.sample)
    sample = f"{subject.rows} row {subject.sample}"
    target: list[int] = one.targets[0].to(torch.long).tolist()
    return watch(machine, one.inputs, sample=sample, target=target, **common)

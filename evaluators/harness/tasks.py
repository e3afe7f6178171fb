"""Loads lm-eval tasks and says which of their documents are which kind of rows."""

from __future__ import annotations

import functools
import logging
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.utils
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from evaluators.base import Rows
from evaluators.digest import hash_json
from evaluators.lm_harness import LmHarness, Objective
from evaluators.registry import nearest

#: lm-eval's own default, so that few-shot examples are those of the stock command.
FEWSHOT_SEED = 1234
#: Different texts among the templates of one task file are few; this is room for many tasks.
_TEMPLATES = 4096
#: What Hugging Face's `code_eval` looks for before it runs a program.
CODE_LEAVE = "HF_ALLOW_CODE_EVAL"


class TaskError(ValueError):
    """A task's own code or templates failed; the message names the task and the document."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a task."""

    #: Its place among all documents of the task: lm-eval's `doc_id`.
    index: int
    content: Any
    #: Hash of the content.
    digest: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The tasks and groups behind some objectives."""

    #: Name -> task, those within groups included.
    tasks: Mapping[str, Task]
    #: Name -> lm-eval's group.
    groups: Mapping[str, Any]

    def leaves(self, name: str) -> list[Task]:
        """Returns the tasks that an objective's value comes from.

        Raises:
            ValueError: if the name is a tag, which has no value of its own.
        """
        if name in self.groups:
            return list(self.groups[name].get_all_tasks())
        if name not in self.tasks:
            raise ValueError(f"{name!r} is a tag of several tasks: name the tasks themselves")
        return [self.tasks[name]]


def load(settings: LmHarness, objectives: Iterable[Objective]) -> Loaded:
    """Loads tasks by name: the campaign's own files first, lm-eval's own index only if needed.

    Raises:
        ValueError: if a task is not known, cannot be loaded, or runs code without leave to do so.
    """
    quieten()
    names = [objective.name for objective in objectives]
    if not names:
        return Loaded({}, {})
    manager = _manager(settings, names)
    for name in names:
        if name not in manager.task_index:
            where = f" under {settings.include_path!r} or" if settings.include_path else ""
            raise ValueError(
                f"unknown task {name!r}: not found{where} among lm-eval's own; "
                f"{nearest(name, manager.all_tasks)}"
            )
        if not settings.allow_code_execution:
            _refuse_code(name, manager)  # before loading: importing such a task may run code
    loaded = _import(names, manager, allow_code=settings.allow_code_execution)
    for name, task in loaded.tasks.items():
        if runs_code(task) and not settings.allow_code_execution:
            raise _code_error(name)
        if getattr(task, "MULTIMODAL", False):
            raise ValueError(f"task {name!r} shows images or sound, a language model takes text")
        _configure(task, settings)
    return loaded


def runs_code(task: Task) -> bool:
    """Whether scoring the task runs what the model wrote."""
    return bool(getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"))


def documents_of(task: Task, settings: LmHarness, rows: Rows) -> list[Document]:
    """Returns the documents of a task that are these rows: by the split, then up to the limit.

    Raises:
        TaskError: if the task cannot produce its documents.
    """
    split = settings.split if rows in settings.cut else None
    found: list[Document] = []
    wanted: Rows = "search" if rows == "fresh" else rows
    # Without a split the first so many are all: the rest need not even be read.
    for index, content in _all_documents(task, settings.limit if split is None else None):
        digest = hash_json(content)
        if split is None or split.part(digest) == wanted:
            found.append(Document(index, content, digest))
        if len(found) == settings.limit:
            break
    return found


def _all_documents(task: Task, limit: int | None) -> Iterator[tuple[int, Any]]:
    try:
        yield from task.doc_iterator(limit=limit)
    except Exception as error:
        raise TaskError(
            f"task {task.task_name!r}: its documents cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def quieten() -> None:
    """The harness and its data library report every step; a campaign repeats thousands."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("lm-eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)  # it has no switch of its own


@contextmanager
def tidy() -> Iterator[None]:
    """Lets the harness load and render quickly, and leaves the process as it was.

    It compiles a template again for each document, and draws from the global generator of random
    numbers whenever a task is asked for its name.
    """
    environment, drawn = lm_eval.utils.env, random.getstate()
    environment.from_string = functools.lru_cache(_TEMPLATES)(environment.from_string)
    try:
        yield
    finally:
        del environment.from_string  # the class's own is seen again
        random.setstate(drawn)


def _import(names: Sequence[str], manager: TaskManager, *, allow_code: bool) -> Loaded:
    """Loads the tasks and the code beside their files, and leaves nothing behind in the folder."""
    try:
        with _while_importing(allow_code=allow_code):
            loaded = manager.load(list(names))
    except Exception as error:
        raise ValueError(
            f"tasks {', '.join(names)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return Loaded(dict(loaded["tasks"]), dict(loaded.get("groups", {})))


@contextmanager
def _while_importing(*, allow_code: bool) -> Iterator[None]:
    """Writes no compiled copies, and gives lm-eval's code tasks the leave that they ask for."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    leave = os.environ.get(CODE_LEAVE)
    if allow_code:
        os.environ[CODE_LEAVE] = "1"
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        os.environ.pop(CODE_LEAVE, None)
        if leave is not None:
            os.environ[CODE_LEAVE] = leave


def _manager(settings: LmHarness, names: Sequence[str]) -> TaskManager:
    """Indexing lm-eval's own tasks takes seconds, the campaign's own folder milliseconds."""
    path = settings.include_path
    if path is not None:
        if not Path(path).is_dir():
            raise ValueError(f"include_path: {path!r} is not a folder")
        manager = TaskManager(include_path=path, include_defaults=False)
        if all(name in manager.task_index for name in names):
            return manager
    return TaskManager(include_path=path)


def _refuse_code(member: Any, manager: TaskManager) -> None:
    """Looks at the files of a task, or of all in a group or tag, without importing their code."""
    config = member if isinstance(member, Mapping) else _config_of(str(member), manager)
    if config.get("unsafe_code"):
        raise _code_error(str(config.get("task")))
    inner = config.get("task")
    if isinstance(member, Mapping) and isinstance(inner, str):
        _refuse_code(inner, manager)  # a group's own variant of a task
    for one in inner if isinstance(inner, list) else ():
        _refuse_code(one, manager)


def _config_of(name: str, manager: TaskManager) -> Mapping[str, Any]:
    entry = manager.task_index.get(name)
    if entry is None:
        return {}  # lm-eval says so when it loads the group
    # A tag has no file, but the names of its tasks.
    return entry.cfg or {"task": sorted(entry.tags)}


def _code_error(name: str) -> ValueError:
    return ValueError(
        f"task {name!r} runs the programs that a model writes: allow_code_execution: true lets "
        "it do so, in a sandbox without network; otherwise take the task out"
    )


def _configure(task: Task, settings: LmHarness) -> None:
    if settings.num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)

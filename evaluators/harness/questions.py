"""Builds what the tasks of one kind of rows ask, once for every candidate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evaluators.base import Rows
from evaluators.harness.code import CodeJudge
from evaluators.harness.metrics import check_metric
from evaluators.harness.tasks import (
    Document,
    Loaded,
    TaskError,
    documents_of,
    load,
    runs_code,
    tidy,
)
from evaluators.language.backend import Backend
from evaluators.lm_harness import LmHarness, Objective


@dataclass(frozen=True, slots=True)
class Question:
    """One document and all that is asked about it."""

    #: The document's place among all of its task: lm-eval's `doc_id`.
    index: int
    document: Any
    #: The requests to the model, in the order in which the task takes their answers.
    requests: tuple[Instance, ...]
    #: Which request's answer is the log-likelihood of the right answer, if one is.
    right: int | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """All questions of one kind of rows."""

    rows: Rows
    objectives: tuple[Objective, ...]
    loaded: Loaded
    #: Task -> its questions, in the order of its documents.
    questions: Mapping[str, tuple[Question, ...]]
    #: Scores the tasks that run what the model wrote, where there are any.
    judge: CodeJudge | None


@tidy()
def build(settings: LmHarness, rows: Rows, lm: Backend) -> Sheet:
    """Loads the tasks and renders every prompt.

    Raises:
        ValueError: if a task cannot be loaded or has no such documents.
        TaskError: if a task cannot render a document.
    """
    objectives = settings.objectives(rows)
    loaded = load(settings, objectives)
    for objective in objectives:
        check_metric(objective, loaded)
    questions = {}
    for name, task in loaded.tasks.items():
        documents = documents_of(task, settings, rows)
        if not documents:
            raise ValueError(f"task {name!r} has no {rows} documents: give it a larger share")
        questions[name] = _questions(task, documents, settings, lm)
    code = any(map(runs_code, loaded.tasks.values()))
    judge = CodeJudge(settings, rows) if code else None
    return Sheet(rows, objectives, loaded, questions, judge)


def _questions(
    task: Task, documents: Iterable[Document], settings: LmHarness, lm: Backend
) -> tuple[Question, ...]:
    places = {document.index for document in documents}
    # Few-shot examples are drawn in the order of the documents: those between are built, too.
    _build_requests(task, max(places) + 1, settings, lm)
    requests: dict[int, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        if instance.doc_id in places:
            requests[instance.doc_id].append(instance)
    _remember_renderings(task, [members[0].doc for members in requests.values()])
    found = []
    for index, members in sorted(requests.items()):
        members.sort(key=lambda instance: int(instance.idx))
        document = members[0].doc
        found.append(Question(index, document, tuple(members), _right(task, document, members)))
    return tuple(found)


def _build_requests(task: Task, count: int, settings: LmHarness, lm: Backend) -> None:
    chat = settings.apply_chat_template
    try:
        task.build_all_requests(
            limit=count,
            rank=0,
            world_size=1,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,  # as the stock command does
            chat_template=lm.apply_chat_template if chat else None,
            tokenizer_name=lm.tokenizer_name if chat else "",
        )
    except Exception as error:
        raise TaskError(
            f"task {task.task_name!r}{_first_unrenderable(task, count)}: its prompts cannot be "
            f"built: {type(error).__name__}: {error}"
        ) from error


def _first_unrenderable(task: Task, count: int) -> str:
    """Returns which document a task cannot render, as part of a message."""
    for index, document in task.doc_iterator(limit=count):
        try:
            task.doc_to_text(document)
            task.doc_to_target(document)
            if task.get_config("doc_to_choice") is not None:
                task.doc_to_choice(document)
        except Exception:  # noqa: BLE001  (the caller raises the first error; this says where)
            return f", document {index}"
    return ""


def _remember_renderings(task: Task, documents: Iterable[Any]) -> None:
    """The harness renders these templates again for every document of every candidate."""
    known = {id(document) for document in documents}
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        if hasattr(task, name):
            setattr(task, name, _remember(getattr(task, name), known))


def _remember(render: Callable[..., Any], known: set[int]) -> Callable[..., Any]:
    """Caches a rendering by document; known ones live as long as the task, so ids are theirs."""
    memory: dict[int, Any] = {}

    def remembered(document: Any, *args: Any, **named: Any) -> Any:
        key = id(document)
        if args or named or key not in known:
            return render(document, *args, **named)
        if key not in memory:
            memory[key] = render(document)
        return memory[key]

    return remembered


def _right(task: Task, document: Any, requests: list[Instance]) -> int | None:
    """Returns which request asks for the right answer."""
    kind = requests[0].request_type
    if kind == "generate_until":
        return None
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0 if len(requests) == 1 else None
    return gold_place(task, document)


def gold_place(task: Task, document: Any) -> int | None:
    """Returns which choice of a multiple-choice document is right, if it is just one."""
    several_inputs = getattr(task, "multiple_input", 0)
    gold = task.doc_to_text(document) if several_inputs else task.doc_to_target(document)
    if isinstance(gold, list) and len(gold) == 1:
        gold = gold[0]
    choices = task.doc_to_choice(document)
    if isinstance(gold, str) and gold in choices:
        return int(choices.index(gold))
    if isinstance(gold, int) and 0 <= gold < len(choices):
        return gold
    return None

"""Some documents of one kind of rows: planned once, answered and scored again and again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evaluators.base import Score, TaskScore
from evaluators.harness.metrics import aggregate, group_key, metric_key, signed_weight, task_score
from evaluators.harness.questions import Question, Sheet
from evaluators.harness.tasks import TaskError, runs_code
from evaluators.language.backend import Backend, Plan
from evaluators.lm_harness import Objective


class Part:
    """What is asked about chosen documents, and what the answers are worth.

    Batches are made of these documents alone, sorted by their place: the order in which they were
    asked for does not change a score, only the order of its `per_document`.
    """

    def __init__(self, sheet: Sheet, places: Mapping[str, Sequence[int]], lm: Backend) -> None:
        """Plans the forward passes.

        Args:
            sheet: The questions.
            places: Task -> places of the chosen documents among its questions.
            lm: Runs the model.
        """
        self._sheet = sheet
        self._lm = lm
        self._questions: dict[str, list[Question]] = {}
        #: Task -> where each document stands among the sorted ones, as they were asked for.
        self._order: dict[str, list[int]] = {}
        for name, chosen in places.items():
            ranks = {place: rank for rank, place in enumerate(sorted(chosen))}
            self._questions[name] = [sheet.questions[name][place] for place in ranks]
            self._order[name] = [ranks[place] for place in chosen]
        self._instances = {
            name: [request for question in questions for request in question.requests]
            for name, questions in self._questions.items()
        }
        self._requests: dict[str, list[Instance]] = defaultdict(list)
        for instances in self._instances.values():
            for instance in instances:
                self._requests[instance.request_type] += [instance] * instance.repeats
        planners: dict[str, Callable[[Sequence[Instance]], Any]] = {
            "loglikelihood": lm.plan,
            "loglikelihood_rolling": lm.plan_rolling,
            "generate_until": lm.plan_generation,
        }
        self._plans = {kind: planners[kind](held) for kind, held in self._requests.items()}

    @property
    def plan(self) -> Plan | None:
        """The log-likelihood requests' batches, where there are such requests."""
        return self._plans.get("loglikelihood")

    def answer(self) -> None:
        """Runs every request on the model and leaves the responses in the instances."""
        runners: dict[str, Callable[[Any], Sequence[Any]]] = {
            "loglikelihood": self._lm.score,
            "loglikelihood_rolling": self._lm.score_rolling,
            "generate_until": self._lm.generate,
        }
        for kind, requests in self._requests.items():
            responses = runners[kind](self._plans[kind])
            for request in requests:
                request.resps.clear()
                request.filtered_resps.clear()
            for request, response in zip(requests, responses, strict=True):
                request.resps.append(response)

    def score(self) -> Score:
        """Turns the responses into metrics by the tasks' own rules.

        Raises:
            NonFiniteError: if a value is not finite.
            TaskError: if a task's filter, metric or aggregation fails.
        """
        loaded = self._sheet.loaded
        raw = {name: self._process(name, loaded.tasks[name]) for name in self._questions}
        scores: dict[str, TaskScore] = {}
        fitness = 0.0
        for objective in self._sheet.objectives:
            name = objective.name
            weight = signed_weight(objective, loaded)
            if name in loaded.groups:
                scores[name] = self._group_score(objective, weight, raw)
            elif name in raw:
                scores[name] = self._task_score(objective, weight, raw[name])
            else:
                continue  # none of its documents was asked for
            fitness += weight * scores[name].value
        return Score(fitness=fitness, tasks=scores)

    def _task_score(
        self, objective: Objective, weight: float, raw: Mapping[str, list[Any]]
    ) -> TaskScore:
        name, task = objective.name, self._sheet.loaded.tasks[objective.name]
        key = metric_key(objective, task)
        if key not in raw:
            raise TaskError(f"task {name!r} gave no {key}, but {', '.join(raw) or 'nothing'}")
        return task_score(
            name,
            aggregate(task, key, raw[key]),
            weight=weight,
            documents=max(map(len, raw.values())),
            items=self._in_order(name, raw[key]),
            log_likelihoods=self._log_likelihoods(name),
        )

    def _group_score(
        self, objective: Objective, weight: float, raw: Mapping[str, Mapping[str, list[Any]]]
    ) -> TaskScore:
        group = self._sheet.loaded.groups[objective.name]
        wanted = {one.metric for one in group.aggregate_metric_list or ()}
        metrics: dict[str, dict[str, Any]] = {}
        for task in group.get_all_tasks():
            values = raw[task.task_name]
            metrics[task.task_name] = {"sample_len": max(map(len, values.values()), default=0)} | {
                key: aggregate(task, key, items)
                for key, items in values.items()
                if key.partition(",")[0] in wanted
            }
        found = group.aggregate(metrics)
        value = float(found[group_key(objective, found)])
        return task_score(
            objective.name, value, weight=weight, documents=int(found.get("sample_len", 0))
        )

    def _process(self, name: str, task: Task) -> dict[str, list[Any]]:
        """Returns "metric,filter" -> one value a document."""
        if runs_code(task):
            return self._process_in_sandbox(name)
        questions, instances = self._questions[name], self._instances[name]
        task._instances = instances  # the filters of a task see all of its instances
        try:
            task.apply_filters()
        except Exception as error:
            raise _task_error(name, questions, _filtering(task), "filters", error) from error
        values: dict[str, list[Any]] = defaultdict(list)
        for filter_key in instances[0].filtered_resps:
            for question in questions:
                answers = [request.filtered_resps[filter_key] for request in question.requests]
                try:
                    found = task.process_results(question.document, answers)
                except Exception as error:
                    raise _task_error(name, [question], None, "metrics", error) from error
                for metric, value in found.items():
                    values[f"{metric},{filter_key}"].append(value)
        return dict(values)

    def _process_in_sandbox(self, name: str) -> dict[str, list[Any]]:
        """Has filters and metrics run where the model's programs can do no harm."""
        judge = self._sheet.judge
        assert judge is not None
        values: dict[str, list[Any]] = defaultdict(list)
        for question in self._questions[name]:
            responses = [request.resps for request in question.requests]
            for key, value in judge.metrics(name, question.index, responses).items():
                values[key].append(value)
        return dict(values)

    def _log_likelihoods(self, name: str) -> Sequence[float]:
        """Returns that of each document's right answer, or nothing if some has none."""
        found: list[float] = []
        for question in self._questions[name]:
            if question.right is None:
                return ()
            response = question.requests[question.right].resps[0]
            found.append(float(response[0] if isinstance(response, tuple) else response))
        return self._in_order(name, found)

    def _in_order(self, name: str, items: Sequence[Any]) -> Sequence[Any]:
        """Puts one item a document into the order in which the documents were asked for."""
        order = self._order[name]
        return [items[place] for place in order] if len(items) == len(order) else items


def _filtering(task: Task) -> Callable[[Question], None]:
    def apply(question: Question) -> None:
        task._instances = list(question.requests)
        task.apply_filters()

    return apply


def _task_error(
    name: str,
    questions: Iterable[Question],
    attempt: Callable[[Question], None] | None,
    what: str,
    error: Exception,
) -> TaskError:
    """Says which document made a task's own code fail, trying one by one if need be."""
    guilty = (one for one in questions if attempt is None or _fails(attempt, one))
    first = next(guilty, None)
    where = "" if first is None else f", document {first.index}"
    return TaskError(
        f"task {name!r}{where}: its {what} failed on the model's answer: "
        f"{type(error).__name__}: {error}"
    )


def _fails(attempt: Callable[[Question], None], question: Question) -> bool:
    try:
        attempt(question)
    except Exception:  # noqa: BLE001  (the first error is raised; this finds its document)
        return True
    return False

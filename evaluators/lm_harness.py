"""lm-eval-harness tasks as fitness (Gao et al. 2024, https://doi.org/10.5281/zenodo.12608602).

Only the settings live here, so that a campaign file is read without importing torch; the work is
in `evaluators.harness_suite`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, MinLen

from evaluators.base import Evaluator, EvaluatorFacts, Language, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One task's part in the fitness: `weight` times the metric, negated where lower is better."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    #: Name of an lm-eval task, group or tag.
    name: str
    #: Metric as in lm-eval's results ("acc", "acc_norm", "exact_match,strict-match").
    metric: str
    #: Factor in the weighted sum.
    weight: float = 1.0
    #: Overrides what the task says about its metric.
    direction: Literal["maximize", "minimize"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LmHarness:
    """Scores a causal language model on lm-eval-harness tasks.

    Fitness is the weighted sum of the metrics of `tasks`; `test` is scored for the report only.
    """

    #: Tasks of the fitness: the search rows.
    tasks: Annotated[tuple[Objective, ...], MinLen(1)]
    #: Tasks of the report, never selected on. A bare name takes the metric that all `tasks` share.
    test: tuple[Objective | str, ...] = ()
    #: Folder with the campaign's own task files; searched before lm-eval's own tasks.
    include_path: str | None = None
    #: Score only the first so many documents of each task (all if null).
    limit: Annotated[int, Ge(1)] | None = None
    #: Examples in the prompt; null leaves it to each task.
    num_fewshot: Annotated[int, Ge(0)] | None = None
    #: Requests in one forward pass. In bf16 it can change a score, so it is part of the search.
    batch_size: Annotated[int, Ge(1)] = 64
    #: Longest context in tokens; null takes the model's own.
    max_length: Annotated[int, Ge(2)] | None = None
    #: Wrap prompts in the tokenizer's chat template.
    apply_chat_template: bool = False

    def __post_init__(self) -> None:
        search = [objective.name for objective in self.tasks]
        test = [objective.name for objective in self.objectives("test")]
        for name in search + test:
            if (search + test).count(name) > 1:
                both = name in search and name in test
                raise ValueError(
                    f"task {name!r} is in both 'tasks' and 'test': rows that the search selects on "
                    "cannot test its result; give the test rows a task of their own"
                    if both
                    else f"task {name!r} is named twice"
                )

    @property
    def tests(self) -> bool:
        """Whether there are test rows to report on."""
        return bool(self.test)

    def objectives(self, rows: Rows) -> tuple[Objective, ...]:
        """Returns the objectives of the search or of the test rows.

        Raises:
            ValueError: if a bare test task's metric cannot be told.
        """
        if rows == "search":
            return self.tasks
        metrics = {objective.metric for objective in self.tasks}
        full: list[Objective] = []
        for test in self.test:
            if isinstance(test, Objective):
                full.append(test)
            elif len(metrics) == 1:
                full.append(Objective(name=test, metric=self.tasks[0].metric))
            else:
                raise ValueError(
                    f"test task {test!r} needs a metric, because 'tasks' use several "
                    f"({', '.join(sorted(metrics))}); write {{name: {test}, metric: ...}}"
                )
        return tuple(full)

    def conditions(self, rows: Rows) -> dict[str, Any]:
        """Returns what a score on these rows depends on, but for model, documents and prompts."""
        return {
            "objectives": [asdict(one) for one in self.objectives(rows)],
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "apply_chat_template": self.apply_chat_template,
        }

    def check(self) -> EvaluatorFacts:
        """Loads every task (not the model) and checks metrics and rows."""
        from evaluators.harness_suite import check

        return check(self)

    def open(self, language: Language) -> Evaluator:
        """Builds tasks and requests once; the suite then scores the resident model."""
        from evaluators.harness_suite import HarnessSuite

        return HarnessSuite(self, language)

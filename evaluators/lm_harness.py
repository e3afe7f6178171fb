"""lm-eval-harness tasks as fitness (Gao et al. 2024, https://doi.org/10.5281/zenodo.12608602).

Only the settings live here, so that a campaign file is read without importing torch; the work is
in `evaluators.harness.suite`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen

from evaluators.base import Evaluator, EvaluatorFacts, Language, Rows
from evaluators.digest import hash_text

#: Which list of the settings names the tasks of a kind of rows.
LISTS: dict[Rows, str] = {
    "search": "tasks",
    "selection": "selection",
    "test": "test",
    "control": "control",
}


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
class Split:
    """Makes search, selection and test rows of the documents of `tasks`.

    Each document goes where a hash of its content and the seed says: equal documents go to the
    same part, and rows added to a task move none of the others. Shares are of the documents on
    average; what they leave over is not scored at all.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    #: Which documents go where.
    seed: int
    #: Share of the documents whose scores make the fitness.
    search: Annotated[float, Gt(0), Le(1)]
    #: Share that picks among the finalists.
    selection: Annotated[float, Ge(0), Le(1)] = 0.0
    #: Share that makes the report.
    test: Annotated[float, Ge(0), Le(1)] = 0.0

    def __post_init__(self) -> None:
        total = math.fsum(self.shares.values())
        # Shares such as 0.7, 0.2 and 0.1 add up to one only nearly.
        if total > 1 + 1e-9:
            raise ValueError(
                f"the shares of a split add up to {total:g}, expected 1 at most: make search, "
                "selection or test smaller"
            )

    @property
    def shares(self) -> dict[Rows, float]:
        """The share of each kind of rows."""
        return {"search": self.search, "selection": self.selection, "test": self.test}

    def part(self, digest: str) -> Rows | None:
        """Returns the kind of rows of a document, given the hash of its content."""
        place = int(hash_text(f"{self.seed} {digest}")[:16], 16) / 2**64  # in [0, 1)
        reached = 0.0
        for rows, share in self.shares.items():
            reached += share
            if place < reached:
                return rows
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LmHarness:
    """Scores a causal language model on lm-eval-harness tasks.

    Fitness is the weighted sum of the metrics of `tasks`, the search rows. The other kinds of rows
    never make fitness: `selection` picks among the finalists, `test` makes the report, `control`
    tells whether anything else got worse. A bare name takes the metric that all `tasks` share.
    """

    #: Tasks of the fitness: the search rows.
    tasks: Annotated[tuple[Objective, ...], MinLen(1)]
    #: Tasks that the finalists are compared on, once.
    selection: tuple[Objective | str, ...] = ()
    #: Tasks of the report, never selected on.
    test: tuple[Objective | str, ...] = ()
    #: Tasks of other skills, which a merge may have lost; reported beside the test rows.
    control: tuple[Objective | str, ...] = ()
    #: Makes the rows of `selection` and `test` from the documents of `tasks`.
    split: Split | None = None
    #: Folder with the campaign's own task files; searched before lm-eval's own tasks.
    include_path: str | None = None
    #: Score only the first so many documents of each task and kind of rows (all if null).
    limit: Annotated[int, Ge(1)] | None = None
    #: Examples in the prompt; null leaves it to each task.
    num_fewshot: Annotated[int, Ge(0)] | None = None
    #: Requests in one forward pass, laid out as the stock command does. Null shares prompts'
    #: beginnings and makes batches by length, which is faster. In bf16 it can change a score.
    batch_size: Annotated[int, Ge(1)] | None = None
    #: Tokens in one forward pass where `batch_size` is null; null takes what fits.
    batch_tokens: Annotated[int, Ge(1)] | None = None
    #: Longest context in tokens; null takes the model's own.
    max_length: Annotated[int, Ge(2)] | None = None
    #: Wrap prompts in the tokenizer's chat template.
    apply_chat_template: bool = False
    #: Run the programs that models write, where a task asks for it; each in a sandbox.
    allow_code_execution: bool = False
    #: What runs the model: Hugging Face transformers, or vLLM where it is installed.
    backend: Literal["hf", "vllm"] = "hf"

    def __post_init__(self) -> None:
        self._check_settings()
        seen: dict[str, str] = {}
        for rows, key in LISTS.items():
            if rows != "search" and not self._listed(rows):
                continue  # there are none, or they are cut from the search tasks
            for objective in self.objectives(rows):
                _check_name(objective.name, key, seen)
                seen[objective.name] = key

    @property
    def kinds(self) -> frozenset[Rows]:
        """Which kinds of rows there are."""
        return frozenset(rows for rows in LISTS if self.objectives(rows))

    @property
    def cut(self) -> frozenset[Rows]:
        """Which kinds of rows the split makes."""
        if self.split is None:
            return frozenset()
        return frozenset({"fresh", *(rows for rows, share in self.split.shares.items() if share)})

    def objectives(self, rows: Rows) -> tuple[Objective, ...]:
        """Returns the objectives of a kind of rows; none where there are no such rows.

        Raises:
            ValueError: if a bare task's metric cannot be told.
        """
        if rows in self.cut or rows == "fresh":
            return self.tasks
        return tuple(self._full(rows, one) for one in self._listed(rows))

    def conditions(self, rows: Rows) -> dict[str, Any]:
        """Returns what a score on these rows depends on, but for model, documents and prompts.

        A setting that came later is left out where it changes nothing, so that what was measured
        before is not measured again.
        """
        found: dict[str, Any] = {
            "objectives": [asdict(one) for one in self.objectives(rows)],
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "apply_chat_template": self.apply_chat_template,
        }
        if self.batch_tokens is not None and self.batch_size is None:
            found["batch_tokens"] = self.batch_tokens
        if self.split is not None and rows in self.cut:
            found["split"] = asdict(self.split)
        if self.backend != "hf":
            found["backend"] = self.backend
        return found

    def check(self) -> EvaluatorFacts:
        """Loads every task (not the model) and checks metrics and rows."""
        from evaluators.harness.check import check

        return check(self)

    def open(self, language: Language) -> Evaluator:
        """Builds tasks and requests once; the suite then scores the resident model."""
        from evaluators.harness.suite import HarnessSuite

        return HarnessSuite(self, language)

    def _listed(self, rows: Rows) -> tuple[Objective | str, ...]:
        lists: dict[Rows, tuple[Objective | str, ...]] = {
            "search": self.tasks,
            "selection": self.selection,
            "test": self.test,
            "control": self.control,
        }
        return lists.get(rows, ())

    def _full(self, rows: Rows, named: Objective | str) -> Objective:
        if isinstance(named, Objective):
            return named
        metrics = sorted({objective.metric for objective in self.tasks})
        if len(metrics) > 1:
            raise ValueError(
                f"{rows} task {named!r} needs a metric, because 'tasks' use several "
                f"({', '.join(metrics)}); write {{name: {named}, metric: ...}}"
            )
        return Objective(name=named, metric=metrics[0])

    def _check_settings(self) -> None:
        made: tuple[Rows, ...] = ("selection", "test")
        for rows in made:
            if rows in self.cut and self._listed(rows):
                raise ValueError(
                    f"split: its share {rows!r} makes {rows} rows, and the list {rows!r} names "
                    "tasks for them: keep one of the two"
                )
        if self.batch_tokens is not None and self.batch_size is not None:
            raise ValueError(
                "batch_tokens: has no effect beside batch_size, which says how many requests share "
                "a forward pass; keep one of the two"
            )


def _check_name(name: str, key: str, seen: dict[str, str]) -> None:
    """Refuses a task that is named a second time."""
    before = seen.get(name)
    if before == key:
        raise ValueError(f"task {name!r} is named twice in {key!r}")
    if before is not None:
        raise ValueError(
            f"task {name!r} is in both {before!r} and {key!r}: rows that one choice was made on "
            "cannot judge it; give each a task of its own, or let 'split' cut one task"
        )

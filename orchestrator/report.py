"""What came out: tables, the model card, the report and its picture."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.base import TaskScore
from evaluators.lm_harness import LmHarness
from orchestrator import statistics
from orchestrator.settings import CampaignSettings
from orchestrator.statistics import Interval
from orchestrator.storage.reader import CandidateRecord, Reader
from workers.recipe import MergeRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model of the result table."""

    label: str
    record: CandidateRecord
    #: The winner's test fitness minus this one's, with 95 % interval, on the same documents.
    lead: tuple[float, Interval] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of a campaign."""

    settings: CampaignSettings
    winner: CandidateRecord
    lines: Sequence[Line]
    status: Mapping[str, Any]
    versions: Mapping[str, str]
    failures: Sequence[tuple[str, int]]

    @property
    def tests(self) -> bool:
        """Whether the winner was measured on test rows."""
        return bool(self.winner.test)


def collect(reader: Reader, settings: CampaignSettings) -> Result | None:
    """Reads a campaign's result; None if no candidate was measured."""
    name = settings.name
    best = reader.best(name, 1)
    if not best:
        return None
    winner = best[0]
    others = [one for one in reader.references(name) if one.id != winner.id]
    control = reader.best_control(name)
    lines = [Line(label=_label(winner, winner), record=winner, lead=None)]
    lines += [
        Line(label=_label(one, winner), record=one, lead=_lead(winner, one))
        for one in [*others, *([control] if control else [])]
    ]
    return Result(
        settings=settings,
        winner=winner,
        lines=lines,
        status=reader.status(name),
        versions=reader.versions(name),
        failures=reader.failures(name, 5),
    )


def header(result: Result) -> list[str]:
    """Returns the table's column names."""
    tests = [*result.winner.test, "test fitness", "best leads by [95% CI]"] if result.tests else []
    return ["model", "search fitness", *tests]


def rows(result: Result) -> list[list[str]]:
    """Returns the table's cells, the winner first."""
    return [_row(result, line) for line in result.lines]


def as_json(result: Result) -> dict[str, Any]:
    """Returns the table as data."""
    return {
        **result.status,
        "output": result.settings.output_folder,
        "table": [
            {
                "model": line.label,
                "id": line.record.id,
                "search_fitness": line.record.fitness,
                "scores": values(line.record.scores),
                "test": values(line.record.test) or None,
                "test_fitness": line.record.test_fitness,
                "lead": None
                if line.lead is None
                else {"difference": line.lead[0], "interval": list(line.lead[1])},
            }
            for line in result.lines
        ],
    }


def values(scores: Mapping[str, TaskScore]) -> dict[str, float]:
    """Returns task -> value of its metric."""
    return {task: score.value for task, score in scores.items()}


def verdict(result: Result) -> str:
    """Says in a sentence whether the search found something."""
    winner = result.winner
    if winner.role == "reference":
        return f"No candidate beat {winner.label} on the search rows: the result is that model."
    if not result.tests:
        return f"{winner.id} is the best on the search rows. There are no test rows to confirm it."
    beaten = [line for line in result.lines[1:] if line.lead is not None and line.lead[0] > 0]
    clearly = [line for line in beaten if line.lead is not None and line.lead[1][0] > 0]
    return (
        f"On the test rows {winner.id} beats {len(beaten)} of {len(result.lines) - 1} models it is "
        f"compared with, {len(clearly)} of them beyond the 95% interval."
    )


def lm_eval_command(
    settings: CampaignSettings, folder: str, dtype: str, *, brings_code: bool = False
) -> str | None:
    """Returns the stock command that measures a model on the same rows, to the last digit."""
    evaluate = settings.evaluate
    if not isinstance(evaluate, LmHarness):
        return None
    tasks = [one.name for one in evaluate.objectives("search")]
    words = ["lm_eval", "run", "--model", "hf"]
    model = f"pretrained={folder},dtype={dtype}"
    model += ",trust_remote_code=True" if brings_code else ""
    words += ["--model_args", model, "--tasks", ",".join(tasks)]
    words += ["--batch_size", str(evaluate.batch_size)]
    optional = {
        "--include_path": evaluate.include_path,
        "--limit": evaluate.limit,
        "--num_fewshot": evaluate.num_fewshot,
    }
    for flag, value in optional.items():
        words += [] if value is None else [flag, str(value)]
    words += ["--apply_chat_template"] if evaluate.apply_chat_template else []
    return shlex.join(words)


def markdown(result: Result, picture: str) -> str:
    """Returns the report."""
    settings = result.settings
    status = result.status
    parts = [
        f"# Campaign {settings.name}",
        verdict(result),
        _table(header(result), rows(result)),
        f"![fitness over evaluations]({picture})",
        "## What was done",
        _table(
            ["", ""],
            [
                ["candidates measured", str(status["evaluated"])],
                ["candidates failed", str(status["failed"])],
                ["generations", str(status["generation"])],
                ["time", f"{status['elapsed_s']:.0f} s"],
                ["seed", str(settings.seed)],
                *[[name, version] for name, version in result.versions.items()],
            ],
        ),
        _optimism(result),
    ]
    if result.failures:
        parts += [
            "## Failures",
            _table(["cause", "times"], [[c, str(n)] for c, n in result.failures]),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sources(recipe: MergeRecipe) -> str:
    """Returns what a recipe mixes, for people; a recipe may be made of recipes."""
    return ", ".join(
        f"`{one}`" if isinstance(one, str) else f"a `{one.method}` merge of {_sources(one)}"
        for one in recipe.sources
    )


def card(result: Result, record: CandidateRecord, folder: str) -> str:
    """Returns the model card of a candidate, with front matter as the Hugging Face hub reads it."""
    recipe = MergeRecipe.from_dict(record.recipe)
    models = list(dict.fromkeys([recipe.base, *recipe.models]))
    brings_code = bool(recipe.input_scales)
    command = lm_eval_command(result.settings, folder, recipe.dtype, brings_code=brings_code)
    front = ["---", "library_name: transformers", "tags: [merge, evolutionary-search, shoal]"]
    front += ["base_model:", *(f"- {model}" for model in models), "---"]
    lineage = ", ".join(record.parents) or "none (sampled at random or given)"
    parts = [
        "\n".join(front),
        f"# {result.settings.name}: candidate {record.label}",
        (
            f"A `{recipe.method}` merge of {_sources(recipe)} over "
            f"`{recipe.base}`, found by shoal in generation {record.generation} "
            f"(made by {record.operator}, parents: {lineage}; seed {result.settings.seed})."
        ),
        "## Scores",
        _table(["rows", "task", "value", "95% interval", "documents"], _score_rows(record)),
        "" if record.test else "This candidate was not measured on test rows.",
        "## Beside other models",
        verdict(result),
        _table(header(result), rows(result)),
        "## Measure it yourself" if command else "",
        f"```\n{command}\n```" if command else "",
        "## Recipe",
        (
            "`recipe.yaml` is the recipe in mergekit's format, for `shoal merge` or mergekit; "
            "`recipe.json` is the same in full precision with the seed of its masks."
        ),
        "## Software",
        ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(
    history: Sequence[tuple[str, str, float]], references: Sequence[CandidateRecord], path: Path
) -> None:
    """Draws fitness over evaluations: every candidate, the best so far, and the references."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for role, colour, label in (("control", "0.6", "random search"), ("search", "C0", "search")):
        fitness = [one for kind, _, one in history if kind == role]
        if not fitness:
            continue
        numbers = range(1, len(fitness) + 1)
        best = [max(fitness[:count]) for count in numbers]
        axes.plot(numbers, fitness, ".", color=colour, alpha=0.35)
        axes.plot(numbers, best, color=colour, drawstyle="steps-post", label=f"best of {label}")
    measured = [one for one in references if one.fitness is not None]
    for index, reference in enumerate(measured):
        axes.axhline(
            reference.fitness or 0.0, color=f"C{index + 1}", ls="--", lw=1, label=reference.label
        )
    axes.set(xlabel="evaluations", ylabel="fitness on the search rows")
    axes.legend(fontsize="small", loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _label(record: CandidateRecord, winner: CandidateRecord) -> str:
    if record.id == winner.id:
        return f"best: {record.label}"
    if record.role == "control":
        return f"random search: {record.id}"
    return record.label


def _lead(winner: CandidateRecord, other: CandidateRecord) -> tuple[float, Interval] | None:
    if not winner.test or set(winner.test) != set(other.test):
        return None
    return statistics.paired_difference(winner.test, other.test)


def _row(result: Result, line: Line) -> list[str]:
    record = line.record
    cells = [line.label, "-" if record.fitness is None else f"{record.fitness:.3f}"]
    if result.tests:
        cells += [_with_interval(record.test.get(task)) for task in result.winner.test]
        cells.append("-" if record.test_fitness is None else f"{record.test_fitness:.3f}")
        cells.append(_lead_cell(line))
    return cells


def _lead_cell(line: Line) -> str:
    if line.lead is None:
        return ""
    difference, (low, high) = line.lead
    return f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def _with_interval(score: TaskScore | None) -> str:
    if score is None:
        return "-"
    found = statistics.interval(score)
    return f"{score.value:.3f}" + (f" [{found[0]:.3f}, {found[1]:.3f}]" if found else "")


def _score_rows(record: CandidateRecord) -> list[list[str]]:
    found = []
    for kind, scores in (("search", record.scores), ("test", record.test)):
        for task, score in scores.items():
            ends = statistics.interval(score)
            between = f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "unknown"
            found.append([kind, task, repr(score.value), between, str(score.documents)])
    return found


def _optimism(result: Result) -> str:
    """Search minus test, where the two are comparable: as many tasks, each a mean."""
    winner = result.winner
    if (
        winner.test_fitness is None
        or winner.fitness is None
        or len(winner.test) != len(winner.scores)
    ):
        return ""
    gap = winner.fitness - winner.test_fitness
    return (
        f"The best candidate's fitness is {winner.fitness:.3f} on the search rows, which it was "
        f"selected on, and {winner.test_fitness:.3f} on the test rows: {gap:+.3f} of optimism."
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A cell must stay on its line and between its bars."""
    return " ".join(text.split()).replace("|", "\\|")

"""A campaign's result as tables for people, and as data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evaluators.base import DOCUMENTS, Rows, TaskScore
from orchestrator.command_line.views import KINDS, ROLES
from orchestrator.reporting import archives, curves, shared_archive, statistics
from orchestrator.reporting import front as fronts
from orchestrator.reporting.result import Line, Result, values
from orchestrator.reporting.statistics import Difference, Interval
from orchestrator.storage.candidates import CandidateRecord


def header(result: Result) -> list[str]:
    """Returns the column names of the table of models."""
    picked = ["selection fitness"] if _selects(result) else []
    tests = [*result.winner.test, "test fitness", "best leads by [95% CI]", "p"]
    return ["model", "search fitness", *picked, *(tests if result.tests else [])]


def rows(result: Result) -> list[list[str]]:
    """Returns the table of models, the winner first."""
    return [_row(result, line) for line in result.lines]


def control_header() -> list[str]:
    """Returns the column names of the table of control tasks."""
    return ["control task", "best", "beside", "has", "best is better by [95% CI]", "p"]


def control_rows(result: Result) -> list[list[str]]:
    """Returns the table of control tasks: each task of the winner beside each other model."""
    return [
        [
            task,
            with_interval(score),
            line.label,
            with_interval(line.record.control.get(task)),
            *_lead_cells(line.control_leads.get(task)),
        ]
        for task, score in result.winner.control.items()
        for line in result.lines[1:]
        if line.record.control
    ]


def optimism_header() -> list[str]:
    """Returns the column names of the table of optimism."""
    return ["model", "chosen by", "fitness there", "test fitness", "optimism [95% CI]"]


def optimism_rows(result: Result) -> list[list[str]]:
    """Returns the table of optimism: the winner's and that of the random search's best."""
    return [
        [
            one.label,
            f"{one.rows} rows",
            f"{one.fitness:.3f}",
            f"{one.test_fitness:.3f}",
            _lead_cells(one.difference)[0],
        ]
        for one in result.optimism
    ]


def ledger_header(result: Result) -> list[str]:
    """Returns the column names of the ledger."""
    kinds = _spent_kinds(result)
    if result.counted_in == DOCUMENTS:
        return ["documents scored", *(f"{kind} rows" for kind in kinds), "in all"]
    counted = {"search": f" ({result.counted_in})"}  # which add up with no documents
    return ["documents scored", *(f"{kind} rows{counted.get(kind, '')}" for kind in kinds)]


def ledger_rows(result: Result) -> list[list[str]]:
    """Returns who was scored on how many documents, role by role."""
    kinds, adds_up = _spent_kinds(result), result.counted_in == DOCUMENTS
    return [
        [
            role,
            *(f"{spent.get(kind, 0):,}" for kind in kinds),
            *([f"{sum(spent.values()):,}"] if adds_up else []),
        ]
        for role in ROLES
        if (spent := result.status["documents"].get(role))
    ]


def operator_header() -> list[str]:
    """Returns the column names of the table of operators."""
    return ["made by", "candidates", "better than the better parent [95% CI]", "mean gain [95% CI]"]


def operator_rows(result: Result) -> list[list[str]]:
    """Returns what each operator achieved, if any candidate had a parent to be compared with."""
    if not any(one.compared for one in result.operators):
        return []
    return [
        [
            one.operator,
            str(one.children),
            _between(one.success_rate, one.success_interval, ".1%"),
            _between(one.mean_gain, one.gain_interval, "+.3g"),
        ]
        for one in result.operators
    ]


def curve_rows(result: Result) -> list[list[str]]:
    """Returns how the models of the table learned, where any did."""
    labels = {line.record.id: line.label for line in result.lines}
    return [] if result.curves is None else curves.rows(result.curves, labels)


def score_rows(record: CandidateRecord) -> list[list[str]]:
    """Returns a candidate's tasks on all kinds of rows: kind, task, value, interval, documents."""
    found = []
    for kind, scores in scores_of(record).items():
        for task, score in scores.items():
            ends = statistics.interval(score)
            between = f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "unknown"
            found.append([kind, task, repr(score.value), between, str(score.documents)])
    return found


def scores_of(record: CandidateRecord) -> dict[Rows, Mapping[str, TaskScore]]:
    """Returns the kinds of rows that a candidate was measured on, with its scores there."""
    everything: dict[Rows, Mapping[str, TaskScore]] = {
        "search": record.scores,
        "selection": record.selection,
        "test": record.test,
        "control": record.control,
    }
    return {kind: scores for kind, scores in everything.items() if scores}


def as_json(result: Result) -> dict[str, Any]:
    """Returns the result as data."""
    return {
        **result.status,
        "output": result.settings.output_folder,
        "warnings": list(result.warnings),
        "finalists": [one.id for one in result.finalists],
        "table": [_line_as_json(line) for line in result.lines],
        "curves": None if result.curves is None else curves.as_json(result.curves),
        "front": None if result.front is None else fronts.as_json(result.front),
        "archives": None if result.archives is None else archives.as_json(result.archives),
        "shared_archive": (
            None if result.shared_archive is None else shared_archive.as_json(result.shared_archive)
        ),
        "operators": [asdict(one) for one in result.operators],
        "optimism": [
            {
                "model": one.label,
                "rows": one.rows,
                "fitness": one.fitness,
                "test_fitness": one.test_fitness,
                **_as_json(one.difference),
            }
            for one in result.optimism
        ],
    }


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def with_interval(score: TaskScore | None) -> str:
    """Returns a task's value with its 95 % interval, where it has one."""
    if score is None:
        return "-"
    found = statistics.interval(score)
    return f"{score.value:.3f}" + (f" [{found[0]:.3f}, {found[1]:.3f}]" if found else "")


def _between(value: float | None, ends: Interval | None, form: str) -> str:
    if value is None:
        return "-"
    return format(value, form) + (f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else "")


def _selects(result: Result) -> bool:
    return any(line.record.selection_fitness is not None for line in result.lines)


def _row(result: Result, line: Line) -> list[str]:
    record = line.record
    cells = [line.label, _search_cell(record)]
    if _selects(result):
        cells.append(_number(record.selection_fitness))
    if result.tests:
        cells += [with_interval(record.test.get(task)) for task in result.winner.test]
        cells += [_number(record.test_fitness), *_lead_cells(line.lead)]
    return cells


def _search_cell(record: CandidateRecord) -> str:
    """Says what share of the rows the number rests on, unless all, and what is wrong with it."""
    if record.fitness is None:
        return _number(None)
    notes = [f"breaks constraints by {record.violation:.3g}"] if record.violation else []
    if record.fidelity < 1:
        how = "stopped at" if record.stopped else "on"
        notes.insert(0, f"{how} {record.fidelity:.0%} of rows")
    return f"{record.fitness:.3f}" + (f" ({', '.join(notes)})" if notes else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _lead_cells(found: Difference | None) -> list[str]:
    """Returns the difference with its interval, and its p-value."""
    if found is None:
        return ["", ""]
    low, high = found.interval
    p_value = "" if found.p_value is None else f"{found.p_value:.2g}"
    return [f"{found.value:+.3f} [{low:+.3f}, {high:+.3f}]", p_value]


def _spent_kinds(result: Result) -> list[Rows]:
    spent = result.status["documents"].values()
    return [kind for kind in KINDS if any(one.get(kind) for one in spent)]


def _line_as_json(line: Line) -> dict[str, Any]:
    record = line.record
    return {
        "model": line.label,
        "id": record.id,
        "search_fitness": record.fitness,
        "stderr": record.stderr,
        "fidelity": record.fidelity,
        "stopped": record.stopped,
        "violation": record.violation,
        "selection_fitness": record.selection_fitness,
        "test_fitness": record.test_fitness,
        "scores": values(record.scores),
        "selection": values(record.selection) or None,
        "test": values(record.test) or None,
        "control": values(record.control) or None,
        "lead": None if line.lead is None else _as_json(line.lead),
        "control_leads": {task: _as_json(one) for task, one in line.control_leads.items()},
    }


def _as_json(found: Difference) -> dict[str, Any]:
    return {
        "difference": found.value,
        "interval": list(found.interval),
        "p_value": found.p_value,
    }


def _cell(text: str) -> str:
    """A cell must stay on its line and between its bars."""
    return " ".join(text.split()).replace("|", "\\|")

"""The report of a campaign, in Markdown."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.reporting import archives, curves, findings, shared_archive
from orchestrator.reporting import front as fronts
from orchestrator.reporting import result_tables as tables
from orchestrator.reporting.result import Result
from orchestrator.reporting.result_tables import markdown_table

#: Software that says nothing where no model is built.
_OF_MODELS = ("torch", "transformers", "lm_eval", "safetensors")


def markdown(result: Result, picture: str) -> str:
    """Returns the report; `picture` is the file of `picture.draw`."""
    parts = [
        f"# Campaign {result.settings.name}",
        findings.verdict(result),
        findings.counterparts(result),
        findings.constraints(result),
        "\n".join(f"- **Warning**: {text}" for text in result.warnings),
        markdown_table(tables.header(result), tables.rows(result)),
        findings.CLEARLY if result.tests else "",
        f"![fitness over evaluations]({picture})",
        *_front(result),
        *_curves(result),
        *_archives(result),
        *_shared_archive(result),
        *_controls(result),
        *_optimism(result),
        "## What was done",
        findings.picking(result),
        markdown_table(["", ""], _facts(result)),
        *_operators(result),
        *_ledger(result),
        *_failures(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def lines(result: Result) -> list[str]:
    """Returns what is said at the end of a run below its table: findings, then warnings."""
    winners = [one for one in result.optimism if one.label == result.lines[0].label]
    said = [findings.verdict(result), findings.counterparts(result), findings.constraints(result)]
    said.append(findings.controls(result))
    said += findings.optimism(replace(result, optimism=winners))
    if result.archives is not None:
        said.append(archives.sentence(result.archives))
    if result.shared_archive is not None:
        said.append(shared_archive.sentence(result.shared_archive))
    said += [findings.racing(result), *(f"warning: {text}" for text in result.warnings)]
    return [text for text in said if text]


def _front(result: Result) -> list[str]:
    if result.front is None:
        return []
    return [
        "## The front",
        (
            "Whatever else keeps the constraints and is better than one of these in an objective "
            "is worse in another. By the search rows, which the search selects on."
        ),
        markdown_table(fronts.header(result.front), fronts.rows(result.front)),
        f"![the front]({fronts.PICTURE})",
    ]


def _curves(result: Result) -> list[str]:
    if result.curves is None:
        return []
    return [
        "## How they learned",
        curves.sentence(result.curves),
        f"![learning curves]({curves.PICTURE})",
        markdown_table(curves.header(result.curves), tables.curve_rows(result)),
    ]


def _archives(result: Result) -> list[str]:
    found = result.archives
    if found is None:
        return []
    several = len(found.archives) > 1
    parts = ["## The archives" if several else "## The archive", archives.sentence(found)]
    parts.append(markdown_table(archives.sums_header(), archives.sums_rows(found)))
    parts.append(f"![the archive]({archives.PICTURE})")
    for named in found.archives:
        parts.append(f"The best cells by {named.quality}:")
        parts.append(markdown_table(archives.header(named), archives.rows(named)))
    parts.append("How they were filled:" if several else "How it was filled:")
    parts.append(markdown_table(archives.course_header(), archives.course_rows(found)))
    return parts


def _shared_archive(result: Result) -> list[str]:
    found = result.shared_archive
    if found is None:
        return []
    table = markdown_table(shared_archive.header(), shared_archive.rows(found))
    return ["## The archive", shared_archive.sentence(found), table]


def _controls(result: Result) -> list[str]:
    text = findings.controls(result)
    if not text:
        return []
    rows = tables.control_rows(result)
    table = markdown_table(tables.control_header(), rows) if rows else ""
    return ["## Did anything else get worse?", text, table]


def _optimism(result: Result) -> list[str]:
    sentences = findings.optimism(result)
    if not sentences:
        return []
    return [
        "## Optimism",
        "How much higher fitness is on rows that a model was chosen by than on test rows.",
        markdown_table(tables.optimism_header(), tables.optimism_rows(result)),
        " ".join(sentences),
    ]


def _facts(result: Result) -> list[list[str]]:
    status = result.status
    return [
        ["candidates measured", str(status["evaluated"])],
        ["of these stopped early", str(status["stopped"])],
        ["candidates failed", str(status["failed"])],
        ["generations", str(status["generation"])],
        ["the search ended because", findings.ended(result)],
        ["time", f"{status['elapsed_s']:.0f} s"],
        ["seed", str(result.settings.seed)],
        *[
            [name, version]
            for name, version in result.versions.items()
            if result.is_model or name not in _OF_MODELS
        ],
    ]


def _operators(result: Result) -> list[str]:
    rows = tables.operator_rows(result)
    if not rows:
        return []
    return [
        "## What made the candidates",
        markdown_table(tables.operator_header(), rows),
        "Intervals take children as independent of each other; those of one family are not quite.",
    ]


def _ledger(result: Result) -> list[str]:
    rows = tables.ledger_rows(result)
    if not rows:
        return []
    table = markdown_table(tables.ledger_header(result), rows)
    return ["## What was spent", table, findings.racing(result)]


def _failures(result: Result) -> list[str]:
    if not result.failures:
        return []
    rows = [[cause, str(num)] for cause, num in result.failures]
    return ["## Failures", markdown_table(["cause", "times"], rows)]

"""The model card of a candidate: what it is, what it scored, and how to check that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from evaluators.lm_harness import LmHarness
from orchestrator.reporting import findings, stock_command
from orchestrator.reporting import result_tables as tables
from orchestrator.reporting.result import Result
from orchestrator.reporting.result_tables import markdown_table
from orchestrator.settings import CampaignSettings
from orchestrator.storage.candidates import CandidateRecord
from workers.lineage import LineageRecipe, ModelRecipe
from workers.recipe import MergeRecipe, read_recipe

#: What the recipe's files are for.
_MERGE_FILES = (
    "`recipe.yaml` is the recipe in mergekit's format, for `shoal merge` or mergekit; "
    "`recipe.json` is the same in full precision with the seed of its masks."
)
_LINEAGE_FILES = (
    "`recipe.json` lists every merge on the way to this model; `shoal merge recipe.json` builds it "
    "again. mergekit's format has no words for it."
)


def card(result: Result, record: CandidateRecord, folder: str, files: Mapping[str, str]) -> str:
    """Returns a candidate's model card, with front matter as the Hugging Face hub reads it.

    `files` are those of `rows_files`, to be written into the same folder.
    """
    recipe = cast("ModelRecipe", read_recipe(record.recipe))
    models = list(dict.fromkeys([recipe.base, *recipe.models]))
    front = ["---", "library_name: transformers", "tags: [merge, evolutionary-search, shoal]"]
    front += ["base_model:", *(f"- {model}" for model in models), "---"]
    parts = [
        "\n".join(front),
        f"# {result.settings.name}: candidate {record.label}",
        _origin(result, record, recipe),
        "\n".join(f"- **Note**: {text}" for text in result.warnings),
        "## Scores",
        markdown_table(
            ["rows", "task", "value", "95% interval", "documents"], tables.score_rows(record)
        ),
        _missing(record),
        "## Beside other models",
        _whose(result, record),
        findings.verdict(result),
        findings.counterparts(result),
        findings.picking(result),
        markdown_table(tables.header(result), tables.rows(result)),
        findings.controls(result),
        " ".join(findings.optimism(result)),
        findings.CLEARLY if result.tests else "",
        *_commands(result.settings, record, recipe, folder, files),
        "## Recipe",
        _LINEAGE_FILES if isinstance(recipe, LineageRecipe) else _MERGE_FILES,
        "## Software",
        ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows_files(settings: CampaignSettings, record: CandidateRecord) -> dict[str, str]:
    """Returns the files that a card's commands read: name -> text.

    They say which documents of a task are which rows, where rows were cut from one task. Where the
    task's own files are not to be had any more, they are left out, and the card says so.
    """
    evaluate = settings.evaluate
    if not isinstance(evaluate, LmHarness):
        return {}
    cut = [rows for rows in tables.scores_of(record) if rows in evaluate.cut]
    try:
        return {
            stock_command.samples_name(rows): stock_command.samples(evaluate, rows) for rows in cut
        }
    except ValueError:
        return {}


def _origin(result: Result, record: CandidateRecord, recipe: ModelRecipe) -> str:
    lineage = ", ".join(record.parents) or "none (sampled at random or given)"
    return (
        f"{_made_of(recipe)}, found by shoal in generation {record.generation} "
        f"(made by {record.operator}, parents: {lineage}; seed {result.settings.seed})."
    )


def _made_of(recipe: ModelRecipe) -> str:
    if isinstance(recipe, MergeRecipe):
        return f"A `{recipe.method}` merge of {_sources(recipe)} over `{recipe.base}`"
    models = ", ".join(f"`{one}`" for one in recipe.sources)
    if not recipe.steps:
        return f"{models} as it is"
    num = len(recipe.steps)
    return f"A descendant of {models} over `{recipe.base}` by {num} merge{'s' if num > 1 else ''}"


def _sources(recipe: MergeRecipe) -> str:
    """Returns what a recipe mixes, for people; a recipe may be made of recipes."""
    return ", ".join(
        f"`{one}`" if isinstance(one, str) else f"a `{one.method}` merge of {_sources(one)}"
        for one in recipe.sources
    )


def _missing(record: CandidateRecord) -> str:
    """Says what the scores above do not rest on."""
    sentences = []
    if record.fitness is not None and record.fidelity < 1:
        how = "A race ended it" if record.stopped else "It was measured"
        sentences.append(
            f"{how} after {record.fidelity:.0%} of the search rows: its fitness of "
            f"{record.fitness:.3f} there is an estimate."
        )
    if not record.test:
        sentences.append("This candidate was not measured on test rows.")
    return " ".join(sentences)


def _whose(result: Result, record: CandidateRecord) -> str:
    if record.id == result.winner.id:
        return ""
    return (
        f"What follows is about the campaign's best, {result.winner.label}; the model in this "
        f"folder is {record.label}."
    )


def _commands(
    settings: CampaignSettings,
    record: CandidateRecord,
    recipe: ModelRecipe,
    folder: str,
    files: Mapping[str, str],
) -> list[str]:
    evaluate = settings.evaluate
    if not isinstance(evaluate, LmHarness):
        return []
    kinds = list(tables.scores_of(record))
    named = [
        rows
        for rows in kinds
        if rows not in evaluate.cut or stock_command.samples_name(rows) in files
    ]
    brings_code = isinstance(recipe, MergeRecipe) and bool(recipe.input_scales)
    lines = [
        f"# {rows} rows\n"
        + stock_command.command(evaluate, rows, folder, recipe.dtype, brings_code=brings_code)
        for rows in named
    ]
    parts = (settings.racing, settings.refresh, settings.estimator)
    in_blocks = any(one is not None for one in parts)
    return [
        "## Measure it yourself" if kinds else "",
        "```\n" + "\n".join(lines) + "\n```" if lines else "",
        stock_command.closeness(evaluate, recipe.dtype, in_blocks=in_blocks) if lines else "",
        ""
        if named == kinds
        else "There is no command for rows that were cut from a task: its files were not found.",
    ]

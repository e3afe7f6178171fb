"""A candidate as a folder: its model with card and recipe, or the values that it stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluators.whole_file import whole_file
from orchestrator.exporting import machine_folder, model_folder
from orchestrator.matching import builds_models
from orchestrator.reporting import model_card
from orchestrator.reporting.result import Result, values
from orchestrator.settings import CampaignSettings
from orchestrator.storage.candidates import CandidateRecord
from workers.ctm.recipe import CtmRecipe
from workers.lineage import LineageRecipe
from workers.recipe import MergeRecipe, read_recipe
from workers.values import ValuesRecipe

#: The file of a candidate that is no model.
VALUES = "values.json"


def write_best(result: Result) -> list[Path]:
    """Writes the winner into the campaign's output folder; returns the files that matter."""
    folder, settings = Path(result.settings.output_folder), result.settings
    recipe = read_recipe(result.winner.recipe)
    write(result.winner, settings, result.versions, result, folder / "best", replace=True)
    if isinstance(recipe, ValuesRecipe):
        return [folder / "best" / VALUES]
    if isinstance(recipe, CtmRecipe):
        return sorted((folder / "best").iterdir())
    assert isinstance(recipe, MergeRecipe | LineageRecipe)
    model_folder.write_recipe_or_reason(recipe, folder / "recipe.yaml")
    return [folder / "recipe.yaml", *sorted((folder / "best").rglob("*.safetensors"))]


def write(
    record: CandidateRecord,
    settings: CampaignSettings,
    versions: Mapping[str, str],
    result: Result | None,
    folder: Path,
    *,
    replace: bool,
) -> Path:
    """Writes a candidate's folder; returns what was written.

    Args:
        record: The candidate.
        settings: Its campaign's settings.
        versions: What its campaign was run with.
        result: What its campaign came to, for the model's card; None if nothing was measured.
        folder: Where to write; a model's appears whole or not at all.
        replace: Whether what is there is replaced.

    Raises:
        ExportError: if the folder holds something already and `replace` is false.
    """
    recipe = read_recipe(record.recipe)
    if isinstance(recipe, ValuesRecipe):
        model_folder.refuse_used(folder, replace=replace)
        return _write_values(record, settings, versions, folder)
    if isinstance(recipe, CtmRecipe):
        machine_folder.write(record, recipe, settings, folder, replace=replace)
        return folder
    assert isinstance(recipe, MergeRecipe | LineageRecipe)
    policy = builds_models(settings).policy
    files = model_card.rows_files(settings, record)
    card = "" if result is None else model_card.card(result, record, str(folder), files)
    model_folder.write_folder(recipe, policy, folder, card=card, replace=replace)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_recipe(
    record: CandidateRecord,
    settings: CampaignSettings,
    versions: Mapping[str, str],
    folder: Path,
    *,
    replace: bool,
) -> Path:
    """Writes what builds a candidate, and no model; returns the file.

    Raises:
        ExportError: if the folder holds something already and `replace` is false.
    """
    model_folder.refuse_used(folder, replace=replace)
    recipe = read_recipe(record.recipe)
    if isinstance(recipe, ValuesRecipe):
        return _write_values(record, settings, versions, folder)
    if isinstance(recipe, LineageRecipe | CtmRecipe):  # mergekit's format has no words for them
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(recipe.as_dict(), indent=1) + "\n"
        (folder / "recipe.json").write_text(text, encoding="utf-8")
        return folder / "recipe.json"
    assert isinstance(recipe, MergeRecipe)
    model_folder.write_recipe(recipe, folder / "recipe.yaml")
    return folder / "recipe.yaml"


def _write_values(
    record: CandidateRecord, settings: CampaignSettings, versions: Mapping[str, str], folder: Path
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / VALUES) as part:
        found = _values_file(record, settings, versions)
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return folder / VALUES


def _values_file(
    record: CandidateRecord, settings: CampaignSettings, versions: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "campaign": settings.name,
        "seed": settings.seed,
        "candidate": record.label,
        "generation": record.generation,
        "operator": record.operator,
        "parents": list(record.parents),
        "fitness": record.fitness,
        "scores": values(record.scores),
        "selection": values(record.selection) or None,
        "test": values(record.test) or None,
        "values": record.recipe["values"],
        "versions": {name: versions[name] for name in ("shoal", "numpy") if name in versions},
    }

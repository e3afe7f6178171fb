"""What the longer commands do, without the command line around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluators.base import Rows
from orchestrator import assemble, config, report
from orchestrator import export as exports
from orchestrator.settings import CampaignSettings
from orchestrator.storage.reader import Reader
from workers.models import library
from workers.models.library import ModelPolicy
from workers.recipe import MergeRecipe, plain_copy
from workers.run import best_device


def check(settings: CampaignSettings) -> dict[str, Any]:
    """Returns all that can be known before a campaign runs.

    Raises:
        CheckError: naming what is missing or does not fit.
    """
    parts = assemble.assemble(settings)
    return {
        "campaign": settings.name,
        "space": dict(parts.space.describe()),
        "documents": dict(parts.facts.documents),
        "candidates": assemble.num_expected(parts),
        "needs": assemble.estimate(parts),
        "evaluators": assemble.check_resources(settings.cluster),
    }


def check_lines(found: dict[str, Any]) -> list[str]:
    """Returns what `check` found for people."""
    space, needs = found["space"], found["needs"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in space.get("genes_by_kind", {}).items())
    documents = ", ".join(f"{task} {count}" for task, count in found["documents"].items())
    return [
        f"campaign    {found['campaign']}: all found, nothing run",
        (
            f"models      {space['architecture']}, {space['layers']} layers, "
            f"{space['parameters']:,} parameters, {space['dtype']}, "
            f"vocabulary {space['vocabulary']}"
        ),
        f"space       {space['genes']} genes" + (f": {kinds}" if kinds else ""),
        *(f"{label:<11} {text}" for label, text in space.get("summary", {}).items()),
        f"documents   {documents}",
        f"candidates  {found['candidates'] or 'as many as time allows'}",
        f"evaluators  {found['evaluators']}",
        (
            f"memory      about {_size(needs['memory_per_evaluator'])} an evaluator of "
            f"{_size(needs['memory'])}"
        ),
        f"disk        about {_size(needs['disk'])} of {_size(needs['disk_free'])} free",
    ]


def export(
    reader: Reader, name: str, candidate: str, folder: Path, *, recipe_only: bool, force: bool
) -> Path:
    """Writes a candidate's model folder, or only its recipe; returns what was written.

    Raises:
        ExportError: if the folder holds something already.
    """
    record = reader.candidate(name, candidate)
    settings = config.from_dict(reader.settings(name), origin=f"campaign {name}")
    recipe = MergeRecipe.from_dict(record.recipe)
    if recipe_only:
        exports.refuse_used(folder, replace=force)
        exports.write_recipe(recipe, folder / "recipe.yaml")
        return folder / "recipe.yaml"
    result = report.collect(reader, settings)
    card = "" if result is None else report.card(result, record, str(folder))
    exports.write_folder(recipe, settings.space.policy, folder, card=card, replace=force)
    return folder


def merge(path: Path, folder: Path, policy: ModelPolicy, *, seed: int, force: bool) -> str:
    """Builds a model from a recipe file; returns what was written, for people.

    Raises:
        ValueError: if the recipe or its models cannot be used.
    """

    def facts(model: str) -> tuple[int, str]:
        found = library.inspect(model, policy)
        return found.num_layers, found.dtype

    exports.refuse_used(folder, replace=force)
    recipe = exports.read_recipe(path, facts)
    recipe = replace(recipe, seed=seed) if path.suffix != ".json" else recipe
    note = _check_models(recipe, policy)
    models = ", ".join(f"`{model}`" for model in recipe.models)
    card = f"# {folder.name}\n\nA `{recipe.method}` merge of {models}.\n"
    with assemble.about(""):
        exports.write_folder(recipe, policy, folder, card=card, replace=force)
    return f"wrote {folder}{note}"


def _check_models(recipe: MergeRecipe, policy: ModelPolicy) -> str:
    """Refuses models that cannot be merged, as far as headers tell; returns what is to be known."""
    routes = any(part.origins is not None for part in recipe.slices)
    nested = any(isinstance(source, MergeRecipe) for source in recipe.sources)
    facts = [library.inspect(model, policy) for model in recipe.models]
    if not (routes or nested):  # else models may be of different depth: seen layer by layer
        library.check_family(facts[-1], facts[:-1], aligns_tokens=True)
    if all(one.vocabulary in (None, facts[-1].vocabulary) for one in facts):
        return ""
    kept = "all tokens are" if recipe.tokenizer == "union" else f"those of {recipe.base!r} are"
    return f"; vocabularies differ: {kept} kept, rows matched by token"


def evaluate(model: str, settings: CampaignSettings) -> dict[str, Any]:
    """Returns a model's scores on the campaign's search and test rows.

    Raises:
        CheckError: if the model or the tasks cannot be used.
    """
    with assemble.about(""):
        policy = settings.space.policy
        facts = library.inspect(model, policy)
        wanted = settings.space.dtype
        dtype = facts.dtype if wanted == "auto" else wanted
        settings.evaluate.check()
        from workers.builders.settings import MergeSettings

        builder = MergeSettings(base=model, dtype=dtype, policy=policy).open(best_device())
        language = builder.build(
            plain_copy(model, base=model, num_layers=facts.num_layers, dtype=dtype)
        )
        evaluator = settings.evaluate.open(language)
        kinds: tuple[Rows, ...] = ("search", "test")
        found: dict[str, Any] = {"model": model}
        for rows in kinds:
            found[rows] = None
            if rows == "search" or settings.evaluate.tests:
                score = evaluator.evaluate(rows)
                found[rows] = {
                    "fitness": score.fitness,
                    "scores": report.values(score.tasks),
                    "stderr": {task: one.stderr for task, one in score.tasks.items()},
                }
        return found


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"

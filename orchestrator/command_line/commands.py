"""What the longer commands do, without the command line around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluators.base import Rows
from evaluators.pooling import pool
from orchestrator import assemble, config
from orchestrator.exporting import model_folder as exports
from orchestrator.reporting import model_card
from orchestrator.reporting import result as results
from orchestrator.settings import CampaignSettings
from orchestrator.storage.reader import Reader
from workers.models import library
from workers.models.library import ModelPolicy
from workers.recipe import MergeRecipe, plain_copy
from workers.run import best_device


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
    result = results.collect(reader, settings)
    rows_files = model_card.rows_files(settings, record)
    card = "" if result is None else model_card.card(result, record, str(folder), rows_files)
    exports.write_folder(recipe, settings.space.policy, folder, card=card, replace=force)
    for file, text in rows_files.items():
        (folder / file).write_text(text, encoding="utf-8")
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
        regime = assemble.regime_of(settings, settings.evaluate.check())
        from workers.builders.settings import MergeSettings

        builder = MergeSettings(base=model, dtype=dtype, policy=policy).open(best_device())
        language = builder.build(
            plain_copy(model, base=model, num_layers=facts.num_layers, dtype=dtype)
        )
        evaluator = settings.evaluate.open(language)
        kinds: tuple[Rows, ...] = ("search", "selection", "test", "control")
        found: dict[str, Any] = {"model": model}
        for rows in kinds:
            found[rows] = None
            if rows in settings.evaluate.kinds:
                # In the blocks of the campaign, so that its scores are these to the last bit.
                blocks = regime.blocks if rows == "search" else (None,)
                score = pool([evaluator.evaluate(rows, documents=one) for one in blocks])
                found[rows] = {
                    "fitness": score.fitness,
                    "scores": results.values(score.tasks),
                    "stderr": {task: one.stderr for task, one in score.tasks.items()},
                }
        return found

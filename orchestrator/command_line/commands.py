"""What the longer commands do, without the command line around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluators.base import Language, Rows, Subject, Values
from evaluators.pooling import pool
from orchestrator import assemble, config
from orchestrator.exporting import candidate_folder
from orchestrator.exporting import model_folder as exports
from orchestrator.matching import builds_models, scored_by
from orchestrator.reporting import result as results
from orchestrator.settings import CampaignSettings
from orchestrator.spaces.vector import VectorSpace
from orchestrator.storage.reader import Reader
from workers.models import library
from workers.models.library import ModelPolicy
from workers.recipe import MergeRecipe, plain_copy
from workers.run import best_device


def export(
    reader: Reader, name: str, candidate: str, folder: Path, *, recipe_only: bool, force: bool
) -> Path:
    """Writes a candidate's folder, or only its recipe; returns what was written.

    Raises:
        ExportError: if the folder holds something already.
    """
    record = reader.candidate(name, candidate)
    settings = config.from_dict(reader.settings(name), origin=f"campaign {name}")
    versions = reader.versions(name)
    if recipe_only:
        return candidate_folder.write_recipe(record, settings, versions, folder, replace=force)
    result = results.collect(reader, settings)
    return candidate_folder.write(record, settings, versions, result, folder, replace=force)


def merge(path: Path, folder: Path, policy: ModelPolicy, *, seed: int, force: bool) -> str:
    """Builds a model from a recipe file; returns what was written, for people.

    Raises:
        ValueError: if the recipe or its models cannot be used.
    """

    def facts(model: str) -> tuple[int, str]:
        found = library.inspect(model, policy)
        return found.num_layers, found.dtype

    exports.refuse_whole(folder, replace=force)
    recipe = exports.read_recipe(path, facts)
    note, how = "", "lineage"
    if isinstance(recipe, MergeRecipe):
        recipe = replace(recipe, seed=seed) if path.suffix != ".json" else recipe
        note, how = _check_models(recipe, policy), f"`{recipe.method}` merge"
    models = ", ".join(f"`{model}`" for model in recipe.models)
    card = f"# {folder.name}\n\nA {how} of {models}.\n"
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

    Where the campaign searches values, `model` is a file of these, as `values.json` is.

    Raises:
        CheckError: if the model or the tasks cannot be used.
    """
    with assemble.about(""):
        resident = _READERS[scored_by(settings.evaluate)](model, settings)
        regime = assemble.regime_of(settings, settings.evaluate.check())
        evaluator = settings.evaluate.open(resident)
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


def _model(model: str, settings: CampaignSettings) -> Language:
    """Loads a model as the campaign would."""
    from workers.builders.settings import MergeSettings

    space = builds_models(settings)
    facts = library.inspect(model, space.policy)
    dtype = facts.dtype if space.dtype == "auto" else space.dtype
    builder = MergeSettings(base=model, dtype=dtype, policy=space.policy).open(best_device())
    return builder.build(plain_copy(model, base=model, num_layers=facts.num_layers, dtype=dtype))


def _network(model: str, settings: CampaignSettings) -> Any:
    """Loads a trained machine."""
    from workers.ctm.machine import Machine

    builder = assemble.assemble(settings).space.builder.open(best_device())
    builder.resident.trained = Machine.from_pretrained(model).to(builder.resident.device)
    return builder.resident


def _values(file: str, settings: CampaignSettings) -> Values:
    """Reads the values of genes from a file, checked."""
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file!r} cannot be read: {error}; this campaign searches values: name a file of "
            "them as JSON, such as the values.json that `shoal export` writes"
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("values", data), dict):
        raise ValueError(  # noqa: TRY004  (what the file says is wrong)
            f"{file!r}: expected a mapping: gene -> value"
        )
    space = assemble.assemble(settings).space
    assert isinstance(space, VectorSpace), "no other space gives values"
    return Values(by_gene=space.recipe(data.get("values", data)).values)


_READERS: Mapping[Subject, Callable[[str, CampaignSettings], Any]] = {
    "language": _model,
    "network": _network,
    "values": _values,
}

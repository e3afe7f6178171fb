"""From a recipe to files: the model's folder, its card, and the recipe in mergekit's format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from evaluators.whole_file import whole_folder
from orchestrator import mergekit, yaml_file
from workers.lineage import LineageRecipe, ModelRecipe
from workers.models.library import ModelError, ModelPolicy
from workers.recipe import MergeRecipe


class ExportError(ValueError):
    """A folder that cannot be written to."""


def write_folder(
    recipe: ModelRecipe, policy: ModelPolicy, folder: Path, *, card: str, replace: bool = False
) -> None:
    """Builds a model into a folder; it appears whole or not at all.

    Raises:
        ExportError: if the folder holds something already and `replace` is false.
    """
    refuse_whole(folder, replace=replace)
    from workers.export import write_model

    with whole_folder(folder) as partial:
        write_model(recipe, policy, partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        write_recipe_or_reason(recipe, partial / "recipe.yaml")


def write_recipe_or_reason(recipe: ModelRecipe, path: Path) -> None:
    """Writes a recipe as mergekit's YAML, or why that cannot say it: a model is worth more."""
    try:
        write_recipe(recipe, path)
    except mergekit.RecipeError as error:
        path.write_text(
            f"# mergekit's format cannot say this recipe: {error}.\n"
            "# `shoal merge recipe.json` builds the model beside that file.\n",
            encoding="utf-8",
        )


def write_recipe(recipe: ModelRecipe, path: Path) -> None:
    """Writes a recipe as mergekit's YAML; merges that it is made of become documents before it.

    Raises:
        RecipeError: if that format cannot say it.
    """
    if isinstance(recipe, LineageRecipe):
        raise mergekit.RecipeError("parents of a lineage are cut in the middle of tensors")
    documents = _documents(recipe)
    head = "# Written by shoal. Build it with `shoal merge` or `mergekit-yaml`.\n"
    if len(documents) > 1:
        head = (
            "# Written by shoal. Build it with `mergekit-multi`; `shoal merge recipe.json` gives\n"
            "# the very model beside that file.\n"
        )
    if recipe.method.startswith(("dare", "della")):
        head += (
            "# Random masks are not part of this format, nor is a division by the density: it is\n"
            "# in the weights here, or mergekit's own rescaling stands for it. `shoal merge\n"
            "# recipe.json` gives the very model beside that file.\n"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "---\n".join(yaml_file.dump(document) for document in documents)
    path.write_text(head + text, encoding="utf-8")


def _documents(recipe: MergeRecipe) -> list[dict[str, Any]]:
    """Returns mergekit's configurations: those of nested merges first, which have names."""
    found: list[dict[str, Any]] = []
    sources: list[str] = []
    for one in recipe.sources:
        if isinstance(one, str):
            sources.append(one)
            continue
        *before, last = _documents(one)
        sources.append(f"merge-{one.digest()[:12]}")
        found += [*before, {"name": sources[-1], **last}]
    return [*found, mergekit.write(changed(recipe, sources=tuple(sources)))]


def read_recipe(path: Path, facts: Callable[[str], tuple[int, str]]) -> ModelRecipe:
    """Reads a recipe: mergekit's YAML, or the JSON that lies in exported folders.

    Raises:
        ValueError: naming what is wrong with it.
    """
    if path.suffix == ".json":
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            known: dict[str, type[ModelRecipe]] = {"lineage": LineageRecipe, "merge": MergeRecipe}
            return known[data.get("kind", "merge")].from_dict(data)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise mergekit.RecipeError(f"{path} is no recipe: {error}") from error
    try:
        return mergekit.read(yaml_file.load(path).data, facts)
    except ModelError:
        raise  # it says by itself which model, and what to do
    except mergekit.RecipeError as error:
        raise mergekit.RecipeError(f"{path}: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise mergekit.RecipeError(
            f"{path} is no recipe in mergekit's format: {error!r}"
        ) from error


def refuse_whole(folder: Path, *, replace: bool) -> None:
    """Refuses a folder that a whole one cannot take the place of.

    Raises:
        ExportError: if this process is in the folder, it is not empty, or it cannot be made.
    """
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ExportError(f"folder {str(folder)!r} is in use as the current one; name a new one")
    refuse_used(folder, replace=replace)


def refuse_used(folder: Path, *, replace: bool) -> None:
    """Refuses a folder that something would be lost from.

    Raises:
        ExportError: if the folder exists and is not empty, or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{str(folder)!r} is a file, expected a folder to write")
    home = next(one for one in folder.absolute().parents if one.exists())
    if not folder.exists() and not (home.is_dir() and os.access(home, os.W_OK)):
        raise ExportError(
            f"folder {str(folder)!r} cannot be made: {str(home)!r} cannot be written to"
        )
    if not replace and folder.is_dir() and any(folder.iterdir()):
        raise ExportError(f"folder {str(folder)!r} is not empty; name a new one, or use --force")

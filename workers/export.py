"""Writes a recipe's model as an ordinary Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

from workers.builders.settings import MergeSettings
from workers.library import ModelPolicy
from workers.recipe import MergeRecipe


def write_model(recipe: MergeRecipe, policy: ModelPolicy, folder: Path) -> None:
    """Builds the model on the CPU and saves weights, configuration, tokenizer and recipe.

    Raises:
        ValueError: if the recipe does not fit its models or gives numbers that are not finite.
    """
    settings = MergeSettings(base=recipe.base, dtype=recipe.dtype, policy=policy)
    language = settings.open("cpu").build(recipe)
    language.model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
    text = json.dumps(recipe.as_dict(), indent=1)
    (folder / "recipe.json").write_text(text + "\n", encoding="utf-8")

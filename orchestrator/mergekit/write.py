"""From a recipe to mergekit's configuration."""

from __future__ import annotations

from typing import Any

from orchestrator.mergekit.dialect import RecipeError, find_method
from orchestrator.mergekit.shares import divide_weights
from orchestrator.mergekit.slices import SliceWriter, write_reference
from workers.recipe import MergeRecipe


def write(recipe: MergeRecipe) -> dict[str, Any]:
    """Returns the recipe as mergekit's configuration.

    mergekit's slerp has one of its two models as `base_model`, which then gives configuration and
    tokenizer as well, and methods without a base take them from any model: there a recipe's own
    base is lost. Tensors before and after the layers that have parts of their own become slices
    without layers. DARE's division by the density, which mergekit does not have, is put into the
    weights. Where that cannot be (weights normalised by votes, DELLA's own density for each
    number), mergekit's rescaling stands for it: masks are drawn anew there anyway.

    Raises:
        RecipeError: if mergekit's format cannot say the same; the message says what.
    """
    facts, dialect = find_method(recipe.method)
    _refuse_unsayable(recipe)
    recipe = divide_weights(recipe, facts, dialect)
    writer = SliceWriter(recipe, facts, dialect)
    config: dict[str, Any] = {"merge_method": recipe.method}
    if writer.base is not None:
        config["base_model"] = write_reference(writer.base)
    parameters = writer.parameters()
    if parameters:
        config["parameters"] = parameters
    config["dtype"] = "float32"
    config["out_dtype"] = recipe.dtype
    if recipe.tokenizer != "base":
        _check_tokenizer(recipe, writer.base)
        config["tokenizer_source"] = recipe.tokenizer
    config["slices"] = writer.slices()
    return config


def _refuse_unsayable(recipe: MergeRecipe) -> None:
    for source in recipe.sources:
        if isinstance(source, MergeRecipe):
            raise RecipeError(
                f"a source is itself a merge ({source.method}), and mergekit's format holds one "
                "merge: build that one first and name its folder, or keep the recipe as JSON"
            )
    if recipe.input_scales:
        raise RecipeError(
            "scaled inputs of layers cannot be said in mergekit's format where they are not folded "
            "into weights"
        )
    if recipe.chat_template not in ("base", recipe.base):
        raise RecipeError(
            f"chat_template: {recipe.chat_template!r} cannot be said in mergekit's format, which "
            "takes the base's or a template's text"
        )
    unknown = set(recipe.options) - _names(recipe.method)
    if unknown:
        raise RecipeError(f"{recipe.method} has no option {sorted(unknown)[0]!r}")


def _names(method: str) -> set[str]:
    facts, _ = find_method(method)
    return {*facts.options, *(one.name for one in facts.parameters)}


def _check_tokenizer(recipe: MergeRecipe, base: str | None) -> None:
    """Refuses a union with the tokens of a model that mergekit would not see."""
    if recipe.base not in (base, *recipe.sources):
        raise RecipeError(
            f"the tokenizer is a union with {recipe.base!r}, which mergekit's {recipe.method} "
            "does not read"
        )

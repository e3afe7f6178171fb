"""Values of a setting in full, and DARE's division by the density in terms of weights."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.mergekit.dialect import Dialect, RecipeError
from workers.methods.registry import MethodFacts, Parameter
from workers.recipe import MergeRecipe, Part, Setting


def values_of(
    recipe: MergeRecipe, setting: Setting, parameter: Parameter, num_sources: int
) -> tuple[float, ...]:
    """Returns a parameter's values, those of the whole recipe or defaults where it has none.

    Raises:
        RecipeError: if there are none, or not as many as there are sources.
    """
    expected = parameter.count(num_sources)
    held = parameter.values(setting.values, recipe.options, num_sources)
    if len(held) != expected:
        raise RecipeError(
            f"{recipe.method} needs {expected} values of {parameter.name!r}, the recipe has "
            f"{len(held)}"
        )
    return held


def divide_weights(recipe: MergeRecipe, facts: MethodFacts, dialect: Dialect) -> MergeRecipe:
    """Returns a recipe that rescales as mergekit can: by the L1 norm, or not at all.

    Raises:
        RecipeError: if weights that are to be normalised sum to zero.
    """
    options = {**facts.options, **recipe.options}
    if options.get("rescale") != "density":
        return recipe
    normalizes = bool(options["normalize"])
    if not dialect.divides or (normalizes and dialect.votes):
        return replace(recipe, options={**options, "rescale": "l1"})

    def divided(part: Part) -> tuple[Setting, ...]:
        count = len(recipe.sources) if part.sources is None else len(part.sources)
        return tuple(_divided(recipe, facts, one, count, normalizes) for one in part.settings)

    return replace(
        recipe,
        slices=tuple(replace(part, settings=divided(part)) for part in recipe.slices),
        before=recipe.before and replace(recipe.before, settings=divided(recipe.before)),
        after=recipe.after and replace(recipe.after, settings=divided(recipe.after)),
        options={**options, "rescale": "none", "normalize": False},
    )


def _divided(
    recipe: MergeRecipe, facts: MethodFacts, setting: Setting, count: int, normalizes: bool
) -> Setting:
    weights, densities = (
        values_of(recipe, setting, parameter, count)
        for parameter in facts.parameters
        if parameter.name in ("weight", "density")
    )
    total = sum(weights) if normalizes else 1.0
    if abs(total) < 1e-6:
        raise RecipeError(f"weights {weights} sum to {total:g}: cannot normalise by that")
    pairs = zip(weights, densities, strict=True)
    shares = tuple(weight / density / total for weight, density in pairs)
    return replace(setting, values={**setting.values, "weight": shares})

"""Builds models of lineages: a child costs one merge, however long the way to it was."""

from __future__ import annotations

from pathlib import Path

from evaluators.base import Language
from evaluators.digest import hash_json
from workers.builders.lineage_settings import LineageSettings
from workers.builders.merge import MergeBuilder
from workers.builders.model_cache import ModelCache
from workers.lineage import LineageRecipe
from workers.merging.lineages import Lineages
from workers.recipe import MergeRecipe


class LineageBuilder:
    """Keeps the models that were built on disk, shared with the other evaluators of the node.

    Merge recipes, such as those of references, are built as ever.
    """

    def __init__(self, settings: LineageSettings, device: str) -> None:
        self._merges = MergeBuilder(settings.merge, device)
        folder = None if settings.cache_folder is None else Path(settings.cache_folder)
        key = hash_json([settings.merge.base, settings.merge.dtype, dict(settings.revisions)])
        self._cache = ModelCache(folder, key, settings.cache_bytes)
        self._dtype = settings.merge.dtype
        self.lineages = Lineages(self._merges.workshop, self._cache, settings.revisions)

    @property
    def resident(self) -> Language:
        """The resident model."""
        return self._merges.resident

    def build(self, recipe: LineageRecipe | MergeRecipe) -> Language:
        """Returns the resident model with the recipe's weights in it.

        Raises:
            ValueError: if the recipe does not fit the models or gives numbers that are not finite.
            OSError: if the disk has no room for the model.
        """
        if isinstance(recipe, MergeRecipe):
            return self._merges.build(recipe)
        if recipe.dtype != self._dtype:
            raise ValueError(f"recipe is {recipe.dtype}, the resident model {self._dtype}")
        return self._merges.place(self.lineages.open(recipe))

    def close(self) -> None:
        """Leaves the folder of models; the last one removes it."""
        self._cache.close()

"""Recipes in mergekit's YAML (https://github.com/arcee-ai/mergekit), so that others can build them.

What mergekit 0.1.5 reads is read and means the same model here, slices and gradients included, for
every method that both have. What is not understood is refused by name.
"""

from orchestrator.mergekit.dialect import DTYPES, RecipeError
from orchestrator.mergekit.read import read
from orchestrator.mergekit.write import write

__all__ = ["DTYPES", "RecipeError", "read", "write"]

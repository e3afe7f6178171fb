"""What a merge builder is opened from. Importing this needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.library import ModelPolicy

if TYPE_CHECKING:
    from workers.builders.merge import MergeBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """What a merge builder keeps in memory. Plain data that travels to the workers."""

    #: Model that gives architecture, configuration and tokenizer.
    base: str
    #: Type of the resident model's weights.
    dtype: str
    policy: ModelPolicy = ModelPolicy()

    def open(self, device: str) -> MergeBuilder:
        """Loads the resident model onto a device."""
        from workers.builders.merge import MergeBuilder

        return MergeBuilder(self, device)

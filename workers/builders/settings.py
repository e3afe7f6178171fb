"""What a merge builder is opened from. Importing this needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workers.models.library import ModelPolicy

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
    #: All models that recipes may mix; only needed where their vocabularies are united.
    models: tuple[str, ...] = ()
    #: Which tokens the resident model has, and where its chat template comes from (see
    #: `MergeRecipe`).
    tokenizer: Literal["base", "union"] = "base"
    chat_template: str = "base"
    #: Whether an accelerator keeps source tensors: as far as half of its free memory goes
    #: (`auto`), all of them, or none.
    resident: Literal["auto", "always", "never"] = "auto"

    def open(self, device: str) -> MergeBuilder:
        """Loads the resident model onto a device."""
        from workers.builders.merge import MergeBuilder

        return MergeBuilder(self, device)

"""What a builder of lineages is opened from. Importing this needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.builders.settings import MergeSettings

if TYPE_CHECKING:
    from workers.builders.lineage import LineageBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageSettings:
    """What a builder of lineages keeps, in memory and on disk. Plain data that travels."""

    #: The resident model.
    merge: MergeSettings
    #: Model -> hash of its content.
    revisions: Mapping[str, str]
    #: Disk that the models of a node's lineages may take.
    cache_bytes: int
    #: Where they lie on each node; among temporary files if None.
    cache_folder: str | None = None

    def open(self, device: str) -> LineageBuilder:
        """Loads the resident model onto a device."""
        from workers.builders.lineage import LineageBuilder

        return LineageBuilder(self, device)

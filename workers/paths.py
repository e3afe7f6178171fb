"""A path through the layers of several models, as a recipe (data-flow space).

Evolutionary Model Merge (Akiba et al. 2024, https://arxiv.org/abs/2403.13187), section 3.2. Weights
stay as they are; what changes is which layer of which model follows which, and how large its input
is. The first model also gives embeddings, final norm, output head and tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from workers.models.folding import Branches, hop_settings, last_settings, products
from workers.recipe import MergeRecipe, Part, Setting, Slice, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One step of a path."""

    #: Place of the model among the recipe's sources.
    source: int
    #: Which of its layers.
    layer: int
    #: What the layer's input is multiplied by.
    scale: float = 1.0


def path_recipe(
    hops: Sequence[Hop],
    *,
    sources: Sequence[Source],
    base: str,
    dtype: str,
    branches: Branches | None = None,
) -> MergeRecipe:
    """Returns the recipe of a path's model.

    Args:
        hops: The path, from the embeddings on.
        sources: The models; the first gives all that lies outside of layers.
        base: Model that gives configuration and tokenizer.
        dtype: Type of the model's weights.
        branches: Where scales are folded into; None leaves them to the model, which then needs
            code of its own.

    Raises:
        ValueError: if there are no hops, or these scales cannot be folded.
    """
    if not hops:
        raise ValueError("a path needs at least one layer")
    scales = tuple(hop.scale for hop in hops)
    is_open = branches is None and any(scale != 1.0 for scale in scales)
    factors = products(scales, dtype)
    settings = [hop_settings(branches, factor, dtype) for factor in factors]
    return MergeRecipe(
        method="passthrough",
        sources=tuple(sources),
        base=base,
        slices=_slices(hops, settings),
        before=Part(settings=last_settings(None, 1.0), sources=(0,)),
        after=Part(settings=last_settings(branches, factors[-1]), sources=(0,)),
        input_scales=scales if is_open else (),
        dtype=dtype,
    )


def _slices(hops: Sequence[Hop], settings: Sequence[tuple[Setting, ...]]) -> tuple[Slice, ...]:
    """Puts hops in a row into one slice where layers of one model follow one another alike."""
    places = list(enumerate(zip(hops, settings, strict=True)))

    def run(place: tuple[int, tuple[Hop, tuple[Setting, ...]]]) -> tuple[int, int, str]:
        at, (hop, held) = place
        return hop.source, hop.layer - at, str(held)

    found: list[Slice] = []
    for _, group in groupby(places, key=run):
        members = list(group)
        at, (hop, held) = members[0]
        found.append(
            Slice(
                start=at,
                stop=at + len(members),
                settings=held,
                sources=(hop.source,),
                origins=(hop.layer,),
            )
        )
    return tuple(found)

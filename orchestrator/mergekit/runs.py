"""Runs of single layers that differ in numbers only: mergekit says them by one slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.recipe import MergeRecipe, Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Slices that are written as one; a single one of any length, or several of one layer."""

    parts: tuple[Slice, ...]
    stop: int


def find_runs(recipe: MergeRecipe, whole: Sequence[str] = ()) -> list[Run]:
    """Joins slices of one layer whose numbers can be written as gradients.

    Tensors after the layers follow the last layer here, and a gradient's first value in mergekit.
    So the last layer stays by itself unless the recipe says the same of them.

    Args:
        recipe: What is to be written.
        whole: Parameters that cannot be a gradient.
    """
    found: list[list[Slice]] = []
    for part in recipe.slices:
        if found and _continues(found[-1], part, whole):
            found[-1].append(part)
        else:
            found.append([part])
    last = found[-1]
    after = recipe.after or recipe.slices[-1]
    if (last[0].settings, last[0].sources) != (after.settings, after.sources) and len(last) > 1:
        found[-1:] = [last[:-1], last[-1:]]
    pieces = [piece for parts in found[:-1] for piece in _exact(parts)]
    return [Run(parts=tuple(parts), stop=parts[-1].stop) for parts in [*pieces, found[-1]]]


def _exact(run: list[Slice]) -> list[list[Slice]]:
    """Cuts a run into lengths over which a gradient gives each layer its very number.

    mergekit finds a layer's place in a gradient by a division that rounds.
    """
    pieces: list[list[Slice]] = []
    while run:
        lengths = range(len(run), 1, -1)
        exact = (one for one in lengths if all(k / (one - 1) * (one - 1) == k for k in range(one)))
        length = next(exact, 1)
        pieces.append(run[:length])
        run = run[length:]
    return pieces


def _continues(run: list[Slice], part: Slice, whole: Sequence[str]) -> bool:
    last = run[-1]
    if any(one.stop - one.start != 1 for one in (last, part)):
        return False
    return _outline(last, 1, whole) == _outline(part, 0, whole)


def _outline(part: Slice, ahead: int, whole: Sequence[str]) -> tuple[object, ...]:
    """Returns all but the numbers, with the layers that are read some layers further on."""
    settings = tuple(
        (one.filter, frozenset(one.values), tuple(one.values.get(name) for name in whole))
        for one in part.settings
    )
    shift = None
    if part.origins is not None:
        shift = tuple(origin + ahead for origin in part.origins)
    return (part.sources, settings, shift)

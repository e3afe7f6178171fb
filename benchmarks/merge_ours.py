"""Shoal's side of `merge.py`: every call of our own merge engine that the benchmark makes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from orchestrator import mergekit
from workers.export import write_model
from workers.merging.residence import Residence
from workers.merging.tensors import TensorMerge
from workers.merging.workshop import Workshop
from workers.methods.registry import METHODS
from workers.models.library import ModelPolicy, inspect
from workers.recipe import MergeRecipe, Part, Setting, Slice

_POLICY = ModelPolicy()
#: How far parameters move from one timed merge to the next.
_STEP = 0.002


def merge(config: dict[str, Any], out: Path) -> None:
    """Writes the model of a recipe in mergekit's form, with real folders, to `out`.

    Arithmetic is float32; tensors are written in the type that the recipe's `out_dtype` names.
    """
    write_model(_read(config), _POLICY, out)


def resident(
    config: dict[str, Any], changed_layers: tuple[int, int] | None = None
) -> Callable[[], None]:
    """Opens a recipe's models and a model to merge into, as a worker of a campaign does.

    Args:
        config: The recipe, with real folders.
        changed_layers: The only layers whose coefficients change from call to call; None changes
            all.

    Returns:
        Merges into that model anew, with coefficients that differ from those of the call before.
        What depends on the sources alone may be kept between calls.
    """
    recipe = _read(config)
    workshop = Workshop(_POLICY, Residence("cpu"))
    first = TensorMerge(recipe, workshop)
    targets = {
        name: torch.empty(shape, dtype=getattr(torch, kind))
        for name in first.names()
        for kind, shape in [first.facts(name)]
    }
    written: dict[str, Any] = {}
    calls = 0

    def again() -> None:
        nonlocal calls
        calls += 1
        moved = TensorMerge(_moved(recipe, calls, changed_layers), workshop)
        signatures = {name: moved.signature(name) for name in targets}
        moved.write(
            {name: one for name, one in targets.items() if written.get(name) != signatures[name]}
        )
        written.update(signatures)

    return again


def models_read(config: dict[str, Any]) -> int:
    """Returns how many models a merge reads."""
    recipe = _read(config)
    return len(recipe.sources) + METHODS.facts(recipe.method).needs_base


def command(config_file: Path, out: Path) -> list[str]:
    """Returns the command that merges a recipe file in mergekit's form."""
    return [str(Path(sys.executable).parent / "shoal"), "merge", str(config_file), str(out)]


def _read(config: dict[str, Any]) -> MergeRecipe:
    def facts(model: str) -> tuple[int, str]:
        found = inspect(model, _POLICY)
        return found.num_layers, found.dtype

    return mergekit.read(config, facts)


def _moved(recipe: MergeRecipe, times: int, layers: tuple[int, int] | None) -> MergeRecipe:
    """Returns the recipe with slightly other values, everywhere or in some layers."""
    num_layers = recipe.num_layers
    if layers is None:
        slices = tuple(replace(one, settings=_shifted(one, times)) for one in recipe.slices)
        return replace(recipe, slices=slices, before=None, after=None)
    (whole,) = recipe.slices
    start, stop = layers
    same = {"sources": whole.sources, "settings": whole.settings}
    cut = [
        Slice(start=0, stop=start, **same) if start else None,
        Slice(start=start, stop=stop, sources=whole.sources, settings=_shifted(whole, times)),
        Slice(start=stop, stop=num_layers, **same) if stop < num_layers else None,
    ]
    outside = Part(**same)
    return replace(recipe, slices=tuple(one for one in cut if one), before=outside, after=outside)


def _shifted(part: Part, times: int) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            filter=one.filter,
            values={
                name: tuple(value - _STEP * times for value in held)
                for name, held in one.values.items()
            },
        )
        for one in part.settings
    )

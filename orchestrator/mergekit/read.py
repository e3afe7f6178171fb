"""From mergekit's configuration to a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from orchestrator.mergekit.blocks import Prepared, prepare
from orchestrator.mergekit.dialect import RecipeError
from orchestrator.mergekit.document import Document, read_document
from workers.recipe import MergeRecipe, Part, Setting, Slice


def read(data: Any, facts: Callable[[str], tuple[int, str]], *, seed: int = 0) -> MergeRecipe:
    """Makes a recipe of mergekit's configuration.

    Slices whose base models or options differ become recipes of their own, whose layers are put
    in a row by an outer recipe.

    Args:
        data: The parsed YAML.
        facts: Model -> (number of layers, dtype of its weights).
        seed: Seed of random masks, which mergekit's format does not hold.

    Raises:
        RecipeError: naming the key that is missing or not supported.
    """
    known = cache(facts)
    document = read_document(data, lambda model: known(model)[0])
    prepared: list[Prepared] = []
    start = 0
    for block in document.blocks:
        prepared.append(prepare(document, block, start))
        start += block.length
    whole = _Whole(document=document, prepared=tuple(prepared), tail=_tail(document, prepared))
    dtype = document.dtype or _common_dtype(
        [known(one.model)[1] for block in document.blocks for one in block.taken]
    )
    base, tokenizer = _find_base(whole)
    return _assemble(whole, base, dtype=dtype, seed=seed, tokenizer=tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """Everything that is said of the layers, and of the tensors after them."""

    document: Document
    prepared: tuple[Prepared, ...]
    tail: Prepared


def _tail(document: Document, prepared: Sequence[Prepared]) -> Prepared:
    """Returns what makes the tensors after the layers: the last slice.

    Of its models mergekit takes only as many as the first slice lists.
    """
    last, count = prepared[-1], len(prepared[0].block.taken)
    if count >= len(last.block.taken):
        return last
    block = replace(last.block, taken=last.block.taken[:count])
    try:
        return prepare(document, block, last.start)
    except RecipeError as error:
        raise RecipeError(
            f"{block.where}: of a last slice with more models than the first mergekit takes the "
            f"first {count} for tensors after the layers, which fails: {error}"
        ) from error


def _common_dtype(names: Sequence[str]) -> str:
    """Returns the type that holds those of all inputs: mergekit computes in it and writes it."""
    return names[0] if len(set(names)) == 1 else "float32"


def _find_base(whole: _Whole) -> tuple[str, str]:
    """Returns the model that gives configuration and tokenizer, and whose tokens there are."""
    document = whole.document
    first = whole.prepared[0]
    base = document.base or first.block.base or first.sources[0].model
    tokenizer = document.tokenizer or "base"
    if tokenizer in ("base", "union", base):
        return base, "union" if tokenizer == "union" else "base"
    if document.dialect.base == "first" or first.block.base is None:
        return tokenizer, "base"
    raise RecipeError(
        f"tokenizer_source: {tokenizer!r} is not the base_model; expected base, union or {base!r}"
    )


def _assemble(whole: _Whole, base: str, **fields: Any) -> MergeRecipe:
    keys = [_variant(one) for one in whole.prepared]
    if len(set(keys)) > 1:
        return _row(whole, keys, base, **fields)
    own = whole.prepared[0].base
    if own is not None and own.model != base:
        raise RecipeError(
            f"base_model: all slices have {own.model!r} of their own; make it the recipe's, which "
            f"is {base!r}"
        )
    return _recipe(whole, whole.prepared, base, **fields)


def _variant(one: Prepared) -> tuple[Any, ...]:
    """Returns what all slices of a recipe share: the base of task vectors, and options."""
    return (one.base and one.base.model, tuple(sorted(one.options.items())))


def _row(whole: _Whole, keys: Sequence[tuple[Any, ...]], base: str, **fields: Any) -> MergeRecipe:
    """Puts layers of several recipes in a row."""
    if fields["tokenizer"] != "base":
        raise RecipeError(
            "tokenizer_source: union is not supported where slices differ in base_model or options"
        )
    found = list(dict.fromkeys(keys))
    inner = []
    for key in found:
        mine = [one for one, own in zip(whole.prepared, keys, strict=True) if own == key]
        own = mine[0].base
        inner.append(_recipe(whole, mine, base if own is None else own.model, **fields))
    copied = (Setting(filter=None, values={}),)
    places = [(found.index(key),) for key in keys]
    slices = [
        Slice(start=one.start, stop=one.start + one.block.length, settings=copied, sources=place)
        for one, place in zip(whole.prepared, places, strict=True)
        if one.block.length
    ]
    before = Part(settings=copied, sources=places[0])
    after = Part(settings=copied, sources=places[-1])
    return MergeRecipe(
        method="passthrough",
        sources=tuple(inner),
        base=base,
        slices=tuple(slices),
        before=_unless_same(before, slices[0]),
        after=_unless_same(after, slices[-1]),
        **fields,
    )


def _recipe(whole: _Whole, mine: Sequence[Prepared], base: str, **fields: Any) -> MergeRecipe:
    """Returns the recipe of slices that share their options.

    Layers of other slices, which nobody will ask it for, are filled with its own first one.
    """
    models = tuple(dict.fromkeys(model for one in mine for model in one.models))
    fixed = _fixed(whole.document, mine)
    filling = next((one for one in mine if one.block.length), None)
    if filling is None:
        raise RecipeError(
            f"{mine[0].block.where}: a slice without layers needs the base_model and the options "
            "of another one"
        )
    slices: list[Slice] = []
    for one in whole.prepared:
        if one in mine:
            slices += _slices(one, models, fixed)
        else:
            first = _slices(filling, models, fixed)[0]
            layers = range(one.start, one.start + one.block.length)
            origins = tuple(taken.start for taken in filling.taking)
            slices += [
                replace(first, start=layer, stop=layer + 1, origins=origins) for layer in layers
            ]
    head, tail = whole.prepared[0], whole.tail
    return MergeRecipe(
        method=whole.document.method,
        sources=models,
        base=base,
        slices=tuple(slices),
        before=_outer(head, models, fixed, slices[0]) if head in mine else None,
        after=_outer(tail, models, fixed, slices[-1]) if whole.prepared[-1] in mine else None,
        options={**mine[0].options, **fixed},
        **fields,
    )


def _fixed(document: Document, mine: Sequence[Prepared]) -> dict[str, float]:
    """Returns the parameters of the whole merge that have one value everywhere."""
    found: dict[str, float] = {}
    for parameter in document.facts.parameters:
        default = document.dialect.fixed.get(parameter.name, parameter.default)
        if parameter.per == "source" or default is None:
            continue
        constants = {one.constant(parameter.name, default) for one in mine}
        if len(constants) == 1 and (value := constants.pop()) is not None:
            found[parameter.name] = value
    return found


def _slices(one: Prepared, models: Sequence[str], fixed: Mapping[str, float]) -> list[Slice]:
    """Returns a slice for each run of layers with the same settings."""
    if not one.block.length:
        return []
    runs: list[tuple[int, tuple[Setting, ...]]] = []
    if not one.differs_by_layer:
        runs = [(0, one.settings())]
    else:
        for layer in range(one.block.length):
            settings = one.settings(layer)
            if not runs or runs[-1][1] != settings:
                runs.append((layer, settings))
    ends = [*(offset for offset, _ in runs[1:]), one.block.length]
    return [
        Slice(
            start=one.start + offset,
            stop=one.start + end,
            settings=_without(settings, fixed),
            sources=_places(one, models),
            origins=_origins(one, offset),
        )
        for (offset, settings), end in zip(runs, ends, strict=True)
    ]


def _outer(
    one: Prepared, models: Sequence[str], fixed: Mapping[str, float], neighbour: Slice
) -> Part | None:
    """Returns how tensors outside of layers are made; None if as their neighbours in layers."""
    settings = one.outer_settings() if one.differs_by_layer else one.settings()
    part = Part(settings=_without(settings, fixed), sources=_places(one, models))
    return _unless_same(part, neighbour)


def _unless_same(part: Part, neighbour: Slice) -> Part | None:
    is_same = (part.settings, part.sources) == (neighbour.settings, neighbour.sources)
    return None if is_same else part


def _without(settings: Sequence[Setting], fixed: Mapping[str, float]) -> tuple[Setting, ...]:
    return tuple(
        replace(one, values={name: held for name, held in one.values.items() if name not in fixed})
        for one in settings
    )


def _places(one: Prepared, models: Sequence[str]) -> tuple[int, ...] | None:
    places = tuple(models.index(model) for model in one.models)
    return None if places == tuple(range(len(models))) else places


def _origins(one: Prepared, offset: int) -> tuple[int, ...] | None:
    if all(taken.start == one.start for taken in one.taking):
        return None
    return tuple(taken.start + offset for taken in one.taking)

"""The outline of a configuration: its keys, its models, and its slices as mergekit sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.mergekit.dialect import (
    DTYPES,
    Dialect,
    RecipeError,
    find_method,
    known_parameters,
    refuse_unknown,
)
from workers.methods.registry import MethodFacts

#: `name` is for documents that hold several configurations; mergekit does nothing else with it.
_TOP = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters"),
    *("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template", "name"),
)
_DTYPES = (*DTYPES, "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A model in a slice, from one layer on."""

    model: str
    start: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A slice as mergekit writes it."""

    #: Where it stands, for messages.
    where: str
    #: Number of layers; a first or last slice may have none.
    length: int
    #: The models that are listed, in order, no model twice.
    taken: tuple[Taken, ...]
    #: The slice's own base model, or the configuration's.
    base: str | None
    #: Parameters for all models: the slice's before the module's before the configuration's.
    shared: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A configuration whose keys are all known."""

    method: str
    facts: MethodFacts
    dialect: Dialect
    base: str | None
    blocks: tuple[Block, ...]
    #: Type of the built model's weights; None where nothing is said of it.
    dtype: str | None
    #: `base`, `union`, a model's reference, or None where nothing is said of it.
    tokenizer: str | None


def read_document(data: Any, layers: Callable[[str], int]) -> Document:
    """Reads a configuration's outline.

    Args:
        data: The parsed YAML.
        layers: Model -> its number of layers.

    Raises:
        RecipeError: naming the key that is missing or not supported.
    """
    if not isinstance(data, Mapping):
        raise RecipeError("expected a mapping with merge_method")
    refuse_unknown(data, _TOP, "recipe")
    method = str(data.get("merge_method", ""))
    facts, dialect = find_method(method)
    if data.get("chat_template"):
        raise RecipeError(
            f"chat_template: {str(data['chat_template'])[:40]!r} is not supported: the built model "
            "has its base_model's template; leave the key out"
        )
    base = read_reference(data["base_model"], "base_model") if data.get("base_model") else None
    content, scopes = _find_content(data)
    known = known_parameters(facts, dialect)
    for scope in scopes:
        refuse_unknown(scope, known, "parameters")
    read = _read_models if content.get("models") else _read_slices
    return Document(
        method=method,
        facts=facts,
        dialect=dialect,
        base=base,
        blocks=tuple(read(content, base, scopes, known, layers)),
        dtype=_read_dtype(data),
        tokenizer=_read_tokenizer(data),
    )


def read_reference(value: Any, where: str) -> str:
    """Returns a model's reference as one text: MODEL@REVISION+LORA@REVISION.

    Raises:
        RecipeError: if it is none.
    """
    if isinstance(value, str):
        return value
    refuse_unknown(value, ("model", "lora", "override_architecture"), where)
    if value.get("override_architecture") is not None:
        raise RecipeError(f"{where}: 'override_architecture' is not supported")
    paths = [_read_path(value.get("model"), where)]
    if value.get("lora") is not None:
        paths.append(_read_path(value["lora"], where))
    return "+".join(paths)


def _read_path(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    refuse_unknown(value, ("path", "revision"), where)
    if "path" not in value:
        raise RecipeError(f"{where}: 'path' is missing")
    revision = value.get("revision")
    return f"{value['path']}@{revision}" if revision else str(value["path"])


def _find_content(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Returns where models or slices are listed, and the parameters around them."""
    top = data.get("parameters") or {}
    if "modules" not in data:
        _check_content(data)
        return data, [top]
    modules = data["modules"]
    if "models" in data or "slices" in data:
        raise RecipeError("give either models or slices, or modules with one of them")
    refuse_unknown(modules, ("default",), "modules")
    content = modules.get("default")
    refuse_unknown(content, ("models", "slices", "parameters"), "modules.default")
    _check_content(content)
    return content, [content.get("parameters") or {}, top]


def _check_content(content: Mapping[str, Any]) -> None:
    if ("models" in content) == ("slices" in content):
        raise RecipeError("give either models or slices")
    key = "models" if "models" in content else "slices"
    if not isinstance(content[key], list) or not content[key]:
        raise RecipeError(f"{key}: nothing to merge, got {content[key]!r}")


def _read_models(
    content: Mapping[str, Any],
    base: str | None,
    scopes: Sequence[Mapping[str, Any]],
    known: Sequence[str],
    layers: Callable[[str], int],
) -> list[Block]:
    """Whole models are one slice; a base that is not listed is added to them."""
    taken = []
    for number, entry in enumerate(content["models"]):
        where = f"models.{number}"
        refuse_unknown(entry, ("model", "parameters"), where)
        taken.append(_read_taken(entry, 0, where, known))
    if base is not None and all(one.model != base for one in taken):
        taken.append(Taken(model=base, start=0, parameters={}))
    counts = {one.model: layers(one.model) for one in taken}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{model!r} has {count}" for model, count in counts.items())
        raise RecipeError(f"models: expected models of as many layers, {listed}; write slices")
    block = Block(
        where="models",
        length=next(iter(counts.values())),
        taken=tuple(taken),
        base=base,
        shared=tuple(scopes),
    )
    _check_block(block, layers)
    return [block]


def _read_slices(
    content: Mapping[str, Any],
    base: str | None,
    scopes: Sequence[Mapping[str, Any]],
    known: Sequence[str],
    layers: Callable[[str], int],
) -> list[Block]:
    blocks = []
    for number, entry in enumerate(content["slices"]):
        where = f"slices.{number}"
        refuse_unknown(entry, ("sources", "parameters", "base_model"), where)
        own = entry.get("parameters") or {}
        refuse_unknown(own, known, f"{where}: parameters")
        taken, lengths = [], []
        listed = entry.get("sources")
        for place, source in enumerate(listed if isinstance(listed, list) else ()):
            refuse_unknown(
                source, ("model", "layer_range", "parameters"), f"{where}.sources.{place}"
            )
            start, stop = _read_range(source.get("layer_range"), f"{where}.sources.{place}")
            taken.append(_read_taken(source, start, f"{where}.sources.{place}", known))
            lengths.append(stop - start)
        if len(set(lengths)) != 1:
            raise RecipeError(
                f"{where}: expected sources with as many layers each, got {lengths or 'no sources'}"
            )
        given = entry.get("base_model")
        block = Block(
            where=where,
            length=lengths[0],
            taken=tuple(taken),
            base=base if given is None else read_reference(given, f"{where}.base_model"),
            shared=(own, *scopes),
        )
        _check_block(block, layers)
        blocks.append(block)
    if any(block.length == 0 for block in blocks[1:-1]) or not any(one.length for one in blocks):
        raise RecipeError("slices: only the first and the last slice may have no layers")
    return blocks


def _read_range(value: Any, where: str) -> tuple[int, int]:
    is_pair = isinstance(value, list) and len(value) == 2
    if not is_pair or not all(isinstance(one, int) for one in value) or value[1] < value[0]:
        raise RecipeError(
            f"{where}: layer_range is the first layer and the one after the last, such as [0, 16]; "
            f"got {value!r}"
        )
    return value[0], value[1]


def _read_taken(entry: Mapping[str, Any], start: int, where: str, known: Sequence[str]) -> Taken:
    if "model" not in entry:
        raise RecipeError(f"{where}: 'model' is missing")
    model = read_reference(entry["model"], f"{where}.model")
    parameters = entry.get("parameters") or {}
    refuse_unknown(parameters, known, f"parameters of {model!r}")
    return Taken(model=model, start=start, parameters=parameters)


def _check_block(block: Block, layers: Callable[[str], int]) -> None:
    """Refuses a model that is listed twice, and layers that a model does not have."""
    models = [one.model for one in block.taken]
    for one in block.taken:
        if models.count(one.model) > 1:
            raise RecipeError(f"{block.where}: {one.model!r} is listed twice")
        stop, has = one.start + block.length, layers(one.model)
        if one.start < 0 or stop > has:
            raise RecipeError(
                f"{block.where}: takes layers {one.start} to {stop - 1} of {one.model!r}, which "
                f"has {has} layers"
            )


def _read_dtype(data: Mapping[str, Any]) -> str | None:
    for key in ("dtype", "out_dtype"):
        name = str(data.get(key) or "float32").removeprefix("torch.")
        if name not in _DTYPES:
            raise RecipeError(f"{key}: expected one of {', '.join(DTYPES)}, got {data[key]!r}")
    found = data.get("out_dtype") or data.get("dtype")
    if found is None:
        return None
    name = str(found).removeprefix("torch.")
    if name not in DTYPES:
        raise RecipeError(
            f"dtype: {name} is no type of merged weights, expected {', '.join(DTYPES)}; sums are "
            "taken in float32 whatever it is"
        )
    return name


def _read_tokenizer(data: Mapping[str, Any]) -> str | None:
    source, settings = data.get("tokenizer_source"), data.get("tokenizer")
    if settings is None:
        return None if source is None else read_reference(source, "tokenizer_source")
    if source is not None:
        raise RecipeError("give either tokenizer_source or tokenizer")
    refuse_unknown(settings, ("source", "tokens", "pad_to_multiple_of"), "tokenizer")
    for key in ("tokens", "pad_to_multiple_of"):
        if settings.get(key):
            raise RecipeError(f"tokenizer: {key!r} is not supported; leave it out")
    return read_reference(settings.get("source", "union"), "tokenizer.source")

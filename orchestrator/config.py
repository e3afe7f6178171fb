"""Reads campaign files: resolves every `kind`, checks every value, refuses every unknown key.

Components declare their settings as dataclasses with annotated types; this module alone turns
plain data into them, and them into plain data or a JSON Schema. A field whose type is a plug-in
point takes a mapping with `kind`, a registered name or an address `package.module:Class`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from cluster.resources import Cluster
from evaluators.base import EvaluatorSettings
from evaluators.ctm.dataset import SAMPLES, Sample
from evaluators.ctm.kinds import TASKS, Task
from evaluators.kinds import EVALUATORS
from evaluators.registry import Registry, UnknownNameError, nearest
from orchestrator import matching
from orchestrator.algorithms.archive import ARCHIVES, Archive
from orchestrator.algorithms.base import ALGORITHMS, Algorithm
from orchestrator.algorithms.islands import Islands
from orchestrator.campaign.stopping import Stagnation
from orchestrator.measurement.estimator import ESTIMATORS, Estimator
from orchestrator.measurement.race import RACES, Race
from orchestrator.measurement.regime import Refresh
from orchestrator.objectives import Objectives
from orchestrator.operators.crossover import CROSSOVERS, Crossover
from orchestrator.operators.diversity import Immigrants, Sharing
from orchestrator.operators.mutation import MUTATIONS, Mutation
from orchestrator.operators.selection import SELECTIONS, Selection
from orchestrator.settings import Budget, CampaignSettings
from orchestrator.spaces.base import SPACES, SpaceSettings
from orchestrator.spaces.merge import Merge
from orchestrator.spaces.vector_genes import GENES, GeneSettings
from orchestrator.yaml_file import Document, Place, YamlError, load, parse

#: Type of a field (a contract, or a union) -> the registry of what it can be.
PLUG_INS: Mapping[Any, Registry] = {
    SpaceSettings: SPACES,
    GeneSettings: GENES,
    Algorithm: ALGORITHMS,
    Archive: ARCHIVES,
    EvaluatorSettings: EVALUATORS,
    Selection: SELECTIONS,
    Crossover: CROSSOVERS,
    Mutation: MUTATIONS,
    Race: RACES,
    Estimator: ESTIMATORS,
    Task: TASKS,
    Sample: SAMPLES,
}
#: What pydantic calls a key that a nested record does not have.
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
#: What pydantic calls things, and what a campaign file calls them.
_WORDS = {
    "a valid array": "a list",
    "an object": "a section of keys and values",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "Tuple should have": "expected",
    " after validation": "",
}
#: Settings that are sections of their own.
_SECTIONS = (Budget, Cluster, Immigrants, Islands, Merge, Objectives, Refresh, Sharing, Stagnation)


class ConfigError(ValueError):
    """A mistake in a campaign file; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns plain data into settings, remembering where it came from."""

    document: Document

    def fail(self, place: Place, message: str) -> ConfigError:
        """Returns the error to raise for a mistake at a place."""
        dotted = ".".join(str(part) for part in place)
        return ConfigError(
            f"{self.document.where(place)}: {dotted + ': ' if dotted else ''}{message}"
        )

    def plug_in(self, registry: Registry, data: Any, place: Place) -> Any:
        """Returns the component that a section with a `kind` describes."""
        section = {"kind": data} if isinstance(data, str) else self._mapping(data, place)
        if "kind" not in section:
            raise self.fail(place, f"needs a kind; {nearest('', registry.addresses)}")
        try:
            cls = registry.load(str(section["kind"]))
        except UnknownNameError as error:
            raise self.fail((*place, "kind"), str(error)) from error
        return self.settings(cls, {k: v for k, v in section.items() if k != "kind"}, place)

    def settings(self, cls: type, data: Any, place: Place) -> Any:
        """Returns a settings dataclass filled from a section."""
        section = self._mapping(data, place)
        fields = {one.name: one for one in dataclasses.fields(cls)}
        hints = get_type_hints(cls, include_extras=True)
        for key in section:
            if key not in fields:
                raise self.fail((*place, key), f"unknown key; {nearest(key, fields)}")
        for name, one in fields.items():
            if name not in section and _is_required(one):
                raise self.fail(
                    place, f"{name} is missing: {_docs(cls).get(name, '')}".rstrip(": ")
                )
        values = {name: self.value(hints[name], section[name], (*place, name)) for name in section}
        try:
            return cls(**values)
        except ValueError as error:
            raise self._locate(error, place, fields) from error

    def value(self, hint: Any, data: Any, place: Place) -> Any:
        """Returns one field's value."""
        if (inner := _optional(hint)) is not None:
            return None if data is None else self.value(inner, data, place)
        if (some := _one_or_listed(hint)) is not None:
            hint = some[isinstance(data, list)]
        if hint in PLUG_INS:
            return self.plug_in(PLUG_INS[hint], data, place)
        if (each := _listed(hint)) is not None:
            if not isinstance(data, list):
                raise self.fail(place, f"expected a list, got {data!r}")
            items = enumerate(data)
            return tuple(self.plug_in(PLUG_INS[each], one, (*place, at)) for at, one in items)
        if hint in _SECTIONS:
            return self.settings(hint, data, place)
        try:
            return _adapter(hint).validate_json(json.dumps(data, default=str), strict=True)
        except ValidationError as error:
            raise self._explain(error, hint, data, place) from error

    def _mapping(self, data: Any, place: Place) -> Mapping[str, Any]:
        if not isinstance(data, Mapping):
            raise self.fail(place, f"expected a section of keys and values, got {data!r}")
        return {str(key): value for key, value in data.items()}

    def _explain(self, error: ValidationError, hint: Any, data: Any, place: Place) -> ConfigError:
        """Says the deepest of pydantic's complaints in our words."""
        worst = max(error.errors(), key=_gravity)
        inner = _known_part(worst["loc"], data)
        if worst["type"] in _UNKNOWN:
            known = nearest(str(worst["loc"][-1]), _record_fields(hint))
            return self.fail((*place, *inner), f"unknown key; {known}")
        if worst["type"] == "missing":
            last = worst["loc"][-1]
            what = f"item {last + 1}" if isinstance(last, int) else last
            return self.fail((*place, *inner), f"{what} is missing, got {worst['input']!r}")
        same = [one for one in error.errors() if _gravity(one) == _gravity(worst)]
        message = _in_our_words([one for one in same if _known_part(one["loc"], data) == inner])
        return self.fail((*place, *inner), f"{message}, got {worst['input']!r}")

    def _locate(self, error: ValueError, place: Place, fields: Mapping[str, Any]) -> ConfigError:
        """A component names the key itself at the start of its message, where it is about one."""
        message = str(error)
        named, colon, rest = message.partition(": ")
        path = tuple(named.split("."))
        if colon and path[0] in fields:
            return self.fail((*place, *path), rest)
        return self.fail(place, message)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A campaign's settings, and the document that they were read from."""

    settings: CampaignSettings
    document: Document

    def locate(self, section: str, message: str) -> ConfigError:
        """Returns the error for something found out later about a section.

        A message that begins with one of the section's keys is placed there.
        """
        place: Place = (section,) if section else ()
        named, colon, rest = message.partition(": ")
        inner: Place = (*place, *named.split("."))
        if colon and inner in self.document.lines:
            place, message = inner, rest
        return _Reader(self.document).fail(place, message)


def read(path: Path, overrides: Sequence[str] = ()) -> CampaignSettings:
    """Reads and checks a campaign file; `load_file` keeps the document, too."""
    return load_file(path, overrides).settings


def load_file(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Reads and checks a campaign file.

    Args:
        path: The file.
        overrides: `key.key=value` each, as given to `--set`.

    Raises:
        ConfigError: naming file, line and key.
    """
    try:
        document = load(path)
    except YamlError as error:
        raise ConfigError(str(error)) from error
    if document.data is None:
        raise ConfigError(f"{path} is empty; `shoal init` writes a campaign file to start from")
    for override in overrides:
        document = _override(document, override)
    return Loaded(_campaign(document), document)


def from_dict(data: Mapping[str, Any], origin: str = "settings") -> CampaignSettings:
    """Checks a campaign given as plain data, such as a Python script's or the store's.

    Raises:
        ConfigError: naming the key.
    """
    return _campaign(Document(origin, data))


def _campaign(document: Document) -> CampaignSettings:
    settings = _Reader(document).settings(CampaignSettings, document.data, ())
    return matching.completed(cast("CampaignSettings", settings))


def component(registry: Registry, data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """Returns one component from plain data, changed as the command line says.

    Args:
        registry: Where its kind is looked up.
        data: Its `kind`, a registered name or an address, and settings.
        overrides: `key=value` each, as given to `--set`.

    Raises:
        ConfigError: naming the key.
    """
    document = Document("--set", data, {(): registry.noun})
    for override in overrides:
        document = _override(document, override)
    return _Reader(document).plug_in(registry, document.data, ())


def as_dict(settings: Any) -> Any:
    """Returns settings as plain data, defaults filled in; `from_dict` takes it back."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        data = _fields_as_dict(settings)
        for registry in PLUG_INS.values():
            name = registry.name_of(type(settings))
            if name in registry.addresses:
                return {"kind": name, **data}
        outside = type(settings).__module__.partition(".")[0] not in _OWN_PACKAGES
        kind = f"{type(settings).__module__}:{type(settings).__qualname__}"
        return {"kind": kind, **data} if outside else data
    if isinstance(settings, Mapping):
        return {key: as_dict(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [as_dict(value) for value in settings]
    return settings


def _fields_as_dict(settings: Any) -> dict[str, Any]:
    """Returns the fields of settings; a field that takes one type alone needs no kind."""
    hints, data = get_type_hints(type(settings)), {}
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        data[one.name] = _fields_as_dict(value) if hints[one.name] in _SECTIONS else as_dict(value)
    return data


_OWN_PACKAGES = ("orchestrator", "cluster", "workers", "evaluators")


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of campaign files, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "shoal campaign",
        **_schema_of(CampaignSettings),
    }


@functools.cache
def _schema_of(cls: type, kind: str | None = None) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    docs = _docs(cls)
    fields = dataclasses.fields(cls)
    properties = {one.name: _field_schema(hints[one.name]) for one in fields}
    for name, text in docs.items():
        if name in properties:
            properties[name] = {**properties[name], "description": text}
    required = [one.name for one in fields if _is_required(one)]
    if kind is not None:
        properties = {"kind": {"const": kind}, **properties}
        required = ["kind", *required]
    description = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _field_schema(hint: Any) -> dict[str, Any]:
    if (inner := _optional(hint)) is not None:
        return {"anyOf": [_field_schema(inner), {"type": "null"}]}
    if hint in PLUG_INS:
        registry = PLUG_INS[hint]
        known = [_schema_of(registry.load(name), kind=name) for name in registry.addresses]
        outside = {
            "type": "object",
            "properties": {"kind": {"type": "string", "pattern": ":"}},
            "required": ["kind"],
        }
        return {"oneOf": [*known, outside]}
    if (some := _one_or_listed(hint)) is not None:
        return {"anyOf": [_field_schema(one) for one in some]}
    if (each := _listed(hint)) is not None:
        return {"type": "array", "items": _item_schema(each)}
    if hint in _SECTIONS:
        return _schema_of(hint)
    found = _adapter(hint).json_schema(ref_template="#/$defs/{model}")
    return cast("dict[str, Any]", _inline(found, found.pop("$defs", {})))


def _item_schema(hint: Any) -> dict[str, Any]:
    """Returns the schema of a component in a list; algorithms within one would have no end."""
    if hint is not Algorithm:
        return _field_schema(hint)
    kinds = [{"enum": list(ALGORITHMS.addresses)}, {"pattern": ":"}]
    kind = {"type": "string", "anyOf": kinds}
    return {"type": "object", "properties": {"kind": kind}, "required": ["kind"]}


def _inline(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Replaces references by what they refer to, so that each field's schema stands alone."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {key: _inline(value, definitions) for key, value in node.items()}
    if isinstance(node, list):
        return [_inline(value, definitions) for value in node]
    return node


def _optional(hint: Any) -> Any | None:
    """Returns the component or section of a field that may also be null; None for other fields."""
    members = [one for one in get_args(hint) if one is not type(None)]
    if len(members) == 1 and len(get_args(hint)) == 2:
        inner = get_origin(members[0]) or members[0]
        return inner if inner in PLUG_INS or inner in _SECTIONS else None
    return None


def _listed(hint: Any) -> Any | None:
    """Returns the component that a field lists any number of; None for other fields."""
    arguments = get_args(hint)
    if get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0] if arguments[0] in PLUG_INS else None
    return None


def _one_or_listed(hint: Any) -> tuple[Any, Any] | None:
    """Returns the types of a field that takes a component or a list of them; None for others."""
    arguments = get_args(hint)
    if len(arguments) == 2 and _listed(arguments[1]) is arguments[0] is not None:
        return arguments[0], arguments[1]
    return None


def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _is_required(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _docs(cls: type) -> dict[str, str]:
    """Returns the `#:` comment above each field of a settings class, inherited ones first."""
    bases = [one for one in reversed(cls.__mro__) if dataclasses.is_dataclass(one)]
    found = {name: text for one in bases for name, text in _own_docs(one)}
    return {name: text for name, text in found.items() if text}


@functools.cache
def _own_docs(cls: type) -> tuple[tuple[str, str], ...]:
    """Returns the names that a class's own lines begin with, and the comment above each."""
    found: list[tuple[str, str]] = []
    comment: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        stripped = line.strip()
        if stripped.startswith("#:"):
            comment.append(stripped.removeprefix("#:").strip())
        elif field := re.match(r"(\w+):", stripped):
            found.append((field.group(1), " ".join(comment)))
            comment = []
        else:
            comment = []
    return tuple(found)


def _gravity(complaint: Mapping[str, Any]) -> tuple[bool, int, bool]:
    """Ranks complaints about one value: each member of a union has its own.

    The deepest is about the member that was meant; so is one that found the right type.
    """
    kind: str = complaint["type"]
    return (kind in _UNKNOWN, len(complaint["loc"]), not kind.endswith("_type"))


def _in_our_words(complaints: Sequence[Mapping[str, Any]]) -> str:
    """Returns one message; where a union's members want different types, any of these will do."""
    first, *others = dict.fromkeys(one["msg"].removeprefix("Value error, ") for one in complaints)
    wanted = [one.removeprefix("Input should be ") for one in others if "should be" in one]
    message = " or ".join([first.replace("Input should be", "expected"), *wanted])
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return f"{message[0].lower()}{message[1:]}"


def _known_part(location: Sequence[str | int], data: Any) -> Place:
    """Drops what pydantic adds to a location (names of union members)."""
    place: list[str | int] = []
    for part in location:
        inside_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside_list or (isinstance(data, Mapping) and part in data):
            place.append(part)
            data = data[part]
    return tuple(place)


def _record_fields(hint: Any) -> list[str]:
    """Returns the fields of every record that a field's type holds."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [one.name for one in dataclasses.fields(hint)]
    return [name for inner in get_args(hint) for name in _record_fields(inner)]


def _override(document: Document, override: str) -> Document:
    """Returns the document with one `key.key=value` set."""
    dotted, equals, text = override.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: expected key.key=value")
    try:
        value = parse(text)
    except YamlError as error:
        raise ConfigError(f"--set {override!r}: {error}") from error
    data = _with(document.data, keys, value, override)
    place: Place = tuple(int(key) if key.isdigit() else key for key in keys)
    lines = {at: line for at, line in document.lines.items() if at[: len(place)] != place}
    return Document(document.path, data, {**lines, place: f"--set {override}"})


def _with(data: Any, keys: Sequence[str], value: Any, override: str) -> Any:
    if not keys:
        return value
    if isinstance(data, list):
        if not keys[0].isdigit() or int(keys[0]) >= len(data):
            raise ConfigError(
                f"--set {override!r}: {keys[0]!r} is no place in a list of {len(data)}"
            )
        position = int(keys[0])
        inner = _with(data[position], keys[1:], value, override)
        return [*data[:position], inner, *data[position + 1 :]]
    if data is not None and not isinstance(data, Mapping):
        raise ConfigError(f"--set {override!r}: {keys[0]!r} is inside of a plain value")
    inner = _with((data or {}).get(keys[0]), keys[1:], value, override)
    return {**(data or {}), keys[0]: inner}

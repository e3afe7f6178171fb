"""YAML with line numbers, so that a mistake is shown where it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

#: Where a value stands in a document: keys and list positions from the top.
Place: TypeAlias = tuple[str | int, ...]


class _Plain(yaml.SafeDumper):
    """Writes equal lists out each time: anchors help machines, not readers."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


class YamlError(ValueError):
    """A file that is not the YAML it should be."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its values, and the line of each, or what set it instead."""

    path: str
    data: Any
    lines: Mapping[Place, int | str] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """Returns `file:line` of a place, or of the nearest one around it."""
        for length in range(len(place), -1, -1):
            if place[:length] in self.lines:
                line = self.lines[place[:length]]
                return line if isinstance(line, str) else f"{self.path}:{line}"
        return self.path


def load(path: Path) -> Document:
    """Reads a file.

    Raises:
        YamlError: if it is missing, no YAML, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise YamlError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise YamlError(f"{path} is not UTF-8 text: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise YamlError(f"{path} is not valid YAML: {_mark(error)}") from error
    lines: dict[Place, int | str] = {}
    try:
        if node is not None:
            _collect(str(path), node, (), lines)
    except RecursionError as error:
        raise YamlError(f"{path} refers to itself without end") from error
    return Document(str(path), data, lines)


def parse(text: str) -> Any:
    """Reads one value, as `--set` gives it.

    Raises:
        YamlError: if it is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise YamlError(f"{text!r} is not valid YAML: {_mark(error)}") from error


def dump(data: Any) -> str:
    """Writes plain data, keys in the order given."""
    text: str = yaml.dump(data, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
    return text


def _collect(path: str, node: yaml.Node, place: Place, lines: dict[Place, int | str]) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            if inner in lines:
                raise YamlError(
                    f"{path}:{key.start_mark.line + 1}: key {key.value!r} is given twice "
                    f"(first in line {lines[inner]})"
                )
            lines[inner] = key.start_mark.line + 1
            _collect(path, value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect(path, value, (*place, index), lines)


def _mark(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}: {problem}" if mark else problem

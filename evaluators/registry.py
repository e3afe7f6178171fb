"""Plug-in points: names mapped to addresses, loaded only when asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class UnknownNameError(ValueError):
    """A name that no registry entry has; the message names the nearest known ones."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a phrase naming the known names nearest to `name`, or all of them if none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "known: " + ", ".join(names) if names else "none is known"


@dataclass(frozen=True, slots=True)
class Registry:
    """A plug-in point: what it plugs in, and the address of each known implementation.

    An address is `package.module:Class`; an address from outside the project is accepted in
    place of a name.
    """

    #: What is registered here, for messages ("algorithm", "merge method").
    noun: str
    #: Name -> address.
    addresses: Mapping[str, str]

    def load(self, name: str) -> type:
        """Returns the class behind a registered name or an outside address.

        Raises:
            UnknownNameError: if the name is not registered and is no importable address.
        """
        address = self.addresses.get(name, name if ":" in name else None)
        if address is None:
            raise UnknownNameError(f"unknown {self.noun} {name!r}; {nearest(name, self.addresses)}")
        module_name, _, attribute = address.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UnknownNameError(f"{self.noun} {name!r} cannot be imported: {error}") from error
        if not isinstance(found, type):
            raise UnknownNameError(f"{self.noun} {name!r} is not a class")
        return found

    def name_of(self, cls: type) -> str:
        """Returns the registered name of a class, or its address if it has none."""
        address = f"{cls.__module__}:{cls.__qualname__}"
        for name, known in self.addresses.items():
            if known == address:
                return name
        return address

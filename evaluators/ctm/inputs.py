"""What a task puts in and takes out: plain data, from which a network's ends are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias, cast


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Rows of tokens, of ids whose embeddings are added: integers (batch, length, ids).

    Raises:
        ValueError: if a vocabulary or the length is empty.
    """

    kind: ClassVar[str] = "tokens"

    #: How many values each id has.
    vocabularies: tuple[int, ...]
    #: Tokens in a row.
    length: int
    #: Whether tokens also have a learned code of their place.
    positions: bool = True

    def __post_init__(self) -> None:
        if not self.vocabularies or min(*self.vocabularies, self.length) < 1:
            raise ValueError(
                f"expected a length and vocabularies of at least 1, got {self.length} tokens of "
                f"{list(self.vocabularies)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Pictures, seen through convolutions: floats (batch, channels, height, width).

    Raises:
        ValueError: if nothing is left of a picture after pooling.
    """

    kind: ClassVar[str] = "image"

    channels: int
    height: int
    width: int
    #: Channels after each 3 x 3 convolution.
    widths: tuple[int, ...] = (16,)
    #: After which convolutions neighbours are pooled, two by two, by their number from 0.
    pools: tuple[int, ...] = (0,)
    #: Whether places of the picture also have a learned code.
    positions: bool = True

    def __post_init__(self) -> None:
        if min(self.grid) < 1:
            raise ValueError(
                f"nothing is left of {self.height} x {self.width} pixels after "
                f"{len(self.pools)} poolings"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of places that are left to look at."""
        shrink = 2 ** len(self.pools)
        return self.height // shrink, self.width // shrink


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Numbers that every tick gets as they are, with nothing to attend to: floats (batch, size)."""

    kind: ClassVar[str] = "numbers"

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Inputs that come one after another, each thought about for as many ticks: a row of tensors.

    Raises:
        ValueError: if a part has no name of its own, or the order names none.
    """

    kind: ClassVar[str] = "phases"

    #: What may come, by name; parts of one name share the way they are looked at.
    parts: Mapping[str, Tokens | Image]
    #: Names of what comes, in order.
    order: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.order or not set(self.order) <= set(self.parts):
            raise ValueError(f"expected an order of {sorted(self.parts)}, got {list(self.order)}")


Inputs: TypeAlias = Tokens | Image | Numbers | Phases

_KINDS: Mapping[str, Any] = {one.kind: one for one in (Tokens, Image, Numbers, Phases)}


def as_dict(inputs: Inputs) -> dict[str, Any]:
    """Returns inputs as plain data that JSON can hold."""
    if isinstance(inputs, Phases):
        parts = {name: as_dict(part) for name, part in inputs.parts.items()}
        return {"kind": inputs.kind, "parts": parts, "order": list(inputs.order)}
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(inputs).items()
    }
    return {"kind": inputs.kind, **plain}


def from_dict(data: Mapping[str, Any]) -> Inputs:
    """Makes inputs from what `as_dict` returned."""
    cls = _KINDS[data["kind"]]
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in data.items()
        if name != "kind"
    }
    if cls is Phases:
        values["parts"] = {name: from_dict(part) for name, part in values["parts"].items()}
    return cast("Inputs", cls(**values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What is predicted at each tick: one of `classes` at each of `positions`."""

    positions: int
    classes: int

    def __post_init__(self) -> None:
        if self.positions < 1 or self.classes < 2:
            raise ValueError(
                f"expected at least one position and two classes, got {self.positions} and "
                f"{self.classes}"
            )

"""Which models take part: a fixed list, or some of a pool that the search chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from annotated_types import Ge, MinLen

_Number: TypeAlias = Annotated[int, Ge(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Models of which each candidate takes some."""

    #: Local folders or hub ids[@revision].
    pool: Annotated[tuple[str, ...], MinLen(1)]
    #: How many of them a candidate takes: a number, or [least, most].
    choose: _Number | tuple[_Number, _Number]
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


def models_of(sources: tuple[str, ...] | Pool) -> tuple[str, ...]:
    """Returns all models that may take part."""
    return sources.pool if isinstance(sources, Pool) else sources


def numbers_of(sources: tuple[str, ...] | Pool) -> tuple[int, int]:
    """Returns the least and the most models that take part."""
    if not isinstance(sources, Pool):
        return len(sources), len(sources)
    if isinstance(sources.choose, int):
        return sources.choose, sources.choose
    least, most = sources.choose
    return least, most


def check_sources(sources: tuple[str, ...] | Pool) -> None:
    """Checks what the models' names alone tell.

    Raises:
        ValueError: if a model is named twice, or `choose` asks for what the pool has not.
    """
    models, (least, most) = models_of(sources), numbers_of(sources)
    where = "sources.pool" if isinstance(sources, Pool) else "sources"
    if len(set(models)) != len(models):
        raise ValueError(f"{where}: a model is named twice in {list(models)}")
    if least > most:
        raise ValueError(
            f"sources.choose: expected [least, most] with least <= most, got [{least}, {most}]"
        )
    if most > len(models):
        raise ValueError(
            f"sources.choose: cannot choose {most} models from a pool of {len(models)}"
        )

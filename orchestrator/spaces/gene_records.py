"""Genes as a store recorded them, beside those that a space has now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns how genes differ from recorded ones, if genomes of these cannot be read as theirs.

    Args:
        before: What `Genes.as_dict` once returned; what it did not record is no difference.
        now: What it returns.

    Returns:
        A line for what differs: names if they do, otherwise the first gene that does.
    """
    if before["names"] != now["names"]:
        ours, theirs = now["names"], before["names"]
        different = [name for name in (*theirs, *ours) if (name in ours) != (name in theirs)]
        example = f", such as {different[0]!r}" if different else ", in another order"
        return [f"genes: {len(theirs)} -> {len(ours)}{example}"]
    for place, name in enumerate(now["names"]):
        old, new = _said(before, place, name), _said(now, place, name)
        if old[:3] != new[:3] or (old[3] and old[3] != new[3]):
            return [f"genes.{name}: {_shown(old)} -> {_shown(new)}"]
    return []


def _said(genes: Mapping[str, Any], place: int, name: str) -> tuple[str, float, float, list[str]]:
    """Returns kind, bounds and choices of a slot, as recorded."""
    kind = genes["kinds"][place] if "kinds" in genes else "real"
    choices = genes.get("choices", {}).get(name, [])
    return kind, genes["lower"][place], genes["upper"][place], choices


def _shown(said: tuple[str, float, float, list[str]]) -> str:
    kind, low, high, choices = said
    return f"{kind} of {', '.join(choices)}" if choices else f"{kind} [{low:g}, {high:g}]"

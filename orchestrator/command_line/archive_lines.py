"""What the reading commands show of archives, as data and as lines. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.reporting import archives, shared_archive
from orchestrator.reporting.front import number
from orchestrator.settings import CampaignSettings
from orchestrator.storage.reader import Reader


def collect(reader: Reader, settings: CampaignSettings) -> dict[str, Any] | None:
    """Returns a campaign's archives as `shoal best --archive --json` prints them; None if none."""
    found = archives.collect(reader, settings)
    if found is not None:
        return {"campaign": settings.name, **archives.as_json(found)}
    shared = shared_archive.collect(reader, settings)
    return None if shared is None else {"campaign": settings.name, **shared_archive.as_json(shared)}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Returns archives for people."""
    if "members" in found:
        return [
            f"{one['id']:<16} fitness {one['fitness']:.4f}  {one['share']:.1%} of the worth, alone "
            f"the best on {one['alone']} documents"
            for one in found["members"]
        ]
    told = []
    for one in found["archives"]:
        told.append(
            f"best by {one['quality']} in {one['cells']} of {one['num_cells']:,} cells, QD score "
            f"{one['qd_score']:.4g}"
        )
        told += [_cell(cell) for cell in one["filled"]]
    return told


def _cell(cell: Mapping[str, Any]) -> str:
    where = "  ".join(f"{name} {number(value)}" for name, value in cell["behaviour"].items())
    return f"  {cell['id']:<14} {number(cell['quality'])}  {where}  fitness {cell['fitness']:.4f}"


def brief(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns how full archives are, for `shoal status`; None where there are no cells."""
    if found is None or "archives" not in found:
        return None
    parts = found["archives"]
    return {
        "cells": sum(one["cells"] for one in parts),
        "num_cells": sum(one["num_cells"] for one in parts),
        "qd_score": sum(one["qd_score"] for one in parts),
    }

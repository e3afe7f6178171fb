"""Machines' settings as plain data, for recipes and folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evaluators.ctm import inputs
from evaluators.ctm.inputs import Outputs
from workers.ctm.settings import CtmSettings


def as_dict(settings: CtmSettings) -> dict[str, Any]:
    """Returns settings as plain data that JSON can hold."""
    return {
        **asdict(settings),
        "inputs": inputs.as_dict(settings.inputs),
        "outputs": asdict(settings.outputs),
    }


def from_dict(data: Mapping[str, Any]) -> CtmSettings:
    """Makes settings from what `as_dict` returned.

    Raises:
        ValueError: if no machine can be made of them.
    """
    ends = {"inputs": inputs.from_dict(data["inputs"]), "outputs": Outputs(**data["outputs"])}
    return CtmSettings(**{**data, **ends})

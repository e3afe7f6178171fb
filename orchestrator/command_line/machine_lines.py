"""How a machine and its training are shown to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What follows from the task.
_OF_TASK = ("inputs", "outputs")


def machine_lines(recipe: Mapping[str, Any]) -> list[str]:
    """Returns a line for each hyperparameter of a machine and its training, and its ancestors."""
    network = {name: one for name, one in recipe["network"].items() if name not in _OF_TASK}
    lines = []
    for label, values in (("machine", network), ("training", recipe["training"])):
        for number, (name, value) in enumerate(values.items()):
            shown = f"{value:.6g}" if isinstance(value, float) else value
            lines.append(f"{label if number == 0 else '':<11} {name} {shown}")
    ancestors = recipe.get("ancestors", [])
    if ancestors:
        steps = sum(one["training"]["steps"] for one in ancestors)
        some = "ancestor" if len(ancestors) == 1 else "ancestors"
        lines.append(f"{'inherits':<11} from {len(ancestors)} {some}, {steps:,} steps of training")
    return lines

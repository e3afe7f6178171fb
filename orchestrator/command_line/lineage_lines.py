"""What a lineage's recipe says, for people: its last merges, each with what it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Merges that are shown: the last ones, which matter most.
_MOST = 12


def lineage_lines(recipe: Mapping[str, Any]) -> list[str]:
    """Returns the recipe: a line for all of it, and one for each of its last merges."""
    sources, steps = recipe["sources"], recipe["steps"]
    if not steps:
        return [f"recipe      {sources[0]} as it is"]
    names = [*sources, *(f"#{number}" for number in range(1, len(steps) + 1))]
    left_out = max(0, len(steps) - _MOST)
    shown = f", the last {_MOST}" if left_out else ""
    of = f"merge{'s' if len(steps) > 1 else ''} of {', '.join(sources)} over {recipe['base']}"
    return [
        f"recipe      {len(steps)} {of}{shown}",
        *(
            f"  {names[len(sources) + place]:<10}{_step(steps[place], names)}"
            for place in range(left_out, len(steps))
        ),
    ]


def _step(step: Mapping[str, Any], names: Sequence[str]) -> str:
    parents = " and ".join(names[parent] for parent in step["parents"])
    if step["kind"] == "mix":
        how = f"weights {', '.join(f'{one:.4f}' for one in step['weights'])}"
        if "factors" in step:
            low, high = step["factors"]
            how += f"  singular values times {low:g} to {high:g}"
    else:
        how = "  ".join(_cut(one) for one in step["cuts"])
    noise = f"  noise {step['sigma']:g}" if "sigma" in step else ""
    return f"{parents}  {how}{noise}"


def _cut(cut: Mapping[str, Any]) -> str:
    name = f"{'/'.join(cut['filters'])} " if "filters" in cut else ""
    return f"{name}weight {cut['weight']:.4f} split {cut['split']:.4f}"

"""Mazes larger than those that a machine was trained on: in how many it gets to the goal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from evaluators.ctm.maze_growing import STAY
from evaluators.ctm.mazes import grow
from evaluators.ctm.route_walking import arrivals
from workers.ctm.machine import Machine


def examine_larger(
    machine: Machine, edges: Sequence[int], *, num: int, rounds: int, seed: int
) -> list[dict[str, Any]]:
    """Returns in how many test mazes of each edge a machine gets to the goal: data for JSON.

    `arrived_by_round` is the share of mazes in which it is at the goal after each round, and
    `in_reach_by_round` the share whose way is short enough for that many rounds: who knew the way
    would get there.

    Args:
        machine: In evaluation mode; it answers with moves.
        edges: Pixels of an edge, odd.
        num: How many mazes of each.
        rounds: How often it is asked about each.
        seed: Of the mazes, as the task has one.
    """
    device = str(next(machine.parameters()).device)
    moves, found = machine.settings.outputs.positions, []
    for edge in edges:
        grown = grow(edge, 2 * (edge // 2) ** 2, num, seed, "test")
        assert isinstance(grown.inputs, Tensor)
        arrived = arrivals(machine, grown.inputs, rounds, device=device)
        lengths = (grown.targets != STAY).sum(dim=1)
        found.append({
            "edge": edge,
            "mazes": num,
            "arrived_by_round": _shares((arrived > 0) & (arrived <= n) for n in _to(rounds)),
            "in_reach_by_round": _shares(lengths <= n * moves for n in _to(rounds)),
        })  # fmt: skip
    return found


def _to(rounds: int) -> range:
    return range(1, rounds + 1)


def _shares(masks: Iterable[Tensor]) -> list[float]:
    return [float(one.double().mean()) for one in masks]

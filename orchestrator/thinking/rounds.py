"""Mazes thought about again and again: each round begins where the moves of the last one ended.

(Darlow et al. 2025, section 4.3.) It ends as `evaluators.ctm.route_walking` says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from orchestrator.thinking.record import Cell, Floats, Thinking, Walk
from orchestrator.thinking.walking import GOAL, OPEN, moves_along, put_start, way
from orchestrator.thinking.watching import watch
from orchestrator.thinking.wording import Words
from workers.ctm.machine import Machine


def watch_rounds(
    machine: Machine, maze: Tensor, words: Words, *, rounds: int, subject: str, sample: str
) -> Thinking:
    """Returns what a machine thinks about a maze, asked until it gets to the goal.

    It is asked no more once it runs into a wall, stays where it is, or is back where it was asked:
    it would say the same again.

    Args:
        machine: In evaluation mode.
        maze: Walls, start and goal, as a batch of one.
        words: Of the maze task.
        rounds: How often it is asked at most.
        subject: The machine and the task, for people.
        sample: Which maze it is.
    """
    picture: Floats = maze[0].numpy()
    walked = tuple((int(row), int(column)) for row, column in np.argwhere(picture[1] > 0.5))
    found: list[Thinking] = []
    begun, end = set(), ""
    for _ in range(rounds):
        begun.add(walked[-1])
        asked = torch.from_numpy(picture)[None]
        target = _target(picture, machine.settings.outputs.positions)
        one = watch(machine, asked, words, subject=subject, sample=sample, target=target)
        found.append(replace(one, looks=(replace(one.looks[0], walked=walked),)))
        said = one.walks[one.taken[0]]
        walked = (*walked, *said.cells[1:])
        end = _end(said, begun)
        if end:
            break
        picture = put_start(picture, said.cells[-1])
    return _joined(found, walked, end or "is not at the goal yet")


def _end(said: Walk, begun: Collection[Cell]) -> str:
    """Returns why there is no further round; nothing where there may be one."""
    if said.end != OPEN:
        return "gets to the goal" if said.end == GOAL else "runs into a wall"
    if len(said.cells) == 1:
        return "stays where it is"
    return "goes in circles" if said.cells[-1] in begun else ""


def _target(picture: Floats, moves: int) -> tuple[int, ...] | None:
    right = way(picture)
    return None if right is None else moves_along(right.cells, moves)


def _joined(found: Sequence[Thinking], walked: Sequence[Cell], end: str) -> Thinking:
    """Returns all rounds as one thinking."""
    num, first = len(found), found[0]
    looks = tuple(
        replace(one.looks[0], name=f"the maze, round {number} of {num}")
        for number, one in enumerate(found, start=1)
    )
    right = first.looks[0].way
    length = "" if right is None else f" (the way has {len(right.cells) - 1})"
    asked = f"asked {num} times" if num > 1 else "asked once"
    return replace(
        first,
        facts=f"{first.facts}; {asked}, {end}: {len(walked) - 1} moves{length}",
        looks=looks,
        probabilities=np.concatenate([one.probabilities for one in found]),
        certainty=np.concatenate([one.certainty for one in found]),
        pre=np.concatenate([one.pre for one in found]),
        post=np.concatenate([one.post for one in found]),
        synchronisation=np.concatenate([one.synchronisation for one in found]),
        rounds=num,
        walks=tuple(walk for one in found for walk in one.walks),
    )

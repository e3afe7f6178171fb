"""Walking where a network says, again and again: mazes larger than those that it was trained on.

(Darlow et al. 2025, section 4.3.) It says the first moves of the way; they are walked, the start is
put where they end, and it is asked again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evaluators.ctm.maze_growing import MOVES, STAY
from evaluators.ctm.mazes import grow
from evaluators.ctm.training import Thinker

#: Where each move leads, the last one nowhere.
_STEPS = torch.tensor([*MOVES.tolist(), (0, 0)])

#: Mazes of one pass.
_BATCH = 256


@torch.no_grad()
def reapplied(
    model: Thinker, *, edge: int, num: int, rounds: int, seed: int = 0, device: str = "cpu"
) -> float:
    """Returns in how many of some test mazes a network gets from the start to the goal.

    Args:
        model: In evaluation mode; it answers with moves.
        edge: Pixels of an edge, odd; pictures may be larger than those that it was trained on.
        num: How many mazes.
        rounds: How often it is asked about each.
        seed: Of the mazes, as the task has one.
        device: Where the network is.

    Returns:
        A share in [0, 1].
    """
    pictures = grow(edge, 1, num, seed, "test").inputs
    assert isinstance(pictures, Tensor)
    return float(walk(model, pictures, rounds, device=device).double().mean())


def walk(model: Thinker, pictures: Tensor, rounds: int, *, device: str = "cpu") -> Tensor:
    """Returns in which mazes a network gets to the goal (mazes); as `arrivals` otherwise."""
    return arrivals(model, pictures, rounds, device=device) > 0


@torch.no_grad()
def arrivals(model: Thinker, pictures: Tensor, rounds: int, *, device: str = "cpu") -> Tensor:
    """Returns in which round, from 1, a network gets to the goal of each maze; 0: never (mazes).

    It fails where it walks into a wall, or says to stay at once. Where it says so later it is asked
    again from there.

    Args:
        model: It answers with moves; those of the most certain tick are walked.
        pictures: Walls, start and goal (mazes, 3, edge, edge), with walls around.
        rounds: How often it is asked.
        device: Where the network is.
    """
    some = torch.split(pictures, _BATCH)
    return torch.cat([_arrivals(model, one.clone(), rounds, device) for one in some])


def _arrivals(model: Thinker, pictures: Tensor, rounds: int, device: str) -> Tensor:
    mazes = torch.arange(len(pictures))
    places, goals = (pictures[:, channel].flatten(1).argmax(dim=1) for channel in (1, 2))
    walls, edge = pictures[:, 0].flatten(1).bool(), pictures.shape[3]
    lost = torch.zeros_like(mazes, dtype=torch.bool)
    found = torch.zeros_like(mazes)
    for number in range(1, rounds + 1):
        before, resting = places, torch.zeros_like(lost)
        for moves in _surest(model, pictures.to(device)).T:
            resting |= (moves == STAY) | (places == goals)
            going = ~resting & ~lost
            ahead = places + (_STEPS[moves] * torch.tensor([edge, 1])).sum(dim=1)
            lost |= going & walls[mazes, ahead]
            places = torch.where(going & ~lost, ahead, places)
        lost |= (places == before) & (places != goals)
        found[(found == 0) & (places == goals)] = number
        if (lost | (places == goals)).all():
            break
        starts = torch.zeros_like(walls)
        starts[mazes, places] = True
        pictures[:, 1] = starts.view_as(pictures[:, 1])
    return found


def _surest(model: Thinker, pictures: Tensor) -> Tensor:
    """Returns the moves of each maze at the most certain tick (batch, moves)."""
    thoughts = model(pictures)
    surest = thoughts.certainty.argmax(dim=1)
    said = thoughts.logits.argmax(dim=2)  # (batch, moves, ticks)
    return said.gather(2, surest[:, None, None].expand(-1, said.shape[1], 1))[:, :, 0].cpu()

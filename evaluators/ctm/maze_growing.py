"""Mazes without end, grown many at once, and the ways through them.

A walk through rock digs two pixels at a time, at random, and backs up where nothing is left to dig,
so that there is one way between any two places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: Moves as classes: up, down, left, right; and to stay, once the goal is reached.
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
STAY = len(MOVES)


def dig(edge: int, num: int, rng: np.random.Generator) -> Bools:
    """Returns walls (num, edge, edge); places with both numbers odd are rooms, ways join them."""
    side, mazes = edge // 2, np.arange(num)
    walls = np.ones((num, edge, edge), dtype=np.bool_)
    # The border of what is known counts as dug, so that nothing is dug beyond it.
    dug = np.pad(np.zeros((num, side, side), dtype=np.bool_), ((0, 0), (1, 1), (1, 1)))
    dug[:, [0, -1]] = dug[:, :, [0, -1]] = True
    path = np.ones((num, side * side, 2), dtype=np.int64)
    path[:, 0] = rng.integers(1, side + 1, size=(num, 2))
    depth = np.zeros(num, dtype=np.int64)
    dug[mazes, path[:, 0, 0], path[:, 0, 1]] = True
    walls[mazes, 2 * path[:, 0, 0] - 1, 2 * path[:, 0, 1] - 1] = False
    while not dug.all():
        here = path[mazes, depth]
        near = here[:, None] + MOVES  # (num, moves, 2)
        fresh = ~dug[mazes[:, None], near[:, :, 0], near[:, :, 1]]
        chosen = (rng.random(fresh.shape) * fresh).argmax(axis=1)
        goes = fresh.any(axis=1)
        depth = np.where(goes, depth + 1, np.maximum(depth - 1, 0))
        who, to = mazes[goes], near[mazes, chosen][goes]
        path[who, depth[goes]] = to
        dug[who, to[:, 0], to[:, 1]] = True
        row, column = (2 * to - 1).T
        walls[who, row, column] = False
        back = MOVES[chosen[goes]]
        walls[who, row - back[:, 0], column - back[:, 1]] = False
    return walls


def draw(edge: int, num: int, rng: np.random.Generator) -> Bools:
    """Returns pictures (num, 3, edge, edge): walls, and a start and a goal in different places."""
    walls, mazes = dig(edge, num, rng), np.arange(num)
    places = np.argwhere(~walls)[:, 1:].reshape(num, -1, 2)  # as many in each maze
    first = rng.integers(places.shape[1], size=num)
    last = (first + rng.integers(1, places.shape[1], size=num)) % places.shape[1]
    pictures = np.zeros((num, 3, edge, edge), dtype=np.bool_)
    pictures[:, 0] = walls
    for channel, chosen in ((1, first), (2, last)):
        row, column = places[mazes, chosen].T
        pictures[mazes, channel, row, column] = True
    return pictures


def routes(pictures: Bools, moves: int) -> Ints:
    """Returns the first moves of each way from the start to the goal (num, moves).

    Args:
        pictures: Walls, start and goal (num, 3, edge, edge); there is a way in each.
        moves: How many moves, the last of them to stay where the way is shorter.
    """
    mazes, steps = np.arange(len(pictures)), _steps_to_goal(pictures)
    here = np.argwhere(pictures[:, 1])[:, 1:]
    found = np.full((len(pictures), moves), STAY)
    for number in range(moves):
        left = steps[mazes, here[:, 0], here[:, 1]]
        near = here[:, None] + MOVES
        nearer = steps[mazes[:, None], near[:, :, 0], near[:, :, 1]] == left[:, None] - 1
        goes = left > 0
        found[goes, number] = nearer.argmax(axis=1)[goes]
        here = np.where(goes[:, None], here + MOVES[found[:, number] % STAY], here)
    return found


def looks(pictures: Bools) -> list[bytes]:
    """Returns what each maze looks like, the same however it is turned or mirrored."""
    found = []
    for turns in range(4):
        turned = np.rot90(pictures, turns, (2, 3))
        for pose in (turned, turned[..., ::-1]):
            packed = np.packbits(pose.reshape(len(pictures), -1), axis=1)
            found.append([one.tobytes() for one in packed])
    return [min(of_one) for of_one in zip(*found, strict=True)]


def _steps_to_goal(pictures: Bools) -> Ints:
    """Returns how many steps each place is from the goal (num, edge, edge), -2 in walls."""
    walls, front = pictures[:, 0], pictures[:, 2]
    steps = np.where(front, 0, -2)
    unknown = ~walls & ~front
    number = 0
    while front.any():
        number += 1
        ahead = np.zeros_like(front)
        ahead[:, 1:] |= front[:, :-1]
        ahead[:, :-1] |= front[:, 1:]
        ahead[:, :, 1:] |= front[:, :, :-1]
        ahead[:, :, :-1] |= front[:, :, 1:]
        front = ahead & unknown
        steps[front] = number
        unknown &= ~front
    return steps

"""Mazes have one way through, and the moves that are asked for lead along it."""

import numpy as np
import pytest
from torch import Tensor

from evaluators.ctm.mazes import Mazes, turned
from tests.evaluators.ctm_rows import KINDS, batch, same, samples
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings

#: Up, down, left, right.
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def walk(picture: Tensor, moves: list[int]) -> tuple[bool, list[int]]:
    """Walks moves; returns whether the end is the goal, and how far away the goal was each time."""
    walls, start, goal = picture.numpy().astype(bool)
    (here,), (end,) = (tuple(map(tuple, np.argwhere(one).tolist())) for one in (start, goal))
    away = []
    for move in moves:
        away.append(distance(walls, here, end))
        if move == 4:
            assert here == end, "stays before it is there"
            continue
        here = (here[0] + STEPS[move][0], here[1] + STEPS[move][1])
        assert not walls[here], "walks into a wall"
    return here == end, away


def distance(walls: np.ndarray, here: tuple[int, int], end: tuple[int, int]) -> int:
    """Returns the length of the shortest way, looked for from the start, one ring after another."""
    ring, seen, steps = {here}, {here}, 0
    while end not in ring:
        near = {(row + down, column + right) for row, column in ring for down, right in STEPS}
        ring = {place for place in near if not walls[place]} - seen
        assert ring, "there is no way"
        seen |= ring
        steps += 1
    return steps


@pytest.mark.parametrize("edge", [5, 7, 11])
def test_moves_of_mazes_are_the_shortest_way_to_the_goal(edge: int) -> None:
    task = Mazes(edge=edge, moves=edge * edge, train_rows=40, search_rows=30, test_rows=30)
    data = task.open()
    for some in (batch(data, size=30), data.rows("search"), data.rows("test")):
        for picture, moves in zip(some.inputs, some.targets.tolist(), strict=True):
            arrived, away = walk(picture, moves)
            assert arrived
            assert away[0] > 0
            assert away == [max(0, away[0] - number) for number in range(len(moves))]


def test_moves_that_are_too_few_are_the_beginning_of_the_way() -> None:
    some = batch(Mazes(edge=9, moves=3, train_rows=60).open(), size=60)
    for picture, moves in zip(some.inputs, some.targets.tolist(), strict=True):
        away = walk(picture, moves)[1]
        assert away == [max(0, away[0] - number) for number in range(3)]


@pytest.mark.parametrize("edge", [7, 11])
def test_mazes_have_one_way_between_any_two_places(edge: int) -> None:
    walls = batch(Mazes(edge=edge, train_rows=30).open(), size=30).inputs[:, 0].bool()
    rooms = (edge // 2) ** 2
    assert not walls[:, 1::2, 1::2].any()
    assert walls[:, 0::2, 0::2].all()
    assert walls[:, [0, -1]].all()
    # As many ways as rooms less one, and all rooms are reached: a tree.
    assert (~walls).flatten(1).sum(dim=1).tolist() == [2 * rooms - 1] * 30
    for one in walls.numpy():
        for row, column in np.argwhere(~one)[1:]:
            distance(one, (1, 1), (int(row), int(column)))
    assert len({one.numpy().tobytes() for one in walls}) > 15


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_moves_in_turned_mazes_still_lead_to_the_goal(turns: int, mirrored: bool) -> None:
    some = Mazes(edge=7, moves=49, train_rows=20, search_rows=20).open().rows("search")
    posed = turned(some, turns, mirrored=mirrored)
    assert same(posed, some) == (not turns and not mirrored)
    for picture, moves in zip(posed.inputs, posed.targets.tolist(), strict=True):
        assert walk(picture, moves)[0]


def test_no_maze_of_one_kind_is_one_of_another_however_it_is_turned_or_mirrored() -> None:
    task = Mazes(edge=5, train_rows=100, search_rows=50, selection_rows=50, test_rows=50)
    data = task.open()
    poses = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]
    trained = {
        one
        for seed in range(60)
        for turns, mirrored in poses
        for one in samples(turned(batch(data, seed, 50), turns, mirrored=mirrored))
    }
    kinds = [trained, *(set(samples(data.rows(kind))) for kind in KINDS)]
    kinds[1:] = [
        {
            one
            for pose in poses
            for one in samples(turned(data.rows(kind), pose[0], mirrored=pose[1]))
        }
        for kind in KINDS
    ]
    assert sum(map(len, kinds)) == len(set().union(*kinds)) > 100


def test_a_maze_has_walls_and_ways_in_turn() -> None:
    with pytest.raises(ValueError, match="edge: expected an odd number of pixels, got 8"):
        Mazes(edge=8)


def test_without_a_code_of_places_nothing_learned_belongs_to_a_place() -> None:
    names = {}
    for coded in (True, False):
        task = Mazes(edge=7, train_rows=40, place_code=coded)
        network = Machine(
            CtmSettings(neurons=32, ticks=2, memory=2, inputs=task.inputs, outputs=task.outputs)
        )
        names[coded] = {name for name, _ in network.named_parameters()}
    (code,) = names[True] - names[False]
    assert code.endswith(".code")
    assert names[False] < names[True]

"""Mazes are walked by asking again and again, and walls are no way."""

from collections import deque

import pytest
import torch
from torch import Tensor

from evaluators.ctm.mazes import Mazes
from evaluators.ctm.route_walking import reapplied, walk
from evaluators.ctm.thoughts import Thoughts, certainty_of
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings

STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
STAY = 4


def way(picture: Tensor) -> list[int]:
    """Returns the moves from the start to the goal, looked for from the start."""
    walls, start, goal = picture.bool().numpy()
    (here,), (end,) = (
        [(int(row), int(column)) for row, column in zip(*one.nonzero(), strict=True)]
        for one in (start, goal)
    )
    ways, ahead = {here: []}, deque([here])
    while ahead:
        row, column = ahead.popleft()
        for move, (down, right) in enumerate(STEPS):
            near = (row + down, column + right)
            if not walls[near] and near not in ways:
                ways[near] = [*ways[row, column], move]
                ahead.append(near)
    return ways[end]


class Guide:
    """Knows the way: says its first moves at one tick, and nonsense, less surely, at others."""

    def __init__(self, moves: int, *, misled_at: int | None = None) -> None:
        self.moves, self.misled_at, self.asked = moves, misled_at, 0

    def __call__(self, inputs: Tensor) -> Thoughts:
        self.asked += 1
        logits = torch.zeros(len(inputs), self.moves, STAY + 1, 3)
        for picture, one in zip(inputs, logits, strict=True):
            moves = (way(picture) + [STAY] * self.moves)[: self.moves]
            if self.misled_at is not None and len(moves) > self.misled_at:
                moves[self.misled_at] = STAY if self.asked == 1 else moves[self.misled_at]
            for step, move in enumerate(moves):
                one[step, move, 1] = 9.0
                one[step, (move + 1) % 4, [0, 2]] = 1.0
        return Thoughts(logits, certainty_of(logits))

    def restrain(self) -> None:
        """There is nothing to learn."""


def mazes(num: int = 30, edge: int = 9) -> Tensor:
    inputs = Mazes(edge=edge, train_rows=1, search_rows=num).open().rows("search").inputs
    assert isinstance(inputs, Tensor)
    return inputs


@pytest.mark.parametrize("edge", [7, 15])
def test_who_knows_the_way_gets_to_every_goal(edge: int) -> None:
    assert reapplied(Guide(4), edge=edge, num=60, rounds=100) == 1.0


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_those_mazes_are_solved_whose_way_is_short_enough(rounds: int) -> None:
    pictures = mazes()
    expected = [len(way(one)) <= 3 * rounds for one in pictures]
    assert 0 < sum(expected) < 30
    assert walk(Guide(3), pictures, rounds).tolist() == expected


def test_pictures_stay_as_they_were() -> None:
    pictures = mazes()
    before = pictures.clone()
    walk(Guide(3), pictures, 9)
    assert torch.equal(pictures, before)


def test_nobody_is_asked_again_once_all_have_arrived() -> None:
    guide = Guide(200)
    assert walk(guide, mazes(), 50).all()
    assert guide.asked == 1


class Always:
    """Says one move only."""

    def __init__(self, move: int) -> None:
        self.move, self.asked = move, 0

    def __call__(self, inputs: Tensor) -> Thoughts:
        self.asked += 1
        logits = torch.zeros(len(inputs), 5, STAY + 1, 1)
        logits[:, :, self.move] = 1.0
        return Thoughts(logits, certainty_of(logits))

    def restrain(self) -> None:
        """There is nothing to learn."""


@pytest.mark.parametrize("move", range(4))
def test_who_walks_into_a_wall_has_failed(move: int) -> None:
    pictures = mazes(200)
    expected = [way(one) == [move] * len(way(one)) for one in pictures]
    assert 0 < sum(expected) < 60
    assert walk(Always(move), pictures, 20).tolist() == expected


def test_who_stays_before_the_goal_has_failed_and_is_not_asked_again() -> None:
    guide = Always(STAY)
    assert not walk(guide, mazes(), 20).any()
    assert guide.asked == 1


def test_who_rests_on_the_way_may_still_arrive() -> None:
    pictures = mazes()
    assert walk(Guide(5, misled_at=2), pictures, 100).all()


def test_a_machine_sees_mazes_larger_than_those_that_it_was_made_for() -> None:
    task = Mazes(edge=7, moves=4, widths=(4,), train_rows=1)
    machine = Machine(
        CtmSettings(
            neurons=16,
            ticks=2,
            memory=2,
            hidden=2,
            attention_width=4,
            num_output=4,
            num_action=4,
            inputs=task.inputs,
            outputs=task.outputs,
        )
    ).eval()
    assert 0.0 <= reapplied(machine, edge=11, num=300, rounds=2) < 0.5

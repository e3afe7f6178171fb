"""Mazes: attention is measured against their ways, and larger ones are walked in rounds."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluators.ctm.inputs import Image
from evaluators.ctm.maze_growing import STAY
from evaluators.ctm.mazes import Mazes, grow
from evaluators.ctm.route_walking import arrivals
from evaluators.ctm.thoughts import Thoughts, Trace, certainty_of
from orchestrator.cli import main
from orchestrator.thinking import film
from orchestrator.thinking.following import along_cells, examine_attention, share_on
from orchestrator.thinking.larger import examine_larger
from orchestrator.thinking.page import page, unpack
from orchestrator.thinking.painting import ranges
from orchestrator.thinking.record import Walk
from orchestrator.thinking.rounds import watch_rounds
from orchestrator.thinking.walking import moves_along, reach, walk, way
from orchestrator.thinking.watching import watch
from orchestrator.thinking.wording import words_of
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings

TICKS, HEADS = 6, 2
TASK = Mazes(edge=7, moves=4, train_rows=8, search_rows=8, selection_rows=8, test_rows=8)
WORDS = words_of(TASK, STAY + 1)


def settings(**changed: object) -> CtmSettings:
    plain = {
        "neurons": 14, "ticks": TICKS, "memory": 2, "hidden": 2, "attention_width": 8,
        "heads": HEADS, "num_output": 5, "num_action": 4, "inputs": TASK.inputs,
        "outputs": TASK.outputs,
    }  # fmt: skip
    return CtmSettings(**{**plain, **changed})


def machine(**changed: object) -> Machine:
    torch.manual_seed(0)
    return Machine(settings(**changed)).eval()


def mazes(edge: int = 7, num: int = 24) -> Tensor:
    inputs = grow(edge, 1, num, 0, "test").inputs
    assert isinstance(inputs, Tensor)
    return inputs


def cells_of(maze: Tensor) -> list[tuple[int, int]]:
    found = way(maze.numpy())
    assert found is not None
    return list(found.cells)


class Guide(Machine):
    """Says the right moves, the most surely at one tick, and looks where it is told to."""

    def __init__(self, look: str = "walks", surest: int = 2, moves: int = 4) -> None:
        super().__init__(settings(outputs=replace(TASK.outputs, positions=moves)))
        self.look, self.surest = look, surest

    def forward(self, inputs: Tensor, *, watch: bool = False) -> Thoughts:
        batch, _, height, width = inputs.shape
        moves = self.settings.outputs.positions
        logits = torch.zeros(batch, moves, STAY + 1, TICKS)
        attention = torch.zeros(TICKS, batch, HEADS, height * width)
        for number, maze in enumerate(inputs):
            cells = (
                cells_of(maze) if maze[1:].sum() == 2 and maze[1:].max(0).values.sum() == 2 else []
            )
            for place, move in enumerate(moves_along(cells, moves)):
                logits[number, place, move] = 3.0
                logits[number, place, move, self.surest] = 9.0
            for tick in range(TICKS):
                at = {"walks": round(tick / (TICKS - 1) * (len(cells) - 1)), "start": 0}
                if self.look in at and cells:
                    row, column = cells[at[self.look]]
                    attention[tick, number, :, row * width + column] = 1.0
                else:
                    attention[tick, number] = 1 / (height * width)
        each = [torch.zeros(batch, 3)] * TICKS
        trace = Trace(attention=list(attention), pre=each, post=each, synchronisation=each)
        return Thoughts(logits, certainty_of(logits), trace if watch else None)


def test_attention_that_walks_is_told_from_attention_that_stays_and_from_attention_everywhere():
    found = {look: examine_attention(Guide(look), mazes()) for look in ("walks", "start", "all")}
    assert [found[look]["verdict"] for look in found] == [
        "walks along",
        *["does not walk along"] * 2,
    ]
    assert found["walks"]["along_by_tick"] == pytest.approx(np.linspace(0, 1, TICKS), abs=0.12)
    assert found["walks"]["walking"]["low"] > 0.9
    assert found["walks"]["on_way_by_tick"] == pytest.approx([1.0] * TICKS)
    assert found["start"]["along_by_tick"] == [0.0] * TICKS
    assert (found["start"]["moves"], found["start"]["walking"]["mean"]) == (0.0, 0.0)
    everywhere = found["all"]
    assert everywhere["on_way_by_tick"] == pytest.approx([everywhere["on_way_chance"]] * TICKS)
    assert everywhere["between_by_tick"] == pytest.approx([everywhere["between_chance"]] * TICKS)
    assert everywhere["on_way_by_head"] == pytest.approx([everywhere["on_way_chance"]] * HEADS)


def test_figures_of_attention_are_what_counting_cell_by_cell_gives():
    one, some = machine(), mazes(num=9)
    found = examine_attention(one, some)
    with torch.no_grad():
        attention = torch.stack(one(some, watch=True).trace.attention).numpy()
    on, chance, between, along = [], [], [], []
    for number, maze in enumerate(some):
        cells = cells_of(maze)
        weights = attention[:, number].mean(axis=1).reshape(TICKS, 7, 7)
        on.append([sum(float(tick[cell]) for cell in cells) for tick in weights])
        chance.append(len(cells) / 49)
        floor = [
            (row, column)
            for row in range(7)
            for column in range(7)
            if not maze[:, row, column].any()
        ]
        if len(cells) > 2:
            inner = [sum(float(tick[cell]) for cell in cells[1:-1]) for tick in weights]
            whole = [sum(float(tick[cell]) for cell in floor) for tick in weights]
            between.append(np.divide(inner, whole))
        if len(cells) > 4:
            where = [
                sum(float(tick[cell]) * step / (len(cells) - 1) for step, cell in enumerate(cells))
                for tick in weights
            ]
            along.append(np.divide(where, on[-1]))
    assert found["on_way_by_tick"] == pytest.approx(np.mean(on, axis=0), abs=1e-6)
    assert found["on_way_chance"] == pytest.approx(np.mean(chance))
    assert found["between_by_tick"] == pytest.approx(np.mean(between, axis=0), abs=1e-6)
    assert found["along_by_tick"] == pytest.approx(np.mean(along, axis=0), abs=1e-6)
    assert found["long_rows"] == len(along)


def test_places_of_pooled_pictures_belong_to_the_way_if_one_of_their_pixels_does():
    along = along_cells([(1, 1), (1, 2), (1, 3), (2, 3)], (7, 7), (3, 3))
    assert np.isnan(along).sum() == 6
    assert along[[0, 1, 4]] == pytest.approx([0.0, 0.5, 1.0])
    assert share_on(np.full((2, 9), 1 / 9, dtype=np.float32), along) == pytest.approx([1 / 3] * 2)
    pooled = machine(inputs=Image(channels=3, height=7, width=7, widths=(4,), pools=(0,)))
    found = examine_attention(pooled, mazes(num=6))
    assert 0 < found["on_way_chance"] < 1
    assert max(found["on_way_by_tick"]) <= 1 + 1e-6


def test_mazes_with_short_ways_alone_have_figures_too():
    short = [maze for maze in mazes(num=60) if len(cells_of(maze)) == 2]
    found = examine_attention(machine(), torch.stack(short))
    assert (found["long_rows"], found["verdict"]) == (0, "does not walk along")
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("moves", [2, 4])
def test_who_knows_the_way_walks_it_in_rounds_that_begin_where_the_last_one_ended(moves):
    maze = next(one for one in mazes(edge=9, num=200) if len(cells_of(one)) == 9)
    shown = watch_rounds(Guide(moves=moves), maze[None], WORDS, rounds=20, subject="m", sample="s")
    assert shown.rounds == len(shown.looks) == 8 / moves
    cells = tuple(cells_of(maze))
    for number, look in enumerate(shown.looks):
        assert look.walked == cells[: number * moves + 1]
        assert look.way.cells == cells[number * moves :]
        assert look.target == moves_along(look.way.cells, moves)
    assert shown.taken == tuple(2 + TICKS * number for number in range(shown.rounds))
    assert shown.walks[shown.taken[-1]].end == "goal"
    assert "gets to the goal: 8 moves (the way has 8)" in shown.facts
    data = data_of(page(shown))
    assert data["reaches"][-1] == moves
    assert [one["walked"][-1] for one in data["looks"]] == [list(c) for c in cells[:-1:moves]]


def test_rounds_end_as_walking_many_mazes_does():
    one = machine()
    torch.nn.init.normal_(one.head.weight, std=4.0, generator=torch.Generator().manual_seed(3))
    some, ends = mazes(num=60), []
    for maze in some:
        shown = watch_rounds(one, maze[None], WORDS, rounds=5, subject="m", sample="s")
        arrived = shown.walks[shown.taken[-1]].end == "goal"
        ends.append(shown.rounds if arrived else 0)
    assert ends == arrivals(one, some, 5).tolist()
    assert len(set(ends)) > 1


class Pacing(Guide):
    """Goes one way and comes back."""

    def forward(self, inputs: Tensor, *, watch: bool = False) -> Thoughts:
        thoughts = super().forward(inputs, watch=watch)
        walls, start = inputs[0, 0].bool(), inputs[0, 1].argwhere()[0]
        steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
        free = [m for m, step in enumerate(steps) if not walls[tuple(start + torch.tensor(step))]]
        logits = torch.zeros_like(thoughts.logits)
        logits[:, 0, free[0]] = logits[:, 1:, STAY] = 5.0
        return Thoughts(logits, certainty_of(logits), thoughts.trace)


def test_who_goes_in_circles_is_asked_no_more():
    walls = torch.ones(1, 3, 5, 5)
    walls[0, 1:] = 0
    walls[0, 0, 1, 1:4] = 0
    walls[0, 1, 1, 1] = walls[0, 2, 1, 3] = 1
    shown = watch_rounds(Pacing(), walls, WORDS, rounds=50, subject="m", sample="s")
    assert shown.rounds == 2
    assert "goes in circles: 2 moves" in shown.facts


def test_shares_of_larger_mazes_rise_with_the_rounds_up_to_what_is_in_reach():
    (found,) = examine_larger(Guide(), [11], num=20, rounds=12, seed=0)
    assert found["arrived_by_round"] == found["in_reach_by_round"]
    assert found["arrived_by_round"] == sorted(found["arrived_by_round"])
    assert 0 < found["arrived_by_round"][0] < found["arrived_by_round"][-1] == 1.0


def test_so_far_is_right_what_comes_before_the_first_mistake():
    right = Walk(cells=((1, 1), (1, 2), (1, 3), (2, 3)), end="goal")
    for cells, expected in (
        (right.cells, 3), (right.cells[:2], 1), (((1, 1), (2, 1), (1, 3)), 0), (((1, 1),), 0),
    ):  # fmt: skip
        assert reach(Walk(cells=cells, end="open"), right) == expected


def test_moves_along_a_way_lead_along_it():
    for maze in mazes(num=10):
        cells = tuple(cells_of(maze))
        assert walk(maze.numpy(), moves_along(cells, 30)).cells == cells
    assert moves_along(cells[:2], 3)[1:] == (STAY, STAY)


def test_ticks_are_numbered_as_people_do():
    assert ranges([1, 2, 3, 5, 8, 9]) == "1-3, 5, 8-9"
    assert ranges([4]) == "4"


def data_of(text: str) -> dict:
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text)
    return json.loads(found)


def test_a_page_tells_how_much_attention_is_on_the_way_and_how_much_of_the_way_is_right():
    one, maze = machine(), mazes(num=1)
    shown = watch(one, maze, WORDS, subject="m", sample="s")
    data = data_of(page(shown))
    cells = cells_of(maze[0])
    with torch.no_grad():
        thoughts = one(maze, watch=True)
    attention = torch.stack(thoughts.trace.attention)[:, 0].reshape(TICKS, HEADS, 7, 7)
    on_way = sum(attention[:, :, row, column] for row, column in cells)
    assert np.allclose(unpack(data["looks"][0]["on_way"]), on_way.numpy(), atol=1e-4)
    assert data["looks"][0]["chance"] == pytest.approx(len(cells) / 49, abs=1e-4)
    for tick, said in enumerate(thoughts.logits[0].argmax(dim=1).T.tolist()):
        right = moves_along(cells, len(said))
        far = next(
            (n for n, pair in enumerate(zip(said, right, strict=True)) if pair[0] != pair[1]), 4
        )
        assert data["reaches"][tick] == min(far, len(cells) - 1)


def test_long_films_keep_the_ticks_that_answers_are_taken_from():
    assert film.some_of(40, [7]) == list(range(40))
    needed = [11, 12, 501, 998]
    shown = film.some_of(1000, needed)
    assert set(needed) <= set(shown)
    assert (shown[0], shown[-1]) == (0, 999)
    assert shown == sorted(set(shown))
    assert 60 < len(shown) <= 100


def think(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["ctm", "think", *map(str, arguments)])
    return ended.value.code


FEW = [f"--set={name}_rows=8" for name in ("train", "search", "selection", "test")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of a machine that knows nothing of mazes."""
    folder = tmp_path_factory.mktemp("machines") / "mazes"
    machine(ticks=2).save_pretrained(folder)
    return folder


def test_larger_mazes_are_shown_in_rounds_and_counted(model, tmp_path):
    out = tmp_path / "out"
    arguments = ("--task", "maze", "--set=edge=9", "--set=moves=4", *FEW, "--larger", 11)
    assert think(model, *arguments, "-o", out) == 0
    data = data_of((out / "thinking.html").read_text(encoding="utf-8"))
    looks = data["looks"]
    assert looks[0]["grid"] == [9, 9]
    assert looks[0]["way"]["end"] == "goal"
    assert [one["cells"][0] for one in data["walks"]] == [
        one["walked"][-1] for one in looks for _ in range(2)
    ]
    assert data["summary"]["attention"]["rows"] == 8
    (larger,) = data["summary"]["larger"]
    assert (larger["edge"], len(larger["arrived_by_round"])) == (11, 12)
    assert data["summary"] == json.loads((out / "summary.json").read_text(encoding="utf-8"))


WRONG = {
    "an even edge": (["--larger", 8], "--larger: edge: expected an odd number of pixels, got 8"),
    "too small an edge": (["--larger", 3], "--larger: expected an edge of at least 5, got 3"),
    "no round": (["--rounds", 0], "Invalid value for '--rounds'"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_about_mazes_leaves_nothing_behind(mistake, model, tmp_path, capsys):
    arguments, message = WRONG[mistake]
    assert (
        think(model, "--task", "maze", "--set=moves=4", *FEW, *arguments, "-o", tmp_path / "o") == 2
    )
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_is_no_maze_is_refused(model, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((3, 9, 9), dtype=np.float32))
    file = ("--input", tmp_path / "x.npy", "--task", "maze", "--set=moves=4", *FEW)
    assert think(model, *file, "-o", tmp_path / "out") == 2
    assert "expected a maze" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

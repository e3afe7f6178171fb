"""Thinking made visible: what is shown is what the machine thought."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from evaluators.ctm.inputs import Image, Inputs, Numbers, Outputs, Phases, Tokens
from evaluators.ctm.pictures import Digits
from orchestrator.cli import main
from orchestrator.thinking import film
from orchestrator.thinking.page import page, unpack
from orchestrator.thinking.reading import read_inputs
from orchestrator.thinking.walking import walk, way
from orchestrator.thinking.watching import watch
from orchestrator.thinking.wording import words_of
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings

TOKENS = Tokens(vocabularies=(3, 2), length=5)
PICTURE = Image(channels=1, height=8, width=6)
#: A start in the upper left corner, a goal two to the right of it and two down, one wall between.
MAZE = np.zeros((3, 5, 5), dtype=np.float32)
MAZE[0] = 1
MAZE[0, 1, 1:4] = MAZE[0, 2, 3] = MAZE[0, 3, 3] = 0
MAZE[1, 1, 1] = MAZE[2, 3, 3] = 1
UP, DOWN, LEFT, RIGHT, STAY = range(5)


def machine(inputs: Inputs, outputs: Outputs, **changed: object) -> Machine:
    torch.manual_seed(0)
    plain = {
        "neurons": 14, "ticks": 3, "memory": 2, "hidden": 2, "attention_width": 8, "heads": 2,
        "num_output": 5, "num_action": 4, "inputs": inputs, "outputs": outputs,
    }  # fmt: skip
    return Machine(CtmSettings(**{**plain, **changed})).eval()


SAMPLES = {
    "tokens": (TOKENS, torch.tensor([[[0, 1], [1, 0], [2, 1], [0, 0], [1, 1]]])),
    "a picture": (PICTURE, torch.rand(1, 1, 8, 6, generator=torch.Generator().manual_seed(1))),
    "numbers": (Numbers(size=4), torch.tensor([[0.5, -1.0, 2.0, 0.0]])),
    "phases": (
        Phases(parts={"seen": PICTURE, "asked": TOKENS}, order=("seen", "asked")),
        [torch.ones(1, 1, 8, 6), torch.zeros(1, 5, 2, dtype=torch.long)],
    ),
}


def data_of(text: str) -> dict:
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text)
    return json.loads(found)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_page_holds_what_the_machine_thought(kind):
    inputs, sample = SAMPLES[kind]
    one = machine(inputs, Outputs(positions=2, classes=3))
    with torch.no_grad():
        thoughts = one(sample, watch=True)
    shown = watch(one, sample, words_of(None, 3), subject="m", sample="s", target=[0, 2])
    data = data_of(page(shown))

    def equal(packed, tensor):
        found = unpack(packed)
        wanted = tensor.numpy().astype(np.float32)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= np.abs(wanted).max() / 60_000

    trace = thoughts.trace
    equal(data["probabilities"], thoughts.logits[0].softmax(dim=1).permute(2, 0, 1))
    equal(data["pre"], torch.stack([tick[0] for tick in trace.pre]))
    equal(data["post"], torch.stack([tick[0] for tick in trace.post]))
    equal(data["synchronisation"], torch.stack([tick[0] for tick in trace.synchronisation]))
    assert data["certainty"] == pytest.approx(thoughts.certainty[0].tolist(), abs=1e-5)
    assert data["taken"] == [int(thoughts.certainty[0].argmax())]
    said = thoughts.logits[0].argmax(dim=1)
    assert data["right"] == [answer == [0, 2] for answer in said.T.tolist()]
    attended = [unpack(look["attention"]) for look in data["looks"] if look["attention"]]
    assert sum(map(len, attended)) == len(trace.attention)
    for tick, weights in enumerate(row for look in attended for row in look):
        assert np.allclose(weights, trace.attention[tick][0].numpy(), atol=1e-4)


def test_a_page_names_nothing_outside_of_it_and_no_title_escapes_into_it():
    inputs, sample = SAMPLES["tokens"]
    one = machine(inputs, Outputs(positions=1, classes=3))
    text = page(watch(one, sample, words_of(None, 3), subject="</script><b>", sample="s"))
    assert not re.search(r"https?://|<link rel=\"stylesheet|src=", text)
    assert "</script><b>" not in text
    assert data_of(text)["title"] == "</script><b>, s"


def test_a_large_machine_fits_on_a_page():
    one = machine(
        Image(channels=3, height=40, width=40, pools=()), Outputs(positions=1, classes=10),
        neurons=600, ticks=160, heads=8, attention_width=16, num_output=32, num_action=32,
    )  # fmt: skip
    text = page(watch(one, torch.rand(1, 3, 40, 40), words_of(None, 10), subject="m", sample="s"))
    data = data_of(text)
    assert len(text) < 2_000_000
    assert data["looks"][0]["averaged"]
    assert len(data["neurons"]) < data["num_neurons"] == 600
    assert unpack(data["post"]).shape == (160, len(data["neurons"]))


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_film_has_a_frame_for_each_tick(kind, tmp_path):
    inputs, sample = SAMPLES[kind]
    one = machine(inputs, Outputs(positions=1, classes=3))
    shown = watch(one, sample, words_of(None, 3), subject="m", sample="s", target=[1])
    film.write_gif(film.frames_of(shown), tmp_path / "x.gif")
    with Pictures.open(tmp_path / "x.gif") as opened:
        assert opened.n_frames == shown.ticks == 3 * len(shown.looks)


def test_a_walk_ends_at_the_goal_against_a_wall_or_where_it_rests():
    there = ((1, 1), (1, 2), (1, 3), (2, 3), (3, 3))
    found = walk(MAZE, [RIGHT, RIGHT, DOWN, DOWN, LEFT])
    assert (found.cells, found.end) == (there, "goal")
    assert way(MAZE) == found
    assert walk(MAZE, [RIGHT, DOWN, RIGHT]).end == "wall"
    assert walk(MAZE, [RIGHT, STAY, RIGHT]).cells == there[:2]
    assert walk(MAZE, [RIGHT]).end == "open"


def test_a_maze_without_walls_around_it_has_a_way_and_a_closed_one_none():
    free = np.zeros((3, 3, 3), dtype=np.float32)
    free[1, 0, 0] = free[2, 2, 2] = 1
    assert len(way(free).cells) == 5
    assert walk(free, [UP]).end == "wall"
    free[0, 1] = 1
    assert way(free) is None


def test_answers_count_from_the_phase_that_asks_for_them():
    inputs, sample = SAMPLES["phases"]
    one = machine(inputs, Outputs(positions=1, classes=3))
    common = {"subject": "m", "sample": "s", "target": [1], "answer_phases": 1}
    shown = watch(one, sample, words_of(None, 3), **common)
    assert shown.unjudged == 3
    assert [shown.right(tick) for tick in range(3)] == [None] * 3
    assert shown.taken == (3 + int(shown.certainty[3:].argmax()),)


def test_orders_are_read_over_the_ticks():
    inputs, sample = SAMPLES["numbers"]
    one = machine(inputs, Outputs(positions=1, classes=5))
    torch.nn.init.zeros_(one.head.weight)
    with torch.no_grad():
        one.head.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0]))
    common = {"subject": "m", "sample": "s", "judgement": "order"}
    shown = watch(one, sample, words_of(None, 5), target=[2, 0, 1, 3], **common)
    assert shown.said == ((2,), (2,), (2,))
    assert (shown.verdict(0), shown.taken) == ("right so far", (2,))
    assert watch(one, sample, words_of(None, 5), target=[0, 2], **common).verdict(0) == "wrong"


def test_files_are_read_as_inputs(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(8, 6)
    Pictures.fromarray(pixels).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", pixels.astype(np.float32) / 255)
    (tmp_path / "x.json").write_text("[[0, 1], [1, 0], [2, 1], [0, 0], [1, 1]]")
    (tmp_path / "n.json").write_text("[1, 2.5]")
    from_png, from_npy = (read_inputs([tmp_path / f"x.{end}"], PICTURE) for end in ("png", "npy"))
    assert from_png.shape == (1, 1, 8, 6)
    assert torch.equal(from_png, from_npy)
    assert torch.equal(read_inputs([tmp_path / "x.json"], TOKENS), SAMPLES["tokens"][1])
    assert read_inputs([tmp_path / "n.json"], Numbers(size=2)).tolist() == [[1.0, 2.5]]
    both = read_inputs([tmp_path / "x.png", tmp_path / "x.json"], SAMPLES["phases"][0])
    assert [tuple(one.shape) for one in both] == [(1, 1, 8, 6), (1, 5, 2)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of a machine that knows nothing of digits."""
    folder = tmp_path_factory.mktemp("machines") / "digits"
    machine(Digits().inputs, Digits().outputs).save_pretrained(folder)
    return folder


def think(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["ctm", "think", *map(str, arguments)])
    return ended.value.code


def test_the_command_writes_page_film_and_picture(digits, tmp_path, capsys):
    assert think(digits, "--task", "digits", "--sample", 7, "-o", tmp_path / "out") == 0
    names = {one.name for one in (tmp_path / "out").iterdir()}
    always = {"thinking.html", "thinking.gif", "thinking.png", "summary.png", "summary.json"}
    assert names - {"thinking.mp4"} == always
    data = data_of((tmp_path / "out" / "thinking.html").read_text(encoding="utf-8"))
    sample = Digits().open().rows("test").take(slice(7, 8))
    one = Machine.from_pretrained(digits)
    with torch.no_grad():
        wanted = one(sample.inputs).logits[0].softmax(dim=1).permute(2, 0, 1)
    assert np.allclose(unpack(data["probabilities"]), wanted.numpy(), atol=1e-4)
    assert data["looks"][0]["target"] == sample.targets[0].tolist()
    assert (data["summary"]["rows"], len(data["summary"]["solved_by_tick"])) == (360, 3)
    told = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert told == data["summary"]
    assert ("no MP4" in capsys.readouterr().err) == ("thinking.mp4" not in names)


def test_a_file_needs_no_task_and_a_used_folder_is_replaced_only_when_told(
    digits, tmp_path, capsys
):
    np.save(tmp_path / "x.npy", np.zeros((1, 12, 12), dtype=np.float32))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    arguments = (digits, "--input", tmp_path / "x.npy", "-o", out)
    assert think(*arguments) == 2
    assert "is not empty; name a new one, or use --force" in capsys.readouterr().err
    assert [one.name for one in out.iterdir()] == ["mine"]
    assert think(*arguments, "--force") == 0
    assert "no summary: it needs" in capsys.readouterr().err
    assert {one.name for one in out.iterdir()} >= {"thinking.html", "thinking.gif"}
    assert not (out / "mine").exists()


MISTAKES = {
    "no machine": (["/nowhere", "--task", "digits"], "expected a machine's config.json"),
    "nothing to think about": (["MODEL"], "give --task NAME"),
    "no such task": (["MODEL", "--task", "digit"], "did you mean 'digits'"),
    "no such setting": (["MODEL", "--task", "digits", "--set", "edge=7"], "edge: unknown key"),
    "a setting of nothing": (["MODEL", "--input", "x.npy", "--set", "a=1"], "--set is without"),
    "another task": (["MODEL", "--task", "parity"], "but this task has Tokens"),
    "no such sample": (["MODEL", "--task", "digits", "--sample", "360"], "a number from 0 to 359"),
    "no such file": (["MODEL", "--input", "x.npy"], "x.npy cannot be read"),
    "no picture": (["MODEL", "--input", "x.json"], "expected a picture as .png or .npy"),
    "rounds of no maze": (["MODEL", "--task", "digits", "--rounds", "2"], "are about mazes"),
    "mazes of no maze": (["MODEL", "--input", "x.npy", "--larger", "9"], "are about mazes"),
    "two files": (["MODEL", "--input", "a.png", "--input", "b.png"], "expected 1 files"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_leaves_nothing_behind(mistake, digits, tmp_path, capsys):
    arguments, message = MISTAKES[mistake]
    filled = [str(digits) if one == "MODEL" else one for one in arguments]
    assert think(*filled, "-o", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_broken_folder_is_a_mistake_too(name, tmp_path, capsys):
    folder = tmp_path / "broken"
    machine(Digits().inputs, Digits().outputs).save_pretrained(folder)
    text = '{"model_type": "continuous_thought_machine", "version": 1, "neurons": 4}'
    (folder / name).write_text(text)
    assert think(folder, "--task", "digits", "-o", tmp_path / "out") == 2
    assert str(folder) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_machine_is_never_replaced_by_its_thoughts(digits, capsys):
    assert think(digits, "--task", "digits", "-o", digits, "--force") == 2
    assert "holds the machine" in capsys.readouterr().err
    assert (digits / "model.safetensors").exists()


@pytest.mark.parametrize("folder", [".", "..", "../.."])
def test_the_folder_that_one_is_in_is_never_replaced(folder, digits, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert think(digits, "--task", "digits", "-o", folder, "--force") == 2
    assert "is in use as the current one" in capsys.readouterr().err
    assert here.is_dir()


def test_a_folder_that_cannot_be_made_is_a_mistake(digits, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert think(digits, "--task", "digits", "-o", tmp_path / "file" / "out") == 2
    assert "cannot be made" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["file"]

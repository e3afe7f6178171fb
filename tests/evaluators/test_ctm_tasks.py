"""What every task for networks that think in ticks owes, and that its answers are right."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluators.ctm.automata import Automata, after
from evaluators.ctm.inputs import Image, Inputs, Numbers, Phases, Tokens
from evaluators.ctm.kinds import TASKS, Task
from evaluators.ctm.parity import Parity
from evaluators.ctm.pictures import Digits
from evaluators.ctm.pointers import Pointers
from evaluators.ctm.questions import SUBTRACT, Questions
from evaluators.ctm.sorting import Sorting
from evaluators.ctm.task import generator_of, training_seed
from tests.evaluators.ctm_rows import KINDS, batch, same, samples, tensors, write_mnist

#: All tasks but those that draw from so few samples that a row may be met again.
UNLIKE = [name for name in TASKS.addresses if name not in ("parity", "pointers", "automaton")]


class Noise:
    """Numbers and the sign of their sum, as a dataset."""

    def __init__(self, num: int, seed: int) -> None:
        self.numbers = np.random.default_rng(seed).standard_normal((num, 3))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return self.numbers[number], int(self.numbers[number].sum() > 0)


def noise(num: int, seed: int = 0) -> Noise:
    return Noise(num, seed)


def other_noise(num: int) -> Noise:
    return Noise(num, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pictures")
    write_mnist(made)
    return made


@pytest.fixture(params=TASKS.addresses)
def task(request: pytest.FixtureRequest, folder: Path) -> Task:
    settings = {
        "maze": {"train_rows": 200, "search_rows": 100, "selection_rows": 100, "test_rows": 200},
        "pictures": {"folder": str(folder), "format": "mnist"},
        "dataset": {
            "train": f"{__file__}:noise",
            "test": f"{__file__}:other_noise",
            "arguments": {"num": 50},
            "classes": 2,
            "inputs": Numbers(size=3),
        },
    }
    made: Task = TASKS.load(request.param)(**settings.get(request.param, {}))
    return made


def assert_fits(inputs: Inputs, given: Tensor, num: int) -> None:
    if isinstance(inputs, Tokens):
        assert given.dtype == torch.long
        assert given.shape == (num, inputs.length, len(inputs.vocabularies))
        assert given.min() >= 0
        assert all(given[:, :, at].max() < size for at, size in enumerate(inputs.vocabularies))
    else:
        assert given.dtype == torch.float32
        assert isinstance(inputs, Image | Numbers)
        shape = (
            (inputs.size,)
            if isinstance(inputs, Numbers)
            else (inputs.channels, inputs.height, inputs.width)
        )
        assert given.shape == (num, *shape)


def test_samples_are_what_inputs_and_outputs_say(task: Task) -> None:
    data = task.open()
    for some, num in [
        (batch(data, size=32), 32),
        *((data.rows(kind), task.num_rows[kind]) for kind in KINDS),
    ]:
        inputs = task.inputs
        parts = (
            [inputs.parts[name] for name in inputs.order]
            if isinstance(inputs, Phases)
            else [inputs]
        )
        *given, targets = tensors(some)
        assert isinstance(some.inputs, list) == isinstance(inputs, Phases)
        for part, one in zip(parts, given, strict=True):
            assert_fits(part, one, num)
        assert targets.dtype == torch.long
        assert targets.min() >= 0
        assert targets.max() < task.outputs.classes
        places = task.outputs.classes - 1 if task.judgement == "order" else task.outputs.positions
        assert targets.shape == (num, places)
        assert len(some) == num


def test_rows_are_the_same_every_time(task: Task) -> None:
    first, second = task.open(), task.open()
    batch(second)
    for kind in KINDS:
        assert same(first.rows(kind), second.rows(kind))


def test_a_batch_depends_on_its_generator_alone(task: Task) -> None:
    data = task.open()
    found = batch(data)
    torch.manual_seed(99)
    data.rows("test")
    batch(data, seed=6)
    assert same(batch(data), found)
    assert same(batch(task.open()), found)
    assert not same(batch(data, seed=6), found)


def test_rows_of_kinds_differ(task: Task) -> None:
    data = task.open()
    assert len({tuple(samples(data.rows(kind)))[:20] for kind in KINDS}) == 3


@pytest.mark.parametrize("task", UNLIKE, indirect=True)
def test_no_row_is_trained_on_or_of_two_kinds(task: Task) -> None:
    data = task.open()
    trained = {sample for seed in range(20) for sample in samples(batch(data, seed, 64))}
    kinds = [trained, *(set(samples(data.rows(kind))) for kind in KINDS)]
    assert min(map(len, kinds)) > 3
    assert sum(map(len, kinds)) == len(set().union(*kinds))


def test_no_step_of_training_draws_from_the_streams_of_rows() -> None:
    seeds = {training_seed(seed, step) for seed in (0, 1, 7, 5000) for step in range(200)}
    rows = {generator_of(seed, kind).initial_seed() for seed in range(50) for kind in KINDS}
    assert len(rows) == 150
    assert not {one % 2**32 for one in seeds} & {one % 2**32 for one in rows}


def test_a_search_row_of_parity_is_no_batch_of_the_first_steps() -> None:
    task = Parity(length=30)
    rows = [set(samples(task.rows(kind))) for kind in KINDS]
    for step in range(8):
        drawn = set(samples(batch(task, training_seed(task.seed, step), 64)))
        assert not any(drawn & one for one in rows)


def test_parity_is_whether_the_ones_so_far_are_odd_in_number() -> None:
    some = batch(Parity(length=7))
    for bits, answers in zip(some.inputs[:, :, 0].tolist(), some.targets.tolist(), strict=True):
        assert answers == [bits[: place + 1].count(1) % 2 for place in range(7)]
    assert len(set(map(tuple, some.targets.tolist()))) > 16


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_pointers_lead_where_following_them_leads(hops: int) -> None:
    some = batch(Pointers(size=6, hops=hops))
    for tokens, (answer,) in zip(some.inputs.tolist(), some.targets.tolist(), strict=True):
        table = {own: to for own, to, _ in tokens}
        assert sorted(table.values()) == list(range(6))
        (here,) = [own for own, _, marked in tokens if marked]
        for _ in range(hops):
            here = table[here]
        assert answer == here


@pytest.mark.parametrize("rule", [30, 110, 184])
@pytest.mark.parametrize("steps", [1, 3])
def test_cells_become_what_their_rule_says(rule: int, steps: int) -> None:
    some = batch(Automata(length=9, steps=steps, rule=rule))
    for numbers, answers in zip(some.inputs.tolist(), some.targets.tolist(), strict=True):
        cells = [int(one > 0) for one in numbers]
        for _ in range(steps):
            around = [(cells[i - 1], cells[i], cells[(i + 1) % 9]) for i in range(9)]
            cells = [f"{rule:08b}"[7 - int("".join(map(str, one)), 2)] == "1" for one in around]
            cells = [int(one) for one in cells]
        assert answers == cells


def test_rule_30_grows_from_one_cell_as_wolfram_drew_it() -> None:
    cells = torch.zeros(1, 15, dtype=torch.long)
    cells[0, 7] = 1
    drawn = ["111", "11001", "1101111", "110010001", "11011110111"]
    for steps, expected in enumerate(drawn, start=1):
        found = after(cells, rule=30, steps=steps)[0].tolist()
        assert "".join(map(str, found)).strip("0") == expected


def test_numbers_taken_in_the_order_that_is_asked_for_ascend() -> None:
    some = batch(Sorting(length=6))
    for numbers, order in zip(some.inputs.tolist(), some.targets.tolist(), strict=True):
        assert sorted(order) == list(range(6))
        taken = [numbers[place] for place in order]
        assert all(one <= other for one, other in pairwise(taken))


@pytest.mark.parametrize(("digits", "operations"), [(2, 1), (3, 2), (4, 3)])
def test_questions_are_answered_by_sums_modulo_ten(digits: int, operations: int) -> None:
    from sklearn.datasets import load_digits

    known = load_digits()
    names = {
        picture.astype(np.float32).tobytes(): int(name)
        for picture, name in zip(known.images, known.target, strict=True)
    }
    task = Questions(digits=digits, operations=operations)
    for some in (batch(task.open()), task.open().rows("search")):
        *pictures, questions, sign = some.inputs
        assert len(pictures) == digits
        assert not sign.any()
        for row in range(len(some)):
            seen = [names[(16 * one[row, 0]).numpy().tobytes()] for one in pictures]
            (first, begin), *rest = questions[row].tolist()
            assert begin == 0
            assert len(rest) == operations
            answer = seen[first]
            for place, what in rest:
                assert what in (1, 2)
                answer = (answer - seen[place]) if what == SUBTRACT else (answer + seen[place])
            assert some.targets[row].tolist() == [answer % 10]


def test_questions_are_of_pictures_that_no_other_kind_of_rows_has() -> None:
    data = Questions(test_rows=600).open()
    pictures = [
        {one.numpy().tobytes() for one in torch.cat(tensors(some)[:2])}
        for some in (batch(data, size=500), *map(data.rows, KINDS))
    ]
    assert sum(map(len, pictures)) == len(set().union(*pictures)) > 1000


def test_questions_are_judged_once_they_may_be_answered() -> None:
    task = Questions(digits=3)
    assert isinstance(task.inputs, Phases)
    assert task.inputs.order == ("digit", "digit", "digit", "question", "answer")
    assert task.answer_phases == 1


def test_digits_are_all_there_once() -> None:
    from sklearn.datasets import load_digits

    task = Digits()
    data = task.open()
    rows = [sample for kind in KINDS for sample in samples(data.rows(kind))]
    trained = {one for seed in range(40) for one in samples(batch(data, seed, 500))}
    assert len(rows) == 360 + 2 * 143
    known = {(one / 16).astype(np.float32).tobytes() for one in load_digits().images}
    assert {one for (one,) in trained} | {one for (one,) in rows} == known


def test_settings_of_tasks_need_no_torch():
    """Whoever reads a campaign's status should not wait for it."""
    code = (
        "import sys\nfrom evaluators.ctm.kinds import TASKS\nimport orchestrator.spaces.ctm\n"
        "import evaluators.ctm.evaluator\n"
        "for name in TASKS.addresses: TASKS.load(name)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

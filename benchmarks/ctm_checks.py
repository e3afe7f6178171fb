"""Whether machines are what their paper defines, and how long a step of training takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import ctm_plain
import torch
from torch import Tensor

from evaluators.ctm.inputs import Image, Numbers, Outputs, Phases, Tokens
from evaluators.ctm.losses import loss_of, losses, two_ticks
from evaluators.ctm.mazes import Mazes
from evaluators.ctm.parity import Parity
from evaluators.ctm.thoughts import Thoughts, certainty_of
from workers.ctm.machine import Machine
from workers.ctm.pairs import draw_pairs
from workers.ctm.settings import CtmSettings

Samples: TypeAlias = Tensor | list[Tensor]

TOKENS = Tokens(vocabularies=(3, 2), length=5)
IMAGE = Image(channels=2, height=8, width=6, widths=(4, 6), pools=(1,))
PLAIN: Mapping[str, Any] = {
    "neurons": 24,
    "ticks": 6,
    "memory": 4,
    "hidden": 3,
    "attention_width": 8,
    "heads": 2,
    "num_output": 6,
    "num_action": 5,
    "inputs": TOKENS,
    "outputs": Outputs(positions=2, classes=3),
}
#: Parts of the definition, and the settings that show them.
PARTS: Mapping[str, Mapping[str, Any]] = {
    "synapse of one layer, deep neuron models, dense pairs": {},
    "shallow neuron models": {"neuron_model": "shallow"},
    "memory longer than all ticks": {"memory": 9},
    "synapse, U-Net of depth 2": {"synapse_depth": 2},
    "synapse, U-Net of depth 4": {"synapse_depth": 4},
    "semi-dense pairs": {"pairing": "semi_dense"},
    "semi-dense pairs, the whole table": {"pairing": "semi_dense_full"},
    "random pairs, 3 of 9 of a neuron with itself": {
        "pairing": "random",
        "num_output": 9,
        "num_action": 7,
        "self_pairs": 3,
    },
    "attention of 4 heads": {"heads": 4},
    "attention over a picture": {"inputs": IMAGE},
    "numbers, nothing attended to": {"inputs": Numbers(size=4)},
    "inputs one after another": {
        "inputs": Phases(parts={"seen": IMAGE, "asked": TOKENS}, order=("seen", "asked"))
    },
    "no neuron models (ablation)": {"neuron_model": "none"},
    "no synchronisation (ablation)": {"synchronise": False},
}
#: The settings of the paper's tasks, as far as time and memory here allow (see `batch`).
SPEEDS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "parity 64": (
        Parity(length=64),
        {
            "neurons": 1024,
            "memory": 25,
            "hidden": 16,
            "attention_width": 512,
            "heads": 8,
            "pairing": "semi_dense",
            "num_output": 32,
            "num_action": 32,
        },
    ),
    "maze 39 x 39": (
        Mazes(edge=39, moves=100, train_rows=64, widths=(64, 128), pools=(0, 1)),
        {
            "neurons": 2048,
            "memory": 25,
            "hidden": 32,
            "synapse_depth": 8,
            "attention_width": 512,
            "heads": 16,
            "num_output": 64,
            "num_action": 32,
        },
    ),
}


def conformance() -> Iterator[tuple[str, float, float | None]]:
    """Yields a part, and the greatest difference from the definition in float64 and in float32."""
    for name, changes in PARTS.items():
        settings = CtmSettings(**{**PLAIN, **changes})
        yield name, *_differences(settings)
    yield "pairs that are drawn", _wrong_pairs(), None
    yield from _losses()


def _differences(settings: CtmSettings) -> tuple[float, float]:
    """Returns the greatest difference of answers and certainties."""
    torch.manual_seed(0)
    machine = Machine(settings)
    for one in machine.parameters():  # far from where they start: decays, biases, scales
        one.data += 0.3 * torch.randn_like(one)
    for reader in (machine.answer, machine.action):
        if reader is not None and settings.synchronise:
            reader.decay.data[::5] = 40.0  # is cut to 15
    given = _samples(settings.inputs)
    with torch.no_grad():
        single = machine.eval()(given)
        logits, certainty = ctm_plain.by_definition(machine, _double(given))
        double = machine(_double(given))
    return _apart(double, logits, certainty), _apart(single, logits, certainty)


def _apart(found: Thoughts, logits: Tensor, certainty: Tensor) -> float:
    return max(_greatest(found.logits - logits), _greatest(found.certainty - certainty))


def _greatest(difference: Tensor) -> float:
    return float(difference.detach().abs().max())


def _samples(inputs: Any, batch: int = 4) -> Samples:
    torch.manual_seed(1)
    if isinstance(inputs, Phases):
        return [_one(inputs.parts[name], batch) for name in inputs.order]
    return _one(inputs, batch)


def _one(inputs: Any, batch: int) -> Tensor:
    if isinstance(inputs, Tokens):
        ids = [torch.randint(num, (batch, inputs.length)) for num in inputs.vocabularies]
        return torch.stack(ids, dim=2)
    if isinstance(inputs, Numbers):
        return torch.randn(batch, inputs.size)
    return torch.randn(batch, inputs.channels, inputs.height, inputs.width)


def _double(given: Samples) -> Samples:
    if isinstance(given, Tensor):
        return given.double() if given.is_floating_point() else given
    return [one.double() if one.is_floating_point() else one for one in given]


def _wrong_pairs() -> float:
    """Returns how many pairs are not where the definition of their pairing has them."""
    torch.manual_seed(0)
    dense, last = draw_pairs(CtmSettings(**PLAIN))
    wanted = [(i, j) for i in range(6) for j in range(i, 6)]
    wrong = len(set(map(tuple, dense.T.tolist())) ^ set(wanted)) + abs(dense.shape[1] - 21)
    wanted = [(i, j) for i in range(19, 24) for j in range(i, 24)]
    wrong += len(set(map(tuple, last.T.tolist())) ^ set(wanted))
    table = draw_pairs(CtmSettings(**PLAIN, pairing="semi_dense"))[0].T.tolist()
    # The last column of the upper triangle is the first list, its first row is the second.
    first = [table[sum(6 - row for row in range(place))][0] for place in range(6)]
    second = [one[1] for one in table[:6]]
    wrong += sum(
        one != [first[i], second[j]]
        for one, (i, j) in zip(table, [(i, j) for i in range(6) for j in range(i, 6)], strict=True)
    )
    drawn = draw_pairs(CtmSettings(**PLAIN, pairing="random", self_pairs=5))[0].T.tolist()
    return float(wrong + sum(i != j for i, j in drawn[:5]) + abs(len(drawn) - 6))


def _losses() -> Iterator[tuple[str, float, float]]:
    torch.manual_seed(2)
    logits = 2 * torch.randn(6, 7, 3, 5, dtype=torch.float64)
    targets = torch.randint(3, (6, 7))
    targets[0] = logits[0, :, :, 2].argmax(dim=1)  # one route is right to its end
    targets[1, :4] = logits[1, :4, :, 1].argmax(dim=1)
    orders = torch.stack([torch.randperm(3)[:2] for _ in range(6)])
    said = 2 * torch.randn(6, 1, 4, 5, dtype=torch.float64)
    exact = certainty_of(logits)
    wanted = {
        "loss, two ticks": ctm_plain.loss_by_definition(logits, targets, exact),
        "loss, curriculum of routes": ctm_plain.loss_by_definition(logits, targets, exact, 2),
        "loss, orders over ticks (CTC)": ctm_plain.order_by_definition(said, orders),
    }
    for name, value in wanted.items():
        apart = []
        for dtype in (torch.float64, torch.float32):
            order = "CTC" in name
            raw, right = (said, orders) if order else (logits, targets)
            raw = raw.to(dtype)
            judged = "order" if order else "route" if "routes" in name else "positions"
            thoughts = Thoughts(raw, certainty_of(raw))
            apart.append(abs(float(loss_of(thoughts, right, judged, "two_tick", 2)) - value))
        yield name, apart[0], apart[1]


def speed(
    name: str, ticks: int, batch: int, repeats: int
) -> tuple[list[float], list[float], float, float]:
    """Times forward and backward passes, ours and the straightforward one in turn.

    Returns:
        CPU seconds of ours and of the straightforward one, and the greatest differences between
        their answers, and between their gradients as a share of the greatest gradient.
    """
    task, changes = SPEEDS[name]
    torch.manual_seed(0)
    settings = CtmSettings(inputs=task.inputs, outputs=task.outputs, ticks=ticks, **changes)
    machine = Machine(settings)
    given = task.open().batch(torch.Generator().manual_seed(1), batch)

    def ours() -> tuple[Tensor, Tensor]:
        thoughts = machine(given.inputs)
        return thoughts.logits, thoughts.certainty

    def plain() -> tuple[Tensor, Tensor]:
        return ctm_plain.straightforward(machine, given.inputs)

    spent: tuple[list[float], list[float]] = ([], [])
    answers, gradients = [], []
    for _ in range(repeats):
        for times, way in zip(spent, (ours, plain), strict=True):
            seconds, answer = _step(machine, way, given.targets)
            times.append(seconds)
            answers.append(answer)
            gradients.append([one.grad for one in machine.parameters()])
        if len(times) == 1:
            apart = _greatest(answers[0] - answers[1])
            pairs = list(zip(*gradients, strict=True))
            steepest = max(_greatest(other) for _, other in pairs)
            steep = max(_greatest(one - other) for one, other in pairs) / steepest
        answers, gradients = [], []
    return *spent, apart, steep


def _step(
    machine: Machine, way: Callable[[], tuple[Tensor, Tensor]], targets: Tensor
) -> tuple[float, Tensor]:
    """Returns the CPU seconds of a pass forward and backward, and the answers."""
    machine.zero_grad(set_to_none=True)
    begun = time.process_time()
    logits, certainty = way()
    two_ticks(losses(logits, targets).mean(dim=1), certainty).backward()
    return time.process_time() - begun, logits.detach()

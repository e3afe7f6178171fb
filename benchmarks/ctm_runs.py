"""Trainings that `ctm.py` makes tables of: each is a JSON line in a folder, and made only once.

Every training has one thread and is timed in CPU seconds, without judging. Rows are test rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluators.ctm.automata import Automata
from evaluators.ctm.kinds import Task
from evaluators.ctm.mazes import Mazes
from evaluators.ctm.measures import examine
from evaluators.ctm.parity import Parity
from evaluators.ctm.pictures import Digits
from evaluators.ctm.pointers import Pointers
from evaluators.ctm.sorting import Sorting
from evaluators.ctm.task import Data
from evaluators.ctm.training import Training
from evaluators.ctm.training_settings import TrainingSettings
from workers.ctm.baselines import matched, num_parameters
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings

#: Steps that tell what a step costs.
_TRIAL = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A task, the machine that learns it, and how."""

    task: Task
    machine: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def settings(self) -> CtmSettings:
        """Of the machine."""
        return CtmSettings(inputs=self.task.inputs, outputs=self.task.outputs, **self.machine)


_MAZE: Mapping[str, Any] = {
    "machine": {
        "neurons": 96,
        "ticks": 12,
        "memory": 6,
        "attention_width": 32,
        "heads": 16,
        "num_output": 20,
        "num_action": 20,
    },
    "training": {"steps": 1750, "rate": 1e-3, "lookahead": 3},
}

CASES: Mapping[str, Case] = {
    "pointers": Case(
        task=Pointers(size=6),
        machine={
            "neurons": 96,
            "ticks": 4,
            "memory": 2,
            "attention_width": 48,
            "heads": 2,
            "num_output": 20,
            "num_action": 20,
        },
        training={"steps": 6000, "rate": 1e-3},
    ),
    "automaton": Case(
        task=Automata(length=16, steps=4, rule=30),
        machine={
            "neurons": 96,
            "ticks": 6,
            "memory": 3,
            "hidden": 4,
            "num_output": 20,
        },
        training={"steps": 6000, "rate": 3e-3},
    ),
    "parity": Case(
        task=Parity(length=8),
        machine={"neurons": 64, "ticks": 10, "memory": 5, "attention_width": 32, "heads": 16},
        training={"steps": 2000, "rate": 1e-3},
    ),
    "sorting": Case(
        task=Sorting(length=5),
        machine={
            "neurons": 96,
            "ticks": 12,
            "memory": 6,
            "hidden": 4,
            "num_output": 20,
        },
        training={"steps": 2500, "rate": 2e-3},
    ),
    "maze": Case(task=Mazes(edge=7, moves=10, train_rows=4000), **_MAZE),
    "maze, no code": Case(
        task=Mazes(edge=7, moves=10, train_rows=4000, widths=(16, 32, 32), place_code=False),
        **_MAZE,
    ),
    "digits": Case(
        task=Digits(),
        machine={
            "neurons": 64,
            "ticks": 10,
            "memory": 5,
            "hidden": 4,
            "attention_width": 32,
            "heads": 2,
        },
        training={"steps": 600, "rate": 2e-3},
    ),
}


def _changed(**changes: Any) -> Callable[[CtmSettings, Any], nn.Module]:
    return lambda settings, _: Machine(replace(settings, **changes))


def _baseline(kind: str) -> Callable[[CtmSettings, Any], nn.Module]:
    return lambda settings, example: matched(kind, settings, example)


#: What is trained, made from the machine's settings and an example of the inputs.
MODELS: Mapping[str, Callable[[CtmSettings, Any], nn.Module]] = {
    "machine": _changed(),
    "one tick": _changed(ticks=1, memory=1),
    "LSTM": _baseline("lstm"),
    "feed-forward": _baseline("feed_forward"),
    "no neuron models": _changed(neuron_model="none"),
    "no synchronisation": _changed(synchronise=False),
}
#: These train for as much CPU time as the machine of the same seed did, not for as many steps.
_EQUAL_TIME = ("one tick",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished training."""

    case: str
    model: str
    #: Of the parameters drawn at first and of the batches.
    seed: int
    steps: int
    #: CPU seconds of training.
    cpu_s: float
    parameters: int
    #: `Findings.summary()` of the test rows.
    found: Mapping[str, Any]


class Runs:
    """The finished trainings of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._file = folder, folder / "runs.jsonl"

    def all(self, case: str, model: str) -> list[Run]:
        """Returns those of a case and a model, by seed."""
        found = [one for one in self._read() if (one.case, one.model) == (case, model)]
        return sorted(found, key=lambda one: one.seed)

    def need(self, case: str, model: str, seed: int) -> Run:
        """Returns a training, which is done now if it was not yet."""
        for one in self.all(case, model):
            if one.seed == seed:
                return one
        made, trained = train(case, model, seed, self._steps(case, model, seed))
        if isinstance(trained, Machine):
            trained.save_pretrained(self._place(case, model, seed))
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(made)) + "\n")
        return made

    def machine(self, case: str, model: str, seed: int) -> Machine:
        """Returns the machine that a finished training ended at."""
        return Machine.from_pretrained(self._place(case, model, seed))

    def _place(self, case: str, model: str, seed: int) -> Path:
        return self._folder / f"{case}, {model}, {seed}"

    def _steps(self, case: str, model: str, seed: int) -> int:
        if model not in _EQUAL_TIME:
            return int(CASES[case].training["steps"])
        allowed = self.need(case, "machine", seed).cpu_s
        training, _ = begin(case, model, seed, 10 * _TRIAL)
        training.until(_TRIAL // 4)  # the first steps also set up
        begun = time.process_time()
        training.until(_TRIAL // 4 + _TRIAL)
        return max(1, round(allowed * _TRIAL / (time.process_time() - begun)))

    def _read(self) -> list[Run]:
        if not self._file.exists():
            return []
        return [Run(**json.loads(line)) for line in self._file.read_text().splitlines()]


def begin(case: str, model: str, seed: int, steps: int) -> tuple[Training, Data]:
    """Returns a training before its first step, and the samples of its task."""
    one = CASES[case]
    data = one.task.open()
    torch.manual_seed(seed)
    example = data.batch(torch.Generator().manual_seed(seed), 2).inputs
    made = MODELS[model](one.settings, example)
    settings = TrainingSettings(**{**one.training, "steps": steps, "seed": seed})
    phases = one.task.answer_phases
    return Training(made, data, one.task.judgement, settings, phases), data


def train(case: str, model: str, seed: int, steps: int) -> tuple[Run, nn.Module]:
    """Trains, and judges by the test rows; returns the network, too."""
    training, data = begin(case, model, seed, steps)
    begun = time.process_time()
    training.until(steps)
    spent = time.process_time() - begun
    task = CASES[case].task
    findings = examine(
        training.model, data.rows("test"), task.judgement, answer_phases=task.answer_phases
    )
    made = Run(
        case=case,
        model=model,
        seed=seed,
        steps=steps,
        cpu_s=spent,
        parameters=num_parameters(training.model),
        found=findings.summary(),
    )
    return made, training.model

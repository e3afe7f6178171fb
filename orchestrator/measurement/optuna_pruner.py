"""Any pruner of Optuna (Akiba et al. 2019, https://arxiv.org/abs/1907.10902) as a race.

For each verdict a study in memory is built from the field: candidates of late report their fitness
again, block after block, at the number of documents that they had been measured on by then, and
those measured in full are its completed trials. So verdicts follow from the field alone, and
resuming needs nothing of Optuna's. A step is a document wherever a pruner counts steps
(`n_warmup_steps`, `min_resource`); `patience` alone counts blocks, as Optuna's counts reports.

Wilcoxon's test compares with the best, document by document: steps are documents then, in the
order of the campaign's blocks, each worth what it adds to the fitness. A patient pruner cannot wrap
it, for what it asks is whether values get better from step to step, and documents do not.

Deviations: as in all races nobody is stopped before there are as many incumbents as `survivors`,
nor whoever has not lost one document to the last of them; Hyperband's brackets are drawn by the
candidates' own numbers; trials are those of earlier generations, and of late.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from annotated_types import Ge, Interval

from evaluators.base import Score
from evaluators.pooling import pool
from evaluators.registry import nearest
from orchestrator import optuna_library
from orchestrator.measurement.measured import Standing
from orchestrator.measurement.paired_races import last_survivors, leads_of, never_behind
from orchestrator.measurement.race import Field, Run

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

_SUFFIX = "Pruner"
#: What is reported of a candidate: steps, and the values that belong to them.
Series: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptunaPruner:
    """Stops whom a pruner of Optuna prunes; needs the extra `optuna`."""

    #: Documents of each task in the first block.
    first_block: Annotated[int, Ge(1)] = 16
    #: How many times larger each block is than the one before.
    growth: Annotated[float, Interval(ge=1, le=16)] = 1.5
    #: A candidate that loses no document to the last of so many of the best goes on anyway.
    survivors: Annotated[int, Interval(ge=1, le=16)] = 2
    #: Name of the pruner: median, percentile, successive_halving, hyperband, threshold, patient,
    #: wilcoxon, nop.
    pruner: str = "median"
    #: What else the pruner is made with, as in Optuna's documentation; steps are documents. A
    #: `wrapped_pruner` is a name, or a section with its name as `pruner` and its options.
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _made(self.pruner, self.options)

    @property
    def compares_documents(self) -> bool:
        """Whether the pruner compares document by document."""
        return _plain(self.pruner) == "wilcoxon"

    def goes_on(self, standing: Standing, field: Field) -> bool:
        """Whether the pruner would let it, or it may not be stopped anyway."""
        rivals = last_survivors(field, self.survivors)
        if not rivals or any(never_behind(leads_of(standing, rival)) for rival in rivals):
            return True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return not self._prunes(standing, field)

    def _prunes(self, standing: Standing, field: Field) -> bool:
        pruner = _made(self.pruner, self.options)
        if _plain(self.pruner) == "wilcoxon":
            return _prunes_by_document(pruner, standing, field)
        mine = _blocks(standing)
        fitness = [pool(mine[: num + 1]).fitness for num in range(len(mine))]
        runs = tuple(sorted(field.runs, key=lambda run: (run.number, run.fitness)))
        steps = _steps(_blocks(field.incumbents[0]))
        study = _study(pruner)
        study.add_trials(_told(self.pruner, json.dumps(self.options), steps, runs))
        for run, told in zip(runs, study.get_trials(deepcopy=False), strict=True):
            told.number = run.number
        return _report(_asked(study, field.number), zip(_steps(mine), fitness, strict=True))


def _prunes_by_document(pruner: BasePruner, standing: Standing, field: Field) -> bool:
    """Asks a pruner that compares with the best, step by step."""
    trial, study = optuna_library.load().trial, _study(pruner)
    whole = [_blocks(one) for one in field.incumbents]
    for values in sorted(_by_document(one, one) for one in whole):  # equals: in whatever order
        fitness = math.fsum(value for _, value in values) / len(values)
        study.add_trial(trial.create_trial(value=fitness, intermediate_values=dict(values)))
    mine = dict(_by_document(_blocks(standing), whole[0]))
    running = optuna_library.load().trial.TrialState.RUNNING
    return pruner.prune(study, trial.create_trial(state=running, intermediate_values=mine))


def _by_document(blocks: Sequence[Score], whole: Sequence[Score]) -> Series:
    """Returns what each document adds to the fitness, scaled so that their mean is the fitness."""
    num = {name: task.documents for name, task in pool(whole).tasks.items()}
    values = (
        task.weight * value * sum(num.values()) / num[name]
        for score in blocks
        for name, task in sorted(score.tasks.items())
        for value in task.per_document
    )
    return tuple(enumerate(values))


def _blocks(standing: Standing) -> list[Score]:
    """Returns the scores on the blocks of the search rows, the first one first."""
    places = sorted(block for rows, block in standing.parts if rows == "search")
    return [standing.parts["search", block] for block in places]


def _steps(blocks: Iterable[Score]) -> tuple[int, ...]:
    """Returns how many documents had been measured after each block."""
    return tuple(accumulate(score.num_documents for score in blocks))


@functools.lru_cache(maxsize=8)
def _told(
    name: str, options: str, steps: tuple[int, ...], runs: tuple[Run, ...]
) -> tuple[FrozenTrial, ...]:
    """Returns the trials of candidates of late, with what the pruner notes of them.

    Many candidates race in the same field; to let all of it report takes a tenth of a second.
    """
    states, study = optuna_library.load().trial.TrialState, _study(_made(name, json.loads(options)))
    for run in runs:
        trial = _asked(study, run.number)
        _report(trial, zip(steps, run.fitness, strict=False))
        whole = len(run.fitness) == len(steps)
        state = states.COMPLETE if whole else states.PRUNED
        study.tell(trial, run.fitness[-1] if whole else None, state=state)
    return tuple(study.get_trials(deepcopy=False))


def _study(pruner: BasePruner) -> Study:
    optuna = optuna_library.load()
    study: Study = optuna.create_study(
        study_name="race",  # Hyperband draws by it
        direction="maximize",
        pruner=pruner,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    return study


def _asked(study: Study, number: int) -> Trial:
    """Returns a new trial with a candidate's number: its own would be its place in the study."""
    trial = study.ask()
    study.get_trials(deepcopy=False)[-1].number = number
    return trial


def _report(trial: Trial, series: Iterable[tuple[int, float]]) -> bool:
    """Reports value after value, as the pruner may take notes each time; returns its last word."""
    verdict = False
    for step, value in series:
        trial.report(value, step)
        verdict = trial.should_prune()
    return verdict


def _made(name: str, options: Mapping[str, Any]) -> BasePruner:
    """Makes a pruner.

    Raises:
        ValueError: if Optuna is missing, or has no such pruner or option.
    """
    cls = _pruner_class(name)
    parameters = inspect.signature(cls).parameters.values()
    known = [
        one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    for key in options:
        if key not in known:
            raise ValueError(
                f"options.{key}: Optuna's {cls.__name__} has no such setting; {nearest(key, known)}"
            )
    wrapped = {key: _wrapped(options[key]) for key in options if key == "wrapped_pruner"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are experiments of Optuna's
            return cls(**{**options, **wrapped})
    except (TypeError, ValueError) as error:
        raise ValueError(f"options: Optuna's {cls.__name__} says: {error}") from error


def _wrapped(inner: Any) -> BasePruner | None:
    """Makes the pruner within a patient one; None if it is to be patient alone."""
    if inner is None:
        return None
    section: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {"pruner": inner}
    if not {*section} <= {"pruner", "options"} or not isinstance(section.get("pruner"), str):
        raise ValueError(
            "options.wrapped_pruner: expected the name of a pruner, or a section with 'pruner' and "
            f"'options', got {inner!r}"
        )
    if _plain(section["pruner"]) == "wilcoxon":
        raise ValueError(
            "options.wrapped_pruner: 'wilcoxon' is told documents, of which no one is better than "
            "the one before; use it without patience"
        )
    try:
        return _made(section["pruner"], section.get("options", {}))
    except ValueError as error:
        raise ValueError(f"options.wrapped_pruner: {error}") from error


def _pruner_class(name: str) -> type[BasePruner]:
    pruners = optuna_library.load().pruners
    known = {_named(one): one for one in dir(pruners) if one.endswith(_SUFFIX)}
    found = next((cls for one, cls in known.items() if _plain(one) == _plain(name)), "BasePruner")
    if found == "BasePruner":
        names = [one for one in known if one != "base"]
        raise ValueError(f"pruner: Optuna has no pruner {name!r}; {nearest(name, names)}")
    cls: type[BasePruner] = getattr(pruners, found)
    return cls


def _named(cls: str) -> str:
    """Returns a class's name as campaign files have it: SuccessiveHalvingPruner is one of them."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.removesuffix(_SUFFIX)).lower()


def _plain(name: str) -> str:
    """Returns the bare name: MedianPruner, median and Median are one."""
    return re.sub(r"[^a-z]", "", name.lower()).removesuffix(_SUFFIX.lower())

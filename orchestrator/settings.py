"""The campaign as the user writes it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval

from cluster.resources import Cluster
from evaluators.base import EvaluatorSettings
from orchestrator.algorithms.base import Algorithm
from orchestrator.campaign.stopping import Stagnation
from orchestrator.measurement.estimator import Estimator
from orchestrator.measurement.race import Race
from orchestrator.measurement.regime import Refresh
from orchestrator.objectives import Objectives
from orchestrator.spaces.base import SpaceSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When a campaign ends: whichever limit comes first."""

    #: Generations of the search.
    generations: Annotated[int, Ge(1)] | None = None
    #: Candidates that the search may propose; references and control come on top.
    evaluations: Annotated[int, Ge(1)] | None = None
    #: Hours of running, over all runs of the campaign; the report comes on top.
    hours: Annotated[float, Gt(0)] | None = None
    #: Propose no more once the best search candidate's fitness, measured in full, is so high.
    target: float | None = None
    #: Propose no more once the best search candidate has not become better for long.
    stagnation: Stagnation | None = None
    #: Share of failed candidates at which the campaign gives up, once 8 have ended.
    max_failure_fraction: Annotated[float, Interval(gt=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        ends = (self.generations, self.evaluations, self.hours, self.stagnation)
        if all(one is None for one in ends):
            also = "" if self.target is None else "; a target may never be reached"
            raise ValueError(
                f"set at least one of generations, evaluations, hours and stagnation{also}"
            )
        if self.target is not None and not math.isfinite(self.target):
            raise ValueError(f"target: expected a finite fitness, got {self.target}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSettings:
    """One campaign file."""

    #: The campaign's identity in the store.
    name: str
    #: Seed of everything random.
    seed: Annotated[int, Ge(0)]
    #: What is searched.
    space: SpaceSettings
    #: How it is searched.
    search: Algorithm
    #: What a candidate is worth.
    evaluate: EvaluatorSettings
    #: When to end.
    budget: Budget
    #: What the search aims at; null for the evaluator's weighted sum alone.
    objectives: Objectives | None = None
    #: `random` measures as many random candidates beside the search, for comparison only.
    control: Literal["random", "none"] = "none"
    #: Stop candidates that cannot win before all search rows are spent on them.
    racing: Race | None = None
    #: Score the elite again on search rows kept back, as the campaign goes.
    refresh: Refresh | None = None
    #: Measure candidates on few documents and estimate what they are worth on all.
    estimator: Estimator[Any] | None = None
    #: How many of the best are picked among at the end: on selection rows, or in full if estimated.
    finalists: Annotated[int, Interval(ge=1, le=16)] = 5
    #: Where it runs.
    cluster: Cluster = Cluster()
    #: Copy the score of an equal evaluation that the store has, of any campaign.
    reuse: bool = True
    #: SQLite file, or postgresql://...
    store: str = "runs/shoal.db"
    #: Folder of the result; runs/NAME if null.
    output: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name: expected up to 64 letters, digits, '.', '_' and '-', got {self.name!r}"
            )
        for other in ("racing", "refresh"):
            if self.estimator is not None and getattr(self, other) is not None:
                raise ValueError(
                    f"{other}: goes with full measurements, but an 'estimator' measures each "
                    "candidate on few documents; leave out one of the two"
                )
        if self.estimator is not None and getattr(self.search, "needs_answers", False):
            raise ValueError(
                "estimator: this search needs what each document scored, but an 'estimator' "
                "measures each candidate on few documents; leave it out"
            )
        one_number = self.objectives is None or self.objectives.kind == "weighted"
        if self.racing is not None and not one_number:
            raise ValueError(
                "racing: a race stops whoever cannot win by the weighted sum, but 'objectives' do "
                "not aim at that alone; leave out one of the two"
            )

    @property
    def output_folder(self) -> str:
        """Where the result goes."""
        return self.output if self.output is not None else f"runs/{self.name}"

"""Fakes that several suites share: a space without models, and a fitness without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from evaluators.base import Score, TaskScore
from orchestrator.spaces.base import Box, Genome, Reference
from workers.job import Job, Scored
from workers.recipe import MergeRecipe, Setting, Slice

settings.register_profile("shoal", deadline=None, print_blob=True)
settings.load_profile("shoal")

ROOT = Path(__file__).resolve().parents[1]


def recipe_of(values: Sequence[float]) -> MergeRecipe:
    """A recipe that holds numbers and builds nothing."""
    setting = Setting(filter=None, values={"weight": tuple(values)})
    return MergeRecipe(
        method="linear",
        sources=tuple(f"m{index}" for index in range(len(values))),
        base="m0",
        slices=(Slice(start=0, stop=1, settings=(setting,)),),
        dtype="float32",
    )


@dataclass(frozen=True)
class FakeSpace:
    """A box whose recipes hold the genome itself, with two references."""

    dim: int = 3
    #: What decoding multiplies genes by: another scale is another search.
    scale: float = 1.0
    builder: Any = None
    revisions: Mapping[str, str] = field(default_factory=dict)

    @property
    def box(self) -> Box:
        names = tuple(f"x{index}" for index in range(self.dim))
        return Box(names, (-1.0,) * self.dim, (2.0,) * self.dim)

    @property
    def references(self) -> Sequence[Reference]:
        corners = (("low", -1.0), ("high", 2.0))
        return tuple(Reference(name=n, recipe=recipe_of([v] * self.dim)) for n, v in corners)

    def decode(self, genome: Genome) -> MergeRecipe:
        return recipe_of([self.scale * gene for gene in genome])

    def describe(self) -> Mapping[str, Any]:
        return {}


def sphere(recipe: MergeRecipe) -> float:
    """Highest, at 0, where every gene is 0."""
    return -sum(gene * gene for gene in recipe.slices[0].settings[0].values["weight"])


def scored(job: Job, fitness: float | None = None) -> Scored:
    """The outcome of a job: by default how near its genes are to zero."""
    value = sphere(job.recipe) if fitness is None else fitness
    task = TaskScore(value=value, stderr=0.1, documents=2, per_document=(0.0, 1.0))
    return Scored(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        score=Score(fitness=value, tasks={"sphere": task}),
        seconds=0.5,
        worker="fake",
    )


@pytest.fixture(scope="session")
def fake_space() -> type[FakeSpace]:
    return FakeSpace


@pytest.fixture(scope="session")
def score() -> Callable[..., Scored]:
    return scored


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Campaign files name models and tasks from the root of the repository."""
    monkeypatch.chdir(ROOT)
    return ROOT

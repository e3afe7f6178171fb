"""Fakes that several suites share: a space without models, a fitness without torch, databases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import create_engine, text

from evaluators.base import Score, TaskScore
from orchestrator.spaces.base import Box, Genome, Reference
from workers.job import Failed, Job, Scored
from workers.recipe import MergeRecipe, Setting, Slice

settings.register_profile("shoal", deadline=None, print_blob=True)
settings.load_profile("shoal")

ROOT = Path(__file__).resolve().parents[1]
#: A server on which databases may be made and dropped.
POSTGRES = os.environ.get("SHOAL_TEST_POSTGRES", "")


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


def failed(job: Job, *, retryable: bool = False, **changes: Any) -> Failed:
    """The outcome of a job that broke while its model was built."""
    facts = {
        "candidate": job.candidate,
        "attempt": job.attempt,
        "rows": job.rows,
        "stage": "build",
        "cause": "ValueError: no",
        "retryable": retryable,
        "seconds": 1.5,
        "worker": "fake",
    }
    return Failed(**{**facts, **changes})


@contextmanager
def new_database(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty store: a file that is not there yet, or a new database of a server.

    Skips the test where no server was named.
    """
    if kind == "sqlite":
        yield str(folder / "folder" / "shoal.db")
        return
    if not POSTGRES:
        pytest.skip("SHOAL_TEST_POSTGRES names no PostgreSQL server")
    name = f"shoal_test_{uuid.uuid4().hex[:12]}"
    admin = create_engine(
        POSTGRES.replace("postgresql://", "postgresql+psycopg://", 1), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    server, _, query = POSTGRES.partition("?")
    try:
        yield server.rpartition("/")[0] + f"/{name}" + (f"?{query}" if query else "")
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


@pytest.fixture(scope="session")
def databases() -> Callable[[str, Path], AbstractContextManager[str]]:
    return new_database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_database(request.param, tmp_path) as address:
        yield address


@pytest.fixture(scope="session")
def fake_space() -> type[FakeSpace]:
    return FakeSpace


@pytest.fixture(scope="session")
def score() -> Callable[..., Scored]:
    return scored


@pytest.fixture(scope="session")
def failure() -> Callable[..., Failed]:
    return failed


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Campaign files name models and tasks from the root of the repository."""
    monkeypatch.chdir(ROOT)
    return ROOT

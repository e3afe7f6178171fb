"""Fakes that several suites share: a space without models, a fitness without torch, databases."""

from __future__ import annotations

import math
import os
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import create_engine, text

from evaluators.base import Documents, Score, TaskFacts, TaskScore
from evaluators.documents import quantise
from evaluators.pooling import mean_and_error, pool
from orchestrator.measurement.item_bank import ItemBank
from orchestrator.measurement.layout import layout
from orchestrator.measurement.measured import Standing
from orchestrator.measurement.race import Field
from orchestrator.measurement.regime import Refresh, Regime
from orchestrator.spaces.base import Reference
from orchestrator.spaces.genes import (
    Bit,
    Categorical,
    Genes,
    Genome,
    Integer,
    Permutation,
    Real,
    reals,
)
from workers.job import Failed, Job, Scored
from workers.recipe import MergeRecipe, Setting, Slice

settings.register_profile("shoal", deadline=None, print_blob=True)
# The same examples at every run, so that what is merged is judged by what was changed.
settings.register_profile("same", settings.get_profile("shoal"), derandomize=True)
settings.load_profile(os.environ.get("SHOAL_HYPOTHESIS", "shoal"))

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
    def genes(self) -> Genes:
        names = tuple(f"x{index}" for index in range(self.dim))
        return reals(names, (-1.0,) * self.dim, (2.0,) * self.dim)

    @property
    def references(self) -> Sequence[Reference]:
        corners = (("low", -1.0), ("high", 2.0))
        return tuple(
            Reference(
                name=name,
                recipe=recipe_of([value] * self.dim),
                is_source=True,
                is_base=name == "low",
            )
            for name, value in corners
        )

    def decode(self, genome: Genome) -> MergeRecipe:
        return recipe_of([self.scale * gene for gene in genome])

    def measures(self, recipe: MergeRecipe) -> Mapping[str, float]:
        return {"size": -sphere(recipe)}

    def describe(self) -> Mapping[str, Any]:
        return {}


class ContrastingSpace(FakeSpace):
    """What the first gene brings is told by the same recipe without it."""

    def counterparts(self, recipe: MergeRecipe) -> Sequence[Reference]:
        first, *rest = recipe.slices[0].settings[0].values["weight"]
        del first
        return [Reference(name="without", recipe=recipe_of([0.0, *rest]))]


def sphere(recipe: MergeRecipe) -> float:
    """Highest, at 0, where every gene is 0."""
    return -sum(gene * gene for gene in recipe.slices[0].settings[0].values["weight"])


def scored(job: Job, fitness: float | None = None) -> Scored:
    """The outcome of a job: by default how near its genes are to zero."""
    if job.documents is not None and fitness is None:
        score = _score_of(job.recipe, job.documents)
    else:
        value = sphere(job.recipe) if fitness is None else fitness
        task = TaskScore(value=value, stderr=0.1, documents=2, per_document=(0.0, 1.0))
        if job.documents is not None:  # parts are put together: each document has the fitness
            num = sum(map(len, job.documents.values()))
            task = replace(task, stderr=0.0, documents=num, per_document=(value,) * num)
        score = Score(fitness=value, tasks={"sphere": task})
    return Scored(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        block=job.block,
        score=score,
        seconds=0.5,
        worker="fake",
    )


def _score_of(recipe: MergeRecipe, documents: Documents) -> Score:
    """Right and wrong answers: the nearer the genes are to zero, the more are right."""
    share, digest, tasks = 1.0 / (1.0 - sphere(recipe)), recipe.digest(), {}
    for task, places in documents.items():
        if not places:
            continue
        luck = [zlib.crc32(f"{digest} {task} {place}".encode()) / 2**32 for place in places]
        values = tuple(float(one < share) for one in luck)
        mean, error = mean_and_error(values)
        tasks[task] = TaskScore(
            value=mean,
            stderr=error,
            documents=len(places),
            per_document=values,
            log_likelihoods=quantise(tuple(-one for one in luck)),
        )
    return Score(fitness=math.fsum(one.value for one in tasks.values()), tasks=tasks)


@dataclass(frozen=True)
class FakeRace:
    """Stops whoever is not as good as the last of the incumbents on the blocks so far."""

    first_block: int = 3
    growth: float = 2.0
    survivors: int = 2

    def goes_on(self, standing: Standing, rivals: Field) -> bool:
        if len(rivals.incumbents) < self.survivors:
            return True
        last = rivals.incumbents[-1]
        theirs = pool([last.parts[part] for part in standing.parts])
        return standing.pooled().fitness >= theirs.fitness


#: What candidates are measured on in campaigns that cut their search rows.
FAKE_TASKS = {
    name: TaskFacts(documents=num, rows=name, strata=("a", "b") * (num // 2), is_mean=True)
    for name, num in (("one", 24), ("two", 16))
}


def fake_regime(kind: str) -> Regime:
    """All rows at once, a race, fresh rows, both, or estimates."""
    race = FakeRace() if "race" in kind else None
    refresh = Refresh(every=1, elites=2, documents=3, reserve=0.3) if "fresh" in kind else None
    estimator = ItemBank(dimensions=1, documents=8, refit=5) if "bank" in kind else None
    if race is None and refresh is None and estimator is None:
        return Regime()
    plan = layout(
        FAKE_TASKS,
        seed=3,
        race=race,
        reserve=refresh.reserve if refresh else 0.0,
        round_documents=refresh.documents if refresh else 1,
    )
    weights = dict.fromkeys(FAKE_TASKS, 1.0)
    bank = None if estimator is None else estimator.start(FAKE_TASKS, weights, 3)
    return Regime(layout=plan, race=race, refresh=refresh, estimator=estimator, bank=bank)


#: The kinds of courses that there are.
REGIMES = ("all rows", "race", "fresh", "race, fresh", "bank")


def failed(job: Job, *, retryable: bool = False, **changes: Any) -> Failed:
    """The outcome of a job that broke while its model was built."""
    facts = {
        "candidate": job.candidate,
        "attempt": job.attempt,
        "rows": job.rows,
        "block": job.block,
        "stage": "build",
        "cause": "ValueError: no",
        "retryable": retryable,
        "seconds": 1.5,
        "worker": "fake",
    }
    return Failed(**{**facts, **changes})


def mixed_genes(*, order: int = 5, least_density: float = 0.0) -> Genes:
    """Genes of every kind, some of which count only at times."""
    return Genes(
        (
            Real(name="weight", low=-1.0, high=2.0),
            Real(name="rate", low=1e-4, high=1.0, log=True),
            Integer(name="layers", low=1, high=9),
            Integer(name="width", low=8, high=512, log=True),
            Categorical(name="method", choices=("linear", "ties", "dare")),
            Bit(name="normalize", when={"method": ("ties", "dare")}),
            Permutation(name="order", size=order),
            Real(name="density", low=least_density, high=1.0, when={"method": ("ties",)}),
        )
    )


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

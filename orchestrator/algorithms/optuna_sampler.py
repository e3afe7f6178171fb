"""Any sampler of Optuna (Akiba et al. 2019, https://arxiv.org/abs/1907.10902) as an algorithm.

A study in memory is built from what is remembered each time that proposals are asked for, so that
resuming needs nothing of Optuna's; the sampler is seeded from the campaign's generator then. Genes
that do not count are not suggested. Several proposals at once know of each other where the sampler
can do that (TPE: the constant liar).

Optuna's samplers become slower with every trial, and the study is built anew: `window` bounds both.
For 50 genes, TPE takes 18 ms a candidate after 100 trials and 93 ms after 1,000, GP 165 after 50,
where CMA-ES takes 0.2 ms after any number: they are for candidates that are dear, and few genes.

Deviations: a candidate that breaks constraints or was stopped by a race has values below all
others, as not every sampler knows of either; orders are suggested as keys whose ranks they are;
failed candidates are left out. Optuna's CMA-ES keeps its distribution in its own storage and is
refused: `cma_es` is its match.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from orchestrator import optuna_library
from orchestrator.algorithms.base import Evaluated, Memory, Proposal, comparable, ranked
from orchestrator.spaces.genes import (
    Bit,
    Categorical,
    Gene,
    Genes,
    Genome,
    Integer,
    Permutation,
    genome_of,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

_SUFFIX = "Sampler"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptunaSampler:
    """Asks a sampler of Optuna; needs the extra `optuna`."""

    #: Candidates asked for at once; in mode `async`, candidates that are open at any time.
    population_size: Annotated[int, Ge(1)] = 8
    #: Name of the sampler: tpe, gp, nsgaii, nsgaiii, qmc, random, brute_force, ...
    sampler: str = "tpe"
    #: What else the sampler is made with, as in Optuna's documentation.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Candidates that it is told of: half of them the best, half the newest; null for all.
    window: Annotated[int, Ge(2)] | None = 1000
    #: `async` waits for no generation.
    mode: Literal["generational", "async"] = "generational"

    def __post_init__(self) -> None:
        if "seed" in self.options:
            raise ValueError("options: the seed is the campaign's; leave out 'seed'")
        if _plain(self.sampler) == "cmaes":
            raise ValueError(
                "sampler: Optuna's 'cmaes' cannot go on from what a store holds; use kind: cma_es"
            )

    def check(self, genes: Genes) -> None:
        """Makes the sampler once.

        Raises:
            ValueError: if Optuna is missing, has no such sampler or option, or genes have no
                optimum of their own.
        """
        self._sampler(genes, 0)
        if genes.founders:
            raise ValueError(
                "kind: 'optuna' needs genes that say what a model is, but in this space they say "
                "how two parents are crossed; use genetic or natural_niches"
            )

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Suggests a generation."""
        return self._suggested(genes, memory, rng, self.population_size)

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Keeps the best and the newest, best first."""
        known = ranked([*memory.members, *evaluated])
        if self.window is None or len(known) <= self.window:
            return Memory(tuple(known))
        best = self.window // 2
        numbers = sorted((one.number for one in known), reverse=True)
        least = numbers[self.window - best - 1]
        kept = (one for at, one in enumerate(known) if at < best or one.number >= least)
        return Memory(tuple(kept))

    @property
    def asynchronous(self) -> bool:
        """Whether each outcome brings the next suggestion."""
        return self.mode == "async"

    def ask_one(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Suggests one more."""
        return self._suggested(genes, memory, rng, 1)[0]

    def size(self, generation: int) -> int:
        """Always the same."""
        del generation
        return self.population_size

    def _suggested(
        self, genes: Genes, memory: Memory, rng: np.random.Generator, num: int
    ) -> list[Proposal]:
        optuna = optuna_library.load()
        members = sorted(memory.members, key=lambda one: one.number)
        values = _values(members)
        sampler = self._sampler(genes, int(rng.integers(2**31)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own experiments
            study = optuna.create_study(
                sampler=sampler, directions=["maximize"] * len(values[0] if values else (0.0,))
            )
            trials = [
                _trial(genes, one, worth, _marks(sampler, at))
                for at, (one, worth) in enumerate(zip(members, values, strict=True))
            ]
            study.add_trials(trials)
            genomes = [_suggest(genes, study) for _ in range(num)]
        operator = f"optuna {_plain(self.sampler)}"
        return [Proposal(genome=genome, operator=operator) for genome in genomes]

    def _sampler(self, genes: Genes, seed: int) -> BaseSampler:
        cls = _sampler_class(self.sampler)
        known = inspect.signature(cls.__init__).parameters
        helpful = {
            "constant_liar": True,
            "multivariate": True,
            "group": any(one.when for one in genes.genes),
            "scramble": True,
            "warn_independent_sampling": False,
            "warn_asynchronous_seeding": False,
            "seed": seed,
        }
        options = {name: value for name, value in helpful.items() if name in known}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return cls(**{**options, **self.options})
        except (TypeError, ValueError) as error:
            raise ValueError(f"options: Optuna's {cls.__name__} says: {error}") from error


def _sampler_class(name: str) -> type[BaseSampler]:
    samplers = optuna_library.load().samplers
    known = {_plain(one): one for one in dir(samplers) if one.endswith(_SUFFIX)}
    known = {one: cls for one, cls in known.items() if not cls.startswith("Base")}
    if _plain(name) not in known:
        raise ValueError(
            f"sampler: expected the name of one of Optuna's samplers "
            f"({', '.join(sorted(known))}), got {name!r}"
        )
    found: type[BaseSampler] = getattr(samplers, known[_plain(name)])
    return found


def _plain(name: str) -> str:
    """Returns the bare name: TPESampler, tpe and TPE are one."""
    return re.sub(r"[^a-z]", "", name.lower()).removesuffix(_SUFFIX.lower())


def _values(members: Sequence[Evaluated]) -> list[tuple[float, ...]]:
    """Returns what each candidate is worth, so that the greater is the better throughout."""
    if not members or len(members[0].values) < 2:
        return [(one,) for one in comparable(members)]
    full = [one for one in members if not one.stopped and not one.violation]
    lowest = np.min([one.values for one in full or members], axis=0)
    return [
        one.values
        if not one.stopped and not one.violation
        else tuple((lowest - 1.0 - one.violation).tolist())
        for one in members
    ]


def _marks(sampler: BaseSampler, place: int) -> dict[str, int]:
    """Returns what Optuna's genetic samplers note of a trial: its generation."""
    size = getattr(sampler, "population_size", None)
    return {} if size is None else {f"{type(sampler).__name__}:generation": place // size}


def _trial(
    genes: Genes, one: Evaluated, values: Sequence[float], marks: dict[str, int]
) -> FrozenTrial:
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    meant = genes.values(one.genome)
    for gene in genes.genes:
        if gene.name not in meant:
            continue
        value, made = meant[gene.name], _distributions(gene)
        places = value if isinstance(value, tuple) else ()
        keys: list[Any] = [(place + 0.5) / len(places) for place in places]
        params.update(zip(made, keys or [value], strict=True))
        distributions.update(made)
    frozen: FrozenTrial = optuna_library.load().trial.create_trial(
        values=list(values), params=params, distributions=distributions, system_attrs=marks
    )
    return frozen


def _suggest(genes: Genes, study: Study) -> Genome:
    """Asks for a trial, gene after gene: later ones may depend on what earlier ones have become.

    What is not suggested is as at the start, if there is one: repair may switch it on.
    """
    trial = study.ask()
    numbers = np.array(genes.lower if genes.start is None else genes.start)
    for gene, (first, end) in zip(genes.genes, genes.spans, strict=True):
        if not genes.active(genome_of(numbers))[first]:
            continue
        numbers[first:end] = _drawn(gene, trial)
    return genes.repair(numbers)


def _drawn(gene: Gene, trial: Trial) -> Sequence[float]:
    """Returns what a trial suggests for the slots of a gene."""
    if isinstance(gene, Permutation):
        return [trial.suggest_float(name, 0.0, 1.0) for name in _distributions(gene)]
    if isinstance(gene, Categorical):
        return [gene.choices.index(trial.suggest_categorical(gene.name, gene.choices))]
    if isinstance(gene, Bit):
        return [trial.suggest_categorical(gene.name, (False, True))]
    if isinstance(gene, Integer):
        return [trial.suggest_int(gene.name, gene.low, gene.high, log=gene.log)]
    return [trial.suggest_float(gene.name, gene.low, gene.high, log=gene.log)]


@functools.lru_cache(maxsize=4096)
def _made(kind: str, *what: Any) -> BaseDistribution:
    made: BaseDistribution = getattr(optuna_library.load().distributions, kind)(*what)
    return made


def _distributions(gene: Gene) -> dict[str, BaseDistribution]:
    """Returns the parameters that a gene has in a study."""
    name = gene.name
    if isinstance(gene, Permutation):
        keys = [f"{name}[{place}]" for place in range(gene.size)]
        return {key: _made("FloatDistribution", 0.0, 1.0) for key in keys}
    if isinstance(gene, Categorical):
        return {name: _made("CategoricalDistribution", gene.choices)}
    if isinstance(gene, Bit):
        return {name: _made("CategoricalDistribution", (False, True))}
    if isinstance(gene, Integer):
        return {name: _made("IntDistribution", gene.low, gene.high, gene.log)}
    return {name: _made("FloatDistribution", gene.low, gene.high, gene.log)}

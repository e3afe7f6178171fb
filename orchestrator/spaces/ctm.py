"""Hyperparameters of Continuous Thought Machines: what one is made of, and how it is trained.

(Darlow et al. 2025, https://arxiv.org/abs/2505.05522; ranges are for small machines.) Genes of
parts that a machine does not have are dormant: the hidden units of shallow neuron models, the
heads of what attends to nothing. What cannot be made is repaired when a genome is decoded: a memory
longer than the ticks would only see the start's noise, and dense pairs need neurons enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Ge

from evaluators.ctm.inputs import Numbers
from evaluators.ctm.kinds import Task
from evaluators.ctm.training_settings import TrainingSettings
from evaluators.registry import nearest
from orchestrator.spaces.base import Reference
from orchestrator.spaces.gene_kinds import Categorical, Gene, Integer, Real
from orchestrator.spaces.genes import Genes, Genome
from orchestrator.spaces.vector_genes import genome_from
from workers.ctm.builder import CtmBuilderSettings
from workers.ctm.compute import flops_per_sample
from workers.ctm.recipe import CtmRecipe
from workers.ctm.settings import CtmSettings
from workers.recipe import Recipe

_DEFAULTS: tuple[Gene, ...] = (
    Integer(name="neurons", low=32, high=512, log=True),
    Integer(name="ticks", low=1, high=50),
    Integer(name="memory", low=1, high=50),
    Categorical(name="neuron_model", choices=("deep", "shallow")),
    Integer(name="hidden", low=2, high=32, log=True, when={"neuron_model": ("deep",)}),
    Categorical(name="synapse_depth", choices=("1", "2", "4")),
    Categorical(name="attention_width", choices=("16", "32", "64", "128")),
    Categorical(name="heads", choices=("1", "2", "4", "8", "16")),
    Categorical(name="pairing", choices=("dense", "semi_dense", "random")),
    Integer(name="paired", low=8, high=32, when={"pairing": ("dense", "semi_dense")}),
    Integer(name="pairs", low=16, high=512, log=True, when={"pairing": ("random",)}),
    Integer(name="self_pairs", low=0, high=32, when={"pairing": ("random",)}),
    Real(name="dropout", low=0.0, high=0.2),
    Real(name="rate", low=3e-4, high=3e-3, log=True),
    Categorical(name="loss", choices=("two_tick", "last_tick")),
)
#: Steps until the highest learning rate is reached; a tenth of them all where these are few.
_WARM_UP = 100
#: Between the seeds of a machine and its child: further than seeds that people give campaigns.
_SEEDS_APART = 100_003
#: Genes of what is attended to.
_OF_ATTENTION = ("attention_width", "heads")
_PLAIN: Mapping[str, Any] = {
    "neurons": 64,
    "ticks": 8,
    "memory": 4,
    "neuron_model": "deep",
    "hidden": 8,
    "synapse_depth": "1",
    "attention_width": "32",
    "heads": "8",
    "pairing": "dense",
    "paired": 16,
    "pairs": 128,
    "self_pairs": 0,
    "dropout": 0.0,
    "rate": 1e-3,
    "loss": "two_tick",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CtmSpace:
    """Searches machines for a task."""

    #: What they learn: parity, pointers, automaton, sorting, maze, digits, pictures, questions or
    #: dataset.
    task: Task
    #: Steps of training of each machine.
    steps: Annotated[int, Ge(1)] = 1000
    batch_size: Annotated[int, Ge(1)] = 64
    #: Steps after the longest right beginning of a route that are trained on.
    lookahead: Annotated[int, Ge(0)] = 5
    #: Gene -> its one value, [low, high] of a number, or a list of choices; others have the
    #: product's ranges.
    ranges: Mapping[str, Any] = field(default_factory=dict)
    #: Whether a child goes on from what its first parent has learned, as far as the two are made
    #: alike, instead of beginning anew; `steps` are then what each generation adds.
    inherit: bool = False

    def __post_init__(self) -> None:
        genes, _ = _ranged(self.ranges, _offered(self.task))
        if not genes:
            raise ValueError("ranges: every gene has one value; nothing is left to search")

    def open(self, seed: int) -> CtmSpaceOpened:
        """Nothing is read."""
        return CtmSpaceOpened(self, seed)


class CtmSpaceOpened:
    """A space of machines (a `Space`; a `Descending` one where children inherit)."""

    def __init__(self, settings: CtmSpace, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self.descends = settings.inherit
        listed, self._fixed = _ranged(settings.ranges, _offered(settings.task))
        inside = {one.name: _nearest_to(one, _PLAIN[one.name]) for one in listed}
        start = genome_from(listed, Genes(listed), inside)
        self.genes = Genes(listed, start)
        self.builder = CtmBuilderSettings()
        self.revisions: Mapping[str, str] = {}
        usual = self._recipe({**_PLAIN, **inside, **self._fixed})
        once = replace(usual.network, ticks=1, memory=1)
        self.references = (
            Reference(name="plain machine", recipe=usual),
            Reference(name="one tick", recipe=replace(usual, network=once)),
        )

    def decode(self, genome: Genome) -> CtmRecipe:
        """Returns the machine of a genome and its training."""
        return self._recipe({**self.genes.values(genome), **self._fixed})

    def descend(self, genome: Genome, parents: Sequence[Recipe]) -> CtmRecipe:
        """Returns the recipe of a machine that goes on from the first parent.

        Each of a lineage has seeds of its own, or it would meet the samples of its ancestors again.
        """
        parent = parents[0]
        assert isinstance(parent, CtmRecipe)
        plain, ancestors = self.decode(genome), parent.lineage
        seed = self._seed + _SEEDS_APART * len(ancestors)
        training = replace(plain.training, seed=seed)
        return replace(plain, training=training, seed=seed, ancestors=ancestors)

    def measures(self, recipe: Recipe) -> Mapping[str, float]:
        """Returns what a machine costs: products of a pass over one sample, and ticks."""
        assert isinstance(recipe, CtmRecipe)
        network = recipe.network
        return {"flops": float(flops_per_sample(network)), "ticks": float(network.ticks)}

    def counterparts(self, recipe: Recipe) -> Sequence[Reference]:
        """Returns the machine with one tick and no past, trained in the same way.

        So were all that it goes on from: one tick alone does not inherit what others found.
        """
        assert isinstance(recipe, CtmRecipe)
        *older, own = (
            replace(one, network=replace(one.network, ticks=1, memory=1)) for one in recipe.lineage
        )
        once = replace(recipe, network=own.network, ancestors=tuple(older))
        return [Reference(name="one tick, as the winner", recipe=once)]

    def describe(self) -> Mapping[str, Any]:
        """Returns what is searched."""
        settings = self._settings
        fixed = ", ".join(f"{name} {value}" for name, value in self._fixed.items())
        summary = {
            "task": type(settings.task).__name__.lower(),
            "training": f"{settings.steps} steps of {settings.batch_size} samples"
            + (" in each generation, on top of the first parent's" if settings.inherit else ""),
            "genes": ", ".join(self.genes.names),
            **({"fixed": fixed} if fixed else {}),
        }
        return {"genes": len(self.genes.names), "summary": summary}

    def _recipe(self, values: Mapping[str, Any]) -> CtmRecipe:
        settings = self._settings
        training = TrainingSettings(
            steps=settings.steps,
            batch_size=settings.batch_size,
            warm_up=min(_WARM_UP, settings.steps // 10),
            lookahead=settings.lookahead,
            rate=values["rate"],
            loss=values["loss"],
            seed=self._seed,
        )
        network = network_of(values, settings.task)
        return CtmRecipe(network=network, training=training, seed=self._seed)


def network_of(values: Mapping[str, Any], task: Task) -> CtmSettings:
    """Returns the machine that some values say, repaired where there is none of them."""
    neurons, ticks, pairing = values["neurons"], values["ticks"], values["pairing"]
    if pairing == "random":
        num, self_pairs = values["pairs"], min(values["self_pairs"], values["pairs"])
    else:
        num, self_pairs = values["paired"], 0
        if pairing == "dense":
            num = min(num, neurons // 2)
    looks: dict[str, Any] = {}
    if "heads" in values:
        width = int(values["attention_width"])
        looks = {"attention_width": width, "heads": min(int(values["heads"]), width)}
    return CtmSettings(
        neurons=neurons,
        ticks=ticks,
        memory=min(values["memory"], ticks),
        neuron_model=values["neuron_model"],
        hidden=values.get("hidden", 1),
        synapse_depth=int(values["synapse_depth"]),
        pairing=pairing,
        num_output=num,
        num_action=num,
        self_pairs=self_pairs,
        dropout=values["dropout"],
        inputs=task.inputs,
        outputs=task.outputs,
        **looks,
    )


def _offered(task: Task) -> list[Gene]:
    """Returns the genes of machines for a task, with the product's ranges."""
    attends = not isinstance(task.inputs, Numbers)
    return [one for one in _DEFAULTS if attends or one.name not in _OF_ATTENTION]


def _ranged(
    ranges: Mapping[str, Any], offered: list[Gene]
) -> tuple[tuple[Gene, ...], dict[str, Any]]:
    """Returns the genes that are searched, and the values of those that are not.

    Raises:
        ValueError: naming the gene and what it can be.
    """
    known = {one.name: one for one in offered}
    for name in ranges:
        if name not in known:
            raise ValueError(f"ranges.{name}: there is no such gene; {nearest(name, known)}")
    genes: list[Gene] = []
    fixed: dict[str, Any] = {}
    for one in offered:
        if not _can_be(one, fixed):
            continue
        left = {name: among for name, among in one.when.items() if name not in fixed}
        wanted = ranges.get(one.name)
        try:
            found = _narrowed(replace(one, when=left), wanted)
        except (TypeError, ValueError) as error:
            raise ValueError(f"ranges.{one.name}: {error}") from error
        if isinstance(found, Integer | Real | Categorical):
            genes.append(found)
        else:
            fixed[one.name] = found
    return tuple(genes), fixed


def _can_be(one: Gene, fixed: Mapping[str, Any]) -> bool:
    return all(name not in fixed or fixed[name] in among for name, among in one.when.items())


def _narrowed(one: Gene, wanted: Any) -> Any:
    """Returns a gene with other bounds or choices, or its one value."""
    if wanted is None:
        return one
    if isinstance(one, Categorical):
        chosen = [str(each) for each in wanted] if isinstance(wanted, list | tuple) else str(wanted)
        for each in [chosen] if isinstance(chosen, str) else chosen:
            if each not in one.choices:
                raise ValueError(f"expected some of {', '.join(one.choices)}, got {each!r}")
        return chosen if isinstance(chosen, str) else replace(one, choices=tuple(chosen))
    assert isinstance(one, Integer | Real)
    if isinstance(wanted, list | tuple):
        if len(wanted) != 2:
            raise ValueError(f"expected [low, high], got {list(wanted)}")
        low, high = (_number(one, each) for each in wanted)
        if low >= high:
            raise ValueError(f"expected low < high, got {list(wanted)}")
        return replace(one, low=low, high=high)
    return _number(one, wanted)


def _number(one: Integer | Real, value: Any) -> Any:
    whole = isinstance(one, Integer)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        message = f"expected {'a whole number' if whole else 'a number'}, got {value!r}"
        raise ValueError(message)  # noqa: TRY004  (what the user wrote is wrong)
    if value < min(one.low, 1):
        raise ValueError(f"expected at least {min(one.low, 1)}, got {value}")
    return value


def _nearest_to(one: Gene, value: Any) -> Any:
    """Returns the value of a gene that is nearest to a plain one."""
    if isinstance(one, Categorical):
        return value if value in one.choices else one.choices[0]
    assert isinstance(one, Integer | Real)
    return min(max(value, one.low), one.high)

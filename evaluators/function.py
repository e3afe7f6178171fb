"""Any Python function as the objective: it is called with the values of a candidate's genes.

A function returns a number, or a number for each of the objectives that `tasks` names, or a row of
numbers for each, one for every document that it scored. Their weighted sum is the fitness.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from evaluators.addresses import load_function, source_digest
from evaluators.base import (
    Documents,
    EvaluatorFacts,
    Rows,
    Score,
    Subject,
    TaskFacts,
    Values,
)
from evaluators.digest import hash_json
from evaluators.function_answer import NAMELESS, Target, check_targets, read_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """Scores a candidate by what a function returns for the values of its genes."""

    scores: ClassVar[Subject] = "values"

    #: Address of the function: package.module:function, or path/to/file.py:function.
    objective: str
    #: Further keyword arguments, the same for every candidate.
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: What the function returns values of, by name, and how much each counts; a weight below 0
    #: where lower is better. Left out, it returns one number, the fitness.
    tasks: tuple[Target, ...] = ()
    #: Functions that are called in the place of `objective` to pick among the finalists, and to
    #: report what the best is worth where nothing was chosen.
    selection: str | None = None
    test: str | None = None
    #: Passed as the keyword `seed` if given: all candidates meet the same chance.
    seed: int | None = None
    #: How many documents a function can score one by one: it is then called with the keyword
    #: `documents`, their places, and returns a number for each. Races and estimates need that.
    documents: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        check_targets(self.tasks)
        for name in ("seed", "documents"):
            if name in self.arguments and getattr(self, name) is not None:
                raise ValueError(f"arguments: {name!r} is given by the key {name!r}, too")

    @property
    def kinds(self) -> frozenset[Rows]:
        """Which kinds of rows there are: one for each function."""
        return frozenset(self._addresses())

    @property
    def targets(self) -> tuple[Target, ...]:
        """What counts; the function's only number where nothing is named."""
        return self.tasks or (Target(name=NAMELESS),)

    def check(self) -> EvaluatorFacts:
        """Imports the functions and calls none of them."""
        for rows, address in self._addresses().items():
            _about(rows, load_function, address)
        facts = {
            target.name: TaskFacts(
                documents=self.documents or 1,
                rows=hash_json([dict(self.arguments), self.seed, self.documents]),
                ordered_as=self.targets[0].name,
                weight=target.weight,
                is_mean=self.documents is not None,
            )
            for target in self.targets
        }
        return EvaluatorFacts(
            tasks=dict.fromkeys(self._addresses(), facts),
            identity={rows: self._identity(one) for rows, one in self._addresses().items()},
            version="a function",
        )

    def check_genes(self, always: Collection[str], sometimes: Collection[str]) -> None:
        """Refuses functions that cannot be called with the values of these genes.

        Args:
            always: Genes that count in every candidate.
            sometimes: Genes that are left out where they are dormant.

        Raises:
            ValueError: naming the function and the argument.
        """
        for rows, address in self._addresses().items():
            _about(rows, self._bind, address, [*always, *sometimes])
            _about(rows, self._bind, address, list(always))

    def open(self, resident: Values) -> Caller:
        """Imports the functions."""
        return Caller(self, resident)

    def functions(self) -> dict[Rows, Callable[..., Any]]:
        """Returns the function of each kind of rows; fresh rows are search rows."""
        found = {rows: load_function(address) for rows, address in self._addresses().items()}
        return {**found, "fresh": found["search"]}

    def keywords(self) -> dict[str, Any]:
        """Returns what is passed beside the genes."""
        return {**self.arguments, **({} if self.seed is None else {"seed": self.seed})}

    def _addresses(self) -> dict[Rows, str]:
        named: dict[Rows, str | None] = {
            "search": self.objective,
            "selection": self.selection,
            "test": self.test,
        }
        return {rows: address for rows, address in named.items() if address is not None}

    def _identity(self, address: str) -> str:
        targets = [[one.name, one.weight] for one in self.targets]
        return hash_json([source_digest(address), self.keywords(), targets, self.documents])

    def _bind(self, address: str, genes: list[str]) -> None:
        names = [*genes, *self.keywords(), *(["documents"] if self.documents else [])]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{sorted(twice)[0]!r} is both a gene and an argument")
        try:
            signature = inspect.signature(load_function(address))
        except (TypeError, ValueError):
            return  # compiled functions need not say what they take
        try:
            signature.bind(**dict.fromkeys(names))
        except TypeError as error:
            raise ValueError(
                f"{address}{signature} cannot be called with {', '.join(names)}: {error}; genes "
                "are passed by name, and those with a condition need a default value"
            ) from error


class Caller:
    """Calls the functions with the values of the candidate at hand (an `Evaluator`)."""

    def __init__(self, settings: Function, resident: Values) -> None:
        self._settings = settings
        self._resident = resident
        self._functions = settings.functions()
        self._keywords = settings.keywords()

    def evaluate(
        self, rows: Rows, *, documents: Documents | None = None, halvings: int = 0
    ) -> Score:
        """Calls the function of these rows once.

        Raises:
            ValueError: if a number that it returns is not finite.
            TypeError: if it returns anything else than it should.
        """
        del halvings
        settings, keywords = self._settings, dict(self._keywords)
        if settings.documents is None:
            answer = self._functions[rows](**self._resident.by_gene, **keywords)
            return read_answer(answer, settings.targets)
        every = tuple(range(settings.documents))
        asked = documents or {one.name: every for one in settings.targets}
        places = tuple(sorted({place for ones in asked.values() for place in ones}))
        answer = self._functions[rows](**self._resident.by_gene, **keywords, documents=places)
        at = {place: index for index, place in enumerate(places)}
        wanted = {name: [at[place] for place in ones] for name, ones in asked.items()}
        return read_answer(answer, settings.targets, len(places), wanted)


def _about(rows: Rows, check: Callable[..., Any], *arguments: Any) -> None:
    """Puts the key that names a function before what is wrong with it."""
    try:
        check(*arguments)
    except ValueError as error:
        key = "objective" if rows == "search" else rows
        raise ValueError(f"{key}: {error}") from error

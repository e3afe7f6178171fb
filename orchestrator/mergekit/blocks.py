"""One slice of a configuration, prepared: who takes part in it, with which values and options."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from orchestrator.mergekit import values
from orchestrator.mergekit.dialect import SAID_ELSEWHERE, RecipeError
from orchestrator.mergekit.document import Block, Document, Taken
from orchestrator.mergekit.values import Cases
from workers.methods.registry import Parameter
from workers.recipe import Setting

_log = logging.getLogger(__name__)

_RESCALES = {True: "l1", False: "none"}
#: (layer whose tensors' names the cases are compared with, less the layer that is built; cases).
_Held: TypeAlias = "tuple[int, Cases]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A slice whose parameters are understood."""

    block: Block
    #: The layer of the built model that it starts at.
    start: int
    #: The models that are mixed, in the order of each parameter's values.
    sources: tuple[Taken, ...]
    #: The model that task vectors are taken from.
    base: Taken | None
    #: Parameter -> cases for each source, or for the merge; those that are not given are left out.
    held: Mapping[str, tuple[_Held, ...]]
    options: Mapping[str, Any]

    @property
    def models(self) -> tuple[str, ...]:
        """The sources' references."""
        return tuple(one.model for one in self.sources)

    @property
    def taking(self) -> tuple[Taken, ...]:
        """The models that are read: the sources, then the base of task vectors."""
        return self.sources if self.base is None else (*self.sources, self.base)

    def constant(self, name: str, default: float) -> float | None:
        """Returns the only value of a parameter of the whole merge; None if it has several."""
        held = self.held.get(name)
        if held is None:
            return default
        (_, cases) = held[0]
        value = cases[0][1] if len(cases) == 1 else ()
        return None if isinstance(value, tuple) else value

    @property
    def differs_by_layer(self) -> bool:
        """Whether the values of one layer need not be those of the next."""
        everything = [one for held in self.held.values() for one in held]
        if any(values.is_gradient(cases) for _, cases in everything):
            return True
        filters = {tuple(module for module, _ in cases if module) for _, cases in everything}
        names_layers = any(values.names_layer(module) for listed in filters for module in listed)
        is_moved = any(shift for shift, _ in everything)
        return names_layers and (is_moved or len(filters - {()}) > 1)

    def settings(self, layer: int | None = None) -> tuple[Setting, ...]:
        """Returns the settings of a layer, counted from the slice's first, or of the whole slice.

        Raises:
            RecipeError: if filters of different values cannot be put in one list.
        """
        if layer is None:
            lists = {
                name: [values.at_layer(cases, 0, 1) for _, cases in held]
                for name, held in self.held.items()
            }
            return self._checked(values.join(lists))
        built, length = self.start + layer, self.block.length
        return self._checked(
            values.join(
                {
                    name: [
                        values.at_layer(values.in_layer(cases, built + shift, built), layer, length)
                        for shift, cases in held
                    ]
                    for name, held in self.held.items()
                }
            )
        )

    def outer_settings(self) -> tuple[Setting, ...]:
        """Returns the settings of tensors outside of layers, which take a gradient's first value.

        Raises:
            RecipeError: if filters of different values cannot be put in one list.
        """
        lists = {
            name: [values.at_layer(values.outside(cases), 0, 2) for _, cases in held]
            for name, held in self.held.items()
        }
        return self._checked(values.join(lists))

    def _checked(self, settings: tuple[Setting, ...]) -> tuple[Setting, ...]:
        return tuple(self._without_zero_densities(one) for one in settings)

    def _without_zero_densities(self, setting: Setting) -> Setting:
        """A density of 0 leaves nothing of a source: so does a weight of 0."""
        densities = setting.values.get("density", ())
        if 0.0 not in densities:
            return setting
        weights = setting.values["weight"]
        kept = [density > 0 for density in densities]
        _log.warning(
            "a density of 0 leaves the source out of tensors %s, as in mergekit",
            f"with {setting.filter!r}" if setting.filter else "of a slice",
        )
        changed = {
            "weight": tuple(one if keep else 0.0 for one, keep in zip(weights, kept, strict=True)),
            "density": tuple(one if one > 0 else 1.0 for one in densities),
        }
        return replace(setting, values={**setting.values, **changed})


def prepare(document: Document, block: Block, start: int) -> Prepared:
    """Understands one slice.

    Args:
        document: What it is part of.
        block: The slice.
        start: The layer of the built model that it starts at.

    Raises:
        RecipeError: if its models do not suit the method, or a parameter is missing or wrong.
    """
    sources, base = _cast(document, block)
    for one in block.taken:
        _refuse_misplaced(document, one)
    held = {}
    for parameter in document.facts.parameters:
        if parameter.name not in document.dialect.fixed:
            found = _held(document, block, sources, parameter, start)
            if found is not None:
                held[parameter.name] = found
    prepared = Prepared(
        block=block,
        start=start,
        sources=sources,
        base=base,
        held=held,
        options=_options(document, block),
    )
    _refuse_lost_weights(document, prepared)
    return prepared


def _cast(document: Document, block: Block) -> tuple[tuple[Taken, ...], Taken | None]:
    """Returns the sources of a slice, and the base if it takes part as such."""
    method, role = document.method, document.dialect.base
    base = next((one for one in block.taken if one.model == block.base), None)
    if role == "source":
        if block.base != document.base:
            raise RecipeError(f"{block.where}: a base_model of its own means nothing to {method}")
        return _counted(document, block, block.taken), None
    if role == "first":
        if base is None or len(block.taken) != 2:
            raise RecipeError(
                f"{block.where}: {method} expects two models, one of them the base_model; got "
                f"{[one.model for one in block.taken]} and base_model {block.base!r}"
            )
        return (base, *(one for one in block.taken if one is not base)), None
    if block.base is None and role == "optional":
        return _counted(document, block, block.taken), None
    if block.base is None:
        raise RecipeError(f"base_model is missing: {method} needs one")
    if base is None:
        raise RecipeError(
            f"{block.where}: the base_model {block.base!r} is not among the sources; {method} "
            "needs it there, with its layer_range"
        )
    return _counted(document, block, tuple(one for one in block.taken if one is not base)), base


def _counted(document: Document, block: Block, sources: tuple[Taken, ...]) -> tuple[Taken, ...]:
    facts = document.facts
    exact, least = facts.num_sources, facts.least_sources
    if len(sources) < least or exact not in (None, len(sources)):
        expected = f"exactly {exact}" if exact is not None else f"at least {least}"
        besides = "" if document.dialect.base == "source" else " besides the base_model"
        raise RecipeError(
            f"{block.where}: {document.method} takes {expected} models{besides}, nothing to merge "
            f"with {[one.model for one in sources]}"
        )
    return sources


def _refuse_misplaced(document: Document, taken: Taken) -> None:
    """Refuses a model's parameters that only the whole merge has: mergekit would not see them."""
    dialect = document.dialect
    own = {one.name for one in document.facts.parameters if one.per == "source"}
    for name in taken.parameters:
        if name not in own and name not in dialect.own and name not in dialect.idle:
            raise RecipeError(
                f"parameters of {taken.model!r}: {name!r} belongs to the whole merge or a slice, "
                "not to one model"
            )


def _held(
    document: Document,
    block: Block,
    sources: Sequence[Taken],
    parameter: Parameter,
    start: int,
) -> tuple[_Held, ...] | None:
    """Returns a parameter's cases for each source or the merge; None if nothing is said of it."""
    name = parameter.name
    is_own = parameter.per == "source" or name in document.dialect.own
    found: list[tuple[int, Cases | None]] = []
    for source in sources if is_own else [None]:
        scopes = block.shared if source is None else (source.parameters, *block.shared)
        shift = 0 if source is None else source.start - start
        found.append((shift, _cascade(parameter, scopes, source)))
    if all(cases is None for _, cases in found):
        return None
    default = parameter.default
    return tuple(
        (shift, ((None, default),) if cases is None and default is not None else cases or ())
        for shift, cases in found
    )


def _cascade(
    parameter: Parameter, scopes: Sequence[Mapping[str, Any]], source: Taken | None
) -> Cases | None:
    """Goes from the nearest scope outwards until one has a value for every tensor."""
    name = parameter.name
    cases: list[tuple[str | None, values.Value]] = []
    for scope in scopes:
        if name in scope:
            cases += values.read_cases(name, scope[name])
            if cases[-1][0] is None:
                return tuple(cases)
    if parameter.default is not None:
        return (*cases, (None, parameter.default)) if cases else None
    if cases:
        raise RecipeError(
            f"parameters.{name}: no value for tensors outside of {[module for module, _ in cases]}"
        )
    raise RecipeError(
        f"parameters: {name!r} is missing" + (f" for {source.model!r}" if source else "")
    )


def _options(document: Document, block: Block) -> dict[str, Any]:
    facts, dialect = document.facts, document.dialect
    options: dict[str, Any] = {}
    if "use_base" in facts.options:
        options["use_base"] = block.base is not None
    for name, default in facts.options.items():
        if name not in SAID_ELSEWHERE:
            options[name] = _option(name, block, dialect.defaults.get(name, default))
    for name in dialect.idle:
        for scope in (*block.shared, *(one.parameters for one in block.taken)):
            if name in scope:
                _note_idle(document, name, scope[name])
    return options


def _option(name: str, block: Block, default: Any) -> Any:
    found: list[Any] = []
    for scope in block.shared:
        if name not in scope:
            continue
        given = [scope[name]] if isinstance(scope[name], Mapping) else scope[name]
        if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
            given = [{"value": given}]
        found += [_read_option(name, one.get("value")) for one in given]
        if given and given[-1].get("filter") in (None, "", "*"):
            break
    else:
        found.append(default)
    if len(set(found)) > 1:
        raise RecipeError(
            f"parameters.{name}: expected one value for all tensors of a slice, got {set(found)}"
        )
    return found[0]


def _read_option(name: str, value: Any) -> Any:
    if name != "rescale":
        return values.read_flag(name, value)
    # Beside mergekit's yes and no there are the words of our own recipes.
    if value in ("density", *_RESCALES.values()):
        return value
    return _RESCALES[values.read_flag(name, value)]


def _note_idle(document: Document, name: str, value: Any) -> None:
    if name == "int8_mask":
        values.read_flag(name, value)
    else:
        _log.warning("%r has no effect with %s, in mergekit neither", name, document.method)


def _refuse_lost_weights(document: Document, prepared: Prepared) -> None:
    """A source of density 0 still counts where weights are normalised without a vote."""
    densities = [value for _, cases in prepared.held.get("density", ()) for _, value in cases]
    has_zero = any(0.0 in (value if isinstance(value, tuple) else (value,)) for value in densities)
    if has_zero and prepared.options.get("normalize") and not document.dialect.votes:
        raise RecipeError(
            "parameters.density: 0 leaves a source out, but its weight would still count with "
            "normalize; give a density above 0, or leave the model out"
        )

"""What mergekit 0.1.5 takes for each method, where that differs from ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evaluators.registry import nearest
from workers.methods.registry import METHODS, MethodFacts

#: Types that merged weights can have.
DTYPES = ("float32", "bfloat16", "float16")


class RecipeError(ValueError):
    """A recipe that cannot be read or written; the message names the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a method's configuration reads in mergekit."""

    #: What `base_model` is to the merge: a source like others (`source`), the first of two
    #: (`first`), what task vectors are taken from (`needed`), or that if it is given (`optional`).
    base: Literal["source", "first", "needed", "optional"] = "needed"
    #: mergekit's defaults, in our words, where ours differ.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Our parameters that it has not, and the value that it computes with.
    fixed: Mapping[str, float] = field(default_factory=dict)
    #: Its parameters that do not change the model.
    idle: tuple[str, ...] = ()
    #: Its parameters that belong to each model where ours are the whole merge's.
    own: tuple[str, ...] = ()
    #: Our parameters that it takes as whole numbers, which it does not spread over layers.
    whole: tuple[str, ...] = ()
    #: Whether signs are voted on, so that a source of weight 0 takes no part at all.
    votes: bool = False
    #: Whether `rescale: density` divides all of a source's numbers by the same.
    divides: bool = False


#: Masks of int8 in place of floats: memory, not results.
_MASK = ("int8_mask",)
_L1 = {"rescale": "l1"}

DIALECTS: Mapping[str, Dialect] = {
    "linear": Dialect(base="source"),
    "karcher": Dialect(base="source", fixed={"weight": 1.0}, whole=("max_iter",)),
    "passthrough": Dialect(base="source", own=("scale",)),
    "slerp": Dialect(base="first"),
    "nuslerp": Dialect(base="optional"),
    "multislerp": Dialect(base="optional"),
    "task_arithmetic": Dialect(idle=(*_MASK, "rescale", "density")),
    "ties": Dialect(defaults={"normalize": True, "rescale": "none"}, idle=_MASK, votes=True),
    "dare_linear": Dialect(defaults=_L1, idle=_MASK, divides=True),
    "dare_ties": Dialect(defaults=_L1, idle=_MASK, votes=True, divides=True),
    "della_linear": Dialect(defaults=_L1, idle=_MASK),
    "della": Dialect(defaults={"normalize": True, **_L1}, idle=_MASK, votes=True),
    "breadcrumbs": Dialect(defaults={"rescale": "none"}, idle=_MASK),
    "breadcrumbs_ties": Dialect(defaults={"rescale": "none"}, idle=_MASK, votes=True),
    "sce": Dialect(idle=_MASK),
    "model_stock": Dialect(),
    "arcee_fusion": Dialect(fixed={"fence": 1.5}),
    "nearswap": Dialect(),
    "ram": Dialect(),
    "ramplus_tl": Dialect(),
}

#: Options that mergekit's format says by other keys than parameters.
SAID_ELSEWHERE = ("use_base",)


def find_method(name: str) -> tuple[MethodFacts, Dialect]:
    """Returns what a method takes here and there.

    Raises:
        RecipeError: if one of the two does not have it.
    """
    known = [one for one in DIALECTS if one in METHODS.known]
    if name not in known:
        raise RecipeError(f"merge_method: unknown {name!r}; {nearest(name, known)}")
    return METHODS.facts(name), DIALECTS[name]


def known_parameters(facts: MethodFacts, dialect: Dialect) -> list[str]:
    """Returns every parameter that mergekit's format has for a method."""
    ours = [*(one.name for one in facts.parameters), *facts.options]
    left_out = (*dialect.fixed, *SAID_ELSEWHERE)
    return [name for name in dict.fromkeys([*ours, *dialect.idle]) if name not in left_out]


def refuse_unknown(data: Any, known: Iterable[str], where: str) -> None:
    """Refuses keys that are not known, by name.

    Raises:
        RecipeError: naming the key and the known ones nearest to it.
    """
    names = list(known)
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where}: expected keys and values, got {data!r}")
    for key in data:
        if key not in names:
            raise RecipeError(f"{where}: {key!r} is not supported; {nearest(str(key), names)}")

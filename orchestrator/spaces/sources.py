"""The models of a merge: found, inspected, and checked to be of one family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.models import library, vocabulary
from workers.models.library import ModelError, ModelFacts, ModelPolicy
from workers.models.vocabulary import Alignment, Mode, VocabularyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that can be merged."""

    base: ModelFacts
    sources: tuple[ModelFacts, ...]
    #: How their tokens correspond; None if their vocabularies had to be equal.
    alignment: Alignment | None

    @property
    def models(self) -> tuple[ModelFacts, ...]:
        """The base and the sources."""
        return (self.base, *self.sources)

    @property
    def needs_union(self) -> bool:
        """Whether merges have tokens of several models; not so where all have the same."""
        found = self.alignment
        return found is not None and found.mode == "union" and not found.is_identity

    def describe(self) -> dict[str, Any]:
        """Returns facts about the models."""
        base = self.base
        tokens = len(base.vocabulary) if base.vocabulary is not None else None
        if self.needs_union:
            assert self.alignment is not None
            tokens = sum(token is not None for token in self.alignment.tokens)
        return {
            "architecture": base.architecture,
            "layers": base.num_layers,
            "parameters": base.num_parameters,
            "vocabulary": tokens,
            "source_bytes": sum(library.stored_bytes(model) for model in self.models),
        }

    def describe_tensors(self, filters: Sequence[str]) -> str:
        """Returns how many tensors lie where, and which filter has how many, for people."""
        if not self.base.tensors:
            return "known when the weights are read, which are pickled"
        layout = library.layer_groups(self.base)
        counts = _count(layout.per_layer, filters)
        parts = [
            f"{len(layout.per_layer)} in a layer ({counts})",
            f"{len(layout.before)} before, with the first ({_count(layout.before, filters)})",
            f"{len(layout.after)} after, with the last ({_count(layout.after, filters)})",
        ]
        everywhere = [*layout.per_layer, *layout.before, *layout.after]
        idle = [repr(one) for one in filters if not any(one in name for name in everywhere)]
        if idle:
            parts.append(f"none has {' or '.join(idle)} in its name: genes without effect")
        return "; ".join(parts)


def open_family(
    base: str, sources: Sequence[str], policy: ModelPolicy, tokenizer: Mode | None
) -> Family:
    """Inspects models and checks that they can be merged.

    Args:
        base: The model that gives architecture and tokenizer.
        sources: The models to merge.
        policy: What their folders may contain.
        tokenizer: Whose tokens merges have; None refuses vocabularies that differ.

    Raises:
        ModelError: naming the key of the campaign file, the model and what is wrong with it.
    """
    first = _inspect("base", base, policy)
    others = [_inspect("sources", source, policy) for source in sources]
    try:
        library.check_family(first, others, aligns_tokens=tokenizer is not None)
    except ModelError as error:
        raise ModelError(f"sources: {error}") from error
    alignment = None if tokenizer is None else _align(first, others, tokenizer)
    return Family(base=first, sources=tuple(others), alignment=alignment)


def _align(base: ModelFacts, sources: Sequence[ModelFacts], tokenizer: Mode) -> Alignment:
    try:
        ours = vocabulary.read_vocabulary(base)
        theirs = [vocabulary.read_vocabulary(one) for one in sources]
        return vocabulary.plan(ours, theirs, tokenizer)
    except VocabularyError as error:
        raise ModelError(f"tokenizer: {error}") from error


def _inspect(key: str, reference: str, policy: ModelPolicy) -> ModelFacts:
    try:
        return library.inspect(reference, policy)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error


def _count(names: Sequence[str], filters: Sequence[str]) -> str:
    """Returns how many tensors each filter has: the first that matches a name counts."""
    found = Counter(next((one for one in filters if one in name), "rest") for name in names)
    return ", ".join(f"{found[one]} {one}" for one in [*filters, "rest"] if found[one])

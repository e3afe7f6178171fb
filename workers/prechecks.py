"""What can be known of a merge's models for next to nothing, before a search is paid for.

Weights tell whether models share a base, which of them say the same, and how much they disagree;
five points on the line between two models tell whether one can go from one to the other without
passing through something worse than both (linear mode connectivity: Frankle et al. 2020,
https://arxiv.org/abs/1912.05671). Sign conflicts are those that TIES elects over (Yadav et al.
2023, https://arxiv.org/abs/2306.01708). Importing this needs no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluators.base import Score
from workers.models.files import STRICT, ModelPolicy
from workers.recipe import MergeRecipe, Setting, Slice

#: Where a line is looked at: the share of its second model.
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Fine-tuning moves weights by a few hundredths of their norm; two models that were trained apart
#: lie at right angles, 1.41 of their norm away from each other.
_FAR = 0.5
#: Lengths of task vectors that differ by more are worth weighting before a search.
_UNEVEN = 5.0
#: Lines between so many models at most are looked at in pairs, else from the base to each.
_FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """How one source lies to the base."""

    source: str
    #: Norm of its task vector (source - base).
    norm: float
    #: The same as a share of the base's norm.
    relative_norm: float
    #: Cosine of its weights and the base's.
    similarity: float
    #: Share of the entries that differ from the base's.
    moved: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """How two sources' task vectors lie to each other."""

    sources: tuple[str, str]
    #: Cosine of the task vectors; None where one is zero.
    cosine: float | None
    #: Norm of the first over the second's; None where that is zero.
    norm_ratio: float | None
    #: Share of all entries that both moved.
    both_moved: float
    #: Share of all entries that both moved, in opposite directions.
    conflicts: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFacts:
    """How the sources of a merge lie to their base and to each other."""

    base: str
    #: Norm of the base's weights that were compared.
    base_norm: float
    #: Entries that were compared.
    entries: int
    sources: tuple[SourceFacts, ...]
    pairs: tuple[PairFacts, ...]
    #: Models (the base among them) whose weights are the same, bit for bit.
    duplicates: tuple[tuple[str, str], ...]
    #: Tensors that not all models have in the same shape, and that were not compared.
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFacts:
    """How good the models are that lie between two."""

    models: tuple[str, str]
    #: Share of the second model at each point.
    weights: tuple[float, ...]
    #: Fitness at each point.
    fitness: tuple[float, ...]
    #: Mean negative log-likelihood of the right answers, in nats; empty where tasks have none.
    losses: tuple[float, ...]

    @property
    def barrier(self) -> float | None:
        """How far the loss rises above the straight line between its ends; None without losses."""
        if not self.losses:
            return None
        first, last = self.losses[0], self.losses[-1]
        along = zip(self.weights, self.losses, strict=True)
        return max(loss - (first + (last - first) * weight) for weight, loss in along)

    @property
    def is_worse_within(self) -> bool:
        """Whether every point between the ends is worse than the worse of them."""
        if self.losses:
            return min(self.losses[1:-1]) > max(self.losses[0], self.losses[-1])
        return max(self.fitness[1:-1]) < min(self.fitness[0], self.fitness[-1])


def compare(base: str, sources: Sequence[str], policy: ModelPolicy = STRICT) -> WeightFacts:
    """Returns how the sources' weights lie to the base's and to each other.

    Reads one tensor of all models at a time, in blocks; sums are float64. Tensors that not all
    have in one shape are left out.

    Raises:
        ValueError: if a model cannot be read, the models share no tensor, or one holds numbers
            that are not finite.
    """
    from workers.task_vectors import measure

    return measure(base, sources, policy)


def lines_between(base: str, sources: Sequence[str]) -> list[tuple[str, str]]:
    """Returns which lines are worth five points each: between a few sources, or base and each."""
    if 1 < len(sources) <= _FEW:
        return list(itertools.combinations(sources, 2))
    return [(base, source) for source in sources]


def walk(
    lines: Sequence[tuple[str, str]],
    evaluate: Callable[[MergeRecipe], Score],
    *,
    base: str,
    num_layers: int,
    dtype: str,
) -> tuple[LineFacts, ...]:
    """Returns what was measured at five points of each line; a model at two ends is scored once.

    Args:
        lines: Pairs of models.
        evaluate: Builds a recipe's model and scores it on a few documents.
        base: The model that gives architecture and tokenizer.
        num_layers: Layers of all models.
        dtype: Type of the merged weights.

    Raises:
        ValueError: if a point cannot be scored, naming it.
    """
    ends: dict[str, Score] = {}

    def score(first: str, second: str, weight: float) -> Score:
        end = first if weight == 0.0 else second if weight == 1.0 else None
        if end in ends:
            return ends[end]
        recipe = _between(first, second, weight, base=base, num_layers=num_layers, dtype=dtype)
        try:
            found = evaluate(recipe)
        except ValueError as error:
            raise ValueError(
                f"at {weight:g} of the way {first!r} to {second!r}: {error}"
            ) from error
        if end is not None:
            ends[end] = found
        return found

    return tuple(_line(line, [score(*line, weight) for weight in WEIGHTS]) for line in lines)


def _between(
    first: str, second: str, weight: float, *, base: str, num_layers: int, dtype: str
) -> MergeRecipe:
    shares = Setting(filter=None, values={"weight": (1.0 - weight, weight)})
    return MergeRecipe(
        method="linear",
        sources=(first, second),
        base=base,
        slices=(Slice(start=0, stop=num_layers, settings=(shares,)),),
        options={"normalize": False},
        dtype=dtype,
    )


def _line(models: tuple[str, str], scores: Sequence[Score]) -> LineFacts:
    likelihoods = [score.mean_log_likelihood for score in scores]
    return LineFacts(
        models=models,
        weights=WEIGHTS,
        fitness=tuple(score.fitness for score in scores),
        losses=tuple(-one for one in likelihoods if one is not None)
        if None not in likelihoods
        else (),
    )


def warnings(weights: WeightFacts, lines: Sequence[LineFacts] = ()) -> list[str]:
    """Returns what speaks against spending a search on these models."""
    same = [f"{a!r} and {b!r} are the same model" for a, b in weights.duplicates]
    far = [
        f"{one.source!r} does not seem to come from {weights.base!r}: its weights differ by "
        f"{one.relative_norm:.2f} of the base's norm (cosine {one.similarity:.2f}); merges of "
        "models without a common base are seldom of use"
        for one in weights.sources
        if one.relative_norm > _FAR
    ]
    uneven = [
        f"the task vectors of {' and '.join(map(repr, pair.sources))} differ in length by a factor "
        f"of {max(pair.norm_ratio, 1.0 / pair.norm_ratio):.1f}: equal weights favour the longer"
        for pair in weights.pairs
        if pair.norm_ratio and not 1.0 / _UNEVEN <= pair.norm_ratio <= _UNEVEN
    ]
    worse = [
        f"on the line from {line.models[0]!r} to {line.models[1]!r} every point is worse than both "
        "ends: a plain mean of them will be, too"
        for line in lines
        if line.is_worse_within
    ]
    return [*same, *far, *uneven, *worse]


def describe(weights: WeightFacts, lines: Sequence[LineFacts] = ()) -> list[str]:
    """Returns what was found for people, warnings last."""
    return [
        *(
            f"task vector {one.source}: norm {one.norm:.3g}, {one.relative_norm:.1%} of the "
            f"base's; {one.moved:.1%} of the entries moved"
            for one in weights.sources
        ),
        *map(_describe_pair, weights.pairs),
        *map(_describe_line, lines),
        *([f"not compared {len(weights.left_out)} tensors"] if weights.left_out else []),
        *(f"warning     {text}" for text in warnings(weights, lines)),
    ]


def _describe_pair(pair: PairFacts) -> str:
    cosine = "undefined" if pair.cosine is None else f"{pair.cosine:.3f}"
    ratio = "undefined" if pair.norm_ratio is None else f"{pair.norm_ratio:.2f}"
    return (
        f"pair        {' and '.join(pair.sources)}: cosine {cosine}, ratio of norms {ratio}; "
        f"both moved {pair.both_moved:.1%} of the entries, against each other {pair.conflicts:.1%}"
    )


def _describe_line(line: LineFacts) -> str:
    is_loss = line.barrier is not None
    values = " ".join(f"{value:.3f}" for value in (line.losses if is_loss else line.fitness))
    what = f"loss {values}, barrier {line.barrier:.3f}" if is_loss else f"fitness {values}"
    return f"line        {' to '.join(line.models)}: {what}"


def as_dict(weights: WeightFacts, lines: Sequence[LineFacts] = ()) -> dict[str, Any]:
    """Returns the same as plain data that JSON can hold."""
    return {
        "weights": asdict(weights),
        "lines": [{**asdict(line), "barrier": line.barrier} for line in lines],
        "warnings": warnings(weights, lines),
    }

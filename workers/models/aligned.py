"""Reads a model's weights with the rows of its vocabulary where the merged model has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from evaluators.digest import hash_text
from workers.models.safetensors_file import TensorFacts
from workers.models.vocabulary import Alignment, VocabularyError, is_vocabulary_tensor
from workers.models.weights import Reader


class AlignedWeights:
    """A reader whose embeddings, output heads and head biases have the rows of an alignment.

    A row that the model lacks is the base's, or else the mean of the rows of the models that have
    it, taken in float32. Against a base that is aligned too, a token that one model alone knows
    thus has no task vector and keeps that model's embedding in every merge. Tensors keep their
    types; all others pass through untouched. The reference is the model's with a mark of how the
    rows lie, unless they lie as they are.

    Args:
        weights: The model's own reader; its reference is one of the alignment's.
        alignment: What `workers.models.vocabulary.plan` made for this model and its companions.
        open_weights: Gives the readers of the other models, not aligned. It is called only when
            rows are taken from them.
        keep: Whether rearranged tensors stay in memory once they have been asked for.
    """

    def __init__(
        self,
        weights: Reader,
        alignment: Alignment,
        open_weights: Callable[[str], Reader],
        *,
        keep: bool = True,
    ) -> None:
        if weights.reference not in alignment.rows:
            raise VocabularyError(
                f"model {weights.reference!r} is not part of the alignment, which is of "
                f"{', '.join(map(repr, alignment.rows))}"
            )
        self._weights = weights
        self._alignment = alignment
        self._open = open_weights
        self._keep = keep
        self._kept: dict[str, torch.Tensor] = {}
        self._is_unchanged = alignment.is_unchanged(weights.reference)
        #: Says how rows lie, too: what is kept of one alignment's tensors is not another's.
        self.reference = weights.reference
        if not self._is_unchanged:
            self.reference += f" (rows {_digest(weights.reference, alignment)})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def facts(self, name: str) -> TensorFacts:
        """Returns type and shape, the latter as aligned."""
        dtype, shape = self._weights.facts(name)
        if self._is_unchanged or not _has_tokens(self._weights, name, self._alignment):
            return dtype, shape
        return dtype, (len(self._alignment.tokens), *shape[1:])

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor in its stored type.

        Raises:
            VocabularyError: if no model can give a missing row, or rows differ in width.
        """
        if name in self._kept:
            return self._kept[name]
        if self._is_unchanged or not _has_tokens(self._weights, name, self._alignment):
            return self._weights.tensor(name)
        aligned = self._aligned(name)
        if self._keep:
            self._kept[name] = aligned
        return aligned

    def _aligned(self, name: str) -> torch.Tensor:
        own = self._weights.tensor(name)
        rows = self._alignment.rows[self._weights.reference]
        out = own.new_empty((len(rows), *own.shape[1:]))
        held = [(row, found) for row, found in enumerate(rows) if found is not None]
        out[[row for row, _ in held]] = own[[found for _, found in held]]
        missing: dict[tuple[str, ...], list[int]] = {}
        for row, found in enumerate(rows):
            if found is None:
                missing.setdefault(self._alignment.donors(row), []).append(row)
        for donors, wanted in missing.items():
            able = self._able(name, donors, wanted)
            out[wanted] = self._mean(name, able, wanted, own).to(own.dtype)
        return out

    def _able(self, name: str, donors: tuple[str, ...], wanted: list[int]) -> list[str]:
        """The donors that have the tensor: a head that is tied to the embeddings is not stored."""
        able = [one for one in donors if _has_tokens(self._open(one), name, self._alignment)]
        if not able:
            row = wanted[0]
            raise VocabularyError(
                f"model {self._weights.reference!r} lacks row {row} of {name!r} (token "
                f"{self._alignment.tokens[row]!r}), and no other model can give it (asked: "
                f"{', '.join(map(repr, donors))})"
            )
        return able

    def _mean(
        self, name: str, donors: list[str], wanted: list[int], own: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((len(wanted), *own.shape[1:]), dtype=torch.float32, device=own.device)
        for donor in donors:
            theirs = self._open(donor).tensor(name)
            if theirs.shape[1:] != own.shape[1:]:
                raise VocabularyError(
                    f"{name!r} of {self._weights.reference!r} has rows of shape "
                    f"{list(own.shape[1:])}, that of {donor!r} of shape "
                    f"{list(theirs.shape[1:])}; they cannot be aligned"
                )
            places = self._alignment.rows[donor]
            total += theirs[[places[row] for row in wanted]].to(own.device, torch.float32)
        return total / len(donors)


def _digest(reference: str, alignment: Alignment) -> str:
    """A hash of where each row is read from; alignments that read alike have the same."""
    rows = alignment.rows[reference]
    given = [
        [(donor, alignment.rows[donor][row]) for donor in alignment.donors(row)]
        for row, found in enumerate(rows)
        if found is None
    ]
    return hash_text(repr((rows, given)))[:12]


def _has_tokens(weights: Reader, name: str, alignment: Alignment) -> bool:
    """Whether a tensor has a row for each token of its model."""
    if not is_vocabulary_tensor(name) or name not in weights:
        return False
    shape = weights.facts(name)[1]
    return bool(shape) and shape[0] == alignment.num_rows[weights.reference]

"""What merges share from candidate to candidate: open models, statistics, device memory."""

from __future__ import annotations

import torch

from workers.merging import kernels
from workers.merging.cache import Cache
from workers.merging.combine import all_finite
from workers.merging.residence import Residence
from workers.models.aligned import AlignedWeights
from workers.models.files import ModelPolicy
from workers.models.library import ModelFacts, inspect
from workers.models.vocabulary import Alignment, Mode, plan, read_vocabulary
from workers.models.weights import Reader, open_weights
from workers.recipe import MergeRecipe


class NonFiniteWeightsError(ValueError):
    """NaN or infinity in a source or in what was made of it; the message names the tensor."""


class Workshop:
    """Opens each model once and keeps what merges of it need.

    Args:
        policy: What model folders may contain.
        residence: Where tensors are merged.
    """

    def __init__(self, policy: ModelPolicy, residence: Residence) -> None:
        kernels.use_threads(torch.get_num_threads())
        self.policy = policy
        self.residence = residence
        self.cache = Cache()
        self._readers: dict[str, Reader] = {}
        self._facts: dict[str, ModelFacts] = {}
        self._aligned: dict[tuple[str, int], Reader] = {}
        self._alignments: dict[tuple[Mode, tuple[str, ...]], Alignment] = {}
        self._finite: set[tuple[str, str]] = set()

    def alignment(self, recipe: MergeRecipe) -> Alignment:
        """Returns which rows of which model's embeddings stand for which token.

        Raises:
            VocabularyError: if vocabularies cannot be brought together.
        """
        return self.align(recipe.tokenizer, tuple(dict.fromkeys([recipe.base, *recipe.models])))

    def align(self, mode: Mode, models: tuple[str, ...]) -> Alignment:
        """Aligns the vocabularies of models, the first of which is the base.

        Raises:
            VocabularyError: if vocabularies cannot be brought together.
        """
        if (mode, models) not in self._alignments:
            vocabularies = [read_vocabulary(self.facts(model)) for model in models]
            self._alignments[mode, models] = plan(vocabularies[0], vocabularies[1:], mode)
        return self._alignments[mode, models]

    def reader(self, reference: str, alignment: Alignment | None = None) -> Reader:
        """Returns a model's tensors, with the rows of an alignment where one is given."""
        if alignment is None or reference not in alignment.rows:
            return self._reader(reference)
        key = (reference, id(alignment))  # alignments are kept, so that no other has this id
        if key not in self._aligned:
            own = self._reader(reference)
            is_own = alignment.is_unchanged(reference)
            self._aligned[key] = own if is_own else AlignedWeights(own, alignment, self._reader)
        return self._aligned[key]

    def read(self, reader: Reader, name: str) -> torch.Tensor:
        """Returns a tensor on the device.

        Raises:
            NonFiniteWeightsError: if it holds NaN or infinity; looked at once.
        """
        found = self.residence.bring(reader.reference, name, reader.tensor(name))
        key = (reader.reference, name)
        if key not in self._finite and found.is_floating_point():
            if not all_finite(found):
                raise NonFiniteWeightsError(
                    f"tensor {name!r} of {reader.reference!r} holds NaN or infinity"
                )
            self._finite.add(key)
        return found

    def facts(self, reference: str) -> ModelFacts:
        """Returns what a model's folder says of it."""
        if reference not in self._facts:
            self._facts[reference] = inspect(reference, self.policy)
        return self._facts[reference]

    def _reader(self, reference: str) -> Reader:
        if reference not in self._readers:
            self._readers[reference] = open_weights(reference, self.policy)
        return self._readers[reference]

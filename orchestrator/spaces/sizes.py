"""What a recipe's model measures, told by the headers of its sources: no model is built."""

from __future__ import annotations

import math

from workers.models.layers import layer_of
from workers.models.library import ModelFacts
from workers.models.vocabulary import Alignment, is_vocabulary_tensor


class Sizes:
    """Counts the parameters of models that are like one, but for their number of layers.

    Args:
        like: A model with the same tensors.
        alignment: Which tokens the models have; None for those of `like`.
    """

    def __init__(self, like: ModelFacts, alignment: Alignment | None = None) -> None:
        sizes = {name: math.prod(shape) for name, (_, shape) in like.tensors.items()}
        self._inside = sum(size for name, size in sizes.items() if layer_of(name) is not None)
        self._outside = sum(sizes.values()) - self._inside
        if alignment is not None:
            self._outside += _more_tokens(like, alignment)
        self._num_layers = max(1, like.num_layers)
        self._is_known = bool(like.tensors)

    def measures(self, num_layers: int) -> dict[str, float]:
        """Returns the `layers` of a model and its `size`: how many parameters it stores.

        The size is left out where weights are pickled, as it is known only when they are read.
        """
        found = {"layers": float(num_layers)}
        if not self._is_known:
            return found
        size = self._outside + self._inside * num_layers // self._num_layers
        return {"size": float(size), **found}


def _more_tokens(like: ModelFacts, alignment: Alignment) -> int:
    """Returns how many parameters more its tensors have with a row for each token of all."""
    rows, more = alignment.num_rows[like.reference], 0
    for name, (_, shape) in like.tensors.items():
        if is_vocabulary_tensor(name) and shape and shape[0] == rows:
            more += (len(alignment.tokens) - rows) * math.prod(shape[1:])
    return more

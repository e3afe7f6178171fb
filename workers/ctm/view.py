"""How a network looks at its inputs: features made once, and one query at each tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from evaluators.ctm.inputs import Inputs, Numbers, Phases
from workers.ctm.attention import Attention
from workers.ctm.features import make_features


@dataclass(frozen=True, slots=True)
class Look:
    """One input of a batch, ready to be looked at."""

    #: Numbers (batch, size) that are seen as they are, or None.
    numbers: Tensor | None
    attention: Attention | None
    #: Keys and values.
    prepared: tuple[Tensor, Tensor] | None

    def __call__(self, query: Tensor | None, seen_at: list[Tensor] | None = None) -> Tensor:
        """Returns what a query (batch, width) sees (batch, width).

        Args:
            query: None where numbers are seen as they are.
            seen_at: Where to put the weights of attention (batch, heads, places).
        """
        if self.numbers is not None:
            return self.numbers
        assert self.attention is not None, "what is not numbers is attended to"
        assert self.prepared is not None
        assert query is not None
        if seen_at is None:
            seen: Tensor = self.attention(query, self.prepared)
            return seen
        seen, weights = self.attention.watched(query, self.prepared)
        seen_at.append(weights.detach())
        return seen


class View(nn.Module):
    """Features of inputs, and attention over them."""

    def __init__(self, inputs: Inputs, width: int, heads: int) -> None:
        super().__init__()
        self._inputs = inputs
        self.attention: Attention | None = None
        if isinstance(inputs, Numbers):
            return
        parts = inputs.parts if isinstance(inputs, Phases) else {"input": inputs}
        self.features = nn.ModuleDict(
            {name: make_features(part, width) for name, part in parts.items()}
        )
        self.attention = Attention(width, heads)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> list[Look]:
        """Returns what there is to look at, one after another.

        Raises:
            ValueError: if there are not as many inputs as phases.
        """
        tokens = self.tokens(inputs)
        if self.attention is None:
            return [Look(one, None, None) for one in tokens]
        return [Look(None, self.attention, self.attention.prepare(one)) for one in tokens]

    def tokens(self, inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Returns the features of each phase (batch, places, width), or numbers as they are.

        Raises:
            ValueError: if there are not as many inputs as phases.
        """
        row = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if isinstance(self._inputs, Numbers):
            return row
        order = self._inputs.order if isinstance(self._inputs, Phases) else ("input",)
        if len(row) != len(order):
            raise ValueError(f"expected {len(order)} inputs, one for each phase, got {len(row)}")
        return [self.features[name](one) for name, one in zip(order, row, strict=True)]

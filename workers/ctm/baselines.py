"""Networks to compare with, in the same frame: an LSTM that ticks, and one that does not tick.

Both look at the same features through the same attention, and answer with thoughts; their width is
chosen for as many parameters as a machine has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from evaluators.ctm.inputs import Outputs
from evaluators.ctm.thoughts import Thoughts, by_tick, certainty_of
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings
from workers.ctm.view import View


class LstmThinker(nn.Module):
    """An LSTM whose state asks a query at each tick (Hochreiter & Schmidhuber 1997)."""

    def __init__(self, settings: CtmSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.view = View(settings.inputs, settings.attention_width, settings.heads)
        self.query = nn.Linear(width, settings.attention_width) if settings.attends else None
        self.cell = nn.LSTMCell(settings.input_width, width)
        self.start = nn.Parameter(torch.zeros(2, width))
        outputs = settings.outputs
        self.head = nn.Linear(width, outputs.positions * outputs.classes)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Thoughts:
        """Thinks about a batch."""
        looks = self.view(inputs)
        batch = len(inputs) if isinstance(inputs, Tensor) else len(inputs[0])
        hidden, held = (one.expand(batch, -1) for one in self.start)
        reads = []
        for look in looks:
            for _ in range(self.settings.ticks):
                seen = look(None if self.query is None else self.query(hidden))
                hidden, held = self.cell(seen, (hidden, held))
                reads.append(hidden)
        return _thoughts(self.head(torch.stack(reads, dim=1)), self.settings.outputs)


class FeedForwardThinker(nn.Module):
    """Two hidden layers over all features at once: one tick, no query."""

    def __init__(self, settings: CtmSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.view = View(settings.inputs, settings.attention_width, settings.heads)
        self.view.attention = None  # all features come in
        outputs = settings.outputs
        self.body = nn.Sequential(
            nn.LazyLinear(width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.head = nn.Linear(width, outputs.positions * outputs.classes)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Thoughts:
        """Answers at once, as at a first and only tick."""
        incoming = self.view.tokens(inputs)
        flat = torch.cat([one.flatten(1) for one in incoming], dim=1)
        return _thoughts(self.head(self.body(flat))[:, None], self.settings.outputs)


BASELINES: dict[str, Callable[[CtmSettings, int], nn.Module]] = {
    "lstm": LstmThinker,
    "feed_forward": FeedForwardThinker,
}


def matched(kind: str, settings: CtmSettings, example: Tensor | list[Tensor]) -> nn.Module:
    """Returns a baseline with as many parameters as a machine of the same settings has.

    Args:
        kind: `lstm` or `feed_forward`.
        settings: Of the machine; ticks, features and outputs are the baseline's, too.
        example: A batch of any size, from which shapes are learned.

    Raises:
        ValueError: if even a width of one has more parameters.
    """
    wanted = num_parameters(Machine(settings))

    def made(width: int) -> nn.Module:
        model = BASELINES[kind](settings, width)
        with torch.no_grad():
            model(example)
        return model

    low, high = 1, 2
    if num_parameters(made(low)) > wanted:
        raise ValueError(f"{kind}: a width of 1 has more than {wanted:,} parameters")
    while num_parameters(made(high)) <= wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if num_parameters(made(middle)) <= wanted else (low, middle)
    return made(low)


def num_parameters(model: nn.Module) -> int:
    """Returns how many numbers a network has that are trained."""
    return sum(one.numel() for one in model.parameters())


def _thoughts(answers: Tensor, outputs: Outputs) -> Thoughts:
    logits = by_tick(answers, outputs)
    return Thoughts(logits, certainty_of(logits))

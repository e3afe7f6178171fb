"""Private models of neurons: each neuron reads its own past with weights of its own.

(Darlow et al. 2025, section 3.3.) One batched product over all neurons for each layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.ctm.history import History


class NeuronModels(nn.Module):
    """Maps each neuron's last pre-activations to its post-activation.

    Deep: memory -> 2 hidden, gate, hidden -> 2, gate. Shallow: memory -> 2, gate. Each layer is
    divided by a learned number that starts at 1.
    """

    def __init__(self, neurons: int, memory: int, hidden: int | None) -> None:
        super().__init__()
        widths = [memory, 2] if hidden is None else [memory, 2 * hidden]
        self.first = _Layer(neurons, *widths)
        self.second = None if hidden is None else _Layer(neurons, hidden, 2)
        bound = (neurons + memory) ** -0.5
        #: The past before the first tick.
        self.start = nn.Parameter(torch.empty(neurons, memory).uniform_(-bound, bound))

    def begin(self, batch: int, ticks: int) -> Reading:
        """Returns these models with a past to read, for a pass of so many samples and ticks."""
        history = History(self.start, batch, ticks, *self.first.scaled())
        return Reading(history, None if self.second is None else self.second.scaled())


@dataclass(frozen=True, slots=True)
class Reading:
    """Neuron models at work on one pass of a batch."""

    history: History
    second: tuple[Tensor, Tensor] | None

    def step(self, newest: Tensor) -> Tensor:
        """Returns post-activations of a tick's pre-activations, both (neurons, batch)."""
        found = nn.functional.glu(self.history.read(newest))  # (neurons, batch, hidden or 1)
        if self.second is not None:
            weight, bias = self.second
            found = nn.functional.glu(torch.baddbmm(bias[:, None], found, weight))
        return found[:, :, 0]


class Newest(nn.Module):
    """What is left without neuron models, for comparison: SiLU of the newest pre-activation."""

    def begin(self, batch: int, ticks: int) -> Newest:
        """Returns itself: nothing is remembered."""
        del batch, ticks
        return self

    def step(self, newest: Tensor) -> Tensor:
        """Returns post-activations of a tick's pre-activations, both (neurons, batch)."""
        return nn.functional.silu(newest)


class _Layer(nn.Module):
    """A linear layer of each neuron (neurons, inputs, outputs)."""

    def __init__(self, neurons: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / (inputs + outputs) ** 0.5
        self.weight = nn.Parameter(torch.empty(neurons, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(neurons, outputs))
        self.scale = nn.Parameter(torch.ones(()))

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Returns weight and bias, divided once for all ticks."""
        return self.weight / self.scale, self.bias / self.scale

"""The neurons' past: each pre-activation is written once and read where it stands.

Rolling a history of M ticks forward copies neurons x batch x M numbers at every tick, and keeps
each copy for the way back. Here all ticks of a pass stand in one tensor (memory + ticks, neurons,
batch), every tick reads the window that ends with it, and gradients are added up in a tensor of the
same shape. That is only right while ticks run backward in the opposite order of forward: each
hands the next a token that it needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class History:
    """What the neurons of a batch met in the last ticks, and what their models' first layer says.

    Args:
        start: The past before the first tick (neurons, memory) or (neurons, memory, batch).
        batch: Samples.
        ticks: How many ticks will be written at most.
        weight: First layer of the neurons' models (neurons, memory, outputs).
        bias: (neurons, outputs).
    """

    def __init__(self, start: Tensor, batch: int, ticks: int, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias
        self._memory = weight.shape[1]
        self._tick = 0
        #: A compiler traces plain operations better than ours, and fuses their copies away.
        self._plain = torch.compiler.is_compiling()
        wide = start if start.dim() == 3 else start[:, :, None].expand(-1, -1, batch)
        if self._plain:
            self._columns = list(wide.unbind(1))
            return
        self._tape = _Tape(self._memory, ticks, _kind(weight))
        self._token = _Begin.apply(wide, self._tape)  # type: ignore[no-untyped-call]

    def read(self, newest: Tensor) -> Tensor:
        """Writes a tick's pre-activations (neurons, batch); returns (neurons, batch, outputs)."""
        if self._plain:
            self._columns.append(newest)
            window = torch.stack(self._columns[-self._memory :], dim=2)
            return torch.baddbmm(self._bias[:, None], window, self._weight)
        found: Tensor
        found, self._token = _Read.apply(  # type: ignore[no-untyped-call]
            newest, self._weight, self._bias, self._token, self._tape, self._tick
        )
        self._tick += 1
        return found

    def past(self) -> Tensor:
        """Returns the last ticks (neurons, memory, batch), cut off from what made them."""
        if self._plain:
            return torch.stack(self._columns[-self._memory :], dim=1).detach()
        return self._tape.window(self._tick - 1).transpose(1, 2).clone()


class _Tape:
    """Values and gradients of all ticks of a pass."""

    def __init__(self, memory: int, ticks: int, dtype: torch.dtype) -> None:
        self.memory, self.length, self.dtype = memory, memory + ticks, dtype
        self.values: Tensor
        self.grads: Tensor | None = None
        self.weight_grad: Tensor | None = None
        self.bias_grad: Tensor | None = None

    def window(self, tick: int, of: Tensor | None = None) -> Tensor:
        """Returns what the models see at a tick (neurons, batch, memory), as a view."""
        held = self.values if of is None else of
        return held[tick + 1 : tick + 1 + self.memory].permute(1, 2, 0)

    def add(self, tick: int, grad: Tensor, weight: Tensor) -> Tensor:
        """Adds the gradients of a tick's first layer; returns all gradients so far."""
        if self.grads is None or self.weight_grad is None or self.bias_grad is None:
            wide = torch.promote_types(self.dtype, torch.float32)  # sums of many small numbers
            self.grads = torch.zeros_like(self.values, dtype=wide)
            self.weight_grad = torch.zeros_like(weight, dtype=wide)
            self.bias_grad = self.grads.new_zeros(grad.shape[0], grad.shape[2])
        seen = self.grads[tick + 1 : tick + 1 + self.memory].transpose(0, 1)
        seen += torch.bmm(weight, grad.transpose(1, 2))  # (neurons, memory, batch)
        _add_product(self.weight_grad, self.window(tick).transpose(1, 2), grad)
        self.bias_grad += grad.sum(dim=1)
        return self.grads

    def clear(self) -> None:
        """Forgets gradients: the graph may be walked again."""
        self.grads = self.weight_grad = self.bias_grad = None


class _Begin(torch.autograd.Function):
    """Writes the past before the first tick; returns the first token."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, tape: _Tape) -> Tensor:
        neurons, memory, batch = start.shape
        tape.values = torch.empty(
            tape.length, neurons, batch, dtype=tape.dtype, device=start.device
        )
        tape.values[:memory] = start.transpose(0, 1)
        ctx.tape, ctx.dtype = tape, start.dtype
        return start.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        tape = ctx.tape
        if tape.grads is None:
            return None, None
        found = tape.grads[: tape.memory].transpose(0, 1).to(ctx.dtype)
        tape.clear()
        return found, None


class _Read(torch.autograd.Function):
    """Writes a tick and reads its window."""

    @staticmethod
    def forward(
        ctx: Any,
        newest: Tensor,
        weight: Tensor,
        bias: Tensor,
        token: Tensor,
        tape: _Tape,
        tick: int,
    ) -> tuple[Tensor, Tensor]:
        tape.values[tape.memory + tick] = newest
        weight, bias = weight.to(tape.dtype), bias.to(tape.dtype)
        ctx.save_for_backward(weight)
        ctx.tape, ctx.tick, ctx.dtype = tape, tick, newest.dtype
        return torch.baddbmm(bias[:, None], tape.window(tick), weight), torch.zeros_like(token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, token_grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        tape, tick = ctx.tape, ctx.tick
        grads = tape.add(tick, grad.contiguous(), weight)
        newest = grads[tape.memory + tick].to(ctx.dtype)
        if tick:
            return newest, None, None, token_grad, None, None
        found = (newest, tape.weight_grad, tape.bias_grad, token_grad, None, None)
        if not ctx.needs_input_grad[3]:  # nothing comes before
            tape.clear()
        return found


def _add_product(total: Tensor, first: Tensor, second: Tensor) -> None:
    """Adds a batch of matrix products to a total, which may be of a wider type."""
    if total.dtype == first.dtype:
        total.baddbmm_(first, second)
    else:
        total += torch.bmm(first, second)


def _kind(weight: Tensor) -> torch.dtype:
    """Returns the type in which products are made here."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype

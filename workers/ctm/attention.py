"""Attention with one query a tick over features that do not change: keys and values made once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention of one query (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        # As torch's own attention, which draws the three as one matrix (3 width, width).
        for layer in (self.query, self.key, self.value):
            nn.init.uniform_(layer.weight, -math.sqrt(1.5 / width), math.sqrt(1.5 / width))
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(layer.bias)

    def prepare(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys and values, both (batch, heads, places, width / heads), of all ticks.

        Args:
            tokens: (batch, places, width).
        """
        return self._split(self.key(tokens)), self._split(self.value(tokens))

    def forward(self, query: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """Returns what a query (batch, width) sees: (batch, width)."""
        keys, values = prepared
        asked = self._split(self.query(query)[:, None])
        seen = nn.functional.scaled_dot_product_attention(asked, keys, values)
        return self._joined(seen)

    def watched(self, query: Tensor, prepared: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns what a query sees, and where it looked: (batch, heads, places)."""
        keys, values = prepared
        asked = self._split(self.query(query)[:, None])
        scores = asked @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])
        weights = torch.softmax(scores, dim=-1)
        return self._joined(weights @ values), weights[:, :, 0]

    def _split(self, tokens: Tensor) -> Tensor:
        batch, places, width = tokens.shape
        return tokens.view(batch, places, self.heads, width // self.heads).transpose(1, 2)

    def _joined(self, seen: Tensor) -> Tensor:
        joined: Tensor = self.out(seen.transpose(1, 2).flatten(1))
        return joined

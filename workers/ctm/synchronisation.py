r"""How neurons synchronise: the decayed mean product of pairs over the ticks so far.

(Darlow et al. 2025, section 3.4.) With a decay r >= 0 learned for each pair,

    S_ij^t = sum_{tau <= t} e^{-r_ij (t - tau)} z_i^tau z_j^tau
             / sqrt(sum_{tau <= t} e^{-r_ij (t - tau)}),

as a recursion: alpha <- e^{-r} alpha + z_i z_j, beta <- e^{-r} beta + 1, S = alpha / sqrt(beta).
The learned start state is the first term. Unlike the authors' code, a decay is kept in its range by
a clamp within the graph; `restrain` moves the parameter itself back after a step of training,
because the clamp lets no gradient through outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: The strongest decay: a tick later a product counts 3e-7 of what it did.
MOST_DECAY = 15.0


@dataclass(frozen=True, slots=True)
class Synchrony:
    """Sums so far."""

    #: (pairs, batch)
    alpha: Tensor
    #: (pairs, 1): it depends on the ticks alone.
    beta: Tensor
    #: e^{-r} (pairs, 1)
    fading: Tensor


class Synchronisation(nn.Module):
    """Reads pairs of neurons (2, pairs)."""

    pairs: Tensor

    def __init__(self, pairs: Tensor) -> None:
        super().__init__()
        self.register_buffer("pairs", pairs)
        self.decay = nn.Parameter(torch.zeros(pairs.shape[1]))

    def begin(self, state: Tensor) -> Synchrony:
        """Returns the sums that a first state (neurons, batch) makes."""
        fading = torch.exp(-self.decay.clamp(0.0, MOST_DECAY))[:, None]
        return Synchrony(self._products(state), torch.ones_like(fading), fading)

    def step(self, sums: Synchrony, state: Tensor) -> Synchrony:
        """Returns the sums with one more state (neurons, batch)."""
        alpha = torch.addcmul(self._products(state), sums.fading, sums.alpha)
        return Synchrony(alpha, sums.fading * sums.beta + 1.0, sums.fading)

    def read(self, sums: Synchrony) -> Tensor:
        """Returns the synchronisation of all pairs (batch, pairs)."""
        return (sums.alpha * sums.beta.rsqrt()).T

    def restrain(self) -> None:
        """Moves decays that a step of training took out of their range back into it."""
        with torch.no_grad():
            self.decay.clamp_(0.0, MOST_DECAY)

    def _products(self, state: Tensor) -> Tensor:
        return state.index_select(0, self.pairs[0]) * state.index_select(0, self.pairs[1])


class Snapshot(nn.Module):
    """Reads the neurons as they are: what is left without synchronisation, for comparison."""

    def begin(self, state: Tensor) -> Tensor:
        """Returns a first state (neurons, batch)."""
        return state

    def step(self, sums: Tensor, state: Tensor) -> Tensor:
        """Returns the new state."""
        del sums
        return state

    def read(self, sums: Tensor) -> Tensor:
        """Returns the state (batch, neurons)."""
        return sums.T

    def restrain(self) -> None:
        """Has nothing to restrain."""

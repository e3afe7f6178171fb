"""Machines that go on from what another one has learned, though they are made otherwise.

A machine of new settings takes over what a trained one knows, so that it begins with the same
function where there is a way (Chen, Goodfellow & Shlens 2016, https://arxiv.org/abs/1511.05641):

- equal settings: every number;
- other ticks: every number; the ticks that both have say the same;
- a longer memory: weights on what is older are zero; on a shorter one the oldest are left out;
- more hidden units: nothing reads the new ones yet; of fewer the last are left out;
- more pairs: nothing reads the new ones yet;
- twice the neurons, or k times: each is copied, and what reads the neurons divides its weights
  among the copies. Means and variances of the synapses' norm are then what they were. With other
  numbers some neurons have a copy more, and the norm is only nearly the same; of fewer neurons
  those in the middle are left out, as dense pairs are of the first and of the last. Synapses of
  more than one layer begin anew where the number of neurons is another one.

Copies share weights unequally, and each weight is divided by a lot of its own. One share for all
weights of a copy would make its gradients a multiple of the other's, and Adam, which divides by
their size, would move both alike for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from workers.ctm.machine import Machine
from workers.ctm.pairs import inherit_pairs, match_pairs
from workers.ctm.settings import CtmSettings

#: How a part came over: it does what it did, or some of it, or it begins anew.
Carried: TypeAlias = Literal["exactly", "nearly", "not"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """A machine that goes on from another one."""

    machine: Machine
    #: Of the view, the synapse, the neurons, what answers and queries are read from, the ticks.
    parts: Mapping[str, Carried]

    @property
    def preserves(self) -> bool:
        """Whether the ticks that both have say the same, but for rounding."""
        return all(one == "exactly" for one in self.parts.values())


@torch.no_grad()
def grow(parent: Machine, settings: CtmSettings) -> Grown:
    """Makes a machine that goes on from another one. Draws from torch's generator.

    Raises:
        ValueError: if the other one's inputs or outputs are others.
    """
    before = parent.settings
    for name in ("inputs", "outputs"):
        if getattr(before, name) != getattr(settings, name):
            raise ValueError(
                f"{name}: a machine goes on from one of the same task, expected "
                f"{getattr(settings, name)}, got {getattr(before, name)}"
            )
    machine = Machine(settings).to(next(parent.parameters()).dtype)
    growing = _Growing(parent, machine)
    parts = {
        "view": growing.view(),
        "synapse": growing.synapse(),
        "neurons": growing.neurons(),
        "answers": growing.reading("answer", "head"),
        **({"queries": growing.reading("action", "query")} if settings.attends else {}),
        # A second phase begins with what the first one's last tick left.
        "ticks": _how(before.ticks == settings.ticks or settings.phases == 1, some=True),
    }
    return Grown(machine=machine, parts=parts)


@dataclass(frozen=True, slots=True)
class _Neurons:
    """Which neuron comes from which."""

    #: The parent's neuron that each neuron copies.
    sources: Tensor
    #: Where each of the parent's neurons is now; -1 if it is no more.
    places: Tensor

    @classmethod
    def between(cls, before: CtmSettings, after: CtmSettings) -> _Neurons:
        """Copies, or leaves out, neurons in the middle."""
        old, new = before.neurons, after.neurons
        fewer = before if old <= new else after
        first = fewer.neurons // 2
        if fewer.pairing == "dense":
            first = min(max(first, fewer.num_output), fewer.neurons - fewer.num_action)
        last = fewer.neurons - first
        among, more = torch.arange(old), max(0, new - old)
        some = more % old
        spread = torch.arange(some) * old // max(1, some)
        sources = [among[:first], among.repeat(more // old), spread, among[old - last :]]
        places = torch.full((old,), -1)
        places[:first] = torch.arange(first)
        places[old - last :] = torch.arange(new - last, new)
        return cls(torch.cat(sources), places)

    @property
    def are_whole_copies(self) -> bool:
        """Whether each of the parent's neurons is there, and equally often."""
        return len(self.sources) % len(self.places) == 0

    def shared(self, weights: Tensor) -> Tensor:
        """Divides weights on the parent's neurons (rows, neurons) among their copies."""
        lots = 0.5 + torch.rand(len(weights), len(self.sources), dtype=torch.float64)
        sums = torch.zeros(weights.shape, dtype=torch.float64).index_add_(1, self.sources, lots)
        shares = lots / sums[:, self.sources]
        return weights[:, self.sources] * shares.to(weights.dtype)


class _Growing:
    """Copies a parent's parts into a machine."""

    def __init__(self, parent: Machine, machine: Machine) -> None:
        self._before, self._after = parent.settings, machine.settings
        self._old = {name: one.cpu() for name, one in parent.state_dict().items()}
        #: The machine's own numbers: what is written here is written there.
        self._new = machine.state_dict()
        self._neurons = _Neurons.between(self._before, self._after)

    def view(self) -> Carried:
        """Copies what has the same shape."""
        names = [name for name in self._new if name.startswith("view.")]
        same = [name for name in names if self._old[name].shape == self._new[name].shape]
        for name in same:
            self._write(name, self._old[name])
        if not self._after.attends:
            return "exactly"
        whole = same == names and self._before.heads == self._after.heads
        return _how(whole, some=bool(same))

    def synapse(self) -> Carried:
        """Copies the one layer neuron by neuron, and a U-Net as a whole or not at all."""
        if self._before.synapse_depth == self._after.synapse_depth == 1:
            return self._gated_layer()
        old, new = (
            {name: one.shape for name, one in held.items() if name.startswith("synapse.")}
            for held in (self._old, self._new)
        )
        if old != new:
            return "not"
        for name in new:
            self._write(name, self._old[name])
        return "exactly"

    def neurons(self) -> Carried:
        """Copies first states and neuron models."""
        before, after, sources = self._before, self._after, self._neurons.sources
        self._write("start", self._old["start"][sources])
        if before.neuron_model != after.neuron_model:
            return "not"
        if after.neuron_model == "none":
            return "exactly"
        memory = min(before.memory, after.memory)
        self._new["neurons.start"][:, -memory:] = self._old["neurons.start"][sources, -memory:]
        has_all = after.memory >= before.memory
        if after.neuron_model == "shallow":
            self._first_layer(memory, 1)
        else:
            hidden = min(before.hidden, after.hidden)
            has_all &= after.hidden >= before.hidden
            self._first_layer(memory, hidden)
            second = torch.zeros_like(self._new["neurons.second.weight"])
            second[:, :hidden] = self._old["neurons.second.weight"][sources, :hidden]
            self._write("neurons.second.weight", second)
            self._write("neurons.second.bias", self._old["neurons.second.bias"][sources])
            self._write("neurons.second.scale", self._old["neurons.second.scale"])
        return _how(has_all, some=True)

    def reading(self, reader: str, layer: str) -> Carried:
        """Copies what is read of the neurons, and the layer that reads it."""
        if self._before.synchronise != self._after.synchronise:
            return "not"
        found = self._synchronised(reader) if self._after.synchronise else None
        old, new = self._old[f"{layer}.weight"], self._new[f"{layer}.weight"]
        some = found is None or bool((found >= 0).any())
        if len(old) != len(new) or not some:  # another width of attention, or nothing to read
            return _how(whole=False, some=found is not None and some)
        if found is None:
            weight, whole = self._neurons.shared(old), len(new[0]) >= len(old[0])
        else:
            met = found >= 0
            weight, whole = torch.zeros_like(new), int(met.sum()) == len(old[0])
            weight[:, met] = old[:, found[met]]
        self._write(f"{layer}.weight", weight)
        self._write(f"{layer}.bias", self._old[f"{layer}.bias"])
        return _how(whole, some=True)

    def _gated_layer(self) -> Carried:
        sources, num = self._neurons.sources, self._before.neurons
        rows = torch.cat([sources, num + sources])  # values, then gates
        old = self._old["synapse.1.weight"][rows]
        seen, now = self._before.input_width, self._after.input_width
        new = self._new["synapse.1.weight"]
        if seen == now:
            new[:, :now] = old[:, :seen]
        new[:, now:] = self._neurons.shared(old[:, seen:])
        self._write("synapse.1.bias", self._old["synapse.1.bias"][rows])
        for name in ("synapse.3.weight", "synapse.3.bias"):
            self._write(name, self._old[name][sources])
        return _how(seen == now and self._neurons.are_whole_copies, some=True)

    def _first_layer(self, memory: int, units: int) -> None:
        """Copies the first layer of neuron models: so many of the newest ticks, so many units."""
        sources = self._neurons.sources
        for name in ("neurons.first.weight", "neurons.first.bias"):
            old, new = self._old[name][sources], self._new[name]
            for half in range(2):  # values, then gates
                at, to = half * old.shape[-1] // 2, half * new.shape[-1] // 2
                if name.endswith("weight"):
                    new[:, :-memory, to : to + units] = 0.0
                    new[:, -memory:, to : to + units] = old[:, -memory:, at : at + units]
                else:
                    new[:, to : to + units] = old[:, at : at + units]
        self._write("neurons.first.scale", self._old["neurons.first.scale"])

    def _synchronised(self, reader: str) -> Tensor:
        """Copies pairs and decays; returns each pair's place among the parent's, or -1 (pairs)."""
        before, after = self._before, self._after
        old, own = self._old[f"{reader}.pairs"], self._new[f"{reader}.pairs"]
        size = "num_output" if reader == "answer" else "num_action"
        sizes = (getattr(before, size), getattr(after, size))
        pairs = inherit_pairs(self._neurons.places[old], own, before, after, sizes)
        self._write(f"{reader}.pairs", pairs)
        found = match_pairs(self._neurons.sources[pairs], old)
        met = found >= 0
        self._new[f"{reader}.decay"][met] = self._old[f"{reader}.decay"][found[met]]
        return found

    def _write(self, name: str, values: Tensor) -> None:
        self._new[name].copy_(values)


def _how(whole: bool, *, some: bool) -> Carried:
    if whole:
        return "exactly"
    return "nearly" if some else "not"

"""The Continuous Thought Machine written down twice more, from a machine's parameters.

`by_definition` is the definition: float64, a loop over neurons and pairs, sums over all ticks;
`loss_by_definition` and `order_by_definition` are that of the losses.
`straightforward` is how one writes it first: the history is rolled forward at each tick, keys and
values are projected at each tick, and each tick's answer and certainty are computed on their own.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import glu, linear, silu

from workers.ctm.machine import Machine
from workers.ctm.neurons import NeuronModels
from workers.ctm.synapse import UNet
from workers.ctm.synchronisation import Synchronisation


def by_definition(machine: Machine, inputs: Tensor | list[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns logits (batch, positions, classes, ticks) and certainties (batch, ticks).

    Args:
        machine: It is double afterwards.
        inputs: A batch, or one for each phase.
    """
    one = machine.double().eval()
    phases = [inputs] if isinstance(inputs, Tensor) else inputs
    rows = [_one_sample(one, [part[None] for part in row]) for row in zip(*phases, strict=True)]
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


def _one_sample(machine: Machine, phases: list[Tensor]) -> tuple[Tensor, Tensor]:
    settings, outputs = machine.settings, machine.settings.outputs
    states = [machine.start.detach().clone()]  # z of ticks 0, 1, ...
    models = machine.neurons
    past = models.start.detach().clone() if isinstance(models, NeuronModels) else None
    logits, certainties = [], []
    for tick in range(settings.ticks * len(phases)):
        part = tick // settings.ticks
        if machine.view.attention is None:
            seen = phases[part][0]
        else:
            order = getattr(settings.inputs, "order", ("input",))
            tokens = machine.view.features[order[part]](phases[part])[0]  # (places, width)
            seen = _attend(machine, states, tokens.detach())
        pre = _synapse(machine, torch.cat([seen, states[-1]]))
        if past is None:
            states.append(silu(pre))
        else:
            past = torch.cat([past[:, 1:], pre[:, None]], dim=1)
            states.append(_neurons(machine.neurons, past))
        answer = linear(_synchrony(machine.answer, states), machine.head.weight, machine.head.bias)
        answer = answer.reshape(outputs.positions, outputs.classes).detach()
        logits.append(answer)
        shares = torch.softmax(answer, dim=1)
        entropy = -(shares * shares.log()).sum(dim=1)
        certainties.append(1 - (entropy / math.log(outputs.classes)).mean())
    return torch.stack(logits, dim=-1), torch.stack(certainties)


def _synchrony(reader: nn.Module, states: list[Tensor]) -> Tensor:
    """Section 3.4: sums over all ticks so far, pair by pair."""
    if not isinstance(reader, Synchronisation):
        return states[-1]
    found = []
    for place, (i, j) in enumerate(reader.pairs.T.tolist()):
        decay = float(reader.decay[place].detach().clamp(0, 15))
        fades = [math.exp(-decay * (len(states) - 1 - tick)) for tick in range(len(states))]
        total = sum(fade * state[i] * state[j] for fade, state in zip(fades, states, strict=True))
        found.append(total / math.sqrt(sum(fades)))
    return torch.stack(found)


def _attend(machine: Machine, states: list[Tensor], tokens: Tensor) -> Tensor:
    one = machine.view.attention
    query = linear(_synchrony(machine.action, states), machine.query.weight, machine.query.bias)
    query, keys, values = one.query(query), one.key(tokens), one.value(tokens)
    size, parts = query.shape[0] // one.heads, []
    for head in range(one.heads):
        part = slice(head * size, (head + 1) * size)
        scores = torch.stack([(query[part] * key[part]).sum() for key in keys]) / math.sqrt(size)
        weights = scores.exp() / scores.exp().sum()
        seen = (weight * value[part] for weight, value in zip(weights, values, strict=True))
        parts.append(sum(seen, start=torch.zeros(size, dtype=torch.float64)))
    return one.out(torch.cat(parts)).detach()


def _synapse(machine: Machine, incoming: Tensor) -> Tensor:
    synapse = machine.synapse
    if isinstance(synapse, UNet):
        saved = [_block(synapse.first, incoming)]
        for down in synapse.down:
            saved.append(_block(down, saved[-1]))
        found = saved[-1]
        for level in reversed(range(len(synapse.down))):
            norm = synapse.norms[level]
            total = _block(synapse.up[level], found) + saved[level]
            found = _norm(total, norm)
        return found.detach()
    layer, norm = synapse[1], synapse[3]
    wide = layer.weight @ incoming + layer.bias
    half = wide.shape[0] // 2
    return _norm(wide[:half] * torch.sigmoid(wide[half:]), norm).detach()


def _block(block: nn.Sequential, incoming: Tensor) -> Tensor:
    layer, norm = [one for one in block if isinstance(one, nn.Linear | nn.LayerNorm)]
    found = _norm(layer.weight @ incoming + layer.bias, norm)
    return found * torch.sigmoid(found)


def _norm(values: Tensor, norm: nn.LayerNorm) -> Tensor:
    spread = ((values - values.mean()) ** 2).mean() + norm.eps
    return (values - values.mean()) / spread.sqrt() * norm.weight + norm.bias


def _neurons(models: NeuronModels, past: Tensor) -> Tensor:
    """Section 3.3: each neuron's own model of its own past."""
    found = []
    for neuron, seen in enumerate(past):
        own = seen
        for layer in [models.first, *([] if models.second is None else [models.second])]:
            own = (own @ layer.weight[neuron] + layer.bias[neuron]) / layer.scale
            half = own.shape[0] // 2
            own = own[:half] * torch.sigmoid(own[half:])
        found.append(own[0])
    return torch.stack(found).detach()


def loss_by_definition(
    logits: Tensor, targets: Tensor, certainty: Tensor, lookahead: int | None = None
) -> float:
    """Section 3.5: each sample's least loss and that at its most certain tick, the mean of all.

    Args:
        logits: (batch, positions, classes, ticks).
        targets: (batch, positions).
        certainty: (batch, ticks).
        lookahead: Of routes: steps that count after the longest right beginning.
    """
    total, (batch, positions, _, ticks) = 0.0, logits.shape
    for sample in range(batch):
        said, wanted = logits[sample], targets[sample]
        counted = positions
        if lookahead is not None:
            right = said.argmax(dim=1) == wanted[:, None]  # (positions, ticks)
            reached = max(_beginning(right[:, tick].tolist()) for tick in range(ticks))
            counted = min(max(1, reached + lookahead), positions)
        by_tick = [
            sum(
                -math.log(float(torch.softmax(said[place, :, tick], dim=0)[wanted[place]]))
                for place in range(counted)
            )
            / counted
            for tick in range(ticks)
        ]
        total += (min(by_tick) + by_tick[int(certainty[sample].argmax())]) / 2
    return total / batch


def _beginning(right: list[bool]) -> int:
    return right.index(False) if False in right else len(right)


def order_by_definition(logits: Tensor, targets: Tensor) -> float:
    """Graves et al. 2006, equation 3: the probability of all paths that say an order, summed.

    Args:
        logits: (batch, 1, classes, ticks), the last class says nothing.
        targets: (batch, places).

    Returns:
        The mean over samples of minus the logarithm of it, for each place.
    """
    total, (_, _, classes, ticks) = 0.0, logits.shape
    for said, wanted in zip(logits[:, 0], targets.tolist(), strict=True):
        shares = torch.softmax(said, dim=0)  # (classes, ticks)
        chance = 0.0
        for path in itertools.product(range(classes), repeat=ticks):
            if [one for one, _ in itertools.groupby(path) if one != classes - 1] == wanted:
                chance += math.prod(float(shares[one, tick]) for tick, one in enumerate(path))
        total -= math.log(chance) / len(wanted)
    return total / len(logits)


def straightforward(machine: Machine, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logits (batch, positions, classes, ticks) and certainties (batch, ticks).

    For machines with deep neuron models, one synapse layer or a U-Net, synchronisation, and one
    input that is attended to.
    """
    settings, outputs, models = machine.settings, machine.settings.outputs, machine.neurons
    assert isinstance(models, NeuronModels)
    batch = len(inputs)
    tokens = machine.view.features["input"](inputs)
    state = machine.start.expand(batch, -1)
    past = models.start.expand(batch, -1, -1)  # (batch, neurons, memory)
    sums = [_begin(machine.action, state), _begin(machine.answer, state)]
    logits, certainties = [], []
    for _ in range(settings.ticks):
        query = machine.query(sums[0][0] / sums[0][1].sqrt())
        seen = _look(machine, query, tokens)
        pre = machine.synapse(torch.cat([seen, state], dim=1))
        past = torch.cat([past[:, :, 1:], pre[:, :, None]], dim=2)
        state = past
        for layer in (models.first, models.second):
            found = torch.einsum("bdm,dmh->bdh", state, layer.weight) + layer.bias
            state = glu(found / layer.scale)
        state = state[:, :, 0]
        readers = (machine.action, machine.answer)
        sums = [_step(one, held, state) for one, held in zip(readers, sums, strict=True)]
        answer = machine.head(sums[1][0] / sums[1][1].sqrt())
        answer = answer.reshape(batch, outputs.positions, outputs.classes)
        shares = torch.softmax(answer, dim=-1)
        entropy = -(shares * torch.log_softmax(answer, dim=-1)).sum(dim=-1)
        certainties.append(1 - entropy.mean(dim=1) / math.log(outputs.classes))
        logits.append(answer)
    return torch.stack(logits, dim=-1), torch.stack(certainties, dim=-1)


def _begin(reader: Synchronisation, state: Tensor) -> tuple[Tensor, Tensor]:
    product = state[:, reader.pairs[0]] * state[:, reader.pairs[1]]
    return product, torch.ones_like(product)


def _step(
    reader: Synchronisation, held: tuple[Tensor, Tensor], state: Tensor
) -> tuple[Tensor, Tensor]:
    fading = torch.exp(-reader.decay.clamp(0, 15)).expand(len(state), -1)
    product = state[:, reader.pairs[0]] * state[:, reader.pairs[1]]
    return fading * held[0] + product, fading * held[1] + 1


def _look(machine: Machine, query: Tensor, tokens: Tensor) -> Tensor:
    one = machine.view.attention
    weight = torch.cat([one.query.weight, one.key.weight, one.value.weight])
    bias = torch.cat([one.query.bias, one.key.bias, one.value.bias])
    seen, _ = nn.functional.multi_head_attention_forward(
        query[None],
        *[tokens.transpose(0, 1)] * 2,
        query.shape[1],
        one.heads,
        weight,
        bias,
        None,
        None,
        False,
        0.0,
        one.out.weight,
        one.out.bias,
        need_weights=True,
        average_attn_weights=False,
    )
    return seen[0]

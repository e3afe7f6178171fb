"""What a pass of a machine costs, counted in products: ticks make machines cheap or dear."""

from __future__ import annotations

import itertools

from evaluators.ctm.inputs import Image, Numbers, Phases, Tokens
from workers.ctm.settings import CtmSettings


def flops_per_sample(settings: CtmSettings) -> int:
    """Returns multiplications and additions in the matrix products of one sample's forward pass.

    Of all ticks of all phases, whether an answer is asked for in them or not: it is read at each.
    """
    inputs = settings.inputs
    if isinstance(inputs, Numbers):
        return 2 * settings.ticks * _per_tick(settings, 0)
    parts = (
        [inputs.parts[name] for name in inputs.order] if isinstance(inputs, Phases) else [inputs]
    )
    total = 0
    for part in parts:
        places = _places(part)
        total += _once(part, places, settings.attention_width)
        total += settings.ticks * _per_tick(settings, places)
    return 2 * total


def _places(inputs: Tokens | Image) -> int:
    """Returns how many places can be attended to."""
    if isinstance(inputs, Tokens):
        return inputs.length
    rows, columns = inputs.grid
    return rows * columns


def _once(inputs: Tokens | Image, places: int, width: int) -> int:
    """Returns products of features, keys and values."""
    features, convolved = width, 0
    if isinstance(inputs, Image):
        height, across, before = inputs.height, inputs.width, inputs.channels
        for number, after in enumerate(inputs.widths):
            convolved += 9 * before * after * height * across
            before = after
            if number in inputs.pools:
                height, across = height // 2, across // 2
        features = before
    return convolved + places * features * width + 2 * places * width * width


def _per_tick(settings: CtmSettings, places: int) -> int:
    neurons, width = settings.neurons, settings.input_width
    widths = settings.synapse_widths
    if len(widths) == 1:
        synapse = (width + neurons) * 2 * neurons
    else:
        ladder = sum(wide * narrow for wide, narrow in itertools.pairwise(widths))
        synapse = (width + neurons) * neurons + 2 * ladder
    models = {
        "deep": neurons * 2 * settings.hidden * (settings.memory + 1),
        "shallow": neurons * 2 * settings.memory,
        "none": 0,
    }[settings.neuron_model]
    looking = 0
    if places:
        looking = settings.query_size * width + 2 * width * width + 2 * places * width
    head = settings.read_size * settings.outputs.positions * settings.outputs.classes
    return synapse + models + looking + head

"""Watches a machine think about one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evaluators.ctm.inputs import Image, Inputs, Numbers, Phases, Tokens
from evaluators.ctm.kinds import Judgement
from evaluators.ctm.measures import read_orders
from evaluators.ctm.thoughts import Trace
from orchestrator.thinking.following import along_cells, grid_of, share_on
from orchestrator.thinking.painting import labels_of, paint, wrapped
from orchestrator.thinking.record import Floats, Look, Thinking
from orchestrator.thinking.walking import walk, way
from orchestrator.thinking.wording import Words
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings


@torch.no_grad()
def watch(
    machine: Machine,
    inputs: Tensor | list[Tensor],
    words: Words,
    *,
    subject: str,
    sample: str,
    target: Sequence[int] | None = None,
    judgement: Judgement = "positions",
    answer_phases: int | None = None,
) -> Thinking:
    """Returns what a machine thinks about a sample.

    Args:
        machine: In evaluation mode.
        inputs: One sample, as a batch; a tensor for each phase where there are phases.
        words: What classes and tokens are called.
        subject: The machine and the task, for people.
        sample: Which sample it is.
        target: The right classes, if they are known.
        judgement: How answers are judged.
        answer_phases: In how many of the last phases they are; in all if None.
    """
    thoughts = machine.eval()(inputs, watch=True)
    settings, logits = machine.settings, thoughts.logits
    trace: Trace = thoughts.trace
    probabilities = logits.float().softmax(dim=2)[0].permute(2, 0, 1)
    looks = _looks(settings.inputs, inputs, words, trace)
    moves = [[int(one) for one in answer] for answer in probabilities.argmax(dim=2)]
    maze = inputs[0].numpy() if isinstance(inputs, Tensor) and words.moves else None
    if target is not None:
        wanted = tuple(int(one) for one in target)
        looks = tuple(replace(one, target=wanted) for one in looks)
    if maze is not None:
        looks = tuple(_in_maze(one, maze) for one in looks)
    return Thinking(
        subject=subject,
        title=f"{subject}, {sample}",
        facts=_facts(settings),
        looks=looks,
        classes=words.classes,
        probabilities=_array(probabilities),
        certainty=_array(thoughts.certainty[0]),
        pre=_column(trace.pre),
        post=_column(trace.post),
        synchronisation=_column(trace.synchronisation),
        triangle=_triangle(settings),
        unjudged=settings.ticks * (settings.phases - (answer_phases or settings.phases)),
        said=_orders(logits) if judgement == "order" else (),
        walks=() if maze is None else tuple(walk(maze, one) for one in moves),
    )


def _looks(
    kinds: Inputs, inputs: Tensor | list[Tensor], words: Words, trace: Trace
) -> tuple[Look, ...]:
    """Returns the inputs in order, each with its share of the attention."""
    samples = [inputs] if isinstance(inputs, Tensor) else inputs
    names = kinds.order if isinstance(kinds, Phases) else ("its input",)
    parts = kinds.parts if isinstance(kinds, Phases) else {names[0]: kinds}
    each = len(trace.attention) // len(samples)
    found = []
    for number, (name, sample) in enumerate(zip(names, samples, strict=True)):
        some = trace.attention[number * each : (number + 1) * each]
        title = f"{name} ({number + 1} of {len(names)})" if len(names) > 1 else name
        found.append(_look(title, parts[name], sample[0], words, _column(some) if some else None))
    return tuple(found)


def _look(
    name: str,
    kind: Tokens | Image | Numbers,
    sample: Tensor,
    words: Words,
    attention: Floats | None,
) -> Look:
    if isinstance(kind, Image):
        picture = paint(sample.numpy(), as_maze=words.moves)
        grid = grid_of(kind, sample)
        return Look(name=name, grid=grid, picture=picture, attention=attention)
    labels = labels_of(sample, words.token)
    return Look(name=name, grid=wrapped(len(labels)), labels=labels, attention=attention)


def _in_maze(look: Look, maze: Floats) -> Look:
    """Returns a look with the way through what is looked at, and how much attention follows it."""
    right = way(maze)
    if right is None or look.attention is None:
        return replace(look, way=right)
    along = along_cells(right.cells, maze.shape[1:], look.grid)
    share = float(np.mean(~np.isnan(along)))
    return replace(look, way=right, on_way=share_on(look.attention, along), chance=share)


def _orders(logits: Tensor) -> tuple[tuple[int, ...], ...]:
    """Returns what was said up to each tick, without what is still open."""
    orders = read_orders(logits)[0].T.tolist()
    return tuple(tuple(one for one in order if one >= 0) for order in orders)


def _triangle(settings: CtmSettings) -> int | None:
    """Returns the edge of the triangle of pairs: only dense pairing pairs one list with itself."""
    dense = settings.synchronise and settings.pairing == "dense"
    return settings.num_output if dense else None


def _facts(settings: CtmSettings) -> str:
    heads = f"{settings.heads} head{'s' if settings.heads > 1 else ''}"
    attention = heads if settings.attends else "no attention"
    ticks = f"{settings.ticks} ticks{' for each input' if settings.phases > 1 else ''}"
    return f"{settings.neurons} neurons, {ticks}, memory of {settings.memory}, {attention}"


def _column(tensors: Sequence[Tensor]) -> Floats:
    """Returns one sample's values of all ticks, ticks first."""
    return _array(torch.stack([one[0] for one in tensors]))


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.float().numpy(), dtype=np.float32)

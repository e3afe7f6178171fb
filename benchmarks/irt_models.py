"""Small digit classifiers that are trained and merged in milliseconds, many at a time.

Multi-layer perceptrons 64-256-10 on scikit-learn's 1,797 digits of 8 x 8 pixels. A stack is a list
of four tensors with the weights of any number of models, (models, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

Stack = list[torch.Tensor]
_SHAPES = ((64, 256), (1, 256), (256, 10), (1, 10))
_CHUNK = 20  # models that are trained or run together: what stays in the cache

_digits = load_digits()
IMAGES = torch.tensor(_digits.data, dtype=torch.float32)
LABELS = torch.tensor(_digits.target)
NUM_DIGITS = len(LABELS)


def fresh(num: int, generator: torch.Generator) -> Stack:
    """Returns models with random weights."""
    return [
        0.01 * torch.randn(num, *shape, generator=generator)
        if shape[0] > 1
        else torch.zeros(num, *shape)
        for shape in _SHAPES
    ]


def train(
    stack: Stack, rows: torch.Tensor, masks: torch.Tensor, steps: Sequence[int], rate: float
) -> Stack:
    """Returns the models after full-batch Adam, each on its own rows for its own steps.

    Args:
        stack: to start from; not changed.
        rows: digits, (rows,).
        masks: which of them each model sees, (models, rows).
        steps: of each model.
        rate: of learning.
    """
    weights = [part.clone().requires_grad_() for part in stack]
    done = [part.clone() for part in stack]
    optimizer = torch.optim.Adam(weights, lr=rate)
    labels = LABELS[rows].repeat(len(masks))
    for step in range(1, max(steps) + 1):
        optimizer.zero_grad()
        logits = _logits(weights, IMAGES[rows]).flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        (losses.view(masks.shape) * masks).sum(1).div(masks.sum(1)).sum().backward()
        optimizer.step()
        for model in (index for index, num in enumerate(steps) if num == step):
            for kept, part in zip(done, weights, strict=True):
                kept[model] = part.detach()[model]
    return done


@torch.no_grad()
def right(stack: Stack, rows: Any) -> np.ndarray[Any, Any]:
    """Returns which digits the models get right, 0 or 1: (models, rows)."""
    found = [
        _logits([part[at : at + _CHUNK] for part in stack], IMAGES[rows]).argmax(-1) == LABELS[rows]
        for at in range(0, len(stack[0]), _CHUNK)
    ]
    return torch.cat(found).double().numpy()


def random_models(num: int, num_rows: int, seed: int) -> np.ndarray[Any, Any]:
    """Returns the answers to all digits of models trained on random classes, rows and steps."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    rows = torch.arange(num_rows)
    answers = []
    for _ in range(0, num, _CHUNK):
        masks, steps = torch.zeros(_CHUNK, num_rows), []
        for mask in masks:
            classes = rng.choice(10, rng.integers(3, 11), replace=False)
            fit = np.flatnonzero(np.isin(LABELS[:num_rows], classes))
            mask[rng.choice(fit, rng.integers(30, len(fit) + 1), replace=False)] = 1.0
            steps.append(int(rng.integers(5, 40)))
        models = train(fresh(_CHUNK, generator), rows, masks, steps, 0.003)
        answers.append(right(models, slice(None)))
    return np.concatenate(answers)


def of_classes(rows: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Returns which rows are of each group of classes: (groups, rows)."""
    return torch.stack([torch.isin(LABELS[rows], torch.tensor(group)) for group in groups]).float()


def split_merges(pair: Stack, num: int, rng: np.random.Generator) -> Stack:
    """Returns merges of two models by spherical interpolation that changes sides at a random cut.

    (Abrantes et al. 2025, https://arxiv.org/abs/2508.16204: w before the cut, 1 - w after it.)
    """
    first, second = torch.cat([part.flatten(1) for part in pair], dim=1)
    merges = []
    for _ in range(num):
        share, cut = rng.random(), int(rng.integers(1, len(first)))
        before = _between(first[:cut], second[:cut], share)
        merges.append(torch.cat([before, _between(first[cut:], second[cut:], 1.0 - share)]))
    sizes = [rows * columns for rows, columns in _SHAPES]
    parts = torch.stack(merges).split(sizes, dim=1)
    return [part.view(num, *shape) for part, shape in zip(parts, _SHAPES, strict=True)]


def weighted_merges(base: Stack, experts: Stack, genes: np.ndarray[Any, Any]) -> Stack:
    """Returns the base plus weighted task vectors, with weights of their own for each layer.

    Args:
        base: one model.
        experts: K models.
        genes: weights, (merges, 2 K): of the first layer, then of the second.
    """
    weights = torch.as_tensor(genes, dtype=torch.float32).chunk(2, dim=1)
    return [
        part + torch.einsum("mk,kij->mij", weights[index // 2], expert - part)
        for index, (part, expert) in enumerate(zip(base, experts, strict=True))
    ]


def _logits(stack: Stack, images: torch.Tensor) -> torch.Tensor:
    return torch.relu(images @ stack[0] + stack[1]) @ stack[2] + stack[3]


def _between(a: torch.Tensor, b: torch.Tensor, share: float) -> torch.Tensor:
    angle = torch.arccos((a @ b / (a.norm() * b.norm() + 1e-12)).clamp(-1, 1))
    if angle < 1e-6:
        return (1.0 - share) * a + share * b
    return (torch.sin((1.0 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)

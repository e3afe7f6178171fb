"""What a machine looks at: inputs made to rows of features, once for all ticks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.ctm.inputs import Image, Tokens


def make_features(inputs: Tokens | Image, width: int) -> nn.Module:
    """Returns a module from inputs to features (batch, places, width).

    Args:
        inputs: What comes in.
        width: Width of attention.
    """
    body = TokenFeatures(inputs, width) if isinstance(inputs, Tokens) else ImageFeatures(inputs)
    return nn.Sequential(body, nn.Linear(body.width, width), nn.LayerNorm(width))


class TokenFeatures(nn.Module):
    """Sums of the embeddings of ids (batch, length, ids)."""

    def __init__(self, inputs: Tokens, width: int) -> None:
        super().__init__()
        self.width = width
        self.embeddings = nn.ModuleList(nn.Embedding(num, width) for num in inputs.vocabularies)
        self.code = nn.Parameter(torch.randn(inputs.length, width)) if inputs.positions else None

    def forward(self, ids: Tensor) -> Tensor:
        """Returns features (batch, length, width)."""
        parts = [one(ids[:, :, place]) for place, one in enumerate(self.embeddings)]
        found = torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
        return found if self.code is None else found + self.code


class ImageFeatures(nn.Module):
    """Convolutions over pictures (batch, channels, height, width), each place a row."""

    def __init__(self, inputs: Image) -> None:
        super().__init__()
        self.width = inputs.widths[-1]
        layers: list[nn.Module] = []
        before = inputs.channels
        for number, after in enumerate(inputs.widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            if number in inputs.pools:
                layers.append(nn.MaxPool2d(2))
            before = after
        self.layers = nn.Sequential(*layers)
        rows, columns = inputs.grid
        self.code = (
            nn.Parameter(0.1 * torch.randn(self.width, rows, columns)) if inputs.positions else None
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns features (batch, places, width), row by row."""
        found = self.layers(pictures)
        if self.code is not None:
            found = found + self._code(found.shape[2:])
        rows: Tensor = found.flatten(2).transpose(1, 2)
        return rows

    def _code(self, grid: torch.Size) -> Tensor:
        """Returns the code of places, stretched where pictures are larger than trained on."""
        assert self.code is not None
        if self.code.shape[1:] == grid:
            return self.code
        return nn.functional.interpolate(
            self.code[None], size=tuple(grid), mode="bilinear", align_corners=True
        )[0]

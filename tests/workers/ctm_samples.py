"""Samples of any inputs of machines."""

import torch
from torch import Tensor

from evaluators.ctm.inputs import Inputs, Numbers, Phases, Tokens


def samples(inputs: Inputs, batch: int = 3) -> Tensor | list[Tensor]:
    torch.manual_seed(1)
    if isinstance(inputs, Phases):
        return [samples(inputs.parts[name], batch) for name in inputs.order]
    if isinstance(inputs, Tokens):
        ids = [torch.randint(num, (batch, inputs.length)) for num in inputs.vocabularies]
        return torch.stack(ids, dim=2)
    if isinstance(inputs, Numbers):
        return torch.randn(batch, inputs.size, dtype=torch.float64)
    shape = (batch, inputs.channels, inputs.height, inputs.width)
    return torch.randn(shape, dtype=torch.float64)

"""Tensors' memory as compiled kernels see it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

#: Types that kernels read and write.
_TYPES = (torch.bfloat16, torch.float32)


def fits_kernels(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether kernels can work on some tensors: on the CPU, contiguous, of one type they know."""
    held = list(tensors)
    return held[0].dtype in _TYPES and all(
        one.dtype == held[0].dtype and one.device.type == "cpu" and one.is_contiguous()
        for one in held
    )


def addresses(tensors: Iterable[torch.Tensor]) -> npt.NDArray[np.int64]:
    """Returns where tensors' entries begin; the tensors must be held while that is used."""
    return np.array([one.data_ptr() for one in tensors], dtype=np.int64)


def entries(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """Returns a tensor's memory, flattened, as numpy sees it: bfloat16 as its bits."""
    flat = tensor.view(-1)
    return flat.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else flat.numpy()

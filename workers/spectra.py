"""Singular values of task vectors: mutations that stay within what models have learned.

(CycleQD: Kuroki, Nakamura, Akiba & Tang 2025, https://arxiv.org/abs/2410.14735.) Noise on weights
moves a model in directions that no source ever took; to scale singular values moves it along those
that its task vector has.
"""

from __future__ import annotations

import torch

from workers.threads import one_thread


def svd_scale(matrix: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Returns U diag(s * factors) Vᵀ of a matrix U diag(s) Vᵀ, in the matrix's precision.

    Singular values come in falling order; all is computed in float32 at least, by one thread.

    Args:
        matrix: What is scaled; (rows, columns).
        factors: One for each singular value; (min(rows, columns),).

    Raises:
        ValueError: if shapes do not fit.
    """
    if matrix.ndim != 2 or factors.shape != (min(matrix.shape),):
        raise ValueError(
            f"expected a matrix and a factor for each of its singular values, got shapes "
            f"{tuple(matrix.shape)} and {tuple(factors.shape)}"
        )
    exact = torch.promote_types(matrix.dtype, torch.float32)
    with one_thread():
        u, values, vt = torch.linalg.svd(matrix.to(exact), full_matrices=False)
        scaled: torch.Tensor = (u * (values * factors.to(device=matrix.device, dtype=exact))) @ vt
    return scaled.to(matrix.dtype)

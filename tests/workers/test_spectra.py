"""Singular values of task vectors, scaled."""

from __future__ import annotations

import pytest
import torch

from workers.spectra import svd_scale


def test_singular_values_are_scaled_and_directions_kept():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 4, generator=generator)
    factors = torch.tensor([1.3, 0.7, 1.0, 0.0])
    scaled = svd_scale(matrix, factors)
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(u.T @ scaled @ vt.T, torch.diag(values * factors))
    torch.testing.assert_close(svd_scale(matrix, torch.ones(4)), matrix)
    half = svd_scale(matrix.to(torch.bfloat16), torch.full((4,), 0.5))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), matrix / 2, atol=0.02, rtol=0.02)


def test_factors_that_do_not_fit_the_matrix_are_refused():
    with pytest.raises(ValueError, match=r"got shapes \(6, 4\) and \(6,\)"):
        svd_scale(torch.ones(6, 4), torch.ones(6))


def test_singular_values_are_scaled_to_the_same_bits_by_any_number_of_threads():
    matrix = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    factors = torch.linspace(0.7, 1.3, 64)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(svd_scale(matrix, factors))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])

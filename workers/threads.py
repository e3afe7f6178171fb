"""Arithmetic that gives the same bits however many threads a process has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Works with one thread: sums that threads share depend in their last bits on how many share.

    A recipe is to build the same model in an evaluator of one thread and in a command of many.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

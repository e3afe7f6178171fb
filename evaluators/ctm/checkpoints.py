"""Networks in training, kept in a folder between stretches: whoever comes next goes on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from evaluators.whole_file import whole_file


class Checkpoints:
    """States of networks by their identity; none are kept where there is no folder.

    A state is written beside its place and moved there, so that a file is whole or not at all. Two
    workers that train the same network write the same states: whoever is last wins, and nothing is
    lost.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder)

    def load(self, identity: str) -> dict[str, Any] | None:
        """Returns the state that was saved last, on the CPU; None if there is none to be read."""
        if self._folder is None:
            return None
        try:
            state: dict[str, Any] = torch.load(
                self._path(identity), map_location="cpu", weights_only=True
            )
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None  # not there, or not of this version: training begins anew
        return state

    def save(self, identity: str, state: dict[str, Any]) -> None:
        """Keeps a state in the place of an earlier one."""
        if self._folder is None:
            return
        path = self._path(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            torch.save(state, part)

    def _path(self, identity: str) -> Path:
        assert self._folder is not None
        return self._folder / identity[:2] / f"{identity}.pt"

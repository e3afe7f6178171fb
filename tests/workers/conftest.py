"""Model folders for the workers' tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples" / "models"


@pytest.fixture
def models() -> Path:
    """The folder of the example models `base`, `a` and `b`."""
    return MODELS


@pytest.fixture
def copy_model(tmp_path):
    """Copies an example model to a folder of its own, to be damaged there."""

    def copy(name: str, to: str | None = None) -> Path:
        return Path(shutil.copytree(MODELS / name, tmp_path / (to or f"copy_of_{name}")))

    return copy

"""Model folders for the workers' tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

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


@pytest.fixture
def shard():
    """Splits a folder's weights into some files with an index."""

    def split(folder: Path, count: int = 2) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        weight_map: dict[str, str] = {}
        for part in range(count):
            file = f"model-{part + 1:05}-of-{count:05}.safetensors"
            save_file({name: tensors[name] for name in names[part::count]}, folder / file)
            weight_map |= dict.fromkeys(names[part::count], file)
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return split

"""Merging on disk needs memory for a few blocks, whatever the size of models and tensors."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

#: A model whose embeddings alone are larger than what merging may hold beside its sources.
ROWS, WIDTH, LAYERS = 160_000, 2048, 2
#: MiB beside what a process needs that merges a tiny model.
EXTRA_MIB = 128

MERGE = """
import sys
from pathlib import Path
from workers.export import write_model
from workers.models.library import ModelPolicy
from workers.recipe import MergeRecipe
import json
recipe = MergeRecipe.from_dict(json.loads(sys.argv[1]))
write_model(recipe, ModelPolicy(), Path(sys.argv[2]), shard_bytes=1 << 30)
"""


def sparse_model(folder: Path, rows: int, models: Path) -> Path:
    """Writes a model of zeros that takes no room on the disk."""
    folder.mkdir()
    for path in (models / "base").iterdir():
        if path.suffix in (".json", ".jinja") and "safetensors" not in path.name:
            shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [rows, WIDTH], "model.norm.weight": [WIDTH]}
    for layer in range(LAYERS):
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = [WIDTH, 4 * WIDTH]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def peak_anonymous_mib(recipe: dict, out: Path) -> float:
    """Merges in a process of its own; returns the most memory it held that is no file's."""
    process = subprocess.Popen([sys.executable, "-c", MERGE, json.dumps(recipe), str(out)])
    peak = 0.0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        held = [line for line in status.splitlines() if line.startswith("RssAnon:")]
        peak = max(peak, int(held[0].split()[1]) / 1024) if held else peak
        time.sleep(0.005)
    assert process.returncode == 0
    return peak


@pytest.mark.parametrize("method", ["linear", "slerp", "ties"])
def test_a_model_larger_than_the_memory_allowed_is_merged(tmp_path, models, method):
    def recipe(rows):
        folders = [
            str(sparse_model(tmp_path / f"{name}-{rows}", rows, models)) for name in ("base", "a")
        ]
        values = {
            "linear": {"weight": [0.5, 0.5]},
            "slerp": {"t": [0.5]},
        }.get(method, {"weight": [0.5, 0.5], "density": [0.5, 0.5]})
        setting = {"filter": None, "values": values}
        return {
            "method": method,
            "sources": folders,
            "base": folders[0],
            "slices": [{"start": 0, "stop": LAYERS, "settings": [setting]}],
            "options": {},
            "dtype": "bfloat16",
            "seed": 0,
        }

    small = peak_anonymous_mib(recipe(100), tmp_path / "small")
    large = peak_anonymous_mib(recipe(ROWS), tmp_path / "large")
    written = sum(path.stat().st_size for path in (tmp_path / "large").glob("*.safetensors"))
    assert written > 4 * EXTRA_MIB << 20
    assert large < small + EXTRA_MIB, f"{large:.0f} MiB, a tiny model needs {small:.0f} MiB"

"""Machines in folders: `config.json` says what one is made of, `model.safetensors` holds it.

from workers.ctm.machine import Machine
machine = Machine.from_pretrained("folder")
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from workers.ctm.machine import Machine
from workers.ctm.plain import as_dict, from_dict

_TYPE, _VERSION = "continuous_thought_machine", 1


def save(machine: Machine, folder: str | Path) -> None:
    """Writes a machine to a folder, which is made if there is none."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: one.detach().contiguous() for name, one in machine.state_dict().items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": _TYPE, "version": _VERSION, **as_dict(machine.settings)}
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: str | Path) -> Machine:
    """Reads a machine from a folder, in evaluation mode.

    Raises:
        ValueError: if the folder holds no machine, or one that this version cannot read.
    """
    path = Path(folder)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected a machine's config.json: {error}") from error
    found = (config.pop("model_type", None), config.pop("version", None))
    if found != (_TYPE, _VERSION):
        raise ValueError(
            f"{path}: expected model_type {_TYPE!r} of version {_VERSION}, got {found[0]!r} of "
            f"version {found[1]!r}"
        )
    try:
        machine = Machine(from_dict(config))
        machine.load_state_dict(load_file(path / "model.safetensors"))
    except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path}: the machine in it cannot be read: {first}") from error
    return machine.eval()

"""What to think about: a row of a task, or files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluators.base import Rows
from evaluators.ctm.inputs import Image, Inputs, Numbers, Phases, Tokens
from evaluators.ctm.kinds import Task
from evaluators.ctm.task import Batch
from workers.ctm.machine import Machine


def check_fits(machine: Machine, task: Task) -> None:
    """Refuses a task that a machine was not made for; pictures may be of another size.

    Raises:
        ValueError: saying what the machine takes and gives, and what the task does.
    """
    settings = machine.settings
    same_in = _what_counts(settings.inputs) == _what_counts(task.inputs)
    if not same_in or settings.outputs != task.outputs:
        raise ValueError(
            f"the machine takes {settings.inputs} and gives {settings.outputs}, but this task has "
            f"{task.inputs} and {task.outputs}; name the task that it was trained on, and its "
            "settings with --set"
        )


def sample_of(batch: Batch, rows: Rows, number: int) -> Batch:
    """Returns one sample of a kind of rows, as a batch.

    Raises:
        ValueError: if there is none of that number.
    """
    if not 0 <= number < len(batch):
        raise ValueError(
            f"sample {number}: there are {len(batch)} {rows} rows; give a number from 0 to "
            f"{len(batch) - 1}"
        )
    return batch.take(slice(number, number + 1))


def read_inputs(files: Sequence[Path], inputs: Inputs) -> Tensor | list[Tensor]:
    """Reads a sample, a file for each phase where there are phases, as a batch.

    Pictures are .png files or .npy files of floats (channels, height, width); tokens and numbers a
    row in a JSON file.

    Raises:
        ValueError: naming the file and what was expected.
    """
    kinds: list[Any] = [inputs]
    if isinstance(inputs, Phases):
        kinds = [inputs.parts[name] for name in inputs.order]
    if len(files) != len(kinds):
        raise ValueError(f"expected {len(kinds)} files with --input, got {len(files)}")
    found = []
    for file, kind in zip(files, kinds, strict=True):
        try:
            found.append(_read(file, kind)[None])
        except OSError as error:
            raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    return found if isinstance(inputs, Phases) else found[0]


def _read(file: Path, kind: Tokens | Image | Numbers) -> Tensor:
    if isinstance(kind, Image):
        return _read_picture(file, kind)
    if file.suffix != ".json":
        raise ValueError(f"expected a .json file with a row of {kind.kind}")
    data = json.loads(file.read_text(encoding="utf-8"))
    return _tokens(data, kind) if isinstance(kind, Tokens) else _numbers(data, kind)


def _read_picture(file: Path, kind: Image) -> Tensor:
    if file.suffix == ".npy":
        data = np.load(file, allow_pickle=False)
        picture = np.asarray(data[None] if data.ndim == 2 else data, dtype=np.float32)
    elif file.suffix == ".png":
        picture = _read_png(file, kind.channels)
    else:
        raise ValueError("expected a picture as .png or .npy file")
    shrink = 2 ** len(kind.pools)
    if picture.ndim != 3 or len(picture) != kind.channels or min(picture.shape[1:]) < shrink:
        raise ValueError(
            f"expected a picture of {kind.channels} channels and about {kind.height} x "
            f"{kind.width} pixels (channels, height, width), got {picture.shape}"
        )
    if not np.isfinite(picture).all():
        raise ValueError("expected finite numbers")
    return torch.from_numpy(picture)


def _read_png(file: Path, channels: int) -> npt.NDArray[np.float32]:
    from PIL import Image as Pictures

    if channels not in (1, 3):
        raise ValueError(f"a .png file cannot hold {channels} channels; give a .npy file")
    with Pictures.open(file) as opened:
        pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    return (pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)) / np.float32(255)


def _tokens(data: Any, kind: Tokens) -> Tensor:
    if isinstance(data, list) and len(kind.vocabularies) == 1:
        data = [[one] if isinstance(one, int) else one for one in data]
    ids, sizes = _array(data), np.array(kind.vocabularies)
    fits = ids.shape == (kind.length, len(sizes)) and ids.dtype.kind == "i"
    if not fits or (ids < 0).any() or (ids >= sizes).any():
        each = " and ".join(f"one of 0 to {size - 1}" for size in sizes)
        raise ValueError(f"expected a list of {kind.length} tokens, each {each}, got {data}")
    return torch.from_numpy(ids)


def _numbers(data: Any, kind: Numbers) -> Tensor:
    numbers = _array(data)
    fits = numbers.shape == (kind.size,) and numbers.dtype.kind in "if"
    if not fits or not np.isfinite(numbers).all():
        raise ValueError(f"expected a list of {kind.size} finite numbers, got {data}")
    return torch.from_numpy(numbers.astype(np.float32))


def _array(data: Any) -> npt.NDArray[Any]:
    """Returns lists as an array; an empty one where they are ragged or hold something else."""
    try:
        return np.array(data)
    except ValueError:
        return np.empty(0)


def _what_counts(inputs: Inputs) -> Any:
    """Returns of inputs what a machine's parameters depend on."""
    if isinstance(inputs, Phases):
        return inputs.order, {name: _what_counts(part) for name, part in inputs.parts.items()}
    if isinstance(inputs, Image):  # convolutions are the machine's own; sizes are stretched
        return replace(inputs, height=64, width=64, widths=(1,), pools=())
    return inputs

"""Readers of weights: stored folders, memory-mapped, and adapters that are applied on the fly."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from workers.models.files import (
    STRICT,
    ModelPolicy,
    adapter_file,
    read_headers,
    read_json,
    resolve,
    weight_files,
)
from workers.models.lora import AdaptedWeights, plan_adapter
from workers.models.safetensors_file import DTYPES, ModelError, TensorFacts

#: What reading a damaged or malicious pickle raises, depending on where it is hit.
_DAMAGED = (
    *(pickle.UnpicklingError, EOFError, struct.error, RuntimeError, AssertionError),
    *(ValueError, LookupError, TypeError, AttributeError, OverflowError),
)


class Reader(Protocol):
    """Gives a model's tensors, one at a time."""

    #: The model's reference, as the user wrote it.
    reference: str

    def __iter__(self) -> Iterator[str]:
        """Gives the tensors' names."""
        ...

    def __contains__(self, name: object) -> bool: ...

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor in its stored type, on the CPU; it must not be written to.

        Raises:
            ModelError: if the model has no such tensor.
        """
        ...

    def facts(self, name: str) -> TensorFacts:
        """Returns a tensor's type, as torch names it ("bfloat16"), and shape; reads no numbers.

        Raises:
            ModelError: if the model has no such tensor.
        """
        ...


def open_weights(reference: str, policy: ModelPolicy = STRICT) -> Reader:
    """Opens a model's weights: a folder, a hub id, or either with LoRA adapters.

    Raises:
        ModelError: if the reference means nothing, files are damaged or not allowed, or an adapter
            does not fit its base.
    """
    found = resolve(reference, policy)
    files = weight_files(reference, found.folder, policy)
    reader: Reader = StoredWeights(reference, files)
    if not found.adapters:
        return reader
    config = read_json(found.folder / "config.json")
    base = {name: reader.facts(name) for name in reader}
    for folder in found.adapters:
        adapter = StoredWeights(str(folder), [adapter_file(folder, policy)])
        tensors = {name: adapter.facts(name) for name in adapter}
        plan = plan_adapter(folder, tensors, base, config)
        reader = AdaptedWeights(reference, reader, adapter, plan)
    return reader


class StoredWeights:
    """The tensors of weight files: views of the memory-mapped files, which cost no memory.

    All processes of a machine share one copy in the page cache. A view that is written to would
    change in this process alone; nobody should.
    """

    def __init__(self, reference: str, files: Sequence[Path]) -> None:
        """Maps the files; pickles are read (without running code) only if they are named here.

        Raises:
            ModelError: if a file is damaged or a tensor is in two of them.
        """
        self.reference = reference
        self._facts: dict[str, TensorFacts] = {}
        self._handles: dict[str, Any] = {}
        #: Views, made once: asking the file again takes 15 us.
        self._tensors: dict[str, torch.Tensor] = {}
        headers = read_headers(files)
        for path in files:
            if path in headers:
                handle = safe_open(path, framework="pt")
                for name, (kind, shape) in headers[path].items():
                    self._facts[name] = (DTYPES[kind][1], shape)
                    self._handles[name] = handle
            else:
                self._add_pickle(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __contains__(self, name: object) -> bool:
        return name in self._facts

    def facts(self, name: str) -> TensorFacts:
        """Returns a tensor's torch type and shape, from the file's header."""
        if name not in self._facts:
            raise ModelError(f"model {self.reference!r} has no tensor {name!r}")
        return self._facts[name]

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor as stored.

        Raises:
            ModelError: if the model has no such tensor.
        """
        self.facts(name)
        if name not in self._tensors:
            self._tensors[name] = self._handles[name].get_tensor(name)
        return self._tensors[name]

    def _add_pickle(self, path: Path) -> None:
        for name, tensor in _unpickle(path).items():
            if name in self._facts:
                raise ModelError(f"tensor {name!r} is in {path.name!r} and in another file, too")
            self._facts[name] = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            self._tensors[name] = tensor


def _unpickle(path: Path) -> dict[str, torch.Tensor]:
    """Reads a pickle of tensors; weights_only refuses everything that could run code."""
    try:
        # Files of torch before 1.6 are no archives and cannot be mapped.
        can_map = zipfile.is_zipfile(path)
        loaded = torch.load(path, weights_only=True, mmap=can_map, map_location="cpu")
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path} cannot be read as tensors alone: {reason}") from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{path}: expected tensors by name, got {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{path}: expected tensors by name, got {type(value).__name__} for {name!r}"
            )
    return dict(loaded)

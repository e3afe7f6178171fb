"""Any torch dataset as a task: two functions that return one, by their addresses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from annotated_types import Ge

from evaluators.addresses import load_function
from evaluators.base import Rows
from evaluators.ctm.inputs import Image, Numbers, Outputs, Tokens
from evaluators.ctm.pictures import Pool, shuffled, sizes, split
from evaluators.ctm.task import Batch, HeldOut
from evaluators.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

#: What a sample of a dataset may be.
Sample: TypeAlias = Tokens | Image | Numbers

SAMPLES = Registry(
    "kind of input",
    {
        "tokens": "evaluators.ctm.inputs:Tokens",
        "image": "evaluators.ctm.inputs:Image",
        "numbers": "evaluators.ctm.inputs:Numbers",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(HeldOut):
    """A dataset of pairs of a sample and its class, or its classes at several positions.

    Search and selection rows are cut from what there is to train on. All is read once, into memory:
    what a dataset does at random to a sample, it does once.

    Raises:
        ValueError: if a function gives no dataset, or a sample is not what `inputs` says.
    """

    #: Addresses of functions that return map-style datasets: package.module:function, or
    #: path/to/file.py:function.
    train: str
    test: str
    #: Keyword arguments of both.
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: What a sample is.
    inputs: Sample
    #: Classes there are; samples name them by numbers from 0.
    classes: Annotated[int, Ge(2)]
    #: Classes that a sample has, one at each position.
    positions: Annotated[int, Ge(1)] = 1

    @property
    def outputs(self) -> Outputs:
        """A class at each position."""
        return Outputs(positions=self.positions, classes=self.classes)

    @property
    def num_rows(self) -> Mapping[Rows, int]:
        """Kinds of rows there are, and how many samples each has."""
        train, test = self._datasets()
        return sizes(len(train), self.held_out, len(test))

    def open(self) -> Pool:
        """Reads all samples."""
        train, test = self._datasets()
        first, second = self._read(self.train, train), self._read(self.test, test)
        return split(shuffled(first, self.seed), second, self.num_rows)

    def _datasets(self) -> tuple[Any, Any]:
        arguments = json.dumps(dict(self.arguments), sort_keys=True)
        return _load("train", self.train, arguments), _load("test", self.test, arguments)

    def _read(self, address: str, dataset: Any) -> Batch:
        import torch

        inputs, targets = [], []
        for number in range(len(dataset)):
            try:
                sample, target = dataset[number]
                inputs.append(_sample(self.inputs, sample))
                targets.append(_classes(self.positions, self.classes, target))
            except (TypeError, ValueError) as error:
                raise ValueError(f"dataset: sample {number} of {address}: {error}") from error
        return Batch(torch.stack(inputs), torch.stack(targets))


@lru_cache(maxsize=8)
def _load(name: str, address: str, arguments: str) -> Any:
    """Returns what a function returns, once for the same arguments."""
    make = load_function(address)
    try:
        found = make(**json.loads(arguments))
    except TypeError as error:
        raise ValueError(f"{name}: {address} cannot be called: {error}") from error
    if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")) or isinstance(found, dict):
        raise ValueError(
            f"{name}: expected {address} to return a map-style dataset, with a length and samples "
            f"by number, got {type(found).__name__}"
        )
    if not len(found):
        raise ValueError(f"{name}: {address} returned an empty dataset")
    return found


def _sample(inputs: Sample, sample: Any) -> Tensor:
    """Returns a sample as inputs say.

    Raises:
        ValueError: if it has another shape, or ids that there are not.
    """
    import torch

    found = torch.as_tensor(sample)
    if isinstance(inputs, Tokens):
        return _tokens(inputs, found)
    shape: tuple[int, ...] = (
        (inputs.size,)
        if isinstance(inputs, Numbers)
        else (inputs.channels, inputs.height, inputs.width)
    )
    if found.shape != shape:
        raise ValueError(f"expected {inputs.kind} of shape {shape}, got {tuple(found.shape)}")
    return found.float()


def _tokens(inputs: Tokens, found: Tensor) -> Tensor:
    import torch

    if found.ndim == 1:
        found = found[:, None]
    shape = (inputs.length, len(inputs.vocabularies))
    if found.shape != shape or found.is_floating_point():
        raise ValueError(
            f"expected tokens, whole numbers of shape {shape}, got {found.dtype} of "
            f"{tuple(found.shape)}"
        )
    outside = (found < 0) | (found >= torch.tensor(inputs.vocabularies))
    if outside.any():
        raise ValueError(
            f"expected ids from 0 to below {list(inputs.vocabularies)}, got "
            f"{int(found[outside][0])}"
        )
    return found.long()


def _classes(positions: int, classes: int, target: Any) -> Tensor:
    """Returns the classes of a sample (positions).

    Raises:
        ValueError: if there are others, or more or fewer than positions.
    """
    import torch

    found = torch.as_tensor(target).reshape(-1)
    if found.is_floating_point() or found.shape != (positions,):
        raise ValueError(
            f"expected {positions} classes, whole numbers, got {found.dtype} of "
            f"{tuple(found.shape)}"
        )
    if found.min() < 0 or found.max() >= classes:
        raise ValueError(f"expected classes from 0 to {classes - 1}, got {found.tolist()}")
    return found.long()

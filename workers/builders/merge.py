"""Builds merges straight into a resident model: nothing is loaded twice and no disk is touched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from evaluators.base import Language
from workers.builders.settings import MergeSettings
from workers.library import ModelError, Weights, locate
from workers.methods.base import Inputs, Method, TaskVector
from workers.methods.registry import METHODS, MethodFacts
from workers.recipe import MergeRecipe


class NonFiniteWeightsError(ValueError):
    """A merge gave NaN or infinity; the message names the tensor."""


class MergeBuilder:
    """Writes merged weights into one resident model, again and again."""

    def __init__(self, settings: MergeSettings, device: str) -> None:
        transformers_logging.disable_progress_bar()
        folder = locate(settings.base, settings.policy)
        trust = settings.policy.trust_remote_code
        self._settings = settings
        self._device = device
        dtype = getattr(torch, settings.dtype)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=trust,
            use_safetensors=_safetensors_or_any(settings),
        )
        self.language = Language(
            model=model.to(device).eval(),
            tokenizer=AutoTokenizer.from_pretrained(folder, trust_remote_code=trust),
        )
        self._sources: dict[str, Weights] = {}
        self._vectors = VectorCache()
        self._targets = self._find_targets()

    def build(self, recipe: MergeRecipe) -> Language:
        """Returns the resident model with the recipe's weights in it.

        Raises:
            ValueError: if the recipe does not fit the models or gives numbers that are not finite.
        """
        if recipe.dtype != self._settings.dtype:
            raise ValueError(f"recipe is {recipe.dtype}, the resident model {self._settings.dtype}")
        merge = TensorMerge(recipe, self._open, self._device, self._vectors)
        with torch.inference_mode():
            for name, target in self._targets.items():
                target.copy_(merge.tensor(name))
        return self.language

    def _open(self, reference: str) -> Weights:
        if reference not in self._sources:
            self._sources[reference] = Weights(reference, self._settings.policy)
        return self._sources[reference]

    def _find_targets(self) -> Mapping[str, torch.Tensor]:
        """Pairs each stored tensor with the resident model's; tied ones are stored once."""
        resident = self.language.model.state_dict(keep_vars=False)
        stored = set(self._open(self._settings.base))
        tied = set(getattr(self.language.model, "_tied_weights_keys", None) or ())
        missing = sorted(set(resident) - stored - tied)
        unknown = sorted(stored - set(resident))
        if missing or unknown:
            raise ModelError(
                f"the weights of {self._settings.base!r} do not correspond to its architecture by "
                f"name: {len(missing)} tensors without weights, {len(unknown)} without a place "
                f"(such as {', '.join((missing + unknown)[:3])})"
            )
        places: dict[int, str] = {}
        for name in resident:  # a tied tensor that is stored twice is written once, as the first
            if name in stored:
                places.setdefault(resident[name].data_ptr(), name)
        return {name: resident[name] for name in places.values()}


class VectorCache:
    """Task vectors kept from candidate to candidate, as far as memory goes.

    What a source differs by, and how its entries rank, is the same for every candidate.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._left_bytes = limit_bytes if limit_bytes is not None else physical // 16
        self._kept: dict[tuple[str, str, str], TaskVector] = {}

    def get(self, key: tuple[str, str, str], compute: Callable[[], torch.Tensor]) -> TaskVector:
        """Returns the task vector of (base, source, tensor)."""
        if key in self._kept:
            return self._kept[key]
        delta = compute()
        need_bytes = 2 * delta.numel() * delta.element_size()  # itself and its ranks
        if delta.device.type != "cpu" or need_bytes > self._left_bytes:
            return TaskVector(delta)
        self._left_bytes -= need_bytes
        self._kept[key] = TaskVector(delta)
        return self._kept[key]


class _Sources(Sequence[torch.Tensor]):
    """Sources' tensors, read only when a method asks for them."""

    def __init__(self, readers: Sequence[Callable[[], torch.Tensor]]) -> None:
        self._readers = readers

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [read() for read in self._readers[index]]
        return self._readers[index]()

    def __len__(self) -> int:
        return len(self._readers)


class TensorMerge:
    """One recipe, ready to give any of its tensors."""

    def __init__(
        self,
        recipe: MergeRecipe,
        open_weights: Callable[[str], Weights],
        device: str,
        vectors: VectorCache,
    ) -> None:
        self._vectors = vectors
        self._recipe = recipe
        self._method = cast("Method", METHODS.load(recipe.method)())
        self._facts = METHODS.facts(recipe.method)
        self._options = {**self._facts.options, **recipe.options}
        self._base = open_weights(recipe.base)
        self._sources = [open_weights(source) for source in recipe.sources]
        self._device = device
        _check_options(recipe, self._facts)

    def tensor(self, name: str) -> torch.Tensor:
        """Returns one merged tensor in the recipe's type.

        Raises:
            ValueError: if shapes or values do not fit, or the result is not finite.
        """
        base = self._base.tensor(name)
        if not base.is_floating_point():
            return base
        shape = base.shape
        origin = base.to(self._device, torch.float32)
        readers = [partial(self._read, source, name, shape) for source in self._sources]

        def kept(index: int) -> TaskVector:
            key = (self._recipe.base, self._recipe.sources[index], name)
            return self._vectors.get(key, lambda: readers[index]() - origin)

        inputs = Inputs(
            sources=_Sources(readers),
            base=origin,
            kept=kept,
            values=_checked_values(self._recipe, self._facts, name),
            options=self._options,
            uniforms=lambda index: self._uniforms(name, index, shape),
        )
        merged = self._method.merge(inputs).to(getattr(torch, self._recipe.dtype))
        if not bool(torch.isfinite(merged).all()):
            raise NonFiniteWeightsError(f"tensor {name!r} of the merge is not finite")
        return merged

    def _read(self, source: Weights, name: str, shape: torch.Size) -> torch.Tensor:
        tensor = source.tensor(name)
        if tensor.shape != shape:
            raise ModelError(
                f"tensor {name!r} of {source.reference!r} has shape {list(tensor.shape)}, "
                f"the base's {list(shape)}"
            )
        return tensor.to(self._device, torch.float32)

    def _uniforms(self, name: str, index: int, shape: torch.Size) -> torch.Tensor:
        """Drawn on the CPU whatever the device, so that a recipe is the same model everywhere."""
        text = f"{self._recipe.seed}|{name}|{index}"
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(shape, generator=generator).to(self._device)


def _checked_values(
    recipe: MergeRecipe, facts: MethodFacts, tensor: str
) -> Mapping[str, tuple[float, ...]]:
    values = recipe.values(tensor)
    for parameter in facts.parameters:
        given: Sequence[float] = values.get(parameter.name, ())
        expected = len(recipe.sources) if parameter.per == "source" else 1
        if len(given) != expected:
            raise ValueError(
                f"{recipe.method} needs {expected} values of {parameter.name!r} for {tensor!r}, "
                f"the recipe has {len(given)}"
            )
        for value in given:
            if not parameter.accepts(value):
                raise ValueError(
                    f"{parameter.name} {value} is outside {parameter.describe()} for {tensor!r}"
                )
    return values


def _check_options(recipe: MergeRecipe, facts: MethodFacts) -> None:
    unknown = sorted(set(recipe.options) - set(facts.options))
    if unknown:
        raise ValueError(f"{recipe.method} has no option {unknown[0]!r}")
    if facts.num_sources not in (None, len(recipe.sources)):
        raise ValueError(
            f"{recipe.method} merges exactly {facts.num_sources} sources, got {len(recipe.sources)}"
        )


def _safetensors_or_any(settings: MergeSettings) -> Any:
    """Whether transformers may fall back to pickled weights (None) or must not (True)."""
    return None if settings.policy.allow_pickle else True

"""Builds merges straight into a resident model: nothing is loaded twice and no disk is touched."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils import logging as transformers_logging

from evaluators.base import Language
from workers.builders.settings import MergeSettings
from workers.merging.residence import Residence
from workers.merging.tensors import TensorMerge
from workers.merging.workshop import NonFiniteWeightsError, Workshop
from workers.models.layers import in_layer
from workers.models.layouts import layer_changes
from workers.models.library import ModelError, locate
from workers.models.tokenizer_files import write_tokenizer
from workers.models.vocabulary import Alignment
from workers.models.weights import Reader
from workers.recipe import MergeRecipe
from workers.scaled_inputs import scale_inputs, scales_by_module

__all__ = ["MergeBuilder", "NonFiniteWeightsError"]


class MergeBuilder:
    """Turns one resident model into one recipe's model after another.

    Merges with the base's layers are written over the resident weights, and only where the recipe
    differs from the one before. For models of other layers (data-flow space) the resident model's
    modules are replaced; a layer that is taken as it is shares its source's memory.
    """

    def __init__(self, settings: MergeSettings, device: str) -> None:
        transformers_logging.disable_progress_bar()
        folder = locate(settings.base, settings.policy)
        trust = settings.policy.trust_remote_code
        self._settings = settings
        self._device = device
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=trust,
            use_safetensors=_safetensors_or_any(settings),
        )
        model = model.to(device).eval()  # first of all: sources get of what memory is left
        self.workshop = Workshop(settings.policy, Residence(device, settings.resident))
        num_rows = len(self._alignment().tokens) if settings.tokenizer == "union" else None
        if num_rows is not None:
            model.resize_token_embeddings(num_rows, mean_resizing=False)
        self.resident = Language(model=model, tokenizer=self._open_tokenizer())
        self._config = dict(vars(model.config))  # as it was, for models of other layers
        self._own_layers = tuple(range(int(model.config.num_hidden_layers)))
        #: Tensors that may be written over, or None while some belong to sources.
        self._targets: Mapping[str, torch.Tensor] | None = self._find_targets()
        self._written: dict[str, Hashable] = {}

    def build(self, recipe: MergeRecipe) -> Language:
        """Returns the resident model with the recipe's weights in it.

        Raises:
            ValueError: if the recipe does not fit the models or gives numbers that are not finite.
        """
        if recipe.dtype != self._settings.dtype:
            raise ValueError(f"recipe is {recipe.dtype}, the resident model {self._settings.dtype}")
        merge = TensorMerge(recipe, self.workshop)
        with torch.inference_mode():
            is_own = merge.origins() == self._own_layers and not recipe.input_scales
            if self._targets is not None and is_own:
                self._overwrite(merge, self._targets)
            else:
                self._replace(merge)
        return self.resident

    def place(self, weights: Reader) -> Language:
        """Returns the resident model with weights that are ready, of the base's architecture.

        Args:
            weights: The model's tensors; a reference tells it from all others.
        """
        assert self._targets is not None, "only recipes give models of other layers"
        signatures: dict[str, Hashable] = {
            name: (weights.reference, name) for name in self._targets
        }
        with torch.inference_mode():
            for name, target in self._targets.items():
                if self._written.pop(name, None) != signatures[name]:
                    target.copy_(weights.tensor(name))
        self._written = signatures
        return self.resident

    def _alignment(self) -> Alignment:
        settings = self._settings
        models = tuple(dict.fromkeys([settings.base, *settings.models]))
        return self.workshop.align(settings.tokenizer, models)

    def _open_tokenizer(self) -> Any:
        """Returns the tokenizer that an exported model would have."""
        settings = self._settings
        folder = locate(settings.base, settings.policy)
        trust = settings.policy.trust_remote_code
        if settings.tokenizer == "base" and settings.chat_template == "base":
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        folders = {model: self.workshop.facts(model).folder for model in settings.models}
        with TemporaryDirectory() as made:
            write_tokenizer(
                self._alignment(),
                folder,
                folders,
                Path(made),
                settings.chat_template,
                with_code=trust,
            )
            return AutoTokenizer.from_pretrained(made, trust_remote_code=trust)

    def _overwrite(self, merge: TensorMerge, targets: Mapping[str, torch.Tensor]) -> None:
        signatures = {name: merge.signature(name) for name in targets}
        changed = {
            name: target
            for name, target in targets.items()
            if self._written.get(name) != signatures[name]
        }
        for name in changed:  # if writing fails midway, nothing is known of them
            self._written.pop(name, None)
        merge.write(changed)
        self._written = signatures

    def _replace(self, merge: TensorMerge) -> None:
        """Gives the resident model the modules of a model of these layers.

        The model object stays the same, because evaluators hold it.
        """
        weights = {name: merge.tensor(name) for name in merge.names()}
        resident = self.resident.model
        changed = {**self._config, **layer_changes(self._config, merge.origins())}
        config = deepcopy(resident.config)  # if what follows fails, the resident model stays whole
        for key, value in changed.items():
            setattr(config, key, value)
        with torch.device("meta"):
            made = type(resident)(config)
        names = _module_names(made, weights)
        made.load_state_dict(
            {names[name]: tensor for name, tensor in weights.items()}, strict=False, assign=True
        )
        made.tie_weights()
        _place_buffers(made, resident)
        missing = [name for name, held in made.state_dict().items() if held.is_meta]
        if missing:
            raise ModelError(
                f"the recipe gives no weights for {len(missing)} tensors: {missing[0]}"
            )
        made.requires_grad_(False).eval()
        scale_inputs(made, scales_by_module(names.values(), merge.recipe.input_scales))
        self._targets = None
        for key, value in changed.items():
            setattr(resident.config, key, value)
        resident._modules.clear()
        resident._modules.update(made._modules)

    def _find_targets(self) -> Mapping[str, torch.Tensor]:
        """Pairs each stored tensor with the resident model's; tied ones are stored once."""
        resident = self.resident.model.state_dict(keep_vars=False)
        names = _module_names(self.resident.model, self.workshop.reader(self._settings.base))
        stored = {module: name for name, module in names.items()}
        tied = set(getattr(self.resident.model, "_tied_weights_keys", None) or ())
        missing = sorted(set(resident) - set(stored) - tied)
        unknown = sorted(name for name, module in names.items() if module not in resident)
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
        return {stored[name]: resident[name] for name in places.values()}


def _module_names(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """Returns what a model calls tensors that its architecture's files may have other names for.

    Such as `embed_out.weight` of GPT-NeoX, which transformers has as `lm_head.weight`.
    """
    known = model.state_dict()
    renamings = [
        one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)
    ]
    return {
        name: name
        if name in known
        else rename_source_key(name, renamings, [], model.base_model_prefix, known)[0]
        for name in stored
    }


def _place_buffers(made: Any, resident: Any) -> None:
    """Gives a new model the buffers that are computed, not stored (rotary frequencies).

    Those of layers are the same in all layers.
    """
    known = dict(resident.named_buffers())
    for name, buffer in list(made.named_buffers()):
        if not buffer.is_meta:
            continue
        found = known.get(name, known.get(in_layer(name, 0)))
        if found is None:
            raise ModelError(f"buffer {name!r} of {type(made).__name__} cannot be computed")
        owner, _, last = name.rpartition(".")
        made.get_submodule(owner).register_buffer(last, found, persistent=False)


def _safetensors_or_any(settings: MergeSettings) -> Any:
    """Whether transformers may fall back to pickled weights (None) or must not (True)."""
    return None if settings.policy.allow_pickle else True

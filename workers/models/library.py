"""Source models: found and inspected by their JSON and headers; no torch, and no weights are read.

`workers.models.weights` opens what is inspected here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.models.checksums import read_into
from workers.models.files import (
    ADAPTER_CONFIG,
    ModelPolicy,
    adapter_file,
    locate,
    read_headers,
    read_json,
    resolve,
    weight_files,
)
from workers.models.layers import is_before_layers, layer_of
from workers.models.layouts import NUM_LAYERS, text_section
from workers.models.lora import plan_adapter
from workers.models.lora_settings import read_settings
from workers.models.safetensors_file import DTYPES, ModelError, TensorFacts, read_header
from workers.models.vocabulary import is_vocabulary_tensor

__all__ = [
    "ModelError",
    "ModelFacts",
    "ModelPolicy",
    "TensorLayout",
    "check_family",
    "digest",
    "inspect",
    "layer_groups",
    "locate",
    "read_header",
    "stored_bytes",
    "weight_files",
]

_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model from its folder's JSON and headers."""

    #: The reference as the user wrote it.
    reference: str
    #: Folder of configuration, tokenizer and weights; the base's, where there are adapters.
    folder: Path
    config: Mapping[str, Any]
    #: Tensor name -> (safetensors dtype, shape); empty for pickled weights.
    tensors: Mapping[str, TensorFacts]
    #: Token -> id; None if the folder has no tokenizer that can be read without running it.
    vocabulary: Mapping[str, int] | None
    #: Folders of LoRA adapters, in the order in which they are applied.
    adapters: tuple[Path, ...] = ()

    @property
    def architecture(self) -> str:
        """The transformers class that the configuration names."""
        return str((self.config.get("architectures") or [self.config.get("model_type")])[0])

    @property
    def num_layers(self) -> int:
        """Number of transformer layers."""
        settings = text_section(self.config)
        for key in NUM_LAYERS:
            if settings.get(key) is not None:
                return int(settings[key])
        layers = {layer_of(name) for name in self.tensors} - {None}
        return len(layers)

    @property
    def hidden_size(self) -> int | None:
        """Width of the residual stream, where the configuration names it."""
        settings = text_section(self.config)
        widths = [settings[key] for key in _WIDTHS if settings.get(key) is not None]
        return int(widths[0]) if widths else None

    @property
    def num_parameters(self) -> int:
        """Numbers stored in the weight files."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The type of most of the weights, as torch names it."""
        kinds = [kind for kind, _ in self.tensors.values()]
        most = max(sorted(set(kinds)), key=kinds.count) if kinds else "F32"
        names = {"BF16": "bfloat16", "F16": "float16"}
        return names.get(most, "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLayout:
    """Which tensors a model's weight files hold, in the order in which numbers flow."""

    #: Names of the tensors before the first layer (embeddings).
    before: tuple[str, ...]
    #: Number of layers that have tensors.
    layers: int
    #: Names of the tensors of layers, with `*` for the layer's number.
    per_layer: tuple[str, ...]
    #: Names of the tensors after the last layer (final norm, output head).
    after: tuple[str, ...]


def layer_groups(facts: ModelFacts) -> TensorLayout:
    """Sorts a model's tensors by where they lie; for pickled weights there is nothing to sort."""
    outside = sorted(name for name in facts.tensors if layer_of(name) is None)
    inside = {name: layer for name in facts.tensors if (layer := layer_of(name)) is not None}
    starred = {name.replace(f".{layer}.", ".*.", 1) for name, layer in inside.items()}
    return TensorLayout(
        before=tuple(name for name in outside if is_before_layers(name)),
        layers=len(set(inside.values())),
        per_layer=tuple(sorted(starred)),
        after=tuple(name for name in outside if not is_before_layers(name)),
    )


def inspect(reference: str, policy: ModelPolicy) -> ModelFacts:
    """Reads what a folder says of its model; loads no weights and runs no code.

    Of a reference with LoRA adapters the base is described, after checking that they fit it.

    Raises:
        ModelError: if the folder is missing, has no usable weights, holds what is not allowed, or
            is of an architecture whose layers cannot be told apart by number.
    """
    found = resolve(reference, policy)
    config_file = found.folder / "config.json"
    if not config_file.is_file():
        raise ModelError(f"model folder {reference!r} has no config.json")
    config = read_json(config_file)
    _refuse_code(reference, found.folder, config, policy)
    headers = read_headers(weight_files(reference, found.folder, policy))
    facts = ModelFacts(
        reference=reference,
        folder=found.folder,
        config=config,
        tensors={name: about for held in headers.values() for name, about in held.items()},
        vocabulary=_vocabulary(found.folder),
        adapters=found.adapters,
    )
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"model {reference!r} ({facts.architecture}) has an encoder and a decoder, each with a "
            "layer 0; expected a model with one stack of layers"
        )
    for adapter in found.adapters:
        _check_adapter(adapter, facts, policy)
    return facts


def digest(facts: ModelFacts, policy: ModelPolicy) -> str:
    """Returns a hash of the weights' and the configuration's bytes: the source's revision.

    Adapters count with their weights and configurations, too. Files that come with a checksum
    (the hub's cache, a `SHA256SUMS` file) are compared with it as they are read.

    Raises:
        ModelError: naming a file whose checksum differs.
    """
    hasher = hashlib.blake2b(digest_size=16)
    files = [facts.folder / "config.json"]
    files += weight_files(facts.reference, facts.folder, policy)
    for adapter in facts.adapters:
        files += [adapter / ADAPTER_CONFIG, adapter_file(adapter, policy)]
    for path in files:
        hasher.update(path.name.encode())
        read_into(hasher, path)
    return hasher.hexdigest()


def check_family(
    base: ModelFacts, sources: Sequence[ModelFacts], *, aligns_tokens: bool = False
) -> None:
    """Checks that all models are of one architecture and speak one vocabulary.

    Args:
        base: What the others are compared with.
        sources: The others.
        aligns_tokens: Whether vocabularies may differ, because rows will be put where the merged
            model has them (see `workers.models.vocabulary`).

    Raises:
        ModelError: naming the first model that differs from the base, in what, and by how much.
    """
    for source in sources:
        pair = f"{source.reference!r} and {base.reference!r}"
        for what in ("architecture", "hidden_size", "num_layers"):
            ours, theirs = getattr(base, what), getattr(source, what)
            if ours != theirs:
                raise ModelError(f"{pair} differ in {what}: {theirs} and {ours}; cannot merge them")
        _check_tensors(pair, base, source, may_differ=aligns_tokens)
        if not aligns_tokens:
            _check_vocabulary(pair, base, source)


def stored_bytes(facts: ModelFacts) -> int:
    """Returns the bytes of a model's weights as stored."""
    return sum(math.prod(shape) * DTYPES[kind][0] for kind, shape in facts.tensors.values())


def _check_adapter(adapter: Path, facts: ModelFacts, policy: ModelPolicy) -> None:
    """Plans an adapter, as far as headers go; pickles are found out when the weights are read."""
    read_settings(adapter)
    file = adapter_file(adapter, policy)
    if facts.tensors and file.suffix == ".safetensors":
        base = {name: (DTYPES[kind][1], shape) for name, (kind, shape) in facts.tensors.items()}
        plan_adapter(adapter, read_header(file), base, facts.config)


def _refuse_code(
    reference: str, folder: Path, config: Mapping[str, Any], policy: ModelPolicy
) -> None:
    if policy.trust_remote_code:
        return
    code = sorted(path.name for path in folder.glob("*.py"))
    if code or config.get("auto_map"):
        what = code[0] if code else "auto_map in config.json"
        raise ModelError(
            f"model {reference!r} brings code of its own ({what}), which is never run unless "
            "space.trust_remote_code: true"
        )


def _vocabulary(folder: Path) -> dict[str, int] | None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    loaded = read_json(path)
    vocabulary = loaded.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # unigram models list (token, score) in the order of ids
        tokens = {str(entry[0]): index for index, entry in enumerate(vocabulary)}
    else:
        tokens = {str(token): int(index) for token, index in vocabulary.items()}
    for added in loaded.get("added_tokens", []):
        tokens[str(added["content"])] = int(added["id"])
    return tokens


def _check_tensors(pair: str, base: ModelFacts, source: ModelFacts, *, may_differ: bool) -> None:
    if not base.tensors or not source.tensors:
        return  # pickled: found out when the weights are read
    for name in sorted(set(base.tensors) | set(source.tensors)):
        if name not in base.tensors or name not in source.tensors:
            owner = base if name in base.tensors else source
            raise ModelError(f"{pair} differ: only {owner.reference!r} has tensor {name!r}")
        ours, theirs = base.tensors[name][1], source.tensors[name][1]
        first = 1 if may_differ and is_vocabulary_tensor(name) else 0
        if ours[first:] != theirs[first:]:
            raise ModelError(
                f"{pair} differ in the shape of {name!r}: {list(theirs)} and {list(ours)}"
            )


def _check_vocabulary(pair: str, base: ModelFacts, source: ModelFacts) -> None:
    if base.vocabulary is None or source.vocabulary is None:
        return
    if base.vocabulary == source.vocabulary:
        return
    ours, theirs = base.vocabulary, source.vocabulary
    only = sorted(set(theirs) - set(ours))
    missing = sorted(set(ours) - set(theirs))
    moved = sorted(token for token in set(ours) & set(theirs) if ours[token] != theirs[token])
    examples = ", ".join(repr(token) for token in (only + missing + moved)[:3])
    raise ModelError(
        f"the vocabularies of {pair} differ: {len(only)} tokens only in the former, "
        f"{len(missing)} only in the latter, {len(moved)} with another id (such as {examples})"
    )

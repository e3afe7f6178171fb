"""Source models: found, inspected and opened without copying.

Inspecting reads JSON and safetensors headers only, no torch; opening memory-maps the weights, so
that all evaluators of a node share one physical copy and nothing a candidate does can change it.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from workers.recipe import layer_of

if TYPE_CHECKING:
    import torch

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
#: Pickles that hold weights, as transformers writes them; others are a trainer's leftovers.
_PICKLED_WEIGHTS = "pytorch_model*.bin"
_NUM_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"]
_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class ModelError(ValueError):
    """A model folder that cannot be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """What the user allows model folders to contain."""

    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model from its folder's JSON and headers."""

    #: The reference as the user wrote it.
    reference: str
    folder: Path
    config: Mapping[str, Any]
    #: Tensor name -> (safetensors dtype, shape); empty for pickled weights.
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    #: Token -> id; None if the folder has no tokenizer that can be read without running it.
    vocabulary: Mapping[str, int] | None

    @property
    def architecture(self) -> str:
        """The transformers class that the configuration names."""
        return str((self.config.get("architectures") or [self.config.get("model_type")])[0])

    @property
    def num_layers(self) -> int:
        """Number of transformer layers."""
        settings = self._text_config()
        for key in _NUM_LAYERS:
            if key in settings:
                return int(settings[key])
        layers = {layer_of(name) for name in self.tensors} - {None}
        return len(layers)

    @property
    def hidden_size(self) -> int | None:
        """Width of the residual stream, where the configuration names it."""
        settings = self._text_config()
        width = settings.get("hidden_size", settings.get("n_embd"))
        return None if width is None else int(width)

    @property
    def num_parameters(self) -> int:
        """Numbers stored in the weight files."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The type of most of the weights, as torch names it."""
        kinds = [kind for kind, _ in self.tensors.values()]
        most = max(set(kinds), key=kinds.count) if kinds else "F32"
        names = {"BF16": "bfloat16", "F16": "float16"}
        return names.get(most, "float32")

    def _text_config(self) -> Mapping[str, Any]:
        nested = self.config.get("text_config")
        return nested if isinstance(nested, dict) else self.config


def locate(reference: str, policy: ModelPolicy = ModelPolicy()) -> Path:
    """Returns the folder of a model: a local path, or a hub id with an optional `@revision`.

    Only files that the policy allows are fetched from the hub.

    Raises:
        ModelError: if there is neither.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder
    name, _, revision = reference.partition("@")
    looks_local = reference.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_local:
        raise ModelError(f"model folder {reference!r} does not exist (from {Path.cwd()})")
    from huggingface_hub import snapshot_download

    patterns = [*_HUB_FILES]
    patterns += [_PICKLED_WEIGHTS] if policy.allow_pickle else []
    patterns += ["*.py"] if policy.trust_remote_code else []
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(
            f"model {reference!r} is neither a folder (from {Path.cwd()}) nor to be had from the "
            f"hub: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from error


def inspect(reference: str, policy: ModelPolicy) -> ModelFacts:
    """Reads what a folder says of its model; loads no weights and runs no code.

    Raises:
        ModelError: if the folder is missing, has no usable weights, or holds what is not allowed.
    """
    folder = locate(reference, policy)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelError(f"model folder {reference!r} has no config.json")
    config = _read_json(config_file)
    _refuse_code(reference, folder, config, policy)
    shards = weight_files(reference, folder, policy)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for shard in shards:
        if shard.suffix == ".safetensors":
            tensors.update(read_header(shard))
    return ModelFacts(
        reference=reference,
        folder=folder,
        config=config,
        tensors=tensors,
        vocabulary=_vocabulary(folder),
    )


def weight_files(reference: str, folder: Path, policy: ModelPolicy) -> list[Path]:
    """Returns a model's weight files: the index's shards, or every safetensors file.

    Raises:
        ModelError: if there is none, a shard is missing, or only pickles are there.
    """
    whole = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        shards = _shards(index)
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"model {reference!r} lacks weight file {missing[0]!r}")
        return [folder / name for name in shards]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if not pickles:
        raise ModelError(f"model folder {reference!r} has no weights (*.safetensors)")
    if not policy.allow_pickle:
        raise ModelError(
            f"model {reference!r} has only pickled weights ({pickles[0].name}), which can run "
            "code when read; convert them to safetensors, or set space.allow_pickle: true"
        )
    weights = sorted(folder.glob(_PICKLED_WEIGHTS))
    if not weights:
        raise ModelError(
            f"model {reference!r} has pickled files ({pickles[0].name}), but none is named "
            f"{_PICKLED_WEIGHTS}, as weights are"
        )
    return weights


def _shards(index: Path) -> list[str]:
    """Returns the weight files that an index names."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} names no weight files (no weight_map)")
    return sorted(set(weight_map.values()))


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns the tensors that a safetensors file declares: name -> (dtype, shape).

    Raises:
        ModelError: if the file is truncated or not safetensors.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, size)))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {
            name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in header.items()
        }
        is_whole = 8 + length + end == size
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(f"{path} is no valid safetensors file: {error}") from error
    if not is_whole:
        raise ModelError(
            f"{path} is truncated or damaged: its header promises {8 + length + end} bytes, "
            f"the file has {size}"
        )
    return tensors


def digest(facts: ModelFacts, policy: ModelPolicy) -> str:
    """Returns a hash of the weights' and the configuration's bytes: the source's revision."""
    hasher = hashlib.blake2b(digest_size=16)
    files = weight_files(facts.reference, facts.folder, policy)
    for path in [facts.folder / "config.json", *files]:
        hasher.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                hasher.update(chunk)
    return hasher.hexdigest()


def check_family(base: ModelFacts, sources: list[ModelFacts]) -> None:
    """Checks that all models are of one architecture and speak one vocabulary.

    Raises:
        ModelError: naming the first model that differs from the base, in what, and by how much.
    """
    for source in sources:
        pair = f"{source.reference!r} and {base.reference!r}"
        for what in ("architecture", "hidden_size", "num_layers"):
            ours, theirs = getattr(base, what), getattr(source, what)
            if ours != theirs:
                raise ModelError(f"{pair} differ in {what}: {theirs} and {ours}; cannot merge them")
        _check_tensors(pair, base, source)
        _check_vocabulary(pair, base, source)


class Weights:
    """A model's tensors, memory-mapped."""

    def __init__(self, reference: str, policy: ModelPolicy) -> None:
        folder = locate(reference, policy)
        self.reference = reference
        self._handles: dict[str, Any] = {}
        self._loaded: dict[str, torch.Tensor] = {}
        for path in weight_files(reference, folder, policy):
            if path.suffix == ".safetensors":
                self._map(path)
            else:
                self._unpickle(path)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._handles, *self._loaded])

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor as stored.

        Raises:
            ModelError: if the model has no such tensor.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name not in self._handles:
            raise ModelError(f"model {self.reference!r} has no tensor {name!r}")
        found: torch.Tensor = self._handles[name].get_tensor(name)
        return found

    def _map(self, path: Path) -> None:
        from safetensors import safe_open

        handle = safe_open(path, framework="pt")
        names: list[str] = cast("Any", handle).keys()
        for name in names:
            self._handles[name] = handle

    def _unpickle(self, path: Path) -> None:
        import torch

        # weights_only refuses everything but tensors and plain containers.
        self._loaded.update(torch.load(path, weights_only=True, mmap=True, map_location="cpu"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return loaded


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
    loaded = _read_json(path)
    vocabulary = loaded.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # unigram models list (token, score) in the order of ids
        tokens = {str(entry[0]): index for index, entry in enumerate(vocabulary)}
    else:
        tokens = {str(token): int(index) for token, index in vocabulary.items()}
    for added in loaded.get("added_tokens", []):
        tokens[str(added["content"])] = int(added["id"])
    return tokens


def _check_tensors(pair: str, base: ModelFacts, source: ModelFacts) -> None:
    if not base.tensors or not source.tensors:
        return  # pickled: found out when the weights are read
    for name in sorted(set(base.tensors) | set(source.tensors)):
        if name not in base.tensors or name not in source.tensors:
            owner = base if name in base.tensors else source
            raise ModelError(f"{pair} differ: only {owner.reference!r} has tensor {name!r}")
        if base.tensors[name][1] != source.tensors[name][1]:
            raise ModelError(
                f"{pair} differ in the shape of {name!r}: "
                f"{list(source.tensors[name][1])} and {list(base.tensors[name][1])}"
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


def stored_bytes(facts: ModelFacts) -> int:
    """Returns the bytes of a model's weights as stored."""
    return sum(math.prod(shape) * _DTYPES.get(kind, 1) for kind, shape in facts.tensors.values())

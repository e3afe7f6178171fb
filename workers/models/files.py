"""Where a model's files are: what a reference means, and which files hold the weights.

A reference is a folder, a hub id with an optional `@revision`, a LoRA adapter (a folder or hub id,
whose configuration names its base), or `MODEL+ADAPTER`, both parts of any of these kinds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.models.safetensors_file import ModelError, TensorFacts, read_header

ADAPTER_CONFIG = "adapter_config.json"
_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
#: Pickles that hold weights, as transformers writes them; others are a trainer's leftovers.
_PICKLED_WEIGHTS = "pytorch_model*.bin"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLED_ADAPTER = "adapter_model.bin"
_HUB_FILES = [
    *("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"),
    "SHA256SUMS",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """What the user allows model folders to contain."""

    allow_pickle: bool = False
    trust_remote_code: bool = False


STRICT = ModelPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What a reference means on this machine."""

    #: The reference as the user wrote it.
    reference: str
    #: Configuration, tokenizer and weights (of the base, where there are adapters).
    folder: Path
    #: Folders of LoRA adapters, in the order in which they are applied.
    adapters: tuple[Path, ...] = ()


def resolve(reference: str, policy: ModelPolicy = STRICT) -> Located:
    """Finds what a reference means; fetches it from the hub if it is no folder.

    Only files that the policy allows are fetched. A folder whose name holds a plus sign is taken
    as a whole if it exists.

    Raises:
        ModelError: if a part of it cannot be found.
    """
    return _resolve(reference, policy, ())


def locate(reference: str, policy: ModelPolicy = STRICT) -> Path:
    """Returns the folder that gives a model's configuration, tokenizer and (base's) weights.

    Raises:
        ModelError: if there is none.
    """
    return resolve(reference, policy).folder


def _resolve(reference: str, policy: ModelPolicy, within: tuple[Path, ...]) -> Located:
    """Resolves a reference that was met as the base of the adapters `within`."""
    if "+" in reference and not Path(reference).expanduser().is_dir():
        model, adapter = _split(reference)
        try:
            below = _resolve(model, policy, within)
            folder = _fetch(adapter, policy)
        except ModelError as error:
            raise ModelError(f"{error}; it is a part of {reference!r}") from error
        if not (folder / ADAPTER_CONFIG).is_file():
            raise ModelError(
                f"{adapter!r} in {reference!r} is no LoRA adapter: it has no {ADAPTER_CONFIG}"
            )
    else:
        folder = _fetch(reference, policy)
        if (folder / "config.json").is_file() or not (folder / ADAPTER_CONFIG).is_file():
            return Located(reference=reference, folder=folder)
        if folder in within:
            raise ModelError(f"adapter {reference!r} names itself as its base")
        below = _base_of(reference, folder, policy, (*within, folder))
    return Located(reference=reference, folder=below.folder, adapters=(*below.adapters, folder))


def _split(reference: str) -> tuple[str, str]:
    """Splits MODEL+ADAPTER; hub ids have no plus sign, so a part that has one is a folder."""
    places = [place for place, sign in enumerate(reference) if sign == "+"]
    cuts = [(reference[:place], reference[place + 1 :]) for place in reversed(places)]
    for model, adapter in cuts:
        if adapter and Path(adapter).expanduser().is_dir():
            return model, adapter
    return cuts[0]


def _base_of(
    reference: str, folder: Path, policy: ModelPolicy, within: tuple[Path, ...]
) -> Located:
    """Finds the model that an adapter's configuration names as its base."""
    config = read_json(folder / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path")
    advice = f"write the model before it: MODEL+{reference}"
    if not isinstance(base, str) or not base:
        raise ModelError(f"adapter {reference!r} names no base model; {advice}")
    if config.get("revision") and not Path(base).expanduser().is_dir():
        base = f"{base}@{config['revision']}"
    try:
        return _resolve(base, policy, within)
    except ModelError as error:
        raise ModelError(
            f"adapter {reference!r} names {base!r} as its base, but: {error}; {advice}"
        ) from error


def _fetch(reference: str, policy: ModelPolicy) -> Path:
    """Returns a local folder, or the hub's snapshot of a model."""
    folder = Path(reference).expanduser()
    if reference and folder.is_dir():
        return folder
    name, _, revision = reference.partition("@")
    looks_local = reference.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_local:
        raise ModelError(f"model folder {reference!r} does not exist (from {Path.cwd()})")
    from huggingface_hub import snapshot_download

    patterns = [*_HUB_FILES]
    patterns += [_PICKLED_WEIGHTS, _PICKLED_ADAPTER] if policy.allow_pickle else []
    patterns += ["*.py"] if policy.trust_remote_code else []
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(
            f"model {reference!r} is neither a folder (from {Path.cwd()}) nor to be had from the "
            f"hub: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from error


def weight_files(reference: str, folder: Path, policy: ModelPolicy) -> list[Path]:
    """Returns a model's weight files: the index's shards, or every safetensors file.

    Raises:
        ModelError: if there is none, a shard is missing, or only pickles are there.
    """
    whole = folder / _WHOLE
    index = folder / _INDEX
    if whole.is_file():
        return [whole]
    if index.is_file():
        shards = sorted(set(_weight_map(index).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"model {reference!r} lacks weight file {missing[0]!r}")
        return [folder / name for name in shards]
    found = sorted(folder.glob("*.safetensors"))
    found = [path for path in found if path.name != _ADAPTER_WEIGHTS]
    return found or _pickled_weights(reference, folder, policy)


def _pickled_weights(reference: str, folder: Path, policy: ModelPolicy) -> list[Path]:
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    pickles = [path for path in pickles if path.name != _PICKLED_ADAPTER]
    if not pickles:
        is_adapter = (folder / ADAPTER_CONFIG).is_file()
        advice = f"; it holds a LoRA adapter: write MODEL+{reference}" if is_adapter else ""
        raise ModelError(f"model folder {reference!r} has no weights (*.safetensors){advice}")
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


def adapter_file(folder: Path, policy: ModelPolicy) -> Path:
    """Returns the weight file of an adapter.

    Raises:
        ModelError: if there is none, or only a pickle that is not allowed.
    """
    if (folder / _ADAPTER_WEIGHTS).is_file():
        return folder / _ADAPTER_WEIGHTS
    pickle = folder / _PICKLED_ADAPTER
    if not pickle.is_file():
        raise ModelError(f"adapter folder {str(folder)!r} has no weights ({_ADAPTER_WEIGHTS})")
    if not policy.allow_pickle:
        raise ModelError(
            f"adapter {str(folder)!r} has only pickled weights ({_PICKLED_ADAPTER}), which can "
            "run code when read; convert them to safetensors, or set space.allow_pickle: true"
        )
    return pickle


def read_headers(files: Sequence[Path]) -> dict[Path, dict[str, TensorFacts]]:
    """Returns what a model's safetensors files declare, file by file; pickles are left out.

    Raises:
        ModelError: if a file is damaged, two files hold one tensor, or the folder's index names
            a tensor that is not where it says.
    """
    headers = {path: read_header(path) for path in files if path.suffix == ".safetensors"}
    homes: dict[str, str] = {}
    for path, tensors in headers.items():
        for name in tensors:
            if name in homes:
                raise ModelError(
                    f"tensor {name!r} is both in {homes[name]!r} and in {path.name!r} of "
                    f"{str(path.parent)!r}; it is not clear which one counts"
                )
            homes[name] = path.name
    if files and files[0].name != _WHOLE and (files[0].parent / _INDEX).is_file():
        _check_index(files[0].parent / _INDEX, homes)
    return headers


def _check_index(index: Path, homes: dict[str, str]) -> None:
    for name, shard in _weight_map(index).items():
        if homes.get(name) != shard:
            where = f"which is in {homes[name]!r}" if name in homes else "which no file has"
            raise ModelError(f"{index} promises tensor {name!r} in {shard!r}, {where}")


def _weight_map(index: Path) -> dict[str, str]:
    """Returns an index's map of tensor name -> file name."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} names no weight files (no weight_map)")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ModelError(
                f"{index}: expected the name of a file beside it for tensor {name!r}, got {shard!r}"
            )
    return weight_map


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        ModelError: if it is not valid or holds something else.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return loaded

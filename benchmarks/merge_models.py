"""Makes the models that the merge benchmark merges, from a seed: no training, no download.

    python benchmarks/merge_models.py FOLDER [--only llama qwen2 gpt2 llama-135m] [--seed 0]

Each family is a base and three variants of it (`FOLDER/llama/base`, `a`, `b`, `c`), in bfloat16. A
variant is the base plus noise of about a twentieth of the spread of the tensor's numbers. As in
fine-tunes the noise is uneven: some rows are left alone, some change more, and only a part of the
numbers of a row move. The tokenizer is the one of `examples/models`.
"""

from __future__ import annotations

import argparse
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

VARIANTS = ("base", "a", "b", "c")
_TOKENIZER = Path(__file__).resolve().parents[1] / "examples" / "models" / "base"
_SMALL = {"vocab_size": 99, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}


@dataclass(frozen=True)
class Family:
    """An architecture and its sizes, as its transformers configuration names them."""

    model_type: str
    sizes: dict[str, Any]


FAMILIES = {
    "llama": Family(
        "llama",
        {
            **_SMALL,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "tie_word_embeddings": False,
        },
    ),
    "qwen2": Family(
        "qwen2",
        {
            **_SMALL,
            "hidden_size": 96,
            "intermediate_size": 224,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": Family("gpt2", {**_SMALL, "n_embd": 96, "n_layer": 4, "n_head": 4, "n_positions": 128}),
    #: The shape of SmolLM2-135M.
    "llama-135m": Family(
        "llama",
        {
            **_SMALL,
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        },
    ),
}


def make(folder: Path, family: str, seed: int = 0) -> dict[str, Path]:
    """Writes the models of a family under `folder/family` unless they are there already.

    Returns:
        The folders of "base", "a", "b" and "c".
    """
    config = AutoConfig.for_model(FAMILIES[family].model_type, **FAMILIES[family].sizes)
    shapes, architecture = _shapes(config)
    config.architectures = [architecture]
    config.dtype = torch.bfloat16
    found = {}
    for variant in VARIANTS:
        found[variant] = folder / family / variant
        if not (found[variant] / "config.json").exists():
            tensors = {
                name: _variant(name, _base(name, shape, seed), variant, seed)
                for name, shape in shapes.items()
            }
            _write(found[variant], config, tensors)
    return found


def bytes_of(model: Path) -> int:
    """Returns the size of a model's weights."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))


def _shapes(config: Any) -> tuple[dict[str, tuple[int, ...]], str]:
    """Returns the tensors that a checkpoint of this configuration stores, and the class."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    seen: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        seen.setdefault(id(parameter), name)
    named = dict(model.named_parameters())
    return {name: tuple(named[name].shape) for name in seen.values()}, type(model).__name__


def _generator(*key: object) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))


def _base(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Returns the base's tensor in float32: norms about 1, all else about 0."""
    noise = torch.randn(shape, generator=_generator(seed, "base", name)) * 0.02
    is_norm = name.endswith("weight") and len(shape) == 1
    return noise + 1 if is_norm else noise


def _variant(name: str, base: torch.Tensor, variant: str, seed: int) -> torch.Tensor:
    """Returns a variant's tensor in bfloat16."""
    if variant == "base":
        return base.bfloat16()
    generator = _generator(seed, variant, name)
    rows = torch.rand((base.shape[0], *[1] * (base.dim() - 1)), generator=generator)
    strength = torch.where(rows < 0.2, 0.0, torch.where(rows > 0.9, 3.0, 1.0))
    noise = torch.randn(base.shape, generator=generator)
    moved = torch.rand(base.shape, generator=generator) < 0.6
    return (base + noise * moved * strength * (0.05 * 0.02)).bfloat16()


def _write(folder: Path, config: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a model folder; the configuration last, as the mark that it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(_TOKENIZER / name, folder / name)
    config.save_pretrained(folder)


def main() -> None:
    """Makes the families asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for family in arguments.only:
        for path in make(arguments.folder, family, arguments.seed).values():
            print(f"{path}  {bytes_of(path):,} bytes")


if __name__ == "__main__":
    main()

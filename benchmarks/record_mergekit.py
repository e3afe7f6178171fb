"""Records what mergekit computes, as fixtures for tests that run without it.

    PEER/bin/python benchmarks/record_mergekit.py [tests/data/mergekit]

PEER is the environment that `merge_peer.py` describes. A tiny tied Llama of two layers, its base
and three variants (`inputs.safetensors`, names `base/...`, `a/...`), is merged with every recipe
of `merge_recipes.py` through mergekit's own pipeline. Each recipe's file holds its tensors as
`PRECISION/NAME`, for three precisions:

- `float32`: float32 sources, no `dtype` in the recipe;
- `bfloat16`: the sources rounded to bfloat16, no `dtype`: most methods then compute in bfloat16;
- `upcast`: the same sources, `dtype: float32` and `out_dtype: bfloat16`.

Where a method keeps the largest numbers, which of several equal ones it keeps is chance (the sort
is not stable): `PRECISION/unsettled/NAME` marks these positions, where there are any.

Of recipes with random masks the file holds, in float32 alone and over many seeds, each number's
`mean`, its `std` and how often it `changed` (differs from the base), as `float32/mean/NAME` and so
on. `manifest.json` holds the versions, the model's configuration,
every recipe and the file that has its outputs, and for random ones each tensor's L1 distance from
the base: mean and deviation over the seeds, and that of the same recipe at density 1.

The inputs have ties in magnitude, zeros and numbers of both signs; what each tensor is there to
provoke is said at `_tensor`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import merge_peer
import merge_recipes
import torch
import transformers
from safetensors.torch import load_file, save_file

MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 14,
    "hidden_size": 8,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}

VARIANTS = ("base", "a", "b", "c")
SEEDS = 100
PRECISIONS: dict[str, tuple[torch.dtype, dict[str, str]]] = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {}),
    "upcast": (torch.bfloat16, {"dtype": "float32", "out_dtype": "bfloat16"}),
}

Tensors = dict[str, torch.Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the tensors that the model stores; the head is the embedding."""
    hidden, inner, kv = MODEL["hidden_size"], MODEL["intermediate_size"], MODEL["head_dim"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (MODEL["vocab_size"], hidden)}
    for layer in range(MODEL["num_hidden_layers"]):
        found |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (hidden,),
                "self_attn.q_proj": (hidden, hidden),
                "self_attn.k_proj": (kv, hidden),
                "self_attn.v_proj": (kv, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "post_attention_layernorm": (hidden,),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
            }.items()
        }
    return {**found, "model.norm.weight": (hidden,)}


def inputs() -> Tensors:
    """Returns the tensors of the base and the variants in float32, as `base/NAME` and so on."""
    generator = torch.Generator().manual_seed(20250711)
    found: Tensors = {}
    for name, shape in shapes().items():
        for model, tensor in zip(VARIANTS, _tensor(name, shape, generator), strict=True):
            found[f"{model}/{name}"] = tensor.contiguous()
    return found


def _tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> list[torch.Tensor]:
    """Returns base, a, b and c of one tensor.

    - Layer 0: multiples of 1/256 that bfloat16 holds exactly, so many changes tie in magnitude.
    - Layer 1 and the embedding: ordinary float32 numbers, a third of them unchanged.
    - Rows 3 and 4 of the embedding: no variant changes them; in the base row 5 is zero.
    - Layer 1 `v_proj`: b and c are the same. `o_proj`: a is the base.
    - Layer 1 `post_attention_layernorm`: small numbers with changes about 1e-4.
    """
    if ".0." in name:
        base = torch.randint(-200, 201, shape, generator=generator)
        changes = torch.randint(-24, 25, (3, *shape), generator=generator)
        changes *= torch.rand((3, *shape), generator=generator) < 0.6
        return [base / 256, *((base + changes).clamp(-255, 255) / 256)]
    base = torch.randn(shape, generator=generator) * 0.25
    changes = torch.randn((3, *shape), generator=generator) * 0.05
    changes *= torch.rand((3, *shape), generator=generator) < 0.67
    if "embed" in name:
        base[5] = 0
        changes[:, 3:5] = 0
    elif "v_proj" in name:
        changes[2] = changes[1]
    elif "o_proj" in name:
        changes[0] = 0
    elif "post_attention" in name:
        base, changes = base * 0.04, changes * 0.002
    return [base, *(base + changes)]


def write_models(folder: Path, dtype: torch.dtype, tensors: Tensors) -> dict[str, str]:
    """Writes the four model folders and returns them by name."""
    found = {}
    for model in VARIANTS:
        path = folder / str(dtype) / model
        path.mkdir(parents=True)
        own = {
            name.removeprefix(f"{model}/"): tensor.to(dtype)
            for name, tensor in tensors.items()
            if name.startswith(f"{model}/")
        }
        save_file(own, path / "model.safetensors", metadata={"format": "pt"})
        settings = {**MODEL, "dtype": str(dtype).removeprefix("torch.")}
        (path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        found[model] = str(path)
    return found


def merged(config: dict[str, Any], out: Path) -> tuple[Tensors, Tensors]:
    """Returns the outputs of one merge on the disk, and the unsettled positions."""
    with merge_peer.Unsettled() as seen:
        merge_peer.merge(config, str(out), copy_tokenizer=False)
    return load_file(out / "model.safetensors"), seen.positions


def drawn(config: dict[str, Any], base: Tensors) -> tuple[Tensors, dict[str, Any]]:
    """Returns statistics of a recipe with random masks, each number's and each tensor's."""
    values: dict[str, list[torch.Tensor]] = defaultdict(list)
    for seed in range(SEEDS):
        for name, tensor in merge_peer.tensors_of(config, seed).items():
            values[name].append(tensor.double())
    dense = copy.deepcopy(config)
    for model in dense["models"]:
        model["parameters"]["density"] = 1.0
    limits = merge_peer.tensors_of(dense)
    tensors, l1 = {}, {}
    for name, seen in values.items():
        one, start = torch.stack(seen), base[name].double()
        tensors[f"mean/{name}"] = one.mean(0).float()
        tensors[f"std/{name}"] = one.std(0).half()
        tensors[f"changed/{name}"] = (one != start).double().mean(0).half()
        sums = (one - start).abs().flatten(1).sum(1)
        limit = (limits[name].double() - start).abs().sum()
        l1[name] = {
            "mean": round(sums.mean().item(), 6),
            "std": round(sums.std().item(), 6),
            "dense": round(limit.item(), 6),
        }
    return tensors, l1


def recorded(
    name: str, work: Path, folders: dict[torch.dtype, dict[str, str]]
) -> tuple[Tensors, dict[str, Any]]:
    """Returns the contents of a recipe's file and its entry of the manifest."""
    template = merge_recipes.RECIPES[name]
    contents: Tensors = {}
    entry: dict[str, Any] = {"config": template, "random": name in merge_recipes.RANDOM}
    for precision, (dtype, settings) in PRECISIONS.items():
        config = merge_recipes.fill(template, folders[dtype], **settings)
        if not entry["random"]:
            tensors, unsettled = merged(config, work / precision / name)
            tensors |= {f"unsettled/{key}": mask for key, mask in unsettled.items()}
        elif precision == "float32":
            base = load_file(Path(folders[dtype]["base"]) / "model.safetensors")
            tensors, entry["l1"] = drawn(config, base)
        else:
            continue
        contents |= {f"{precision}/{key}": tensor for key, tensor in tensors.items()}
    return contents, entry


def main() -> None:
    """Writes the fixtures, each distinct set of outputs once."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/mergekit")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    tensors = inputs()
    save_file(tensors, folder / "inputs.safetensors")
    manifest: dict[str, Any] = {
        "versions": {
            "mergekit": merge_peer.version("mergekit"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "model": MODEL,
        "seeds": SEEDS,
        "recipes": {},
    }
    files: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = {
            dtype: write_models(Path(name), dtype, tensors)
            for dtype in (torch.float32, torch.bfloat16)
        }
        for recipe in merge_recipes.RECIPES:
            contents, entry = recorded(recipe, Path(name), folders)
            digest = _digest(contents)
            if digest not in files:
                files[digest] = f"{recipe}.safetensors"
                save_file(contents, folder / files[digest])
            manifest["recipes"][recipe] = {"file": files[digest], **entry}
            print(recipe, files[digest], flush=True)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    text = json.dumps(manifest, indent=1)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def _digest(tensors: Tensors) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype}".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()

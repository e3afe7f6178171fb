"""A route through two models of 30 layers, 40 layers long: right, and with a working cache.

    python benchmarks/merge_paths.py --models FOLDER

FOLDER is that of `merge.py`. The route takes layers of both models of `merge_models.py` in turns,
some twice; it is built as a worker of a campaign builds it. Its logits are compared with those of a
loop over the two models' own layers which multiplies each layer's input, and what it generates with
its cache with what full passes give. In float32: folding scales into weights is exact but for the
norms' epsilon, whose effect the second part shows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import merge_models
import torch
from transformers import AutoModelForCausalLM

from workers.builders.settings import MergeSettings
from workers.models.folding import branches_of
from workers.paths import Hop, path_recipe

LAYERS, LENGTH, TOKENS, NEW = 30, 40, 64, 16


def main() -> None:
    """Prints differences and times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    arguments = parser.parse_args()
    found = merge_models.make(arguments.models, "llama-135m")
    folders = [str(found[name].resolve()) for name in ("a", "b")]
    tokens = torch.randint(0, 49_000, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    builder = MergeSettings(base=folders[0], dtype="float32").open("cpu")
    models = [
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32).eval() for one in folders
    ]
    for is_scaled in (False, True):
        hops = _hops(is_scaled=is_scaled)
        recipe = path_recipe(
            hops,
            sources=folders,
            base=folders[0],
            dtype="float32",
            branches=branches_of("LlamaForCausalLM", models[0].config.to_dict()),
        )
        started = time.perf_counter()
        model = builder.build(recipe).model
        seconds = time.perf_counter() - started
        with torch.inference_mode():
            ours, expected = model(tokens).logits, _by_hand(models, hops, tokens)
            is_same = _generates_the_same(model, tokens)
        print(
            f"{len(hops)} layers of 2 x {LAYERS}, {'' if is_scaled else 'not '}scaled: built in "
            f"{seconds:.2f} s; logits differ by {float((ours - expected).abs().max()):.1e} of "
            f"{float(expected.abs().max()):.1f} at most; with its cache it generates "
            f"{'the same' if is_same else 'OTHER'} {NEW} tokens"
        )


def _hops(*, is_scaled: bool) -> list[Hop]:
    """Returns a route that takes six layers of each model in turns, two of them twice."""
    places = [(turn % 2, layer) for turn in range(6) for layer in range(turn * 5, turn * 5 + 5)]
    places += [(1, layer) for layer in (10, 11, 11, 12)] + [(0, layer) for layer in range(24, 30)]
    scales = torch.rand(LENGTH, generator=torch.Generator().manual_seed(2)) * 0.4 + 0.8
    return [
        Hop(source=model, layer=layer, scale=float(scale) if is_scaled else 1.0)
        for (model, layer), scale in zip(places, scales, strict=True)
    ]


def _by_hand(models: list[Any], hops: list[Hop], tokens: torch.Tensor) -> torch.Tensor:
    first = models[0].model
    hidden = first.embed_tokens(tokens)
    places = torch.arange(tokens.shape[1])[None]
    rotary = first.rotary_emb(hidden, places)
    for hop in hops:
        layer = models[hop.source].model.layers[hop.layer]
        found = layer(
            hidden * hop.scale,
            attention_mask=None,
            position_ids=places,
            position_embeddings=rotary,
        )
        hidden = found[0] if isinstance(found, tuple) else found
    logits: torch.Tensor = models[0].lm_head(first.norm(hidden))
    return logits


def _generates_the_same(model: Any, tokens: torch.Tensor) -> bool:
    """Whether generation with the cache gives what a full pass for each token does."""
    made = model.generate(tokens, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    grown = tokens
    for _ in range(NEW):
        following = model(grown, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        grown = torch.cat([grown, following], 1)
    return torch.equal(made, grown)


if __name__ == "__main__":
    main()

"""Where a tensor lies in a model, read from its name alone."""

from __future__ import annotations

import re

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
#: Embeddings of tokens, positions and token types; `embed_out` is GPT-NeoX's output head.
_BEFORE_LAYERS = re.compile(r"embed(?!_out)|wte|wpe")


def layer_of(tensor: str) -> int | None:
    """Returns the layer that a tensor's name puts it in, or None."""
    found = _LAYER.search(tensor)
    return int(found.group(1)) if found else None


def layer_module(tensor: str) -> str | None:
    """Returns the name of the module that is a tensor's layer, or None outside of layers."""
    found = _LAYER.search(tensor)
    return tensor[: found.end(1)] if found else None


def in_layer(tensor: str, layer: int) -> str:
    """Returns the name of the same tensor in another layer; a name outside layers as it is."""
    found = _LAYER.search(tensor)
    if found is None:
        return tensor
    start, stop = found.span(1)
    return f"{tensor[:start]}{layer}{tensor[stop:]}"


def is_before_layers(tensor: str) -> bool:
    """Whether a tensor outside of layers comes before them (embeddings) or after (norm, head)."""
    return _BEFORE_LAYERS.search(tensor) is not None

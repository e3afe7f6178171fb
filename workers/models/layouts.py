"""What a model's configuration says of its layers, for models with other layers than their base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Keys by which configurations give the number of layers.
NUM_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def text_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of a configuration that is about the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def layer_changes(config: Mapping[str, Any], origins: Sequence[int]) -> dict[str, Any]:
    """Returns what a configuration must say for a model of other layers.

    Args:
        config: The section about the language model.
        origins: For each layer of the new model, which of the old one's it is.

    Returns:
        The number of layers, and each list that has an entry a layer (such as `layer_types`).
    """
    counts = {key: int(config[key]) for key in NUM_LAYERS if isinstance(config.get(key), int)}
    if not counts:
        raise ValueError(f"the configuration does not say how many layers there are ({NUM_LAYERS})")
    old = next(iter(counts.values()))
    if tuple(origins) == tuple(range(old)):
        return {}
    changes: dict[str, Any] = dict.fromkeys(counts, len(origins))
    for key, value in config.items():
        is_per_layer = isinstance(value, list | tuple) and len(value) == old and old > 1
        if not is_per_layer or key == "architectures":
            continue
        if max(origins) < old:
            changes[key] = [value[origin] for origin in origins]
        elif all(one == value[0] for one in value):  # layers of a longer model of the same kind
            changes[key] = [value[0]] * len(origins)
    return changes

"""Models whose layers' inputs are scaled where no weight can hold that.

Scales fold into weights where every branch begins with a norm (`workers.models.folding`). Elsewhere
a model of the same class multiplies them in; the exported folder then brings that class along.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from workers.models.layers import layer_module, layer_of

#: Of the file that an exported folder brings, and of what its configuration holds.
MODULE = "modeling_scaled_inputs"
KEY = "layer_input_scales"

_SOURCE = '''"""{architecture} whose layers scale their inputs, as its configuration says."""

from __future__ import annotations

from transformers import {architecture}


{scaling}

class ScaledInputsConfig({architecture}.config_class):
    model_type = "{model_type}"


class ScaledInputs{architecture}({architecture}):
    config_class = ScaledInputsConfig

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        modules = dict(self.named_modules())
        for name, scale in config.{key}.items():
            layer = modules.get(name) or modules[f"{{self.base_model_prefix}}.{{name}}"]
            layer.register_forward_pre_hook(scaling(scale), with_kwargs=True)
'''


def scales_by_module(names: Iterable[str], scales: tuple[float, ...]) -> dict[str, float]:
    """Returns layer's module -> what its input is multiplied by.

    Args:
        names: The model's tensors.
        scales: One for each layer.
    """
    modules = {layer_of(name): layer_module(name) for name in names}
    return {str(modules[layer]): scale for layer, scale in enumerate(scales) if modules.get(layer)}


def scale_inputs(model: Any, scales: Mapping[str, float]) -> None:
    """Makes a model's layers multiply their inputs; the modules are the model's own."""
    for name, scale in scales.items():
        layer = model.get_submodule(name)
        layer.register_forward_pre_hook(scaling(scale), with_kwargs=True)


def with_code(config: Mapping[str, Any], scales: Mapping[str, float]) -> dict[str, Any]:
    """Returns a configuration that says the scales and where the class is that knows them.

    The model's type is one of its own: under the old one the old class would load it, unscaled.
    """
    architecture = f"ScaledInputs{config['architectures'][0]}"
    return {
        **config,
        "architectures": [architecture],
        "model_type": _type_of(config),
        "auto_map": {
            "AutoConfig": f"{MODULE}.ScaledInputsConfig",
            "AutoModelForCausalLM": f"{MODULE}.{architecture}",
        },
        KEY: dict(scales),
    }


def source_of(config: Mapping[str, Any]) -> str:
    """Returns the Python file of the class for a configuration without scales."""
    architecture = config["architectures"][0]
    return _SOURCE.format(
        architecture=architecture,
        key=KEY,
        model_type=_type_of(config),
        scaling=inspect.getsource(scaling),
    )


def _type_of(config: Mapping[str, Any]) -> str:
    return f"scaled_inputs_{config['model_type']}"


def scaling(scale: float) -> Callable[..., Any]:
    """Returns a hook that multiplies a layer's input; exported folders bring this very text."""

    def scale_input(module: Any, args: Any, kwargs: Any) -> Any:
        del module
        if args:
            return (args[0] * scale, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * scale}

    return scale_input

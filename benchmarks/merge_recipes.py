"""One recipe a merge method and variant, in mergekit's form, for `merge.py` and its peer.

Pure data, so that both tools' environments can import it. `{base}`, `{a}`, `{b}` and `{c}` stand
for model folders; `fill` puts them in. Every recipe fits any dense model of two layers or more:
filters name only what Llama, Qwen2 and GPT-2 share ("attn", "mlp", ".1." for the second layer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Config = dict[str, Any]

LETTERS = ("a", "b", "c")


def fill(config: Config, models: Mapping[str, str], **settings: Any) -> Config:
    """Returns the recipe with folders for its placeholders, and `dtype` or the like added."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return models[value[1:-1]] if value[:1] == "{" else value
        if isinstance(value, list):
            return [filled(one) for one in value]
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        return value

    result: Config = filled(config)
    return {**result, **settings}


def _each(**parameters: Sequence[Any]) -> list[Config]:
    """Returns the models a, b, ... with the parameters that each one has."""
    num = max((len(values) for values in parameters.values()), default=3)
    return [
        {
            "model": f"{{{letter}}}",
            "parameters": {name: values[index] for name, values in parameters.items()},
        }
        for index, letter in enumerate(LETTERS[:num])
    ]


def _plain(*letters: str) -> list[Config]:
    return [{"model": f"{{{letter}}}"} for letter in letters]


def _merge(method: str, models: list[Config], *, base: bool = True, **parameters: Any) -> Config:
    """Returns a recipe of whole models; `lambda_` is written `lambda`."""
    config: Config = {"merge_method": method, "models": models}
    if base:
        config["base_model"] = "{base}"
    if parameters:
        config["parameters"] = {name.rstrip("_"): value for name, value in parameters.items()}
    return config


def _by(attn: float, mlp: float, rest: float) -> list[Config]:
    """Returns a value per kind of module, as filters."""
    return [{"filter": "attn", "value": attn}, {"filter": "mlp", "value": mlp}, {"value": rest}]


#: Weights whose sum is not 1, so that normalising shows.
W = (0.7, 0.5, 0.3)
SIGNED = (0.9, -0.4, 0.6)
#: Whole for no number of elements of the small models, so that rounding shows.
D = (0.53, 0.37, 0.71)

#: A layer of its own, the last filter that matches nothing before it, and a gradient inside one.
LAYERED = [
    {"filter": ".1.mlp", "value": 0.9},
    {"filter": "attn", "value": [0.1, 0.8]},
    {"filter": "*", "value": 0.4},
]
GRADIENT = ([0.0, 0.5, 1.0], [1.0, 0.2], 0.3)


def _slice(*sources: tuple[str, int, int, Config | None], **more: Any) -> Config:
    """Returns a slice of (letter, first layer, end, parameters) sources."""
    found = []
    for letter, start, stop, parameters in sources:
        one: Config = {"model": f"{{{letter}}}", "layer_range": [start, stop]}
        found.append({**one, "parameters": parameters} if parameters else one)
    return {"sources": found, **more}


_AVERAGES: dict[str, Config] = {
    "linear": _merge("linear", _each(weight=W), base=False),
    "linear-unnormalized": _merge("linear", _each(weight=W), base=False, normalize=False),
    "linear-negative": _merge("linear", _each(weight=SIGNED), base=False),
    "linear-filters": _merge(
        "linear", _each(weight=(_by(0.2, 0.9, 0.5), 0.4, LAYERED)), base=False
    ),
    "linear-gradient": _merge("linear", _each(weight=GRADIENT), base=False),
    "linear-base": {
        **_merge("linear", [*_each(weight=W), {"model": "{base}", "parameters": {"weight": 0.2}}]),
    },
    "slerp": _merge("slerp", _plain("base", "a"), t=0.3),
    "slerp-filters": _merge("slerp", _plain("base", "a"), t=_by(0.2, 0.85, 0.5)),
    "slerp-gradient": _merge(
        "slerp",
        _plain("base", "a"),
        t=[{"filter": "mlp", "value": [1, 0.25, 0]}, {"value": [0, 0.5, 0.3, 1]}],
    ),
    "slerp-beyond": _merge("slerp", _plain("base", "a"), t=1.4),
    "slerp-base-second": _merge("slerp", _plain("a", "base"), t=0.3),
    "nuslerp": _merge("nuslerp", _each(weight=(0.8, 0.4)), base=False),
    "nuslerp-last-axis": _merge(
        "nuslerp", _each(weight=(0.8, 0.4)), base=False, nuslerp_flatten=False
    ),
    "nuslerp-row-wise": _merge(
        "nuslerp",
        _each(weight=(0.8, 0.4)),
        base=False,
        nuslerp_flatten=False,
        nuslerp_row_wise=True,
    ),
    "nuslerp-base": _merge("nuslerp", _each(weight=(0.8, 0.4))),
    "nuslerp-base-last-axis": _merge("nuslerp", _each(weight=(0.8, 0.4)), nuslerp_flatten=False),
    "nuslerp-base-row-wise": _merge(
        "nuslerp", _each(weight=(0.8, 0.4)), nuslerp_flatten=False, nuslerp_row_wise=True
    ),
    "nuslerp-opposite-weights": _merge("nuslerp", _each(weight=(0.7, -0.7)), base=False),
    "nuslerp-negative": _merge("nuslerp", _each(weight=(1.3, -0.3)), base=False),
    "nuslerp-filters": _merge(
        "nuslerp", _each(weight=(_by(0.2, 0.9, 0.5), [0.1, 0.6])), base=False
    ),
    "multislerp": _merge("multislerp", _each(weight=W), base=False),
    "multislerp-unnormalized": _merge(
        "multislerp", _each(weight=W), base=False, normalize_weights=False
    ),
    "multislerp-base": _merge("multislerp", _each(weight=W)),
    "multislerp-base-negative": _merge("multislerp", _each(weight=SIGNED)),
    "multislerp-eps": _merge("multislerp", _each(weight=W), base=False, eps=0.01),
    "karcher": _merge("karcher", _plain("a", "b", "c"), base=False),
    "karcher-pair": _merge("karcher", _plain("a", "b"), base=False),
    "karcher-one-step": _merge("karcher", _plain("a", "b", "c"), base=False, max_iter=1),
    "karcher-loose": _merge("karcher", _plain("a", "b", "c"), base=False, tol=0.02),
    "model_stock": _merge("model_stock", _plain("a", "b", "c")),
    "model_stock-pair": _merge("model_stock", _plain("a", "b")),
    "model_stock-filter-wise": _merge("model_stock", _plain("a", "b", "c"), filter_wise=True),
    "nearswap": _merge("nearswap", _plain("base", "a"), t=0.01),
    "nearswap-filters": _merge("nearswap", _plain("base", "a"), t=_by(0.002, 0.02, 0.1)),
    "arcee_fusion": _merge("arcee_fusion", _plain("base", "a")),
}

_SUMS: dict[str, Config] = {
    "task_arithmetic": _merge("task_arithmetic", _each(weight=W)),
    "task_arithmetic-normalized": _merge("task_arithmetic", _each(weight=W), normalize=True),
    "task_arithmetic-negative": _merge("task_arithmetic", _each(weight=SIGNED)),
    "task_arithmetic-lambda": _merge("task_arithmetic", _each(weight=W), lambda_=0.6),
    "task_arithmetic-lambda-normalized": _merge(
        "task_arithmetic", _each(weight=W), lambda_=1.7, normalize=True
    ),
    "task_arithmetic-zero-sum": _merge(
        "task_arithmetic", _each(weight=(0.5, -0.5)), normalize=True
    ),
    "task_arithmetic-filters": _merge(
        "task_arithmetic", _each(weight=(_by(0.2, 0.9, 0.5), 0.4, LAYERED))
    ),
    "task_arithmetic-gradient": _merge(
        "task_arithmetic", _each(weight=GRADIENT), lambda_=[1.0, 0.5]
    ),
    "ram": _merge("ram", _plain("a", "b", "c")),
    "ram-epsilon": _merge("ram", _plain("a", "b", "c"), epsilon=0.012),
    "ramplus_tl": _merge("ramplus_tl", _plain("a", "b", "c")),
    "ramplus_tl-strong": _merge(
        "ramplus_tl", _plain("a", "b", "c"), r=0.9, alpha=3.0, epsilon=0.012
    ),
}

_TRIMMED: dict[str, Config] = {
    "ties": _merge("ties", _each(weight=W, density=D)),
    "ties-dense": _merge("ties", _each(weight=W)),
    "ties-unnormalized": _merge("ties", _each(weight=W, density=D), normalize=False),
    "ties-negative": _merge("ties", _each(weight=SIGNED, density=D)),
    "ties-lambda": _merge("ties", _each(weight=W, density=D), lambda_=0.6),
    "ties-rescale": _merge("ties", _each(weight=W, density=D), rescale=True),
    "ties-int8-mask": _merge("ties", _each(weight=W, density=D), int8_mask=True),
    "ties-sparse": _merge("ties", _each(weight=W, density=(0.001, 0.1, 0.0))),
    "ties-filters": _merge(
        "ties",
        _each(weight=(_by(0.2, 0.9, 0.5), 0.4, LAYERED), density=(_by(0.31, 0.62, 0.9), 0.5, 0.8)),
    ),
    "ties-gradient": _merge(
        "ties", _each(weight=GRADIENT, density=([0.9, 0.3], [0.2, 0.7, 0.5], 0.45))
    ),
    "breadcrumbs": _merge("breadcrumbs", _each(weight=W, density=D)),
    "breadcrumbs-rescale-normalized": _merge(
        "breadcrumbs", _each(weight=W, density=D), rescale=True, normalize=True
    ),
    "breadcrumbs-gamma": _merge(
        "breadcrumbs", _each(weight=W, density=D, gamma=(0.05, 0.13, 0.29))
    ),
    #: Density and gamma together above 1: mergekit then removes fewer outliers.
    "breadcrumbs-crowded": _merge(
        "breadcrumbs", _each(weight=W, density=(0.8, 0.9, 1.0), gamma=(0.3, 0.3, 0.3))
    ),
    "breadcrumbs_ties": _merge("breadcrumbs_ties", _each(weight=W, density=D)),
    "breadcrumbs_ties-normalized": _merge(
        "breadcrumbs_ties", _each(weight=W, density=D, gamma=(0.05, 0.13, 0.29)), normalize=True
    ),
    "sce": _merge("sce", _plain("a", "b", "c")),
    "sce-topk": _merge("sce", _plain("a", "b", "c"), select_topk=0.37),
    "sce-topk-int8-mask": _merge("sce", _plain("a", "b", "c"), select_topk=0.37, int8_mask=True),
    "sce-topk-filters": _merge("sce", _plain("a", "b", "c"), select_topk=_by(0.2, 0.55, 1.0)),
}

#: Their outputs are drawn at random: only their statistics can be compared.
_DRAWN: dict[str, Config] = {
    "dare_linear": _merge("dare_linear", _each(weight=W, density=D)),
    "dare_linear-one": _merge("dare_linear", _each(weight=(1.0,), density=(0.4,))),
    "dare_linear-one-unscaled": _merge(
        "dare_linear", _each(weight=(1.0,), density=(0.4,)), rescale=False
    ),
    "dare_linear-normalized": _merge("dare_linear", _each(weight=W, density=D), normalize=True),
    "dare_ties": _merge("dare_ties", _each(weight=W, density=D)),
    "dare_ties-normalized": _merge("dare_ties", _each(weight=W, density=D), normalize=True),
    "dare_ties-unscaled": _merge("dare_ties", _each(weight=W, density=D), rescale=False),
    "dare_ties-lambda": _merge("dare_ties", _each(weight=W, density=D), lambda_=0.6),
    "della_linear": _merge("della_linear", _each(weight=W, density=D)),
    "della_linear-one": _merge("della_linear", _each(weight=(1.0,), density=(0.4,))),
    "della_linear-one-unscaled": _merge(
        "della_linear",
        _each(weight=(1.0,), density=(0.4,), epsilon=(0.3,)),
        rescale=False,
    ),
    "della": _merge("della", _each(weight=W, density=D)),
    "della-unscaled": _merge(
        "della", _each(weight=W, density=D, epsilon=(0.05, 0.2, 0.1)), rescale=False
    ),
    "della-unnormalized": _merge("della", _each(weight=W, density=D), normalize=False),
}

#: The same methods at density 1, where nothing is drawn.
_UNDRAWN: dict[str, Config] = {
    "dare_linear-dense": _merge("dare_linear", _each(weight=W), lambda_=0.8),
    "dare_ties-dense": _merge("dare_ties", _each(weight=SIGNED), normalize=True),
    "della_linear-dense": _merge("della_linear", _each(weight=W)),
    "della-dense": _merge("della", _each(weight=SIGNED)),
}

_ROUTES: dict[str, Config] = {
    "passthrough": _merge("passthrough", _plain("a"), base=False),
    "passthrough-scale": _merge(
        "passthrough",
        [{"model": "{a}", "parameters": {"scale": [{"filter": "mlp", "value": [0.5, 1.3]}]}}],
        base=False,
    ),
    "passthrough-stack": {
        "merge_method": "passthrough",
        "slices": [
            _slice(("a", 0, 2, None)),
            _slice(("b", 0, 2, {"scale": [{"filter": "down_proj", "value": 0.0}, {"value": 1.0}]})),
            _slice(("c", 1, 2, None)),
        ],
    },
    "linear-stack": {
        "merge_method": "linear",
        "slices": [
            _slice(("a", 0, 1, {"weight": 1.0}), ("b", 1, 2, {"weight": 0.5})),
            _slice(("b", 0, 2, {"weight": [0.2, 0.9]}), ("c", 0, 2, {"weight": 1.0})),
        ],
    },
    "ties-stack": {
        "merge_method": "ties",
        "base_model": "{base}",
        "parameters": {"weight": 0.6, "density": _by(0.31, 0.62, 0.9)},
        "slices": [
            _slice(
                ("a", 0, 1, None),
                ("b", 0, 1, {"weight": 0.3}),
                ("base", 0, 1, None),
                parameters={"normalize": False},
            ),
            _slice(("a", 0, 2, {"weight": [0.2, 0.9]}), ("c", 0, 2, None), ("base", 0, 2, None)),
        ],
    },
    "task_arithmetic-other-base": {
        "merge_method": "task_arithmetic",
        "base_model": "{base}",
        "parameters": {"weight": 0.5},
        "slices": [
            _slice(("a", 0, 1, None), ("base", 0, 1, None)),
            _slice(("a", 1, 2, None), ("b", 1, 2, None), base_model="{b}"),
        ],
    },
}

#: Name to recipe. A name is the method, then a dash and the variant.
RECIPES: dict[str, Config] = {
    **_AVERAGES,
    **_SUMS,
    **_TRIMMED,
    **_UNDRAWN,
    **_DRAWN,
    **_ROUTES,
}

#: Recipes whose outputs depend on a random draw, with these models' sizes.
RANDOM = frozenset(_DRAWN)

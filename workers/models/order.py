"""The order in which numbers flow through a model's tensors, read from their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from workers.models.layers import is_before_layers, layer_of

#: What follows what in a layer; a name that none has comes after all of them.
_IN_LAYER = tuple(
    re.compile(pattern)
    for pattern in (
        r"input_layernorm|\bln_?1\b|attention_norm|norm1\b",
        r"q_proj|query\b|c_attn|query_key_value|qkv|wq\b",
        r"k_proj|key\b|wk\b",
        r"v_proj|value\b|wv\b",
        r"q_norm|k_norm",
        r"o_proj|attn\.c_proj|attn\.out_proj|attention\.(?:dense|output)|wo\b",
        r"post_attention|pre_feedforward|\bln_?2\b|ffn_norm|norm2\b",
        r"gate|router",
        r"up_proj|c_fc|fc1|dense_h_to_4h|w1\b|w3\b",
        r"down_proj|mlp\.c_proj|fc2|dense_4h_to_h|w2\b",
        r"post_feedforward",
    )
)
#: What comes later among the tensors before the first layer, and after the last one.
_LATE = re.compile(r"wpe|position|head|embed_out")


def forward_order(names: Iterable[str]) -> list[str]:
    """Returns tensor names by depth: embeddings, layer 0 to the last one, final norm, head.

    Within a layer they follow the flow: norm, query, key, value, output, norm, gate, up, down.
    Names that tell nothing come last, by the alphabet; a weight comes before its bias.
    """
    return sorted(names, key=_place)


def _place(name: str) -> tuple[int, int, int, str, bool, str]:
    stem, _, last = name.rpartition(".")
    layer = layer_of(name)
    if layer is None:
        stage = 0 if is_before_layers(name) else 2
        return (stage, 0, int(_LATE.search(name) is not None), stem, last != "weight", last)
    found = (place for place, pattern in enumerate(_IN_LAYER) if pattern.search(stem))
    return (1, layer, next(found, len(_IN_LAYER)), stem, last != "weight", last)

"""LoRA adapters as sources: applied to their base tensor by tensor, when a tensor is asked for.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): W + (alpha / r) B A, or alpha / sqrt(r) for
rank-stabilised LoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732). Files and settings are
those of PEFT (https://huggingface.co/docs/peft). The results are to the bit those of its
`merge_and_unload` on a base loaded in its stored type: products are formed in float32 (float64 for
a float64 base), added, and rounded once to the base's type; for embeddings PEFT rounds the product
before adding it, and so does this.

Planning needs no torch: an adapter that does not fit is refused from headers alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.models.files import ADAPTER_CONFIG
from workers.models.lora_settings import read_settings
from workers.models.safetensors_file import ModelError, TensorFacts

if TYPE_CHECKING:
    import torch

    from workers.models.weights import Reader

#: PEFT wraps a model twice, and names tensors accordingly.
_ROOT = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<linear>[AB])\.weight|embedding_(?P<embedding>[AB]))"
)
_INPUT = re.compile(r"(?:^|\.)(?:embed_tokens|embed_in|wte|word_embeddings)\.weight$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight$")
_FLOATS = ("float64", "float32", "float16", "bfloat16")

#: GPT-2 and its kin hold the matrices of these layers transposed (transformers' Conv1D).
_CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
_CONV1D_LAYERS = {"c_attn", "q_attn", "c_proj", "c_fc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What is added to one tensor of the base: scale * B A."""

    #: Names of the two factors in the adapter's file: (r, inputs) and (outputs, r).
    a: str
    b: str
    scale: float
    #: Whether the base holds the transposed matrix.
    transposed: bool
    is_embedding: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlan:
    """What an adapter does to its base."""

    folder: Path
    #: Base tensor -> what is added.
    products: Mapping[str, Product]
    #: Base tensor -> tensor of the adapter that replaces it (before a product is added).
    replaced: Mapping[str, str]
    #: Output head and input embeddings in the adapter's file that must be equal, as the base ties
    #: them.
    tied: tuple[str, str] | None = None


def plan_adapter(
    folder: Path,
    tensors: Mapping[str, TensorFacts],
    base: Mapping[str, TensorFacts],
    base_config: Mapping[str, Any],
) -> AdapterPlan:
    """Says what each of an adapter's tensors does to the base.

    Args:
        folder: The adapter's folder.
        tensors: What its weight file holds.
        base: The base's tensors; types as torch names them.
        base_config: The base's configuration.

    Raises:
        ModelError: naming the setting or tensor that cannot be applied.
    """
    return _Planner(folder, tensors, base, base_config).plan()


class _Planner:
    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, TensorFacts],
        base: Mapping[str, TensorFacts],
        base_config: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        self._about = f"adapter {str(folder)!r}"
        self._settings = read_settings(folder)
        self._tensors = tensors
        self._base = base
        self._model_type = str(base_config.get("model_type"))
        self._is_tied = _is_tied(base, base_config)

    def plan(self) -> AdapterPlan:
        factors: dict[str, dict[str, str]] = {}
        whole: dict[str, str] = {}
        for name in self._tensors:
            if not name.startswith(_ROOT):
                raise ModelError(
                    f"{self._about}: expected names of tensors that start with {_ROOT!r}, as PEFT "
                    f"writes them, got {name!r}"
                )
            found = _FACTOR.fullmatch(name, len(_ROOT))
            if found is None:
                whole[name.removeprefix(_ROOT)] = name
            else:
                factor = found["linear"] or f"embedding {found['embedding']}"
                factors.setdefault(found["module"], {})[factor] = name
        if not factors:
            raise ModelError(f"{self._about} holds no LoRA matrices (lora_A, lora_B)")
        tied = self._tied_pair(whole)
        if tied is not None:
            whole = {place: name for place, name in whole.items() if name != tied[0]}
        products = [self._product(module, names) for module, names in factors.items()]
        return AdapterPlan(
            folder=self._folder,
            products=self._by_target(products),
            replaced=self._by_target([self._replaced(place, whole[place]) for place in whole]),
            tied=tied,
        )

    def _by_target(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for target, what in pairs:
            if target in found:
                raise ModelError(f"{self._about} adapts tensor {target!r} of the base twice")
            found[target] = what
        return found

    def _product(self, module: str, names: Mapping[str, str]) -> tuple[str, Product]:
        is_embedding = any(factor.startswith("embedding") for factor in names)
        kinds = ("embedding A", "embedding B") if is_embedding else ("A", "B")
        if set(names) != set(kinds):
            raise ModelError(
                f"{self._about}: expected both matrices (A and B) of {module!r} and no others, got "
                f"{', '.join(sorted(names.values()))}"
            )
        a, b = (names[kind] for kind in kinds)
        target = self._target(f"{module}.weight", a)
        self._check_rank(module, a, b)
        return target, Product(
            a=a,
            b=b,
            scale=self._settings.scale_of(module),
            transposed=self._is_transposed(target, a, b, is_embedding=is_embedding),
            is_embedding=is_embedding,
        )

    def _check_rank(self, module: str, a: str, b: str) -> None:
        shapes = self._tensors[a][1], self._tensors[b][1]
        rank = self._settings.rank_of(module)
        fits = all(len(shape) == 2 for shape in shapes) and shapes[0][0] == shapes[1][1] == rank
        if not fits:
            raise ModelError(
                f"{self._about}: expected matrices of rank {rank} for {module!r}, got {a!r} of "
                f"shape {list(shapes[0])} and {b!r} of shape {list(shapes[1])}"
            )

    def _is_transposed(self, target: str, a: str, b: str, *, is_embedding: bool) -> bool:
        """Finds how a product lies on its target: by the shapes, where these can tell."""
        shape = self._base[target][1]
        product = (self._tensors[b][1][0], self._tensors[a][1][1])
        if shape not in (product, product[::-1]) or (is_embedding and shape != product[::-1]):
            raise ModelError(
                f"{self._about}: the product of {b!r} and {a!r} has shape {list(product)}, which "
                f"does not fit {target!r} of the base, of shape {list(shape)}"
            )
        if is_embedding or product[0] != product[1]:
            return shape != product or is_embedding
        if self._model_type in _CONV1D_MODELS:
            return target.split(".")[-2] in _CONV1D_LAYERS
        if self._settings.is_transposed:
            raise ModelError(
                f"{self._about} sets fan_in_fan_out, but {target!r} is square and models of type "
                f"{self._model_type!r} are not known to hold transposed matrices; if they do not, "
                f"set it to false in {ADAPTER_CONFIG}"
            )
        return False

    def _replaced(self, place: str, name: str) -> tuple[str, str]:
        # The base's own weights, which PEFT stores beside an adapted embedding, or trained biases.
        target = self._target(place.replace(".base_layer.", "."), name)
        ours, theirs = self._tensors[name][1], self._base[target][1]
        if ours != theirs:
            raise ModelError(
                f"{self._about}: tensor {name!r} has shape {list(ours)}, but {target!r} of the "
                f"base, which it replaces, {list(theirs)}"
            )
        return target, name

    def _target(self, place: str, name: str) -> str:
        """Returns the base's tensor of a place; one of the two may lack the outermost module."""
        inner = place.partition(".")[2]
        outer = [one for one in self._base if one.partition(".")[2] == place]
        candidates = [one for one in (place, inner) if one in self._base] or outer
        if len(candidates) != 1 and place not in candidates:
            tied = " (its output head is tied to its embeddings)" if self._is_tied else ""
            hint = tied if _HEAD.search(place) else ""
            raise ModelError(
                f"{self._about}: nothing can be done with tensor {name!r}: its base has no tensor "
                f"{place!r}{hint}"
            )
        kind = self._base[candidates[0]][0]
        if kind not in _FLOATS:
            raise ModelError(
                f"{self._about} adapts {candidates[0]!r}, which is {kind} in its base; expected "
                f"one of {', '.join(_FLOATS)}"
            )
        return candidates[0]

    def _tied_pair(self, whole: Mapping[str, str]) -> tuple[str, str] | None:
        """Finds embeddings that are replaced though the base ties its output head to them."""
        inputs = [name for place, name in whole.items() if _INPUT.search(place)]
        heads = [name for place, name in whole.items() if _HEAD.search(place)]
        if not self._is_tied or not inputs:
            return None
        if not heads:
            raise ModelError(
                f"{self._about} replaces the embeddings ({inputs[0]!r}) but not the output head, "
                "which its base ties to them; the result would not be tied, and has no place in "
                "the base's architecture"
            )
        return heads[0], inputs[0]


class AdaptedWeights:
    """A base's tensors with an adapter applied; only the adapter's factors stay in memory."""

    def __init__(self, reference: str, base: Reader, adapter: Reader, plan: AdapterPlan) -> None:
        """Reads the factors.

        Raises:
            ModelError: if tensors that must be equal are not.
        """
        import torch

        self.reference = reference
        self._base = base
        self._plan = plan
        self._factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for target, one in plan.products.items():
            is_double = base.facts(target)[0] == "float64"
            exact = torch.float64 if is_double else torch.float32
            self._factors[target] = (
                adapter.tensor(one.b).to(exact),
                adapter.tensor(one.a).to(exact),
            )
        self._replaced = {target: adapter.tensor(name) for target, name in plan.replaced.items()}
        if plan.tied and not torch.equal(*(adapter.tensor(name) for name in plan.tied)):
            raise ModelError(
                f"adapter {str(plan.folder)!r} has different values in {plan.tied[0]!r} and "
                f"{plan.tied[1]!r}, which its base ties: the result has no place in the base's "
                "architecture"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __contains__(self, name: object) -> bool:
        return name in self._base

    def facts(self, name: str) -> TensorFacts:
        """Returns the base's type and shape, which adapting keeps."""
        return self._base.facts(name)

    def tensor(self, name: str) -> torch.Tensor:
        """Returns an adapted tensor in the base's type.

        Raises:
            ModelError: if the base has no such tensor.
        """
        weight = self._base.tensor(name)
        if name in self._replaced:
            weight = self._replaced[name].to(weight.dtype)
        if name not in self._factors:
            return weight
        b, a = self._factors[name]
        product = self._plan.products[name]
        delta = (b @ a).mul_(product.scale)
        delta = delta.T if product.transposed else delta
        if product.is_embedding:
            return weight + delta.to(weight.dtype)
        return delta.add_(weight).to(weight.dtype).contiguous()


def _is_tied(base: Mapping[str, TensorFacts], config: Mapping[str, Any]) -> bool:
    """Whether a language model has no output head of its own."""
    settings = {**config, **(config.get("text_config") or {})}
    has_head = any(_HEAD.search(name) for name in base)
    is_language = "LM" in str(config.get("architectures"))
    return is_language and not has_head and settings.get("tie_word_embeddings") is not False

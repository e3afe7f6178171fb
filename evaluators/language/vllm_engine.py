"""A vLLM engine with a resident model's weights (Kwon et al. 2023, https://arxiv.org/abs/2309.06180).

The engine lives in this process and holds weights of its own. Before each list of prompts it takes
over the resident model's, with neither a disk nor another process between them. All of them, every
time: builders do not say what they changed, and a GPU copies them in the time of a few forward
passes.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

# In this process, where weights can be handed over as they are, and where the same prompts are
# always scheduled alike. vLLM reads its variables when it is imported.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
from transformers.core_model_loading import revert_weight_conversion
from vllm import LLM, SamplingParams, TokensPrompt

from evaluators.language.generation_settings import GenerationSettings

#: vLLM takes a text only if a token more would fit the model.
ROOM = 1
#: Of the GPU memory that is free when the engine opens; the rest is left to merging.
_SHARE_OF_FREE = 0.5
#: Fewer tokens at a time are not tried.
_FEWEST_TOKENS = 256
#: No weights are all of this value, which every type of theirs can hold.
_UNSET = 12288.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the engine may take on."""

    #: Prompts at a time.
    prompts: int
    #: Tokens at a time; fewer once memory did not suffice.
    tokens: int
    #: Tokens of the longest text, those that are made included.
    length: int
    #: Share of all the GPU's memory, for weights, keys and values; None: half of what is free.
    memory: float | None = None


class VllmEngine:
    """An engine that is opened when it is needed and closed when anything fails.

    A process has one open engine at most: a second would not fit beside it.
    """

    _opened: ClassVar[VllmEngine | None] = None

    def __init__(self, model: Any, tokenizer: Any, limits: Limits) -> None:
        """Opens it a first time, so that a model that vLLM does not run is found out at once."""
        self._model = model
        self._limits = limits
        self._tokens = limits.tokens
        self._layout = _layout(model)
        # The tokenizer may not be the one in the model's folder, and is read at each opening.
        self._folder = TemporaryDirectory()
        tokenizer.save_pretrained(self._folder.name)
        self._llm: LLM | None = None
        self.run([[0, 0]], scoring())

    def run(self, prompts: Sequence[Sequence[int]], params: Any) -> list[Any]:
        """Returns a `vllm.RequestOutput` for each prompt, by the resident model as it is now.

        Args:
            prompts: Token ids.
            params: One `SamplingParams` for all prompts, or one for each.

        Raises:
            ValueError: if the resident model has become one of another shape.
            torch.OutOfMemoryError: if memory does not suffice for the smallest batch.
        """
        if _layout(self._model) != self._layout:
            raise ValueError(
                "vLLM's engine was opened for the base's layers, and this candidate's differ in "
                "number, order or scale: set evaluate.backend to hf for such a space"
            )
        while prompts:
            try:
                texts = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
                return list(self._prepared().generate(texts, params, use_tqdm=False))
            except BaseException as error:
                # Prompts may be left in it half-done. This error tells more than one from closing.
                with suppress(Exception):
                    self.close()
                if not isinstance(error, torch.OutOfMemoryError) or self._tokens <= _FEWEST_TOKENS:
                    raise
                self._tokens = max(self._tokens // 2, _FEWEST_TOKENS)
        return []

    def close(self) -> None:
        """Gives the memory back; the next run opens it again."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()
            torch.cuda.empty_cache()

    def _prepared(self) -> LLM:
        """Returns the open engine with the resident model's weights in it."""
        # Suites score in inference mode; tensors made there could never be written over elsewhere.
        with torch.inference_mode(False), torch.no_grad():
            if self._llm is None:
                self._llm = self._open()
                self._llm.apply_model(_unset)
                self._copy(self._llm)
                _check(self._llm.apply_model(_still_unset)[0])
            else:
                self._copy(self._llm)
        return self._llm

    def _copy(self, llm: LLM) -> None:
        torch.cuda.synchronize()  # whoever wrote the weights has finished
        weights = iter(_checkpoint(self._model).items())
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        torch.cuda.synchronize()
        if not llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps keys and values that other weights gave")

    def _open(self) -> LLM:
        if VllmEngine._opened is not None:
            VllmEngine._opened.close()
        VllmEngine._opened = self
        model = self._model
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(model.device)
        threads = torch.get_num_threads()
        try:
            return LLM(
                model=model.name_or_path,
                tokenizer=self._folder.name,
                hf_overrides={"vocab_size": model.config.get_text_config().vocab_size},
                trust_remote_code=type(model).__module__.startswith("transformers_modules"),
                dtype=str(model.dtype).removeprefix("torch."),
                load_format="dummy",
                generation_config="vllm",  # requests bring all settings
                max_model_len=self._limits.length,
                max_num_seqs=min(self._limits.prompts, self._tokens),
                max_num_batched_tokens=self._tokens,
                gpu_memory_utilization=self._limits.memory or _SHARE_OF_FREE * free / total,
                enable_prefix_caching=True,
                async_scheduling=False,  # nothing is under way when weights change
            )
        finally:
            torch.set_num_threads(threads)  # vLLM takes one; builders count on theirs


def scoring() -> SamplingParams:
    """Returns what asks for the log-likelihood and rank of each of a prompt's tokens."""
    return SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)


def generating(settings: GenerationSettings, seed: int) -> SamplingParams:
    """Returns what asks for a text by the settings, and for its log-likelihood."""
    temperature = 1.0 if settings.temperature is None else settings.temperature
    return SamplingParams(
        temperature=temperature if settings.do_sample else 0.0,
        top_k=settings.top_k or 0,
        top_p=1.0 if settings.top_p is None else settings.top_p,
        min_p=settings.min_p or 0.0,
        repetition_penalty=settings.repetition_penalty,
        seed=seed,
        max_tokens=settings.max_new_tokens,
        stop=list(settings.stops),
        stop_token_ids=sorted(settings.ends),
        skip_special_tokens=False,  # they may be stop strings
        spaces_between_special_tokens=False,
        logprobs=0,
    )


def _layout(model: Any) -> tuple[Any, ...]:
    """Returns all of a model but the weights: what an engine is opened for."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    scaled = any(module._forward_pre_hooks for module in model.modules())
    return model.config.to_dict(), shapes, scaled


def _checkpoint(model: Any) -> dict[str, torch.Tensor]:
    """Returns the weights under the names that a saved model has."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    held = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    return revert_weight_conversion(model, held)  # type: ignore[no-any-return]


def _unset(model: torch.nn.Module) -> None:
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data.fill_(_UNSET)


def _still_unset(model: torch.nn.Module) -> list[str]:
    return [name for name, weight in model.named_parameters() if bool((weight == _UNSET).all())]


def _check(missed: Sequence[str]) -> None:
    """Refuses what vLLM only warns of: weights that it was not given would be any numbers."""
    if missed:
        raise ValueError(
            f"vLLM's model has {len(missed)} weights that transformers' model does not give it, "
            f"such as {missed[0]}: set evaluate.backend to hf for this architecture"
        )

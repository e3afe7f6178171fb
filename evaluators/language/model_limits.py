"""What a model can share between texts, found by trying, and how large its batches should be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluators.language.decoding import Feed
from evaluators.language.prefix_rows import Costs, Sharing
from evaluators.language.shared_batches import Preamble, forward

#: Largest relative deviation of logits that rounding explains, by bytes of a number.
_TOLERANCE = {2: 0.1, 4: 1e-3, 8: 1e-6}
#: Largest effect of another branch, relative to that of the prompt. Mostly there is none to the
#: last bit; experts multiply all tokens that chose them together, and round accordingly.
_NOISE = {2: 0.02, 4: 1e-3, 8: 1e-6}
#: Settings of layers that see part of the text only: their reach in tokens.
_WINDOW = re.compile(r"window(_size)?s?$|chunk_size$")
#: What a model raises that cannot be called in some way.
_REFUSALS = (
    TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Speed:
    """What a kind of device can multiply and add in the time of other work."""

    #: Operations in the time that one layer's call takes at the least.
    call: float
    #: Tokens in the time that reading all weights takes.
    weights: float
    #: Operations in the time that copying one key or value takes.
    copy: float
    #: Factor by which attention's operations are slower.
    attention: float


# Orders of magnitude: measured on one core with models of 0.4M and 135M parameters, for GPUs taken
# from data sheets. They decide what is shared, never what comes out.
_CORE = _Speed(call=2e7, weights=16.0, copy=200.0, attention=4.0)
_GPU = _Speed(call=1.5e11, weights=128.0, copy=600.0, attention=4.0)
#: On a CPU what a batch works on should stay in its caches; larger and smaller ones were slower.
_CORE_BATCH_TOKENS = 1024


def find_costs(model: Any) -> Costs:
    """Returns what sharing costs; a function of the model's shape and the kind of device."""
    speed = _GPU if model.device.type == "cuda" else _CORE
    text = _text_config(model)
    layers, width = int(text.num_hidden_layers), int(text.hidden_size)
    per_token = 2.0 * _num_inner_parameters(model)
    return Costs(
        pair=speed.attention * 4 * layers * width / per_token,
        copied=speed.copy * 2 * layers * width / per_token,
        call=speed.weights + speed.call * layers / per_token,
    )


def default_batch_tokens(model: Any) -> int:
    """Returns how many tokens a batch holds: a power of two.

    On a GPU what a quarter of its memory holds, because source models and keys lie there, too.
    """
    if model.device.type == "cuda":
        text = _text_config(model)
        width = max(int(getattr(text, "intermediate_size", 0) or 0), 4 * int(text.hidden_size))
        per_token = model.dtype.itemsize * (int(text.vocab_size) + 8 * width)
        memory = torch.cuda.get_device_properties(model.device).total_memory
        return _power_of_two(memory / 4 / per_token, _CORE_BATCH_TOKENS, 65536)
    return _CORE_BATCH_TOKENS


def _power_of_two(number: float, least: int, most: int) -> int:
    power = least
    while 2 * power <= min(number, most):
        power *= 2
    return power


def _text_config(model: Any) -> Any:
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _num_inner_parameters(model: Any) -> int:
    """Counts the parameters that every token is multiplied with: all but embeddings and head."""
    outer = {
        id(weight)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
        for weight in module.parameters()
    }
    return sum(int(weight.numel()) for weight in model.parameters() if id(weight) not in outer) or 1


def find_sharing(model: Any) -> Sharing:
    """Tries out whether texts may branch within a row, and whether rows may follow a preamble.

    What another branch holds must not change a logit, the place of a token must, and so must the
    prompt, whatever the weights are: recurrent layers, and attention that counts places itself,
    fail one or the other. That the numbers are right is then checked against a plain row.
    """
    with torch.inference_mode():
        probe = _Probe(model)
        branches = _holds(probe.branches_apart)
        preambles = branches and _holds(probe.preamble_agrees)
    return Sharing(branches=branches, preambles=preambles, max_length=_reach(_text_config(model)))


def find_decoding(model: Any) -> bool:
    """Tries out whether the model goes on from kept keys and values as from the whole text."""
    with torch.inference_mode():
        return _holds(_Probe(model).decoding_agrees)


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except torch.OutOfMemoryError:
        raise
    except _REFUSALS:
        return False


def _reach(text: Any) -> int | None:
    """Returns the shortest reach of a model's layers, None if all of them see everything."""
    found = [
        value
        for key, value in text.to_dict().items()
        if _WINDOW.search(key) and isinstance(value, int) and value > 0
    ]
    if getattr(text, "use_sliding_window", True) is False:
        return None
    return min(found, default=None)


class _Probe:
    """A prompt of five tokens with two answers of three, in one row and apart."""

    _PROMPT, _ONE, _TWO = (3, 11, 7, 5, 13), (17, 2, 19), (23, 29, 31)

    def __init__(self, model: Any) -> None:
        self._model = model
        self._size = int(model.get_input_embeddings().weight.shape[0])
        self._device = model.get_input_embeddings().weight.device

    def branches_apart(self) -> bool:
        """Compares the second answer's logits: whether the first is seen, places and prompt are."""
        plain = self._row()
        by_other = (self._row(one=(37, 41, 43)) - plain).norm()
        by_prompt = (self._row(prompt=(3, 11, 8, 5, 13)) - plain).norm()
        by_place = (self._row(shift=4) - plain).norm()
        return bool(
            by_other <= _NOISE[self._model.dtype.itemsize] * by_prompt
            and by_prompt > 0
            and by_place > 0
            and self._close(plain, self._alone())
        )

    def preamble_agrees(self) -> bool:
        """Compares the second answer's logits with its prompt in the row and before it."""
        found = [self._after(self._PROMPT[:4]), self._after((3, 11, 8, 5))]
        return not torch.equal(*found) and self._close(found[0], self._alone())

    def decoding_agrees(self) -> bool:
        """Compares what follows the prompt and a token in rows of two lengths; drops a row."""
        prompts = [self._ids(self._TWO[:2]), self._ids(self._PROMPT)]
        feed = Feed(self._model, [np.array(prompt) for prompt in prompts], None)
        first = feed.logits()
        feed.feed(torch.tensor(self._ids((17, 19)), device=self._device))
        second = feed.logits()
        feed.keep(torch.tensor([1], device=self._device))
        feed.feed(torch.tensor(self._ids((2,)), device=self._device))
        third = feed.logits()
        one, other = self._ids((*self._TWO[:2], 17)), self._ids((*self._PROMPT, 19, 2))
        return (
            self._close(first, torch.cat([self._plain(one, 2), self._plain(other, 5)]))
            and self._close(second, torch.cat([self._plain(one, 3), self._plain(other, 6)]))
            and self._close(third, self._plain(other, 7))
        )

    def _plain(self, tokens: tuple[int, ...], length: int) -> torch.Tensor:
        given = torch.tensor([tokens[:length]], device=self._device)
        last = torch.tensor([length - 1], device=self._device)
        return forward(self._model, given, depths=None, ends=None, past=None, places=last)

    def _ids(self, *parts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(token % self._size for part in parts for token in part)

    def _row(
        self,
        prompt: tuple[int, ...] = _PROMPT,
        one: tuple[int, ...] = _ONE,
        shift: int = 0,
    ) -> torch.Tensor:
        """Returns the logits at the second answer of a row of both, its places shifted."""
        depths = torch.tensor([[*range(8), *range(5 + shift, 8 + shift)]], device=self._device)
        ends = torch.tensor([[11] * 5 + [8] * 3 + [11] * 3], device=self._device)
        return self._forward(self._ids(prompt, one, self._TWO), depths, ends, None, 8).double()

    def _alone(self) -> torch.Tensor:
        return self._forward(self._ids(self._PROMPT, self._TWO), None, None, None, 5)

    def _after(self, preamble: tuple[int, ...]) -> torch.Tensor:
        past = Preamble(self._model, torch.tensor([self._ids(preamble)], device=self._device))
        depths = torch.tensor([[4, 5, 6, 7, 5, 6, 7]], device=self._device)
        ends = torch.tensor([[7] + [4] * 3 + [7] * 3], device=self._device)
        return self._forward(
            self._ids(self._PROMPT[4:], self._ONE, self._TWO), depths, ends, past, 4
        )

    def _forward(
        self,
        tokens: tuple[int, ...],
        depths: torch.Tensor | None,
        ends: torch.Tensor | None,
        past: Preamble | None,
        start: int,
    ) -> torch.Tensor:
        return forward(
            self._model,
            torch.tensor([tokens], device=self._device),
            depths=depths,
            ends=ends,
            past=past,
            places=torch.arange(start, start + 3, device=self._device),
        )

    def _close(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        one, other = one.double(), other.double()
        spread = (other - other.mean(dim=-1, keepdim=True)).norm()
        return bool((one - other).norm() <= _TOLERANCE[self._model.dtype.itemsize] * spread)

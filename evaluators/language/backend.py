"""What runs a resident language model for lm-eval's tasks: the contract, and what fulfils it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from evaluators.base import Language
from evaluators.registry import Registry, UnknownNameError


class Plan(Protocol):
    """Requests made ready once, to be answered for one candidate after another."""

    @property
    def num_tokens(self) -> int:
        """Tokens that one candidate's forward passes see before any are generated."""
        ...


class Backend(Protocol):
    """Runs the model that it was opened on, with the weights that the model has at each call.

    Requests are lm-eval's `Instance`s of one type. Planning reads no weights. A plan is answered
    by the back end that made it, in the order of its requests, and the same weights give the same
    answers. Tokens, truncation, windows and stop strings are those of lm-eval's `HFLM`.

    Answering raises `NonFiniteError` if a number is not finite and `torch.OutOfMemoryError` if
    memory does not suffice for the smallest batch. After either the back end can be used again.
    """

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name, as lm-eval wants it beside a chat template."""
        ...

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Returns a conversation as one prompt."""
        ...

    def plan(self, requests: Sequence[Any]) -> Plan:
        """Plans `loglikelihood` requests.

        Raises:
            ValueError: if an answer has no tokens or more than fit the model.
        """
        ...

    def score(self, plan: Any) -> list[tuple[float, bool]]:
        """Returns (log-likelihood in nats, is it the greedy continuation) of each request."""
        ...

    def plan_rolling(self, requests: Sequence[Any]) -> Plan:
        """Plans `loglikelihood_rolling` requests."""
        ...

    def score_rolling(self, plan: Any) -> list[float]:
        """Returns the log-likelihood, in nats, of each request's whole text."""
        ...

    def plan_generation(self, requests: Sequence[Any]) -> Plan:
        """Plans `generate_until` requests.

        Raises:
            ValueError: if a request leaves no room for a prompt.
        """
        ...

    def generate(self, plan: Any) -> list[str]:
        """Returns the text that follows each request's prompt, up to a stop string."""
        ...


BACKENDS = Registry(
    "back end",
    {
        "hf": "evaluators.language.resident_lm:ResidentLM",
        "vllm": "evaluators.language.vllm_lm:VllmLM",
    },
)


def open_backend(
    name: str,
    language: Language,
    *,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
) -> Backend:
    """Puts a back end over a resident model.

    Args:
        name: Of the back end.
        language: The resident model and its tokenizer.
        batch_size: Requests that run at a time; None leaves it to the back end.
        batch_tokens: Tokens that run at a time; None leaves it to the back end.
        max_length: Longest context in tokens; None takes the model's own.

    Raises:
        ValueError: if there is no such back end, or it cannot run here.
    """
    try:
        made = BACKENDS.load(name)
    except UnknownNameError as error:
        if name == "vllm":
            raise ValueError(
                f"{error}. Install it (pip install 'shoal[vllm]', NVIDIA GPUs), or set "
                "evaluate.backend to hf"
            ) from error
        raise
    opened = made(
        language.model,
        language.tokenizer,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        max_length=max_length,
    )
    return cast(Backend, opened)

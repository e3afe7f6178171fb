"""Aligns the vocabularies of models that share an architecture: which row of which matrix is what.

A fine-tune may have added tokens, moved them or resized its embeddings. A plan says, for each row
of the merged model's embeddings, which token it stands for and where each model has that token.
Plans are plain data; `aligned` reads weights by them, `tokenizer_files` writes the tokenizer that
belongs to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from workers.models.layers import layer_of

if TYPE_CHECKING:
    from workers.models.library import ModelFacts

Mode = Literal["base", "union"]

#: Names of token embeddings; `shared` is T5's.
_INPUTS = "embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|shared"
#: Names of output heads and their biases, masked language models' among them.
_OUTPUTS = (
    r"lm_head(?:\.decoder)?|embed_out|output|output_layer|generator_lm_head"
    r"|predictions(?:\.decoder)?|vocab_projector"
)
_INPUT_MATRIX = re.compile(rf"(?:^|\.)(?:{_INPUTS})\.weight$")
_VOCABULARY = re.compile(rf"(?:^|\.)(?:{_INPUTS}|{_OUTPUTS})\.(?:weight|bias)$")


class VocabularyError(ValueError):
    """Vocabularies that cannot be brought together; the message names the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The tokens of a model and the rows of its embedding matrix."""

    #: The model's reference, as the user wrote it.
    reference: str
    #: Token -> id; None if the model has no tokenizer.json that can be read.
    tokens: Mapping[str, int] | None
    #: Rows of the embedding matrix; rows that no token has are padding.
    num_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Where each row of a merged model's embeddings is to be found in each model."""

    mode: Mode
    #: Reference of the base.
    base: str
    #: The token of each output row; None is a row of padding.
    tokens: tuple[str | None, ...]
    #: Reference -> for each output row the row of that model's own matrix, None if it lacks it.
    rows: Mapping[str, tuple[int | None, ...]]
    #: Reference -> rows of that model's own matrix.
    num_rows: Mapping[str, int]

    @property
    def is_identity(self) -> bool:
        """Whether every model's matrices can be used as they are."""
        return all(self.is_unchanged(reference) for reference in self.rows)

    def is_unchanged(self, reference: str) -> bool:
        """Whether one model's matrices can be used as they are."""
        num_rows = self.num_rows[reference]
        return num_rows == len(self.tokens) and self.rows[reference] == tuple(range(num_rows))

    def donors(self, row: int) -> tuple[str, ...]:
        """Returns the models that give an output row to those that lack it: their mean is taken.

        It is the base alone where the base has the row, else every model that has it.
        """
        if self.rows[self.base][row] is not None:
            return (self.base,)
        return tuple(model for model, rows in self.rows.items() if rows[row] is not None)

    def vocabulary(self, reference: str) -> Vocabulary:
        """Returns the merged model's own vocabulary, for a merge that is a source of another."""
        tokens = {token: row for row, token in enumerate(self.tokens) if token is not None}
        return Vocabulary(reference=reference, tokens=tokens, num_rows=len(self.tokens))


def is_vocabulary_tensor(name: str) -> bool:
    """Whether a tensor's name says that its rows stand for tokens: embeddings, heads, head biases.

    Names that some architectures use for other things are decided by the number of rows as well
    (see `workers.models.aligned`).
    """
    return layer_of(name) is None and _VOCABULARY.search(name) is not None


def read_vocabulary(facts: ModelFacts) -> Vocabulary:
    """Returns a model's vocabulary; the matrix is measured, or else its configuration believed.

    Raises:
        VocabularyError: if neither the weights nor the configuration tell the number of rows.
    """
    inputs = [
        shape[0]
        for name, (_, shape) in facts.tensors.items()
        if layer_of(name) is None and _INPUT_MATRIX.search(name)
    ]
    nested = facts.config.get("text_config")
    settings = nested if isinstance(nested, Mapping) else {}
    configured = settings.get("vocab_size", facts.config.get("vocab_size"))
    if not inputs and configured is None:
        raise VocabularyError(
            f"model {facts.reference!r} does not say how many rows its embeddings have: no tensor "
            "is known as an embedding by its name, and config.json has no vocab_size"
        )
    num_rows = max(inputs) if inputs else int(configured)
    return Vocabulary(reference=facts.reference, tokens=facts.vocabulary, num_rows=num_rows)


def plan(base: Vocabulary, sources: Sequence[Vocabulary], mode: Mode) -> Alignment:
    """Aligns sources to a base.

    With `base`, the output rows are the base's, padding included. With `union`, tokens that only
    sources have follow, in the order of the first source that has them and of its ids; they first
    take the base's padding rows, lowest first, and then new rows at the end. Padding that is left
    stays, so a base with room for the new tokens keeps its shape. An id past the end of a model's
    matrix is no token of that model. Padding is read from a model's own row of the same number if
    that is padding too.

    Raises:
        VocabularyError: if a model whose vocabulary cannot be read differs from the others.
        ValueError: if the mode is unknown.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"tokenizer is one of {', '.join(get_args(Mode))}; got {mode!r}")
    models = _by_reference([base, *sources])
    is_uniform = _is_uniform(models)
    if is_uniform:
        known = next((_named_rows(one) for one in models if one.tokens is not None), {})
        tokens = [known.get(row) for row in range(base.num_rows)]
    else:
        _refuse_unreadable(models)
        tokens = _base_rows(base)
        if mode == "union":
            _add_tokens(tokens, models[1:])
    same = tuple(range(base.num_rows))
    return Alignment(
        mode=mode,
        base=base.reference,
        tokens=tuple(tokens),
        rows={one.reference: same if is_uniform else _find(tokens, one) for one in models},
        num_rows={one.reference: one.num_rows for one in models},
    )


def _by_reference(models: Iterable[Vocabulary]) -> list[Vocabulary]:
    """The base may be a source too, and a source may be named twice."""
    return list({one.reference: one for one in models}.values())


def _is_uniform(models: Sequence[Vocabulary]) -> bool:
    """Whether nothing tells the models apart; what cannot be read is taken to be the same."""
    readable = [one.tokens for one in models if one.tokens is not None]
    return len({one.num_rows for one in models}) == 1 and all(
        tokens == readable[0] for tokens in readable
    )


def _refuse_unreadable(models: Sequence[Vocabulary]) -> None:
    for one in models:
        if one.tokens is None:
            counts = ", ".join(f"{other.reference!r} {other.num_rows}" for other in models)
            raise VocabularyError(
                f"model {one.reference!r} has no tokenizer.json that can be read, so its "
                "embeddings cannot be aligned with models whose vocabularies differ (rows: "
                f"{counts}); save its tokenizer with transformers, which writes tokenizer.json"
            )


def _named_rows(vocabulary: Vocabulary) -> dict[int, str]:
    assert vocabulary.tokens is not None
    return {row: token for token, row in vocabulary.tokens.items() if row < vocabulary.num_rows}


def _base_rows(base: Vocabulary) -> list[str | None]:
    named = _named_rows(base)
    return [named.get(row) for row in range(base.num_rows)]


def _add_tokens(tokens: list[str | None], sources: Sequence[Vocabulary]) -> None:
    """Gives the sources' own tokens the free rows, then rows at the end.

    A token of the base that has no row of its own is not in `tokens`; a source may bring the row.
    """
    known = set(tokens) - {None}
    free = iter([row for row, token in enumerate(tokens) if token is None])
    for source in sources:
        for _, token in sorted(_named_rows(source).items()):
            if token in known:
                continue
            known.add(token)
            row = next(free, None)
            if row is None:
                tokens.append(token)
            else:
                tokens[row] = token


def _find(tokens: Sequence[str | None], model: Vocabulary) -> tuple[int | None, ...]:
    named = _named_rows(model)
    own = model.tokens
    assert own is not None

    def place(row: int, token: str | None) -> int | None:
        if token is None:
            return row if row < model.num_rows and row not in named else None
        found = own.get(token)
        return found if found is not None and found < model.num_rows else None

    return tuple(place(row, token) for row, token in enumerate(tokens))

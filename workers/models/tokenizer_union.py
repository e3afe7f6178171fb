"""Brings tokenizers together: a tokenizer.json whose ids are the rows of an alignment.

Text that needs no new token is cut as the base cuts it. Sources' added tokens stay added tokens.
Sources' core tokens join the base's model: in BPE with the merges that make them, after the base's
own merges, and in Unigram with their scores. Merges that lead to tokens of the base by another way
are left out, since they would change how the base's text is cut. Normalizer, pre-tokenizer,
post-processor and decoder are the base's; a core token that they never let through is not used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workers.models.vocabulary import VocabularyError

#: The parsed content of a tokenizer.json.
Tokenizer = Mapping[str, Any]


def core_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns token -> id of the model proper; Unigram lists its tokens in the order of ids."""
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):
        return {entry[0]: row for row, entry in enumerate(vocab)}
    return dict(vocab)


def all_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns token -> id of the model and of the added tokens."""
    added = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or []}
    return core_tokens(tokenizer) | added


def unite(
    base: Tokenizer, sources: Mapping[str, Tokenizer], tokens: Sequence[str | None]
) -> dict[str, Any]:
    """Returns the base's tokenizer.json with the sources' tokens at the given rows.

    Args:
        base: The base's tokenizer.json.
        sources: Reference -> tokenizer.json; the first that has a new token says what it is.
        tokens: The token of each row; None is padding.

    Raises:
        VocabularyError: if tokenizers are of different kinds, spell their tokens differently, or
            the rows cannot be written in the base's kind of file.
    """
    rows = {token: row for row, token in enumerate(tokens) if token is not None}
    for reference, source in sources.items():
        _refuse_other_kind(base, source, reference)
    old = all_tokens(base)
    added, core = _new_tokens(sources, [token for token in rows if token not in old])
    _refuse_other_spelling(base, sources, core)
    vocabulary = {token: _row_of(rows, token) for token in [*core_tokens(base), *core]}
    kept = [entry for entry in base.get("added_tokens") or [] if entry["content"] in rows]
    entries = sorted(
        ({**entry, "id": rows[entry["content"]]} for entry in [*kept, *added]),
        key=lambda entry: entry["id"],
    )
    if not _is_as_loaded(vocabulary, entries):
        vocabulary |= {entry["content"]: entry["id"] for entry in entries}
    model = _model(base, sources, vocabulary, core)
    united = {**base, "added_tokens": entries, "model": model}
    _check(united, rows)
    return united


def _kind(tokenizer: Tokenizer) -> str:
    """The model's type, which old files leave out."""
    model = tokenizer["model"]
    if "type" in model:
        return str(model["type"])
    if isinstance(model["vocab"], list):
        return "Unigram"
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _refuse_other_kind(base: Tokenizer, source: Tokenizer, reference: str) -> None:
    ours, theirs = _kind(base), _kind(source)
    if ours != theirs:
        raise VocabularyError(
            f"the tokenizer of {reference!r} is a {theirs} model, the base's a {ours} model; their "
            "union cannot be written. Use tokenizer: base"
        )


def _new_tokens(
    sources: Mapping[str, Tokenizer], wanted: Iterable[str]
) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """Returns the new added tokens' entries, and the new core tokens with whose they are."""
    flags = {
        reference: {entry["content"]: entry for entry in source.get("added_tokens") or []}
        for reference, source in sources.items()
    }
    cores = {reference: core_tokens(source) for reference, source in sources.items()}
    added: list[Mapping[str, Any]] = []
    core: dict[str, str] = {}
    for token in wanted:
        owners = [one for one in sources if token in flags[one] or token in cores[one]]
        if not owners:
            raise VocabularyError(f"no tokenizer at hand has the token {token!r} of the union")
        if token in flags[owners[0]]:
            added.append(flags[owners[0]][token])
        else:
            core[token] = owners[0]
    return added, core


def _refuse_other_spelling(
    base: Tokenizer, sources: Mapping[str, Tokenizer], core: Mapping[str, str]
) -> None:
    """A core token is only found in text that is spelled as the base spells it."""
    for token, owner in core.items():
        ours, theirs = _spelling(base), _spelling(sources[owner])
        if ours != theirs:
            raise VocabularyError(
                f"the tokenizer of {owner!r} spells its tokens ({theirs}) otherwise than the base "
                f"({ours}), so that tokens such as {token!r} would never be found in text. Use "
                "tokenizer: base"
            )


def _spelling(tokenizer: Tokenizer) -> str:
    stages = [tokenizer.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
    alphabet = "bytes" if '"ByteLevel"' in json.dumps(stages) else "characters"
    model = tokenizer["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    return f"{alphabet}, prefix {prefix!r}, suffix {suffix!r}"


def _row_of(rows: Mapping[str, int], token: str) -> int:
    if token not in rows:
        raise VocabularyError(
            f"token {token!r} of the base's model has no row of its own in the base's embeddings "
            "(its id is past their end, or another token has the same id); the union cannot be "
            "written. Use tokenizer: base"
        )
    return rows[token]


def _is_as_loaded(core: Mapping[str, int], added: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the tokenizers library gives added tokens the ids that they should have.

    It ignores the ids in the file: a token that the model has keeps the model's id, and any other
    gets the number after the last added token, or the size of the model if that is more.
    """
    last = -1
    for entry in added:
        given = core.get(entry["content"], max(last + 1, len(core)))
        if given != entry["id"]:
            return False
        last = max(last, given)
    return True


def _model(
    base: Tokenizer,
    sources: Mapping[str, Tokenizer],
    vocabulary: Mapping[str, int],
    core: Mapping[str, str],
) -> dict[str, Any]:
    ordered = dict(sorted(vocabulary.items(), key=lambda pair: pair[1]))
    model = {**base["model"], "vocab": ordered}
    if _kind(base) == "Unigram":
        model["vocab"] = _scored(base, sources, ordered, core)
    elif _kind(base) == "BPE":
        model["merges"] = [*_merges(base), *_new_merges(base, sources, vocabulary, core)]
    return model


def _scored(
    base: Tokenizer,
    sources: Mapping[str, Tokenizer],
    vocabulary: Mapping[str, int],
    core: Mapping[str, str],
) -> list[list[Any]]:
    """Returns a Unigram's (token, score) in the order of rows.

    No score is below the base's lowest: what an unknown character costs hangs on that one.
    """
    scores = dict(base["model"]["vocab"])
    lowest = min(scores.values())
    theirs = {owner: dict(sources[owner]["model"]["vocab"]) for owner in set(core.values())}
    scores |= {token: max(theirs[owner][token], lowest) for token, owner in core.items()}
    if list(vocabulary.values()) != list(range(len(vocabulary))):
        raise VocabularyError(
            "the base's embeddings have rows without tokens between its tokens, which a Unigram "
            "tokenizer cannot express. Use tokenizer: base"
        )
    return [[token, scores.get(token, lowest)] for token in vocabulary]


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    """A BPE's merges as pairs; older files join the two with a space."""
    merges = tokenizer["model"].get("merges") or []
    return [merge.split(" ", 1) if isinstance(merge, str) else list(merge) for merge in merges]


def _new_merges(
    base: Tokenizer,
    sources: Mapping[str, Tokenizer],
    vocabulary: Mapping[str, int],
    core: Mapping[str, str],
) -> list[list[str]]:
    """Returns the merges that make new tokens, from every source that has them in its model."""
    prefix = base["model"].get("continuing_subword_prefix") or ""
    found: dict[tuple[str, str], None] = {}
    for source in sources.values():
        for left, right in _merges(source):
            makes_new = left + right.removeprefix(prefix) in core
            if makes_new and left in vocabulary and right in vocabulary:
                found.setdefault((left, right))
    return [list(pair) for pair in found]


def _check(united: Tokenizer, rows: Mapping[str, int]) -> None:
    """Loads the result as transformers will: a wrong id would give wrong text without a word."""
    from tokenizers import Tokenizer as Loaded

    ids = Loaded.from_str(json.dumps(united)).get_vocab(with_added_tokens=True)
    wrong = sorted(token for token, row in rows.items() if ids.get(token) != row)
    if wrong:
        raise VocabularyError(
            f"the union of the tokenizers gives {len(wrong)} tokens another id than their row "
            f"(such as {wrong[0]!r}: id {ids.get(wrong[0])}, row {rows[wrong[0]]}); it cannot be "
            "written. Use tokenizer: base"
        )

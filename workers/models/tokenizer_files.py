"""Writes the tokenizer of a merged model: the base's files, or the union of all models' tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workers.models.tokenizer_union import all_tokens, unite
from workers.models.vocabulary import Alignment, VocabularyError

_TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
#: Files that any tokenizer may have, whatever its tokens are.
_COMMON = ("tokenizer_config.json", "special_tokens_map.json")
#: Files that hold tokens. A union's are in tokenizer.json alone; the others would be stale.
_TOKENS = (
    "tokenizer.json",
    "tokenizer.*.json",
    "added_tokens.json",
    "vocab.*",
    "vocab-*",
    "merges.txt",
    "bpe.codes",
    "tekken.json",
    "*.model",
    "*.model.v*",
    "*.spm",
    "*.tiktoken",
)
_TEMPLATES = ("chat_template.jinja", "additional_chat_templates/*.jinja", "chat_template.json")

_log = logging.getLogger(__name__)


def write_tokenizer(
    alignment: Alignment,
    base_folder: Path,
    source_folders: Mapping[str, Path],
    out_folder: Path,
    chat_template: str = "base",
    *,
    with_code: bool = False,
) -> None:
    """Writes what AutoTokenizer needs for a merged model; weights are left alone.

    The base's files are copied byte by byte unless the alignment has tokens that the base lacks.
    A union is tokenizer.json and its settings only: slow tokenizers' vocabularies are left out.

    Args:
        alignment: The plan that the weights are read by.
        base_folder: The base's folder.
        source_folders: Reference -> folder of each model, sources in their order.
        out_folder: Made if it is not there.
        chat_template: `base` keeps the base's, `none` leaves it out, a model's reference takes
            that model's.
        with_code: Whether the base's *.py files come along.

    Raises:
        VocabularyError: if the union cannot be written, or the model named has no chat template.
            Nothing is written then.
    """
    original = _read_json(base_folder / _CONFIG)
    config = original
    files = _read_files(base_folder, (*_COMMON, *(("*.py",) if with_code else ())))
    united = _united(alignment, base_folder, source_folders)
    if united is None:
        files |= _read_files(base_folder, _TOKENS)
    else:
        files[_TOKENIZER] = _as_bytes(united)
        config = _with_added_tokens(config, united)
    folders = {alignment.base: base_folder, **source_folders}
    config, templates = _with_template(config, base_folder, folders, chat_template)
    files |= templates
    if config != original:
        files[_CONFIG] = _as_bytes(config)
    if chat_template not in ("base", "none"):
        _warn_of_lost_tokens(folders[chat_template], config, templates, alignment)
    for name, content in files.items():
        (out_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (out_folder / name).write_bytes(content)


def with_vocab_size(config: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    """Returns a model's configuration for embeddings of `num_rows` rows; the given one stays.

    A nested `text_config` is changed too. Ids of special tokens stay, for they are the base's.
    """
    changed = dict(config)
    nested = config.get("text_config")
    if isinstance(nested, Mapping):
        changed["text_config"] = {**nested, "vocab_size": num_rows}
    if "vocab_size" in config or not isinstance(nested, Mapping):
        changed["vocab_size"] = num_rows
    return changed


def _united(
    alignment: Alignment, base_folder: Path, source_folders: Mapping[str, Path]
) -> dict[str, Any] | None:
    """Returns the union's tokenizer.json, or None where the base's own will do."""
    path = base_folder / _TOKENIZER
    if alignment.mode != "union" or not path.is_file():
        return None
    base = _read_json(path)
    ids = all_tokens(base)
    rows = enumerate(alignment.tokens)
    if all(token is None or ids.get(token) == row for row, token in rows):
        return None
    others = {
        reference: _read_json(folder / _TOKENIZER)
        for reference, folder in source_folders.items()
        if reference != alignment.base
    }
    without = [reference for reference, tokenizer in others.items() if not tokenizer]
    if without:
        raise VocabularyError(f"model {without[0]!r} has no {_TOKENIZER} to take tokens from")
    return unite(base, others, alignment.tokens)


def _with_added_tokens(config: Mapping[str, Any], united: Mapping[str, Any]) -> dict[str, Any]:
    """Some classes of transformers take added tokens from the settings, if they list any."""
    if "added_tokens_decoder" not in config:
        return dict(config)
    entries = {
        str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
        for entry in united["added_tokens"]
    }
    return {**config, "added_tokens_decoder": entries}


def _with_template(
    config: Mapping[str, Any], base_folder: Path, folders: Mapping[str, Path], chosen: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns the settings and the template files for a choice of chat template."""
    if chosen == "base":
        return dict(config), _read_files(base_folder, _TEMPLATES)
    bare = {key: value for key, value in config.items() if key != "chat_template"}
    if chosen == "none":
        return bare, {}
    if chosen not in folders:
        raise VocabularyError(
            f"chat_template is base, none or one of the models "
            f"({', '.join(map(repr, folders))}); got {chosen!r}"
        )
    template = _read_json(folders[chosen] / _CONFIG).get("chat_template")
    files = _read_files(folders[chosen], _TEMPLATES)
    if not template and not files:
        raise VocabularyError(
            f"chat_template names model {chosen!r}, which has none: no chat_template.jinja, and no "
            f"chat_template in {_CONFIG}"
        )
    return bare | ({"chat_template": template} if template else {}), files


def _warn_of_lost_tokens(
    folder: Path, config: Mapping[str, Any], files: Mapping[str, bytes], alignment: Alignment
) -> None:
    """A template may write tokens that the merged model does not have; they fall to pieces."""
    written = json.dumps(config.get("chat_template"), ensure_ascii=False)
    written += "".join(content.decode("utf-8") for content in files.values())
    added = _read_json(folder / _TOKENIZER).get("added_tokens") or []
    tokens = set(alignment.tokens)
    lost = [one["content"] for one in added if one["content"] not in tokens]
    used = [token for token in lost if token in written]
    if used:
        _log.warning(
            "the chat template writes tokens that the merged model lacks: %s (tokenizer: union "
            "keeps them)",
            ", ".join(used),
        )


def _read_files(folder: Path, patterns: Iterable[str]) -> dict[str, bytes]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def _read_json(path: Path) -> dict[str, Any]:
    """Returns an object read from JSON; a file that is not there says nothing."""
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VocabularyError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise VocabularyError(f"{path} does not hold a JSON object")
    return loaded


def _as_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

"""Tells whether rows are those of a well-known public test set, by name or by content.

A search on a public test set gives a number that cannot be compared with anybody else's. Content is
recognised by fingerprints: hashes of what the sets' questions say, recorded beforehand (see
`benchmarks/record_public_rows.py`). No row is kept, and none can be had back from its hash.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from lm_eval.api.task import Task

from evaluators.base import Rows
from evaluators.harness.tasks import Document

#: Last part of a data set's name on the hub, or an lm-eval task's name -> its splits that results
#: are reported on. Sets whose test rows have no public labels are reported on validation rows.
_REPORTED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "ai2_arc", "arc_challenge", "arc_easy", "gsm8k", "gsm8k_cot", "hendrycks_math",
            "humaneval", "lambada_openai", "lambada_standard", "math_500", "mbpp", "mgsm", "mmlu",
            "mmlu_pro", "openai_humaneval", "openbookqa", "race", "sciq", "xcopa",
        ),
        frozenset({"test"}),
    ),
    **dict.fromkeys(
        (
            "boolq", "commonsense_qa", "drop", "glue", "hellaswag", "jglue", "nq_open", "piqa",
            "social_i_qa", "squad_v2", "super_glue", "trivia_qa", "truthful_qa", "winogrande",
        ),
        frozenset({"validation"}),
    ),
    **dict.fromkeys(("gpqa", "ifeval"), frozenset({"train", "test", "validation"})),
}  # fmt: skip
#: How many rows must be recognised, and which share of all: sets share some of their questions
#: with others and with their own training rows. At least 3% of any recorded set's rows are known.
MIN_MATCHES, MIN_SHARE = 3, 0.005
#: Shorter texts, in bytes of UTF-8 without spaces and marks, may be anybody's.
_MIN_BYTES = 24
_DIGEST_BYTES = 8
#: Recognised documents that a warning names.
_SHOWN = 5
_LABEL = re.compile(r"^[^\W\d_]{1,12}\s*[:\uff1a]\s*")
_NOT_LETTERS = re.compile(r"[\W_]+")


def warnings_about(
    rows: Rows, tasks: Mapping[str, Task], documents: Mapping[str, Sequence[Document]]
) -> list[str]:
    """Returns a warning for each task whose rows are those of a public test set."""
    found = []
    for name, task in tasks.items():
        reason = _by_name(task) or _by_content(documents[name])
        if reason:
            found.append(
                f"{rows} rows of task {name!r} are a public test set ({reason}): what is chosen on "
                "them cannot be compared with others' results on that set; choose on other rows, "
                "such as its training rows"
            )
    return found


def fingerprints(text: str) -> Iterator[bytes]:
    """Yields the hashes of a text and of each of its lines, as long as they say enough.

    Case, spaces, punctuation and a label before a line ("Question:") make no difference.
    """
    for part in {text, *text.splitlines()}:
        plain = _NOT_LETTERS.sub("", unicodedata.normalize("NFKC", _LABEL.sub("", part)).casefold())
        data = plain.encode()
        if len(data) >= _MIN_BYTES:
            yield hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def pack(digests: Iterable[bytes]) -> str:
    """Returns fingerprints as text, sorted."""
    return base64.b64encode(b"".join(sorted(digests))).decode()


def unpack(packed: Mapping[str, str]) -> dict[bytes, tuple[str, ...]]:
    """Returns fingerprint -> the sets that it was recorded from, given set -> packed ones."""
    found: dict[bytes, tuple[str, ...]] = {}
    for name, text in packed.items():
        data = base64.b64decode(text)
        for start in range(0, len(data), _DIGEST_BYTES):
            digest = data[start : start + _DIGEST_BYTES]
            found[digest] = (*found.get(digest, ()), name)
    return found


@functools.cache
def recorded() -> Mapping[bytes, tuple[str, ...]]:
    """Returns fingerprint -> the public sets that it was recorded from, as shipped."""
    text = resources.files("evaluators.harness").joinpath("public_rows.json").read_text()
    return unpack(json.loads(text))


def recognise(
    documents: Mapping[int, Any], known: Mapping[bytes, tuple[str, ...]]
) -> dict[str, list[int]]:
    """Returns the public sets that documents are from, and which of them are known to be."""
    matches: dict[str, list[int]] = {}
    for place, document in documents.items():
        digests = {digest for text in _texts(document) for digest in fingerprints(text)}
        for name in sorted({name for digest in digests for name in known.get(digest, ())}):
            matches.setdefault(name, []).append(place)
    enough = max(MIN_MATCHES, MIN_SHARE * len(documents))
    return {name: places for name, places in matches.items() if len(places) >= enough}


def _by_name(task: Task) -> str:
    config = task.config
    split = str(config.test_split or config.validation_split)
    path = str(config.dataset_path or "").rpartition("/")[2]
    for name in (path, str(config.task)):
        known = name.casefold().replace("-", "_")
        # Slices such as test[:100] are of their split.
        if split.partition("[")[0] in _REPORTED.get(known, ()):
            return f"{name}, {split} split"
    return ""


def _by_content(documents: Sequence[Document]) -> str:
    sets = recognise({one.index: one.content for one in documents}, recorded())
    if not sets:
        return ""
    places = max(sets.values(), key=len)
    return (
        f"{', '.join(sorted(sets))}; by their text at least {len(places)} of {len(documents)}, "
        f"such as documents {', '.join(map(str, places[:_SHOWN]))}"
    )


def _texts(value: Any) -> Iterator[str]:
    """Yields every text within a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)

"""One hash for all that is recognised by its content: recipes, documents, settings, evaluations."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def hash_text(text: str) -> str:
    """Returns 32 hexadecimal digits (BLAKE2b of 16 bytes)."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def hash_json(data: Any) -> str:
    """Returns the hash of plain data, whatever the order of its keys."""
    return hash_text(json.dumps(data, sort_keys=True, default=str))

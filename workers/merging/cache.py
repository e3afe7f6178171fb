"""What depends on models alone is kept from candidate to candidate, as far as memory goes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

#: What an entry costs beside its tensors: key, object and dictionary slot.
_OVERHEAD_BYTES = 400


class Cache:
    """Keeps results under keys; what was asked for longest ago makes way."""

    def __init__(self, limit_bytes: int = 256 << 20) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._held: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Returns what is kept under a key; computes it the first time."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        found = compute()
        self._held[key] = found
        self._held_bytes += _size(found)
        while self._held_bytes > self._limit_bytes and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._held_bytes -= _size(dropped)
        return found


def _size(held: Any) -> int:
    return _OVERHEAD_BYTES + int(getattr(held, "nbytes", 0))

"""Optuna, imported when it is named: it is an extra, and takes a while to load."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def load() -> Any:
    """Returns the package.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ValueError(
            "kind: 'optuna' needs the package optuna; install shoal[optuna]"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna

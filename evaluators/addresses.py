"""Functions by address: `package.module:function`, or `path/to/file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from evaluators.digest import hash_json, hash_text


def load_function(address: str) -> Callable[..., Any]:
    """Returns the function at an address; relative paths start from the working folder.

    Raises:
        ValueError: if it cannot be imported or is no function.
    """
    place, colon, name = address.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(
            "expected the address of a function, package.module:function or "
            f"path/to/file.py:function, got {address!r}"
        )
    found = getattr(_module(place), name, None)
    if found is None:
        raise ValueError(f"{place!r} has no function {name!r}")
    if not callable(found):
        raise ValueError(  # noqa: TRY004  (what the user wrote is wrong, not a type)
            f"{address!r} is {found!r}, expected a function"
        )
    return found  # type: ignore[no-any-return]


def source_digest(address: str) -> str:
    """Returns a hash of the source of the module that a function is in, and of its name.

    What that module imports is not in it; of compiled modules, the version of Python is.
    """
    place, _, name = address.rpartition(":")
    file = getattr(_module(place), "__file__", None)
    is_source = file is not None and Path(file).suffix == ".py"
    text = Path(file).read_text(encoding="utf-8") if is_source and file else place
    return hash_json([hash_text(text), name, None if is_source else platform.python_version()])


def _module(place: str) -> ModuleType:
    try:
        return _of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # whatever a user's module does when it is run
        hint = "" if place.endswith(".py") else "; a file is named as path/to/file.py:function"
        raise ValueError(
            f"{place!r} cannot be imported: {type(error).__name__}: {error}{hint}"
        ) from error


def _of_file(path: Path) -> ModuleType:
    """Runs a file as a module, once."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path.absolute())!r}")
    name = f"{path.stem}_{hash_text(str(path.resolve()))[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None, "a file that ends with .py can be loaded"
    assert spec.loader is not None, "a file that ends with .py can be loaded"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is run
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

"""Which software this is: recorded with each campaign, and checked for intruders.

The four packages have everyday names. If another distribution installs one of them, imports could
silently find its code instead of ours.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path

PACKAGES = ("orchestrator", "cluster", "workers", "evaluators")
_RECORDED = ("shoal", "torch", "transformers", "lm_eval", "ray", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of what decides a result."""
    found: dict[str, str] = {}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def check_packages() -> None:
    """Checks that the four packages are those of one folder.

    Raises:
        RuntimeError: naming the distribution that another package comes from.
    """
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        module = importlib.import_module(name)
        found = Path(str(module.__file__)).resolve().parent.parent
        if found != home:
            owners = metadata.packages_distributions().get(name, ["an unknown distribution"])
            raise RuntimeError(
                f"package {name!r} is imported from {found}, not from shoal's {home}; it "
                f"belongs to {', '.join(owners)}: uninstall that, or give shoal "
                "an environment of its own"
            )

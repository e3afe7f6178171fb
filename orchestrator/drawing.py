"""Pictures drawn without a screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def drawn(path: Path, *shape: int, dpi: int = 120, **settings: Any) -> Iterator[tuple[Any, Any]]:
    """Gives a figure and its axes to draw on; what is drawn is a file afterwards.

    Args:
        path: The file; its folder is made if there is none.
        *shape: Rows and columns of axes; one of them if not said.
        dpi: Pixels to the inch.
        **settings: Of `matplotlib.pyplot.subplots`.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(*shape, layout="constrained", **settings)
    try:
        yield figure, axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi)
    finally:
        plt.close(figure)

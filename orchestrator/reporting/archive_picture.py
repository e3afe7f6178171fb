"""The picture of archives: which niches are held, and how good who holds them is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.algorithms.archive import Grid
from orchestrator.drawing import drawn
from orchestrator.reporting.archives import Archives, Named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Quality of each bin, NaN where nobody is.
Map: TypeAlias = npt.NDArray[np.float64]
_COLUMNS = 3
_COLOURS = "viridis"
#: Axes that a plane has, and points along each of those that a tessellation is drawn at.
_PLANE, _RASTER = 2, 240


def draw(found: Archives, path: Path) -> None:
    """Draws each archive: a heat map over its first two axes, or bars where there is one.

    Of what lies behind a bin in further axes the best is shown.

    Args:
        found: What to draw.
        path: The file; its folder is made if there is none.
    """
    num = len(found.archives)
    columns = min(num, _COLUMNS)
    rows = -(-num // columns)
    size = (5.2 * columns, 4.2 * rows)
    with drawn(path, rows, columns, squeeze=False, figsize=size) as (figure, panels):
        for panel in panels.flat[num:]:
            panel.set_axis_off()
        for panel, named, one in zip(panels.flat, found.archives, found.sums, strict=False):
            panel.set_title(f"{one.cells} of {named.niches.num_cells:,} cells", fontsize="medium")
            panel.set_xlabel(named.axes[0] if named.axes else "one cell")
            if len(named.axes) > 1:
                panel.set_ylabel(named.axes[1])
                shown = _draw_plane(panel, named)
                figure.colorbar(shown, ax=panel, label=f"best {named.quality}")
            else:
                panel.set_ylabel(f"best {named.quality}")
                _draw_line(panel, named)


def heat_map(named: Named) -> Map:
    """Returns the best quality in each bin of a grid's first two axes; (second, first)."""
    grid = named.niches.archive
    assert isinstance(grid, Grid), "only a grid has bins"
    num = len(named.niches.limits)
    shape = tuple(grid.bins if axis < num else 1 for axis in range(max(2, num)))
    found = np.full(shape, np.nan)
    found.ravel()[named.niches.cells] = named.niches.worth
    behind = tuple(range(2, num))
    best: Map = np.fmax.reduce(found, axis=behind) if behind else found
    return best.T


def _draw_line(panel: Axes, named: Named) -> None:
    """Draws an archive of one axis, or of one cell: each member's quality by where it lies."""
    one = named.niches
    if not one.limits:
        panel.bar([0.5], one.worth, width=0.5)
    elif isinstance(one.archive, Grid):
        ((low, high),) = one.limits
        width = (high - low) / one.archive.bins
        panel.bar(low + (one.cells + 0.5) * width, one.worth, width=0.92 * width)
        panel.set_xlim(low, high)
    else:
        panel.plot(one.behaviours[:, 0], one.worth, "o")


def _draw_plane(panel: Axes, named: Named) -> Any:
    one = named.niches
    look: dict[str, Any] = {"cmap": _COLOURS, "aspect": "auto", "interpolation": "nearest"}
    if isinstance(one.archive, Grid):
        cells = heat_map(named)
    elif len(one.limits) == len(one.behaviours[0]) == _PLANE:
        cells = _tessellated(named)
    else:
        first, second = one.behaviours[:, 0], one.behaviours[:, 1]
        return panel.scatter(first, second, c=one.worth, s=26, cmap=_COLOURS)
    panel.set_facecolor("0.92")
    extent = _extent(one.limits)
    return panel.imshow(np.ma.masked_invalid(cells), origin="lower", extent=extent, **look)


def _tessellated(named: Named) -> Map:
    """Returns the quality of the cell that each point of a raster lies in; (second, first)."""
    one = named.niches
    quality = np.full(one.num_cells, np.nan)
    quality[one.cells] = one.worth
    first, second = (np.linspace(low, high, _RASTER) for low, high in one.limits)
    points = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
    found: Map = quality[one.archive.cells_of(points, one.limits)].reshape(_RASTER, _RASTER)
    return found


def _extent(limits: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    first, second = limits[:2]
    return (*first, *second)

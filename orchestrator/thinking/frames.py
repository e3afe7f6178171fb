"""One picture for each tick: what is looked at, answered, how certainly, and by which neurons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orchestrator.thinking.maze_frames import draw_attention_along, draw_maze
from orchestrator.thinking.painting import ranges
from orchestrator.thinking.record import Look, Thinking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI, _INCHES = 90, (10.0, 6.4)
_TRACES, _TRACES_IN_A_ROW = 12, 6
_INK, _MUTED, _LINE = "#1b2130", "#667085", "#e2e5ec"
_ACCENT, _HEAT, _GOOD, _BAD = "#3b5bdb", "#f76707", "#2b8a3e", "#c92a2a"
#: Classes of which bars are drawn at most, and places of an answer in a row.
_MOST_BARS, _ROW = 12, 10
#: Places of an edge up to which ticks have their numbers.
_MOST_NUMBERED = 17
#: Colours that mean something.
SIGNALS = (_GOOD, _BAD, _ACCENT, _HEAT, "#1c7ed6", "#26915f", "#5f3dc4", "#b197fc")


def draw(thinking: Thinking, ticks: Sequence[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields a picture (height, width, 3) for each of some ticks."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    for tick in ticks:
        figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="white")
        _draw_tick(figure, thinking, tick)
        yield _pixels(figure)


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _draw_tick(figure: Figure, thinking: Thinking, tick: int) -> None:
    look, _ = thinking.look_at(tick)
    heights = (1.25, 1, 1.35) if look.way is None else (1, 0.8, 1.35, 1.2)
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1, 1.25), left=0.03, right=0.97, bottom=0.07, top=0.85,
        wspace=0.14, hspace=0.42,
    )  # fmt: skip
    right = grid[:, 1].subgridspec(len(heights), 1, height_ratios=heights, hspace=0.62)
    verdict = thinking.verdict(tick)
    said = ", ".join(one for one in (verdict, thinking.outcome(tick)) if one)
    colour = {"right": _GOOD, "wrong": _BAD}.get(verdict, _INK)
    figure.text(0.03, 0.945, thinking.title, fontsize=13, weight="bold", color=_INK)
    figure.text(0.03, 0.9, thinking.facts, fontsize=9, color=_MUTED)
    head = f"tick {tick + 1} / {thinking.ticks}"
    figure.text(0.97, 0.945, head, fontsize=13, weight="bold", color=_INK, ha="right")
    figure.text(0.97, 0.9, said, fontsize=10, weight="bold", color=colour, ha="right")
    if look.picture is not None:
        _draw_look(figure.add_subplot(grid[:, 0]), thinking, tick)
    else:
        left = grid[:, 0].subgridspec(2, 1, height_ratios=(1, 1.9), hspace=0.25)
        _draw_look(figure.add_subplot(left[0]), thinking, tick)
        _draw_map(figure.add_subplot(left[1]), thinking, tick)
    figure.text(0.03, 0.02, _legend(thinking, look), fontsize=8.5, color=_MUTED)
    _draw_answer(figure.add_subplot(right[0]), thinking, tick)
    _draw_certainty(figure.add_subplot(right[1]), thinking, tick)
    if look.way is not None:
        draw_attention_along(figure.add_subplot(right[2]), thinking, tick)
    _draw_traces(figure.add_subplot(right[len(heights) - 1]), thinking, tick)


def _legend(thinking: Thinking, look: Look) -> str:
    parts = []
    if look.mean is not None:
        parts.append("orange: attention of all heads")
    if look.mean is not None and look.picture is not None:
        parts.append("violet: most of it, by tick")
    if thinking.walks:
        parts += ["blue: the answered route", "green dots: the right way"]
    if thinking.rounds > 1:
        parts.append("dark blue: walked before")
    return "; ".join(parts)


def _heading(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, color=_MUTED, loc="left", pad=5)


def _draw_look(axes: Axes, thinking: Thinking, tick: int) -> None:
    look, inside = thinking.look_at(tick)
    rows, columns = look.grid
    _heading(axes, f"looks at {look.name}")
    # A few tokens do not fill the frame.
    right = columns if look.picture is not None else max(columns, 4)
    axes.set(xlim=(-0.5, right - 0.5), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_aspect(0.7)
    axes.set_anchor("NW")
    for side in axes.spines.values():
        side.set_visible(False)
    # Places are units, and a picture is stretched over all of them.
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    if look.picture is not None:
        height, width, _ = look.picture.shape
        axes.imshow(look.picture, extent=extent, interpolation="nearest")
        axes.set_aspect((height / rows) / (width / columns))
    if look.mean is not None:
        _draw_attention(axes, look.mean, inside, look, extent)
    _draw_labels(axes, look)
    if thinking.walks:
        draw_maze(axes, thinking, tick)
    if look.picture is not None and look.mean is not None:
        _draw_peaks(axes, look, inside, len(look.mean))


def _draw_map(axes: Axes, thinking: Thinking, tick: int) -> None:
    """Draws what each head looks at, or how neurons synchronise where nothing is attended to."""
    from matplotlib.colors import LinearSegmentedColormap

    look, inside = thinking.look_at(tick)
    if look.attention is not None:
        heat = LinearSegmentedColormap.from_list("heat", ["#f1f3f5", _HEAT])
        axes.imshow(look.attention[inside], cmap=heat, vmin=0, vmax=1, aspect="auto")
        _heading(axes, "attention of each head (rows) on each place")
    else:
        found = np.full_like(thinking.synchronisation, np.nan)
        found[: tick + 1] = thinking.synchronisation[: tick + 1]
        peak = float(np.quantile(np.abs(thinking.synchronisation), 0.99)) or 1.0
        drawn = axes.imshow(found.T, cmap="RdBu_r", aspect="auto", interpolation="nearest")
        drawn.set_clim(-peak, peak)
        _heading(axes, "synchronisation of pairs (rows) over the ticks")
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_color(_LINE)


def _draw_attention(
    axes: Axes,
    mean: npt.NDArray[np.float32],
    inside: int,
    look: Look,
    extent: tuple[float, float, float, float],
) -> None:
    from matplotlib.colors import to_rgb

    rows, columns = look.grid
    strength = 0.9 * (mean[inside] / mean.max()).reshape(rows, columns)
    heat = np.empty((rows, columns, 4))
    heat[:, :, :3], heat[:, :, 3] = to_rgb(_HEAT), strength
    axes.imshow(heat, extent=extent, interpolation="nearest", aspect=axes.get_aspect())


def _draw_labels(axes: Axes, look: Look) -> None:
    from matplotlib.patches import Rectangle

    columns = look.grid[1]
    longest = max(map(len, look.labels), default=1)
    size = min(13.0, 400 / max(columns, 4) / longest, 110 / columns)
    for place, label in enumerate(look.labels):
        row, column = divmod(place, columns)
        box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, ec=_MUTED, lw=0.8)
        axes.add_patch(box)
        axes.text(column, row, label, ha="center", va="center", fontsize=size, color=_INK)


def _draw_peaks(axes: Axes, look: Look, inside: int, ticks: int) -> None:
    """Draws which places are looked at most, one tick after another, from light to dark."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex
    from matplotlib.patheffects import withStroke

    spots = look.peaks[: inside + 1]
    shades = LinearSegmentedColormap.from_list("ticks", ["#b197fc", "#5f3dc4"])
    colours = [to_hex(shades(tick / max(1, ticks - 1))) for tick in range(ticks)]
    at: dict[tuple[int, int], list[int]] = {}
    for tick, spot in enumerate(spots):
        at.setdefault(spot, []).append(tick + 1)
        if tick:
            ys, xs = zip(spots[tick - 1], spot, strict=True)
            axes.plot(xs, ys, lw=5, color="white", alpha=0.7, solid_capstyle="round")
            axes.plot(xs, ys, lw=2.2, color=colours[tick], solid_capstyle="round")
    size = min(9.0, 64 / max(look.grid))
    for (row, column), numbers in at.items():
        axes.plot(column, row, "o", ms=size, color=colours[numbers[-1] - 1], mec="white", mew=0.8)
        if max(look.grid) <= _MOST_NUMBERED:
            axes.annotate(
                ranges(numbers), (column, row), xytext=(0, -size - 2), ha="center", va="center",
                textcoords="offset points", fontsize=8, weight="bold", color="#5f3dc4",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip


def _draw_answer(axes: Axes, thinking: Thinking, tick: int) -> None:
    if thinking.probabilities.shape[1] == 1:
        _draw_bars(axes, thinking, tick)
    else:
        _draw_places(axes, thinking, tick)


def _draw_bars(axes: Axes, thinking: Thinking, tick: int) -> None:
    shares = thinking.probabilities[tick, 0]
    kinds = np.arange(len(shares))
    if len(kinds) > _MOST_BARS:
        kinds = np.sort(np.argsort(-shares, kind="stable")[:_MOST_BARS])
    best = int(shares.argmax())
    colours = [_ACCENT if kind == best else "#adb5bd" for kind in kinds]
    axes.bar(range(len(kinds)), shares[kinds], color=colours, width=0.7)
    names = [thinking.classes[kind] for kind in kinds]
    axes.set_xticks(range(len(kinds)), names, fontsize=9)
    target = thinking.target(tick)
    wanted = None if target is None or thinking.said else target[0]
    for label, kind in zip(axes.get_xticklabels(), kinds, strict=True):
        if kind == wanted:
            label.set(color=_GOOD, weight="bold")
    said = " ".join(thinking.classes[one] for one in thinking.answer(tick)) or "nothing"
    right = ""
    if target is not None:
        right = "   right is " + " ".join(thinking.classes[one] for one in target)
    _heading(axes, f"{'said so far' if thinking.said else 'answers'} {said}{right}")
    _plain_axes(axes, (0, 1.05))


def _draw_places(axes: Axes, thinking: Thinking, tick: int) -> None:
    answer, target = thinking.answer(tick), thinking.target(tick)
    shares = thinking.probabilities[tick].max(axis=1)
    num = len(answer)
    columns = min(num, max(_ROW, -(-num // 4)))
    rows = -(-num // columns)
    size = min(13.0, 420 / columns / max(map(len, thinking.classes)), 30 / rows + 3)
    for place, (kind, share) in enumerate(zip(answer, shares, strict=True)):
        row, column = divmod(place, columns)
        wanted = None if target is None else target[place]
        colour = _INK if wanted is None else _GOOD if kind == wanted else _BAD
        axes.text(
            column, row, thinking.classes[kind], ha="center", va="center", fontsize=size,
            color=colour, weight="bold",
        )  # fmt: skip
        if wanted is not None:
            name = thinking.classes[wanted]
            axes.text(column, row + 0.72, name, ha="center", va="center", fontsize=0.7 * size,
                      color=_MUTED)  # fmt: skip
        axes.plot([column - 0.35, column + 0.35], [row + 0.38] * 2, color=_LINE, lw=3)
        reach = [column - 0.35, column - 0.35 + 0.7 * share]
        axes.plot(reach, [row + 0.38] * 2, color=colour, lw=3)
    axes.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.05, -0.5))
    axes.axis("off")
    below = "" if target is None else "; below what is right"
    _heading(axes, f"answers, each with its probability{below}")


def _draw_certainty(axes: Axes, thinking: Thinking, tick: int) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = range(1, tick + 2)
    for taken in thinking.taken:
        if taken <= tick:
            axes.plot(taken + 1, thinking.certainty[taken], "o", ms=9, mfc="none", mec=_INK)
    for begin in range(
        thinking.ticks // thinking.rounds, thinking.ticks, thinking.ticks // thinking.rounds
    ):
        axes.axvline(begin + 0.5, color=_LINE, lw=1.2)
    axes.plot(numbers, thinking.certainty[: tick + 1], color=_ACCENT, lw=1.8, zorder=2)
    for number in numbers:
        right = thinking.right(number - 1)
        colour = _ACCENT if right is None else _GOOD if right else _BAD
        axes.plot(number, thinking.certainty[number - 1], "o", color=colour, ms=4.5, zorder=3)
    axes.set_xlim(0.5, thinking.ticks + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _heading(axes, f"certainty {thinking.certainty[tick]:.3f}")
    _plain_axes(axes, (-0.05, 1.08))


def _draw_traces(axes: Axes, thinking: Thinking, tick: int) -> None:
    liveliest = np.argsort(-thinking.post.std(axis=0), kind="stable")[:_TRACES]
    along = np.linspace(0.0, 0.86, thinking.ticks)[: tick + 1]
    for place, neuron in enumerate(liveliest):
        row, column = divmod(place, _TRACES_IN_A_ROW)
        axes.plot([column, column + 0.86], [-row, -row], color=_LINE, lw=0.8, zorder=1)
        for values, colour, width in (
            (thinking.pre, "#98a2b3", 1.0),
            (thinking.post, _ACCENT, 1.5),
        ):
            peak = max(float(np.abs(values[:, neuron]).max()), 1e-9)
            heights = 0.42 * values[: tick + 1, neuron] / peak - row
            axes.plot(column + along, heights, color=colour, lw=width)
            axes.plot(column + along[-1], heights[-1], ".", color=colour, ms=4)
    rows = -(-len(liveliest) // _TRACES_IN_A_ROW)
    axes.set(xlim=(-0.05, _TRACES_IN_A_ROW - 0.1), ylim=(-rows + 0.5, 0.5))
    axes.axis("off")
    _heading(axes, f"the {len(liveliest)} liveliest neurons, before (grey) and after their models")


def _plain_axes(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_ylim(*limits)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(labelsize=8, length=0)
    axes.grid(axis="y", color=_LINE, lw=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)

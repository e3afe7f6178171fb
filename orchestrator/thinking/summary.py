"""How a machine fares on many rows, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.drawing import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SOLVED, _PLACES, _SURE = "#2b8a3e", "#94d82d", "#3b5bdb"
_OVER, _NEVER = "#f76707", "#ced4da"


def draw(summary: Mapping[str, Any], file: Path, *, title: str, is_order: bool = False) -> None:
    """Draws accuracy and certainty of each tick, the most certain ticks, and over-thinking.

    Args:
        summary: `Findings.summary`, with the `kind` of rows, how many `rows` they are, and how many
            ticks before the first that answers are judged at (`unjudged`); of mazes also what
            `examine_attention` found (`attention`), and `examine_larger` (`larger`).
        file: The picture to write.
        title: What it is about.
        is_order: Whether answers are read over the ticks, at the last of which they are judged.
    """
    of_mazes = [one for one in ("attention", "larger") if one in summary]
    num, size = (2, (13, 8)) if of_mazes else (1, (13, 4.2))
    widths = (1.5, 1.2, 1)
    with drawn(file, num, 3, dpi=110, squeeze=False, figsize=size, width_ratios=widths) as (
        figure,
        axes,
    ):
        curves, ticks, shares = axes[0]
        rows = f"{summary['rows']} {summary['kind']} rows"
        figure.suptitle(f"{title}: {rows}", fontsize=12, weight="bold", x=0.01, ha="left")
        _draw_curves(curves, summary)
        _draw_surest(ticks, summary, is_order=is_order)
        _draw_shares(shares, summary, is_order=is_order)
        if of_mazes:
            _draw_mazes(axes[1].tolist(), summary)


def _numbers(values: Sequence[float], summary: Mapping[str, Any]) -> range:
    first = int(summary["unjudged"]) + 1
    return range(first, first + len(values))


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("tick")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curves(axes: Axes, summary: Mapping[str, Any]) -> None:
    lines = (
        ("solved_by_tick", "solved whole", _SOLVED, "o-"),
        ("positions_by_tick", "right places", _PLACES, "s-"),
        ("certainty_by_tick", "certainty", _SURE, "^--"),
    )
    for key, label, colour, style in lines:
        values = summary[key]
        same = key == "positions_by_tick" and values == summary["solved_by_tick"]
        if not same:
            axes.plot(
                _numbers(values, summary), values, style, color=colour, label=label, ms=4, lw=1.6
            )
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title("accuracy and certainty at each tick", fontsize=10, loc="left")
    axes.legend(fontsize="small", loc="best")
    _whole_ticks(axes)


def _draw_surest(axes: Axes, summary: Mapping[str, Any], *, is_order: bool) -> None:
    counts = summary["surest_ticks"]
    numbers = _numbers(counts, summary)
    axes.bar(numbers, counts, color=_SURE, width=0.8)
    what = "tick that answers are taken from" if is_order else "most certain tick"
    mean = f"mean {summary['surest_tick'] + summary['unjudged']:.1f}"
    axes.set_title(f"{what}, {mean}", fontsize=10, loc="left")
    axes.set_ylabel("rows")
    axes.set_xlim(numbers[0] - 0.6, numbers[-1] + 0.6)
    _whole_ticks(axes)


def _draw_shares(axes: Axes, summary: Mapping[str, Any], *, is_order: bool) -> None:
    solved, over = summary["solved"], summary["overthought"]
    where = "the last tick" if is_order else "the surest tick"
    parts = (
        (f"right at {where}", solved, _SOLVED),
        ("over-thought: right\nat some other tick", over, _OVER),
        ("right at none", max(0.0, 1 - solved - over), _NEVER),
    )
    names, values, colours = zip(*parts, strict=True)
    bars = axes.barh(names, values, color=colours, height=0.6)
    axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("share of rows", fontsize=10, loc="left")


def _draw_mazes(places: list[Axes], summary: Mapping[str, Any]) -> None:
    """Draws what there is to say of mazes only."""
    if "attention" in summary:
        _draw_on_way(places.pop(0), summary["attention"])
        _draw_along(places.pop(0), summary["attention"])
    if "larger" in summary:
        _draw_larger(places.pop(0), summary["larger"])
    for one in places:
        one.set_axis_off()


def _draw_on_way(axes: Axes, found: Mapping[str, Any]) -> None:
    numbers = range(1, len(found["on_way_by_tick"]) + 1)
    lines = (
        ("on_way", "of all attention", _OVER),
        ("between", "of that on floor but start and goal", _SURE),
    )
    for key, label, colour in lines:
        axes.plot(numbers, found[f"{key}_by_tick"], "o-", color=colour, label=label, ms=4, lw=1.6)
        chance = found[f"{key}_chance"]
        axes.axhline(chance, color=colour, ls="--", lw=1.2, label=f"{chance:.0%} by chance")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title("share of attention that is on the way", fontsize=10, loc="left")
    axes.legend(fontsize="small", loc="best", ncols=2)
    _whole_ticks(axes)


def _draw_along(axes: Axes, found: Mapping[str, Any]) -> None:
    numbers = range(1, len(found["along_by_tick"]) + 1)
    for number, head in enumerate(found["along_by_head"]):
        axes.plot(numbers, head, color=_NEVER, lw=1.2, label="each head" if number == 0 else None)
    axes.plot(numbers, found["along_by_tick"], "o-", color=_OVER, ms=4, lw=2, label="all heads")
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0, 0.5, 1], ["start", "half", "goal"])
    axes.grid(axis="y", alpha=0.3)
    mean, low, high = (found["walking"][key] for key in ("mean", "low", "high"))
    figure = f"its place and the ticks correlate by {mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    axes.set_title(f"attention {found['verdict']} the way:\n{figure}", fontsize=10, loc="left")
    axes.legend(fontsize="small", loc="best")
    _whole_ticks(axes)


def _draw_larger(axes: Axes, found: Sequence[Mapping[str, Any]]) -> None:
    for one, colour in zip(found, cycle((_SURE, _SOLVED, _OVER, "#7048e8")), strict=False):
        shares, rounds = one["arrived_by_round"], range(1, len(one["arrived_by_round"]) + 1)
        label = f"{one['edge']} x {one['edge']}: {shares[-1]:.1%}"
        axes.plot(rounds, shares, "o-", color=colour, ms=4, lw=1.6, label=label)
        axes.plot(rounds, one["in_reach_by_round"], ls=":", color=colour, lw=1.4)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(
        "at the goal after each round\n(dotted: way short enough)", fontsize=10, loc="left"
    )
    axes.legend(fontsize="small", loc="best")
    _whole_ticks(axes)
    axes.set_xlabel("round")

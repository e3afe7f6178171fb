"""Thinking as a film: a frame for each tick, as GIF or, where ffmpeg is there, as MP4."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.thinking import frames
from orchestrator.thinking.record import Thinking

Frame: TypeAlias = npt.NDArray[np.uint8]

#: Seconds that a film lasts at least and at most, and that its last frame stands.
_SHORTEST_S, _LONGEST_S, _LAST_S = 4.0, 15.0, 2.0
_MOST_FRAMES = 100


def frames_of(thinking: Thinking) -> list[Frame]:
    """Returns a frame for each tick (height, width, 3); of very many, for some of them."""
    return list(frames.draw(thinking, some_of(thinking.ticks, thinking.taken)))


def some_of(ticks: int, needed: Sequence[int]) -> list[int]:
    """Returns which ticks have a frame: all, or of very many some, those needed among them."""
    if ticks <= _MOST_FRAMES:
        return list(range(ticks))
    spread = np.linspace(0, ticks - 1, max(2, _MOST_FRAMES - len(needed))).round()
    return sorted({int(tick) for tick in spread} | set(needed))


def write_gif(film: Sequence[Frame], file: Path) -> None:
    """Writes frames as an animated GIF."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in film]
    # One palette for all frames: colours do not flicker.
    some = [np.asarray(one) for one in pictures[:: max(1, len(pictures) // 4)] + pictures[-1:]]
    palette = Image.fromarray(np.concatenate([*some, _signals(some[0].shape[1])])).quantize(224)
    drawn = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    each = _frame_s(len(film))
    times = [round(1000 * one) for one in (*[each] * (len(drawn) - 1), _LAST_S)]
    drawn[0].save(file, save_all=True, append_images=drawn[1:], duration=times, loop=0)


def _signals(width: int) -> npt.NDArray[np.uint8]:
    """Returns a band of each colour that means something: a palette has to have them, too."""
    from matplotlib.colors import to_rgb

    colours = [to_rgb(one) for one in frames.SIGNALS]
    bands = np.rint(255 * np.array(colours)).astype(np.uint8)
    return np.repeat(np.repeat(bands[:, None], width, axis=1), 24, axis=0)


def write_still(thinking: Thinking, file: Path) -> None:
    """Writes the frame of the tick that the last answer is taken from, as PNG."""
    from PIL import Image

    (frame,) = frames.draw(thinking, thinking.taken[-1:])
    Image.fromarray(frame).save(file, optimize=True)


def has_ffmpeg() -> bool:
    """Returns whether films can be written as MP4."""
    return shutil.which("ffmpeg") is not None


def write_mp4(film: Sequence[Frame], file: Path) -> None:
    """Writes frames as an MP4 by ffmpeg.

    Raises:
        RuntimeError: if ffmpeg fails; the message has what it said.
    """
    import subprocess

    each = _frame_s(len(film))
    pictures = [*film, *[film[-1]] * round(_LAST_S / each)]
    height, width, _ = pictures[0].shape
    command = [
        *("ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"),
        *("-s", f"{width}x{height}", "-r", f"{1 / each:.4f}", "-i", "-"),
        *("-pix_fmt", "yuv420p", "-r", "30", str(file)),
    ]
    data = b"".join(frame.tobytes() for frame in pictures)
    ended = subprocess.run(command, input=data, capture_output=True, check=False)  # noqa: S603
    if ended.returncode:
        raise RuntimeError(f"ffmpeg: {ended.stderr.decode(errors='replace').strip()}")


def _frame_s(num: int) -> float:
    """Returns seconds of each of some frames; a GIF counts in hundredths."""
    return round(min(_LONGEST_S, max(_SHORTEST_S, 0.4 * num)) / num, 2)

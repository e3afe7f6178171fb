"""Writes all that shows a machine's thinking into a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluators.whole_file import whole_folder
from orchestrator.exporting.model_folder import ExportError, refuse_whole
from orchestrator.thinking import film, summary
from orchestrator.thinking.page import page
from orchestrator.thinking.record import Thinking


def write(
    thinking: Thinking, findings: Mapping[str, Any] | None, folder: Path, *, replace: bool = False
) -> list[str]:
    """Writes page, film and picture; the folder appears whole or not at all.

    Args:
        thinking: Of one sample.
        findings: How the machine fares on many rows, as `summary.draw` has it, plain data; no
            summary is made without.
        folder: Where to.
        replace: Whether what is in it may be lost.

    Returns:
        Names of the files.

    Raises:
        ExportError: if the folder cannot be written to, or holds something already and `replace` is
            false.
    """
    refuse_whole(folder, replace=replace)
    try:
        with whole_folder(folder) as partial:
            _write_files(thinking, findings, partial)
            return sorted(one.name for one in partial.iterdir())
    except OSError as error:
        raise ExportError(f"folder {str(folder)!r} cannot be written: {error}") from error


def _write_files(thinking: Thinking, findings: Mapping[str, Any] | None, folder: Path) -> None:
    (folder / "thinking.html").write_text(page(thinking, findings), encoding="utf-8")
    pictures = film.frames_of(thinking)
    film.write_gif(pictures, folder / "thinking.gif")
    film.write_still(thinking, folder / "thinking.png")
    if film.has_ffmpeg():
        film.write_mp4(pictures, folder / "thinking.mp4")
    if findings is not None:
        is_order = bool(thinking.said)
        summary.draw(findings, folder / "summary.png", title=thinking.subject, is_order=is_order)
        text = json.dumps(findings, indent=1) + "\n"
        (folder / "summary.json").write_text(text, encoding="utf-8")

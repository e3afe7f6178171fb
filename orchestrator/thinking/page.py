"""One page that needs nothing else: its data, style and script are in it."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.thinking.record import Floats, Look, Thinking, Walk
from orchestrator.thinking.walking import reach

#: Numbers of one kind that a page holds at most, so that it stays below 2 MB.
_MOST_WEIGHTS, _MOST_ACTIVATIONS = 350_000, 80_000
_LEVELS = 32_767


def page(thinking: Thinking, summary: Mapping[str, Any] | None = None) -> str:
    """Returns the page as HTML.

    Args:
        thinking: What is shown.
        summary: How the machine fares on all rows (`Findings.summary`), if that is known.
    """
    folder = Path(__file__).parent
    text = (folder / "page.html").read_text(encoding="utf-8")
    # No text of the data can end the script that holds it.
    data = json.dumps(page_data(thinking, summary), separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "<!--title-->": html.escape(thinking.title),
        "/*style*/": (folder / "page.css").read_text(encoding="utf-8"),
        "/*script*/": (folder / "page.js").read_text(encoding="utf-8"),
        "/*data*/": data,
    }
    for mark, part in parts.items():
        before, _, after = text.partition(mark)
        text = before + part + after
    return text


def page_data(thinking: Thinking, summary: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what the page's script reads: plain data that JSON can hold."""
    neurons = _liveliest(thinking.post)
    pairs = slice(None) if thinking.triangle else _liveliest(thinking.synchronisation)
    return {
        "title": thinking.title,
        "facts": thinking.facts,
        "classes": thinking.classes,
        "looks": [_look(one, _MOST_WEIGHTS // len(thinking.looks)) for one in thinking.looks],
        "probabilities": pack(thinking.probabilities),
        "certainty": [round(float(one), 5) for one in thinking.certainty],
        "neurons": neurons.tolist(),
        "num_neurons": thinking.post.shape[1],
        "pre": pack(thinking.pre[:, neurons]),
        "post": pack(thinking.post[:, neurons]),
        "synchronisation": pack(thinking.synchronisation[:, pairs]),
        "num_pairs": thinking.synchronisation.shape[1],
        "triangle": thinking.triangle,
        "said": thinking.said,
        "walks": [_walk(one) for one in thinking.walks],
        "outcomes": [thinking.outcome(tick) for tick in range(thinking.ticks)],
        "reaches": _reaches(thinking),
        "rounds": thinking.rounds,
        "taken": thinking.taken,
        "unjudged": thinking.unjudged,
        "verdicts": [thinking.verdict(tick) for tick in range(thinking.ticks)],
        "right": [thinking.right(tick) for tick in range(thinking.ticks)],
        "summary": summary,
    }


def pack(values: Floats) -> dict[str, Any]:
    """Returns an array as text: 16-bit whole numbers, times a scale, in base64."""
    scale = float(np.abs(values).max()) / _LEVELS if values.size else 0.0
    levels = np.rint(values / (scale or 1.0)).astype("<i2")
    data = base64.b64encode(levels.tobytes()).decode("ascii")
    return {"shape": list(values.shape), "scale": scale, "data": data}


def unpack(packed: Mapping[str, Any]) -> Floats:
    """Returns the array that `pack` was given, to a 65,534th of its range."""
    levels = np.frombuffer(base64.b64decode(packed["data"]), dtype="<i2")
    values: Floats = (levels.reshape(packed["shape"]) * packed["scale"]).astype(np.float32)
    return values


def _look(look: Look, most_weights: int) -> dict[str, Any]:
    attention = look.attention
    averaged = attention is not None and attention.size > most_weights
    if attention is not None and averaged:
        attention = attention.mean(axis=1, keepdims=True)
    return {
        "name": look.name,
        "grid": look.grid,
        "picture": None if look.picture is None else _png(look.picture),
        "size": None if look.picture is None else look.picture.shape[:2],
        "labels": look.labels,
        "attention": None if attention is None else pack(attention),
        "averaged": averaged,
        "target": look.target,
        "way": None if look.way is None else _walk(look.way),
        "walked": look.walked,
        "on_way": None if look.on_way is None else pack(look.on_way),
        "chance": round(look.chance, 5),
    }


def _reaches(thinking: Thinking) -> list[int]:
    """Returns how many moves of each tick's route are right; empty where that is not known."""
    ways = [thinking.look_at(tick)[0].way for tick in range(len(thinking.walks))]
    return [
        reach(said, right)
        for said, right in zip(thinking.walks, ways, strict=True)
        if right is not None
    ]


def _walk(walk: Walk) -> dict[str, Any]:
    return {"cells": walk.cells, "end": walk.end}


def _liveliest(values: Floats) -> npt.NDArray[np.intp]:
    """Returns the columns that change most over the ticks, as many as a page holds, in order."""
    num = min(values.shape[1], max(1, _MOST_ACTIVATIONS // len(values)))
    return np.sort(np.argsort(-values.std(axis=0), kind="stable")[:num])


def _png(picture: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")

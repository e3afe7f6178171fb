"""Runs lm-eval-harness tasks over and over on one resident model.

Task files, documents, prompts and token ids are built once; the harness's own filters, metrics and
aggregations then give each candidate's score, so that it equals the stock command's to the last
digit. `lm_eval.simple_evaluate` would rebuild all of this for every candidate.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TypeAlias

import torch

from evaluators.base import Documents, Language, Rows, Score
from evaluators.harness.part import Part
from evaluators.harness.questions import Sheet, build
from evaluators.harness.tasks import quieten
from evaluators.language.backend import Backend, open_backend
from evaluators.language.resident_lm import ResidentLM
from evaluators.lm_harness import LmHarness

#: Plans that are kept: blocks come again with every candidate, an item bank's choices do not.
_PLANS = 64
_Places: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


class HarnessSuite:
    """The tasks of a campaign over a resident model (an `Evaluator`)."""

    def __init__(self, settings: LmHarness, language: Language) -> None:
        quieten()
        self._settings = settings
        self._language = language
        self.lm = _open(settings, language)
        self._sheets: dict[Rows, Sheet] = {}
        self._parts: OrderedDict[tuple[Rows, _Places], Part] = OrderedDict()

    def evaluate(
        self, rows: Rows, *, documents: Documents | None = None, halvings: int = 0
    ) -> Score:
        """Scores the resident model as it is now."""
        part = self._smaller(rows, documents, halvings) if halvings else self.part(rows, documents)
        with torch.inference_mode():
            part.answer()
        return part.score()

    def part(self, rows: Rows, documents: Documents | None = None) -> Part:
        """Returns what is asked about these documents, planning it the first time.

        Raises:
            ValueError: if there are no such rows or documents.
        """
        sheet = self.sheet(rows)
        places = _places(sheet, documents)
        key = (sheet.rows, places)
        if key not in self._parts:
            self._parts[key] = Part(sheet, dict(places), self.lm)
            if len(self._parts) > _PLANS:
                self._parts.popitem(last=False)
        self._parts.move_to_end(key)
        return self._parts[key]

    def sheet(self, rows: Rows) -> Sheet:
        """Returns all questions of a kind of rows, building them the first time."""
        if rows == "fresh":
            rows = "search"
        if rows not in self._sheets:
            if rows not in self._settings.kinds:
                raise ValueError(f"there are no {rows} rows: no task is named for them")
            self._sheets[rows] = build(self._settings, rows, self.lm)
        return self._sheets[rows]

    def _smaller(self, rows: Rows, documents: Documents | None, halvings: int) -> Part:
        """Plans the documents anew in smaller batches; rare enough not to be kept."""
        settings = self._settings
        if settings.backend != "hf":
            return self.part(rows, documents)  # it makes batches itself, and halves them
        if settings.batch_size is not None:
            smaller = replace(settings, batch_size=max(1, settings.batch_size >> halvings))
        else:
            assert isinstance(self.lm, ResidentLM)
            smaller = replace(settings, batch_tokens=max(1, self.lm.batch_tokens >> halvings))
        sheet = self.sheet(rows)
        return Part(sheet, dict(_places(sheet, documents)), _open(smaller, self._language))


def _open(settings: LmHarness, language: Language) -> Backend:
    return open_backend(
        settings.backend,
        language,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        max_length=settings.max_length,
    )


def _places(sheet: Sheet, documents: Documents | None) -> _Places:
    """Returns task -> places, all of them if no documents are named.

    Raises:
        ValueError: if documents are named that there are not.
    """
    if documents is None:
        return tuple((name, tuple(range(len(held)))) for name, held in sheet.questions.items())
    for objective in sheet.objectives:
        if objective.name in sheet.loaded.groups:
            raise ValueError(
                f"objective {objective.name!r} is a group of tasks, which is scored on all of its "
                "documents at once: name its tasks as objectives to score parts of their documents"
            )
    for name, places in documents.items():
        if name not in sheet.questions:
            raise ValueError(f"there is no task {name!r} among the {sheet.rows} rows")
        _check_places(name, places, len(sheet.questions[name]))
    found = tuple((name, tuple(documents[name])) for name in sheet.questions if documents.get(name))
    if not found:
        raise ValueError(f"no documents of the {sheet.rows} rows are named: nothing to score")
    return found


def _check_places(name: str, places: tuple[int, ...], count: int) -> None:
    if len(set(places)) < len(places):
        raise ValueError(f"task {name!r}: a document is named twice, expected each at most once")
    for place in places:
        if not 0 <= place < count:
            raise ValueError(f"task {name!r} has {count} documents, there is no place {place}")

"""A trainer at work: goes on with the network at hand, and scores it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.base import Documents, Rows, Score, TaskScore
from evaluators.ctm.checkpoints import Checkpoints
from evaluators.ctm.evaluator import METRICS, Ctm, places_of
from evaluators.ctm.measures import Findings, examine
from evaluators.ctm.network import Network, Untrained
from evaluators.ctm.training import Training
from evaluators.digest import hash_json


class Trainer:
    """Trains and scores the resident network (an `Evaluator`)."""

    def __init__(self, settings: Ctm, resident: Network) -> None:
        self._settings, self._resident = settings, resident
        self._task = settings.the_task
        self._data = self._task.open()
        self._identity = settings.task_identity()
        self._checkpoints = Checkpoints(settings.checkpoints)

    def evaluate(
        self, rows: Rows, *, documents: Documents | None = None, halvings: int = 0
    ) -> Score:
        """Trains as far as the rows ask for, and scores.

        Search rows are scored after the last stretch that is asked for; others when training is at
        its end.

        Raises:
            DivergedError: if training comes to numbers that are not finite.
        """
        settings, stretches = self._settings, self._settings.stretches
        places = places_of(documents, settings.metrics[0].name, stretches)
        searching = rows == "search"
        model = self.trained((max(places) + 1) if searching else stretches)
        found = examine(
            model,
            self._data.rows(rows),
            self._task.judgement,
            answer_phases=self._task.answer_phases,
            batch_size=max(1, settings.batch_size >> halvings),
        )
        num = len(places) if searching else None
        return settings.score(
            {one.name: _scored(found, one.name, one.weight, num) for one in settings.metrics}
        )

    def trained(self, stretches: int) -> nn.Module:
        """Returns the resident network after so many stretches; what was done is not done again.

        Where the network has been trained further than that, by an equal candidate, it is trained
        anew: a score after some stretches is never that after more. Where it goes on from a parent
        of which nothing is kept, that one is trained again, and its own parent.
        """
        if self._resident.trained is not None:
            return self._resident.trained
        one, end, missing = self._resident.untrained, stretches, list[tuple[Untrained, int]]()
        state = self._left_off(one, end)
        while state is None and one.parent is not None:
            missing.append((one, end))
            one, end = one.parent(), self._settings.stretches
            state = self._left_off(one, end)
        model = self._train(one, end, state, None)
        for child, until in reversed(missing):
            model = self._train(child, until, None, model)
        return model

    def _train(
        self, one: Untrained, stretches: int, state: dict[str, Any] | None, parent: nn.Module | None
    ) -> nn.Module:
        """Returns a network after so many stretches, from where it was left or from its parent."""
        training = Training(
            one.make(parent).to(self._resident.device),
            self._data,
            self._task.judgement,
            one.training,
            self._task.answer_phases,
        )
        identity = self._identity_of(one)
        further = state is None and self._checkpoints.load(identity) is not None
        if state is not None:
            training.restore(state)
        for stretch in range(1, stretches + 1):
            step = self._end(one, stretch)
            if training.step < step:
                training.until(step)
                if not further:
                    self._checkpoints.save(identity, training.state())
        return training.model

    def _left_off(self, one: Untrained, stretches: int) -> dict[str, Any] | None:
        """Returns the state to go on from, if it is not one further than so many stretches."""
        state = self._checkpoints.load(self._identity_of(one))
        return None if state is None or state["step"] > self._end(one, stretches) else state

    def _end(self, one: Untrained, stretch: int) -> int:
        return -(-one.training.steps * stretch // self._settings.stretches)

    def _identity_of(self, one: Untrained) -> str:
        return hash_json([one.identity, self._identity])


def _scored(found: Findings, metric: str, weight: float, num: int | None) -> TaskScore:
    """Returns a metric's score, of so many stretches, or of each sample if None."""
    values = _values(found, metric).double()
    stderr = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
    each = tuple(values.tolist()) if num is None and METRICS[metric] else ()
    return TaskScore(
        value=float(values.mean()),
        stderr=stderr,
        documents=len(values) if num is None else num,
        weight=weight,
        per_document=each,
    )


def _values(found: Findings, metric: str) -> Tensor:
    """Returns a metric of each sample."""
    if metric == "solved":
        return found.at_surest(found.whole)
    if metric == "positions":
        return found.at_surest(found.right.double().mean(dim=1))
    if metric == "log_likelihood":
        return found.at_surest(found.log_likelihood)
    if metric == "surest_tick":
        return found.surest + torch.ones_like(found.surest)
    early = found.early
    if metric == "early_tick":
        return early + torch.ones_like(early)
    return found.whole.gather(1, early[:, None])[:, 0]

"""The Continuous Thought Machine: ticks of thought over an input that stays the same.

(Darlow, Regan, Risi, Seely and Jones, NeurIPS 2025, https://arxiv.org/abs/2505.05522, section 3.)
At each tick the neurons' synchronisation asks a query, attention answers, synapses mix the answer
with all neurons, each neuron's own model reads its past, and synchronisation is read out. Within a
pass neurons come first and samples second, (neurons, batch), because all that is private to neurons
is then one product for each neuron.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.ctm.thoughts import Thoughts, Trace, by_tick, certainty_of
from workers.ctm.neurons import NeuronModels, Newest
from workers.ctm.pairs import draw_pairs
from workers.ctm.settings import CtmSettings
from workers.ctm.synapse import make_synapse
from workers.ctm.synchronisation import Snapshot, Synchronisation
from workers.ctm.view import Look, View


class Machine(nn.Module):
    """A Continuous Thought Machine. Parameters are drawn from torch's generator."""

    def __init__(self, settings: CtmSettings) -> None:
        super().__init__()
        self.settings = settings
        self.view = View(settings.inputs, settings.attention_width, settings.heads)
        self.synapse = make_synapse(
            settings.input_width + settings.neurons, settings.synapse_widths, settings.dropout
        )
        self.neurons = _neuron_models(settings)
        bound = settings.neurons**-0.5
        self.start = nn.Parameter(torch.empty(settings.neurons).uniform_(-bound, bound))
        for_answers, for_queries = draw_pairs(settings)
        self.answer = _reader(settings, for_answers)
        outputs = settings.outputs
        self.head = nn.Linear(settings.read_size, outputs.positions * outputs.classes)
        self.action: Synchronisation | Snapshot | None = None
        if settings.attends:
            self.action = _reader(settings, for_queries)
            self.query = nn.Linear(settings.query_size, settings.attention_width)

    def forward(self, inputs: Tensor | Sequence[Tensor], *, watch: bool = False) -> Thoughts:
        """Thinks about a batch.

        Args:
            inputs: As the settings' `inputs` say; a tensor for each phase where there are phases.
            watch: Whether to keep what can be watched.
        """
        trace = Trace() if watch else None
        reads = torch.stack(list(self._ticks(inputs, trace)), dim=1)  # (batch, ticks, entries)
        logits = by_tick(self.head(reads), self.settings.outputs)
        return Thoughts(logits, certainty_of(logits), trace)

    @torch.no_grad()
    def until(
        self,
        inputs: Tensor | Sequence[Tensor],
        threshold: float,
        answer_phases: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Thinks about each sample until it is certain enough, and stops when all are.

        Args:
            inputs: As for a pass.
            threshold: Certainty in [0, 1] at which a sample is done.
            answer_phases: In how many of the last phases an answer is asked for: it stops in none
                before these. In all if None.

        Returns:
            Answers (batch, positions) and ticks used (batch), those of phases that ask nothing
            counted: of the first tick that is asked and whose certainty reaches the threshold;
            where none does, the answer of the most certain one of these ticks, and all ticks.

        Raises:
            ValueError: if there are not so many phases.
        """
        ticks_each, phases = self.settings.ticks, self.settings.phases
        last = ticks_each * phases
        asked = phases if answer_phases is None else answer_phases
        if not 1 <= asked <= phases:
            raise ValueError(f"answer_phases: expected 1 to {phases}, got {answer_phases}")
        first = last - ticks_each * asked + 1
        answers = ticks = best = torch.empty(0)
        for number, read in enumerate(self._ticks(inputs, None), start=1):
            if number < first:
                continue
            logits = by_tick(self.head(read)[:, None], self.settings.outputs)
            certainty, now = certainty_of(logits)[:, 0], logits.argmax(dim=2)[:, :, 0]
            if number == first:
                answers, best = now.clone(), torch.full_like(certainty, -1.0)
                ticks = torch.full(certainty.shape, last, device=certainty.device)
                thinking = torch.ones_like(certainty, dtype=torch.bool)
            better = thinking & (certainty > best)
            answers[better], best[better] = now[better], certainty[better]
            done = thinking & (certainty >= threshold)
            ticks[done] = number
            thinking &= ~done
            if not thinking.any():
                break
        return answers, ticks

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the machine to a folder, which is made if there is none."""
        from workers.ctm import saving

        saving.save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Machine:
        """Reads a machine from a folder, in evaluation mode.

        Raises:
            ValueError: if the folder holds no machine, or one that this version cannot read.
        """
        from workers.ctm import saving

        return saving.load(folder)

    def restrain(self) -> None:
        """Moves decays back into their range; to be called after each step of training."""
        self.answer.restrain()
        if self.action is not None:
            self.action.restrain()

    def _ticks(self, inputs: Tensor | Sequence[Tensor], trace: Trace | None) -> Iterator[Tensor]:
        """Yields what the answer is read from at each tick (batch, entries)."""
        looks = self.view(inputs)
        batch = len(inputs) if isinstance(inputs, Tensor) else len(inputs[0])
        num = self.settings.ticks * len(looks)
        post = self.start[:, None].expand(-1, batch)
        models = self.neurons.begin(batch, num)
        answer: Any = self.answer.begin(post)
        action: Any = None if self.action is None else self.action.begin(post)
        for tick in range(num):
            seen = self._look(looks[tick // self.settings.ticks], action, trace)
            pre = self.synapse(torch.cat([seen, post.T], dim=1)).T
            post = models.step(pre)
            answer = self.answer.step(answer, post)
            if self.action is not None:
                action = self.action.step(action, post)
            read = self.answer.read(answer)
            if trace is not None:
                trace.note(pre.T, post.T, read)
            yield read

    def _look(self, look: Look, action: Any, trace: Trace | None) -> Tensor:
        """Returns what is seen of the state before a tick (batch, width)."""
        if self.action is None:
            return look(None)
        query = self.query(self.action.read(action))
        return look(query, None if trace is None else trace.attention)


def _neuron_models(settings: CtmSettings) -> NeuronModels | Newest:
    if settings.neuron_model == "none":
        return Newest()
    hidden = settings.hidden if settings.neuron_model == "deep" else None
    return NeuronModels(settings.neurons, settings.memory, hidden)


def _reader(settings: CtmSettings, pairs: Tensor) -> Synchronisation | Snapshot:
    return Synchronisation(pairs) if settings.synchronise else Snapshot()

"""Questions about digits seen before: some of them are added and subtracted, modulo ten.

(Darlow et al. 2025, section 8.) Digits come one after another, then a question that names them by
their places, then a sign to answer: what was seen has to be kept in mind. Here the digits are
scikit-learn's, and the question is shown as a whole instead of word by word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from evaluators.base import Rows
from evaluators.ctm.inputs import Image, Inputs, Outputs, Phases, Tokens
from evaluators.ctm.kinds import Judgement
from evaluators.ctm.pictures import Digits, Pool
from evaluators.ctm.task import Batch, Drawn, generator_of

if TYPE_CHECKING:
    import torch

#: What a word of a question does with the digit that it names: to begin with it, add, subtract.
BEGIN, ADD, SUBTRACT = range(3)
_CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions(Drawn):
    """Rows of digits, a question about some of them, and its answer.

    Each kind of rows has pictures of its own.
    """

    #: Digits that are seen before the question.
    digits: Annotated[int, Interval(ge=2, le=4)] = 2
    #: Digits that are added or subtracted, one after another.
    operations: Annotated[int, Interval(ge=1, le=3)] = 1
    #: Channels after each convolution, and which are followed by pooling.
    widths: tuple[int, ...] = (16,)
    pools: tuple[int, ...] = (0,)

    @property
    def inputs(self) -> Inputs:
        """Digits, the question, and the sign to answer."""
        digit = Image(channels=1, height=8, width=8, widths=self.widths, pools=self.pools)
        parts: Mapping[str, Image | Tokens] = {
            "digit": digit,
            "question": Tokens(vocabularies=(self.digits, 3), length=self.operations + 1),
            "answer": Tokens(vocabularies=(1,), length=1, positions=False),
        }
        return Phases(parts=parts, order=("digit",) * self.digits + ("question", "answer"))

    @property
    def outputs(self) -> Outputs:
        """A digit."""
        return Outputs(positions=1, classes=_CLASSES)

    @property
    def judgement(self) -> Judgement:
        """There is one answer."""
        return "positions"

    @property
    def answer_phases(self) -> int | None:
        """Once the sign to answer is there."""
        return 1

    def open(self) -> QuestionData:
        """Reads the digits from scikit-learn."""
        return QuestionData(self, Digits(seed=self.seed).open())


class QuestionData:
    """Questions about pictures."""

    def __init__(self, settings: Questions, pictures: Pool) -> None:
        self._settings, self._pictures = settings, pictures

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws digits and questions."""
        num = size * self._settings.digits
        return self._ask(self._pictures.batch(generator, num), generator)

    def rows(self, rows: Rows) -> Batch:
        """Draws the rows of a kind, of pictures that no other kind has."""
        import torch

        settings, generator = self._settings, generator_of(self._settings.seed, rows)
        pictures = self._pictures.rows(rows)
        num = settings.num_rows[rows] * settings.digits
        return self._ask(
            pictures.take(torch.randint(len(pictures), (num,), generator=generator)), generator
        )

    def _ask(self, pictures: Batch, generator: torch.Generator) -> Batch:
        """Asks about so many digits running at a time."""
        import torch

        settings = self._settings
        seen, digits = pictures.inputs, pictures.targets.view(-1, settings.digits)
        assert not isinstance(seen, list)
        shape = (len(digits), settings.operations + 1)
        places = torch.randint(settings.digits, shape, generator=generator)
        signs = torch.randint(ADD, SUBTRACT + 1, shape, generator=generator)
        signs[:, 0] = BEGIN
        terms = digits.gather(1, places) * torch.where(signs == SUBTRACT, -1, 1)
        row = list(seen.view(len(digits), settings.digits, *seen.shape[1:]).unbind(dim=1))
        answer = torch.zeros(len(digits), 1, 1, dtype=torch.long)
        inputs = [*row, torch.stack([places, signs], dim=2), answer]
        return Batch(inputs, terms.sum(dim=1, keepdim=True) % _CLASSES)

"""Lays texts out in rows so that what several of them begin with is computed once.

A row holds a tree: each token is stored once for all texts that share it and everything before
it, in the order of a walk through the tree (depth first). So the answers of a multiple-choice
document follow its prompt one after another, each attending to the prompt and to itself only. A
beginning that many rows share (few-shot examples) is taken out of them as a preamble, to be run
once before them.

Plain functions of the texts: the same texts always give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]

#: Shorter ones save less than masks and copied keys cost.
_MIN_PREAMBLE = 16
#: Share of a batch that may be padding.
_PADDING = 0.05


@dataclass(frozen=True, slots=True)
class Text:
    """What one request feeds to the model, and how much of it is scored."""

    #: Token ids.
    tokens: tuple[int, ...]
    #: How many of the last places predict a scored token; at least 1.
    num_scored: int


@dataclass(frozen=True, slots=True)
class Row:
    """Texts that share a row; places count from the row's own first token."""

    tokens: Places  # (length,)
    #: Place of each token in its own text, the preamble included.
    depths: Places  # (length,)
    #: A token is seen from its own place up to this one, excluded.
    ends: Places  # (length,)
    #: Index of each text, and the places in the row whose predictions are scored.
    texts: tuple[tuple[int, Places], ...]

    @property
    def is_plain(self) -> bool:
        """Whether each token attends to all before it, so that no mask is needed."""
        return bool((self.ends == len(self.tokens)).all())


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that begin with the same preamble, which they do not contain."""

    preamble: tuple[int, ...]
    rows: tuple[Row, ...]
    #: Whether unrelated rows may be put into one.
    may_join: bool


@dataclass(frozen=True, slots=True)
class Costs:
    """What a row costs beside its tokens, all in the cost of one token's forward pass."""

    #: For each pair of tokens of a row: attention is computed for all of them.
    pair: float
    #: For each token of the preamble and each row: its keys and values are copied.
    copied: float
    #: For each forward pass.
    call: float


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a model can share without a change of its results."""

    #: Texts may branch within a row.
    branches: bool
    #: Rows may follow a preamble that ran before them.
    preambles: bool
    #: Longest row, the preamble included, for which this holds; None: any.
    max_length: int | None = None


def lay_out(
    texts: Sequence[Text], sharing: Sharing, costs: Costs, row_length: int
) -> tuple[Group, ...]:
    """Returns rows that hold every text once.

    A row is longer than `row_length` only where a single text is.
    """
    limit = sharing.max_length if sharing.branches or sharing.preambles else 0
    order = sorted(range(len(texts)), key=lambda index: texts[index].tokens)
    free = [i for i in order if limit is None or len(texts[i].tokens) <= limit]
    bound = [i for i in order if limit is not None and len(texts[i].tokens) > limit]
    packer = _Packer(texts, costs, row_length if limit is None else min(row_length, limit))
    groups: list[Group] = []
    for depth, members in _preambles(texts, free, sharing, costs):
        rows = tuple(packer.rows(members, depth, branches=sharing.branches))
        preamble = texts[members[0]].tokens[:depth]
        groups.append(Group(preamble, rows, may_join=sharing.branches))
    if bound:
        rows = tuple(packer.rows(bound, 0, branches=False))
        groups.append(Group((), rows, may_join=False))
    return tuple(groups)


def cut(group: Group, costs: Costs, batch_tokens: int) -> Iterator[tuple[Row, ...]]:
    """Yields batches of rows, longest first, none over the budget unless by a single row.

    A batch ends early where shorter rows would be padded for more than another forward pass
    costs. Where rows may be joined, padding then gives way to yet shorter ones.
    """
    left = sorted(group.rows, key=lambda row: (-len(row.tokens), tuple(row.tokens)))
    while left:
        lengths = [len(row.tokens) for row in left]
        size = _batch_size(lengths, costs, batch_tokens)
        batch, left = left[:size], left[size:]
        if group.may_join:
            batch, left = _filled(batch, left)
        yield tuple(batch)


def _batch_size(lengths: Sequence[int], costs: Costs, batch_tokens: int) -> int:
    """Returns how many of the rows, the longest first, make the next batch."""
    longest = lengths[0]
    size = max(1, min(batch_tokens // longest, len(lengths)))
    padding = np.cumsum([longest - length for length in lengths[:size]])
    allowed = np.maximum(costs.call, _PADDING * longest * np.arange(1, size + 1))
    too_much = np.flatnonzero(padding > allowed)
    return int(too_much[0]) if too_much.size else size


def _filled(batch: Sequence[Row], rest: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Puts shorter rows where padding would be; returns the batch and what is left.

    First fit, longest first (Johnson 1973).
    """
    length = len(batch[0].tokens)
    parts = [[row] for row in batch]
    room = [length - len(row.tokens) for row in batch]
    left: list[Row] = []
    for row in rest:
        need = len(row.tokens)
        place = next((i for i, free in enumerate(room) if free >= need), None)
        if place is None:
            left.append(row)
        else:
            parts[place].append(row)
            room[place] -= need
    return [_joined(part) for part in parts], left


def _joined(rows: Sequence[Row]) -> Row:
    """Puts rows one after another; none of them sees another."""
    if len(rows) == 1:
        return rows[0]
    starts = np.cumsum([0, *(len(row.tokens) for row in rows[:-1])])
    pairs = list(zip(rows, starts, strict=True))
    return Row(
        tokens=np.concatenate([row.tokens for row in rows]),
        depths=np.concatenate([row.depths for row in rows]),
        ends=np.concatenate([row.ends + start for row, start in pairs]),
        texts=tuple((text, places + start) for row, start in pairs for text, places in row.texts),
    )


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many tokens two texts share from their beginnings."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    differs = np.asarray(one[:length]) != np.asarray(other[:length])
    return int(differs.argmax())


class _Packer:
    """Fills rows with texts in alphabetical order."""

    def __init__(self, texts: Sequence[Text], costs: Costs, row_length: int) -> None:
        self._texts = texts
        self._costs = costs
        self._row_length = row_length

    def rows(self, members: Sequence[int], depth: int, *, branches: bool) -> Iterator[Row]:
        """Yields rows of texts that all begin with a preamble of `depth` tokens."""
        row = _OpenRow(depth)
        for index in members:
            text = self._texts[index]
            if row.texts and not self._fits(row, text, branches=branches):
                yield row.closed()
                row = _OpenRow(depth)
            row.add(index, text)
        yield row.closed()

    def _fits(self, row: _OpenRow, text: Text, *, branches: bool) -> bool:
        """Tells whether a text is better added to the row than put in one of its own."""
        shared = common_length(row.last, text.tokens)
        length, new = len(row.tokens), len(text.tokens) - shared
        if row.depth + length + new > max(self._row_length, len(text.tokens)):
            return False
        if shared == len(row.last):
            return True  # it goes on where the last one ends
        if not branches:
            return False
        own = len(text.tokens) - row.depth
        added = new + self._pairs(length + new, row.depth) - self._pairs(length, row.depth)
        alone = own + self._pairs(own, row.depth) + self._costs.copied * row.depth
        return added < alone

    def _pairs(self, length: int, depth: int) -> float:
        return self._costs.pair * length * (depth + length)


class _OpenRow:
    """A row that texts are still added to."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.last: tuple[int, ...] = ()
        self.tokens: list[int] = []
        self.texts: list[tuple[int, Places]] = []
        self._path: list[int] = []  # places of the last text's tokens
        self._depths: list[int] = []
        self._ends: dict[int, int] = {}

    def add(self, index: int, text: Text) -> None:
        shared = max(common_length(self.last, text.tokens) - self.depth, 0)
        for place in self._path[shared:]:
            self._ends[place] = len(self.tokens)
        new = text.tokens[self.depth + shared :]
        start = len(self.tokens)
        self._path = [*self._path[:shared], *range(start, start + len(new))]
        self._depths += range(self.depth + shared, len(text.tokens))
        self.tokens += new
        self.texts.append((index, np.array(self._path[-text.num_scored :], dtype=np.int64)))
        self.last = text.tokens

    def closed(self) -> Row:
        ends = np.full(len(self.tokens), len(self.tokens), dtype=np.int64)
        for place, end in self._ends.items():
            ends[place] = end
        return Row(
            tokens=np.array(self.tokens, dtype=np.int64),
            depths=np.array(self._depths, dtype=np.int64),
            ends=ends,
            texts=tuple(self.texts),
        )


def _preambles(
    texts: Sequence[Text], order: Sequence[int], sharing: Sharing, costs: Costs
) -> Iterator[tuple[int, list[int]]]:
    """Yields the length of a preamble, 0 for none, and the texts that take it."""
    taken: set[int] = set()
    if sharing.preambles:
        documents = _documents(texts, order)
        for depth, start, stop in _best_preambles(_shared_lengths(texts, documents), costs):
            members = [index for document in documents[start:stop] for index in document]
            taken.update(members)
            yield depth, members
    rest = [index for index in order if index not in taken]
    if rest:
        yield 0, rest


def _documents(texts: Sequence[Text], order: Sequence[int]) -> list[list[int]]:
    """Groups texts by all that precedes their first scored place."""
    documents: list[list[int]] = []
    prompts: dict[tuple[int, ...], list[int]] = {}
    for index in order:
        text = texts[index]
        prompt = text.tokens[: len(text.tokens) - text.num_scored + 1]
        if prompt not in prompts:
            prompts[prompt] = []
            documents.append(prompts[prompt])
        prompts[prompt].append(index)
    return documents


def _shared_lengths(texts: Sequence[Text], documents: Sequence[Sequence[int]]) -> list[int]:
    """Returns for each document but the first what its prompt shares with the one before.

    One token less than the prompt at most: the prediction after the last one is scored.
    """
    firsts = [texts[document[0]] for document in documents]
    longest = [len(text.tokens) - text.num_scored for text in firsts]
    return [
        min(common_length(firsts[i - 1].tokens, firsts[i].tokens), longest[i - 1], longest[i])
        for i in range(1, len(firsts))
    ]


@dataclass(slots=True)
class _Stretch:
    """Documents from `start` on that share their first `depth` tokens."""

    depth: int
    start: int
    #: What the best preambles within it save, and (depth, start, stop) of these.
    saved: float = 0.0
    parts: tuple[tuple[int, int, int], ...] = ()

    def closed(self, stop: int, costs: Costs) -> _Stretch:
        """Takes its own beginning for a preamble if that saves more than those within."""
        count = stop - self.start
        saved = self.depth * (count - 1) - costs.copied * self.depth * count - costs.call
        if self.depth < _MIN_PREAMBLE or saved <= self.saved:
            return self
        return _Stretch(self.depth, self.start, saved, ((self.depth, self.start, stop),))


def _best_preambles(shared: Sequence[int], costs: Costs) -> tuple[tuple[int, int, int], ...]:
    """Returns (depth, first document, last one + 1) of the preambles that save most tokens.

    One of `depth` tokens that `n` documents begin with saves `depth` tokens `n - 1` times, for
    one more forward pass. Of beginnings within one another the better choice is made bottom-up,
    on the stack of stretches that are still open.
    """
    stack = [_Stretch(0, 0)]
    for document, depth in enumerate([*shared, 0], start=1):
        start = document - 1
        while stack[-1].depth > depth:
            inner = stack.pop().closed(document, costs)
            start = inner.start
            if stack[-1].depth < depth:
                stack.append(_Stretch(depth, start))
            stack[-1].saved += inner.saved
            stack[-1].parts += inner.parts
        if stack[-1].depth < depth:
            stack.append(_Stretch(depth, start))
    return stack[0].parts

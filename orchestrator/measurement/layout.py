"""Cuts the search rows into blocks for a race, and keeps rows back to score the elite again.

Each task's documents are put into an order in which every beginning is a fair sample of all of
them; blocks are stretches of it. The order of a task depends on the campaign's seed and the
task's name alone, so that another task beside it moves none of its documents; only where one call
scores a document for several objectives do these share an order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.base import Documents, TaskFacts
from orchestrator.measurement.race import Race


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which documents are scored together."""

    #: The blocks that every candidate is measured on, one after another, as long as it goes on.
    search: tuple[Documents, ...]
    #: Rounds of documents kept back, each scored once by the elite of its time.
    fresh: tuple[Documents, ...] = ()

    @property
    def num_documents(self) -> int:
        """Documents of all search blocks together; those kept back do not count."""
        return sum(len(places) for block in self.search for places in block.values())


def layout(
    tasks: Mapping[str, TaskFacts],
    *,
    seed: int,
    race: Race | None,
    reserve: float,
    round_documents: int,
) -> Layout:
    """Returns the blocks of the search rows, one if there is no race, and the rounds kept back.

    `reserve` is the share of each task's documents that is kept back, `round_documents` how many
    of each task make a round; a last round that would be less than half of that joins the one
    before.

    Raises:
        ValueError: if parts of a task's rows cannot be pooled, or it has too few documents.
    """
    if not 0 <= reserve < 1:
        raise ValueError(f"reserve: expected a share of at least 0 and below 1, got {reserve}")
    search, fresh = {}, {}
    for name, facts in tasks.items():
        order = _order(name, facts, seed)
        num_fresh = round(reserve * len(order))
        first = race.first_block if race is not None else 1
        _check(name, len(order) - num_fresh, num_fresh, first, round_documents)
        kept, rest = order[: len(order) - num_fresh], order[len(order) - num_fresh :]
        search[name] = (
            [tuple(sorted(kept))] if race is None else _cut(kept, race.first_block, race.growth)
        )
        fresh[name] = _cut(rest, round_documents, 1.0)
    return Layout(search=_transposed(search), fresh=_transposed(fresh))


def blocks(
    tasks: Mapping[str, TaskFacts], *, seed: int, first_block: int, growth: float
) -> tuple[Documents, ...]:
    """Returns blocks that hold every document once, places ascending within a block.

    A task's blocks have `first_block` documents, `growth` times that, and so on; a last one that
    would be less than half of its due joins the one before. Where a task has fewer blocks than
    another, later ones do without it.

    Raises:
        ValueError: if parts of a task's rows cannot be pooled, or it has too few documents.
    """
    cut = {}
    for name, facts in tasks.items():
        order = _order(name, facts, seed)
        _check(name, len(order), 0, first_block, 1)
        cut[name] = _cut(order, first_block, growth)
    return _transposed(cut)


def stratified_order(strata: Sequence[str], seed: int, name: str) -> tuple[int, ...]:
    """Returns an order of documents in which every beginning has each label in its proportion.

    Of the first k of n documents, those of a label that n_s of the n have number k n_s / n, give
    or take less than one: the labels take turns as the quota method of Tijdeman says (1980, The
    chairman assignment problem). Which document of a label comes is drawn. Labels that only one
    document has are drawn together, as each of them is in its proportion anywhere.
    """
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    counts = Counter(strata)
    groups: dict[str | None, list[int]] = {}
    for place in rng.permutation(len(strata)).tolist():
        label = strata[place] if counts[strata[place]] > 1 else None
        groups.setdefault(label, []).append(place)
    queues = list(groups.values())  # in random order, too: it decides between equals
    return tuple(queues[turn].pop() for turn in _turns([len(queue) for queue in queues]))


def _turns(sizes: Sequence[int]) -> list[int]:
    """Returns whose turn it is, time after time: after each, all are within one of their share."""
    num = len(sizes)
    if num <= 1:
        return [0] * sum(sizes)
    shares = np.asarray(sizes) / sum(sizes)
    slack = 1 / (2 * num - 2)
    had, turns = np.zeros(num), []
    for step in range(1, sum(sizes) + 1):
        due = shares * step - had
        # Of those that may come without running ahead of their share, the one that would be first
        # to fall behind. Some always may; the tolerance is for rounding.
        deadlines = np.where(due >= slack - 1e-9, (1 - slack - due) / shares, np.inf)
        turns.append(int(deadlines.argmin()))
        had[turns[-1]] += 1
    return turns


def _order(name: str, facts: TaskFacts, seed: int) -> tuple[int, ...]:
    if facts.in_order:
        return tuple(range(facts.documents))
    if not facts.is_mean:
        raise ValueError(
            f"task {name!r}: its value is no mean of one number a document, so that parts of its "
            "rows cannot be put together; choose a metric such as acc (of a function: say how many "
            "'documents' it can score), or leave out racing, refresh and estimator"
        )
    strata = facts.strata or ("",) * facts.documents
    return stratified_order(strata, seed, facts.ordered_as or name)


def _check(name: str, num_search: int, num_fresh: int, first_block: int, in_round: int) -> None:
    if first_block > num_search:
        kept_back = f" ({num_fresh} are kept back by refresh.reserve)" if num_fresh else ""
        raise ValueError(
            f"task {name!r}: expected at least {first_block} documents for the first block, got "
            f"{num_search}{kept_back}; lower racing.first_block or give it more rows"
        )
    if 0 < num_fresh < in_round:
        raise ValueError(
            f"task {name!r}: refresh.reserve keeps {num_fresh} documents back, less than one round "
            f"of {in_round}; raise refresh.reserve or lower refresh.documents"
        )


def _cut(order: Sequence[int], first: int, growth: float) -> list[tuple[int, ...]]:
    """Cuts an order into growing stretches, each sorted."""
    cut, start, due = [], 0, float(first)
    while start < len(order):
        stop = start + round(due)
        due *= growth
        if len(order) - stop < round(due) / 2:
            stop = len(order)
        cut.append(tuple(sorted(order[start:stop])))
        start = stop
    return cut


def _transposed(cut: Mapping[str, Sequence[tuple[int, ...]]]) -> tuple[Documents, ...]:
    """Turns task -> blocks into blocks of task -> documents."""
    num = max(map(len, cut.values()), default=0)
    return tuple(
        {name: parts[index] for name, parts in cut.items() if index < len(parts)}
        for index in range(num)
    )

"""Laws of rows: whatever they share, every text sees itself whole, in order, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.language.prefix_rows import Costs, Sharing, Text, cut, lay_out

TEXTS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which long beginning, if any
        st.lists(st.integers(0, 2), min_size=1, max_size=9),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=25,
)
COSTS = st.builds(
    Costs,
    pair=st.sampled_from([0.0, 0.001, 0.1]),
    copied=st.sampled_from([0.0, 0.05]),
    call=st.sampled_from([0.0, 5.0, 200.0]),
)
SHARINGS = st.builds(
    Sharing,
    branches=st.booleans(),
    preambles=st.booleans(),
    max_length=st.sampled_from([None, 6, 30]),
)


def make_texts(drawn):
    beginnings = [(), (5,) * 20, (5,) * 10 + (6,) * 20]
    return [
        Text((*beginnings[which], *rest), min(scored, len(rest))) for which, rest, scored in drawn
    ]


def seen_from(row, place):
    """The places that a place attends to, as the mask has it."""
    return [other for other in range(place + 1) if place < row.ends[other]]


@given(TEXTS, SHARINGS, COSTS, st.sampled_from([8, 40, 1000]))
def test_every_text_sees_itself_alone_in_every_batch(drawn, sharing, costs, budget):
    texts = make_texts(drawn)
    found = []
    for group in lay_out(texts, sharing, costs, budget):
        assert sharing.preambles or not group.preamble
        for batch in cut(group, costs, budget):
            longest = max(len(row.tokens) for row in batch)
            assert len(batch) == 1 or len(batch) * longest <= budget
            for row in batch:
                assert sharing.branches or row.is_plain
                found += check_row(texts, group.preamble, row)
    assert sorted(found) == list(range(len(texts)))


def check_row(texts, preamble, row):
    for index, places in row.texts:
        text = texts[index]
        path = seen_from(row, places[-1])
        assert (*preamble, *row.tokens[path]) == text.tokens
        assert list(row.depths[path]) == list(range(len(preamble), len(text.tokens)))
        assert list(places) == path[-text.num_scored :]
    return [index for index, _ in row.texts]


@given(TEXTS, COSTS)
def test_rows_of_limited_reach_are_short_or_plain(drawn, costs):
    texts = make_texts(drawn)
    for group in lay_out(texts, Sharing(True, True, 12), costs, 1000):
        for row in group.rows:
            assert row.is_plain or len(group.preamble) + len(row.tokens) <= 12


@given(TEXTS, SHARINGS, COSTS, st.randoms())
def test_the_order_of_texts_does_not_change_the_rows(drawn, sharing, costs, shuffler):
    texts = make_texts(drawn)
    order = list(range(len(texts)))
    shuffler.shuffle(order)

    def tokens(given):
        groups = lay_out(given, sharing, costs, 100)
        return [(group.preamble, [tuple(row.tokens) for row in group.rows]) for group in groups]

    assert tokens(texts) == tokens([texts[index] for index in order])


def test_a_beginning_is_taken_out_only_where_that_saves_more_than_a_call():
    texts = [Text((*range(100, 130), number, number), 1) for number in range(4)]
    sharing = Sharing(True, True)
    for call, length in [(50.0, 30), (100.0, 0)]:
        groups = lay_out(texts, sharing, Costs(pair=1.0, copied=0.0, call=call), 1000)
        assert [len(group.preamble) for group in groups] == [length]


def test_of_beginnings_within_one_another_the_better_is_taken():
    long = tuple(range(40))
    deep = [Text((*long, *long, number, number), 1) for number in range(100, 110)]
    flat = [Text((*long, number, number), 1) for number in range(100, 110)]
    costs = Costs(pair=1.0, copied=0.0, call=10.0)
    found = {
        len(one.preamble): len(one.rows) for one in lay_out(deep, Sharing(True, True), costs, 9)
    }
    assert found == {80: 10}
    groups = lay_out(deep + flat, Sharing(True, True), costs, 9)
    assert sorted(len(group.preamble) for group in groups) == [40, 80] or [
        len(group.preamble) for group in groups
    ] == [40]
    saved = sum(len(group.preamble) * (len(group.rows) - 1) for group in groups)
    assert saved >= 760


def test_padding_gives_way_to_shorter_rows():
    texts = [
        Text(tuple(range(start, start + size)), 1)
        for start, size in [(0, 30), (100, 18), (200, 12)]
    ]
    costs = Costs(pair=0.0, copied=0.0, call=13.0)
    (group,) = lay_out(texts, Sharing(True, False), costs, 1000)
    (batch,) = cut(group, costs, 1000)
    assert [len(row.tokens) for row in batch] == [30, 30]
    cheap = Costs(pair=0.0, copied=0.0, call=1.0)
    assert [len(batch) for batch in cut(group, cheap, 1000)] == [1, 1, 1]


@pytest.mark.parametrize("sharing", [Sharing(False, False), Sharing(True, False)])
def test_a_text_that_goes_on_from_another_shares_its_row(sharing):
    texts = [Text((1, 2, 3), 1), Text((1, 2, 3, 4, 5), 2), Text((1, 2, 3), 2)]
    (group,) = lay_out(texts, sharing, Costs(pair=0.0, copied=0.0, call=0.0), 1000)
    assert [tuple(row.tokens) for row in group.rows] == [(1, 2, 3, 4, 5)]

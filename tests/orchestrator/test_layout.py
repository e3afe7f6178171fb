"""How search rows are cut into blocks and rounds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.base import TaskFacts
from orchestrator.measurement.halving import Halving
from orchestrator.measurement.layout import blocks, layout, stratified_order


def facts(strata, *, is_mean=True) -> TaskFacts:
    labels = tuple(strata)
    return TaskFacts(documents=len(labels), rows="hash", strata=labels, is_mean=is_mean)


labels = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=80)
tasks = st.dictionaries(
    st.sampled_from(["one", "two", "three"]), labels.map(facts), min_size=1, max_size=3
)


@given(labels, st.integers(0, 2**31))
def test_an_order_holds_every_document_once(strata, seed):
    assert sorted(stratified_order(strata, seed, "task")) == list(range(len(strata)))


@given(labels, st.integers(0, 99))
def test_every_beginning_of_an_order_has_each_label_in_its_proportion(strata, seed):
    order, counts = stratified_order(strata, seed, "task"), Counter(strata)
    for stop in range(1, len(order) + 1):
        had = Counter(strata[place] for place in order[:stop])
        for label, count in counts.items():
            assert abs(had[label] - count * stop / len(strata)) < 1


def test_labels_of_one_document_each_leave_the_proportions_of_the_others():
    strata = [*"xxxxyyyy", *(f"answer {index}" for index in range(40))]
    order = stratified_order(strata, 5, "task")
    for stop in range(1, len(order) + 1):
        had = Counter(strata[place] for place in order[:stop])
        assert abs(had["x"] - 4 * stop / 48) < 1
        assert abs(had["y"] - 4 * stop / 48) < 1


def test_an_order_is_the_seed_s_and_the_task_s_own():
    strata = "ab" * 20
    order = stratified_order(strata, 1, "task")
    assert order == stratified_order(strata, 1, "task")
    assert order != stratified_order(strata, 2, "task")
    assert order != stratified_order(strata, 1, "other")


def test_where_a_document_of_a_label_comes_is_drawn():
    strata = "aabbbb"
    firsts = Counter(stratified_order(strata, seed, "task")[0] for seed in range(600))
    chances = [firsts[place] for place in (2, 3, 4, 5)]
    assert sum(chances) == 600  # the label that most have is due first
    assert all(100 < chance < 200 for chance in chances)


@given(tasks, st.integers(0, 9), st.integers(1, 3), st.floats(1, 3))
def test_blocks_hold_every_document_once_in_ascending_order(tasks, seed, first_block, growth):
    first_block = min(first_block, *(one.documents for one in tasks.values()))
    found = blocks(tasks, seed=seed, first_block=first_block, growth=growth)
    for name, one in tasks.items():
        parts = [block[name] for block in found if name in block]
        assert all(list(part) == sorted(part) and part for part in parts)
        assert sorted(sum(parts, ())) == list(range(one.documents))
        # A task that has ended does not come again.
        assert [name in block for block in found] == sorted(
            (name in b for b in found), reverse=True
        )


@given(tasks, st.integers(0, 9), st.integers(1, 3), st.floats(1, 3))
def test_blocks_grow_and_no_last_one_is_less_than_half_its_due(tasks, seed, first_block, growth):
    first_block = min(first_block, *(one.documents for one in tasks.values()))
    found = blocks(tasks, seed=seed, first_block=first_block, growth=growth)
    for name in tasks:
        sizes = [len(block[name]) for block in found if name in block]
        due = [round(first_block * growth**index) for index in range(len(sizes))]
        assert sizes[:-1] == due[:-1]
        assert sizes[-1] >= due[-1] / 2 or len(sizes) == 1


def test_sizes_of_blocks_are_as_documented():
    def sizes(num, growth):
        found = blocks({"t": facts("x" * num)}, seed=0, first_block=16, growth=growth)
        return [len(block["t"]) for block in found]

    assert sizes(16 + 32 + 64, 2) == [16, 32, 64]
    assert sizes(16 + 32 + 31, 2) == [16, 63]
    assert sizes(16 + 32 + 32, 2) == [16, 32, 32]
    assert sizes(40, 1) == [16, 16, 8]
    assert sizes(39, 1) == [16, 23]
    assert sizes(16, 2) == [16]


def test_another_task_beside_it_moves_none_of_a_task_s_documents():
    one, two = facts("ab" * 30), facts("cd" * 100)
    alone = blocks({"one": one}, seed=4, first_block=8, growth=2)
    beside = blocks({"two": two, "one": one}, seed=4, first_block=8, growth=2)
    assert [block["one"] for block in beside if "one" in block] == [b["one"] for b in alone]


def test_without_a_race_the_search_rows_are_one_block():
    found = layout({"t": facts("ab" * 10)}, seed=1, race=None, reserve=0, round_documents=1)
    assert found.search == ({"t": tuple(range(20))},)
    assert found.fresh == ()
    assert found.num_documents == 20


@given(tasks, st.integers(0, 9), st.floats(0, 0.6), st.integers(1, 4), st.booleans())
def test_what_is_kept_back_is_cut_into_rounds_and_in_no_block(tasks, seed, reserve, num, raced):
    race = Halving(first_block=1) if raced else None
    kept = {name: round(reserve * one.documents) for name, one in tasks.items()}
    if any(one.documents == kept[name] or 0 < kept[name] < num for name, one in tasks.items()):
        with pytest.raises(ValueError, match="task '"):
            layout(tasks, seed=seed, race=race, reserve=reserve, round_documents=num)
        return
    found = layout(tasks, seed=seed, race=race, reserve=reserve, round_documents=num)
    for name, one in tasks.items():
        search = [place for block in found.search for place in block.get(name, ())]
        fresh = [place for block in found.fresh for place in block.get(name, ())]
        assert sorted(search + fresh) == list(range(one.documents))
        assert len(fresh) == kept[name]
        rounds = [len(block[name]) for block in found.fresh if name in block]
        assert all(size == num for size in rounds[:-1])
        assert not rounds or num / 2 <= rounds[-1] < 1.5 * num
    assert found.num_documents == sum(one.documents - kept[n] for n, one in tasks.items())


def test_what_is_kept_back_has_each_label_in_its_proportion():
    strata = "a" * 60 + "b" * 30 + "c" * 10
    found = layout({"t": facts(strata)}, seed=2, race=None, reserve=0.3, round_documents=10)
    for block in found.fresh:
        had = Counter(strata[place] for place in block["t"])
        assert len(block["t"]) == 10
        assert abs(had["a"] - 6) < 2
        assert abs(had["b"] - 3) < 2


def cut(tasks, *, race=None, reserve=0.0, round_documents=1):
    return layout(tasks, seed=0, race=race, reserve=reserve, round_documents=round_documents)


def test_a_task_whose_value_is_no_mean_is_refused_by_name():
    tasks = {"fine": facts("ab"), "perplexity": facts("ab", is_mean=False)}
    with pytest.raises(ValueError, match=r"'perplexity'.*choose a metric such as acc"):
        cut(tasks)
    with pytest.raises(ValueError, match="'perplexity'"):
        blocks(tasks, seed=0, first_block=1, growth=1)


def test_a_first_block_larger_than_the_rows_is_refused():
    with pytest.raises(ValueError, match=r"'t'.*at least 16.*got 10; lower racing.first_block"):
        cut({"t": facts("x" * 10)}, race=Halving())
    with pytest.raises(ValueError, match=r"got 14 \(6 are kept back by refresh.reserve\)"):
        cut({"t": facts("x" * 20)}, race=Halving(), reserve=0.3)


def test_a_reserve_of_less_than_one_round_is_refused():
    with pytest.raises(ValueError, match=r"'t'.*keeps 3 documents back.*one round of 32"):
        cut({"t": facts("x" * 10)}, reserve=0.3, round_documents=32)


@pytest.mark.parametrize("reserve", [-0.1, 1.0])
def test_a_reserve_that_is_no_share_is_refused(reserve):
    with pytest.raises(ValueError, match="reserve: expected a share"):
        cut({"t": facts("x" * 10)}, reserve=reserve)

"""A split cuts one task into parts that never mix, and asks a document as the whole task does."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.digest import hash_json
from evaluators.lm_harness import LmHarness, Objective, Split

ACC = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
PLAIN = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": ACC,
}
THIRDS = Split(seed=3, search=0.4, selection=0.3, test=0.3)
KINDS = ("search", "selection", "test")
shares = st.tuples(*[st.integers(0, 10)] * 3).filter(lambda one: one[0] and sum(one) <= 10)


def rows(count, start=0):
    words = [f"{number:05d}".translate(str.maketrans("0123456789", "abcdefghij"))
             for number in range(start, start + count)]  # fmt: skip
    return [{"prompt": f"R:{word}=", "answer": word[::-1]} for word in words]


def harness(folder, *names, split=THIRDS, **changes):
    tasks = tuple(Objective(name=name, metric="acc") for name in names)
    return LmHarness(tasks=tasks, include_path=folder, split=split, **changes)


def split_of(seed, tenths):
    search, selection, test = (share / 10 for share in tenths)
    return Split(seed=seed, search=search, selection=selection, test=test)


def asked(sheet, name="words"):
    """Document's prompt -> its place in the whole task."""
    return {one.document["prompt"]: one.index for one in sheet.questions[name]}


def test_shares_are_those_of_the_documents_on_average():
    digests = [hash_json(row) for row in rows(20_000)]
    split = Split(seed=11, search=0.5, selection=0.2, test=0.1)
    parts = [split.part(digest) for digest in digests]
    for part, share in {**split.shares, None: 0.2}.items():
        deviation = math.sqrt(share * (1 - share) / len(digests))
        assert abs(parts.count(part) / len(digests) - share) < 5 * deviation


@given(seed=st.integers(), tenths=shares, text=st.text())
def test_where_a_document_goes_depends_on_it_and_the_split_alone(seed, tenths, text):
    split, digest = split_of(seed, tenths), hash_json(text)
    assert split.part(digest) == split_of(seed, tenths).part(digest)
    assert split.part(digest) in {*(rows for rows, share in split.shares.items() if share), None}


@given(seed=st.integers(), tenths=shares, text=st.text())
def test_other_shares_behind_it_leave_the_search_part_as_it_is(seed, tenths, text):
    search = Split(seed=seed, search=tenths[0] / 10)
    is_searched = search.part(hash_json(text)) == "search"
    assert (split_of(seed, tenths).part(hash_json(text)) == "search") == is_searched


def test_nothing_is_left_over_where_shares_add_up_to_one():
    split = Split(seed=5, search=0.7, selection=0.2, test=0.1)
    assert None not in {split.part(hash_json(row)) for row in rows(5_000)}


def test_parts_are_disjoint_and_together_the_whole_task(open_language, write_task):
    folder = write_task("words", rows(60), **PLAIN)
    suite = harness(folder, "words").open(open_language())
    parts = [asked(suite.sheet(kind)) for kind in KINDS]
    assert all(parts)
    assert sum(map(len, parts)) == 60
    assert {prompt: place for part in parts for prompt, place in part.items()} == {
        row["prompt"]: place for place, row in enumerate(rows(60))
    }
    assert all(list(part.values()) == sorted(part.values()) for part in parts)


def test_rows_added_to_a_task_move_none_of_the_others(open_language, write_task):
    language = open_language()

    def parts(lines):
        suite = harness(write_task("words", lines, **PLAIN), "words").open(language)
        return {kind: set(asked(suite.sheet(kind))) for kind in KINDS}

    before = parts(rows(40))
    after = parts([*rows(20, start=100), *rows(40)])
    assert all(before[kind] <= after[kind] for kind in KINDS)


def test_equal_documents_of_two_tasks_go_to_the_same_part(open_language, write_task):
    folder = write_task("words", rows(40), **PLAIN)
    write_task("again", rows(40)[::-1], **PLAIN)
    settings = harness(folder, "words", "again")
    settings.check()
    suite = settings.open(open_language())
    for kind in KINDS:
        sheet = suite.sheet(kind)
        assert set(asked(sheet, "words")) == set(asked(sheet, "again"))


def test_another_seed_is_another_split(write_task):
    folder = write_task("words", rows(60), **PLAIN)
    one = harness(folder, "words").check()
    other = harness(folder, "words", split=replace(THIRDS, seed=4)).check()
    assert one.tasks["search"]["words"].rows != other.tasks["search"]["words"].rows
    assert one.identity["search"] != other.identity["search"]


def test_a_limit_counts_what_the_split_left(open_language, write_task):
    folder = write_task("words", rows(60), **PLAIN)
    whole, few = harness(folder, "words"), harness(folder, "words", limit=4)
    language = open_language()
    for kind in KINDS:
        every = list(asked(whole.open(language).sheet(kind)).values())
        assert list(asked(few.open(language).sheet(kind)).values()) == every[:4]
    facts = few.check()
    assert [facts.tasks[kind]["words"].documents for kind in KINDS] == [4, 4, 4]


@pytest.mark.parametrize("shots", [0, 2])
def test_a_document_is_asked_as_in_the_whole_task(open_language, write_task, shots):
    """Few-shot examples are drawn in the order of the documents, whichever part they are in."""
    folder = write_task("words", rows(30), shots=rows(9, start=500), **PLAIN)
    language = open_language()

    def prompts(settings, kind):
        return {
            question.index: [request.args for request in question.requests]
            for question in settings.open(language).sheet(kind).questions["words"]
        }

    whole = prompts(harness(folder, "words", split=None, num_fewshot=shots), "search")
    cut = harness(folder, "words", num_fewshot=shots)
    parts = {kind: prompts(cut, kind) for kind in KINDS}
    assert {place: args for part in parts.values() for place, args in part.items()} == whole
    assert next(iter(whole.values()))[0][0].count("R:") == shots + 1


def test_what_a_document_scores_does_not_depend_on_the_split(at_root, open_language):
    """In 32 bits."""
    tasks = (Objective(name="skill_a_search", metric="acc"),)
    plain = LmHarness(tasks=tasks, include_path="examples/tasks")
    cut = replace(plain, split=THIRDS)
    language = open_language()
    whole = plain.open(language).evaluate("search").tasks["skill_a_search"].per_document
    suite = cut.open(language)
    found = {}
    for kind in KINDS:
        task = suite.evaluate(kind).tasks["skill_a_search"]
        places = [one.index for one in suite.sheet(kind).questions["skill_a_search"]]
        found.update(zip(places, task.per_document, strict=True))
    assert found == dict(enumerate(whole))
    assert 0 < sum(whole) < len(whole)


def test_facts_of_each_part_are_of_its_own_documents(write_task):
    folder = write_task("words", rows(60), **PLAIN)
    facts = harness(folder, "words").check()
    assert set(facts.tasks) == set(KINDS)
    held = [facts.tasks[kind]["words"] for kind in KINDS]
    assert sum(one.documents for one in held) == 60
    assert len({one.rows for one in held}) == 3
    assert len({one.prompts for one in held}) == 1
    assert [len(one.strata) for one in held] == [one.documents for one in held]


def test_a_part_without_documents_is_refused(open_language, write_task):
    folder = write_task("words", rows(2), **PLAIN)
    split = Split(seed=1, search=0.9, test=1e-9)
    with pytest.raises(ValueError, match="task 'words' has no test rows: the split leaves none"):
        harness(folder, "words", split=split).check()
    with pytest.raises(ValueError, match="task 'words' has no test"):
        harness(folder, "words", split=split).open(open_language()).evaluate("test")


def test_a_control_task_may_not_hold_what_the_split_searches_on(write_task):
    folder = write_task("words", rows(30), **PLAIN)
    write_task("other", rows(30)[:10], **PLAIN)
    with pytest.raises(ValueError, match="of control task 'other' is also in search task 'words'"):
        harness(folder, "words", control=("other",)).check()


def test_examples_drawn_from_rows_that_judge_later_are_warned_of(write_task):
    folder = write_task("words", rows(60), **PLAIN)  # no other split: examples are these rows
    facts = harness(folder, "words", num_fewshot=2).check()
    count = facts.tasks["test"]["words"].documents
    assert any(
        f"search prompts of task 'words' draw their examples from documents of which {count} are "
        "test rows" in warning
        for warning in facts.warnings
    )
    assert any("selection prompts of task 'words'" in one for one in facts.warnings)
    assert harness(folder, "words").check().warnings == ()
    write_task("words", rows(60), shots=rows(9, start=500), **PLAIN)
    assert harness(folder, "words", num_fewshot=2).check().warnings == ()


def test_an_unknown_key_of_a_split_is_refused_in_a_campaign_file():
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(Split)
    plain = {"seed": 1, "search": 0.5}
    assert adapter.validate_json(json.dumps(plain), strict=True) == Split(seed=1, search=0.5)
    for wrong in ({"sed": 1}, {"search": 1.5}, {"test": -0.1}, {"test": 0.6}):
        with pytest.raises(ValidationError):
            adapter.validate_json(json.dumps({**plain, **wrong}), strict=True)


def test_a_check_leaves_nothing_behind(write_task):
    folder = write_task("words", rows(30), **PLAIN)
    (Path(folder) / "asking.py").write_text("def ask(doc):\n    return doc['prompt']\n")
    path = Path(folder) / "words.yaml"
    path.write_text(path.read_text().replace("'{{prompt}}'", "!function asking.ask"))
    before = {one: one.read_bytes() for one in Path(folder).rglob("*") if one.is_file()}
    state = generators()
    harness(folder, "words").check()
    assert {one: one.read_bytes() for one in Path(folder).rglob("*") if one.is_file()} == before
    assert generators() == state


def generators():
    """The state of every global generator of random numbers."""
    import random

    import numpy as np
    import torch

    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), kind, keys.tolist(), rest, torch.get_rng_state().tolist()

"""What `check()` finds out before any model is loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.lm_harness import LmHarness, Objective

ACC = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
PLAIN = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "metric_list": ACC,
}
ROWS = [{"prompt": f"R:{word}=", "answer": word[::-1]} for word in ("abc", "bcd", "cde", "def")]


def harness(folder, *tasks, metric="acc", **changes):
    objectives = tuple(Objective(name=name, metric=metric) for name in tasks)
    return LmHarness(tasks=objectives, include_path=folder, **changes)


def counts(facts):
    """Kind of rows -> objective -> number of documents."""
    return {
        rows: {name: one.documents for name, one in tasks.items()}
        for rows, tasks in facts.tasks.items()
    }


def prompts(facts):
    return {name: one.prompts for tasks in facts.tasks.values() for name, one in tasks.items()}


def row_hashes(facts):
    return {name: one.rows for tasks in facts.tasks.values() for name, one in tasks.items()}


def test_the_example_tasks_are_counted_hashed_and_dated(at_root):
    facts = harness(
        "examples/tasks", "skill_a_search", "skill_b_search", test=("skill_a_test", "skill_b_test")
    ).check()
    assert counts(facts) == {
        "search": {"skill_a_search": 256, "skill_b_search": 256},
        "test": {"skill_a_test": 500, "skill_b_test": 500},
    }
    every = [one for tasks in facts.tasks.values() for one in tasks.values()]
    assert len({one.rows for one in every}) == 4
    assert all(one.is_mean for one in every)
    assert facts.version.startswith("lm_eval 0.4.")
    assert facts.warnings == ()


def test_an_unknown_task_is_answered_with_the_nearest_known(write_task):
    folder = write_task("reverse_words", ROWS, **PLAIN)
    with pytest.raises(ValueError, match="unknown task 'reverse_word'") as caught:
        harness(folder, "reverse_word").check()
    assert folder in str(caught.value)
    assert "did you mean 'reverse_words'" in str(caught.value)


@pytest.mark.slow
def test_an_unknown_test_task_is_found_too(write_task):
    folder = write_task("here", ROWS, **PLAIN)
    with pytest.raises(ValueError, match="unknown task 'not_there_at_all'"):
        harness(folder, "here", test=("not_there_at_all",)).check()


def test_a_wrong_metric_is_answered_with_the_known_ones(write_task):
    folder = write_task("words", ROWS, **PLAIN)
    with pytest.raises(ValueError, match=r"'words' has no metric 'acc_norm'.*'acc'"):
        harness(folder, "words", metric="acc_norm").check()


def test_a_missing_task_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"include_path: '.*nowhere' is not a folder"):
        harness(str(tmp_path / "nowhere"), "words").check()


def test_a_task_whose_rows_are_missing_is_named(write_task, tmp_path):
    folder = write_task("words", ROWS, **PLAIN)
    (tmp_path / "tasks" / "words_test.jsonl").unlink()
    with pytest.raises(ValueError, match="tasks words cannot be loaded"):
        harness(folder, "words").check()


def test_a_tag_is_refused_because_it_is_several_tasks(write_task):
    folder = write_task("one", ROWS[:2], tag="pair", **PLAIN)
    write_task("two", ROWS[2:], tag="pair", **PLAIN)
    with pytest.raises(ValueError, match="'pair' is a tag of several tasks"):
        harness(folder, "pair").check()


def test_a_document_both_searched_and_tested_on_is_refused(write_task):
    folder = write_task("seen", ROWS[:3], **PLAIN)
    write_task("unseen", [ROWS[3], ROWS[1]], **PLAIN)
    with pytest.raises(
        ValueError, match="document 1 of test task 'unseen' is also in search task 'seen'"
    ):
        harness(folder, "seen", test=("unseen",)).check()


def test_a_group_is_searched_for_overlap_through_its_tasks(write_task, write_group):
    folder = write_task("one", ROWS[:1], **PLAIN)
    write_task("two", ROWS[1:3], **PLAIN)
    write_task("unseen", [ROWS[3], ROWS[2]], **PLAIN)
    write_group("both", ["one", "two"], aggregate_metric_list=[{"metric": "acc"}])
    with pytest.raises(ValueError, match="test task 'unseen' is also in search task 'two'"):
        harness(folder, "both", test=("unseen",)).check()


def test_documents_past_the_limit_are_neither_counted_nor_compared(write_task):
    folder = write_task("seen", ROWS[:3], **PLAIN)
    write_task("unseen", [ROWS[3], ROWS[1]], **PLAIN)
    facts = harness(folder, "seen", test=("unseen",), limit=1).check()
    assert counts(facts) == {"search": {"seen": 1}, "test": {"unseen": 1}}


def test_two_search_tasks_may_ask_about_the_same_document(write_task):
    folder = write_task("one", ROWS, **PLAIN)
    write_task("two", ROWS, **PLAIN)
    facts = harness(folder, "one", "two").check()
    assert facts.tasks["search"]["one"].rows == facts.tasks["search"]["two"].rows


def test_the_hash_of_rows_changes_with_a_row_and_with_their_order(write_task):
    def rows_hash(rows):
        return (
            harness(write_task("words", rows, **PLAIN), "words")
            .check()
            .tasks["search"]["words"]
            .rows
        )

    first = rows_hash(ROWS)
    assert rows_hash(ROWS) == first
    assert rows_hash([*ROWS[:3], {**ROWS[3], "answer": "fee"}]) != first
    assert rows_hash(ROWS[::-1]) != first
    assert rows_hash(ROWS[:3]) != first


# What a score depends on, but for the model: equal ones are not measured twice.


@pytest.fixture
def words(write_task):
    """A search task with few-shot examples, and a test task."""
    folder = write_task("words", ROWS[:2], shots=ROWS[2:3], **PLAIN)
    write_task("unseen", ROWS[3:], shots=ROWS[2:3], **PLAIN)
    return harness(folder, "words", test=("unseen",), num_fewshot=1)


def edited(settings, name: str, before: str, after: str):
    """The same settings, after a change to one of the files of their tasks."""
    path = Path(settings.include_path) / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    return settings


def test_what_a_score_depends_on_is_the_same_each_time(words):
    one, other = words.check(), words.check()
    assert one == other
    assert set(one.identity) == {"search", "fresh", "test"}
    assert one.identity["search"] == one.identity["fresh"] != one.identity["test"]
    assert set(prompts(one)) == {"words", "unseen"}


def test_another_prompt_is_another_evaluation(words):
    before = words.check()
    after = edited(words, "words.yaml", "{{prompt}}", "Q: {{prompt}}").check()
    assert row_hashes(after) == row_hashes(before)
    assert prompts(after)["words"] != prompts(before)["words"]
    assert after.identity["search"] != before.identity["search"]
    assert prompts(after)["unseen"] == prompts(before)["unseen"]
    assert after.identity["test"] == before.identity["test"]


def test_other_rows_are_another_evaluation(words):
    before = words.check()
    after = edited(words, "words_test.jsonl", "cba", "abc").check()
    assert prompts(after) == prompts(before)
    assert after.identity["search"] != before.identity["search"]
    assert after.identity["test"] == before.identity["test"]


def test_other_few_shot_examples_are_another_evaluation(words):
    before = words.check()
    after = edited(words, "words_train.jsonl", "edc", "cde").check()
    assert after.identity["search"] != before.identity["search"]


@pytest.mark.parametrize(
    "change",
    [{"limit": 1}, {"num_fewshot": 0}, {"batch_size": 3}, {"batch_tokens": 99}, {"max_length": 9}],
    ids=lambda change: next(iter(change)),
)
def test_another_way_of_asking_is_another_evaluation(words, change):
    before, after = words.check(), replace(words, **change).check()
    assert after.identity["search"] != before.identity["search"]
    assert after.identity["test"] != before.identity["test"]


@pytest.mark.parametrize("change", [{"weight": 2.0}, {"direction": "minimize"}])
def test_another_objective_is_another_evaluation(words, change):
    (objective,) = words.tasks
    after = replace(words, tasks=(replace(objective, **change),)).check()
    assert after.identity["search"] != words.check().identity["search"]
    assert prompts(after) == prompts(words.check())


def test_a_task_that_counts_otherwise_is_another_evaluation(write_task, write_group):
    folder = write_task("one", ROWS[:1], **PLAIN)
    write_task("two", ROWS[1:], **PLAIN)
    found = []
    for by_size in (True, False):
        metric = {"metric": "acc", "aggregation": "mean", "weight_by_size": by_size}
        write_group("both", ["one", "two"], aggregate_metric_list=[metric])
        found.append(harness(folder, "both").check().identity["search"])
    assert found[0] != found[1]


def test_tasks_in_another_folder_are_the_same_evaluation(words, tmp_path):
    before = words.check()
    moved = tmp_path / "moved"
    shutil.move(words.include_path, moved)
    for name in ("words", "unseen"):
        path = moved / f"{name}.yaml"
        path.write_text(path.read_text().replace(words.include_path, str(moved)))
    after = replace(words, include_path=str(moved)).check()
    assert after == before


ASKING = """
def ask(doc):
    return "{greeting}" + doc["prompt"]
"""


def asked_by_a_function(folder: str, greeting: str) -> None:
    (Path(folder) / "asking.py").write_text(ASKING.format(greeting=greeting))


@pytest.fixture
def with_function(write_task):
    """A task whose prompt is made by code beside it."""
    folder = write_task("coded", ROWS, **PLAIN)
    asked_by_a_function(folder, "Q: ")
    edited(harness(folder, "coded"), "coded.yaml", "'{{prompt}}'", "!function asking.ask")
    return harness(folder, "coded")


def test_code_that_asks_otherwise_is_another_evaluation(with_function):
    before = with_function.check()
    asked_by_a_function(with_function.include_path, "Question: ")
    assert prompts(with_function.check()) != prompts(before)


CHECK = """
import sys
from evaluators.lm_harness import LmHarness, Objective
tasks = (Objective(name="coded", metric="acc"),)
print(LmHarness(tasks=tasks, include_path=sys.argv[1]).check().identity["search"])
"""


@pytest.mark.slow
def test_another_process_finds_the_same(with_function):
    command = [sys.executable, "-c", CHECK, with_function.include_path]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == with_function.check().identity["search"]


# What is known of single tasks and their documents.

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": ["yes", "no"],
    "doc_to_target": "gold",
    "metric_list": ACC,
}


def strata(folder, name, metric="acc"):
    return harness(folder, name, metric=metric).check().tasks["search"][name].strata


def test_documents_are_labelled_by_their_right_choice(write_task):
    rows = [{"prompt": f"{number} is even", "gold": number % 2} for number in range(6)]
    assert strata(write_task("even", rows, **CHOICE), "even") == ("0", "1", "0", "1", "0", "1")


def test_documents_are_labelled_by_their_answers_where_these_are_few(write_task):
    rows = [{"prompt": f"R:{number}=", "answer": "ab"[number % 2]} for number in range(6)]
    assert strata(write_task("few", rows, **PLAIN), "few") == ("a", "b", "a", "b", "a", "b")


def test_documents_whose_answers_all_differ_are_not_labelled(write_task):
    assert strata(write_task("words", ROWS, **PLAIN), "words") == ("",) * len(ROWS)


def test_only_means_of_single_tasks_can_be_pooled(write_task, write_group):
    mean, other = ACC[0], {"metric": "perplexity", "aggregation": "perplexity"}
    metrics = [mean, {**other, "higher_is_better": False}]
    folder = write_task("one", ROWS[:2], **{**PLAIN, "metric_list": metrics})
    write_task("two", ROWS[2:], **PLAIN)
    write_group("both", ["two"], aggregate_metric_list=[{"metric": "acc"}])

    def pools(name, metric):
        return harness(folder, name, metric=metric).check().tasks["search"][name].is_mean

    assert pools("one", "acc")
    assert not pools("one", "perplexity")
    assert not pools("both", "acc")


def test_a_weight_is_negative_where_lower_is_better(write_task):
    perplexity = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
    folder = write_task("words", ROWS, **{**PLAIN, "metric_list": [*ACC, perplexity]})

    def weight(metric, **changes):
        objective = Objective(name="words", metric=metric, weight=2.0, **changes)
        facts = LmHarness(tasks=(objective,), include_path=folder).check()
        return facts.tasks["search"]["words"].weight

    assert (weight("acc"), weight("perplexity")) == (2.0, -2.0)
    assert weight("acc", direction="minimize") == -2.0
    assert weight("perplexity", direction="maximize") == 2.0


def test_a_groups_facts_are_those_of_its_tasks_together(write_task, write_group):
    folder = write_task("one", ROWS[:1], **PLAIN)
    write_task("two", ROWS[1:], **PLAIN)
    write_group("both", ["one", "two"], aggregate_metric_list=[{"metric": "acc"}])
    before = harness(folder, "both").check().tasks["search"]["both"]
    assert (before.documents, before.strata, before.is_mean) == (4, (), False)
    write_task("two", ROWS[:0:-1], **PLAIN)
    after = harness(folder, "both").check().tasks["search"]["both"]
    assert after.rows != before.rows
    assert after.prompts == before.prompts


# Uses of data that are kept apart.

APART = [("search", "selection"), ("search", "test"), ("selection", "test"), ("search", "control")]


def used(folder, **uses):
    return LmHarness(
        tasks=(Objective(name=uses.pop("search"), metric="acc"),),
        include_path=folder,
        **{kind: (name,) for kind, name in uses.items()},
    )


@pytest.mark.parametrize(("one", "other"), APART)
def test_a_document_has_one_use(write_task, one, other):
    folder = write_task("first", ROWS[:2], **PLAIN)
    write_task("second", [ROWS[2], ROWS[1]], **PLAIN)
    write_task("third", ROWS[3:], **PLAIN)
    uses = {"search": "third"} | {one: "first", other: "second"}
    with pytest.raises(
        ValueError,
        match=rf"document 1 of {other} task 'second' is also in {one} task 'first' \(document 1\)",
    ):
        used(folder, **uses).check()


@pytest.mark.parametrize("other", ["selection", "test"])
def test_control_tasks_may_hold_what_is_only_reported(write_task, other):
    folder = write_task("first", ROWS[:2], **PLAIN)
    write_task("second", ROWS[:2], **PLAIN)
    write_task("third", ROWS[3:], **PLAIN)
    facts = used(folder, search="third", **{other: "first"}, control="second").check()
    assert set(facts.tasks) == {"search", other, "control"}

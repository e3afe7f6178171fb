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


def test_the_example_tasks_are_counted_hashed_and_dated(at_root):
    facts = harness(
        "examples/tasks", "skill_a_search", "skill_b_search", test=("skill_a_test", "skill_b_test")
    ).check()
    assert dict(facts.documents) == {
        "skill_a_search": 256,
        "skill_b_search": 256,
        "skill_a_test": 500,
        "skill_b_test": 500,
    }
    assert len(set(facts.rows.values())) == 4
    assert facts.version.startswith("lm_eval 0.4.")


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
    assert dict(facts.documents) == {"seen": 1, "unseen": 1}


def test_two_search_tasks_may_ask_about_the_same_document(write_task):
    folder = write_task("one", ROWS, **PLAIN)
    write_task("two", ROWS, **PLAIN)
    facts = harness(folder, "one", "two").check()
    assert facts.rows["one"] == facts.rows["two"]


def test_the_hash_of_rows_changes_with_a_row_and_with_their_order(write_task):
    def rows_hash(rows):
        return harness(write_task("words", rows, **PLAIN), "words").check().rows["words"]

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
    assert (one.identity, one.prompts) == (other.identity, other.prompts)
    assert set(one.identity) == {"search", "test"}
    assert one.identity["search"] != one.identity["test"]
    assert set(one.prompts) == {"words", "unseen"}


def test_another_prompt_is_another_evaluation(words):
    before = words.check()
    after = edited(words, "words.yaml", "{{prompt}}", "Q: {{prompt}}").check()
    assert after.rows == before.rows
    assert after.prompts["words"] != before.prompts["words"]
    assert after.identity["search"] != before.identity["search"]
    assert after.prompts["unseen"] == before.prompts["unseen"]
    assert after.identity["test"] == before.identity["test"]


def test_other_rows_are_another_evaluation(words):
    before = words.check()
    after = edited(words, "words_test.jsonl", "cba", "abc").check()
    assert after.prompts == before.prompts
    assert after.identity["search"] != before.identity["search"]
    assert after.identity["test"] == before.identity["test"]


def test_other_few_shot_examples_are_another_evaluation(words):
    before = words.check()
    after = edited(words, "words_train.jsonl", "edc", "cde").check()
    assert after.identity["search"] != before.identity["search"]


@pytest.mark.parametrize(
    "change",
    [{"limit": 1}, {"num_fewshot": 0}, {"batch_size": 3}, {"max_length": 9}],
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
    assert after.prompts == words.check().prompts


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
    assert (after.identity, after.prompts, after.rows) == (
        before.identity, before.prompts, before.rows
    )  # fmt: skip


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
    assert with_function.check().prompts["coded"] != before.prompts["coded"]


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

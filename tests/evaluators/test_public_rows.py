"""Public test sets are recognised, by name and by what they say, and other rows are not."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

from evaluators.harness import public_rows
from evaluators.lm_harness import LmHarness, Objective, Split

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
WORDS = ("apple", "bridge", "candle", "dragon", "engine", "forest", "garden", "hammer")


def questions(count, seed):
    draw = random.Random(seed)
    return [
        f"How many {draw.choice(WORDS)}s does {draw.choice(WORDS)} {number} have, if each "
        f"{draw.choice(WORDS)} has {draw.randrange(1000)}?"
        for number in range(count)
    ]  # fmt: skip


def rows_of(texts):
    return [{"prompt": text, "answer": "1"} for text in texts]


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Records a set that nobody else knows with the script that made the shipped file."""
    address = ROOT / "benchmarks" / "record_public_rows.py"
    spec = importlib.util.spec_from_file_location("record_public_rows", address)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def write(texts, rows=1000):
        folder = tmp_path / "sets"
        folder.mkdir(exist_ok=True)
        lines = "".join(json.dumps({"question": text}) + "\n" for text in texts)
        (folder / "gsm8k_test.jsonl").write_text(lines)
        out = tmp_path / "fingerprints.json"
        arguments = ["record", str(folder), "--rows", str(rows), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", arguments)
        script.main()
        found = public_rows.unpack(json.loads(out.read_text()))
        monkeypatch.setattr(public_rows, "recorded", lambda: found)
        return out

    return write


def warnings(folder, name, **changes):
    settings = LmHarness(
        tasks=(Objective(name=name, metric="acc"),), include_path=folder, **changes
    )
    return settings.check().warnings


def test_rows_of_a_public_set_are_recognised_under_another_name(record, write_task):
    public = questions(200, 1)
    record(public)
    folder = write_task("mine", rows_of(public[50:90]), **PLAIN)
    (warning,) = warnings(folder, "mine")
    assert "search rows of task 'mine' are a public test set (gsm8k test;" in warning
    assert "at least 40 of 40, such as documents 0, 1, 2, 3, 4)" in warning


def test_case_marks_labels_and_more_text_around_them_hide_nothing(record, write_task):
    public = questions(60, 2)
    record(public)
    dressed = [
        f"Answer this.\nQuestion: {text.upper().replace(',', ' ,')}\nAnswer:" for text in public
    ]
    folder = write_task("mine", rows_of(dressed), **PLAIN)
    (warning,) = warnings(folder, "mine")
    assert "at least 60 of 60" in warning


def test_some_of_a_sets_rows_are_enough_to_know_it(record, write_task):
    public = questions(400, 3)
    record(public, rows=100)
    folder = write_task("mine", rows_of(public[:60]), **PLAIN)
    assert len(warnings(folder, "mine")) == 1


def test_other_rows_and_a_few_in_common_are_not_a_public_set(record, write_task):
    public = questions(200, 4)
    record(public)
    other = [f"Another one. {text}" for text in questions(100, 5)]
    few = public_rows.MIN_MATCHES - 1
    folder = write_task("mine", rows_of(other + public[:few]), **PLAIN)
    assert warnings(folder, "mine") == ()
    write_task("mine", rows_of(other + public[: few + 1]), **PLAIN)
    assert len(warnings(folder, "mine")) == 1


def test_a_small_share_of_many_rows_is_not_a_public_set():
    public = questions(10, 6)
    digests = {one: ("some test",) for text in public for one in public_rows.fingerprints(text)}
    documents = [{"text": text} for text in [*public[:4], *questions(996, 7)]]
    found = public_rows.recognise(dict(enumerate(documents)), digests)
    assert found == {}
    assert set(public_rows.recognise(dict(enumerate(documents[:500])), digests)) == {"some test"}


def test_short_texts_are_anybodys():
    assert list(public_rows.fingerprints("Yes, of course.")) == []
    assert list(public_rows.fingerprints("春は")) == []
    assert len(list(public_rows.fingerprints("日光浴に適しているのはどこですか"))) == 1


def test_selection_rows_are_warned_of_too_and_test_rows_are_not(record, write_task):
    public = questions(200, 8)
    record(public)
    folder = write_task("mine", rows_of(public), **PLAIN)
    split = Split(seed=1, search=0.4, selection=0.3, test=0.3)
    found = warnings(folder, "mine", split=split)
    assert [one.partition(" rows of")[0] for one in found] == ["search", "selection"]


@pytest.mark.parametrize(
    ("task", "splits", "known"),
    [
        ("gsm8k", {"test_split": "test"}, True),
        ("hellaswag", {"test_split": None, "validation_split": "test"}, False),
        ("my_own", {"test_split": "test"}, False),
    ],
)
def test_a_well_known_name_tells_where_the_split_is_that_results_are_reported_on(
    write_task, task, splits, known
):
    folder = write_task(task, rows_of(questions(20, 9)), **{**PLAIN, **splits})
    found = warnings(folder, task)
    assert len(found) == known
    assert all(f"task {task!r} are a public test set ({task}, test split)" in one for one in found)


def test_what_is_shipped_is_hashes_of_many_rows_and_nothing_else():
    data = json.loads((ROOT / "evaluators" / "harness" / "public_rows.json").read_text())
    recorded = public_rows.recorded()
    assert {"gsm8k test", "mmlu test", "boolq validation", "mgsm ja test"} <= set(data)
    for name, packed in data.items():
        digests = sorted(digest for digest, sets in recorded.items() if name in sets)
        assert len(digests) >= 200
        assert public_rows.pack(digests) == packed


def test_the_recorded_fingerprints_do_not_depend_on_the_order_of_rows(record):
    public = questions(300, 10)
    first = record(public, rows=50).read_text()
    assert record(public[::-1], rows=50).read_text() == first
    assert len(public_rows.recorded()) == 50

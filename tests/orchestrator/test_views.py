"""What the reading commands show."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from evaluators.base import TaskScore
from orchestrator.command_line import views
from orchestrator.storage.candidates import CandidateRecord
from workers.recipe import average

SCORE = TaskScore(value=0.75, stderr=0.05, documents=4, per_document=(1.0, 1.0, 1.0, 0.0))
WHOLE = CandidateRecord(
    id="s7", role="search", number=7, generation=2, name="", state="scored", fitness=0.75,
    stderr=0.05, fidelity=1.0, stopped=False, documents={"search": 40, "test": 4}, operator="sbx",
    genome=[0.5], parents=["s1"], scores={"a": SCORE}, test={"a_test": SCORE}, test_fitness=0.75,
    selection={"a_pick": SCORE}, selection_fitness=0.75, control={"other": SCORE},
    control_fitness=0.75,
    recipe=average(["a", "b"], base="base", num_layers=2, dtype="float32").as_dict(),
)  # fmt: skip
STOPPED = replace(
    WHOLE, fidelity=0.25, stopped=True, selection={}, test={}, control={}, documents={"search": 10}
)
ATTEMPT = {
    "rows": "search", "block": 1, "number": 1, "documents": 10, "state": "scored", "worker": "w",
    "seconds": 0.5, "cause": None,
}  # fmt: skip
STATUS = {
    "campaign": "demo", "state": "running", "reason": None, "generation": 3, "evaluated": 40,
    "failed": 0, "cached": 0, "stopped": 0, "documents": {}, "in_flight": 2, "driver": None,
    "best": None, "winner": None, "started_at": "2025-01-01T00:00:00Z", "elapsed_s": 60.0,
    "evaluations_per_hour": 2400.0,
}  # fmt: skip


def best_line(record: CandidateRecord) -> str:
    found = {"campaign": "demo", "candidates": [views.candidate(record)]}
    assert json.loads(json.dumps(found)) == found
    return views.best_lines(found)[0]


def show(record: CandidateRecord, *attempts) -> str:
    found = views.whole_candidate(record, list(attempts))
    assert json.loads(json.dumps(found)) == found
    return "\n".join(views.show_lines(found))


def test_the_best_have_an_interval_and_say_what_they_rest_on():
    assert "fitness 0.7500 [0.6520, 0.8480]  generation" in best_line(WHOLE)
    assert "[0.6520, 0.8480] stopped at 25% of rows" in best_line(STOPPED)
    assert "from 25% of rows" in best_line(replace(STOPPED, stopped=False))
    assert "fitness 0.7500  generation" in best_line(replace(WHOLE, stderr=None))


def test_the_best_as_data_have_fidelity_and_interval():
    found = views.candidate(STOPPED)
    assert (found["fidelity"], found["stopped"], found["test"]) == (0.25, True, None)
    assert found["interval"] == pytest.approx([0.652, 0.848], abs=1e-4)
    assert views.candidate(replace(WHOLE, stderr=None))["interval"] is None


def test_a_candidate_is_shown_with_its_scores_on_all_kinds_of_rows():
    text = show(WHOLE)
    for part in (
        "selection   a_pick 0.7500",
        "test        a_test 0.7500",
        "control     other 0.75",
    ):
        assert part in text
    assert "selection" not in show(STOPPED)


def test_an_attempt_is_shown_with_its_block_and_its_documents():
    assert "attempt     1 on search rows, block 1 (10 documents), scored, 0.50 s, w" in show(
        STOPPED, ATTEMPT
    )
    failed = {**ATTEMPT, "block": 0, "documents": None, "state": "failed", "cause": "no memory"}
    assert "attempt     1 on search rows, failed, 0.50 s, w: no memory" in show(STOPPED, failed)


def test_a_candidate_that_was_never_measured_is_shown_without_a_fitness():
    failed = replace(STOPPED, state="failed", fitness=None, stderr=None, fidelity=0.0, scores={})
    assert "fitness     -" in show(failed)
    assert "interval" in views.candidate(failed)


def test_what_was_measured_for_the_report_alone_is_told_from_what_waits():
    waiting = replace(STOPPED, state="proposed", fitness=None, stderr=None, scores={})
    assert "state       proposed, generation 2" in show(waiting)
    beside = replace(waiting, test=WHOLE.test, operator="counterpart")
    assert "state       measured for the report, generation 2, by counterpart" in show(beside)


def test_the_status_says_what_was_spent_and_stopped():
    spent = {"reference": {"search": 40}, "search": {"search": 1200, "selection": 90, "test": 0}}
    text = "\n".join(views.status_lines({**STATUS, "stopped": 31, "documents": spent}))
    assert "documents   reference 40 search; search 1,200 search + 90 selection" in text
    assert "stopped     31 of those evaluated" in text
    plain = "\n".join(views.status_lines(STATUS))
    assert "stopped" not in plain
    assert "documents" not in plain


def test_the_status_has_the_winner_beside_its_counterpart():
    other = replace(
        WHOLE, id="r1000000070", role="reference", name="without", operator="counterpart",
        test_fitness=0.25,
    )  # fmt: skip
    found = views.beside(WHOLE, [other, replace(other, operator="reference", name="base")])
    lines = views.status_lines({**STATUS, "winner": "s7", "beside": found})
    assert lines[-1] == "beside      without: 0.2500 on test rows, s7 0.7500"
    assert views.beside(WHOLE, [replace(other, test_fitness=None)]) == []
    assert views.beside(None, [other]) == []


def test_the_status_names_a_winner_that_is_not_the_best_on_search_rows():
    best = {"id": "s7", "fitness": 0.75, "violation": 0.0, "scores": {"a": 0.75}}
    other = views.status_lines({**STATUS, "best": best, "winner": "s3"})
    assert any(line.split()[:2] == ["winner", "s3,"] for line in other)
    same = views.status_lines({**STATUS, "best": best, "winner": "s7"})
    assert not any(line.startswith("winner") for line in same)


def test_who_breaks_constraints_is_said_to():
    (line,) = views.best_lines(
        {"campaign": "one", "candidates": [views.candidate(replace(WHOLE, violation=0.125))]}
    )
    assert "breaks constraints by 0.125" in line
    best = {"id": "s7", "fitness": 0.75, "violation": 0.5, "scores": {"a": 0.75}}
    lines = views.status_lines({**STATUS, "best": best, "winner": "s7"})
    assert any("breaks constraints by 0.5" in line for line in lines)
    assert "breaks" not in "".join(
        views.best_lines({"campaign": "one", "candidates": [views.candidate(WHOLE)]})
    )


def test_the_scores_of_a_model_are_shown_on_all_kinds_of_rows_that_there_are():
    part = {"fitness": 0.5, "scores": {"a": 0.5}, "stderr": {"a": None}}
    lines = views.score_lines({"model": "m", "search": part, "selection": None, "control": part})
    assert [line.split()[0] for line in lines] == ["model", "search", "control"]

"""What came out: findings, tables, model card, report and picture."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from evaluators.base import TaskScore
from orchestrator import config
from orchestrator.reporting import findings, model_card, picture, report
from orchestrator.reporting import front as fronts
from orchestrator.reporting import result as results
from orchestrator.reporting import result_tables as tables
from orchestrator.reporting.front import Front, Member
from orchestrator.reporting.operator_stats import operator_stats
from orchestrator.reporting.result import Result
from orchestrator.storage.births import Birth
from orchestrator.storage.candidates import CandidateRecord
from workers.recipe import average

ROOT = Path(__file__).resolve().parents[2]


def task(*values: float, weight=1.0) -> TaskScore:
    mean = sum(values) / len(values)
    return TaskScore(
        value=mean, stderr=0.05, documents=len(values), per_document=values, weight=weight
    )


def answers(right: int, of: int = 10, weight=1.0) -> TaskScore:
    return task(*[1.0] * right, *[0.0] * (of - right), weight=weight)


def record(id_: str, role="search", name="", right=8, tests=True, **more) -> CandidateRecord:
    recipe = average(["models/a", "models/b"], base="models/base", num_layers=2, dtype="float32")
    common = {
        "id": id_, "role": role, "number": int(id_[1:]), "generation": 3, "name": name,
        "state": "scored", "fitness": right / 10, "operator": "sbx+polynomial",
        "genome": None if role == "reference" else [0.5], "recipe": recipe.as_dict(),
        "parents": ["s1", "s2"] if role == "search" else [],
        "scores": {"skill_a_search": answers(right)}, "stderr": 0.05, "fidelity": 1.0,
        "stopped": False, "test": {"skill_a_test": answers(right)} if tests else {},
        "test_fitness": right / 10 if tests else None, "selection": {}, "selection_fitness": None,
        "control": {}, "control_fitness": None, "documents": {"search": 10},
    }  # fmt: skip
    return CandidateRecord(**{**common, **more})


def result(*records: CandidateRecord, overrides=(), **more) -> Result:
    winner = records[0]
    settings = config.read(ROOT / "examples/quickstart.yaml", overrides)
    lines = [results.line_of(one, winner) for one in records]
    status = {
        "campaign": "quickstart", "state": "finished", "reason": None, "evaluated": 40,
        "failed": 2, "stopped": 0, "cached": 0, "generation": 8, "elapsed_s": 61.2, "documents": {},
        **more.pop("status", {}),
    }  # fmt: skip
    common = {
        "settings": settings, "winner": winner, "lines": lines, "status": status,
        "versions": {"shoal": "0.1.0", "torch": "2.9"}, "failures": (),
        "optimism": results.optimism(lines[0]),
    }  # fmt: skip
    return Result(**{**common, **more})


PARENTS = (
    record("r1", "reference", "models/base", right=2),
    record("r2", "reference", "models/a", right=7),
)


def controlled(found: CandidateRecord, *values: float, weight=1.0) -> CandidateRecord:
    return replace(found, control={"other_skill": task(*values, weight=weight)})


def test_the_verdict_counts_what_the_winner_beats_on_the_test_rows_and_what_of_it_clearly():
    verdict = findings.verdict(result(record("s17", right=10), *PARENTS))
    # Against the base 8 of 10 documents differ (p 0.008), against models/a 3 (p 0.25).
    assert "s17 scores above 2 of 2 models" in verdict
    assert "1 clearly, and below 0, 0 clearly" in verdict


def test_the_verdict_does_not_hide_a_loss_on_the_test_rows():
    loser = record("s17", right=9, test={"skill_a_test": answers(0)}, test_fitness=0.0)
    verdict = findings.verdict(result(loser, *PARENTS))
    assert "above 0 of 2 models it is compared with, 0 clearly, and below 2, 1 clearly" in verdict


def test_an_interval_alone_on_a_handful_of_documents_is_not_called_clear():
    winner = record("s17", test={"skill_a_test": answers(3, of=3)})
    parent = record("r1", "reference", "models/a", test={"skill_a_test": answers(0, of=3)})
    found = result(winner, parent)
    assert found.lines[1].lead.interval == (1.0, 1.0)
    assert "above 1 of 1 models it is compared with, 0 clearly" in findings.verdict(found)


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (20, "s17 is clearly better than its counterpart (without): +0.500 [+"),
        (48, "s17 is not clearly better than its counterpart (without): +0.033 ["),
        (59, "s17 is clearly worse than its counterpart (without): -0.150 [-"),
    ],
)
def test_whether_the_winner_beats_what_was_made_of_it_is_said(right, said):
    winner = record("s17", test={"skill_a_test": answers(50, 60)})
    without = record(
        "r1000000170", "reference", "without", operator="counterpart", fitness=None, scores={},
        state="proposed", test={"skill_a_test": answers(right, 60)},
    )  # fmt: skip
    found = result(winner, *PARENTS, without)
    text = findings.counterparts(found)
    assert said in text
    assert ("not shown to be of use" in text) == (right > 20)
    assert text in report.markdown(found, "x.png")
    assert text in report.lines(found)
    assert tables.rows(found)[-1][:2] == ["without", "-"]
    untested = replace(without, test={})
    assert "nothing to tell" in findings.counterparts(result(winner, untested))
    assert findings.counterparts(result(winner, *PARENTS)) == ""


def test_the_verdict_says_when_a_reference_wins_and_on_which_rows():
    best = record("r2", "reference", "models/a", right=9)
    assert findings.verdict(result(best, PARENTS[0])) == (
        "No candidate beat models/a on the search rows: the result is that model."
    )
    picked = replace(best, selection={"skill_a_pick": answers(9)}, selection_fitness=0.9)
    assert findings.verdict(result(picked, PARENTS[0])) == (
        "No finalist did better than models/a on the selection rows: the result is that model."
    )


def test_the_verdict_says_when_there_are_no_test_rows_or_none_were_scored():
    untested = (record("s17", tests=False), record("r1", "reference", "base", tests=False))
    none = result(*untested, overrides=["evaluate.test=[]"])
    assert findings.verdict(none) == (
        "s17 is the best on the search rows. There are no test rows to confirm it."
    )
    assert tables.header(none) == ["model", "search fitness"]
    assert all(len(row) == 2 for row in tables.rows(none))
    assert "was not measured on the test rows" in findings.verdict(result(*untested))


def test_the_verdict_does_not_compare_with_models_that_cannot_be():
    other = record("r1", "reference", "base", test={"skill_a_test": answers(2, of=9)})
    assert "no model that it can be compared with" in findings.verdict(result(record("s1"), other))


def test_the_table_has_a_cell_for_each_column_and_the_winner_first():
    found = result(record("s17", right=10), *PARENTS)
    assert tables.header(found) == [
        "model", "search fitness", "skill_a_test", "test fitness", "best leads by [95% CI]", "p"
    ]  # fmt: skip
    assert all(len(row) == len(tables.header(found)) for row in tables.rows(found))
    assert [row[0] for row in tables.rows(found)] == ["best: s17", "models/base", "models/a"]
    assert tables.rows(found)[2][-2].startswith("+0.300 [+0.")
    assert tables.rows(found)[2][-1] == "0.25"


def test_the_table_says_what_share_of_the_rows_a_fitness_rests_on():
    stopped = record("s2", fidelity=0.25, stopped=True)
    estimated = record("s3", fidelity=0.1)
    cells = [row[1] for row in tables.rows(result(record("s17"), stopped, estimated))]
    assert cells == ["0.800", "0.800 (stopped at 25% of rows)", "0.800 (on 10% of rows)"]


def test_the_table_shows_selection_rows_where_there_are_any():
    picked = record("s17", selection={"pick": answers(7)}, selection_fitness=0.7)
    found = result(picked, *PARENTS)
    assert tables.header(found)[:3] == ["model", "search fitness", "selection fitness"]
    assert [row[2] for row in tables.rows(found)] == ["0.700", "-", "-"]


def test_a_reference_that_failed_has_dashes():
    failed = record(
        "r3", "reference", "broken", state="failed", fitness=None, scores={}, test={},
        test_fitness=None, stderr=None,
    )  # fmt: skip
    row = tables.rows(result(record("s17"), failed))[1]
    assert row == ["broken", "-", "-", "-", "", ""]


def test_the_random_search_and_the_best_on_search_rows_are_named_as_such():
    winner, best, random = record("s17"), record("s4", right=9), record("c8", "control", right=9)
    lines = [results.line_of(one, winner, [best]) for one in (winner, best, random, PARENTS[0])]
    assert [line.label for line in lines] == [
        "best: s17", "best on search rows: s4", "random search: c8", "models/base"
    ]  # fmt: skip


def test_the_result_as_data_is_plain_json():
    picked = record("s17", right=10, selection={"pick": answers(7)}, selection_fitness=0.7)
    winner = controlled(picked, 1.0, 0.0, 1.0)
    parents = [controlled(one, 1.0, 1.0, 1.0) for one in PARENTS]
    found = tables.as_json(result(winner, *parents, warnings=["rows of MMLU"], finalists=[winner]))
    assert json.loads(json.dumps(found)) == found
    assert [line["id"] for line in found["table"]] == ["s17", "r1", "r2"]
    lead = found["table"][2]["lead"]
    assert lead["difference"] == pytest.approx(0.3)
    assert lead["interval"][0] <= 0.3 <= lead["interval"][1]
    assert lead["p_value"] == 0.25
    assert found["table"][1]["control_leads"]["other_skill"]["difference"] == pytest.approx(-1 / 3)
    assert found["warnings"] == ["rows of MMLU"]
    assert found["finalists"] == ["s17"]
    assert [one["rows"] for one in found["optimism"]] == ["search", "selection"]
    assert found["table"][0]["selection"] == {"pick": 0.7}
    assert found["table"][1]["selection"] is None


def test_a_control_task_that_got_clearly_worse_is_named_with_its_interval():
    right, wrong = [1.0] * 20, [0.0] * 12 + [1.0] * 8
    found = result(controlled(record("s17"), *wrong), controlled(PARENTS[0], *right), PARENTS[1])
    text = findings.controls(found)
    assert "clearly worse in 1 of 1 comparisons" in text
    assert re.search(r"other_skill beside models/base, by 0\.600 \[0\.\d+, 0\.\d+\]", text)
    cells = tables.control_rows(found)
    assert [row[2] for row in cells] == ["models/base"]  # models/a was not measured
    assert cells[0][4].startswith("-0.600 [-0.")


def test_control_tasks_without_a_clear_loss_still_say_what_loss_is_possible():
    rng = np.random.default_rng(0)
    ours, theirs = (list((rng.random(50) < 0.7) * 1.0) for _ in range(2))
    found = result(controlled(record("s17"), *ours), controlled(PARENTS[0], *theirs))
    low = found.lines[1].control_leads["other_skill"].interval[0]
    assert low < 0
    text = findings.controls(found)
    assert "clearly worse in none of 1 comparisons" in text
    assert (
        f"the lowest interval reaches down to {low:+.3f} (other_skill beside models/base)" in text
    )


def test_a_control_loss_is_a_loss_where_lower_is_better():
    low, high = [1.0, 1.5, 2.0] * 8, [3.0, 3.5, 4.5] * 8
    lower = controlled(record("s17"), *low, weight=-0.1)
    higher = controlled(PARENTS[0], *high, weight=-0.1)
    better = result(lower, higher).lines[1].control_leads["other_skill"]
    assert (better.clear, better.value) == (1, pytest.approx(np.mean(high) - np.mean(low)))
    assert "clearly worse in 1 of 1" in findings.controls(result(higher, lower))


def test_control_tasks_without_an_interval_are_named_and_nothing_is_said_of_the_others():
    value = TaskScore(value=12.5, stderr=None, documents=1, weight=-1.0)
    ours, theirs = (replace(one, control={"words": value}) for one in (record("s1"), PARENTS[0]))
    assert findings.controls(result(ours, theirs)) == (
        "No interval can be told for words beside models/base."
    )
    spread = replace(value, stderr=0.5)
    ours, theirs = (replace(one, control={"words": spread}) for one in (ours, theirs))
    text = findings.controls(result(ours, theirs))
    assert "clearly worse in none of 1 comparisons" in text


def test_control_tasks_that_were_not_scored_are_missed_only_where_there_are_some():
    assert findings.controls(result(record("s17"))) == ""
    there = result(record("s17"), overrides=["evaluate.control=[other_skill]"])
    assert findings.controls(there) == "s17 was not measured on the control tasks."


def test_optimism_is_told_where_search_and_test_can_be_compared():
    winner = record("s17", right=9, test={"skill_a_test": answers(7)}, test_fitness=0.7)
    text = " ".join(findings.optimism(result(winner)))
    assert "s17 scores 0.200 higher on the search rows than on the test rows: no more than" in text
    assert "have other names" in text
    uneven = replace(winner, scores={**winner.scores, "other": task(1.0)})
    assert findings.optimism(result(uneven)) == []
    heavier = replace(winner, test={"skill_a_test": answers(7, weight=2.0)})
    assert findings.optimism(result(heavier)) == []


def test_optimism_beyond_chance_is_told_from_optimism_within_it():
    flattered = record(
        "s17", scores={"skill": answers(180, of=200)}, test={"skill": answers(140, of=200)}
    )
    text = " ".join(findings.optimism(result(flattered)))
    assert "0.200 higher on the search rows than on the test rows: more than the chance" in text
    assert "have other names" not in text
    easier = replace(flattered, scores=flattered.test, test=flattered.scores)
    text = findings.optimism(result(easier))[0]
    assert (
        "0.200 lower on the search rows than on the test rows: the test rows came out easier"
        in text
    )


def test_selection_rows_have_an_optimism_of_their_own():
    picked = record("s17", right=9, selection={"pick": answers(8)}, test={"t": answers(7)})
    found = results.optimism(results.line_of(picked, picked))
    assert [(one.rows, round(one.difference.value, 6)) for one in found] == [
        ("search", 0.2), ("selection", 0.1)
    ]  # fmt: skip
    assert [row[1] for row in tables.optimism_rows(result(picked))] == [
        "search rows", "selection rows"
    ]  # fmt: skip


def test_how_the_winner_was_picked_is_told_and_rows_used_twice_are_not_called_fresh():
    assert findings.picking(result(record("s17"))) == (
        "s17 was picked by its fitness on the search rows."
    )
    finalists = [
        record(f"s{place}", selection={"pick": answers(7, of=40)}, selection_fitness=0.2)
        for place in range(1, 8)
    ]
    once = findings.picking(result(*finalists, finalists=finalists[:5]))
    assert "on 40 selection rows among 5 finalists" in once
    assert once.endswith("These rows were used for nothing else.")
    twice = findings.picking(result(*finalists, finalists=finalists))
    assert "chosen by more than once" in twice
    assert "nothing else" not in twice


def test_what_a_race_saved_is_counted_from_documents():
    spent = {
        "search": {"search": 300, "selection": 50}, "reference": {"search": 20},
        "control": {"search": 0},
    }  # fmt: skip
    found = result(
        record("s17"), *PARENTS, status={"evaluated": 102, "stopped": 90, "documents": spent}
    )
    assert findings.racing(found) == (
        "Of 100 candidates 90 were stopped early. Candidates were scored on 300 documents of the "
        "search rows where measuring each in full takes 1,000: 70% were saved."
    )
    copied = replace(found, status={**found.status, "cached": 3, "stopped": 0})
    assert findings.racing(copied).startswith("Of 100 candidates 3 were copied from equal ones.")
    text = report.markdown(found, "x.png")
    assert "| documents scored | search rows | selection rows | in all |" in text
    assert "| search | 300 | 50 | 350 |" in text
    assert "| of these stopped early | 90 |" in text


def test_nothing_is_said_to_be_saved_where_everything_was_measured():
    spent = {"search": {"search": 1000}, "reference": {"search": 20}}
    found = result(record("s17"), *PARENTS, status={"evaluated": 102, "documents": spent})
    assert findings.racing(found) == ""
    assert findings.racing(result(record("s17"), *PARENTS)) == ""


def test_warnings_are_in_report_card_and_what_is_printed():
    found = result(record("s17"), *PARENTS, warnings=["search rows are those of MMLU's test set"])
    for text in (
        report.markdown(found, "x.png"),
        model_card.card(found, found.winner, "out", {}),
        "\n".join(report.lines(found)),
    ):
        assert "search rows are those of MMLU's test set" in text


def test_the_card_has_lineage_scores_intervals_versions_and_seed():
    card = model_card.card(result(record("s17"), *PARENTS), record("s17"), "out/best", {})
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "tags": ["merge", "evolutionary-search", "shoal"],
        "base_model": ["models/base", "models/a", "models/b"],
    }
    for part in (
        "generation 3", "sbx+polynomial", "parents: s1, s2", "seed 7", "shoal 0.1.0", "torch 2.9",
        "| search | skill_a_search | 0.8 |", "| test | skill_a_test | 0.8 |", "95% interval",
        "recipe.yaml", "--model_args pretrained=out/best,dtype=float32",
        "# search rows\nlm_eval run --model hf", "--tasks skill_a_search,skill_b_search",
        "# test rows\nlm_eval run --model hf", "--tasks skill_a_test,skill_b_test",
    ):  # fmt: skip
        assert part in body, part
    assert "What follows is about" not in body


def test_the_card_names_the_documents_of_rows_that_were_cut_from_a_task(monkeypatch):
    monkeypatch.chdir(ROOT)
    cut = ["evaluate.test=[]", "evaluate.split={seed: 1, search: 0.5, test: 0.5}"]
    winner = record("s17")
    found = result(winner, overrides=cut)
    files = model_card.rows_files(found.settings, winner)
    assert sorted(files) == ["search_rows.json", "test_rows.json"]
    assert sorted(json.loads(files["test_rows.json"])) == ["skill_a_search", "skill_b_search"]
    card = model_card.card(found, winner, "out", files)
    assert "--samples out/test_rows.json" in card
    assert "no command" not in card


def test_the_card_says_when_the_files_of_a_task_are_gone():
    cut = ["evaluate.test=[]", "evaluate.split={seed: 1, search: 0.5, test: 0.5}"]
    winner = record("s17")
    found = result(winner, overrides=[*cut, "evaluate.include_path=gone"])
    assert model_card.rows_files(found.settings, winner) == {}
    card = model_card.card(found, winner, "out", {})
    assert "--samples" not in card
    assert "There is no command for rows that were cut from a task" in card


def test_the_card_of_an_untested_candidate_says_so():
    card = model_card.card(result(record("s17")), record("s4", tests=False), "out", {})
    assert "was not measured on test rows" in card
    assert "about the campaign's best, s17; the model in this folder is s4" in card
    tested = model_card.card(result(record("s17")), record("s17"), "out", {})
    assert "was not measured" not in tested


def test_the_card_of_a_stopped_candidate_calls_its_fitness_an_estimate():
    stopped = record("s4", tests=False, fidelity=0.3, stopped=True)
    card = model_card.card(result(record("s17")), stopped, "out", {})
    assert "A race ended it after 30% of the search rows" in card
    assert "is an estimate" in card


def test_the_card_of_a_candidate_that_failed_between_two_blocks_has_no_fitness():
    failed = record("s4", tests=False, fidelity=0.0, fitness=None, stderr=None, state="failed")
    card = model_card.card(result(record("s17")), failed, "out", {})
    assert "estimate" not in card
    assert "not measured on test rows" in card


def test_the_report_says_what_operators_achieved_where_any_had_a_child():
    births = [
        Birth(id="s1", operator="sample", fitness=0.5),
        Birth(id="s2", operator="sbx+polynomial", parents=("s1",), fitness=0.75),
        Birth(id="s3", operator="sbx+polynomial", parents=("s1",), fitness=0.25),
    ]
    found = result(record("s17"), operators=operator_stats(births))
    text = report.markdown(found, "x.png")
    assert "## What made the candidates" in text
    assert "| sbx+polynomial | 2 | 50.0% [9.5%, 90.5%] | +0 [-0.49, +0.49] |" in text
    assert "| sample | 1 | - | - |" in text
    assert json.loads(json.dumps(tables.as_json(found)))["operators"][0]["success_rate"] == 0.5
    only_samples = result(record("s17"), operators=operator_stats(births[:1]))
    assert "## What made" not in report.markdown(only_samples, "x.png")


def test_the_report_has_verdict_table_picture_counts_and_failures():
    found = result(record("s17"), *PARENTS, failures=[("ValueError: a | b", 3)])
    text = report.markdown(found, "fitness.png")
    for part in (
        "# Campaign quickstart", findings.verdict(found), "![fitness over eval", "(fitness.png)",
        "| candidates measured | 40 |", "| candidates failed | 2 |", "| seed | 7 |",
        "| torch | 2.9 |", "## Failures", "| ValueError: a \\| b | 3 |", findings.CLEARLY,
        "## Optimism", "was picked by",
    ):  # fmt: skip
        assert part in text, part
    plain = report.markdown(result(record("s17", tests=False)), "x.png")
    for heading in ("## Failures", "## Optimism", "## What was spent", "## Did anything else"):
        assert heading not in plain


def test_a_cause_of_several_lines_does_not_break_the_table():
    text = report.markdown(result(record("s17"), failures=[("one\ntwo", 1)]), "x.png")
    assert "| cause | times |\n| --- | --- |\n| one two | 1 |" in text


CONSTRAINED = ("objectives={kind: weighted, constraints: [skill_a_search >= base]}",)


def test_the_report_says_whether_the_result_keeps_the_constraints():
    kept = result(record("s17"), overrides=CONSTRAINED)
    assert "s17 keeps all constraints" in report.markdown(kept, "x.png")
    broken = result(record("s17", violation=0.25), *PARENTS, overrides=CONSTRAINED)
    text = report.markdown(broken, "x.png")
    assert "Nothing that was measured keeps all constraints (skill_a_search >= base): s17" in text
    assert "0.800 (breaks constraints by 0.25)" in text
    assert any("by 0.25 of their bounds" in line for line in report.lines(broken))
    assert tables.as_json(broken)["table"][0]["violation"] == 0.25
    assert "constraints" not in report.markdown(result(record("s17")), "x.png")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (None, "its budget was spent"),
        ("time", "time was up"),
        ("target", "a fitness of 0.7 was reached"),
        ("stagnation", "the best did not become better any more"),
    ],
)
def test_the_report_says_why_the_search_ended(reason, said):
    found = result(record("s17"), overrides=("budget.target=0.7",), status={"reason": reason})
    assert f"| the search ended because | {said} |" in report.markdown(found, "x.png")


def test_the_front_has_a_table_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    found = Front(
        names=("skill", "size"),
        signs=(1.0, -1.0),
        members=[
            Member(record=record("s9"), values={"skill": 0.75, "size": 12345.0}),
            Member(record=PARENTS[0], values={"skill": 0.5, "size": 999.0}),
        ],
        points={"search": [(0.75, 12345.0), (0.25, 20000.0)], "reference": [(0.5, 999.0)]},
    )
    whole = result(record("s9"), *PARENTS, front=found)
    text = report.markdown(whole, "x.png")
    assert "| on the front | skill | size (lower is better) | search fitness |" in text
    assert "| s9 | 0.75 | 12,345 | 0.800 |\n| models/base | 0.5 | 999 | 0.200 |" in text
    assert f"({fronts.PICTURE})" in text
    data = json.loads(json.dumps(tables.as_json(whole)))["front"]
    assert data[0] == {"id": "s9", "name": None, "objectives": {"skill": 0.75, "size": 12345.0},
                       "search_fitness": 0.8}  # fmt: skip
    of_three = replace(found, names=("skill", "size", "more"), signs=(-1.0, -1.0, 1.0), points={})
    for number, some in enumerate((found, of_three)):
        fronts.draw(some, tmp_path / "new" / f"{number}.png")
        assert (tmp_path / "new" / f"{number}.png").read_bytes().startswith(b"\x89PNG")
    plain = result(record("s9"))
    assert "## The front" not in report.markdown(plain, "x.png")
    assert tables.as_json(plain)["front"] is None


def test_the_picture_is_drawn_even_where_little_was_measured(tmp_path):
    pytest.importorskip("matplotlib")
    histories = (
        [],
        [("search", "s1", 0.5, False)],
        [("control", "c1", 0.1, False), ("search", "s1", 0.5, True)],
    )
    for number, history in enumerate(histories):
        path = tmp_path / "new" / f"{number}.png"
        picture.draw(history, PARENTS, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_stopped_candidate_is_never_the_best_in_the_picture(monkeypatch, tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn = []
    monkeypatch.setattr(figure, "savefig", lambda self, *args, **more: drawn.append(self))
    history = [("search", "s1", 0.5, False), ("search", "s2", 0.9, True),
               ("search", "s3", 0.6, False), ("search", "s4", 0.4, False)]  # fmt: skip
    picture.draw(history, [], tmp_path / "x.png")
    lines = {line.get_label(): line for line in drawn[0].axes[0].get_lines()}
    assert list(lines["best of search"].get_xdata()) == [1, 3, 4, 4]
    assert list(lines["best of search"].get_ydata()) == [0.5, 0.6, 0.6, 0.6]
    assert list(lines["search, out of the running"].get_xdata()) == [2]

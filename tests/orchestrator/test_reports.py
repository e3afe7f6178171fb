"""What came out: verdict, tables, model card, report and picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from evaluators.base import TaskScore
from orchestrator import config, report
from orchestrator.report import Line, Result
from orchestrator.storage.reader import CandidateRecord
from workers.recipe import average

ROOT = Path(__file__).resolve().parents[2]


def task(*values: float) -> TaskScore:
    mean = sum(values) / len(values)
    return TaskScore(value=mean, stderr=0.05, documents=len(values), per_document=values)


def record(id_: str, role="search", name="", right=8, tests=True, **more) -> CandidateRecord:
    scores = {"skill_a_search": task(*[1.0] * right, *[0.0] * (10 - right))}
    test = {"skill_a_test": task(*[1.0] * right, *[0.0] * (10 - right))} if tests else {}
    recipe = average(["models/a", "models/b"], base="models/base", num_layers=2, dtype="float32")
    common = {
        "id": id_, "role": role, "number": int(id_[1:]), "generation": 3, "name": name,
        "state": "scored", "fitness": right / 10, "operator": "sbx+polynomial",
        "genome": None if role == "reference" else [0.5], "recipe": recipe.as_dict(),
        "parents": ["s1", "s2"] if role == "search" else [], "scores": scores, "test": test,
        "test_fitness": right / 10 if tests else None,
    }  # fmt: skip
    return CandidateRecord(**{**common, **more})


def result(*records: CandidateRecord, failures=()) -> Result:
    winner = records[0]
    settings = config.read(ROOT / "examples/quickstart.yaml")
    lines = [Line(label=f"best: {winner.label}", record=winner, lead=None)]
    lines += [
        Line(label=one.label, record=one, lead=report._lead(winner, one)) for one in records[1:]
    ]
    status = {
        "campaign": "quickstart", "state": "finished", "evaluated": 40, "failed": 2,
        "generation": 8, "elapsed_s": 61.2,
    }  # fmt: skip
    versions = {"shoal": "0.1.0", "torch": "2.9"}
    return Result(
        settings=settings, winner=winner, lines=lines, status=status, versions=versions,
        failures=failures,
    )  # fmt: skip


PARENTS = (
    record("r1", "reference", "models/base", right=2),
    record("r2", "reference", "models/a", right=7),
)


def test_the_verdict_counts_what_the_winner_beats_on_the_test_rows():
    verdict = report.verdict(result(record("s17", right=10), *PARENTS))
    assert "s17 beats 2 of 2" in verdict
    assert "95% interval" in verdict


def test_the_verdict_does_not_hide_a_loss_on_the_test_rows():
    loser = record("s17", right=9, test={"skill_a_test": task(*[0.0] * 10)}, test_fitness=0.0)
    assert "beats 0 of 2" in report.verdict(result(loser, *PARENTS))


def test_the_verdict_says_when_a_reference_wins():
    best = record("r2", "reference", "models/a", right=9)
    assert report.verdict(result(best, PARENTS[0])) == (
        "No candidate beat models/a on the search rows: the result is that model."
    )


def test_the_verdict_says_when_there_are_no_test_rows():
    found = result(record("s17", tests=False), record("r1", "reference", "base", tests=False))
    assert "no test rows" in report.verdict(found)
    assert report.header(found) == ["model", "search fitness"]
    assert all(len(row) == 2 for row in report.rows(found))


def test_the_table_has_a_cell_for_each_column_and_the_winner_first():
    found = result(record("s17", right=10), *PARENTS)
    assert report.header(found)[0] == "model"
    assert all(len(row) == len(report.header(found)) for row in report.rows(found))
    assert [row[0] for row in report.rows(found)] == ["best: s17", "models/base", "models/a"]
    assert report.rows(found)[2][-1].startswith("+0.300 [+0.")


def test_a_reference_that_failed_has_dashes():
    failed = record(
        "r3", "reference", "broken", state="failed", fitness=None, scores={}, test={},
        test_fitness=None,
    )  # fmt: skip
    row = report.rows(result(record("s17"), failed))[1]
    assert row == ["broken", "-", "-", "-", ""]


def test_the_table_as_data_is_plain_json():
    found = report.as_json(result(record("s17", right=10), *PARENTS))
    assert json.loads(json.dumps(found)) == found
    assert [line["id"] for line in found["table"]] == ["s17", "r1", "r2"]
    lead = found["table"][2]["lead"]
    assert lead["difference"] == pytest.approx(0.3)
    assert lead["interval"][0] <= 0.3 <= lead["interval"][1]


def test_the_card_has_lineage_scores_intervals_versions_and_seed():
    card = report.card(result(record("s17"), *PARENTS), record("s17"), "out/best")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "tags": ["merge", "evolutionary-search", "shoal"],
        "base_model": ["models/base", "models/a", "models/b"],
    }
    for part in (
        "generation 3", "sbx+polynomial", "parents: s1, s2", "seed 7", "shoal 0.1.0", "torch 2.9",
        "| search | skill_a_search | 0.8 |", "| test | skill_a_test | 0.8 |", "95% interval",
        "recipe.yaml", "lm_eval run --model hf --model_args pretrained=out/best,dtype=float32",
        "--tasks skill_a_search,skill_b_search", "--batch_size 64",
    ):  # fmt: skip
        assert part in body, part


def test_the_card_of_an_untested_candidate_says_so():
    card = report.card(result(record("s17")), record("s4", tests=False), "out")
    assert "was not measured on test rows" in card
    assert "was not measured" not in report.card(result(record("s17")), record("s17"), "out")


def test_the_report_has_verdict_table_picture_counts_and_failures():
    found = result(record("s17"), *PARENTS, failures=[("ValueError: a | b", 3)])
    text = report.markdown(found, "fitness.png")
    for part in (
        "# Campaign quickstart", report.verdict(found), "![fitness over evaluations](fitness.png)",
        "| candidates measured | 40 |", "| candidates failed | 2 |", "| seed | 7 |",
        "| torch | 2.9 |", "## Failures", "| ValueError: a \\| b | 3 |",
    ):  # fmt: skip
        assert part in text, part
    assert "## Failures" not in report.markdown(result(record("s17")), "x.png")


def test_a_cause_of_several_lines_does_not_break_the_table():
    text = report.markdown(result(record("s17"), failures=[("one\ntwo", 1)]), "x.png")
    assert "| cause | times |\n| --- | --- |\n| one" in text
    assert "\ntwo | 1 |" not in text


def test_optimism_is_told_where_search_and_test_can_be_compared():
    winner = record("s17", right=9, test_fitness=0.7)
    assert "+0.200 of optimism" in report.markdown(result(winner), "x.png")
    uneven = replace(winner, scores={**winner.scores, "other": task(1.0)})
    assert "optimism" not in report.markdown(result(uneven), "x.png")


def test_the_command_for_others_quotes_and_has_all_settings():
    settings = config.read(
        ROOT / "examples/quickstart.yaml",
        ["evaluate.limit=9", "evaluate.num_fewshot=2", "evaluate.apply_chat_template=true"],
    )
    command = report.lm_eval_command(settings, "my folder", "bfloat16")
    assert "'pretrained=my folder,dtype=bfloat16'" in command
    assert "--limit 9" in command
    assert "--num_fewshot 2" in command
    assert "--apply_chat_template" in command


def test_the_picture_is_drawn_even_where_little_was_measured(tmp_path):
    pytest.importorskip("matplotlib")
    histories = ([], [("search", "s1", 0.5)], [("control", "c1", 0.1), ("search", "s1", 0.5)])
    for number, history in enumerate(histories):
        path = tmp_path / "new" / f"{number}.png"
        report.draw(history, PARENTS, path)
        assert path.read_bytes().startswith(b"\x89PNG")

"""The stock lm-eval commands that a model card offers."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.lm_harness import LmHarness, Objective, Split
from orchestrator.reporting import stock_command

ROOT = Path(__file__).resolve().parents[2]
PLAIN = LmHarness(
    tasks=(Objective(name="skill_a_search", metric="acc"),),
    test=("skill_a_test",),
    control=("skill_b_test",),
    include_path=str(ROOT / "examples/tasks"),
    batch_size=64,
)
CUT = replace(PLAIN, test=(), control=(), split=Split(seed=1, search=0.5, selection=0.2, test=0.2))


def flags(settings: LmHarness, rows="search", folder="out", dtype="float32") -> dict[str, str]:
    words = shlex.split(stock_command.command(settings, rows, folder, dtype))
    return {
        one: following
        for one, following in zip(words, [*words[1:], ""], strict=True)
        if one.startswith("--")
    }


def test_each_kind_of_rows_has_its_tasks():
    assert flags(PLAIN)["--tasks"] == "skill_a_search"
    assert flags(PLAIN, "test")["--tasks"] == "skill_a_test"
    assert flags(PLAIN, "control")["--tasks"] == "skill_b_test"


def test_the_command_quotes_and_has_all_settings():
    settings = replace(
        PLAIN, limit=9, num_fewshot=2, apply_chat_template=True, max_length=128,
        allow_code_execution=True,
    )  # fmt: skip
    command = stock_command.command(settings, "search", "my folder", "bfloat16", brings_code=True)
    assert "'pretrained=my folder,dtype=bfloat16,max_length=128,trust_remote_code=True'" in command
    for part in (
        "--limit 9", "--num_fewshot 2", "--apply_chat_template", "--batch_size 64",
        "--confirm_run_unsafe_code",
    ):  # fmt: skip
        assert part in command, part


def test_the_command_is_one_that_the_harness_takes():
    cli = pytest.importorskip("lm_eval._cli.harness").HarnessCLI()
    for settings in (PLAIN, replace(CUT, limit=3, batch_size=None, backend="vllm")):
        for rows in settings.kinds:
            words = shlex.split(stock_command.command(settings, rows, "out", "float32"))
            assert words[:2] == ["lm_eval", "run"]
            found = cli._parser.parse_args(words[1:])
            assert found.include_path == settings.include_path


def test_rows_that_were_cut_from_a_task_are_named_by_place_and_not_limited_again():
    settings = replace(CUT, limit=7)
    found = {rows: flags(settings, rows) for rows in ("search", "selection", "test")}
    assert [one["--samples"] for one in found.values()] == [
        "out/search_rows.json", "out/selection_rows.json", "out/test_rows.json"
    ]  # fmt: skip
    assert all("--limit" not in one for one in found.values())
    assert "--samples" not in flags(PLAIN)


def test_the_places_are_those_that_the_campaign_scores():
    places = {
        rows: json.loads(stock_command.samples(CUT, rows))["skill_a_search"]
        for rows in ("search", "selection", "test")
    }
    facts = CUT.check()
    for rows, found in places.items():
        assert len(found) == facts.tasks[rows]["skill_a_search"].documents
        assert found == sorted(set(found))
    everything = [place for found in places.values() for place in found]
    assert len(everything) == len(set(everything))
    limited = json.loads(stock_command.samples(replace(CUT, limit=7), "test"))
    assert limited == {"skill_a_search": places["test"][:7]}


def test_how_close_the_command_comes_depends_on_batches_and_number_format():
    def told(settings: LmHarness, dtype: str) -> str:
        return stock_command.closeness(settings, dtype, in_blocks=False)

    assert "the same values to the last digit" in told(PLAIN, "bfloat16")
    own = replace(PLAIN, batch_size=None)
    assert "rounding alone" in told(own, "float32")
    assert "can come out the other way" in told(own, "bfloat16")
    assert "last digit" not in told(own, "float32")
    assert "can differ" in told(replace(PLAIN, backend="vllm"), "float32")


def test_what_the_command_does_not_repeat_is_said():
    shots = "examples in a prompt"
    assert shots in stock_command.closeness(CUT, "float32", in_blocks=False)
    none = replace(CUT, num_fewshot=0)
    assert shots not in stock_command.closeness(none, "float32", in_blocks=False)
    assert shots not in stock_command.closeness(PLAIN, "float32", in_blocks=False)
    assert "in parts" in stock_command.closeness(PLAIN, "float32", in_blocks=True)
    code = replace(PLAIN, allow_code_execution=True)
    assert "no sandbox" in stock_command.closeness(code, "float32", in_blocks=False)

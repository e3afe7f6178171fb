"""Tasks that run what a model wrote: refused unless allowed, and then never in this process."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.harness.tasks import CODE_LEAVE, TaskError
from evaluators.lm_harness import LmHarness, Objective
from evaluators.sandbox.client import SandboxRefusedError

ROWS = [
    {"prompt": f"R:{word}=", "answer": word[::-1], "program": program}
    for word, program in (
        ("abc", "result = len(answer)"),
        ("bcd", "import os; result = os.getpid() == 1"),
        ("cde", "import socket; socket.create_connection(('127.0.0.1', 9), 1)"),
    )
]
#: A task's own code, as lm-eval's code tasks have it: it runs a program where it stands.
CODE = """
import os
from pathlib import Path

Path(__file__).with_name("imported").touch()

def run(doc, results):
    names = {"answer": results[0]}
    exec(doc["program"], names)
    return {"passed": float(names["result"])}
"""
GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "generation_kwargs": {"until": ["<eos>", "\n"], "do_sample": False, "max_gen_toks": 5},
    "metric_list": [{"metric": "passed", "aggregation": "mean", "higher_is_better": True}],
    "process_results": "FUNCTION run",
    "unsafe_code": True,
}
CONFINES = (
    subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "true"],
        capture_output=True,
        check=False,
    ).returncode
    == 0
)


@pytest.fixture
def programs(write_task):
    """Writes a task whose metric runs the programs of its rows."""

    def write(rows=ROWS, name="programs", **changes):
        folder = write_task(name, rows, **{**GENERATE, **changes})
        (Path(folder) / "running.py").write_text(CODE)
        path = Path(folder) / f"{name}.yaml"
        path.write_text(path.read_text().replace("FUNCTION run", "!function running.run"))
        return folder

    return write


def harness(folder, name="programs", **changes):
    objective = Objective(name=name, metric="passed")
    return LmHarness(tasks=(objective,), include_path=folder, **changes)


def test_code_is_refused_unless_it_is_allowed_and_nothing_of_the_task_is_imported(
    programs, open_language
):
    folder = programs()
    with pytest.raises(ValueError, match=r"task 'programs' runs .* allow_code_execution: true"):
        harness(folder).check()
    with pytest.raises(ValueError, match="task 'programs' runs"):
        harness(folder).open(open_language()).evaluate("search")
    assert not (Path(folder) / "imported").exists()


@pytest.mark.parametrize("inner", ["programs", {"task": "programs", "task_alias": "mine"}])
def test_code_within_a_group_is_refused_too(programs, write_group, inner):
    folder = programs()
    metrics = [{"metric": "passed", "weight_by_size": True}]
    write_group("inside", [inner], aggregate_metric_list=metrics)
    write_group("outside", ["inside"], aggregate_metric_list=metrics)
    with pytest.raises(ValueError, match="task 'programs' runs"):
        harness(folder, "outside").check()
    assert not (Path(folder) / "imported").exists()


def test_code_behind_a_tag_or_in_test_rows_is_refused_too(programs, write_task):
    folder = programs(tag="tagged")
    with pytest.raises(ValueError, match="task 'programs' runs"):
        harness(folder, "tagged").check()
    plain = {**GENERATE, "unsafe_code": False, "process_results": None}
    plain["metric_list"] = [{"metric": "exact_match", "aggregation": "mean"}]
    write_task("plain", ROWS, **{key: value for key, value in plain.items() if value is not None})
    settings = LmHarness(
        tasks=(Objective(name="plain", metric="exact_match"),),
        test=(Objective(name="programs", metric="passed"),),
        include_path=folder,
    )
    with pytest.raises(ValueError, match="task 'programs' runs"):
        settings.check()


def test_leave_to_run_code_is_no_part_of_a_score(programs):
    folder = programs(unsafe_code=False)
    plain = harness(folder)
    allowed = replace(plain, allow_code_execution=True)
    assert plain.check() == allowed.check()


def test_leave_given_while_loading_is_taken_back(programs, monkeypatch):
    monkeypatch.delenv(CODE_LEAVE, raising=False)
    facts = harness(programs(), allow_code_execution=True).check()
    assert facts.tasks["search"]["programs"].documents == len(ROWS)
    assert CODE_LEAVE not in os.environ
    monkeypatch.setenv(CODE_LEAVE, "0")
    harness(programs(), allow_code_execution=True).check()
    assert os.environ[CODE_LEAVE] == "0"


def test_programs_run_apart_from_this_process(programs, open_language):
    """As the first process of a namespace of its own, with the model's answer at hand."""
    suite = harness(programs(ROWS[:2]), allow_code_execution=True).open(open_language("a"))
    if not CONFINES:
        with pytest.raises(SandboxRefusedError, match="Nothing was run"):
            suite.evaluate("search")
        pytest.skip("this machine allows no namespaces: only the refusal was tested")
    score = suite.evaluate("search").tasks["programs"]
    assert score.per_document == (5.0, 1.0)
    assert suite.evaluate("search").tasks["programs"] == score
    one = suite.evaluate("search", documents={"programs": (1,)}).tasks["programs"]
    assert one.per_document == (1.0,)


@pytest.mark.skipif(not CONFINES, reason="this machine allows no namespaces")
def test_a_program_that_reaches_for_the_network_names_task_and_document(programs, open_language):
    suite = harness(programs(), allow_code_execution=True).open(open_language("a"))
    with pytest.raises(TaskError, match=r"task 'programs', document 2: .*Error"):
        suite.evaluate("search")
    assert suite.evaluate("search", documents={"programs": (0,)}).num_documents == 1

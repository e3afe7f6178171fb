"""Campaigns without models: genes in the file, a plain function, from the file to the report."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("in_root")

JUDGE = """
import math

#: What is best: a rate of 0.01, ties with a density of 0.5, the items in order.
def worth(rate, method, order, density=0.0, shift=0.0):
    late = sum(place != item for place, item in enumerate(order))
    miss = abs(math.log10(rate) + 2) + (abs(density - 0.5) if method == "ties" else 1.0)
    return {"miss": miss + shift, "late": late}

def held_out(rate, method, order, density=0.0, shift=0.0):
    found = worth(rate, method, order, density)
    return {name: [value, value + 1.0] for name, value in found.items()}

def fragile(rate, method, order, density=0.0):
    if method == "linear":
        raise RuntimeError("linear does not run")
    return 1.0 / rate

def nothing(rate, method, order, density=0.0):
    return math.nan

def answers(rate, method, order, density=0.0, documents=()):
    return {"right": [float(math.sin(1000 * rate + place) > 0) for place in documents]}
"""
GENES = [
    {"kind": "real", "name": "rate", "low": 1e-4, "high": 1.0, "log": True},
    {"kind": "categorical", "name": "method", "choices": ["linear", "ties"]},
    {"kind": "real", "name": "density", "low": 0.0, "high": 1.0, "when": {"method": ["ties"]}},
    {"kind": "permutation", "name": "order", "size": 4},
]
KNOWN = {"rate": 0.01, "method": "ties", "density": 0.5, "order": [0, 1, 2, 3]}


class Story:
    """A campaign file in a folder of its own."""

    def __init__(self, shoal, folder: Path) -> None:
        self._shoal = shoal
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.judge = folder / "judge.py"
        self.judge.write_text(JUDGE)
        self.file = folder / "campaign.yaml"
        self.settings = {
            "name": "plain",
            "seed": 3,
            "space": {"kind": "vector", "genes": GENES},
            "search": {"kind": "genetic", "population_size": 8, "elites": 1},
            "evaluate": {
                "kind": "function",
                "objective": f"{self.judge}:worth",
                "tasks": [{"name": "miss", "weight": -1.0}, {"name": "late", "weight": -0.1}],
            },
            "budget": {"generations": 3},
            "cluster": {"address": "inline"},
            "store": f"{folder}/shoal.db",
            "output": f"{folder}/out",
        }

    def change(self, section, **values):
        self.settings[section] = {**self.settings[section], **values}
        return self

    def call(self, command, *words):
        self.file.write_text(yaml.safe_dump(self.settings))
        return self._shoal.call(command, self.file, *words)

    def ask(self, command, *words):
        return self._shoal.call(command, *words, "--store", f"{self.folder}/shoal.db")

    def search(self):
        return self._shoal.search(self.folder, "plain", kinds="search selection test")

    @property
    def left_behind(self):
        return sorted(path.name for path in self.folder.iterdir() if path.suffix != ".pyc")


@pytest.fixture
def story(shoal, tmp_path):
    return Story(shoal, tmp_path)


def test_the_knapsack_example_ends_near_the_optimum_with_values_and_no_model(shoal, tmp_path):
    place = (f"store={tmp_path}/shoal.db", f"output={tmp_path}/out", "budget={generations: 20}")
    words = [word for value in place for word in ("--set", value)]
    ended = shoal.call("run", "examples/knapsack.yaml", "--json", *words)
    assert ended.code == 0, ended.stderr
    worth = {
        row["model"].removeprefix("best: "): row["search_fitness"] for row in ended.data["table"]
    }
    control = next(value for name, value in worth.items() if name.startswith("random search"))
    searched = max(value for name, value in worth.items() if name.startswith(("s", "best on")))
    assert searched >= 0.98 * worth["optimum"]
    assert searched > control
    found = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")
    )
    assert found == ["best", "best/values.json", "fitness.png", "report.md"]
    best = json.loads((tmp_path / "out" / "best" / "values.json").read_text())
    assert len(best["values"]["take"]) == 50
    assert best["fitness"] == ended.data["table"][0]["search_fitness"]
    assert best["campaign"] == "knapsack"
    assert best["versions"]["shoal"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "fitness.png" in report
    assert "optimum" in report
    assert "transformers" not in report


def test_a_plain_campaign_needs_no_torch(tmp_path):
    script = (
        "import sys\n"
        "from orchestrator import cli\n"
        "try:\n"
        "    cli.main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'ray', 'transformers', 'lm_eval'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy or end.code else 0)\n"
    )
    words = ["examples/knapsack.yaml", "--set", "budget={generations: 2}", "--set"]
    words += [f"store={tmp_path}/shoal.db", "--set", f"output={tmp_path}/out"]
    ended = subprocess.run(
        [sys.executable, "-c", script, "run", *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_every_command_speaks_of_values(story):
    story.settings["control"] = "random"
    story.change("space", references={"known": KNOWN}).change(
        "evaluate", test=f"{story.judge}:held_out"
    )
    checked = story.call("check")
    assert checked.code == 0, checked.stderr
    assert "objectives  miss (search), late (search), miss (test), late (test)" in checked.stdout
    assert "values      rate, method, density, order" in checked.stdout
    assert "memory" not in checked.stdout, "there is no model to find room for"
    ran = story.call("run")
    assert ran.code == 0, ran.stderr
    assert "best: known" in ran.stdout
    assert "random search: c" in ran.stdout
    assert "the result is that point" in (story.folder / "out" / "report.md").read_text()

    assert "best" in story.ask("status", "plain").stdout
    best = story.ask("best", "plain", "-k", "3", "--json").data["candidates"]
    assert [one["recipe"]["kind"] for one in best] == ["values"] * 3
    shown = story.ask("show", "plain", "known").stdout
    assert "rate 0.01" in shown
    assert "method ties" in shown
    assert "order 0, 1, 2, 3" in shown
    assert "search" in story.ask("show", "plain", "s1").stdout

    exported = story.ask("export", "plain", "s1", story.folder / "s1")
    assert exported.code == 0, exported.stderr
    assert [path.name for path in (story.folder / "s1").iterdir()] == ["values.json"]
    again = story.ask("export", "plain", "s1", story.folder / "s1")
    assert (again.code, "is not empty" in again.stderr) == (2, True)

    scored = story._shoal.call("eval", story.folder / "s1" / "values.json", story.file, "--json")
    assert scored.code == 0, scored.stderr
    first = story.ask("show", "plain", "s1", "--json").data
    assert scored.data["search"]["fitness"] == first["fitness"]
    assert scored.data["test"] is not None
    assert story.ask("db", "check").code == 0


def test_a_table_holds_choices_and_orders_as_what_they_are(story):
    assert story.call("run").code == 0
    table = story.folder / "table.csv"
    assert story.ask("export-table", "plain", "-o", table, "--format", "csv").code == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 22
    assert {row["method"] for row in rows} == {"linear", "ties"}
    for row in rows:
        assert sorted(row[f"order[{place}]"] for place in range(4)) == ["0", "1", "2", "3"]
        miss, late = float(row["search/miss"]), float(row["search/late"])
        assert float(row["fitness"]) == pytest.approx(-miss - 0.1 * late)
    parquet = story.ask("export-table", "plain", "-o", story.folder / "table.parquet")
    assert parquet.code == 0, parquet.stderr
    journal = ("-o", story.folder / "study", "--format", "optuna-journal")
    assert story.ask("export-table", "plain", *journal).code == 0
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(story.folder / "study")))
    study = optuna.load_study(study_name="plain", storage=storage)
    assert {trial.params["method"] for trial in study.trials} == {"linear", "ties"}


def test_a_campaign_that_goes_on_is_the_one_that_was_never_interrupted(shoal, tmp_path):
    whole, parts = Story(shoal, tmp_path / "a"), Story(shoal, tmp_path / "b")
    assert whole.call("run").code == 0
    assert parts.change("budget", generations=1).call("run").code == 0
    assert parts.change("budget", generations=3).call("run").code == 0
    assert parts.search() == whole.search()


def test_a_campaign_that_was_killed_goes_on_as_if_nothing_had_been(shoal, tmp_path):
    whole, killed = Story(shoal, tmp_path / "a"), Story(shoal, tmp_path / "b")
    for one in (whole, killed):
        one.change("budget", generations=40)
    assert whole.call("run").code == 0
    killed.file.write_text(yaml.safe_dump(killed.settings))
    process = shoal.spawn("run", killed.file)
    shoal.until_measured(process, tmp_path / "b" / "shoal.db", 20)
    process.kill()
    process.communicate(timeout=60)
    ended = killed.call("run")
    assert ended.code == 0, ended.stderr
    assert killed.search() == whole.search()


def test_processes_give_the_same_search_as_this_process(shoal, tmp_path):
    inline, pool = Story(shoal, tmp_path / "a"), Story(shoal, tmp_path / "b")
    assert inline.call("run").code == 0
    ended = pool.change("cluster", address="pool", evaluators=2).call("run")
    assert ended.code == 0, ended.stderr
    assert pool.search() == inline.search()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_same_search_as_this_process(shoal, tmp_path):
    inline, ray = Story(shoal, tmp_path / "a"), Story(shoal, tmp_path / "b")
    assert inline.call("run").code == 0
    ray.change("cluster", address="local", evaluators=2)
    ray.file.write_text(yaml.safe_dump(ray.settings))
    process = shoal.spawn("run", ray.file)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert ray.search() == inline.search()


def test_an_equal_evaluation_of_another_campaign_is_copied_unless_the_function_changed(story):
    assert story.call("run").code == 0
    story.settings["name"] = "again"
    story.settings["output"] = f"{story.folder}/again"
    assert story.call("run", "--json").data["cached"] == 22
    story.judge.with_name("other.py").write_text(JUDGE.replace("1.0)\n", "2.0)\n"))
    story.settings["name"] = "other"
    story.change("evaluate", objective=f"{story.folder}/other.py:worth")
    assert story.call("run", "--json").data["cached"] == 0


def test_a_function_that_scores_documents_can_be_raced(story):
    story.settings["evaluate"] = {
        "kind": "function",
        "objective": f"{story.judge}:answers",
        "documents": 64,
        "tasks": [{"name": "right"}],
    }
    story.settings["racing"] = {"kind": "paired_t", "first_block": 8}
    ended = story.call("run", "--json")
    assert ended.code == 0, ended.stderr
    assert ended.data["stopped"] > 0
    rows = ("-o", story.folder / "rows.csv", "--format", "csv", "--documents")
    assert story.ask("export-table", "plain", *rows).code == 0
    assert (story.folder / "rows.csv").read_text().count("\n") > 64


def test_what_cannot_be_cut_into_documents_is_not_raced(story):
    story.settings["racing"] = {"kind": "paired_t"}
    ended = story.call("run")
    assert ended.code == 2, ended.stderr
    assert "racing" in ended.stderr
    assert story.left_behind == ["campaign.yaml", "judge.py"]


def test_a_candidate_whose_call_fails_is_a_failure_with_the_reason(story):
    story.settings["evaluate"] = {"kind": "function", "objective": f"{story.judge}:fragile"}
    story.change("budget", max_failure_fraction=1.0)
    ended = story.call("run", "--json")
    assert ended.code == 0, ended.stderr
    assert ended.data["failed"] > 0
    assert "failed in evaluate: RuntimeError: linear does not run" in ended.stderr
    assert (
        json.loads((story.folder / "out/best/values.json").read_text())["values"]["method"]
        == "ties"
    )


def test_a_function_that_gives_no_number_ends_the_campaign_with_its_cause(story):
    story.settings["evaluate"] = {"kind": "function", "objective": f"{story.judge}:nothing"}
    ended = story.call("run")
    assert ended.code == 4
    assert "returned nan for 'value', expected a finite number" in ended.stderr


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("evaluate", {"objective": "no_such_module:f"}, "evaluate.objective: 'no_such_module' can"),
        ("evaluate", {"objective": None}, "evaluate.objective: expected text, got None"),
        ("evaluate", {"test": "math:nothing"}, "evaluate.test: 'math' has no function 'nothing'"),
        ("evaluate", {"tasks": [{"nmae": "a"}]}, "unknown key; did you mean 'name'?"),
        ("evaluate", {"arguments": {"speed": 1}}, "got an unexpected keyword argument 'speed'"),
        ("evaluate", {"arguments": {"rate": 1}}, "'rate' is both a gene and an argument"),
        ("space", {"genes": [{"kind": "gene"}]}, "unknown kind of gene 'gene'"),
        ("space", {"genes": GENES[2:3]}, "'when' needs a gene that stands before: 'method'"),
        ("space", {"genes": GENES[:2]}, "missing a required argument: 'order'"),
        ("space", {"references": {"x": {"rate": 3}}}, "space.references.x: 'rate': expected a num"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(story, section, values, said):
    story.change(section, **values)
    for command in ("check", "run"):
        ended = story.call(command)
        assert (ended.code, ended.stdout) == (2, ""), ended.stderr
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1, "one message"
    assert story.left_behind == ["campaign.yaml", "judge.py"]


def test_a_missing_objective_is_named(story):
    del story.settings["evaluate"]["objective"]
    ended = story.call("run")
    assert ended.code == 2
    assert "evaluate: objective is missing: Address of the function" in ended.stderr


def test_a_model_evaluator_does_not_score_values_nor_a_function_models(shoal, story):
    tasks = [{"name": "skill_a_search", "metric": "acc"}]
    story.settings["evaluate"] = {"kind": "lm_harness", "tasks": tasks}
    ended = story.call("run")
    assert ended.code == 2
    assert "evaluate.kind: this evaluator scores language models" in ended.stderr
    assert "use function" in ended.stderr
    function = "evaluate={kind: function, objective: 'math:fsum'}"
    ended = shoal.call("check", "examples/quickstart.yaml", "--set", function)
    assert ended.code == 2
    assert "kind: this evaluator scores the values of genes" in ended.stderr
    assert "use lm_harness" in ended.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"rate": 0.1}', "a value of 'method' is missing"),
        ("[1]", "expected a mapping: gene -> value"),
        ("rate: 1", "cannot be read"),
    ],
)
def test_a_file_of_values_that_is_none_is_refused(story, text, said):
    file = story.folder / "values.json"
    file.write_text(text)
    story.file.write_text(yaml.safe_dump(story.settings))
    ended = story._shoal.call("eval", file, story.file)
    assert ended.code == 2
    assert said in ended.stderr

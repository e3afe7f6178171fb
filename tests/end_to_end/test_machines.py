"""Campaigns of machines by the command line: searched, raced, broken off, exported, scored."""

from __future__ import annotations

import json

import pytest

from workers.ctm.machine import Machine

SETTINGS = {
    "seed": 3,
    "space": {
        "kind": "ctm",
        "task": {"kind": "parity", "length": 3, "search_rows": 64, "selection_rows": 64,
                 "test_rows": 128},
        "steps": 27,
        "ranges": {"neurons": [32, 48], "ticks": [1, 4], "synapse_depth": 1, "pairs": [16, 32]},
    },
    "search": {"kind": "genetic", "population_size": 6, "elites": 1},
    "evaluate": {"kind": "ctm"},
    "racing": {"kind": "halving", "first_block": 1, "growth": 2, "eta": 2, "least": 4},
    "budget": {"generations": 3},
    "cluster": {"address": "inline"},
    "reuse": False,
}  # fmt: skip


@pytest.fixture
def run(runner):
    """Runs a campaign, changed as it says."""
    return runner(SETTINGS)


def test_a_search_that_was_broken_off_is_the_same_search(run, shoal, tmp_path):
    ended = run("whole")
    assert ended.code == 0, ended.stderr
    assert ended.data["stopped"] > 0
    assert run("broken", budget={"evaluations": 7}).code == 0
    again = run("broken")
    assert again.data["table"] == ended.data["table"]
    of = [
        {
            id_: facts
            for id_, (_, *facts) in shoal.search(tmp_path, name, kinds="search").items()
            if facts[0][-1] != "counterpart"  # of the winner of the earlier end
        }
        for name in ("whole", "broken")
    ]
    assert json.dumps(of[0], default=str) == json.dumps(of[1], default=str)


def test_the_best_is_exported_loaded_and_scored_as_it_was(run, shoal, tmp_path):
    ended = run("machines")
    assert ended.code == 0, ended.stderr
    best = next(row for row in ended.data["table"] if row["model"].startswith("best"))
    folder = tmp_path / "machines/best"
    assert Machine.from_pretrained(folder).settings.neurons >= 32
    scored = shoal.call("eval", folder, tmp_path / "machines.yaml", "--json")
    assert scored.code == 0, scored.stderr
    assert scored.data["search"]["fitness"] == best["search_fitness"]
    assert scored.data["test"]["fitness"] == best["test_fitness"]
    thought = shoal.call("ctm", "think", folder, "-o", tmp_path / "thoughts")
    assert thought.code == 0, thought.stderr  # the folder says which task it learned
    assert (tmp_path / "thoughts/summary.png").exists()
    models = {row["model"]: row for row in ended.data["table"]}
    assert {"plain machine", "one tick"} <= models.keys()


def test_the_best_is_shown_beside_itself_in_one_tick(run, shoal, tmp_path):
    ticks = {**SETTINGS["space"]["ranges"], "ticks": [3, 4]}
    ended = run("ticks", space={**SETTINGS["space"], "ranges": ticks}, budget={"evaluations": 6})
    assert ended.code == 0, ended.stderr
    name = "one tick, as the winner"
    (one,) = [row for row in ended.data["table"] if row["model"] == name]
    assert one["search_fitness"] is None
    assert one["test_fitness"] is not None
    store = ("--store", tmp_path / "shoal.db", "--json")
    shown = shoal.call("show", "ticks", name, *store)
    assert shown.code == 0, shown.stderr
    best_row = ended.data["table"][0]
    best = best_row["id"]
    assert shown.data["parents"] == [best]
    winner = shoal.call("show", "ticks", best, *store)
    machine = {**winner.data["recipe"]["network"], "ticks": 1, "memory": 1}
    assert shown.data["recipe"] == {**winner.data["recipe"], "network": machine}
    report = (tmp_path / "ticks/report.md").read_text()
    assert f"({name})" in report
    assert "How they learned" in report
    assert (tmp_path / "ticks/curves.png").exists()
    assert winner.data["curve"][-1] == {
        "share": 1.0,
        "steps": 27,
        "fitness": best_row["search_fitness"],
    }
    status = shoal.call("status", "ticks", *store[:2]).stdout
    assert "stretches   reference" in status
    assert f"beside      {name}: " in status


def test_a_training_that_diverges_fails_at_its_step(run, shoal, tmp_path):
    ranges = {**SETTINGS["space"]["ranges"], "rate": [1e30, 1e31]}
    ended = run("wild", space={**SETTINGS["space"], "ranges": ranges}, budget={"evaluations": 9})
    assert ended.code != 0
    query = "SELECT DISTINCT stage, kind FROM attempt WHERE state = 'failed'"
    assert shoal.rows(tmp_path / "shoal.db", query) == [("train", "diverged")]


def test_accuracy_and_compute_make_a_front(run, tmp_path):
    ended = run(
        "front",
        search={"kind": "nsga2", "population_size": 6},
        objectives={"kind": "pareto", "of": ["solved", "-flops"]},
        racing=None,
    )
    assert ended.code == 0, ended.stderr
    assert "flops" in (tmp_path / "front/report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"racing": {"kind": "paired_t"}}, "compares document by document"),
        ({"estimator": {"kind": "irt", "documents": 3}, "racing": None}, "no documents"),
        ({"evaluate": {"kind": "ctm", "task": "sorting"}}, "another than the space's"),
        ({"evaluate": {"kind": "function", "objective": "math:sin"}}, "use ctm"),
    ],
)
def test_what_machines_cannot_be_measured_by_is_refused(run, tmp_path, changes, said):
    ended = run("refused", **changes)
    assert ended.code == 2, ended.stderr
    assert said in ended.stderr
    assert not (tmp_path / "refused").exists()


FEW_MAZES = "{kind: maze, train_rows: 64, search_rows: 32, selection_rows: 16, test_rows: 32}"
SMOKE = {
    "parity": ("space.task.test_rows=64", "space.steps=18"),
    "digits": ("space.steps=9",),
    "maze": (f"space.task={FEW_MAZES}", "space.steps=9"),
}


@pytest.mark.parametrize("name", SMOKE)
def test_the_examples_run(shoal, tmp_path, name):
    few = ("search.population_size=4", "budget={generations: 2}", "cluster.address=inline")
    place = (f"store={tmp_path}/shoal.db", f"output={tmp_path}/out")
    words = [word for one in (*SMOKE[name], *few, *place) for word in ("--set", one)]
    ended = shoal.call("run", f"examples/ctm_{name}.yaml", *words, "--json")
    assert ended.code == 0, ended.stderr
    assert (tmp_path / "out/best/model.safetensors").exists()
    assert (tmp_path / "out/report.md").exists()

"""Campaigns whose objective is a function that scores documents one by one, by the command line."""

from __future__ import annotations

import json

import pytest
import yaml

JUDGE = """
def answers(x, y, documents):
    near = 1 - abs(x - 0.3) - abs(y + 0.2) / 2
    return {
        "a": [float(near > (7 * place) % 40 / 40) for place in documents],
        "b": [float(y > place % 3 - 1.5) for place in documents],
    }

def graded(x, y, documents):
    return {"a": [x] * len(documents), "b": [y] * len(documents)}

def whole(x, y):
    return {"a": x, "b": y}
"""
NUM = 120
#: Optuna's pruners that compare a candidate with others.
PRUNERS = {
    "median": {},
    "hyperband": {"min_resource": 16, "reduction_factor": 2},
    "wilcoxon": {"p_threshold": 0.2},
}


@pytest.fixture
def call(shoal, tmp_path):
    """Runs a campaign, changed as it says."""
    judge = tmp_path / "judge.py"
    judge.write_text(JUDGE)

    def of(name, objective="answers", documents=NUM, **changes):
        settings = {
            "name": name,
            "seed": 5,
            "space": {
                "kind": "vector",
                "genes": [
                    {"kind": "real", "name": gene, "low": -1.0, "high": 1.0} for gene in "xy"
                ],
                "references": {"start": {"x": -1.0, "y": 1.0}, "middle": {"x": 0.0, "y": 0.0}},
            },
            "search": {"kind": "genetic", "population_size": 12},
            "evaluate": {
                "kind": "function",
                "objective": f"{judge}:{objective}",
                "tasks": [{"name": "a"}, {"name": "b", "weight": 0.5}],
                "documents": documents,
            },
            "budget": {"generations": 5},
            "cluster": {"address": "inline"},
            "reuse": False,
            "store": f"{tmp_path}/shoal.db",
            "output": f"{tmp_path}/{name}",
            **changes,
        }
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings))
        return shoal.call("run", file, "--json")

    return of


def racing(pruner):
    return {"kind": "optuna", "pruner": pruner, "options": PRUNERS[pruner], "first_block": 8}


@pytest.mark.parametrize("pruner", PRUNERS)
def test_optuna_s_pruners_stop_losers_and_the_same_ones_after_a_break(
    shoal, call, tmp_path, pruner
):
    ended = call("whole", racing=racing(pruner))
    assert ended.code == 0, ended.stderr
    assert ended.data["stopped"] > 0
    assert call("broken", racing=racing(pruner), budget={"generations": 2}).code == 0
    assert call("broken", racing=racing(pruner)).code == 0
    of = [shoal.search(tmp_path, name, kinds="search") for name in ("whole", "broken")]
    assert json.dumps(of[0], default=str) == json.dumps(of[1], default=str)


def test_a_bank_estimates_several_objectives_of_a_function(shoal, call, tmp_path):
    """Documents are drawn for each of them; the finalists are right on all of theirs in the end."""
    ended = call("bank", estimator={"kind": "irt", "documents": 15, "refit": 12})
    assert ended.code == 0, ended.stderr
    values = json.loads((tmp_path / "bank/best/values.json").read_text())["values"]
    near = 1 - abs(values["x"] - 0.3) - abs(values["y"] + 0.2) / 2
    a = sum(near > (7 * place) % 40 / 40 for place in range(NUM)) / NUM
    b = sum(values["y"] > place % 3 - 1.5 for place in range(NUM)) / NUM
    query = "SELECT max(fidelity), fitness FROM attempt WHERE rows = 'search' AND candidate = ?"
    best = next(row for row in ended.data["table"] if row["model"].startswith("best"))
    assert best["search_fitness"] == pytest.approx(a + 0.5 * b)
    ((fidelity, _),) = shoal.rows(
        tmp_path / "shoal.db", query, best["model"].removeprefix("best: ").split()[0]
    )
    assert fidelity == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "graded"}, "must be right (1) or wrong (0)"),
        ({"objective": "whole", "documents": None}, "say how many 'documents' it can score"),
    ],
)
def test_answers_that_no_bank_can_be_made_of_are_refused(call, changes, said):
    ended = call("refused", estimator={"kind": "irt", "documents": 15}, **changes)
    assert ended.code == 2, ended.stderr
    assert said in ended.stderr

"""Campaigns whose machines go on from their parents: broken off, shown, exported, scored."""

from __future__ import annotations

import shutil

import pytest

from orchestrator.storage.reader import Reader

SETTINGS = {
    "seed": 3,
    "space": {
        "kind": "ctm",
        "task": {"kind": "parity", "length": 3, "search_rows": 64, "selection_rows": 64,
                 "test_rows": 128},
        "steps": 4,
        "inherit": True,
        "ranges": {"neurons": [32, 48], "ticks": [1, 3], "memory": [1, 3], "synapse_depth": 1,
                   "rate": [3e-3, 2e-2], "paired": [8, 12], "pairs": [16, 32]},
    },
    "search": {"kind": "genetic", "population_size": 4, "elites": 1},
    "evaluate": {"kind": "ctm", "stretches": 2},
    "budget": {"generations": 3},
    "cluster": {"address": "inline"},
    "reuse": False,
}  # fmt: skip


@pytest.fixture
def run(runner):
    """Runs a campaign, changed as it says."""
    return runner(SETTINGS)


def searched(tmp_path, name):
    """What the search's candidates are, and what they are worth."""
    found = Reader(f"{tmp_path}/shoal.db").best(name, 99)
    return {one.id: (one.recipe, one.fitness) for one in found}


def depth(recipe):
    return len(recipe.get("ancestors", []))


@pytest.mark.parametrize("mode", ["generational", "async"])
def test_a_search_that_was_broken_off_is_the_same_search(run, tmp_path, mode):
    """Also where nothing is kept of those that were trained before."""
    changes = {"search": {**SETTINGS["search"], "mode": mode}}
    ended = run("whole", **changes)
    assert ended.code == 0, ended.stderr
    assert run("broken", **changes, budget={"evaluations": 7}).code == 0
    shutil.rmtree(tmp_path / "broken/checkpoints")
    assert run("broken", **changes).code == 0
    whole, broken = (searched(tmp_path, name) for name in ("whole", "broken"))
    assert whole == broken
    assert len(whole) >= 10
    assert {0, 1} <= {depth(recipe) for recipe, _ in whole.values()}


def test_an_heir_is_shown_exported_and_scored_as_it_was(run, shoal, tmp_path):
    """Built again from its recipe alone."""
    ended = run("heirs")
    assert ended.code == 0, ended.stderr
    found = searched(tmp_path, "heirs")
    id_ = max(found, key=lambda one: depth(found[one][0]))
    recipe, fitness = found[id_]
    num = depth(recipe)
    assert num > 1
    shown = shoal.call("show", "heirs", id_, "--store", tmp_path / "shoal.db")
    assert shown.code == 0, shown.stderr
    assert f"inherits    from {num} ancestors, {4 * num} steps of training" in shown.stdout
    shutil.rmtree(tmp_path / "heirs/checkpoints")
    folder = tmp_path / "heir"
    made = shoal.call("export", "heirs", id_, folder, "--store", tmp_path / "shoal.db")
    assert made.code == 0, made.stderr
    scored = shoal.call("eval", folder, tmp_path / "heirs.yaml", "--json")
    assert scored.code == 0, scored.stderr
    assert scored.data["search"]["fitness"] == fitness


def test_racing_beside_inheriting_is_refused(run, tmp_path):
    ended = run("refused", racing={"kind": "halving", "first_block": 1, "growth": 2, "eta": 2})
    assert ended.code == 2, ended.stderr
    assert "each generation goes on from the best of the last one" in ended.stderr
    assert not (tmp_path / "refused").exists()

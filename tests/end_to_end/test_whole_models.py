"""A campaign of whole models, killed in the middle and resumed, and its best model as a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from orchestrator.storage.reader import Reader

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_root")]

SMALL = ("search.population_size=4", "budget={evaluations: 14}", "control=none", "evaluate.limit=8")
#: Campaigns -> what makes them small.
CAMPAIGNS = {"whole_model": ("search.batch=3",), "cycle_qd": ()}


def settings(name: str, folder: Path, cache: Path, *, address: str) -> list[str]:
    place = (f"store={folder}/shoal.db", f"output={folder}/out", f"space.cache_folder={cache}")
    values = [*SMALL, *CAMPAIGNS[name], *place, f"cluster.address={address}"]
    values.append("cluster.evaluators=2")
    return [f"examples/{name}.yaml", *(word for value in values for word in ("--set", value))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_campaign_of_whole_models_that_is_killed_goes_on_as_the_same_search(
    shoal, tmp_path, name
):
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    whole.mkdir()
    killed.mkdir()
    ended = shoal.call("run", *settings(name, whole, tmp_path / "own", address="inline"), "--json")
    assert ended.code == 0, ended.stderr
    expected = shoal.search(whole, name)
    process = shoal.spawn("run", *settings(name, killed, cache, address="pool"))
    shoal.until_measured(process, killed / "shoal.db", 9)
    evaluators = shoal.children(process.pid)
    process.kill()
    process.communicate()
    assert not shoal.left_of(evaluators)
    again = shoal.spawn("run", *settings(name, killed, cache, address="pool"))
    said = again.communicate(timeout=400)[1]
    assert again.returncode == 0, said
    assert "going on after" in said
    assert shoal.search(killed, name) == expected
    assert sum(id_[0] == "s" for id_ in expected) == 14
    assert list(cache.iterdir()) == [], "models on the way are removed at the end"
    check_folder(shoal, name, killed, tmp_path / "built")
    winners = [Reader(f"{folder}/shoal.db").winner(name) for folder in (whole, killed)]
    assert winners[0].id == winners[1].id
    check_scores(shoal, name, killed, winners[1])
    references = Reader(f"{killed}/shoal.db").references(name)
    merged = [one for one in references if one.operator == "aggregate"]
    assert [bool(one.test) for one in merged] == [True] * (name == "cycle_qd")


def check_folder(shoal, name: str, folder: Path, built: Path) -> None:
    """The best model's folder, and the same model from its recipe alone."""
    best = folder / "out" / "best"
    recipe = json.loads((best / "recipe.json").read_text())
    assert recipe["kind"] == "lineage"
    merged = shoal.call("merge", best / "recipe.json", built)
    assert merged.code == 0, merged.stderr
    ours, theirs = (load_file(one / "model.safetensors") for one in (best, built))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    exported = shoal.call(
        "export",
        name,
        "s3",
        folder / "s3",
        "--store",
        folder / "shoal.db",
        "--recipe-only",
    )
    assert exported.code == 0, exported.stderr
    assert [path.name for path in (folder / "s3").iterdir()] == ["recipe.json"]


def check_scores(shoal, name: str, folder: Path, winner) -> None:
    """The written model scores what was measured in the campaign."""
    file = f"examples/{name}.yaml"
    ended = shoal.call("eval", folder / "out" / "best", file, "--set", "evaluate.limit=8", "--json")
    assert ended.code == 0, ended.stderr
    found = json.loads(ended.stdout)["search"]["scores"]
    assert found == {task: score.value for task, score in winner.scores.items()}

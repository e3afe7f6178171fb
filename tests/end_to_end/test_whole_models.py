"""A campaign of whole models, killed in the middle and resumed, and its best model as a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_root")]

EXAMPLE = "examples/whole_model.yaml"
SMALL = (
    "search.population_size=4",
    "search.batch=3",
    "budget={evaluations: 14}",
    "control=none",
    "evaluate.limit=8",
)


def settings(folder: Path, cache: Path, *, address: str) -> list[str]:
    place = (f"store={folder}/shoal.db", f"output={folder}/out", f"space.cache_folder={cache}")
    values = [*SMALL, *place, f"cluster.address={address}", "cluster.evaluators=2"]
    return [EXAMPLE, *(word for value in values for word in ("--set", value))]


@pytest.mark.timeout(600)
def test_a_campaign_of_whole_models_that_is_killed_goes_on_as_the_same_search(shoal, tmp_path):
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    whole.mkdir()
    killed.mkdir()
    ended = shoal.call("run", *settings(whole, tmp_path / "own", address="inline"), "--json")
    assert ended.code == 0, ended.stderr
    expected = shoal.search(whole, "whole_model")
    process = shoal.spawn("run", *settings(killed, cache, address="pool"))
    shoal.until_measured(process, killed / "shoal.db", 9)
    evaluators = shoal.children(process.pid)
    process.kill()
    process.communicate()
    assert not shoal.left_of(evaluators)
    again = shoal.spawn("run", *settings(killed, cache, address="pool"))
    said = again.communicate(timeout=400)[1]
    assert again.returncode == 0, said
    assert "going on after" in said
    assert shoal.search(killed, "whole_model") == expected
    assert sum(id_[0] == "s" for id_ in expected) == 14
    assert list(cache.iterdir()) == [], "models on the way are removed at the end"
    check_folder(shoal, killed, tmp_path / "built")


def check_folder(shoal, folder: Path, built: Path) -> None:
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
        "whole_model",
        "s3",
        folder / "s3",
        "--store",
        folder / "shoal.db",
        "--recipe-only",
    )
    assert exported.code == 0, exported.stderr
    assert [path.name for path in (folder / "s3").iterdir()] == ["recipe.json"]

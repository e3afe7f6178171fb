"""A campaign of several objectives through the command line, at smoke size."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("in_root")

EXAMPLE = "examples/pareto.yaml"
SMALL = (
    "search.population_size=6",
    "budget={generations: 2}",
    "evaluate.limit=16",
    "cluster.address=inline",
)


def words(folder: Path, *more: str) -> list[str]:
    values = (*SMALL, f"store={folder}/shoal.db", f"output={folder}/out", *more)
    return [word for value in values for word in ("--set", value)]


def test_a_pareto_campaign_ends_with_its_front(shoal, tmp_path):
    ended = shoal.call("run", EXAMPLE, "--json", *words(tmp_path))
    assert ended.code == 0, ended.stderr
    front = ended.data["front"]
    found = {one["id"]: tuple(one["objectives"].values()) for one in front}
    assert found
    for one in found.values():
        assert not any(all(a >= b for a, b in zip(other, one, strict=True)) and other != one
                       for other in found.values())  # fmt: skip
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## The front" in report
    assert (tmp_path / "out" / "front.png").read_bytes().startswith(b"\x89PNG")

    store = ["--store", f"{tmp_path}/shoal.db"]
    listed = shoal.call("best", "pareto", "--front", "--json", *store)
    assert listed.data["objectives"] == ["skill_a_search", "skill_b_search"]
    assert [one["id"] for one in listed.data["candidates"]] == list(found)
    assert all(one["violation"] == 0 for one in listed.data["candidates"])
    said = shoal.call("best", "pareto", "--front", *store)
    assert len(said.stdout.splitlines()) == len(found)

    table = tmp_path / "table.csv"
    assert (
        shoal.call("export-table", "pareto", "-o", str(table), "--format", "csv", *store).code == 0
    )
    with table.open() as file:
        rows = list(csv.DictReader(file))
    base = next(one for one in rows if one["name"] == "examples/models/base")
    tasks = ("search/skill_a_search", "search/skill_b_search")
    for row in rows:
        short = [max(0.0, float(base[task]) - 0.1 - float(row[task])) for task in tasks]
        bounds = [abs(float(base[task]) - 0.1) for task in tasks]
        expected = sum(lack / bound for lack, bound in zip(short, bounds, strict=True))
        assert float(row["violation"]) == pytest.approx(expected)
        kept = [other for other in rows if float(other["violation"]) == 0]
        beaten = any(
            all(float(other[task]) >= float(row[task]) for task in tasks)
            and any(float(other[task]) > float(row[task]) for task in tasks)
            for other in kept
            if other["role"] != "control"
        )
        if row["role"] != "control" and not beaten and float(row["violation"]) == 0:
            values = tuple(float(row[task]) for task in tasks)
            assert values in found.values(), "it belongs to the front"


def test_a_search_ends_early_by_target_and_says_so(shoal, tmp_path):
    aims = ("objectives=null", "budget={generations: 9, target: 0.2}", "control=none")
    ended = shoal.call("run", EXAMPLE, "--json", *words(tmp_path, *aims))
    assert ended.code == 0, ended.stderr
    assert (ended.data["reason"], ended.data["generation"]) == ("target", 1)
    assert ended.data["front"] is None
    assert "a fitness of 0.2 was reached" in (tmp_path / "out" / "report.md").read_text()
    none = shoal.call("best", "pareto", "--front", "--store", f"{tmp_path}/shoal.db")
    assert none.code == 2
    assert "no Pareto front" in none.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("objectives.of=[skill_a_search, sise]", "objectives.of: 'sise' is neither"),
        ("objectives.constraints=[size < 3]", "objectives.constraints: expected such as"),
        ("objectives.constraints=['skill_c >= base']", "objectives.constraints: 'skill_c'"),
    ],
)
def test_what_cannot_be_aimed_at_is_refused_before_anything_is_made(shoal, tmp_path, setting, said):
    ended = shoal.call("run", EXAMPLE, *words(tmp_path, setting))
    assert ended.code == 2
    assert said in ended.stderr
    assert not (tmp_path / "shoal.db").exists()


def test_the_size_of_a_path_is_an_objective(shoal, tmp_path):
    aims = (
        "objectives={kind: pareto, of: [skill_a_search, -size], constraints: [layers <= 6]}",
        "search={kind: nsga2, population_size: 4}", "budget={generations: 2}", "control=none",
    )  # fmt: skip
    more = [word for one in aims for word in ("--set", one)]
    ended = shoal.call("run", "examples/dataflow.yaml", "--json", *words(tmp_path), *more)
    assert ended.code == 0, ended.stderr
    store = ["--store", f"{tmp_path}/shoal.db"]
    listed = shoal.call("best", "dataflow", "--front", "--json", *store).data["candidates"]
    sizes = {}
    for one in listed:
        assert one["recipe"]["slices"][-1]["stop"] <= 6
        sizes[one["recipe"]["slices"][-1]["stop"]] = one["objectives"]["size"]
    assert sorted(sizes.values()) == [sizes[layers] for layers in sorted(sizes)]
    best = json.loads((tmp_path / "out" / "best" / "recipe.json").read_text())
    from safetensors import safe_open

    with safe_open(tmp_path / "out" / "best" / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    shown = shoal.call("best", "dataflow", "-k", "99", "--json", *store).data["candidates"]
    assert any(one["recipe"] == best for one in shown)
    if best["slices"][-1]["stop"] in sizes:
        assert sizes[best["slices"][-1]["stop"]] == stored

"""What reports and commands say of archives: by hand, and of campaigns in a store."""

from __future__ import annotations

import json

import numpy as np
import pytest

from orchestrator import assemble, cli, config, running
from orchestrator.algorithms.archive import Grid
from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.cycle_qd import CycleQd
from orchestrator.algorithms.map_elites import Axis, MapElites
from orchestrator.campaign.fold import replay, start
from orchestrator.command_line import archive_lines
from orchestrator.reporting import archive_picture, archives, shared_archive
from orchestrator.reporting.archive_summary import filled, niches, over_time
from orchestrator.reporting.archives import Named
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore

JUDGE = """
def worth(x, y):
    return {"high": -(x - 0.5) ** 2 - y * y, "left": -abs(x), "loss": abs(y)}


def answers(x, y):
    return {"high": [x > 0, y > 0, x > y, x < -y], "left": [x < 0, y < 0, x < y, abs(x) < 0.3]}
"""
#: The tasks of the function that answers documents.
ANSWERED = [{"name": "high", "weight": 1.0}, {"name": "left", "weight": 0.5}]
CAMPAIGN = {
    "name": "kept",
    "seed": 1,
    "space": {
        "kind": "vector",
        "genes": [
            {"kind": "real", "name": "x", "low": -1.0, "high": 1.0},
            {"kind": "real", "name": "y", "low": -1.0, "high": 1.0},
        ],
    },
    "evaluate": {
        "kind": "function",
        "tasks": [
            {"name": "high", "weight": 1.0},
            {"name": "left", "weight": 0.5},
            {"name": "loss", "weight": -0.1},
        ],
    },
    "budget": {"evaluations": 60},
    "cluster": {"address": "inline"},
}


@pytest.fixture
def ran(tmp_path, monkeypatch, capsys):
    """Runs a campaign by an algorithm; returns its reader, its settings and its folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge.py").write_text(JUDGE, encoding="utf-8")

    def run(**search):
        made = {
            **CAMPAIGN,
            "search": search,
            "store": str(tmp_path / "shoal.db"),
            "output": str(tmp_path / "out"),
        }
        evaluate = {**CAMPAIGN["evaluate"], "objective": f"{tmp_path}/judge.py:worth"}
        if search["kind"] == "natural_niches":
            evaluate |= {"objective": f"{tmp_path}/judge.py:answers", "tasks": ANSWERED}
        settings = config.from_dict({**made, "evaluate": evaluate})
        assert running.run(settings, as_json=True) == 0
        said = json.loads(capsys.readouterr().out)
        return Reader(settings.store), settings, tmp_path / "out", said

    return run


def one(number: int, *values: float, genome=(0.0, 0.0), **facts) -> Evaluated:
    return Evaluated(
        candidate=f"s{number}", number=number, genome=genome, values=values,
        fitness=sum(values), **facts,
    )  # fmt: skip


def test_each_task_of_cycle_qd_has_niches_of_its_own_quality():
    algorithm = CycleQd(population_size=2, archive=Grid(bins=2), limits=((0.0, 1.0),))
    members = [one(1, 0.9, 0.1), one(2, 0.4, 0.8), one(3, 0.3, 0.9)]
    memory = algorithm.tell(Memory(), members)
    first, second = niches(algorithm, memory)
    assert [member.candidate for member in first.members] == ["s1", "s2"]
    assert (first.quality, first.axes, first.worth) == (0, (("objective", 1),), [0.9, 0.4])
    assert [member.candidate for member in second.members] == ["s3", "s1"]
    assert second.cells.tolist() == [0, 1]
    both = filled(algorithm, memory, 0.1, 3)
    assert (both.cells, both.coverage, both.best) == (4, 1.0, 0.9)
    assert both.qd_score == pytest.approx(0.8 + 0.3 + 0.8 + 0.0)


def test_cycle_qd_never_loses_what_it_has_filled():
    rng = np.random.default_rng(0)
    algorithm = CycleQd(population_size=5, archive=Grid(bins=6), limits=((0.0, 1.0),))
    generations = [
        [one(5 * turn + place, *rng.random(3)) for place in range(1, 6)] for turn in range(12)
    ]
    course = over_time(algorithm, generations, 0.0)
    for name in ("cells", "coverage", "qd_score", "best"):
        numbers = [getattr(each, name) for each in course]
        assert numbers == sorted(numbers)
    assert course[-1].candidates == 60


def test_a_heat_map_has_the_best_of_each_bin_at_its_place():
    axes = tuple(Axis(of="objective", place=place, limits=(0.0, 3.0)) for place in (1, 2, 3))
    algorithm = MapElites(population_size=2, archive=Grid(bins=3), axes=axes)
    members = [one(1, 5.0, 0.5, 2.5, 0.5), one(2, 7.0, 0.5, 2.5, 2.5), one(3, 1.0, 2.5, 0.5, 0.5)]
    (found,) = niches(algorithm, algorithm.tell(Memory(), members))
    cells = archive_picture.heat_map(Named(quality="fitness", axes=("a", "b", "c"), niches=found))
    assert cells.shape == (3, 3), "what lies behind is seen through"
    assert cells[2, 0] == members[1].fitness, "the second axis goes up, the first to the right"
    assert cells[0, 2] == members[2].fitness
    assert np.isnan(cells).sum() == 7


def test_a_report_tells_of_cells_coverage_qd_score_and_the_best_of_each_niche(ran):
    axes = [{"of": "gene", "place": 0}, {"of": "objective", "place": 2}]
    archive = {"kind": "grid", "bins": 5}
    reader, settings, folder, said = ran(
        kind="map_elites", population_size=10, archive=archive, axes=axes
    )
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "## The archive\n" in report
    assert "| fitness | x, -loss |" in report, "a minus where lower is better"
    assert (folder / "archive.png").stat().st_size > 5000
    (found,) = said["archives"]["archives"]
    assert found["num_cells"] == 25
    assert found["cells"] == len(found["filled"]) == len({one["cell"] for one in found["filled"]})
    assert found["coverage"] == found["cells"] / 25
    floor = said["archives"]["floor"]
    qd_score = sum(one["fitness"] - floor for one in found["filled"])
    assert found["qd_score"] == pytest.approx(qd_score)
    for cell in found["filled"]:
        record = reader.candidate("kept", cell["id"])
        assert record.fitness == cell["quality"] == cell["fitness"]
        assert record.genome[0] == cell["behaviour"]["x"]
        assert -record.scores["loss"].value == cell["behaviour"]["-loss"]
    assert found["filled"][0]["id"] == said["best"]["id"]
    kept = archive_lines.collect(reader, settings)
    assert f"in {found['cells']} of 25 cells" in archive_lines.lines(kept)[0]
    assert archive_lines.brief(kept)["cells"] == found["cells"]


def remembered(settings) -> set[str]:
    """Whom the search itself kept in the end."""
    campaign = assemble.assemble(settings).campaign
    state = start(campaign).state
    with SqlStore(settings.store, settings.name) as store:
        store.load()
        for entry in store.entries(0):
            state = replay(campaign, state, entry).state
    return {one.candidate for one in state.memory.members}


@pytest.mark.parametrize(
    "search",
    [
        {"kind": "cycle_qd", "archive": {"kind": "cvt", "cells": 20}},
        {"kind": "cycle_qd", "mode": "async"},
        {"kind": "map_elites", "archive": {"kind": "grid", "bins": 4}},
    ],
)
def test_an_archive_that_is_told_anew_from_the_store_is_the_one_that_was_bred_from(ran, search):
    reader, settings, _, _ = ran(population_size=6, **search)
    found = archives.collect(reader, settings)
    kept = {one.candidate for named in found.archives for one in named.niches.members}
    assert kept == remembered(settings)


def test_archives_of_cycle_qd_are_named_after_the_tasks(ran):
    reader, settings, _, _ = ran(kind="cycle_qd", population_size=6)
    found = archives.collect(reader, settings)
    assert [named.quality for named in found.archives] == ["high", "left", "-loss"]
    assert [named.axes for named in found.archives] == [
        ("left", "-loss"),
        ("high", "-loss"),
        ("high", "left"),
    ]
    for place, named in enumerate(found.archives):
        best = max(one.values[place] for one in reader.objectives("kept") if one.role == "search")
        assert max(named.niches.worth) == best


def test_other_searches_have_no_archive(ran):
    reader, settings, folder, said = ran(kind="genetic", population_size=10, elites=1)
    assert archives.collect(reader, settings) is None
    assert archive_lines.collect(reader, settings) is None
    assert (said["archives"], said["shared_archive"]) == (None, None)
    assert "archive" not in (folder / "report.md").read_text(encoding="utf-8")
    assert not (folder / "archive.png").exists()


def test_models_that_share_documents_are_told_by_what_they_do_together():
    answers = {1: (1.0, 1.0, 0.0, 0.0), 2: (1.0, 0.0, 1.0, 0.0), 3: (1.0, 0.0, 0.0, 0.0)}
    members = tuple(one(number, sum(row) / 4, answers=row) for number, row in answers.items())
    found = shared_archive.summary(Memory(members), alpha=1.0)
    assert (found.documents, found.together) == (4, 0.75)
    assert [(each.id, each.alone) for each in found.members] == [("s1", 1), ("s2", 1), ("s3", 0)]
    total = (1 / 3 + 1) + (1 / 3 + 1) + 1 / 3
    assert found.members[0].share == pytest.approx((1 / 3 + 1) / total)
    assert "come to 0.750 a document together; the best alone, s1, comes to 0.500" in (
        shared_archive.sentence(found)
    )
    assert shared_archive.summary(Memory(), alpha=1.0) is None
    assert shared_archive.summary(Memory((one(1, 0.5),)), alpha=1.0) is None


def test_the_shared_archive_of_a_store_is_the_one_that_the_search_kept(ran):
    reader, settings, folder, said = ran(kind="natural_niches", population_size=8, batch=4)
    found = shared_archive.collect(reader, settings)
    assert {one.id for one in found.members} == remembered(settings)
    assert len(found.members) == 8
    assert found.documents == 8, "four of each task"
    assert said["shared_archive"]["together"] == found.together
    assert shared_archive.sentence(found) in (folder / "report.md").read_text(encoding="utf-8")
    kept = archive_lines.collect(reader, settings)
    assert len(archive_lines.lines(kept)) == 8
    assert archive_lines.brief(kept) is None


def told_by_command(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_commands_count_the_cells_and_list_whom_each_holds(ran, capsys):
    _, settings, _, said = ran(kind="map_elites", population_size=10)
    (found,) = said["archives"]["archives"]
    store = ("--store", settings.store)
    _, out, _ = told_by_command(capsys, "status", "kept", *store)
    assert f"archive     {found['cells']} of 100 cells, QD score" in out
    _, out, _ = told_by_command(capsys, "best", "kept", "--archive", *store)
    assert len(out.splitlines()) == found["cells"] + 1
    _, out, _ = told_by_command(capsys, "best", "kept", "--archive", "--json", *store)
    assert json.loads(out)["archives"] == [found]


def test_an_archive_that_there_is_not_is_asked_for_in_vain(ran, capsys):
    _, settings, _, _ = ran(kind="random", population_size=10)
    code, _, error = told_by_command(capsys, "best", "kept", "--archive", "--store", settings.store)
    assert code == 2
    assert "campaign 'kept' has no archive" in error
    code, out, _ = told_by_command(capsys, "status", "kept", "--json", "--store", settings.store)
    assert (code, json.loads(out)["archive"]) == (0, None)

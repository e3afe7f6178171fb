"""How machines learned: in the store, in what is shown, in tables and in a picture."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib import axes

from evaluators.base import Score, TaskFacts, TaskScore
from orchestrator import config
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.command_line import views
from orchestrator.exporting import tables as exports
from orchestrator.loop import Driver
from orchestrator.measurement.halving import Halving
from orchestrator.measurement.layout import layout
from orchestrator.measurement.regime import Regime
from orchestrator.reporting import curves, report
from orchestrator.reporting import result as results
from orchestrator.reporting import result_tables as tables
from orchestrator.storage.base import NewCampaign
from orchestrator.storage.reader import CurvePoint, Reader
from orchestrator.storage.store import SqlStore
from tests.orchestrator.test_driver import Audience, FakeExecutor
from workers.job import Job, Scored

ROOT = Path(__file__).resolve().parents[2]
#: Stretches after which machines are scored.
LOOKS = (1, 3, 9)


def promise(job: Job) -> float:
    numbers = job.recipe.slices[0].settings[0].values["weight"]
    return 1 / (1 + sum(one * one for one in numbers))


def learned(job: Job, stretches: int) -> float:
    """The nearer a machine's numbers are to 0, the sooner it learns."""
    return promise(job) * stretches / 9


def answer(job: Job) -> Scored:
    places = (job.documents or {}).get("solved", tuple(range(9)))
    value = learned(job, max(places) + 1)
    each = () if job.rows == "search" else (value, value)
    task = TaskScore(
        value=value, stderr=0.01, documents=len(each) or len(places), per_document=each
    )
    return Scored(
        candidate=job.candidate, attempt=job.attempt, rows=job.rows, block=job.block,
        score=Score(fitness=value, tasks={"solved": task}), seconds=0.1, worker="w",
    )  # fmt: skip


def ended(url: str, fake_space, *, race: bool = True, **recorded):
    """A campaign of machines that has ended in a store, and its settings."""
    settings = replace(config.read(ROOT / "examples/ctm_parity.yaml"), store=url)
    facts = {"solved": TaskFacts(documents=9, rows="r", in_order=True)}
    rule = Halving(first_block=1, growth=2.0)
    plan = layout(facts, seed=1, race=rule, reserve=0.0, round_documents=1)
    campaign = Campaign(
        space=fake_space(), algorithm=RandomSearch(population_size=9), seed=3,
        limits=Limits(generations=2), control=True, kinds=frozenset({"search", "test"}),
        regime=Regime(layout=plan, race=rule) if race else Regime(),
    )  # fmt: skip
    search = {"warnings": [], "counted_in": "stretches", **recorded}
    new = NewCampaign(
        settings=config.as_dict(settings), search_settings=search, seed=3, versions={}
    )
    store = SqlStore(url, settings.name)
    store.create(new)
    Driver(campaign, store, lambda: FakeExecutor(answer), Audience()).run()
    store.end("finished", None, 1.0)
    store.close()
    return Reader(url), settings


@pytest.fixture(scope="module")
def campaign(tmp_path_factory, fake_space):
    return ended(str(tmp_path_factory.mktemp("curves") / "shoal.db"), fake_space)


@pytest.fixture(scope="module")
def found(campaign):
    return results.collect(*campaign)


def test_a_curve_is_what_a_machine_was_worth_after_each_look(campaign):
    reader, settings = campaign
    known = reader.curves(settings.name)
    stopped = 0
    for role, id_, fitness, out in reader.history(settings.name):
        points = known[id_]
        assert points[-1].fitness == fitness
        assert [one.share for one in points] == [look / 9 for look in LOOKS[: len(points)]]
        rates = {round(one.fitness / one.share, 9) for one in points}
        assert len(rates) == 1, "these learn evenly"
        assert len(points) == 3 or (out and role != "reference")
        stopped += out
        assert reader.curves(settings.name, id_) == {id_: points}
    assert stopped


def test_a_candidate_is_shown_with_its_curve(campaign, found):
    reader, settings = campaign

    def shown(record, counted_in):
        curve = reader.curves(settings.name, record.id)[record.id]
        attempts = reader.attempts(settings.name, record.id)
        data = views.whole_candidate(record, attempts, counted_in=counted_in, curve=curve)
        assert json.loads(json.dumps(data)) == data
        return data, "\n".join(views.show_lines(data))

    data, text = shown(found.winner, "stretches")
    assert [one["share"] for one in data["curve"]] == [look / 9 for look in LOOKS]
    assert f"learned     {data['curve'][0]['fitness']:.4f} after 11% of its training" in text
    assert "on search rows, block 1 (2 stretches), scored" in text
    assert "on test rows (2 documents), scored" in text
    trained = replace(found.winner, recipe={**found.winner.recipe, "training": {"steps": 900}})
    data, text = shown(trained, "stretches")
    assert [one["steps"] for one in data["curve"]] == [100, 300, 900]
    assert "after 33% of its training, 300 steps" in text
    data, text = shown(found.winner, "documents")
    assert data["curve"] is None
    assert "learned" not in text
    assert "(2 documents), scored" in text


def test_the_report_and_the_result_as_data_have_the_curves(found):
    text = report.markdown(found, "x.png")
    assert "## How they learned" in text
    assert f"]({curves.PICTURE})" in text
    num = sum(one.is_out for one in found.curves.curves)
    assert f"Of 36 candidates {num} were stopped: " in text
    assert "| model | after 11% | after 33% | after 100% |" in text
    label = found.lines[0].label
    (row,) = [row for row in tables.curve_rows(found) if row[0] == label]
    assert row[-1] == f"{found.winner.fitness:.3f}"
    data = {one["id"]: one for one in tables.as_json(found)["curves"]}
    assert json.loads(json.dumps(data)) == data
    assert len(data) == 38
    assert data[found.winner.id]["points"][-1] == {"share": 1.0, "fitness": found.winner.fitness}
    assert any(one["stopped"] and len(one["points"]) == 1 for one in data.values())


def test_stretches_are_called_stretches(campaign, found):
    text = report.markdown(found, "x.png")
    assert "search rows (stretches) | test rows |" in text
    assert "stretches where training each to its end takes 324: " in text
    reader, settings = campaign
    status = "\n".join(views.status_lines(reader.status(settings.name)))
    assert "stretches   reference 18 search; search " in status
    assert "documents   reference 4 test; " in status


def test_a_table_has_the_curves_of_machines_alone(campaign, tmp_path, fake_space):
    reader, settings = campaign
    exports.write(reader, settings.name, tmp_path / "a.csv", "csv", force=False)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    for id_, points in reader.curves(settings.name).items():
        pairs = [pair.split(":") for pair in rows[id_]["curve"].split()]
        assert [float(fitness) for _, fitness in pairs] == [one.fitness for one in points]
        assert [float(share) for share, _ in pairs] == pytest.approx(
            [one.share for one in points], rel=1e-5
        )
    other, _ = ended(str(tmp_path / "b.db"), fake_space, counted_in="documents")
    exports.write(other, settings.name, tmp_path / "b.csv", "csv", force=False)
    assert "curve" not in (tmp_path / "b.csv").read_text().splitlines()[0].split(",")


def test_where_nobody_looked_before_the_end_there_are_no_curves(tmp_path, fake_space):
    reader, settings = ended(str(tmp_path / "x.db"), fake_space, race=False)
    found = results.collect(reader, settings)
    assert found.curves is None
    assert "How they learned" not in report.markdown(found, "x.png")
    assert tables.as_json(found)["curves"] is None
    assert tables.curve_rows(found) == []


@pytest.mark.parametrize("steps", [None, 900])
def test_the_picture_shows_the_winner_above_all_and_the_stopped_below(
    found, tmp_path, monkeypatch, steps
):
    drawn = []
    plot = axes.Axes.plot

    def noted(self, along, values, **look):
        drawn.append((along[-1], values[-1], look))
        return plot(self, along, values, **look)

    monkeypatch.setattr(axes.Axes, "plot", noted)
    curves.draw(replace(found.curves, steps=steps), tmp_path / "new" / "curves.png")
    assert (tmp_path / "new" / "curves.png").stat().st_size > 10_000
    end, fitness, look = drawn[-1]
    assert (end, fitness) == (steps or 1.0, found.winner.fitness)
    assert look["label"] == f"best: {found.winner.id}"
    (first, *_), num = drawn, sum(one.is_out for one in found.curves.curves)
    assert first[2]["label"] == "out of the running"
    assert [one[2]["color"] for one in drawn].count("0.65") == num
    assert {"low", "high"} <= {one[2]["label"] for one in drawn}


def test_steps_are_told_where_a_training_has_such():
    points = [CurvePoint(share=1 / 9, fitness=0.25), CurvePoint(share=1.0, fitness=0.5)]
    assert curves.as_plain(points, 900) == [
        {"share": 1 / 9, "steps": 100, "fitness": 0.25},
        {"share": 1.0, "steps": 900, "fitness": 0.5},
    ]
    assert curves.whole_training({"kind": "ctm", "training": {"steps": 900}}) == 900
    assert curves.whole_training({"kind": "merge"}) is None

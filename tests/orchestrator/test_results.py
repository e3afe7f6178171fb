"""What is read out of a store once a campaign has ended."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.base import Score, TaskFacts, TaskScore
from evaluators.pooling import mean_and_error
from orchestrator import config
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign.fold import handle, start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.measurement.layout import layout
from orchestrator.measurement.paired_races import PairedT
from orchestrator.measurement.regime import Regime
from orchestrator.reporting import findings, picture, report
from orchestrator.reporting import result as results
from orchestrator.reporting import result_tables as tables
from orchestrator.storage.base import Begun, NewCampaign, Taken, Turn
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from workers.job import Job, Scored

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"search": 64, "selection": 30, "test": 80, "control": 20}
WARNING = "tasks: 'skill' is a public test set"


def answer(job: Job) -> Scored:
    """Right or wrong by document: the nearer a model's numbers are to 0, the more are right."""
    genes = job.recipe.slices[0].settings[0].values["weight"]
    share = 1 / (1 + sum(gene * gene for gene in genes))
    kind = "search" if job.rows == "fresh" else job.rows
    named = job.documents or {"skill": tuple(range(SIZES[kind]))}
    right = tuple(
        float(zlib.crc32(f"{kind} {place} {genes}".encode()) / 2**32 < share)
        for place in named["skill"]
    )
    mean, error = mean_and_error(right)
    task = TaskScore(value=mean, stderr=error, documents=len(right), per_document=right)
    return Scored(
        candidate=job.candidate, attempt=job.attempt, rows=job.rows, block=job.block,
        score=Score(fitness=math.fsum([mean]), tasks={"skill": task}), seconds=0.1, worker="w",
    )  # fmt: skip


@pytest.fixture(scope="module")
def ended(tmp_path_factory, fake_space):
    """A raced campaign with a control and all kinds of rows, run to its end in a store."""
    url = str(tmp_path_factory.mktemp("ended") / "shoal.db")
    settings = replace(
        config.read(ROOT / "examples/quickstart.yaml", ["evaluate.control=[other]"]), store=url
    )
    race = PairedT(first_block=8, survivors=2)
    facts = {"skill": TaskFacts(documents=64, rows="r", strata=("a", "b") * 32, is_mean=True)}
    plan = layout(facts, seed=1, race=race, reserve=0.0, round_documents=1)
    campaign = Campaign(
        space=fake_space(), algorithm=RandomSearch(population_size=12), seed=3,
        limits=Limits(generations=3), control=True, finalists=3,
        kinds=frozenset({"search", "selection", "test", "control"}),
        regime=Regime(layout=plan, race=race),
    )  # fmt: skip
    new = NewCampaign(
        settings=config.as_dict(settings), search_settings={"warnings": [WARNING]}, seed=3,
        versions={"shoal": "0"},
    )  # fmt: skip
    with SqlStore(url, settings.name) as store:
        store.create(new)
        step = start(campaign)
        queue, taken = list(step.jobs), []
        while True:
            begun = [Begun(job=job, lease_until=9e9) for job in step.jobs]
            store.write(Turn(candidates=list(step.candidates), taken=taken, begun=begun))
            if not queue:
                break
            outcome = answer(queue.pop(0))
            step = handle(campaign, step.state, outcome)
            final = (outcome.candidate, outcome.rows) not in step.state.open
            taken = [Taken(outcome=outcome, final=final, measured=step.measured)]
            queue += step.jobs
        store.end("finished", None, 1.0)
    return Reader(url), replace(settings, finalists=3), step.state


@pytest.fixture(scope="module")
def found(ended):
    reader, settings, _ = ended
    return results.collect(reader, settings)


def test_the_winner_is_the_campaigns_and_is_compared_with_references_and_random_search(
    found, ended
):
    state = ended[2]
    assert found.winner.id == state.winner.candidate.id
    ids = [line.record.id for line in found.lines]
    assert ids[0] == found.winner.id
    assert len(ids) == len(set(ids))
    assert {"r1", "r2"} <= set(ids)
    assert ids[-1] == state.best_of("control").candidate.id
    for line in found.lines[1:]:
        assert (line.lead is not None) == bool(line.record.test)


def test_finalists_are_those_that_were_scored_on_selection_rows(found, ended):
    chosen = {id_ for id_ in ended[2].selected if id_[0] != "c"}
    assert {one.id for one in found.finalists} == chosen
    assert len(chosen) == 3
    assert "on 30 selection rows among 3 finalists" in findings.picking(found)


def test_optimism_is_told_of_the_winner_and_of_the_random_searchs_best(found):
    told = [(one.label.split(":")[0], one.rows) for one in found.optimism]
    assert told == [
        ("best", "search"), ("best", "selection"),
        ("random search", "search"), ("random search", "selection"),
    ]  # fmt: skip
    first = found.optimism[0]
    assert first.fitness == pytest.approx(found.winner.fitness)
    assert first.difference.value == pytest.approx(found.winner.fitness - found.winner.test_fitness)


def test_the_report_has_all_parts_and_counts_what_was_spent(found, ended):
    text, state = report.markdown(found, "x.png"), ended[2]
    for part in (
        f"- **Warning**: {WARNING}", "## Did anything else get worse?", "## Optimism",
        "## What was spent", "| selection fitness |", findings.verdict(found),
    ):  # fmt: skip
        assert part in text, part
    spent = found.status["documents"]
    searched = sum(spent[role]["search"] for role in ("search", "control", "reference"))
    assert searched == state.documents_spent
    assert found.status["stopped"] == state.num_stopped > 0
    raced = searched - spent["reference"]["search"]
    assert f"scored on {raced:,} documents" in text
    assert f"takes {72 * 64:,}" in text
    assert len(tables.as_json(found)["table"]) == len(found.lines)


def test_the_history_can_be_drawn(ended, tmp_path):
    reader, settings, _ = ended
    history = reader.history(settings.name)
    assert {one[3] for one in history} == {True, False}
    picture.draw(history, reader.references(settings.name), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_campaign_without_a_score_has_no_result(tmp_path):
    settings = config.read(ROOT / "examples/quickstart.yaml")
    url = str(tmp_path / "shoal.db")
    new = NewCampaign(settings={}, search_settings={}, seed=1, versions={})
    with SqlStore(url, settings.name) as store:
        store.create(new)
    assert results.collect(Reader(url), settings) is None

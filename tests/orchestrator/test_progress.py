"""What a running campaign shows."""

from __future__ import annotations

import io

from rich.console import Console

from evaluators.base import Score
from orchestrator.campaign.state import State
from orchestrator.command_line.progress import ProgressView
from workers.job import Failed, Scored

SCORED = Scored(
    candidate="s1", attempt=1, rows="search", score=Score(fitness=0.5, tasks={}), seconds=1.0,
    worker="w",
)  # fmt: skip


def shown(state: State, outcome=SCORED, *, final=True, **more) -> str:
    file = io.StringIO()
    console = Console(file=file, width=200, highlight=False)
    view = ProgressView("demo", 100, console, **more)
    view.on_outcome(state, outcome, final=final)
    view.close()
    return file.getvalue()


def test_what_a_race_stopped_and_what_was_spent_is_shown():
    racing = State(num_scored=60, num_stopped=37, documents_spent=410, documents_full=1000)
    assert "60/100 measured, 37 stopped early, 41% of documents spent" in shown(racing)
    assert "41% of stretches spent" in shown(racing, counted_in="stretches")


def test_nothing_is_said_of_documents_where_all_are_spent():
    for spent, full in ((1000, 1000), (1200, 1000), (500, 0)):
        whole = State(num_scored=60, documents_spent=spent, documents_full=full)
        assert "documents" not in shown(whole)
        assert "stopped" not in shown(whole)


def test_what_is_measured_after_the_search_says_what_for():
    job = object()
    for phase, text in (
        ("complete", "2 to measure finalists in full"),
        ("selection", "2 on selection rows"),
        ("test", "2 for the report"),
    ):
        ended = State(phase=phase, open={("s1", "test"): job, ("s2", "test"): job})
        assert text in shown(ended)
    assert "for the report" not in shown(State(open={("s1", "search"): job}))


def test_a_failure_is_told_with_its_cause_and_whether_it_is_tried_again():
    failed = Failed(
        candidate="s9", attempt=1, rows="search", stage="build", cause="out of luck\nat line 3",
        retryable=True, seconds=1.0, worker="w",
    )  # fmt: skip
    text = shown(State(), failed, final=False)
    assert "s9 failed in build: out of luck; will be tried again" in text
    assert "again" not in shown(State(), failed)

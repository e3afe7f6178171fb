"""What holds whatever happens. Each law is checked on what is in the file, not on what was said.

- No recorded outcome is lost: what the driver was told is recorded stays, as it was, in its place.
- One outcome counts: at most one of each candidate and part of its rows, and it is worth what its
  parts give together.
- It is the same search: candidates, outcomes, and best are those of the search without faults. Of a
  search that depends on the order of outcomes: those that the recorded order gives.
- The state is the fold of the record.
- No zombie: nothing is open at the end, no lease is left, no worker goes on.
- The budget is met, and not exceeded.
- Nothing is measured twice, and a worker gets one job at a time.
- No item is spent on the hopeless: blocks come one after another, none follows on one that ended
  its candidate while others are still searched for, and who was stopped was worse than another.
- First remember, then act: a worker gets only what the store has as an open attempt.
- One driver at a time: a second one is refused, a dead one's campaign is taken over, and who has
  lost a campaign changes nothing in it.
- Nothing untrue is tried: no constraint of the database is ever needed.
- No lock between turns: others are never kept waiting.
- A failure of the disk is told as one.
- The driver is at one with itself, and the store is sound by its own check.
- The campaign ends.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from math import fsum

from evaluators.base import Score
from evaluators.pooling import pool
from orchestrator.campaign import fold as campaigns
from orchestrator.campaign.counterparts import COUNTERPART
from orchestrator.campaign.state import Best, Candidate, Recorded, State
from orchestrator.storage import upkeep
from tests.conftest import scored
from tests.simulation.fleet import MAX_ATTEMPTS, Fleet
from tests.simulation.plans import Plan, Search, evaluation_of, regime_of, without_faults
from tests.simulation.records import AT_PLACE, Line, Monitor, own_fitness, place_of
from tests.simulation.world import Broken
from workers.job import Job


def nothing_is_lost(before: Sequence[Line], now: Sequence[Line], heard: Sequence[Line]) -> None:
    """What was recorded is still recorded, and all that was called recorded is."""
    if list(now[: len(before)]) != list(before):
        raise Broken("no recorded outcome is lost", f"was {before}, is {now}")
    known = {line[1:] for line in now}
    for line in heard:
        if line[1:] not in known:
            raise Broken("no recorded outcome is lost", f"{line} was called recorded")


def no_worker_is_left(fleet: Fleet) -> None:
    """Whoever ends takes its evaluators along."""
    if not fleet.closed or fleet.alive:
        raise Broken("no zombie", f"workers are left: {[one.name for one in fleet.alive]}")


def changed_nothing(before: object, now: object) -> None:
    """Who has lost a campaign has left the store as it was."""
    if before != now:
        raise Broken("one driver at a time", "one that had lost its campaign changed it")


def may_be_sent(
    monitor: Monitor, name: str, plan: Plan, job: Job, *, num_candidates: int | None
) -> None:
    """A job is handed out once the store has it, and never if its outcome is known.

    `num_candidates` is how many there will be; None where time was up once, or failures were
    retried, so that some may have ended that go on.
    """
    mine = monitor.attempts(name, f"{AT_PLACE} ORDER BY attempt.id", *job.key[:3])
    for row in mine:
        if row["state"] == "scored" or (row["final"] and not row["retried"]):
            raise Broken("nothing is measured twice", f"{job.key} is handed out again")
    is_remembered(monitor, mine, job)
    if job.attempt > MAX_ATTEMPTS + 2:  # the user may want another two
        raise Broken("the campaign ends", f"{job.key}: tried for ever")
    if plan.reuse:
        query = "SELECT 1 FROM attempt WHERE evaluation = ? AND state = 'scored' AND id < ?"
        if monitor.all(query, evaluation_of(job), mine[-1]["id"]):
            raise Broken("nothing is measured twice", f"{job.key} is known from its equal")
    if job.rows == "search" and job.block:
        may_follow(monitor, name, job, num_candidates)


def is_remembered(monitor: Monitor, mine: Sequence[sqlite3.Row], job: Job) -> None:
    """The store has the attempt as it is handed out."""
    if not mine or (mine[-1]["state"], mine[-1]["number"]) != ("open", job.attempt):
        raise Broken("first remember, then act", f"{job.key} is handed out, and not in the store")
    if monitor.documents(mine[-1]) != job.documents:
        raise Broken("first remember, then act", f"{job.key} has other documents in the store")


def may_follow(monitor: Monitor, name: str, job: Job, num_candidates: int | None) -> None:
    """A block follows on the one before, on the last one of its candidate only after the search."""
    before = monitor.attempts(
        name,
        "attempt.candidate = ? AND attempt.rows = 'search' AND attempt.block < ?"
        " AND attempt.state = 'scored' ORDER BY attempt.block",
        job.candidate,
        job.block,
    )
    if [row["block"] for row in before] != list(range(job.block)):
        raise Broken("no item is spent on the hopeless", f"{job.key} comes before earlier blocks")
    ended = {row["candidate"] for row in monitor.attempts(name, _ENDED)}
    if before[-1]["final"] and num_candidates is not None and len(ended) < num_candidates:
        raise Broken("no item is spent on the hopeless", f"{job.key} follows although it had ended")


#: What says what its candidate is worth.
_STANDING = (
    "attempt.rows IN ('search', 'fresh') AND attempt.state = 'scored' AND final AND NOT superseded"
)
#: An outcome that ended its candidate on the search rows.
_ENDED = "attempt.rows = 'search' AND attempt.final = 1 AND attempt.retried = 0"


def time_is_up(plan: Plan, late: Sequence[Job], slots: int) -> None:
    """No more is begun after the time was over than had been given out before.

    What goes on is a reference or a finalist, of the search or of the control.
    """
    begun = [job for job in late if job.rows in ("search", "fresh") and job.attempt == 1]
    firsts = [job for job in begun if job.rows == "fresh" or job.block == 0]
    later = {job.candidate for job in begun if job not in firsts and job.candidate[0] != "r"}
    if len(firsts) > slots or len(later) > slots + 2 * plan.finalists:
        what = f"{len(firsts)} candidates were begun and {len(later)} gone on with"
        raise Broken("the budget is met", f"{what} after time was up")


def at_the_end(
    monitor: Monitor, name: str, plan: Plan, state: State, *, same: bool, hurried: bool, timed: bool
) -> None:
    """Checks a campaign that is done; `same` says whether nothing changed what it searches.

    `hurried` means that it once ended early, so that others were measured at its end, too, and
    `timed` that time was up then, so that some had to stop that had not lost.
    """
    candidates = monitor.candidates(name)
    one_counts(monitor, name)
    values_are_right(monitor, name, plan, candidates)
    if not timed:
        who_was_stopped_had_lost(monitor, name)
    no_zombie(monitor, name, stopped=state.stop == "failures")
    violations = is_the_fold(monitor, name, plan, candidates, state)
    if not timed:  # who had to stop and fails later stays what it was in the store alone
        violations_are_noted(monitor, name, violations, state)
    the_winner_is_compared(monitor, name, plan, candidates, state)
    alone = without_faults(plan)
    if same and not plan.ordered:
        same_search(monitor, name, candidates, alone, state, hurried=hurried)
    if plan.max_failure_fraction >= 1.0:
        budget_is_met(monitor, name, plan, candidates, same=same)


def one_counts(monitor: Monitor, name: str) -> None:
    """At most one outcome of a candidate and part of its rows counts."""
    for key, num in Counter(map(place_of, monitor.accepted(name))).items():
        if num > 1:
            raise Broken("one outcome counts", f"{num} of {key} do")


def values_are_right(
    monitor: Monitor, name: str, plan: Plan, candidates: dict[str, Candidate]
) -> None:
    """A fitness is the one of its recipe, measured or copied, and all its parts count once."""
    regime, parts = regime_of(plan.regime), dict[str, list[Score]]()
    for row in monitor.accepted(name):
        if row["state"] != "scored":
            continue
        id_, rows, block = place_of(row)
        documents = monitor.documents(row)
        if rows == "search" and regime.estimator is None and documents != regime.blocks[block]:
            raise Broken("one outcome counts", f"{place_of(row)} has the documents of another")
        job = Job(
            candidate=id_,
            attempt=row["number"],
            rows=rows,
            block=block,
            documents=documents,
            recipe=candidates[id_].recipe,
        )
        right = scored(job).score
        if own_fitness(row) != right.fitness:
            raise Broken("one outcome counts", f"{id_} has another's fitness: {own_fitness(row)}")
        if rows not in ("search", "fresh"):
            continue
        parts.setdefault(id_, []).append(right)
        estimated = row["fidelity"] < 1 and regime.estimator is not None
        if not estimated and row["fitness"] != (worth := pool(parts[id_]).fitness):
            raise Broken("one outcome counts", f"{id_} is worth {worth}, not {row['fitness']}")


def who_was_stopped_had_lost(monitor: Monitor, name: str) -> None:
    """There was somebody better on the same documents, who was measured on all of them."""
    parts: dict[str, dict[int, Score]] = {}
    for (id_, rows, block), tasks in monitor.scores(name).items():
        if rows == "search":
            fitness = fsum(one.value * one.weight for one in tasks.values())
            parts.setdefault(id_, {})[block] = Score(fitness=fitness, tasks=tasks)
    most = max(map(len, parts.values()), default=0)
    for row in monitor.attempts(name, "attempt.stopped = 1"):
        id_, blocks = row["candidate"], range(row["block"] + 1)
        own = pool([parts[id_][block] for block in blocks]).fitness
        rivals = [
            pool([one[block] for block in blocks]).fitness
            for other, one in parts.items()
            if other[0] == id_[0] and other != id_ and len(one) == most
        ]
        if not any(fitness > own for fitness in rivals):
            raise Broken("no item is spent on the hopeless", f"{id_} was stopped, and was the best")


def no_zombie(monitor: Monitor, name: str, *, stopped: bool) -> None:
    """Nothing is open, nobody holds the campaign, and it says that it is over."""
    row = monitor.campaign(name)
    assert row is not None
    if row["lease_token"] is not None:
        raise Broken("no zombie", f"a lease is left: {row['lease_holder']}")
    if still := monitor.attempts(name, "attempt.state = 'open'"):
        raise Broken("no zombie", f"{len(still)} attempts are open: {tuple(still[0])}")
    if row["state"] != ("stopped" if stopped else "finished"):
        raise Broken("no zombie", f"the campaign is {row['state']}")


def is_the_fold(
    monitor: Monitor, name: str, plan: Plan, candidates: dict[str, Candidate], state: State
) -> dict[str, float]:
    """The recorded outcomes, in their order, give the recorded candidates and the state.

    Returns by how much candidates break the constraints by it.
    """
    campaign = plan.campaign()
    step = campaigns.start(campaign)
    born, violations = list(step.candidates), dict[str, float]()
    for entry in monitor.entries(name):
        step = campaigns.replay(campaign, step.state, entry)
        born += step.candidates
        if isinstance(entry, Recorded) and step.measured is not None and step.final:
            violations[entry.outcome.candidate] = step.measured.violation
        violations |= step.judged
    given = {one.id: one for one in born}
    if searched(given) != searched(candidates) or not given.items() <= candidates.items():
        what = next(_differences(given, candidates))
        raise Broken("the state is the fold of the record", f"candidates differ: {what}")
    if step.state != state:
        what = next(_differences(_by_field(step.state), _by_field(state)))
        raise Broken("the state is the fold of the record", what)
    return violations


def violations_are_noted(
    monitor: Monitor, name: str, violations: dict[str, float], state: State
) -> None:
    """The store says who breaks the constraints, and by how much, as the campaign does."""
    noted = {row["candidate"]: row["violation"] for row in monitor.attempts(name, _STANDING)}
    for id_, _ in state.ahead:  # measured in full at an earlier end: the store keeps what was found
        noted.pop(id_)
        violations.pop(id_, None)
    # What was measured ahead, and is of use at this end, was no news when it came.
    violations |= {id_: one.violation for id_, one in state.completed.items()}
    if noted != violations:
        what = next(_differences(violations, noted))
        raise Broken("the state is the fold of the record", f"violations differ: {what}")


def searched(candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Returns all but what a winner is compared with: every end has its own, and earlier ones."""
    return {id_: one for id_, one in candidates.items() if one.operator != COUNTERPART}


def the_winner_is_compared(
    monitor: Monitor, name: str, plan: Plan, candidates: dict[str, Candidate], state: State
) -> None:
    """What is made of the winner was measured for the report, and for nothing else."""
    made = {id_: one for id_, one in candidates.items() if one.operator == COUNTERPART}
    rows = {place_of(row)[:2] for row in monitor.accepted(name) if row["candidate"] in made}
    if not {kind for _, kind in rows} <= plan.reported - {"selection"}:
        raise Broken("the winner is compared", f"a counterpart took part in the search: {rows}")
    if not plan.contrasting or state.winner is None or state.stop == "failures":
        return
    winner = state.winner.candidate
    ours = [one for one in made.values() if one.parents == (winner.id,)]
    if len(ours) != 1 or (ours[0].id, "test") not in rows:
        raise Broken("the winner is compared", f"{winner.id} has {len(ours)}, measured {rows}")


def same_search(
    monitor: Monitor,
    name: str,
    candidates: dict[str, Candidate],
    alone: Search,
    state: State,
    *,
    hurried: bool,
) -> None:
    """The search is bit for bit the one that nothing happened to."""
    same_candidates(candidates, alone)
    accepted = {
        place_of(row): own_fitness(row) if row["state"] == "scored" else None
        for row in monitor.accepted(name)
    }
    if hurried:
        accepted = {key: value for key, value in accepted.items() if key in alone.accepted}
    if accepted != alone.accepted:
        what = next(_differences(alone.accepted, accepted))
        raise Broken("it is the same search", f"outcomes differ: {what}")
    if _gist(state) != _gist(alone.state):
        raise Broken("it is the same search", f"{_gist(state)} is not {_gist(alone.state)}")


def same_candidates(candidates: dict[str, Candidate], alone: Search) -> None:
    """The candidates are bit for bit those of the search without faults."""
    ours, theirs = searched(candidates), searched(alone.candidates)
    if ours != theirs:
        what = next(_differences(theirs, ours))
        raise Broken("it is the same search", f"candidates differ: {what}")


def budget_is_met(
    monitor: Monitor, name: str, plan: Plan, candidates: dict[str, Candidate], *, same: bool
) -> None:
    """As many candidates are measured as were asked for, no more and no fewer."""
    candidates = searched(candidates)
    born, expected = (
        Counter((one.role, one.generation) for one in found.values())
        for found in (candidates, searched(without_faults(plan).candidates))
    )
    if plan.generations is not None and not same:
        # A generation is larger where all before it failed, which a retry may have mended.
        born, expected = (Counter(dict.fromkeys(counts, 1)) for counts in (born, expected))
    if born != expected:
        raise Broken("the budget is met", f"candidates: {born}")
    ended = {row["candidate"] for row in monitor.attempts(name, _ENDED)}
    if ended != set(candidates):
        raise Broken("the budget is met", f"no outcome: {set(candidates) - ended}")


def the_store_is_sound(url: str) -> None:
    """The store's own check agrees."""
    if problems := upkeep.check(url)["problems"]:
        raise Broken("the store is sound", "; ".join(problems))


def _gist(state: State) -> tuple[Best | None, object, object]:
    counts = (state.num_scored, state.num_failed, state.num_stopped, state.documents_full)
    return state.winner, dict(state.best), (*counts, state.generation, state.proposed)


def _by_field(state: State) -> dict[str, object]:
    return {one.name: getattr(state, one.name) for one in fields(state)}


def _differences(one: object, other: object) -> Iterator[str]:
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    for key in [*one, *other]:
        if one.get(key, ...) != other.get(key, ...):
            yield f"{key}: {one.get(key, 'none')} is not {other.get(key, 'none')}"

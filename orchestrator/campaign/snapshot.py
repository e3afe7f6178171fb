"""The search's state as plain data and back: a shortcut for resuming, never the truth.

Candidates are named, not copied: the store has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evaluators.base import Documents
from evaluators.digest import hash_json
from orchestrator.algorithms.base import Evaluated, Memory, as_asynchronous
from orchestrator.campaign import descent
from orchestrator.campaign.answers import answers_of
from orchestrator.campaign.breeding import allowance
from orchestrator.campaign.state import Best, Campaign, Candidate, State
from orchestrator.campaign.stopping import Progress
from orchestrator.measurement.measured import Measured, Standing
from orchestrator.measurement.race import Run
from workers.job import Job


def can_be_taken(campaign: Campaign, state: State) -> bool:
    """Whether the state would be the same under any larger budget."""
    return state.phase == "search" and state.stop is None and allowance(campaign, state) > 0


def fits(campaign: Campaign, data: Mapping[str, Any]) -> bool:
    """Whether the state does not go beyond the campaign's limits."""
    limits, proposed = campaign.limits, data["proposed"]
    if limits.evaluations is not None and proposed >= limits.evaluations:
        return False
    if limits.generations is None:
        return True
    steady = as_asynchronous(campaign.branch(proposed + 1).rules.algorithm)
    if steady is None:
        return bool(data["generation"] <= limits.generations)
    return bool(proposed < limits.generations * steady.size(1))  # a full count is its end


def fingerprint(campaign: Campaign, search_settings: Mapping[str, Any]) -> str:
    """Returns a hash of all but the outcomes that a state depends on: settings and code."""
    facts = {
        "search": search_settings,
        "history": repr(campaign.history),
        "failures": [campaign.limits.max_failure_fraction, campaign.limits.min_ended],
        "ends": [campaign.limits.target, repr(campaign.limits.stagnation)],
        "code": {name: _version(name) for name in ("shoal", "numpy", "cma", "optuna")},
    }
    return hash_json(facts)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # an extra that is not installed decides nothing


def dump(campaign: Campaign, state: State) -> dict[str, Any]:
    """Returns a state as plain data."""
    estimator = campaign.regime.estimator
    return {
        "open": [_dump_job(campaign, job) for job in state.open.values()],
        "candidates": list(state.candidates),
        "ended": {id_: None if one is None else astuple(one) for id_, one in state.ended.items()},
        "standings": {id_: list(map(list, one.parts)) for id_, one in state.standings.items()},
        "sampled": {id_: dict(documents) for id_, documents in state.sampled.items()},
        "broken": sorted(state.broken),
        "completing": sorted(state.completing),
        "incomplete": sorted(state.incomplete),
        "completed": {id_: astuple(one) for id_, one in state.completed.items()},
        "ahead": [list(key) for key in state.ahead],
        "incumbents": {role: list(ids) for role, ids in state.incumbents.items()},
        "runs": {
            role: [[run.number, list(run.fitness)] for run in runs]
            for role, runs in state.runs.items()
        },
        "refreshed": {id_: astuple(one) for id_, one in state.refreshed.items()},
        "anchors": {id_: dict(values) for id_, values in state.anchors.items()},
        "unjudged": {id_: dict(values) for id_, values in state.unjudged.items()},
        "progress": None if state.progress is None else asdict(state.progress),
        "rounds": state.rounds,
        "bank": None if estimator is None else estimator.to_plain(state.bank),
        "memory": _dump_memory(state.memory),
        "answered": [one.candidate for one in state.memory.everyone if one.answers],
        "tops": {
            role: [[one.candidate.id, astuple(one.measured)] for one in tops]
            for role, tops in state.tops.items()
        },
        "selected": dict(state.selected),
        "tested": sorted(list(key) for key in state.tested),
        **{name: getattr(state, name) for name in _NUMBERS},
        "stop": state.stop,
        "phase": state.phase,
    }


_NUMBERS = (
    "generation",
    "proposed",
    "num_scored",
    "num_failed",
    "num_stopped",
    "documents_spent",
    "documents_full",
)


def _dump_job(campaign: Campaign, job: Job) -> list[Any]:
    """Names a job; documents that are a block of the campaign's own need not be said."""
    own = _own_documents(campaign, job.rows, job.block)
    documents = None if job.documents == own else job.documents
    return [
        job.candidate,
        job.rows,
        job.block,
        documents,
        job.attempt,
        list(job.avoid),
        job.halvings,
    ]


def _own_documents(campaign: Campaign, rows: str, block: int) -> Documents | None:
    regime = campaign.regime
    if rows == "search" and block < len(regime.blocks):
        return regime.blocks[block]
    if rows == "fresh" and regime.layout is not None:
        fresh: Documents = regime.layout.fresh[block]
        return fresh
    return None


def with_standings(data: Mapping[str, Any]) -> set[str]:
    """Returns the candidates whose scores a dumped state needs."""
    return {*data["standings"], *(id_ for id_, _ in data["ahead"]), *data["answered"]}


def named(data: Mapping[str, Any]) -> set[str]:
    """Returns the candidates that a dumped state names."""
    return {
        *data["candidates"],
        *_members(data["memory"]),
        *(one[0] for tops in data["tops"].values() for one in tops),
    }


def restore(
    campaign: Campaign,
    data: Mapping[str, Any],
    known: Mapping[str, Candidate],
    standings: Mapping[str, Standing],
) -> State:
    """Returns the state that `dump` was given; the store gives candidates and what they scored.

    Raises:
        KeyError: if the store lacks a candidate.
    """
    estimator = campaign.regime.estimator
    jobs = [_restore_job(campaign, one, known) for one in data["open"]]
    memory = _restore_memory(data["memory"], known)
    if data["answered"]:
        answered = {id_: answers_of(standings[id_]) for id_ in data["answered"]}
        memory = memory.changed(lambda one: replace(one, answers=answered.get(one.candidate, ())))
    state = State(
        open={(job.candidate, job.rows): job for job in jobs},
        candidates={id_: known[id_] for id_ in data["candidates"]},
        ended={id_: None if one is None else _measured(one) for id_, one in data["ended"].items()},
        standings={
            id_: _with_only(standings[id_], parts) for id_, parts in data["standings"].items()
        },
        ahead={(id_, block): standings[id_].parts["search", block] for id_, block in data["ahead"]},
        completing=frozenset(data["completing"]),
        incomplete=frozenset(data["incomplete"]),
        completed={id_: _measured(one) for id_, one in data["completed"].items()},
        sampled={id_: _documents(one) for id_, one in data["sampled"].items()},
        broken=frozenset(data["broken"]),
        incumbents={role: tuple(ids) for role, ids in data["incumbents"].items()},
        runs={
            role: tuple(Run(number, tuple(fitness)) for number, fitness in runs)
            for role, runs in data["runs"].items()
        },
        refreshed={id_: _measured(one) for id_, one in data["refreshed"].items()},
        anchors=data["anchors"],
        unjudged=data["unjudged"],
        progress=None if data["progress"] is None else Progress(**data["progress"]),
        rounds=data["rounds"],
        bank=None if estimator is None else estimator.from_plain(data["bank"]),
        memory=memory,
        tops={
            role: tuple(Best(candidate=known[id_], measured=_measured(one)) for id_, one in tops)
            for role, tops in data["tops"].items()
        },
        selected=data["selected"],
        tested=frozenset((id_, rows) for id_, rows in data["tested"]),
        **{name: data[name] for name in _NUMBERS},
        stop=data["stop"],
        phase=data["phase"],
    )
    return descent.with_ancestors(campaign.space, state, known)


def _restore_job(campaign: Campaign, data: Sequence[Any], known: Mapping[str, Candidate]) -> Job:
    id_, rows, block, documents, attempt, avoid, halvings = data
    own = _own_documents(campaign, rows, block)
    return Job(
        candidate=id_,
        rows=rows,
        block=block,
        documents=own if documents is None else _documents(documents),
        attempt=attempt,
        recipe=known[id_].recipe,
        avoid=tuple(avoid),
        halvings=halvings,
    )


def _with_only(standing: Standing, parts: Sequence[Sequence[Any]]) -> Standing:
    """Returns what was known then: the store may have more parts by now."""
    return Standing({(rows, block): standing.parts[rows, block] for rows, block in parts})


_MEASURED = tuple(one.name for one in fields(Measured))


def _measured(data: Sequence[Any]) -> Measured:
    known = dict(zip(_MEASURED, data, strict=True))
    return Measured(**{**known, "values": tuple(known["values"])})


def _documents(data: Mapping[str, Sequence[int]]) -> Documents:
    return {task: tuple(places) for task, places in data.items()}


def _dump_memory(memory: Memory) -> dict[str, Any]:
    members = [
        [one.candidate, one.fitness, one.stopped, one.tie, list(one.values), one.violation]
        for one in memory.members
    ]
    parts = [_dump_memory(part) for part in memory.parts]
    return {"members": members, "state": dict(memory.state), "parts": parts}


def _members(data: Mapping[str, Any]) -> Iterator[str]:
    yield from (one[0] for one in data["members"])
    for part in data["parts"]:
        yield from _members(part)


def _restore_memory(data: Mapping[str, Any], known: Mapping[str, Candidate]) -> Memory:
    return Memory(
        members=tuple(_evaluated(known[id_], *rest) for id_, *rest in data["members"]),
        state=data["state"],
        parts=tuple(_restore_memory(part, known) for part in data["parts"]),
    )


def _evaluated(
    one: Candidate,
    fitness: float | None,
    stopped: bool,
    tie: float | None,
    values: Sequence[float],
    violation: float,
) -> Evaluated:
    assert one.genome is not None, "only genomes are bred from"
    return Evaluated(
        candidate=one.id,
        number=one.number,
        genome=one.genome,
        fitness=fitness,
        stopped=stopped,
        tie=tie,
        values=tuple(values),
        violation=violation,
        parents=one.parents,
        operator=one.operator,
    )

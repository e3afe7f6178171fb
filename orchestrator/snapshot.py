"""The search's state as plain data and back: a shortcut for resuming, never the truth.

Candidates are named, not copied: the store has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from evaluators.digest import hash_json
from orchestrator.algorithms.base import Evaluated
from orchestrator.campaign import allowance
from orchestrator.state import Best, Campaign, Candidate, State
from workers.job import Job


def can_be_taken(campaign: Campaign, state: State) -> bool:
    """Whether the state would be the same under any larger budget."""
    return state.phase == "search" and state.stop is None and allowance(campaign, state) > 0


def fits(campaign: Campaign, data: Mapping[str, Any]) -> bool:
    """Whether the state does not go beyond the campaign's limits."""
    limits = campaign.limits
    generations = limits.generations is None or data["generation"] <= limits.generations
    return generations and (limits.evaluations is None or data["proposed"] < limits.evaluations)


def fingerprint(campaign: Campaign, search_settings: Mapping[str, Any]) -> str:
    """Returns a hash of all but the outcomes that a state depends on: settings and code."""
    facts = {
        "search": search_settings,
        "history": repr(campaign.history),
        "failures": [campaign.limits.max_failure_fraction, campaign.limits.min_ended],
        "code": {name: version(name) for name in ("shoal", "numpy")},
    }
    return hash_json(facts)


def dump(state: State) -> dict[str, Any]:
    """Returns a state as plain data."""
    return {
        "open": [
            [job.candidate, job.rows, job.attempt, list(job.avoid), job.halvings]
            for job in state.open.values()
        ],
        "candidates": list(state.candidates),
        "ended": dict(state.ended),
        "memory": [[one.candidate, one.fitness] for one in state.memory],
        "generation": state.generation,
        "proposed": state.proposed,
        "num_scored": state.num_scored,
        "num_failed": state.num_failed,
        "best": {role: [one.candidate.id, one.fitness] for role, one in state.best.items()},
        "tested": sorted(state.tested),
        "stop": state.stop,
        "phase": state.phase,
    }


def named(data: Mapping[str, Any]) -> set[str]:
    """Returns the candidates that a dumped state names."""
    return {
        *data["candidates"],
        *(one[0] for one in data["memory"]),
        *(one[0] for one in data["best"].values()),
    }


def restore(data: Mapping[str, Any], known: Mapping[str, Candidate]) -> State:
    """Returns the state that `dump` was given.

    Raises:
        KeyError: if the store lacks a candidate.
    """
    jobs = [
        Job(
            candidate=id_,
            rows=rows,
            attempt=attempt,
            recipe=known[id_].recipe,
            avoid=tuple(avoid),
            halvings=halvings,
        )
        for id_, rows, attempt, avoid, halvings in data["open"]
    ]
    return State(
        open={(job.candidate, job.rows): job for job in jobs},
        candidates={id_: known[id_] for id_ in data["candidates"]},
        ended=data["ended"],
        memory=tuple(_evaluated(known[id_], fitness) for id_, fitness in data["memory"]),
        generation=data["generation"],
        proposed=data["proposed"],
        num_scored=data["num_scored"],
        num_failed=data["num_failed"],
        best={
            role: Best(candidate=known[id_], fitness=fitness)
            for role, (id_, fitness) in data["best"].items()
        },
        tested=frozenset(data["tested"]),
        stop=data["stop"],
        phase=data["phase"],
    )


def _evaluated(one: Candidate, fitness: float) -> Evaluated:
    assert one.genome is not None, "only genomes are bred from"
    return Evaluated(candidate=one.id, number=one.number, genome=one.genome, fitness=fitness)

"""What a candidate is worth by its objectives and constraints, and who is the best of a role by it.

A constraint may refer to the models that candidates are made of: what was measured before these
were is judged as soon as they are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.campaign.state import Best, Campaign, Candidate, State
from orchestrator.measurement.measured import Measured, Standing
from orchestrator.objectives import Judge, Values
from orchestrator.spaces.base import Space, as_measuring

#: How many of the best of a role are remembered.
NUM_TOPS = 16


def judged(
    campaign: Campaign, state: State, candidate: Candidate, standing: Standing, measured: Measured
) -> tuple[Measured, Values]:
    """Returns what a candidate is worth by objectives and constraints, and the values they take."""
    judge = campaign.judge
    if judge is None:
        return measured, {}
    values = _values(judge, campaign.space, candidate, standing, measured)
    whole = measured.values == ()  # of an estimate the tasks' errors are not known
    errors = {name: one.stderr for name, one in standing.pooled().tasks.items()} if whole else {}
    anchors = state.anchors if references_known(judge, state) else {}
    return judge.judged(measured, values, anchors, errors), values


def worth(campaign: Campaign, state: State, candidate: Candidate, standing: Standing) -> Measured:
    """Returns what a candidate is worth by all that it was measured on."""
    plain = campaign.regime.measured(standing)
    return judged(campaign, state, candidate, standing, plain)[0]


def _values(
    judge: Judge, space: Space, candidate: Candidate, standing: Standing, measured: Measured
) -> Values:
    """Returns the values of a candidate's tasks, estimated or as they were scored, and measures."""
    if measured.values:  # an estimator's
        values = dict(zip(judge.tasks, measured.values, strict=True))
    else:
        values = {name: one.value for name, one in standing.pooled().tasks.items()}
    if judge.takes_measures:
        measuring = as_measuring(space)
        assert measuring is not None, "a judge takes only measures that there are"
        values |= measuring.measures(candidate.recipe)
    return values


def references_known(judge: Judge | None, state: State) -> bool:
    """Whether all references that constraints refer to have been measured."""
    return judge is None or judge.needed <= state.anchors.keys()


def note_values(judge: Judge | None, state: State, id_: str, values: Values) -> State:
    """Keeps the values of those that others are judged by, and of those to be judged later."""
    if judge is None or not judge.needed or references_known(judge, state):
        return state
    kept = {name: values[name] for name in judge.constrained}
    state = replace(state, unjudged={**state.unjudged, id_: kept})
    return replace(state, anchors={**state.anchors, id_: kept}) if id_ in judge.needed else state


def judge_waiting(campaign: Campaign, state: State) -> tuple[State, Mapping[str, float]]:
    """Judges what was measured before the references that constraints refer to were known.

    Returns:
        The state, and by how much each of those breaks the constraints that does.
    """
    judge = campaign.judge
    if judge is None or not state.unjudged or not references_known(judge, state):
        return state, {}
    found = {id_: judge.violation(one, state.anchors) for id_, one in state.unjudged.items()}
    broken = {id_: violation for id_, violation in found.items() if violation > 0}
    state = replace(state, unjudged={})
    for id_, violation in broken.items():
        measured = state.ended[id_]
        assert measured is not None, "only what was measured is judged"
        measured = replace(measured, violation=violation)
        state = replace(state, ended={**state.ended, id_: measured})
        state = note_top(state, state.candidates[id_], measured)
    return state, broken


def note_top(state: State, candidate: Candidate, measured: Measured) -> State:
    """Books what a candidate is worth among the best of its role."""
    known = state.tops.get(candidate.role, ())
    others = [one for one in known if one.candidate.id != candidate.id]
    tops = sorted(
        [*others, Best(candidate=candidate, measured=measured)],
        key=lambda one: one.rank,
        reverse=True,
    )
    return replace(state, tops={**state.tops, candidate.role: tuple(tops[:NUM_TOPS])})

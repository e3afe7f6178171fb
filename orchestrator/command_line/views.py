"""What the reading commands show, as data and as lines. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from evaluators.base import DOCUMENTS, STRETCHES, Rows, TaskScore
from orchestrator.campaign.counterparts import COUNTERPART
from orchestrator.campaign.state import Role
from orchestrator.command_line.lineage_lines import lineage_lines
from orchestrator.command_line.machine_lines import machine_lines
from orchestrator.measurement.measured import Z95
from orchestrator.reporting.curves import as_plain, whole_training
from orchestrator.storage.candidates import CandidateRecord
from orchestrator.storage.reader import CurvePoint

if TYPE_CHECKING:
    from orchestrator.reporting.front import Front

#: Kinds of rows and roles in the order in which a campaign comes to them.
KINDS: tuple[Rows, ...] = get_args(Rows)
ROLES: tuple[Role, ...] = get_args(Role)


def candidate(record: CandidateRecord) -> dict[str, Any]:
    """Returns a candidate as `shoal best --json` prints it."""
    return {
        "id": record.id,
        "name": record.name or None,
        "generation": record.generation,
        "fitness": record.fitness,
        "interval": _interval(record),
        "fidelity": record.fidelity,
        "stopped": record.stopped,
        "violation": record.violation,
        "scores": _values(record.scores),
        "stderr": {task: score.stderr for task, score in record.scores.items()},
        "test": _values(record.test) or None,
        "parents": list(record.parents),
        "recipe": dict(record.recipe),
    }


def whole_candidate(
    record: CandidateRecord,
    attempts: list[dict[str, Any]],
    *,
    counted_in: str = DOCUMENTS,
    curve: Sequence[CurvePoint] = (),
) -> dict[str, Any]:
    """Returns all that is known of a candidate, as `shoal show --json` prints it.

    Its curve is what it was worth after parts of the search rows, which are counted in documents or
    in stretches of training.
    """
    learns = counted_in == STRETCHES and len(curve) > 0
    return {
        **candidate(record),
        "role": record.role,
        "state": record.state,
        "operator": record.operator,
        "genome": list(record.genome) if record.genome is not None else None,
        "selection": _values(record.selection) or None,
        "selection_fitness": record.selection_fitness,
        "test_fitness": record.test_fitness,
        "control": _values(record.control) or None,
        "documents": dict(record.documents),
        "counted_in": counted_in,
        "curve": as_plain(curve, whole_training(record.recipe)) if learns else None,
        "attempts": attempts,
    }


def beside(
    winner: CandidateRecord | None, references: Sequence[CandidateRecord]
) -> list[dict[str, Any]]:
    """Returns the counterparts of a winner that have been measured, with what both scored."""
    return [
        {"name": one.name, "id": one.id, "test_fitness": one.test_fitness,
         "winner": winner.test_fitness}
        for one in references
        if winner is not None and one.operator == COUNTERPART and one.test_fitness is not None
    ]  # fmt: skip


def status_lines(found: dict[str, Any]) -> list[str]:
    """Returns a campaign's status for people."""
    best = found["best"]
    reason = f" ({found['reason']})" if found["reason"] else ""
    lines = [
        f"campaign    {found['campaign']}",
        f"state       {found['state']}{reason}",
        f"generation  {found['generation']}",
        (
            f"evaluated   {found['evaluated']} ({found['cached']} from the cache), "
            f"{found['failed']} failed, {found['in_flight']} in flight"
        ),
        (
            f"started     {found['started_at']}, ran {found['elapsed_s']:.0f} s, "
            f"{found['evaluations_per_hour']:.0f} evaluations/h"
        ),
    ]
    lines += _spent_lines(found)
    if found.get("archive"):
        full = found["archive"]
        lines.append(
            f"archive     {full['cells']} of {full['num_cells']:,} cells, QD score "
            f"{full['qd_score']:.4g}"
        )
    if found["driver"]:
        lines.append(f"driver      {found['driver']}")
    if best is not None:
        lines.append(
            f"best        {best['id']}, fitness {best['fitness']:.4f} on search rows "
            f"({_tasks(best['scores'])}){_broken(best)}"
        )
        if found["winner"] != best["id"]:
            lines.append(f"winner      {found['winner']}, by more than its fitness on search rows")
    lines += [
        f"beside      {one['name']}: {one['test_fitness']:.4f} on test rows, "
        f"{found['winner']} {one['winner']:.4f}"
        for one in found.get("beside", ())
        if one["winner"] is not None
    ]
    return lines


def best_lines(found: dict[str, Any]) -> list[str]:
    """Returns the best candidates for people."""
    if not found["candidates"]:
        return [f"campaign {found['campaign']}: nothing measured yet"]
    return [
        f"{one['name'] or one['id']:<16} fitness {_fitness(one)}  generation "
        f"{one['generation']}  {_tasks(one['scores'])}"
        + (f"  test: {_tasks(one['test'])}" if one["test"] else "")
        for one in found["candidates"]
    ]


def front(found: Front) -> dict[str, Any]:
    """Returns a front as `shoal best --front --json` prints it."""
    return {
        "objectives": list(found.names),
        "candidates": [
            {**candidate(one.record), "objectives": dict(one.values)} for one in found.members
        ],
    }


def front_lines(found: dict[str, Any]) -> list[str]:
    """Returns the front for people."""
    return [
        f"{one['name'] or one['id']:<16} "
        + "  ".join(f"{name} {value:,.6g}" for name, value in one["objectives"].items())
        + f"  fitness {_fitness(one)}"
        for one in found["candidates"]
    ]


def show_lines(found: dict[str, Any]) -> list[str]:
    """Returns a candidate for people."""
    recipe = found["recipe"]
    lines = [
        f"candidate   {found['id']}" + (f" ({found['name']})" if found["name"] else ""),
        f"state       {_state(found)}, generation {found['generation']}, by {found['operator']}",
        f"parents     {', '.join(found['parents']) or '-'}",
        f"fitness     {_fitness(found) if found['fitness'] is not None else '-'}",
        f"scores      {_tasks(found['scores']) or '-'}",
        *(
            f"{rows:<11} {_tasks(found[rows])}"
            for rows in ("selection", "test", "control")
            if found[rows]
        ),
        *_curve_lines(found["curve"] or ()),
        *recipe_lines(recipe),
    ]
    for one in found["attempts"]:
        took = f"{one['seconds']:.2f} s" if one["seconds"] is not None else "-"
        cause = f": {one['cause']}" if one["cause"] else ""
        lines.append(
            f"attempt     {one['number']} on {_rows(one, found['counted_in'])}, "
            f"{one['state']}, {took}, "
            f"{one['worker'] or '-'}{cause}"
        )
    return lines


def _curve_lines(curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says what a machine was worth after parts of its training, a line each."""
    return [
        f"{'learned' if number == 0 else '':<11} {one['fitness']:.4f} after {one['share']:.0%} of "
        "its training" + (f", {one['steps']:,} steps" if "steps" in one else "")
        for number, one in enumerate(curve)
    ]


def _state(found: Mapping[str, Any]) -> str:
    """Says how far a candidate is; what only a report asks for has never been searched with."""
    for_report = found["state"] == "proposed" and (found["test"] or found["control"])
    return "measured for the report" if for_report else str(found["state"])


def recipe_lines(recipe: Mapping[str, Any]) -> list[str]:
    """Returns what builds a candidate, for people."""
    if recipe["kind"] == "values":
        return [
            f"{'values' if number == 0 else '':<11} {name} {_value(value)}"
            for number, (name, value) in enumerate(recipe["values"].items())
        ]
    if recipe["kind"] == "lineage":
        return lineage_lines(recipe)
    if recipe["kind"] == "ctm":
        return machine_lines(recipe)
    sources = ", ".join(map(_source, recipe["sources"]))
    lines = [f"recipe      {recipe['method']} of {sources} over {recipe['base']}"]
    for part in recipe["slices"]:
        for setting in part["settings"]:
            values = "  ".join(
                f"{name} {', '.join(f'{value:.4f}' for value in values)}"
                for name, values in setting["values"].items()
            )
            module = setting["filter"] or "rest"
            lines.append(f"  layers {part['start']}-{part['stop'] - 1} {module:<12} {values}")
    return lines


def _source(one: str | Mapping[str, Any]) -> str:
    return one if isinstance(one, str) else f"a {one['method']} merge"


def _value(value: Any) -> str:
    """Writes a string of bits as digits, and no more of a number than people read."""
    if isinstance(value, list) and all(isinstance(one, bool) for one in value):
        return "".join(str(int(one)) for one in value)
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def score_lines(found: dict[str, Any]) -> list[str]:
    """Returns a model's scores for people."""
    lines = [f"model     {found['model']}"]
    for rows in ("search", "selection", "test", "control"):
        part = found.get(rows)
        if part is not None:
            lines.append(f"{rows:<9} fitness {part['fitness']:.4f} ({_tasks(part['scores'])})")
    return lines


def _tasks(scores: dict[str, float]) -> str:
    return ", ".join(f"{task} {value:.4f}" for task, value in scores.items())


def _values(scores: Mapping[str, TaskScore]) -> dict[str, float]:
    return {task: score.value for task, score in scores.items()}


def _interval(record: CandidateRecord) -> list[float] | None:
    """Returns the 95 % interval of a fitness on search rows."""
    if record.fitness is None or record.stderr is None:
        return None
    return [record.fitness - Z95 * record.stderr, record.fitness + Z95 * record.stderr]


def _fitness(found: Mapping[str, Any]) -> str:
    """Returns a fitness with its interval, and what it rests on if that is not all rows."""
    text = f"{found['fitness']:.4f}"
    if found["interval"] is not None:
        low, high = found["interval"]
        text += f" [{low:.4f}, {high:.4f}]"
    if found["fidelity"] < 1:
        text += f" {'stopped at' if found['stopped'] else 'from'} {found['fidelity']:.0%} of rows"
    return text + _broken(found)


def _broken(found: Mapping[str, Any]) -> str:
    """Says by how much constraints are broken, if they are."""
    return f", breaks constraints by {found['violation']:.3g}" if found["violation"] else ""


def _spent_lines(found: Mapping[str, Any]) -> list[str]:
    """Says on how many documents whom was scored, and whom a race stopped."""
    lines = []
    if found["stopped"]:
        lines.append(f"stopped     {found['stopped']} of those evaluated, before all search rows")
    counted_in = found.get("counted_in", DOCUMENTS)
    if counted_in == DOCUMENTS:
        kinds: Mapping[str, Sequence[Rows]] = {DOCUMENTS: KINDS}
    else:
        kinds = {counted_in: ("search",), DOCUMENTS: [one for one in KINDS if one != "search"]}
    for label, some in kinds.items():
        spent = [
            f"{role} "
            + " + ".join(f"{by_rows[kind]:,} {kind}" for kind in some if by_rows.get(kind))
            for role, by_rows in sorted(
                found["documents"].items(), key=lambda one: ROLES.index(one[0])
            )
            if any(by_rows.get(kind) for kind in some)
        ]
        if spent:
            lines.append(f"{label:<11} {'; '.join(spent)}")
    return lines


def _rows(one: Mapping[str, Any], counted_in: str) -> str:
    """Names the rows of an attempt: which block of them if they were cut, and how many."""
    text = f"{one['rows']} rows"
    text += f", block {one['block']}" if one["block"] else ""
    unit = counted_in if one["rows"] == "search" else DOCUMENTS
    return text + (f" ({one['documents']} {unit})" if one["documents"] else "")

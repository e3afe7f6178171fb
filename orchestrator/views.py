"""What the reading commands show, as data and as lines. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from orchestrator.storage.reader import CandidateRecord


def candidate(record: CandidateRecord) -> dict[str, Any]:
    """Returns a candidate as `shoal best --json` prints it."""
    return {
        "id": record.id,
        "name": record.name or None,
        "generation": record.generation,
        "fitness": record.fitness,
        "scores": {task: score.value for task, score in record.scores.items()},
        "stderr": {task: score.stderr for task, score in record.scores.items()},
        "test": {task: score.value for task, score in record.test.items()} or None,
        "parents": list(record.parents),
        "recipe": dict(record.recipe),
    }


def whole_candidate(record: CandidateRecord, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns all that is known of a candidate, as `shoal show --json` prints it."""
    return {
        **candidate(record),
        "role": record.role,
        "state": record.state,
        "operator": record.operator,
        "genome": list(record.genome) if record.genome is not None else None,
        "test_fitness": record.test_fitness,
        "attempts": attempts,
    }


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
    if found["driver"]:
        lines.append(f"driver      {found['driver']}")
    if best is not None:
        lines.append(
            f"best        {best['id']}, fitness {best['fitness']:.4f} ({_tasks(best['scores'])})"
        )
    return lines


def best_lines(found: dict[str, Any]) -> list[str]:
    """Returns the best candidates for people."""
    if not found["candidates"]:
        return [f"campaign {found['campaign']}: nothing measured yet"]
    return [
        f"{one['name'] or one['id']:<16} fitness {one['fitness']:.4f}  generation "
        f"{one['generation']}  {_tasks(one['scores'])}"
        + (f"  test: {_tasks(one['test'])}" if one["test"] else "")
        for one in found["candidates"]
    ]


def show_lines(found: dict[str, Any]) -> list[str]:
    """Returns a candidate for people."""
    recipe = found["recipe"]
    lines = [
        f"candidate   {found['id']}" + (f" ({found['name']})" if found["name"] else ""),
        f"state       {found['state']}, generation {found['generation']}, by {found['operator']}",
        f"parents     {', '.join(found['parents']) or '-'}",
        f"fitness     {found['fitness']}",
        f"scores      {_tasks(found['scores']) or '-'}",
        f"test        {_tasks(found['test'] or {}) or '-'}",
        f"recipe      {recipe['method']} of {', '.join(recipe['sources'])} over {recipe['base']}",
    ]
    for part in recipe["slices"]:
        for setting in part["settings"]:
            values = "  ".join(
                f"{name} {', '.join(f'{value:.4f}' for value in values)}"
                for name, values in setting["values"].items()
            )
            module = setting["filter"] or "rest"
            lines.append(f"  layers {part['start']}-{part['stop'] - 1} {module:<12} {values}")
    for one in found["attempts"]:
        took = f"{one['seconds']:.2f} s" if one["seconds"] is not None else "-"
        cause = f": {one['cause']}" if one["cause"] else ""
        lines.append(
            f"attempt     {one['number']} on {one['rows']} rows, {one['state']}, {took}, "
            f"{one['worker'] or '-'}{cause}"
        )
    return lines


def score_lines(found: dict[str, Any]) -> list[str]:
    """Returns a model's scores for people."""
    lines = [f"model    {found['model']}"]
    for rows in ("search", "test"):
        if found[rows] is not None:
            part = found[rows]
            lines.append(f"{rows:<8} fitness {part['fitness']:.4f} ({_tasks(part['scores'])})")
    return lines


def _tasks(scores: dict[str, float]) -> str:
    return ", ".join(f"{task} {value:.4f}" for task, value in scores.items())

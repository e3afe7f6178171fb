"""`shoal check`: all that can be known before a campaign is paid for."""

from __future__ import annotations

from typing import Any

from evaluators.base import Score
from orchestrator import assemble, config
from orchestrator.settings import CampaignSettings
from orchestrator.spaces.merge import Merge
from workers import prechecks
from workers.builders.settings import MergeSettings
from workers.models import library
from workers.prechecks import LineFacts, WeightFacts
from workers.recipe import MergeRecipe
from workers.run import best_device

#: Documents of each task on which models between the sources are scored.
_FEW_DOCUMENTS = 16


def check(settings: CampaignSettings, *, line: bool = False) -> dict[str, Any]:
    """Returns all that can be known before a campaign runs.

    Args:
        settings: The campaign.
        line: Whether models on the lines between the sources are scored, too, on few documents.

    Raises:
        CheckError: naming what is missing or does not fit.
    """
    parts = assemble.assemble(settings)
    weights, lines = _compare(parts, line=line)
    tasks = assemble.by_task(parts.facts)
    return {
        "campaign": settings.name,
        "space": dict(parts.space.describe()),
        "documents": {name: one.documents for name, one in tasks.items()},
        "counted_in": parts.facts.counted_in,
        "in_order": [name for name, one in tasks.items() if one.in_order],
        "blocks": _blocks(parts),
        "objectives": config.as_dict(settings.objectives),
        "warnings": list(parts.facts.warnings),
        "candidates": assemble.num_expected(parts),
        "needs": assemble.estimate(parts),
        "evaluators": assemble.check_resources(parts.cluster),
        "prechecks": None if weights is None else prechecks.as_dict(weights, lines),
        "comparison": [] if weights is None else prechecks.describe(weights, lines),
    }


def check_lines(found: dict[str, Any]) -> list[str]:
    """Returns what `check` found for people."""
    space, needs = found["space"], found["needs"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in space.get("genes_by_kind", {}).items())
    plain = set(found["documents"].values()) <= {1}
    documents = ", ".join(
        (task if plain else f"{task} {count}")
        + (f" {found['counted_in']}" if task in found["in_order"] else "")
        for task, count in found["documents"].items()
    )
    return [
        f"campaign    {found['campaign']}: all found, nothing run",
        *_model_lines(space),
        f"space       {space['genes']} genes" + (f": {kinds}" if kinds else ""),
        *(f"{label:<11} {text}" for label, text in space.get("summary", {}).items()),
        f"{'objectives' if plain else 'documents':<11} {documents}",
        *_block_lines(found["blocks"], found["counted_in"]),
        *_aim_lines(found["objectives"]),
        f"candidates  {found['candidates'] or 'as many as time allows'}",
        f"evaluators  {found['evaluators']}",
        *(_need_lines(needs) if "architecture" in space else []),
        *found["comparison"],
        *(f"warning     {text}" for text in found["warnings"]),
    ]


def _model_lines(space: dict[str, Any]) -> list[str]:
    """Says what is built, if anything is."""
    if "architecture" not in space:
        return []
    return [
        (
            f"models      {space['architecture']}, {space['layers']} layers, "
            f"{space['parameters']:,} parameters, {space['dtype']}, "
            f"vocabulary {space['vocabulary']}"
        )
    ]


def _need_lines(needs: dict[str, int]) -> list[str]:
    """Says what building takes."""
    memory, disk = needs["memory_per_evaluator"], needs["disk"]
    return [
        f"memory      about {_size(memory)} an evaluator of {_size(needs['memory'])}",
        f"disk        about {_size(disk)} of {_size(needs['disk_free'])} free",
    ]


def _aim_lines(aims: dict[str, Any] | None) -> list[str]:
    """Says what is aimed at, where that is more than the fitness."""
    if aims is None:
        return []
    of = f" of {', '.join(aims['of'])}" if aims["of"] else ""
    kept = [f"constraints {'; '.join(aims['constraints'])}"] if aims["constraints"] else []
    return [f"aim         {aims['kind']}{of}", *kept]


def _block_lines(blocks: dict[str, list[int]], counted_in: str) -> list[str]:
    """Says how the search rows are cut."""
    lines = []
    if len(blocks.get("search", ())) > 1:
        sizes = ", ".join(map(str, blocks["search"]))
        lines.append(f"blocks      {sizes} {counted_in}")
    if blocks.get("fresh"):
        rounds, size = len(blocks["fresh"]), blocks["fresh"][0]
        lines.append(f"fresh rows  {rounds} rounds of {size} documents")
    return lines


def _compare(
    parts: assemble.Parts, *, line: bool
) -> tuple[WeightFacts | None, tuple[LineFacts, ...]]:
    """Returns how the models of a merge lie to each other; None for other spaces."""
    space = parts.settings.space
    if not isinstance(space, Merge):
        return None, ()
    with assemble.about("space"):
        weights = prechecks.compare(space.base, space.models, space.policy)
        if not line:
            return weights, ()
        if space.tokenizer is not None:
            raise ValueError("tokenizer: lines are for models of one vocabulary; leave out --line")
        return weights, _walk(parts, space)


def _walk(parts: assemble.Parts, space: Merge) -> tuple[LineFacts, ...]:
    """Scores five models on each line."""
    facts = library.inspect(space.base, space.policy)
    dtype = facts.dtype if space.dtype == "auto" else space.dtype
    settings = MergeSettings(base=space.base, dtype=dtype, policy=space.policy)
    builder = settings.open(best_device())
    evaluator = parts.settings.evaluate.open(builder.resident)
    tasks = parts.facts.tasks["search"]
    documents = {
        name: tuple(range(min(_FEW_DOCUMENTS, one.documents))) for name, one in tasks.items()
    }

    def score(recipe: MergeRecipe) -> Score:
        builder.build(recipe)
        return evaluator.evaluate("search", documents=documents)

    return prechecks.walk(
        prechecks.lines_between(space.base, space.models),
        score,
        base=space.base,
        num_layers=facts.num_layers,
        dtype=dtype,
    )


def _blocks(parts: assemble.Parts) -> dict[str, Any]:
    """Returns how the search rows are cut, in documents; empty where they are not."""
    regime = parts.campaign.regime
    if regime.layout is None:
        return {}
    return {
        rows: [sum(map(len, one.values())) for one in blocks]
        for rows, blocks in (("search", regime.layout.search), ("fresh", regime.layout.fresh))
    }


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"

"""What the longer commands do, without the command line around it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.executor import ExecutorError
from cluster.provenance import versions
from evaluators.base import Rows
from orchestrator import assemble, config, exit_codes, report
from orchestrator import export as exports
from orchestrator.assemble import Parts
from orchestrator.campaign import State
from orchestrator.loop import Driver, Interrupted
from orchestrator.progress import ProgressView
from orchestrator.settings import CampaignSettings
from orchestrator.spaces.merge import Merge
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import Store
from workers import library
from workers.library import ModelPolicy
from workers.recipe import MergeRecipe, plain_copy
from workers.run import best_device


def check(settings: CampaignSettings) -> dict[str, Any]:
    """Returns all that can be known before a campaign runs.

    Raises:
        CheckError: naming what is missing or does not fit.
    """
    parts = assemble.assemble(settings)
    return {
        "campaign": settings.name,
        "space": dict(parts.space.describe()),
        "documents": dict(parts.facts.documents),
        "candidates": assemble.num_expected(parts),
        "needs": assemble.estimate(parts),
        "evaluators": assemble.check_resources(settings.cluster),
    }


def check_lines(found: dict[str, Any]) -> list[str]:
    """Returns what `check` found for people."""
    space, needs = found["space"], found["needs"]
    groups = ", ".join(space["layer_groups"])
    documents = ", ".join(f"{task} {count}" for task, count in found["documents"].items())
    return [
        f"campaign    {found['campaign']}: all found, nothing run",
        (
            f"models      {space['architecture']}, {space['layers']} layers, "
            f"{space['parameters']:,} parameters, {space['dtype']}, "
            f"vocabulary {space['vocabulary']}"
        ),
        f"space       {space['genes']} genes; layer groups {groups}",
        f"documents   {documents}",
        f"candidates  {found['candidates'] or 'as many as time allows'}",
        f"evaluators  {found['evaluators']}",
        (
            f"memory      about {_size(needs['memory_per_evaluator'])} an evaluator of "
            f"{_size(needs['memory'])}"
        ),
        f"disk        about {_size(needs['disk'])} of {_size(needs['disk_free'])} free",
    ]


def run(settings: CampaignSettings, *, as_json: bool) -> int:
    """Runs a campaign to its end and writes its result; returns the exit code."""
    parts = assemble.assemble(settings)
    assemble.estimate(parts)
    assemble.check_resources(settings.cluster)
    with Store(settings.store, settings.name) as store:
        known = store.load()
        if known is not None:
            changed = assemble.differences(known.search_settings, parts.search_settings)
            if changed:
                _say(
                    f"shoal: campaign {settings.name!r} is in {settings.store} with another "
                    "search; give this one another name, or undo:\n  " + "\n  ".join(changed)
                )
                return exit_codes.CHANGED_SEARCH
            store.reopen(config.as_dict(settings))
        else:
            store.create(config.as_dict(settings), parts.search_settings, versions())
        return _drive(parts, store, known.elapsed_s if known else 0.0, as_json)


def export(
    reader: Reader, name: str, candidate: str, folder: Path, *, recipe_only: bool, force: bool
) -> Path:
    """Writes a candidate's model folder, or only its recipe; returns what was written.

    Raises:
        ExportError: if the folder holds something already.
    """
    record = reader.candidate(name, candidate)
    settings = config.from_dict(reader.settings(name), origin=f"campaign {name}")
    recipe = MergeRecipe.from_dict(record.recipe)
    if recipe_only:
        exports.refuse_used(folder, replace=force)
        exports.write_recipe(recipe, folder / "recipe.yaml")
        return folder / "recipe.yaml"
    result = report.collect(reader, settings)
    card = "" if result is None else report.card(result, record, str(folder))
    exports.write_folder(recipe, _policy(settings), folder, card=card, replace=force)
    return folder


def merge(path: Path, folder: Path, policy: ModelPolicy, *, seed: int, force: bool) -> None:
    """Builds a model from a recipe file.

    Raises:
        ValueError: if the recipe or its models cannot be used.
    """

    def facts(model: str) -> tuple[int, str]:
        found = library.inspect(model, policy)
        return found.num_layers, found.dtype

    exports.refuse_used(folder, replace=force)
    recipe = exports.read_recipe(path, facts)
    recipe = replace(recipe, seed=seed) if path.suffix != ".json" else recipe
    base = library.inspect(recipe.base, policy)
    library.check_family(base, [library.inspect(source, policy) for source in recipe.sources])
    models = ", ".join(f"`{source}`" for source in recipe.sources)
    card = f"# {folder.name}\n\nA `{recipe.method}` merge of {models} over `{recipe.base}`.\n"
    with assemble.about(""):
        exports.write_folder(recipe, policy, folder, card=card, replace=force)


def evaluate(model: str, settings: CampaignSettings) -> dict[str, Any]:
    """Returns a model's scores on the campaign's search and test rows.

    Raises:
        CheckError: if the model or the tasks cannot be used.
    """
    with assemble.about(""):
        policy = _policy(settings)
        facts = library.inspect(model, policy)
        wanted = settings.space.dtype if isinstance(settings.space, Merge) else "auto"
        dtype = facts.dtype if wanted == "auto" else wanted
        settings.evaluate.check()
        from workers.builders.settings import MergeSettings

        builder = MergeSettings(base=model, dtype=dtype, policy=policy).open(best_device())
        language = builder.build(
            plain_copy(model, base=model, num_layers=facts.num_layers, dtype=dtype)
        )
        evaluator = settings.evaluate.open(language)
        kinds: tuple[Rows, ...] = ("search", "test")
        found: dict[str, Any] = {"model": model}
        for rows in kinds:
            found[rows] = None
            if rows == "search" or settings.evaluate.tests:
                score = evaluator.evaluate(rows)
                found[rows] = {
                    "fitness": score.fitness,
                    "scores": report.values(score.tasks),
                    "stderr": {task: one.stderr for task, one in score.tasks.items()},
                }
        return found


def _drive(parts: Parts, store: Store, elapsed_s: float, as_json: bool) -> int:
    settings = parts.settings
    again = f"shoal resume {settings.name} --store {settings.store}"
    view = ProgressView(settings.name, assemble.num_expected(parts))
    driver = Driver(
        campaign=parts.campaign,
        store=store,
        open_executor=parts.open_executor,
        listener=view,
        hours=settings.budget.hours,
        elapsed_before_s=elapsed_s,
    )
    try:
        state = driver.run()
    except Interrupted as stop:
        view.close()
        store.end("interrupted", str(stop), driver.elapsed_s())
        _say(f"{settings.name}: stopped by {stop}; go on with: {again}")
        return exit_codes.TERMINATED if str(stop) == "SIGTERM" else exit_codes.INTERRUPTED
    except (ExecutorError, KeyboardInterrupt) as error:
        view.close()
        store.end("interrupted", f"{type(error).__name__}: {error}", driver.elapsed_s())
        _say(f"shoal: {error}\n{settings.name}: go on with: {again}")
        return (
            exit_codes.INTERRUPTED if isinstance(error, KeyboardInterrupt) else exit_codes.OUR_FAULT
        )
    finally:
        view.close()
    return _finish(parts, store, state, driver.elapsed_s(), as_json)


def _finish(parts: Parts, store: Store, state: State, elapsed_s: float, as_json: bool) -> int:
    settings = parts.settings
    failed = state.stop == "failures"
    store.end("stopped" if failed else "finished", state.stop, elapsed_s)
    reader = Reader(settings.store)
    if failed:
        causes = "\n".join(
            f"  {count}x {cause}" for cause, count in reader.failures(settings.name, 3)
        )
        _say(f"shoal: {state.num_failed} candidates failed, too many to go on:\n{causes}")
        return exit_codes.TOO_MANY_FAILURES
    result = report.collect(reader, settings)
    if result is None:
        _say(f"shoal: the budget of {settings.name!r} ended with no candidate measured")
        return exit_codes.NOTHING_MEASURED
    _write(reader, result)
    if as_json:
        sys.stdout.write(json.dumps(report.as_json(result)) + "\n")
    else:
        _print_result(result)
    return exit_codes.OK


def _write(reader: Reader, result: report.Result) -> None:
    """Writes the output folder: best model, recipe, report and picture."""
    settings = result.settings
    folder = Path(settings.output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = MergeRecipe.from_dict(result.winner.recipe)
    card = report.card(result, result.winner, str(folder / "best"))
    exports.write_folder(recipe, _policy(settings), folder / "best", card=card, replace=True)
    exports.write_recipe(recipe, folder / "recipe.yaml")
    references = reader.references(settings.name)
    report.draw(reader.history(settings.name), references, folder / "fitness.png")
    (folder / "report.md").write_text(report.markdown(result, "fitness.png"), encoding="utf-8")


def _print_result(result: report.Result) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"campaign {result.settings.name}", title_justify="left")
    for index, column in enumerate(report.header(result)):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in report.rows(result):
        table.add_row(*row)
    # A pipe has no width of its own; a table folded to 80 columns could not be read.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)
    folder = result.settings.output_folder
    console.print(report.verdict(result), soft_wrap=True)
    console.print(f"model: {folder}/best  report: {folder}/report.md", soft_wrap=True)


def _policy(settings: CampaignSettings) -> ModelPolicy:
    space = settings.space
    return space.policy if isinstance(space, Merge) else ModelPolicy()


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")

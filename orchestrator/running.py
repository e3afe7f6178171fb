"""Runs a campaign from its settings to its report: new, resumed, or forked from another."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.executor import ExecutorError
from cluster.provenance import versions
from orchestrator import assemble, config
from orchestrator.assemble import CheckError, Parts
from orchestrator.campaign.judging import references_known
from orchestrator.campaign.state import State
from orchestrator.command_line import exit_codes
from orchestrator.command_line.progress import ProgressView
from orchestrator.exporting import candidate_folder
from orchestrator.loop import Driver, Interrupted, MismatchError, StopRequested
from orchestrator.measurement.estimator import UnfitValuesError
from orchestrator.reporting import archive_picture, archives, curves, front, picture, report
from orchestrator.reporting import result as results
from orchestrator.reporting import result_tables as tables
from orchestrator.settings import CampaignSettings
from orchestrator.storage.base import (
    CampaignRecord,
    LeaseLostError,
    NewCampaign,
    StoreError,
    StoreFaultError,
)
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore


def run(
    settings: CampaignSettings,
    *,
    as_json: bool,
    fork: str | None = None,
    from_generation: int | None = None,
) -> int:
    """Runs a campaign to its end and writes its result; returns the exit code.

    With `fork`, runs a campaign of that name that has the history of `settings.name` up to a
    generation (the last complete one if none is given), and goes on by these settings.

    Raises:
        CheckError: naming what is missing or does not fit.
        StoreError: if the store cannot be used, or another driver runs the campaign.
    """
    ancestor = settings.name
    if fork is not None:
        settings = _named(settings, fork)
    elif from_generation is not None:
        raise CheckError("--from-generation says where a --fork begins; name the fork, too")
    parts = assemble.assemble(settings)  # all that can be refused, before anything is made
    assemble.estimate(parts)
    assemble.check_resources(parts.cluster)
    with SqlStore(settings.store, settings.name) as store:
        known = store.load()
        if fork is not None:
            known = _forked(known, parts, store, ancestor, from_generation)
            if known is None:
                return exit_codes.CHANGED_SEARCH
        if known is None:
            store.create(_new(settings, parts))
            return _drive(parts, store, 0.0, as_json)
        if known.history:
            parts = assemble.assemble(settings, known.history)
        changed = assemble.changed_search(known.search_settings, parts.search_settings)
        if changed:
            measure = assemble.changed_measure(known.search_settings, parts.search_settings)
            hint = "" if measure else ", or branch off with --fork NEW"
            _refuse(settings, "with another search", changed, hint)
            return exit_codes.CHANGED_SEARCH
        known = store.reopen(config.as_dict(settings))
        return _drive(parts, store, known.elapsed_s, as_json)


def _named(settings: CampaignSettings, fork: str) -> CampaignSettings:
    """Returns the fork's settings: the ancestor's output stays the ancestor's."""
    try:
        found = Reader(settings.store).settings(settings.name)
    except StoreError as error:
        raise StoreError(f"no campaign {settings.name!r} to fork from: {error}") from error
    shared = found.get("output") == settings.output
    with assemble.about("name"):
        return replace(settings, name=fork, output=None if shared else settings.output)


def _forked(
    known: CampaignRecord | None,
    parts: Parts,
    store: SqlStore,
    ancestor: str,
    generation: int | None,
) -> CampaignRecord | None:
    """Returns the fork, made if it is not there; None if its ancestor means something else.

    Raises:
        StoreError: if the name is another campaign's, or a fork from another place.
    """
    if known is None:
        return _fork(parts, store, ancestor, generation)
    if known.forked_from is None or known.forked_from[0] != ancestor:
        raise StoreError(
            f"campaign {known.name!r} is there already and is no fork of {ancestor!r}; give the "
            "fork another name"
        )
    if generation not in (None, known.forked_from[1]):
        raise StoreError(
            f"campaign {known.name!r} was forked after generation {known.forked_from[1]}; for "
            f"generation {generation} give the fork another name"
        )
    return known


def _fork(
    parts: Parts, store: SqlStore, ancestor: str, generation: int | None
) -> CampaignRecord | None:
    settings = parts.settings
    with SqlStore(settings.store, ancestor) as old:
        found = old.load()
    assert found is not None, "the ancestor's settings were read before"
    changed = assemble.changed_measure(found.search_settings, parts.search_settings)
    if changed:
        named = replace(settings, name=ancestor)
        _refuse(named, "and cannot share its history with this", changed)
        return None
    point = store.fork_point(ancestor, generation)
    branch = assemble.branch_of(found.search_settings, point.until)
    store.fork(_new(settings, parts), found, point, [*_before(found.history, point.until), branch])
    return store.load()


def _before(history: Sequence[Mapping[str, Any]], until: int) -> list[Mapping[str, Any]]:
    return [{**one, "until": min(one["until"], until)} for one in history]


def _new(settings: CampaignSettings, parts: Parts) -> NewCampaign:
    return NewCampaign(
        settings=config.as_dict(settings),
        search_settings=parts.search_settings,
        seed=settings.seed,
        versions=versions(),
    )


def _refuse(settings: CampaignSettings, how: str, changed: Sequence[str], hint: str = "") -> None:
    _say(
        f"shoal: campaign {settings.name!r} is in {settings.store} {how}; give this one another "
        f"name{hint}, or undo:\n  " + "\n  ".join(changed)
    )


def _drive(parts: Parts, store: SqlStore, elapsed_s: float, as_json: bool) -> int:
    settings = parts.settings
    view = ProgressView(
        settings.name, assemble.num_expected(parts), counted_in=parts.facts.counted_in
    )
    reuse = settings.reuse and bool(parts.facts.identity)
    driver = Driver(
        campaign=parts.campaign,
        store=store,
        open_executor=parts.open_executor,
        listener=view,
        hours=settings.budget.hours,
        elapsed_before_s=elapsed_s,
        identify=parts.identify if reuse else None,
        search_settings=parts.search_settings,
        timeout_s=settings.cluster.timeout_s,
    )
    try:
        with _closing(view):
            state = driver.run()
    except (Interrupted, StopRequested) as stop:
        reason = str(stop) or "shoal stop"
        store.end("interrupted", reason, driver.elapsed_s())
        _say(f"{settings.name}: stopped by {reason}; go on with: {_again(settings)}")
        return exit_codes.TERMINATED if reason == "SIGTERM" else exit_codes.INTERRUPTED
    except (ExecutorError, KeyboardInterrupt) as error:
        store.end("interrupted", f"{type(error).__name__}: {error}", driver.elapsed_s())
        _say(f"shoal: {error}\n{settings.name}: go on with: {_again(settings)}")
        interrupted = isinstance(error, KeyboardInterrupt)
        return exit_codes.INTERRUPTED if interrupted else exit_codes.OUR_FAULT
    except MismatchError as error:
        store.end("interrupted", "another search", driver.elapsed_s())
        _say(f"shoal: {error}")
        return exit_codes.CHANGED_SEARCH
    except UnfitValuesError as error:
        store.end("interrupted", str(error), driver.elapsed_s())
        _say(f"shoal: {error}, and give the campaign another name")
        return exit_codes.USER_MISTAKE
    except (StoreFaultError, LeaseLostError) as error:
        _say(
            f"shoal: {error}\n{settings.name}: all that was recorded is kept; go on with: "
            f"{_again(settings)}"
        )
        return exit_codes.OUR_FAULT
    return _finish(parts, store, state, driver.elapsed_s(), as_json)


@contextmanager
def _closing(view: ProgressView) -> Iterator[None]:
    """Ends the display before anything else is said."""
    try:
        yield
    finally:
        view.close()


def _again(settings: CampaignSettings) -> str:
    return f"shoal resume {settings.name} --store {settings.store}"


def _finish(parts: Parts, store: SqlStore, state: State, elapsed_s: float, as_json: bool) -> int:
    settings = parts.settings
    failed = state.stop == "failures"
    store.end("stopped" if failed else "finished", state.stop, elapsed_s)
    reader = Reader(settings.store)
    if failed:
        causes = "\n".join(
            f"  {count}x {cause}" for cause, count in reader.failures(settings.name, 3)
        )
        known = references_known(parts.campaign.judge, state)
        why = "too many to go on" if known else "and with them what constraints refer to"
        _say(
            f"shoal: {state.num_failed} candidates failed, {why}:\n{causes}\n"
            f"mend the cause, then: shoal retry {settings.name} --failed --store {settings.store}"
        )
        return exit_codes.TOO_MANY_FAILURES
    result = results.collect(reader, settings)
    if result is None:
        _say(f"shoal: the budget of {settings.name!r} ended with no candidate measured")
        return exit_codes.NOTHING_MEASURED
    for path in _write(reader, result):
        store.add_artifact(result.winner.id, str(path), _sha256(path), path.stat().st_size)
    if as_json:
        sys.stdout.write(json.dumps(tables.as_json(result)) + "\n")
    else:
        _print_result(result)
    return exit_codes.OK


def _write(reader: Reader, result: results.Result) -> list[Path]:
    """Writes the output folder: the best, its recipe, report and picture; returns the files."""
    settings = result.settings
    folder = Path(settings.output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = candidate_folder.write_best(result)
    references = reader.references(settings.name)
    measure = "fitness on the search rows" if result.is_model else "fitness"
    history = reader.history(settings.name)
    picture.draw(history, references, folder / "fitness.png", measure=measure)
    if result.front is not None:
        front.draw(result.front, folder / front.PICTURE)
        files.append(folder / front.PICTURE)
    if result.curves is not None:
        curves.draw(result.curves, folder / curves.PICTURE)
        files.append(folder / curves.PICTURE)
    if result.archives is not None:
        archive_picture.draw(result.archives, folder / archives.PICTURE)
        files.append(folder / archives.PICTURE)
    (folder / "report.md").write_text(report.markdown(result, "fitness.png"), encoding="utf-8")
    return [folder / "report.md", folder / "fitness.png", *files]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print_result(result: results.Result) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"campaign {result.settings.name}", title_justify="left")
    for index, column in enumerate(tables.header(result)):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in tables.rows(result):
        table.add_row(*row)
    # A pipe has no width of its own; a table folded to 80 columns could not be read.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)
    if result.front is not None:
        members = Table(*front.header(result.front), title="Pareto front", title_justify="left")
        for row in front.rows(result.front):
            members.add_row(*row)
        console.print(members)
    folder = result.settings.output_folder
    for text in report.lines(result):
        console.print(text, soft_wrap=True, markup=False)
    console.print(f"best: {folder}/best  report: {folder}/report.md", soft_wrap=True)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")

"""The command line. stdout carries results, stderr everything else."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from orchestrator.command_line import exit_codes

if TYPE_CHECKING:
    from orchestrator.settings import CampaignSettings
    from orchestrator.storage.reader import Reader

app = typer.Typer(
    name="shoal",
    help="Evolve models: search merges with lm-eval on Ray, remember everything, resume, export.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(help="Campaign file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: key.key=value. Repeatable.")
]
StoreUrl = Annotated[
    str, typer.Option("--store", envvar="SHOAL_STORE", help="SQLite file or postgresql:// URL.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Name = Annotated[str, typer.Argument(help="Campaign.", show_default=False)]
AnyName = Annotated[str | None, typer.Argument(help="Campaign; the one started last if left out.")]
CandidateId = Annotated[
    str,
    typer.Argument(metavar="ID", help="Candidate's id, or a reference's name.", show_default=False),
]

_STORE = "runs/shoal.db"
#: Kinds of `search` that keep the best of each cell, and all that keep an archive.
_WITH_CELLS = ("cycle_qd", "map_elites")
_WITH_ARCHIVE = (*_WITH_CELLS, "natural_niches")

db = typer.Typer(help="Look after a store.", no_args_is_help=True)
app.add_typer(db, name="db")
ctm = typer.Typer(help="Look into Continuous Thought Machines.", no_args_is_help=True)
app.add_typer(ctm, name="ctm")


class TableFormat(StrEnum):
    """What a table can be written as."""

    parquet = "parquet"
    csv = "csv"
    optuna_journal = "optuna-journal"


class RowKind(StrEnum):
    """Kinds of a task's rows that can be looked at."""

    search = "search"
    selection = "selection"
    test = "test"


class UserMistakeError(Exception):
    """Something only the user can mend: one message, exit code 2."""


@app.command()
def init(
    template: Annotated[str, typer.Argument(help="Template.")] = "merge",
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")] = Path(
        "campaign.yaml"
    ),
) -> None:
    """Write a commented campaign file to start from."""
    from evaluators.registry import nearest

    folder = Path(__file__).parent / "templates"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if template not in known:
        raise UserMistakeError(f"unknown template {template!r}; {nearest(template, known)}")
    if output.exists():
        raise UserMistakeError(f"{output} exists already; name another file with -o")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text((folder / f"{template}.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    _say(f"wrote {output}; edit it, then: shoal check {output}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of campaign files, for editors."""
    from orchestrator import config

    _out(json.dumps(config.schema(), indent=2))


@app.command()
def check(
    file: File,
    overrides: Overrides = None,
    line: Annotated[
        bool,
        typer.Option(help="Also score five models on each line between the sources (minutes)."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find everything out that can be known before spending: files, tasks, models, resources."""
    from orchestrator.command_line import checking

    with _campaign(file, overrides) as settings:
        facts = checking.check(settings, line=line)
    _print(facts, as_json, checking.check_lines)


@app.command()
def run(
    file: File,
    overrides: Overrides = None,
    fork: Annotated[
        str | None,
        typer.Option(help="Start a new campaign of this name from the history of FILE's."),
    ] = None,
    from_generation: Annotated[
        int | None, typer.Option(help="Last generation that the fork shares.", min=0)
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a campaign, or go on where it stopped."""
    from orchestrator import running

    with _campaign(file, overrides) as settings:
        code = running.run(settings, as_json=as_json, fork=fork, from_generation=from_generation)
    raise typer.Exit(code)


@app.command()
def resume(name: Name, store: StoreUrl = _STORE, as_json: Json = False) -> None:
    """Go on with a campaign of the store."""
    from orchestrator import config, running

    stored = dict(_reader(store).settings(name))
    settings = config.from_dict({**stored, "store": store}, origin=f"campaign {name}")
    raise typer.Exit(running.run(settings, as_json=as_json))


@app.command()
def stop(
    name: Name,
    store: StoreUrl = _STORE,
    wait: Annotated[float, typer.Option(help="Seconds to wait for its end.", min=0)] = 60.0,
) -> None:
    """Ask a running campaign to keep what it has and end, wherever its driver runs."""
    from orchestrator.storage import upkeep

    _say(upkeep.stop(store, name, wait))


@app.command()
def retry(
    name: Name,
    candidates: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="These candidates only.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also those whose failure was held to be for good.")
    ] = False,
    store: StoreUrl = _STORE,
) -> None:
    """Give failed candidates one more attempt when the campaign is resumed."""
    from orchestrator.storage import upkeep

    _say(upkeep.retry(store, name, candidates or [], for_good=failed))


@app.command()
def export_table(
    name: Name,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    kind: Annotated[TableFormat, typer.Option("--format", help="Format.")] = TableFormat.parquet,
    documents: Annotated[
        bool, typer.Option(help="One row for each document that a candidate was scored on.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Replace the file.")] = False,
    store: StoreUrl = _STORE,
) -> None:
    """Write one row for each candidate: for pandas, spreadsheets, or Optuna's tools."""
    from orchestrator.exporting import tables

    write = tables.write_documents if documents else tables.write
    num = write(_reader(store), name, output, kind.value, force=force)
    _say(f"wrote {output}: {num} {'rows' if documents else 'candidates'}")


@app.command()
def status(name: AnyName = None, store: StoreUrl = _STORE, as_json: Json = False) -> None:
    """Show how far a campaign is."""
    from orchestrator.command_line import archive_lines, views

    reader = _reader(store)
    campaign = name or _last(reader)
    found = reader.status(campaign)
    found["archive"] = archive_lines.brief(_archive(reader, campaign, _WITH_CELLS))
    found["beside"] = views.beside(reader.winner(campaign), reader.references(campaign))
    _print(found, as_json, views.status_lines)


@app.command()
def best(
    name: AnyName = None,
    num: Annotated[int, typer.Option("-k", help="How many.", min=1)] = 1,
    front: Annotated[bool, typer.Option("--front", help="The whole Pareto front instead.")] = False,
    archive: Annotated[bool, typer.Option("--archive", help="The best of each niche.")] = False,
    store: StoreUrl = _STORE,
    as_json: Json = False,
) -> None:
    """Show the best candidates."""
    from orchestrator.command_line import archive_lines, views

    reader = _reader(store)
    campaign = name or _last(reader)
    if front:
        _print(_front(reader, campaign), as_json, views.front_lines)
        return
    if archive:
        cells = _archive(reader, campaign, _WITH_ARCHIVE)
        if cells is None:
            raise UserMistakeError(f"campaign {campaign!r} has no archive, or nothing in it yet")
        _print(cells, as_json, archive_lines.lines)
        return
    found = {
        "campaign": campaign,
        "candidates": [views.candidate(one) for one in reader.best(campaign, num)],
    }
    _print(found, as_json, views.best_lines)


@app.command()
def show(
    name: Name, candidate: CandidateId, store: StoreUrl = _STORE, as_json: Json = False
) -> None:
    """Show a candidate: genome, recipe, parents, attempts, scores."""
    from orchestrator.command_line import views

    reader = _reader(store)
    record = reader.candidate(name, candidate)
    found = views.whole_candidate(
        record,
        reader.attempts(name, record.id),
        counted_in=reader.counted_in(name),
        curve=reader.curves(name, record.id).get(record.id, ()),
    )
    _print(found, as_json, views.show_lines)


@app.command()
def export(
    name: Name,
    candidate: CandidateId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    recipe_only: Annotated[bool, typer.Option(help="Write only recipe.yaml.")] = False,
    force: Annotated[bool, typer.Option(help="Replace what is in DIR.")] = False,
    store: StoreUrl = _STORE,
) -> None:
    """Build a candidate into an ordinary Hugging Face model folder (its values, if no model)."""
    from orchestrator.command_line import commands

    written = commands.export(
        _reader(store), name, candidate, folder, recipe_only=recipe_only, force=force
    )
    _say(f"wrote {written}")


@app.command()
def merge(
    recipe: Annotated[
        Path, typer.Argument(help="mergekit-style YAML or recipe.json.", show_default=False)
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    seed: Annotated[int, typer.Option(help="Seed of random masks (DARE).", min=0)] = 0,
    allow_pickle: Annotated[bool, typer.Option(help="Read pickled weights.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code in model folders.")] = False,
    force: Annotated[bool, typer.Option(help="Replace what is in DIR.")] = False,
) -> None:
    """Build one model from a recipe, without evolution, tensor by tensor."""
    from orchestrator.command_line import commands
    from workers.models.library import ModelPolicy

    policy = ModelPolicy(allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    _say(commands.merge(recipe, folder, policy, seed=seed, force=force))


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Method; all of them if left out.")] = None,
    as_json: Json = False,
) -> None:
    """List the merge methods: parameters, ranges, options and source."""
    from evaluators.registry import UnknownNameError
    from orchestrator.command_line import method_table

    try:
        found = method_table.collect(name)
    except UnknownNameError as error:
        raise typer.BadParameter(str(error)) from error
    _print(found, as_json, method_table.lines)


@app.command(name="eval")
def evaluate(
    model: Annotated[
        str, typer.Argument(help="Model folder or hub id; or values.json.", show_default=False)
    ],
    file: File,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Score any model as the campaign would."""
    from orchestrator.command_line import commands, views

    with _campaign(file, overrides) as settings:
        found = commands.evaluate(model, settings)
    _print(found, as_json, views.score_lines)


@db.command(name="check")
def db_check(store: StoreUrl = _STORE, as_json: Json = False) -> None:
    """Look for anything that cannot be true."""
    from orchestrator.storage import upkeep

    found = upkeep.check(store)
    _print(found, as_json, lambda facts: [*facts["problems"], facts["verdict"]])
    raise typer.Exit(exit_codes.OUR_FAULT if found["problems"] else exit_codes.OK)


@db.command(name="upgrade")
def db_upgrade(store: StoreUrl = _STORE) -> None:
    """Bring a store of an earlier version up to date, after a copy."""
    from orchestrator.storage import upkeep

    _say(upkeep.upgrade(store))


@db.command(name="backup")
def db_backup(
    file: Annotated[Path, typer.Argument(help="SQLite file to write.", show_default=False)],
    store: StoreUrl = _STORE,
) -> None:
    """Copy a store, even while campaigns run, into an SQLite file."""
    from orchestrator.storage.migrate import backup

    _say(f"wrote {backup(store, file)}")


@db.command(name="vacuum")
def db_vacuum(store: StoreUrl = _STORE) -> None:
    """Give back the space of what was deleted; no campaign may be running."""
    from orchestrator.storage import upkeep

    _say(upkeep.vacuum(store))


@ctm.command(name="think")
def ctm_think(
    model: Annotated[Path, typer.Argument(help="Folder of a machine.", show_default=False)],
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.")],
    task: Annotated[
        str | None, typer.Option(help="Task that it was trained on (parity, maze, digits, ...).")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="The task's settings: key=value. Repeatable.")
    ] = None,
    rows: Annotated[RowKind, typer.Option(help="The task's rows.")] = RowKind.test,
    sample: Annotated[int, typer.Option(help="Which of these rows, from 0.", min=0)] = 0,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--input", help="Instead: picture (.png, .npy) or row (.json); one for each phase."
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Mazes: ask again from where the moves end, so often at most.",
            min=1,
            show_default="1, or as often as it takes in mazes larger than those trained on",
        ),
    ] = None,
    larger: Annotated[
        list[int] | None,
        typer.Option(
            metavar="EDGE", help="Mazes: how many of this edge it solves in rounds. Repeatable."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace what is in DIR.")] = False,
) -> None:
    """Show how a machine thinks about a sample: a page, a film, and figures over all rows."""
    from orchestrator.command_line import ctm_commands

    subject = ctm_commands.Subject(
        task=task, settings=settings or (), rows=rows.value, sample=sample, files=files or (),
        rounds=rounds, larger=larger or (),
    )  # fmt: skip
    _say(ctm_commands.think(model, subject, folder, force=force))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and turns failures into exit codes."""
    signal.signal(signal.SIGTERM, _terminated)
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars; read when tqdm is imported
    try:
        code = app(args=arguments, standalone_mode=False)
    except typer.Exit as done:
        code = done.exit_code
    except typer.Abort:
        code = exit_codes.INTERRUPTED
    except KeyboardInterrupt:
        code = exit_codes.INTERRUPTED
    except Exception as error:  # noqa: BLE001  (what is not explained is raised again)
        code = _explain(error)
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else exit_codes.OK)


def _terminated(signum: int, frame: object) -> NoReturn:
    """Ends before anything has begun; a running campaign has handlers of its own."""
    del signum, frame
    sys.exit(exit_codes.TERMINATED)


def _explain(error: Exception) -> int:
    """Prints a user's mistake in one message; lets our own show where it happened."""
    from orchestrator.exporting.model_folder import ExportError
    from orchestrator.mergekit import RecipeError
    from orchestrator.storage.base import LeaseLostError, StoreError, StoreFaultError
    from orchestrator.yaml_file import YamlError
    from workers.models.library import ModelError

    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if callable(show) and isinstance(code, int):  # a mistake in the command line, explained by it
        show()
        return code
    mistakes = (UserMistakeError, ExportError, RecipeError, StoreError, YamlError, ModelError)
    if isinstance(error, mistakes) or type(error).__name__ in ("ConfigError", "CheckError"):
        _say(f"shoal: {error}")
        return exit_codes.USER_MISTAKE
    if isinstance(error, (StoreFaultError, LeaseLostError)):
        _say(f"shoal: {error}")
        return exit_codes.OUR_FAULT
    if type(error).__module__.startswith("sqlalchemy.exc"):
        cause = getattr(error, "orig", error)
        _say(f"shoal: the store cannot be read: {cause}; `shoal db check` says more")
        return exit_codes.OUR_FAULT
    raise error


@contextmanager
def _campaign(file: Path, overrides: list[str] | None) -> Iterator[CampaignSettings]:
    """Reads a campaign file; what is found out about it later is shown at its place in it."""
    from orchestrator import config
    from orchestrator.assemble import CheckError

    loaded = config.load_file(file, overrides or [])
    try:
        yield loaded.settings
    except CheckError as error:
        raise loaded.locate(error.section, str(error)) from error


def _reader(store: str) -> Reader:
    from orchestrator.storage.reader import Reader

    return Reader(store)


def _last(reader: Reader) -> str:
    names = reader.names()
    if not names:
        raise UserMistakeError("the store has no campaign yet; `shoal run FILE` starts one")
    return names[0]


def _archive(reader: Reader, campaign: str, kinds: Sequence[str]) -> dict[str, Any] | None:
    """Returns a campaign's archives; None if its algorithm is another, or nothing is in them."""
    stored = reader.settings(campaign)
    if stored.get("search", {}).get("kind") not in kinds:
        return None
    from orchestrator import config
    from orchestrator.command_line import archive_lines

    return archive_lines.collect(reader, config.from_dict(stored, origin=f"campaign {campaign}"))


def _front(reader: Reader, campaign: str) -> dict[str, Any]:
    """Returns a campaign's Pareto front, which only some campaigns have."""
    from orchestrator import config
    from orchestrator.command_line import views
    from orchestrator.reporting import front as fronts

    settings = config.from_dict(reader.settings(campaign), origin=f"campaign {campaign}")
    if settings.objectives is None or settings.objectives.kind != "pareto":
        raise UserMistakeError(
            f"campaign {campaign!r} has no Pareto front: its objectives are not of kind pareto"
        )
    found = fronts.collect(reader, settings)
    members = {"objectives": [], "candidates": []} if found is None else views.front(found)
    return {"campaign": campaign, **members}


def _print(
    found: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]
) -> None:
    _out(json.dumps(found) if as_json else "\n".join(lines(found)))


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()

"""The command line. stdout carries results, stderr everything else."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from orchestrator import exit_codes

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
def check(file: File, overrides: Overrides = None, as_json: Json = False) -> None:
    """Find everything out that can be known before spending; runs nothing."""
    from orchestrator import commands

    with _campaign(file, overrides) as settings:
        facts = commands.check(settings)
    _print(facts, as_json, commands.check_lines)


@app.command()
def run(file: File, overrides: Overrides = None, as_json: Json = False) -> None:
    """Start a campaign, or go on where it stopped."""
    with _campaign(file, overrides) as settings:
        _run(settings, as_json)


@app.command()
def resume(name: Name, store: StoreUrl = _STORE, as_json: Json = False) -> None:
    """Go on with a campaign of the store."""
    from orchestrator import config

    stored = dict(_reader(store).settings(name))
    settings = config.from_dict({**stored, "store": store}, origin=f"campaign {name}")
    _run(settings, as_json)


@app.command()
def status(name: AnyName = None, store: StoreUrl = _STORE, as_json: Json = False) -> None:
    """Show how far a campaign is."""
    from orchestrator import views

    reader = _reader(store)
    found = reader.status(name or _last(reader))
    _print(found, as_json, views.status_lines)


@app.command()
def best(
    name: AnyName = None,
    num: Annotated[int, typer.Option("-k", help="How many.", min=1)] = 1,
    store: StoreUrl = _STORE,
    as_json: Json = False,
) -> None:
    """Show the best candidates."""
    from orchestrator import views

    reader = _reader(store)
    campaign = name or _last(reader)
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
    from orchestrator import views

    reader = _reader(store)
    record = reader.candidate(name, candidate)
    found = views.whole_candidate(record, reader.attempts(name, record.id))
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
    """Build a candidate into an ordinary Hugging Face model folder."""
    from orchestrator import commands

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
    """Build one model from a recipe, without evolution."""
    from orchestrator import commands
    from workers.library import ModelPolicy

    policy = ModelPolicy(allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    commands.merge(recipe, folder, policy, seed=seed, force=force)
    _say(f"wrote {folder}")


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.", show_default=False)],
    file: File,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Score any model as the campaign would."""
    from orchestrator import commands, views

    with _campaign(file, overrides) as settings:
        found = commands.evaluate(model, settings)
    _print(found, as_json, views.score_lines)


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
    import click

    from orchestrator.export import ExportError
    from orchestrator.mergekit import RecipeError
    from orchestrator.storage.engine import StoreError
    from orchestrator.yaml_file import YamlError
    from workers.library import ModelError

    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    mistakes = (UserMistakeError, ExportError, RecipeError, StoreError, YamlError, ModelError)
    if isinstance(error, mistakes) or type(error).__name__ in ("ConfigError", "CheckError"):
        _say(f"shoal: {error}")
        return exit_codes.USER_MISTAKE
    raise error


def _run(settings: CampaignSettings, as_json: bool) -> None:
    from orchestrator import commands

    raise typer.Exit(commands.run(settings, as_json=as_json))


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

"""A store is looked after and taken elsewhere by the command line."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pandas as pd
import pytest

pytestmark = pytest.mark.usefixtures("in_root")


@pytest.fixture(scope="module")
def folder(shoal, tmp_path_factory):
    """A finished campaign."""
    made = tmp_path_factory.mktemp("store")
    ended = shoal.call("run", *shoal.patient(made))
    assert ended.code == 0, ended.stderr
    return made


@pytest.fixture
def store(folder, tmp_path):
    """A copy of its store that may be harmed."""
    with (
        closing(sqlite3.connect(folder / "shoal.db")) as source,
        closing(sqlite3.connect(tmp_path / "shoal.db")) as target,
    ):
        source.backup(target)
    return tmp_path / "shoal.db"


def check(shoal, store):
    return shoal.call("db", "check", "--store", store, "--json")


def test_a_healthy_store_has_no_problems(shoal, store):
    ended = check(shoal, store)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.data["problems"] == []
    assert (ended.data["campaigns"], ended.data["candidates"]) == (1, 16)
    said = shoal.call("db", "check", "--store", store)
    assert said.code == 0
    assert said.stdout.endswith("16 candidates: no problems\n")


DAMAGES = {
    "a counter": ("UPDATE campaign SET num_scored = num_scored + 1",
                  "num_scored is 17, its attempts add up to 16"),
    "a place": ("UPDATE campaign SET sequence = sequence + 1", "places given"),
    "a score": ("DELETE FROM score WHERE candidate = 's3' AND rows = 'search'",
                "s3 is scored on its search rows without the score of any task"),
    "a recipe": ("UPDATE candidate SET recipe = x'00' WHERE id = 's3'", "s3 cannot be read"),
    "another recipe": (
        ("UPDATE candidate SET recipe = (SELECT recipe FROM candidate WHERE id = 's2')"
         " WHERE id = 's3'"),
        "the recipe of s3 is not the one that was recorded"),
    "a genome": ("UPDATE candidate SET genome = x'000102' WHERE id = 's3'", "s3 cannot be read"),
    "a candidate": ("DELETE FROM candidate WHERE id = 's3'", "refers to nothing in candidate"),
    "results": ("UPDATE score SET per_document = x'7A' WHERE candidate = 's3'",
                "results of s3 on weights cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_found_and_named(shoal, store, what):
    statement, hint = DAMAGES[what]
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute(statement).rowcount > 0
        connection.commit()
    ended = check(shoal, store)
    assert ended.code == 1
    assert any(hint in problem for problem in ended.data["problems"]), ended.data
    said = shoal.call("db", "check", "--store", store)
    assert said.code == 1
    assert hint in said.stdout


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_a_truncated_file_is_a_problem_and_no_traceback(shoal, store, kept):
    size = store.stat().st_size
    with store.open("r+b") as file:
        file.truncate(int(size * kept))
    ended = shoal.call("db", "check", "--store", store)
    assert ended.code == 1
    assert "malformed" in ended.stdout + ended.stderr


@pytest.mark.parametrize(("first", "step", "offset", "size"), [(4, 5, 0, 512), (5, 1, 4050, 30)])
def test_pages_that_were_overwritten_are_a_problem_and_no_traceback(
    shoal, store, first, step, offset, size
):
    data = bytearray(store.read_bytes())
    for page in range(first, len(data) // 4096, step):
        data[page * 4096 + offset : page * 4096 + offset + size] = b"\xff" * size
    store.write_bytes(data)
    ended = shoal.call("db", "check", "--store", store)
    assert ended.code == 1
    assert ended.stdout + ended.stderr


@pytest.mark.parametrize("command", ["check", "vacuum", "upgrade", "backup"])
def test_what_is_no_store_is_refused_and_not_touched(shoal, tmp_path, command):
    (tmp_path / "text").write_text("no database at all, " * 500)
    with closing(sqlite3.connect(tmp_path / "foreign")) as connection:
        connection.execute("CREATE TABLE campaign_of_others (id)")
    (tmp_path / "empty").touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in (*before, "missing"):
        words = ["db", command, *(["out"] if command == "backup" else [])]
        ended = shoal.call(*words, "--store", tmp_path / name)
        assert (ended.code, ended.stdout) == (2, ""), (name, ended)
        assert ended.stderr.startswith("shoal: "), name
        assert ended.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_backup_is_a_store_of_its_own(shoal, folder, store, tmp_path):
    ended = shoal.call("db", "backup", tmp_path / "copy.db", "--store", store)
    assert ended.code == 0
    assert ended.stderr == f"wrote {tmp_path}/copy.db\n"
    assert check(shoal, tmp_path / "copy.db").data == check(shoal, store).data
    ours, theirs = (
        shoal.call("best", "--store", one, "--json").data for one in (store, tmp_path / "copy.db")
    )
    assert ours == theirs
    again = shoal.call("db", "backup", tmp_path / "copy.db", "--store", store)
    assert again.code == 2
    assert "is there already" in again.stderr


@pytest.mark.slow
def test_a_backup_of_a_running_campaign_goes_on_to_the_same_search(shoal, folder, tmp_path):
    process = shoal.spawn("run", *shoal.patient(tmp_path, address="pool", seconds=0.2))
    store, copies = tmp_path / "shoal.db", tmp_path / "copy"
    copies.mkdir()
    shoal.until_measured(process, store, 5)
    ended = shoal.call("db", "backup", copies / "shoal.db", "--store", store)
    assert ended.code == 0, ended.stderr
    assert process.poll() is None
    recorded = shoal.measured(copies / "shoal.db")
    assert 5 <= recorded < 22
    found = check(shoal, copies / "shoal.db")
    assert (found.code, found.data["problems"]) == (0, [])
    status = shoal.call("status", "--store", copies / "shoal.db", "--json").data
    assert (status["state"], status["in_flight"]) == ("interrupted", 0)
    resumed = shoal.call("resume", "quickstart", "--store", copies / "shoal.db")
    assert resumed.code == 0, resumed.stderr

    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert shoal.search(copies) == shoal.search(tmp_path)


def test_vacuum_gives_space_back_and_keeps_everything(shoal, folder, store, tmp_path):
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("CREATE TABLE junk AS SELECT randomblob(1000000) AS it")
        connection.execute("DROP TABLE junk")
        connection.commit()
    before = store.stat().st_size
    ended = shoal.call("db", "vacuum", "--store", store)
    assert ended.code == 0, ended.stderr
    assert store.stat().st_size < before - 900_000
    assert f"{store.stat().st_size:,} bytes" in ended.stderr
    assert shoal.search(tmp_path) == shoal.search(folder)


def test_upgrading_what_is_up_to_date_changes_nothing(shoal, store):
    before = store.read_bytes()
    ended = shoal.call("db", "upgrade", "--store", store)
    assert (ended.code, ended.stdout) == (0, "")
    assert ended.stderr == f"{store}: up to date already\n"
    assert store.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["stat"], "No such command 'stat'"),
        (["run"], "Missing argument"),
        (["stop"], "Missing argument"),
        (["db", "nonsense"], "No such command 'nonsense'"),
        (["db", "backup"], "Missing argument"),
        (["status", "--nonsense"], "No such option"),
        (["export-table", "quickstart"], "Missing option"),
        (["export-table", "quickstart", "-o", "x", "--format", "xml"], "'xml' is not one of"),
        (["best", "-k", "0"], "Invalid value for '-k'"),
        (["best", "-k", "many"], "Invalid value for '-k'"),
    ],
)
def test_wrong_usage_is_explained_without_a_traceback(shoal, words, hint):
    ended = shoal.call(*words)
    assert (ended.code, ended.stdout) == (2, "")
    assert hint in ended.stderr
    assert "Usage: " in ended.stderr
    assert "Traceback" not in ended.stderr


FORMATS = {"parquet": pd.read_parquet, "csv": pd.read_csv, "optuna-journal": None}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_campaign_is_written_as_a_table(shoal, folder, tmp_path, kind):
    path = tmp_path / "deep" / f"candidates.{kind}"
    words = ("export-table", "quickstart", "-o", path, "--store", f"{folder}/shoal.db")
    ended = shoal.call(*words, "--format", kind)
    assert ended.code == 0, ended.stderr
    num = 12 if kind == "optuna-journal" else 16
    assert ended.stderr == f"wrote {path}: {num} candidates\n"
    best = shoal.call("best", "quickstart", "--store", f"{folder}/shoal.db", "--json").data
    if FORMATS[kind] is not None:
        frame = FORMATS[kind](path).set_index("id")
        one = best["candidates"][0]
        assert frame.loc[one["id"], "fitness"] == one["fitness"]
        assert frame.loc[one["id"], "search/weights"] == one["scores"]["weights"]
        genome = shoal.call("show", "quickstart", "s1", *words[-2:], "--json").data["genome"]
        genes = [name for name in frame if name.startswith(("weight ", "density "))]
        assert frame.loc["s1", genes].to_list() == genome
    again = shoal.call(*words, "--format", kind)
    assert again.code == 2
    assert "--force" in again.stderr
    assert shoal.call(*words, "--format", kind, "--force").code == 0
    shutil.rmtree(path.parent)


def test_a_table_of_an_unknown_campaign_is_refused(shoal, folder, tmp_path):
    words = ("export-table", "quick", "-o", tmp_path / "t", "--store", f"{folder}/shoal.db")
    ended = shoal.call(*words)
    assert ended.code == 2
    assert "did you mean 'quickstart'?" in ended.stderr
    assert list(tmp_path.iterdir()) == []

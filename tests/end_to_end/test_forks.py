"""A fork shares the history of another campaign and goes its own way from there."""

from __future__ import annotations

import shutil
import signal

import pytest

pytestmark = pytest.mark.usefixtures("in_root")

THREE = "budget.generations=3"
MUTATION = "search.mutation={kind: gaussian, sigma: 0.6, probability: 0.9}"


def arguments(shoal, folder, *more: str, **how) -> list[str]:
    """What runs a campaign with a folder of its own for the output."""
    return ["run", *shoal.patient(folder, THREE, f"output={folder}/forked", *more, **how)]


def status(shoal, folder, name: str) -> dict:
    return shoal.call("status", name, "--store", f"{folder}/shoal.db", "--json").data


def ancestor(shoal, folder, **how) -> None:
    ended = shoal.call("run", *shoal.patient(folder, THREE, **how))
    assert ended.code == 0, ended.stderr


@pytest.fixture(scope="module")
def old(shoal, tmp_path_factory):
    """A finished campaign of three generations."""
    folder = tmp_path_factory.mktemp("old")
    ancestor(shoal, folder)
    return folder


def measured_by(shoal, folder, name: str, until: int) -> list[tuple]:
    """Attempts of a campaign that were no copies, of generations up to one."""
    return shoal.rows(
        folder / "shoal.db",
        "SELECT attempt.candidate FROM attempt JOIN campaign ON campaign.id = attempt.campaign"
        " JOIN candidate ON candidate.campaign = campaign.id AND candidate.id = attempt.candidate"
        " WHERE campaign.name = ? AND candidate.generation <= ? AND cached = 0 AND rows = 'search'",
        name,
        until,
    )


@pytest.mark.parametrize(
    ("name", "changes"), [("seeded", ["seed=8"]), ("mutated", [MUTATION]), ("same", [])]
)
def test_a_fork_has_the_history_up_to_a_generation_and_its_own_future(shoal, old, name, changes):
    ended = shoal.call(*arguments(shoal, old, *changes), "--fork", name, "--from-generation", "1")
    assert ended.code == 0, ended.stderr
    shared = shoal.search(old, until=1, kinds="search")
    assert len(shared) == 12
    assert shoal.search(old, name, until=1, kinds="search") == shared
    assert measured_by(shoal, old, name, 1) == []
    mine = shoal.search(old, name, kinds="search")
    theirs = shoal.search(old, kinds="search")
    assert list(mine) == list(theirs)
    later = [id_ for id_ in mine if id_ not in shared and id_.startswith("s")]
    differ = [id_ for id_ in later if mine[id_] != theirs[id_]]
    assert differ == (later if changes else [])
    found = status(shoal, old, name)
    assert (found["state"], found["generation"], found["evaluated"]) == ("finished", 3, 20)
    assert found["cached"] >= 12


def test_a_fork_without_a_generation_begins_after_the_last_complete_one(shoal, old):
    more = ("budget.generations=4", "seed=9")
    ended = shoal.call(*arguments(shoal, old, *more), "--fork", "longer")
    assert ended.code == 0, ended.stderr
    theirs = shoal.search(old, kinds="search")
    assert shoal.search(old, "longer", until=3, kinds="search") == theirs
    assert measured_by(shoal, old, "longer", 3) == []
    assert status(shoal, old, "longer")["generation"] == 4


def test_a_fork_of_a_fork_has_both_histories(shoal, old):
    ended = shoal.call(
        *arguments(shoal, old, "seed=21"), "--fork", "child", "--from-generation", "1"
    )
    assert ended.code == 0, ended.stderr
    again = arguments(shoal, old, "seed=22", "name=child", f"output={old}/grandchild")
    ended = shoal.call(*again, "--fork", "grandchild", "--from-generation", "2")
    assert ended.code == 0, ended.stderr
    child = shoal.search(old, "child", until=2, kinds="search")
    assert shoal.search(old, "grandchild", until=2, kinds="search") == child
    assert measured_by(shoal, old, "grandchild", 2) == []
    resumed = shoal.call(*again, "--fork", "grandchild", "--from-generation", "2")
    assert resumed.code == 0, resumed.stderr


@pytest.mark.slow
def test_the_same_command_after_a_kill_goes_on_with_the_fork(shoal, tmp_path):
    how = {"seconds": 0.2}
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir()
    ancestor(shoal, first, **how)
    shutil.copytree(first, other)  # in the same store, what one measured the other would copy
    words = [*arguments(shoal, first, "seed=8", address="pool", **how), "--fork"]
    whole = shoal.call(*words, "whole", "--from-generation", "1")
    assert whole.code == 0, whole.stderr

    words = [*arguments(shoal, other, "seed=8", address="pool", **how), "--fork", "killed"]
    words += ["--from-generation", "1"]
    store = other / "shoal.db"
    process = shoal.spawn(*words)
    before = shoal.measured(store)
    shoal.until_measured(process, store, before + 12 + 3)  # a copy of 12, and some of its own
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert status(shoal, other, "killed")["state"] == "interrupted"
    ended = shoal.call(*words)
    assert ended.code == 0, ended.stderr
    assert "killed: going on after" in ended.stderr
    assert shoal.search(other, "killed") == shoal.search(first, "whole")
    assert shoal.call("db", "check", "--store", store).code == 0


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("space.layer_groups=1", "space.layer_groups: 2 -> 1"),
        ("space.bounds.weight=[0, 1]", "space.bounds.weight: [-0.5, 1.5] -> [0.0, 1.0]"),
        ("evaluate.seconds=0.5", "evaluate.seconds: 0.0 -> 0.5"),
    ],
)
def test_a_fork_cannot_change_what_a_genome_is_or_is_worth(shoal, old, setting, line):
    ended = shoal.call(*arguments(shoal, old, setting), "--fork", "impossible")
    assert (ended.code, ended.stdout) == (5, "")
    assert f"\n  {line}\n" in ended.stderr
    assert "campaign 'quickstart'" in ended.stderr
    assert shoal.call("status", "impossible", "--store", f"{old}/shoal.db").code == 2


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--fork", "x", "--from-generation", "4"], "no complete generation 4; the last one is 3"),
        (["--from-generation", "1"], "name the fork"),
        (["--fork", "no/name"], "name"),
        (["--fork", "x", "--from-generation", "-1"], "--from-generation"),
        (["--fork", "x", "--set", "name=nobody"], "no campaign 'nobody'"),
    ],
)
def test_a_fork_that_cannot_be_is_one_clear_message(shoal, old, words, hint):
    names = shoal.rows(old / "shoal.db", "SELECT name FROM campaign")
    ended = shoal.call(*arguments(shoal, old), *words)
    assert (ended.code, ended.stdout) == (2, ""), ended.stderr
    assert hint in ended.stderr
    assert "Traceback" not in ended.stderr
    assert shoal.rows(old / "shoal.db", "SELECT name FROM campaign") == names


def test_a_fork_of_a_store_that_is_not_there_makes_none(shoal, tmp_path):
    ended = shoal.call(*arguments(shoal, tmp_path), "--fork", "x")
    assert ended.code == 2
    assert "no campaign 'quickstart'" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--fork", "elsewhere", "--from-generation", "1"],  # a campaign, but no fork of this one
        ["--fork", "branch", "--from-generation", "2"],  # a fork of this one, from another place
    ],
)
def test_a_name_that_means_another_campaign_is_refused_rather_than_gone_on_with(shoal, old, words):
    if not shoal.rows(old / "shoal.db", "SELECT 1 FROM campaign WHERE name = 'branch'"):
        elsewhere = arguments(shoal, old, "name=elsewhere")
        assert shoal.call(*elsewhere).code == 0
        branch = [*arguments(shoal, old), "--fork", "branch", "--from-generation", "1"]
        assert shoal.call(*branch).code == 0
    before = shoal.rows(old / "shoal.db", "SELECT count(*) FROM event")
    ended = shoal.call(*arguments(shoal, old), *words)
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert words[1] in ended.stderr
    assert shoal.rows(old / "shoal.db", "SELECT count(*) FROM event") == before

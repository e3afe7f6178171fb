"""A campaign is stopped, run twice, changed and mended, and is the same search afterwards."""

from __future__ import annotations

import getpass
import signal
import time

import pytest

pytestmark = pytest.mark.usefixtures("in_root")

#: Long enough for its end not to come before a signal does.
LONG = {"seconds": 0.2}
GENERATIONS = "budget.generations=3"


@pytest.fixture(scope="module")
def uninterrupted(shoal, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("uninterrupted")
    ended = shoal.call("run", *shoal.patient(folder, GENERATIONS, **LONG))
    assert ended.code == 0, ended.stderr
    return shoal.search(folder)


@pytest.fixture
def running(shoal, tmp_path):
    """A campaign in processes that has measured three candidates."""
    arguments = ("run", *shoal.patient(tmp_path, GENERATIONS, address="pool", **LONG), "--json")
    process = shoal.spawn(*arguments)
    shoal.until_measured(process, tmp_path / "shoal.db", 3)
    yield process, arguments
    process.kill()
    process.communicate()


def store_of(folder) -> tuple[str, str]:
    return ("--store", f"{folder}/shoal.db")


def status(shoal, folder) -> dict:
    return shoal.call("status", "quickstart", *store_of(folder), "--json").data


@pytest.mark.slow
def test_stop_ends_a_running_campaign_and_resume_goes_on_to_the_same_search(
    shoal, uninterrupted, running, tmp_path
):
    process, _ = running
    below = shoal.children(process.pid)
    stopped = shoal.call("stop", "quickstart", *store_of(tmp_path))
    assert stopped.code == 0, stopped.stderr
    assert stopped.stderr.count("\n") == 1
    assert "campaign 'quickstart' has stopped; " in stopped.stderr
    assert "shoal resume quickstart" in stopped.stderr

    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    resume = f"shoal resume quickstart --store {tmp_path}/shoal.db"
    assert f"quickstart: stopped by shoal stop; go on with: {resume}" in err
    assert not shoal.left_of(below)
    found = status(shoal, tmp_path)
    assert (found["state"], found["reason"]) == ("interrupted", "shoal stop")
    assert found["in_flight"] == 0
    assert 3 <= shoal.measured(tmp_path / "shoal.db") < len(uninterrupted)

    resumed = shoal.call(*resume.split()[1:])
    assert resumed.code == 0, resumed.stderr
    assert shoal.search(tmp_path) == uninterrupted


def test_stopping_what_does_not_run_says_so_and_changes_nothing(shoal, finished):
    before = finished.folder.joinpath("shoal.db").read_bytes()
    ended = shoal.call("stop", "quickstart", *finished.store)
    assert ended.code == 0
    assert ended.stderr == "campaign 'quickstart' is not running\n"
    assert finished.folder.joinpath("shoal.db").read_bytes() == before
    # ... nor is the wish remembered until the campaign is run again.
    again = shoal.call("run", *shoal.settings(finished.folder))
    assert again.code == 0, again.stderr


def test_stopping_an_unknown_campaign_names_the_nearest(shoal, finished, tmp_path):
    ended = shoal.call("stop", "quickstar", *finished.store)
    assert (ended.code, ended.stdout) == (2, "")
    assert "did you mean 'quickstart'?" in ended.stderr
    ended = shoal.call("stop", "quickstart", "--store", tmp_path / "none.db")
    assert ended.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_driver_is_refused_and_the_first_goes_on_unharmed(
    shoal, uninterrupted, running, tmp_path
):
    first, arguments = running
    attempts = (
        arguments,
        ("resume", "quickstart", *store_of(tmp_path)),
        ("retry", "quickstart", "--failed", *store_of(tmp_path)),
        ("db", "vacuum", *store_of(tmp_path)),
    )
    for words in attempts[:2]:
        second = shoal.call(*words)
        assert (second.code, second.stdout) == (2, "")
        assert second.stderr.startswith("shoal: campaign 'quickstart' is being run by process ")
        assert f"process {first.pid} of {getpass.getuser()} on " in second.stderr
        since = second.stderr.partition(" since ")[2].partition(" UTC")[0]
        age = time.time() - time.mktime(time.strptime(since, "%Y-%m-%d %H:%M:%S")) + time.timezone
        assert -1 < age < 120
        assert "shoal stop quickstart" in second.stderr
        assert second.stderr.count("\n") == 1
    assert shoal.call(*attempts[2]).stderr == "campaign 'quickstart': nothing to retry\n"
    assert shoal.call(*attempts[3]).code == 2
    found = status(shoal, tmp_path)
    assert found["state"] == "running"
    assert found["in_flight"] > 0
    assert f"process {first.pid} " in found["driver"]

    _, err = first.communicate(timeout=100)
    assert first.returncode == 0, err
    assert shoal.search(tmp_path) == uninterrupted


@pytest.mark.slow
def test_sigterm_ends_within_seconds_even_if_evaluators_are_busy(shoal, tmp_path):
    arguments = ("run", *shoal.patient(tmp_path, address="pool", seconds=300))
    process = shoal.spawn(*arguments)
    deadline = time.monotonic() + 100
    query = "SELECT count(*) FROM attempt WHERE state = 'open'"
    store = tmp_path / "shoal.db"
    while shoal.count(store, query) == 0 or len(shoal.children(process.pid)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(5)  # the evaluators are at work by now, or as good as
    below = shoal.children(process.pid)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 75, err
    assert "stopped by SIGTERM; go on with: shoal resume quickstart" in err
    assert not shoal.left_of(below)
    found = status(shoal, tmp_path)
    assert (found["state"], found["in_flight"]) == ("interrupted", 0)


@pytest.mark.slow
def test_an_asynchronous_search_goes_on_in_its_stored_order(shoal, tmp_path):
    """Which outcome came first decides here: what was proposed follows from what is recorded."""
    more = ("search.mode=async", "budget={evaluations: 14}")
    arguments = ("run", *shoal.patient(tmp_path, *more, address="pool", **LONG))
    store = tmp_path / "shoal.db"
    for num in (9, 15):
        process = shoal.spawn(*arguments)
        shoal.until_measured(process, store, num)
        process.kill()
        process.communicate()
    before = shoal.search(tmp_path)
    ended = shoal.call(*arguments)
    assert ended.code == 0, ended.stderr
    after = shoal.search(tmp_path)
    assert len(after) == 4 + 14 * 2
    assert {id_: facts[:3] for id_, facts in after.items() if id_ in before} == {
        id_: facts[:3] for id_, facts in before.items()
    }
    assert all(len(facts[3]) >= 1 for facts in after.values())
    # Once more the whole record is replayed: another proposal than the stored one is an error.
    again = shoal.call(*arguments, "--json")
    assert again.code == 0, again.stderr
    assert again.data["evaluated"] == 4 + 14 * 2
    assert shoal.search(tmp_path) == after
    assert shoal.call("db", "check", *store_of(tmp_path)).code == 0


def changed(shoal, folder, *more: str):
    return shoal.call("run", *shoal.patient(folder, *more))


@pytest.fixture(scope="module")
def short(shoal, tmp_path_factory):
    """A finished campaign of two generations."""
    folder = tmp_path_factory.mktemp("short")
    assert changed(shoal, folder).code == 0
    return folder


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("seed=8", "seed: 7 -> 8"),
        ("search.population_size=6", "search.population_size: 4 -> 6"),
        ("control=none", 'control: "random" -> "none"'),
        ("space.method=dare_ties", 'space.method: "ties" -> "dare_ties"'),
        ("evaluate.seconds=0.5", "evaluate.seconds: 0.0 -> 0.5"),
        (
            "search.mutation={kind: gaussian, sigma: 0.3, probability: 0.05}",
            "search.mutation.sigma: 0.15 -> 0.3",
        ),
    ],
)
def test_another_search_under_the_same_name_is_refused_with_what_differs(
    shoal, short, setting, line
):
    before = shoal.search(short)
    ended = changed(shoal, short, setting)
    assert (ended.code, ended.stdout) == (5, "")
    assert ended.stderr.startswith("shoal: campaign 'quickstart' is in ")
    assert f"\n  {line}\n" in ended.stderr
    assert shoal.search(short) == before


def test_a_larger_budget_another_place_and_another_output_go_on(shoal, uninterrupted, tmp_path):
    more = (GENERATIONS, "cluster.max_attempts=5", "cluster.timeout_s=77", f"output={tmp_path}/new")
    arguments = shoal.patient(tmp_path, **LONG)
    assert shoal.call("run", *arguments).code == 0
    ended = shoal.call("run", *shoal.patient(tmp_path, *more, **LONG))
    assert ended.code == 0, ended.stderr
    assert (tmp_path / "new/best/model.safetensors").is_file()
    # The winner of the shorter budget has been measured on test rows, too.
    longer = shoal.search(tmp_path, kinds="search")
    assert list(longer) == list(uninterrupted)
    for id_, (*facts, accepted, scores) in longer.items():
        *expected, all_accepted, all_scores = uninterrupted[id_]
        assert facts == expected
        assert set(accepted) <= set(all_accepted)
        assert set(scores) <= set(all_scores)
        assert len(accepted) == 1


def test_too_many_failures_are_mended_and_retried_to_the_same_search(shoal, short, tmp_path):
    obstacle = tmp_path / "obstacle"
    obstacle.touch()
    arguments = ("run", *shoal.patient(tmp_path, obstacle=obstacle))
    store = store_of(tmp_path)
    first = shoal.call(*arguments)
    assert first.code == 4
    assert "8 candidates failed, too many to go on:" in first.stderr
    assert "8x ValueError: something is in the way" in first.stderr
    retry = f"shoal retry quickstart --failed --store {tmp_path}/shoal.db"
    assert f"mend the cause, then: {retry}\n" in first.stderr
    assert not (tmp_path / "out").exists()

    # Running it again changes nothing, and without --failed there is nothing to retry.
    assert shoal.call("resume", "quickstart", *store).code == 4
    unmended = shoal.call("retry", "quickstart", *store)
    assert unmended.code == 0
    assert "nothing to retry; 8 failed for good, --failed takes them, too" in unmended.stderr
    unknown = shoal.call("retry", "quickstart", "s99", *store)
    assert unknown.code == 2
    assert "no failed candidate 's99'" in unknown.stderr

    # Unmended, it stops for the same reason.
    assert shoal.call(*retry.split()[1:]).code == 0
    assert shoal.call("resume", "quickstart", *store).code == 4

    obstacle.unlink()
    retried = shoal.call(*retry.split()[1:])
    assert retried.code == 0
    resume = f"shoal resume quickstart --store {tmp_path}/shoal.db"
    assert retried.stderr.endswith(f" to be measured again; go on with: {resume}\n")
    last = shoal.call(*resume.split()[1:])
    assert last.code == 0, last.stderr
    assert shoal.search(tmp_path) == shoal.search(short)
    found = status(shoal, tmp_path)
    assert (found["state"], found["failed"], found["evaluated"]) == ("finished", 0, 16)
    assert shoal.call("db", "check", *store).code == 0


def test_another_campaign_of_the_same_settings_measures_nothing_again(shoal, short):
    ended = changed(shoal, short, "name=again", f"output={short}/again")
    assert ended.code == 0, ended.stderr
    found = shoal.call("status", "again", *store_of(short), "--json").data
    assert found["evaluated"] == found["cached"] == 16
    measured = (
        "SELECT count(*) FROM attempt JOIN campaign ON campaign.id = attempt.campaign"
        " WHERE name = 'again' AND cached = 0"
    )
    assert shoal.count(short / "shoal.db", measured) == 0
    assert shoal.search(short, "again") == shoal.search(short)

    fresh = changed(shoal, short, "name=fresh", f"output={short}/fresh", "reuse=false")
    assert fresh.code == 0, fresh.stderr
    assert shoal.call("status", "fresh", *store_of(short), "--json").data["cached"] == 0
    assert shoal.call("db", "check", *store_of(short)).code == 0

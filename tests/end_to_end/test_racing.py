"""Campaigns that spend less and tell more, by the command line: races, estimates, finalists."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest

pytestmark = pytest.mark.usefixtures("in_root")

EXAMPLE = "examples/racing.yaml"
KINDS = "search fresh selection test control"
SMALL = (
    "search.population_size=6",
    "search.elites=2",
    "budget={generations: 4}",
    "refresh={every: 1, elites: 2, documents: 8, reserve: 0.3}",
    "racing={kind: halving, first_block: 4, growth: 2, eta: 2, least: 4}",
    "evaluate.limit=48",
    "finalists=3",
    "cluster.address=inline",
)
BANK = ("racing=null", "refresh=null", "estimator={kind: irt, documents: 10, refit: 8}")
PAIRED = ("racing={kind: paired_t, first_block: 4}", "refresh=null")


def arguments(folder, *more: str) -> list[str]:
    values = (*SMALL, *more, f"store={folder}/shoal.db", f"output={folder}/out")
    return [EXAMPLE, *(word for value in values for word in ("--set", value))]


@pytest.fixture(scope="module")
def raced(shoal, tmp_path_factory):
    """The example at smoke size, with a control task, run once to its end."""
    folder = tmp_path_factory.mktemp("raced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shoal.ROOT)
        extra = "evaluate.control=[skill_b_test]", "evaluate.test=[skill_a_test]"
        ended = shoal.call("run", *arguments(folder, *extra), "--json")
    assert ended.code == 0, ended.stderr
    return folder, ended


def test_losers_are_stopped_and_cost_fewer_documents(shoal, raced):
    folder, ended = raced
    assert ended.data["stopped"] > 0
    query = (
        "SELECT candidate, sum(documents), max(fidelity) FROM attempt "
        "WHERE rows = 'search' AND state = 'scored' GROUP BY 1"
    )
    spent = {id_: (num, share) for id_, num, share in shoal.rows(folder / "shoal.db", query)}
    whole = {num for id_, (num, share) in spent.items() if share == 1.0}
    assert len(whole) == 1
    assert all(num < max(whole) for num, share in spent.values() if share < 1.0)
    assert all(spent[id_][1] == 1.0 for id_ in ("r1", "r2", "r3", "r4")), "references run whole"


def test_the_four_uses_of_rows_are_kept_apart(shoal, raced):
    folder, _ = raced
    query = "SELECT rows, candidate FROM attempt WHERE state = 'scored'"
    kinds = Counter(rows for rows, _ in set(shoal.rows(folder / "shoal.db", query)))
    assert set(kinds) == set(KINDS.split())
    assert kinds["selection"] == 2 * 3, "finalists of the search and of the control"
    assert kinds["test"] == kinds["control"] <= 4 + 3
    report = (folder / "out" / "report.md").read_text()
    for words in ("selection", "finalists", "documents", "skill_b_test"):
        assert words in report, words


def test_every_document_can_be_read_back(shoal, raced, tmp_path):
    folder, _ = raced
    file = tmp_path / "documents.csv"
    more = ("--store", f"{folder}/shoal.db", "--format", "csv", "--documents", "-o", file)
    assert shoal.call("export-table", "racing", *more).code == 0
    with file.open() as lines:
        found = list(csv.DictReader(lines))
    places = Counter((one["candidate"], one["rows"], one["task"], one["document"]) for one in found)
    assert set(places.values()) == {1}, "no document is scored twice on one candidate"
    assert {one["value"] for one in found} <= {"0.0", "1.0"}
    assert all(float(one["log_likelihood"]) <= 0 for one in found)
    of_search = {(t, d) for _, rows, t, d in places if rows == "search"}
    of_fresh = {(t, d) for _, rows, t, d in places if rows == "fresh"}
    assert of_fresh
    assert not of_search & of_fresh


def test_blocks_give_the_bits_that_an_evaluation_of_the_whole_gives(shoal, raced, tmp_path):
    folder, _ = raced
    query = (
        "SELECT candidate FROM attempt WHERE rows = 'search' AND fidelity = 1.0 "
        "AND candidate LIKE 's%' AND state = 'scored' LIMIT 1"
    )
    ((id_,),) = shoal.rows(folder / "shoal.db", query)
    shown = shoal.call("show", "racing", id_, "--store", f"{folder}/shoal.db", "--json").data
    model = tmp_path / "model"
    export = shoal.call("export", "racing", id_, model, "--store", f"{folder}/shoal.db")
    assert export.code == 0, export.stderr
    whole = shoal.call("eval", model, *arguments(tmp_path), "--json")
    assert whole.code == 0, whole.stderr
    parts = [
        shoal.rows(
            folder / "shoal.db",
            "SELECT sum(value * documents) / sum(documents) FROM score WHERE rows = 'search' "
            f"AND candidate = '{id_}' AND task = '{task}'",
        )[0][0]
        for task in ("skill_a_search", "skill_b_search")
    ]
    assert list(whole.data["search"]["scores"].values()) == pytest.approx(parts, abs=1e-12)
    assert shown["id"] == id_


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), PAIRED, BANK], ids=["halving", "paired_t", "irt"])
def test_a_campaign_that_is_killed_between_blocks_ends_as_the_same_search(shoal, tmp_path, more):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = shoal.call("run", *arguments(tmp_path / "whole", *more), "--json")
    assert whole.code == 0, whole.stderr
    for num in (8, 20):  # early enough that it cannot end before it is killed
        process = shoal.spawn("run", *arguments(tmp_path / "killed", *more))
        shoal.until_measured(process, tmp_path / "killed" / "shoal.db", num)
        process.kill()
        process.communicate()
    again = shoal.call("run", *arguments(tmp_path / "killed", *more), "--json")
    assert again.code == 0, again.stderr
    searches = [
        shoal.search(tmp_path / name, "racing", kinds=KINDS) for name in ("whole", "killed")
    ]
    assert searches[0] == searches[1]
    assert json.dumps(whole.data["table"]) == json.dumps(again.data["table"])
    assert shoal.call("db", "check", "--store", f"{tmp_path}/killed/shoal.db").code == 0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("racing={kind: halved}", "did you mean 'halving'"),
        ("racing={kind: halving, first_block: 500}", "racing.first_block"),
        ("estimator={kind: irt, documents: 20}", "leave out one of the two"),
        ("finalists=17", "less than or equal to 16"),
        ("evaluate.split={seed: 1, search: 0.9, selection: 0.9}", "add up to 1.8"),
        ("evaluate.selection=[skill_a_test]", "evaluate.split"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(shoal, tmp_path, bad, said):
    ended = shoal.call("run", *arguments(tmp_path, bad))
    assert ended.code == 2
    assert said in ended.stderr
    assert not list(tmp_path.iterdir())


def test_an_item_bank_refuses_values_that_are_neither_right_nor_wrong(shoal, tmp_path):
    more = ("estimator={kind: irt, documents: 2}", "evaluate.right=0.5")
    ended = shoal.call("run", *shoal.patient(tmp_path, *more))
    assert ended.code == 2
    assert "a document must be right (1) or wrong (0), and document 1 has 0.5" in ended.stderr
    assert "Traceback" not in ended.stderr

"""The quickstart as it is shipped, in processes: it finds something, and lm-eval confirms it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_root"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def ended(shoal, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    place = ["--set", f"store={folder}/shoal.db", "--set", f"output={folder}/out"]
    pool = ["--set", "cluster.address=pool"]
    done = shoal.call("run", "examples/quickstart.yaml", "--json", *place, *pool)
    assert done.code == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_best_candidate_beats_parents_base_and_uniform_merge_on_unseen_rows(ended):
    _, result = ended
    best, *others = result["table"]
    assert best["id"].startswith("s")
    references = [line for line in others if line["id"].startswith("r")]
    assert len(references) == 4
    for line in references:
        low, _ = line["lead"]["interval"]
        assert low > 0.05, line


def test_the_search_ends_higher_than_random_search_on_its_own_rows(ended):
    _, result = ended
    best, control = result["table"][0], result["table"][-1]
    assert control["id"].startswith("c")
    assert best["search_fitness"] > control["search_fitness"]


def test_the_stock_command_on_the_card_gives_the_same_scores_to_the_last_digit(ended, tmp_path):
    folder, result = ended
    card = (folder / "out/best/README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("lm_eval run"))
    words = [
        sys.executable,
        "-m",
        "lm_eval",
        *shlex.split(line)[1:],
        "--output_path",
        str(tmp_path),
    ]
    subprocess.run([*words, "--device", "cpu"], check=True, capture_output=True)
    (found,) = tmp_path.rglob("results_*.json")
    measured = json.loads(found.read_text())["results"]
    assert {task: measured[task]["acc,none"] for task in measured} == result["table"][0]["scores"]

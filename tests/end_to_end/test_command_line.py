"""The command line as its users meet it, on the example models."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("in_root")

STATUS = {
    "campaign", "state", "generation", "evaluated", "failed", "in_flight", "best", "winner",
    "started_at", "elapsed_s", "evaluations_per_hour", "cached", "reason", "driver", "documents",
    "stopped", "archive", "counted_in", "beside",
}  # fmt: skip
CANDIDATE = {
    "id", "generation", "fitness", "scores", "stderr", "test", "parents", "recipe", "fidelity",
    "stopped", "violation", "interval",
}  # fmt: skip
SEARCH = {"skill_a_search", "skill_b_search"}
TEST = {"skill_a_test", "skill_b_test"}


def test_a_campaign_runs_to_its_end_and_prints_one_json_object(finished):
    assert finished.ended.code == 0, finished.ended.stderr
    assert finished.ended.stdout.count("\n") == 1
    found = finished.ended.data
    assert set(found) >= (STATUS - {"archive", "beside"}) | {"output", "table", "archives"}
    assert (found["state"], found["generation"], found["failed"]) == ("finished", 2, 0)
    assert found["evaluated"] == 4 + (4 + 2) * 2
    labels = [line["model"] for line in found["table"]]
    assert labels[0].startswith("best: ")
    labels[0] = labels[0].removeprefix("best: ")
    assert {"examples/models/base", "examples/models/a", "uniform merge"} <= set(labels)
    assert labels[-1].startswith("random search: ")
    assert all(set(line["test"]) == TEST for line in found["table"])


def test_status_has_the_fields_that_scripts_rely_on(shoal, finished):
    ended = shoal.call("status", "quickstart", *finished.store, "--json")
    assert ended.code == 0
    assert set(ended.data) == STATUS
    assert set(ended.data["best"]) == {"id", "fitness", "violation", "scores"}
    assert set(ended.data["best"]["scores"]) == SEARCH
    assert ended.data["in_flight"] == 0
    assert shoal.call("status", *finished.store, "--json").data == ended.data
    assert "state       finished" in shoal.call("status", *finished.store).stdout


def test_best_has_the_fields_that_scripts_rely_on(shoal, finished):
    found = shoal.call("best", "quickstart", "-k", "3", *finished.store, "--json").data
    assert found["campaign"] == "quickstart"
    assert len(found["candidates"]) == 3
    for one in found["candidates"]:
        assert set(one) == CANDIDATE | {"name"}
        assert set(one["scores"]) == set(one["stderr"]) == SEARCH
        assert one["fitness"] == pytest.approx(sum(one["scores"].values()))
    fitness = [one["fitness"] for one in found["candidates"]]
    assert fitness == sorted(fitness, reverse=True)
    assert set(found["candidates"][0]["test"]) == TEST


def test_show_tells_everything_of_a_candidate(shoal, finished):
    found = shoal.call("show", "quickstart", "s5", *finished.store, "--json").data
    assert set(found) >= CANDIDATE | {"genome", "attempts", "role", "state"}
    assert len(found["genome"]) == 24
    assert found["parents"]
    assert [one["state"] for one in found["attempts"]] == ["scored"]
    by_name = shoal.call("show", "quickstart", "uniform merge", *finished.store).stdout
    assert "candidate   r4 (uniform merge)" in by_name


@pytest.mark.parametrize(
    "arguments", [["show", "quickstart", "s99"], ["status", "quickstar"], ["best", "nothing"]]
)
def test_what_is_not_in_the_store_is_one_clear_message(shoal, finished, arguments):
    ended = shoal.call(*arguments, *finished.store)
    assert ended.code == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("shoal: ")
    assert ended.stderr.count("\n") == 1


def test_the_output_folder_holds_model_card_recipe_and_report(finished):
    out = finished.folder / "out"
    assert {path.name for path in out.iterdir()} == {
        "best", "recipe.yaml", "report.md", "fitness.png"
    }  # fmt: skip
    inside = {path.name for path in (out / "best").iterdir()}
    assert inside >= {"config.json", "model.safetensors", "tokenizer.json", "README.md",
                      "generation_config.json", "recipe.yaml", "recipe.json"}  # fmt: skip
    card = (out / "best/README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert "95% interval" in card
    assert "seed 7" in card
    assert "lm_eval run --model hf" in card
    assert (out / "fitness.png").read_bytes().startswith(b"\x89PNG")
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert recipe["merge_method"] in ("ties", "linear")


def test_a_second_run_prints_the_result_again_and_measures_nothing(shoal, finished):
    before = shoal.measured(finished.folder / "shoal.db")
    again = shoal.call("run", *shoal.settings(finished.folder), "--json")
    assert again.code == 0
    assert shoal.measured(finished.folder / "shoal.db") == before
    for key in ("table", "best", "state", "evaluated"):
        assert again.data[key] == finished.ended.data[key]
    assert "evaluator" not in again.stderr


def test_resume_by_name_is_the_same_as_run(shoal, finished):
    again = shoal.call("resume", "quickstart", *finished.store, "--json")
    assert again.code == 0, again.stderr
    assert again.data["table"] == finished.ended.data["table"]


def test_the_same_name_with_another_search_is_refused_and_shown(shoal, finished):
    before = shoal.search(finished.folder)
    changed = ("seed=8", "search.crossover.eta=3")
    ended = shoal.call("run", *shoal.settings(finished.folder, *changed))
    assert ended.code == 5
    assert "seed: 7 -> 8" in ended.stderr
    assert "-> 3.0" in ended.stderr
    assert "search.crossover.eta: " in ended.stderr
    assert shoal.search(finished.folder) == before


def test_a_changed_test_row_is_a_changed_search(shoal, finished):
    ended = shoal.call("run", *shoal.settings(finished.folder, "evaluate.limit=23"))
    assert ended.code == 5
    assert "rows.skill_a_test" in ended.stderr


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def best_of_the_search(shoal, finished) -> dict:
    found = shoal.call("best", "quickstart", "-k", "12", *finished.store, "--json").data
    return next(one for one in found["candidates"] if one["id"].startswith("s"))


def test_an_exported_recipe_builds_the_same_weights(shoal, finished, tmp_path):
    import torch

    one = best_of_the_search(shoal, finished)["id"]
    store = finished.store
    assert shoal.call("export", "quickstart", one, tmp_path / "model", *store).code == 0
    recipe = tmp_path / "recipe"
    assert shoal.call("export", "quickstart", one, recipe, "--recipe-only", *store).code == 0
    assert [path.name for path in recipe.iterdir()] == ["recipe.yaml"]
    assert yaml.safe_load((recipe / "recipe.yaml").read_text())["merge_method"] == "ties"

    for name, source in (
        ("of_yaml", recipe / "recipe.yaml"),
        ("of_json", tmp_path / "model/recipe.json"),
    ):
        merged = shoal.call("merge", source, tmp_path / name)
        assert merged.code == 0, merged.stderr
        ours, theirs = tensors(tmp_path / "model"), tensors(tmp_path / name)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours)
        assert all(ours[tensor].dtype == theirs[tensor].dtype for tensor in ours)


def test_the_exported_best_scores_exactly_what_the_store_says(shoal, finished):
    best = shoal.call("best", "quickstart", *finished.store, "--json").data["candidates"][0]
    model = finished.folder / "out/best"
    ended = shoal.call("eval", model, *shoal.settings(finished.folder), "--json")
    assert ended.code == 0, ended.stderr
    assert ended.data["search"]["scores"] == best["scores"]
    assert ended.data["search"]["fitness"] == best["fitness"]
    assert ended.data["search"]["stderr"] == best["stderr"]
    assert ended.data["test"]["scores"] == best["test"]


def test_export_does_not_write_over_anything(shoal, finished, tmp_path):
    (tmp_path / "precious").write_text("data")
    ended = shoal.call("export", "quickstart", "s1", tmp_path, *finished.store)
    assert ended.code == 2
    assert "not empty" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_check_finds_everything_out_and_makes_nothing(shoal, tmp_path):
    ended = shoal.call("check", *shoal.settings(tmp_path), "--json")
    assert ended.code == 0, ended.stderr
    assert ended.data["space"]["genes"] == 24
    assert ended.data["documents"] == dict.fromkeys(SEARCH | TEST, 24)
    assert ended.data["candidates"] == 16
    assert list(tmp_path.iterdir()) == []


def test_init_writes_a_file_that_check_accepts(shoal, tmp_path):
    file = tmp_path / "new/campaign.yaml"
    assert shoal.call("init", "-o", file).code == 0
    edited = {
        "space.base": "examples/models/base",
        "space.sources": "[examples/models/a, examples/models/b]",
        "evaluate.include_path": "examples/tasks",
        "evaluate.tasks": "[{name: skill_a_search, metric: acc}]",
    }
    words = [word for key, value in edited.items() for word in ("--set", f"{key}={value}")]
    ended = shoal.call("check", file, *words)
    assert ended.code == 0, ended.stderr
    assert shoal.call("init", "-o", file).code == 2
    assert "'merge'" in shoal.call("init", "merg", "-o", tmp_path / "x.yaml").stderr


def test_schema_prints_json(shoal):
    assert shoal.call("schema").data["title"] == "shoal campaign"


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def edit_config(folder: Path, **changes) -> None:
    (folder / "config.json").write_text(json.dumps({**config_of(folder), **changes}))


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_weights(folder: Path) -> None:
    import torch

    torch.save(tensors(folder), folder / "pytorch_model.bin")
    drop_weights(folder)


def bring_code(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('code was run')")


def other_tokens(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    first = next(iter(vocabulary))
    data["model"]["vocab"] = {("zzz" if k == first else k): v for k, v in vocabulary.items()}
    (folder / "tokenizer.json").write_text(json.dumps(data))


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BAD_MODELS = {
    "no weights": (drop_weights, "no weights"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "truncated weights": (cut_weights, "truncated"),
    "pickled weights": (pickle_weights, "allow_pickle"),
    "code": (bring_code, "trust_remote_code"),
    "another architecture": (
        lambda folder: edit_config(folder, architectures=["GPT2LMHeadModel"]), "architecture"
    ),
    "another hidden size": (lambda folder: edit_config(folder, hidden_size=97), "hidden_size"),
    "another depth": (lambda folder: edit_config(folder, num_hidden_layers=9), "num_layers"),
    "another vocabulary": (other_tokens, "1 tokens only in the former"),
}  # fmt: skip


def nothing_was_made(folder: Path) -> None:
    made = sorted(path.name for path in folder.iterdir() if path.name != "model")
    assert made == []


def one_clear_message(ended, hint: str) -> None:
    assert ended.code == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.startswith("shoal: "), ended.stderr
    assert ended.stderr.count("\n") == 1
    assert hint in ended.stderr


@pytest.mark.parametrize("what", BAD_MODELS)
def test_a_source_that_cannot_be_used_is_refused_before_anything_is_made(shoal, tmp_path, what):
    spoil, hint = BAD_MODELS[what]
    model = tmp_path / "model"
    shutil.copytree("examples/models/b", model)
    spoil(model)
    arguments = shoal.settings(tmp_path, f"space.sources=[examples/models/a, {model}]")
    for command in ("check", "run"):
        ended = shoal.call(command, *arguments)
        one_clear_message(ended, hint)
        assert str(model) in ended.stderr
        nothing_was_made(tmp_path)


BAD_SETTINGS = {
    "missing model": ("space.base=examples/models/none", "examples/models/none"),
    "unknown task": ("evaluate.test=[skill_a_tost]", "skill_a_test"),
    "unknown metric": ("evaluate.tasks=[{name: skill_a_search, metric: f1}]", "f1"),
    "misspelt metric": ("evaluate.tasks=[{name: skill_a_search, metric: ac}]", "'acc'"),
    "task in both": ("evaluate.test=[skill_a_search]", "both"),
    "no folder of tasks": ("evaluate.include_path=examples/tusks", "examples/tusks"),
    "unknown method": ("space.method=tyes", "ties"),
    "reversed bounds": ("space.bounds={weight: [1, 0]}", "space.bounds.weight"),
    "NaN bounds": ("space.bounds={weight: [.nan, 0]}", "space.bounds.weight"),
    "empty bounds": ("space.bounds={weight: []}", "space.bounds.weight"),
    "density 0": ("space.bounds={density: [0, 1]}", "space.bounds.density"),
    "population 0": ("search.population_size=0", "search.population_size"),
    "more groups than layers": ("space.layer_groups=999", "layer_groups"),
    "unknown key": ("serch=1", "search"),
    "more evaluators than the machine has": ("cluster.evaluators=4096", "cluster.evaluators"),
}


#: Looking an unknown task up means indexing all of lm-eval's own.
LOOKED_UP = pytest.param("unknown task", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "what", [LOOKED_UP, *(one for one in BAD_SETTINGS if one != "unknown task")]
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_made(shoal, tmp_path, what):
    setting, hint = BAD_SETTINGS[what]
    ended = shoal.call("run", *shoal.settings(tmp_path, setting))
    one_clear_message(ended, hint)
    nothing_was_made(tmp_path)


def test_what_has_no_place_in_the_file_is_refused_with_file_and_key(shoal, tmp_path):
    """What the models show to be wrong names its key as well."""
    ended = shoal.call("run", *shoal.settings(tmp_path, "space.layer_groups=999"))
    assert "space.layer_groups" in ended.stderr
    ended = shoal.call("run", *shoal.settings(tmp_path, "evaluate.include_path=examples/tusks"))
    assert "evaluate.include_path" in ended.stderr


BAD_RECIPES = {
    "no method": ("models: []", "merge_method"),
    "unknown method": ("merge_method: tyes\nmodels: []", "'ties'"),
    "no list": ("merge_method: linear\nmodels: 3", "recipe"),
    "no slices": ("merge_method: linear\nslices: []", "slices"),
    "layers that are not there": (
        ("merge_method: linear\nslices: [{sources: [{model: examples/models/a, "
        "layer_range: [1, 9], parameters: {weight: 1}}]}]"),
        "slices",
    ),
    "parameters that are text": (
        "merge_method: linear\nparameters: abc\nmodels: [{model: examples/models/a}]", "parameters"
    ),
    "unknown type": (
        ("merge_method: linear\ndtype: bfloat17\n"
        "models: [{model: examples/models/a, parameters: {weight: 1}}]"),
        "dtype",
    ),
    "missing model": (
        "merge_method: linear\nmodels: [{model: ./none, parameters: {weight: 1}}]", "./none"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_RECIPES)
def test_a_recipe_that_cannot_be_built_is_refused(shoal, tmp_path, what):
    text, hint = BAD_RECIPES[what]
    recipe = tmp_path / "model.yaml"
    recipe.write_text(text)
    ended = shoal.call("merge", recipe, tmp_path / "built")
    assert ended.code == 2, ended.stderr
    assert hint in ended.stderr
    assert not (tmp_path / "built").exists()


def test_a_budget_that_ends_with_nothing_measured_has_its_own_exit_code(shoal, tmp_path):
    ended = shoal.call("run", *shoal.settings(tmp_path, "budget.hours=1.0e-9"))
    assert ended.code == 3, ended.stderr
    assert "no candidate measured" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_too_many_failures_have_their_own_exit_code_and_are_explained(shoal, tmp_path):
    """Normalised weights that sum to nothing leave every merge undefined."""
    bounds = "space.bounds={weight: [-1.0e-9, 1.0e-9]}"
    more = ("space.method=linear", bounds, "search.population_size=12")
    ended = shoal.call("run", *shoal.settings(tmp_path, *more))
    assert ended.code == 4, ended.stderr
    assert "cannot normalise" in ended.stderr
    status = shoal.call("status", "--store", f"{tmp_path}/shoal.db", "--json").data
    assert (status["state"], status["reason"]) == ("stopped", "failures")
    assert status["failed"] >= 5


HEAVY = ("torch", "ray", "lm_eval", "transformers", "datasets", "matplotlib")


@pytest.mark.parametrize(
    "command", [["status"], ["best"], ["show", "quickstart", "s1"], ["schema"]]
)
def test_reading_commands_import_nothing_heavy(finished, command):
    store = [] if command == ["schema"] else finished.store
    code = (
        "import sys\nfrom orchestrator import cli\n"
        f"try: cli.main({[*command, *store]!r})\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_logs_go_to_stderr_as_whole_lines_without_progress_bars_of_others(shoal, tmp_path):
    process = shoal.spawn("run", *shoal.settings(tmp_path, "budget.generations=1"), "--json")
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    assert json.loads(out)["state"] == "finished"
    assert "it/s" not in err
    assert all(line.startswith("quickstart: ") for line in err.splitlines()), err


LONG = ("budget.generations=4",)


@pytest.fixture(scope="module")
def uninterrupted(shoal, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("uninterrupted")
    ended = shoal.call("run", *shoal.settings(folder, *LONG))
    assert ended.code == 0, ended.stderr
    return shoal.search(folder)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["inline", "pool"])
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_stopped_campaign_goes_on_to_the_same_search(
    shoal, uninterrupted, tmp_path, address, signum, code
):
    arguments = ("run", *shoal.settings(tmp_path, *LONG, address=address), "--json")
    store = tmp_path / "shoal.db"
    first = shoal.spawn(*arguments)
    shoal.until_measured(first, store, 7)
    first.send_signal(signum)
    _, err = first.communicate(timeout=60)
    assert first.returncode == code, err
    recorded = shoal.measured(store)
    assert recorded < len(uninterrupted)
    status = shoal.call("status", "--store", store, "--json").data
    assert (status["state"], status["in_flight"]) == ("interrupted", 0)
    if signum != signal.SIGKILL:
        assert "go on with: shoal " in err
    assert not (tmp_path / "out").exists()

    second = shoal.spawn(*arguments)
    _, err = second.communicate(timeout=250)
    assert second.returncode == 0, err
    assert f"going on after {recorded} candidates" in err
    assert shoal.search(tmp_path) == uninterrupted


@pytest.mark.slow
def test_two_processes_measure_what_one_does(shoal, uninterrupted, tmp_path):
    more = (*LONG, "cluster.evaluators=2")
    ended = shoal.call("run", *shoal.settings(tmp_path, *more, address="pool"))
    assert ended.code == 0, ended.stderr
    assert shoal.search(tmp_path) == uninterrupted


@pytest.mark.slow
def test_a_campaign_that_is_running_is_not_run_twice(shoal, tmp_path):
    arguments = ("run", *shoal.settings(tmp_path, *LONG))
    first = shoal.spawn(*arguments)
    shoal.until_measured(first, tmp_path / "shoal.db", 1)
    status = shoal.call("status", "--store", tmp_path / "shoal.db", "--json").data
    second = shoal.call(*arguments)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert status["state"] == "running"
    assert second.code == 2
    assert "is being run by process" in second.stderr

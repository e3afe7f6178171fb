"""Reading campaign files: every mistake is refused by file, line and key, with what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from orchestrator import config
from orchestrator.algorithms.genetic import Genetic
from orchestrator.config import ConfigError
from orchestrator.operators.crossover import Uniform
from orchestrator.operators.selection import Truncation

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGN = """\
name: quickstart
seed: 7
space:
  kind: merge
  base: examples/models/base
  sources: [examples/models/a, examples/models/b]
  method: ties
  layer_groups: 2
  filters: [self_attn, mlp]
  bounds: {weight: [-0.5, 1.5], density: [0.1, 1.0]}
search:
  kind: genetic
  population_size: 16
  selection: {kind: tournament, size: 2}
  crossover: {kind: sbx, eta: 15, probability: 0.9}
  mutation: {kind: polynomial, eta: 20}
  elites: 2
evaluate:
  kind: lm_harness
  include_path: examples/tasks
  tasks:
    - {name: skill_a_search, metric: acc, weight: 1.0}
    - {name: skill_b_search, metric: acc, weight: 1.0}
  test: [skill_a_test, skill_b_test]
  limit: null
budget: {generations: 8}
cluster: {address: local, evaluators: auto, cpus_per_evaluator: 1, max_attempts: 3}
store: runs/shoal.db
output: runs/quickstart
"""
FILES = sorted([*ROOT.glob("examples/**/*.yaml"), *ROOT.glob("orchestrator/templates/*.yaml")])
CAMPAIGNS = [file for file in FILES if re.search(r"^search:", file.read_text(), re.MULTILINE)]

BOUNDS = "bounds: {weight: [-0.5, 1.5], density: [0.1, 1.0]}"


@pytest.fixture
def write(tmp_path):
    def written(text: str) -> Path:
        path = tmp_path / "campaign.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        config.read(path, overrides)
    return str(error.value)


@pytest.mark.parametrize("file", CAMPAIGNS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_template_and_example_can_be_read(file):
    settings = config.read(file)
    jsonschema.validate(json.loads(json.dumps(config.as_dict(settings))), config.schema())


def test_there_are_templates_and_examples():
    assert {file.parent.name for file in CAMPAIGNS} >= {"templates", "examples"}


MISTAKES = {
    # what is written instead -> where it is said to be, and what the message must contain
    "unknown key": ("seed: 7", "sed: 7", "sed", "did you mean 'seed'"),
    "unknown inner key": ("layer_groups: 2", "layer_group: 2", "space.layer_group", "layer_groups"),
    "unknown key of an operator": ("size: 2", "sise: 2", "search.selection.sise", "size"),
    "unknown method": ("method: ties", "method: tie", "space.method", "did you mean 'ties'"),
    "unknown algorithm": ("kind: genetic", "kind: genetik", "search.kind", "'genetic'"),
    "unknown space": ("kind: merge", "kind: merg", "space.kind", "'merge'"),
    "unknown evaluator": ("kind: lm_harness", "kind: lmharness", "evaluate.kind", "'lm_harness'"),
    "unknown crossover": ("kind: sbx", "kind: sbks", "search.crossover.kind", "'sbx'"),
    "unknown mutation": ("kind: polynomial", "kind: polynom", "search.mutation.kind", "polynomial"),
    "empty bounds": (BOUNDS, "bounds: {weight: []}", "space.bounds.weight", ""),
    "one bound": (BOUNDS, "bounds: {weight: [0.5]}", "space.bounds.weight", ""),
    "NaN bound": (BOUNDS, "bounds: {weight: [.nan, 1]}", "space.bounds.weight", "nan"),
    "infinite bound": (BOUNDS, "bounds: {weight: [0, .inf]}", "space.bounds.weight", "inf"),
    "reversed": (BOUNDS, "bounds: {weight: [1.5, -0.5]}", "space.bounds.weight", "low < high"),
    "equal bounds": (BOUNDS, "bounds: {weight: [1, 1]}", "space.bounds.weight", "low < high"),
    "density 0": (BOUNDS, "bounds: {density: [0, 1]}", "space.bounds.density", "(0, 1]"),
    "density above 1": (BOUNDS, "bounds: {density: [0.1, 1.1]}", "space.bounds.density", "(0, 1]"),
    "unknown bound": (BOUNDS, "bounds: {densty: [0.1, 1]}", "space.bounds", "'density'"),
    "population 0": ("population_size: 16", "population_size: 0", "search.population_size", "0"),
    "a population of text": (
        "population_size: 16", "population_size: many", "search.population_size", "many"
    ),
    "all are elites": ("elites: 2", "elites: 16", "search.elites", "population_size"),
    "task in both": ("[skill_a_test, ", "[skill_a_search, ", "evaluate", "skill_a_search"),
    "generations 0": ("{generations: 8}", "{generations: 0}", "budget.generations", "0"),
    "no budget": ("{generations: 8}", "{}", "budget", "generations, evaluations"),
    "limit 0": ("limit: null", "limit: 0", "evaluate.limit", "0"),
    "bad name": ("name: quickstart", "name: a/b", "name", "'a/b'"),
    "negative seed": ("seed: 7", "seed: -1", "seed", "-1"),
    "a seed of text": ("seed: 7", "seed: '7'", "seed", "'7'"),
    "no sources": ("[examples/models/a, examples/models/b]", "[]", "space.sources", ""),
    "a source twice": ("examples/models/b]", "examples/models/a]", "space.sources", "twice"),
    "slerp of three": (
        "sources: [examples/models/a, examples/models/b]\n  method: ties",
        "sources: [a, b, c]\n  method: slerp", "space.sources", "exactly 2",
    ),
    "a section that is a value": ("budget: {generations: 8}", "budget: 8", "budget", "section"),
    "an operator without kind": ("{kind: sbx, ", "{", "search.crossover", "sbx"),
    "max_attempts 0": ("max_attempts: 3", "max_attempts: 0", "cluster.max_attempts", "0"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_file_line_and_key(write, mistake):
    old, new, key, hint = MISTAKES[mistake]
    assert old in CAMPAIGN
    text = CAMPAIGN.replace(old, new, 1)
    first = text[: text.index(new)].count("\n") + 1
    path = write(text)
    message = refused(path)
    found = re.match(rf"{re.escape(str(path))}:(\d+): {re.escape(key)}(: |\.\d)", message)
    assert found, message
    # A mistake about a whole section is shown where the section starts.
    starts = [number for number, line in enumerate(text.splitlines(), 1) if _starts(line, key)]
    assert int(found.group(1)) in (first, *starts), message
    assert hint in message


def _starts(line: str, key: str) -> bool:
    return line.strip().startswith(f"{key.rpartition('.')[2]}:")


def test_an_unknown_key_of_a_task_is_answered_with_the_nearest(write):
    path = write(CAMPAIGN.replace("metric: acc", "metrik: acc", 1))
    message = refused(path)
    assert "evaluate.tasks.0" in message
    assert "'metric'" in message


DATASET = """
name: d
seed: 1
space:
  kind: ctm
  task:
    kind: dataset
    train: sets.py:train
    test: sets.py:test
    classes: 2
    inputs: {kind: tokens, vocabularies: [3], length: 4}
search: {kind: genetic, population_size: 4}
evaluate: {kind: ctm}
budget: {generations: 1}
"""


@pytest.mark.parametrize(
    ("given", "changed", "said"),
    [
        ("kind: tokens", "kind: tokenz", "space.task.inputs.kind: unknown kind of input 'tokenz'"),
        ("{kind: tokens, ", "{", "space.task.inputs: needs a kind"),
        ("length: 4", "lenght: 4", "space.task.inputs.lenght: unknown key"),
        ("length: 4", "length: 0", "space.task.inputs"),
    ],
)
def test_a_mistake_in_what_a_sample_is_is_refused_where_it_stands(write, given, changed, said):
    assert said in refused(write(DATASET.replace(given, changed)))


def test_what_a_sample_is_comes_back_from_plain_data(write):
    settings = config.read(write(DATASET))
    data = json.loads(json.dumps(config.as_dict(settings)))
    assert data["space"]["task"]["inputs"]["kind"] == "tokens"
    assert config.from_dict(data) == settings


@pytest.mark.parametrize("key", ["seed", "space", "search", "evaluate", "budget", "name"])
def test_what_decides_a_result_has_no_default(write, key):
    text = re.sub(rf"^{key}:.*\n(  .*\n)*", "", CAMPAIGN, flags=re.MULTILINE)
    assert f"{key} is missing" in refused(write(text))


def test_a_key_given_twice_is_refused_with_both_lines(write):
    message = refused(write("seed: 1\nname: x\nseed: 2\n"))
    assert ":3: key 'seed' is given twice (first in line 1)" in message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("[1, 2", "not valid YAML: line"),
        ("- a\n- b\n", "expected a section"),
        ("just text", "expected a section"),
        ("seed: !!python/object/apply:os.system [echo]", "not valid YAML"),
    ],
)
def test_what_is_no_campaign_file_is_refused(write, text, hint):
    path = write(text)
    message = refused(path)
    assert str(path) in message
    assert hint in message


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "nowhere.yaml" in refused(tmp_path / "nowhere.yaml")
    assert "cannot read" in refused(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "campaign.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    assert "not UTF-8" in refused(path)


def test_set_overrides_nested_keys_and_places_in_lists(write):
    settings = config.read(
        write(CAMPAIGN),
        [
            "seed=11",
            "search.population_size=32",
            "search.crossover={kind: uniform, probability: 0.5}",
            "evaluate.tasks.1.weight=2.5",
            "cluster.address=inline",
            "space.bounds.weight=[0, 2]",
            "output=null",
        ],
    )
    assert isinstance(settings.search, Genetic)
    assert settings.seed == 11
    assert settings.search.population_size == 32
    assert settings.search.crossover == Uniform(probability=0.5)
    assert [one.weight for one in settings.evaluate.tasks] == [1.0, 2.5]
    assert settings.cluster.address == "inline"
    assert settings.space.bounds["weight"] == (0.0, 2.0)
    assert settings.space.bounds["density"] == (0.1, 1.0)
    assert settings.output_folder == "runs/quickstart"


def test_set_makes_sections_that_the_file_leaves_out(write):
    text = CAMPAIGN.replace("  selection: {kind: tournament, size: 2}\n", "")
    settings = config.read(
        write(text), ["search.selection.kind=truncation", "search.selection.share=0.25"]
    )
    assert settings.search.selection == Truncation(share=0.25)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("seed", "key.key=value"),
        ("=3", "key.key=value"),
        ("a..b=3", "key.key=value"),
        ("seed=[1", "not valid YAML"),
        ("evaluate.tasks.7.weight=1", "no place in a list of 2"),
        ("evaluate.tasks.x.weight=1", "no place in a list of 2"),
        ("seed.inner=1", "inside of a plain value"),
        ("sede=1", "did you mean 'seed'"),
        ("search.population_size=0", "search.population_size"),
    ],
)
def test_a_bad_set_is_refused_and_blamed_on_set(write, override, hint):
    message = refused(write(CAMPAIGN), override)
    assert "--set" in message
    assert override.partition("=")[0] in message
    assert hint in message


def test_a_mistake_inside_a_section_given_by_set_is_blamed_on_set(write):
    message = refused(write(CAMPAIGN), "space.bounds={weight: [2, 1]}")
    assert message.startswith("--set"), message


def test_settings_as_plain_data_give_the_same_settings_back(write):
    settings = config.read(write(CAMPAIGN))
    data = json.loads(json.dumps(config.as_dict(settings)))
    assert config.from_dict(data) == settings
    assert config.as_dict(config.from_dict(data)) == config.as_dict(settings)


def test_defaults_are_filled_in(write):
    data = config.as_dict(config.read(write(CAMPAIGN)))
    assert data["evaluate"]["batch_size"] is None
    assert data["search"]["mutation"] == {"kind": "polynomial", "eta": 20.0, "probability": None}


def test_the_schema_accepts_a_campaign_and_refuses_an_unknown_key(write):
    import yaml

    schema = config.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    data = yaml.safe_load(CAMPAIGN)
    jsonschema.validate(data, schema)
    for place in ((), ("space",), ("search", "crossover"), ("budget",), ("cluster",)):
        bad = yaml.safe_load(CAMPAIGN)
        section = bad
        for key in place:
            section = section[key]
        section["unheard_of"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    del data["seed"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


def test_the_schema_describes_every_field_for_editors():
    schema = config.schema()
    described = {k for k, v in schema["properties"].items() if v.get("description")}
    assert described == set(schema["properties"])


def test_a_component_from_outside_is_named_by_its_address(write):
    address = "orchestrator.algorithms.random_search:RandomSearch"
    text = re.sub(
        r"^search:\n(  .*\n)*",
        f"search: {{kind: '{address}', population_size: 3}}\n",
        CAMPAIGN,
        flags=re.MULTILINE,
    )
    assert config.read(write(text)).search.population_size == 3
    missing = text.replace("RandomSearch'", "NoSuchSearch'")
    assert "cannot be imported" in refused(write(missing))

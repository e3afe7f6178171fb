"""The settings of a merge space: what is refused, and that they are plain data."""

from __future__ import annotations

import json

import jsonschema
import pytest

from orchestrator import assemble, config
from orchestrator.spaces.merge import Merge
from orchestrator.spaces.pool import Pool

CAMPAIGN = """\
name: pooled
seed: 7
space:
  kind: merge
  base: base
  sources: {pool: [a, b, c], choose: [1, 2]}
  method: [ties, linear]
  bounds: {}
  options: {}
search: {kind: random, population_size: 4}
evaluate: {kind: lm_harness, tasks: [{name: t, metric: acc}], test: [u]}
budget: {generations: 1}
"""
MISTAKES = {
    # in place of which line, what is written -> key that is blamed, what the message must contain
    "sources": [
        ("3", "sources", "expected a list or a section of keys and values, got 3"),
        ("a", "sources", "expected a list"),
        ("null", "sources", "expected a list"),
        ("[a, 3]", "sources.1", "expected text, got 3"),
        ("{}", "sources", "pool is missing"),
        ("{pool: []}", "sources.pool", "at least 1"),
        ("{pool: [a, b]}", "sources", "choose is missing"),
        ("{pool: [a], chose: 2}", "sources.chose", "did you mean 'choose'?"),
        ("{pool: [a], choose: 1, x: 2}", "sources.x", "known: choose, pool"),
        ("{pool: a, choose: 1}", "sources.pool", "expected a list, got 'a'"),
        ("{pool: [a, a], choose: 1}", "sources.pool", "named twice"),
        ("{pool: [a, 3], choose: 1}", "sources.pool.1", "expected text, got 3"),
        ("{pool: [a, b], choose: 0}", "sources.choose", "greater than or equal to 1, got 0"),
        ("{pool: [a, b], choose: two}", "sources.choose", "a whole number or a list, got 'two'"),
        ("{pool: [a, b], choose: 1.5}", "sources.choose", "a whole number or a list, got 1.5"),
        ("{pool: [a, b], choose: [1]}", "sources.choose", "item 2 is missing"),
        ("{pool: [a, b], choose: [0, 1]}", "sources.choose.0", "greater than or equal to 1"),
        ("{pool: [a, b], choose: [1, 2, 3]}", "sources.choose", "at most 2"),
        ("{pool: [a, b], choose: [2, 1]}", "sources.choose", "least <= most, got [2, 1]"),
        ("{pool: [a, b], choose: 3}", "sources.choose", "3 models from a pool of 2"),
    ],
    "method": [
        ("3", "method", "expected text or a list, got 3"),
        ("[]", "method", "at least 1"),
        ("[ties, 3]", "method.1", "expected text, got 3"),
        ("[ties, tyes]", "method.1", "did you mean 'ties'?"),
        ("[ties, ties]", "method.1", "named twice"),
    ],
    "bounds": [
        ("{gama: [0, 1]}", "bounds", "ties and linear have no parameter 'gama'"),
        ("{t: [0, 1]}", "bounds", "no parameter 't'"),
        ("{lambda: [1, 0]}", "bounds.lambda", "low < high"),
    ],
    "options": [
        ("{rescal: l1}", "options", "no option 'rescal'"),
        ("{lambda: big}", "options.lambda", "expected a number, got 'big'"),
        ("{lambda: .nan}", "options.lambda", "expected a number, got nan"),
        ("{density: 1.5}", "options.density", "1.5 is outside what ties accepts, (0, 1]"),
        ("{normalize: 1}", "options.normalize", "expected true or false, got 1"),
    ],
}


@pytest.mark.parametrize(
    ("key", "text", "blamed", "hint"),
    [(key, *mistake) for key, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_a_mistake_is_refused_with_file_line_and_key(tmp_path, key, text, blamed, hint):
    lines = CAMPAIGN.splitlines()
    (number,) = [n for n, line in enumerate(lines) if line.startswith(f"  {key}: ")]
    lines[number] = f"  {key}: {text}"
    path = tmp_path / "campaign.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(config.ConfigError) as error:
        config.read(path)
    assert str(error.value).startswith(f"{path}:{number + 1}: space.{blamed}: ")
    assert hint in str(error.value)


def accepted(**changes) -> Merge:
    return Merge(**{"base": "base", "sources": ("a", "b"), "method": "ties", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "slerp", "sources": ("a", "b", "c")}, "exactly 2 models, got 3; {pool"),
        ({"method": "slerp", "sources": ("a",)}, "exactly 2 models, got 1$"),
        (
            {"method": ("ties", "slerp"), "sources": Pool(pool=("a", "b", "c"), choose=3)},
            "sources.choose: slerp merges exactly 2 models, got 3",
        ),
        (
            {
                "method": ("ties", "slerp"),
                "sources": Pool(pool=("a", "b", "c", "d"), choose=(3, 4)),
            },
            "sources.choose: slerp merges exactly 2 models, choose allows 3 to 4",
        ),
        (
            {"options": {"lambda": 0.7}, "bounds": {"lambda": (0.0, 1.0)}},
            "options.lambda: fixed to 0.7 here, but searched by bounds.lambda",
        ),
        ({"options": {"weight": 0.5, "density": 0.5}}, "ties has nothing to search here"),
        (
            {"method": ("ties", "della"), "bounds": {"density": (0.1, 1.0)}},
            r"bounds.density: della needs .* densities from 0.1 to 1.0 and epsilons up to 0.15",
        ),
        (
            {"method": "della", "options": {"density": 0.5}, "bounds": {"epsilon": (0.0, 0.5)}},
            "bounds.epsilon: della needs",
        ),
        ({"filters": ("mlp", "mlp")}, "filters: one is named twice"),
    ],
)
def test_what_can_never_be_searched_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        accepted(**changes)


def test_settings_are_the_same_as_plain_data_and_back(tmp_path):
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN)
    settings = config.read(path)
    assert settings.space.sources == Pool(pool=("a", "b", "c"), choose=(1, 2))
    plain = json.loads(json.dumps(config.as_dict(settings)))
    assert config.from_dict(plain) == settings
    jsonschema.validate(plain, config.schema())
    plain["space"]["sources"]["chose"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, config.schema())


def test_a_campaign_of_an_earlier_version_has_the_defaults_of_what_came_later(tmp_path):
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN)
    settings = config.read(path, ["space.sources=[a, b]", "space.method=ties"])
    sections = ("seed", "space", "search", "evaluate", "control")
    now = {key: config.as_dict(settings)[key] for key in sections}
    now["space"] = {key: held for key, held in now["space"].items() if key != "resident"}
    later = ("layer_genes", "tokenizer", "chat_template")
    old = {**now, "space": {key: held for key, held in now["space"].items() if key not in later}}
    assert assemble.changed_search(old, now) == []
    assert assemble.changed_measure(old, now) == []
    changed = {**now, "space": {**now["space"], "layer_genes": "linear"}}
    lines = ['space.layer_genes: "block" -> "linear"']
    assert assemble.changed_search(old, changed) == lines
    assert assemble.changed_measure(old, changed) == lines

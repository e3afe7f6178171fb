"""Campaigns of paths through the command line, at smoke size: the example, and a chained one."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.usefixtures("in_root")

EXAMPLE = "examples/dataflow.yaml"
CHAINED = (
    "space={kind: chained, merge: {base: examples/models/base, method: ties, dtype: float32, "
    "sources: [examples/models/a, examples/models/b]}, sources: [examples/models/b], "
    "scaling: slot, max_layers: 6}"
)
SMALL = (
    "search.population_size=4",
    "search.elites=1",
    "budget={generations: 2}",
    "evaluate.limit=16",
    "cluster.address=inline",
)


@pytest.mark.parametrize("space", [(), (CHAINED,)], ids=["dataflow", "chained"])
def test_a_campaign_of_paths_ends_with_a_plain_model(shoal, tmp_path, space):
    values = (*SMALL, *space, f"store={tmp_path}/shoal.db", f"output={tmp_path}/out")
    words = [word for value in values for word in ("--set", value)]
    ended = shoal.call("run", EXAMPLE, "--json", *words)
    assert ended.code == 0, ended.stderr
    assert ended.data["failed"] == 0
    best = tmp_path / "out" / "best"
    model = AutoModelForCausalLM.from_pretrained(best, dtype=torch.float32)
    recipe = json.loads((best / "recipe.json").read_text())
    assert model.config.num_hidden_layers == recipe["slices"][-1]["stop"]
    with torch.no_grad():
        assert model(torch.arange(12)[None]).logits.isfinite().all()


def test_a_check_says_what_paths_there_are(shoal):
    ended = shoal.call("check", EXAMPLE)
    assert ended.code == 0, ended.stderr
    assert "slots" in ended.stdout
    assert "takes at most 8" in ended.stdout


def test_a_compiled_engine_is_refused_where_layers_change(shoal):
    ended = shoal.call("check", EXAMPLE, "--set", "evaluate.backend=vllm")
    assert ended.code == 2
    assert "evaluate.backend: vllm is compiled for the layers of one model" in ended.stderr

"""Networks are trained stretch by stretch: nothing is done twice, and a loss changes nothing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from evaluators.ctm import scoring
from evaluators.ctm.evaluator import Ctm
from evaluators.ctm.inputs import Outputs
from evaluators.ctm.network import Network, Untrained
from evaluators.ctm.parity import Parity
from evaluators.ctm.thoughts import Thoughts, by_tick, certainty_of
from evaluators.ctm.training import DivergedError
from evaluators.ctm.training_settings import TrainingSettings
from evaluators.function_answer import Target
from evaluators.pooling import pool
from workers.ctm.builder import CtmBuilderSettings
from workers.ctm.recipe import CtmRecipe
from workers.ctm.settings import CtmSettings

#: What tells every two states of a network apart.
METRIC = "log_likelihood"
TASK = Parity(length=3, search_rows=32, selection_rows=16, test_rows=64)


class Small(nn.Module):
    """Two ticks of a layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 6) for _ in range(2))

    def forward(self, inputs: torch.Tensor) -> Thoughts:
        bits = inputs[:, :, 0].float()
        answers = torch.stack([layer(bits) for layer in self.layers], dim=1)
        logits = by_tick(answers, Outputs(positions=3, classes=2))
        return Thoughts(logits, certainty_of(logits))


class Broken(Small):
    """Gives no number."""

    def forward(self, inputs: torch.Tensor) -> Thoughts:
        thoughts = super().forward(inputs)
        return Thoughts(thoughts.logits * math.inf, thoughts.certainty)


def trainer(folder, made=Small, identity="one", steps=30, **changes):
    network = Network("cpu")

    def make(_: nn.Module | None) -> nn.Module:
        torch.manual_seed(0)
        return made()

    training = TrainingSettings(steps=steps, warm_up=2)
    network.assign(Untrained(make=make, training=training, identity=identity))
    checkpoints = None if folder is None else str(folder)
    given = {"metrics": (Target(name=METRIC),), **changes}
    settings = Ctm(task=TASK, stretches=3, checkpoints=checkpoints, **given)
    return settings.open(network)


@pytest.fixture
def steps(monkeypatch):
    """The steps of training that were done, in order."""
    done = []
    real = scoring.Training.until

    def until(self, step):
        done.extend(range(self.step, step))
        real(self, step)

    monkeypatch.setattr(scoring.Training, "until", until)
    return done


def block(*stretches):
    return {METRIC: stretches}


def test_who_goes_on_goes_on_where_it_was(tmp_path, steps):
    parts = [trainer(tmp_path).evaluate("search", documents=block(at)) for at in range(3)]
    assert steps == list(range(30))
    whole = trainer(None).evaluate("search")
    assert parts[-1].tasks[METRIC].value == whole.tasks[METRIC].value
    assert pool(parts) == whole
    trainer(tmp_path).evaluate("test")
    assert len(steps) == 60, "a network that is trained is scored as it is"


def test_a_score_after_one_stretch_is_never_that_after_more(tmp_path, steps):
    first = trainer(tmp_path).evaluate("search", documents=block(0))
    whole = trainer(tmp_path).evaluate("search")
    again = trainer(tmp_path).evaluate("search", documents=block(0))
    assert again == first
    assert again.tasks[METRIC].value != whole.tasks[METRIC].value
    assert len(steps) == 30 + 10
    trainer(tmp_path).evaluate("search")
    assert len(steps) == 30 + 10, "what was trained further is kept"


def test_a_lost_folder_changes_nothing(tmp_path):
    first = trainer(tmp_path / "a").evaluate("search", documents=block(0, 1))
    again = trainer(tmp_path / "b").evaluate("search", documents=block(2))
    straight = trainer(tmp_path / "a").evaluate("search", documents=block(2))
    assert again == straight
    assert first.tasks[METRIC].documents == 2


def test_a_file_that_was_cut_off_is_trained_anew(tmp_path):
    expected = trainer(tmp_path).evaluate("search")
    (file,) = tmp_path.rglob("*.pt")
    file.write_bytes(file.read_bytes()[:100])
    assert trainer(tmp_path).evaluate("search") == expected


def test_networks_of_other_recipes_are_kept_apart(tmp_path, steps):
    trainer(tmp_path).evaluate("search")
    trainer(tmp_path, identity="another").evaluate("search")
    assert len(steps) == 60
    assert len(list(tmp_path.rglob("*.pt"))) == 2


def lineage(num):
    """Recipes of machines, each of which goes on from the one before and is larger."""
    recipe = CtmRecipe(
        network=CtmSettings(
            neurons=12, ticks=2, memory=2, hidden=2, attention_width=8, num_output=4, num_action=4,
            inputs=TASK.inputs, outputs=TASK.outputs,
        ),
        training=TrainingSettings(steps=9, warm_up=2),
    )  # fmt: skip
    found = [recipe]
    for number in range(1, num):
        network = replace(recipe.network, neurons=12 * (number + 1), ticks=2 + number)
        training = replace(recipe.training, seed=number)
        found.append(
            CtmRecipe(network=network, training=training, ancestors=found[-1].lineage, seed=number)
        )
    return found


def heir(folder, recipe):
    """A trainer of a recipe's machine."""
    builder = CtmBuilderSettings().open("cpu")
    checkpoints = None if folder is None else str(folder)
    settings = Ctm(task=TASK, stretches=3, checkpoints=checkpoints, metrics=(Target(name=METRIC),))
    opened = settings.open(builder.resident)
    builder.build(recipe)
    return opened


def weights(model):
    return {name: one.clone() for name, one in model.state_dict().items()}


def test_a_child_begins_as_its_parent_ended(tmp_path, steps):
    parent, child = lineage(2)
    trained = weights(heir(tmp_path, parent).trained(3))
    del steps[:]
    opened = heir(tmp_path, replace(child, training=replace(child.training, rate=1e-30)))
    found = weights(opened.trained(3))
    assert steps == list(range(9)), "the parent is not trained again"
    assert torch.equal(found["head.weight"], trained["head.weight"])
    assert len(found["start"]) == 24


def test_a_child_is_the_same_whatever_is_left_of_its_ancestors(tmp_path, steps):
    """A recipe alone rebuilds what was measured, bit by bit."""
    recipes = lineage(3)
    for recipe in recipes:
        expected = heir(tmp_path / "all", recipe).evaluate("search")
    assert len(steps) == 27
    kept = weights(heir(tmp_path / "all", recipes[-1]).trained(3))
    assert heir(None, recipes[-1]).evaluate("search") == expected
    assert len(steps) == 54, "nothing is kept: all three are trained"
    heir(tmp_path / "some", recipes[0]).evaluate("search")
    heir(tmp_path / "some", recipes[1]).evaluate("search", documents=block(0))
    del steps[:]
    again = weights(heir(tmp_path / "some", recipes[2]).trained(3))
    assert len(steps) == 6 + 9, "the parent goes on where it was left, its own is not asked"
    assert all(torch.equal(one, again[name]) for name, one in kept.items())


def test_a_child_that_was_broken_off_asks_nobody(tmp_path, steps):
    recipes = lineage(2)
    expected = heir(None, recipes[1]).evaluate("search")
    heir(tmp_path, recipes[1]).evaluate("search", documents=block(0))
    files = list(tmp_path.rglob("*.pt"))
    assert len(files) == 2, "the parent, which was trained on the way, is kept"
    (parent,) = (file for file in files if torch.load(file)["step"] == 9)
    parent.unlink()
    del steps[:]
    assert heir(tmp_path, recipes[1]).evaluate("search") == expected
    assert steps == list(range(3, 9))


def test_divergence_is_told_with_its_step_and_stage(tmp_path):
    with pytest.raises(DivergedError, match="diverged at step 0") as caught:
        trainer(tmp_path, Broken).evaluate("search")
    assert (caught.value.stage, caught.value.failure) == ("train", "diverged")


def test_rows_beside_the_search_are_scored_sample_by_sample(tmp_path):
    score = trainer(tmp_path).evaluate("test").tasks[METRIC]
    assert score.documents == len(score.per_document) == 64
    assert score.value == pytest.approx(sum(score.per_document) / 64)


def test_metrics_are_weighed(tmp_path):
    metrics = (Target(name="positions", weight=2.0), Target(name="surest_tick", weight=-0.1))
    score = trainer(tmp_path, metrics=metrics).evaluate("test")
    positions, tick = (score.tasks[name].value for name in ("positions", "surest_tick"))
    assert 1 <= tick <= 2
    assert score.fitness == pytest.approx(2 * positions - 0.1 * tick)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="metrics: unknown 'solve'; did you mean 'solved'"):
        Ctm(metrics=(Target(name="solve"),))


def test_facts_say_that_stretches_come_in_order():
    facts = Ctm(task=TASK, stretches=3).check()
    assert facts.tasks["search"]["solved"].in_order
    assert facts.tasks["search"]["solved"].documents == 3
    assert facts.tasks["test"]["solved"].documents == 64
    other = Ctm(task=Parity(length=3, search_rows=33, selection_rows=16, test_rows=64), stretches=3)
    assert other.check().identity["search"] != facts.identity["search"]

"""Machines that go on from others: what is called preserved says what the other one said."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from evaluators.ctm.inputs import Image, Inputs, Numbers, Outputs, Phases, Tokens
from evaluators.ctm.parity import Parity
from evaluators.ctm.training import Training
from evaluators.ctm.training_settings import TrainingSettings
from tests.workers.ctm_samples import samples
from workers.ctm.growth import grow
from workers.ctm.machine import Machine
from workers.ctm.pairs import match_pairs
from workers.ctm.settings import CtmSettings

TOKENS = Tokens(vocabularies=(3, 2), length=4)
IMAGE = Image(channels=1, height=4, width=4, widths=(3,), pools=(0,))
PHASES = Phases(parts={"a": TOKENS, "b": IMAGE}, order=("a", "b"))
INPUTS: tuple[Inputs, ...] = (TOKENS, IMAGE, Numbers(size=3), PHASES)
PAIRINGS = ("dense", "semi_dense", "semi_dense_full", "random")
PARTS = ("view", "synapse", "neurons", "answers", "queries", "ticks")


def settings(**changed: object) -> CtmSettings:
    plain: dict[str, object] = {
        "neurons": 12,
        "ticks": 3,
        "memory": 3,
        "hidden": 3,
        "attention_width": 8,
        "heads": 2,
        "num_output": 5,
        "num_action": 4,
        "inputs": TOKENS,
        "outputs": Outputs(positions=2, classes=3),
    }
    return CtmSettings(**{**plain, **changed})


def learned(of: CtmSettings) -> Machine:
    """A machine in double precision whose numbers are all far from where they start."""
    torch.manual_seed(0)
    made = Machine(of).double()
    for name, one in made.named_parameters():
        one.data += 0.3 * torch.randn_like(one)
        if name.endswith("decay"):
            one.data.abs_()
    return made.eval()


def farthest(parent: Machine, child: Machine) -> float:
    """The largest difference between answers at the ticks that both have."""
    given_ = samples(parent.settings.inputs, batch=5)
    child.eval()
    with torch.no_grad():
        first, second = parent(given_).logits, child(given_).logits
    num = min(first.shape[-1], second.shape[-1])
    return float((first[..., :num] - second[..., :num]).abs().max())


PRESERVING = {
    "equal": {},
    "more ticks": {"ticks": 7},
    "fewer ticks": {"ticks": 2},
    "a longer memory": {"memory": 6},
    "twice the neurons": {"neurons": 24},
    "three times the neurons": {"neurons": 36},
    "more hidden units": {"hidden": 5},
    "more pairs": {"num_output": 7, "num_action": 5},
    "more of all": {"neurons": 24, "memory": 4, "hidden": 4, "num_output": 9, "ticks": 5},
    "dropout": {"dropout": 0.2},
}


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("change", PRESERVING)
def test_these_changes_are_preserving(change: str, pairing: str) -> None:
    before = settings(pairing=pairing, self_pairs=2 if pairing == "random" else 0)
    parent = learned(before)
    grown = grow(parent, replace(before, **PRESERVING[change]))
    assert grown.preserves, grown.parts
    assert farthest(parent, grown.machine) < 1e-5


KINDS = (
    {},
    {"neuron_model": "shallow"},
    {"neuron_model": "none"},
    {"synchronise": False},
    {"synapse_depth": 3},
    *({"inputs": one} for one in INPUTS),
)


@st.composite
def machines(draw: st.DrawFn) -> CtmSettings:
    """Settings of any kind, small enough to be quick."""
    pairing = draw(st.sampled_from(PAIRINGS))
    num = st.integers(1, 6)
    answers, actions = draw(num), draw(num)
    selves = draw(st.integers(0, min(answers, actions))) if pairing == "random" else 0
    return settings(
        neurons=draw(st.sampled_from([12, 13, 18, 24, 36])),
        ticks=draw(st.integers(1, 4)),
        memory=draw(st.integers(1, 4)),
        hidden=draw(st.integers(1, 4)),
        heads=draw(st.sampled_from([1, 2])),
        attention_width=draw(st.sampled_from([8, 16])),
        pairing=pairing,
        num_output=answers,
        num_action=actions,
        self_pairs=selves,
    )


@examples(max_examples=200)
@given(before=machines(), after=machines(), kind=st.sampled_from(KINDS), same=st.booleans())
def test_what_is_called_preserved_says_the_same(
    before: CtmSettings, after: CtmSettings, kind: dict[str, object], same: bool
) -> None:
    """Between any two machines: never is a difference called none."""
    if same:  # or hardly any two would go on exactly
        names = ("pairing", "num_output", "num_action", "self_pairs", "heads", "attention_width")
        after = replace(after, **{name: getattr(before, name) for name in names})
    before, after = replace(before, **kind), replace(after, **kind)
    parent = learned(before)
    torch.manual_seed(2)
    grown = grow(parent, after)
    assert grown.machine.settings == after
    assert set(grown.parts) == set(PARTS) - (set() if after.attends else {"queries"})
    difference = farthest(parent, grown.machine)
    assert difference < 1e-5 or not grown.preserves


@examples(max_examples=60)
@given(before=machines(), data=st.data())
def test_all_that_grows_by_whole_copies_is_preserved(before: CtmSettings, data: st.DataObject):
    selves = data.draw(st.integers(0, 2)) if before.pairing == "random" else 0
    after = replace(
        before,
        neurons=before.neurons * data.draw(st.integers(1, 3)),
        ticks=data.draw(st.integers(1, 5)),
        memory=before.memory + data.draw(st.integers(0, 2)),
        hidden=before.hidden + data.draw(st.integers(0, 2)),
        num_output=before.num_output + selves,
        num_action=before.num_action + selves,
        self_pairs=before.self_pairs + selves,
    )
    assume(after.neurons < 60)
    parent = learned(before)
    grown = grow(parent, after)
    assert grown.preserves, grown.parts
    assert farthest(parent, grown.machine) < 1e-5


def test_equal_settings_copy_every_number() -> None:
    parent = Machine(settings(pairing="random", self_pairs=1))
    child = grow(parent, parent.settings).machine
    for name, one in parent.state_dict().items():
        assert torch.equal(one, child.state_dict()[name]), name


LOSING = {
    "another number of neurons": ({"neurons": 18}, {"synapse": "nearly"}),
    "fewer neurons": ({"neurons": 10}, {"synapse": "nearly"}),
    "a shorter memory": ({"memory": 2}, {"neurons": "nearly"}),
    "fewer hidden units": ({"hidden": 2}, {"neurons": "nearly"}),
    "other neuron models": ({"neuron_model": "shallow"}, {"neurons": "not"}),
    "a deeper synapse": ({"synapse_depth": 2}, {"synapse": "not"}),
    "fewer pairs": ({"num_output": 4}, {"answers": "nearly"}),
    "other heads": ({"heads": 4}, {"view": "nearly"}),
    "another width": (
        {"attention_width": 16},
        {"view": "nearly", "synapse": "nearly", "queries": "nearly"},
    ),
    "ticks of two phases": ({"ticks": 4}, {"ticks": "nearly"}),
}


@pytest.mark.parametrize("change", LOSING)
def test_what_is_lost_is_told_part_by_part(change: str) -> None:
    changed, expected = LOSING[change]
    before = settings(inputs=PHASES)
    grown = grow(learned(before), replace(before, **changed))
    assert {name: how for name, how in grown.parts.items() if how != "exactly"} == expected
    assert not grown.preserves
    assert farthest(learned(before), grown.machine) > 1e-3, "it is lost indeed"


def test_a_few_neurons_more_are_nearer_than_a_machine_that_begins_anew() -> None:
    before = settings(neurons=24)
    parent = learned(before)
    grown = grow(parent, replace(before, neurons=27)).machine
    torch.manual_seed(5)
    anew = Machine(replace(before, neurons=27)).double()
    assert farthest(parent, grown) < 0.2 * farthest(parent, anew)


@pytest.mark.parametrize("neurons", [10, 12, 15, 24, 30])
def test_dense_pairs_stay_dense(neurons: int) -> None:
    before = settings()
    made = grow(learned(before), replace(before, neurons=neurons)).machine
    assert made.answer.pairs.unique().tolist() == list(range(5))
    assert made.action.pairs.unique().tolist() == list(range(neurons - 4, neurons))


def test_random_pairs_keep_as_many_of_a_neuron_and_itself_as_are_asked_for() -> None:
    random = settings(pairing="random", num_output=9, num_action=9, self_pairs=3)
    after = replace(random, num_output=12, self_pairs=5)
    parent = learned(random)
    pairs = grow(parent, after).machine.answer.pairs
    assert (pairs[0] == pairs[1])[:5].all()
    assert torch.equal(pairs[:, :3], parent.answer.pairs[:, :3])
    assert torch.equal(pairs[:, 5:11], parent.answer.pairs[:, 3:])


def test_the_same_pair_twice_is_matched_twice_and_no_more() -> None:
    among = torch.tensor([[3, 1, 1], [0, 2, 2]])
    pairs = torch.tensor([[2, 0, 1, 1, 5], [1, 3, 2, 2, 5]])
    assert match_pairs(pairs, among).tolist() == [1, 0, 2, -1, -1]


def test_copies_of_a_neuron_part_in_training() -> None:
    """Even those that no pair reads, which only their weights in the synapse tell apart."""
    task = Parity(length=3)
    before = settings(
        neurons=16, inputs=task.inputs, outputs=task.outputs, num_output=3, num_action=3
    )
    torch.manual_seed(0)
    child = grow(Machine(before), replace(before, neurons=32)).machine
    unread = [*range(3, 8), *range(8, 13)]
    copies = [[one if one < 8 else one + 16, 8 + one] for one in unread]

    def apart() -> list[float]:
        weight = child.neurons.first.weight.detach()
        return [float((weight[first] - weight[second]).norm()) for first, second in copies]

    assert max(apart()) == 0.0
    steps = 20
    schedule = TrainingSettings(steps=steps, warm_up=0, rate=3e-3)
    Training(child, task, task.judgement, schedule).until(steps)
    assert min(apart()) > 1e-3


def test_a_machine_of_another_task_is_refused() -> None:
    after = settings(outputs=Outputs(positions=1, classes=2))
    with pytest.raises(ValueError, match="outputs: a machine goes on from one of the same task"):
        grow(learned(settings()), after)

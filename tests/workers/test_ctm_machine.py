"""Continuous Thought Machines do what their paper defines, and gradients are those of it."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from evaluators.ctm.inputs import Image, Inputs, Numbers, Outputs, Phases, Tokens
from tests.workers.ctm_samples import samples
from workers.ctm.baselines import matched, num_parameters
from workers.ctm.compute import flops_per_sample
from workers.ctm.machine import Machine
from workers.ctm.settings import CtmSettings
from workers.ctm.synchronisation import Synchronisation

ROOT = Path(__file__).parents[2]
TOKENS = Tokens(vocabularies=(3, 2), length=5)
IMAGE = Image(channels=2, height=8, width=6, widths=(4, 6), pools=(1,))
PHASES = Phases(parts={"seen": IMAGE, "asked": TOKENS}, order=("seen", "seen", "asked"))

KINDS = {
    "deep": {},
    "a longer memory than there are ticks": {"memory": 9},
    "one tick": {"ticks": 1, "memory": 1},
    "shallow": {"neuron_model": "shallow"},
    "no neuron models": {"neuron_model": "none"},
    "no synchronisation": {"synchronise": False},
    "U-Net": {"synapse_depth": 4},
    "two heads": {"heads": 2},
    "random pairs": {"pairing": "random", "num_output": 9, "num_action": 7, "self_pairs": 3},
    "semi-dense": {"pairing": "semi_dense", "num_output": 5, "num_action": 4},
    "semi-dense, whole table": {"pairing": "semi_dense_full", "num_output": 5, "num_action": 4},
    "numbers": {"inputs": Numbers(size=4)},
    "pictures": {"inputs": IMAGE},
}


def settings(**changed: object) -> CtmSettings:
    plain: dict[str, object] = {
        "neurons": 24,
        "ticks": 4,
        "memory": 3,
        "hidden": 3,
        "attention_width": 8,
        "num_output": 6,
        "num_action": 5,
        "inputs": TOKENS,
        "outputs": Outputs(positions=2, classes=3),
    }
    return CtmSettings(**{**plain, **changed})


def machine(**changed: object) -> Machine:
    """A machine in double precision, with every parameter far from where it starts."""
    torch.manual_seed(0)
    made = Machine(settings(**changed)).double()
    for one in made.parameters():
        one.data += 0.3 * torch.randn_like(one)
    return made


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain", ROOT / "benchmarks" / "ctm_plain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_certainties_are_those_of_the_definition(plain: ModuleType, kind: str) -> None:
    made = machine(**KINDS[kind])
    given = samples(made.settings.inputs)
    thoughts = made(given)
    logits, certainty = plain.by_definition(made, given)
    assert logits.abs().max() > 0.05
    assert torch.allclose(thoughts.logits, logits, atol=1e-12)
    assert torch.allclose(thoughts.certainty, certainty, atol=1e-12)


@pytest.mark.parametrize("kind", ["deep", "a longer memory than there are ticks", "U-Net"])
def test_gradients_are_those_of_a_history_that_is_rolled_forward(
    plain: ModuleType, kind: str
) -> None:
    made = machine(**KINDS[kind])
    given = samples(made.settings.inputs)
    weights = torch.randn(3, 2, 3, made.settings.ticks, dtype=torch.float64)

    def gradients(logits: Tensor, certainty: Tensor) -> dict[str, Tensor]:
        made.zero_grad()
        ((logits * weights).sum() + certainty.sum()).backward()
        return {name: one.grad.clone() for name, one in made.named_parameters()}

    thoughts = made(given)
    found = gradients(thoughts.logits, thoughts.certainty)
    expected = gradients(*plain.straightforward(made, given))
    for name, one in expected.items():
        assert torch.allclose(found[name], one, atol=1e-10), name


def test_walking_back_twice_doubles_the_gradients() -> None:
    made = machine()
    loss = made(samples(TOKENS)).logits.square().sum()
    loss.backward(retain_graph=True)
    once = {name: one.grad.clone() for name, one in made.named_parameters()}
    loss.backward()
    for name, one in made.named_parameters():
        assert torch.allclose(one.grad, 2 * once[name]), name


def test_a_loss_on_an_early_tick_leaves_later_ones_out() -> None:
    made, short = machine(ticks=4), machine(ticks=2)
    given = samples(TOKENS)
    made(given).logits[..., 1].sum().backward()
    short(given).logits[..., 1].sum().backward()
    for (name, one), other in zip(made.named_parameters(), short.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-12), name


def test_a_frozen_past_has_no_gradient_and_others_keep_theirs() -> None:
    made, other = machine(), machine()
    given = samples(TOKENS)
    made.neurons.start.requires_grad_(requires_grad=False)
    for one in (made, other):
        loss = one(given).logits.sum()
        loss.backward(retain_graph=True)
        one.zero_grad()
        loss.backward()
    assert made.neurons.start.grad is None
    assert torch.allclose(made.neurons.first.weight.grad, other.neurons.first.weight.grad)


def test_synchronisation_is_the_decayed_sum_over_all_ticks() -> None:
    pairs = torch.tensor([[0, 1, 2, 0], [0, 2, 2, 3]])
    reader = Synchronisation(pairs).double()
    reader.decay.data = torch.tensor([0.0, 0.4, 2.0, 15.0], dtype=torch.float64)
    states = torch.randn(30, 4, 5, dtype=torch.float64)  # (ticks, neurons, batch)
    sums = reader.begin(states[0])
    for tick, state in enumerate(states):
        sums = sums if tick == 0 else reader.step(sums, state)
        ages = torch.arange(tick, -1, -1, dtype=torch.float64)
        fades = torch.exp(-reader.decay[:, None] * ages)  # (pairs, ticks)
        products = states[: tick + 1, pairs[0]] * states[: tick + 1, pairs[1]]
        direct = torch.einsum("pt,tpb->bp", fades, products) / fades.sum(dim=1).sqrt()
        assert torch.allclose(reader.read(sums), direct, atol=1e-10)


def test_decays_that_left_their_range_come_back() -> None:
    made = machine()
    made.answer.decay.data[:3] = torch.tensor([-1.0, 99.0, 3.0], dtype=torch.float64)
    made.restrain()
    assert made.answer.decay[:3].tolist() == [0.0, 15.0, 3.0]


def test_dense_pairs_are_of_the_first_neurons_and_of_the_last() -> None:
    made = machine(neurons=11)
    first, last = made.answer.pairs, made.action.pairs
    assert first.shape == (2, 21)
    assert first.max() == 5
    assert last.shape == (2, 15)
    assert last.min() == 6


def test_random_pairs_begin_with_a_neuron_and_itself() -> None:
    made = machine(**KINDS["random pairs"])
    same = made.answer.pairs[0] == made.answer.pairs[1]
    assert same[:3].all()
    assert not same[3:].all()


def test_neuron_models_have_the_published_number_of_parameters() -> None:
    made = Machine(settings(neurons=32, memory=7, hidden=5))
    found = num_parameters(made.neurons) - made.neurons.start.numel() - 2  # two learned divisors
    assert found == 32 * (2 * 5 * 7 + 2 * 5 + 2 * 5 + 2)


@pytest.mark.parametrize("kind", [*KINDS, "phases"])
def test_flops_are_those_that_torch_counts(kind: str) -> None:
    made = Machine(settings(**({"inputs": PHASES} if kind == "phases" else KINDS[kind])))
    given = samples(made.settings.inputs, batch=1)
    given = [
        one.float() if one.is_floating_point() else one
        for one in (given if isinstance(given, list) else [given])
    ]
    with FlopCounterMode(display=False) as counted:
        made(given if kind == "phases" else given[0], watch=True)
    assert flops_per_sample(made.settings) == counted.get_total_flops()


def test_flops_are_of_all_ticks_of_all_phases() -> None:
    def of_a_tick(phases: int) -> int:
        given = Phases(parts={"asked": TOKENS}, order=("asked",) * phases)
        one, two = (flops_per_sample(settings(ticks=ticks, inputs=given)) for ticks in (1, 2))
        return two - one

    assert of_a_tick(3) == 3 * of_a_tick(1)


def test_what_is_watched_is_there_for_every_tick() -> None:
    made = machine(heads=2, inputs=PHASES)
    thoughts = made(samples(PHASES), watch=True)
    trace = thoughts.trace
    assert thoughts.ticks == 12
    assert [len(one) for one in (trace.attention, trace.pre, trace.post)] == [12] * 3
    assert trace.attention[0].shape == (3, 2, 12)
    assert trace.attention[-1].shape == (3, 2, 5)
    assert torch.allclose(trace.attention[0].sum(dim=2), torch.ones(3, 2, dtype=torch.float64))
    assert torch.allclose(thoughts.logits, made(samples(PHASES)).logits)


def test_phases_need_an_input_each() -> None:
    with pytest.raises(ValueError, match="expected 3 inputs, one for each phase, got 2"):
        machine(inputs=PHASES)(samples(PHASES)[:2])


def test_thinking_stops_at_the_first_tick_that_is_certain_enough() -> None:
    made = machine()
    given = samples(TOKENS, batch=64)
    thoughts = made(given)
    threshold = thoughts.certainty.detach().quantile(0.7).item()
    answers, ticks = made.until(given, threshold)
    enough = thoughts.certainty >= threshold
    first = torch.where(enough.any(dim=1), enough.long().argmax(dim=1), -1)
    assert 0 < int((first >= 0).sum()) < 64
    used = torch.where(first >= 0, first, thoughts.certainty.argmax(dim=1))
    expected = thoughts.logits.argmax(dim=2).gather(2, used[:, None, None].expand(-1, 2, 1))
    assert torch.equal(ticks, torch.where(first >= 0, first + 1, 4))
    assert torch.equal(answers, expected[:, :, 0])


@pytest.mark.parametrize(("asked", "first"), [(1, 8), (2, 4), (3, 0), (None, 0)])
def test_thinking_does_not_stop_in_a_phase_that_asks_nothing(asked: int, first: int) -> None:
    made = machine(inputs=PHASES)
    given = samples(PHASES, batch=64)
    thoughts = made(given)
    at_once, ticks = made.until(given, 0.0, asked)
    assert set(ticks.tolist()) == {first + 1}
    assert torch.equal(at_once, thoughts.logits[:, :, :, first].argmax(dim=2))
    certainty = thoughts.certainty[:, first:].detach()
    threshold = certainty.max(dim=1).values.median().item()
    answers, ticks = made.until(given, threshold, asked)
    enough = certainty >= threshold
    used = torch.where(enough.any(dim=1), enough.long().argmax(dim=1), certainty.argmax(dim=1))
    assert torch.equal(ticks, torch.where(enough.any(dim=1), first + used + 1, 12))
    expected = thoughts.logits.argmax(dim=2).gather(2, first + used[:, None, None].expand(-1, 2, 1))
    assert torch.equal(answers, expected[:, :, 0])


@pytest.mark.parametrize("asked", [4, 0])
def test_answers_cannot_be_asked_for_in_more_phases_than_there_are(asked: int) -> None:
    with pytest.raises(ValueError, match="answer_phases: expected 1 to 3, got"):
        machine(inputs=PHASES).until(samples(PHASES), 0.5, asked)


def test_a_machine_comes_back_from_its_folder(tmp_path: Path) -> None:
    made = Machine(settings(**KINDS["random pairs"], inputs=PHASES))
    given = [one.float() if one.is_floating_point() else one for one in samples(PHASES)]
    made.save_pretrained(tmp_path / "new" / "folder")
    torch.manual_seed(99)
    read = Machine.from_pretrained(tmp_path / "new" / "folder")
    assert read.settings == made.settings
    assert torch.equal(read(given).logits, made.eval()(given).logits)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a machine's config\.json"):
        Machine.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="got 'llama'"):
        Machine.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"heads": 3}, "heads: 3 do not divide an attention_width of 8"),
        ({"neurons": 10}, "needs at least 11, got 10"),
        ({"pairing": "random", "self_pairs": 9}, "self_pairs: 9"),
    ],
)
def test_what_makes_no_machine_is_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**changed)


@pytest.mark.parametrize("kind", ["lstm", "feed_forward"])
@pytest.mark.parametrize("inputs", [TOKENS, IMAGE, Numbers(size=4), PHASES])
def test_baselines_have_as_many_parameters_as_a_machine(kind: str, inputs: Inputs) -> None:
    made = settings(neurons=48, inputs=inputs)
    given = samples(inputs)
    given = given if isinstance(given, list) else [given]
    given = [one.float() if one.is_floating_point() else one for one in given]
    baseline = matched(kind, made, given if isinstance(inputs, Phases) else given[0])
    wanted = num_parameters(Machine(made))
    assert 0.9 * wanted < num_parameters(baseline) <= wanted
    thoughts = baseline(given if isinstance(inputs, Phases) else given[0])
    num = made.ticks * made.phases if kind == "lstm" else 1
    assert thoughts.logits.shape == (3, 2, 3, num)


def test_half_precision_thinks_nearly_the_same() -> None:
    made = Machine(settings(neurons=64))
    given = samples(TOKENS, batch=16)
    exact = made(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(given)
        loss = rough.logits.square().mean()
    loss.backward()
    assert not torch.equal(rough.logits.float(), exact.logits)
    assert torch.allclose(rough.logits.float(), exact.logits, atol=0.05)
    assert all(torch.isfinite(one.grad).all() for one in made.parameters())


@pytest.mark.slow
def test_a_compiled_machine_gives_the_same_answers_and_gradients() -> None:
    made = Machine(settings(ticks=3))
    given = samples(TOKENS)
    made(given).logits.square().sum().backward()
    expected = {name: one.grad.clone() for name, one in made.named_parameters()}
    made.zero_grad()
    thoughts = torch.compile(made, backend="aot_eager")(given)
    thoughts.logits.square().sum().backward()
    for name, one in made.named_parameters():
        assert torch.allclose(one.grad, expected[name], atol=1e-5), name

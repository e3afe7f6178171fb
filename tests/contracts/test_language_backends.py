"""What every back end for language models promises, by lm-eval's own `HFLM` on the same weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.base import Language
from evaluators.language.backend import BACKENDS, Backend, open_backend
from evaluators.language.scoring_plan import NonFiniteError
from evaluators.lm_harness import LmHarness

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
#: Less than the models' own, so that every back end has the room that it wants.
MAX_LENGTH = 64
WORDS = ("hbjba", "ccfia", "cbjjb", "ehagb", "afeca")


@dataclass(frozen=True)
class Opened:
    """A back end over a resident model that tests may write other weights into."""

    lm: Backend
    language: Language
    #: Of a log-likelihood, in nats.
    tolerance: float

    @property
    def reference(self) -> HFLM:
        language = self.language
        return HFLM(
            pretrained=language.model,
            tokenizer=language.tokenizer,
            batch_size=2,
            max_length=MAX_LENGTH,
        )


def load(name: str, dtype: str, device: str) -> Language:
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    return Language(model=model.to(device).eval(), tokenizer=tokenizer)


def put(language: Language, weights: dict[str, torch.Tensor]) -> None:
    """Writes weights where the resident model's are, as builders do."""
    with torch.inference_mode():
        for name, tensor in language.model.state_dict().items():
            tensor.copy_(weights[name])


def weights_of(language: Language) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in language.model.state_dict().items()}


def open_hf(**settings) -> Opened:
    language = load("base", "float32", "cpu")
    lm = open_backend("hf", language, max_length=MAX_LENGTH, **settings)
    return Opened(lm, language, tolerance=1e-4)


def open_vllm() -> Opened:
    pytest.importorskip("vllm")
    # Its fastest kernels, which every GPU has them for, know no float32.
    language = load("base", "float16", "cuda")
    return Opened(open_backend("vllm", language, max_length=MAX_LENGTH), language, tolerance=0.05)


def open_hf_in_its_own_batches() -> Opened:
    return open_hf()


def open_hf_in_stock_batches() -> Opened:
    return open_hf(batch_size=3)


ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, while it is imported
]


HF = pytest.param(open_hf_in_its_own_batches, id="hf")
HF_STOCK = pytest.param(open_hf_in_stock_batches, id="hf-stock")
VLLM = pytest.param(open_vllm, id="vllm", marks=ON_A_GPU)


@pytest.fixture(scope="module", params=[HF, HF_STOCK, VLLM])
def shared(request):
    opened = request.param()
    return opened, weights_of(opened.language)


@pytest.fixture
def backend(shared):
    """A back end that other tests have used before, with the base's weights."""
    opened, weights = shared
    put(opened.language, weights)
    return opened


def asking(kind: str, *arguments: tuple) -> list[Instance]:
    return [
        Instance(
            request_type=kind,
            doc={},
            arguments=one,
            idx=0,
            metadata=("a_task", place, 1),
        )
        for place, one in enumerate(arguments)
    ]


def answers() -> list[Instance]:
    """Contexts with several answers each, of one and more tokens."""
    pairs = [
        (f"{skill}:{word}=", answer)
        for word in WORDS
        for skill, answer in (
            ("R", word[::-1]),
            ("R", word[::-1][:1]),
            ("S", "".join(sorted(word))),
        )
    ]
    return asking("loglikelihood", *pairs)


def texts() -> list[Instance]:
    """A short text, one of several windows, and one again."""
    short, long = (
        "R:hbjba=abjbh",
        ",".join(f"S:{word}={''.join(sorted(word))}" for word in WORDS * 3),
    )
    return asking("loglikelihood_rolling", (short,), (long,), (short,))


def prompts(**settings) -> list[Instance]:
    wanted = {"until": ["\n"], "max_gen_toks": 5, "do_sample": False, **settings}
    return asking("generate_until", *((f"R:{word}=", dict(wanted)) for word in WORDS))


def values(found: list[tuple[float, bool]]) -> list[float]:
    return [value for value, _ in found]


def score(backend: Opened, requests: list[Instance]) -> list[tuple[float, bool]]:
    return backend.lm.score(backend.lm.plan(requests))


def generate(backend: Opened, requests: list[Instance]) -> list[str]:
    return backend.lm.generate(backend.lm.plan_generation(requests))


def test_scores_and_greedy_flags_are_those_of_hflm(backend):
    found = score(backend, answers())
    expected = backend.reference.loglikelihood(answers(), disable_tqdm=True)
    assert values(found) == pytest.approx(values(expected), abs=backend.tolerance)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert {greedy for _, greedy in found} == {True, False}


def test_parts_score_like_the_whole(backend):
    requests = answers()
    whole = score(backend, requests)
    parts = [
        one for start in range(0, 15, 4) for one in score(backend, requests[start : start + 4])
    ]
    assert values(parts) == pytest.approx(values(whole), abs=backend.tolerance)
    assert [greedy for _, greedy in parts] == [greedy for _, greedy in whole]


def test_an_answer_without_a_context_and_one_with_too_much_of_it_score_like_hflms(backend):
    requests = asking(
        "loglikelihood", ("", "R:hbjba=abjbh"), ("R:hbjba=abjbh\n" * 9 + "R:ccfia=", "aifcc")
    )
    expected = backend.reference.loglikelihood(requests, disable_tqdm=True)
    assert values(score(backend, requests)) == pytest.approx(
        values(expected), abs=backend.tolerance
    )


@pytest.mark.parametrize("answer", ["", "a" * (MAX_LENGTH + 1)])
def test_an_answer_that_no_context_could_lead_to_is_refused_by_document(backend, answer):
    with pytest.raises(ValueError, match=r"'a_task', document 1"):
        backend.lm.plan(asking("loglikelihood", ("R:hbjba=", "a"), ("R:hbjba=", answer)))


def test_whole_texts_score_like_hflms(backend):
    found = backend.lm.score_rolling(backend.lm.plan_rolling(texts()))
    expected = backend.reference.loglikelihood_rolling(texts(), disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-5, abs=20 * backend.tolerance)
    assert found[0] == pytest.approx(found[2], abs=backend.tolerance)


def test_generated_texts_are_those_of_hflm(backend):
    found = generate(backend, prompts())
    assert found == backend.reference.generate_until(prompts(), disable_tqdm=True)
    assert len(set(found)) == len(WORDS)


def test_a_text_ends_before_a_stop_string_of_several_tokens(backend):
    whole = generate(backend, prompts())
    stop = whole[0][2:4]
    found = generate(backend, prompts(until=["nowhere", stop]))
    assert found == [text.split(stop)[0] for text in whole]
    assert found[0] == whole[0][: whole[0].index(stop)]


def test_the_same_weights_give_the_same_bits_twice(backend):
    plan, rolling = backend.lm.plan(answers()), backend.lm.plan_rolling(texts())
    sampled = backend.lm.plan_generation(prompts(do_sample=True, temperature=2.0))
    first = [
        backend.lm.score(plan),
        backend.lm.score_rolling(rolling),
        backend.lm.generate(sampled),
    ]
    again = [
        backend.lm.score(plan),
        backend.lm.score_rolling(rolling),
        backend.lm.generate(sampled),
    ]
    assert first == again


# Stock batches are HFLM's, and so are their draws.
@pytest.mark.parametrize("shared", [HF, VLLM], indirect=True)
def test_draws_depend_on_the_prompt_and_how_often_it_came_alone(backend):
    requests = prompts(do_sample=True, temperature=2.0, max_gen_toks=20)
    whole = generate(backend, requests)
    assert generate(backend, requests[2:3]) == whole[2:3]
    assert len(set(generate(backend, [requests[0]] * 4))) > 1


def test_other_weights_are_seen_at_once_and_give_what_their_own_model_gives(backend):
    plans = [
        (backend.lm.score, backend.lm.plan(answers())),
        (backend.lm.score_rolling, backend.lm.plan_rolling(texts())),
        (backend.lm.generate, backend.lm.plan_generation(prompts())),
    ]
    before = [answer(plan) for answer, plan in plans]
    model = backend.language.model
    put(backend.language, weights_of(load("b", str(model.dtype).removeprefix("torch."), "cpu")))
    scores, whole, made = (answer(plan) for answer, plan in plans)
    assert all(now != then for now, then in zip((scores, whole, made), before, strict=True))
    reference = backend.reference
    assert values(scores) == pytest.approx(
        values(reference.loglikelihood(answers(), disable_tqdm=True)), abs=backend.tolerance
    )
    assert whole == pytest.approx(
        reference.loglikelihood_rolling(texts(), disable_tqdm=True), abs=20 * backend.tolerance
    )
    assert made == reference.generate_until(prompts(), disable_tqdm=True)


@pytest.mark.parametrize("kind", ["score", "score_rolling", "generate"])
def test_weights_that_are_not_numbers_are_a_failure_that_leaves_nothing_behind(backend, kind):
    plans = {
        "score": backend.lm.plan(answers()),
        "score_rolling": backend.lm.plan_rolling(texts()),
        "generate": backend.lm.plan_generation(prompts()),
    }
    before = {name: getattr(backend.lm, name)(plan) for name, plan in plans.items()}
    weights = weights_of(backend.language)
    put(backend.language, {name: tensor * float("nan") for name, tensor in weights.items()})
    with pytest.raises(NonFiniteError, match="not finite"):
        getattr(backend.lm, kind)(plans[kind])
    put(backend.language, weights)
    assert {name: getattr(backend.lm, name)(plan) for name, plan in plans.items()} == before


def test_nothing_asked_is_nothing_answered(backend):
    lm = backend.lm
    assert lm.score(lm.plan([])) == []
    assert lm.score_rolling(lm.plan_rolling([])) == []
    assert lm.generate(lm.plan_generation([])) == []


def test_plans_say_how_many_tokens_they_run(backend):
    lm = backend.lm
    for plan in (lm.plan(answers()), lm.plan_rolling(texts())):
        assert plan.num_tokens > 0
    few, more = lm.plan(answers()[:3]), lm.plan(answers())
    assert few.num_tokens < more.num_tokens


def test_prompts_of_a_chat_are_those_of_hflm(backend, monkeypatch):
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    monkeypatch.setattr(backend.language.tokenizer, "chat_template", template)
    chat = [{"role": "user", "content": "R:hbjba="}]
    reference = backend.reference
    assert backend.lm.apply_chat_template(chat) == reference.apply_chat_template(chat)
    assert backend.lm.tokenizer_name == reference.tokenizer_name


def test_the_settings_name_every_back_end():
    assert set(get_args(get_type_hints(LmHarness)["backend"])) == set(BACKENDS.addresses)


def test_a_back_end_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "evaluators.language.vllm_lm", raising=False)
    monkeypatch.delitem(sys.modules, "evaluators.language.vllm_engine", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'shoal\[vllm\]'"):
        open_backend("vllm", load("base", "float32", "cpu"))


def test_an_unknown_back_end_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'vllm'"):
        open_backend("vlm", load("base", "float32", "cpu"))


@pytest.mark.parametrize("shared", [VLLM], indirect=True)
def test_vllm_refuses_a_model_whose_layers_changed_and_goes_on_with_the_base(backend):
    plan = backend.lm.plan(answers())
    before = backend.lm.score(plan)
    layer = backend.language.model.get_submodule("model.layers.1")
    scaling = layer.register_forward_pre_hook(lambda module, inputs: None)
    with pytest.raises(ValueError, match=r"set evaluate\.backend to hf"):
        backend.lm.score(plan)
    scaling.remove()
    assert backend.lm.score(plan) == before

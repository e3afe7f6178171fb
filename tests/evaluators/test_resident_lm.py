"""Requests that share rows are answered as lm-eval's own class answers them one by one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.language.prefix_rows import Costs
from evaluators.language.resident_lm import NonFiniteError, ResidentLM

BASE = Path(__file__).resolve().parents[2] / "examples" / "models" / "base"
SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
#: Name, settings, whether texts may branch in a row, whether preambles may be kept.
FAMILIES = [
    ("LlamaConfig", {}, True, True),
    ("Qwen2Config", {}, True, True),
    ("Gemma2Config", {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}, True, True),
    ("GraniteConfig", {"logits_scaling": 3.0}, True, True),
    ("GPT2Config", {"n_positions": 160, "head_dim": None}, True, True),
    ("Gemma3TextConfig", {"sliding_window": 24, "query_pre_attn_scalar": 8}, True, True),
    ("MistralConfig", {"sliding_window": 16}, True, True),
    ("MixtralConfig", {"num_local_experts": 4}, True, True),
    ("GPTNeoXConfig", {"num_key_value_heads": 4}, True, True),
    (
        "GPTNeoConfig",
        {"attention_types": [[["global", "local", "global"], 1]], "window_size": 16},
        True,
        True,
    ),
    ("BloomConfig", {"n_layer": 3, "n_head": 4}, False, False),
    ("MambaConfig", {"state_size": 8, "head_dim": None}, False, False),
]


def make_model(kind, changes):
    wanted = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    config = getattr(transformers, kind)(**wanted)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # weights as made are so small that nothing depends on anything
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.25)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def base():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def instance(kind, arguments, document=0, index=0):
    return Instance(kind, {}, arguments, index, metadata=("some", document, 1))


def word(draw, least=3, most=9):
    return "".join(draw.choices("abcdefghij", k=draw.randint(least, most)))


def choices(count, *, seed=0, preamble="", answers=4):
    """Multiple-choice requests with prompts and answers of all lengths."""
    draw = random.Random(seed)
    return [
        instance("loglikelihood", (prompt, word(draw, 1, 7)), document, index)
        for document in range(count)
        for prompt in [f"{preamble}R:{word(draw, 2, 20)}="]
        for index in range(answers)
    ]


def compare(model, tokenizer, requests, *, max_length=None, batch_tokens=None):
    ours = ResidentLM(
        model, tokenizer, batch_size=None, batch_tokens=batch_tokens, max_length=max_length
    )
    # So small a model spends its time on calls; here it is to share as a large one does.
    ours.costs = Costs(pair=0.0013, copied=0.03, call=10)
    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=max_length)
    plan = ours.plan(requests)
    found, expected = ours.score(plan), stock.loglikelihood(requests, disable_tqdm=True)
    assert ours.score(plan) == found, "a second scoring differs"
    assert [flag for _, flag in found] == [flag for _, flag in expected]
    assert [one for one, _ in found] == pytest.approx([one for one, _ in expected], abs=1e-4)
    return ours, plan


@pytest.mark.parametrize(("kind", "changes", "branches", "preambles"), FAMILIES)
def test_models_of_all_kinds_answer_as_stock(tokenizer, kind, changes, branches, preambles):
    model = make_model(kind, changes)
    preamble = "R:abcde=edcba\nR:fghij=jihgf\n" * 2
    requests = choices(9, seed=1) + choices(9, seed=2, preamble=preamble)
    ours, plan = compare(model, tokenizer, requests, max_length=100)
    assert (ours.sharing.branches, ours.sharing.preambles) == (branches, preambles)
    stock = ResidentLM(model, tokenizer, batch_size=4, max_length=100).plan(requests)
    assert (plan.num_tokens < stock.num_tokens / 2) is (branches and "window" not in str(changes))


@pytest.mark.parametrize("batch_tokens", [1, 40, 200, 5000])
def test_any_budget_gives_the_stock_answers(base, tokenizer, batch_tokens):
    requests = choices(20, seed=3, answers=3)
    _, plan = compare(base, tokenizer, requests, batch_tokens=batch_tokens)
    for batch in plan.batches:
        assert batch.tokens.numel() <= batch_tokens or len(batch.tokens) == 1


def test_a_prompt_runs_once_for_all_its_answers(base, tokenizer):
    prompt = "R:abcdeabcdeabcdeabcde="
    requests = [
        instance("loglikelihood", (prompt, answer), index=index)
        for index, answer in enumerate(["abc", "abd", "eabc", "b", "abc"])
    ]
    _, plan = compare(base, tokenizer, requests)
    # Of "ab", "c", "d", "eab", "b" the last tokens are predicted, not fed: "ab" and "eab" remain.
    assert plan.num_tokens == len(tokenizer(prompt)["input_ids"]) + len("ab") + len("eab")


def test_a_common_beginning_runs_once_for_all_documents(base, tokenizer):
    preamble = "R:abcde=edcba\n" * 4
    requests = choices(8, seed=4, preamble=preamble)
    _, plan = compare(base, tokenizer, requests)
    assert len(plan.preambles) == 1
    length = len(tokenizer(preamble)["input_ids"])
    assert plan.preambles[0].shape == (1, length + len("R:"))
    apart = compare(base, tokenizer, choices(8, seed=4))[1]
    assert plan.num_tokens <= length + apart.num_tokens + len("R:")


def test_several_beginnings_are_each_kept_for_their_own(base, tokenizer):
    requests = [
        one
        for number in range(3)
        for one in choices(6, seed=number, preamble=f"R:{'abcdefghij'[number] * 9}=\n" * 4)
    ]
    random.Random(5).shuffle(requests)
    _, plan = compare(base, tokenizer, requests)
    assert len(plan.preambles) == 3


def test_batches_are_a_function_of_the_requests_asked_for(base, tokenizer):
    requests = choices(30, seed=6)
    lm = ResidentLM(base, tokenizer, batch_size=None, batch_tokens=256)
    part = lm.score(lm.plan(requests[:60]))
    lm.score(lm.plan(requests[8:]))
    assert lm.score(lm.plan(requests[:60])) == part
    other = ResidentLM(base, tokenizer, batch_size=None, batch_tokens=256)
    assert other.score(other.plan(requests[:60])) == part


@pytest.mark.parametrize("max_length", [8, 16, 33])
def test_prompts_that_are_too_long_are_cut_as_stock_cuts_them(base, tokenizer, max_length):
    requests = choices(12, seed=7, preamble="R:abcde=edcba\n" * 3)
    compare(base, tokenizer, requests, max_length=max_length)


def test_empty_prompts_and_repeated_requests(base, tokenizer):
    requests = [
        instance("loglikelihood", arguments, document)
        for document, arguments in enumerate(
            [("", "abc"), ("", "<eos>abc"), ("", "b"), ("R:a=", "a"), ("R:a=", "a"), ("a ", "b")]
        )
    ]
    compare(base, tokenizer, requests)


def test_an_answer_without_tokens_names_its_document(base, tokenizer):
    lm = ResidentLM(base, tokenizer, batch_size=None)
    with pytest.raises(ValueError, match=r"task 'some', document 7: its answer has 0 tokens"):
        lm.plan([instance("loglikelihood", ("R:", ""), 7)])


@pytest.mark.parametrize("max_length", [None, 20])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_whole_texts_are_scored_as_stock(base, tokenizer, max_length, batch_size):
    draw = random.Random(8)
    texts = [" ".join(word(draw) for _ in range(draw.randint(1, 12))) for _ in range(9)]
    requests = [instance("loglikelihood_rolling", (text,), i) for i, text in enumerate(texts)]
    ours = ResidentLM(base, tokenizer, batch_size=batch_size, max_length=max_length)
    stock = HFLM(pretrained=base, tokenizer=tokenizer, batch_size=3, max_length=max_length)
    plan = ours.plan_rolling(requests)
    found = ours.score_rolling(plan)
    expected = stock.loglikelihood_rolling(requests, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=1e-4)
    assert (max(plan.num_windows) > 1) is (max_length is not None)
    if batch_size:
        assert found == expected


@pytest.mark.parametrize("batch_size", [None, 4])
def test_logits_that_are_not_finite_name_the_document(tokenizer, batch_size):
    model = make_model("LlamaConfig", {})
    lm = ResidentLM(model, tokenizer, batch_size=batch_size)
    plan = lm.plan(choices(3))
    rolling = lm.plan_rolling([instance("loglikelihood_rolling", ("abc",), 4)])
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("R")["input_ids"][0]] = float("nan")
    with pytest.raises(NonFiniteError, match=r"12 of 12, first that of task 'some', document 0"):
        lm.score(plan)
    assert all(torch.isfinite(torch.tensor(lm.score_rolling(rolling))))
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = float("inf")
    with pytest.raises(NonFiniteError, match=r"document 4"):
        lm.score_rolling(rolling)


class Cramped:
    """Stands for a device's memory: refuses batches of more tokens."""

    def __init__(self, model, most):
        self.seen = []
        self.most = most
        self.hook = model.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, module, inputs, named):
        tokens = named["input_ids"] if "input_ids" in named else inputs[0]
        self.seen.append(tokens.numel())
        if tokens.numel() > self.most:
            raise torch.OutOfMemoryError("out of memory")


def test_a_batch_that_does_not_fit_is_halved_for_good(base, tokenizer):
    lm = ResidentLM(base, tokenizer, batch_size=None, batch_tokens=4096)
    requests = choices(24, seed=9)
    plan = lm.plan(requests)
    expected = lm.score(plan)
    memory = Cramped(base, 200)
    try:
        found = lm.score(plan)
        assert [one for one, _ in found] == pytest.approx([one for one, _ in expected], abs=1e-4)
        assert max(memory.seen) > 200
        memory.seen.clear()
        lm.score(plan)
        lm.score(lm.plan(requests[::-1]))
        assert max(memory.seen) <= 200
    finally:
        memory.hook.remove()


def test_a_single_row_that_does_not_fit_is_an_error(base, tokenizer):
    lm = ResidentLM(base, tokenizer, batch_size=None)
    plan = lm.plan(choices(4))
    memory = Cramped(base, 10)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            lm.score(plan)
    finally:
        memory.hook.remove()


def test_the_plain_interface_of_lm_eval_plans_and_scores_in_one_go(base, tokenizer):
    lm = ResidentLM(base, tokenizer, batch_size=None)
    requests = choices(5)
    assert lm.loglikelihood(requests) == lm.score(lm.plan(requests))
    rolling = [instance("loglikelihood_rolling", ("abc def",))]
    assert lm.loglikelihood_rolling(rolling) == lm.score_rolling(lm.plan_rolling(rolling))
    text = [instance("generate_until", ("R:abcde=", {"until": ["\n"], "max_gen_toks": 5}))]
    assert lm.generate_until(text) == lm.generate(lm.plan_generation(text))

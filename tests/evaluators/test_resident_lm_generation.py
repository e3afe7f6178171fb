"""Texts that are generated in our own batches are those of lm-eval's own class."""

from __future__ import annotations

import random
from collections import Counter
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
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture
def base():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def make_model(kind, **changes):
    wanted = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(
        getattr(transformers, kind)(**wanted), dtype=torch.float32
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.25)
    return model.eval()


def prompts(count, preamble=""):
    draw = random.Random(count)
    return [
        f"{preamble}R:{''.join(draw.choices('abcdefghij', k=draw.randint(2, 14)))}="
        for _ in range(count)
    ]


def requests_for(contexts, **settings):
    wanted = {"until": ["\n"], "max_gen_toks": 12, **settings}
    return [
        Instance("generate_until", {}, (context, dict(wanted)), 0, metadata=("some", place, 1))
        for place, context in enumerate(contexts)
    ]


def open_lm(model, tokenizer, **settings):
    lm = ResidentLM(model, tokenizer, batch_size=None, **settings)
    lm.costs = Costs(pair=0.0013, copied=0.03, call=10)
    return lm


def stock_texts(model, tokenizer, requests, batch_size=1, **settings):
    """One at a time unless said otherwise: stock goes on in a row until all of a batch end."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **settings)
    return lm.generate_until(requests, disable_tqdm=True)


@pytest.mark.parametrize("until", [["\n"], ["<eos>"], ["cd", "a="], "b", [], ["=", "zzzz"]])
def test_greedy_texts_are_the_stock_ones(base, tokenizer, until):
    requests = requests_for(prompts(15), until=until)
    lm = open_lm(base, tokenizer)
    plan = lm.plan_generation(requests)
    assert not plan.rest
    found = lm.generate(plan)
    assert found == stock_texts(base, tokenizer, requests)
    assert found == stock_texts(base, tokenizer, requests, batch_size=8)
    assert len(set(found)) > 3
    assert lm.generate(plan) == found


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Qwen2Config", {}),
        (
            "Gemma3TextConfig",
            {"sliding_window": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": False},
        ),
        ("MistralConfig", {"sliding_window": 8}),
        ("MixtralConfig", {"num_local_experts": 4}),
        ("GPT2Config", {"n_layer": 2, "n_head": 4, "n_positions": 160, "head_dim": None}),
        ("BloomConfig", {"n_layer": 2, "n_head": 4}),
        ("MambaConfig", {"state_size": 8, "head_dim": None}),
    ],
)
def test_models_of_all_kinds_write_as_stock(tokenizer, kind, changes):
    model = make_model(kind, **changes)
    requests = requests_for(prompts(7, "R:abcde=edcba\n" * 3), until=["ab", "7"], max_gen_toks=20)
    lm = open_lm(model, tokenizer)
    found = lm.generate(lm.plan_generation(requests))
    assert found == stock_texts(model, tokenizer, requests)
    assert len(set(found)) > 2


def test_a_common_beginning_runs_once_for_all_prompts(base, tokenizer):
    preamble = "R:abcde=edcba\n" * 4
    requests = requests_for(prompts(9, preamble))
    lm = open_lm(base, tokenizer)
    plan = lm.plan_generation(requests)
    assert len(plan.preambles) == 1
    assert plan.num_tokens < 9 * plan.preambles[0].numel() / 2
    assert lm.generate(plan) == stock_texts(base, tokenizer, requests)


def test_long_prompts_are_cut_to_leave_room(base, tokenizer):
    requests = requests_for(prompts(5, "R:abcde=edcba\n" * 3), max_gen_toks=10)
    lm = open_lm(base, tokenizer, max_length=30)
    found = lm.generate(lm.plan_generation(requests))
    assert found == stock_texts(base, tokenizer, requests, max_length=30)


def test_no_room_for_a_prompt_names_the_document(base, tokenizer):
    lm = open_lm(base, tokenizer, max_length=20)
    with pytest.raises(ValueError, match=r"'some', document 0: asks for 20 new tokens"):
        lm.plan_generation(requests_for(["R:"], max_gen_toks=20))


def test_rows_leave_the_batch_as_their_texts_end(base, tokenizer):
    requests = requests_for(prompts(16), until=["a"], max_gen_toks=30)
    lm = open_lm(base, tokenizer)
    plan = lm.plan_generation(requests)
    assert len(plan.batches) == 1
    rows = []
    hook = base.register_forward_pre_hook(
        lambda module, inputs, named: rows.append(len(named["input_ids"])), with_kwargs=True
    )
    lm.generate(plan)
    hook.remove()
    assert rows[0] == 16
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 8


def test_settings_of_several_tasks_are_kept_apart(base, tokenizer):
    short = requests_for(prompts(4), max_gen_toks=2)
    requests = short + requests_for(prompts(5), until=["b"])
    lm = open_lm(base, tokenizer)
    plan = lm.plan_generation(requests)
    assert len(plan.batches) == 2
    assert lm.generate(plan) == stock_texts(base, tokenizer, requests)


@pytest.mark.parametrize(
    ("settings", "is_ours"),
    [({"num_beams": 2}, False), ({"no_repeat_ngram_size": 2}, False), ({"num_beams": 1}, True)],
)
def test_what_the_loop_does_not_know_is_left_to_stock(base, tokenizer, settings, is_ours):
    requests = requests_for(prompts(4), **settings)
    lm = open_lm(base, tokenizer)
    plan = lm.plan_generation(requests)
    assert (plan.rest == ()) is is_ours
    assert lm.generate(plan) == stock_texts(base, tokenizer, requests)


def test_the_models_own_settings_hold_as_in_stock(base, tokenizer):
    base.generation_config.repetition_penalty = 5.0
    requests = requests_for(prompts(6), until=["zz"])
    lm = open_lm(base, tokenizer)
    plan = lm.plan_generation(requests)
    assert not plan.rest
    found = lm.generate(plan)
    assert found == stock_texts(base, tokenizer, requests)
    base.generation_config.repetition_penalty = 1.0
    assert found != lm.generate(lm.plan_generation(requests))


def test_sampled_texts_are_the_same_each_time_and_in_any_company(base, tokenizer):
    requests = requests_for(prompts(6), do_sample=True, temperature=1.5, until=["zz"])
    lm = open_lm(base, tokenizer)
    found = lm.generate(lm.plan_generation(requests))
    assert lm.generate(lm.plan_generation(requests)) == found
    assert lm.generate(lm.plan_generation(requests[2:4])) == found[2:4]
    greedy = requests_for(prompts(6), until=["zz"])
    assert lm.generate(lm.plan_generation(greedy)) != found


def test_repeats_of_a_sampled_prompt_differ(base, tokenizer):
    requests = requests_for(["R:abcde="] * 8, do_sample=True, temperature=2.0, until=["zz"])
    lm = open_lm(base, tokenizer)
    assert len(set(lm.generate(lm.plan_generation(requests)))) > 4


def test_samples_follow_the_models_probabilities(base, tokenizer):
    """First tokens, drawn a thousand times, against the shares that top_k and top_p leave."""
    settings = {"do_sample": True, "temperature": 3.0, "top_k": 6, "top_p": 0.9}
    requests = requests_for(["R:abcde="] * 1000, max_gen_toks=1, **settings)
    lm = open_lm(base, tokenizer)
    counts = Counter(lm.generate(lm.plan_generation(requests)))
    ids = torch.tensor([tokenizer("R:abcde=")["input_ids"]])
    with torch.inference_mode():
        shares = (base(ids).logits[0, -1] / 3.0).softmax(-1)
    best = shares.sort(descending=True)
    kept = best.values[:6] / best.values[:6].sum()
    kept = kept[kept.cumsum(-1) - kept < 0.9]
    kept = kept / kept.sum()
    for share, token in zip(kept.tolist(), best.indices.tolist(), strict=False):
        text = tokenizer.decode([token], skip_special_tokens=True).split("\n")[0]
        assert counts[text] == pytest.approx(1000 * share, abs=60), text
    assert len(kept) > 2


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True, "temperature": 1}])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_logits_that_are_not_finite_are_an_error(base, tokenizer, settings, batch_size):
    lm = ResidentLM(base, tokenizer, batch_size=batch_size)
    plan = lm.plan_generation(requests_for(prompts(3), **settings))
    lm.generate(plan)
    with torch.no_grad():
        base.get_output_embeddings().weight[20] = float("nan")
    with pytest.raises(NonFiniteError, match="not finite"):
        lm.generate(plan)


def test_a_batch_that_does_not_fit_is_halved_for_good(base, tokenizer):
    requests = requests_for(prompts(12))
    lm = open_lm(base, tokenizer)
    plan = lm.plan_generation(requests)
    seen = []

    def refuse(module, inputs, named):
        seen.append(len(named["input_ids"]))
        if seen[-1] > 3:
            raise torch.OutOfMemoryError("out of memory")

    expected = lm.generate(plan)
    hook = base.register_forward_pre_hook(refuse, with_kwargs=True)
    assert lm.generate(plan) == expected
    seen.clear()
    lm.generate(plan)
    hook.remove()
    assert max(seen) == 3


def test_with_a_batch_size_the_texts_are_those_of_stock_batches(base, tokenizer):
    requests = requests_for(prompts(7), until=["a"])
    lm = ResidentLM(base, tokenizer, batch_size=3)
    found = lm.generate(lm.plan_generation(requests))
    assert found == stock_texts(base, tokenizer, requests, batch_size=3)

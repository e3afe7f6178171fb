"""Every document of every kind of task is answered as the stock class answers it, in float32.

Both run through lm-eval's own `simple_evaluate`, ours with batches of its own.
"""

from __future__ import annotations

import random

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evaluators.language.resident_lm import ResidentLM

LETTERS = "abcdefghij"
CHAT = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def metric(name, aggregation="mean", higher_is_better=True):
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}


CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "target_delimiter": "",
    "metric_list": [metric("acc"), metric("acc_norm")],
}
ANSWER = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{choices[gold]}}",
    "target_delimiter": "",
    "metric_list": [metric("acc"), metric("perplexity", "perplexity", False)],
}
GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{choices[gold]}}",
    "target_delimiter": "",
    "generation_kwargs": {"until": ["<eos>", "\n"], "do_sample": False, "max_gen_toks": 8},
    "filter_list": [
        {
            "name": "letters",
            "filter": [
                {"function": "regex", "regex_pattern": f"([a-j]{{{count}}})"},
                {"function": "take_first"},
            ],
        }
        for count in (5,)
    ],
    "metric_list": [metric("exact_match")],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        metric("word_perplexity", "weighted_perplexity", False),
        metric("bits_per_byte", "bits_per_byte", False),
    ],
}


def word(draw, length=5):
    return "".join(draw.choices(LETTERS, k=length))


def questions(count, seed, lengths=(1, 2, 5, 8), start="R:"):
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        asked, place = word(draw), draw.randrange(4)
        answers = [word(draw, draw.choice(lengths)) for _ in range(3)]
        answers.insert(place, asked[::-1])
        rows.append({"prompt": f"{start}{asked}=", "choices": answers, "gold": place})
    return rows


def texts(count, seed, words=6):
    draw = random.Random(seed)
    return [{"text": " ".join(word(draw) for _ in range(words))} for _ in range(count)]


def compare(language, folder, tasks, *, max_length=None, **settings):
    """Runs both classes and compares each answer and each metric of each document."""
    own = ResidentLM(language.model, language.tokenizer, batch_size=None, max_length=max_length)
    stock = HFLM(
        pretrained=language.model,
        tokenizer=language.tokenizer,
        backend="causal",
        batch_size=4,
        max_length=max_length,
    )
    found, expected = (
        lm_eval.simple_evaluate(
            model=lm,
            tasks=tasks,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
            **settings,
        )
        for lm in (own, stock)
    )
    assert found["results"].keys() == expected["results"].keys()
    for name, values in expected["results"].items():
        for key, value in values.items():
            near = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            assert found["results"][name][key] == near, (name, key)
    count = 0
    for task, samples in expected["samples"].items():
        for sample, other in zip(found["samples"][task], samples, strict=True):
            assert sample["doc_id"] == other["doc_id"]
            assert sample["arguments"] == other["arguments"]
            same_answers(sample["resps"], other["resps"])
            count += 1
    return expected["results"], count


def same_answers(found, expected):
    if isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same_answers(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("name", ["base", "a", "b"])
def test_the_shipped_tasks(at_root, open_language, name):
    tasks = [f"skill_{skill}_{rows}" for skill in "ab" for rows in ("search", "test")]
    results, count = compare(open_language(name), "examples/tasks", tasks, limit=150)
    assert count == 600
    assert max(results[task]["acc,none"] for task in tasks) > 0


@pytest.mark.parametrize("sampler", ["default", "first_n"])
@pytest.mark.parametrize("shots", [0, 3])
def test_multiple_choice(open_language, write_task, shots, sampler):
    folder = write_task(
        "choice",
        questions(40, 1),
        shots=questions(12, 2),
        num_fewshot=shots,
        fewshot_config={"sampler": sampler},
        **CHOICE,
    )
    results, count = compare(open_language(), folder, ["choice"])
    assert count == 40
    assert 0 < results["choice"]["acc_norm,none"] < 1


def test_examples_that_all_prompts_begin_with_run_once(open_language, write_task):
    folder = write_task(
        "choice",
        questions(40, 1, lengths=(5,)),
        shots=questions(12, 2),
        num_fewshot=5,
        fewshot_config={"sampler": "first_n"},
        **CHOICE,
    )
    language = open_language()
    task = TaskManager(include_path=folder, include_defaults=False).load(["choice"])["tasks"]
    task["choice"].build_all_requests()
    lm = ResidentLM(language.model, language.tokenizer, batch_size=None)
    plan = lm.plan(task["choice"].instances)
    own = ResidentLM(language.model, language.tokenizer, batch_size=16)
    assert len(plan.preambles) == 1
    assert plan.num_tokens < own.plan(task["choice"].instances).num_tokens / 6


def test_answers_by_log_likelihood(open_language, write_task):
    folder = write_task("answer", questions(40, 3), **ANSWER)
    results, _ = compare(open_language("a"), folder, ["answer"])
    assert results["answer"]["acc,none"] > 0


@pytest.mark.parametrize("shots", [0, 2])
def test_generated_answers_through_a_filter(open_language, write_task, shots):
    folder = write_task(
        "generate", questions(24, 4), shots=questions(9, 5), num_fewshot=shots, **GENERATE
    )
    results, _ = compare(open_language("a"), folder, ["generate"])
    assert results["generate"]["exact_match,letters"] > 0 or shots


@pytest.mark.parametrize("max_length", [None, 24])
def test_whole_texts(open_language, write_task, max_length):
    folder = write_task("texts", texts(11, 6), **ROLLING)
    compare(open_language(), folder, ["texts"], max_length=max_length)


def test_prompts_in_a_chat_template(open_language, write_task):
    language = open_language()
    language.tokenizer.chat_template = CHAT
    folder = write_task("chat", questions(20, 7), shots=questions(9, 8), num_fewshot=2, **CHOICE)
    compare(language, folder, ["chat"], apply_chat_template=True, fewshot_as_multiturn=True)


def test_prompts_longer_than_the_model(open_language, write_task):
    folder = write_task("cut", questions(20, 9, start="x" * 15 + "R:"), **CHOICE)
    compare(open_language(), folder, ["cut"], max_length=16)


def test_prompts_without_a_word(open_language, write_task):
    rows = [{**row, "prompt": ""} for row in questions(12, 10)]
    folder = write_task("empty", rows, **CHOICE)
    compare(open_language(), folder, ["empty"])


def test_groups_and_several_kinds_at_once(open_language, write_task, write_group):
    folder = write_task("many", questions(30, 11), **CHOICE)
    write_task("few", questions(7, 12), **CHOICE)
    write_task("generate", questions(6, 13), **GENERATE)
    write_task("texts", texts(4, 14), **ROLLING)
    write_group(
        "duo", ["many", "few"], aggregate_metric_list=[{"metric": "acc", "weight_by_size": True}]
    )
    _, count = compare(open_language(), folder, ["duo", "generate", "texts"])
    assert count == 47


def test_tokens_that_reach_from_the_prompt_into_the_answer(open_language, write_task):
    """A tokenizer that merges letters writes prompt and answer together in other tokens."""
    language = open_language()
    draw = random.Random(15)
    merging = Tokenizer(models.BPE(unk_token="<unk>"))
    merging.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=99, special_tokens=["<pad>", "<eos>", "<unk>"])
    merging.train_from_iterator([f"R:{word(draw)}={word(draw)}" for _ in range(400)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=merging, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    rows = [{**row, "prompt": row["prompt"][:-1]} for row in questions(30, 16, lengths=(7, 9))]
    first = rows[0]["prompt"] + rows[0]["choices"][0]
    apart = [rows[0]["prompt"], rows[0]["choices"][0]]
    assert tokenizer.tokenize(first) != [t for part in apart for t in tokenizer.tokenize(part)]
    folder = write_task("merged", rows, **CHOICE)
    compare(type(language)(model=language.model, tokenizer=tokenizer), folder, ["merged"])

"""The suite's scores are those of the stock `lm_eval.simple_evaluate`, exactly."""

from __future__ import annotations

import random

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evaluators.lm_harness import LmHarness, Objective

LETTERS = "abcdefghij"


def metric(name, aggregation="mean", higher_is_better=True, **extra):
    return {
        "metric": name,
        "aggregation": aggregation,
        "higher_is_better": higher_is_better,
        **extra,
    }


def words(count, seed):
    draw = random.Random(seed)
    return ["".join(draw.choices(LETTERS, k=5)) for _ in range(count)]


def choices(count, seed, lengths=(5,)):
    """Questions with four answers of several lengths, one of them right."""
    draw = random.Random(seed)
    rows = []
    for word in words(count, seed):
        answers = ["".join(draw.choices(LETTERS, k=draw.choice(lengths))) for _ in range(3)]
        place = draw.randrange(4)
        answers.insert(place, word[::-1])
        rows.append({"prompt": f"R:{word}=", "choices": answers, "gold": place})
    return rows


def guesses(count, seed):
    """Questions whose answers have nothing to do with them: a model is right now and then."""
    return [{**row, "gold": place % 4} for place, row in enumerate(choices(count, seed, (2, 5)))]


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
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [metric("acc"), metric("perplexity", "perplexity", False)],
}
GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "generation_kwargs": {"until": ["<eos>", "\n"], "do_sample": False, "max_gen_toks": 6},
    "filter_list": [
        {
            "name": "five",
            "filter": [
                {"function": "regex", "regex_pattern": "([a-j]{5})"},
                {"function": "take_first"},
            ],
        },
        {
            "name": "one",
            "filter": [
                {"function": "regex", "regex_pattern": "([a-j])"},
                {"function": "take_first"},
            ],
        },
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


def answers(count, seed):
    return [{"prompt": f"R:{word}=", "answer": word[::-1]} for word in words(count, seed)]


def texts(count, seed, length=6):
    every = words(count * length, seed)
    return [{"text": " ".join(every[start::count])} for start in range(count)]


def stock(language, settings):
    """The results of the stock command's own function on the same model."""
    lm = HFLM(
        pretrained=language.model,
        tokenizer=language.tokenizer,
        backend="causal",
        batch_size=settings.batch_size,
        max_length=settings.max_length,
    )
    found = lm_eval.simple_evaluate(
        model=lm,
        tasks=[objective.name for objective in settings.tasks],
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        apply_chat_template=settings.apply_chat_template,
        task_manager=TaskManager(include_path=settings.include_path, include_defaults=False),
        log_samples=False,
        bootstrap_iters=0,
    )
    return {**found["results"], **found.get("groups", {})}


def compare(open_language, settings, keys, *, dtype, name="base"):
    """Checks each task's value against the stock result of its own key."""
    suite = settings.open(open_language(name, dtype))
    score = suite.evaluate("search")
    assert suite.evaluate("search") == score, "a second evaluation differs"
    expected = stock(open_language(name, dtype), settings)
    for objective, key in zip(settings.tasks, keys, strict=True):
        assert score.tasks[objective.name].value == expected[objective.name][key], key
    return score, expected


def harness(folder, *objectives, batch_size=8, **changes):
    tasks = tuple(Objective(name=name, metric=metric) for name, metric in objectives)
    return LmHarness(tasks=tasks, include_path=folder, batch_size=batch_size, **changes)


both_types = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


@both_types
@pytest.mark.parametrize("name", ["base", "b"])
def test_the_example_tasks_score_as_the_stock_command_does(at_root, open_language, dtype, name):
    settings = harness(
        "examples/tasks",
        ("skill_a_search", "acc"),
        ("skill_b_search", "acc"),
        batch_size=64,
        limit=48,
    )
    score, _ = compare(open_language, settings, ["acc,none", "acc,none"], dtype=dtype, name=name)
    values = [task.value for task in score.tasks.values()]
    assert score.fitness == sum(values)
    assert 0 < max(values) <= 1


@both_types
def test_log_likelihoods_score_as_stock_to_the_last_digit(open_language, write_task, dtype):
    folder = write_task("answers", answers(40, 1), **ANSWER)
    settings = harness(folder, ("answers", "perplexity"))
    score, _ = compare(open_language, settings, ["perplexity,none"], dtype=dtype)
    assert score.tasks["answers"].weight == -1.0
    assert score.fitness == -score.tasks["answers"].value


@both_types
@pytest.mark.parametrize("batch_size", [1, 7])
def test_multiple_choice_scores_as_stock(open_language, write_task, dtype, batch_size):
    """Both metrics come from the same answers: one task, under two names."""
    rows = choices(24, 2, (1, 2, 5, 9))
    folder = write_task("plain", rows, **CHOICE)
    write_task("norm", rows, **CHOICE)
    settings = harness(folder, ("plain", "acc"), ("norm", "acc_norm"), batch_size=batch_size)
    score, _ = compare(open_language, settings, ["acc,none", "acc_norm,none"], dtype=dtype)
    values = {name: task.value for name, task in score.tasks.items()}
    assert 0 < values["plain"] < 1
    assert values["plain"] != values["norm"]
    assert [len(task.per_document) for task in score.tasks.values()] == [24, 24]


@both_types
def test_choices_of_one_token_share_a_row_and_score_as_stock(open_language, write_task, dtype):
    rows = [
        {"prompt": f"R:{word}=", "choices": list("abcdefghij"), "gold": LETTERS.index(word[-1])}
        for word in words(25, 3)
    ]
    folder = write_task("letters", rows, **CHOICE)
    settings = harness(folder, ("letters", "acc"), batch_size=4)
    compare(open_language, settings, ["acc,none"], dtype=dtype)
    suite = settings.open(open_language("base", dtype))
    plan = suite.part("search").plan
    assert plan.num_requests == 250
    assert sum(len(batch.tokens) for batch in plan.batches) == len({row["prompt"] for row in rows})


@both_types
@pytest.mark.parametrize("shots", [None, 2])
def test_two_shot_choices_score_as_stock(open_language, write_task, dtype, shots):
    """The number of examples is the task's own, or the campaign's."""
    own = {"num_fewshot": 2} if shots is None else {}
    folder = write_task("shots", choices(20, 4), shots=choices(9, 5), **CHOICE, **own)
    settings = harness(folder, ("shots", "acc_norm"), num_fewshot=shots)
    score, _ = compare(open_language, settings, ["acc_norm,none"], dtype=dtype)
    suite = settings.open(open_language("base", dtype))
    prompt = suite.part("search")._requests["loglikelihood"][0].args[0]
    assert prompt.count("R:") == 3
    assert score.fitness > 0


def test_a_task_that_says_zero_shots_keeps_them_whatever_the_campaign_says(
    open_language, write_task
):
    folder = write_task("none", choices(12, 6), shots=choices(9, 7), num_fewshot=0, **CHOICE)
    compare(
        open_language,
        harness(folder, ("none", "acc"), num_fewshot=2),
        ["acc,none"],
        dtype="float32",
    )


@pytest.mark.parametrize("shots", [0, 2])
def test_prompts_in_a_chat_template_score_as_stock(open_language, write_task, shots):
    def chatty(name, dtype):
        language = open_language(name, dtype)
        language.tokenizer.chat_template = (
            "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}"
            "{% if add_generation_prompt %}a:{% endif %}"
        )
        return language

    rows, examples = choices(16, 8, (2, 5)), choices(9, 9)
    folder = write_task("chat", rows, shots=examples, num_fewshot=shots, **CHOICE)
    settings = harness(folder, ("chat", "acc_norm"), apply_chat_template=True)
    compare(chatty, settings, ["acc_norm,none"], dtype="float32")
    ours = settings.open(chatty("base", "float32")).part("search")._requests["loglikelihood"]
    assert ours[0].args[0].count("u:") == shots + 1


@both_types
def test_generated_answers_score_as_stock_through_each_filter(open_language, write_task, dtype):
    folder = write_task("generate", answers(16, 10), **GENERATE)
    write_task("letter", answers(16, 10), **GENERATE)
    keys = ["exact_match,five", "exact_match,one"]
    settings = harness(folder, ("generate", keys[0]), ("letter", keys[1]))
    score, _ = compare(open_language, settings, keys, dtype=dtype, name="a")
    assert score.tasks["generate"].value > 0 == score.tasks["letter"].value


def test_a_metric_of_several_filters_must_say_which(open_language, write_task):
    folder = write_task("generate", answers(4, 10), **GENERATE)
    suite = harness(folder, ("generate", "exact_match")).open(open_language())
    with pytest.raises(ValueError, match=r"ambiguous.*exact_match,five, exact_match,one"):
        suite.evaluate("search")


@both_types
@pytest.mark.parametrize("key", ["word_perplexity", "bits_per_byte"])
def test_rolling_perplexity_scores_as_stock_and_counts_against(
    open_language, write_task, dtype, key
):
    folder = write_task("texts", texts(9, 11), **ROLLING)
    settings = harness(folder, ("texts", key))
    score, _ = compare(open_language, settings, [f"{key},none"], dtype=dtype)
    assert score.tasks["texts"].value > 0
    assert score.fitness == -score.tasks["texts"].value


def test_a_direction_given_by_the_campaign_overrides_the_tasks_own(open_language, write_task):
    folder = write_task("texts", texts(3, 12), **ROLLING)
    language = open_language()

    def fitness(direction):
        objective = Objective(
            name="texts", metric="word_perplexity", weight=0.5, direction=direction
        )
        settings = LmHarness(tasks=(objective,), include_path=folder)
        return settings.open(language).evaluate("search").fitness

    assert fitness(None) == fitness("minimize") == -fitness("maximize") < 0


@both_types
def test_text_longer_than_the_context_is_cut_as_stock_cuts_it(open_language, write_task, dtype):
    folder = write_task("long", texts(4, 13, length=12), **ROLLING)
    settings = harness(folder, ("long", "word_perplexity"), max_length=32)
    compare(open_language, settings, ["word_perplexity,none"], dtype=dtype)


@both_types
def test_prompts_longer_than_the_context_are_cut_as_stock_cuts_them(
    open_language, write_task, dtype
):
    rows = [{**row, "prompt": "x" * 20 + row["prompt"]} for row in choices(12, 14)]
    folder = write_task("cut", rows, **CHOICE)
    settings = harness(folder, ("cut", "acc"), max_length=16)
    compare(open_language, settings, ["acc,none"], dtype=dtype)


@both_types
@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_scores_as_stock(open_language, write_task, write_group, dtype, by_size):
    folder = write_task("many", guesses(30, 15), **CHOICE)
    write_task("few", guesses(7, 16), **CHOICE)
    write_group(
        "duo",
        ["many", "few"],
        aggregate_metric_list=[{"metric": "acc", "weight_by_size": by_size}],
    )
    settings = harness(folder, ("duo", "acc"))
    score, expected = compare(open_language, settings, ["acc,none"], dtype=dtype)
    assert score.tasks["duo"].documents == 37
    parts = [expected[name]["acc,none"] for name in ("many", "few")]
    assert parts[0] != parts[1]


def test_a_group_of_perplexities_counts_against(open_language, write_task, write_group):
    folder = write_task("one", texts(3, 17), **ROLLING)
    write_task("two", texts(3, 18), **ROLLING)
    write_group("both", ["one", "two"], aggregate_metric_list=[{"metric": "bits_per_byte"}])
    score, _ = compare(
        open_language,
        harness(folder, ("both", "bits_per_byte")),
        ["bits_per_byte,none"],
        dtype="float32",
    )
    assert score.fitness == -score.tasks["both"].value


def test_tasks_of_several_kinds_in_one_suite_score_as_each_alone(open_language, write_task):
    folder = write_task("choices", choices(12, 19, (2, 5)), **CHOICE)
    write_task("generate", answers(8, 20), **GENERATE)
    write_task("texts", texts(4, 21), **ROLLING)
    write_task("answers", answers(9, 22), **ANSWER)
    objectives = [
        ("choices", "acc"),
        ("generate", "exact_match,five"),
        ("texts", "bits_per_byte"),
        ("answers", "acc"),
    ]
    keys = ["acc,none", "exact_match,five", "bits_per_byte,none", "acc,none"]
    score, _ = compare(open_language, harness(folder, *objectives), keys, dtype="float32", name="a")
    parts = score.tasks
    assert score.fitness == pytest.approx(
        parts["choices"].value
        + parts["generate"].value
        - parts["texts"].value
        + parts["answers"].value
    )

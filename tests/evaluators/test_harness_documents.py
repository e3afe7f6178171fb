"""Chosen documents score as they do among all others, and as the stock command scores them."""

from __future__ import annotations

import math
import random

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evaluators.documents import quantise
from evaluators.harness import suite as harness_suite
from evaluators.lm_harness import LmHarness, Objective
from evaluators.pooling import pool

LETTERS = "abcdefghij"


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
    "metric_list": [metric("exact_match")],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [metric("bits_per_byte", "bits_per_byte", False)],
}


def words(count, seed):
    draw = random.Random(seed)
    return ["".join(draw.choices(LETTERS, k=5)) for _ in range(count)]


def choices(count, seed):
    draw = random.Random(seed)
    rows = []
    for word in words(count, seed):
        answers = ["".join(draw.choices(LETTERS, k=draw.choice((1, 2, 5, 9)))) for _ in range(3)]
        place = draw.randrange(4)
        answers.insert(place, word[::-1])
        rows.append({"prompt": f"R:{word}=", "choices": answers, "gold": place})
    return rows


def answers(count, seed):
    return [{"prompt": f"R:{word}=", "answer": word[::-1]} for word in words(count, seed)]


def texts(count, seed):
    return [{"text": f"R:{word}={word[::-1]}"} for word in words(count, seed)]


def harness(folder, *objectives, **changes):
    tasks = tuple(Objective(name=name, metric=metric) for name, metric in objectives)
    return LmHarness(tasks=tasks, include_path=folder, **changes)


@pytest.fixture
def mixed(write_task):
    """One task of each kind whose value is a mean, and one whose value is not."""
    folder = write_task("choices", choices(12, 1), **CHOICE)
    write_task("answers", answers(11, 2), **ANSWER)
    write_task("generate", answers(6, 3), **GENERATE)
    write_task("texts", texts(5, 4), **ROLLING)
    return harness(
        folder,
        ("choices", "acc_norm"),
        ("answers", "acc"),
        ("generate", "exact_match"),
        ("texts", "bits_per_byte"),
    )


@pytest.fixture
def means(mixed):
    return LmHarness(tasks=mixed.tasks[:3], include_path=mixed.include_path)


BLOCKS = (
    {"choices": (3, 0, 7), "answers": (10, 2, 3, 4), "generate": (5, 0)},
    {"choices": (1, 2, 4, 5, 6), "generate": (1, 2, 3, 4)},
    {"choices": (11, 10, 9, 8), "answers": (0, 1, 5, 6, 7, 8, 9), "generate": ()},
)


def test_parts_put_together_are_the_whole(open_language, means):
    """In 32 bits."""
    suite = means.open(open_language("b"))
    whole = suite.evaluate("search")
    parts = [suite.evaluate("search", documents=block) for block in BLOCKS]
    pooled = pool(parts)
    assert pooled.fitness == pytest.approx(whole.fitness)
    assert [part.num_documents for part in parts] == [9, 9, 11]
    for name, task in whole.tasks.items():
        places = [place for block in BLOCKS for place in block.get(name, ())]
        assert sorted(places) == list(range(task.documents))
        for field in ("per_document", "log_likelihoods"):
            found = getattr(pooled.tasks[name], field)
            expected = getattr(task, field)
            assert found == tuple(expected[place] for place in places[: len(expected)])
    assert any(0 < sum(task.per_document) < task.documents for task in whole.tasks.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_documents_score_the_same_bits_whatever_else_was_asked(
    open_language, mixed, dtype
):
    suite = mixed.open(open_language("a", dtype))
    first = [suite.evaluate("search", documents=block) for block in BLOCKS]
    suite.evaluate("search")
    again = [suite.evaluate("search", documents=block) for block in BLOCKS[::-1]][::-1]
    alone = [
        mixed.open(open_language("a", dtype)).evaluate("search", documents=block)
        for block in BLOCKS
    ]
    assert first == again == alone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_naming_all_documents_is_naming_none(open_language, mixed, dtype):
    suite = mixed.open(open_language("a", dtype))
    every = {
        name: tuple(range(len(held))) for name, held in suite.sheet("search").questions.items()
    }
    assert suite.part("search") is suite.part("search", every)
    fresh = mixed.open(open_language("a", dtype))
    assert suite.evaluate("search") == fresh.evaluate("search", documents=every)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_order_of_asking_is_the_order_of_the_results_and_changes_nothing_else(
    open_language, mixed, dtype
):
    suite = mixed.open(open_language("b", dtype))
    order = (5, 2, 9, 0)
    one = suite.evaluate("search", documents={"choices": order}).tasks["choices"]
    other = suite.evaluate("search", documents={"choices": order[::-1]}).tasks["choices"]
    assert (one.value, one.stderr) == (other.value, other.stderr)
    assert one.per_document == other.per_document[::-1]
    assert one.log_likelihoods == other.log_likelihoods[::-1]
    assert len(set(one.log_likelihoods)) == 4


def test_fresh_documents_are_search_documents(open_language, mixed):
    suite = mixed.open(open_language())
    block = {"choices": (1, 2)}
    assert suite.part("fresh", block) is suite.part("search", block)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "config", "rows", "key"),
    [
        ("choices", CHOICE, choices(14, 5), "acc_norm"),
        ("answers", ANSWER, answers(14, 6), "perplexity"),
        ("generate", GENERATE, answers(14, 7), "exact_match"),
        ("texts", ROLLING, texts(14, 8), "bits_per_byte"),
    ],
)
def test_chosen_documents_score_as_stock_scores_them(
    open_language, write_task, dtype, name, config, rows, key
):
    """The task's own aggregation over these documents, to the last digit."""
    folder = write_task(name, rows, **config)
    chosen = (1, 3, 4, 8, 9, 13)
    settings = harness(folder, (name, key), batch_size=4)
    suite = settings.open(open_language("a", dtype))
    score = suite.evaluate("search", documents={name: chosen})
    language = open_language("a", dtype)
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=language.model, tokenizer=language.tokenizer, batch_size=4),
        tasks=[name],
        samples={name: list(chosen)},
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        log_samples=False,
        bootstrap_iters=0,
    )
    assert score.tasks[name].value == found["results"][name][f"{key},none"]
    assert score.tasks[name].documents == len(chosen)


# Log-likelihoods of the right answers.


def stock_log_likelihoods(language, requests, kind="loglikelihood"):
    lm = HFLM(pretrained=language.model, tokenizer=language.tokenizer, batch_size=1)
    responses = getattr(lm, kind)(requests, disable_tqdm=True)
    return [one[0] if isinstance(one, tuple) else one for one in responses]


def right_requests(suite, name):
    return [question.requests[question.right] for question in suite.sheet("search").questions[name]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("choices", "loglikelihood"),
        ("answers", "loglikelihood"),
        ("texts", "loglikelihood_rolling"),
    ],
)
def test_the_right_answers_log_likelihoods_are_those_of_stock(open_language, mixed, name, kind):
    language = open_language()
    suite = mixed.open(language)
    task = suite.evaluate("search").tasks[name]
    requests = right_requests(suite, name)
    expected = stock_log_likelihoods(language, requests, kind)
    assert task.log_likelihoods == pytest.approx(quantise(expected), rel=0.08)
    assert len(task.log_likelihoods) == task.documents
    assert task.log_likelihoods == quantise(task.log_likelihoods)


def test_the_right_choice_is_the_gold_one(open_language, mixed, write_task):
    """Whether the task gives its place, its text or a list of one."""
    rows = choices(8, 9)
    for row in rows:
        row["text"], row["list"] = row["choices"][row["gold"]], [row["gold"]]
    folder = write_task("place", rows, **CHOICE)
    write_task("text", rows, **{**CHOICE, "doc_to_target": "text"})
    write_task("list", rows, **{**CHOICE, "doc_to_target": "list"})
    settings = harness(folder, ("place", "acc"), ("text", "acc"), ("list", "acc"))
    suite = settings.open(open_language())
    for name in ("place", "text", "list"):
        found = [request.args[1] for request in right_requests(suite, name)]
        assert found == [row["text"] for row in rows]


def test_where_there_is_no_one_right_answer_there_is_no_log_likelihood(
    open_language, mixed, write_task
):
    assert mixed.open(open_language()).evaluate("search").tasks["generate"].log_likelihoods == ()
    rows = [{**row, "gold": [0, 2]} for row in choices(4, 10)]
    folder = write_task("several", rows, **CHOICE)
    score = harness(folder, ("several", "acc")).open(open_language()).evaluate("search")
    assert score.tasks["several"].log_likelihoods == ()
    assert score.mean_log_likelihood is None


# What cannot be asked for.


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"nothing": (0,)}, "no task 'nothing' among the search rows"),
        ({"texts": (5,)}, "task 'texts' has 5 documents, there is no place 5"),
        ({"texts": (-1,)}, "task 'texts' has 5 documents, there is no place -1"),
        ({"texts": (1, 1)}, "task 'texts': a document is named twice"),
        ({"texts": ()}, "nothing to score"),
        ({}, "nothing to score"),
    ],
)
def test_documents_that_there_are_not_are_refused(open_language, mixed, documents, message):
    suite = mixed.open(open_language())
    with pytest.raises(ValueError, match=message):
        suite.evaluate("search", documents=documents)


def test_rows_that_there_are_not_are_refused(open_language, mixed):
    with pytest.raises(ValueError, match="there are no test rows"):
        mixed.open(open_language()).evaluate("test")


def test_a_group_is_scored_as_a_whole_only(open_language, write_task, write_group):
    folder = write_task("one", choices(4, 11), **CHOICE)
    write_task("two", choices(4, 12), **CHOICE)
    write_group("both", ["one", "two"], aggregate_metric_list=[{"metric": "acc"}])
    suite = harness(folder, ("both", "acc")).open(open_language())
    for name in ("both", "one"):
        with pytest.raises(ValueError, match="objective 'both' is a group of tasks"):
            suite.evaluate("search", documents={name: (0,)})
    score = suite.evaluate("search").tasks["both"]
    assert (score.documents, score.per_document, score.log_likelihoods) == (8, (), ())


# Plans.


def test_plans_are_kept_but_not_without_end(open_language, mixed, monkeypatch):
    monkeypatch.setattr(harness_suite, "_PLANS", 3)
    suite = mixed.open(open_language())
    blocks = [{"choices": (place,)} for place in range(6)]
    first = [suite.evaluate("search", documents=block) for block in blocks]
    assert suite.part("search", blocks[5]) is suite.part("search", blocks[5])
    assert len(suite._parts) == 3
    assert [suite.evaluate("search", documents=block) for block in blocks] == first


def test_batches_hold_the_documents_asked_for_alone(open_language, mixed):
    suite = mixed.open(open_language())
    model, seen = suite.lm.model, []
    forward = model.forward

    def watched(tokens=None, *args, **options):
        ids = options.get("input_ids") if tokens is None else tokens
        seen.append(ids.numel())
        return forward(tokens, *args, **options) if tokens is not None else forward(**options)

    model.forward = watched
    suite.evaluate("search", documents={"choices": (2,)})
    few = sum(seen)
    suite.evaluate("search", documents={"choices": tuple(range(12))})
    model.forward = forward
    longest = max(
        len(request.args[0]) + len(request.args[1])
        for question in suite.sheet("search").questions["choices"]
        for request in question.requests
    )
    assert 0 < few <= 4 * longest
    assert sum(seen) - few > few


@pytest.mark.parametrize("halvings", [1, 2, 99])
def test_halved_batches_score_chosen_documents_the_same(open_language, means, halvings):
    """In 32 bits."""
    suite = means.open(open_language("a"))
    block = BLOCKS[0]
    usual = suite.evaluate("search", documents=block)
    halved = suite.evaluate("search", documents=block, halvings=halvings)
    for name, task in usual.tasks.items():
        assert halved.tasks[name].per_document == task.per_document
        assert halved.tasks[name].log_likelihoods == pytest.approx(task.log_likelihoods, rel=0.08)


def test_gradients_are_never_kept(open_language, mixed):
    language = open_language()
    for parameter in language.model.parameters():
        parameter.requires_grad_(True)
    score = mixed.open(language).evaluate("search", documents={"texts": (0,)})
    assert math.isfinite(score.fitness)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in language.model.parameters())

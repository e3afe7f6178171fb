"""What goes wrong within a task is said with its name and the document's place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluators.harness.tasks import TaskError
from evaluators.language.resident_lm import NonFiniteError
from evaluators.lm_harness import LmHarness, Objective

ROWS = [
    {"prompt": f"R:{word}=", "answer": word[::-1], "number": number}
    for word, number in zip(("abc", "bcd", "cde", "def"), (1, 2, 0, 3), strict=True)
]
#: The third document is the one that everything here goes wrong on.
BAD = 2
GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
PLAIN = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
CODE = """
import math

def metrics(doc, results):
    return {"exact_match": 6 / doc["number"]}

def answer_length(resps, docs):
    return [[len(one) / doc["number"] for one in resp] for resp, doc in zip(resps, docs)]

def nobody(items):
    raise LookupError("no documents like these")

def infinite(items):
    return math.inf

def huge(items):
    return math.exp(10_000)

def some(doc, results):
    return {"acc": 1.0, "seen": 1.0} if doc["number"] else {"seen": 1.0}

def undefined(doc, results):
    return {"acc": 6.0 / doc["number"] if doc["number"] else math.nan}

def other(doc, results):
    return {"something": 1.0}
"""


@pytest.fixture
def settings(write_task):
    """Writes a task whose code lies beside it; `!function` stands for `FUNCTION` in its file."""

    def write(config, *, metric="exact_match"):
        folder = write_task("broken", ROWS, **config)
        (Path(folder) / "code_beside.py").write_text(CODE)
        path = Path(folder) / "broken.yaml"
        path.write_text(path.read_text().replace("FUNCTION ", "!function code_beside."))
        objective = Objective(name="broken", metric=metric)
        return LmHarness(tasks=(objective,), include_path=folder)

    return write


def aggregated_by(name):
    return [{"metric": "acc", "aggregation": f"FUNCTION {name}", "higher_is_better": True}]


def test_a_metric_that_raises_names_task_and_document(settings, open_language):
    suite = settings({**GENERATE, "process_results": "FUNCTION metrics"}).open(open_language())
    with pytest.raises(
        TaskError, match=f"task 'broken', document {BAD}: its metrics failed.*ZeroDivisionError"
    ) as caught:
        suite.evaluate("search")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_filter_that_raises_names_task_and_document(settings, open_language):
    function = {"function": "custom", "filter_fn": "FUNCTION answer_length"}
    filters = [{"name": "none", "filter": [function, {"function": "take_first"}]}]
    suite = settings({**GENERATE, "filter_list": filters}).open(open_language())
    with pytest.raises(
        TaskError, match=f"task 'broken', document {BAD}: its filters failed.*ZeroDivisionError"
    ) as caught:
        suite.evaluate("search")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_documents_beside_a_broken_one_are_scored(settings, open_language):
    suite = settings({**GENERATE, "process_results": "FUNCTION metrics"}).open(open_language())
    score = suite.evaluate("search", documents={"broken": (0, 1, 3)})
    assert score.tasks["broken"].per_document == (6.0, 3.0, 2.0)
    with pytest.raises(TaskError, match=f"document {BAD}"):
        suite.evaluate("search", documents={"broken": (3, BAD)})


@pytest.mark.parametrize("field", ["doc_to_text", "doc_to_target"])
def test_a_template_that_raises_is_found_before_any_model_is_built(settings, open_language, field):
    broken = settings({**PLAIN, field: "{{ 6 // number }}"}, metric="acc")
    with pytest.raises(TaskError, match=f"task 'broken', document {BAD}: .*ZeroDivisionError"):
        broken.check()
    with pytest.raises(TaskError, match=f"task 'broken', document {BAD}: its prompts"):
        broken.open(open_language()).evaluate("search")


def test_an_aggregation_that_raises_names_the_task(settings, open_language):
    suite = settings({**PLAIN, "metric_list": aggregated_by("nobody")}, metric="acc").open(
        open_language()
    )
    with pytest.raises(
        TaskError, match="task 'broken': its acc,none cannot be aggregated over 4 documents: Lookup"
    ) as caught:
        suite.evaluate("search")
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_metric_that_its_own_code_does_not_give_is_named(settings, open_language):
    config = {**PLAIN, "process_results": "FUNCTION other"}
    suite = settings(config, metric="acc").open(open_language())
    with pytest.raises(TaskError, match="task 'broken' gave no acc,none, but something,none"):
        suite.evaluate("search")


@pytest.mark.parametrize("name", ["infinite", "huge"])
def test_a_value_beyond_all_numbers_is_no_score(settings, open_language, name):
    suite = settings({**PLAIN, "metric_list": aggregated_by(name)}, metric="acc").open(
        open_language()
    )
    with pytest.raises(NonFiniteError, match=r"'broken'.*not finite"):
        suite.evaluate("search")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling"])
def test_weights_that_are_not_finite_are_never_a_score(settings, open_language, value, kind):
    config = {**PLAIN, "output_type": kind}
    if kind == "loglikelihood_rolling":
        metric = {"metric": "bits_per_byte", "aggregation": "bits_per_byte"}
        config["metric_list"] = [{**metric, "higher_is_better": False}]
    name = config["metric_list"][0]["metric"]
    language = open_language()
    suite = settings(config, metric=name).open(language)
    assert suite.evaluate("search").num_documents == len(ROWS)
    with torch.no_grad():
        language.model.lm_head.weight.fill_(value)
    with pytest.raises(NonFiniteError, match="not finite"):
        suite.evaluate("search")


def test_a_metric_that_skips_documents_has_no_value_for_each(settings, open_language):
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "seen")
    ]
    config = {**PLAIN, "metric_list": metrics, "process_results": "FUNCTION some"}
    score = settings(config, metric="acc").open(open_language()).evaluate("search").tasks["broken"]
    assert (score.value, score.per_document, score.documents) == (1.0, (), 4)
    seen = settings(config, metric="seen").open(open_language()).evaluate("search")
    assert seen.tasks["broken"].per_document == (1.0,) * 4


def test_documents_without_a_number_are_left_to_an_aggregation_that_knows_them(
    settings, open_language
):
    metrics = [{"metric": "acc", "aggregation": "nanmean", "higher_is_better": True}]
    config = {**PLAIN, "metric_list": metrics, "process_results": "FUNCTION undefined"}
    broken = settings(config, metric="acc")
    assert not broken.check().tasks["search"]["broken"].is_mean
    score = broken.open(open_language()).evaluate("search").tasks["broken"]
    assert score.value == pytest.approx((6 + 3 + 2) / 3)
    assert (score.per_document, score.stderr) == ((), None)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("exact_match", r"ambiguous; choose one of exact_match,five, exact_match,one"),
        ("exact_match,tow", r"no filter 'tow' before its metric 'exact_match'.*five, one"),
    ],
)
def test_a_metric_behind_a_filter_is_checked_before_any_model_is_built(settings, metric, message):
    filters = [{"name": name, "filter": [{"function": "take_first"}]} for name in ("five", "one")]
    with pytest.raises(ValueError, match=message):
        settings({**GENERATE, "filter_list": filters}, metric=metric).check()
    settings({**GENERATE, "filter_list": filters}, metric="exact_match,one").check()

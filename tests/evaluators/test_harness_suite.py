"""A suite scores its resident model again and again, and each time as if it were the first."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch

from evaluators.language.resident_lm import NonFiniteError
from evaluators.lm_harness import LmHarness, Objective

ACC = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
PLAIN = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": ACC,
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        {
            "metric": "bits_per_byte",
            "aggregation": "bits_per_byte",
            "higher_is_better": False,
        }
    ],
}


def examples(**changes):
    fields = {"include_path": "examples/tasks", "limit": 40, "batch_size": 16, **changes}
    return LmHarness(
        tasks=(
            Objective(name="skill_a_search", metric="acc", weight=2.0),
            Objective(name="skill_b_search", metric="acc"),
        ),
        test=("skill_a_test", "skill_b_test"),
        **fields,
    )


def put(language, other):
    """Gives a resident model another model's weights, in place."""
    language.model.load_state_dict(other.model.state_dict())


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_do_not_depend_on_what_was_scored_before(at_root, open_language, dtype, size):
    settings = examples(batch_size=size)
    language = open_language("base", dtype)
    a, b = open_language("a", dtype), open_language("b", dtype)
    fresh = {
        (name, rows): settings.open(each).evaluate(rows)
        for name, each in (("a", a), ("b", b))
        for rows in ("search", "test")
    }
    suite = settings.open(language)
    models = {"a": a, "b": b}
    for name, rows in [("b", "test"), ("a", "search"), ("b", "search"), ("a", "test")] * 2:
        put(language, models[name])
        assert suite.evaluate(rows) == fresh[name, rows]
    assert fresh["a", "search"] != fresh["b", "search"]


def test_batches_do_not_depend_on_the_order_of_evaluation(at_root, open_language):
    def batches(*order):
        suite = examples().open(open_language())
        for rows in order:
            suite.evaluate(rows)
        return {rows: suite.part(rows).plan.batches for rows in ("search", "test")}

    one, other = batches("search", "test", "search"), batches("test", "search")
    for rows in ("search", "test"):
        assert len(one[rows]) == len(other[rows])
        for left, right in zip(one[rows], other[rows], strict=True):
            assert torch.equal(left.tokens, right.tokens)
            assert torch.equal(left.targets, right.targets)
            assert [requests for requests, _ in left.answers] == [
                requests for requests, _ in right.answers
            ]


def test_requests_are_planned_once_and_the_plan_is_kept(at_root, open_language):
    suite = examples().open(open_language())
    suite.evaluate("search")
    part = suite.part("search")
    plan = part.plan
    suite.evaluate("search")
    assert suite.part("search") is part
    assert part.plan is plan
    assert plan.num_tokens == sum(batch.tokens.numel() for batch in plan.batches)


@pytest.mark.parametrize(("halvings", "rows"), [(1, "search"), (2, "test"), (99, "search")])
def test_smaller_batches_give_the_same_scores(at_root, open_language, halvings, rows):
    """In 32 bits: what one document scores does not depend on what is scored beside it."""
    suite = examples(limit=12, batch_size=8).open(open_language("a", "float32"))
    usual = suite.evaluate(rows)
    assert suite.evaluate(rows, halvings=halvings) == usual
    assert suite.evaluate(rows) == usual


def test_smaller_batches_are_smaller(at_root, open_language):
    suite = examples(limit=8, batch_size=8).open(open_language())
    sizes = []
    for halvings in (0, 1, 9):
        forward, seen = suite.lm.model.forward, []

        def watched(tokens, *args, forward=forward, seen=seen, **options):
            seen.append(len(tokens))
            return forward(tokens, *args, **options)

        suite.lm.model.forward = watched
        suite.evaluate("search", halvings=halvings)
        suite.lm.model.forward = forward
        sizes.append(max(seen))
    assert sizes == [8, 4, 1]


def test_the_fitness_is_the_weighted_sum_of_the_tasks(at_root, open_language):
    score = examples().open(open_language()).evaluate("search")
    a, b = score.tasks["skill_a_search"], score.tasks["skill_b_search"]
    assert score.fitness == 2.0 * a.value + b.value
    assert (a.weight, b.weight) == (2.0, 1.0)
    assert (a.documents, len(a.per_document)) == (40, 40)
    assert a.value == pytest.approx(math.fsum(a.per_document) / 40)
    deviation = math.sqrt(sum((x - a.value) ** 2 for x in a.per_document) / 39)
    assert a.stderr == pytest.approx(deviation / math.sqrt(40))


def test_test_rows_are_not_search_rows(at_root, open_language):
    suite = examples().open(open_language())
    assert set(suite.evaluate("test").tasks) == {"skill_a_test", "skill_b_test"}
    assert set(suite.evaluate("search").tasks) == {"skill_a_search", "skill_b_search"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_an_error_and_no_score(at_root, open_language, value):
    language = open_language()
    suite = examples().open(language)
    before = suite.evaluate("search")
    weight = language.model.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(value)
    with pytest.raises(NonFiniteError, match="not finite"):
        suite.evaluate("search")
    with torch.no_grad():
        weight.copy_(kept)
    assert suite.evaluate("search") == before


def test_a_perplexity_that_is_not_finite_is_no_score(open_language, write_task):
    folder = write_task("texts", [{"text": "R:abc"}], **ROLLING)
    settings = LmHarness(
        tasks=(Objective(name="texts", metric="bits_per_byte"),), include_path=folder
    )
    language = open_language()
    with torch.no_grad():
        language.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="finite"):
        settings.open(language).evaluate("search")


def test_an_answer_longer_than_the_context_is_refused_not_scored_wrongly(open_language, write_task):
    """The stock command stops here, too: the answer's first tokens have no place to be read at."""
    folder = write_task("long", [{"prompt": "R:", "answer": "abcdef"}], **PLAIN)
    settings = LmHarness(
        tasks=(Objective(name="long", metric="acc"),), include_path=folder, max_length=4
    )
    with pytest.raises((ValueError, AssertionError)):
        settings.open(open_language()).evaluate("search")


def test_an_empty_answer_is_refused_not_counted_as_right(open_language, write_task):
    """The stock command stops here, too: there is no token to score."""
    rows = [{"prompt": "R:abc=", "answer": ""}, {"prompt": "R:abc=", "answer": "cba"}]
    folder = write_task("empty", rows, **PLAIN)
    settings = LmHarness(tasks=(Objective(name="empty", metric="acc"),), include_path=folder)
    with pytest.raises((ValueError, AssertionError)):
        settings.open(open_language()).evaluate("search")


def test_an_empty_prompt_is_scored_after_the_end_token(open_language, write_task):
    folder = write_task("bare", [{"prompt": "", "answer": "R:abc"}], **PLAIN)
    settings = LmHarness(tasks=(Objective(name="bare", metric="acc"),), include_path=folder)
    language = open_language()
    suite = settings.open(language)
    suite.evaluate("search")
    (batch,) = suite.part("search").plan.batches
    encode = language.tokenizer.encode
    assert batch.tokens.tolist() == [[language.tokenizer.eos_token_id, *encode("R:abc")[:-1]]]
    assert batch.targets.tolist() == encode("R:abc")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")
def test_a_backend_that_is_not_installed_is_refused_when_it_is_opened(at_root, open_language):
    with pytest.raises(ValueError, match=r"vllm.* set evaluate.backend to hf"):
        examples(backend="vllm").open(open_language())

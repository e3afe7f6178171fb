"""Alignments: which row of which model each row of a merged vocabulary is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from workers.models.library import ModelFacts, ModelPolicy, inspect
from workers.models.vocabulary import (
    Vocabulary,
    VocabularyError,
    is_vocabulary_tensor,
    plan,
    read_vocabulary,
)


def vocabulary(reference, words, num_rows=None):
    tokens = {word: index for index, word in enumerate(words.split())}
    return Vocabulary(
        reference=reference, tokens=tokens, num_rows=len(tokens) if num_rows is None else num_rows
    )


def unreadable(reference, num_rows):
    return Vocabulary(reference=reference, tokens=None, num_rows=num_rows)


# --- reading -------------------------------------------------------------------------------------


def test_the_rows_are_counted_in_the_weights_and_not_in_the_configuration(copy_model):
    folder = copy_model("a")
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name].new_zeros(128, 96)
    save_file(tensors, folder / "model.safetensors")
    found = read_vocabulary(inspect(str(folder), ModelPolicy()))
    assert found.reference == str(folder)
    assert (found.num_rows, len(found.tokens), found.tokens["<pad>"]) == (128, 99, 0)


def facts(config, tensors=None):
    return ModelFacts(
        reference="m", folder=None, config=config, tensors=tensors or {}, vocabulary={"a": 0}
    )


def test_pickled_weights_leave_the_rows_to_the_configuration():
    assert read_vocabulary(facts({"vocab_size": 7})).num_rows == 7
    nested = {"vocab_size": 7, "text_config": {"vocab_size": 9}}
    assert read_vocabulary(facts(nested)).num_rows == 9


def test_a_model_that_tells_no_number_of_rows_is_named():
    with pytest.raises(VocabularyError, match=r"'m' does not say how many rows .* no vocab_size"):
        read_vocabulary(facts({}, {"model.layers.0.embed_tokens.weight": ("F32", (5, 2))}))


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "language_model.model.embed_tokens.weight",
        "lm_head.weight",
        "lm_head.bias",
        "transformer.wte.weight",
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
        "model.decoder.embed_tokens.weight",
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
        "cls.predictions.bias",
        "lm_head.decoder.weight",
        "vocab_projector.bias",
        "shared.weight",
    ],
)
def test_a_tensor_of_tokens_is_known_by_its_name(name):
    assert is_vocabulary_tensor(name)


@pytest.mark.parametrize(
    "name",
    [
        "transformer.wpe.weight",
        "model.decoder.embed_positions.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.encoder.layer.0.attention.output.dense.weight",
        "encoder.layer.0.output.weight",
        "cls.predictions.transform.dense.weight",
        "lm_head.dense.weight",
        "model.norm.weight",
    ],
)
def test_other_tensors_are_not_taken_for_tokens(name):
    assert not is_vocabulary_tensor(name)


def test_planning_needs_no_torch():
    code = "import sys, workers.models.vocabulary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- planning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["base", "union"])
def test_equal_vocabularies_leave_nothing_to_do(mode):
    made = plan(vocabulary("b", "x y z", 5), [vocabulary("s", "x y z", 5)], mode)
    assert made.is_identity
    assert made.tokens == ("x", "y", "z", None, None)
    assert made.rows == {"b": (0, 1, 2, 3, 4), "s": (0, 1, 2, 3, 4)}


def test_base_mode_gives_the_base_s_rows_and_drops_what_only_sources_know():
    base = vocabulary("b", "x y z", 4)
    source = vocabulary("s", "z new x")
    made = plan(base, [source], "base")
    assert made.tokens == ("x", "y", "z", None)
    assert made.rows == {"b": (0, 1, 2, 3), "s": (2, None, 0, None)}
    assert made.is_unchanged("b")
    assert not made.is_unchanged("s")
    assert not made.is_identity
    assert made.donors(1) == ("b",)


def test_union_appends_new_tokens_by_source_and_id():
    made = plan(
        vocabulary("b", "x y"),
        [vocabulary("s", "x q p y"), vocabulary("t", "r q x y")],
        "union",
    )
    assert made.tokens == ("x", "y", "q", "p", "r")
    assert made.rows == {
        "b": (0, 1, None, None, None),
        "s": (0, 3, 1, 2, None),
        "t": (2, 3, 1, None, 0),
    }
    assert made.donors(2) == ("s", "t")
    assert made.donors(3) == ("s",)


def test_union_fills_padding_first_and_keeps_what_is_left():
    made = plan(vocabulary("b", "x y", 5), [vocabulary("s", "x y p q", 5)], "union")
    assert made.tokens == ("x", "y", "p", "q", None)
    assert made.rows == {"b": (0, 1, None, None, 4), "s": (0, 1, 2, 3, 4)}
    grown = plan(vocabulary("b", "x y", 3), [vocabulary("s", "x y p q")], "union")
    assert grown.tokens == ("x", "y", "p", "q")


def test_padding_is_not_read_from_a_row_where_the_source_has_a_token():
    made = plan(vocabulary("b", "x y", 4), [vocabulary("s", "x y p", 4)], "base")
    assert made.tokens == ("x", "y", None, None)
    assert made.rows["s"] == (0, 1, None, 3)


def test_a_source_without_the_base_s_padding_takes_the_base_s():
    made = plan(vocabulary("b", "x y", 4), [vocabulary("s", "x y", 2)], "union")
    assert made.tokens == ("x", "y", None, None)
    assert made.rows["s"] == (0, 1, None, None)
    assert made.donors(3) == ("b",)


def test_an_id_past_the_end_of_the_matrix_is_no_token():
    base = vocabulary("b", "x y pad", 2)
    made = plan(base, [vocabulary("s", "x y new", 2)], "union")
    assert made.tokens == ("x", "y")
    assert made.rows["s"] == (0, 1)
    brought = plan(base, [vocabulary("s", "x y pad")], "union")
    assert brought.tokens == ("x", "y", "pad")
    assert brought.rows == {"b": (0, 1, None), "s": (0, 1, 2)}


def test_a_model_named_twice_or_as_its_own_source_is_planned_once():
    base = vocabulary("b", "x y")
    source = vocabulary("s", "y x z")
    made = plan(base, [base, source, source], "union")
    assert list(made.rows) == ["b", "s"]
    assert made.donors(2) == ("s",)


def test_the_result_is_a_vocabulary_that_can_be_merged_again():
    made = plan(vocabulary("b", "x y", 4), [vocabulary("s", "x y p")], "union")
    again = made.vocabulary("merge")
    assert (again.tokens, again.num_rows) == ({"x": 0, "y": 1, "p": 2}, 4)
    assert plan(again, [again], "union").is_identity


def test_models_that_cannot_be_read_pass_where_all_have_as_many_rows():
    made = plan(unreadable("b", 3), [vocabulary("s", "x y", 3), unreadable("t", 3)], "union")
    assert made.is_identity
    assert made.tokens == ("x", "y", None)
    assert plan(unreadable("b", 2), [unreadable("s", 2)], "base").tokens == (None, None)


@pytest.mark.parametrize(
    ("models", "named"),
    [
        ([unreadable("b", 3), vocabulary("s", "x y")], "'b'"),
        ([vocabulary("b", "x y"), unreadable("s", 3)], "'s'"),
        ([vocabulary("b", "x y"), vocabulary("s", "y x"), unreadable("t", 2)], "'t'"),
    ],
)
def test_a_model_that_cannot_be_read_is_named_where_vocabularies_differ(models, named):
    with pytest.raises(VocabularyError, match=rf"{named} has no tokenizer\.json .*rows: 'b' [23]"):
        plan(models[0], models[1:], "base")


def test_an_unknown_mode_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="base, union; got 'both'"):
        plan(vocabulary("b", "x"), [], "both")


models = st.lists(
    st.tuples(st.permutations("abcdef"), st.integers(1, 6), st.integers(0, 3)),
    min_size=1,
    max_size=4,
)


@given(models, st.sampled_from(["base", "union"]))
def test_every_row_is_found_where_its_token_is(drawn, mode):
    made = []
    for place, (letters, count, padding) in enumerate(drawn):
        tokens = {letter: row for row, letter in enumerate(letters[:count])}
        made.append(Vocabulary(reference=f"m{place}", tokens=tokens, num_rows=count + padding))
    alignment = plan(made[0], made[1:], mode)
    named = [token for token in alignment.tokens if token is not None]
    assert len(named) == len(set(named))
    for token, row in made[0].tokens.items():
        assert alignment.tokens[row] == token
    if mode == "base":
        assert len(alignment.tokens) == made[0].num_rows
        assert set(named) == set(made[0].tokens)
    else:
        assert set(named) == set().union(*(one.tokens for one in made))
    for one in made:
        for row, token in enumerate(alignment.tokens):
            found = alignment.rows[one.reference][row]
            if token is not None:
                assert found == one.tokens.get(token)
            assert found is None or 0 <= found < one.num_rows
    assert all(alignment.donors(row) for row in range(len(alignment.tokens)))


def test_a_plan_is_plain_data():
    made = plan(vocabulary("b", "x y"), [vocabulary("s", "y x")], "union")
    assert json.loads(json.dumps(dataclasses.asdict(made)))["rows"]["s"] == [1, 0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.base = "other"

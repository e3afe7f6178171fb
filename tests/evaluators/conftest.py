"""Small task files and resident models for the evaluators' tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.base import Language

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def at_root(monkeypatch):
    """The example tasks' paths start at the root of the repository."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def open_language():
    """Loads an example model and its tokenizer."""

    def open_it(name: str = "base", dtype: str = "float32") -> Language:
        folder = ROOT / "examples" / "models" / name
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        return Language(model=model.eval(), tokenizer=AutoTokenizer.from_pretrained(folder))

    return open_it


@pytest.fixture
def write_task(tmp_path):
    """Writes a task's rows and its file; returns the folder for `include_path`."""
    folder = tmp_path / "tasks"
    folder.mkdir()

    def write(name: str, rows: list[dict], *, shots: list[dict] | None = None, **config) -> str:
        files = {"test": rows} if shots is None else {"test": rows, "train": shots}
        for split, lines in files.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}_{split}.jsonl").write_text(text)
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {split: str(folder / f"{name}_{split}.jsonl") for split in files},
                "cache_dir": str(tmp_path / "cache"),
            },
            "test_split": "test",
            **({} if shots is None else {"fewshot_split": "train"}),
            **config,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
        return str(folder)

    return write


@pytest.fixture
def write_group(tmp_path, write_task):
    """Writes a group's file beside its tasks'."""
    del write_task

    def write(name: str, tasks: list[str], **config) -> None:
        text = yaml.safe_dump({"group": name, "task": tasks, **config})
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)

    return write

"""The stock lm-eval commands that measure a model again, and how close they come."""

from __future__ import annotations

import json
import shlex

from evaluators.base import Rows
from evaluators.lm_harness import LmHarness

#: Requests a batch where the campaign made batches of its own; any number will do.
_BATCH_SIZE = 16


def command(
    evaluate: LmHarness, rows: Rows, folder: str, dtype: str, *, brings_code: bool = False
) -> str:
    """Returns the command that measures a model on one kind of rows.

    Args:
        evaluate: The campaign's evaluator.
        rows: Which rows.
        folder: The model's folder; `samples` writes what the command reads from there.
        dtype: Type of the weights.
        brings_code: Whether the model has code of its own.
    """
    model = f"pretrained={folder},dtype={dtype}"
    model += f",max_length={evaluate.max_length}" if evaluate.max_length is not None else ""
    model += ",trust_remote_code=True" if brings_code else ""
    tasks = ",".join(one.name for one in evaluate.objectives(rows))
    words = ["lm_eval", "run", "--model", evaluate.backend, "--model_args", model]
    words += ["--tasks", tasks, "--batch_size", str(evaluate.batch_size or _BATCH_SIZE)]
    cut = rows in evaluate.cut
    optional = {
        "--include_path": evaluate.include_path,
        # The harness takes a limit or a choice of documents, not both; the choice has kept to it.
        "--limit": None if cut else evaluate.limit,
        "--samples": f"{folder}/{samples_name(rows)}" if cut else None,
        "--num_fewshot": evaluate.num_fewshot,
    }
    for flag, value in optional.items():
        words += [] if value is None else [flag, str(value)]
    words += ["--apply_chat_template"] if evaluate.apply_chat_template else []
    words += ["--confirm_run_unsafe_code"] if evaluate.allow_code_execution else []
    return shlex.join(words)


def samples_name(rows: Rows) -> str:
    """Returns the name of the file that says which documents are these rows."""
    return f"{rows}_rows.json"


def samples(evaluate: LmHarness, rows: Rows) -> str:
    """Returns such a file's text: task -> the documents' places among all of the task.

    Raises:
        ValueError: if the tasks cannot be loaded.
    """
    from evaluators.harness import tasks as harness_tasks  # lm-eval takes seconds to import

    loaded = harness_tasks.load(evaluate, evaluate.objectives(rows))
    places = {
        name: [one.index for one in harness_tasks.documents_of(task, evaluate, rows)]
        for name, task in loaded.tasks.items()
    }
    return json.dumps(places) + "\n"


def closeness(evaluate: LmHarness, dtype: str, *, in_blocks: bool) -> str:
    """Says how close stock commands come to what the campaign measured.

    `in_blocks` says whether search rows were scored in parts (races, fresh rows, estimates).
    """
    sentences = [_by_batches(evaluate, dtype)]
    if in_blocks:
        sentences.append(
            "Search rows were scored in parts, and perhaps not all of them: the command for them "
            "scores all at once, so that its values on search rows can differ from those above."
        )
    if evaluate.split is not None and evaluate.num_fewshot != 0:
        sentences.append(
            "`--samples` names the documents of rows that were cut from a task. The examples in a "
            "prompt that are drawn at random depend on how many documents came before: with such "
            "prompts the command comes close, but other examples give other values."
        )
    if evaluate.allow_code_execution:
        sentences.append(
            "The command runs what the model writes, with no sandbox around it; it also needs "
            "`HF_ALLOW_CODE_EVAL=1`."
        )
    return " ".join(sentences)


def _by_batches(evaluate: LmHarness, dtype: str) -> str:
    if evaluate.backend != "hf":
        return (
            f"`{evaluate.backend}` puts its batches together as requests come: the last digits of "
            "log-likelihoods can differ, and with them the rare answer that was nearly a tie."
        )
    if evaluate.batch_size is not None:
        return (
            "The campaign used the stock command's own batches: on the same hardware and software "
            "it gives the same values to the last digit."
        )
    if dtype == "float32":
        return (
            "The campaign made batches of its own. In float32 that changes log-likelihoods by "
            "rounding alone (less than 1e-4): the same answers are right, unless two are tied that "
            "closely."
        )
    return (
        f"The campaign made batches of its own. In {dtype} other requests in a batch change the "
        "last digits of log-likelihoods, so that an answer that was nearly a tie can come out "
        "the other way; with `batch_size` set in the campaign it would not."
    )

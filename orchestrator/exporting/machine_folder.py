"""A trained machine as a folder that two lines of Python load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluators.whole_file import whole_folder
from orchestrator import config
from orchestrator.exporting.model_folder import refuse_whole
from orchestrator.settings import CampaignSettings
from orchestrator.storage.candidates import CandidateRecord
from workers.ctm.builder import CtmBuilderSettings
from workers.ctm.recipe import CtmRecipe
from workers.run import best_device

#: The file that says what a machine has learned.
TASK = "task.json"
_LOADING = """```python
from workers.ctm.machine import Machine

machine = Machine.from_pretrained("{folder}")
```"""


def write(
    record: CandidateRecord,
    recipe: CtmRecipe,
    settings: CampaignSettings,
    folder: Path,
    *,
    replace: bool,
) -> None:
    """Writes a machine, trained to the end: what is left to train of it is trained now.

    Raises:
        ExportError: if the folder holds something already and `replace` is false.
    """
    refuse_whole(folder, replace=replace)
    # Where an evaluator of the campaign would train it: the weights are those that were scored.
    device = "cpu" if settings.cluster.gpus_per_evaluator == 0 else best_device()
    builder = CtmBuilderSettings().open(device)
    evaluate: Any = settings.evaluate
    trainer = evaluate.open(builder.resident)
    builder.build(recipe)
    machine = trainer.trained(evaluate.stretches)
    with whole_folder(folder) as partial:
        machine.save_pretrained(partial)
        said = {"recipe.json": recipe.as_dict(), TASK: config.as_dict(evaluate.task)}
        for name, plain in said.items():
            text = json.dumps(plain, indent=1) + "\n"
            (partial / name).write_text(text, encoding="utf-8")
        (partial / "README.md").write_text(_card(record, settings, folder), encoding="utf-8")


def _card(record: CandidateRecord, settings: CampaignSettings, folder: Path) -> str:
    rows = [
        f"| {kind} | {name} | {one.value:.4f} | {one.documents:,} |"
        for kind, scores in (("search", record.scores), ("test", record.test))
        for name, one in scores.items()
    ]
    parts = [
        f"# {settings.name}: candidate {record.label}",
        "A Continuous Thought Machine; `recipe.json` says what of and how it was trained.",
        _LOADING.format(folder=folder),
        "\n".join(["| rows | metric | value | counted |", "| --- | --- | ---: | ---: |", *rows]),
    ]
    return "\n\n".join(parts) + "\n"

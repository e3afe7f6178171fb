"""Whether the parts of a campaign go together, and what follows from how they do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from cluster.resources import Cluster
from evaluators.base import EvaluatorSettings, Subject
from orchestrator.settings import CampaignSettings
from orchestrator.spaces.base import ModelSpaceSettings, Space
from orchestrator.spaces.merge import Merge
from workers.run import subject_of

#: What is scored, in the words of people.
_WORDS: dict[Subject, str] = {
    "language": "language models",
    "network": "networks in training",
    "values": "the values of genes",
}
#: Which evaluator to use instead.
_OTHERS: dict[Subject, str] = {"language": "lm_harness", "network": "ctm", "values": "function"}


def completed(settings: CampaignSettings) -> CampaignSettings:
    """Returns settings in which the evaluator of networks has the space's task and a folder."""
    evaluate: Any = settings.evaluate
    if scored_by(evaluate) != "network":
        return settings
    found: dict[str, Any] = {}
    if evaluate.task is None:
        found["task"] = getattr(settings.space, "task", None)
    if evaluate.checkpoints is None:
        found["checkpoints"] = f"{settings.output_folder}/checkpoints"
    return replace(settings, evaluate=replace(evaluate, **found))


def check(settings: CampaignSettings, space: Space) -> None:
    """Refuses an evaluator that would fail at every candidate.

    Raises:
        ValueError: naming the evaluator's key and what to do.
    """
    given, wanted = subject_of(space.builder), scored_by(settings.evaluate)
    if given != wanted:
        raise ValueError(
            f"kind: this evaluator scores {_WORDS[wanted]}, but the space gives {_WORDS[given]}; "
            f"use {_OTHERS[given]}"
        )
    if given == "network" and cast("Any", settings.evaluate).task != getattr(
        settings.space, "task", None
    ):
        raise ValueError("task: another than the space's; leave it out here")
    backend = getattr(settings.evaluate, "backend", "hf")
    if backend == "vllm" and not isinstance(settings.space, Merge):
        raise ValueError(
            "backend: vllm is compiled for the layers of one model, and this space gives each "
            "candidate others; use hf"
        )
    check_genes = getattr(settings.evaluate, "check_genes", None)
    if check_genes is not None:
        vector = cast("Any", space)
        check_genes(vector.always, vector.sometimes)


def cluster_of(cluster: Cluster, space: Space) -> Cluster:
    """Returns where to run: whoever builds no model is given a GPU only if the file asks for it."""
    automatic = cluster.gpus_per_evaluator == "auto"
    if automatic and subject_of(space.builder) == "values":
        return replace(cluster, gpus_per_evaluator=0.0)
    return cluster


def builds_models(settings: CampaignSettings) -> ModelSpaceSettings:
    """Returns the settings of a space that is known to build models."""
    return cast("ModelSpaceSettings", settings.space)


def scored_by(evaluate: EvaluatorSettings) -> Subject:
    """Returns what an evaluator scores."""
    found: Subject = getattr(evaluate, "scores", "language")
    return found

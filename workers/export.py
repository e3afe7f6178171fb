"""Writes a recipe's model as an ordinary Hugging Face folder, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from workers.builders.model_cache import ModelCache
from workers.lineage import LineageRecipe, ModelRecipe
from workers.merging.lineages import Lineages
from workers.merging.residence import Residence
from workers.merging.tensors import FLOATS, TensorMerge
from workers.merging.workshop import Workshop
from workers.models.files import ModelPolicy
from workers.models.layouts import layer_changes, text_section
from workers.models.library import ModelFacts
from workers.models.safetensors_file import TensorFacts
from workers.models.safetensors_writer import SHARD_BYTES, index_of, open_shard, plan_shards
from workers.models.tokenizer_files import with_vocab_size, write_tokenizer
from workers.models.vocabulary import Alignment
from workers.recipe import MergeRecipe
from workers.scaled_inputs import MODULE, scales_by_module, source_of, with_code

#: Settings and papers of the base that hold for what is made of it.
_COMPANIONS = ("generation_config.json", "preprocessor_config.json", "LICENSE*", "NOTICE*")


def write_model(
    recipe: ModelRecipe, policy: ModelPolicy, folder: Path, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Builds the model on the CPU and saves weights, configuration, tokenizer and recipe.

    Beside the sources, which are mapped, and the written file's pages, memory holds a few blocks
    of some million numbers, whatever the size of the model.

    A folder that it made is removed again if anything fails.

    Raises:
        ValueError: if the recipe does not fit its models or gives numbers that are not finite.
        OSError: if the disk is full.
    """
    is_new = not folder.exists()
    try:
        _write(recipe, policy, folder, shard_bytes)
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(recipe: ModelRecipe, policy: ModelPolicy, folder: Path, shard_bytes: int) -> None:
    workshop = Workshop(policy, Residence("cpu"))
    if isinstance(recipe, LineageRecipe):
        _write_lineage(recipe, workshop, folder, shard_bytes)
    else:
        _write_merge(recipe, workshop, folder, shard_bytes)
    _write_json(folder / "recipe.json", recipe.as_dict(), indent=1)


def _write_lineage(
    recipe: LineageRecipe, workshop: Workshop, folder: Path, shard_bytes: int
) -> None:
    """Writes a lineage's model; those on the way to it lie beside the folder meanwhile."""
    base = workshop.facts(recipe.base)
    tokens = workshop.align("base", (recipe.base,))
    config = _config(base.config, recipe.dtype, range(base.num_layers), len(tokens.tokens))
    _prepare(folder, base, config, tokens, {}, "base", workshop.policy)
    with TemporaryDirectory(dir=folder.parent, prefix=".lineage-") as beside:
        store = ModelCache(Path(beside), recipe.digest(), limit_bytes=0)
        weights = Lineages(workshop, store, {}).open(recipe)
        names = {name: weights.facts(name) for name in weights}
        facts = {
            name: (recipe.dtype if kind in FLOATS else kind, shape)
            for name, (kind, shape) in names.items()
        }

        def write(targets: Mapping[str, torch.Tensor]) -> None:
            for name, out in targets.items():
                out.copy_(weights.tensor(name))

        _write_weights(facts, write, folder, shard_bytes)
        store.close()


def _write_merge(recipe: MergeRecipe, workshop: Workshop, folder: Path, shard_bytes: int) -> None:
    merge = TensorMerge(recipe, workshop)
    base = workshop.facts(recipe.base)
    config = _config(base.config, recipe.dtype, merge.origins(), len(merge.alignment.tokens))
    folders = {model: workshop.facts(model).folder for model in recipe.models}
    scales = scales_by_module(merge.names(), recipe.input_scales)
    said = with_code(config, scales) if recipe.input_scales else config
    template, policy = recipe.chat_template, workshop.policy
    _prepare(folder, base, said, merge.alignment, folders, template, policy)
    if recipe.input_scales:
        (folder / f"{MODULE}.py").write_text(source_of(config), encoding="utf-8")
    facts = {name: merge.facts(name) for name in merge.names()}
    _write_weights(facts, merge.write, folder, shard_bytes)


def _prepare(
    folder: Path,
    base: ModelFacts,
    config: Mapping[str, Any],
    tokens: Alignment,
    folders: Mapping[str, Path],
    chat_template: str,
    policy: ModelPolicy,
) -> None:
    """Writes all but the weights: configuration, tokenizer, and what holds for the base."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(
        tokens,
        base.folder,
        folders,
        folder,
        chat_template,
        with_code=policy.trust_remote_code,
    )
    for pattern in _COMPANIONS:
        for path in base.folder.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    _write_json(folder / "config.json", config)


def _write_weights(
    facts: Mapping[str, TensorFacts],
    write: Callable[[Mapping[str, torch.Tensor]], None],
    folder: Path,
    shard_bytes: int,
) -> None:
    shards = plan_shards(facts, shard_bytes)
    for shard in shards:
        with open_shard(folder, shard) as tensors:
            write(tensors)
    if len(shards) > 1:
        _write_json(folder / "model.safetensors.index.json", index_of(shards))


def _config(
    base: Mapping[str, Any], dtype: str, origins: Sequence[int], num_rows: int
) -> dict[str, Any]:
    """Returns the base's configuration, changed where the built model differs from it."""
    section = text_section(base)
    changed = {**section, **layer_changes(section, origins)}
    config = {**base, "text_config": changed} if section is not base else changed
    if int(section.get("vocab_size", num_rows)) != num_rows:
        config = with_vocab_size(config, num_rows)
    for key in ("torch_dtype", "dtype"):
        config.pop(key, None)
    return {**config, "dtype": dtype}


def _write_json(path: Path, content: Mapping[str, Any], indent: int = 2) -> None:
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")

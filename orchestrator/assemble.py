"""Makes the parts of a campaign from its settings, checking all that can be known beforehand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.executor import Executor, ExecutorError
from cluster.provenance import check_packages
from cluster.resources import Cluster, share
from evaluators.base import DOCUMENTS, EvaluatorFacts, TaskFacts
from evaluators.digest import hash_json
from orchestrator import config, matching
from orchestrator.algorithms.base import check_genes, check_objectives, remarks_on_objectives
from orchestrator.campaign.state import Branch, Campaign, Limits, Rules
from orchestrator.measurement.layout import layout
from orchestrator.measurement.regime import Regime
from orchestrator.objectives import Judge, weighted_judge
from orchestrator.settings import CampaignSettings
from orchestrator.spaces import gene_records
from orchestrator.spaces.base import Space, as_measuring
from workers.job import Job
from workers.run import WorkerSettings

#: What a fork may change: how candidates are proposed, not what they are or what they are worth.
_RULES = ("seed", "search", "control")
#: Sections of a campaign file that decide which candidates come and what they are worth.
_SEARCH = (
    "seed",
    "space",
    "search",
    "evaluate",
    "objectives",
    "control",
    "racing",
    "refresh",
    "estimator",
)
#: What is recorded beside these, but follows from them or changes nothing.
_BESIDE = ("genes", "warnings", "counted_in")
#: What an evaluator's memory holds beside its model.
_STATISTICS_BYTES, _BLOCKS_BYTES, _LIBRARIES_BYTES = 256 << 20, 100_000_000, 700_000_000


class CheckError(ValueError):
    """Something that a campaign needs is not there, or does not fit."""

    def __init__(self, message: str, section: str = "") -> None:
        super().__init__(message)
        #: Part of the campaign file that it is about ("space"); the message may begin with a key.
        self.section = section


@contextmanager
def about(section: str) -> Iterator[None]:
    """What is refused inside is the user's to mend, in this section of the campaign file."""
    try:
        yield
    except (ValueError, ExecutorError) as error:
        raise CheckError(str(error), section) from error


@dataclass(frozen=True, slots=True)
class Parts:
    """A campaign put together, nothing started yet."""

    settings: CampaignSettings
    space: Space
    campaign: Campaign
    facts: EvaluatorFacts
    #: What decides which candidates come: must not change while a campaign is in the store.
    search_settings: Mapping[str, Any]

    def identify(self, job: Job) -> bytes:
        """Returns a hash of all that a job's score depends on: equal ones need not be measured."""
        revisions = {model: self.space.revisions.get(model) for model in job.recipe.models}
        parts = [job.recipe.digest(), revisions, self.facts.identity[job.rows]]
        if job.documents is not None:
            parts.append({task: list(places) for task, places in job.documents.items()})
        return bytes.fromhex(hash_json(parts))

    @property
    def cluster(self) -> Cluster:
        """Where the evaluators run."""
        return matching.cluster_of(self.settings.cluster, self.space)

    def worker_settings(self) -> WorkerSettings:
        """Returns what workers are opened from."""
        return WorkerSettings(
            builder=self.space.builder,
            evaluator=self.settings.evaluate,
            threads=self.settings.cluster.cpus_per_evaluator,
            folder=str(Path.cwd()),
        )

    def open_executor(self) -> Executor:
        """Starts the evaluators."""
        from cluster.open import open_executor

        return open_executor(self.cluster, self.worker_settings())


def assemble(settings: CampaignSettings, history: Sequence[Mapping[str, Any]] = ()) -> Parts:
    """Opens the space and the tasks; `history` is what a fork has from its ancestors.

    Raises:
        CheckError: naming what is wrong and where.
    """
    check_packages()
    with about("space"):
        # Random masks belong to what a genome means: a fork keeps its first ancestor's.
        space = settings.space.open(history[0]["seed"] if history else settings.seed)
    with about("search"):
        check_genes(settings.search, space.genes)
    with about("evaluate"):
        matching.check(settings, space)
        facts = settings.evaluate.check()
    limits = Limits(
        generations=settings.budget.generations,
        evaluations=settings.budget.evaluations,
        max_attempts=settings.cluster.max_attempts,
        max_failure_fraction=settings.budget.max_failure_fraction,
        target=settings.budget.target,
        stagnation=settings.budget.stagnation,
    )
    judge = judge_of(settings, space, facts)
    facts = _with_remarks(settings, judge, facts)
    campaign = Campaign(
        space=space,
        algorithm=settings.search,
        seed=settings.seed,
        limits=limits,
        control=settings.control == "random",
        kinds=settings.evaluate.kinds,
        regime=regime_of(settings, facts),
        judge=judge,
        finalists=settings.finalists,
        history=tuple(_branch(settings, one) for one in history),
    )
    return Parts(settings, space, campaign, facts, _search_settings(settings, space, facts))


def _with_remarks(
    settings: CampaignSettings, judge: Judge, facts: EvaluatorFacts
) -> EvaluatorFacts:
    """Warns of objectives that are without effect on the search; refuses what it cannot use."""
    names = [goal.name for goal in judge.goals]
    with about("search"):
        check_objectives(settings.search, names)
    remarks = remarks_on_objectives(settings.search, judge.kind, names)
    return replace(facts, warnings=(*facts.warnings, *remarks))


def regime_of(settings: CampaignSettings, facts: EvaluatorFacts) -> Regime:
    """Returns how candidates are measured on the search rows."""
    race, refresh, estimator = settings.racing, settings.refresh, settings.estimator
    if race is None and refresh is None and estimator is None:
        return Regime()
    tasks, bank = facts.tasks["search"], None
    if any(one.in_order for one in tasks.values()):
        _check_in_order(settings)
    with about("racing" if race else "refresh" if refresh else "estimator"):
        plan = layout(
            tasks,
            seed=settings.seed,
            race=race,
            reserve=refresh.reserve if refresh else 0.0,
            round_documents=refresh.documents if refresh else 1,
        )
        if estimator is not None:
            weights = {name: one.weight for name, one in tasks.items()}
            bank = estimator.start(tasks, weights, settings.seed)
    return Regime(layout=plan, race=race, refresh=refresh, estimator=estimator, bank=bank)


def _check_in_order(settings: CampaignSettings) -> None:
    """Refuses what needs documents of which each is scored by itself."""
    for section in ("refresh", "estimator"):
        if getattr(settings, section) is not None:
            raise CheckError(
                "networks in training have no documents to draw; leave it out", section
            )
    if settings.racing is not None and getattr(settings.space, "inherit", False):
        raise CheckError(
            "goes with machines that are trained by themselves, but with 'space.inherit' each "
            "generation goes on from the best of the last one: it is the race; leave out one of "
            "the two",
            "racing",
        )
    if getattr(settings.racing, "compares_documents", False):
        raise CheckError(
            "kind: this race compares document by document, and networks in training have none; "
            "use halving, or a pruner of Optuna",
            "racing",
        )


def judge_of(settings: CampaignSettings, space: Space, facts: EvaluatorFacts) -> Judge:
    """Returns how objectives and constraints say what a candidate is worth."""
    weights = {name: one.weight for name, one in facts.tasks["search"].items()}
    if settings.objectives is None:
        return weighted_judge(weights)
    measuring, references = as_measuring(space), space.references
    with about("objectives"):
        recipes = [one.recipe for one in references[:1]]
        measures = [name for one in recipes if measuring for name in measuring.measures(one)]
        return settings.objectives.judge(weights, measures, references)


def branch_of(search_settings: Mapping[str, Any], until: int) -> dict[str, Any]:
    """Returns how a campaign proposed its candidates up to one, for a fork to keep."""
    return {"until": until, **{key: search_settings[key] for key in _RULES}}


def _branch(settings: CampaignSettings, plain: Mapping[str, Any]) -> Branch:
    then = config.from_dict(
        {**config.as_dict(settings), **{key: plain[key] for key in _RULES}}, origin="history"
    )
    rules = Rules(algorithm=then.search, seed=then.seed, control=then.control == "random")
    return Branch(until=plain["until"], rules=rules)


def check_resources(cluster: Cluster) -> str:
    """Returns how many evaluators there will be, as people say it.

    Raises:
        CheckError: if the cluster cannot be reached or has not enough for what is asked.
    """
    from cluster.open import available

    with about("cluster"):
        num_cpus, num_gpus = available(cluster)
        part = share(cluster, num_cpus=num_cpus, num_gpus=num_gpus)
    count = 1 if cluster.address == "inline" else part.evaluators
    return f"{count} with {part.cpus} CPUs and {part.gpus:g} GPUs each"


def num_expected(parts: Parts) -> int | None:
    """Returns how many candidates will be measured in all, if the budget says so."""
    limits, algorithm = parts.campaign.limits, parts.campaign.algorithm
    counts = []
    if limits.evaluations is not None:
        counts.append(limits.evaluations)
    if limits.generations is not None:
        counts.append(sum(algorithm.size(g) for g in range(1, limits.generations + 1)))
    if not counts:
        return None
    return min(counts) * (2 if parts.campaign.control else 1) + len(parts.space.references)


def changed_search(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns how two searches differ.

    What an earlier version did not record is no difference.
    """
    return _changed(stored, now, _BESIDE)


def changed_measure(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns how two campaigns differ in what a genome is or what it is worth."""
    return _changed(stored, now, (*_BESIDE, *_RULES))


def _changed(stored: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str]) -> list[str]:
    keys = (set(now) & set(stored)) - set(but)
    before = _filled(stored)
    lines = differences({key: before[key] for key in keys}, {key: now[key] for key in keys})
    if lines or "genes" not in stored or "genes" not in now:
        return lines
    return gene_records.changes(stored["genes"], now["genes"])  # another version may make others


def _filled(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a recorded search with the defaults of settings that came later filled in."""
    sections = {key: stored[key] for key in _SEARCH if key in stored}
    try:
        settings = config.from_dict({"name": "stored", "budget": {"hours": 1}, **sections})
    except config.ConfigError:
        return stored  # as it stands: this version does not know what the settings mean
    full = _search_sections(settings)
    return {**stored, **{key: full[key] for key in sections}}


def _search_sections(settings: CampaignSettings) -> dict[str, Any]:
    """Returns the settings that must not change, without those that change speed alone."""
    full = config.as_dict(settings)
    beside = {key: _without_speed(full[key]) for key in ("space", "evaluate")}
    return {**{key: full[key] for key in _SEARCH}, **beside}


#: Settings of spaces and evaluators that change nothing of what comes out.
_SPEED = ("resident", "cache_gib", "cache_folder", "checkpoints")


def _without_speed(section: Any) -> Any:
    """Drops where models are kept, which changes nothing of what comes out."""
    if not isinstance(section, dict):
        return section
    return {key: _without_speed(held) for key, held in section.items() if key not in _SPEED}


def differences(stored: Mapping[str, Any], now: Mapping[str, Any], at: str = "") -> list[str]:
    """Returns a line for each setting that differs, as `key: before -> now`."""
    lines: list[str] = []
    for key in sorted(set(stored) | set(now)):
        where, before, after = f"{at}{key}", stored.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{where}.")
        elif before != after:
            lines.append(f"{where}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines


def estimate(parts: Parts) -> dict[str, Any]:
    """Returns the disk and memory a campaign will need, and what there is.

    Raises:
        CheckError: if it cannot fit.
    """
    facts = parts.space.describe()
    model_bytes, source_bytes = (int(facts.get(key, 0)) for key in ("model_bytes", "source_bytes"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # The sources are maps that all evaluators share; each has a resident model and what it takes
    # to run it, statistics of the sources, the blocks that are being merged, and libraries.
    statistics = min(_STATISTICS_BYTES, source_bytes)
    resident = model_bytes + model_bytes // 8
    per_evaluator = resident + statistics + _BLOCKS_BYTES + _LIBRARIES_BYTES if resident else 0
    # The folder comes to be on the first run; look where its nearest existing parent is.
    folder = Path(parts.settings.output_folder).resolve()
    while not folder.exists():
        folder = folder.parent
    disk_free = shutil.disk_usage(folder).free
    if 2 * model_bytes > disk_free:
        raise CheckError(
            f"the result needs {2 * model_bytes:,} bytes in {folder}, {disk_free:,} are free",
            "output",
        )
    if per_evaluator > memory:
        raise CheckError(
            f"one evaluator needs about {per_evaluator:,} bytes of memory, this machine has "
            f"{memory:,}"
        )
    return {
        "memory_per_evaluator": per_evaluator,
        "memory": memory,
        "disk": 2 * model_bytes,
        "disk_free": disk_free,
    }


def by_task(facts: EvaluatorFacts) -> dict[str, TaskFacts]:
    """Returns the tasks of all kinds of rows; one that is split into several is named with each."""
    names = [name for tasks in facts.tasks.values() for name in tasks]
    return {
        name if names.count(name) == 1 else f"{name} ({rows})": one
        for rows, tasks in facts.tasks.items()
        for name, one in tasks.items()
    }


def _search_settings(
    settings: CampaignSettings, space: Space, facts: EvaluatorFacts
) -> Mapping[str, Any]:
    return {
        **_search_sections(settings),
        "revisions": dict(space.revisions),
        "rows": {name: one.rows for name, one in by_task(facts).items()},
        "prompts": {name: one.prompts for name, one in by_task(facts).items()},
        "warnings": list(facts.warnings),
        "genes": space.genes.as_dict(),
        **({} if facts.counted_in == DOCUMENTS else {"counted_in": facts.counted_in}),
    }

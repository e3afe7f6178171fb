"""Item response estimates beside the plain mean, on small digit classifiers and their merges.

    python benchmarks/irt.py [--part bank|campaign|search ...] [--seeds 10] [--draws 8]

`bank`: a bank of 160 models estimates merges of fresh experts, on random digits. `campaign`: the
item bank has nothing but a campaign's own answers; its references are measured in full, and its
candidates, those of a search on full evaluations, on some digits each. `search`: a genetic
algorithm on estimates, whose five best are then measured in full, beside the same on full
evaluations, on plain means, and random search. Prints Markdown: means over seeds and draws, ± their
standard deviation; a cell is the mean absolute error (and its share of the plain mean's),
rank correlation with the truth, and how often the 95 % interval holds it. One thread, minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import irt_models as models
import irt_world as worlds
import numpy as np
import torch
from scipy.stats import spearmanr

from orchestrator.measurement import irt
from orchestrator.measurement.item_bank import ItemBank
from orchestrator.measurement.measured import Z95

Array = np.ndarray[Any, Any]
NUMBERS = (10, 20, 50, 100)


def main() -> None:
    """Prints the tables of the parts asked for."""
    parts: dict[str, Callable[[int, int], None]] = {
        "bank": bank,
        "campaign": campaign,
        "search": search,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--draws", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.part:
        parts[name](arguments.seeds, arguments.draws)


class Errors:
    """Estimates of several kinds beside the truth, a round after the other."""

    def __init__(self) -> None:
        #: (column, number of documents) -> error, rank correlation, coverage of each round.
        self._rounds: dict[tuple[str, int], list[tuple[float, float, float]]] = {}

    def add(self, num: int, found: dict[str, list[irt.Estimate]], true: Array) -> None:
        """Notes each column's estimates of all candidates of one round."""
        for column, estimates in found.items():
            values = np.array([one.value for one in estimates])
            off = np.abs(values - true)
            within = off <= Z95 * np.array([one.stderr for one in estimates])
            rank = float(spearmanr(values, true).statistic)
            self._rounds.setdefault((column, num), []).append((off.mean(), rank, within.mean()))

    def mean(self, column: str, num: int) -> float:
        """Mean absolute error."""
        return float(np.mean([one[0] for one in self._rounds[column, num]]))

    def show(self, title: str, baseline: str) -> None:
        """Prints error (as a share of the baseline's) / rank correlation / coverage of 95 %."""
        columns = list(dict.fromkeys(column for column, _ in self._rounds))
        print(f"\n### {title}\n\n| documents | " + " | ".join(columns) + " |")
        print("| ---: |" + " --- |" * len(columns))
        for num in NUMBERS:
            cells = []
            for column in columns:
                rounds = np.array(self._rounds[column, num])
                (error, rank, covered), spread = rounds.mean(axis=0), rounds[:, 0].std(ddof=1)
                share = error / self.mean(baseline, num)
                cells.append(
                    f"{error:.4f} ± {spread:.4f} ({share:.2f}x) / {rank:.2f} / {covered:.2f}"
                )
            print(f"| {num} | " + " | ".join(cells) + " |", flush=True)


def bank(seeds: int, draws: int) -> None:
    """Estimates merges by an external bank."""
    num_rows = 1437
    answers = models.random_models(160, num_rows, seed=0)
    fitted = irt.fit(answers, dimensions=3, ridge=1.0)
    everywhere = np.arange(models.NUM_DIGITS)
    rows = torch.arange(num_rows)
    masks = models.of_classes(rows, (range(5), range(5, 10)))
    errors = Errors()
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        start = models.fresh(2, torch.Generator().manual_seed(1000 + seed))
        pair = models.train(start, rows, masks, (10, 10), 0.003)
        merges = models.right(models.split_merges(pair, 80, rng), slice(None))
        parents = np.array(
            [irt.ability(fitted, everywhere, one).theta for one in models.right(pair, slice(None))]
        )
        for num in NUMBERS:
            for _ in range(draws):
                places = rng.choice(models.NUM_DIGITS, num, replace=False)
                found: dict[str, list[irt.Estimate]] = {}
                for merge in merges:
                    for column, one in estimators(fitted, parents, places, merge[places]):
                        found.setdefault(column, []).append(one)
                errors.add(num, found, merges.mean(axis=1))
    errors.show(f"External bank, {seeds} pairs of experts x {draws} draws, random digits", "mean")
    limits = {10: 0.9, 20: 0.9, 50: 1.05}
    for num, limit in limits.items():
        share = errors.mean("gmp-IRT", num) / errors.mean("mean", num)
        verdict = "reached" if share <= limit else "MISSED"
        print(f"gate at {num}: gmp-IRT / mean = {share:.2f} <= {limit}: {verdict}")


def estimators(
    fitted: irt.Bank, parents: Array, places: Array, seen: Array
) -> Iterable[tuple[str, irt.Estimate]]:
    """Yields the plain mean and each estimate, named."""
    mean = seen.mean()
    yield "mean", irt.Estimate(mean, float(np.sqrt(mean * (1.0 - mean) / len(seen))))
    free = irt.ability(fitted, places, seen)
    mixed = irt.mixture_ability(fitted, parents, places, seen)
    yield "p-IRT", irt.estimate(fitted, free, places, seen)
    yield "gp-IRT", irt.estimate(fitted, free, places, seen, share=irt.SHARE)
    yield "mp-IRT", irt.estimate(fitted, mixed, places, seen)
    yield "gmp-IRT", irt.estimate(fitted, mixed, places, seen, share=irt.SHARE)


def campaign(seeds: int, _draws: int) -> None:
    """Estimates the candidates of searches by their own answers."""
    errors = Errors()
    for seed in range(seeds):
        world = worlds.World.of(seed)
        born = worlds.evolve(worlds.GENETIC, seed, worlds.Run(world, seed).in_full)
        answers = world.answers([genome for _, genome in born], world.search)
        for num in NUMBERS:
            _replay(errors, world, answers, num, seed)
    title = f"A campaign's own answers, {seeds} searches of {len(born)} candidates"
    errors.show(title, "mean, random")


def _replay(errors: Errors, world: worlds.World, answers: Array, num: int, seed: int) -> None:
    settings, rng = ItemBank(documents=num), np.random.default_rng(seed)
    memory = worlds.begin(settings, world, seed)
    found: dict[str, list[irt.Estimate]] = {}
    for number, one in enumerate(answers):
        (task,) = memory.tasks
        assert task.fitted is not None
        fitted = task.fitted.bank
        parents = fitted.theta[: len(task.references)]
        documents = settings.choose(memory, number)
        balanced = np.array(documents["digits"])
        places = {
            "random": rng.choice(len(one), num, replace=False),
            "informative": _most_informative(fitted, num, len(parents)),
            "balanced": balanced,
        }
        for how, chosen in places.items():
            for column, estimate in estimators(fitted, parents, chosen, one[chosen]):
                if how == "balanced" or column in ("mean", "gmp-IRT"):
                    found.setdefault(f"{column}, {how}", []).append(estimate)
        measured = worlds.score(one[balanced])
        memory = settings.learn(memory, [(f"s{number}", documents, measured)])
    errors.add(num, found, answers.mean(axis=1))


def _most_informative(fitted: irt.Bank, num: int, num_references: int) -> Array:
    """Returns, of each stratum of difficulty, the item with the greatest Fisher information."""
    recent = fitted.theta[num_references:][-32:]
    theta = (recent if len(recent) else fitted.theta).mean(axis=0)
    strata = np.array_split(np.argsort(fitted.probabilities(theta), kind="stable"), num)
    information = fitted.information(theta)
    return np.array([stratum[information[stratum].argmax()] for stratum in strata])


def search(seeds: int, _draws: int) -> None:
    """Searches on full evaluations, on estimates and on plain means, and at random."""
    sizes = [worlds.GENETIC.size(generation + 1) for generation in range(worlds.GENERATIONS)]
    num, each = sum(sizes), worlds.DOCUMENTS
    full = num * 800
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        for name, result in worlds.searches(seed).items():
            results.setdefault(name, []).append(result)
    print(f"\n### Searches of {num} candidates, {each} digits each, {seeds} seeds\n")
    print(
        "| search | accuracy on test | share of full | digits spent |\n| --- | --- | --- | ---: |"
    )
    best = np.array([accuracy for accuracy, _ in results["genetic, in full"]])
    for name, found in results.items():
        accuracies, spent = np.array(found).T
        share = accuracies / best
        print(
            f"| {name} | {accuracies.mean():.4f} ± {accuracies.std(ddof=1):.4f} | "
            f"{share.mean():.3f} ± {share.std(ddof=1):.3f} | {spent.mean() / full:.1%} |"
        )
    share = float(np.mean([one for one, _ in results["genetic, gmp-IRT"]]) / best.mean())
    spent = float(np.mean([one for _, one in results["genetic, gmp-IRT"]]) / full)
    verdict = "reached" if share >= 0.95 and spent <= 0.15 else "MISSED"
    print(f"gate: {share:.3f} >= 0.95 of full evaluation at {spent:.1%} <= 15 %: {verdict}")


if __name__ == "__main__":
    main()

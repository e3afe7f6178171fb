"""Natural niches (M2N2) on the 8x8 digits, against what it is made of and against chance.

Two small networks, each trained for ten steps on five of the ten digits, are merged again and
again; the ordering of the methods is the fingerprint of a right implementation. The algorithm is
the product's own; the models are vectors, crossed by a function of numpy here.

    python -m benchmarks.natural_niches                 # two trained halves, 1,000 evaluations
    python -m benchmarks.natural_niches --from-scratch  # two random networks, 10,000 evaluations
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.natural_niches import NaturalNiches
from orchestrator.spaces.genes import Genes, Genome, Real

Vector = npt.NDArray[np.float64]

#: Layers of the network: pixels, hidden units, digits.
SIZES = (64, 256, 10)
NUM_WEIGHTS = sum(m * n + n for m, n in pairwise(SIZES))  # 19,210
INITIAL, STEPS, RATE = 0.01, 10, 0.003
ARCHIVE = 20
SEEDS = 12
CHECKPOINTS = (100, 300, 1_000)
SCRATCH_CHECKPOINTS = (1_000, 2_000, 5_000, 10_000)
#: Above this cosine two vectors are mixed linearly.
PARALLEL = 0.9995
#: The genes of a crossing; the two founders are the first and the second model as they are.
GENES = Genes(
    (Real(name="weight", low=0.0, high=1.0), Real(name="split", low=0.0, high=1.0)),
    founders=((1.0, 0.0), (0.0, 0.0)),
)


@dataclass(frozen=True)
class Digits:
    """Images and their digits: the first four fifths to search on, the last fifth to test on."""

    train: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]

    @classmethod
    def load(cls) -> Digits:
        pixels, labels = load_digits(return_X_y=True)
        pixels = pixels.astype(np.float32)
        cut = int(0.8 * len(pixels))
        return cls(pixels[:cut], labels[:cut], pixels[cut:], labels[cut:])


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    algorithm: NaturalNiches | None
    split: bool = True
    whole_angle: bool = False


def methods() -> list[Method]:
    """Returns the rows of the table."""
    plain = NaturalNiches(population_size=ARCHIVE, batch=1)
    unattracted = NaturalNiches(population_size=ARCHIVE, batch=1, attraction=False)
    genetic = NaturalNiches(population_size=ARCHIVE, batch=1, attraction=False, alpha=0.0)
    return [
        Method("random search", None),
        Method("GA (alpha 0, no attraction)", genetic),
        Method("M2N2 without split point", plain, split=False),
        Method("M2N2 without attraction", unattracted),
        Method("M2N2, whole-vector angle", plain, whole_angle=True),
        Method("M2N2, angle per part", plain),
    ]


def layers(weights: Vector) -> Iterator[tuple[Vector, Vector]]:
    """Gives each layer's matrix and bias, in forward order."""
    at = 0
    for m, n in pairwise(SIZES):
        yield weights[at : at + m * n].reshape(m, n), weights[at + m * n : at + m * n + n]
        at += m * n + n


def answers(
    weights: Vector, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> Vector:
    """Returns 1 for each image whose digit the network tells, else 0."""
    (w1, b1), (w2, b2) = layers(weights.astype(np.float32))
    hidden = images @ w1
    np.maximum(hidden + b1, 0.0, out=hidden)
    found: Vector = (np.argmax(hidden @ w2 + b2, axis=1) == labels).astype(np.float64)
    return found


def initial(rng: np.random.Generator) -> Vector:
    """Returns a network that has learned nothing."""
    return INITIAL * rng.standard_normal(NUM_WEIGHTS)


def trained(
    weights: Vector, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> Vector:
    """Returns the network after a few steps of Adam on all images at once."""
    weights, first, second = weights.copy(), np.zeros(NUM_WEIGHTS), np.zeros(NUM_WEIGHTS)
    for step in range(1, STEPS + 1):
        gradient = _gradient(weights, images, labels)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, scale = first / (1 - 0.9**step), np.sqrt(second / (1 - 0.999**step))
        weights -= RATE * mean / (scale + 1e-8)
    return weights


def _gradient(
    weights: Vector, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> Vector:
    (w1, b1), (w2, b2) = layers(weights)
    hidden = np.maximum(images @ w1 + b1, 0.0)
    logits = hidden @ w2 + b2
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.arange(len(labels)), labels] -= 1.0
    error = shares / len(labels)
    back = (error @ w2.T) * (hidden > 0)
    parts = (images.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0))
    return np.concatenate([part.ravel() for part in parts])


def slerp(a: Vector, b: Vector, t: float, cosine: float) -> Vector:
    """Returns the point a share `t` of the way from one vector to the other."""
    if abs(cosine) > PARALLEL:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    found: Vector = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return found


def cosine_of(a: Vector, b: Vector) -> float:
    """Returns the cosine of the angle between two vectors, 0 where one is zero."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(a @ b / norms, -1.0, 1.0)) if norms > 0 else 0.0


def crossed(a: Vector, b: Vector, genome: Genome, method: Method) -> Vector:
    """Returns the child: `weight` of the way before the split, the rest of the way after it."""
    weight, split = genome
    cut = min(int(split * NUM_WEIGHTS), NUM_WEIGHTS - 1) if method.split else 0
    child = np.empty(NUM_WEIGHTS)
    for place, t in ((slice(0, cut), weight), (slice(cut, None), 1 - weight)):
        pair = (a, b) if method.whole_angle else (a[place], b[place])
        child[place] = slerp(a[place], b[place], t, cosine_of(*pair))
    return child


def run(
    method: Method,
    founders: Sequence[Vector],
    digits: Digits,
    seed: int,
    checkpoints: Sequence[int],
    sigma: float = 0.0,
) -> tuple[dict[int, tuple[float, float]], float]:
    """Returns the best's train and test accuracy at checkpoints, and the archive's coverage."""
    rng = np.random.default_rng([seed, 7])
    models: dict[str, Vector] = {}
    memory, best, found = Memory(), ("", -1.0), {}
    for number in range(1, checkpoints[-1] + 1):
        name = f"s{number}"
        if number <= len(founders):
            genome, models[name] = GENES.founders[number - 1], founders[number - 1]
        elif method.algorithm is None:
            (genome,) = GENES.sample(rng, 1)
            models[name] = crossed(founders[0], founders[1], genome, method)
        else:
            (proposal,) = method.algorithm.ask(GENES, memory, rng)
            a, b = models[proposal.parents[0]], models[proposal.parents[-1]]
            genome, models[name] = proposal.genome, crossed(a, b, proposal.genome, method)
        if sigma and number > len(founders):
            models[name] += sigma * rng.standard_normal(NUM_WEIGHTS)
        row = answers(models[name], digits.train, digits.train_labels)
        one = Evaluated(
            candidate=name,
            number=number,
            genome=genome,
            fitness=float(row.mean()),
            answers=tuple(row.tolist()),
        )
        memory = (method.algorithm or methods()[1].algorithm).tell(memory, [one])  # type: ignore[union-attr]
        best = max(best, (name, float(row.mean())), key=lambda pair: pair[1])
        if number in checkpoints:
            test = answers(models[best[0]], digits.test, digits.test_labels).mean()
            found[number] = (best[1], float(test))
        kept = {best[0], *(member.candidate for member in memory.members)}
        models = {key: held for key, held in models.items() if key in kept}
    solved = np.array([member.answers for member in memory.members]).max(axis=0)
    return found, float(solved.mean())


def experts(digits: Digits, seed: int) -> list[Vector]:
    """Returns a network trained on the digits 0-4, and one on 5-9, begun apart."""
    found = []
    for which, chosen in enumerate((digits.train_labels < 5, digits.train_labels >= 5)):
        start = initial(np.random.default_rng([seed, which]))
        found.append(trained(start, digits.train[chosen], digits.train_labels[chosen]))
    return found


def accuracies(model: Vector, digits: Digits) -> tuple[float, float]:
    """Returns the share of digits told, of the images searched on and of those tested on."""
    train = answers(model, digits.train, digits.train_labels).mean()
    test = answers(model, digits.test, digits.test_labels).mean()
    return float(train), float(test)


def best_on_line(founders: Sequence[Vector], digits: Digits, method: Method) -> Vector:
    """Returns the best of 1,001 points on the arc between the founders."""
    points = [crossed(*founders, (1 - t, 0.0), method) for t in np.linspace(0, 1, 1_001)]
    scores = [answers(one, digits.train, digits.train_labels).mean() for one in points]
    return points[int(np.argmax(scores))]


def pretrained(digits: Digits, num_seeds: int) -> Mapping[str, Any]:
    """Prints the table for two trained halves; returns train and test accuracies at the end."""
    ends: dict[str, list[tuple[float, float]]] = {}
    curves: dict[str, list[dict[int, tuple[float, float]]]] = {}
    for seed in range(num_seeds):
        founders = experts(digits, seed)
        print(f"seed {seed}", file=sys.stderr, flush=True)
        fixed: dict[str, Callable[[], Vector]] = {
            "expert 0-4": lambda held=founders: held[0],  # type: ignore[misc]
            "expert 5-9": lambda held=founders: held[1],  # type: ignore[misc]
            "uniform average": lambda held=founders: (held[0] + held[1]) / 2,  # type: ignore[misc]
            "best of a 1,001-point line": lambda held=founders: best_on_line(  # type: ignore[misc]
                held, digits, methods()[-1]
            ),
        }
        for name, make in fixed.items():
            ends.setdefault(name, []).append(accuracies(make(), digits))
        for method in methods():
            curve, _ = run(method, founders, digits, seed, CHECKPOINTS)
            curves.setdefault(method.name, []).append(curve)
            ends.setdefault(method.name, []).append(curve[CHECKPOINTS[-1]])
    print("method | " + " | ".join(f"{n:,}" for n in CHECKPOINTS) + " | test, per seed")
    for name, held in ends.items():
        cells = [f"{_pair(held)}"]
        if name in curves:
            cells = [_pair([curve[n] for curve in curves[name]]) for n in CHECKPOINTS]
        tests = " ".join(f"{test:.3f}" for _, test in held)
        print(f"{name} | " + " | ".join(cells) + f" | {tests}")
    return ends


def from_scratch(digits: Digits, num_seeds: int) -> None:
    """Prints the table for two random networks whose children are mutated."""
    wanted = [one for one in methods() if one.name.startswith("GA") or one.name.endswith("part")]
    for method in wanted:
        rows = []
        for seed in range(num_seeds):
            founders = [initial(np.random.default_rng([seed, which])) for which in (0, 1)]
            rows.append(run(method, founders, digits, seed, SCRATCH_CHECKPOINTS, sigma=INITIAL))
        cells = [_pair([curve[n] for curve, _ in rows]) for n in SCRATCH_CHECKPOINTS]
        coverage = np.mean([held for _, held in rows])
        print(f"{method.name} | " + " | ".join(cells) + f" | coverage {coverage:.3f}", flush=True)


def check(ends: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """Returns the gates that were missed by the published form, with the whole vectors' angle."""
    means = {name: np.mean(held, axis=0) for name, held in ends.items()}
    chance, line = means["random search"], means["best of a 1,001-point line"]
    train, test = means["M2N2, whole-vector angle"]
    without = [means[f"M2N2 without {part}"][0] for part in ("attraction", "split point")]
    gates = {
        "train at least random + 0.03": train >= chance[0] + 0.03,
        "train at least line + 0.04": train >= line[0] + 0.04,
        "test at least random + 0.015": test >= chance[1] + 0.015,
        "M2N2 > no attraction > no split point": train > without[0] > without[1],
        "no split point is about the line": abs(without[1] - line[0]) < 0.01,
        "GA below random": means["GA (alpha 0, no attraction)"][0] < chance[0],
    }
    for gate, passed in gates.items():
        print(f"{'passed' if passed else 'MISSED'}: {gate}")
    return [gate for gate, passed in gates.items() if not passed]


def _pair(held: Sequence[tuple[float, float]]) -> str:
    train, test = np.mean(held, axis=0)
    return f"{train:.3f} / {test:.3f} ± {np.std([one for _, one in held], ddof=1):.3f}"


def main() -> None:
    """Runs one of the two experiments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--from-scratch", action="store_true")
    given = parser.parse_args()
    digits = Digits.load()
    if given.from_scratch:
        from_scratch(digits, given.seeds)
        return
    missed = check(pretrained(digits, given.seeds))
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()

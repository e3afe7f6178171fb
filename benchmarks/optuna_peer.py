"""Optuna's storages under the same work, for `benchmarks/store.py`."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)


def rates(folder: Path, genes: int, num: int) -> dict[str, float]:
    """Returns trials per second of one worker on each durable storage."""
    storages = {
        "RDB": RDBStorage(f"sqlite:///{folder}/optuna.db"),
        "journal": JournalStorage(JournalFileBackend(str(folder / "optuna.log"))),
    }
    found = {}
    for name, storage in storages.items():
        study = _study(storage)
        started = time.perf_counter()
        for _ in range(num):
            _trial(study, genes)
        found[name] = num / (time.perf_counter() - started)
    return found


def crowd(folder: Path, genes: int, workers: int, seconds: float) -> tuple[float, int]:
    """Returns trials per second, and trials lost to errors, of threads on one RDB study."""
    study = _study(RDBStorage(f"sqlite:///{folder}/crowd.db"))
    done, errors, end = [0] * workers, [0] * workers, time.monotonic() + seconds

    def work(index: int) -> None:
        while time.monotonic() < end:
            try:
                _trial(study, genes)
                done[index] += 1
            except Exception:  # noqa: BLE001  (of whatever kind: the trial is lost)
                errors[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(workers)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - started), sum(errors)


def _study(storage: Any) -> Any:
    return optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))


def _trial(study: Any, genes: int) -> None:
    trial = study.ask()
    values = [trial.suggest_float(f"weight {index}", -0.5, 1.5) for index in range(genes)]
    study.tell(trial, sum(values))

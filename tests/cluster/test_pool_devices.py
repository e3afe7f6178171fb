"""Which GPU a pool's process is given, without any GPU here."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest

from cluster.open import _placed
from cluster.pool import _serve, device_groups
from cluster.resources import Share
from workers.run import WorkerSettings

SETTINGS = WorkerSettings(builder=None, evaluator=None, threads=1, folder=".")


@dataclass
class Seen:
    """Settings whose opening notes the GPUs that the process would see, then refuses."""

    visible: str | None = "not opened"

    def open(self, name, node=""):
        self.visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ValueError("enough seen")


class Pipe:
    """Takes messages."""

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)


@pytest.fixture
def seen_by(monkeypatch):
    """What a worker process sees, given the driver's own CUDA_VISIBLE_DEVICES and a device."""
    import signal

    handler = signal.getsignal(signal.SIGINT)

    def serve(ours, device):
        if ours is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
        settings, pipe = Seen(), Pipe()
        _serve(settings, "pool-1", pipe, device)
        assert pipe.sent == ["ValueError: enough seen"]
        return settings.visible

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "restored")  # so that what is set is undone
    yield serve
    signal.signal(signal.SIGINT, handler)


def test_a_worker_sees_the_gpus_it_was_given_and_no_others(seen_by):
    assert seen_by("0,1,2,3", "2,3") == "2,3"


def test_a_worker_that_was_given_none_leaves_the_choice_to_its_settings(seen_by):
    assert seen_by(None, None) is None


def test_gpus_are_counted_among_those_that_the_driver_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert device_groups(2, 1.0) == ["5", "7"]


def test_a_worker_of_several_gpus_gets_them_together(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device_groups(5, 2.0) == ["0,1", "2,3"]


def test_workers_of_half_a_gpu_share_one(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device_groups(2, 0.5) == ["0", "1"]


def test_an_evaluator_without_a_gpu_is_told_to_use_the_cpu():
    share = Share(evaluators=1, gpus=0.0, cpus=1)
    assert _placed(SETTINGS, share).device == "cpu"
    assert _placed(SETTINGS, replace(share, gpus=1.0)).device == "auto"


def test_an_evaluator_knows_what_share_of_the_gpus_it_holds():
    share = Share(evaluators=1, gpus=0.25, cpus=1)
    assert _placed(SETTINGS, share).accelerators == 0.25
    assert _placed(SETTINGS, replace(share, gpus=0.0)).accelerators == 0.0

"""How a cluster's resources are divided among evaluators."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.resources import Cluster, Share, local_cpus, share


@pytest.mark.parametrize(
    ("settings", "cpus", "gpus", "expected"),
    [
        ({}, 4, 0, Share(evaluators=4, gpus=0.0, cpus=1)),
        ({}, 16, 2, Share(evaluators=2, gpus=1.0, cpus=1)),
        ({"cpus_per_evaluator": 3}, 8, 0, Share(evaluators=2, gpus=0.0, cpus=3)),
        ({"cpus_per_evaluator": 8}, 16, 4, Share(evaluators=2, gpus=1.0, cpus=8)),
        ({"evaluators": 3}, 8, 0, Share(evaluators=3, gpus=0.0, cpus=1)),
        ({"gpus_per_evaluator": 0}, 8, 2, Share(evaluators=8, gpus=0.0, cpus=1)),
        ({"gpus_per_evaluator": 0.5}, 16, 2, Share(evaluators=4, gpus=0.5, cpus=1)),
        ({"gpus_per_evaluator": 0.1}, 64, 1, Share(evaluators=10, gpus=0.1, cpus=1)),
        ({"gpus_per_evaluator": 2}, 16, 5, Share(evaluators=2, gpus=2.0, cpus=1)),
    ],
)
def test_resources_are_divided(settings, cpus, gpus, expected):
    assert share(Cluster(**settings), num_cpus=cpus, num_gpus=gpus) == expected


def test_no_room_for_one_evaluator_says_what_is_needed_and_what_is_there():
    with pytest.raises(ValueError, match="needs 8 CPUs and 0 GPUs, the cluster has 4 CPUs and 0"):
        share(Cluster(cpus_per_evaluator=8), num_cpus=4, num_gpus=0)
    with pytest.raises(ValueError, match="needs 1 CPUs and 1 GPUs, the cluster has 4 CPUs and 0"):
        share(Cluster(gpus_per_evaluator=1), num_cpus=4, num_gpus=0)


def test_more_evaluators_than_fit_are_refused_with_how_many_do():
    with pytest.raises(ValueError, match=r"evaluators: 5 evaluators .*; 4 do"):
        share(Cluster(evaluators=5), num_cpus=4, num_gpus=0)
    with pytest.raises(ValueError, match=r"3 evaluators .* and 1 GPUs each .*; 2 do"):
        share(Cluster(evaluators=3), num_cpus=64, num_gpus=2)


@given(
    cpus=st.integers(1, 128),
    gpus=st.integers(0, 16),
    cpus_each=st.integers(1, 8),
    gpus_each=st.sampled_from(["auto", 0, 0.1, 0.25, 1 / 3, 0.5, 1, 2]),
)
def test_a_share_never_takes_more_than_there_is_and_leaves_no_room_for_another(
    cpus, gpus, cpus_each, gpus_each
):
    cluster = Cluster(cpus_per_evaluator=cpus_each, gpus_per_evaluator=gpus_each)
    try:
        part = share(cluster, num_cpus=cpus, num_gpus=gpus)
    except ValueError:
        assert cpus < cpus_each or gpus < (gpus_each if gpus_each != "auto" else 1)
        return
    assert part.evaluators * part.cpus <= cpus
    assert part.evaluators * part.gpus <= gpus + 1e-6
    one_more = part.evaluators + 1
    assert one_more * part.cpus > cpus or one_more * part.gpus > gpus + 1e-6


def test_this_machine_has_a_cpu():
    assert local_cpus() >= 1

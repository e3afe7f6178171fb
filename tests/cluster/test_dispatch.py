"""The dispatcher: a fleet that is told what happens, and a clock that is told the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.dispatch import MAX_FAILED_STARTS, DispatchingExecutor, Done, Lost, Ready
from cluster.executor import ExecutorError
from evaluators.base import Score
from workers.job import Failed, Job, Scored
from workers.recipe import MergeRecipe

RECIPE = MergeRecipe(method="linear", sources=("a",), base="base", slices=(), dtype="float32")


def job(name, avoid=()):
    return Job(candidate=name, attempt=1, rows="search", recipe=RECIPE, avoid=avoid)


class Worker:
    """A handle that notes what it is told."""

    def __init__(self, name, place, fleet):
        self.name = name
        self.node = ""
        self.place = place
        self.fleet = fleet
        self.jobs = []
        self.killed = False

    def ready(self):
        """Its node is known from then on."""
        self.node = self.place
        return Ready(self)

    def send(self, job):
        assert not self.killed
        elsewhere = {worker.node for worker in self.fleet.alive} - {*job.avoid, ""}
        assert self.node not in job.avoid or not elsewhere
        self.jobs.append(job)

    def kill(self):
        self.killed = True

    def done(self):
        given = self.jobs[-1]
        scored = Scored(
            candidate=given.candidate,
            attempt=given.attempt,
            rows=given.rows,
            score=Score(fitness=1.0, tasks={}),
            seconds=1.0,
            worker=self.name,
        )
        return Done(self, scored)


class Fleet:
    """Starts workers on its nodes in turn, and says what `news` holds."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.workers = []
        self.news = []
        self.waits = []
        self.closed = False

    def start(self):
        number = len(self.workers)
        self.workers.append(Worker(f"w{number + 1}", self.nodes[number % len(self.nodes)], self))
        return self.workers[-1]

    def events(self, handles, timeout_s):
        assert not any(handle.killed for handle in handles)
        self.waits.append(timeout_s)
        news, self.news = self.news, []
        return news

    def close(self):
        self.closed = True

    @property
    def alive(self):
        return [worker for worker in self.workers if not worker.killed]


class Stage:
    """An executor, its fleet and its clock."""

    def __init__(self, slots=1, timeout_s=10.0, ready_timeout_s=30.0, nodes=("n1",)):
        self.fleet = Fleet(nodes)
        self.now = 0.0
        self.executor = DispatchingExecutor(
            self.fleet,
            slots=slots,
            timeout_s=timeout_s,
            ready_timeout_s=ready_timeout_s,
            clock=lambda: self.now,
        )

    def submit(self, *names, avoid=()):
        for name in names:
            self.executor.submit(job(name, avoid))

    def step(self, *news, after=0.0, timeout_s=1.0):
        self.now += after
        self.fleet.news = list(news)
        return self.executor.outcomes(timeout_s)

    def ready(self):
        """Starts all workers and has them report."""
        self.step()
        self.step(*[worker.ready() for worker in self.fleet.alive])
        return self.fleet.alive


def names(worker):
    return [each.candidate for each in worker.jobs]


def test_jobs_go_out_in_the_order_they_came():
    stage = Stage()
    stage.submit("c1", "c2", "c3")
    (worker,) = stage.ready()
    for _ in range(3):
        assert len(stage.step(worker.done())) == 1
    assert names(worker) == ["c1", "c2", "c3"]


def test_a_worker_gets_no_job_before_it_is_ready():
    stage = Stage()
    stage.submit("c1")
    assert stage.step() == []
    (worker,) = stage.fleet.workers
    assert worker.jobs == []
    stage.step(worker.ready())
    assert names(worker) == ["c1"]


def test_there_are_never_more_jobs_out_than_slots():
    stage = Stage(slots=2)
    stage.submit("c1", "c2", "c3", "c4", "c5")
    first, second = stage.ready()
    assert (names(first), names(second)) == (["c1"], ["c2"])
    assert len(stage.fleet.workers) == 2
    stage.step(second.done())
    assert (names(first), names(second)) == (["c1"], ["c2", "c3"])


def test_an_outcome_is_passed_on_as_the_worker_gave_it():
    stage = Stage()
    stage.submit("c1")
    (worker,) = stage.ready()
    done = worker.done()
    assert stage.step(done) == [done.outcome]
    assert stage.step() == []


def test_a_job_submitted_later_goes_to_a_worker_that_idles():
    stage = Stage()
    (worker,) = stage.ready()
    stage.submit("c1")
    stage.step()
    assert names(worker) == ["c1"]


def test_a_worker_lost_while_busy_fails_its_job_and_is_replaced():
    stage = Stage()
    stage.submit("c1", "c2")
    (worker,) = stage.ready()
    (failed,) = stage.step(Lost(worker, "exit code -9"), after=4.0)
    assert isinstance(failed, Failed)
    assert (failed.candidate, failed.attempt, failed.rows) == ("c1", 1, "search")
    assert (failed.stage, failed.cause, failed.retryable) == ("worker", "exit code -9", True)
    assert (failed.kind, failed.node) == ("lost", "n1")
    assert (failed.worker, failed.seconds) == ("w1", 4.0)
    assert worker.killed
    stage.step()
    (new,) = stage.fleet.alive
    stage.step(new.ready())
    assert names(new) == ["c2"]


def test_a_worker_lost_while_idle_fails_nothing_and_is_replaced():
    stage = Stage()
    (worker,) = stage.ready()
    assert stage.step(Lost(worker, "gone")) == []
    stage.submit("c1")
    (new,) = stage.ready()
    assert names(new) == ["c1"]


def test_a_job_past_its_time_is_ended_and_fails():
    stage = Stage(timeout_s=10.0)
    stage.submit("c1")
    (worker,) = stage.ready()
    assert stage.step(after=10.0) == []
    (failed,) = stage.step(after=0.5)
    assert worker.killed
    assert (failed.stage, failed.retryable) == ("evaluate", True)
    assert (failed.kind, failed.node) == ("timeout", "n1")
    assert failed.cause == "timed out after 10 s"


def test_the_time_of_a_job_counts_from_when_it_was_handed_out():
    stage = Stage(timeout_s=10.0)
    stage.submit("c1", "c2")
    (worker,) = stage.ready()
    stage.step(worker.done(), after=9.0)
    assert stage.step(after=9.0) == []
    assert not worker.killed


def test_an_answer_that_comes_in_just_past_its_time_counts():
    stage = Stage(timeout_s=10.0)
    stage.submit("c1")
    (worker,) = stage.ready()
    (outcome,) = stage.step(worker.done(), after=60.0)
    assert isinstance(outcome, Scored)
    assert not worker.killed


def test_an_answer_of_a_worker_that_was_given_up_is_ignored():
    stage = Stage(timeout_s=10.0)
    stage.submit("c1")
    (worker,) = stage.ready()
    assert len(stage.step(after=11.0)) == 1
    assert stage.step(worker.done()) == []
    assert stage.step(Lost(worker, "killed"), Ready(worker)) == []


def test_a_worker_that_never_gets_ready_is_replaced():
    stage = Stage(ready_timeout_s=30.0)
    stage.submit("c1")
    stage.step()
    assert stage.step(after=31.0) == []
    first = stage.fleet.workers[0]
    assert first.killed
    (second,) = stage.ready()
    assert names(second) == ["c1"]


def test_waiting_never_lasts_past_the_next_deadline():
    stage = Stage(slots=2, timeout_s=10.0, ready_timeout_s=30.0)
    stage.submit("c1")
    stage.step(timeout_s=100.0)
    assert stage.fleet.waits[-1] == 30.0
    stage.step(stage.fleet.workers[0].ready(), after=1.0, timeout_s=100.0)
    stage.step(after=4.0, timeout_s=100.0)
    assert stage.fleet.waits[-1] == 6.0
    stage.step(timeout_s=2.0)
    assert stage.fleet.waits[-1] == 2.0


def test_a_job_avoids_the_nodes_that_it_failed_on():
    stage = Stage(slots=3, nodes=("n1", "n2", "n3"))
    stage.submit("c1", avoid=("n1", "n2"))
    stage.submit("c2", avoid=("n1",))
    stage.submit("c3")
    assert [names(worker) for worker in stage.ready()] == [["c3"], ["c2"], ["c1"]]


def test_a_job_waits_for_another_node_while_one_is_there_though_it_is_busy():
    stage = Stage(slots=2, nodes=("n1", "n2"))
    first, second = stage.ready()
    stage.submit("c1", "c2")
    stage.step()
    assert (names(first), names(second)) == (["c1"], ["c2"])
    stage.submit("c3", avoid=("n1",))
    stage.submit("c4")
    stage.step(first.done())
    assert names(first) == ["c1", "c4"], "it holds up no other job"
    stage.step(first.done())
    assert names(first) == ["c1", "c4"], "it still waits for the other node"
    stage.step(second.done())
    assert names(second) == ["c2", "c3"]


def test_a_job_runs_where_it_failed_if_there_is_nothing_else():
    stage = Stage(slots=2, nodes=("n1",))
    stage.submit("c1", avoid=("n1",))
    first, _ = stage.ready()
    assert names(first) == ["c1"]


def test_a_job_that_failed_on_every_node_may_run_on_any():
    stage = Stage(slots=2, nodes=("n1", "n2"))
    stage.submit("c1", "c2", avoid=("n2", "n1", "n7"))
    first, second = stage.ready()
    assert (names(first), names(second)) == (["c1"], ["c2"])


def test_a_job_does_not_wait_for_a_node_that_has_gone():
    stage = Stage(slots=2, nodes=("n1", "n2", "n1"))
    first, second = stage.ready()
    stage.submit("c1", "c2")
    stage.step()
    stage.submit("c3", avoid=("n1",))
    stage.step(first.done())
    assert names(first) == ["c1"]
    stage.step(Lost(second, "node lost"))
    assert names(first) == ["c1", "c3"]


def test_a_job_does_not_wait_for_a_worker_that_is_still_starting():
    """Nobody knows yet where that will be."""
    stage = Stage(slots=2, nodes=("n1", "n2"))
    stage.step()
    stage.submit("c1", avoid=("n1",))
    first, _ = stage.fleet.workers
    stage.step(first.ready())
    assert names(first) == ["c1"]


def test_a_start_that_is_refused_ends_the_run_with_the_cause():
    stage = Stage(slots=4)
    stage.submit("c1")
    stage.step()
    with pytest.raises(ExecutorError, match="no such model 'm'"):
        stage.step(Lost(stage.fleet.workers[0], "no such model 'm'", refused=True))


def test_starts_that_fail_again_and_again_end_the_run_with_the_last_cause():
    stage = Stage()
    stage.submit("c1")
    for attempt in range(MAX_FAILED_STARTS - 1):
        stage.step()
        assert stage.step(Lost(stage.fleet.alive[0], f"killed {attempt}")) == []
    stage.step()
    with pytest.raises(ExecutorError, match="killed for good"):
        stage.step(Lost(stage.fleet.alive[0], "killed for good"))


def test_a_worker_that_starts_forgives_the_failed_starts_before_it():
    stage = Stage()
    for _ in range(5):
        for _ in range(MAX_FAILED_STARTS - 1):
            stage.step()
            stage.step(Lost(stage.fleet.alive[0], "killed"))
        (worker,) = stage.ready()
        stage.submit("c")
        stage.step()
        (failed,) = stage.step(Lost(worker, "killed"))
        assert isinstance(failed, Failed)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_when_workers_that_ran_are_lost_and_no_new_one_starts_the_run_ends(slots):
    """Starts fail one after another, as they do: there is always another one on its way."""
    stage = Stage(slots=slots)
    stage.submit(*[f"c{number}" for number in range(slots)])
    for worker in stage.ready():
        stage.step(Lost(worker, "node lost"))

    def fail_starts():
        for _ in range(50 * slots):
            stage.step()
            stage.step(Lost(stage.fleet.alive[0], "disk is gone", refused=True))

    with pytest.raises(ExecutorError, match="disk is gone"):
        fail_starts()


def test_closing_kills_every_worker_and_the_fleet():
    stage = Stage(slots=2)
    stage.submit("c1")
    first, second = stage.ready()
    stage.executor.close()
    assert first.killed
    assert second.killed
    assert stage.fleet.closed


def test_the_slots_are_those_asked_for():
    assert Stage(slots=5).executor.slots == 5


def submit_anywhere(stage, names, nodes, order):
    """Submits jobs each of which avoids some of the nodes."""
    for name in names:
        stage.submit(name, avoid=tuple(order.sample(nodes, order.randint(0, len(nodes)))))


@given(
    slots=st.integers(1, 3),
    fates=st.lists(st.sampled_from(["done", "lost", "timeout"]), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    num_nodes=st.integers(1, 3),
)
def test_every_job_has_exactly_one_outcome_whatever_happens_to_its_worker(
    slots, fates, order, num_nodes
):
    nodes = [f"n{number}" for number in range(num_nodes)]
    stage = Stage(slots=slots, nodes=nodes)
    fate_of = {f"c{number}": fate for number, fate in enumerate(fates)}
    submit_anywhere(stage, fate_of, nodes, order)
    found = []
    for _ in range(9 * len(fates) + 9):
        news = []
        busy = 0
        for worker in stage.fleet.alive:
            if not worker.jobs and not getattr(worker, "told", False):
                worker.told = True
                news.append(worker.ready())
            elif len(worker.jobs) > getattr(worker, "answered", 0):
                busy += 1
                fate = fate_of[worker.jobs[-1].candidate]
                if fate == "timeout" or order.random() < 0.3:
                    continue
                worker.answered = len(worker.jobs)
                news.append(worker.done() if fate == "done" else Lost(worker, "lost"))
        assert busy <= slots
        order.shuffle(news)
        found += stage.step(*news, after=6.0)
    assert sorted(outcome.candidate for outcome in found) == sorted(fate_of)
    for outcome in found:
        if fate_of[outcome.candidate] != "done":
            assert isinstance(outcome, Failed)

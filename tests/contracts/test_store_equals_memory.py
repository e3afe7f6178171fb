"""Whatever is done to a store, a database then holds what the memory holds, and nothing amiss."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import update

from evaluators.base import Documents, Score, TaskScore
from evaluators.documents import quantise
from orchestrator.campaign.state import Candidate
from orchestrator.measurement.measured import Measured
from orchestrator.storage import engine as engines
from orchestrator.storage import lease, schema, upkeep
from orchestrator.storage.base import (
    Begun,
    LeaseLostError,
    NewCampaign,
    Snapshot,
    Store,
    StoreError,
    StoreHeldError,
    Taken,
    Turn,
)
from orchestrator.storage.candidates import CandidateRecord
from orchestrator.storage.memory import Memory, MemoryStore
from orchestrator.storage.reader import Reader
from orchestrator.storage.store import SqlStore
from workers.job import Failed, Job, Outcome, Scored

NAMES = ("one", "two")
EVALUATIONS = [f"e{number}".encode() for number in range(5)]
LETTERS = {"reference": "r", "search": "s", "control": "c"}
ROWS = ("search", "fresh", "selection", "test", "control")
#: The documents of blocks; None for all of the rows.
DOCUMENTS = (None, {"t": (2, 0)}, {"t": (0, 2)}, {"u": (1,)})
#: What is worth so much, how sure that is, and what tells equals apart.
FITNESS = st.sampled_from([-1.0, 0.0, 0.5, 1 / 3, 1e300])
STDERR = st.none() | st.sampled_from([0.0, 0.125])
TIES = st.none() | st.sampled_from([-2.0, -0.5])


@dataclass
class Known:
    """What may be done next to a campaign without asking for the impossible."""

    candidates: list[Candidate] = field(default_factory=list)
    #: (candidate, rows) -> what was begun and has no end.
    open: dict[tuple[str, str], Begun] = field(default_factory=dict)
    #: (candidate, rows, block) -> number of the last attempt that ended.
    attempts: dict[tuple[str, str, int], int] = field(default_factory=dict)
    #: (candidate, rows) -> blocks that were scored.
    scored: dict[tuple[str, str], int] = field(default_factory=dict)
    #: (candidate, rows) -> the block that failed for good.
    set_aside: dict[tuple[str, str], int] = field(default_factory=dict)
    #: Candidates whose search rows have been scored as far as they are to be -> their worth.
    worth: dict[str, Measured] = field(default_factory=dict)
    #: Candidates that failed before that.
    failed: set[str] = field(default_factory=set)
    #: How they ended at first: the counters.
    num_stopped: int = 0
    num_cached: int = 0
    #: Role and rows -> documents that were scored and not copied.
    documents: Counter[tuple[str, str]] = field(default_factory=Counter)
    generation: int = 0

    def free(self) -> list[tuple[str, str]]:
        """What may be begun: fresh rows only of those that have been searched on."""
        every = [
            (one.id, rows)
            for one in self.candidates
            for rows in ROWS
            if rows != "fresh" or one.id in self.worth
        ]
        return [key for key in every if not self.is_taken(key)]

    def is_taken(self, key: tuple[str, str]) -> bool:
        """Whether no attempt on these rows can be begun."""
        several = key[1] in ("search", "fresh")
        full = self.scored.get(key, 0) >= (3 if several else 1)
        return full or key in self.open or key in self.set_aside

    def job(self, key: tuple[str, str], documents: Documents | None) -> Job:
        """The next job on these rows."""
        id_, rows = key
        block = self.scored.get(key, 0)
        return Job(
            candidate=id_,
            attempt=self.attempts.get((*key, block), 0) + 1,
            rows=rows,
            block=block,
            documents=documents,
            recipe=self.recipe(id_),
        )

    def note_scored(self, job: Job, taken: Taken) -> None:
        """Knows what a candidate is worth now."""
        id_, key = job.candidate, (job.candidate, job.rows)
        self.attempts[*key, job.block] = job.attempt
        self.scored[key] = job.block + 1
        role = {letter: role for role, letter in LETTERS.items()}[id_[0]]
        score = taken.outcome.score
        self.documents[role, job.rows] += 0 if taken.cached else score.num_documents
        if taken.measured is None or not taken.final:
            return  # it is worth what it was, if it was
        if id_ not in self.worth:
            self.num_stopped += taken.measured.stopped
            self.num_cached += taken.cached
        self.worth[id_] = taken.measured

    def note_given_up(self, job: Job) -> None:
        """Knows that no attempt follows."""
        self.set_aside[job.candidate, job.rows] = job.block
        if job.rows == "search" and job.candidate not in self.worth:
            self.failed.add(job.candidate)

    def note_retry(self, keys: list[tuple[str, str]]) -> list[tuple[str, str, int, int]]:
        """Knows that what failed is wanted again; returns the wishes."""
        found = []
        for key in keys:
            block = self.set_aside.pop(key)
            found.append((*key, block, self.attempts[*key, block] + 1))
            if key[1] == "search":
                self.failed.discard(key[0])
        return found

    def recipe(self, id_: str):
        return next(one.recipe for one in self.candidates if one.id == id_)


class Both(RuleBasedStateMachine):
    """Does everything twice: to a database and to the memory."""

    def __init__(self, databases: Callable, kind: str, folder, space) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.url = self.stack.enter_context(databases(kind, folder / uuid.uuid4().hex))
        self.memory = Memory()
        self.space = space
        self.known = {name: Known() for name in NAMES}
        self.held: dict[str, tuple[Store, ...]] = {}
        self.engine = engines.open_for_writing(self.url)
        self.stack.callback(self.engine.dispose)

    def teardown(self) -> None:
        for name in self.held:
            self.read(name)
        for pair in self.held.values():
            for store in pair:
                store.close()
        self.stack.close()

    def open(self, name: str) -> tuple[Store, ...]:
        sql = SqlStore(self.url, name)
        self.stack.callback(sql.close)
        return (sql, MemoryStore(self.memory, name))

    @initialize(seed=st.integers(0, 2**40), search=st.dictionaries(st.text(), st.integers()))
    def create(self, seed, search):
        new = NewCampaign(
            settings={"seed": seed}, search_settings=search, seed=seed, versions={"lm_eval": "1"}
        )
        for name in NAMES:
            self.held[name] = self.open(name)
            for store in self.held[name]:
                assert store.load() is None
                store.create(new)
            for store in self.open(name):
                with pytest.raises(StoreError):
                    store.create(new)

    def some(self, data: st.DataObject) -> tuple[str, Known, tuple[Store, ...]]:
        name = data.draw(st.sampled_from(NAMES))
        return name, self.known[name], self.held[name]

    # Turns.

    @rule(data=st.data())
    def write(self, data):
        _, known, pair = self.some(data)
        known.generation += data.draw(st.integers(0, 1), label="new generations")
        turn = Turn(elapsed_s=data.draw(st.floats(0, 1e6)), generation=known.generation)
        turn.candidates = self.born(data, known)
        known.candidates += turn.candidates
        for key in data.draw(subset(list(known.open)), label="ended"):
            turn.taken.append(self.ended(data, known, known.open.pop(key)))
        if self.memory.scores:
            for key in data.draw(subset(known.free(), least=0), label="copied"):
                turn.taken.append(self.copied(data, known, key))
        for key in data.draw(subset(known.free()), label="begun"):
            begun = self.begun(data, known, key)
            known.open[key] = begun
            turn.begun.append(begun)
        for store in pair:
            store.write(turn)

    def born(self, data, known: Known) -> list[Candidate]:
        found: list[Candidate] = []
        for role in data.draw(
            st.lists(st.sampled_from(sorted(LETTERS)), min_size=not known.candidates, max_size=3)
        ):
            number = 1 + sum(one.role == role for one in [*known.candidates, *found])
            elder = [one.id for one in [*known.candidates, *found]]
            parents = st.lists(st.sampled_from(elder), unique=True, max_size=3) if elder else None
            genome = tuple(data.draw(st.lists(st.floats(allow_nan=False), min_size=3, max_size=3)))
            reference = role == "reference"
            found.append(
                Candidate(
                    id=f"{LETTERS[role]}{number}",
                    role=role,
                    number=number,
                    generation=0 if reference else max(1, known.generation),
                    name="base" if reference else "",
                    genome=None if reference else genome,
                    recipe=self.space.decode(genome),
                    parents=tuple(data.draw(parents)) if parents is not None else (),
                    operator="chance",
                )
            )
        return found

    def begun(self, data, known: Known, key: tuple[str, str]) -> Begun:
        evaluation = data.draw(st.none() | st.sampled_from(EVALUATIONS))
        named = data.draw(st.sampled_from(DOCUMENTS)) if evaluation is None else about(evaluation)
        job = known.job(key, named)
        return Begun(
            job=replace(job, halvings=data.draw(st.integers(0, 3))),
            lease_until=data.draw(st.floats(0, 1e10)),
            evaluation=evaluation,
        )

    def measured(self, data, job: Job) -> tuple[Measured | None, bool]:
        """What a candidate is worth after an outcome, and whether that is the last of its rows."""
        if job.rows not in ("search", "fresh"):
            return None, True
        final = job.rows == "fresh" or data.draw(st.booleans(), label="final")
        worth = Measured(
            fitness=data.draw(FITNESS),
            stderr=data.draw(STDERR),
            fidelity=data.draw(st.sampled_from([0.25, 1.0])),
            stopped=final and job.rows == "search" and data.draw(st.booleans(), label="stopped"),
            tie=data.draw(TIES),
        )
        return worth, final

    def ended(self, data, known: Known, begun: Begun) -> Taken:
        job = begun.job
        if data.draw(st.booleans(), label="scored"):
            worth, final = self.measured(data, job)
            taken = Taken(outcome=scored(job, begun.evaluation), final=final, measured=worth)
            known.note_scored(job, taken)
            return taken
        known.attempts[job.candidate, job.rows, job.block] = job.attempt
        final = data.draw(st.booleans(), label="final")
        if final:
            known.note_given_up(job)
        failed = Failed(
            candidate=job.candidate,
            attempt=job.attempt,
            rows=job.rows,
            block=job.block,
            stage=data.draw(st.sampled_from(["start", "build", "evaluate", "worker"])),
            cause=data.draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
            retryable=not final or data.draw(st.booleans()),
            kind=data.draw(st.sampled_from(["error", "lost", "timeout", "memory"])),
            log="...",
            seconds=data.draw(st.floats(0, 1e6)),
            worker="w",
            node=data.draw(st.sampled_from(["", "n1"])),
            device="cpu",
            accelerator_seconds=data.draw(st.floats(0, 1e6)),
        )
        return Taken(outcome=failed, final=final)

    def copied(self, data, known: Known, key: tuple[str, str]) -> Taken:
        evaluation = data.draw(st.sampled_from(sorted(self.memory.scores)))
        job = known.job(key, about(evaluation))
        worth, final = self.measured(data, job)
        taken = Taken(
            outcome=scored(job, evaluation),
            final=final,
            cached=True,
            evaluation=evaluation,
            measured=worth,
        )
        known.note_scored(job, taken)
        return taken

    @rule(
        data=st.data(),
        fingerprint=st.text("abc"),
        state=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    )
    def keep(self, data, fingerprint, state):
        _, _, pair = self.some(data)
        sequence = data.draw(st.integers(0, pair[1].sequence()))
        for store in pair:
            store.keep(Snapshot(sequence=sequence, fingerprint=fingerprint, state=state))

    @precondition(lambda self: any(known.set_aside for known in self.known.values()))
    @rule(data=st.data())
    def retry(self, data):
        name = data.draw(st.sampled_from([n for n in NAMES if self.known[n].set_aside]))
        known = self.known[name]
        wanted = data.draw(subset(sorted(known.set_aside)))
        wishes = known.note_retry(wanted)
        for store in self.held[name]:
            store.retry(wishes)

    # Drivers.

    @rule(data=st.data(), state=st.sampled_from(["finished", "stopped", "interrupted", None]))
    def leave(self, data, state):
        """The driver ends, or its process is gone; should it not be, it can write nothing."""
        name, known, pair = self.some(data)
        known.open.clear()
        if state is None:
            self.bury(name)
            self.reopen(name)
        for store in pair:
            if state is None:
                with pytest.raises(LeaseLostError):
                    store.write(Turn(elapsed_s=1e9, candidates=self.born(data, known)))
                with pytest.raises(LeaseLostError):
                    store.beat()
            else:
                store.end(state, "because", 7.5)
            store.close()
        if state is not None:
            self.reopen(name)

    def bury(self, name: str) -> None:
        gone = replace(lease.myself(), born="long ago").as_json()
        self.run(name, lease_holder=gone)
        self.memory.campaigns[name].token = None

    def run(self, name: str, **values) -> None:
        with self.engine.begin() as connection:
            here = schema.campaign.c.name == name
            connection.execute(update(schema.campaign).where(here).values(values))

    def reopen(self, name: str) -> None:
        self.held[name] = self.open(name)
        for store in self.held[name]:
            assert store.load() is not None
            store.reopen({"seed": 1})
            with pytest.raises(StoreHeldError):
                store.reopen({})

    @rule(data=st.data(), asked=st.booleans())
    def beat(self, data, asked):
        name, _, pair = self.some(data)
        if asked:
            self.memory.campaigns[name].stop_requested = True
            self.run(name, stop_requested=1)
        first, second = (store.beat() for store in pair)
        assert first == second

    # What readers see, now and then and at the end.

    @precondition(lambda self: any(known.attempts for known in self.known.values()))
    @rule(name=st.sampled_from(NAMES))
    def read(self, name):
        known, reader = self.known[name], Reader(self.url)
        for one in known.candidates:
            self.look_at(reader.candidate(name, one.id), known)
        ranked = sorted(
            (one for one in known.candidates if one.role != "control" and one.id in known.worth),
            key=lambda one: (*known.worth[one.id].rank, one.role == "search", -one.number),
            reverse=True,
        )
        for num in (1, len(ranked)):
            assert [one.id for one in reader.best(name, num)] == [one.id for one in ranked[:num]]
        status = reader.status(name)
        assert [status[key] for key in ("evaluated", "failed", "stopped", "cached")] == [
            len(known.worth), len(known.failed), known.num_stopped, known.num_cached
        ]  # fmt: skip
        spent = {
            (role, rows): num
            for role, by_rows in status["documents"].items()
            for rows, num in by_rows.items()
        }
        assert spent == known.documents

    def look_at(self, found: CandidateRecord, known: Known) -> None:
        """A candidate is in the state, and worth, what was recorded of it."""
        worth = known.worth.get(found.id)
        state = "failed" if found.id in known.failed else "proposed"
        assert found.state == ("scored" if worth else state)
        seen = (found.fitness, found.stderr, found.fidelity, found.stopped)
        assert seen == (
            (worth.fitness, worth.stderr, worth.fidelity, worth.stopped)
            if worth
            else (None, None, 0.0, False)
        )

    # What must be so after each of them.

    @invariant()
    def both_hold_the_same(self):
        for name in NAMES:
            sql, memory = self.held[name]
            assert sql.sequence() == memory.sequence()
            whole = list(memory.entries(0))
            assert list(sql.entries(0)) == whole
            for after in {1, len(whole) // 2, len(whole)}:
                assert list(sql.entries(after)) == whole[after:]
            for generation in range(4):
                assert sql.digests(generation) == memory.digests(generation)
            ids = [one.id for one in self.known[name].candidates]
            assert sql.candidates(ids) == memory.candidates(ids)
            assert sql.standings(ids) == memory.standings(ids)
            assert {one: list(found.parts) for one, found in sql.standings(ids).items()} == {
                one: list(found.parts) for one, found in memory.standings(ids).items()
            }
            assert sql.snapshots() == memory.snapshots()
            assert sql.cached(EVALUATIONS) == memory.cached(EVALUATIONS)
            one, other = sql.load(), memory.load()
            # A server skips a number where a campaign was refused.
            assert replace(one, id=0, history=()) == replace(other, id=0, history=())

    @invariant()
    def nothing_is_amiss(self):
        assert upkeep.check(self.url)["problems"] == []


def subset(items: list, least: int = 1) -> st.SearchStrategy[list]:
    """Some of them, if there are any."""
    if not items:
        return st.just([])
    return st.lists(st.sampled_from(items), unique=True, min_size=least, max_size=4)


def about(evaluation: bytes) -> Documents | None:
    """Equal evaluations are about the same documents."""
    return DOCUMENTS[int(evaluation[1:]) % len(DOCUMENTS)]


def scored(job: Job, evaluation: bytes | None) -> Outcome:
    """Equal evaluations have equal scores."""
    fitness = float(evaluation[1:]) if evaluation else 0.1 * job.attempt + job.block
    named = {
        task: tuple(place / 3 + fitness for place in places)
        for task, places in (job.documents or {"t": (0, 1, 2), "u": (0,)}).items()
    }
    tasks = {
        task: TaskScore(
            value=fitness if task == "t" else -fitness,
            stderr=0.5 if task == "t" else None,
            documents=len(values),
            weight=1.0 if task == "t" else -1.0,
            per_document=values,
            log_likelihoods=quantise([-abs(value) for value in values]),
        )
        for task, values in named.items()
    }
    return Scored(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        block=job.block,
        score=Score(fitness=fitness, tasks=tasks),
        seconds=0.25,
        worker="w",
    )


@pytest.mark.parametrize(
    ("kind", "num_stories"),
    [("sqlite", 15), pytest.param("postgres", 5, marks=pytest.mark.postgres)],
)
def test_a_database_remembers_what_the_memory_does(
    databases, tmp_path, fake_space, kind, num_stories
):
    run_state_machine_as_test(
        lambda: Both(databases, kind, tmp_path, fake_space()),
        settings=settings(
            max_examples=num_stories,
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
            # On a server the shortest story would take minutes to find.
            phases=[one for one in Phase if kind == "sqlite" or one is Phase.generate],
        ),
    )

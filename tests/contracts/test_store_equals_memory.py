"""Whatever is done to a store, a database then holds what the memory holds, and nothing amiss."""

from __future__ import annotations

import uuid
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

from evaluators.base import Score, TaskScore
from orchestrator.state import Candidate, Recorded
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
from orchestrator.storage.memory import Memory, MemoryStore
from orchestrator.storage.store import SqlStore
from workers.job import Failed, Job, Outcome, Scored

NAMES = ("one", "two")
EVALUATIONS = [f"e{number}".encode() for number in range(5)]
LETTERS = {"reference": "r", "search": "s", "control": "c"}


@dataclass
class Known:
    """What may be done next to a campaign without asking for the impossible."""

    candidates: list[Candidate] = field(default_factory=list)
    #: (candidate, rows) -> what was begun and has no end.
    open: dict[tuple[str, str], Begun] = field(default_factory=dict)
    #: (candidate, rows) -> number of the last attempt that ended.
    attempts: dict[tuple[str, str], int] = field(default_factory=dict)
    scored: set[tuple[str, str]] = field(default_factory=set)
    set_aside: set[tuple[str, str]] = field(default_factory=set)
    generation: int = 0

    def free(self) -> list[tuple[str, str]]:
        """What may be begun."""
        every = [(one.id, rows) for one in self.candidates for rows in ("search", "test")]
        taken = self.open.keys() | self.scored | self.set_aside
        return [key for key in every if key not in taken]

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
        for id_, rows in data.draw(subset(known.free()), label="begun"):
            begun = self.begun(data, known, id_, rows)
            known.open[id_, rows] = begun
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

    def begun(self, data, known: Known, id_: str, rows) -> Begun:
        attempt = known.attempts.get((id_, rows), 0) + 1
        job = Job(candidate=id_, attempt=attempt, rows=rows, recipe=known.recipe(id_))
        return Begun(
            job=replace(job, halvings=data.draw(st.integers(0, 3))),
            lease_until=data.draw(st.floats(0, 1e10)),
            evaluation=data.draw(st.none() | st.sampled_from(EVALUATIONS)),
        )

    def ended(self, data, known: Known, begun: Begun) -> Taken:
        job, key = begun.job, (begun.job.candidate, begun.job.rows)
        known.attempts[key] = job.attempt
        if data.draw(st.booleans(), label="scored"):
            known.scored.add(key)
            return Taken(outcome=scored(job, begun.evaluation), final=True)
        final = data.draw(st.booleans(), label="final")
        if final:
            known.set_aside.add(key)
        failed = Failed(
            candidate=job.candidate,
            attempt=job.attempt,
            rows=job.rows,
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
        id_, rows = key
        attempt = known.attempts.get(key, 0) + 1
        job = Job(candidate=id_, attempt=attempt, rows=rows, recipe=known.recipe(id_))
        known.attempts[key] = attempt
        known.scored.add(key)
        outcome = scored(job, evaluation)
        return Taken(outcome=outcome, final=True, cached=True, evaluation=evaluation)

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
        wishes = [(*key, known.attempts[key] + 1) for key in wanted]
        known.set_aside -= set(wanted)
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

    # What must be so after each of them.

    @invariant()
    def both_hold_the_same(self):
        for name in NAMES:
            sql, memory = self.held[name]
            assert sql.sequence() == memory.sequence()
            whole = [bare(entry) for entry in memory.entries(0)]
            assert [bare(entry) for entry in sql.entries(0)] == whole
            for after in {1, len(whole) // 2, len(whole)}:
                assert [bare(entry) for entry in sql.entries(after)] == whole[after:]
            for generation in range(4):
                assert sql.digests(generation) == memory.digests(generation)
            ids = [one.id for one in self.known[name].candidates]
            assert sql.candidates(ids) == memory.candidates(ids)
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


def scored(job: Job, evaluation: bytes | None) -> Outcome:
    """Equal evaluations have equal scores."""
    fitness = float(evaluation[1:]) if evaluation else 0.1 * job.attempt
    results = tuple(float(number % 2) for number in range(int(fitness)))
    tasks = {
        "t": TaskScore(value=fitness, stderr=0.5, documents=len(results), per_document=results),
        "u": TaskScore(value=-fitness, stderr=None, documents=0, weight=-1.0),
    }
    return Scored(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        score=Score(fitness=fitness, tasks=tasks),
        seconds=0.25,
        worker="w",
    )


def bare(entry):
    """An entry without the scores of tasks, which replaying has no use for."""
    if isinstance(entry, Recorded) and isinstance(entry.outcome, Scored):
        score = replace(entry.outcome.score, tasks={})
        return replace(entry, outcome=replace(entry.outcome, score=score))
    return entry


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

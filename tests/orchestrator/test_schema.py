"""What cannot be true is refused by the database itself: each rule has a statement to break it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import (
    CheckConstraint,
    Connection,
    ForeignKeyConstraint,
    PrimaryKeyConstraint,
    UniqueConstraint,
    delete,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from orchestrator.storage import engine as engines
from orchestrator.storage import schema
from orchestrator.storage.schema import metadata

MESSAGES = dict(
    re.findall(r"CREATE TRIGGER (\w+) .*'(.*)'", "\n".join(schema.rules("sqlite")))
)  # fmt: skip

# A store that is sound.

LEASE = {"lease_token": "t", "lease_holder": "{}", "leased_at": 1.0, "heartbeat_at": 2.0}
FREE = dict.fromkeys(LEASE)


def campaign(**values):
    common = {
        "name": "new", "settings": "{}", "search_settings": "{}", "settings_hash": "", "seed": 1,
        "versions": "{}", "state": "running", "started_at": 0.0,
    }  # fmt: skip
    return insert(schema.campaign).values({**common, **values})


def candidate(id_: str, **values):
    roles = {"r": "reference", "s": "search", "c": "control"}
    common = {
        "campaign": 1, "id": id_, "role": roles[id_[0]], "number": int(id_[1:]), "generation": 1,
        "name": "", "genome": None if id_[0] == "r" else b"", "recipe": b"", "digest": b"",
        "operator": "sample",
    }  # fmt: skip
    return insert(schema.candidate).values({**common, **values})


def parent(child="s3", place=0, of="s1", role=None, **values):
    common = {"campaign": 1, "child": child, "place": place, "parent": of}
    role = role or ("mate" if place else "parent")
    return insert(schema.parentage).values({**common, "role": role, **values})


def attempt(**values):
    common = {"campaign": 1, "candidate": "s4", "rows": "search", "number": 1, "started_at": 0.0}
    return insert(schema.attempt).values({**common, **values})


SCORED = {
    "state": "scored", "fitness": 1.0, "ended_at": 2.0, "final": 1, "sequence": 90,
    "documents": 4, "fidelity": 1.0,
}  # fmt: skip
#: On rows that nothing is searched on.
REPORTED = {**SCORED, "rows": "test", "fidelity": None}
#: Between two blocks.
PARTLY = {**SCORED, "final": 0, "fidelity": 0.25}
FAILED = {"state": "failed", "cause": "no", "ended_at": 2.0, "final": 1, "sequence": 90}
LOST = {"state": "lost", "ended_at": 2.0}


def score(**values):
    common = {
        "campaign": 1, "candidate": "s1", "rows": "test", "task": "t", "value": 1.0, "documents": 1,
        "weight": 1.0, "harness": "", "per_document": b"",
    }  # fmt: skip
    return insert(schema.score).values({**common, **values})


def document_set(**values):
    return insert(schema.document_set).values({"digest": b"new", "documents": b"", **values})


def spent(**values):
    common = {"campaign": 1, "role": "search", "rows": "fresh", "documents": 1, "stopped": 0}
    return insert(schema.spent).values({**common, **values})


def snapshot(**values):
    common = {"campaign": 1, "sequence": 1, "fingerprint": "", "state": b""}
    return insert(schema.snapshot).values({**common, **values})


def event(**values):
    common = {"campaign": 1, "at": 0.0, "kind": "created", "data": "{}"}
    return insert(schema.log).values({**common, **values})


def artifact(**values):
    common = {
        "campaign": 1, "candidate": "s1", "at": 0.0, "path": "p", "sha256": "0" * 64, "bytes": 1
    }  # fmt: skip
    return insert(schema.artifact).values({**common, **values})


SOUND = [
    campaign(name="one", **LEASE),
    campaign(name="two", parent=1),
    *[candidate(id_) for id_ in ("s1", "s2", "s3", "s4", "c1")],
    candidate("r1", generation=0),
    candidate("s1", campaign=2),
    parent(),
    parent(place=1, of="s2"),
    document_set(id=7, digest=b"old"),
    attempt(candidate="s1", document_set=7, **{**SCORED, "sequence": 1}),
    attempt(candidate="s2", **{**FAILED, "sequence": 2}),
    attempt(candidate="r1", **{**FAILED, "sequence": 3, "final": 0}),
    attempt(candidate="r1", number=2, **LOST),
    attempt(candidate="s3"),
    attempt(candidate="c1", **{**PARTLY, "sequence": 5}),
    score(rows="search"),
    spent(rows="search"),
    snapshot(),
    event(),
    event(kind="retry", sequence=4),
    artifact(),
]


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def engine(request, databases, tmp_path_factory):
    with databases(request.param, tmp_path_factory.mktemp("store")) as url:
        opened = engines.open_for_writing(url)
        with opened.begin() as connection:
            for statement in SOUND:
                connection.execute(statement)
        yield opened
        opened.dispose()


@pytest.fixture
def connection(engine) -> Iterator[Connection]:
    """Changes what it likes, as any program could that has the database; all is undone."""
    with engine.connect() as opened, opened.begin() as transaction:
        yield opened
        transaction.rollback()


# The rules.


def name_of(rule) -> str:
    """What a rule is called: PostgreSQL's own name where it was given none."""
    suffixes = {PrimaryKeyConstraint: "pkey", UniqueConstraint: "key", ForeignKeyConstraint: "fkey"}
    columns = [] if isinstance(rule, PrimaryKeyConstraint) else [one.name for one in rule.columns]
    return rule.name or "_".join([rule.table.name, *columns, suffixes[type(rule)]])


def constraints() -> dict:
    found = [rule for table in metadata.tables.values() for rule in table.constraints]
    unique = [one for table in metadata.tables.values() for one in table.indexes if one.unique]
    return {name_of(rule): rule for rule in found} | {one.name: one for one in unique}


RULES = constraints()


def blamed(error: IntegrityError, rule: str) -> bool:
    """Whether it is this rule that refused."""
    if hasattr(error.orig, "diag"):
        if rule in MESSAGES:
            return error.orig.diag.message_primary == MESSAGES[rule]
        return error.orig.diag.constraint_name == rule
    message = str(error.orig)
    if rule in MESSAGES:
        return message == MESSAGES[rule]
    if isinstance(RULES[rule], CheckConstraint):
        return message == f"CHECK constraint failed: {rule}"
    if isinstance(RULES[rule], ForeignKeyConstraint):
        return message == "FOREIGN KEY constraint failed"
    columns = ", ".join(f"{RULES[rule].table.name}.{one.name}" for one in RULES[rule].columns)
    return message == f"UNIQUE constraint failed: {columns}"


changed = partial(update, schema.campaign)
of = schema.attempt.c


def at(id_: str):
    """Changes the attempts at a candidate."""
    return update(schema.attempt).where(of.candidate == id_, of.state != "lost")


NOTHING_RECORDED = dict.fromkeys(
    ("fitness", "sequence", "ended_at", "cause", "final", "documents", "fidelity")
)
GREATEST = 1.7976931348623157e308

#: Rule -> statements, each of which it refuses; of a list only the last one.
BREAKING = {
    "alembic_version_pkc": [
        insert(schema.alembic_version).values(version_num=f"{schema.SCHEMA_VERSION:04}")
    ],
    # Campaigns.
    "campaign_pkey": [campaign(id=1)],
    "campaign_name_key": [campaign(name="one")],
    "campaign_state": [changed().values(state="odd"), campaign(state="")],
    "campaign_elapsed": [changed().values(elapsed_s=-1.0)],
    "campaign_counts": [
        changed().values({name: -1})
        for name in ("sequence", "num_scored", "num_failed", "num_cached")
    ],
    "campaign_parent_fkey": [changed().values(parent=99)],
    "campaign_parent": [changed().values(parent=schema.campaign.c.id)],
    "campaign_stop": [changed().values(stop_requested=number) for number in (2, -1)],
    "campaign_lease": [
        *[campaign(**{**LEASE, name: None}) for name in LEASE],
        *[campaign(**{**FREE, name: LEASE[name]}) for name in LEASE],
        *[changed().where(schema.campaign.c.id == 1).values({name: None}) for name in LEASE],
    ],
    # Candidates.
    "candidate_pkey": [candidate("s1")],
    "candidate_campaign_fkey": [candidate("s9", campaign=99)],
    "candidate_role": [candidate("s9", id="g9", role="guest")],
    "candidate_id": [
        candidate("s9", number=8), candidate("s9", role="control"), candidate("s9", id="t9"),
        candidate("s9", id="s09"), candidate("s9", id=""),
    ],
    "candidate_genome": [candidate("s9", genome=None), candidate("r9", genome=b"")],
    "candidate_numbers": [candidate("s0"), candidate("s9", generation=-1)],
    # Parents.
    "parentage_pkey": [parent(place=1, of="s4")],
    "parentage_campaign_child_fkey": [parent(child="s9")],
    "parentage_campaign_parent_fkey": [
        parent(place=2, of="s9"),
        parent(place=2, of="s0"),
        parent(campaign=2, child="s1", of="s2"),  # which only the other campaign has
    ],
    "parentage_others": [parent(place=2, of="s3")],
    "parentage_role": [
        parent(place=2, of="s4", role="parent"),
        parent(child="s4", role="mate"),
        parent(child="s4", role="uncle"),
    ],
    # Attempts.
    "attempt_pkey": [[attempt(id=50, **LOST), attempt(id=50, **LOST)]],
    "attempt_campaign_candidate_fkey": [attempt(candidate="s9"), attempt(campaign=2)],
    "attempt_campaign_sequence_key": [
        attempt(**{**SCORED, "sequence": 1}), attempt(**{**FAILED, "sequence": 1})
    ],
    "attempt_document_set_fkey": [attempt(document_set=99), at("s3").values(document_set=99)],
    "attempt_rows": [attempt(rows="train"), attempt(rows="")],
    "attempt_state": [attempt(state="maybe", ended_at=1.0)],
    "attempt_numbers": [
        attempt(number=0), attempt(halvings=-1), attempt(block=-1),
        attempt(**{**SCORED, "documents": -1}),
    ],
    "attempt_scored": [
        attempt(**{**SCORED, "fitness": None}),
        attempt(fitness=1.0),
        attempt(fitness=1.0, **FAILED),
        attempt(fitness=1.0, **LOST),
        at("s3").values({**SCORED, "fitness": None}),
    ],
    "attempt_documents": [
        attempt(**{**SCORED, "documents": None}),
        attempt(**{**REPORTED, "documents": None}),
        attempt(documents=0),
        attempt(documents=1, **FAILED),
        attempt(documents=1, **LOST),
    ],
    "attempt_measured": [
        attempt(**{**SCORED, "fidelity": None}),
        attempt(rows="fresh", **{**SCORED, "fidelity": None}),
        *[
            attempt(**{**SCORED, "rows": rows, "fidelity": 1.0})
            for rows in ("selection", "test", "control")
        ],
        attempt(fidelity=1.0),
        attempt(fidelity=1.0, **FAILED),
        attempt(fidelity=1.0, **LOST),
    ],
    "attempt_fidelity": [
        attempt(**{**SCORED, "fidelity": 1.001}), attempt(**{**SCORED, "fidelity": -0.001})
    ],
    "attempt_own_fitness": [
        attempt(own_fitness=1.0, **REPORTED),
        attempt(own_fitness=1.0),
        attempt(own_fitness=1.0, **FAILED),
        attempt(own_fitness=math.inf, **SCORED),
        attempt(own_fitness=-math.inf, **SCORED),
    ],
    "attempt_stderr": [
        attempt(stderr=0.1, **REPORTED),
        attempt(stderr=0.1),
        attempt(stderr=0.1, **FAILED),
        attempt(stderr=-0.1, **SCORED),
        attempt(stderr=math.inf, **SCORED),
    ],
    "attempt_tie": [
        attempt(tie=-0.1, **REPORTED),
        attempt(tie=-0.1),
        attempt(tie=-0.1, **FAILED),
        attempt(tie=math.inf, **SCORED),
        attempt(tie=-math.inf, **SCORED),
    ],
    "attempt_stopped": [
        attempt(stopped=1, **PARTLY),
        attempt(stopped=1, **REPORTED),
        attempt(stopped=1),
        attempt(stopped=1, **FAILED),
        attempt(stopped=1, **LOST),
        attempt(stopped=2, **SCORED),
    ],
    "attempt_superseded": [
        attempt(superseded=1),
        attempt(superseded=1, **LOST),
        attempt(superseded=1, **REPORTED),
        attempt(superseded=1, **{**FAILED, "rows": "control"}),
        attempt(superseded=1, **{**FAILED, "final": 0}),
        attempt(superseded=2, **SCORED),
    ],
    "attempt_fitness_low": [attempt(**{**SCORED, "fitness": -math.inf})],
    "attempt_fitness_high": [attempt(**{**SCORED, "fitness": math.inf})],
    "attempt_failed": [
        attempt(**{**FAILED, "cause": None}),
        attempt(cause="no", **SCORED),
        attempt(cause="no"),
        attempt(cause="no", **LOST),
    ],
    "attempt_cached": [
        attempt(cached=1), attempt(cached=1, **FAILED), attempt(cached=1, **LOST),
        attempt(cached=2, **SCORED), attempt(cached=-1, **SCORED),
    ],
    "attempt_one_standing": [
        attempt(candidate="s1", block=1, **SCORED),
        attempt(candidate="s1", block=1, **PARTLY),
        attempt(candidate="s1", block=1, **FAILED),
        attempt(candidate="s1", rows="fresh", **SCORED),
        attempt(candidate="s1", rows="fresh", **FAILED),
        attempt(candidate="s2", block=1, **SCORED),
        attempt(candidate="s2", rows="fresh", **SCORED),
        attempt(candidate="c1", block=1, **SCORED),
        [attempt(candidate="c1", block=1), at("c1").where(of.state == "open").values(SCORED)],
    ],
    "attempt_retried": [
        attempt(retried=1), attempt(retried=1, **SCORED), attempt(retried=1, **LOST),
        attempt(retried=1, **{**FAILED, "final": 0}), attempt(retried=5, **FAILED),
    ],
    "attempt_decided": [
        attempt(final=1), attempt(final=0, **LOST),
        attempt(**{**SCORED, "final": None}), attempt(**{**FAILED, "final": None}),
    ],
    "attempt_final": [attempt(**{**SCORED, "final": 2}), attempt(**{**FAILED, "final": 7})],
    "attempt_retryable": [attempt(retryable=9, **FAILED)],
    "attempt_recorded": [
        attempt(sequence=90),
        attempt(sequence=90, **LOST),
        attempt(**{**SCORED, "sequence": None}),
        attempt(**{**FAILED, "sequence": None}),
        at("s3").values({**SCORED, "sequence": None}),
    ],
    "attempt_ended": [
        attempt(ended_at=1.0),
        attempt(state="lost"),
        attempt(**{**SCORED, "ended_at": None}),
        attempt(**{**FAILED, "ended_at": None}),
    ],
    "attempt_one_open": [attempt(candidate="s3"), attempt(candidate="s3", number=2)],
    "attempt_one_accepted": [
        attempt(candidate="s1", number=2, superseded=1, **SCORED),
        attempt(candidate="s1", number=2, superseded=1, **PARTLY),
        attempt(candidate="s1", number=2, superseded=1, **FAILED),
        attempt(candidate="s2", number=2, superseded=1, **SCORED),
        attempt(candidate="s2", number=2, superseded=1, **FAILED),
        [
            attempt(candidate="s1", number=2),
            at("s1").where(of.state == "open").values({**SCORED, "superseded": 1}),
        ],
        [attempt(**REPORTED), attempt(number=2, **{**REPORTED, "sequence": 91})],
        [
            attempt(block=1, superseded=1, **SCORED),
            attempt(block=1, number=2, superseded=1, **{**SCORED, "sequence": 91}),
        ],
    ],
    "attempt_forwards": [
        *[at("s1").values({**NOTHING_RECORDED, **new}) for new in ({"state": "open"}, LOST)],
        *[at("s2").values({**NOTHING_RECORDED, **new}) for new in ({"state": "open"}, LOST)],
        at("c1").values({**NOTHING_RECORDED, **FAILED, "sequence": 5}),
        at("s1").values({**NOTHING_RECORDED, **FAILED, "sequence": 1}),
        at("s2").values({**NOTHING_RECORDED, **SCORED, "sequence": 2}),
        update(schema.attempt).where(of.state == "lost").values(state="open", ended_at=None),
        update(schema.attempt).where(of.state == "lost").values(SCORED),
    ],
    "attempt_settled": [
        at("s1").values(fitness=1.5),
        at("s1").values(sequence=91),
        at("s2").values(sequence=91),
        at("s2").values(final=0),
        at("s1").values(number=2),
        at("s1").values(cached=1),
        at("s1").values(cached=2),
        *[
            at("s1").values({name: value})
            for name, value in {
                "rows": "fresh", "block": 1, "document_set": None, "own_fitness": 2.0,
                "stderr": 0.1, "fidelity": 0.5, "tie": -1.0, "stopped": 1, "documents": 5,
                "final": 0,
            }.items()
        ],
        at("c1").values(final=1),
        at("s1").values(fitness=None),
        at("s1").values(sequence=None),
        [at("s2").values(retried=1), at("s2").values(retried=0)],
        [at("s1").values(superseded=1), at("s1").values(superseded=0)],
    ],
    "attempt_all": [
        delete(schema.attempt).where(of.candidate == "s1"),
        delete(schema.attempt).where(of.state == "lost"),
    ],
    # Documents, scores and what was spent.
    "document_set_pkey": [document_set(id=7)],
    "document_set_digest_key": [document_set(digest=b"old")],
    "document_set_kept": [
        update(schema.document_set).values(documents=b"others"),
        update(schema.document_set).values(digest=b"another"),
    ],
    "spent_pkey": [spent(rows="search")],
    "spent_campaign_fkey": [spent(campaign=99)],
    "spent_role": [spent(role="guest")],
    "spent_rows": [spent(rows="train")],
    "spent_counts": [spent(documents=-1), spent(stopped=-1)],
    "score_pkey": [score(rows="search")],
    "score_campaign_candidate_fkey": [score(candidate="s9"), score(campaign=2, candidate="s2")],
    "score_rows": [score(rows="train")],
    "score_documents": [score(documents=-1), score(block=-1)],
    # Snapshots, events and files.
    "snapshot_pkey": [snapshot()],
    "snapshot_campaign_fkey": [snapshot(campaign=99)],
    "event_pkey": [[event(id=50), event(id=50)]],
    "event_campaign_fkey": [event(campaign=99)],
    "event_campaign_sequence_key": [event(kind="retry", sequence=4)],
    "event_sequence": [event(kind="retry"), event(sequence=5)],
    "event_kept": [update(schema.log).values(data="[]"), update(schema.log).values(at=1.0)],
    "event_all": [delete(schema.log), delete(schema.log).where(schema.log.c.kind == "retry")],
    "artifact_pkey": [[artifact(id=50), artifact(id=50)]],
    "artifact_campaign_fkey": [artifact(campaign=99, candidate=None)],
    "artifact_campaign_candidate_fkey": [artifact(candidate="s9")],
    "artifact_file": [artifact(bytes=-1), artifact(sha256="0"), artifact(sha256="0" * 65)],
}  # fmt: skip


def test_every_rule_of_the_schema_has_a_statement_that_tries_to_break_it():
    assert set(BREAKING) == {*RULES, *MESSAGES}


CASES = [
    pytest.param(rule, case if isinstance(case, list) else [case], id=f"{rule}-{number}")
    for rule, cases in BREAKING.items()
    for number, case in enumerate(cases)
]


@pytest.mark.parametrize(("rule", "statements"), CASES)
def test_the_database_refuses(connection, rule, statements):
    for statement in statements[:-1]:
        connection.execute(statement)
    with pytest.raises(IntegrityError) as refused, connection.begin_nested():
        connection.execute(statements[-1])
    assert blamed(refused.value, rule), refused.value.orig


NUMBERS = ("fitness", "fidelity", "own_fitness", "stderr", "tie")


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused_or_nothing(connection, name):
    """SQLite keeps it as NULL, PostgreSQL as something greater than all numbers."""
    if connection.dialect.name == "sqlite" and name not in ("fitness", "fidelity"):
        connection.execute(attempt(**{**SCORED, name: math.nan}))
        query = select(of[name]).where(of.candidate == "s4")
        assert connection.execute(query).scalar_one() is None
        return
    with pytest.raises(IntegrityError):
        connection.execute(attempt(**{**SCORED, name: math.nan}))


def test_an_open_attempt_has_no_fitness_that_is_no_number(connection):
    if connection.dialect.name == "sqlite":
        connection.execute(attempt(fitness=math.nan))
        query = select(of.fitness).where(of.candidate == "s4")
        assert connection.execute(query).scalar_one() is None
        return
    with pytest.raises(IntegrityError):
        connection.execute(attempt(fitness=math.nan))


KNOWN = [
    pytest.param(column, id=f"{column.table.name}-{column.name}")
    for table in metadata.tables.values()
    for column in table.columns
    if not column.nullable and not (column.name == "id" and column.table is not schema.candidate)
]


@pytest.mark.parametrize("column", KNOWN)
def test_what_must_be_known_is_never_null(connection, column):
    row = connection.execute(select(column.table).limit(1)).mappings().one()
    with pytest.raises(IntegrityError) as refused:
        connection.execute(insert(column.table).values({**row, column.name: null()}))
    error = refused.value.orig
    if hasattr(error, "diag"):
        assert (error.diag.table_name, error.diag.column_name) == (column.table.name, column.name)
    else:
        assert str(error) == f"NOT NULL constraint failed: {column.table.name}.{column.name}"


REFERRED_TO = {
    "a campaign": delete(schema.campaign).where(schema.campaign.c.id == 1),
    "a measured candidate": delete(schema.candidate).where(schema.candidate.c.id == "s1"),
    "documents that a job has named": delete(schema.document_set),
    "a parent": delete(schema.candidate).where(schema.candidate.c.id == "s2"),
    "the number of a candidate": update(schema.candidate)
    .where(schema.candidate.c.id == "s2")
    .values(id="s7", number=7),
}


@pytest.mark.parametrize("what", REFERRED_TO)
def test_what_others_refer_to_stays(connection, what):
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        connection.execute(REFERRED_TO[what])


#: What looks alike and may be.
ALLOWED = {
    "an open attempt on each kind of rows": [
        attempt(rows=rows) for rows in ("search", "fresh", "selection", "test", "control")
    ],
    "a scored attempt on each kind of rows": [
        attempt(**SCORED),
        *[
            attempt(**{**REPORTED, "rows": rows, "sequence": 91 + number})
            for number, rows in enumerate(("selection", "test", "control"))
        ],
    ],
    "a block after another, and fresh rows after it": [
        at("c1").values(superseded=1),
        attempt(candidate="c1", block=1, **SCORED),
        at("c1").where(of.block == 1).values(superseded=1),
        attempt(candidate="c1", rows="fresh", **{**SCORED, "sequence": 91}),
        attempt(candidate="c1", rows="fresh", block=1),
    ],
    "what fails after a candidate has ended": [
        attempt(candidate="s1", rows="fresh", superseded=1, **FAILED),
        attempt(candidate="s1", block=1, superseded=1, **{**FAILED, "sequence": 91}),
    ],
    "a block that fails and is retried": [
        at("c1").values(superseded=1),
        attempt(candidate="c1", block=1, **FAILED),
        at("c1").where(of.block == 1).values(retried=1),
        attempt(candidate="c1", block=1, number=2, **{**SCORED, "sequence": 91}),
    ],
    "one that a race stopped, of which everything is known": [
        attempt(stopped=1, own_fitness=0.5, stderr=0.1, tie=-1.5, document_set=7, **SCORED)
    ],
    "the same documents for many": [attempt(document_set=7), attempt(rows="test", document_set=7)],
    "a failure that is tried again": [
        attempt(**{**FAILED, "final": 0}), attempt(number=2, **{**SCORED, "sequence": 91})
    ],
    "several failures that are tried again": [
        attempt(**{**FAILED, "final": 0}),
        attempt(number=2, **{**FAILED, "final": 0, "sequence": 91}),
        attempt(number=3, **{**FAILED, "sequence": 92}),
    ],
    "a candidate that was set aside and is retried": [
        at("s2").values(retried=1), attempt(candidate="s2", number=2, **SCORED)
    ],
    "an attempt that was lost and is made again": [attempt(**LOST), attempt(), attempt(**LOST)],
    "a copied score": [attempt(cached=1, **SCORED)],
    "the greatest and the smallest fitness": [
        attempt(
            own_fitness=-GREATEST, stderr=GREATEST, tie=-GREATEST,
            **{**SCORED, "fitness": GREATEST},
        ),
        attempt(**{**REPORTED, "fitness": -GREATEST, "sequence": 91}),
    ],
    "the same place in another campaign": [
        attempt(campaign=2, candidate="s1", **{**SCORED, "sequence": 1})
    ],
    "a campaign that is given back": [changed().values(FREE)],
    "a campaign that is taken": [changed().values(LEASE)],
    "an end that is recorded": [at("s3").values(SCORED)],
}  # fmt: skip


@pytest.mark.parametrize("what", ALLOWED)
def test_the_database_allows(connection, what):
    for statement in ALLOWED[what]:
        connection.execute(statement)

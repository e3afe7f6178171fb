"""Packs what is wide, keeps what each attempt cost, and gives a campaign a lease and a history.

Candidates keep no state: the accepted attempt says it. What the first version left open is lost.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    case,
    func,
    insert,
    literal,
    null,
    select,
    text,
)

revision = "0002"
down_revision = "0001"

#: Candidates that are held in memory at a time.
_BATCH = 500

_Id = BigInteger().with_variant(Integer, "sqlite")
_ROWS = "rows IN ('search', 'test')"

metadata = MetaData()

campaign = Table(
    "campaign",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("settings", Text, nullable=False),
    Column("search_settings", Text, nullable=False),
    Column("settings_hash", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("versions", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("started_at", Float, nullable=False),
    Column("elapsed_s", Float, nullable=False, server_default=text("0")),
    Column("generation", Integer, nullable=False, server_default=text("0")),
    Column("sequence", Integer, nullable=False, server_default=text("0")),
    Column("num_scored", Integer, nullable=False, server_default=text("0")),
    Column("num_failed", Integer, nullable=False, server_default=text("0")),
    Column("num_cached", Integer, nullable=False, server_default=text("0")),
    Column("parent", Integer, ForeignKey("campaign.id")),
    Column("history", Text, nullable=False, server_default=text("'[]'")),
    Column("lease_token", Text),
    Column("lease_holder", Text),
    Column("leased_at", Float),
    Column("heartbeat_at", Float),
    Column("stop_requested", Integer, nullable=False, server_default=text("0")),
    CheckConstraint(
        "state IN ('running', 'finished', 'stopped', 'interrupted')", name="campaign_state"
    ),
    CheckConstraint("elapsed_s >= 0", name="campaign_elapsed"),
    CheckConstraint(
        "sequence >= 0 AND num_scored >= 0 AND num_failed >= 0 AND num_cached >= 0",
        name="campaign_counts",
    ),
    CheckConstraint("parent IS NULL OR parent <> id", name="campaign_parent"),
    CheckConstraint("stop_requested IN (0, 1)", name="campaign_stop"),
    CheckConstraint(
        "(lease_token IS NULL) = (lease_holder IS NULL)"
        " AND (lease_token IS NULL) = (leased_at IS NULL)"
        " AND (lease_token IS NULL) = (heartbeat_at IS NULL)",
        name="campaign_lease",
    ),
)

candidate = Table(
    "candidate",
    metadata,
    Column("campaign", Integer, ForeignKey("campaign.id"), nullable=False),
    Column("id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("genome", LargeBinary),
    Column("recipe", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("operator", Text, nullable=False),
    PrimaryKeyConstraint("campaign", "id"),
    CheckConstraint("role IN ('reference', 'search', 'control')", name="candidate_role"),
    CheckConstraint("id = substr(role, 1, 1) || number", name="candidate_id"),
    CheckConstraint("(genome IS NULL) = (role = 'reference')", name="candidate_genome"),
    CheckConstraint("number >= 1 AND generation >= 0", name="candidate_numbers"),
)
Index("candidate_by_generation", candidate.c.campaign, candidate.c.generation)

parentage = Table(
    "parentage",
    metadata,
    Column("campaign", Integer, nullable=False),
    Column("child", Text, nullable=False),
    Column("place", Integer, nullable=False),
    Column("parent", Text, nullable=False),
    Column("role", Text, nullable=False),
    PrimaryKeyConstraint("campaign", "child", "place"),
    ForeignKeyConstraint(["campaign", "child"], ["candidate.campaign", "candidate.id"]),
    ForeignKeyConstraint(["campaign", "parent"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint("child <> parent", name="parentage_others"),
    CheckConstraint(
        "role = CASE place WHEN 0 THEN 'parent' ELSE 'mate' END", name="parentage_role"
    ),
    sqlite_with_rowid=False,
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign", Integer, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("rows", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("lease_until", Float),
    Column("ended_at", Float),
    Column("state", Text, nullable=False, server_default="open"),
    Column("sequence", Integer),
    Column("fitness", Float),
    Column("cached", Integer, nullable=False, server_default=text("0")),
    Column("evaluation", LargeBinary),
    Column("halvings", Integer, nullable=False, server_default=text("0")),
    Column("seconds", Float),
    Column("accelerator_seconds", Float),
    Column("worker", Text),
    Column("node", Text),
    Column("device", Text),
    Column("stage", Text),
    Column("kind", Text),
    Column("cause", Text),
    Column("log", Text),
    Column("retryable", Integer),
    Column("final", Integer),
    Column("retried", Integer, nullable=False, server_default=text("0")),
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    UniqueConstraint("campaign", "sequence"),
    CheckConstraint(_ROWS, name="attempt_rows"),
    CheckConstraint("state IN ('open', 'scored', 'failed', 'lost')", name="attempt_state"),
    CheckConstraint("number >= 1 AND halvings >= 0", name="attempt_numbers"),
    CheckConstraint("(state = 'scored') = (fitness IS NOT NULL)", name="attempt_scored"),
    CheckConstraint("fitness >= -1.7976931348623157e308", name="attempt_fitness_low"),
    CheckConstraint("fitness <= 1.7976931348623157e308", name="attempt_fitness_high"),
    CheckConstraint("(state = 'failed') = (cause IS NOT NULL)", name="attempt_failed"),
    CheckConstraint("cached = 0 OR (cached = 1 AND state = 'scored')", name="attempt_cached"),
    CheckConstraint(
        "(state IN ('scored', 'failed')) = (final IS NOT NULL)", name="attempt_decided"
    ),
    CheckConstraint("final = 1 OR (final = 0 AND state = 'failed')", name="attempt_final"),
    CheckConstraint("retryable IN (0, 1)", name="attempt_retryable"),
    CheckConstraint(
        "retried = 0 OR (retried = 1 AND state = 'failed' AND final = 1)", name="attempt_retried"
    ),
    CheckConstraint(
        "(state IN ('scored', 'failed')) = (sequence IS NOT NULL)", name="attempt_recorded"
    ),
    CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="attempt_ended"),
)


def _only(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


_CANDIDATE_ROWS = (attempt.c.campaign, attempt.c.candidate, attempt.c.rows)
Index("attempt_one_open", *_CANDIDATE_ROWS, unique=True, **_only("state = 'open'"))
Index(
    "attempt_one_accepted",
    *_CANDIDATE_ROWS,
    unique=True,
    **_only("state = 'scored' OR (final = 1 AND retried = 0)"),
)
Index("attempt_by_candidate", attempt.c.campaign, attempt.c.candidate)
Index(
    "attempt_by_fitness",
    attempt.c.campaign,
    attempt.c.fitness,
    **_only("state = 'scored' AND rows = 'search'"),
)
Index("attempt_by_evaluation", attempt.c.evaluation, **_only("state = 'scored' AND cached = 0"))

score = Table(
    "score",
    metadata,
    Column("campaign", Integer, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("rows", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("value", Float, nullable=False),
    Column("stderr", Float),
    Column("documents", Integer, nullable=False),
    Column("weight", Float, nullable=False),
    Column("harness", Text, nullable=False),
    Column("per_document", LargeBinary, nullable=False),
    PrimaryKeyConstraint("campaign", "candidate", "rows", "task"),
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint(_ROWS, name="score_rows"),
    CheckConstraint("documents >= 0", name="score_documents"),
    sqlite_with_rowid=False,
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("campaign", Integer, ForeignKey("campaign.id"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("state", LargeBinary, nullable=False),
    PrimaryKeyConstraint("campaign", "sequence"),
)

log = Table(
    "event",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign", Integer, ForeignKey("campaign.id"), nullable=False),
    Column("at", Float, nullable=False),
    Column("sequence", Integer),
    Column("kind", Text, nullable=False),
    Column("data", Text, nullable=False),
    UniqueConstraint("campaign", "sequence"),
    CheckConstraint("(kind = 'retry') = (sequence IS NOT NULL)", name="event_sequence"),
)

artifact = Table(
    "artifact",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign", Integer, nullable=False),
    Column("candidate", Text),
    Column("at", Float, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    ForeignKeyConstraint(["campaign"], ["campaign.id"]),
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint("bytes >= 0 AND length(sha256) = 64", name="artifact_file"),
)

_TRIGGERS = {
    "sqlite": """
CREATE TRIGGER attempt_forwards BEFORE UPDATE ON attempt
WHEN OLD.state <> 'open' AND NEW.state <> OLD.state
BEGIN SELECT RAISE(ABORT, 'an attempt that has ended cannot change its state'); END

CREATE TRIGGER attempt_settled BEFORE UPDATE ON attempt
WHEN OLD.state <> 'open' AND (NEW.fitness <> OLD.fitness OR NEW.sequence <> OLD.sequence
OR NEW.final <> OLD.final OR NEW.number <> OLD.number OR NEW.cached <> OLD.cached
OR NEW.retried < OLD.retried)
BEGIN SELECT RAISE(ABORT, 'what was recorded of an attempt cannot change'); END

CREATE TRIGGER attempt_all BEFORE DELETE ON attempt
WHEN OLD.state <> 'open'
BEGIN SELECT RAISE(ABORT, 'an attempt that has ended is never deleted'); END

CREATE TRIGGER event_kept BEFORE UPDATE ON event
WHEN 1 = 1 BEGIN SELECT RAISE(ABORT, 'events are never changed'); END

CREATE TRIGGER event_all BEFORE DELETE ON event
WHEN 1 = 1 BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END
""",
    "postgresql": """
CREATE FUNCTION shoal_attempt_forwards() RETURNS trigger AS $$ BEGIN
IF OLD.state <> 'open' AND NEW.state <> OLD.state THEN
RAISE EXCEPTION 'an attempt that has ended cannot change its state'
USING ERRCODE = 'check_violation'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql

CREATE TRIGGER attempt_forwards BEFORE UPDATE ON attempt
FOR EACH ROW EXECUTE FUNCTION shoal_attempt_forwards()

CREATE FUNCTION shoal_attempt_settled() RETURNS trigger AS $$ BEGIN
IF OLD.state <> 'open' AND (NEW.fitness <> OLD.fitness OR NEW.sequence <> OLD.sequence
OR NEW.final <> OLD.final OR NEW.number <> OLD.number OR NEW.cached <> OLD.cached
OR NEW.retried < OLD.retried) THEN
RAISE EXCEPTION 'what was recorded of an attempt cannot change'
USING ERRCODE = 'check_violation'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql

CREATE TRIGGER attempt_settled BEFORE UPDATE ON attempt
FOR EACH ROW EXECUTE FUNCTION shoal_attempt_settled()

CREATE FUNCTION shoal_attempt_all() RETURNS trigger AS $$ BEGIN
IF OLD.state <> 'open' THEN
RAISE EXCEPTION 'an attempt that has ended is never deleted'
USING ERRCODE = 'check_violation'; END IF; RETURN OLD; END $$ LANGUAGE plpgsql

CREATE TRIGGER attempt_all BEFORE DELETE ON attempt
FOR EACH ROW EXECUTE FUNCTION shoal_attempt_all()

CREATE FUNCTION shoal_event_kept() RETURNS trigger AS $$ BEGIN
IF 1 = 1 THEN RAISE EXCEPTION 'events are never changed'
USING ERRCODE = 'check_violation'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql

CREATE TRIGGER event_kept BEFORE UPDATE ON event
FOR EACH ROW EXECUTE FUNCTION shoal_event_kept()

CREATE FUNCTION shoal_event_all() RETURNS trigger AS $$ BEGIN
IF 1 = 1 THEN RAISE EXCEPTION 'events are never deleted'
USING ERRCODE = 'check_violation'; END IF; RETURN OLD; END $$ LANGUAGE plpgsql

CREATE TRIGGER event_all BEFORE DELETE ON event
FOR EACH ROW EXECUTE FUNCTION shoal_event_all()
""",
}


def upgrade() -> None:
    """Makes the new tables, carries all rows over, and drops the old tables."""
    connection = op.get_bind()
    on_sqlite = connection.dialect.name == "sqlite"
    old = _set_aside(connection, on_sqlite)
    metadata.create_all(connection)
    _copy_campaigns(connection, old)
    _copy_candidates(connection, old["candidate"])
    _copy_parentage(connection, old["parentage"])
    _copy_attempts(connection, old["attempt"])
    _copy_scores(connection, old["score"])
    for table in ("score", "attempt", "parentage", "candidate", "campaign"):
        op.drop_table(old[table].name, schema=old[table].schema)
    op.drop_table("about")
    if not on_sqlite:
        op.execute("DROP SCHEMA shoal_v1_tables")
        _go_on_counting(connection)
    for statement in _TRIGGERS[connection.dialect.name].strip().split("\n\n"):
        connection.exec_driver_sql(statement)


def _set_aside(connection: Connection, on_sqlite: bool) -> dict[str, Table]:
    """Makes way for the new tables; returns the old ones.

    In PostgreSQL a table's constraints, indexes and sequences keep their names when it is renamed;
    they follow it into another schema, where they are in nobody's way.
    """
    names = ("campaign", "candidate", "parentage", "attempt", "score")
    if on_sqlite:
        for index in ("candidate_by_fitness", "attempt_one_open", "attempt_one_scored"):
            op.drop_index(index)
        for name in names:  # what refers to a table follows its new name
            op.rename_table(name, f"v1_{name}")
        prefix, schema = "v1_", None
    else:
        op.execute("CREATE SCHEMA shoal_v1_tables")
        for name in names:
            op.execute(f"ALTER TABLE {name} SET SCHEMA shoal_v1_tables")
        prefix, schema = "", "shoal_v1_tables"
    return {
        name: Table(
            f"{prefix}{name}", MetaData(), schema=schema, autoload_with=connection,
            resolve_fks=False,
        )
        for name in names
    }  # fmt: skip


def _copy_campaigns(connection: Connection, old: Mapping[str, Table]) -> None:
    one, other = old["candidate"].c, old["attempt"].c
    ended = select(one.campaign, one.state, func.count()).group_by(one.campaign, one.state)
    counts = {(row[0], row[1]): row[2] for row in connection.execute(ended)}
    newest = select(other.campaign, func.max(other.sequence)).group_by(other.campaign)
    last = {row[0]: row[1] for row in connection.execute(newest)}
    for row in connection.execute(select(old["campaign"])).mappings().all():
        search = json.loads(row["search_settings"])
        canonical = json.dumps(search, sort_keys=True).encode()
        added = {
            "settings_hash": hashlib.blake2b(canonical, digest_size=16).hexdigest(),
            "seed": search.get("seed", 0),
            "state": "interrupted" if row["state"] == "running" else row["state"],
            "sequence": last.get(row["id"]) or 0,
            "num_scored": counts.get((row["id"], "scored"), 0),
            "num_failed": counts.get((row["id"], "failed"), 0),
        }
        connection.execute(insert(campaign).values({**row, **added}))


def _copy_candidates(connection: Connection, old: Table) -> None:
    query = select(*(old.c[column.name] for column in candidate.columns))
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as found:
        for batch in found.mappings().partitions():
            connection.execute(insert(candidate), [_pack(row) for row in batch])


def _pack(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns a candidate's row with what is wide in few bytes."""
    genome = None
    if row["genome"] is not None:
        values = json.loads(row["genome"])
        genome = struct.pack(f"<{len(values)}d", *values)
    recipe = json.dumps(json.loads(row["recipe"]), separators=(",", ":"))
    return {
        **row,
        "genome": genome,
        "recipe": zlib.compress(recipe.encode(), 6),
        "digest": bytes.fromhex(row["digest"]),
    }


def _copy_parentage(connection: Connection, old: Table) -> None:
    role = case((old.c.place == 0, "parent"), else_="mate")
    names = [column.name for column in old.columns]
    connection.execute(insert(parentage).from_select([*names, "role"], select(old, role)))


def _copy_attempts(connection: Connection, old: Table) -> None:
    failed = old.c.state == "failed"
    values = {column.name: column for column in old.columns} | {
        "state": case((old.c.state == "open", "lost"), else_=old.c.state),
        "ended_at": old.c.started_at + func.coalesce(old.c.seconds, 0.0),
        "kind": case((failed & (old.c.stage == "worker"), "lost"), (failed, "error"), else_=null()),
        "final": case((old.c.state == "scored", 1), else_=old.c.final),
    }
    connection.execute(
        insert(attempt).from_select(list(values), select(*values.values()).order_by(old.c.id))
    )


def _copy_scores(connection: Connection, old: Table) -> None:
    names = [column.name for column in old.columns]
    for row in connection.execute(select(campaign.c.id, campaign.c.versions)).all():
        versions = json.loads(row.versions)
        harness = versions.get("lm_eval") or versions.get("lm-eval") or ""
        rows = select(old, literal(harness)).where(old.c.campaign == row.id)
        connection.execute(insert(score).from_select([*names, "harness"], rows))


def _go_on_counting(connection: Connection) -> None:
    """Lets a server number new rows after those that were carried over with their numbers."""
    for table in (campaign, attempt):
        counter = func.pg_get_serial_sequence(table.name, "id")
        connection.execute(select(func.setval(counter, func.max(table.c.id))))

"""The tables. What cannot be true is refused by the database itself.

Wide and growing columns stay out of what is scanned: genomes, recipes and per-document results are
packed, finished rows are never rewritten, and new rows come at the end of their tables and (but for
fitness and evaluation) of their indexes, so that the millionth candidate costs what the first did.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
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
    and_,
    event,
    or_,
    text,
)

#: Number of the newest migration, which is what these tables are.
SCHEMA_VERSION = 2

#: A row number; SQLite numbers only columns of exactly this type by itself.
_Id = BigInteger().with_variant(Integer, "sqlite")

_ROWS = "rows IN ('search', 'test')"

metadata = MetaData()

#: Alembic's own table, so that its tools work on a store, too.
alembic_version = Table(
    "alembic_version",
    metadata,
    Column("version_num", Text, nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

campaign = Table(
    "campaign",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("settings", Text, nullable=False),  # JSON, defaults resolved
    Column("search_settings", Text, nullable=False),  # JSON: what must not change on resume
    Column("settings_hash", Text, nullable=False),  # of search_settings
    Column("seed", BigInteger, nullable=False),
    Column("versions", Text, nullable=False),  # JSON
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("started_at", Float, nullable=False),  # seconds since 1970, UTC
    Column("elapsed_s", Float, nullable=False, server_default=text("0")),
    # What the rest adds up to, so that nothing must be counted (`shoal db check` counts).
    Column("generation", Integer, nullable=False, server_default=text("0")),
    Column("sequence", Integer, nullable=False, server_default=text("0")),  # last one given
    Column("num_scored", Integer, nullable=False, server_default=text("0")),
    Column("num_failed", Integer, nullable=False, server_default=text("0")),
    Column("num_cached", Integer, nullable=False, server_default=text("0")),
    # Where it was forked from, and the rules of what it has from there.
    Column("parent", Integer, ForeignKey("campaign.id")),
    Column("history", Text, nullable=False, server_default=text("'[]'")),  # JSON
    # Who drives it: one writer, known by a token that every transaction checks.
    Column("lease_token", Text),
    Column("lease_holder", Text),  # JSON: host, process, user
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
    Column("number", Integer, nullable=False),  # the order of proposals within a role
    Column("generation", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("genome", LargeBinary),  # doubles; null for references
    Column("recipe", LargeBinary, nullable=False),  # compressed JSON
    Column("digest", LargeBinary, nullable=False),  # of the recipe
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
    Column("place", Integer, nullable=False),  # 0 for the first parent
    Column("parent", Text, nullable=False),
    Column("role", Text, nullable=False),
    PrimaryKeyConstraint("campaign", "child", "place"),
    ForeignKeyConstraint(["campaign", "child"], ["candidate.campaign", "candidate.id"]),
    ForeignKeyConstraint(["campaign", "parent"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint("child <> parent", name="parentage_others"),
    # The parent that the child's genes start from, and those that it was crossed with.
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
    Column("lease_until", Float),  # when it will be given up; null where nothing was handed out
    Column("ended_at", Float),
    Column("state", Text, nullable=False, server_default="open"),
    Column("sequence", Integer),  # place in the order of recorded outcomes
    Column("fitness", Float),
    Column("cached", Integer, nullable=False, server_default=text("0")),  # copied, not measured
    Column("evaluation", LargeBinary),  # hash of all that the score depends on
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
    Column("final", Integer),  # whether a failure ended its candidate
    Column("retried", Integer, nullable=False, server_default=text("0")),  # ... until a retry
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    UniqueConstraint("campaign", "sequence"),
    CheckConstraint(_ROWS, name="attempt_rows"),
    CheckConstraint("state IN ('open', 'scored', 'failed', 'lost')", name="attempt_state"),
    CheckConstraint("number >= 1 AND halvings >= 0", name="attempt_numbers"),
    CheckConstraint("(state = 'scored') = (fitness IS NOT NULL)", name="attempt_scored"),
    # No infinity is between these; SQLite keeps NaN as NULL, PostgreSQL holds it the greatest.
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


#: The failure that ended a candidate, unless it was to be retried.
GIVEN_UP = and_(attempt.c.state == "failed", attempt.c.final == 1, attempt.c.retried == 0)
#: The attempt that decided about a candidate; as `attempt_one_accepted` has it.
ACCEPTED = or_(attempt.c.state == "scored", GIVEN_UP)

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
    Column("harness", Text, nullable=False),  # version of the library that scored
    Column("per_document", LargeBinary, nullable=False),
    PrimaryKeyConstraint("campaign", "candidate", "rows", "task"),
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint(_ROWS, name="score_rows"),
    CheckConstraint("documents >= 0", name="score_documents"),
    sqlite_with_rowid=False,
)

#: The search's state after some outcome: a shortcut for resuming, never the truth.
snapshot = Table(
    "snapshot",
    metadata,
    Column("campaign", Integer, ForeignKey("campaign.id"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),  # of the code and settings that made it
    Column("state", LargeBinary, nullable=False),  # compressed JSON
    PrimaryKeyConstraint("campaign", "sequence"),
)

log = Table(
    "event",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign", Integer, ForeignKey("campaign.id"), nullable=False),
    Column("at", Float, nullable=False),
    Column("sequence", Integer),  # place among the outcomes, for what the search depends on
    Column("kind", Text, nullable=False),
    Column("data", Text, nullable=False),  # JSON
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

#: Table, name of the rule, operation, condition under which it is refused, and what is said.
_RULES = (
    ("attempt", "forwards", "UPDATE", "OLD.state <> 'open' AND NEW.state <> OLD.state",
     "an attempt that has ended cannot change its state"),
    ("attempt", "settled", "UPDATE",
     ("OLD.state <> 'open' AND (NEW.fitness <> OLD.fitness OR NEW.sequence <> OLD.sequence"
      " OR NEW.final <> OLD.final OR NEW.number <> OLD.number OR NEW.cached <> OLD.cached"
      " OR NEW.retried < OLD.retried)"),
     "what was recorded of an attempt cannot change"),
    ("attempt", "all", "DELETE", "OLD.state <> 'open'",
     "an attempt that has ended is never deleted"),
    ("event", "kept", "UPDATE", "1 = 1", "events are never changed"),
    ("event", "all", "DELETE", "1 = 1", "events are never deleted"),
)  # fmt: skip


def rules(dialect: str) -> list[str]:
    """Returns the statements that make the triggers, which no CHECK could replace."""
    statements = []
    for table, name, operation, condition, message in _RULES:
        full = f"{table}_{name}"
        if dialect == "sqlite":
            statements.append(
                f"CREATE TRIGGER {full} BEFORE {operation} ON {table} WHEN {condition} "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
            continue
        row = "OLD" if operation == "DELETE" else "NEW"
        statements.append(
            f"CREATE FUNCTION shoal_{full}() RETURNS trigger AS $$ BEGIN IF {condition} THEN "
            f"RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; END IF; "
            f"RETURN {row}; END $$ LANGUAGE plpgsql"
        )
        statements.append(
            f"CREATE TRIGGER {full} BEFORE {operation} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION shoal_{full}()"
        )
    return statements


for _dialect in ("sqlite", "postgresql"):
    for _statement in rules(_dialect):
        event.listen(
            metadata,
            "after_create",
            DDL(_statement).execute_if(dialect=_dialect),  # type: ignore[no-untyped-call]
        )

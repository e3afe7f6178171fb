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
    TextClause,
    UniqueConstraint,
    and_,
    event,
    text,
)

#: Number of the newest migration, which is what these tables are.
SCHEMA_VERSION = 4

#: A row number; SQLite numbers only columns of exactly this type by itself.
_Id = BigInteger().with_variant(Integer, "sqlite")

_ROWS = "rows IN ('search', 'fresh', 'selection', 'test', 'control')"
_ROLE = "role IN ('reference', 'search', 'control')"
#: Rows that say what a candidate is worth.
_SEARCHED = "rows IN ('search', 'fresh')"
#: No infinity is between these; SQLite keeps NaN as NULL, PostgreSQL holds it the greatest.
_GREATEST = "1.7976931348623157e308"

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
    CheckConstraint(_ROLE, name="candidate_role"),
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

#: Documents that jobs name, each choice of them once.
document_set = Table(
    "document_set",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),  # of the JSON
    Column("documents", LargeBinary, nullable=False),  # compressed JSON: task -> places
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign", Integer, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("rows", Text, nullable=False),
    Column("block", Integer, nullable=False, server_default=text("0")),  # which part of the rows
    Column("number", Integer, nullable=False),
    Column("document_set", BigInteger, ForeignKey("document_set.id")),  # null for all of the rows
    Column("started_at", Float, nullable=False),
    Column("lease_until", Float),  # when it will be given up; null where nothing was handed out
    Column("ended_at", Float),
    Column("state", Text, nullable=False, server_default="open"),
    Column("sequence", Integer),  # place in the order of recorded outcomes
    # What the candidate is worth by all that was scored so far; on rows of the report, the score.
    Column("fitness", Float),
    Column("own_fitness", Float),  # the score of this part alone, where that is another number
    Column("stderr", Float),
    Column("fidelity", Float),  # share of the search rows that the fitness rests on
    Column("tie", Float),  # tells equals apart
    Column("stopped", Integer, nullable=False, server_default=text("0")),  # by a race
    Column("documents", Integer),  # how many were scored
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
    Column("final", Integer),  # whether it ended its candidate on these rows
    Column("retried", Integer, nullable=False, server_default=text("0")),  # ... until a retry
    # Whether another attempt says what the candidate is worth.
    Column("superseded", Integer, nullable=False, server_default=text("0")),
    # By how much constraints are broken: 0 until the models are known that they refer to.
    Column(
        "violation",
        Float,
        CheckConstraint(
            f"violation = 0 OR (fidelity IS NOT NULL AND violation BETWEEN 0 AND {_GREATEST})",
            name="attempt_violation",
        ),
        nullable=False,
        server_default=text("0"),
    ),
    Column("objectives", LargeBinary),  # doubles, all to be maximised; null where there are none
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    UniqueConstraint("campaign", "sequence"),
    CheckConstraint(_ROWS, name="attempt_rows"),
    CheckConstraint("state IN ('open', 'scored', 'failed', 'lost')", name="attempt_state"),
    CheckConstraint(
        "number >= 1 AND halvings >= 0 AND block >= 0 AND documents >= 0", name="attempt_numbers"
    ),
    CheckConstraint("(state = 'scored') = (fitness IS NOT NULL)", name="attempt_scored"),
    CheckConstraint(f"fitness >= -{_GREATEST}", name="attempt_fitness_low"),
    CheckConstraint(f"fitness <= {_GREATEST}", name="attempt_fitness_high"),
    CheckConstraint("(state = 'scored') = (documents IS NOT NULL)", name="attempt_documents"),
    CheckConstraint(
        f"(state = 'scored' AND {_SEARCHED}) = (fidelity IS NOT NULL)", name="attempt_measured"
    ),
    CheckConstraint("fidelity BETWEEN 0 AND 1", name="attempt_fidelity"),
    CheckConstraint(
        "own_fitness IS NULL OR (fidelity IS NOT NULL"
        f" AND own_fitness BETWEEN -{_GREATEST} AND {_GREATEST})",
        name="attempt_own_fitness",
    ),
    CheckConstraint(
        f"stderr IS NULL OR (fidelity IS NOT NULL AND stderr BETWEEN 0 AND {_GREATEST})",
        name="attempt_stderr",
    ),
    CheckConstraint(
        f"tie IS NULL OR (fidelity IS NOT NULL AND tie BETWEEN -{_GREATEST} AND {_GREATEST})",
        name="attempt_tie",
    ),
    CheckConstraint("(state = 'failed') = (cause IS NOT NULL)", name="attempt_failed"),
    CheckConstraint("cached = 0 OR (cached = 1 AND state = 'scored')", name="attempt_cached"),
    CheckConstraint(
        "(state IN ('scored', 'failed')) = (final IS NOT NULL)", name="attempt_decided"
    ),
    CheckConstraint("final IN (0, 1)", name="attempt_final"),
    CheckConstraint(
        "stopped = 0 OR (stopped = 1 AND final = 1 AND fidelity IS NOT NULL)",
        name="attempt_stopped",
    ),
    CheckConstraint("retryable IN (0, 1)", name="attempt_retryable"),
    CheckConstraint(
        "retried = 0 OR (retried = 1 AND state = 'failed' AND final = 1)", name="attempt_retried"
    ),
    CheckConstraint(
        f"superseded = 0 OR (superseded = 1 AND {_SEARCHED}"
        " AND (state = 'scored' OR (state = 'failed' AND final = 1)))",
        name="attempt_superseded",
    ),
    CheckConstraint(
        "(state IN ('scored', 'failed')) = (sequence IS NOT NULL)", name="attempt_recorded"
    ),
    CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="attempt_ended"),
)


def _only(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


# Conditions of the indexes below; SQLite uses one only where a query has its very constants.

#: What has been handed out and has no outcome.
OPEN = text("attempt.state = 'open'")
#: A failure that ended its candidate on these rows, unless it was to be retried.
GIVEN_UP = and_(attempt.c.state == "failed", attempt.c.final == 1, attempt.c.retried == 0)
#: What says what a candidate is worth: it has a fitness, or has failed for good.
STANDING = text(
    f"attempt.superseded = 0 AND attempt.retried = 0 AND attempt.{_SEARCHED}"
    " AND (attempt.state = 'scored' OR attempt.final = 1)"
)
#: ... and all that is to be measured has been.
ENDED = and_(STANDING, attempt.c.final == 1)
#: ... and it has a fitness.
RANKED = text("attempt.superseded = 0 AND attempt.final = 1 AND attempt.fidelity IS NOT NULL")
#: Attempts on rows that nothing is searched on.
REPORTED = text("attempt.rows IN ('selection', 'test', 'control')")


def _plain(condition: TextClause) -> dict[str, Any]:
    return _only(condition.text.replace("attempt.", ""))


_CANDIDATE = (attempt.c.campaign, attempt.c.candidate)
Index(  # with the state, so that it is better than any other for what is open
    "attempt_one_open",
    attempt.c.campaign,
    attempt.c.state,
    attempt.c.candidate,
    attempt.c.rows,
    unique=True,
    **_plain(OPEN),
)
Index(
    "attempt_one_accepted",
    *_CANDIDATE,
    attempt.c.rows,
    attempt.c.block,
    unique=True,
    **_only("state = 'scored' OR (final = 1 AND retried = 0)"),
)
Index("attempt_one_standing", *_CANDIDATE, unique=True, **_plain(STANDING))
Index("attempt_by_candidate", *_CANDIDATE)
Index(
    "attempt_by_rank",
    attempt.c.campaign,
    attempt.c.stopped,
    attempt.c.violation,
    attempt.c.fitness,
    **_plain(RANKED),
)
Index("attempt_reported", attempt.c.campaign, attempt.c.rows, **_plain(REPORTED))
Index("attempt_by_evaluation", attempt.c.evaluation, **_only("state = 'scored' AND cached = 0"))

score = Table(
    "score",
    metadata,
    Column("campaign", Integer, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("rows", Text, nullable=False),
    Column("block", Integer, nullable=False, server_default=text("0")),
    Column("task", Text, nullable=False),
    Column("value", Float, nullable=False),
    Column("stderr", Float),
    Column("documents", Integer, nullable=False),
    Column("weight", Float, nullable=False),
    Column("harness", Text, nullable=False),  # version of the library that scored
    # These make a row longer than SQLite keeps in a table without row numbers.
    Column("per_document", LargeBinary, nullable=False),
    Column("log_likelihoods", LargeBinary),  # null where the task has none
    PrimaryKeyConstraint("campaign", "candidate", "rows", "block", "task"),
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint(_ROWS, name="score_rows"),
    CheckConstraint("documents >= 0 AND block >= 0", name="score_documents"),
)

#: Documents that were scored, copied results left out, and candidates that a race stopped: what
#: attempts add up to, so that nothing must be counted.
spent = Table(
    "spent",
    metadata,
    Column("campaign", Integer, ForeignKey("campaign.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("rows", Text, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("stopped", Integer, nullable=False),
    PrimaryKeyConstraint("campaign", "role", "rows"),
    CheckConstraint(_ROLE, name="spent_role"),
    CheckConstraint(_ROWS, name="spent_rows"),
    CheckConstraint("documents >= 0 AND stopped >= 0", name="spent_counts"),
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

#: What of an attempt never changes once it has ended.
_SETTLED = (
    "rows", "block", "number", "document_set", "sequence", "fitness", "own_fitness", "stderr",
    "fidelity", "tie", "stopped", "documents", "cached", "final", "objectives",
)  # fmt: skip

#: Table, name of the rule, operation, condition under which it is refused, and what is said.
_RULES = (
    ("attempt", "forwards", "UPDATE", "OLD.state <> 'open' AND NEW.state <> OLD.state",
     "an attempt that has ended cannot change its state"),
    ("attempt", "settled", "UPDATE",
     ("OLD.state <> 'open' AND NEW.state = OLD.state"
      " AND (NEW.retried < OLD.retried OR NEW.superseded < OLD.superseded OR "
      + " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in _SETTLED)
      + " OR (OLD.violation <> 0 AND NEW.violation <> OLD.violation))"),
     "what was recorded of an attempt cannot change"),
    ("attempt", "all", "DELETE", "OLD.state <> 'open'",
     "an attempt that has ended is never deleted"),
    ("document_set", "kept", "UPDATE", "1 = 1", "documents that jobs have named never change"),
    ("event", "kept", "UPDATE", "1 = 1", "events are never changed"),
    ("event", "all", "DELETE", "1 = 1", "events are never deleted"),
)  # fmt: skip


def rules(dialect: str) -> list[str]:
    """Returns the statements that make the triggers, which no CHECK could replace."""
    statements = []
    for table, name, operation, condition, message in _RULES:
        full = f"{table}_{name}"
        if dialect == "sqlite":
            when = condition.replace("IS DISTINCT FROM", "IS NOT")  # as all its versions say it
            statements.append(
                f"CREATE TRIGGER {full} BEFORE {operation} ON {table} WHEN {when} "
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

"""Lets candidates be measured block by block, on more kinds of rows, and keeps what documents gave.

What was scored before was scored on all rows of its kind at once, which says what it is worth.
"""

from __future__ import annotations

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
    and_,
    case,
    func,
    insert,
    literal,
    null,
    select,
    text,
)

revision = "0003"
down_revision = "0002"

_Id = BigInteger().with_variant(Integer, "sqlite")
_ROWS = "rows IN ('search', 'fresh', 'selection', 'test', 'control')"
_ROLE = "role IN ('reference', 'search', 'control')"
_SEARCHED = "rows IN ('search', 'fresh')"
_GREATEST = "1.7976931348623157e308"

metadata = MetaData()

# What there is already and is referred to.
campaign = Table("campaign", metadata, Column("id", Integer, primary_key=True))
candidate = Table(
    "candidate",
    metadata,
    Column("campaign", Integer, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("role", Text),
)

document_set = Table(
    "document_set",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("documents", LargeBinary, nullable=False),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign", Integer, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("rows", Text, nullable=False),
    Column("block", Integer, nullable=False, server_default=text("0")),
    Column("number", Integer, nullable=False),
    Column("document_set", BigInteger, ForeignKey("document_set.id")),
    Column("started_at", Float, nullable=False),
    Column("lease_until", Float),
    Column("ended_at", Float),
    Column("state", Text, nullable=False, server_default="open"),
    Column("sequence", Integer),
    Column("fitness", Float),
    Column("own_fitness", Float),
    Column("stderr", Float),
    Column("fidelity", Float),
    Column("tie", Float),
    Column("stopped", Integer, nullable=False, server_default=text("0")),
    Column("documents", Integer),
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
    Column("superseded", Integer, nullable=False, server_default=text("0")),
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


_CANDIDATE = (attempt.c.campaign, attempt.c.candidate)
Index(
    "attempt_one_open",
    attempt.c.campaign,
    attempt.c.state,
    attempt.c.candidate,
    attempt.c.rows,
    unique=True,
    **_only("state = 'open'"),
)
Index(
    "attempt_one_accepted",
    *_CANDIDATE,
    attempt.c.rows,
    attempt.c.block,
    unique=True,
    **_only("state = 'scored' OR (final = 1 AND retried = 0)"),
)
Index(
    "attempt_one_standing",
    *_CANDIDATE,
    unique=True,
    **_only(
        "superseded = 0 AND retried = 0 AND rows IN ('search', 'fresh')"
        " AND (state = 'scored' OR final = 1)"
    ),
)
Index("attempt_by_candidate", *_CANDIDATE)
Index(
    "attempt_by_rank",
    attempt.c.campaign,
    attempt.c.stopped,
    attempt.c.fitness,
    **_only("superseded = 0 AND final = 1 AND fidelity IS NOT NULL"),
)
Index(
    "attempt_reported",
    attempt.c.campaign,
    attempt.c.rows,
    **_only("rows IN ('selection', 'test', 'control')"),
)
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
    Column("harness", Text, nullable=False),
    Column("per_document", LargeBinary, nullable=False),
    Column("log_likelihoods", LargeBinary),
    PrimaryKeyConstraint("campaign", "candidate", "rows", "block", "task"),
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint(_ROWS, name="score_rows"),
    CheckConstraint("documents >= 0 AND block >= 0", name="score_documents"),
)

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

_TRIGGERS = {
    "sqlite": """
CREATE TRIGGER attempt_forwards BEFORE UPDATE ON attempt
WHEN OLD.state <> 'open' AND NEW.state <> OLD.state
BEGIN SELECT RAISE(ABORT, 'an attempt that has ended cannot change its state'); END

CREATE TRIGGER attempt_settled BEFORE UPDATE ON attempt
WHEN OLD.state <> 'open' AND NEW.state = OLD.state AND (NEW.retried < OLD.retried
OR NEW.superseded < OLD.superseded OR NEW.rows IS NOT OLD.rows OR NEW.block IS NOT OLD.block
OR NEW.number IS NOT OLD.number OR NEW.document_set IS NOT OLD.document_set
OR NEW.sequence IS NOT OLD.sequence OR NEW.fitness IS NOT OLD.fitness
OR NEW.own_fitness IS NOT OLD.own_fitness OR NEW.stderr IS NOT OLD.stderr
OR NEW.fidelity IS NOT OLD.fidelity OR NEW.tie IS NOT OLD.tie OR NEW.stopped IS NOT OLD.stopped
OR NEW.documents IS NOT OLD.documents OR NEW.cached IS NOT OLD.cached
OR NEW.final IS NOT OLD.final)
BEGIN SELECT RAISE(ABORT, 'what was recorded of an attempt cannot change'); END

CREATE TRIGGER attempt_all BEFORE DELETE ON attempt
WHEN OLD.state <> 'open'
BEGIN SELECT RAISE(ABORT, 'an attempt that has ended is never deleted'); END

CREATE TRIGGER document_set_kept BEFORE UPDATE ON document_set
WHEN 1 = 1 BEGIN SELECT RAISE(ABORT, 'documents that jobs have named never change'); END
""",
    "postgresql": """
CREATE FUNCTION shoal_attempt_forwards() RETURNS trigger AS $$ BEGIN
IF OLD.state <> 'open' AND NEW.state <> OLD.state THEN
RAISE EXCEPTION 'an attempt that has ended cannot change its state'
USING ERRCODE = 'check_violation'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql

CREATE TRIGGER attempt_forwards BEFORE UPDATE ON attempt
FOR EACH ROW EXECUTE FUNCTION shoal_attempt_forwards()

CREATE FUNCTION shoal_attempt_settled() RETURNS trigger AS $$ BEGIN
IF OLD.state <> 'open' AND NEW.state = OLD.state AND (NEW.retried < OLD.retried
OR NEW.superseded < OLD.superseded OR NEW.rows IS DISTINCT FROM OLD.rows
OR NEW.block IS DISTINCT FROM OLD.block OR NEW.number IS DISTINCT FROM OLD.number
OR NEW.document_set IS DISTINCT FROM OLD.document_set
OR NEW.sequence IS DISTINCT FROM OLD.sequence OR NEW.fitness IS DISTINCT FROM OLD.fitness
OR NEW.own_fitness IS DISTINCT FROM OLD.own_fitness OR NEW.stderr IS DISTINCT FROM OLD.stderr
OR NEW.fidelity IS DISTINCT FROM OLD.fidelity OR NEW.tie IS DISTINCT FROM OLD.tie
OR NEW.stopped IS DISTINCT FROM OLD.stopped OR NEW.documents IS DISTINCT FROM OLD.documents
OR NEW.cached IS DISTINCT FROM OLD.cached OR NEW.final IS DISTINCT FROM OLD.final) THEN
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

CREATE FUNCTION shoal_document_set_kept() RETURNS trigger AS $$ BEGIN
IF 1 = 1 THEN RAISE EXCEPTION 'documents that jobs have named never change'
USING ERRCODE = 'check_violation'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql

CREATE TRIGGER document_set_kept BEFORE UPDATE ON document_set
FOR EACH ROW EXECUTE FUNCTION shoal_document_set_kept()
""",
}


def upgrade() -> None:
    """Makes the new tables, carries all rows over, and drops the old tables."""
    connection = op.get_bind()
    on_sqlite = connection.dialect.name == "sqlite"
    old = _set_aside(connection, on_sqlite)
    metadata.create_all(connection, tables=[document_set, attempt, score, spent])
    _copy_attempts(connection, old["attempt"], old["score"])
    _copy_scores(connection, old["score"])
    _add_up(connection)
    for table in old.values():
        op.drop_table(table.name, schema=table.schema)
    if not on_sqlite:
        for name in ("forwards", "settled", "all"):
            op.execute(f"DROP FUNCTION shoal_attempt_{name}()")
        op.execute("DROP SCHEMA shoal_v2_tables")
        counter = func.pg_get_serial_sequence("attempt", "id")
        connection.execute(select(func.setval(counter, func.max(attempt.c.id))))
    for statement in _TRIGGERS[connection.dialect.name].strip().split("\n\n"):
        connection.exec_driver_sql(statement)


def _set_aside(connection: Connection, on_sqlite: bool) -> dict[str, Table]:
    """Makes way for the new tables; returns the old ones.

    In PostgreSQL a table's constraints, indexes and sequences keep their names when it is renamed;
    they follow it into another schema, where they are in nobody's way.
    """
    names = ("attempt", "score")
    prefix, schema = ("v2_", None) if on_sqlite else ("", "shoal_v2_tables")
    if on_sqlite:
        for index in ("one_open", "one_accepted", "by_candidate", "by_fitness", "by_evaluation"):
            op.drop_index(f"attempt_{index}")
        for name in names:
            op.rename_table(name, f"v2_{name}")
    else:
        op.execute("CREATE SCHEMA shoal_v2_tables")
        for name in names:
            op.execute(f"ALTER TABLE {name} SET SCHEMA shoal_v2_tables")
    return {
        name: Table(
            f"{prefix}{name}", MetaData(), schema=schema, autoload_with=connection,
            resolve_fks=False,
        )
        for name in names
    }  # fmt: skip


def _copy_attempts(connection: Connection, old: Table, old_score: Table) -> None:
    is_scored = old.c.state == "scored"
    documents = select(func.coalesce(func.sum(old_score.c.documents), 0)).where(
        old_score.c.campaign == old.c.campaign,
        old_score.c.candidate == old.c.candidate,
        old_score.c.rows == old.c.rows,
    )
    values: dict[str, Any] = {column.name: column for column in old.columns} | {
        "documents": case((is_scored, documents.scalar_subquery()), else_=null()),
        "fidelity": case((and_(is_scored, old.c.rows == "search"), 1.0), else_=null()),
    }
    connection.execute(
        insert(attempt).from_select(list(values), select(*values.values()).order_by(old.c.id))
    )


def _copy_scores(connection: Connection, old: Table) -> None:
    names = [column.name for column in old.columns]
    connection.execute(insert(score).from_select(names, select(old)))


def _add_up(connection: Connection) -> None:
    """Books what was spent: all that was scored, what was copied at no cost."""
    cost = func.sum(case((attempt.c.cached == 0, attempt.c.documents), else_=0))
    rows = (
        select(attempt.c.campaign, candidate.c.role, attempt.c.rows, cost, literal(0))
        .join_from(
            attempt,
            candidate,
            and_(
                candidate.c.campaign == attempt.c.campaign,
                candidate.c.id == attempt.c.candidate,
            ),
        )
        .where(attempt.c.state == "scored")
        .group_by(attempt.c.campaign, candidate.c.role, attempt.c.rows)
    )
    names = [column.name for column in spent.columns]
    connection.execute(insert(spent).from_select(names, rows))

"""Lets candidates have several objectives, and constraints that they may break.

What was measured before had one objective, its fitness, and no constraints.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

_VIOLATION = (
    "violation FLOAT DEFAULT 0 NOT NULL CONSTRAINT attempt_violation CHECK (violation = 0 OR"
    " (fidelity IS NOT NULL AND violation BETWEEN 0 AND 1.7976931348623157e308))"
)
_RANKED = "superseded = 0 AND final = 1 AND fidelity IS NOT NULL"
_SETTLED = (
    "rows", "block", "number", "document_set", "sequence", "fitness", "own_fitness", "stderr",
    "fidelity", "tie", "stopped", "documents", "cached", "final", "objectives",
)  # fmt: skip
_MESSAGE = "what was recorded of an attempt cannot change"


def upgrade() -> None:
    """Adds the columns, ranks by them, and keeps them as they were recorded."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for column in (_VIOLATION, f"objectives {'BLOB' if on_sqlite else 'BYTEA'}"):
        op.execute(f"ALTER TABLE attempt ADD COLUMN {column}")
    op.execute("DROP INDEX attempt_by_rank")
    op.execute(
        "CREATE INDEX attempt_by_rank ON attempt (campaign, stopped, violation, fitness)"
        f" WHERE {_RANKED}"
    )
    if on_sqlite:
        op.execute("DROP TRIGGER attempt_settled")
        op.execute(
            f"CREATE TRIGGER attempt_settled BEFORE UPDATE ON attempt WHEN {_changed('IS NOT')}"
            f" BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION shoal_attempt_settled() RETURNS trigger AS $$ BEGIN"
        f" IF {_changed('IS DISTINCT FROM')} THEN RAISE EXCEPTION '{_MESSAGE}'"
        " USING ERRCODE = 'check_violation'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql"
    )


def _changed(differs: str) -> str:
    """Returns when an attempt that has ended is changed in what never changes."""
    return (
        "OLD.state <> 'open' AND NEW.state = OLD.state"
        " AND (NEW.retried < OLD.retried OR NEW.superseded < OLD.superseded OR "
        + " OR ".join(f"NEW.{name} {differs} OLD.{name}" for name in _SETTLED)
        + " OR (OLD.violation <> 0 AND NEW.violation <> OLD.violation))"
    )

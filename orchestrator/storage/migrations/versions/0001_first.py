"""The tables of the first version, which wrote its number into a table of its own."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
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
    text,
)

revision = "0001"
down_revision = None

metadata = MetaData()

about = Table("about", metadata, Column("schema_version", Integer, nullable=False))

campaign = Table(
    "campaign",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("settings", Text, nullable=False),
    Column("search_settings", Text, nullable=False),
    Column("versions", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("generation", Integer, nullable=False, server_default=text("0")),
    Column("started_at", Float, nullable=False),
    Column("elapsed_s", Float, nullable=False, server_default=text("0")),
    CheckConstraint(
        "state IN ('running', 'finished', 'stopped', 'interrupted')", name="campaign_state"
    ),
    CheckConstraint("elapsed_s >= 0", name="campaign_elapsed"),
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
    Column("genome", Text),
    Column("recipe", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="proposed"),
    Column("fitness", Float),
    PrimaryKeyConstraint("campaign", "id"),
    UniqueConstraint("campaign", "role", "number"),
    CheckConstraint("role IN ('reference', 'search', 'control')", name="candidate_role"),
    CheckConstraint("state IN ('proposed', 'scored', 'failed')", name="candidate_state"),
    CheckConstraint("(state = 'scored') = (fitness IS NOT NULL)", name="candidate_scored"),
    CheckConstraint("(genome IS NULL) = (role = 'reference')", name="candidate_genome"),
    CheckConstraint("number >= 1 AND generation >= 0", name="candidate_numbers"),
)
Index("candidate_by_fitness", candidate.c.campaign, candidate.c.fitness)

parentage = Table(
    "parentage",
    metadata,
    Column("campaign", Integer, nullable=False),
    Column("child", Text, nullable=False),
    Column("place", Integer, nullable=False),
    Column("parent", Text, nullable=False),
    PrimaryKeyConstraint("campaign", "child", "place"),
    ForeignKeyConstraint(["campaign", "child"], ["candidate.campaign", "candidate.id"]),
    ForeignKeyConstraint(["campaign", "parent"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint("child <> parent", name="parentage_others"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign", Integer, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("rows", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("state", Text, nullable=False, server_default="open"),
    Column("sequence", Integer),
    Column("fitness", Float),
    Column("seconds", Float),
    Column("worker", Text),
    Column("stage", Text),
    Column("cause", Text),
    Column("retryable", Integer),
    Column("final", Integer),
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    UniqueConstraint("campaign", "sequence"),
    CheckConstraint("rows IN ('search', 'test')", name="attempt_rows"),
    CheckConstraint("state IN ('open', 'scored', 'failed', 'lost')", name="attempt_state"),
    CheckConstraint("(state = 'scored') = (fitness IS NOT NULL)", name="attempt_scored"),
    CheckConstraint("(state = 'failed') = (cause IS NOT NULL)", name="attempt_failed"),
    CheckConstraint(
        "(state IN ('scored', 'failed')) = (sequence IS NOT NULL)", name="attempt_recorded"
    ),
)
for _state in ("open", "scored"):
    Index(
        f"attempt_one_{_state}",
        attempt.c.campaign,
        attempt.c.candidate,
        attempt.c.rows,
        unique=True,
        sqlite_where=text(f"state = '{_state}'"),
        postgresql_where=text(f"state = '{_state}'"),
    )

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
    Column("per_document", LargeBinary, nullable=False),
    PrimaryKeyConstraint("campaign", "candidate", "rows", "task"),
    ForeignKeyConstraint(["campaign", "candidate"], ["candidate.campaign", "candidate.id"]),
    CheckConstraint("rows IN ('search', 'test')", name="score_rows"),
    CheckConstraint("documents >= 0", name="score_documents"),
)


def upgrade() -> None:
    """Makes the tables."""
    connection = op.get_bind()
    metadata.create_all(connection)
    connection.execute(about.insert().values(schema_version=1))

"""Alembic's way in: it is given a connection whose transaction has begun, and ends neither."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, Table, Text

connection = context.config.attributes["connection"]

# Alembic would make this itself, with another type than a new store's table has.
Table(
    "alembic_version",
    MetaData(),
    Column("version_num", Text, nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
).create(connection, checkfirst=True)

context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()

"""What is in the file, read past the store: the laws do not take its word for anything."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, NamedTuple

from evaluators.base import Documents, TaskScore
from orchestrator.campaign.state import Again, Candidate, Entry, Recorded, Retry
from orchestrator.storage import document_sets
from orchestrator.storage.rows import candidate_of, outcome_of, task_scores
from tests.simulation.plans import Place
from tests.simulation.world import World

#: Tables of a campaign that nobody else may touch.
_OWN = ("candidate", "parentage", "attempt", "score", "spent", "event")
_TABLES = ("campaign", *_OWN, "document_set", "snapshot")


class Line(NamedTuple):
    """A recorded outcome."""

    sequence: int
    candidate: str
    rows: str
    block: int
    attempt: int
    #: Of this part of the rows alone.
    fitness: float | None
    final: int
    cached: int


class Monitor:
    """A reader of its own; it is no process of the world, and nothing befalls it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._connection: sqlite3.Connection | None = None
        self._path = world.path

    def close(self) -> None:
        """Lets the file go, so that whoever else has it open may tidy it up."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Returns the rows of a query; none while there are no tables."""
        if self._connection is None or self._path != self._world.path:
            self.close()
            self._path = self._world.path
            self._connection = sqlite3.connect(self._path)
            self._connection.row_factory = sqlite3.Row
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise

    def campaign(self, name: str) -> sqlite3.Row | None:
        """Returns a campaign's row."""
        found = self.all("SELECT * FROM campaign WHERE name = ?", name)
        return found[0] if found else None

    def request_stop(self, name: str) -> None:
        """Does what `shoal stop` does."""
        self.campaign(name)
        assert self._connection is not None
        with suppress(sqlite3.OperationalError), self._connection:
            self._connection.execute(
                "UPDATE campaign SET stop_requested = 1 WHERE name = ?", (name,)
            )

    def damage_snapshots(self, data: bytes) -> None:
        """Overwrites what was kept of the search's states."""
        self.all("SELECT 1")
        assert self._connection is not None
        with suppress(sqlite3.OperationalError), self._connection:
            self._connection.execute("UPDATE snapshot SET state = ?", (data,))

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Returns all that is in the file."""
        return {table: [tuple(r) for r in self.all(f"SELECT * FROM {table}")] for table in _TABLES}

    def history(self, name: str) -> list[list[tuple[Any, ...]]]:
        """Returns what a campaign has that nobody else may touch."""
        return [
            [
                tuple(row)
                for row in self.all(
                    f"SELECT t.* FROM {table} t JOIN campaign c ON t.campaign = c.id "
                    "WHERE c.name = ?",
                    name,
                )
            ]
            for table in _OWN
        ]

    def attempts(self, name: str, where: str, *values: Any) -> list[sqlite3.Row]:
        """Returns attempts of a campaign."""
        return self.all(
            "SELECT attempt.* FROM attempt JOIN campaign ON attempt.campaign = campaign.id "
            f"WHERE campaign.name = ? AND {where}",
            name,
            *values,
        )

    def lines(self, name: str) -> list[Line]:
        """Returns all recorded outcomes, in their order."""
        return [
            Line(
                row["sequence"], row["candidate"], row["rows"], row["block"], row["number"],
                own_fitness(row), row["final"], row["cached"],
            )
            for row in self.attempts(name, "attempt.sequence > 0 ORDER BY attempt.sequence")
        ]  # fmt: skip

    def candidates(self, name: str) -> dict[str, Candidate]:
        """Returns all candidates, in the order of recording."""
        row = self.campaign(name)
        if row is None:
            return {}
        parents: dict[str, list[str]] = {}
        query = "SELECT child, parent FROM parentage WHERE campaign = ? ORDER BY child, place"
        for child, parent in self.all(query, row["id"]):
            parents.setdefault(child, []).append(parent)
        query = "SELECT * FROM candidate WHERE campaign = ? ORDER BY rowid"
        return {
            one["id"]: candidate_of(_named(one), parents.get(one["id"], ()))
            for one in self.all(query, row["id"])
        }

    def documents(self, row: sqlite3.Row) -> Documents | None:
        """Returns the documents that an attempt is about; None for all."""
        if row["document_set"] is None:
            return None
        (one,) = self.all("SELECT * FROM document_set WHERE id = ?", row["document_set"])
        return document_sets.unpack(one["documents"])

    def scores(self, name: str) -> dict[Place, dict[str, TaskScore]]:
        """Returns what all that was scored gave for each of its tasks."""
        query = (
            "SELECT score.* FROM score JOIN campaign ON score.campaign = campaign.id "
            "WHERE campaign.name = ? ORDER BY score.rowid"
        )
        return dict(task_scores(map(_named, self.all(query, name))))

    def entries(self, name: str) -> list[Entry]:
        """Returns what the campaign is a fold over, by the places that were given."""
        scores = self.scores(name)
        found: list[tuple[int, Entry]] = [
            (row["sequence"], _recorded(row, scores.get(place_of(row), {})))
            for row in self.attempts(name, "attempt.sequence > 0")
        ]
        wishes = self.all(
            "SELECT event.* FROM event JOIN campaign ON event.campaign = campaign.id "
            "WHERE campaign.name = ? AND kind = 'retry'",
            name,
        )
        found += [(row["sequence"], self._retry(name, row["data"])) for row in wishes]
        return [entry for _, entry in sorted(found, key=lambda one: one[0])]

    def accepted(self, name: str) -> list[sqlite3.Row]:
        """Returns every outcome that counts, in the order of recording."""
        return self.attempts(
            name,
            # The campaign's own state must not be meant.
            "(attempt.state = 'scored' OR (final = 1 AND retried = 0)) ORDER BY attempt.sequence",
        )

    def _retry(self, name: str, data: str) -> Retry:
        known = self.candidates(name)
        return Retry(
            tuple(
                Again(
                    candidate=known[id_],
                    rows=rows,
                    block=block,
                    documents=self._documents_of(name, (id_, rows, block)),
                    attempt=attempt,
                )
                for id_, rows, block, attempt in json.loads(data)["wanted"]
            )
        )

    def _documents_of(self, name: str, place: Place) -> Documents | None:
        first, *_ = self.attempts(name, f"{AT_PLACE} ORDER BY attempt.id", *place)
        return self.documents(first)


#: Where attempts at a part of a candidate's rows are found.
AT_PLACE = "attempt.candidate = ? AND attempt.rows = ? AND attempt.block = ?"


def place_of(row: sqlite3.Row) -> Place:
    """Returns what an attempt measures."""
    return row["candidate"], row["rows"], row["block"]


def own_fitness(row: sqlite3.Row) -> float | None:
    """Returns the fitness of an attempt's part of the rows alone, if it was scored."""
    found: float | None = row["own_fitness"]
    return row["fitness"] if found is None else found


def _recorded(row: sqlite3.Row, tasks: Mapping[str, TaskScore]) -> Recorded:
    return Recorded(outcome_of(_named(row), tasks), bool(row["final"]))


def _named(row: sqlite3.Row) -> SimpleNamespace:
    return SimpleNamespace(**dict(row))

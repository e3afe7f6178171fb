"""Which attempts say what their candidates are worth, and what the attempts add up to.

A candidate is worth what the last part of its rows says that was scored. Where it had ended, only
what ends it again takes the place of that: while further rows are being scored, and should they
fail, it stays what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from sqlalchemy import Connection, select

from evaluators.base import Rows
from orchestrator.campaign.state import Role
from orchestrator.storage.base import SEARCHED
from orchestrator.storage.schema import STANDING, attempt

#: A part of its rows was scored; all that was to be measured; it failed for good.
_Standing: TypeAlias = Literal["part", "ended", "failed"]
_ROLES: Mapping[str, Role] = {"r": "reference", "s": "search", "c": "control"}


@dataclass(slots=True)
class Ledger:
    """Books attempts in the order in which their outcomes are recorded."""

    #: Candidate -> what is known of it, and the attempt that says so (whatever names it).
    standings: dict[str, tuple[_Standing, Any]] = field(default_factory=dict)
    num_scored: int = 0
    num_failed: int = 0
    num_cached: int = 0
    #: Role and rows -> documents that were scored, copied results left out.
    documents: Counter[tuple[Role, Rows]] = field(default_factory=Counter)
    #: Role and rows -> candidates that a race ended.
    stopped: Counter[tuple[Role, Rows]] = field(default_factory=Counter)

    def book(self, row: Mapping[str, Any], name: Any) -> list[Any]:
        """Books an attempt as its row has it.

        Returns:
            The names of the attempts that say no more what the candidate is worth; of this one,
            too, where it never does.
        """
        ends, gone = False, list[Any]()
        if row["rows"] in SEARCHED and (row["state"] == "scored" or row["final"]):
            before, holder = self.standings.get(row["candidate"], (None, None))
            now = standing_of(row["state"], row["final"])
            if before == "ended" and now != "ended":
                gone = [name]
            else:
                gone = [] if before is None else [holder]
                self.standings[row["candidate"]] = (now, name)
                ends = now != "part" and before != "ended"
        self._count(row, ends=ends)
        return gone

    def _count(self, row: Mapping[str, Any], *, ends: bool) -> None:
        if row["state"] == "failed":
            self.num_failed += ends
            return
        key = (_ROLES[row["candidate"][0]], cast("Rows", row["rows"]))
        self.documents[key] += 0 if row["cached"] else row["documents"]
        self.stopped[key] += ends and row["stopped"]
        self.num_scored += ends
        self.num_cached += ends and row["cached"]

    def retry(self, candidate: str, rows: str) -> None:
        """Books the wish to measure what failed for good once more."""
        if rows in SEARCHED and self.standings.get(candidate, ("", None))[0] == "failed":
            del self.standings[candidate]
            self.num_failed -= 1

    def spent(self, campaign: int) -> list[dict[str, Any]]:
        """Returns the rows of the table `spent`."""
        return [
            {
                "campaign": campaign,
                "role": role,
                "rows": rows,
                "documents": documents,
                "stopped": self.stopped[role, rows],
            }
            for (role, rows), documents in sorted(self.documents.items())
        ]


def standing_of(state: str, final: object) -> _Standing:
    """Returns what an attempt says of its candidate."""
    if state == "failed":
        return "failed"
    return "ended" if final else "part"


def standings(
    connection: Connection, campaign: int, ids: Iterable[str], name: Any
) -> dict[str, tuple[_Standing, Any]]:
    """Returns what is known of candidates, all by attempts of this name."""
    query = select(attempt.c.candidate, attempt.c.state, attempt.c.final).where(
        attempt.c.campaign == campaign, attempt.c.candidate.in_(set(ids)), STANDING
    )
    return {
        row.candidate: (standing_of(row.state, row.final), name)
        for row in connection.execute(query)
    }

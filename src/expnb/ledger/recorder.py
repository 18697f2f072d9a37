"""Entries written with the time of a clock, after those that could not be written before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from expnb.spec.canonical import Json, canonical_json

if TYPE_CHECKING:  # as in approvals.py
    from expnb.ledger.ledger import Entry, EntryKind, Ledger


@dataclass(frozen=True, slots=True)
class Recorder:
    """The pen of a ledger.

    Parameters
    ----------
    clock : callable
        Gives the time now, with a time zone.
    spool : Path
        File in which kills wait that could not be recorded when they happened.
    """

    ledger: Ledger
    clock: Callable[[], datetime]
    spool: Path

    def record(self, kind: EntryKind, body: Mapping[str, object]) -> Entry:
        """A new entry, after what waited."""
        now = self.clock()
        self._flush(now)
        return self.ledger.append(kind, body, happened_at=now, recorded_at=now)

    def _flush(self, now: datetime) -> None:
        if not self.spool.is_file():
            return
        recorded = {(entry.happened_at, canonical_json(entry.body)) for entry in self.ledger.entries(kind="kill")}
        for line in self.spool.read_text(encoding="utf-8").splitlines():
            try:
                spooled = cast("dict[str, Json]", json.loads(line))
                happened_at = datetime.fromisoformat(str(spooled["happened_at"]))
                body = cast("dict[str, Json]", spooled["body"])
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash while it was written; the kill itself was done
            if (happened_at, canonical_json(body)) not in recorded:
                self.ledger.append("kill", body, happened_at=happened_at, recorded_at=now)
        self.spool.unlink()


def keep_for_later(spool: Path, body: Mapping[str, object], happened_at: datetime) -> None:
    """A kill that no ledger can take now; it is recorded before the next entry.

    Raises
    ------
    OSError
        If it cannot be kept either.
    """
    spool.parent.mkdir(parents=True, exist_ok=True)
    with spool.open("a", encoding="utf-8") as file:
        file.write(canonical_json({"happened_at": happened_at, "body": body}) + "\n")

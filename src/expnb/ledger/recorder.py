"""Entries written with the time of a clock, after those that could not be written before."""

from __future__ import annotations

import fcntl
import json
import os
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
        self.flush()
        return self.ledger.append(kind, body, happened_at=now, recorded_at=now)

    def flush(self) -> None:
        """Record what waited."""
        now = self.clock()
        if not self.spool.is_file():
            return
        with self.spool.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process records them, or a kill is being written: the next entry takes it along
            data = file.read()
            recorded = {(entry.happened_at, canonical_json(entry.body)) for entry in self.ledger.entries(kind="kill")}
            torn = []
            for line in filter(None, data.split(b"\n")):
                try:
                    spooled = cast("dict[str, Json]", json.loads(line))
                    happened_at = datetime.fromisoformat(str(spooled["happened_at"]))
                    body = cast("dict[str, Json]", spooled["body"])
                except (ValueError, KeyError, TypeError):  # also bytes that are no UTF-8
                    torn.append(line)  # by a crash while it was written; kept for a person
                    continue
                if (happened_at, canonical_json(body)) not in recorded:
                    self.ledger.append("kill", body, happened_at=happened_at, recorded_at=now)
            if torn:
                with self.spool.with_suffix(".torn").open("ab") as kept:
                    kept.write(b"\n".join(torn) + b"\n")
            file.truncate(0)  # the file stays: who waits for its lock must not write into one that is gone


def keep_for_later(spool: Path, body: Mapping[str, object], happened_at: datetime) -> None:
    """A kill that no ledger can take now; it is recorded before the next entry.

    Raises
    ------
    OSError
        If it cannot be kept either.
    """
    spool.parent.mkdir(parents=True, exist_ok=True)
    text = canonical_json({"happened_at": happened_at, "body": body}).encode(errors="replace")
    with spool.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"\n" + text + b"\n")  # on a line of its own, also after one that a crash tore
        file.flush()
        os.fsync(file.fileno())

"""The append-only, hash-chained record of what was asked, decided and done.

Each entry's hash covers all of the entry and the hash before it, so an edit anywhere breaks the chain from there on. Who holds an earlier head (a flag's metadata, a notification) can also tell when the end was cut off or
the whole was written anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from sqlalchemy import func, insert, select

from expnb.errors import LedgerBrokenError, LedgerError
from expnb.ledger.address import check_address, open_store, store_behind
from expnb.ledger.checkpoint import read_checkpoint, write_checkpoint
from expnb.ledger.entry import (
    KINDS,
    SCHEMA,
    Entry,
    EntryKind,
    after,
    body_text,
    continued,
    entry_of,
    hash_entry,
    head_in,
    time_text,
)
from expnb.ledger.store import START, TABLE, Store, looking_up, newest_per_experiment

__all__ = ["KINDS", "SCHEMA", "Entry", "EntryKind", "Ledger", "Verification"]
_PAGE: Final = 2000  # entries that are checked at a time


@dataclass(frozen=True, slots=True)
class Verification:
    """A chain that holds: how long it is, and its last hash."""

    entries: int
    head: str

    def __str__(self) -> str:
        return f"{self.entries} entries, unbroken; head {self.head}"


class Ledger:
    """The ledger at an address; nothing is opened or made until it is used.

    Parameters
    ----------
    url : str
        ``"sqlite:///PATH"``; a relative path starts from the current folder, four slashes make it absolute.
    connection : str
        In place of `url`, for the ledger of a team: the name of an environment variable, or of an entry of the service ``expnb`` in the keyring, that holds a URL of SQLAlchemy, such as ``postgresql://user:password@host/database``. It is looked up at the first use, and never shown.

    Raises
    ------
    LedgerError
        If the address names no SQLite file, or both are given; at the first use, if nothing has the connection's name or it holds no URL of a ledger.
    """

    def __init__(self, url: str = "", *, connection: str = "") -> None:
        if url and connection:
            raise LedgerError("a ledger has a url or a connection, not both. Leave one of them out.")
        self._shown = f"connection={connection!r}" if connection else repr(url)
        self._open = partial(store_behind, connection) if connection else partial(open_store, check_address(url))

    def __repr__(self) -> str:
        return f"Ledger({self._shown})"

    @cached_property
    def _store(self) -> Store:
        return self._open()

    @property
    def path(self) -> Path:
        """The file of a ledger that is one.

        Raises
        ------
        LedgerError
            If it is on a server.
        """
        path = getattr(self._store, "path", None)
        if not isinstance(path, Path):
            raise LedgerError(f"{self._store.name} is on a server and has no file.")
        return path

    def append(
        self, kind: EntryKind, body: Mapping[str, object], *, happened_at: datetime, recorded_at: datetime
    ) -> Entry:
        """The new last entry, on disk when this returns.

        Raises
        ------
        LedgerError
            If the body holds a secret or has no JSON form, a time has no zone, or the database cannot be written. Nothing was recorded.
        LedgerBrokenError
            If the last entry is damaged: a chain is not continued from a break.
        """
        if kind not in KINDS:
            raise LedgerError(
                f"a ledger entry of kind {kind!r} is unknown; kinds are {', '.join(KINDS)}. Nothing was recorded."
            )
        text = body_text(body)
        times = time_text(happened_at), time_text(recorded_at)
        with self._store.appending() as connection:
            last = connection.execute(select(TABLE).order_by(TABLE.c.seq.desc()).limit(1)).first()
            seq, previous = after(last)
            entry_hash = hash_entry(seq, kind, SCHEMA, *times, text, previous)
            values = dict(zip(TABLE.c.keys(), (seq, kind, SCHEMA, *times, text, previous, entry_hash), strict=True))
            connection.execute(insert(TABLE).values(values))
        return Entry(
            seq,
            kind,
            SCHEMA,
            datetime.fromisoformat(times[0]),
            datetime.fromisoformat(times[1]),
            json.loads(text),
            previous,
            entry_hash,
        )

    def entries(
        self,
        *,
        kind: EntryKind | None = None,
        experiment: str | None = None,
        flag: str | None = None,
        environment: str | None = None,
        tail: int | None = None,
    ) -> list[Entry]:
        """Entries of a kind, an experiment, a flag, an environment, oldest first; each is checked against its own hash, and no others are read.

        Parameters
        ----------
        environment : str, optional
            Entries that name none hold in every environment, and are among them.
        tail : int, optional
            Only the last so many.

        Raises
        ------
        LedgerBrokenError
            If an entry is damaged.
        LedgerError
            If the database cannot be read.
        """
        asked = looking_up(self._store, kind=kind, experiment=experiment, flag=flag, environment=environment)
        query = select(TABLE).where(*asked).order_by(TABLE.c.seq.desc()).limit(tail)
        return [entry_of(row) for row in reversed(self._store.rows(query))]

    def last(
        self,
        *,
        kind: EntryKind | None = None,
        experiment: str | None = None,
        flag: str | None = None,
        environment: str | None = None,
    ) -> Entry | None:
        """The last of the `entries` that are asked for; None where there is none."""
        found = self.entries(kind=kind, experiment=experiment, flag=flag, environment=environment, tail=1)
        return found[0] if found else None

    def newest(self, kind: EntryKind) -> list[Entry]:
        """The last entry of a kind of each experiment, oldest first."""
        return [entry_of(row) for row in self._store.rows(newest_per_experiment(self._store, kind))]

    def head(self) -> str:
        """Hash of the last entry; 64 zeros while there is none."""
        newest = self.last()
        return newest.hash if newest else START

    def verify(self, *, against: str | Sequence[str] = ()) -> Verification:
        """Length and head of the chain, once every entry was checked.

        Parameters
        ----------
        against : str or sequence of str
            Heads that were handed out earlier, which must be in the chain: hashes, their first 12 digits or more, or text that names one, as a flag's metadata and a notification do. Without one, a cut end cannot be noticed.

        Raises
        ------
        LedgerBrokenError
            Names the first entry that does not hold, or says that the chain was cut or written anew.
        LedgerError
            If a text names no head.
        """
        heads = [head_in(text) for text in ([against] if isinstance(against, str) else against)]
        hashes = [START, *self._chain(0, START)]
        for head in heads:
            if not any(one.startswith(head) for one in hashes):
                raise LedgerBrokenError(
                    len(hashes) - 1,
                    f"is the last one, and the head {head[:12]}… that was handed out earlier is not in the chain: the ledger was truncated or rewritten since. "
                    "Keep the ledger as it is for inspection, restore a backup, and verify that.",
                )
        self._store.check_indexes()
        return Verification(len(hashes) - 1, hashes[-1])

    def verify_new(self, checkpoint: Path) -> Verification:
        """Length and head of the chain, once the entries since the last such check were checked: quick enough for every opening of a workspace.

        Entries that were checked before are not read again: that they are still as many, and end as they did, is. Each is checked anyway when it is read, and `verify` checks all.

        Parameters
        ----------
        checkpoint : Path
            File of this machine that keeps how far the last check came. It is a help, not a proof: who may write the ledger and this file can change both.

        Raises
        ------
        LedgerBrokenError
            Names the first entry that does not hold, or says that the chain is not the one that was checked before.
        """
        seq, head = read_checkpoint(checkpoint, repr(self))
        if seq and not (self._is_gapless(seq) and self._hash_of(seq) == head):
            raise LedgerBrokenError(
                seq,
                f"is not what it was when the ledger was last checked from here: the ledger was truncated or rewritten since. Keep it as it is for inspection, restore a backup, and run `expnb ledger verify`. If this is the restored backup, delete {str(checkpoint)!r}.",
            )
        hashes = [head, *self._chain(seq, head)]
        found = Verification(seq + len(hashes) - 1, hashes[-1])
        if found.entries > seq:
            write_checkpoint(checkpoint, repr(self), found.entries, found.head)
        return found

    def _is_gapless(self, least: int) -> bool:
        """Whether the last entry has the number of all, and they are at least so many."""
        counted = self._store.rows(select(func.count(), func.max(TABLE.c.seq)).select_from(TABLE))
        entries, last = tuple(counted[0]) if counted else (0, 0)
        return entries == last and int(str(entries)) >= least

    def _hash_of(self, seq: int) -> str:
        """Hash of an entry, checked; empty where there is none."""
        found = self._store.rows(select(TABLE).where(TABLE.c.seq == seq))
        return entry_of(found[0]).hash if found else ""

    def _chain(self, seq: int, head: str) -> Iterator[str]:
        """Hashes of the entries after one, each checked to continue the one before."""
        while True:
            # Entries are only added, so pages that are read one after the other fit. The first page starts before the first entry: nothing hides there.
            beyond = [TABLE.c.seq > seq] if seq else []
            rows = self._store.rows(select(TABLE).where(*beyond).order_by(TABLE.c.seq).limit(_PAGE))
            for row in rows:
                seq, head = seq + 1, continued(row, seq + 1, head)
                yield head
            if len(rows) < _PAGE:
                return

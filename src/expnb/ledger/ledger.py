"""The append-only, hash-chained record of what was asked, decided and done.

Each entry's hash covers all of the entry and the hash before it, so an edit anywhere breaks the chain from there on. Who holds an earlier head (a flag's metadata, a notification) can also tell when the end was cut off or
the whole was written anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, cast, get_args

from sqlalchemy import insert, select

from expnb.errors import ExpnbError, LedgerBrokenError, LedgerError
from expnb.ledger.store import START, TABLE, LedgerRow, appending, read_rows
from expnb.spec.canonical import Json, canonical_json, digest, to_json

EntryKind = Literal[
    "registered",
    "agreed",
    "look",
    "view",
    "decision",
    "request",
    "approval",
    "intent",
    "outcome",
    "kill",
    "restored",
    "forgotten",
]
KINDS: Final[tuple[str, ...]] = get_args(EntryKind)
SCHEMA: Final = 1  # of the entry; entries of older schemas are never rewritten
_SECRET: Final = re.compile(r"token|secret|password|api[_-]?key|credential", re.IGNORECASE)
_PREFIX: Final = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger.

    Parameters
    ----------
    kind : str
        One of `EntryKind`, or of a newer expnb that wrote it.
    happened_at, recorded_at : datetime
        When it took place and when it was written down, UTC.
    previous, hash : str
        SHA-256 of the entry before (64 zeros for the first) and of this one.
    """

    seq: int
    kind: str
    schema: int
    happened_at: datetime
    recorded_at: datetime
    body: Mapping[str, Json]
    previous: str
    hash: str


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

    Raises
    ------
    LedgerError
        If the address names no SQLite file.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(_PREFIX) or url == _PREFIX or url.startswith(f"{_PREFIX}:memory:"):
            # Only the scheme is shown: an address may carry a password.
            scheme = url.partition(":")[0]
            raise LedgerError(
                f"the ledger's address starts with {scheme!r} and names no file that lasts; known is sqlite:///PATH. Correct `url` under [ledger] in expnb.toml."
            )
        self.path = Path(url.removeprefix(_PREFIX))

    def __repr__(self) -> str:
        return f"Ledger({_PREFIX + str(self.path)!r})"

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
        text = _body_text(body)
        times = _time_text(happened_at), _time_text(recorded_at)
        with appending(self.path) as connection:
            last = connection.execute(select(TABLE).order_by(TABLE.c.seq.desc()).limit(1)).first()
            seq, previous = _after(last)
            entry_hash = _hash(seq, kind, SCHEMA, *times, json.loads(text), previous)
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
        self, *, kind: EntryKind | None = None, experiment: str | None = None, flag: str | None = None
    ) -> list[Entry]:
        """Entries of a kind, an experiment, a flag, oldest first; each is checked against its own hash.

        Raises
        ------
        LedgerBrokenError
            If an entry is damaged.
        LedgerError
            If the database cannot be read.
        """
        found = (_entry(row) for row in read_rows(self.path, kind=kind))
        return [entry for entry in found if _names(entry, "experiment", experiment) and _names(entry, "flag", flag)]

    def head(self) -> str:
        """Hash of the last entry; 64 zeros while there is none."""
        newest = read_rows(self.path, newest=True)
        return _entry(newest[0]).hash if newest else START

    def verify(self, *, against: str | None = None) -> Verification:
        """Length and head of the chain, once every entry was checked.

        Parameters
        ----------
        against : str, optional
            A head that was handed out earlier, which must be in the chain. Without it a cut end cannot be noticed.

        Raises
        ------
        LedgerBrokenError
            Names the first entry that does not hold, or says that the chain was cut or written anew.
        """
        hashes = _chain(read_rows(self.path))
        if against is not None and against not in hashes:
            raise LedgerBrokenError(
                len(hashes) - 1,
                f"is the last one, and the head {against[:12]}… that was handed out earlier is not in the chain: the ledger was truncated or rewritten since. "
                "Keep the file for inspection, restore a backup, and verify that.",
            )
        return Verification(len(hashes) - 1, hashes[-1])


def _chain(rows: Iterable[LedgerRow]) -> list[str]:
    """All hashes from the start on, each checked to continue the one before."""
    hashes = [START]
    for place, row in enumerate(rows, 1):
        if row.seq != place:
            raise LedgerBrokenError(
                place,
                f"is missing or has another number ({row.seq!r}): the chain does not go on from entry {place - 1}. Restore a backup and compare.",
            )
        entry = _entry(row)
        if entry.previous != hashes[-1]:
            raise LedgerBrokenError(
                place, "does not continue the entry before it: that one was replaced. Restore a backup and compare."
            )
        hashes.append(entry.hash)
    return hashes


def _entry(row: LedgerRow) -> Entry:
    """The row as an entry, if all its columns are what its hash covers."""
    try:
        body = json.loads(row.body)
        times = datetime.fromisoformat(row.happened_at), datetime.fromisoformat(row.recorded_at)
        # A change that parses to the same value, such as a blank in the JSON, is one too.
        as_written = canonical_json(body) == row.body and tuple(map(_time_text, times)) == (
            row.happened_at,
            row.recorded_at,
        )
        expected = _hash(row.seq, row.kind, row.schema, row.happened_at, row.recorded_at, body, row.previous)
    except (ValueError, TypeError, AttributeError, RecursionError, ExpnbError) as error:
        raise LedgerBrokenError(
            _place(row), f"cannot be read as it was written ({type(error).__name__}). Restore a backup and compare."
        ) from error
    if not as_written or expected != row.hash or not isinstance(body, dict):
        raise LedgerBrokenError(
            _place(row), "does not match its hash: it was changed after it was recorded. Restore a backup and compare."
        )
    return Entry(row.seq, row.kind, row.schema, *times, body, row.previous, row.hash)


def _place(row: LedgerRow) -> int:
    return row.seq if isinstance(row.seq, int) else 0


def _after(last: LedgerRow | None) -> tuple[int, str]:
    if last is None:
        return 1, START
    entry = _entry(last)
    return entry.seq + 1, entry.hash


def _hash(seq: int, kind: str, schema: int, happened_at: str, recorded_at: str, body: Json, previous: str) -> str:
    return digest((seq, kind, schema, happened_at, recorded_at, body, previous))


def _body_text(body: Mapping[str, object]) -> str:
    try:
        plain = to_json(body)
        _refuse_secrets(plain, "body")
        text = canonical_json(plain)
        text.encode()
    except LedgerError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise LedgerError(f"this cannot be recorded: {error} Nothing was recorded.") from error
    return text


def _refuse_secrets(value: Json, where: str) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            # A variant may be called "token_pricing": its weight, a number, is no secret.
            if _SECRET.search(key) and isinstance(part, str):
                raise LedgerError(
                    f"{where} has the key {key!r}, which looks like a secret; a ledger is read by many and never forgets. Leave it out. Nothing was recorded."
                )
            _refuse_secrets(part, f"{where}.{key}")
    elif isinstance(value, list):
        for part in value:
            _refuse_secrets(part, where)


def _time_text(time: datetime) -> str:
    if time.utcoffset() is None:
        raise LedgerError(
            f"the time {time.isoformat()} has no time zone; an audit needs one. Write datetime.now(UTC). Nothing was recorded."
        )
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _names(entry: Entry, key: str, name: str | None) -> bool:
    return name is None or cast("object", entry.body.get(key)) == name

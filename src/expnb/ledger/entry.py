"""One entry of the ledger: what its hash covers, and what it may hold."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from expnb.errors import LedgerBrokenError, LedgerError
from expnb.ledger.store import START, LedgerRow
from expnb.spec.canonical import Json, canonical_json, to_json

EntryKind = Literal[
    "registered",
    "agreed",
    "look",
    "view",
    "decision",
    "request",
    "approval",
    "declined",
    "comment",
    "vendor_request",
    "intent",
    "outcome",
    "kill",
    "reason",
    "restored",
    "forgotten",
]
KINDS: Final[tuple[str, ...]] = get_args(EntryKind)
SCHEMA: Final = 1  # of the entry; entries of older schemas are never rewritten
_SECRET: Final = re.compile(r"token|secret|password|api[_-]?key|credential", re.IGNORECASE)
_HEAD: Final = re.compile(r"head\W+([0-9a-f]{12,64})\b", re.IGNORECASE)
_HASH: Final = re.compile(r"[0-9a-f]{12,64}")
_PART: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False
).encode  # of one text or number, as `canonical_json` has it


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


def head_in(text: str) -> str:
    """The head that a text names: a hash or its beginning, a flag's metadata, a line of a notification.

    Raises
    ------
    LedgerError
        If it names none.
    """
    named = _HEAD.search(text)
    if named:
        return named[1].lower()
    plain = text.strip().lower()
    if not _HASH.fullmatch(plain):
        raise LedgerError(
            f"{text[:80]!r} names no head of a ledger. Give a hash of 64 hexadecimal digits or its first 12, or a text with `ledgerHead` or `ledger head` before it, as in a flag's metadata or a notification."
        )
    return plain


def continued(row: LedgerRow, place: int, head: str) -> str:
    """Hash of the row, if it is the entry of that number after that head."""
    if row.seq != place:
        raise LedgerBrokenError(
            place,
            f"is missing or has another number ({row.seq!r}): the chain does not go on from entry {place - 1}. Restore a backup and compare.",
        )
    check_row(row)
    if row.previous != head:
        raise LedgerBrokenError(
            place, "does not continue the entry before it: that one was replaced. Restore a backup and compare."
        )
    return str(row.hash)


def check_row(row: LedgerRow) -> None:
    """Raise `LedgerBrokenError` unless all columns are what the row's hash covers."""
    try:
        expected = hash_entry(row.seq, row.kind, row.schema, row.happened_at, row.recorded_at, row.body, row.previous)
    except (ValueError, TypeError) as error:
        raise LedgerBrokenError(
            _place(row), f"cannot be read as it was written ({type(error).__name__}). Restore a backup and compare."
        ) from error
    if expected != row.hash:
        raise LedgerBrokenError(
            _place(row), "does not match its hash: it was changed after it was recorded. Restore a backup and compare."
        )


def entry_of(row: LedgerRow) -> Entry:
    """The row as an entry, checked against its hash."""
    check_row(row)
    try:
        body = json.loads(row.body)
        times = datetime.fromisoformat(row.happened_at), datetime.fromisoformat(row.recorded_at)
    except (ValueError, TypeError, RecursionError) as error:  # no expnb wrote this
        raise LedgerBrokenError(
            _place(row), f"cannot be read ({type(error).__name__}). Restore a backup and compare."
        ) from error
    return Entry(row.seq, row.kind, row.schema, *times, body, row.previous, row.hash)


def _place(row: LedgerRow) -> int:
    return row.seq if isinstance(row.seq, int) else 0


def after(last: LedgerRow | None) -> tuple[int, str]:
    """Number and previous hash of the entry that comes after the last one."""
    if last is None:
        return 1, START
    entry = entry_of(last)
    return entry.seq + 1, entry.hash


def hash_entry(seq: int, kind: str, schema: int, happened_at: str, recorded_at: str, body: str, previous: str) -> str:
    """SHA-256 of the canonical JSON of an entry, whose body is canonical JSON already: 20,000 of them in half a second."""
    start = ",".join(map(_PART, (seq, kind, schema, happened_at, recorded_at)))
    return hashlib.sha256(f"[{start},{body},{_PART(previous)}]".encode()).hexdigest()


def body_text(body: Mapping[str, object]) -> str:
    """Canonical JSON of a body; `LedgerError` if it has none, or holds a secret."""
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


def time_text(time: datetime) -> str:
    """A time as an entry has it, in UTC; `LedgerError` if it has no time zone."""
    if time.utcoffset() is None:
        raise LedgerError(
            f"the time {time.isoformat()} has no time zone; an audit needs one. Write datetime.now(UTC). Nothing was recorded."
        )
    return time.astimezone(UTC).isoformat(timespec="microseconds")

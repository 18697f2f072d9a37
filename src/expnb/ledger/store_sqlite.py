"""A ledger in a SQLite file, and SQLite's complaints as sentences."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Executable, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from expnb.errors import LedgerError
from expnb.ledger.migrations.schema import VERSION_TABLE, bring_up_to_date, make_schema
from expnb.ledger.store import TABLE, LedgerRow

_BUSY_SECONDS: Final = 10.0
_READ_TRIES: Final = 20


class SqliteStore:
    """A ledger in a file; nothing is opened or made until it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"ledger {str(self.path)!r}"

    def names(self, key: str) -> str:
        """SQL for the text that the body of an entry has under `key`; none where it is damaged."""
        return f"(CASE WHEN typeof(body) = 'text' AND json_valid(body) THEN json_extract(body, '$.{key}') END)"

    def rows(self, query: Executable) -> list[LedgerRow]:
        """What a query of the table finds; none when there is no file or table yet. Creates nothing.

        Raises
        ------
        LedgerError
            If the database cannot be read.
        """
        if not self.path.exists():
            return []
        with _sentences(self.path):
            for _ in range(_READ_TRIES):
                found = _read(self.path, query)
                if found is not None:
                    return found
        raise LedgerError(
            f"{self.name} is written so often that it cannot be read without access to its folder. Try again, or ask for write permission there."
        )

    @contextmanager
    def appending(self) -> Iterator[Connection]:
        """A connection that alone may append until the block ends; creates folder, file and table when they are missing.

        Raises
        ------
        LedgerError
            If nothing can be appended. Nothing was.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"the folder of the {self.name} cannot be made ({error.strerror}). Nothing was recorded. Check the ledger's url in expnb.toml."
            ) from error
        with _sentences(self.path), _connected(self.path, "mode=rwc") as connection:
            _use_log(connection)
            # An intent must survive a loss of power before its push begins.
            connection.exec_driver_sql("PRAGMA synchronous = FULL")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            tables = _tables(connection)
            if tables:
                bring_up_to_date(connection, has_version=VERSION_TABLE in tables)
            else:
                make_schema(connection)
            yield connection
            connection.exec_driver_sql("COMMIT")

    def check_indexes(self) -> None:
        """Raise `LedgerError` if a look-up would not find what the table holds."""
        found = [str(row[0]) for row in self.rows(text("PRAGMA integrity_check(1)"))]
        if found not in ([], ["ok"]):
            raise LedgerError(f"{self.name} {_REASONS['SQLITE_CORRUPT']} SQLite says: {found[0]}.")


def _read(path: Path, query: Executable) -> list[LedgerRow] | None:
    # mode=rw although nothing is written: a read-only connection would leave the files of the write-ahead log behind.
    try:
        with _connected(path, "mode=rw") as connection:
            return _query(connection, query)
    except DBAPIError as error:
        if not _is_locked_away(error) or _has_log(path):
            raise
    # In a folder that may not be written, SQLite reads a closed database only as an immutable one, without locks: so check that nobody wrote it.
    before = _mark(path)
    with _connected(path, "mode=ro&immutable=1") as connection:
        found = _query(connection, query)
    return found if _mark(path) == before and not _has_log(path) else None


def _query(connection: Connection, query: Executable) -> list[LedgerRow]:
    connection.exec_driver_sql("PRAGMA query_only = ON")
    return list(connection.execute(query)) if _tables(connection) else []


@contextmanager
def _connected(path: Path, mode: str) -> Iterator[Connection]:
    with _engine(path.absolute(), mode).connect() as connection:
        yield connection


@cache  # holds no connection, but the statements that it compiled
def _engine(path: Path, mode: str) -> Engine:
    def connect() -> sqlite3.Connection:
        raw = sqlite3.connect(
            f"file:{quote(str(path))}?{mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        # A damaged text must reach the check of its hash instead of failing on the way.
        raw.text_factory = lambda data: data.decode(errors="surrogateescape")
        return raw

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _use_log(connection: Connection) -> None:
    """Switch to the write-ahead log; while others do the same, SQLite refuses without waiting."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except DBAPIError as error:
            if _name(error) != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _tables(connection: Connection) -> list[str]:
    """Names in the database; none where no ledger was begun.

    A database without it must be empty: a damaged name would else read as "no entries yet".
    """
    names = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
    if names and TABLE.name not in names:
        raise LedgerError(
            f"the ledger's database holds {names[0]!r} but no ledger: it belongs to something else, or is damaged. Nothing was recorded. Check the ledger's url in expnb.toml."
        )
    return list(names)


def _has_log(path: Path) -> bool:
    """Whether entries may stand in the write-ahead log, which an immutable read would miss."""
    try:
        return Path(f"{path}-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _mark(path: Path) -> tuple[int, int, int]:
    seen = path.stat()
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


def _name(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlite_errorname", ""))


def _is_locked_away(error: DBAPIError) -> bool:
    return _name(error).startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise LedgerError(f"ledger {str(path)!r} {_sentence(_name(error), path, error)}") from error
    except UnicodeDecodeError as error:  # SQLite quotes a damaged schema in its complaint
        raise LedgerError(f"ledger {str(path)!r} {_REASONS['SQLITE_CORRUPT']}") from error
    except OSError as error:
        raise LedgerError(
            f"ledger {str(path)!r} cannot be used ({error.strerror}). Check its url in expnb.toml and its permissions."
        ) from error


def _sentence(name: str, path: Path, error: DBAPIError) -> str:
    if path.is_dir():
        return "is a folder, not a database. Correct the ledger's url in expnb.toml."
    for start, sentence in _REASONS.items():
        if name.startswith(start):
            return sentence
    return f"cannot be used ({error.orig}). Nothing was recorded. Check that the path is a ledger of expnb."


_REASONS: Final = {
    "SQLITE_READONLY": "may only be read by this user. Nothing was recorded. Ask for write permission on the file and its folder.",
    "SQLITE_PERM": "may not be opened by this user. Ask for permission on the file and its folder.",
    "SQLITE_CANTOPEN": "cannot be opened. Nothing was recorded. Check the path and the permissions of the file and its folder.",
    "SQLITE_NOTADB": "is not a SQLite database, or its beginning is damaged. Nothing was changed. Check the ledger's url in expnb.toml, or restore a backup.",
    "SQLITE_CORRUPT": "is damaged as a database. Keep the file for inspection, restore a backup, and compare both with `verify`.",
    "SQLITE_FULL": "cannot grow: the disk is full. Nothing was recorded. Free some space, then try again.",
    "SQLITE_IOERR": "met a disk error. Nothing was recorded. Check free space and the disk, then try again.",
    "SQLITE_BUSY": f"is held by another program for over {_BUSY_SECONDS:g} s. Nothing was recorded. Find out what holds it, then try again.",
}

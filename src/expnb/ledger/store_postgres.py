"""A ledger on a PostgreSQL server, for a team; PostgreSQL's complaints as sentences, without address and password.

Every wait is limited twice: by the server, and by a clock of our own for the case that the server says nothing any more.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy import Connection, Engine, Executable, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from expnb.errors import LedgerError
from expnb.ledger.migrations.schema import VERSION_TABLE, bring_up_to_date, make_schema
from expnb.ledger.store import TABLE, LedgerRow

# The number is that of the trigger in the first step of the schema: who inserts without asking for it waits for it there.
_WRITER: Final = 7306091418205
_CONNECT_SECONDS: Final = 5
_LOCK_SECONDS: Final = 10.0
_STATEMENT_SECONDS: Final = 20.0
_SILENCE_SECONDS: Final = 30.0  # for all of a read or an append


class PostgresStore:
    """A ledger on a server; nothing is opened until it is used.

    Parameters
    ----------
    url : URL
        Never shown.
    shown : str
        What errors call the ledger, such as the name of the variable that holds the URL.
    """

    def __init__(self, url: URL, shown: str) -> None:
        self.name = f"the ledger of the connection {shown!r}"
        self._engine = _engine(url, self.name)

    def names(self, key: str) -> str:
        """SQL for the text that the body of an entry has under `key`."""
        return rf"(replace(body, '\u0000', '\u0020')::jsonb ->> '{key}')"

    def rows(self, query: Executable) -> list[LedgerRow]:
        """What a query of the table finds; none when there is no table yet. Creates nothing.

        Raises
        ------
        LedgerError
            If the server cannot be asked.
        """
        with self._connected() as connection:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            return list(connection.execute(query)) if TABLE.name in _tables(connection) else []

    @contextmanager
    def appending(self) -> Iterator[Connection]:
        """A connection that alone may append until the block ends; makes the ledger where there is none.

        Raises
        ------
        LedgerError
            If nothing can be appended. Nothing was, unless it says that this is not known.
        """
        with self._connected() as connection:
            # An intent must survive a loss of power before its push begins.
            connection.exec_driver_sql(
                "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
            )
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER})")
            tables = _tables(connection)
            if TABLE.name in tables:
                bring_up_to_date(connection, has_version=VERSION_TABLE in tables)
            else:
                make_schema(connection)
            yield connection
            self._commit(connection)

    def _commit(self, connection: Connection) -> None:
        try:
            connection.commit()
        except DBAPIError as error:
            if _state(error):  # the server said no
                raise
            raise LedgerError(
                f"{self.name} did not say whether the entry was kept: the connection broke off in that moment. It may be recorded. Look with `expnb ledger list --tail 3` before you try again."
            ) from None

    def check_indexes(self) -> None:
        """Nothing: the server keeps its indexes, and checks its pages itself."""

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with _sentences(self.name), self._engine.connect() as connection, _cut_off_after(connection, _SILENCE_SECONDS):
            limits = {"lock_timeout": _LOCK_SECONDS, "statement_timeout": _STATEMENT_SECONDS}
            limits["idle_in_transaction_session_timeout"] = _SILENCE_SECONDS  # our death must not hold up others
            asked = ", ".join(f"set_config('{name}', '{seconds:g}s', true)" for name, seconds in limits.items())
            connection.exec_driver_sql(f"SELECT {asked}")
            yield connection


def _engine(url: URL, name: str) -> Engine:
    try:
        return create_engine(
            url,
            poolclass=NullPool,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "expnb ledger"},
        )
    except ModuleNotFoundError:
        raise LedgerError(
            f"{name} needs the driver psycopg, which is not installed. Write: pip install 'expnb[postgres]'."
        ) from None


def _tables(connection: Connection) -> set[str]:
    """Which of the ledger's two tables are there."""
    names = (TABLE.name, VERSION_TABLE)
    found = connection.exec_driver_sql(
        f"SELECT {', '.join(f'to_regclass({name!r}) IS NOT NULL' for name in names)}"
    ).one()
    return {name for name, there in zip(names, found, strict=True) if there}


@contextmanager
def _cut_off_after(connection: Connection, seconds: float) -> Iterator[None]:
    """End the connection of a server that stopped answering: its own time limits stop with it."""
    line = socket.socket(fileno=os.dup(connection.connection.driver_connection.fileno()))  # type: ignore[union-attr]
    clock = threading.Timer(seconds, _cut, [line])
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()
        line.close()


def _cut(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


@contextmanager
def _sentences(name: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        # The original is left behind: a driver may quote the address.
        raise LedgerError(f"{name} {_sentence(error)}") from None


def _state(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _sentence(error: DBAPIError) -> str:
    state = _state(error)
    for start, sentence in _REASONS.items():
        if state.startswith(start):
            return sentence
    if not state:  # the server never spoke to us, or went away
        _, is_refusal, words = str(error.orig).partition("FATAL:")
        why = f"the server says: {words.strip().splitlines()[0]}" if is_refusal and words.strip() else "no answer"
        return (
            f"cannot be reached ({why}). Nothing was recorded. Check that the server is up, and the connection's value."
        )
    return f"cannot be used (PostgreSQL error {state}). Nothing was recorded. Ask who runs the server; its log has the details."


_REASONS: Final = {
    "28": "refuses this user or its password. Nothing was recorded. Correct the connection's value.",
    "3D000": "names a database that does not exist. Nothing was recorded. Correct the connection's value.",
    "3F000": "names a schema that does not exist. Nothing was recorded. Create it, or correct the connection's value.",
    "42501": "may not be used so by this user. Nothing was recorded. Ask its owner to `GRANT SELECT, INSERT ON ledger` and `GRANT SELECT ON ledger_version`; only the owner can bring its schema up to date.",
    "42P01": "has no table of entries. Nothing was recorded. Check the connection's value.",
    "42703": "has a table `ledger` that is none of expnb. Nothing was recorded. Name a database or a schema of its own.",
    "25006": "may only be read here: the server is a copy, or read-only. Nothing was recorded. Name the primary server.",
    "55P03": f"is held by another program for over {_LOCK_SECONDS:g} s. Nothing was recorded. Find out what holds it, then try again.",
    "57014": f"took longer than {_STATEMENT_SECONDS:g} s and was stopped. Nothing was recorded. Find out what keeps the server busy, then try again.",
    "57P": "is shutting down or starting. Nothing was recorded. Try again in a minute.",
    "53100": "cannot grow: the server's disk is full. Nothing was recorded. Free some space, then try again.",
    "53": "has no room for another connection. Nothing was recorded. Try again in a minute.",
    "P0001": "refuses an entry that does not continue its last one. Nothing was recorded. Run `expnb ledger verify`.",
}

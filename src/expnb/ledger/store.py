"""The one table of the ledger, and what a database has to do for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final, Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    literal_column,
    text,
)

START: Final = "0" * 64  # the hash before the first entry
TABLE: Final = Table(
    "ledger",
    MetaData(),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("schema", Integer, nullable=False),
    Column("happened_at", Text, nullable=False),
    Column("recorded_at", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)
LedgerRow = Row[tuple[object, ...]]


class Store(Protocol):
    """A database that holds a ledger."""

    @property
    def name(self) -> str:
        """What errors call it; no password is in it."""
        ...

    def names(self, key: str) -> str:
        """SQL for the text that the body of an entry has under `key`, as the indexes of the table have it."""
        ...

    def rows(self, query: Executable) -> list[LedgerRow]:
        """What a query of the table finds; nothing where there is no ledger yet. Creates nothing.

        Raises
        ------
        LedgerError
            If the database cannot be read.
        """
        ...

    def appending(self) -> AbstractContextManager[Connection]:
        """A connection that alone may append until the block ends; makes the ledger, or brings its schema up to date, when that is needed.

        Raises
        ------
        LedgerError
            If nothing can be appended. Nothing was.
        """
        ...

    def check_indexes(self) -> None:
        """Raise `LedgerError` if a look-up would not find what the table holds."""
        ...


def looking_up(
    store: Store,
    *,
    kind: str | None = None,
    experiment: str | None = None,
    flag: str | None = None,
    environment: str | None = None,
) -> list[ColumnElement[bool]]:
    """The conditions of a look-up; entries that name no environment hold in every one."""
    found = [] if kind is None else [TABLE.c.kind == kind]
    asked = {"experiment": experiment, "flag": flag}
    # A bound name, but the expression as it stands: only that one has an index.
    found += [_text(store, key) == name for key, name in asked.items() if name is not None]
    if environment is not None:
        found.append(_text(store, "environment").is_(None) | (_text(store, "environment") == environment))
    return found


def newest_per_experiment(store: Store, kind: str) -> Executable:
    """Query for the newest entry of a kind of each experiment, oldest first: from name to name through the index, whatever stands between."""
    name = store.names("experiment")
    query = f"""
    WITH RECURSIVE names(name) AS (
        SELECT min({name}) FROM ledger
        UNION ALL
        SELECT (SELECT min({name}) FROM ledger WHERE {name} > names.name) FROM names WHERE names.name IS NOT NULL
    )
    SELECT {", ".join(TABLE.c.keys())} FROM ledger
    WHERE seq IN (SELECT (SELECT max(seq) FROM ledger WHERE kind = :kind AND {name} = names.name) FROM names)
    ORDER BY seq"""  # noqa: S608 - names of ours; the kind is bound
    return text(_without_binds(query)).bindparams(kind=kind).columns(*TABLE.c)


def _without_binds(query: str) -> str:
    """SQL in which no colon but that of the kind asks for a value."""
    return query.replace("::", "\\:\\:")


def _text(store: Store, key: str) -> ColumnElement[str]:
    return literal_column(store.names(key), Text)

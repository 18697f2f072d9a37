"""An export into a table of the user's own warehouse: made when it is missing, and only ever added to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Engine,
    Float,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    insert,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeEngine

from expnb.errors import LedgerError
from expnb.ledger.address import url_behind
from expnb.ledger.export import COLUMNS, KEYS, What

if TYPE_CHECKING:
    import pandas as pd

_TYPES: Final[dict[str, TypeEngine[Any]]] = {
    "int64": BigInteger(),
    "Int64": BigInteger(),
    "float64": Float(53),
    "bool": Boolean(),
    "boolean": Boolean(),
    "str": Text(),
    "datetime64[us, UTC]": DateTime(timezone=True),
}
_KEY_SIGNS: Final = 255  # databases that index no text without an end want one
_CONNECT_SECONDS: Final = 5


def append_to_table(frame: pd.DataFrame, what: What, *, connection: str, table: str) -> int:
    """How many rows were added to a table of a warehouse, in one transaction; those that are there already are left alone.

    Parameters
    ----------
    frame : DataFrame
        Of `export_frame`.
    connection : str
        Name of an environment variable, or of an entry of the keyring, that holds a URL of SQLAlchemy; never shown.
    table : str
        ``"NAME"`` or ``"SCHEMA.NAME"``; made when it is missing.

    Raises
    ------
    LedgerError
        If the table holds an entry of another ledger, or the warehouse refuses. Nothing was added.
    """
    target = _table(what, table)
    try:
        with _engine(connection).begin() as open_connection:
            target.create(open_connection, checkfirst=True)
            known = dict(tuple(row) for row in open_connection.execute(select(target.c.seq, target.c.hash).distinct()))
            _check_same_ledger(frame, known, table)
            new = frame[~frame["seq"].isin(list(known))]
            if len(new):
                open_connection.execute(insert(target), _rows(new))
            return len(new)
    except SQLAlchemyError as error:
        # Without the original words, which may quote the address.
        reason = type(getattr(error, "orig", None) or error).__name__
        raise LedgerError(
            f"the warehouse of the connection {connection!r} did not take the export into {table!r} ({reason}). Nothing was added. Check that the server is up, that you may create or write the table, and that it has the columns of an export."
        ) from None


def _check_same_ledger(frame: pd.DataFrame, known: dict[int, str], table: str) -> None:
    for seq, found in zip(frame["seq"], frame["hash"], strict=True):
        if known.get(int(seq), found) != found:
            raise LedgerError(
                f"the table {table!r} holds the entry {seq} of another ledger, or of this one before it was rewritten: its hash is {known[int(seq)][:12]}…, here it is {found[:12]}…. Nothing was added. Name another table, and run `expnb ledger verify --against {known[int(seq)]}`."
            )


def _rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Rows with None for what is missing, and times and numbers of Python."""
    plain = frame.astype(object).where(frame.notna(), None)
    rows = plain.to_dict(orient="records")
    return [
        {str(name): getattr(value, "to_pydatetime", lambda value=value: value)() for name, value in row.items()}
        for row in rows
    ]


def _table(what: What, name: str) -> Table:
    schema, _, last = name.rpartition(".")
    keys = KEYS[what]
    columns = [
        Column(
            column,
            String(_KEY_SIGNS) if kind == "str" and column in keys else _TYPES[kind],
            primary_key=column in keys,
            autoincrement=False,
        )
        for column, kind in COLUMNS[what].items()
    ]
    return Table(last, MetaData(), *columns, schema=schema or None)


def _engine(connection: str) -> Engine:
    url = _url(connection)
    try:
        limits = {"connect_timeout": _CONNECT_SECONDS} if url.get_backend_name() == "postgresql" else {}
        return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=limits)
    except (ImportError, NoSuchModuleError):
        raise LedgerError(
            f"the connection {connection!r} needs a driver for {url.drivername!r} that is not installed. Install the one that its SQLAlchemy dialect names; for PostgreSQL: pip install 'expnb[postgres]'."
        ) from None


def _url(connection: str) -> URL:
    try:
        url = make_url(url_behind(connection, "the warehouse's connection"))
    except (ArgumentError, ValueError):
        raise LedgerError(
            f"the connection {connection!r} holds no URL of SQLAlchemy, such as postgresql://user:password@host/database. Correct its value."
        ) from None
    is_plain = url.drivername in {"postgres", "postgresql"}
    return url.set(drivername="postgresql+psycopg") if is_plain else url

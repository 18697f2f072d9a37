"""Where a ledger is: a file by its address, a server by the name of what holds its address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from expnb.errors import CredentialError, LedgerError
from expnb.flags.secret import Secret

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from expnb.ledger.store import Store

_PREFIX: Final = "sqlite:///"
_SERVERS: Final = ("postgres", "postgresql", "postgresql+psycopg")


def check_address(address: str) -> str:
    """The address, if it may be shown and names a file.

    Raises
    ------
    LedgerError
        If it names no SQLite file.
    """
    if not address.startswith(_PREFIX) or address == _PREFIX or address.startswith(f"{_PREFIX}:memory:"):
        # Only the scheme is shown: an address may carry a password.
        scheme = address.partition(":")[0]
        raise LedgerError(
            f'the ledger\'s address starts with {scheme!r} and names no file that lasts; known is sqlite:///PATH. Correct `url` under [ledger] in expnb.toml; for a server, put its URL into an environment variable and write its name: `connection = "NAME"`.'
        )
    return address


def open_store(address: str) -> Store:
    """The file at an address, as a ledger."""
    from expnb.ledger.store_sqlite import SqliteStore  # noqa: PLC0415 - one of two

    return SqliteStore(Path(address.removeprefix(_PREFIX)))


def store_behind(connection: str) -> Store:
    """The database whose URL a connection holds.

    Raises
    ------
    LedgerError
        If nothing has that name, or it holds no URL of SQLite or PostgreSQL.
    """
    url = url_behind(connection, "the ledger's connection")
    if url.startswith(_PREFIX):
        return open_store(check_address(url))
    from expnb.ledger.store_postgres import PostgresStore  # noqa: PLC0415 - one of two

    return PostgresStore(server_url(url, connection), connection)


def url_behind(connection: str, what: str) -> str:
    """The URL that a connection holds, by its name.

    Raises
    ------
    LedgerError
        If nothing has that name.
    """
    if "://" in connection:
        raise LedgerError(
            f"{what} is a URL, which may hold a password; it is the name of an environment variable, or of an entry in the keyring, that holds one. Move the URL there."
        )
    try:
        return Secret(connection).reveal()
    except CredentialError:
        # As an error of the ledger: whoever can do without one, such as `kill`, waits for that.
        raise LedgerError(
            f"{what} {connection!r} is neither in the environment nor in the keyring (service 'expnb'). Nothing was recorded. Set it: export {connection}=…, or `keyring set expnb {connection}`."
        ) from None


def server_url(url: str, connection: str) -> URL:
    """A URL of PostgreSQL, with the driver that expnb knows.

    Raises
    ------
    LedgerError
        If it is none.
    """
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - 0.3 s that a file's ledger needs too, but not this module
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        parts = None
    if parts is None or parts.drivername not in _SERVERS:
        raise LedgerError(
            f"the connection {connection!r} holds no address of a ledger; known are postgresql://user:password@host/database and sqlite:///PATH. Special signs of a password are written as %40 for @. Correct its value."
        )
    return parts.set(drivername="postgresql+psycopg")

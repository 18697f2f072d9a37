"""Connections: rows that stay in a warehouse."""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from expnb.cohorts.engine import (
    BACKENDS,
    NO_LIMIT,
    SECRET,
    Engine,
    first_line,
    holds_secret,
    mask,
    run,
    tune,
    unreadable,
)
from expnb.errors import ExpnbError, NameNotFoundError, PathNotFoundError, SourceError, nearest
from expnb.spec.experiment import Cost

if TYPE_CHECKING:
    import ibis.expr.types as ir

EXTRAS = {
    "postgres": "expnb[postgres]",
    "spark": "expnb[spark]",
}
CONNECT_SECONDS = 10
MOST_NAMES = 20

_connections: dict[tuple[str, str], Engine] = {}
_connecting = threading.Lock()


@dataclass(frozen=True, slots=True, repr=False)
class Warehouse:
    """A table or a query in a warehouse.

    Parameters
    ----------
    connection : str
        Name of an environment variable that holds a URL, or a URL; never shown with its credentials. Of DuckDB ``duckdb:///file.duckdb`` is relative to the working directory, and ``duckdb:////folder/file.duckdb`` absolute.
    table, sql : str
        What to read; one of the two.
    """

    connection: str
    table: str = ""
    sql: str = ""

    def __repr__(self) -> str:
        what = f"table={self.table!r}" if self.table else f"sql={self.sql!r}"
        return f"Warehouse({public(self.connection)!r}, {what})"


def public(connection: str) -> str:
    """A connection as it may be shown: the variable's name, or a URL without user, password and options."""
    if "://" not in connection:
        return connection if re.fullmatch(r"\w+", connection) else "***"
    scheme, _, rest = connection.partition("://")
    place = re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0]  # a password may hold both signs
    return f"{scheme}://{'***@' if '@' in rest else ''}{place}"


def open_warehouse(warehouse: Warehouse, *, timezone: str, cost: Cost = NO_LIMIT) -> tuple[ir.Table, Engine, str]:
    """The table of a warehouse, its engine, and its name for display.

    Raises
    ------
    SourceError
        If the variable is not set, the URL is of no known kind, an extra is missing, or the server refuses.
    NameNotFoundError
        If there is no such table; names the nearest one.
    """
    if bool(warehouse.table) == bool(warehouse.sql):
        raise SourceError("a connection needs table or sql, one of the two, to say what to read.")
    url = _url(warehouse.connection)
    engine = connect(url, timezone)
    kind = BACKENDS.get(engine.name, engine.name)
    if warehouse.sql:
        query = _single(warehouse.sql, engine)
        name = f"{kind} query"
        return run(engine, lambda: engine.sql(query), cost=cost, what=name), engine, name
    name = f"{kind} table {warehouse.table}"
    return run(engine, lambda: _table(cast("Any", engine), warehouse.table), cost=cost, what=name), engine, name


def connect(url: str, timezone: str) -> Engine:
    """The one connection of this process to a URL, whose session counts days in `timezone`.

    Raises
    ------
    SourceError, PathNotFoundError
        Without credentials in any of their words.
    """
    with _connecting:
        engine = _connections.get((url, timezone))
        if engine is None or getattr(getattr(engine, "con", None), "closed", False) is True:
            engine = _connections[url, timezone] = _connect(url, timezone)
            atexit.register(_close, engine)
        return engine


def _close(engine: Engine) -> None:
    """End a session with the process, so that the server need not find out."""
    if engine.name == "postgres":
        with suppress(Exception):
            cast("Any", engine).con.close()


def _url(connection: str) -> str:
    if "://" in connection:
        return connection
    if not re.fullmatch(r"\w+", connection):
        raise SourceError(
            "the connection (not shown, it may hold a password) is neither a URL nor the name of an environment variable. Put the URL into a variable, and write its name."
        )
    url = os.environ.get(connection, "")
    if "://" in url:
        return url
    example = "it is to hold the connection, such as postgresql://user:password@host/database"
    if url:
        raise SourceError(
            f"environment variable {connection!r} holds no URL (there is no :// in it); {example}. Correct its value where the kernel is started."
        )
    raise SourceError(
        f"environment variable {connection!r} is not set; {example}.{nearest(connection, os.environ)} Set it where the kernel is started."
    )


def _connect(url: str, timezone: str) -> Engine:
    parts = _split(url)
    secrets = _secrets(parts)
    opener: Callable[[str, SplitResult, str], Engine] = {
        "postgres": _postgres,
        "postgresql": _postgres,
        "spark": _spark,
        "spark-local": _spark,
        "duckdb": _duckdb,
    }.get(parts.scheme, _other)
    problem: Exception
    try:
        return opener(url, parts, timezone)
    except ExpnbError:
        raise
    except ImportError as error:
        raise _missing(parts.scheme) from (None if holds_secret(error, secrets) else error)
    except Exception as error:  # noqa: BLE001 - drivers have no common error
        problem = error
    where = public(url)
    raise SourceError(
        f"no connection to {where}: {mask(first_line(problem), secrets).rstrip('.')}. Check that the server runs, and the user, the password and the host of the connection."
    ) from (None if holds_secret(problem, secrets) else problem)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None:
        raise SourceError(
            f"the connection {public(url)} is no URL: host or port cannot be read. Write scheme://user:password@host:port/database, and quote signs in the password as %40."
        )
    return parts


def _secrets(parts: SplitResult) -> tuple[str, ...]:
    """What of a URL may never be shown."""
    options = [value for name, value in parse_qsl(parts.query) if SECRET.search(name)]
    password = parts.password or ""
    return tuple(filter(None, (password, unquote(password), *options)))


def _missing(scheme: str) -> SourceError:
    scheme = {"postgresql": "postgres", "spark-local": "spark"}.get(scheme, scheme)
    extra = EXTRAS.get(scheme, f"ibis-framework[{scheme}]")
    return SourceError(f"the driver for {scheme}:// is not installed. Install it: pip install '{extra}'.")


def _postgres(url: str, parts: SplitResult, timezone: str) -> Engine:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    waiting = {} if "connect_timeout" in parts.query else {"connect_timeout": CONNECT_SECONDS}
    engine = ibis.connect(url, **waiting)
    engine.con.execute("SELECT set_config('TimeZone', %s, false)", (timezone,))
    return cast("Engine", engine)


def _spark(url: str, parts: SplitResult, timezone: str) -> Engine:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed
    from pyspark.sql import SparkSession  # noqa: PLC0415 - starts a JVM, only for Spark

    master = f"local[{parts.netloc or '*'}]" if parts.scheme == "spark-local" else f"spark://{parts.netloc}"
    builder = SparkSession.builder.master(master).appName("expnb").config("spark.ui.showConsoleProgress", "false")
    for name, value in parse_qsl(parts.query):
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    running = session.sparkContext.master
    if running != master:
        raise SourceError(
            f"this process already runs Spark on {running}, and the connection names {public(url)}; a process has one Spark. Restart the kernel to change it."
        )
    if any(
        known.name == "pyspark" for known in _connections.values()
    ):  # another zone: the same Spark, a session of its own
        session = session.newSession()
    engine = ibis.pyspark.connect(session)
    session.conf.set("spark.sql.session.timeZone", timezone)
    return cast("Engine", engine)


def _duckdb(_url: str, parts: SplitResult, timezone: str) -> Engine:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    engine = ibis.duckdb.connect(_duckdb_file(parts), read_only=True)
    tune(engine, timezone)
    return cast("Engine", engine)


def _duckdb_file(parts: SplitResult) -> Path:
    """The file of a URL: three slashes and a path are relative and four absolute, as in SQLAlchemy; else two and a path of either kind, as in Ibis."""
    places = [Path(unquote(parts.netloc + parts.path)).absolute()]
    if not parts.netloc:
        places.insert(0, Path(unquote(parts.path[1:])).absolute())
    for file in places:
        if file.is_file():
            return file
    file = next((file for file in places if file.parent.is_dir()), places[0])
    siblings = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
    raise PathNotFoundError(str(file), "DuckDB file", siblings)


def _other(url: str, parts: SplitResult, timezone: str) -> Engine:  # noqa: ARG001 - their sessions count days in UTC
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    if parts.scheme not in _schemes():
        known = sorted({*_schemes(), "spark", "spark-local"})
        raise SourceError(
            f"the connection starts with {parts.scheme}://; known are {', '.join(known)}.{nearest(parts.scheme, known)} Correct the URL."
        )
    return cast("Engine", ibis.connect(url))


def _schemes() -> set[str]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - only where a name is unknown

    return {point.name for point in entry_points(group="ibis.backends")} - {"pyspark"}


def _single(sql: str, engine: Engine) -> str:
    """A query, if it is one and only reads."""
    import sqlglot  # noqa: PLC0415 - 0.2 s, only when SQL is read
    import sqlglot.expressions as sge  # noqa: PLC0415

    try:
        statements = [statement for statement in sqlglot.parse(sql, dialect=engine.dialect) if statement is not None]
    except sqlglot.errors.SqlglotError as error:
        raise SourceError(
            f"the query cannot be read: {re.sub(chr(27) + r'.[0-9]*m', '', first_line(error)).rstrip('.')}. Write one SELECT."
        ) from None
    if len(statements) != 1 or not isinstance(statements[0], sge.Query):
        found = f"{len(statements)} statements" if len(statements) != 1 else statements[0].key.upper()
        raise SourceError(f"sql is {found}; a cohort is read by one SELECT. Remove what does not read.")
    return sql.strip().rstrip(";")


def _table(engine: Any, name: str) -> ir.Table:  # noqa: ANN401 - an Ibis backend
    """A table by its name, by `schema.name` or by `catalog.schema.name`."""
    *where, last = name.split(".")
    failure: Exception
    try:
        return engine.table(name)
    except Exception as error:  # noqa: BLE001 - each backend has its own way to say so
        failure = error
    place: Any = (tuple(where) if len(where) > 1 else where[0]) if where else None
    if where:
        try:
            return engine.table(last, database=place)
        except Exception as error:  # noqa: BLE001
            failure = error
    try:
        tables = [str(table) for table in engine.list_tables(database=place)]
    except Exception:  # noqa: BLE001 - a schema that does not exist
        tables = []
    if last in tables:
        raise unreadable(failure, engine)
    known = get_close_matches(last, tables, n=1) or sorted(tables)[:MOST_NAMES]
    raise NameNotFoundError("table", name, [".".join([*where, table]) for table in known])

"""Anything that holds rows, as an Ibis table; no row is read here."""

from __future__ import annotations

from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from expnb.errors import PathNotFoundError, SourceError

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa


class Engine(Protocol):
    """What runs a query: an Ibis backend."""

    def to_pyarrow(self, expr: ir.Expr) -> pa.Table:
        """The result of a query."""


READERS = {".parquet": "read_parquet", ".pq": "read_parquet", ".csv": "read_csv", ".gz": "read_csv", ".tsv": "read_csv"}


def bind(source: object, *, timezone: str) -> tuple[ir.Table, Engine, str]:
    """The table of a source, the engine that runs queries on it, and its name for display.

    Parameters
    ----------
    source : str, Path, pandas or Polars frame, Arrow table, DuckDB relation, or Ibis table
        A path may hold wildcards; parquet and CSV are known.
    timezone : str
        In which times with a zone become days.

    Raises
    ------
    PathNotFoundError
        If a path matches no file.
    SourceError
        If the source is of another kind.
    """
    if isinstance(source, str | Path):
        return _bind_path(str(source), timezone)
    import ibis.expr.types as ir  # noqa: PLC0415 - 0.8 s, only when rows are needed

    if isinstance(source, ir.Table):
        return source, cast("Engine", source.get_backend()), f"Ibis table {_table_name(source)}"
    return _bind_frame(source, timezone)


@cache
def duckdb_engine(timezone: str) -> object:
    """The one DuckDB connection of this process for a time zone."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    engine = ibis.duckdb.connect()
    # Times with a zone become days in the session's zone; parquet statistics exclude NaN and would prune rows wrongly.
    engine.raw_sql(f"SET TimeZone = '{timezone}'")
    engine.raw_sql("SET disabled_optimizers = 'statistics_propagation,filter_pushdown'")
    return engine


def ask(engine: Engine, expr: ir.Expr) -> pa.Table:
    """The result of a query.

    Raises
    ------
    SourceError
        If the engine cannot read the data; the message holds its own words.
    """
    import duckdb  # noqa: PLC0415 - 0.2 s, only when rows are needed
    from ibis.common.exceptions import IbisError  # noqa: PLC0415

    try:
        return engine.to_pyarrow(expr)
    except (duckdb.Error, IbisError) as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> SourceError:
    """The first line of an engine's complaint, as a sentence of ours."""
    return SourceError(f"the data cannot be read: {str(error).strip().splitlines()[0]} Check the file or the query.")


def _bind_path(path: str, timezone: str) -> tuple[ir.Table, Engine, str]:
    files = sorted(glob(path)) if has_magic(path) else [path]  # noqa: PTH207 - a pattern, not a folder
    if not files or not Path(files[0]).is_file():
        folder = Path(path).parent
        siblings = [other.name for other in folder.iterdir()] if folder.is_dir() else []
        raise PathNotFoundError(path, "cohort file", siblings)
    reader = READERS.get(Path(files[0]).suffix)
    if reader is None:
        raise SourceError(
            f"cohort file {path!r} ends in {Path(files[0]).suffix!r}; known are {', '.join(READERS)}. Convert it to parquet, or pass a frame."
        )
    import duckdb  # noqa: PLC0415 - 0.2 s, only when rows are needed

    engine = duckdb_engine(timezone)
    try:
        return getattr(engine, reader)(files), cast("Engine", engine), Path(path).name
    except duckdb.Error as error:
        raise unreadable(error) from error


def _bind_frame(source: object, timezone: str) -> tuple[ir.Table, Engine, str]:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"
    if kind == "pandas.DataFrame":
        source = _arrow(source)
    elif hasattr(source, "to_arrow_table"):  # a DuckDB relation belongs to another connection
        source = source.to_arrow_table()
    elif hasattr(source, "collect_schema") and hasattr(source, "collect"):  # a Polars lazy frame
        source = source.collect()
    if not hasattr(source, "__arrow_c_stream__"):
        raise SourceError(
            f"a cohort cannot be made from a {kind}; pass a parquet or CSV path, a pandas, Polars or Arrow frame, a DuckDB relation or an Ibis table."
        )
    return ibis.memtable(source), cast("Engine", duckdb_engine(timezone)), f"{kind} in memory"


def _arrow(frame: object) -> pa.Table:
    """A pandas frame as Arrow; its NaN become NULL."""
    import pyarrow as pa  # noqa: PLC0415 - 0.3 s, only when rows are needed

    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        raise SourceError(
            f"the frame has a column that has no type of its own: {error}. Give each column one name and one type."
        ) from error


def _table_name(table: ir.Table) -> str:
    try:
        return str(table.get_name())
    except Exception:  # noqa: BLE001 - an expression has no name, and Ibis has no common error for that
        return "expression"

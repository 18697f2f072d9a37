"""Anything that holds rows, as an Ibis table; no row is read here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, cast

from expnb.cohorts.engine import NO_LIMIT, Engine, unreadable
from expnb.errors import PathNotFoundError, SourceError
from expnb.spec.experiment import Cost

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa


READERS = {".parquet": "read_parquet", ".pq": "read_parquet", ".csv": "read_csv", ".gz": "read_csv", ".tsv": "read_csv"}


@dataclass(frozen=True, slots=True)
class Source:
    """Rows, as a table that is not read yet.

    Parameters
    ----------
    table : ibis Table
    engine : Engine
        Runs queries on the table.
    name : str
        For display; holds no credentials.
    files : tuple of str
        The files of a path or glob; empty for anything else.
    """

    table: ir.Table
    engine: Engine
    name: str
    files: tuple[str, ...] = ()


def bind(source: object, *, timezone: str, cost: Cost = NO_LIMIT) -> Source:
    """The table of a source, and the engine that runs queries on it.

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
        return Source(source, cast("Engine", source.get_backend()), f"Ibis table {_table_name(source)}")
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


def _bind_path(path: str, timezone: str) -> Source:
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
        return Source(getattr(engine, reader)(files), cast("Engine", engine), Path(path).name, tuple(files))
    except duckdb.Error as error:
        raise unreadable(error) from error


def _bind_frame(source: object, timezone: str) -> Source:
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
    return Source(ibis.memtable(source), cast("Engine", duckdb_engine(timezone)), f"{kind} in memory")


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

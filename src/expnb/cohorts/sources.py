"""Anything that holds rows, as an Ibis table; no row is read here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from expnb.cohorts.engine import NO_LIMIT, Engine, ask, run, shortened, tune, unreadable
from expnb.cohorts.warehouse import Warehouse, open_warehouse
from expnb.errors import ColumnValueError, PathNotFoundError, SourceError, TooManyRowsError
from expnb.spec.experiment import Cost

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

READERS = {".parquet": "read_parquet", ".pq": "read_parquet", ".csv": "read_csv", ".gz": "read_csv", ".tsv": "read_csv"}
LARGE_ROWS = 50_000_000
READS_PARTITIONS = """
WITH RECURSIVE reads(oid) AS (
    SELECT to_regclass(%s)::oid
    UNION
    SELECT d.refobjid FROM reads
    JOIN pg_rewrite r ON r.ev_class = reads.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
)
SELECT bool_or(relkind = 'p') FROM reads JOIN pg_class USING (oid)
"""


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
    zone : str
        In which the session turns times with a zone into days; empty where nobody knows.
    """

    table: ir.Table
    engine: Engine
    name: str
    files: tuple[str, ...] = ()
    zone: str = ""


def bind(source: object, *, timezone: str, cost: Cost = NO_LIMIT) -> Source:
    """The table of a source, and the engine that runs queries on it.

    Parameters
    ----------
    source : str, Path, Warehouse, pandas or Polars frame, Arrow table, DuckDB relation, or Ibis table
        A path may hold wildcards; parquet and CSV are known.
    timezone : str
        In which times with a zone become days.
    cost : Cost
        A table with more than `max_rows` rows is refused; one in partitions is looked at by `check_size` once it has a filter.

    Raises
    ------
    PathNotFoundError
        If a path matches no file.
    NameNotFoundError
        If a connection has no such table.
    TooManyRowsError
        If the source has more rows than `cost` allows.
    SourceError
        If the source is of another kind, or its engine does not answer.
    """
    found = _bind(source, timezone, cost)
    if not is_partitioned(found):
        check_size(found, cost)
    return found


def check_size(source: Source, cost: Cost) -> None:
    """Refuse a source with more rows than allowed, and say before a long wait that it is long.

    Raises
    ------
    TooManyRowsError
        Before a row is read.
    """
    rows = estimate(source)
    if cost.max_rows is not None:
        if rows is None:
            rows = int(ask(source.engine, source.table.count(), cost=cost, what=source.name).as_py())
        if rows > cost.max_rows:
            raise TooManyRowsError(source.name, rows, cost.max_rows)
    if rows is not None and rows > LARGE_ROWS:
        sys.stderr.write(
            f"{source.name} has about {rows:,} rows; one pass over them may take a while, and stopping the cell stops it.\n"
        )


def estimate(source: Source) -> int | None:
    """About how many rows a source has, if that is known without reading them."""
    if source.files and all(READERS.get(Path(file).suffix) == "read_parquet" for file in source.files):
        import pyarrow.parquet as pq  # noqa: PLC0415 - 0.3 s, only when rows are needed

        return sum(int(pq.read_metadata(file).num_rows) for file in source.files)
    if source.engine.name == "postgres":
        return run(source.engine, lambda: _planned_rows(source), what=source.name)
    return None


def is_partitioned(source: Source) -> bool:
    """Whether a source is a table in partitions, or a query that reads one, which is not to be read without naming days."""
    if source.files or source.engine.name not in {"postgres", "pyspark"}:
        return False
    tables = _tables_of(source)
    has_partitions = _postgres_partitions if source.engine.name == "postgres" else _spark_partitions
    return run(source.engine, lambda: any(has_partitions(source.engine, table) for table in tables), what=source.name)


def _tables_of(source: Source) -> list[str]:
    """Names of the tables that a source reads, as they stand in SQL: its own, and those in the text of queries."""
    import ibis.expr.operations as ops  # noqa: PLC0415 - 0.8 s, only when rows are needed
    import sqlglot  # noqa: PLC0415 - 0.2 s, only when SQL is read
    import sqlglot.expressions as sge  # noqa: PLC0415

    dialect, op = source.engine.dialect, source.table.op()
    found = []
    for known in op.find(ops.DatabaseTable):
        place = known.namespace
        parts = (place.catalog if source.engine.name == "pyspark" else None, place.database, known.name)
        found.append([sge.to_identifier(part, quoted=True) for part in parts if part])
    for text in op.find((ops.SQLQueryResult, ops.SQLStringView)):
        tree = sqlglot.parse_one(text.query, dialect=dialect)
        own = {part.alias for part in tree.find_all(sge.CTE)}
        tables = [one for one in tree.find_all(sge.Table) if one.db or one.name not in own]
        found += [one.parts for one in tables if isinstance(one.this, sge.Identifier)]
    return list(dict.fromkeys(".".join(part.sql(dialect=dialect) for part in parts) for parts in found))


@cache
def duckdb_engine(timezone: str) -> Engine:
    """The one DuckDB connection of this process for a time zone."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    engine = cast("Engine", ibis.duckdb.connect())
    tune(engine, timezone)
    return engine


def _bind(source: object, timezone: str, cost: Cost) -> Source:
    if isinstance(source, str | Path):
        return _bind_path(str(source), timezone)
    if isinstance(source, Warehouse):
        table, engine, name = open_warehouse(source, timezone=timezone, cost=cost)
        return Source(table, engine, name, zone=_zone_of(engine, timezone, ours=engine.name in {"duckdb", "postgres"}))
    import ibis.expr.types as ir  # noqa: PLC0415 - 0.8 s, only when rows are needed

    if isinstance(source, ir.Table):
        engine = _engine_of(source, timezone)
        zone = _zone_of(engine, timezone, ours=engine is duckdb_engine(timezone))
        return Source(source, engine, f"Ibis table {_table_name(source)}", zone=zone)
    return _bind_frame(source, timezone)


def _engine_of(table: ir.Table, timezone: str) -> Engine:
    """The engine of an Ibis table; a frame in memory has ours."""
    import ibis.expr.operations as ops  # noqa: PLC0415
    from ibis.common.exceptions import IbisError  # noqa: PLC0415

    if not table.op().find((ops.DatabaseTable, ops.SQLQueryResult, ops.UnboundTable)):
        return duckdb_engine(timezone)
    try:
        return cast("Engine", table.get_backend())
    except IbisError as error:
        raise unreadable(error) from error


def _zone_of(engine: Engine, timezone: str, *, ours: bool) -> str:
    """In which zone a session counts days, where that is known; one of Spark belongs to more than us, and is asked."""
    if engine.name == "pyspark":
        return str(cast("Any", engine)._session.conf.get("spark.sql.session.timeZone"))  # noqa: SLF001 - Ibis has no other way to it
    return timezone if ours else ""


def _planned_rows(source: Source) -> int:
    engine = cast("Any", source.engine)
    plan = engine.con.execute(f"EXPLAIN (FORMAT JSON) {engine.compile(source.table)}").fetchone()[0]
    return int(plan[0]["Plan"]["Plan Rows"])


def _postgres_partitions(engine: Any, table: str) -> bool:  # noqa: ANN401 - an Ibis backend
    """Whether a table, or one that a view reads, is in partitions."""
    return bool(engine.con.execute(READS_PARTITIONS, (table,)).fetchone()[0])


def _spark_partitions(engine: Any, table: str) -> bool:  # noqa: ANN401 - an Ibis backend
    catalog = engine._session.catalog  # noqa: SLF001 - Ibis has no other way to it
    try:
        return any(column.isPartition for column in catalog.listColumns(table))
    except Exception:  # noqa: BLE001 - a file named in a query is no table of the catalogue
        return False


def files_of(path: str | Path) -> tuple[str, ...]:
    """The files that a path or pattern names, in order.

    Raises
    ------
    PathNotFoundError, SourceError
        If there is none, or if it is a folder.
    """
    text = str(path)
    files = sorted(glob(text)) if has_magic(text) else [text]  # noqa: PTH207 - a pattern, not a folder
    if folders := [file for file in files if Path(file).is_dir()]:
        raise SourceError(
            f"{folders[0]!r} is a folder, and a cohort is read from files. Write {_pattern_in(Path(folders[0]))!r}."
        )
    if not files or not Path(files[0]).is_file():
        folder = Path(text).parent
        siblings = [other.name for other in folder.iterdir()] if folder.is_dir() else []
        raise PathNotFoundError(text, "cohort file", siblings)
    return tuple(files)


def _pattern_in(folder: Path) -> str:
    """The pattern of the files in a folder, or of those one level below it."""
    for pattern in ("*", "*/*"):
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and file.suffix in READERS:
                return f"{folder / pattern}{file.suffix}"
    return str(folder / "*.parquet")


def _bind_path(path: str, timezone: str) -> Source:
    files = files_of(path)
    reader = READERS.get(Path(files[0]).suffix)
    if reader is None:
        raise SourceError(
            f"cohort file {path!r} ends in {Path(files[0]).suffix!r}; known are {', '.join(READERS)}. Convert it to parquet, or pass a frame."
        )
    if len(readers := {READERS.get(Path(file).suffix) for file in files}) > 1:
        endings = " and ".join(sorted({Path(file).suffix for file in files}))
        raise SourceError(
            f"{path!r} matches {len(readers)} kinds of files, {endings}. Write a pattern that ends in one."
        )
    engine = duckdb_engine(timezone)
    table = run(engine, lambda: getattr(engine, reader)(list(files)), what=Path(path).name)
    clocks = [
        name for name, kind in table.schema().items() if kind.is_timestamp() and not getattr(kind, "timezone", "")
    ]
    if reader == "read_csv" and clocks:  # only the first rows were looked at: a zone in a later one would be dropped
        types = dict.fromkeys(clocks, "TIMESTAMPTZ")
        table = run(engine, lambda: cast("Any", engine).read_csv(list(files), types=types), what=Path(path).name)
    return Source(table, engine, Path(path).name, files, timezone)


def _bind_frame(source: object, timezone: str) -> Source:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"
    if kind == "pandas.DataFrame":
        source = _arrow(source)
    elif hasattr(source, "to_arrow_table"):  # a DuckDB relation belongs to another connection
        source = source.to_arrow_table()
    elif hasattr(source, "collect_schema") and hasattr(source, "collect"):  # a Polars lazy frame
        source = source.collect()
    if kind == "polars.DataFrame":
        objects = [name for name, dtype in cast("Any", source).schema.items() if str(dtype) == "Object"]
        if objects:
            raise SourceError(f"column {objects[0]!r} holds Python objects. Make them texts, times or numbers.")
    if not hasattr(source, "__arrow_c_stream__"):
        raise SourceError(
            f"a cohort cannot be made from a {kind}; pass a parquet or CSV path, a pandas, Polars or Arrow frame, a DuckDB relation or an Ibis table."
        )
    return Source(ibis.memtable(source), duckdb_engine(timezone), f"{kind} in memory", zone=timezone)


def _arrow(frame: object) -> pa.Table:
    """A pandas frame as Arrow; its NaN become NULL."""
    import pyarrow as pa  # noqa: PLC0415 - 0.3 s, only when rows are needed

    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        known = _untyped(frame)
        if known is not None:
            raise known from None
        raise SourceError(f"the frame cannot be read: {error}. Give each column one name and one type.") from error
    for field in table.schema:
        values = cast("Any", frame)[field.name]
        if pa.types.is_timestamp(field.type) and values.dtype == object:  # Arrow takes those without a zone for UTC
            zones = {value.tzinfo is None for value in values.dropna() if isinstance(value, datetime)}
            if len(zones) > 1:
                raise SourceError(
                    f"column {field.name!r} holds times with a time zone and times without one; nobody can tell which clock those show. Give all of them a zone where the data is made."
                )
    return table


def _untyped(frame: Any) -> SourceError | None:  # noqa: ANN401 - a pandas frame; pandas is not imported for a hint
    """What keeps a pandas frame from having a type per column; None where nobody knows."""
    import pyarrow as pa  # noqa: PLC0415 - 0.3 s, only when rows are needed

    twice = list(frame.columns[frame.columns.duplicated()])
    if twice:
        return SourceError(f"the frame has more than one column {twice[0]!r}. Give each column a name of its own.")
    for name in frame.columns:
        try:
            pa.array(frame[name], from_pandas=True)
        except (pa.ArrowException, ValueError, OverflowError, TypeError):
            values = frame[name].dropna()
            kinds = values.map(lambda value: type(value).__name__)
            often = list(kinds.value_counts().index)
            if len(often) == 1:
                return SourceError(
                    f"column {name!r} holds values of type {often[0]} that no column can hold. Make them texts, times, or numbers of at most 64 bits."
                )
            odd = shortened(str(values[kinds == often[-1]].iloc[0]))
            problem = f" ({often[-1]}) among values of type {often[0]}. Give the column one type: leave empty what does not belong, or make all of it text."
            return ColumnValueError(str(name), odd, problem)
    return None


def _table_name(table: ir.Table) -> str:
    try:
        return str(table.get_name())
    except Exception:  # noqa: BLE001 - an expression has no name, and Ibis has no common error for that
        return "expression"

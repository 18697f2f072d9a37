"""What runs queries, and how one is asked: it can be watched, stopped and named."""

from __future__ import annotations

import contextvars
import itertools
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from expnb.errors import ColumnValueError, ExpnbError, QueryTooLongError, SourceError
from expnb.spec.experiment import Cost

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

T = TypeVar("T")

NO_LIMIT = Cost()
BAR_AFTER_SECONDS = 2.0
LOOK_EVERY_SECONDS = 0.2
STOP_WITHIN_SECONDS = 10.0
MOST_MEMORY_MB = 512
BACKENDS = {"duckdb": "DuckDB", "postgres": "PostgreSQL", "pyspark": "Spark", "bigquery": "BigQuery"}
SECRET = re.compile(r"pass|secret|token|credential|api_?key|private", re.IGNORECASE)
IN_A_URL = re.compile(r"(\w+://)[^/\s]*@")
IN_A_TEXT = re.compile(r"((?:password|passwd|pwd|secret|token)\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s&;,]+)", re.IGNORECASE)

_turns: dict[int, threading.Lock] = {}
_tuned: set[int] = set()
_numbers = itertools.count(1)


class Engine(Protocol):
    """What runs a query: an Ibis backend."""

    name: str

    @property
    def dialect(self) -> Any:  # noqa: ANN401 - a class of sqlglot, which is not imported for a hint
        """How its SQL is written."""

    def to_pyarrow(self, expr: ir.Expr) -> pa.Table:
        """The result of a query."""

    def compile(self, expr: ir.Expr) -> str:
        """The SQL of a query."""

    def sql(self, query: str) -> ir.Table:
        """The table that a query makes."""

    def has_operation(self, operation: type) -> bool:
        """Whether an operation of Ibis can be written in its SQL."""


def ask(engine: Engine, expr: ir.Expr, *, cost: Cost = NO_LIMIT, what: str = "") -> pa.Table:
    """The result of a query, which the user can watch and stop.

    Parameters
    ----------
    engine : Engine
    expr : ibis expression
    cost : Cost
        How long it may run, and under which name the warehouse shows it.
    what : str
        What is read, for the progress bar and for errors.

    Raises
    ------
    QueryTooLongError
        If it ran longer than `cost.max_seconds`; it was stopped.
    SourceError
        If the engine cannot read the data, or lacks an operation; the message holds its own words, without credentials.
    KeyboardInterrupt
        If the cell was stopped; so was the query.
    """
    read = _read_spark if engine.name == "pyspark" else _read
    return run(engine, lambda: read(engine, expr), cost=cost, what=what, read_only=not _holds_frame(expr))


def run(engine: Engine, work: Callable[[], T], *, cost: Cost = NO_LIMIT, what: str = "", read_only: bool = False) -> T:
    """What `work` returns; it uses the engine's connection, which nothing else does meanwhile.

    With `read_only`, PostgreSQL refuses a query that would write.

    Raises
    ------
    QueryTooLongError, SourceError, KeyboardInterrupt
        As `ask` does.
    """
    begin, group = time.monotonic(), f"{cost.query_tag}-{os.getpid()}-{next(_numbers)}"
    future: Future[T] = Future()
    turn = _turn(engine)
    turn.acquire()  # given back by the worker: a query that cannot be stopped keeps its connection
    worker = threading.Thread(
        target=contextvars.copy_context().run,
        args=(_work, future, turn, lambda: _prepared(engine, work, cost, what, group, read_only)),
        name=f"expnb query {group}",
        daemon=True,
    )
    try:
        worker.start()
    except BaseException:
        turn.release()
        raise
    failure: Exception
    try:
        return _watch(engine, future, begin, cost, what)
    except KeyboardInterrupt:
        _stop(engine, future, group)
        raise
    except QueryTooLongError:
        _stop(engine, future, group)
        raise
    except ExpnbError:
        raise
    except Exception as error:  # noqa: BLE001 - engines have no common error
        failure = error
    late = cost.max_seconds is not None and time.monotonic() - begin > cost.max_seconds
    if late and cost.max_seconds is not None:  # the server was faster than we
        raise QueryTooLongError(what or "a query", cost.max_seconds) from _clean(failure, secrets_of(engine))
    raise unreadable(failure, engine) from _clean(failure, secrets_of(engine))


def unreadable(error: Exception, engine: Engine | None = None, secrets: tuple[str, ...] = ()) -> SourceError:
    """The first line of an engine's complaint, as a sentence of ours and without credentials."""
    secrets = secrets or secrets_of(engine)
    words = first_line(error)
    if type(error).__name__ == "OperationNotDefinedError":
        found = re.search(r"'(\w+)' operation|\.(\w+)'>|rule for (\w+)", words)
        operation = next(filter(None, found.groups()), words) if found else words
        backend = BACKENDS.get(engine.name, engine.name) if engine else "the engine of the data"
        return SourceError(
            f"{backend} has no operation {operation}, which the query needs. Compute it in a query of your own (sql), or export the rows to parquet and name that file."
        )
    return explained(str(error), secrets) or SourceError(
        f"the data cannot be read: {mask(words, secrets).rstrip('.')}. Check the file or the query."
    )


# What DuckDB says, and what it means: the parts of the pattern fill the sentence, which goes on after "column 'x' holds 'y'" where there is a value.
EXPLAINED = (
    (
        r"CSV Error on Line: (?P<line>\d+)\n.*Error when converting column \"(?P<column>.*?)\"\. Could not convert string \"(?P<value>.*?)\" to '(?P<kind>\w+)'.*\n  file = (?P<file>[^\n]*)",
        " in line {line} of {file!r}, and the lines that were looked at first hold {kind}. Correct such values or leave them empty where the file is made, or read the file as a frame and convert the column.",
    ),
    (
        r"CSV Error on Line: (?P<line>\d+)\n.*Expected Number of Columns: .*\n  file = (?P<file>[^\n]*)",
        "line {line} of {file!r} has more or fewer values than the file has columns. Quote texts that hold the separator, or write parquet.",
    ),
    (
        r"CSV Error on Line: (?P<line>\d+)\n.*Invalid unicode.*\n  file = (?P<file>[^\n]*)",
        "{file!r} is not written in UTF-8. Save it in UTF-8, or as parquet.",
    ),
    (
        r"Error when sniffing file \"(?P<file>[^\"]*)\"",
        "{file!r} cannot be read as CSV: its lines have unlike numbers of values, or unusual separators or quotes. Quote texts that hold the separator, or write parquet.",
    ),
    (
        r"column \"(?P<column>.*?)\" was read from the original file \"(?P<first>.*?)\", but could not be found in file \"(?P<file>.*?)\"",
        "{file!r} has no column {column!r}, and {first!r} has one. Give all files the same columns, or narrow the pattern.",
    ),
    (
        r"Main file schema: (?P<first>[^\n]*)\nCurrent file: (?P<file>[^\n]*)\nColumn with name: \"(?P<column>[^\n]*)\" is missing",
        "{file!r} has no column {column!r}, and {first!r} has one. Give all files the same columns, or narrow the pattern.",
    ),
    (
        r"Error while reading file \"(?P<file>.*?)\": failed to cast column \"(?P<column>.*?)\" from type (?P<found>[^\n]*?) to (?P<kind>[^\n]*?): .*?Could not convert string '(?P<value>[^\n]*?)' to",
        " ({found}) in {file!r}, and {kind} in the first file. Give it one type in all files.",
    ),
    (
        r"Could not convert string '(?P<value>[^\n]*?)' to (?P<kind>\w+) when casting from source column (?P<column>[^\n]*)",
        ", which is no {kind}. Write TRY_CAST for CAST to leave such values empty, or correct them where the data is made.",
    ),
    (
        r"invalid (?P<kind>timestamp|date) field format: \"(?P<value>[^\n]*?)\", expected format is .* when casting from source column (?P<column>[^\n]*)",
        ", which is no {kind}. Write TRY_CAST for CAST to leave such values empty, or correct them where the data is made.",
    ),
)
MOST_SIGNS = 40  # of a value that is shown


def explained(text: str, secrets: tuple[str, ...] = ()) -> SourceError | None:
    """A complaint of DuckDB in a sentence of ours; None where it is another one."""
    for pattern, sentence in EXPLAINED:
        found = re.search(pattern, mask(text, secrets), re.DOTALL)
        if found:
            parts = found.groupdict()
            words = sentence.format(**parts)
            if "value" in parts:
                return ColumnValueError(parts["column"], shortened(parts["value"]), words)
            return SourceError(words)
    return None


def shortened(value: str) -> str:
    """A value as an error shows it."""
    return f"{value[:MOST_SIGNS]}…" if len(value) > MOST_SIGNS else value


def first_line(error: BaseException) -> str:
    """The first line of an error's text, the one of Java where it comes from there."""
    java = getattr(error, "java_exception", None)
    text = str(error).strip()
    if java is not None:
        with suppress(Exception):  # the JVM may be gone
            text = str(java.toString()).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__


def mask(text: str, secrets: tuple[str, ...] = ()) -> str:
    """A text without passwords: those that are known, and what looks like one."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return IN_A_TEXT.sub(r"\1***", IN_A_URL.sub(r"\1***@", text))


def secrets_of(engine: object) -> tuple[str, ...]:
    """What an engine was given as password, token or key."""
    given = getattr(engine, "_con_kwargs", None) or {}
    return tuple(str(value) for key, value in given.items() if SECRET.search(key) and isinstance(value, str))


def holds_secret(error: BaseException | None, secrets: tuple[str, ...]) -> bool:
    """Whether an error, or one it came from, would show a credential."""
    while error is not None:
        text = f"{error} {error.args}"
        if mask(text, secrets) != text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _clean(error: Exception, secrets: tuple[str, ...]) -> Exception | None:
    """The error itself, as the cause to show; nothing where it holds a credential, or may hold a whole row."""
    return None if explained(str(error)) or holds_secret(error, secrets) else error


def _holds_frame(expr: ir.Expr) -> bool:
    """Whether a query brings rows of its own, which an engine may have to write first."""
    import ibis.expr.operations as ops  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return bool(expr.op().find(ops.InMemoryTable))


def _turn(engine: Engine) -> threading.Lock:
    """The lock of an engine: a DuckDB connection serves one thread at a time."""
    key = id(engine)
    if key not in _turns:
        lock = _turns.setdefault(key, threading.Lock())
        with suppress(TypeError):  # what takes no weak reference lives as long as the process
            weakref.finalize(engine, _turns.pop, key, None)
        return lock
    return _turns[key]


def _work(future: Future[T], turn: threading.Lock, work: Callable[[], T]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
        turn.release()
        future.set_exception(error)
    else:
        turn.release()
        future.set_result(result)


def _watch(engine: Engine, future: Future[T], begin: float, cost: Cost, what: str) -> T:
    limit = cost.max_seconds if cost.max_seconds is not None else float("inf")
    with _bar(engine, what) as show:
        while True:
            seconds = time.monotonic() - begin
            done, _ = wait([future], timeout=max(0.0, min(LOOK_EVERY_SECONDS, limit - seconds)))
            if done:
                return future.result()
            seconds = time.monotonic() - begin
            if seconds > limit:
                raise QueryTooLongError(what or "a query", limit)
            if seconds > BAR_AFTER_SECONDS:
                show(seconds)


# --- one engine and another ------------------------------------------------------------------


def _prepared(engine: Engine, work: Callable[[], T], cost: Cost, what: str, group: str, read_only: bool) -> T:  # noqa: FBT001
    """Do the work under the name and limit that the engine can be given."""
    if id(engine) in _tuned:
        return _in_little_memory(engine, work)
    if engine.name == "postgres":
        return _in_postgres(engine, work, cost, read_only=read_only)
    if engine.name == "pyspark":
        return _in_spark(engine, work, f"{cost.query_tag}: {what}" if what else cost.query_tag, group)
    return work()


def _read(engine: Engine, expr: ir.Expr) -> pa.Table:
    return engine.to_pyarrow(expr)


def _read_spark(engine: Engine, expr: ir.Expr) -> pa.Table:
    """The result without pandas in between, which Spark 4 can."""
    frame = cast("Any", engine)._session.sql(engine.compile(expr))  # noqa: SLF001 - Ibis has no other way to it
    if not hasattr(frame, "toArrow"):
        return engine.to_pyarrow(expr)
    from ibis.formats.pyarrow import PyArrowData  # noqa: PLC0415 - only for Spark

    table = PyArrowData.convert_table(frame.toArrow(), expr.as_table().schema())
    return expr.__pyarrow_result__(table)


def _in_spark(engine: Engine, work: Callable[[], T], words: str, group: str) -> T:
    session = cast("Any", engine)._session  # noqa: SLF001 - Ibis has no other way to it
    if _is_connect(session):
        session.addTag(group)
        return work()
    from pyspark import InheritableThread  # noqa: PLC0415 - only for Spark

    with suppress(Exception):  # without it a query only cannot be stopped
        session.sparkContext.setJobGroup(group, words, interruptOnCancel=True)
    try:
        return work()
    finally:
        with suppress(Exception):  # a thread of ours has a socket to the JVM of its own
            cast("Any", InheritableThread)._clean_py4j_conn_for_current_thread()  # noqa: SLF001


def _in_little_memory(engine: Engine, work: Callable[[], T]) -> T:
    """Do the work in little memory; with most of the machine's where a step of it cannot spill to disk."""
    import duckdb  # noqa: PLC0415 - 0.2 s, only when rows are needed

    con = cast("Any", engine).con
    try:
        return work()
    except duckdb.OutOfMemoryException:
        con.execute(f"SET memory_limit = '{machine_mb() * 4 // 5}MB'")
    try:
        return work()
    finally:
        with suppress(duckdb.Error):  # it may still hold more than that, which the next query frees
            con.execute(f"SET memory_limit = '{memory_mb()}MB'")


def _in_postgres(engine: Engine, work: Callable[[], T], cost: Cost, *, read_only: bool) -> T:
    con = cast("Any", engine).con
    wanted = {"application_name": cost.query_tag[:63]}
    if cost.max_seconds is not None:  # one second later than we: it ends the query if this process is gone
        wanted["statement_timeout"] = str(int(1000 * (cost.max_seconds + 1)))
    if read_only:
        wanted["default_transaction_read_only"] = "on"
    before = {}
    for name, value in wanted.items():
        before[name] = con.execute("SELECT current_setting(%s)", (name,)).fetchone()[0]
        con.execute("SELECT set_config(%s, %s, false)", (name, value))
    try:
        return work()
    finally:
        with suppress(Exception):  # the connection may be gone
            for name, value in before.items():
                con.execute("SELECT set_config(%s, %s, false)", (name, value))


def _stop(engine: Engine, future: Future[T], group: str) -> None:
    """Stop a query where it runs, and wait until it is over."""
    end = time.monotonic() + STOP_WITHIN_SECONDS
    while not future.done() and time.monotonic() < end:
        with suppress(Exception):  # it may be over by now
            if not _cancel(cast("Any", engine), group):
                return
        wait([future], timeout=LOOK_EVERY_SECONDS)


def _cancel(engine: Any, group: str) -> bool:  # noqa: ANN401 - backends share no such method
    """Whether the engine could be told to stop."""
    if engine.name == "duckdb":
        engine.con.interrupt()
    elif engine.name == "postgres":
        engine.con.cancel_safe(timeout=5)
    elif engine.name == "pyspark":
        session = engine._session  # noqa: SLF001 - Ibis has no other way to it
        if _is_connect(session):
            session.interruptTag(group)
        else:
            session.sparkContext.cancelJobGroup(group)
    else:
        return False
    return True


def _is_connect(session: object) -> bool:
    return ".connect." in type(session).__module__


def tune(engine: Engine, timezone: str) -> None:
    """Settings of a DuckDB connection: days in a zone, right answers about NaN, little memory, spilling."""
    con = cast("Any", engine).con
    # Times with a zone become days in the session's zone; parquet statistics exclude NaN and would prune rows wrongly.
    con.execute(f"SET TimeZone = {_quoted(timezone)}")
    con.execute("SET disabled_optimizers = 'statistics_propagation,filter_pushdown'")
    con.execute("SET preserve_insertion_order = false")
    con.execute(f"SET memory_limit = '{memory_mb()}MB'")
    con.execute(f"SET temp_directory = {_quoted(_spill_folder())}")
    # Known, not drawn: DuckDB's own bar would write into the notebook.
    con.execute("SET enable_progress_bar = true")
    con.execute("SET enable_progress_bar_print = false")
    _tuned.add(id(engine))
    weakref.finalize(engine, _tuned.discard, id(engine))


def memory_mb() -> int:
    """What DuckDB may hold before it spills."""
    return min(MOST_MEMORY_MB, machine_mb() // 2)


def machine_mb() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


@cache
def _spill_folder() -> str:
    """A folder of this process that goes with it."""
    import atexit  # noqa: PLC0415 - only for DuckDB
    import shutil  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    folder = tempfile.mkdtemp(prefix="expnb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- the bar ---------------------------------------------------------------------------------


@contextmanager
def _bar(engine: Engine, what: str) -> Iterator[Callable[[float], None]]:
    """A function that shows how far a query is; the bar appears at its first call and leaves with the query."""
    bars: list[Any] = []

    def show(seconds: float) -> None:
        if not bars:
            from tqdm.auto import tqdm  # noqa: PLC0415 - only for a query that takes long

            bars.append(tqdm(total=100, desc=what or "reading", leave=False, bar_format="{desc} {bar} {postfix}"))
        percent = progress(engine)
        bars[0].n = percent or 0
        bars[0].set_postfix_str(f"{percent:.0f} %, {seconds:.0f} s" if percent else f"{seconds:.0f} s")

    try:
        yield show if can_draw() else lambda _: None
    finally:
        for bar in bars:
            bar.close()


def progress(engine: Engine) -> float | None:
    """Percent of the query that is done, where the engine knows."""
    if engine.name != "duckdb":
        return None
    with suppress(Exception):
        percent = float(cast("Any", engine).con.query_progress())
        return percent if 0 < percent <= 100 else None
    return None


def can_draw() -> bool:
    """Whether somebody looks: a terminal, or a notebook that is not made for paper."""
    if os.environ.get("EXPNB_STATIC"):
        return False
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return sys.stderr.isatty() or (shell is not None and type(shell).__name__ == "ZMQInteractiveShell")

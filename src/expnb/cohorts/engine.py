"""What runs queries, and how one is asked: it can be watched, stopped and named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from expnb.errors import SourceError
from expnb.spec.experiment import Cost

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

NO_LIMIT = Cost()


class Engine(Protocol):
    """What runs a query: an Ibis backend."""

    name: str

    def to_pyarrow(self, expr: ir.Expr) -> pa.Table:
        """The result of a query."""


def ask(engine: Engine, expr: ir.Expr, *, cost: Cost = NO_LIMIT, what: str = "") -> pa.Table:  # noqa: ARG001
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

"""Connections: rows that stay in a warehouse."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class Warehouse:
    """A table or a query in a warehouse.

    Parameters
    ----------
    connection : str
        Name of an environment variable that holds a URL, or a URL.
    table, sql : str
        What to read; one of the two.
    """

    connection: str
    table: str = ""
    sql: str = ""

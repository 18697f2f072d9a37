"""Row-level cohorts rebuilt from published frequency tables.

The tables hold facts only: how many units of each arm had which outcomes. Rows come back in the order of the table; ids are made up.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def cookie_cats() -> pd.DataFrame:
    """The Cookie Cats gate test: 90,189 players, first gate at level 30 or 40.

    Returns
    -------
    DataFrame, 90,189 rows
        ``userid`` (made up), ``version``, ``retention_1`` and ``retention_7`` (0 or 1).

    References
    ----------
    .. [1] Tactile Entertainment, Cookie Cats; made public in a DataCamp course by R. Baath (2017). Counts of version x retention.
    """
    rows = _rebuild("cookie_cats.csv")
    rows.insert(0, "userid", range(1, len(rows) + 1))
    return rows


def hillstrom() -> pd.DataFrame:
    """The MineThatData e-mail test: 64,000 customers, no e-mail, men's or women's e-mail.

    Returns
    -------
    DataFrame, 64,000 rows
        ``segment`` (the arm), ``visit`` and ``conversion`` (0 or 1), ``spend`` (USD over two weeks). There is no id: each row is a customer.

    References
    ----------
    .. [1] K. Hillstrom (2008), The MineThatData E-Mail Analytics And Data Mining Challenge. Counts of arm x outcomes.
    """
    return _rebuild("hillstrom.csv")


def _rebuild(name: str) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - 1.5 s, only when rows are needed

    with files("expnb.datasets").joinpath(name).open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    return table.loc[table.index.repeat(table.pop("units"))].reset_index(drop=True)

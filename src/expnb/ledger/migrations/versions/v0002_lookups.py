"""Look-ups by kind, experiment and flag read only what they return.

The names are read from the body by the database itself, so an index cannot say something else than the entry. A body that is damaged has none.
"""

from __future__ import annotations

revision = "0002"
down_revision = "0001"

STATEMENTS = {
    "sqlite": (
        "CREATE INDEX ledger_kind ON ledger (kind)",
        "CREATE INDEX ledger_experiment ON ledger ((CASE WHEN typeof(body) = 'text' AND json_valid(body) THEN json_extract(body, '$.experiment') END), kind)",
        "CREATE INDEX ledger_flag ON ledger ((CASE WHEN typeof(body) = 'text' AND json_valid(body) THEN json_extract(body, '$.flag') END), kind)",
    ),
    # jsonb knows no zero character; for the look-up a blank stands in its place.
    "postgresql": (
        "CREATE INDEX ledger_kind ON ledger (kind, seq)",
        r"CREATE INDEX ledger_experiment ON ledger ((replace(body, '\u0000', '\u0020')::jsonb ->> 'experiment'), kind, seq)",
        r"CREATE INDEX ledger_flag ON ledger ((replace(body, '\u0000', '\u0020')::jsonb ->> 'flag'), kind, seq)",
    ),
}


def upgrade() -> None:
    """Run by Alembic."""
    from alembic import op  # noqa: PLC0415 - 1 s, and a new ledger is made without it

    for statement in STATEMENTS[op.get_bind().dialect.name]:
        op.get_bind().exec_driver_sql(statement)

"""The schema of an open ledger: made, known, and brought up to date.

Alembic takes a second to load. So it is asked only where an older ledger has to be brought up to date: a new one runs the same statements without it, and the version of any is one plain select.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from expnb.errors import LedgerError
from expnb.ledger.migrations.versions import v0001_table, v0002_lookups

VERSION_TABLE: Final = "ledger_version"  # of its own: Alembic's usual one may belong to another program
STEPS: Final = (v0001_table, v0002_lookups)
OLDEST, NEWEST = STEPS[0].revision, STEPS[-1].revision


def make_schema(connection: Connection) -> None:
    """The newest schema, in a database that has none."""
    for step in STEPS:
        for statement in step.STATEMENTS[connection.dialect.name]:
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql(
        f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
    )
    connection.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('{NEWEST}')")  # noqa: S608 - names of ours


def bring_up_to_date(connection: Connection, *, has_version: bool) -> None:
    """Bring the schema of a ledger to the newest version, in the transaction of `connection`; entries stay as they are.

    Parameters
    ----------
    has_version : bool
        Whether the version table is there; a ledger without it is of the oldest version.

    Raises
    ------
    LedgerError
        If a newer expnb has changed the schema.
    """
    version = _version(connection) if has_version else ""
    if version == NEWEST:
        return
    if version and version not in {step.revision for step in STEPS}:
        raise LedgerError(
            f"the ledger has the schema {version!r} of a newer expnb; this one knows up to {NEWEST!r} and only reads it. Nothing was recorded. Update expnb."
        )
    _migrate(connection, version)


def _version(connection: Connection) -> str:
    found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()  # noqa: S608 - a name of ours
    return str(found[0]) if found else ""


def _migrate(connection: Connection, version: str) -> None:
    from alembic.operations import Operations  # noqa: PLC0415 - 1 s, only where an older ledger is met
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    script = ScriptDirectory(str(Path(__file__).parent))
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    if not version:
        context.stamp(script, OLDEST)
    with Operations.context(context):
        for step in reversed(list(script.iterate_revisions(NEWEST, version or OLDEST))):
            step.module.upgrade()
            context.stamp(script, step.revision)
